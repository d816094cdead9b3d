"""docs/faults.md, rows 1, 7, 14, 15: coming, being lost, and coming back.

Where many members are wanted they are one process with the real programs' uplink in it (many_members.py).
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from fault_tools import HOUSE, events_of, nft, no_nft, start_members, start_proxy
from lan_tools import answers, ping, poll

pytestmark = pytest.mark.faults

FULL = pytest.param(50, marks=pytest.mark.slow, id="50")
SHORT = pytest.param(15, id="15")
RELAY = ("--stats-interval", "1", "--max-clients-per-room", "100")
"""Options: one room for all who come."""


@pytest.fixture(scope="module")
def home(build, gather):
    """A party with a proxy beside the straight way; the guest's place is free."""
    with ExitStack() as stack:
        party = build(stack)
        party.house.add_namespace("guest")
        party.house.add_to_internet("guest", 33)
        relay = party.start_relay(*RELAY)
        gateway = party.start_gateway(wait=False)
        player1 = party.start_client()
        gateway.wait_for("gateway.bridging")
        yield gather(party, relay, gateway, player1=player1), start_proxy(party)


@pytest.fixture(scope="module")
def crowd(home):
    """Ten members who are in the room all the time; made early, so that their sessions have lasted."""
    program = start_members(home[0].party, 10, first=1000)
    yield program
    program.kill()


@pytest.fixture
def lan(home):
    return home[0]


@pytest.fixture
def proxy(home):
    home[1].clear()
    yield home[1]
    home[1].clear()


def members_of(program, name, since=0):
    return {event["member"]: event for event in events_of(program, name, since)}


@pytest.mark.parametrize("count", [SHORT, FULL])
def test_everybody_gets_in_through_heavy_loss(lan, proxy, crowd, figures, count):
    """Row 1: of all packets 30 % are lost, in runs of 3 on average, both ways, from the first one on."""
    proxy.set(both={"loss": 0.3, "burst": 3})
    began = time.monotonic()
    program = start_members(lan.party, count, *proxy.relay, first=0)
    try:
        # The programs' own patience before their first admission is 15 s, for each of them.
        poll(lambda: len(members_of(program, "member.admitted")) == count, 40, f"{count} members are admitted")
        admitted = members_of(program, "member.admitted")
        first = {}
        for event in events_of(program, "member.connecting"):
            first.setdefault(event["member"], event["at"])
        took = sorted(event["at"] - first[member] for member, event in admitted.items())
        tries = len(events_of(program, "member.connecting"))
        counted = proxy.counters()
        figures(
            1,
            f"30 % loss in bursts of 3, {count} joins",
            admitted=len(admitted),
            median_s=took[len(took) // 2],
            slowest_s=took[-1],
            tries=tries,
            all_within_s=time.monotonic() - began,
            link_loss_percent=100 * counted["up_lost"] / counted["up_in"],
        )
        assert took[len(took) // 2] < 5
    finally:
        program.kill()


def test_a_black_hole_longer_than_patience(lan, proxy, figures):
    """Rows 7 and 15: twelve members lose their path for longer than the idle time-out (10 s), without a goodbye."""
    count = 12
    program = start_members(lan.party, count, *proxy.relay, first=2000)
    try:
        poll(lambda: len(members_of(program, "member.admitted")) == count, 20, "the members are admitted")
        since, relays = len(program.events), len(lan.relay.events)
        time.sleep(1.2)  # the relay's statistics are told each second
        others = connections(lan) - count
        proxy.set(both={"hole": True})
        began = time.monotonic()
        poll(lambda: len(members_of(program, "member.lost", since)) == count, 8, "all members notice")
        lost = sorted(event["at"] - began for event in members_of(program, "member.lost", since).values())
        poll(lambda: connections(lan) <= others, 12, "the relay has forgotten them")
        cleaned = time.monotonic() - began
        time.sleep(max(0.0, began + 12 - time.monotonic()))
        proxy.clear()
        healed = time.monotonic()
        mark = since
        poll(lambda: len(members_of(program, "member.admitted", mark)) == count, 12, "all are back")
        back = sorted(event["at"] - healed for event in members_of(program, "member.admitted", mark).values())
        tries = [event["at"] - began for event in events_of(program, "member.connecting", since)]
        figures(
            7,
            f"black hole of 12 s, {count} members",
            noticed_s=f"{lost[0]:.2f} to {lost[-1]:.2f}",
            relay_clean_after_s=cleaned,
            tries_meanwhile=len([at for at in tries if at < 12]),
            back_s=f"{back[0]:.2f} to {back[-1]:.2f}",
        )
        assert lost[-1] < 6
        assert back[-1] < 10
        assert back[-1] - back[0] > 0.3, "not all at once"
        # Back-off: each tries less and less often, not five times a second.
        assert len([at for at in tries if at < 12]) <= 6 * count
        assert lan.relay.running
        assert len(lan.relay.events) >= relays
    finally:
        program.kill()


def connections(lan) -> int:
    """What the relay's last statistics say."""
    return int(lan.relay.named("relay.stats")[-1]["quic.connections"])


def test_the_relay_dies_and_returns(lan, crowd, figures):
    """Row 14: everybody is back within ten seconds, spread."""
    count = 10
    poll(lambda: len(members_of(crowd, "member.admitted")) == count, 20, "the members are admitted")
    since, mark = len(crowd.events), len(lan.players["player1"].events)
    lan.relay.kill()
    poll(lambda: len(members_of(crowd, "member.lost", since)) == count, 8, "all members notice")
    time.sleep(2)
    lan.relay = lan.party.start_relay(*RELAY)
    up = time.monotonic()
    poll(lambda: len(members_of(crowd, "member.admitted", since)) == count, 12, "all are back")
    lan.players["player1"].wait_for("uplink.admitted", 10, since=mark)
    poll(lambda: answers(lan.house.at("player1"), HOUSE), 10, "player1 reaches the house")
    all_back = time.monotonic() - up
    back = sorted(event["at"] - up for event in members_of(crowd, "member.admitted", since).values())
    figures(
        14,
        f"relay killed and back after 2 s; {count} members, a gateway and a player",
        first_s=back[0],
        median_s=back[count // 2],
        last_s=back[-1],
        house_reached_s=all_back,
    )
    assert all_back < 10
    assert back[-1] - back[0] > 0.05, "not all at once"  # a handshake costs the relay 1 ms
    ping(lan.house.at("player1"), HOUSE, size=1472)


def test_a_lost_goodbye_of_a_member(lan, proxy, figures):
    """Row 15: the player's CONNECTION_CLOSE never arrives; the relay notices, and tells the room."""
    party = lan.party
    player2 = party.start_client(*proxy.relay, place="player2")
    peer = player2.named("client.joined")[-1]["peer"]
    mark = len(lan.gateway.events)
    proxy.set(both={"hole": True})
    began = time.monotonic()
    assert player2.stop() == 0
    stopped = time.monotonic() - began
    lan.gateway.wait_for("room.peer-left", 8, since=mark, peer=peer)
    took = time.monotonic() - began
    figures(15, "a member's goodbye is lost", member_ended_after_s=stopped, room_told_after_s=took)
    assert took < 5.5
    party.programs.remove(player2)


def test_a_lost_goodbye_of_the_relay(lan, proxy, figures):
    """Row 15, the other way: the relay ends, and its goodbye and all ICMP are lost."""
    nft(lan.house.at("relay"), "mute", "type filter hook output priority 0; oifname wan0 drop")
    programs = [lan.gateway, lan.players["player1"]]
    marks = [len(program.events) for program in programs]
    began = time.monotonic()
    assert lan.relay.stop() == 0
    for program, mark in zip(programs, marks, strict=True):
        program.wait_for("uplink.lost", 8, since=mark)
    took = time.monotonic() - began
    no_nft(lan.house.at("relay"), "mute")
    lan.relay = lan.party.start_relay(*RELAY)
    poll(lambda: answers(lan.house.at("player1"), HOUSE), 12, "player1 reaches the house")
    figures(15, "the relay's goodbye is lost", members_noticed_after_s=took)
    assert took < 5.5
