"""Congestion control that keeps the queue in our hands: the window follows the standing delay, not the loss.

Owns: how many bytes may be in flight and how fast they may leave. Must not know: packets, timers, who sends; the clock
(times come with the samples). ``docs/congestion.md`` has the argument and the measurements.

One decision per epoch, which is one round trip, at least ``_EPOCH``, and a handful of samples. The smallest round trip
of an epoch (``floor``) minus the smallest of the last ten seconds (``base``) is the standing queue; noise of schedulers
and radio only ever adds, so a minimum is blind to it. The queue is held at ``target``, a few milliseconds::

    STARTUP    double per round            -> CRUISE   standing queue, rate stands still, or heavy loss
    CRUISE     queue > target: shrink in proportion; below: grow, faster each epoch while there is no queue
                                           -> DRAIN    the base is old, or shrinking did not shorten the queue
    DRAIN      half a path's worth in flight for a round: what is left is the base, or somebody else's queue
                                           -> CRUISE   the queue was ours
                                           -> COMPETE  it was not: holding back does not help
    COMPETE    as CUBIC (RFC 9438)         -> DRAIN    every few seconds: is it still so?
                                           -> CRUISE   the queue is gone

Losses lower the window only when they are many over hundreds of packets: a buffer shorter than our target, or a
policer. The window then stays just below for a while, and what is still lost there is learnt as the path's own noise.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from lanparty.quic.congestion_cubic import CubicCurve

if TYPE_CHECKING:
    from lanparty.quic.flight import AckSample

__all__ = ["BASE_WINDOW", "MAX_PACING_RATE", "MAX_WINDOW", "CongestionControl", "DelayBounded", "Phase", "Reason"]

MAX_WINDOW: Final = 32 * 1024 * 1024
"""Bytes: 2.5 times 500 Mbit/s x 200 ms. Whoever acknowledges what it never got can make us send no more than this."""

MAX_PACING_RATE: Final = 1.25e9
"""Bytes per second (10 Gbit/s): more than this program can send; keeps arithmetic finite."""

_MIN_RTT: Final = 20e-6
"""Seconds. No smaller round trip is believed: loopback has 40 us, and we divide by it."""

_MAX_RTT: Final = 10.0
"""Seconds. No longer round trip is believed: the connection would have timed out."""

_MIN_PACKETS: Final = 2
"""Packets always allowed in flight (RFC 9002 section 7.2): what the receiver acknowledges at once."""

_INITIAL_PACKETS: Final = 10
"""Packets (RFC 9002 section 7.2)."""

_EPOCH: Final = 0.010
"""Seconds an epoch takes at least: several scheduler slices, so that one stall is not taken for a queue."""

_SAMPLES: Final = 6
"""Round-trip samples an epoch wants: the smallest of six with jitter J lies about J/7 above the base."""

_MAX_ROUNDS: Final = 3
"""Round trips after which an epoch ends, however few samples it has."""

_TARGET: Final = 0.0015
"""Seconds of standing queue on a quiet path. With bursts of 2-3 packets on top (1-2 ms at 20 Mbit/s) and 1 ms of timer
a ping stays below +6 ms, with something left for the processes on the way."""

_TARGET_SHARE: Final = 1 / 20
"""Of the base: on long paths the control loop is slow, and 10 ms on 200 ms are not felt."""

_TARGET_PACKETS: Final = 2
"""Packets of ours that may wait in any case: below that a slow link runs dry between two ACKs."""

_MAX_NOISE: Final = 0.006
"""Seconds that the target may rise to where floors are noisy, as on radio: see ``_note_noise``. A window that shrinks
at noise starves: a path of 20 ms with 10 ms of jitter was used to 12 % without this. Noise within an epoch (schedulers)
does not count: the floor is blind to it, and a target that follows it makes the queue that makes the noise."""

_NOISE_GAIN: Final = 3.0
"""Times the distance between neighbouring floors: they are alike, their mean lies farther above the base than that."""

_LEARNING: Final = 24
"""Epochs until the usual rate is one to remember."""

_NOISE_COST: Final = 0.95
"""Share of the best rate of the last seconds below which noise is taken for what keeps us from it."""

_PROBE_LENGTH: Final = 0.4
"""Seconds, and eight base round trips, for which noise may raise the target to see whether that brings more."""

_PROBE_GAP: Final = 30.0
"""Seconds between two such looks at the most, doubled after each that brought nothing: 1-2 % of the time, so that a
ping's 99th percentile hardly sees them."""

_PROBE_GAIN: Final = 1.05
"""Times the best rate that counts as more."""

_NOISE_STEP: Final = 0.0015
"""Seconds of noise for each further epoch that must agree: up to five of 34 ms at the most noise."""

_CAPACITY_WINDOW: Final = 5.0
"""Seconds of a generation of the filter that sizes the target's packets and our part beside a rival."""

BASE_WINDOW: Final = 10.0
"""Seconds for which a base is believed in CRUISE (as BBR does)."""

_COMPETE_BASE_WINDOW: Final = 40.0
"""Seconds in COMPETE, where drains cannot show the true base."""

_RIVAL_QUEUE: Final = 0.010
"""Seconds of somebody else's queue, and four targets, from which on we compete. Below that a flow of our own kind may
be behind it, and two such flows must not drive each other up."""

_LONG_QUEUE: Final = 0.040
"""Seconds of somebody else's queue that we compete with in any case, however few packets that is."""

_OWN_SHARE: Final = 0.15
"""Of the queue before a drain: what may be left of it if it was ours alone."""

_SAME_BASE: Final = 0.03
"""Two drains in a row that end within this share (or a millisecond) of each other have seen the path's new length, not
a rival: CUBIC's queue moves."""

_SOMEBODY_LEFT: Final = 0.65
"""Times the queue of the epoch before: below that somebody went, perhaps to look as we do. Flows of our own kind that
drove each other up come down together, because one that looks makes the others look too."""

_SUSPICION: Final = 0.25
"""Seconds that a queue must stand before we ask whose it is: somebody's start-up is over by then."""

_TRUST: Final = 0.5
"""Seconds after a drain that found no rival before we ask again."""

_COMPETE_CHECK: Final = 4.0
_COMPETE_CHECK_ROUNDS: Final = 20
"""Seconds, and round trips, between two drains in COMPETE: a drain takes two round trips, and costs as much sending."""

_DRAIN_LIMIT: Final = 0.5
"""Seconds after which a drain ends, plus two round trips: nobody may hold us down by acknowledging nothing."""

_PACING_GAIN: Final = 1.2
"""Times the best recent rate: pacing cuts bursts, the window is what limits."""

_STARTUP_PACING: Final = 2.0
"""Times window / round trip, so that a doubling window can leave within its round."""

_STARTUP_RUN: Final = 6
"""Samples in a row above the target that end STARTUP within a round (HyStart++, RFC 9406, wants eight per round)."""

_LOSS_PACKETS: Final = 200
"""Packets over which losses are judged: with 2 % random loss a false alarm at 6 % is one in a thousand."""

_LOSS_FLOOR: Final = 0.02
_LOSS_CEILING: Final = 0.07
"""Share of packets lost that counts as congestion: on a clean path, and on one that loses some at any rate."""

_HEAVY_LOSS: Final = 0.2
"""Share of packets lost that counts at once, if it is ``_HEAVY_PACKETS`` or more."""

_HEAVY_PACKETS: Final = 8

_LOSS_CUT: Final = 0.85
"""Times the window at the least: it loses the share that was lost too much, but not more than this at a time."""

_BLIND: Final = 2
"""Epochs, of a round trip or more, after a cut in which losses are the larger window's."""

_HOLD: Final = 1.0
"""Seconds, and ten epochs, below a window that made losses, before it is tried again."""


class CongestionControl(Protocol):
    """What a connection asks before it sends."""

    window: int
    """Bytes that may be in flight."""
    pacing_rate: float
    """Bytes per second; infinity is unpaced."""
    datagram_size: int
    """Bytes of UDP payload that a packet has now; the owner sets it when path MTU discovery found another."""

    catch_up: float
    """Seconds of a late wake-up that may be made up for at once: a burst, and a queue of that length if the path is no
    faster."""
    missed: float
    """Bytes so far that the pacing rate would have let out, had this program come in time; the owner sets it."""

    @property
    def rate(self) -> float:
        """Bytes per second delivered at best in the recent past; 0.0 before anything was."""

    def on_sent(self, now: float, size: int, in_flight: int) -> None:
        """Note ``size`` bytes sent in a batch, and ``in_flight`` bytes after it."""

    def on_ack(self, sample: AckSample) -> None:
        """Take what a batch of ACKs, or a loss timer, showed."""

    def on_persistent_congestion(self, now: float) -> None:
        """Begin again from the smallest window (RFC 9002 section 7.6)."""

    def on_path_change(self, now: float) -> None:
        """Forget what was known of the path (RFC 9000 section 9.4)."""


class Phase(enum.Enum):
    """What the controller is doing; the module's docstring has the transitions."""

    STARTUP = enum.auto()
    CRUISE = enum.auto()
    DRAIN = enum.auto()
    COMPETE = enum.auto()


class Reason(enum.Enum):
    """Why a drain began, which says what its outcome means."""

    START = enum.auto()
    """STARTUP left a queue, and whoever was here before us has just made room: a good moment to see the base."""
    BASE = enum.auto()
    """The base is old."""
    SUSPECT = enum.auto()
    """CRUISE shrank and the queue stayed."""
    CHECK = enum.auto()
    """COMPETE, for some seconds: is the rival still there?"""


class DelayBounded:
    """See the module. All sizes in bytes, rates in bytes per second, times in seconds."""

    def __init__(self, *, datagram_size: int = 1200) -> None:
        self.datagram_size = datagram_size
        self.window = 0
        self.pacing_rate = math.inf
        self.catch_up = 0.0  # the delays of the program are in our samples already: more of them would only add noise
        self.missed = 0.0
        self._reset()

    def _reset(self) -> None:
        self.phase = Phase.STARTUP
        self.window = _INITIAL_PACKETS * self.datagram_size
        self.pacing_rate = math.inf  # until the first round-trip sample; the window is ten packets
        self.base = math.inf
        """Smallest round trip, without queue as far as known."""
        self._base_at = -math.inf
        self._next_base = math.inf
        self._noise = 0.0
        self._floor_before = 0.0
        self._window_before = 0
        self._usual_rate = 0.0
        self._epochs = 0
        self._probe_at = -math.inf
        self._probe_until = math.inf
        self._probe_gap = _PROBE_LENGTH
        self._probe_rate = 0.0
        self._floors: deque[float] = deque(maxlen=5)
        self.target = _TARGET
        """Standing queue that is aimed at."""
        self._rate_now = self._rate_before = 0.0
        self._rate_since = -math.inf
        self._best_now = self._best_before = 0.0
        self._best_since = -math.inf
        self._step = 1.0
        self._ceiling = math.inf
        self._hold_until = -math.inf
        self._loss_noise = 0.0
        self._judged = self._judged_lost = self._judged_events = self._blind = 0
        self._over = 0
        self._over_window = self._over_floor = self._over_at = 0.0
        self._suspect_at = -math.inf
        self._cut_from = 0.0
        self._stalled = 0
        self._best_rate = 0.0
        self._run = 0
        self._run_floor = math.inf
        self._drain_target = self._drain_return = 0
        self._drain_floor = math.inf
        self._drain_before = 0.0
        self._drain_began = self._drain_low_at = math.inf
        self._drain_round = 0
        self._drain_reason = Reason.START
        self._residue = math.inf
        self._compete_check = self._compete_late = math.inf
        self._floor_last = 0.0
        self._cubic = CubicCurve()
        self._cubic_round = 0
        self._queue_now = self._queue_before = 0.0
        self._round_end = 0
        self._epoch_at = -math.inf
        self._begin_epoch(-math.inf, 0)

    def _begin_epoch(self, now: float, delivered: int) -> None:
        self._epoch_at = now
        self._epoch_delivered = delivered
        self._epoch_window = self.window
        self._epoch_rounds = 0
        self._floor = math.inf
        self._top = 0.0
        self._sum = 0.0
        self._count = 0
        self._acked = self._idle = self._lost = self._loss_events = 0
        self._peak = 0
        self._missed_before = self.missed

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Best delivery rate of the recent epochs; 0.0 before the first."""
        return max(self._rate_now, self._rate_before)

    @property
    def capacity(self) -> float:
        """Best usual rate of the last five to ten seconds: what a rival cannot make us forget so soon."""
        return max(self._best_now, self._best_before)

    @property
    def _least(self) -> int:
        return _MIN_PACKETS * self.datagram_size

    def on_sent(self, now: float, size: int, in_flight: int) -> None:
        """Note ``size`` bytes sent in a batch, and ``in_flight`` bytes after it."""
        if in_flight > self._peak:
            self._peak = in_flight

    def on_ack(self, sample: AckSample) -> None:
        """Take what a batch of ACKs, or a loss timer, showed."""
        now = sample.now
        acked = sample.acked
        if self._epoch_at == -math.inf:
            self._begin_epoch(now, sample.delivered - acked)
            self._round_end = sample.delivered
        rtt = sample.rtt
        if rtt is not None:
            rtt = self._note_rtt(rtt, now)
        if sample.lost:
            self._lost += sample.lost
            self._loss_events += 1
        if acked:
            self._acked += acked
            if sample.app_limited:
                self._idle += acked
        phase = self.phase
        if phase is Phase.CRUISE:
            pass  # decides at the end of an epoch
        elif phase is Phase.STARTUP:
            self._startup_ack(sample, rtt)
        elif phase is Phase.DRAIN:
            self._drain_ack(sample, rtt)
        else:
            self._compete_ack(sample, rtt)
        if acked and sample.prior_delivered >= self._round_end:
            self._round_end = sample.delivered
            self._epoch_rounds += 1
        if (
            self._epoch_rounds
            and now - self._epoch_at >= _EPOCH + 4 * self._noise
            and (self._count >= _SAMPLES or self._epoch_rounds >= _MAX_ROUNDS)
        ):
            self._end_epoch(now, sample.delivered)

    def on_persistent_congestion(self, now: float) -> None:
        """Begin again from the smallest window (RFC 9002 section 7.6). What is known of the path's length is kept."""
        base, base_at = self.base, self._base_at
        self._reset()
        self.base, self._base_at = base, base_at
        self._set_window(self._least)
        self._pace()

    def on_path_change(self, now: float) -> None:
        """Forget what was known of the path (RFC 9000 section 9.4)."""
        self._reset()

    # -- model -------------------------------------------------------------------------------------------------------

    def _note_rtt(self, rtt: float, now: float) -> float:
        """Take a sample into the epoch and the base; return it as far as it is believed."""
        if not rtt > _MIN_RTT:
            rtt = _MIN_RTT
        elif rtt > _MAX_RTT:
            rtt = _MAX_RTT
        if rtt < self._floor:
            self._floor = rtt
        if rtt > self._top:
            self._top = rtt
        self._sum += rtt
        self._count += 1
        base = self.base
        if rtt <= base * 1.02 + 0.0001:
            # Near enough: the base is still what it was. It only ever falls here; see ``_refresh_base``.
            self._base_at = now
            self._next_base = math.inf
            if rtt < base:
                self.base = rtt
                if base == math.inf:
                    self._aim(0.0)
                    self._pace()
        elif rtt < self._next_base:
            self._next_base = rtt
        return rtt

    def _aim(self, rate: float) -> None:
        """Set the target: see the constants."""
        target = max(_TARGET, min(self.base * _TARGET_SHARE, 0.010), self._allowance())
        if rate > 0:
            target = max(target, min(_TARGET_PACKETS * self.datagram_size / rate, 0.1))
        self.target = target

    def _set_window(self, window: float) -> None:
        least = _MIN_PACKETS * self.datagram_size
        self.window = least if not window > least else MAX_WINDOW if window > MAX_WINDOW else int(window)

    def _pace(self) -> None:
        if self.base == math.inf:
            return
        rate = _PACING_GAIN * self.rate
        if self.phase is Phase.STARTUP or rate <= 0:
            rate = max(rate, _STARTUP_PACING * self.window / self.base)
        elif self.phase is Phase.COMPETE and self._floor < math.inf:
            rate = max(rate, _PACING_GAIN * self.window / self._floor)
        self.pacing_rate = min(max(rate, self._least / 0.5), MAX_PACING_RATE)

    def _saturated(self) -> bool:
        """Whether the epoch shows what the path carries, not what there was to send."""
        return self._idle * 2 <= self._acked or self._peak + 2 * self.datagram_size >= self._epoch_window

    def _short_of_data(self) -> bool:
        """Whether most of the epoch was limited by what there was to send, though it may have filled a small window."""
        return self._idle * 2 > self._acked

    def _allowance(self) -> float:
        """Seconds that noise may add: nothing while the rate is the best we know, for then it costs nothing."""
        probing = self._probe_until < math.inf
        return self._noise if probing or self._usual_rate < _NOISE_COST * self.capacity else 0.0

    def _probe_beyond_noise(self, now: float) -> None:
        """Where it is noisy, the best rate we know may be what noise left us: look, more rarely if there is no more."""
        if self._probe_until < math.inf:
            if now >= self._probe_until:
                more = self.capacity > _PROBE_GAIN * self._probe_rate
                self._probe_gap = _PROBE_LENGTH if more else min(2 * self._probe_gap, _PROBE_GAP)
                self._probe_at, self._probe_until = now + self._probe_gap, math.inf
        elif self._noise > _TARGET and now >= self._probe_at and self._epochs >= _LEARNING:
            self._probe_until, self._probe_rate = now + _PROBE_LENGTH + 8 * self.base, self.capacity

    def _note_noise(self) -> None:
        """How far floors lie apart, beyond what our own steps and the grain of a packet explain."""
        apart = self._floor - self._floor_before
        rate = self.capacity
        if rate <= 0:
            return
        caused = (self._epoch_window - self._window_before) / rate
        noise = max(min(abs(apart), abs(apart - caused)) - self.datagram_size / rate, 0.0)
        more = min(_NOISE_GAIN * noise, _MAX_NOISE) - self._noise
        self._noise += more / 6 if more > 0 else more / 12

    def _note_rate(self, rate: float, now: float, saturated: bool) -> None:
        """Keep the best rate of this generation of epochs and of the one before; silence does not age it."""
        if not saturated and rate <= self.rate:
            return
        # ACKs that were held up come in a bunch and make one epoch look fast: what several agree on is remembered.
        # A token bucket's burst makes the first ones look fast: they are not.
        self._epochs += 1
        usual = self._usual_rate = self._usual_rate + (rate - self._usual_rate) / min(self._epochs, 8)
        if self._epochs < _LEARNING:
            self._best_now, self._best_since = usual, now
        elif now - self._best_since > _CAPACITY_WINDOW:
            self._best_before, self._best_now, self._best_since = self._best_now, usual, now
        elif usual > self._best_now:
            self._best_now = usual
        if now - self._rate_since > max(0.3, 8 * self.base):
            self._rate_before, self._rate_now, self._rate_since = self._rate_now, rate, now
        elif rate > self._rate_now:
            self._rate_now = rate

    # -- epochs ------------------------------------------------------------------------------------------------------

    def _end_epoch(self, now: float, delivered: int) -> None:
        rate = min((delivered - self._epoch_delivered) / (now - self._epoch_at), MAX_PACING_RATE)
        saturated = self._saturated()
        self._note_rate(rate, now, saturated)
        if self._count and self.base < math.inf:
            if saturated and self._count >= _SAMPLES and self.phase is Phase.CRUISE:
                self._note_noise()
            self._floor_before = self._floor
            self._window_before = self._epoch_window
            if not self._over:
                # While somebody else's queue squeezes us our rate says nothing about the path.
                self._aim(self.capacity)
            if self.phase is Phase.STARTUP:
                self._startup_epoch(now, rate, saturated)
            elif self.phase is Phase.CRUISE:
                self._cruise_epoch(now, rate, saturated)
            elif self.phase is Phase.COMPETE:
                self._compete_epoch(now, rate, saturated)
        self._pace()
        self._begin_epoch(now, delivered)

    # -- startup -----------------------------------------------------------------------------------------------------

    def _startup_ack(self, sample: AckSample, rtt: float | None) -> None:
        """Grow with each ACK, to at most twice per epoch; leave when several round trips in a row show a queue."""
        if rtt is not None:
            if not sample.app_limited and rtt > self.base + max(self.target, min(self.base / 8, 0.016)):
                self._run += 1
                self._run_floor = min(self._run_floor, rtt)
                if self._run >= _STARTUP_RUN:
                    self._leave_startup(sample.now, sample.delivery_rate, self._run_floor)
                    return
            else:
                self._run = 0
                self._run_floor = math.inf
        heavy = self._lost > _HEAVY_LOSS * (self._acked + self._lost)
        if heavy and self._loss_events > 1 and self._lost > _HEAVY_PACKETS * self.datagram_size:
            self._hold(sample.now)
            self._leave_startup(sample.now, sample.delivery_rate, max(rtt or 0.0, self.base))
            return
        if sample.acked and sample.in_flight + sample.acked >= self.window // 2:
            self._set_window(min(self.window + sample.acked, 2 * self._epoch_window))
            if self.base < math.inf:
                self.pacing_rate = min(_STARTUP_PACING * self.window / self.base, MAX_PACING_RATE)

    def _startup_epoch(self, now: float, rate: float, saturated: bool) -> None:
        queue = self._floor > self.base + max(self.target, min(self.base / 8, 0.016))
        if queue and saturated and not self._short_of_data():
            self._leave_startup(now, rate, self._floor)
            return
        if not saturated:
            return
        if rate > 1.25 * self._best_rate:
            self._best_rate = rate
            self._stalled = 0
            return
        self._stalled += 1
        if self._stalled >= 3:
            self._leave_startup(now, rate, self._floor)

    def _leave_startup(self, now: float, rate: float, floor: float) -> None:
        """To what the path carries with the target's queue: by its rate if there is one, else by the delays' ratio."""
        rate = min(max(self.rate, rate), MAX_PACING_RATE)
        wanted = self.base + self.target
        self._set_window(min(rate * wanted if rate > 0 else self.window * wanted / floor, self.window))
        if self._rate_now <= 0:
            self._rate_now = min(rate, MAX_PACING_RATE)
        self._cut_from = 0.0
        self._begin_drain(now, rate, Reason.START)
        self._pace()

    # -- cruise ------------------------------------------------------------------------------------------------------

    def _cruise_epoch(self, now: float, rate: float, saturated: bool) -> None:
        if self._judge_losses(now):
            return
        if not saturated:
            self._over = 0
            self._step = 1.0
            if now - self._base_at > BASE_WINDOW and self._next_base < math.inf:
                self._refresh_base(self._next_base, now)
            return
        self._probe_beyond_noise(now)
        # Where it is noisy, what stands is what several epochs in a row agree on (as CoDel's 100 ms).
        self._floors.append(self._floor)
        recent = min(1 + int(self._allowance() / _NOISE_STEP), len(self._floors))
        queue = min(self._floors[-index] for index in range(1, recent + 1)) - self.base
        if queue > self.target:
            self._shrink(queue, now, rate)
        else:
            self._grow(queue, now)
        if not self._over and now - self._base_at > BASE_WINDOW:
            self._begin_drain(now, rate, Reason.BASE)

    def _shrink(self, queue: float, now: float, rate: float) -> None:
        """Take off what waits beyond the target. One epoch alone may be a stall of the machine: not below 0.7."""
        self._step = 1.0
        if not self._over:
            self._over_window, self._over_floor, self._over_at = float(self.window), self._floor, now
        self._over += 1
        least = 0.7 if self._over == 1 else 0.3
        factor = max(1 - (queue - self.target) / self._floor, least)
        window = self.window
        # Not below what our own rate needs, and two packets that wait: there a slow link runs dry.
        needed = window * self.base / self._floor + _TARGET_PACKETS * self.datagram_size
        wanted = max(window * factor, min(needed, window + self.datagram_size))
        self._cut_from = float(window)
        at_end = window <= self._least or wanted > window - self.datagram_size / 2
        if self._over >= 4 and (at_end or window <= 0.6 * self._over_window):
            stayed = self._floor >= 0.75 * self._over_floor
            if stayed and now >= max(self._over_at + _SUSPICION, self._suspect_at):
                # We went, the queue did not.
                self._begin_drain(now, rate, Reason.SUSPECT)
                return
            if at_end and not stayed:
                # It did go, and this is all that is left: the path has become slow. Or a rival's queue is shorter now:
                # what stands from here on is judged again.
                self._forget_capacity()
                self._over_floor, self._over_at = self._floor, now
        self._set_window(wanted)

    def _forget_capacity(self) -> None:
        self._best_now = self._best_before = self._usual_rate
        self._aim(self._usual_rate)

    def _grow(self, queue: float, now: float) -> None:
        if self._over and self._cut_from > self.window and queue < self.target / 4:
            # The cut went deeper than the queue was: it was noise. Go half of the way back.
            self._set_window((self.window + self._cut_from) / 2)
        self._over = 0
        self._cut_from = 0.0
        if now < self._hold_until:
            self._step = 1.0
            return
        size = self.datagram_size
        window = self.window
        least = max(1.0, math.sqrt(window / size) / 4)
        if window > 1.1 * self._ceiling:
            self._ceiling = math.inf  # it holds more now
        if queue < self.target / 2 and window < 0.9 * self._ceiling:
            step = min(self._step, window / 8 / size)
            self._step = max(2 * self._step, window / 64 / size)
        else:
            step = self._step = 1.0
        # Not beyond twice what the path is known to carry: a queue that does not show is no licence.
        cap = 2 * self.rate * (self.base + self.target) + _INITIAL_PACKETS * size
        self._set_window(max(min(window + max(step, least) * size, cap), min(window, cap)))

    def _refresh_base(self, base: float, now: float) -> None:
        self.base = max(base, _MIN_RTT)
        self._base_at = now
        self._next_base = math.inf

    # -- losses ------------------------------------------------------------------------------------------------------

    def _judge_losses(self, now: float) -> bool:
        """Whether the losses of the last hundreds of packets made the window smaller."""
        if self._blind:
            # What is reported lost now left before the window was made smaller.
            self._blind -= 1
            self._judged = self._judged_lost = self._judged_events = 0
            return False
        self._judged += self._acked + self._lost
        self._judged_lost += self._lost
        self._judged_events += self._loss_events
        total, lost = self._judged, self._judged_lost
        share = lost / total if total else 0.0
        # What was lost together says no more than one packet: a run of 45 that a receiver's GRO had joined can go at
        # once, by chance, and would be a fifth of the packets judged.
        unit = max(lost / max(self._judged_events, 1), self.datagram_size)
        heavy = share > _HEAVY_LOSS and lost >= _HEAVY_PACKETS * unit
        if total < _LOSS_PACKETS * unit and not heavy:
            return False
        self._judged = self._judged_lost = self._judged_events = 0
        limit = min(_LOSS_FLOOR + 2 * self._loss_noise, _LOSS_CEILING)
        if share <= limit:
            if now < self._hold_until or share < self._loss_noise or not self._ceiling < math.inf:
                self._loss_noise += (share - self._loss_noise) / 4
            return False
        if now < self._hold_until:
            self._loss_noise += (min(share, _LOSS_CEILING) - self._loss_noise) / 4
        self._blind = _BLIND
        self._ceiling = float(self.window)
        self._set_window(self.window * max(_LOSS_CUT if not heavy else 0.5, 1 - share))
        self._hold(now)
        return True

    def _hold(self, now: float) -> None:
        self._hold_until = now + max(_HOLD, 10 * self.base if self.base < math.inf else 0.0)
        self._step = 1.0

    # -- drain -------------------------------------------------------------------------------------------------------

    def _begin_drain(self, now: float, rate: float, reason: Reason) -> None:
        self._drain_reason = reason
        self._drain_before = self._floor - self.base
        self._drain_return = self.window
        self._drain_floor = math.inf
        self._drain_began = now
        self._drain_low_at = math.inf
        self._drain_round = 0
        self.phase = Phase.DRAIN
        self._set_window(0.5 * rate * self.base)
        self._drain_target = self.window

    def _drain_ack(self, sample: AckSample, rtt: float | None) -> None:
        now = sample.now
        if self._drain_low_at == math.inf:
            if sample.in_flight <= self._drain_target:
                self._drain_low_at = now
                self._drain_round = sample.delivered + sample.in_flight
        elif sample.prior_delivered >= self._drain_round or now - self._drain_low_at > 2 * self.base:
            # What left after the queue had gone is back.
            if rtt is not None and rtt < self._drain_floor:
                self._drain_floor = rtt
            if now - self._drain_low_at >= max(1.5 * self.base, _EPOCH) and self._drain_floor < math.inf:
                self._end_drain(now)
                return
        if now - self._drain_began > _DRAIN_LIMIT + 2 * (self.base + self._drain_before):
            self._end_drain(now)

    def _end_drain(self, now: float) -> None:
        """Judge what was left in the queue while we held back."""
        reason = self._drain_reason
        floor = self._drain_floor
        seen = floor < math.inf
        queue = floor - self.base if seen else self._drain_before
        if reason is Reason.BASE:
            ours = True
            if seen and now - self._base_at > BASE_WINDOW:
                self._refresh_base(floor, now)
        else:
            ours = queue <= max(self.target, _OWN_SHARE * self._drain_before)
            if not ours and seen:
                again = abs(floor - self._residue) <= max(0.001, _SAME_BASE * floor)
                if again or now - self._base_at > _COMPETE_BASE_WINDOW:
                    self._refresh_base(floor, now)
                    ours = True
                elif reason is not Reason.CHECK:
                    ours = queue <= max(_RIVAL_QUEUE, min(4 * self.target, _LONG_QUEUE))
            self._residue = math.inf if ours else floor
        if not ours:
            self._compete(now, reason)
            return
        self.phase = Phase.CRUISE
        self._suspect_at = now + _TRUST
        self._over = 0
        self._step = 1.0
        back = float(self._drain_return)
        if reason is not Reason.BASE and self.rate > 0:
            back = min(back, self.rate * (self.base + self.target))
        self._set_window(back)

    # -- compete -----------------------------------------------------------------------------------------------------

    def _compete(self, now: float, reason: Reason) -> None:
        """Take, or take up again, the part of a CUBIC flow; to begin with half of what the path was seen to carry."""
        window = float(self._drain_return)
        if reason is not Reason.CHECK:
            window = max(window, self._over_window, 0.5 * self.capacity * (self.base + self._drain_before))
            self._cubic.begin(min(window, MAX_WINDOW) / self.datagram_size, now)
            self._queue_now = self._queue_before = 0.0
        else:
            self._cubic.pause(now - self._drain_began)
        self.phase = Phase.COMPETE
        self._over = 0
        wait = max(_COMPETE_CHECK, _COMPETE_CHECK_ROUNDS * (self.base + self._drain_before))
        self._compete_check, self._compete_late = now + wait / 2, now + wait * 1.5
        self._floor_last = 0.0
        self._queue_before, self._queue_now = self._queue_now, 0.0
        self._set_window(self._cubic.window * self.datagram_size)

    def _compete_ack(self, sample: AckSample, rtt: float | None) -> None:
        """RFC 9438 in packets; losses count where the queue is long, elsewhere they are the path's noise."""
        now = sample.now
        if rtt is not None and rtt - self.base > self._queue_now:
            self._queue_now = rtt - self.base
        longest = max(self._queue_now, self._queue_before)
        if sample.lost and sample.delivered >= self._cubic_round and self._top - self.base >= 0.5 * longest:
            self._cubic.cut(now)
            self._cubic_round = sample.delivered + sample.in_flight
            if now >= self._compete_check and self._floor < math.inf:
                # Everybody at this buffer has just lost something: flows of our kind look at the same moment.
                self._begin_drain(now, self.rate, Reason.CHECK)
                return
        elif sample.acked and not sample.app_limited:
            self._cubic.grow(sample.acked / self.datagram_size, now, self.base)
            self._cubic.window = min(self._cubic.window, MAX_WINDOW / self.datagram_size)
        self._set_window(self._cubic.window * self.datagram_size)

    def _compete_epoch(self, now: float, rate: float, saturated: bool) -> None:
        fell = self._floor - self.base < _SOMEBODY_LEFT * (self._floor_last - self.base)
        self._floor_last = self._floor
        if now >= self._compete_late or (fell and now >= self._compete_check):
            self._begin_drain(now, rate, Reason.CHECK)
        elif self._floor - self.base <= self.target and saturated:
            self.phase = Phase.CRUISE
            self._over = 0
            self._step = 1.0
