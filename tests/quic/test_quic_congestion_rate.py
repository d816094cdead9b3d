"""Steering by rate on a machine that has more to do than cores: a late program is not a slow path."""

from __future__ import annotations

import math

import pytest

from lanparty.quic.congestion import Phase
from lanparty.quic.congestion_rate import RateBounded
from lanparty.quic.flight import AckSample
from lanparty.quic.pacer import Pacer

SIZE = 1472
MBIT = 125_000.0
RTT = 0.0002


class LateProgram:
    """A sender that has its turn each ``turn`` seconds, on a path of ``capacity`` bytes a second.

    At a turn it hears what arrived since the last one, with the path's own round trips, and sends what it may.
    """

    def __init__(self, turn: float, capacity: float) -> None:
        self.control = RateBounded()
        self.control.datagram_size = SIZE
        self.pacer = Pacer()
        self.turn = turn
        self.capacity = capacity
        self.now = 100.0
        self.delivered = self.queued = 0.0
        self.longest = 0.0
        """Seconds of queue on the path, at most."""

    def cruise(self, rate: float) -> None:
        """Take this rate for what the path carries."""
        self.run(0.2, rate)
        control = self.control
        control.phase = Phase.CRUISE
        control._pipe = rate
        control._fit()
        control._steer()
        self.longest = 0.0

    def run(self, seconds: float, limit: float = math.inf) -> float:
        """Go on; give the rate that was delivered."""
        control, began, before = self.control, self.now, self.delivered
        end = self.now + seconds
        while self.now < end:
            self.now += self.turn
            allowed = self.pacer.allowance(self.now, control.pacing_rate, control.catch_up)
            control.missed = self.pacer.missed
            # Whole packets: the last one may go beyond what is allowed, and the pacer is in debt.
            sent = math.ceil(max(min(allowed, control.window, limit * self.turn), 0.0) / SIZE) * SIZE
            self.pacer.on_sent(int(sent))
            control.on_sent(self.now, int(sent), int(sent))
            self.queued = max(self.queued + sent - self.capacity * self.turn, 0.0)
            last = (self.queued + sent) / self.capacity if sent else 0.0
            self.longest = max(self.longest, last)
            prior, self.delivered = self.delivered, self.delivered + sent
            for part in range(1, 9 if sent else 1):
                sample = AckSample(
                    now=self.now + self.turn / 2,
                    acked=int(sent / 8),
                    lost=0,
                    rtt=RTT + self.queued / self.capacity + sent * part / 8 / self.capacity,
                    delivery_rate=sent / self.turn,
                    app_limited=False,
                    delivered=int(prior + sent * part / 8),
                    prior_delivered=int(prior),
                    in_flight=int(control.window),
                    min_rtt=RTT,
                )
                control.on_ack(sample)
            self.pacer.ready_at()
        return (self.delivered - before) / (self.now - began)


@pytest.mark.parametrize("turn", [0.005, 0.010, 0.015])
def test_a_late_program_finds_out_that_the_path_carries_more(turn):
    program = LateProgram(turn, 1000 * MBIT)
    program.cruise(15 * MBIT)
    assert program.run(0.1) < 30 * MBIT
    assert program.run(2.0) > 20 * MBIT
    assert program.run(1.0) > 90 * MBIT


def test_a_late_program_on_a_slow_path_makes_no_long_queue():
    """It may make up for 4 ms of a late wake-up, and there is a queue of 4 ms; what it missed never adds to that."""
    program = LateProgram(0.010, 20 * MBIT)
    program.cruise(15 * MBIT)
    assert program.run(3.0) > 6 * MBIT
    assert program.longest < 0.012


def test_one_that_comes_in_time_is_not_paced_for_being_late():
    program = LateProgram(0.001, 20 * MBIT)
    program.cruise(15 * MBIT)
    missed, delivered = program.pacer.missed, program.delivered
    assert program.run(2.0) > 17 * MBIT
    assert program.pacer.missed - missed < 0.01 * (program.delivered - delivered)
    assert program.longest < 0.005


def test_a_quiet_hour_on_a_noisy_machine_makes_the_path_no_slower():
    """A few small packets, and delays of the machine that look like a queue: neither says what the path carries."""
    program = LateProgram(0.001, 100 * MBIT)
    program.cruise(80 * MBIT)
    control, delivered = program.control, int(program.delivered)
    for index in range(4000):
        program.now += 0.004
        delivered += 300
        control.on_sent(program.now, 300, 6000)
        control.on_ack(
            AckSample(
                now=program.now,
                acked=300,
                lost=0,
                rtt=RTT + (0.0009 if index % 7 else 0.0004),
                delivery_rate=75_000.0,
                app_limited=True,
                delivered=delivered,
                prior_delivered=delivered - 300,
                in_flight=6000,
                min_rtt=RTT,
            )
        )
    program.delivered = float(delivered)
    assert program.run(0.2) > 60 * MBIT
