"""Windows' network as the transaction, the pin and the client see it.

Owns: the choice of the call for each step, which thread it is made in, and the notifications of changes.
Must not know: why a step is taken (plan.py), the journal (transaction.py).

    NetworkApi.snapshot, change    what transaction.py needs (`Machine`)
    NetworkApi.way, addresses, watch    what the client needs (`lanparty.link.machine.Underlay`)

A question about one route or the addresses is asked where it is called: it takes a fraction of a millisecond. The whole
snapshot, calls that write, and all COM, are made in a worker thread: they may take many milliseconds or wait for other
processes, and the tunnel's frames would wait with them.

**Notifications** come in a thread of Windows, whenever it likes. The callback only wakes the iteration, through
``TrioToken.run_sync_soon``; bursts become one. It must never call CancelMibChangeNotify2, which waits until all
callbacks have returned (Microsoft, CancelMibChangeNotify2, Remarks: a deadlock); that is called when the block ends, in
trio's thread, for which no callback ever waits. After it no callback comes, and only then the callback's own memory may
go; where it is refused, that memory is kept for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import AsyncIterator, Container, Iterator
from typing import Any, Final

import trio

from lanparty.link.machine import Way
from lanparty.link.windows import adapters, dhcp, fixed, iphelper
from lanparty.link.windows.category import change_category
from lanparty.link.windows.iphelper import BestRoute
from lanparty.link.windows.plan import (
    AddressKey,
    CategoryKey,
    DhcpKey,
    DnsKey,
    InterfaceKey,
    Key,
    MacKey,
    RouteKey,
    Snapshot,
    Step,
    Value,
)
from lanparty.link.windows.registry import RegistryMissingError
from lanparty.link.windows.transaction import ChangedError, VanishedError
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.link.windows.winapi.base import HANDLE
from lanparty.link.windows.winapi.iphlpapi import IPHLPAPI

__all__ = ["NetworkApi"]

_CHANGES: Final[dict[str, Any]] = {
    "NotifyRouteChange2": ip.PIPFORWARD_CHANGE_CALLBACK,
    "NotifyIpInterfaceChange": ip.PIPINTERFACE_CHANGE_CALLBACK,
    "NotifyUnicastIpAddressChange": ip.PUNICAST_IPADDRESS_CHANGE_CALLBACK,
}
_MAX_SERVERS: Final = 3
"""DNS servers of the player's that the adapter is given: as many as Windows asks before it gives up."""
_not_cancelled: Final[list[Any]] = []
"""Callbacks that Windows may still call, because it refused to stop."""


class NetworkApi:
    """Routes, interfaces, DNS servers, categories. ``tap`` is the adapter's GUID: its DNS servers are looked at."""

    def __init__(self, tap: str | None = None) -> None:
        self.tap = tap

    # For the transaction

    async def snapshot(self) -> Snapshot:
        """Look at all routes and interfaces, and at the DNS servers of the adapter and of the player's own interfaces.

        Raises MachineError.
        """
        return await trio.to_thread.run_sync(_look, self.tap)

    async def change(self, step: Step) -> None:
        """See `lanparty.link.windows.transaction.Machine`."""
        await trio.to_thread.run_sync(_change, step)

    def name(self, step: Step) -> str:
        """See `lanparty.link.windows.transaction.Machine`."""
        match step.key:
            case RouteKey():
                return f"the route to {step.key.destination} by {iphelper.alias(step.key.interface)}"
            case InterfaceKey():
                return f"{_SETTINGS[step.key.setting]} of {iphelper.alias(step.key.interface)} (IPv{step.key.family})"
            case DnsKey():
                return f"the DNS servers of {iphelper.alias(step.key.interface)}"
            case CategoryKey():
                return "a network's category"
            case MacKey():
                return f"the MAC of {iphelper.alias(step.key.interface)}"
            case DhcpKey():
                return f"the DHCP setting of {iphelper.alias(step.key.interface)}"
            case AddressKey():
                return f"the address {step.key.address} of {iphelper.alias(step.key.interface)}"

    async def drop_house_routes(self, interface: str, ours: Container[Key]) -> list[RouteKey]:
        """Remove the routes by a gateway that the house has put there, but for ``ours``; gives them.

        Raises MachineError.

        They belong to the lease, and vanish with it; so they are never put back, and no step of a transaction.
        """
        return await trio.to_thread.run_sync(_drop_house_routes, interface, ours)

    # For the client

    async def way(self, relay: str) -> Way | None:
        """See `lanparty.link.machine.Underlay`. Raises MachineError."""
        await trio.lowlevel.checkpoint()
        found = iphelper.best_route(relay)
        return None if found is None else Way(iphelper.alias(found.key.interface), found.key.gateway, found.source)

    async def addresses(self) -> frozenset[str]:
        """See `lanparty.link.machine.Underlay`. Raises MachineError."""
        await trio.lowlevel.checkpoint()
        return frozenset(iphelper.read_addresses())

    def best_route(self, address: str) -> BestRoute | None:
        """Ask how Windows would reach ``address`` now. Raises MachineError."""
        return iphelper.best_route(address)

    def alias(self, interface: str) -> str:
        """Give the name that people know the interface with this GUID by."""
        return iphelper.alias(interface)

    @contextlib.contextmanager
    def watch(self) -> Iterator[AsyncIterator[None]]:
        """Give something after changes of routes, interfaces or addresses; many at once count as one.

        Raises MachineError: Windows gives no notifications.
        """
        wake, awake = trio.open_memory_channel[None](1)
        token = trio.lowlevel.current_trio_token()

        def wake_up() -> None:
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):  # it will look anyway; or has gone
                wake.send_nowait(None)

        def called(_context: object, _row: object, _kind: object) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(wake_up, idempotent=True)

        with contextlib.ExitStack() as stack:
            for function, callback_type in _CHANGES.items():
                stack.enter_context(_notified(function, callback_type(called)))
            stack.enter_context(awake)
            yield awake


@contextlib.contextmanager
def _notified(function: str, callback: Any) -> Iterator[None]:
    handle = HANDLE()
    error = getattr(IPHLPAPI, function)(ip.AF_UNSPEC, callback, None, 0, ctypes.byref(handle))
    if error:
        raise iphelper.refused("be told of changes of this computer's networks", error)
    try:
        yield
    finally:
        if IPHLPAPI.CancelMibChangeNotify2(handle):
            _not_cancelled.append(callback)


def _look(tap: str | None) -> Snapshot:
    values: dict[Key, Value] = dict(iphelper.read_interfaces().items())
    values.update(iphelper.read_routes().items())
    if tap is not None:
        values[DnsKey(tap)] = iphelper.current_dns(tap)
    return Snapshot(values, iphelper.read_metrics(), _own_name_servers(tap))


def _drop_house_routes(interface: str, ours: Container[Key]) -> list[RouteKey]:
    found = [route for route in iphelper.house_routes(interface) if route not in ours]
    return [route for route in found if iphelper.delete_route(route)]


def _own_name_servers(tap: str | None) -> tuple[str, ...]:
    """DNS servers of the player's own interfaces: those with a router first, as they lead to the internet."""
    index = None if tap is None else iphelper.index_of(tap)
    own = [view for view in dhcp.read_adapters() if view.up and view.index != index]
    found: dict[str, None] = {}
    for view in sorted(own, key=lambda view: not view.gateways):
        found.update(dict.fromkeys(view.name_servers))
    return tuple(found)[:_MAX_SERVERS]


_SETTINGS: Final = {
    "metric": "the metric",
    "default-routes": "the use of default routes",
    "router-discovery": "the search for routers",
    "mtu": "the MTU",
}


# Steps, in a worker thread


def _change(step: Step) -> None:
    match step.key:
        case RouteKey() as route:
            _change_route(route, step)
        case InterfaceKey() as setting:
            _require(iphelper.current_setting(setting), step)
            if not isinstance(step.after, int) or not iphelper.set_setting(setting, step.after):
                raise VanishedError(f"there is no {iphelper.alias(setting.interface)} (any more)")
        case DnsKey(interface):
            now = iphelper.current_dns(interface)
            _require(now, step)
            if not isinstance(step.after, str) or not iphelper.set_dns(interface, step.after):
                raise VanishedError(f"there is no {iphelper.alias(interface)} (any more)")
        case CategoryKey(network):
            change_category(network, step)
        case MacKey(interface):
            _change_mac(interface, step)
        case DhcpKey(interface):
            switch = fixed.dhcp_switch(interface)
            if switch is None:
                raise VanishedError(f"there is no adapter {interface} (any more)")
            if switch != step.after or not _runs_with_dhcp(interface, step.before):
                _require(switch, step)
            fixed.switch_dhcp(interface, int(step.after == 1))
        case AddressKey() as address:
            _change_address(address, step)


def _require(now: Value, step: Step) -> None:
    if now != step.before:
        raise ChangedError(now)


def _change_route(key: RouteKey, step: Step) -> None:
    now = iphelper.current_metric(key)
    _require(now, step)
    if step.after is None:
        if not iphelper.delete_route(key):
            raise ChangedError(None)
    elif isinstance(step.after, int) and now is None:
        error = iphelper.create_route(key, step.after)
        if error == ip.ERROR_OBJECT_ALREADY_EXISTS:
            raise ChangedError(iphelper.current_metric(key))
        if error:
            raise VanishedError(f"there is no {iphelper.alias(key.interface)} (any more) to reach {key.destination} by")


def _change_address(key: AddressKey, step: Step) -> None:
    now = fixed.address_prefix(key.interface, key.address)
    _require(now, step)
    if step.after is None:
        if not fixed.delete_address(key.interface, key.address):
            raise ChangedError(None)
    elif isinstance(step.after, int) and now is None:
        error = fixed.create_address(key.interface, key.address, step.after)
        if error == ip.ERROR_OBJECT_ALREADY_EXISTS:
            raise ChangedError(fixed.address_prefix(key.interface, key.address))
        if error:
            raise VanishedError(f"there is no {iphelper.alias(key.interface)} (any more) to give an address")


def _runs_with_dhcp(interface: str, value: Value) -> bool:
    """Whether the adapter runs with this switch, whatever the registry says of its next start.

    A crash may come between the value and the restart; then the registry looks as if nothing were left to be undone.
    """
    view = fixed.running(interface)
    return view is not None and int(view.dhcp) == value


def _runs_with_mac(interface: str, value: Value) -> bool:
    """The same of the MAC, as 12 hexadecimal digits."""
    view = fixed.running(interface)
    return view is not None and bool(value) and view.mac.hex().upper() == value


def _change_mac(interface: str, step: Step) -> None:
    adapter = next((found for found in adapters.find_adapters() if found.guid == interface), None)
    if adapter is None:
        raise VanishedError(f"there is no adapter {interface} (any more)")
    try:
        now = adapters.current_network_address(adapter) or ""
        if now == step.after and _runs_with_mac(interface, step.before):
            adapters.restart_adapter(adapter)
            return
        _require(now, step)
        before, after = str(step.before) or None, str(step.after)
        if after:
            adapters.apply_mac_change(adapters.MacChange(adapter, before, after))
        else:
            adapters.undo_mac_change(adapters.MacChange(adapter, None, str(before)))
    except RegistryMissingError as error:
        raise VanishedError(f"there is no adapter {interface} (any more)") from error
