"""Closing the window of a program is a wish to stop, as Ctrl-C is.

When a console window is closed, and when Windows ends the session, it calls each program in it in a thread of its own,
and ends the program when that call returns, or after 5 s (HandlerRoutine, wincon.h). Without a handler nothing would be
put back before the next start. So the call waits here until the program is through. Of the session's end Windows does
not tell a program that has loaded user32.dll (the same page), as shell32.dll and ole32.dll do: then what is left is the
next start's to repair.

It is the one thing in lanparty that happens in another thread: it touches an event of ``threading`` and what its caller
promises is safe. For Windows only: on Linux a terminal that goes away is SIGHUP.

Owns: the handler. Must not know: how a program stops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from lanparty.link.windows.winapi.console import (
    CONSOLE,
    CTRL_CLOSE_EVENT,
    CTRL_LOGOFF_EVENT,
    CTRL_SHUTDOWN_EVENT,
    PHANDLER_ROUTINE,
)

__all__ = ["handling"]

PATIENCE: Final = 4.5
"""Seconds that a program has for stopping: Windows gives 5 (SPI_GETHUNGAPPTIMEOUT). What is not put back by then is
repaired by the next start."""

_ENDS: Final = frozenset({CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT})

_kept: Final[list[Any]] = []
"""Windows keeps no reference; and its thread may still be on its way out of a handler that was taken away."""


@contextmanager
def handling(stop: Callable[[], None], patience: float = PATIENCE) -> Iterator[None]:
    """Call ``stop``, from any thread, when the window closes inside; the window waits for the end of the block.

    ``patience``: seconds that it waits at most. A program without a console has no window, and no handler.
    """
    through = threading.Event()

    def closed(event: int) -> int:
        if event not in _ENDS:
            return False  # Ctrl-C and Ctrl-Break are signals to Python.
        stop()
        through.wait(patience)
        return True

    handler = PHANDLER_ROUTINE(closed)
    _kept.append(handler)
    there = CONSOLE.SetConsoleCtrlHandler(handler, True)
    try:
        yield
    finally:
        through.set()
        if there:
            CONSOLE.SetConsoleCtrlHandler(handler, False)
