from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lanparty.obs.counters import TunnelCounters
from lanparty.quic.queue import DatagramQueue
from lanparty.quic.settings import QUEUE_AGE, QUEUE_BYTES


def contents(queue):
    return [item[1] for item in queue.take(10**9, 10**9)]


def test_first_in_first_out():
    queue = DatagramQueue(TunnelCounters())
    queue.push([b"a", b"b"], 1170, 0.0)
    queue.push([b"c"], 1170, 0.1)
    assert (len(queue), queue.size) == (3, 3)
    assert contents(queue) == [b"a", b"b", b"c"]
    assert (len(queue), queue.size) == (0, 0)


def test_bound_in_bytes_drops_the_oldest_and_counts():
    counters = TunnelCounters()
    queue = DatagramQueue(counters)
    queue.push([number.to_bytes(2, "big") * 512 for number in range(1000)], 1170, 0.0)
    assert queue.size <= QUEUE_BYTES
    assert counters.queue_dropped == 1000 - QUEUE_BYTES // 1024
    assert contents(queue)[-1] == (999).to_bytes(2, "big") * 512


def test_bound_in_age_drops_the_oldest_and_counts():
    counters = TunnelCounters()
    queue = DatagramQueue(counters)
    queue.push([b"old"], 1170, 0.0)
    queue.push([b"new"], 1170, 0.1)
    queue.expire(QUEUE_AGE + 0.01)
    assert counters.queue_expired == 1
    assert contents(queue) == [b"new"]


def test_oversize_is_refused_and_later_ones_pass():
    counters = TunnelCounters()
    queue = DatagramQueue(counters)
    queue.push([bytes(1171), b"later"], 1170, 0.0)
    assert counters.oversize_dropped == 1
    assert contents(queue) == [b"later"]


def test_what_no_longer_fits_when_it_is_taken_is_dropped():
    counters = TunnelCounters()
    queue = DatagramQueue(counters)
    queue.push([bytes(1170), b"small"], 1170, 0.0)
    assert [item[1] for item in queue.take(5000, 1158)] == [b"small"]
    assert counters.oversize_dropped == 1
    assert queue.size == 0


def test_put_back_keeps_order_and_age():
    counters = TunnelCounters()
    queue = DatagramQueue(counters)
    queue.push([b"a", b"b", b"c"], 1170, 0.0)
    taken = queue.take(2, 1170)
    queue.put_back(taken[1:])
    queue.push([b"d"], 1170, 0.1)
    queue.expire(QUEUE_AGE + 0.01)
    assert counters.queue_expired == 2
    assert contents(queue) == [b"d"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.lists(st.integers(0, 1300), max_size=8)),
            st.tuples(st.just("take"), st.integers(0, 4000)),
            st.tuples(st.just("wait"), st.floats(0, 0.1)),
        ),
        max_size=60,
    )
)
def test_nothing_is_lost_without_being_counted(actions):
    counters = TunnelCounters()
    queue = DatagramQueue(counters, max_bytes=5000)
    now, pushed, out, number = 0.0, 0, [], 0
    for action, value in actions:
        if action == "push":
            batch = []
            for size in value:
                number += 1
                batch.append(number.to_bytes(4, "big") + bytes(size))
            pushed += len(batch)
            queue.push(batch, 1170, now)
        elif action == "take":
            taken = queue.take(value, 1170)
            kept = taken[: len(taken) // 2]
            queue.put_back(taken[len(taken) // 2 :])
            out += [item[1] for item in kept]
        else:
            now += value
            queue.expire(now)
        assert queue.size <= 5000
    lost = counters.queue_dropped + counters.queue_expired + counters.oversize_dropped
    assert pushed == len(out) + len(queue) + lost
    assert out == sorted(out)
    assert queue.size == sum(map(len, contents(queue)))
