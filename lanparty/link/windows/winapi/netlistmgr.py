"""The network list manager's COM interfaces (netlistmgr.h): what Windows takes a network for, and its category.

Owns: identifiers, constants and the methods that are called, to the letter. Must not know: what they are called for.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lanparty.link.windows.winapi.base import LONG, PVOID, ULONG
from lanparty.link.windows.winapi.guiddef import GUID, guid_of
from lanparty.link.windows.winapi.ole32 import HRESULT, Slot

HEADERS: Final = ("windows.h", "netlistmgr.h")

CLSID_NetworkListManager = guid_of("{DCB00C01-570F-4A9B-8D69-199FDBA5723B}")
IID_INetworkListManager = guid_of("{DCB00000-570F-4A9B-8D69-199FDBA5723B}")

NLM_NETWORK_CATEGORY_PUBLIC: Final = 0
NLM_NETWORK_CATEGORY_PRIVATE: Final = 1
NLM_NETWORK_CATEGORY_DOMAIN_AUTHENTICATED: Final = 2

_P = ctypes.POINTER

VTABLES: Final[dict[str, dict[str, Slot]]] = {
    "INetworkListManager": {
        "Release": (2, (ULONG, (PVOID,))),
        "GetNetwork": (8, (HRESULT, (PVOID, GUID, _P(PVOID)))),
        "GetNetworkConnections": (9, (HRESULT, (PVOID, _P(PVOID)))),
    },
    "IEnumNetworkConnections": {
        "Release": (2, (ULONG, (PVOID,))),
        "Next": (8, (HRESULT, (PVOID, ULONG, _P(PVOID), _P(ULONG)))),
    },
    "INetworkConnection": {
        "Release": (2, (ULONG, (PVOID,))),
        "GetNetwork": (7, (HRESULT, (PVOID, _P(PVOID)))),
        "GetAdapterId": (12, (HRESULT, (PVOID, _P(GUID)))),
    },
    "INetwork": {
        "Release": (2, (ULONG, (PVOID,))),
        "GetNetworkId": (11, (HRESULT, (PVOID, _P(GUID)))),
        "GetCategory": (18, (HRESULT, (PVOID, _P(LONG)))),
        "SetCategory": (19, (HRESULT, (PVOID, LONG))),
    },
}
