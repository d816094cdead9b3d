"""Ordinary life on a LAN, with the guard strict: nothing of it is dropped, and all of it is heard.

Players and house do what computers and games do: leases that are renewed, finding neighbours, joining groups, looking
for games in the ways of five of them, a lobby of sixteen that is refreshed. Then the relay is asked what it dropped.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import attrs
import pytest
from lan_attacks import dhclient_command
from lan_frames import BROADCAST, ethernet, ipx, mac, snap
from lan_guard import ATTACKER, PLAYER, ROUTER, VICTIM, Guarded, running
from lan_tools import Observer, marker, ping, poll, run

from lanparty.demo import inside
from lanparty.demo.house import set_sysctl

pytestmark = pytest.mark.guard

Dropped = Callable[[], dict[str, int]]
STATIONS = ("lan-host", ATTACKER, PLAYER)
"""Here ``ATTACKER`` is a player like any other."""


@pytest.fixture(scope="module")
def party(strict: Guarded) -> Iterator[Guarded]:
    """With a real DHCP client that renews its lease while the other tests go on."""
    with running(strict, "dhclient", VICTIM, dhclient_command(strict, VICTIM, stays=True), "told: BOUND"):
        yield strict


@pytest.fixture(scope="module")
def dropped(party: Guarded) -> Dropped:
    """What the relay has not passed on, by reason, since the first test here."""
    before = party.counters()
    return lambda: {
        name: count for name, count in (party.counters() - before).items() if name.startswith(("blocked.", "dropped."))
    }


@attrs.frozen
class Pattern:
    """How a game looks for servers: a datagram to a group or to everybody, and the servers that hear it."""

    name: str
    target: str
    ports: tuple[int, ...]
    payload: bytes
    source_port: int = 0
    """0: any."""


QUAKE = b"\xff\xff\xff\xffgetinfo xxx"
SOURCE = b"\xff\xff\xff\xffTSource Engine Query\0"
PATTERNS = [
    Pattern("Quake 3", "255.255.255.255", (27960, 27961, 27962, 27963), QUAKE, 27960),
    Pattern("Source", "255.255.255.255", (27015, 27016, 27017, 27018, 27019, 27020), SOURCE),
    Pattern("Source, subnet broadcast", "192.168.77.255", (27015,), SOURCE),
    Pattern("Minecraft", "224.0.2.60", (4445,), b"[MOTD]A world[/MOTD][AD]25565[/AD]"),
    Pattern("Warcraft III", "255.255.255.255", (6112,), bytes.fromhex("f72f1000505833571a00000001000000"), 6112),
    Pattern("DirectPlay", "255.255.255.255", (47624,), struct.pack("<I", 0xFAB00034) + bytes(48) + b"play", 2300),
    Pattern("DirectPlay 8", "255.255.255.255", (2302,), bytes.fromhex("00020000") + bytes(16)),
    Pattern("mDNS", "224.0.0.251", (5353,), bytes(4) + b"\0\1" + bytes(6) + b"\x05_game\x04_udp\x05local\0\0\x0c\0\1"),
    Pattern("SSDP", "239.255.255.250", (1900,), b"M-SEARCH * HTTP/1.1\r\nST: ssdp:all\r\n\r\n"),
    Pattern("LLMNR", "224.0.0.252", (5355,), b"\x12\x34" + bytes(2) + b"\0\1" + bytes(6) + b"\x04host\0\0\1\0\1"),
]


def address(party: Guarded, station: str) -> str:
    return ROUTER if station == "lan-host" else party.address(station)


def say(party: Guarded, station: str, pattern: Pattern, mark: bytes) -> None:
    """As the game does it: one socket, a datagram to each port."""

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address(party, station)))
            udp.bind((address(party, station), pattern.source_port))
            for port in pattern.ports:
                udp.sendto(pattern.payload + mark, (pattern.target, port))

    inside.call(party.at(station), work)


def times(observer: Observer, mark: bytes) -> int:
    """How often a mark has come. Equal datagrams of one flow may come as one super-frame."""
    observer.collect()
    return sum(frame.count(mark) for frame in observer.frames)


Shot = Callable[[bytes], None]
"""Sends something with a mark."""


def all_heard(party: Guarded, sender: str, shots: dict[str, tuple[Shot, int]]) -> None:
    """Everybody else hears each shot, as often as it says."""
    marks = {name: marker("lawful") for name in shots}
    with party.watching(*(station for station in STATIONS if station != sender)) as observers:
        for name, (send, _) in shots.items():
            send(marks[name])

        def missing() -> list[str]:
            return [
                f"{name} at {station}"
                for name, (_, copies) in shots.items()
                for station, observer in observers.items()
                if times(observer, marks[name]) < copies
            ]

        poll(lambda: not missing(), 5, "everything is heard")


# ------------------------------------------------------------------------------------------------ one after the other


def test_discovery_is_heard(party: Guarded, dropped: Dropped) -> None:
    for station in STATIONS:
        all_heard(
            party,
            station,
            {
                pattern.name: (lambda mark, at=station, p=pattern: say(party, at, p, mark), len(pattern.ports))
                for pattern in PATTERNS
            },
        )
    assert dropped() == {}


def test_a_lobby_is_refreshed(party: Guarded, dropped: Dropped) -> None:
    """Three computers look for games in all ways at once, five times; each finds sixteen servers that answer."""
    marks = {station: marker("lobby") for station in STATIONS}
    copies = 5 * sum(len(pattern.ports) for pattern in PATTERNS)
    with party.watching(*STATIONS) as observers:
        for _ in range(5):
            for station, mark in marks.items():
                for pattern in PATTERNS:
                    say(party, station, pattern, mark)
        answer = marker("answer")
        for station, other in [*pairwise(STATIONS), (STATIONS[-1], STATIONS[0])]:
            answers(party, station, other, answer)

        def missing() -> dict[str, int]:
            """Frames that were not heard (yet), by who sent them and who should hear them."""
            wanted = {
                f"{other} at {station}": copies - times(observers[station], mark)
                for station in STATIONS
                for other, mark in marks.items()
                if other != station
            }
            wanted |= {f"answers at {station}": 16 - times(observers[station], answer) for station in STATIONS}
            return {name: count for name, count in wanted.items() if count > 0}

        deadline = time.monotonic() + 5
        while missing() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (missing(), dropped()) == ({}, {})


def answers(party: Guarded, station: str, other: str, mark: bytes) -> None:
    """Sixteen servers on one computer answer another."""

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((address(party, station), 0))
            for number in range(16):
                udp.sendto(b"\xff\xff\xff\xffinfoResponse" + mark, (address(party, other), 27960 + number))

    inside.call(party.at(station), work)


def raw_ipx(own: bytes, mark: bytes) -> bytes:
    return ipx(BROADCAST, own, mark)


def ethernet_ii_ipx(own: bytes, mark: bytes) -> bytes:
    return ethernet(BROADCAST, own, 0x8137, ipx(BROADCAST, own, mark)[14:])


def ipx_802_2(own: bytes, mark: bytes) -> bytes:
    body = b"\xe0\xe0\x03" + ipx(BROADCAST, own, mark)[14:]
    return BROADCAST + own + len(body).to_bytes(2, "big") + body


def ipx_snap(own: bytes, mark: bytes) -> bytes:
    return snap(ethernet_ii_ipx(own, mark))


IPX = {"802.3": raw_ipx, "Ethernet II": ethernet_ii_ipx, "802.2": ipx_802_2, "SNAP": ipx_snap}


def test_ipx_is_heard(party: Guarded, dropped: Dropped) -> None:
    """Novell's four frame types, as old games and their emulators choose one of them."""
    for station in STATIONS:

        def shot(build_ipx: Callable[[bytes, bytes], bytes], at: str = station) -> Shot:
            own = mac(party.mac(at))
            return lambda mark: party.send(build_ipx(own, mark), place=at)

        all_heard(party, station, {name: (shot(build_ipx), 1) for name, build_ipx in IPX.items()})
    assert dropped() == {}


@pytest.mark.parametrize("versions", [("2", "1"), ("3", "2")], ids=["IGMPv2 and MLDv1", "IGMPv3 and MLDv2"])
def test_joining_groups(party: Guarded, dropped: Dropped, versions: tuple[str, str]) -> None:
    """The kernel's own reports, when a game joins a group and leaves it."""
    interface, place = party.interface(ATTACKER), party.at(ATTACKER)
    set_sysctl(place, f"net.ipv4.conf.{interface}.force_igmp_version", versions[0])
    set_sysctl(place, f"net.ipv6.conf.{interface}.force_mld_version", versions[1])
    # Report of IGMPv2, or the group that IGMPv3 reports to; ICMPv6 types 131 and 143 behind the router alert.
    wanted = [
        {"2": b"\x16\x00", "3": b"\x22\x00"}[versions[0]],
        {"1": b"\x83\x00", "2": b"\x8f\x00"}[versions[1]],
    ]

    def join() -> tuple[socket.socket, socket.socket]:
        four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        four.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton("239.77.0.1") + socket.inet_aton(party.address(ATTACKER)),
        )
        six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        group = socket.inet_pton(socket.AF_INET6, "ff02::7777") + struct.pack("@I", socket.if_nametoindex(interface))
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        return four, six

    with party.watching("gateway", PLAYER) as observers:
        joined = inside.call(place, join)
        for observer in observers.values():
            for kind, version in zip(wanted, ("4", "6"), strict=True):
                poll(lambda o=observer, k=kind, v=version: reported(o, k, v), 5, f"a report of IP {version}")
        for one in joined:
            one.close()
        party.fence(observers.values())
    assert dropped() == {}


def reported(observer: Observer, kind: bytes, version: str) -> bool:
    """Whether an IGMP or MLD report of the player was seen: behind 24 bytes of IPv4, or 40 and 8 of IPv6."""
    observer.collect()
    at, ethertype = (14 + 24, b"\x08\x00") if version == "4" else (14 + 48, b"\x86\xdd")
    return any(frame[12:14] == ethertype and frame[at : at + 2] == kind for frame in observer.frames)


def test_neighbours_are_found(party: Guarded, dropped: Dropped) -> None:
    """IPv4 and IPv6 between everybody from empty tables, and a new IPv6 address with its duplicate detection."""
    for station in STATIONS:
        run(party.at(station), "ip", "neighbour", "flush", "dev", party.interface(station))
    set_sysctl(party.at(ATTACKER), f"net.ipv6.conf.{party.interface(ATTACKER)}.accept_dad", "1")
    run(party.at(ATTACKER), "ip", "address", "add", "fd99:77::11/64", "dev", party.interface(ATTACKER))
    shown = ["ip", "-6", "address", "show", "dev", party.interface(ATTACKER), "tentative"]
    poll(lambda: not run(party.at(ATTACKER), *shown).stdout, 10, "duplicate address detection is done")
    links = {station: party.link_local(station) for station in STATIONS}
    for station in STATIONS:
        for other in STATIONS:
            if other != station:
                ping(party.at(station), address(party, other), count=1)
                ping(party.at(station), f"{links[other]}%{party.interface(station)}", count=1)
    assert dropped() == {}


# ------------------------------------------------------------------------------------------------ leases


def test_leases_are_renewed_again_and_again(party: Guarded, dropped: Dropped) -> None:
    """By lanparty's clients and by a real one, whose address the guard knows from the acknowledgements only."""
    client = next(program for program in party.party.programs if program.label == "dhclient")
    bound = poll(lambda: [line for line in client.lines if "told: BOUND" in line], 10, "a lease for the real client")
    address = bound[0].split("address=")[1].split()[0]
    poll(lambda: sum("told: RENEW" in line for line in client.lines) >= 2, 30, "two renewals of the real client")
    for name in (ATTACKER, PLAYER):
        program = party.players[name]
        poll(lambda p=program: len(p.named("client.dhcp-renewed")) >= 2, 30, f"two renewals of {name}")
    ping(party.at(VICTIM), ROUTER)
    ping(party.at("lan-host"), address)
    ping(party.at("lan-host"), party.address(ATTACKER))
    assert {lease.mac: lease.address for lease in party.party.leases()}[party.mac(VICTIM)] == address
    assert dropped() == {}
