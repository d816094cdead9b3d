"""``python -m lanparty.demo.bench``: the whole chain's numbers on this machine.

    player1 → client → relay → gateway → house-switch → lan-host     "up"; "down" is the other way

1. idle ping: 50th and 99th percentile
2. TCP throughput both ways (iperf3), with the CPU seconds per gigabyte of payload that each program used meanwhile
3. UDP with 200 bytes of payload both ways: highest offered rate with less than 1 % loss, by doubling, then bisection
4. resident memory of each program, after all that

Owns: the order, the search, the table, the JSON. Runs in the sandbox, in the demo's house. All processes share this
machine's cores with iperf3 itself, so compare the numbers with each other and with those of the same machine, not with
data sheets. Needs iperf3.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from lanparty.cli.options import Parser
from lanparty.demo import inside, sandbox
from lanparty.obs.errors import LanpartyError, MachineError, UsageError

__all__ = ["Rate", "main", "search_rate", "table"]

LAN_HOST: Final = "192.168.77.1"
PORT: Final = 5201
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

    A step that loses only somewhat more than allowed has a second chance: the machine is noisy.
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


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads (proc_pid_stat(5): fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def memory(pid: int) -> dict[str, int]:
    """Resident memory now and at most, in kilobytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"now": int(values["VmRSS"]), "peak": int(values["VmHWM"])}


@attrs.frozen
class _Bench:
    """iperf3 between two namespaces, with the programs that carry it."""

    iperf3: str
    player: str
    host: str
    pids: Mapping[str, int]
    quick: bool

    def iperf(self, *options: str, seconds: float) -> tuple[dict[str, Any], dict[str, float]]:
        """iperf3's JSON and the CPU seconds of each program meanwhile."""
        server = subprocess.Popen(
            inside.command(self.host, [self.iperf3, "-s", "-1", "-B", LAN_HOST, "-p", str(PORT), "--forceflush"]),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            while "listening" not in server.stdout.readline():
                if server.poll() is not None:
                    raise MachineError("iperf3 does not listen in the house: try 'iperf3 -s' by hand")
            argv = [self.iperf3, "-c", LAN_HOST, "-p", str(PORT), "-t", str(seconds), "-J", *options]
            before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
            done = subprocess.run(
                inside.command(self.player, argv), capture_output=True, text=True, timeout=seconds + 30, check=False
            )
            used = {name: cpu_seconds(pid) - before[name] for name, pid in self.pids.items()}
        finally:
            server.kill()
            server.communicate()
        result: dict[str, Any] = json.loads(done.stdout or "{}")
        if "error" in result or "end" not in result:
            raise LanpartyError(f"iperf3 {' '.join(options)} failed: {result.get('error') or done.stderr.strip()}")
        return result, used

    def tcp(self, *options: str) -> dict[str, Any]:
        """Throughput and CPU, one way."""
        result, used = self.iperf(*options, seconds=3 if self.quick else 8)
        received = result["end"]["sum_received"]
        gigabytes = received["bytes"] / 1e9
        return {
            "mbit_per_s": received["bits_per_second"] / 1e6,
            "retransmits": result["end"]["sum_sent"].get("retransmits"),
            "cpu_s_per_gb": {name: seconds / gigabytes for name, seconds in used.items()} if gigabytes else {},
        }

    def udp(self, *options: str) -> dict[str, Any]:
        """The search for the packet rate, one way."""
        good, trail = search_rate(lambda offered: self._udp_step(offered, options))
        return {
            "packets_per_s": good.received if good else 0,
            "loss": good.loss if good else None,
            "trail": [attrs.asdict(step) for step in trail],
        }

    def _udp_step(self, offered: int, options: Sequence[str]) -> Rate:
        buffer = ["-w", str(SOCKET_BUFFER)] if _buffer_limit() >= SOCKET_BUFFER else []
        bits = offered * PAYLOAD * 8
        result, _ = self.iperf(
            *("-u", "-l", str(PAYLOAD), "-b", str(bits), *buffer, *options), seconds=1 if self.quick else 2
        )
        total = result["end"]["sum"]
        packets, lost, seconds = total["packets"], total["lost_packets"], total["seconds"] or 1
        got = max(0, packets - lost)
        return Rate(offered, round(packets / seconds), round(got / seconds), lost / packets if packets else 1.0)


def _buffer_limit() -> int:
    """What a normal socket may have; iperf3 fails when it asks for more than it gets."""
    limits = [Path(f"/proc/sys/net/core/{name}_max") for name in ("rmem", "wmem")]
    return min(int(path.read_text(encoding="ascii")) if path.exists() else 0 for path in limits)


def measure(*, quick: bool) -> dict[str, Any]:
    """Everything, in the order of the module's map. Must run in the sandbox."""
    # Only now: pyroute2 takes its time to import, and exists on Linux only.
    from lanparty.demo.house import House
    from lanparty.demo.probes import ping
    from lanparty.demo.programs import Party

    iperf3 = shutil.which("iperf3")
    if iperf3 is None:
        raise MachineError("iperf3 is not installed: apt-get install iperf3")
    with House() as house, Party(house, Path("/run/lanparty-bench"), log_level="warning") as party:
        party.start_dhcp_server()
        programs = {"relay": party.start_relay(wait=False)}
        _await_file(party.certificate)
        programs["gateway"] = party.start_gateway(wait=False)
        programs["client"] = party.start_client(wait_for=None)
        _await_answer(house.at("player1"))
        pids = {name: program.pid for name, program in programs.items()}
        bench = _Bench(iperf3, house.at("player1"), house.at("lan-host"), pids, quick)
        pings = ping(house.at("player1"), LAN_HOST, count=200 if quick else 1000, interval=0.01)
        result: dict[str, Any] = {
            "machine": {"cores": os.cpu_count(), "kernel": os.uname().release, "python": sys.version.split()[0]},
            "ping": {
                "lost": pings.lost,
                "p50_ms": pings.milliseconds(50),
                "p99_ms": pings.milliseconds(99),
            },
        }
        for name, options in (("up", ()), ("down", ("-R",))):
            _say(f"TCP {name} …")
            result[f"tcp_{name}"] = bench.tcp(*options)
        for name, options in (("up", ()), ("down", ("-R",))):
            _say(f"UDP {name} …")
            result[f"udp_{name}"] = bench.udp(*options)
        result["memory_kb"] = {name: memory(pid) for name, pid in pids.items()}
        return result


def _await_file(path: Path, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            raise LanpartyError("the relay does not start: try the demo (python -m lanparty.demo), which says why")
        time.sleep(0.02)


def _await_answer(player: str, timeout: float = 20.0) -> None:
    """At log level "warning" the programs say nothing while all is well, and spend nothing on saying it."""
    from lanparty.demo.probes import ping

    deadline = time.monotonic() + timeout
    while True:
        try:
            if not ping(player, LAN_HOST, count=1, wait=0.2).lost:
                return
        except OSError:
            time.sleep(0.05)  # no route to the house yet
        if time.monotonic() > deadline:
            raise LanpartyError("the house never answered: try the demo (python -m lanparty.demo), which says why")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def table(result: Mapping[str, Any]) -> str:
    """The numbers for a person."""
    ping, megabyte = result["ping"], 1024
    rows = [
        ("idle ping", f"p50 {ping['p50_ms']:.2f} ms, p99 {ping['p99_ms']:.2f} ms, {ping['lost']} lost"),
    ]
    for way, arrow in (("up", "player → house"), ("down", "house → player")):
        tcp, udp = result[f"tcp_{way}"], result[f"udp_{way}"]
        cpu = tcp["cpu_s_per_gb"]
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in cpu.items())
        rows += [
            (f"TCP, {arrow}", f"{tcp['mbit_per_s']:.0f} Mbit/s"),
            ("  CPU seconds per gigabyte", f"{sum(cpu.values()):.1f} ({parts})"),
            (f"UDP, {arrow}", f"{udp['packets_per_s']} packets/s of {PAYLOAD} bytes with < 1 % loss"),
        ]
    for name, size in result["memory_kb"].items():
        text = f"{size['now'] / megabyte:.0f} MiB resident, {size['peak'] / megabyte:.0f} MiB at most"
        rows.append((f"memory of the {name}", text))
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name.ljust(width)}  {value}\n" for name, value in rows)


def _write(path: Path, result: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give another file with --json") from error


def main(argv: Sequence[str]) -> int:
    """The exit status."""
    parser = Parser(prog="lanparty.demo.bench", description="Measure the whole chain on this machine.")
    parser.add_argument("--quick", action="store_true", help="shorter runs, rougher numbers, about a minute")
    parser.add_argument(
        "--json", type=Path, default=Path("bench-results.json"), metavar="FILE", help="write (default: %(default)s)"
    )
    try:
        options = parser.parse_args(argv)
        if not sandbox.is_inside():
            return sandbox.run([sys.executable, "-m", "lanparty.demo.bench", *argv])
        result = measure(quick=options.quick)
        sys.stdout.write(table(result))
        _write(options.json, result)
    except LanpartyError as error:
        sys.stderr.write(f"lanparty.demo.bench: error: {error}\n")
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
