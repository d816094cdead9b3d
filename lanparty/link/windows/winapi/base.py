"""The types of windef.h, basetsd.h and minwindef.h, with Windows' sizes on every system.

`ctypes.wintypes` is not used: its ``DWORD`` is a C ``long``, which has 8 bytes on Linux, and ``c_wchar`` has 4 there.
So structures made of it could not be checked, or used against a fake, anywhere but on Windows.

Owns: names for sizes. Must not know: any structure.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = [
    "BOOL",
    "BOOLEAN",
    "BYTE",
    "DWORD",
    "HANDLE",
    "HEADERS",
    "INVALID_HANDLE_VALUE",
    "LONG",
    "LPVOID",
    "LPWSTR",
    "NETIO_STATUS",
    "NTSTATUS",
    "PVOID",
    "ULONG",
    "ULONG64",
    "ULONG_PTR",
    "USHORT",
    "WCHAR",
    "wide",
    "wide_text",
]

HEADERS: Final = ("winsock2.h", "ws2tcpip.h", "iphlpapi.h")
"""windows.h comes with the first; NETIO_STATUS is of the last."""

BYTE = ctypes.c_uint8
BOOLEAN = ctypes.c_uint8
"""One byte; not BOOL."""
USHORT = ctypes.c_uint16
WCHAR = ctypes.c_uint16
"""One UTF-16 code unit."""
BOOL = ctypes.c_int32
LONG = ctypes.c_int32
NTSTATUS = ctypes.c_int32
DWORD = ctypes.c_uint32
ULONG = ctypes.c_uint32
NETIO_STATUS = ctypes.c_uint32
ULONG64 = ctypes.c_uint64
ULONG_PTR = ctypes.c_size_t
HANDLE = ctypes.c_void_p
PVOID = ctypes.c_void_p
LPVOID = ctypes.c_void_p
LPWSTR = ctypes.POINTER(WCHAR)
"""LPCWSTR, PWSTR and PCWSTR, too. Make one of a text by `wide`."""

INVALID_HANDLE_VALUE: Final = (1 << (8 * ctypes.sizeof(ctypes.c_void_p))) - 1
"""(HANDLE)-1, as ``c_void_p`` gives it back."""


def wide(text: str) -> ctypes.Array[ctypes.c_uint16]:
    """Give ``text`` as UTF-16 with its closing zero; it passes for an LPWSTR."""
    data = text.encode("utf-16-le", "surrogatepass") + b"\0\0"
    return (WCHAR * (len(data) // 2)).from_buffer_copy(data)


def wide_text(
    units: ctypes.Array[ctypes.c_uint16] | ctypes._Pointer[ctypes.c_uint16] | None, limit: int = 32768
) -> str:
    """Give the text of an array of WCHAR, or of an LPWSTR, up to its closing zero; at most ``limit`` units."""
    if not units:
        return ""
    if isinstance(units, ctypes.Array):
        limit = min(limit, len(units))
    found: list[int] = []
    for index in range(limit):
        unit = units[index]
        if not unit:
            break
        found.append(unit)
    return b"".join(unit.to_bytes(2, "little") for unit in found).decode("utf-16-le", "replace")
