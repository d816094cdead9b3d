"""kernel32.dll: files, overlapped operations, completion ports (fileapi.h, ioapiset.h, minwinbase.h, winerror.h).

Owns: structures, constants and prototypes, to the letter. Must not know: what they are used for.

Convention of the DLL: the result is false, or a handle that is not valid, where a call failed; `last_error` then says
why. An overlapped call that "failed" with ERROR_IO_PENDING did not: it goes on.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lanparty.link.windows.winapi.base import BOOL, DWORD, HANDLE, LPVOID, LPWSTR, ULONG64, ULONG_PTR
from lanparty.link.windows.winapi.dll import Library, Prototype

HEADERS: Final = ("windows.h",)

# --- winerror.h: what the functions below are documented, or known from the driver's source, to answer

ERROR_SUCCESS: Final = 0
ERROR_INVALID_FUNCTION: Final = 1
ERROR_FILE_NOT_FOUND: Final = 2
ERROR_PATH_NOT_FOUND: Final = 3
ERROR_ACCESS_DENIED: Final = 5
ERROR_INVALID_HANDLE: Final = 6
ERROR_NOT_ENOUGH_MEMORY: Final = 8
ERROR_BAD_COMMAND: Final = 22
ERROR_GEN_FAILURE: Final = 31
ERROR_SHARING_VIOLATION: Final = 32
ERROR_INVALID_PARAMETER: Final = 87
ERROR_INSUFFICIENT_BUFFER: Final = 122
ERROR_BUSY: Final = 170
ERROR_ALREADY_EXISTS: Final = 183
ERROR_MORE_DATA: Final = 234
ERROR_NO_SUCH_DEVICE: Final = 433
ERROR_OPERATION_ABORTED: Final = 995
ERROR_IO_INCOMPLETE: Final = 996
ERROR_IO_PENDING: Final = 997
ERROR_DEVICE_NOT_CONNECTED: Final = 1167
ERROR_NOT_FOUND: Final = 1168
ERROR_NO_SYSTEM_RESOURCES: Final = 1450
ERROR_WORKING_SET_QUOTA: Final = 1453
ERROR_DEVICE_REMOVED: Final = 1617
ERROR_INVALID_USER_BUFFER: Final = 1784

# --- winnt.h, fileapi.h, winbase.h

GENERIC_READ: Final = 0x80000000
GENERIC_WRITE: Final = 0x40000000
OPEN_EXISTING: Final = 3
FILE_ATTRIBUTE_SYSTEM: Final = 0x00000004
FILE_FLAG_OVERLAPPED: Final = 0x40000000


class OVERLAPPED(ctypes.Structure):
    """One operation that is under way. It belongs to the kernel from the call until its completion was seen.

    ``Internal`` is its NTSTATUS; STATUS_PENDING (0x103) until it is complete. Offset and OffsetHigh are in a union
    with a pointer of the same size, which nobody uses.
    """

    _fields_ = [
        ("Internal", ULONG_PTR),
        ("InternalHigh", ULONG_PTR),
        ("Offset", DWORD),
        ("OffsetHigh", DWORD),
        ("hEvent", HANDLE),
    ]


_P = ctypes.POINTER

PROTOTYPES: Final[dict[str, Prototype]] = {
    "CreateFileW": (HANDLE, (LPWSTR, DWORD, DWORD, LPVOID, DWORD, DWORD, HANDLE)),
    "CloseHandle": (BOOL, (HANDLE,)),
    "ReadFile": (BOOL, (HANDLE, LPVOID, DWORD, _P(DWORD), _P(OVERLAPPED))),
    "WriteFile": (BOOL, (HANDLE, LPVOID, DWORD, _P(DWORD), _P(OVERLAPPED))),
    "DeviceIoControl": (BOOL, (HANDLE, DWORD, LPVOID, DWORD, LPVOID, DWORD, _P(DWORD), _P(OVERLAPPED))),
    "GetOverlappedResult": (BOOL, (HANDLE, _P(OVERLAPPED), _P(DWORD), BOOL)),
    "CancelIoEx": (BOOL, (HANDLE, _P(OVERLAPPED))),
    "CreateIoCompletionPort": (HANDLE, (HANDLE, HANDLE, ULONG_PTR, DWORD)),
    "CreateMutexW": (HANDLE, (LPVOID, BOOL, LPWSTR)),
    "GetTickCount64": (ULONG64, ()),
    "CreateEventW": (HANDLE, (LPVOID, BOOL, BOOL, LPWSTR)),
}

KERNEL32: Final = Library("kernel32.dll", PROTOTYPES)
