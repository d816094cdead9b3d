"""Every access to aioquic's private parts, in one place.

``tests/quic/test_aioquic_contract.py`` pins the version and fails by name when one of the parts used here moves.
aioquic is sans-I/O; what we need beyond its public interface, and why:

====================================  ================================================================================
private part                          why
====================================  ================================================================================
``_datagrams_pending``                unbounded, and one entry that never fits blocks all later ones: we take back
                                      what did not go out
``_loss``: window, flight, pacer      to hand over only what may leave now
``_remote_max_datagram_frame_size``   never checked by aioquic on sending; the peer would close (RFC 9221 section 3)
``_peer_cid``                         its length decides how much fits a packet
``_local_max_streams_*``, ``_streams``  one client-opened stream only; how much of it waits for acknowledgement
``_write_stream_limits`` and others   windows that follow what was read; stock windows double with what was received
``_handle_crypto_frame``              512 KiB of handshake data from a stranger is too much
``_initialize``, ``tls.Context``      what the user pinned is believed as it is, not only when it is a root
``_state``, ``_close_event`` …        the peer's goodbye at once, not three probe time-outs later
====================================  ================================================================================

Owns: the configuration given to aioquic, and the subclass ``Quic``. Must not know: sockets, trio, time.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Iterable
from typing import Any, Final

import attrs
from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.buffer import size_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.quic.stream import QuicStream
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import (
    Certificate,
    DuplicateExtension,
    InvalidVersion,
    UnsupportedGeneralNameType,
    load_pem_x509_certificates,
)
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError, X509StoreFlags
from OpenSSL.crypto import Error as OpenSSLError

from lanparty.quic import settings
from lanparty.quic.trust import ServerIdentity, Trust, system_store

__all__ = [
    "CONNECTION_ID_SIZE",
    "CONTROL_STREAM",
    "CRYPTO_ERROR",
    "HOSTILE_INPUT_ERRORS",
    "INITIAL",
    "VERSIONS",
    "VERSION_NEGOTIATION",
    "Ending",
    "Quic",
    "QuicErrorCode",
    "QuicHeader",
    "RetryTokens",
    "client_configuration",
    "encode_initial_close",
    "encode_retry",
    "encode_version_negotiation",
    "parse_header_untrusted",
    "server_configuration",
    "short_reason",
]

# A stranger can make aioquic log a warning per connection. What we want to tell comes with the connection's end
# instead.
logging.getLogger("quic").disabled = True

CONNECTION_ID_SIZE: Final = 8
"""Bytes of the connection ids that we choose (aioquic's default); short headers carry no length, so it must be
fixed."""

CONTROL_STREAM: Final = 0
"""The first client-opened bidirectional stream (RFC 9000 section 2.1)."""

CRYPTO_ERROR: Final = int(QuicErrorCode.CRYPTO_ERROR)
"""Transport codes from here to 0x1FF carry a TLS alert in the low byte (RFC 9001 section 4.8)."""

INITIAL: Final = QuicPacketType.INITIAL
VERSION_NEGOTIATION: Final = QuicPacketType.VERSION_NEGOTIATION

VERSIONS: Final = [int(QuicProtocolVersion.VERSION_1)]
"""Only QUIC version 1 on the wire."""

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

_MAX_REASON: Final = 200
"""Bytes of a reason phrase. aioquic raises when a longer one does not fit its packet, which a server certificate with
many names can cause; twice this plus headers fits 1200 bytes, for a close sent at two encryption levels in one
datagram."""

_AEAD_TAG: Final = 16
"""Bytes; the same for the three cipher suites of TLS 1.3 that QUIC uses (RFC 9001 section 5.3)."""

_SHORT_HEADER: Final = 3
"""Bytes of aioquic's 1-RTT header without the connection id: flags and a 2-byte packet number."""


def server_configuration(identity: ServerIdentity) -> QuicConfiguration:
    """Return what all connections of a relay share."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=[settings.ALPN],
        certificate=identity.certificate,
        certificate_chain=list(identity.chain),
        private_key=identity.private_key,
    )
    return _common(configuration)


def client_configuration(server_name: str, trust: Trust) -> QuicConfiguration:
    """Return the configuration of one connection to a relay that must prove to be ``server_name``."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[settings.ALPN], server_name=server_name)
    if trust.ca_pem is not None:
        configuration.load_verify_locations(cadata=trust.ca_pem)
    else:
        configuration.load_verify_locations(*system_store())
    return _common(configuration)


def _common(configuration: QuicConfiguration) -> QuicConfiguration:
    configuration.connection_id_length = CONNECTION_ID_SIZE
    configuration.idle_timeout = settings.IDLE_TIMEOUT
    configuration.max_data = settings.CONTROL_WINDOW
    configuration.max_stream_data = settings.CONTROL_WINDOW
    configuration.max_datagram_size = settings.UDP_PAYLOAD
    configuration.max_datagram_frame_size = settings.MAX_DATAGRAM_FRAME_SIZE
    configuration.supported_versions = list(VERSIONS)
    # Reno, because cubic here takes the bytes in flight for the window after a loss: one lost packet of a game that
    # sends little would cut the window to two packets. Issue 3 brings a delay-bounded one.
    configuration.congestion_control_algorithm = "reno"
    return configuration


@attrs.frozen
class Ending:
    """How aioquic sees the end of a connection."""

    code: int
    reason: str
    transport: bool
    by_peer: bool


class Quic(QuicConnection):
    """``QuicConnection`` with bounded receive windows, one stream, and a datagram queue that is always empty
    afterwards."""

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
    def peer_certificate(self) -> Any:
        """The peer's leaf certificate (``cryptography``'s), None before it came."""
        return getattr(getattr(self, "tls", None), "_peer_certificate", None)

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

    # -- datagrams ---------------------------------------------------------------------------------------------------

    @property
    def datagram_budget(self) -> int:
        """Bytes of the largest DATAGRAM payload that fits one packet now and that the peer takes; 0 before the
        handshake."""
        peer = self._remote_max_datagram_frame_size
        if peer is None or not self._handshake_complete:
            return 0
        space = self._max_datagram_size - _SHORT_HEADER - len(self._peer_cid.cid) - _AEAD_TAG
        frame = min(space, peer)
        # Frame type and length field; the length is written even at the end of a packet.
        payload = frame - 1 - size_uint_var(max(frame, 0))
        return max(payload, 0)

    def send_allowance(self, now: float) -> int:
        """Bytes that congestion control and pacing let out now, and at most two packets more.

        The surplus makes aioquic stop for a reason of its own, so that it knows when to go on (``get_timer``); what it
        leaves is taken back by ``reclaim_datagrams``.
        """
        loss = self._loss
        window = loss.congestion_window - loss.bytes_in_flight
        if window <= 0:
            return 0
        pacer = loss._pacer
        if pacer.packet_time is None:
            return window
        pacer.update_bucket(now=now)
        paced = (int(max(pacer.bucket_time, 0.0) / pacer.packet_time) + 2) * self._max_datagram_size
        return min(window, paced)

    def feed_datagrams(self, datagrams: Iterable[bytes]) -> None:
        """Put datagrams where the next ``datagrams_to_send`` finds them. Each must fit ``datagram_budget``."""
        self._datagrams_pending.extend(datagrams)

    def reclaim_datagrams(self) -> int:
        """Take back what the last ``datagrams_to_send`` left, and return how many, counted from the end."""
        left = len(self._datagrams_pending)
        if left:
            self._datagrams_pending.clear()
        return left

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
        return stream is not None and self._window_limit(stream.max_stream_data_local) != stream.max_stream_data_local

    def _window_limit(self, current: int) -> int:
        """Return the new end of a window that ends at ``current``: unchanged until half of it is used."""
        limit = self.control_read + settings.CONTROL_WINDOW
        if self.window_open and limit - current >= settings.CONTROL_WINDOW // 2:
            return limit
        return current

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

    # -- overridden: whom a client believes ---------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._is_client:
            # aioquic makes the context itself and lets nobody choose its class; the subclass adds no state.
            self.tls.__class__ = _ClientTls

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


class _ClientTls(tls.Context):
    """aioquic's TLS, but pinned certificates need not be roots: a relay's own or an intermediate one will do."""

    def _client_handle_certificate_verify(self, input_buf: Buffer) -> None:
        if self._cadata is not None:
            assert self._peer_certificate is not None
            _verify_pinned(self._peer_certificate, self._peer_certificate_chain, self._server_name, self._cadata)
            self._verify_mode = ssl.CERT_NONE  # it was verified here; the proof of its key is still asked for below
        super()._client_handle_certificate_verify(input_buf)


def _verify_pinned(certificate: Certificate, chain: list[Certificate], name: str | None, pinned: bytes) -> None:
    """Verify dates, name and chain of ``certificate`` against the ``pinned`` ones, PEM. Raises ``tls.Alert``."""
    try:
        tls.verify_certificate(certificate=certificate, chain=chain, server_name=name, cadata=pinned)
    except tls.AlertBadCertificate as alert:
        # Dates and name are looked at before the chain, and only the chain fails with this error of OpenSSL's.
        if not isinstance(alert.__context__, X509StoreContextError):
            raise
        store = X509Store()
        for known in load_pem_x509_certificates(pinned):
            store.add_cert(X509.from_cryptography(known))
        store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
        others = [X509.from_cryptography(other) for other in chain]
        try:
            X509StoreContext(store, X509.from_cryptography(certificate), others).verify_certificate()
        except X509StoreContextError:
            raise alert from None  # the first reason says more


def short_reason(reason: str) -> str:
    """Cut a reason phrase to what always fits a packet, at a character boundary, replacing what UTF-8 cannot carry."""
    return reason.encode("utf-8", "replace")[:_MAX_REASON].decode("utf-8", "ignore")


# -- packets outside any connection ------------------------------------------------------------------------------------


def parse_header_untrusted(packet: bytes) -> QuicHeader | None:
    """Parse the first header of a UDP payload; None when it is no QUIC packet (RFC 9000 section 17, RFC 8999)."""
    try:
        return pull_quic_header(Buffer(data=packet), host_cid_length=CONNECTION_ID_SIZE)
    except ValueError:  # BufferReadError is one
        return None


def encode_version_negotiation(header: QuicHeader) -> bytes:
    """Encode the answer to a packet of a version that we do not speak (RFC 9000 section 6.1)."""
    return encode_quic_version_negotiation(
        source_cid=header.destination_cid, destination_cid=header.source_cid, supported_versions=VERSIONS
    )


def encode_retry(header: QuicHeader, source_cid: bytes, token: bytes) -> bytes:
    """Encode a Retry that asks the sender of an Initial to prove its address (RFC 9000 section 8.1.2)."""
    assert header.version is not None
    return encode_quic_retry(
        version=header.version,
        source_cid=source_cid,
        destination_cid=header.source_cid,
        original_destination_cid=header.destination_cid,
        retry_token=token,
    )


def encode_initial_close(header: QuicHeader, code: int, reason: str = "") -> bytes:
    """Encode an Initial that refuses the Initial with ``header`` (RFC 9000 section 10.2.3), without keeping state."""
    assert header.version is not None
    crypto = CryptoPair()
    crypto.setup_initial(cid=header.destination_cid, is_client=False, version=header.version)
    builder = QuicPacketBuilder(
        host_cid=header.destination_cid,
        is_client=False,
        max_datagram_size=settings.UDP_PAYLOAD,
        peer_cid=header.source_cid,
        version=header.version,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    text = short_reason(reason).encode()
    buf = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=32 + len(text))
    buf.push_uint_var(code)
    buf.push_uint_var(QuicFrameType.PADDING)
    buf.push_uint_var(len(text))
    buf.push_bytes(text)
    datagrams, _packets = builder.flush()
    return datagrams[0]


class RetryTokens:
    """Address-bound Retry tokens (aioquic's handler with addresses as they come from a socket)."""

    def __init__(self) -> None:
        self._handler = QuicRetryTokenHandler()

    def make(self, address: tuple[Any, ...], original_cid: bytes, retry_cid: bytes, now: float) -> bytes:
        """Return a token for the client at ``address``."""
        return self._handler.create_token(
            address=address,
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
            now=now,
        )

    def check_untrusted(self, address: tuple[Any, ...], cid: bytes, token: bytes, now: float) -> bytes | None:
        """Return the original destination connection id that a valid token holds, else None."""
        try:
            return self._handler.validate_token(address=address, destination_cid=cid, token=token, now=now)
        except ValueError:
            return None
