# ruff: noqa: N802
"""iphlpapi.dll, ole32.dll and the network list manager of a Windows with some adapters, for Linux.

    FakeNetwork      the machine: interfaces, routes, addresses, DNS servers, networks; plain attributes, for tests
    FakeIpHelper     the functions of iphlpapi.dll on it, by Microsoft's names, for fake_dll.FakeDll
    FakeCom          the functions of ole32.dll, and objects with real tables of functions
    IpHelperDlls     both together as `FakeDlls`

Answers are those that Microsoft documents. Every table must be freed and every object released: ``unfreed`` and
``unreleased`` count. ``calls`` has the names of all functions in the order of their use. ``refuse`` makes a function
answer with an error; ``before`` is called before each, and may change the machine, as somebody else would.
"""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import attrs
from fake_dll import FakeDll

from lanparty.link.windows.iphelper import socket_address, text_of
from lanparty.link.windows.plan import AUTOMATIC, Family
from lanparty.link.windows.winapi import dnssettings, netlistmgr, ole32
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.link.windows.winapi.base import LPWSTR, PVOID, wide, wide_text
from lanparty.link.windows.winapi.dll import FakeDlls, Prototype, fakes
from lanparty.link.windows.winapi.guiddef import guid_of, guid_text

TAP: Final = "{A0000000-0000-4000-8000-000000000001}"
ETHERNET: Final = "{A0000000-0000-4000-8000-000000000002}"
WIFI: Final = "{A0000000-0000-4000-8000-000000000003}"
LOOPBACK: Final = "{A0000000-0000-4000-8000-000000000004}"
AF: Final[dict[int, int]] = {4: ip.AF_INET, 6: ip.AF_INET6}
FAMILY: Final[dict[int, Family]] = {ip.AF_INET: 4, ip.AF_INET6: 6}
WRITES: Final = frozenset(
    {
        "SetIpInterfaceEntry",
        "CreateIpForwardEntry2",
        "DeleteIpForwardEntry2",
        "SetInterfaceDnsSettings",
        "CreateUnicastIpAddressEntry",
        "DeleteUnicastIpAddressEntry",
    }
)
"""What only an administrator may call."""


@attrs.define
class IpSettings:
    """What one IP version has of an interface."""

    metric: int = AUTOMATIC
    automatic: int = 25
    """What Windows chooses."""
    default_routes_off: bool = False
    router_discovery: int = ip.RouterDiscoveryEnabled
    mtu: int = 1500
    site_prefix: int = 64
    """What GetIpInterfaceEntry gives, and SetIpInterfaceEntry refuses for IPv4."""

    @property
    def effective(self) -> int:
        return self.automatic if self.metric == AUTOMATIC else self.metric


@attrs.define
class FakeInterface:
    """One network interface."""

    guid: str
    name: str
    luid: int
    index: int
    up: bool = True
    families: dict[Family, IpSettings] = attrs.field(factory=lambda: {4: IpSettings(), 6: IpSettings()})
    dns: str = ""
    """Given by hand."""
    dhcp_dns: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()


@attrs.define
class FakeRoute:
    """What a route has beyond its key: (GUID, destination, gateway)."""

    metric: int
    protocol: int = ip.RouteProtocolNetMgmt
    loopback: bool = False
    origin: int = ip.NlroManual


RouteName = tuple[str, str, str | None]


@attrs.define
class FakeNetwork:
    """A machine with an Ethernet that leads to the internet, and a TAP adapter."""

    interfaces: dict[str, FakeInterface] = attrs.field(factory=dict)
    routes: dict[RouteName, FakeRoute] = attrs.field(factory=dict)
    addresses: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    """IP address: interface, prefix length."""
    networks: dict[str, int] = attrs.field(factory=dict)
    """GUID of a network: its category."""
    connections: list[tuple[str, str]] = attrs.field(factory=list)
    """GUIDs of interface and network."""
    policy: bool = False
    """Whether a group policy holds the categories."""
    administrator: bool = True
    refuse: dict[str, int] = attrs.field(factory=dict)
    before: Callable[[str], None] = lambda function: None
    calls: list[str] = attrs.field(factory=list)

    @classmethod
    def usual(cls) -> FakeNetwork:
        found = cls()
        found.add(LOOPBACK, "Loopback Pseudo-Interface 1", metric=75)
        found.add(ETHERNET, "Ethernet", dhcp_dns=("192.0.2.1",), gateways=("192.0.2.1",))
        found.add(TAP, "LanParty", dhcp_dns=("192.168.77.1",))
        found.addresses.update({"127.0.0.1": (LOOPBACK, 8), "::1": (LOOPBACK, 128), "192.0.2.50": (ETHERNET, 24)})
        found.routes.update(
            {
                (LOOPBACK, "127.0.0.0/8", None): FakeRoute(256, loopback=True),
                (ETHERNET, "0.0.0.0/0", "192.0.2.1"): FakeRoute(0),
                (ETHERNET, "192.0.2.0/24", None): FakeRoute(256),
                (ETHERNET, "192.0.2.50/32", None): FakeRoute(256, loopback=True),
                (ETHERNET, "255.255.255.255/32", None): FakeRoute(256),
                (ETHERNET, "::/0", "fe80::1"): FakeRoute(256),
                (TAP, "255.255.255.255/32", None): FakeRoute(256),
            }
        )
        return found

    def add(self, guid: str, name: str, *, metric: int = 25, **more: Any) -> FakeInterface:
        number = len(self.interfaces) + 1
        families: dict[Family, IpSettings] = {4: IpSettings(automatic=metric), 6: IpSettings(automatic=metric)}
        found = FakeInterface(guid, name, 0x6008000000000 + number, 10 + number, families=families, **more)
        self.interfaces[guid] = found
        return found

    def remove(self, guid: str) -> None:
        """Take an interface out, with all that belongs to it."""
        del self.interfaces[guid]
        self.flap(guid)
        self.connections = [pair for pair in self.connections if pair[0] != guid]

    def flap(self, guid: str) -> None:
        """Lose all routes of an interface, as when its cable is pulled."""
        self.routes = {name: route for name, route in self.routes.items() if name[0] != guid}

    def best(self, address: str) -> tuple[RouteName, FakeRoute] | None:
        """The route that Windows takes."""
        target = ipaddress.ip_address(address)
        family: Family = 4 if target.version == 4 else 6
        ranked = []
        for name, route in self.routes.items():
            network, interface = ipaddress.ip_network(name[1]), self.interfaces[name[0]]
            if network.version != target.version or target not in network or not interface.up:
                continue
            settings = interface.families.get(family)
            if settings is None or (not network.prefixlen and settings.default_routes_off):
                continue
            ranked.append((-network.prefixlen, route.metric + settings.effective, len(ranked), name))
        return (min(ranked)[3], self.routes[min(ranked)[3]]) if ranked else None

    def state(self) -> dict[Any, Any]:
        """All that a plan can change, for comparing."""
        found: dict[Any, Any] = {("route", *name): route.metric for name, route in self.routes.items()}
        for guid, interface in self.interfaces.items():
            found["dns", guid] = interface.dns
            for family, settings in interface.families.items():
                found["metric", guid, family] = settings.metric
                found["default-routes", guid, family] = settings.default_routes_off
                found["router-discovery", guid, family] = settings.router_discovery
                found["mtu", guid, family] = settings.mtu
        found.update({("network", guid): category for guid, category in self.networks.items()})
        return found


class FakeIpHelper:
    """iphlpapi.dll."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.callbacks: dict[int, tuple[str, Any]] = {}
        self.cancelled: set[int] = set()
        self._calling = threading.Lock()
        self._caller: int | None = None
        self._handles = itertools.count(0x100)
        self._memory: dict[int, Any] = {}

    @property
    def unfreed(self) -> int:
        return len(self._memory)

    def notify(self) -> None:
        """Tell of a change, as Windows does: from another thread; returns when all callbacks have."""

        def call() -> None:
            for number in list(self.callbacks):
                with self._calling:
                    self._caller = threading.get_ident()
                    if number in self.callbacks:
                        self.callbacks[number][1](None, None, ip.MibParameterNotification)
                    self._caller = None

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    def _begin(self, function: str) -> int:
        self.network.calls.append(function)
        self.network.before(function)
        if function in WRITES and not self.network.administrator:
            return ip.ERROR_ACCESS_DENIED
        return self.network.refuse.get(function, 0)

    def _by_luid(self, luid: int) -> FakeInterface | None:
        return next((each for each in self.network.interfaces.values() if each.luid == luid), None)

    # Names of interfaces

    def ConvertInterfaceGuidToLuid(self, guid: Any, luid: Any) -> int:
        found = self.network.interfaces.get(guid_text(guid.contents))
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        luid.contents.Value = found.luid
        return 0

    def ConvertInterfaceLuidToGuid(self, luid: Any, guid: Any) -> int:
        found = self._by_luid(luid.contents.Value)
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        ctypes.memmove(guid, ctypes.byref(guid_of(found.guid)), 16)
        return 0

    def ConvertInterfaceLuidToIndex(self, luid: Any, index: Any) -> int:
        found = self._by_luid(luid.contents.Value)
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        index[0] = found.index
        return 0

    def ConvertInterfaceLuidToAlias(self, luid: Any, name: Any, length: int) -> int:
        found = self._by_luid(luid.contents.Value)
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        text = wide(found.name)
        if len(text) > length:
            return ip.ERROR_NOT_ENOUGH_MEMORY
        ctypes.memmove(name, text, ctypes.sizeof(text))
        return 0

    # Tables

    def _give(self, pointer: Any, table_type: Any, rows: list[Any]) -> int:
        row_type = table_type._fields_[1][1]._type_
        offset = table_type.Table.offset
        memory = ctypes.create_string_buffer(offset + ctypes.sizeof(row_type) * max(1, len(rows)))
        table_type.from_buffer(memory).NumEntries = len(rows)
        for at, row in enumerate(rows):
            start = ctypes.addressof(memory) + offset + at * ctypes.sizeof(row_type)
            ctypes.memmove(start, ctypes.byref(row), ctypes.sizeof(row_type))
        self._memory[ctypes.addressof(memory)] = memory
        ctypes.cast(pointer, ctypes.POINTER(PVOID))[0] = ctypes.addressof(memory)
        return 0

    def FreeMibTable(self, memory: int) -> None:
        del self._memory[memory]

    def GetIpInterfaceTable(self, family: int, table: Any) -> int:
        if error := self._begin("GetIpInterfaceTable"):
            return error
        rows = [
            self._interface_row(each, version)
            for each in self.network.interfaces.values()
            for version in each.families
            if family in (ip.AF_UNSPEC, AF[version])
        ]
        return self._give(table, ip.MIB_IPINTERFACE_TABLE, rows) if rows else ip.ERROR_NOT_FOUND

    def GetIpForwardTable2(self, family: int, table: Any) -> int:
        if error := self._begin("GetIpForwardTable2"):
            return error
        rows = [self._route_row(name, route) for name, route in self.network.routes.items()]
        return self._give(table, ip.MIB_IPFORWARD_TABLE2, rows) if rows else ip.ERROR_NOT_FOUND

    def GetUnicastIpAddressTable(self, family: int, table: Any) -> int:
        if error := self._begin("GetUnicastIpAddressTable"):
            return error
        rows = []
        for address, (guid, prefix) in self.network.addresses.items():
            row = ip.MIB_UNICASTIPADDRESS_ROW(OnLinkPrefixLength=prefix, DadState=ip.IpDadStatePreferred)
            row.Address = socket_address(address)
            row.InterfaceLuid.Value = self.network.interfaces[guid].luid
            rows.append(row)
        return self._give(table, ip.MIB_UNICASTIPADDRESS_TABLE, rows) if rows else ip.ERROR_NOT_FOUND

    # Interfaces

    def _interface_row(self, interface: FakeInterface, family: Family) -> ip.MIB_IPINTERFACE_ROW:
        settings = interface.families[family]
        row = ip.MIB_IPINTERFACE_ROW(
            Family=AF[family],
            InterfaceIndex=interface.index,
            UseAutomaticMetric=settings.metric == AUTOMATIC,
            Metric=settings.effective,
            DisableDefaultRoutes=settings.default_routes_off,
            RouterDiscoveryBehavior=settings.router_discovery,
            NlMtu=settings.mtu,
            SitePrefixLength=settings.site_prefix,
            Connected=interface.up,
        )
        row.InterfaceLuid.Value = interface.luid
        return row

    def InitializeIpInterfaceEntry(self, row: Any) -> None:
        ctypes.memset(row, 0, ctypes.sizeof(ip.MIB_IPINTERFACE_ROW))

    def GetIpInterfaceEntry(self, row: Any) -> int:
        if error := self._begin("GetIpInterfaceEntry"):
            return error
        found = self._by_luid(row.contents.InterfaceLuid.Value)
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        family = FAMILY.get(row.contents.Family)
        if family not in found.families:
            return ip.ERROR_NOT_FOUND
        ctypes.memmove(row, ctypes.byref(self._interface_row(found, family)), ctypes.sizeof(ip.MIB_IPINTERFACE_ROW))
        return 0

    def SetIpInterfaceEntry(self, row: Any) -> int:
        if error := self._begin("SetIpInterfaceEntry"):
            return error
        new = row.contents
        found = self._by_luid(new.InterfaceLuid.Value)
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        family = FAMILY.get(new.Family)
        if family not in found.families:
            return ip.ERROR_NOT_FOUND
        if (family == 4 and new.SitePrefixLength) or (family == 6 and new.NlMtu < 1280):
            return ip.ERROR_INVALID_PARAMETER
        settings = found.families[family]
        settings.metric = AUTOMATIC if new.UseAutomaticMetric else new.Metric
        settings.default_routes_off = bool(new.DisableDefaultRoutes)
        settings.router_discovery = new.RouterDiscoveryBehavior
        settings.mtu = new.NlMtu
        return 0

    # Routes

    def _route_row(self, name: RouteName, route: FakeRoute) -> ip.MIB_IPFORWARD_ROW2:
        guid, destination, gateway = name
        network = ipaddress.ip_network(destination)
        row = ip.MIB_IPFORWARD_ROW2(
            Metric=route.metric, Protocol=route.protocol, Loopback=route.loopback, Origin=route.origin
        )
        row.InterfaceLuid.Value = self.network.interfaces[guid].luid
        row.InterfaceIndex = self.network.interfaces[guid].index
        row.DestinationPrefix.Prefix = socket_address(str(network.network_address))
        row.DestinationPrefix.PrefixLength = network.prefixlen
        row.NextHop = socket_address(gateway or ("0.0.0.0" if network.version == 4 else "::"))
        return row

    def InitializeIpForwardEntry(self, row: Any) -> None:
        ctypes.memset(row, 0, ctypes.sizeof(ip.MIB_IPFORWARD_ROW2))
        new = row.contents
        new.ValidLifetime = new.PreferredLifetime = 0xFFFFFFFF
        new.SitePrefixLength, new.Protocol, new.Immortal = 0xFF, -1, 1

    def _name(self, row: ip.MIB_IPFORWARD_ROW2) -> RouteName | None:
        found = self._by_luid(row.InterfaceLuid.Value)
        if found is None:
            return None
        prefix, hop = text_of(row.DestinationPrefix.Prefix), text_of(row.NextHop)
        network = ipaddress.ip_network((prefix, row.DestinationPrefix.PrefixLength))
        return found.guid, str(network), None if ipaddress.ip_address(hop).is_unspecified else hop

    def GetIpForwardEntry2(self, row: Any) -> int:
        if error := self._begin("GetIpForwardEntry2"):
            return error
        name = self._name(row.contents)
        if name is None:
            return ip.ERROR_FILE_NOT_FOUND
        if name not in self.network.routes:
            return ip.ERROR_NOT_FOUND
        found = self._route_row(name, self.network.routes[name])
        ctypes.memmove(row, ctypes.byref(found), ctypes.sizeof(ip.MIB_IPFORWARD_ROW2))
        return 0

    def CreateIpForwardEntry2(self, row: Any) -> int:
        if error := self._begin("CreateIpForwardEntry2"):
            return error
        name, new = self._name(row.contents), row.contents
        if name is None:
            return ip.ERROR_NOT_FOUND
        if new.SitePrefixLength > new.DestinationPrefix.PrefixLength or new.Protocol < 1:
            return ip.ERROR_INVALID_PARAMETER
        if name in self.network.routes:
            return ip.ERROR_OBJECT_ALREADY_EXISTS
        if (4 if new.DestinationPrefix.Prefix.si_family == ip.AF_INET else 6) not in self.network.interfaces[
            name[0]
        ].families:
            return ip.ERROR_NOT_SUPPORTED
        self.network.routes[name] = FakeRoute(new.Metric, new.Protocol)
        return 0

    def DeleteIpForwardEntry2(self, row: Any) -> int:
        if error := self._begin("DeleteIpForwardEntry2"):
            return error
        name = self._name(row.contents)
        if name is None or name not in self.network.routes:
            return ip.ERROR_NOT_FOUND
        del self.network.routes[name]
        return 0

    def GetBestRoute2(
        self, luid: Any, index: int, source: Any, destination: Any, options: int, row: Any, best_source: Any
    ) -> int:
        if error := self._begin("GetBestRoute2"):
            return error
        address = text_of(destination.contents)
        found = None if address is None else self.network.best(address)
        if found is None:
            return ip.ERROR_NETWORK_UNREACHABLE
        ctypes.memmove(row, ctypes.byref(self._route_row(*found)), ctypes.sizeof(ip.MIB_IPFORWARD_ROW2))
        version = ipaddress.ip_address(address).version
        for own, (guid, _) in self.network.addresses.items():
            if guid == found[0][0] and ipaddress.ip_address(own).version == version:
                ctypes.memmove(best_source, ctypes.byref(socket_address(own)), ctypes.sizeof(ip.SOCKADDR_INET))
        return 0

    # Notifications

    def _register(self, function: str, callback: Any, handle: Any) -> int:
        if error := self._begin(function):
            return error
        number = next(self._handles)
        self.callbacks[number] = (function, callback)
        handle[0] = number
        return 0

    def NotifyRouteChange2(self, family: int, callback: Any, context: Any, initial: int, handle: Any) -> int:
        return self._register("NotifyRouteChange2", callback, handle)

    def NotifyIpInterfaceChange(self, family: int, callback: Any, context: Any, initial: int, handle: Any) -> int:
        return self._register("NotifyIpInterfaceChange", callback, handle)

    def NotifyUnicastIpAddressChange(self, family: int, callback: Any, context: Any, initial: int, handle: Any) -> int:
        return self._register("NotifyUnicastIpAddressChange", callback, handle)

    def CancelMibChangeNotify2(self, handle: int) -> int:
        assert self._caller != threading.get_ident(), "a deadlock on Windows"
        if error := self._begin("CancelMibChangeNotify2"):
            return error
        with self._calling:  # it waits for the callbacks that go on
            if handle not in self.callbacks:
                return ip.ERROR_INVALID_PARAMETER
            del self.callbacks[handle]
        self.cancelled.add(handle)
        return 0

    # DNS servers

    def GetInterfaceDnsSettings(self, guid: Any, settings: Any) -> int:
        if error := self._begin("GetInterfaceDnsSettings"):
            return error
        found = self.network.interfaces.get(guid_text(guid))
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        assert settings.contents.Version == dnssettings.DNS_INTERFACE_SETTINGS_VERSION1
        text = wide(found.dns)
        self._memory[ctypes.addressof(text)] = text
        settings.contents.NameServer = ctypes.cast(text, LPWSTR)
        return 0

    def FreeInterfaceDnsSettings(self, settings: Any) -> None:
        del self._memory[ctypes.cast(settings.contents.NameServer, PVOID).value]

    def SetInterfaceDnsSettings(self, guid: Any, settings: Any) -> int:
        if error := self._begin("SetInterfaceDnsSettings"):
            return error
        found = self.network.interfaces.get(guid_text(guid))
        if found is None:
            return ip.ERROR_FILE_NOT_FOUND
        assert settings.contents.Flags == dnssettings.DNS_SETTING_NAMESERVER
        found.dns = wide_text(settings.contents.NameServer)
        return 0

    # Adapters

    def GetAdaptersAddresses(self, family: int, flags: int, reserved: Any, buffer: Any, size: Any) -> int:
        if error := self._begin("GetAdaptersAddresses"):
            return error
        rows = [each for each in self.network.interfaces.values() if each.guid != LOOPBACK]
        needed = len(rows) * ctypes.sizeof(ip.IP_ADAPTER_ADDRESSES_LH)
        if size[0] < needed:
            size[0] = needed
            return ip.ERROR_BUFFER_OVERFLOW
        self._adapters: list[Any] = []
        for at, each in enumerate(rows):
            row = buffer[at]
            ctypes.memset(ctypes.byref(row), 0, ctypes.sizeof(row))
            row.IfIndex, row.OperStatus = each.index, ip.IfOperStatusUp if each.up else ip.IfOperStatusDown
            name = wide(each.name)
            self._adapters.append(name)
            row.FriendlyName = ctypes.cast(name, LPWSTR)
            servers = each.dns.replace(",", " ").split() or each.dhcp_dns
            row.FirstDnsServerAddress = self._chain(ip.IP_ADAPTER_DNS_SERVER_ADDRESS_XP, servers)
            row.FirstGatewayAddress = self._chain(ip.IP_ADAPTER_GATEWAY_ADDRESS_LH, each.gateways)
            if at + 1 < len(rows):
                row.Next = ctypes.pointer(buffer[at + 1])
        return 0

    def _chain(self, kind: Any, addresses: Any) -> Any:
        first = ctypes.POINTER(kind)()
        for address in reversed(tuple(addresses)):
            inet, entry = socket_address(address), kind()
            entry.Address.lpSockaddr = ctypes.cast(ctypes.byref(inet), ctypes.POINTER(ip.SOCKADDR))
            entry.Address.iSockaddrLength = ctypes.sizeof(ip.SOCKADDR_IN)
            entry.Next = first
            self._adapters += [inet, entry]
            first = ctypes.pointer(entry)
        return first


class FakeCom:
    """ole32.dll, and the network list manager."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.references: Counter[int] = Counter()
        self.initialised: Counter[int] = Counter()
        self._objects: list[Any] = []

    @property
    def unreleased(self) -> int:
        return sum(self.references.values()) + sum(self.initialised.values())

    def _begin(self, function: str) -> int:
        self.network.calls.append(function)
        self.network.before(function)
        return self.network.refuse.get(function, 0)

    def CoInitializeEx(self, reserved: Any, how: int) -> int:
        assert how == ole32.COINIT_MULTITHREADED
        if error := self._begin("CoInitializeEx"):
            return error
        self.initialised[threading.get_ident()] += 1
        return ole32.S_OK

    def CoUninitialize(self) -> None:
        self.initialised[threading.get_ident()] -= 1
        assert not sum(self.references.values()), "objects outlive COM"

    def CoCreateInstance(self, clsid: Any, outer: Any, context: int, iid: Any, result: Any) -> int:
        if error := self._begin("CoCreateInstance"):
            return error
        assert self.initialised[threading.get_ident()] > 0
        if guid_text(clsid.contents) != guid_text(netlistmgr.CLSID_NetworkListManager):
            return ole32.REGDB_E_CLASSNOTREG
        result[0] = self._object(
            "INetworkListManager",
            GetNetwork=self._get_network,
            GetNetworkConnections=self._get_connections,
        )
        return ole32.S_OK

    def _object(self, interface: str, **methods: Callable[..., int]) -> int:
        """Make an object: a pointer to a table of functions, and a count of one."""
        table = netlistmgr.VTABLES[interface]
        slots = (PVOID * 32)()
        memory = (PVOID * 1)(ctypes.addressof(slots))
        address = ctypes.addressof(memory)

        def release(this: int) -> int:
            self.references[this] -= 1
            assert self.references[this] >= 0, f"{interface} was released once too often"
            return self.references[this]

        methods["Release"] = release
        for name, (slot, (result, arguments)) in table.items():
            function = ctypes.CFUNCTYPE(result, *arguments)(methods[name])
            self._objects.append(function)
            slots[slot] = ctypes.cast(function, PVOID)
        self._objects += [slots, memory]
        self.references[address] = 1
        return address

    def _get_network(self, this: int, guid: Any, result: Any) -> int:
        if error := self._begin("INetworkListManager::GetNetwork"):
            return error
        if guid_text(guid) not in self.network.networks:
            return ole32.E_FAIL
        result[0] = self._network(guid_text(guid))
        return ole32.S_OK

    def _get_connections(self, this: int, result: Any) -> int:
        if error := self._begin("INetworkListManager::GetNetworkConnections"):
            return error
        left = list(self.network.connections)

        def following(this: int, count: int, found: Any, fetched: Any) -> int:
            if not left:
                fetched[0] = 0
                return ole32.S_FALSE
            fetched[0] = 1
            found[0] = self._connection(*left.pop(0))
            return ole32.S_OK

        result[0] = self._object("IEnumNetworkConnections", Next=following)
        return ole32.S_OK

    def _connection(self, adapter: str, network: str) -> int:
        def adapter_id(this: int, guid: Any) -> int:
            ctypes.memmove(guid, ctypes.byref(guid_of(adapter)), 16)
            return ole32.S_OK

        def get_network(this: int, result: Any) -> int:
            result[0] = self._network(network)
            return ole32.S_OK

        return self._object("INetworkConnection", GetAdapterId=adapter_id, GetNetwork=get_network)

    def _network(self, network: str) -> int:
        def network_id(this: int, guid: Any) -> int:
            ctypes.memmove(guid, ctypes.byref(guid_of(network)), 16)
            return ole32.S_OK

        def get_category(this: int, category: Any) -> int:
            category[0] = self.network.networks[network]
            return ole32.S_OK

        def set_category(this: int, category: int) -> int:
            if error := self._begin("INetwork::SetCategory"):
                return error
            domain = netlistmgr.NLM_NETWORK_CATEGORY_DOMAIN_AUTHENTICATED
            if self.network.policy or not self.network.administrator:
                return ole32.E_ACCESSDENIED
            if domain in (category, self.network.networks[network]):
                return ole32.E_INVALIDARG
            self.network.networks[network] = category
            return ole32.S_OK

        return self._object("INetwork", GetNetworkId=network_id, GetCategory=get_category, SetCategory=set_category)


class IpHelperDlls(FakeDlls):
    """The two DLLs. ``old`` is a Windows without SetInterfaceDnsSettings."""

    def __init__(self, network: FakeNetwork, *, old: bool = False) -> None:
        super().__init__()
        self.network = network
        self.ip_helper = FakeIpHelper(network)
        self.com = FakeCom(network)
        self.old = old
        self._opened: list[FakeDll] = []

    def open(self, name: str, prototypes: dict[str, Prototype]) -> Any:
        methods: object = {"iphlpapi.dll": self.ip_helper, "ole32.dll": self.com}[name]
        if self.old and "SetInterfaceDnsSettings" in prototypes:
            prototypes = {}
        self._opened.append(FakeDll(methods, prototypes))
        return self._opened[-1]

    def check(self) -> None:
        """Whether everything was given back, and nothing went wrong where ctypes cannot tell."""
        for dll in self._opened:
            if dll.raised:
                raise dll.raised[0]
        assert not self.ip_helper.unfreed
        assert not self.com.unreleased
        assert not self.ip_helper.callbacks


@contextmanager
def on_windows(network: FakeNetwork, *, old: bool = False) -> Iterator[IpHelperDlls]:
    """A Windows inside, whose network is this."""
    dlls = IpHelperDlls(network, old=old)
    with fakes(dlls):
        yield dlls
    dlls.check()
