"""A party under attack, for the tests of the guard (tests/lan/guard, and rows 28 and 29 of docs/faults.md).

    house      lan-host (DHCP server, .1), house-pc (static .50, an ordinary computer), the gateway's box
    players    player1 is the attacker, player2 an ordinary player; both are lanparty's clients with leases.
               player3 is a victim without lanparty's DHCP (``--address none``): what asks for an address on its adapter
               is a DHCP client as Debian has it

The attacker's programs run where its TAP is, so that what they say goes through client, relay and gateway. They use the
player's own virtual MAC, unless that MAC is what is wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from lan_frames import mac
from lan_packets import HOUSE_PC, Scene
from lan_tools import Observer, inject, marker, need, poll, run
from lan_vectors import fence

from lanparty.demo.house import House, Place, set_sysctl
from lanparty.demo.programs import Party, Program, dnsmasq_command

ROUTER = "192.168.77.1"
ATTACKER, PLAYER, VICTIM = "player1", "player2", "player3"
LEVELS = ("strict", "off")
SHORTEST_LEASE = 120
"""Seconds, of dnsmasq."""
RENEWAL = 5
"""Seconds after which the house wants leases renewed (T1, RFC 2132 section 9.11): all the time while tests go on.
lanparty's client takes no less."""


@attrs.define
class Guarded:
    """A party with the guard at one level."""

    level: str
    party: Party
    relay: Program
    gateway: Program
    players: dict[str, Program]
    directory: Path
    """For what the attackers and victims write."""
    _scene: Scene | None = None

    @property
    def house(self) -> House:
        return self.party.house

    @property
    def is_strict(self) -> bool:
        return self.level == "strict"

    def at(self, place: str) -> str:
        return self.house.at(place)

    def interface(self, place: str) -> str:
        if place not in self.players:
            return "eth0"
        return str(self.players[place].named("client.joined")[-1]["interface"])

    def mac(self, place: str) -> str:
        (link,) = json.loads(run(self.at(place), "ip", "-j", "link", "show", "dev", self.interface(place)).stdout)
        return str(link["address"])

    def address(self, place: str) -> str:
        """A player's lease."""
        return str(self.players[place].named("client.address")[-1]["address"])

    def link_local(self, place: str) -> str:
        """Once duplicate address detection is done with it."""
        asked = ["ip", "-j", "-6", "address", "show", "dev", self.interface(place), "scope", "link", "-tentative"]

        def settled() -> list[str]:
            (link,) = json.loads(run(self.at(place), *asked).stdout) or [{}]
            # What the filter leaves out is shown as an empty object.
            return [str(item["local"]) for item in link.get("addr_info", ()) if "local" in item]

        return poll(settled, 5, f"{place} has a link-local address")[0]

    def scene(self) -> Scene:
        """Who is there, as the vectors want to know it: the attacker, another player, the house's router."""
        if self._scene is None:
            self._scene = Scene(
                own=mac(self.mac(ATTACKER)),
                own_ip=self.address(ATTACKER),
                own_link_local=self.link_local(ATTACKER),
                other=mac(self.mac(PLAYER)),
                other_ip=self.address(PLAYER),
                other_link_local=self.link_local(PLAYER),
                router=mac(self.mac("lan-host")),
                router_ip=ROUTER,
                router_link_local=self.link_local("lan-host"),
            )
        return self._scene

    def send(self, *frames: bytes, place: str = ATTACKER) -> None:
        inject(self.at(place), self.interface(place), *frames)

    def fence(self, observers: Iterable[Observer]) -> None:
        """Return when everything that was sent before has come to the observers, or will never come.

        Broadcasts of a game, one after the other: the second is sent when the first has arrived everywhere.
        """
        for _ in range(2):
            known = marker("fence")
            self.send(fence(self.scene(), known))
            for observer in observers:
                observer.wait_for(known)

    def counters(self) -> Counter[str]:
        """The relay's counters of all rooms, taken now: "blocked.RULE", "dropped.REASON" …"""
        told = self.relay.wait_for("relay.stats", since=len(self.relay.events))
        return Counter({name: int(value) for name, value in told.items() if isinstance(value, int)})

    def blocked(self) -> Counter[str]:
        """Frames by the rule that stopped them."""
        return Counter(
            {name.removeprefix("blocked."): n for name, n in self.counters().items() if name.startswith("blocked.")}
        )

    @contextmanager
    def watching(self, *places: str) -> Iterator[dict[str, Observer]]:
        """Packet sockets where frames of the attacker may come out."""
        # At the gateway what it sends into the house, too: no switch has dropped or trimmed it there.
        observers = {
            place: Observer(self.at(place), self.interface(place), outgoing=place == "gateway") for place in places
        }
        try:
            yield observers
        finally:
            for observer in observers.values():
                observer.close()

    def start(self, label: str, place: str, argv: Sequence[str]) -> Program:
        """An attacker's or a victim's program; stop it with `ended`."""
        return self.party.start(label, place, argv)


@contextmanager
def running(guarded: Guarded, label: str, place: str, argv: Sequence[str], ready: str) -> Iterator[Program]:
    """A program that has said ``ready``, until the block ends; then it is killed, so that it puts nothing right."""
    program = guarded.start(label, place, argv)
    try:
        poll(lambda: any(ready in line for line in program.lines), 10, f"{label} says {ready!r}")
        yield program
    finally:
        program.kill()
        guarded.party.programs.remove(program)


@contextmanager
def guarded_party(
    build: Callable[..., Party], level: str, *options: str, gateway_level: str | None = None
) -> Iterator[Guarded]:
    """The picture above with the guard at ``level``, at relay and gateway, and with more options of the relay."""
    with ExitStack() as stack:
        party = build(stack)
        party.programs.pop().kill()
        times = [f"--dhcp-option=option:T1,{RENEWAL}", f"--dhcp-option=option:T2,{2 * RENEWAL}"]
        argv = [*dnsmasq_command(need("dnsmasq"), party.lease_file, SHORTEST_LEASE), *times]
        party.start("DHCP server", "lan-host", argv)
        house = party.house
        house.add_namespace("house-pc")
        house.add_to_lan(Place("house-pc", lan_address=HOUSE_PC, lan_mac="00:16:3e:00:77:50"))
        house.add_namespace(VICTIM)
        house.add_to_internet(VICTIM, 13)
        relay = party.start_relay("--stats-interval", "1", "--guard", level, *options)
        gateway = party.start_gateway("--guard", gateway_level or level, wait=False)
        players = {place: party.start_client(place=place, wait_for=None) for place in (ATTACKER, PLAYER)}
        players[VICTIM] = party.start_client("--address", "none", place=VICTIM, wait_for=None)
        for place, player in players.items():
            player.wait_for("client.joined" if place == VICTIM else "client.address")
        gateway.wait_for("gateway.bridging")
        guarded = Guarded(level, party, relay, gateway, players, party.directory)
        for place in ("lan-host", *players):
            guarded.link_local(place)
        # Everybody in the house has been heard since the relay is there, as computers are from their start on: what
        # nobody has shown to have, the guard lets a member take (lanparty/guard/bindings.py).
        for place, other, address in (("lan-host", "house-pc", HOUSE_PC), ("house-pc", "lan-host", ROUTER)):
            run(house.at(place), "ip", "neighbour", "flush", "dev", "eth0")
            for target in (address, f"{guarded.link_local(other)}%eth0"):
                run(house.at(place), "ping", "-n", "-c", "1", "-W", "2", target)
        yield guarded


def listens_to_routers(guarded: Guarded, place: str) -> None:
    """As other systems do on any adapter; lanparty's client switches it off on its own (decision 0010)."""
    set_sysctl(guarded.at(place), f"net.ipv6.conf.{guarded.interface(place)}.accept_ra", "1")
