"""Which flow an overlay datagram belongs to, for fair queues: read from its first bytes, cheaply.

Owns: what makes two datagrams the same flow, which ones are control traffic, and who pays for them.
Must not know: queues, QUIC, the clock.

A flow is what must stay in order. Its identity is exact, nothing is hashed to a number of buckets:

==========================================  ===============================================================
IPv4 without options, IPv6 without          origin, MACs, addresses, protocol, ports
extension headers: TCP and UDP, whole
other IP, and fragments                     origin, MACs, addresses, protocol (all fragments of a packet alike)
VLAN-tagged frames, any other type          origin, MACs
ARP, DHCP, DHCPv6, ND                       control: one flow per payer
echoes                                      control: one flow per origin
first piece of a frame                      as its frame
later piece                                 see ``piece_of``: it holds no header
==========================================  ===============================================================

A TCP connection's SYN and pure ACKs are of its flow; the two directions are two flows.

The payer is the member whose share of the line a flow uses up: the origin, where the relay has stamped one. Members and
gateways send origin 0; there it is the destination MAC (all group addresses are one), which on a gateway tells the
members apart that the house sends to, and on a member's own line concerns nobody else.

Two ways in, because classification is paid for every datagram that has to wait:

1. ``head_keys_untrusted``: one masked integer per datagram (0.13 us). Datagrams with the same one are of the same flow
   whenever ``classify_untrusted`` has given that integer as the flow's key, which it does for TCP and UDP.
2. ``classify_untrusted``: everything else, and the first of each flow (about 1 us).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6
from .mac import BROADCAST, MAC_SIZE
from .overlay import HEADER_SIZE, PIECE_HEADER_SIZE, VERSION, Kind

__all__ = ["Identity", "classify_untrusted", "head_keys_untrusted", "is_piece", "piece_of"]


class Identity(NamedTuple):
    """What `classify_untrusted` says. A named tuple because one is made per flow, and per datagram of rarer kinds."""

    key: int | bytes
    """Equal for datagrams of one flow. An integer is a head key, see `head_keys_untrusted`."""
    payer: bytes
    """Origin (2 bytes), or where that is 0, destination MAC (6 bytes, all ones for a group)."""
    control: bool
    """ARP, DHCP, DHCPv6, ND or an echo: what other traffic cannot begin without."""


_FRAME: Final = VERSION << 4 | Kind.FRAME
_PIECE: Final = VERSION << 4 | Kind.PIECE
_ECHO: Final = VERSION << 4 | Kind.ECHO
_PIECE_START: Final = bytes((_PIECE,))

# Offsets in a datagram with a whole frame. Flags (byte 1) are not part of a flow: only some of a TCP connection's
# frames are CHECKSUM_PARTIAL.
_ADDRESSES: Final = HEADER_SIZE + 12
"""End of the two MACs."""
_IP: Final = HEADER_SIZE + 14
_TYPE_IPV4: Final = ETHERTYPE_IPV4.to_bytes(2, "big")
_TYPE_IPV6: Final = ETHERTYPE_IPV6.to_bytes(2, "big")
_TYPE_ARP: Final = ETHERTYPE_ARP.to_bytes(2, "big")

_HEAD4: Final = _IP + 24
"""Bytes up to the ports behind an IPv4 header of 20 bytes."""
_HEAD6: Final = _IP + 44
"""Bytes up to the ports behind an IPv6 header."""
_FIXED: Final = b"\xff\x00" + b"\xff" * (_IP - 2)
"""Overlay header without flags, MACs, type."""
_MASK4: Final = int.from_bytes(
    _FIXED
    + b"\xff\x00\x00\x00\x00\x00"  # version and header length; not service, total length, identification
    + b"\x3f\xff\x00\xff\x00\x00"  # "more fragments" and offset, protocol; not "don't fragment", TTL, checksum
    + b"\xff" * 12  # addresses, ports
)
_MASK6: Final = int.from_bytes(
    _FIXED
    + b"\xf0\x00\x00\x00\x00\x00"  # version; not class, flow label, payload length
    + b"\xff\x00"  # next header; not hop limit
    + b"\xff" * 36  # addresses, ports
)
_MARK6: Final = 1 << 8 * _HEAD6
"""Keeps a short datagram's key under the IPv6 mask apart from all keys under the IPv4 mask."""

_TCP: Final = 6
_UDP: Final = 17
_ICMPV6: Final = 58
_DHCP_PORTS: Final = frozenset((67, 68))
_DHCPV6_PORTS: Final = frozenset((546, 547))
_ND_TYPES: Final = frozenset(range(133, 137))
"""Router and neighbour solicitations and advertisements (RFC 4861 section 4)."""


def head_keys_untrusted(datagrams: Sequence[bytes]) -> list[int]:
    """Give each datagram's head key: its leading bytes as a number, without those that differ within a flow.

    Whether they are taken as IPv4 or as IPv6 is decided by the first datagram, because batches are mostly of one kind;
    in a mixed batch the others get keys that `classify_untrusted` never gives. Never raises.
    """
    number = int.from_bytes
    if datagrams and datagrams[0][_ADDRESSES:_IP] == _TYPE_IPV6:
        return [number(datagram[:_HEAD6]) & _MASK6 | _MARK6 for datagram in datagrams]
    return [number(datagram[:_HEAD4]) & _MASK4 for datagram in datagrams]


def is_piece(datagram: bytes) -> bool:
    """Whether ``datagram`` is a piece of a frame."""
    return datagram[:1] == _PIECE_START


def piece_of(piece: bytes) -> tuple[bytes, bytes, bool]:
    """Tell of a piece: its origin, its frame's id (each 2 bytes), and whether it is the first one of the frame."""
    return piece[2:4], piece[4:6], piece[6:7] == b"\x00"


def classify_untrusted(datagram: bytes) -> Identity:
    """Tell which flow ``datagram`` belongs to. Takes any bytes, never raises; garbage is a flow of its origin."""
    kind = datagram[:1]
    if kind == _PIECE_START:
        if datagram[6:7] != b"\x00":
            return Identity(datagram[:1] + datagram[2:4], datagram[2:4], control=False)
        # As if it were the frame: no first piece is so short that it ends before the ports, unless the frame is tiny.
        return classify_untrusted(bytes((_FRAME,)) + datagram[1:HEADER_SIZE] + datagram[PIECE_HEADER_SIZE:])
    payer = datagram[2:HEADER_SIZE]
    if len(datagram) < _IP or datagram[0] != _FRAME:
        return Identity(kind + payer, payer, control=datagram[:1] == bytes((_ECHO,)))
    if payer == b"\x00\x00":
        payer = datagram[HEADER_SIZE : HEADER_SIZE + MAC_SIZE]
        if payer[0] & 1:
            payer = BROADCAST
    ethertype = datagram[_ADDRESSES:_IP]
    if ethertype == _TYPE_IPV4:
        return _ipv4(datagram, payer)
    if ethertype == _TYPE_IPV6:
        return _ipv6(datagram, payer)
    if ethertype == _TYPE_ARP:
        return _control(payer)
    return Identity(datagram[2:_ADDRESSES], payer, control=False)


def _control(payer: bytes) -> Identity:
    return Identity(b"control" + payer, payer, control=True)


def _ipv4(datagram: bytes, payer: bytes) -> Identity:
    if len(datagram) < _HEAD4 or datagram[_IP] >> 4 != 4:
        return Identity(datagram[2:_ADDRESSES], payer, control=False)
    protocol = datagram[_IP + 9]
    fragment = datagram[_IP + 6] & 0x3F or datagram[_IP + 7]
    if (protocol != _UDP and protocol != _TCP) or fragment or datagram[_IP] != 0x45:
        return Identity(
            datagram[2:_ADDRESSES] + datagram[_IP + 9 : _IP + 10] + datagram[_IP + 12 : _IP + 20], payer, False
        )
    if protocol == _UDP:
        ports = datagram[_IP + 20 : _HEAD4]
        if int.from_bytes(ports[:2]) in _DHCP_PORTS and int.from_bytes(ports[2:]) in _DHCP_PORTS:
            return _control(payer)
    return Identity(int.from_bytes(datagram[:_HEAD4]) & _MASK4, payer, control=False)


def _ipv6(datagram: bytes, payer: bytes) -> Identity:
    if len(datagram) < _HEAD6 or datagram[_IP] >> 4 != 6:
        return Identity(datagram[2:_ADDRESSES], payer, control=False)
    protocol = datagram[_IP + 6]
    if protocol == _ICMPV6 and datagram[_IP + 40] in _ND_TYPES:
        return _control(payer)
    if protocol != _UDP and protocol != _TCP:
        return Identity(
            datagram[2:_ADDRESSES] + datagram[_IP + 6 : _IP + 7] + datagram[_IP + 8 : _IP + 40], payer, False
        )
    if protocol == _UDP:
        ports = datagram[_IP + 40 : _HEAD6]
        if int.from_bytes(ports[:2]) in _DHCPV6_PORTS and int.from_bytes(ports[2:]) in _DHCPV6_PORTS:
            return _control(payer)
    return Identity(int.from_bytes(datagram[:_HEAD6]) & _MASK6 | _MARK6, payer, control=False)
