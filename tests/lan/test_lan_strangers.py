"""Shown by, 5, for programs that are not ours: what the relay answers to a hello by hand, and to garbage.

The QUIC is lanparty's; what is said over it is written out here. Whoever is in the room notices nothing.
"""

from __future__ import annotations

import json
import struct

import pytest
import trio
from lan_tools import pinging

from lanparty.demo import inside
from lanparty.demo.programs import SERVER_NAME
from lanparty.quic.client import drive
from lanparty.quic.connection import ConnectionLost
from lanparty.quic.trust import Trust, load_pinned

pytestmark = [pytest.mark.lan, pytest.mark.parametrize("lan", ["dual"], indirect=True)]

HELLO = {
    "type": "hello",
    "version": {"major": 1, "minor": 0},
    "role": "client",
    "room": "ROOM1",
    "virtual_mac": "02:aa:bb:cc:dd:ee",
    "datagram_budget": 1150,
    "display_name": "stranger",
    "software": "by hand 1.0",
}


def frame(message):
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">I", len(text)) + text


def say(lan, data, *, then_datagrams=()):
    """What the relay answers to these bytes on the control stream, and the close code that follows."""

    async def talk():
        answers, buffer = [], b""
        async with trio.open_nursery() as nursery:

            async def driver(task_status):
                trust = Trust(load_pinned(lan.party.certificate))
                try:
                    await drive(("10.99.0.10", 443), server_name=SERVER_NAME, trust=trust, task_status=task_status)
                except ConnectionLost:
                    return  # the end that the test looks at

            connection = await nursery.start(driver)
            connection.send_datagrams(then_datagrams)
            connection.flush()
            with trio.fail_after(10):
                await connection.send_all(data)
                try:
                    while not answers and (more := await connection.receive_some()):
                        buffer += more
                        while len(buffer) >= 4 and len(buffer) >= 4 + struct.unpack(">I", buffer[:4])[0]:
                            size = 4 + struct.unpack(">I", buffer[:4])[0]
                            answers.append(json.loads(buffer[4:size]))
                            buffer = buffer[size:]
                except ConnectionLost:
                    pass
                if answers and answers[0]["type"] == "welcome":
                    connection.close()
                closed = await connection.wait_closed()
            nursery.cancel_scope.cancel()
        return answers, closed

    with pinging(lan.house.at("player1"), "192.168.77.1", 0.05) as pings:
        result = inside.call(lan.house.at("guest"), lambda: trio.run(talk))
        sent, received = pings()
    assert received >= sent - 1
    return result


def test_a_proper_hello_is_welcome(lan):
    (welcome,), _ = say(lan, frame(HELLO))
    assert welcome["type"] == "welcome"
    assert welcome["room"] == "ROOM1"
    assert welcome["gateway_present"] is True
    assert welcome["effective_mtu"] == 1500
    assert len(welcome["members"]) == 3


@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        ({"room": "two words"}, "bad-room", "two words"),
        ({"room": ""}, "bad-room", "room"),
        ({"version": {"major": 2, "minor": 0}}, "version", "2.0"),
        ({"version": {"major": 2, "minor": 0}}, "version", "1.1"),
        ({"virtual_mac": "00:11:22:33:44:55"}, "bad-mac", "00:11:22:33:44:55"),
        ({"virtual_mac": "03:11:22:33:44:55"}, "bad-mac", "03:11:22:33:44:55"),
        ({"virtual_mac": None}, "bad-hello", "virtual MAC"),
        ({"role": "gateway", "virtual_mac": None}, "gateway-present", "gateway"),
        ({"datagram_budget": 5}, "mtu-too-small", "5 bytes"),
        ({"role": "king"}, "bad-hello", "king"),
        ({"surprise": 1}, "bad-hello", "surprise"),
    ],
)
def test_a_hello_that_is_refused(lan, changed, code, says):
    (answer,), closed = say(lan, frame(HELLO | changed))
    assert (answer["type"], answer["code"]) == ("reject", code), answer
    assert says in answer["text"]
    assert "\n" not in answer["text"]
    assert closed.by_peer


@pytest.mark.parametrize(
    "data",
    [
        frame(b"not json"),
        frame(b"\xff\xfe\x00"),
        frame(b"[" * 5000),
        frame({"type": "heartbeat", "sequence": 1, "reply": False}),  # not a hello first
        struct.pack(">I", 64 * 1024 + 1) + b"x" * 100,  # over 64 KiB
        struct.pack(">I", 0xFFFFFFFF),
        frame({**HELLO, "room": "A" * 100_000})[: 64 * 1024],
    ],
)
def test_garbage_ends_only_that_session(lan, data):
    answers, closed = say(lan, data)
    assert closed.by_peer
    assert [answer["type"] for answer in answers] in ([], ["reject"], ["disconnect"])
    assert closed.code != 0
    assert lan.relay.running


def test_datagrams_before_admission_go_nowhere(lan):
    blob = bytes((0x10, 0, 0, 0)) + b"\xff" * 6 + bytes.fromhex("02aabbccddee0800") + bytes(60)
    (answer,), _ = say(lan, frame(HELLO | {"room": "two words"}), then_datagrams=[blob] * 20)
    assert answer["code"] == "bad-room"
