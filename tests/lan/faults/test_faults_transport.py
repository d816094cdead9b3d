"""docs/faults.md, rows 2 to 6, 8 to 13, 16: what the internet does to the packets of members that are in the room.

One party for nearly all of it: player1 by way of the fault proxy, player2 and the gateway straight. Each test heals the
proxy and leaves everybody in the room.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trio
from fault_tools import (
    HOUSE,
    Proxy,
    client_options,
    finish,
    flow_to_house,
    flow_to_player,
    memory_kib,
    patched,
    start_proxy,
)
from lan_tools import answers, ping, poll

from lanparty.demo import inside, probes
from lanparty.demo.house import House, Underlay
from lanparty.demo.programs import SERVER_NAME, Party
from lanparty.proto.fragments import MAX_FRAMES, cut
from lanparty.quic.client import drive
from lanparty.quic.settings import QUEUE_AGE
from lanparty.quic.trust import Trust, load_pinned

pytestmark = pytest.mark.faults

FULL = pytest.param(True, marks=pytest.mark.slow, id="full")
SHORT = pytest.param(False, id="short")


@pytest.fixture(scope="module")
def crooked(build, gather) -> Iterator[tuple[Any, Proxy]]:
    """A party with player1 behind the proxy."""
    with ExitStack() as stack:
        party = build(stack)
        relay = party.start_relay("--stats-interval", "1")
        proxy = start_proxy(party)
        gateway = party.start_gateway(wait=False)
        player1 = party.start_client(*proxy.relay, wait_for=None)
        player2 = party.start_client(place="player2", wait_for=None)
        for player in (player1, player2):
            player.wait_for("client.address")
        gateway.wait_for("gateway.bridging")
        yield gather(party, relay, gateway, player1=player1, player2=player2), proxy


@pytest.fixture
def lan(crooked):
    return crooked[0]


@pytest.fixture
def proxy(crooked) -> Iterator[Proxy]:
    crooked[1].clear()
    yield crooked[1]
    crooked[1].clear()


@contextmanager
def same_session(lan: Any, player: str = "player1") -> Iterator[None]:
    """Nobody is lost, and nobody joins anew."""
    programs = [lan.players[player], lan.gateway]
    marks = [len(program.events) for program in programs]
    yield
    for program, mark in zip(programs, marks, strict=True):
        for name in ("uplink.lost", "uplink.network-changed", "uplink.admitted"):
            assert not program.named(name, since=mark), program.last_words()
    assert lan.players[player].running


@contextmanager
def flows(lan: Any, *, rate: float, size: int = 200) -> Iterator[list]:
    with flow_to_house(lan, rate=rate, size=size) as up, flow_to_player(lan, rate=rate, size=size) as down:
        yield [up, down]


@pytest.mark.parametrize("full", [SHORT, FULL])
def test_random_loss_stays_what_it_is(lan, proxy, figures, full):
    """Row 2: 2 % of the packets, both ways."""
    seconds = 60 if full else 4
    with same_session(lan), flows(lan, rate=400) as (up, down):
        with proxy.doing(both={"loss": 0.02}) as counted:
            time.sleep(seconds)
        seen = dict(zip(("up", "down"), finish(up, down), strict=True))
    link = {way: 100 * counted[f"{way}_lost"] / counted[f"{way}_in"] for way in seen}
    figures(
        2,
        f"2 % loss for {seconds} s, 400 packets/s each way",
        **{f"link_loss_{way}_percent": link[way] for way in seen},
        **{f"tunnel_loss_{way}_percent": seen[way].lost_percent for way in seen},
        disconnects=0,
    )
    for way, flow in seen.items():
        assert flow.lost_percent <= link[way] + 1.0
        assert flow.corrupt == flow.doubled == 0


def test_nothing_corrupt_comes_out(lan, proxy, figures):
    """Row 3: one bit of every fiftieth packet is flipped, both ways."""
    with same_session(lan), flows(lan, rate=1000) as (up, down):
        with proxy.doing(both={"corrupt": 0.02}) as counted:
            time.sleep(3)
        seen = finish(up, down)
    damaged = counted["up_corrupted"] + counted["down_corrupted"]
    figures(
        3,
        "2 % of packets with one bit flipped, 1000 packets/s each way",
        damaged=damaged,
        arrived=sum(flow.received for flow in seen),
        corrupt=sum(flow.corrupt for flow in seen),
        tunnel_loss_percent=max(flow.lost_percent for flow in seen),
    )
    assert damaged > 50
    for flow in seen:
        assert flow.corrupt == flow.doubled == 0
        assert flow.lost_percent < 4


def test_doubled_packets_come_out_once(lan, proxy, figures):
    """Row 4: every packet twice, both ways; and once more with the copy somewhat later."""
    with same_session(lan), flows(lan, rate=1000) as (up, down):
        with proxy.doing(both={"duplicate": 1.0}) as counted:
            time.sleep(2)
        with proxy.doing(both={"duplicate": 1.0, "jitter": 0.005}) as later:
            time.sleep(1)
        seen = finish(up, down)
    copies = sum(part[f"{way}_doubled"] for part in (counted, later) for way in ("up", "down"))
    figures(
        4,
        "every packet twice, 1000 packets/s each way",
        copies=copies,
        sent=sum(flow.sent for flow in seen),
        arrived=sum(flow.received for flow in seen),
        arrived_twice=sum(flow.doubled for flow in seen),
    )
    assert copies > 2000
    for flow in seen:
        assert flow.doubled == flow.corrupt == 0
        assert flow.lost_percent < 0.5


@pytest.mark.parametrize("full", [SHORT, FULL])
def test_jitter_loses_nothing_that_arrived(lan, proxy, figures, full):
    """Row 5: each packet is delayed by 0 to 10 ms of its own; the same at 20 000 packets/s (test_faults_quic.py has
    them in simulated time: two cores of a test machine cannot carry that rate through four Python programs).

    In full, at a rate that a busy machine may not carry either: then what the programs themselves did not send, and
    say so, is taken off.
    """
    rate = 5000 if full else 1500
    dropped = dropped_by_us(lan) if full else 0
    with (
        same_session(lan),
        flow_to_house(lan, rate=rate) as up,
        proxy.doing(up={"jitter": 0.010}, down={"jitter": 0.010}) as counted,
    ):
        time.sleep(4 if full else 2)
        (seen,) = finish(up)
    dropped = dropped_by_us(lan) - dropped if full else 0
    figures(
        5,
        f"jitter of 10 ms at {rate} packets/s",
        sent=seen.sent,
        arrived=seen.received,
        overtaken=seen.late,
        dropped_before_sending=dropped,
        p99_ms=seen.age(99),
        lost_on_the_way=counted.get("up_lost", 0),
    )
    assert seen.late > 100
    assert seen.received + seen.missed + dropped >= 0.999 * seen.sent


def dropped_by_us(lan: Any) -> int:
    """What player1's client and the relay say they dropped, up to now."""
    client, relay = lan.players["player1"], lan.relay
    known = relay.wait_for("relay.stats", 5, since=len(relay.events))["dropped"]
    return int(known) + int(client.wait_for("program.stats", 15, since=len(client.events))["dropped"])


def test_a_black_hole_of_two_seconds_is_outlived(lan, proxy, figures):
    """Row 6: the session goes on, and what waited too long is not sent any more."""
    with same_session(lan), flows(lan, rate=300) as (up, down):
        time.sleep(1)
        proxy.set(both={"hole": True})
        time.sleep(2.0)
        proxy.clear()
        healed = time.monotonic()
        poll(lambda: answers(lan.house.at("player1"), HOUSE, wait=0.2), 3, "the tunnel carries frames again", 0.01)
        back = time.monotonic() - healed
        time.sleep(1)
        seen = finish(up, down)
    bound = 2 * QUEUE_AGE  # a queue at each of two hops
    oldest = max(flow.oldest for flow in seen)
    figures(
        6,
        "2 s black hole, 300 packets/s each way",
        disconnects=0,
        back_after_s=back,
        oldest_frame_ms=1000 * oldest,
        bound_ms=1000 * bound,
        longest_silence_s=max(flow.gap for flow in seen),
    )
    # Besides the queues' bound: the way itself, and the moments in which a busy machine runs none of us.
    assert oldest < bound + 0.1
    for flow in seen:
        assert flow.doubled == 0
        assert flow.gap < 3.5


@pytest.mark.parametrize("full", [SHORT, FULL])
def test_a_nat_that_gives_another_port_again_and_again(lan, proxy, figures, full):
    """Row 8: another port, then another address, in the middle of a game."""
    seconds, every = (60, 5.0) if full else (3, 1.0)
    rebinds = 0
    addresses = [proxy.other, proxy.address]
    with same_session(lan), flows(lan, rate=200) as (up, down):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(every)
            proxy.set(rebind=addresses[rebinds // 3 % 2] if rebinds % 3 == 2 else True)
            rebinds += 1
        time.sleep(1)
        seen = finish(up, down)
    figures(
        8,
        f"another port each {every:g} s, each third time another address",
        rebinds=rebinds,
        rejoins=0,
        lost_up_percent=seen[0].lost_percent,
        lost_down_percent=seen[1].lost_percent,
        longest_silence_ms=1000 * max(flow.gap for flow in seen),
    )
    assert seen[0].lost_percent < 1
    assert seen[1].lost_percent < 2
    assert max(flow.gap for flow in seen) < 1


def test_a_nat_that_moves_an_idle_player(lan, proxy, figures):
    """Row 8, at rest: the relay cannot know before the player says something, which it does each 2 s."""
    with same_session(lan):
        proxy.set(rebind=proxy.other)
        began = time.monotonic()
        poll(
            lambda: answers(lan.house.at("lan-host"), lan.address("player1"), wait=0.1),
            5,
            "reached from the house",
            0.01,
        )
        took = time.monotonic() - began
        proxy.set(rebind=proxy.address)
        poll(lambda: answers(lan.house.at("player1"), HOUSE), 3, "player1 reaches the house")
    figures(8, "address rebind of an idle player", rejoins=0, reachable_again_s=took)
    assert took < 3


def test_a_path_that_carries_1300_bytes(lan, proxy, figures):
    """Row 9: packets above are dropped without a word: in the middle of a session, and from the start of one."""
    limit = 1300 - 28
    with same_session(lan):
        proxy.set(both={"largest": limit})
        began = time.monotonic()
        poll(lambda: answers_large(lan), 15, "full frames pass the smaller path")
        took = time.monotonic() - began
        with flows(lan, rate=100, size=1400) as (up, down):
            time.sleep(1.5)
            seen = finish(up, down)
        for size in (1472, 1200, 1100):
            ping(lan.house.at("player1"), HOUSE, size=size)
    assert max(flow.lost_percent for flow in seen) < 1
    poll(
        lambda: min(proxy.set()["largest"].values()) > 1200 or not answers_large(lan), 10, "the search finds what fits"
    )
    inside = proxy.set()
    figures(
        9,
        "path drops packets above 1300 bytes, in mid-session",
        full_frames_again_s=took,
        lost_percent=max(flow.lost_percent for flow in seen),
        largest_payload_up=inside["largest"]["up"],
        largest_payload_down=inside["largest"]["down"],
        carries=limit,
    )
    for way in ("up", "down"):
        assert 1200 <= inside["largest"][way] <= limit
    assert max(inside["largest"].values()) > 1200


def answers_large(lan: Any) -> bool:
    try:
        ping(lan.house.at("player1"), HOUSE, size=1472, count=1, timeout=1)
    except pytest.fail.Exception:
        return False
    return True


def test_frames_of_1514_bytes_both_ways(lan, figures):
    """Row 11."""
    player, host = lan.house.at("player1"), lan.house.at("lan-host")
    ping(player, HOUSE, size=1472, count=10)
    ping(host, lan.address("player1"), size=1472, count=10)
    ping(player, lan.address("player2"), size=1472, count=10)
    figures(11, "ping of 1472 bytes, DF, player ⇄ house, player ⇄ player", lost=0, of=30)


def test_frames_about_the_size_of_a_packet(lan, proxy, figures):
    """Row 10, through the programs: on a path of 1200-byte payloads, frames just below and above what fits whole."""
    with same_session(lan):
        proxy.set(both={"largest": 1200})
        poll(lambda: answers_large(lan), 15, "full frames pass the smallest path")
        # An echo request of N bytes is a frame of N + 42; a packet of 1200 carries one of 1166.
        for size in range(1116, 1134, 2):
            ping(lan.house.at("player1"), HOUSE, size=size, count=2)
        ping(lan.house.at("player1"), HOUSE, size=64, count=5)
        inside_ = proxy.set()["counters"]
    figures(10, "frames of 1158 to 1176 bytes at packets of 1200", lost=0, packets_too_large=inside_["up_too_large"])


def test_ten_thousand_frames_that_are_never_complete(lan, figures):
    """Row 12: a member sends pieces of frames whose other pieces never come, pieces twice, pieces that contradict."""
    house = lan.house
    house.add_namespace("guest")
    house.add_to_internet("guest", 33)
    hello = {
        "type": "hello",
        "version": {"major": 1, "minor": 0},
        "role": "client",
        "room": "ROOM1",
        "virtual_mac": "02:aa:bb:cc:dd:ee",
        "datagram_budget": 1170,
        "display_name": "pieces",
        "software": "by hand",
    }
    frame = b"\xff" * 6 + bytes.fromhex("02aabbccddee0806") + os.urandom(1486)

    def pieces(number: int) -> list[bytes]:
        first, second = cut(frame, 1170, number & 0xFFFF, b"\x11\x00\x00\x00")
        return {
            0: [first],  # its other half is missing
            1: [second],
            2: [first, first],  # twice
            3: [first, second[:7] + b"\x05" + second[8:]],  # of five, then of two
            4: [first, first[:8] + os.urandom(len(first) - 8)],  # the same place, other bytes
        }[number % 5]

    async def talk() -> int:
        async with trio.open_nursery() as nursery:
            trust = Trust(load_pinned(lan.party.certificate))

            async def run(task_status):
                await drive((house.relay_address, 443), server_name=SERVER_NAME, trust=trust, task_status=task_status)

            connection = await nursery.start(run)
            text = json.dumps(hello).encode()
            await connection.send_all(struct.pack(">I", len(text)) + text)
            assert b"welcome" in await connection.receive_some()
            for number in range(10_000):
                connection.send_datagrams(pieces(number))
                if number % 10 == 9:  # not faster than the path takes them: none is to be dropped by our own queue
                    connection.flush()
                    await trio.sleep(0.002)
            await trio.sleep(0.3)
            connection.close()
        return connection.counters.datagrams_out

    with same_session(lan):
        before = memory_kib(lan.relay.pid), memory_kib(lan.players["player1"].pid)
        sent = inside.call(house.at("guest"), lambda: trio.run(talk))
        after = memory_kib(lan.relay.pid), memory_kib(lan.players["player1"].pid)
        ping(house.at("player1"), HOUSE, size=1472)
    figures(
        12,
        "10 000 frame ids: halves, doubles, contradictions",
        pieces=sent,
        relay_grew_kib=after[0] - before[0],
        player_grew_kib=after[1] - before[1],
        unfinished_frames_kept=f"at most {MAX_FRAMES}",
    )
    # 13 000 pieces of 760 bytes are 10 MB; a connection, and what an allocator keeps, a few hundred KiB.
    assert sent > 15_000
    assert after[0] - before[0] < 4096
    assert after[1] - before[1] < 2048


def test_key_updates_of_the_real_programs_under_loss(lan, proxy, figures):
    """Row 13: player2's client is started with keys that last 100 packets; 5 % loss both ways; ten updates."""
    assert lan.players["player2"].stop() == 0
    options = [*client_options(lan.party, "player2"), *proxy.relay]
    program = patched(lan.party, "player2", "lanparty.client", options, patch="keys:100")
    lan.players["player2"] = program
    program.wait_for("client.address")
    mark = len(program.events)
    with (
        same_session(lan, "player2"),
        proxy.doing(both={"loss": 0.05}),
        flow_to_house(lan, "player2", rate=400) as up,
        flow_to_player(lan, "player2", rate=400) as down,
    ):
        poll(lambda: len(program.named("test.key-update", since=mark)) >= 10, 30, "ten key updates")
        seen = finish(up, down)
    figures(
        13,
        "key updates each 100 packets, 5 % loss, real client and relay",
        updates=len(program.named("test.key-update", since=mark)),
        lost_percent=max(flow.lost_percent for flow in seen),
        longest_silence_ms=1000 * max(flow.gap for flow in seen),
    )
    for flow in seen:
        assert flow.lost_percent < 8
        assert flow.gap < 0.5
        assert flow.corrupt == 0


def test_everything_over_ipv6_alone(tmp_path, figures):
    """Row 16: an internet without IPv4."""
    with House(prefix="six-", underlay=Underlay.IPV6) as house, Party(house, tmp_path, log_level="debug") as party:
        party.start_dhcp_server()
        party.start_relay()
        gateway = party.start_gateway(wait=False)
        player = party.start_client()
        address = player.named("client.address")[-1]["address"]
        gateway.wait_for("gateway.bridging")
        one, host = house.at("player1"), house.at("lan-host")
        ping(one, HOUSE, size=1472, count=10)
        ping(host, address, size=1472, count=10)
        moved = probes.transfer(one, host, HOUSE, size=5_000_000)
        assert moved.intact
        statuses = [program.stop() for program in (player, gateway)]
        party.programs[:] = [program for program in party.programs if program.running]
    figures(16, "IPv6-only underlay", pings_of_1514_bytes_lost=0, transfer_intact=moved.intact, exit_statuses=statuses)
    assert statuses == [0, 0]
