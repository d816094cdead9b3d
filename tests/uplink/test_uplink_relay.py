"""Two uplinks and a real relay over loopback: QUIC, certificate, admission, frames, refusals."""

import pytest
import trio
from uplink_fakes import FakePort, settings

from lanparty.cli.options import ListenAddress, RelayAddress
from lanparty.ctrl.messages import Role
from lanparty.ctrl.proof import Seed
from lanparty.obs.errors import ConnectionFailedError, RefusedError, UntrustedError
from lanparty.quic.trust import Trust, load_dev_certificate, load_pinned
from lanparty.relay.app import serve
from lanparty.relay.options import RelaySettings
from lanparty.relay.rooms import RoomLimits
from lanparty.uplink.loop import UplinkLoop
from lanparty.uplink.tunnel import Tunnel

NAME = "lanparty-relay.local"
OTHER_MAC = "02:00:00:00:00:02"
DEADLINE = 20
BROADCAST = bytes.fromhex("ffffffffffff 020000000001 0806") + bytes.fromhex(
    "0001080006040001 020000000001 c0a84d64 000000000000 c0a84d01"
)
"""An ARP request of the player's."""


class Port(FakePort):
    """Tells when something happened, so that a test can wait for it."""

    def __init__(self):
        super().__init__()
        self.news = trio.Event()

    def on_frames(self, frames, now):
        super().on_frames(frames, now)
        self.tell()

    def on_ready(self, welcome):
        super().on_ready(welcome)
        self.tell()

    def on_lost(self, reason):
        super().on_lost(reason)
        self.tell()

    def tell(self):
        self.news.set()
        self.news = trio.Event()

    async def until(self, condition):
        while not condition():
            await self.news.wait()


class Member:
    def __init__(self, where, trust, **changes):
        self.port = Port()
        self.tunnel = Tunnel()
        self.loop = UplinkLoop(
            settings(relay=RelayAddress(*where), server_name=NAME, trust=trust, **changes),
            self.port,
            self.tunnel,
            watch=None,
        )


class House:
    """A relay on loopback, and members of it."""

    def __init__(self, nursery, identity, trust):
        self.nursery = nursery
        self.identity = identity
        self.trust = trust
        self.stop = trio.Event()
        self.where = ("127.0.0.1", 0)

    async def start(self, port=0):
        self.stop = trio.Event()
        relay = RelaySettings((ListenAddress("127.0.0.1", port),), RoomLimits(), None, None, (), False, 0)
        self.ended = trio.Event()

        async def run(*, task_status):
            await serve(relay, self.identity, self.stop, task_status=task_status)
            self.ended.set()

        bound = await self.nursery.start(run)
        self.where = bound[0]

    async def end(self):
        self.stop.set()
        await self.ended.wait()

    def member(self, **changes):
        return Member(self.where, changes.pop("trust", self.trust), **changes)

    async def join(self, **changes):
        member = self.member(**changes)
        await self.nursery.start(member.loop.run)
        return member


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    path = tmp_path_factory.mktemp("relay") / "relay.der"
    made = load_dev_certificate(path, ())
    return made, Trust(load_pinned(path))


@pytest.fixture
async def house(identity):
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            house = House(nursery, *identity)
            await house.start()
            yield house
            await house.end()
            nursery.cancel_scope.cancel()


GATEWAY = {"role": Role.GATEWAY, "virtual_mac": None, "display_name": "gateway"}


async def test_a_frame_of_the_player_reaches_the_gateway_and_nobody_else(house):
    gateway = await house.join(**GATEWAY)
    player = await house.join()
    assert len(gateway.port.named("ready")) == 1
    player.tunnel.transmit([BROADCAST])
    await gateway.port.until(lambda: gateway.port.frames)
    assert [frame for _, frame in gateway.port.frames] == [BROADCAST]
    assert player.port.frames == []
    assert gateway.port.named("joined") == [gateway.port.frames[0][0]]
    await player.loop.stop("enough")
    await gateway.loop.stop("enough")


async def test_large_frames_arrive_whole(house):
    gateway = await house.join(**GATEWAY)
    player = await house.join()
    large = bytes.fromhex("020000000001 0250000000ff 0800 4500") + b"\x11" * 1498
    gateway.tunnel.transmit([large])
    await player.port.until(lambda: player.port.frames)
    assert [frame for _, frame in player.port.frames] == [large]


async def test_the_second_with_the_same_mac_is_refused(house):
    await house.join()
    with pytest.raises(RefusedError) as caught:
        await house.member().loop.run()
    assert caught.value.code == "duplicate-mac"


async def test_the_second_gateway_is_refused_and_the_first_notices_nothing(house):
    first = await house.join(**GATEWAY)
    with pytest.raises(RefusedError) as caught:
        await house.member(**GATEWAY).loop.run()
    assert caught.value.code == "gateway-present"
    assert first.port.named("lost") == []


async def test_a_relay_with_another_certificate_is_not_trusted(house, tmp_path):
    load_dev_certificate(tmp_path / "other.der", ())
    with pytest.raises(UntrustedError):
        await house.member(trust=Trust(load_pinned(tmp_path / "other.der"))).loop.run()


async def test_nobody_there(house):
    await house.end()
    with pytest.raises(ConnectionFailedError, match="connect-timeout"):
        await house.member(connect_timeout=0.5).loop.run()


async def test_a_relay_that_comes_back_has_its_members_back(house):
    player = await house.join()
    other = await house.join(virtual_mac=OTHER_MAC)
    await house.end()
    for port in (player.port, other.port):
        await port.until(lambda port=port: port.named("lost"))
    await house.start(house.where[1])
    for port in (player.port, other.port):
        await port.until(lambda port=port: len(port.named("ready")) == 2)


async def test_a_player_takes_over_its_own_place_from_another_computer_and_the_first_one_stops(house):
    """Two computers with copies of one identity file: the later one plays, and the first does not fight back."""
    identity = Seed(b"i" * 32)
    gateway = await house.join(**GATEWAY, identity=Seed(b"g" * 32))
    first = house.member(identity=identity)
    failures = []

    async def run(*, task_status):
        with pytest.raises(RefusedError) as caught:
            await first.loop.run(task_status=task_status)
        failures.append(caught.value)
        first.port.tell()

    await house.nursery.start(run)
    second = await house.join(identity=identity)
    await first.port.until(lambda: failures)
    assert failures[0].code == "taken-over"
    assert len(gateway.port.named("left")) == 1
    assert len(gateway.port.named("joined")) == 2
    second.tunnel.transmit([BROADCAST])
    await gateway.port.until(lambda: gateway.port.frames)
    assert second.port.named("lost") == []


async def test_a_reconnect_over_a_hanging_session_of_our_own_is_not_hit_by_its_takeover(house):
    """The session's end is not said to the relay, so that its next connection takes its own ghost over."""
    player = await house.join(identity=Seed(b"i" * 32))
    connection = player.loop._session._connection
    connection.leave = connection.close = lambda *_: connection.give_up("the network is gone")
    player.loop._session.end("the network changed", at_once=True)
    await player.port.until(lambda: len(player.port.named("ready")) == 2)
    await trio.sleep(0.3)
    assert len(player.port.named("lost")) == 1
    assert player.tunnel.attached


async def test_another_identity_with_the_mac_is_refused(house):
    player = await house.join(identity=Seed(b"i" * 32))
    for other in (Seed(b"o" * 32), None):
        with pytest.raises(RefusedError) as caught:
            await house.member(identity=other).loop.run()
        assert caught.value.code == "duplicate-mac"
    assert player.port.named("lost") == []


async def test_a_password_keeps_those_apart_who_do_not_have_it(house):
    key = Seed(b"k" * 32)
    gateway = await house.join(**GATEWAY, room_key=key)
    guest = await house.join(room_key=key)
    await house.join(virtual_mac=OTHER_MAC, room_key=Seed(b"w" * 32))
    await house.join(virtual_mac=OTHER_MAC)
    guest.tunnel.transmit([BROADCAST])
    await gateway.port.until(lambda: gateway.port.frames)
    assert len(gateway.port.named("joined")) == 1
