"""Every row of l2-guard.md at all three levels: its vectors in four wrappings, and the lawful twin of each."""

from __future__ import annotations

import struct

import attrs
import pytest
from guard_vectors import DISCOVER, GAME, GAME6, OWN_ARP, VECTORS, WRAPPINGS, Vector, arp_vectors, asked
from guard_world import CLIENT, GATEWAY, ROUTER, World
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
    ipv4,
    ipx_802_3,
    snap,
    tag,
    udp,
)

from lanparty.guard.guard import Rule
from lanparty.guard.levels import Level

LEVELS = list(Level)


def test_guard_vectors_cover_all_rows_with_a_packet() -> None:
    assert {vector.row for vector in VECTORS} == set(range(7, 17))
    assert len({str(vector) for vector in VECTORS}) == len(VECTORS)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_guard_drops(vector: Vector, wrapping: str) -> None:
    wrap, wrapped_rule = WRAPPINGS[wrapping]
    frame = wrap(vector.packet, vector.ethertype)
    expected = {Level.STRICT: wrapped_rule or vector.rule, Level.STANDARD: vector.standard, Level.OFF: None}
    assert {level: World(level).judge(frame) for level in LEVELS} == expected


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_guard_passes_the_lawful_twin(vector: Vector, wrapping: str) -> None:
    wrap, wrapped_rule = WRAPPINGS[wrapping]
    frame = wrap(vector.twin, vector.ethertype)
    expected = {Level.STRICT: wrapped_rule, Level.STANDARD: None, Level.OFF: None}
    assert {level: World(level).judge(frame) for level in LEVELS} == expected


# --- rows 1 to 6: the Ethernet header ---------------------------------------------------------------------------------

IPX = bytes(46)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("size", "mtu", "rule"),
    [
        (0, 1500, Rule.LENGTH),
        (13, 1500, Rule.LENGTH),
        (14, 1500, None),
        (1514, 1500, None),
        (1515, 1500, Rule.LENGTH),
        (1166, 1152, None),
        (1167, 1152, Rule.LENGTH),
    ],
)
def test_guard_row1_length(level: Level, size: int, mtu: int, rule: Rule | None) -> None:
    frame = ethernet(bytes(max(0, size - 14)))[:size]
    assert World(level, mtu).judge(frame) is rule


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("ethertype", [0x8137, IPV4, ARP, IPV6])
def test_guard_row2_addresses(level: Level, ethertype: int) -> None:
    world = World(level)
    payload = {IPV4: GAME, ARP: OWN_ARP, IPV6: GAME6}.get(ethertype, IPX)
    for source in (OTHER, HOUSE, bytes(6), BROADCAST, bytes.fromhex("00005e000101"), bytes.fromhex("00005e000201")):
        assert world.judge(ethernet(payload, ethertype, source=source)) is Rule.ADDRESS
    for destination in (bytes(6), PLAYER):
        assert world.judge(ethernet(payload, ethertype, destination=destination)) is Rule.ADDRESS
    for destination in (OTHER, HOUSE, BROADCAST, ALL_NODES):
        assert world.judge(ethernet(payload, ethertype, destination=destination)) is None


@pytest.mark.parametrize(
    "tags",
    [tag(0x8100), tag(0x8100) * 2, tag(0x88A8, 5) + tag(0x8100), tag(0x9100), tag(0x9200), tag(0x9300), tag(0x8100, 7)],
    ids=bytes.hex,
)
@pytest.mark.parametrize("inner", [IPV4, ARP, IPV6, 0x8137])
def test_guard_row3_vlan(tags: bytes, inner: int) -> None:
    payload = {IPV4: GAME, ARP: OWN_ARP, IPV6: GAME6}.get(inner, IPX)
    frame = ethernet(payload, inner, tags=tags)
    assert [World(level).judge(frame) for level in LEVELS] == [Rule.VLAN, None, None]
    assert World().judge(ethernet(payload, inner)) is None
    from_house = ethernet(payload, inner, source=HOUSE, tags=tags)
    assert World().house(from_house) == [Rule.VLAN]
    assert World().judge(ethernet(bytes(1500), inner, tags=tags)) is Rule.VLAN


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (ipx_802_3(), None),
        (ethernet(b"\xff\xff" + bytes(28), 30) + bytes(20), None),
        (ethernet(b"\xe0\xe0\x03" + bytes(30), 33), None),
        (snap(b"\xff\xff" + bytes(28), 0x8137), None),
        (ethernet(b"\xff\xff" + bytes(28), 31), Rule.LLC),
        (ethernet(b"\xff\xff" + bytes(28), 1), Rule.LLC),
        (ethernet(b"\xff\xff" + bytes(28), 0), Rule.LLC),
        (ethernet(b"\xe0\xe0\x03" + bytes(30), 2), Rule.LLC),
        (snap(GAME, IPV4), Rule.LLC),
        (snap(GAME6, IPV6), Rule.LLC),
        (snap(OWN_ARP, ARP), Rule.LLC),
        (snap(bytes(28), 0x8137, oui=b"\0\0\xf8"), Rule.LLC),
        (snap(bytes(20), 0x809B, oui=b"\x08\x00\x07"), Rule.LLC),
        (ethernet(b"\xf0\xf0\x03" + bytes(40), 43), Rule.LLC),
        (ethernet(b"\x42\x42\x03" + bytes(40), 43), Rule.LLC),
        (ethernet(b"\xff\xff" + bytes(1500), 0x05DC)[:1514], None),
        *((ethernet(b"\xff\xff" + bytes(1498), length), Rule.LLC) for length in (0x05DD, 0x05EE, 0x05FF)),
    ],
)
def test_guard_row4_llc(frame: bytes, rule: Rule | None) -> None:
    assert World().judge(frame) is rule
    assert World().house(frame[:6] + HOUSE + frame[12:]) == [rule]
    assert World(Level.OFF).judge(frame) is None


def test_guard_row5_ethertypes() -> None:
    world = World()
    refused = [0x8808, 0x8809, 0x88CC, 0x888E, 0x8863, 0x8864, 0x8847, 0x8848, 0x9000, 0x893F, 0x0600, 0x88B5, 0x88F7]
    for ethertype in (*refused, 0x8035, 0x22F3, 0x6558, 0xFFFF):
        frame = ethernet(bytes(46), ethertype)
        assert world.judge(frame) is Rule.ETHERTYPE
        assert world.house(frame[:6] + HOUSE + frame[12:]) == [Rule.ETHERTYPE]
        assert World(Level.STANDARD).judge(frame) is None
        assert World(Level.OFF).judge(frame) is None
    assert world.judge(ethernet(bytes(46), 0x8137)) is None
    own = World(ethertypes=frozenset({0x88B5}))
    assert own.judge(ethernet(bytes(46), 0x88B5)) is None
    assert own.judge(ethernet(bytes(46), 0x88B6)) is Rule.ETHERTYPE


CONTROL = [
    *(f"0180c20000{last:02x}" for last in (0, 1, 2, 3, 0x0E, 0x0F, 0x10, 0x11, 0x1F, 0x20, 0x2F, 0x30, 0x3F)),
    *("01000ccccccc", "01000ccccccd", "01000ccdcdcd", "01000cdddddd", "01000c000000", "011b19000000", "01e02b000000"),
]  # fmt: skip
NOT_CONTROL = ["0180c2000040", "0180c20000ff", "0180c2000100", "01005e0000fb", "01005e7ffffa", "333300000001"]


@pytest.mark.parametrize("ethertype", [IPV4, 0x8137])
@pytest.mark.parametrize("address", [*CONTROL, *NOT_CONTROL])
def test_guard_row6_switch_control(address: str, ethertype: int) -> None:
    expected = Rule.SWITCH_CONTROL if address in CONTROL else None
    frame = ethernet(GAME if ethertype == IPV4 else IPX, ethertype, destination=bytes.fromhex(address))
    assert [World(level).judge(frame) for level in LEVELS] == [expected, expected, None]
    assert World().house(frame[:6] + HOUSE + frame[12:]) == [expected]


# --- from the gateway's LAN side --------------------------------------------------------------------------------------

HOUSE_VECTORS = [vector for vector in VECTORS if vector.ethertype != ARP]


@pytest.mark.parametrize("vector", HOUSE_VECTORS, ids=str)
def test_guard_house_keeps_its_dhcp_arp_and_routing_but_not_the_players_default_route(vector: Vector) -> None:
    frame = ethernet(vector.packet, vector.ethertype, source=HOUSE)
    kept_out = vector.standard if vector.ethertype == IPV6 else None
    assert [World(level).house(frame)[0] for level in LEVELS] == [kept_out, kept_out, None]
    assert World(ipv6_routing=True).house(frame) == [None]


def test_guard_house_arp_passes_whatever_it_says() -> None:
    for vector in arp_vectors():
        assert World().house(ethernet(vector.packet, ARP, source=HOUSE)) == [None]


@pytest.mark.parametrize("level", LEVELS)
def test_guard_house_never_moves_a_member_and_its_vrrp_is_lawful(level: Level) -> None:
    world = World(level)
    for mac in (PLAYER, OTHER):
        assert world.house(ethernet(GAME, IPV4, source=mac)) == [Rule.MEMBER_ON_LAN]
    world.macs.remove(OTHER)
    assert world.house(ethernet(GAME, IPV4, source=OTHER)) == [None]
    vrrp = ipv4(bytes(20), protocol=112, source=ROUTER, destination=b"\xe0\0\0\x12")
    assert world.house(ethernet(vrrp, IPV4, source=bytes.fromhex("00005e000101"))) == [None]
    assert world.guard.judge_untrusted(ethernet(bytes(1500), IPV4, source=HOUSE), GATEWAY, 0.0) is None


# --- choices of the room ----------------------------------------------------------------------------------------------


def test_guard_row11_link_local_by_choice() -> None:
    auto = b"\xa9\xfe\x01\x07"
    frames = [ethernet(ipv4(udp(1, 2), source=auto), IPV4), ethernet(arp(1, auto), ARP)]
    assert [World().judge(frame) for frame in frames] == [None, None]
    without = World(link_local_ipv4=False)
    assert [without.judge(frame) for frame in frames] == [Rule.IPV4_SOURCE, Rule.ARP]


def test_guard_row10_rate_is_five_a_second_and_each_member_has_its_own() -> None:
    world = World()
    frame = ethernet(DISCOVER, IPV4)
    assert [world.judge(frame) for _ in range(7)] == [None] * 5 + [Rule.DHCP_CLIENT] * 2
    other = ethernet(asked(dhcp(1, OTHER)), IPV4, source=OTHER)
    assert world.judge(other, attrs.evolve(CLIENT, mac=OTHER)) is None
    world.now += 1
    assert [world.judge(frame) for _ in range(6)] == [None] * 5 + [Rule.DHCP_CLIENT]


def test_guard_row10_rate_is_not_spent_by_what_is_dropped() -> None:
    world = World()
    for number in range(100):
        chaddr = b"\x02\0\0\0\1" + bytes((number,))
        assert world.judge(ethernet(asked(dhcp(1, chaddr)), IPV4)) is Rule.DHCP_CLIENT
    assert world.judge(ethernet(DISCOVER, IPV4)) is None


def test_guard_changes_its_policy() -> None:
    world = World()
    version = world.guard.version
    frame = ethernet(bytes(46), 0x88B5)
    assert world.judge(frame) is Rule.ETHERTYPE
    world.guard.change(attrs.evolve(world.guard.policy, level=Level.OFF))
    assert world.judge(frame) is None
    assert world.guard.version > version


def test_guard_row8_lengths_in_a_header_are_read_big_endian() -> None:
    packet = struct.pack("!BBH", 0x45, 0, 28) + GAME[4:28]
    assert World().judge(ethernet(packet, IPV4)) is None
