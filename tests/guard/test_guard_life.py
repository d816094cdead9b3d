"""Lawful LAN life under "strict": everything passes. And any bytes at all: a verdict, and tables that stay small."""

from __future__ import annotations

import random
import struct

import pytest
from guard_vectors import VECTORS, WRAPPINGS
from guard_world import (
    CLIENT,
    FREE4,
    FREE6,
    GATEWAY,
    HOUSE4,
    HOUSE6,
    LEASE,
    OTHER4,
    PLAYER4,
    PLAYER6,
    ROUTER,
    SECOND,
    World,
    ack,
    advertisement,
    game,
    house_arp,
    nak,
    request,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_packets import (
    ALL_NODES,
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
    extension,
    icmpv6,
    ipv4,
    ipv6,
    ipx_802_3,
    link_layer,
    nd,
    option,
    snap,
    udp,
)

from lanparty.guard.bindings import MAX_HOUSE, MAX_IPV4, MAX_IPV6, MAX_RESERVED
from lanparty.guard.guard import Guard, Rule
from lanparty.guard.levels import Level, RoomPolicy

ZERO4, ZERO6 = bytes(4), bytes(16)
ROUTER_ALERT = b"\x94\x04\0\0"
BROADCAST4 = b"\x0a\0\0\xff"


def group4(address: bytes) -> bytes:
    return b"\x01\0\x5e" + bytes((address[1] & 0x7F,)) + address[2:]


def says(payload: bytes, ports: tuple[int, int], to: bytes = b"\xff" * 4, source: bytes = PLAYER4) -> bytes:
    """A UDP frame of PLAYER's."""
    destination = group4(to) if 224 <= to[0] < 240 else BROADCAST if to in (b"\xff" * 4, BROADCAST4) else HOUSE
    return ethernet(ipv4(udp(*ports, payload), source=source, destination=to), IPV4, destination=destination)


def six(message: bytes, source: bytes = PLAYER6, protocol: int = 58, destination: bytes = ALL_NODES) -> bytes:
    return ethernet(ipv6(message, protocol, source=source), IPV6, destination=destination)


MLD = extension(58) + icmpv6(143, bytes(24))
LIFE: dict[str, list[bytes]] = {
    "dhcp from nothing": [request(kind=1), request(options=option(50, PLAYER4) + option(54, ROUTER))],
    "dhcp init-reboot": [request(options=option(50, PLAYER4))],
    "dhcp renewal, unicast": [request(source=PLAYER4, ciaddr=PLAYER4)],
    "dhcp inform": [request(kind=8, source=PLAYER4, ciaddr=PLAYER4)],
    "dhcp decline and release": [request(kind=4, options=option(50, PLAYER4))],
    "arp probe, announcement, question, answer": [
        *[ethernet(arp(1, ZERO4, target=PLAYER4), ARP)] * 3,
        *[ethernet(arp(1, PLAYER4, target=PLAYER4), ARP)] * 2,
        ethernet(arp(1, PLAYER4, target=HOUSE4), ARP),
        ethernet(arp(2, PLAYER4, target=HOUSE4), ARP, destination=HOUSE),
        ethernet(arp(2, PLAYER4, target=PLAYER4), ARP),
    ],
    "icmp": [ethernet(ipv4(bytes((kind,)) + bytes(15), protocol=1), IPV4, destination=HOUSE) for kind in (0, 3, 8, 11)],
    "igmp before and after the lease": [
        ethernet(ipv4(b"\x22" + bytes(15), 2, ROUTER_ALERT, source=source), IPV4, destination=group4(b"\xe0\0\0\x16"))
        for source in (ZERO4, PLAYER4)
    ],
    "duplicate address detection": [
        six(MLD, ZERO6, 0),
        six(nd(135, FREE6, b"\x0e\x01nonce."), ZERO6),
        six(MLD, FREE6, 0),
        six(nd(133, None, link_layer(1, PLAYER)), FREE6),
        six(nd(133), ZERO6),
    ],
    "neighbour discovery": [
        six(nd(135, HOUSE6, link_layer(1, PLAYER))),
        six(nd(136, PLAYER6, link_layer(2, PLAYER)), destination=HOUSE),
        six(nd(136, PLAYER6, link_layer(2, PLAYER))),
        six(nd(135, HOUSE6), destination=HOUSE),
    ],
    "echo, too big, traceroute": [six(icmpv6(kind)) for kind in (1, 2, 3, 4, 128, 129)],
    "mld 1": [six(extension(58) + icmpv6(kind), protocol=0) for kind in (131, 132)],
    "dhcpv6": [six(udp(546, 547, bytes((kind, 1, 2, 3))), protocol=17) for kind in (1, 3, 5, 6, 8, 9, 11)],
    "mdns": [
        says(bytes(30), (5353, 5353), b"\xe0\0\0\xfb"),
        six(udp(5353, 5353), protocol=17, destination=bytes.fromhex("3333000000fb")),
    ],
    "ssdp": [
        says(b"M-SEARCH * HTTP/1.1", (50000, 1900), b"\xef\xff\xff\xfa"),
        says(b"HTTP/1.1 200", (1900, 50000), HOUSE4),
    ],
    "llmnr": [says(bytes(20), (50001, 5355), b"\xe0\0\0\xfc"), says(bytes(20), (5355, 50001), HOUSE4)],
    "netbios": [says(bytes(50), (137, 137), BROADCAST4), says(bytes(180), (138, 138), BROADCAST4)],
    "ws-discovery": [says(bytes(600), (50003, 3702), b"\xef\xff\xff\xfa")],
    "ipx in its four framings": [
        ethernet(b"\xff\xff" + bytes(28), 0x8137),
        ipx_802_3(),
        ethernet(b"\xe0\xe0\x03\xff\xff" + bytes(28), 33),
        snap(b"\xff\xff" + bytes(28), 0x8137),
    ],
    "quake 3": [says(b"\xff\xff\xff\xffgetinfo xxx", (27960, port)) for port in range(27960, 27964)],
    "source engine": [says(b"\xff\xff\xff\xffTSource Engine Query\0", (27005, port)) for port in range(27015, 27021)],
    "minecraft": [says(b"[MOTD]A world[/MOTD][AD]50505[/AD]", (50505, 4445), b"\xe0\0\x02\x3c")],
    "warcraft iii": [says(b"\xf7\x2f\x10\0PX3W\x1a\0\0\0", (6112, 6112)), says(bytes(16), (6112, 6112), BROADCAST4)],
    "directplay": [says(bytes(60), (2302, 47624)), says(bytes(60), (50004, 6073))],
    "unreal": [says(b"\\status\\", (50005, port)) for port in range(7777, 7788)],
    "age of empires, link-local": [says(bytes(20), (2350, 2350), source=b"\xa9\xfe\x09\x09")],
    "game from windows xp's ports": [says(bytes(20), (port, 27015), HOUSE4) for port in (1985, 2029, 3222)],
    "fragments": [
        ethernet(ipv4(udp(27005, 27015, bytes(1400)), fragment=0x2000), IPV4),
        ethernet(ipv4(bytes(1400), fragment=0x20AF), IPV4),
        ethernet(ipv4(bytes(3), fragment=0x0140), IPV4),
    ],
    "vpn and voice": [ethernet(ipv4(bytes(40), protocol), IPV4) for protocol in (47, 50, 51, 132, 136)],
    "tcp, both ways of the size": [
        ethernet(ipv4(bytes(20), protocol=6), IPV4, destination=HOUSE),
        ethernet(ipv4(bytes(1480), protocol=6), IPV4, destination=HOUSE),
        ethernet(ipv6(bytes(1460), 6), IPV6, destination=HOUSE),
    ],
}


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("name", LIFE)
def test_guard_lawful_life_passes(name: str, level: Level) -> None:
    world = World(level)
    assert [world.judge(frame) for frame in LIFE[name]] == [None] * len(LIFE[name])


def test_guard_a_whole_evening_of_two_players_loses_nothing() -> None:
    """Six hours: leases renewed, IPv6 addresses that come and go, discovery, a relay that restarts in the middle."""
    world = World()
    world.macs.add(PLAYER)
    temporary = [b"\xfe\x80" + bytes(6) + bytes((day, *b"privacy")) for day in range(8)]
    for minute in range(360):
        world.now += 60
        if minute == 200:
            world.guard = Guard(RoomPolicy(), 1500, world.macs)
        frames = [frame for name in LIFE if not name.startswith("dhcp") for frame in LIFE[name]]
        frames += [six(icmpv6(128), temporary[minute % 8])]
        assert [frame for frame in frames if world.judge(frame) is not None] == []
        if minute % 5 == 0:
            assert world.judge(request(source=PLAYER4, ciaddr=PLAYER4)) is None
            world.house(ack(PLAYER, PLAYER4))
            assert world.judge(request(OTHER, source=OTHER4, ciaddr=OTHER4), SECOND) is None
            world.house(ack(OTHER, OTHER4), house_arp(HOUSE4), house_arp(ROUTER))
        assert world.judge(game(OTHER4, OTHER), SECOND) is None


def test_guard_dhcp_from_nothing_with_every_message() -> None:
    world = World()
    world.guard = Guard(RoomPolicy(), 1500, world.macs)
    offer = ethernet(ipv4(udp(67, 68, dhcp(2, op=2, yiaddr=PLAYER4))), IPV4, source=HOUSE)
    steps = [
        (CLIENT, request(kind=1)),
        (GATEWAY, offer),
        (CLIENT, request(options=option(50, PLAYER4) + option(54, ROUTER))),
        (GATEWAY, ack(PLAYER, PLAYER4)),
        (CLIENT, ethernet(arp(1, ZERO4, target=PLAYER4), ARP)),
        (CLIENT, ethernet(arp(1, PLAYER4, target=PLAYER4), ARP)),
        (CLIENT, game(PLAYER4)),
        (CLIENT, request(source=PLAYER4, ciaddr=PLAYER4)),
        (GATEWAY, ack(PLAYER, PLAYER4, seconds=LEASE)),
        (CLIENT, request(kind=7, source=PLAYER4, ciaddr=PLAYER4)),
    ]
    for sender, frame in steps:
        assert world.judge(frame, sender) is None


# --- any bytes --------------------------------------------------------------------------------------------------------

SEEDS = [
    *(wrap(vector.packet, vector.ethertype) for vector in VECTORS for wrap, _ in WRAPPINGS.values()),
    *(frame for frames in LIFE.values() for frame in frames),
    *(ack(PLAYER, FREE4), nak(PLAYER), house_arp(HOUSE4), advertisement(), request(options=option(82, b"x"))),
    *(ethernet(bytes(46), destination=bytes.fromhex(text)) for text in ("0180c2000000", "01000ccccccc")),
]


def assert_bounded(guard: Guard) -> None:
    bindings = guard.bindings
    assert set(bindings._members) <= {PLAYER, OTHER}
    assert len(bindings._holders) <= 2 * (1 + MAX_IPV4 + MAX_IPV6)
    assert len(bindings._house) <= MAX_HOUSE
    assert len(bindings._reserved) <= MAX_RESERVED


def test_guard_100_000_mutated_frames_get_a_verdict_and_the_tables_stay_small() -> None:
    chance = random.Random(20261122)
    world = World()
    verdicts: set[Rule | None] = set()
    for number in range(100_000):
        frame = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randrange(1, 4)):
            if len(frame) < 13:
                break
            match chance.randrange(4):
                case 0:
                    frame[chance.randrange(12, len(frame))] = chance.randrange(256)
                case 1:
                    del frame[chance.randrange(12, len(frame) + 1) :]
                case 2:
                    at = chance.randrange(12, len(frame) + 1)
                    frame[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8, 600)))
                case _:
                    frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
        sender = chance.choice((CLIENT, CLIENT, CLIENT, SECOND, GATEWAY))
        if sender is not CLIENT and len(frame) > 12 and chance.random() < 0.9:
            frame[6:12] = sender.mac or HOUSE
        verdict = world.judge(bytes(frame), sender)
        assert verdict is None or isinstance(verdict, Rule)
        verdicts.add(verdict)
        world.now += 0.01
        if number % 1000 == 0:
            assert_bounded(world.guard)
    assert_bounded(world.guard)
    assert verdicts == {None, *Rule} - {Rule.STORM, Rule.ISOLATION}, "the mutations get everywhere"


TYPES = [IPV4, ARP, IPV6, 0x8137, 0x8100, 0x88A8, 0x0020, 0x0005]


@given(
    st.lists(st.tuples(st.binary(max_size=400), st.sampled_from(TYPES), st.sampled_from((CLIENT, SECOND, GATEWAY)))),
    st.sampled_from(list(Level)),
)
@settings(max_examples=300, deadline=None)
def test_guard_arbitrary_bytes_get_a_verdict(frames: list[tuple[bytes, int, object]], level: Level) -> None:
    world = World(level)
    for payload, ethertype, sender in frames:
        for frame in (payload, ethernet(payload, ethertype, source=sender.mac or HOUSE)):
            verdict = world.judge(frame, sender)
            assert verdict is None or isinstance(verdict, Rule)
    assert_bounded(world.guard)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_guard_no_chain_of_headers_hides_what_steers(data: st.DataObject) -> None:
    """Behind any chain of extension headers: RA, redirect, MLD query, DHCPv6 servers, forged NA, OSPF never pass."""
    forged = nd(136, HOUSE6, link_layer(2, PLAYER))
    ends = [(58, icmpv6(134)), (58, icmpv6(137)), (58, icmpv6(130)), (17, udp(547, 546)), (58, forged), (89, bytes(30))]
    last, packet = data.draw(st.sampled_from(ends))
    for kind in data.draw(st.lists(st.sampled_from([0, 43, 60, 135, 139, 140, 44]), max_size=12)):
        if kind == 44:
            more = data.draw(st.booleans())
            packet = struct.pack("!BBHI", last, 0, more, 7) + packet
        else:
            packet = extension(last, data.draw(st.sampled_from([8, 16, 64]))) + packet
        last = kind
    assert World().judge(six(packet, protocol=last)) is not None
