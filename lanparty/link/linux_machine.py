"""A Linux computer, which is to become a player's (`lanparty.link.machine.PlayerMachine`).

    open      netlink.py -> repair.py (what a crashed run left) -> is the adapter's name free? -> pin.py, journal.py
    adapter   adapter.py: a TAP, or a veth pair; netlink.py changes it
    address   address.py
    close     the adapter went with its ``keep``; the relay's route is released, then netlink ends

Owns: this order. Must not know: how any of the parts works.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # all of it is Linux

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from lanparty.link.adapter import open_adapter
from lanparty.link.address import PlayerNetwork
from lanparty.link.device import DEFAULT_MTU, ETHERNET_HEADER, EthernetDevice
from lanparty.link.journal import Journal, state_directory
from lanparty.link.machine import MachineOptions
from lanparty.link.names import tunnel_interfaces
from lanparty.link.netlink import Netlink, open_netlink
from lanparty.link.pin import RelayPin
from lanparty.link.repair import repair
from lanparty.link.underlay import NetlinkUnderlay
from lanparty.obs.errors import MachineError
from lanparty.obs.events import REPAIRED
from lanparty.obs.log import log

__all__ = ["LinuxMachine", "open_linux_machine"]

RELEASE_DEADLINE = 2.0
"""Seconds for taking the relay's route back on the way out: two requests to the kernel."""


class LinuxMachine(NetlinkUnderlay):
    """`PlayerMachine` of this computer. Made by `open_linux_machine`."""

    def __init__(self, netlink: Netlink, journal: Journal, pin: RelayPin, options: MachineOptions) -> None:
        super().__init__(netlink)
        self._journal = journal
        self._pin = pin
        self._options = options

    async def keep(self, mac: bytes, mtu: int, *, task_status: trio.TaskStatus[EthernetDevice]) -> None:
        """See `PlayerMachine`. Raises MachineError."""
        # Room for a later session of the same room at the usual MTU; the interface's own MTU does the limiting.
        longest = max(mtu, DEFAULT_MTU) + ETHERNET_HEADER
        name, kind = self._options.tap, self._options.adapter
        async with open_adapter(name, mac, mtu, self._netlink, kind, up=False, max_frame=longest) as device:
            task_status.started(device)
            await trio.sleep_forever()

    def address_setup(self, device: EthernetDevice) -> PlayerNetwork:
        """See `PlayerMachine`."""
        options = self._options.address
        return PlayerNetwork(self._netlink, device.name, device.mac, options, self._journal, pin=self._pin)

    async def set_up(self, device: EthernetDevice) -> None:
        """See `PlayerMachine`. Raises MachineError."""
        await self._netlink.set_link(device.name, up=True)

    async def set_down(self, device: EthernetDevice) -> None:
        """See `PlayerMachine`. Raises MachineError."""
        await self._netlink.set_link(device.name, up=False)

    async def set_mtu(self, device: EthernetDevice, mtu: int) -> None:
        """See `PlayerMachine`. Raises MachineError."""
        await self._netlink.set_link(device.name, mtu=mtu)

    async def is_up(self, device: EthernetDevice) -> bool:
        """See `PlayerMachine`."""
        try:
            link = await self._netlink.link(device.name)
        except MachineError:
            return True  # The kernel is busy: asked again next time, and not worth a warning of ours.
        return link is not None and link.up

    async def pin_relay(self, address: str) -> None:
        """See `PlayerMachine`. Raises ConnectionFailedError (no route), MachineError."""
        await self._pin.pin(address)


@asynccontextmanager
async def open_linux_machine(options: MachineOptions) -> AsyncIterator[LinuxMachine]:
    """See `lanparty.link.machine.open_machine`. Entering raises MachineError: no permission, a name that is taken."""
    async with open_netlink() as netlink:
        directory = state_directory()
        for what in await repair(directory, netlink):
            log(REPAIRED, what=what)
        await _check_name(options.tap, netlink)
        journal = Journal(directory)
        pin = RelayPin(netlink, journal, avoid=tunnel_interfaces(options.tap))
        try:
            yield LinuxMachine(netlink, journal, pin, options)
        finally:
            with trio.move_on_after(RELEASE_DEADLINE, shield=True):
                await pin.release()


async def _check_name(tap: str | None, netlink: Netlink) -> None:
    """Refuse a --tap that names an interface of this machine. Raises MachineError.

    Before the adapter is made, because its name is that of a way into the tunnel: the relay is never looked for there.
    """
    if tap is None:
        return
    if await netlink.link(tap) is not None:
        raise MachineError(f"this machine has a network interface {tap} already: give another name with --tap")
