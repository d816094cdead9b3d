"""The switch: who gets what, never the sender, never another room; pieces, budgets, echoes, counters."""

from __future__ import annotations

import random
from collections.abc import Iterable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_packets import ALL_NODES, BROADCAST, HOUSE, IPV4, ethernet, ipv4, udp

from lanparty.ctrl.messages import PROTOCOL, Hello, Role
from lanparty.guard.guard import Rule
from lanparty.guard.levels import GuardSettings, Level, RoomPolicy
from lanparty.proto.fragments import Reassembler
from lanparty.proto.overlay import Echo, OverlayCounters, OverlayDecoder, OverlayEncoder, encode_echo
from lanparty.relay.hub import Hub, Joined
from lanparty.relay.rooms import RoomLimits, Rooms
from lanparty.relay.switch import ECHO_BURST, ECHO_RATE, MAX_LAN_SOURCES, Drop, Port

MULTICAST = bytes.fromhex("01005e00023c")


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


@attrs.define(eq=False)
class Endpoint:
    """One member, with a far side that encodes and decodes as the uplink does."""

    hub: Hub[object]
    name: str
    room: str = "ROOM1"
    number: int = 0  # 0: the gateway
    datagram_budget: int = 1442
    joined: Joined = attrs.field(init=False)
    decoder: OverlayDecoder = attrs.field(factory=lambda: OverlayDecoder(Reassembler(), OverlayCounters()))
    encoder: OverlayEncoder = attrs.field(init=False)
    received: list[tuple[int, bytes]] = attrs.field(factory=list)
    datagrams: list[bytes] = attrs.field(factory=list)
    echoes: list[Echo] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        hello = Hello(
            version=PROTOCOL,
            role=Role.CLIENT if self.number else Role.GATEWAY,
            room=self.room,
            virtual_mac=mac(self.number).hex(":") if self.number else None,
            datagram_budget=self.datagram_budget,
            display_name=self.name,
            software="test",
        )
        result = self.hub.join(hello, self, self, "192.0.2.1:1")
        assert isinstance(result, Joined)
        self.joined = result
        self.encoder = OverlayEncoder(self.datagram_budget)

    @property
    def port(self) -> Port:
        return self.joined.port

    @property
    def peer_id(self) -> int:
        return self.port.member.peer_id

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        batch = list(datagrams)
        assert all(len(datagram) <= self.datagram_budget for datagram in batch)
        self.datagrams += batch
        frames, echoes = self.decoder.decode_untrusted(batch, 0.0)
        self.received += frames
        self.echoes += echoes

    def send_raw(self, *datagrams: bytes, now: float = 0.0) -> None:
        for port, batch in self.joined.switch.receive_untrusted(self.port, datagrams, now).items():
            port.outlet.send_datagrams(batch)

    def send(self, *frames: bytes, now: float = 0.0) -> None:
        self.send_raw(*(datagram for frame in frames for datagram in self.encoder.encode(frame)), now=now)

    def frame(self, destination: bytes, payload: bytes = b"game", source: bytes | None = None) -> bytes:
        own = mac(self.number) if self.number else HOUSE
        return ethernet(payload, source=source or own, destination=destination)

    def leave(self) -> None:
        self.hub.leave(self.joined)


def party(limits: RoomLimits | None = None, policy: RoomPolicy | None = None) -> tuple[Endpoint, Endpoint, Endpoint]:
    """A gateway and two clients; ``policy`` is for their room only."""
    guards = GuardSettings(rooms={} if policy is None else {"ROOM1": policy})
    hub: Hub[object] = Hub(rooms=Rooms(limits or RoomLimits()), guards=guards)
    return Endpoint(hub, "house"), Endpoint(hub, "ann", number=1), Endpoint(hub, "bob", number=2)


# Who sends, where to, and who gets it.
TABLE = [
    ("ann", BROADCAST, {"house", "bob"}),
    ("ann", MULTICAST, {"house", "bob"}),
    ("ann", ALL_NODES, {"house", "bob"}),
    ("ann", mac(2), {"bob"}),
    ("ann", HOUSE, {"house"}),
    ("ann", mac(99), {"house"}),
    ("house", BROADCAST, {"ann", "bob"}),
    ("house", MULTICAST, {"ann", "bob"}),
    ("house", mac(1), {"ann"}),
    ("house", mac(99), set()),
]


@pytest.mark.parametrize(("sender", "destination", "receivers"), TABLE)
def test_who_gets_what(sender: str, destination: bytes, receivers: set[str]) -> None:
    members = {endpoint.name: endpoint for endpoint in party()}
    frame = members[sender].frame(destination)
    members[sender].send(frame)
    for name, member in members.items():
        assert member.received == ([(members[sender].peer_id, frame)] if name in receivers else [])
    tally = members[sender].port.tally
    assert (tally.frames_in, tally.bytes_in) == (1, len(frame))
    assert tally.dropped == ({} if receivers else {Drop.UNKNOWN: 1})
    assert sum(member.port.tally.frames_out for member in members.values()) == len(receivers)
    assert sum(member.port.tally.bytes_out for member in members.values()) == len(receivers) * len(frame)


def test_without_a_gateway_what_is_for_the_house_is_dropped_and_counted() -> None:
    house, ann, bob = party()
    house.leave()
    ann.send(ann.frame(HOUSE), ann.frame(mac(2)))
    assert len(bob.received) == 1
    assert ann.port.tally.dropped == {Drop.NO_GATEWAY: 1}
    assert house.received == []


def test_a_member_alone_talks_to_nobody() -> None:
    house, ann, bob = party()
    house.leave()
    bob.leave()
    ann.send(ann.frame(BROADCAST), ann.frame(HOUSE), ann.frame(mac(2)))
    assert ann.datagrams == []


def test_even_without_the_guard_no_frame_goes_back() -> None:
    _, ann, bob = party()
    deliveries: dict[Port, list[bytes]] = {}
    ann.joined.switch.forward(ann.port, [(0, ann.frame(mac(1))), (0, ann.frame(mac(2)))], deliveries, 0.0)
    assert set(deliveries) == {bob.port}
    assert ann.port.tally.dropped == {Drop.HAIRPIN: 1}


def test_a_frame_from_the_lan_with_a_members_mac_moves_nobody() -> None:
    house, ann, bob = party()
    house.send(house.frame(BROADCAST, source=mac(1)), house.frame(mac(2), source=mac(1)))
    assert bob.received == []
    assert house.port.tally.blocked == {Rule.MEMBER_ON_LAN: 2}
    bob.send(bob.frame(mac(1)))
    assert len(ann.received) == 1
    assert house.received == []


def test_blocked_frames_reach_nobody_and_are_counted_by_rule_for_member_room_and_relay() -> None:
    house, ann, bob = party()
    offer = ethernet(ipv4(udp(67, 68)), IPV4, source=mac(1))
    ann.send(offer, ann.frame(BROADCAST, source=mac(2)), ann.frame(BROADCAST), offer)
    assert len(house.received) == len(bob.received) == 1
    expected = {Rule.DHCP_SERVER: 2, Rule.ADDRESS: 1}
    assert ann.port.tally.blocked == expected
    assert ann.hub.room_total("ROOM1").blocked == expected
    assert ann.hub.total().blocked == expected
    assert ann.hub.total().as_dict()["blocked.dhcp-server"] == 2
    for endpoint in (ann, house, bob):
        endpoint.leave()
    assert ann.hub.total().blocked == expected
    assert ann.hub.total().frames_out == 2


def test_the_origin_is_stamped_whatever_the_sender_wrote() -> None:
    _, ann, bob = party()
    ann.send_raw(*ann.encoder.encode(ann.frame(mac(2)), bob.peer_id))
    assert bob.received == [(ann.peer_id, ann.frame(mac(2)))]


def test_garbage_is_dropped_and_counted() -> None:
    house, ann, bob = party()
    ann.send_raw(b"", b"\x10", b"\x20\0\0\0" + ann.frame(BROADCAST), b"\x1f\0\0\0", b"\x10\x02\0\0" + bytes(60))
    assert house.datagrams == bob.datagrams == []
    assert sum(ann.port.total().dropped.values()) == 5


def test_receivers_share_the_bytes() -> None:
    house, ann, bob = party()
    ann.send(ann.frame(BROADCAST))
    assert house.datagrams[0] is bob.datagrams[0]


def test_each_budget_gets_its_own_cut_and_equal_budgets_share_it() -> None:
    hub: Hub[object] = Hub(rooms=Rooms())
    small = [Endpoint(hub, f"small{n}", number=n, datagram_budget=1170) for n in (1, 2)]
    large = Endpoint(hub, "large", number=3, datagram_budget=1600)
    sender = Endpoint(hub, "sender", number=4, datagram_budget=1442)
    frame = sender.frame(BROADCAST, bytes(range(250)) * 6)
    assert len(frame) == 1514
    sender.send(frame)
    for receiver in (*small, large):
        assert receiver.received == [(sender.peer_id, frame)]
    assert len(large.datagrams) == 1
    assert len(small[0].datagrams) == 2
    assert all(a is b for a, b in zip(small[0].datagrams, small[1].datagrams, strict=True))


def test_a_budget_that_changes_is_followed() -> None:
    house, ann, _ = party()
    frame = ann.frame(HOUSE, bytes(1400))
    ann.send(frame)
    house.datagram_budget = 1170
    ann.send(frame)
    house.datagram_budget = 300
    ann.send(frame)
    assert [received for _, received in house.received] == [frame] * 3
    assert len(house.datagrams) == 1 + 2 + 5


def test_pieces_of_a_busy_sender_for_different_budgets_never_meet() -> None:
    """One row of frame ids by origin: a receiver whose budget changes sees no id twice."""
    house, ann, _ = party()
    frames = [ann.frame(HOUSE, bytes([n]) * 1500) for n in range(50)]
    chance = random.Random(1)
    for frame in frames:
        house.datagram_budget = chance.choice((1170, 1200, 900, 600))
        ann.send(frame)
    assert [received for _, received in house.received] == frames


def test_pieces_of_two_members_are_put_together_each_for_itself() -> None:
    house, ann, bob = party()
    ann.encoder.budget = bob.encoder.budget = 800
    a1, a2 = ann.encoder.encode(ann.frame(HOUSE, b"a" * 1400))
    b1, b2 = bob.encoder.encode(bob.frame(HOUSE, b"b" * 1400))
    ann.send_raw(a1)
    bob.send_raw(b1)
    ann.send_raw(a2)
    bob.send_raw(b2)
    assert [frame[14:15] for _, frame in house.received] == [b"a", b"b"]


def test_a_blocked_frame_is_blocked_in_pieces_too() -> None:
    house, ann, _ = party()
    ann.encoder.budget = 300
    ann.send(ethernet(ipv4(udp(67, 68, bytes(1000))), IPV4, source=mac(1)))
    assert house.datagrams == []
    assert ann.port.tally.blocked == {Rule.DHCP_SERVER: 1}


def test_pieces_that_never_complete_are_given_up() -> None:
    _, ann, _ = party()
    ann.encoder.budget = 800
    first, _ = ann.encoder.encode(ann.frame(HOUSE, bytes(1400)))
    ann.send_raw(first, now=10.0)
    assert ann.port.decoder.reassembler.pending_frames == 1
    ann.joined.switch.expire(11.0)
    assert ann.port.decoder.reassembler.pending_frames == 0
    assert ann.port.total().dropped == {"frame-expired": 1}


def test_a_room_without_fragments_drops_what_does_not_fit_and_counts_it() -> None:
    house, ann, bob = party(RoomLimits(fragments=False))
    assert ann.joined.switch.room.effective_mtu == 1424
    house.encoder.budget = 1600  # a full frame of the house, as if its own connection carried it
    house.send(house.frame(BROADCAST, bytes(1500)), house.frame(BROADCAST, bytes(1424)))
    assert [len(frame) for _, frame in ann.received] == [1438]
    assert [len(frame) for _, frame in bob.received] == [1438]
    assert house.port.tally.dropped == {Drop.OVERSIZE: 2}


def test_two_rooms_with_the_same_macs() -> None:
    hub: Hub[object] = Hub(rooms=Rooms())
    here = [Endpoint(hub, f"here{n}", "A", n) for n in range(3)]
    there = [Endpoint(hub, f"there{n}", "B", n) for n in range(3)]
    for sender in here:
        for destination in (BROADCAST, mac(1), mac(2), HOUSE):
            sender.send(sender.frame(destination))
        sender.send_raw(encode_echo(Echo(0, reply=False, target=2, sequence=1, sent_us=1)))
    assert all(endpoint.received for endpoint in here)
    assert not any(endpoint.datagrams for endpoint in there)


def test_who_left_gets_nothing_and_its_mac_is_free() -> None:
    house, ann, bob = party()
    bob.leave()
    ann.send(ann.frame(BROADCAST), ann.frame(mac(2)))
    assert bob.datagrams == []
    assert len(house.received) == 2
    again = Endpoint(ann.hub, "bob", number=2)
    assert again.peer_id not in (bob.peer_id, ann.peer_id)
    ann.send(ann.frame(mac(2)))
    assert len(again.received) == 1
    bob.leave()
    ann.send(ann.frame(mac(2)))
    assert len(again.received) == 2


# --- isolation (row 18), and the house's machines ---------------------------------------------------------------------


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize(("sender", "destination", "receivers"), TABLE)
def test_guard_row18_isolated_players_reach_the_house_only(
    level: Level, sender: str, destination: bytes, receivers: set[str]
) -> None:
    policy = RoomPolicy(level=level, isolated=True)
    members = {endpoint.name: endpoint for endpoint in party(policy=policy)}
    members[sender].send(members[sender].frame(destination))
    expected = receivers if sender == "house" else receivers & {"house"}
    assert {name for name, member in members.items() if member.received} == expected
    blocked = {} if expected or not receivers else {Rule.ISOLATION: 1}
    assert members[sender].port.tally.blocked == blocked


def test_guard_row18_isolation_is_for_its_room_only_and_needs_no_gateway() -> None:
    house, ann, bob = party(policy=RoomPolicy(isolated=True))
    house.leave()
    ann.send(ann.frame(BROADCAST), ann.frame(mac(2)))
    assert bob.received == []
    assert ann.port.tally.blocked == {Rule.ISOLATION: 1}
    others = [Endpoint(ann.hub, name, "ROOM2", number) for number, name in enumerate(("house", "ann", "bob"))]
    others[1].send(others[1].frame(mac(2)))
    assert len(others[2].received) == 1


def test_guard_row17_what_storm_control_refuses_is_counted_by_its_rule_and_goes_nowhere() -> None:
    house, ann, bob = party()
    ann.send(*[ann.frame(mac(99))] * 1000)
    assert len(house.received) == 500
    assert ann.port.tally.blocked == {Rule.STORM: 500}
    bob.send(bob.frame(mac(99)))
    assert len(house.received) == 501


def test_guard_row17_a_machine_of_the_house_is_known_for_300_seconds() -> None:
    house, ann, _ = party()
    house.send(house.frame(mac(1)), now=10.0)
    ann.send(*[ann.frame(HOUSE)] * 1000, now=309.9)
    assert len(house.received) == 1000
    ann.send(*[ann.frame(HOUSE)] * 1000, now=310.0)
    assert len(house.received) == 1500


def test_guard_row17_only_what_passed_makes_a_machine_known() -> None:
    house, ann, _ = party()
    house.send(house.frame(bytes(6)), house.frame(BROADCAST, source=mac(2)))
    ann.send(*[ann.frame(HOUSE)] * 1000)
    assert len(house.received) == 500


def test_machines_that_are_known_are_bounded() -> None:
    house, ann, _ = party()
    machine = [b"\x3c\x97\x0e\x01" + number.to_bytes(2, "big") for number in range(MAX_LAN_SOURCES + 10)]
    for source in machine:
        house.send(house.frame(mac(1), source=source), now=1.0)
    switch = ann.joined.switch
    assert len(switch._lan) == MAX_LAN_SOURCES
    ann.send(*[ann.frame(machine[0])] * 501, *[ann.frame(machine[-1])] * 501, now=1.0)
    assert len(house.received) == 500 + 501
    house.send(house.frame(mac(1), source=mac(0)), now=400.0)
    assert list(switch._lan) == [mac(0)], "all others are too old"


def test_a_room_that_is_open_is_guarded_anew() -> None:
    _, ann, bob = party()
    odd = ethernet(bytes(46), 0x88B5, source=mac(1), destination=mac(2))
    ann.send(odd)
    ann.hub.guard_by(GuardSettings(RoomPolicy(), {"ROOM1": RoomPolicy(ethertypes=frozenset({0x88B5}))}))
    ann.send(odd)
    assert len(bob.received) == 1
    assert ann.port.tally.blocked == {Rule.ETHERTYPE: 1}


# --- echoes ----------------------------------------------------------------------------------------------------------


def test_an_echo_to_the_relay_is_answered() -> None:
    _, ann, bob = party()
    ann.send_raw(encode_echo(Echo(0, reply=False, target=0, sequence=7, sent_us=99)))
    assert ann.echoes == [Echo(0, reply=True, target=ann.peer_id, sequence=7, sent_us=99)]
    assert bob.echoes == []


def test_an_echo_to_a_member_and_its_reply_are_stamped() -> None:
    _, ann, bob = party()
    ann.send_raw(encode_echo(Echo(77, reply=False, target=bob.peer_id, sequence=7, sent_us=99)))
    assert bob.echoes == [Echo(ann.peer_id, reply=False, target=bob.peer_id, sequence=7, sent_us=99)]
    bob.send_raw(encode_echo(Echo(0, reply=True, target=ann.peer_id, sequence=7, sent_us=99)))
    assert ann.echoes == [Echo(bob.peer_id, reply=True, target=ann.peer_id, sequence=7, sent_us=99)]


@pytest.mark.parametrize(("target", "reply"), [(2, False), (9, False), (9, True), (0, True)])
def test_echoes_for_nobody_are_dropped(target: int, reply: bool) -> None:
    _, ann, _ = party()
    assert ann.peer_id == 2
    ann.send_raw(encode_echo(Echo(0, reply=reply, target=target, sequence=7, sent_us=99)))
    assert ann.datagrams == []
    assert ann.port.tally.dropped == {Drop.ECHO_TARGET: 1}


def test_echoes_are_limited() -> None:
    _, ann, _ = party()
    echo = encode_echo(Echo(0, reply=False, target=0, sequence=7, sent_us=99))
    ann.send_raw(*[echo] * 1000, now=1.0)
    assert len(ann.echoes) == ECHO_BURST
    ann.send_raw(*[echo] * 1000, now=2.0)
    assert len(ann.echoes) == ECHO_BURST + ECHO_RATE
    assert ann.port.tally.dropped[Drop.ECHO_RATE] == 2000 - len(ann.echoes)


# --- the laws, over any order of things ------------------------------------------------------------------------------

ROOMS = ("A", "B")
Place = tuple[str, int]


def may_send(sender: Place, frame: bytes, present: dict[Place, Endpoint]) -> bool:
    """The guard, said again for the frames of the test below."""
    room, number = sender
    source = frame[6:12]
    if source == frame[:6]:
        return False
    if number:
        return source == mac(number)
    return source == HOUSE or (room, source[5]) not in present


def is_for(receiver: Place, sender: Place, frame: bytes, present: dict[Place, Endpoint]) -> bool:
    """The switch's table, said again."""
    if receiver[0] != sender[0] or receiver == sender:
        return False
    destination = frame[:6]
    if destination[0] & 1:
        return True
    if receiver[1]:
        return destination == mac(receiver[1])
    known = any(room == sender[0] and number and destination == mac(number) for room, number in present)
    return not known


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_never_reflects_never_leaves_its_room_and_groups_reach_all_others_once(data: st.DataObject) -> None:
    hub: Hub[object] = Hub(rooms=Rooms(RoomLimits(max_clients_per_room=4)))
    present: dict[Place, Endpoint] = {}
    serial = 0
    for _ in range(data.draw(st.integers(1, 40))):
        sender = data.draw(st.tuples(st.sampled_from(ROOMS), st.integers(0, 4)))
        endpoint = present.get(sender)
        if endpoint is None:
            budget = data.draw(st.sampled_from((256, 1170, 1442, 1600)))
            present[sender] = Endpoint(hub, str(sender), *sender, datagram_budget=budget)
            continue
        if data.draw(st.integers(0, 9)) == 0:
            present.pop(sender).leave()
            continue
        for other in present.values():
            other.received.clear()
        frames = []
        for _ in range(data.draw(st.integers(1, 4))):
            serial += 1
            to = data.draw(st.sampled_from((BROADCAST, MULTICAST, HOUSE, mac(1), mac(2), mac(3), mac(4), mac(9))))
            source = data.draw(st.sampled_from((None, None, None, mac(1), HOUSE)))
            size = data.draw(st.sampled_from((4, 60, 1300, 1500)))
            frames.append(endpoint.frame(to, serial.to_bytes(4, "big").ljust(size, b"."), source))
        endpoint.send(*frames)
        sent = [frame for frame in frames if may_send(sender, frame, present)]
        for place, other in present.items():
            expected = [(endpoint.peer_id, frame) for frame in sent if is_for(place, sender, frame, present)]
            assert other.received == expected
