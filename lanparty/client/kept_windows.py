"""A kept file on Windows: locked by a name that stands for it.

Owns: making, replacing, reading and locking the file. Must not know: what is in it.

A file that is open cannot be replaced there (MoveFileEx, ERROR_SHARING_VIOLATION), so it is not what is locked. The
lock is a named object of the kernel (CreateMutexW; namespace ``Global``: all sessions of this computer), which nobody
owns: that it is there says that a client runs. The kernel removes it with its last handle, however a program ends.
The name is a digest of the file's full path, without the difference of case, links followed. All else happens under the
lock, so nothing can come in between. Where the file is on another computer, a client there is not noticed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from lanparty.client.kept import MAX_FILE, MODE, cannot_be_written, damaged, in_use, reason
from lanparty.link.windows.winapi.base import wide
from lanparty.link.windows.winapi.dll import last_error
from lanparty.link.windows.winapi.kernel32 import ERROR_ACCESS_DENIED, ERROR_ALREADY_EXISTS, KERNEL32
from lanparty.obs.errors import UsageError
from lanparty.obs.files import atomic_write

__all__ = ["keep_file"]


@attrs.frozen
class _WindowsFile:
    """`lanparty.client.kept.KeptFile`."""

    path: Path
    created: bool

    def read(self) -> bytes:
        try:
            # Looked at before it is opened: a device (COM1) would be touched by that.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise UsageError(f"The identity file {self.path} is not a regular file: give another with --identity.")
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise UsageError(
                f"The identity file {self.path} cannot be read: {reason(error)}. Check it, or give another file with "
                "--identity."
            ) from error
        if len(data) > MAX_FILE:
            raise damaged(self.path, f"it is longer than {MAX_FILE} bytes")
        return data

    def replace(self, data: bytes) -> None:
        atomic_write(Path(os.path.realpath(self.path)), data, MODE)


@contextmanager
def keep_file(path: Path, make: Callable[[], bytes]) -> Iterator[_WindowsFile]:
    """Hold the file at ``path``, locked; ``make`` gives its content where it is missing. Raises UsageError."""
    with _locked(path):
        try:
            created = not os.path.lexists(path)
            if created:
                atomic_write(path, make(), MODE)
        except OSError as error:
            raise cannot_be_written(path, error) from error
        yield _WindowsFile(path, created)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the name that stands for ``path``."""
    digest = hashlib.sha256(os.path.realpath(path).casefold().encode("utf-8", "surrogatepass")).hexdigest()
    handle = KERNEL32.CreateMutexW(None, False, wide(f"Global\\lanparty-identity-{digest[:32]}"))
    error = last_error()
    if not handle:
        if error == ERROR_ACCESS_DENIED:  # it is another user's
            raise in_use(path)
        raise UsageError(f"The identity file {path} cannot be locked: Windows says error {error}.")
    try:
        if error == ERROR_ALREADY_EXISTS:
            raise in_use(path)
        yield
    finally:
        KERNEL32.CloseHandle(handle)
