"""The player's computer as the client needs it: one interface, whatever the operating system is.

    linux_machine.py       Linux: adapter.py, netlink.py, address.py, pin.py, repair.py
    windows/machine.py     Windows: TAP-Windows6 and the IP Helper API
    memory_machine.py      no operating system: what it is asked for happens in memory

Order of use, which the client keeps to: ``open_machine`` repairs what a crashed run left; each try to reach the relay
is preceded by ``pin_relay``; the first admission starts ``keep`` (an adapter that is down), then the ``address_setup``
of the adapter, then calls ``set_up``. Later admissions call ``set_mtu`` at most. Everything is put back when the block
of ``open_machine`` ends.

Owns: the interface, its types, and the choice for this system. Must not know: how a system does any of it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Literal, Protocol

import attrs
import trio

from lanparty.link.address_options import AddressOptions
from lanparty.link.device import EthernetDevice
from lanparty.obs.errors import MachineError

__all__ = ["AdapterKind", "AddressSetup", "MachineOptions", "PlayerMachine", "Underlay", "Way", "open_machine"]

AdapterKind = Literal["auto", "tap", "veth"]
"""What the adapter is made of; "veth" is for Linux only."""


@attrs.frozen
class MachineOptions:
    """What the player asked for on the command line."""

    tap: str | None = None
    """The adapter's name: the one to make (Linux), the one to use (Windows); None: the first free one."""
    adapter: AdapterKind = "auto"
    address: AddressOptions = attrs.field(factory=AddressOptions)


@attrs.frozen
class Way:
    """How this machine would reach the relay now."""

    interface: str | None
    gateway: str | None
    source: str | None


class Underlay(Protocol):
    """The networks of this machine, as far as they lead to the relay."""

    async def way(self, relay: str) -> Way | None:
        """Tell how the relay's IP address would be reached now; None: not at all."""
        ...

    async def addresses(self) -> frozenset[str]:
        """All IP addresses of this machine, in canonical spelling."""
        ...

    def watch(self) -> AbstractContextManager[AsyncIterator[object]]:
        """Give something for each change of addresses, routes or interfaces that happens inside the block.

        Raises MachineError, there or in the iteration: the system gives no notifications.
        """
        ...


class AddressSetup(Protocol):
    """Gives an adapter its address on the house LAN, and the routes that belong to it."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Set the adapter up and keep it so, until cancelled; then give the address back.

        Started when the adapter is prepared, and may be up: the address comes later. Raises MachineError.
        """
        ...

    def gateway_present(self, present: bool) -> None:
        """Take note that the house's gateway came or went: without it nobody would answer DHCP."""
        ...

    def reconnected(self) -> None:
        """Take note that the tunnel is back: the address is to be verified."""
        ...


class PlayerMachine(Underlay, Protocol):
    """This computer, which is to become a player's."""

    async def keep(self, mac: bytes, mtu: int, *, task_status: trio.TaskStatus[EthernetDevice]) -> None:
        """Have an adapter with this MAC (6 bytes) and MTU (bytes), down; started(device); release it when cancelled.

        Raises MachineError: there is none to be had; or, later, something happened to this machine's network that the
        tunnel cannot live with. Once only for each machine.
        """
        ...

    def address_setup(self, device: EthernetDevice) -> AddressSetup:
        """Give the address set-up of the adapter."""
        ...

    async def set_up(self, device: EthernetDevice) -> None:
        """Bring the adapter up: for programs its cable is plugged in. Raises MachineError."""
        ...

    async def set_down(self, device: EthernetDevice) -> None:
        """Take the adapter down: its routes go, its address stays. Raises MachineError."""
        ...

    async def set_mtu(self, device: EthernetDevice, mtu: int) -> None:
        """Change the adapter's MTU, in bytes. Raises MachineError."""
        ...

    async def is_up(self, device: EthernetDevice) -> bool:
        """Whether the adapter is up. Never raises MachineError."""
        ...

    async def pin_relay(self, address: str) -> None:
        """Keep the relay reachable by the interface that leads to it now, whatever the house's routes will be.

        Raises ConnectionFailedError (no route leads there), MachineError.
        """
        ...


def open_machine(options: MachineOptions) -> AbstractAsyncContextManager[PlayerMachine]:
    """This computer, repaired from what an earlier run left behind; everything is put back when the block ends.

    Entering raises MachineError: no permission, no driver, a name that is taken.
    """
    if sys.platform == "win32":
        from lanparty.link.windows.machine import open_windows_machine

        return open_windows_machine(options)
    elif sys.platform == "linux":
        from lanparty.link.linux_machine import open_linux_machine

        return open_linux_machine(options)
    else:
        raise MachineError("the client runs on Linux and Windows only")
