"""Saves a file in a child, kills the child in the middle, looks at what is there; again and again.

    python save_and_kill.py WHAT ROUNDS DIRECTORY   → one JSON line of counts

WHAT is new-identity, upgrade (an identity file of version 1), journal or certificate. A program of its own, with one
thread, because it forks. When the child is killed is drawn from a little more than the time that saving takes here.
Any other content than the old or the new one ends this with an AssertionError.
"""

import json
import os
import random
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lanparty.client.identity import hold_identity
from lanparty.link.journal import Journal, JournalError, RouteAdded, read_journal
from lanparty.obs.files import sweep
from lanparty.obs.log import captured
from lanparty.quic.trust import load_dev_certificate

MAC = "02:12:34:56:78:9a"
OLD = f'{{"version": 1, "virtual_mac": "{MAC}"}}\n'
ROUTES = [RouteAdded(f"203.0.113.{number}/32", "eth0", None, 0) for number in range(4)]


class Identity:
    """Made (``old`` is empty), or upgraded."""

    def __init__(self, directory: Path, old: str) -> None:
        self.path = directory / "identity.json"
        self.old = old

    def prepare(self) -> None:
        self.path.unlink(missing_ok=True)
        if self.old:
            self.path.write_text(self.old)
            self.path.chmod(0o600)

    def save(self) -> None:
        with hold_identity(self.path, None):
            pass

    def judge(self) -> str:
        if not self.path.exists():
            assert not self.old, "the old file is gone"
            return "old"
        assert stat.S_IMODE(self.path.stat().st_mode) == 0o600
        text = self.path.read_text()
        if text == self.old:
            return "old"
        assert json.loads(text)["version"] == 2
        with hold_identity(self.path, None) as identity:  # raises for anything that is not whole
            assert identity.key is not None
            assert not self.old or str(identity.virtual_mac) == MAC
        return "new"


class JournalFile:
    """Grown by one change each time, as a client does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = Journal(directory)

    def prepare(self) -> None:
        self.journal.path.unlink(missing_ok=True)
        self.journal = Journal(self.directory)
        for route in ROUTES[:-1]:
            self.journal.record(route)

    def save(self) -> None:
        self.journal.record(ROUTES[-1])

    def judge(self) -> str:
        assert stat.S_IMODE(self.journal.path.stat().st_mode) == 0o600
        try:
            _, changes = read_journal(self.journal.path)
        except JournalError as error:
            raise AssertionError("a part of a journal") from error
        assert changes in (ROUTES, ROUTES[:-1])
        return "new" if changes == ROUTES else "old"


class Certificate:
    """Certificate and key, made anew: two files, of which a reader must never take one without the other."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "cert.der"
        self.key = directory / "cert.der.key"

    def prepare(self) -> None:
        self.path.unlink(missing_ok=True)
        self.key.unlink(missing_ok=True)

    def save(self) -> None:
        with captured():
            load_dev_certificate(self.path)

    def judge(self) -> str:
        there = (self.path.exists(), self.key.exists())
        assert there != (True, False), "a certificate without its key"
        if self.key.exists():
            assert stat.S_IMODE(self.key.stat().st_mode) == 0o600
        before = self.path.read_bytes() if there[0] else b""
        with captured():
            load_dev_certificate(self.path)  # raises for a part
        assert not before or self.path.read_bytes() == before, "a good pair was made anew"
        return "new" if there[0] else "old"


def in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def main(what: str, rounds: str, where: str) -> None:
    directory = Path(where)
    kinds = {"new-identity": lambda: Identity(directory, ""), "upgrade": lambda: Identity(directory, OLD)}
    kinds |= {"journal": lambda: JournalFile(directory), "certificate": lambda: Certificate(directory)}
    saver = kinds[what]()
    took = 0.0
    for _ in range(3):
        saver.prepare()
        began = time.monotonic()
        os.waitpid(in_child(saver.save), 0)
        took = max(took, time.monotonic() - began)
    counts = Counter(old=0, new=0, caught_writing=0)
    draw = random.Random(34)
    for _ in range(int(rounds)):
        saver.prepare()
        child = in_child(saver.save)
        time.sleep(draw.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        leftovers = list(directory.glob(".*.tmp"))
        counts["caught_writing"] += bool(leftovers)
        assert all(stat.S_IMODE(leftover.stat().st_mode) == 0o600 or what == "certificate" for leftover in leftovers)
        counts[saver.judge()] += 1
    saver.prepare()
    saver.save()
    sweep(directory, "*.json")  # as the next program does with journals, whose names are never used again
    assert not list(directory.glob(".*.tmp")), "what killed writers left was not swept"
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
