from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from proto_corpus import MUTATIONS, mutations

from lanparty.proto.fragments import FRAME_COST, PIECE_COST, Drop, OverlaySizeError, Reassembler, cut


def frame_of(size, seed=0):
    return random.Random(seed).randbytes(size)


def piece(frame_id, index, count, data):
    return frame_id.to_bytes(2, "big") + bytes((index, count)) + data


@pytest.mark.parametrize(
    ("size", "budget", "sizes"),
    [
        (1514, 1166, [757, 757]),
        (1515, 1166, [758, 757]),
        (2324, 1166, [1162, 1162]),
        (2325, 1166, [775, 775, 775]),
        (2326, 1166, [776, 775, 775]),
        (9018, 1166, [1128] * 2 + [1127] * 6),
        (14, 1166, [7, 7]),  # at least two, even where one would do
        (255, 5, [1] * 255),
        (2, 5, [1, 1]),
    ],
)
def test_pieces_are_few_and_near_equal(size, budget, sizes):
    frame = frame_of(size)
    pieces = cut(frame, budget, 0xABCD)
    assert [len(data) - 4 for data in pieces] == sizes
    assert [data[:4] for data in pieces] == [piece(0xABCD, index, len(sizes), b"") for index in range(len(sizes))]
    assert b"".join(data[4:] for data in pieces) == frame


def test_the_prefix_counts_against_the_budget():
    pieces = cut(frame_of(1514), 765, 1, b"head")
    assert [len(data) for data in pieces] == [765, 765]
    assert all(data.startswith(b"head\x00\x01") for data in pieces)
    assert len(cut(frame_of(1514), 764, 1, b"head")) == 3


@pytest.mark.parametrize(
    ("size", "budget"), [(9019, 1200), (1, 1200), (0, 1200), (256, 5), (100, 4), (100, 0), (100, -1)]
)
def test_what_cannot_be_cut(size, budget):
    with pytest.raises(OverlaySizeError, match=str(size)):
        cut(bytes(size), budget, 0)


@given(st.integers(14, 9018), st.integers(40, 1400), st.integers(0, 65535), st.randoms(use_true_random=False))
def test_any_order_gives_the_frame_back(size, budget, frame_id, rng):
    frame = frame_of(size)
    pieces = cut(frame, budget, frame_id)
    assert all(len(data) <= budget for data in pieces)
    rng.shuffle(pieces)
    table = Reassembler()
    results = [table.add_untrusted(7, data, 1.0) for data in pieces]
    assert results == [None] * (len(pieces) - 1) + [frame]
    assert (table.pending_frames, table.pending_bytes, table.dropped) == (0, 0, Counter())


def test_frames_and_origins_do_not_mix():
    table = Reassembler()
    frames = {
        (origin, frame_id): frame_of(1514, origin * 10 + frame_id) for origin in (0, 1, 256) for frame_id in (0, 1)
    }
    cuts = {key: cut(frame, 1166, key[1]) for key, frame in frames.items()}
    for key, pieces in cuts.items():
        assert table.add_untrusted(key[0], pieces[1], 0.0) is None
    for key, pieces in cuts.items():
        assert table.add_untrusted(key[0], pieces[0], 0.1) == frames[key]


A, B = b"a" * 20, b"b" * 20


@pytest.mark.parametrize(
    ("pieces", "dropped", "pending"),
    [
        ([b""], {Drop.SHORT: 1}, 0),
        ([b"\x00\x01\x00"], {Drop.SHORT: 1}, 0),
        ([piece(1, 0, 2, b"")], {Drop.SHORT: 1}, 0),
        ([piece(1, 0, 0, A)], {Drop.COUNT: 1}, 0),
        ([piece(1, 0, 1, A)], {Drop.COUNT: 1}, 0),
        ([piece(1, 2, 2, A)], {Drop.COUNT: 1}, 0),
        ([piece(1, 255, 255, A)], {Drop.COUNT: 1}, 0),
        ([piece(1, 0, 2, bytes(4510))], {Drop.SIZE: 1}, 0),
        ([piece(1, 0, 255, bytes(37))], {Drop.SIZE: 1}, 0),
        ([piece(1, 0, 255, bytes(36))], {}, 1),
        ([piece(1, 0, 2, b"x"), piece(1, 1, 2, b"y")], {Drop.SIZE: 1}, 0),  # two bytes are no frame
        ([piece(1, 0, 2, bytes(4509)), piece(1, 1, 2, bytes(4510))], {Drop.SIZE: 1}, 1),
        ([piece(1, 0, 2, A), piece(1, 0, 2, A)], {Drop.DUPLICATE: 1}, 1),
        ([piece(1, 0, 2, A), piece(1, 0, 2, B)], {Drop.OVERLAP: 1}, 0),
        ([piece(1, 0, 2, A), piece(1, 0, 2, A[1:])], {Drop.OVERLAP: 1}, 0),
        ([piece(1, 0, 2, A), piece(1, 1, 3, A)], {Drop.INCONSISTENT: 1}, 0),
        ([piece(1, 0, 2, A), piece(1, 1, 2, A + b"x")], {Drop.INCONSISTENT: 1}, 0),
        ([piece(1, 0, 2, A), piece(1, 1, 2, A[2:])], {Drop.INCONSISTENT: 1}, 0),
        ([piece(1, 0, 3, A[1:]), piece(1, 1, 3, A), piece(1, 2, 3, A[1:])], {Drop.INCONSISTENT: 1}, 0),
        # What was refused stays refused: its other pieces do not start it again.
        (
            [piece(1, 0, 2, A), piece(1, 0, 2, B), piece(1, 0, 2, A), piece(1, 1, 2, A)],
            {Drop.OVERLAP: 1, Drop.LATE: 2},
            0,
        ),
    ],
)
def test_refused(pieces, dropped, pending):
    table = Reassembler()
    assert [table.add_untrusted(0, data, 0.0) for data in pieces] == [None] * len(pieces)
    assert table.dropped == dropped
    assert table.pending_frames == pending


def test_a_duplicate_does_not_disturb():
    frame = frame_of(1514)
    first, second = cut(frame, 1166, 1)
    table = Reassembler()
    assert [table.add_untrusted(0, data, 0.0) for data in (first, first, second, second)] == [None, None, frame, None]
    assert table.dropped == {Drop.DUPLICATE: 1, Drop.LATE: 1}
    assert table.pending_frames == 0


def test_a_late_piece_of_an_expired_frame_does_not_poison_a_new_one():
    old, new = cut(frame_of(1514, 1), 1166, 9), cut(frame_of(1514, 2), 1166, 9)
    table = Reassembler(max_age=0.2)
    assert table.add_untrusted(0, old[0], 0.0) is None
    assert table.add_untrusted(0, old[1], 0.2) is None  # 0.2 s old: expired
    assert table.dropped == {Drop.EXPIRED: 1, Drop.LATE: 1}
    assert table.pending_frames == 0
    # The id comes round once its end is forgotten, and starts clean.
    assert [table.add_untrusted(0, data, 0.61) for data in new] == [None, frame_of(1514, 2)]


def test_ids_that_come_round_at_full_speed_are_not_refused():
    # 65 536 cut frames in 0.1 s: 1024 ended frames are remembered at most, so the first id is free again.
    table = Reassembler()
    for count in range(66_000):
        now = count / 655_360
        pieces = cut(b"%020d" % count, 22, count & 0xFFFF)
        assert [table.add_untrusted(0, data, now) for data in pieces] == [None, b"%020d" % count]
    assert not table.dropped


def test_age_counts_from_the_first_piece():
    pieces = cut(frame_of(3000), 1166, 1)
    table = Reassembler(max_age=0.2)
    assert table.add_untrusted(0, pieces[0], 10.0) is None
    assert table.add_untrusted(0, pieces[1], 10.19) is None
    table.expire(10.199)
    assert table.pending_frames == 1
    table.expire(10.2)
    assert (table.pending_frames, table.pending_bytes) == (0, 0)
    assert table.dropped == {Drop.EXPIRED: 1}


def test_forget_lets_an_origin_begin_its_ids_again():
    table = Reassembler()
    old, new, other = (cut(frame_of(1514, seed), 1166, 0) for seed in (1, 2, 3))
    done = cut(frame_of(1514, 4), 1166, 1)
    table.add_untrusted(5, old[0], 0.0)
    table.add_untrusted(6, other[0], 0.0)
    assert [table.add_untrusted(5, data, 0.0) for data in done][1]
    table.forget(5)
    assert table.dropped == {Drop.FORGOTTEN: 1}
    assert [table.add_untrusted(5, data, 0.01) for data in new] == [None, frame_of(1514, 2)]
    assert [table.add_untrusted(5, data, 0.01) for data in done] == [None, frame_of(1514, 4)]
    assert table.add_untrusted(6, other[1], 0.01) == frame_of(1514, 3)


def test_oldest_goes_first():
    table = Reassembler(max_frames=3)
    cuts = [cut(frame_of(1514, frame_id), 1166, frame_id) for frame_id in range(5)]
    for pieces in cuts:
        table.add_untrusted(0, pieces[0], 0.0)
    assert table.pending_frames == 3
    assert table.dropped == {Drop.EVICTED: 2}
    whole = [table.add_untrusted(0, pieces[1], 0.0) is not None for pieces in cuts]
    assert whole == [False, False, True, True, True]
    assert table.dropped == {Drop.EVICTED: 2, Drop.LATE: 2}


def test_a_flood_of_halves_pushes_out_its_own():
    table = Reassembler()
    quiet = [cut(frame_of(1514, origin), 1166, 0) for origin in range(4)]
    for origin, pieces in enumerate(quiet):
        table.add_untrusted(origin, pieces[0], 0.0)
    for frame_id in range(10_000):
        table.add_untrusted(99, piece(frame_id & 0xFFFF, 0, 2, bytes(1000)), 0.1)
    assert table.pending_frames == 64
    for origin, pieces in enumerate(quiet):
        assert table.add_untrusted(origin, pieces[1], 0.15) == frame_of(1514, origin)


def test_bytes_are_bounded_with_a_single_frame_too():
    table = Reassembler(max_bytes=1000)
    pieces = cut(frame_of(2000), 404, 0)
    assert [table.add_untrusted(0, data, 0.0) for data in pieces] == [None] * len(pieces)
    assert table.pending_bytes == 0
    assert table.dropped == {Drop.EVICTED: 1, Drop.LATE: len(pieces) - 2}


class Model:
    """What the reassembler should do, said slowly: lists, no caches, every sum made anew."""

    def __init__(self, max_bytes, max_frames, max_age):
        self.max_bytes, self.max_frames, self.max_age = max_bytes, max_frames, max_age
        self.frames = []  # [key, first, count, {index: bytes}], oldest first
        self.ended = {}  # key -> when
        self.dropped = Counter()

    def cost(self, frame):
        return FRAME_COST + sum(len(data) + PIECE_COST for data in frame[3].values())

    def total(self):
        return sum(map(self.cost, self.frames))

    def end(self, frame, now, reason=None):
        self.frames.remove(frame)
        self.ended[frame[0]] = now
        if reason:
            self.dropped[reason] += 1

    def expire(self, now):
        for frame in [frame for frame in self.frames if now - frame[1] >= self.max_age]:
            self.end(frame, now, Drop.EXPIRED)

    def add(self, origin, frame_id, index, count, data, now):
        self.expire(now)
        key = (origin, frame_id)
        frame = next((frame for frame in self.frames if frame[0] == key), None)
        if frame is None:
            if key in self.ended and now - self.ended[key] < 2 * self.max_age:
                self.dropped[Drop.LATE] += 1
                return None
            frame = [key, now, count, {}]
            self.frames.append(frame)
        if frame[2] != count:
            return self.end(frame, now, Drop.INCONSISTENT)
        if index in frame[3]:
            if frame[3][index] == data:
                self.dropped[Drop.DUPLICATE] += 1
                return None
            return self.end(frame, now, Drop.OVERLAP)
        frame[3][index] = data
        if len(frame[3]) == count:
            sizes = [len(frame[3][place]) for place in range(count)]
            whole = b"".join(frame[3][place] for place in range(count))
            lawful = sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
            reason = Drop.SIZE if not 14 <= len(whole) <= 9018 else None if lawful else Drop.INCONSISTENT
            self.end(frame, now, reason)
            return None if reason else whole
        while self.total() > self.max_bytes or len(self.frames) > self.max_frames:
            held = Counter()
            for other in self.frames:
                held[other[0][0]] += self.cost(other)
            most = max(held.values())
            self.end(next(other for other in self.frames if held[other[0][0]] == most), now, Drop.EVICTED)
        return None


class ReassemblerMachine(RuleBasedStateMachine):
    """Pieces, lawful and not, of three origins and a few ids, in any order, against the model and the bounds."""

    MAX_BYTES, MAX_FRAMES, MAX_AGE = 4000, 5, 16

    def __init__(self):
        super().__init__()
        # Times are whole numbers: sums of floats would make the model differ by a rounding.
        self.table = Reassembler(self.MAX_BYTES, self.MAX_FRAMES, self.MAX_AGE)
        self.model = Model(self.MAX_BYTES, self.MAX_FRAMES, self.MAX_AGE)
        self.now = 0
        self.sent = []

    def add(self, origin, data):
        got = self.table.add_untrusted(origin, data, self.now)
        want = self.model.add(origin, int.from_bytes(data[:2], "big"), data[2], data[3], data[4:], self.now)
        assert got == want

    @rule(
        origin=st.integers(0, 2), frame_id=st.integers(0, 3), size=st.integers(14, 1600), budget=st.integers(500, 1170)
    )
    def send(self, origin, frame_id, size, budget):
        frame = bytes((origin, frame_id, len(self.sent) & 0xFF)) + bytes(size - 3)
        self.sent += [(origin, data) for data in cut(frame, budget, frame_id)]

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0), keep=st.booleans())
    def deliver(self, which, keep):
        which %= len(self.sent)
        self.add(*(self.sent[which] if keep else self.sent.pop(which)))

    @rule(
        origin=st.integers(0, 2),
        frame_id=st.integers(0, 3),
        index=st.integers(0, 2),
        more=st.integers(1, 3),
        size=st.integers(1, 700),
    )
    def forge(self, origin, frame_id, index, more, size):
        self.add(origin, piece(frame_id, index, max(index + more, 2), bytes(size)))

    @rule(step=st.sampled_from([1, 5, 16, 40]))
    def wait(self, step):
        self.now += step

    @rule()
    def expire(self):
        self.table.expire(self.now)
        self.model.expire(self.now)

    @invariant()
    def bounded_and_as_modelled(self):
        assert self.table.pending_bytes <= self.MAX_BYTES
        assert self.table.pending_frames <= self.MAX_FRAMES
        assert self.table.pending_bytes == self.model.total()
        assert self.table.pending_frames == len(self.model.frames)
        assert self.table.dropped == self.model.dropped


TestReassemblerModel = ReassemblerMachine.TestCase
TestReassemblerModel.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)


def test_mutated_pieces_never_raise_and_stay_in_bounds():
    corpus = [data for seed in range(6) for data in cut(frame_of(200 + seed * 300, seed), 300, seed)]
    corpus += [b"", b"\x00" * 4, piece(0, 0, 255, bytes(30))]
    table = Reassembler()
    rng = random.Random(8)
    whole = 0
    for number, data in enumerate(mutations(corpus, seed=7)):
        now = number / 1000
        # A mutated piece seldom keeps its id: give it one of a few now and then, so that pieces meet.
        if len(data) > 4 and number % 3:
            data = bytes((0, rng.randrange(8))) + data[2:]
        frame = table.add_untrusted(rng.randrange(3), data, now)
        assert frame is None or 14 <= len(frame) <= 9018
        # A lawful neighbour, on a link that doubles packets: its frames all arrive.
        if not number % 20:
            lawful = frame_of(400, number)
            first, second = cut(lawful, 300, number // 20)
            assert table.add_untrusted(500, first, now) is None
        elif number % 20 == 10:
            assert table.add_untrusted(500, first, now) is None
        elif number % 20 == 19:
            assert table.add_untrusted(500, second, now) == lawful
            whole += 1
        assert table.pending_frames <= 64
        assert table.pending_bytes <= 256 * 1024
    assert whole == MUTATIONS // 20
    reasons = {value for name, value in vars(Drop).items() if name.isupper()}
    assert set(table.dropped) >= reasons - {Drop.FORGOTTEN, Drop.EVICTED}


def test_ten_thousand_frame_ids_of_a_hostile_origin_stay_in_bounds():
    table = Reassembler()
    rng = random.Random(9)
    for number in range(MUTATIONS):
        count = rng.randrange(2, 256)
        data = piece(rng.randrange(10_000), rng.randrange(count), count, bytes(rng.randrange(1, 36)))
        table.add_untrusted(rng.randrange(300), data, number / 20_000)
        assert table.pending_frames <= 64
        assert table.pending_bytes <= 256 * 1024
    assert table.dropped[Drop.EVICTED] > 10_000
    assert len(table._closed) <= 1024
