"""What a relay's connection no longer needs once its handshake is confirmed: 36 of 91 KiB for each member.

Owns: the list of what is let go. Must not know: when.

aioquic keeps for a connection's life what only the handshake uses: three output buffers of 16 KiB, the key schedule and
private keys of TLS, packet spaces and crypto streams of the Initial and Handshake levels. RFC 9001 section 4.9 has
their keys discarded, so late packets of those levels cannot be read anyway: each such object is replaced by one that
all connections share, which is in the state that aioquic leaves behind after discarding.

Only for servers: a client has one connection, and still takes session tickets.
"""

from __future__ import annotations

import functools
from typing import Final

import aioquic.quic.connection as aioquic_connection
from aioquic import tls
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

__all__ = ["forget_handshake"]

# Every connection makes the same 33 sets of encryption levels for its table of frame handlers, 8 KiB: sets that do not
# change can be the same ones.
aioquic_connection.EPOCHS = functools.cache(aioquic_connection.EPOCHS)

_NO_STREAM: Final = QuicStream()
_NO_SPACE: Final = QuicPacketSpace()
_NO_SPACE.discarded = True
_NO_KEYS: Final = CryptoPair()

_TLS_SECRETS: Final = (
    "key_schedule",
    "_key_schedule_psk",
    "_key_schedule_proxy",
    "received_extensions",
    "_x25519_private_key",
    "_x448_private_key",
    "_enc_key",
    "_dec_key",
)
_TLS_LISTS: Final = (
    "_ec_private_keys",
    "_signature_algorithms",
    "_supported_groups",
    "_supported_versions",
    "_cipher_suites",
    "_legacy_compression_methods",
    "_psk_key_exchange_modes",
    "handshake_extensions",
)


def forget_handshake(quic: QuicConnection) -> None:
    """Let go what ``quic``, a server's connection with a confirmed handshake, needed for its handshake alone."""
    epoch = tls.Epoch
    quic._crypto_buffers = {}
    quic._crypto_streams = {
        epoch.INITIAL: _NO_STREAM,
        epoch.HANDSHAKE: _NO_STREAM,
        epoch.ONE_RTT: quic._crypto_streams[epoch.ONE_RTT],
    }
    space = quic._spaces[epoch.ONE_RTT]
    quic._spaces = {epoch.INITIAL: _NO_SPACE, epoch.HANDSHAKE: _NO_SPACE, epoch.ONE_RTT: space}
    quic._loss.spaces = [space]
    quic._cryptos = {
        epoch.INITIAL: _NO_KEYS,
        epoch.HANDSHAKE: _NO_KEYS,
        epoch.ZERO_RTT: _NO_KEYS,
        epoch.ONE_RTT: quic._cryptos[epoch.ONE_RTT],
    }
    # The keys of this dict are versions: a late Initial is looked up, and then cannot be read.
    quic._cryptos_initial = dict.fromkeys(quic._cryptos_initial, _NO_KEYS)
    for name in _TLS_SECRETS:
        setattr(quic.tls, name, None)
    for name in _TLS_LISTS:
        setattr(quic.tls, name, [])
