"""Where the transport header of an IP packet is: IPv4 options and IPv6 extension headers walked to their end.

Owns: the IP header layouts that the relay's guard and the MSS clamp share. Must not know: which protocols are allowed.

What matters (offsets from the IP header)::

    IPv4   0 version 4 | IHL 4    2 total length    6 flags 3 | fragment offset 13   8 TTL   9 protocol   20 options
    IPv6   0 version 4 | ...      4 payload length  6 next header                    7 hop limit          40 extensions
    extension 0, 43, 60, 135, 139, 140    0 next header   1 length in 8 bytes, less 1   (RFC 8200, 6275, 7401, 5533)
    extension 51 (AH)                     0 next header   1 length in 4 bytes, less 2   (RFC 4302)
    extension 44 (fragment), 8 bytes      0 next header   2 offset 13 | 0 2 | more 1    (RFC 8200 section 4.5)

There is no byte limit on the walk: filters that gave up after some bytes are how router advertisements got past them
(RFC 7113). The walk ends with the packet, or at MAX_EXTENSION_HEADERS, and then says that it did not reach the end.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader

__all__ = [
    "EXTENSION_HEADERS",
    "IPV4_HEADER_SIZE",
    "IPV6_HEADER_SIZE",
    "MAX_EXTENSION_HEADERS",
    "Transport",
    "transport_at_untrusted",
    "transport_untrusted",
]

IPV4_HEADER_SIZE: Final = 20
"""Bytes of an IPv4 header without options."""
IPV6_HEADER_SIZE: Final = 40
"""Bytes of the fixed IPv6 header."""
MAX_EXTENSION_HEADERS: Final = 64
"""The walk stops, incomplete, behind this many IPv6 extension headers. Lawful packets have at most a handful (RFC 8504
section 5.3 lets hosts refuse more than 8); a full frame of empty ones would keep the relay busy for 40 us."""

_FRAGMENT = 44
_AUTHENTICATION = 51
EXTENSION_HEADERS: Final = frozenset({0, 43, 60, _FRAGMENT, _AUTHENTICATION, 135, 139, 140})
"""Next-header numbers that the walk goes through: hop-by-hop, routing, destination options, fragment, authentication,
mobility, HIP, Shim6. ESP (50) and "no next header" (59) end it: they are what the packet carries."""


class Transport(NamedTuple):
    """Where a packet's transport header is. A named tuple because the guard makes one per IP frame (a third of the time
    of a frozen attrs object).
    """

    protocol: int
    """IP protocol number at ``offset``; for an incomplete walk, the header that it could not get past."""
    offset: int
    """Bytes from the start of the frame."""
    length: int
    """Bytes from ``offset`` to the end of the IP packet (not of the frame: that may be padded)."""
    first_fragment: bool
    """The packet is whole, or its fragment offset is 0: the transport header is due here."""
    fragment: bool
    """IPv4 with "more fragments" or an offset; IPv6 with any fragment header, an atomic one (RFC 6946) included."""
    complete: bool
    """The walk reached a header that is not an extension, inside this packet, in a first fragment. ``length`` may still
    be less than that header needs. Where a later fragment begins is never known to be a header: never complete."""
    ip_version: int
    """4 or 6."""
    hop_limit: int
    """TTL or hop limit."""
    authenticated: bool = False
    """An IPv6 authentication header was met: changing the packet would break it."""


def transport_untrusted(frame: bytes, header: EthernetHeader) -> Transport | None:
    """Find the transport header of ``frame``, whose Ethernet header was parsed; None as in transport_at_untrusted."""
    return transport_at_untrusted(frame, header.ethertype, header.payload_offset)


def transport_at_untrusted(frame: bytes, ethertype: int, offset: int) -> Transport | None:
    """Find the transport header of the IP packet at ``offset``, without an EthernetHeader: the cheap way in.

    None when ``ethertype`` is neither IPv4 nor IPv6, or the fixed header is malformed: too short, another version, IHL
    under 5, total or payload length beyond the frame. Callers who filter must drop the latter. Never raises.
    """
    if ethertype == ETHERTYPE_IPV4:
        return _ipv4(frame, offset)
    if ethertype == ETHERTYPE_IPV6:
        return _ipv6(frame, offset)
    return None


def _ipv4(frame: bytes, start: int) -> Transport | None:
    room = len(frame) - start
    if room < IPV4_HEADER_SIZE:
        return None
    first = frame[start]
    header_size = (first & 0x0F) << 2
    total = frame[start + 2] << 8 | frame[start + 3]
    if first >> 4 != 4 or header_size < IPV4_HEADER_SIZE or total < header_size or total > room:
        return None
    fragment_field = (frame[start + 6] << 8 | frame[start + 7]) & 0x3FFF  # without "reserved" and "don't fragment"
    first_fragment = not fragment_field & 0x1FFF
    return Transport(
        frame[start + 9],
        start + header_size,
        total - header_size,
        first_fragment,
        fragment_field != 0,
        first_fragment,
        4,
        frame[start + 8],
    )


def _ipv6(frame: bytes, start: int) -> Transport | None:
    room = len(frame) - start
    if room < IPV6_HEADER_SIZE or frame[start] >> 4 != 6:
        return None
    # Payload length 0 is not taken for a jumbogram (RFC 2675): those are longer than 65 535 bytes, a frame never is.
    # Its extension headers are then outside the packet, and the walk is incomplete.
    end = start + IPV6_HEADER_SIZE + (frame[start + 4] << 8 | frame[start + 5])
    if end > len(frame):
        return None
    protocol = frame[start + 6]
    hop_limit = frame[start + 7]
    offset = start + IPV6_HEADER_SIZE
    fragment = authenticated = False
    for _ in range(MAX_EXTENSION_HEADERS):
        if protocol not in EXTENSION_HEADERS:
            return Transport(protocol, offset, end - offset, True, fragment, True, 6, hop_limit, authenticated)
        if offset + 8 > end:
            break
        if protocol == _FRAGMENT:
            fragment = True
            size = 8
            if (frame[offset + 2] << 8 | frame[offset + 3]) & 0xFFF8:
                rest = offset + size
                return Transport(frame[offset], rest, end - rest, False, True, False, 6, hop_limit, authenticated)
        elif protocol == _AUTHENTICATION:
            authenticated = True
            size = (frame[offset + 1] + 2) << 2
        else:
            size = (frame[offset + 1] + 1) << 3
        if offset + size > end:
            break
        protocol = frame[offset]
        offset += size
    return Transport(protocol, offset, end - offset, True, fragment, False, 6, hop_limit, authenticated)
