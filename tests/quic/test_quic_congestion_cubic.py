"""The cubic that we follow beside a rival: its shape, and that nothing makes it explode."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.quic.congestion_cubic import CubicCurve

RTT = 0.050


def after(curve: CubicCurve, now: float, seconds: float) -> float:
    """The window after that time of acknowledging a window per round trip; returns the time."""
    end = now + seconds
    while now < end:
        now += RTT
        curve.grow(curve.window, now, RTT)
    return now


def test_it_is_back_at_the_old_window_after_k_seconds() -> None:
    curve = CubicCurve()
    curve.begin(400.0, 0.0)
    curve.cut(0.0)
    assert curve.window == pytest.approx(280.0)
    k = (0.3 * 400 / 0.4) ** (1 / 3)
    after(curve, 0.0, k)
    assert 400.0 <= curve.window <= 430.0  # Reno's part goes on where the cubic is flat


def test_it_is_flat_around_the_old_window_and_steep_beyond() -> None:
    curve = CubicCurve()
    curve.begin(1000.0, 0.0)
    now = after(curve, 0.0, 2.0)
    assert curve.window < 1030.0
    after(curve, now, 10.0)
    assert curve.window > 1500.0


def test_it_grows_as_reno_where_that_is_faster() -> None:
    curve = CubicCurve()
    curve.begin(10.0, 0.0)
    curve.cut(0.0)
    after(curve, 0.0, 20 * RTT)
    assert curve.window >= 7.0 + 0.5 * 20


def test_a_second_loss_below_the_old_window_leaves_room_for_others() -> None:
    curve = CubicCurve()
    curve.begin(100.0, 0.0)
    curve.cut(0.0)
    curve.cut(0.1)
    assert curve.window == pytest.approx(49.0)
    after(curve, 0.1, ((59.5 - 49) / 0.4) ** (1 / 3))
    fresh = CubicCurve()
    fresh.begin(70.0, 0.0)
    fresh.cut(0.0)
    after(fresh, 0.0, ((59.5 - 49) / 0.4) ** (1 / 3))
    assert 59.5 <= curve.window < fresh.window


def test_a_pause_does_not_count() -> None:
    paused, straight = CubicCurve(), CubicCurve()
    for curve in (paused, straight):
        curve.begin(500.0, 0.0)
        curve.cut(0.0)
    paused.pause(5.0)
    after(paused, 5.0, 2.0)
    after(straight, 0.0, 2.0)
    assert paused.window == pytest.approx(straight.window, rel=0.01)


@given(
    st.floats(2.0, 1e5),
    st.lists(
        st.tuples(st.sampled_from(["cut", "grow", "pause"]), st.floats(0.0, 1e9), st.floats(0.0, 1e6)), max_size=50
    ),
)
def test_whatever_happens_it_stays_a_window(window: float, steps: list[tuple[str, float, float]]) -> None:
    curve = CubicCurve()
    curve.begin(window, 0.0)
    for what, now, amount in steps:
        before = curve.window
        if what == "cut":
            curve.cut(now)
        elif what == "pause":
            curve.pause(amount)
        else:
            curve.grow(amount, now, 0.1)
            assert curve.window <= 1.5 * before + 1
        assert 2.0 <= curve.window < math.inf
