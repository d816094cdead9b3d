"""advapi32.dll's registry: a tree of keys as data, with Microsoft's error codes."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

from lanparty.link.windows.registry import HKEY_LOCAL_MACHINE
from lanparty.link.windows.winapi.advapi32 import (
    ERROR_ACCESS_DENIED,
    ERROR_FILE_NOT_FOUND,
    ERROR_INVALID_HANDLE,
    ERROR_MORE_DATA,
    ERROR_NO_MORE_ITEMS,
    ERROR_SUCCESS,
    KEY_SET_VALUE,
    KEY_WOW64_64KEY,
    REG_SZ,
)
from lanparty.link.windows.winapi.base import wide, wide_text


class FakeRegistry:
    """HKEY_LOCAL_MACHINE. Names are compared without regard to case, and keep the case that they were given."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.administrator = True
        self.closed: set[str] = set()
        """Paths (lower case) that nobody may open, as the "Properties" of a class."""
        self.open_keys: dict[int, tuple[str, int]] = {}
        self._keys: dict[str, dict[str, tuple[str, int, bytes]]] = {"": {}}
        self._spelling: dict[str, str] = {}
        self._handles = itertools.count(0x5000, 4)

    def put(self, path: str, **values: str) -> None:
        """Make a key and those above it, and set REG_SZ values of it."""
        parts = path.split("\\")
        for end in range(1, len(parts) + 1):
            above = "\\".join(parts[:end])
            self._keys.setdefault(above.lower(), {})
            self._spelling.setdefault(above.lower(), parts[end - 1])
        for name, value in values.items():
            self._keys[path.lower()][name.lower()] = (name, REG_SZ, bytes(wide(value)))

    def put_raw(self, path: str, name: str, kind: int, data: bytes) -> None:
        """Set a value of any kind; a text may lack its closing zero."""
        self.put(path)
        self._keys[path.lower()][name.lower()] = (name, kind, data)

    def get(self, path: str, name: str) -> str | None:
        """Give a REG_SZ value."""
        found = self._keys.get(path.lower(), {}).get(name.lower())
        return None if found is None else found[2].decode("utf-16-le").rstrip("\0")

    def remove(self, path: str) -> None:
        """Remove a key and all below."""
        lower = path.lower()
        for key in [key for key in self._keys if key == lower or key.startswith(lower + "\\")]:
            del self._keys[key]

    def dump(self) -> dict[str, dict[str, bytes]]:
        """Give all there is, to be compared later."""
        return {path: {name: data for name, _, data in values.values()} for path, values in self._keys.items()}

    # --- advapi32.dll

    def RegOpenKeyExW(self, root: int, path: Any, options: int, access: int, result: Any) -> int:  # noqa: N802
        assert (root, options) == (HKEY_LOCAL_MACHINE, 0)
        assert access & KEY_WOW64_64KEY
        lower = wide_text(path).lower()
        if lower not in self._keys:
            return ERROR_FILE_NOT_FOUND
        if lower in self.closed or (access & KEY_SET_VALUE and not self.administrator):
            return ERROR_ACCESS_DENIED
        result[0] = next(self._handles)
        self.open_keys[result[0]] = lower, access
        return ERROR_SUCCESS

    def RegCloseKey(self, key: int) -> int:  # noqa: N802
        return ERROR_SUCCESS if self.open_keys.pop(key, None) else ERROR_INVALID_HANDLE

    def RegEnumKeyExW(  # noqa: N802
        self, key: int, index: int, name: Any, size: Any, reserved: Any, kind: Any, kind_size: Any, written: Any
    ) -> int:
        path, _ = self.open_keys[key]
        depth = path.count("\\") + 1
        below = [other for other in self._keys if other.startswith(path + "\\") and other.count("\\") == depth]
        if index >= len(below):
            return ERROR_NO_MORE_ITEMS
        text = wide(self._spelling[below[index]])
        if len(text) > size[0]:
            return ERROR_MORE_DATA
        ctypes.memmove(name, text, ctypes.sizeof(text))
        size[0] = len(text) - 1
        return ERROR_SUCCESS

    def RegQueryValueExW(self, key: int, name: Any, reserved: Any, kind: Any, data: Any, size: Any) -> int:  # noqa: N802
        path, _ = self.open_keys[key]
        found = self._keys[path].get(wide_text(name).lower())
        if found is None:
            return ERROR_FILE_NOT_FOUND
        _, kind[0], value = found
        room, size[0] = size[0], len(value)
        if len(value) > room:
            return ERROR_MORE_DATA
        ctypes.memmove(data, value, len(value))
        return ERROR_SUCCESS

    def RegSetValueExW(self, key: int, name: Any, reserved: int, kind: int, data: Any, size: int) -> int:  # noqa: N802
        path, access = self.open_keys[key]
        assert access & KEY_SET_VALUE
        value = ctypes.string_at(data, size)
        text = wide_text(name)
        self.calls.append(
            f"RegSetValueExW {path.rpartition(chr(92))[2]} {text}={value.decode('utf-16-le').rstrip(chr(0))}"
        )
        self._keys[path][text.lower()] = (text, kind, value)
        return ERROR_SUCCESS

    def RegDeleteValueW(self, key: int, name: Any) -> int:  # noqa: N802
        path, access = self.open_keys[key]
        assert access & KEY_SET_VALUE
        text = wide_text(name)
        self.calls.append(f"RegDeleteValueW {path.rpartition(chr(92))[2]} {text}")
        return ERROR_SUCCESS if self._keys[path].pop(text.lower(), None) else ERROR_FILE_NOT_FOUND
