"""The file of --log-file: the same lines as on standard error, kept, bounded, and fit to be sent to somebody.

Owns: the file, its bound, what is left out of it. Must not know: events, and which program runs.

    line → room codes hidden → appended → above ``MAX_BYTES`` the file becomes ``FILE.1``, and a new one begins

So there are two files at most. What is in neither:

    private keys, passwords   are fields of no event, and in no sentence of an error (``tests/obs``)
    the room's code           with the relay's address it lets anybody into a house that has no password. A log is made
                              to be handed on, and ends up in a forum; the host knows the code anyway. So gateway and
                              client hide it, also where the relay's sentence repeats it. A relay's log names its rooms:
                              it is its operator's, and useless without them
    what was sent             the frame log has addresses and lengths, no content

What stays, because nothing could be found out without it: the relay's address, addresses in the house, virtual MACs,
display names.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

from lanparty.obs.errors import UsageError

__all__ = ["HIDDEN", "MAX_BYTES", "LogFile"]

MAX_BYTES: Final = 2 << 20
"""Of each of the two files: an evening has some hundred lines of 100 bytes; and both together can be attached to a
message anywhere (8 MB is the least that chat programs take)."""

HIDDEN: Final = "(hidden)"
_MODE: Final = 0o600
_ROOM_CHARACTERS: Final = "A-Za-z0-9_-"


class LogFile:
    """A file that lines are added to. What cannot be written is lost: a full disk must not end a tunnel."""

    def __init__(self, path: Path, hidden: Collection[str] = (), *, max_bytes: int = MAX_BYTES) -> None:
        """Open it, or make it, mode 0600. ``hidden``: words that are not written. Raises UsageError."""
        self.path = path.absolute()
        self._max_bytes = max_bytes
        words = "|".join(re.escape(word) for word in hidden if word)
        self._hidden = (
            re.compile(f"(?<![{_ROOM_CHARACTERS}])(?:{words})(?![{_ROOM_CHARACTERS}])", re.IGNORECASE)
            if words
            else None
        )
        try:
            self._file = self._open()
            self._size = os.fstat(self._file).st_size
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"The log file {str(path)!r} cannot be written: {reason}. Give another one with --log-file."
            ) from error

    def _open(self) -> int:
        # Not blocking: a FIFO without a reader would hold the program up for ever.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self.path, flags | getattr(os, "O_BINARY", 0), _MODE)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "it is not a regular file")
        return descriptor

    def write(self, text: str) -> None:
        """Add ``text`` as one line, or as some."""
        if self._file < 0:
            return
        if self._hidden is not None:
            text = self._hidden.sub(HIDDEN, text)
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._max_bytes:
                self._turn()
            self._size += os.write(self._file, data[: self._max_bytes])

    def _turn(self) -> None:
        """Begin a new file. Where the old one cannot be moved away, it is emptied: the bound holds."""
        if sys.platform == "win32":  # which moves no file that is open
            os.close(self._file)
            self._file = -1
            with contextlib.suppress(OSError):  # open in an editor
                self._move()
            self._file = self._open()
        else:
            with contextlib.suppress(OSError):  # the directory is no longer ours: privileges were given up
                self._move()
                new = self._open()
                os.close(self._file)
                self._file = new
        os.ftruncate(self._file, 0)
        self._size = 0

    def _move(self) -> None:
        self.path.replace(self.path.with_name(self.path.name + ".1"))

    def close(self) -> None:
        """Close it; later lines are lost."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
