"""24 hours of two rooms in simulated time, and that what is checked there would be noticed.

Each day runs in a process of its own, so that nothing of other tests is counted as a leak; and twice, with another hash
seed, so that an order that comes from a set of strings or of objects shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from life_hosts import SERVER, Computer, Ledger, Server, Window
from life_net import RELAY, Internet, Line, SimSocket
from life_story import BOUND, INCIDENTS, PARTS, Leak, Story, Stuck, live

from lanparty.link.memory import MemorySegment
from lanparty.obs import events
from lanparty.quic.connection import UdpPath
from lanparty.relay.hub import Hub

STORY = Path(__file__).with_name("life_story.py")


def days(*arguments, hash_seeds=("1", "2")):
    """The reports of the same day in one process for each hash seed, all at the same time."""
    processes = [
        subprocess.Popen(
            [sys.executable, STORY, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in hash_seeds
    ]
    reports = []
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors[-8000:]
        reports.append(json.loads(output))
    return reports


def everything_happened(report):
    """A day on which nothing happened would show nothing."""
    assert set(report["incidents"]) == {incident.__name__.strip("_") for incident in INCIDENTS}
    counts = report["events"]
    assert counts["life.relay"] >= PARTS
    assert counts["life.gateway"] >= PARTS
    assert counts["uplink.lost"] >= PARTS
    assert events.FRAMES_BLOCKED.name not in counts, "the strict guard lets all of it pass"
    assert report["key_updates"] > 20
    assert report["lost"] > 1000
    assert report["frames"]["heard"] > 10_000
    assert report["waits"]["longest"] <= BOUND + 2


def test_24_hours():
    one, other = days("--seed", "1", "--hours", "24")
    assert one["digest"] == other["digest"]
    everything_happened(one)


def test_another_seed_is_another_day():
    (one,) = days("--seed", "2", "--hours", "1", hash_seeds=("1",))
    (other,) = days("--seed", "3", "--hours", "1", hash_seeds=("1",))
    assert one["digest"] != other["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["4", "5", "6"])
def test_24_hours_with_more_players(seed):
    one, other = days("--seed", seed, "--hours", "24", "--more", "5")
    assert one["digest"] == other["digest"]
    everything_happened(one)


# ------------------------------------------------------------------------------------ what would be noticed


def test_a_relay_that_forgets_to_forget_is_noticed(monkeypatch):
    """Members stay in the table of sessions when they leave."""
    monkeypatch.setattr(Hub, "leave", _without(Hub.leave, lambda hub: hub.sessions))
    with pytest.raises(Leak, match="sessions"):
        live(1, 0.5)


def test_a_player_whom_the_house_does_not_answer_is_noticed(monkeypatch):
    """From the third question on."""
    asked = []

    async def asks(_computer, _target):
        asked.append(1)
        await trio.sleep(1)
        return len(asked) < 3

    monkeypatch.setattr(Computer, "asks", asks)
    with pytest.raises(Stuck, match="not in 2"):
        live(1, 1)


def test_a_task_that_fails_is_noticed(monkeypatch):
    """The relay goes on, and the member would come again."""

    def join(*_arguments, **_more):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Hub, "join", join)
    with pytest.raises(AssertionError, match="a mistake"):
        live(1, 0.5)


def test_a_frame_that_is_heard_twice_is_noticed(monkeypatch):
    take = Computer._take
    monkeypatch.setattr(Computer, "_take", lambda computer, frame: (take(computer, frame), take(computer, frame)))
    with pytest.raises(AssertionError, match="heard 1 of"):
        live(1, 1)


def _without(leave, table):
    """``leave`` which loses nothing from ``table``."""

    def wrong(hub, joined):
        before = dict(table(hub))
        result = leave(hub, joined)
        table(hub).update(before)
        return result

    return wrong


def test_a_window_knows_the_last_4096():
    window = Window()
    assert window.is_new(10)
    assert not window.is_new(10)
    assert window.is_new(8), "later, but not the same"
    assert not window.is_new(8)
    assert window.is_new(5000)
    assert not window.is_new(10), "it cannot be told any more"
    assert window.is_new(5000 - 4095)


def test_hosts_of_two_rooms_hear_of_it():
    """Were the relay to mix them up."""
    ledger, cable = Ledger(), MemorySegment()
    one = Computer("one", bytes.fromhex("020000000001"), 0, 1, ledger)
    other = Computer("other", bytes.fromhex("020000000002"), 1, 1, ledger)
    for computer in (one, other):
        computer.segment = cable
        cable.devices.append(computer)
    one.address = SERVER
    one.shout()
    assert ledger.astray == ["other heard 1 of 1 in room 0"]


async def test_a_lease_and_an_answer(autojump_clock):
    ledger, cable = Ledger(), MemorySegment()
    computer, server = Computer("one", bytes.fromhex("020000000001"), 0, 1, ledger), Server(0, ledger)
    for host in (computer, server):
        host.segment = cable
        cable.devices.append(host)
    assert not await computer.asks(SERVER)
    computer.ask_for_address()
    await computer.confirmed.wait()
    assert str(computer.address) == "192.168.77.100"
    assert await computer.asks(SERVER)
    assert not await computer.asks(computer.address + 1)
    computer.renew()
    await computer.confirmed.wait()
    computer.release()
    assert computer.address is None
    assert (ledger.twice, ledger.astray) == ([], [])
    assert server.book.bindings


@pytest.mark.parametrize(
    ("change", "arrivals"),
    [
        ({}, [0.010]),
        ({"loss": 1.0}, []),
        ({"dead": True}, []),
        ({"twice": 1.0, "delay": 0.5}, [0.5, 0.5]),
        ({"mtu": 3}, []),
    ],
)
async def test_a_line_does_what_it_says(autojump_clock, nursery, change, arrivals):
    internet = Internet()
    line = Line(internet, 1, "x", **change)
    nursery.start_soon(internet.run)
    internet.relay = SimSocket(internet, None, {})
    sock = SimSocket(internet, line, {})
    sock.send_batch(UdpPath(RELAY), [b"1234"])
    heard = []
    with trio.move_on_after(1):
        while True:
            await internet.relay.wait_readable()
            for received in internet.relay.receive_batch(1):
                heard.append(trio.current_time())
                assert received.path.remote[0] == line.address
    assert heard == pytest.approx(arrivals)


async def test_a_line_that_moves_is_not_found_at_its_old_address(autojump_clock, nursery):
    internet = Internet()
    line = Line(internet, 1, "x")
    nursery.start_soon(internet.run)
    internet.relay = relay = SimSocket(internet, None, {})
    sock = SimSocket(internet, line, {})
    sock.send_batch(UdpPath(RELAY), [b"hello"])
    await relay.wait_readable()
    ((path, _, _),) = relay.receive_batch(9)
    line.move(noticed=False)
    relay.send_batch(path, [b"lost"])
    sock.send_batch(UdpPath(RELAY), [b"again"])
    await relay.wait_readable()
    ((moved, _, _),) = relay.receive_batch(9)
    assert moved != path
    relay.send_batch(moved, [b"found"])
    await sock.wait_readable()
    assert [received.packets for received in sock.receive_batch(9)] == [[b"found"]]


async def test_a_relay_that_is_away_is_told_by_its_machine(autojump_clock, nursery):
    internet = Internet()
    nursery.start_soon(internet.run)
    errors = {"ECONNREFUSED": 0}
    sock = SimSocket(internet, Line(internet, 1, "x"), errors)
    sock.send_batch(UdpPath(RELAY), [b"hello"])
    await sock.wait_readable()
    assert sock.receive_batch(9) == []
    assert (sock.failed, errors["ECONNREFUSED"]) == (True, 1)


def test_one_mac_is_in_two_rooms():
    """faults.md, 27."""
    anna, _bert, carl = Story(1, 1).players
    assert (anna.mac, anna.room) != (carl.mac, carl.room)
    assert anna.mac == carl.mac
