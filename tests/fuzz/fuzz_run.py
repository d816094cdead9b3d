"""Runs the fuzz targets under atheris (libFuzzer with coverage of Python code).

    python tests/fuzz/fuzz_run.py short                       every target, fixed seeds and counts: what CI runs
    python tests/fuzz/fuzz_run.py long [TARGET ...] [--seconds 600]    what is new goes into the corpus
    python tests/fuzz/fuzz_run.py replay TARGET FILE          one input, in plain Python, for its traceback
    python tests/fuzz/fuzz_run.py seeds [TARGET ...]          the corpus again, from the seeds and what is in it

Each target runs in a process of its own (``one``), two at a time: libFuzzer ends its process when it is done. Only the
code that a target imports is instrumented.

Where there is no atheris for this Python, this says so and does nothing; in CI with Python 3.11 that is an error.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs
from fuzz_targets import CORPUS, TARGETS, Target, find_helpers

AT_ONCE: Final = 2
SEED: Final = 20251123
SHORT_LIMIT: Final = 25
"""Seconds for one target of the short run, so that a slow machine ends in time, too."""
MEMORY: Final = 1024
"""MiB that a target may take: what is unbounded ends here."""
HANG: Final = 20
"""Seconds after which one input is a finding, too."""
LEAST_COVERAGE: Final = 20
"""Edges. Without instrumentation libFuzzer sees none."""

_DONE: Final = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+)", re.MULTILINE)


@attrs.frozen
class Result:
    """How one target's run ended."""

    target: Target
    runs: int
    edges: int
    seconds: float
    output: str
    found: list[bytes]
    """The corpus as libFuzzer left it."""
    crash: Path | None

    @property
    def line(self) -> str:
        rate = self.runs / max(self.seconds, 0.001)
        return f"{self.target.name:>10}  {self.runs:>9} inputs  {rate:>8.0f} /s  {self.edges:>5} edges"


def main(arguments: Sequence[str]) -> int:
    """Run as the module's docstring says; give the exit status."""
    if arguments[:1] == ["one"]:  # this program's own child: what follows is libFuzzer's
        return one(TARGETS[arguments[1]], arguments[2:])
    parser = argparse.ArgumentParser(description="Fuzz the parsers of network bytes.")
    parser.add_argument("mode", choices=("short", "long", "replay", "seeds"))
    parser.add_argument("names", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=600, help="for each target of a long run")
    options = parser.parse_args(arguments)
    if options.mode == "replay":
        name, file = options.names
        TARGETS[name].run(Path(file).read_bytes())
        return 0
    if unknown := sorted(set(options.names) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in options.names or TARGETS]
    if options.mode == "seeds":
        return refresh(chosen)
    if not has_atheris():
        return without_atheris()
    if options.mode == "short":
        return short(chosen)
    return long(chosen, options.seconds)


def has_atheris() -> bool:
    try:
        import atheris  # noqa: F401 - whether it can be imported is the question
    except ImportError:
        return False
    return True


def without_atheris() -> int:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"SKIPPED: atheris is not installed for Python {version}, so nothing is fuzzed. The session `tests` replays")
    print("the corpus with any Python.")
    if os.environ.get("CI") and sys.version_info[:2] == (3, 11):
        print("In CI with Python 3.11 it must be there.")
        return 1
    return 0


def one(target: Target, arguments: Sequence[str]) -> int:
    """In a process of its own: instrument what the target imports, and hand over to libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["lanparty", "aioquic"]):
        run = target.run
    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()
    return 0


def fuzz(target: Target, *arguments: str) -> Result:
    """Run one target's process over its corpus; ``arguments`` are libFuzzer's."""
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target.name}-") as place:
        work = Path(place)
        (work / "corpus").mkdir()
        for number, data in enumerate(target.corpus()):
            (work / "corpus" / f"{number:04}").write_bytes(data)
        command = [sys.executable, __file__, "one", target.name, str(work / "corpus")]
        if target.words:
            (work / "words").write_text("".join(f'"{word}"\n' for word in target.words))
            command += [f"-dict={work}/words"]
        command += [f"-max_len={target.longest}", f"-rss_limit_mb={MEMORY}", f"-timeout={HANG}"]
        command += [f"-artifact_prefix={work}/crash-of-{target.name}-", *arguments]
        started = time.monotonic()
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
        seconds = time.monotonic() - started
        crash = None
        for left in work.glob("crash-of-*"):
            crash = Path.cwd() / left.name
            crash.write_bytes(left.read_bytes())
        found = [file.read_bytes() for file in (work / "corpus").iterdir()]
    if done.returncode and crash is None:
        raise RuntimeError(f"{target.name}: exit status {done.returncode}\n{done.stdout[-4000:]}")
    figures = _DONE.search(done.stdout)
    runs, edges = (int(figures[1]), int(figures[2])) if figures else (0, 0)
    return Result(target, runs, edges, seconds, done.stdout, found, crash)


def short(targets: Sequence[Target]) -> int:
    """Fixed seed, fixed counts; and proof that there was something to it."""

    def run(target: Target) -> Result:
        return fuzz(target, f"-runs={target.runs}", f"-seed={SEED}", f"-max_total_time={SHORT_LIMIT}")

    failed = False
    # The slow ones first, so that none is alone at the end.
    order = sorted(targets, key=lambda target: target.runs)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for result in pool.map(run, order):
            print(result.line, flush=True)
            failed |= not sound(result, least=result.target.runs // 5)
    return int(failed)


def sound(result: Result, least: int) -> bool:
    """Whether the run was one, and found nothing; says what is wrong."""
    if result.crash is not None:
        print(result.output[-6000:])
        print(f"{result.target.name}: FOUND: {result.crash}; see tests/fuzz/README.md for what to do with it")
        return False
    if result.edges < LEAST_COVERAGE:
        print(f"{result.target.name}: {result.edges} edges covered: the code was not instrumented")
        print(result.output[-2000:])
        return False
    if result.runs < least:
        print(f"{result.target.name}: only {result.runs} inputs were run, at least {least} are meant to be")
        return False
    return True


def long(targets: Sequence[Target], seconds: int) -> int:
    """As long as is asked for, another seed each time; what reaches something new is kept."""
    failed = False

    def run(target: Target) -> Result:
        return fuzz(target, f"-max_total_time={seconds}", "-use_value_profile=1")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for result in pool.map(run, targets):
            print(result.line, flush=True)
            failed |= not sound(result, least=1)
            write(result.target, result.found)
    return int(failed)


def refresh(targets: Sequence[Target]) -> int:
    for target in targets:
        write(target, target.corpus() if target.file.exists() else [])
    return 0


def write(target: Target, inputs: Sequence[bytes]) -> None:
    """Make the corpus of ``inputs`` and the seeds: the least that reaches as much."""
    from fuzz_corpus import keep

    works = []
    for data in {*inputs, *target.seeds()}:
        try:
            target.run(data)
        except Exception as error:  # noqa: BLE001 - a finding: it is reported as such, and is not for the corpus
            print(f"{target.name}: {type(error).__name__} for {data.hex()[:200]}")
        else:
            works.append(data)
    kept, arcs = keep(target.run, works)
    CORPUS.mkdir(exist_ok=True)
    target.file.write_text("".join(f"{data.hex()}\n" for data in kept))
    print(f"{target.name}: {len(kept)} inputs, {sum(map(len, kept))} bytes, {arcs} arcs of lines")


if __name__ == "__main__":
    find_helpers()
    sys.exit(main(sys.argv[1:]))
