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
