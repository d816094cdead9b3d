"""One QUIC connection as the rest of lanparty sees it: overlay datagrams in batches, and one control stream.

Two sides. Roles use the public methods below. The engine (see ``engine``), in the same package, drives it::

    packets_untrusted  UDP payloads of one address -> datagrams of the batch, aioquic
    process            aioquic's events -> control stream, connection ids, ONE call of the datagram handler
    transmit           queue and control stream -> aioquic, as much as may leave now -> host.transmit
    timer              what is due at ``now``
    next_deadline      when ``timer`` wants to be called

Queues: overlay datagrams out: see ``queue``. Control data out: ``SEND_BUFFER`` bytes unacknowledged, then ``send_all``
waits. Control data in: ``CONTROL_WINDOW`` bytes unread, then flow control stops the peer. Datagrams in: none; a batch
goes to the handler or is dropped and counted.

A failure in handling one connection, whatever aioquic raises, ends that connection only: see ``_fail``. Failures of the
datagram handler are its owner's.

Owns: what is sent first (control before datagrams), the goodbye, the limits before admission.
Must not know: sockets, rooms, frames.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import attrs
import trio

from lanparty.obs.counters import TunnelCounters
from lanparty.quic import settings
from lanparty.quic.internals import (
    CONTROL_STREAM,
    CRYPTO_ERROR,
    HOSTILE_INPUT_ERRORS,
    Ending,
    Quic,
    QuicErrorCode,
    events,
    short_reason,
)
from lanparty.quic.queue import DatagramQueue

__all__ = ["Closed", "Connection", "ConnectionLost", "DatagramHandler", "Host", "Received", "SocketAddress", "UdpPath"]

DatagramHandler = Callable[[list[bytes], float], None]
"""Takes the overlay datagrams of one batch and the time, in seconds, at which it was read."""

_NO_APPLICATION_PROTOCOL = CRYPTO_ERROR + 120
"""TLS alert no_application_protocol (RFC 7301 section 3.2) as a QUIC transport code."""

_CHUNK = 16 * 1024
"""Bytes of control data handed to aioquic at a time."""


SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""As the socket module writes addresses: host and port, for IPv6 also flow label and scope."""


class UdpPath(NamedTuple):
    """From where to where packets go. aioquic only compares it."""

    remote: SocketAddress
    """The peer. First, so that aioquic, which looks there for a host, finds none and ignores a server's preferred
    address (RFC 9000 section 9.6)."""
    local: bytes = b""
    """Our address that the packet was sent to, packed; empty when the socket has only one."""
    socket: int = 0
    """Index of the endpoint's socket."""


class Received(NamedTuple):
    """UDP payloads that came along one path, in order."""

    path: UdpPath
    packets: list[bytes]
    waited: float = 0.0
    """Seconds between their arrival in the kernel and being read, where that is known: what this program's turn cost,
    and not the path."""


class Host(Protocol):
    """What a connection needs of its endpoint."""

    in_batch: bool
    """While True, connections that are touched are flushed when the batch ends."""

    def now(self) -> float:
        """Return the time in seconds, of the clock that all deadlines are in."""

    def transmit(self, path: UdpPath, packets: list[bytes]) -> None:
        """Send UDP payloads. Never raises for what the network does."""

    def max_payload(self, path: UdpPath) -> int:
        """Bytes of the largest UDP payload that this machine's end of ``path`` could carry."""

    def touch(self, connection: Connection) -> None:
        """Have ``connection`` flushed when the batch ends, or with the next one."""

    def schedule(self, connection: Connection) -> None:
        """Read ``connection.next_deadline()`` again."""

    def release(self, connection: Connection) -> None:
        """Forget ``connection``: it is over and has said all it had to say."""

    def connected(self, connection: Connection) -> None:
        """Note that the handshake of ``connection`` is complete."""

    def add_connection_id(self, connection: Connection, connection_id: bytes) -> None:
        """Route packets for ``connection_id`` to ``connection``."""

    def remove_connection_id(self, connection: Connection, connection_id: bytes) -> None:
        """Do not route them any more."""

    def local_address(self, path: UdpPath) -> tuple[str, int]:
        """Return our address and port on ``path``."""

    def renew_socket(self) -> None:
        """Client: send from a new socket from now on. Raises ``ConnectionFailedError``, ``MachineError``."""

    def count(self, name: str) -> None:
        """Add one to the endpoint's counter ``name``."""

    def internal_error(self, path: UdpPath, error: Exception) -> None:
        """Count and report a mistake, aioquic's or ours, in handling the connection on ``path``, which it ends."""


@attrs.frozen
class Closed:
    """Why a connection ended."""

    code: int
    """What was passed to ``close`` at one of the ends; with ``transport`` a QUIC error (RFC 9000 section 20.1)."""
    reason: str
    """Text for people; when ``by_peer`` it is the peer's, up to 1 KiB of anything."""
    by_peer: bool
    timed_out: bool
    transport: bool = False


class ConnectionLost(Exception):  # noqa: N818 - an outcome that callers expect, named so at all its uses
    """The connection is over; ``closed`` says why."""

    def __init__(self, closed: Closed) -> None:
        who = "by the peer" if closed.by_peer else "by time-out" if closed.timed_out else "by this end"
        super().__init__(f"connection closed {who} (code {closed.code}): {closed.reason or 'no reason given'}")
        self.closed = closed


class Connection:
    """One QUIC connection."""

    def __init__(self, quic: Quic, host: Host, path: UdpPath, *, is_client: bool, handshake_deadline: float) -> None:
        self.counters = TunnelCounters()
        """In: received by this end. Out: handed to the network by this end."""
        self.deadline = math.inf
        """The engine's note of when ``timer`` is due."""
        self.connection_ids: set[bytes] = set()
        """The engine's note of where packets for this connection are addressed to."""
        self._quic = quic
        quic.clock = host.now
        self._host = host
        self._first_path = path
        self._is_client = is_client
        self._handshake_deadline = handshake_deadline
        self._established = False
        self._admitted = is_client
        self._queue = DatagramQueue(self.counters)
        self._fresh: list[bytes] = []
        self._handler: DatagramHandler | None = None
        self._datagrams_in: list[bytes] = []
        self._control_in = bytearray()
        self._control_eof = False
        self._send_lock = trio.StrictFIFOLock()
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._closed: Closed | None = None
        self._finished = trio.Event()
        self._goodbye: list[tuple[bytes, UdpPath]] = []
        self._goodbyes_left = 0
        self._goodbye_at = math.inf
        self._resume_at = math.inf
        self._paths_seen = 0
        self._moved: trio.Event | None = None

    # -- for roles ---------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Connection {self.remote}{' closed' if self._closed else ''}>"

    @property
    def remote(self) -> tuple[str, int]:
        """The peer's address and port now; it changes when a NAT gives the peer another one."""
        host, port = self._path.remote[:2]
        return host, port

    @property
    def local_address(self) -> tuple[str, int]:
        """Our address and port that the peer talks to."""
        return self._host.local_address(self._path)

    @property
    def datagram_budget(self) -> int:
        """Bytes of the largest overlay datagram that this connection carries now: what fits a packet and the peer
        takes."""
        return self._quic.datagram_budget

    @property
    def binding(self) -> bytes:
        """The TLS channel binding (RFC 9266): 32 bytes that both ends of this connection have, and nobody else; empty
        before the handshake is complete."""
        return self._quic.binding

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None before the first sample."""
        return self._quic.rtt

    @property
    def queue_length(self) -> int:
        """Overlay datagrams that wait to be sent."""
        return len(self._queue) + len(self._fresh)

    @property
    def queue_bytes(self) -> int:
        """Bytes of overlay datagrams that wait to be sent."""
        return self._queue.size + sum(map(len, self._fresh))

    @property
    def closed(self) -> Closed | None:
        """Why the connection is over; None while it lives. Set at once, while ``wait_closed`` waits for the goodbye."""
        return self._closed

    def on_datagrams(self, handler: DatagramHandler | None) -> None:
        """Have ``handler(datagrams, now)`` called once per received batch, synchronously; None drops them, counted."""
        self._handler = handler

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        """Queue overlay datagrams. Never blocks and never raises; what cannot be carried is dropped and counted.

        From a datagram handler they leave at the end of the batch; any other caller calls ``flush`` when it is done.
        """
        if self._closed is not None or not self._established:
            self.counters.not_connected_dropped += len(list(datagrams))
            return
        self._fresh += datagrams
        self._host.touch(self)

    def flush(self) -> None:
        """Send what congestion control lets out now; inside a batch, when the batch ends."""
        if self._host.in_batch:
            self._host.touch(self)
        else:
            self.transmit(self._host.now())

    async def receive_some(self) -> bytes:
        """Return control-stream bytes as they come, ``b""`` once the peer has ended the stream.

        What arrived before the connection ended is given first. Then raises ``ConnectionLost``.
        """
        await trio.lowlevel.checkpoint()
        while not self._control_in:
            if self._control_eof:
                return b""
            if self._closed is not None:
                raise ConnectionLost(self._closed)
            await self._readers.park()
        data = bytes(self._control_in)
        self._control_in.clear()
        self._quic.control_read += len(data)
        if self._quic.control_window_due():
            self.flush()
        return data

    async def send_all(self, data: bytes) -> None:
        """Send control-stream bytes; waits while ``SEND_BUFFER`` bytes are unacknowledged. Calls do not interleave.

        On a server waits until the client has opened the stream. Raises ``ConnectionLost``.
        """
        async with self._send_lock:
            for start in range(0, len(data), _CHUNK):
                while not self._quic.control_writable or self._quic.control_unacknowledged >= settings.SEND_BUFFER:
                    self._raise_if_closed()
                    await self._writers.park()
                self._raise_if_closed()
                self._quic.send_stream_data(CONTROL_STREAM, bytes(data[start : start + _CHUNK]))
                self.flush()

    async def drained(self) -> None:
        """Wait until the peer has acknowledged all control data, as before closing after a reject.

        Raises ``ConnectionLost``. Has no time limit of its own.
        """
        await trio.lowlevel.checkpoint()
        while self._quic.control_unacknowledged:
            self._raise_if_closed()
            await self._writers.park()

    def close(self, code: int = 0, reason: str = "") -> None:
        """End the connection: CONNECTION_CLOSE with ``code`` and ``reason`` (200 bytes), three times, 20 ms apart.

        What waits on the control stream gets one chance to leave before; see ``drained`` for certainty. Idempotent.
        """
        if self._closed is not None:
            return
        now = self._host.now()
        self.transmit(now)
        if self.closed is not None:  # what the peer sent, found out while sending
            return
        self._end(Closed(code, reason, by_peer=False, timed_out=False))
        self._close_quic(code, short_reason(reason))
        self._say_goodbye(now)

    async def migrate(self) -> None:
        """Client: go on from whatever local address leads to the relay now; returns when the relay answers there.

        The connection, its control stream and what waits stay as they are: no handshake (RFC 9000 section 9). What
        was learnt of the path is learnt again. Until an answer comes, the old address is heard as well. Raises
        ``ConnectionLost``, ``ConnectionFailedError`` (no way leads there now), ``MachineError``. Has no time limit of
        its own: what the relay still sends to the old address is lost until it has heard of the new one.
        """
        await trio.lowlevel.checkpoint()
        self._raise_if_closed()
        self._host.renew_socket()
        now = self._host.now()
        self._quic.migrate(now)
        self._follow_path(now)
        self._moved = moved = trio.Event()
        self.flush()
        await moved.wait()
        self._raise_if_closed()

    async def wait_closed(self) -> Closed:
        """Wait until the connection is over and the goodbye, if it is ours, has been sent; return why."""
        await self._finished.wait()
        assert self._closed is not None
        return self._closed

    def admit(self) -> None:
        """Server: pass datagrams on, and let the control stream go on beyond its first ``CONTROL_WINDOW`` bytes."""
        self._admitted = True
        self._quic.window_open = True
        if self._quic.control_window_due():
            self.flush()

    # -- for the engine
    # --------------------------------------------------------------------------------------------------

    @property
    def established(self) -> bool:
        """Whether the handshake is complete, with our application protocol."""
        return self._established

    @property
    def authentic(self) -> bool:
        """Whether at least one packet of the peer decrypted."""
        return self._quic.started

    def packets_untrusted(self, packets: Sequence[bytes], path: UdpPath, now: float, waited: float = 0.0) -> None:
        """Take UDP payloads from ``path`` that begin alike (see ``Quic.receive_untrusted``), which came ``waited``
        seconds ago. Never raises for what is in them."""
        if self._closed is not None:
            return
        try:
            self._quic.receive_untrusted(packets, path, now, self._datagrams_in, waited)
            if self._quic.forged:
                self.counters.drop("forged", self._quic.forged)
                self._quic.forged = 0
            if self._quic.path_changes != self._paths_seen:
                self._follow_path(now)
        except Exception as error:  # noqa: BLE001 - the boundary of a connection: counted, and it ends this one only
            self._fail(error, now)

    def process(self, now: float) -> None:
        """Act on what aioquic reports, then give the batch's datagrams to the handler."""
        try:
            self._take_events(now)
            if self._writers and self._quic.control_unacknowledged < settings.SEND_BUFFER:
                self._writers.unpark_all()
            if self._moved is not None and self._quic.path_proven:
                self._moved.set()
                self._moved = None
        except Exception as error:  # noqa: BLE001 - the boundary of a connection: counted, and it ends this one only
            self._fail(error, now)
        datagrams = self._datagrams_in
        if datagrams:
            self._datagrams_in = []
            self._deliver(datagrams, now)

    def transmit(self, now: float) -> None:
        """Send what may leave now: control stream first, then datagrams, oldest first."""
        if self._closed is not None:
            return
        try:
            quic = self._quic
            batched = quic.batched
            if batched and quic.stock_due():
                self._send_stock(quic.datagrams_to_send(now))
                if quic.batched:  # not any more, when aioquic had a goodbye to say
                    self._transmit_batch(now)
            elif batched:
                self._transmit_batch(now)
            else:
                self._transmit_stock(now)
            self._take_events(now)
            self._host.schedule(self)
        except Exception as error:  # noqa: BLE001 - the boundary of a connection: counted, and it ends this one only
            self._fail(error, now)

    def timer(self, now: float) -> None:
        """Do what is due."""
        if self._closed is not None:
            if now >= self._goodbye_at:
                self._repeat_goodbye(now)
            return
        if not self._established and now >= self._handshake_deadline:
            self._host.count("handshake_timeouts")
            self.give_up("the handshake took too long")
            return
        try:
            timed_out = now >= self._quic.idle_deadline
            self._quic.handle_timer(now)
        except Exception as error:  # noqa: BLE001 - the boundary of a connection: counted, and it ends this one only
            self._fail(error, now)
            return
        if timed_out:
            self.give_up("nothing was received for too long")

    def give_up(self, reason: str) -> None:
        """End the connection without a word: there is nobody to hear it."""
        if self._closed is None:
            self._end(Closed(0, reason, by_peer=False, timed_out=True))
            self._finish()

    def next_deadline(self) -> float:
        """Return when ``timer`` is due, infinity for never."""
        if self._closed is not None:
            return self._goodbye_at
        timer = self._quic.get_timer()
        deadline = self._resume_at if timer is None else min(timer, self._resume_at)
        return deadline if self._established else min(deadline, self._handshake_deadline)

    def leave(self, reason: str) -> None:
        """Close and send all copies of the goodbye at once: the endpoint stops now."""
        self.close(0, reason)
        while self._goodbyes_left > 0:
            self._repeat_goodbye(self._host.now())

    # -- parts -------------------------------------------------------------------------------------------------------

    def _transmit_batch(self, now: float) -> None:
        """Send what is due in packets of our own making: ACK, datagrams, path MTU probe."""
        quic = self._quic
        datagrams = self._datagrams_to_go(now)
        packets = quic.seal(datagrams, now)
        if packets:
            self._host.transmit(self._path, packets)
        while probe := quic.probe(now):
            self._host.transmit(self._path, probe)
        if datagrams:
            self._count_out(datagrams)
        self._note_waiting()

    def _datagrams_to_go(self, now: float) -> list[bytes]:
        """What may leave now, of what waits and what has just come; the rest waits."""
        queue, fresh, quic = self._queue, self._fresh, self._quic
        if not fresh and not queue:
            return []
        allowance, budget = quic.allowance(now), quic.datagram_budget
        if allowance > 0:
            if fresh:
                self._fresh = []
                return queue.offer(fresh, allowance, budget, now)
            return queue.take(allowance, budget, now)
        if fresh:
            self._fresh = []
            queue.push(fresh, budget, now)
        # A download has used up what the pacer gave. A game's packet goes all the same.
        return queue.take(quic.urgent_allowance(), budget, now, bulk=False)

    def _note_waiting(self) -> None:
        """Note when to go on with what waits, or that nothing does."""
        if self._queue:
            self._resume_at = self._quic.resume_at()
        else:
            self._resume_at = math.inf
            self._quic.note_app_limited()

    def _transmit_stock(self, now: float) -> None:
        """Have aioquic make all packets: during the handshake, on a path that is not validated yet, or by choice."""
        quic = self._quic
        if (self._queue or self._fresh) and quic.handshake_complete and quic.control_unsent:
            # aioquic writes DATAGRAM before STREAM frames in each packet. Alone, first, the control stream gets
            # through however many datagrams wait.
            self._send_stock(quic.datagrams_to_send(now))
        datagrams = self._datagrams_to_go(now)
        packets, left = quic.stock_datagrams(datagrams, now)
        self._send_stock(packets)
        self._count_out(datagrams[: len(datagrams) - left])
        self.counters.queue_dropped += left
        self._note_waiting()

    def _send_stock(self, packets: list[tuple[bytes, UdpPath]]) -> None:
        """Send packets of aioquic's making, runs of one path together."""
        transmit = self._host.transmit
        for path, run in itertools.groupby(packets, key=lambda item: item[1]):
            transmit(path, [packet for packet, _path in run])

    @property
    def _path(self) -> UdpPath:
        """Where packets go now."""
        return self._quic.get_peer_address() or self._first_path

    def _follow_path(self, now: float) -> None:
        """Have path MTU discovery begin with what this machine's end of the present path could carry."""
        self._paths_seen = self._quic.path_changes
        self._quic.path_ceiling(self._host.max_payload(self._path), now)

    def _take_events(self, now: float) -> None:
        """Drain aioquic's events. No handler is called here, so that a nested call cannot reorder anything."""
        quic = self._quic
        while (event := quic.next_event()) is not None:
            if isinstance(event, events.DatagramFrameReceived):
                self._datagrams_in.append(event.data)
            else:
                self._on_event(event, now)
        if self._closed is None and (ending := quic.ending()) is not None:
            self._on_ending(ending, now)

    def _on_event(self, event: events.QuicEvent, now: float) -> None:
        match event:
            case events.StreamDataReceived(stream_id=stream, data=data, end_stream=end) if stream == CONTROL_STREAM:
                self._control_in += data
                self._control_eof = self._control_eof or end
                self._readers.unpark_all()
            case events.ConnectionIdIssued(connection_id=connection_id):
                self._host.add_connection_id(self, connection_id)
            case events.ConnectionIdRetired(connection_id=connection_id):
                self._host.remove_connection_id(self, connection_id)
            case events.HandshakeCompleted(alpn_protocol=protocol):
                if protocol == settings.ALPN:
                    self._established = True
                    self._follow_path(now)
                    self._host.connected(self)
                else:
                    self._violation(_NO_APPLICATION_PROTOCOL, f"this end speaks {settings.ALPN} only", now)
            case events.StreamDataReceived() | events.StreamReset() | events.StopSendingReceived():
                self._violation(QuicErrorCode.PROTOCOL_VIOLATION, "only an unbroken control stream is allowed", now)
            case _:
                # ConnectionTerminated was seen earlier, by ``ending``; ProtocolNegotiated and PingAcknowledged say
                # nothing that anybody here needs.
                pass

    def _on_ending(self, ending: Ending, now: float) -> None:
        self._end(Closed(ending.code, ending.reason, ending.by_peer, timed_out=False, transport=ending.transport))
        if ending.by_peer or self._quic.ended:
            self._finish()
        else:
            self._say_goodbye(now)

    def _violation(self, code: int, reason: str, now: float) -> None:
        """The peer broke a rule of ours: close with a transport code."""
        if self._closed is None:
            self._end(Closed(int(code), reason, by_peer=False, timed_out=False, transport=True))
            self._close_quic(int(code), reason, frame_type=0)
            self._say_goodbye(now)

    def _fail(self, error: Exception, now: float) -> None:
        """aioquic raised, on what the peer sent or by a mistake: its state cannot be relied on, so end the connection.

        The endpoint serves others, too: nothing that happens with one connection may end theirs.
        """
        self._note(error)
        self._violation(QuicErrorCode.INTERNAL_ERROR, "a packet could not be processed", now)

    def _note(self, error: Exception) -> None:
        if isinstance(error, HOSTILE_INPUT_ERRORS):
            self._host.count("hostile_input")
        else:
            self._host.internal_error(self._first_path, error)

    def _close_quic(self, code: int, reason: str, *, frame_type: int | None = None) -> None:
        """Have aioquic make its goodbye; ``frame_type`` makes ``code`` a transport code."""
        try:
            self._quic.close(error_code=code, frame_type=frame_type, reason_phrase=reason)
        except Exception as error:  # noqa: BLE001 - the connection is over already: it ends without a word
            self._note(error)

    def _deliver(self, datagrams: list[bytes], now: float) -> None:
        counters = self.counters
        counters.datagrams_in += len(datagrams)
        counters.datagram_bytes_in += sum(map(len, datagrams))
        if not self._admitted:
            counters.unadmitted_dropped += len(datagrams)
        elif self._handler is None:
            counters.drop("no-handler", len(datagrams))
        else:
            self._handler(datagrams, now)

    def _count_out(self, datagrams: list[bytes]) -> None:
        self.counters.datagrams_out += len(datagrams)
        self.counters.datagram_bytes_out += sum(map(len, datagrams))

    def _end(self, closed: Closed) -> None:
        """Note the end and wake everyone who waits; the goodbye may still be to be said."""
        self._closed = closed
        self.counters.queue_dropped += len(self._fresh)
        self._fresh = []
        self._queue.clear()
        self._readers.unpark_all()
        self._writers.unpark_all()
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def _say_goodbye(self, now: float) -> None:
        try:
            self._goodbye = self._quic.datagrams_to_send(now)
        except Exception as error:  # noqa: BLE001 - the connection is over already: it ends without a word
            self._note(error)
            self._goodbye = []
        # A stranger gets one copy: its address may be forged, and we owe it nothing.
        self._goodbyes_left = settings.GOODBYES if self._established or self._is_client else 1
        self._repeat_goodbye(now)

    def _repeat_goodbye(self, now: float) -> None:
        """Send the same packets once more, as RFC 9000 section 10.2.1 allows, or finish."""
        self._goodbyes_left -= 1
        if self._goodbye:
            self._send_stock(self._goodbye)
        if self._goodbyes_left <= 0 or not self._goodbye:
            self._goodbyes_left = 0
            self._finish()
        else:
            self._goodbye_at = now + settings.GOODBYE_INTERVAL
            self._host.schedule(self)

    def _finish(self) -> None:
        self._goodbye_at = math.inf
        self._goodbye = []
        if not self._finished.is_set():
            self._finished.set()
            self._host.release(self)

    def _raise_if_closed(self) -> None:
        if self._closed is not None:
            raise ConnectionLost(self._closed)
