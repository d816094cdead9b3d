"""Rows 22, 30, 31 and 32: one who does not read, one who sends too much, a LAN with a loop, a LAN with too many MACs.

And what a flood of each kind costs the others (decision 0018), which no row asks for.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lan_tools import inject, marker, observing, ping, poll, run

from lanparty.demo import probes
from lanparty.demo.house import SWITCH, SWITCH_BRIDGE
from lanparty.demo.programs import SERVER_NAME, Party, Program

pytestmark = pytest.mark.faults

HOUSE = "192.168.77.1"
HOSTILE = Path(__file__).with_name("hostile_member.py")
BROADCAST = b"\xff" * 6
LAN_HOST_MAC = bytes.fromhex("00163e007701")


def resident(program: Program) -> float:
    """MiB of memory that a program has."""
    for line in Path(f"/proc/{program.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def of_player(player: Program, field: str) -> str:
    return str(player.named("client.joined")[-1][field])


@contextmanager
def hostile(party: Party, what: str, rate: int) -> Iterator[Program]:
    """A member at the place "guest" that floods."""
    argv = [sys.executable, HOSTILE, party.house.relay_address, "443", SERVER_NAME, party.certificate, "ROOM1"]
    program = party.start("hostile", "guest", [*argv, what, str(rate)])
    try:
        program.wait_for("hostile.admitted")
        yield program
    finally:
        program.kill()
        party.programs.remove(program)


def sent(program: Program) -> float:
    """Things a second that a hostile member sent."""
    first, *_, last = program.named("hostile.sent")
    return (last["sent"] - first["sent"]) / (last["at"] - first["at"])


@pytest.fixture
def party(own_party: Party) -> Party:
    own_party.house.add_namespace("guest")
    own_party.house.add_to_internet("guest", 33)
    return own_party


def start_all(party: Party) -> tuple[Program, Program, Program]:
    relay = party.start_relay("--stats-interval", "1")
    gateway = party.start_gateway()
    return relay, gateway, party.start_client(place="player1")


# ------------------------------------------------------------------------------------------------ 22


def test_a_member_that_stops_reading_is_nobody_elses_matter(party: Party, figures: Callable[..., None]) -> None:
    relay, _, player1 = start_all(party)
    player2 = party.start_client(place="player2")
    house, namespace = party.house, party.house.at("player1")
    before, spoken = resident(relay), len(player2.events)
    os.kill(player2.pid, signal.SIGSTOP)
    try:
        done = [inject_game(party, mark := marker("game"), 400)]
        result = probes.ping(namespace, HOUSE, count=100, interval=0.02)
        done.append(inject_game(party, mark, 400))
        grown = resident(relay) - before
        relay.wait_for("relay.member-left", 15, peer=player2.named("client.joined")[-1]["peer"])
    finally:
        os.kill(player2.pid, signal.SIGCONT)
    figures(
        22, "a player's machine stops reading for 5 s", sent=sum(done), others_lost=result.lost, relay_grew_mib=grown
    )
    assert result.lost == 0
    assert grown < 8, "its queue holds 2 MiB"
    player2.wait_for("client.joined", 20, since=spoken)
    ping(house.at("player2"), HOUSE)
    assert player1.running


def inject_game(party: Party, mark: bytes, count: int) -> int:
    """Broadcasts of 1000 bytes from the house, half a second's worth of a game with too much to say."""
    frame = (BROADCAST + LAN_HOST_MAC + b"\x81\x37\xff\xff" + mark).ljust(1000, b"\0")
    for _ in range(count // 20):
        inject(party.house.at("lan-host"), "eth0", *[frame] * 20)
    return count


# ------------------------------------------------------------------------------------------------ 30, fairness


def test_a_storm_of_broadcasts_is_capped(party: Party, figures: Callable[..., None]) -> None:
    relay, _, player1 = start_all(party)
    namespace, tap = party.house.at("player1"), of_player(player1, "interface")
    with observing((namespace, tap), (party.house.at("lan-host"), "eth0")) as observers:
        quiet = probes.ping(namespace, HOUSE, count=150, interval=0.02)
        start = time.monotonic()
        with hostile(party, "broadcast", 50_000) as flood:
            result = probes.ping(namespace, HOUSE, count=250, interval=0.02)
            poll(lambda: len(flood.named("hostile.sent")) > 2, 10, "the flood went on")
            rate = sent(flood)
        seconds = time.monotonic() - start
        received = [observer.count(b"hostile") for observer in observers]
    figures(
        30,
        "50 000 broadcasts/s of one member",
        sent_per_s=round(rate),
        received_per_s=max(received) / seconds,
        others_lost=f"{result.lost}/{result.sent}",
        p50_ms=result.milliseconds(50),
        p99_ms=result.milliseconds(99),
        quiet_p50_ms=quiet.milliseconds(50),
        quiet_p99_ms=quiet.milliseconds(99),
    )
    assert rate > 10_000
    for count in received:
        assert 0 < count <= 400 + 200 * seconds
    assert result.lost < 0.01 * result.sent
    assert any(event.get("rule") == "storm" for event in relay.named("relay.frames-blocked"))


@pytest.mark.parametrize(
    "floods",
    [
        [("house", 30_000), ("pieces", 50_000)],
        pytest.param(
            [("unknown", 50_000), ("garbage", 50_000), ("echo", 50_000), ("forged", 50_000)], marks=pytest.mark.slow
        ),
    ],
    ids=["the dear ones", "the others"],
)
def test_no_flood_of_one_member_costs_the_others_their_frames(
    party: Party, figures: Callable[..., None], floods: list[tuple[str, int]]
) -> None:
    start_all(party)
    namespace = party.house.at("player1")
    for what, rate in floods:
        with hostile(party, what, rate) as flood:
            flood.wait_for("hostile.sent", 20)
            result = probes.ping(namespace, HOUSE, count=100, interval=0.02)
            if what != "forged":  # who sends nothing else is not heard of
                assert flood.running, flood.last_words(20)
        figures(
            30,
            f"flood of {what}, {rate}/s",
            others_lost=f"{result.lost}/{result.sent}",
            p50_ms=result.milliseconds(50),
            p99_ms=result.milliseconds(99),
        )
        assert result.lost <= 0.01 * result.sent, what


def test_a_flood_of_control_messages_ends_its_session(party: Party, figures: Callable[..., None]) -> None:
    start_all(party)
    with hostile(party, "control", 20_000) as flood:
        result = probes.ping(party.house.at("player1"), HOUSE, count=100, interval=0.02)
        flood.wait_ended(15)
    figures(30, "20 000 control messages/s", others_lost=f"{result.lost}/{result.sent}")
    assert result.lost == 0


# ------------------------------------------------------------------------------------------------ 31


@contextmanager
def looped(party: Party) -> Iterator[None]:
    """A cable with both ends in the house's switch; a slow one, for this machine has other things to do."""
    switch = party.house.at(SWITCH)
    run(switch, "ip", "link", "add", "loop-a", "type", "veth", "peer", "name", "loop-b")
    try:
        for end in ("loop-a", "loop-b"):
            run(
                switch,
                "tc",
                "qdisc",
                "add",
                "dev",
                end,
                "root",
                "tbf",
                "rate",
                "2mbit",
                "burst",
                "4k",
                "latency",
                "20ms",
            )
            run(switch, "ip", "link", "set", end, "master", SWITCH_BRIDGE, "up")
        yield
    finally:
        run(switch, "ip", "link", "del", "loop-a")


def test_a_loop_in_the_house_is_told_and_kept_out_of_the_room(party: Party, figures: Callable[..., None]) -> None:
    _, gateway, player1 = start_all(party)
    house, tap = party.house, of_player(player1, "interface")
    mark = marker("round")
    with observing((house.at("player1"), tap)) as (observer,):
        with looped(party):
            start = time.monotonic()
            inject(
                house.at("lan-host"), "eth0", (BROADCAST + LAN_HOST_MAC + b"\x81\x37\xff\xff" + mark).ljust(80, b"\0")
            )
            gateway.wait_for("gateway.loop", 15)
            told = time.monotonic() - start
            until_told = observer.count(mark)
            time.sleep(2)
            observer.collect()
            before = len(observer.frames)
            time.sleep(3)
            observer.collect()
            flowed = len(observer.frames) - before
        since = len(gateway.events)
        gateway.wait_for("gateway.loop-cleared", 40, since=since)
        cleared = time.monotonic() - start - told - 5
    poll(lambda: pings(house.at("player1")), 10, "frames flow again")
    figures(
        31,
        "a cable with both ends in the switch",
        told_after_s=told,
        frames_until_then=until_told,
        frames_per_s_while_paused=flowed / 3,
        flows_again_after_s=cleared,
    )
    assert flowed == 0
    assert until_told <= 8 * (400 + 200 * (told + 1))
    assert len(gateway.named("gateway.loop")) == 1


def pings(namespace: str) -> bool:
    return run(namespace, "ping", "-n", "-c", "1", "-W", "1", HOUSE, check=False).returncode == 0


# ------------------------------------------------------------------------------------------------ 32


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_lan_with_too_many_macs(party: Party, figures: Callable[..., None], count: int) -> None:
    relay, gateway, player1 = start_all(party)
    house = party.house
    mac = bytes.fromhex(of_player(player1, "mac").replace(":", ""))
    before = {program.label: resident(program) for program in (relay, gateway)}
    with observing((house.at("player1"), of_player(player1, "interface"))) as (observer,):
        mark = marker("macs")
        for start in range(0, count, 500):
            frames = [
                (mac + b"\x00\x16" + (start + number).to_bytes(4) + b"\x81\x37\xff\xff" + mark).ljust(60, b"\0")
                for number in range(500)
            ]
            inject(house.at("lan-host"), "eth0", *frames)
            observer.collect()
            time.sleep(0.02)  # a gateway that is away for a moment would see less of them
        # What the kernel's queue at the gateway cannot hold is lost there.
        poll(lambda: observer.count(mark) > count / 4, 15, "many of them arrive")
        # Somebody in the house who claims to be the player: the switch believes it, until the next CAM refresh.
        inject(house.at("lan-host"), "eth0", *[(BROADCAST + mac + b"\x81\x37\xff\xff" + mark).ljust(60, b"\0")] * 50)
        poll(lambda: pings(house.at("player1")), 10, "the player has its MAC back")
        arrived = observer.count(mark)
        stolen = sum(frame[6:12] == mac for frame in observer.frames if mark in frame)
    grown = {program.label: resident(program) - before[program.label] for program in (relay, gateway)}
    result = probes.ping(house.at("player1"), HOUSE, count=50, interval=0.02)
    figures(
        32,
        f"{count} source MACs from the LAN",
        arrived=arrived,
        relay_grew_mib=grown["relay"],
        gateway_grew_mib=grown["gateway"],
        ping_lost_after=result.lost,
    )
    assert stolen == 0
    assert max(grown.values()) < 10
    assert result.lost == 0


def test_the_tables_themselves_under_100_000_macs(figures: Callable[..., None]) -> None:
    from lanparty.ctrl.messages import Member, Role
    from lanparty.gateway.members import RemoteMembers

    mac = bytes.fromhex("020000000001")
    members = RemoteMembers(own_mac=b"\x02" + bytes(5))
    members.replace([Member(peer_id=1, role=Role.CLIENT, virtual_mac=mac.hex(":"), display_name="p")])
    for number in range(100_000):
        source = b"\x00\x17" + number.to_bytes(4)
        members.to_room([mac + source + b"\x08\x00" + bytes(46)])
        members.to_house_untrusted([(7, mac + b"\x02\x17" + number.to_bytes(4) + b"\x08\x00" + bytes(46))], 0.0)
    figures(32, "the gateway's table", entries=len(members.macs))
    assert mac in members.macs
    assert len(members.macs) <= 1 + 16
