"""Plain frames, in which the guard's verdict hangs on the first bytes alone: the short way's two questions.

A *plain* frame is Ethernet II, at once IPv4 without options and not a fragment, or IPv6 without extension headers; then
at once TCP, UDP, or IPv4's ICMP, whole as far as the guard looks; UDP with no port of DHCP's or a routing protocol's;
of ICMP an echo request or reply, which is a ping. Its *head* is the overlay header, both MACs, the type, and the byte
with the IP version and IPv4's header length::

    overlay datagram   0        4        10       16     18
                      +--------+--------+--------+------+---------+----- IPv4: total length, fragment, protocol, ports
                      | header | dest.  | source | type | ver|IHL | ...  IPv6: payload length, next header, ports
                      +--------+--------+--------+------+---------+-----
                      |------------------ head -----------------|

Two plain frames with the same head and the same IP source address, neither longer than the room carries, get the same
verdict as long as the guard's ``version`` stays the same and its ``holds_until`` is not reached, by row of the table:

    1         length                 asked by the caller: `Guard.limit`
    2, 6      addresses              in the head
    3, 4, 5   tags, SNAP, type       none: the type in the head is IP's
    7, 14     ARP, ND                none: neither is TCP or UDP, or ICMP of IPv4
    8, 12     lying or long headers  none: lengths are checked here as there, ICMP's 8 bytes as UDP's, and
                                     nothing is between IP and what it carries
    9, 10, 15 DHCP                   none: no frame with one of its ports is plain
    11        whose the source is    the source address is asked by the caller; version and time. Only DHCP and IGMP may
                                     come from 0.0.0.0, and neither is plain
    13, 16    what steers            none: not TCP, no frame with one of the ports is plain, and of ICMP only echoes
                                     are: redirects and router advertisements take the long way, and so does all of
                                     ICMPv6, where discovery is

and row 17 puts them in the same kind of traffic, because it goes by the destination MAC (``storm.py``). From the house,
nothing is learned of IPv4 but DHCP. Below strict, the guard asks less of ICMP and of UDP alike.

A run of one flow's frames differs in identification, numbers and checksums only; `Shape.read` gives what is left, to be
compared as a whole: datagrams of one size that are equal in it are all plain or none of them is.

Owns: what plain means. Must not know: rooms, members, where a frame goes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from lanparty.guard.ipv4 import ROUTING_PORTS
from lanparty.proto.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from lanparty.proto.overlay import HEADER_SIZE as OVERLAY_SIZE
from lanparty.proto.overlay import VERSION, Kind

__all__ = ["FRAME_HEAD_SIZE", "HEAD_SIZE", "Shape", "frame_shape_of", "plain_fields_untrusted", "shape_of"]

HEAD_SIZE: Final = 19
"""Bytes of an overlay datagram that make its head."""
FRAME_HEAD_SIZE: Final = HEAD_SIZE - OVERLAY_SIZE
"""Bytes of a bare frame that make its head: there is no overlay header."""


class Shape(NamedTuple):
    """How to look at datagrams with one head."""

    read: Callable[[bytes], tuple[Any, ...]]
    """Gives the fields of a datagram that matter, the head first. Raises struct.error when it is too short to be
    plain."""
    is_plain: Callable[[tuple[Any, ...], int], bool]
    """Tells from them, and from the datagram's size in bytes, whether it is plain."""
    source: int
    """Which of them is the IP source address, as a number or as bytes."""


_ICMP: Final = 1
_TCP: Final = 6
_UDP: Final = 17
_UPPER_SIZE: Final = 8
"""Bytes of a UDP header, and of ICMP's: what the guard wants to see."""
_ECHOES: Final = frozenset({0, 8})
"""ICMP types: echo reply and request (RFC 792). The guard looks at no code."""

_LEAST_IPV4: Final = 20 + _UPPER_SIZE
_IPV6_HEADER_SIZE: Final = 40
_FRAGMENT: Final = 0x3FFF
"""More fragments, or an offset."""
_STEERING4: Final = frozenset({67, 68}) | ROUTING_PORTS
_STEERING6: Final = frozenset({546, 547}) | ROUTING_PORTS


def _shapes(head: int) -> tuple[Shape, Shape]:
    """Make the shapes of IPv4 and IPv6 where ``head`` bytes are before the rest of the packet, its first included."""
    # Addresses and ports are one number each where that is possible: objects are what reading costs.
    # head | TOS | total length | identification | flags, fragment offset | TTL | protocol | checksum | source | ports,
    # or ICMP's type and more
    ipv4 = struct.Struct(f"!{head}sxH2xHxB2xI4xI")
    # head | flow label | payload length | next header | hop limit | source | ports
    ipv6 = struct.Struct(f"!{head}s3xHBx16s16xI")
    outside = head - 1
    """Bytes before the IP packet."""
    outside6 = outside + _IPV6_HEADER_SIZE

    def is_plain_ipv4(fields: tuple[Any, ...], size: int) -> bool:
        _, total, fragment, protocol, _, ports = fields
        if fragment & _FRAGMENT or not _LEAST_IPV4 <= total <= size - outside:
            return False
        if protocol == _UDP:
            return ports >> 16 not in _STEERING4 and ports & 0xFFFF not in _STEERING4
        return protocol == _TCP or (protocol == _ICMP and ports >> 24 in _ECHOES)

    def is_plain_ipv6(fields: tuple[Any, ...], size: int) -> bool:
        _, payload, protocol, _, ports = fields
        if not _UPPER_SIZE <= payload <= size - outside6:
            return False
        return protocol == _TCP or (
            protocol == _UDP and ports >> 16 not in _STEERING6 and ports & 0xFFFF not in _STEERING6
        )

    return Shape(ipv4.unpack_from, is_plain_ipv4, 4), Shape(ipv6.unpack_from, is_plain_ipv6, 3)


_IN_DATAGRAM: Final = _shapes(HEAD_SIZE)
_IN_FRAME: Final = _shapes(FRAME_HEAD_SIZE)
_FIRST: Final = VERSION << 4 | Kind.FRAME
# In IPv6 the low half of the byte belongs to the traffic class.
_FIRST_BYTES: Final = {(ETHERTYPE_IPV4, 0x45): 0, **{(ETHERTYPE_IPV6, first): 1 for first in range(0x60, 0x70)}}


def shape_of(head: bytes) -> Shape | None:
    """Give how to look at the overlay datagrams with this ``head``; None when none of them is plain."""
    if len(head) != HEAD_SIZE or head[0] != _FIRST:
        return None
    which = _FIRST_BYTES.get((head[16] << 8 | head[17], head[18]))
    return None if which is None else _IN_DATAGRAM[which]


def frame_shape_of(head: bytes) -> Shape | None:
    """Give how to look at the bare frames with this ``head``; None when none of them is plain."""
    if len(head) != FRAME_HEAD_SIZE:
        return None
    which = _FIRST_BYTES.get((head[12] << 8 | head[13], head[14]))
    return None if which is None else _IN_FRAME[which]


def plain_fields_untrusted(shape: Shape, data: bytes) -> tuple[Any, ...] | None:
    """Give what matters of ``data`` if it is plain, else None."""
    try:
        fields = shape.read(data)
    except struct.error:
        return None
    return fields if shape.is_plain(fields, len(data)) else None
