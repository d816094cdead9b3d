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
    PROTOCOL,
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
from lanparty.obs.log import captured
from lanparty.quic.connection import Closed, ConnectionLost
from lanparty.relay.rooms import RoomLimits, Rooms
from lanparty.relay.session import FAREWELL, HELLO_DEADLINE, OUTBOX, PROOF_DEADLINE, SILENCE, RelayHub, Session
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
    await relay.join(hello(1, room="ROOM2"))
    assert (await relay.refuse(hello(1, room="ROOM3"))).code is RejectCode.TOO_MANY_ROOMS
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
