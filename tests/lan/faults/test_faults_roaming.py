"""Roaming (docs/faults.md, row 8 and what the table leaves out): another address, another cable, sleep.

The player's own network changes under the real client. What must stay: the session, or at least a quick return; always
the adapter, its MAC and its lease. Outages are those of a flow of 200 packets/s each way.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fault_tools import HOUSE, client_options, finish, flow_to_house, flow_to_player, patched, start_proxy
from lan_tools import answers, poll, run

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def lan(build, gather):
    from contextlib import ExitStack

    with ExitStack() as stack:
        party = build(stack)
        relay = party.start_relay("--stats-interval", "1")
        gateway = party.start_gateway(wait=False)
        player1 = party.start_client(wait_for="client.address")
        # The same program as it was before it could move: what it is compared with.
        player2 = patched(party, "player2", "lanparty.client", client_options(party, "player2"), patch="reconnect")
        player2.wait_for("client.address")
        gateway.wait_for("gateway.bridging")
        yield gather(party, relay, gateway, player1=player1, player2=player2)


def identity(lan, player: str) -> tuple:
    """What must never change: name, number and MAC of the adapter, its address, who gave it."""
    shown = run(lan.house.at(player), "ip", "-4", "-o", "address", "show", "dev", lan.tap(player)).stdout
    link = run(lan.house.at(player), "ip", "-o", "link", "show", "dev", lan.tap(player)).stdout
    return lan.mac(player), re.findall(r"^\d+: \S+|inet \S+", shown), re.findall(r"^\d+|ether \S+", link)


@contextmanager
def moving(lan, player: str) -> Iterator[dict]:
    """Measure the longest silence each way over what the block does."""
    before, found = identity(lan, player), {}
    program, mark = lan.players[player], len(lan.players[player].events)
    with flow_to_house(lan, player, rate=200) as up, flow_to_player(lan, player, rate=200) as down:
        time.sleep(0.5)
        yield found
        names = "uplink.moved", "uplink.admitted"
        poll(lambda: any(program.named(name, since=mark) for name in names), 15, f"{player} is back")
        time.sleep(0.7)
        seen = finish(up, down)
    found |= {
        "outage_up_ms": 1000 * seen[0].gap,
        "outage_down_ms": 1000 * seen[1].gap,
        "rejoins": len(program.named("uplink.admitted", since=mark)),
    }
    assert identity(lan, player) == before
    assert not program.named("client.address", since=mark), "the lease was not kept"


def ip(lan, place: str, *commands: str) -> None:
    """Commands of ip(8), one right after the other."""
    file = lan.party.directory / "ip-batch"
    file.write_text("".join(f"{command}\n" for command in commands))
    run(lan.house.at(place), "ip", "-batch", str(file))


def change_address(lan, player: str, number: int) -> None:
    """DHCP of another network: the old address goes, a new one comes."""
    ip(
        lan,
        player,
        "address flush dev wan0 scope global",
        f"address add 10.99.0.{number}/24 dev wan0",
        "route add default via 10.99.0.1",
    )


def test_another_address(lan, figures):
    with moving(lan, "player1") as now:
        change_address(lan, "player1", 71)
    figures(8, "the player's own address changes", **now)
    assert now["rejoins"] == 0
    assert max(now["outage_up_ms"], now["outage_down_ms"]) < 2500


@pytest.mark.slow
def test_another_address_if_the_session_were_made_anew(lan, figures):
    """What the programs did before they could move, for comparison."""
    with moving(lan, "player2") as before:
        change_address(lan, "player2", 72)
    figures(8, "the same, if the session were made anew", **before)
    assert before["rejoins"] >= 1


def plug_in(lan, player: str, number: int) -> None:
    """A second way to the internet, for when the first one goes."""
    where = lan.house.at(player)
    ip(
        lan,
        "internet",
        f"link add cable-{player} type veth peer name wan1 netns {where}",
        f"link set cable-{player} master internet0 up",
    )
    ip(
        lan,
        player,
        "link set wan1 up",
        f"address add 10.99.0.{number}/24 dev wan1 metric 200",
        "route add default via 10.99.0.1 dev wan1 metric 200",
    )


def test_from_wifi_to_the_cable_and_back(lan, figures):
    """The interface that the session uses goes, address and all, and another takes over; later it is the reverse."""
    plug_in(lan, "player1", 81)
    time.sleep(1)
    with moving(lan, "player1") as found:
        ip(lan, "player1", "link set wan0 down", "address flush dev wan0")
    figures(8, "the interface goes, another one takes over", **found)
    assert found["rejoins"] == 0
    assert max(found["outage_up_ms"], found["outage_down_ms"]) < 2500
    ip(
        lan,
        "player1",
        "link set wan0 up",
        "address add 10.99.0.91/24 dev wan0",
        "route add default via 10.99.0.1 dev wan0",
    )
    with moving(lan, "player1") as back:
        ip(lan, "player1", "link set wan1 down")
    figures(8, "and back", **back)
    assert back["rejoins"] == 0


def test_no_network_for_a_while_then_another(lan, figures):
    """Three seconds in a lift: no address and no way at all, then another network."""
    with moving(lan, "player1") as found:
        ip(lan, "player1", "address flush dev wan0 scope global")
        time.sleep(3)
        change_address(lan, "player1", 73)
        back = time.monotonic()
        poll(lambda: lan.players["player1"].named("uplink.moved")[-1]["address"] == "10.99.0.73", 5, "moved")
        took = time.monotonic() - back
    figures(8, "no network for 3 s, then another one", moved_after_ms=1000 * took, **found)
    assert found["rejoins"] == 0


@pytest.mark.parametrize(("seconds", "rejoins"), [(3.0, 0), pytest.param(8.0, 1, marks=pytest.mark.slow)])
def test_the_computer_sleeps(lan, figures, seconds, rejoins):
    """Shorter than the relay's patience: the session lives. Longer: it is back at once, and not after a time-out."""
    program = lan.players["player1"]
    before, mark = identity(lan, "player1"), len(program.events)
    os.kill(program.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(program.pid, signal.SIGCONT)
    woke = time.monotonic()
    poll(lambda: answers(lan.house.at("player1"), HOUSE, wait=0.1), 10, "player1 reaches the house", 0.01)
    took = time.monotonic() - woke
    time.sleep(1)
    admitted = len(program.named("uplink.admitted", since=mark))
    figures(8, f"asleep for {seconds:g} s", rejoins=admitted, back_after_s=took)
    assert admitted == rejoins
    assert took < 3
    assert identity(lan, "player1") == before


@pytest.mark.slow
def test_another_address_far_from_the_relay(lan, figures):
    """At a round trip of 80 ms a handshake costs what the move does not."""
    proxy = start_proxy(lan.party)
    proxy.set(both={"delay": 0.040})
    found = {}
    for player, patch, number in (("player1", "plain", 75), ("player2", "reconnect", 76)):
        assert lan.players[player].stop() == 0
        options = [*client_options(lan.party, player), *proxy.relay]
        lan.players[player] = patched(lan.party, player, "lanparty.client", options, patch=patch)
        lan.players[player].wait_for("client.address")
        time.sleep(3)
        with moving(lan, player) as found[player]:
            change_address(lan, player, number)
    figures(8, "another address, 80 ms from the relay", **found["player1"])
    figures(8, "the same, if the session were made anew", **found["player2"])
    assert found["player1"]["rejoins"] == 0
    assert found["player1"]["outage_up_ms"] < 2500
