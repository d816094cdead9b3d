"""The bench's numbers joined over rounds, held against the goals and against the other systems, as Markdown.

Three tables: the goals (ours, spread, best peer, ratio, reached or not), the guard's price where it was asked for, and
all systems beside each other. A number is the median of its rounds; the spread is their smallest and largest.

Owns: the goals of issue 3, the guard's of issue 4, and the arithmetic. Must not know: how a number came about.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs

from lanparty.demo.bench_measure import Sample
from lanparty.demo.bench_systems import Carrier, GuardOff, GuardStrict

__all__ = ["GOALS", "OURS", "Goal", "Number", "Results", "goals_table", "guard_table", "join", "systems_table"]

OURS: Final = "lanparty"
STREAM_PEER: Final = "softether-tcp"
GUARD_GOAL: Final = 0.9
"""Throughput with the guard on strict, as a part of that with it off, at least (issue 4)."""


@attrs.frozen
class Number:
    """One metric of one system over all rounds."""

    median: float
    least: float
    most: float
    values: tuple[float, ...]


@attrs.frozen
class Results:
    """All systems' numbers, by name; and what each carries its frames in."""

    numbers: Mapping[str, Mapping[str, Number]]
    carriers: Mapping[str, Carrier]

    def ours(self, key: str) -> Number | None:
        """Our number, or None when it was not measured."""
        return self.numbers.get(OURS, {}).get(key)

    def peers(self, key: str, carriers: Iterable[Carrier]) -> dict[str, float]:
        """The medians of the others that put frames in one of these."""
        wanted = set(carriers)
        return {
            name: numbers[key].median
            for name, numbers in self.numbers.items()
            if name != OURS and self.carriers.get(name) in wanted and key in numbers
        }


def join(rounds: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, Number]]:
    """Median, smallest and largest of each metric of each system. Metrics that only some rounds have count there."""
    joined: dict[str, dict[str, Number]] = {}
    for name, samples in rounds.items():
        keys = dict.fromkeys(key for sample in samples for key in sample)
        for key in keys:
            values = tuple(sample[key] for sample in samples if key in sample and not math.isnan(sample[key]))
            if values:
                number = Number(statistics.median(values), min(values), max(values), values)
                joined.setdefault(name, {})[key] = number
    return joined


# ------------------------------------------------------------------------------------------------ goals


@attrs.frozen
class Bound:
    """What a goal asks for in this run."""

    text: str
    value: float | None
    """None: what it refers to was not measured."""
    peer: str = ""
    """Name and number of the peer that it refers to."""
    ratio: float | None = None
    """Ours to what it refers to."""


BoundOf = Callable[[Results, str, float], Bound]
"""(results, key, our median) -> bound."""


def fixed(limit: float, unit: str, sign: str = "≤") -> BoundOf:
    """A number that stands by itself."""
    return lambda _results, _key, _ours: Bound(f"{sign} {limit:g}{unit}", limit)


def peers(factor: float, *, best: Callable[[Iterable[float]], float], sign: str = "≥", only: str = "") -> BoundOf:
    """A multiple of the best peer that carries frames in datagrams, or of the one named."""

    def bound(results: Results, key: str, ours: float) -> Bound:
        what = only or "best datagram peer"
        text = f"{sign} {factor:g} × {what}"
        found = results.peers(key, Carrier if only else [Carrier.DATAGRAMS])
        if only:
            found = {name: value for name, value in found.items() if name == only}
        if not found:
            return Bound(text, None)
        value = best(found.values())
        name = next(name for name, other in found.items() if other == value)
        return Bound(text, factor * value, f"{name} {_number(value)}", ours / value if value else None)

    return bound


def own(other: str, *, factor: float = 1.0, plus: float = 0.0, sign: str, text: str) -> BoundOf:
    """Something that refers to another number of ours."""

    def bound(results: Results, _key: str, ours: float) -> Bound:
        reference = results.ours(other)
        if reference is None:
            return Bound(f"{sign} {text}", None)
        ratio = None if plus else ours / reference.median if reference.median else None
        return Bound(f"{sign} {text}", factor * reference.median + plus, "", ratio)

    return bound


@attrs.frozen
class Goal:
    """One row."""

    label: str
    key: str
    bound: BoundOf
    at_least: bool
    unit: str = ""

    def reached(self, ours: float, bound: Bound) -> bool | None:
        """Whether it is; None when that cannot be said."""
        if bound.value is None:
            return None
        return ours >= bound.value if self.at_least else ours <= bound.value


def _goals() -> list[Goal]:
    goals = []
    ways = {"up": "client → house", "down": "house → client"}
    for way, text in ways.items():
        key = f"tcp_{way}_mbit"
        goals += [
            Goal(f"TCP {text}", key, peers(2, best=max), at_least=True, unit=" Mbit/s"),
            Goal(f"TCP {text}", key, peers(1.2, best=max, only=STREAM_PEER), at_least=True, unit=" Mbit/s"),
        ]
    for way, text in ways.items():
        without = own(f"tcp_{way}_mbit", factor=0.8, sign="≥", text="0.8 × without loss")
        goals.append(Goal(f"TCP {text}, 1 % lost", f"loss_{way}_mbit", without, at_least=True, unit=" Mbit/s"))
    for way, text in ways.items():
        label = f"UDP of 200 bytes {text}, < 1 % lost"
        goals.append(Goal(label, f"udp_{way}_pps", peers(1.5, best=max), at_least=True, unit=" /s"))
    for way, text in ways.items():
        half = peers(0.5, best=min, sign="≤")
        goals.append(Goal(f"CPU of the programs, {text}", f"tcp_{way}_cpu", half, at_least=False, unit=" s/GB"))
    goals.append(Goal("idle ping, p50", "ping_p50_ms", fixed(0.8, " ms"), at_least=False, unit=" ms"))
    goals.append(Goal("idle ping, p99", "ping_p99_ms", fixed(1.6, " ms"), at_least=False, unit=" ms"))
    full = {"busy8": "8 flows", "busy4": "4 flows", "busy1": "1 flow", "other": "8 flows of another member"}
    for name, flows in full.items():
        for way, text in ways.items():
            label, key = f"20 Mbit/s uplink filled by {flows}, {text}", f"{name}_{way}"
            idle = own("ping_p99_ms", plus=6.0, sign="≤", text="idle + 6 ms")
            goals.append(Goal(f"{label}: ping p99", f"{key}_p99_ms", idle, at_least=False, unit=" ms"))
            goals.append(Goal(f"{label}: link used", f"{key}_link", fixed(85, " %", "≥"), at_least=True, unit=" %"))
    for name, text in (("room32", "1 room of 32, 128 frames/s each"), ("rooms500", "500 rooms of 4, 30 frames/s each")):
        limit = fixed(0.1, " %") if name == "room32" else fixed(0.0, " %")
        goals.append(Goal(f"relay, {text}: frames lost", f"{name}_loss", limit, at_least=False, unit=" %"))
        if name == "room32":
            goals.append(
                Goal(f"relay, {text}: delay p99", f"{name}_p99_ms", fixed(5, " ms"), at_least=False, unit=" ms")
            )
            goals.append(Goal(f"relay, {text}: CPU", f"{name}_relay_cpu", fixed(100, " %"), at_least=False, unit=" %"))
        else:
            each = fixed(60, " KiB", "<")
            goals.append(
                Goal(f"relay, {text}: memory per member", f"{name}_member_kib", each, at_least=False, unit=" KiB")
            )
    for role in ("relay", "gateway", "client"):
        often, cpu = f"idle_{role}_wakeups", f"idle_{role}_cpu"
        goals.append(Goal(f"idle {role}: wake-ups", often, fixed(2, " /s"), at_least=False, unit=" /s"))
        goals.append(Goal(f"idle {role}: CPU", cpu, fixed(0.3, " %", "<"), at_least=False, unit=" %"))
    return goals


GOALS: Final[Sequence[Goal]] = tuple(_goals())


# ------------------------------------------------------------------------------------------------ tables


def goals_table(results: Results) -> str:
    """Every goal that something was measured for; nothing when there is none."""
    rows = [["what", "goal", "lanparty", "spread", "best peer", "ratio", "reached"]]
    for goal in GOALS:
        ours = results.ours(goal.key)
        if ours is None:
            continue
        bound = goal.bound(results, goal.key, ours.median)
        reached = goal.reached(ours.median, bound)
        rows.append(
            [
                goal.label,
                bound.text,
                _number(ours.median) + goal.unit,
                f"{_number(ours.least)}–{_number(ours.most)}",
                bound.peer or "–",
                "–" if bound.ratio is None else f"{bound.ratio:.2f}",
                {True: "yes", False: "NO", None: "?"}[reached],
            ]
        )
    return _markdown(rows) if len(rows) > 1 else ""


_COLUMNS: Final = (
    ("TCP Mbit/s", ("tcp_up_mbit", "tcp_down_mbit")),
    ("CPU s/GB", ("tcp_up_cpu", "tcp_down_cpu")),
    ("machine s/GB", ("tcp_up_machine", "tcp_down_machine")),
    ("200-byte packets/s", ("udp_up_pps", "udp_down_pps")),
    ("ping p50 / p99 ms", ("ping_p50_ms", "ping_p99_ms")),
    ("ping p99 ms, full uplink", ("busy8_up_p99_ms", "busy8_down_p99_ms")),
    ("… payload Mbit/s", ("busy8_up_mbit", "busy8_down_mbit")),
    ("TCP Mbit/s, 1 % lost", ("loss_up_mbit", "loss_down_mbit")),
)


_GUARDED: Final = (
    ("TCP client → house, Mbit/s", "tcp_up_mbit", True),
    ("TCP house → client, Mbit/s", "tcp_down_mbit", True),
    ("200-byte packets/s client → house", "udp_up_pps", True),
    ("200-byte packets/s house → client", "udp_down_pps", True),
    ("CPU of the relay, client → house, s/GB", "tcp_up_cpu_relay", False),
    ("CPU of the relay, house → client, s/GB", "tcp_down_cpu_relay", False),
    ("idle ping p50, ms", "ping_p50_ms", False),
    ("idle ping p99, ms", "ping_p99_ms", False),
)
"""Label, key, and whether it is a throughput, which has a goal."""


def guard_table(results: Results) -> str:
    """The guard on strict against off; nothing when it was not measured.

    The ratio is the median of each turn's own: the two sides of one turn have the machine's same pace, all of them have
    not. The spread is that of the middle half of the turns: what a single turn says is the machine's doing.
    """
    strict, off = (results.numbers.get(name, {}) for name in (GuardStrict.name, GuardOff.name))
    rows = [["guard", "off", "strict", "strict / off", "middle half", "goal", "reached"]]
    for label, key, throughput in _GUARDED:
        if key not in strict or key not in off:
            continue
        ratios = [mine / other for mine, other in zip(strict[key].values, off[key].values, strict=False) if other]
        if not ratios:
            continue
        ratio = statistics.median(ratios)
        rows.append(
            [
                label,
                _number(off[key].median),
                _number(strict[key].median),
                f"{ratio:.2f}",
                f"{_quantile(ratios, 1):.2f}–{_quantile(ratios, 3):.2f}",
                f"≥ {GUARD_GOAL:g}" if throughput else "–",
                "–" if not throughput else "yes" if ratio >= GUARD_GOAL else "NO",
            ]
        )
    return _markdown(rows) if len(rows) > 1 else ""


def _quantile(values: Sequence[float], quarter: int) -> float:
    """The first or third quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")[quarter - 1] if len(values) > 1 else values[0]


def systems_table(results: Results) -> str:
    """All systems: pairs are up / down unless the column says otherwise. Nothing when nothing of it was measured."""
    wanted = {key for _, keys in _COLUMNS for key in keys}
    shown = [name for name, numbers in results.numbers.items() if wanted & numbers.keys()]
    columns = [(title, keys) for title, keys in _COLUMNS if any(keys[0] in results.numbers[name] for name in shown)]
    rows = [["system", *(title for title, _ in columns)]]
    for name in shown:
        numbers = results.numbers[name]
        rows.append([name, *(" / ".join(_median(numbers.get(key)) for key in keys) for _, keys in columns)])
    return _markdown(rows) if len(rows) > 1 else ""


def _median(number: Number | None) -> str:
    return "–" if number is None else _number(number.median)


def _number(value: float) -> str:
    """Three digits, and no more than a reader needs: 1234, 123, 12.3, 1.23, 0.012."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if abs(value) >= 0.01 else f"{value:.3f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
