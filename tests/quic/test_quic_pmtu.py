from __future__ import annotations

import math
import random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanparty.quic.pmtu import (
    DEAD_TIMEOUTS,
    MAX_PROBES,
    PROOF,
    RAISE_TIMER,
    STEP,
    TABLE,
    Event,
    PathMtu,
    State,
    next_size,
)

BASE = 1200

# -- the table -------------------------------------------------------------------------------------------------------

CELLS = """
            PATH  CLOSED    BASE_PASSED  BASE_FAILED  FOUND     TIMER      BLACK_HOLE  DEAD
DISABLED    BASE  DISABLED  -            -            -         -          -           -
BASE        BASE  DISABLED  SEARCHING    ERROR        -         -          -           -
SEARCHING   BASE  DISABLED  -            -            COMPLETE  -          BASE        BASE
COMPLETE    BASE  DISABLED  -            -            -         SEARCHING  BASE        BASE
ERROR       BASE  DISABLED  SEARCHING    -            -         BASE       -           -
"""


def cells():
    names, *rows = (line.split() for line in CELLS.strip().splitlines())
    for state, *targets in rows:
        for event, target in zip(names, targets, strict=True):
            yield State[state], Event[event], State[state] if target == "-" else State[target]


def run_probe(mtu, now, arrives):
    """Let one probe be sent and its fate be known; its size."""
    size = mtu.probe(now)
    assert size is not None
    if mtu._companion:
        assert mtu.probe(now) == BASE
        mtu.on_probe_acked(BASE, now)
    (mtu.on_probe_acked if arrives(size) else mtu.on_probe_lost)(size, now)
    return size


def search(mtu, now, limit):
    """Run probes over a path of ``limit`` until nothing is left to do; sizes and the time."""
    sizes = []
    while mtu.next_deadline() < now + 10 and mtu.state is not State.COMPLETE:
        now = max(now, mtu.next_deadline())
        if mtu.state is State.SEARCHING and mtu._wanted() is None:
            assert mtu.probe(now) is None
            break
        sizes.append(run_probe(mtu, now, lambda size: size <= limit))
    return sizes, now


def in_state(state, limit=1464):
    """A machine in ``state``, above the base size where that is possible."""
    mtu = PathMtu(base=BASE, ceiling=BASE if state is State.DISABLED else 1472)
    if state in (State.SEARCHING, State.COMPLETE):
        _sizes, now = search(mtu, 0.0, limit)
        if state is State.SEARCHING:
            now = mtu.next_deadline()
            run_probe(mtu, now, lambda size: False)
    elif state is State.ERROR:
        now = 0.0
        while mtu.state is State.BASE:
            now = max(now, mtu.next_deadline())
            run_probe(mtu, now, lambda size: False)
    else:
        now = 0.0
    assert mtu.state is state
    return mtu, now


def cause(mtu, event, now):
    """Make happen from outside what ``event`` stands for."""
    match event:
        case Event.PATH:
            mtu.on_path_change(1472, now)
        case Event.CLOSED:
            mtu.on_path_change(BASE, now)
        case Event.BASE_PASSED:
            mtu.on_acked(BASE, now)
        case Event.BASE_FAILED:
            for _ in range(MAX_PROBES):
                now = max(now, mtu.next_deadline())
                run_probe(mtu, now, lambda size: False)
        case Event.FOUND:
            search(mtu, now, mtu.size)
        case Event.TIMER:
            mtu.probe(max(now, mtu._raise_at) if mtu.state in (State.COMPLETE, State.ERROR) else now)
        case Event.BLACK_HOLE:
            for step in range(PROOF):
                mtu.on_lost(9, mtu.size, now + step)
        case Event.DEAD:
            for _ in range(DEAD_TIMEOUTS):
                mtu.on_pto(now)


@pytest.mark.parametrize(("state", "event", "target"), list(cells()), ids=lambda value: value.name)
def test_every_cell_of_the_table(state, event, target):
    assert TABLE[state].get(event, state) is target


REACHABLE = [
    cell
    for cell in cells()
    # These two are outcomes of probing, and in their own states only.
    if not (cell[1] is Event.BASE_FAILED and cell[0] is not State.BASE)
    and not (cell[1] is Event.FOUND and cell[0] is not State.SEARCHING)
]


@pytest.mark.parametrize(("state", "event", "target"), REACHABLE, ids=lambda value: value.name)
def test_what_happens_moves_the_machine_by_the_table(state, event, target):
    mtu, now = in_state(state)
    cause(mtu, event, now)
    assert mtu.state is target
    if event not in (Event.TIMER, Event.FOUND) and target in (State.BASE, State.ERROR, State.DISABLED):
        assert mtu.size == BASE
    assert mtu.next_deadline() == math.inf or target is not State.DISABLED


# -- the search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "ceiling", "probes"),
    [
        (1472, 1472, [1200, 1472]),  # IPv4 over Ethernet
        (1452, 1452, [1200, 1452]),  # IPv6
        (1548, 1548, [1200, 1548]),
        (1472, 1548, [1200, *[1548] * 3, 1472, *[1510] * 3, *[1491] * 3, *[1481] * 3]),  # jumbo frames here, not there
        (1464, 1472, [1200, *[1472] * 3, 1464]),  # IPv4 over PPPoE
        (1444, 1452, [1200, *[1452] * 3, 1444]),  # IPv6 over PPPoE
        (1392, 1472, [1200, *[1472] * 3, *[1464] * 3, 1392, *[1444] * 3, *[1432] * 3, *[1412] * 3, *[1402] * 3]),
        (1200, 1210, [1200, *[1210] * 3]),
        (1200, 1200, []),
    ],
)
def test_searches(limit, ceiling, probes):
    mtu = PathMtu(base=BASE, ceiling=ceiling)
    sizes, now = search(mtu, 0.0, limit)
    assert mtu.size == limit
    assert sizes == probes
    assert mtu.next_deadline() == (now + RAISE_TIMER if limit < ceiling else math.inf)


@given(limit=st.integers(BASE, 1548), ceiling=st.integers(BASE + 1, 1548))
def test_a_search_without_loss_knows_the_limit_after_few_probes(limit, ceiling):
    mtu = PathMtu(base=BASE, ceiling=ceiling)
    sizes, now = search(mtu, 0.0, limit)
    assert mtu.state is State.COMPLETE
    assert mtu.size <= limit
    assert mtu.size > min(limit, ceiling) - STEP or mtu.size == ceiling
    assert len(sizes) <= 30
    assert now <= 5.0


@given(
    passes=st.integers(BASE, 1548), gap=st.integers(1, 400), failures=st.integers(0, 5), ceiling=st.integers(BASE, 1548)
)
def test_sizes_to_try_are_between_what_is_known(passes, gap, failures, ceiling):
    size = next_size(passes, passes + gap, ceiling, failures)
    if size is not None:
        assert passes < size <= ceiling
        assert size < passes + gap or passes + gap > ceiling


def test_larger_sizes_are_tried_again_after_ten_minutes():
    mtu, now = in_state(State.COMPLETE, limit=1392)
    assert mtu.size == 1392
    later = mtu.next_deadline()
    assert later == pytest.approx(now + RAISE_TIMER)
    assert mtu.probe(later - 1) is None
    sizes, _now = search_from(mtu, later, 1472)
    assert sizes == [1472]
    assert mtu.size == 1472


def search_from(mtu, now, limit):
    """As ``search``, beginning with the raise timer."""
    first = run_probe(mtu, now, lambda size: size <= limit)
    sizes, now = search(mtu, now, limit)
    return [first, *sizes], now


def test_probes_lost_with_other_packets_count_half():
    mtu = PathMtu(base=BASE, ceiling=1472)
    run_probe(mtu, 0.0, lambda size: True)
    now = 0.0
    for number in range(2 * MAX_PROBES):
        now = max(now, mtu.next_deadline())
        assert mtu.probe(now) == 1472, number
        assert mtu.probe(now) == BASE
        mtu.on_lost(1, 100, now)
        mtu.on_probe_lost(1472, now)
    assert mtu.probe(now + 1) == 1464


def test_probes_of_one_size_are_spaced():
    mtu = PathMtu(base=BASE, ceiling=1472)
    run_probe(mtu, 0.0, lambda size: True)
    run_probe(mtu, 0.0, lambda size: False)
    assert mtu.probe(0.09) is None
    assert mtu.probe(0.1) == 1472


def test_one_probe_is_out_at_a_time():
    mtu = PathMtu(base=BASE, ceiling=1472)
    assert mtu.probe(0.0) == BASE
    assert mtu.probe(100.0) is None
    assert mtu.next_deadline() == math.inf


def test_late_and_foreign_answers_mean_nothing():
    mtu, now = in_state(State.COMPLETE)
    for size in (BASE, 1464, 1472, 9000):
        mtu.on_probe_acked(size, now)
        mtu.on_probe_lost(size, now)
    assert (mtu.state, mtu.size) == (State.COMPLETE, 1464)
    assert mtu.probe(now) is None


# -- doubt -----------------------------------------------------------------------------------------------------------


def test_a_loss_among_packets_as_large_is_no_doubt():
    mtu, now = in_state(State.COMPLETE)
    for step in range(100):
        mtu.on_acked(1464, now + step)
        mtu.on_lost(5, 1464, now + step)
        assert mtu.probe(now + step) is None


def test_losses_of_small_packets_are_no_doubt():
    mtu, now = in_state(State.COMPLETE)
    for step in range(100):
        mtu.on_lost(5, BASE, now + step)
        assert mtu.probe(now + step) is None


@pytest.mark.parametrize("begin", ["loss", "time-out"])
@pytest.mark.parametrize("end", ["packet", "probe"])
def test_a_doubt_is_tested_at_once_and_ends_when_the_size_arrives(begin, end):
    mtu, now = in_state(State.COMPLETE)
    if begin == "loss":
        mtu.on_acked(1000, now)
        mtu.on_lost(3, 1464, now)
    else:
        mtu.on_pto(now)
    assert mtu.next_deadline() == now
    assert [mtu.probe(now) for _ in range(3)] == [1464, BASE, None]
    if end == "packet":
        mtu.on_acked(1464, now + 0.1)
    else:
        mtu.on_probe_acked(1464, now + 0.1)
    assert mtu.state is State.COMPLETE
    assert mtu.probe(now + 1) is None
    assert mtu.next_deadline() > now + 500


def test_smaller_packets_that_arrive_do_not_end_a_doubt():
    mtu, now = in_state(State.COMPLETE)
    mtu.on_lost(1, 1464, now)
    for step in range(PROOF - 1):
        at = now + 0.1 + step / 10
        mtu.on_acked(1400, at)
        assert mtu.size == 1464
        run_probe(mtu, at, lambda size: False)
    assert (mtu.state, mtu.size) == (State.BASE, BASE)


def test_what_was_doubted_is_not_tried_again_before_the_raise_timer():
    mtu, now = in_state(State.COMPLETE)
    cause(mtu, Event.BLACK_HOLE, now)
    sizes, now = search(mtu, now + 10, 1432)
    assert mtu.size == 1432
    assert max(sizes) < 1464
    sizes, now = search_from(mtu, now + RAISE_TIMER, 1464)
    assert mtu.size == 1464


def test_a_verdict_that_late_packets_disprove_is_forgotten():
    mtu, now = in_state(State.COMPLETE)
    cause(mtu, Event.BLACK_HOLE, now)
    mtu.on_acked(1464, now + 9)
    sizes, _now = search(mtu, now + 10, 1464)
    assert mtu.size == 1464
    assert sizes[0] == 1472


def test_after_an_interruption_the_size_that_was_is_tried_first():
    mtu, now = in_state(State.COMPLETE, limit=1392)
    cause(mtu, Event.DEAD, now)
    assert mtu.size == BASE
    sizes, _now = search(mtu, now, 1392)
    assert sizes[:2] == [BASE, 1392]
    assert mtu.size == 1392


def test_losses_of_one_moment_are_not_proof():
    mtu, now = in_state(State.COMPLETE)
    mtu.on_lost(1000, 1464, now)
    mtu.on_lost(1000, 1464, now + 0.05)
    mtu.on_lost(1000, 1464, now + 0.09)
    assert mtu.size == 1464
    mtu.on_lost(1, 1464, now + 0.11)
    assert mtu.size == BASE


def test_packets_from_before_the_verdict_are_not_held_against_the_base_size():
    mtu, now = in_state(State.COMPLETE)
    cause(mtu, Event.BLACK_HOLE, now)
    for step in range(20):
        mtu.on_lost(20, 1464, now + 10 + step)
    assert mtu.state is State.BASE
    mtu.on_acked(BASE, now + 40)
    assert mtu.state is State.SEARCHING


# -- a path in simulated time ----------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Sent:
    number: int
    at: float
    size: int
    probe: bool
    arrives: bool


class Path:
    """A sender with QUIC's acknowledgements, loss detection and time-outs (RFC 9002), and a path of ``limit`` bytes."""

    TICK = 0.002

    def __init__(self, *, limit, rtt, loss, traffic, seed, ceiling=1472):
        self.random = random.Random(seed)
        self.now = 0.0
        self.limit = limit
        self.rtt = rtt
        self.loss = loss
        self.traffic = traffic
        self.mtu = PathMtu(base=BASE, ceiling=ceiling)
        self.flight: list[Sent] = []
        self.count = 0
        self.newest = 0
        """The largest number acknowledged."""
        self.timeouts = 0
        self.quiet_since = 0.0
        self.shrunk = 0
        """How often the size shrank."""
        self.above = 0.0
        """Seconds for which the size has been above the limit."""
        self.longest_above = 0.0

    def send(self, size, *, probe=False):
        self.count += 1
        arrives = size <= self.limit and self.random.random() >= self.loss
        self.flight.append(Sent(self.count, self.now, size, probe, arrives))

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now += self.TICK
            before = self.mtu.size
            self._acknowledge()
            self._detect_time_out()
            self.shrunk += self.mtu.size < before
            while (size := self.mtu.probe(self.now)) is not None:
                self.send(size, probe=True)
            self.traffic(self)
            self.above = self.above + self.TICK if self.mtu.size > self.limit else 0.0
            self.longest_above = max(self.longest_above, self.above)

    def _acknowledge(self):
        acked = [sent for sent in self.flight if sent.arrives and sent.at + self.rtt <= self.now]
        if acked:
            self.timeouts = 0
            self.quiet_since = self.now
            self.newest = max(self.newest, acked[-1].number)
        late = self.now - self.rtt * 9 / 8
        lost = [
            sent
            for sent in self.flight
            if sent not in acked and sent.number < self.newest and (sent.at <= late or sent.number <= self.newest - 3)
        ]
        self.flight = [sent for sent in self.flight if sent not in acked and sent not in lost]
        if ordinary := [sent.size for sent in acked if not sent.probe]:
            self.mtu.on_acked(max(ordinary), self.now)
        if ordinary := [sent.size for sent in lost if not sent.probe]:
            self.mtu.on_lost(len(ordinary), max(ordinary), self.now)
        for sent in acked:
            if sent.probe:
                self.mtu.on_probe_acked(sent.size, self.now)
        for sent in lost:
            if sent.probe:
                self.mtu.on_probe_lost(sent.size, self.now)

    def _detect_time_out(self):
        if not self.flight:
            return
        since = max(self.quiet_since, self.flight[-1].at)
        if self.now - since >= (1.5 * self.rtt + 0.03) * 2**self.timeouts:
            self.timeouts += 1
            self.quiet_since = self.now
            self.send(60)  # PING
            self.mtu.on_pto(self.now)


def bulk(path):
    """Full packets as the window allows: some 40 in flight."""
    while len(path.flight) < 40:
        path.send(path.mtu.size)


def game(path):
    """60 small packets a second, and now and then a full one."""
    if path.random.random() < 60 * path.TICK:
        path.send(path.random.randint(60, 300))
    if path.random.random() < 2 * path.TICK:
        path.send(path.mtu.size)


def lone(path):
    """One full packet at a time, a new one when the last one's fate is known: no other packet ends a doubt."""
    if not path.flight:
        path.send(path.mtu.size)


def silent(path):
    """A heartbeat each second."""
    if path.random.random() < path.TICK:
        path.send(60)


TRAFFIC = {traffic.__name__: traffic for traffic in (bulk, game, lone, silent)}
paths = {
    "limit": st.integers(BASE, 1500),
    "rtt": st.sampled_from([0.004, 0.03, 0.1]),
    "loss": st.floats(0.0, 0.05),
    "traffic": st.sampled_from(list(TRAFFIC.values())),
    "seed": st.integers(0, 2**32),
}


def close(path):
    return min(path.limit, path.mtu.ceiling) - STEP < path.mtu.size <= path.limit


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**paths)
def test_it_converges_on_any_path(limit, rtt, loss, traffic, seed):
    path = Path(limit=limit, rtt=rtt, loss=loss, traffic=traffic, seed=seed)
    path.run(15.0)
    assert close(path), path.mtu.size
    assert path.shrunk == 0
    assert path.longest_above == 0.0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(**paths, after=st.integers(BASE, 1472))
def test_it_follows_a_path_that_shrinks(limit, rtt, loss, traffic, seed, after):
    path = Path(limit=limit, rtt=rtt, loss=loss, traffic=traffic, seed=seed)
    path.run(15.0)
    before = path.mtu.size
    path.limit = min(limit, after)
    path.run(20.0)
    assert path.mtu.size <= path.limit or traffic is silent  # who sends nothing large does not learn, nor lose
    if traffic is not silent and before > path.limit:
        assert close(path), path.mtu.size
        # Until the first full packet is sent, and then about a second at 100 ms.
        assert path.longest_above <= (3.0 if traffic is game else 0.3) + 9 * rtt


@pytest.mark.parametrize("traffic", TRAFFIC.values(), ids=TRAFFIC.keys())
@pytest.mark.parametrize("loss", [0.01, 0.02])
def test_random_loss_never_shrinks_it(traffic, loss):
    path = Path(limit=1472, rtt=0.004, loss=loss, traffic=traffic, seed=7)
    path.run(2.0)
    while path.count < 100_000 and path.now < 500.0:
        path.run(5.0)
        assert path.mtu.size == 1472
    assert path.shrunk == 0


@pytest.mark.parametrize("rtt", [0.004, 0.03, 0.1])
def test_a_black_hole_under_full_load_is_left_within_a_second(rtt):
    path = Path(limit=1472, rtt=rtt, loss=0.0, traffic=bulk, seed=1)
    path.run(3.0)
    assert path.mtu.size == 1472
    path.limit = 1400
    path.run(1.0)
    assert path.mtu.size <= 1400
    assert path.longest_above < 0.2 + 6 * rtt
    path.run(10.0)
    assert close(path)


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.2])
def test_a_short_interruption_changes_nothing(seconds):
    path = Path(limit=1472, rtt=0.03, loss=0.0, traffic=bulk, seed=1)
    path.run(3.0)
    path.loss = 1.0
    path.run(seconds)
    path.loss = 0.0
    path.run(2.0)
    assert path.mtu.size == 1472
    assert path.shrunk == 0


def test_a_long_interruption_costs_a_few_round_trips():
    path = Path(limit=1452, rtt=0.03, loss=0.0, traffic=bulk, seed=1)
    path.run(5.0)
    assert path.mtu.size == 1452
    path.loss = 1.0
    path.run(4.0)
    assert path.mtu.size == BASE
    path.loss = 0.0
    path.run(2.5)  # the next time-out, and a few round trips
    assert path.mtu.size == 1452


def test_a_path_that_widens_is_used_after_the_raise_timer():
    path = Path(limit=1400, rtt=0.03, loss=0.02, traffic=game, seed=3)
    path.run(20.0)
    assert close(path)
    path.limit = 1472
    path.run(RAISE_TIMER + 5.0)
    assert path.mtu.size == 1472
    assert path.shrunk == 0


def test_a_path_without_the_base_size_is_no_endless_flood_of_probes():
    path = Path(limit=1000, rtt=0.03, loss=0.0, traffic=silent, seed=1)
    path.run(60.0)
    assert path.mtu.size == BASE
    assert path.count < 60 * 8
    path.limit = 1472
    path.run(5.0)
    assert path.mtu.size == 1472
