"""Rows 28 and 29 of docs/faults.md: what a player must not send, in all wrappings, and a rogue DHCP server.

Row by row, with the counters of the relay and the tables of the victims, these are shown in tests/lan/guard; here they
are done together, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lan_attacks import asks, rogue_dhcp
from lan_guard import PLAYER, ROUTER, VICTIM, Guarded, guarded_party
from lan_packets import mark
from lan_vectors import ROWS, of_row, shots

from lanparty.demo.programs import Party

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def party(build: Callable[..., Party]) -> Iterator[Guarded]:
    with guarded_party(build, "strict") as party:
        yield party


def test_every_vector_in_every_wrapping(party: Guarded, figures: Callable[..., Any]) -> None:
    """Row 28. Each row of the guard's table is sent at once, then its twins, then a fence."""
    scene = party.scene()
    before = party.blocked()
    bad = lawful = came = 0
    missing = []
    with party.watching("gateway", PLAYER) as observers:
        for row in ROWS:
            vectors, twins = of_row(row)
            sent = list(shots(vectors, scene))
            marks = {mark(): twin for twin in twins}
            party.send(*(frame for *_, frame in sent), *(twin.build(scene, known) for known, twin in marks.items()))
            party.fence(observers.values())
            bad += len(sent)
            lawful += len(marks)
            came += sum(observer.count(known) for observer in observers.values() for _, _, known, _ in sent)
            missing += [
                (twin.name, place)
                for known, twin in marks.items()
                for place, observer in observers.items()
                if not observer.count(known)
            ]
    blocked: Counter[str] = party.blocked() - before
    figures(
        28,
        f"{bad} bad frames and {lawful} lawful ones by rows {ROWS[0]} to {ROWS[-1]} of docs/guard.md",
        blocked=blocked.total(),
        by_rules=len(blocked),
        bad_seen_outside=came,
        lawful_missed=len(missing),
    )
    assert came == 0
    assert missing == []
    assert blocked.total() == bad


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_rogue_dhcp_server_beside_the_houses(party: Guarded, figures: Callable[..., Any], rounds: int) -> None:
    """Row 29: udhcpc in the house and dhclient at a player, from nothing each time."""
    with rogue_dhcp(party) as rogue:
        leases = [asks(party, victim) for _ in range(rounds) for victim in ("house-pc", VICTIM)]
    offers = sum("DHCPOFFER" in line for line in rogue.lines)
    servers = Counter(lease.server if lease else "nobody" for lease in leases)
    figures(
        29,
        f"{len(leases)} exchanges of two DHCP clients while dnsmasq on a player's computer answers, too",
        of_the_house=servers[ROUTER],
        of_the_player=servers[party.address("player1")],
        offers_sent_by_the_player=offers,
    )
    assert offers > 0, "the attacker offered nothing"
    assert servers == {ROUTER: len(leases)}
