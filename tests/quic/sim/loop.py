"""Simulated time: events in order, equal times in the order of their making."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Loop:
    """A clock, in seconds, that jumps from event to event."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Call ``action`` at ``when``, at once if that has passed."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._numbers), action))

    def every(self, period: float, action: Callable[[], None]) -> None:
        """Call ``action`` every ``period`` seconds from now on."""

        def again() -> None:
            action()
            self.at(self.now + period, again)

        self.at(self.now + period, again)

    def run(self, until: float) -> None:
        """Let time pass until ``until``."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _number, action = heapq.heappop(heap)
            action()
        self.now = until
