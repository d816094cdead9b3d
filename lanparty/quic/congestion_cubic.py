"""CUBIC's window (RFC 9438), for when somebody else keeps the queue long and holding back does not help.

Owns: the curve. Must not know: when to follow it, which losses count. Windows are in packets, times in seconds.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["CubicCurve"]

_C: Final = 0.4
"""Packets per second cubed (RFC 9438 section 5)."""

_BETA: Final = 0.7
"""Times the window at a loss (section 4.6)."""

_ALPHA: Final = 3 * (1 - _BETA) / (1 + _BETA)
"""Packets per round trip that Reno would grow by with this factor (section 4.3)."""


class CubicCurve:
    """A window that grows along the cubic, quickly far from the last loss and slowly near it."""

    __slots__ = ("_began", "_k", "_max", "window")

    def __init__(self) -> None:
        self.window = 0.0
        self._max = 0.0
        self._began = math.inf
        self._k = 0.0

    def begin(self, window: float, now: float) -> None:
        """Start from ``window``, as if a loss had brought us nowhere else."""
        self.window = self._max = window
        self._began = now
        self._k = 0.0

    def pause(self, seconds: float) -> None:
        """Go on where we were: the last ``seconds`` did not count."""
        self._began += seconds

    def cut(self, now: float) -> None:
        """Take a loss (sections 4.6 and 4.7)."""
        window = self.window
        self._max = window if window >= self._max else window * (1 + _BETA) / 2
        self.window = max(window * _BETA, 2.0)
        self._began = now
        self._k = (max(self._max - self.window, 0.0) / _C) ** (1 / 3)

    def grow(self, packets: float, now: float, rtt: float) -> None:
        """Take ``packets`` acknowledged: toward the curve a round trip ahead, at least as Reno (section 4.3)."""
        window = self.window
        since = min(max(now - self._began, 0.0), 1e4)
        aim = _C * (since + rtt - self._k) ** 3 + self._max
        aim = min(max(aim, window), 1.5 * window)
        self.window = window + max(aim - window, _ALPHA) / window * min(packets, window)
