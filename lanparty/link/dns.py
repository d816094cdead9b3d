"""Makes this machine ask the house's DNS servers, when the player wants that, and puts the old ones back.

Owns: the choice between systemd-resolved and /etc/resolv.conf, and both ways there and back.
Must not know: where the servers come from.

With systemd-resolved the setting belongs to the adapter's link and vanishes with it. Else /etc/resolv.conf is replaced;
what was there is written down in the journal first. It is put back only while it still holds what we wrote: if another
program has replaced it since, that one is in charge. The content of another client that runs now is not replaced: put
back after that one has ended, it would stay for ever.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # resolvectl, resolv.conf

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Final

import trio

from lanparty.link.journal import FileContent, FileReplaced, Journal
from lanparty.obs.errors import MachineError
from lanparty.obs.files import atomic_write

__all__ = ["DnsSetting", "digest", "put_back", "read_content", "replace_file"]

RESOLV_CONF: Final = Path("/etc/resolv.conf")
RESOLVED: Final = Path("/run/systemd/resolve")
"""Exists while systemd-resolved runs."""
_COMMAND_DEADLINE: Final = 3.0
"""Seconds for one call of resolvectl: it talks to a local daemon, which may be busy starting."""


class DnsSetting:
    """The DNS servers of the house, set or not. Methods raise :class:`MachineError` with a sentence."""

    def __init__(
        self, interface: str, journal: Journal, *, path: Path = RESOLV_CONF, resolved: Path = RESOLVED
    ) -> None:
        self._interface = interface
        self._journal = journal
        self._path = path
        self._resolvectl = shutil.which("resolvectl") if resolved.is_dir() else None
        self._replaced: FileReplaced | None = None
        self._link_set = False

    @property
    def active(self) -> bool:
        """Whether the house's servers are set now."""
        return self._link_set or self._replaced is not None

    async def apply(self, servers: Sequence[str], domain: str | None) -> None:
        """Ask ``servers`` for all names from now on; ``domain`` completes short ones."""
        await self.restore()
        if self._resolvectl is not None:
            self._link_set = True
            await self._run("dns", self._interface, *servers)
            await self._run("domain", self._interface, *([domain] if domain else []), "~.")  # "~.": all names
            return
        lines = ["# Written by lanparty.client; the former content comes back when it ends."]
        lines += [f"search {domain}"] if domain else []
        lines += [f"nameserver {server}" for server in servers]
        content = ("\n".join(lines) + "\n").encode()
        try:
            before = read_content(self._path)
        except OSError as error:
            raise MachineError(f"cannot read {self._path}: {error.strerror}") from error
        self._refuse_if_taken(before)
        change = FileReplaced(str(self._path), before, digest(content))
        self._journal.record(change)
        self._replaced = change
        try:
            replace_file(self._path, FileContent(data=content))
        except OSError as error:
            self._replaced = None
            self._journal.forget(change)
            raise MachineError(f"cannot write {self._path}: {error.strerror}") from error

    async def restore(self) -> bool:
        """Put back what was before. True when something was put back. Idempotent."""
        if self._link_set:
            self._link_set = False
            with contextlib.suppress(MachineError):  # the link is gone, and its setting with it
                await self._run("revert", self._interface)
            return True
        change, self._replaced = self._replaced, None
        if change is None:
            return False
        try:
            done = put_back(change)
        except OSError as error:
            raise MachineError(f"cannot put {change.path} back: {error.strerror}") from error
        self._journal.forget(change)
        return done

    def _refuse_if_taken(self, content: FileContent) -> None:
        """Raise :class:`MachineError` when ``content`` was written by another program of ours that runs now."""
        if content.data is None:
            return
        written = digest(content.data)
        for owner, changes in self._journal.of_others():
            if any(isinstance(c, FileReplaced) and (c.path, c.after) == (str(self._path), written) for c in changes):
                raise MachineError(f"another lanparty client (process {owner.pid}) has set them, and still runs")

    async def _run(self, *arguments: str) -> None:
        command = [self._resolvectl or "resolvectl", *arguments]
        result = None
        with trio.move_on_after(_COMMAND_DEADLINE):
            try:
                result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
            except OSError as error:
                raise MachineError(f"cannot run resolvectl: {error.strerror}") from error
        if result is None:
            raise MachineError(f"resolvectl {arguments[0]} did not answer within {_COMMAND_DEADLINE:g} s")
        if result.returncode:
            text = result.stderr.decode(errors="replace").strip().splitlines()
            raise MachineError(f"resolvectl {arguments[0]} failed: {text[-1] if text else result.returncode}")


def digest(content: bytes) -> str:
    """What the journal keeps to recognise our own content."""
    return hashlib.sha256(content).hexdigest()


def read_content(path: Path) -> FileContent:
    """What is at ``path`` now. Raises ``OSError``."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            return FileContent(target=str(path.readlink()))
        return FileContent(data=path.read_bytes(), mode=stat.S_IMODE(found.st_mode))
    except FileNotFoundError:
        return FileContent()


def put_back(change: FileReplaced) -> bool:
    """Undo a replacement, if the file still holds what we wrote; False when it does not. Raises ``OSError``."""
    path = Path(change.path)
    now = read_content(path)
    if now.data is None or digest(now.data) != change.after:
        return False
    replace_file(path, change.before)
    return True


def replace_file(path: Path, content: FileContent) -> None:
    """Make ``path`` be ``content``: atomically, except where it is a mount point (containers). Raises ``OSError``."""
    if content.target is not None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.lanparty")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(content.target)
        temporary.replace(path)
    elif content.data is None:
        path.unlink(missing_ok=True)
    else:
        try:
            atomic_write(path, content.data, mode=content.mode)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _overwrite(path, content.data)  # a bind mount cannot be renamed over


def _overwrite(path: Path, data: bytes) -> None:
    """Write in place. What the disk has no room for leaves the old content, whose blocks the file still has."""
    old = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        try:
            _write_all(file, data)
            os.fsync(file.fileno())
        except OSError:
            file.seek(0)
            _write_all(file, old)
            file.truncate()
            raise
        file.truncate()


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
