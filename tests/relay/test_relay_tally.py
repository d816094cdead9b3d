"""Counters and their sums, the pace of reports, the token bucket."""

from __future__ import annotations

import pytest

from lanparty.guard.bucket import TokenBucket
from lanparty.guard.guard import Rule
from lanparty.relay.tally import PACER_KEYS, REPORT_INTERVAL, BlockedReporter, Pacer, PortTally


def test_sums_and_names() -> None:
    first = PortTally(frames_in=1, bytes_in=2, frames_out=3, bytes_out=4, echoes=5)
    first.block(Rule.DHCP_SERVER)
    first.drop("hairpin", 2)
    second = PortTally(frames_in=10)
    second.block(Rule.DHCP_SERVER)
    second.block(Rule.ADDRESS)
    total = PortTally.sum([first, second])
    assert total.as_dict() == {
        "frames_in": 11,
        "bytes_in": 2,
        "frames_out": 3,
        "bytes_out": 4,
        "echoes": 5,
        "blocked.dhcp-server": 2,
        "blocked.address": 1,
        "dropped.hairpin": 2,
    }
    assert total.total_dropped == 5
    assert second.as_dict()["frames_in"] == 10
    assert PortTally.sum([]).as_dict() == PortTally().as_dict()


def test_reports_come_at_once_then_in_intervals_and_the_rest_at_the_end() -> None:
    reporter, blocked = BlockedReporter(), {Rule.ADDRESS: 2}
    assert reporter.due(blocked, 100.0) == [(Rule.ADDRESS, 2)]
    blocked[Rule.ADDRESS] = 7
    assert reporter.due(blocked, 100.0 + REPORT_INTERVAL - 0.1) == []
    blocked[Rule.VLAN] = 1
    assert reporter.due(blocked, 109.95) == [(Rule.VLAN, 1)]
    assert reporter.due(blocked, 100.0 + REPORT_INTERVAL) == [(Rule.ADDRESS, 5)]
    assert reporter.due(blocked, 200.0) == []
    blocked[Rule.LENGTH] = 3
    assert reporter.rest(blocked) == [(Rule.LENGTH, 3)]


@pytest.mark.parametrize(("after", "more"), [(0.0, 0), (0.1, 1), (1.0, 10), (100.0, 20), (-5.0, 0)])
def test_a_bucket_fills_at_its_rate_up_to_its_burst(after: float, more: int) -> None:
    bucket = TokenBucket(rate=10, burst=20)
    assert sum(bucket.take(50.0) for _ in range(100)) == 20
    assert sum(bucket.take(50.0 + after) for _ in range(100)) == more


def test_a_pacer_tells_each_key_at_once_then_once_in_an_interval_how_many_there_were() -> None:
    pacer = Pacer()
    assert [pacer.due("a", 0.1 * n) for n in range(50)] == [1] + [0] * 49
    assert pacer.due("b", 5.0) == 1
    assert pacer.due("a", REPORT_INTERVAL) == 50
    assert pacer.due("a", 2 * REPORT_INTERVAL) == 1


def test_a_pacer_remembers_and_tells_little_however_many_keys_there_are() -> None:
    pacer = Pacer()
    assert sum(pacer.due(key, key / 1e6) for key in range(100_000)) == PACER_KEYS
    assert len(pacer._told) == PACER_KEYS
    assert pacer.due("later", REPORT_INTERVAL + 1) == 1
    assert len(pacer._told) == PACER_KEYS
