"""Two ends of one connection, each ours or stock, behind one face; and a link whose fate is drawn from a seed."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
from aioquic import tls
from aioquic.quic.connection import QuicConnection
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketRecovery
from quic_ledger import Ledger, marks
from quic_stock import StockEnd, stock_client, stock_server
from quic_world import DELAY, Seen, World

from lanparty.quic.connection import Connection
from lanparty.quic.internals import CONTROL_STREAM, Quic
from lanparty.quic.internals.guarded import GuardedQuic

OURS, PLAIN, STOCK = "ours", "plain", "stock"
"""Our engine; ours with LANPARTY_WITHOUT=engine, which has aioquic make all packets; stock aioquic."""

PAIRS = [(OURS, OURS), (OURS, STOCK), (STOCK, OURS), (PLAIN, OURS), (OURS, PLAIN)]


class End:
    """One of ours."""

    def __init__(self, connection: Connection, received: list[bytes]) -> None:
        self.connection = connection
        self.quic: Quic = connection._quic
        self.received = received

    @property
    def control(self) -> bytes:
        return bytes(self.connection._control_in)

    @property
    def closed(self) -> Any:
        return self.connection.closed

    def send(self, datagrams: Sequence[bytes]) -> None:
        self.connection.send_datagrams(datagrams)
        self.connection.flush()

    def send_control(self, data: bytes) -> None:
        if self.closed is None and self.quic.control_writable:
            self.quic.send_stream_data(CONTROL_STREAM, data)
            self.connection.flush()

    def update_keys(self) -> None:
        self.quic.request_key_update()


class StockFace:
    """A stock end, which is asked for a key update only when the last one is confirmed: it would not refuse."""

    def __init__(self, end: StockEnd) -> None:
        self.end = end
        self.updated_at = 0

    @property
    def quic(self) -> QuicConnection:
        assert self.end.quic is not None
        return self.end.quic

    @property
    def received(self) -> list[bytes]:
        return self.end.received

    @property
    def control(self) -> bytes:
        return bytes(self.end.control)

    @property
    def closed(self) -> Any:
        """At once, not only after the closing period."""
        return self.end.closed or self.quic._close_event

    def send(self, datagrams: Sequence[bytes]) -> None:
        self.end.send(datagrams)

    def send_control(self, data: bytes) -> None:
        if self.end.is_client or CONTROL_STREAM in self.quic._streams:
            self.end.send_control(data)

    def update_keys(self) -> None:
        if self.quic._spaces[tls.Epoch.ONE_RTT].largest_acked_packet >= self.updated_at:
            self.updated_at = self.quic._packet_number
            self.quic.request_key_update()


@attrs.define
class Link:
    """The fate of packets, by seed; to be put in ``World.link``."""

    rng: random.Random
    loss: float = 0.0
    copies: float = 0.0
    jitter: float = 0.0
    mtu: int = 1472
    size_seen: int = 0

    def __call__(self, seen: Seen) -> Sequence[float]:
        rng = self.rng
        self.size_seen = max(self.size_seen, len(seen.packet))
        if len(seen.packet) > self.mtu or rng.random() < self.loss:
            return ()
        delays = [DELAY + rng.random() * self.jitter]
        if rng.random() < self.copies:
            delays.append(DELAY + rng.random() * 2 * self.jitter)
        return delays


def check_shortcuts(quic: Quic) -> None:
    """What the fast path asks in fewer steps is what aioquic would say."""
    timer = GuardedQuic.get_timer(quic)
    assert timer is not None
    assert quic.get_timer() == min(timer, quic.mtu.next_deadline() if quic._probes else math.inf)
    recovery = quic._recovery
    period = recovery.get_probe_timeout()
    assert recovery.pto == period
    found = QuicPacketRecovery.get_loss_detection_time(recovery, amplification_limited=False)
    if found is not None and recovery.flight.loss_time is None:
        found = min(found, recovery._time_of_last_sent_ack_eliciting_packet + max(0.5, period))
    assert recovery.application_deadline() == found
    assert quic._connection_ids_unsent or all(each.was_sent for each in quic._host_cids)


@attrs.define
class Pair:
    world: World
    client: Any
    server: Any
    ledger: Ledger
    ports: Iterator[int]

    @property
    def ends(self) -> tuple[Any, Any]:
        return self.client, self.server

    def rebind(self, *, address: bool) -> None:
        """Have a NAT give the client another port, or another address."""
        ((old, sim),) = self.world.clients.items()
        number = next(self.ports)
        sim.address = (f"203.0.113.{number % 200 + 1}", old[1]) if address else (old[0], 6000 + number)
        del self.world.clients[old]
        self.world.clients[sim.address] = sim

    def check_alike(self) -> None:
        """What must hold of our ends whenever nobody is in the middle of something."""
        for end in self.ends:
            if not isinstance(end, End):
                continue
            quic = end.quic
            space, flight = quic._spaces[tls.Epoch.ONE_RTT], quic._recovery.flight
            assert space.ack_eliciting_in_flight == flight.packets == len(self.ledger.recoveries[flight].sent)
            assert space.loss_time == flight.loss_time
            assert space.sent_packets == {}
            assert not quic._datagrams_pending
            ranges = list(space.ack_queue)
            assert len(ranges) <= MAX_ACK_RANGES
            assert all(one.stop < other.start for one, other in itertools.pairwise(ranges))
            if ranges:
                assert ranges[-1].stop - 1 <= space.largest_received_packet < space.expected_packet_number + 2
                assert all(number in space.received_packets for number in ranges[-1])
            assert self.ledger.acked_of(quic).isdisjoint(self.ledger.recoveries[flight].sent)
            if quic.batched:
                check_shortcuts(quic)

    def check_drained(self) -> None:
        """What must hold when all is said: everything has a verdict, and each verdict is true."""
        self.check_alike()
        for end, other in (self.ends, self.ends[::-1]):
            assert end.closed is None
            direction = self.ledger.sent_by(end.quic)
            received = [mark for datagram in other.received for mark in marks(datagram[:9])]
            assert len(received) == len(set(received))
            assert set(received) <= direction.marks_in(direction.opened)
            if not isinstance(end, End):
                continue
            flight = end.quic._recovery.flight
            acked, lost = self.ledger.acked_of(end.quic), self.ledger.lost_of(end.quic)
            assert flight.packets == flight.bytes == end.quic._recovery.bytes_in_flight == 0
            assert acked <= direction.opened
            assert direction.marks_in(acked) <= set(received)
            assert direction.marks_in(acked | lost) == direction.marks_in(set(direction.payloads))


@contextmanager
def pair(
    kinds: tuple[str, str],
    *,
    link: Callable[[Seen], Sequence[float]] | None = None,
    max_payload: int = 1472,
    prepare: Callable[[Any], None] = lambda _client: None,
) -> Iterator[Pair]:
    """A connected client and server of these kinds, over a clean link until the handshake is confirmed."""
    with pytest.MonkeyPatch.context() as patch:
        ledger = Ledger()
        ledger.install(patch)
        world = World(max_payload=max_payload)
        server = stock_server(world) if kinds[1] == STOCK else None
        if kinds[0] == STOCK:
            sim = stock_client(world)
        else:
            sim = world.client(connect=False)
            prepare(sim.quic)
            sim.quic._batched = kinds[0] == OURS
            sim.connect()
        world.run(0.5)
        client = StockFace(sim) if kinds[0] == STOCK else End(sim.connection, sim.received)
        if server is None:
            end = End(world.accepted[0], world.received)
            end.quic._batched = kinds[1] == OURS
        made = Pair(world, client, StockFace(server) if server else end, ledger, iter(range(1, 1000)))
        assert client.quic._handshake_confirmed
        client.send_control(b"c" * 10)  # a server may answer only on what the client has opened
        world.run(0.5)
        world.link = link or world.link
        yield made
