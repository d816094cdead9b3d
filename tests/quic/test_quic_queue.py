from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quic_queue_load import ARP, Sender, datagram, read, run

from lanparty.obs.counters import TunnelCounters
from lanparty.obs.switches import VARIABLE
from lanparty.proto.fragments import cut
from lanparty.quic.codel import CODEL_TARGET, DATAGRAM_COST
from lanparty.quic.queue import BURST, CONTROL_QUANTUM, PAYER_FLOWS, PAYERS, DatagramQueue
from lanparty.quic.settings import QUEUE_AGE, QUEUE_BYTES

BUDGET = 1170
ALL = 1 << 62
AHEAD_MS = 8
"""Milliseconds at 2500 bytes each that 16 datagrams, the most that may be ahead, take."""


@pytest.fixture(params=["fq", "fifo"])
def either(request, monkeypatch):
    """A queue of each kind, and its counters."""
    monkeypatch.setenv(VARIABLE, "" if request.param == "fq" else "fq")
    counters = TunnelCounters()
    return DatagramQueue(counters), counters


def make(**bounds):
    counters = TunnelCounters()
    return DatagramQueue(counters, **bounds), counters


def flows(taken):
    return [read(sent)[1] for sent in taken]


def burst(flow, count, size=1000, *, first=0, origin=1):
    return [datagram(flow, first + number, size, origin=origin) for number in range(count)]


def lost(counters):
    return (
        counters.queue_dropped
        + counters.queue_expired
        + counters.oversize_dropped
        + sum(counters.other_dropped.values())
    )


# -- bounds and drops, both kinds ------------------------------------------------------------------------------------


def test_one_flow_is_first_in_first_out(either):
    queue, _ = either
    queue.push([b"a", b"b"], BUDGET, 0.0)
    queue.push([b"c"], BUDGET, 0.1)
    assert (len(queue), queue.size) == (3, 3)
    assert queue.take(ALL, BUDGET, 0.1) == [b"a", b"b", b"c"]
    assert (len(queue), queue.size) == (0, 0)
    assert queue.take(ALL, BUDGET, 0.1) == []


def test_bound_in_bytes_drops_the_oldest_and_counts(either):
    queue, counters = either
    count = QUEUE_BYTES // 1024 + 500
    queue.push(burst(1, count, 1024), BUDGET, 0.0)
    assert queue.size == QUEUE_BYTES // 1024 * 1024
    assert counters.queue_dropped == 500
    assert [read(sent)[2] for sent in queue.take(ALL, BUDGET, 0.0)] == list(range(500, count))


def test_bound_in_age_drops_the_oldest_and_counts(either):
    queue, counters = either
    queue.push(burst(1, 2), BUDGET, 0.0)
    queue.push(burst(1, 1, first=2) + burst(2, 1), BUDGET, 0.1)
    taken = queue.take(ALL, BUDGET, QUEUE_AGE + 0.01)
    assert counters.queue_expired == 2
    assert sorted(map(read, taken)) == [(1, 1, 2), (1, 2, 0)]
    assert (len(queue), queue.size) == (0, 0)


def test_what_is_too_old_makes_room_while_nothing_leaves(either):
    """A connection that cannot send holds no more than the bound in age, as long as something is pushed."""
    queue, counters = either
    for step in range(100):
        queue.push(burst(1, 10), BUDGET, step * 0.05)
    assert len(queue) <= 10 * (QUEUE_AGE / 0.05 + 2)
    assert counters.queue_expired == 1000 - len(queue)


def test_oversize_is_refused_and_later_ones_pass(either):
    queue, counters = either
    queue.push([bytes(1171), b"later"], BUDGET, 0.0)
    queue.push([bytes(1171)], BUDGET, 0.0)
    queue.push([], BUDGET, 0.0)
    assert counters.oversize_dropped == 2
    assert queue.take(ALL, BUDGET, 0.0) == [b"later"]


def test_what_no_longer_fits_when_it_is_taken_is_dropped(either):
    queue, counters = either
    queue.push(burst(1, 40, 1170) + burst(2, 1, 100) + burst(1, 1, 100, first=40), BUDGET, 0.0)
    queue.take(10_000, BUDGET, 0.0)
    waiting = len(queue)
    taken = queue.take(ALL, 1158, 0.0)
    assert all(len(sent) == 100 for sent in taken)
    assert counters.oversize_dropped == waiting - len(taken)
    assert (len(queue), queue.size) == (0, 0)


def test_at_least_one_leaves_and_no_more_than_allowed(either):
    queue, _ = either
    queue.push(burst(1, 5), BUDGET, 0.0)
    assert queue.take(0, BUDGET, 0.0) == []
    assert queue.take(-5, BUDGET, 0.0) == []
    assert len(queue.take(1, BUDGET, 0.0)) == 1
    assert len(queue.take(2 * (1000 + DATAGRAM_COST), BUDGET, 0.0)) == 2
    assert len(queue.take(2 * (1000 + DATAGRAM_COST) - 1, BUDGET, 0.0)) == 1


def test_clear_counts(either):
    queue, counters = either
    queue.push(burst(1, 3) + burst(ARP, 2), BUDGET, 0.0)
    queue.clear()
    assert (len(queue), queue.size, counters.queue_dropped) == (0, 0, 5)
    queue.push(burst(1, 1), BUDGET, 0.0)
    assert flows(queue.take(ALL, BUDGET, 0.0)) == [1]


def test_offer_passes_on_what_may_leave(either):
    queue, _ = either
    batch = burst(1, 4) + burst(ARP, 1)
    cost = sum(map(len, batch)) + 5 * DATAGRAM_COST
    assert queue.offer(batch, cost, BUDGET, 0.0) == batch
    assert len(queue) == 0
    assert queue.offer([], cost, BUDGET, 0.0) == []


def test_offer_queues_the_rest_and_overtakes_nothing(either):
    queue, counters = either
    assert len(queue.offer(burst(1, 4), 2 * 1003, BUDGET, 0.0)) == 2
    assert [read(sent)[2] for sent in queue.offer(burst(1, 1, first=4), ALL, BUDGET, 0.0)] == [2, 3, 4]
    assert queue.offer([bytes(1171)], ALL, BUDGET, 0.0) == []
    assert counters.oversize_dropped == 1


def test_switched_off_it_is_first_in_first_out_over_all_flows(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fq")
    queue, counters = make(max_bytes=5000)
    queue.push(burst(1, 4) + burst(ARP, 1) + burst(2, 1, 500), BUDGET, 0.0)
    assert flows(queue.take(ALL, BUDGET, 0.0)) == [1, 1, 1, ARP, 2]
    assert counters.queue_dropped == 1


# -- who is next -----------------------------------------------------------------------------------------------------


def test_control_first_then_sparse_flows_then_bulk():
    queue, _ = make()
    queue.push(burst(1, 30), BUDGET, 0.0)
    queue.take(5000, BUDGET, 0.0)
    queue.push(burst(2, 1, 100) + burst(ARP, 3, 60) + burst(3, 1, 100), BUDGET, 0.001)
    assert flows(queue.take(ALL, BUDGET, 0.001))[:6] == [ARP, ARP, ARP, 2, 3, 1]


@given(st.integers(0, 10**6), st.integers(1, CONTROL_QUANTUM // (60 + DATAGRAM_COST)))
@settings(max_examples=100, deadline=None)
def test_control_is_always_first(seed, count):
    """Whatever else waits, whoever has sent how much of what."""
    chosen = random.Random(seed)
    queue, _ = make()
    now = 0.0
    for _ in range(chosen.randrange(30)):
        now += chosen.random() * 0.02
        queue.push(burst(chosen.randint(1, 40), chosen.randint(1, 30), origin=chosen.randint(1, 3)), BUDGET, now)
        queue.take(chosen.randrange(1, 30_000), BUDGET, now)
    queue.push(burst(ARP, count, 60, origin=chosen.randint(1, 4)), BUDGET, now)
    while count:
        taken = flows(queue.take(chosen.randrange(1, 3000), BUDGET, now))
        assert taken[:count] == [ARP] * min(count, len(taken))
        count -= min(count, len(taken))


def test_an_arp_storm_gets_its_share_and_no_more():
    """Control is first up to CONTROL_QUANTUM; then it is a flow of its sender's like any other."""
    queue, _ = make()
    served = Counter()
    for step in range(400):
        queue.push(burst(ARP, 60, 60, origin=9), BUDGET, step * 0.001)
        queue.push(burst(1, 3, origin=1), BUDGET, step * 0.001)
        for sent in queue.take(2500, BUDGET, step * 0.001):
            served[read(sent)[1]] += len(sent) + DATAGRAM_COST
    assert abs(served[ARP] - served[1]) <= CONTROL_QUANTUM + 20 * BUDGET


@pytest.mark.parametrize(("count", "idle"), [(40, False), (40, True), (2, False)])
def test_a_scan_does_not_pass_a_neighbours_ping(count, idle):
    """Each datagram of the scan is a new, sparse flow. Many at a time are bounded by AHEAD, also on a line that is
    otherwise idle; few at a time, all the time, by CREDIT."""
    queue, _ = make()
    served, waits = Counter(), []
    for step in range(400):
        now = step * 0.001
        queue.push([datagram(1000 + step * 40 + number, 0, 1100, origin=2) for number in range(count)], BUDGET, now)
        if not idle:
            queue.push(burst(1, 3, origin=1), BUDGET, now)
        queue.push([datagram(2, step, 100, origin=1)], BUDGET, now)
        for sent in queue.take(2500, BUDGET, now):
            origin, flow, number = read(sent)
            served[origin] += len(sent) + DATAGRAM_COST
            if flow == 2:
                waits.append(step - number)
    assert len(waits) > 390
    assert max(waits) <= AHEAD_MS
    if not idle:
        assert 0.75 < served[1] / served[2] < 1.34


def test_one_members_hundred_flows_do_not_beat_anothers_one():
    queue, _ = make()
    served = Counter()
    for step in range(300):
        for flow in range(1, 101):
            if step % 30 == 0:
                queue.push(burst(flow, 10, origin=1), BUDGET, 0.0)
        if step % 10 == 0:
            queue.push(burst(1, 40, origin=2), BUDGET, 0.0)
        for sent in queue.take(5000, BUDGET, 0.0):
            if step > 100:
                served[read(sent)[0]] += 1
    assert 0.9 < served[1] / served[2] < 1.1


@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([1, 3000, 12000]))
@settings(max_examples=30, deadline=None)
def test_deficit_round_robin_is_fair_within_a_quantum(count, members, seed, allowance):
    """Flows of any datagram sizes that always have something to send get the same, and so do members."""
    chosen = random.Random(seed)
    queue, _ = make(max_bytes=1 << 30)
    names = [(1 + flow % members, flow) for flow in range(1, count + 1)]
    for origin, flow in names:
        for number in range(500):
            queue.push([datagram(flow, number, chosen.randint(60, 1170), origin=origin)], BUDGET, 0.0)
    quantum = max(BUDGET + DATAGRAM_COST, min(allowance, BURST))
    left = 4 * quantum * count
    while left > 0:  # all are in the round by now
        left -= sum(map(len, queue.take(allowance, BUDGET, 0.0)))
    served = dict.fromkeys(names, 0)
    left = 60_000 * count // members
    while left > 0:
        for sent in queue.take(chosen.randint(1, allowance), BUDGET, 0.0):
            served[read(sent)[:2]] += len(sent) + DATAGRAM_COST
            left -= len(sent) + DATAGRAM_COST
    by_member = defaultdict(list)
    for (origin, _), size in served.items():
        by_member[origin].append(size)
    assert max(map(sum, by_member.values())) - min(map(sum, by_member.values())) <= 3 * quantum
    for sizes in by_member.values():
        assert max(sizes) - min(sizes) <= 3 * quantum


@given(st.integers(1, 20), st.integers(1, 4), st.integers(50, 1170), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_sparse_flow_waits_for_at_most_a_quantum_of_each_flow(count, members, size, seed):
    """A quantum, or rather one datagram that begins in it: those are sparse that have just begun, too."""
    chosen = random.Random(seed)
    queue, _ = make()
    for flow in range(1, count + 1):
        queue.push(burst(flow, 20, origin=1 + flow % members), BUDGET, 0.0)
    for _ in range(chosen.randrange(30)):
        queue.take(chosen.randrange(1, 3000), BUDGET, 0.0)
    queue.push([datagram(500, 0, size, origin=chosen.randint(1, 5))], BUDGET, 0.001)
    before = 0
    while 500 not in flows(taken := queue.take(chosen.randrange(1, 3000), BUDGET, 0.001)):
        before += sum(map(len, taken)) + DATAGRAM_COST * len(taken)
    assert before <= 2 * (1000 + DATAGRAM_COST) * count


def test_a_game_stays_ahead_between_two_turns_of_the_round():
    """Several small datagrams within one round of 20 bulk flows; RFC 8290 alone would have the second one wait."""
    queue, _ = make()
    for flow in range(1, 21):
        queue.push(burst(flow, 20), BUDGET, 0.0)
    queue.take(50 * 1100, BUDGET, 0.0)
    for number in range(5):
        queue.push([datagram(99, number, 200)], BUDGET, 0.0)
        assert flows(queue.take(1300, BUDGET, 0.0))[0] == 99
    # It has had its quantum; now it has to wait for its turn.
    queue.push(burst(99, 6, 200, first=5), BUDGET, 0.0)
    taken = flows(queue.take(1300, BUDGET, 0.0))
    assert (taken[0], taken.count(99)) == (99, 1)
    assert 99 not in flows(queue.take(1300, BUDGET, 0.0))


def test_full_it_drops_from_the_fattest_flow_of_the_fattest_member():
    queue, counters = make(max_bytes=50_000)
    queue.push(burst(1, 20, origin=1), BUDGET, 0.0)
    for flow in range(10, 20):
        queue.push(burst(flow, 2, origin=2), BUDGET, 0.0)
    queue.push(burst(5, 5, origin=2), BUDGET, 0.0)
    assert (len(queue), counters.queue_dropped) == (45, 0)
    queue.push(burst(30, 8, 500, origin=3), BUDGET, 0.0)
    queue.push(burst(30, 6, 1000, first=8, origin=3), BUDGET, 0.0)
    assert counters.queue_dropped == 5
    left = Counter(read(sent)[:2] for sent in queue.take(ALL, BUDGET, 0.0))
    assert left[3, 30] == 14
    assert left[1, 1] == 20
    assert left[2, 5] < 5


# -- pieces ----------------------------------------------------------------------------------------------------------


def test_pieces_stay_in_their_frames_flow():
    queue, _ = make()
    frame = datagram(1, 1, 1400)[4:]
    pieces = cut(frame, 500, 7, b"\x11\x00\x00\x01")
    other = cut(frame, 500, 7, b"\x11\x00\x00\x02")
    batch = [datagram(1, 0, 300), *pieces, *other, datagram(1, 2, 300), datagram(2, 0, 300)]
    queue.push(burst(2, 9), BUDGET, 0.0)
    queue.push(batch, BUDGET, 0.0)
    taken = [sent for sent in queue.take(ALL, BUDGET, 0.0) if read(sent)[1] != 2 or sent[0] == 0x11]
    assert [sent for sent in taken if sent[3] == 1] == [batch[0], *pieces, batch[-2]]
    assert [sent for sent in taken if sent[3] == 2] == other


def test_a_later_piece_without_its_first_is_carried():
    queue, _ = make()
    later = cut(bytes(1400), 500, 7, b"\x11\x00\x00\x01")[1:]
    queue.push(later, BUDGET, 0.0)
    assert queue.take(ALL, BUDGET, 0.0) == later


# -- bounds of the tables --------------------------------------------------------------------------------------------


def test_tables_stay_bounded_and_order_is_kept_beyond_their_bounds():
    queue, _ = make(max_bytes=1 << 30)
    chosen = random.Random(5)
    numbers = Counter()
    seen = {}
    for step in range(300):
        for _ in range(20):
            origin, flow = chosen.randint(1, 3 * PAYERS), chosen.randint(1, 9)
            if chosen.random() < 0.7:
                origin, flow = 1, chosen.randint(1, 4 * PAYER_FLOWS)
            queue.push([datagram(flow, numbers[origin, flow], 60, origin=origin)], BUDGET, step * 0.001)
            numbers[origin, flow] += 1
        assert len(queue._payers) <= PAYERS + 1
        assert all(payer.waiting <= PAYER_FLOWS + 1 for payer in queue._payers.values())
        allowance = ALL if step % 100 == 99 else chosen.randrange(1, 2500)
        for sent in queue.take(allowance, BUDGET, step * 0.001):
            origin, flow, number = read(sent)
            assert seen.get((origin, flow), -1) == number - 1
            seen[origin, flow] = number
    assert len(queue) == 0
    queue.push([datagram(flow, 0, 60, origin=9) for flow in range(1, 3000)], BUDGET, 1.0)
    assert len(queue._flows) <= PAYER_FLOWS + 1


def test_idle_flows_are_forgotten_while_others_wait():
    queue, _ = make(max_bytes=1 << 30)
    for number in range(5000):
        queue.push([datagram(1, number, 1000), datagram(number + 2, 0, 60)], BUDGET, 0.0)
        queue.take(100, BUDGET, 0.0)
    assert len(queue._flows) < 2500
    assert len(queue) > 1000


# -- anything at all -------------------------------------------------------------------------------------------------

PUSHES = st.lists(st.tuples(st.integers(0, 4), st.integers(50, 1300), st.integers(1, 3)), max_size=8)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["push", "offer"]), PUSHES),
        st.tuples(st.just("take"), st.integers(0, 6000)),
        st.tuples(st.just("wait"), st.floats(0, 0.1)),
        st.tuples(st.just("path"), st.integers(60, 1300)),
        st.tuples(st.just("cut"), st.integers(120, 3000)),
    ),
    max_size=60,
)


@given(ACTIONS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_nothing_is_lost_uncounted_nor_overtakes_itself(actions, fair):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "" if fair else "fq")
        queue, counters = make(max_bytes=8000)
    now, budget, pushed, number = 0.0, 1170, 0, 0
    last = {}
    out = 0
    came = {}
    for action, value in actions:
        taken = []
        if action in ("push", "offer"):
            batch = []
            for flow, size, origin in value:
                number += 1
                batch.append(datagram(flow, number, size, origin=origin))
                came[number] = now
            pushed += len(batch)
            if action == "push":
                queue.push(batch, budget, now)
            else:
                taken = queue.offer(batch, 4000, budget, now)
        elif action == "cut":
            number += 1
            frame = datagram(1 + number % 4, number, min(value, 1500), origin=1)[4:]
            pieces = cut(frame, 110, number, b"\x11\x00\x00\x01")
            pushed += len(pieces)
            queue.push(pieces, budget, now)
        elif action == "take":
            taken = queue.take(value, budget, now)
            assert sum(map(len, taken)) + DATAGRAM_COST * len(taken) <= value or len(taken) == 1
            assert taken or not value or not queue
        elif action == "wait":
            now += value
        else:
            budget = value
        out += len(taken)
        check_order(taken, last)
        assert all(len(sent) <= budget for sent in taken)
        assert all(now - came[read(sent)[2]] <= QUEUE_AGE for sent in taken if sent[0] != 0x11)
        assert queue.size <= 8000
        assert pushed == out + len(queue) + lost(counters)
    rest = []
    size = queue.size
    while queue:
        rest += queue.take(ALL, 1300, now)
    check_order(rest, last)
    assert pushed == out + len(rest) + lost(counters)
    assert size >= sum(map(len, rest))
    assert queue.size == 0


def check_order(taken, last):
    """Within a flow numbers only grow; pieces count as their frame, its index behind it."""
    for sent in taken:
        if sent[0] == 0x11:
            flow = (1, 1 + int.from_bytes(sent[4:6]) % 4)
            place = int.from_bytes(sent[4:6]), sent[6]
        else:
            origin, flow, number = read(sent)
            flow, place = (origin, flow), (number, 0)
        assert last.get(flow, (0, 0)) <= place
        last[flow] = place


# -- inner TCP over a slow line --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ping_origin", [1, 2])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_ping_stays_flat_and_the_line_full(count, ping_origin):
    """Issue 3's goal, as far as it is the queue's: 20 Mbit/s, drained each millisecond, a LAN's round trip."""
    queue, counters = make()
    senders = [Sender(flow, 1) for flow in range(1, count + 1)]
    rate = 20e6 / 8
    waits, drained, _ = run(queue, senders, rate=rate, seconds=8, rtt=0.005, ping_origin=ping_origin, seed=count)
    assert len(waits) > 700
    assert waits[int(len(waits) * 0.99)] < 0.002
    assert sum(drained.values()) > 0.95 * rate * 7
    shares = [drained[1, flow] for flow in range(1, count + 1)]
    assert min(shares) > 0.9 * max(shares)
    assert counters.other_dropped["codel"] > 0
    assert not counters.queue_dropped


def test_codel_keeps_a_flows_own_queue_short(monkeypatch):
    """The bulk flow itself: it waits for some targets, where first in, first out lets it wait for the bound in age."""
    rate = 20e6 / 8
    queue, _ = make()
    _, _, smart = run(queue, [Sender(1, 1)], rate=rate, seconds=5, rtt=0.005)
    monkeypatch.setenv(VARIABLE, "fq")
    queue, _ = make()
    _, _, plain = run(queue, [Sender(1, 1)], rate=rate, seconds=5, rtt=0.005)
    assert statistics.median(smart) < 3 * CODEL_TARGET * rate
    assert statistics.median(plain) > 10 * CODEL_TARGET * rate


def test_a_flood_of_small_datagrams_that_the_path_carries_is_not_hurt():
    """57 000 datagrams of 200 bytes a second over a line for 60 000, which stands still for 30 ms now and then: what
    that leaves behind takes 0.6 s to drain, six of CoDel's intervals."""
    queue, counters = make()
    pushed = 0
    for step in range(4000):
        now = step * 0.001
        queue.push(burst(1, 57, 200, first=pushed), BUDGET, now)
        pushed += 57
        if step % 1000 >= 30:
            queue.take(60 * (200 + DATAGRAM_COST), BUDGET, now)
    assert lost(counters) < 0.005 * pushed
    assert queue.size < 100_000
