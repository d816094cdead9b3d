"""What is in flight: against a model that keeps a record of each packet, and case by case."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanparty.quic.flight import Flight


@attrs.define
class Packet:
    number: int
    size: int
    sent_at: float


class Model:
    """RFC 9002 packet by packet, with the thresholds that the flight under test has."""

    def __init__(self) -> None:
        self.packets: dict[int, Packet] = {}
        self.largest = -1

    def lost(self, now: float, rtt: float, reorder: int, extra: float) -> list[int]:
        delay = max(9 / 8 * rtt, 0.001) + extra
        return [
            p.number
            for p in self.packets.values()
            if p.number <= self.largest and (p.number <= self.largest - reorder or p.sent_at + delay <= now)
        ]


def numbers(runs) -> list[int]:
    return [number for run in runs for number in range(run.start, run.stop)]


@st.composite
def schedules(draw):
    return draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("send"), st.integers(1, 50), st.integers(60, 1472)),
                st.tuples(st.just("ack"), st.lists(st.integers(0, 400), min_size=1, max_size=30), st.just(0)),
                st.tuples(st.just("wait"), st.integers(1, 60), st.just(0)),
                st.tuples(st.just("timer"), st.just(0), st.just(0)),
            ),
            max_size=60,
        )
    )


@settings(max_examples=300)
@given(schedules())
def test_agrees_with_a_model_packet_by_packet(schedule):  # noqa: C901 - one branch for each thing that can happen
    flight, model, now, following, rtt = Flight(), Model(), 1.0, 0, 0.03
    for what, value, size in schedule:
        if what == "send":
            flight.on_sent(following, value, size, now)
            for number in range(following, following + value):
                model.packets[number] = Packet(number, size, now)
            following += value
        elif what == "wait":
            now += value / 1000
        elif what == "ack" and following:
            acked = sorted({number % following for number in value}, reverse=True)
            ranges: list[tuple[int, int]] = []
            for number in acked:
                if ranges and ranges[-1][0] == number + 1:
                    ranges[-1] = (number, ranges[-1][1])
                else:
                    ranges.append((number, number))
            model.largest = max(model.largest, acked[0])
            expected = sorted(number for number in acked if number in model.packets)
            before = {number: model.packets[number] for number in expected}
            outcome = flight.on_ack(ranges, now, 0.0, rtt)
            assert sorted(numbers(outcome.acked)) == expected
            for number in expected:
                del model.packets[number]
            lost: list[int] = []
            if expected:
                newest = before[expected[-1]]
                latest = now - newest.sent_at if expected[-1] == acked[0] else 0.0
                assert outcome.rtt == (latest if expected[-1] == acked[0] else None)
                lost = model.lost(now, max(rtt, latest), flight.reorder, flight._reorder_time)
            assert sorted(numbers(outcome.lost)) == sorted(lost)
            for number in lost:
                del model.packets[number]
        elif what == "timer":
            lost = model.lost(now, rtt, flight.reorder, flight._reorder_time)
            assert sorted(numbers(flight.on_loss_timer(now, rtt).lost)) == sorted(lost)
            for number in lost:
                del model.packets[number]
        assert flight.packets == len(model.packets)
        assert flight.bytes == sum(packet.size for packet in model.packets.values())
        assert flight.bytes >= 0
        starts = [run.start for run in flight._runs]
        assert starts == sorted(starts)


def test_a_batch_is_one_run_and_one_acknowledgement():
    flight = Flight()
    flight.on_sent(0, 44, 1472, 1.0)
    outcome = flight.on_ack([(0, 43)], 1.02, 0.005, 0.0)
    assert [(run.start, run.stop) for run in outcome.acked] == [(0, 44)]
    assert outcome.rtt == pytest.approx(0.02)
    assert outcome.sample is not None
    assert outcome.sample.acked == 44 * 1472
    assert outcome.sample.rtt == pytest.approx(0.015)
    assert outcome.sample.delivery_rate == pytest.approx(44 * 1472 / 0.02)
    assert flight.bytes == flight.packets == 0


def test_a_hole_is_given_up_three_packets_later():
    flight = Flight()
    flight.on_sent(0, 10, 1000, 1.0)
    assert numbers(flight.on_ack([(1, 2)], 1.01, 0.0, 0.01).lost) == []
    assert flight.loss_time == pytest.approx(1.0 + 0.01 * 9 / 8)
    assert numbers(flight.on_ack([(1, 3)], 1.01, 0.0, 0.01).lost) == [0]
    assert flight.loss_time is None


def test_a_hole_is_given_up_by_time():
    flight = Flight()
    flight.on_sent(0, 2, 1000, 1.0)
    flight.on_ack([(1, 1)], 1.01, 0.0, 0.01)
    assert flight.loss_time == pytest.approx(1.01125)
    outcome = flight.on_loss_timer(1.012, 0.01)
    assert numbers(outcome.lost) == [0]
    assert outcome.sample is not None
    assert outcome.sample.lost == 1000
    assert outcome.sample.acked == 0


def test_reordering_makes_patient_and_is_forgotten():
    flight = Flight()
    flight.on_sent(0, 100, 1000, 1.0)
    assert numbers(flight.on_ack([(50, 99)], 1.01, 0.0, 0.01).lost) == list(range(50))
    outcome = flight.on_ack([(0, 99)], 1.011, 0.0, 0.01)
    assert outcome.spurious == 50
    assert flight.reorder >= 100
    flight.on_sent(100, 100, 1000, 1.02)
    assert numbers(flight.on_ack([(150, 199)], 1.025, 0.0, 0.01).lost) == []
    flight.on_ack([(100, 199)], 1.026, 0.0, 0.01)
    flight.on_sent(200, 10, 1000, 20.0)
    flight.on_ack([(205, 209)], 20.001, 0.0, 0.01)
    assert flight.reorder == 3


def test_probes_lost_are_no_congestion():
    flight = Flight()
    flight.on_sent(0, 1, 1472, 1.0, probe=True)
    flight.on_sent(1, 5, 1200, 1.0)
    outcome = flight.on_ack([(1, 5)], 1.01, 0.0, 0.01)
    assert [run.probe for run in outcome.lost] == [True]
    assert outcome.sample is not None
    assert outcome.sample.lost == 0


def test_rate_of_what_an_application_did_not_fill_is_marked():
    flight = Flight()
    flight.on_sent(0, 1, 100, 1.0)
    flight.note_app_limited()
    flight.on_sent(1, 1, 100, 1.001)
    first = flight.on_ack([(0, 1)], 1.01, 0.0, 0.01)
    assert first.sample is not None
    assert first.sample.app_limited
    flight.on_sent(2, 40, 1472, 1.02)
    second = flight.on_ack([(2, 41)], 1.03, 0.0, 0.01)
    assert second.sample is not None
    assert not second.sample.app_limited


def test_acks_in_a_bunch_do_not_make_the_path_look_fast():
    """Packets sent over 100 ms and acknowledged within 1 ms were carried at the rate at which they were sent."""
    flight = Flight()
    for index in range(11):
        flight.on_sent(index, 1, 1000, 1.0 + index * 0.01)
    rates = []
    for index in range(11):
        outcome = flight.on_ack([(0, index)], 1.2 + index * 0.0001, 0.0, 0.1)
        assert outcome.sample is not None
        rates.append(outcome.sample.delivery_rate)
    assert max(rates) <= 1000 / 0.01 * 1.11


def test_minimum_of_round_trips_is_forgotten_in_time():
    flight = Flight()
    now = 1.0
    for index in range(40):
        flight.on_sent(index, 1, 100, now)
        flight.on_ack([(index, index)], now + (0.01 if index < 2 else 0.05), 0.0, 0.05)
        now += 0.5
    assert flight.min_rtt == pytest.approx(0.05)


def test_persistent_congestion_takes_a_row_of_losses_over_three_timeouts():
    flight = Flight()
    flight.on_sent(0, 1, 1000, 1.0)
    flight.on_ack([(0, 0)], 1.01, 0.0, 0.0)
    for index in range(1, 21):
        flight.on_sent(index, 1, 1000, 1.0 + index * 0.05)
    flight.on_sent(21, 1, 1000, 2.1)
    assert flight.on_ack([(21, 21)], 2.11, 0.0, 0.01).persistent


def test_what_left_by_another_path_is_given_up_without_a_sample():
    """By number: what has left by the new path already is still out, and its ACK is the new path's first sample."""
    flight = Flight()
    flight.on_sent(0, 10, 1000, 1.0)
    flight.on_sent(10, 1, 100, 1.1, packet="control")
    flight.on_sent(11, 5, 1200, 1.2)
    flight.on_ack([(2, 3)], 1.21, 0.0, 0.0)
    outcome = flight.abandon(11)
    flight.forget_path()
    assert numbers(outcome.lost) == [1, 4, 5, 6, 7, 8, 9, 10]  # 0 was lost before, by the numbers
    assert [run.packet for run in outcome.lost if run.packet is not None] == ["control"]
    assert outcome.sample is None
    assert (flight.packets, flight.bytes, flight.loss_time) == (5, 6000, None)
    late = flight.on_ack([(5, 8)], 1.22, 0.0, 0.05)
    assert not late.acked
    assert late.rtt is None
    fresh = flight.on_ack([(15, 15)], 1.3, 0.0, 0.05)
    assert fresh.rtt == pytest.approx(0.1)
    assert flight.min_rtt == pytest.approx(0.1)
