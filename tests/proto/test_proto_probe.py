"""The gateway's probe: its bytes, and that nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.proto.probe import ETHERTYPE_PROBE, MAX_LISTED, SOURCE, Probe, encode_probe, parse_probe_untrusted

GATEWAY = bytes(range(8))
macs = st.binary(min_size=6, max_size=6)


def test_the_bytes() -> None:
    frame = encode_probe(GATEWAY, 0x01020304, [b"\x02abcde"])
    assert frame.hex() == (
        "ffffffffffff024c414e500088b5" + b"lanparty".hex() + "0100010203040506070102030401026162636465"
    ).ljust(120, "0")
    assert len(encode_probe(GATEWAY, 1)) == 60
    assert (ETHERTYPE_PROBE, SOURCE[0] & 3) == (0x88B5, 2)


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**40), st.lists(macs, max_size=300))
def test_what_was_said_is_read(gateway: bytes, sequence: int, members: list[bytes]) -> None:
    frame = encode_probe(gateway, sequence, members)
    assert 60 <= len(frame) <= 1514
    found = parse_probe_untrusted(frame)
    assert found == Probe(gateway, sequence % 2**32, frozenset(members[:MAX_LISTED]))
    # What a switch or a card has added to the end changes nothing.
    assert parse_probe_untrusted(frame + b"\x99" * 4) == found


@given(st.binary(max_size=100))
def test_anything_else_is_none(data: bytes) -> None:
    assert parse_probe_untrusted(data) is None


@pytest.mark.parametrize("size", range(48))
def test_a_cut_one_is_none(size: int) -> None:
    frame = encode_probe(GATEWAY, 1, [b"\x02abcde", b"\x02abcdf"])
    assert parse_probe_untrusted(frame[:size]) is None


@given(st.integers(0, 22), st.integers(1, 255))
def test_one_wrong_byte_in_front_and_it_is_none(at: int, change: int) -> None:
    frame = bytearray(encode_probe(GATEWAY, 1, [b"\x02abcde"]))
    frame[at] ^= change
    assert parse_probe_untrusted(bytes(frame)) is None


def test_a_hundred_thousand_mutations_are_read_or_not_but_never_raise() -> None:
    import random

    source = random.Random(18)
    base = encode_probe(GATEWAY, 7, [bytes((2, 0, 0, 0, 0, number)) for number in range(20)])
    read = 0
    for _ in range(100_000):
        frame = bytearray(base[: source.randrange(len(base) + 1)])
        for _ in range(source.randrange(3)):
            if frame:
                frame[source.randrange(len(frame))] = source.randrange(256)
        read += parse_probe_untrusted(bytes(frame)) is not None
    assert 0 < read < 100_000
