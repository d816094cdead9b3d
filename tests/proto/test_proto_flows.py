from __future__ import annotations

import random
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lanparty.proto.flows import classify_untrusted, head_keys_untrusted, is_piece, piece_of
from lanparty.proto.fragments import cut

HOST_A, HOST_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ADDRESS_A, ADDRESS_B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
LONG_A, LONG_B = bytes.fromhex("fe80" + "00" * 13 + "01"), bytes.fromhex("fe80" + "00" * 13 + "02")
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58


def ethernet(ethertype, payload, *, to=HOST_A, by=HOST_B, origin=7, flags=0):
    return bytes((0x10, flags)) + struct.pack("!H", origin) + to + by + ethertype + payload


def ipv4(protocol, payload, *, source=ADDRESS_A, destination=ADDRESS_B, fragment=0x4000, options=b"", noise=64, **more):
    first = 0x45 + len(options) // 4
    total = 20 + len(options) + len(payload)
    header = struct.pack("!BBHHHBBH", first, noise, total, noise, fragment, noise, protocol, noise)
    return ethernet(b"\x08\x00", header + source + destination + options + payload, **more)


def ipv6(protocol, payload, *, source=LONG_A, destination=LONG_B, noise=64, **more):
    header = struct.pack("!IHBB", 6 << 28 | noise, len(payload), protocol, noise)
    return ethernet(b"\x86\xdd", header + source + destination + payload, **more)


def ports(source, destination, rest=bytes(16)):
    return struct.pack("!HH", source, destination) + rest


def tcp_flags(flags):
    return struct.pack("!IIBB", 1, 2, 0x50, flags) + bytes(6)


ARP = ethernet(b"\x08\x06", bytes(28))
GAME = ipv4(UDP, ports(27015, 27005))
DOWNLOAD = ipv4(TCP, ports(80, 40000))
DOWNLOAD6 = ipv6(TCP, ports(80, 40000))

SAME = {
    "other flags": (GAME, ipv4(UDP, ports(27015, 27005), flags=1)),
    "other length, id, TOS, TTL, checksum": (GAME, ipv4(UDP, ports(27015, 27005, bytes(900)), noise=3)),
    "don't fragment or not": (GAME, ipv4(UDP, ports(27015, 27005), fragment=0)),
    "SYN and data": (DOWNLOAD, ipv4(TCP, ports(80, 40000, tcp_flags(2)))),
    "pure ACK and data": (ipv4(TCP, ports(80, 40000, tcp_flags(16))), ipv4(TCP, ports(80, 40000, bytes(1000)))),
    "IPv6, other label, length, hops": (DOWNLOAD6, ipv6(TCP, ports(80, 40000, bytes(500)), noise=3)),
    "fragments of a packet": (ipv4(UDP, ports(1, 2), fragment=0x2000), ipv4(UDP, bytes(500), fragment=0x00B9)),
    "pings": (ipv4(ICMP, b"\x08\0\1\2\3\4"), ipv4(ICMP, b"\x08\0\7\7\7\7")),
    "VLAN, whatever is inside": (ethernet(b"\x81\x00", b"\0\5\x08\0E"), ethernet(b"\x81\x00", b"\0\6\x86\xdd")),
    "unknown type": (ethernet(b"\x88\xb5", b"1"), ethernet(b"\x88\xb5", b"2")),
    "control to everybody, at home": (
        ethernet(b"\x08\x06", bytes(28), to=b"\xff" * 6, origin=0),
        ipv6(ICMPV6, b"\x87" + bytes(23), to=bytes.fromhex("3333ff000001"), origin=0),
    ),
}

DIFFERENT = {
    "source port": (GAME, ipv4(UDP, ports(27016, 27005))),
    "destination port": (GAME, ipv4(UDP, ports(27015, 27006))),
    "protocol": (GAME, ipv4(TCP, ports(27015, 27005))),
    "source address": (GAME, ipv4(UDP, ports(27015, 27005), source=bytes(4))),
    "destination address": (GAME, ipv4(UDP, ports(27015, 27005), destination=bytes(4))),
    "destination MAC": (GAME, ipv4(UDP, ports(27015, 27005), to=HOST_B)),
    "source MAC": (GAME, ipv4(UDP, ports(27015, 27005), by=HOST_A)),
    "origin": (GAME, ipv4(UDP, ports(27015, 27005), origin=8)),
    "fragment and whole": (GAME, ipv4(UDP, ports(27015, 27005), fragment=0x2000)),
    "ping and game": (GAME, ipv4(ICMP, ports(27015, 27005))),
    "IPv6 port": (DOWNLOAD6, ipv6(TCP, ports(80, 40001))),
    "IPv6 source": (DOWNLOAD6, ipv6(TCP, ports(80, 40000), source=LONG_B)),
    "IPv6 destination": (DOWNLOAD6, ipv6(TCP, ports(80, 40000), destination=LONG_A)),
    "IPv4 and IPv6": (DOWNLOAD, DOWNLOAD6),
    "control of two members": (ARP, ethernet(b"\x08\x06", bytes(28), origin=8)),
}

CONTROL = {
    "ARP": ARP,
    "DHCP discover": ipv4(UDP, ports(68, 67)),
    "DHCP offer": ipv4(UDP, ports(67, 68)),
    "DHCPv6": ipv6(UDP, ports(546, 547)),
    "router solicitation": ipv6(ICMPV6, b"\x85" + bytes(23)),
    "neighbour advertisement": ipv6(ICMPV6, b"\x88" + bytes(23)),
    "echo": bytes((0x12, 0, 0, 7)) + bytes(14),
}

ORDINARY = {
    "game": GAME,
    "download": DOWNLOAD,
    "ping": ipv4(ICMP, b"\x08\0" + bytes(60)),
    "IPv6 ping": ipv6(ICMPV6, b"\x80" + bytes(23)),
    "redirect": ipv6(ICMPV6, b"\x89" + bytes(39)),
    "from port 67 to a game": ipv4(UDP, ports(67, 27015)),
    "TCP on DHCP's ports": ipv4(TCP, ports(68, 67)),
    "VLAN": ethernet(b"\x81\x00", b"\0\5\x08\x06" + bytes(28)),
    "a later fragment that looks like DHCP": ipv4(UDP, ports(68, 67), fragment=0x2010),
}


@pytest.mark.parametrize("name", SAME)
def test_one_flow(name):
    one, other = SAME[name]
    assert classify_untrusted(one) == classify_untrusted(other)


@pytest.mark.parametrize("name", DIFFERENT)
def test_two_flows(name):
    one, other = DIFFERENT[name]
    assert one != other
    assert classify_untrusted(one).key != classify_untrusted(other).key


@pytest.mark.parametrize("name", CONTROL)
def test_control(name):
    assert classify_untrusted(CONTROL[name]).control


@pytest.mark.parametrize("name", ORDINARY)
def test_not_control(name):
    assert not classify_untrusted(ORDINARY[name]).control


def test_options_and_extension_headers_go_by_addresses():
    one = classify_untrusted(ipv4(UDP, ports(1, 2), options=bytes(4)))
    assert one == classify_untrusted(ipv4(UDP, ports(3, 4), options=bytes(8)))
    assert one != classify_untrusted(ipv4(UDP, ports(1, 2), options=bytes(4), source=bytes(4)))
    hop_by_hop = classify_untrusted(ipv6(0, bytes(24)))
    assert hop_by_hop == classify_untrusted(ipv6(0, bytes(32)))


def test_the_payer_is_the_origin_or_else_the_destination():
    assert classify_untrusted(GAME).payer == b"\x00\x07"
    assert classify_untrusted(ipv4(UDP, ports(1, 2), origin=0)).payer == HOST_A
    multicast = bytes.fromhex("01005e000001")
    assert classify_untrusted(ipv4(UDP, ports(1, 2), origin=0, to=multicast)).payer == b"\xff" * 6
    assert classify_untrusted(CONTROL["echo"]).payer == b"\x00\x07"


@pytest.mark.parametrize("datagram", [GAME, DOWNLOAD, DOWNLOAD6, *(pair[1] for pair in SAME.values())])
def test_the_first_piece_is_of_its_frames_flow(datagram):
    frame = datagram[4:] + bytes(max(0, 300 - len(datagram)))
    first, *later = cut(frame, 150, 0xBEEF, b"\x11" + datagram[1:4])
    assert classify_untrusted(first) == classify_untrusted(datagram)
    assert is_piece(first)
    assert piece_of(first) == (datagram[2:4], b"\xbe\xef", True)
    for piece in later:
        assert piece_of(piece) == (datagram[2:4], b"\xbe\xef", False)
        assert classify_untrusted(piece).payer == datagram[2:4]
    assert not is_piece(datagram)


KINDS = st.sampled_from([b"\x10", b"\x11", b"\x12", b"\x13", b"\x20", b""])
TYPES = st.sampled_from([b"\x08\x00\x45", b"\x86\xdd\x60", b"\x08\x06\x00", b"\x81\x00\x00", b"\x08\x00\x46"])
UNTRUSTED = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda kind, rest: kind + rest, KINDS, st.binary(max_size=80)),
    st.builds(
        lambda ethertype, payload: b"\x10\x00\x00\x07" + HOST_A + HOST_B + ethertype + payload,
        TYPES,
        st.binary(max_size=60),
    ),
)


@given(UNTRUSTED)
@example(b"")
@example(b"\x11")
@example(b"\x11\0\0\0\0\0\0")
def test_anything_is_some_flow(datagram):
    identity = classify_untrusted(datagram)
    assert identity == classify_untrusted(datagram)
    assert len(identity.payer) in (0, 1, 2, 6)
    hash(identity.key)


@given(st.lists(UNTRUSTED, max_size=6), st.sampled_from([GAME, DOWNLOAD6, b""]))
def test_equal_head_keys_mean_one_flow_where_the_key_is_known(others, first):
    """What the queue relies on: a number that classify gives as a key is no other flow's head key."""
    batch = [first, *others, DOWNLOAD, GAME, DOWNLOAD6, *CONTROL.values(), *ORDINARY.values()]
    keys = head_keys_untrusted(batch)
    identities = [classify_untrusted(datagram) for datagram in batch]
    known = {identity.key: identity for identity in identities if isinstance(identity.key, int)}
    for key, identity in zip(keys, identities, strict=True):
        if key in known:
            assert identity == known[key]


@pytest.mark.parametrize("datagram", [GAME, DOWNLOAD, DOWNLOAD6])
def test_tcp_and_udp_have_their_head_key(datagram):
    assert head_keys_untrusted([datagram]) == [classify_untrusted(datagram).key]


def test_a_hundred_thousand_mutations_raise_nothing():
    chosen = random.Random(3)
    originals = [GAME, DOWNLOAD6, *CONTROL.values(), *ORDINARY.values(), b"\x11" + GAME[1:4] + b"\0\1\0\2" + GAME[4:]]
    for _ in range(100_000):
        datagram = bytearray(chosen.choice(originals))
        for _ in range(chosen.randrange(1, 4)):
            datagram[chosen.randrange(len(datagram))] = chosen.randrange(256)
        mutated = bytes(datagram[: chosen.randrange(len(datagram) + 1)])
        identity = classify_untrusted(mutated)
        if isinstance(identity.key, int) and not is_piece(mutated):
            assert head_keys_untrusted([mutated]) == [identity.key]
