"""The short way of plain frames: its verdict is the guard's, and the switch does the same over either way."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

import attrs
import pytest
from guard_world import LEASE, OTHER4, PLAYER4, ROUTER, ack, advertisement, house_arp, nak, request
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_packets import (
    ARP,
    BROADCAST,
    HOUSE,
    IPV4,
    IPV6,
    OTHER,
    PLAYER,
    arp,
    ethernet,
    extension,
    fragment_header,
    icmpv6,
    ipv4,
    ipv6,
    link_local,
    nd,
    option,
    snap,
    tag,
    udp,
)
from test_guard_guard import BAD, GOOD, SEEDS

from lanparty.ctrl.messages import PROTOCOL, Hello, Role
from lanparty.guard.guard import Guard
from lanparty.guard.levels import GuardSettings, Level, RoomPolicy
from lanparty.guard.plain import HEAD_SIZE, shape_of
from lanparty.proto.fragments import Reassembler
from lanparty.proto.overlay import CHECKSUM_PARTIAL, Echo, OverlayCounters, OverlayDecoder, OverlayEncoder, encode_echo
from lanparty.relay.hub import Hub, Joined
from lanparty.relay.rooms import RoomLimits, Rooms
from lanparty.relay.switch import MAX_WAYS, Port

FLAGS = CHECKSUM_PARTIAL << 16


def overlay(frame: bytes, stamp: int = 0) -> bytes:
    return b"\x10" + stamp.to_bytes(3, "big") + frame


def is_plain(frame: bytes) -> bool:
    datagram = overlay(frame)
    shape = shape_of(datagram[:HEAD_SIZE])
    if shape is None:
        return False
    try:
        return bool(shape.is_plain(shape.read(datagram), len(datagram)))
    except struct.error:
        return False


def icmp(kind: int, code: int = 0, size: int = 8) -> bytes:
    return bytes((kind, code)).ljust(size, b"i")


def tcp(size: int = 20) -> bytes:
    return struct.pack("!HHIIHHHH", 67, 68, 1, 1, 0x5010, 500, 0, 0).ljust(size, b"t")


@pytest.mark.parametrize(
    "frame",
    [
        ethernet(ipv4(udp(27005, 27015)), IPV4),
        ethernet(ipv4(udp(27005, 27015), fragment=0x4000), IPV4),
        ethernet(ipv4(udp(1, 2, b"")), IPV4),
        ethernet(ipv4(udp(1, 2)) + bytes(20), IPV4),
        ethernet(ipv4(udp(546, 547)), IPV4),
        ethernet(ipv4(tcp(), protocol=6), IPV4),
        ethernet(ipv4(tcp(1480), protocol=6), IPV4),
        ethernet(ipv4(icmp(0), protocol=1), IPV4),
        ethernet(ipv4(icmp(8), protocol=1), IPV4),
        ethernet(ipv4(icmp(8, 9, 1480), protocol=1, fragment=0x4000), IPV4),
        ethernet(ipv4(icmp(0), protocol=1) + bytes(18), IPV4),
        ethernet(ipv6(udp(5353, 5353), 17), IPV6),
        ethernet(ipv6(udp(67, 68), 17), IPV6),
        ethernet(ipv6(tcp(), 6), IPV6),
        ethernet(b"\x6f" + ipv6(tcp(), 6)[1:], IPV6),
    ],
)
def test_plain(frame: bytes) -> None:
    assert is_plain(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        ethernet(arp(), 0x0806),
        ethernet(ipv4(udp(1, 2)), IPV6),
        ethernet(ipv4(udp(1, 2), options=bytes(4)), IPV4),
        ethernet(ipv4(udp(1, 2), fragment=0x2000), IPV4),
        ethernet(ipv4(udp(1, 2), fragment=1), IPV4),
        ethernet(ipv4(udp(1, 2), total=41), IPV4),
        ethernet(ipv4(udp(1, 2), total=27), IPV4),
        ethernet(ipv4(udp(1, 2, b"")[:7]), IPV4),
        ethernet(ipv4(udp(68, 1)), IPV4),
        ethernet(ipv4(udp(1, 520)), IPV4),
        ethernet(ipv4(udp(1985, 1)), IPV4),
        ethernet(ipv6(udp(1, 521), 17), IPV6),
        ethernet(ipv4(udp(1, 67)), IPV4),
        *[ethernet(ipv4(icmp(kind), protocol=1), IPV4) for kind in range(256) if kind not in (0, 8)],
        ethernet(ipv4(icmp(8, size=7), protocol=1), IPV4),
        ethernet(ipv4(icmp(8), protocol=1, total=29), IPV4),
        ethernet(ipv4(icmp(8), protocol=1, options=bytes(4)), IPV4),
        ethernet(ipv4(icmp(8), protocol=1, fragment=0x2000), IPV4),
        ethernet(ipv4(icmp(8), protocol=1, fragment=1), IPV4),
        ethernet(ipv4(icmp(8), protocol=2), IPV4),
        ethernet(ipv6(icmp(8), 1), IPV6),
        ethernet(ipv6(icmpv6(128), 58), IPV6),
        ethernet(ipv6(udp(546, 1), 17), IPV6),
        ethernet(ipv6(udp(1, 547), 17), IPV6),
        ethernet(ipv6(icmpv6(134), 58), IPV6),
        ethernet(ipv6(extension(17) + udp(1, 2), 0), IPV6),
        ethernet(ipv6(fragment_header(6) + tcp(), 44), IPV6),
        ethernet(ipv6(tcp(), 6, length=21), IPV6),
        ethernet(ipv6(tcp(), 6, length=7), IPV6),
        ethernet(ipv4(udp(1, 2)), IPV4, tags=tag()),
        snap(ipv4(udp(1, 2)), IPV4),
    ],
)
def test_not_plain(frame: bytes) -> None:
    assert not is_plain(frame)


@attrs.frozen
class Sender:
    mac: bytes
    is_gateway: bool


SENDERS = [Sender(PLAYER, False), Sender(b"", True)]


def mutated(chance: random.Random, seed: bytes) -> bytes:
    frame = bytearray(seed)
    for _ in range(chance.randrange(4)):
        match chance.randrange(6):
            case 0:  # where the headers are
                frame[chance.randrange(12, min(len(frame), 60))] = chance.randrange(256)
            case 1:
                frame[chance.randrange(min(len(frame), 60))] ^= 1 << chance.randrange(8)
            case 2:
                frame += bytes(chance.choice((1, 18, 560, 1400)))
            case 3:
                del frame[chance.randrange(40, len(frame) + 1) :]
            case 4:
                frame[34:35] = bytes((chance.choice((0, 5, 8, 9, 10)),))  # ICMP's type
            case _:  # a port or a length of interest
                at = chance.choice((16, 18, 20, 34, 36, 54, 56))
                frame[at : at + 2] = chance.choice((28, 67, 68, 546, 547, len(frame) - 14)).to_bytes(2, "big")
    return bytes(frame)


def test_plain_frames_with_one_head_have_one_verdict() -> None:
    """What `plain.py` promises, over the guard's vectors and mutations of them: by head, source, sender and limit."""
    chance = random.Random(20261018)
    seeds = [
        frame
        for frame in SEEDS
        + [
            ethernet(ipv4(tcp(), protocol=6), IPV4),
            ethernet(ipv6(tcp(), 6), IPV6),
            ethernet(ipv4(udp(9, 9)), IPV4),
            ethernet(ipv4(icmp(8), protocol=1), IPV4),
        ]
        * 20
        if len(frame) > 40
    ]
    routing = RoomPolicy(level=Level.STANDARD, ipv6_routing=True)
    rooms = [(RoomPolicy(), 1500), (RoomPolicy(), 600), (RoomPolicy(level=Level.STANDARD), 1500), (routing, 1500)]
    guards = [Guard(policy, mtu, {OTHER}) for policy, mtu in [*rooms, (RoomPolicy(level=Level.OFF), 1500)]]
    for guard in guards:
        guard.judge_untrusted(ack(PLAYER, PLAYER4), Sender(b"", True), 0.0)
    verdicts: dict[object, object] = {}
    plain = pings = 0
    for _ in range(150_000):
        whole = mutated(chance, chance.choice(seeds))
        if not is_plain(whole):
            continue
        plain += 1
        pings += whole[12:14] == b"\x08\0" and whole[23] == 1
        for number, guard in enumerate(guards):
            for sender in SENDERS:
                if len(whole) > guard.limit(sender):
                    continue
                version = guard.version
                verdict = guard.judge_untrusted(whole, sender, 0.0)
                source = whole[26:30] if whole[12:14] == b"\x08\0" else whole[22:38]
                if guard.version == version:
                    key = (number, sender, whole[:15], source, version)
                    assert verdicts.setdefault(key, verdict) is verdict, whole.hex()
    assert plain > 5_000
    assert pings > 1_000
    assert len(set(verdicts.values())) >= 4


# --- the whole switch, over either way --------------------------------------------------------------------------------


@attrs.define
class Sink:
    datagram_budget: int

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        raise AssertionError("the test looks at the deliveries")


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


STRICT = RoomPolicy()


class Room:
    """A room whose members are numbers: 0 is the gateway."""

    def __init__(self, *, short_ways: bool, fragments: bool = True, policy: RoomPolicy = STRICT) -> None:
        self.hub: Hub[object] = Hub(rooms=Rooms(RoomLimits(fragments=fragments)), guards=GuardSettings(policy))
        self.short_ways = short_ways
        self.now = 1.0
        self.members: dict[int, Joined] = {}

    def join(self, number: int, budget: int) -> Port:
        hello = Hello(
            version=PROTOCOL,
            role=Role.CLIENT if number else Role.GATEWAY,
            room="R",
            virtual_mac=mac(number).hex(":") if number else None,
            datagram_budget=budget,
            display_name="",
            software="",
        )
        joined = self.hub.join(hello, None, Sink(budget), "")
        assert isinstance(joined, Joined)
        joined.switch.short_ways = self.short_ways
        self.members[number] = joined
        return joined.port

    def leave(self, number: int) -> None:
        self.hub.leave(self.members.pop(number))

    def send(self, number: int, datagrams: list[bytes]) -> dict[int, list[bytes]]:
        joined = self.members[number]
        deliveries = joined.switch.receive_untrusted(joined.port, datagrams, self.now)
        return {port.member.peer_id: batch for port, batch in deliveries.items() if batch}

    def stamped(self, number: int, *datagrams: bytes) -> list[bytes]:
        """Whole frames as they leave, sent by ``number``."""
        return [overlay(datagram[4:], self.members[number].port.member.peer_id) for datagram in datagrams]

    def counters(self) -> dict[int, dict[str, int]]:
        return {number: joined.port.total().as_dict() for number, joined in self.members.items()}

    def decoded(self) -> dict[int, dict[str, int]]:
        return {number: joined.port.decoder.counters.as_dict() for number, joined in self.members.items()}


def read(deliveries: dict[int, list[bytes]]) -> dict[int, tuple[int, list[tuple[int, bytes]]]]:
    """What each receiver makes of its datagrams. The ids of frames in pieces may be dealt out in another order."""
    decoders = {peer: OverlayDecoder(Reassembler(), OverlayCounters()) for peer in deliveries}
    return {peer: (len(batch), decoders[peer].decode_untrusted(batch, 1.0)[0]) for peer, batch in deliveries.items()}


PACKETS = [(payload, ethertype) for payload, ethertype, *_ in (*BAD.values(), *GOOD.values()) if len(payload) < 400]
SOURCES4 = [PLAYER4, PLAYER4, PLAYER4, OTHER4, ROUTER, bytes((10, 0, 0, 77)), b"\xa9\xfe\x01\x07"]
SOURCES6 = [link_local(number) for number in (2, 2, 3, 1, 77)]
POLICIES = [RoomPolicy(), RoomPolicy(), RoomPolicy(isolated=True), RoomPolicy(link_local_ipv4=False)]
POLICIES += [RoomPolicy(level=Level.STANDARD), RoomPolicy(level=Level.OFF)]


def plain_packets(source4: bytes, source6: bytes) -> list[tuple[bytes, int]]:
    return [
        (ipv4(udp(27005, 27015, bytes(80)), fragment=0x4000, source=source4), IPV4),
        (ipv4(tcp(1400), protocol=6, source=source4), IPV4),
        (ipv6(tcp(1400), 6, source=source6), IPV6),
        (ipv6(udp(1000, 2000), 17, source=source6), IPV6),
        (ipv4(udp(1000, 2000), source=source4) + bytes(18), IPV4),
        (ipv4(icmp(8, size=64), protocol=1, source=source4), IPV4),
        (ipv4(icmp(0, size=64), protocol=1, source=source4), IPV4),
    ]


@st.composite
def other_icmp(draw: st.DrawFn) -> tuple[bytes, int]:
    """ICMP of any type, most of which are not plain: behind the heads and from the addresses of those that are."""
    message = icmp(draw(st.integers(0, 255)), draw(st.integers(0, 255)), draw(st.sampled_from((4, 8, 64))))
    fragment = draw(st.sampled_from((0, 0, 0x4000, 0x2000, 1)))
    return ipv4(message, protocol=1, fragment=fragment, source=draw(st.sampled_from(SOURCES4))), IPV4


def telling(draw: st.DrawFn, number: int) -> bytes:
    """A frame that changes what the guard knows of addresses."""
    own, other = mac(number), mac(draw(st.integers(1, 3)))
    address, source6 = draw(st.sampled_from(SOURCES4)), draw(st.sampled_from(SOURCES6))
    if not number:
        frames = [
            *[ack(other, address, draw(st.sampled_from((5, LEASE))))] * 3,
            nak(other),
            house_arp(address),
            advertisement(source6),
            ethernet(ipv6(nd(136, source6), 58, source=source6), IPV6, source=HOUSE),
        ]
    else:
        frames = [
            request(own, options=option(50, address)),
            request(own, kind=7, source=address, ciaddr=address),
            ethernet(arp(1, address, own), ARP, source=own),
            ethernet(arp(1, bytes(4), own, address), ARP, source=own),
            ethernet(ipv6(nd(135, source6), 58, source=bytes(16)), IPV6, source=own),
        ]
    return draw(st.sampled_from(frames))


@st.composite
def batches(draw: st.DrawFn, number: int) -> list[bytes]:
    own = mac(number) if number else HOUSE
    batch: list[bytes] = []
    for _ in range(draw(st.integers(1, 6))):
        plain = plain_packets(draw(st.sampled_from(SOURCES4)), draw(st.sampled_from(SOURCES6)))
        packets = st.one_of(st.sampled_from(plain), st.sampled_from(plain), st.sampled_from(PACKETS), other_icmp())
        payload, ethertype = draw(packets)
        source = draw(st.sampled_from((own, own, own, own, mac(1), HOUSE)))
        destination = draw(st.sampled_from((mac(1), mac(2), mac(3), HOUSE, BROADCAST)))
        frame = bytearray(ethernet(payload, ethertype, source=source, destination=destination))
        stamp = draw(st.sampled_from((0, 0, FLAGS, 1, FLAGS | 2, 0x020000)))
        for serial in range(draw(st.sampled_from((1, 1, 2, 5, 40)))):
            frame[18:20] = serial.to_bytes(2, "big")  # IPv4's identification; IPv6's payload length
            batch.append(overlay(bytes(frame), stamp))
        match draw(st.integers(0, 11)):
            case 0:
                batch += OverlayEncoder(500).encode(bytes(frame), stamp)
            case 1:
                batch.append(encode_echo(Echo(0, reply=False, target=0, sequence=1, sent_us=1)))
            case 2:
                batch.append(draw(st.binary(max_size=70)))
            case 3:
                batch.append(overlay(bytes(frame) + bytes(200), stamp))
            case 4:
                batch.append(overlay(bytes(frame[: draw(st.integers(0, len(frame)))]), stamp))
            case 5 | 6:
                batch.append(overlay(telling(draw, number)))
    return batch


@given(st.data(), st.booleans(), st.sampled_from(POLICIES))
@settings(max_examples=250, deadline=None)
def test_the_short_way_does_what_the_long_way_does(data: st.DataObject, fragments: bool, policy: RoomPolicy) -> None:
    """Frames, joining, leaving, leases, claims, contradiction, storms and time, in any order."""
    short, long = (Room(short_ways=ways, fragments=fragments, policy=policy) for ways in (True, False))
    for room in (short, long):
        room.join(1, 1442)
        room.join(0, 1442)
    for _ in range(data.draw(st.integers(2, 12))):
        number = data.draw(st.integers(0, 3))
        if number not in short.members:
            budget = data.draw(st.sampled_from((1442, 1500, 1600) if not fragments else (256, 1170, 1442, 1600)))
            for room in (short, long):
                room.join(number, budget)
        elif data.draw(st.integers(0, 7)) == 0 and len(short.members) > 1:
            for room in (short, long):
                room.leave(number)
            continue
        batch = data.draw(batches(number))
        short.now = long.now = short.now + data.draw(st.sampled_from((0.0, 0.0, 0.1, 3.0, 40.0, 301.0)))
        for _ in range(2):  # once to learn, once to know
            assert read(short.send(number, batch)) == read(long.send(number, batch))
        assert short.counters() == long.counters()
        assert short.decoded() == long.decoded()


def game(destination: bytes = mac(2), **fields: object) -> bytes:
    return ethernet(ipv4(udp(27005, 27015), **fields), IPV4, source=mac(1), destination=destination)


def game_of(number: int, destination: bytes) -> bytes:
    packet = ipv4(udp(27005, 27015), source=bytes((10, 0, 1, number)))
    return ethernet(packet, IPV4, source=mac(number), destination=destination)


@pytest.fixture
def room() -> Room:
    made = Room(short_ways=True)
    for number in (1, 2, 3):
        made.join(number, 1442)
    return made


def test_a_run_is_stamped_and_keeps_its_flags(room: Room) -> None:
    one, two = (room.members[number].port.member.peer_id for number in (1, 2))
    batch = [overlay(game(), FLAGS | 77)] * 3
    for _ in range(2):
        assert room.send(1, batch) == {two: [overlay(game(), FLAGS | one)] * 3}
    assert list(room.members[1].port.ways)


def test_what_came_rightly_stamped_leaves_without_a_copy(room: Room) -> None:
    one, two = (room.members[number].port.member.peer_id for number in (1, 2))
    datagram = overlay(game(), one)
    room.send(1, [datagram])
    assert room.send(1, [datagram])[two][0] is datagram


def test_receivers_share_the_bytes_of_a_run(room: Room) -> None:
    batch = [overlay(game(destination=BROADCAST))] * 2
    room.send(1, batch)
    first, second = room.send(1, batch).values()
    assert all(a is b for a, b in zip(first, second, strict=True))


def test_ways_are_forgotten_when_members_come_and_go(room: Room) -> None:
    port = room.members[1].port
    for change in (lambda: room.leave(3), lambda: room.join(3, 1442)):
        room.send(1, [overlay(game())])
        assert port.ways
        change()
        assert not port.ways
    room.leave(2)
    assert room.send(1, [overlay(game())]) == {}


def blocked(room: Room, number: int) -> dict[str, int]:
    return {name: count for name, count in room.counters()[number].items() if name.startswith("blocked.")}


def test_a_way_is_for_the_source_addresses_that_passed(room: Room) -> None:
    first, second = (overlay(game(source=source)) for source in (PLAYER4, b"\xa9\xfe\x01\x07"))
    foreign = overlay(game(source=OTHER4))
    room.send(2, [overlay(ethernet(arp(1, OTHER4, mac(2)), ARP, source=mac(2)))])
    for _ in range(3):
        assert len(room.send(1, [first, second, first, foreign])[2]) == 3
    assert blocked(room, 1) == {"blocked.ipv4-source": 3}
    (way,) = room.members[1].port.ways.values()
    assert way.sources == {int.from_bytes(PLAYER4), 0xA9FE0107}


@pytest.mark.parametrize("opened_by", [icmp(8), udp(27005, 27015)], ids=["an echo", "a game"])
def test_a_way_is_for_echoes_and_for_no_other_icmp(room: Room, opened_by: bytes) -> None:
    def ping(kind: int, source: bytes = PLAYER4) -> bytes:
        packet = ipv4(icmp(kind, size=64), protocol=1, source=source)
        return overlay(ethernet(packet, IPV4, source=mac(1), destination=mac(2)))

    opener = ipv4(opened_by, protocol=1 if len(opened_by) == 8 else 17, source=PLAYER4)
    room.send(2, [overlay(ethernet(arp(1, OTHER4, mac(2)), ARP, source=mac(2)))])
    room.send(1, [overlay(ethernet(opener, IPV4, source=mac(1), destination=mac(2)))])
    way = list(room.members[1].port.ways.values())
    assert len(way) == 1
    assert room.send(1, [ping(8), ping(5), ping(0), ping(9), ping(8, OTHER4)]) == {2: room.stamped(1, ping(8), ping(0))}
    assert blocked(room, 1) == {"blocked.routing": 2, "blocked.ipv4-source": 1}
    assert list(room.members[1].port.ways.values()) == way


def test_a_way_ends_with_the_lease(room: Room) -> None:
    room.join(0, 1442)
    room.send(0, [overlay(ack(mac(1), PLAYER4, seconds=100))])
    batch = [overlay(game(source=PLAYER4))] * 3
    assert len(room.send(1, batch)[2]) == 3
    room.now += 100
    assert len(room.send(1, batch)[2]) == 3
    room.now += 30
    assert room.send(1, batch) == {}
    assert blocked(room, 1) == {"blocked.ipv4-source": 3}


def test_a_way_that_ended_passes_none_of_its_sources_on(room: Room) -> None:
    room.join(0, 1442)
    room.send(0, [overlay(ack(mac(1), PLAYER4, seconds=100))])
    leased, auto = (overlay(game(source=source)) for source in (PLAYER4, b"\xa9\xfe\x01\x07"))
    assert len(room.send(1, [leased])[2]) == 1
    room.now += 130
    for _ in range(2):
        assert len(room.send(1, [auto, leased])[2]) == 1


def test_a_way_ends_in_the_middle_of_a_batch_when_the_member_gives_its_address_up(room: Room) -> None:
    room.join(0, 1442)
    room.send(0, [overlay(ack(mac(1), PLAYER4)), overlay(ack(mac(3), OTHER4))])
    packet = overlay(game(source=PLAYER4))
    room.send(1, [packet])
    release = overlay(request(mac(1), kind=7, source=PLAYER4, ciaddr=PLAYER4))
    room.send(1, [packet, packet, release])
    assert room.send(3, [overlay(game(source=PLAYER4))]) == {}
    room.send(0, [overlay(ack(mac(2), PLAYER4))])
    assert room.send(1, [packet]) == {}
    assert blocked(room, 1) == {"blocked.ipv4-source": 1}


def test_a_way_ends_within_a_batch_that_takes_its_address_away(room: Room) -> None:
    """A fifth static address is taken for the first: what follows in the same batch is judged anew."""
    oldest, *others, fifth = (overlay(game(source=bytes((10, 0, 9, number)))) for number in range(5))
    assert len(room.send(1, [oldest, *others])[2]) == 4
    room.now += 10  # one more may be taken
    assert len(room.send(1, [oldest, fifth, oldest, fifth])[2]) == 3
    assert blocked(room, 1) == {"blocked.ipv4-source": 1}


def test_what_a_member_had_is_free_some_time_after_it_left(room: Room) -> None:
    assert room.send(1, [overlay(game(source=ROUTER))])
    foreign = overlay(ethernet(ipv4(udp(1, 2), source=ROUTER), IPV4, source=mac(2), destination=mac(3)))
    room.leave(1)
    assert room.send(2, [foreign]) == {}
    room.now += 60
    assert len(room.send(2, [foreign])) == 1


def test_a_way_ends_when_the_house_contradicts(room: Room) -> None:
    room.join(0, 1442)
    packet = overlay(game(source=ROUTER))
    for _ in range(2):
        assert len(room.send(1, [packet] * 5)[2]) == 5
    room.send(0, [overlay(house_arp(ROUTER))])
    assert room.send(1, [packet] * 5) == {}


def test_a_way_that_was_made_anew_has_no_source_of_before(room: Room) -> None:
    room.join(0, 1442)
    static, auto = (overlay(game(source=source)) for source in (ROUTER, b"\xa9\xfe\x01\x07"))
    assert len(room.send(1, [static, auto])[2]) == 2
    room.send(0, [overlay(house_arp(ROUTER))])
    for _ in range(2):
        assert len(room.send(1, [auto, static])[2]) == 1


def test_a_way_ends_when_the_room_is_guarded_otherwise(room: Room) -> None:
    room.send(1, [overlay(game())])
    room.hub.guard_by(GuardSettings(RoomPolicy(isolated=True)))
    assert room.send(1, [overlay(game())] * 3) == {}
    assert blocked(room, 1) == {"blocked.isolation": 3}


def test_there_is_no_way_to_a_machine_that_nobody_has_seen(room: Room) -> None:
    room.join(0, 1442)
    port = room.members[1].port
    packet = overlay(game(destination=HOUSE))
    assert len(room.send(1, [packet] * 600)[4]) == 500
    assert blocked(room, 1) == {"blocked.storm": 100}
    assert not port.ways
    room.send(0, [overlay(house_arp(ROUTER))])
    for _ in range(2):
        assert len(room.send(1, [packet] * 600)[4]) == 600
    assert port.ways
    room.now += 300
    assert len(room.send(1, [packet] * 600)[4]) == 500


def test_a_machine_that_is_on_a_way_stays_known(room: Room) -> None:
    room.join(0, 1442)
    answer = overlay(ethernet(ipv4(udp(27015, 27005), source=ROUTER), IPV4, source=HOUSE, destination=mac(1)))
    for _ in range(5):
        room.send(0, [answer])
        room.now += 200
    assert len(room.send(1, [overlay(game(destination=HOUSE))] * 600)[4]) == 600


@pytest.mark.parametrize("short_ways", [True, False])
def test_a_flood_of_broadcasts_is_cut_to_what_storm_control_lets_out(short_ways: bool) -> None:
    room = Room(short_ways=short_ways)
    for number in (0, 1, 2, 3):
        room.join(number, 1442)
    batch = [overlay(game(destination=BROADCAST))] * 500
    got = [len(copies) for _ in range(10) for copies in room.send(1, batch).values()]
    assert got == [400] * 3
    assert blocked(room, 1) == {"blocked.storm": 4600}
    room.now += 1
    assert {len(copies) for copies in room.send(1, batch).values()} == {200}
    assert {len(copies) for copies in room.send(2, [overlay(game_of(2, BROADCAST))] * 10).values()} == {10}


@pytest.mark.parametrize("level", [Level.STANDARD, Level.OFF])
def test_below_strict_nothing_is_limited(level: Level) -> None:
    room = Room(short_ways=True, policy=RoomPolicy(level=level))
    for number in (0, 1, 2, 3):
        room.join(number, 1442)
    for destination in (BROADCAST, HOUSE):
        batch = [overlay(game(destination=destination))] * 2000
        for _ in range(2):
            assert {len(copies) for copies in room.send(1, batch).values()} == {2000}
    assert len(room.members[1].port.ways) == 2


def test_a_member_that_comes_home_closes_the_way_of_the_house(room: Room) -> None:
    room.join(0, 1442)
    frame = ethernet(ipv4(udp(1, 2)), IPV4, source=mac(9), destination=mac(1))
    assert len(room.send(0, [overlay(frame)])) == 1
    room.join(9, 1442)
    assert room.send(0, [overlay(frame)] * 2) == {}
    assert room.counters()[0]["blocked.member-on-lan"] == 2


def test_ways_are_bounded(room: Room) -> None:
    room.join(0, 1442)
    port = room.members[0].port
    for number in range(2 * MAX_WAYS + 10):
        source = b"\x3c\x97\x0e\x12" + number.to_bytes(2, "big")
        room.send(0, [overlay(ethernet(ipv4(udp(1, 2)), IPV4, source=source, destination=mac(1)))])
        assert len(port.ways) <= MAX_WAYS
    assert port.tally.frames_in == 2 * MAX_WAYS + 10


def test_nothing_is_learned_while_frames_are_logged(room: Room) -> None:
    class Watch:
        def frames(self, frames: object, peer: int | None, action: str) -> None:
            seen.append(action)

    seen: list[str] = []
    room.members[1].switch.watch = Watch()
    for _ in range(2):
        room.send(1, [overlay(game())])
    assert seen == ["forwarded"] * 2
    assert not room.members[1].port.ways
