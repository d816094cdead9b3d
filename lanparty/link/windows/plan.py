"""What is changed on a Windows machine, as data: what was found, what is wished, and the steps between the two. Pure.

Owns: the settings that are touched (`Key`), what may be done to each, the order of steps, and the rule of undoing.
Must not know: iphlpapi, COM, the journal, when any of it happens.

A machine, as far as this program changes it, is a table from keys to values: `Snapshot`. A step writes one value, and
holds the one that was there before; so its undo is the step turned around, and whether it may be undone can be told
from a snapshot: `still_ours`. What is already as wished makes no step, is therefore never undone, and so is borrowed.

The order of `plan`, all of it while the adapter's cable is still unplugged:

1. `default-routes`: off (MIB_IPINTERFACE_ROW.DisableDefaultRoutes), IPv4 and IPv6. Windows keeps a default route that
   DHCP or a router brings to that interface, and does not use it. Before anything else: no packet may take it.
2. `router-discovery`: off, IPv6. A router of the house may announce more than a default route: prefixes as long as
   ::/1 "on the link" (RFC 4861 section 4.6.2) would take all IPv6 traffic; decision 0010. Link-local addresses stay.
3. `metric`: `METRIC` instead of Windows' own choice.
4. `mtu`.
5. names: see `Wish.accept_dns`.

The MAC (`MacKey`) is set before all that: the adapter restarts, and may come back with other settings.

With an address, and only if the player wants the internet by the house: `default_halves`. The relay's pin (pin.py) and
the network's category (category.py) are steps of the same kind.

**Which adapter a game's broadcast takes.** Every IPv4 interface of Windows has routes of its own to 255.255.255.255/32
and 224.0.0.0/4 ("route print" shows them, on-link). A datagram to such an address from a socket that chose no interface
takes the best of these routes: the longest prefix, and among equals the lowest metric, where "the overall metric ... is
the sum of the route metric and the interface metric" (Microsoft, Microsoft-Windows-TCPIP, Ipv4Settings, Metric). These
routes have the same metric on each interface, so the interface metric decides; that is what n2n, ZeroTier and
WinIPBroadcast report of it, too (n2n#742; WinIPBroadcast exists because Windows sends a broadcast by the preferred
route only). Ordinary traffic is not drawn to the adapter by a low metric: there is no default route for it to win with,
because of 1. What is in the house's own network goes there anyway, by its longer prefix. IPv6 multicast (ff00::/8) is
the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterator, Mapping
from typing import Final, Literal

import attrs

__all__ = [
    "AUTOMATIC",
    "DEFAULT_HALVES",
    "METRIC",
    "AddressKey",
    "CategoryKey",
    "DhcpKey",
    "DnsKey",
    "Family",
    "InterfaceKey",
    "Key",
    "MacKey",
    "RouteKey",
    "Snapshot",
    "Step",
    "Value",
    "Wish",
    "best_way",
    "default_halves",
    "host_route",
    "plan",
    "still_ours",
]

Family = Literal[4, 6]
Setting = Literal["metric", "default-routes", "router-discovery", "mtu"]

METRIC: Final = 1
"""Interface metric of the adapter: below all that Windows chooses by itself, which is 5 at least, for more than 2 Gbit
per second (Microsoft, Ipv4Settings, Metric). Not 0: some tools show 0 as "automatic"."""
AUTOMATIC: Final = -1
"""Value of "metric": Windows chooses (UseAutomaticMetric). What it chose is not kept: it chooses again."""
ROUTE_METRIC: Final = 0
"""Our routes' own part of the metric: these prefixes are the longest, or the only ones, so it decides nothing."""
DEFAULT_HALVES: Final = ("0.0.0.0/1", "128.0.0.0/1")
"""Together all of IPv4, each longer than the player's own default route, which therefore stays as it is; as on Linux.
They are no default routes, so that DisableDefaultRoutes does not concern them."""
_NO_SERVER: Final = "127.0.0.1"


@attrs.frozen
class RouteKey:
    """A route; its value is the route's own metric. Windows has at most one for each of these."""

    interface: str
    """GUID of the interface, upper case and in braces: the only name of it that lasts over restarts."""
    destination: str
    """ADDRESS/PREFIX, canonical."""
    gateway: str | None
    """None: on the link."""


@attrs.frozen
class InterfaceKey:
    """A setting of one IP version of an interface.

    "metric": int or `AUTOMATIC`. "default-routes": 1 off, 0 on. "router-discovery": NL_ROUTER_DISCOVERY_BEHAVIOR.
    "mtu": bytes of an IP packet.
    """

    interface: str
    family: Family
    setting: Setting


@attrs.frozen
class DnsKey:
    """The IPv4 DNS servers that were given to an interface by hand; "": none, so those of DHCP count."""

    interface: str


@attrs.frozen
class CategoryKey:
    """The category of a network (NLM_NETWORK_CATEGORY); networks have GUIDs, too, and outlive their connections."""

    network: str


@attrs.frozen
class MacKey:
    """What the adapter's driver was told to use as its MAC (adapters.py): 12 hexadecimal digits; "": nothing."""

    interface: str


@attrs.frozen
class DhcpKey:
    """Whether Windows' DHCP client has the adapter in charge, from its next start on (fixed.py): 1 or 0."""

    interface: str


@attrs.frozen
class AddressKey:
    """An IPv4 address of an interface (fixed.py); its value is the prefix length."""

    interface: str
    address: str


Key = RouteKey | InterfaceKey | DnsKey | CategoryKey | MacKey | DhcpKey | AddressKey
Value = int | str | None
"""None: it is not there. Only a route or an address can be made or removed."""


@attrs.frozen
class Step:
    """One change: the value at ``key`` is ``before``, and is to be ``after``."""

    key: Key
    before: Value
    after: Value

    def undo(self) -> Step:
        """Give the step that takes this one back."""
        return Step(self.key, self.after, self.before)


@attrs.frozen
class Snapshot:
    """What was found on the machine."""

    values: Mapping[Key, Value]
    metrics: Mapping[tuple[str, Family], int] = attrs.field(factory=dict)
    """Interface metrics as they are in force, of connected interfaces: routes of others are not used."""
    name_servers: tuple[str, ...] = ()
    """IPv4 addresses of the DNS servers that the player's own interfaces use, the preferred first."""

    def value(self, key: Key) -> Value:
        """Give the value at ``key``; None: no such route, or no such interface or network."""
        return self.values.get(key)

    def connects(self, route: RouteKey) -> bool:
        """Whether the interface of a route is connected: else the route may be listed, and is not used."""
        return (route.interface, _family(ipaddress.ip_network(route.destination).version)) in self.metrics


@attrs.frozen
class Wish:
    """How the adapter is to be."""

    interface: str
    mtu: int
    accept_dns: bool = False
    """Whether names may be asked of the house's DNS servers; then those that DHCP gives the adapter count.

    Else the player's own stay in force, which needs a step. Windows asks the servers of all interfaces at the same time
    ("smart multi-homed name resolution", Windows 8 and later), those of the interface with the lowest metric first, and
    since Windows 10 takes whichever answer comes first (SANS, "Preventing Windows 10 SMHNR DNS Leakage", 2021). So
    servers that the house's DHCP names for an adapter of metric 1 would hear, and answer, every name that the player
    looks up. Servers that are given by hand replace those of DHCP; so the adapter is given the servers that the
    player's own interfaces use. Where the player has none, it is given this computer itself, where nobody answers.
    """


def plan(snapshot: Snapshot, wish: Wish) -> list[Step]:
    """Give the steps from ``snapshot`` to ``wish``, in the order in which they are to be carried out.

    What the machine does not have (no IPv6 on the adapter, say) has no step.
    """
    found = []
    for key, after in _wished(snapshot, wish):
        before = snapshot.value(key)
        if before is not None and before != after:
            found.append(Step(key, before, after))
    return found


def _wished(snapshot: Snapshot, wish: Wish) -> Iterator[tuple[Key, Value]]:
    families: tuple[Family, ...] = (4, 6)
    for family in families:
        yield InterfaceKey(wish.interface, family, "default-routes"), 1
    yield InterfaceKey(wish.interface, 6, "router-discovery"), 0
    for family in families:
        yield InterfaceKey(wish.interface, family, "metric"), METRIC
    for family in families:
        # An IPv6 link has 1280 bytes at least (RFC 8200 section 5); Windows refuses less.
        if family == 4 or wish.mtu >= 1280:
            yield InterfaceKey(wish.interface, family, "mtu"), wish.mtu
    if not wish.accept_dns:
        yield DnsKey(wish.interface), ",".join(snapshot.name_servers or (_NO_SERVER,))


def best_way(
    snapshot: Snapshot, address: str, *, avoid: Container[str], without: RouteKey | None = None
) -> RouteKey | None:
    """Give the route that Windows would take to ``address`` if the interfaces ``avoid`` and one route were not there.

    The longest prefix, and among equals the lowest sum of the route's and the interface's metric; a default route
    counts only where the interface may use it.
    """
    target = ipaddress.ip_address(address)
    family = _family(target.version)
    found: tuple[tuple[int, int], RouteKey] | None = None
    for key, metric in snapshot.values.items():
        if not isinstance(key, RouteKey) or not isinstance(metric, int) or key == without or key.interface in avoid:
            continue
        network, own = ipaddress.ip_network(key.destination), snapshot.metrics.get((key.interface, family))
        if network.version != target.version or target not in network or own is None:
            continue
        if not network.prefixlen and snapshot.value(InterfaceKey(key.interface, family, "default-routes")):
            continue
        rank = (-network.prefixlen, metric + own)
        if found is None or rank < found[0]:
            found = rank, key
    return None if found is None else found[1]


def default_halves(snapshot: Snapshot, interface: str, router: str) -> list[Step]:
    """Give the steps that lead the player's IPv4 traffic to the house's ``router``.

    Only while the relay is pinned: else the tunnel would go through itself.
    """
    return [
        Step(key, None, ROUTE_METRIC)
        for key in (RouteKey(interface, half, router) for half in DEFAULT_HALVES)
        if snapshot.value(key) is None
    ]


def host_route(interface: str, address: str, gateway: str | None) -> Step:
    """Give the step that makes the route to one ``address``."""
    return Step(RouteKey(interface, str(ipaddress.ip_network(address)), gateway), None, ROUTE_METRIC)


def _family(version: int) -> Family:
    return 4 if version == 4 else 6


def still_ours(step: Step, snapshot: Snapshot) -> bool:
    """Whether the machine shows what ``step`` left: only then may it be undone. Else it is somebody else's now."""
    return snapshot.value(step.key) == step.after
