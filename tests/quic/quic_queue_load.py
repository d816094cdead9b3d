"""Overlay datagrams of chosen flows, numbered, for tests of the queue; and flows of inner TCP in simulated time."""

from __future__ import annotations

import heapq
import itertools
import random
import struct

ARP = 0
"""Flow number of control traffic; all others are UDP flows."""


def datagram(flow=1, number=0, size=1000, *, origin=1, kind=0x10):
    """A datagram of ``size`` bytes (at least 50) that says where it belongs."""
    head = bytes((kind, 0)) + struct.pack("!H", origin) + bytes.fromhex("020000000001020000000002")
    if flow == ARP:
        head += b"\x08\x06" + bytes(24)
    else:
        head += b"\x08\x00\x45" + bytes(8) + b"\x11" + bytes(2) + b"\x0a\x00\x00\x01\x0a\x00\x00\x02"
        head += struct.pack("!HH", 20000 + flow, 7777)
    return head + struct.pack("!HI", flow, number) + bytes(size - len(head) - 6)


def read(sent):
    """(origin, flow, number) of a datagram made here."""
    flow, number = struct.unpack_from("!HI", sent, 42)
    return sent[2] << 8 | sent[3], flow, number


class Sender:
    """A TCP with slow start, additive increase, and one halving per round trip: reno, as far as a queue sees it."""

    def __init__(self, flow, origin):
        self.flow, self.origin = flow, origin
        self.window, self.threshold = 10.0, 1e9
        self.numbers = itertools.count()
        self.in_flight = set()
        self.recover = -1

    def send(self):
        fresh = []
        while len(self.in_flight) < int(self.window):
            number = next(self.numbers)
            self.in_flight.add(number)
            fresh.append(datagram(self.flow, number, 1442, origin=self.origin))
        return fresh

    def acknowledged(self, number):
        """Number ``number`` arrived; in order within the flow, so what is older and not here was dropped."""
        self.in_flight.discard(number)
        lost = {older for older in self.in_flight if older < number}
        self.in_flight -= lost
        if lost and max(lost) > self.recover:
            self.recover = max(self.in_flight, default=number)
            self.window = self.threshold = max(self.window / 2, 2.0)
        else:
            self.window += 1 if self.window < self.threshold else 1 / self.window


def run(queue, senders, *, rate, seconds, rtt, ping_origin=1, seed=1, tick=0.001, budget=1442):
    """Have ``senders`` fill ``queue``, drained at ``rate`` bytes/s every ``tick``, with a ping every 10 ms or so.

    Returns the pings' waiting times (seconds, with the wait for the next tick), sorted; the bytes drained after the
    first second, by (origin, flow); and the bytes that waited in each tick after it.
    """
    chosen = random.Random(seed)
    acknowledgements, waits, drained, sizes = [], [], {}, []
    pings = {}
    next_ping = 0.0
    tokens = 0.0
    for step in range(int(seconds / tick)):
        now = step * tick
        while acknowledgements and acknowledgements[0][0] <= now:
            _, index, number = heapq.heappop(acknowledgements)
            senders[index].acknowledged(number)
        arrivals = [(sender, fresh) for sender in senders if (fresh := sender.send())]
        chosen.shuffle(arrivals)
        for _sender, fresh in arrivals:
            queue.push(fresh, budget, now)
        if next_ping <= now:
            pings[len(pings)] = next_ping
            queue.push([datagram(999, len(pings) - 1, 102, origin=ping_origin)], budget, now)
            next_ping += chosen.uniform(0.005, 0.015)
        tokens = min(tokens + rate * tick, max(2 * rate * tick, 3000))
        taken = queue.take(int(tokens), budget, now)
        for sent in taken:
            tokens -= len(sent) + 3
            origin, flow, number = read(sent)
            if flow == 999:
                waits.append(now - pings[number])
            else:
                index = next(i for i, s in enumerate(senders) if (s.origin, s.flow) == (origin, flow))
                heapq.heappush(acknowledgements, (now + rtt, index, number))
            if now >= 1.0:
                drained[origin, flow] = drained.get((origin, flow), 0) + len(sent) + 3
        if now >= 1.0:
            sizes.append(queue.size)
    return sorted(waits), drained, sizes
