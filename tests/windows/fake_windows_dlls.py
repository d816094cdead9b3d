# ruff: noqa: N802
"""The DLLs of a `fake_windows.FakeWindows`: the parts of others, tied to the one machine.

Each call that changes something asks the machine first (`FakeWindows.change`): it may be refused, or the program that
makes it may be dead.
"""

import collections
import ctypes
import os
import threading
from pathlib import Path

from fake_iphelper import LOOPBACK, WRITES, FakeCom, FakeIpHelper
from fake_kernel import FakeKernel

from lanparty.link.windows.iphelper import socket_address, text_of
from lanparty.link.windows.winapi import cfgmgr32, ole32, security, tapwindows
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.link.windows.winapi.base import INVALID_HANDLE_VALUE, LPWSTR, wide, wide_text

FOR_EVER = 0xFFFFFFFF
ADMINISTRATORS = "O:BAD:P(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)"
"""A directory that is theirs alone, as SDDL."""
PROCESS = 0x9000
CHANGES = WRITES | {
    "RegSetValueExW",
    "RegDeleteValueW",
    "CM_Disable_DevNode",
    "CM_Enable_DevNode",
    "INetwork::SetCategory",
    "IpRenewAddress",
    "IpReleaseAddress",
    "CreateFileW",
    "DeviceIoControl",
}
"""Calls that change something outside the program."""


class Kernel(FakeKernel):
    """fake_kernel, whose wires end in stacks, and whose processes and directories are there."""

    def __init__(self, windows):
        super().__init__(windows)
        self.windows = windows
        self.calls = self.registry.calls = windows.log
        self.automatic = False

    def _complete(self, tap, io, status, size):
        super()._complete(tap, io, status, size)
        self.windows.soon(self.deliver)

    def CreateFileW(self, path, access, share, template, disposition, flags, other):
        if self.windows.change("CreateFileW"):
            self._fail(5)
            return INVALID_HANDLE_VALUE
        return super().CreateFileW(path, access, share, template, disposition, flags, other)

    def CloseHandle(self, handle):
        if handle == PROCESS:
            return 1
        if not any(tap.handle == handle for tap in self.taps) and handle not in self._events:
            assert self.windows.dead, "a handle is closed twice"
            return 0
        result = super().CloseHandle(handle)
        self.windows.follow_media()
        return result

    def CancelIoEx(self, handle, overlapped):
        if self.windows.dead and not any(tap.handle == handle for tap in self.taps):
            return self._fail(6)
        return super().CancelIoEx(handle, overlapped)

    def DeviceIoControl(self, handle, code, source, given, target, room, size, overlapped):
        if code == tapwindows.TAP_WIN_IOCTL_SET_MEDIA_STATUS and self.windows.change("DeviceIoControl"):
            return self._fail(5)
        if self.windows.dead:
            return self._fail(5)
        result = super().DeviceIoControl(handle, code, source, given, target, room, size, overlapped)
        self.windows.follow_media()
        return result

    def ReadFile(self, handle, buffer, size, read, overlapped):
        self.windows.note_once("ReadFile")
        return self._fail(6) if self.windows.dead else super().ReadFile(handle, buffer, size, read, overlapped)

    def WriteFile(self, handle, buffer, size, written, overlapped):
        self.windows.note_once("WriteFile")
        if self.windows.dead:
            return self._fail(6)
        result = super().WriteFile(handle, buffer, size, written, overlapped)
        tap = self._tap(handle)
        self.windows.heard(tap, tap.written)
        tap.written.clear()
        return result

    def CM_Disable_DevNode(self, device, flags):
        if self.windows.change("CM_Disable_DevNode"):
            return cfgmgr32.CR_FAILURE
        result = super().CM_Disable_DevNode(device, flags)
        self.windows.follow_media()
        return result

    def CM_Enable_DevNode(self, device, flags):
        if self.windows.change("CM_Enable_DevNode"):
            return cfgmgr32.CR_FAILURE
        return super().CM_Enable_DevNode(device, flags)

    # Processes and directories

    def OpenProcess(self, access, inherit, pid):
        return PROCESS if pid in self.windows.processes else 0

    def GetExitCodeProcess(self, process, code):
        code[0] = security.STILL_ACTIVE
        return 1

    def GetProcessTimes(self, process, created, *others):
        created.contents.dwLowDateTime = self.windows.processes[os.getpid()]
        created.contents.dwHighDateTime = 0
        return 1

    def CreateDirectoryW(self, path, attributes):
        try:
            Path(wide_text(path)).mkdir()
        except FileExistsError:
            return self._fail(security.ERROR_ALREADY_EXISTS)
        return 1

    def GetFileAttributesW(self, path):
        return security.FILE_ATTRIBUTE_DIRECTORY

    def LocalFree(self, memory):
        return None


class Advapi:
    """The registry, and who owns a directory."""

    def __init__(self, windows):
        self._windows = windows
        self._registry = windows.kernel.registry
        self._security = wide(ADMINISTRATORS)

    def __getattr__(self, name):
        return getattr(self._registry, name)

    def RegSetValueExW(self, key, name, reserved, kind, data, size):
        if self._windows.change("RegSetValueExW"):
            return ip.ERROR_ACCESS_DENIED
        return self._registry.RegSetValueExW(key, name, reserved, kind, data, size)

    def RegDeleteValueW(self, key, name):
        if self._windows.change("RegDeleteValueW"):
            return ip.ERROR_ACCESS_DENIED
        return self._registry.RegDeleteValueW(key, name)

    def ConvertStringSecurityDescriptorToSecurityDescriptorW(self, text, revision, descriptor, size):
        descriptor[0] = 0xDE5C
        return 1

    def GetNamedSecurityInfoW(self, name, kind, what, owner, group, dacl, sacl, descriptor):
        descriptor[0] = 0xDE5C
        return 0

    def ConvertSecurityDescriptorToStringSecurityDescriptorW(self, descriptor, revision, parts, text, size):
        text[0] = ctypes.cast(self._security, LPWSTR)
        return 1


class Others:
    """ntdll.dll and shell32.dll."""

    def __init__(self, windows):
        self._windows = windows

    def NtQuerySystemInformation(self, kind, buffer, size, needed):
        security.SYSTEM_TIMEOFDAY_INFORMATION.from_address(buffer).BootTime.QuadPart = self._windows.booted
        return 0

    def IsUserAnAdmin(self):
        return int(self._windows.administrator)


class IpHelper(FakeIpHelper):
    """fake_iphelper with addresses, and with the DHCP client's two calls."""

    def __init__(self, windows):
        super().__init__(windows.network)
        self.windows = windows
        self._given = collections.deque(maxlen=1000)
        """What callers may still look at; they may be several, in several threads."""

    def _begin(self, function):
        if function in CHANGES and self.windows.change(function):
            return ip.ERROR_ACCESS_DENIED
        return super()._begin(function)

    def SetIpInterfaceEntry(self, row):
        if row.contents.Family == ip.AF_INET and row.contents.NlMtu < 68:  # RFC 791, section 3.2
            self.network.calls.append("SetIpInterfaceEntry")
            return ip.ERROR_INVALID_PARAMETER
        return self._told(super().SetIpInterfaceEntry(row))

    def CreateIpForwardEntry2(self, row):
        return self._told(super().CreateIpForwardEntry2(row))

    def DeleteIpForwardEntry2(self, row):
        name = self._name(row.contents)
        result = self._told(super().DeleteIpForwardEntry2(row))
        if not result:
            self.windows.route_deleted(name)
        return result

    def SetInterfaceDnsSettings(self, guid, settings):
        return self._told(super().SetInterfaceDnsSettings(guid, settings))

    def _told(self, result):
        if not result:
            self.windows.tell()
            self.windows.settle()
        return result

    # Addresses

    def InitializeUnicastIpAddressEntry(self, row):
        ctypes.memset(row, 0, ctypes.sizeof(ip.MIB_UNICASTIPADDRESS_ROW))
        row.contents.OnLinkPrefixLength = 255
        row.contents.PrefixOrigin = row.contents.SuffixOrigin = 16
        row.contents.ValidLifetime = row.contents.PreferredLifetime = FOR_EVER

    def _owner(self, row):
        found = self._by_luid(row.contents.InterfaceLuid.Value)
        return None if found is None else self.windows.stacks.get(found.guid)

    def GetUnicastIpAddressEntry(self, row):
        if error := self._begin("GetUnicastIpAddressEntry"):
            return error
        found = self._by_luid(row.contents.InterfaceLuid.Value)
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        owner, prefix = self.network.addresses.get(text_of(row.contents.Address), (None, 0))
        if owner != found.guid:
            return ip.ERROR_NOT_FOUND
        row.contents.OnLinkPrefixLength = prefix
        return 0

    def CreateUnicastIpAddressEntry(self, row):
        if error := self._begin("CreateUnicastIpAddressEntry"):
            return error
        stack, address = self._owner(row), text_of(row.contents.Address)
        if stack is None:
            return ip.ERROR_NOT_FOUND
        if not row.contents.OnLinkPrefixLength <= 32:
            return ip.ERROR_INVALID_PARAMETER
        if address in self.network.addresses:
            return ip.ERROR_OBJECT_ALREADY_EXISTS
        stack.put_on(address, row.contents.OnLinkPrefixLength, self.windows.now)
        self.windows.settle()
        return 0

    def DeleteUnicastIpAddressEntry(self, row):
        if error := self._begin("DeleteUnicastIpAddressEntry"):
            return error
        stack = self._owner(row)
        if stack is None or not stack.take_off(text_of(row.contents.Address)):
            return ip.ERROR_NOT_FOUND
        self.windows.settle()
        return 0

    def GetAdaptersAddresses(self, family, flags, reserved, buffer, size):
        with self.windows.lock:
            result = self._all_addresses(family, flags, reserved, buffer, size)
            self._given.append(self._adapters)
        return result

    def _all_addresses(self, family, flags, reserved, buffer, size):
        result = super().GetAdaptersAddresses(family, flags, reserved, buffer, size)
        if result:
            return result
        for at, each in enumerate(each for each in self.network.interfaces.values() if each.guid != LOOPBACK):
            stack = self.windows.stacks.get(each.guid)
            found = [self._unicast(*entry) for entry in self.windows.addresses_of(each.guid)]
            first = ctypes.POINTER(ip.IP_ADAPTER_UNICAST_ADDRESS_LH)()
            for entry in reversed(found):
                entry.Next = first
                first = ctypes.pointer(entry)
            buffer[at].FirstUnicastAddress = first
            if stack is not None:
                buffer[at].PhysicalAddress[: len(stack.mac)] = list(stack.mac)
                buffer[at].PhysicalAddressLength = len(stack.mac)
            buffer[at].Flags = ip.IP_ADAPTER_DHCP_ENABLED if stack is None or stack.dhcp_enabled else 0
            if stack is not None and stack.dhcp.bound is not None:
                server = socket_address(stack.dhcp.bound.server)
                self._adapters.append(server)
                buffer[at].Dhcpv4Server.lpSockaddr = ctypes.cast(ctypes.byref(server), ctypes.POINTER(ip.SOCKADDR))
                buffer[at].Dhcpv4Server.iSockaddrLength = ctypes.sizeof(ip.SOCKADDR_IN)
        return 0

    def _unicast(self, address, prefix, origin, state, seconds, lease):
        inet = socket_address(address)
        entry = ip.IP_ADAPTER_UNICAST_ADDRESS_LH(
            PrefixOrigin=origin,
            SuffixOrigin=origin if origin != ip.IpPrefixOriginWellKnown else ip.IpSuffixOriginLinkLayerAddress,
            DadState=state,
            ValidLifetime=seconds,
            PreferredLifetime=seconds,
            LeaseLifetime=lease,
            OnLinkPrefixLength=prefix,
        )
        entry.Address.lpSockaddr = ctypes.cast(ctypes.byref(inet), ctypes.POINTER(ip.SOCKADDR))
        entry.Address.iSockaddrLength = ctypes.sizeof(ip.SOCKADDR_IN)
        self._adapters += [inet, entry]
        return entry

    # Windows' DHCP client: both calls wait for it, and are made in a thread

    def IpRenewAddress(self, row):
        return self._asked("IpRenewAddress", row)

    def IpReleaseAddress(self, row):
        return self._asked("IpReleaseAddress", row)

    def _asked(self, function, row):
        assert threading.current_thread() is not threading.main_thread(), f"{function} blocks the event loop"
        if error := self._begin(function):
            return error
        interface = next((each for each in self.network.interfaces.values() if each.index == row.contents.Index), None)
        stack = None if interface is None else self.windows.stacks.get(interface.guid)
        if stack is None or wide_text(row.contents.Name) != f"\\DEVICE\\TCPIP_{interface.guid}":
            return ip.ERROR_INVALID_PARAMETER
        if not stack.dhcp_enabled:
            return ip.ERROR_NOT_SUPPORTED
        return self.windows.ask(stack, function)


class Com(FakeCom):
    """fake_iphelper's, of a program that may be dead or refused."""

    def __init__(self, windows):
        super().__init__(windows.network)
        self._windows = windows

    def _begin(self, function):
        if function in CHANGES and self._windows.change(function):
            return ole32.E_ACCESSDENIED
        return super()._begin(function)


class Networks(dict):
    """Categories by network; a new one is something that happened."""

    def __init__(self, windows):
        super().__init__()
        self._windows = windows

    def __setitem__(self, name, category):
        super().__setitem__(name, category)
        self._windows.settle()
