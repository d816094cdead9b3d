"""Congestion control without a network: transitions by table, filters, and what no sample may do to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanparty.quic.congestion import MAX_PACING_RATE, MAX_WINDOW, DelayBounded, Phase
from lanparty.quic.flight import AckSample

SIZE = 1472
MBIT = 125_000.0


class Feeder:
    """A path told by hand: each epoch has a round trip, a rate and losses."""

    def __init__(self, size: int = SIZE) -> None:
        self.control = DelayBounded(datagram_size=size)
        self.now = 100.0
        self.delivered = 0

    def epochs(
        self,
        count: int,
        rtt: float,
        rate: float,
        *,
        lost: float = 0.0,
        limited: bool = False,
        until: Phase | None = None,
    ) -> Feeder:
        """``count`` epochs of a round trip each, of eight samples; ``lost`` is a share. Ends early in ``until``."""
        for _ in range(count):
            length = max(rtt, 0.012 + 6 * 0.004)
            prior = self.delivered - 1
            for index in range(8):
                self.now += length / 8
                acked = int(rate * length / 8)
                self.delivered += acked
                gone = int(acked * lost / (1 - lost))
                if self.control.phase is until:
                    return self
                flying = self.control.window if not limited else SIZE
                self.control.on_sent(self.now, acked, flying)
                self.control.on_ack(
                    AckSample(
                        now=self.now,
                        acked=acked,
                        lost=gone,
                        rtt=rtt,
                        delivery_rate=rate,
                        app_limited=limited,
                        delivered=self.delivered,
                        prior_delivered=prior if index < 7 else self.delivered,
                        in_flight=flying,
                        min_rtt=rtt,
                    )
                )
        return self

    def drained(self, rtt: float, rate: float) -> Feeder:
        """Answer a drain: what is in flight has gone down to the window."""
        return self.epochs(3, rtt, rate)


def starting() -> Feeder:
    return Feeder()


def cruising(rate: float = 20 * MBIT, rtt: float = 0.020) -> Feeder:
    """On a 20 Mbit/s path of 20 ms."""
    feeder = Feeder().epochs(3, rtt, rate).epochs(3, rtt + 0.010, rate)
    feeder.drained(rtt, rate)
    assert feeder.control.phase is Phase.CRUISE
    return feeder


def suspecting() -> Feeder:
    """A rival's queue of 50 ms came, and we have shrunk until we asked whose it is."""
    feeder = cruising()
    for _ in range(20):
        feeder.epochs(1, 0.070, 5 * MBIT, until=Phase.DRAIN)
        if feeder.control.phase is Phase.DRAIN:
            return feeder
    raise AssertionError(feeder.control.phase)


def competing() -> Feeder:
    feeder = suspecting().drained(0.070, 5 * MBIT)
    assert feeder.control.phase is Phase.COMPETE
    return feeder


def checking() -> Feeder:
    """Some seconds later."""
    feeder = competing()
    for index in range(200):
        feeder.epochs(1, 0.070 + 0.02 * (index % 5) / 5, 5 * MBIT, until=Phase.DRAIN)
        if feeder.control.phase is Phase.DRAIN:
            return feeder
    raise AssertionError(feeder.control.phase)


TRANSITIONS: list[tuple[str, Callable[[], Feeder], Callable[[Feeder], object], Phase]] = [
    ("first samples", starting, lambda f: f.epochs(2, 0.020, 20 * MBIT), Phase.STARTUP),
    (
        "a queue ends start-up",
        starting,
        lambda f: f.epochs(1, 0.02, 9 * MBIT).epochs(2, 0.04, 18 * MBIT, until=Phase.DRAIN),
        Phase.DRAIN,
    ),
    (
        "a rate that stands still ends start-up",
        starting,
        lambda f: f.epochs(5, 0.020, 20 * MBIT, until=Phase.DRAIN),
        Phase.DRAIN,
    ),
    ("nothing to send ends nothing", starting, lambda f: f.epochs(9, 0.020, MBIT / 10, limited=True), Phase.STARTUP),
    (
        "heavy loss ends start-up",
        starting,
        lambda f: f.epochs(2, 0.020, 20 * MBIT, lost=0.4, until=Phase.DRAIN),
        Phase.DRAIN,
    ),
    ("a path without queue", cruising, lambda f: f.epochs(9, 0.0201, 20 * MBIT), Phase.CRUISE),
    ("a short queue", cruising, lambda f: f.epochs(3, 0.024, 20 * MBIT), Phase.CRUISE),
    ("old base", cruising, lambda f: f.epochs(400, 0.0211, 20 * MBIT, until=Phase.DRAIN), Phase.DRAIN),
    ("a game cannot drain", cruising, lambda f: f.epochs(400, 0.0211, MBIT / 10, limited=True), Phase.CRUISE),
    ("the queue was ours", suspecting, lambda f: f.drained(0.021, 5 * MBIT), Phase.CRUISE),
    ("the queue was not ours", suspecting, lambda f: f.drained(0.069, 5 * MBIT), Phase.COMPETE),
    ("a short one is not fought for", suspecting, lambda f: f.drained(0.027, 5 * MBIT), Phase.CRUISE),
    ("the rival stays", competing, lambda f: f.epochs(9, 0.080, 5 * MBIT), Phase.COMPETE),
    ("the queue vanishes", competing, lambda f: f.epochs(2, 0.0203, 5 * MBIT), Phase.CRUISE),
    ("a check finds it gone", checking, lambda f: f.drained(0.021, 5 * MBIT), Phase.CRUISE),
    ("a check finds it there", checking, lambda f: f.drained(0.060, 5 * MBIT), Phase.COMPETE),
    ("a check finds the same again: the path is longer", checking, lambda f: f.drained(0.070, 5 * MBIT), Phase.CRUISE),
]


@pytest.mark.parametrize(("make", "happens", "expected"), [t[1:] for t in TRANSITIONS], ids=[t[0] for t in TRANSITIONS])
def test_transitions(make: Callable[[], Feeder], happens: Callable[[Feeder], object], expected: Phase) -> None:
    feeder = make()
    happens(feeder)
    assert feeder.control.phase is expected


@pytest.mark.parametrize("make", [starting, cruising, suspecting, competing])
def test_persistent_congestion_begins_again_from_two_packets(make: Callable[[], Feeder]) -> None:
    feeder = make()
    base = feeder.control.base
    feeder.control.on_persistent_congestion(feeder.now)
    assert (feeder.control.phase, feeder.control.window, feeder.control.base) == (Phase.STARTUP, 2 * SIZE, base)


@pytest.mark.parametrize("make", [starting, cruising, suspecting, competing])
def test_a_new_path_is_unknown(make: Callable[[], Feeder]) -> None:
    feeder = make()
    feeder.control.on_path_change(feeder.now)
    fresh = DelayBounded(datagram_size=SIZE)
    assert (feeder.control.phase, feeder.control.window) == (fresh.phase, fresh.window)
    assert feeder.control.base == math.inf
    assert feeder.control.rate == 0


def test_startup_doubles_per_round() -> None:
    feeder = Feeder()
    windows = []
    rate = MBIT
    for _ in range(5):
        windows.append(feeder.control.window)
        rate *= 2
        feeder.epochs(1, 0.050, max(rate, feeder.control.window / 0.05))
    assert windows[0] == 10 * SIZE
    assert all(1.9 * before <= after <= 2 * before for before, after in pairwise(windows))


def test_startup_does_not_grow_on_what_a_game_sends() -> None:
    feeder = Feeder().epochs(200, 0.030, 6000.0, limited=True)
    assert feeder.control.window <= 20 * SIZE


def test_a_single_noisy_epoch_costs_at_most_30_percent_and_comes_back() -> None:
    feeder = cruising().epochs(30, 0.0203, 20 * MBIT)
    before = feeder.control.window
    feeder.epochs(1, 0.060, 20 * MBIT)
    assert 0.69 * before <= feeder.control.window < before
    feeder.epochs(1, 0.0203, 20 * MBIT)
    assert feeder.control.window >= 0.84 * before


def test_a_longer_queue_shrinks_the_window_in_proportion() -> None:
    feeder = cruising().epochs(20, 0.0203, 20 * MBIT)
    before = feeder.control.window
    queue, target = 0.005, feeder.control.target
    feeder.epochs(1, 0.020 + queue, 20 * MBIT)
    assert feeder.control.window == pytest.approx(before * (1 - (queue - target) / 0.025), rel=0.01)


def test_growth_is_quick_without_a_queue_and_slow_with_one() -> None:
    quick, slow = cruising(), cruising()
    begin = quick.control.window
    # The rate follows the window, as on a path that became wider.
    for _ in range(30):
        quick.epochs(1, 0.0202, quick.control.window / 0.020)
    for _ in range(30):
        slow.epochs(1, 0.020 + 0.7 * slow.control.target, 20 * MBIT)
    assert quick.control.window > 8 * begin
    # One packet per epoch, or a quarter of the window's root.
    assert slow.control.window < begin + 30 * 2.5 * SIZE


def test_the_window_does_not_run_away_from_what_was_delivered() -> None:
    feeder = cruising().epochs(500, 0.0202, 20 * MBIT)
    assert feeder.control.window < 2.5 * 20 * MBIT * 0.022 + 11 * SIZE


@pytest.mark.parametrize("share", [0.01, 0.02])
def test_random_loss_is_no_signal(share: float) -> None:
    feeder = cruising()
    feeder.epochs(100, 0.0205, 20 * MBIT, lost=share)
    assert feeder.control.window >= 20 * MBIT * 0.020


def test_persistent_loss_brings_the_window_down_and_holds_it() -> None:
    feeder = cruising().epochs(30, 0.0203, 20 * MBIT)
    before = feeder.control.window
    feeder.epochs(8, 0.0203, 20 * MBIT, lost=0.10)
    down = feeder.control.window
    assert down <= 0.92 * before
    feeder.epochs(15, 0.0203, 20 * MBIT)
    assert feeder.control.window == down
    feeder.epochs(60, 0.0203, 20 * MBIT)
    assert feeder.control.window > down


def test_app_limited_rates_neither_lower_nor_age_what_is_known() -> None:
    feeder = cruising()
    rate, window = feeder.control.rate, feeder.control.window
    feeder.epochs(500, 0.020, MBIT / 10, limited=True)
    assert (feeder.control.rate, feeder.control.window) == (rate, window)


def test_a_rate_that_fell_is_forgotten_within_a_second() -> None:
    feeder = cruising().epochs(25, 0.0212, 5 * MBIT)
    assert feeder.control.rate == pytest.approx(5 * MBIT, rel=0.05)


def test_the_base_is_renewed_from_a_game_s_own_samples() -> None:
    feeder = cruising().epochs(300, 0.045, MBIT / 10, limited=True)
    assert feeder.control.base == pytest.approx(0.045)


def wandering(feeder: Feeder, count: int, rate: float) -> Feeder:
    """Floors that differ from epoch to epoch by 4 ms, as radio makes them."""
    for index in range(count):
        feeder.epochs(1, 0.021 + 0.004 * (index % 2), rate)
    return feeder


def test_a_queue_that_became_shorter_but_stays_is_asked_about_again() -> None:
    """Found by hypothesis: the run of long queues began with 80 ms, so 20 ms looked like success for ever."""
    feeder = Feeder().epochs(7, 0.0001, 1e4).epochs(1, 0.080, 2.5e6)
    feeder.epochs(150, 0.020, 20 * MBIT)
    assert feeder.control.window >= 8 * SIZE


def test_noise_that_costs_rate_raises_the_target_and_silence_lowers_it() -> None:
    feeder = cruising(50 * MBIT).epochs(30, 0.0202, 50 * MBIT)
    assert feeder.control.target == 0.0015
    wandering(feeder, 20, 30 * MBIT)
    assert 0.004 < feeder.control.target <= 0.006
    feeder.epochs(80, 0.0202, 30 * MBIT)
    assert feeder.control.target < 0.002


def test_noise_that_costs_nothing_raises_the_target_only_while_it_is_looked_for_more() -> None:
    feeder = cruising(50 * MBIT).epochs(60, 0.0202, 50 * MBIT)
    raised = 0
    for _ in range(500):
        wandering(feeder, 2, 50 * MBIT)
        raised += feeder.control.target > 0.002
    assert 0 < raised < 0.15 * 500


@pytest.mark.parametrize("rtt", [0.0002, 0.020, 0.200])
@pytest.mark.parametrize("rate", [1.0, 20.0, 500.0])
def test_the_target_is_a_few_milliseconds_or_packets(rate: float, rtt: float) -> None:
    control = cruising(rate * MBIT, rtt).control
    assert control.target <= max(0.010, 2 * SIZE / (rate * MBIT) * 1.05)
    assert control.target >= 0.001


def test_optimistic_acks_meet_the_cap() -> None:
    feeder = Feeder()
    for _ in range(400):
        feeder.epochs(1, 0.010, 1e12)
        assert feeder.control.window <= MAX_WINDOW
        assert feeder.control.pacing_rate <= MAX_PACING_RATE


ANY = st.floats(allow_nan=True, allow_infinity=True)
SAMPLES = st.builds(
    AckSample,
    now=st.floats(-1e6, 1e12),
    acked=st.integers(0, 1 << 40),
    lost=st.integers(0, 1 << 40),
    rtt=st.none() | ANY,
    delivery_rate=ANY,
    app_limited=st.booleans(),
    delivered=st.integers(0, 1 << 50),
    prior_delivered=st.integers(0, 1 << 50),
    in_flight=st.integers(0, 1 << 40),
    min_rtt=ANY,
)
STEPS = st.lists(
    SAMPLES | st.sampled_from(["persistent", "path"]) | st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)),
    max_size=60,
)


def sane(control: DelayBounded, size: int) -> None:
    assert isinstance(control.window, int)
    assert 2 * size <= control.window <= MAX_WINDOW
    assert control.pacing_rate > 0
    assert control.pacing_rate == math.inf or control.pacing_rate <= MAX_PACING_RATE
    assert 0 < control.target < math.inf
    assert control.base > 0
    assert 0 <= control.rate <= MAX_PACING_RATE


def apply(control: DelayBounded, step: AckSample | str | tuple[int, int], now: float) -> None:
    if step == "persistent":
        control.on_persistent_congestion(now)
    elif step == "path":
        control.on_path_change(now)
    elif isinstance(step, AckSample):
        control.on_ack(step)
    else:
        assert isinstance(step, tuple)
        control.on_sent(now, *step)


@given(STEPS, st.integers(1200, 1472))
@settings(max_examples=300, deadline=None)
def test_no_samples_whatever_break_it(steps: list[AckSample | str | tuple[int, int]], size: int) -> None:
    control = DelayBounded(datagram_size=size)
    for step in steps:
        apply(control, step, 0.0)
        sane(control, size)


LIKELY = st.tuples(
    st.sampled_from([0.0001, 0.0005, 0.001, 0.020, 0.080, 0.3]),
    st.sampled_from([1e4, 1e5, 2.5e6, 1e8]),
    st.sampled_from([0.0, 0.0, 0.01, 0.1, 0.5, 0.9]),
    st.booleans(),
    st.integers(1, 30),
)


@given(st.lists(LIKELY, max_size=25))
@settings(max_examples=60, deadline=None)
def test_no_path_whatever_breaks_it(path: list[tuple[float, float, float, bool, int]]) -> None:
    """Plausible histories get deeper into the phases than arbitrary ones."""
    feeder = Feeder()
    for rtt, rate, lost, limited, count in path:
        feeder.epochs(count, rtt, rate, lost=lost, limited=limited)
        sane(feeder.control, SIZE)
    if math.isfinite(feeder.control.pacing_rate):
        feeder.epochs(150, 0.020, 20 * MBIT)
        widest = 0
        for _ in range(50):  # a moment may be one of those in which it drains the path, to measure it
            feeder.epochs(1, 0.020, 20 * MBIT)
            widest = max(widest, feeder.control.window)
        assert widest >= 8 * SIZE, "it must come up again, whatever was before"


@pytest.mark.parametrize("make", [starting, cruising, competing])
def test_a_smaller_packet_size_is_taken_at_once(make: Callable[[], Feeder]) -> None:
    control = make().control
    control.datagram_size = 1200
    control.on_persistent_congestion(0.0)
    assert control.window == 2400
