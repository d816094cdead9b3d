"""Notices, at once instead of after a silence, that the way to the relay is not what it was.

Owns: two watchers, and the judgement which change matters:
  - the network: the connection's local address vanished, or the route to the relay leads another way
  - the clock: this machine slept, or this program was stopped (`lanparty.uplink.gap`)
Must not know: what is done about it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import attrs
import trio

from lanparty.link.machine import Underlay, Way
from lanparty.uplink.gap import GapWatch
from lanparty.uplink.tick import TICK, next_tick

if sys.platform == "win32":
    from lanparty.link.windows.winapi.kernel32 import KERNEL32

__all__ = ["NetworkWatch", "Path", "UnderlayWatch", "judge", "watch_gaps"]

SETTLE = 0.1
"""Seconds without further changes before judging: unplugging a cable is a burst of notifications, and in the middle of
a DHCP client's work an address is missing for a moment. A session that moves once too often has lost little, so this is
short: it is most of the outage that a player notices."""

LONGEST_SETTLE = 2.0
"""Seconds: judge then, even if changes keep coming (containers that come and go all the time)."""

GAP_PERIOD = TICK
"""Seconds between looks at the clocks, on ticks, when the session is awake as well. The timer stands still while the
machine sleeps, so this is how long after waking up we notice it at the latest."""


@attrs.frozen
class Path:
    """The way of the current or last try."""

    relay: str
    """The relay's IP address."""

    local: str | None
    """This machine's IP address on that way; None when it is not known."""


def judge(before: Way | None, now: Way | None, *, local: str | None, addresses: frozenset[str]) -> str | None:
    """Give the reason to reconnect, or None. ``addresses`` are all of this machine's, canonical spelling.

    No way at all is no reason: a reconnect would only fail, and the session may outlive a short gap.
    """
    if now is None:
        return None
    if local is not None and local not in addresses:
        return f"its address {local} is gone"
    if before is None:
        return "a way to the relay appeared"
    if (before.interface, before.gateway) != (now.interface, now.gateway):
        via = f" by {now.gateway}" if now.gateway else ""
        return f"the way to the relay is now {now.interface}{via}"
    return None


class NetworkWatch(Protocol):
    """Notices that the way to the relay became another."""

    async def wait_changed(self, path: Path) -> str:
        """Wait until the way of ``path`` is not what it is now; give the reason to reconnect, for a person."""
        ...


class UnderlayWatch:
    """`NetworkWatch` of this machine's networks."""

    def __init__(self, underlay: Underlay) -> None:
        self._underlay = underlay

    async def wait_changed(self, path: Path) -> str:
        """Wait until the way of ``path`` is not what it is now: for ever, when it has a zone (RFC 4007 section 11).

        Raises MachineError: the system gives no notifications.
        """
        if "%" in path.relay:
            await trio.sleep_forever()  # It is reached by its zone's interface or not at all: there is no other way.
        with self._underlay.watch() as changes:
            # Subscribed before the first look, so that nothing between the two is missed.
            known = await self._underlay.way(path.relay)
            local = path.local or (known.source if known is not None else None)
            if path.local is not None and known is not None:
                # It may have happened while nobody watched, as during the move before.
                reason = judge(known, known, local=local, addresses=await self._underlay.addresses())
                if reason is not None:
                    return reason
            while True:
                await _burst(changes)
                now = await self._underlay.way(path.relay)
                reason = judge(known, now, local=local, addresses=await self._underlay.addresses())
                if reason is not None:
                    return reason
                known = now


async def _burst(changes: AsyncIterator[object]) -> None:
    """Wait for a change and for the end of the burst that it belongs to."""
    await anext(changes)
    with trio.move_on_after(LONGEST_SETTLE):
        while True:
            with trio.move_on_after(SETTLE) as quiet:
                await anext(changes)
            if quiet.cancelled_caught:
                return


def boottime() -> float:
    """Give seconds on a clock that goes on while the machine sleeps, where the system has one."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    elif sys.platform == "win32":
        # In steps of 10 to 16 ms. Sleep and hibernation count (sysinfoapi.h), whatever Python's own clock does.
        return float(KERNEL32.GetTickCount64()) / 1000
    else:
        return time.monotonic()


async def watch_gaps(
    slept: Callable[[float], None],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    boot: Callable[[], float] = boottime,
) -> None:
    """Call ``slept(seconds)`` whenever this program did not run for too long. Runs until cancelled."""
    watch = GapWatch(GAP_PERIOD)
    while True:
        missed = watch.tick(monotonic(), boot())
        if missed is not None:
            slept(missed)
        await trio.sleep_until(next_tick(trio.current_time(), GAP_PERIOD))
