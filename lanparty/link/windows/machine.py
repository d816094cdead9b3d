"""A Windows computer, which is to become a player's (`lanparty.link.machine.PlayerMachine`).

    open      administrator? -> ownership.py: where the journals are -> transaction.py: repair of what a crash left
    relay     pin.py, before each try to reach it
    adapter   1. adapters.py: choose it. 2. DHCP switched as the player wants (fixed.py). 3. tap.py: its MAC; it is
              opened, its cable out. 4. adapter_network.py: default route off, metric, MTU, names. Then it is handed
              over, and watched: the relay's way (pin.py), the settings, the network's category (category.py).
    address   address.py, with what it needs of Windows from here
    close     the adapter's handle, then all steps that belong to it, the latest first; at last the relay's route

Each step is in the journal before it is made, so a crash anywhere is repaired by the next start. An adapter is not made
and removed, as on Linux, but used: it was there before, and is there afterwards, with the settings that it had.

Owns: this order. Must not know: how any of the parts works.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Final

import trio

from lanparty.link.device import DEFAULT_MTU, DeviceGoneError, EthernetDevice
from lanparty.link.machine import MachineOptions, Way
from lanparty.link.windows import fixed, iphelper
from lanparty.link.windows.adapter_network import AdapterNetwork
from lanparty.link.windows.adapters import MacChange, TapAdapter, choose_adapter
from lanparty.link.windows.address import WindowsAddressSetup
from lanparty.link.windows.category import KeepPrivate
from lanparty.link.windows.dhcp import DhcpClient, read_adapters
from lanparty.link.windows.driver import AdapterStoppedError, close_adapter
from lanparty.link.windows.lease import AdapterView
from lanparty.link.windows.network import NetworkApi
from lanparty.link.windows.ownership import current_owner, is_alive, windows_state_directory
from lanparty.link.windows.pin import RelayPin
from lanparty.link.windows.plan import AddressKey, CategoryKey, DhcpKey, Key, MacKey, Step
from lanparty.link.windows.tap import WindowsTapDevice, open_windows_tap, reopened
from lanparty.link.windows.transaction import Transaction, repair
from lanparty.link.windows.winapi.shell32 import SHELL32
from lanparty.obs.errors import MachineError
from lanparty.obs.events import REPAIRED, TASK_FAILED
from lanparty.obs.log import log

__all__ = ["WindowsMachine", "open_windows_machine"]

ARRIVE_SECONDS: Final = 15.0
ARRIVE_STEP: Final = 0.1
"""How long, and in what steps, an adapter's interface is waited for. The driver's device is there before TCP/IP has
bound itself to it, when the adapter was restarted; nothing is announced before that is over."""

FOLLOW_SECONDS: Final = 2.0
FOLLOW_STEP: Final = 0.02
"""How long, and in what steps, Windows is waited for when the cable was plugged in or pulled out. It takes
milliseconds; should it take longer, then nothing is lost but that ``is_up`` is late."""


class _Adapter:
    """What is known of the adapter while it is kept; also what `WindowsAddressSetup` needs of Windows."""

    def __init__(self, machine: WindowsMachine, device: WindowsTapDevice, index: int) -> None:
        self.device = device
        self.index = index
        self.guid = device.adapter.guid
        self.network = AdapterNetwork(
            machine.api, machine.transaction, self.guid, accept_dns=machine.options.address.accept_dns
        )
        self._machine = machine
        self._dhcp = DhcpClient(index, self.guid)

    # address.AddressApi

    async def adapters(self) -> list[AdapterView]:
        """See `AddressApi`. In a thread, because it takes milliseconds, and the tunnel's frames would wait."""
        return await trio.to_thread.run_sync(read_adapters)

    def watch(self) -> AbstractContextManager[AsyncIterator[object]]:
        """See `AddressApi`."""
        return self._machine.api.watch()

    async def renew(self) -> int:
        """See `AddressApi`."""
        return await self._dhcp.renew()

    async def release(self) -> int:
        """See `AddressApi`."""
        return await self._dhcp.release()

    async def put_on(self, address: str, prefix: int) -> None:
        """See `AddressApi`."""
        await self._machine.transaction.apply([Step(AddressKey(self.guid, address), None, prefix)])

    async def take_off(self) -> None:
        """See `AddressApi`."""
        await self._machine.take_back(lambda key: isinstance(key, AddressKey) and key.interface == self.guid)

    async def lead_by(self, router: str | None) -> None:
        """See `AddressApi`."""
        await self.network.lead_by(router, pinned=self._machine.pin.address is not None)


class WindowsMachine:
    """`PlayerMachine` of this computer. Made by `open_windows_machine`."""

    def __init__(self, api: NetworkApi, transaction: Transaction, pin: RelayPin, options: MachineOptions) -> None:
        self.api = api
        self.transaction = transaction
        self.pin = pin
        self.options = options
        self.repaired = False
        """Whether something was put back at the start: then adapters may have been restarted just now."""
        self._adapter: _Adapter | None = None

    # Underlay

    async def way(self, relay: str) -> Way | None:
        """See `Underlay`."""
        return await self.api.way(relay)

    async def addresses(self) -> frozenset[str]:
        """See `Underlay`."""
        return await self.api.addresses()

    def watch(self) -> AbstractContextManager[AsyncIterator[None]]:
        """See `Underlay`."""
        return self.api.watch()

    # PlayerMachine

    async def keep(self, mac: bytes, mtu: int, *, task_status: trio.TaskStatus[EthernetDevice]) -> None:
        """See `PlayerMachine`. Raises MachineError."""
        chosen = await _chosen(self.options.tap, ARRIVE_SECONDS if self.repaired else 0.0)
        self.api.tap = chosen.guid
        self.pin.avoid.add(chosen.guid)
        try:
            await self._switch_dhcp(chosen)
            # Room for a later session of the same room at the usual MTU; the interface's own MTU does the limiting.
            longest = max(mtu, DEFAULT_MTU)
            async with open_windows_tap(chosen.guid, mac, self._change_mac, mtu=longest) as device:
                self._adapter = adapter = _Adapter(self, device, await _arrived(chosen))
                await adapter.network.set_up(mtu)
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.pin.guard)
                    await nursery.start(adapter.network.keep)
                    await nursery.start(KeepPrivate(self.api, self.transaction, chosen.guid).run)
                    task_status.started(device)
                    await trio.sleep_forever()
        finally:
            self._adapter = None
            await self.take_back(_belongs_to(chosen.guid))
            self.pin.avoid.discard(chosen.guid)

    def address_setup(self, device: EthernetDevice) -> WindowsAddressSetup:
        """See `PlayerMachine`."""
        adapter = self._require(device)
        return WindowsAddressSetup(adapter, adapter.index, device.name, self.options.address)

    async def set_up(self, device: EthernetDevice) -> None:
        """See `PlayerMachine`. Raises MachineError."""
        await self._set_media(device, True)

    async def set_down(self, device: EthernetDevice) -> None:
        """See `PlayerMachine`. Raises MachineError."""
        await self._set_media(device, False)

    async def set_mtu(self, device: EthernetDevice, mtu: int) -> None:
        """See `PlayerMachine`. Raises MachineError."""
        await self._require(device).network.set_up(mtu)

    async def is_up(self, device: EthernetDevice) -> bool:
        """See `PlayerMachine`."""
        await trio.lowlevel.checkpoint()
        adapter = self._adapter
        if adapter is None or adapter.device is not device:
            return False
        try:
            return (adapter.guid, 4) in iphelper.read_metrics()
        except MachineError:
            return True  # Windows is busy: asked again next time, and not worth a warning of ours

    async def pin_relay(self, address: str) -> None:
        """See `PlayerMachine`. Raises ConnectionFailedError (no route), MachineError."""
        await self.pin.pin(address)

    # Inside

    async def take_back(self, belongs: Callable[[Key], bool]) -> None:
        """Undo what ``belongs``; what Windows refuses is said, and left to the next start."""
        for reason in await self.transaction.undo(belongs):
            log(TASK_FAILED, what="Putting this computer back", text=reason)

    async def _switch_dhcp(self, adapter: TapAdapter) -> None:
        """Let Windows' DHCP client have the adapter in charge, or not, as the player wants."""
        wanted = int(self.options.address.address == "dhcp")
        now = fixed.dhcp_switch(adapter.guid)
        if now is not None and now != wanted:
            await self.transaction.apply([Step(DhcpKey(adapter.guid), now, wanted)])
            close_adapter(await reopened(adapter))  # It was restarted, and is not there at once.

    async def _change_mac(self, change: MacChange) -> None:
        await self.transaction.apply([Step(MacKey(change.adapter.guid), change.before or "", change.after)])

    async def _set_media(self, device: EthernetDevice, connected: bool) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self._require(device).device.set_media(connected)
        except DeviceGoneError as error:
            raise MachineError(str(error)) from error
        with trio.move_on_after(FOLLOW_SECONDS):
            while await self.is_up(device) != connected:  # noqa: ASYNC110 - for milliseconds
                await trio.sleep(FOLLOW_STEP)

    def _require(self, device: EthernetDevice) -> _Adapter:
        if self._adapter is None or self._adapter.device is not device:
            raise MachineError(f"the network adapter '{device.name}' is not in use (any more)")
        return self._adapter


@asynccontextmanager
async def open_windows_machine(options: MachineOptions) -> AsyncIterator[WindowsMachine]:
    """See `lanparty.link.machine.open_machine`. Entering raises MachineError: no administrator, no directory."""
    if not SHELL32.IsUserAnAdmin():
        raise MachineError(
            "administrator rights are needed to set up a network adapter and routes: start this program from a console "
            "that was opened with 'Run as administrator'"
        )
    directory, owner, api = windows_state_directory(), current_owner(), NetworkApi()
    transaction = Transaction(api, directory, owner)
    machine = WindowsMachine(api, transaction, RelayPin(api, transaction), options)
    for what in await repair(directory, api, owner, is_alive=is_alive):
        machine.repaired = True
        log(REPAIRED, what=what)
    try:
        yield machine
    finally:
        for reason in await machine.pin.release():
            log(TASK_FAILED, what="Releasing the relay's route", text=reason)


async def _chosen(name: str | None, seconds: float) -> TapAdapter:
    """Give the adapter to use, which is free. One that does not run is waited for. Raises MachineError."""
    deadline = trio.current_time() + seconds
    while True:
        try:
            adapter, handle = choose_adapter(name)
        except AdapterStoppedError:
            if trio.current_time() >= deadline:
                raise
        else:
            close_adapter(handle)  # It may have to be restarted, and waits for its last handle then.
            return adapter
        await trio.sleep(ARRIVE_STEP)


async def _arrived(adapter: TapAdapter) -> int:
    """Give the index of the adapter's interface, as soon as TCP/IP knows it. Raises MachineError."""
    with trio.move_on_after(ARRIVE_SECONDS):
        while True:
            index = iphelper.index_of(adapter.guid)
            if index is not None and any(view.index == index for view in read_adapters()):
                return index
            await trio.sleep(ARRIVE_STEP)
    raise MachineError(
        f"Windows does not use the network adapter '{adapter.name}' for IPv4: switch 'Internet Protocol Version 4' on "
        "in its properties (ncpa.cpl), or restart the computer"
    )


def _belongs_to(guid: str) -> Callable[[Key], bool]:
    """Whether a step is one of the adapter's, and not the relay's route."""

    def belongs(key: Key) -> bool:
        return isinstance(key, CategoryKey) or key.interface == guid

    return belongs
