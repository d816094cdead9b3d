"""Log lines that strangers cause are bounded, by event and in the long run; see lanparty/obs/log.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import structlog

from lanparty.obs.events import FRAME, RELAY_MEMBER_LEFT, RELAY_REFUSED, Event
from lanparty.obs.log import _EVENT_KEY, BURST, RATE, _Renderer


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def write(clock: Clock) -> Callable[[Event], str | None]:
    renderer = _Renderer("json", "lanparty.relay", clock)

    def write(event: Event) -> str | None:
        fields: dict[str, Any] = {"event": event.name, _EVENT_KEY: event, "address": "192.0.2.1"}
        with suppress(structlog.DropEvent):
            return renderer(None, "info", fields)
        return None

    return write


def test_lines_of_one_event_are_bounded_and_what_was_left_out_is_told(clock: Clock, write: Any) -> None:
    written = [write(RELAY_REFUSED) for _ in range(100_000)]
    assert sum(line is not None for line in written) == BURST
    clock.now += 1 / RATE + 1e-6
    line = json.loads(write(RELAY_REFUSED))
    assert line["left_out"] == 100_000 - BURST
    assert f"({100_000 - BURST} more like this were left out.)" in line["message"]
    clock.now += 1.0
    assert "left_out" not in json.loads(write(RELAY_REFUSED))


def test_in_the_long_run_the_rate_holds(clock: Clock, write: Any) -> None:
    count = 0
    for _ in range(20_000):
        clock.now += 0.01
        count += write(RELAY_REFUSED) is not None
    assert count == pytest.approx(BURST + 200 * RATE, abs=2)


def test_other_events_are_not_left_out_for_it(write: Any) -> None:
    for _ in range(BURST + 10):
        write(RELAY_REFUSED)
    assert write(RELAY_REFUSED) is None
    assert write(RELAY_MEMBER_LEFT) is not None


def test_the_frame_log_is_written_in_full(write: Any) -> None:
    assert all(write(FRAME) is not None for _ in range(3 * BURST))
