"""When the next packets may leave: a token bucket at the congestion controller's rate (RFC 9002 section 7.7).

Owns: the tokens. Must not know: packets, why the rate is what it is, the clock (``now`` is an argument).

Timers here have a resolution of one millisecond, so at 100 Mbit/s a packet at a time (0.12 ms) cannot be had. What
leaves at once is at most the rate's share of ``QUANTUM``, or two packets: on a 20 Mbit/s uplink that is 3 kB, 1.2 ms.

A game's packet does not wait for tokens that a download has used: ``urgent`` lends it some, and the download pays.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Pacer"]

QUANTUM: Final = 0.001
"""Seconds of sending that may be done at once: the resolution of the timers. A later wake-up loses what does not fit:
at 20 Mbit/s up to a tenth, which congestion control makes up for. With two milliseconds the bursts were 2 ms of queue
for everybody else."""

_LEAST_BURST: Final = 3000
"""Bytes: two full packets, so that an ACK is sent for them at once."""

_CREDIT: Final = 6000
"""Bytes that urgent packets may be ahead: 60 of a game's."""

_FULL: Final = 1472
"""Bytes of a full packet: waiting for less than one is a wake-up for nothing."""


class Pacer:
    """One connection's tokens, in bytes. They may fall below zero by what was sent beyond them."""

    __slots__ = ("_rate", "_tokens", "_updated")

    def __init__(self) -> None:
        self._tokens = float(_LEAST_BURST)
        self._rate = math.inf
        self._updated = 0.0

    def allowance(self, now: float, rate: float) -> int:
        """Bytes that may leave at ``now`` when ``rate`` is the limit (bytes per second, infinity for none)."""
        self._rate = rate
        if rate == math.inf:
            return 1 << 62
        burst = max(rate * QUANTUM, _LEAST_BURST)
        tokens = self._tokens
        if now > self._updated:
            tokens = min(tokens + (now - self._updated) * rate, burst)
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

    def ready_at(self) -> float:
        """When at least one full packet may leave, or half a quantum's worth: a wake-up is to be worth it."""
        if self._rate == math.inf:
            return self._updated
        wanted = max(float(_FULL), self._rate * QUANTUM / 2)
        return self._updated + max(0.0, wanted - self._tokens) / self._rate
