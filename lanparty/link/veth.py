"""The player's adapter where no TAP can be made: a veth pair, whose far end is read and written by a packet socket.

Owns: making the pair, keeping the kernel's own stack off the far end, removing the pair, and removing those that a
killed process left behind.
Must not know: what the frames are for.

Containers often have CAP_NET_ADMIN and no /dev/net/tun. Unlike a TAP, a veth pair outlives a killed process. So each
far end has a name that only we use, ``lanparty-far%d``, and its owner holds the abstract Unix socket of that name
for as long as it lives (abstract sockets belong to the network namespace, as the pair does, and go with the
process). A far end whose socket nobody holds is a leftover; the next start removes it (repair.py), and so does the
next pair.

The far end is an interface of the same machine, so the machine's stack would hear there all that leaves by the near
one: a broadcast that a bridge sends to each of its ports would arrive twice. So the far end is a port of a bridge of
its own that is always down, ``lanparty-off%d``: such a bridge takes every frame from the stack and drops it, after
the packet socket saw it. IPv6 is off on these two.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # netlink

import re
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from lanparty.link.bpf import untagged_filter
from lanparty.link.device import ETHERNET_HEADER
from lanparty.link.kernel import disable_ipv6
from lanparty.link.netlink import NetlinkMissing
from lanparty.link.packet import open_packet
from lanparty.obs.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lanparty.link.device import DeviceCounters
    from lanparty.link.netlink import Netlink
    from lanparty.link.packet import PacketDevice

__all__ = ["open_veth_adapter", "remove_leftovers"]

_FAR: Final = "lanparty-far"
_OFF: Final = "lanparty-off"
_MAX_PAIRS: Final = 1000
"""Names that are tried: three digits fit behind these names in 15 letters."""

_REMOVE_DEADLINE: Final = 2.0
"""Seconds for the clean-up under cancellation: one request to the kernel. What it does not reach, the next start
does."""


def _claim(number: int) -> socket.socket | None:
    """The socket that says "in use by a living process", or None when another process holds it."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        claim.bind(f"\0lanparty/veth/{number}")
    except OSError:  # EADDRINUSE
        claim.close()
        return None
    return claim


async def remove_leftovers(netlink: Netlink) -> list[str]:
    """Remove the pairs, and their bridges, of processes that are no more; gives the names of those interfaces."""
    removed: list[str] = []
    for link in await netlink.links():
        found = re.fullmatch(rf"(?:{_FAR}|{_OFF})([0-9]+)", link.name)
        if found is None or link.kind not in {"veth", "bridge"}:
            continue
        claim = _claim(int(found[1]))
        if claim is None:
            continue
        with claim:
            try:
                await netlink.delete_link(link.name)
            except NetlinkMissing:
                continue
            removed.append(link.name)
    return removed


async def _free_name(pattern: str, netlink: Netlink) -> str:
    if "%d" not in pattern:
        return pattern
    taken = {link.name for link in await netlink.links()}
    return next(name for name in (pattern % number for number in range(len(taken) + 1)) if name not in taken)


@asynccontextmanager
async def open_veth_adapter(
    name: str | None,
    mac: bytes,
    mtu: int,
    netlink: Netlink,
    *,
    up: bool = True,
    max_frame: int | None = None,
    counters: DeviceCounters | None = None,
) -> AsyncIterator[PacketDevice]:
    """A veth pair: the near end is the adapter ``name``, up, with this MAC (6 bytes) and MTU (bytes).

    The device reads what the machine sends by the adapter, and writes what the machine shall receive there. ``name``,
    ``up``, ``max_frame`` and ``counters`` are as for ``open_tap``. Raises MachineError: no permission, name taken or
    bad.
    """
    await remove_leftovers(netlink)
    near = await _free_name(name or "lanparty%d", netlink)
    for number in range(_MAX_PAIRS):
        claim = _claim(number)
        if claim is not None:
            break
    else:
        raise MachineError(f"cannot make the network adapter {near}: {_MAX_PAIRS} adapters are in use")
    far, off = f"{_FAR}{number}", f"{_OFF}{number}"
    with claim:
        await netlink.create_veth(near, far)
        try:
            device = await _prepare(near, far, off, mac, mtu, netlink, max_frame, counters)
            try:
                if up:
                    await netlink.set_link(near, up=True)
                yield device
            finally:
                device.close()
        finally:
            with trio.move_on_after(_REMOVE_DEADLINE, shield=True):
                for name in (far, near, off):  # either end takes the other with it
                    with suppress(NetlinkMissing):
                        await netlink.delete_link(name)


async def _prepare(
    near: str,
    far: str,
    off: str,
    mac: bytes,
    mtu: int,
    netlink: Netlink,
    max_frame: int | None,
    counters: DeviceCounters | None,
) -> PacketDevice:
    await netlink.create_bridge(off)
    for helper in (far, off):
        disable_ipv6(helper)
    await netlink.set_link(far, master=off)
    await netlink.set_link(far, mtu=mtu, up=True)
    await netlink.set_link(near, mac=mac, mtu=mtu)
    device = open_packet(
        far,
        max_frame=max_frame or mtu + ETHERNET_HEADER,
        program=untagged_filter(),
        promiscuous=False,  # a veth end takes all frames anyway
        outgoing=False,
        # A veth end has no queue; and one that has just come up swallows frames until the kernel's link watch ran.
        queue=False,
        counters=counters,
    )
    device.name, device.mac = near, mac
    return device
