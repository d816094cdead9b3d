"""The bench's house: the demo's, with cables that carry real frames, and tools to disturb and to watch it.

- TSO, GSO and checksum offload are off at both ends of every cable, so that each frame is one that a wire could carry:
  a queue of 100 ms, a loss of 1 % and a packet's cost then mean what they mean outside. GRO, which merges frames where
  they are received, is on, as real network cards have it; ``gro=False`` is for comparison with older results.
- IPv6 is off in every namespace: its neighbour discovery and router solicitations are not what is measured.
- Everything else is ``House``. One lab is used by one system in one round, and then thrown away.

Owns: offloads, shaping (tbf), random loss and cut paths (nft), bytes sent by an interface, CPU and memory of processes.
Must not know: which system runs in it, what is measured.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import array
import fcntl
import itertools
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lanparty.demo import inside
from lanparty.demo.house import INTERNET, PLACES, SWITCH, House, port_name, set_sysctl
from lanparty.obs.errors import LanpartyError

__all__ = [
    "GATEWAY_MAC",
    "LAN_HOST",
    "PATH",
    "PLAYER_ADDRESSES",
    "UPLINK_MBIT",
    "UPLINK_SHAPE",
    "Lab",
    "Uplink",
    "cpu_seconds",
    "descendants",
    "end_processes",
    "machine_seconds",
    "memory",
    "others_use",
    "wake_ups",
]

LAN_HOST: Final = "192.168.77.1"
PLAYER_ADDRESSES: Final = {"player1": "192.168.77.51", "player2": "192.168.77.52"}
GATEWAY_MAC: Final = next(place.lan_mac for place in PLACES if place.name == "gateway")

PATH: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
"""Debian keeps root's tools out of a user's PATH."""

UPLINK_MBIT: Final = 20
UPLINK_SHAPE: Final = ("tbf", "rate", f"{UPLINK_MBIT}mbit", "burst", "16kb", "latency", "100ms")
"""A home's uplink with the buffer that its modem has."""

# linux/ethtool.h: one command each, as ETHTOOL_SFEATURES' bit numbers differ between kernels.
_SET_TX_CHECKSUM, _SET_TSO, _SET_GSO, _SET_GRO = 0x17, 0x1F, 0x24, 0x2C
_SIOCETHTOOL: Final = 0x8946

Uplink = tuple[str, str]
"""A place and an interface there whose sending is to be slow."""

_prefixes = (f"b{number}-" for number in itertools.count())


class Lab(House):
    """A house to measure in; a context manager like its base."""

    def __init__(self, *, gro: bool) -> None:
        super().__init__(prefix=next(_prefixes))
        self._gro = gro

    def __enter__(self) -> Lab:
        super().__enter__()
        return self

    def _build(self) -> None:
        super()._build()
        for place in PLACES:
            if place.lan_address is not None:
                self.real_cable(place.name, "eth0", SWITCH)
            if place.wan_number is not None:
                self.real_cable(place.name, "wan0", INTERNET)

    def add_namespace(self, place: str) -> str:
        """Make a namespace without IPv6."""
        name = super().add_namespace(place)
        for which in ("all", "default"):
            set_sysctl(name, f"net.ipv6.conf.{which}.disable_ipv6", "1")
        return name

    def wan_addresses(self, number: int) -> list[str]:
        """Give the IPv4 address of the place with this number."""
        return super().wan_addresses(number)[:1]

    def wan_address(self, place: str) -> str:
        """Give the internet address of a place."""
        number = next(other.wan_number for other in PLACES if other.name == place)
        assert number is not None
        return self.wan_addresses(number)[0]

    def real_cable(self, place: str, interface: str, switch: str) -> None:
        """Switch offloads at both ends of a cable."""
        for name, device in ((self.at(place), interface), (self.at(switch), port_name(place))):
            inside.call(name, lambda device=device: _set_offloads(device, gro=self._gro))  # type: ignore[misc]

    # ------------------------------------------------------------------------------------------ doing

    def run(self, place: str, *argv: str | os.PathLike[str], stdin: str | None = None, timeout: float = 60.0) -> str:
        """What a tool prints at a place. Raises LanpartyError when it fails."""
        done = subprocess.run(
            inside.command(self.at(place), list(argv)),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PATH": PATH},
        )
        if done.returncode:
            text = (done.stderr.strip() or done.stdout.strip())[-300:]
            raise LanpartyError(f"{place}: {' '.join(map(str, argv))}: status {done.returncode}: {text}")
        return done.stdout

    def do(self, place: str, command: str) -> None:
        """Run a command of plain words at a place. Raises LanpartyError when it fails."""
        self.run(place, *command.split())

    def bridge_gateway(self) -> None:
        """Join the gateway's card and what will be added to ``br0``, as systems want it that do not read a card."""
        address = next(place.lan_address for place in PLACES if place.name == "gateway")
        self.do("gateway", "ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0")
        self.do("gateway", f"ip link set br0 address {GATEWAY_MAC} up")
        self.do("gateway", "ip address flush dev eth0")
        self.do("gateway", "ip link set eth0 master br0")
        self.do("gateway", f"ip address add {address}/24 dev br0")

    def add_tap(self, place: str, name: str, *, mtu: int = 1500, bridge: str | None = None) -> None:
        """Make a TAP that stays, for a program that opens it by name."""
        self.do(place, f"ip tuntap add dev {name} mode tap")
        self.do(place, f"ip link set {name} mtu {mtu} up")
        if bridge is not None:
            self.do(place, f"ip link set {name} master {bridge}")

    def cut_direct(self) -> None:
        """Forbid players and gateway each other's internet addresses: relayed means relayed."""
        for place, others in (
            ("gateway", ("player1", "player2")),
            ("player1", ("gateway",)),
            ("player2", ("gateway",)),
        ):
            addresses = ", ".join(self.wan_address(other) for other in others)
            rule = f'iifname "wan0" ip saddr {{ {addresses} }} drop'
            self._nft(place, "cut", f"type filter hook input priority 0; {rule}")

    def block_udp(self, place: str) -> None:
        """Let no UDP from the internet reach a place."""
        self._nft(place, "noudp", 'type filter hook input priority 0; iifname "wan0" meta l4proto udp drop')

    @contextmanager
    def losing(self, per_mille: int) -> Iterator[None]:
        """Lose this many of a thousand packets that come in at the relay, at random."""
        rule = f'iifname "wan0" numgen random mod 1000 < {per_mille} drop'
        self._nft("relay", "loss", f"type filter hook prerouting priority -300; {rule}")
        try:
            yield
        finally:
            self.run("relay", "nft", "delete", "table", "inet", "loss")

    @contextmanager
    def shaped(self, uplink: Uplink) -> Iterator[None]:
        """Make a place's way out as slow as a home's (``UPLINK_SHAPE``)."""
        place, interface = uplink
        self.run(place, "tc", "qdisc", "replace", "dev", interface, "root", *UPLINK_SHAPE)
        try:
            yield
        finally:
            self.run(place, "tc", "qdisc", "del", "dev", interface, "root")

    def _nft(self, place: str, table: str, chain: str) -> None:
        self.run(place, "nft", "-f", "-", stdin=f"table inet {table} {{\n chain c {{\n {chain}\n }}\n}}\n")

    # ------------------------------------------------------------------------------------------ watching

    def sent_bytes(self, uplink: Uplink) -> int:
        """Bytes that an interface has sent, Ethernet headers included: what a tbf on it counts, and has let out."""
        place, interface = uplink
        # "thread-self": /proc/net is that of the process's first thread, which has not moved.
        text = inside.call(self.at(place), lambda: Path("/proc/thread-self/net/dev").read_text(encoding="ascii"))
        found = re.search(rf"^\s*{re.escape(interface)}:(.*)$", text, re.MULTILINE)
        if found is None:
            raise LookupError(f"no interface {interface} at {place}")
        return int(found[1].split()[8])


def _set_offloads(interface: str, *, gro: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command, value in ((_SET_TSO, 0), (_SET_GSO, 0), (_SET_TX_CHECKSUM, 0), (_SET_GRO, int(gro))):
            request = array.array("I", [command, value])
            data = struct.pack("16sP16x", interface.encode(), request.buffer_info()[0])
            fcntl.ioctl(any_socket, _SIOCETHTOOL, data)


# ------------------------------------------------------------------------------------------------ processes


def _fields(pid: int) -> list[str] | None:
    """proc_pid_stat(5) from field 3 on; None when the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendants(pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _fields(int(entry.name))) is not None:
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:  # grows while it is walked
        found += parents.get(one, [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes so far, all threads (fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        fields = _fields(pid)
        if fields is not None:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def machine_seconds() -> float:
    """CPU time that anything took on the whole machine, soft interrupts and the hypervisor's share included."""
    values = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = values
    return (user + nice + system + irq + softirq + steal) / float(os.sysconf("SC_CLK_TCK"))


def others_use() -> float:
    """Percent of the machine that others use in a second in which we do nothing."""
    began, busy = time.monotonic(), machine_seconds()
    time.sleep(1.0)
    return 100 * (machine_seconds() - busy) / (time.monotonic() - began) / (os.cpu_count() or 1)


def wake_ups(pids: Iterable[int]) -> tuple[int, float]:
    """How often the threads of processes went to sleep so far (and so were woken), and their CPU seconds to the
    nanosecond.

    Zeros where the kernel does not count.
    """
    sleeps, nanoseconds = 0, 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            try:
                found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (thread / "status").read_text(), re.MULTILINE)
                sleeps += int(found[1]) if found else 0
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return sleeps, nanoseconds / 1e9


def memory(pids: Iterable[int]) -> dict[str, int]:
    """Resident memory of processes now and at most, in KiB."""
    total = {"now": 0, "peak": 0}
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for key, name in (("now", "VmRSS"), ("peak", "VmHWM")):
            found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
            total[key] += int(found[1]) if found else 0
    return total


def end_processes(pids: Sequence[int], number: int, patience: float = 3.0) -> None:
    """Send a signal to processes and wait until they have gone, or for ``patience`` seconds."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(_alive(pid) for pid in pids):
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    fields = _fields(pid)
    return fields is not None and fields[0] != "Z"
