"""Who wrote a journal, whether that program still runs, and where journals are, on Windows.

Owns: this process' `Owner`, and a state directory that only administrators can write.
Must not know: what is in a journal.

**Owner.** A process id is used again, on Windows soon; the moment at which its process was made (GetProcessTimes, in
100 ns since 1601) is not. ``boot`` is the moment at which the running kernel was started (NtQuerySystemInformation,
SystemTimeOfDayInformation), without what setting the clock has added to it since. A shutdown with "fast startup" only
puts the kernel to sleep, with its routes; it therefore does not count as a reboot here, and is none. There are no
network namespaces: ``netns`` is 0.

**Directory.** ``%ProgramData%\\lanparty``: it lasts over reboots, as the settings of interfaces may, and is the same
for every user, as the network is. Windows lets every user make files under %ProgramData%, and a journal makes this
program change routes as administrator; so the directory is made with full access for administrators and the system
only, nothing inherited. One that is there already is used only if it is no link, belongs to one of the two, and gives
nobody else any access. The owner alone says too little: a user cannot give a directory away, but may put one here that
an administrator made elsewhere (in ``C:\\`` every user may change and move what others make), and moved ones keep
their access list.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Final

from lanparty.link.journal import Owner
from lanparty.link.windows.winapi import security
from lanparty.link.windows.winapi.base import DWORD, HANDLE, LPWSTR, PVOID, ULONG, wide, wide_text
from lanparty.link.windows.winapi.dll import last_error
from lanparty.link.windows.winapi.security import ADVAPI32, FILETIME, KERNEL32, NTDLL
from lanparty.obs.errors import MachineError

__all__ = ["current_owner", "is_alive", "windows_state_directory"]

_PRIVATE: Final = "O:BAD:P(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)"
"""SDDL: it belongs to the administrators (BA); nothing inherited from above; all access to them and the system (SY),
for all that is in it. The owner is said: where User Account Control is off, or by the policy "Default owner for objects
created by members of the Administrators group", it would be the user, and the next start would not trust it."""
_TRUSTED: Final = re.compile(r"O:(BA|SY)D:[A-Z]*(\([^()]*;(BA|SY)\))+")
"""SDDL of a directory that is only theirs: the last part of an entry is whom it is for. A list that is not there at all
lets everybody in, and reads "NO_ACCESS_CONTROL"."""
_BIAS_AT: Final = 4
"""Where in Reserved1 is what clock settings have added to BootTime: 8 bytes, aligned, behind a ULONG."""


def current_owner() -> Owner:
    """Give this process. Raises MachineError."""
    return Owner(os.getpid(), process_started(os.getpid()) or 0, _boot(), 0)


def is_alive(owner: Owner, here: Owner) -> bool:
    """Whether that program still runs, as seen from ``here``."""
    return owner.boot == here.boot and process_started(owner.pid) == owner.started


def process_started(pid: int) -> int | None:
    """Give the moment at which a process was made, in 100 ns since 1601; None when it does not run.

    One that may not even be asked for its times is none of ours: those run as administrator, as this one does.
    """
    process = KERNEL32.OpenProcess(security.PROCESS_QUERY_LIMITED_INFORMATION, 0, pid)
    if not process:
        return None
    try:
        times = [FILETIME() for _ in range(4)]
        status = DWORD()
        if not KERNEL32.GetExitCodeProcess(process, ctypes.byref(status)):
            return None
        if status.value != security.STILL_ACTIVE:  # it has ended, and somebody still holds a handle of it
            return None
        if not KERNEL32.GetProcessTimes(process, *(ctypes.byref(time) for time in times)):
            return None
        return int(times[0].dwHighDateTime) << 32 | int(times[0].dwLowDateTime)
    finally:
        KERNEL32.CloseHandle(HANDLE(process))


def _boot() -> str:
    found = security.SYSTEM_TIMEOFDAY_INFORMATION()
    status = NTDLL.NtQuerySystemInformation(
        security.SystemTimeOfDayInformation, ctypes.byref(found), ctypes.sizeof(found), ctypes.byref(ULONG())
    )
    if status < 0:
        raise MachineError(f"Windows does not tell when it was started (status {status & 0xFFFFFFFF:#x})")
    bias = int.from_bytes(bytes(found.Reserved1)[_BIAS_AT : _BIAS_AT + 8], "little", signed=True)
    return f"{found.BootTime.QuadPart - bias:#x}"


def windows_state_directory() -> Path:
    """Give the directory of the journals; made where missing. Raises MachineError: it cannot be used."""
    place = Path(os.environ.get("PROGRAMDATA", "C:\\ProgramData")) / "lanparty"
    if not _make_private(place):
        _require_private(place)
    return place


def _make_private(place: Path) -> bool:
    """Make the directory; False: it is there."""
    descriptor = PVOID()
    if not ADVAPI32.ConvertStringSecurityDescriptorToSecurityDescriptorW(
        wide(_PRIVATE), security.SDDL_REVISION_1, ctypes.byref(descriptor), None
    ):
        raise _refused(place, last_error())
    attributes = security.SECURITY_ATTRIBUTES(ctypes.sizeof(security.SECURITY_ATTRIBUTES), descriptor.value, 0)
    try:
        if KERNEL32.CreateDirectoryW(wide(str(place)), ctypes.byref(attributes)):
            return True
        error = last_error()
    finally:
        KERNEL32.LocalFree(descriptor)
    if error == security.ERROR_ALREADY_EXISTS:
        return False
    raise _refused(place, error)


def _require_private(place: Path) -> None:
    found = KERNEL32.GetFileAttributesW(wide(str(place)))
    if found == security.INVALID_FILE_ATTRIBUTES:
        raise _refused(place, last_error())
    link = found & security.FILE_ATTRIBUTE_REPARSE_POINT
    directory = found & security.FILE_ATTRIBUTE_DIRECTORY
    if link or not directory or _TRUSTED.fullmatch(_security_of(place)) is None:
        raise MachineError(
            f"others than administrators may change {place}, so what is in it cannot be trusted; remove it and start "
            "again"
        )


def _security_of(place: Path) -> str:
    """Give the owner and the access list, as SDDL."""
    descriptor, text = PVOID(), LPWSTR()
    parts = security.OWNER_SECURITY_INFORMATION | security.DACL_SECURITY_INFORMATION
    error = ADVAPI32.GetNamedSecurityInfoW(
        wide(str(place)), security.SE_FILE_OBJECT, parts, None, None, None, None, ctypes.byref(descriptor)
    )
    if error:
        raise _refused(place, error)
    try:
        if not ADVAPI32.ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor, security.SDDL_REVISION_1, parts, ctypes.byref(text), None
        ):
            raise _refused(place, last_error())
        try:
            return wide_text(text)
        finally:
            KERNEL32.LocalFree(ctypes.cast(text, PVOID))
    finally:
        KERNEL32.LocalFree(descriptor)


def _refused(place: Path, error: int) -> MachineError:
    return MachineError(
        f"cannot keep the list of what this program changes in {place} (Windows error {error}): "
        "start it as administrator"
    )
