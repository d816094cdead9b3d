"""Who sends and who acknowledges. ``Sender`` is the small seam: the real engine can take ``PacketSender``'s place.

``PacketSender`` is a sender of numbered packets over lanparty's own ``Flight`` (RFC 9002 losses, delivery rates) and
``Pacer``, with timers of 1 ms. It retransmits nothing: DATAGRAMs, and for a TCP competitor only the share of the link
matters. ``Receiver`` acknowledges every second packet, a batch at once, else after 5 ms.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs

from lanparty.quic.congestion import CongestionControl
from lanparty.quic.flight import AckOutcome, Flight
from lanparty.quic.pacer import Pacer
from sim.link import Sized
from sim.loop import Loop

TICK = 0.001
"""Seconds: the resolution of timers."""

MAX_ACK_DELAY = 0.005
_RANGES = 32
BIN = 0.1
"""Seconds of one bin of what arrived."""


@attrs.define(eq=False)
class Packet:
    """One packet under way."""

    flow: PacketSender
    number: int
    size: int
    ping_at: float = -1.0
    """When the inner ping that this packet carries was born; -1 without one."""


@attrs.frozen
class Ack:
    """What the receiver says: ranges (smallest, largest), the newest first."""

    flow: PacketSender
    ranges: tuple[tuple[int, int], ...]
    delay: float
    size: int = 60


class Sender(Protocol):
    """What a scenario needs of a sender, packet-level or real."""

    delivered: int
    sent: int

    def start(self) -> None:
        """Begin."""

    def ping(self) -> None:
        """Have the next packet carry a ping."""


class Source(Protocol):
    """What there is to send."""

    def available(self, now: float) -> int:
        """Bytes that could be sent now."""

    def take(self, size: int) -> None:
        """They were sent."""

    def next_at(self, now: float) -> float:
        """When there will be more, if there is nothing now; infinity for never."""


class Saturated:
    """Always something to send from ``begin`` until ``end``."""

    def __init__(self, begin: float = 0.0, end: float = math.inf) -> None:
        self.begin = begin
        self.end = end

    def available(self, now: float) -> int:
        return 1 << 40 if self.begin <= now < self.end else 0

    def take(self, size: int) -> None:
        pass

    def next_at(self, now: float) -> float:
        return self.begin if now < self.begin else math.inf


class GameThenBulk:
    """``rate`` packets per second of ``size`` bytes, beside it a bulk transfer from ``bulk`` on, until ``end``."""

    def __init__(self, bulk: float, end: float = math.inf, rate: float = 30.0, size: int = 200) -> None:
        self.bulk, self.end, self.rate, self.size = bulk, end, rate, size
        self._taken = 0

    def _bulk(self, now: float) -> bool:
        return self.bulk <= now < self.end

    def available(self, now: float) -> int:
        if self._bulk(now):
            return 1 << 40
        return max(0, (int(now * self.rate) - self._taken)) * self.size

    def take(self, size: int) -> None:
        self._taken += 1

    def next_at(self, now: float) -> float:
        self._taken = max(self._taken, int(now * self.rate))
        regular = (self._taken + 1) / self.rate
        return min(regular, self.bulk) if now < self.bulk else regular


class PacketSender:
    """See the module."""

    def __init__(
        self,
        loop: Loop,
        control: CongestionControl,
        transmit: Callable[[Sized], None],
        source: Source | None = None,
        size: int = 1472,
        name: str = "",
    ) -> None:
        self.control = control
        control.datagram_size = size
        self.name = name
        self.delivered = 0
        """Bytes that arrived at the receiver."""
        self.sent = 0
        self.lost = 0
        self.bins: dict[int, int] = {}
        self.pings: list[tuple[float, float]] = []
        """(when born, seconds until it had left the bottleneck)."""
        self.receiver = Receiver(loop, self)
        self.rtts: list[tuple[float, float]] = []
        self._loop = loop
        self._transmit = transmit
        self._source = source or Saturated()
        self._size = size
        self._flight: Flight[None] = Flight()
        # These links do not reorder: nothing to recognise, and looking for it costs more than all else here.
        self._flight._lost = deque(maxlen=0)
        self._pacer = Pacer()
        self._next = 0
        self._srtt = self._var = 0.0
        self._backoff = 0
        self._pto_from = 0.0
        self._timer = math.inf
        self._wake = math.inf
        self._ping_at = -1.0

    def start(self) -> None:
        """Begin now."""
        self._send()

    def ping(self) -> None:
        """Have the next packet carry a ping that is born now."""
        if self._ping_at < 0:
            self._ping_at = self._loop.now
            self._send()

    # -- sending -----------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        now = self._loop.now
        control, flight, source = self.control, self._flight, self._source
        sent = 0
        while True:
            available = source.available(now)
            if available <= 0 and self._ping_at >= 0 and source.next_at(now) < math.inf:
                available = 100
            if available <= 0:
                flight.note_app_limited()
                self._wake_at(source.next_at(now))
                break
            room = control.window - flight.bytes
            if room <= 0:
                break
            if self._pacer.allowance(now, control.pacing_rate, control.catch_up) <= 0:
                # Timers come at whole ticks, never early.
                self._wake_at(math.ceil(self._pacer.ready_at() / TICK) * TICK)
                break
            size = min(self._size, available)
            self._emit(size, now)
            self._pacer.on_sent(size)
            source.take(size)
            sent += size
        if sent:
            control.on_sent(now, sent, flight.bytes)
        self._arm()

    def _emit(self, size: int, now: float) -> None:
        packet = Packet(self, self._next, size, self._ping_at)
        self._ping_at = -1.0
        if not self._flight.packets:
            self._pto_from = now
        self._flight.on_sent(self._next, 1, size, now)
        self._next += 1
        self.sent += size
        self._transmit(packet)

    def _wake_at(self, when: float) -> None:
        if when < self._wake and when < math.inf:
            self._wake = when

            def wake() -> None:
                if self._wake == when:
                    self._wake = math.inf
                    self._send()

            self._loop.at(when, wake)

    # -- acknowledgements --------------------------------------------------------------------------------------------

    def on_ack(self, ack: Ack) -> None:
        """Take an ACK, then send what it lets out."""
        now = self._loop.now
        outcome = self._flight.on_ack(ack.ranges, now, ack.delay, self._srtt)
        if outcome.acked:
            self._backoff = 0
            self._pto_from = now
        if outcome.sample is not None and outcome.sample.rtt is not None:
            rtt = outcome.sample.rtt
            self.rtts.append((now, rtt))
            if not self._srtt:
                self._srtt, self._var = rtt, rtt / 2
            else:
                self._var += (abs(self._srtt - rtt) - self._var) / 4
                self._srtt += (rtt - self._srtt) / 8
        self._decided(outcome)

    def _decided(self, outcome: AckOutcome[None]) -> None:
        if outcome.sample is not None:
            self.lost += outcome.sample.lost
            self.control.on_ack(outcome.sample)
        if outcome.persistent:
            self.control.on_persistent_congestion(self._loop.now)
        self._send()

    def _arm(self) -> None:
        due = self._flight.loss_time
        if due is None:
            due = math.inf
            if self._flight.packets:
                wait = self._srtt + max(4 * self._var, TICK) + MAX_ACK_DELAY if self._srtt else 0.2
                due = self._pto_from + wait * 2**self._backoff
        if due == self._timer or due == math.inf:
            self._timer = due
            return
        self._timer = due

        def fire() -> None:
            if self._timer == due:
                self._timer = math.inf
                self._timeout()

        # The next whole tick: never early, also not by a rounding error, which would fire for ever.
        self._loop.at((math.floor(due / TICK) + 1) * TICK, fire)

    def _timeout(self) -> None:
        now = self._loop.now
        if self._flight.loss_time is not None:
            self._decided(self._flight.on_loss_timer(now, self._srtt))
            return
        self._backoff += 1
        for _ in range(2):
            self._emit(self._size, now)
        self._arm()


class Receiver:
    """Acknowledges: at once for two or more packets that wait, else after ``MAX_ACK_DELAY``."""

    def __init__(self, loop: Loop, flow: PacketSender) -> None:
        self.acknowledge: Callable[[Ack], None] = flow.on_ack
        self._loop = loop
        self._flow = flow
        self._ranges: list[list[int]] = []
        self._unacknowledged = 0
        self._newest_at = 0.0
        self._due = math.inf

    def receive(self, packets: list[Packet]) -> None:
        """Take the packets that were read together."""
        now = self._loop.now
        flow = self._flow
        largest = self._ranges[-1][1] if self._ranges else -1
        for packet in packets:
            flow.delivered += packet.size
            slot = int(now / BIN)
            flow.bins[slot] = flow.bins.get(slot, 0) + packet.size
            self._note(packet.number)
        if self._ranges[-1][1] > largest:
            self._newest_at = now
        self._unacknowledged += len(packets)
        if self._unacknowledged >= 2:
            self._acknowledge()
        elif self._due == math.inf:
            due = self._due = now + MAX_ACK_DELAY

            def late() -> None:
                if self._due == due:
                    self._acknowledge()

            self._loop.at(due, late)

    def _note(self, number: int) -> None:
        ranges = self._ranges
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        elif not ranges or number > ranges[-1][1]:
            ranges.append([number, number])
            if len(ranges) > _RANGES:
                del ranges[0]
        else:
            self._note_late(number)

    def _note_late(self, number: int) -> None:
        ranges = self._ranges
        ranges.append([number, number])
        ranges.sort()
        merged = [ranges[0]]
        for first, last in ranges[1:]:
            if first <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], last)
            else:
                merged.append([first, last])
        self._ranges = merged[-_RANGES:]

    def _acknowledge(self) -> None:
        self._due = math.inf
        self._unacknowledged = 0
        ranges = tuple((first, last) for first, last in reversed(self._ranges))
        self.acknowledge(Ack(self._flow, ranges, self._loop.now - self._newest_at))
