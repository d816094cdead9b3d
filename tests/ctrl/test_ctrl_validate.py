import attrs
import pytest
from ctrl_corpus import CLIENT, GATEWAY, GATEWAY_HELLO, HELLO, WELCOME

from lanparty.ctrl.errors import ControlError
from lanparty.ctrl.messages import ProtocolVersion, RejectCode, Role
from lanparty.ctrl.validate import MIN_DATAGRAM_BUDGET, check_hello, check_member, check_welcome


@pytest.mark.parametrize("hello", [HELLO, GATEWAY_HELLO])
def test_good_hellos_pass_unchanged(hello):
    assert check_hello(hello) == hello
    newer = attrs.evolve(hello, version=ProtocolVersion(1, 9))
    assert check_hello(newer) == newer


def test_a_hello_becomes_canonical():
    spelt = attrs.evolve(HELLO, room="room1", virtual_mac="0200.0000.00AB")
    assert check_hello(spelt) == attrs.evolve(HELLO, virtual_mac="02:00:00:00:00:ab")


@pytest.mark.parametrize(
    ("hello", "changes", "code", "says"),
    [
        (HELLO, {"version": ProtocolVersion(2, 1), "room": "?"}, RejectCode.VERSION, r"2\.1.*1\.1"),
        (HELLO, {"version": ProtocolVersion(0, 9)}, RejectCode.VERSION, r"0\.9.*1\.1"),
        (HELLO, {"room": ""}, RejectCode.BAD_ROOM, "is not a room code"),
        (HELLO, {"room": "my room"}, RejectCode.BAD_ROOM, "'my room' is not a room code"),
        (GATEWAY_HELLO, {"room": "-"}, RejectCode.BAD_ROOM, "is not a room code"),
        (HELLO, {"virtual_mac": None}, RejectCode.BAD_HELLO, "client must give its virtual MAC"),
        (GATEWAY_HELLO, {"virtual_mac": "02:00:00:00:00:01"}, RejectCode.BAD_HELLO, "gateway has no virtual MAC"),
        (HELLO, {"virtual_mac": ""}, RejectCode.BAD_MAC, "is not a MAC address"),
        (HELLO, {"virtual_mac": "02:00:00-00:00:01"}, RejectCode.BAD_MAC, "is not a MAC address"),
        (HELLO, {"virtual_mac": "00:00:00:00:00:00"}, RejectCode.BAD_MAC, "zero"),
        (HELLO, {"virtual_mac": "03:00:00:00:00:01"}, RejectCode.BAD_MAC, "group"),
        (HELLO, {"virtual_mac": "ff:ff:ff:ff:ff:ff"}, RejectCode.BAD_MAC, "group"),
        (HELLO, {"virtual_mac": "00:11:22:33:44:55"}, RejectCode.BAD_MAC, "locally administered"),
        (HELLO, {"datagram_budget": MIN_DATAGRAM_BUDGET - 1}, RejectCode.MTU_TOO_SMALL, "255.*256"),
        (GATEWAY_HELLO, {"datagram_budget": 0}, RejectCode.MTU_TOO_SMALL, "0 bytes"),
    ],
)
def test_bad_hellos(hello, changes, code, says):
    with pytest.raises(ControlError, match=says) as caught:
        check_hello(attrs.evolve(hello, **changes))
    assert caught.value.code == code.value
    assert caught.value.text.isprintable()
    assert caught.value.text.endswith(".")


def test_good_welcomes_pass():
    assert check_welcome(WELCOME) == WELCOME
    assert check_welcome(WELCOME, HELLO) == WELCOME
    # A gateway that is asked in itself: nobody else is one, and the room has one.
    alone = attrs.evolve(WELCOME, members=(), gateway_present=True)
    assert check_welcome(alone, GATEWAY_HELLO) == alone


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": ProtocolVersion(2, 0)}, r"2\.0.*1\.1"),
        ({"peer_id": CLIENT.peer_id}, "one peer id to two"),
        ({"members": (GATEWAY, attrs.evolve(GATEWAY, peer_id=2))}, "more than one gateway"),
        ({"members": (CLIENT, attrs.evolve(CLIENT, peer_id=2))}, "one MAC to two"),
        ({"members": (CLIENT, attrs.evolve(CLIENT, virtual_mac="02:00:00:00:00:08"))}, "one peer id to two"),
        ({"gateway_present": False}, "lists a gateway and says that there is none"),
        ({"members": (attrs.evolve(GATEWAY, virtual_mac="02:00:00:00:00:01"),)}, "a gateway, with a virtual MAC"),
        ({"members": (attrs.evolve(CLIENT, virtual_mac=None),)}, "a client, without a MAC"),
        ({"members": (attrs.evolve(CLIENT, virtual_mac="01:00:5e:00:00:01"),)}, "wrong MAC"),
        ({"room": "OTHER"}, "not asked for"),
        ({"room": "?"}, "wrong room"),
    ],
)
def test_bad_welcomes(changes, says):
    with pytest.raises(ControlError, match=says):
        check_welcome(attrs.evolve(WELCOME, **changes), HELLO)


def test_members_become_canonical():
    assert check_member(attrs.evolve(CLIENT, virtual_mac="02-00-00-00-00-07")) == CLIENT
    assert check_member(GATEWAY).role is Role.GATEWAY
