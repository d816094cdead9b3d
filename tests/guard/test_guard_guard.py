"""The guard at "standard" against l2-guard.md: vectors of each enforced row, their lawful twins, and mutated frames."""

from __future__ import annotations

import random
import struct

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_packets import (
    ALL_DHCP_AGENTS,
    ALL_NODES,
    ARP,
    BROADCAST,
    HOUSE,
    IPV4,
    IPV6,
    OTHER,
    PLAYER,
    arp,
    authentication,
    ethernet,
    extension,
    fragment_header,
    icmpv6,
    ipv4,
    ipv6,
    ipx_802_3,
    snap,
    tag,
    udp,
    wrappings,
)

from lanparty.guard.guard import Enforced, Guard, Rule
from lanparty.guard.levels import Level, RoomPolicy


@attrs.frozen
class Sender:
    mac: bytes = PLAYER
    is_gateway: bool = False


CLIENT = Sender()
GATEWAY = Sender(mac=b"", is_gateway=True)
STANDARD = RoomPolicy(level=Level.STANDARD)
ROUTING = RoomPolicy(level=Level.STANDARD, ipv6_routing=True)
GUARD = Guard(STANDARD, 1500, {PLAYER, OTHER})

OFFER = bytes((2, 1, 6, 0)) + bytes(236)
DISCOVER = bytes((1, 1, 6, 0)) + bytes(236)


def judge(frame: bytes) -> Rule | None:
    return GUARD.judge_untrusted(frame, CLIENT, 0.0)


def judge_lan(frame: bytes, *, routing: bool = False) -> Rule | None:
    return Guard(ROUTING if routing else STANDARD, 1500, {PLAYER, OTHER}).judge_untrusted(frame, GATEWAY, 0.0)


def test_the_table_names_all_18_rows_and_has_unique_labels() -> None:
    assert {rule.row for rule in Rule} == set(range(19))
    assert len({rule.label for rule in Rule}) == len(Rule)
    in_full = {rule.row for rule in Rule if rule.at_standard is Enforced.FULL}
    assert in_full == {0, 1, 2, 6, 8, 9, 13, 15}


# --- row 1: length ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mtu", "rule"),
    [
        (0, 1500, Rule.LENGTH),
        (13, 1500, Rule.LENGTH),
        (14, 1500, None),
        (1514, 1500, None),
        (1515, 1500, Rule.LENGTH),
        (9000, 1500, Rule.LENGTH),
        (1166, 1152, None),
        (1167, 1152, Rule.LENGTH),
        (1515, 9000, Rule.LENGTH),
    ],
)
def test_length(size: int, mtu: int, rule: Rule | None) -> None:
    frame = ethernet(bytes(max(0, size - 14)))[:size]
    assert Guard(STANDARD, mtu, ()).judge_untrusted(frame, CLIENT, 0.0) is rule


@pytest.mark.parametrize("tags", [1, 2, 3, 4])
def test_a_tag_makes_the_limit_longer_by_four(tags: int) -> None:
    longest = ethernet(bytes(1500), tags=tag() * tags)
    assert judge(longest) is None
    assert judge(longest + b"\0") is Rule.LENGTH


def test_a_tag_further_in_excuses_nothing() -> None:
    assert judge(ethernet(b"\x81\0\0\0" + bytes(1500))) is Rule.LENGTH


def test_the_house_may_send_full_frames_into_a_smaller_room() -> None:
    guard = Guard(STANDARD, 1000, ())
    assert guard.judge_untrusted(ethernet(bytes(1500), source=HOUSE), GATEWAY, 0.0) is None
    assert guard.judge_untrusted(ethernet(bytes(1501), source=HOUSE), GATEWAY, 0.0) is Rule.LENGTH
    assert guard.judge_untrusted(bytes(13), GATEWAY, 0.0) is Rule.LENGTH


# --- row 2: addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", [OTHER, HOUSE, bytes(6), BROADCAST, bytes.fromhex("030000000001"), PLAYER[:5] + b"\x02"], ids=bytes.hex
)
def test_a_client_sends_from_its_own_mac_only(source: bytes) -> None:
    assert judge(ethernet(b"x", source=source)) is Rule.ADDRESS


@pytest.mark.parametrize("destination", [bytes(6), PLAYER], ids=bytes.hex)
def test_destination_is_neither_zero_nor_the_source(destination: bytes) -> None:
    assert judge(ethernet(b"x", destination=destination)) is Rule.ADDRESS


@pytest.mark.parametrize(
    ("source", "destination", "rule"),
    [
        (HOUSE, PLAYER, None),
        (HOUSE, BROADCAST, None),
        (bytes(6), PLAYER, Rule.ADDRESS),
        (bytes.fromhex("010000000001"), PLAYER, Rule.ADDRESS),
        (HOUSE, HOUSE, Rule.ADDRESS),
        (HOUSE, bytes(6), Rule.ADDRESS),
        (PLAYER, OTHER, Rule.MEMBER_ON_LAN),
        (OTHER, BROADCAST, Rule.MEMBER_ON_LAN),
    ],
)
def test_addresses_from_the_lan(source: bytes, destination: bytes, rule: Rule | None) -> None:
    assert judge_lan(ethernet(b"x", source=source, destination=destination)) is rule


def test_the_guard_follows_the_members_of_its_room() -> None:
    macs: set[bytes] = set()
    guard = Guard(STANDARD, 1500, macs)
    frame = ethernet(b"x", source=PLAYER)
    assert guard.judge_untrusted(frame, GATEWAY, 0.0) is None
    macs.add(PLAYER)
    assert guard.judge_untrusted(frame, GATEWAY, 0.0) is Rule.MEMBER_ON_LAN


# --- row 6: switch control -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "blocked"),
    [
        ("0180c2000000", True),
        ("0180c2000001", True),
        ("0180c2000003", True),
        ("0180c200000e", True),
        ("0180c200000f", True),
        ("0180c2000010", True),
        ("0180c2000011", True),
        ("0180c200001f", True),
        ("0180c2000020", True),
        ("0180c200002f", True),
        ("0180c2000030", True),
        ("0180c200003f", True),
        ("0180c2000040", False),
        ("0180c2000100", False),
        ("01000ccccccc", True),
        ("01000ccccccd", True),
        ("01000ccdcdcd", True),
        ("01000cdddddd", True),
        ("01000c000000", True),
        ("011b19000000", True),
        ("01e02b000000", True),
        ("01005e00023c", False),
        ("01005e0000fb", False),
        ("030000000001", False),
    ],
)
def test_switch_control(destination: str, blocked: bool) -> None:
    expected = Rule.SWITCH_CONTROL if blocked else None
    to = bytes.fromhex(destination)
    assert judge(ethernet(bytes(46), destination=to)) is expected
    # An allowed EtherType does not help, and the house may not steer the players' switches either.
    assert judge(ethernet(ipv4(udp(4445, 4445)), IPV4, destination=to)) is expected
    assert judge_lan(ethernet(bytes(46), source=HOUSE, destination=to)) is expected


# --- rows 9, 13, 15, in every wrapping -------------------------------------------------------------------------------

ROUTER_ALERT = b"\x94\x04\0\0"

BAD: dict[str, tuple[bytes, int, Rule]] = {
    "offer": (ipv4(udp(67, 68, OFFER)), IPV4, Rule.DHCP_SERVER),
    "any to 68": (ipv4(udp(1234, 68)), IPV4, Rule.DHCP_SERVER),
    "67 to any": (ipv4(udp(67, 1234)), IPV4, Rule.DHCP_SERVER),
    "67 to 67": (ipv4(udp(67, 67, DISCOVER)), IPV4, Rule.DHCP_SERVER),
    "reply from 68": (ipv4(udp(68, 67, OFFER)), IPV4, Rule.DHCP_SERVER),
    "ihl 6": (ipv4(udp(67, 68, OFFER), options=ROUTER_ALERT), IPV4, Rule.DHCP_SERVER),
    "ihl 15": (ipv4(udp(67, 68, OFFER), options=bytes([1]) * 40), IPV4, Rule.DHCP_SERVER),
    "first fragment": (ipv4(udp(67, 68, OFFER), fragment=0x2000), IPV4, Rule.DHCP_SERVER),
    "first fragment, 8 bytes": (ipv4(udp(67, 68, b""), fragment=0x2000), IPV4, Rule.DHCP_SERVER),
    "first fragment to 67, op in the next": (ipv4(udp(1234, 67, b""), fragment=0x2000), IPV4, Rule.DHCP_SERVER),
    "first fragment from 68, op in the next": (ipv4(udp(68, 67, b""), fragment=0x2000), IPV4, Rule.DHCP_SERVER),
    "first fragment to 67, padded": (ipv4(udp(68, 67, b""), fragment=0x2000) + DISCOVER, IPV4, Rule.DHCP_SERVER),
    "first fragment of 16 bytes, reply": (ipv4(udp(1234, 67, OFFER[:8]), fragment=0x2000), IPV4, Rule.DHCP_SERVER),
    "reserved bit": (ipv4(udp(67, 68, OFFER), fragment=0x8000), IPV4, Rule.DHCP_SERVER),
    "tiny fragment": (ipv4(udp(67, 68, b"")[:7], fragment=0x2000), IPV4, Rule.IPV4_HEADER),
    "udp of 4 bytes": (ipv4(udp(67, 68)[:4]), IPV4, Rule.IPV4_HEADER),
    "ihl 4": (ipv4(udp(67, 68), ihl=4), IPV4, Rule.IPV4_HEADER),
    "version 6 in ipv4": (ipv4(udp(67, 68), version=6), IPV4, Rule.IPV4_HEADER),
    "total too long": (ipv4(udp(67, 68), total=1000), IPV4, Rule.IPV4_HEADER),
    "total too short": (ipv4(udp(67, 68), total=19), IPV4, Rule.IPV4_HEADER),
    "header cut": (ipv4(b"")[:19], IPV4, Rule.IPV4_HEADER),
    "options cut": (ipv4(b"", options=ROUTER_ALERT)[:22], IPV4, Rule.IPV4_HEADER),
    "ra": (ipv6(icmpv6(134), 58), IPV6, Rule.ROUTER_ADVERTISEMENT),
    "ra, hop limit 64": (ipv6(icmpv6(134), 58, hop_limit=64), IPV6, Rule.ROUTER_ADVERTISEMENT),
    "hop-by-hop + ra": (ipv6(extension(58) + icmpv6(134), 0), IPV6, Rule.ROUTER_ADVERTISEMENT),
    "3 destination options + ra": (
        ipv6(extension(60) + extension(60, 264) + extension(58, 16) + icmpv6(134), 60),
        IPV6,
        Rule.ROUTER_ADVERTISEMENT,
    ),
    "routing + ah + ra": (
        ipv6(extension(51) + authentication(58) + icmpv6(134), 43),
        IPV6,
        Rule.ROUTER_ADVERTISEMENT,
    ),
    "mobility + hip + shim6 + ra": (
        ipv6(extension(139) + extension(140) + extension(58) + icmpv6(134), 135),
        IPV6,
        Rule.ROUTER_ADVERTISEMENT,
    ),
    "atomic fragment + ra": (ipv6(fragment_header(58) + icmpv6(134), 44), IPV6, Rule.ROUTER_ADVERTISEMENT),
    "first fragment + ra": (ipv6(fragment_header(58, more=True) + icmpv6(134), 44), IPV6, Rule.ROUTER_ADVERTISEMENT),
    "ra in the second piece": (
        ipv6(extension(44) + fragment_header(60, more=True) + extension(58), 0),
        IPV6,
        Rule.IPV6_CHAIN,
    ),
    "first fragment without its type": (ipv6(fragment_header(58, more=True), 44), IPV6, Rule.IPV6_CHAIN),
    "options behind the fragment header": (
        ipv6(fragment_header(60, more=True) + extension(58) + icmpv6(128), 44),
        IPV6,
        Rule.IPV6_CHAIN,
    ),
    "two fragment headers": (
        ipv6(fragment_header(44) + fragment_header(17, more=True) + udp(1, 2), 44),
        IPV6,
        Rule.IPV6_CHAIN,
    ),
    "chain ends in the air": (ipv6(extension(60) + extension(60), 60), IPV6, Rule.IPV6_CHAIN),
    "option longer than the packet": (ipv6(bytes((58, 200, 1, 4)) + icmpv6(134), 60), IPV6, Rule.IPV6_CHAIN),
    "payload longer than the frame": (ipv6(icmpv6(134), 58, length=1000), IPV6, Rule.IPV6_CHAIN),
    "jumbo": (ipv6(extension(58) + icmpv6(134), 0, length=0), IPV6, Rule.IPV6_CHAIN),
    "icmpv6 of 3 bytes": (ipv6(icmpv6(134)[:3], 58), IPV6, Rule.IPV6_CHAIN),
    "version 4 in ipv6": (ipv6(icmpv6(134), 58, version=4), IPV6, Rule.IPV6_CHAIN),
    "header cut, ipv6": (ipv6(b"", 59)[:39], IPV6, Rule.IPV6_CHAIN),
    "dhcpv6 advertise": (ipv6(udp(547, 546), 17), IPV6, Rule.DHCPV6_SERVER),
    "dhcpv6 any to 546": (ipv6(udp(1234, 546), 17), IPV6, Rule.DHCPV6_SERVER),
    "dhcpv6 547 to 547": (ipv6(udp(547, 547), 17), IPV6, Rule.DHCPV6_SERVER),
    "hop-by-hop + dhcpv6": (ipv6(extension(17) + udp(547, 546), 0), IPV6, Rule.DHCPV6_SERVER),
    "first fragment + dhcpv6": (ipv6(fragment_header(17, more=True) + udp(547, 546), 44), IPV6, Rule.DHCPV6_SERVER),
    "udp of 7 bytes": (ipv6(udp(547, 546)[:7], 17), IPV6, Rule.IPV6_CHAIN),
}

GOOD: dict[str, tuple[bytes, int]] = {
    "discover": (ipv4(udp(68, 67, DISCOVER)), IPV4),
    "discover in fragments": (ipv4(udp(68, 67, DISCOVER), fragment=0x2000), IPV4),
    "empty to 67, padding that looks like a reply": (ipv4(udp(68, 67, b"")) + OFFER, IPV4),
    "game broadcast": (ipv4(udp(6112, 6112)), IPV4),
    "minecraft": (ipv4(udp(50000, 4445)), IPV4),
    "payload that looks like an offer": (ipv4(udp(1000, 1000, OFFER)), IPV4),
    "router alert (igmp)": (ipv4(bytes(8), protocol=2, options=ROUTER_ALERT), IPV4),
    "first fragment of a game's": (ipv4(udp(27015, 27015, bytes(1400)), fragment=0x2000), IPV4),
    "later fragment": (ipv4(struct.pack("!HH", 67, 68) + bytes(20), fragment=0x0010), IPV4),
    "later fragment of 1 byte": (ipv4(b"x", fragment=0x0001), IPV4),
    "tcp syn": (ipv4(bytes(20), protocol=6), IPV4),
    "tcp from port 67": (ipv4(struct.pack("!HH", 67, 68) + bytes(16), protocol=6), IPV4),
    "icmp echo": (ipv4(b"\x08" + bytes(7), protocol=1), IPV4),
    "padded": (ipv4(udp(1, 2)) + bytes(20), IPV4),
    "arp": (arp(), ARP),
    "ipx ethernet ii": (b"\xff\xff" + bytes(28), 0x8137),
    "rs": (ipv6(icmpv6(133), 58), IPV6),
    "ns": (ipv6(icmpv6(135), 58), IPV6),
    "na": (ipv6(icmpv6(136), 58), IPV6),
    "echo request": (ipv6(icmpv6(128), 58), IPV6),
    "mld report behind hop-by-hop": (ipv6(extension(58) + icmpv6(143), 0), IPV6),
    "destination options + echo": (ipv6(extension(58) + icmpv6(128), 60), IPV6),
    "3 destination options + echo": (
        ipv6(extension(60) + extension(60, 264) + extension(58, 16) + icmpv6(128), 60),
        IPV6,
    ),
    "mdns v6": (ipv6(udp(5353, 5353), 17), IPV6),
    "dhcpv6 solicit": (ipv6(udp(546, 547), 17), IPV6),
    "first fragment of a game's, ipv6": (ipv6(fragment_header(17, more=True) + udp(27015, 27015), 44), IPV6),
    "later fragment, ipv6": (ipv6(fragment_header(58, offset=8) + icmpv6(134), 44), IPV6),
    "atomic fragment + udp": (ipv6(fragment_header(17) + udp(1, 2), 44), IPV6),
    "hop-by-hop + first fragment + udp": (
        ipv6(extension(44) + fragment_header(17, more=True) + udp(1, 2), 0),
        IPV6,
    ),
    "tcp v6": (ipv6(bytes(20), 6), IPV6),
    "esp": (ipv6(bytes(20), 50), IPV6),
    "no next header": (ipv6(b"", 59), IPV6),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_in_every_wrapping(name: str) -> None:
    payload, ethertype, rule = BAD[name]
    found = {wrapping: judge(frame) for wrapping, frame in wrappings(payload, ethertype).items()}
    assert found == dict.fromkeys(found, rule)


@pytest.mark.parametrize("destination", [OTHER, HOUSE, ALL_NODES, ALL_DHCP_AGENTS], ids=bytes.hex)
@pytest.mark.parametrize("name", ["offer", "ra", "dhcpv6 advertise"])
def test_unicast_does_not_help(name: str, destination: bytes) -> None:
    payload, ethertype, rule = BAD[name]
    assert judge(ethernet(payload, ethertype, destination=destination)) is rule


@pytest.mark.parametrize("name", GOOD)
def test_the_lawful_twin_passes_in_every_wrapping(name: str) -> None:
    payload, ethertype = GOOD[name]
    found = {wrapping: judge(frame) for wrapping, frame in wrappings(payload, ethertype).items()}
    assert found == dict.fromkeys(found, None)


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (ipx_802_3(), None),
        (ethernet(b"\xe0\xe0\x03" + bytes(30), 33), None),
        (ethernet(b"\xf0\xf0\x03" + bytes(40), 43, destination=bytes.fromhex("030000000001")), None),
        (snap(b"\xff\xff" + bytes(28), 0x8137), None),
        (snap(bytes(20), 0x809B, oui=b"\x08\x00\x07"), None),
        (ethernet(b"\xaa\xaa\x03\0\0", 5), Rule.LLC),
        (ethernet(b"", 0x8100), Rule.VLAN),
        (ethernet(bytes(40), tags=tag() * 5), Rule.VLAN),
        (ethernet(bytes(40), 0x05DD), None),
        (snap(icmpv6(134), IPV6), Rule.IPV6_CHAIN),
    ],
)
def test_llc_and_tags(frame: bytes, rule: Rule | None) -> None:
    assert judge(frame) is rule


def test_a_length_field_that_lies_hides_nothing() -> None:
    for length in (0, 3, 0x05DC, 0x05FF):
        frame = bytearray(snap(ipv6(icmpv6(134), 58), IPV6))
        frame[12:14] = struct.pack("!H", length)
        assert judge(bytes(frame)) is Rule.ROUTER_ADVERTISEMENT


# --- from the LAN ----------------------------------------------------------------------------------------------------

HOUSE_KEEPS = {Rule.IPV4_HEADER, Rule.DHCP_SERVER}


@pytest.mark.parametrize("name", BAD)
def test_the_house_keeps_its_dhcp_but_not_the_players_default_route(name: str) -> None:
    payload, ethertype, rule = BAD[name]
    expected = None if rule in HOUSE_KEEPS else rule
    for frame in wrappings(payload, ethertype, source=HOUSE, destination=PLAYER).values():
        assert judge_lan(frame) is expected
        assert judge_lan(frame, routing=True) is None


@pytest.mark.parametrize("name", GOOD)
def test_lawful_frames_from_the_house_pass(name: str) -> None:
    payload, ethertype = GOOD[name]
    for frame in wrappings(payload, ethertype, source=HOUSE).values():
        assert judge_lan(frame) is None


# --- never an exception ----------------------------------------------------------------------------------------------

SEEDS = [
    frame
    for payload, ethertype, *_ in (*BAD.values(), *GOOD.values())
    for frame in wrappings(payload, ethertype).values()
] + [ethernet(bytes(46), destination=bytes.fromhex(text)) for text in ("0180c2000000", "01000ccccccc", "01e02b000000")]


def test_100_000_mutated_frames_get_a_verdict() -> None:
    chance = random.Random(20251122)
    guard = Guard(STANDARD, 1500, {OTHER})
    verdicts: set[Rule | None] = set()
    for _ in range(100_000):
        frame = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randrange(1, 4)):
            match chance.randrange(4):
                case 0:
                    frame[chance.randrange(12, len(frame))] = chance.randrange(256)
                case 1:
                    del frame[chance.randrange(6, len(frame) + 1) :]
                case 2:
                    at = chance.randrange(12, len(frame) + 1) if len(frame) >= 12 else 0
                    frame[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8, 600)))
                case _:
                    at = chance.randrange(len(frame))
                    frame[at] ^= 1 << chance.randrange(8)
            if len(frame) < 13:
                break
        sender = CLIENT if chance.random() < 0.8 else GATEWAY
        verdict = guard.judge_untrusted(bytes(frame), sender, 0.0)
        assert verdict is None or isinstance(verdict, Rule)
        verdicts.add(verdict)
    # The mutations get everywhere.
    assert {None, *(rule for rule in Rule if rule.at_standard is Enforced.FULL)} - {Rule.MEMBER_ON_LAN} <= verdicts


@given(st.binary(max_size=200), st.sampled_from([0x0800, 0x86DD, 0x8100, 0x88A8, 0x0020]))
@settings(max_examples=500, deadline=None)
def test_arbitrary_bytes_get_a_verdict(payload: bytes, ethertype: int) -> None:
    for sender, source in ((CLIENT, PLAYER), (GATEWAY, HOUSE)):
        verdict = GUARD.judge_untrusted(ethernet(payload, ethertype, source=source), sender, 0.0)
        assert verdict is None or isinstance(verdict, Rule)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_lawful_chain_hides_a_router_advertisement(data: st.DataObject) -> None:
    """Any chain of extension headers before the ICMPv6 type: an RA never passes."""
    kinds = data.draw(st.lists(st.sampled_from([0, 43, 60, 135, 139, 140, 51, 44]), max_size=12))
    packet = b""
    for index, kind in enumerate(kinds):
        following = kinds[index + 1] if index + 1 < len(kinds) else 58
        if kind == 51:
            packet += authentication(following)
        elif kind == 44:
            packet += fragment_header(following, more=data.draw(st.booleans()))
        else:
            packet += extension(following, data.draw(st.sampled_from([8, 16, 64])))
    packet = ipv6(packet + icmpv6(134), kinds[0] if kinds else 58)
    for frame in wrappings(packet, IPV6).values():
        assert judge(frame) in (Rule.ROUTER_ADVERTISEMENT, Rule.IPV6_CHAIN)
