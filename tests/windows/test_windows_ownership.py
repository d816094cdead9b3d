"""Who wrote a journal on Windows, and where it is."""

# ruff: noqa: N802
import ctypes
import os
from pathlib import Path

import attrs
import pytest
from fake_dll import FakeDll

from lanparty.link.journal import Owner
from lanparty.link.windows import ownership
from lanparty.link.windows.ownership import current_owner, is_alive, process_started, windows_state_directory
from lanparty.link.windows.winapi import security
from lanparty.link.windows.winapi.base import LPWSTR, PVOID, wide, wide_text
from lanparty.link.windows.winapi.dll import FakeDlls, fakes
from lanparty.obs.errors import MachineError

USER = "S-1-5-21-1-2-3-1001"
OURS = "O:BAD:PAI(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)"
"""What Windows may say of what we made: it counts flags of its own."""
PARTS = security.OWNER_SECURITY_INFORMATION | security.DACL_SECURITY_INFORMATION
BOOT = 133_000_000_000_000_000


class FakeWindows(FakeDlls):
    """Processes, the time of the start, and whose a directory is."""

    def __init__(self):
        super().__init__()
        self.processes = {os.getpid(): (1_000_000_000_001, security.STILL_ACTIVE)}
        self.open_handles = 0
        self.boot, self.bias = BOOT, 0
        self.security = {}
        """Owner and access list of a directory, as SDDL."""
        self.reparse = set()
        self.made = []
        self.allocated = {}
        self.refuse = 0
        self.dlls = []

    def open(self, name, prototypes):
        self.dlls.append(FakeDll(self, prototypes))
        return self.dlls[-1]

    def _memory(self, value):
        self.allocated[ctypes.addressof(value)] = value
        return ctypes.addressof(value)

    def OpenProcess(self, access, inherit, pid):
        assert access == security.PROCESS_QUERY_LIMITED_INFORMATION
        if pid not in self.processes:
            self.last_error = 87
            return 0
        self.open_handles += 1
        return pid

    def CloseHandle(self, handle):
        self.open_handles -= 1
        return 1

    def GetExitCodeProcess(self, handle, status):
        status[0] = self.processes[handle][1]
        return 1

    def GetProcessTimes(self, handle, made, ended, kernel, user):
        started = self.processes[handle][0]
        made[0].dwHighDateTime, made[0].dwLowDateTime = started >> 32, started & 0xFFFFFFFF
        return 1

    def NtQuerySystemInformation(self, what, buffer, size, needed):
        assert (what, size) == (security.SystemTimeOfDayInformation, 48)
        if self.refuse:
            return -0x3FFFFFDE
        found = security.SYSTEM_TIMEOFDAY_INFORMATION.from_address(buffer)
        found.BootTime.QuadPart = self.boot
        ctypes.memmove(buffer + 32, self.bias.to_bytes(8, "little", signed=True), 8)
        return 0

    def ConvertStringSecurityDescriptorToSecurityDescriptorW(self, text, revision, descriptor, size):
        found = wide(wide_text(text))
        descriptor[0] = self._memory(found)
        return 1

    def LocalFree(self, memory):
        del self.allocated[memory]
        return

    def CreateDirectoryW(self, path, attributes):
        place = Path(wide_text(path))
        if place.exists():
            self.last_error = security.ERROR_ALREADY_EXISTS
            return 0
        if self.refuse:
            self.last_error = self.refuse
            return 0
        place.mkdir()
        self.security[place] = OURS
        self.made.append(wide_text(ctypes.cast(attributes.contents.lpSecurityDescriptor, LPWSTR)))
        return 1

    def GetFileAttributesW(self, path):
        place = Path(wide_text(path))
        link = security.FILE_ATTRIBUTE_REPARSE_POINT if place in self.reparse else 0
        return link | (security.FILE_ATTRIBUTE_DIRECTORY if place.is_dir() else 0)

    def GetNamedSecurityInfoW(self, path, kind, what, owner, group, dacl, sacl, descriptor):
        assert (kind, what) == (security.SE_FILE_OBJECT, PARTS)
        assert not any((owner, group, dacl, sacl))
        descriptor[0] = self._memory(wide(self.security[Path(wide_text(path))]))
        return 0

    def ConvertSecurityDescriptorToStringSecurityDescriptorW(self, descriptor, revision, what, text, size):
        assert (revision, what) == (security.SDDL_REVISION_1, PARTS)
        copy = wide(wide_text(ctypes.cast(descriptor, LPWSTR)))
        ctypes.cast(text, ctypes.POINTER(PVOID))[0] = self._memory(copy)
        return 1


@pytest.fixture
def windows(monkeypatch, tmp_path):
    monkeypatch.setenv("PROGRAMDATA", str(tmp_path))
    found = FakeWindows()
    with fakes(found):
        yield found
    assert not found.allocated
    assert not found.open_handles
    assert not [error for dll in found.dlls for error in dll.raised]


def test_this_process_is_alive_and_one_of_another_time_is_not(windows):
    here = current_owner()
    assert here == Owner(os.getpid(), 1_000_000_000_001, hex(BOOT), 0)
    assert is_alive(here, here)
    assert not is_alive(attrs.evolve(here, started=here.started + 1), here)
    assert not is_alive(attrs.evolve(here, boot="0x1"), here)
    assert not is_alive(attrs.evolve(here, pid=os.getpid() + 1), here)


def test_a_process_that_has_ended_does_not_run_although_somebody_has_a_handle_of_it(windows):
    windows.processes[77] = (5, 1)
    assert process_started(77) is None
    windows.processes[77] = (5, security.STILL_ACTIVE)
    assert process_started(77) == 5


def test_setting_the_clock_is_no_reboot(windows):
    before = current_owner()
    windows.boot, windows.bias = BOOT + 36_000_000_000, 36_000_000_000
    assert current_owner().boot == before.boot
    windows.boot += 1
    assert current_owner().boot != before.boot
    windows.refuse = 1
    with pytest.raises(MachineError, match="when it was started"):
        current_owner()


def test_the_directory_is_made_for_administrators_only(windows, tmp_path):
    assert windows_state_directory() == tmp_path / "lanparty"
    assert windows.made == [ownership._PRIVATE]
    assert windows_state_directory() == tmp_path / "lanparty"
    assert len(windows.made) == 1


@pytest.mark.parametrize(
    "trap",
    [
        "a link",
        "a file",
        f"O:{USER}D:P(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)",
        f"O:BAD:P(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;;0x1301bf;;;{USER})",
        "O:BAD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;ID;0x1301bf;;;AU)",  # made in C:\, and moved
        "O:BAD:P(A;OICI;FA;;;BA)(A;OICIIO;GA;;;CO)",
        'O:BAD:P(A;OICI;FA;;;BA)(XA;OICI;FA;;;WD;(@User.x=="(A;;FA;;;BA)"))',
        "O:BAD:NO_ACCESS_CONTROL",
        "O:BA",
    ],
)
def test_a_directory_that_a_user_could_have_made_or_can_change_is_not_trusted(windows, tmp_path, trap):
    place = tmp_path / "lanparty"
    if trap == "a file":
        place.touch()
    else:
        place.mkdir()
    windows.security[place] = trap if trap.startswith("O:") else OURS
    windows.reparse = {place} if trap == "a link" else set()
    with pytest.raises(MachineError, match="cannot be trusted"):
        windows_state_directory()


def test_no_permission_is_told(windows):
    windows.refuse = 5
    with pytest.raises(MachineError, match="start it as administrator"):
        windows_state_directory()
