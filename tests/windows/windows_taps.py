"""What the tests of TAP-Windows6 adapters share."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import trio

from lanparty.link.windows.adapters import MacChange, apply_mac_change

MAC = bytes.fromhex("02aabbccdd01")


async def no_change(change: MacChange) -> None:
    """Where the adapter has its MAC already, nobody is to ask for it."""
    raise AssertionError(change)


def recording(changes: list[MacChange]) -> Callable[[MacChange], Awaitable[None]]:
    """What writes a change down and makes it, as a transaction does."""

    async def change(wanted: MacChange) -> None:
        changes.append(wanted)
        await trio.to_thread.run_sync(functools.partial(apply_mac_change, wanted))

    return change
