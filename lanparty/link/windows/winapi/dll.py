"""A DLL's functions, bound with their types at the first call.

    KERNEL32 = Library("kernel32.dll", {"CloseHandle": (BOOL, (HANDLE,)), ...})
    if not KERNEL32.CloseHandle(handle):
        error = last_error()

Owns: loading, binding, the last error of this thread, and the place where tests put their own DLLs (`fakes`).
Must not know: any function.

DLLs are loaded from Windows' own directory only: one of the same name beside the program would else run as
administrator.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from lanparty.obs.errors import MachineError

__all__ = ["FakeDlls", "Library", "Prototype", "fakes", "last_error"]

HEADERS: Final = ("windows.h",)

Prototype = tuple[Any, tuple[Any, ...]]
"""Result and arguments, as ctypes types; None for void."""

_LOAD_LIBRARY_SEARCH_SYSTEM32: Final = 0x0800


class FakeDlls:
    """What stands in for Windows in a test: DLLs by name, and what GetLastError would say."""

    def __init__(self) -> None:
        self.last_error = 0

    def open(self, name: str, prototypes: Mapping[str, Prototype]) -> Any:
        """Give an object that has the functions of the DLL ``name`` as attributes."""
        raise NotImplementedError(name)


_fake: FakeDlls | None = None


@contextmanager
def fakes(dlls: FakeDlls) -> Iterator[None]:
    """Let every `Library` find its functions in ``dlls``, inside. For tests."""
    global _fake
    before, _fake = _fake, dlls
    try:
        yield
    finally:
        _fake = before


class Library:
    """The functions of one DLL."""

    def __init__(self, name: str, prototypes: Mapping[str, Prototype]) -> None:
        self.name = name
        self.prototypes = prototypes
        self._bound: dict[str, Callable[..., Any]] = {}
        self._of: object = None
        self._dll: Any = None

    def __getattr__(self, function: str) -> Callable[..., Any]:
        """Give the function. Raises MachineError where it, or the DLL, does not exist."""
        if function not in self.prototypes:
            raise AttributeError(f"{self.name} has no prototype of {function}")
        if self._dll is None or self._of is not _fake:
            self._of, self._bound = _fake, {}
            self._dll = _open(self.name) if _fake is None else _fake.open(self.name, self.prototypes)
        bound = self._bound.get(function)
        if bound is None:
            result, arguments = self.prototypes[function]
            try:
                found = getattr(self._dll, function)
            except AttributeError:
                raise MachineError(f"this Windows is too old: its {self.name} has no {function}") from None
            found.restype, found.argtypes = result, arguments
            self._bound[function] = bound = found
        return bound


def _open(name: str) -> Any:
    if sys.platform == "win32":
        return ctypes.WinDLL(name, use_last_error=True, winmode=_LOAD_LIBRARY_SEARCH_SYSTEM32)
    else:
        raise MachineError(f"{name} is a part of Windows, and this is not Windows")


def last_error() -> int:
    """Give what GetLastError said after the latest call of a `Library` function in this thread."""
    if _fake is not None:
        return _fake.last_error
    if sys.platform == "win32":
        return ctypes.get_last_error()
    else:
        return 0
