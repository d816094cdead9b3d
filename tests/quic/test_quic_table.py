from __future__ import annotations

import random
import tracemalloc

import pytest
from aioquic.buffer import encode_uint_var
from quic_packets import client_hello_frame, initial
from quic_world import DELAY, SERVER, START, World
from test_quic_connection import CLIENT, in_short_header

from lanparty.quic import table as table_module
from lanparty.quic.connection import UdpPath
from lanparty.quic.engine import Received
from lanparty.quic.internals import parse_header_untrusted
from lanparty.quic.table import EndpointLimits, address_key

PRESSURE = EndpointLimits().retry_above


def strangers(world: World, count: int, start: int = 0) -> None:
    """Initials that open the handshake and never go on, each from an address of its own."""
    hello = client_hello_frame()
    for number in range(start, start + count):
        path = UdpPath((f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 1000))
        world.table.receive_untrusted([Received(path, [initial(hello, number.to_bytes(8, "big"))])], world.now)


def sent_by_server(world: World) -> list[bytes]:
    return [seen.packet for seen in world.seen if not seen.from_client]


def test_thousand_half_open_connections_are_capped_and_freed_after_the_deadline():
    world = World()
    strangers(world, 1000)
    assert world.table.half_open == PRESSURE
    assert world.table.counters["retries"] == 1000 - PRESSURE
    world.run(5.1)
    assert world.table.half_open == 0
    assert not world.table.connections
    assert not world.table._by_id
    assert not world.table._per_address
    assert world.table.counters["handshake_timeouts"] == PRESSURE


def test_half_open_cap_holds_against_proven_addresses_too():
    world = World(EndpointLimits(half_open=10, retry_above=5))
    hello = client_hello_frame()
    for number in range(50):
        path = UdpPath((f"10.0.0.{number}", 1000))
        token = world.table._tokens.make(path.remote, b"original", number.to_bytes(8, "big"), world.now)
        packet = initial(hello, number.to_bytes(8, "big"), token=token)
        world.table.receive_untrusted([Received(path, [packet])], world.now)
    assert world.table.half_open == 10
    assert world.table.counters["dropped_half_open"] == 40


def proven(world: World, count: int, host: str, start: int = 0) -> None:
    """Initials with good tokens that open the handshake and never go on, all from one address."""
    hello = client_hello_frame()
    for number in range(start, start + count):
        path = UdpPath((host, 1000 + number))
        token = world.table._tokens.make(path.remote, b"original", number.to_bytes(8, "big"), world.now)
        packet = initial(hello, number.to_bytes(8, "big"), token=token)
        world.table.receive_untrusted([Received(path, [packet])], world.now)


def test_one_proven_address_cannot_use_up_the_half_open_connections():
    world = World(EndpointLimits(half_open_per_address=10))
    proven(world, 100, "10.0.0.1")
    assert world.table.half_open == 10
    assert world.table.counters["dropped_half_open"] == 90
    proven(world, 5, "10.0.0.2", start=1000)
    assert world.table.half_open == 15
    world.run(5.1)
    assert world.table.half_open == 0
    assert not world.table._proven_half_open
    proven(world, 1, "10.0.0.1", start=2000)
    assert world.table.half_open == 1


def test_one_address_gets_so_many_handshakes_a_second_and_others_theirs():
    world = World(EndpointLimits(handshakes_at_once=5, handshakes_per_second=2))
    for port in range(20):
        client = world.client(("192.0.2.1", port))
        world.run(0.05)
        client.connection.close()
    world.run(0.5)
    assert world.table.counters["handshakes"] in (5, 6, 7, 8)  # 2 more each second
    assert world.table.counters["retries"] > 0
    assert world.table.counters["dropped_too_often"] > 0
    other = world.client(("192.0.2.2", 1))
    world.run(0.1)
    assert other.connection.established
    world.run(20.0)
    again = world.client(("192.0.2.1", 1000))
    world.run(0.1)
    assert again.connection.established
    assert set(world.table._arrivals) == {"192.0.2.1"}  # the other one's budget is whole again


def test_a_player_behind_a_busy_address_gets_in_a_little_later():
    world = World(EndpointLimits(handshakes_at_once=1, handshakes_per_second=1))
    clients = [world.client(("192.0.2.1", port)) for port in range(3)]
    world.run(5.0)
    assert all(client.connection.established for client in clients)


def test_addresses_that_came_are_remembered_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(table_module, "_MAX_ADDRESSES", 20)
    world = World(EndpointLimits(retry_above=1000))
    strangers(world, 100)
    assert len(world.table._arrivals) == 20


def test_who_writes_a_players_address_on_initials_does_not_keep_that_player_out():
    world = World(EndpointLimits(half_open_per_address=10))
    hello = client_hello_frame()
    for number in range(100):
        path = UdpPath(("192.0.2.1", 1000 + number))
        world.table.receive_untrusted([Received(path, [initial(hello, number.to_bytes(8, "big"))])], world.now)
    assert world.table.half_open == PRESSURE
    client = world.client(("192.0.2.1", 5000))
    world.run(0.5)
    assert client.connection.established
    assert not world.table._proven_half_open


def test_under_pressure_a_good_client_gets_in_by_retry():
    world = World()
    strangers(world, PRESSURE)
    client = world.client()
    world.run(0.3)
    assert client.connection.established
    assert world.table.counters["retries"] == 1
    assert client.quic._retry_count == 1


def test_without_pressure_there_is_no_retry():
    world = World()
    world.pair()
    assert world.table.counters["retries"] == 0


@pytest.mark.parametrize("damage", ["other address", "other id", "flipped", "late", "short"])
def test_bad_retry_tokens_are_dropped(damage):
    world = World()
    path = UdpPath(("10.0.0.1", 1000))
    token = world.table._tokens.make(path.remote, b"original", b"retry-id", world.now)
    destination = b"retry-id"
    if damage == "other address":
        path = UdpPath(("10.0.0.1", 1001))
    elif damage == "other id":
        destination = b"another!"
    elif damage == "flipped":
        token = token[:-1] + bytes([token[-1] ^ 1])
    elif damage == "late":
        world.now += 31
    else:
        token = token[:5]
    packet = initial(client_hello_frame(), destination, token=token)
    world.table.receive_untrusted([Received(path, [packet])], world.now)
    assert world.table.counters["dropped_bad_token"] == 1
    assert not world.table.connections


def test_flood_of_forged_initials_costs_state_for_none_and_leads_to_retry():
    world = World()
    rng = random.Random(1)
    for number in range(300):
        packet = bytearray(initial(b"\x06", number.to_bytes(8, "big")))
        packet[-20:] = rng.randbytes(20)
        path = UdpPath((f"10.0.{number >> 8}.{number & 255}", 9))
        world.table.receive_untrusted([Received(path, [bytes(packet)])], world.now)
    assert not world.table.connections
    assert world.table.counters["dropped_forged"] == PRESSURE
    assert world.table.counters["retries"] == 300 - PRESSURE
    world.run(5.0)
    assert world.client() is not None
    world.run(0.3)
    assert len(world.accepted) == 1
    assert world.table.counters["retries"] == 300 - PRESSURE


def test_stream_offset_bomb_before_admission_is_closed_within_5_mib():
    """Stock aioquic: 100 streams x 10 bytes at offset 500 000 cost 54 MiB."""
    world = World(admit=False)
    _client, server = world.pair()
    quic = world.clients[CLIENT].quic
    tracemalloc.start()
    try:
        for stream in range(100):
            frame = b"\x0e" + encode_uint_var(4 * stream) + encode_uint_var(500_000) + b"\x0a" + bytes(10)
            world.table.receive_untrusted([Received(UdpPath(CLIENT), [in_short_header(quic, frame)])], world.now)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert server.closed is not None
    assert server.closed.code == 3  # FLOW_CONTROL_ERROR
    assert peak < 5 * 1024 * 1024


@pytest.mark.parametrize("admit", [False, True])
def test_stream_offsets_that_creep_within_the_window_stay_small(admit):
    """Stock windows double with the highest offset received: holes of any size, each announced by the one before."""
    world = World(admit=admit)
    _client, server = world.pair()
    quic = world.clients[CLIENT].quic
    offset = 60_000
    tracemalloc.start()
    try:
        for _ in range(12):
            frame = b"\x0e\x00" + encode_uint_var(offset) + b"\x01x"
            world.carry(in_short_header(quic, frame), world.clients[CLIENT], None)
            world.run(0.05)
            offset *= 2
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert server.closed is not None
    assert server.closed.code == 3
    assert peak < 5 * 1024 * 1024


def test_handshake_data_bomb_is_closed_small():
    world = World()
    hello = client_hello_frame()
    path = UdpPath(CLIENT)
    world.table.receive_untrusted([Received(path, [initial(hello, b"original")])], world.now)
    bomb = b"\x06" + encode_uint_var(500_000) + b"\x0a" + bytes(10)
    tracemalloc.start()
    try:
        world.table.receive_untrusted([Received(path, [initial(bomb, b"original", number=1)])], world.now)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 * 1024
    world.run(1.0)
    assert not world.table.connections


def test_silent_client_gets_at_most_three_times_its_bytes():
    world = World()
    packet = initial(client_hello_frame(), b"original")
    world.table.receive_untrusted([Received(UdpPath(CLIENT), [packet])], world.now)
    world.run(10.0)
    assert 0 < sum(map(len, sent_by_server(world))) <= 3 * len(packet)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (EndpointLimits(connections=2), "the relay is full"),
        (EndpointLimits(connections_per_address=2), "too many connections from this address"),
    ],
)
def test_caps_refuse_with_a_reason_after_the_address_is_proven(limits, text):
    world = World(limits)
    first, second, third = (world.client(("192.0.2.1", port)) for port in (1, 2, 3))
    world.run(0.5)
    assert first.connection.established
    assert second.connection.established
    assert third.connection.closed is not None
    assert (third.connection.closed.code, third.connection.closed.reason) == (2, text)
    assert world.table.counters["retries"] == 1
    assert world.table.counters["refused"] == 1
    first.connection.close()
    world.run(0.5)
    again = world.client(("192.0.2.1", 4))
    world.run(0.5)
    assert again.connection.established


def test_stop_accepting_keeps_those_who_are_there():
    world = World()
    client, server = world.pair()
    world.table.accepting = False
    late = world.client(("192.0.2.9", 9))
    world.run(0.5)
    assert late.connection.closed is not None
    assert late.connection.closed.reason == "the relay is shutting down"
    assert client.closed is server.closed is None


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", bytes.fromhex("20010db800010002")),
        ("fe80::1%eth0", bytes.fromhex("fe80000000000000")),
    ],
)
def test_addresses_are_counted_per_ipv4_address_and_per_64(host, key):
    assert address_key(UdpPath((host, 1))) == key


def header(first: int, version: int, destination: bytes = b"destiny!", source: bytes = b"source!!") -> bytes:
    return (
        bytes([first])
        + version.to_bytes(4, "big")
        + bytes([len(destination)])
        + destination
        + bytes([len(source)])
        + source
    )


@pytest.mark.parametrize(
    ("packet", "counter"),
    [
        (b"", "dropped_malformed"),
        (b"\x40", "dropped_malformed"),
        (b"\x40" + bytes(30), "dropped_unknown"),
        (b"\xc0\0\0\0\1\xff" + bytes(1200), "dropped_malformed"),
        (initial(b"\x06", b"12345678")[:1199], "dropped_malformed"),  # its length field says 1200
        (header(0xC0, 0xBABABABA) + bytes(100), "dropped_small"),
        (header(0xE0, 1) + b"\x40\x10" + bytes(16), "dropped_small"),
        (header(0xE0, 1) + b"\x44\xb0" + bytes(1200), "dropped_unknown"),  # Handshake
        (header(0xD0, 1) + b"\x44\xb0" + bytes(1200), "dropped_unknown"),  # 0-RTT
        (header(0x80, 0) + b"\0\0\0\1" * 400, "dropped_unknown"),  # Version Negotiation
        (initial(b"\x06", b"1234567").ljust(1201, b"\0"), "dropped_malformed"),  # connection id under 8 bytes
    ],
)
def test_strange_packets_are_dropped_and_counted(packet, counter):
    world = World()
    world.table.receive_untrusted([Received(UdpPath(CLIENT), [packet])], world.now)
    assert dict(world.table.counters) == {counter: 1}
    assert not sent_by_server(world)
    assert not world.table.connections


def test_other_versions_are_answered_with_version_negotiation():
    world = World()
    world.client()
    packet = header(0xC0, 0xBABABABA) + b"\0\x44\x00" + bytes(1200)
    world.table.receive_untrusted([Received(UdpPath(CLIENT), [packet])], world.now)
    (answer,) = sent_by_server(world)
    parsed = parse_header_untrusted(answer)
    assert parsed is not None
    assert parsed.version == 0
    assert (parsed.destination_cid, parsed.source_cid) == (b"source!!", b"destiny!")
    assert parsed.supported_versions == [1]
    assert len(answer) < len(packet)


def test_new_address_of_a_client_is_followed():
    world = World()
    client, server = world.pair()
    sim = world.clients.pop(CLIENT)
    sim.address = ("203.0.113.77", 6000)
    world.clients[sim.address] = sim
    client.send_datagrams([b"moved"])
    client.flush()
    world.run(0.5)
    assert world.received == [b"moved"]
    assert server.remote == ("203.0.113.77", 6000)
    server.send_datagrams([b"found"])
    server.flush()
    world.run(0.5)
    assert sim.received == [b"found"]
    assert len(world.table.connections) == 1


def test_every_connection_id_leads_to_the_connection_and_retired_ones_do_not():
    world = World()
    _client, server = world.pair()
    quic = world.clients[CLIENT].quic
    hosted = {connection_id.cid for connection_id in server._quic._host_cids}
    assert len(hosted) == 8
    assert hosted <= set(world.table._by_id)
    old = quic._peer_cid.cid
    quic.change_connection_id()
    world.clients[CLIENT].connection.flush()
    world.run(0.5)
    assert old not in world.table._by_id
    assert {connection_id.cid for connection_id in server._quic._host_cids} <= set(world.table._by_id)
    server.close()
    world.run(1.0)
    assert not world.table._by_id


def test_a_late_copy_of_the_first_packet_opens_no_second_connection():
    world = World()
    world.pair()
    first = next(seen.packet for seen in world.seen if seen.from_client)
    world.table.receive_untrusted([Received(UdpPath(CLIENT), [first])], world.now)
    assert len(world.table.connections) == 1
    assert world.table.half_open == 0


def test_leaving_says_goodbye_on_all_connections_at_once():
    world = World()
    clients = [world.client(("192.0.2.1", port)) for port in (1, 2, 3)]
    world.run(0.5)
    before = len(world.seen)
    world.table.leave("the relay is shutting down")
    assert len(world.seen) == before + 9
    assert not world.table.connections
    world.run(0.1)
    assert [client.connection.closed.reason for client in clients] == ["the relay is shutting down"] * 3


def test_500_joins_and_leaves_leave_nothing_behind():
    world = World()
    for number in range(500):
        client = world.client(("192.0.2.1", number))
        world.run(2.5 * DELAY)
        client.connection.close()
        world.run(0.1)
        world.clients.clear()
        world.seen.clear()
    world.run(1.0)
    assert len(world.accepted) == 500
    assert not world.table.connections
    assert not world.table._by_id
    assert not world.table._address_of
    assert not world.table._half_open
    assert world.table.next_deadline() > START + 10_000
    assert len(world.table._heap) < 100


def test_idle_connections_keep_the_timer_heap_small():
    world = World()
    client, server = world.pair()
    for _ in range(2000):
        server.send_datagrams([b"x"])
        server.flush()
        world.run(0.003)
    assert client.closed is None
    assert len(world.table._heap) <= 2 * 1 + 65


def test_the_worlds_server_is_where_clients_think():
    world = World()
    client, _server = world.pair()
    assert client.remote == SERVER


def test_what_connections_did_not_send_is_counted_beyond_their_end():
    world = World()
    _client, server = world.pair()
    assert world.table.unsent == 0
    server.send_datagrams([bytes(5000)] * 3)  # larger than any packet
    server.flush()
    assert world.table.unsent == 3
    server.close()
    world.run(5.0)
    assert not world.table.connections
    assert world.table.unsent == 3
