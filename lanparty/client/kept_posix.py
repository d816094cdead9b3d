"""A kept file on a POSIX system: locked by flock, as long as its program lives.

Owns: making, upgrading, reading and locking the file. Must not know: what is in it.

Making the file holds a lock on its directory: of two clients that start at the same moment one makes the file, and the
other finds it made and in use.

Replacing puts another file in the place of the one that is locked. So a lock counts only when what it locks is still
what the path names (``_open_locked``), and whoever replaces keeps the old file's lock until it has the new one's. A
client that comes in between finds the old file in use; or it gets the new one first, and then the replacing one is told
that the file is in use. Either way one of them runs.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"  # flock, and files that are replaced while they are open

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from lanparty.client.kept import MAX_FILE, MODE, cannot_be_written, damaged, in_use, reason
from lanparty.obs.errors import UsageError
from lanparty.obs.files import atomic_write

__all__ = ["keep_file"]

_DIRECTORY_TRIES = 50
_DIRECTORY_PAUSE = 0.01
"""Seconds between tries. Making a file takes some milliseconds; whoever holds the lock for half a second holds it."""


@attrs.define(eq=False)
class _PosixFile:
    """`lanparty.client.kept.KeptFile`."""

    path: Path
    created: bool
    descriptor: int

    def read(self) -> bytes:
        return _read(self.path, self.descriptor)

    def replace(self, data: bytes) -> None:
        atomic_write(self.path.resolve(), data, MODE)
        old, self.descriptor = self.descriptor, _open_locked(self.path)
        os.close(old)


@contextmanager
def keep_file(path: Path, make: Callable[[], bytes]) -> Iterator[_PosixFile]:
    """Hold the file at ``path``, locked; ``make`` gives its content where it is missing. Raises UsageError."""
    created = _make_if_missing(path, make)
    file = _PosixFile(path, created, _open_locked(path))
    try:
        yield file
    finally:
        os.close(file.descriptor)  # This also gives up the lock.


def _open_locked(path: Path) -> int:
    """Open the file that ``path`` names, and lock it; a descriptor."""
    while True:
        descriptor = _open(path)
        try:
            _lock(path, descriptor)
            locked, named = os.fstat(descriptor), path.stat()
        except FileNotFoundError as error:
            os.close(descriptor)
            raise UsageError(f"The identity file {path} vanished while the client started: start it again.") from error
        except BaseException:
            os.close(descriptor)
            raise
        if (locked.st_dev, locked.st_ino) == (named.st_dev, named.st_ino):
            return descriptor
        os.close(descriptor)  # Another client has upgraded it in between: the lock is on a file that has no name.


def _make_if_missing(path: Path, make: Callable[[], bytes]) -> bool:
    """Make the file unless it is there; True if we made it."""
    try:
        if _exists(path):
            return False
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(
            f"The identity file {path} cannot be reached: {reason(error)}. Check --identity and the "
            "directory's permissions."
        ) from error
    try:
        if not _lock_directory(directory):
            raise UsageError(
                f"Another program holds a lock on {path.parent.absolute()}, perhaps a client that makes the same "
                "identity file now: start again, or give another file with --identity."
            )
        if _exists(path):
            return False
        atomic_write(path, make(), MODE)
    except OSError as error:
        raise cannot_be_written(path, error) from error
    finally:
        os.close(directory)
    return True


def _lock_directory(descriptor: int) -> bool:
    """Lock it, waiting a little: two clients that start together may keep different files in one directory."""
    for _ in range(_DIRECTORY_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_DIRECTORY_PAUSE)
        else:
            return True
    return False


def _exists(path: Path) -> bool:
    """True when there is anything at ``path``, a dangling symbolic link included: that is for a person to look at."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _open(path: Path) -> int:
    """Open the file for reading; never waits (a FIFO would)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(
            f"The identity file {path} cannot be read: {reason(error)}. Check it, or give another file with --identity."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"The identity file {path} is not a regular file: give another one with --identity.")
    return descriptor


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise in_use(path) from error
    except OSError as error:
        raise UsageError(f"The identity file {path} cannot be locked: {reason(error)}.") from error


def _read(path: Path, descriptor: int) -> bytes:
    try:
        data = os.read(descriptor, MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"The identity file {path} cannot be read: {reason(error)}.") from error
    if len(data) > MAX_FILE:
        raise damaged(path, f"it is longer than {MAX_FILE} bytes")
    return data
