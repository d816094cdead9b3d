"""When the house switch is reminded of a player's port."""

import math

from hypothesis import given
from hypothesis import strategies as st

from lanparty.gateway.cam import CamSchedule

ONE, TWO = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"


def sources(frames):
    return [frame[6:12] for frame in frames]


def test_a_new_member_is_announced_at_once_by_a_broadcast_from_its_mac():
    cam = CamSchedule(5.0)
    cam.set_members([ONE])
    (frame,) = cam.take(100.0)
    assert frame[:6] == b"\xff" * 6
    assert frame[6:12] == ONE
    assert len(frame) == 60


def test_then_once_each_interval():
    cam = CamSchedule(5.0)
    cam.set_members([ONE])
    cam.take(100.0)
    assert cam.take(104.9) == []
    assert cam.next_due() == 105.0
    assert sources(cam.take(105.0)) == [ONE]


def test_another_member_does_not_put_off_the_first():
    cam = CamSchedule(5.0)
    cam.set_members([ONE])
    cam.take(100.0)
    cam.set_members([ONE, TWO])
    assert sources(cam.take(103.0)) == [TWO]
    assert sources(cam.take(105.0)) == [ONE]


def test_members_whose_turns_are_near_share_one_wake_up():
    cam = CamSchedule(5.0)
    cam.set_members([ONE])
    cam.take(100.0)
    cam.set_members([ONE, TWO])
    assert sources(cam.take(101.0)) == [TWO]
    assert cam.take(104.9) == []
    assert sorted(sources(cam.take(105.0))) == sorted([ONE, TWO])
    assert cam.next_due() == 110.0


def test_who_left_is_not_refreshed_any_more():
    cam = CamSchedule(5.0)
    cam.set_members([ONE, TWO])
    cam.take(100.0)
    cam.set_members([TWO])
    assert sources(cam.take(200.0)) == [TWO]
    cam.set_members([])
    assert cam.take(300.0) == []
    assert cam.next_due() == math.inf


def test_after_the_lan_came_back_all_are_due():
    cam = CamSchedule(5.0)
    cam.set_members([ONE, TWO])
    cam.take(100.0)
    cam.refresh_all()
    assert sources(cam.take(100.1)) == [ONE, TWO]


@given(st.floats(0.1, 60))
def test_no_member_is_ever_silent_for_longer_than_the_interval_if_asked_when_due(interval):
    cam = CamSchedule(interval)
    cam.set_members([ONE])
    now, last = 0.0, None
    for _ in range(20):
        if cam.take(now):
            assert last is None or now - last <= interval * 1.0001
            last = now
        now = cam.next_due()
