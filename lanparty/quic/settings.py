"""Constants of lanparty's QUIC, each with its reason.

Owns: numbers. Must not know: anything else.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ALPN",
    "BATCH",
    "CONTROL_WINDOW",
    "CRYPTO_LIMIT",
    "GOODBYES",
    "GOODBYE_INTERVAL",
    "HANDSHAKE_TIMEOUT",
    "IDLE_TIMEOUT",
    "MAX_DATAGRAM_FRAME_SIZE",
    "QUEUE_AGE",
    "QUEUE_BYTES",
    "RECEIVE_SIZE",
    "SEND_BUFFER",
    "UDP_PAYLOAD",
]

ALPN: Final = "lanparty/1"
"""Name and major version of what we speak over QUIC (RFC 7301)."""

UDP_PAYLOAD: Final = 1200
"""Bytes. The largest UDP payload we send: what every QUIC path carries (RFC 9000 section 14). No path MTU discovery
yet."""

RECEIVE_SIZE: Final = 2048
"""Bytes read of one UDP packet. Above any payload on a 1500-byte path; what is longer is dropped and counted."""

MAX_DATAGRAM_FRAME_SIZE: Final = 65535
"""Bytes. We take any DATAGRAM frame that fits a packet (RFC 9221 section 3 recommends this value)."""

IDLE_TIMEOUT: Final = 10.0
"""Seconds without a packet until both ends forget the connection. Heartbeats of 1 s keep it alive; ten lost in a row do
not happen on a path worth keeping, and a dead relay entry is gone before its player gives up."""

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds for the handshake: 4 tries of aioquic (0.2, 0.4, 0.8, 1.6 s), so 30 % loss still gets through."""

BATCH: Final = 64
"""Packets read per wake-up: one turn of other tasks waits for at most about 64 x 20 us."""

QUEUE_BYTES: Final = 512 * 1024
"""Bytes of overlay datagrams that wait per connection: 150 ms at about 28 Mbit/s."""

QUEUE_AGE: Final = 0.150
"""Seconds that an overlay datagram may wait: a game frame older than that does harm, and TCP has noticed."""

CONTROL_WINDOW: Final = 64 * 1024 + 4
"""Bytes of the control stream that the peer may send ahead of our reading: one control frame and its length prefix."""

SEND_BUFFER: Final = 64 * 1024
"""Bytes of control data that may wait for acknowledgement before ``send_all`` waits."""

CRYPTO_LIMIT: Final = 64 * 1024
"""Bytes of TLS handshake data taken from a peer. The largest real certificate chains are near 20 KiB; aioquic alone
would buffer 512 KiB for a stranger (RFC 9000 section 7.5 asks for 4 KiB at least)."""

GOODBYES: Final = 3
"""Copies of CONNECTION_CLOSE. One lost packet must not leave the peer waiting for its idle time-out; three cover the
bursts of three of fault 1 in two cases of three, heartbeats the rest."""

GOODBYE_INTERVAL: Final = 0.02
"""Seconds between the copies: longer than a burst, short enough for shutdown not to feel slow."""
