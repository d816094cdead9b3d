"""Loop probes: when they go out, what their return does, how a pause ends. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.gateway.loop import (
    COPIES,
    INTERVAL,
    LISTEN,
    MAX_OTHERS,
    QUIET,
    RECHECK,
    RECHECK_MOST,
    SOON,
    LoopWatch,
    News,
)
from lanparty.proto.probe import encode_probe, parse_probe_untrusted

ME, OTHER = b"gateway1", b"gateway2"
MEMBERS = [b"\x02aaaaa", b"\x02bbbbb"]


class Run:
    """A watch, its clock, and a LAN that has a loop or not."""

    def __init__(self, now: float = 1000.3) -> None:
        self.watch = LoopWatch(ME)
        self.now = now
        self.looped = False
        self.sent: list[float] = []
        self.news: list[tuple[float, News]] = []

    def step(self) -> None:
        self.now = max(self.now, self.watch.next_due())
        frame, news = self.watch.take(MEMBERS, self.now)
        self.note(news)
        if frame is None:
            return
        self.sent.append(self.now)
        for _ in range(1000 if self.looped else 0):
            self.note(self.watch.heard_untrusted(frame, self.now + 0.001))

    def note(self, news: News | None) -> None:
        if news is not None:
            self.news.append((self.now, news))

    def until(self, when: float) -> None:
        while self.watch.next_due() <= when:
            self.step()
        self.now = when


def test_a_probe_at_once_and_then_on_the_grid() -> None:
    run = Run()
    run.until(1100)
    assert run.sent[:3] == [1000.3, 1010.0, 1020.0]
    assert len(run.sent) == 11
    assert run.news == []


def test_it_names_the_members() -> None:
    frame, _ = LoopWatch(ME).take(MEMBERS, 0.0)
    assert frame is not None
    probe = parse_probe_untrusted(frame)
    assert probe is not None
    assert probe.members == frozenset(MEMBERS)


def test_soon_after_a_change_and_never_more_than_one_a_second() -> None:
    run = Run()
    run.step()
    for number in range(3000):
        run.now = 1001 + number / 1000
        run.watch.soon(run.now)
        if run.watch.next_due() <= run.now:
            run.step()
    gaps = [later - earlier for earlier, later in zip(run.sent, run.sent[1:], strict=False)]
    assert len(gaps) == 2
    assert min(gaps) >= SOON


def test_a_loop_is_told_once_and_pauses() -> None:
    run = Run()
    run.looped = True
    run.until(1000.4)
    assert run.news == [(1000.3, News.LOOP)]
    assert run.watch.paused
    assert not run.watch.listening
    assert run.watch.next_due() == pytest.approx(1000.301 + RECHECK)


def test_in_a_pause_probes_become_rare_and_nothing_is_said_again() -> None:
    run = Run()
    run.looped = True
    run.until(1000 + 3600)
    assert run.news == [(1000.3, News.LOOP)]
    gaps = [later - earlier for earlier, later in zip(run.sent, run.sent[1:], strict=False)]
    assert gaps[0] == pytest.approx(RECHECK, abs=0.01)
    assert gaps[-1] == pytest.approx(RECHECK_MOST, abs=0.01)
    assert len(run.sent) < 3600 / RECHECK_MOST + 5


def test_when_the_loop_is_gone_frames_flow_again() -> None:
    run = Run()
    run.looped = True
    run.until(1200)
    run.looped = False
    run.until(1200 + RECHECK_MOST + QUIET * LISTEN + 0.1)
    assert [news for _, news in run.news] == [News.LOOP, News.CLEARED]
    assert not run.watch.paused
    run.until(run.now + 100)
    assert run.sent[-1] - run.sent[-2] == pytest.approx(INTERVAL)


def test_a_loop_that_comes_back_is_told_again() -> None:
    run = Run()
    for looped in (True, False) * 2:
        run.looped = looped
        run.until(run.now + 200)
    assert [news for _, news in run.news] == [News.LOOP, News.CLEARED] * 2


def test_one_probe_lost_in_the_storm_does_not_end_the_pause() -> None:
    run = Run()
    run.looped = True
    run.until(1001)
    run.looped = False
    run.step()  # this one is lost
    run.looped = True
    run.step()
    assert [news for _, news in run.news] == [News.LOOP]
    assert run.watch.paused


@pytest.mark.parametrize("copies", range(1, COPIES))
def test_a_reflection_is_no_loop(copies: int) -> None:
    watch = LoopWatch(ME)
    for number in range(20):
        frame, _ = watch.take((), number * INTERVAL)
        assert frame is not None
        for _ in range(copies):
            assert watch.heard_untrusted(frame, number * INTERVAL + 0.01) is None
    assert not watch.paused
    assert watch.came_back == 20 * copies


def test_one_copy_from_the_room_is_a_loop() -> None:
    watch = LoopWatch(ME)
    frame, _ = watch.take((), 0.0)
    assert frame is not None
    assert watch.heard_untrusted(frame, 0.1, from_room=True) is News.ROOM_LOOP
    assert watch.paused


def test_another_gateway_is_told_once_and_nothing_is_paused() -> None:
    watch = LoopWatch(ME)
    heard = [watch.heard_untrusted(encode_probe(OTHER, number), float(number)) for number in range(100)]
    assert [news for news in heard if news] == [News.OTHER]
    assert not watch.paused
    for number in range(100):
        watch.heard_untrusted(encode_probe(b"other%03d" % number, 1), 0.0)
    assert len(watch._others) == MAX_OTHERS


@given(st.lists(st.tuples(st.binary(max_size=70), st.booleans()), max_size=50))
def test_garbage_does_nothing(heard: list[tuple[bytes, bool]]) -> None:
    watch = LoopWatch(ME)
    watch.take((), 0.0)
    for frame, from_room in heard:
        assert watch.heard_untrusted(frame, 1.0, from_room=from_room) is None
    assert not watch.paused


def test_another_cable_is_tried_soon_even_in_a_long_pause() -> None:
    run = Run()
    run.looped = True
    run.until(2000)
    run.looped = False
    run.watch.lan_up(run.now)
    run.until(2000 + SOON + QUIET * LISTEN + 0.1)
    assert [news for _, news in run.news] == [News.LOOP, News.CLEARED]


def test_who_comes_in_a_pause_changes_nothing() -> None:
    run = Run()
    run.looped = True
    run.until(2000)
    due = run.watch.next_due()
    run.watch.soon(run.now)
    assert run.watch.next_due() == due
