"""Delays between tries: capped, jittered, begun anew after success."""

import random

from hypothesis import given
from hypothesis import strategies as st

from lanparty.uplink.backoff import CAP, FIRST, Backoff


def test_delays_double_up_to_the_cap():
    backoff = Backoff(lambda: 1.0, first=0.2, cap=5.0)
    assert [round(backoff.next_delay(), 3) for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_reset_begins_anew():
    backoff = Backoff(lambda: 1.0)
    for _ in range(9):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == FIRST


@given(st.integers(), st.integers(1, 5000))
def test_every_delay_is_between_half_the_ceiling_and_the_cap(seed, count):
    backoff = Backoff(random.Random(seed).random, failures=count)
    delay = backoff.next_delay()
    assert min(CAP, FIRST * 2 ** min(count, 30)) / 2 <= delay <= CAP


def test_members_that_lost_the_same_relay_do_not_come_back_together():
    delays = []
    for seed in range(100):
        backoff = Backoff(random.Random(seed).random)
        delays.append(sum(backoff.next_delay() for _ in range(3)))
    assert max(delays) - min(delays) > 0.4
