"""iphlpapi.dll: an interface's DNS settings (netioapi.h of the Windows SDK 10.0.19041 and later).

Owns: structure, constants and prototypes, to the letter. Must not know: what they are used for.

mingw-w64's netioapi.h does not have them. Source: learn.microsoft.com, DNS_INTERFACE_SETTINGS structure (netioapi.h),
SetInterfaceDnsSettings and GetInterfaceDnsSettings: Windows 10 build 19041 (version 2004) at least.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lanparty.link.windows.winapi.base import LPWSTR, NETIO_STATUS, ULONG, ULONG64
from lanparty.link.windows.winapi.dll import Library, Prototype
from lanparty.link.windows.winapi.guiddef import GUID

HEADERS: Final = ()
"""None has them."""

DNS_INTERFACE_SETTINGS_VERSION1: Final = 1
DNS_SETTING_IPV6: Final = 0x0001
DNS_SETTING_NAMESERVER: Final = 0x0002


class DNS_INTERFACE_SETTINGS(ctypes.Structure):  # noqa: N801
    """What is to be set, of that which Flags names; or what is set."""

    _fields_ = [
        ("Version", ULONG),
        ("Flags", ULONG64),
        ("Domain", LPWSTR),
        ("NameServer", LPWSTR),
        ("SearchList", LPWSTR),
        ("RegistrationEnabled", ULONG),
        ("RegisterAdapterName", ULONG),
        ("EnableLLMNR", ULONG),
        ("QueryAdapterName", ULONG),
        ("ProfileNameServer", LPWSTR),
    ]


_settings = ctypes.POINTER(DNS_INTERFACE_SETTINGS)

PROTOTYPES: Final[dict[str, Prototype]] = {
    "SetInterfaceDnsSettings": (NETIO_STATUS, (GUID, _settings)),
    "GetInterfaceDnsSettings": (NETIO_STATUS, (GUID, _settings)),
    "FreeInterfaceDnsSettings": (None, (_settings,)),
}

DNS_SETTINGS: Final = Library("iphlpapi.dll", PROTOTYPES)
