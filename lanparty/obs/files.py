"""Saving a file so that a crash or a full disk leaves the old one or the new one, never a part.

Owns: the order of system calls that makes a replacement atomic and durable, and what a killed writer leaves beside it.
Must not know: what is in the file.

    what killed writers left goes → temporary file in the same directory, locked → owner, mode → data → fsync of the
    file → rename → fsync of the directory

The temporary file stays locked (flock) as long as its writer lives: so the next writer of the same file can tell what
may go. It may hold a key, so it should not lie around.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import tempfile
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["atomic_write", "sweep"]


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
            _keep_owner(path, file.fileno())
            os.fchmod(file.fileno(), mode) if hasattr(os, "fchmod") else temporary.chmod(mode)
            file.write(data)
            file.flush()
            # Before the rename: else a power cut could leave the new name with no content.
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file beside ``path``, because rename is atomic only within one file system; locked."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # a file system without locks: then nothing is swept there either
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # swept away between the two calls by another writer


def sweep(directory: Path, name: str) -> None:
    """Remove the temporary files of writers that are no more; ``name`` is that of their file, or a pattern."""
    if sys.platform == "win32":
        return
    for leftover in directory.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):  # in use, or not ours to remove
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
            finally:
                os.close(descriptor)


def _keep_owner(path: Path, descriptor: int) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):  # no old file, or not allowed: then it is ours
        old, new = path.lstat(), os.fstat(descriptor)
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            os.fchown(descriptor, old.st_uid, old.st_gid)


def _sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` survive a power cut, where the system offers that."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open directories; a directory may be searchable but not readable.
    try:
        with contextlib.suppress(OSError):  # Some file systems cannot sync a directory; the data itself is safe.
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
