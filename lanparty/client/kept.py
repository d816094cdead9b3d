"""A small file that is made once, used by one program at a time, and replaced whole or not at all, on either system.

    kept_posix.py     locked itself (flock)
    kept_windows.py   locked by a name that stands for it

Owns: the interface, and the sentences about the identity file, which is what is kept in this way.
Must not know: what is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from lanparty.obs.errors import UsageError

__all__ = ["MAX_FILE", "MODE", "KeptFile", "cannot_be_written", "damaged", "in_use", "reason"]

MAX_FILE: Final = 4096
"""Bytes. Ours has about 110; a larger file is something else, given by mistake."""

MODE: Final = 0o600
"""On Windows such bits mean nothing: the file has the access list of its directory, in a user's profile that user's,
the system's and the administrators'."""


class KeptFile(Protocol):
    """The file, while it is locked."""

    @property
    def created(self) -> bool:
        """True when this run made the file."""
        ...

    def read(self) -> bytes:
        """Give its content. Raises UsageError: it cannot be read, or is too long."""
        ...

    def replace(self, data: bytes) -> None:
        """Put ``data`` in its place, whole or not at all; the lock stays, or is that of the new file.

        A symbolic link stays one: what it leads to is replaced. Raises OSError, and then the old file is there; or
        UsageError, where another client was faster.
        """
        ...


def reason(error: OSError) -> str:
    """Give what the system says."""
    return error.strerror or str(error)


def damaged(path: Path, what: str) -> UsageError:
    """Give the failure of a file whose content is not ours."""
    return UsageError(
        f"The identity file {path} is damaged: {what}. Restore it from a copy; or delete it, and a new virtual MAC "
        "is made (the house then sees a new computer)."
    )


def in_use(path: Path) -> UsageError:
    """Give the failure of a file that another client holds."""
    return UsageError(
        f"The identity file {path} is in use by another client that runs now: end that one, or give this one a "
        "file of its own with --identity."
    )


def cannot_be_written(path: Path, error: OSError) -> UsageError:
    """Give the failure of a file that cannot be made."""
    return UsageError(
        f"The identity file {path} cannot be written: {reason(error)}. Give another file with --identity, or a "
        "MAC for this run with --virtual-mac."
    )
