"""What iphlpapi.dll says of routes, interfaces, addresses and DNS servers, as plain data; and what changes them.

Owns: rows and tables, their conversion, and the sentence for each error code.
Must not know: tasks, threads, why anything is changed.

Interfaces are called by their GUID here, upper case and in braces. All functions are synchronous, and take
milliseconds; those for DNS servers may take longer. All raise MachineError.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
from collections.abc import Iterator
from typing import Any, Final

import attrs

from lanparty.link.windows.plan import AUTOMATIC, Family, InterfaceKey, RouteKey
from lanparty.link.windows.winapi import dnssettings
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.link.windows.winapi.base import LPWSTR, WCHAR, wide, wide_text
from lanparty.link.windows.winapi.dnssettings import DNS_SETTINGS
from lanparty.link.windows.winapi.guiddef import GUID, guid_of, guid_text
from lanparty.link.windows.winapi.iphlpapi import IPHLPAPI
from lanparty.obs.errors import MachineError

__all__ = [
    "BestRoute",
    "alias",
    "best_route",
    "create_route",
    "current_dns",
    "current_metric",
    "current_setting",
    "delete_route",
    "guid_of_luid",
    "house_routes",
    "index_of",
    "luid_of_guid",
    "read_addresses",
    "read_interfaces",
    "read_metrics",
    "read_routes",
    "refused",
    "set_dns",
    "set_setting",
    "socket_address",
    "text_of",
]

GONE: Final = frozenset({ip.ERROR_FILE_NOT_FOUND, ip.ERROR_NOT_FOUND, ip.ERROR_DEVICE_NOT_CONNECTED})
"""Answers that mean: there is no such route, interface or address (any more)."""
NO_WAY: Final = frozenset({ip.ERROR_NETWORK_UNREACHABLE, ip.ERROR_HOST_UNREACHABLE, ip.ERROR_NOT_SUPPORTED, *GONE})
"""Answers of GetBestRoute2 that mean: nothing leads there. ERROR_NOT_SUPPORTED: this machine has no such IP version."""
MAX_ROWS: Final = 1 << 20
"""Rows of a table that are read; a machine with more routes is no player's."""
_FAMILIES: Final[dict[int, Family]] = {ip.AF_INET: 4, ip.AF_INET6: 6}
_AF: Final[dict[Family, int]] = {4: ip.AF_INET, 6: ip.AF_INET6}
_ROUTE_PROTOCOL_DHCP: Final = 19
"""RouteProtocolDhcp of newer SDKs' nldef.h (mingw-w64 lacks it), so a Windows may give it. But "netsh interface ipv4
show route" lists DHCP's default route as "Manual", like one by hand, so both have the protocol RouteProtocolNetMgmt
there: then the origin has to tell them apart, and only a real Windows can show that it does."""
_UNSPECIFIED: Final = {4: str(ipaddress.IPv4Address(0)), 6: str(ipaddress.IPv6Address(0))}
_SENTENCES: Final = {
    ip.ERROR_ACCESS_DENIED: "Windows does not allow it; start this program as administrator",
    ip.ERROR_FILE_NOT_FOUND: "there is no such network adapter (any more)",
    ip.ERROR_NOT_FOUND: "there is no such network adapter, or no such route on it (any more)",
    ip.ERROR_NOT_SUPPORTED: "the adapter does not have this IP version; switch it on in the adapter's properties",
    ip.ERROR_INVALID_PARAMETER: "Windows does not understand the request; please report this",
    ip.ERROR_NOT_ENOUGH_MEMORY: "Windows is out of memory",
    ip.ERROR_OBJECT_ALREADY_EXISTS: "it is there already",
    ip.ERROR_NETWORK_UNREACHABLE: "no network leads there",
}

_LONGEST: Final = 129
_WIDE: Final = 8
"""Bits of prefix, one more than counts: any route at all; a route to 1/128 of all addresses. Nobody's own network is as
large (10.0.0.0/8 is not), and halves, quarters and eighths of the internet are how VPNs get around a default route."""


def refused(what: str, error: int) -> MachineError:
    """Give the error for a call that Windows refused; ``what`` says what was to be done, as in "cannot ..."."""
    return MachineError(f"cannot {what}: {_SENTENCES.get(error, 'Windows refuses')} (Windows error {error})")


# Addresses


def socket_address(address: str) -> ip.SOCKADDR_INET:
    """Give an IP address as Windows wants it. The zone of an IPv6 address is left out: the interface says it."""
    found = ip.SOCKADDR_INET()
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        found.Ipv4.sin_family = ip.AF_INET
        found.Ipv4.sin_addr.s_addr = int.from_bytes(
            parsed.packed, "little"
        )  # network order, on a little-endian machine
    else:
        found.Ipv6.sin6_family = ip.AF_INET6
        found.Ipv6.sin6_addr.u.Byte[:] = list(parsed.packed)
    return found


def text_of(address: ip.SOCKADDR_INET) -> str | None:
    """Give the text of an IP address, without a zone; None: of no IP version."""
    if address.si_family == ip.AF_INET:
        return str(ipaddress.IPv4Address(int(address.Ipv4.sin_addr.s_addr).to_bytes(4, "little")))
    if address.si_family == ip.AF_INET6:
        return str(ipaddress.IPv6Address(bytes(address.Ipv6.sin6_addr.u.Byte)))
    return None


def _gateway(address: ip.SOCKADDR_INET) -> str | None:
    text = text_of(address)
    return None if text is None or ipaddress.ip_address(text).is_unspecified else text


# Interfaces


def luid_of_guid(guid: str) -> int | None:
    """Give an interface's LUID; None: there is no such interface."""
    luid = ip.NET_LUID()
    error = IPHLPAPI.ConvertInterfaceGuidToLuid(ctypes.byref(guid_of(guid)), ctypes.byref(luid))
    return None if error else int(luid.Value)


def guid_of_luid(luid: int) -> str | None:
    """Give an interface's GUID; None: there is no such interface."""
    guid = GUID()
    error = IPHLPAPI.ConvertInterfaceLuidToGuid(ctypes.byref(ip.NET_LUID(luid)), ctypes.byref(guid))
    return None if error else guid_text(guid)


def alias(guid: str) -> str:
    """Give the name that people know an interface by; its GUID where there is none."""
    luid = luid_of_guid(guid)
    if luid is None:
        return guid
    name = (WCHAR * (ip.IF_MAX_STRING_SIZE + 1))()
    if IPHLPAPI.ConvertInterfaceLuidToAlias(ctypes.byref(ip.NET_LUID(luid)), name, len(name)):
        return guid
    return wide_text(name) or guid


@contextlib.contextmanager
def _table(function: str, table_type: Any) -> Iterator[list[Any]]:
    """Give the rows of a table, which are Windows' memory until the block ends."""
    table = ctypes.POINTER(table_type)()
    error = getattr(IPHLPAPI, function)(ip.AF_UNSPEC, ctypes.byref(table))
    if error in GONE:  # an empty table (documented for ERROR_NOT_FOUND)
        yield []
        return
    if error:
        raise refused("read this computer's network settings", error)
    try:
        row_type = table_type.Table.size  # of one row
        first = ctypes.addressof(table.contents) + table_type.Table.offset
        rows = table_type._fields_[1][1]._type_
        yield [rows.from_address(first + row_type * at) for at in range(min(table.contents.NumEntries, MAX_ROWS))]
    finally:
        IPHLPAPI.FreeMibTable(table)


def read_interfaces() -> dict[InterfaceKey, int]:
    """Give the settings of all interfaces that IP uses."""
    found: dict[InterfaceKey, int] = {}
    with _table("GetIpInterfaceTable", ip.MIB_IPINTERFACE_TABLE) as rows:
        for row in rows:
            guid, family = guid_of_luid(row.InterfaceLuid.Value), _FAMILIES.get(row.Family)
            if guid is not None and family is not None:
                found.update(_settings(guid, family, row))
    return found


def read_metrics() -> dict[tuple[str, Family], int]:
    """Give the metrics in force of all interfaces that are connected."""
    found: dict[tuple[str, Family], int] = {}
    with _table("GetIpInterfaceTable", ip.MIB_IPINTERFACE_TABLE) as rows:
        for row in rows:
            guid, family = guid_of_luid(row.InterfaceLuid.Value), _FAMILIES.get(row.Family)
            if guid is not None and family is not None and row.Connected:
                found[guid, family] = int(row.Metric)
    return found


def index_of(guid: str) -> int | None:
    """Give an interface's index, which may be another one after its next restart; None: there is no such interface."""
    luid, index = luid_of_guid(guid), ip.NET_IFINDEX()
    if luid is None or IPHLPAPI.ConvertInterfaceLuidToIndex(ctypes.byref(ip.NET_LUID(luid)), ctypes.byref(index)):
        return None
    return int(index.value)


def _settings(guid: str, family: Family, row: ip.MIB_IPINTERFACE_ROW) -> dict[InterfaceKey, int]:
    return {
        InterfaceKey(guid, family, "metric"): AUTOMATIC if row.UseAutomaticMetric else int(row.Metric),
        InterfaceKey(guid, family, "default-routes"): int(bool(row.DisableDefaultRoutes)),
        InterfaceKey(guid, family, "router-discovery"): int(row.RouterDiscoveryBehavior),
        InterfaceKey(guid, family, "mtu"): int(row.NlMtu),
    }


def _interface_row(key: InterfaceKey) -> ip.MIB_IPINTERFACE_ROW | None:
    luid = luid_of_guid(key.interface)
    if luid is None:
        return None
    row = ip.MIB_IPINTERFACE_ROW()
    IPHLPAPI.InitializeIpInterfaceEntry(ctypes.byref(row))
    row.Family, row.InterfaceLuid.Value = _AF[key.family], luid
    error = IPHLPAPI.GetIpInterfaceEntry(ctypes.byref(row))
    if error in GONE:
        return None
    if error:
        raise refused(f"read the settings of {alias(key.interface)}", error)
    return row


def current_setting(key: InterfaceKey) -> int | None:
    """Give a setting of an interface; None: there is no such interface, or it does not have this IP version."""
    row = _interface_row(key)
    return None if row is None else _settings(key.interface, key.family, row)[key]


def set_setting(key: InterfaceKey, value: int) -> bool:
    """Change a setting of an interface, and nothing else; False: there is no such interface."""
    row = _interface_row(key)
    if row is None:
        return False
    if key.setting == "metric":
        row.UseAutomaticMetric = value == AUTOMATIC
        if value != AUTOMATIC:
            row.Metric = value
    elif key.setting == "default-routes":
        row.DisableDefaultRoutes = bool(value)
    elif key.setting == "router-discovery":
        row.RouterDiscoveryBehavior = value
    else:
        row.NlMtu = value
    if key.family == 4:
        # What GetIpInterfaceEntry gives here, SetIpInterfaceEntry refuses: "for IPv4, the SitePrefixLength member must
        # be set to 0" (Microsoft, SetIpInterfaceEntry, Remarks).
        row.SitePrefixLength = 0
    error = IPHLPAPI.SetIpInterfaceEntry(ctypes.byref(row))
    if error in GONE:
        return False
    if error:
        raise refused(f"change the {key.setting} of {alias(key.interface)}", error)
    return True


# Routes


def read_routes() -> dict[RouteKey, int]:
    """Give all routes with their own metrics."""
    found: dict[RouteKey, int] = {}
    with _table("GetIpForwardTable2", ip.MIB_IPFORWARD_TABLE2) as rows:
        for row in rows:
            guid, key = guid_of_luid(row.InterfaceLuid.Value), None
            if guid is not None:
                key = _route_key(guid, row)
            if key is not None:
                found[key] = int(row.Metric)
    return found


def house_routes(guid: str) -> list[RouteKey]:
    """Give the routes with a gateway that the house has put on an interface, but for default routes.

    DHCP's are marked so, Microsoft's headers say; whether all of them are on every Windows, nobody says. So what leads
    a large part of the internet there counts as the house's whatever its mark is: a caller knows its own.
    """
    found = []
    with _table("GetIpForwardTable2", ip.MIB_IPFORWARD_TABLE2) as rows:
        for row in rows:
            key = _route_key(guid, row) if guid_of_luid(row.InterfaceLuid.Value) == guid else None
            if key is None or key.gateway is None:
                continue
            by_dhcp = row.Origin == ip.NlroDHCP or row.Protocol == _ROUTE_PROTOCOL_DHCP
            if 0 < ipaddress.ip_network(key.destination).prefixlen < (_LONGEST if by_dhcp else _WIDE):
                found.append(key)
    return found


def _route_key(guid: str, row: ip.MIB_IPFORWARD_ROW2) -> RouteKey | None:
    prefix = text_of(row.DestinationPrefix.Prefix)
    if prefix is None:
        return None
    try:
        network = ipaddress.ip_network((prefix, row.DestinationPrefix.PrefixLength), strict=False)
    except ValueError:
        return None
    return RouteKey(guid, str(network), _gateway(row.NextHop))


def _route_row(key: RouteKey) -> ip.MIB_IPFORWARD_ROW2 | None:
    luid = luid_of_guid(key.interface)
    if luid is None:
        return None
    network = ipaddress.ip_network(key.destination)
    row = ip.MIB_IPFORWARD_ROW2()
    IPHLPAPI.InitializeIpForwardEntry(ctypes.byref(row))
    row.InterfaceLuid.Value = luid
    row.DestinationPrefix.Prefix = socket_address(str(network.network_address))
    row.DestinationPrefix.PrefixLength = network.prefixlen
    row.NextHop = socket_address(key.gateway or _UNSPECIFIED[network.version])
    return row


def current_metric(key: RouteKey) -> int | None:
    """Give a route's own metric; None: there is no such route."""
    row = _route_row(key)
    if row is None:
        return None
    error = IPHLPAPI.GetIpForwardEntry2(ctypes.byref(row))
    if error in GONE:
        return None
    if error:
        raise refused(f"look for the route to {key.destination}", error)
    return int(row.Metric)


def create_route(key: RouteKey, metric: int) -> int:
    """Make a route, until the next reboot. Gives 0, ERROR_OBJECT_ALREADY_EXISTS, or one of `GONE` (no interface)."""
    row = _route_row(key)
    if row is None:
        return ip.ERROR_NOT_FOUND
    # InitializeIpForwardEntry gives these two values that are not valid, so that nobody forgets them.
    row.SitePrefixLength, row.Protocol, row.Metric = 0, ip.RouteProtocolNetMgmt, metric
    error = int(IPHLPAPI.CreateIpForwardEntry2(ctypes.byref(row)))
    if error and error != ip.ERROR_OBJECT_ALREADY_EXISTS and error not in GONE:
        raise refused(f"make the route to {key.destination} by {alias(key.interface)}", error)
    return error


def delete_route(key: RouteKey) -> bool:
    """Remove a route; False: there is none."""
    row = _route_row(key)
    if row is None:
        return False
    error = IPHLPAPI.DeleteIpForwardEntry2(ctypes.byref(row))
    if error in GONE:
        return False
    if error:
        raise refused(f"remove the route to {key.destination} by {alias(key.interface)}", error)
    return True


@attrs.frozen
class BestRoute:
    """How Windows would reach an address."""

    key: RouteKey
    source: str | None


def best_route(address: str) -> BestRoute | None:
    """Ask Windows how it would reach ``address`` now; None: not at all."""
    row, source = ip.MIB_IPFORWARD_ROW2(), ip.SOCKADDR_INET()
    error = IPHLPAPI.GetBestRoute2(
        None, 0, None, ctypes.byref(socket_address(address)), 0, ctypes.byref(row), ctypes.byref(source)
    )
    if error in NO_WAY:
        return None
    if error:
        raise refused(f"find the way to {address}", error)
    guid = guid_of_luid(row.InterfaceLuid.Value)
    key = None if guid is None else _route_key(guid, row)
    return None if key is None else BestRoute(key, text_of(source))


def read_addresses() -> dict[str, str]:
    """Give all IP addresses of this machine, canonical and without zones, and the interface of each."""
    found: dict[str, str] = {}
    with _table("GetUnicastIpAddressTable", ip.MIB_UNICASTIPADDRESS_TABLE) as rows:
        for row in rows:
            text = text_of(row.Address)
            if text is not None:
                found[text] = guid_of_luid(row.InterfaceLuid.Value) or ""
    return found


# DNS servers


def current_dns(guid: str) -> str | None:
    """Give the IPv4 DNS servers that an interface was given by hand; None: no such interface, or Windows is too old."""
    settings = dnssettings.DNS_INTERFACE_SETTINGS(Version=dnssettings.DNS_INTERFACE_SETTINGS_VERSION1)
    settings.Flags = dnssettings.DNS_SETTING_NAMESERVER
    try:
        error = DNS_SETTINGS.GetInterfaceDnsSettings(guid_of(guid), ctypes.byref(settings))
    except MachineError:  # before Windows 10 version 2004 there was no such function
        return None
    if error in GONE:
        return None
    if error:
        raise refused(f"read the DNS servers of {alias(guid)}", error)
    try:
        return ",".join(wide_text(settings.NameServer).replace(",", " ").split())
    finally:
        DNS_SETTINGS.FreeInterfaceDnsSettings(ctypes.byref(settings))


def set_dns(guid: str, servers: str) -> bool:
    """Give an interface IPv4 DNS servers by hand; "": those of DHCP count again. False: there is no such interface."""
    text = wide(servers)
    settings = dnssettings.DNS_INTERFACE_SETTINGS(Version=dnssettings.DNS_INTERFACE_SETTINGS_VERSION1)
    settings.Flags = dnssettings.DNS_SETTING_NAMESERVER
    settings.NameServer = ctypes.cast(text, LPWSTR)
    error = DNS_SETTINGS.SetInterfaceDnsSettings(guid_of(guid), ctypes.byref(settings))
    if error in GONE:
        return False
    if error:
        raise refused(f"change the DNS servers of {alias(guid)}", error)
    return True
