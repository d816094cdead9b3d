"""ole32.dll: COM as far as a caller needs it (objbase.h, combaseapi.h), and how a method of an interface is called.

Owns: constants, prototypes, `method`. Must not know: any interface but IUnknown.

An interface pointer is the address of an object, whose first word is the address of a table of functions; a method is a
slot of that table, and takes the object as its first argument. No library is needed for that, only types.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any, Final

from lanparty.link.windows.winapi.base import DWORD, LONG, PVOID, ULONG
from lanparty.link.windows.winapi.dll import Library, Prototype
from lanparty.link.windows.winapi.guiddef import GUID
from lanparty.link.windows.winapi.iphlpapi import CALLBACK

HEADERS: Final = ("windows.h", "objbase.h")

HRESULT = LONG
"""Negative: failed."""
S_OK: Final = 0
S_FALSE: Final = 1
"""Done, but with less to show: Next gives fewer than asked for; CoInitializeEx was not the first in its thread."""
E_NOTIMPL: Final = -0x7FFFBFFF
E_POINTER: Final = -0x7FFFBFFD
E_FAIL: Final = -0x7FFFBFFB
E_ACCESSDENIED: Final = -0x7FF8FFFB
E_INVALIDARG: Final = -0x7FF8FFA9
REGDB_E_CLASSNOTREG: Final = -0x7FFBFEAC
COINIT_MULTITHREADED: Final = 0
CLSCTX_ALL: Final = 0x17

_P = ctypes.POINTER
Slot = tuple[int, Prototype]
"""Position of a method in the table, and its type, with the object as first argument."""

VTABLES: Final[dict[str, dict[str, Slot]]] = {
    "IUnknown": {
        "QueryInterface": (0, (HRESULT, (PVOID, _P(GUID), _P(PVOID)))),
        "AddRef": (1, (ULONG, (PVOID,))),
        "Release": (2, (ULONG, (PVOID,))),
    },
}

PROTOTYPES: Final[dict[str, Prototype]] = {
    "CoInitializeEx": (HRESULT, (PVOID, DWORD)),
    "CoUninitialize": (None, ()),
    "CoCreateInstance": (HRESULT, (_P(GUID), PVOID, DWORD, _P(GUID), _P(PVOID))),
}

OLE32: Final = Library("ole32.dll", PROTOTYPES)


def method(this: int, table: Mapping[str, Slot], name: str) -> Callable[..., Any]:
    """Give the method ``name`` of the object at ``this``, bound to it; ``table`` is that of its interface."""
    slot, (result, arguments) = table[name]
    functions = ctypes.cast(this, _P(_P(PVOID))).contents
    function = CALLBACK(result, *arguments)(functions[slot])
    return lambda *rest: function(this, *rest)
