"""kernel32.dll's console functions (wincon.h): whose window this is, and that it is being closed.

Owns: constants, the callback and prototypes, to the letter. Must not know: what is shown in the window.

Convention of the DLL: a result of 0 means that a call failed; `last_error` then says why.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

from lanparty.link.windows.winapi.base import BOOL, DWORD
from lanparty.link.windows.winapi.dll import Library, Prototype

HEADERS: Final = ("windows.h",)

if sys.platform == "win32":
    _CALLBACK: Any = ctypes.WINFUNCTYPE
else:
    _CALLBACK: Any = ctypes.CFUNCTYPE

CTRL_CLOSE_EVENT: Final = 2
CTRL_LOGOFF_EVENT: Final = 5
CTRL_SHUTDOWN_EVENT: Final = 6

PHANDLER_ROUTINE = _CALLBACK(BOOL, DWORD)
"""Called in a thread that the system makes for it."""

PROTOTYPES: Final[dict[str, Prototype]] = {
    "GetConsoleProcessList": (DWORD, (ctypes.POINTER(DWORD), DWORD)),
    "SetConsoleCtrlHandler": (BOOL, (PHANDLER_ROUTINE, BOOL)),
}

CONSOLE: Final = Library("kernel32.dll", PROTOTYPES)
