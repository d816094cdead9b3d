"""shell32.dll: administrator rights, asked about and asked for (shellapi.h, shlobj_core.h).

Owns: the structure, constants and prototypes, to the letter. Must not know: what is started by them.

Convention of the DLL: a result of false means that a call failed; `last_error` then says why.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lanparty.link.windows.winapi.base import BOOL, DWORD, HANDLE, LPWSTR, PVOID, ULONG
from lanparty.link.windows.winapi.dll import Library, Prototype

HEADERS: Final = ("windows.h", "shellapi.h", "shlobj.h")

ERROR_CANCELLED: Final = 1223
"""The user said no (winerror.h)."""

SEE_MASK_NOASYNC: Final = 0x00000100
"""The call returns when the program has started: for a caller that ends then."""
SEE_MASK_FLAG_NO_UI: Final = 0x00000400
"""No message box about a failure: the caller tells it."""

SW_SHOWNORMAL: Final = 1


class _ICON(ctypes.Union):
    _fields_ = [("hIcon", HANDLE), ("hMonitor", HANDLE)]


class SHELLEXECUTEINFOW(ctypes.Structure):
    """What ShellExecuteExW is to start, and how."""

    _anonymous_ = ("DUMMYUNIONNAME",)
    _fields_ = [
        ("cbSize", DWORD),
        ("fMask", ULONG),
        ("hwnd", HANDLE),
        ("lpVerb", LPWSTR),
        ("lpFile", LPWSTR),
        ("lpParameters", LPWSTR),
        ("lpDirectory", LPWSTR),
        ("nShow", ctypes.c_int),
        ("hInstApp", HANDLE),
        ("lpIDList", PVOID),
        ("lpClass", LPWSTR),
        ("hkeyClass", HANDLE),
        ("dwHotKey", DWORD),
        ("DUMMYUNIONNAME", _ICON),
        ("hProcess", HANDLE),
    ]


PROTOTYPES: Final[dict[str, Prototype]] = {
    "IsUserAnAdmin": (BOOL, ()),
    "ShellExecuteExW": (BOOL, (ctypes.POINTER(SHELLEXECUTEINFOW),)),
}

SHELL32: Final = Library("shell32.dll", PROTOTYPES)
