from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quic_codel_reference import ReferenceCodel
from quic_queue_load import datagram, read

from lanparty.quic.codel import CODEL_INTERVAL, CODEL_TARGET, DATAGRAM_COST, KEEP_DATAGRAMS, FlowQueue

SIZE = 1000


def fill(flow, count, now, first=0, size=SIZE):
    batch = [datagram(1, first + number, size) for number in range(count)]
    flow.append(batch, count * size, now)


def numbers(taken):
    return [read(sent)[2] for sent in taken]


def drain(flow, count, now):
    """Serve ``count`` datagrams as the queue does."""
    out = []
    if now >= flow.alarm:
        flow.control_delay(SIZE, now)
    flow.take(out, count * (SIZE + DATAGRAM_COST), 1 << 40, SIZE, now)
    return out


@pytest.mark.parametrize("seed", range(30))
def test_drops_what_rfc_8289_drops(seed):
    """Against the pseudo-code of the RFC, one datagram at a time, over phases of light and heavy load."""
    chosen = random.Random(seed)
    flow = FlowQueue()
    reference = ReferenceCodel(target=CODEL_TARGET, interval=CODEL_INTERVAL, keep=KEEP_DATAGRAMS * SIZE)
    now, sent = 0.0, 0
    ours, theirs = [], []
    for _phase in range(12):
        load = chosen.choice([0.3, 0.9, 1.05, 1.5, 3.0])
        pause = chosen.choice([0.004, 0.004, 0.3])
        for _ in range(chosen.randrange(40, 400)):
            now += chosen.uniform(0.0005, 0.004 if chosen.random() < 0.9 else pause)
            arriving = int(load * 4 * chosen.random())
            if arriving:
                fill(flow, arriving, now, sent)
                reference.push(range(sent, sent + arriving), SIZE, now)
                sent += arriving
            leaving = chosen.randrange(4)
            if leaving:
                ours += numbers(drain(flow, leaving, now))
                theirs += [number for _ in range(leaving) if (number := reference.dequeue(now)) is not None]
            assert len(flow.items) == len(reference.waiting)
    assert ours == theirs
    assert ours == sorted(ours)
    assert reference.dropped > 0
    assert len(ours) + len(flow.items) + reference.dropped == sent


def test_a_burst_is_not_dropped():
    """57 000 datagrams a second may stand in a queue, if not for longer than the interval."""
    flow = FlowQueue()
    fill(flow, 5000, 0.0)
    out = []
    for step in range(1, 10):
        out += drain(flow, 500, step * CODEL_INTERVAL / 10)
    assert numbers(out) == list(range(4500))


def test_a_standing_queue_is_dropped_from_faster_and_faster():
    flow = FlowQueue()
    fill(flow, 100, 0.0)
    dropped_at = []
    for step in range(1, 2000):
        now = step * 0.001
        fill(flow, 3, now)
        before = len(flow.items)
        gone = before - len(drain(flow, 2, now)) - len(flow.items)
        dropped_at += [now] * gone
    # The queue is late 5 ms after it began; an interval later the first goes.
    assert CODEL_TARGET + CODEL_INTERVAL <= dropped_at[0] < CODEL_TARGET + CODEL_INTERVAL + 0.002
    gaps = [later - earlier for earlier, later in itertools.pairwise(dropped_at)]
    for count, gap in enumerate(gaps[:20], 1):
        assert gap == pytest.approx(CODEL_INTERVAL / math.sqrt(count), abs=0.0021)


@pytest.mark.parametrize(("waiting", "drops"), [(KEEP_DATAGRAMS + 1, False), (KEEP_DATAGRAMS + 3, True)])
def test_a_slow_line_may_keep_two_datagrams(waiting, drops):
    """At 1 Mbit/s every datagram misses a target of 5 ms; that alone is not a standing queue."""
    flow = FlowQueue()
    dropped = 0
    for step in range(100):
        now = step * 0.012
        fill(flow, waiting - len(flow.items), now)
        dropped += waiting - len(drain(flow, 1, now)) - len(flow.items)
    assert (dropped > 10) == drops
    assert drops or not dropped


@given(
    st.lists(st.tuples(st.integers(50, 1442), st.integers(1, 3)), max_size=60),
    st.integers(1, 20000),
    st.integers(1, 20000),
    st.booleans(),
)
def test_take_keeps_its_two_limits(sizes, quantum, room, begun):
    flow = FlowQueue()
    number = 0
    for now, (size, count) in enumerate(sizes):
        fill(flow, count, float(now), number, size)
        number += count
    total = flow.size
    out = [b""] if begun else []
    spent = flow.take(out, quantum, room, 1442, 0.0)
    taken = out[begun:]
    assert numbers(taken) == list(range(len(taken)))
    cost = [len(sent) + DATAGRAM_COST for sent in taken]
    assert spent == sum(cost)
    assert flow.size == total - sum(map(len, taken)) == sum(map(len, flow.items))
    assert sum(int(count) for _, count in flow.times) == len(flow.items) == number - len(taken)
    assert sum(cost) <= room or (len(taken) == 1 and not begun)
    assert sum(cost[:-1]) < quantum
    if flow.items and taken:
        assert sum(cost) >= quantum or sum(cost) + len(flow.items[0]) + DATAGRAM_COST > room


def test_expiry_is_from_the_head_and_by_age():
    flow = FlowQueue()
    fill(flow, 3, 0.0)
    fill(flow, 2, 1.0, 3)
    assert flow.expire(0.5) == 3
    assert numbers(flow.items) == [3, 4]
    assert flow.size == 2 * SIZE
    assert flow.expire(math.inf) == 2
    assert not flow.times
    assert flow.size == 0


def piece(frame, index, count=3, size=100):
    return b"\x11\x00\x00\x01" + frame.to_bytes(2, "big") + bytes((index, count)) + bytes(size - 8)


@pytest.mark.parametrize(("gone", "left"), [(0, 4), (1, 4), (2, 4)])
def test_with_a_piece_goes_the_rest_of_its_frame(gone, left):
    flow = FlowQueue()
    batch = [piece(1, 0), piece(1, 1), piece(1, 2), piece(2, 0), piece(2, 1), piece(2, 2), datagram(1, 0, 100)]
    flow.append(batch, 700, 0.0)
    flow.take([], gone * 103 or -1, 1 << 40, 100, 0.0)
    flow.drop()
    assert list(flow.items) == batch[-left:]
    assert flow.size == 100 * left


def test_what_does_not_fit_goes_wherever_it_is():
    flow = FlowQueue()
    fill(flow, 2, 0.0, size=1000)
    fill(flow, 1, 1.0, 2, size=500)
    fill(flow, 1, 1.0, 3, size=1001)
    fill(flow, 1, 2.0, 4, size=1200)
    assert flow.drop_larger(1000) == 2
    assert numbers(flow.items) == [0, 1, 2]
    assert (flow.size, [list(run) for run in flow.times]) == (2500, [[0.0, 2], [1.0, 1]])
