"""Many connections of one endpoint: a batch of packets in, one pass out, one timer for all.

Owns: the order of work in a batch, and the deadlines. Must not know: sockets, trio's scheduler, what a server accepts.

Deadlines live in a heap of ``(deadline, number, connection)``. An entry is valid while its deadline is the
connection's; others are skipped when they come up, and swept out when they are more than half of the heap.
"""

from __future__ import annotations

import heapq
import itertools
import math
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from lanparty.obs.events import TASK_FAILED
from lanparty.obs.log import log
from lanparty.quic.connection import Connection, Received, UdpPath
from lanparty.quic.internals import CONNECTION_ID_SIZE
from lanparty.quic.settings import UDP_PAYLOAD

__all__ = ["Engine", "Transmit"]

_LONG_HEADER = 0x80
"""Bit of the first byte (RFC 9000 section 17)."""

Transmit = Callable[[UdpPath, list[bytes]], None]
"""Sends UDP payloads along a path; never raises for what the network does."""


_ID_END = 1 + CONNECTION_ID_SIZE

_SWEEP_ABOVE = 64
"""Entries of the heap below which sweeping is not worth it."""

_REPORT_INTERVAL = 10.0
"""Seconds between two events about internal errors: whoever can cause one can cause many; the counter has them all."""


class Engine:
    """The ``Host`` of connections. Subclasses say which connection a packet is for."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        transmit: Transmit,
        local_address: Callable[[UdpPath], tuple[str, int]],
        max_payload: Callable[[UdpPath], int] = lambda _path: UDP_PAYLOAD,
        on_deadline: Callable[[], None] = lambda: None,
    ) -> None:
        self.in_batch = False
        self.counters: Counter[str] = Counter()
        self.now = now
        self.transmit = transmit
        self.local_address = local_address
        self.max_payload = max_payload
        self.connections: set[Connection] = set()
        self._on_deadline = on_deadline
        self._touched: dict[Connection, None] = {}  # a set that keeps the order
        self._heap: list[tuple[float, int, Connection]] = []
        self._numbers = itertools.count()
        self._reported_at = -math.inf

    @property
    def unsent(self) -> int:
        """Datagrams that connections took and did not send, since the start."""
        return self.counters["unsent"] + sum(connection.counters.unsent for connection in self.connections)

    # -- driven by sockets and timers ------------------------------------------------------------------------------

    def receive_untrusted(self, batch: Sequence[Received], now: float) -> None:
        """Process a batch of UDP payloads: all received, then all handlers, then all that became ready is sent.

        Never raises for what is in the packets.
        """
        self.in_batch = True
        try:
            for received in batch:
                self._receive_run_untrusted(received, now)
            self._finish_batch(now)
        finally:
            self.in_batch = False

    def _receive_run_untrusted(self, received: Received, now: float) -> None:
        """Give the packets of one path to their connections; neighbours with the same connection id go together."""
        path, packets, waited = received
        start, count = 0, len(packets)
        while start < count:
            packet = packets[start]
            if not packet:
                self.counters["dropped_malformed"] += 1
                start += 1
                continue
            stop = start + 1
            if stop < count and packet[0] < _LONG_HEADER:
                connection_id = packet[1:_ID_END]
                while stop < count and packets[stop][1:_ID_END] == connection_id and packets[stop][0] < _LONG_HEADER:
                    stop += 1
            connection = self._route_untrusted(packet, path, now)
            if connection is not None:
                run = packets if stop - start == count else packets[start:stop]
                connection.packets_untrusted(run, path, now, waited)
                self._touched[connection] = None
            start = stop

    def handle_timers(self, now: float) -> None:
        """Do what is due at ``now``, on all connections."""
        self.in_batch = True
        try:
            heap = self._heap
            while heap and heap[0][0] <= now:
                deadline, _number, connection = heapq.heappop(heap)
                if connection.deadline == deadline:
                    connection.deadline = math.inf
                    connection.timer(now)
                    self._touched[connection] = None
            self._finish_batch(now)
        finally:
            self.in_batch = False

    def network_error(self, now: float) -> None:
        """Note that a socket woke up for an error (an ICMP answer) and not for a packet."""

    def next_deadline(self) -> float:
        """Return when ``handle_timers`` is due, infinity for never."""
        heap = self._heap
        while heap and heap[0][2].deadline != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def leave(self, reason: str) -> None:
        """Say goodbye on all connections, all copies at once: the endpoint stops now."""
        for connection in list(self.connections):
            connection.leave(reason)

    def _finish_batch(self, now: float) -> None:
        for connection in list(self._touched):
            connection.process(now)  # handlers touch more connections
        touched, self._touched = self._touched, {}
        for connection in touched:
            connection.transmit(now)

    def _route_untrusted(self, packet: bytes, path: UdpPath, now: float) -> Connection | None:
        """Return the connection that ``packet`` is for; None when it was dealt with or dropped."""
        raise NotImplementedError

    # -- Host, for connections -------------------------------------------------------------------------------------

    def touch(self, connection: Connection) -> None:
        """Have ``connection`` flushed when the batch ends, or with the next one."""
        self._touched[connection] = None

    def schedule(self, connection: Connection) -> None:
        """Note when ``connection`` wants its timer."""
        deadline = connection.next_deadline()
        if deadline == connection.deadline:
            return
        connection.deadline = deadline
        if deadline != math.inf:
            heapq.heappush(self._heap, (deadline, next(self._numbers), connection))
            if len(self._heap) > 2 * len(self.connections) + _SWEEP_ABOVE:
                self._heap = [entry for entry in self._heap if entry[2].deadline == entry[0]]
                heapq.heapify(self._heap)
        if not self.in_batch:
            self._on_deadline()

    def release(self, connection: Connection) -> None:
        """Forget ``connection``."""
        connection.deadline = math.inf
        if connection in self.connections:
            self.connections.remove(connection)
            self.counters["unsent"] += connection.counters.unsent
        self._touched.pop(connection, None)

    def connected(self, connection: Connection) -> None:
        """Count a complete handshake."""
        self.counters["handshakes"] += 1

    def add_connection_id(self, connection: Connection, connection_id: bytes) -> None:
        """Note another address of ``connection``."""
        connection.connection_ids.add(connection_id)

    def remove_connection_id(self, connection: Connection, connection_id: bytes) -> None:
        """Forget an address of ``connection``."""
        connection.connection_ids.discard(connection_id)

    def sender_of_untrusted(self, packet: bytes) -> Hashable:
        """Say whose ``packet`` seems to be, for its turn in overload; None for strangers. Never raises."""
        return None

    def ingress_full(self, count: int) -> None:
        """Count packets of a sender who had too many waiting."""
        self.counters["dropped_ingress"] += count

    def renew_socket(self) -> None:
        """Send from a new socket: a client's matter."""
        raise NotImplementedError

    def count(self, name: str) -> None:
        """Add one to a counter."""
        self.counters[name] += 1

    def internal_error(self, path: UdpPath, error: Exception) -> None:
        """Count and report a mistake, aioquic's or ours, in handling the connection on ``path``, which it ends."""
        self.counters["internal_error"] += 1
        now = self.now()
        if now - self._reported_at < _REPORT_INTERVAL:
            return
        self._reported_at = now
        host, port = path.remote[:2]
        log(
            TASK_FAILED,
            what=f"The connection with {host}, UDP port {port}, is closed: QUIC",
            text=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )
