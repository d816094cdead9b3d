"""What the LAN tests watch and poke with: observers, raw ports, Debian's tools, snapshots of a machine."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lanparty.demo import inside
from lanparty.demo.programs import Party, Program

T = TypeVar("T")

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
"""Debian keeps some tools out of a user's PATH."""
REQUIRED = os.environ.get("LANPARTY_LAN_REQUIRED") == "1" or os.environ.get("CI") == "true"

TUN_OPENS = os.access("/dev/net/tun", os.R_OK | os.W_OK)
KINDS = [pytest.param("tap", marks=pytest.mark.skipif(not TUN_OPENS, reason="/dev/net/tun does not open")), "veth"]
"""Of adapters, for whoever may not make one of them."""

ETH_P_ALL = 3


def need(tool: str) -> str:
    """The path of a tool; where it is missing the test is skipped, or fails where nothing may be skipped."""
    found = shutil.which(tool, path=PATH)
    if found is None:
        (pytest.fail if REQUIRED else pytest.skip)(f"{tool} is not installed")
    return str(found)


def poll(condition: Callable[[], T], timeout: float, what: str, interval: float = 0.05) -> T:
    """The first true value of ``condition()``; fails the test after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}")
        time.sleep(interval)


def run(namespace: str, *argv: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end inside a namespace."""
    tool = need(argv[0])
    done = subprocess.run(
        inside.command(namespace, [tool, *argv[1:]]), text=True, capture_output=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        pytest.fail(f"{namespace}: {' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


# ------------------------------------------------------------------------------------------------ ping


def ping(namespace: str, target: str, *, count: int = 3, size: int | None = None, timeout: int = 5) -> None:
    """Debian's ping; with a size also "do not fragment". Fails the test when an answer is missing."""
    extra = [] if size is None else ["-M", "do", "-s", str(size)]
    done = run(namespace, "ping", "-n", "-c", str(count), "-i", "0.05", "-w", str(timeout), *extra, target, check=False)
    if f" {count} received" not in done.stdout:
        pytest.fail(f"{namespace} → {target}: {done.stdout}{done.stderr}")


def answers(namespace: str, target: str, *, wait: float = 0.5) -> bool:
    """Whether one ping is answered."""
    return run(namespace, "ping", "-n", "-c", "1", "-W", str(wait), target, check=False).returncode == 0


def iperf_server(party: Party) -> Program:
    """iperf3 waiting at the LAN host for one client."""
    server = party.start("iperf3", "lan-host", [need("iperf3"), "-s", "-1", "-B", "192.168.77.1", "--forceflush"])
    poll(lambda: any("listening" in line for line in server.lines), 5, "iperf3 listens")
    return server


@contextmanager
def pinging(namespace: str, target: str, interval: float = 0.05) -> Iterator[Callable[[], tuple[int, int]]]:
    """Ping all the time, from the first answer on; calling the value ends it and gives (sent, received)."""
    argv = inside.command(namespace, [need("ping"), "-n", "-i", str(interval), "-W", "2", target])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    while "bytes from" not in (line := process.stdout.readline()):
        assert line, "ping ended"

    def finish() -> tuple[int, int]:
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=10)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", text)
        assert found is not None, text
        return int(found[1]), int(found[2])

    try:
        yield finish
    finally:
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------------------------ raw frames


class Observer:
    """Counts frames that come in at an interface. What the machine itself sends is not counted, unless asked for."""

    def __init__(self, namespace: str, interface: str, *, outgoing: bool = False) -> None:
        self.name = f"{namespace}/{interface}"
        self._outgoing = outgoing
        self._socket = inside.call(namespace, lambda: self._open(interface))
        self.frames: list[bytes] = []

    @staticmethod
    def _open(interface: str) -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        raw.bind((interface, ETH_P_ALL))
        raw.setblocking(False)
        return raw

    def collect(self) -> None:
        """Take in what has come since."""
        while True:
            try:
                frame, (_, _, direction, *_) = self._socket.recvfrom(65536)
            except BlockingIOError:
                return
            if self._outgoing or direction != socket.PACKET_OUTGOING:
                self.frames.append(frame)

    def count(self, marker: bytes) -> int:
        """How many frames with ``marker`` in them have come so far."""
        self.collect()
        return sum(marker in frame for frame in self.frames)

    def wait_for(self, marker: bytes, timeout: float = 5.0) -> bytes:
        """The first frame with ``marker`` in it; fails the test when none comes."""
        deadline = time.monotonic() + timeout
        while True:
            self.collect()
            for frame in self.frames:
                if marker in frame:
                    return frame
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                pytest.fail(f"{self.name} never saw {marker!r} ({len(self.frames)} other frames)")

    def close(self) -> None:
        self._socket.close()


@contextmanager
def observing(*where: tuple[str, str]) -> Iterator[list[Observer]]:
    observers = [Observer(*place) for place in where]
    try:
        yield observers
    finally:
        for observer in observers:
            observer.close()


def inject(namespace: str, interface: str, *frames: bytes) -> None:
    """Send frames out of an interface, as its own kernel would."""

    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind((interface, 0))
            for frame in frames:
                raw.send(frame)

    inside.call(namespace, work)


_marks = Counter[str]()


def marker(what: str = "") -> bytes:
    """Bytes that no other frame has."""
    _marks["all"] += 1
    return f"<lanparty {what} {_marks['all']} {os.urandom(6).hex()}>".encode()


# ------------------------------------------------------------------------------------------------ a machine's state

_VOLATILE = {"valid_life_time", "preferred_life_time", "ifindex", "link_index", "linkmode", "cacheinfo", "expires"}
_VOLATILE |= {"stats", "stats64", "operstate", "age", "used", "refcnt", "link_netnsid", "bytes", "packets", "drops"}
_VOLATILE |= {"overlimits", "requeues", "backlog", "qlen", "inet6_addr_gen_mode", "gso_max_size", "tentative"}
_VOLATILE |= {"gc_timer", "hello_timer", "tcn_timer", "topology_change_timer"}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in sorted(value.items()) if key not in _VOLATILE}
    if isinstance(value, list):
        return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def _sysctls() -> dict[str, str]:
    """Of the interfaces that are there for good, and of "all" and "default"."""
    found = {}
    for family in ("ipv4", "ipv6"):
        for name in ("all", "default", "wan0", "eth0"):
            for path in sorted(Path("/proc/sys/net", family, "conf", name).glob("*")):
                # stable_secret cannot be read unless set; nothing here sets it.
                if path.is_file() and path.name != "stable_secret":
                    found[str(path)] = path.read_text().strip()
    return found


def snapshot(namespace: str) -> dict[str, Any]:
    """Links (with MAC, MTU, flags, promiscuity), addresses, routes, rules, filters, settings, resolver of a machine."""
    asked = {
        "links": ["ip", "-j", "-d", "link"],
        "addresses": ["ip", "-j", "address"],
        "routes": ["ip", "-j", "-4", "route", "show", "table", "all"],
        "routes6": ["ip", "-j", "-6", "route", "show", "table", "all"],
        "rules": ["ip", "-j", "rule"],
        "qdiscs": ["tc", "-j", "qdisc"],
    }
    state = {name: _plain(json.loads(run(namespace, *argv).stdout or "[]")) for name, argv in asked.items()}
    for link in [link["ifname"] for link in state["links"]]:
        state[f"filters of {link}"] = run(namespace, "tc", "filter", "show", "dev", link, "ingress", check=False).stdout
    state["nft"] = run(namespace, "nft", "list", "ruleset").stdout
    state["settings"] = inside.call(namespace, _sysctls)
    state["resolver"] = Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else None
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a reader needs to see when two snapshots differ; empty when they do not."""
    found = []
    for name in sorted({*before, *after}):
        one, two = before.get(name), after.get(name)
        if one == two:
            continue
        if isinstance(one, list) and isinstance(two, list):
            gone, new = [item for item in one if item not in two], [item for item in two if item not in one]
            if len(gone) == len(new) == 1:  # one thing changed, most likely
                gone, new = [_unlike(gone[0], new[0])], [_unlike(new[0], gone[0])]
            found += [f"{name}: gone: {item}" for item in gone] + [f"{name}: new: {item}" for item in new]
        elif isinstance(one, dict) and isinstance(two, dict):
            keys = sorted({*one, *two})
            found += [f"{name}: {key}: {one.get(key)} → {two.get(key)}" for key in keys if one.get(key) != two.get(key)]
        else:
            found.append(f"{name}: {one!r} → {two!r}")
    return found


def _unlike(one: Any, two: Any) -> Any:
    """The part of ``one`` that differs from ``two``."""
    if not (isinstance(one, dict) and isinstance(two, dict)):
        return one
    return {key: _unlike(value, two.get(key)) for key, value in one.items() if value != two.get(key)}


def port_of(switch: str, bridge: str, address: str) -> str | None:
    """The port where a Linux bridge has learned a MAC, or None."""
    for entry in json.loads(run(switch, "bridge", "-j", "fdb", "show", "br", bridge).stdout or "[]"):
        if entry["mac"] == address and entry.get("state") != "permanent":
            return str(entry["ifname"])
    return None


def last_line(text: str | Sequence[str]) -> str:
    lines = text.strip().splitlines() if isinstance(text, str) else list(text)
    return lines[-1] if lines else ""
