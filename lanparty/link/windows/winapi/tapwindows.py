"""What the driver tap-windows6 understands: control codes, names, and what it is found by.

Owns: values of the driver's own header, to the letter. Must not know: how they are sent.

Source: ``src/tap-windows.h`` and ``src/constants.h`` of github.com/OpenVPN/tap-windows6, release 9.27.0; no Windows
header has them. A code is CTL_CODE of winioctl.h, ``device << 16 | access << 14 | function << 2 | method``, with
FILE_DEVICE_UNKNOWN (0x22), FILE_ANY_ACCESS (0) and METHOD_BUFFERED (0).
"""

from __future__ import annotations

from typing import Final

HEADERS: Final = ("windows.h",)
"""For CTL_CODE; none has the rest."""

TAP_WIN_IOCTL_GET_MAC: Final = 0x220004
"""Function 1. Out: 6 bytes."""
TAP_WIN_IOCTL_GET_VERSION: Final = 0x220008
"""Function 2. Out: three ULONG: major, minor, 1 for a debug build."""
TAP_WIN_IOCTL_GET_MTU: Final = 0x22000C
"""Function 3. Out: ULONG, payload bytes."""
TAP_WIN_IOCTL_SET_MEDIA_STATUS: Final = 0x220018
"""Function 6. In: ULONG, 1: the cable is plugged in; 0: it is not. Out: the same."""

ADAPTER_KEY: Final = r"SYSTEM\CurrentControlSet\Control\Class\{4D36E972-E325-11CE-BFC1-08002BE10318}"
"""The class of network adapters (GUID_DEVCLASS_NET of devguid.h); one subkey for each: 0000, 0001, ..."""
NETWORK_CONNECTIONS_KEY: Final = r"SYSTEM\CurrentControlSet\Control\Network\{4D36E972-E325-11CE-BFC1-08002BE10318}"
"""``{GUID}\\Connection`` has the name that people gave to the adapter."""
USERMODEDEVICEDIR: Final = "\\\\.\\Global\\"
TAP_WIN_SUFFIX: Final = ".tap"
