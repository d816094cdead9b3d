"""Sizes, from the path under the tunnel to the game's TCP segments in it. Arithmetic only.

Owns: every overhead between the two, each with its reason. Must not know: how a path MTU is found, what a room agreed.

From the outside in, bytes, for the smallest packet that QUIC may count on (RFC 9000 section 14) and an Ethernet path::

                                                              any path     IPv4, 1500     IPv6, 1500
    path MTU                                                                     1500           1500
    - IP header (20 or 40), UDP header (8)
    = QUIC packet = UDP payload                                   1200           1472           1452
    - 1 flags, 8 connection id, 2 packet number, 16 AEAD tag
    - 1 DATAGRAM frame type, 2 its length
    = datagram budget = largest overlay datagram                  1170           1442           1422
    - 4 overlay header
    = largest Ethernet frame that travels whole                   1166           1438           1418
    - 14 Ethernet header
    = largest TAP MTU of a room without fragments                 1152           1424           1404
    - 20 or 40 IP, 20 TCP
    = TCP MSS inside, IPv4 / IPv6                            1112 / 1092    1384 / 1364    1364 / 1344

1170 was checked with aioquic 1.7.2 in both directions, as were 1202, 1222, 1370, 1422 and 1442 for their packet sizes:
with one byte more, the datagram and all behind it are stuck. The same run showed how a peer reads its own limit
(max_datagram_frame_size): type, length field and payload count together.
"""

from __future__ import annotations

from typing import Final

from .ethernet import HEADER_SIZE as ETHERNET_HEADER_SIZE
from .ip import IPV4_HEADER_SIZE, IPV6_HEADER_SIZE
from .overlay import HEADER_SIZE as OVERLAY_HEADER_SIZE

__all__ = [
    "AEAD_TAG_SIZE",
    "CONNECTION_ID_SIZE",
    "DATAGRAM_FRAME_TYPE_SIZE",
    "DEFAULT_TAP_MTU",
    "MIN_QUIC_PACKET_SIZE",
    "MIN_TAP_MTU",
    "MIN_TAP_MTU_IPV6",
    "MIN_TCP_MSS",
    "PACKET_NUMBER_SIZE",
    "SHORT_HEADER_FLAGS_SIZE",
    "TCP_HEADER_SIZE",
    "UDP_HEADER_SIZE",
    "MtuError",
    "budget_for_tap_mtu",
    "datagram_budget",
    "overlay_frame_budget",
    "path_mtu_for",
    "quic_packet_size_for",
    "tap_mtu_for",
    "tcp_mss_for",
]

UDP_HEADER_SIZE: Final = 8
"""Bytes (RFC 768)."""
TCP_HEADER_SIZE: Final = 20
"""Bytes without options. The MSS leaves options out: who sends them makes the segment smaller (RFC 6691)."""

MIN_QUIC_PACKET_SIZE: Final = 1200
"""Bytes of UDP payload that every QUIC path carries (RFC 9000 section 14). A new connection's budget rests on it."""
SHORT_HEADER_FLAGS_SIZE: Final = 1
"""First byte of a 1-RTT packet (RFC 9000 section 17.3.1)."""
CONNECTION_ID_SIZE: Final = 8
"""Bytes of the destination connection id. aioquic makes its own 8 long (``connection_id_length``), so both ends of ours
send 8."""
PACKET_NUMBER_SIZE: Final = 2
"""aioquic always sends two bytes (``PACKET_NUMBER_SEND_SIZE``)."""
AEAD_TAG_SIZE: Final = 16
"""All AEADs of QUIC version 1 (RFC 9001 section 5.3)."""
DATAGRAM_FRAME_TYPE_SIZE: Final = 1
"""Type 0x31, "with length", which is the one that aioquic sends (RFC 9221 section 4)."""

DEFAULT_TAP_MTU: Final = 1500
"""What the house uses. Frames over the budget travel in pieces, so there is no reason for less."""
MIN_TAP_MTU: Final = 576
"""Least MTU for a room without fragments: what every IPv4 host must be able to receive (RFC 791). Least budget: 594."""
MIN_TAP_MTU_IPV6: Final = 1280
"""With less, Linux and Windows switch IPv6 off on the adapter (RFC 8200 section 5). It takes a budget of 1298, so a
QUIC packet of 1328: over the guaranteed 1200. A room without fragments may have to do without IPv6."""
MIN_TCP_MSS: Final = 536
"""No MSS is clamped lower: it is what TCP assumes when the option is missing (RFC 9293 section 3.7.1). Should a path
carry less, pieces carry the rest."""

# Largest value of a QUIC variable-length integer by its size in bytes (RFC 9000 section 16).
_VARINT_LIMITS = ((1, 63), (2, 16383), (4, 1073741823))
_IP_HEADER_SIZES = {4: IPV4_HEADER_SIZE, 6: IPV6_HEADER_SIZE}


class MtuError(ValueError):
    """A local caller asked for an IP version other than 4 and 6."""


def _ip_header_size(ip_version: int) -> int:
    try:
        return _IP_HEADER_SIZES[ip_version]
    except KeyError:
        raise MtuError(f"There is no IP version {ip_version} here; only 4 and 6.") from None


def quic_packet_size_for(path_mtu: int, ip_version: int) -> int:
    """Give the largest QUIC packet (UDP payload, bytes) on a path of ``path_mtu`` bytes: 1472 for (1500, 4).

    Without IPv4 options or IPv6 extension headers: we send none. Raises MtuError.
    """
    return path_mtu - _ip_header_size(ip_version) - UDP_HEADER_SIZE


def path_mtu_for(quic_packet_size: int, ip_version: int) -> int:
    """Give the path MTU, bytes, that a QUIC packet needs: 1228 for (1200, 4), 1248 for (1200, 6). Raises MtuError."""
    return quic_packet_size + _ip_header_size(ip_version) + UDP_HEADER_SIZE


def datagram_budget(
    quic_packet_size: int = MIN_QUIC_PACKET_SIZE,
    *,
    connection_id_size: int = CONNECTION_ID_SIZE,
    packet_number_size: int = PACKET_NUMBER_SIZE,
    peer_frame_limit: int | None = None,
) -> int:
    """Give the largest overlay datagram, bytes, that one QUIC packet carries and the peer takes: 1170 for 1200.

    ``quic_packet_size``: UDP payload, bytes. ``connection_id_size``: of the peer's connection id, which we send.
    ``peer_frame_limit``: the peer's max_datagram_frame_size, which counts type and length field too (RFC 9221
    section 3); it is network input, so any number is taken. 0 means that nothing can be sent.

    The DATAGRAM has the packet for itself: with an ACK in front it would wait for the next packet, and fit there.
    """
    header = SHORT_HEADER_FLAGS_SIZE + connection_id_size + packet_number_size
    frame = quic_packet_size - header - AEAD_TAG_SIZE
    if peer_frame_limit is not None:
        frame = min(frame, peer_frame_limit)
    rest = frame - DATAGRAM_FRAME_TYPE_SIZE
    return max(0, *(min(rest - size, limit) for size, limit in _VARINT_LIMITS))


def overlay_frame_budget(budget: int) -> int:
    """Give the largest Ethernet frame, bytes, that travels whole in overlay datagrams of ``budget`` bytes."""
    return max(0, budget - OVERLAY_HEADER_SIZE)


def tap_mtu_for(budget: int, ceiling: int = DEFAULT_TAP_MTU) -> int:
    """Give the TAP MTU, bytes, whose full untagged frames travel whole in overlay datagrams of ``budget`` bytes.

    Never over ``ceiling``: the house cannot take more than its own MTU, whatever the path could. May be less than
    MIN_TAP_MTU: then the caller refuses, with both numbers.
    """
    return max(0, min(overlay_frame_budget(budget) - ETHERNET_HEADER_SIZE, ceiling))


def budget_for_tap_mtu(tap_mtu: int) -> int:
    """Give the least overlay budget, bytes, that carries full frames of ``tap_mtu`` whole: 1518 for 1500."""
    return tap_mtu + ETHERNET_HEADER_SIZE + OVERLAY_HEADER_SIZE


def tcp_mss_for(budget: int, ip_version: int) -> int:
    """Give the TCP MSS, bytes, whose full segments travel whole in overlay datagrams of ``budget`` bytes.

    ``ip_version`` is that of the packets inside the tunnel. Never under MIN_TCP_MSS or over 65535. Raises MtuError.
    """
    segment = overlay_frame_budget(budget) - ETHERNET_HEADER_SIZE - _ip_header_size(ip_version) - TCP_HEADER_SIZE
    return min(max(segment, MIN_TCP_MSS), 0xFFFF)
