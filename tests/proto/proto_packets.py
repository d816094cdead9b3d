"""TCP and UDP frames for the tests of super-frames, with sums that are added up word by word."""

from __future__ import annotations

import struct

MACS = bytes.fromhex("02000000000a02000000000b")
ADDRESSES = {4: bytes([10, 0, 0, 1, 10, 0, 0, 2]), 6: bytes(range(1, 33))}


def slow_sum(data: bytes) -> int:
    """RFC 1071, figure 4.1, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ip_frame(version, protocol, rest, *, number=0, df=True, tos=0, ttl=64, addresses=None, options=b""):
    """An Ethernet frame; ``options`` of IPv4, or an IPv6 extension header."""
    addresses = addresses or ADDRESSES[version]
    if version == 6:
        following, rest = (60, bytes([protocol]) + options[1:] + rest) if options else (protocol, rest)
        return (
            MACS + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28 | tos << 20, len(rest), following, ttl) + addresses + rest
        )
    header = bytearray(
        struct.pack(
            "!BBHHHBBH",
            0x45 + len(options) // 4,
            tos,
            20 + len(options) + len(rest),
            number & 0xFFFF,
            0x4000 if df else 0,
            ttl,
            protocol,
            0,
        )
    )
    header += addresses + options
    struct.pack_into("!H", header, 10, ~slow_sum(bytes(header)) & 0xFFFF)
    return MACS + b"\x08\x00" + bytes(header) + rest


def pseudo(frame, transport, protocol):
    length = len(frame) - transport
    if frame[12:14] == b"\x08\x00":
        return frame[26:34] + struct.pack("!BBH", 0, protocol, length)
    return frame[22:54] + struct.pack("!IHBB", length, 0, 0, protocol)


def summed(frame, transport, protocol, *, partial):
    """With a checksum, which is only the pseudo header's sum when ``partial``."""
    field = transport + (16 if protocol == 6 else 6)
    frame = frame[:field] + b"\0\0" + frame[field + 2 :]
    covered = pseudo(frame, transport, protocol)
    value = slow_sum(covered) if partial else ~slow_sum(covered + frame[transport:]) & 0xFFFF or 0xFFFF
    return frame[:field] + struct.pack("!H", value) + frame[field + 2 :]


def tcp(
    payload,
    sequence=1,
    flags=0x10,
    *,
    version=4,
    partial=True,
    ports=(1000, 2000),
    ack=7,
    window=4096,
    options=b"",
    **network,
):
    """A frame with a TCP segment."""
    offset = (20 + len(options)) // 4 << 4
    header = struct.pack("!HHIIBBHHH", *ports, sequence & 0xFFFFFFFF, ack, offset, flags, window, 0, 0) + options
    frame = ip_frame(version, 6, header + payload, **network)
    return summed(frame, len(frame) - len(header) - len(payload), 6, partial=partial)


def udp(payload, *, version=4, partial=True, ports=(1000, 2000), **network):
    """A frame with a UDP datagram."""
    frame = ip_frame(version, 17, struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload, **network)
    return summed(frame, len(frame) - 8 - len(payload), 17, partial=partial)


def finished(frame):
    """A plain frame with its checksum complete."""
    protocol, transport = (frame[23], 34) if frame[12:14] == b"\x08\x00" else (frame[20], 54)
    return summed(frame, transport, protocol, partial=False)
