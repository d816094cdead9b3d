"""Saving a file so that a crash or a full disk leaves the old one or the new one, never a part.

Owns: the order of system calls that makes a replacement atomic and durable.
Must not know: what is in the file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["atomic_write"]


def atomic_write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file at ``path`` by ``data``; readers see the old content or the new, at any moment.

    The permission bits ``mode`` are set before the first byte is written, so a secret is never readable by others.
    Raises ``OSError`` (full disk, no such directory, permission); the old file is then still there, untouched.
    """
    path = Path(path)
    # In the same directory: rename is atomic only within one file system.
    descriptor, temporary_name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(temporary_name)
    try:
        with os.fdopen(descriptor, "wb") as file:
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
