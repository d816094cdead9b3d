"""Run the scenarios; print the table and write it as Markdown and JSON.

``python -m sim [-c ours,rate,cubic,reno] [-k TEXT] [-o DIRECTORY]`` in tests/quic.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import attrs

from sim.scenarios import SCENARIOS, Result, play

COLUMNS = "| scenario | control | used | queue p50 | p99 | ping p99 | loss | Jain | share | recovery s |"


def cell(value: float, digits: int = 2) -> str:
    """A number, or nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def row(result: Result, first: bool) -> str:
    """One line of the table."""
    cells = [
        result.scenario if first else "",
        result.control,
        f"{result.utilisation * 100:.0f} %",
        cell(result.queue_p50, 1),
        cell(result.queue_p99, 1),
        cell(result.ping_p99, 1),
        f"{result.loss * 100:.2f} %",
        cell(result.jain),
        cell(result.share),
        cell(result.recovery, 1),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m sim")
    parser.add_argument("-c", "--controls", default="ours,rate,cubic,reno")
    parser.add_argument("-k", "--only", default="")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("-s", "--seed", type=int, default=1)
    options = parser.parse_args()
    results = []
    lines = [COLUMNS, "|" + "---|" * (COLUMNS.count("|") - 1)]
    print("\n".join(lines))
    for scenario in SCENARIOS:
        if options.only not in scenario.name:
            continue
        for index, control in enumerate(options.controls.split(",")):
            began = time.process_time()
            result = play(scenario, control, options.seed)
            results.append(result)
            lines.append(row(result, not index))
            print(lines[-1], f" ({time.process_time() - began:.1f} s)", flush=True)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "congestion-table.md").write_text("\n".join(lines) + "\n")
        rows = [{k: None if v != v else v for k, v in attrs.asdict(result).items()} for result in results]
        (options.output / "congestion-table.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
