"""The guard's benchmark measures what it says: lawful frames, and the short way where it says so."""

from __future__ import annotations

import json

import attrs
import pytest

from lanparty.guard.levels import Level
from lanparty.relay import bench_guard
from lanparty.relay.bench_guard import CASES, NotLawfulError, Room, judge_time, switch_time

FLOWS = [case for case in CASES if "flow" in case.name or "broadcast" in case.name]


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_frame_is_lawful_and_stays_so(case, level):
    room = Room(level)
    for _ in range(50):
        room.check(case)


def test_a_frame_that_is_not_ends_the_benchmark():
    forged = attrs.evolve(CASES[0], frame=CASES[0].frame[:6] + bytes(5) + b"\x09" + CASES[0].frame[12:])
    with pytest.raises(NotLawfulError, match="is dropped: address"):
        judge_time(forged, Level.STRICT, 1)


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("case", FLOWS, ids=lambda case: case.name)
def test_flows_take_the_short_way_and_all_of_them_leave(case, level):
    room = Room(level)
    room.check(case)
    port, batch = room.ports[case.of_house], [b"\x10\0\0\0" + case.frame] * 8
    room.switch.receive_untrusted(port, batch, next(room.now))
    assert len(port.ways) == 1
    deliveries = room.switch.receive_untrusted(port, batch, next(room.now))
    assert {len(datagrams) for datagrams in deliveries.values()} == {8}
    assert len(deliveries) == (3 if "broadcast" in case.name else 1)


@pytest.mark.parametrize("cached", [True, False])
def test_the_switch_is_measured_without_losing_frames(monkeypatch, cached):
    """Storm control, the limits of DHCP and the like would make a case cheap."""
    rooms = []
    monkeypatch.setattr(bench_guard, "Room", lambda level: rooms.append(Room(level)) or rooms[-1])
    for case in CASES:
        assert switch_time(case, Level.STRICT, 64, cached=cached) >= 0
        total = rooms[-1].switch.total()
        assert (case.name, total.total_dropped) == (case.name, 0)


def test_it_prints_a_line_for_each_case(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_guard", "--frames", "32", "--repeat", "1"])
    assert bench_guard.main() == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines] == [case.name for case in CASES]
    for line in lines:
        for key in ("judge_ns", "switch_cached_ns", "switch_uncached_ns"):
            assert set(line[key]) == set(Level)
