from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proto_corpus import HOUSE, PLAYER, mutations

from lanparty.proto.fragments import Drop, Reassembler
from lanparty.proto.overlay import (
    CHECKSUM_PARTIAL,
    ECHO_SIZE,
    MAX_FRAME,
    PARTIAL_STAMP,
    PIECE_HEADER_SIZE,
    Echo,
    Kind,
    OverlayCounters,
    OverlayDecoder,
    OverlayEncoder,
    OverlaySizeError,
    encode_echo,
)

FRAME = HOUSE + PLAYER + b"\x08\x00" + b"payload"
H = bytes.fromhex


def decoder():
    return OverlayDecoder(Reassembler(), OverlayCounters())


def frame_of(size, seed=0):
    return random.Random(seed).randbytes(size)


def test_layout():
    assert OverlayEncoder(1170).encode(FRAME) == [H("10000000") + FRAME]
    assert OverlayEncoder(1170).encode(FRAME, 0x1234) == [H("10001234") + FRAME]
    first, second = OverlayEncoder(1170, first_frame_id=0xBEEF).encode(bytes(1514), 7)
    assert (first[:8], second[:8]) == (H("11000007beef0002"), H("11000007beef0102"))
    assert len(first) == len(second) == PIECE_HEADER_SIZE + 757
    echo = Echo(origin=7, reply=False, target=9, sequence=0x01020304, sent_us=0x1112131415161718)
    assert encode_echo(echo) == H("120000070009010203041112131415161718")
    assert encode_echo(Echo(7, True, 0, 0, 0))[:2] == H("1201")
    assert ECHO_SIZE == 18


@pytest.mark.parametrize("size", [14, 60, 1165, 1166, 1167, 1514, 1518, 2316, 2317, 9018])
def test_no_datagram_is_over_the_budget(size):
    frame = frame_of(size)
    datagrams = OverlayEncoder(1170).encode(frame, 3)
    assert all(len(datagram) <= 1170 for datagram in datagrams)
    assert (len(datagrams) == 1) == (size <= 1166)
    assert decoder().decode_untrusted(datagrams, 0.0) == ([(3, frame)], [])


def test_what_cannot_be_sent():
    with pytest.raises(OverlaySizeError, match="9019"):
        OverlayEncoder(1170).encode(bytes(MAX_FRAME + 1))
    with pytest.raises(OverlaySizeError, match="9019"):
        OverlayEncoder(20_000).encode(bytes(MAX_FRAME + 1))
    with pytest.raises(OverlaySizeError, match="255"):
        OverlayEncoder(12).encode(bytes(1514))
    with pytest.raises(OverlaySizeError, match="pieces are off"):
        OverlayEncoder(1170, fragments=False).encode(bytes(1167))


def test_a_batch_keeps_its_order_and_counts_what_it_cannot_send():
    encoder = OverlayEncoder(1170)
    frames = [frame_of(size, size) for size in (100, 1514, 60, 2000, 1166)]
    datagrams = encoder.encode_batch([*frames[:2], bytes(9019), *frames[2:]], 5)
    assert encoder.oversize == 1
    assert decoder().decode_untrusted(datagrams, 0.0)[0] == [(5, frame) for frame in frames]
    assert encoder.encode_batch([], 5) == []
    whole = OverlayEncoder(1170, fragments=False)
    assert whole.encode_batch([FRAME, bytes(1167), FRAME]) == [H("10000000") + FRAME] * 2
    assert whole.oversize == 1


def test_the_budget_and_the_origin_may_change():
    encoder = OverlayEncoder(1170)
    assert len(encoder.encode(bytes(1400), 1)) == 2
    encoder.budget = 1442
    assert encoder.budget == 1442
    assert encoder.encode(bytes(1400), 2) == [H("10000002") + bytes(1400)]
    encoder.budget = 600
    assert [data[2:4] for data in encoder.encode(bytes(1400), 3)] == [H("0003")] * 3


def test_frame_ids_wrap_and_a_failure_uses_none():
    encoder = OverlayEncoder(1170, first_frame_id=0xFFFF)
    with pytest.raises(OverlaySizeError):
        encoder.encode(bytes(9019))
    ids = [encoder.encode(bytes(1514))[0][4:6] for _ in range(3)]
    assert ids == [H("ffff"), H("0000"), H("0001")]


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "short"),
        (H("100000"), "short"),
        (H("00000000") + FRAME, "version"),
        (H("20000000") + FRAME, "version"),
        (H("f3ff0000") + FRAME, "version"),
        (H("13000000") + FRAME, "kind"),
        (H("1f010000") + FRAME, "kind"),
        (H("10020000") + FRAME, "flags"),
        (H("10030000") + FRAME, "flags"),
        (H("11800000") + FRAME, "flags"),
        (H("11020000") + FRAME, "flags"),
        (H("12020000") + bytes(14), "flags"),
        (H("12ff0000") + bytes(14), "flags"),
        (H("10000000"), "frame-short"),
        (H("10000000") + bytes(13), "frame-short"),
        (H("10000000") + bytes(9019), "frame-oversize"),
        (H("11000000"), Drop.SHORT),
        (H("11000000") + H("00000001") + FRAME, Drop.COUNT),
        (H("12000000") + bytes(13), "echo-size"),
        (H("12000000") + bytes(15), "echo-size"),
    ],
)
def test_bad_datagrams_are_dropped_and_counted(datagram, reason):
    reader = decoder()
    good = H("10000007") + FRAME
    # Twice, so that the header of the good one is known the second time.
    for _ in range(2):
        assert reader.decode_untrusted([good, datagram, good], 0.0) == ([(7, FRAME), (7, FRAME)], [])
    assert reader.counters.dropped == {reason: 2}
    assert reader.counters.frames == 4
    assert reader.counters.as_dict()[f"dropped-{reason}"] == 2


def test_sizes_are_checked_behind_a_known_header_too():
    reader = decoder()
    head = H("10000007")
    batch = [head + FRAME, head + bytes(13), head + bytes(14), head + bytes(9018), head + bytes(9019)]
    frames, _ = reader.decode_untrusted(batch, 0.0)
    assert [len(frame) for _, frame in frames] == [len(FRAME), 14, 9018]
    assert reader.counters.dropped == {"frame-short": 1, "frame-oversize": 1}


def test_frames_come_out_in_the_order_of_their_last_datagram():
    big, small = frame_of(1514), FRAME
    first, second = OverlayEncoder(1170).encode(big, 1)
    whole = OverlayEncoder(1170).encode(small, 2)[0]
    echo = Echo(4, True, 2, 5, 6)
    frames, echoes = decoder().decode_untrusted([first, whole, encode_echo(echo), second, whole], 0.0)
    assert frames == [(2, small), (1, big), (2, small)]
    assert echoes == [echo]


def test_pieces_may_come_in_different_batches_and_grow_old():
    reader = decoder()
    first, second = OverlayEncoder(1170).encode(frame_of(1514), 1)
    assert reader.decode_untrusted([second], 0.0) == ([], [])
    assert reader.decode_untrusted([first], 0.1) == ([(1, frame_of(1514))], [])
    reader = decoder()
    reader.decode_untrusted([second], 0.0)
    reader.decode_untrusted([], 0.3)
    assert reader.counters.dropped == {Drop.EXPIRED: 1}
    assert reader.counters.as_dict() == {
        "frames": 0,
        "pieces": 1,
        "reassembled": 0,
        "echoes": 0,
        "dropped-frame-expired": 1,
    }


def test_many_origins_do_not_grow_the_decoder():
    reader = decoder()
    datagrams = [H("1000") + origin.to_bytes(2, "big") + FRAME for origin in range(65536)]
    frames, _ = reader.decode_untrusted(datagrams, 0.0)
    assert [origin for origin, _ in frames] == list(range(65536))
    assert len(reader._known) <= 512


def test_drops_counted_before_are_kept():
    table = Reassembler()
    table.add_untrusted(0, b"", 0.0)
    counters = OverlayCounters()
    reader = OverlayDecoder(table, counters)
    reader.decode_untrusted([H("11000000")], 0.0)
    assert counters.dropped == {Drop.SHORT: 2}


@given(
    st.builds(
        Echo,
        origin=st.integers(0, 65535),
        reply=st.booleans(),
        target=st.integers(0, 65535),
        sequence=st.integers(0, 2**32 - 1),
        sent_us=st.integers(0, 2**64 - 1),
    )
)
def test_echoes_round_trip(echo):
    assert decoder().decode_untrusted([encode_echo(echo)], 0.0) == ([], [echo])


@given(
    st.integers(60, 1500),
    st.lists(st.tuples(st.binary(min_size=14, max_size=3000), st.integers(0, 0x1FFFF)), max_size=12),
    st.randoms(use_true_random=False),
)
def test_frames_round_trip_in_any_order(budget, sent, rng):
    encoder = OverlayEncoder(budget)
    datagrams = [datagram for frame, stamp in sent for datagram in encoder.encode(frame, stamp)]
    assert all(len(datagram) <= budget for datagram in datagrams)
    reader = decoder()
    assert reader.decode_untrusted(datagrams, 0.0)[0] == [(stamp, frame) for frame, stamp in sent]
    rng.shuffle(datagrams)
    frames, _ = decoder().decode_untrusted(datagrams, 0.0)
    assert sorted(frames) == sorted((stamp, frame) for frame, stamp in sent)
    assert not reader.counters.dropped


def test_mutated_datagrams_never_raise_and_each_is_accounted_for():
    encoder = OverlayEncoder(300)
    corpus = [datagram for size in (14, 60, 200, 296) for datagram in encoder.encode(frame_of(size), size)] * 3
    corpus += [datagram for size in (400, 900) for datagram in encoder.encode(frame_of(size), 3)]
    corpus += [encode_echo(Echo(1, False, 2, 3, 4)), encode_echo(Echo(1, True, 2, 3, 4)), b""]
    reader = decoder()
    batch, frames, echoes, sent = [], 0, 0, 0
    for number, datagram in enumerate(mutations(corpus, seed=10)):
        batch.append(datagram)
        if len(batch) < 50:
            continue
        got, heard = reader.decode_untrusted(batch, number / 10_000)
        sent += len(batch)
        frames += len(got)
        echoes += len(heard)
        assert all(0 <= stamp <= 0x1FFFF and 14 <= len(frame) <= MAX_FRAME for stamp, frame in got)
        batch = []
    counters = reader.counters
    assert frames == counters.frames + counters.reassembled
    assert echoes == counters.echoes > 100
    refused = sum(
        counters.dropped[reason] for reason in ("short", "version", "kind", "flags", "frame-short", "echo-size")
    )
    assert sent == counters.frames + counters.pieces + counters.echoes + refused
    assert set(counters.dropped) >= {"short", "version", "kind", "flags", "frame-short", "echo-size", Drop.COUNT}


def test_the_stamp_carries_the_checksum_flag_through_frames_and_pieces():
    partial = PARTIAL_STAMP | 0x1234
    encoder = OverlayEncoder(1170)
    big = frame_of(1514)
    assert encoder.encode(FRAME, partial) == [H("10011234") + FRAME]
    datagrams = encoder.encode_batch([FRAME, big], partial) + encoder.encode(FRAME, 0x1234)
    assert [datagram[:4] for datagram in datagrams] == [*map(H, ("10011234", "11011234", "11011234", "10001234"))]
    reader = decoder()
    for _ in range(2):  # the second time by the headers that are known
        expected = [(partial, FRAME), (partial, big), (0x1234, FRAME)]
        assert reader.decode_untrusted(datagrams, 0.0) == (expected, [])
        reader.reassembler.forget(0x1234)


def test_pieces_with_other_flags_are_of_another_frame():
    reader = decoder()
    plain = OverlayEncoder(1170).encode(frame_of(1514), 7)
    partial = OverlayEncoder(1170).encode(frame_of(1514), PARTIAL_STAMP | 7)
    assert reader.decode_untrusted([plain[0], partial[1]], 0.0) == ([], [])
    assert reader.reassembler.pending_frames == 2
    reader.reassembler.forget(7)
    assert (reader.reassembler.pending_frames, reader.reassembler.pending_bytes) == (0, 0)
    assert reader.decode_untrusted([*partial, *plain], 0.0)[0] == [
        (PARTIAL_STAMP | 7, frame_of(1514)),
        (7, frame_of(1514)),
    ]


def test_kinds_are_the_contract():
    assert (PARTIAL_STAMP, CHECKSUM_PARTIAL) == (0x10000, 1)
    assert {kind.name: int(kind) for kind in Kind} == {"FRAME": 0, "PIECE": 1, "ECHO": 2}
