"""``QuicConnection`` with the limits that it lacks against a hostile peer.

Owns: receive windows that follow what was read, the one stream, size and gaps of handshake data, how the end of a
connection is seen. Must not know: datagrams, congestion control (``quic.py``, ``recovery.py``), sockets, time.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Final

import attrs
from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import DuplicateExtension, InvalidVersion, UnsupportedGeneralNameType
from OpenSSL.crypto import Error as OpenSSLError

from lanparty.quic import settings
from lanparty.quic.internals.config import ClientTls
from lanparty.quic.internals.exporter import BoundTls

__all__ = [
    "CONTROL_STREAM",
    "CRYPTO_ERROR",
    "HOSTILE_INPUT_ERRORS",
    "MAX_GAPS",
    "Ending",
    "GuardedQuic",
    "QuicErrorCode",
    "short_reason",
]

# A stranger can make aioquic log a warning per connection. What we want to tell comes with the connection's end
# instead.
logging.getLogger("quic").disabled = True

CONTROL_STREAM: Final = 0
"""The first client-opened bidirectional stream (RFC 9000 section 2.1)."""

CRYPTO_ERROR: Final = int(QuicErrorCode.CRYPTO_ERROR)
"""Transport codes from here to 0x1FF carry a TLS alert in the low byte (RFC 9001 section 4.8)."""

HOSTILE_INPUT_ERRORS: Final = (
    ValueError,  # BufferReadError, BufferWriteError (a reply that outgrows its buffer), UnicodeError, malformed keys
    AssertionError,  # trailing bytes in TLS messages, contradictory acknowledgements of stream data
    LookupError,  # tables indexed by what the peer sent
    OverflowError,  # sizes the peer sent
    QuicConnectionError,  # raised where aioquic does not catch it
    QuicPacketBuilderStop,  # a close that does not fit its packet
    tls.Alert,
    UnsupportedAlgorithm,  # these, about certificates, are no ValueErrors
    InvalidVersion,
    DuplicateExtension,
    UnsupportedGeneralNameType,
    OpenSSLError,
)
"""What ``QuicConnection`` lets out on hostile input: seen by tests/quic/test_quic_fuzz.py is ``InvalidVersion`` (a
certificate with an impossible version number, at a client); the others are from reading the source. Each one is worth
a look: counter ``hostile_input``. Anything else that it raises is a mistake (counter ``internal_error``, and an event).
The connection is closed either way."""

MAX_GAPS: Final = 256
"""Parts of a stream, or of handshake data, that may wait for what is missing between them. The window is 55 packets, so
an honest peer leaves 27 gaps at most, unless it sends a few bytes at a time. aioquic keeps as many as there are, and
looks through all of them at each frame: every second byte of 64 KiB, 130 KB of packets from a stranger, would keep a
core busy for half a minute."""

_MAX_REASON: Final = 200
"""Bytes of a reason phrase. aioquic raises when a longer one does not fit its packet, which a server certificate with
many names can cause; twice this plus headers fits 1200 bytes, for a close sent at two encryption levels in one
datagram."""


@attrs.frozen
class Ending:
    """How aioquic sees the end of a connection."""

    code: int
    reason: str
    transport: bool
    by_peer: bool


class GuardedQuic(QuicConnection):
    """``QuicConnection`` with bounded receive windows, one stream, and no exception before its first packet."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        # Before the first packet, so that the transport parameters say so. A peer that opens more is closed by aioquic.
        self._local_max_streams_bidi = Limit(
            frame_type=QuicFrameType.MAX_STREAMS_BIDI, name="max_streams_bidi", value=0 if self._is_client else 1
        )
        self._local_max_streams_uni = Limit(frame_type=QuicFrameType.MAX_STREAMS_UNI, name="max_streams_uni", value=0)
        self.control_read = 0
        """Bytes of the control stream that the application has read: the window ends ``CONTROL_WINDOW`` after them."""
        self.window_open = self._is_client
        """Whether the window follows ``control_read``; on a server only after admission."""

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether one authentic packet of the peer has been seen (for a client: whether it has connected)."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def handshake_complete(self) -> bool:
        """Whether the TLS handshake is complete at this end."""
        return self._handshake_complete

    @property
    def binding(self) -> bytes:
        """The channel binding (RFC 9266), 32 bytes, equal at both ends and at no other connection; empty before the
        handshake is complete."""
        context: Any = self.tls  # a BoundTls, see ``_initialize``
        return bytes(context.channel_binding) if self._handshake_complete else b""

    @property
    def peer_certificate(self) -> Any:
        """The peer's leaf certificate (``cryptography``'s), None before it came."""
        return getattr(getattr(self, "tls", None), "_peer_certificate", None)

    def next_event(self) -> events.QuicEvent | None:
        """The next of aioquic's events. Mostly there is none, and aioquic has an exception say so, which is dear."""
        return self._events.popleft() if self._events else None

    def ending(self) -> Ending | None:
        """Why and by whom the connection is closing or closed; None while it is neither."""
        event = self._close_event
        if event is None:
            return None
        return Ending(
            code=event.error_code,
            reason=event.reason_phrase,
            transport=event.frame_type is not None,
            by_peer=self._state is QuicConnectionState.DRAINING,
        )

    @property
    def ended(self) -> bool:
        """Whether no ordinary packet will leave any more."""
        return self._state in END_STATES

    @property
    def idle_deadline(self) -> float:
        """When the idle time-out ends the connection; infinity before the first packet."""
        return math.inf if self._close_at is None else self._close_at

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds, None before the first sample (RFC 9002 section 5.3)."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    # -- control stream --------------------------------------------------------------------------------------------

    @property
    def control_writable(self) -> bool:
        """Whether ``send_stream_data`` on the control stream is possible: a server must have seen the client open
        it."""
        return self._is_client or CONTROL_STREAM in self._streams

    @property
    def control_unsent(self) -> bool:
        """Whether control data waits to be sent or sent again."""
        stream = self._streams.get(CONTROL_STREAM)
        return stream is not None and not stream.sender.buffer_is_empty

    @property
    def control_unacknowledged(self) -> int:
        """Bytes of control data that the peer has not acknowledged."""
        stream = self._streams.get(CONTROL_STREAM)
        return 0 if stream is None else len(stream.sender._buffer)

    def control_window_due(self) -> bool:
        """Whether enough was read for a new window to be worth a packet."""
        stream = self._streams.get(CONTROL_STREAM)
        return stream is not None and self._is_window_due(stream.max_stream_data_local)

    def _is_window_due(self, current: int) -> bool:
        """Whether half of a window that ends at ``current`` is used, and it may move on."""
        window = settings.CONTROL_WINDOW
        return self.window_open and self.control_read + window - current >= window // 2

    def _window_limit(self, current: int) -> int:
        """Return the new end of a window that ends at ``current``: unchanged until half of it is used."""
        return self.control_read + settings.CONTROL_WINDOW if self._is_window_due(current) else current

    # -- overridden: windows follow what was read (stock ones double with what was received) ------------------------

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        limit = self._window_limit(stream.max_stream_data_local)
        if limit == stream.max_stream_data_local_sent:
            return
        # Stock code doubles the limit when more than half of it was received, then sends what differs from the last one
        # sent. Hide what was received from its test; nothing else in it looks at it.
        receiver = stream.receiver
        received, receiver.highest_offset = receiver.highest_offset, 0
        stream.max_stream_data_local = limit
        try:
            super()._write_stream_limits(builder=builder, space=space, stream=stream)
        finally:
            receiver.highest_offset = received

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        limit = self._local_max_data
        value = self._window_limit(limit.value)
        if value == limit.sent:
            return  # the limits on streams, written by the same code, never change
        used, limit.used, limit.value = limit.used, 0, value
        try:
            super()._write_connection_limits(builder=builder, space=space)
        finally:
            limit.used = used

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        if end > settings.CRYPTO_LIMIT:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="too much handshake data",
            )
        buf.seek(start)
        super()._handle_crypto_frame(context, frame_type, buf)
        if len(self._crypto_streams[context.epoch].receiver._ranges) > MAX_GAPS:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="too many gaps in the handshake data",
            )

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_stream_frame(context, frame_type, buf)
        for stream in self._streams.values():  # one at most
            if len(stream.receiver._ranges) > MAX_GAPS:
                raise QuicConnectionError(
                    error_code=QuicErrorCode.INTERNAL_ERROR,
                    frame_type=frame_type,
                    reason_phrase="too many gaps in the control stream",
                )

    # -- overridden: whom a client believes, and the channel binding ---------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        # aioquic makes the context itself and lets nobody choose its class; the subclasses add no state of their own.
        self.tls.__class__ = ClientTls if self._is_client else BoundTls

    # -- overridden: guards around the public calls ------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """Return packets to send; none, instead of an exception, before the first packet of the peer is processed."""
        if not self._network_paths or not self._cryptos:
            return []
        if self._close_pending and self._close_event is not None:
            self._close_event.reason_phrase = short_reason(self._close_event.reason_phrase)
        return super().datagrams_to_send(now)

    def get_timer(self) -> float | None:
        """Return when ``handle_timer`` is due; None when never."""
        return None if self._close_at is None else super().get_timer()

    def handle_timer(self, now: float) -> None:
        """Do what is due at ``now``."""
        if self._close_at is not None:
            super().handle_timer(now)


def short_reason(reason: str) -> str:
    """Cut a reason phrase to what always fits a packet, at a character boundary, replacing what UTF-8 cannot carry."""
    return reason.encode("utf-8", "replace")[:_MAX_REASON].decode("utf-8", "ignore")
