"""Lawful messages of every type: what tests start from, and what the mutations mutate."""

import attrs

from lanparty.ctrl.messages import (
    PROTOCOL,
    Disconnect,
    Heartbeat,
    Hello,
    Member,
    Message,
    PeerJoined,
    PeerLeft,
    Proof,
    Reject,
    RejectCode,
    Role,
    Stats,
    Welcome,
)

CLIENT = Member(7, Role.CLIENT, "02:00:00:00:00:07", "Müller \U0001f3ae")
GATEWAY = Member(1, Role.GATEWAY, None, "the house")
HELLO = Hello(PROTOCOL, Role.CLIENT, "ROOM1", "02:00:00:00:00:01", 1170, "player one", "lanparty 0.1.0")
GATEWAY_HELLO = attrs.evolve(HELLO, role=Role.GATEWAY, virtual_mac=None)
PROVEN_HELLO = attrs.evolve(HELLO, identity=Proof(b"\1" * 32, b"\xff" * 64), room_key=Proof(b"\3" * 32, b"\4" * 64))
WELCOME = Welcome(PROTOCOL, 9, "ROOM1", 1500, True, (GATEWAY, CLIENT), True)

MESSAGES: list[Message] = [
    HELLO,
    GATEWAY_HELLO,
    PROVEN_HELLO,
    WELCOME,
    attrs.evolve(WELCOME, members=(), gateway_present=False),
    Reject(RejectCode.ROOM_FULL, "Room ROOM1 is full."),
    PeerJoined(CLIENT),
    PeerLeft(7, "it said goodbye"),
    Stats({"frames_in": 12, "dropped.malformed": 0}),
    Heartbeat(2**40, False),
    Disconnect("leaving", "stopped by its user"),
]
