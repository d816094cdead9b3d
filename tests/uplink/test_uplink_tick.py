"""The grid of ticks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.uplink.session import STATS
from lanparty.uplink.tick import TICK, next_tick
from lanparty.uplink.watch import GAP_PERIOD


@pytest.mark.parametrize(
    ("now", "period", "expected"),
    [(0.0, 2.0, 2.0), (1.99, 2.0, 2.0), (2.0, 2.0, 4.0), (9.5, 10.0, 10.0), (123456.7, 2.0, 123458.0)],
)
def test_next_tick(now, period, expected):
    assert next_tick(now, period) == expected


@given(st.floats(0, 1e7), st.sampled_from([TICK, STATS]))
def test_a_tick_is_ahead_and_no_further_than_a_period(now, period):
    assert now < next_tick(now, period) <= now + period


@pytest.mark.parametrize("period", [STATS, GAP_PERIOD])
def test_what_comes_round_comes_on_ticks(period):
    assert period % TICK == 0
