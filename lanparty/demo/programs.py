"""Starts programs in the virtual house as their users start them, and follows what they say.

Owns: child processes, the thread that reads each one's JSON lines, waiting for an event with a deadline, the command
lines of relay, gateway, client and DHCP server (``Party``).
Must not know: how the programs work, what is measured.

Every program dies with the process that started it (parent-death signal, see ``inside``). Programs must be started
from the main thread, because that signal comes when the *thread* that forked ends (prctl(2)).
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import attrs

from lanparty.demo import inside
from lanparty.demo.house import LAN_INTERFACE, House
from lanparty.obs.errors import LanpartyError

__all__ = ["Event", "Lease", "Party", "Program", "ProgramFailedError"]

Event = Mapping[str, Any]
"""One JSON line of a program: ``event``, ``message`` and the event's fields."""

START_TIMEOUT: Final = 20.0
"""Seconds that a program may take to be usable. Usually one; a busy machine with two cores takes several."""

STOP_TIMEOUT: Final = 10.0
"""Seconds between SIGTERM and SIGKILL. The programs promise five (faults.md, 33)."""

SERVER_NAME: Final = "lanparty-relay.local"
LEASE_SECONDS: Final = 3600
FIRST_LEASE, LAST_LEASE = "192.168.77.100", "192.168.77.199"


class ProgramFailedError(LanpartyError):
    """A program ended, or kept silent, where an event was awaited. The text has its last words."""


class Program:
    """One running program.

    ``events`` grows as the program speaks; other lines (dnsmasq's) are kept in ``lines``. Both are appended by one
    reader thread and never change otherwise, so reading them needs no lock. ``on_event`` is called in that thread.
    """

    def __init__(
        self,
        label: str,
        namespace: str,
        argv: Sequence[str | os.PathLike[str]],
        *,
        on_event: Callable[[str, Event], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.label = label
        self.namespace = namespace
        self.argv = [os.fspath(part) for part in argv]
        self.events: list[Event] = []
        self.lines: list[str] = []
        self._on_event = on_event
        self._news = threading.Condition()
        self._silent = False
        self._process = subprocess.Popen(
            inside.command(namespace, argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the demo, which stops its programs in order
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {label}", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        return f"<Program {self.label} pid {self.pid}>"

    @property
    def pid(self) -> int:
        """Process id, in this process-id namespace."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def named(self, name: str, *, since: int = 0) -> list[Event]:
        """The events of one name so far, from index ``since`` of ``events`` on."""
        return [event for event in self.events[since:] if event.get("event") == name]

    def wait_for(self, name: str, timeout: float = START_TIMEOUT, *, since: int = 0, **fields: Any) -> Event:
        """The first event ``name`` with these fields, from index ``since`` of ``events`` on.

        Raises ``ProgramFailedError`` when it does not come in ``timeout`` seconds, or when the program ends first.
        """
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                ended = self._silent
                for event in self.named(name, since=since):
                    if all(event.get(key) == value for key, value in fields.items()):
                        return event
                left = deadline - time.monotonic()
                if ended:
                    raise ProgramFailedError(f"{self.label} ended before '{name}': {self.last_words()}")
                if left <= 0:
                    raise ProgramFailedError(f"{self.label} did not say '{name}' in {timeout:g} s: {self.last_words()}")
                self._news.wait(left)

    def wait_ended(self, timeout: float = STOP_TIMEOUT) -> int:
        """Its exit status, once it ends by itself. Raises ``ProgramFailedError`` when it does not in ``timeout`` s."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProgramFailedError(f"{self.label} still runs after {timeout:g} s: {self.last_words()}") from None
        self._reader.join(STOP_TIMEOUT)
        return status

    def stop(self, number: int = signal.SIGTERM, timeout: float = STOP_TIMEOUT) -> int:
        """Ask it to end, insist after ``timeout`` seconds, give its exit status (negative: ended by a signal)."""
        if self.running:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self.wait_ended()

    def kill(self) -> int:
        """End it as a power cut would."""
        return self.stop(signal.SIGKILL)

    def last_words(self, count: int = 4) -> str:
        """The last few sentences, for a message to a person."""
        said = [str(event.get("message", event)) for event in self.events[-count:]] + self.lines[-count:]
        return " | ".join(said) or "(it said nothing)"

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        for line in stream:
            self._hear(line.decode(errors="replace").rstrip())
        stream.close()
        with self._news:
            self._silent = True
            self._news.notify_all()

    def _hear(self, line: str) -> None:
        event = _event(line)
        with self._news:
            if event is None:
                self.lines.append(line)
            else:
                self.events.append(event)
            self._news.notify_all()
        if event is not None and self._on_event is not None:
            self._on_event(self.label, event)


def _event(line: str) -> Event | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


@attrs.frozen
class Lease:
    """One line of the DHCP server's lease file (dnsmasq's format)."""

    mac: str
    address: str


class Party:
    """Relay, gateway, players and the house's DHCP server in a ``House``, with the contract's command lines.

    ``directory`` takes certificates, identities and leases. A context manager: on exit everything that still runs is
    asked to stop, players first, as people would leave. ``programs`` has what was started, in that order.
    """

    def __init__(
        self,
        house: House,
        directory: Path,
        *,
        on_event: Callable[[str, Event], None] | None = None,
        log_level: str = "info",
    ) -> None:
        self.house = house
        self.directory = directory
        self.certificate = directory / "relay-cert.der"
        self.lease_file = directory / "leases"
        self._on_event = on_event
        self._log_level = log_level
        self.programs: list[Program] = []
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Party:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every program, the last started first."""
        while self.programs:
            self.programs.pop().stop()

    def kill(self) -> None:
        """End every program at once, without goodbyes."""
        while self.programs:
            self.programs.pop().kill()

    def start(
        self,
        label: str,
        place: str,
        argv: Sequence[str | os.PathLike[str]],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start any program at a place; it is stopped with the party."""
        program = Program(label, self.house.at(place), argv, on_event=self._on_event, environment=environment)
        self.programs.append(program)
        return program

    def start_python(self, label: str, place: str, module: str, *arguments: str | os.PathLike[str]) -> Program:
        """Start one of our programs at a place, by ``python -m``."""
        log = ["--log-format", "json", "--log-level", self._log_level]
        return self.start(label, place, [sys.executable, "-m", module, *arguments, *log])

    def start_dhcp_server(self, *, lease_seconds: int = LEASE_SECONDS, own: bool = False) -> Program:
        """The house's DHCP server on ``lan-host``: dnsmasq where installed (and not ``own``), else the demo's own."""
        dnsmasq = None if own else shutil.which("dnsmasq", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if dnsmasq is not None:
            argv = dnsmasq_command(dnsmasq, self.lease_file, lease_seconds)
        else:
            argv = [
                *(sys.executable, "-m", "lanparty.demo.dhcpserver", "--interface", LAN_INTERFACE),
                *("--address", "192.168.77.1/24", "--first", FIRST_LEASE, "--last", LAST_LEASE),
                *("--lease-seconds", str(lease_seconds), "--lease-file", str(self.lease_file)),
            ]
        return self.start("DHCP server", "lan-host", argv)

    def start_relay(self, *options: str | os.PathLike[str], place: str = "relay", wait: bool = True) -> Program:
        """The relay, with a development certificate at ``self.certificate`` (kept over restarts)."""
        must = ["--listen", "443/udp", "--dev-cert-der-out", os.fspath(self.certificate)]
        relay = self.start_python("relay", place, "lanparty.relay", *must, *options)
        if wait:
            relay.wait_for("relay.listening")
        return relay

    def start_gateway(
        self,
        *options: str | os.PathLike[str],
        place: str = "gateway",
        interface: str = LAN_INTERFACE,
        room: str = "ROOM1",
        wait: bool = True,
    ) -> Program:
        """A gateway in ``place``; returns when it bridges."""
        must = [*self._to_relay(room), "--interface", interface]
        gateway = self.start_python("gateway", place, "lanparty.gateway", *must, *options)
        if wait:
            gateway.wait_for("gateway.bridging")
        return gateway

    def start_client(
        self,
        *options: str | os.PathLike[str],
        place: str = "player1",
        room: str = "ROOM1",
        identity: Path | None = None,
        wait_for: str | None = "client.address",
    ) -> Program:
        """A player's client; returns when it has said ``wait_for``."""
        identity = identity or self.identity(place)
        must = [*self._to_relay(room), "--identity", identity, "--display-name", place]
        client = self.start_python(place, place, "lanparty.client", *must, *options)
        if wait_for is not None:
            client.wait_for(wait_for)
        return client

    def identity(self, place: str) -> Path:
        """Where a player keeps the identity: in a directory of their own, as on machines of their own."""
        directory = self.directory / place
        directory.mkdir(exist_ok=True)
        return directory / "lanparty-client-identity.json"

    def _to_relay(self, room: str) -> list[str | os.PathLike[str]]:
        address = self.house.relay_address
        relay = f"[{address}]:443" if ":" in address else f"{address}:443"
        return ["--relay", relay, "--server-name", SERVER_NAME, "--relay-ca-cert", self.certificate, "--room", room]

    def leases(self) -> list[Lease]:
        """What the DHCP server has written down."""
        if not self.lease_file.exists():
            return []
        rows = [line.split() for line in self.lease_file.read_text(encoding="ascii").splitlines()]
        return [Lease(mac=row[1], address=row[2]) for row in rows if len(row) >= 4]


def dnsmasq_command(dnsmasq: str, lease_file: Path, lease_seconds: int) -> list[str]:
    """dnsmasq as nothing but a DHCP server, not as a daemon, with none of the machine's own configuration."""
    return [
        *(dnsmasq, "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--port=0", "--user=root", "--log-dhcp"),
        *(f"--dhcp-leasefile={lease_file}", f"--interface={LAN_INTERFACE}", "--bind-interfaces", "--no-ping"),
        *(f"--dhcp-range={FIRST_LEASE},{LAST_LEASE},255.255.255.0,{lease_seconds}", "--dhcp-authoritative"),
        # What a home router says; a player must not take it over unless asked to.
        *("--dhcp-option=option:router,192.168.77.1", "--dhcp-option=option:dns-server,192.168.77.1"),
    ]
