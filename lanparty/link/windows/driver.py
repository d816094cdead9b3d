"""The driver tap-windows6: opening one of its adapters, and asking it for things (DeviceIoControl).

Owns: the device's path, who has it when it does not open, control codes and what goes with them, the least version.
Must not know: how adapters are found (adapters.py), how frames go through (tap.py).

What an adapter's device answers to CreateFile, by the driver's source (``src/device.c``, release 9.27.0):

    ERROR_GEN_FAILURE       STATUS_UNSUCCESSFUL: some program has it open; it is exclusive
    ERROR_FILE_NOT_FOUND    there is no such device: the adapter is disabled, or is being restarted
    ERROR_ACCESS_DENIED     the adapter's setting "Non-Admin Access" is off, and we are not an administrator
"""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from lanparty.link.windows.winapi.base import DWORD, INVALID_HANDLE_VALUE, wide
from lanparty.link.windows.winapi.dll import last_error
from lanparty.link.windows.winapi.kernel32 import (
    ERROR_ACCESS_DENIED,
    ERROR_BUSY,
    ERROR_FILE_NOT_FOUND,
    ERROR_GEN_FAILURE,
    ERROR_IO_PENDING,
    ERROR_NO_SUCH_DEVICE,
    ERROR_PATH_NOT_FOUND,
    ERROR_SHARING_VIOLATION,
    FILE_ATTRIBUTE_SYSTEM,
    FILE_FLAG_OVERLAPPED,
    GENERIC_READ,
    GENERIC_WRITE,
    KERNEL32,
    OPEN_EXISTING,
    OVERLAPPED,
)
from lanparty.link.windows.winapi.tapwindows import (
    TAP_WIN_IOCTL_GET_MAC,
    TAP_WIN_IOCTL_GET_MTU,
    TAP_WIN_IOCTL_GET_VERSION,
    TAP_WIN_IOCTL_SET_MEDIA_STATUS,
    TAP_WIN_SUFFIX,
    USERMODEDEVICEDIR,
)
from lanparty.obs.errors import MachineError

__all__ = [
    "GET_THE_DRIVER",
    "LEAST_VERSION",
    "AdapterBusyError",
    "AdapterStoppedError",
    "check_version",
    "close_adapter",
    "driver_mac",
    "driver_mtu",
    "driver_version",
    "open_adapter",
    "set_media_status",
]

LEAST_VERSION: Final = (9, 24)
"""The first release, of 2019, whose adapter lives on while Windows sleeps (tap-windows6#86). Those before it halt the
adapter then, and cancel all reads: for us it would be gone, and a laptop's lid would end the game. Those before 9.21
are another driver by the same component id, for the NDIS of Windows XP."""

GET_THE_DRIVER: Final = (
    "install OpenVPN with its component 'TAP-Windows6' (openvpn.net/community-downloads), or the driver alone "
    "(github.com/OpenVPN/tap-windows6/releases)"
)

_ADD_ONE: Final = (
    "add one more ('tapctl create --hwid root\\tap0901' in an administrator's console; tapctl is in OpenVPN's "
    "folder 'bin')"
)


class AdapterBusyError(MachineError):
    """Another program has the adapter."""


class AdapterStoppedError(MachineError):
    """The adapter is there, but its driver does not run: disabled, or on its way up or down."""


def open_adapter(guid: str, name: str) -> int:
    """Open the adapter with this GUID (in braces) for overlapped use; nobody else can meanwhile. Give the handle.

    ``name`` is for the sentences. Raises AdapterBusyError, AdapterStoppedError, MachineError.
    """
    handle: int | None = KERNEL32.CreateFileW(
        wide(f"{USERMODEDEVICEDIR}{guid}{TAP_WIN_SUFFIX}"),
        GENERIC_READ | GENERIC_WRITE,
        0,
        None,
        OPEN_EXISTING,
        FILE_ATTRIBUTE_SYSTEM | FILE_FLAG_OVERLAPPED,
        None,
    )
    if handle is not None and handle != INVALID_HANDLE_VALUE:
        return handle
    error = last_error()
    if error in {ERROR_GEN_FAILURE, ERROR_SHARING_VIOLATION, ERROR_BUSY}:
        raise AdapterBusyError(
            f"the network adapter '{name}' is used by another program (a VPN, or lanparty already running): close "
            f"that one, choose another adapter (--tap NAME), or {_ADD_ONE}"
        )
    if error in {ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND, ERROR_NO_SUCH_DEVICE}:
        raise AdapterStoppedError(
            f"the network adapter '{name}' is disabled: enable it in Windows' list of network connections (ncpa.cpl)"
        )
    if error == ERROR_ACCESS_DENIED:
        raise MachineError(f"this user may not open the network adapter '{name}': run this as administrator")
    raise MachineError(
        f"the network adapter '{name}' does not open (Windows error {error}): restart the computer; if that does not "
        f"help, {GET_THE_DRIVER}"
    )


def close_adapter(handle: int) -> None:
    """Close a handle. The driver then pulls the cable out by itself, and cancels what is under way."""
    KERNEL32.CloseHandle(handle)


def driver_version(handle: int, name: str) -> tuple[int, int]:
    """Give the driver's version, major and minor. Raises MachineError."""
    major, minor, _debug = struct.unpack("<III", _control(handle, name, TAP_WIN_IOCTL_GET_VERSION, bytes(12)))
    return major, minor


def check_version(handle: int, name: str) -> None:
    """Raise MachineError where the driver is older than LEAST_VERSION."""
    major, minor = driver_version(handle, name)
    if (major, minor) < LEAST_VERSION:
        wanted = ".".join(map(str, LEAST_VERSION))
        raise MachineError(
            f"the driver of the network adapter '{name}' is version {major}.{minor}, and {wanted} is the oldest that "
            f"works: {GET_THE_DRIVER}, then restart the computer"
        )


def driver_mac(handle: int, name: str) -> bytes:
    """Give the adapter's MAC as it is now, 6 bytes. Raises MachineError."""
    return _control(handle, name, TAP_WIN_IOCTL_GET_MAC, bytes(6))


def driver_mtu(handle: int, name: str) -> int:
    """Give the MTU of the adapter's advanced settings, in bytes. Raises MachineError.

    It does not say what comes: the driver tells Windows 1500, whatever is set (``src/adapter.c``; tap-windows6#40).
    """
    (mtu,) = struct.unpack("<I", _control(handle, name, TAP_WIN_IOCTL_GET_MTU, bytes(4)))
    return int(mtu)


def set_media_status(handle: int, name: str, connected: bool) -> None:
    """Plug the adapter's cable in, or pull it out. Raises MachineError."""
    _control(handle, name, TAP_WIN_IOCTL_SET_MEDIA_STATUS, struct.pack("<I", connected))


def _control(handle: int, name: str, code: int, data: bytes) -> bytes:
    """Send one control code with ``data``, and give as many bytes back.

    The handle is an overlapped one, so the call is too, and may say "pending". This driver answers within the call, so
    waiting for it here blocks nobody. The event's lowest bit keeps the answer from the completion port, which would
    not know it (Microsoft, GetQueuedCompletionStatus: "low-order bit set").
    """
    event = KERNEL32.CreateEventW(None, True, False, None)
    if not event:
        raise MachineError(f"Windows gives this program no event (error {last_error()}): restart the computer")
    try:
        buffer = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
        overlapped, size = OVERLAPPED(hEvent=event | 1), DWORD()
        done = KERNEL32.DeviceIoControl(
            handle, code, buffer, len(data), buffer, len(data), None, ctypes.byref(overlapped)
        )
        if done or last_error() == ERROR_IO_PENDING:
            done = KERNEL32.GetOverlappedResult(handle, ctypes.byref(overlapped), ctypes.byref(size), True)
        if not done:
            raise MachineError(
                f"the network adapter '{name}' does not answer (code {code:#x}, Windows error {last_error()}): "
                "disable and enable it in Windows' list of network connections (ncpa.cpl), and start again"
            )
        return bytes(buffer)
    finally:
        KERNEL32.CloseHandle(event)
