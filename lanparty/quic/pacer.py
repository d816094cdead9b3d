"""When the next packets may leave: a token bucket at the congestion controller's rate (RFC 9002 section 7.7).

Owns: the tokens. Must not know: packets, why the rate is what it is, the clock (``now`` is an argument).

Timers here have a resolution of one millisecond, so at 100 Mbit/s a packet at a time (0.12 ms) cannot be had. What
leaves at once is at most the rate's share of ``QUANTUM``, or two packets: on a 20 Mbit/s uplink that is 3 kB, 1.2 ms.

On a machine with more to do than it has cores, a wake-up that was asked for comes milliseconds late, and the packets it
would have sent are this program's loss, not the path's limit. So tokens grow on through a part of it, if congestion
control allows (``catch_up``), and what was lost beyond that is told (``missed``): else it would take a late program for
a slow path, pace it yet slower, and never find out.

A game's packet does not wait for tokens that a download has used: ``urgent`` lends it some, and the download pays.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Pacer"]

QUANTUM: Final = 0.001
"""Seconds of sending that may be done at once: the resolution of the timers. With two milliseconds the bursts were 2 ms
of queue for everybody else."""

_LEAST_BURST: Final = 3000
"""Bytes: two full packets, so that an ACK is sent for them at once."""

_CREDIT: Final = 6000
"""Bytes that urgent packets may be ahead: 60 of a game's."""

_FULL: Final = 1472
"""Bytes of a full packet: waiting for less than one is a wake-up for nothing."""


class Pacer:
    """One connection's tokens, in bytes. They may fall below zero by what was sent beyond them."""

    __slots__ = ("_rate", "_ready_at", "_tokens", "_updated", "missed")

    def __init__(self) -> None:
        self._tokens = float(_LEAST_BURST)
        self._rate = math.inf
        self._updated = 0.0
        self._ready_at = math.inf
        self.missed = 0.0
        """Bytes so far that could have left, had this program come when it asked to."""

    def allowance(self, now: float, rate: float, catch_up: float = 0.0) -> int:
        """Bytes that may leave at ``now`` when ``rate`` is the limit (bytes per second, infinity for none); of a late
        wake-up ``catch_up`` seconds at most are made up for."""
        self._rate = rate
        if rate == math.inf:
            return 1 << 62
        tokens = self._tokens
        if now > self._updated:
            tokens += (now - self._updated) * rate
            late = now - self._ready_at
            burst = max(rate * (QUANTUM if late <= 0 else QUANTUM + min(late, catch_up)), _LEAST_BURST)
            if tokens > burst:
                if late > 0:
                    self.missed += tokens - burst
                tokens = burst
            self._updated = now
            self._tokens = tokens
        return int(tokens)

    def urgent(self) -> int:
        """Bytes that may leave at once if they are urgent, though ``allowance`` has just said none."""
        return max(int(self._tokens) + _CREDIT, 0)

    def on_sent(self, size: int) -> None:
        """Take ``size`` bytes."""
        if self._rate != math.inf:
            self._tokens -= size
            self._ready_at = math.inf

    def not_asked(self) -> None:
        """Note that nobody waits for the tokens: the window is full."""
        self._ready_at = math.inf

    def ready_at(self) -> float:
        """When at least one full packet may leave, or half a quantum's worth: a wake-up is to be worth it."""
        if self._rate == math.inf:
            return self._updated
        wanted = max(float(_FULL), self._rate * QUANTUM / 2)
        self._ready_at = self._updated + max(0.0, wanted - self._tokens) / self._rate
        return self._ready_at
