"""The virtual house as a fixture, with the programs started as their users start them.

Everything runs inside ``lanparty.demo.sandbox``; nox's session ``lan`` starts pytest in there:

    python -m lanparty.demo.sandbox -- pytest -m lan tests/lan

Outside of it these tests are skipped. Where nothing may be skipped (CI=true or LANPARTY_LAN_REQUIRED=1) a skip is a
failure.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from lan_tools import PATH, REQUIRED

from lanparty.demo import kernel, sandbox
from lanparty.demo.house import House, Underlay
from lanparty.demo.programs import Party, Program
from lanparty.obs.switches import VARIABLE

os.environ["PATH"] = PATH  # for every test, and what it starts

OUTSIDE = "needs network namespaces: python -m lanparty.demo.sandbox -- pytest -m lan tests/lan (nox -s lan)"


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """All accelerations, for a test that is about one: else it fails when ``nox -s lan_without`` switches that off."""
    monkeypatch.delenv(VARIABLE, raising=False)


@attrs.frozen
class Variant:
    """One way to run the same tests."""

    underlay: Underlay = Underlay.DUAL
    has_tap: bool = True
    megabytes: int = 50
    """How much the TCP tests move, each way."""
    guard: str = "strict"
    """The level at relay and gateway."""


VARIANTS = {
    "dual": Variant(),
    "ipv6": Variant(underlay=Underlay.IPV6, megabytes=10),
    # As a normal user has it, who may not open /dev/net/tun. Without that file the gateway has no TAP either.
    "no TAP": Variant(has_tap=False, megabytes=10),
    # What rooms get whose game needs what the guard drops by default.
    "standard": Variant(guard="standard"),
}


@attrs.define
class Lan:
    """A party that is up: relay, gateway, two players with leases. ``guest`` is a place on the internet, unused."""

    house: House
    party: Party
    variant: Variant
    relay: Program
    gateway: Program
    players: dict[str, Program]

    def joined(self, player: str) -> dict[str, Any]:
        return dict(self.players[player].named("client.joined")[-1])

    def mac(self, player: str) -> str:
        return str(self.joined(player)["mac"])

    def tap(self, player: str) -> str:
        return str(self.joined(player)["interface"])

    def address(self, player: str) -> str:
        return str(self.players[player].named("client.address")[-1]["address"])

    def restart(self, player: str) -> Program:
        """Stop a player's client as its user would, and start it again."""
        assert self.players[player].stop() == 0
        with taps(self.variant.has_tap):
            self.players[player] = self.party.start_client(place=player)
        return self.players[player]


_numbers = itertools.count()
_live: list[Party] = []
"""For the report of a failed test."""


def _sandboxed() -> None:
    if not sandbox.is_inside():
        (pytest.fail if REQUIRED else pytest.skip)(OUTSIDE)


@pytest.fixture(autouse=True, scope="session")
def inside_sandbox() -> None:
    _sandboxed()


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ExitStack, Variant], Party]:
    """Makes a house with its DHCP server, and nothing else in it yet."""

    def make(stack: ExitStack, variant: Variant = VARIANTS["dual"], *, own_dhcp: bool = False) -> Party:
        house = stack.enter_context(House(prefix=f"t{next(_numbers)}-", underlay=variant.underlay))
        directory: Path = tmp_path_factory.mktemp("party")
        party = stack.enter_context(Party(house, directory, log_level="debug"))
        stack.callback(party.kill)  # what is left at a test's end needs no goodbye
        _live.append(party)
        stack.callback(_live.remove, party)
        party.start_dhcp_server(own=own_dhcp)
        return party

    return make


@contextmanager
def taps(available: bool) -> Iterator[None]:
    """Programs that are started inside see /dev/net/tun or not; each has its own view of the mounts from then on."""
    if available or not Path("/dev/net").is_dir():
        yield
        return
    kernel.mount("tmpfs", "/dev/net", "tmpfs")
    try:
        yield
    finally:
        kernel.unmount("/dev/net")


def fill(party: Party, variant: Variant) -> Lan:
    party.house.add_namespace("guest")
    party.house.add_to_internet("guest", 33)
    relay = party.start_relay("--stats-interval", "1", "--guard", variant.guard)
    with taps(variant.has_tap):
        gateway = party.start_gateway("--guard", variant.guard, wait=False)
        players = {place: party.start_client(place=place, wait_for=None) for place in ("player1", "player2")}
        for player in players.values():
            player.wait_for("client.address")
        gateway.wait_for("gateway.bridging")
    return Lan(party.house, party, variant, relay, gateway, players)


@pytest.fixture(scope="session")
def gather() -> Callable[..., Lan]:
    """Makes a ``Lan`` of programs that a test has started in its own way: party, relay, gateway, players."""

    def make(party: Party, relay: Program, gateway: Program, **players: Program) -> Lan:
        return Lan(party.house, party, VARIANTS["dual"], relay, gateway, dict(players))

    return make


@pytest.fixture(scope="session")
def lan(request: pytest.FixtureRequest, build: Callable[..., Party]) -> Iterator[Lan]:
    """The party that cheap tests share. Whoever disturbs it puts it right again."""
    variant = VARIANTS[getattr(request, "param", "dual")]
    with ExitStack() as stack:
        yield fill(build(stack, variant), variant)


@pytest.fixture
def own_party(build: Callable[..., Party]) -> Iterator[Party]:
    """A house of the test's own; relay, gateway and players are not started."""
    with ExitStack() as stack:
        yield build(stack)


@pytest.fixture
def own_lan(own_party: Party) -> Lan:
    """A party of the test's own, for tests that break it."""
    return fill(own_party, VARIANTS["dual"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report = yield
    if report.skipped and REQUIRED:
        report.outcome = "failed"
        report.longrepr = f"skipped where every test must run: {report.longrepr}"
    if report.failed:
        for party in _live:
            for program in party.programs:
                report.sections.append((f"{program!r}", program.last_words(25).replace(" | ", "\n")))
    return report
