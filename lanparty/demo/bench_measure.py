"""The bench's measurements of one system in one lab: what a player and the people in the house would notice.

Each gives a ``Sample``: numbers by flat names, which ``bench_table`` joins over rounds and compares:

    ping       ping_{p50,p99}_ms, ping_lost
    tcp        tcp_{up,down}_{mbit,cpu,machine}, tcp_{up,down}_cpu_{relay,gateway,client}     seconds per gigabyte
    udp        udp_{up,down}_pps                     200-byte packets per second with less than 1 % loss
    busyN      busyN_{up,down}_{p50_ms,p99_ms,lost,link,mbit}      N TCP flows fill an uplink of 20 Mbit/s
    other      other_{up,down}_...                   the same with 8 flows of another member, the first pings
    loss       loss_{up,down}_mbit                   1 % of the packets lost on their way to the relay
    idle       idle_{relay,gateway,client}_{wakeups,cpu}           per second; percent of a core
    memory     memory_{relay,gateway,client}_{now,peak}            KiB

"up" is from the player to the house, "down" the other way. iperf3 and ping share the machine's cores with everything
else: compare the numbers with each other and with the same machine's, not with data sheets.

Owns: traffic and arithmetic. Must not know: which system carries it, goals, rounds.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from lanparty.demo import inside
from lanparty.demo.bench_lab import (
    LAN_HOST,
    PLAYER_ADDRESSES,
    UPLINK_MBIT,
    Lab,
    Uplink,
    cpu_seconds,
    machine_seconds,
    memory,
    wake_ups,
)
from lanparty.demo.bench_systems import System, find
from lanparty.demo.house import INTERNET, port_name
from lanparty.demo.probes import percentile
from lanparty.obs.errors import LanpartyError, MachineError

__all__ = ["METRICS", "Bench", "Durations", "Rate", "Sample", "parse_ping", "search_rate"]

Sample = dict[str, float]

PAYLOAD: Final = 200
"""Bytes of UDP payload: what a busy shooter sends per update."""
LOSS_LIMIT: Final = 0.01
START_RATE: Final = 4000
END_RATE: Final = 260_000
"""Packets per second. Above it iperf3 itself is the limit on any machine that this was tried on."""
PRECISION: Final = 1.1
"""The bisection ends when the bounds are this close."""
SHORT: Final = 0.93
"""Where the sender manages less than this part of the offered rate, the machine is at its end: more is not offered."""
SOCKET_BUFFER: Final = 2 << 20
"""Bytes. iperf3's receiver shares the cores with everything else and must not be what loses packets."""

PING_INTERVAL: Final = 0.010
BUSY_PING_INTERVAL: Final = 0.020
"""Seconds. Beside a full uplink: 50 pings of 98 bytes a second are 0.2 % of it."""
FILL_TIME: Final = 3.5
"""Seconds from the bulk's start to the first ping: TCP's slow start, and the time that a queue of 100 ms needs to show
what it will do."""


@attrs.frozen
class Durations:
    """How long each measurement takes."""

    tcp: float
    """Seconds."""
    udp_step: float
    pings: int
    busy_pings: int
    idle: float


FULL: Final = Durations(tcp=6.0, udp_step=2.0, pings=400, busy_pings=300, idle=20.0)
QUICK: Final = Durations(tcp=3.0, udp_step=1.0, pings=200, busy_pings=150, idle=5.0)


# ------------------------------------------------------------------------------------------------ search


@attrs.frozen
class Rate:
    """One step of the search."""

    offered: int
    sent: int
    """Packets per second that iperf3 managed to send."""
    received: int
    loss: float
    """As a fraction."""


def search_rate(measure: Callable[[int], Rate]) -> tuple[Rate | None, list[Rate]]:
    """The best step with less loss than the limit (None: not even the first), and all steps.

    Doubling, then bisection. A step that loses only somewhat more than allowed has a second chance: the machine is
    noisy.
    """
    trail: list[Rate] = []

    def attempt(offered: int) -> Rate:
        result = measure(offered)
        if LOSS_LIMIT <= result.loss < 10 * LOSS_LIMIT:
            result = min(result, measure(offered), key=lambda rate: rate.loss)
        trail.append(result)
        return result

    good: Rate | None = None
    bad = 0
    offered = START_RATE
    while offered <= END_RATE and not bad:
        result = attempt(offered)
        if result.loss < LOSS_LIMIT:
            good = result
        if result.loss >= LOSS_LIMIT or result.sent < SHORT * offered:
            bad = offered
        offered *= 2
    while good is not None and bad > good.offered * PRECISION:
        result = attempt(int((good.offered * bad) ** 0.5))
        if result.loss < LOSS_LIMIT:
            good = result
        else:
            bad = result.offered
    return good, trail


# ------------------------------------------------------------------------------------------------ measuring


@attrs.define
class Bench:
    """Measures one system that is up."""

    lab: Lab
    system: System
    durations: Durations
    trails: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)
    """Every step of the searches, for the record."""
    _port: int = 5201

    # -- metrics

    def ping(self) -> Sample:
        """Idle ping."""
        self._ping(20, PING_INTERVAL)  # ARP, and buffers that exist only after the first packet
        times, lost = self._ping(self.durations.pings, PING_INTERVAL)
        return {"ping_p50_ms": percentile(times, 50), "ping_p99_ms": percentile(times, 99), "ping_lost": lost}

    def tcp(self) -> Sample:
        """Throughput both ways, and what it costs the programs and the whole machine."""
        sample: Sample = {}
        for way in ("up", "down"):
            machine = machine_seconds()
            result, used = self._iperf(way, seconds=self.durations.tcp)
            machine = machine_seconds() - machine
            received = result["end"]["sum_received"]
            gigabytes = received["bytes"] / 1e9 or float("nan")
            sample[f"tcp_{way}_mbit"] = received["bits_per_second"] / 1e6
            sample[f"tcp_{way}_cpu"] = sum(used.values()) / gigabytes
            sample[f"tcp_{way}_machine"] = machine / gigabytes
            sample |= {f"tcp_{way}_cpu_{role}": seconds / gigabytes for role, seconds in used.items()}
        return sample

    def loss(self) -> Sample:
        """Throughput while one of a hundred packets to the relay is lost."""
        sample: Sample = {}
        with self.lab.losing(10):
            for way in ("up", "down"):
                result, _ = self._iperf(way, seconds=self.durations.tcp)
                sample[f"loss_{way}_mbit"] = result["end"]["sum_received"]["bits_per_second"] / 1e6
        return sample

    def udp(self) -> Sample:
        """The highest packet rate with little loss, both ways."""
        sample: Sample = {}
        for way in ("up", "down"):
            good, trail = search_rate(partial(self._udp_step, way))
            sample[f"udp_{way}_pps"] = good.received if good else 0
            self.trails.setdefault(f"udp_{way}", []).append({"steps": [attrs.asdict(step) for step in trail]})
        return sample

    def busy(self, flows: int) -> Sample:
        """Ping beside a full uplink: the house's for what goes down, the player's for what goes up."""
        uplinks = {"up": ("player1", "wan0"), "down": ("gateway", "wan0")}
        return self._busy(f"busy{flows}", flows, "player1", uplinks)

    def other(self) -> Sample:
        """The same with the bulk in another member's name.

        Going up, two members share an uplink: the 20 Mbit/s are at the cable to the relay, so that everything that
        goes there waits in one queue.
        """
        if len(self.system.players) < 2:
            return {}
        self.system.join("player2")
        try:
            uplinks = {"up": (INTERNET, port_name("relay")), "down": ("gateway", "wan0")}
            return self._busy("other", 8, "player2", uplinks)
        finally:
            self.system.leave("player2")

    def idle(self) -> Sample:
        """Wake-ups per second and CPU of each program while nothing is sent."""
        time.sleep(1.0)  # what ended just now still closes connections and expires tables
        began, before = time.monotonic(), {role: wake_ups(pids) for role, pids in self._roles().items()}
        time.sleep(self.durations.idle)
        after, took = {role: wake_ups(pids) for role, pids in self._roles().items()}, time.monotonic() - began
        sample: Sample = {}
        for role in before:
            sample[f"idle_{role}_wakeups"] = (after[role][0] - before[role][0]) / took
            sample[f"idle_{role}_cpu"] = 100 * (after[role][1] - before[role][1]) / took
        return sample

    def memory(self) -> Sample:
        """Resident memory of each program: useful after the rest."""
        sizes = {role: memory(pids) for role, pids in self._roles().items()}
        return {f"memory_{role}_{when}": size[when] for role, size in sizes.items() for when in ("now", "peak")}

    # -- traffic

    def traffic(self, way: str, seconds: float) -> None:
        """TCP as fast as it goes, for somebody who measures otherwise."""
        self._iperf(way, seconds=seconds)

    def _roles(self) -> dict[str, list[int]]:
        return {role: pids for role, pids in self.system.processes().items() if role != "client2"}

    def _iperf(self, way: str, *options: str, seconds: float) -> tuple[dict[str, Any], dict[str, float]]:
        """iperf3's JSON and the CPU seconds of each role meanwhile."""
        with self._server() as port:
            argv = self._client(port, way, seconds, *options)
            roles = self._roles()
            before = {role: cpu_seconds(pids) for role, pids in roles.items()}
            done = subprocess.run(
                inside.command(self.lab.at("player1"), argv),
                capture_output=True,
                text=True,
                timeout=seconds + 30,
                check=False,
            )
            used = {role: cpu_seconds(pids) - before[role] for role, pids in roles.items()}
        return _iperf_result(done.stdout, done.stderr), used

    def _client(self, port: int, way: str, seconds: float, *options: str) -> list[str]:
        reverse = ["-R"] if way == "down" else []
        return [_iperf3(), "-c", LAN_HOST, "-p", str(port), "-t", f"{seconds:g}", "-J", *reverse, *options]

    @contextmanager
    def _server(self) -> Iterator[int]:
        """iperf3 in the house, for one client, at a port of its own: the last one's may still be busy."""
        self._port += 1
        argv = [_iperf3(), "-s", "-1", "-B", LAN_HOST, "-p", str(self._port), "--forceflush"]
        server = subprocess.Popen(
            inside.command(self.lab.at("lan-host"), argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert server.stdout is not None
            while "listening" not in server.stdout.readline():
                if server.poll() is not None:
                    raise MachineError("iperf3 does not listen in the house: try 'iperf3 -s' by hand")
            yield self._port
        finally:
            server.kill()
            server.communicate()

    def _udp_step(self, way: str, offered: int) -> Rate:
        buffer = ["-w", str(SOCKET_BUFFER)] if _buffer_limit() >= SOCKET_BUFFER else []
        options = ["-u", "-l", str(PAYLOAD), "-b", str(offered * PAYLOAD * 8), *buffer]
        result, _ = self._iperf(way, *options, seconds=self.durations.udp_step)
        total = result["end"]["sum"]
        packets, lost, seconds = total["packets"], total["lost_packets"], total["seconds"] or 1
        got = max(0, packets - lost)
        return Rate(offered, round(packets / seconds), round(got / seconds), lost / packets if packets else 1.0)

    def _ping(self, count: int, interval: float) -> tuple[list[float], int]:
        """Round-trip times in milliseconds by Debian's ping, which has the kernel's time; and how many never came."""
        deadline = count * interval + 5
        argv = [_tool("ping", "iputils-ping"), "-n", "-c", str(count), "-i", f"{interval:g}"]
        argv += ["-W", "2", "-w", f"{deadline:.0f}", LAN_HOST]
        done = subprocess.run(
            inside.command(self.lab.at("player1"), argv),
            capture_output=True,
            text=True,
            timeout=deadline + 10,
            check=False,
        )
        times = parse_ping(done.stdout)
        if not times:
            raise LanpartyError(
                f"{self.system.name}: no ping was answered: {(done.stdout + done.stderr).strip()[-200:]}"
            )
        return times, max(0, count - len(times))

    def _busy(self, name: str, flows: int, bulk_of: str, uplinks: dict[str, Uplink]) -> Sample:
        sample: Sample = {}
        for way, uplink in uplinks.items():
            with self.lab.shaped(uplink), self._bulk(bulk_of, way, flows):
                time.sleep(FILL_TIME)
                before, began = self.lab.sent_bytes(uplink), time.monotonic()
                times, lost = self._ping(self.durations.busy_pings, BUSY_PING_INTERVAL)
                bits, took = (self.lab.sent_bytes(uplink) - before) * 8, time.monotonic() - began
            sample |= {
                f"{name}_{way}_p50_ms": percentile(times, 50),
                f"{name}_{way}_p99_ms": percentile(times, 99),
                f"{name}_{way}_lost": lost,
                f"{name}_{way}_link": 100 * bits / took / (UPLINK_MBIT * 1e6),
                f"{name}_{way}_mbit": self._goodput,
            }
            time.sleep(0.5)  # what is still under way belongs to this case
        return sample

    _goodput: float = attrs.field(default=float("nan"), init=False)
    """Mbit/s of payload of the last bulk that ended."""

    @contextmanager
    def _bulk(self, player: str, way: str, flows: int) -> Iterator[None]:
        """TCP as fast as it goes for as long as the block takes, and a little longer."""
        seconds = FILL_TIME + self.durations.busy_pings * BUSY_PING_INTERVAL + 1.5
        # Bound to the address: a second player's interface must be the one that is used.
        options = ["-P", str(flows), "-B", PLAYER_ADDRESSES[player]]
        with self._server() as port:
            process = subprocess.Popen(
                inside.command(self.lab.at(player), self._client(port, way, seconds, *options)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                yield
                output, errors = process.communicate(timeout=seconds + 20)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        # Counted over its whole life, slow start included.
        self._goodput = _iperf_result(output, errors)["end"]["sum_received"]["bits_per_second"] / 1e6


METRICS: Final[dict[str, Callable[[Bench], Sample]]] = {
    "ping": Bench.ping,
    "tcp": Bench.tcp,
    "udp": Bench.udp,
    "busy8": lambda bench: bench.busy(8),
    "busy4": lambda bench: bench.busy(4),
    "busy1": lambda bench: bench.busy(1),
    "other": Bench.other,
    "loss": Bench.loss,
    "idle": Bench.idle,
    "memory": Bench.memory,
}
"""In the order in which they are measured."""


def parse_ping(text: str) -> list[float]:
    """The round-trip times, in milliseconds, in what ping printed. Duplicates count once."""
    found = re.findall(r"icmp_seq=\d+ ttl=\d+ time=([\d.]+) ms(?! \(DUP!\))", text)
    return [float(time) for time in found]


def _iperf_result(output: str, errors: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(output or "{}")
    except ValueError:
        result = {}
    if "error" in result or "end" not in result:
        raise LanpartyError(f"iperf3 failed: {result.get('error') or errors.strip() or 'it printed nothing'}")
    return result


def _buffer_limit() -> int:
    """What a normal socket may have; iperf3 fails when it asks for more than it gets."""
    limits = [Path(f"/proc/sys/net/core/{name}_max") for name in ("rmem", "wmem")]
    return min(int(path.read_text(encoding="ascii")) if path.exists() else 0 for path in limits)


def _iperf3() -> str:
    return _tool("iperf3", "iperf3")


def _tool(name: str, package: str) -> str:
    found = find(name)
    if found is None:
        raise MachineError(f"{name} is not installed: apt-get install {package}")
    return found
