"""advapi32.dll: the registry (winreg.h).

Owns: constants and prototypes, to the letter. Must not know: what is in the registry.

Convention of the DLL: the result is an error code of winerror.h (0: done), not the thread's last error.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lanparty.link.windows.winapi.base import BYTE, DWORD, HANDLE, LONG, LPVOID, LPWSTR
from lanparty.link.windows.winapi.dll import Library, Prototype

HEADERS: Final = ("windows.h",)

# --- winerror.h

ERROR_SUCCESS: Final = 0
ERROR_FILE_NOT_FOUND: Final = 2
ERROR_ACCESS_DENIED: Final = 5
ERROR_INVALID_HANDLE: Final = 6
ERROR_MORE_DATA: Final = 234
ERROR_NO_MORE_ITEMS: Final = 259
ERROR_KEY_DELETED: Final = 1018

# --- winnt.h

KEY_QUERY_VALUE: Final = 0x0001
KEY_SET_VALUE: Final = 0x0002
KEY_ENUMERATE_SUB_KEYS: Final = 0x0008
KEY_WOW64_64KEY: Final = 0x0100
REG_SZ: Final = 1
REG_DWORD: Final = 4

_P = ctypes.POINTER

PROTOTYPES: Final[dict[str, Prototype]] = {
    "RegOpenKeyExW": (LONG, (HANDLE, LPWSTR, DWORD, DWORD, _P(HANDLE))),
    "RegCloseKey": (LONG, (HANDLE,)),
    "RegEnumKeyExW": (LONG, (HANDLE, DWORD, LPWSTR, _P(DWORD), _P(DWORD), LPWSTR, _P(DWORD), LPVOID)),
    "RegQueryValueExW": (LONG, (HANDLE, LPWSTR, _P(DWORD), _P(DWORD), _P(BYTE), _P(DWORD))),
    "RegSetValueExW": (LONG, (HANDLE, LPWSTR, DWORD, DWORD, _P(BYTE), DWORD)),
    "RegDeleteValueW": (LONG, (HANDLE, LPWSTR)),
}

ADVAPI32: Final = Library("advapi32.dll", PROTOTYPES)
