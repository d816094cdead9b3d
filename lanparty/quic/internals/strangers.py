"""Packets outside any connection: what strangers are answered with.

Owns: headers of unknown packets, Version Negotiation, Retry and its tokens, refusals. Must not know: connections.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Final

from aioquic._buffer import Buffer
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lanparty.quic import settings
from lanparty.quic.internals.config import CONNECTION_ID_SIZE, VERSIONS
from lanparty.quic.internals.guarded import short_reason

__all__ = [
    "INITIAL",
    "VERSION_NEGOTIATION",
    "QuicHeader",
    "RetryTokens",
    "encode_initial_close",
    "encode_retry",
    "encode_version_negotiation",
    "parse_header_untrusted",
]

INITIAL: Final = QuicPacketType.INITIAL
VERSION_NEGOTIATION: Final = QuicPacketType.VERSION_NEGOTIATION

_NONCE: Final = 12
_TAG: Final = 16
"""Bytes (RFC 5116 section 5.1)."""
_ISSUED: Final = struct.Struct("!d")
_TOKEN_LIFETIME: Final = 30.0
"""Seconds: clients return it at once, so that a short time will do (RFC 9000 section 8.1.4)."""


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
    """Retry tokens that are good for one address and one connection id (RFC 9000 section 8.1.4).

    nonce, 12 bytes | AES-GCM of (time of issue, double | original connection id), bound to address and Retry's id

    aioquic has such tokens, too, at three times the cost: under a flood, making them is most of what a relay does.
    """

    def __init__(self) -> None:
        self._aead = AESGCM(AESGCM.generate_key(bit_length=128))

    def make(self, address: tuple[Any, ...], original_cid: bytes, retry_cid: bytes, now: float) -> bytes:
        """Return a token for the client at ``address``."""
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, _ISSUED.pack(now) + original_cid, _owner(address, retry_cid))

    def check_untrusted(self, address: tuple[Any, ...], cid: bytes, token: bytes, now: float) -> bytes | None:
        """Return the original destination connection id that a valid token holds, else None."""
        if len(token) < _NONCE + _ISSUED.size + _TAG:
            return None
        try:
            plain = self._aead.decrypt(token[:_NONCE], token[_NONCE:], _owner(address, cid))
        except InvalidTag:
            return None
        (issued,) = _ISSUED.unpack_from(plain)
        return plain[_ISSUED.size :] if now - issued <= _TOKEN_LIFETIME else None


def _owner(address: tuple[Any, ...], cid: bytes) -> bytes:
    return f"{address[0]} {address[1]} ".encode() + cid
