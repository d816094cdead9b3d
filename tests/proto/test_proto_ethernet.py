from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proto_corpus import EVERYONE, HOUSE, PLAYER, ether, ip_frames, link_frames, mutations

from lanparty.proto import ethernet
from lanparty.proto.ethernet import FrameError, layer2_update, parse_untrusted

H = bytes.fromhex


@pytest.mark.parametrize(
    ("rest", "ethertype", "offset", "tags", "llc", "length"),
    [
        ("0800 45", 0x0800, 14, (), False, 0),
        ("0600 00", 0x0600, 14, (), False, 0),
        ("8100 0000 0800", 0x0800, 18, (0,), False, 0),
        ("8100 2007 86dd", 0x86DD, 18, (0x2007,), False, 0),
        ("8100 0000 8100 0000 0800 45", 0x0800, 22, (0, 0), False, 0),
        ("88a8 0001 8100 0002 0806", 0x0806, 22, (1, 2), False, 0),
        ("9100 0001 9200 0002 9300 0003 8100 0004 0800", 0x0800, 30, (1, 2, 3, 4), False, 0),
        ("0000", 0, 14, (), True, 0),
        ("05ff 00", 0, 14, (), True, 0x05FF),
        ("0003 424203", 0, 14, (), True, 3),
        ("0020 ffff 0020", 0, 14, (), True, 0x20),  # raw IPX
        ("0020 e0e003 ffff", 0, 14, (), True, 0x20),
        ("0008 aaaa03 000000 8137", 0x8137, 22, (), True, 8),
        ("0008 aaaa03 0000f8 86dd", 0x86DD, 22, (), True, 8),
        ("0008 aaaa03 00000c 2000", 0, 14, (), True, 8),  # Cisco's OUI: the number is not an EtherType
        ("0008 aaaa04 000000 0800", 0, 14, (), True, 8),
        ("8100 0000 0008 aaaa03 000000 86dd", 0x86DD, 26, (0,), True, 8),
        ("0008 aaaa03 000000 8100 0005 86dd", 0x86DD, 26, (5,), True, 8),
        ("0010 aaaa03 000000 0008 aaaa03 000000 0800", 0x0800, 30, (), True, 0x10),
        ("0008 aaaa03 000000 0004 4242", 0, 22, (), True, 8),
    ],
)
def test_walk(rest, ethertype, offset, tags, llc, length):
    header = parse_untrusted(HOUSE + PLAYER + H(rest))
    assert header == ethernet.EthernetHeader(HOUSE, PLAYER, ethertype, offset, tags, llc, length)


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("", "truncated"),
        ("08", "truncated"),
        ("8100", "truncated"),
        ("8100 000008", "truncated"),
        ("8100 0000 8100 00", "truncated"),
        ("0008 aaaa03", "truncated"),
        ("0008 aaaa03 000000 08", "truncated"),
        ("8100 0000" * 5 + "0800", "vlan-depth"),
        ("0008 aaaa03 000000" * 3 + "0800", "snap-depth"),
    ],
)
def test_refused(rest, reason):
    with pytest.raises(FrameError) as caught:
        parse_untrusted(HOUSE + PLAYER + H(rest))
    assert caught.value.reason == reason


@given(st.binary(max_size=80))
def test_any_bytes_give_a_header_inside_the_frame_or_frame_error(data):
    try:
        header = parse_untrusted(data)
    except FrameError:
        return
    assert header.destination + header.source == data[:12]
    assert 14 <= header.payload_offset <= len(data)
    assert header.ethertype == 0 or header.ethertype >= 0x0600
    assert header.ethertype not in ethernet.VLAN_ETHERTYPES


@given(
    st.lists(st.tuples(st.sampled_from(sorted(ethernet.VLAN_ETHERTYPES)), st.integers(0, 0xFFFF)), max_size=4),
    st.booleans(),
    st.sampled_from([0x0800, 0x0806, 0x86DD, 0x8137, 0x88CC, 0xFFFF]),
    st.binary(max_size=20),
)
def test_type_is_found_behind_any_tags_and_snap(tags, snap, ethertype, payload):
    chain = b"".join(tpid.to_bytes(2, "big") + tci.to_bytes(2, "big") for tpid, tci in tags)
    inner = ethertype.to_bytes(2, "big") + payload
    if snap:
        inner = b"\x00\x40\xaa\xaa\x03\x00\x00\x00" + inner
    header = parse_untrusted(HOUSE + PLAYER + chain + inner)
    assert header.ethertype == ethertype
    assert header.vlan_tags == tuple(tci for _, tci in tags)
    assert header.llc == snap
    assert (HOUSE + PLAYER + chain + inner)[header.payload_offset :] == payload


@pytest.mark.parametrize(
    ("frame", "expected"), [(b"", 0), (bytes(13), 0), (bytes(12) + b"\x08\x06", 0x0806), (ether(b"", 0x8100), 0x8100)]
)
def test_ethertype_as_it_stands(frame, expected):
    assert ethernet.ethertype_untrusted(frame) == expected


def test_group_bit():
    assert ethernet.is_group(EVERYONE)
    assert ethernet.is_group(H("01005e0000fb"))
    assert not ethernet.is_group(PLAYER)


def test_layer2_update_is_a_padded_broadcast_xid_response():
    frame = layer2_update(PLAYER)
    assert len(frame) == ethernet.MIN_WIRE_SIZE == 60
    header = parse_untrusted(frame)
    assert (header.destination, header.source, header.length, header.llc) == (EVERYONE, PLAYER, 6, True)
    assert frame[14:20] == H("0001af810102")
    assert not any(frame[20:])


def test_sizes():
    assert ethernet.STANDARD_FRAME_SIZE == 1514
    assert ethernet.MAX_FRAME_SIZE == 9018


def test_mutated_frames_parse_or_raise_frame_error():
    good = 0
    reasons = set()
    for data in mutations(link_frames() + ip_frames(), seed=2):
        try:
            good += parse_untrusted(data).payload_offset <= len(data)
        except FrameError as error:
            reasons.add(error.reason)
        assert 0 <= ethernet.ethertype_untrusted(data) <= 0xFFFF
    assert good > 10_000
    assert "truncated" in reasons
