"""Sleeps and stops are told from an ordinary busy moment."""

import pytest

from lanparty.uplink.gap import LONGEST_GAP, GapWatch


@pytest.mark.parametrize(
    ("monotonic", "boottime", "missed"),
    [
        pytest.param(1.0, 1.0, None, id="on time"),
        pytest.param(3.0, 3.0, None, id="busy for two seconds"),
        pytest.param(1.0 + LONGEST_GAP, 1.0 + LONGEST_GAP, None, id="just not too long"),
        pytest.param(31.0, 31.0, 30.0, id="stopped, or slept on Windows: both clocks went on"),
        pytest.param(1.0, 3601.0, 3600.0, id="slept: only the boot clock went on"),
    ],
)
def test_one_tick(monotonic, boottime, missed):
    watch = GapWatch(1.0)
    assert watch.tick(100.0, 5000.0) is None
    assert watch.tick(100.0 + monotonic, 5000.0 + boottime) == missed
    assert watch.tick(101.0 + monotonic, 5001.0 + boottime) is None
