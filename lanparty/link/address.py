"""Gives the player's adapter its address on the house LAN, and the routes that belong to it. Nothing more unless asked.

Owns: what is set on the TAP: address, routes, IPv6 behaviour, DNS servers.
Must not know: DHCP's protocol (dhcp.py), the relay's connection, rooms.

What is set, once there is an address:

1. The address with its prefix. The kernel adds the route of the LAN.
2. 255.255.255.255/32 by the TAP: games look for servers with a limited broadcast, which else leaves by the default
   route.
3. 224.0.0.0/4 by the TAP: the same for multicast. A socket that does not name an interface (most games; joining a
   group, too) gets it from the route to the group, which else is the default route's. Programs that name their
   interface, as mDNS responders and routing daemons do, are not touched by it. IPv6 multicast always names one.
4. Only with --accept-default-route, and only while the relay is pinned: 0.0.0.0/1 and 128.0.0.0/1 by the house's
   router. Two halves win over any default route, whatever its metric, and leave it in place for when the TAP goes.
5. Only with --accept-dns: the house's DNS servers (dns.py).

The house's IPv6 router advertisements are not heard at all: that is switched off in the kernel, for the adapter only.
Players have IPv4 and IPv6 link-local addresses in the house.

All of it but resolv.conf belongs to the TAP and vanishes with it, even after SIGKILL; the rest is in the journal.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # netlink, /proc

import contextlib
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import attrs
import trio

from lanparty.link.address_options import AddressOptions
from lanparty.link.dhcp import DhcpLinkDownError, DhcpTask
from lanparty.link.dhcp_reply import Lease
from lanparty.link.dns import DnsSetting
from lanparty.link.journal import Journal
from lanparty.link.netlink import LinkChange, Netlink, NetlinkDown, NetlinkMissing, Overflow
from lanparty.link.pin import RelayPin
from lanparty.obs.errors import MachineError
from lanparty.obs.events import (
    CLIENT_ADDRESS,
    CLIENT_ADDRESS_LOST,
    CLIENT_DEFAULT_ROUTE,
    CLIENT_DEFAULT_ROUTE_REFUSED,
    CLIENT_DNS,
    CLIENT_DNS_REFUSED,
    CLIENT_DNS_RESTORED,
    CLIENT_IPV6_UNRESTRICTED,
    CLIENT_ROUTE_KEPT,
    CLIENT_SUBNET_CONFLICT,
)
from lanparty.obs.log import log

__all__ = ["Lease", "PlayerNetwork"]

GROUP_ROUTES: Final = ("255.255.255.255/32", "224.0.0.0/4")
DEFAULT_HALVES: Final = ("0.0.0.0/1", "128.0.0.0/1")
CLEANUP_DEADLINE: Final = 3.0
"""Seconds for taking everything off the TAP on exit: some netlink requests, or one resolvectl."""
_LINK_PAUSE: Final = 1.0
"""Seconds at least between two starts of the DHCP client: a link that flaps must not make it spin."""
_IPV6_CONF: Final = Path("/proc/sys/net/ipv6/conf")
_ACCEPT_RA: Final = "accept_ra"
"""Kernel setting of an interface (ip-sysctl); 0 is off. It is all or nothing: with the settings for default routers
(accept_ra_defrtr) and route information (accept_ra_rt_info_max_plen) off, one advertisement of the prefixes 2000::/3
and ::/1 as on-link (RFC 4861 section 4.6.2) still takes all IPv6 traffic."""


@attrs.frozen
class _Wanted:
    """What is to be on the TAP."""

    address: str
    prefix: int
    router: str | None = None
    name_servers: tuple[str, ...] = ()
    domain: str | None = None
    lease: Lease | None = None

    @property
    def text(self) -> str:
        return f"{self.address}/{self.prefix}"

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((self.address, self.prefix), strict=False)


class PlayerNetwork:
    """The address set-up of one TAP, for the client.

    ``run`` does the work; ``gateway_present`` and ``reconnected`` tell it what happens to the tunnel, at any time, also
    before ``run``. ``pin`` is needed for --accept-default-route only.
    """

    def __init__(
        self,
        netlink: Netlink,
        tap_name: str,
        mac: bytes,
        options: AddressOptions,
        journal: Journal,
        *,
        pin: RelayPin | None = None,
        dns: DnsSetting | None = None,
    ) -> None:
        self._netlink = netlink
        self._tap = tap_name
        self._options = options
        self._pin = pin
        self._dns = dns or DnsSetting(tap_name, journal)
        self._wanted: _Wanted | None = None
        self._applied: _Wanted | None = None
        self._unfinished = False
        """The link went down before all of ``_applied`` was there, and told."""
        self._default_route = False
        self._changed = trio.Event()
        self._link_up = trio.Event()
        self._dhcp = DhcpTask(
            netlink, tap_name, mac, on_lease=self._on_lease, on_lost=self._on_lost, host_name=options.host_name
        )

    @property
    def lease(self) -> Lease | None:
        """The lease that holds now; ``None`` without one, or with a static address."""
        return self._wanted.lease if self._wanted is not None else None

    @property
    def address(self) -> str | None:
        """ADDRESS/PREFIX that is on the TAP now."""
        return self._applied.text if self._applied is not None else None

    def gateway_present(self, present: bool) -> None:
        """The house's gateway came or went. When it came, DHCP asks at once."""
        self._dhcp.house_present(present)

    def reconnected(self) -> None:
        """The tunnel is back. The address stays; DHCP verifies it, and the default route is tried again."""
        self._dhcp.verify()
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Set the TAP up and keep it so, until cancelled; then give the lease back and take everything off.

        Started when the adapter is prepared: frames may flow then, the address comes later. Raises, in an exception
        group, :class:`NetlinkMissing` when the adapter vanishes and :class:`MachineError` when the kernel refuses.
        """
        info = await self._netlink.require_link(self._tap)
        if info.up:
            self._link_up.set()
        _ignore_advertisements(self._tap)
        with self._netlink.watch() as changes:
            await self._refresh_link()
            async with self._cleaned_up(), trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_link, changes)
                nursery.start_soon(self._apply_changes)
                if self._options.address not in ("dhcp", "none"):
                    interface = ipaddress.IPv4Interface(self._options.address)
                    self._want(_Wanted(str(interface.ip), interface.network.prefixlen))
                task_status.started()
                if self._options.address == "dhcp":
                    await self._keep_lease()
                await trio.sleep_forever()

    # Tasks

    async def _keep_lease(self) -> None:
        while True:
            await self._link_up.wait()
            try:
                await self._dhcp.run()
            except DhcpLinkDownError:
                await self._netlink.require_link(self._tap)  # gone for good: say so instead of waiting
            await trio.sleep(_LINK_PAUSE)
            await self._refresh_link()

    async def _follow_link(self, changes: AsyncIterator[object]) -> None:
        async for change in changes:
            if isinstance(change, Overflow) or (isinstance(change, LinkChange) and change.name == self._tap):
                # It may be up again when we look: then only the notification tells that it was down.
                was_up = self._link_up.is_set() and not (isinstance(change, LinkChange) and not change.up)
                await self._refresh_link()
                if self._link_up.is_set() and (not was_up or isinstance(change, Overflow)):
                    self._changed.set()  # the kernel dropped our routes when the link went down

    async def _refresh_link(self) -> None:
        info = await self._netlink.require_link(self._tap)
        if info.up:
            self._link_up.set()
        elif self._link_up.is_set():
            self._link_up = trio.Event()

    async def _apply_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            try:
                await self._reconcile(self._wanted)
            except NetlinkDown:
                continue  # it went down between our look and our request: _follow_link is told, and asks for it again

    @contextlib.asynccontextmanager
    async def _cleaned_up(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with trio.move_on_after(CLEANUP_DEADLINE, shield=True):
                try:
                    await self._take_off()
                finally:
                    await self._restore_dns()

    # From the DHCP client, synchronously

    def _on_lease(self, lease: Lease) -> None:
        self._want(_Wanted(lease.address, lease.prefix, lease.router, lease.name_servers, lease.domain, lease))

    def _on_lost(self, reason: str) -> None:
        address = self._wanted.address if self._wanted is not None else None
        log(CLIENT_ADDRESS_LOST, interface=self._tap, address=address, reason=reason)
        self._want(None)

    def _want(self, wanted: _Wanted | None) -> None:
        # No queue between the two: only the latest wish counts.
        self._wanted = wanted
        self._changed.set()

    # What is on the TAP

    async def _reconcile(self, wanted: _Wanted | None) -> None:
        """Make the TAP be as wanted. May be repeated: what is there already stays."""
        before = self._applied
        if before is not None and (wanted is None or wanted.text != before.text):
            await self._take_off()
            before = None
        if wanted is None or not self._link_up.is_set():
            return
        if before is not None and before.router != wanted.router:
            await self._remove_default_route(before)
        fresh, self._unfinished = before is None or self._unfinished, True
        self._applied = wanted
        await self._netlink.add_address(self._tap, wanted.text)
        for destination in GROUP_ROUTES:
            await self._add_group_route(destination, quiet=not fresh)
        await self._set_default_route(wanted)
        if fresh:
            await self._warn_of_conflicts(wanted)
        if fresh or before is None or (before.name_servers, before.domain) != (wanted.name_servers, wanted.domain):
            await self._set_dns(wanted)
        self._unfinished = False
        if fresh:
            lease = wanted.lease
            log(
                CLIENT_ADDRESS,
                address=wanted.address,
                prefix=wanted.prefix,
                router=wanted.router,
                server=None if lease is None else lease.server,
                lease_seconds=None if lease is None else lease.lease_seconds,
                interface=self._tap,
            )

    async def _take_off(self) -> None:
        applied, self._applied = self._applied, None
        if applied is None:
            return
        await self._restore_dns()
        try:
            await self._remove_default_route(applied)
            for destination in GROUP_ROUTES:
                await self._remove_route(destination, None)
        finally:
            with contextlib.suppress(NetlinkMissing):  # somebody else removed it, or the adapter went
                await self._netlink.remove_address(self._tap, applied.text)

    async def _add_group_route(self, destination: str, *, quiet: bool) -> None:
        others = [route for route in await self._netlink.routes() if route.destination == destination]
        other = next((route.interface for route in others if route.interface != self._tap and route.metric == 0), None)
        if other is None:
            await self._netlink.add_route(destination, interface=self._tap)
        elif not quiet:
            log(CLIENT_ROUTE_KEPT, destination=destination, interface=self._tap, other=other)

    async def _warn_of_conflicts(self, wanted: _Wanted) -> None:
        """Tell of other interfaces whose network is partly the house's."""
        names = {link.index: link.name for link in await self._netlink.links()}
        for info in await self._netlink.addresses():
            name, network = names.get(info.index), info.network
            if name is None or name == self._tap or not isinstance(network, ipaddress.IPv4Network):
                continue
            if network.overlaps(wanted.network):
                log(CLIENT_SUBNET_CONFLICT, network=str(wanted.network), interface=name, other=str(network))

    async def _set_default_route(self, wanted: _Wanted) -> None:
        if not self._options.accept_default_route:
            return
        reason = None
        if wanted.router is None:
            reason = "the house names no router"
        elif self._pin is None or self._pin.address is None:
            reason = "the way to the relay is not fixed, the tunnel would go through itself"
        if reason is not None:
            log(CLIENT_DEFAULT_ROUTE_REFUSED, reason=reason)
            return
        for destination in DEFAULT_HALVES:
            await self._netlink.add_route(destination, interface=self._tap, gateway=wanted.router)
        if not self._default_route:
            self._default_route = True
            log(CLIENT_DEFAULT_ROUTE, router=wanted.router)

    async def _remove_default_route(self, applied: _Wanted) -> None:
        if self._default_route:
            self._default_route = False
            for destination in DEFAULT_HALVES:
                await self._remove_route(destination, applied.router)

    async def _remove_route(self, destination: str, gateway: str | None) -> None:
        try:
            await self._netlink.remove_route(destination, interface=self._tap, gateway=gateway)
        except NetlinkMissing:
            return  # the kernel removed it when the link went down

    async def _set_dns(self, wanted: _Wanted) -> None:
        if not self._options.accept_dns:
            return
        if not wanted.name_servers:
            log(CLIENT_DNS_REFUSED, reason="the house names no DNS server")
            return
        try:
            await self._dns.apply(wanted.name_servers, wanted.domain)
        except MachineError as error:
            log(CLIENT_DNS_REFUSED, reason=str(error))
        else:
            log(CLIENT_DNS, servers=", ".join(wanted.name_servers))

    async def _restore_dns(self) -> None:
        try:
            if await self._dns.restore():
                log(CLIENT_DNS_RESTORED)
        except MachineError as error:
            log(CLIENT_DNS_REFUSED, reason=str(error))


def _ignore_advertisements(interface: str) -> None:
    """Keep router advertisements from the house from changing where this machine's IPv6 traffic goes."""
    file = _IPV6_CONF / interface / _ACCEPT_RA
    if not file.exists():
        return  # no IPv6 in this kernel
    try:
        file.write_text("0", encoding="ascii")
    except OSError as error:
        log(CLIENT_IPV6_UNRESTRICTED, reason=error.strerror or "the kernel refuses")
