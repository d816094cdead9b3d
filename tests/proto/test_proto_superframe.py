"""Cutting super-frames, against frames that are built one by one and summed word by word."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proto_packets import finished, ip_frame, slow_sum, tcp, udp

from lanparty.proto import superframe
from lanparty.proto.superframe import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    OffloadError,
    SuperFrame,
    cut,
    expand,
    finish_untrusted,
    frames_of,
    head_of,
    locate_untrusted,
    longest_of,
    octets_of,
    plain_frames,
    superframe_untrusted,
)

TIMESTAMPS = b"\1\1\x08\x0a" + bytes(range(8))
KINDS = {4: GSO_TCPV4, 6: GSO_TCPV6}
PREFIX = b"\x10\x01\x00\x00"


def super_tcp(payload, size, *, version=4, **fields):
    return superframe_untrusted(
        tcp(payload, version=version, **fields), KINDS[version], size, 34 + version // 6 * 20, 16
    )


def super_udp(payload, size, *, version=4, **fields):
    return superframe_untrusted(udp(payload, version=version, **fields), GSO_UDP, size, 34 + version // 6 * 20, 6)


def chunks(payload, size):
    return [payload[start : start + size] for start in range(0, len(payload), size)]


@st.composite
def payloads(draw):
    size = draw(st.integers(1, 1400))
    payload = draw(st.binary(min_size=1, max_size=64)) * draw(st.integers(1, 150))
    return size, payload[: size * 100]


@settings(max_examples=200, deadline=None)
@given(
    payloads(),
    st.sampled_from([4, 6]),
    st.sampled_from([b"", TIMESTAMPS]),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 3000, 2**32 - 1)),
    st.integers(0, 255).filter(lambda flags: not flags & 0x02),
    st.integers(0, 65535),
    st.booleans(),
)
def test_tcp_becomes_the_segments_that_the_sender_would_have_sent(case, version, options, sequence, flags, number, df):
    size, payload = case
    whole = super_tcp(
        payload, size, version=version, sequence=sequence, flags=flags, options=options, number=number, df=df, tos=2
    )
    expected = []
    for index, chunk in enumerate(chunks(payload, size)):
        own = flags
        if (index + 1) * size < len(payload):
            own &= ~0x09
        if index:
            own &= ~0x80
        at = {"number": number if df else number + index, "df": df, "tos": 2}
        expected.append(tcp(chunk, sequence + index * size, own, version=version, options=options, **at))
    assert cut(whole, PREFIX, 65535) == [PREFIX + frame for frame in expected]
    assert expand(whole) == [finished(frame) for frame in expected]
    assert (whole.segments, whole.octets) == (len(expected), sum(map(len, expected)))
    assert max(map(len, expected)) == (whole.longest if len(expected) > 1 else len(whole.frame))


@settings(max_examples=100, deadline=None)
@given(payloads(), st.sampled_from([4, 6]), st.integers(0, 65535), st.booleans())
def test_udp_becomes_separate_datagrams(case, version, number, df):
    size, payload = case
    whole = super_udp(payload, size, version=version, number=number, df=df)
    expected = [
        udp(chunk, version=version, number=number if df else number + index, df=df)
        for index, chunk in enumerate(chunks(payload, size))
    ]
    assert cut(whole, PREFIX, 300) == [PREFIX + frame for frame in expected]
    assert expand(whole) == [finished(frame) for frame in expected]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [0, 900, 1460])
def test_tcp_that_does_not_fit_any_more_is_cut_smaller(version, size):
    payload = random.Random(1).randbytes(10 * (size or 146))
    whole = (
        super_tcp(payload, size, version=version, flags=0x18)
        if size
        else lone(tcp(payload, version=version, flags=0x18))
    )
    pieces = cut(whole, PREFIX, 800)
    room = 800 - whole.header_size
    expected = [
        tcp(chunk, 1 + index * room, 0x18 if (index + 1) * room >= len(payload) else 0x10, version=version)
        for index, chunk in enumerate(chunks(payload, room))
    ]
    assert pieces == [PREFIX + frame for frame in expected]
    assert max(map(len, pieces)) == 804


def test_tcp_is_not_cut_to_crumbs_and_not_through_an_urgent_pointer():
    payload = bytes(3000)
    assert len(cut(super_tcp(payload, 1000), b"", 54 + 216)) == 14
    assert len(cut(super_tcp(payload, 1000), b"", 54 + 215)) == 3
    assert len(cut(super_tcp(payload, 1000, flags=0x30), b"", 600)) == 3


def lone(frame):
    protocol, transport, _ = locate_untrusted(frame)
    return superframe_untrusted(frame, GSO_NONE, 0, transport, 16 if protocol == 6 else 6)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("payload", [b"", b"x", b"xy", bytes(1400), b"\xff" * 1401])
def test_a_frame_that_is_alone(version, make, payload):
    frame = make(payload, version=version)
    whole = lone(frame)
    assert cut(whole, PREFIX, 2000) == [PREFIX + frame]
    assert expand(whole) == plain_frames([whole]) == [finished(frame)]
    assert (whole.segments, whole.octets, whole.longest) == (1, len(frame), len(frame))


def test_what_filters_and_counters_ask():
    whole, frame = super_tcp(bytes(2500), 1000), tcp(b"x", partial=False)
    assert (head_of(whole), head_of(frame)) == (whole.frame, frame)
    assert (longest_of(whole), longest_of(frame)) == (1054, 55)
    assert frames_of([whole, frame]) == 4
    assert octets_of([whole, frame]) == sum(map(len, plain_frames([whole, frame]))) == 2500 + 3 * 54 + 55


@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("wanted", [0x0000, 0x0001, 0xFFFE, 0xFFFF])
def test_the_two_zeros_of_ones_complement(make, wanted):
    """A payload word is chosen so that the finished checksum's complement is ``wanted``."""
    frame = make(b"\0\0")
    offset = 16 if make is tcp else 6
    word = (wanted - slow_sum(frame[34:])) % 65535
    frame = frame[:-2] + word.to_bytes(2, "big")
    done = finish_untrusted(frame, 34, offset)
    assert done == finished(frame)
    assert done[34 + offset : 36 + offset] != b"\0\0"


PLAIN = tcp(bytes(100))
PLAIN_V6 = tcp(bytes(100), version=6)
DATAGRAM = udp(bytes(100))


def patched(frame, at, *octets):
    return frame[:at] + bytes(octets) + frame[at + len(octets) :]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="empty"),
        pytest.param(PLAIN[:13], id="no ethertype"),
        pytest.param(PLAIN[:41], id="cut short"),
        pytest.param(PLAIN[:53], id="TCP header cut short"),
        pytest.param(patched(PLAIN, 12, 0x81, 0), id="tagged"),
        pytest.param(patched(PLAIN, 12, 0x08, 0x06), id="ARP"),
        pytest.param(patched(PLAIN, 14, 0x65), id="another version"),
        pytest.param(patched(PLAIN, 14, 0x44), id="IHL too small"),
        pytest.param(ip_frame(4, 6, PLAIN[34:], options=b"\x94\x04\0\0"), id="IPv4 options"),
        pytest.param(patched(PLAIN, 20, 0x20), id="first fragment"),
        pytest.param(patched(PLAIN, 20, 0x00, 0x01), id="later fragment"),
        pytest.param(PLAIN + b"\0", id="padded"),
        pytest.param(PLAIN[:-1], id="shorter than it says"),
        pytest.param(patched(PLAIN, 23, 1), id="ICMP"),
        pytest.param(patched(PLAIN, 46, 0x40), id="TCP header smaller than one"),
        pytest.param(patched(PLAIN[:60], 16, 0, 46, *PLAIN[18:46], 0xF0), id="TCP header larger than the packet"),
        pytest.param(patched(DATAGRAM, 38, 0, 107), id="UDP length too small"),
        pytest.param(patched(DATAGRAM, 38, 0, 109), id="UDP length too large"),
        pytest.param(PLAIN_V6[:61], id="IPv6 cut short"),
        pytest.param(patched(PLAIN_V6, 14, 0x40), id="IPv6 ethertype, another version"),
        pytest.param(patched(PLAIN_V6, 18, 0, 0), id="jumbogram"),
        pytest.param(patched(PLAIN_V6, 20, 44), id="fragment header"),
        pytest.param(ip_frame(6, 6, PLAIN[34:], options=b"\x06\0\1\4\0\0\0\0"), id="extension header"),
        pytest.param(PLAIN_V6 + b"\0", id="IPv6 padded"),
    ],
)
def test_not_plain(frame):
    assert locate_untrusted(frame) is None
    assert superframe_untrusted(frame, GSO_NONE, 0, 34, 16) is None


@pytest.mark.parametrize(
    ("frame", "kind", "size", "start", "offset"),
    [
        pytest.param(PLAIN, GSO_UDP, 10, 34, 16, id="TCP said to be UDP"),
        pytest.param(PLAIN, GSO_TCPV6, 10, 34, 16, id="IPv4 said to be IPv6"),
        pytest.param(PLAIN_V6, GSO_TCPV4, 10, 54, 16, id="IPv6 said to be IPv4"),
        pytest.param(DATAGRAM, GSO_TCPV4, 10, 34, 6, id="UDP said to be TCP"),
        pytest.param(PLAIN, 3, 10, 34, 16, id="UFO"),
        pytest.param(PLAIN, GSO_TCPV4, 0, 34, 16, id="no size"),
        pytest.param(tcp(b""), GSO_TCPV4, 10, 34, 16, id="nothing to cut"),
        pytest.param(tcp(bytes(2049)), GSO_TCPV4, 1, 34, 16, id="too many"),
        pytest.param(PLAIN, GSO_NONE, 0, 35, 16, id="another start"),
        pytest.param(PLAIN, GSO_NONE, 0, 34, 6, id="another offset"),
        pytest.param(tcp(b"x", flags=0x12), GSO_NONE, 0, 34, 16, id="SYN"),
        pytest.param(udp(b"x", ports=(67, 68)), GSO_NONE, 0, 34, 6, id="DHCP answer"),
        pytest.param(udp(b"x", ports=(68, 67)), GSO_NONE, 0, 34, 6, id="DHCP question"),
    ],
)
def test_what_is_said_of_a_frame_must_be_true(frame, kind, size, start, offset):
    assert superframe_untrusted(frame, kind, size, start, offset) is None


def test_a_checksum_field_out_of_the_frame():
    for start, offset in ((34, 16), (13, 2), (33, 10)):
        with pytest.raises(OffloadError):
            finish_untrusted(bytes(44), start, offset)


def test_mutated_super_frames_are_refused_or_cut_to_what_they_say():
    rng = random.Random(7)
    seeds = [(tcp(bytes(3000)), GSO_TCPV4, 34, 16), (tcp(bytes(3000), version=6), GSO_TCPV6, 54, 16)]
    seeds += [(udp(bytes(3000)), GSO_UDP, 34, 6), (udp(bytes(3000), version=6), GSO_UDP, 54, 6)]
    taken = 0
    for number in range(20_000):
        frame, kind, start, offset = seeds[number % 4]
        data = bytearray(frame[: rng.choice((40, 60, 1000, 4000))])
        for _ in range(rng.randint(0, 3)):
            data[rng.randrange(min(len(data), 80))] = rng.randrange(256)
        whole = superframe_untrusted(bytes(data), kind, rng.choice((0, 1, 500, 1000, 65535)), start, offset)
        if whole is None:
            continue
        taken += 1
        frames = expand(whole)
        assert len(frames) == whole.segments <= superframe.MAX_SEGMENTS
        assert sum(map(len, frames)) == whole.octets
        assert all(locate_untrusted(one) is not None for one in frames)
    assert taken > 1000


def test_a_super_frame_of_the_largest_packet():
    payload = bytes(65535 - 40)
    whole = super_tcp(payload, 1460)
    assert whole.segments == 45
    assert sum(len(frame) - 54 for frame in expand(whole)) == len(payload)
    assert isinstance(whole, SuperFrame)
