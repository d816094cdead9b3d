"""CoDel as RFC 8289 section 5 writes it, one packet at a time: what ours is compared with."""

from __future__ import annotations

from collections import deque
from math import sqrt


class ReferenceCodel:
    """A queue of numbered packets of one size; names as in the RFC."""

    def __init__(self, *, target, interval, keep):
        self.target, self.interval, self.keep = target, interval, keep
        self.waiting = deque()
        self.bytes = 0
        self.first_above_time = 0.0
        self.drop_next = 0.0
        self.count = self.lastcount = 0
        self.dropping = False
        self.dropped = 0

    def push(self, numbers, size, now):
        for number in numbers:
            self.waiting.append((number, size, now))
            self.bytes += size

    def control_law(self, time, count):
        return time + self.interval / sqrt(count)

    def dodequeue(self, now):
        if not self.waiting:
            self.first_above_time = 0.0
            return None, False
        number, size, came = self.waiting.popleft()
        self.bytes -= size
        ok_to_drop = False
        if now - came < self.target or self.bytes <= self.keep:
            self.first_above_time = 0.0
        elif self.first_above_time == 0.0:
            self.first_above_time = now + self.interval
        elif now >= self.first_above_time:
            ok_to_drop = True
        return number, ok_to_drop

    def dequeue(self, now):
        number, ok_to_drop = self.dodequeue(now)
        if self.dropping:
            if not ok_to_drop:
                self.dropping = False
            while now >= self.drop_next and self.dropping:
                self.dropped += 1
                self.count += 1
                number, ok_to_drop = self.dodequeue(now)
                if not ok_to_drop:
                    self.dropping = False
                else:
                    self.drop_next = self.control_law(self.drop_next, self.count)
        elif ok_to_drop:
            self.dropped += 1
            number, ok_to_drop = self.dodequeue(now)
            self.dropping = True
            delta = self.count - self.lastcount
            self.count = 1
            if delta > 1 and now - self.drop_next < 16 * self.interval:
                self.count = delta
            self.drop_next = self.control_law(now, self.count)
            self.lastcount = self.count
        return number
