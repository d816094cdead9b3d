import attrs
import pytest
from ctrl_corpus import CLIENT, HELLO, MESSAGES, PROVEN_HELLO, WELCOME

from lanparty.ctrl import errors
from lanparty.ctrl.codec import MAX_FRAME, encode
from lanparty.ctrl.messages import (
    MAX_MEMBERS,
    PROTOCOL,
    Disconnect,
    Heartbeat,
    Member,
    MessageError,
    PeerLeft,
    ProtocolVersion,
    Reject,
    RejectCode,
    Role,
    Stats,
)


def test_every_type_has_its_own_name():
    assert {type(message).TYPE for message in MESSAGES} == {
        "hello",
        "welcome",
        "reject",
        "peer-joined",
        "peer-left",
        "stats",
        "heartbeat",
        "disconnect",
    }


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (HELLO, {"display_name": "x" * 65}),
        (HELLO, {"display_name": "a\nb"}),
        (HELLO, {"display_name": "\x1b[2J"}),
        (HELLO, {"display_name": "a\u202eb"}),
        (HELLO, {"display_name": "\ud800"}),
        (HELLO, {"software": "x" * 65}),
        (HELLO, {"room": "x" * 65}),
        (HELLO, {"virtual_mac": "x" * 18}),
        (HELLO, {"datagram_budget": -1}),
        (HELLO, {"datagram_budget": 65536}),
        (HELLO, {"datagram_budget": True}),
        (PROVEN_HELLO.identity, {"key": b"x" * 31}),
        (PROVEN_HELLO.identity, {"signature": b"x" * 65}),
        (PROVEN_HELLO.identity, {"key": "x" * 32}),
        (WELCOME, {"peer_id": 0}),
        (WELCOME, {"peer_id": 65536}),
        (WELCOME, {"effective_mtu": 575}),
        (WELCOME, {"effective_mtu": 9001}),
        (WELCOME, {"members": (CLIENT,) * (MAX_MEMBERS + 1)}),
        (Reject(RejectCode.VERSION, ""), {"text": "x" * 513}),
        (Reject(RejectCode.VERSION, ""), {"text": "\x9b"}),
        (PeerLeft(1, ""), {"peer_id": 0}),
        (PeerLeft(1, ""), {"reason": "x" * 513}),
        (Stats({}), {"counters": {"UPPER": 1}}),
        (Stats({}), {"counters": {"": 1}}),
        (Stats({}), {"counters": {"x" * 65: 1}}),
        (Stats({}), {"counters": {"x": -1}}),
        (Stats({}), {"counters": {"x": 2**63}}),
        (Stats({}), {"counters": {"x": True}}),
        (Stats({}), {"counters": {f"x{number}": 1 for number in range(257)}}),
        (Heartbeat(0, False), {"sequence": -1}),
        (Heartbeat(0, False), {"sequence": 2**63}),
        (Disconnect("leaving", ""), {"code": "Not a word"}),
        (Disconnect("leaving", ""), {"code": ""}),
        (Disconnect("leaving", ""), {"reason": "x" * 513}),
        (PROTOCOL, {"major": -1}),
        (PROTOCOL, {"minor": 65536}),
    ],
)
def test_no_message_can_hold_what_the_schema_forbids(message, changes):
    with pytest.raises(MessageError, match=next(iter(changes))):
        attrs.evolve(message, **changes)


def test_the_largest_welcome_and_stats_fit_a_control_frame():
    member = Member(65535, Role.GATEWAY, "ff:ff:ff:ff:ff:ff", "\U0001f3ae" * 64)
    assert len(encode(attrs.evolve(WELCOME, members=(member,) * MAX_MEMBERS))) <= MAX_FRAME
    quotes = attrs.evolve(member, display_name='"' * 64)
    assert len(encode(attrs.evolve(WELCOME, members=(quotes,) * MAX_MEMBERS))) <= MAX_FRAME
    assert len(encode(Stats({f"{number:064}": 2**63 - 1 for number in range(256)}))) <= MAX_FRAME


def test_versions_compare_and_show_as_people_write_them():
    assert str(ProtocolVersion(1, 10)) == "1.10"
    assert ProtocolVersion(1, 2) < ProtocolVersion(1, 10) < ProtocolVersion(2, 0)


@pytest.mark.parametrize("code", list(RejectCode))
def test_reject_code_of_itself(code):
    assert RejectCode.of(code.value) is code


@pytest.mark.parametrize("code", [getattr(errors, name) for name in errors.__all__ if name.isupper()])
def test_each_code_of_a_broken_frame_can_be_sent_in_a_reject(code):
    assert RejectCode.of(code).value == code


@pytest.mark.parametrize("code", ["too-wide", "", "x"])
def test_other_codes_are_sent_as_protocol(code):
    assert RejectCode.of(code) is RejectCode.PROTOCOL
