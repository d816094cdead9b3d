"""The programs as services: units, sandbox, privileges, and what they tell the service manager."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from lan_tools import answers, differences, need, ping, poll, snapshot
from unit_sandbox import USER, has_users

pytestmark = pytest.mark.lan

UNITS = Path(__file__).parents[2] / "docs" / "systemd"
UNIT_SANDBOX = Path(__file__).with_name("unit_sandbox.py")
HOUSE = "192.168.77.1"

# docs/operations.md names these figures.
EXPOSURE = {"lanparty-relay.service": 1.7, "lanparty-gateway@.service": 2.3, "lanparty-client.service": 2.3}
NET_BIND_SERVICE, NET_ADMIN, NET_RAW = 1 << 10, 1 << 12, 1 << 13
ADAPTER = NET_ADMIN | NET_RAW


# ------------------------------------------------------------------------------------------------ units


def test_no_unit_is_forgotten():
    assert {unit.name for unit in UNITS.glob("*.service")} == set(EXPOSURE)


@pytest.mark.parametrize("name", EXPOSURE)
def test_the_unit_is_understood(tmp_path, name):
    """With the path of a Python that is there."""
    unit = tmp_path / name.replace("@", "@eth0")
    text = (UNITS / name).read_text()
    unit.write_text(
        re.sub("^Documentation=.*\n", "", text, flags=re.MULTILINE).replace("/opt/lanparty/bin/python", sys.executable)
    )
    done = subprocess.run(
        [need("systemd-analyze"), "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", EXPOSURE)
def test_the_sandbox_is_as_tight_as_it_says(name):
    threshold = f"--threshold={round(EXPOSURE[name] * 10)}"
    argv = [need("systemd-analyze"), "security", "--offline=yes", "--no-pager", threshold, str(UNITS / name)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) == EXPOSURE[name]


# ------------------------------------------------------------------------------------------------ processes


@attrs.frozen
class Status:
    """What /proc says of a process's privileges."""

    effective: int
    permitted: int
    bounding: int
    inheritable: int
    ambient: int
    no_new_privs: int
    seccomp: int
    user: int

    @classmethod
    def of(cls, pid: int) -> Status:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        sets = [int(found[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")]
        return cls(*sets, *(int(found[name][0]) for name in ("NoNewPrivs", "Seccomp", "Uid")))

    def has_only(self, capabilities: int) -> bool:
        """Whether nothing but these is left, or can be got again."""
        left = self.effective == self.permitted == capabilities and not self.inheritable | self.ambient
        # Who had no CAP_SETPCAP could not shrink the bounding set; no_new_privs keeps it from being used.
        return left and bool(self.no_new_privs)


def test_each_program_gives_up_what_it_does_not_need(own_lan):
    """Started as root, which is what people do."""
    lan = own_lan
    for program, kept in (
        (lan.relay, 0),
        (lan.gateway, ADAPTER),
        *((player, ADAPTER) for player in lan.players.values()),
    ):
        status = Status.of(program.pid)
        assert status.has_only(kept), (program, status)
        assert status.bounding == kept
        for task in Path(f"/proc/{program.pid}/task").iterdir():
            assert Status.of(int(task.name)).effective == kept


def test_what_a_client_without_dhcp_needs(own_party):
    own_party.start_relay()
    client = own_party.start_client("--adapter", "tap", "--address", "192.168.77.60/24", wait_for="client.address")
    assert Status.of(client.pid).has_only(NET_ADMIN)
    assert client.stop() == 0


def test_a_relay_of_root_becomes_another_user(own_party):
    if not has_users():  # a normal user's sandbox: the refusal is all that can be seen
        relay = own_party.start_relay("--user", "nobody", wait=False)
        assert relay.wait_ended() == 5
        return
    relay = own_party.start_relay("--user", "nobody")
    status = Status.of(relay.pid)
    assert status.has_only(0)
    assert status.user == 65534
    assert Path(f"/proc/{relay.pid}/status").stat().st_uid == 0  # and it cannot be looked into by another of that user
    own_party.start_gateway()
    assert relay.stop() == 0


def test_an_identity_in_a_players_home(own_party, public):
    """As with sudo: root without capabilities may not look in there, so it is read before. It stays the player's."""
    if not has_users():  # a normal user's sandbox
        return
    own_party.start_relay()
    home = public / "home"
    home.mkdir(mode=0o700)
    identity = home / "identity.json"
    identity.write_text('{"version": 1, "virtual_mac": "02:12:34:56:78:9a"}\n')
    for path in (identity, home):
        os.chown(path, 1000, 1000)
    client = own_party.start_client(identity=identity, wait_for="client.joined")
    assert client.stop() == 0
    assert '"version": 2' in identity.read_text()
    found = identity.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1000, 1000, 0o600)


class Manager:
    """The service manager's end of the notify socket of one program."""

    def __init__(self, directory: Path, name: str) -> None:
        self.address = directory / f"notify-{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self.address))
        self.address.chmod(0o777)
        self.heard: list[dict[str, str]] = []

    def environment(self, watchdog: float) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.address), "WATCHDOG_USEC": str(int(watchdog * 1e6))}

    def collect(self) -> list[dict[str, str]]:
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return self.heard
            self.heard.append(dict(line.split("=", 1) for line in data.decode().split("\n")))

    def wait_for(self, key: str, *, since: int = 0, timeout: float = 10) -> dict[str, str]:
        def look() -> list[dict[str, str]]:
            return [message for message in self.collect()[since:] if key in message]

        return poll(look, timeout, f"{key}= at {self.address.name}")[0]


@pytest.fixture
def public():
    """A directory that a user without privileges can read."""
    path = Path("/run/lanparty-test")
    path.mkdir(mode=0o755, exist_ok=True)
    yield path
    shutil.rmtree(path)


def start_unit(party, manager, unit, place, role, *options):
    """A program in what its unit puts around it."""
    argv = [sys.executable, UNIT_SANDBOX, UNITS / unit, sys.executable, "-m", f"lanparty.{role}", *options]
    argv += ["--log-format", "json", "--log-level", "debug"]
    return party.start(place, place, argv, environment=manager.environment(watchdog=1))


def test_a_party_of_services(own_party, public):
    """Readiness, status, watchdog; under the units' filters, without a root user, through a network card that goes away
    and comes back, a reload and a stop."""
    need("systemd-analyze")
    party, house = own_party, own_party.house
    before = {place: snapshot(house.at(place)) for place in ("gateway", "player1")}
    managers = {name: Manager(public, name) for name in ("relay", "gateway", "player1")}
    certificate = public / "relay-cert.der"
    public.chmod(0o777)  # what StateDirectory= gives
    own = ["--listen", "443/udp", "--dev-cert-der-out", certificate, "--stats-interval", "1"]
    relay = start_unit(party, managers["relay"], "lanparty-relay.service", "relay", "relay", *own)
    assert managers["relay"].wait_for("READY")["STATUS"].startswith("Listening on ")
    certificate.chmod(0o644)
    to_relay = ["--relay", f"{house.relay_address}:443", "--server-name", "lanparty-relay.local", "--room", "ROOM1"]
    to_relay += ["--relay-ca-cert", certificate]
    gateway = start_unit(
        party, managers["gateway"], "lanparty-gateway@.service", "gateway", "gateway", *to_relay, "--interface", "eth0"
    )
    assert managers["gateway"].wait_for("READY")["STATUS"].startswith("Bridging eth0 with room ROOM1")
    identity = ["--identity", public / "identity.json"]
    client = start_unit(
        party, managers["player1"], "lanparty-client.service", "player1", "client", *to_relay, *identity
    )
    assert managers["player1"].wait_for("READY")["STATUS"].startswith("In room ROOM1 as peer ")
    client.wait_for("client.address")
    ping(house.at("player1"), HOUSE)
    ping(house.at("lan-host"), client.named("client.address")[-1]["address"])

    programs = {"relay": (relay, 0), "gateway": (gateway, ADAPTER), "player1": (client, ADAPTER)}
    for name, (program, kept) in programs.items():
        status = Status.of(program.pid)
        assert status.has_only(kept), (name, status)
        assert status.seccomp == 2  # a filter
        assert status.user == (USER if has_users() else 0)
        heard = len(managers[name].collect())
        managers[name].wait_for("WATCHDOG", since=heard)
        managers[name].wait_for("WATCHDOG", since=len(managers[name].heard))

    # What needs the capabilities again.
    house.set_link(house.at("gateway"), "eth0", state="down")
    gateway.wait_for("gateway.lan-down", 5)
    poll(lambda: "is down or gone" in _status(managers["gateway"]), 5, "the status says so")
    house.set_link(house.at("gateway"), "eth0", state="up")
    poll(lambda: answers(house.at("player1"), HOUSE), 5, "player1 reaches the house")
    ping(house.at("player1"), "192.168.77.2")  # by the helper interface, made anew

    # Reload.
    mark = len(managers["relay"].collect())
    os.kill(relay.pid, signal.SIGHUP)
    reloading = managers["relay"].wait_for("RELOADING", since=mark)
    assert abs(int(reloading["MONOTONIC_USEC"]) / 1e6 - time.monotonic()) < 30
    managers["relay"].wait_for("READY", since=mark)
    assert not relay.named("program.reload-refused")
    ping(house.at("player1"), HOUSE)

    # A loop that does not turn does not say that it turns.
    os.kill(relay.pid, signal.SIGSTOP)
    managers["relay"].collect()
    stopped = len(managers["relay"].heard)
    time.sleep(1.5)
    assert managers["relay"].collect()[stopped:] == []
    os.kill(relay.pid, signal.SIGCONT)

    for name in ("player1", "gateway", "relay"):
        mark = len(managers[name].collect())
        assert programs[name][0].stop() == 0
        assert managers[name].wait_for("STOPPING", since=mark)["STOPPING"] == "1"
    for place, state in before.items():
        assert differences(state, snapshot(house.at(place))) == []


def _status(manager):
    return [message["STATUS"] for message in manager.collect() if "STATUS" in message][-1]
