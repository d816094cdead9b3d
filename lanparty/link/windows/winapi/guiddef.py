"""GUID of guiddef.h, and its text form.

Owns: one structure. Must not know: what is identified by it.
"""

from __future__ import annotations

import ctypes
import uuid
from typing import Final

from lanparty.link.windows.winapi.base import BYTE, ULONG, USHORT

__all__ = ["GUID", "HEADERS", "guid_of", "guid_text"]

HEADERS: Final = ("winsock2.h", "windows.h")


class GUID(ctypes.Structure):
    """16 bytes: the first three fields in the processor's order, Data4 as it is written (RFC 9562 calls it mixed)."""

    _fields_ = [("Data1", ULONG), ("Data2", USHORT), ("Data3", USHORT), ("Data4", BYTE * 8)]


def guid_of(text: str) -> GUID:
    """Give the GUID that is written so, with braces or without. Raises ValueError."""
    return GUID.from_buffer_copy(uuid.UUID(text).bytes_le)


def guid_text(guid: GUID) -> str:
    """Give a GUID as Windows writes it: upper case, in braces."""
    return "{" + str(uuid.UUID(bytes_le=bytes(guid))).upper() + "}"
