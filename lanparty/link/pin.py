"""Keeps the relay reachable by the interface that it was reached by, whatever routes the house brings.

Owns: one host route, and the choice of its next hop.
Must not know: the TAP's routes, QUIC, DHCP.

Without the pin, a house that uses the network in which the relay is (or a default route by the house) would send the
tunnel's own packets into the tunnel. So, before each connection attempt, the route that the kernel uses for the relay
now is fixed as a host route (/32, /128):

1. The relay is on this machine (loopback, own address): nothing to do.
2. There is a host route already, put there by somebody else: it is borrowed, and never removed by us.
3. Else write the journal, add the route with a metric that no other lanparty program on this machine uses.

When the underlay has changed (another Wi-Fi), the pin is removed, the route is looked up again, and fixed again.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # netlink

import contextlib
import ipaddress
from collections.abc import Iterable
from typing import Final

import attrs
import trio

from lanparty.link.journal import Journal, RouteAdded
from lanparty.link.netlink import Netlink, NetlinkMissing, RouteInfo, effective_metric
from lanparty.obs.errors import ConnectionFailedError, MachineError
from lanparty.obs.events import CLIENT_RELAY_PINNED
from lanparty.obs.log import log

__all__ = ["RelayPin", "best_route"]


RELEASE_DEADLINE: Final = 2.0
"""Seconds for removing one route: the kernel answers at once, or something is badly wrong."""


@attrs.frozen
class _Pin:
    address: str
    """What was asked for."""
    change: RouteAdded | None
    """Our route; ``None`` when borrowed or not needed."""
    hop: tuple[str | None, str | None] | None
    """Interface and gateway; ``None`` when not needed."""


class RelayPin:
    """The host route to the relay. ``avoid`` are interfaces that lead into the tunnel: the TAP.

    Safe to call from several tasks.
    """

    def __init__(self, netlink: Netlink, journal: Journal, *, avoid: Iterable[str] = ()) -> None:
        self._netlink = netlink
        self._journal = journal
        self._avoid = frozenset(avoid)
        self._pin: _Pin | None = None
        self._lock = trio.Lock()

    @property
    def address(self) -> str | None:
        """The relay's address whose route is fixed now (or needs no fixing); ``None`` when there is none."""
        return self._pin.address if self._pin is not None else None

    async def pin(self, address: str) -> None:
        """Fix the route to ``address`` as it is without the tunnel. Releases the pin of another address.

        Call it before each connection attempt. Raises :class:`ConnectionFailedError` when no route leads there now,
        :class:`MachineError` when the kernel refuses.
        """
        async with self._lock:
            if self._pin is not None and self._pin.address == address and await self._still_right(self._pin):
                return
            await self._release()
            try:
                await self._make(address)
            except BaseException:
                with trio.move_on_after(RELEASE_DEADLINE, shield=True):
                    await self._release()
                raise

    async def release(self) -> None:
        """Remove our route; shielded from cancellation, with a deadline. Idempotent."""
        with trio.move_on_after(RELEASE_DEADLINE, shield=True):
            async with self._lock:
                await self._release()

    async def _release(self) -> None:
        pin = self._pin
        if pin is None or pin.change is None:
            self._pin = None
            return
        with contextlib.suppress(NetlinkMissing):  # the kernel removed it with its interface
            await self._netlink.remove_route(
                pin.change.destination,
                interface=pin.change.interface,
                gateway=pin.change.gateway,
                metric=pin.change.metric,
            )
        self._pin = None
        self._journal.forget(pin.change)

    async def _make(self, address: str) -> None:
        """Set ``self._pin``, before the route is added: whatever happens then, ``_release`` takes it back."""
        self._pin = _Pin(address, None, None)
        target = ipaddress.ip_address(address)
        scoped = isinstance(target, ipaddress.IPv6Address) and target.scope_id is not None
        if target.is_loopback or target.is_unspecified or scoped:
            return
        route = await self._route_now(target)
        if route.kind == "local":
            return
        interface = route.interface
        if interface is None:
            raise ConnectionFailedError(f"no route leads to the relay at {address}")
        hop = (interface, route.gateway)
        destination = str(ipaddress.ip_network(target))
        there = [other for other in await self._netlink.routes() if other.destination == destination]
        if any(not other.ours and (other.interface, other.gateway) == hop for other in there):
            self._pin = _Pin(address, None, hop)
            return
        taken = {other.metric for other in there}
        metric = effective_metric(target.version, 0)
        while metric in taken:
            metric += 1
        change = RouteAdded(destination, interface, route.gateway, metric)
        self._journal.record(change)
        self._pin = _Pin(address, change, hop)
        try:
            added = await self._add(change, None)
        except MachineError:  # refused, so there is nothing to take back (which might be refused as well)
            self._pin = None
            self._journal.forget(change)
            raise
        if not added:
            self._journal.forget(change)
            self._pin = _Pin(address, None, hop)
            return
        await self._keep_source(change, target, route.source)
        log(CLIENT_RELAY_PINNED, address=address, interface=interface, gateway=route.gateway)

    async def _add(self, change: RouteAdded, source: str | None) -> bool:
        return await self._netlink.add_route(
            change.destination,
            interface=change.interface,
            gateway=change.gateway,
            metric=change.metric,
            source=source,
        )

    async def _keep_source(
        self, change: RouteAdded, target: ipaddress.IPv4Address | ipaddress.IPv6Address, source: str | None
    ) -> None:
        """A default route may name the source address to use (``src``): the pin must then name it, too."""
        now = await self._netlink.route_to(str(target))
        if now is None or source is None or now.source == source or now.interface != change.interface:
            return
        await self._netlink.remove_route(
            change.destination, interface=change.interface, gateway=change.gateway, metric=change.metric
        )
        await self._add(change, source)

    async def _route_now(self, target: ipaddress.IPv4Address | ipaddress.IPv6Address) -> RouteInfo:
        """The route to the relay that does not lead into the tunnel."""
        route = await self._netlink.route_to(str(target))
        if route is not None and route.interface in self._avoid:
            # The kernel would take the TAP. It does not tell its second choice, so the main table is searched for it.
            route = best_route(await self._netlink.routes(), str(target), self._avoid)
        if route is None:
            raise ConnectionFailedError(f"no route leads to the relay at {target}: is this computer on a network?")
        return route

    async def _still_right(self, pin: _Pin) -> bool:
        """Whether the pin is there, and the underlay would still lead the same way without it."""
        if pin.hop is None:
            return True
        routes = await self._netlink.routes()
        destination = str(ipaddress.ip_network(pin.address))
        mine = [route for route in routes if route.destination == destination]
        if not any((route.interface, route.gateway) == pin.hop for route in mine):
            return False
        if pin.change is None:
            return True
        others = [route for route in routes if not (route.ours and route.destination == destination)]
        best = best_route(others, pin.address, self._avoid)
        return best is not None and (best.interface, best.gateway) == pin.hop


def best_route(routes: Iterable[RouteInfo], address: str, avoid: frozenset[str]) -> RouteInfo | None:
    """Longest prefix, then lowest metric, of the routes that do not go by an interface of ``avoid``."""
    target = ipaddress.ip_address(address)
    best: tuple[int, int] | None = None
    found: RouteInfo | None = None
    for route in routes:
        network = ipaddress.ip_network(route.destination)
        if network.version != target.version or target not in network:
            continue
        if route.kind != "unicast" or route.interface is None or route.interface in avoid:
            continue
        rank = (-network.prefixlen, route.metric)
        if best is None or rank < best:
            best, found = rank, route
    return found
