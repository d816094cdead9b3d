"""One session, against a relay in memory and in simulated time."""

import pytest
import trio
from uplink_fakes import GATEWAY, MAC, OTHER, FakePort, FakeRelay, admit, refuse, settings, welcome

from lanparty.ctrl.messages import (
    CLOSE_TAKEN_OVER,
    TAKEN_OVER,
    Disconnect,
    Heartbeat,
    Hello,
    PeerJoined,
    PeerLeft,
    ProtocolVersion,
    Stats,
)
from lanparty.ctrl.proof import Seed, is_proven_untrusted
from lanparty.obs.errors import ConnectionFailedError, MachineError, RefusedError, UntrustedError
from lanparty.obs.log import captured
from lanparty.proto.overlay import Echo, OverlayEncoder, encode_echo
from lanparty.quic.connection import Closed
from lanparty.uplink.session import ADMISSION_TIMEOUT, SILENCE, Session, SessionEnd
from lanparty.uplink.tunnel import Tunnel

ADDRESS = ("192.0.2.1", 443)
FRAME = bytes.fromhex("020000000001 020000000008 88b5") + bytes(46)


class Setup:
    def __init__(self, *script, port=None, **changes):
        self.relay = FakeRelay(list(script))
        self.port = port or FakePort()
        self.tunnel = Tunnel()
        self.ready = trio.Event()
        self.session = Session(
            settings(**changes),
            self.port,
            self.tunnel,
            on_admitted=lambda _connection, _welcome: self.ready.set(),
            driver=self.relay.driver,
        )

    @property
    def connection(self):
        return self.relay.connections[-1]

    async def run(self):
        return await self.session.run(ADDRESS)


async def test_hello_says_who_we_are(autojump_clock):
    setup = Setup(admit(lives=1))
    await setup.run()
    hello = setup.relay.heard[0]
    assert isinstance(hello, Hello)
    assert (hello.room, hello.virtual_mac, hello.datagram_budget) == ("ROOM1", MAC, 1170)


async def test_a_hello_proves_what_we_have_for_this_connection(autojump_clock):
    setup = Setup(admit(lives=1), identity=Seed(bytes(32)), room_key=Seed(b"k" * 32))
    await setup.run()
    hello = setup.relay.heard[0]
    assert (hello.identity.key, hello.room_key.key) == (Seed(bytes(32)).public, Seed(b"k" * 32).public)
    assert is_proven_untrusted(hello, setup.connection.binding)
    assert not is_proven_untrusted(hello, b"x" * 32)


async def test_without_keys_a_hello_is_as_in_version_1_0(autojump_clock):
    setup = Setup(admit(welcome(version=ProtocolVersion(1, 0)), lives=1))
    await setup.run()
    assert (setup.relay.heard[0].identity, setup.relay.heard[0].room_key) == (None, None)


async def test_a_relay_that_does_not_know_passwords_is_not_taken_for_one_that_does(autojump_clock):
    """It would put everybody who knows the room code into one room with us."""
    old = admit(welcome(version=ProtocolVersion(1, 0)))
    with pytest.raises(RefusedError, match="does not know room passwords") as caught:
        await Setup(old, room_key=Seed(bytes(32))).run()
    assert caught.value.code == "version"
    await Setup(admit(welcome(version=ProtocolVersion(1, 0)), lives=1), identity=Seed(bytes(32))).run()


@pytest.mark.parametrize("lost", [False, True])
async def test_who_is_taken_over_ends_and_says_why(lost, autojump_clock):
    async def taken(relay, connection):
        connection.say(welcome())
        await trio.sleep(1)
        if not lost:
            connection.say(Disconnect(code=TAKEN_OVER, reason="taken over"))
            await trio.sleep(1)
        connection.end(Closed(CLOSE_TAKEN_OVER, "taken over", by_peer=True, timed_out=False))

    setup = Setup(taken)
    with pytest.raises(RefusedError, match="Another program with the same identity") as caught:
        await setup.run()
    assert caught.value.code == TAKEN_OVER
    assert setup.port.named("lost")


async def test_connected_is_told_before_the_hello_is_answered(autojump_clock):
    async def mute(relay, connection):
        await trio.sleep_forever()

    with captured() as entries, pytest.raises(ConnectionFailedError):
        await Setup(mute).run()
    assert [(entry["event"], entry["address"], entry["port"]) for entry in entries] == [("uplink.connected", *ADDRESS)]


@pytest.mark.parametrize("after", [0, 0.1])
async def test_a_connection_that_ends_before_admission_is_a_plain_failure_and_no_group(after, autojump_clock):
    async def hangs_up(relay, connection):
        await trio.sleep(after)
        connection.drop("too many connections")

    with pytest.raises(ConnectionFailedError, match=r"nobody was admitted: .* \(too many connections\)"):
        await Setup(hangs_up).run()


async def test_order_of_a_session(autojump_clock):
    setup = Setup(admit(lives=1, early=(PeerJoined(member=OTHER), PeerLeft(peer_id=8, reason="bye"))))
    end = await setup.run()
    assert end == SessionEnd("the relay ended it (gone)")
    assert setup.port.calls == [
        ("admitted", 3),
        ("ready", 3),
        ("joined", 8),
        ("left", 8),
        ("lost", "the relay ended it (gone)"),
    ]
    assert not setup.tunnel.attached


@pytest.mark.parametrize(
    "code", ["version", "duplicate-mac", "gateway-present", "room-full", "bad-mac", "mtu-too-small"]
)
async def test_a_refusal_is_told_with_its_code_and_sentence(code, autojump_clock):
    setup = Setup(refuse(code, "The room is taken."))
    with pytest.raises(RefusedError, match="The room is taken") as caught:
        await setup.run()
    assert caught.value.code == code
    assert setup.port.calls == []


async def test_a_relay_that_shuts_down_is_worth_another_try(autojump_clock):
    setup = Setup(refuse("shutting-down", "Later."))
    with pytest.raises(ConnectionFailedError, match="Later"):
        await setup.run()


@pytest.mark.parametrize("failure", [UntrustedError("wrong certificate"), ConnectionFailedError("no answer")])
async def test_failures_of_the_handshake_pass_through(failure, autojump_clock):
    with pytest.raises(type(failure)) as caught:
        await Setup(failure).run()
    assert caught.value is failure


async def test_a_relay_that_never_answers_the_hello(autojump_clock):
    async def mute(relay, connection):
        await trio.sleep_forever()

    began = trio.current_time()
    with pytest.raises(ConnectionFailedError, match="did not answer the hello"):
        await Setup(mute).run()
    assert trio.current_time() - began == pytest.approx(ADMISSION_TIMEOUT)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xff\xff\xff\xff", id="a frame of 4 GiB"),
        pytest.param(b"\0\0\0\x02{]", id="no JSON"),
    ],
)
async def test_garbage_instead_of_a_welcome(raw, autojump_clock):
    async def garbage(relay, connection):
        connection.say(raw=raw)
        await trio.sleep_forever()

    with pytest.raises(ConnectionFailedError, match="no control message"):
        await Setup(garbage).run()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(welcome(version=ProtocolVersion(9, 0)), id="another major version"),
        pytest.param(welcome(room="ROOM2"), id="another room"),
        pytest.param(welcome(members=(GATEWAY, GATEWAY)), id="one member twice"),
    ],
)
async def test_a_welcome_that_cannot_be(answer, autojump_clock):
    with pytest.raises(ConnectionFailedError):
        await Setup(admit(answer)).run()


async def test_something_else_than_an_answer(autojump_clock):
    async def confused(relay, connection):
        connection.say(Stats(counters={}))
        await trio.sleep_forever()

    with pytest.raises(ConnectionFailedError, match="stats"):
        await Setup(confused).run()


async def test_garbage_later_ends_the_session_only(autojump_clock):
    async def garbage(relay, connection):
        connection.say(welcome())
        await trio.sleep(1)
        connection.say(raw=b"\0\0\0\x01[")
        await trio.sleep_forever()

    end = await Setup(garbage).run()
    assert "no control message" in end.reason


async def test_silence_is_noticed_within_five_seconds(autojump_clock):
    setup = Setup(admit(lives=20, then="silent"))
    began = trio.current_time()
    end = await setup.run()
    assert "no sign" in end.reason
    assert 20 <= trio.current_time() - began <= 20 + SILENCE + 0.1


async def test_two_seconds_of_silence_are_survived(autojump_clock):
    async def hiccup(relay, connection):
        connection.say(welcome())
        for pause in (1, 2, 4.4, 1):
            await trio.sleep(pause)
            connection.say(Heartbeat(sequence=1, reply=True))
        connection.drop("end of test")

    assert "end of test" in (await Setup(hiccup).run()).reason


async def test_datagrams_are_signs_of_life(autojump_clock):
    async def only_datagrams(relay, connection):
        connection.say(welcome())
        for _ in range(20):
            await trio.sleep(1)
            connection.deliver([encode_echo(Echo(0, reply=False, target=3, sequence=1, sent_us=1))])
        connection.drop("end of test")

    assert "end of test" in (await Setup(only_datagrams).run()).reason


async def test_the_relay_may_ask_for_a_heartbeat_too(autojump_clock):
    async def asks(relay, connection):
        connection.say(welcome(), Heartbeat(sequence=77, reply=False))
        async for message in connection.hears:
            relay.heard.append(message)

    setup = Setup(asks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.run)
        await trio.sleep(2)
        setup.session.end("enough")
    assert Heartbeat(sequence=77, reply=True) in setup.relay.heard


class Timed(Setup):
    """Notes when the member asks for signs of life, and answers echoes while `answering`."""

    def __init__(self, *script, answering=lambda now: True, **changes):
        super().__init__(*script, **changes)
        self.echoed = []
        send_echo = self.tunnel.send_echo

        def noted(now):
            self.echoed.append(now)
            send_echo(now)
            if answering(now):
                self.connection.deliver(
                    [encode_echo(Echo(0, reply=True, target=3, sequence=len(self.echoed), sent_us=0))]
                )

        self.tunnel.send_echo = noted


async def member(relay, connection):
    """Admits, hears messages with their times, and answers nothing."""
    connection.say(welcome())
    async for message in connection.hears:
        relay.heard.append((trio.current_time(), message))


async def run_for(setup, seconds):
    with trio.move_on_after(seconds):
        await setup.run()


async def test_an_idle_session_asks_by_echo_on_each_tick_and_sends_stats_each_ten_seconds(autojump_clock):
    await trio.sleep(0.7)
    setup = Timed(member)
    await run_for(setup, 21)
    assert setup.echoed == [0.7, *range(2, 21, 2)]
    later = [(at, message) for at, message in setup.relay.heard if at > 0.7]
    assert [(at, type(message)) for at, message in later] == [(10, Stats), (20, Stats)]
    assert later[0][1].counters["echo_sent"] == 6


async def test_before_frames_flow_heartbeats_are_the_sign_of_life(autojump_clock):
    class Slow(FakePort):
        async def on_admitted(self, welcome):
            await trio.sleep(9)
            await super().on_admitted(welcome)

    setup = Timed(member, port=Slow())
    await run_for(setup, 15)
    beats = [at for at, message in setup.relay.heard if isinstance(message, Heartbeat)]
    assert beats == [0, 2, 4, 6, 8]
    assert setup.echoed == [9, 10, 12, 14]


async def test_a_missing_answer_is_asked_for_more_often_and_on_the_control_stream(autojump_clock):
    setup = Timed(member, answering=lambda now: not 5 < now < 8)
    await run_for(setup, 13)
    assert setup.echoed == [0, 2, 4, 6, 7, 7.5, 8, 10, 12]
    beats = [at for at, message in setup.relay.heard if isinstance(message, Heartbeat)]
    assert beats == [0, 7, 7.5, 8]


@pytest.mark.parametrize("begins", [4.1, 5, 5.5, 5.9, 5.99])
async def test_a_path_that_is_away_for_two_seconds_is_not_given_up(begins, autojump_clock):
    setup = Timed(member, answering=lambda now: not begins < now < begins + 2)
    await run_for(setup, 30)
    assert setup.echoed[-1] == 28


@pytest.mark.parametrize("dies", [4.01, 5, 5.99])
async def test_a_dead_path_is_noticed_within_five_seconds(dies, autojump_clock):
    setup = Timed(member, answering=lambda now: now < dies)
    end = await setup.run()
    assert "no sign" in end.reason
    assert trio.current_time() <= dies + SILENCE + 0.01


async def test_frames_flow_between_ready_and_lost(autojump_clock):
    async def sends(relay, connection):
        connection.say(welcome())
        await trio.sleep(1)
        connection.deliver(OverlayEncoder(1170).encode(FRAME, 8))
        await trio.sleep(1)
        connection.drop()

    setup = Setup(sends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.run)
        await setup.ready.wait()
        setup.tunnel.transmit([FRAME])
        sent = OverlayEncoder(1170).encode(FRAME)[0] in setup.connection.datagrams
    assert sent
    assert setup.port.frames == [(8, FRAME)]
    setup.tunnel.transmit([FRAME])
    assert setup.tunnel.counters.not_connected_dropped == 1


async def test_stop_says_goodbye_with_the_reason(autojump_clock):
    setup = Setup(admit())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.run)
        await setup.ready.wait()
        setup.session.end("the player left", stopped=True)
    assert setup.connection.sent[-1] == Disconnect(code="leaving", reason="the player left")
    assert setup.connection.closed == Closed(0, "the player left", by_peer=False, timed_out=False)


async def test_goodbye_does_not_wait_for_a_relay_that_does_not_acknowledge(autojump_clock):
    setup = Setup(admit())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.run)
        await setup.ready.wait()
        setup.connection.drained = trio.sleep_forever
        began = trio.current_time()
        setup.session.end("the player left", stopped=True)
    assert trio.current_time() - began <= 1.01


async def test_the_relays_goodbye_gives_the_reason(autojump_clock):
    async def says_goodbye(relay, connection):
        connection.say(welcome())
        await trio.sleep(1)
        connection.say(Disconnect(code="shutting-down", reason="The relay is shutting down."))
        await trio.sleep_forever()

    end = await Setup(says_goodbye).run()
    assert "shutting down" in end.reason


async def test_a_port_that_cannot_ends_it_with_its_own_failure(autojump_clock):
    setup = Setup(admit(), port=FakePort(failure=MachineError("no TAP")))
    with pytest.raises(MachineError, match="no TAP"):
        await setup.run()
    assert setup.port.calls == [("admitted", 3), ("lost", "no TAP")]


async def test_ended_while_connecting(autojump_clock):
    setup = Setup("silent")
    async with trio.open_nursery() as nursery:

        async def run():
            assert await setup.run() == SessionEnd("stop", stopped=True)

        nursery.start_soon(run)
        await trio.sleep(1)
        setup.session.end("stop", stopped=True)


async def test_cancelled_from_outside_leaves_nothing_attached(autojump_clock):
    setup = Setup(admit())
    with trio.move_on_after(3):
        await setup.run()
    assert not setup.tunnel.attached
    assert setup.connection.closed is not None
    assert setup.port.named("lost") == ["cancelled"]


async def test_members_are_told_to_people(autojump_clock):
    with captured() as entries:
        await Setup(admit(lives=1, early=(PeerJoined(member=OTHER), PeerLeft(peer_id=8, reason="bye")))).run()
    assert [entry["event"] for entry in entries if entry["event"].startswith("room.")] == [
        "room.peer-joined",
        "room.peer-left",
    ]
