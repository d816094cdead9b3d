"""``python -m lanparty.demo.soak``: one full room under steady load for minutes; is anything lost, does memory grow?

1. a relay in the bench's lab (namespaces, real UDP), all members in one room, in ``--processes`` processes
   (``lanparty.demo.load``)
2. each sends ``--rate`` frames of 100 bytes a second for ``--seconds``: to one other (``--pattern next``) or to all
3. each second: the relay's resident memory
4. the verdict, as one JSON object on stdout; exit status 1 when a limit below was missed

Flat means: after the first minute, the median of the last minute's readings is at most ``FLAT`` above that of the
second minute's (of a run shorter than four minutes: of its last and its second quarter). Medians, because the allocator
breathes with each batch.

The generators share the machine's cores with the relay, as in ``bench_load``: ``generator_cpu`` near 100, or a
``late_ms`` of many milliseconds, says that the result is theirs and not the relay's.

Owns: limits and verdict. Must not know: how members work (``load``), which processes there are (``bench_load``).
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import json
import statistics
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from lanparty.cli.options import IntRange, Parser
from lanparty.demo import sandbox
from lanparty.demo.bench_lab import Lab, memory, others_use
from lanparty.demo.bench_load import Load, gathered
from lanparty.demo.load import PATTERNS
from lanparty.obs.errors import LanpartyError

__all__ = ["FLAT", "LOSS", "growth", "main", "verdict"]

LOSS: Final = 0.1
"""Percent of the frames that may be lost (issue 4)."""
FLAT: Final = 0.05
"""Part by which memory may grow after the first minute: 3 MiB of a relay's 60. What waited once, when the machine was
busy elsewhere, stays with the allocator: steps of 2 MiB were seen. A leak of one object of 56 bytes for each frame
would be 160 MiB in ten minutes of 5000 frames a second."""
SIZE: Final = 100
"""Bytes of a frame, as in the bench's loads."""
MINUTE: Final = 60.0


@attrs.frozen
class Reading:
    """The relay's resident memory at one moment."""

    at: float
    """Seconds since the load began."""
    kib: int


def growth(readings: Sequence[Reading]) -> float:
    """By which part memory grew after it had settled, see the map. Raises ValueError for a run without readings."""
    if not readings:
        raise ValueError("no readings")
    end = readings[-1].at
    span = min(MINUTE, end / 4)
    settled = [reading.kib for reading in readings if span <= reading.at <= 2 * span]
    last = [reading.kib for reading in readings if reading.at >= end - span]
    if not settled:
        return 0.0
    return statistics.median(last) / statistics.median(settled) - 1


def verdict(loss: float, gone: int, grown: float) -> list[str]:
    """A sentence for each limit that was missed. ``loss`` in percent, ``grown`` as a part."""
    missed = []
    if loss >= LOSS:
        missed.append(f"{loss:.3f} % of the frames were lost; the limit is {LOSS:g} %")
    if gone:
        missed.append(f"{gone} members lost their connection")
    if grown > FLAT:
        missed.append(f"the relay's memory grew by {100 * grown:.1f} % after it had settled; the limit is {FLAT:.0%}")
    return missed


def soak(options: Namespace) -> dict[str, Any]:
    """Run it; what came of it. Raises LanpartyError."""
    load = Load("soak", rooms=1, room_size=options.members, rate=options.rate, size=SIZE, pattern=options.pattern)
    load = attrs.evolve(load, processes=options.processes)
    relay_options = ["--guard", options.guard] if options.guard else []
    readings: list[Reading] = []
    noise = others_use()
    with (
        Lab(gro=True) as lab,
        tempfile.TemporaryDirectory() as directory,
        gathered(lab, Path(directory), load, *relay_options, log_level="info", stats=5) as crowd,
    ):
        began = time.monotonic()

        def read() -> None:
            readings.append(Reading(time.monotonic() - began, memory([crowd.relay.pid])["now"]))

        sample = crowd.run(options.rate, options.seconds, tell=read)
        time.sleep(6)  # for the relay's last statistics
        told = crowd.relay.named("relay.stats")
        base = crowd.base
    numbers = {key.removeprefix("soak_"): round(value, 4) for key, value in sample.items()}
    grown = growth(readings)
    drops = {key: count for key, count in (told[-1] if told else {}).items() if _is_drop(key) and count}
    return {
        "settings": {key: getattr(options, key) for key in ("members", "rate", "seconds", "pattern", "guard")},
        "others_used_percent": round(noise, 1),
        **numbers,
        "memory_kib": {"before": base, "readings": [reading.kib for reading in readings[::10]]},
        "memory_grown_percent": round(100 * grown, 2),
        "relay_drops": drops,
        "missed": verdict(numbers["loss"], int(numbers["gone"]), grown),
    }


def _is_drop(key: str) -> bool:
    return "drop" in key or key.startswith(("blocked", "queue"))


def _parser() -> Parser:
    parser = Parser(prog="lanparty.demo.soak", description="Keep one full room busy for minutes: loss and memory.")
    add = parser.add_argument
    add("--members", type=IntRange(2, 128), default=50, metavar="N", help="default: %(default)s")
    add("--rate", type=IntRange(1, 10_000), default=100, metavar="N", help="frames/s of each; default: %(default)s")
    add("--seconds", type=IntRange(4, 86_400), default=600, metavar="S", help="default: %(default)s")
    add("--pattern", choices=PATTERNS, default="next", help="each to one other or to all others; default: %(default)s")
    add("--guard", choices=["strict", "standard", "off"], help="the relay's level; default: its own")
    add("--processes", type=IntRange(1, 8), default=1, metavar="N", help="that hold members; default: %(default)s")
    add("--json", type=Path, metavar="FILE", help="write the result there, too")
    return parser


def main(argv: Sequence[str]) -> int:
    """The exit status: 1 when a limit was missed."""
    try:
        options = _parser().parse_args(argv)
        if not sandbox.is_inside():
            return sandbox.run([sys.executable, "-m", "lanparty.demo.soak", *argv])
        result = soak(options)
        text = json.dumps(result, indent=1) + "\n"
        sys.stdout.write(text)
        if options.json is not None:
            options.json.write_text(text, encoding="utf-8")
    except LanpartyError as error:
        sys.stderr.write(f"lanparty.demo.soak: error: {error}\n")
        return error.status
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"lanparty.demo.soak: error: {error}\n")
        return 1
    for sentence in result["missed"]:
        sys.stderr.write(f"lanparty.demo.soak: {sentence}\n")
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
