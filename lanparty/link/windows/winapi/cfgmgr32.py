"""cfgmgr32.dll: devices of the Plug and Play manager (cfgmgr32.h).

Owns: constants and prototypes, to the letter. Must not know: which devices there are.

Convention of the DLL: the result is a CONFIGRET (0: done), not the thread's last error.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lanparty.link.windows.winapi.base import DWORD, LPWSTR, ULONG
from lanparty.link.windows.winapi.dll import Library, Prototype

HEADERS: Final = ("windows.h", "cfgmgr32.h")

CONFIGRET = DWORD
DEVINST = DWORD

CR_SUCCESS: Final = 0x00
CR_NO_SUCH_DEVNODE: Final = 0x0D
CR_FAILURE: Final = 0x13
CR_REMOVE_VETOED: Final = 0x17
CR_NEED_RESTART: Final = 0x22
CR_NOT_DISABLEABLE: Final = 0x28
CR_ACCESS_DENIED: Final = 0x33

CM_LOCATE_DEVNODE_NORMAL: Final = 0x0
CM_DISABLE_UI_NOT_OK: Final = 0x4

_P = ctypes.POINTER

PROTOTYPES: Final[dict[str, Prototype]] = {
    "CM_Locate_DevNodeW": (CONFIGRET, (_P(DEVINST), LPWSTR, ULONG)),
    "CM_Disable_DevNode": (CONFIGRET, (DEVINST, ULONG)),
    "CM_Enable_DevNode": (CONFIGRET, (DEVINST, ULONG)),
}

CFGMGR32: Final = Library("cfgmgr32.dll", PROTOTYPES)
