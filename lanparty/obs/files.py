"""Saving a file so that a crash or a full disk leaves the old one or the new one, never a part.

Owns: the order of system calls that makes a replacement atomic and durable, and what a killed writer leaves beside it.
Must not know: what is in the file.

    what killed writers left goes → temporary file in the same directory, locked → owner, mode → data → fsync of the
    file → rename → fsync of the directory

The temporary file stays locked (flock) as long as its writer lives: so the next writer of the same file can tell what
may go. It may hold a key, so it should not lie around.

Windows differs in four points. The file is closed before it is renamed, as open files cannot be; so what may go is told
by its age. A virus scanner or a backup that has the old file open delays the rename, which is tried again for half a
second. There are no permission bits: a file has the access list of its directory. And there is no fsync of a directory:
NTFS writes a rename to its own journal first.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

if sys.platform != "win32":
    import fcntl

__all__ = ["atomic_write", "replace_patiently", "sweep"]

_PAUSES: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
"""Seconds between tries to replace a file that another program has open: half a second in all. Scanners let go of a
small file within milliseconds; whoever does not has it open for longer than a player should wait."""

_LEFTOVER_AGE: Final = 60.0
"""Seconds after which, on Windows, a temporary file has no writer any more: writing takes milliseconds."""


def atomic_write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file at ``path`` by ``data``; readers see the old content or the new, at any moment.

    The permission bits ``mode`` are set before the first byte is written, so a secret is never readable by others. A
    file that belongs to somebody keeps its owner where this process may give files away: a player's identity that sudo
    rewrites stays the player's. Raises ``OSError`` (full disk, no such directory, permission); the old file is then
    still there, untouched.
    """
    path = Path(path)
    sweep(path.parent, glob.escape(path.name))
    descriptor, temporary = _temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if sys.platform != "win32":
                _keep_owner(path, file.fileno())
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            # Before the rename: else a power cut could leave the new name with no content.
            os.fsync(file.fileno())
            if sys.platform != "win32":
                temporary.replace(path)  # while it is locked
        if sys.platform == "win32":
            replace_patiently(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if sys.platform != "win32":
        _sync_directory(path.parent)


def replace_patiently(source: Path, target: Path, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Rename ``source`` to ``target``, as Windows needs it: again and again while somebody has ``target`` open.

    Raises PermissionError when it stays open, or this program may not write there; other OSErrors at once.
    """
    for seconds in _PAUSES:
        try:
            source.replace(target)
        except PermissionError:  # ERROR_SHARING_VIOLATION and ERROR_ACCESS_DENIED, which cannot be told apart for sure
            pause(seconds)
        else:
            return
    source.replace(target)


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file beside ``path``, because rename is atomic only within one file system; locked.

    Not by `tempfile.mkstemp`: on Windows, Python 3.11's takes "you may not write in this directory" for "this name is
    taken", and tries two thousand million names.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, flags, 0o600)
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # a file system without locks: then nothing is swept there either
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)  # swept away between the two calls by another writer


def sweep(directory: Path, name: str) -> None:
    """Remove the temporary files of writers that are no more; ``name`` is that of their file, or a pattern."""
    for leftover in directory.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):  # in use, or not ours to remove
            if sys.platform == "win32":
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE:
                    leftover.unlink()
            else:
                descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    leftover.unlink()
                finally:
                    os.close(descriptor)


if sys.platform != "win32":

    def _keep_owner(path: Path, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # no old file, or not allowed: then it is ours
            old, new = path.lstat(), os.fstat(descriptor)
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                os.fchown(descriptor, old.st_uid, old.st_gid)

    def _sync_directory(directory: Path) -> None:
        """Make a rename in ``directory`` survive a power cut, where the system offers that."""
        try:
            descriptor = os.open(directory, os.O_RDONLY)
        except OSError:
            return  # A directory may be searchable but not readable.
        try:
            with contextlib.suppress(OSError):  # Some file systems cannot sync a directory; the data itself is safe.
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
