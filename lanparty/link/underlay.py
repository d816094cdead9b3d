"""The networks of a Linux machine, as far as they lead to the relay (`lanparty.link.machine.Underlay`).

Owns: what the kernel's answers mean for a way. Must not know: what a change of the way is a reason for.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # netlink

import ipaddress

from lanparty.link.machine import Way
from lanparty.link.netlink import Netlink, NetlinkMissing, Watch

__all__ = ["NetlinkUnderlay"]


class NetlinkUnderlay:
    """`Underlay` by netlink."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    async def way(self, relay: str) -> Way | None:
        """See `Underlay`. Raises MachineError: the kernel refuses to tell."""
        try:
            route = await self._netlink.route_to(relay)
        except NetlinkMissing:  # its interface vanished in the middle of the question
            return None
        return None if route is None else Way(route.interface, route.gateway, route.source)

    async def addresses(self) -> frozenset[str]:
        """See `Underlay`. Raises MachineError: the kernel refuses to tell."""
        return frozenset(str(ipaddress.ip_address(info.address)) for info in await self._netlink.addresses())

    def watch(self) -> Watch:
        """See `Underlay`. Raises MachineError: the kernel gives no notifications."""
        return self._netlink.watch()
