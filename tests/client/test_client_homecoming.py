"""A client that was carried into the house: what counts as that, when it is over, what the player does about it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from test_client_player import FRAME, GATEWAY, MAC, Setup, welcome

from lanparty.client.homecoming import AWAY_AFTER, Homecoming, listen_for_home
from lanparty.link.names import tunnel_interfaces
from lanparty.obs.errors import MachineError
from lanparty.obs.log import captured
from lanparty.proto.probe import encode_probe

ME = MAC.octets
OTHER = bytes.fromhex("020000000002")
OURS = encode_probe(b"gateway1", 1, [OTHER, ME])
FOREIGN = encode_probe(b"gateway2", 1, [OTHER])


def home() -> Homecoming:
    return Homecoming(ME, tunnel_interfaces(None))


@pytest.mark.parametrize(
    ("interface", "frame", "heard"),
    [
        ("eth0", OURS, True),
        ("wlan0", OURS, True),
        ("lanparty0", OURS, False),
        ("eth0", FOREIGN, False),
        ("eth0", encode_probe(b"gateway1", 1), False),
        ("eth0", OURS[:40], False),
        ("eth0", b"", False),
    ],
)
def test_what_counts(interface: str, frame: bytes, heard: bool) -> None:
    state = home()
    state.heard_untrusted(interface, frame, 5.0)
    assert state.look(5.0) == (interface if heard else None)


def test_it_is_over_when_two_probes_are_missing() -> None:
    state = home()
    for number in range(10):
        state.heard_untrusted("eth0", OURS, 10.0 * number)
    assert state.look(90.0 + AWAY_AFTER - 0.1) == "eth0"
    assert state.look(90.0 + AWAY_AFTER) is None


class FakeListener:
    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.came = trio.Event()
        self.reads = 0

    async def wait_readable(self) -> None:
        while not self.heard:
            self.came = trio.Event()
            await self.came.wait()

    def read(self) -> list[tuple[str, bytes]]:
        heard, self.heard = self.heard, []
        self.reads += 1
        return heard

    def say(self, frame: bytes, interface: str = "eth0") -> None:
        self.heard.append((interface, frame))
        self.came.set()


class Listening:
    def __init__(self) -> None:
        self.listener = FakeListener()
        self.told: list[tuple[float, str | None]] = []
        self.start = trio.current_time()
        self.failures = 0

    async def tell(self, interface: str | None) -> None:
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise MachineError("the kernel is busy")
        self.told.append((round(trio.current_time() - self.start), interface))


@pytest.fixture
async def listening(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Listening]:
    async with trio.open_nursery() as nursery:
        setup = Listening()
        nursery.start_soon(listen_for_home, setup.listener, home(), setup.tell)
        await trio.testing.wait_all_tasks_blocked()
        yield setup
        nursery.cancel_scope.cancel()


async def test_coming_and_leaving_are_told_once_each(
    listening: Listening, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(6):
        listening.listener.say(OURS)
        await trio.sleep(10)
    await trio.sleep(200)
    assert listening.told == [(0, "eth0"), (50 + AWAY_AFTER, None)]


async def test_nothing_is_told_of_other_houses(listening: Listening, autojump_clock: trio.testing.MockClock) -> None:
    for _ in range(100):
        listening.listener.say(FOREIGN)
        await trio.sleep(10)
    assert listening.told == []


async def test_a_storm_of_probes_is_looked_at_once_a_second(
    listening: Listening, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(1000):
        listening.listener.say(OURS)
        await trio.sleep(0.01)
    assert listening.listener.reads <= 11


async def test_a_kernel_that_refuses_is_asked_again_with_the_next_probe(
    listening: Listening, autojump_clock: trio.testing.MockClock
) -> None:
    listening.failures = 1
    listening.listener.say(OURS)
    await trio.sleep(5)
    assert listening.told == []
    listening.listener.say(OURS)
    await trio.sleep(5)
    assert [state for _, state in listening.told] == ["eth0"]


# ------------------------------------------------------------------------------------------------ the player


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with trio.open_nursery() as links:
        async with trio.open_nursery() as house:
            yield Setup(links, house)
            house.cancel_scope.cancel()
        links.cancel_scope.cancel()


async def test_at_home_the_adapter_is_down_and_nothing_flows_either_way(setup: Setup) -> None:
    await setup.admit(welcome(GATEWAY))
    with captured() as entries:
        await setup.player.at_home("eth0")
        assert setup.machine.asked[-1] == "set_down"
        setup.tunnel.transmit([FRAME])
        setup.tunnel.receive_untrusted([b"\x10\0\0\x07" + FRAME], trio.current_time())
        assert setup.connection.sent == []
        assert setup.tunnel.as_dict()["dropped.paused"] == 2
        await setup.player.at_home("eth0")
        await setup.player.at_home(None)
        assert setup.machine.asked[-2:] == ["set_down", "set_up"]
        setup.tunnel.transmit([FRAME])
        assert len(setup.connection.sent) == 1
    said = [entry["event"] for entry in entries]
    assert said == ["client.at-home", "client.away-again"]


async def test_home_before_the_adapter_is_there(setup: Setup) -> None:
    await setup.player.at_home("eth0")
    await setup.admit(welcome(GATEWAY))
    assert setup.machine.asked[-2:] == ["set_down", "gateway_present True"]
    await setup.player.at_home(None)
    assert setup.machine.asked[-1] == "set_up"


async def test_a_reconnect_at_home_stays_paused(setup: Setup) -> None:
    await setup.admit(welcome(GATEWAY))
    await setup.player.at_home("eth0")
    setup.tunnel.detach()
    setup.player.on_lost("gone")
    await setup.admit(welcome(GATEWAY))
    setup.tunnel.transmit([FRAME])
    assert setup.connection.sent == []
