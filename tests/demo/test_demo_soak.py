"""The soak's arithmetic and command line; a short real one is in test_demo_bench_lab.py."""

from __future__ import annotations

import pytest

from lanparty.demo.soak import FLAT, Reading, growth, main, verdict


def readings(sizes, step=1.0):
    return [Reading(index * step, size) for index, size in enumerate(sizes)]


def test_what_the_first_minute_takes_is_no_growth():
    assert growth(readings([100 + min(second, 55) for second in range(600)])) == 0


def test_a_leak_is_growth_also_a_slow_one_that_breathes():
    leaking = [50_000 + 10 * second + second % 7 * 100 for second in range(600)]
    assert growth(readings(leaking)) > FLAT
    assert growth(readings([50_000 + second % 7 * 100 for second in range(600)])) == pytest.approx(0, abs=0.005)


def test_a_short_run_is_judged_by_its_quarters():
    assert growth(readings([100] * 20 + [200] * 20)) == pytest.approx(1.0)


def test_no_readings_is_no_result():
    with pytest.raises(ValueError, match="no readings"):
        growth([])


@pytest.mark.parametrize(
    ("loss", "gone", "grown", "said"),
    [
        (0.0, 0, 0.0, []),
        (0.099, 0, FLAT, []),
        (0.1, 0, 0.0, ["0.100 %"]),
        (0.0, 2, 0.0, ["2 members"]),
        (0.0, 0, 0.06, ["6.0 %"]),
        (5.0, 1, 0.5, ["5.000 %", "1 members", "50.0 %"]),
    ],
)
def test_each_limit_has_its_sentence(loss, gone, grown, said):
    found = verdict(loss, gone, grown)
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


@pytest.mark.parametrize("argv", [["--members", "1"], ["--pattern", "some"], ["--guard", "lax"], ["--seconds", "0"]])
def test_a_wrong_argument_is_one_line(argv, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.out == ""
