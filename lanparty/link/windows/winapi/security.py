"""kernel32.dll, advapi32.dll, ntdll.dll: whose a process or a directory is (processthreadsapi.h, sddl.h, winternl.h).

Owns: structures, constants and prototypes, to the letter. Must not know: what they are used for.

Convention of kernel32 and advapi32: false, and the thread's last error; but GetNamedSecurityInfoW gives the error.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lanparty.link.windows.winapi.base import BOOL, BYTE, DWORD, HANDLE, LONG, LPVOID, LPWSTR, NTSTATUS, PVOID, ULONG
from lanparty.link.windows.winapi.dll import Library, Prototype
from lanparty.link.windows.winapi.iphlpapi import LARGE_INTEGER

HEADERS: Final = ("windows.h", "winternl.h", "sddl.h", "aclapi.h")

PROCESS_QUERY_LIMITED_INFORMATION: Final = 0x1000
STILL_ACTIVE: Final = 259
FILE_ATTRIBUTE_DIRECTORY: Final = 0x10
FILE_ATTRIBUTE_REPARSE_POINT: Final = 0x400
INVALID_FILE_ATTRIBUTES: Final = 0xFFFFFFFF
ERROR_ALREADY_EXISTS: Final = 183
SDDL_REVISION_1: Final = 1
SE_FILE_OBJECT: Final = 1
OWNER_SECURITY_INFORMATION: Final = 1
DACL_SECURITY_INFORMATION: Final = 4
SystemTimeOfDayInformation: Final = 3


class FILETIME(ctypes.Structure):
    """100 ns since 1601-01-01."""

    _fields_ = [("dwLowDateTime", DWORD), ("dwHighDateTime", DWORD)]


class SECURITY_ATTRIBUTES(ctypes.Structure):  # noqa: N801
    """Who may use what is made."""

    _fields_ = [("nLength", DWORD), ("lpSecurityDescriptor", LPVOID), ("bInheritHandle", BOOL)]


class SYSTEM_TIMEOFDAY_INFORMATION(ctypes.Structure):  # noqa: N801
    """When the system was started. ``Reserved1`` begins with what clock settings have added to BootTime (100 ns)."""

    _fields_ = [
        ("BootTime", LARGE_INTEGER),
        ("CurrentTime", LARGE_INTEGER),
        ("TimeZoneBias", LARGE_INTEGER),
        ("CurrentTimeZoneId", ULONG),
        ("Reserved1", BYTE * 20),
    ]


_P = ctypes.POINTER

PROTOTYPES: Final[dict[str, Prototype]] = {
    "OpenProcess": (HANDLE, (DWORD, BOOL, DWORD)),
    "CloseHandle": (BOOL, (HANDLE,)),
    "GetProcessTimes": (BOOL, (HANDLE, _P(FILETIME), _P(FILETIME), _P(FILETIME), _P(FILETIME))),
    "GetExitCodeProcess": (BOOL, (HANDLE, _P(DWORD))),
    "CreateDirectoryW": (BOOL, (LPWSTR, _P(SECURITY_ATTRIBUTES))),
    "GetFileAttributesW": (DWORD, (LPWSTR,)),
    "LocalFree": (PVOID, (PVOID,)),
    "ConvertStringSecurityDescriptorToSecurityDescriptorW": (BOOL, (LPWSTR, DWORD, _P(PVOID), _P(ULONG))),
    "ConvertSecurityDescriptorToStringSecurityDescriptorW": (BOOL, (PVOID, DWORD, DWORD, _P(LPWSTR), _P(ULONG))),
    "GetNamedSecurityInfoW": (DWORD, (LPWSTR, LONG, DWORD, _P(PVOID), _P(PVOID), _P(PVOID), _P(PVOID), _P(PVOID))),
    "NtQuerySystemInformation": (NTSTATUS, (LONG, PVOID, ULONG, _P(ULONG))),
}


def _of(*names: str) -> dict[str, Prototype]:
    return {name: PROTOTYPES[name] for name in names}


KERNEL32: Final = Library(
    "kernel32.dll",
    _of(
        "OpenProcess",
        "CloseHandle",
        "GetProcessTimes",
        "GetExitCodeProcess",
        "CreateDirectoryW",
        "GetFileAttributesW",
        "LocalFree",
    ),
)
ADVAPI32: Final = Library(
    "advapi32.dll",
    _of(
        "ConvertStringSecurityDescriptorToSecurityDescriptorW",
        "ConvertSecurityDescriptorToStringSecurityDescriptorW",
        "GetNamedSecurityInfoW",
    ),
)
NTDLL: Final = Library("ntdll.dll", _of("NtQuerySystemInformation"))
