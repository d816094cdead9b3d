from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lanparty.obs.files import atomic_write, replace_patiently, sweep


def test_replaces_content_and_sets_the_mode(tmp_path):
    file = tmp_path / "identity.json"
    atomic_write(file, b"one", 0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    atomic_write(file, b"two")
    assert file.read_bytes() == b"two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_mode_does_not_depend_on_the_umask(tmp_path):
    old = os.umask(0)
    try:
        atomic_write(tmp_path / "key", b"secret", 0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["fsync", "fdopen"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    file = tmp_path / "file"
    atomic_write(file, b"old")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_missing_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "missing" / "file", b"x")


def test_killed_in_the_middle_leaves_old_or_new(tmp_path):
    file = tmp_path / "file"
    atomic_write(file, b"A" * 50_000, 0o600)
    program = (
        "import sys; from pathlib import Path; from lanparty.obs.files import atomic_write\n"
        "print(flush=True)\n"
        "while True:\n"
        "    for letter in b'AB': atomic_write(Path(sys.argv[1]), bytes([letter]) * 50_000, 0o600)\n"
    )
    for attempt in range(5):
        with subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.003 * attempt)  # a different moment each time
            process.send_signal(signal.SIGKILL)
        content = file.read_bytes()
        assert content in (b"A" * 50_000, b"B" * 50_000)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_next_writer_removes_what_a_killed_one_left_and_not_what_a_living_one_writes(tmp_path):
    file = tmp_path / "identity.json"
    dead, living, foreign = (
        tmp_path / f".{name}.tmp" for name in ("identity.json.abc", "identity.json.def", "other.x")
    )
    for path in (dead, living, foreign):
        path.write_bytes(b"half a secr")
    with living.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        atomic_write(file, b"new", 0o600)
    assert sorted(tmp_path.iterdir()) == sorted([file, living, foreign])
    sweep(tmp_path, "*.json")
    assert sorted(tmp_path.iterdir()) == sorted([file, foreign])


def test_a_file_keeps_its_owner(tmp_path, monkeypatch):
    """As when sudo upgrades the identity in a player's home."""
    file = tmp_path / "identity.json"
    file.write_bytes(b"old")
    given = []
    stat_before = Path.lstat
    monkeypatch.setattr(
        Path, "lstat", lambda path: SimpleNamespace(st_uid=1000, st_gid=100) if path == file else stat_before(path)
    )
    monkeypatch.setattr(os, "fchown", lambda _descriptor, *owner: given.append(owner))
    atomic_write(file, b"new", 0o600)
    assert given == [(1000, 100)]


class HeldOpen:
    """A file that Windows does not replace while another program has it open."""

    def __init__(self, monkeypatch, times):
        self.left, self.paused = times, []
        replace = Path.replace

        def refuse(source, target):
            if self.left:
                self.left -= 1
                raise PermissionError(13, "The process cannot access the file")
            return replace(source, target)

        monkeypatch.setattr(Path, "replace", refuse)


def test_a_file_that_a_scanner_has_open_is_replaced_when_it_lets_go(tmp_path, monkeypatch):
    source, target = tmp_path / "new", tmp_path / "file"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    held = HeldOpen(monkeypatch, 4)
    replace_patiently(source, target, pause=held.paused.append)
    assert target.read_bytes() == b"new"
    assert held.paused == [0.001, 0.002, 0.004, 0.008]


def test_a_file_that_stays_open_is_reported_after_half_a_second(tmp_path, monkeypatch):
    source, target = tmp_path / "new", tmp_path / "file"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    held = HeldOpen(monkeypatch, 1000)
    with pytest.raises(PermissionError):
        replace_patiently(source, target, pause=held.paused.append)
    assert target.read_bytes() == b"old"
    assert sum(held.paused) == pytest.approx(0.5, abs=0.02)


def test_what_does_not_help_to_wait_for_is_reported_at_once(tmp_path):
    paused = []
    with pytest.raises(FileNotFoundError):
        replace_patiently(tmp_path / "missing", tmp_path / "file", pause=paused.append)
    assert paused == []
