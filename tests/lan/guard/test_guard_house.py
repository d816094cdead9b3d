"""From the gateway's LAN side: what of the house does not reach the players, and that the house's own does.

And what a room's own options change: IPv6 routing for players, isolation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import pytest
from lan_frames import BROADCAST, arp, bootp, ethernet, icmpv6, mac, snap, tagged, udp
from lan_guard import PLAYER, ROUTER, Guarded, guarded_party
from lan_packets import ALL_DHCP_AGENTS, ALL_NODES, ECHO, ROUTER_ADVERTISEMENT, Scene, group6, ipv6_extension, mark
from lan_vectors import fence

from lanparty.demo.programs import Party

pytestmark = pytest.mark.guard

Build = Callable[[Scene, bytes], bytes]
"""A frame of the house's router with this mark in it; the house's switch cuts off what is behind a packet."""


@attrs.frozen
class Case:
    rule: str | None
    """Of the relay. None: the house's switch or the gateway has dropped it before."""
    build: Build


def of_router(ethertype: int, packet: Callable[[Scene, bytes], bytes], to: bytes = BROADCAST) -> Build:
    return lambda s, known: ethernet(to, s.router, ethertype, packet(s, known))


def game(s: Scene, known: bytes) -> bytes:
    return udp(ROUTER, "192.168.77.255", 27005, 27015, known)


def advertisement(s: Scene, known: bytes) -> bytes:
    """With the mark in an option that nobody knows."""
    option = bytes((253, 3)) + known.ljust(22, b"\0")
    return icmpv6(s.router_link_local, ALL_NODES, 134, ROUTER_ADVERTISEMENT + option)


def dhcp6(s: Scene, known: bytes) -> bytes:
    return udp(s.router_link_local, ALL_DHCP_AGENTS, 547, 546, b"\x07\0\0\1" + known)


def other(s: Scene, known: bytes) -> bytes:
    return b"\1" + known


PLAIN = of_router(0x0800, game)
RA = of_router(0x86DD, advertisement, group6(ALL_NODES))
CASES = {
    "VID 7": Case(None, lambda s, k: tagged(PLAIN(s, k), (0x8100, 7))),
    "VID 0": Case(None, lambda s, k: tagged(PLAIN(s, k), (0x8100, 0))),
    "QinQ": Case(None, lambda s, k: tagged(PLAIN(s, k), (0x88A8, 1), (0x8100, 0))),
    "SNAP": Case(None, lambda s, k: snap(PLAIN(s, k))),
    "LLDP to everybody": Case(None, of_router(0x88CC, other)),
    "802.1X to everybody": Case(None, of_router(0x888E, other)),
    "PPPoE": Case(None, of_router(0x8863, other)),
    "CDP": Case(None, of_router(0x0800, game, mac("01:00:0c:cc:cc:cc"))),
    "PTP": Case(None, of_router(0x88F7, other, mac("01:1b:19:00:00:00"))),
    "router advertisement": Case("router-advertisement", RA),
    "router advertisement behind hop-by-hop": Case(
        "router-advertisement",
        of_router(0x86DD, lambda s, k: ipv6_extension(advertisement(s, k), 0), group6(ALL_NODES)),
    ),
    "DHCPv6": Case("dhcpv6-server", of_router(0x86DD, dhcp6, group6(ALL_DHCP_AGENTS))),
    "a member's MAC": Case(None, lambda s, k: ethernet(BROADCAST, s.other, 0x0800, game(s, k))),
}
LAWFUL = {
    "a game": PLAIN,
    "DHCP": of_router(0x0800, lambda s, k: udp(ROUTER, "255.255.255.255", 67, 68, bootp(2, s.router, 2, k))),
    "gratuitous ARP": of_router(0x0806, lambda s, k: arp(2, s.router, ROUTER, BROADCAST, ROUTER) + k),
    "echo request": of_router(
        0x86DD, lambda s, k: icmpv6(s.router_link_local, ALL_NODES, 128, ECHO + k), group6(ALL_NODES)
    ),
}


def test_what_of_the_house_does_not_reach_players(strict: Guarded) -> None:
    """Where the gateway drops it already, it never came to the relay; then the relay has counted nothing."""
    scene = strict.scene()
    sent = {name: (mark(), case) for name, case in CASES.items()}
    lawful = {name: (mark(), build) for name, build in LAWFUL.items()}
    before = strict.blocked()
    with strict.watching(PLAYER) as observers:
        strict.send(
            *(case.build(scene, known) for known, case in sent.values()),
            *(build(scene, known) for known, build in lawful.values()),
            place="lan-host",
        )
        seen = observers[PLAYER]
        for known, _ in lawful.values():
            seen.wait_for(known)
        strict.fence(observers.values())
        assert [name for name, (known, _) in sent.items() if seen.count(known)] == []
    blocked = strict.blocked() - before
    missing = {case.rule for _, case in sent.values() if case.rule is not None and not blocked[case.rule]}
    assert missing == set()


@pytest.fixture(scope="module")
def optioned(build: Callable[..., Party]) -> Iterator[Guarded]:
    with guarded_party(build, "strict", "--ipv6-routing", "ROOM1", "--isolate", "ROOM1") as party:
        yield party


def test_a_room_with_ipv6_routing_hears_the_houses_router(optioned: Guarded) -> None:
    """And still none of a player's."""
    scene = optioned.scene()
    house, player = mark(), mark()
    packet = icmpv6(scene.own_link_local, ALL_NODES, 134, ROUTER_ADVERTISEMENT)
    fake = ethernet(group6(ALL_NODES), scene.own, 0x86DD, packet + player)
    with optioned.watching("gateway", PLAYER) as observers:
        optioned.send(fake)
        optioned.fence([observers["gateway"]])
        optioned.send(RA(scene, house), place="lan-host")
        observers[PLAYER].wait_for(house)
        assert [observer.count(player) for observer in observers.values()] == [0, 0]


def test_isolated_players_reach_the_house_and_not_each_other(optioned: Guarded) -> None:
    """Row 18."""
    scene = optioned.scene()
    to_all, to_one = mark(), mark()
    packet = udp(scene.own_ip, scene.other_ip, 27005, 27015, to_one)
    before = optioned.blocked()
    with optioned.watching("lan-host", PLAYER) as observers:
        optioned.send(ethernet(scene.other, scene.own, 0x0800, packet), fence(scene, to_all))
        observers["lan-host"].wait_for(to_all)
        optioned.fence([observers["lan-host"]])
        assert [observers[PLAYER].count(known) for known in (to_all, to_one)] == [0, 0]
    assert (optioned.blocked() - before)["isolation"] == 1
