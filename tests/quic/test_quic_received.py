from __future__ import annotations

import random
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.quic.received import WINDOW, ReceivedNumbers, runs


class Model:
    """All numbers ever received."""

    def __init__(self):
        self.seen = set()
        self.largest = -1

    def __contains__(self, number):
        return number in self.seen or number <= self.largest - WINDOW

    def add(self, number):
        new = number not in self
        self.seen.add(number)
        self.largest = max(self.largest, number)
        return new


def agree(window, model, around):
    edges = [model.largest + 1 - WINDOW, model.largest - 2 * WINDOW, model.largest, 0]
    for middle in [*around, *edges]:
        for number in range(max(middle - 3, 0), middle + 4):
            assert (number in window) == (number in model), number


def take(window, model, numbers):
    expected = [model.add(number) for number in numbers]
    flags = window.fresh(numbers)
    assert flags == (None if all(expected) else expected)
    assert window._missing.bit_length() <= WINDOW + 512


steps = st.one_of(
    st.tuples(st.just("next"), st.integers(1, 70)),
    st.tuples(st.just("jump"), st.sampled_from([1, 2, 60, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 1 << 40])),
    st.tuples(st.just("late"), st.integers(0, 2 * WINDOW + 2)),
    st.tuples(st.just("shuffled"), st.integers(2, 200)),
)


@given(st.lists(steps, max_size=40), st.randoms(use_true_random=False))
def test_against_a_set_of_all_numbers(script, source):
    window, model = ReceivedNumbers(), Model()
    for kind, value in script:
        after = model.largest + 1
        if kind == "next":
            numbers = list(range(after, after + value))
        elif kind == "jump":
            numbers = [after + value]
        elif kind == "late":
            numbers = [max(after - 1 - value, 0)] * 2
        else:
            numbers = [*range(after, after + value), max(after - 5, 0)]
            source.shuffle(numbers)
        take(window, model, numbers)
        agree(window, model, numbers[:3])


@pytest.mark.parametrize("jitter", [2, 100, 3000, 9000])
def test_jitter_of_thousands(jitter):
    source = random.Random(jitter)
    window, model = ReceivedNumbers(), Model()
    arriving = sorted(range(30_000), key=lambda number: number + source.random() * jitter)
    arriving = [number for number in arriving if source.random() > 0.02]
    accepted = 0
    for at in range(0, len(arriving), 40):
        numbers = arriving[at : at + 40]
        if source.random() < 0.2:
            numbers.append(source.choice(arriving[:at] or numbers))
        before = len(model.seen)
        take(window, model, numbers)
        accepted += len(model.seen) - before
    agree(window, model, source.choices(arriving, k=100))
    if jitter < WINDOW:
        assert accepted == len(arriving)


def test_add_tells_and_is_idempotent():
    window = ReceivedNumbers()
    assert 0 not in window
    assert [window.add(number) for number in (3, 3, 1, 0, 1, 2)] == [True, False, True, True, False, True]
    assert all(number in window for number in range(4))
    assert 4 not in window


def test_fresh_flags_are_in_the_order_given():
    window = ReceivedNumbers()
    assert window.fresh([]) is None
    assert window.fresh([0, 1, 2]) is None
    assert window.fresh([5, 2, 3, 3, 4, 6]) == [True, False, True, False, True, True]
    assert window.fresh([8, 7]) is None
    assert window.fresh([9, 9, 11]) == [True, False, True]  # first, last and length as if it were a run
    assert window.fresh([10]) is None


def test_a_peer_that_skips_with_each_packet_costs_little():
    """Each step leaves a bounded number behind, and numbers up to the last allowed one."""
    window, model = ReceivedNumbers(), Model()
    number = 0
    for step in [WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 2 * WINDOW + 1, 32767, 1] * 200:
        number += step
        take(window, model, [number])
        assert sys.getsizeof(window._missing) < 4096
    agree(window, model, [number])
    take(window, model, [(1 << 62) - 1])
    agree(window, model, [number, (1 << 62) - 1 - WINDOW])


def test_nothing_is_kept_of_packets_in_order():
    window = ReceivedNumbers()
    window.fresh([5])
    for start in range(6, 6 + 40 * 1000, 40):
        window.fresh(list(range(start, start + 40)))
    window.fresh([100_000])
    assert window._missing.bit_length() <= WINDOW
    assert all(number not in window for number in (99_999, 100_000 - WINDOW + 1))
    assert 100_000 - WINDOW in window


@given(st.lists(st.integers(0, 60)))
def test_runs(numbers):
    found = runs(iter(numbers))
    assert [number for start, stop in found for number in range(start, stop)] == sorted(set(numbers))
    assert all(left[1] < right[0] for left, right in pairwise(found))


def test_runs_with_a_duplicate_that_hides_a_gap():
    assert runs([1, 1, 3]) == [(1, 2), (3, 4)]
    assert runs([]) == []
    assert runs([7]) == [(7, 8)]
