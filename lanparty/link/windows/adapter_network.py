"""What the adapter's settings are while this program runs: plans made and carried out, and kept up.

Owns: when the adapter's plan is made anew, and the default route by the house.
Must not know: iphlpapi, the relay's pin beyond whether there is one, DHCP.

    set_up           before the cable is plugged in: the plan of plan.py, all or nothing
    keep             while it runs: the same again after changes, because the player's own DNS servers change with the
                     Wi-Fi, and Windows now and then takes a setting back, at a restart of the adapter, say
                     Also, routes that the house's DHCP gives besides a default route (options 121, 249) are removed:
                     0.0.0.0/1 and 128.0.0.0/1 among them would take all traffic, which DisableDefaultRoutes does not
                     prevent; so wide a route is removed whoever made it. On Linux our own DHCP client ignores them
    lead_by          the default route by the house, when the player wants it

Everything is taken back by the transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container
from contextlib import AbstractContextManager
from typing import Final, Protocol

import attrs
import trio

from lanparty.link.windows.plan import DnsKey, InterfaceKey, Key, RouteKey, Snapshot, Step, Wish, default_halves, plan
from lanparty.link.windows.transaction import Transaction, VanishedError
from lanparty.obs.errors import MachineError
from lanparty.obs.events import (
    CLIENT_DEFAULT_ROUTE,
    CLIENT_DEFAULT_ROUTE_REFUSED,
    CLIENT_DHCP_IGNORED,
    CLIENT_DNS_SHARED,
)
from lanparty.obs.log import log

__all__ = ["AdapterNetwork"]

_PAUSE: Final = 2.0
"""Seconds between two looks at least: a burst of notifications is one change."""
_MAX_RENEWALS: Final = 20
"""How often one setting is renewed in a run: whoever changes it more often than that wants it, and has it."""


class Network(Protocol):
    """What is needed of `lanparty.link.windows.network.NetworkApi`."""

    async def snapshot(self) -> Snapshot:
        """Look at everything. Raises MachineError."""
        ...

    async def drop_house_routes(self, interface: str, ours: Container[Key]) -> list[RouteKey]:
        """Remove the routes by a gateway that the house has put there, but for ``ours``; gives them."""
        ...

    def alias(self, interface: str) -> str:
        """Give the name that people know the interface with this GUID by."""
        ...

    def watch(self) -> AbstractContextManager[AsyncIterator[None]]:
        """Give something after changes of routes, interfaces or addresses."""
        ...


class AdapterNetwork:
    """The settings of one adapter, by its GUID."""

    def __init__(self, network: Network, transaction: Transaction, adapter: str, *, accept_dns: bool = False) -> None:
        self._network = network
        self._transaction = transaction
        self._adapter = adapter
        self._wish = Wish(adapter, 1500, accept_dns=accept_dns)
        self._names_refused = False
        self._router: str | None = None
        self._renewals: dict[Key, int] = {}
        self._dropped: set[str] = set()
        self._lock = trio.Lock()

    async def set_up(self, mtu: int) -> None:
        """Make the adapter be as wished, with this MTU (bytes); again with another MTU: change only that.

        Raises MachineError: Windows refuses; then nothing is changed.
        """
        async with self._lock:
            self._wish = attrs.evolve(self._wish, mtu=mtu)
            snapshot = await self._network.snapshot()
            if snapshot.value(InterfaceKey(self._adapter, 4, "default-routes")) is None:
                raise MachineError(
                    f"{self._network.alias(self._adapter)} has no IPv4: switch 'Internet Protocol Version 4' on in its "
                    "properties (ncpa.cpl)"
                )
            steps = plan(snapshot, self._wish)
            await self._transaction.apply(step for step in steps if not isinstance(step.key, DnsKey))
            await self._set_names(snapshot, [step for step in steps if isinstance(step.key, DnsKey)])

    async def _set_names(self, snapshot: Snapshot, steps: list[Step]) -> None:
        """Names are worth a warning, not the whole tunnel."""
        if self._wish.accept_dns:
            return
        reason = None
        if snapshot.value(DnsKey(self._adapter)) is None:
            reason = "this Windows is older than Windows 10 version 2004"
        try:
            await self._transaction.apply(steps)
        except MachineError as error:
            reason = str(error)
        self._names_refused = reason is not None
        if reason is not None:
            log(CLIENT_DNS_SHARED, interface=self._network.alias(self._adapter), reason=reason)

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Renew the plan after changes, until cancelled. Raises MachineError: Windows refuses, or no notifications."""
        with self._network.watch() as changes:
            task_status.started()
            async for _ in changes:
                await self._renew()
                await trio.sleep(_PAUSE)

    async def _renew(self) -> None:
        async with self._lock:
            for route in await self._network.drop_house_routes(self._adapter, self._transaction.keys):
                what = f"the route to {route.destination} by {route.gateway}"
                if what not in self._dropped and len(self._dropped) < _MAX_RENEWALS:
                    self._dropped.add(what)
                    log(CLIENT_DHCP_IGNORED, what=what)
            steps = []
            for step in plan(await self._network.snapshot(), self._wish):
                if isinstance(step.key, DnsKey) and self._names_refused:
                    continue  # it was said once, and is no reason to end
                if self._renewals.get(step.key, 0) < _MAX_RENEWALS:
                    self._renewals[step.key] = self._renewals.get(step.key, 0) + 1
                    steps.append(step)
            try:
                await self._transaction.apply(steps)
            except VanishedError:
                return  # the adapter restarts, or has gone: whoever reads its frames tells of that

    async def lead_by(self, router: str | None, *, pinned: bool) -> None:
        """Lead the player's IPv4 traffic by the house's ``router``; None: as it was.

        ``pinned``: the way to the relay is fixed. Raises MachineError.
        """
        async with self._lock:
            if self._router is not None and (router != self._router or not pinned):
                self._router = None
                await self._transaction.undo(self._is_half)
            if router is None:
                return
            if not pinned:
                reason = "the way to the relay is not fixed, the tunnel would go through itself"
                log(CLIENT_DEFAULT_ROUTE_REFUSED, reason=reason)
                return
            await self._transaction.apply(default_halves(await self._network.snapshot(), self._adapter, router))
            if self._router is None:
                self._router = router
                log(CLIENT_DEFAULT_ROUTE, router=router)

    def _is_half(self, key: Key) -> bool:
        return isinstance(key, RouteKey) and key.interface == self._adapter
