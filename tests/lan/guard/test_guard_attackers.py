"""Real attackers against real victims: strict, no victim changes, whatever the attacker's program says; off, it does.

The attacker's programs run on a player's machine. When nothing must happen, "enough was tried" is what the relay says:
it has stopped frames of the attack by the rule that is there for them.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address

import pytest
from lan_attacks import (
    ROGUE_PREFIX,
    ROGUE_PREFIX_DHCPV6,
    Leased,
    arpspoof,
    asks,
    dhclient6_command,
    ipv6_state,
    neighbour,
    next_hop,
    rogue_dhcp,
    rogue_dhcp6,
    rogue_router,
    silent_house,
)
from lan_frames import BROADCAST, arp, ethernet, icmpv6, ip, mac, udp
from lan_guard import ATTACKER, HOUSE_PC, LEVELS, PLAYER, ROUTER, VICTIM, Guarded, listens_to_routers
from lan_packets import advertisement, dhcp, link_option, octets, option, solicitation, summed
from lan_tools import poll, run

pytestmark = [pytest.mark.guard, pytest.mark.parametrize("guarded", LEVELS, indirect=True)]


@contextmanager
def stopped_by(guarded: Guarded, *rules: str, at_least: int = 1) -> Iterator[None]:
    """The attack of this block runs until the relay has stopped that many more frames by each of these rules."""
    before = guarded.blocked()
    yield
    now: Counter[str] = Counter()

    def enough() -> bool:
        nonlocal now
        now = guarded.blocked() - before
        return all(now[rule] >= at_least for rule in rules)

    poll(enough, 15, f"the relay stops {rules}")


def unless_strict(guarded: Guarded, changed: Callable[[], bool], *rules: str, what: str) -> None:
    """The attack works when the guard is off; strict, the relay stops it by ``rules``, and nothing changes.

    ``changed`` says whether the victims are; where no program attacks it does so itself, each time.
    """
    if guarded.is_strict:
        with stopped_by(guarded, *rules):
            changed()
        with guarded.watching("lan-host", PLAYER) as observers:
            guarded.fence(observers.values())
        assert not changed(), what
    else:
        poll(changed, 15, what, interval=0.2)


# ------------------------------------------------------------------------------------------------ DHCP


@pytest.mark.parametrize("victim", ["house-pc", VICTIM])
def test_a_rogue_dhcp_server(guarded: Guarded, victim: str) -> None:
    """Also when the house's own server is silent: then there is no lease rather than a false one."""
    with rogue_dhcp(guarded) as rogue:
        with silent_house(guarded):
            alone = asks(guarded, victim)
        assert any("DHCPOFFER" in line for line in rogue.lines), "the attacker offered nothing"
        beside = asks(guarded, victim)
    if guarded.is_strict:
        assert alone is None
        assert beside is not None
        assert beside.server == ROUTER
    else:
        assert alone is not None
        assert alone == Leased(alone.address, guarded.address(ATTACKER))
        assert alone.address.startswith("192.168.77.22")


def test_starvation(guarded: Guarded) -> None:
    """A request each for 30 of the house's addresses, each from another client, as dhcpstarv does."""
    clients = [bytes((2, 0x66, 0, 0, 0, number)) for number in range(30)]
    own = mac(guarded.mac(ATTACKER))
    wanted = [f"192.168.77.{160 + number}" for number in range(30)]
    frames = []
    for client, address in zip(clients, wanted, strict=True):
        message = dhcp(1, 3, client, options=option(50, octets(address)))
        frames.append(ethernet(BROADCAST, own, 0x0800, udp("0.0.0.0", "255.255.255.255", 68, 67, message)))

    def stolen() -> int:
        leases = {mac(lease.mac) for lease in guarded.party.leases()}
        return len(leases & set(clients))

    if guarded.is_strict:
        with stopped_by(guarded, "dhcp-client", at_least=30):
            guarded.send(*frames)
        assert stolen() == 0
    else:
        guarded.send(*frames)
        poll(lambda: stolen() > 20, 10, "the pool is used up")


def test_a_rogue_dhcpv6_server(guarded: Guarded) -> None:
    with rogue_dhcp6(guarded):
        client = guarded.start("DHCPv6 client", "house-pc", dhclient6_command(guarded, "house-pc"))
        try:
            unless_strict(
                guarded,
                lambda: any(f"BOUND6 address={ROGUE_PREFIX_DHCPV6}" in line for line in client.lines),
                "dhcpv6-server",
                what="an address from the attacker",
            )
        finally:
            client.kill()
            guarded.party.programs.remove(client)


# ------------------------------------------------------------------------------------------------ IPv6 routers


def test_a_rogue_router(guarded: Guarded) -> None:
    """The kernel's own IPv6, in the house and at a player whose system listens to routers."""
    victims = ("house-pc", VICTIM)
    listens_to_routers(guarded, VICTIM)
    before = {place: ipv6_state(guarded, place) for place in victims}

    def changed() -> bool:
        return all(
            any(address.startswith(ROGUE_PREFIX) for address in ipv6_state(guarded, place)[0]) for place in victims
        )

    with rogue_router(guarded):
        unless_strict(guarded, changed, "router-advertisement", what="addresses of the attacker's prefix")
    after = {place: ipv6_state(guarded, place) for place in victims}
    assert (after == before) is guarded.is_strict
    defaults = [route for _, routes in after.values() for route in routes if route.startswith("default")]
    assert bool(defaults) is not guarded.is_strict


# ------------------------------------------------------------------------------------------------ ARP and ND


def known(guarded: Guarded, place: str, address: str) -> str:
    """Have the machine at ``place`` learn who has ``address``, and say it."""
    poll(lambda: ping_once(guarded, place, address), 10, f"{place} reaches {address}")
    found = neighbour(guarded, place, address)
    assert found is not None
    return found


def ping_once(guarded: Guarded, place: str, address: str) -> bool:
    scope = f"%{guarded.interface(place)}" if address.startswith("fe80") else ""
    return run(guarded.at(place), "ping", "-n", "-c", "1", "-W", "1", address + scope, check=False).returncode == 0


def forget(guarded: Guarded, *places: str) -> None:
    for place in places:
        run(guarded.at(place), "ip", "neighbour", "flush", "dev", guarded.interface(place))


def test_arpspoof(guarded: Guarded) -> None:
    """dsniff's, three at once: the router to a house computer and to a player, the player to the house computer."""
    player = guarded.address(PLAYER)
    targets = [("house-pc", ROUTER), (PLAYER, ROUTER), ("house-pc", player)]
    addresses = {"house-pc": HOUSE_PC, PLAYER: player}
    forget(guarded, "house-pc", PLAYER)
    before = [known(guarded, place, claimed) for place, claimed in targets]
    attacker = guarded.mac(ATTACKER)
    assert attacker not in before

    def now() -> list[str | None]:
        return [neighbour(guarded, place, claimed) for place, claimed in targets]

    with ExitStack() as stack:
        for place, claimed in targets:
            stack.enter_context(arpspoof(guarded, addresses[place], claimed))
        unless_strict(guarded, lambda: now() == [attacker] * 3, "arp", what="poisoned ARP tables")
    if guarded.is_strict:
        assert now() == before


def gratuitous(operation: int, own: bytes, claimed: str) -> bytes:
    """To everybody, sender and target the same address (RFC 5227 section 3)."""
    return ethernet(BROADCAST, own, 0x0806, arp(operation, own, claimed, BROADCAST, claimed))


@pytest.mark.parametrize("operation", [1, 2], ids=["request", "reply"])
def test_gratuitous_arp(guarded: Guarded, operation: int) -> None:
    """For the router's address and a member's, at a house computer and at the other player."""
    player = guarded.address(PLAYER)
    targets = [("house-pc", ROUTER), ("house-pc", player), (PLAYER, ROUTER)]
    forget(guarded, "house-pc", PLAYER)
    before = [known(guarded, place, claimed) for place, claimed in targets]
    own = guarded.mac(ATTACKER)

    def attack() -> list[str | None]:
        guarded.send(*(gratuitous(operation, mac(own), claimed) for claimed in (ROUTER, player)))
        return [neighbour(guarded, place, claimed) for place, claimed in targets]

    unless_strict(guarded, lambda: attack() == [own] * 3, "arp", what="poisoned ARP tables")
    if guarded.is_strict:
        assert attack() == before


def advertises(own: bytes, claimed: str) -> bytes:
    """Neighbour advertisement to all with "override" set (RFC 4861 section 7.2.5)."""
    return icmpv6(claimed, "ff02::1", 136, advertisement(claimed, link_option(2, own)))


def solicits(own: bytes, claimed: str) -> bytes:
    """A solicitation for anybody teaches its source's link-layer address (RFC 4861 section 7.2.3)."""
    return icmpv6(claimed, "ff02::1", 135, solicitation("fe80::216:3eff:fe00:7750", link_option(1, own)))


@pytest.mark.parametrize("claim", [advertises, solicits])
def test_neighbour_discovery_for_others(guarded: Guarded, claim: Callable[[bytes, str], bytes]) -> None:
    """For the router's link-local address and a member's; a solicitation concerns its target, a house computer."""
    router, player = guarded.link_local("lan-host"), guarded.link_local(PLAYER)
    targets = [("house-pc", router), ("house-pc", player)]
    if claim is advertises:
        targets.append((PLAYER, router))
    forget(guarded, "house-pc", PLAYER)
    before = [known(guarded, place, claimed) for place, claimed in targets]
    own = guarded.mac(ATTACKER)

    def attack() -> list[str | None]:
        packets = [claim(mac(own), claimed) for claimed in (router, player)]
        guarded.send(*(ethernet(mac("33:33:00:00:00:01"), mac(own), 0x86DD, packet) for packet in packets))
        return [neighbour(guarded, place, claimed) for place, claimed in targets]

    everywhere = [own] * len(targets)
    unless_strict(guarded, lambda: attack() == everywhere, "neighbour-discovery", what="poisoned neighbour tables")
    if guarded.is_strict:
        assert attack() == before


# ------------------------------------------------------------------------------------------------ redirects


def test_icmp_redirect(guarded: Guarded) -> None:
    """In the router's name, to a house computer that sends 10.50.0.9 by the router."""
    attacker = guarded.address(ATTACKER)
    known(guarded, "house-pc", attacker)
    run(guarded.at("house-pc"), "ip", "route", "replace", "10.50.0.0/24", "via", ROUTER)
    # The kernel believes a redirect that quotes an echo reply of its own without a socket to ask.
    quoted = ip(HOUSE_PC, "10.50.0.9", 1, summed(struct.pack("!BBHHH", 0, 0, 0, 7, 7)))
    body = summed(struct.pack("!BBH4s", 5, 1, 0, octets(attacker)) + quoted)
    target = mac(guarded.mac("house-pc"))
    own = mac(guarded.mac(ATTACKER))
    frames = [ethernet(target, own, 0x0800, ip(source, HOUSE_PC, 1, body)) for source in (ROUTER, attacker)]

    def changed() -> bool:
        guarded.send(*frames)
        return next_hop(guarded, "house-pc", "10.50.0.9") == attacker

    unless_strict(guarded, changed, "routing", what="a route by the attacker")
    if guarded.is_strict:
        assert next_hop(guarded, "house-pc", "10.50.0.9") == ROUTER


def test_icmpv6_redirect(guarded: Guarded) -> None:
    """RFC 4861 section 8.3: in the router's name, to a better first hop, which is the attacker."""
    router, attacker = guarded.link_local("lan-host"), guarded.link_local(ATTACKER)
    victim, destination = guarded.link_local("house-pc"), "fd50:50::9"
    run(guarded.at("house-pc"), "ip", "-6", "route", "replace", "fd50:50::/64", "via", router, "dev", "eth0")
    own = mac(guarded.mac(ATTACKER))
    body = bytes(4) + IPv6Address(attacker).packed + IPv6Address(destination).packed + link_option(2, own)
    frame = ethernet(mac(guarded.mac("house-pc")), own, 0x86DD, icmpv6(router, victim, 137, body))

    def changed() -> bool:
        guarded.send(frame)
        return next_hop(guarded, "house-pc", destination) == attacker

    unless_strict(guarded, changed, "icmpv6-control", what="a route by the attacker")
    if guarded.is_strict:
        assert next_hop(guarded, "house-pc", destination) == router
