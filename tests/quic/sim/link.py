"""One direction of a path: a bottleneck with a buffer, then a delay; and a host whose processor is the bottleneck.

``Link`` is either a wire (a packet takes size / rate) or, with ``burst``, Linux's tbf: a packet leaves at once while
there are tokens. What goes in is any object with ``size``; it comes out at ``deliver``.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import attrs

from sim.loop import Loop

MBIT = 125_000.0
"""Bytes per second."""


class Sized(Protocol):
    """What a link carries."""

    @property
    def size(self) -> int:
        """Bytes on the wire."""


@attrs.frozen
class Path:
    """What a link is like. Times in seconds, sizes in bytes, rates in bytes per second."""

    rate: float
    delay: float = 0.0
    """One way."""
    buffer: int = 1 << 40
    """Bytes that may wait; more is dropped at the tail."""
    burst: int = 0
    """Token bucket; 0 is a wire."""
    loss: float = 0.0
    """Probability, of each packet on its own, after the bottleneck."""
    jitter: float = 0.0
    """Added delay wanders between 0 and this, in steps of twice this time, and never reorders (as Wi-Fi)."""
    steps: tuple[tuple[float, float], ...] = ()
    """(when, rate): the rate from then on."""
    blackouts: tuple[tuple[float, float], ...] = ()
    """(from, to): everything that leaves the bottleneck then is lost."""

    def rate_at(self, when: float) -> float:
        """The rate at ``when``."""
        rate = self.rate
        for begin, stepped in self.steps:
            if when >= begin:
                rate = stepped
        return rate

    def capacity(self, begin: float, end: float) -> float:
        """Bytes that could pass between two times; blackouts count as nothing."""
        marks = sorted({begin, end, *(t for t, _ in self.steps), *(t for pair in self.blackouts for t in pair)})
        total = 0.0
        for left, right in pairwise(marks):
            if left >= begin and right <= end and not any(a <= left < b for a, b in self.blackouts):
                total += (right - left) * self.rate_at(left)
        return total


class Link:
    """The bottleneck of one direction; flows share it first come, first served."""

    def __init__(self, loop: Loop, path: Path, rng: random.Random, deliver: Callable[[Sized], None]) -> None:
        self.path = path
        self.waiting = 0
        """Bytes in the buffer, the packet being sent included."""
        self.dropped = 0
        self.lost = 0
        self.on_depart: Callable[[Sized], None] | None = None
        self._loop = loop
        self._rng = rng
        self._deliver = deliver
        self._queue: deque[Sized] = deque()
        self._busy = False
        self._tokens = float(path.burst)
        self._tokens_at = loop.now
        self._last_arrival = 0.0
        self._offsets: dict[int, float] = {}

    def wait(self) -> float:
        """Seconds that a packet arriving now would wait before it is sent."""
        rate = self.path.rate_at(self._loop.now)
        if self.path.burst:
            tokens = min(self._tokens + (self._loop.now - self._tokens_at) * rate, self.path.burst)
            return max(0.0, self.waiting - tokens) / rate
        return self.waiting / rate

    def send(self, packet: Sized) -> None:
        """Take a packet; drop it if the buffer is full."""
        if self.waiting + packet.size > self.path.buffer and self.waiting:
            self.dropped += 1
            return
        self.waiting += packet.size
        self._queue.append(packet)
        if not self._busy:
            self._busy = True
            self._serve()

    def _serve(self) -> None:
        loop = self._loop
        while self._queue:
            size = self._queue[0].size
            rate = self.path.rate_at(loop.now)
            if self.path.burst:
                self._tokens = min(self._tokens + (loop.now - self._tokens_at) * rate, max(self.path.burst, size))
                self._tokens_at = loop.now
                if self._tokens + 1e-6 < size:
                    loop.at(loop.now + (size - self._tokens) / rate, self._serve)
                    return
                self._tokens -= size
                self._depart()
            else:
                loop.at(loop.now + size / rate, self._served)
                return
        self._busy = False

    def _served(self) -> None:
        self._depart()
        self._serve()

    def _depart(self) -> None:
        packet = self._queue.popleft()
        self.waiting -= packet.size
        now = self._loop.now
        if self.on_depart is not None:
            self.on_depart(packet)
        path = self.path
        if path.loss and self._rng.random() < path.loss:
            self.lost += 1
            return
        if path.blackouts and any(begin <= now < end for begin, end in path.blackouts):
            self.lost += 1
            return
        arrival = now + path.delay
        if path.jitter:
            arrival = max(arrival + self._offset(now), self._last_arrival)
            self._last_arrival = arrival
        self._loop.at(arrival, lambda: self._deliver(packet))

    def _offset(self, now: float) -> float:
        slot = 2 * self.path.jitter
        index = int(now / slot)
        for wanted in (index, index + 1):
            if wanted not in self._offsets:
                self._offsets[wanted] = self._rng.random() * self.path.jitter
                self._offsets.pop(wanted - 4, None)
        share = now / slot - index
        return self._offsets[index] * (1 - share) + self._offsets[index + 1] * share


@attrs.frozen
class Cpu:
    """What a host's processor does to packets."""

    cost: float
    """Seconds per packet."""
    buffer: int = 200_000
    """Bytes of the socket's buffer; more is dropped."""
    batch: int = 64
    """Packets read at a time, and acknowledged together."""
    stall: float = 0.0
    """Probability that a wake-up comes late,"""
    stall_range: tuple[float, float] = (0.0005, 0.010)
    """by a time between these."""


class Host:
    """Reads packets in batches when its process is scheduled; ``deliver`` gets a batch when it has been worked on."""

    def __init__(self, loop: Loop, cpu: Cpu, rng: random.Random, deliver: Callable[[list[Sized]], None]) -> None:
        self.dropped = 0
        self.waiting = 0
        self.cpu = cpu
        self._loop = loop
        self._rng = rng
        self._deliver = deliver
        self._queue: deque[Sized] = deque()
        self._busy = False

    def wait(self) -> float:
        """Seconds of work that waits."""
        return len(self._queue) * self.cpu.cost

    def send(self, packet: Sized) -> None:
        """Take a packet; drop it if the socket's buffer is full."""
        if self.waiting + packet.size > self.cpu.buffer:
            self.dropped += 1
            return
        self.waiting += packet.size
        self._queue.append(packet)
        if not self._busy:
            self._busy = True
            self._loop.at(self._loop.now + self._late() + 20e-6, self._read)

    def _late(self) -> float:
        if self.cpu.stall and self._rng.random() < self.cpu.stall:
            return self._rng.uniform(*self.cpu.stall_range)
        return 0.0

    def _read(self) -> None:
        if not self._queue:
            self._busy = False
            return
        batch = [self._queue.popleft() for _ in range(min(self.cpu.batch, len(self._queue)))]
        self.waiting -= sum(packet.size for packet in batch)

        def worked() -> None:
            self._deliver(batch)
            self._read()

        self._loop.at(self._loop.now + self._late() + len(batch) * self.cpu.cost, worked)


def infinite() -> Path:
    """A path that is no bottleneck."""
    return Path(rate=math.inf)
