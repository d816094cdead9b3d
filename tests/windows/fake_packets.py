"""Frames of IPv4 as Windows' stack and a house's hosts build them: UDP with its checksums, and ARP."""

import ipaddress
import struct

BROADCAST = b"\xff" * 6
_ARP_ETHERNET = struct.pack("!HHBB", 1, 0x0800, 6, 4)


def packed(address):
    return ipaddress.IPv4Address(address).packed


def checksum(data):
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(to_mac, from_mac, source, destination, payload, ttl=128):
    """``source`` and ``destination`` are (address, port)."""
    pseudo = packed(source[0]) + packed(destination[0]) + struct.pack("!BBH", 0, 17, 8 + len(payload))
    head = struct.pack("!HHH", source[1], destination[1], 8 + len(payload))
    segment = head + struct.pack("!H", checksum(pseudo + head + b"\0\0" + payload) or 0xFFFF) + payload
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), 0, 0, ttl, 17)
    addresses = packed(source[0]) + packed(destination[0])
    header = start + struct.pack("!H", checksum(start + b"\0\0" + addresses)) + addresses
    return to_mac + from_mac + b"\x08\x00" + header + segment


def udp_of(frame):
    """(source, destination, payload) of a UDP frame without IP options, or None."""
    if frame[12:14] != b"\x08\x00" or frame[14] != 0x45 or frame[23] != 17:
        return None
    source_port, destination_port, length = struct.unpack_from("!HHH", frame, 34)
    addresses = [str(ipaddress.IPv4Address(frame[start : start + 4])) for start in (26, 30)]
    return (addresses[0], source_port), (addresses[1], destination_port), frame[42 : 34 + length]


def arp(operation, sender, target, to_mac=BROADCAST):
    """``sender`` and ``target`` are (MAC, address)."""
    body = _ARP_ETHERNET + struct.pack("!H", operation)
    body += sender[0] + packed(sender[1]) + target[0] + packed(target[1])
    return (to_mac + sender[0] + b"\x08\x06" + body).ljust(60, b"\0")


def arp_answer(frame, mac, address):
    """The answer of who has ``address``, or None: the frame does not ask for it."""
    if address is None or frame[12:14] != b"\x08\x06" or frame[14:22] != _ARP_ETHERNET + b"\x00\x01":
        return None
    if frame[38:42] != packed(address):
        return None
    asker = (frame[22:28], str(ipaddress.IPv4Address(frame[28:32])))
    return arp(2, (mac, address), asker, to_mac=asker[0])
