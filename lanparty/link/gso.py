"""The virtio header: what a kernel says of a frame's offloads, and what we say to it.

Owns: the 10-byte virtio header, making frames and super-frames of what a device hands up, cutting what cannot be
carried as a super-frame into finished frames. Pure: no socket, no clock.
Must not know: where the bytes come from, who gets the frames.

A packet socket, and a TAP with offloads, see a frame before the hardware would have finished its checksum and cut it
(TSO, USO), or after the kernel merged several into one (GRO, LRO). The virtio header says which (struct
virtio_net_hdr, linux/virtio_net.h; native byte order on both):

     0       1          2            4          6             8              10
    +-------+----------+------------+----------+-------------+--------------+----------------------------
    | flags | GSO type | header len | GSO size | csum start  | csum offset  | Ethernet frame
    +-------+----------+------------+----------+-------------+--------------+----------------------------
    flags     1 NEEDS_CSUM: the checksum field holds only the pseudo header's sum; bit 2 DATA_VALID: it was verified
    GSO type  0 none, 1 TCPv4, 3 UFO, 4 TCPv6, 5 UDP (USO); bit 0x80: the flow uses ECN
    header length is only a hint (the length of the kernel's linear part): we say how much is headers, and read nothing

Path of one read, cheapest first (the device itself takes what has neither flag nor GSO type):

1. ``take_untrusted``: NEEDS_CSUM on a plain frame (``proto.superframe``) over FINISH_LIMIT, or on a super-frame,
   makes a `SuperFrame`; the headers are checked, the payload is not looked at.
2. ``frames_untrusted``, other NEEDS_CSUM without GSO: ``finish_checksum_untrusted``, as the kernel's
   ``skb_checksum_help``.
3. Other GSO, and all of it where super-frames are switched off: ``segment_untrusted`` finds the headers in the frame
   itself and builds every segment with its own IP length, IP identification, sequence number or UDP length, and
   checksums, as ``tcp_gso_segment`` and ``__udp_gso_segment`` do.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import attrs

from lanparty.proto.superframe import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    MAX_SEGMENTS,
    MAX_SUPERFRAME,
    OffloadError,
    SuperFrame,
    checksum,
    internet_sum,
    superframe_untrusted,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanparty.link.device import DeviceCounters
    from lanparty.proto.superframe import Frame

__all__ = [
    "FINISH_LIMIT",
    "GSO_ECN",
    "GSO_NONE",
    "GSO_TCPV4",
    "GSO_TCPV6",
    "GSO_UDP",
    "GSO_UFO",
    "MAX_SUPERFRAME",
    "NEEDS_CSUM",
    "NO_OFFLOAD",
    "VNET_HEADER",
    "VNET_HEADER_SIZE",
    "OffloadError",
    "VnetHeader",
    "checksum",
    "finish_checksum_untrusted",
    "frames_untrusted",
    "segment_untrusted",
    "take_untrusted",
    "vnet_header",
]

VNET_HEADER: Final = struct.Struct("=BBHHHH")
VNET_HEADER_SIZE: Final = 10

NEEDS_CSUM: Final = 1
GSO_UFO: Final = 3
GSO_ECN: Final = 0x80

FINISH_LIMIT: Final = 128
"""Bytes up to which a partial checksum is finished at once: 0.4 us here, where the flag costs a check of all headers at
the other end (1 us), and what is so short is seldom joined. Acknowledgements and most games' packets are."""

_ETHERNET = 14
_TCP, _UDP = 6, 17
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
_CHECKSUM_OFFSETS: Final = frozenset({16, 6, 2, 4})
"""Of TCP, UDP and DCCP, ICMP and ICMPv6, GRE. SCTP's (8) is a CRC32c, no internet checksum."""


@attrs.frozen
class VnetHeader:
    """The virtio header of one frame; offsets and sizes in bytes, offsets from the frame's first byte."""

    flags: int = 0
    gso_type: int = GSO_NONE
    header_length: int = 0
    gso_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0

    def pack(self) -> bytes:
        """The 10 bytes."""
        return VNET_HEADER.pack(
            self.flags, self.gso_type, self.header_length, self.gso_size, self.checksum_start, self.checksum_offset
        )


NO_OFFLOAD: Final = bytes(VNET_HEADER_SIZE)
"""The header of a finished frame."""


def vnet_header(superframe: SuperFrame) -> bytes:
    """Give the virtio header by which a kernel takes ``superframe``."""
    return VNET_HEADER.pack(
        NEEDS_CSUM,
        superframe.gso_type,
        superframe.header_size,
        superframe.gso_size,
        superframe.checksum_start,
        superframe.checksum_offset,
    )


def finish_checksum_untrusted(frame: bytearray | memoryview, start: int, offset: int) -> None:
    """Complete a partial checksum in place: the field at ``start + offset`` holds the pseudo header's sum.

    Zero is written as 0xFFFF, as the kernel does: for UDP 0 would mean "no checksum" (RFC 768), for all others both
    are the same number. Raises OffloadError when the field is not inside the frame, or is not an internet checksum.
    """
    field = start + offset
    if offset not in _CHECKSUM_OFFSETS or start < _ETHERNET or field + 2 > len(frame):
        raise OffloadError("checksum field out of place")
    value = checksum(memoryview(frame)[start:]) or 0xFFFF
    frame[field : field + 2] = value.to_bytes(2, "big")


def take_untrusted(
    buffer: memoryview, frames: list[Frame], max_frame: int, counters: DeviceCounters, joined: bool
) -> int:
    """Add what one read gave, an offload still due, to ``frames`` and to ``counters``; give the bytes of all frames.

    ``buffer`` is the virtio header and the frame; ``joined``: whether super-frames may stay what they are.
    """
    try:
        flags, gso_type, _, gso_size, start, offset = VNET_HEADER.unpack_from(buffer)
        if joined and flags & NEEDS_CSUM and (gso_type or len(buffer) > VNET_HEADER_SIZE + FINISH_LIMIT):
            frame = buffer[VNET_HEADER_SIZE:].tobytes()
            superframe = superframe_untrusted(frame, gso_type & ~GSO_ECN, gso_size, start, offset)
            if superframe is not None:
                return _count(superframe, frames, max_frame, counters)
        finished = frames_untrusted(buffer)
    except (OffloadError, struct.error):
        counters.offload_dropped += 1
        return 0
    fitting = [frame for frame in finished if len(frame) <= max_frame]
    if gso_type:
        counters.superframes_in += 1
    else:
        counters.checksums_finished += len(fitting)
    frames += fitting
    octets = sum(map(len, fitting))
    counters.oversize_dropped += len(finished) - len(fitting)
    counters.frames_in += len(fitting)
    counters.bytes_in += octets
    return octets


def _count(superframe: SuperFrame, frames: list[Frame], max_frame: int, counters: DeviceCounters) -> int:
    segments = superframe.segments
    if superframe.longest > max_frame:
        counters.oversize_dropped += segments
        return 0
    frames.append(superframe)
    if segments > 1:
        counters.superframes_in += 1
    octets = superframe.octets
    counters.frames_in += segments
    counters.bytes_in += octets
    return octets


def frames_untrusted(buffer: memoryview) -> list[bytes]:
    """All finished ordinary frames of one read.

    ``buffer`` is the virtio header and the frame. Raises OffloadError when the two do not fit together. A checksum is
    finished in the buffer itself.
    """
    if len(buffer) < VNET_HEADER_SIZE:
        raise OffloadError("virtio header cut short")
    flags, gso_type, _, gso_size, start, offset = VNET_HEADER.unpack_from(buffer)
    frame = buffer[VNET_HEADER_SIZE:]
    if gso_type != GSO_NONE:
        return segment_untrusted(frame, gso_type, gso_size, partial=bool(flags & NEEDS_CSUM))
    if flags & NEEDS_CSUM:
        finish_checksum_untrusted(frame, start, offset)
    return [frame.tobytes()]


def segment_untrusted(frame: memoryview, gso_type: int, gso_size: int, *, partial: bool = True) -> list[bytes]:
    """Cut a super-frame into frames with at most ``gso_size`` bytes of transport payload each, checksums complete.

    ``partial``: the transport checksum is only the pseudo header's sum (NEEDS_CSUM). Matters for UDP over IPv4 alone,
    where a zero in a finished checksum means "none" and stays so.

    Raises OffloadError: unknown type, no size, headers that are cut short or of another protocol than the type says,
    more than MAX_SEGMENTS.
    """
    kind = gso_type & ~GSO_ECN
    if gso_size == 0 or len(frame) > MAX_SUPERFRAME:
        raise OffloadError("no segment size, or longer than an IP packet")
    if kind == GSO_TCPV4:
        version, protocol = 4, _TCP
    elif kind == GSO_TCPV6:
        version, protocol = 6, _TCP
    elif kind == GSO_UDP:
        version, protocol = (4 if bytes(frame[12:14]) == b"\x08\x00" else 6), _UDP
    else:
        raise OffloadError(f"unknown GSO type {gso_type:#x}")
    transport = _find_ipv4(frame, protocol) if version == 4 else _find_ipv6(frame, protocol)
    if protocol == _TCP:
        return _cut_tcp(frame, version, transport, gso_size)
    return _cut_udp(frame, version, transport, gso_size, partial=partial)


def _find_ipv4(frame: memoryview, protocol: int) -> int:
    """Offset of the transport header behind IPv4 (RFC 791, 3.1)."""
    if len(frame) < _ETHERNET + 20 or bytes(frame[12:14]) != b"\x08\x00" or frame[14] >> 4 != 4:
        raise OffloadError("not IPv4")
    transport = _ETHERNET + (frame[14] & 0x0F) * 4
    if transport < _ETHERNET + 20 or frame[23] != protocol or (frame[20] & 0x3F or frame[21]):
        raise OffloadError("not a whole IPv4 packet of the protocol that the GSO type says")
    return transport


def _find_ipv6(frame: memoryview, protocol: int) -> int:
    """Offset of the transport header behind IPv6 and the extension headers that may come first (RFC 8200, 4)."""
    if len(frame) < _ETHERNET + 40 or bytes(frame[12:14]) != b"\x86\xdd" or frame[14] >> 4 != 6:
        raise OffloadError("not IPv6")
    following, offset = frame[20], _ETHERNET + 40
    while following in {0, 43, 60}:  # hop-by-hop, routing, destination options: 8 bytes and a length in units of 8
        if offset + 8 > len(frame):
            raise OffloadError("extension header cut short")
        following, offset = frame[offset], offset + 8 + frame[offset + 1] * 8
    if following != protocol:
        raise OffloadError("not an IPv6 packet of the protocol that the GSO type says")
    return offset


def _pseudo_sum(frame: memoryview, version: int, protocol: int) -> int:
    """Sum of the pseudo header without the length (RFC 9293, 3.1; RFC 8200, 8.1)."""
    addresses = frame[26:34] if version == 4 else frame[22:54]
    return internet_sum(addresses) + protocol


def _network_headers(frame: memoryview, version: int, transport: int, lengths: Sequence[int]) -> list[bytes]:
    """Ethernet and IP headers of every segment; ``lengths`` are the bytes of transport header and payload of each."""
    header = bytearray(frame[:transport])
    extra = transport - _ETHERNET
    headers: list[bytes] = []
    if version == 6:
        for length in lengths:
            header[18:20] = (extra - 40 + length).to_bytes(2, "big")
            headers.append(bytes(header))
        return headers
    identification = int.from_bytes(header[18:20], "big")
    header[16:20] = b"\0\0\0\0"  # length, identification and checksum: left out of the sum of what stays the same
    header[24:26] = b"\0\0"
    constant = internet_sum(memoryview(header)[_ETHERNET:])
    for index, length in enumerate(lengths):
        total = extra + length
        number = (identification + index) & 0xFFFF
        struct.pack_into("!HH", header, 16, total, number)
        struct.pack_into("!H", header, 24, -(constant + total + number) % 65535)
        headers.append(bytes(header))
    return headers


def _payload_cuts(size: int, gso_size: int) -> range:
    cuts = range(0, max(size, 1), gso_size)
    if len(cuts) > MAX_SEGMENTS:
        raise OffloadError(f"{len(cuts)} segments")
    return cuts


def _cut_tcp(frame: memoryview, version: int, transport: int, gso_size: int) -> list[bytes]:
    if transport + 20 > len(frame):
        raise OffloadError("TCP header cut short")
    header_size = (frame[transport + 12] >> 4) * 4
    start = transport + header_size
    if header_size < 20 or start > len(frame):
        raise OffloadError("TCP header cut short")
    cuts = _payload_cuts(len(frame) - start, gso_size)
    chunks = [frame[start + cut : start + cut + gso_size] for cut in cuts]
    networks = _network_headers(frame, version, transport, [header_size + len(chunk) for chunk in chunks])

    header = bytearray(frame[transport:start])
    header[16:18] = b"\0\0"
    sequence = int.from_bytes(header[4:8], "big")
    flags = header[13]
    header[4:8] = b"\0\0\0\0"
    header[13] = 0
    constant = _pseudo_sum(frame, version, _TCP) + header_size + internet_sum(header)
    last = len(chunks) - 1
    segments: list[bytes] = []
    for index, chunk in enumerate(chunks):
        number = (sequence + index * gso_size) & 0xFFFFFFFF
        own_flags = flags
        if index != last:
            own_flags &= ~(_FIN | _PSH)  # they belong to the end of the data
        if index != 0:
            own_flags &= ~_CWR  # said once per reaction (RFC 3168, 6.1.2)
        struct.pack_into("!I", header, 4, number)
        header[13] = own_flags
        total = constant + len(chunk) + number + own_flags + internet_sum(chunk)
        struct.pack_into("!H", header, 16, -total % 65535)
        segments.append(b"".join((networks[index], header, chunk)))
    return segments


def _cut_udp(frame: memoryview, version: int, transport: int, gso_size: int, *, partial: bool) -> list[bytes]:
    start = transport + 8
    if start > len(frame):
        raise OffloadError("UDP header cut short")
    unsummed = version == 4 and not partial and bytes(frame[transport + 6 : start]) == b"\0\0"
    cuts = _payload_cuts(len(frame) - start, gso_size)
    chunks = [frame[start + cut : start + cut + gso_size] for cut in cuts]
    networks = _network_headers(frame, version, transport, [8 + len(chunk) for chunk in chunks])

    ports = frame[transport : transport + 4]
    constant = _pseudo_sum(frame, version, _UDP) + internet_sum(ports)
    segments: list[bytes] = []
    for network, chunk in zip(networks, chunks, strict=True):
        length = 8 + len(chunk)
        # The length counts twice: in the pseudo header and in the UDP header.
        value = 0 if unsummed else -(constant + 2 * length + internet_sum(chunk)) % 65535 or 0xFFFF
        segments.append(b"".join((network, ports, struct.pack("!HH", length, value), chunk)))
    return segments
