"""The registry of this machine: subkeys of a key, and single text values, under HKEY_LOCAL_MACHINE.

Owns: opening and closing keys, UTF-16, the sizes of answers, which errors mean "there is none".
Must not know: what a key is for.

advapi32.dll is called instead of the standard library's ``winreg``: that exists on Windows only, so everything above
would need a second seam for its tests, and its prototypes would not be compared with Microsoft's header.

Keys are opened as a 64-bit program sees them (KEY_WOW64_64KEY): a 32-bit Python would else look into a copy that no
driver reads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lanparty.link.windows.winapi.advapi32 import (
    ADVAPI32,
    ERROR_ACCESS_DENIED,
    ERROR_FILE_NOT_FOUND,
    ERROR_KEY_DELETED,
    ERROR_MORE_DATA,
    ERROR_NO_MORE_ITEMS,
    ERROR_SUCCESS,
    KEY_ENUMERATE_SUB_KEYS,
    KEY_QUERY_VALUE,
    KEY_SET_VALUE,
    KEY_WOW64_64KEY,
    REG_DWORD,
    REG_SZ,
)
from lanparty.link.windows.winapi.base import BYTE, DWORD, HANDLE, LONG, ULONG_PTR, WCHAR, wide, wide_text
from lanparty.obs.errors import MachineError

__all__ = [
    "RegistryDeniedError",
    "RegistryError",
    "RegistryMissingError",
    "delete_value",
    "read_number",
    "read_text",
    "subkeys",
    "write_number",
    "write_text",
]

HKEY_LOCAL_MACHINE: Final = ULONG_PTR(LONG(0x80000002 - (1 << 32)).value).value
"""``(HKEY)(ULONG_PTR)(LONG)0x80000002`` of winreg.h: the sign goes all the way up."""

_KEY_NAME: Final = 256
"""WCHARs of the longest key name, 255, and its closing zero (Microsoft, "Registry Element Size Limits")."""
_TEXT_BYTES: Final = 2048
"""Bytes of the longest value that is read, far above any name or identifier; a longer one is none of ours."""
_BYTES: Final = ctypes.POINTER(BYTE)


class RegistryError(MachineError):
    """A key or value cannot be read or changed; the text has its path and Windows' error number."""


class RegistryMissingError(RegistryError):
    """There is no such key."""


class RegistryDeniedError(RegistryError):
    """This user may not."""


def subkeys(path: str) -> list[str]:
    """Give the names of a key's subkeys. Raises RegistryError."""
    names: list[str] = []
    with _opened(path, KEY_ENUMERATE_SUB_KEYS) as key:
        name = (WCHAR * _KEY_NAME)()
        while True:
            size = DWORD(_KEY_NAME)
            error = ADVAPI32.RegEnumKeyExW(key, len(names), name, ctypes.byref(size), None, None, None, None)
            if error == ERROR_NO_MORE_ITEMS:
                return names
            _check(error, path)
            names.append(wide_text(name))


def read_text(path: str, name: str) -> str | None:
    """Give a REG_SZ value; None where the key or the value is not there, or is no text. Raises RegistryError."""
    try:
        with _opened(path, KEY_QUERY_VALUE) as key:
            kind, size = DWORD(), DWORD(_TEXT_BYTES)
            data = (WCHAR * (_TEXT_BYTES // 2 + 1))()
            error = ADVAPI32.RegQueryValueExW(
                key, wide(name), None, ctypes.byref(kind), ctypes.cast(data, ctypes.POINTER(BYTE)), ctypes.byref(size)
            )
            if error == ERROR_FILE_NOT_FOUND:
                return None
            _check(error, f"{path}\\{name}")
    except RegistryMissingError:
        return None
    return wide_text(data, size.value // 2) if kind.value == REG_SZ else None


def read_number(path: str, name: str) -> int | None:
    """Give a REG_DWORD value; None where the key or the value is not there, or is no number. Raises RegistryError."""
    try:
        with _opened(path, KEY_QUERY_VALUE) as key:
            kind, number, size = DWORD(), DWORD(), DWORD(ctypes.sizeof(DWORD))
            error = ADVAPI32.RegQueryValueExW(
                key, wide(name), None, ctypes.byref(kind), ctypes.cast(ctypes.byref(number), _BYTES), ctypes.byref(size)
            )
            if error in {ERROR_FILE_NOT_FOUND, ERROR_MORE_DATA}:  # longer: another kind of value
                return None
            _check(error, f"{path}\\{name}")
    except RegistryMissingError:
        return None
    return int(number.value) if kind.value == REG_DWORD else None


def write_number(path: str, name: str, value: int) -> None:
    """Set a REG_DWORD value of a key that exists. Raises RegistryError."""
    number = DWORD(value)
    with _opened(path, KEY_SET_VALUE) as key:
        error = ADVAPI32.RegSetValueExW(
            key, wide(name), 0, REG_DWORD, ctypes.cast(ctypes.byref(number), _BYTES), ctypes.sizeof(number)
        )
        _check(error, f"{path}\\{name}")


def write_text(path: str, name: str, value: str) -> None:
    """Set a REG_SZ value of a key that exists. Raises RegistryError."""
    data = wide(value)
    with _opened(path, KEY_SET_VALUE) as key:
        error = ADVAPI32.RegSetValueExW(
            key, wide(name), 0, REG_SZ, ctypes.cast(data, ctypes.POINTER(BYTE)), ctypes.sizeof(data)
        )
        _check(error, f"{path}\\{name}")


def delete_value(path: str, name: str) -> None:
    """Remove a value; nothing happens where it is not there. Raises RegistryError."""
    with _opened(path, KEY_SET_VALUE) as key:
        error = ADVAPI32.RegDeleteValueW(key, wide(name))
        if error != ERROR_FILE_NOT_FOUND:
            _check(error, f"{path}\\{name}")


@contextmanager
def _opened(path: str, access: int) -> Iterator[HANDLE]:
    key = HANDLE()
    error = ADVAPI32.RegOpenKeyExW(HKEY_LOCAL_MACHINE, wide(path), 0, access | KEY_WOW64_64KEY, ctypes.byref(key))
    _check(error, path)
    try:
        yield key
    finally:
        ADVAPI32.RegCloseKey(key)


def _check(error: int, path: str) -> None:
    if error == ERROR_SUCCESS:
        return
    where = f"HKEY_LOCAL_MACHINE\\{path}"
    if error == ERROR_ACCESS_DENIED:
        raise RegistryDeniedError(f"this user may not use {where} in the registry; run this as administrator")
    if error in {ERROR_FILE_NOT_FOUND, ERROR_KEY_DELETED}:
        raise RegistryMissingError(f"there is no {where} in the registry")
    raise RegistryError(f"cannot use {where} in the registry (Windows error {error})")
