"""How long to wait before the next try to reach the relay.

Owns: the delays. Pure: randomness is an argument, and no clock is read.
Must not know: what failed.

    delay(n) = ceiling(n) x (0.5 .. 1.0),  ceiling(n) = FIRST x 2^n, at most CAP

"Equal jitter": half of the delay is certain, so that a relay which is down is not hammered; half is random, so that the
members of a room that all lost the same relay at the same moment do not come back at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

__all__ = ["CAP", "FIRST", "Backoff"]

FIRST = 0.2
"""Seconds before the first retry: a relay that was restarted by its service manager is back about that fast."""

CAP = 5.0
"""Seconds at most: with one handshake timeout on top, a member is back within 10 s of the relay's return."""


@attrs.define
class Backoff:
    """The delays of one run of failures. `reset` starts the next run."""

    uniform: Callable[[], float]
    """Gives numbers of 0.0 to 1.0: `random.random` in the programs, a seeded one in tests."""

    first: float = FIRST
    cap: float = CAP
    failures: int = 0
    """Failures in this run."""

    def next_delay(self) -> float:
        """Count one failure and give the seconds to wait after it."""
        # Beyond 2^30 the cap has long been reached; an ever growing power would only cost time.
        ceiling = min(self.cap, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return ceiling * (0.5 + 0.5 * self.uniform())

    def reset(self) -> None:
        """Begin anew: the connection worked."""
        self.failures = 0
