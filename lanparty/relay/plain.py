"""Plain TCP and UDP frames, in which the guard's verdict hangs on the first bytes alone: the short way's two questions.

A *plain* frame is Ethernet II, at once IPv4 without options and not a fragment, or IPv6 without extension headers; then
TCP or UDP at once, whole as far as the guard looks; UDP with no port of DHCP's or a routing protocol's. Its *head* is
the overlay header, both MACs, the type, and the byte with the IP version and IPv4's header length::

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
    7, 14     ARP, ND                none: neither is TCP or UDP
    8, 12     lying or long headers  none: lengths are checked here as there, and nothing is between IP and TCP or UDP
    9, 10, 15 DHCP                   none: no frame with one of its ports is plain
    11        whose the source is    the source address is asked by the caller; version and time
    13, 16    what steers            none: not TCP, and no frame with one of the ports is plain

and row 17 puts them in the same kind of traffic, because it goes by the destination MAC (``storm.py``).

A run of one flow's frames differs in identification, numbers and checksums only; `Shape.read` gives what is left, to be
compared as a whole: datagrams of one size that are equal in it are all plain or none of them is.

Owns: what plain means. Must not know: rooms, members, where a frame goes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from lanparty.proto.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from lanparty.proto.overlay import VERSION, Kind
from lanparty.relay.guard_ipv4 import ROUTING_PORTS

__all__ = ["HEAD_SIZE", "Shape", "shape_of"]

HEAD_SIZE: Final = 19
"""Bytes of an overlay datagram that make its head."""


class Shape(NamedTuple):
    """How to look at datagrams with one head."""

    read: Callable[[bytes], tuple[Any, ...]]
    """Gives the fields of a datagram that matter, the head first. Raises struct.error when it is too short to be
    plain."""
    is_plain: Callable[[tuple[Any, ...], int], bool]
    """Tells from them, and from the datagram's size in bytes, whether it is plain."""
    source: int
    """Which of them is the IP source address, as a number or as bytes."""


_FRAME_START: Final = 4
_PACKET_START: Final = _FRAME_START + 14
_TCP: Final = 6
_UDP: Final = 17
_UDP_HEADER_SIZE: Final = 8

_IPV4_HEADER_SIZE: Final = 20
_IPV6_HEADER_SIZE: Final = 40
_FRAGMENT: Final = 0x3FFF
"""More fragments, or an offset."""
_STEERING4: Final = frozenset({67, 68}) | ROUTING_PORTS
_STEERING6: Final = frozenset({546, 547}) | ROUTING_PORTS

# Addresses and ports are one number each where that is possible: objects are what reading costs.
# head | TOS | total length | identification | flags and fragment offset | TTL | protocol | checksum | source | ports
_IPV4: Final = struct.Struct("!19sxH2xHxB2xI4xI")
# head | flow label | payload length | next header | hop limit | source | ports
_IPV6: Final = struct.Struct("!19s3xHBx16s16xI")


def _is_one_of(named: frozenset[int], ports: int) -> bool:
    """Whether the source or the destination port is ``named``."""
    return ports >> 16 in named or ports & 0xFFFF in named


def _is_plain_ipv4(fields: tuple[Any, ...], size: int) -> bool:
    _, total, fragment, protocol, _, ports = fields
    if fragment & _FRAGMENT or not _IPV4_HEADER_SIZE + _UDP_HEADER_SIZE <= total <= size - _PACKET_START:
        return False
    return protocol == _TCP or (protocol == _UDP and not _is_one_of(_STEERING4, ports))


def _is_plain_ipv6(fields: tuple[Any, ...], size: int) -> bool:
    _, payload, protocol, _, ports = fields
    if not _UDP_HEADER_SIZE <= payload <= size - _PACKET_START - _IPV6_HEADER_SIZE:
        return False
    return protocol == _TCP or (protocol == _UDP and not _is_one_of(_STEERING6, ports))


_SHAPE_IPV4: Final = Shape(_IPV4.unpack_from, _is_plain_ipv4, 4)
_SHAPE_IPV6: Final = Shape(_IPV6.unpack_from, _is_plain_ipv6, 3)
_FIRST: Final = VERSION << 4 | Kind.FRAME
_SHAPES: Final[dict[tuple[int, int, int], Shape]] = {
    (_FIRST, ETHERTYPE_IPV4, 0x45): _SHAPE_IPV4,
    # The low half of the byte belongs to the traffic class.
    **{(_FIRST, ETHERTYPE_IPV6, first): _SHAPE_IPV6 for first in range(0x60, 0x70)},
}


def shape_of(head: bytes) -> Shape | None:
    """Give how to look at the datagrams with this ``head``; None when none of them is plain."""
    return _SHAPES.get((head[0], head[16] << 8 | head[17], head[18])) if len(head) == HEAD_SIZE else None
