"""Admission: each refusal with its code and its sentence, the MTU of a room, peer ids, leaving."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lanparty.ctrl.messages import PROTOCOL, Hello, Proof, RejectCode, Role
from lanparty.ctrl.validate import check_hello
from lanparty.relay.rooms import (
    MAX_PEER_ID,
    Admitted,
    MemberState,
    Refused,
    Remedy,
    RoomLimits,
    Rooms,
    room_name,
)

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


def proven(hello: Hello, identity: int | None = None, room: int | None = None) -> Hello:
    """With proofs of keys that are told apart by a number."""
    return attrs.evolve(
        hello,
        identity=None if identity is None else Proof(bytes([identity]) * 32, bytes(64)),
        room_key=None if room is None else Proof(bytes([room]) * 32, bytes(64)),
    )


def admit(rooms: Rooms, hello: Hello, budget: int = BUDGET) -> MemberState:
    result = rooms.admit(check_hello(hello), budget, "192.0.2.1:1234")
    assert isinstance(result, Admitted), result
    return result.member


def refuse(rooms: Rooms, hello: Hello, budget: int = BUDGET) -> Refused:
    before = [(room.code, tuple(room.members)) for room in rooms.by_name.values()]
    result = rooms.admit(check_hello(hello), budget, "192.0.2.1:1234")
    assert isinstance(result, Refused), result
    assert [(room.code, tuple(room.members)) for room in rooms.by_name.values()] == before
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
    rooms = Rooms(RoomLimits(max_rooms=2, max_waiting_rooms=1))
    admit(rooms, gateway("A"))
    leaver = admit(rooms, gateway("B"))
    refused = refuse(rooms, gateway("C"))
    assert refused.code is RejectCode.TOO_MANY_ROOMS
    assert "2 rooms" in refused.text
    assert "--max-rooms" in refused.text
    admit(rooms, client(2, "A"))
    assert rooms.leave(leaver)
    admit(rooms, gateway("C"))


def test_rooms_that_clients_open_are_counted_apart_and_keep_no_host_out() -> None:
    rooms = Rooms(RoomLimits(max_rooms=2, max_waiting_rooms=3))
    waiting = [admit(rooms, client(1, room)) for room in "ABC"]
    refused = refuse(rooms, client(1, "D"))
    assert refused.code is RejectCode.TOO_MANY_ROOMS
    assert "3 rooms" in refused.text
    assert "--max-waiting-rooms" in refused.text
    admit(rooms, client(2, "A"))
    admit(rooms, gateway("A"))
    admit(rooms, client(1, "D"))  # A is not waiting any more
    admit(rooms, gateway("E"))
    assert refuse(rooms, gateway("B")).code is RejectCode.TOO_MANY_ROOMS
    assert len(rooms) == 5
    rooms.leave(waiting[1])
    admit(rooms, client(1, "F"))


def test_rooms_whose_gateway_left_do_not_add_up_for_ever() -> None:
    rooms = Rooms(RoomLimits(max_rooms=2, max_waiting_rooms=1))
    for room in "ABC":
        house = admit(rooms, gateway(room))
        admit(rooms, client(1, room))
        rooms.leave(house)
    assert refuse(rooms, gateway("D")).code is RejectCode.TOO_MANY_ROOMS
    admit(rooms, gateway("A"))  # but those that are there get theirs back
    admit(rooms, gateway("B"))
    assert len(rooms) == 3


def test_a_password_makes_another_room_of_the_same_code() -> None:
    rooms = Rooms()
    house = admit(rooms, proven(gateway(), room=1))
    for hello in (client(1), proven(client(1), room=2), proven(client(1), room=1)):
        assert admit(rooms, hello).room.name == room_name(hello)
    assert len(rooms) == 3
    assert [member.mac_text for member in house.room.members.values()] == [None, "02:00:00:00:00:01"]
    assert admit(rooms, gateway()).room is not house.room


def test_a_wrong_password_and_a_room_that_is_not_there_have_the_same_answer() -> None:
    rooms = Rooms()
    admit(rooms, proven(gateway(), room=1))
    admit(rooms, proven(client(9), room=1))
    wrong = rooms.admit(proven(client(1), room=2), BUDGET, "")
    nothing = rooms.admit(proven(client(1, "NOWHERE"), room=2), BUDGET, "")
    assert isinstance(wrong, Admitted)
    assert isinstance(nothing, Admitted)
    assert (wrong.opened, wrong.others, wrong.member.peer_id) == (nothing.opened, nothing.others, 1)


@pytest.mark.parametrize(
    ("role", "holder", "newcomer", "remedy"),
    [
        (client(1), 1, 1, Remedy.TAKE_OVER),
        (client(1), 1, 2, Remedy.NONE),
        (client(1), 1, None, Remedy.NONE),
        (client(1), None, 1, Remedy.ASK),
        (client(1), None, None, Remedy.ASK),
        (gateway(), 1, 1, Remedy.TAKE_OVER),
        (gateway(), 1, 2, Remedy.ASK),
        (gateway(), 1, None, Remedy.ASK),
        (gateway(), None, 1, Remedy.ASK),
        (gateway(), None, None, Remedy.ASK),
    ],
)
def test_what_may_be_done_about_the_member_in_the_way(
    role: Hello, holder: int | None, newcomer: int | None, remedy: Remedy
) -> None:
    rooms = Rooms()
    there = admit(rooms, proven(role, holder))
    refused = refuse(rooms, proven(role, newcomer))
    assert (refused.holder, refused.remedy) == (there, remedy)


def test_somebody_who_could_not_come_in_anyway_takes_nothing_over() -> None:
    rooms = Rooms(RoomLimits(fragments=False))
    admit(rooms, proven(client(1), 1), 1442)
    refused = refuse(rooms, proven(client(1), 1), 1170)
    assert (refused.code, refused.remedy) == (RejectCode.MTU_TOO_SMALL, Remedy.NONE)


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
        self.rooms = Rooms(RoomLimits(max_clients_per_room=3, max_rooms=2, max_waiting_rooms=2))
        self.members: list[MemberState] = []

    @rule(
        room=st.sampled_from("ABCDE"),
        number=st.integers(1, 5),
        is_gateway=st.booleans(),
        key=st.sampled_from([None, None, 1, 2]),
    )
    def join(self, room: str, number: int, is_gateway: bool, key: int | None) -> None:
        hello = proven(gateway(room) if is_gateway else client(number, room), room=key)
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
        assert len(rooms) <= 4
        assert rooms.housed == sum(room.gateway is not None for room in rooms.by_name.values()) <= 2
        assert rooms.member_count == len(self.members)
        for name, room in rooms.by_name.items():
            assert room.name == name
            assert room.members
            clients = [member for member in room.members.values() if not member.is_gateway]
            gateways = [member for member in room.members.values() if member.is_gateway]
            assert len(clients) <= 3
            assert room.by_mac == {member.mac: member for member in clients}
            assert gateways == ([] if room.gateway is None else [room.gateway])
            assert all(room.members[member.peer_id] is member for member in (*clients, *gateways))


RoomsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRooms = RoomsMachine.TestCase
