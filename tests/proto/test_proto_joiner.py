"""What may be joined, what comes out instead, and that nobody behind it can tell the difference."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proto_packets import finished, ip_frame, slow_sum, tcp, udp

from lanparty.proto.joiner import MAX_DATAGRAMS, MAX_RUNS, Joiner
from lanparty.proto.overlay import PARTIAL_STAMP
from lanparty.proto.superframe import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    SuperFrame,
    cut,
    expand,
    frames_of,
    locate_untrusted,
    superframe_untrusted,
)

STAMP = PARTIAL_STAMP | 7
TIMESTAMPS = b"\1\1\x08\x0a" + bytes(range(8))
SIZE = 100


def join(frames, stamp=STAMP):
    """The frames that come out; all have the origin of the stamp."""
    joiner = Joiner()
    out = joiner.join_untrusted([(stamp, frame) for frame in frames])
    assert {origin for origin, _ in out} <= {stamp & 0xFFFF}
    assert joiner.refused == 0
    return [frame for _, frame in out]


def row(count, *, first=0, last=SIZE, sequence=1, flags=0x10, size=SIZE, **fields):
    """Consecutive TCP segments; the last one has ``last`` bytes."""
    return [
        tcp(bytes([index]) * (size if index < first + count - 1 else last), sequence + index * size, flags, **fields)
        for index in range(first, first + count)
    ]


def segments(frames):
    return [frame.segments if isinstance(frame, SuperFrame) else 0 for frame in frames]


def check(whole):
    """Lengths and sums of a joined super-frame are right."""
    frame, transport = whole.frame, whole.checksum_start
    assert locate_untrusted(frame) == (6 if whole.checksum_offset == 16 else 17, transport, whole.header_size)
    assert transport == 54 or slow_sum(frame[14:34]) == 0xFFFF
    # The kernel sums everything from checksum_start on, the partial sum with it: then the complement must verify.
    assert all(finished(one) == one for one in expand(whole))
    return whole


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("options", [b"", TIMESTAMPS])
def test_what_was_cut_is_joined_to_what_it_was(version, options):
    for size, octets, flags in (
        (1, 3, 0x10),
        (100, 999, 0x18),
        (1448, 60000, 0x18),
        (1448, 28960, 0x10),
        (500, 1500, 0x11),
    ):
        frame = tcp(
            random.Random(octets).randbytes(octets), 2**32 - 700, flags, version=version, options=options, number=9
        )
        kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
        whole = superframe_untrusted(frame, kind, size, 34 + version // 6 * 20, 16)
        assert join(cut(whole, b"", 65535)) == [whole]


@pytest.mark.parametrize("version", [4, 6])
def test_udp_that_was_cut_is_joined_to_what_it_was(version):
    for size, octets in ((200, 200 * 64), (200, 450), (1400, 14000)):
        frame = udp(random.Random(octets).randbytes(octets), version=version)
        whole = superframe_untrusted(frame, GSO_UDP, size, 34 + version // 6 * 20, 6)
        assert join(cut(whole, b"", 65535)) == [whole]


def test_identifications_that_count_up_are_joined_whether_they_mean_something_or_not():
    for make in (
        lambda index, df: tcp(bytes(SIZE), 1 + index * SIZE, number=65533 + index, df=df),
        lambda index, df: udp(bytes(SIZE), number=65533 + index, df=df),
    ):
        for df in (True, False):
            assert segments(join([make(index, df) for index in range(6)])) == [6]
    # Without DF the same one twice, or a gap, are fragments of other packets to somebody.
    assert segments(join([tcp(bytes(SIZE), 1 + i * SIZE, number=9, df=False) for i in range(3)])) == [1, 1, 1]
    assert segments(join([udp(bytes(SIZE), number=2 * i, df=False) for i in range(3)])) == [1, 1, 1]
    assert segments(join([udp(bytes(SIZE), number=2 * i) for i in range(3)])) == [3]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        pytest.param(row(3), [3], id="a row"),
        pytest.param(row(3, last=40), [3], id="the last is shorter"),
        pytest.param([*row(3, last=40), *row(2, sequence=241)], [3, 2], id="nothing joins behind a shorter one"),
        pytest.param([*row(2), *row(1, first=2, size=140)[:1]], [2, 1], id="a longer one"),
        pytest.param([*row(2), *row(2, first=3)], [2, 2], id="a gap"),
        pytest.param([*row(2), *row(2)], [2, 2], id="the same again"),
        pytest.param([*row(2), *row(1, first=2, flags=0x18), *row(2, first=3)], [3, 2], id="PSH ends it"),
        pytest.param([*row(2), *row(1, first=2, flags=0x11)], [3], id="FIN is the last"),
        pytest.param([*row(1, flags=0x18), *row(1, first=1)], [1, 1], id="nothing joins behind a first with PSH"),
        pytest.param([*row(2), *row(1, first=2, flags=0x90), *row(2, first=3)], [2, 1, 2], id="CWR"),
        pytest.param([*row(2), *row(1, first=2, flags=0x30)], [2, 1], id="URG"),
        pytest.param([*row(2), *row(1, first=2, flags=0x14)], [2, 1], id="RST"),
        pytest.param([*row(2, flags=0x50), *row(1, first=2, flags=0x50)], [3], id="ECE all the time"),
        pytest.param([*row(2), *row(1, first=2, flags=0x50)], [2, 1], id="ECE begins"),
        pytest.param([*row(2), *row(2, first=2, ack=8)], [2, 2], id="another acknowledgement"),
        pytest.param([*row(2), *row(2, first=2, window=9)], [2, 2], id="another window"),
        pytest.param([*row(2), *row(2, first=2, options=TIMESTAMPS)], [2, 2], id="options begin"),
        pytest.param(
            [*row(2, options=TIMESTAMPS), *row(2, first=2, options=TIMESTAMPS[::-1])], [2, 2], id="another time stamp"
        ),
        pytest.param([*row(2), *row(2, first=2, tos=3)], [2, 2], id="congestion experienced"),
        pytest.param([*row(2), *row(2, first=2, ttl=63)], [2, 2], id="another TTL"),
        pytest.param([*row(2), *row(2, first=2, df=False)], [2, 1, 1], id="DF ends"),
        pytest.param([*row(2, version=6), *row(2, first=2, version=6, tos=3)], [2, 2], id="IPv6 traffic class"),
        pytest.param([*row(2, version=6), *row(2, first=2, version=6, ttl=3)], [2, 2], id="IPv6 hop limit"),
        pytest.param([tcp(b""), tcp(b""), tcp(b"")], [1, 1, 1], id="acknowledgements"),
        pytest.param([*row(2), tcp(b"", 201), *row(2, first=2)], [2, 1, 2], id="an acknowledgement between"),
        pytest.param(
            [udp(bytes(9)), udp(bytes(9)), udp(bytes(8)), udp(bytes(8))], [3, 1], id="UDP, the last is shorter"
        ),
        pytest.param([udp(bytes(9)), udp(bytes(10))], [1, 1], id="UDP, longer"),
        pytest.param([udp(b""), udp(b"")], [1, 1], id="UDP, empty"),
        pytest.param([udp(bytes(9)), tcp(bytes(9)), udp(bytes(9))], [1, 1, 1], id="TCP and UDP of the same ports"),
    ],
)
def test_what_is_joined(frames, expected):
    joined = join(frames)
    assert segments(joined) == expected
    for whole in joined:
        check(whole)
    assert [one for whole in joined for one in expand(whole)] == [finished(frame) for frame in frames]


def test_interleaved_flows_are_joined_each_for_itself_in_the_order_of_their_first():
    flows = [row(5, ports=(1, 2)), row(5, ports=(1, 3)), row(5, version=6), row(5, version=6, ports=(5, 6))]
    flows += [[udp(bytes([index]) * SIZE) for index in range(5)]]
    mixed = [flow[index] for index in range(5) for flow in flows]
    joined = join(mixed)
    assert segments(joined) == [5] * 5
    assert [whole.gso_type for whole in joined] == [GSO_TCPV4, GSO_TCPV4, GSO_TCPV6, GSO_TCPV6, GSO_UDP]
    assert [expand(whole) for whole in joined] == [[finished(frame) for frame in flow] for flow in flows]


def test_members_do_not_mix():
    frames = row(4)
    stamps = [STAMP, STAMP, STAMP + 1, STAMP + 1]
    out = Joiner().join_untrusted(list(zip(stamps, frames, strict=True)))
    assert [(origin, whole.segments) for origin, whole in out] == [(7, 2), (8, 2)]


def test_a_packet_is_never_longer_than_its_length_field():
    for version, size in ((4, 1448), (6, 1428), (4, 9000), (4, 65495)):
        frames = row(100, size=size, last=size, version=version)
        for whole in join(frames):
            assert len(whole.frame) <= 65535 + 14
            check(whole)
        assert frames_of(join(frames)) == 100
        for whole in join([udp(bytes(size), version=version) for _ in range(70)]):
            assert len(whole.frame) <= 65535 + 14
            check(whole)
    exact = row(2, size=32747, last=32748 - 1)
    assert [len(whole.frame) for whole in join(exact)] == [54 + 2 * 32747]
    assert segments(join(row(2, size=32748, last=32748))) == [1, 1]


def test_udp_and_open_flows_are_bounded():
    assert segments(join([udp(bytes(9))] * 150)) == [MAX_DATAGRAMS, MAX_DATAGRAMS, 150 - 2 * MAX_DATAGRAMS]
    joiner = Joiner()
    frames = [(STAMP, tcp(b"x", ports=(port, 1))) for port in range(5000)]
    peak = 0
    for frame in frames:
        joiner._other(*frame, [], [])
        peak = max(peak, len(joiner._runs))
    assert peak == MAX_RUNS
    assert segments([frame for _, frame in Joiner().join_untrusted(frames)]) == [1] * 5000


def test_nothing_is_kept_between_batches():
    joiner = Joiner()
    one, two = row(4)[:2], row(4)[2:]
    assert [
        whole.segments for batch in (one, two) for _, whole in joiner.join_untrusted([(STAMP, f) for f in batch])
    ] == [2, 2]
    assert not joiner._runs


def test_finished_frames_pass_and_end_only_their_own_flow():
    a, b = row(4, ports=(1, 2)), row(4, ports=(3, 4))
    arp = b"\xff" * 6 + a[0][6:12] + b"\x08\x06" + bytes(28)
    batch = [(STAMP, a[0]), (STAMP, b[0]), (STAMP, a[1]), (STAMP, b[1]), (7, arp)]
    batch += [(7, finished(a[2])), (STAMP, b[2]), (STAMP, a[3]), (STAMP, b[3])]
    out = [frame for _, frame in Joiner().join_untrusted(batch)]
    assert segments(out) == [2, 4, 0, 0, 1]
    assert out[2:4] == [arp, finished(a[2])]


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(ip_frame(4, 6, tcp(b"x")[34:], options=b"\x94\x04\0\0"), id="IPv4 options"),
        pytest.param(udp(bytes(30))[:20] + b"\x20\0" + udp(bytes(30))[22:], id="first fragment"),
        pytest.param(udp(bytes(30))[:20] + b"\0\x07" + udp(bytes(30))[22:], id="later fragment"),
        pytest.param(ip_frame(6, 44, bytes(40)), id="IPv6 fragment"),
        pytest.param(b"\x02" * 12 + b"\x08\x00\x45", id="IPv4 cut short"),
        pytest.param(b"\x02" * 12 + b"\x86\xdd\x60", id="IPv6 cut short"),
    ],
)
def test_frames_whose_flow_cannot_be_told_end_all(between):
    first, second = row(4)[:2], row(4)[2:]
    batch = [*((STAMP, frame) for frame in first), (7, between), *((STAMP, frame) for frame in second)]
    assert segments([frame for _, frame in Joiner().join_untrusted(batch)]) == [2, 0, 2]


def test_a_flag_on_what_has_no_such_checksum_is_refused_and_counted():
    wrong = [
        b"\xff" * 12 + b"\x08\x06" + bytes(28),
        row(1)[0] + b"\0",
        ip_frame(4, 1, bytes(20)),
        ip_frame(6, 44, bytes(40)),
    ]
    wrong += [
        ip_frame(4, 6, tcp(b"x")[34:], options=b"\x94\x04\0\0"),
        udp(bytes(9))[:20] + b"\x20\0" + udp(bytes(9))[22:],
    ]
    joiner = Joiner()
    out = joiner.join_untrusted([(STAMP, frame) for one in wrong for frame in (row(1)[0], one)])
    assert joiner.refused == len(wrong)
    assert frames_of(frame for _, frame in out) == len(wrong)


@pytest.mark.parametrize("frame", [tcp(b"", flags=0x02), tcp(bytes(900), flags=0x12), udp(bytes(300), ports=(67, 68))])
def test_what_somebody_else_reads_is_finished(frame):
    assert join([frame]) == [finished(frame)]
    assert segments(join([*row(2), tcp(b"x", 201, 0x02), *row(2, first=2)])) == [2, 0, 2]


def test_joining_can_be_off():
    joiner = Joiner(joins=False)
    frames = [*row(3), udp(bytes(900))]
    out = joiner.join_untrusted([(STAMP, frame) for frame in frames])
    assert out == [(7, finished(frame)) for frame in frames]


def flow_of(frame):
    located = locate_untrusted(frame)
    return None if located is None else (located[0], frame[:12], frame[26:38] if located[1] == 34 else frame[22:58])


def without_number(frame):
    """Where "don't fragment" is set the identification means nothing, and a cut gives all segments the same."""
    if frame[12:14] == b"\x08\x00" and frame[20] & 0x40:
        return frame[:18] + frame[20:24] + frame[26:]
    return frame


@st.composite
def batches(draw):
    """Frames of few flows, most of them the segment that is due."""
    rng = draw(st.randoms(use_true_random=False))
    due = defaultdict(lambda: 2**32 - 250)
    batch = []
    for _ in range(draw(st.integers(1, 60))):
        version, port, stamp = rng.choice((4, 4, 6)), rng.randrange(2), 7 + (rng.random() < 0.1)
        fields = {"version": version, "ports": (port, 9), "number": len(batch) + (rng.random() < 0.05), "df": port == 0}
        size = rng.choice((100, 100, 100, 100, 40, 0, 1448))
        payload = rng.randbytes(size)
        partial = rng.random() < 0.9
        if rng.random() < 0.3:
            frame = udp(payload, partial=partial, **fields)
        else:
            if rng.random() < 0.1:
                due[version, port] += rng.choice((-100, 100))
            flags = rng.choice((0x10,) * 12 + (0x18, 0x11, 0x12, 0x90, 0x50))
            frame = tcp(payload, due[version, port], flags, partial=partial, ack=rng.random() < 0.05, **fields)
            due[version, port] += size
        batch.append((stamp | PARTIAL_STAMP if partial else stamp, frame))
        if rng.random() < 0.05:
            batch.append((stamp, b"\xff" * 12 + b"\x08\x06" + bytes(28)))
    return batch


@settings(max_examples=300, deadline=None)
@given(batches())
def test_behind_it_each_flow_is_what_it_was(batch):
    """The finished frames of every flow of every member are the same, in the same order."""
    before, after = defaultdict(list), defaultdict(list)
    for stamp, frame in batch:
        whole = finished(frame) if stamp >= PARTIAL_STAMP else frame
        before[stamp & 0xFFFF, flow_of(frame)].append(without_number(whole))
    joiner = Joiner()
    for origin, frame in joiner.join_untrusted(batch):
        if isinstance(frame, SuperFrame):
            check(frame)
            for one in expand(frame):
                after[origin, flow_of(one)].append(without_number(one))
        else:
            after[origin, flow_of(frame)].append(without_number(frame))
    assert after == before
    assert joiner.refused == 0


def test_mutated_frames_never_raise_and_each_is_accounted_for():
    rng = random.Random(3)
    corpus = [*row(20), *row(20, version=6), *(udp(bytes(50), number=index) for index in range(20))]
    joiner = Joiner()
    sent = out = joined = 0
    for _ in range(2000):
        batch = []
        for frame in corpus[rng.randrange(40) :]:
            data = bytearray(frame)
            if rng.random() < 0.2:
                data[rng.randrange(len(data))] = rng.randrange(256)
            if rng.random() < 0.05:
                data = data[: rng.randrange(14, len(data))]
            batch.append((STAMP if rng.random() < 0.9 else 7, bytes(data)))
        results = joiner.join_untrusted(batch)
        sent += len(batch)
        out += frames_of(frame for _, frame in results)
        joined += sum(1 for _, frame in results if isinstance(frame, SuperFrame) and frame.segments > 1)
        assert all(len(expand(frame)) == frame.segments for _, frame in results if isinstance(frame, SuperFrame))
    assert sent == out + joiner.refused
    assert joiner.refused > 100
    assert joined > 1000
    assert GSO_NONE == 0
