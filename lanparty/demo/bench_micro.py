"""The engine's micro-benchmarks: microseconds per packet and per frame size, each written beside what it measures.

Owns: the list, and running them one after another in processes of their own, so that none warms another's caches.
Must not know: what they print.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import importlib.util
import subprocess
from typing import Final

__all__ = ["MICRO", "run_micro"]

MICRO: Final = {
    "lanparty.quic.bench_codec": "packets sealed and opened in batches",
    "lanparty.quic.bench_queue": "the smart queue",
    "lanparty.proto.bench_superframe": "super-frames cut and joined",
    "lanparty.relay.bench_switch": "the relay's switch",
    "lanparty.relay.bench_guard": "the relay's guard",
}
"""Modules with a ``main``, run by ``python -m``."""


def exists(module: str) -> bool:
    """Whether there is such a module."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False


def run_micro() -> tuple[str, list[str]]:
    """What they all printed, and a sentence for each that is missing or failed."""
    printed, problems = [], []
    for module, what in MICRO.items():
        if not exists(module):
            problems.append(f"{module} ({what}) does not exist")
            continue
        done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, check=False)
        printed.append(f"## {module}: {what}\n\n{done.stdout}")
        if done.returncode:
            problems.append(f"{module} failed with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return "\n".join(printed), problems
