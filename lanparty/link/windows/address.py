"""Gives the TAP its address on the house LAN by Windows' own means, and tells of it as on Linux.

    dhcp             Windows' DHCP client has the adapter in charge: it asks by itself when the cable is plugged in. We
                     tell it to ask when the house comes, when the tunnel is back, and again while nobody answers; we
                     watch what it gets; we tell it to give that back at the end, while the tunnel still carries it.
    ADDRESS/PREFIX   put on by CreateUnicastIpAddressEntry, in the journal; Windows' DHCP client is switched off for the
                     adapter before it starts (machine.py), so that nothing comes beside it.
    none             nothing; the DHCP client is switched off as well.

Owns: the tasks, and which event tells what. Must not know: what a picture of the adapter means (lease.py), iphlpapi,
routes, the relay.

Windows' notification of a change of addresses says only that there was one: then all is read anew. There is no queue:
many changes are one look. The routes of the adapter (limited broadcast, multicast) are made by Windows with its
address; which adapter wins is a matter of metrics, which were set before the cable was plugged in (plan.py).
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Final, Protocol, assert_never

import trio

from lanparty.link.address_options import AddressOptions
from lanparty.link.windows.lease import (
    AdapterView,
    Advised,
    Ask,
    Asking,
    FixedStory,
    GiveBack,
    Got,
    HouseAddress,
    LeaseStory,
    Lost,
    Renewed,
    Silent,
    Story,
    Turn,
    conflicts,
)
from lanparty.obs.errors import MachineError
from lanparty.obs.events import (
    CLIENT_ADDRESS,
    CLIENT_ADDRESS_LOST,
    CLIENT_DEFAULT_ROUTE_REFUSED,
    CLIENT_DHCP_DISCOVER,
    CLIENT_DHCP_IGNORED,
    CLIENT_DHCP_LEASE,
    CLIENT_DHCP_RELEASED,
    CLIENT_DHCP_RENEWED,
    CLIENT_DHCP_SILENT,
    CLIENT_DNS,
    CLIENT_DNS_REFUSED,
    CLIENT_SUBNET_CONFLICT,
)
from lanparty.obs.log import log

__all__ = ["AddressApi", "WindowsAddressSetup"]

RELEASE_DEADLINE: Final = 3.0
"""Seconds for giving the address back on exit: Windows' service sends one frame, and takes the address off. Beyond
that it is busy with something else, and the house's server gets its address back when the lease ends."""
RELEASE_LINGER: Final = 0.2
"""Seconds that the tunnel stays after Windows said that it has given the address back. Windows may have to ask for the
server's MAC first (ARP), which is a round trip to the house."""


class AddressApi(Protocol):
    """What is needed of Windows, for one adapter."""

    async def adapters(self) -> list[AdapterView]:
        """Look at all adapters of this machine. Raises MachineError."""
        ...

    def watch(self) -> AbstractContextManager[AsyncIterator[object]]:
        """Give something for each change of IP addresses inside the block. Raises MachineError."""
        ...

    async def renew(self) -> int:
        """Tell Windows' DHCP client to ask, and wait until it is done; 0: the house agreed."""
        ...

    async def release(self) -> int:
        """Tell Windows' DHCP client to give the address back; 0: done."""
        ...

    async def put_on(self, address: str, prefix: int) -> None:
        """Put an address on the adapter. Raises MachineError."""
        ...

    async def take_off(self) -> None:
        """Take off what was put on. Never raises MachineError."""
        ...

    async def lead_by(self, router: str | None) -> None:
        """Lead the player's traffic by the house's router; None: as it was. Says so. Raises MachineError."""
        ...


class WindowsAddressSetup:
    """`lanparty.link.machine.AddressSetup` of one adapter."""

    def __init__(self, api: AddressApi, index: int, name: str, options: AddressOptions) -> None:
        """``index`` and ``name``: the adapter's."""
        self._api = api
        self._index = index
        self._name = name
        self._options = options
        self._house: bool | None = None
        self._leases = LeaseStory() if options.address == "dhcp" else None
        self._look = trio.Event()
        self._ask = trio.Event()
        self._give_back = False

    @property
    def held(self) -> HouseAddress | None:
        """The address that the adapter has of the house now."""
        return self._leases.held if self._leases is not None else None

    def gateway_present(self, present: bool) -> None:
        """See `AddressSetup`. When the house came, Windows' DHCP client is told to ask at once."""
        appeared = present and self._house is not True
        self._house = present
        if appeared and self.held is not None:
            self._ask.set()  # a house that went and came may be another one
        self._look.set()

    def reconnected(self) -> None:
        """See `AddressSetup`. The address stays; Windows' DHCP client is told to verify it."""
        if self.held is not None:
            self._ask.set()
        self._look.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `AddressSetup`. Raises MachineError, in an exception group."""
        if self._options.address == "none":
            task_status.started()
            await trio.sleep_forever()
        with self._api.watch() as changes:
            async with self._given_back(), trio.open_nursery() as nursery:
                story: Story
                if self._leases is not None:
                    story = self._leases
                    nursery.start_soon(self._keep_asking, self._leases)
                else:
                    wanted = ipaddress.IPv4Interface(self._options.address)
                    story = FixedStory(str(wanted.ip), wanted.network.prefixlen)
                    await self._api.put_on(str(wanted.ip), wanted.network.prefixlen)
                nursery.start_soon(self._note_changes, changes)
                task_status.started()
                await self._follow(story)

    # Tasks

    async def _note_changes(self, changes: AsyncIterator[object]) -> None:
        async for _ in changes:
            self._look.set()

    async def _follow(self, story: Story) -> None:
        """Look whenever something changed, or the story wants to know."""
        while True:
            self._look = trio.Event()
            views = await self._api.adapters()
            view = next((view for view in views if view.index == self._index), None)
            if view is None:
                raise MachineError(f"{self._name} is gone: the adapter was removed or disabled while it was in use")
            for turn in story.look(view, self._house, trio.current_time()):
                self._take(turn, views)
                await self._lead(turn)
            if story.look_at > trio.current_time():
                with trio.move_on_at(story.look_at):
                    await self._look.wait()

    async def _keep_asking(self, story: LeaseStory) -> None:
        """Do what blocks: one call of Windows' DHCP client after the other."""
        while True:
            await self._ask.wait()
            self._ask = trio.Event()
            if self._give_back:
                self._give_back = False
                await self._api.release()
            else:
                before = story.held
                if await self._api.renew() == 0 and before is not None:
                    story.agreed()
            # An error is no news: nobody answered, or the cable is out. The story tells of the silence.
            self._look.set()

    @contextlib.asynccontextmanager
    async def _given_back(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with trio.move_on_after(RELEASE_DEADLINE, shield=True):
                if self._leases is None:
                    await self._api.take_off()
                elif self._leases.held is not None:
                    await self._release(self._leases.held)

    async def _release(self, held: HouseAddress) -> None:
        if await self._api.release() == 0:
            log(CLIENT_DHCP_RELEASED, address=held.address)
            await trio.sleep(RELEASE_LINGER)

    # What is done and said of each turn of the story

    def _take(self, turn: Turn, views: list[AdapterView]) -> None:
        match turn:
            case Ask():
                self._ask.set()
            case GiveBack(what):
                if what is not None:
                    log(CLIENT_DHCP_IGNORED, what=what)
                self._give_back = True
                self._ask.set()
            case Asking():
                log(CLIENT_DHCP_DISCOVER, interface=self._name)
            case Silent(seconds):
                log(CLIENT_DHCP_SILENT, interface=self._name, seconds=seconds)
            case Got(got):
                self._tell_got(got, views)
            case Advised():
                return
            case Renewed(got):
                log(CLIENT_DHCP_RENEWED, address=got.address, lease_seconds=got.lease_seconds, server=got.server)
            case Lost(address, reason):
                log(CLIENT_ADDRESS_LOST, interface=self._name, address=address, reason=reason)
            case _:
                assert_never(turn)

    def _tell_got(self, got: HouseAddress, views: list[AdapterView]) -> None:
        if self._leases is not None:
            log(CLIENT_DHCP_LEASE, address=got.address, lease_seconds=got.lease_seconds, server=got.server)
        for other, network in conflicts(got.network, views, self._index):
            log(CLIENT_SUBNET_CONFLICT, network=str(got.network), interface=other, other=network)
        if self._options.accept_dns:  # Windows takes them by itself
            if got.name_servers:
                log(CLIENT_DNS, servers=", ".join(got.name_servers))
            else:
                log(CLIENT_DNS_REFUSED, reason="the house names no DNS server")
        log(
            CLIENT_ADDRESS,
            address=got.address,
            prefix=got.prefix,
            router=got.router,
            server=got.server,
            lease_seconds=got.lease_seconds,
            interface=self._name,
        )

    async def _lead(self, turn: Turn) -> None:
        """Let the default route be what the house says now, where the player wants it."""
        if not self._options.accept_default_route:
            return
        match turn:
            case Got(got) | Renewed(got) | Advised(got):
                if got.router is None and isinstance(turn, Got):
                    log(CLIENT_DEFAULT_ROUTE_REFUSED, reason="the house names no router")
                await self._api.lead_by(got.router)
            case Lost():
                await self._api.lead_by(None)
