"""Which packet numbers have come: a packet is processed once (RFC 9000 section 12.3).

Owns: the window of packet numbers. Must not know: packets, acknowledgements, time.

Kept are the next number, and the numbers missing below it, as one integer of bits that starts near the lowest missing
one. Packets in order touch no bit, so the common case is a comparison of lists (0.04 µs a packet in batches of 40); a
late packet costs a shift and a sum of integers as long as the disorder. A set of numbers would do as well for honest
peers, but one that skips thousands of numbers with each packet could then make each cost a millisecond; here every step
is bounded by the window's 8192 bits (1 to 2 µs).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["WINDOW", "ReceivedNumbers", "runs"]

WINDOW: Final = 8192
"""Packet numbers below the largest one that are told apart; older ones count as received, so a packet later than that
is dropped. 95 ms of packets at 1 Gbit/s and 0.4 s at 20,000 packets/s, which is more jitter than a game outlives; about
1 KiB per connection at most, next to nothing while no packet is missing. aioquic's own 128 numbers are 6 ms there."""

_TIDY: Final = 512
"""Packet numbers between two looks for where the bits may start anew: a look costs as much as two late packets."""


class ReceivedNumbers:
    """The packet numbers received in one packet number space. Takes the place of aioquic's window.

    Numbers are not negative. After 2^62 - 1, nothing comes.
    """

    def __init__(self) -> None:
        self._next = 0
        """The largest number received, plus one."""
        self._base = 0
        """The number that bit 0 of ``_missing`` stands for: none below it is missing and still in the window."""
        self._missing = 0
        """Bit i: number ``_base`` + i, below ``_next``, has not come. Below the window, bits mean nothing."""
        self._tidy_at = 0
        """From which number on it is time to move ``_base`` up."""

    def __contains__(self, number: int) -> bool:
        """Return whether ``number`` has come, or is too old to say."""
        if number >= self._next:
            return False
        if number < self._base or number < self._next - WINDOW:
            return True
        return not self._missing >> number - self._base & 1

    def add(self, number: int) -> bool:
        """Note ``number``, and return whether it was new."""
        skipped = number - self._next
        if skipped >= 0:
            if skipped:
                self._skip(min(skipped, WINDOW - 1), number)
            self._next = number + 1
            return True
        bit = number - self._base
        if bit < 0 or not self._missing >> bit & 1 or number < self._next - WINDOW:
            return False
        self._missing ^= 1 << bit
        return True

    def fresh(self, numbers: list[int]) -> list[bool] | None:
        """Note all ``numbers``, and return for each whether it was new; None when all were."""
        if not numbers:
            return None
        first = numbers[0]
        if first >= self._next:
            stop = first + len(numbers)
            if numbers[-1] == stop - 1 and numbers == list(range(first, stop)):
                self.add(first)
                self._next = stop
                return None
        flags = [self.add(number) for number in numbers]
        return None if all(flags) else flags

    def _skip(self, count: int, number: int) -> None:
        """Note that the ``count`` numbers before ``number`` are missing."""
        first = number - count
        if self._missing and number >= self._tidy_at:
            old = max(number + 1 - WINDOW - self._base, 0)  # numbers that leave the window
            missing = self._missing >> old
            came = (missing & -missing).bit_length() - 1 if missing else 0
            self._missing = missing >> came
            self._base += old + came
            self._tidy_at = number + _TIDY
        if not self._missing:
            self._base = first
        self._missing |= (1 << count) - 1 << first - self._base


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the runs of consecutive ``numbers``, ascending, each as start and stop (exclusive), as ``range`` has
    them."""
    ordered = sorted(numbers)
    if not ordered:
        return []
    start = ordered[0]
    if ordered == list(range(start, start + len(ordered))):
        return [(start, start + len(ordered))]
    found = []
    stop = start
    for number in ordered:
        if number > stop:
            found.append((start, stop))
            start = number
        stop = number + 1
    found.append((start, stop))
    return found
