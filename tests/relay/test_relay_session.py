"""Sessions over fake connections in simulated time: each test reads like a conversation."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from relay_packets import BROADCAST, IPV4, ethernet, ipv4, udp
from trio.testing import MockClock

from lanparty.ctrl import codec
from lanparty.ctrl.messages import (
    CLOSE_TAKEN_OVER,
    PROTOCOL,
    TAKEN_OVER,
    Disconnect,
    Heartbeat,
    Hello,
    Message,
    PeerJoined,
    PeerLeft,
    ProtocolVersion,
    Reject,
    RejectCode,
    Role,
    Stats,
    Welcome,
)
from lanparty.ctrl.proof import Seed, prove
from lanparty.obs.log import captured
from lanparty.quic.connection import Closed, ConnectionLost
from lanparty.relay.rooms import RoomLimits, Rooms
from lanparty.relay.session import (
    CONTROL_BURST,
    CONTROL_RATE,
    FAREWELL,
    HELLO_DEADLINE,
    OUTBOX,
    PROOF_DEADLINE,
    SILENCE,
    RelayHub,
    Session,
)
from lanparty.relay.sessions import Sessions
from lanparty.relay.switch import Switch


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


def hello(number: int = 0, room: str = "ROOM1", **changes: Any) -> Hello:
    """Number 0 is a gateway."""
    made = Hello(
        version=PROTOCOL,
        role=Role.CLIENT if number else Role.GATEWAY,
        room=room,
        virtual_mac=mac(number).hex(":") if number else None,
        datagram_budget=1170,
        display_name=f"n{number}",
        software="test",
    )
    return attrs.evolve(made, **changes)


class Endpoint:
    """A fake connection and the endpoint at its far end."""

    remote = ("192.0.2.1", 4711)
    binding = bytes(32)
    datagram_budget = 1170

    def __init__(self) -> None:
        self.closed: Closed | None = None
        self.admitted = False
        self.handler: Callable[[list[bytes], float], None] | None = None
        self.datagrams: list[bytes] = []
        self.reading = True
        """False: the endpoint takes nothing of its control stream any more."""
        self.unacknowledged = False
        self._to_relay, self._from_endpoint = trio.open_memory_channel[bytes](math.inf)
        self._decoder = codec.ControlDecoder()
        self._messages: list[Message] = []
        self._news = trio.Condition()

    # What the session uses.

    def on_datagrams(self, handler: Callable[[list[bytes], float], None] | None) -> None:
        self.handler = handler

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        self.datagrams += datagrams

    def admit(self) -> None:
        self.admitted = True

    async def receive_some(self) -> bytes:
        try:
            return await self._from_endpoint.receive()
        except trio.EndOfChannel:
            if self.closed is not None:
                raise ConnectionLost(self.closed) from None
            return b""

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed is not None:
            raise ConnectionLost(self.closed)
        if not self.reading:
            await trio.sleep_forever()
        async with self._news:
            for message in self._decoder.feed_untrusted(data):
                assert not isinstance(message, codec.Unknown)
                self._messages.append(message)
            self._news.notify_all()

    async def drained(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.unacknowledged:
            await trio.sleep_forever()

    def close(self, code: int = 0, reason: str = "") -> None:
        if self.closed is None:
            self.closed = Closed(code, reason, by_peer=False, timed_out=False)
            self._to_relay.close()

    # What the test uses.

    def say(self, *messages: Message) -> None:
        self._to_relay.send_nowait(b"".join(codec.encode(message) for message in messages))

    def say_bytes(self, data: bytes) -> None:
        self._to_relay.send_nowait(data)

    def hang_up(self, reason: str = "gone", *, timed_out: bool = False) -> None:
        """The connection ends abruptly."""
        self.closed = Closed(0, reason, by_peer=not timed_out, timed_out=timed_out)
        self._to_relay.close()

    def end_stream(self) -> None:
        self._to_relay.close()

    async def hear(self) -> Message:
        async with self._news:
            while not self._messages:
                await self._news.wait()
            return self._messages.pop(0)

    async def silent(self) -> bool:
        """Whether nothing more comes for now."""
        await trio.testing.wait_all_tasks_blocked()
        return not self._messages

    def frame(self, number: int, destination: bytes = BROADCAST, payload: bytes = b"game") -> None:
        """Send one frame of client ``number`` in a datagram."""
        if self.handler is not None:
            frame = ethernet(payload, source=mac(number), destination=destination)
            self.handler([b"\x10\0\0\0" + frame], trio.current_time())

    async def keep_alive(self) -> None:
        while True:
            self.say(Heartbeat(sequence=0, reply=True))
            await trio.sleep(1)


@attrs.define
class Relay:
    hub: RelayHub
    sessions: Sessions
    nursery: trio.Nursery

    def connect(self) -> Endpoint:
        endpoint = Endpoint()
        self.sessions.accept(endpoint)
        return endpoint

    async def join(self, said: Hello, *, alive: bool = True) -> Endpoint:
        endpoint = self.connect()
        endpoint.say(said)
        welcome = await endpoint.hear()
        assert isinstance(welcome, Welcome), welcome
        if alive:
            self.nursery.start_soon(endpoint.keep_alive)
        return endpoint

    async def refuse(self, said: Hello) -> Reject:
        endpoint = self.connect()
        endpoint.say(said)
        answer = await endpoint.hear()
        assert isinstance(answer, Reject), answer
        await trio.testing.wait_all_tasks_blocked()
        assert endpoint.closed is not None
        assert not endpoint.admitted
        assert endpoint.handler is None
        return answer


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    hub = RelayHub(rooms=Rooms(RoomLimits(max_clients_per_room=3, max_rooms=2)))
    sessions = Sessions(hub)
    async with trio.open_nursery() as nursery:
        await nursery.start(sessions.run)
        yield Relay(hub, sessions, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def log(relay: Relay) -> AsyncIterator[list[dict[str, Any]]]:
    with captured() as entries:
        yield entries


# --- admission -------------------------------------------------------------------------------------------------------


async def test_welcome_says_what_there_is_and_the_others_hear_of_it(autojump_clock: MockClock, relay: Relay) -> None:
    house = relay.connect()
    house.say(hello(room="room1"))
    assert await house.hear() == Welcome(
        version=PROTOCOL, peer_id=1, room="ROOM1", effective_mtu=1500, fragments=True, members=(), gateway_present=True
    )
    ann = relay.connect()
    ann.say(hello(1))
    welcome = await ann.hear()
    assert isinstance(welcome, Welcome)
    assert [(member.peer_id, member.role) for member in welcome.members] == [(1, Role.GATEWAY)]
    assert (welcome.peer_id, welcome.gateway_present) == (2, True)
    joined = await house.hear()
    assert isinstance(joined, PeerJoined)
    assert (joined.member.peer_id, joined.member.virtual_mac) == (2, "02:00:00:00:00:01")
    assert await ann.silent()
    assert ann.admitted
    assert house.admitted


async def test_gateway_present_is_false_without_one(autojump_clock: MockClock, relay: Relay) -> None:
    ann = relay.connect()
    ann.say(hello(1))
    welcome = await ann.hear()
    assert isinstance(welcome, Welcome)
    assert not welcome.gateway_present


async def test_a_hello_may_come_in_crumbs_and_with_a_heartbeat_behind_it(
    autojump_clock: MockClock, relay: Relay
) -> None:
    ann = relay.connect()
    for byte in codec.encode(hello(1)) + codec.encode(Heartbeat(sequence=5, reply=False)):
        ann.say_bytes(bytes([byte]))
    assert isinstance(await ann.hear(), Welcome)
    assert await ann.hear() == Heartbeat(sequence=5, reply=True)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (hello(1, version=ProtocolVersion(2, 0)), RejectCode.VERSION),
        (hello(1, room="no spaces"), RejectCode.BAD_ROOM),
        (hello(1, room=""), RejectCode.BAD_ROOM),
        (hello(1, virtual_mac=None), RejectCode.BAD_HELLO),
        (hello(0, virtual_mac="02:00:00:00:00:01"), RejectCode.BAD_HELLO),
        (hello(1, virtual_mac="03:00:00:00:00:01"), RejectCode.BAD_MAC),
        (hello(1, virtual_mac="00:11:22:33:44:55"), RejectCode.BAD_MAC),
        (hello(1, virtual_mac="rubbish"), RejectCode.BAD_MAC),
        (hello(1, datagram_budget=10), RejectCode.MTU_TOO_SMALL),
    ],
)
async def test_bad_hellos(
    autojump_clock: MockClock, relay: Relay, said: Hello, code: RejectCode, log: list[dict[str, Any]]
) -> None:
    answer = await relay.refuse(said)
    assert answer.code is code
    assert answer.text.endswith(".")
    (entry,) = [entry for entry in log if entry["event"] == "relay.refused"]
    assert (entry["code"], entry["text"], entry["address"]) == (code.value, answer.text, "192.0.2.1:4711")
    assert len(relay.hub.rooms) == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", RejectCode.FRAME_TOO_LARGE),
        (b"\0\0\0\x02{}", RejectCode.BAD_MESSAGE),
        (b"\0\0\0\x02{]", RejectCode.BAD_JSON),
        (b"\0\0\0\x40" + b"[" * 64, RejectCode.TOO_DEEP),
        (b"\0\0\0\x10" + b'{"type":"hello"}', RejectCode.BAD_HELLO),
        (codec.encode(Heartbeat(sequence=1, reply=False)), RejectCode.BAD_HELLO),
        (codec.encode(Disconnect(code="x", reason="x")), RejectCode.BAD_HELLO),
        (b"\0\0\0\x11" + b'{"type":"future"}', RejectCode.BAD_HELLO),
    ],
)
async def test_no_hello_at_all(autojump_clock: MockClock, relay: Relay, data: bytes, code: RejectCode) -> None:
    stranger = relay.connect()
    stranger.say_bytes(data)
    answer = await stranger.hear()
    assert isinstance(answer, Reject)
    assert answer.code is code
    await trio.testing.wait_all_tasks_blocked()
    assert stranger.closed is not None
    assert len(relay.sessions) == 0


async def test_a_connection_with_tiny_datagrams_is_refused_whatever_its_hello_claims(
    autojump_clock: MockClock, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endpoint, "datagram_budget", 13)
    answer = await relay.refuse(hello(1))
    assert answer.code is RejectCode.MTU_TOO_SMALL
    assert "13 bytes" in answer.text
    assert "256" in answer.text


async def test_a_stranger_who_is_refused_over_and_over_writes_no_more_than_a_line_in_ten_seconds(
    autojump_clock: MockClock, relay: Relay, log: list[dict[str, Any]]
) -> None:
    for _ in range(50):
        await relay.refuse(hello(1, room="?"))
        await trio.sleep(0.1)
    await relay.refuse(hello(1, virtual_mac="rubbish"))
    await trio.sleep(5.5)
    await relay.refuse(hello(1, room="?"))
    told = [(entry["code"], entry["count"]) for entry in log if entry["event"] == "relay.refused"]
    assert told == [("bad-room", 1), ("bad-mac", 1), ("bad-room", 50)]
    assert relay.hub.refused == {"bad-room": 51, "bad-mac": 1}


async def test_a_hello_that_does_not_come(autojump_clock: MockClock, relay: Relay) -> None:
    start = trio.current_time()
    stranger = relay.connect()
    stranger.say_bytes(codec.encode(hello(1))[:-1])
    answer = await stranger.hear()
    assert isinstance(answer, Reject)
    assert answer.code is RejectCode.BAD_HELLO
    assert trio.current_time() - start == HELLO_DEADLINE
    await trio.testing.wait_all_tasks_blocked()
    assert stranger.closed is not None


async def test_a_reject_that_is_never_acknowledged_does_not_hold_the_session(
    autojump_clock: MockClock, relay: Relay
) -> None:
    stranger = relay.connect()
    stranger.unacknowledged = True
    stranger.say(hello(1, room="?"))
    assert isinstance(await stranger.hear(), Reject)
    await trio.sleep(FAREWELL - 0.1)
    assert stranger.closed is None
    await trio.sleep(0.2)
    assert stranger.closed is not None


async def test_a_second_gateway_and_a_duplicate_mac_and_a_full_room(autojump_clock: MockClock, relay: Relay) -> None:
    house = await relay.join(hello())
    members = [await relay.join(hello(number)) for number in (1, 2, 3)]
    for number in range(3):
        assert isinstance(await house.hear(), PeerJoined), number
    for said, code in (
        (hello(), RejectCode.GATEWAY_PRESENT),
        (hello(2), RejectCode.DUPLICATE_MAC),
        (hello(4), RejectCode.ROOM_FULL),
    ):
        assert (await relay.refuse(said)).code is code
    assert await house.silent() or isinstance(await house.hear(), Heartbeat)
    assert all(endpoint.closed is None for endpoint in (house, *members))
    await relay.join(hello(room="ROOM2"))
    assert (await relay.refuse(hello(room="ROOM3"))).code is RejectCode.TOO_MANY_ROOMS
    assert dict(relay.hub.refused) == {
        "gateway-present": 1,
        "duplicate-mac": 1,
        "room-full": 1,
        "too-many-rooms": 1,
    }


async def test_a_member_that_lives_is_asked_and_keeps_its_place(autojump_clock: MockClock, relay: Relay) -> None:
    ann = await relay.join(hello(1), alive=False)
    start = trio.current_time()

    async def answer() -> None:
        assert await ann.hear() == Heartbeat(sequence=0, reply=False)
        ann.say(Heartbeat(sequence=0, reply=True))

    relay.nursery.start_soon(answer)
    assert (await relay.refuse(hello(1))).code is RejectCode.DUPLICATE_MAC
    assert trio.current_time() == start
    assert ann.closed is None


@pytest.mark.parametrize("number", [0, 1])
async def test_a_member_that_was_killed_makes_room_for_its_restart(
    autojump_clock: MockClock, relay: Relay, number: int
) -> None:
    bob = await relay.join(hello(9))
    dead = await relay.join(hello(number), alive=False)
    start = trio.current_time()
    again = await relay.join(hello(number))
    assert trio.current_time() - start == PROOF_DEADLINE
    await trio.testing.wait_all_tasks_blocked()
    assert dead.closed is not None
    heard = [await bob.hear() for _ in range(3)]
    assert [type(message) for message in heard] == [PeerJoined, PeerLeft, PeerJoined]
    bob.frame(9, mac(1))
    assert (len(dead.datagrams), len(again.datagrams)) == (0, 1)


# --- identity and password ------------------------------------------------------------------------------------------

ANN, BOB, PASSWORD, WRONG = (Seed(bytes([number]) * 32) for number in (1, 2, 3, 4))


def proven(said: Hello, identity: Seed | None = None, room_key: Seed | None = None) -> Hello:
    return prove(said, Endpoint.binding, identity=identity, room_key=room_key)


@pytest.mark.parametrize("number", [0, 1])
async def test_the_same_identity_takes_its_place_over_at_once(
    autojump_clock: MockClock, relay: Relay, number: int
) -> None:
    bob = await relay.join(hello(9))
    old = await relay.join(proven(hello(number), ANN))  # it lives, or its connection does: that does not matter
    start = trio.current_time()
    new = await relay.join(proven(hello(number), ANN))
    assert trio.current_time() == start
    await trio.testing.wait_all_tasks_blocked()
    heard = [message for message in [await bob.hear() for _ in range(3)] if not isinstance(message, Heartbeat)]
    assert [type(message) for message in heard] == [PeerJoined, PeerLeft, PeerJoined]
    told = await old.hear()
    assert isinstance(told, Disconnect)
    assert told.code == TAKEN_OVER
    assert "taken over by the same" in told.reason
    assert old.closed is not None
    assert old.closed.code == CLOSE_TAKEN_OVER
    assert new.closed is None
    assert old.handler is None


async def test_a_dead_session_is_taken_over_without_waiting_for_its_goodbye(
    autojump_clock: MockClock, relay: Relay
) -> None:
    old = await relay.join(proven(hello(1), ANN), alive=False)
    old.reading = False
    start = trio.current_time()
    await relay.join(proven(hello(1), ANN))
    assert trio.current_time() == start
    await trio.sleep(FAREWELL + 0.1)
    assert old.closed is not None


@pytest.mark.parametrize("newcomer", [None, BOB])
async def test_a_client_of_another_identity_is_refused_even_while_the_owner_is_silent(
    autojump_clock: MockClock, relay: Relay, newcomer: Seed | None
) -> None:
    ann = await relay.join(proven(hello(1), ANN), alive=False)
    start = trio.current_time()
    assert (await relay.refuse(proven(hello(1), newcomer))).code is RejectCode.DUPLICATE_MAC
    assert trio.current_time() == start
    assert ann.closed is None
    await relay.join(proven(hello(1), ANN))


async def test_a_gateway_that_was_started_again_has_another_key_and_waits_as_before(
    autojump_clock: MockClock, relay: Relay
) -> None:
    await relay.join(hello(9))
    await relay.join(proven(hello(), ANN), alive=False)
    start = trio.current_time()
    await relay.join(proven(hello(), BOB))
    assert trio.current_time() - start == PROOF_DEADLINE


@pytest.mark.parametrize("field", ["identity", "room_key"])
@pytest.mark.parametrize("exists", [False, True])
async def test_a_proof_that_does_not_hold_is_refused_the_same_way_whether_or_not_the_room_is_there(
    autojump_clock: MockClock, relay: Relay, field: str, exists: bool
) -> None:
    if exists:
        await relay.join(proven(hello(), room_key=PASSWORD))
        await relay.join(proven(hello(1), ANN, PASSWORD))
    stolen = prove(hello(1), bytes(31) + b"1", identity=ANN, room_key=PASSWORD)  # seen on another connection
    said = attrs.evolve(proven(hello(1), ANN, PASSWORD), **{field: getattr(stolen, field)})
    answer = await relay.refuse(said)
    assert answer == Reject(
        code=RejectCode.BAD_HELLO, text="A proof in this hello is not one for this connection and room."
    )


async def test_a_wrong_password_is_answered_like_a_room_that_is_not_there(
    autojump_clock: MockClock, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.hub.rooms.limits = RoomLimits(max_waiting_rooms=3)
    house = await relay.join(proven(hello(), room_key=PASSWORD))
    await relay.join(proven(hello(2), room_key=PASSWORD))
    assert isinstance(await house.hear(), PeerJoined)
    answers = []
    for said in (hello(1), proven(hello(1), room_key=WRONG), proven(hello(1, room="NOWHERE"), room_key=WRONG)):
        endpoint = relay.connect()
        endpoint.say(said)
        answer = await endpoint.hear()
        assert isinstance(answer, Welcome)
        answers.append(attrs.evolve(answer, room="?"))
    assert answers[0] == answers[1] == answers[2]
    assert not answers[0].gateway_present
    assert await house.silent()
    guest = relay.connect()
    guest.say(proven(hello(1), room_key=PASSWORD))
    welcome = await guest.hear()
    assert isinstance(welcome, Welcome)
    assert welcome.gateway_present


async def test_guesses_are_throttled_and_the_owner_still_joins(autojump_clock: MockClock, relay: Relay) -> None:
    """From the guesser's own address, even: who met a gateway in the room may come back from anywhere."""
    relay.hub.rooms.limits = RoomLimits()
    tries = relay.hub.tries.limit
    assert tries == RoomLimits().room_tries
    house = await relay.join(hello(room="HOUSE"))
    owner = await relay.join(proven(hello(1, room="HOUSE"), ANN), alive=False)
    leave_politely(owner)
    answers = set()
    admitted = 0
    for number in range(200):
        stranger = relay.connect()
        stranger.say(proven(hello(2, room=f"GUESS{number}"), BOB))
        answer = await stranger.hear()
        if isinstance(answer, Welcome):
            admitted += 1
            leave_politely(stranger)
        else:
            assert isinstance(answer, Reject)
            answers.add((answer.code, answer.text))
    assert admitted == tries - 1  # one was HOUSE
    assert answers == {
        (
            RejectCode.TOO_MANY_TRIES,
            "Too many different rooms were asked for from this address; try again in 60 s.",
        )
    }
    assert (await relay.refuse(hello(room="MINE"))).code is RejectCode.TOO_MANY_TRIES  # gateways could guess as well
    await trio.sleep(2)
    assert house.closed is None
    await relay.join(hello(3, room="HOUSE"))  # a name that is known to this address
    relay.hub.tries._addresses.clear()
    for number in range(tries):
        relay.hub.tries.wait("192.0.2.1", (f"X{number}", None), None, trio.current_time())
    assert (await relay.refuse(hello(4, room="HOUSE"))).code is RejectCode.TOO_MANY_TRIES
    await relay.join(proven(hello(1, room="HOUSE"), ANN))
    await trio.sleep(60)
    await relay.join(hello(5, room="OTHER"))


async def test_who_waited_for_the_gateway_is_a_guest_too(autojump_clock: MockClock, relay: Relay) -> None:
    await relay.join(proven(hello(1), ANN))
    assert relay.hub.tries._guests == {}
    await relay.join(proven(hello(), BOB))
    assert len(relay.hub.tries._guests) == 2


async def test_a_member_that_floods_the_control_stream_is_put_out(autojump_clock: MockClock, relay: Relay) -> None:
    bob = await relay.join(hello(2))
    ann = await relay.join(hello(1), alive=False)
    assert isinstance(await bob.hear(), PeerJoined)
    ann.say(*[Heartbeat(sequence=0, reply=True)] * (CONTROL_BURST + 1))
    told = await ann.hear()
    assert isinstance(told, Disconnect)
    assert told.code == "protocol"
    await trio.testing.wait_all_tasks_blocked()
    assert ann.closed is not None
    left = await bob.hear()
    assert isinstance(left, PeerLeft)
    assert "so many control messages" in left.reason


async def test_a_member_may_talk_for_ever_at_the_pace_of_a_lost_path(autojump_clock: MockClock, relay: Relay) -> None:
    ann = await relay.join(hello(1), alive=False)
    for number in range(CONTROL_BURST * 2):
        ann.say(Heartbeat(sequence=number, reply=False))
        assert await ann.hear() == Heartbeat(sequence=number, reply=True)
        await trio.sleep(1 / CONTROL_RATE)


# --- frames ----------------------------------------------------------------------------------------------------------


async def test_datagrams_flow_from_admission_to_the_end_and_not_before(autojump_clock: MockClock, relay: Relay) -> None:
    ann = await relay.join(hello(1))
    bob = relay.connect()
    bob.frame(2)
    assert bob.handler is None
    ann.frame(1)
    assert bob.datagrams == []
    bob.say(hello(2))
    assert isinstance(await bob.hear(), Welcome)
    bob.frame(2)
    assert len(ann.datagrams) == 1
    ann.frame(1, mac(2))
    assert len(bob.datagrams) == 1
    bob.say(Disconnect(code="leaving", reason="bye"))
    await trio.testing.wait_all_tasks_blocked()
    ann.frame(1)
    assert len(bob.datagrams) == 1
    assert bob.handler is None


async def test_blocked_frames_are_told_once_at_once_and_then_at_most_every_ten_seconds(
    autojump_clock: MockClock, relay: Relay, log: list[dict[str, Any]]
) -> None:
    def told() -> list[tuple[str, int]]:
        return [(entry["rule"], entry["count"]) for entry in log if entry["event"] == "relay.frames-blocked"]

    ann = await relay.join(hello(1))
    offer = b"\x10\0\0\0" + ethernet(ipv4(udp(67, 68)), IPV4, source=mac(1))
    assert ann.handler is not None
    ann.handler([offer] * 3, trio.current_time())
    await trio.sleep(1)
    assert told() == [("dhcp-server", 3)]
    for _ in range(8):
        ann.handler([offer], trio.current_time())
        ann.frame(7)
        await trio.sleep(1)
    assert told() == [("dhcp-server", 3), ("address", 1)]
    await trio.sleep(1 + SILENCE)
    assert sorted(told()[2:]) == [("address", 7), ("dhcp-server", 8)]
    ann.frame(7)
    ann.say(Disconnect(code="leaving", reason="bye"))
    await trio.testing.wait_all_tasks_blocked()
    assert told()[4:] == [("address", 1)]


async def test_a_mistake_of_ours_with_one_members_datagrams_ends_that_session_only(
    autojump_clock: MockClock, relay: Relay, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await relay.join(hello(1)), await relay.join(hello(2))

    def broken(*_args: object) -> object:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Switch, "receive_untrusted", broken)
    ann.frame(1)
    await trio.testing.wait_all_tasks_blocked()
    assert ann.closed is not None
    assert bob.closed is None
    (entry,) = [entry for entry in log if entry["event"] == "program.task-failed"]
    assert entry["text"] == "ZeroDivisionError: a bug"


async def test_a_mistake_of_ours_as_one_member_leaves_ends_that_session_only(
    autojump_clock: MockClock, relay: Relay, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await relay.join(hello(1)), await relay.join(hello(2))

    def broken(*_args: object) -> object:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Switch, "remove", broken)
    leave_politely(ann)
    await trio.testing.wait_all_tasks_blocked()
    monkeypatch.undo()
    assert ann.closed is not None
    assert bob.closed is None
    (entry,) = [entry for entry in log if entry["event"] == "program.task-failed"]
    assert entry["text"] == "ZeroDivisionError: a bug"
    await relay.join(hello(3))


# --- the control stream of a member ----------------------------------------------------------------------------------


async def test_heartbeats_are_answered_and_unknown_messages_passed_over(
    autojump_clock: MockClock, relay: Relay
) -> None:
    ann = await relay.join(hello(1))
    ann.say_bytes(b"\0\0\0\x11" + b'{"type":"future"}')
    ann.say(Heartbeat(sequence=3, reply=False), Heartbeat(sequence=4, reply=False))
    assert await ann.hear() == Heartbeat(sequence=3, reply=True)
    assert await ann.hear() == Heartbeat(sequence=4, reply=True)


async def test_stats_are_noted_and_answered_with_the_relays_own(autojump_clock: MockClock, relay: Relay) -> None:
    ann = await relay.join(hello(1))
    ann.frame(1)
    ann.say(Stats(counters={"frames_out": 12, "room": 1, "event": 2}))
    answer = await ann.hear()
    assert isinstance(answer, Stats)
    assert answer.counters["frames_in"] == 1
    (session,) = relay.hub.sessions.values()
    assert session.stats == {"frames_out": 12, "room": 1, "event": 2}


@pytest.mark.parametrize(
    "data",
    [
        codec.encode(hello(1)),
        codec.encode(PeerLeft(peer_id=1, reason="")),
        codec.encode(Reject(code=RejectCode.PROTOCOL, text="")),
        b"\xff\xff\xff\xff",
        b"\0\0\0\x04[[[[",
    ],
)
async def test_a_member_that_breaks_the_protocol_is_told_and_ends(
    autojump_clock: MockClock, relay: Relay, data: bytes
) -> None:
    bob = await relay.join(hello(2))
    ann = await relay.join(hello(1))
    assert isinstance(await bob.hear(), PeerJoined)
    ann.say_bytes(data)
    assert isinstance(await ann.hear(), Disconnect)
    left = await bob.hear()
    assert isinstance(left, PeerLeft)
    assert left.reason.startswith("it broke the protocol")
    await trio.testing.wait_all_tasks_blocked()
    assert ann.closed is not None
    assert bob.closed is None


def leave_politely(endpoint: Endpoint) -> None:
    endpoint.say(Disconnect(code="leaving", reason="supper"))


def lose(endpoint: Endpoint) -> None:
    endpoint.hang_up("\x1b[2J" + "x" * 1000)


def time_out(endpoint: Endpoint) -> None:
    endpoint.hang_up("", timed_out=True)


@pytest.mark.parametrize(
    ("leave", "reason"),
    [
        (leave_politely, "supper"),
        (lose, "[2J" + "x" * 509),
        (time_out, "it does not answer any more"),
        (Endpoint.end_stream, "it closed its control stream"),
    ],
)
async def test_leaving_in_every_way_cleans_up(
    autojump_clock: MockClock, relay: Relay, log: list[dict[str, Any]], leave: Callable[[Endpoint], None], reason: str
) -> None:
    bob = await relay.join(hello(2))
    ann = await relay.join(hello(1), alive=False)
    assert isinstance(await bob.hear(), PeerJoined)
    leave(ann)
    assert await bob.hear() == PeerLeft(peer_id=2, reason=reason)
    await trio.testing.wait_all_tasks_blocked()
    assert ann.closed is not None
    assert relay.hub.rooms.member_count == len(relay.hub.sessions) == len(relay.sessions) == 1
    assert [entry["peer"] for entry in log if entry["event"] == "relay.member-left"] == [2]
    await relay.join(hello(1))


async def test_the_last_one_closes_the_room(autojump_clock: MockClock, relay: Relay, log: list[dict[str, Any]]) -> None:
    ann = await relay.join(hello(1))
    leave_politely(ann)
    await trio.testing.wait_all_tasks_blocked()
    assert len(relay.hub.rooms) == 0
    names = [entry["event"] for entry in log]
    assert names == ["relay.room-opened", "relay.member-joined", "relay.member-left", "relay.room-closed"]


async def test_silence_is_noticed_and_datagrams_are_no_silence(autojump_clock: MockClock, relay: Relay) -> None:
    bob = await relay.join(hello(2))
    ann = await relay.join(hello(1), alive=False)
    assert isinstance(await bob.hear(), PeerJoined)
    for _ in range(20):
        await trio.sleep(1.01)  # out of step with the looks
        ann.frame(1)
    last = trio.current_time()
    left = await bob.hear()
    assert isinstance(left, PeerLeft)
    assert SILENCE <= trio.current_time() - last <= 5.0
    assert ann.closed is not None


async def test_members_that_die_together_are_all_noticed_in_time(autojump_clock: MockClock, relay: Relay) -> None:
    members = [await relay.join(hello(number), alive=False) for number in (0, 1, 2)]
    for _ in range(3):
        for member in members:
            await trio.sleep(0.4)
            member.say(Heartbeat(sequence=0, reply=True))
    await trio.sleep(SILENCE + 0.5)
    assert all(member.closed is not None for member in members)


async def test_what_was_said_while_the_relay_stood_still_counts(autojump_clock: MockClock, relay: Relay) -> None:
    ann = await relay.join(hello(1), alive=False)
    bob = await relay.join(hello(2), alive=False)
    await trio.testing.wait_all_tasks_blocked()
    autojump_clock.autojump_threshold = math.inf
    autojump_clock.jump(20)  # as after SIGSTOP: every timer is due, and the sockets have not been read
    await trio.testing.wait_all_tasks_blocked()
    ann.frame(1)
    autojump_clock.autojump_threshold = 0
    await trio.sleep(1)
    assert (ann.closed, bob.closed is None) == (None, False)


async def test_members_that_are_well_are_looked_after_by_few_wake_ups(
    autojump_clock: MockClock, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asks_on_ticks(member: Endpoint) -> None:
        while True:
            member.say(Heartbeat(sequence=0, reply=True))
            await trio.sleep(2)

    for number in (0, 1, 2):
        member = await relay.join(hello(number), alive=False)
        relay.nursery.start_soon(asks_on_ticks, member)
        await trio.sleep(0.3)
    times = set()
    look = Session.look

    def noted(session: Session, now: float) -> float:
        times.add(now)
        return look(session, now)

    monkeypatch.setattr(Session, "look", noted)
    await trio.sleep(100)
    assert len(relay.sessions) == 3
    assert len(times) <= 100 / 2.5 + 1


async def test_a_member_that_does_not_read_stops_nobody_and_is_put_out(autojump_clock: MockClock, relay: Relay) -> None:
    slow = await relay.join(hello(1))
    slow.reading = False
    for _ in range(OUTBOX):
        bob = await relay.join(hello(2), alive=False)
        leave_politely(bob)
        await trio.testing.wait_all_tasks_blocked()
        if slow.closed is not None or not relay.hub.sessions:
            break
    assert relay.hub.rooms.member_count == 0
    await trio.sleep(FAREWELL + 0.1)
    assert slow.closed is not None
    assert slow.closed.reason == "it does not read its control stream"


async def test_who_asks_faster_than_it_reads_only_slows_itself(autojump_clock: MockClock, relay: Relay) -> None:
    greedy = await relay.join(hello(1))
    bob = await relay.join(hello(2))
    greedy.reading = False
    greedy.say(*[Heartbeat(sequence=n, reply=False) for n in range(3 * OUTBOX)])
    await trio.testing.wait_all_tasks_blocked()
    bob.say(Heartbeat(sequence=1, reply=False))
    assert await bob.hear() == Heartbeat(sequence=1, reply=True)


# --- the relay stops -------------------------------------------------------------------------------------------------


async def test_goodbye_reaches_members_and_those_who_wait(autojump_clock: MockClock, relay: Relay) -> None:
    ann, bob, stranger = await relay.join(hello(1)), await relay.join(hello(2)), relay.connect()
    await trio.testing.wait_all_tasks_blocked()
    start = trio.current_time()
    await relay.sessions.goodbye()
    assert trio.current_time() == start
    assert isinstance(await ann.hear(), PeerJoined)
    for member in (ann, bob):
        message = await member.hear()
        while isinstance(message, PeerLeft):
            message = await member.hear()
        assert isinstance(message, Disconnect)
        assert message.code == "shutting-down"
    reject = await stranger.hear()
    assert isinstance(reject, Reject)
    assert reject.code is RejectCode.SHUTTING_DOWN
    assert all(endpoint.closed is not None for endpoint in (ann, bob, stranger))
    late = relay.connect()
    assert late.closed is not None
    assert len(relay.sessions) == 0


async def test_goodbye_waits_for_a_dead_member_no_longer_than_its_deadline(
    autojump_clock: MockClock, relay: Relay
) -> None:
    ann = await relay.join(hello(1))
    ann.reading = False
    start = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()  # even when the program is cancelled already
        await relay.sessions.goodbye()
    assert trio.current_time() - start == FAREWELL
    assert ann.closed is not None


async def test_a_cancelled_relay_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    hub = RelayHub(rooms=Rooms())
    endpoint = Endpoint()
    session = Session(endpoint, hub)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        endpoint.say(hello(1))
        await endpoint.hear()
        nursery.cancel_scope.cancel()
    assert endpoint.closed is not None
    assert len(hub.rooms) == len(hub.sessions) == 0
