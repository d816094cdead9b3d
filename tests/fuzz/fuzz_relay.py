"""Fuzz targets for the relay: the guard with its memory, storm control, the switch over both its ways; and a gateway's
own table. An input is a row of things that happen in one room: frames as they are, frames of the kinds that the guard
remembers something of (so that mutations reach deep states), time, members who leave and come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
from dhcp_frames import bootp
from fuzz_input import Input, chunk
from proto_corpus import ip_frames, link_frames
from relay_packets import IPV6, ethernet, icmpv6, udp

from lanparty.client.homecoming import Homecoming
from lanparty.ctrl.messages import PROTOCOL, Hello, Member, Role
from lanparty.gateway.loop import MAX_OTHERS, LoopWatch
from lanparty.gateway.members import MAX_PROBES, MAX_PROVISIONAL, RemoteMembers
from lanparty.guard import bindings
from lanparty.guard.bindings import Bindings
from lanparty.guard.guard import Guard
from lanparty.guard.levels import GuardSettings, Level, RoomPolicy
from lanparty.guard.plain import HEAD_SIZE, shape_of
from lanparty.guard.rules import Rule
from lanparty.proto.probe import MAX_LISTED, encode_probe, parse_probe_untrusted
from lanparty.relay.hub import Hub, Joined
from lanparty.relay.rooms import RoomLimits, Rooms
from lanparty.relay.storm import StormControl, Traffic, traffic_of_untrusted
from lanparty.relay.switch import MAX_LAN_SOURCES, MAX_WAYS, Deliveries, Port

HOUSE = bytes.fromhex("3c970e123456")
EVERYONE = b"\xff" * 6
START = 1000.0


def mac_of(number: int) -> bytes:
    """Clients 1 to 3; 0 is the gateway."""
    return bytes((2, 0, 0, 0, 0, number)) if number else b""


def ipv4_address(number: int) -> bytes:
    """Few addresses, so that they are often the same: of a house, a link, nobody."""
    number &= 7
    return bytes((169, 254, 1, number)) if number == 7 else bytes((192, 168, 77, number)) if number else bytes(4)


def ipv6_address(number: int) -> bytes:
    number &= 7
    return bytes.fromhex("fe80") + bytes(13) + bytes((number,)) if number else bytes(16)


# -- frames that the guard learns from ---------------------------------------------------------------------------------


def built(source: Input, member: int) -> bytes:
    """A frame of ``member``, of a kind and with fields that the input chooses."""
    kind, fields = source.byte(), source.byte()
    own = mac_of(member) or HOUSE
    first, second = ipv4_address(fields), ipv4_address(fields >> 3)
    match kind % 10:
        case 0:
            return source.chunk()[:1514]
        case 1:
            operation = 1 + (fields >> 6 & 1)
            claimed = own if fields < 0x80 else mac_of(1 + (fields & 1))
            arp = b"\0\1\x08\0\6\4" + operation.to_bytes(2) + claimed + first + bytes(6) + second
            return ethernet(arp, 0x0806, source=own, destination=EVERYONE if fields & 1 else mac_of(1))
        case 2:
            destination = mac_of(1 + (fields & 3)) if fields & 0x40 else HOUSE
            return ethernet(_ip(udp(6112, 6112), 17, first, second), 0x0800, source=own, destination=destination)
        case 3:
            message = bytes((1, 3, 4, 7, 8, 1, 3, 3)[fields >> 5 :][:1])
            return _dhcp(own, own, 1, message, b"\0\0\0\0" if fields & 8 else first, first, fields & 3)
        case 4:
            message = bytes((2, 5, 5, 6)[fields >> 6 :][:1])
            whose = mac_of(1 + (fields >> 3 & 3))
            return _dhcp(own, whose, 2, message, ipv4_address(1), first, fields & 3, source.number(2))
        case 5:
            about = (1, 2, 3, 4)[fields >> 6] + 132
            option = (b"\1\1" if about == 135 else b"\2\1") + own
            target = ipv6_address(fields >> 3)
            body = bytes(4) + target + (option if fields & 0x20 else b"")
            return _ipv6(own, icmpv6(about, body), ipv6_address(fields))
        case 6:
            return _ipv6(own, udp(546, 547), ipv6_address(fields), 17)
        case 7:
            inner = source.chunk()[:200]
            return _ipv6(own, inner, ipv6_address(fields), fields)
        case 8:
            return ethernet(_ip(source.chunk()[:200], fields, first, second), 0x0800, source=own, destination=EVERYONE)
        case _:
            return EVERYONE + own + source.chunk()[:200]


def _ip(payload: bytes, protocol: int, source: bytes, target: bytes) -> bytes:
    total = (20 + len(payload)).to_bytes(2)
    return b"\x45\0" + total + b"\0\1\0\0\x40" + bytes((protocol,)) + b"\0\0" + source + target + payload


def _ipv6(own: bytes, payload: bytes, source: bytes, upper: int = 58) -> bytes:
    head = b"\x60\0\0\0" + len(payload).to_bytes(2) + bytes((upper, 255)) + source + b"\xff\x02" + bytes(13) + b"\x01"
    return ethernet(head + payload, IPV6, source=own, destination=bytes.fromhex("333300000001"))


def _dhcp(
    own: bytes, whose: bytes, op: int, message: bytes, source: bytes, about: bytes, xid: int, seconds: int = 60
) -> bytes:
    options = [(53, message), (54, ipv4_address(1)), (50, about), (51, seconds.to_bytes(4)), (1, b"\xff\xff\xff\0")]
    text = ".".join(map(str, about))
    payload = bootp(options, xid=xid, address=text if op == 2 else "0.0.0.0", mac=whose, op=op)
    ports = (68, 67) if op == 1 else (67, 68)
    return ethernet(_ip(udp(*ports, payload), 17, source, b"\xff" * 4), 0x0800, source=own, destination=EVERYONE)


# -- the guard ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Sender:
    mac: bytes
    is_gateway: bool


def guard(data: bytes) -> None:
    """Frames, members and times: a verdict for each, the same again for one that nothing was learnt from, and tables
    that hold together and stay within their bounds."""
    source = Input(data)
    head = source.byte()
    policy = RoomPolicy(
        level=(Level.STRICT, Level.STRICT, Level.STANDARD, Level.OFF)[head & 3],
        isolated=bool(head & 4),
        ipv6_routing=bool(head & 8),
        link_local_ipv4=not head & 16,
        ethertypes=frozenset({0x88B5}) if head & 32 else frozenset(),
    )
    present = {mac_of(1): None, mac_of(2): None, mac_of(3): None}
    judge = Guard(policy, 1000 if head & 64 else 1500, present)
    now, version = START, 0
    while source:
        action = source.byte()
        number = action & 3
        sender = _Sender(mac_of(number), number == 0)
        match action >> 2 & 15:
            case 0:
                now += source.byte() ** 2 / 4
                continue
            case 1 if number:
                if sender.mac in present:
                    del present[sender.mac]
                    judge.member_left(sender)
                else:
                    present[sender.mac] = None
                continue
            case 2:
                judge.change(attrs.evolve(policy, level=(Level.STRICT, Level.STANDARD, Level.OFF)[number % 3]))
                continue
            case _:
                pass
        if number and sender.mac not in present:
            continue
        frame = built(source, number)
        verdict = judge.judge_untrusted(frame, sender, now)
        assert verdict is None or isinstance(verdict, Rule)
        assert judge.version >= version
        version = judge.version
        assert judge.holds_until(sender, now) > now
        if verdict is None:
            _passed(judge, frame, sender)
        _consistent(judge.bindings, present)


def _passed(judge: Guard, frame: bytes, sender: _Sender) -> None:
    """What holds for each frame that passes, at every level."""
    assert len(frame) >= 14
    assert sender.is_gateway or frame[6:12] == sender.mac
    assert not frame[6] & 1
    assert frame[:6] != bytes(6)
    if judge.is_strict:
        assert int.from_bytes(frame[12:14]) not in (0x8100, 0x88A8, 0x9100)
    for known in (True, False):
        kind = traffic_of_untrusted(frame, known=known)
        assert kind is None or isinstance(kind, Traffic)
        assert known or kind is not None or not frame[0] & 1


def _consistent(table: Bindings, present: dict[bytes, None]) -> None:
    assert len(table._house) <= bindings.MAX_HOUSE
    assert len(table._reserved) <= bindings.MAX_RESERVED
    assert len(table._away) <= bindings.MAX_AWAY
    assert len(table._members) <= len(present) + len(table._away)
    holders = 0
    for mac, member in table._members.items():
        assert len(member.taken4) <= bindings.MAX_IPV4
        assert len(member.taken6) <= bindings.MAX_IPV6
        mine = [*member.taken4, *member.taken6, *([member.lease] if member.lease else [])]
        assert len(set(mine)) == len(mine)
        assert all(table._holders[address] is member for address in mine)
        assert (mac in table._away) == (member.left is not None)
        holders += len(mine)
    assert len(table._holders) == holders


def _row(*steps: bytes, head: int = 0) -> bytes:
    return bytes((head,)) + b"".join(steps)


def _step(member: int, kind: int, fields: int, more: bytes = b"") -> bytes:
    return bytes((0x3C | member, kind, fields)) + more


def guard_seeds() -> Iterator[bytes]:
    for frame in (*ip_frames(), *link_frames()):
        raw = chunk(mac_of(2) + mac_of(1) + frame[12:])
        yield _row(_step(1, 0, 0, raw), _step(0, 0, 0, raw))
        yield _row(_step(1, 0, 0, raw), _step(0, 0, 0, raw), head=2)
    ask, give, refuse = _step(1, 3, 0x2A), _step(0, 4, 0x42, b"\0\x3c"), _step(0, 4, 0xC2, b"\0\0")
    use, other = _step(1, 2, 0x02), _step(2, 2, 0x02)
    later, leaves = bytes((0, 40)), bytes((0x05,))
    yield _row(ask, give, use, other, later, use, other)
    yield _row(use, ask, refuse, use, other, leaves, later, other)
    yield _row(ask, give, ask, refuse, use, _step(1, 2, 3), _step(1, 3, 0x2B), _step(0, 4, 0xC3, b"\0\0"), leaves)
    yield _row(*(_step(1, 1, fields) for fields in range(8)), leaves, later, *(_step(2, 1, n) for n in range(8)))
    yield _row(
        *(_step(1, 5, 0x80 | 8 * n | n) for n in range(8)), _step(0, 5, 0x20), _step(2, 5, 0x89), _step(0, 5, 0xA3)
    )
    yield _row(_step(0, 1, 3), use, _step(1, 6, 1), _step(1, 7, 17, chunk(bytes(12))), _step(1, 8, 2, chunk(bytes(12))))
    yield _row(
        _step(3, 9, 0, chunk(b"\x81\0\0\0\x08\6")), bytes((0x08,)), bytes((0x09,)), bytes((0x0A,)), use, head=0x7C
    )


# -- the switch --------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Outlet:
    datagram_budget: int

    def send_datagrams(self, _datagrams: object) -> None:
        """The result is compared, not sent."""


class _Room:
    """A gateway and three clients on one switch."""

    def __init__(self, policy: RoomPolicy, *, short_ways: bool, fragments: bool) -> None:
        self.hub: Hub[object] = Hub(Rooms(RoomLimits(fragments=fragments)), guards=GuardSettings(policy))
        self.joined: dict[int, Joined] = {}
        self.short_ways = short_ways
        for number in range(4):
            self.join(number)

    def join(self, number: int) -> None:
        mac = mac_of(number).hex(":") if number else None
        role = Role.CLIENT if number else Role.GATEWAY
        budget = (1442, 1442, 600, 1170)[number]
        hello = Hello(PROTOCOL, role, "ROOM1", mac, budget, "", "")
        joined = self.hub.join(hello, object(), _Outlet(budget), "192.0.2.1:1")
        if isinstance(joined, Joined):
            joined.switch.short_ways = self.short_ways
            self.joined[number] = joined

    def leave(self, number: int) -> None:
        self.hub.leave(self.joined.pop(number))

    def receive(self, number: int, datagrams: list[bytes], now: float) -> Deliveries:
        joined = self.joined[number]
        return joined.switch.receive_untrusted(joined.port, datagrams, now)

    def shown(self, deliveries: Deliveries) -> dict[int, list[bytes]]:
        return {port.member.peer_id: datagrams for port, datagrams in deliveries.items()}

    def counted(self) -> dict[str, int]:
        return self.hub.total().as_dict()


def switch(data: bytes) -> None:
    """The same row of batches over the short ways and without them: same deliveries, same counters; and never back to
    the sender, never more than a budget."""
    source = Input(data)
    head = source.byte()
    policy = RoomPolicy(
        level=(Level.STRICT, Level.STRICT, Level.STANDARD, Level.OFF)[head & 3], isolated=bool(head & 4)
    )
    rooms = [_Room(policy, short_ways=short, fragments=not head & 8) for short in (True, False)]
    now = START
    while source:
        action = source.byte()
        number = action & 3
        if action & 0xC0 == 0xC0:
            if number in rooms[0].joined and len(rooms[0].joined) > 1:
                for room in rooms:
                    room.leave(number)
            else:
                for room in rooms:
                    room.join(number)
            continue
        if action & 0x80:
            now += source.byte() ** 2 / 100
        if number not in rooms[0].joined:
            continue
        if action & 0x40:
            batch = [source.chunk()[:1600] for _ in range(1 + (action >> 2 & 3))]
        else:
            frames = [built(source, number) for _ in range(1 + (action >> 2 & 3))]
            stamp = b"\x10\x01\0\0" if action & 0x10 else b"\x10\0\0\0"
            batch = [stamp + frame for frame in frames] * (1 + 7 * (action >> 5 & 1))
        results = [room.receive(number, batch, now) for room in rooms]
        assert rooms[0].shown(results[0]) == rooms[1].shown(results[1])
        for port, datagrams in results[0].items():
            _checked(port, datagrams, rooms[0].joined[number].port)
        assert rooms[0].counted() == rooms[1].counted()
    for joined in rooms[0].joined.values():
        assert len(joined.port.ways) <= MAX_WAYS
        assert len(joined.switch._lan) <= MAX_LAN_SOURCES


def _checked(port: Port, datagrams: list[bytes], sender: Port) -> None:
    assert all(len(datagram) <= port.outlet.datagram_budget for datagram in datagrams)
    echo = [datagram for datagram in datagrams if datagram[0] & 15 == 2]
    assert port is not sender or len(echo) == len(datagrams)
    origin = sender.member.peer_id.to_bytes(2)
    assert all(datagram[2:4] in (origin, b"\0\0") for datagram in datagrams)
    for datagram in datagrams:
        shape_of(datagram[:HEAD_SIZE])


def switch_seeds() -> Iterator[bytes]:
    def batch(member: int, *frames: bytes, flags: int = 0) -> bytes:
        return bytes((member | flags | len(frames) - 1 << 2,)) + b"".join(frames)

    game, house = b"\x02\x4a", b"\x02\x02"
    yield (
        b"\0"
        + batch(1, game) * 2
        + batch(1, game, game, flags=0x20)
        + b"\xc2"
        + batch(1, game)
        + b"\xc2"
        + batch(1, game)
    )
    yield b"\0" + batch(1, house) * 2 + batch(0, b"\x01\x05") + batch(1, house, flags=0x20) + b"\xc0" + batch(1, house)
    yield b"\4" + batch(1, game) * 2 + batch(0, b"\x02\x48") * 3
    yield b"\2" + batch(1, b"\x01\x03", b"\x03\x2a") + batch(0, b"\x04\x42\0\x3c") + batch(1, b"\x02\x02") * 3
    yield (
        b"\0"
        + batch(1, b"\x03\x2a")
        + batch(0, b"\x04\x42\0\x02")
        + batch(1, b"\x02\x42") * 3
        + b"\x81\x5a\x02\x42" * 2
    )
    yield b"\3" + b"\x41" + chunk(b"\x12\0\0\0\0\2" + bytes(12)) + b"\x41" + chunk(b"\x12\0\0\0\0\0" + bytes(12))
    yield (
        b"\x0b\x49" + chunk(b"\x11\0\0\0\0\1\0\2" + mac_of(2) + mac_of(1)) + chunk(b"\x11\0\0\0\0\1\1\2" + bytes(12))
    )
    yield (
        b"\3"
        b"\x41"
        + chunk(b"\x10\0\0\0" + mac_of(2) + mac_of(1) + bytes(1400))
        + b"\x40"
        + chunk(b"\x10\0\0\0" + bytes(14))
    )


# -- storm control -----------------------------------------------------------------------------------------------------


def storm(data: bytes) -> None:
    """Members come, send and go: never more goes out than was asked for, and in time everybody may send again."""
    source = Input(data)
    control = StormControl()
    members = [control.join(house=True), control.join()]
    kinds = list(Traffic)
    now = START
    while source:
        action = source.byte()
        if action >= 0xF0 and len(members) < 8:
            members.append(control.join())
        elif action >= 0xE0 and len(members) > 1:
            control.leave(members.pop(1))
        else:
            now += source.byte() / 50
            member, kind = members[action % len(members)], kinds[(action >> 3) % len(kinds)]
            copies, count = source.byte() % 33, source.number(2)
            allowed = control.admit(member, kind, copies, count, now)
            assert 0 <= allowed <= count
        assert len(control._members) == len(members)
    for member in members:
        assert control.admit(member, Traffic.ARP, 1, 1, now + 3600) == 1
    for member in members:
        control.leave(member)
    assert not control._members


def storm_seeds() -> Iterator[bytes]:
    yield b"".join(bytes((kind * 8 + member, 1, 20, 1, 0)) for kind in range(6) for member in range(2))
    yield b"\xf0\xf0" + b"".join(bytes((n, 0, 32, 0xFF, 0xFF)) for n in range(20)) + b"\xe0\xe0\x00\xff\x01\x00\x05"


# -- a gateway ---------------------------------------------------------------------------------------------------------


def house(data: bytes) -> None:
    """What a gateway believes of its relay and of its LAN: frames both ways, members, time, probes."""
    source = Input(data)
    table = RemoteMembers(own_mac=HOUSE)
    watch = LoopWatch(b"ourselfs")
    home = Homecoming(bytes((2, 0, 0, 0, 0, 7)))
    now = START
    actions: dict[int, Callable[[int], object]] = {
        1: lambda peer: table.joined(
            Member(1 + peer, Role.CLIENT, (bytes((peer & 2, 0, 0, 0, 0)) + b"\7").hex(":"), "")
        ),
        2: lambda peer: table.left(1 + peer),
        3: lambda _peer: table.expire(now),
        4: lambda _peer: table.replace(()),
        5: lambda _peer: watch.soon(now),
        6: lambda _peer: watch.take(table.announced, now),
    }
    while source:
        action, peer = source.byte(), source.byte()
        if action & 7 in actions:
            actions[action & 7](peer)
        elif action & 0x80:
            frame = source.chunk()
            frames = [frame] * (1 + (action >> 4 & 7))
            passed = table.to_house_untrusted([(peer, frame) for frame in frames], now)
            assert all(14 <= len(frame) <= 1514 and frame[6:12] in table.macs for frame in passed)
        else:
            frames = [source.chunk().ljust(14, b"\0")] * (1 + (action >> 4 & 3))
            assert not {frame[6:12] for frame in table.to_room(frames)} & table.macs
        now += (action >> 4) / 8
        assert len(table._provisional) <= MAX_PROVISIONAL
        assert len(table.macs) <= len(table._macs) + MAX_PROVISIONAL
        for probe in table.take_probes()[: MAX_PROBES + 1]:
            watch.heard_untrusted(probe, now, from_room=bool(action & 0x80))
            home.heard_untrusted("eth0", probe, now)
            home.look(now)
            _probe(probe)
        assert len(watch._others) <= MAX_OTHERS
        assert watch.next_due() <= now + 70


def _probe(frame: bytes) -> None:
    found = parse_probe_untrusted(frame)
    if found is not None:
        assert len(found.members) <= 255
        again = encode_probe(found.gateway, found.sequence, sorted(found.members))
        if len(found.members) <= MAX_LISTED:
            assert parse_probe_untrusted(again) == found


def house_seeds() -> Iterator[bytes]:
    frame = HOUSE + bytes((2, 0, 0, 0, 0, 7)) + b"\x08\0" + bytes(30)
    yield (
        b"\x01\x02" + b"\xf0\x03" + chunk(frame) + b"\x80\x04" + chunk(frame) + b"\x02\x02" + b"\xf0\x03" + chunk(frame)
    )
    for peer in range(20):
        yield b"".join(
            b"\x80" + bytes((one,)) + chunk(frame[:11] + bytes((one,)) + frame[12:]) for one in range(1, peer, 4)
        )
    for members in ((), (bytes((2, 0, 0, 0, 0, 7)),)):
        probe = encode_probe(b"ourselfs", 1, members)
        yield b"\x06\0" + (b"\x00\0" + chunk(probe)) * 4 + b"\xf6\0" * 6
        yield b"\x06\0" + b"\xf0\x05" + chunk(probe) + b"\x00\0" + chunk(encode_probe(b"somebody", 1, members))
