"""The demo's story: a LAN party comes up, is measured, and ends with a table.

    1. build the house and the internet (``house``)
    2. DHCP server, relay, gateway, player 1, player 2 (``programs``); whatever they say is shown as they say it
    3. per player: lease, ping, broadcast and multicast, throughput both ways (``probes``)
    4. the table; with ``keep`` everything stays up until Ctrl-C; then the players leave, as people would

Owns: the order, the words on the screen, what counts as success. Must run inside the sandbox.
Must not know: how the programs or the probes work.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import attrs

from lanparty.demo import sandbox
from lanparty.demo.house import PLACES, House, Underlay
from lanparty.demo.probes import DISCOVERY_PORT, Listener, PingResult, Transfer, discover, ping, transfer
from lanparty.demo.programs import Event, Party, Program
from lanparty.obs.errors import ExitStatus, LanpartyError

__all__ = ["DemoOptions", "Measured", "run", "table"]

DIRECTORY: Final = Path("/run/lanparty-demo")
"""In the sandbox's own /run, so it vanishes with it."""

HOUSE_ADDRESS: Final = PLACES[0].lan_address or ""
BROADCAST: Final = "192.168.77.255"
MULTICAST_GROUP: Final = "224.0.2.60"
"""Where Minecraft announces worlds that are open to the LAN (port 4445)."""
MULTICAST_PORT: Final = 4445

PINGS: Final = 120
"""At 10 ms: enough for a 99th percentile that is not the maximum, in 1.2 seconds."""
TRANSFER_SECONDS: Final = 1.0

INTERRUPTED: Final = 128 + signal.SIGINT

PICTURE: Final = """\
  lan-host ──┐                                                             ┌── player1
  (DHCP)     ├── house-switch ── gateway ══════╗             ╔═════════════╡
             │   192.168.77.0/24               ╚══ relay ════╝  internet   └── player2
"""


@attrs.frozen
class DemoOptions:
    """What the command line chose."""

    keep: bool = False
    underlay: Underlay = Underlay.DUAL
    own_dhcp_server: bool = False
    log_level: str = "info"


@attrs.frozen
class Measured:
    """One line of the table."""

    player: str
    address: str
    lease_is_theirs: bool
    """The house's lease file has the player's virtual MAC with that address."""
    pings: PingResult
    broadcast: bool
    multicast: bool
    up: Transfer
    down: Transfer

    @property
    def fine(self) -> bool:
        """Whether everything worked. A lost ping is not fine here: nothing in this house loses packets."""
        heard = self.broadcast and self.multicast
        return self.lease_is_theirs and self.pings.lost == 0 and heard and self.up.intact and self.down.intact


class _Screen:
    """Lines with the seconds since the start; programs' reader threads write here, too."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def plain(self, text: str) -> None:
        with self._lock:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def step(self, who: str, text: str) -> None:
        self.plain(f"{time.monotonic() - self._start:5.1f} s  {who:<12} {text}")

    def event(self, who: str, event: Event) -> None:
        self.step(who, str(event.get("message", event["event"])))


def run(options: DemoOptions) -> int:
    """Tell the whole story; the exit status."""
    screen = _Screen()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    status: int = ExitStatus.FAILED
    try:
        with ExitStack() as stack:
            status = _party(options, screen, stack)
            if options.keep:
                _keep(screen)
            screen.step("demo", "The players leave, then the gateway, the relay and the house close.")
    except KeyboardInterrupt:
        if not options.keep or status == ExitStatus.FAILED:
            status = INTERRUPTED
        screen.step("demo", "Everything is closed.")
    except LanpartyError as error:
        sys.stderr.write(f"lanparty.demo: error: {error}\n")
        status = error.status
    return status


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _party(options: DemoOptions, screen: _Screen, stack: ExitStack) -> int:
    screen.plain("A LAN party on this computer: every machine below is a network namespace of its own.\n")
    screen.plain(PICTURE)
    house = stack.enter_context(House(underlay=options.underlay))
    screen.step("demo", "The house and the internet are built.")
    party = stack.enter_context(Party(house, DIRECTORY, on_event=screen.event, log_level=options.log_level))
    server = party.start_dhcp_server(own=options.own_dhcp_server)
    screen.step("lan-host", f"The house's DHCP server runs ({Path(server.argv[0]).name}).")
    party.start_relay()
    party.start_gateway()
    players = [party.start_client(place=place, wait_for=None) for place in ("player1", "player2")]
    addresses = [str(player.wait_for("client.address")["address"]) for player in players]
    screen.step("demo", "Both players have an address in the house. Measuring.")
    measured = [_measure(party, screen, player, addresses, number) for number, player in enumerate(players)]
    screen.plain("\n" + table(measured))
    broken = [line.player for line in measured if not line.fine]
    if broken:
        screen.plain(f"Not everything worked for {' and '.join(broken)}.")
        return ExitStatus.FAILED
    screen.plain("Everything worked.")
    return ExitStatus.OK


def _measure(party: Party, screen: _Screen, player: Program, addresses: Sequence[str], number: int) -> Measured:
    name, address, other = player.label, addresses[number], addresses[1 - number]
    here, house = party.house.at(name), party.house.at("lan-host")
    there = party.house.at("player2" if number == 0 else "player1")
    mac = str(player.named("client.joined")[-1]["mac"])
    leased = any(lease.mac == mac and lease.address == address for lease in party.leases())
    screen.step(name, f"The house's lease file has {address} for {mac}: {_yes(leased)}.")
    pings = ping(here, HOUSE_ADDRESS, count=PINGS, interval=0.01)
    screen.step(name, f"Pings the house: {len(pings.times)} of {pings.sent} answered.")
    with _listeners((here, address), (there, other), (house, HOUSE_ADDRESS)) as (own, others, home):
        broadcast = discover(here, address, BROADCAST, [others[0], home[0]], DISCOVERY_PORT)
        broadcast &= discover(house, HOUSE_ADDRESS, BROADCAST, [own[0], others[0]], DISCOVERY_PORT)
        screen.step(name, f"Is found by broadcast, and finds the house and the other player: {_yes(broadcast)}.")
        multicast = discover(here, address, MULTICAST_GROUP, [others[1], home[1]], MULTICAST_PORT)
        multicast &= discover(house, HOUSE_ADDRESS, MULTICAST_GROUP, [own[1], others[1]], MULTICAST_PORT)
        screen.step(name, f"The same by multicast: {_yes(multicast)}.")
    up = transfer(here, house, HOUSE_ADDRESS, seconds=TRANSFER_SECONDS)
    down = transfer(house, here, address, seconds=TRANSFER_SECONDS)
    screen.step(name, f"TCP: {up.size / 1e6:.0f} MB to the house, {down.size / 1e6:.0f} MB from it.")
    return Measured(name, address, leased, pings, broadcast, multicast, up, down)


@contextmanager
def _listeners(*places: tuple[str, str]) -> Iterator[list[tuple[Listener, Listener]]]:
    """At each (namespace, address): a socket for broadcast and one for the multicast group."""
    with ExitStack() as stack:

        def listen(namespace: str, address: str) -> tuple[Listener, Listener]:
            plain = Listener(namespace, DISCOVERY_PORT)
            stack.callback(plain.close)
            member = Listener(namespace, MULTICAST_PORT, group=MULTICAST_GROUP, address=address)
            stack.callback(member.close)
            return plain, member

        yield [listen(*place) for place in places]


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def table(measured: Sequence[Measured]) -> str:
    """The last thing on the screen."""
    rows = [["player", "lease", "ping p50", "ping p99", "broadcast", "multicast", "to the house", "from the house"]]
    rows += [
        [
            *(line.player, line.address if line.lease_is_theirs else f"{line.address} (not in the house's file)"),
            *(f"{line.pings.milliseconds(50):.2f} ms", f"{line.pings.milliseconds(99):.2f} ms"),
            *(_yes(line.broadcast), _yes(line.multicast)),
            *(_rate(line.up), _rate(line.down)),
        ]
        for line in measured
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def _rate(done: Transfer) -> str:
    return f"{done.megabits_per_second:.0f} Mbit/s" if done.intact else "BROKEN"


def shell_command(place: str) -> str:
    """What opens a shell at a place, from another terminal of the same user."""
    namespaces = "--user --mount --pid --preserve-credentials"
    return f"nsenter --target {sandbox.outer_pid()} {namespaces} nsenter --net=/run/netns/{place} sh"


def _keep(screen: _Screen) -> NoReturn:
    screen.plain("\nEverything stays up. A shell as player 1, from another terminal:\n")
    screen.plain(f"    {shell_command('player1')}\n")
    screen.plain(f"There, try: ping {HOUSE_ADDRESS}    Ctrl-C here ends everything.")
    while True:
        signal.pause()
