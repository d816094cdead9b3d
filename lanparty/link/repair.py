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

from pathlib import Path

from lanparty.link.dns import put_back
from lanparty.link.journal import (
    SUFFIX,
    Change,
    FileReplaced,
    JournalError,
    Owner,
    RouteAdded,
    journals,
    read_journal,
)
from lanparty.link.netlink import Netlink, NetlinkMissing
from lanparty.link.veth import remove_leftovers
from lanparty.obs.errors import MachineError
from lanparty.obs.files import sweep

__all__ = ["repair"]


async def repair(directory: Path, netlink: Netlink, *, here: Owner | None = None) -> list[str]:
    """Undo what dead runs left behind. Returns one sentence part for each thing done or found, for the log.

    What the kernel refuses to undo is one of them. Never raises for a journal's content. Raises :class:`MachineError`
    only where there is no /proc.
    """
    here = here or Owner.current()
    done = await _remove_adapters(netlink)
    for path in journals(directory):
        try:
            owner, changes = read_journal(path)
        except FileNotFoundError:
            continue  # its program ended just now
        except JournalError as error:
            done.append(_move_aside(path, str(error)))
            continue
        except OSError as error:
            done.append(f"could not read {path}: {error.strerror}")
            continue
        rebooted = owner.boot != here.boot
        if owner.is_alive(here) or (not rebooted and owner.netns != here.netns):
            continue
        finished = True
        for change in reversed(changes):
            if rebooted and not isinstance(change, FileReplaced):
                continue
            try:
                text = await _undo(change, netlink)
            except (OSError, MachineError) as error:
                finished = False
                text = f"could not undo a change of {path}: {error}"
            if text is not None:
                done.append(text)
        if finished:
            path.unlink(missing_ok=True)
    sweep(directory, f"*{SUFFIX}")
    return done


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


def _move_aside(path: Path, reason: str) -> str:
    try:
        path.replace(path.with_name(path.name + ".damaged"))
    except OSError as error:
        return f"{path} cannot be understood ({reason}) and not be moved ({error.strerror})"
    return f"{path} cannot be understood ({reason}); moved it aside, so what that run changed may still be there"
