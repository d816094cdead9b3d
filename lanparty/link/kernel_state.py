"""What the kernel says about interfaces, addresses and routes, as our own types.

Owns: the types, and the decoding of pyroute2's messages into them. Those messages are untyped: nothing of them leaves
this module and ``netlink.py``.
Must not know: sockets, requests.

MAC addresses are raw 6-byte ``bytes``; IP addresses and networks are canonical text.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # rtnetlink's messages

import ipaddress
import socket
from typing import Any

import attrs

__all__ = [
    "MAIN_TABLE",
    "ROUTE_PROTOCOL",
    "AddressChange",
    "AddressInfo",
    "Change",
    "LinkChange",
    "LinkInfo",
    "Overflow",
    "RouteChange",
    "RouteInfo",
    "address_from",
    "change_from",
    "link_from",
    "routes_from",
]

ROUTE_PROTOCOL = 108
"""rtm_protocol of every route that lanparty adds (rtnetlink(7): above 4 is for the user; free in iproute2's rt_protos).
A route with another number was put there by somebody else and is never removed by us."""

MAIN_TABLE = 254
"""RT_TABLE_MAIN: where the routes live that ``ip route`` shows."""

_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_ROUTE_KINDS = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
}


@attrs.frozen
class LinkInfo:
    """A network interface, as the kernel describes it now."""

    index: int
    name: str
    mac: bytes
    """Hardware address: 6 bytes on Ethernet, empty when the interface has none."""
    mtu: int
    """Largest packet in bytes, without the Ethernet header."""
    up: bool
    """Administratively up (IFF_UP)."""
    carrier: bool
    """Connected: a cable with a peer, a TAP held open (IFF_LOWER_UP)."""
    kind: str | None
    """Driver kind for virtual links: "bridge", "veth", "tun" (TAP, too); ``None`` for hardware."""
    master: int | None
    """Index of the bridge or bond that it is a port of."""
    arp_type: int = 1
    """ARPHRD_*: 1 Ethernet, 772 loopback, 801 to 803 raw wireless."""
    promiscuity: int = 0
    """How many users have asked for promiscuous mode."""


@attrs.frozen
class AddressInfo:
    """An IP address of an interface."""

    address: str
    prefix: int
    broadcast: str | None
    index: int

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The network that the kernel takes to be on the link."""
        return ipaddress.ip_network(f"{self.address}/{self.prefix}", strict=False)


@attrs.frozen
class RouteInfo:
    """A route: of a table (``routes``), or the one that a packet would take now (``route_to``)."""

    destination: str
    """Canonical network, ``0.0.0.0/0`` for a default route."""
    interface: str | None
    gateway: str | None
    """Next hop; ``None`` when the destination is on the link."""
    source: str | None
    """Preferred source address."""
    metric: int = 0
    table: int = MAIN_TABLE
    protocol: int = 0
    kind: str = "unicast"

    @property
    def ours(self) -> bool:
        """Whether a lanparty program put it there."""
        return self.protocol == ROUTE_PROTOCOL


@attrs.frozen
class LinkChange:
    """An interface appeared, changed or (``gone``) vanished."""

    name: str
    index: int
    up: bool
    carrier: bool
    gone: bool


@attrs.frozen
class AddressChange:
    """An address was added or (``gone``) removed."""

    address: str
    prefix: int
    index: int
    gone: bool


@attrs.frozen
class RouteChange:
    """A route was added or (``gone``) removed."""

    destination: str
    gateway: str | None
    index: int | None
    table: int
    gone: bool


@attrs.frozen
class Overflow:
    """The kernel dropped notifications: read the whole state again."""


Change = LinkChange | AddressChange | RouteChange | Overflow


def link_from(message: Any) -> LinkInfo:
    """Decode RTM_NEWLINK."""
    info = message.get_attr("IFLA_LINKINFO")
    mac = message.get_attr("IFLA_ADDRESS")
    flags = message["flags"]
    return LinkInfo(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=bytes.fromhex(mac.replace(":", "")) if mac else b"",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        kind=info.get_attr("IFLA_INFO_KIND") if info is not None else None,
        master=message.get_attr("IFLA_MASTER"),
        arp_type=message["ifi_type"],
        promiscuity=message.get_attr("IFLA_PROMISCUITY") or 0,
    )


def address_from(message: Any) -> AddressInfo:
    """Decode RTM_NEWADDR and RTM_DELADDR."""
    # IFA_LOCAL is the own address; IFA_ADDRESS is the peer's on point-to-point links. IPv6 has only the latter.
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return AddressInfo(address, message["prefixlen"], message.get_attr("IFA_BROADCAST"), message["index"])


def _destination_from(message: Any) -> str:
    any_address = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 - no bind
    address = message.get_attr("RTA_DST") or any_address
    return str(ipaddress.ip_network(f"{address}/{message['dst_len']}", strict=False))


def _gateway_from(message: Any) -> str | None:
    via = message.get_attr("RTA_VIA")  # an IPv4 route over an IPv6 next hop (RFC 5549)
    gateway = via["addr"] if via else message.get_attr("RTA_GATEWAY")
    return str(ipaddress.ip_address(gateway)) if gateway else None


def routes_from(message: Any, names: dict[int, str]) -> list[RouteInfo]:
    """Decode RTM_NEWROUTE: one route per next hop."""
    first = RouteInfo(
        destination=_destination_from(message),
        interface=names.get(message.get_attr("RTA_OIF") or 0),
        gateway=_gateway_from(message),
        source=message.get_attr("RTA_PREFSRC"),
        metric=message.get_attr("RTA_PRIORITY") or 0,
        table=message.get_attr("RTA_TABLE") or message["table"],
        protocol=message["proto"],
        kind=_ROUTE_KINDS.get(message["type"], str(message["type"])),
    )
    hops = message.get_attr("RTA_MULTIPATH")
    if not hops:
        return [first]
    return [attrs.evolve(first, interface=names.get(hop["oif"]), gateway=_gateway_from(hop)) for hop in hops]


def change_from(message: Any) -> Change | None:
    """Decode a notification; ``None`` for what no consumer cares about."""
    event = message["event"]
    gone = event.startswith("RTM_DEL")
    if event in ("RTM_NEWLINK", "RTM_DELLINK"):
        name, flags = message.get_attr("IFLA_IFNAME"), message["flags"]
        if name is None or message["family"] == socket.AF_BRIDGE:
            return None  # a bridge tells of its ports in messages of its own family: DELLINK there is "left the bridge"
        return LinkChange(name, message["index"], bool(flags & _IFF_UP), bool(flags & _IFF_LOWER_UP), gone)
    if event in ("RTM_NEWADDR", "RTM_DELADDR"):
        info = address_from(message)
        return AddressChange(info.address, info.prefix, info.index, gone)
    if event in ("RTM_NEWROUTE", "RTM_DELROUTE"):
        table = message.get_attr("RTA_TABLE") or message["table"]
        index = message.get_attr("RTA_OIF")
        return RouteChange(_destination_from(message), _gateway_from(message), index, table, gone)
    return None
