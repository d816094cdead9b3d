"""The bench's search against machines of known capacity, and its table."""

from __future__ import annotations

import pytest

from lanparty.demo.bench import END_RATE, PRECISION, START_RATE, Rate, search_rate, table


def machine(capacity, sender=10**9):
    """Delivers up to ``capacity`` packets per second, of what a sender who manages ``sender`` offers."""

    def measure(offered):
        sent = min(offered, sender)
        received = min(sent, capacity)
        return Rate(offered, sent, received, 1 - received / sent)

    return measure


@pytest.mark.parametrize("capacity", [4100, 9000, 40_000, 64_000, 150_000])
def test_the_search_finds_the_capacity(capacity):
    good, trail = search_rate(machine(capacity))
    assert good is not None
    assert capacity / PRECISION <= good.offered <= capacity * 1.01
    assert good.loss < 0.01
    assert len(trail) < 20


def test_a_machine_that_is_too_slow():
    good, trail = search_rate(machine(1000))
    assert good is None
    assert [step.offered for step in trail] == [START_RATE]


def test_a_sender_at_its_end_is_not_pushed_on():
    good, trail = search_rate(machine(10**9, sender=28_000))
    assert good is not None
    assert good.received == 28_000
    assert max(step.offered for step in trail) == 32_000


def test_no_more_is_offered_than_the_end():
    good, trail = search_rate(machine(10**9))
    assert good is not None
    assert max(step.offered for step in trail) <= END_RATE


def test_a_noisy_step_has_a_second_chance():
    tried = []

    def measure(offered):
        tried.append(offered)
        noisy = tried.count(offered) == 1 and offered == 8000
        return machine(16_000)(offered) if not noisy else Rate(offered, offered, int(offered * 0.95), 0.05)

    good, _ = search_rate(measure)
    assert good is not None
    assert good.offered >= 16_000


def test_the_table():
    way = {"mbit_per_s": 123.4, "cpu_s_per_gb": {"relay": 10.0, "client": 20.04}}
    text = table(
        {
            "ping": {"p50_ms": 1.234, "p99_ms": 5.0, "lost": 0},
            "tcp_up": way,
            "tcp_down": way,
            "udp_up": {"packets_per_s": 12345},
            "udp_down": {"packets_per_s": 0},
            "memory_kb": {"relay": {"now": 51200, "peak": 61440}},
        }
    )
    assert "idle ping" in text
    assert "p50 1.23 ms, p99 5.00 ms, 0 lost" in text
    assert "123 Mbit/s" in text
    assert "30.0 (relay 10.0, client 20.0)" in text
    assert "12345 packets/s of 200 bytes" in text
    assert "50 MiB resident, 60 MiB at most" in text
