"""A profile of one of our programs under load, on request.

py-spy where it is installed (``pip install py-spy``): it looks at the program from outside, 400 times a second, so that
the proportions are true and the program hardly notices. cProfile otherwise: it counts every call, which makes small
functions look several times as dear as they are, and on this data path everything is small functions; good for counts
of calls, not for where the time goes. So py-spy first, and the report says which it was.

Owns: how a program is profiled, and a table of where time went. Must not know: what load there is.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import io
import pstats
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from lanparty.obs.errors import LanpartyError

__all__ = ["PROGRAMS", "PySpy", "cprofile_command", "cprofile_table", "find_py_spy", "own_time_table"]

PROGRAMS: Final = ("relay", "gateway", "client")
RATE: Final = 400
"""Samples per second: 4000 in ten seconds, a function of 1 % is seen 40 times, give or take 6."""
SHOWN: Final = 40
"""Lines of a table."""


def find_py_spy() -> str | None:
    """Where py-spy is: on the path, or beside this Python."""
    return shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))


@attrs.define
class PySpy:
    """py-spy looking at one process, from ``start`` to ``finish``."""

    py_spy: str
    output: Path
    """Takes collapsed stacks, which flame graph tools read."""
    _process: subprocess.Popen[str] | None = None

    def start(self, pid: int) -> None:
        """Begin. Raises LanpartyError when the kernel does not let it look."""
        argv = [self.py_spy, "record", "--pid", str(pid), "--rate", str(RATE), "--format", "raw", "--output"]
        self._process = subprocess.Popen(
            [*argv, str(self.output), "--duration", "unlimited", "--nonblocking"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        """End; gives the table."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        said, _ = self._process.communicate(timeout=30)
        if not self.output.exists():
            raise LanpartyError(f"py-spy wrote nothing: {said.strip()[-300:]}")
        return own_time_table(self.output.read_text(encoding="utf-8").splitlines())


def own_time_table(stacks: Sequence[str]) -> str:
    """Where time went, from collapsed stacks ("outer (file:line);inner (file:line) COUNT"): each function's own part,
    and with what it calls."""
    own: Counter[str] = Counter()
    with_calls: Counter[str] = Counter()
    total = 0
    for line in stacks:
        stack, _, count_text = line.rpartition(" ")
        if not count_text.isdecimal():
            continue
        count = int(count_text)
        total += count
        functions = [_function(part) for part in stack.split(";")]
        own[functions[-1]] += count
        for function in set(functions):
            with_calls[function] += count
    lines = [f"{total} samples", "   own  with calls  function"]
    for function, count in own.most_common(SHOWN):
        lines.append(f"{count / total:6.1%}  {with_calls[function] / total:10.1%}  {function}")
    return "\n".join(lines) + "\n"


def _function(part: str) -> str:
    """``name (file)`` of ``name (path/to/file.py:12)``."""
    name, _, place = part.partition(" (")
    file = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{name} ({'/'.join(Path(file).parts[-2:])})"


def cprofile_command(output: Path) -> list[str]:
    """What goes between the interpreter and ``-m MODULE``."""
    return ["-m", "cProfile", "-o", str(output)]


def cprofile_table(output: Path) -> str:
    """The functions that took longest, without what they call."""
    text = io.StringIO()
    pstats.Stats(str(output), stream=text).sort_stats("tottime").print_stats(SHOWN)
    return (
        "cProfile: its own cost makes small functions look dear; install py-spy for true proportions\n"
        + text.getvalue()
    )
