"""Tries: what is counted, what is free, and that nothing grows without bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.relay import admission
from lanparty.relay.admission import PERIOD, Tries
from lanparty.relay.rooms import RoomName

ANN, BOB = b"a" * 32, b"b" * 32


def room(number: int) -> RoomName:
    return f"R{number}", None


def test_so_many_rooms_at_once_and_one_more_each_period() -> None:
    tries = Tries(3)
    assert [tries.wait("here", room(number), None, 100.0) for number in range(5)] == [0, 0, 0, PERIOD, PERIOD]
    assert tries.wait("here", room(3), None, 100.0 + PERIOD - 1) == 1
    assert tries.wait("here", room(3), None, 100.0 + PERIOD) == 0
    assert tries.wait("here", room(4), None, 100.0 + PERIOD) == PERIOD
    assert [tries.wait("here", room(number), None, 1e6) for number in range(10, 14)] == [0, 0, 0, PERIOD]


def test_a_refused_try_costs_nothing_more() -> None:
    tries = Tries(1)
    tries.wait("here", room(0), None, 0.0)
    for second in range(100):
        assert tries.wait("here", room(1), None, second / 2) == PERIOD - second / 2


def test_a_room_that_was_asked_for_is_free_and_a_password_makes_another_one() -> None:
    tries = Tries(2)
    for _ in range(100):
        assert tries.wait("here", ("ROOM1", None), None, 0.0) == 0
    assert tries.wait("here", ("ROOM1", b"k" * 32), None, 0.0) == 0
    assert tries.wait("here", ("ROOM1", b"l" * 32), None, 0.0) == PERIOD
    assert tries.wait("here", ("ROOM1", None), None, 0.0) == 0


def test_addresses_do_not_pay_for_each_other() -> None:
    tries = Tries(1)
    assert tries.wait("here", room(0), None, 0.0) == 0
    assert tries.wait("here", room(1), None, 0.0) == PERIOD
    assert tries.wait("there", room(1), None, 0.0) == 0


def test_who_met_a_gateway_may_ask_for_that_room_only_and_nobody_else_may() -> None:
    tries = Tries(1)
    tries.welcome(ANN, room(5))
    tries.welcome(None, room(7))
    assert tries.wait("here", room(0), None, 0.0) == 0
    assert tries.wait("here", room(5), ANN, 0.0) == 0
    assert tries.wait("here", room(5), BOB, 0.0) == PERIOD
    assert tries.wait("here", room(5), None, 0.0) == PERIOD
    assert tries.wait("here", room(6), ANN, 0.0) == PERIOD
    assert tries.wait("here", room(7), None, 0.0) == PERIOD


def test_without_a_limit_nothing_is_counted_or_kept() -> None:
    tries = Tries(0)
    for number in range(1000):
        tries.welcome(ANN, room(number))
        assert tries.wait("here", room(number), ANN, 0.0) == 0
    assert tries == Tries(0)


def test_the_tables_are_bounded_and_forget_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_ADDRESSES", 10)
    monkeypatch.setattr(admission, "MAX_GUESTS", 5)
    tries = Tries(2)
    for number in range(100):
        tries.wait(number, room(0), None, 0.0)
        tries.wait("busy", room(number % 2), None, 0.0)
        tries.welcome(bytes([number]) * 32, room(0))
        tries.welcome(ANN, room(0))
    assert set(tries._addresses) == {*range(91, 100), "busy"}
    assert len(tries._guests) == 5
    assert tries.wait("busy", room(3), None, 0.0) == PERIOD
    assert tries.wait("busy", room(3), ANN, 0.0) == PERIOD
    assert tries.wait("busy", room(0), ANN, 0.0) == 0
    for number in range(1000):
        tries.wait("here", room(number), None, number * PERIOD)
    assert len(tries._addresses["here"].asked) == 2


def test_the_real_tables_filled() -> None:
    """The bounds that the constants promise, with a /64 of its own for each address."""
    tries = Tries(32)
    for number in range(admission.MAX_ADDRESSES + 100):
        for name in range(33):
            tries.wait(number.to_bytes(8, "big"), room(name), None, 0.0)
    assert len(tries._addresses) == admission.MAX_ADDRESSES
    assert {len(entry.asked) for entry in tries._addresses.values()} == {32}


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.floats(0, 100)), max_size=60),
)
def test_new_rooms_never_come_faster_than_the_budget(limit: int, asked: list[tuple[int, int, float]]) -> None:
    tries = Tries(limit)
    now = 0.0
    new: dict[int, list[float]] = {0: [], 1: []}
    for address, number, pause in asked:
        now += pause
        entry = tries._addresses.get(address)
        known = entry is not None and hash(room(number)) in entry.asked
        wait = tries.wait(address, room(number), None, now)
        assert 0 <= wait <= PERIOD + 1e-6
        assert not (known and wait)
        if not wait and not known:
            new[address].append(now)
    for times in new.values():
        for start in range(len(times)):
            for end in range(start, len(times)):
                assert end - start + 1 <= limit + (times[end] - times[start]) / PERIOD + 1e-6
