"""The client's logic with an adapter in memory, in simulated time."""

import pytest
import trio

from lanparty.client.identity import Identity
from lanparty.client.player import Player
from lanparty.ctrl.messages import PROTOCOL, Member, Role, Welcome
from lanparty.link.device import DeviceGoneError
from lanparty.link.memory_machine import MemoryMachine
from lanparty.obs.counters import TunnelCounters
from lanparty.obs.errors import ConnectionFailedError, MachineError
from lanparty.obs.log import captured
from lanparty.proto.mac import MacAddress
from lanparty.proto.superframe import GSO_TCPV4, SuperFrame
from lanparty.uplink.tunnel import Tunnel

MAC = MacAddress.parse("02:00:00:00:00:01")
GATEWAY = Member(peer_id=7, role=Role.GATEWAY, virtual_mac=None, display_name="gateway")
OTHER = Member(peer_id=8, role=Role.CLIENT, virtual_mac="02:00:00:00:00:08", display_name="other")
FRAME = bytes.fromhex("ffffffffffff 020000000001 0806").ljust(60, b"\0")


def welcome(*members, mtu=1500, peer_id=3):
    present = any(member.role is Role.GATEWAY for member in members)
    return Welcome(PROTOCOL, peer_id, "ROOM1", mtu, True, members, present)


class Connection:
    datagram_budget = 1170

    def __init__(self):
        self.counters = TunnelCounters()
        self.sent = []

    def send_datagrams(self, datagrams):
        self.sent += datagrams

    def flush(self):
        pass


class Setup:
    def __init__(self, links, house):
        self.tunnel = Tunnel()
        self.machine = MemoryMachine()
        self.machine.farewell = lambda: self.machine.device.deliver([FRAME])
        self.house = house
        self.links = links
        self.connection = Connection()
        self.player = Player(Identity(MAC, None, False), self.machine, self.tunnel, links=links, house=house)

    async def admit(self, message):
        await self.player.on_admitted(message)
        self.tunnel.attach(
            self.connection,
            self.player.on_frames,
            peer_id=message.peer_id,
            effective_mtu=message.effective_mtu,
            fragments=True,
        )
        self.player.on_ready(message)


@pytest.fixture
async def setup():
    async with trio.open_nursery() as links:
        async with trio.open_nursery() as house:
            yield Setup(links, house)
            house.cancel_scope.cancel()
        links.cancel_scope.cancel()


async def test_the_first_admission_makes_the_adapter_before_frames_flow(setup):
    with captured() as entries:
        await setup.admit(welcome(GATEWAY))
    assert setup.machine.asked == [
        "keep 1500",
        "gateway_present False",
        "address_setup",
        "set_up",
        "gateway_present True",
    ]
    said = [entry["event"] for entry in entries]
    assert said == ["client.tap", "client.joined", "room.gateway-present"]
    joined = entries[1]
    assert (joined["interface"], joined["mac"], joined["peer"]) == ("lanparty0", "02:00:00:00:00:01", 3)


async def test_a_reconnect_keeps_the_adapter(setup):
    await setup.admit(welcome(GATEWAY))
    device = setup.player.device
    setup.player.on_lost("gone")
    setup.machine.asked.clear()
    await setup.admit(welcome(GATEWAY, peer_id=4))
    assert setup.player.device is device
    assert setup.machine.asked == ["reconnected", "gateway_present True"]


async def test_without_the_relay_the_house_cannot_be_reached(setup):
    await setup.admit(welcome(GATEWAY))
    setup.machine.asked.clear()
    setup.player.on_lost("gone")
    assert setup.machine.asked == ["gateway_present False"]
    setup.player.on_peer_left(GATEWAY.peer_id)
    assert setup.machine.asked == ["gateway_present False"]


@pytest.mark.parametrize("step", ["keep", "address_setup", "set_up"])
async def test_a_cancelled_admission_is_gone_on_with_by_the_next_one(step, autojump_clock):
    async with trio.open_nursery() as links:
        async with trio.open_nursery() as house:
            setup = Setup(links, house)
            setup.machine.delays[step] = 5
            with trio.move_on_after(1) as scope:
                await setup.player.on_admitted(welcome(GATEWAY))
            assert scope.cancelled_caught
            setup.player.on_lost("cancelled")
            setup.machine.delays.clear()
            with captured() as entries:
                await setup.admit(welcome(GATEWAY))
            made = [call for call in setup.machine.asked if not call.startswith("gateway_present")]
            assert made == ["keep 1500", "address_setup", "set_up"]
            assert [entry["event"] for entry in entries][:2] == ["client.tap", "client.joined"]
            setup.machine.device.deliver([FRAME])
            await trio.testing.wait_all_tasks_blocked()
            assert len(setup.connection.sent) == 1
            house.cancel_scope.cancel()
        links.cancel_scope.cancel()
    assert setup.machine.asked.count("adapter released") == 1


async def test_an_mtu_whose_change_was_cancelled_is_set_by_the_next_admission(autojump_clock, setup):
    await setup.admit(welcome(mtu=1500))
    setup.machine.delays["set_mtu"] = 5
    with trio.move_on_after(1):
        await setup.player.on_admitted(welcome(mtu=1152))
    setup.machine.delays.clear()
    await setup.player.on_admitted(welcome(mtu=1152))
    assert setup.machine.asked[-1] == "set_mtu 1152"


async def test_another_mtu_is_set_before_frames_flow_again_and_told(setup):
    await setup.admit(welcome(mtu=1500))
    setup.tunnel.detach()
    setup.machine.asked.clear()
    with captured() as entries:
        await setup.player.on_admitted(welcome(mtu=1152))
    assert setup.machine.asked == ["set_mtu 1152"]
    assert [(entry["event"], entry["before"], entry["mtu"]) for entry in entries] == [
        ("client.mtu-changed", 1500, 1152)
    ]
    setup.player.on_frames([(8, FRAME), (8, FRAME.ljust(1167, b"\0"))], 0.0)
    assert setup.machine.device.sent == [FRAME]
    assert setup.tunnel.counters.other_dropped == {"room-length": 1}
    # Two segments of 1167 bytes each.
    setup.player.on_frames([(8, SuperFrame(FRAME.ljust(54 + 2 * 1113, b"\0"), GSO_TCPV4, 1113, 34, 16, 54, 2))], 0.0)
    assert setup.machine.device.sent == [FRAME]
    assert setup.tunnel.counters.other_dropped == {"room-length": 3}


async def test_the_house_comes_and_goes(setup):
    with captured() as entries:
        await setup.admit(welcome())
        setup.player.on_peer_joined(OTHER)
        setup.player.on_peer_joined(GATEWAY)
        setup.player.on_peer_left(8)
        setup.player.on_peer_left(7)
    said = [entry["event"] for entry in entries if "gateway" in entry["event"]]
    assert said == ["room.gateway-missing", "room.gateway-present", "room.gateway-missing"]
    assert [call for call in setup.machine.asked if call.startswith("gateway_present")] == [
        "gateway_present False",
        "gateway_present False",
        "gateway_present True",
        "gateway_present False",
    ]


async def test_an_adapter_that_nobody_uses_is_told_of_once(autojump_clock, setup):
    await setup.admit(welcome(GATEWAY))
    with captured() as entries:
        await trio.sleep(60)
    (told,) = [entry["text"] for entry in entries if entry["event"] == "program.diagnosis"]
    assert told.startswith("no program of this computer has sent anything into adapter lanparty0")


async def test_an_adapter_that_somebody_set_down_is_told_of(autojump_clock, setup):
    await setup.admit(welcome())
    setup.machine.up = False
    with captured() as entries:
        await trio.sleep(20)
    assert [entry["text"] for entry in entries] == [
        "adapter lanparty0 is down: set it up again, or restart this program"
    ]


async def test_frames_both_ways(setup):
    await setup.admit(welcome())
    setup.machine.device.deliver([FRAME])
    await trio.testing.wait_all_tasks_blocked()
    assert setup.connection.sent == [b"\x10\0\0\0" + FRAME]
    setup.tunnel.receive_untrusted([b"\x10\0\0\x08" + FRAME], 1.0)
    assert setup.machine.device.sent == [FRAME]


async def test_the_lease_is_given_back_through_the_living_tunnel():
    async with trio.open_nursery() as links:
        async with trio.open_nursery() as house:
            setup = Setup(links, house)
            await setup.admit(welcome())
            house.cancel_scope.cancel()
        setup.player.drain()
        links.cancel_scope.cancel()
    assert setup.machine.asked[-2:] == ["address released", "adapter released"]
    assert setup.connection.sent == [b"\x10\0\0\0" + FRAME]


async def test_an_adapter_that_cannot_be_made(setup):
    setup.machine.refusals["keep"] = MachineError("no TAP")
    with pytest.raises(MachineError, match="no TAP"):
        await setup.player.on_admitted(welcome())


async def test_an_adapter_that_vanishes_ends_the_program_with_a_sentence():
    async def run():
        async with trio.open_nursery() as links:
            setup = Setup(links, links)
            await setup.admit(welcome())
            setup.machine.device.close()
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(DeviceGoneError, match="lanparty0 is gone", depth=1)


async def test_the_relay_is_pinned_before_each_try(setup):
    await setup.player.on_connecting("192.0.2.1")
    with pytest.raises(ConnectionFailedError):
        await setup.player.on_connecting("2001:db8::1")
    assert setup.machine.asked == ["pin_relay 192.0.2.1", "relay released"]


async def test_nothing_is_needed_before_the_first_admission(setup):
    setup.player.drain()
    setup.player.on_frames([(8, FRAME)], 0.0)
    setup.player.on_lost("never was there")
