"""The client's logic with an adapter in memory, in simulated time."""

import pytest
import trio

from lanparty.client.identity import Identity
from lanparty.client.player import Player, tunnel_interfaces
from lanparty.ctrl.messages import PROTOCOL, Member, Role, Welcome
from lanparty.link.device import DeviceGoneError
from lanparty.link.memory import MemoryDevice
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


class FakeNetwork:
    def __init__(self, calls, farewell, pause):
        self.calls = calls
        self.farewell = farewell
        self.pause = pause

    async def run(self, *, task_status):
        await self.pause("network")
        self.calls.append("network")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.calls.append("release")
            self.farewell()

    def gateway_present(self, present):
        self.calls.append(f"house {present}")

    def reconnected(self):
        self.calls.append("reconnected")


class FakeAdapters:
    def __init__(self):
        self.calls = []
        self.device = None
        self.failure = None
        self.slow = None
        self.up = True

    async def pause(self, step):
        """Take 5 s for the ``slow`` step."""
        await trio.sleep(5 if step == self.slow else 0)

    async def keep(self, mac, mtu, *, task_status):
        await self.pause("adapter")
        if self.failure is not None:
            raise self.failure
        self.device = MemoryDevice("lanparty0", mac, mtu=mtu)
        self.calls.append(f"adapter {mtu}")
        task_status.started(self.device)
        try:
            await trio.sleep_forever()
        finally:
            self.calls.append("adapter gone")

    def network(self, device):
        return FakeNetwork(self.calls, lambda: self.device.deliver([FRAME]), self.pause)

    async def set_up(self, device):
        await self.pause("up")
        self.calls.append("up")

    async def set_down(self, device):
        self.calls.append("down")

    async def set_mtu(self, device, mtu):
        await self.pause("mtu")
        self.calls.append(f"mtu {mtu}")

    async def is_up(self, device):
        return self.up

    async def pin_relay(self, address):
        self.calls.append(f"pin {address}")
        if address == "no route":
            raise ConnectionFailedError("no route")


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
        self.adapters = FakeAdapters()
        self.house = house
        self.links = links
        self.connection = Connection()
        self.player = Player(Identity(MAC, None, False), self.adapters, self.tunnel, links=links, house=house)

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
    assert setup.adapters.calls == ["adapter 1500", "house False", "network", "up", "house True"]
    said = [entry["event"] for entry in entries]
    assert said == ["client.tap", "client.joined", "room.gateway-present"]
    joined = entries[1]
    assert (joined["interface"], joined["mac"], joined["peer"]) == ("lanparty0", "02:00:00:00:00:01", 3)


async def test_a_reconnect_keeps_the_adapter(setup):
    await setup.admit(welcome(GATEWAY))
    device = setup.player.device
    setup.player.on_lost("gone")
    setup.adapters.calls.clear()
    await setup.admit(welcome(GATEWAY, peer_id=4))
    assert setup.player.device is device
    assert setup.adapters.calls == ["reconnected", "house True"]


async def test_without_the_relay_the_house_cannot_be_reached(setup):
    await setup.admit(welcome(GATEWAY))
    setup.adapters.calls.clear()
    setup.player.on_lost("gone")
    assert setup.adapters.calls == ["house False"]
    setup.player.on_peer_left(GATEWAY.peer_id)
    assert setup.adapters.calls == ["house False"]


@pytest.mark.parametrize("step", ["adapter", "network", "up"])
async def test_a_cancelled_admission_is_gone_on_with_by_the_next_one(step, autojump_clock):
    async with trio.open_nursery() as links:
        async with trio.open_nursery() as house:
            setup = Setup(links, house)
            setup.adapters.slow = step
            with trio.move_on_after(1) as scope:
                await setup.player.on_admitted(welcome(GATEWAY))
            assert scope.cancelled_caught
            setup.player.on_lost("cancelled")
            setup.adapters.slow = None
            with captured() as entries:
                await setup.admit(welcome(GATEWAY))
            made = [call for call in setup.adapters.calls if not call.startswith("house")]
            assert made == ["adapter 1500", "network", "up"]
            assert [entry["event"] for entry in entries][:2] == ["client.tap", "client.joined"]
            setup.adapters.device.deliver([FRAME])
            await trio.testing.wait_all_tasks_blocked()
            assert len(setup.connection.sent) == 1
            house.cancel_scope.cancel()
        links.cancel_scope.cancel()
    assert setup.adapters.calls.count("adapter gone") == 1


async def test_an_mtu_whose_change_was_cancelled_is_set_by_the_next_admission(autojump_clock, setup):
    await setup.admit(welcome(mtu=1500))
    setup.adapters.slow = "mtu"
    with trio.move_on_after(1):
        await setup.player.on_admitted(welcome(mtu=1152))
    setup.adapters.slow = None
    await setup.player.on_admitted(welcome(mtu=1152))
    assert setup.adapters.calls[-1] == "mtu 1152"


async def test_another_mtu_is_set_before_frames_flow_again_and_told(setup):
    await setup.admit(welcome(mtu=1500))
    setup.tunnel.detach()
    setup.adapters.calls.clear()
    with captured() as entries:
        await setup.player.on_admitted(welcome(mtu=1152))
    assert setup.adapters.calls == ["mtu 1152"]
    assert [(entry["event"], entry["before"], entry["mtu"]) for entry in entries] == [
        ("client.mtu-changed", 1500, 1152)
    ]
    setup.player.on_frames([(8, FRAME), (8, FRAME.ljust(1167, b"\0"))], 0.0)
    assert setup.adapters.device.sent == [FRAME]
    assert setup.tunnel.counters.other_dropped == {"room-length": 1}
    # Two segments of 1167 bytes each.
    setup.player.on_frames([(8, SuperFrame(FRAME.ljust(54 + 2 * 1113, b"\0"), GSO_TCPV4, 1113, 34, 16, 54, 2))], 0.0)
    assert setup.adapters.device.sent == [FRAME]
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
    assert [call for call in setup.adapters.calls if call.startswith("house")] == [
        "house False",
        "house False",
        "house True",
        "house False",
    ]


async def test_an_adapter_that_nobody_uses_is_told_of_once(autojump_clock, setup):
    await setup.admit(welcome(GATEWAY))
    with captured() as entries:
        await trio.sleep(60)
    (told,) = [entry["text"] for entry in entries if entry["event"] == "program.diagnosis"]
    assert told.startswith("no program of this computer has sent anything into adapter lanparty0")


async def test_an_adapter_that_somebody_set_down_is_told_of(autojump_clock, setup):
    await setup.admit(welcome())
    setup.adapters.up = False
    with captured() as entries:
        await trio.sleep(20)
    assert [entry["text"] for entry in entries] == [
        "adapter lanparty0 is down: set it up again, or restart this program"
    ]


async def test_frames_both_ways(setup):
    await setup.admit(welcome())
    setup.adapters.device.deliver([FRAME])
    await trio.testing.wait_all_tasks_blocked()
    assert setup.connection.sent == [b"\x10\0\0\0" + FRAME]
    setup.tunnel.receive_untrusted([b"\x10\0\0\x08" + FRAME], 1.0)
    assert setup.adapters.device.sent == [FRAME]


async def test_the_lease_is_given_back_through_the_living_tunnel():
    async with trio.open_nursery() as links:
        async with trio.open_nursery() as house:
            setup = Setup(links, house)
            await setup.admit(welcome())
            house.cancel_scope.cancel()
        setup.player.drain()
        links.cancel_scope.cancel()
    assert setup.adapters.calls[-2:] == ["release", "adapter gone"]
    assert setup.connection.sent == [b"\x10\0\0\0" + FRAME]


async def test_an_adapter_that_cannot_be_made(setup):
    setup.adapters.failure = MachineError("no TAP")
    with pytest.raises(MachineError, match="no TAP"):
        await setup.player.on_admitted(welcome())


async def test_an_adapter_that_vanishes_ends_the_program_with_a_sentence():
    async def run():
        async with trio.open_nursery() as links:
            setup = Setup(links, links)
            await setup.admit(welcome())
            setup.adapters.device.close()
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(DeviceGoneError, match="lanparty0 is gone", depth=1)


async def test_the_relay_is_pinned_before_each_try(setup):
    await setup.player.on_connecting("192.0.2.1")
    with pytest.raises(ConnectionFailedError):
        await setup.player.on_connecting("no route")
    assert setup.adapters.calls == ["pin 192.0.2.1", "pin no route"]


async def test_nothing_is_needed_before_the_first_admission(setup):
    setup.player.drain()
    setup.player.on_frames([(8, FRAME)], 0.0)
    setup.player.on_lost("never was there")


@pytest.mark.parametrize(
    ("tap", "names"), [(None, {"lanparty0", "lanparty63"}), ("lp0", {"lp0", "lanparty0"}), ("lp%d", {"lp0", "lp63"})]
)
def test_interfaces_that_lead_into_a_tunnel(tap, names):
    assert names <= tunnel_interfaces(tap)
    assert "eth0" not in tunnel_interfaces(tap)
