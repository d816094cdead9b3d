"""A party around a fake Windows: a real relay over loopback, a house in its room, and the client's program."""

from contextlib import contextmanager
from ipaddress import ip_address

import trio
from fake_house import House

from lanparty.cli.options import ListenAddress, RelayAddress, parse
from lanparty.cli.service import Service
from lanparty.client import app
from lanparty.client.options import build_parser
from lanparty.ctrl.messages import Role
from lanparty.link.machine import Way
from lanparty.link.windows.machine import WindowsMachine, open_windows_machine
from lanparty.obs.errors import LanpartyError
from lanparty.obs.log import listening
from lanparty.proto.superframe import plain_frames
from lanparty.quic.trust import Trust, load_pinned
from lanparty.relay.app import serve
from lanparty.relay.options import RelaySettings
from lanparty.relay.rooms import RoomLimits
from lanparty.uplink.loop import UplinkLoop
from lanparty.uplink.settings import UplinkSettings
from lanparty.uplink.tunnel import Tunnel

NAME = "lanparty-relay.local"
ROOM = "ROOM1"
PLAYER = "02:a1:b2:c3:d4:e5"
RELAY = "203.0.113.10"
"""Where this Windows believes the relay to be; it is on loopback."""


class Relay:
    """A relay that can be stopped and started again at the same port."""

    def __init__(self, nursery, certificate):
        self.nursery, self.certificate = nursery, certificate
        self.port = 0

    async def start(self):
        self.stop, self.ended = trio.Event(), trio.Event()
        listens = RelaySettings((ListenAddress("127.0.0.1", self.port),), RoomLimits(), None, None, (), False, 0)

        async def run(*, task_status):
            await serve(listens, self.certificate, self.stop, task_status=task_status)
            self.ended.set()

        ((_, self.port),) = await self.nursery.start(run)

    async def end(self):
        self.stop.set()
        await self.ended.wait()


class HousePort:
    """The gateway's side of the uplink: what comes from the room goes to the house, and its answers back."""

    def __init__(self, house, tunnel):
        self.house, self.tunnel = house, tunnel
        self.news = trio.Event()

    async def on_connecting(self, address):
        await trio.lowlevel.checkpoint()

    async def on_admitted(self, welcome):
        await trio.lowlevel.checkpoint()

    def on_ready(self, welcome):
        self.tell()

    def on_peer_joined(self, member):
        self.tell()

    def on_peer_left(self, peer_id):
        self.tell()

    def on_lost(self, reason):
        self.tell()

    def on_frames(self, frames, now):
        answers = [reply for frame in plain_frames([f for _, f in frames]) for reply in self.house.answer(frame, now)]
        if answers:
            self.tunnel.transmit(answers)
        self.tell()

    def tell(self):
        self.news.set()
        self.news = trio.Event()

    async def until(self, condition):
        while not condition():
            await self.news.wait()


class Gateway:
    """A member of the room with a house behind it."""

    def __init__(self, relay, trust, house=None):
        self.house = house or House()
        self.tunnel = Tunnel()
        self.port = HousePort(self.house, self.tunnel)
        settings = UplinkSettings(
            RelayAddress("127.0.0.1", relay.port), NAME, Trust(load_pinned(trust)), ROOM, Role.GATEWAY, None, "gateway"
        )
        self.loop = UplinkLoop(settings, self.port, self.tunnel, watch=None)


class Elsewhere(WindowsMachine):
    """A machine for which loopback is an address of the internet: else nothing would have to be pinned."""

    async def way(self, relay: str) -> Way | None:
        return await super().way(_translated(relay))

    async def pin_relay(self, address: str) -> None:
        await super().pin_relay(_translated(address))


def _translated(address):
    return RELAY if ip_address(address).is_loopback else address


class Events:
    """What the program says, and a way to wait for it."""

    def __init__(self):
        self.said = []
        self.news = trio.Event()

    def hear(self, event, fields):
        self.said.append((event.name, dict(fields)))
        self.news.set()
        self.news = trio.Event()

    def of(self, name):
        return [fields for said, fields in self.said if said == name]

    def names(self):
        return [name for name, _ in self.said]

    async def until(self, name, count=1):
        while len(self.of(name)) < count:
            assert not self.of("ended"), f"it ended before it said {name}"
            await self.news.wait()
        return self.of(name)[count - 1]


class Client:
    """The program, from the command line to its end."""

    def __init__(self, party, *arguments):
        where = ["--relay", f"127.0.0.1:{party.relay.port}", "--server-name", NAME, "--room", ROOM]
        where += ["--relay-ca-cert", str(party.certificate), "--virtual-mac", PLAYER]
        self.options = parse(build_parser(), [*where, *arguments])
        self.stop = trio.Event()
        self.events = Events()
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.failure = None

    async def run(self):
        with listening(self.events.hear), self.scope:
            try:
                await app.amain(self.options, self.stop, Service())
            except* LanpartyError as group:
                self.failure = group
        self.ended.set()
        self.events.hear(_Ended, {})

    def failures(self):
        """All that the program ended with, flat."""
        found, left = [], [self.failure] if self.failure else []
        while left:
            error = left.pop(0)
            if isinstance(error, BaseExceptionGroup):
                left += error.exceptions
            else:
                found.append(error)
        return found

    async def leave(self):
        self.stop.set()
        await self.ended.wait()


class _Ended:
    name = "ended"


class Party:
    """All of it."""

    def __init__(self, windows, nursery, certificate, identity):
        self.windows, self.nursery, self.certificate = windows, nursery, certificate
        self.relay = Relay(nursery, identity)

    async def start(self, house=None):
        await self.relay.start()
        await self.open_house(house)

    async def open_house(self, house=None):
        self.gateway = Gateway(self.relay, self.certificate, house)
        self.house = self.gateway.house
        await self.nursery.start(self.gateway.loop.run)

    def client(self, *arguments):
        client = Client(self, *arguments)
        self.nursery.start_soon(client.run)
        return client


@contextmanager
def no_listener(_ethertype):
    """On Windows there are no packet sockets (`lanparty.link.listen`)."""
    yield None


def fake_windows_in(monkeypatch):
    """Let the program run on a fake Windows that is installed."""
    monkeypatch.setattr("lanparty.link.windows.machine.WindowsMachine", Elsewhere)
    monkeypatch.setattr(app, "open_machine", open_windows_machine)
    monkeypatch.setattr(app, "open_listener", no_listener)
