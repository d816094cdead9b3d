"""When an idle program wakes up: on one grid of times, so that jobs that come round are one wake-up together.

A laptop that plays nothing should sleep, and a relay carries thousands of members: what each does when nothing happens
is what all of this costs at rest. Every job of the uplink that comes round sleeps until a multiple of its own period,
and all periods are multiples of each other. trio's clock begins at a random number, so that programs that started
together do not wake up together.

Owns: the grid. Pure: the time is an argument. Must not know: what is done on a tick.
"""

from __future__ import annotations

import math

__all__ = ["TICK", "next_tick"]

TICK = 2.0
"""Seconds between ticks. A path that was away for 2 s must not be given up: a member that asks each 2 s, and more often
as soon as one answer is missing (`lanparty.uplink.session`), is silent for 4 s then, and not for 4.5 s. A round is
three wake-ups here (the tick, the answer, its acknowledgement) and two at the relay."""


def next_tick(now: float, period: float = TICK) -> float:
    """Give the next multiple of ``period`` after ``now``, both in seconds."""
    return (math.floor(now / period) + 1) * period
