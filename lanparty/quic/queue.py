"""Outgoing overlay datagrams of one connection, waiting for congestion control.

Bound: ``QUEUE_BYTES`` bytes and ``QUEUE_AGE`` seconds. Drop policy: oldest first. Counters: ``queue_dropped`` (full),
``queue_expired`` (too old), ``oversize_dropped`` (no longer fits the path).

Owns: the order and the age of what waits. Must not know: QUIC, sockets, the clock (``now`` is an argument).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from lanparty.obs.counters import TunnelCounters
from lanparty.quic.settings import QUEUE_AGE, QUEUE_BYTES

__all__ = ["DatagramQueue", "Queued"]

Queued = tuple[float, bytes]
"""When it was queued (seconds), and the datagram."""


class DatagramQueue:
    """A first-in first-out queue, bounded in bytes and in age."""

    __slots__ = ("_counters", "_items", "_max_age", "_max_bytes", "size")

    def __init__(self, counters: TunnelCounters, *, max_bytes: int = QUEUE_BYTES, max_age: float = QUEUE_AGE) -> None:
        self._counters = counters
        self._items: deque[Queued] = deque()
        self._max_bytes = max_bytes
        self._max_age = max_age
        self.size = 0
        """Bytes that wait."""

    def __len__(self) -> int:
        return len(self._items)

    def push(self, datagrams: Iterable[bytes], budget: int, now: float) -> None:
        """Append ``datagrams``; those larger than ``budget`` bytes are dropped and counted, then the oldest of all."""
        items = self._items
        size = self.size
        for datagram in datagrams:
            length = len(datagram)
            if length > budget:
                self._counters.oversize_dropped += 1
                continue
            items.append((now, datagram))
            size += length
        while size > self._max_bytes:
            size -= len(items.popleft()[1])
            self._counters.queue_dropped += 1
        self.size = size

    def expire(self, now: float) -> None:
        """Drop and count what has waited longer than the bound."""
        items = self._items
        limit = now - self._max_age
        while items and items[0][0] < limit:
            self.size -= len(items.popleft()[1])
            self._counters.queue_expired += 1

    def take(self, allowance: int, budget: int) -> list[Queued]:
        """Remove and return the oldest datagrams until they have at least ``allowance`` bytes together.

        What does not fit ``budget`` any more (the path shrank while it waited) is dropped and counted.
        """
        items = self._items
        taken: list[Queued] = []
        while items and allowance > 0:
            item = items.popleft()
            length = len(item[1])
            self.size -= length
            if length > budget:
                self._counters.oversize_dropped += 1
                continue
            allowance -= length
            taken.append(item)
        return taken

    def put_back(self, items: Sequence[Queued]) -> None:
        """Return what was taken but could not go: it is the oldest again, with the age it had."""
        self._items.extendleft(reversed(items))
        self.size += sum(len(item[1]) for item in items)

    def clear(self) -> None:
        """Drop and count everything: the connection is over."""
        self._counters.queue_dropped += len(self._items)
        self._items.clear()
        self.size = 0
