"""A client that goes on from another address (RFC 9000 section 9), and strangers who pretend to be one."""

from __future__ import annotations

import math
import random

import pytest
from quic_pairs import OURS, pair
from quic_world import DELAY, World

from lanparty.quic.connection import Received, UdpPath

FIRST = ("192.0.2.1", 5000)
SECOND = ("198.51.100.77", 6000)
STRANGER = ("203.0.113.66", 7000)


def move(world, to=SECOND):
    """The client goes on from another address; its old one is gone."""
    ((old, client),) = world.clients.items()
    del world.clients[old]
    client.address = to
    world.clients[to] = client
    client.quic.migrate(world.now)
    client.connection._follow_path(world.now)
    client.connection.flush()
    return client


def chatter(world, client, server, seconds, size=200):
    """Both ends talk, each 10 ms; gives what arrived at the server and at the client."""
    there, here = len(world.received), len(next(iter(world.clients.values())).received)
    steps = round(seconds * 100)
    for step in range(steps):
        for side in (client, server):
            side.send_datagrams([step.to_bytes(4, "big") + bytes(size)])
            side.flush()
        world.run(0.01)
    world.run(0.1)
    return len(world.received) - there, len(next(iter(world.clients.values())).received) - here


def test_the_connection_goes_on_from_another_address():
    world = World(max_payload=1472)
    client, server = world.pair()
    world.run(2)
    before = client.datagram_budget
    assert before > 1400
    used = client._quic._peer_cid.cid
    began = world.now
    sim = move(world)
    client.send_datagrams([b"from there"])
    client.flush()
    world.run(DELAY + 0.001)
    assert world.received[-1] == b"from there"
    assert server.remote == SECOND
    assert client._quic._peer_cid.cid != used  # RFC 9000 section 9.5
    world.run(2 * DELAY)
    assert server._quic.batched, "validated a round trip later"
    world.run(0.02)
    assert sim.quic.path_proven
    assert chatter(world, client, server, 1.0) == (100, 100)
    assert client.datagram_budget == server.datagram_budget == before
    assert len(world.accepted) == 1
    assert world.now - began < 2


def test_what_was_learnt_of_the_old_path_is_not_believed_of_the_new_one():
    """A faster path of 1472 bytes to a slower one of 1300: round trip, size and window are found again."""
    delays = {False: 0.005, True: 0.080}
    moved = False
    world = World(max_payload=1472, link=lambda seen: () if moved and len(seen.packet) > 1300 else (delays[moved],))
    client, server = world.pair()
    chatter(world, client, server, 2.0, size=1000)
    assert client.rtt < 0.02
    moved = True
    move(world)
    assert client.rtt is None
    assert client.datagram_budget == 1170
    world.run(0.5)
    assert chatter(world, client, server, 8.0, size=1000) == (800, 800)
    for side in (client, server):
        assert side.rtt == pytest.approx(0.16, rel=0.2)
        assert 1200 < side._quic.mtu.size <= 1300
        assert side._quic.control.base == pytest.approx(0.16, rel=0.1)


def test_control_data_on_its_way_is_sent_again_at_once():
    """Not after a time-out of the old path: what was out is given up."""
    world = World()
    client, server = world.pair()
    client._quic.send_stream_data(0, b"before")
    client.flush()
    world.run(1)
    gone = True
    world.link = lambda seen: () if gone else (DELAY,)
    client._quic.send_stream_data(0, b"while it was gone")
    server._quic.send_stream_data(0, b"and back")
    client.flush()
    server.flush()
    world.run(0.01)
    gone = False
    move(world)
    world.run(4 * DELAY + 0.005)
    assert bytes(server._control_in) == b"beforewhile it was gone"
    world.run(3 * DELAY)
    assert bytes(client._control_in) == b"and back"


def test_the_first_packets_from_the_new_address_may_be_lost():
    world = World()
    client, server = world.pair()
    world.run(1)
    lost = iter([True] * 3)
    world.link = lambda seen: () if seen.from_client and next(lost, False) else (DELAY,)
    sim = move(world)
    world.run(1.8)
    assert sim.quic.path_proven
    assert server.remote == SECOND
    assert chatter(world, client, server, 0.5) == (50, 50)


def test_another_port_costs_a_round_trip_of_what_comes_down_and_no_more():
    """What went to the old port is given up as soon as the new one is proven: it would fill the window for longer."""
    world = World(max_payload=1472, link=lambda seen: (0.040,))
    client, server = world.pair()
    chatter(world, client, server, 3.0, size=600)
    size, rtt, window = server.datagram_budget, server.rtt, server._quic.control.window
    ((old, sim),) = world.clients.items()
    del world.clients[old]
    sim.address = (old[0], 6001)
    world.clients[sim.address] = sim
    there, here = chatter(world, client, server, 2.0, size=600)
    assert there == 200
    assert here >= 200 - 4 - 8 - 2, "what was on its way, what left till the relay heard of it, and two for luck"
    assert server.datagram_budget == size
    assert server.rtt == pytest.approx(rtt, rel=0.1)
    assert server._quic.control.window >= 0.7 * window


@pytest.mark.parametrize("seed", range(4))
def test_a_life_of_moves_leaves_nothing_behind(seed):
    """40 moves under loss, jitter and traffic: every packet has its one verdict, ids and paths do not pile up."""
    chance = random.Random(seed)
    with pair((OURS, OURS)) as made:
        world, client, server = made.world, made.world.clients, made.server
        world.link = lambda seen: () if chance.random() < 0.03 else (DELAY + chance.random() * 0.004,)
        connection = next(iter(client.values())).connection
        for number in range(40):
            move(world, (f"203.0.113.{number + 1}", 5000 + number))
            for _ in range(chance.randrange(5, 40)):
                connection.send_datagrams([bytes(100)])
                server.send([bytes(100)])
                connection.flush()
                world.run(0.02)
            made.check_alike()
        assert connection.closed is None
        assert server.closed is None
        quic = server.quic
        assert len(quic._network_paths) <= 8
        assert len(server.connection.connection_ids) <= 10
        assert len(quic._host_cids) == len(connection._quic._host_cids) == 8
        world.link = lambda seen: (DELAY,)
        world.run(3)
        for end in made.ends:
            assert end.quic.batched
            assert end.quic._recovery.flight.packets == 0


# -- strangers ---------------------------------------------------------------------------------------------------------


def replayed(world, packets, source=STRANGER):
    world.table.receive_untrusted([Received(UdpPath(source), list(packets))], world.now)


def sent_to(world, address):
    return sum(len(seen.packet) for seen in world.seen if not seen.from_client and seen.to == address)


def test_copies_from_another_address_move_nothing():
    """Whoever records packets and sends them again, from anywhere, is not heard and not answered."""
    world = World()
    client, server = world.pair()
    world.run(1)
    recorded = []
    for _ in range(20):
        mark = len(world.seen)
        assert chatter(world, client, server, 0.1) == (10, 10)
        recorded += [seen.packet for seen in world.seen[mark:] if seen.from_client]
        replayed(world, recorded)
    assert len(recorded) > 200
    assert server.remote == FIRST
    assert sent_to(world, STRANGER) == 0
    assert server._quic._recovery.rtt == pytest.approx(2 * DELAY, rel=0.2)


def test_a_packet_that_a_stranger_brings_first_costs_no_more_than_till_the_next_one():
    """Somebody on the way who is faster than the path itself: the relay believes it (RFC 9000 section 9.3 says it
    must), for one packet of the client's, sends it three bytes for one at most, and forgets nothing."""
    stolen = []
    steal = False

    def link(seen):
        nonlocal steal
        if steal and seen.from_client and len(seen.packet) < 400:
            steal = False
            stolen.append(seen.packet)
            return ()
        return (DELAY,)

    world = World(max_payload=1472, link=link)
    client, server = world.pair()
    chatter(world, client, server, 2.0)
    budget, rtt = server.datagram_budget, server.rtt
    lost = 0
    for round_ in range(10):
        steal = True
        client.send_datagrams([b"stolen %d" % round_])
        client.flush()
        assert stolen, "nothing was stolen"
        replayed(world, [stolen.pop()])
        assert server.remote == STRANGER
        there, here = chatter(world, client, server, 0.5)
        assert there == 50
        lost += 50 - here
        assert server.remote == FIRST
        assert server.datagram_budget == budget
        assert server.rtt == pytest.approx(rtt, rel=0.3)
    assert lost <= 10 * 3, "a round trip's worth each"
    assert sent_to(world, STRANGER) <= 3 * 10 * 400


def test_a_stranger_who_is_answered_by_nobody_is_given_up_by_time_alone():
    """The client says nothing meanwhile: the relay goes back to the address that it knows."""
    stolen = []
    world = World(link=lambda seen: (DELAY,))
    client, server = world.pair()
    chatter(world, client, server, 1.0)
    world.link = lambda seen: () if seen.from_client and not stolen.append(seen.packet) else (DELAY,)
    client.send_datagrams([b"stolen"])
    client.flush()
    replayed(world, stolen[:1])
    assert server.remote == STRANGER
    world.link = lambda seen: () if seen.to == STRANGER else (DELAY,)
    world.run(1.0)
    assert server.remote == FIRST
    assert sent_to(world, STRANGER) <= 3 * len(stolen[0])
    assert server.closed is None


def test_a_crowd_of_strangers_never_pushes_the_clients_own_address_out():
    """aioquic keeps eight paths: 100 invented ones later the validated one is still there."""
    world = World()
    client, server = world.pair()
    chatter(world, client, server, 0.5)
    stolen = []
    for number in range(100):
        world.link = lambda seen: () if seen.from_client and not stolen.append(seen.packet) else (DELAY,)
        client.send_datagrams([b"x"])
        client.flush()
        world.link = lambda seen: (DELAY,)
        replayed(world, stolen[-1:], ("203.0.113.9", 1000 + number))
        assert len(server._quic._network_paths) <= 8
    there, here = chatter(world, client, server, 1.0)
    assert server.remote == FIRST
    assert there == 100
    assert here >= 97
    assert math.isfinite(server._quic.idle_deadline)
