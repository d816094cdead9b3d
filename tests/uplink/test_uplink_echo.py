"""Round-trip time and loss from echoes."""

import pytest

from lanparty.uplink.echo import LOST_AFTER, EchoMeter


def test_a_reply_gives_a_sample():
    meter = EchoMeter()
    sequence = meter.request(10.0)
    assert meter.reply_untrusted(sequence, 10.05)
    assert meter.rtt == pytest.approx(0.05)
    assert meter.as_dict() == {"echo_sent": 1, "echo_received": 1, "echo_lost": 0, "echo_rtt_us": 50000}


def test_smoothing_follows_slowly():
    meter = EchoMeter()
    meter.reply_untrusted(meter.request(0.0), 0.1)
    meter.reply_untrusted(meter.request(1.0), 1.9)
    assert meter.rtt == pytest.approx(0.1 + 0.125 * 0.8)
    assert meter.last_rtt == pytest.approx(0.9)


@pytest.mark.parametrize("sequence", [0, 2, 0xFFFFFFFF])
def test_replies_that_nobody_asked_for_do_not_count(sequence):
    meter = EchoMeter()
    meter.request(0.0)
    assert not meter.reply_untrusted(sequence, 0.1)
    assert meter.received == 0


def test_a_reply_counts_once():
    meter = EchoMeter()
    sequence = meter.request(0.0)
    assert meter.reply_untrusted(sequence, 0.1)
    assert not meter.reply_untrusted(sequence, 0.1)


def test_unanswered_requests_are_lost_once_and_late_answers_change_nothing():
    meter = EchoMeter()
    sequence = meter.request(0.0)
    meter.expire(LOST_AFTER)
    assert meter.lost == 0
    meter.expire(LOST_AFTER + 0.01)
    meter.expire(LOST_AFTER + 1)
    assert meter.lost == 1
    assert not meter.reply_untrusted(sequence, LOST_AFTER + 2)


def test_memory_is_bounded():
    meter = EchoMeter()
    for _ in range(1000):
        meter.request(0.0)
    assert meter.sent - meter.lost <= 16
