"""What a QUIC peer can make a connection keep: each table is filled, and holds no more than docs/bounds.md says."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from aioquic.buffer import encode_uint_var
from fuzz_quic import held
from quic_packets import client_hello_frame, initial
from quic_world import SERVER, World
from test_quic_connection import CLIENT, in_short_header

from lanparty.quic.connection import Connection, Received, UdpPath
from lanparty.quic.internals import Quic
from lanparty.quic.internals.guarded import MAX_GAPS
from lanparty.quic.settings import CONTROL_WINDOW, CRYPTO_LIMIT

INTERNAL_ERROR = 1
CRYPTO_BUFFER_EXCEEDED = 13


def number(value: int) -> bytes:
    return encode_uint_var(value)


class Member:
    """The relay's end of one connection, and a peer that seals any frames with its own keys."""

    def __init__(self, *, admit: bool = True) -> None:
        self.world = World(admit=admit)
        _client, self.server = self.world.pair()
        self.world.run(0.3)
        self.quic = self.world.clients[CLIENT].quic
        self.world.link = lambda _seen: ()  # the peer acknowledges nothing

    def send(self, frames: bytes, address: tuple[str, int] = CLIENT) -> None:
        packet = in_short_header(self.quic, frames)
        self.world.table.receive_untrusted([Received(UdpPath(address), [packet])], self.world.now)

    def check(self) -> None:
        for name, size, most in held(self.server):
            assert size <= most, name


@pytest.mark.parametrize("admit", [False, True])
@pytest.mark.parametrize("rising", [False, True])
def test_gaps_in_the_control_stream_are_bounded(admit: bool, rising: bool) -> None:
    """Stock aioquic keeps 32 770 of them, and looks through all at each frame."""
    member = Member(admit=admit)
    offsets = range(1, CONTROL_WINDOW, 2) if rising else range(CONTROL_WINDOW - 1, 0, -2)
    sent = 0
    for offset in offsets:
        member.send(b"\x0e\x00" + number(offset) + b"\x01x")
        sent += 1
        member.check()
        if member.server.closed is not None:
            break
    assert sent == MAX_GAPS + 1
    assert member.server.closed is not None
    assert member.server.closed.code == INTERNAL_ERROR
    assert member.server.closed.reason == "too many gaps in the control stream"
    assert member.world.table.counters["hostile_input"] == 0


def test_as_many_gaps_as_packets_can_leave_are_closed_again() -> None:
    member = Member()
    size = 64
    offsets = list(range(0, 2 * MAX_GAPS * size, size))
    for offset in (*offsets[1::2], *offsets[0::2]):
        member.send(b"\x0e\x00" + number(offset) + number(size) + bytes([offset // size % 251]) * size)
    assert member.server.closed is None
    assert bytes(member.server._control_in) == b"".join(bytes([n % 251]) * size for n in range(2 * MAX_GAPS))


def test_gaps_in_the_handshake_data_of_a_stranger_are_bounded() -> None:
    world = World()
    path = UdpPath(CLIENT)
    hello = client_hello_frame()[4:]
    world.table.receive_untrusted([Received(path, [initial(b"\x06\x00\x01" + hello[:1], b"original")])], world.now)
    (connection,) = world.table.connections
    ranges = connection._quic._crypto_streams
    world.link = lambda _seen: ()
    offsets = iter(range(3, CRYPTO_LIMIT, 2))
    for packet in range(1, 40):
        frames = b"".join(b"\x06" + number(next(offsets)) + b"\x01x" for _ in range(180))
        world.table.receive_untrusted([Received(path, [initial(frames, b"original", number=packet)])], world.now)
        most = max(len(stream.receiver._ranges) for stream in ranges.values())
        assert most <= MAX_GAPS + 1
    assert connection.closed is not None
    assert connection.closed.code == CRYPTO_BUFFER_EXCEEDED


def test_connection_ids_path_challenges_and_paths_are_bounded() -> None:
    """A member that retires each id it is given, asks on each path, and comes from everywhere, for ever."""
    member = Member()
    sequence = 0
    for turn in range(4000):
        frames = b"\x1a" + turn.to_bytes(8) + b"\x1a" + (turn + 1).to_bytes(8)
        issued = sorted(cid.sequence_number for cid in member.server._quic._host_cids)
        if turn % 4 == 0 and issued[0] <= sequence < issued[-1] and sequence != issued[-1]:
            frames += b"\x19" + number(sequence)
            sequence += 1
        host = f"192.0.2.{turn % 200 + 2}" if turn % 3 else CLIENT[0]
        member.send(frames, (host, 5000))
        member.check()
        if turn % 50 == 0:
            member.world.run(0.01)
        if member.server.closed is not None:
            break
    assert len(member.world.table._by_id) <= 10
    member.check()


@pytest.mark.parametrize(("retiring", "code"), [(False, 9), (True, None)])
def test_ids_that_the_peer_gives_are_bounded(retiring: bool, code: int | None) -> None:
    """More than it may give end the connection: CONNECTION_ID_LIMIT_ERROR (RFC 9000 section 5.1.1). One that takes each
    back again makes us say so; what is said waits within the congestion window, and beyond that in a list of 100."""
    member = Member()
    for sequence in range(8, 4000):
        prior = sequence if retiring else 0
        frame = b"\x18" + number(sequence) + number(prior) + b"\x08" + sequence.to_bytes(8) + bytes(16)
        member.send(frame)
        member.check()
        if member.server.closed is not None:
            break
    assert len(member.server._quic._recovery.flight._runs) < 4000
    if code is not None:
        assert member.server.closed is not None
        assert member.server.closed.code == code


def test_what_a_deaf_peer_provokes_is_bounded() -> None:
    """It never acknowledges, and everything it sends wants an answer: what is in flight stays within the window."""
    member = Member()
    quic = member.server._quic
    largest = 0
    for turn in range(3000):
        member.send(b"\x1a" + turn.to_bytes(8) + b"\x01" + b"\x08\x00")
        member.server.send_datagrams([bytes(900)] * 3)
        member.server.flush()
        member.world.run(0.002)
        largest = max(largest, len(quic._recovery.flight._runs))
        if member.server.closed is not None:
            break
    assert largest < 2000
    assert member.server.queue_bytes <= 2 * 1024 * 1024


def test_a_relay_that_changes_everything_all_the_time_makes_a_client_keep_as_little() -> None:
    world = World()
    client, server = world.pair()
    world.run(0.3)
    world.link = lambda _seen: ()
    engine = world.clients[CLIENT]
    for turn in range(1000):
        frames = b"\x1a" + turn.to_bytes(8) + b"\x07\x10" + bytes(16) + b"\x10" + number(turn) + b"\x12" + number(turn)
        packet = in_short_header(server._quic, frames)
        engine.receive_untrusted([Received(UdpPath(SERVER), [packet])], world.now)
        for name, size, most in held(client):
            assert size <= most, name
    assert client.closed is None


def test_nothing_is_left_of_connections_that_are_over() -> None:
    """Joined, spoken to, gone: 100 times, in all the ways in which connections end."""
    world = World()

    def cycle(turn: int) -> None:
        address = (f"192.0.2.{turn % 250 + 1}", 5000)
        client = world.client(address)
        world.run(0.1)
        server = world.accepted.pop()
        client.connection.send_datagrams([bytes(100)] * 3)
        client.connection.flush()
        world.run(0.05)
        if turn % 3 == 0:
            client.connection.close(0, "bye")
        elif turn % 3 == 1:
            server.close(1, "go")
        else:
            server.give_up("lost")
            client.connection.give_up("lost")
        world.run(0.2)
        del world.clients[address]
        world.seen.clear()
        world.received.clear()
        world.arrivals.clear()

    for turn in range(30):
        cycle(turn)
    gc.collect()
    before = _count()
    tracemalloc.start()
    start, _peak = tracemalloc.get_traced_memory()
    for turn in range(100):
        cycle(turn)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    assert _count() == before
    assert not world.table.connections
    assert not world.table._by_id
    assert not world.table._per_address
    assert not world.table._address_of
    assert len(world.table._heap) <= 64 + 1
    assert grown < 64 * 1024


def _count() -> int:
    return sum(isinstance(thing, Quic | Connection) for thing in gc.get_objects())
