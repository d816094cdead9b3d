"""Puts right what a run that ended without cleaning up has left on this machine.

Owns: the decision what of a journal may be undone, and the undoing.
Must not know: how the changes were made.

First the veth adapters of dead runs go, which need no journal (veth.py). Then, for each journal file in the state
directory:

1. The program that wrote it still runs: leave it alone.
2. It was written in another network namespace: leave it alone; a run there repairs it.
3. It was written before the last reboot: routes and interfaces went with it, files may still be ours.
4. Each change, the latest first, is undone only if the machine still shows exactly what we did. Then the file goes.
5. A file that cannot be understood is moved aside, as ``NAME.damaged``, and reported.
6. What is left of a journal that a program was killed while writing goes.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # netlink; Windows repairs its own

from pathlib import Path

from lanparty.link import journal
from lanparty.link.dns import put_back
from lanparty.link.journal import Change, FileReplaced, Owner, RouteAdded
from lanparty.link.netlink import Netlink, NetlinkMissing
from lanparty.link.veth import remove_leftovers
from lanparty.obs.errors import MachineError

__all__ = ["repair"]


async def repair(directory: Path, netlink: Netlink, *, here: Owner | None = None) -> list[str]:
    """Undo what dead runs left behind. Returns one sentence part for each thing done or found, for the log.

    What the kernel refuses to undo is one of them. Never raises for a journal's content. Raises :class:`MachineError`
    only where there is no /proc.
    """
    here = here or Owner.current()
    done = await _remove_adapters(netlink)

    def rebooted(owner: Owner) -> bool:
        return owner.boot != here.boot

    async def undo(change: Change, owner: Owner) -> str | None:
        if rebooted(owner) and not isinstance(change, FileReplaced):
            return None
        return await _undo(change, netlink)

    return done + await journal.undo_left_behind(
        directory,
        decode_change=journal.decode_change,
        concerns_us=lambda owner: not owner.is_alive(here) and (rebooted(owner) or owner.netns == here.netns),
        undo=undo,
    )


async def _remove_adapters(netlink: Netlink) -> list[str]:
    try:
        return [f"removed the interface {name}" for name in await remove_leftovers(netlink)]
    except MachineError as error:
        return [f"could not remove an adapter of an earlier run: {error}"]


async def _undo(change: Change, netlink: Netlink) -> str | None:
    """Undo one change if it is still there; says what was done, or ``None``. Raises MachineError or OSError."""
    match change:
        case RouteAdded():
            return await _undo_route(change, netlink)
        case FileReplaced():
            return f"put back {change.path}" if put_back(change) else None


async def _undo_route(change: RouteAdded, netlink: Netlink) -> str | None:
    for route in await netlink.routes():
        same = (route.destination, route.interface, route.gateway, route.metric) == (
            change.destination,
            change.interface,
            change.gateway,
            change.metric,
        )
        if same and route.ours:
            break
    else:
        return None
    try:
        await netlink.remove_route(
            change.destination, interface=change.interface, gateway=change.gateway, metric=change.metric
        )
    except NetlinkMissing:
        return None
    return f"removed the route to {change.destination} by {change.interface}"
