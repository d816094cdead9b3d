"""What waits of one flow: first in, first out, with CoDel (RFC 8289) for when it waits too long.

Owns: the order within a flow, the time at which each datagram came, and when CoDel drops one.
Must not know: other flows, QUIC, who counts drops, the clock (``now`` is an argument).

Dropping is always from the head: the oldest go first, and an inner TCP learns of it a queue earlier than from the tail.
With a piece of a frame the frame's other pieces go too, which are right behind it: they are worth nothing without it.

``now`` is one number during a whole batch, so CoDel can change its mind only where ``alarm`` says. Between alarms
datagrams are taken in bulk, and CoDel only sees the last of them: within a flow it is the youngest, with the least
behind it, so its judgement is the one that a walk over all of them would have ended with.
"""

from __future__ import annotations

from collections import deque
from itertools import repeat
from math import inf, sqrt
from typing import Final

import attrs

from lanparty.proto.flows import is_piece

__all__ = ["CODEL_INTERVAL", "CODEL_TARGET", "DATAGRAM_COST", "KEEP_DATAGRAMS", "FlowQueue"]

CODEL_TARGET: Final = 0.005
"""Seconds that a datagram of a bulk flow may wait, for good. RFC 8289 section 4.2: 5 to 10 % of the interval. It costs
the bulk flow itself 5 ms and nobody else anything; below it a TCP on a LAN's round trip of 1 ms would run dry between
our bursts, which are 1 ms apart."""

CODEL_INTERVAL: Final = 0.100
"""Seconds that it must have waited too long without a break before one datagram is dropped. RFC 8289 section 4.1: the
longest round trip that inner TCPs commonly have. Theirs is the path's of the tunnel, players are up to 100 ms apart,
plus a LAN's; a shorter interval would cost throughput on a long path, a longer one only makes the bulk flow's own start
slower."""

KEEP_DATAGRAMS: Final = 2
"""CoDel drops nothing while at most this many datagrams (of the largest size) would be left. At 1 Mbit/s a full one is
12 ms on the wire, so a time alone would forbid to have any queue. Counted per flow, it makes the target "two datagrams
at the rate that this flow has now", whatever that is: nothing has to be measured."""

DATAGRAM_COST: Final = 3
"""Bytes of a DATAGRAM frame in front of the datagram: type, and 2 for the length (RFC 9221 section 4)."""


@attrs.define(eq=False)
class FlowQueue:
    """Datagrams of one flow. Sizes are in bytes, without ``DATAGRAM_COST``."""

    size: int = 0
    """Of all that waits."""
    first_above: float = inf
    """When CoDel will have seen the target missed for an interval; infinity while it is met."""
    drop_next: float = 0.0
    dropping: bool = False
    count: int = 0
    """Drops since the dropping state was entered."""
    last_count: int = 0
    items: deque[bytes] = attrs.field(factory=deque)
    """All that waits, oldest first. To read; only methods change it."""
    times: deque[list[float]] = attrs.field(factory=deque)
    """Runs of ``items`` that came together: when, and how many."""

    def append(self, datagrams: list[bytes], size: int, now: float) -> None:
        """Append ``datagrams`` (at least one) of ``size`` bytes together."""
        self.items.extend(datagrams)
        self.size += size
        times = self.times
        if times and times[-1][0] == now:
            times[-1][1] += len(datagrams)
        else:
            times.append([now, len(datagrams)])

    def take(self, out: list[bytes], quantum: float, room: int, largest: int, now: float) -> int:
        """Move datagrams to the end of ``out`` and return what they cost, ``DATAGRAM_COST`` included.

        The last may begin where ``quantum`` ends, as in any deficit round robin. None may end beyond ``room``, except
        when ``out`` is empty. No datagram has more than ``largest`` bytes.
        """
        items = self.items
        popleft = items.popleft
        before = len(items)
        worst = largest + DATAGRAM_COST
        spent = size = 0
        while items and quantum > spent < room:
            sure = int(min(quantum, room) - spent) // worst
            if sure > 2:
                batch = [popleft() for _ in repeat(None, min(sure, len(items)))]
                length = sum(map(len, batch))
                out += batch
                spent += length + DATAGRAM_COST * len(batch)
            else:
                length = len(items[0])
                if spent + length + DATAGRAM_COST > room and out:
                    break
                out.append(popleft())
                spent += length + DATAGRAM_COST
            size += length
        self.size -= size
        taken = before - len(items)
        if taken:
            self._took(taken, largest, now)
        return spent

    def expire(self, limit: float) -> int:
        """Drop what came before ``limit``; return how many that were."""
        before = len(self.items)
        while self.times and self.times[0][0] < limit:
            self.drop()
        return before - len(self.items)

    def drop(self) -> None:
        """Drop the oldest (there must be one), and the rest of its frame if it is a piece."""
        oldest = self._drop()
        if is_piece(oldest):
            frame = oldest[2:6]
            items = self.items
            while items and items[0][2:6] == frame and is_piece(items[0]):
                self._drop()

    def drop_larger(self, budget: int) -> int:
        """Drop every datagram of more than ``budget`` bytes, wherever it is; return how many. Walks all of them."""
        items = self.items
        before = len(items)
        times: deque[list[float]] = deque()
        for time, count in self.times:
            kept = [item for item in (items.popleft() for _ in range(int(count))) if len(item) <= budget]
            items.extend(kept)
            if kept:
                times.append([time, len(kept)])
        self.times = times
        self.size = sum(map(len, items))
        return before - len(items)

    @property
    def alarm(self) -> float:
        """When CoDel may want to drop something; until then `control_delay` need not be called."""
        return self.drop_next if self.dropping else self.first_above

    def control_delay(self, largest: int, now: float) -> int:
        """Drop what CoDel wants dropped in front of the next datagram; return how many datagrams that were.

        RFC 8289 section 5.5, ``dequeue``, up to where it returns the datagram: that stays at the head.
        """
        before = len(self.items)
        late = self._late(largest, now)
        if self.dropping:
            if not late:
                self.dropping = False
            while self.dropping and now >= self.drop_next:
                self.drop()
                self.count += 1
                if self._late(largest, now):
                    self.drop_next += CODEL_INTERVAL / sqrt(self.count)
                else:
                    self.dropping = False
        elif late:
            self.drop()
            self._late(largest, now)
            self.dropping = True
            # Soon after the last time: begin near the rate that controlled the queue then.
            new = self.count - self.last_count
            self.count = new if new > 1 and now - self.drop_next < 16 * CODEL_INTERVAL else 1
            self.drop_next = now + CODEL_INTERVAL / sqrt(self.count)
            self.last_count = self.count
        return before - len(self.items)

    def _late(self, largest: int, now: float) -> bool:
        """RFC 8289 section 5.6, ``dodequeue``: whether the head may be dropped."""
        if not self.items:
            self.first_above = inf
            return False
        self._judge(self.times[0][0], self.size - len(self.items[0]), largest, now)
        return now >= self.first_above

    def _judge(self, came: float, left: int, largest: int, now: float) -> None:
        """Note whether a datagram that came at ``came``, with ``left`` bytes behind it, meets the target."""
        if now - came < CODEL_TARGET or left <= KEEP_DATAGRAMS * largest:
            self.first_above = inf
        elif self.first_above == inf:
            self.first_above = now + CODEL_INTERVAL

    def _took(self, taken: int, largest: int, now: float) -> None:
        """Settle times and CoDel's state for ``taken`` datagrams (at least one) that have just left."""
        times = self.times
        run = times[0]
        while taken >= run[1]:
            taken -= int(run[1])
            times.popleft()
            if not taken:
                break
            run = times[0]
        run[1] -= taken
        self._judge(run[0], self.size, largest, now)
        if now < self.first_above:
            self.dropping = False

    def _drop(self) -> bytes:
        oldest = self.items.popleft()
        self.size -= len(oldest)
        run = self.times[0]
        run[1] -= 1
        if not run[1]:
            self.times.popleft()
        return oldest
