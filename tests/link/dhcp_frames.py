"""Builds DHCP replies as a server's network card would send them, for the tests of lanparty.link's DHCP client."""

import ipaddress
import struct

MAC = bytes.fromhex("02a1b2c3d4e5")
SERVER_MAC = bytes.fromhex("00163e007701")
OFFER, ACK, NAK = 2, 5, 6


def packed(*addresses):
    return b"".join(ipaddress.IPv4Address(address).packed for address in addresses)


def options_of(kind, *, server="192.168.77.1", mask="255.255.255.0", seconds=3600, more=()):
    """(code, value) pairs of an ordinary reply; ``None`` leaves one out."""
    found = [(53, bytes([kind]))]
    if server is not None:
        found.append((54, packed(server)))
    if mask is not None and kind != NAK:
        found.append((1, packed(mask)))
    if seconds is not None and kind != NAK:
        found.append((51, struct.pack("!I", seconds)))
    return [*found, *more]


def bootp(options, *, xid=0x12345670, address="192.168.77.100", mac=MAC, op=2, sname=b"", file=b""):
    head = struct.pack("!BBBBIHH", op, 1, 6, 0, xid, 0, 0x8000)
    addresses = packed("0.0.0.0", address, "0.0.0.0", "0.0.0.0")
    tail = mac.ljust(16, b"\0") + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + b"\x63\x82\x53\x63"
    return head + addresses + tail + b"".join(bytes([code, len(value)]) + value for code, value in options) + b"\xff"


def udp_frame(payload, *, source=67, destination=68, ip_options=b"", fragment=0, server_mac=SERVER_MAC):
    udp = struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload
    header = 20 + len(ip_options)
    version = 0x40 | header // 4
    ip = struct.pack("!BBHHHBBH", version, 0, header + len(udp), 0, fragment, 64, 17, 0)
    ip += packed("192.168.77.1", "255.255.255.255") + ip_options
    return b"\xff" * 6 + server_mac + b"\x08\x00" + ip + udp


def reply(kind, **fields):
    """A whole frame. Keywords go to ``bootp`` or ``options_of``."""
    inner = {name: fields.pop(name) for name in ("xid", "address", "mac", "op", "sname", "file") if name in fields}
    outer = {name: fields.pop(name) for name in ("ip_options", "fragment", "server_mac") if name in fields}
    return udp_frame(bootp(options_of(kind, **fields), **inner), **outer)
