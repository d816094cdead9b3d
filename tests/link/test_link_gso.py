"""Segmentation and checksums against an independent model that adds up 16-bit words one by one."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanparty.link import gso
from lanparty.link.device import DeviceCounters
from lanparty.proto.superframe import Frame, SuperFrame, frames_of, octets_of, plain_frames

MAX_FRAME = 1514
MACS = bytes.fromhex("02000000000a 02000000000b".replace(" ", ""))


# ------------------------------------------------------------------------------------------------ the slow model


def slow_sum(data: bytes) -> int:
    """RFC 1071, figure 4.1, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(frame: bytes, length: int, protocol: int) -> bytes:
    if frame[12:14] == b"\x08\x00":
        return frame[26:34] + struct.pack("!BBH", 0, protocol, length)
    return frame[22:54] + struct.pack("!IHBB", length, 0, 0, protocol)


def ipv4(protocol: int, rest: bytes, identification: int = 0, options: bytes = b"") -> bytes:
    header = bytearray(
        struct.pack(
            "!BBHHHBBH",
            0x45 + len(options) // 4,
            0,
            20 + len(options) + len(rest),
            identification,
            0x4000,
            64,
            protocol,
            0,
        )
    )
    header += bytes([10, 0, 0, 1, 10, 0, 0, 2]) + options
    struct.pack_into("!H", header, 10, ~slow_sum(bytes(header)) & 0xFFFF)
    return MACS + b"\x08\x00" + header + rest


def ipv6(protocol: int, rest: bytes, extension: bytes = b"") -> bytes:
    following = 60 if extension else protocol
    header = struct.pack("!IHBB", 0x60000000, len(extension) + len(rest), following, 64)
    return MACS + b"\x86\xdd" + header + bytes(range(1, 17)) + bytes(range(17, 33)) + extension + rest


def tcp(payload: bytes, sequence: int, flags: int, options: bytes = b"") -> bytes:
    offset = (20 + len(options)) // 4
    return struct.pack("!HHIIBBHHH", 1000, 2000, sequence, 7, offset << 4, flags, 4096, 0, 0) + options + payload


def udp(payload: bytes) -> bytes:
    return struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload


def wrap(version: int, protocol: int, rest: bytes, identification: int = 0, extra: bytes = b"") -> tuple[bytes, int]:
    """The frame with a zero transport checksum, and the transport header's offset."""
    frame = ipv4(protocol, rest, identification, extra) if version == 4 else ipv6(protocol, rest, extra)
    return frame, len(frame) - len(rest)


def with_checksum(frame: bytes, transport: int, protocol: int, *, partial: bool = False) -> bytes:
    field = transport + (16 if protocol == 6 else 6)
    covered = pseudo(frame, len(frame) - transport, protocol)
    if partial:
        value = slow_sum(covered)
    else:
        value = ~slow_sum(covered + frame[transport:]) & 0xFFFF
        if protocol == 17 and value == 0:
            value = 0xFFFF
    return frame[:field] + struct.pack("!H", value) + frame[field + 2 :]


def cut(vnet: gso.VnetHeader, frame: bytes) -> list[bytes]:
    """As without super-frames."""
    return gso.frames_untrusted(memoryview(bytearray(vnet.pack() + frame)))


def read(
    vnet: gso.VnetHeader, frame: bytes, max_frame: int = MAX_FRAME, *, superframes: bool = False
) -> tuple[list[Frame], DeviceCounters]:
    counters, frames = DeviceCounters(), []
    octets = gso.take_untrusted(memoryview(bytearray(vnet.pack() + frame)), frames, max_frame, counters, superframes)
    assert octets == counters.bytes_in == octets_of(frames)
    assert counters.frames_in == frames_of(frames)
    return frames, counters


def partial_header(transport: int, protocol: int, gso_type: int = 0, gso_size: int = 0) -> gso.VnetHeader:
    return gso.VnetHeader(gso.NEEDS_CSUM, gso_type, 0, gso_size, transport, 16 if protocol == 6 else 6)


versions = st.sampled_from([4, 6])
extras = {4: st.sampled_from([b"", b"\x94\x04\0\0"]), 6: st.sampled_from([b"", b"\6\0\1\4\0\0\0\0"])}


@st.composite
def super_tcp(draw):
    version = draw(versions)
    options = draw(st.sampled_from([b"", b"\1\1\x08\x0a" + b"\0" * 8]))
    extra = draw(extras[version])
    if version == 6 and extra:
        extra = b"\6" + extra[1:]
    size = draw(st.integers(1, 1400))
    payload = draw(st.binary(min_size=1, max_size=64)) * draw(st.integers(1, 150))
    payload = payload[: size * 100]
    sequence = draw(st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 3000, 2**32 - 1)))
    return version, extra, options, size, payload, sequence, draw(st.integers(0, 255)), draw(st.integers(0, 65535))


@settings(max_examples=300, deadline=None)
@given(super_tcp(), st.booleans())
def test_a_tcp_super_frame_becomes_the_segments_that_the_sender_would_have_sent(case, ecn) -> None:
    version, extra, options, size, payload, sequence, flags, identification = case
    frame, transport = wrap(version, 6, tcp(payload, sequence, flags, options), identification, extra)
    frame = with_checksum(frame, transport, 6, partial=True)
    kind = (gso.GSO_TCPV4 if version == 4 else gso.GSO_TCPV6) | (gso.GSO_ECN if ecn else 0)
    segments, counters = read(partial_header(transport, 6, kind, size), frame)

    chunks = [payload[start : start + size] for start in range(0, len(payload), size)]
    expected = []
    for index, chunk in enumerate(chunks):
        own = flags
        if index < len(chunks) - 1:
            own &= ~0x09
        if index > 0:
            own &= ~0x80
        rest = tcp(chunk, (sequence + index * size) % 2**32, own, options)
        one, at = wrap(version, 6, rest, (identification + index) % 65536, extra)
        expected.append(with_checksum(one, at, 6))
    assert segments == expected
    assert (counters.oversize_dropped, counters.superframes_in) == (0, 1)


@settings(max_examples=200, deadline=None)
@given(versions, st.integers(1, 1400), st.binary(min_size=1, max_size=50), st.integers(1, 200), st.integers(0, 65535))
def test_a_udp_super_frame_becomes_separate_datagrams(version, size, seed, times, identification) -> None:
    payload = (seed * times)[: size * 100]
    frame, transport = wrap(version, 17, udp(payload), identification)
    frame = with_checksum(frame, transport, 17, partial=True)
    segments, _ = read(partial_header(transport, 17, gso.GSO_UDP, size), frame)
    expected = []
    for index, start in enumerate(range(0, len(payload), size)):
        one, at = wrap(version, 17, udp(payload[start : start + size]), (identification + index) % 65536)
        expected.append(with_checksum(one, at, 17))
    assert segments == expected


@settings(max_examples=300, deadline=None)
@given(versions, st.sampled_from([6, 17]), st.binary(max_size=200))
def test_a_partial_checksum_is_finished(version, protocol, payload) -> None:
    rest = tcp(payload, 1, 0x10) if protocol == 6 else udp(payload)
    frame, transport = wrap(version, protocol, rest)
    partial = with_checksum(frame, transport, protocol, partial=True)
    frames, _ = read(partial_header(transport, protocol), partial)
    finished = with_checksum(frame, transport, protocol)
    field = transport + (16 if protocol == 6 else 6)
    if finished[field : field + 2] == b"\0\0":  # TCP may spell zero either way; the kernel writes 0xFFFF
        finished = finished[:field] + b"\xff\xff" + finished[field + 2 :]
    assert frames == [finished]


@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("wanted", [0x0000, 0x0001, 0xFFFE, 0xFFFF])
def test_the_two_zeros_of_ones_complement(protocol: int, wanted: int) -> None:
    """A payload word is chosen so that all the covered words add up to ``wanted``."""
    base = tcp(b"\0\0", 1, 0x10) if protocol == 6 else udp(b"\0\0")
    frame, transport = wrap(4, protocol, base)
    covered = slow_sum(pseudo(frame, len(frame) - transport, protocol) + frame[transport:])
    word = (wanted - covered) % 65535
    frame = frame[:-2] + struct.pack("!H", word)
    (finished,), _ = read(partial_header(transport, protocol), with_checksum(frame, transport, protocol, partial=True))
    field = transport + (16 if protocol == 6 else 6)
    value = int.from_bytes(finished[field : field + 2], "big")
    assert value != 0
    assert slow_sum(pseudo(finished, len(finished) - transport, protocol) + finished[transport:]) == 0xFFFF


def test_an_ordinary_frame_is_copied_out() -> None:
    frame = ipv4(17, udp(b"x" * 100))
    for flags in (0, 2):
        assert cut(gso.VnetHeader(flags), frame) == [frame]


@pytest.mark.parametrize("flags", [0, gso.NEEDS_CSUM])
def test_a_long_frame_that_is_no_super_frame_is_left_out_and_counted(flags: int) -> None:
    frame, transport = wrap(4, 17, udp(b"x" * 1473))
    assert len(frame) == 1515
    header = gso.VnetHeader(flags, 0, 0, 0, transport, 6)
    for superframes in (False, True):
        assert read(header, frame, superframes=superframes) == (
            [],
            DeviceCounters(
                oversize_dropped=1,
            ),
        )
        assert read(header, frame, 1515, superframes=superframes)[1].frames_in == 1


def test_segments_that_are_still_too_long_are_left_out_and_counted() -> None:
    frame, transport = wrap(4, 6, tcp(b"x" * 17000, 1, 0x10))
    segments, counters = read(partial_header(transport, 6, gso.GSO_TCPV4, 8000), frame)
    assert ([len(segment) for segment in segments], counters.oversize_dropped) == ([1000 + 54], 2)


def test_a_received_super_frame_without_offload_offsets_is_cut_by_its_own_headers() -> None:
    """LRO hands up a verified checksum and no csum_start."""
    frame, transport = wrap(4, 6, tcp(b"x" * 3000, 1, 0x10))
    frame = with_checksum(frame, transport, 6)
    segments, _ = read(gso.VnetHeader(2, gso.GSO_TCPV4, 0, 1460), frame)
    assert [len(segment) for segment in segments] == [1514, 1514, 54 + 80]
    for segment in segments:
        assert slow_sum(pseudo(segment, len(segment) - transport, 6) + segment[transport:]) == 0xFFFF


def test_udp_without_checksum_stays_without() -> None:
    frame, _ = wrap(4, 17, udp(b"x" * 3000))
    segments, _ = read(gso.VnetHeader(2, gso.GSO_UDP, 0, 1000), frame)
    assert [segment[40:42] for segment in segments] == [b"\0\0"] * 3


GOOD_TCP, TRANSPORT = wrap(4, 6, tcp(b"x" * 3000, 1, 0x10))
GOOD_V6, _ = wrap(6, 6, tcp(b"x" * 3000, 1, 0x10))


@pytest.mark.parametrize(
    ("gso_type", "gso_size", "frame"),
    [
        (gso.GSO_TCPV4, 0, GOOD_TCP),
        (gso.GSO_TCPV6, 1000, GOOD_TCP),
        (gso.GSO_TCPV4, 1000, GOOD_V6),
        (gso.GSO_UDP, 1000, GOOD_TCP),
        (gso.GSO_UFO, 1000, GOOD_TCP),
        (77, 1000, GOOD_TCP),
        (gso.GSO_TCPV4, 1, GOOD_TCP),
        (gso.GSO_TCPV4, 1000, GOOD_TCP[:20]),
        (gso.GSO_TCPV4, 1000, GOOD_TCP[:40]),
        (gso.GSO_TCPV4, 1000, GOOD_TCP[:46] + b"\x10" + GOOD_TCP[47:]),
        (gso.GSO_TCPV4, 1000, GOOD_TCP[:20] + b"\x20" + GOOD_TCP[21:]),
        (gso.GSO_TCPV4, 1000, GOOD_TCP[:14] + b"\x44" + GOOD_TCP[15:]),
        (gso.GSO_TCPV6, 1000, GOOD_V6[:50]),
        (gso.GSO_TCPV6, 1000, GOOD_V6[:20] + b"\x3c" + GOOD_V6[21:58]),
        (gso.GSO_TCPV4, 1000, b""),
        (gso.GSO_TCPV4, 1460, GOOD_TCP + b"x" * 65535),
    ],
)
def test_offload_state_that_makes_no_sense_is_refused(gso_type: int, gso_size: int, frame: bytes) -> None:
    with pytest.raises(gso.OffloadError):
        cut(gso.VnetHeader(gso.NEEDS_CSUM, gso_type, 0, gso_size, TRANSPORT, 16), frame)
    for superframes in (False, True):
        header = gso.VnetHeader(gso.NEEDS_CSUM, gso_type, 0, gso_size, TRANSPORT, 16)
        assert read(header, frame, superframes=superframes) == ([], DeviceCounters(offload_dropped=1))


@pytest.mark.parametrize(("start", "offset"), [(0, 16), (34, 8), (34, 2000), (65535, 16), (2980, 16), (34, 17)])
def test_a_checksum_field_out_of_place_is_refused(start: int, offset: int) -> None:
    with pytest.raises(gso.OffloadError):
        cut(gso.VnetHeader(gso.NEEDS_CSUM, 0, 0, 0, start, offset), GOOD_TCP[:100])


def test_a_short_read_is_refused() -> None:
    for size in range(gso.VNET_HEADER_SIZE):
        with pytest.raises(gso.OffloadError):
            gso.frames_untrusted(memoryview(bytearray(size)))
        counters = DeviceCounters()
        assert gso.take_untrusted(memoryview(bytearray(size)), [], MAX_FRAME, counters, True) == 0
        assert counters.offload_dropped == 1


def test_mutated_input_raises_nothing_else() -> None:
    """10^5 damaged super-frames: whole frames or a count, nothing longer than allowed."""
    random_ = random.Random(20251122)
    udp_frame, at = wrap(6, 17, udp(b"z" * 900))
    seeds = [
        partial_header(TRANSPORT, 6, gso.GSO_TCPV4, 500).pack() + GOOD_TCP[:1000],
        partial_header(54, 6, gso.GSO_TCPV6, 500).pack() + GOOD_V6[:1000],
        partial_header(at, 17, gso.GSO_UDP, 300).pack() + udp_frame,
        partial_header(TRANSPORT, 6).pack() + GOOD_TCP[:200],
    ]
    refused = 0
    for number in range(100_000):
        data = bytearray(seeds[number % 4][: random_.choice((10, 30, 60, 90, 400, 2000))])
        for _ in range(random_.randint(1, 4)):
            data[random_.randrange(min(len(data), 90))] = random_.randrange(256)
        frames: list[Frame] = []
        counters = DeviceCounters()
        gso.take_untrusted(memoryview(data), frames, MAX_FRAME, counters, bool(number & 4))
        refused += counters.offload_dropped
        assert bool(frames) + bool(counters.offload_dropped + counters.oversize_dropped) >= 1
        assert all(len(frame) <= MAX_FRAME for frame in plain_frames(frames))
    assert 0 < refused < 100_000


# ------------------------------------------------------------------------------------------------ super-frames


def without_number(frame: bytes) -> bytes:
    """The frames of these tests have DF set: a cut in the tunnel gives all the same identification."""
    return frame[:18] + frame[20:24] + frame[26:] if frame[12:14] == b"\x08\x00" else frame


@settings(max_examples=200, deadline=None)
@given(super_tcp())
def test_a_super_frame_stands_for_what_it_would_be_cut_to(case) -> None:
    version, extra, options, size, payload, sequence, flags, identification = case
    frame, transport = wrap(version, 6, tcp(payload, sequence, flags, options), identification, extra)
    frame = with_checksum(frame, transport, 6, partial=True)
    header = partial_header(transport, 6, gso.GSO_TCPV4 if version == 4 else gso.GSO_TCPV6, size)
    kept, _ = read(header, frame, superframes=True)
    now, _ = read(header, frame)
    # What the tunnel cannot carry as one, or must not, is cut at once.
    assert isinstance(kept[0], SuperFrame) == (not extra and not flags & 0x02)

    def zero_is_zero(frame: bytes) -> bytes:
        """In ones complement 0000 and FFFF are one number, and TCP may write either (RFC 1071)."""
        field = slice(transport + 16, transport + 18)
        return frame[: field.start] + frame[field].replace(b"\xff\xff", b"\0\0") + frame[field.stop :]

    expected, got = (list(map(zero_is_zero, map(without_number, frames))) for frames in (now, plain_frames(kept)))
    assert got == expected


@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("version", [4, 6])
def test_which_partial_checksums_are_finished_at_once(version: int, protocol: int) -> None:
    for size in (0, 40, 60, 74, 75, 100, 1000):
        rest = tcp(bytes(size), 1, 0x10) if protocol == 6 else udp(bytes(size))
        frame, transport = wrap(version, protocol, rest)
        partial = with_checksum(frame, transport, protocol, partial=True)
        (kept,), _ = read(partial_header(transport, protocol), partial, superframes=True)
        if len(frame) <= gso.FINISH_LIMIT:
            assert kept == with_checksum(frame, transport, protocol)
        else:
            assert kept == SuperFrame(partial, 0, 0, transport, 16 if protocol == 6 else 6, len(frame) - size, 1)


def test_other_partial_checksums_are_finished_at_once_whatever_their_size() -> None:
    icmp, transport = wrap(6, 58, b"\x80\0\0\0" + bytes(500))
    field = transport + 2
    partial = icmp[:field] + struct.pack("!H", slow_sum(pseudo(icmp, 504, 58))) + icmp[field + 2 :]
    (finished,), _ = read(gso.VnetHeader(1, 0, 0, 0, transport, 2), partial, superframes=True)
    assert slow_sum(pseudo(finished, 504, 58) + finished[transport:]) == 0xFFFF


def test_the_header_by_which_a_super_frame_is_written_is_the_one_by_which_it_was_read() -> None:
    for version, protocol, kind in (
        (4, 6, gso.GSO_TCPV4),
        (6, 6, gso.GSO_TCPV6),
        (4, 17, gso.GSO_UDP),
        (6, 17, gso.GSO_UDP),
    ):
        rest = tcp(bytes(3000), 1, 0x10) if protocol == 6 else udp(bytes(3000))
        frame, transport = wrap(version, protocol, rest)
        header = partial_header(transport, protocol, kind, 1000)
        ((whole,), _) = read(header, with_checksum(frame, transport, protocol, partial=True), superframes=True)
        written = gso.VNET_HEADER.unpack(gso.vnet_header(whole))
        assert written == (1, kind, len(frame) - 3000, 1000, transport, 16 if protocol == 6 else 6)


def test_super_frames_whose_segments_are_too_long_are_left_out_and_counted() -> None:
    frame = with_checksum(GOOD_TCP, TRANSPORT, 6, partial=True)
    for size, count in ((1461, 3), (2999, 2), (3000, 1), (65535, 1)):
        header = partial_header(TRANSPORT, 6, gso.GSO_TCPV4, size)
        assert read(header, frame, superframes=True) == ([], DeviceCounters(oversize_dropped=count))
    assert read(partial_header(TRANSPORT, 6, gso.GSO_TCPV4, 1460), frame, superframes=True)[1].superframes_in == 1
    assert read(partial_header(TRANSPORT, 6), frame, superframes=True) == ([], DeviceCounters(oversize_dropped=1))


def test_what_a_read_counts() -> None:
    counters = DeviceCounters()
    frames: list[Frame] = []

    def take(header: gso.VnetHeader, frame: bytes, *, joined: bool = True) -> int:
        buffer = memoryview(bytearray(header.pack() + frame))
        return gso.take_untrusted(buffer, frames, MAX_FRAME, counters, joined)

    big = with_checksum(GOOD_TCP, TRANSPORT, 6, partial=True)
    assert take(partial_header(TRANSPORT, 6, gso.GSO_TCPV4, 1000), big) == 3000 + 3 * 54
    assert take(partial_header(TRANSPORT, 6, gso.GSO_TCPV4, 1000), big, joined=False) == 3000 + 3 * 54
    small, transport = wrap(4, 17, udp(bytes(20)))
    assert take(partial_header(transport, 17), small) == 62
    assert take(partial_header(TRANSPORT, 6), big[:16] + (486).to_bytes(2, "big") + big[18:500]) == 500
    assert take(partial_header(TRANSPORT, 6, gso.GSO_TCPV4, 2000), big) == 0
    assert take(gso.VnetHeader(0, 77, 0, 1), small) == 0
    assert len(frames) == 1 + 3 + 1 + 1
    assert counters == DeviceCounters(
        frames_in=8,
        bytes_in=2 * 3162 + 62 + 500,
        superframes_in=2,
        checksums_finished=1,
        oversize_dropped=2,
        offload_dropped=1,
    )
