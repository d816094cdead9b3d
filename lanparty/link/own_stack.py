"""The way from the players to the gateway box itself, whose NIC the packet socket sends past.

Owns: a helper interface from which every frame is redirected (tc mirred) so that it counts as received on the NIC.
Must not know: which frames take this way (lan.py), who the players are.

A frame that a packet socket sends goes to the wire only: a player could reach every computer of the house but the
gateway. Players' frames for the box, and copies of their group frames, are written to the helper:

    write_batch → helper (TAP, or far end of a veth pair) → redirect → NIC's ingress → the box's stack
                                                                       └→ our own packet socket, whose filter drops it

1. The helper has the NIC's MAC, because the kernel decides "for this host" by the interface a frame first arrives on.
2. IPv6 is off on it, so that it gets no address of its own; it has no IPv4 address, and nothing leaves by it.
3. The redirection is in place before the helper is up. It belongs to the helper and vanishes with it.

The answers need no help: the packet socket sees what the box's stack sends by the NIC.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # traffic control, netlink

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from lanparty.link.adapter import open_adapter
from lanparty.link.kernel import disable_ipv6
from lanparty.obs.errors import MachineError
from lanparty.obs.events import LINK_NO_OWN_STACK
from lanparty.obs.log import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lanparty.link.device import EthernetDevice
    from lanparty.link.machine import AdapterKind
    from lanparty.link.netlink import LinkInfo, Netlink

__all__ = ["HELPER_NAME", "open_own_stack"]

HELPER_NAME: Final = "lanparty-own%d"


@asynccontextmanager
async def open_own_stack(
    nic: LinkInfo, netlink: Netlink, *, max_frame: int, kind: AdapterKind = "auto"
) -> AsyncIterator[EthernetDevice | None]:
    """A device to which frames for the box's own stack are written; None, and a warning, where that is not possible.

    Players then reach everything in the house but this box. Nothing is ever read from the device.
    """
    async with AsyncExitStack() as stack:
        helper: EthernetDevice | None = None
        try:
            helper = await stack.enter_async_context(
                open_adapter(HELPER_NAME, nic.mac, nic.mtu, netlink, kind, up=False, max_frame=max_frame)
            )
            disable_ipv6(helper.name)
            await netlink.redirect_ingress(helper.name, nic.name)
            await netlink.set_link(helper.name, up=True)
        except MachineError as error:
            log(LINK_NO_OWN_STACK, interface=nic.name, reason=str(error))
            await stack.aclose()
            helper = None
        yield helper
