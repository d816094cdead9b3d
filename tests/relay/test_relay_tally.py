"""Counters and their sums, the pace of reports, the token bucket."""

from __future__ import annotations

import pytest

from lanparty.relay.guard import Rule
from lanparty.relay.tally import REPORT_INTERVAL, BlockedReporter, PortTally, TokenBucket


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
