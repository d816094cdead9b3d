"""A relay's table and clients in simulated time: no sockets, no clock, a link that tests shape.

``World.link`` decides the fate of each packet: it returns the delays after which copies arrive; none means lost.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache

import attrs
from cryptography.hazmat.primitives.serialization import Encoding

from lanparty.quic.connection import Connection, Received, UdpPath
from lanparty.quic.engine import Engine
from lanparty.quic.internals import Quic, client_configuration, server_configuration
from lanparty.quic.table import ConnectionTable, EndpointLimits
from lanparty.quic.trust import DEV_SERVER_NAME, ServerIdentity, Trust, make_identity

SERVER = ("198.51.100.1", 443)
START = 1000.0
DELAY = 0.010


@cache
def identity() -> ServerIdentity:
    return make_identity([DEV_SERVER_NAME], datetime.now(UTC))


@cache
def trust() -> Trust:
    return Trust(identity().certificate.public_bytes(Encoding.PEM))


class SimClient(Engine):
    """A client without a socket. ``address`` may be changed in mid-life, as a NAT does."""

    def __init__(self, world: World, address: tuple[str, int], quic: Quic | None = None) -> None:
        super().__init__(
            now=lambda: world.now,
            transmit=self._send,
            local_address=lambda path: ("0.0.0.0", 0),
            max_payload=lambda path: world.max_payload,
        )
        self.world = world
        self.address = address
        self.quic = quic or Quic(configuration=client_configuration(DEV_SERVER_NAME, trust()))
        self.path = UdpPath(SERVER)
        self.connection = Connection(self.quic, self, self.path, is_client=True, handshake_deadline=math.inf)
        self.connections.add(self.connection)
        self.received: list[bytes] = []
        self.batches = 0
        self.connection.on_datagrams(self._collect)

    def connect(self) -> None:
        self.quic.connect(self.path, self.world.now)
        self.connection.transmit(self.world.now)

    def _collect(self, datagrams: list[bytes], now: float) -> None:
        self.received += datagrams
        self.batches += 1

    def _send(self, path: UdpPath, packets: list[bytes]) -> None:
        for packet in packets:
            self.world.carry(packet, self, None)

    def _route_untrusted(self, packet: bytes, path: UdpPath, now: float) -> Connection | None:
        return self.connection


@attrs.define
class Seen:
    """A packet that was put on the wire."""

    at: float
    from_client: bool
    packet: bytes
    to: tuple[str, int] | None = None
    """The client's address, of a server's packet."""


class World:
    def __init__(
        self,
        limits: EndpointLimits | None = None,
        link: Callable[[Seen], Sequence[float]] = lambda seen: (DELAY,),
        admit: bool = True,
        max_payload: int = 1200,
    ) -> None:
        self.now = START
        self.max_payload = max_payload
        self.link = link
        self.seen: list[Seen] = []
        self.accepted: list[Connection] = []
        self.received: list[bytes] = []
        self.arrivals: list[tuple[bytes, float]] = []
        self.clients: dict[tuple[str, int], SimClient] = {}
        self._admit = admit
        self._wire: list[tuple[float, int, SimClient | None, tuple[str, int], bytes]] = []
        self._numbers = itertools.count()
        self.table = ConnectionTable(
            configuration=server_configuration(identity()),
            limits=limits or EndpointLimits(),
            on_connection=self._on_connection,
            now=lambda: self.now,
            transmit=self._send,
            local_address=lambda path: SERVER,
            max_payload=lambda path: self.max_payload,
        )

    def client(self, address: tuple[str, int] = ("192.0.2.1", 5000), *, connect: bool = True) -> SimClient:
        client = SimClient(self, address)
        self.clients[address] = client
        if connect:
            client.connect()
        return client

    def pair(self) -> tuple[Connection, Connection]:
        """A connected client and its server side."""
        client = self.client()
        self.run(0.5)
        assert client.connection.established
        return client.connection, self.accepted[-1]

    def carry(self, packet: bytes, client: SimClient | None, address: tuple[str, int] | None) -> None:
        seen = Seen(self.now, client is not None, packet, address)
        self.seen.append(seen)
        for delay in self.link(seen):
            to = None if client is not None else self.clients.get(address or ("", 0))
            source = client.address if client is not None else SERVER
            if client is None and to is None:
                continue
            heapq.heappush(self._wire, (self.now + delay, next(self._numbers), to, source, packet))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            engines: list[Engine] = [self.table, *self.clients.values()]
            due = min(engine.next_deadline() for engine in engines)
            arrival = self._wire[0][0] if self._wire else math.inf
            at = min(due, arrival)
            if at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            if arrival <= due:
                # What arrives at one moment for one engine is one batch.
                first = self._wire[0]
                batch: list[Received] = []
                count = 0
                while self._wire and self._wire[0][0] <= first[0] and self._wire[0][2] is first[2] and count < 64:
                    _at, _number, to, source, packet = heapq.heappop(self._wire)
                    path = UdpPath(SERVER) if to is not None else UdpPath(source)
                    count += 1
                    if batch and batch[-1][0] == path:
                        batch[-1][1].append(packet)
                    else:
                        batch.append(Received(path, [packet]))
                (first[2] or self.table).receive_untrusted(batch, self.now)
            else:
                for engine in engines:
                    if engine.next_deadline() <= self.now:
                        engine.handle_timers(self.now)

    def _on_connection(self, connection: Connection) -> None:
        self.accepted.append(connection)
        if self._admit:
            connection.admit()
        connection.on_datagrams(self._collect)

    def _collect(self, datagrams: list[bytes], now: float) -> None:
        self.received += datagrams
        self.arrivals += [(datagram, now) for datagram in datagrams]

    def _send(self, path: UdpPath, packets: list[bytes]) -> None:
        for packet in packets:
            self.carry(packet, None, path.remote[:2])
