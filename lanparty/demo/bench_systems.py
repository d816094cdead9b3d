"""What the bench measures: a system carries frames between players and the house, by way of a relay.

``System`` is what the bench knows of one: how to start it in a ``Lab``, which processes play which role, and which
interface a player gets. Here are lanparty itself and, as the yardstick without encryption and without programs, the
kernel's own VXLAN; others are in ``bench_peers`` and ``bench_softether``.

Owns: starting and stopping. Must not know: what is measured.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import errno
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import ClassVar, Final

from pyroute2.netlink.exceptions import NetlinkError

from lanparty.demo.bench_lab import LAN_HOST, PATH, PLAYER_ADDRESSES, Lab, descendants, end_processes
from lanparty.demo.house import LAN_PREFIX
from lanparty.demo.programs import Party, Program
from lanparty.obs.errors import LanpartyError

__all__ = ["Carrier", "GuardOff", "GuardStrict", "Lanparty", "System", "Vxlan", "find", "last_match"]

START_TIMEOUT: Final = 25.0
"""Seconds until the house must answer a ping. tinc and OpenVPN need a few; SoftEther answers its tools after some."""

PLAYERS: Final = ("player1", "player2")


class Carrier(Enum):
    """What a system puts frames in. It decides what a comparison means."""

    DATAGRAMS = "datagrams"
    STREAM = "stream"
    """TCP: large writes are cheap, and the first lost packet holds up everything behind it."""
    KERNEL = "kernel"
    """No program at all, and no encryption."""


def find(tool: str) -> str | None:
    """The path of a tool, or None."""
    return shutil.which(tool, path=PATH)


class System:
    """One system in one lab. Used once: ``start``, measurements, ``stop``."""

    name: ClassVar[str]
    cipher: ClassVar[str]
    carrier: ClassVar[Carrier] = Carrier.DATAGRAMS
    tools: ClassVar[Mapping[str, str]] = {}
    """What must be installed: tool -> Debian package."""
    interface: ClassVar[str] = "tap0"
    """What a player has."""
    players: ClassVar[tuple[str, ...]] = PLAYERS[:1]
    """Who can take part."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.party = Party(lab, directory, log_level="warning")
        self.started: dict[str, list[Program]] = {}

    @classmethod
    def missing(cls) -> list[str]:
        """Debian's names of the packages that are not installed."""
        return sorted({package for tool, package in cls.tools.items() if find(tool) is None})

    # -- what a system defines

    def start_house(self) -> None:
        """Start relay and gateway."""
        raise NotImplementedError

    def start_player(self, player: str) -> None:
        """Start a player's program; returns when its interface may have an address, or will come."""
        raise NotImplementedError

    def facts(self) -> dict[str, str]:
        """What was negotiated, for the record."""
        return {}

    # -- what it need not define

    def start(self) -> None:
        """Start everything and wait until the first player reaches the house. Raises LanpartyError when it does not."""
        self.start_house()
        self.join(self.players[0])

    def join(self, player: str) -> None:
        """Let a player in and wait until the house answers."""
        self.start_player(player)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._reaches_house(player):
            if time.monotonic() > deadline:
                raise LanpartyError(f"{self.name}: the house never answered {player}: {self.last_words()}")
            self.check_alive()

    def leave(self, player: str) -> None:
        """Stop a player's program."""
        for program in self.started.pop(player, []):
            program.stop()

    def give_address(self, player: str) -> bool:
        """Give the player's interface its address once it is there; whether it has it."""
        address = PLAYER_ADDRESSES[player]
        try:
            shown = json.loads(self.lab.run(player, "ip", "-j", "address", "show", "dev", self.interface) or "[]")
        except LanpartyError:
            return False
        if not any(info["local"] == address for link in shown for info in link.get("addr_info", [])):
            try:
                self.lab.add_address(self.lab.at(player), self.interface, address, LAN_PREFIX)
            except NetlinkError as error:
                if error.code != errno.EEXIST:  # the system itself was quicker
                    raise
            self.lab.set_link(self.lab.at(player), self.interface, state="up")
        return True

    def launch(
        self,
        role: str,
        place: str,
        argv: Sequence[str | os.PathLike[str]],
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start one program. Roles are "relay", "gateway" and the players' names."""
        program = self.party.start(
            f"{self.name} {role}", place, argv, environment={"PATH": PATH, **(environment or {})}
        )
        self.started.setdefault(role, []).append(program)
        return program

    def processes(self) -> dict[str, list[int]]:
        """The process ids of each role, children included. A player's role is "client"; the second's "client2"."""
        names = {"player1": "client", "player2": "client2"}
        return {
            names.get(role, role): [pid for program in programs for pid in descendants(program.pid)]
            for role, programs in self.started.items()
        }

    def check_alive(self) -> None:
        """Raise LanpartyError when a program has ended by itself."""
        for role, programs in self.started.items():
            for program in programs:
                if not program.running:
                    raise LanpartyError(f"{self.name}: the {role} ended: {program.last_words()}")

    def last_words(self) -> str:
        """The last lines of each program, for a message to a person."""
        said = [program.last_words(2) for programs in self.started.values() for program in programs]
        return " / ".join(said)

    def stop(self) -> None:
        """End everything, children that would outlive their parent too. No goodbyes: some take 10 s for theirs."""
        end_processes([pid for pids in self.processes().values() for pid in pids], signal.SIGKILL)
        self.party.kill()
        self.started.clear()

    def _reaches_house(self, player: str) -> bool:
        if not self.give_address(player):
            time.sleep(0.05)
            return False
        try:
            return ", 0% packet loss" in self.lab.run(player, "ping", "-n", "-c", "1", "-W", "0.3", LAN_HOST)
        except LanpartyError:
            return False


class _ProfiledParty(Party):
    """Starts one of our programs under cProfile."""

    def __init__(self, lab: Lab, directory: Path, label: str, prefix: Sequence[str]) -> None:
        super().__init__(lab, directory, log_level="warning")
        self._label = label
        self._prefix = prefix

    def start_python(self, label: str, place: str, module: str, *arguments: str | os.PathLike[str]) -> Program:
        """As ``Party``."""
        if label != self._label:
            return super().start_python(label, place, module, *arguments)
        log = ["--log-format", "json", "--log-level", "warning"]
        return self.start(label, place, [sys.executable, *self._prefix, "-m", module, *arguments, *log])


class Lanparty(System):
    """This project, started as its users start it."""

    name = "lanparty"
    cipher = "QUIC v1, TLS 1.3 (AES-128-GCM), DATAGRAM frames"
    interface = "lp0"
    players = PLAYERS
    house_options: ClassVar[tuple[str, ...]] = ()
    """What its relay and its gateway are started with beside what they must have."""

    def profile(self, program: str, prefix: Sequence[str]) -> None:
        """Before ``start``: have a program's interpreter run with these arguments before ``-m MODULE``."""
        label = "player1" if program == "client" else program
        self.party = _ProfiledParty(self.lab, self.directory, label, prefix)

    def start_house(self) -> None:
        """As ``System``; frames are read from the gateway's card itself, so no bridge is made."""
        self.started["relay"] = [self.party.start_relay(*self.house_options, wait=False)]
        deadline = time.monotonic() + START_TIMEOUT
        while not self.party.certificate.exists():
            self.check_alive()
            if time.monotonic() > deadline:
                raise LanpartyError("the relay does not start: try the demo (python -m lanparty.demo), which says why")
            time.sleep(0.02)
        self.started["gateway"] = [self.party.start_gateway(*self.house_options, wait=False)]

    def start_player(self, player: str) -> None:
        """As ``System``; the client gives the interface its address."""
        options = ("--tap", self.interface, "--address", f"{PLAYER_ADDRESSES[player]}/{LAN_PREFIX}")
        self.started[player] = [self.party.start_client(*options, place=player, wait_for=None)]

    def give_address(self, player: str) -> bool:
        """Whether the client has given it."""
        del player
        return True

    def stop(self) -> None:
        """As its users stop it: what cannot stop in order is to be noticed here."""
        self.party.stop()
        self.started.clear()

    def facts(self) -> dict[str, str]:
        """What is switched off, and on which Python."""
        return {"python": sys.version.split()[0], "without": os.environ.get("LANPARTY_WITHOUT", "")}


class GuardStrict(Lanparty):
    """With the guard that is the default."""

    name = "guard-strict"
    house_options = ("--guard", "strict")


class GuardOff(Lanparty):
    """With a relay and a gateway that judge no frame."""

    name = "guard-off"
    house_options = ("--guard", "off")


class Vxlan(System):
    """Two tunnels of the kernel, joined by a bridge at the relay: what the same hops cost without any program."""

    name = "vxlan"
    cipher = "none (kernel VXLAN)"
    carrier = Carrier.KERNEL
    MTU: ClassVar[int] = 1450
    """1500 less outer IPv4, UDP, VXLAN and Ethernet headers."""

    def start_house(self) -> None:
        """As ``System``."""
        self.lab.bridge_gateway()
        self.lab.do("relay", "ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0")
        self.lab.do("relay", "ip link set br0 up")
        self._tunnel("relay", "vx1", 1, "player1", bridge="br0")
        self._tunnel("relay", "vx2", 2, "gateway", bridge="br0")
        self._tunnel("gateway", "vx2", 2, "relay", bridge="br0")

    def start_player(self, player: str) -> None:
        """As ``System``."""
        self._tunnel(player, self.interface, 1, "relay")

    def _tunnel(self, place: str, name: str, number: int, other: str, *, bridge: str | None = None) -> None:
        ends = f"remote {self.lab.wan_address(other)} local {self.lab.wan_address(place)}"
        # Super-frames would pass the tunnel whole, which no wire does.
        add = f"ip link add {name} gso_max_segs 1 gro_max_size 65536 type vxlan id {number} {ends} dstport 4789"
        self.lab.do(place, add)
        self.lab.do(place, f"ip link set {name} mtu {self.MTU} up")
        if bridge is not None:
            self.lab.do(place, f"ip link set {name} master {bridge}")


def last_match(pattern: str, lines: Sequence[str]) -> str:
    """The last line's match of a pattern's first group, or nothing."""
    found = [match[1] for line in lines if (match := re.search(pattern, line))]
    return found[-1] if found else ""
