"""``python -m lanparty.demo.bench``: the whole chain's numbers on this machine, beside those of other systems.

    player1 → client → relay → gateway → house-switch → lan-host     "up"; "down" is the other way

1. rounds: in each, one system after the other, ours first, each in a fresh lab (``bench_lab``, ``bench_systems``), so
   that what else the machine does meets all of them alike
2. per system the metrics that were asked for (``bench_measure``); of the relay alone the loads (``bench_load``)
3. medians and spreads, held against the goals and the others (``bench_table``); JSON after every system, as a whole run
   takes the better part of an hour; the tables at the end

Other systems are measured by the bench itself, not with a tool beside it: only the same cables, the same traffic and
the same minutes make a ratio mean something. Where a package is missing, its system is left out and named.

Owns: the order, the options, the JSON. Runs in the sandbox. All processes share this machine's cores with iperf3
itself, so compare the numbers with each other and with those of the same machine, not with data sheets.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import json
import os
import subprocess
import tempfile
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
from pyroute2.netlink.exceptions import NetlinkError

from lanparty.cli.options import IntRange, Parser
from lanparty.demo import bench_measure, bench_profile, sandbox
from lanparty.demo.bench_lab import Lab, others_use
from lanparty.demo.bench_load import LOADS, Load, measure_load
from lanparty.demo.bench_measure import METRICS, Bench, Sample
from lanparty.demo.bench_micro import run_micro
from lanparty.demo.bench_peers import Fastd, N2n, OpenVpn, QuickTun, Tinc
from lanparty.demo.bench_softether import SoftEther, SoftEtherTcp
from lanparty.demo.bench_systems import Carrier, GuardOff, GuardStrict, Lanparty, System, Vxlan
from lanparty.demo.bench_table import OURS, Number, Results, goals_table, guard_table, join, systems_table
from lanparty.obs.errors import LanpartyError, UsageError
from lanparty.obs.switches import VARIABLE, check_environment

__all__ = ["PEERS", "main", "peers_of", "results_from"]

PEERS: Final[Mapping[str, type[System]]] = {
    system.name: system for system in (Vxlan, OpenVpn, Tinc, Fastd, N2n, QuickTun, SoftEther, SoftEtherTcp)
}
PEER_METRICS: Final = ("ping", "tcp", "udp", "busy8", "loss", "memory")
"""What peers are measured for unless --only says otherwise: what a goal or the table of systems refers to."""

GUARD: Final = "guard"
"""Not a metric but a comparison: the guard on strict beside off, both up at once and measured in turns."""
GUARD_METRICS: Final = ("ping", "tcp", "udp")
GUARD_TURNS: Final = 4
"""Turns in a round. The pace of a shared machine changes by a third within a minute, the guard's price is some
hundredths: so each turn is short, both sides of it follow at once upon each other, and there are many."""

KINDS: Final[Mapping[str, type[System]]] = {
    OURS: Lanparty,
    **{kind.name: kind for kind in (GuardStrict, GuardOff)},
    **PEERS,
}
"""Every system that a result may have numbers of."""

ROUNDS: Final = 3
"""A median of fewer is none."""


@attrs.define
class _Run:
    """Everything measured so far."""

    options: Namespace
    peers: Sequence[type[System]]
    rounds: dict[str, list[Sample]] = attrs.field(factory=dict)
    facts: dict[str, dict[str, str]] = attrs.field(factory=dict)
    trails: list[dict[str, Any]] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)

    def measure(self) -> None:
        """All rounds. One system's failure is noted and does not end the others'."""
        options = self.options
        systems: list[type[System]] = [*([Lanparty] if options.ours else []), *self.peers]
        for number in range(1, options.rounds + 1):
            for system in systems:
                chosen = options.only or (METRICS if system is Lanparty else PEER_METRICS)
                metrics = [name for name in METRICS if name in chosen]
                if metrics:
                    self._attempt(number, system.name, partial(self._system, system, metrics))
            for load in LOADS.values() if options.ours else ():
                if not options.only or load.name in options.only:
                    self._attempt(number, load.name, partial(self._load, load))
            if options.only and GUARD in options.only:
                self._attempt(number, GUARD, self._guard)

    def _attempt(self, number: int, name: str, work: Callable[[], None]) -> None:
        _say(f"round {number} of {self.options.rounds}: {name} …")
        try:
            work()
        except (LanpartyError, NetlinkError, OSError, subprocess.SubprocessError) as error:
            self.problems.append(f"round {number}: {name}: {error}")
            _say(f"  {self.problems[-1]}")
        self.save()

    def _system(self, kind: type[System], metrics: Sequence[str]) -> None:
        sample: Sample = {"noise": others_use()}
        # Also what was measured before something failed.
        self.rounds.setdefault(kind.name, []).append(sample)
        with self._started(kind, bench_measure.QUICK if self.options.quick else bench_measure.FULL) as bench:
            for name in metrics:
                sample |= _measured(bench, name)

    def _guard(self) -> None:
        """Measure both sides of the guard's comparison in turns. A turn counts when both sides of it are whole."""
        kinds = (GuardStrict, GuardOff)
        with ExitStack() as stack:
            benches = [stack.enter_context(self._started(kind, bench_measure.QUICK)) for kind in kinds]
            for turn in range(GUARD_TURNS):
                samples: list[Sample] = [{}, {}]
                for name in GUARD_METRICS:
                    # Each is first every other time: neither always has the warmer or the quieter machine.
                    for side in (0, 1) if turn % 2 == 0 else (1, 0):
                        samples[side] |= _measured(benches[side], name)
                for kind, sample in zip(kinds, samples, strict=True):
                    self.rounds.setdefault(kind.name, []).append(sample)
                self.save()

    @contextmanager
    def _started(self, kind: type[System], durations: bench_measure.Durations) -> Iterator[Bench]:
        """A system that is up, in a lab of its own."""
        with Lab(gro=self.options.gro == "on") as lab, tempfile.TemporaryDirectory() as directory:
            lab.cut_direct()
            system = kind(lab, Path(directory))
            bench = Bench(lab, system, durations)
            try:
                system.start()
                yield bench
                self.facts[kind.name] = {"cipher": kind.cipher, **system.facts()}
            finally:
                system.stop()
                self.trails.append({"system": kind.name, **bench.trails})

    def _load(self, load: Load) -> None:
        seconds = 4.0 if self.options.quick else 10.0
        with Lab(gro=self.options.gro == "on") as lab, tempfile.TemporaryDirectory() as directory:
            sample = measure_load(lab, Path(directory), load, seconds=seconds)
        _say(f"  {load.name}: " + ", ".join(f"{key} {value:.4g}" for key, value in sample.items()))
        self.rounds.setdefault(OURS, []).append(sample)

    def document(self) -> dict[str, Any]:
        """What is written as JSON."""
        options = self.options
        joined = join(self.rounds)
        return {
            "machine": {
                "cores": os.cpu_count(),
                "kernel": os.uname().release,
                "python": sys.version.split()[0],
                "packages": _versions([package for peer in self.peers for package in peer.tools.values()]),
            },
            "settings": {
                "gro": options.gro,
                "quick": options.quick,
                "rounds": options.rounds,
                "without": os.environ.get(VARIABLE, ""),
            },
            "systems": {
                name: {
                    "carrier": KINDS[name].carrier.value,
                    "facts": self.facts.get(name, {}),
                    "numbers": {key: attrs.asdict(number) for key, number in numbers.items()},
                }
                for name, numbers in joined.items()
            },
            "searches": self.trails,
            "problems": self.problems,
        }

    def save(self) -> None:
        """Write the JSON as it is now."""
        _write(self.options.json, json.dumps(self.document(), indent=1) + "\n")


def _measured(bench: Bench, name: str) -> Sample:
    """One metric of a system that is up; said as well."""
    found = METRICS[name](bench)
    _say(f"  {bench.system.name} {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
    return found


def results_from(document: Mapping[str, Any]) -> Results:
    """What a JSON document of ours says, ready for tables. Raises UsageError for one that is not ours."""
    try:
        systems = document["systems"]
        numbers = {
            name: {
                key: Number(**(values | {"values": tuple(values["values"])}))
                for key, values in found["numbers"].items()
            }
            for name, found in systems.items()
        }
        carriers = {name: Carrier(system["carrier"]) for name, system in systems.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"this is no result of the bench: {error!r}") from error
    return Results(numbers, carriers)


def report(document: Mapping[str, Any]) -> str:
    """Both tables and what went wrong, as Markdown."""
    results = results_from(document)
    machine, settings = document["machine"], document["settings"]
    head = f"{machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}; GRO {settings['gro']}"
    head += f"; median of {settings['rounds']}" if settings["rounds"] > 1 else "; one round only"
    head += f"; without {settings['without']}" if settings["without"] else ""
    noise = [numbers["noise"].most for numbers in results.numbers.values() if "noise" in numbers]
    head += f"; others used up to {max(noise):.0f} % of the machine" if noise else ""
    parts = [head + "\n", goals_table(results), guard_table(results), systems_table(results)]
    parts += [f"- {problem}\n" for problem in document["problems"]]
    return "\n".join(part for part in parts if part)


def peers_of(choice: str, *, quick: bool) -> tuple[list[type[System]], list[str]]:
    """The peers to measure and a sentence for each left out, from --peers. Raises UsageError for a wrong name."""
    if choice == "none" or (choice == "installed" and quick):
        return [], []
    names = list(PEERS) if choice == "installed" else [name for name in choice.split(",") if name]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise UsageError(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    found, left_out = [], []
    for name in names:
        missing = PEERS[name].missing()
        if missing:
            left_out.append(f"{name} is left out: apt-get install {' '.join(missing)}")
        else:
            found.append(PEERS[name])
    return found, left_out


def _profile(program: str, *, gro: bool, seconds: float) -> str:
    """Where one program's time goes while TCP runs, each way."""
    py_spy = bench_profile.find_py_spy()
    tables = []
    for way in ("up", "down"):
        with Lab(gro=gro) as lab, tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            lab.cut_direct()
            system = Lanparty(lab, directory)
            output = directory / "profile"
            if py_spy is None:
                system.profile(program, bench_profile.cprofile_command(output))
            bench = Bench(lab, system, bench_measure.FULL)
            try:
                system.start()
                watch = None if py_spy is None else bench_profile.PySpy(py_spy, output)
                if watch is not None:
                    watch.start(system.processes()[program][0])
                bench.traffic(way, seconds)
                table = "" if watch is None else watch.finish()
            finally:
                system.stop()  # cProfile writes when its program ends
            table = table or bench_profile.cprofile_table(output)
            tables.append(f"## {program}, TCP {way}\n\n{table}")
    return "\n".join(tables)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Of Debian packages, where there is a dpkg."""
    try:
        argv = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *sorted({*packages, "iperf3"})]
        text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except OSError:
        return {}
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give another file") from error


def _metrics(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    known = [*METRICS, *LOADS, GUARD]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: metrics are {','.join(known)}")
    return names


def _parser() -> Parser:
    parser = Parser(prog="lanparty.demo.bench", description="Measure the whole chain, and its peers, on this machine.")
    add = parser.add_argument
    add(
        "--only",
        type=_metrics,
        metavar="METRICS",
        help=f"some of {','.join([*METRICS, *LOADS])}; default: all; or {GUARD}: strict beside off",
    )
    add("--rounds", type=IntRange(1, 100), metavar="N", help=f"default: {ROUNDS}; 1 with --quick")
    add("--quick", action="store_true", help="one round, shorter steps, no peers: rough numbers in three minutes")
    add(
        "--peers",
        default="installed",
        metavar="NAMES",
        help=f"some of {','.join(PEERS)}, or none; default: those that are installed",
    )
    add("--no-ours", action="store_false", dest="ours", help="measure peers only")
    add("--gro", choices=["on", "off"], default="on", help="merging of received frames on the cables; default: on")
    add("--json", type=Path, default=Path("bench-results.json"), metavar="FILE", help="write; default: %(default)s")
    add("--table", type=Path, metavar="FILE", help="write the tables, as Markdown, there too")
    add("--from", type=Path, metavar="FILE", dest="source", help="measure nothing: tables of an earlier run's JSON")
    add("--micro", action="store_true", help="only the engine's micro-benchmarks, per packet and frame size")
    add(
        "--profile",
        choices=bench_profile.PROGRAMS,
        help="only this: where one program's time goes under TCP (py-spy if installed, else cProfile)",
    )
    return parser


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} is no result of the bench")
    return document


def _measure(options: Namespace) -> int:
    """Everything that needs the sandbox; gives the exit status."""
    if options.profile:
        sys.stdout.write(_profile(options.profile, gro=options.gro == "on", seconds=4.0 if options.quick else 10.0))
        return 0
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    peers, left_out = peers_of(options.peers, quick=options.quick)
    for sentence in left_out:
        _say(sentence)
    run = _Run(options, peers)
    run.measure()
    text = report(run.document())
    sys.stdout.write(text)
    if options.table is not None:
        _write(options.table, text)
    return 1 if run.problems else 0


def main(argv: Sequence[str]) -> int:
    """The exit status: 1 when something could not be measured. Missed goals are in the table only."""
    try:
        check_environment()
        options = _parser().parse_args(argv)
        if options.source is not None:
            sys.stdout.write(report(_read(options.source)))
            return 0
        if options.micro:
            printed, problems = run_micro()
            sys.stdout.write(printed)
            for problem in problems:
                _say(problem)
            return 0
        if not sandbox.is_inside():
            return sandbox.run([sys.executable, "-m", "lanparty.demo.bench", *argv])
        return _measure(options)
    except LanpartyError as error:
        sys.stderr.write(f"lanparty.demo.bench: error: {error}\n")
        return error.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
