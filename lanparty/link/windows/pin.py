"""Keeps the relay reachable by the interface that it was reached by, whatever routes the house brings, on Windows.

Owns: one host route, the choice of its next hop, and the watch over it.
Must not know: the adapter's other settings, QUIC, DHCP.

Why, and what is done before each try to reach the relay, is as on Linux (lanparty/link/pin.py):

1. The relay is on this machine (loopback, own address): nothing to do.
2. There is a host route already, put there by somebody else: it is borrowed, and never removed by us.
3. Else a host route becomes a step of the transaction.

The route is looked for among those that do not lead into the tunnel. When the underlay changed (another Wi-Fi), the pin
is removed, the route looked up again, and fixed again.

**The watch** (`RelayPin.guard`) looks after each change of routes, interfaces and addresses whether Windows would still
reach the relay without the tunnel, DHCP or not:

* The pin is gone, or its interface is not connected. Windows removes an interface's routes when its cable or its Wi-Fi
  is lost for a moment, and gives back only those of DHCP; or it lists them still, and does not use them (SoftEtherVPN
  #1659). So the pin is put back, by whichever interface leads there now, also where nothing is wrong yet: else the
  tunnel's packets would go into the tunnel as soon as the house's routes fit. While no interface does, nobody is to
  blame, and the next change is waited for.
* The relay's route leads into the tunnel although the pin is there: somebody has made a host route to it, too, and the
  adapter has the lower metric. If it is DHCP's, it is removed, which adapter_network.py does anyway. Else nothing that
  we could put back helps, so the program ends.
* The same happens again within `QUIET` after the pin was put back: somebody removes it each time. The program ends,
  instead of fighting for ever.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Container, Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import attrs
import trio

from lanparty.link.windows.iphelper import BestRoute
from lanparty.link.windows.plan import Key, RouteKey, Snapshot, Step, best_way, host_route
from lanparty.link.windows.transaction import Transaction
from lanparty.obs.errors import ConnectionFailedError, MachineError
from lanparty.obs.events import CLIENT_DHCP_IGNORED, CLIENT_RELAY_PINNED
from lanparty.obs.log import log

__all__ = ["Network", "RelayPin"]

QUIET: Final = 10.0
"""Seconds after the pin was put back in which it must not vanish again. A Wi-Fi that flaps does so more slowly; a
program that removes our route each time that it sees it does so at once."""


class Network(Protocol):
    """What the pin needs of `lanparty.link.windows.network.NetworkApi`."""

    async def snapshot(self) -> Snapshot:
        """Look at everything. Raises MachineError."""
        ...

    async def drop_house_routes(self, interface: str, ours: Container[Key]) -> list[RouteKey]:
        """Remove the routes by a gateway that the house has put there, but for ``ours``; gives them."""
        ...

    async def addresses(self) -> frozenset[str]:
        """All IP addresses of this machine."""
        ...

    def best_route(self, address: str) -> BestRoute | None:
        """Ask how Windows would reach ``address`` now."""
        ...

    def alias(self, interface: str) -> str:
        """Give the name that people know the interface with this GUID by."""
        ...

    def watch(self) -> AbstractContextManager[AsyncIterator[None]]:
        """Give something after changes of routes, interfaces or addresses."""
        ...


@attrs.frozen
class _Pin:
    address: str
    """What was asked for."""
    step: Step | None = None
    """Our route; None: borrowed, or not needed."""
    hop: RouteKey | None = None
    """The host route, ours or not; None: not needed."""


class RelayPin:
    """The host route to the relay. ``avoid`` are GUIDs of interfaces that lead into the tunnel.

    Safe to call from several tasks.
    """

    def __init__(self, network: Network, transaction: Transaction, *, avoid: Iterable[str] = ()) -> None:
        self._network = network
        self._transaction = transaction
        self.avoid = set(avoid)
        """May be added to when the adapter is chosen."""
        self._pin: _Pin | None = None
        self._put_back_at = float("-inf")
        self._lock = trio.Lock()

    @property
    def address(self) -> str | None:
        """The relay's address whose route is fixed now (or needs no fixing); None when there is none."""
        return self._pin.address if self._pin is not None else None

    async def pin(self, address: str) -> None:
        """Fix the route to ``address`` as it is without the tunnel. Releases the pin of another address.

        Call it before each connection attempt. Raises ConnectionFailedError: no route leads there now; MachineError:
        Windows refuses.
        """
        async with self._lock:
            if self._pin is not None and self._pin.address == address and await self._still_right(self._pin):
                return
            await self._release()
            await self._make(address)

    async def release(self) -> list[str]:
        """Remove our route, shielded from cancellation. Idempotent. Gives what Windows refused."""
        refused: list[str] = []
        with trio.CancelScope(shield=True):
            async with self._lock:
                refused = await self._release()
        return refused

    async def guard(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch over the way to the relay until cancelled; started when nothing can be missed any more.

        Raises MachineError: the way leads into the tunnel, and that cannot be helped; or no notifications.
        """
        with self._network.watch() as changes:
            await self._check()
            task_status.started()
            async for _ in changes:
                await self._check()

    # Under the lock

    async def _check(self) -> None:
        async with self._lock:
            pin = self._pin
            if pin is None or pin.hop is None:
                return
            snapshot = await self._network.snapshot()
            connected = snapshot.connects(pin.hop)
            if snapshot.value(pin.hop) is None or not connected:
                await self._put_back(pin, connected)
            elif self._into_tunnel(pin.address):
                await self._require_outside(pin.address)

    async def _put_back(self, pin: _Pin, connected: bool) -> None:
        """``connected``: the interface of the pin is; else its routes are out of use, and nobody took one away."""
        again = trio.current_time() - self._put_back_at < QUIET
        if again and connected and self._into_tunnel(pin.address):
            raise self._stolen(pin.address, "another program removes the route that this one needs")
        await self._release()
        try:
            await self._make(pin.address)
        except ConnectionFailedError:
            self._pin = pin  # no network at all now: the next change is looked at, too
            self._put_back_at = float("-inf")
            return
        self._put_back_at = trio.current_time()
        await self._require_outside(pin.address)

    async def _require_outside(self, address: str) -> None:
        if self._into_tunnel(address):
            for interface in self.avoid:
                for route in await self._network.drop_house_routes(interface, self._transaction.keys):
                    log(CLIENT_DHCP_IGNORED, what=f"the route to {route.destination} by {route.gateway}")
        if self._into_tunnel(address):
            raise self._stolen(address, "another route to it has a lower metric")

    def _into_tunnel(self, address: str) -> bool:
        found = self._network.best_route(address)
        return found is not None and found.key.interface in self.avoid

    def _stolen(self, address: str, why: str) -> MachineError:
        tap = ", ".join(sorted(self._network.alias(guid) for guid in self.avoid))
        return MachineError(
            f"the way to the relay {address} leads into the tunnel itself ({tap}), because {why}: look for {address} "
            "in 'route print', remove that route, or ask the host what routes the house's DHCP server gives, and start "
            "again"
        )

    async def _release(self) -> list[str]:
        pin, self._pin = self._pin, None
        if pin is None or pin.step is None:
            return []
        key = pin.step.key
        return await self._transaction.undo(lambda other: other == key)

    async def _make(self, address: str) -> None:
        target = ipaddress.ip_address(address)
        scoped = isinstance(target, ipaddress.IPv6Address) and target.scope_id is not None
        if target.is_loopback or target.is_unspecified or scoped or address in await self._network.addresses():
            self._pin = _Pin(address)
            return
        snapshot = await self._network.snapshot()
        hop = self._way(snapshot, address)
        step = host_route(hop.interface, address, hop.gateway)
        key = RouteKey(hop.interface, str(ipaddress.ip_network(target)), hop.gateway)
        if snapshot.value(key) is not None:
            self._pin = _Pin(address, None, key)
            return
        await self._transaction.apply([step])
        ours = any(done.key == key for done in self._transaction.steps)  # else it came in between, from somebody else
        self._pin = _Pin(address, step if ours else None, key)
        log(CLIENT_RELAY_PINNED, address=address, interface=self._network.alias(hop.interface), gateway=hop.gateway)

    def _way(self, snapshot: Snapshot, address: str) -> RouteKey:
        """The route to the relay that does not lead into the tunnel."""
        found = self._network.best_route(address)
        # Where Windows would take the adapter, it does not tell its second choice, so its table is searched for it.
        way = found.key if found is not None and found.key.interface not in self.avoid else None
        if found is not None and way is None:
            way = best_way(snapshot, address, avoid=self.avoid)
        if way is None:
            raise ConnectionFailedError(f"no route leads to the relay at {address}: is this computer on a network?")
        return way

    async def _still_right(self, pin: _Pin) -> bool:
        """Whether the pin is there, and the underlay would still lead the same way without it."""
        if pin.hop is None:
            return True
        snapshot = await self._network.snapshot()
        if snapshot.value(pin.hop) is None or not snapshot.connects(pin.hop) or self._into_tunnel(pin.address):
            return False
        if pin.step is None:
            return True
        best = best_way(snapshot, pin.address, avoid=self.avoid, without=pin.hop)
        return best is not None and (best.interface, best.gateway) == (pin.hop.interface, pin.hop.gateway)
