from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proto_corpus import (
    MSS_1460,
    authentication,
    checksum,
    ether,
    extension,
    fragment_header,
    ip_frames,
    ipv4,
    ipv6,
    link_frames,
    mutations,
    ones_sum,
    pseudo,
    tcp,
    udp,
)

from lanparty.proto.ethernet import FrameError, parse_untrusted
from lanparty.proto.ip import transport_untrusted
from lanparty.proto.mss import clamp_mss

V4, V6 = 1112, 1092
NOP = b"\x01"


def segment(frame):
    transport = transport_untrusted(frame, parse_untrusted(frame))
    assert transport is not None
    return frame[transport.offset : transport.offset + transport.length], transport.ip_version


def checksum_is_right(frame):
    data, version = segment(frame)
    return ones_sum(pseudo(len(data), version) + data) == 0xFFFF


def v4(tcp_options, pad=b"", payload=b"", flags=0x02, **kwargs):
    return ether(ipv4(tcp(tcp_options, flags, payload), 6, **kwargs) + pad, 0x0800)


def v6(options, before=b"", first=6, pad=b"", flags=0x02):
    return ether(ipv6(before + tcp(options, flags, version=6), first) + pad, 0x86DD)


def mss(value):
    return b"\x02\x04" + value.to_bytes(2, "big")


@pytest.mark.parametrize(
    ("frame", "where", "limit"),
    [
        (v4(MSS_1460), 54 + 2, V4),
        (v4(MSS_1460, pad=bytes(6)), 54 + 2, V4),
        (v4(MSS_1460, flags=0x12), 54 + 2, V4),
        (v4(MSS_1460, flags=0xC2), 54 + 2, V4),  # ECN setup
        (v4(MSS_1460, payload=b"fast open"), 54 + 2, V4),
        (v4(MSS_1460, fragment=0x4000), 54 + 2, V4),
        (v4(MSS_1460, options=bytes((1,)) * 8), 62 + 2, V4),
        (v4(NOP + MSS_1460), 54 + 3, V4),
        (v4(NOP * 2 + MSS_1460), 54 + 4, V4),
        (v4(b"\x04\x02\x08\x0a" + bytes(8) + NOP + b"\x03\x03\x07" + MSS_1460), 54 + 18, V4),
        (v4(b"\x13\x12" + bytes(16) + MSS_1460), 54 + 20, V4),  # TCP MD5 does not sign options
        (v4(mss(65535)), 54 + 2, V4),
        (v4(mss(V4 + 1)), 54 + 2, V4),
        (v6(MSS_1460), 74 + 2, V6),
        (v6(NOP + MSS_1460), 74 + 3, V6),
        (v6(MSS_1460, extension(60) + extension(6, 16), 0), 98 + 2, V6),
    ],
)
def test_clamped(frame, where, limit):
    assert checksum_is_right(frame)
    clamped = clamp_mss(frame, V4, V6)
    assert clamped[where : where + 2] == limit.to_bytes(2, "big")
    assert checksum_is_right(clamped)
    assert clamp_mss(clamped, V4, V6) is clamped
    # Nothing else changed: put the two numbers back.
    data, _ = segment(clamped)
    sum_at = clamped.index(data) + 16
    back = bytearray(clamped)
    back[where : where + 2] = frame[where : where + 2]
    back[sum_at : sum_at + 2] = frame[sum_at : sum_at + 2]
    assert bytes(back) == frame


def test_every_mss_option_is_clamped():
    frame = v4(mss(9000) + NOP + mss(1460) + mss(500) + NOP)
    clamped = clamp_mss(frame, V4, V6)
    assert segment(clamped)[0][20:] == mss(V4) + NOP + mss(V4) + mss(500) + NOP + bytes(2)
    assert checksum_is_right(clamped)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(13),
        v4(mss(V4)),
        v4(mss(0)),
        v4(b""),
        v4(NOP * 4),
        v4(MSS_1460, flags=0x10),
        v4(MSS_1460, flags=0x14),
        v4(MSS_1460, fragment=0x2000),
        v4(MSS_1460, fragment=0x0001),
        v4(b"\x00" + MSS_1460),  # behind the end of the options
        v4(b"\x02\x03\x05" + NOP),
        v4(b"\x02\x00\x05\xb4"),
        v4(b"\x02\x01\x05\xb4"),
        v4(NOP * 2 + b"\x02\x04"),  # the option does not end inside the header
        v4(NOP * 3 + b"\x02"),
        v4(MSS_1460 + NOP * 2 + b"\x08\x0a"),
        v4(MSS_1460 + b"\x1d\x10" + bytes(14)),  # TCP-AO signs the options
        v4(b"\x1d\x10" + bytes(14) + MSS_1460),
        v4(MSS_1460)[:-1],
        v4(MSS_1460)[:54],
        v6(mss(V6)),
        v6(MSS_1460, flags=0x10),
        v6(MSS_1460, fragment_header(6), 44),
        v6(MSS_1460, extension(44) + fragment_header(6, 0, True), 0),
        v6(MSS_1460, authentication(6), 51),
        v6(MSS_1460)[:-1],
        v6(MSS_1460, extension(60), 0),  # the chain does not say TCP
        ether(ipv4(udp(1, 2, bytes(40)), 17), 0x0800),
        ether(b"\x00\x07\x08\x00" + ipv4(tcp(MSS_1460), 6), 0x8100),
        ether(ipv4(tcp(MSS_1460), 6), 0x0806),
    ],
)
def test_left_alone(frame):
    assert clamp_mss(frame, V4, V6) is frame


def test_a_data_offset_beyond_the_packet_or_under_the_header_is_left_alone():
    for nibble in (0, 4, 5, 15):
        frame = bytearray(v4(MSS_1460, pad=bytes(60)))
        frame[34 + 12] = nibble << 4
        data = bytes(frame)
        assert clamp_mss(data, V4, V6) is data


options = st.lists(
    st.one_of(
        st.just(NOP),
        st.just(b"\x04\x02"),
        st.just(b"\x03\x03\x07"),
        st.binary(min_size=8, max_size=8).map(lambda data: b"\x08\x0a" + data),
        st.integers(0, 65535).map(mss),
    ),
    max_size=8,
).map(b"".join)


@given(options.filter(lambda data: len(data) <= 40), st.integers(1, 65535), st.booleans(), st.binary(max_size=5))
def test_incremental_checksum_equals_the_full_one(opts, limit, six, payload):
    version = 6 if six else 4
    data = tcp(opts, 0x02, payload, version)
    frame = ether(ipv6(data, 6), 0x86DD) if six else ether(ipv4(data, 6), 0x0800)
    clamped = clamp_mss(frame, limit, limit)
    got, _ = segment(clamped)
    blank = got[:16] + b"\0\0" + got[18:]
    assert int.from_bytes(got[16:18], "big") == checksum(pseudo(len(got), version) + blank)
    assert len(clamped) == len(frame)


def test_a_wrong_checksum_stays_wrong():
    rng = random.Random(5)
    frame = v4(NOP + MSS_1460)
    for _ in range(2000):
        wrong = bytearray(frame)
        wrong[50:52] = rng.randbytes(2)
        if wrong[50:52] == frame[50:52] or ones_sum(bytes(wrong[50:52])) == ones_sum(frame[50:52]):
            continue
        assert not checksum_is_right(clamp_mss(bytes(wrong), V4, V6))


def test_mutated_frames_come_back_the_same_length_with_no_larger_mss():
    changed = 0
    for frame in mutations(ip_frames() + [v4(NOP + MSS_1460), v6(MSS_1460)] * 4 + link_frames(), seed=6):
        clamped = clamp_mss(frame, V4, V6)
        if clamped is frame:
            continue
        changed += 1
        assert len(clamped) == len(frame)
        try:
            before, after = segment(frame)[0], segment(clamped)[0]
        except FrameError:
            pytest.fail("a frame without a header was changed")
        # Where the damage left the sums right, or off by something, they are off by the same now.
        version = 4 if frame[12:14] == b"\x08\x00" else 6
        head = pseudo(len(before), version)
        assert ones_sum(head + before) % 0xFFFF == ones_sum(head + after) % 0xFFFF
    assert changed > 1000
