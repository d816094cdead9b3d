"""The adapter that makes this machine a player: a TAP where one can be made, else a veth pair.

Owns: the choice. Must not know: what either is made of.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # both kinds of adapter are Linux'

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from lanparty.link.names import DEFAULT_NAME
from lanparty.link.tap import TapUnavailableError, open_tap
from lanparty.link.veth import open_veth_adapter
from lanparty.obs.errors import MachineError
from lanparty.obs.events import LINK_NO_TAP
from lanparty.obs.log import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lanparty.link.device import DeviceCounters
    from lanparty.link.machine import AdapterKind
    from lanparty.link.netlink import Netlink
    from lanparty.link.packet import PacketDevice
    from lanparty.link.tap import TapDevice

__all__ = ["open_adapter"]


@asynccontextmanager
async def open_adapter(
    name: str | None,
    mac: bytes,
    mtu: int,
    netlink: Netlink,
    kind: AdapterKind = "auto",
    *,
    up: bool = True,
    max_frame: int | None = None,
    counters: DeviceCounters | None = None,
) -> AsyncIterator[TapDevice | PacketDevice]:
    """A new interface of this machine whose other side is the yielded device; gone when the block ends.

    ``name``: None takes the first free ``lanparty%d``; a ``%d`` in it stands for the first free number. ``mac`` 6
    bytes, ``mtu`` bytes. ``kind`` "auto" takes a veth pair where no TAP can be made, and logs that. ``up`` False
    leaves the interface down for the caller to prepare. ``max_frame`` in bytes is what passes when that is not MTU +
    14. ``counters`` go on counting where another device stopped.

    Raises MachineError when neither can be made (the text then says how to get a TAP), or the name is taken.
    """
    name = name or DEFAULT_NAME
    async with AsyncExitStack() as stack:
        device: TapDevice | PacketDevice
        if kind == "veth":
            device = await stack.enter_async_context(
                open_veth_adapter(name, mac, mtu, netlink, up=up, max_frame=max_frame, counters=counters)
            )
        else:
            try:
                device = await stack.enter_async_context(
                    open_tap(name, mac, mtu, netlink, up=up, max_frame=max_frame, counters=counters)
                )
            except TapUnavailableError as reason:
                if kind == "tap":
                    raise
                try:
                    device = await stack.enter_async_context(
                        open_veth_adapter(name, mac, mtu, netlink, up=up, max_frame=max_frame, counters=counters)
                    )
                except MachineError as error:
                    raise MachineError(f"{reason}; a veth pair instead did not work either: {error}") from error
                log(LINK_NO_TAP, interface=device.name, reason=str(reason))
        yield device
