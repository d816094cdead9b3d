"""Ethernet frames for the LAN tests, built by hand so that they share no code with what they test.

Every builder takes and gives ``bytes``. A payload usually is a marker that an observer looks for.
"""

from __future__ import annotations

import ipaddress
import struct

BROADCAST = b"\xff" * 6


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return (destination + source + ethertype.to_bytes(2, "big") + payload).ljust(60, b"\0")


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """Put VLAN tags (TPID, VID) into a frame, the outer one first."""
    return frame[:12] + b"".join(struct.pack("!HH", tpid, vid) for tpid, vid in tags) + frame[12:]


def is_tagged(frame: bytes) -> bool:
    return frame[12:14] in (b"\x81\x00", b"\x88\xa8")


def untagged(frame: bytes) -> bytes:
    while is_tagged(frame):
        frame = frame[:12] + frame[16:]
    return frame


def snap(frame: bytes) -> bytes:
    """The same payload behind an 802.3 length, LLC and SNAP (RFC 1042)."""
    body = bytes.fromhex("aaaa03000000") + frame[12:]
    return frame[:12] + len(body).to_bytes(2, "big") + body


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(source: str, destination: str, source_port: int, destination_port: int, payload: bytes) -> bytes:
    """An IPv4 or IPv6 packet, by the addresses, with UDP in it."""
    segment = _udp_segment(source, destination, source_port, destination_port, payload)
    return ip(source, destination, 17, segment)


def _udp_segment(source: str, destination: str, source_port: int, destination_port: int, payload: bytes) -> bytes:
    blank = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    return blank[:6] + (_upper_checksum(source, destination, 17, blank) or 0xFFFF).to_bytes(2, "big") + payload


def _upper_checksum(source: str, destination: str, protocol: int, data: bytes) -> int:
    one, two = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    if len(one) == 4:
        return checksum(one + two + struct.pack("!BBH", 0, protocol, len(data)) + data)
    return checksum(one + two + struct.pack("!II", len(data), protocol) + data)


def ip(source: str, destination: str, protocol: int, payload: bytes, *, hop_limit: int = 64) -> bytes:
    one, two = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if one.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit) + one.packed + two.packed + payload
    blank = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, hop_limit, protocol, 0)
    blank += one.packed + two.packed
    return blank[:10] + checksum(blank).to_bytes(2, "big") + blank[12:] + payload


def icmpv6(source: str, destination: str, kind: int, body: bytes, *, hop_limit: int = 255, code: int = 0) -> bytes:
    """``body`` follows type, code and checksum."""
    blank = struct.pack("!BBH", kind, code, 0) + body
    done = blank[:2] + _upper_checksum(source, destination, 58, blank).to_bytes(2, "big") + blank[4:]
    return ip(source, destination, 58, done, hop_limit=hop_limit)


def behind_extension(packet: bytes, header: int) -> bytes:
    """An IPv6 packet with one extension header (0 hop-by-hop, 60 destination options) of 8 bytes of padding put in."""
    following = packet[6]
    extension = bytes((following, 0, 1, 4, 0, 0, 0, 0))  # PadN with 4 bytes
    length = int.from_bytes(packet[4:6], "big") + len(extension)
    return packet[:4] + length.to_bytes(2, "big") + bytes((header,)) + packet[7:40] + extension + packet[40:]


def ipx(destination: bytes, source: bytes, payload: bytes) -> bytes:
    """Novell "raw 802.3": a length field, then at once FF FF, the IPX header's unused checksum."""
    body = bytes.fromhex("ffff") + (30 + len(payload)).to_bytes(2, "big") + bytes.fromhex("0004")
    body += bytes(4) + BROADCAST + bytes.fromhex("0869") + bytes(4) + source + bytes.fromhex("0869") + payload
    return (destination + source + len(body).to_bytes(2, "big") + body).ljust(60, b"\0")


def bootp(operation: int, client: bytes, kind: int, marker: bytes) -> bytes:
    """A DHCP message; the marker is where the boot file's name would be."""
    head = struct.pack("!BBBB", operation, 1, 6, 0) + bytes(24) + client.ljust(16, b"\0") + bytes(64)
    return head + marker.ljust(128, b"\0") + bytes((99, 130, 83, 99, 53, 1, kind, 255))


def arp(operation: int, source: bytes, source_ip: str, target: bytes, target_ip: str) -> bytes:
    """The payload of an ARP frame for IPv4 over Ethernet."""
    sender = source + ipaddress.ip_address(source_ip).packed
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + sender + target + ipaddress.ip_address(target_ip).packed
