"""Which failures end the program, and when the next try is: against a relay in memory and in simulated time."""

import math
import random

import pytest
import trio
from uplink_fakes import FakePort, FakeRelay, admit, refuse, settings, welcome

from lanparty.ctrl.messages import TAKEN_OVER, Disconnect
from lanparty.obs.errors import ConnectionFailedError, MachineError, RefusedError, UntrustedError
from lanparty.obs.log import captured
from lanparty.quic.connection import Closed, ConnectionLost
from lanparty.uplink.backoff import CAP
from lanparty.uplink.loop import LEAST_PATIENCE, LOOKUP_TIMEOUT, OWN_GHOST, UplinkLoop
from lanparty.uplink.resolve import MAX_ADDRESSES, ResolveError
from lanparty.uplink.session import HANDSHAKE_TIMEOUT, MOVE_PATIENCE
from lanparty.uplink.tunnel import Tunnel

A, B = ("192.0.2.1", 443), ("2001:db8::1", 443)
NO_ANSWER = ConnectionFailedError("No answer from 192.0.2.1: is the relay running?")


class Names:
    def __init__(self, *answers):
        self.answers = list(answers) or [[A]]

    async def __call__(self, host, port):
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer == "silent":
            await trio.sleep_forever()
        return answer


class Watch:
    """Reports one change after another, when the test says so."""

    def __init__(self):
        self.change = trio.Event()
        self.paths = []

    async def wait_changed(self, path):
        self.paths.append(path.relay)
        await self.change.wait()
        self.change = trio.Event()
        return "another Wi-Fi"


class Setup:
    def __init__(self, *script, names=None, watch=None, port=None, **changes):
        self.relay = FakeRelay(list(script))
        self.port = port or FakePort()
        self.tunnel = Tunnel()
        self.loop = UplinkLoop(
            settings(**changes),
            self.port,
            self.tunnel,
            watch=watch,
            uniform=random.Random(1).random,
            driver=self.relay.driver,
            resolver=names or Names(),
        )

    @property
    def times(self):
        return [time for time, _ in self.relay.tries]


async def run_for(setup, seconds):
    """Run the loop, stop it after ``seconds``."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.loop.run)
        await trio.sleep(seconds)
        await setup.loop.stop("enough")


@pytest.mark.parametrize("failure", [RefusedError("x", "No."), UntrustedError("Wrong certificate.")])
async def test_no_second_try_after_a_final_no(failure, autojump_clock):
    setup = Setup(failure)
    with pytest.raises(type(failure)):
        await setup.loop.run()
    assert len(setup.relay.tries) == 1


@pytest.mark.parametrize("code", ["duplicate-mac", "gateway-present", "room-full", "version"])
async def test_refused_at_the_first_join_is_final(code, autojump_clock):
    setup = Setup(refuse(code))
    with pytest.raises(RefusedError):
        await setup.loop.run()
    assert len(setup.relay.tries) == 1


async def test_a_relay_that_does_not_answer_is_given_up_with_its_reason(autojump_clock):
    setup = Setup(NO_ANSWER)
    began = trio.current_time()
    with pytest.raises(ConnectionFailedError, match=r"No answer from 192\.0\.2\.1.*15 s \(--connect-timeout\)"):
        await setup.loop.run()
    assert trio.current_time() - began == pytest.approx(15)
    assert len(setup.relay.tries) > 5


async def test_given_up_in_the_middle_of_a_silent_try(autojump_clock):
    setup = Setup("silent")
    with pytest.raises(ConnectionFailedError, match=r"No answer from 192\.0\.2\.1.*Tried for 15 s"):
        await setup.loop.run()
    assert trio.current_time() == pytest.approx(15)


async def test_given_up_even_if_the_network_never_settles(autojump_clock):
    class Restless(Watch):
        async def wait_changed(self, path):
            await trio.sleep(1)
            return "another Wi-Fi"

    with pytest.raises(ConnectionFailedError, match=r"relay\.example does not answer on UDP port 443"):
        await Setup("silent", watch=Restless()).loop.run()
    assert trio.current_time() == pytest.approx(15)


async def test_given_up_while_a_name_server_is_silent(autojump_clock):
    setup = Setup(admit(), names=Names("silent"))
    with captured() as entries, pytest.raises(ConnectionFailedError, match=r"no name server answers.*Tried for 15 s"):
        await setup.loop.run()
    assert trio.current_time() == pytest.approx(15)
    assert [entry["event"] for entry in entries] == ["uplink.resolving"]


@pytest.mark.parametrize("silent", [1, 2, 3, 5, MAX_ADDRESSES - 1])
@pytest.mark.parametrize("connect_timeout", [0.5, 15.0, math.inf])
async def test_silent_addresses_never_keep_the_last_one_from_its_try(silent, connect_timeout, autojump_clock):
    names = Names([(f"192.0.2.{number}", 443) for number in range(silent + 1)])
    setup = Setup(*["silent"] * silent, admit(), names=names, connect_timeout=connect_timeout)
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.loop.run)
        assert len(setup.times) == silent + 1
        waits = [later - earlier for earlier, later in zip(setup.times, setup.times[1:], strict=False)]
        assert all(LEAST_PATIENCE <= wait <= HANDSHAKE_TIMEOUT + 0.1 for wait in waits)
        if connect_timeout == 15.0:
            assert setup.times[-1] < connect_timeout
        await setup.loop.stop("enough")


async def test_after_a_loss_silent_addresses_are_passed_over_at_first_and_waited_for_later(autojump_clock):
    setup = Setup(admit(lives=10), *["silent"] * 8, admit(), names=Names([(f"192.0.2.{n}", 443) for n in range(4)]))
    await run_for(setup, 60)
    waits = [later - earlier for earlier, later in zip(setup.times[1:], setup.times[2:], strict=False)]
    assert waits[:3] == [pytest.approx(1.0)] * 3
    assert waits[4:7] == [pytest.approx(2.0)] * 3
    assert len(setup.port.named("ready")) == 2


async def test_without_timeout_it_is_never_given_up(autojump_clock):
    setup = Setup(NO_ANSWER, connect_timeout=math.inf)
    await run_for(setup, 3600)
    assert len(setup.relay.tries) > 3600 / CAP


async def test_a_name_that_does_not_resolve_yet(autojump_clock):
    names = Names(ResolveError("no such name"), ResolveError("no such name"), [A])
    setup = Setup(admit(), names=names)
    with captured() as entries:
        await run_for(setup, 3)
    assert setup.port.named("ready") == [3]
    assert [entry["reason"] for entry in entries if entry["event"] == "uplink.waiting"] == ["No such name."] * 2


@pytest.mark.parametrize(
    ("answer", "reason", "latest"),
    [
        pytest.param(ResolveError("no such name"), "No such name.", 0.3, id="the name server says no"),
        pytest.param("silent", "No answer within 2 s.", LOOKUP_TIMEOUT + 0.3, id="the question goes into the tunnel"),
    ],
)
async def test_after_a_loss_the_addresses_of_before_will_do(answer, reason, latest, autojump_clock):
    setup = Setup(admit(lives=10), NO_ANSWER, admit(), names=Names([A, B], answer))
    with captured() as entries:
        await run_for(setup, 30)
    assert [address for _, address in setup.relay.tries] == [A, A, B]
    assert setup.times[1] <= 10 + latest
    assert [entry["text"] for entry in entries if entry["event"] == "program.task-failed"] == [
        f"{reason} Using its last addresses."
    ]


async def test_all_addresses_of_a_name_are_tried_and_the_good_one_comes_first_later(autojump_clock):
    setup = Setup(NO_ANSWER, admit(lives=10), admit(), names=Names([A, B]))
    with captured() as entries:
        await run_for(setup, 20)
    assert [address for _, address in setup.relay.tries] == [A, B, B]
    assert setup.port.named("connecting") == [A[0], B[0], B[0]]
    assert [entry["address"] for entry in entries if entry["event"] == "uplink.attempt-failed"] == [A[0]]


async def test_no_route_to_one_address_leaves_the_others(autojump_clock):
    class NoIpv4(FakePort):
        async def on_connecting(self, address):
            await super().on_connecting(address)
            if address == A[0]:
                raise ConnectionFailedError("no route")

    setup = Setup(admit(), names=Names([A, B]), port=NoIpv4())
    await run_for(setup, 1)
    assert [address for _, address in setup.relay.tries] == [B]


async def test_a_machine_that_cannot_is_final(autojump_clock):
    with pytest.raises(MachineError):
        await Setup(admit(), port=FakePort(connecting_failure=MachineError("permission denied"))).loop.run()


async def test_lost_sessions_come_back_for_ever(autojump_clock):
    setup = Setup(admit(lives=10), *[NO_ANSWER] * 50, admit())
    await run_for(setup, 400)
    assert len(setup.port.named("ready")) == 2
    assert setup.tunnel.counters.reconnects == 1
    gaps = [later - earlier for earlier, later in zip(setup.times[1:], setup.times[2:], strict=False)]
    assert max(gaps) <= CAP


async def test_a_long_session_begins_the_back_off_anew_a_short_one_does_not(autojump_clock):
    steady = Setup(*[admit(lives=10)] * 8, admit())
    await run_for(steady, 120)
    assert all(later - earlier < 10.3 for earlier, later in zip(steady.times, steady.times[1:], strict=False))
    flapping = Setup(admit(lives=0.01))
    await run_for(flapping, 120)
    assert len(flapping.times) < 120 / (CAP / 2) + 10


async def test_our_own_ghost_is_waited_for_and_then_believed(autojump_clock):
    setup = Setup(admit(lives=10), refuse("duplicate-mac"))
    with pytest.raises(RefusedError):
        await setup.loop.run()
    assert setup.times[-1] - 10 >= OWN_GHOST - CAP
    assert setup.times[-1] - 10 < OWN_GHOST + CAP + 2


async def test_our_own_ghost_goes(autojump_clock):
    setup = Setup(admit(lives=10), refuse("gateway-present"), refuse("gateway-present"), admit())
    await run_for(setup, 60)
    assert len(setup.port.named("ready")) == 2


@pytest.mark.parametrize("code", ["version", "bad-room", "mtu-too-small"])
async def test_another_refusal_after_a_loss_is_final(code, autojump_clock):
    setup = Setup(admit(lives=10), refuse(code))
    with pytest.raises(RefusedError):
        await setup.loop.run()
    assert len(setup.relay.tries) == 2


@pytest.mark.parametrize("code", ["too-many-tries", "too-many-rooms"])
async def test_a_relay_that_is_busy_with_strangers_is_asked_again_after_an_admission(code, autojump_clock):
    setup = Setup(admit(lives=10), *[refuse(code, "Later.")] * 20, admit())
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.loop.run)
        await trio.sleep(150)
        assert len(setup.port.named("ready")) == 2
        await setup.loop.stop("enough")
    with pytest.raises(RefusedError):
        await Setup(refuse(code, "Later.")).loop.run()


async def test_who_was_taken_over_does_not_come_back(autojump_clock):
    async def taken(relay, connection):
        connection.say(welcome(), Disconnect(code=TAKEN_OVER, reason="taken over"))
        await trio.sleep_forever()

    setup = Setup(taken, admit())
    with pytest.raises(RefusedError) as caught:
        await setup.loop.run()
    assert caught.value.code == TAKEN_OVER
    assert len(setup.relay.tries) == 1


async def test_a_session_moves_with_the_network(autojump_clock):
    """As often as it changes; the relay's route is pinned anew before, and nobody is lost or joins."""
    watch = Watch()
    setup = Setup(admit(), watch=watch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.loop.run)
        await trio.sleep(30)
        with captured() as entries:
            for _ in range(3):
                watch.change.set()
                await trio.sleep(1)
        told = [entry for entry in entries if entry["event"].startswith("uplink.")]
        assert [entry["event"] for entry in told] == ["uplink.moved"] * 3
        assert told[0]["address"] == "192.0.2.77"
        assert setup.times == [pytest.approx(0)]
        assert setup.port.named("connecting") == [A[0]] * 4
        assert setup.port.named("ready") == [3]
        assert setup.port.named("lost") == []
        await setup.loop.stop("enough")


@pytest.mark.parametrize(
    ("moves", "after", "why"),
    [
        (ConnectionFailedError("Cannot reach the relay."), 0.0, "another Wi-Fi, and: Cannot reach the relay."),
        (ConnectionLost(Closed(0, "", by_peer=False, timed_out=True)), 0.0, "another Wi-Fi, and: connection closed"),
        (None, MOVE_PATIENCE, "another Wi-Fi, and nothing comes back that way"),
    ],
)
async def test_a_session_that_cannot_move_is_made_anew_at_once(moves, after, why, autojump_clock):
    watch = Watch()
    setup = Setup(admit(), watch=watch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.loop.run)
        await trio.sleep(30)
        setup.relay.connections[0].moves = moves
        with captured() as entries:
            watch.change.set()
            await trio.sleep(after + 0.01)
        assert setup.times == [pytest.approx(0), pytest.approx(30 + after)]
        told = [entry["reason"] for entry in entries if entry["event"] == "uplink.network-changed"]
        assert len(told) == 1
        assert told[0].startswith(why)
        await setup.loop.stop("enough")


async def test_a_network_that_changes_before_frames_flow_begins_anew(autojump_clock):
    watch = Watch()
    setup = Setup("silent", admit(), watch=watch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.loop.run)
        await trio.sleep(1)
        watch.change.set()
        await trio.sleep(0.01)
        assert setup.times == [pytest.approx(0), pytest.approx(1)]
        await setup.loop.stop("enough")


async def test_a_changed_network_cuts_the_back_off_short(autojump_clock):
    watch = Watch()
    setup = Setup(NO_ANSWER, watch=watch, connect_timeout=math.inf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.loop.run)
        await trio.sleep(20)
        tries = len(setup.times)
        watch.change.set()
        await trio.sleep(0.01)
        assert len(setup.times) == tries + 1
        await setup.loop.stop("enough")


async def test_a_network_that_cannot_be_watched_is_told_once_and_the_silence_is_noticed_instead(autojump_clock):
    class Blind(Watch):
        async def wait_changed(self, path):
            await trio.lowlevel.checkpoint()
            raise MachineError("cannot look up the route: no buffer space")

    setup = Setup(admit(lives=10, then="silent"), NO_ANSWER, admit(), watch=Blind())
    with captured() as entries:
        await run_for(setup, 60)
    assert len(setup.port.named("ready")) == 2
    told = [entry for entry in entries if entry["event"] == "program.task-failed"]
    assert [entry["text"] for entry in told] == ["cannot look up the route: no buffer space"]


async def test_a_connection_lost_before_admission_is_tried_again(autojump_clock):
    async def hangs_up(relay, connection):
        connection.drop("restarting")

    setup = Setup(hangs_up, admit())
    await run_for(setup, 5)
    assert setup.port.named("ready") == [3]


async def test_started_means_that_frames_flow(autojump_clock):
    setup = Setup(NO_ANSWER, admit())
    async with trio.open_nursery() as nursery:
        welcome = await nursery.start(setup.loop.run)
        assert welcome.peer_id == 3
        assert setup.tunnel.attached
        await setup.loop.stop("enough")


@pytest.mark.parametrize("script", [["silent"], [NO_ANSWER], [admit()]])
async def test_stop_is_quick_whatever_is_going_on(script, autojump_clock):
    setup = Setup(*script)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.loop.run)
        await trio.sleep(1)
        began = trio.current_time()
        await setup.loop.stop("enough")
    assert trio.current_time() - began <= 1.0


async def test_stop_while_a_name_server_is_silent(autojump_clock):
    async def never(host, port):
        await trio.sleep_forever()

    setup = Setup(admit(), names=never)
    await run_for(setup, 1)
    assert setup.times == []


async def test_the_steps_are_told_in_order(autojump_clock):
    setup = Setup(admit(lives=10), admit())
    with captured() as entries:
        await run_for(setup, 15)
    names = [entry["event"] for entry in entries if entry["event"].startswith("uplink.")]
    once = ["uplink.resolving", "uplink.resolved", "uplink.connecting", "uplink.connected", "uplink.admitted"]
    assert names == [*once, "uplink.lost", *once]
