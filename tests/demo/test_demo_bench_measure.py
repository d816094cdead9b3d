"""The bench's search against machines of known capacity, and its reading of what tools print."""

from __future__ import annotations

import pytest

from lanparty.demo.bench_measure import END_RATE, PRECISION, START_RATE, Rate, parse_ping, search_rate


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


def test_ping_is_read():
    text = """PING 192.168.77.1 (192.168.77.1) 56(84) bytes of data.
64 bytes from 192.168.77.1: icmp_seq=1 ttl=64 time=0.426 ms
64 bytes from 192.168.77.1: icmp_seq=1 ttl=64 time=0.500 ms (DUP!)
64 bytes from 192.168.77.1: icmp_seq=3 ttl=64 time=12 ms

--- 192.168.77.1 ping statistics ---
3 packets transmitted, 2 received, +1 duplicates, 33.3333% packet loss, time 20ms
rtt min/avg/max/mdev = 0.426/0.453/12.000/0.030 ms
"""
    assert parse_ping(text) == [0.426, 12.0]
    assert parse_ping("") == []
