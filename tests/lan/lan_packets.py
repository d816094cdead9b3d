"""Builders of the frames in ``lan_vectors``: packets by hand of which any field may lie.

A ``Build`` is a frame as a function of who is there (``Scene``) and of a mark of 16 bytes behind the packet proper (an
Ethernet trailer, as padding is), by which an observer knows the frame again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from ipaddress import IPv6Address

import attrs
from lan_frames import BROADCAST, arp, checksum, ethernet, icmpv6, ip, mac, udp

MARK_SIZE = 16
ALL_NODES, ALL_ROUTERS, ALL_DHCP_AGENTS = "ff02::1", "ff02::2", "ff02::1:2"
IPV4, ARP, IPX, IPV6 = 0x0800, 0x0806, 0x8137, 0x86DD
HOUSE_PC, NOBODY = "192.168.77.50", "192.168.77.99"
"""A computer of the house, and an address of its network that nobody has."""
NOBODYS_MAC = mac("02:99:99:99:99:99")


def mark() -> bytes:
    return os.urandom(MARK_SIZE)


@attrs.frozen
class Scene:
    """Who is there. ``own`` sends the vectors; ``other`` is another member; the router is a house computer."""

    own: bytes
    own_ip: str
    own_link_local: str
    other: bytes
    other_ip: str
    other_link_local: str
    router: bytes
    router_ip: str
    router_link_local: str


Build = Callable[[Scene, bytes], bytes]
"""A frame of the scene's ``own`` with this mark in it."""


def group6(address: str) -> bytes:
    """The Ethernet address of an IPv6 group (RFC 2464 section 7)."""
    return b"\x33\x33" + IPv6Address(address).packed[12:]


def sent(ethertype: int, packet: Callable[[Scene], bytes], destination: bytes = BROADCAST) -> Build:
    return lambda scene, known: ethernet(destination, scene.own, ethertype, packet(scene) + known)


def ip4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    version: int = 4,
    ihl: int | None = None,
    total: int | None = None,
) -> bytes:
    """An IPv4 packet of which any field may lie. ``fragment`` is the field with flags and offset."""
    packet = bytearray(ip(source, destination, protocol, payload))
    packet[0] = version << 4 | (5 + len(options) // 4 if ihl is None else ihl)
    packet[2:4] = (20 + len(options) + len(payload) if total is None else total).to_bytes(2, "big")
    packet[6:8] = fragment.to_bytes(2, "big")
    packet[10:12] = bytes(2)
    head = bytes(packet[:20]) + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def in_ip4(packet: bytes, **lies: object) -> bytes:
    """A packet of ``lan_frames.udp`` again, with lies or options in its IPv4 header."""
    source, destination = ".".join(map(str, packet[12:16])), ".".join(map(str, packet[16:20]))
    return ip4(source, destination, packet[9], packet[20:], **lies)  # type: ignore[arg-type]


MORE = 0x2000
NOP = b"\x01"


def dhcp(
    operation: int,
    kind: int,
    client: bytes,
    *,
    htype: int = 1,
    hlen: int = 6,
    ciaddr: str = "0.0.0.0",
    giaddr: str = "0.0.0.0",
    options: bytes = b"",
) -> bytes:
    head = struct.pack("!BBBB", operation, htype, hlen, 0) + os.urandom(4) + bytes(4)
    head += octets(ciaddr) + bytes(8) + octets(giaddr) + client.ljust(16, b"\0") + bytes(192)
    return head + bytes((99, 130, 83, 99, 53, 1, kind)) + options + b"\xff"


def octets(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def option(code: int, value: bytes) -> bytes:
    return bytes((code, len(value))) + value


def to_dhcp(packet: Callable[[Scene], bytes], ports: tuple[int, int], source: str | None = None) -> Build:
    """From the sender's own address, so that nothing but DHCP is wrong with it."""
    return sent(IPV4, lambda s: udp(source or s.own_ip, "255.255.255.255", *ports, packet(s)))


def ipv6_extension(packet: bytes, header: int, times: int = 1, size: int = 8) -> bytes:
    """An IPv6 packet with extension headers of padding put in."""
    for _ in range(times):
        padding = bytes((1, size - 4)) + bytes(size - 4)
        inner = bytes((packet[6], size // 8 - 1)) + padding + packet[40:]
        packet = packet[:4] + len(inner).to_bytes(2, "big") + bytes((header,)) + packet[7:40] + inner
    return packet


def ipv6_fragment(packet: bytes, *, more: bool, keep: int | None = None) -> bytes:
    """The first (or, with ``more`` False, only) fragment of an IPv6 packet, with ``keep`` bytes of it."""
    inner = bytes((packet[6], 0)) + int(more).to_bytes(2, "big") + os.urandom(4) + packet[40:][:keep]
    return packet[:4] + len(inner).to_bytes(2, "big") + bytes((44,)) + packet[7:40] + inner


def from_own6(kind: int, body: bytes, to: str = ALL_NODES, **more: int) -> Callable[[Scene], bytes]:
    return lambda s: icmpv6(s.own_link_local, to, kind, body, **more)


def icmp6(kind: int, body: bytes, to: str = ALL_NODES, **more: int) -> Build:
    return sent(IPV6, from_own6(kind, body, to, **more), group6(to))


def behind(packet: Callable[[Scene], bytes], change: Callable[[bytes], bytes], to: str = ALL_NODES) -> Build:
    return sent(IPV6, lambda s: change(packet(s)), group6(to))


def link_option(kind: int, address: bytes) -> bytes:
    """Source (1) or target (2) link-layer address (RFC 4861 section 4.6.1)."""
    return bytes((kind, 1)) + address


def solicitation(target: str, options: bytes = b"") -> bytes:
    return bytes(4) + IPv6Address(target).packed + options


def advertisement(target: str, options: bytes = b"", flags: int = 0x20) -> bytes:
    return bytes((flags, 0, 0, 0)) + IPv6Address(target).packed + options


def nd(
    kind: int,
    body: Callable[[Scene], bytes],
    to: str = ALL_NODES,
    source: Callable[[Scene], str] = lambda s: s.own_link_local,
    **more: int,
) -> Build:
    return sent(IPV6, lambda s: icmpv6(source(s), to, kind, body(s), **more), group6(to))


# No prefix and lifetime 0: where the guard is off it must arrive, and do no harm.
ROUTER_ADVERTISEMENT = bytes(12)
ECHO = bytes((0, 1, 0, 1)) + b"ping"
MLD_QUERY = struct.pack("!HH", 1000, 0) + bytes(16)
MLD_REPORT = bytes(4) + IPv6Address("ff02::4d").packed
MLD2_REPORT = struct.pack("!HHBBH", 0, 1, 4, 0, 0) + IPv6Address("ff02::4d").packed
ROUTER_ALERT = bytes((0, 0, 5, 2, 0, 0, 1, 0))
"""The hop-by-hop header of MLD (RFC 2711), next header left open."""


def with_router_alert(packet: bytes) -> bytes:
    inner = bytes((packet[6],)) + ROUTER_ALERT[1:] + packet[40:]
    return packet[:4] + len(inner).to_bytes(2, "big") + b"\0" + packet[7:40] + inner


def own_udp(source_port: int, destination_port: int, payload: bytes = b"game", to: str = "192.168.77.255") -> Build:
    return sent(IPV4, lambda s: udp(s.own_ip, to, source_port, destination_port, payload))


def own_ip(protocol: int, payload: bytes, to: str = "224.0.0.5", destination: bytes | None = None) -> Build:
    """From the own address with time to live 1, to a group unless told otherwise."""
    at = b"\x01\x00\x5e" + octets(to)[1:] if destination is None else destination
    return sent(IPV4, lambda s: ip(s.own_ip, to, protocol, payload, hop_limit=1), at)


def summed(message: bytes) -> bytes:
    """ICMP or IGMP with its checksum, which is in bytes 2 and 3."""
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def arp_to_all(operation: int, sender_ip: Callable[[Scene], str], hardware: bytes | None = None) -> Build:
    return sent(ARP, lambda s: arp(operation, hardware or s.own, sender_ip(s), BROADCAST, NOBODY))


def changed_arp(at: int, value: bytes) -> Build:
    def packet(s: Scene) -> bytes:
        body = arp(1, s.own, s.own_ip, bytes(6), NOBODY)
        return body[:at] + value + body[at + len(value) :]

    return sent(ARP, packet)


def length_field(value: int) -> Build:
    """802.3 with this length, plain LLC behind it."""
    return lambda s, known: ethernet(BROADCAST, s.own, value, b"\x42\x42\x03" + known)
