"""Admission: each refusal with its code and its sentence, the MTU of a room, peer ids, leaving."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lanparty.ctrl.messages import PROTOCOL, Hello, RejectCode, Role
from lanparty.ctrl.validate import check_hello
from lanparty.relay.rooms import MAX_PEER_ID, Admitted, MemberState, Refused, RoomLimits, Rooms

BUDGET = 1170  # at 1200-byte QUIC packets


def client(number: int, room: str = "ROOM1", name: str = "") -> Hello:
    return Hello(
        version=PROTOCOL,
        role=Role.CLIENT,
        room=room,
        virtual_mac=f"02:00:00:00:00:{number:02x}",
        datagram_budget=BUDGET,
        display_name=name,
        software="test",
    )


def gateway(room: str = "ROOM1", name: str = "") -> Hello:
    return attrs.evolve(client(1, room, name), role=Role.GATEWAY, virtual_mac=None)


def admit(rooms: Rooms, hello: Hello, budget: int = BUDGET) -> MemberState:
    result = rooms.admit(check_hello(hello), budget, "192.0.2.1:1234")
    assert isinstance(result, Admitted), result
    return result.member


def refuse(rooms: Rooms, hello: Hello, budget: int = BUDGET) -> Refused:
    before = [(room.code, tuple(room.members)) for room in rooms.by_code.values()]
    result = rooms.admit(check_hello(hello), budget, "192.0.2.1:1234")
    assert isinstance(result, Refused), result
    assert [(room.code, tuple(room.members)) for room in rooms.by_code.values()] == before
    return result


def test_the_first_member_opens_the_room_and_the_others_are_listed() -> None:
    rooms = Rooms()
    first = rooms.admit(client(1, name="Ann"), BUDGET, "192.0.2.1:1")
    second = rooms.admit(gateway(name="house"), BUDGET, "192.0.2.2:2")
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert (first.opened, second.opened) == (True, False)
    assert first.others == ()
    (ann,) = second.others
    assert (ann.peer_id, ann.role, ann.virtual_mac, ann.display_name) == (1, Role.CLIENT, "02:00:00:00:00:01", "Ann")
    assert second.member.room.gateway is second.member
    assert second.member.mac_text is None


def test_a_second_gateway_is_told_who_has_the_place() -> None:
    rooms = Rooms()
    holder = admit(rooms, gateway(name="attic"))
    refused = refuse(rooms, gateway())
    assert refused.code is RejectCode.GATEWAY_PRESENT
    assert refused.holder is holder
    assert '"attic", peer 1' in refused.text
    assert "192.0.2" not in refused.text
    admit(rooms, gateway("ROOM2"))


def test_a_duplicate_mac_is_told_who_has_it_in_whatever_spelling() -> None:
    rooms = Rooms()
    holder = admit(rooms, client(7, name="Ann"))
    refused = refuse(rooms, attrs.evolve(client(7), virtual_mac="02-00-00-00-00-07"))
    assert refused.code is RejectCode.DUPLICATE_MAC
    assert refused.holder is holder
    assert "02:00:00:00:00:07" in refused.text
    assert '"Ann", peer 1' in refused.text
    assert "--identity" in refused.text


def test_the_same_mac_in_two_rooms_is_two_machines() -> None:
    rooms = Rooms()
    assert admit(rooms, client(7, "A")).room is not admit(rooms, client(7, "B")).room


def test_a_full_room_takes_a_gateway_still() -> None:
    rooms = Rooms(RoomLimits(max_clients_per_room=2))
    admit(rooms, client(1))
    leaver = admit(rooms, client(2))
    refused = refuse(rooms, client(3))
    assert refused.code is RejectCode.ROOM_FULL
    assert "2 clients" in refused.text
    assert "--max-clients-per-room" in refused.text
    admit(rooms, gateway())
    rooms.leave(leaver)
    admit(rooms, client(3))


def test_too_many_rooms() -> None:
    rooms = Rooms(RoomLimits(max_rooms=2))
    admit(rooms, client(1, "A"))
    leaver = admit(rooms, client(1, "B"))
    refused = refuse(rooms, client(1, "C"))
    assert refused.code is RejectCode.TOO_MANY_ROOMS
    assert "2 rooms" in refused.text
    admit(rooms, client(2, "A"))
    assert rooms.leave(leaver)
    admit(rooms, client(1, "C"))


@pytest.mark.parametrize(
    ("limits", "first", "mtu"),
    [
        (RoomLimits(), 1170, 1500),
        (RoomLimits(room_mtu=1400), 1170, 1400),
        (RoomLimits(fragments=False), 1170, 1152),
        (RoomLimits(fragments=False), 1442, 1424),
        (RoomLimits(fragments=False), 9000, 1500),
        (RoomLimits(fragments=False, room_mtu=1100), 1170, 1100),
    ],
)
def test_the_first_member_fixes_the_mtu(limits: RoomLimits, first: int, mtu: int) -> None:
    rooms = Rooms(limits)
    room = admit(rooms, client(1), first).room
    assert (room.effective_mtu, room.fragments) == (mtu, limits.fragments)
    admit(rooms, client(2), 9000)
    assert room.effective_mtu == mtu


def test_who_cannot_carry_the_rooms_mtu_is_refused_with_both_numbers() -> None:
    rooms = Rooms(RoomLimits(fragments=False))
    admit(rooms, client(1), 1442)
    refused = refuse(rooms, client(2), 1170)
    assert refused.code is RejectCode.MTU_TOO_SMALL
    assert "1424" in refused.text
    assert "1152" in refused.text
    admit(rooms, client(2), 1442)
    admit(rooms, client(3), 1443)


def test_a_first_member_that_carries_next_to_nothing_opens_no_room() -> None:
    rooms = Rooms(RoomLimits(fragments=False))
    refused = refuse(rooms, client(1), 593)
    assert (refused.code, refused.holder) == (RejectCode.MTU_TOO_SMALL, None)
    assert "576" in refused.text
    assert "575" in refused.text
    assert len(rooms) == 0
    admit(rooms, client(1), 594)


@pytest.mark.parametrize("fragments", [True, False])
@pytest.mark.parametrize("budget", [0, 13, 255])
def test_a_connection_with_tiny_datagrams_is_refused_whatever_its_hello_claims(budget: int, fragments: bool) -> None:
    rooms = Rooms(RoomLimits(fragments=fragments))
    refused = refuse(rooms, client(1), budget)
    assert (refused.code, refused.holder) == (RejectCode.MTU_TOO_SMALL, None)
    assert f"datagrams of {budget} bytes" in refused.text
    assert "256" in refused.text
    admit(rooms, client(2), BUDGET)
    assert refuse(rooms, client(1), budget).code is RejectCode.MTU_TOO_SMALL


def test_with_fragments_any_budget_from_256_will_do() -> None:
    rooms = Rooms()
    admit(rooms, client(1), 9000)
    admit(rooms, client(2), 256)


def test_a_peer_id_is_not_given_again_at_once_and_goes_round() -> None:
    rooms = Rooms()
    stays = admit(rooms, client(1))
    seen = set()
    for _ in range(MAX_PEER_ID - 1):
        member = admit(rooms, client(2))
        seen.add(member.peer_id)
        rooms.leave(member)
    assert seen == set(range(2, MAX_PEER_ID + 1))
    assert admit(rooms, client(2)).peer_id == 2
    assert stays.peer_id == 1


def test_leaving_twice_or_after_a_namesake_came_does_nothing() -> None:
    rooms = Rooms()
    keeper = admit(rooms, gateway())
    old = admit(rooms, client(1))
    assert not rooms.leave(old)
    new = admit(rooms, client(1))
    assert not rooms.leave(old)
    assert new.room.by_mac == {new.mac: new}
    assert rooms.member_count == 2
    assert not rooms.leave(new)
    assert rooms.leave(keeper)
    assert not rooms.leave(keeper)
    assert len(rooms) == 0


class RoomsMachine(RuleBasedStateMachine):
    """Any order of joining and leaving keeps the tables and the limits right."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms = Rooms(RoomLimits(max_clients_per_room=3, max_rooms=2))
        self.members: list[MemberState] = []

    @rule(room=st.sampled_from("ABC"), number=st.integers(1, 5), is_gateway=st.booleans())
    def join(self, room: str, number: int, is_gateway: bool) -> None:
        hello = gateway(room) if is_gateway else client(number, room)
        result = self.rooms.admit(hello, BUDGET, "")
        if isinstance(result, Admitted):
            self.members.append(result.member)

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.rooms.leave(self.members.pop(data.draw(st.integers(0, len(self.members) - 1))))

    @invariant()
    def tables_agree(self) -> None:
        rooms = self.rooms
        assert len(rooms) <= 2
        assert rooms.member_count == len(self.members)
        for code, room in rooms.by_code.items():
            assert room.code == code
            assert room.members
            clients = [member for member in room.members.values() if not member.is_gateway]
            gateways = [member for member in room.members.values() if member.is_gateway]
            assert len(clients) <= 3
            assert room.by_mac == {member.mac: member for member in clients}
            assert gateways == ([] if room.gateway is None else [room.gateway])
            assert all(room.members[member.peer_id] is member for member in (*clients, *gateways))


RoomsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRooms = RoomsMachine.TestCase
