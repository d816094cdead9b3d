"""Frames to test with, and seeded mutations of them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence

MUTATIONS = 100_000
"""Inputs for each parser: what issue 2 asks for."""

HOUSE = bytes.fromhex("001122334455")
PLAYER = bytes.fromhex("021a2b3c4d5e")
EVERYONE = b"\xff" * 6

_INTERESTING = (0x00, 0x01, 0x02, 0x7F, 0x80, 0xFF, 0x05, 0x06, 0x2C, 0x33, 0x3C, 0x45, 0x4F, 0x60, 0x81, 0x88, 0xAA)


def mutations(corpus: Sequence[bytes], seed: int, count: int = MUTATIONS) -> Iterator[bytes]:
    """Yield ``count`` damaged copies of the corpus: bytes changed, cut off, added, moved, spliced."""
    rng = random.Random(seed)
    pick, below, bits = rng.choice, rng.randrange, rng.getrandbits
    for _ in range(count):
        data = bytearray(pick(corpus))
        for _ in range(1 + bits(2)):
            act = bits(3)
            size = len(data)
            at = below(size) if size else 0
            if not size or act == 0:
                data[at:at] = rng.randbytes(1 + bits(3))
            elif act in (1, 2):
                data[at] = pick(_INTERESTING)
            elif act == 3:
                data[at] ^= 1 << bits(3)
            elif act == 4:
                del data[at:]
            elif act == 5:
                del data[at : at + 1 + bits(3)]
            elif act == 6:
                other = pick(corpus)
                data[at:] = other[below(len(other)) :] if other else b""
            else:
                # The first bytes are where the headers are: damage them more often than the payload.
                data[below(min(size, 64))] = bits(8)
        yield bytes(data)


def ether(payload: bytes, ethertype: int, destination: bytes = HOUSE, source: bytes = PLAYER) -> bytes:
    return destination + source + ethertype.to_bytes(2, "big") + payload


def ones_sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) in full."""
    return ~ones_sum(data) & 0xFFFF


V4_SOURCE, V4_TARGET = bytes((192, 168, 1, 50)), bytes((192, 168, 1, 1))
V6_SOURCE, V6_TARGET = bytes.fromhex("fe80000000000000001a2bfffe3c4d5e"), bytes.fromhex("ff02" + "00" * 13 + "01")


def ipv4(payload: bytes, protocol: int, options: bytes = b"", fragment: int = 0, ttl: int = 64) -> bytes:
    size = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | size // 4, 0, size + len(payload), 7, fragment, ttl, protocol, 0, V4_SOURCE, V4_TARGET
    )
    head += options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def ipv6(payload: bytes, next_header: int, hop_limit: int = 64) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, hop_limit) + V6_SOURCE + V6_TARGET + payload


def extension(next_header: int, size: int = 8) -> bytes:
    return bytes((next_header, size // 8 - 1)) + bytes((1, size - 4)) + bytes(size - 4)


def authentication(next_header: int, size: int = 24) -> bytes:
    return bytes((next_header, size // 4 - 2)) + bytes(size - 2)


def fragment_header(next_header: int, offset: int = 0, more: bool = False) -> bytes:
    return struct.pack("!BBHI", next_header, 0, offset << 3 | more, 99)


def udp(source: int, target: int, payload: bytes = b"data") -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload


def tcp(options: bytes = b"", flags: int = 0x02, payload: bytes = b"", version: int = 4) -> bytes:
    """A TCP segment with a correct checksum; options are padded to a multiple of four."""
    options += bytes(-len(options) % 4)
    segment = (
        struct.pack("!HHIIBBHHH", 50000, 27015, 1, 0, (20 + len(options)) << 2, flags, 65535, 0, 0) + options + payload
    )
    return segment[:16] + checksum(pseudo(len(segment), version) + segment).to_bytes(2, "big") + segment[18:]


def pseudo(length: int, version: int) -> bytes:
    if version == 4:
        return V4_SOURCE + V4_TARGET + struct.pack("!BBH", 0, 6, length)
    return V6_SOURCE + V6_TARGET + struct.pack("!II", length, 6)


MSS_1460 = bytes((2, 4, 0x05, 0xB4))


def ip_frames() -> list[bytes]:
    """One frame of each shape that the IP walk and the MSS clamp know."""
    syn4, syn6 = tcp(MSS_1460), tcp(MSS_1460 + bytes((1, 3, 3, 7)), version=6)
    return [
        ether(ipv4(udp(6112, 6112), 17), 0x0800),
        ether(ipv4(udp(68, 67), 17, options=bytes(40)), 0x0800),
        ether(ipv4(syn4, 6), 0x0800),
        ether(ipv4(tcp(bytes((1,)) + MSS_1460 + bytes((1, 1, 1, 3, 3, 7))), 6, options=bytes((1, 1, 1, 0))), 0x0800),
        ether(ipv4(udp(67, 68), 17, fragment=0x2000), 0x0800),
        ether(ipv4(b"rest of it", 17, fragment=0x0005), 0x0800),
        ether(ipv6(udp(546, 547), 17), 0x86DD),
        ether(ipv6(syn6, 6), 0x86DD),
        ether(ipv6(extension(60) + extension(6, 16) + syn6, 0), 0x86DD),
        ether(ipv6(extension(44) + fragment_header(58) + bytes((134, 0)) + bytes(14), 0), 0x86DD),
        ether(ipv6(fragment_header(17, 0, True) + udp(547, 546), 44), 0x86DD),
        ether(ipv6(fragment_header(58, 185) + b"more", 44), 0x86DD),
        ether(ipv6(authentication(43) + extension(135) + extension(139) + extension(140) + bytes((59, 0)), 51), 0x86DD),
    ]


def link_frames() -> list[bytes]:
    """One frame of each shape that the Ethernet parser knows."""
    arp = bytes.fromhex("0001080006040001") + PLAYER + V4_SOURCE + bytes(6) + V4_TARGET
    snap = bytes.fromhex("aaaa03000000")
    tag = bytes.fromhex("0000")
    return [
        ether(arp, 0x0806, EVERYONE),
        ether(tag + b"\x08\x06" + arp, 0x8100),
        ether(tag + b"\x81\x00" + tag + b"\x86\xdd" + ipv6(b"", 59), 0x88A8),
        ether(snap + b"\x08\x06" + arp, 8 + len(arp)),
        ether(tag + (8 + len(arp)).to_bytes(2, "big") + snap + b"\x81\x00" + tag + b"\x08\x06" + arp, 0x8100),
        ether(b"\xff\xff" + bytes(28), 30),
        ether(b"\xe0\xe0\x03" + bytes(27), 30),
        ether(bytes.fromhex("4242030000"), 38),
    ]
