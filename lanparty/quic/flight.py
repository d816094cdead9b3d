"""What is in flight on one connection: acknowledgements, losses, round-trip times, delivery rate.

Owns: the record of 1-RTT packets that were sent and not yet acknowledged or given up (RFC 9002), and the samples that
congestion control is fed with. Must not know: aioquic, how packets are made, what they carry, the clock.

Packets are recorded in runs: neighbours in number that left at the same moment with the same size. A batch of 44 full
packets is one run, so an acknowledgement of all of them costs as much as that of one. A run with a ``packet`` is one of
aioquic's own, with control frames in it, and always stands alone::

    runs, oldest first     [100..143] [144] [145..188]          a hole after a loss:  [100..119] [121..143] ...
                            44 x 1472   1    44 x 1472

What happens with an ACK, once for each batch of packets received:

1. ranges against runs: what is newly acknowledged is taken out; runs are split where only a part is.
2. The newest of them gives a round-trip sample, if it is the largest acknowledged (RFC 9002 section 5.1), and a
   delivery rate sample (draft-cheng-iccrg-delivery-rate-estimation-02, section 3).
3. Losses: ``reorder`` packets older than the largest acknowledged, or older than 9/8 round-trip times (section 6.1).
   A datagram that is lost is lost: only aioquic's packets are made again, by their delivery handlers.
   A round trip has the path's part and that of the two programs, which wait for their turn on a busy machine for
   milliseconds. Both ends know theirs (the kernel notes when a packet came), so congestion control sees the path's
   part alone: else a busy processor would look like a full link, and a Python program would throttle itself.
4. An acknowledgement of something given up was reordering: the threshold grows to what was seen, so that jitter on a
   path does not look like loss for long (section 6.1.1 allows it). It shrinks again when that has not happened for a
   while.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import attrs

__all__ = ["AckOutcome", "AckSample", "Flight", "Run"]

_PACKET_THRESHOLD: Final = 3
"""Packets: RFC 9002 section 6.1.1 recommends it to begin with."""

_MAX_REORDER: Final = 4096
"""Packets: half the window in which the receiver tells duplicates from late ones."""

_TIME_THRESHOLD: Final = 9 / 8
"""Round-trip times (RFC 9002 section 6.1.2)."""

_GRANULARITY: Final = 0.001
"""Seconds: the timers' (RFC 9002 section 6.1.2)."""

_REORDER_MEMORY: Final = 10.0
"""Seconds without reordering after which the threshold is the ordinary one again."""

_MIN_RTT_WINDOW: Final = 10.0
"""Seconds for which the smallest round-trip time is believed: long enough for a quiet moment to come by, short enough
for a path that became longer."""

_LOST_KEPT: Final = 256
"""Runs given up that are remembered, to recognise reordering."""

PacketT = TypeVar("PacketT")


class AckSample(NamedTuple):
    """What congestion control learns from one acknowledgement, or from one time-out that only shows losses."""

    now: float
    acked: int
    """Bytes newly acknowledged."""
    lost: int
    """Bytes given up at the same moment."""
    rtt: float | None
    """Seconds that the newest packet and its ACK spent on the path, without the time that the peer says it waited, and
    the time that the ACK lay in our socket; None when there is no sample."""
    delivery_rate: float
    """Bytes per second between the newest packet's departure and now; 0.0 when it cannot be told."""
    app_limited: bool
    """The rate was limited by what there was to send, so the path may carry more."""
    delivered: int
    """Bytes acknowledged since the connection began."""
    prior_delivered: int
    """``delivered`` when the newest packet left: a round trip is over when this passes the value noted at its
    beginning."""
    in_flight: int
    """Bytes still in flight."""
    min_rtt: float
    """Smallest round-trip time of the last ten seconds or so; infinity before the first."""


@attrs.define(eq=False)
class Run(Generic[PacketT]):
    """Neighbouring packets of one size that left together: numbers ``start`` to ``stop - 1``."""

    start: int
    stop: int
    size: int
    """Bytes of UDP payload of each."""
    sent_at: float
    delivered: int
    """Of the flight, when they left; and the times that belong to it."""
    delivered_at: float
    first_sent_at: float
    app_limited: bool
    packet: PacketT | None = None
    """aioquic's own record, if it made the packet."""
    acknowledges: int = -1
    """Largest number that an ACK frame in the last of them named; -1 without one."""
    probe: bool = False
    """A path MTU probe: its loss says something about size, not about congestion (RFC 8899 section 3)."""


@attrs.define
class AckOutcome(Generic[PacketT]):
    """What an acknowledgement, or the passing of time, decided."""

    acked: list[Run[PacketT]] = attrs.field(factory=list)
    """Parts of runs, in ascending order."""
    lost: list[Run[PacketT]] = attrs.field(factory=list)
    rtt: float | None = None
    """Seconds, ack delay not yet taken off; None without a sample."""
    spurious: int = 0
    """Packets given up earlier that arrived after all."""
    persistent: bool = False
    """The losses show persistent congestion (RFC 9002 section 7.6)."""
    sample: AckSample | None = None


class Flight(Generic[PacketT]):
    """Packets of one connection on their way. All times in seconds of one clock, all sizes in bytes."""

    def __init__(self) -> None:
        self.bytes = 0
        """In flight."""
        self.packets = 0
        self.delivered = 0
        self.largest_sent = -1
        self.largest_acked = -1
        self.loss_time: float | None = None
        """When the oldest packet before an acknowledged one will be given up; None when there is none."""
        self.reorder = _PACKET_THRESHOLD
        self.host_delay = 0.0
        """Seconds of a round trip that the two programs take, smoothed: until they have their turn, and read."""
        self._runs: deque[Run[PacketT]] = deque()
        self._lost: deque[tuple[int, int]] = deque(maxlen=_LOST_KEPT)  # ascending, as packets are given up in order
        self._reordered_at = -math.inf
        self._reorder_time = 0.0
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._app_limited_until = 0
        self._min_now = self._min_before = math.inf
        self._min_since = -math.inf

    # -- sending -----------------------------------------------------------------------------------------------------

    def on_sent(
        self,
        start: int,
        count: int,
        size: int,
        now: float,
        *,
        packet: PacketT | None = None,
        acknowledges: int = -1,
        probe: bool = False,
    ) -> None:
        """Record ``count`` ack-eliciting packets of ``size`` bytes with numbers from ``start`` on."""
        if not self.packets:
            # Nothing was out: the rate between then and now is our silence, not the path's (section 2.2 of the draft).
            self._first_sent_at = self._delivered_at = now
        stop = start + count
        self._runs.append(
            Run(
                start,
                stop,
                size,
                now,
                self.delivered,
                self._delivered_at,
                self._first_sent_at,
                self._app_limited_until > self.delivered,
                packet,
                acknowledges,
                probe,
            )
        )
        self.bytes += count * size
        self.packets += count
        if stop > self.largest_sent:
            self.largest_sent = stop - 1

    def note_app_limited(self) -> None:
        """Note that there was nothing more to send: rates are not the path's until what is out now has arrived."""
        self._app_limited_until = self.delivered + max(self.bytes, 1)

    def oldest_packet(self) -> PacketT | None:
        """The oldest of aioquic's own packets in flight."""
        return next((run.packet for run in self._runs if run.packet is not None), None)

    def give_up(self, packet: PacketT) -> None:
        """Take one of aioquic's own packets out, without any verdict about the path (a probe time-out, section 6.2)."""
        for index, run in enumerate(self._runs):
            if run.packet is packet:
                del self._runs[index]
                self.bytes -= run.size
                self.packets -= 1
                return

    def abandon(self, first: int) -> AckOutcome[PacketT]:
        """Give up what left before number ``first``, by a path that is not ours any more.

        No sample comes of it, for it says nothing about the new path.
        """
        outcome: AckOutcome[PacketT] = AckOutcome(lost=[run for run in self._runs if run.start < first])
        for run in outcome.lost:
            self._account(run)
        self._runs = deque(run for run in self._runs if run.start >= first)
        self._lost.clear()
        self.loss_time = None
        return outcome

    def forget_path(self) -> None:
        """Forget round-trip times and reordering: another path has its own (RFC 9000 section 9.4)."""
        self.reorder = _PACKET_THRESHOLD
        self._reorder_time = 0.0
        self._min_now = self._min_before = math.inf
        self._min_since = -math.inf

    @property
    def min_rtt(self) -> float:
        """Seconds; infinity before the first sample."""
        return min(self._min_now, self._min_before)

    # -- acknowledgements --------------------------------------------------------------------------------------------

    def on_ack(
        self,
        ranges: Sequence[tuple[int, int]],
        now: float,
        ack_delay: float,
        srtt: float,
        waited: float = 0.0,
    ) -> AckOutcome[PacketT]:
        """Take an ACK frame: ``ranges`` are (smallest, largest) inclusive, the newest first (RFC 9000 section 19.3).

        ``ack_delay`` is what the peer says it waited, as far as it is believed; ``srtt`` the smoothed round-trip time
        so far, 0.0 before there is one; ``waited`` how long the ACK lay in our socket. Numbers that were never sent are
        the caller's to refuse: see ``largest_sent``.
        """
        outcome: AckOutcome[PacketT] = AckOutcome()
        largest = ranges[0][1]
        if largest > self.largest_acked:
            self.largest_acked = largest
        if self._lost:
            self._recognise_reordering(ranges, outcome, now)
        in_flight = self.bytes
        self._take_acked(ranges, outcome.acked)
        if not outcome.acked:
            return outcome
        acked = in_flight - self.bytes
        newest = outcome.acked[-1]
        self.delivered += acked
        self._delivered_at = now
        path: float | None = None
        if newest.stop - 1 == largest:
            outcome.rtt = rtt = now - newest.sent_at
            path = _path_rtt(rtt, ack_delay + waited)
            self.host_delay += (rtt - path - self.host_delay) / 8
            self._note_rtt(path, now)
            if rtt > srtt:
                srtt = rtt
        self._give_up_lost(outcome, now, srtt)
        outcome.sample = self._sample(outcome, newest, acked, path, now)
        return outcome

    def on_loss_timer(self, now: float, srtt: float) -> AckOutcome[PacketT]:
        """Give up what is older than ``loss_time`` allows."""
        outcome: AckOutcome[PacketT] = AckOutcome()
        self._give_up_lost(outcome, now, srtt)
        if outcome.lost:
            outcome.sample = self._sample(outcome, None, 0, None, now)
        return outcome

    # -- parts -------------------------------------------------------------------------------------------------------

    def _take_acked(self, ranges: Sequence[tuple[int, int]], acked: list[Run[PacketT]]) -> None:
        """Move what ``ranges`` cover from the runs to ``acked``."""
        runs = self._runs
        kept: list[Run[PacketT]] = []
        index = len(ranges) - 1
        first, last = ranges[index]
        while runs:
            run = runs[0]
            while index and last < run.start:
                index -= 1
                first, last = ranges[index]
            if last < run.start:
                break
            runs.popleft()
            if first <= run.start and run.stop <= last + 1:
                acked.append(run)
                self._account(run)
                continue
            if run.stop <= first:
                kept.append(run)
                continue
            # Only a part is covered: cut it off, and look at what follows again.
            if run.start < first:
                kept.append(attrs.evolve(run, stop=first, acknowledges=-1))
                runs.appendleft(attrs.evolve(run, start=first))
            else:
                runs.appendleft(attrs.evolve(run, start=last + 1))
                part = attrs.evolve(run, stop=last + 1, acknowledges=-1)
                acked.append(part)
                self._account(part)
        if kept:
            runs.extendleft(reversed(kept))

    def _account(self, run: Run[PacketT]) -> None:
        """Take a run off what is in flight."""
        count = run.stop - run.start
        self.packets -= count
        self.bytes -= count * run.size

    def _give_up_lost(self, outcome: AckOutcome[PacketT], now: float, rtt: float) -> None:
        """Move what counts as lost from the runs to ``outcome``; set ``loss_time`` for what will (section 6.1)."""
        self.loss_time = None
        runs = self._runs
        if not runs or runs[0].start > self.largest_acked:
            return
        if self._reorder_time or self.reorder != _PACKET_THRESHOLD:
            self._forget_reordering(now)
        delay = max(_TIME_THRESHOLD * rtt, _GRANULARITY) + self._reorder_time
        below = self.largest_acked - self.reorder + 1
        kept: list[Run[PacketT]] = []
        while runs and runs[0].start <= self.largest_acked:
            run = runs.popleft()
            # Summed as ``loss_time`` is: at that very moment, rounding must not put it off.
            due = run.sent_at + delay
            if due <= now or run.stop <= below:
                outcome.lost.append(run)
                continue
            if run.start < below:
                outcome.lost.append(attrs.evolve(run, stop=below, acknowledges=-1))
                run = attrs.evolve(run, start=below)
            kept.append(run)
            if self.loss_time is None or due < self.loss_time:
                self.loss_time = due
        if kept:
            runs.extendleft(reversed(kept))
        for run in outcome.lost:
            self._account(run)
            self._lost.append((run.start, run.stop))
        if len(outcome.lost) > 1:
            outcome.persistent = self._is_persistent(outcome.lost, rtt)

    def _is_persistent(self, lost: Sequence[Run[PacketT]], rtt: float) -> bool:
        """Whether a row of losses without an acknowledgement between them lasted three probe time-outs."""
        if math.isinf(self.min_rtt):
            return False
        duration = 3 * (3 * rtt + 0.025)  # smoothed plus four variances, taken as half of it, and the peer's delay
        begin, previous = lost[0].sent_at, lost[0].stop
        for run in lost[1:]:
            if run.start != previous:
                begin = run.sent_at
            elif run.sent_at - begin > duration:
                return True
            previous = run.stop
        return False

    def _recognise_reordering(
        self, ranges: Sequence[tuple[int, int]], outcome: AckOutcome[PacketT], now: float
    ) -> None:
        """Find what was given up among what is acknowledged, and be more patient from now on."""
        lowest = ranges[-1][0]
        if self._lost[-1][1] <= lowest:
            return
        # The peer says how many ranges there are, and each lost run could lie in any: both are sorted.
        rising = ranges[::-1]
        lasts = [last for _first, last in rising]
        found: set[int] = set()
        oldest = -1
        for start, stop in reversed(self._lost):
            if stop <= lowest:
                break
            index = bisect_left(lasts, start)
            while index < len(rising) and rising[index][0] < stop:
                outcome.spurious += min(stop, lasts[index] + 1) - max(start, rising[index][0])
                found.add(start)
                oldest = start
                index += 1
        if not found:
            return
        still = [run for run in self._lost if run[0] not in found]
        self._lost.clear()
        self._lost.extend(still)
        self._reordered_at = now
        self.reorder = min(max(self.reorder, 5 * (self.largest_acked - oldest + 1) // 4), _MAX_REORDER)
        self._reorder_time = min(max(2 * self._reorder_time, self.min_rtt / 4, _GRANULARITY), 0.05)

    def _forget_reordering(self, now: float) -> None:
        if now - self._reordered_at > _REORDER_MEMORY:
            self.reorder = _PACKET_THRESHOLD
            self._reorder_time = 0.0

    def _note_rtt(self, rtt: float, now: float) -> None:
        """Keep the minimum of the last window and of the present one."""
        if now - self._min_since > _MIN_RTT_WINDOW / 2:
            self._min_before, self._min_now, self._min_since = self._min_now, rtt, now
        elif rtt < self._min_now:
            self._min_now = rtt

    def _sample(
        self, outcome: AckOutcome[PacketT], newest: Run[PacketT] | None, acked: int, rtt: float | None, now: float
    ) -> AckSample:
        rate = 0.0
        limited = True
        prior = self.delivered
        if newest is not None:
            # Not faster than it was sent, not faster than it was acknowledged: ACKs that come in a bunch do not make
            # the path look fast (section 3.3 of the draft).
            interval = now - newest.delivered_at
            sending = newest.sent_at - newest.first_sent_at
            if sending > interval:
                interval = sending
            self._first_sent_at = newest.sent_at
            prior = newest.delivered
            limited = newest.app_limited
            if interval > 0:
                rate = (self.delivered - prior) / interval
        lost = 0
        for run in outcome.lost:
            if not run.probe:
                lost += (run.stop - run.start) * run.size
        return AckSample(now, acked, lost, rtt, rate, limited, self.delivered, prior, self.bytes, self.min_rtt)


def _path_rtt(rtt: float, delay: float) -> float:
    """A round trip without what the two ends spent; where they claim more than there was, the round trip as it is."""
    return rtt - delay if rtt > delay else rtt
