"""The TAP-Windows6 adapters of this machine: which there are, which one to use, and the MAC that one has.

Owns: where the registry lists adapters, the choice, the value NetworkAddress, restarting an adapter.
Must not know: the journal (transaction.py), frames (tap.py).

Path to an adapter with our MAC:

1. ``find_adapters``: the subkeys of the class of network adapters whose ComponentId is tap0901 or root\\tap0901.
2. ``choose_adapter``: the one that was asked for, or the first that opens.
3. Its driver tells its MAC. It is ours: done. This is the usual case on a machine where somebody set it once.
4. Else ``mac_change`` says what is to be changed, the caller writes that into its journal, then ``apply_mac_change``
   sets NetworkAddress and restarts the adapter: the driver reads the value only when it starts.
5. ``undo_mac_change`` puts the former value back and restarts the adapter again, at the end of the run or, from the
   journal, at the start of the next.

Leaving the MAC would save the two restarts, a second or two each. But the adapter is not ours: OpenVPN may use it next,
and two machines that were set up from the same image would go on with one MAC. So what was found is put back. Whoever
does not want to wait sets the adapter's "MAC Address" once by hand, and nothing is ever changed.

The restart is CM_Disable_DevNode and CM_Enable_DevNode, not the class installers' DIF_PROPERTYCHANGE: that loads
co-installers into this process, needs a program as wide as Windows, and its answers are less exact. Without
CM_DISABLE_PERSIST a disabled adapter is enabled by the next start of Windows, so a crash between the two calls is put
right even where our journal is lost.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

import attrs

from lanparty.link.windows.driver import (
    GET_THE_DRIVER,
    AdapterBusyError,
    AdapterStoppedError,
    open_adapter,
)
from lanparty.link.windows.registry import (
    RegistryDeniedError,
    RegistryMissingError,
    delete_value,
    read_text,
    subkeys,
    write_text,
)
from lanparty.link.windows.winapi.base import wide
from lanparty.link.windows.winapi.cfgmgr32 import (
    CFGMGR32,
    CM_DISABLE_UI_NOT_OK,
    CM_LOCATE_DEVNODE_NORMAL,
    CR_ACCESS_DENIED,
    CR_SUCCESS,
    DEVINST,
)
from lanparty.link.windows.winapi.tapwindows import ADAPTER_KEY, NETWORK_CONNECTIONS_KEY
from lanparty.obs.errors import MachineError

__all__ = [
    "DriverMissingError",
    "MacChange",
    "TapAdapter",
    "apply_mac_change",
    "choose_adapter",
    "current_network_address",
    "find_adapters",
    "mac_change",
    "restart_adapter",
    "set_network_address",
    "undo_mac_change",
]

COMPONENT_IDS: Final = frozenset({"tap0901", "root\\tap0901"})
"""What the driver's INF file calls it: as an old installer enumerates it, and as OpenVPN's do since 2.4."""
NETWORK_ADDRESS: Final = "NetworkAddress"
"""The value by which every network driver is told another MAC (Microsoft, NdisReadNetworkAddress)."""
_SERVICE_KEY: Final = r"SYSTEM\CurrentControlSet\Services\tap0901"
_CREATE: Final = "'tapctl create --hwid root\\tap0901' in an administrator's console (it is in OpenVPN's folder 'bin')"


class DriverMissingError(MachineError):
    """There is no TAP-Windows6 adapter on this machine."""


@attrs.frozen
class TapAdapter:
    """One TAP-Windows6 adapter, as the registry describes it."""

    guid: str
    """NetCfgInstanceId: the interface's GUID, in braces; a part of the device's path."""
    name: str
    """What people call it ("OpenVPN TAP-Windows6"); where there is no name, the GUID."""
    key: str
    """Its class key, under HKEY_LOCAL_MACHINE; NetworkAddress is there."""
    device: str | None
    """Its device instance id ("ROOT\\NET\\0000"); None: the registry has none, so it cannot be restarted."""


@attrs.frozen
class MacChange:
    """NetworkAddress of one adapter, and what it is to be. Plain data, for a journal."""

    adapter: TapAdapter
    before: str | None
    """None: the value was not there, and the driver has a MAC of its own."""
    after: str
    """12 hexadecimal digits."""


def find_adapters() -> list[TapAdapter]:
    """Give all TAP-Windows6 adapters, in the order of the registry. Raises MachineError."""
    found = []
    try:
        numbers = subkeys(ADAPTER_KEY)
    except RegistryMissingError:
        return []  # a Windows that never had a network adapter
    for number in numbers:
        try:
            adapter = _adapter(f"{ADAPTER_KEY}\\{number}")
        except (RegistryDeniedError, RegistryMissingError):
            continue  # "Properties" lets nobody in; an adapter may be removed while we look.
        if adapter is not None:
            found.append(adapter)
    return found


def _adapter(key: str) -> TapAdapter | None:
    component, guid = read_text(key, "ComponentId"), read_text(key, "NetCfgInstanceId")
    if component is None or component.lower() not in COMPONENT_IDS or not guid:
        return None
    connection = f"{NETWORK_CONNECTIONS_KEY}\\{guid}\\Connection"
    device = read_text(key, "DeviceInstanceID") or read_text(connection, "PnPInstanceId")
    return TapAdapter(guid, read_text(connection, "Name") or guid, key, device)


def choose_adapter(name: str | None) -> tuple[TapAdapter, int]:
    """Open the adapter of this name or GUID, in any case of letters, or the first that opens.

    Gives it and its handle, which is the caller's: whoever only looked would lose it to somebody else meanwhile.
    Raises DriverMissingError, AdapterBusyError, AdapterStoppedError, MachineError.
    """
    adapters = find_adapters()
    if not adapters:
        if read_text(_SERVICE_KEY, "ImagePath") is None:
            raise DriverMissingError(f"this computer has no TAP-Windows6 network adapter: {GET_THE_DRIVER}")
        raise DriverMissingError(
            f"this computer has the driver TAP-Windows6, but no network adapter of it: add one, by {_CREATE}"
        )
    if name is not None:
        wanted = [
            adapter for adapter in adapters if name.casefold() in {adapter.name.casefold(), adapter.guid.casefold()}
        ]
        if not wanted:
            raise MachineError(
                f"this computer has no TAP-Windows6 network adapter called '{name}'; it has {_names(adapters)}"
            )
        return wanted[0], open_adapter(wanted[0].guid, wanted[0].name)
    reasons: list[MachineError] = []
    for adapter in adapters:
        try:
            return adapter, open_adapter(adapter.guid, adapter.name)
        except (AdapterBusyError, AdapterStoppedError) as error:
            reasons.append(error)
    if len(reasons) == 1:
        raise reasons[0]
    raise AdapterBusyError(
        f"no TAP-Windows6 network adapter of this computer is free: {_names(adapters)} are used by other programs or "
        f"disabled; close such a program, or add one more adapter, by {_CREATE}"
    )


def _names(adapters: Sequence[TapAdapter]) -> str:
    return ", ".join(f"'{adapter.name}'" for adapter in adapters)


def current_network_address(adapter: TapAdapter) -> str | None:
    """Give the adapter's NetworkAddress as it is written there; None: there is none.

    Raises RegistryMissingError: the adapter was removed.
    """
    guid = read_text(adapter.key, "NetCfgInstanceId")
    if guid is None or guid.casefold() != adapter.guid.casefold():  # The number of a removed adapter is given again.
        raise RegistryMissingError(f"the network adapter '{adapter.name}' is no longer there")
    return read_text(adapter.key, NETWORK_ADDRESS)


def set_network_address(adapter: TapAdapter, value: str | None) -> None:
    """Write the adapter's NetworkAddress, or remove it; it counts from the adapter's next start.

    Raises MachineError: no administrator, or the adapter was removed.
    """
    try:
        if value is None:
            delete_value(adapter.key, NETWORK_ADDRESS)
        else:
            write_text(adapter.key, NETWORK_ADDRESS, value)
    except RegistryDeniedError:
        raise MachineError(
            f"the MAC address of the network adapter '{adapter.name}' cannot be set without administrator rights: "
            "run this as administrator"
        ) from None


def restart_adapter(adapter: TapAdapter) -> None:
    """Stop the adapter's driver and start it again. Takes a second or two, and blocks meanwhile.

    It is started even where it was stopped before. Raises MachineError with what to do.
    """
    device = DEVINST()
    if adapter.device is None:
        raise MachineError(f"{_not_restarted(adapter)} (its device is not in the registry)")
    instance = wide(adapter.device)
    error = CFGMGR32.CM_Locate_DevNodeW(ctypes.byref(device), instance, CM_LOCATE_DEVNODE_NORMAL)
    if error == CR_SUCCESS:
        stopped = CFGMGR32.CM_Disable_DevNode(device, CM_DISABLE_UI_NOT_OK)
        error = CFGMGR32.CM_Enable_DevNode(device, 0)
        if error != CR_SUCCESS:  # Left disabled it is of no use to anybody, so it is asked for once more.
            error = CFGMGR32.CM_Enable_DevNode(device, 0)
        error = error if stopped == CR_SUCCESS else stopped
    if error == CR_ACCESS_DENIED:
        raise MachineError(
            f"the network adapter '{adapter.name}' cannot be restarted without administrator rights: run this as "
            "administrator"
        )
    if error != CR_SUCCESS:
        raise MachineError(f"{_not_restarted(adapter)} (code {error:#x})")


def _not_restarted(adapter: TapAdapter) -> str:
    return (
        f"Windows did not restart the network adapter '{adapter.name}', which needs it for its MAC address: close the "
        "programs that use it, disable and enable it in Windows' list of network connections (ncpa.cpl), or restart "
        "the computer"
    )


def mac_change(adapter: TapAdapter, mac: bytes) -> MacChange:
    """Give what has to be changed for the adapter to have this MAC (6 bytes). Raises MachineError."""
    return MacChange(adapter, current_network_address(adapter), mac.hex().upper())


def apply_mac_change(change: MacChange) -> None:
    """Make the change; the adapter must not be open. Blocks for a second or two.

    Raises MachineError: it was refused; then nothing is changed.
    """
    set_network_address(change.adapter, change.after)
    try:
        restart_adapter(change.adapter)
    except MachineError:
        set_network_address(change.adapter, change.before)
        raise


def undo_mac_change(change: MacChange) -> bool:
    """Put back what was before, and restart the adapter; it must not be open. Blocks for a second or two.

    False: nothing is to be done, because the adapter was removed, or the value is somebody else's by now.
    Raises MachineError.
    """
    try:
        if current_network_address(change.adapter) != change.after or change.before == change.after:
            return False
    except RegistryMissingError:
        return False
    set_network_address(change.adapter, change.before)
    restart_adapter(change.adapter)
    return True
