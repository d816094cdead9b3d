"""The gateway's logic between a LAN and a tunnel, both in memory, in simulated time."""

import pytest
import trio

from lanparty.ctrl.messages import PROTOCOL, Member, Role, Welcome
from lanparty.gateway.bridge import Bridge
from lanparty.gateway.members import PROVISIONAL_AGE
from lanparty.obs.log import captured
from lanparty.proto.probe import encode_probe, parse_probe_untrusted
from lanparty.uplink.tunnel import Tunnel

ONE, TWO, HOUSE = (bytes.fromhex(text) for text in ("020000000001", "020000000002", "001122334455"))


class FakeLan:
    interface = "lan0"
    mac = bytes.fromhex("0a0000000099")

    def __init__(self, up=True):
        self.is_up = up
        self.on_frames = None
        self.on_state = None
        self.members = frozenset()
        self.written = []
        self.deaf = False

    def set_members(self, members):
        self.members = frozenset(members)

    def set_deaf(self, deaf):
        self.deaf = deaf

    def write_batch(self, frames):
        self.written += frames

    def set_up(self, up):
        self.is_up = up
        self.on_state(up)

    def take(self):
        """What was written since, but probes."""
        written, self.written = self.written, []
        return [frame for frame in written if parse_probe_untrusted(frame) is None]

    def take_probes(self):
        written, self.written = self.written, []
        return [frame for frame in written if parse_probe_untrusted(frame) is not None]


def player(peer, mac):
    return Member(peer_id=peer, role=Role.CLIENT, virtual_mac=mac.hex(":"), display_name="p")


def welcome(*members):
    return Welcome(PROTOCOL, 9, "ROOM1", 1500, True, members, True)


def frame(source, destination=HOUSE):
    return (destination + source + b"\x81\x37").ljust(60, b"\0")  # IPX, which nothing is asked about


def refreshed(frames):
    return [sent[6:12] for sent in frames if sent[:6] == b"\xff" * 6]


class Setup:
    def __init__(self, up=True):
        self.lan = FakeLan(up)
        self.tunnel = Tunnel()
        self.bridge = Bridge(self.lan, self.tunnel, cam_interval=5.0)

    async def admit(self, *members):
        await self.bridge.on_admitted(welcome(*members))
        self.bridge.on_ready(welcome(*members))


@pytest.fixture
async def setup(autojump_clock):
    async with trio.open_nursery() as nursery:
        setup = Setup()
        nursery.start_soon(setup.bridge.refresh)
        yield setup
        nursery.cancel_scope.cancel()


async def test_members_of_the_welcome_are_bridged_and_refreshed(setup, autojump_clock):
    await setup.admit(player(1, ONE))
    await trio.testing.wait_all_tasks_blocked()
    assert setup.lan.members == {ONE}
    assert refreshed(setup.lan.take()) == [ONE]
    await trio.sleep(11)
    assert refreshed(setup.lan.take()) == [ONE, ONE]


async def test_joined_at_once_left_never_again(setup, autojump_clock):
    await setup.admit()
    setup.bridge.on_peer_joined(player(2, TWO))
    await trio.testing.wait_all_tasks_blocked()
    assert refreshed(setup.lan.take()) == [TWO]
    setup.bridge.on_peer_left(2)
    await trio.sleep(60)
    assert setup.lan.take() == []
    assert setup.lan.members == frozenset()


async def test_while_the_relay_is_lost_nobody_is_remote_and_then_all_are_refreshed(setup, autojump_clock):
    await setup.admit(player(1, ONE))
    await trio.sleep(1)
    setup.bridge.on_lost("gone")
    setup.lan.take()
    await trio.sleep(30)
    assert setup.lan.take() == []
    assert setup.lan.members == frozenset()
    await setup.admit(player(4, ONE))
    await trio.testing.wait_all_tasks_blocked()
    assert refreshed(setup.lan.take()) == [ONE]


async def test_a_lan_that_is_down_gets_nothing_and_all_of_it_when_it_is_back(setup, autojump_clock):
    await setup.admit(player(1, ONE))
    await trio.sleep(1)
    setup.lan.set_up(False)
    setup.lan.take()
    await trio.sleep(30)
    assert setup.lan.take() == []
    setup.lan.set_up(True)
    await trio.testing.wait_all_tasks_blocked()
    assert refreshed(setup.lan.take()) == [ONE]


async def test_frames_both_ways(setup, autojump_clock):
    await setup.admit(player(1, ONE))
    await trio.testing.wait_all_tasks_blocked()
    setup.lan.take()
    setup.bridge.on_frames([(1, frame(ONE)), (1, frame(TWO))], trio.current_time())
    assert setup.lan.take() == [frame(ONE)]
    setup.lan.on_frames([frame(HOUSE, ONE), frame(ONE, HOUSE)])
    assert setup.tunnel.counters.not_connected_dropped == 1  # No session here: what would have been sent.
    counters = setup.tunnel.as_dict()
    assert counters["dropped.room-source"] == 1
    assert counters["dropped.house-member-source"] == 1


async def test_a_sender_that_is_not_announced_yet_gets_its_answers_for_a_moment(setup, autojump_clock):
    await setup.admit()
    setup.bridge.on_frames([(2, frame(TWO))], trio.current_time())
    assert setup.lan.members == {TWO}
    await trio.sleep(PROVISIONAL_AGE + 0.1)
    assert setup.lan.members == frozenset()


@pytest.mark.parametrize("lan_first", [True, False])
async def test_bridging_is_said_when_both_sides_are_there(lan_first, autojump_clock):
    setup = Setup(up=False)
    with captured() as entries:
        if lan_first:
            setup.lan.set_up(True)
        await setup.admit()
        if not lan_first:
            assert not [entry for entry in entries if entry["event"] == "gateway.bridging"]
            setup.lan.set_up(True)
    said = [entry for entry in entries if entry["event"] == "gateway.bridging"]
    assert [(entry["interface"], entry["room"], entry["peer"]) for entry in said] == [("lan0", "ROOM1", 9)]


# ------------------------------------------------------------------------------------------------ loops


def loop_events(entries):
    return [
        entry["event"] for entry in entries if entry["event"].startswith(("gateway.loop", "gateway.room", "gateway.o"))
    ]


async def test_a_loop_in_the_house_stops_everything_until_it_is_gone(setup, autojump_clock):
    await setup.admit(player(1, ONE))
    await trio.testing.wait_all_tasks_blocked()
    with captured() as entries:
        (probe, *_) = setup.lan.take_probes()
        setup.lan.on_frames([probe] * 50)
        assert loop_events(entries) == ["gateway.loop"]
        assert setup.lan.deaf
        setup.lan.take()
        setup.bridge.on_frames([(1, frame(ONE))], trio.current_time())
        setup.lan.on_frames([frame(HOUSE, ONE)] * 3)
        await trio.sleep(7)
        assert setup.lan.take() == []
        counters = setup.tunnel.as_dict()
        assert (counters["dropped.loop"], counters["not_connected_dropped"]) == (4, 0)
        await trio.sleep(120)
        assert loop_events(entries) == ["gateway.loop", "gateway.loop-cleared"]
    assert not setup.lan.deaf
    assert ONE in refreshed(setup.lan.take())
    setup.bridge.on_frames([(1, frame(ONE))], trio.current_time())
    assert setup.lan.take() == [frame(ONE)]


async def test_the_own_probe_from_the_room_is_a_loop_as_well(setup, autojump_clock):
    await setup.admit(player(1, ONE))
    await trio.testing.wait_all_tasks_blocked()
    (probe, *_) = setup.lan.take_probes()
    with captured() as entries:
        setup.bridge.on_frames([(1, probe)], trio.current_time())
        assert loop_events(entries) == ["gateway.room-loop"]
    assert "dropped.room-source" not in setup.tunnel.as_dict()


async def test_another_gateway_is_told_and_its_probe_goes_nowhere(setup, autojump_clock):
    await setup.admit(player(1, ONE))
    with captured() as entries:
        setup.lan.on_frames([encode_probe(b"somebody", 1), frame(HOUSE, ONE)])
        setup.lan.on_frames([encode_probe(b"somebody", 2)])
        assert loop_events(entries) == ["gateway.other-gateway"]
    assert setup.tunnel.counters.not_connected_dropped == 1  # the frame alone: there is no session here
    assert "dropped.house-member-source" not in setup.tunnel.as_dict()


async def test_a_probe_names_who_has_just_come(setup, autojump_clock):
    await setup.admit()
    await trio.sleep(2.5)
    setup.lan.take_probes()
    setup.bridge.on_peer_joined(player(1, ONE))
    await trio.sleep(1.5)
    (probe,) = setup.lan.take_probes()
    assert parse_probe_untrusted(probe).members == {ONE}
