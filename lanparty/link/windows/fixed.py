"""An address that the player gave, and whether Windows' DHCP client has an adapter in charge: single values.

Owns: CreateUnicastIpAddressEntry and its kin, the registry's EnableDHCP.
Must not know: the journal (transaction.py), which of both is wanted (machine.py).

**Address.** It lasts "only as long as an adapter object exists" (Microsoft, CreateUnicastIpAddressEntry): until the
adapter restarts or Windows does. Windows looks by itself whether somebody else in the house has it (DadState).

**DHCP.** An address that is put on an adapter which DHCP has in charge does not stay alone: the client goes on asking,
and its address, or one of 169.254.0.0/16, comes beside it, and may be the one that a game's broadcast is sent from. No
function of iphlpapi switches the client off; "netsh interface ipv4 set address" does, and is another program, whose
output is in the player's language. It writes the value EnableDHCP of the adapter's TCP/IP parameters (Microsoft,
"TCP/IP and NBT configuration parameters", EnableDHCP), which the client reads when the adapter starts. So that value is
set, and the adapter restarted, as for its MAC. On an adapter that somebody gave an address by hand, it is switched on
in the same way when the player wants DHCP.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lanparty.link.windows import adapters, iphelper
from lanparty.link.windows.dhcp import read_adapters
from lanparty.link.windows.lease import AdapterView
from lanparty.link.windows.registry import read_number, write_number
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.link.windows.winapi.iphlpapi import IPHLPAPI
from lanparty.obs.errors import MachineError

__all__ = ["address_prefix", "create_address", "delete_address", "dhcp_switch", "running", "switch_dhcp"]

_PARAMETERS: Final = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces"
_SWITCH: Final = "EnableDHCP"


def address_prefix(interface: str, address: str) -> int | None:
    """Give the prefix length of an address of the interface (GUID); None: it does not have it. Raises MachineError."""
    row = _row(interface, address)
    if row is None:
        return None
    error = IPHLPAPI.GetUnicastIpAddressEntry(ctypes.byref(row))
    if error in iphelper.GONE:
        return None
    if error:
        raise iphelper.refused(f"look for the address {address}", error)
    return int(row.OnLinkPrefixLength)


def create_address(interface: str, address: str, prefix: int) -> int:
    """Put an address on the interface. Gives 0, ERROR_OBJECT_ALREADY_EXISTS, or one of ``iphelper.GONE``.

    Raises MachineError.
    """
    row = _row(interface, address)
    if row is None:
        return ip.ERROR_NOT_FOUND
    row.OnLinkPrefixLength = prefix
    row.PrefixOrigin, row.SuffixOrigin = ip.IpPrefixOriginManual, ip.IpSuffixOriginManual
    error = int(IPHLPAPI.CreateUnicastIpAddressEntry(ctypes.byref(row)))
    if error and error != ip.ERROR_OBJECT_ALREADY_EXISTS and error not in iphelper.GONE:
        raise iphelper.refused(f"give {iphelper.alias(interface)} the address {address}/{prefix}", error)
    return error


def delete_address(interface: str, address: str) -> bool:
    """Take an address off the interface; False: it does not have it. Raises MachineError."""
    row = _row(interface, address)
    if row is None:
        return False
    error = IPHLPAPI.DeleteUnicastIpAddressEntry(ctypes.byref(row))
    if error in iphelper.GONE:
        return False
    if error:
        raise iphelper.refused(f"take the address {address} off {iphelper.alias(interface)}", error)
    return True


def dhcp_switch(interface: str) -> int | None:
    """Give 1 or 0: whether the DHCP client is to have the interface in charge; None: no such interface, or not said.

    Raises MachineError.
    """
    value = read_number(f"{_PARAMETERS}\\{interface}", _SWITCH)
    return None if value is None else int(value != 0)


def switch_dhcp(interface: str, on: int) -> None:
    """Set `dhcp_switch`, and restart the adapter, which must not be open. Blocks for a second or two.

    Raises MachineError: it was refused; then nothing is changed.
    """
    adapter = next((found for found in adapters.find_adapters() if found.guid == interface), None)
    if adapter is None:
        raise MachineError(f"there is no network adapter {interface} (any more)")
    write_number(f"{_PARAMETERS}\\{interface}", _SWITCH, on)
    try:
        adapters.restart_adapter(adapter)
    except MachineError:
        write_number(f"{_PARAMETERS}\\{interface}", _SWITCH, int(not on))
        raise


def running(interface: str) -> AdapterView | None:
    """Give the interface as it runs now, which may be otherwise than the registry says. Raises MachineError."""
    index = iphelper.index_of(interface)
    return next((view for view in read_adapters() if view.index == index), None)


def _row(interface: str, address: str) -> ip.MIB_UNICASTIPADDRESS_ROW | None:
    luid = iphelper.luid_of_guid(interface)
    if luid is None:
        return None
    row = ip.MIB_UNICASTIPADDRESS_ROW()
    IPHLPAPI.InitializeUnicastIpAddressEntry(ctypes.byref(row))
    row.InterfaceLuid.Value = luid
    row.Address = iphelper.socket_address(address)
    return row
