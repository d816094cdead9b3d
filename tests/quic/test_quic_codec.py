from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.crypto import CryptoError, CryptoPair, next_key_phase
from aioquic.quic.packet import decode_packet_number, pull_ack_frame, push_ack_frame
from aioquic.quic.rangeset import RangeSet
from aioquic.tls import CipherSuite
from hypothesis import given
from hypothesis import strategies as st

from lanparty.quic import bench_codec, codec, received
from lanparty.quic.codec import (
    PACKET_OVERHEAD,
    AckFrame,
    PacketKeys,
    aes_mask,
    chacha_mask,
    datagram_overhead,
    decode_number,
    encode_ack,
    frames_untrusted,
    open_untrusted,
    pack_datagrams,
    seal,
)

SUITES = {
    "aes128": (CipherSuite.AES_128_GCM_SHA256, 32),
    "aes256": (CipherSuite.AES_256_GCM_SHA384, 48),
    "chacha": (CipherSuite.CHACHA20_POLY1305_SHA256, 32),
}
CID = b"destined"


class Ends:
    """aioquic's packet protection of one direction, and ours with the same keys."""

    def __init__(self, suite="aes128", secret=None):
        cipher_suite, size = SUITES[suite]
        self.pair = CryptoPair()
        for context in (self.pair.send, self.pair.recv):
            context.setup(cipher_suite=cipher_suite, secret=secret or bytes(range(size)), version=1)
        self.keys = our_keys(self.pair.send)

    def encrypt(self, number, payload, *, size=2, first=0x40, cid=CID, context=None):
        header = bytes([first | size - 1]) + cid + (number % 256**size).to_bytes(size, "big")
        return (context or self.pair.send).encrypt_packet(header, payload, number)


def our_keys(context):
    hp = context.hp
    mask = chacha_mask(hp._encryptor) if hp._is_chacha20 else aes_mask(hp._encryptor)
    return PacketKeys(aead=context.aead._aead, iv=context.aead._iv, mask=mask, phase=context.key_phase)


@pytest.fixture(params=SUITES)
def ends(request):
    return Ends(request.param)


# -- packet protection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 20])
def test_rfc_9001_a5(count):
    ends = Ends("chacha", bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b"))
    packet = bytes.fromhex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb")
    opened = open_untrusted(ends.keys, [packet] * count, 0, 654360564)
    assert opened.numbers == [654360564] * count
    assert opened.payloads == [b"\x01"] * count
    assert (opened.others, opened.forged, opened.reserved, opened.top_first_byte) == ([], 0, False, 0x42)
    # The packet number of the vector takes 3 bytes; we always send 2. Ours with the vector's keys must be theirs.
    assert seal(ends.keys, b"", False, 654360564, [b"\x01\0"]) == [ends.encrypt(654360564, b"\x01\0", cid=b"")]


@pytest.mark.parametrize("count", [0, 1, 4, 9, 10, 40, 64, 300, 600])
@pytest.mark.parametrize("first_number", [0, 250, 0xFFF8, 0xFFFF_FF00, (1 << 62) - 600])
def test_sealed_as_aioquic_does_and_opened_again(ends, count, first_number):
    payloads = [bytes([index & 0xFF]) * (2 + 29 * index % 1450) for index in range(count)]
    numbers = list(range(first_number, first_number + count))
    packets = seal(ends.keys, CID, False, first_number, payloads)
    assert packets == [ends.encrypt(number, payload) for number, payload in zip(numbers, payloads, strict=True)]
    assert all(len(p) == len(q) + len(CID) + PACKET_OVERHEAD for p, q in zip(packets, payloads, strict=True))
    opened = open_untrusted(ends.keys, packets, len(CID), first_number)
    assert (opened.numbers, opened.payloads) == (numbers, payloads)
    assert (opened.others, opened.forged, opened.reserved) == ([], 0, False)
    assert (opened.largest, opened.top_first_byte) == ((numbers[-1], 0x41) if count else (-1, 0))
    for packet, payload, number in zip(packets[::50], payloads[::50], numbers[::50], strict=True):
        assert ends.pair.decrypt_packet(packet, 1 + len(CID), number)[1:] == (payload, number)


@pytest.mark.parametrize("count", [2, 12])
@pytest.mark.parametrize("cid", [b"", b"c", bytes(20)])
@pytest.mark.parametrize("spin", [False, True])
@pytest.mark.parametrize("phase", [0, 1])
def test_header_fields(ends, count, cid, spin, phase):
    context = next_key_phase(ends.pair.send) if phase else ends.pair.send
    context.hp = ends.pair.send.hp  # header protection does not change with the phase (RFC 9001 section 6.1)
    keys = our_keys(context)
    packets = seal(keys, cid, spin, 1000, [b"payload"] * count)
    first = 0x40 | spin << 5 | phase << 2
    assert packets == [
        ends.encrypt(1000 + index, b"payload", first=first, cid=cid, context=context) for index in range(count)
    ]
    opened = open_untrusted(keys, packets, len(cid), 1000)
    assert opened.payloads == [b"payload"] * count
    assert opened.top_first_byte == first | 1
    other = open_untrusted(ends.keys if phase else our_keys(next_phase(ends)), packets, len(cid), 1000)
    assert (other.others, other.payloads, other.forged) == (list(range(count)), [], 0)


def next_phase(ends):
    context = next_key_phase(ends.pair.send)
    context.hp = ends.pair.send.hp
    return context


@pytest.mark.parametrize("count", [1, 3, 20])
def test_short_payloads_are_padded(ends, count):
    packets = seal(ends.keys, CID, False, 7, [b"", b"\x01", b"\x01\0"] * count)
    opened = open_untrusted(ends.keys, packets, len(CID), 7)
    assert opened.payloads == [b"\0\0", b"\x01\0", b"\x01\0"] * count
    packets = seal(ends.keys, CID, False, 100, [b"\x01"] * count)
    assert open_untrusted(ends.keys, packets, len(CID), 100).payloads == [b"\x01\0"] * count


@pytest.mark.parametrize("count", [1, 20])
def test_no_number_is_sealed_twice(count):
    keys = Ends().keys
    seal(keys, CID, False, 100, [b"first"] * count)
    for number in (0, 99, 100, 99 + count):
        with pytest.raises(ValueError, match="packet numbers"):
            seal(keys, CID, False, number, [b"again"] * count)
    seal(keys, CID, False, 100 + count, [b"later"] * count)
    keys.next_number = 5000  # what was sealed elsewhere with these keys
    with pytest.raises(ValueError, match="packet numbers"):
        seal(keys, CID, False, 4999, [b"again"] * count)
    with pytest.raises(ValueError, match="packet numbers"):
        seal(keys, CID, False, (1 << 62) - count, [b"beyond"] * (count + 1))
    assert len(seal(keys, CID, False, (1 << 62) - count, [b"last"] * count)) == count


@pytest.mark.parametrize("count", [1, 4, 40])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("expected", [0, 1, 200, 0x1_0000, 0xFFFF_FFFF, (1 << 61) + 12345])
def test_all_sizes_of_packet_numbers(ends, count, size, expected):
    numbers = list(range(expected, expected + count))
    packets = [ends.encrypt(number, b"some payload", size=size) for number in numbers]
    opened = open_untrusted(ends.keys, packets, len(CID), expected)
    assert (opened.numbers, opened.forged, opened.others) == (numbers, 0, [])
    assert opened.top_first_byte == 0x40 | size - 1


edges = st.builds(
    lambda near, off: max(0, near + off),
    st.sampled_from([0, 0x80, 0x100, 0x8000, 0x1_0000, 1 << 23, 1 << 31, 1 << 32, 1 << 61, 1 << 62]),
    st.integers(-300, 300),
).filter(lambda value: value < 1 << 62)


@given(edges | st.integers(0, (1 << 62) - 1), st.integers(1, 4), st.integers(0, (1 << 32) - 1) | edges)
def test_decode_number_is_that_of_rfc_9000_a3(expected, size, truncated):
    truncated %= 256**size
    assert decode_number(truncated, size, expected) == decode_packet_number(truncated, 8 * size, expected)


def reference(ends, packets, expected):
    """The same with aioquic, packet by packet."""
    numbers, payloads, others, forged, firsts = [], [], [], 0, []
    for index, packet in enumerate(packets):
        if len(packet) < 21 + len(CID) or packet[0] >> 6 != 1:
            others.append(index)
            continue
        if ends.pair.recv.hp.remove(packet, 1 + len(CID))[0][0] & 4:
            others.append(index)
            continue
        try:
            header, payload, number = ends.pair.decrypt_packet(packet, 1 + len(CID), expected)
        except CryptoError:
            forged += 1
            continue
        numbers.append(number)
        payloads.append(payload)
        firsts.append(header[0])
        expected = max(expected, number + 1)
    largest = max(numbers, default=-1)
    top = firsts[numbers.index(largest)] if numbers else 0
    reserved = any(first & 0x18 for first in firsts)
    return numbers, payloads, others, forged, reserved, largest, top


def damage(source, packet, at):
    return packet[:at] + bytes([packet[at] ^ source.randrange(1, 256)]) + packet[at + 1 :]


KINDS = ["good"] * 8 + [
    "forged",
    "damaged",
    "long",
    "fixed",
    "short",
    "phase",
    "reserved",
    "size",
    "far",
    "spin",
    "junk",
]


@pytest.mark.parametrize(
    "mix", [["good"], ["good"] * 5 + ["spin"], ["good"] * 9 + ["forged"], ["good", "fixed"], ["far"], KINDS]
)
@pytest.mark.parametrize("seed", range(12))
def test_any_batch_is_opened_as_aioquic_opens_packets(mix, seed):
    source = random.Random(f"{seed} {mix}")
    ends = Ends(source.choice(list(SUITES)))
    late = next_phase(ends)
    seen = set()
    for count in (1, 3, 9, 10, 16, 40, 64):
        expected = source.choice([0, 5, 20_000, 0x8000, 1 << 20, source.randrange(1 << 61)])
        packets = []
        for _ in range(count):
            kind = source.choice(mix)
            seen.add(kind)
            spread = 33_000 if kind == "far" else source.choice([50, 16_010, 32_000])
            number = max(0, expected + source.randint(-spread, spread))
            size = source.randint(1, 4) if kind == "size" else 2
            first = 0x40 | {"reserved": source.choice([0x08, 0x10, 0x18]), "spin": 0x20, "phase": 4}.get(kind, 0)
            payload = source.randbytes(source.choice([0, 3, 100, 1450]) if size == 4 else source.choice([3, 100]))
            packet = ends.encrypt(number, payload, size=size, first=first, context=late if kind == "phase" else None)
            if kind == "forged":
                packet = damage(source, packet, source.randrange(len(packet) - 16, len(packet)))
            elif kind == "damaged":
                packet = damage(source, packet, source.randrange(len(packet)))
            elif kind == "long":
                packet = b"\xc0" + packet[1:]
            elif kind == "fixed":  # the fixed bit is 0
                packet = bytes([packet[0] & 0x3F]) + packet[1:]
            elif kind == "short":
                packet = packet[: source.randrange(21 + len(CID))]
            elif kind == "junk":
                packet = source.randbytes(source.randrange(1500))
            packets.append(packet)
        opened = open_untrusted(ends.keys, packets, len(CID), expected)
        assert (
            opened.numbers,
            opened.payloads,
            opened.others,
            opened.forged,
            opened.reserved,
            opened.largest,
            opened.top_first_byte,
        ) == reference(ends, packets, expected)
    assert seen == set(mix)


@pytest.mark.parametrize("forged", [{0}, {39}, {3, 4, 5}, {0, 20, 39}, set(range(40)), set(range(39))])
def test_forged_packets_are_dropped_and_counted(ends, forged):
    payloads = [bytes([index]) * 50 for index in range(40)]
    packets = [
        packet[:-1] + bytes([packet[-1] ^ (index in forged)])
        for index, packet in enumerate(seal(ends.keys, CID, True, 500, payloads))
    ]
    kept = [index for index in range(40) if index not in forged]
    opened = open_untrusted(ends.keys, packets, len(CID), 500)
    assert opened.numbers == [500 + index for index in kept]
    assert opened.payloads == [payloads[index] for index in kept]
    assert opened.forged == len(forged)
    assert (opened.largest, opened.top_first_byte) == ((500 + kept[-1], 0x61) if kept else (-1, 0))


def test_the_spin_bit_is_of_the_largest_number_not_of_the_last_packet():
    ends = Ends()
    packets = seal(ends.keys, CID, False, 0, [b"payload"] * 10) + seal(ends.keys, CID, True, 10, [b"payload"] * 10)
    for batch in (packets, packets[::-1], packets[8:12], packets[11:7:-1]):
        opened = open_untrusted(ends.keys, batch, len(CID), 0)
        assert opened.top_first_byte == 0x61
    assert open_untrusted(ends.keys, packets[:10], len(CID), 0).top_first_byte == 0x41


def test_numbers_of_forged_packets_do_not_move_what_is_expected():
    ends = Ends()
    forged = ends.encrypt(32_000, b"payload")
    forged = forged[:-1] + bytes([forged[-1] ^ 1])
    good = ends.encrypt(10, b"payload")
    for count in (1, 20):
        opened = open_untrusted(ends.keys, [forged] * count + [good] * count, len(CID), 0)
        assert (opened.numbers, opened.forged) == ([10] * count, count)


def test_expected_moves_on_inside_the_batch():
    ends = Ends()
    numbers = list(range(0, 30_000 * 12, 30_000))
    packets = [ends.encrypt(number, b"payload") for number in numbers]
    assert open_untrusted(ends.keys, packets, len(CID), 0).numbers == numbers


def test_opening_never_raises():
    source = random.Random(9)
    ends = Ends()
    good = seal(ends.keys, CID, False, 0, [source.randbytes(source.randrange(60)) for _ in range(200)])
    opened = dropped = 0
    for _ in range(1500):
        batch = source.sample(good, source.randrange(20))
        for index in range(len(batch)):
            change = source.randrange(6)
            if change == 0:
                batch[index] = source.randbytes(source.randrange(60))
            elif change == 1:
                batch[index] = damage(source, batch[index], source.randrange(len(batch[index])))
            elif change == 2:
                batch[index] = batch[index][: source.randrange(len(batch[index]))]
        result = open_untrusted(ends.keys, batch, len(CID), source.randrange(1000))
        assert len(result.numbers) + len(result.others) + result.forged == len(batch)
        opened += len(result.numbers)
        dropped += result.forged
    assert opened > 5000
    assert dropped > 1000


# -- DATAGRAM ------------------------------------------------------------------------------------------------------


def parse(payload):
    datagrams, acks = [b"before"], [AckFrame(1, 2, [(0, 1)])]
    code = frames_untrusted(payload, datagrams, acks)
    assert datagrams[0] == b"before"
    return code, datagrams[1:], acks[1:]


@pytest.mark.parametrize(
    ("length", "overhead"), [(0, 2), (1, 2), (63, 2), (64, 3), (1450, 3), (2047, 3), (2048, 3), (16383, 3), (16384, 5)]
)
def test_datagram_overhead(length, overhead):
    assert datagram_overhead(length) == overhead
    (payload,) = pack_datagrams([b"d" * length], length + overhead)
    assert len(payload) == length + overhead
    buf = Buffer(data=payload)
    assert (buf.pull_uint_var(), buf.pull_uint_var(), buf.tell()) == (0x31, length, overhead)
    assert parse(payload) == (1, [b"d" * length], [])
    with pytest.raises(ValueError, match="does not fit"):
        pack_datagrams([b"d" * length], length + overhead - 1)


@pytest.mark.parametrize(
    ("sizes", "room", "first_room", "packed"),
    [
        ([], 100, None, []),
        ([], 100, 50, []),
        ([48], 100, None, [[48]]),
        ([48, 48], 100, None, [[48, 48]]),
        ([48, 49], 100, None, [[48], [49]]),
        ([48, 48, 1], 100, None, [[48, 48], [1]]),
        ([90, 1, 1, 90], 100, None, [[90, 1, 1], [90]]),  # next-fit: order is kept
        ([48, 48], 100, 50, [[48], [48]]),
        ([48, 48], 100, 49, [[], [48, 48]]),
        ([0, 0], 100, 0, [[], [0, 0]]),
        ([97, 97], 100, 20, [[], [97], [97]]),
        ([1, 97], 100, 20, [[1], [97]]),
    ],
)
def test_packing_is_next_fit(sizes, room, first_room, packed):
    datagrams = [bytes([index]) * size for index, size in enumerate(sizes)]
    payloads = pack_datagrams(datagrams, room, first_room)
    assert [[len(datagram) for datagram in parse(payload)[1]] for payload in payloads] == packed
    assert [datagram for payload in payloads for datagram in parse(payload)[1]] == datagrams


def test_what_fits_no_packet_is_the_callers_mistake():
    for first_room in (None, 5):
        with pytest.raises(ValueError, match="does not fit"):
            pack_datagrams([b"", b"d" * 98], 100, first_room)
    with pytest.raises(ValueError, match="does not fit"):
        pack_datagrams([b"d" * 5000], 1400)


@given(st.lists(st.integers(0, 1450)), st.integers(0, 1453) | st.none())
def test_packed_datagrams_come_back_in_order(sizes, first_room):
    datagrams = [index.to_bytes(2, "big") * (size // 2) + b"x" * (size % 2) for index, size in enumerate(sizes)]
    payloads = pack_datagrams(datagrams, 1453, first_room)
    found, acks = [], []
    for index, payload in enumerate(payloads):
        assert len(payload) <= (1453 if first_room is None or index else first_room)
        assert frames_untrusted(payload, found, acks) == 1 or (index == 0 and payload == b"" and first_room is not None)
    assert (found, acks) == (datagrams, [])
    for before, after in pairwise(payloads[1:]):  # no payload ends early
        first = parse(after)[1][0]
        assert len(before) + len(first) + datagram_overhead(len(first)) > 1453


# -- frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "code", "datagrams", "acks"),
    [
        ("31 01 aa", 1, ["aa"], []),
        ("31 00", 1, [""], []),
        ("31 4001 aa", 1, ["aa"], []),  # longer than it must be: allowed for lengths
        ("31 80000001 aa", 1, ["aa"], []),
        ("31 c000000000000001 aa", 1, ["aa"], []),
        ("30 aabb", 1, ["aabb"], []),
        ("30", 1, [""], []),
        ("31 01 aa 31 02 bbcc 30 dd", 1, ["aa", "bbcc", "dd"], []),
        ("00", 0, [], []),
        ("00" * 1400, 0, [], []),
        ("00 00 31 01 aa 00 00 00", 1, ["aa"], []),
        ("00 31 00 00 31 00 00 00", 1, ["", ""], []),
        ("02 05 07 00 02", 0, [], [(5, 7, [(3, 5)])]),
        ("02 05 07 00 05", 0, [], [(5, 7, [(0, 5)])]),
        ("02 0a 07 01 02 01 01 00", 0, [], [(10, 7, [(8, 10), (4, 5)])]),
        ("02 0a 07 02 02 01 01 00 00", 0, [], [(10, 7, [(8, 10), (4, 5), (2, 2)])]),
        ("02 0a 07 02 02 01 01 00 02", 0, [], [(10, 7, [(8, 10), (4, 5), (0, 2)])]),
        ("03 05 07 00 02 01 02 03", 0, [], [(5, 7, [(3, 5)])]),
        ("03 05 07 00 02 4001 80000002 c000000000000003 31 01 aa", 1, ["aa"], [(5, 7, [(3, 5)])]),
        ("02 05 07 00 02 31 01 aa 00", 1, ["aa"], [(5, 7, [(3, 5)])]),
        ("02 bfffffff ffffffffffffffff 00 00", 0, [], [((1 << 30) - 1, (1 << 62) - 1, [((1 << 30) - 1,) * 2])]),
    ],
)
def test_frames(payload, code, datagrams, acks):
    expected = [AckFrame(*ack) for ack in acks]
    assert parse(bytes.fromhex(payload)) == (code, [bytes.fromhex(datagram) for datagram in datagrams], expected)


@pytest.mark.parametrize(
    "bad",
    [
        "31",  # no length
        "31 01",  # no data
        "31 05 aabbccdd",
        "31 40",  # cut within the length
        "31 4101" + "aa" * 256,
        "31 80",
        "31 800000",
        "31 c0000000000000",
        "31 ffffffffffffffff aa",
        "02",
        "02 05",
        "02 05 07",
        "02 05 07 00",
        "02 45",
        "02 05 07 01 02",
        "02 05 07 01 02 00",
        "02 05 07 ffffffffffffffff 00 00 00",  # more ranges than there are
        "02 05 07 00 06",  # down to -1
        "02 05 07 01 02 02 00",  # the second range is at -1
        "02 05 07 01 02 01 01",  # the second range ends at -1
        "02 05 07 02 02 02 00 00 00",  # and goes on
        "02 05 07 00 ffffffffffffffff",
        "03 05 07 00 02",  # ECN counts missing
        "03 05 07 00 02 01 02",
        "03 05 07 00 02 01 02 40",
        "01",  # PING, CRYPTO, STREAM, CLOSE, HANDSHAKE_DONE, unknown, type not in its shortest form
        "06 00 00",
        "08 00 aa",
        "1c 00 00 00",
        "1e",
        "3f",
        "4031 01 aa",
        "ff",
    ],
)
@pytest.mark.parametrize("before", ["", "00", "31 01 aa", "02 05 07 00 02", "31 01 aa 02 05 07 00 02 31 40 02 bbcc 00"])
def test_other_or_malformed_frames_append_nothing(bad, before):
    assert parse(bytes.fromhex(before + bad)) == (-1, [], [])


def test_an_empty_payload_is_a_violation():
    assert parse(b"") == (-1, [], [])


def test_mutated_payloads_never_raise():
    source = random.Random(4)
    seeds = [
        bytes.fromhex("02 4050 07 02 02 01 01 00 02 31 03 aabbcc 00 00"),
        bytes.fromhex("03 8000ffff 4007 01 02 01 01 01 02 03 31 4005 aabbccddee 30 ff"),
        bytes.fromhex("31 00 31 01 aa 31 02 bbcc 00 00 00 02 05 07 00 02"),
        b"\x31\x40\x50" + b"d" * 80,
        bytes.fromhex("00 02 45 50 07 01 02 01 03 00"),
    ]
    codes = {-1: 0, 0: 0, 1: 0}
    for _ in range(120_000):
        payload = bytearray(source.choice(seeds))
        for _ in range(source.randrange(4)):
            payload[source.randrange(len(payload))] = source.choice(
                (0, 1, 2, 3, 0x30, 0x31, 0x40, source.randrange(256))
            )
        if source.random() < 0.3:
            del payload[source.randrange(len(payload) + 1) :]
        datagrams, acks = [], []
        code = frames_untrusted(bytes(payload), datagrams, acks)
        codes[code] += 1
        assert (code == 1) == bool(datagrams)
        assert code >= 0 or not acks
        for ack in acks:
            flat = [number for each in ack.ranges for number in reversed(each)]
            assert flat == sorted(flat, reverse=True)
            assert flat[0] == ack.largest
            assert flat[-1] >= 0
    assert min(codes.values()) > 1000


# -- ACK -----------------------------------------------------------------------------------------------------------


@st.composite
def range_lists(draw, most=80):
    start = draw(st.sampled_from([0, 1, 60, 16000, 1 << 29, 1 << 40]))
    ranges = []
    sizes = st.integers(1, 70) | st.sampled_from([64, 65, 16384, 16385, 1 << 30])
    for gap, length in draw(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=most)):
        start += gap
        ranges.append(range(start, start + length))
        start += length
    return ranges


delays = st.integers(0, 63) | st.integers(0, (1 << 62) - 1)


@given(range_lists(), delays)
def test_acks_are_those_of_aioquic_both_ways(ranges, delay):
    buf = Buffer(capacity=4096)
    push_ack_frame(buf, RangeSet(ranges), delay, capacity=4096)
    frame = encode_ack(RangeSet(ranges), delay, 4096)
    if len(ranges) == 1 and len(frame) == 10:
        assert len(b"\x02" + buf.data) <= 10  # the same, in integers of fixed sizes
    else:
        assert frame == b"\x02" + buf.data
    assert pull_ack_frame(Buffer(data=frame[1:])) == (RangeSet(ranges), delay)
    inclusive = [(each.start, each.stop - 1) for each in reversed(ranges)]
    assert parse(frame) == (0, [], [AckFrame(inclusive[0][1], delay, inclusive)])
    assert parse(b"\x03" + frame[1:] + b"\x01\x40\x02\x00") == (0, [], [AckFrame(inclusive[0][1], delay, inclusive)])


@given(range_lists(most=200), delays, st.integers(0, 600))
def test_short_room_keeps_the_newest_ranges(ranges, delay, room):
    frame = encode_ack(ranges, delay, room)
    whole = encode_ack(ranges, delay, 10_000)
    if not frame:
        buf = Buffer(capacity=64)
        push_ack_frame(buf, RangeSet(ranges[-1:]), delay, capacity=64)
        assert 1 + buf.tell() > room  # not even the newest, in the shortest form
        return
    assert len(frame) <= room
    code, _datagrams, (ack,) = parse(frame)
    assert code == 0
    kept = len(ack.ranges)
    assert ack.ranges == parse(whole)[2][0].ranges[:kept]
    assert ack == parse(encode_ack(ranges[-kept:], delay, 10_000))[2][0]
    if kept < len(ranges):
        assert len(encode_ack(ranges[-kept - 1 :], delay, 10_000)) > room


def test_room_is_used_to_the_last_byte():
    """Also where the count of ranges grows from 1 byte to 2, at 64."""
    ranges = [range(start, start + 1) for start in range(0, 2 * 80, 2)]
    whole = {kept: len(encode_ack(ranges[-kept:], 0, 10_000)) for kept in range(2, 81)}
    whole[1] = whole[2] - 2
    assert whole[65] == whole[64] + 3
    for room in range(whole[80] + 2):
        kept = max((kept for kept, size in whole.items() if size <= room), default=0)
        frame = encode_ack(ranges, 0, room)
        assert len(frame) == whole.get(kept, 0), room
        assert not kept or parse(frame) == parse(encode_ack(ranges[-kept:], 0, 10_000)), room


def test_no_ranges_no_ack():
    assert encode_ack([], 0, 100) == b""
    assert encode_ack(RangeSet(), 0, 100) == b""


@given(st.binary(max_size=40))
def test_ack_parsing_agrees_with_aioquic_on_anything(data):
    buf = Buffer(data=data)
    try:
        rangeset, delay = pull_ack_frame(buf)
    except (ValueError, AssertionError):
        assert parse(b"\x02" + data)[0] == -1
        return
    frame = b"\x02" + data[: buf.tell()]
    inclusive = [(each.start, each.stop - 1) for each in reversed(list(rangeset))]
    code, _datagrams, (ack,) = parse(frame)
    assert (code, ack.delay) == (0, delay)
    assert (ack.largest, ack.ranges) == (inclusive[0][1], inclusive)


# -- benchmark -----------------------------------------------------------------------------------------------------


def test_the_benchmark_measures_every_case(capsys):
    bench_codec.main(["--rounds", "1", "--json"])
    text = capsys.readouterr().out
    for cipher in bench_codec.CIPHERS:
        assert text.count(f'"{cipher}"') == 2 * 4 * 3
    bench_codec.main(["--rounds", "1"])
    assert len(capsys.readouterr().out.splitlines()) == 1 + text.count('"us"')


def test_the_codec_does_not_know_aioquic():
    code = (
        "import importlib.util, sys\n"
        "for path in sys.argv[1:]:\n"
        "    spec = importlib.util.spec_from_file_location('module', path)\n"
        "    spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "sys.exit(any(name.split('.')[0] in ('aioquic', 'trio', 'lanparty') for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, codec.__file__, received.__file__], check=False).returncode == 0
