"""The relay's connections by connection id, and what strangers are told: Retry, version negotiation, refusals.

A packet's way (the connection ids that we choose are 8 bytes)::

    short header     bytes 1..8 -> connection, else dropped: there is no state to answer from
    long header      parsed; a connection id that is known -> connection
      other version  answered with Version Negotiation when it is a full-size packet (RFC 9000 section 6.1)
      not Initial, under 1200 bytes, connection id under 8 bytes -> dropped (sections 14.1, 7.2)
      Initial        pressure or no room, and no token -> Retry        about 20 us, no state
                     no room, token good -> refused                    one small packet, no state
                     too many half open, in all or of this proven address, or too many handshakes of this address
                     lately -> dropped, it will come again
                     else a connection; forgotten at once if its first packet does not decrypt

Owns: who gets state here. Must not know: sockets, trio, rooms. Time is an argument.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address

import attrs

from lanparty.quic.connection import Connection, UdpPath
from lanparty.quic.engine import Engine, Transmit
from lanparty.quic.internals import (
    CONNECTION_ID_SIZE,
    INITIAL,
    VERSION_NEGOTIATION,
    VERSIONS,
    Quic,
    QuicConfiguration,
    QuicErrorCode,
    QuicHeader,
    RetryTokens,
    encode_initial_close,
    encode_retry,
    encode_version_negotiation,
    parse_header_untrusted,
)
from lanparty.quic.settings import HANDSHAKE_TIMEOUT, UDP_PAYLOAD

__all__ = ["ConnectionTable", "EndpointLimits"]

_LONG_HEADER = 0x80
_FIXED_BIT = 0x40
"""Bits of the first byte (RFC 9000 sections 17.2 and 17.3)."""

_MIN_INITIAL_ID = 8
"""Bytes: a client's first destination connection id must be unpredictable (RFC 9000 section 7.2)."""

_FORGERY_DECAY = 20.0
"""Per second: how fast Initials that did not decrypt are forgotten. Each cost us about 0.3 ms, so strangers who send
garbage get at most about 1 % of a core before they are asked for a Retry first."""


@attrs.frozen
class EndpointLimits:
    """What one relay endpoint carries. A connection costs about 90 KiB in its handshake, which takes 1 ms, then 60."""

    connections: int = 4096
    """All connections, half-open ones included: about 250 MiB."""
    connections_per_address: int = 256
    """Per IPv4 address, or per /64 of IPv6: a LAN party behind one NAT, but not everyone."""
    half_open: int = 512
    """Connections whose handshake is not complete: about 45 MiB, freed after the deadline."""
    half_open_per_address: int = 64
    """Of those, the ones from one IPv4 address or /64 that was proven by a Retry: one address cannot keep the others
    out. The unproven ones, at most ``retry_above``, do not count: who writes a player's address on them must not keep
    that player out."""
    retry_above: int = 16
    """From so many half-open connections on, an Initial must prove its address by a Retry first. The first ones of a
    flood come in one batch, and each costs 1 to 2 ms in which members wait; for players a Retry is one round trip."""
    handshake_deadline: float = HANDSHAKE_TIMEOUT
    """Seconds."""
    handshakes_per_second: float = 32.0
    handshakes_at_once: int = 128
    """Of one address. Each costs 1 to 2 ms, so somebody who connects again and again costs the members no more than 5 %
    of a core; a whole LAN party that comes back at once is let in at once."""


_MAX_ADDRESSES = 4096
"""Addresses whose handshakes are counted, the one that came first forgotten first: as many as there are connections,
about 0.5 MiB. Who has more can only be held off by the other limits."""


class ConnectionTable(Engine):
    """The engine of a relay."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        limits: EndpointLimits,
        on_connection: Callable[[Connection], None],
        now: Callable[[], float],
        transmit: Transmit,
        local_address: Callable[[UdpPath], tuple[str, int]],
        max_payload: Callable[[UdpPath], int] = lambda _path: UDP_PAYLOAD,
        on_deadline: Callable[[], None] = lambda: None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(
            now=now,
            transmit=transmit,
            local_address=local_address,
            max_payload=max_payload,
            on_deadline=on_deadline,
        )
        self.accepting = True
        self.configuration = configuration
        """Of connections that begin from now on."""
        self._limits = limits
        self._on_connection = on_connection
        self._random_bytes = random_bytes
        self._tokens = RetryTokens()
        self._by_id: dict[bytes, Connection] = {}
        self._half_open: dict[Connection, str | bytes | None] = {}
        """With the address that was proven, if it was."""
        self._proven_half_open: Counter[str | bytes] = Counter()
        self._per_address: Counter[str | bytes] = Counter()
        self._arrivals: dict[str | bytes, float] = {}
        """By address, when its budget of handshakes is whole again: each moves that by the time between two."""
        self._address_of: dict[Connection, str | bytes] = {}
        self._forgeries = 0.0
        self._forgeries_at = 0.0

    @property
    def half_open(self) -> int:
        """Connections whose handshake is not complete."""
        return len(self._half_open)

    # -- packets -----------------------------------------------------------------------------------------------------

    def _route_untrusted(self, packet: bytes, path: UdpPath, now: float) -> Connection | None:
        if len(packet) < 1 + CONNECTION_ID_SIZE:
            self.counters["dropped_malformed"] += 1
            return None
        if not packet[0] & _LONG_HEADER:
            connection = self._by_id.get(packet[1 : 1 + CONNECTION_ID_SIZE])
            if connection is None:
                self.counters["dropped_unknown"] += 1
            return connection
        header = parse_header_untrusted(packet)
        if header is None:
            self.counters["dropped_malformed"] += 1
            return None
        connection = self._by_id.get(header.destination_cid)
        if connection is None:
            self._stranger_untrusted(packet, header, path, now)
        return connection

    def sender_of_untrusted(self, packet: bytes) -> Connection | None:
        """Give the connection whose id a short-header packet bears, once its handshake is complete."""
        if not packet or packet[0] & _LONG_HEADER:
            return None
        connection = self._by_id.get(packet[1 : 1 + CONNECTION_ID_SIZE])
        return connection if connection is not None and connection.established else None

    def _stranger_untrusted(self, packet: bytes, header: QuicHeader, path: UdpPath, now: float) -> None:
        """Decide about a long-header packet that is for no connection."""
        if len(packet) < UDP_PAYLOAD:
            self.counters["dropped_small"] += 1
        elif header.packet_type is VERSION_NEGOTIATION:
            # Answering one with another could go on for ever between two servers.
            self.counters["dropped_unknown"] += 1
        elif header.version not in VERSIONS:
            self.counters["version_negotiations"] += 1
            self.transmit(path, [encode_version_negotiation(header)])
        elif header.packet_type is not INITIAL:
            self.counters["dropped_unknown"] += 1
        elif len(header.destination_cid) < _MIN_INITIAL_ID:
            self.counters["dropped_malformed"] += 1
        else:
            self._initial_untrusted(packet, header, path, now)

    def _initial_untrusted(self, packet: bytes, header: QuicHeader, path: UdpPath, now: float) -> None:
        refusal = self._refusal(path)
        too_often = self._comes_too_often(path, now)
        original_id, retry_id = header.destination_cid, None
        if header.token:
            proven = self._tokens.check_untrusted(path.remote, header.destination_cid, header.token, now)
            if proven is None:
                # RFC 9000 section 8.1.3 lets us close with INVALID_TOKEN; a forger would make us do that work for
                # nothing.
                self.counters["dropped_bad_token"] += 1
                return
            original_id, retry_id = proven, header.destination_cid
        elif refusal is not None or too_often or self._under_pressure(now):
            self._retry(header, path, now)
            return
        if refusal is not None:
            self.counters["refused"] += 1
            self.transmit(path, [encode_initial_close(header, QuicErrorCode.CONNECTION_REFUSED, refusal)])
            return
        if too_often:
            self.counters["dropped_too_often"] += 1  # No answer, as below.
            return
        proven_half_open = self._proven_half_open[address_key(path)] if header.token else 0
        if len(self._half_open) >= self._limits.half_open or proven_half_open >= self._limits.half_open_per_address:
            self.counters["dropped_half_open"] += 1  # No answer: the client tries again in 0.2 s, and so on.
            return
        self._accept_untrusted(packet, header.destination_cid, original_id, retry_id, path, now)

    def _accept_untrusted(
        self, packet: bytes, first_id: bytes, original_id: bytes, retry_id: bytes | None, path: UdpPath, now: float
    ) -> None:
        quic = Quic(
            configuration=self.configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        deadline = now + self._limits.handshake_deadline
        connection = Connection(quic, self, path, is_client=False, handshake_deadline=deadline)
        connection.packets_untrusted([packet], path, now)
        if not connection.authentic:
            self.counters["dropped_forged"] += 1
            self._forgeries = self._recent_forgeries(now) + 1.0
            self._forgeries_at = now
            return
        if connection.closed is not None:
            return  # aioquic raised on its first packet; counted as hostile_input or internal_error
        self.counters["accepted"] += 1
        self.connections.add(connection)
        address = address_key(path)
        self._note_arrival(address, now)
        self._half_open[connection] = None if retry_id is None else address
        if retry_id is not None:
            self._proven_half_open[address] += 1
        self._address_of[connection] = address
        self._per_address[address] += 1
        # The client's own choice stays in the table as long as the connection: a late copy of its first packet must not
        # open another one.
        self.add_connection_id(connection, first_id)
        self.add_connection_id(connection, quic.host_cid)
        self.touch(connection)

    def _retry(self, header: QuicHeader, path: UdpPath, now: float) -> None:
        self.counters["retries"] += 1
        retry_id = self._random_bytes(CONNECTION_ID_SIZE)
        token = self._tokens.make(path.remote, header.destination_cid, retry_id, now)
        self.transmit(path, [encode_retry(header, retry_id, token)])

    def _refusal(self, path: UdpPath) -> str | None:
        """Return why the endpoint has no room for a client on ``path``, None if it has."""
        if not self.accepting:
            return "the relay is shutting down"
        if len(self.connections) >= self._limits.connections:
            return "the relay is full"
        if self._per_address[address_key(path)] >= self._limits.connections_per_address:
            return "too many connections from this address"
        return None

    def _comes_too_often(self, path: UdpPath, now: float) -> bool:
        limits = self._limits
        whole_at = self._arrivals.get(address_key(path), now)
        return whole_at - now > (limits.handshakes_at_once - 1) / limits.handshakes_per_second

    def _note_arrival(self, address: str | bytes, now: float) -> None:
        whole_at = max(now, self._arrivals.pop(address, now)) + 1 / self._limits.handshakes_per_second
        while self._arrivals:
            oldest, at = next(iter(self._arrivals.items()))
            if at > now and len(self._arrivals) < _MAX_ADDRESSES:
                break
            del self._arrivals[oldest]
        self._arrivals[address] = whole_at

    def _under_pressure(self, now: float) -> bool:
        return len(self._half_open) + self._recent_forgeries(now) >= self._limits.retry_above

    def _recent_forgeries(self, now: float) -> float:
        return max(0.0, self._forgeries - (now - self._forgeries_at) * _FORGERY_DECAY)

    # -- Host, for connections -------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """Tell the relay of a complete handshake."""
        super().connected(connection)
        self._leave_half_open(connection)
        self._on_connection(connection)

    def release(self, connection: Connection) -> None:
        """Forget ``connection`` and everything that led to it."""
        super().release(connection)
        for connection_id in connection.connection_ids:
            if self._by_id.get(connection_id) is connection:
                del self._by_id[connection_id]
        self._leave_half_open(connection)
        address = self._address_of.pop(connection, None)
        if address is not None:
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]

    def _leave_half_open(self, connection: Connection) -> None:
        address = self._half_open.pop(connection, None)
        if address is not None:
            self._proven_half_open[address] -= 1
            if not self._proven_half_open[address]:
                del self._proven_half_open[address]

    def add_connection_id(self, connection: Connection, connection_id: bytes) -> None:
        """Route packets for ``connection_id`` to ``connection``."""
        super().add_connection_id(connection, connection_id)
        self._by_id[connection_id] = connection

    def remove_connection_id(self, connection: Connection, connection_id: bytes) -> None:
        """Do not route them any more."""
        super().remove_connection_id(connection, connection_id)
        if self._by_id.get(connection_id) is connection:
            del self._by_id[connection_id]


def address_key(path: UdpPath) -> str | bytes:
    """Return what connections are counted by: an IPv4 address, or the /64 of an IPv6 address, which one customer
    has."""
    host = path.remote[0]
    if ":" not in host:
        return host
    return IPv6Address(host.partition("%")[0]).packed[:8]
