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
    "KEY_PHASE",
    "MAX_DATAGRAM_FRAME_SIZE",
    "MAX_UDP_PAYLOAD",
    "QUEUE_AGE",
    "QUEUE_BYTES",
    "RECEIVE_SIZE",
    "SEND_BUFFER",
    "UDP_PAYLOAD",
]

ALPN: Final = "lanparty/1"
"""Name and major version of what we speak over QUIC (RFC 7301)."""

UDP_PAYLOAD: Final = 1200
"""Bytes. The largest UDP payload we send before path MTU discovery found more: what every QUIC path carries (RFC 9000
section 14)."""

MAX_UDP_PAYLOAD: Final = 1548
"""Bytes. The largest that path MTU discovery looks for: a full Ethernet frame of 1514 bytes in one packet. Ordinary
paths stop it at 1472 (IPv4) or 1452 (IPv6)."""

RECEIVE_SIZE: Final = 2048
"""Bytes read of one UDP packet. Above any payload on a 1500-byte path; what is longer is dropped and counted."""

MAX_DATAGRAM_FRAME_SIZE: Final = 65535
"""Bytes. We take any DATAGRAM frame that fits a packet (RFC 9221 section 3 recommends this value)."""

IDLE_TIMEOUT: Final = 10.0
"""Seconds without a packet until both ends forget the connection. Members speak each 2 s, and twice a second when one
answer is missing; a dead relay entry is gone before its player gives up."""

KEY_PHASE: Final = 1 << 22
"""Packets sealed with one key before it is updated: half of what AES-GCM allows (2^23, RFC 9001 section 6.6), and 50 s
at a gigabit. An update waits until the one before is confirmed, for which there is the other half."""

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds for the handshake: 4 tries of aioquic (0.2, 0.4, 0.8, 1.6 s), so 30 % loss still gets through."""

BATCH: Final = 64
"""Packets read per wake-up: one turn of other tasks waits for at most about 64 x 20 us."""

QUEUE_BYTES: Final = 2 * 1024 * 1024
"""Bytes of overlay datagrams that wait per connection: 24 ms at 700 Mbit/s, which holds the bursts of eight inner TCPs,
and twice what one adds in slow start over a 50 ms path at 150 Mbit/s. On slow lines age and CoDel bind long before."""

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
