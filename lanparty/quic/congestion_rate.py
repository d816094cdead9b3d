"""``DelayBounded`` where the path's own round trips are known: CRUISE is steered by rate, on each ACK.

Owns: what replaces the window of CRUISE. Must not know: where times come from, and else what ``congestion`` must not.

With the programs' own time taken off the samples (see ``flight``), what is left above the base is a queue on the path,
within a fraction of a millisecond. That is good enough to steer by directly::

    pipe     what the path carries: the delivery rate of epochs in which a queue stood, smoothed
    rate     pipe x (1 + (target - queue) / tau), between 0.3 and 1.25 of it; queue: the smallest of some milliseconds
    window   only a net below it: pipe x (base + four targets)

A queue of q seconds above the target is gone after about tau; none at all lets the rate rise by 15 % at once, and pipe
follows what is delivered. tau is three base round trips at least: a loop that is slower than its delay does not swing.

Start-up, drains, losses and competition are the base class's. It stays in use where the system tells no arrival times
(`new_control`): there the noise of the two programs is in the samples, and a window is the steadier thing.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from lanparty.quic.congestion import (
    BASE_WINDOW,
    MAX_PACING_RATE,
    CongestionControl,
    DelayBounded,
    Phase,
    Reason,
)

if TYPE_CHECKING:
    from lanparty.quic.flight import AckSample

__all__ = ["RateBounded", "new_control"]

_TAU: Final = 0.010
"""Seconds, at least, in which a queue beyond the target is to go: ten steps of the timers."""

_TAU_ROUNDS: Final = 3
"""Base round trips, at least, of the same: less than a third of it passes before an answer is seen."""

_LEAST_GAIN: Final = 0.3
_MOST_GAIN: Final = 1.25
_PROBE_GAIN: Final = 1.1
"""Times pipe: while a long queue drains; at most; and at least while there is no queue at all, on long paths."""

_BUSY: Final = 0.25
"""Times the target: from this queue on the path was never idle, and what it delivered is what it carries."""

_BUSY_ROW: Final = 3
"""Epochs in a row that must have been busy before pipe may fall: on an overloaded machine the kernel's own work waits
for its turn, too, which looks like a queue for one epoch, but not for three."""

_CATCH_UP: Final = 0.004
"""Seconds: as long as its timers are late on a machine with two busy cores. Where they are, so is everything else."""

_MISSED: Final = 0.25
"""Times what was delivered in an epoch: from this on, what the program came too late to send says that the epoch shows
the program's pace and not the path's."""

_LATE_GAIN: Final = 1.1
_LATE_MOST: Final = 4.0
"""Times pipe, for each such epoch without a queue; times the delivered rate at most: a program that has its turn each
15 ms, and then sends a quantum and what is made up for, needs three times the rate that it gets. On a path that is no
faster the burst is a queue, of 20 ms then: more is not risked."""

_RECENT: Final = 0.005
"""Seconds of samples, or a base round trip up to 20 ms, of which the smallest is the queue now: one stall is none."""

_NET: Final = 0.006
"""Seconds of queue, or four targets, that the window lets stand should the rate be wrong."""

_SUSPECT_EPOCHS: Final = 30
"""Epochs in a row with twice the target, 0.3 s at least, while pipe fell to 0.6: somebody else's queue? Not sooner: a
machine that stalls, or our own start-up, must not make us fill the buffer as CUBIC does."""


def new_control(*, arrival_times: bool) -> CongestionControl:
    """The controller for a connection that knows when packets arrived in the kernel, or does not: see the module."""
    return RateBounded() if arrival_times and sys.platform == "linux" else DelayBounded()


_rtt_of: Final = itemgetter(1)


class RateBounded(DelayBounded):
    """See the module. All sizes in bytes, rates in bytes per second, times in seconds."""

    def _reset(self) -> None:
        self._pipe = 0.0
        self._now = -math.inf
        self._recent: deque[tuple[float, float]] = deque(maxlen=48)
        self._over_pipe = 0.0
        self._busy_row = 0
        super()._reset()
        self.catch_up = _CATCH_UP

    def on_ack(self, sample: AckSample) -> None:
        """Take what a batch of ACKs, or a loss timer, showed."""
        self._now = sample.now
        super().on_ack(sample)
        if sample.rtt is not None:
            self._recent.append((sample.now, sample.rtt))
            if self.phase is Phase.CRUISE:
                self._steer()

    def _steer(self) -> None:
        """Set the rate for the queue that stands now."""
        if self._pipe <= 0:
            self._pipe = self.rate
        recent = self._recent
        oldest = self._now - max(_RECENT, min(self.base, 0.020))
        while len(recent) > 3 and recent[0][0] < oldest:
            recent.popleft()
        queue = max(min(recent, key=_rtt_of)[1] - self.base, 0.0) if recent else 0.0
        gain = 1 + (self.target - queue) / max(_TAU, _TAU_ROUNDS * self.base)
        if queue < self.target * _BUSY:
            gain = max(gain, _PROBE_GAIN)
        gain = min(max(gain, _LEAST_GAIN), _MOST_GAIN if self._now >= self._hold_until else 1.0)
        self.pacing_rate = min(max(self._pipe * gain, self._least / 0.5), MAX_PACING_RATE)

    def _aim(self, rate: float) -> None:
        """Two thirds of the base class's target: what is steered on each ACK strays less from it."""
        super()._aim(rate)
        self.target *= 2 / 3

    def _pace(self) -> None:
        if self.phase is Phase.CRUISE and self.base < math.inf:
            self._steer()
        else:
            super()._pace()

    def _fit(self) -> None:
        """Set the window for what the path carries, unless losses have set it."""
        if self._now >= self._hold_until:
            self._set_window(self._pipe * (self.base + max(4 * self.target, _NET)) + 4 * self.datagram_size)

    def _cruise_epoch(self, now: float, rate: float, saturated: bool) -> None:
        if self._judge_losses(now):
            self._pipe = 0.95 * min(self._pipe, rate)
            return
        queue = self._floor - self.base
        busy = queue > self.target * _BUSY
        self._busy_row = self._busy_row + 1 if busy else 0
        if not saturated and not busy:
            self._over = 0
            if now - self._base_at > BASE_WINDOW and self._next_base < math.inf:
                self._refresh_base(self._next_base, now)
            return
        if self._pipe <= 0:
            self._pipe = rate
        if self._busy_row >= _BUSY_ROW:
            # What there was to send is less than what the path carries, whatever waits there.
            if rate > self._pipe or not self._short_of_data():
                self._pipe += (rate - self._pipe) * (0.5 if queue > 3 * self.target else 0.25)
        elif rate > self._pipe:
            self._pipe += (rate - self._pipe) * 0.5
        elif not busy and self.missed - self._missed_before > _MISSED * self._acked:
            # No queue, and yet less than was allowed: this program came too late to send it, so the path may have more.
            self._pipe = max(self._pipe, min(self._pipe * _LATE_GAIN, _LATE_MOST * self.rate))
        if self._is_rival(queue):
            self._begin_drain(now, rate, Reason.SUSPECT)
        elif not self._over and now - self._base_at > BASE_WINDOW:
            self._begin_drain(now, rate, Reason.BASE)
        else:
            self._fit()

    def _is_rival(self, queue: float) -> bool:
        """Whether a queue has stood for so long, while we sent ever less, that it may not be ours."""
        if queue <= 2 * self.target:
            self._over = 0
            return False
        if not self._over:
            self._over_window, self._over_pipe = float(self.window), self._pipe
        self._over += 1
        return self._over >= _SUSPECT_EPOCHS and self._pipe <= 0.6 * self._over_pipe

    def _leave_startup(self, now: float, rate: float, floor: float) -> None:
        super()._leave_startup(now, rate, floor)
        self._pipe = self.rate

    def _end_drain(self, now: float) -> None:
        if self._drain_reason is Reason.START:
            self._drain_reason = Reason.BASE  # what start-up left is ours; a rival shows itself in time
        super()._end_drain(now)
        if self.phase is Phase.CRUISE:
            if self._pipe > 0:
                self._fit()
            self._steer()
