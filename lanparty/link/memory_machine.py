"""A player's computer in memory, for tests and for programs whose network is simulated.

    asked       what it was asked for and what it gave back, in order: "pin_relay 192.0.2.1", "keep 1500", ...
    refusals    by the first word of such a line: what is raised in place of doing it
    delays      by the same word: seconds that it takes before it is done
    ways        by interface: where the relay can be, and by what; `move` changes them and tells who watches

It keeps to the rules of `PlayerMachine` as a real one does, and takes its caller to do so: a second adapter at one time
is a mistake of the caller (AssertionError).

Owns: the state of such a computer. Must not know: an operating system.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import attrs
import trio

from lanparty.link.device import EthernetDevice
from lanparty.link.machine import MachineOptions, Way
from lanparty.link.memory import MemoryDevice
from lanparty.link.names import DEFAULT_NAME
from lanparty.obs.errors import ConnectionFailedError, MachineError

__all__ = ["HOME_WAYS", "MemoryAddressSetup", "MemoryMachine", "open_memory_machine"]

HOME_WAYS: Final = {"0.0.0.0/0": Way("wan0", "192.0.2.254", "192.0.2.9")}
"""An ordinary player's: one cable, with IPv4 only."""

MIN_MTU: Final = 68
"""Bytes that every IPv4 link carries (RFC 791, section 3.2); no system takes less."""


@attrs.define(eq=False)
class MemoryMachine:
    """`PlayerMachine` in memory. Made by `open_memory_machine`, or by itself where nothing is to be put back."""

    options: MachineOptions = attrs.field(factory=MachineOptions)
    ways: dict[str, Way] = attrs.field(factory=lambda: dict(HOME_WAYS))
    """By network: how it is reached."""

    asked: list[str] = attrs.field(factory=list)
    refusals: dict[str, Exception] = attrs.field(factory=dict)
    delays: dict[str, float] = attrs.field(factory=dict)
    farewell: Callable[[], None] = lambda: None
    """Called when the address is given back, as a DHCP client sends its release then."""

    device: MemoryDevice | None = None
    """The adapter that is there, or was there last."""
    is_there: bool = False
    up: bool = False
    address: str | None = None
    """ADDRESS/PREFIX on the adapter."""
    pinned: str | None = None
    """The relay's address whose route is fixed."""
    _watchers: list[trio.MemorySendChannel[str]] = attrs.field(factory=list)

    # PlayerMachine

    async def keep(self, mac: bytes, mtu: int, *, task_status: trio.TaskStatus[EthernetDevice]) -> None:
        """See `PlayerMachine`."""
        await self._step("keep")
        assert not self.is_there, "one adapter at a time"
        name = (self.options.tap or DEFAULT_NAME).replace("%d", "0")
        self.device = device = MemoryDevice(name, mac, mtu=mtu)
        self.is_there, self.up = True, False
        self._note(f"keep {mtu}")
        try:
            task_status.started(device)
            await trio.sleep_forever()
        finally:
            self.is_there = self.up = False
            self.address = None
            device.close()
            self._note("adapter released")

    def address_setup(self, device: EthernetDevice) -> MemoryAddressSetup:
        """See `PlayerMachine`."""
        self._require(device)
        return MemoryAddressSetup(self)

    async def set_up(self, device: EthernetDevice) -> None:
        """See `PlayerMachine`."""
        await self._step("set_up")
        self._require(device)
        self.up = True
        self._note("set_up")

    async def set_down(self, device: EthernetDevice) -> None:
        """See `PlayerMachine`."""
        await self._step("set_down")
        self._require(device)
        self.up = False
        self._note("set_down")

    async def set_mtu(self, device: EthernetDevice, mtu: int) -> None:
        """See `PlayerMachine`."""
        await self._step("set_mtu")
        found = self._require(device)
        if mtu < MIN_MTU:
            raise MachineError(f"cannot change interface {device.name}: an MTU of {mtu} bytes is too small")
        found.mtu = mtu
        self._note(f"set_mtu {mtu}")

    async def is_up(self, device: EthernetDevice) -> bool:
        """See `PlayerMachine`."""
        await trio.lowlevel.checkpoint()
        return self.is_there and self.up

    async def pin_relay(self, address: str) -> None:
        """See `PlayerMachine`."""
        await self._step("pin_relay")
        if self.pinned == address:
            return
        self.release_relay()
        if self._way(address) is None:
            raise ConnectionFailedError(f"no route leads to the relay at {address}: is this computer on a network?")
        self.pinned = address
        self._note(f"pin_relay {address}")

    # Underlay

    async def way(self, relay: str) -> Way | None:
        """See `Underlay`."""
        await trio.lowlevel.checkpoint()
        return self._way(relay)

    async def addresses(self) -> frozenset[str]:
        """See `Underlay`."""
        await trio.lowlevel.checkpoint()
        here = {way.source for way in self.ways.values() if way.source is not None}
        if self.address is not None:
            here.add(self.address.partition("/")[0])
        return frozenset(here)

    @contextmanager
    def watch(self) -> Iterator[AsyncIterator[str]]:
        """See `Underlay`. One hint is enough: what has changed is asked for."""
        sender, receiver = trio.open_memory_channel[str](1)
        self._watchers.append(sender)
        try:
            with sender, receiver:
                yield receiver
        finally:
            self._watchers.remove(sender)

    # The test's side

    def move(self, ways: dict[str, Way]) -> None:
        """Put this computer on other networks."""
        self.ways = dict(ways)
        self._tell("ways")

    def release_relay(self) -> None:
        """Take the relay's route back, if it is fixed."""
        if self.pinned is not None:
            self.pinned = None
            self._note("relay released")

    async def _step(self, name: str) -> None:
        await trio.sleep(self.delays.get(name, 0))
        if name in self.refusals:
            raise self.refusals[name]

    def _note(self, line: str) -> None:
        self.asked.append(line)
        self._tell(line)

    def _tell(self, change: str) -> None:
        for watcher in self._watchers:
            try:
                watcher.send_nowait(change)
            except trio.WouldBlock:
                continue  # one hint is waiting already

    def _require(self, device: EthernetDevice) -> MemoryDevice:
        if self.device is not device or not self.is_there:
            raise MachineError(f"interface {device.name} is not there")
        assert self.device is not None
        return self.device

    def _way(self, relay: str) -> Way | None:
        target = ipaddress.ip_address(relay)
        matching = [ipaddress.ip_network(network) for network in self.ways if target in ipaddress.ip_network(network)]
        best = max(matching, key=lambda network: network.prefixlen, default=None)
        return None if best is None else self.ways[str(best)]


class MemoryAddressSetup:
    """`AddressSetup` of a `MemoryMachine`: a static address is on the adapter while it is up; nobody answers DHCP."""

    def __init__(self, machine: MemoryMachine) -> None:
        self._machine = machine

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `AddressSetup`."""
        machine = self._machine
        await machine._step("address_setup")
        wanted = machine.options.address.address
        if wanted not in ("dhcp", "none"):
            machine.address = wanted
        machine._note("address_setup")
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            machine.address = None
            machine._note("address released")
            machine.farewell()

    def gateway_present(self, present: bool) -> None:
        """See `AddressSetup`."""
        self._machine._note(f"gateway_present {present}")

    def reconnected(self) -> None:
        """See `AddressSetup`."""
        self._machine._note("reconnected")


@asynccontextmanager
async def open_memory_machine(
    options: MachineOptions, machine: MemoryMachine | None = None
) -> AsyncIterator[MemoryMachine]:
    """See `lanparty.link.machine.open_machine`. ``machine`` is the computer; None: a new one."""
    machine = MemoryMachine() if machine is None else machine
    machine.options = options
    try:
        yield machine
    finally:
        machine.release_relay()
