"""Packets in overload: a line for each sender, turns, bounds, and nothing lost or swapped that a bound does not say."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.quic.connection import Received, UdpPath
from lanparty.quic.ingress import ALL_PACKETS, LINE_PACKETS, PORTION, Ingress
from lanparty.quic.settings import BATCH

PATHS = {name: UdpPath(("192.0.2.1", ord(name))) for name in "abcdefgh?"}


class Lines:
    """An ingress whose senders are told by the first byte; "?" are strangers."""

    def __init__(self) -> None:
        self.full = 0
        self.ingress = Ingress(lambda packet: None if packet[:1] == b"?" else packet[:1], self._count)

    def _count(self, count: int) -> None:
        self.full += count

    def add(self, sender: str, *numbers: int, now: float = 0.0, waited: float = 0.0, path: str = "") -> None:
        packets = [f"{sender}{number}".encode() for number in numbers]
        self.ingress.add([Received(PATHS[path or sender], packets, waited)], now)

    def take(self, now: float = 0.0) -> list[bytes]:
        return [packet for received in self.ingress.take(now) for packet in received.packets]


def test_one_sender_alone_is_first_in_first_out() -> None:
    lines = Lines()
    lines.add("a", *range(100))
    lines.add("a", *range(100, 200))
    got = [packet for _ in range(4) for packet in lines.take()]
    assert got == [f"a{number}".encode() for number in range(200)]
    assert not lines.ingress


def test_who_sends_little_does_not_wait_behind_who_sends_much() -> None:
    lines = Lines()
    lines.add("a", *range(2000))
    lines.take()
    lines.add("b", 1)
    lines.add("c", 1, 2, 3)
    got = Counter(packet[:1] for packet in lines.take())
    assert got == {b"a": PORTION - 4, b"b": 1, b"c": 3}


def test_two_floods_share_a_portion() -> None:
    lines = Lines()
    lines.add("a", *range(1000))
    lines.add("b", *range(1000))
    for _ in range(10):
        got = Counter(packet[:1] for packet in lines.take())
        assert got == {b"a": PORTION // 2, b"b": PORTION // 2}


def test_all_strangers_are_one_sender() -> None:
    lines = Lines()
    for number in range(500):
        lines.add("?", number, path="abcdefgh"[number % 8])
    lines.add("a", *range(500))
    assert Counter(packet[:1] for packet in lines.take()) == {b"?": PORTION // 2, b"a": PORTION // 2}


def test_a_full_line_loses_its_own_newest() -> None:
    lines = Lines()
    lines.add("a", *range(LINE_PACKETS + 500))
    lines.add("a", 1)
    lines.add("b", 1)
    assert lines.full == 501
    assert lines.ingress.count == LINE_PACKETS + 1
    assert b"b1" in lines.take()


def test_all_lines_together_are_bounded() -> None:
    lines = Lines()
    ingress = Ingress(lambda packet: packet, lines._count)
    for _ in range(40):
        for sender in range(64):
            ingress.add([Received(PATHS["a"], [bytes((sender,))] * 64, 0.0)], 0.0)
    assert ingress.count <= ALL_PACKETS + 64 * BATCH
    assert lines.full == 40 * 64 * 64 - ingress.count


def test_the_time_in_line_counts_as_waiting() -> None:
    lines = Lines()
    lines.add("a", *range(PORTION + 1), now=10.0, waited=0.5)
    lines.ingress.take(10.25)
    (received,) = lines.ingress.take(11.0)
    assert received.waited == pytest.approx(1.5)


def test_more_senders_than_a_portion_has_packets_all_get_their_turn() -> None:
    got: Counter[bytes] = Counter()
    ingress = Ingress(lambda packet: packet, lambda _count: None)
    for sender in range(200):
        ingress.add([Received(PATHS["a"], [b"%d" % sender] * 2, 0.0)], 0.0)
    for _ in range(4):
        got.update(packet for received in ingress.take(0.0) for packet in received.packets)
    assert len(got) == 200


steps = st.lists(st.tuples(st.sampled_from("abc?"), st.integers(0, 90), st.booleans()), max_size=40)


@given(steps)
def test_nothing_is_lost_doubled_or_swapped(steps: list[tuple[str, int, bool]]) -> None:
    lines = Lines()
    sent: dict[bytes, deque[bytes]] = {}
    numbers = Counter[str]()

    def check(out: list[bytes]) -> None:
        for packet in out:
            assert sent[packet[:1]].popleft() == packet

    for sender, count, take in steps:
        if count:
            first = numbers[sender]
            numbers[sender] += count
            lines.add(sender, *range(first, first + count))
            for number in range(first, first + count):
                sent.setdefault(sender.encode(), deque()).append(f"{sender}{number}".encode())
        if take:
            waiting = lines.ingress.count
            out = lines.take()
            assert len(out) == min(waiting, PORTION)
            check(out)
    while lines.ingress:
        check(lines.take())
    assert lines.full == 0
    assert not any(sent.values())
