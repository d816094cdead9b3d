"""Rows 2 to 16 of docs/guard.md, by raw frames: what a client must not send comes out nowhere, its lawful twin does.

A row's vectors are sent from the player's adapter in four wrappings, then the twins, then a fence; what has not come
out by then never will. The relay's counters must name the rule of each. With the guard off the same frames come out at
the other player: so the observers would see them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from lan_guard import PLAYER, Guarded
from lan_packets import mark
from lan_vectors import ROWS, expected_rule, of_row, shots

pytestmark = pytest.mark.guard

EVERYWHERE = ("gateway", PLAYER)
"""What the gateway sends into the house, and another player."""

NEVER_OFF = {2}
"""A member is known by its MAC: without row 2 there is no switch (``Level.OFF``)."""


@pytest.fixture(scope="module")
def counted(strict: Guarded) -> Callable[[], Counter[str]]:
    """What was blocked, by rule, since the last call (or since the first test here)."""
    last = strict.blocked()

    def since() -> Counter[str]:
        nonlocal last
        now, before = strict.blocked(), last
        last = now
        return now - before

    return since


@pytest.mark.parametrize("row", ROWS)
def test_nothing_of_it_comes_out_and_its_twin_does(
    strict: Guarded, counted: Callable[[], Counter[str]], row: int
) -> None:
    vectors, twins = of_row(row)
    scene = strict.scene()
    sent = list(shots(vectors, scene))
    lawful = [(twin, known, twin.build(scene, known)) for twin in twins for known in [mark()]]
    with strict.watching(*EVERYWHERE) as observers:
        strict.send(*(frame for *_, frame in sent), *(frame for *_, frame in lawful))
        strict.fence(observers.values())
        blocked = counted()
        came = {
            f"{vector.name}, {wrapping}": places
            for vector, wrapping, known, _ in sent
            if (places := [place for place, observer in observers.items() if observer.count(known)])
        }
        missing = {
            twin.name: places
            for twin, known, _ in lawful
            if (places := [place for place, observer in observers.items() if not observer.count(known)])
        }
    assert came == {}
    assert missing == {}
    assert blocked == Counter(expected_rule(vector, wrapping) for vector, wrapping, _, _ in sent)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in NEVER_OFF])
def test_without_the_guard_it_would_have(off: Guarded, row: int) -> None:
    sent = list(shots(of_row(row)[0], off.scene()))
    with off.watching(PLAYER) as observers:
        off.send(*(frame for *_, frame in sent))
        off.fence(observers.values())
        unseen = [
            f"{vector.name}, {wrapping}" for vector, wrapping, known, _ in sent if not observers[PLAYER].count(known)
        ]
    assert unseen == []


@pytest.mark.parametrize("row", [row for row in ROWS if row not in NEVER_OFF])
def test_the_gateway_stops_what_a_relay_without_a_guard_lets_through(careless: Guarded, row: int) -> None:
    vectors, twins = of_row(row)
    scene = careless.scene()
    sent = list(shots(vectors, scene))
    lawful = [(twin, known, twin.build(scene, known)) for twin in twins for known in [mark()]]
    with careless.watching(*EVERYWHERE) as observers:
        careless.send(*(frame for *_, frame in sent), *(frame for *_, frame in lawful))
        careless.fence(observers.values())
        house = observers["gateway"]
        assert [f"{vector.name}, {wrapping}" for vector, wrapping, known, _ in sent if house.count(known)] == []
        assert [twin.name for twin, known, _ in lawful if not house.count(known)] == []
    assert not careless.blocked()
