"""A room under the guard, with everybody's addresses known: what the guard's tests play in.

house      router 10.0.0.1 (DHCP server, fe80::1)      machine HOUSE 10.0.0.9, fe80::9
members    PLAYER 10.0.0.2, fe80::2                    OTHER 10.0.0.3, fe80::3
"""

from __future__ import annotations

import attrs
from relay_packets import (
    ARP,
    BROADCAST,
    HOUSE,
    IPV4,
    IPV6,
    OTHER,
    PLAYER,
    arp,
    dhcp,
    ethernet,
    icmpv6,
    ipv4,
    ipv6,
    link_layer,
    link_local,
    nd,
    option,
    udp,
)

from lanparty.guard.guard import Guard, Rule
from lanparty.guard.levels import Level, RoomPolicy

ROUTER_MAC = bytes.fromhex("3c970e000001")
ROUTER, PLAYER4, OTHER4, HOUSE4, FREE4 = (bytes((10, 0, 0, number)) for number in (1, 2, 3, 9, 77))
ROUTER6, PLAYER6, OTHER6, HOUSE6, FREE6 = (link_local(number) for number in (1, 2, 3, 9, 77))
LEASE = 600
ALL_ROUTERS6 = bytes.fromhex("ff02") + bytes(13) + b"\x02"


@attrs.frozen
class Sender:
    mac: bytes = PLAYER
    is_gateway: bool = False


CLIENT = Sender()
SECOND = Sender(OTHER)
GATEWAY = Sender(b"", is_gateway=True)


def ack(mac: bytes, address: bytes, seconds: int = LEASE, xid: int = 7, extra: bytes = b"") -> bytes:
    """A frame of the house's DHCP server: an acknowledgement."""
    options = option(51, seconds.to_bytes(4, "big")) + option(54, ROUTER) + option(3, ROUTER)
    options += option(1, b"\xff\xff\xff\x00") + extra
    message = dhcp(5, mac, op=2, xid=xid, yiaddr=address, options=options)
    return ethernet(ipv4(udp(67, 68, message), source=ROUTER), IPV4, source=ROUTER_MAC, destination=BROADCAST)


def nak(mac: bytes, xid: int = 7) -> bytes:
    message = dhcp(6, mac, op=2, xid=xid, options=option(54, ROUTER))
    return ethernet(ipv4(udp(67, 68, message), source=ROUTER), IPV4, source=ROUTER_MAC, destination=BROADCAST)


def request(mac: bytes = PLAYER, *, kind: int | None = 3, source: bytes = bytes(4), ports: tuple[int, int] = (68, 67),
            **fields: object) -> bytes:  # fmt: skip
    """A frame with a DHCP client's message."""
    return ethernet(ipv4(udp(*ports, dhcp(kind, mac, **fields)), source=source), IPV4, source=mac)


def house_arp(address: bytes, mac: bytes = HOUSE, op: int = 1, target: bytes = bytes(4)) -> bytes:
    return ethernet(arp(op, address, mac, target), ARP, source=mac)


def game(source: bytes, mac: bytes = PLAYER, destination: bytes = BROADCAST) -> bytes:
    """A plain IPv4 or IPv6 packet from this address."""
    if len(source) == 4:
        return ethernet(ipv4(udp(27005, 27015), source=source), IPV4, source=mac, destination=destination)
    return ethernet(ipv6(udp(27005, 27015), 17, source=source), IPV6, source=mac, destination=destination)


def advertisement(source: bytes = ROUTER6, mac: bytes = ROUTER_MAC) -> bytes:
    """A router advertisement."""
    return ethernet(ipv6(icmpv6(134), 58, source=source), IPV6, source=mac)


class World:
    """The room above, at some time; ``now`` is moved by the test."""

    def __init__(self, level: Level = Level.STRICT, mtu: int = 1500, **policy: object) -> None:
        self.macs: set[bytes] = {PLAYER, OTHER}
        self.guard = Guard(RoomPolicy(level=level, **policy), mtu, self.macs)
        self.now = 1000.0
        self.house(ack(PLAYER, PLAYER4), ack(OTHER, OTHER4), house_arp(HOUSE4), advertisement())
        neighbour = nd(136, HOUSE6, link_layer(2, HOUSE))
        self.house(ethernet(ipv6(neighbour, 58, source=HOUSE6), IPV6, source=HOUSE))
        for sender, address in ((CLIENT, PLAYER6), (SECOND, OTHER6)):
            assert self.judge(game(address, sender.mac), sender) is None

    def house(self, *frames: bytes) -> list[Rule | None]:
        """Frames from the LAN."""
        return [self.guard.judge_untrusted(frame, GATEWAY, self.now) for frame in frames]

    def judge(self, frame: bytes, sender: Sender = CLIENT) -> Rule | None:
        return self.guard.judge_untrusted(frame, sender, self.now)
