"""Whose an address is: what the guard learns from the house's DHCP, ARP and ND, and from what members use."""

from __future__ import annotations

import math

import pytest
from guard_world import (
    CLIENT,
    FREE4,
    FREE6,
    GATEWAY,
    HOUSE4,
    LEASE,
    OTHER4,
    OTHER6,
    PLAYER4,
    PLAYER6,
    ROUTER,
    ROUTER6,
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
from relay_packets import ARP, HOUSE, IPV4, IPV6, OTHER, PLAYER, arp, dhcp, ethernet, ipv4, ipv6, link_local, nd, option
from relay_packets import udp as udp_packet

from lanparty.guard.bindings import (
    GRACE,
    HOLD,
    HOUSE_AGE,
    IPV4_CHANGES,
    IPV6_CHANGES,
    MAX_AWAY,
    MAX_HOUSE,
    MAX_IPV4,
    MAX_IPV6,
    MAX_RESERVED,
    Bindings,
    Evidence,
)
from lanparty.guard.guard import Guard, Rule
from lanparty.guard.levels import RoomPolicy

AUTO = b"\xa9\xfe\x01\x07"
ZERO4 = bytes(4)


@pytest.fixture
def world() -> World:
    return World()


def empty() -> World:
    """A relay that has just started: it knows nobody's address."""
    world = World()
    world.guard = Guard(RoomPolicy(), 1500, world.macs)
    return world


def may(world: World, address: bytes, sender: object = CLIENT) -> bool:
    return world.judge(game(address, sender.mac), sender) is None


# --- rule 1: the house's DHCP server decides --------------------------------------------------------------------------


def test_guard_binding_a_lease_is_good_for_its_time_and_then_no_longer(world: World) -> None:
    assert may(world, PLAYER4)
    assert world.guard.holds_until(CLIENT, world.now) == world.now + LEASE + GRACE
    world.now += LEASE + GRACE - 0.01
    assert may(world, PLAYER4)
    world.now += 0.01
    assert not may(world, PLAYER4)
    assert world.judge(ethernet(arp(), ARP)) is Rule.ARP
    assert world.guard.holds_until(CLIENT, world.now) == math.inf
    # The lawful way back: from 0.0.0.0, and an acknowledgement.
    assert world.judge(request(options=option(50, PLAYER4))) is None
    world.house(ack(PLAYER, PLAYER4))
    assert may(world, PLAYER4)


def test_guard_binding_is_prolonged_by_renewals(world: World) -> None:
    for _ in range(10):
        world.now += LEASE / 2
        renewal = request(source=PLAYER4, ciaddr=PLAYER4)
        assert world.judge(renewal) is None
        world.house(ack(PLAYER, PLAYER4))
        assert may(world, PLAYER4)
    version = world.guard.version
    world.now += LEASE / 2
    world.house(ack(PLAYER, PLAYER4))
    assert world.guard.version == version, "a renewal takes nothing from anybody"


def test_guard_binding_for_ever(world: World) -> None:
    world.house(ack(PLAYER, PLAYER4, seconds=0xFFFFFFFF))
    world.now += 1e9
    assert may(world, PLAYER4)
    assert world.guard.holds_until(CLIENT, world.now) == math.inf


def test_guard_binding_a_shorter_lease_makes_earlier_verdicts_void(world: World) -> None:
    version = world.guard.version
    world.house(ack(PLAYER, PLAYER4, seconds=60))
    assert world.guard.version > version
    world.now += 60 + GRACE
    assert not may(world, PLAYER4)


def test_guard_binding_moves_when_the_server_gives_another(world: World) -> None:
    version = world.guard.version
    world.house(ack(PLAYER, FREE4))
    assert world.guard.version > version
    assert may(world, FREE4)
    assert not may(world, PLAYER4)
    world.house(ack(OTHER, PLAYER4))  # and the old one to somebody else
    assert may(world, PLAYER4, SECOND)
    assert not may(world, OTHER4, SECOND)


def test_guard_binding_moves_to_a_machine_of_the_house(world: World) -> None:
    world.house(ack(HOUSE, PLAYER4))
    assert not may(world, PLAYER4)


def test_guard_binding_inform_is_answered_without_an_address(world: World) -> None:
    assert world.judge(request(kind=8, source=PLAYER4, ciaddr=PLAYER4)) is None
    world.house(ack(PLAYER, ZERO4))
    assert may(world, PLAYER4)
    assert world.guard.holds_until(CLIENT, world.now) == world.now + LEASE + GRACE


def test_guard_binding_ends_with_a_nak_to_the_members_own_request(world: World) -> None:
    world.house(nak(PLAYER))
    assert may(world, PLAYER4), "nobody asked"
    world.judge(request(source=PLAYER4, ciaddr=PLAYER4, xid=9))
    world.house(nak(PLAYER, xid=8), nak(OTHER, xid=9))
    assert may(world, PLAYER4), "to another question, or to another member"
    version = world.guard.version
    world.house(nak(PLAYER, xid=9))
    assert world.guard.version > version
    assert not may(world, PLAYER4)
    world.house(ack(PLAYER, FREE4))
    assert may(world, FREE4)


def test_guard_binding_a_nak_behind_another_servers_ack_changes_nothing(world: World) -> None:
    world.judge(request(options=option(50, PLAYER4), xid=9))
    world.house(ack(PLAYER, PLAYER4, xid=9), nak(PLAYER, xid=9))
    assert may(world, PLAYER4)


def test_guard_binding_a_nak_for_another_address_leaves_the_lease(world: World) -> None:
    world.judge(request(options=option(50, FREE4), xid=9))
    world.house(nak(PLAYER, xid=9))
    assert may(world, PLAYER4)


@pytest.mark.parametrize(
    "message",
    [request(kind=7, source=PLAYER4, ciaddr=PLAYER4), request(kind=4, options=option(50, PLAYER4))],
    ids=["release", "decline"],
)
def test_guard_binding_ends_with_release_and_decline(world: World, message: bytes) -> None:
    assert world.judge(message) is None
    assert world.guard.holds_until(CLIENT, world.now) == math.inf
    assert world.judge(message) is not None, "it is not its lease any more"
    assert may(world, PLAYER4, SECOND) is False, "its own lease holds"
    world.house(ack(OTHER, PLAYER4))
    assert may(world, PLAYER4, SECOND)


def test_guard_binding_needs_an_ack_from_the_house(world: World) -> None:
    forged = ack(PLAYER, ROUTER)
    for sender in (CLIENT, SECOND):
        assert world.judge(forged[:6] + sender.mac + forged[12:], sender) is Rule.DHCP_SERVER
    assert not may(world, ROUTER)


@pytest.mark.parametrize("change", ["offer", "op", "htype", "fragment", "cut", "port"])
def test_guard_binding_is_not_made_by_what_is_no_ack(world: World, change: str) -> None:
    options = option(51, (60).to_bytes(4, "big"))
    fields = {"op": 2, "yiaddr": FREE4, "options": options}
    kind, fragment, ports = 5, 0, (67, 68)
    match change:
        case "offer":
            kind = 2
        case "op":
            fields["op"] = 1
        case "htype":
            fields["htype"] = 6
        case "fragment":
            fragment = 0x2000
        case "cut":
            fields["options"] = options[:-1]
        case "port":
            ports = (67, 67)
    message = dhcp(kind, **fields)
    if change == "cut":
        message = message[:-1]
    packet = ipv4(udp_packet(*ports, message), fragment=fragment)
    assert world.house(ethernet(packet, IPV4, source=HOUSE)) == [None]
    assert not may(world, FREE4)


def test_guard_binding_an_ack_without_a_time_holds_an_hour(world: World) -> None:
    message = dhcp(5, op=2, yiaddr=FREE4)
    world.house(ethernet(ipv4(udp_packet(67, 68, message)), IPV4, source=HOUSE))
    world.now += 3600
    assert may(world, FREE4)
    world.now += GRACE
    assert not may(world, FREE4)


def test_guard_binding_a_dhcp_message_longer_than_its_udp_is_not_read_beyond(world: World) -> None:
    whole = ack(PLAYER, FREE4)
    short = bytearray(whole)
    short[38:40] = (200).to_bytes(2, "big")
    world.house(bytes(short))
    assert not may(world, FREE4)
    world.house(whole)
    assert may(world, FREE4)


# --- rule 2: what the house has ---------------------------------------------------------------------------------------


def test_guard_binding_nobody_takes_what_the_house_showed() -> None:
    world = empty()
    world.house(house_arp(HOUSE4), advertisement(), ack(HOUSE, FREE4))
    for address in (HOUSE4, ROUTER, ROUTER6, FREE4, b"\x0a\0\0\xff"):
        assert not may(world, address)
    assert may(world, PLAYER4)


def test_guard_binding_router_and_servers_come_from_acks_for_anybody() -> None:
    world = empty()
    second = bytes((10, 0, 0, 254))
    world.house(ack(HOUSE, FREE4, extra=option(6, second + b"\x08\x08\x08\x08")))
    assert world.judge(ethernet(arp(2, ROUTER), ARP)) is Rule.ARP
    assert world.judge(ethernet(arp(2, second), ARP)) is Rule.ARP


def test_guard_binding_a_router_that_was_quiet_gets_its_address_back_at_its_first_word() -> None:
    for word in (
        house_arp(ROUTER),
        house_arp(ROUTER, op=2),
        ack(OTHER, OTHER4),
        ethernet(arp(1, ZERO4, HOUSE, ROUTER), ARP, source=HOUSE),
    ):
        world = empty()
        probe = word[28:32] == ZERO4
        assert may(world, ROUTER)
        version = world.guard.version
        world.house(word)
        # A question whether anybody has it is answered by whoever has it.
        assert may(world, ROUTER) is probe
        assert (world.guard.version > version) is not probe


def test_guard_binding_a_router_advertisement_takes_the_address_back() -> None:
    world = empty()
    assert may(world, ROUTER6)
    assert world.house(advertisement()) == [Rule.ROUTER_ADVERTISEMENT]
    assert not may(world, ROUTER6)


def test_guard_binding_house_neighbour_discovery_takes_addresses() -> None:
    world = empty()
    one, two, three = (link_local(number) for number in (0x11, 0x12, 0x13))
    frames = [
        ipv6(nd(136, one), 58, source=link_local(0x21)),
        ipv6(nd(135, ROUTER6), 58, source=two),
        ipv6(nd(135, three), 58, source=bytes(16)),
    ]
    world.house(*(ethernet(packet, IPV6, source=HOUSE) for packet in frames))
    assert [may(world, address) for address in (one, two, three, link_local(0x21))] == [False] * 4
    assert may(world, link_local(0x14))


@pytest.mark.parametrize("limit", [64, 255])
def test_guard_binding_neighbour_discovery_from_afar_teaches_nothing(limit: int) -> None:
    world = empty()
    world.house(ethernet(ipv6(nd(136, FREE6), 58, hop_limit=limit), IPV6, source=HOUSE))
    assert may(world, FREE6) is (limit == 64)


def test_guard_binding_a_proxys_answer_for_a_player_is_not_the_houses(world: World) -> None:
    """Access points answer ARP and ND for those behind them, with the MAC of the one that is asked for."""
    free = empty()
    assert may(free, PLAYER4)
    assert may(free, PLAYER6)
    free.house(ethernet(arp(2, PLAYER4, PLAYER), ARP, source=HOUSE))
    answer = nd(136, PLAYER6, b"\x02\x01" + PLAYER)
    free.house(ethernet(ipv6(answer, 58, source=PLAYER6), IPV6, source=HOUSE))
    assert may(free, PLAYER4)
    assert may(free, PLAYER6)
    free.house(ethernet(arp(2, FREE4, PLAYER), ARP, source=HOUSE))
    assert may(free, FREE4, SECOND)


def test_guard_binding_a_lease_outweighs_arp_of_the_house(world: World) -> None:
    """Routers with proxy ARP, and machines that have the address by mistake."""
    world.house(house_arp(PLAYER4, op=2))
    assert may(world, PLAYER4)


def test_guard_binding_the_house_is_forgotten_after_an_hour_of_silence(world: World) -> None:
    static = empty()
    static.house(house_arp(HOUSE4))
    static.now += HOUSE_AGE - 0.1
    assert not may(static, HOUSE4)
    static.house(house_arp(HOUSE4))
    static.now += HOUSE_AGE - 0.1
    assert not may(static, HOUSE4)
    static.now += 0.1
    assert may(static, HOUSE4)
    static.house(ack(HOUSE, FREE4))
    static.now += 1e6
    assert not may(static, ROUTER)


def test_guard_binding_a_lease_frees_what_the_house_had(world: World) -> None:
    world.house(ack(PLAYER, HOUSE4))
    assert may(world, HOUSE4)


def test_guard_binding_the_members_own_echo_is_not_the_houses() -> None:
    """A frame of a member that came back by the house after the member had left the room."""
    world = empty()
    world.macs.remove(PLAYER)
    world.house(house_arp(PLAYER4, PLAYER))
    world.macs.add(PLAYER)
    assert may(world, PLAYER4)
    assert not may(world, PLAYER4, SECOND)


# --- rule 3: what nobody has ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        game(FREE4),
        ethernet(arp(1, FREE4), ARP),
        ethernet(arp(2, FREE4), ARP),
        ethernet(arp(1, FREE4, target=FREE4), ARP),
        ethernet(arp(1, ZERO4, target=FREE4), ARP),
    ],
    ids=["packet", "request", "reply", "announcement", "probe"],
)
def test_guard_binding_a_static_address_is_the_first_users(first: bytes) -> None:
    world = empty()
    assert world.judge(first) is None
    assert world.judge(ethernet(arp(2, FREE4, OTHER), ARP, source=OTHER), SECOND) is Rule.ARP
    assert not may(world, FREE4, SECOND)
    assert may(world, FREE4)


@pytest.mark.parametrize(
    "first",
    [
        game(FREE6),
        ethernet(ipv6(nd(135, FREE6), 58, source=bytes(16)), IPV6),
        ethernet(ipv6(nd(136, FREE6), 58, source=FREE6), IPV6),
    ],
    ids=["packet", "dad", "advertisement"],
)
def test_guard_binding_an_ipv6_address_is_the_first_users(world: World, first: bytes) -> None:
    assert world.judge(first) is None
    defence = ethernet(ipv6(nd(136, FREE6), 58, source=OTHER6), IPV6, source=OTHER)
    assert world.judge(defence, SECOND) is Rule.NEIGHBOUR_DISCOVERY
    assert may(world, FREE6)


def test_guard_binding_probes_pass_though_somebody_has_the_address(world: World) -> None:
    for target in (OTHER4, HOUSE4, ROUTER, PLAYER4, FREE4):
        assert world.judge(ethernet(arp(1, ZERO4, target=target), ARP)) is None
    assert world.judge(ethernet(ipv6(nd(135, OTHER6), 58, source=bytes(16)), IPV6)) is None
    assert not may(world, FREE4), "its lease holds"
    assert may(world, OTHER6, SECOND)


def test_guard_binding_a_probe_of_the_house_cannot_be_answered_by_a_member() -> None:
    """Else no machine in the house would get an address: it declines what is answered (RFC 5227 section 2.1.1)."""
    world = empty()
    world.house(ethernet(arp(1, ZERO4, HOUSE, FREE4), ARP, source=HOUSE))
    assert world.judge(ethernet(arp(2, FREE4), ARP)) is Rule.ARP
    world.house(ethernet(ipv6(nd(135, FREE6), 58, source=bytes(16)), IPV6, source=HOUSE))
    assert world.judge(ethernet(ipv6(nd(136, FREE6), 58, source=PLAYER6), IPV6)) is Rule.NEIGHBOUR_DISCOVERY


def test_guard_binding_after_a_restart_of_the_relay_everybody_goes_on() -> None:
    """Leases that this relay has not seen: traffic flows at once, the server's word comes later, and holds then."""
    world = empty()
    assert may(world, PLAYER4)
    assert may(world, OTHER4, SECOND)
    verify = request(source=PLAYER4, ciaddr=PLAYER4)
    assert world.judge(verify) is None
    version = world.guard.version
    world.house(ack(PLAYER, PLAYER4))
    assert may(world, PLAYER4)
    assert world.guard.version > version, "what held for ever ends with the lease now"
    assert world.guard.holds_until(CLIENT, world.now) == world.now + LEASE + GRACE
    assert not may(world, FREE4)


def test_guard_binding_a_taken_address_that_the_server_gives_to_another_is_lost() -> None:
    world = empty()
    assert may(world, PLAYER4)
    world.house(ack(OTHER, PLAYER4))
    assert not may(world, PLAYER4)
    assert may(world, PLAYER4, SECOND)


def test_guard_binding_a_refused_address_is_lost_though_nobody_saw_its_lease() -> None:
    world = empty()
    assert world.judge(request(source=PLAYER4, ciaddr=PLAYER4, xid=3)) is None
    world.house(nak(PLAYER, xid=3))
    assert not may(world, PLAYER4)
    assert may(world, FREE4), "it may go on with a static address"


def test_guard_binding_an_ack_ends_what_was_taken_but_for_link_local(world: World) -> None:
    static = empty()
    assert may(static, FREE4)
    assert may(static, AUTO)
    static.house(ack(PLAYER, PLAYER4))
    assert not may(static, FREE4)
    assert may(static, AUTO)
    assert may(static, PLAYER4)


def test_guard_binding_players_without_ipv4_need_none() -> None:
    world = empty()
    for _ in range(100):
        assert world.judge(ethernet(b"\xff\xff" + bytes(28), 0x8137)) is None
    assert world.guard.bindings._members == {}


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_guard_binding_who_left_keeps_its_lease_and_for_a_while_what_it_took(world: World) -> None:
    assert may(world, AUTO)
    world.guard.member_left(CLIENT)
    world.now += HOLD - 0.1
    assert [may(world, address, SECOND) for address in (PLAYER4, AUTO, PLAYER6)] == [False] * 3
    world.now += 0.2
    assert [may(world, address, SECOND) for address in (PLAYER4, AUTO, PLAYER6)] == [False, True, True]
    assert [may(world, address) for address in (PLAYER4, AUTO, PLAYER6)] == [True, False, False]
    world.now += LEASE
    assert may(world, PLAYER4, SECOND), "both leases are over"
    assert not may(world, OTHER4, SECOND), "its own, and it has not asked again"


def test_guard_binding_who_comes_back_has_what_it_had(world: World) -> None:
    assert may(world, AUTO)
    world.guard.member_left(CLIENT)
    world.now += HOLD + 1
    assert may(world, AUTO)
    world.now += HOLD + 1
    assert not may(world, AUTO, SECOND)
    assert world.guard.bindings._away == {}


def test_guard_binding_an_ended_lease_is_forgotten_with_the_member(world: World) -> None:
    world.now += LEASE + GRACE
    assert not may(world, PLAYER4)
    world.guard.member_left(CLIENT)
    assert may(world, PLAYER4), "as after a restart of the relay: nobody has it"


def test_guard_binding_leaving_twice_or_as_gateway_does_nothing(world: World) -> None:
    for sender in (CLIENT, CLIENT, GATEWAY):
        world.guard.member_left(sender)
    assert may(world, PLAYER4)


# --- bounds -----------------------------------------------------------------------------------------------------------


def number4(number: int) -> bytes:
    return (0x0B000000 + number).to_bytes(4, "big")


def number6(number: int) -> bytes:
    return b"\x20\x01" + number.to_bytes(14, "big")


@pytest.mark.parametrize(
    ("address", "most", "rate", "burst"),
    [(number4, MAX_IPV4, *IPV4_CHANGES), (number6, MAX_IPV6, *IPV6_CHANGES)],
    ids=["ipv4", "ipv6"],
)
def test_guard_binding_a_member_takes_few_addresses_and_slowly(
    address: object, most: int, rate: float, burst: float
) -> None:
    world = empty()
    assert sum(may(world, address(number)) for number in range(1000)) == burst
    world.now += 10 / rate
    taken = [number for number in range(1000, 2000) if may(world, address(number))]
    assert len(taken) == min(burst, 10)
    assert len(world.guard.bindings._members[PLAYER].taken4) <= MAX_IPV4
    assert len(world.guard.bindings._members[PLAYER].taken6) <= MAX_IPV6
    assert len(world.guard.bindings._holders) == most


def test_guard_binding_the_oldest_goes_when_another_comes() -> None:
    world = empty()
    for number in range(MAX_IPV4):
        assert may(world, number4(number))
    world.now += 100
    version = world.guard.version
    assert may(world, number4(MAX_IPV4))
    assert world.guard.version > version
    assert may(world, number4(0), SECOND)
    assert not may(world, number4(1), SECOND)


def test_guard_binding_tables_are_bounded() -> None:
    bindings = Bindings()
    for number in range(MAX_HOUSE + 500):
        bindings.house_has(HOUSE, number4(number), Evidence.SPOKEN, 0.0)
        assert len(bindings._house) <= MAX_HOUSE
    assert not bindings.uses(PLAYER, number4(MAX_HOUSE + 499), 1.0)
    assert bindings.uses(PLAYER, number4(0), 1.0), "the longest silent was forgotten"
    for number in range(MAX_RESERVED + 50):
        bindings.reserve(number6(number))
    assert len(bindings._reserved) == MAX_RESERVED
    for number in range(MAX_AWAY + 50):
        mac = b"\x02\0\0\1" + number.to_bytes(2, "big")
        assert bindings.uses(mac, number6(1_000_000 + number), 1.0)
        bindings.left(mac, 2.0)
        assert len(bindings._members) <= MAX_AWAY + 1
    assert len(bindings._away) == MAX_AWAY
    assert bindings.uses(OTHER, number6(1_000_000), 3.0), "of the first one that left"
    assert not bindings.uses(OTHER, number6(1_000_000 + MAX_AWAY), 3.0)


def consistent(bindings: Bindings) -> None:
    """The tables say the same from either side."""
    held = {}
    for mac, member in bindings._members.items():
        assert member.mac == mac
        for address in (*([member.lease] if member.lease else []), *member.taken4, *member.taken6):
            assert address not in held
            held[address] = member
        assert (member.left is not None) is (mac in bindings._away)
        assert len(member.taken4) <= MAX_IPV4
        assert len(member.taken6) <= MAX_IPV6
    assert held == bindings._holders
    assert set(bindings._away) <= set(bindings._members)


MACS = [PLAYER, OTHER, bytes.fromhex("020000000003")]
ADDRESSES = [PLAYER4, OTHER4, FREE4, AUTO, PLAYER6, FREE6, link_local(5)]


def happens(draw: st.DrawFn, bindings: Bindings, now: float) -> float:
    """Something that changes the tables, or time that passes; gives the time then."""
    mac, address = draw(st.sampled_from(MACS)), draw(st.sampled_from(ADDRESSES))
    match draw(st.integers(0, 6)):
        case 0:
            bindings.acknowledged(mac, draw(st.sampled_from(ADDRESSES[:3])), draw(st.sampled_from((5, 60))), now)
        case 1:
            bindings.house_has(HOUSE, address, draw(st.sampled_from(list(Evidence))), now)
        case 2:
            bindings.reserve(address)
        case 3:
            bindings.requested(mac, b"xid!", address)
            bindings.refused(mac, b"xid!")
        case 4:
            bindings.given_back(mac, address)
        case 5:
            bindings.left(mac, now)
        case _:
            return now + draw(st.sampled_from((0.5, 10.0, 70.0, 4000.0)))
    return now


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_guard_binding_tables_stay_consistent_and_an_answer_holds_as_promised(data: st.DataObject) -> None:
    """Whoever was told that it may use an address may, until the version goes up, the time is over, or it leaves."""
    bindings, now = Bindings(), 0.0
    good: dict[tuple[bytes, bytes], tuple[int, float]] = {}
    for _ in range(data.draw(st.integers(1, 60))):
        if data.draw(st.booleans()):
            mac, address = data.draw(st.sampled_from(MACS)), data.draw(st.sampled_from(ADDRESSES))
            if bindings.uses(mac, address, now):
                good[mac, address] = bindings.version, bindings.until(mac, now)
        else:
            now = happens(data.draw, bindings, now)
        consistent(bindings)
        for (mac, address), (version, until) in list(good.items()):
            if version != bindings.version or now >= until or mac in bindings._away:
                del good[mac, address]
            else:
                assert bindings.uses(mac, address, now)
