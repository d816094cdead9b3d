"""iphlpapi.dll: interfaces, addresses and routes (netioapi.h, iptypes.h, ipexport.h, ws2ipdef.h, nldef.h, ifdef.h).

Owns: structures, constants and prototypes, to the letter. Must not know: what they are used for.

Conventions of the DLL: the result is an error code of winerror.h (0: done), not the thread's last error. A table that
a function gives is freed by ``FreeMibTable``. A row that is to be changed is first initialised by its
``Initialize...Entry``, or read by its ``Get...Entry``.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

from lanparty.link.windows.winapi.base import (
    BOOLEAN,
    BYTE,
    DWORD,
    HANDLE,
    LONG,
    LPWSTR,
    NETIO_STATUS,
    PVOID,
    ULONG,
    ULONG64,
    USHORT,
    WCHAR,
)
from lanparty.link.windows.winapi.dll import Library, Prototype
from lanparty.link.windows.winapi.guiddef import GUID

HEADERS: Final = ("winsock2.h", "ws2ipdef.h", "ws2tcpip.h", "windows.h", "iphlpapi.h", "netioapi.h", "winerror.h")

if sys.platform == "win32":
    CALLBACK: Any = ctypes.WINFUNCTYPE
else:
    CALLBACK: Any = ctypes.CFUNCTYPE
"""Makes the type of a function that Windows calls."""

# --- winerror.h: what the functions below are documented to answer

NO_ERROR: Final = 0
ERROR_FILE_NOT_FOUND: Final = 2
"""No such interface (GetIpForwardEntry2, ConvertInterfaceGuidToLuid and others on a GUID or LUID that is gone)."""
ERROR_ACCESS_DENIED: Final = 5
ERROR_NOT_ENOUGH_MEMORY: Final = 8
ERROR_INVALID_DATA: Final = 13
ERROR_NOT_SUPPORTED: Final = 50
ERROR_INVALID_PARAMETER: Final = 87
ERROR_BUFFER_OVERFLOW: Final = 111
ERROR_INSUFFICIENT_BUFFER: Final = 122
ERROR_NO_DATA: Final = 232
ERROR_NOT_FOUND: Final = 1168
ERROR_NETWORK_UNREACHABLE: Final = 1231
ERROR_HOST_UNREACHABLE: Final = 1232
ERROR_DEVICE_NOT_CONNECTED: Final = 1167
ERROR_ADDRESS_NOT_ASSOCIATED: Final = 1228
ERROR_OBJECT_ALREADY_EXISTS: Final = 5010

# --- ws2def.h, ws2ipdef.h

ADDRESS_FAMILY = USHORT
AF_UNSPEC: Final = 0
AF_INET: Final = 2
AF_INET6: Final = 23


class IN_ADDR(ctypes.Structure):  # noqa: N801
    """An IPv4 address in network byte order."""

    _fields_ = [("s_addr", ULONG)]


class SOCKADDR(ctypes.Structure):
    """A socket address of any family; only the family may be read without knowing which."""

    _fields_ = [("sa_family", USHORT), ("sa_data", ctypes.c_char * 14)]


class SOCKADDR_IN(ctypes.Structure):  # noqa: N801
    """An IPv4 socket address. mingw-w64 has the family as a signed number, as older SDKs had."""

    _fields_ = [("sin_family", ctypes.c_int16), ("sin_port", USHORT), ("sin_addr", IN_ADDR), ("sin_zero", BYTE * 8)]


class _IN6_ADDR_U(ctypes.Union):  # noqa: N801
    _fields_ = [("Byte", BYTE * 16), ("Word", USHORT * 8)]


class IN6_ADDR(ctypes.Structure):  # noqa: N801
    """An IPv6 address in network byte order."""

    _fields_ = [("u", _IN6_ADDR_U)]


class SOCKADDR_IN6(ctypes.Structure):  # noqa: N801
    """An IPv6 socket address."""

    _fields_ = [
        ("sin6_family", ctypes.c_int16),
        ("sin6_port", USHORT),
        ("sin6_flowinfo", ULONG),
        ("sin6_addr", IN6_ADDR),
        ("sin6_scope_id", ULONG),
    ]


class SOCKADDR_INET(ctypes.Union):  # noqa: N801
    """An IPv4 or IPv6 socket address, with room for both."""

    _fields_ = [("Ipv4", SOCKADDR_IN), ("Ipv6", SOCKADDR_IN6), ("si_family", ADDRESS_FAMILY)]


class SOCKET_ADDRESS(ctypes.Structure):  # noqa: N801
    """A pointer to a socket address, and its length in bytes."""

    _fields_ = [("lpSockaddr", ctypes.POINTER(SOCKADDR)), ("iSockaddrLength", LONG)]


class SCOPE_ID(ctypes.Structure):  # noqa: N801
    """An IPv6 zone."""

    _fields_ = [("Value", ULONG)]


ScopeLevelCount: Final = 16


class LARGE_INTEGER(ctypes.Union):  # noqa: N801
    """A signed number of 64 bits."""

    _fields_ = [("QuadPart", ctypes.c_int64)]


# --- ifdef.h, ipifcons.h, nldef.h

NET_IFINDEX = ULONG
IF_MAX_STRING_SIZE: Final = 256
IF_TYPE_ETHERNET_CSMACD: Final = 6
IF_TYPE_SOFTWARE_LOOPBACK: Final = 24
IfOperStatusUp: Final = 1
IfOperStatusDown: Final = 2
IfOperStatusNotPresent: Final = 6
MediaConnectStateUnknown: Final = 0
MediaConnectStateConnected: Final = 1
MediaConnectStateDisconnected: Final = 2
RouterDiscoveryDisabled: Final = 0
RouterDiscoveryEnabled: Final = 1
RouterDiscoveryDhcp: Final = 2
RouterDiscoveryUnchanged: Final = -1
LinkLocalUnchanged: Final = -1
IpDadStateInvalid: Final = 0
IpDadStateTentative: Final = 1
IpDadStateDuplicate: Final = 2
IpDadStateDeprecated: Final = 3
IpDadStatePreferred: Final = 4
IpPrefixOriginOther: Final = 0
IpPrefixOriginManual: Final = 1
IpPrefixOriginWellKnown: Final = 2
IpPrefixOriginDhcp: Final = 3
IpPrefixOriginRouterAdvertisement: Final = 4
IpPrefixOriginUnchanged: Final = 16
IpSuffixOriginOther: Final = 0
IpSuffixOriginManual: Final = 1
IpSuffixOriginWellKnown: Final = 2
IpSuffixOriginDhcp: Final = 3
IpSuffixOriginLinkLayerAddress: Final = 4
IpSuffixOriginUnchanged: Final = 16
RouteProtocolOther: Final = 1
RouteProtocolLocal: Final = 2
RouteProtocolNetMgmt: Final = 3
NlroManual: Final = 0
NlroWellKnown: Final = 1
NlroDHCP: Final = 2
NlroRouterAdvertisement: Final = 3


class NL_INTERFACE_OFFLOAD_ROD(ctypes.Structure):  # noqa: N801
    """What the adapter does of IP's work."""

    _fields_ = [
        ("NlChecksumSupported", BOOLEAN, 1),
        ("NlOptionsSupported", BOOLEAN, 1),
        ("TlDatagramChecksumSupported", BOOLEAN, 1),
        ("TlStreamChecksumSupported", BOOLEAN, 1),
        ("TlStreamOptionsSupported", BOOLEAN, 1),
        ("FastPathCompatible", BOOLEAN, 1),
        ("TlLargeSendOffloadSupported", BOOLEAN, 1),
        ("TlGiantSendOffloadSupported", BOOLEAN, 1),
    ]


class NET_LUID(ctypes.Union):  # noqa: N801
    """What identifies an interface for as long as its adapter is installed; its index may change at a restart."""

    _fields_ = [("Value", ULONG64)]


# --- netioapi.h

MibParameterNotification: Final = 0
MibAddInstance: Final = 1
MibDeleteInstance: Final = 2
MibInitialNotification: Final = 3


class MIB_IPINTERFACE_ROW(ctypes.Structure):  # noqa: N801
    """What one IP version thinks of an interface."""

    _fields_ = [
        ("Family", ADDRESS_FAMILY),
        ("InterfaceLuid", NET_LUID),
        ("InterfaceIndex", NET_IFINDEX),
        ("MaxReassemblySize", ULONG),
        ("InterfaceIdentifier", ULONG64),
        ("MinRouterAdvertisementInterval", ULONG),
        ("MaxRouterAdvertisementInterval", ULONG),
        ("AdvertisingEnabled", BOOLEAN),
        ("ForwardingEnabled", BOOLEAN),
        ("WeakHostSend", BOOLEAN),
        ("WeakHostReceive", BOOLEAN),
        ("UseAutomaticMetric", BOOLEAN),
        ("UseNeighborUnreachabilityDetection", BOOLEAN),
        ("ManagedAddressConfigurationSupported", BOOLEAN),
        ("OtherStatefulConfigurationSupported", BOOLEAN),
        ("AdvertiseDefaultRoute", BOOLEAN),
        ("RouterDiscoveryBehavior", LONG),
        ("DadTransmits", ULONG),
        ("BaseReachableTime", ULONG),
        ("RetransmitTime", ULONG),
        ("PathMtuDiscoveryTimeout", ULONG),
        ("LinkLocalAddressBehavior", LONG),
        ("LinkLocalAddressTimeout", ULONG),
        ("ZoneIndices", ULONG * ScopeLevelCount),
        ("SitePrefixLength", ULONG),
        ("Metric", ULONG),
        ("NlMtu", ULONG),
        ("Connected", BOOLEAN),
        ("SupportsWakeUpPatterns", BOOLEAN),
        ("SupportsNeighborDiscovery", BOOLEAN),
        ("SupportsRouterDiscovery", BOOLEAN),
        ("ReachableTime", ULONG),
        ("TransmitOffload", NL_INTERFACE_OFFLOAD_ROD),
        ("ReceiveOffload", NL_INTERFACE_OFFLOAD_ROD),
        ("DisableDefaultRoutes", BOOLEAN),
    ]


class MIB_IPINTERFACE_TABLE(ctypes.Structure):  # noqa: N801
    """``NumEntries`` rows from ``Table`` on."""

    _fields_ = [("NumEntries", ULONG), ("Table", MIB_IPINTERFACE_ROW * 1)]


class MIB_UNICASTIPADDRESS_ROW(ctypes.Structure):  # noqa: N801
    """An IP address of this machine."""

    _fields_ = [
        ("Address", SOCKADDR_INET),
        ("InterfaceLuid", NET_LUID),
        ("InterfaceIndex", NET_IFINDEX),
        ("PrefixOrigin", LONG),
        ("SuffixOrigin", LONG),
        ("ValidLifetime", ULONG),
        ("PreferredLifetime", ULONG),
        ("OnLinkPrefixLength", BYTE),
        ("SkipAsSource", BOOLEAN),
        ("DadState", LONG),
        ("ScopeId", SCOPE_ID),
        ("CreationTimeStamp", LARGE_INTEGER),
    ]


class MIB_UNICASTIPADDRESS_TABLE(ctypes.Structure):  # noqa: N801
    """``NumEntries`` rows from ``Table`` on."""

    _fields_ = [("NumEntries", ULONG), ("Table", MIB_UNICASTIPADDRESS_ROW * 1)]


class IP_ADDRESS_PREFIX(ctypes.Structure):  # noqa: N801
    """An IP network."""

    _fields_ = [("Prefix", SOCKADDR_INET), ("PrefixLength", BYTE)]


class MIB_IPFORWARD_ROW2(ctypes.Structure):  # noqa: N801
    """A route."""

    _fields_ = [
        ("InterfaceLuid", NET_LUID),
        ("InterfaceIndex", NET_IFINDEX),
        ("DestinationPrefix", IP_ADDRESS_PREFIX),
        ("NextHop", SOCKADDR_INET),
        ("SitePrefixLength", BYTE),
        ("ValidLifetime", ULONG),
        ("PreferredLifetime", ULONG),
        ("Metric", ULONG),
        ("Protocol", LONG),
        ("Loopback", BOOLEAN),
        ("AutoconfigureAddress", BOOLEAN),
        ("Publish", BOOLEAN),
        ("Immortal", BOOLEAN),
        ("Age", ULONG),
        ("Origin", LONG),
    ]


class MIB_IPFORWARD_TABLE2(ctypes.Structure):  # noqa: N801
    """``NumEntries`` rows from ``Table`` on."""

    _fields_ = [("NumEntries", ULONG), ("Table", MIB_IPFORWARD_ROW2 * 1)]


PIPINTERFACE_CHANGE_CALLBACK = CALLBACK(None, PVOID, ctypes.POINTER(MIB_IPINTERFACE_ROW), LONG)
PUNICAST_IPADDRESS_CHANGE_CALLBACK = CALLBACK(None, PVOID, ctypes.POINTER(MIB_UNICASTIPADDRESS_ROW), LONG)
PIPFORWARD_CHANGE_CALLBACK = CALLBACK(None, PVOID, ctypes.POINTER(MIB_IPFORWARD_ROW2), LONG)

# --- ipexport.h, iptypes.h

MAX_ADAPTER_NAME: Final = 128
MAX_ADAPTER_ADDRESS_LENGTH: Final = 8
MAX_DHCPV6_DUID_LENGTH: Final = 130
GAA_FLAG_SKIP_UNICAST: Final = 0x0001
GAA_FLAG_SKIP_ANYCAST: Final = 0x0002
GAA_FLAG_SKIP_MULTICAST: Final = 0x0004
GAA_FLAG_SKIP_DNS_SERVER: Final = 0x0008
GAA_FLAG_INCLUDE_GATEWAYS: Final = 0x0080
IP_ADAPTER_DHCP_ENABLED: Final = 0x04


class IP_ADAPTER_INDEX_MAP(ctypes.Structure):  # noqa: N801
    """An interface's index, and its name: ``\\DEVICE\\TCPIP_{GUID}``."""

    _fields_ = [("Index", ULONG), ("Name", WCHAR * MAX_ADAPTER_NAME)]


class IP_ADAPTER_UNICAST_ADDRESS_LH(ctypes.Structure):  # noqa: N801
    """An address of an adapter; the next one follows at ``Next``."""


IP_ADAPTER_UNICAST_ADDRESS_LH._fields_ = [
    ("Length", ULONG),
    ("Flags", DWORD),
    ("Next", ctypes.POINTER(IP_ADAPTER_UNICAST_ADDRESS_LH)),
    ("Address", SOCKET_ADDRESS),
    ("PrefixOrigin", LONG),
    ("SuffixOrigin", LONG),
    ("DadState", LONG),
    ("ValidLifetime", ULONG),
    ("PreferredLifetime", ULONG),
    ("LeaseLifetime", ULONG),
    ("OnLinkPrefixLength", BYTE),
]


class IP_ADAPTER_DNS_SERVER_ADDRESS_XP(ctypes.Structure):  # noqa: N801
    """A DNS server of an adapter; the next one follows at ``Next``."""


IP_ADAPTER_DNS_SERVER_ADDRESS_XP._fields_ = [
    ("Length", ULONG),
    ("Reserved", DWORD),
    ("Next", ctypes.POINTER(IP_ADAPTER_DNS_SERVER_ADDRESS_XP)),
    ("Address", SOCKET_ADDRESS),
]


class IP_ADAPTER_GATEWAY_ADDRESS_LH(ctypes.Structure):  # noqa: N801
    """A router of an adapter; the next one follows at ``Next``."""


IP_ADAPTER_GATEWAY_ADDRESS_LH._fields_ = [
    ("Length", ULONG),
    ("Reserved", DWORD),
    ("Next", ctypes.POINTER(IP_ADAPTER_GATEWAY_ADDRESS_LH)),
    ("Address", SOCKET_ADDRESS),
]


class IP_ADAPTER_ADDRESSES_LH(ctypes.Structure):  # noqa: N801
    """An adapter with all its addresses, as GetAdaptersAddresses gives it; the next one follows at ``Next``.

    The lists that nobody here reads (anycast, multicast, prefixes, WINS, DNS suffixes) are plain pointers.
    """


IP_ADAPTER_ADDRESSES_LH._fields_ = [
    ("Length", ULONG),
    ("IfIndex", ULONG),
    ("Next", ctypes.POINTER(IP_ADAPTER_ADDRESSES_LH)),
    ("AdapterName", ctypes.c_char_p),
    ("FirstUnicastAddress", ctypes.POINTER(IP_ADAPTER_UNICAST_ADDRESS_LH)),
    ("FirstAnycastAddress", PVOID),
    ("FirstMulticastAddress", PVOID),
    ("FirstDnsServerAddress", ctypes.POINTER(IP_ADAPTER_DNS_SERVER_ADDRESS_XP)),
    ("DnsSuffix", LPWSTR),
    ("Description", LPWSTR),
    ("FriendlyName", LPWSTR),
    ("PhysicalAddress", BYTE * MAX_ADAPTER_ADDRESS_LENGTH),
    ("PhysicalAddressLength", ULONG),
    ("Flags", ULONG),
    ("Mtu", ULONG),
    ("IfType", ULONG),
    ("OperStatus", LONG),
    ("Ipv6IfIndex", ULONG),
    ("ZoneIndices", ULONG * 16),
    ("FirstPrefix", PVOID),
    ("TransmitLinkSpeed", ULONG64),
    ("ReceiveLinkSpeed", ULONG64),
    ("FirstWinsServerAddress", PVOID),
    ("FirstGatewayAddress", ctypes.POINTER(IP_ADAPTER_GATEWAY_ADDRESS_LH)),
    ("Ipv4Metric", ULONG),
    ("Ipv6Metric", ULONG),
    ("Luid", NET_LUID),
    ("Dhcpv4Server", SOCKET_ADDRESS),
    ("CompartmentId", ULONG),
    ("NetworkGuid", GUID),
    ("ConnectionType", LONG),
    ("TunnelType", LONG),
    ("Dhcpv6Server", SOCKET_ADDRESS),
    ("Dhcpv6ClientDuid", BYTE * MAX_DHCPV6_DUID_LENGTH),
    ("Dhcpv6ClientDuidLength", ULONG),
    ("Dhcpv6Iaid", ULONG),
    ("FirstDnsSuffix", PVOID),
]

_P = ctypes.POINTER
_route = _P(MIB_IPFORWARD_ROW2)
_interface = _P(MIB_IPINTERFACE_ROW)
_unicast = _P(MIB_UNICASTIPADDRESS_ROW)

PROTOTYPES: Final[dict[str, Prototype]] = {
    "GetIpInterfaceEntry": (NETIO_STATUS, (_interface,)),
    "SetIpInterfaceEntry": (NETIO_STATUS, (_interface,)),
    "InitializeIpInterfaceEntry": (None, (_interface,)),
    "GetIpInterfaceTable": (NETIO_STATUS, (ADDRESS_FAMILY, _P(_P(MIB_IPINTERFACE_TABLE)))),
    "NotifyIpInterfaceChange": (
        NETIO_STATUS,
        (ADDRESS_FAMILY, PIPINTERFACE_CHANGE_CALLBACK, PVOID, BOOLEAN, _P(HANDLE)),
    ),
    "CreateUnicastIpAddressEntry": (NETIO_STATUS, (_unicast,)),
    "DeleteUnicastIpAddressEntry": (NETIO_STATUS, (_unicast,)),
    "GetUnicastIpAddressEntry": (NETIO_STATUS, (_unicast,)),
    "InitializeUnicastIpAddressEntry": (None, (_unicast,)),
    "GetUnicastIpAddressTable": (NETIO_STATUS, (ADDRESS_FAMILY, _P(_P(MIB_UNICASTIPADDRESS_TABLE)))),
    "NotifyUnicastIpAddressChange": (
        NETIO_STATUS,
        (ADDRESS_FAMILY, PUNICAST_IPADDRESS_CHANGE_CALLBACK, PVOID, BOOLEAN, _P(HANDLE)),
    ),
    "CreateIpForwardEntry2": (NETIO_STATUS, (_route,)),
    "DeleteIpForwardEntry2": (NETIO_STATUS, (_route,)),
    "GetIpForwardEntry2": (NETIO_STATUS, (_route,)),
    "InitializeIpForwardEntry": (None, (_route,)),
    "GetIpForwardTable2": (NETIO_STATUS, (ADDRESS_FAMILY, _P(_P(MIB_IPFORWARD_TABLE2)))),
    "GetBestRoute2": (
        NETIO_STATUS,
        (_P(NET_LUID), NET_IFINDEX, _P(SOCKADDR_INET), _P(SOCKADDR_INET), ULONG, _route, _P(SOCKADDR_INET)),
    ),
    "NotifyRouteChange2": (NETIO_STATUS, (ADDRESS_FAMILY, PIPFORWARD_CHANGE_CALLBACK, PVOID, BOOLEAN, _P(HANDLE))),
    "CancelMibChangeNotify2": (NETIO_STATUS, (HANDLE,)),
    "FreeMibTable": (None, (PVOID,)),
    "ConvertInterfaceGuidToLuid": (NETIO_STATUS, (_P(GUID), _P(NET_LUID))),
    "ConvertInterfaceLuidToGuid": (NETIO_STATUS, (_P(NET_LUID), _P(GUID))),
    "ConvertInterfaceLuidToIndex": (NETIO_STATUS, (_P(NET_LUID), _P(NET_IFINDEX))),
    "ConvertInterfaceLuidToAlias": (NETIO_STATUS, (_P(NET_LUID), LPWSTR, ctypes.c_size_t)),
    "GetAdaptersAddresses": (ULONG, (ULONG, ULONG, PVOID, _P(IP_ADAPTER_ADDRESSES_LH), _P(ULONG))),
    "IpReleaseAddress": (DWORD, (_P(IP_ADAPTER_INDEX_MAP),)),
    "IpRenewAddress": (DWORD, (_P(IP_ADAPTER_INDEX_MAP),)),
}

IPHLPAPI: Final = Library("iphlpapi.dll", PROTOTYPES)
