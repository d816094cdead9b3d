"""Asks the kernel about interfaces, addresses and routes, and changes them.

Owns: the role's one asyncio loop (trio-asyncio, in the caller's own nursery), the rtnetlink request socket, the sockets
of watchers, and the translation of kernel error numbers into sentences.
Must not know: why an address or a route is wanted, what belongs to lanparty (journal.py, pin.py), frames.

Two ways to the kernel:

1. Requests go through pyroute2's ``AsyncIPRoute``, under trio-asyncio. Each one is answered before its method returns.
2. Notifications come on a trio socket of their own, read with pyroute2's decoder. pyroute2's own reader would move them
   into a queue without a bound, and one ENOBUFS would make its socket useless for ever. Here the queue is the kernel's
   socket buffer: its bound is ``WATCH_BUFFER`` bytes, its drop policy is the newest first, and a drop is told as
   :class:`Overflow`, after which the consumer reads the whole state again.

MAC addresses are raw 6-byte ``bytes``; IP addresses and networks are canonical text.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # AF_NETLINK

import errno
import ipaddress
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import trio
import trio_asyncio
from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
)
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from lanparty.link.kernel_state import (
    MAIN_TABLE,
    ROUTE_PROTOCOL,
    AddressChange,
    AddressInfo,
    Change,
    LinkChange,
    LinkInfo,
    Overflow,
    RouteChange,
    RouteInfo,
    address_from,
    change_from,
    link_from,
    routes_from,
)
from lanparty.obs.errors import MachineError

__all__ = [
    "MAIN_TABLE",
    "ROUTE_PROTOCOL",
    "AddressChange",
    "AddressInfo",
    "Change",
    "LinkChange",
    "LinkInfo",
    "Netlink",
    "NetlinkDown",
    "NetlinkMissing",
    "Overflow",
    "RouteChange",
    "RouteInfo",
    "Watch",
    "open_netlink",
]

WATCH_BUFFER = 1 << 20
"""SO_RCVBUF of a watcher in bytes: some thousand notifications, more than a restart of Docker makes at once."""

_WATCH_GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
_READ_SIZE = 1 << 16
"""Bytes per read of a watcher; the kernel's notifications stay below 32 KiB (NLMSG_GOODSIZE)."""

_DUMP_TRIES = 50
_DUMP_PAUSE = 0.01
"""Seconds between tries: half a second in all, for what takes the kernel and the loop some milliseconds."""

_CLSACT_PARENT = 0xFFFFFFF2
"""TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS): the ingress hook of a clsact qdisc (linux/pkt_sched.h)."""
_ETH_P_ALL = 0x0003
_SCOPE_LINK = 253
_V6_USER_METRIC = 1024
"""IP6_RT_PRIO_USER: what the kernel makes of an IPv6 route's metric 0."""

T = TypeVar("T")

# Neither library has types. Any is named here once instead of at each call.
_AsyncIPRoute: Any = AsyncIPRoute
_MarshalRtnl: Any = MarshalRtnl
_trio_asyncio: Any = trio_asyncio


class NetlinkMissing(MachineError):  # noqa: N818 - a state of the machine that callers test for, named so in the contract
    """The interface, address or route is not there (or not any more)."""


class NetlinkDown(MachineError):  # noqa: N818 - as above
    """The interface is down, and a route would need it up."""


class Watch:
    """Changes of links, addresses and routes, in the kernel's order, from the moment it was made.

    Subscribed at once, so: make it, read the state, then iterate, and nothing is missed. Close it, or use it as a
    context manager. One consumer.
    """

    def __init__(self) -> None:
        try:
            raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        except OSError as error:
            raise MachineError(f"cannot watch the network interfaces: {error.strerror}") from error
        try:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WATCH_BUFFER)
            raw.bind((0, _WATCH_GROUPS))
            self._socket = trio.socket.from_stdlib_socket(raw)
        except OSError as error:
            raw.close()
            raise MachineError(f"cannot watch the network interfaces: {error.strerror}") from error
        self._marshal = _MarshalRtnl()
        self._pending: deque[Change] = deque()  # bound: one read, at most _READ_SIZE bytes of notifications

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._pending:
            try:
                data = await self._socket.recv(_READ_SIZE)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return Overflow()
                raise MachineError(f"cannot watch the network interfaces: {error.strerror}") from error
            for message in self._marshal.parse(data):
                change = change_from(message)
                if change is not None:
                    self._pending.append(change)
        return self._pending.popleft()


class Netlink:
    """Requests to the kernel's routing socket, for trio tasks. Made by :func:`open_netlink`.

    Every method raises :class:`MachineError` with a sentence when the kernel refuses, :class:`NetlinkMissing` when what
    it is about does not exist. Methods may run concurrently.
    """

    def __init__(self, loop: Any, ipr: Any) -> None:
        self._loop = loop
        self._ipr = ipr
        self._dumping = trio.Lock()

    async def run_asyncio(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run an asyncio coroutine function in this role's loop, from any trio task.

        Cancelling the caller cancels the coroutine, and then waits for it to end.
        """
        result: T = await self._loop.run_aio_coroutine(_call(function, arguments))
        return result

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a plain function inside this role's asyncio loop, soon; from any trio task."""
        self._loop.call_soon(function, *arguments)

    # Interfaces

    async def link(self, name: str) -> LinkInfo | None:
        """The interface of that name, or ``None``."""

        async def ask() -> list[Any]:
            return list(await self._ipr.link("get", ifname=name))

        try:
            messages = await self._request(f"look at interface {name}", name, ask)
        except NetlinkMissing:
            return None
        return link_from(messages[0]) if messages else None

    async def require_link(self, name: str) -> LinkInfo:
        """The interface of that name, or :class:`NetlinkMissing`."""
        info = await self.link(name)
        if info is None:
            raise NetlinkMissing(f"there is no network interface {name}; 'ip link' lists those of this machine")
        return info

    async def links(self) -> list[LinkInfo]:
        """All interfaces of this network namespace."""

        async def ask() -> list[Any]:
            return [message async for message in await self._ipr.link("dump")]

        return [link_from(message) for message in await self._dump("list the interfaces", None, ask)]

    async def set_link(
        self,
        name: str,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        up: bool | None = None,
        master: str | None = None,
    ) -> None:
        """Change an interface; ``None`` leaves a property as it is, ``master=""`` takes it out of its bridge.

        The MAC and the MTU are set before the interface comes up, because some drivers refuse them later.
        """
        index = (await self.require_link(name)).index
        wanted: dict[str, Any] = {}
        if mac is not None:
            wanted["address"] = mac.hex(":")
        if mtu is not None:
            wanted["mtu"] = mtu
        if master is not None:
            wanted["master"] = (await self.require_link(master)).index if master else 0
        if wanted:
            await self._request(f"set {', '.join(wanted)} of interface {name}", name, self._link_set, index, wanted)
        if up is not None:
            state = {"state": "up" if up else "down"}
            await self._request(f"set interface {name} {state['state']}", name, self._link_set, index, state)

    async def create_veth(self, name: str, peer: str) -> None:
        """Make two interfaces that are the ends of one cable."""
        await self._request(
            f"make the interfaces {name} and {peer}", name, self._link_add, name, {"kind": "veth", "peer": peer}
        )

    async def create_bridge(self, name: str) -> None:
        """Make a bridge without ports, without spanning tree."""
        await self._request(f"make the bridge {name}", name, self._link_add, name, {"kind": "bridge"})

    async def delete_link(self, name: str) -> None:
        """Remove a virtual interface (of a veth pair, both)."""
        index = (await self.require_link(name)).index

        async def ask() -> None:
            await self._ipr.link("del", index=index)

        await self._request(f"remove interface {name}", name, ask)

    # Addresses

    async def addresses(self, name: str | None = None) -> list[AddressInfo]:
        """The IPv4 and IPv6 addresses of an interface, or of all."""
        index = None if name is None else (await self.require_link(name)).index

        async def ask() -> list[Any]:
            return [message async for message in await self._ipr.get_addr()]

        messages = await self._dump("list the addresses", name, ask)
        return [address_from(message) for message in messages if index in (None, message["index"])]

    async def add_address(self, name: str, address: str, *, broadcast: bool = True) -> bool:
        """Add ``address`` ("ADDRESS/PREFIX"); the kernel adds the route of its network.

        Returns False when the interface had it already.
        """
        interface = ipaddress.ip_interface(address)
        index = (await self.require_link(name)).index
        wanted: dict[str, Any] = {"address": str(interface.ip), "prefixlen": interface.network.prefixlen}
        if broadcast and interface.version == 4 and interface.network.prefixlen < 31:
            wanted["broadcast"] = str(interface.network.broadcast_address)

        async def ask() -> bool:
            try:
                await self._ipr.addr("add", index=index, **wanted)
            except NetlinkError as error:
                if error.code == errno.EEXIST:
                    return False
                raise
            return True

        return await self._request(f"add the address {address} to interface {name}", name, ask)

    async def remove_address(self, name: str, address: str) -> None:
        """Remove ``address`` ("ADDRESS/PREFIX"). :class:`NetlinkMissing` when it is not there."""
        interface = ipaddress.ip_interface(address)
        index = (await self.require_link(name)).index

        async def ask() -> None:
            await self._ipr.addr("del", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)

        await self._request(f"remove the address {address} from interface {name}", name, ask)

    # Routes

    async def routes(self, *, table: int | None = MAIN_TABLE) -> list[RouteInfo]:
        """The routes of a table (``None``: of all), IPv4 and IPv6; one over several next hops appears once per hop."""
        names = {link.index: link.name for link in await self.links()}

        async def dump(family: int) -> list[Any]:
            return [message async for message in await self._ipr.route("dump", family=family)]

        found: list[RouteInfo] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in await self._dump("list the routes", None, dump, family):
                if not message["flags"] & _RTM_F_CLONED:
                    found.extend(routes_from(message, names))
        return [route for route in found if table in (None, route.table)]

    async def route_to(self, destination: str) -> RouteInfo | None:
        """The route that a packet to this address would take now; ``None`` when there is none."""
        address = str(ipaddress.ip_address(destination))

        async def ask() -> list[Any]:
            try:
                return list(await self._ipr.route("get", dst=address))
            except NetlinkError as error:
                if error.code in _UNREACHABLE:
                    return []
                raise

        messages = await self._request(f"look up the route to {address}", None, ask)
        if not messages:
            return None
        names = {link.index: link.name for link in await self.links()}
        route = routes_from(messages[0], names)[0]
        return None if route.kind in ("unreachable", "blackhole") else route

    async def add_route(
        self,
        destination: str,
        *,
        interface: str,
        gateway: str | None = None,
        metric: int = 0,
        source: str | None = None,
    ) -> bool:
        """Add a route to the main table, with lanparty's protocol number.

        Returns False when the same destination, metric, interface and gateway was already there (then it is not ours to
        remove). Raises :class:`MachineError` when another route has that destination and metric.
        """
        network = ipaddress.ip_network(destination)
        index = (await self.require_link(interface)).index
        wanted = _route_request(network, index, gateway, metric)
        if source is not None:
            wanted["prefsrc"] = source
        if gateway is None and network.version == 4:
            wanted["scope"] = _SCOPE_LINK

        async def ask() -> bool:
            try:
                await self._ipr.route("add", proto=ROUTE_PROTOCOL, **wanted)
            except NetlinkError as error:
                if error.code == errno.EEXIST:
                    return False
                raise
            return True

        if await self._request(f"add the route to {network} by interface {interface}", interface, ask):
            return True
        metric = effective_metric(network.version, metric)
        for route in await self.routes():
            same = (route.destination, route.metric) == (str(network), metric)
            if same and (route.interface, route.gateway) == (interface, gateway):
                return False
        raise MachineError(f"cannot add the route to {network} by interface {interface}: there is another one already")

    async def remove_route(
        self, destination: str, *, interface: str, gateway: str | None = None, metric: int = 0, ours: bool = True
    ) -> None:
        """Remove a route of the main table, and with ``ours`` only one with lanparty's protocol number.

        :class:`NetlinkMissing` when there is no such route.
        """
        network = ipaddress.ip_network(destination)
        index = (await self.require_link(interface)).index
        wanted = _route_request(network, index, gateway, effective_metric(network.version, metric))
        # Without these the kernel removes the first route that the rest fits to.
        wanted["proto"] = ROUTE_PROTOCOL if ours else 0
        wanted["scope"] = 255 if network.version == 4 else 0  # RT_SCOPE_NOWHERE: any

        async def ask() -> None:
            await self._ipr.route("del", **wanted)

        await self._request(f"remove the route to {network} by interface {interface}", interface, ask)

    # Traffic control

    async def redirect_ingress(self, from_name: str, to_name: str) -> None:
        """Make every frame that arrives on one interface count as received on the other (mirred ingress redirect).

        The qdisc and the filter belong to ``from_name`` and vanish with it. Needs act_mirred, cls_matchall or cls_u32.
        """
        source = (await self.require_link(from_name)).index
        target = (await self.require_link(to_name)).index
        action = {"kind": "mirred", "direction": "ingress", "action": "redirect", "ifindex": target}
        common: dict[str, Any] = {"index": source, "parent": _CLSACT_PARENT, "prio": 1, "protocol": _ETH_P_ALL}

        async def qdisc() -> None:
            try:
                await self._ipr.tc("add", "clsact", index=source)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise

        async def classify() -> None:
            try:
                await self._ipr.tc("add-filter", "matchall", action=action, **common)
            except NetlinkError as error:
                if error.code != errno.ENOENT:  # "TC classifier not found": the kernel has no cls_matchall
                    raise
                await self._ipr.tc("add-filter", "u32", target=0, keys=["0x0/0x0+0"], action=action, **common)

        what = f"redirect the frames of interface {from_name} to {to_name}"
        await self._request(f"{what} (is the kernel module sch_ingress there?)", from_name, qdisc)
        await self._request(f"{what} (are the kernel modules cls_u32 and act_mirred there?)", from_name, classify)

    def watch(self) -> Watch:
        """Changes from now on, as an async iterator that is also a context manager: see :class:`Watch`."""
        return Watch()

    # Inside

    async def _link_set(self, index: int, wanted: dict[str, Any]) -> None:
        await self._ipr.link("set", index=index, **wanted)

    async def _link_add(self, name: str, wanted: dict[str, Any]) -> None:
        await self._ipr.link("add", ifname=name, **wanted)

    async def _dump(
        self, what: str, name: str | None, function: Callable[..., Awaitable[list[Any]]], *arguments: Any
    ) -> list[Any]:
        """A request for a list. One at a time: the kernel answers EBUSY to a second dump on the same socket.

        A caller that was cancelled leaves its dump half read, which the kernel takes for a running one until pyroute2
        has read the rest; hence the tries.
        """

        async def ask() -> list[Any] | None:
            try:
                return list(await function(*arguments))
            except NetlinkError as error:
                if abs(error.code) == errno.EBUSY:
                    return None
                raise

        async with self._dumping:
            for _ in range(_DUMP_TRIES):
                found = await self._request(what, name, ask)
                if found is not None:
                    return found
                await trio.sleep(_DUMP_PAUSE)
        raise MachineError(f"cannot {what}: the kernel is still busy with an earlier request; try again")

    async def _request(self, what: str, name: str | None, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        try:
            return await self.run_asyncio(function, *arguments)
        except NetlinkError as error:
            _raise_sentence(error.code, what, name, error)
        except OSError as error:
            _raise_sentence(error.errno or 0, what, name, error)


@asynccontextmanager
async def open_netlink() -> AsyncIterator[Netlink]:
    """Open the role's asyncio loop and its request socket; both close when the block ends.

    The loop runs in a nursery inside this block: what was started in it ends before the block does. Raises
    :class:`MachineError` when the kernel gives no netlink socket.
    """
    async with _trio_asyncio.open_loop() as loop:
        ipr = await loop.run_aio_coroutine(_call(_open_ipr, ()))
        try:
            yield Netlink(loop, ipr)
        finally:
            with trio.CancelScope(shield=True):  # no deadline: it closes file descriptors and waits for nothing
                await loop.run_aio_coroutine(_call(_close_ipr, (ipr,)))


async def _open_ipr() -> Any:
    try:
        ipr = _AsyncIPRoute()
        await ipr.setup_endpoint()
    except OSError as error:
        raise MachineError(f"cannot talk to the kernel about network interfaces: {error.strerror}") from error
    return ipr


async def _close_ipr(ipr: Any) -> None:
    ipr.close()


async def _call(function: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> T:
    return await function(*arguments)


def effective_metric(version: int, metric: int) -> int:
    """The metric as the kernel keeps it: IPv6 turns 0 into 1024."""
    return _V6_USER_METRIC if version == 6 and metric == 0 else metric


_RTM_F_CLONED = 0x200
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})
"""What ``route get`` says when no route leads there: none, ``unreachable``, ``prohibit`` and ``blackhole`` routes."""


def _raise_sentence(code: int, what: str, name: str | None, cause: Exception) -> NoReturn:
    """Turn a kernel error number into the sentence for it."""
    code = abs(code)
    if code in (errno.EPERM, errno.EACCES):
        raise MachineError(
            f"cannot {what}: permission denied; run as root, or give the capability CAP_NET_ADMIN"
        ) from cause
    if code in (errno.ENODEV, errno.ENXIO):
        raise NetlinkMissing(f"cannot {what}: there is no network interface {name or 'of that name'}") from cause
    if code in (errno.ESRCH, errno.EADDRNOTAVAIL):
        raise NetlinkMissing(f"cannot {what}: it is not there") from cause
    if code == errno.ENETDOWN:
        raise NetlinkDown(f"cannot {what}: the interface is down") from cause
    if code == errno.EEXIST:
        raise MachineError(f"cannot {what}: there is one of that name already") from cause
    if code == errno.EBUSY:
        raise MachineError(f"cannot {what}: it is in use by another program") from cause
    if code in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT):
        raise MachineError(f"cannot {what}: this kernel does not support it ({os.strerror(code)})") from cause
    raise MachineError(f"cannot {what}: {os.strerror(code)}") from cause


def _route_request(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, index: int, gateway: str | None, metric: int
) -> dict[str, Any]:
    wanted: dict[str, Any] = {"dst": str(network), "oif": index, "table": MAIN_TABLE}
    wanted["family"] = socket.AF_INET if network.version == 4 else socket.AF_INET6
    if metric:
        wanted["priority"] = metric
    if gateway is not None:
        if ipaddress.ip_address(gateway).version == network.version:
            wanted["gateway"] = gateway
        else:
            wanted["via"] = {"family": socket.AF_INET6, "addr": gateway}
    return wanted
