"""Super-frames: up to 64 KiB of one TCP flow, or equal UDP datagrams, that kernel and program hand over as one.

Owns: what a super-frame is, where its headers are, cutting it into overlay datagrams, finishing partial checksums.
Must not know: virtio headers (``link.gso``), how frames are joined (``joiner``), who asks.

A kernel that sends TCP makes one packet of up to 64 KiB and leaves it to the network card to cut it (TSO, USO); a
kernel that receives joins what belongs together (GRO). So both pay for their stack once per 64 KiB. The tunnel does
the card's work: a super-frame is cut where it enters the tunnel, and joined again where it leaves.

    Ethernet 14 | IPv4 20 or IPv6 40 | TCP 20..60 or UDP 8 | segment | segment | ... | last, may be shorter
                                     ^ checksum_start      ^ header_size, then gso_size bytes each

*Partial checksum*: the TCP or UDP checksum field holds the sum of the pseudo header only, not complemented. The sum
over the payload is left to the last kernel or the network card. It travels so (``overlay.CHECKSUM_PARTIAL``), because a
sum over 1450 bytes takes Python 2.6 us, sealing them 0.85 us.

Only *plain* frames may have one (``locate_untrusted``): untagged, IPv4 without options or IPv6 without extension
headers, not a fragment, TCP or UDP, lengths of all headers true to the byte. All others get their checksum where they
enter.

Path of a super-frame into the tunnel:

1. The device checks it against the kernel's virtio header and calls ``superframe_untrusted``.
2. ``cut``: for each segment one ``struct.pack`` of what stays the same around the sequence number, one slice, one
   concatenation (0.4 us). No sum over payload, no object.

Segments get the IP identification of the first when "don't fragment" is set: it then means nothing (RFC 6864, 4.1),
and all headers but the last are the same bytes; else consecutive ones. FIN and PSH belong to the last segment, CWR to
the first (RFC 3168, 6.1.2). A TCP segment that is larger than what travels whole is cut smaller (the budget shrank
below what the MSS clamp said at the start of the flow): where a segment ends means nothing to TCP, and a super-frame
then takes one packet per segment, not two pieces, of which either may be lost. Not so with URG, whose pointer counts
from its own segment, and not UDP.

The ones-complement sum (RFC 1071) of bytes is taken as one big integer modulo 65535: 2**16 is 1 modulo 65535, so this
is the same as adding up the 16-bit words and folding, and it runs at C speed. It gives 0 where folding gives 0xFFFF;
both are zero in ones complement, and only the complement that is stored has to choose a spelling.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "GSO_NONE",
    "GSO_TCPV4",
    "GSO_TCPV6",
    "GSO_UDP",
    "MAX_SEGMENTS",
    "MAX_SUPERFRAME",
    "TCP",
    "TCP_CHECKSUM",
    "UDP",
    "UDP_CHECKSUM",
    "Frame",
    "OffloadError",
    "SuperFrame",
    "checksum",
    "cut",
    "expand",
    "finish_untrusted",
    "frames_of",
    "head_of",
    "internet_sum",
    "locate_untrusted",
    "longest_of",
    "must_be_finished",
    "network_header",
    "octets_of",
    "partial_sum",
    "plain_frames",
    "superframe_untrusted",
]

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP: Final = 5
"""Kinds of super-frames, as virtio numbers them; NONE is one ordinary frame whose checksum is partial."""

TCP: Final = 6
UDP: Final = 17
TCP_CHECKSUM: Final = 16
UDP_CHECKSUM: Final = 6
"""Offsets of the checksum in the transport header, bytes."""

MAX_SUPERFRAME: Final = 65535 + 14
"""Bytes: an IP packet of the largest 16-bit length, and an Ethernet header. "BIG TCP" (larger, length field 0) has to
be switched on per interface and is not carried as one."""
MAX_SEGMENTS: Final = 2048
"""Segments of one super-frame: 64 KiB at 32 bytes each. Fewer bytes per segment are no bulk transfer, and one read
would make tens of thousands of frames."""

LEAST_TCP_SEGMENT: Final = 216
"""Payload bytes below which TCP is not cut anew. A budget that leaves less (it is never under 256) is not a path to
make TCP faster on; pieces carry it then, as they carry everything else."""

_ETHERNET = 14
_IPV4: Final = b"\x08\x00"
_IPV6: Final = b"\x86\xdd"
_IPV4_TRANSPORT: Final = _ETHERNET + 20
_IPV6_TRANSPORT: Final = _ETHERNET + 40
_DONT_FRAGMENT = 0x40
_FIN, _SYN, _PSH, _URG, _CWR = 0x01, 0x02, 0x08, 0x20, 0x80
_DHCP_PORTS: Final = frozenset({b"\x00\x43", b"\x00\x44"})
"""Destination 67 (server) and 68 (client), RFC 2131. DHCPv6 has a link-local address, so it uses ordinary sockets."""
_U16: Final = struct.Struct("!H")


class OffloadError(ValueError):
    """A frame and what is said about its offloads do not fit together, or describe something that is not cut here."""


@attrs.define
class SuperFrame:
    """A plain frame (see the module's map) with a partial checksum: one segment, or many for the kernel to cut.

    Nobody changes one; it is not attrs.frozen because that would cost 0.55 us for each, three times the object itself.
    """

    frame: bytes
    """Headers and the payload of all segments, at most MAX_SUPERFRAME bytes. The IP length is that of the whole."""
    gso_type: int
    """GSO_NONE, GSO_TCPV4, GSO_TCPV6 or GSO_UDP."""
    gso_size: int
    """Bytes of payload of each segment but the last; 0: one ordinary frame."""
    checksum_start: int
    """Offset of the TCP or UDP header, bytes."""
    checksum_offset: int
    """Offset of the checksum field in that header, bytes."""
    header_size: int
    """Offset of the payload, bytes."""
    segments: int
    """Frames that it stands for, 1 or more. Counters count these."""

    @property
    def longest(self) -> int:
        """Bytes of the longest frame that it stands for."""
        return self.header_size + self.gso_size if self.gso_size else len(self.frame)

    @property
    def octets(self) -> int:
        """Bytes of all the frames that it stands for."""
        return len(self.frame) + (self.segments - 1) * self.header_size


Frame: TypeAlias = bytes | SuperFrame
"""What devices give and take: a finished Ethernet frame, or a super-frame."""


def head_of(frame: Frame) -> bytes:
    """Give the bytes in which a frame's headers are, for filters: they are the same for all its segments."""
    return frame if type(frame) is bytes else frame.frame  # type: ignore[union-attr]


def longest_of(frame: Frame) -> int:
    """Give the bytes of the frame, or of the longest one that a super-frame stands for."""
    return len(frame) if type(frame) is bytes else frame.longest  # type: ignore[union-attr]


def frames_of(frames: Iterable[Frame]) -> int:
    """Give the number of ordinary frames that ``frames`` stand for."""
    return sum(1 if isinstance(frame, bytes) else frame.segments for frame in frames)


def octets_of(frames: Iterable[Frame]) -> int:
    """Give the bytes of the ordinary frames that ``frames`` stand for."""
    return sum(len(frame) if isinstance(frame, bytes) else frame.octets for frame in frames)


def internet_sum(data: bytes | bytearray | memoryview) -> int:
    """Give the ones-complement sum (RFC 1071) of ``data``, not complemented, modulo 65535."""
    value = int.from_bytes(data, "big")
    return (value << 8 if len(data) & 1 else value) % 65535


def checksum(data: bytes | bytearray | memoryview) -> int:
    """Give the internet checksum (RFC 1071) of ``data``: 0..65534."""
    return -internet_sum(data) % 65535


def locate_untrusted(frame: bytes) -> tuple[int, int, int] | None:
    """Find the headers of a plain frame: (protocol, offset of the transport header, offset of the payload).

    None for any other frame. Never raises.
    """
    size = len(frame)
    kind = frame[12:14]
    if kind == _IPV4:
        transport = _IPV4_TRANSPORT
        if (
            size < transport + 8
            or frame[14] != 0x45
            or frame[20] & 0x3F
            or frame[21]
            or frame[16] << 8 | frame[17] != size - _ETHERNET
        ):
            return None
        protocol = frame[23]
    elif kind == _IPV6:
        transport = _IPV6_TRANSPORT
        if size < transport + 8 or frame[14] >> 4 != 6 or frame[18] << 8 | frame[19] != size - transport:
            return None
        protocol = frame[20]
    else:
        return None
    if protocol == TCP:
        if size < transport + 20:
            return None
        payload = transport + (frame[transport + 12] >> 4 << 2)
        return (TCP, transport, payload) if transport + 20 <= payload <= size else None
    if protocol == UDP and frame[transport + 4] << 8 | frame[transport + 5] == size - transport:
        return UDP, transport, transport + 8
    return None


def must_be_finished(frame: bytes, protocol: int, transport: int) -> bool:
    """Whether a plain frame's checksum must be complete all the way.

    A TCP SYN, whose MSS is clamped: that corrects a complete checksum. DHCP, which programs read from packet sockets
    (they have no address yet): there no kernel finishes a checksum, and they take the frame for a damaged one.
    """
    if protocol == TCP:
        return frame[transport + 13] & _SYN != 0
    return frame[transport + 2 : transport + 4] in _DHCP_PORTS


def superframe_untrusted(frame: bytes, gso_type: int, gso_size: int, start: int, offset: int) -> SuperFrame | None:
    """Take what a kernel hands over with a partial checksum, after checking that it is what is said of it.

    ``gso_type`` without the ECN bit; ``start`` and ``offset`` of the checksum as in `SuperFrame`. None: not plain,
    `must_be_finished`, another protocol than the type says, no or too many segments. Never raises.
    """
    located = locate_untrusted(frame)
    if located is None:
        return None
    protocol, transport, payload = located
    if start != transport or offset != (TCP_CHECKSUM if protocol == TCP else UDP_CHECKSUM):
        return None
    if must_be_finished(frame, protocol, transport):
        return None
    if gso_type == GSO_NONE:
        return SuperFrame(frame, GSO_NONE, 0, start, offset, payload, 1)
    expected = GSO_UDP if protocol == UDP else GSO_TCPV4 if transport == _IPV4_TRANSPORT else GSO_TCPV6
    octets = len(frame) - payload
    if gso_type != expected or gso_size < 1 or octets < 1:
        return None
    gso_size = min(gso_size, octets)  # A kernel may say more when there is one segment.
    segments = -(-octets // gso_size)
    if segments > MAX_SEGMENTS:
        return None
    return SuperFrame(frame, gso_type, gso_size, start, offset, payload, segments)


def partial_sum(frame: bytes, transport: int, protocol: int, length: int) -> int:
    """Give the sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) for ``length`` bytes of transport header and
    payload: what stands in the field of a partial checksum."""
    addresses = frame[26:34] if transport == _IPV4_TRANSPORT else frame[22:54]
    return (int.from_bytes(addresses, "big") + protocol + length) % 65535


def cut(superframe: SuperFrame, prefix: bytes, largest: int) -> list[bytes]:
    """Give the frames of ``superframe``, checksums partial, each behind ``prefix`` (the overlay header).

    TCP is cut so that frames have at most ``largest`` bytes, unless that leaves less than LEAST_TCP_SEGMENT of payload.
    UDP datagrams come as they are: the caller looks at their size.
    """
    size = superframe.gso_size
    if superframe.checksum_offset == UDP_CHECKSUM:
        return _cut_udp(superframe, prefix) if size else [prefix + superframe.frame]
    room = largest - superframe.header_size
    octets = len(superframe.frame) - superframe.header_size
    if LEAST_TCP_SEGMENT <= room < (size or octets) and not superframe.frame[superframe.checksum_start + 13] & _URG:
        size = room
    if not size or octets <= size:
        return [prefix + superframe.frame]
    return _cut_tcp(superframe, prefix, size)


def _cut_tcp(superframe: SuperFrame, prefix: bytes, size: int) -> list[bytes]:
    frame, start, transport = superframe.frame, superframe.header_size, superframe.checksum_start
    flags = frame[transport + 13]
    middle = flags & ~(_FIN | _PSH | _CWR)
    sequence = int.from_bytes(frame[transport + 4 : transport + 8], "big")
    stop = len(frame)
    last = start + (stop - start - 1) // size * size
    before, after = _tcp_headers(superframe, size, middle, 0)
    before = prefix + before
    layout = f"!{len(before)}sI{len(after)}s"
    pack = struct.Struct(layout).pack
    if transport == _IPV4_TRANSPORT and not frame[20] & _DONT_FRAGMENT:
        # Each needs an identification of its own.
        datagrams = []
        for index, place in enumerate(range(start, last, size)):
            before, _ = _tcp_headers(superframe, size, middle, index)
            number = sequence + place - start & 0xFFFFFFFF
            datagrams.append(pack(prefix + before, number, after) + frame[place : place + size])
    else:
        offset = sequence - start
        datagrams = [
            pack(before, place + offset & 0xFFFFFFFF, after) + frame[place : place + size]
            for place in range(start, last, size)
        ]
    if flags & _CWR:
        before, after = _tcp_headers(superframe, size, middle | _CWR, 0)
        datagrams[0] = pack(prefix + before, sequence, after) + frame[start : start + size]
    index = len(datagrams)
    before, after = _tcp_headers(superframe, stop - last, flags & ~_CWR, index)
    number = sequence + last - start & 0xFFFFFFFF
    datagrams.append(pack(prefix + before, number, after) + frame[last:])
    return datagrams


def _tcp_headers(superframe: SuperFrame, octets: int, flags: int, index: int) -> tuple[bytes, bytes]:
    """What is in front of the sequence number and what is between it and the payload, for ``octets`` of payload."""
    frame, start, transport = superframe.frame, superframe.header_size, superframe.checksum_start
    network = network_header(frame, transport, start - transport + octets, index)
    total = partial_sum(frame, transport, TCP, start - transport + octets)
    after = b"".join(
        (
            frame[transport + 8 : transport + 13],
            bytes((flags,)),
            frame[transport + 14 : transport + 16],
            _U16.pack(total),
            frame[transport + 18 : start],
        )
    )
    return network + frame[transport : transport + 4], after


def _cut_udp(superframe: SuperFrame, prefix: bytes) -> list[bytes]:
    frame, start, size = superframe.frame, superframe.header_size, superframe.gso_size
    cuts = range(start, len(frame), size)
    final = len(cuts) - 1
    if superframe.checksum_start == _IPV4_TRANSPORT and not frame[20] & _DONT_FRAGMENT:
        heads: Iterable[bytes] = [prefix + _udp_header(superframe, size, index) for index in range(final)]
    else:
        heads = [prefix + _udp_header(superframe, size, 0)] * final
    datagrams = [head + frame[place : place + size] for head, place in zip(heads, cuts, strict=False)]
    rest = frame[cuts[final] :]
    datagrams.append(prefix + _udp_header(superframe, len(rest), final) + rest)
    return datagrams


def _udp_header(superframe: SuperFrame, octets: int, index: int) -> bytes:
    frame, transport = superframe.frame, superframe.checksum_start
    network = network_header(frame, transport, 8 + octets, index)
    lengths = struct.pack("!HH", 8 + octets, partial_sum(frame, transport, UDP, 8 + octets))
    return network + frame[transport : transport + 4] + lengths


def network_header(frame: bytes, transport: int, length: int, index: int) -> bytes:
    """Ethernet and IP header for ``length`` bytes of transport header and payload, of the segment ``index``."""
    if transport == _IPV6_TRANSPORT:
        return frame[:18] + _U16.pack(length) + frame[20:54]
    number = frame[18] << 8 | frame[19]
    if not frame[20] & _DONT_FRAGMENT:
        number = number + index & 0xFFFF
    header = struct.pack("!2sHH4s", frame[14:16], 20 + length, number, frame[20:24])
    addresses = frame[26:34]
    return b"".join((frame[:14], header, _U16.pack(checksum(header + addresses)), addresses))


def finish_untrusted(frame: bytes, start: int, offset: int) -> bytes:
    """Complete a partial checksum: the field at ``start + offset`` holds the pseudo header's sum.

    Zero is written as 0xFFFF, as the kernel does: for UDP 0 would mean "no checksum" (RFC 768), for all others both
    are the same number. Raises OffloadError when the field is not inside the frame.
    """
    field = start + offset
    if start < _ETHERNET or field + 2 > len(frame):
        raise OffloadError("checksum field out of place")
    total = -internet_sum(frame[start:]) % 65535 or 0xFFFF
    return b"%b%b%b" % (frame[:field], _U16.pack(total), frame[field + 2 :])


def expand(superframe: SuperFrame) -> list[bytes]:
    """Give the finished frames that it stands for: for a device that takes no super-frames, and for the frame log."""
    start, offset = superframe.checksum_start, superframe.checksum_offset
    return [finish_untrusted(frame, start, offset) for frame in cut(superframe, b"", MAX_SUPERFRAME)]


def plain_frames(frames: Iterable[Frame]) -> list[bytes]:
    """Give finished frames for all of ``frames``, in order."""
    plain: list[bytes] = []
    for frame in frames:
        if isinstance(frame, bytes):
            plain.append(frame)
        else:
            plain += expand(frame)
    return plain
