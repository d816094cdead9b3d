"""Notices that this program did not run for a while: the machine slept, or was stopped.

Owns: the arithmetic of two clocks. Pure: the clocks' readings are arguments.
Must not know: what is done about it (`lanparty.uplink.watch`).

Linux: CLOCK_MONOTONIC stands still while the machine sleeps, CLOCK_BOOTTIME goes on. So a step of the difference is a
sleep, and a monotonic step much longer than was asked for is a program that was stopped (SIGSTOP, a paused virtual
machine). Windows: its tick count goes on, and Python's monotonic clock may (GetTickCount64 before Python 3.13, then the
performance counter), so a sleep looks like a program that was stopped. What is done about the two is the same.
"""

from __future__ import annotations

import attrs

__all__ = ["LONGEST_GAP", "GapWatch"]

LONGEST_GAP = 4.0
"""Seconds without us, besides a tick, after which the relay has given us up: its own limit is 5 s of silence. After a
shorter gap we find its goodbye waiting, or the silence itself."""


@attrs.define
class GapWatch:
    """Compares each tick with the one before."""

    period: float
    """Seconds between ticks at most, as asked of the timer. A gap is measured up to this much too short: for a
    part of it we were to sleep."""

    longest: float = LONGEST_GAP
    _monotonic: float | None = attrs.field(default=None, init=False)
    _boottime: float = attrs.field(default=0.0, init=False)

    def tick(self, monotonic: float, boottime: float) -> float | None:
        """Take both clocks' readings, in seconds; give the seconds that we missed if they were too many, else None."""
        before, self._monotonic = self._monotonic, monotonic
        boottime_before, self._boottime = self._boottime, boottime
        if before is None:
            return None
        # The boot clock counts both kinds of gap; where a platform has none, both clocks are the same one.
        missed = max(monotonic - before, boottime - boottime_before) - self.period
        return missed if missed > self.longest else None
