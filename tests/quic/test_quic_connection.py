from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
from aioquic import tls
from aioquic.buffer import encode_uint_var
from quic_world import DELAY, SERVER, START, SimClient, World, trust

from lanparty.obs.log import captured
from lanparty.quic.connection import Closed, ConnectionLost, UdpPath
from lanparty.quic.internals import Quic, client_configuration, short_reason
from lanparty.quic.settings import CONTROL_WINDOW, GOODBYES, IDLE_TIMEOUT, QUEUE_AGE, QUEUE_BYTES, SEND_BUFFER
from lanparty.quic.trust import DEV_SERVER_NAME

CLIENT = ("192.0.2.1", 5000)


def quic_of(world: World) -> Quic:
    return world.clients[CLIENT].quic


def in_short_header(quic: Quic, frames: bytes) -> bytes:
    """A 1-RTT packet of ``quic`` with any frames, well sealed: what a hostile but admitted peer can send."""
    crypto = quic._cryptos[tls.Epoch.ONE_RTT]
    number = quic._packet_number
    quic._packet_number += 1
    header = bytes([0x41 | crypto.key_phase << 2]) + quic._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
    return crypto.encrypt_packet(header, frames.ljust(4, b"\0"), number)


def test_datagrams_come_in_one_batch_both_ways():
    world = World()
    client, server = world.pair()
    client.send_datagrams([b"a", b"b", b"c"])
    client.flush()
    server.send_datagrams([b"d", b"e"])
    server.flush()
    world.run(0.1)
    assert world.received == [b"a", b"b", b"c"]
    assert world.clients[CLIENT].received == [b"d", b"e"]
    assert world.clients[CLIENT].batches == 1
    assert (client.counters.datagrams_out, server.counters.datagrams_in) == (3, 3)
    assert (client.counters.datagram_bytes_in, server.counters.datagram_bytes_out) == (2, 2)


def test_1170_bytes_pass_1171_are_refused_and_later_ones_flow():
    world = World()
    client, _server = world.pair()
    assert client.datagram_budget == 1170
    client.send_datagrams([bytes(1170), bytes(1171), b"later"])
    client.flush()
    world.run(0.1)
    assert [len(datagram) for datagram in world.received] == [1170, 5]
    assert client.counters.oversize_dropped == 1


def test_budget_shrinks_with_a_longer_connection_id_of_the_peer():
    world = World()
    client, _server = world.pair()
    quic_of(world)._peer_cid.cid = bytes(20)
    assert client.datagram_budget == 1158
    client.send_datagrams([bytes(1158)])
    client.flush()
    assert client.counters.datagrams_out == 1


@pytest.mark.parametrize(("limit", "budget"), [(65535, 1170), (1173, 1170), (1172, 1169), (100, 97), (50, 48), (0, 0)])
def test_budget_heeds_the_peers_limit(limit, budget):
    world = World()
    client, _server = world.pair()
    quic_of(world)._remote_max_datagram_frame_size = limit
    assert client.datagram_budget == budget


def test_peer_with_a_small_limit_gets_no_more_than_it_takes():
    world = World()
    client = world.client(connect=False)
    client.quic._configuration.max_datagram_frame_size = 103
    client.connect()
    world.run(0.5)
    server = world.accepted[0]
    assert server.datagram_budget == 100
    server.send_datagrams([bytes(101), bytes(100)])
    server.flush()
    world.run(0.5)
    assert [len(datagram) for datagram in client.received] == [100]
    assert client.connection.closed is None


def test_nothing_is_queued_before_the_handshake():
    world = World()
    client = world.client()
    client.connection.send_datagrams([b"early"] * 10)
    assert client.connection.datagram_budget == 0
    assert client.connection.queue_length == 0
    assert client.connection.counters.not_connected_dropped == 10
    assert not client.quic._datagrams_pending


def test_nothing_is_queued_after_close():
    world = World()
    client, _server = world.pair()
    client.send_datagrams([bytes(1000)] * 100)
    client.close()
    client.send_datagrams([b"late"] * 10)
    client.flush()
    assert client.queue_length == client.queue_bytes == 0
    assert client.counters.not_connected_dropped == 10
    assert not quic_of(world)._datagrams_pending


def test_black_hole_queue_stays_bounded_and_nothing_old_comes_out():
    hole = [False]
    world = World(link=lambda seen: () if hole[0] else (DELAY,))
    client, _server = world.pair()
    hole[0] = True
    for _ in range(200):  # 2 s at 64 x 1100 bytes per 10 ms
        client.send_datagrams([world.now.hex().encode().ljust(1100)] * 64)
        client.flush()
        assert client.queue_bytes <= QUEUE_BYTES
        assert not quic_of(world)._datagrams_pending
        world.run(0.01)
    hole[0] = False
    world.run(3.0)
    assert client.closed is None
    client.send_datagrams([world.now.hex().encode()])
    client.flush()
    world.run(1.0)
    assert world.arrivals
    for datagram, arrived in world.arrivals:
        assert arrived - float.fromhex(datagram.decode()) <= QUEUE_AGE + DELAY + 0.001
    counters = client.counters
    assert counters.queue_expired + counters.queue_dropped > 5000


def test_control_stream_gets_through_while_datagrams_saturate():
    """A link of 2 Mbit/s with 50 ms of buffer, offered 10 times as much, drops most; control still takes well under 1
    s."""
    free_at = [0.0]

    def link(seen):
        if not seen.from_client:
            return (DELAY,)
        start = max(free_at[0], seen.at)
        if start - seen.at > 0.05:
            return ()
        free_at[0] = start + len(seen.packet) * 8 / 2e6
        return (free_at[0] - seen.at + DELAY,)

    world = World(link=link)
    client, server = world.pair()
    worst, sent_at = 0.0, None
    for step in range(1000):  # 5 s
        client.send_datagrams([bytes(1100)] * 12)
        client.flush()
        if step % 100 == 50:
            quic_of(world).send_stream_data(0, b"heartbeat")
            client.flush()
            sent_at = world.now
        world.run(0.005)
        if sent_at is not None and server._control_in == b"heartbeat":
            worst = max(worst, world.now - sent_at)
            server._control_in.clear()
            sent_at = None
    assert sent_at is None
    assert worst < 0.5
    assert client.counters.queue_dropped + client.counters.queue_expired > 1000


def test_datagrams_saturate_the_link_that_there_is():
    """The queue keeps aioquic busy: on a 10 Mbit/s link at least 85 % of it is used, without a wake-up by us."""
    free_at = [0.0]

    def link(seen):
        if not seen.from_client:
            return (DELAY,)
        start = max(free_at[0], seen.at)
        if start - seen.at > 0.05:
            return ()
        free_at[0] = start + len(seen.packet) * 8 / 10e6
        return (free_at[0] - seen.at + DELAY,)

    world = World(link=link)
    client, _server = world.pair()
    world.run(1.0)
    for _ in range(60):  # one push per 50 ms; timers and ACKs must do the rest
        client.send_datagrams([bytes(1100)] * 100)
        client.flush()
        world.run(0.05)
    assert sum(map(len, world.received)) * 8 / 3.0 > 0.85 * 10e6 * 1100 / 1200


def test_goodbye_is_sent_three_times():
    world = World()
    client, server = world.pair()
    world.run(1.0)
    before = len(world.seen)
    client.close(7, "bye")
    client.close(8, "again")
    assert client.closed == Closed(7, "bye", by_peer=False, timed_out=False)
    world.run(1.0)
    goodbyes = [seen for seen in world.seen[before:] if seen.from_client]
    assert len(goodbyes) == GOODBYES
    assert len({seen.packet for seen in goodbyes}) == 1
    assert server.closed == Closed(7, "bye", by_peer=True, timed_out=False)
    assert client._finished.is_set()


def test_goodbye_survives_two_losses():
    lost = [0]

    def link(seen):
        if lost[0] and seen.from_client:
            lost[0] -= 1
            return ()
        return (DELAY,)

    world = World(link=link)
    client, server = world.pair()
    world.run(1.0)
    lost[0] = 2
    client.close(1, "x")
    world.run(0.1)
    assert server.closed is not None
    assert server.closed.by_peer


def test_what_waits_on_the_control_stream_leaves_before_the_goodbye():
    world = World()
    client, server = world.pair()
    quic_of(world).send_stream_data(0, b"reject")
    client.close(3, "rejected")
    world.run(0.1)
    assert server._control_in == b"reject"
    assert server.closed is not None


def test_idle_connection_ends_on_both_sides_and_frees_the_table():
    hole = [False]
    world = World(link=lambda seen: () if hole[0] else (DELAY,))
    client, server = world.pair()
    hole[0] = True
    world.run(IDLE_TIMEOUT + 2)
    for connection in (client, server):
        assert connection.closed is not None
        assert connection.closed.timed_out
    assert not world.table.connections
    assert not world.table._by_id


def test_datagrams_before_admission_are_dropped_and_counted():
    world = World(admit=False)
    client, server = world.pair()
    client.send_datagrams([b"early"] * 5)
    client.flush()
    world.run(0.1)
    assert world.received == []
    assert server.counters.unadmitted_dropped == 5
    server.admit()
    client.send_datagrams([b"now"])
    client.flush()
    world.run(0.1)
    assert world.received == [b"now"]


def test_datagrams_without_a_handler_are_dropped_and_counted():
    world = World()
    client, server = world.pair()
    server.on_datagrams(None)
    client.send_datagrams([b"x"] * 3)
    client.flush()
    world.run(0.1)
    assert server.counters.other_dropped == {"no-handler": 3}


def test_handlers_send_on_other_connections_and_one_flush_ends_the_batch():
    world = World()
    first = world.client(("192.0.2.1", 1))
    second = world.client(("192.0.2.2", 2))
    world.run(0.5)
    by_port = {connection.remote[1]: connection for connection in world.accepted}
    by_port[1].on_datagrams(lambda batch, _now: by_port[2].send_datagrams(batch))
    first.connection.send_datagrams([b"a", b"b"])
    first.connection.flush()
    world.run(0.1)
    assert second.received == [b"a", b"b"]


@pytest.mark.parametrize("stream_id", [4, 2, 1, 3])
def test_any_other_stream_closes_the_connection(stream_id):
    world = World(admit=False)
    _client, server = world.pair()
    frame = b"\x0a" + encode_uint_var(stream_id) + b"\x01x"
    world.carry(in_short_header(quic_of(world), frame), world.clients[CLIENT], None)
    world.run(0.1)
    assert server.closed is not None
    assert server.closed.transport
    assert not server.closed.by_peer


@pytest.mark.parametrize("frame", [b"\x04\x00\x01\x00", b"\x05\x00\x01"], ids=["RESET_STREAM", "STOP_SENDING"])
def test_breaking_the_control_stream_closes_the_connection(frame):
    world = World()
    _client, server = world.pair()
    world.carry(in_short_header(quic_of(world), frame), world.clients[CLIENT], None)
    world.run(0.1)
    assert server.closed is not None
    assert server.closed.code == 0xA


def test_before_admission_the_control_stream_takes_one_frame_and_no_more():
    world = World(admit=False)
    _client, server = world.pair()
    quic_of(world).send_stream_data(0, bytes(CONTROL_WINDOW + 1000))
    world.clients[CLIENT].connection.flush()
    world.run(2.0)
    assert len(server._control_in) == CONTROL_WINDOW
    assert server.closed is None


async def test_receive_and_send_with_backpressure_both_ways():
    world = World()
    client, server = world.pair()
    data = random.Random(1).randbytes(300_000)
    received = bytearray()

    async def read():
        while len(received) < len(data):
            received.extend(await server.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, data)
        await trio.testing.wait_all_tasks_blocked()
        assert quic_of(world).control_unacknowledged <= SEND_BUFFER + 16 * 1024
        world.run(2.0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(server._control_in) <= CONTROL_WINDOW  # nobody reads: flow control holds
        nursery.start_soon(read)
        for _ in range(100):
            await trio.testing.wait_all_tasks_blocked()
            world.run(0.1)
    assert received == data
    await server.send_all(b"answer")
    world.run(0.1)
    assert await client.receive_some() == b"answer"


async def test_drained_waits_for_the_acknowledgement():
    world = World()
    client, _server = world.pair()
    await client.send_all(b"x")
    with trio.move_on_after(0) as scope:
        await client.drained()
    assert scope.cancelled_caught
    world.run(0.5)
    await client.drained()


async def test_reading_gives_what_came_before_the_end_then_raises():
    world = World()
    client, server = world.pair()
    await client.send_all(b"last words")
    client.close(5, "gone")
    world.run(0.2)
    assert await server.receive_some() == b"last words"
    with pytest.raises(ConnectionLost) as lost:
        await server.receive_some()
    assert lost.value.closed == Closed(5, "gone", by_peer=True, timed_out=False)
    with pytest.raises(ConnectionLost):
        await server.send_all(b"x")
    assert await server.wait_closed() == lost.value.closed


async def test_end_of_stream_reads_as_empty():
    world = World()
    client, server = world.pair()
    quic_of(world).send_stream_data(0, b"all", end_stream=True)
    client.flush()
    world.run(0.1)
    assert await server.receive_some() == b"all"
    assert await server.receive_some() == b""


async def test_a_waiting_reader_and_writer_are_woken_by_the_end():
    world = World()
    _client, server = world.pair()
    lost = []

    async def expect(function, *args):
        with pytest.raises(ConnectionLost) as info:
            await function(*args)
        lost.append(info.value.closed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, server.receive_some)
        nursery.start_soon(expect, server.send_all, b"the client has not opened the stream yet")
        await trio.testing.wait_all_tasks_blocked()
        server.close(2, "enough")
    assert lost == [Closed(2, "enough", by_peer=False, timed_out=False)] * 2


@pytest.mark.parametrize("reason", ["x" * 5000, "\ud800 surrogate", "ä" * 300])
def test_any_reason_can_be_given(reason):
    world = World()
    client, server = world.pair()
    client.close(1, reason)
    world.run(0.1)
    assert server.closed is not None
    assert server.closed.reason == short_reason(reason)
    assert len(server.closed.reason.encode()) <= 200


def test_aioquics_own_long_reason_does_not_raise():
    """A certificate with many names makes aioquic's reason longer than a packet."""
    world = World()
    client, server = world.pair()
    quic_of(world).close(error_code=0x12A, frame_type=6, reason_phrase="y" * 5000)
    client.flush()
    world.run(0.1)
    assert client.closed is not None
    assert server.closed is not None


def test_key_of_the_handshake_is_lanpartys_protocol():
    world = World()
    configuration = client_configuration(DEV_SERVER_NAME, trust())
    configuration.alpn_protocols = ["h3"]
    client = SimClient(world, CLIENT, Quic(configuration=configuration))
    world.clients[CLIENT] = client
    client.connect()
    world.run(1.0)
    assert client.connection.closed is not None
    assert client.connection.closed.code == 0x178
    assert not world.accepted


def test_every_packet_twice_is_delivered_once():
    world = World(link=lambda _seen: (DELAY, DELAY + 0.001))
    client, _server = world.pair()
    for number in range(200):
        client.send_datagrams([number.to_bytes(2, "big")])
        client.flush()
        world.run(0.002)
    world.run(0.2)
    assert len(world.received) == 200
    assert len(world.table.connections) == 1


def test_bursts_of_loss_do_not_stop_the_handshake():
    """Fault 1: 30 % loss in bursts of 3; nearly all of 50 are in within the handshake time, none hangs."""
    rng = random.Random(5)
    burst = [0]

    def link(_seen):
        if burst[0]:
            burst[0] -= 1
            return ()
        if rng.random() < 0.125:
            burst[0] = 2
            return ()
        return (DELAY,)

    world = World(link=link)
    clients = [world.client(("192.0.2.1", port)) for port in range(1, 51)]
    world.run(5.0)
    assert sum(client.connection.established for client in clients) >= 48


def test_time_comes_from_outside():
    world = World()
    client, _server = world.pair()
    assert client.rtt == pytest.approx(2 * DELAY, abs=0.005)
    assert world.now == START + 0.5
    assert client.remote == SERVER


@pytest.mark.parametrize(
    "method", ["receive_untrusted", "next_event", "stock_due", "allowance", "seal", "get_timer", "handle_timer"]
)
def test_a_mistake_in_one_connection_ends_that_one_and_no_other(method, monkeypatch):
    world = World()
    first, second = world.client(("192.0.2.1", 1)), world.client(("192.0.2.2", 2))
    world.run(0.5)
    broken, sound = sorted(world.accepted, key=lambda connection: connection.remote)

    def fail(*_args, **_kwargs):
        raise RuntimeError("a mistake")

    with captured() as events:
        monkeypatch.setattr(broken._quic, method, fail)
        first.connection.send_datagrams([b"x"])
        first.connection.flush()
        broken.send_datagrams([b"y"])
        broken.flush()
        for _ in range(15):  # longer than the idle time-out, for what only a timer calls
            second.connection.send_datagrams([b"still here"])
            second.connection.flush()
            world.run(1)
        broken.flush()
        broken.close()
    assert broken.closed is not None
    assert broken.closed.transport
    assert broken._finished.is_set()
    assert world.table.counters["internal_error"] >= 1
    assert world.table.counters["hostile_input"] == 0
    (event,) = [event for event in events if event["event"] == "program.task-failed"]
    assert "192.0.2.1" in event["message"]
    assert "RuntimeError: a mistake" in event["message"]
    assert "Traceback" in event["traceback"]
    assert sound.closed is None
    assert world.received.count(b"still here") == 15
    assert broken not in world.table.connections


def test_a_mistake_in_closing_does_not_come_out(monkeypatch):
    world = World()
    _client, server = world.pair()

    def fail(*_args, **_kwargs):
        raise RuntimeError("a mistake")

    with captured():
        monkeypatch.setattr(server._quic, "close", fail)
        server.close(1, "enough")
        world.run(1)
    assert server.closed == Closed(1, "enough", by_peer=False, timed_out=False)
    assert server._finished.is_set()
    assert world.table.counters["internal_error"] == 1


def test_mistakes_are_all_counted_and_told_once_in_ten_seconds():
    world = World()
    with captured() as events:
        for _ in range(25):
            world.table.internal_error(UdpPath(("2001:db8::1", 5)), RuntimeError("a mistake"))
            world.now += 1
    assert world.table.counters["internal_error"] == 25
    assert len(events) == 3


@pytest.mark.parametrize(
    ("size", "answered", "most", "alone"),
    [
        (100, True, 0.6, 0.02),  # a game: an ACK for each second packet, in one that leaves anyway
        (1150, True, 1.1, 0.1),  # full ones: whose sender may have a window of two packets waits for each second one
        (100, False, 0.6, 0.6),  # nobody answers: RFC 9000 section 13.2.2
    ],
)
def test_acks_of_small_packets_travel_in_company(size, answered, most, alone):
    world = World()
    client, server = world.pair()
    world.run(1.0)
    server.on_datagrams(lambda datagrams, _now: server.send_datagrams(datagrams) if answered else None)
    counts = Counter[str]()
    quic = client._quic
    on_ranges, take = quic._recovery.on_ranges, quic._take_payloads_untrusted

    def counted(*arguments):
        counts["acks"] += 1
        return on_ranges(*arguments)

    def looked_at(numbers, payloads, now, datagrams):
        counts["alone"] += sum(payload[:1] == b"\x02" for payload in payloads)
        return take(numbers, payloads, now, datagrams)

    quic._recovery.on_ranges, quic._take_payloads_untrusted = counted, looked_at
    for _ in range(100):
        client.send_datagrams([bytes(size)])
        client.flush()
        world.run(0.010)
    world.run(0.1)
    assert 20 <= counts["acks"] <= 100 * most
    assert counts["alone"] <= 100 * alone
    assert quic._recovery.flight.packets == 0
