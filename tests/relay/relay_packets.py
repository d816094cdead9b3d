"""Frames for the relay's tests, built from the standards and not with the code under test."""

from __future__ import annotations

import struct

PLAYER = bytes.fromhex("020000000001")
OTHER = bytes.fromhex("020000000002")
HOUSE = bytes.fromhex("3c970e123456")
BROADCAST = b"\xff" * 6
ALL_NODES = bytes.fromhex("333300000001")
ALL_DHCP_AGENTS = bytes.fromhex("333300010002")

IPV4 = 0x0800
ARP = 0x0806
IPV6 = 0x86DD


def ethernet(
    payload: bytes, ethertype: int = 0x8137, source: bytes = PLAYER, destination: bytes = BROADCAST, tags: bytes = b""
) -> bytes:
    return destination + source + tags + struct.pack("!H", ethertype) + payload


def tag(tpid: int = 0x8100, vid: int = 0) -> bytes:
    return struct.pack("!HH", tpid, vid)


def snap(payload: bytes, ethertype: int, source: bytes = PLAYER, destination: bytes = BROADCAST, tags: bytes = b"",
         oui: bytes = bytes(3)) -> bytes:  # fmt: skip
    body = b"\xaa\xaa\x03" + oui + struct.pack("!H", ethertype) + payload
    return destination + source + tags + struct.pack("!H", len(body)) + body


def wrappings(
    payload: bytes, ethertype: int, source: bytes = PLAYER, destination: bytes = BROADCAST
) -> dict[str, bytes]:
    """The same packet plain, and in the ways of CERT VU#855201."""
    args = {"source": source, "destination": destination}
    return {
        "plain": ethernet(payload, ethertype, **args),
        "vid0": ethernet(payload, ethertype, tags=tag(), **args),
        "vid0-twice": ethernet(payload, ethertype, tags=tag() + tag(), **args),
        "qinq": ethernet(payload, ethertype, tags=tag(0x88A8, 5) + tag(0x8100, 7), **args),
        "9100": ethernet(payload, ethertype, tags=tag(0x9100, 1), **args),
        "snap": snap(payload, ethertype, **args),
        "snap-8021h": snap(payload, ethertype, oui=b"\x00\x00\xf8", **args),
        "vid0-snap": snap(payload, ethertype, tags=tag(), **args),
        "snap-vid0": snap(struct.pack("!HH", 0, ethertype) + payload, 0x8100, **args),
    }


def udp(source: int, destination: int, payload: bytes = bytes(12)) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def ipv4(
    payload: bytes,
    protocol: int = 17,
    options: bytes = b"",
    fragment: int = 0,
    source: bytes = b"\x0a\0\0\x02",
    destination: bytes = b"\xff\xff\xff\xff",
    **fields: int,
) -> bytes:
    header_words = 5 + len(options) // 4
    total = fields.get("total", 4 * header_words + len(payload))
    first = fields.get("version", 4) << 4 | fields.get("ihl", header_words)
    return (
        struct.pack("!BBHHHBBH4s4s", first, 0, total, 1, fragment, 64, protocol, 0, source, destination)
        + options
        + payload
    )


def link_local(number: int) -> bytes:
    """fe80::NUMBER."""
    return b"\xfe\x80" + number.to_bytes(14, "big")


def ipv6(
    payload: bytes,
    next_header: int,
    length: int | None = None,
    version: int = 6,
    hop_limit: int = 255,
    source: bytes = link_local(2),
    destination: bytes = link_local(0x99),
) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack("!IHBB", version << 28, size, next_header, hop_limit) + source + destination + payload


def extension(next_header: int, size: int = 8) -> bytes:
    """Hop-by-hop, destination options, routing: ``size`` bytes, padded with options of one byte."""
    return bytes((next_header, size // 8 - 1)) + bytes(size - 2)


def authentication(next_header: int) -> bytes:
    return bytes((next_header, 4)) + bytes(22)


def fragment_header(next_header: int, offset: int = 0, more: bool = False) -> bytes:
    return struct.pack("!BBHI", next_header, 0, offset & 0xFFF8 | more, 77)


def icmpv6(kind: int, body: bytes = bytes(12)) -> bytes:
    return bytes((kind, 0, 0, 0)) + body


def arp(
    op: int = 1,
    sender: bytes = b"\x0a\0\0\x02",
    hardware: bytes = PLAYER,
    target: bytes = b"\x0a\0\0\x01",
    fields: tuple[int, int, int, int] = (1, 0x0800, 6, 4),
) -> bytes:
    return struct.pack("!HHBBH", *fields, op) + hardware + sender + bytes(6) + target


def dhcp(
    kind: int | None,
    mac: bytes = PLAYER,
    *,
    op: int = 1,
    htype: int = 1,
    hlen: int = 6,
    xid: int = 7,
    ciaddr: bytes = bytes(4),
    yiaddr: bytes = bytes(4),
    giaddr: bytes = bytes(4),
    options: bytes = b"",
    sname: bytes = b"",
    file: bytes = b"",
) -> bytes:
    """A DHCP message; ``kind`` None: plain BOOTP. ``options`` as `option` makes them."""
    head = struct.pack("!BBBBIHH", op, htype, hlen, 0, xid, 0, 0) + ciaddr + yiaddr + bytes(4) + giaddr
    head += mac.ljust(16, b"\0") + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    return head if kind is None else head + b"\x63\x82\x53\x63" + option(53, bytes((kind,))) + options + b"\xff"


def option(code: int, value: bytes) -> bytes:
    return bytes((code, len(value))) + value


def nd(kind: int, target: bytes | None = None, options: bytes = b"", code: int = 0) -> bytes:
    """Router solicitation (133), neighbour solicitation (135) and advertisement (136)."""
    return bytes((kind, code, 0, 0)) + bytes(4) + (target or b"") + options


def link_layer(kind: int, mac: bytes) -> bytes:
    """Source (1) or target (2) link-layer address option."""
    return bytes((kind, 1)) + mac


def ipx_802_3(source: bytes = PLAYER, destination: bytes = BROADCAST) -> bytes:
    """Raw 802.3 IPX, as Novell's "802.3" frame type: a length field, then FF FF."""
    body = b"\xff\xff" + struct.pack("!H", 34) + bytes(30)
    return ethernet(body, len(body), source=source, destination=destination)
