"""Clamp the MSS option of TCP SYN segments, so that TCP through the tunnel makes frames that travel whole.

Owns: finding the option, and the checksum. Must not know: budgets (``mtu.tcp_mss_for`` gives the numbers), direction.

A cut frame costs two packets and is lost when either is. Bulk data is TCP, and TCP says at its start how large a
segment may be: lowering that number in SYN and SYN-ACK is the one place where the tunnel changes a frame.

The way of a frame, cheapest test first, because nearly all leave at step 1 or 2:

1. EtherType IPv4 or IPv6 and protocol TCP, by their bytes. Tagged and SNAP frames leave here: no member may send them.
2. SYN set in the flags byte.
3. IP header in order, not a fragment (``ip``), TCP data offset inside the packet.
4. Options walked; every MSS option (kind 2, length 4) over the limit lowered. The last one counts for Linux, so all.
5. Checksum corrected by difference (RFC 1624, equation 3): a wrong one stays wrong, and is caught by the receiver.

A SYN without the option is left alone. TCP then assumes 536 (IPv6: 1220; RFC 9293 section 3.7.1), which travels whole
on all but the smallest budgets, where pieces carry it. Putting an option in would move the payload, rewrite IP length,
data offset and two checksums, and may find no room (40 bytes of options at most), all for stacks that are gone.

Left alone too: TCP-AO (kind 29), whose MAC covers the options (RFC 5925), and packets with an authentication header.
"""

from __future__ import annotations

from typing import Final

from .ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_SIZE
from .ip import EXTENSION_HEADERS, IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, transport_at_untrusted
from .mtu import TCP_HEADER_SIZE

__all__ = ["clamp_mss"]

_TCP = 6
_SYN = 0x02
_FLAGS = 13
_CHECKSUM = 16
_DATA_OFFSET = 12

_OPTION_END: Final = 0
_OPTION_NOP: Final = 1
_OPTION_MSS: Final = 2
_OPTION_AO: Final = 29

_IPV4_TYPE: Final = ETHERTYPE_IPV4.to_bytes(2, "big")
_IPV6_TYPE: Final = ETHERTYPE_IPV6.to_bytes(2, "big")
_IPV4_PROTOCOL = HEADER_SIZE + 9
_IPV6_NEXT_HEADER = HEADER_SIZE + 6
# Shortest frames that can hold a TCP header.
_IPV4_SMALLEST = HEADER_SIZE + IPV4_HEADER_SIZE + TCP_HEADER_SIZE
_IPV6_SMALLEST = HEADER_SIZE + IPV6_HEADER_SIZE + TCP_HEADER_SIZE
_IPV6_FLAGS = HEADER_SIZE + IPV6_HEADER_SIZE + _FLAGS


def clamp_mss(frame: bytes, mss_v4: int, mss_v6: int) -> bytes:
    """Return ``frame`` with the MSS of a TCP SYN lowered to ``mss_v4`` or ``mss_v6`` (bytes, 1..65535).

    The same object when there is nothing to do, which includes every malformed frame. No exceptions; an MSS is never
    made larger.
    """
    kind = frame[12:14]
    if kind == _IPV4_TYPE:
        if len(frame) < _IPV4_SMALLEST or frame[_IPV4_PROTOCOL] != _TCP:
            return frame
        flags = HEADER_SIZE + ((frame[HEADER_SIZE] & 0x0F) << 2) + _FLAGS
        if flags >= len(frame) or not frame[flags] & _SYN:
            return frame
        return _clamp_syn(frame, ETHERTYPE_IPV4, mss_v4)
    if kind == _IPV6_TYPE and len(frame) >= _IPV6_SMALLEST:
        protocol = frame[_IPV6_NEXT_HEADER]
        if protocol == _TCP:
            if frame[_IPV6_FLAGS] & _SYN:
                return _clamp_syn(frame, ETHERTYPE_IPV6, mss_v6)
        elif protocol in EXTENSION_HEADERS:
            return _clamp_syn(frame, ETHERTYPE_IPV6, mss_v6)
    return frame


def _clamp_syn(frame: bytes, ethertype: int, limit: int) -> bytes:
    transport = transport_at_untrusted(frame, ethertype, HEADER_SIZE)
    if (
        transport is None
        or transport.protocol != _TCP
        or not transport.complete
        or transport.fragment
        or transport.authenticated
        or transport.length < TCP_HEADER_SIZE
    ):
        return frame
    start = transport.offset
    header_size = frame[start + _DATA_OFFSET] >> 4 << 2
    if not frame[start + _FLAGS] & _SYN or not TCP_HEADER_SIZE < header_size <= transport.length:
        return frame
    places = _mss_places(frame, start + TCP_HEADER_SIZE, start + header_size)
    places = [place for place in places if frame[place] << 8 | frame[place + 1] > limit]
    if not places:
        return frame
    clamped = bytearray(frame)
    # RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
    total = ~(frame[start + _CHECKSUM] << 8 | frame[start + _CHECKSUM + 1]) & 0xFFFF
    for place in places:
        old = frame[place] << 8 | frame[place + 1]
        new = limit
        clamped[place : place + 2] = limit.to_bytes(2, "big")
        if (place - start) & 1:
            # The option may be at an odd place, behind one NOP. Its two bytes are then the low half of one word of the
            # checksum and the high half of the next, which adds up to the number with its halves changed round.
            old = (old & 0xFF) << 8 | old >> 8
            new = (new & 0xFF) << 8 | new >> 8
        total += (~old & 0xFFFF) + new
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    clamped[start + _CHECKSUM : start + _CHECKSUM + 2] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(clamped)


def _mss_places(frame: bytes, start: int, end: int) -> list[int]:
    """Give the offsets of the MSS values among the options; none if the options are malformed or authenticated."""
    places: list[int] = []
    while start < end:
        kind = frame[start]
        if kind == _OPTION_END:
            break
        if kind == _OPTION_NOP:
            start += 1
            continue
        if start + 1 >= end:
            return []
        size = frame[start + 1]
        if size < 2 or start + size > end or kind == _OPTION_AO:
            return []
        if kind == _OPTION_MSS and size == 4:
            places.append(start + 2)
        start += size
    return places
