"""The LAN filter, run by a small interpreter of classic BPF, against the plain function that says the same."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanparty.link.bpf import (
    ACCEPT_BYTES,
    MAX_EXACT_MEMBERS,
    TAG_ETHERTYPES,
    Instruction,
    accepts,
    assemble,
    deaf_filter,
    is_exact,
    lan_filter,
    untagged_filter,
)
from lanparty.proto.probe import ETHERTYPE_PROBE, SOURCE, encode_probe

BPF_MAXINSNS = 4096
OTHER = bytes.fromhex("00163e000001")
MEMBER = bytes.fromhex("02a1b2c3d4e5")


def run_bpf(program: list[Instruction], frame: bytes, *, tagged: bool = False) -> int:
    """What the kernel would return: bytes to keep. A load past the end drops the frame."""
    accumulator, counter = 0, 0
    for _ in range(len(program)):
        code, jt, jf, k = program[counter]
        counter += 1
        if code in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
            if k == 0xFFFFF030:
                accumulator = int(tagged)
                continue
            if k + size > len(frame):
                return 0
            accumulator = int.from_bytes(frame[k : k + size], "big")
        elif code == 0x05:
            counter += k
        elif code == 0x06:
            return k
        else:
            taken = {0x15: accumulator == k, 0x25: accumulator > k, 0x45: bool(accumulator & k)}[code]
            counter += jt if taken else jf
    raise AssertionError("fell off the end of the program")


def frame(destination: bytes, source: bytes = OTHER, ethertype: int = 0x0800) -> bytes:
    return destination + source + struct.pack("!H", ethertype) + bytes(46)


def check_jumps(program: list[Instruction]) -> None:
    """What the kernel's checker asks: lengths, jumps inside, a return at the end."""
    assert 0 < len(program) <= BPF_MAXINSNS
    assert program[-1].code == 0x06
    for index, (code, jt, jf, k) in enumerate(program):
        assert 0 <= jt <= 255
        assert 0 <= jf <= 255
        if code == 0x05:
            assert index + 1 + k < len(program)
        elif code in (0x15, 0x25, 0x45):
            assert index + 1 + max(jt, jf) < len(program)


def members_of(count: int, seed: int = 1) -> list[bytes]:
    random_ = random.Random(seed)
    return [bytes([0x02, *(random_.randrange(256) for _ in range(5))]) for _ in range(count)]


GROUPS = [
    ("ffffffffffff", True),
    ("01005e000001", True),
    ("01005e000243", True),
    ("333300000001", True),
    ("0180c2000000", False),
    ("0180c200000e", False),
    ("0180c2000010", False),
    ("0180c200002f", False),
    ("0180c200003f", False),
    ("0180c2000040", True),
    ("0180c2010000", True),
    ("0180c3000000", True),
    ("01000ccccccc", False),
    ("01000ccccccd", False),
    ("01000cccccce", True),
    ("01000ccdcdcd", False),
    ("01000cdddddd", False),
    ("01000c000000", False),
    ("01000c000001", True),
    ("011b19000000", False),
    ("01e02b000000", False),
]


@pytest.mark.parametrize(("destination", "passes"), GROUPS)
def test_group_addresses(destination: str, passes: bool) -> None:
    one = frame(bytes.fromhex(destination))
    assert accepts(one, {MEMBER}) is passes
    for exact in (True, False):
        assert bool(run_bpf(lan_filter([MEMBER], exact=exact), one)) is passes


def test_without_members_nothing_passes() -> None:
    assert run_bpf(lan_filter(()), frame(b"\xff" * 6)) == 0
    assert not accepts(frame(b"\xff" * 6), frozenset())


def test_a_probe_passes_with_and_without_members_but_not_the_deaf() -> None:
    probe = encode_probe(b"gateway1", 1, [MEMBER])
    for members in (frozenset(), frozenset([MEMBER])):
        check_jumps(lan_filter(members))
        assert run_bpf(lan_filter(members), probe)
        assert accepts(probe, members)
    for other in (frame(b"\xff" * 6, SOURCE), frame(b"\xff" * 6, OTHER, ETHERTYPE_PROBE)):
        assert not run_bpf(lan_filter(()), other)
        assert not accepts(other, frozenset())
    assert not run_bpf(deaf_filter(), probe)


@pytest.mark.parametrize("count", [1, 2, 3, 100, MAX_EXACT_MEMBERS])
def test_each_member_gets_its_unicast_and_sends_none(count: int) -> None:
    members = members_of(count)
    program = lan_filter(members)
    check_jumps(program)
    for member in members:
        assert run_bpf(program, frame(member)) == ACCEPT_BYTES
        assert run_bpf(program, frame(member, member)) == 0
        assert run_bpf(program, frame(b"\xff" * 6, member)) == 0
        assert run_bpf(program, frame(OTHER, member)) == 0
        for position in range(6):
            near = bytearray(member)
            near[position] ^= 0x10
            assert run_bpf(program, frame(bytes(near))) == 0
            assert run_bpf(program, frame(b"\xff" * 6, bytes(near))) == ACCEPT_BYTES
    assert run_bpf(program, frame(OTHER)) == 0


@pytest.mark.parametrize("count", [2, 126, 127, 128, MAX_EXACT_MEMBERS])
def test_members_that_chose_the_same_low_bits(count: int) -> None:
    """A leaf of the search that is too long for an 8-bit jump."""
    members = [struct.pack("!H", 0x0200 + 0x400 * (index // 256) + index % 256) + b"\1\2\3\4" for index in range(count)]
    program = lan_filter(members)
    check_jumps(program)
    assert all(run_bpf(program, frame(member)) for member in members)
    assert not run_bpf(program, frame(b"\xfe\xfe\1\2\3\4"))
    assert not run_bpf(program, frame(b"\x02\0\1\2\3\5"))


def test_more_members_than_fit_let_all_unicast_pass() -> None:
    members = members_of(MAX_EXACT_MEMBERS + 1)
    assert not is_exact(set(members))
    program = lan_filter(members)
    check_jumps(program)
    assert len(program) < 100
    assert run_bpf(program, frame(OTHER)) == ACCEPT_BYTES
    assert run_bpf(program, frame(b"\x01\x80\xc2\0\0\0")) == 0
    assert not accepts(frame(OTHER), set(members))


@pytest.mark.parametrize("destination", [MEMBER, b"\xff" * 6])
def test_tagged_frames_are_dropped(destination: bytes) -> None:
    for exact in (True, False):
        program = lan_filter([MEMBER], exact=exact)
        assert run_bpf(program, frame(destination))
        assert not run_bpf(program, frame(destination), tagged=True)
        for ethertype in TAG_ETHERTYPES:
            assert not run_bpf(program, frame(destination, ethertype=ethertype))
            assert not accepts(frame(destination, ethertype=ethertype), {MEMBER})
        for ethertype in (0x80FF, 0x8101, 0x88A9, 0x9000, 0x9400, 0x0026):
            assert run_bpf(program, frame(destination, ethertype=ethertype))
    assert run_bpf(untagged_filter(), frame(OTHER))
    assert not run_bpf(untagged_filter(), frame(OTHER), tagged=True)
    assert not run_bpf(untagged_filter(), frame(OTHER, ethertype=0x88A8))


@pytest.mark.parametrize("length", range(14))
def test_a_short_frame_is_dropped(length: int) -> None:
    short = frame(b"\xff" * 6)[:length]
    assert not accepts(short, {MEMBER})
    assert not run_bpf(lan_filter([MEMBER]), short)


addresses = st.one_of(
    st.binary(min_size=6, max_size=6),
    st.sampled_from([bytes.fromhex(text) for text, _ in GROUPS]),
    st.sampled_from(members_of(8)),
)


@settings(max_examples=1000, deadline=None)
@given(
    st.sets(addresses.map(lambda mac: bytes([mac[0] & 0xFE]) + mac[1:]), max_size=20), addresses, addresses, st.data()
)
def test_program_and_function_say_the_same(members, destination, source, data) -> None:
    ethertype = data.draw(st.sampled_from([0x0800, 0x0806, 0x8137, 0x05DC, *TAG_ETHERTYPES]))
    one = frame(destination, source, ethertype)
    assert bool(run_bpf(lan_filter(members), one)) is accepts(one, members)


def test_the_array_for_the_kernel() -> None:
    assert assemble([Instruction(0x06, 0, 0, 1), Instruction(0x15, 2, 3, 0xFFFFFFFF)]) == struct.pack(
        "=HBBIHBBI", 6, 0, 0, 1, 0x15, 2, 3, 0xFFFFFFFF
    )
