from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proto_corpus import (
    authentication,
    ether,
    extension,
    fragment_header,
    ip_frames,
    ipv4,
    ipv6,
    link_frames,
    mutations,
    udp,
)

from lanparty.proto.ethernet import FrameError, parse_untrusted
from lanparty.proto.ip import EXTENSION_HEADERS, MAX_EXTENSION_HEADERS, Transport, transport_untrusted

UDP = udp(68, 67)
N = len(UDP)


def walk(frame):
    return transport_untrusted(frame, parse_untrusted(frame))


def v4(*args, pad=b"", **kwargs):
    return walk(ether(ipv4(*args, **kwargs) + pad, 0x0800))


def v6(*args, pad=b"", **kwargs):
    return walk(ether(ipv6(*args, **kwargs) + pad, 0x86DD))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (v4(UDP, 17), Transport(17, 34, N, True, False, True, 4, 64)),
        (v4(UDP, 17, ttl=255), Transport(17, 34, N, True, False, True, 4, 255)),
        (v4(UDP, 17, pad=bytes(20)), Transport(17, 34, N, True, False, True, 4, 64)),
        (v4(UDP, 17, options=bytes(4)), Transport(17, 38, N, True, False, True, 4, 64)),
        (v4(UDP, 17, options=bytes(40)), Transport(17, 74, N, True, False, True, 4, 64)),
        (v4(UDP, 17, fragment=0x4000), Transport(17, 34, N, True, False, True, 4, 64)),  # don't fragment
        (v4(UDP, 17, fragment=0x8000), Transport(17, 34, N, True, False, True, 4, 64)),  # reserved
        (v4(UDP, 17, fragment=0x2000), Transport(17, 34, N, True, True, True, 4, 64)),
        (v4(UDP, 17, fragment=0x2001), Transport(17, 34, N, False, True, False, 4, 64)),
        (v4(UDP, 17, fragment=0x1FFF), Transport(17, 34, N, False, True, False, 4, 64)),
        (v4(b"", 1), Transport(1, 34, 0, True, False, True, 4, 64)),
    ],
)
def test_ipv4(found, expected):
    assert found == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (v6(UDP, 17), Transport(17, 54, N, True, False, True, 6, 64)),
        (v6(UDP, 17, hop_limit=255), Transport(17, 54, N, True, False, True, 6, 255)),
        (v6(UDP, 17, pad=bytes(9)), Transport(17, 54, N, True, False, True, 6, 64)),
        (v6(b"", 59), Transport(59, 54, 0, True, False, True, 6, 64)),
        (v6(b"secret", 50), Transport(50, 54, 6, True, False, True, 6, 64)),
        (v6(extension(17) + UDP, 0), Transport(17, 62, N, True, False, True, 6, 64)),
        (v6(extension(60, 24) + extension(17, 16) + UDP, 0), Transport(17, 94, N, True, False, True, 6, 64)),
        (
            v6(extension(60) + extension(60) + extension(58) + b"\x86", 60),
            Transport(58, 78, 1, True, False, True, 6, 64),
        ),
        (v6(authentication(17) + UDP, 51), Transport(17, 78, N, True, False, True, 6, 64, True)),
        (v6(fragment_header(17) + UDP, 44), Transport(17, 62, N, True, True, True, 6, 64)),  # atomic
        (v6(fragment_header(17, 0, True) + UDP, 44), Transport(17, 62, N, True, True, True, 6, 64)),
        (v6(fragment_header(17, 1) + UDP, 44), Transport(17, 62, N, False, True, False, 6, 64)),
        (v6(fragment_header(60, 1) + UDP, 44), Transport(60, 62, N, False, True, False, 6, 64)),
        (
            v6(fragment_header(44) + fragment_header(17, 8, True) + UDP, 44),
            Transport(17, 70, N, False, True, False, 6, 64),
        ),
        # The chain does not end inside the packet.
        (v6(b"", 0), Transport(0, 54, 0, True, False, False, 6, 64)),
        (v6(extension(17)[:7], 0), Transport(0, 54, 7, True, False, False, 6, 64)),
        (v6(extension(17, 16)[:8], 60), Transport(60, 54, 8, True, False, False, 6, 64)),
        (v6(extension(60), 0, pad=extension(17) + UDP), Transport(60, 62, 0, True, False, False, 6, 64)),
        (v6(fragment_header(60, 0, True), 44), Transport(60, 62, 0, True, True, False, 6, 64)),
        (v6(authentication(17)[:16], 51), Transport(51, 54, 16, True, False, False, 6, 64, True)),
    ],
)
def test_ipv6(found, expected):
    assert found == expected


@pytest.mark.parametrize("number", sorted(EXTENSION_HEADERS - {44, 51}))
def test_each_extension_header_is_walked(number):
    assert v6(extension(17, 32) + UDP, number) == Transport(17, 86, N, True, False, True, 6, 64)


def test_walk_is_bounded():
    under = v6(extension(60) * (MAX_EXTENSION_HEADERS - 2) + extension(17) + UDP, 60)
    assert under is not None
    assert under.complete
    over = v6(extension(60) * MAX_EXTENSION_HEADERS + extension(17) + UDP, 60)
    assert over is not None
    assert not over.complete


def damaged4(**at):
    packet = bytearray(ipv4(UDP, 17))
    for where, value in at.items():
        packet[int(where[1:])] = value
    return ether(bytes(packet), 0x0800)


@pytest.mark.parametrize(
    "frame",
    [
        ether(b"", 0x0800),
        ether(ipv4(UDP, 17)[:19], 0x0800),
        ether(ipv4(UDP, 17)[:-1], 0x0800),  # total length beyond the frame
        damaged4(_0=0x55),
        damaged4(_0=0x44),
        damaged4(_0=0x4F),  # IHL beyond the total length
        damaged4(_3=19),
        ether(ipv6(UDP, 17), 0x0800),
        ether(ipv4(bytes(40), 17), 0x86DD),
        ether(ipv6(UDP, 17)[:39], 0x86DD),
        ether(ipv6(UDP, 17)[:-1], 0x86DD),
        ether(bytes(40), 0x0806),
    ],
)
def test_not_ip_or_malformed(frame):
    assert walk(frame) is None


def test_behind_tags():
    frame = ether(b"\x00\x00\x86\xdd" + ipv6(UDP, 17), 0x8100)
    assert walk(frame) == Transport(17, 58, N, True, False, True, 6, 64)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(EXTENSION_HEADERS - {44, 51})), st.integers(1, 6)), max_size=8),
    st.sampled_from([6, 17, 58, 59, 50, 255]),
)
def test_any_chain_is_walked_to_its_end(chain, last):
    numbers = [number for number, _ in chain] + [last]
    packet = b"".join(extension(after, size * 8) for (_, size), after in zip(chain, numbers[1:], strict=True))
    expected = Transport(last, 54 + len(packet), N, True, False, True, 6, 64)
    assert v6(packet + UDP, numbers[0]) == expected


def test_mutated_frames_never_raise():
    found = complete = 0
    for frame in mutations(ip_frames() * 3 + link_frames(), seed=3):
        try:
            header = parse_untrusted(frame)
        except FrameError:
            continue
        transport = transport_untrusted(frame, header)
        if transport is None:
            continue
        found += 1
        complete += transport.complete
        assert header.payload_offset <= transport.offset
        assert transport.length >= 0
        assert transport.offset + transport.length <= len(frame)
        assert not (transport.complete and not transport.first_fragment)
        assert transport.fragment or transport.first_fragment
    assert found > 20_000
    assert complete > 10_000


def test_mutated_packets_without_the_link_header_never_raise():
    headers = {4: parse_untrusted(ether(b"", 0x0800)), 6: parse_untrusted(ether(b"", 0x86DD))}
    for packet in mutations([frame[14:] for frame in ip_frames()], seed=4):
        frame = bytes(14) + packet
        for header in headers.values():
            transport = transport_untrusted(frame, header)
            assert transport is None or transport.offset + transport.length <= len(frame)
