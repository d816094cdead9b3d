"""The token bucket that spreads packets in time."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from lanparty.quic.pacer import QUANTUM, Pacer


def test_without_a_rate_everything_may_leave():
    pacer = Pacer()
    assert pacer.allowance(5.0, math.inf) > 10**12
    pacer.on_sent(10**9)
    assert pacer.allowance(5.0, math.inf) > 10**12


def test_a_burst_is_two_packets_at_a_low_rate():
    pacer = Pacer()
    assert pacer.allowance(1.0, 125_000.0) == 3000
    pacer.on_sent(3000)
    assert pacer.allowance(1.0, 125_000.0) == 0
    # One full packet is worth a wake-up: 1472 bytes at 125 kB/s.
    assert math.isclose(pacer.ready_at(), 1.0 + 1472 / 125_000)


def test_a_burst_is_a_quantum_at_a_high_rate():
    pacer = Pacer()
    pacer.allowance(1.0, 1e8)
    assert pacer.allowance(2.0, 1e8) == 1e8 * QUANTUM


@given(
    rate=st.floats(1e3, 1e9),
    steps=st.lists(st.tuples(st.floats(0.0, 0.01), st.integers(0, 100_000)), min_size=1, max_size=60),
)
def test_never_more_than_the_rate_and_one_burst(rate, steps):
    pacer, now, sent = Pacer(), 10.0, 0
    pacer.allowance(now, rate)
    begin = now
    for wait, wanted in steps:
        now += wait
        size = min(wanted, max(pacer.allowance(now, rate), 0))
        pacer.on_sent(size)
        sent += size
    assert sent <= rate * (now - begin) + max(rate * QUANTUM, 3000) + 1


@given(rate=st.floats(1e3, 1e9), sent=st.integers(0, 10**6))
def test_when_it_says_ready_a_packet_may_leave(rate, sent):
    pacer = Pacer()
    pacer.allowance(10.0, rate)
    pacer.on_sent(sent)
    at = pacer.ready_at()
    assert pacer.allowance(at + 1e-9, rate) > 0


@given(rate=st.floats(1e6, 1e9), late=st.floats(0.0, 0.05), catch_up=st.floats(0.0, 0.01))
def test_of_a_late_wake_up_a_part_is_made_up_for_and_the_rest_is_told(rate, late, catch_up):
    pacer = Pacer()
    pacer.on_sent(pacer.allowance(10.0, rate, catch_up))
    due = pacer.ready_at()
    allowed = pacer.allowance(due + late, rate, catch_up)
    most = max(rate * (QUANTUM + min(late, catch_up)), 3000)
    owed = max(rate * QUANTUM / 2, 1472) + rate * late
    assert allowed <= most
    assert math.isclose(allowed, min(owed, most), rel_tol=0.01, abs_tol=2)
    assert math.isclose(pacer.missed, max(owed - most, 0.0), rel_tol=0.01, abs_tol=2)


def test_nothing_is_missed_while_nobody_asked_to_be_woken():
    """The window was full, or there was nothing to send: that is not a late program."""
    pacer = Pacer()
    pacer.allowance(10.0, 1e6, 0.004)
    pacer.ready_at()
    pacer.on_sent(3000)
    assert pacer.allowance(20.0, 1e6, 0.004) == 3000
    assert pacer.missed == 0
    pacer.ready_at()
    pacer.not_asked()
    assert pacer.allowance(30.0, 1e6, 0.004) == 3000
    assert pacer.missed == 0
