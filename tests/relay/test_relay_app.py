"""The whole relay over real QUIC on loopback: what fakes cannot show."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from relay_packets import ethernet

from lanparty.ctrl import codec
from lanparty.ctrl.messages import PROTOCOL, Disconnect, Hello, Message, PeerLeft, Reject, RejectCode, Role, Welcome
from lanparty.obs.errors import MachineError
from lanparty.obs.log import captured
from lanparty.proto.fragments import Reassembler
from lanparty.proto.overlay import OverlayCounters, OverlayDecoder, OverlayEncoder
from lanparty.quic.client import drive
from lanparty.quic.connection import Connection, ConnectionLost
from lanparty.quic.trust import Trust, load_pinned
from lanparty.relay.app import identity_of, serve
from lanparty.relay.options import RelaySettings, build_parser, settings_from

PATIENCE = 10.0  # seconds; everything here takes milliseconds


def relay_settings(tmp_path: Path, *argv: str) -> RelaySettings:
    defaults = ["--dev-cert-der-out", str(tmp_path / "cert.der"), "--listen", "127.0.0.1:0"]
    return settings_from(build_parser().parse_args([*defaults, *argv]))


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


class Endpoint:
    """An endpoint over a real connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._control = codec.ControlDecoder()
        self._messages: list[Message] = []
        self._decoder = OverlayDecoder(Reassembler(), OverlayCounters())
        self._encoder = OverlayEncoder(connection.datagram_budget)
        self._send_frame, self.frames = trio.open_memory_channel[tuple[int, bytes]](100)
        connection.on_datagrams(self._datagrams)

    def _datagrams(self, datagrams: list[bytes], now: float) -> None:
        for item in self._decoder.decode_untrusted(datagrams, now)[0]:
            self._send_frame.send_nowait(item)

    async def say(self, message: Message) -> None:
        await self.connection.send_all(codec.encode(message))

    async def hear(self) -> Message:
        while not self._messages:
            for message in self._control.feed_untrusted(await self.connection.receive_some()):
                assert not isinstance(message, codec.Unknown)
                self._messages.append(message)
        return self._messages.pop(0)

    async def join(self, number: int, **changes: Any) -> Message:
        await self.say(
            attrs.evolve(
                Hello(
                    version=PROTOCOL,
                    role=Role.CLIENT if number else Role.GATEWAY,
                    room="ROOM1",
                    virtual_mac=mac(number).hex(":") if number else None,
                    datagram_budget=self.connection.datagram_budget,
                    display_name=f"n{number}",
                    software="test",
                ),
                **changes,
            )
        )
        return await self.hear()

    def send(self, frame: bytes) -> None:
        self.connection.send_datagrams(self._encoder.encode(frame))
        self.connection.flush()


@attrs.define
class Party:
    address: tuple[str, int]
    trust: Trust
    nursery: trio.Nursery
    stop: trio.Event
    stopped: trio.Event

    async def connect(self) -> Endpoint:
        async def driven(*, task_status: trio.TaskStatus[Connection]) -> None:
            try:
                await drive(self.address, server_name="lanparty-relay.local", trust=self.trust, task_status=task_status)
            except ConnectionLost:
                return

        return Endpoint(await self.nursery.start(driven))


@pytest.fixture
async def log() -> AsyncIterator[list[dict[str, Any]]]:
    with captured() as entries:
        yield entries


@pytest.fixture
async def party(tmp_path: Path, log: list[dict[str, Any]]) -> AsyncIterator[Party]:
    settings = relay_settings(tmp_path, "--max-clients-per-room", "2")
    identity = identity_of(settings)
    trust = Trust(load_pinned(tmp_path / "cert.der"))
    stop, stopped = trio.Event(), trio.Event()

    async def serving(*, task_status: trio.TaskStatus[list[tuple[str, int]]]) -> None:
        await serve(settings, identity, stop, task_status=task_status)
        stopped.set()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serving)
            yield Party(address, trust, nursery, stop, stopped)
            nursery.cancel_scope.cancel()


async def test_frames_travel_between_members_whole_and_in_pieces(party: Party, log: list[dict[str, Any]]) -> None:
    house, ann, bob = [await party.connect() for _ in range(3)]
    for number, endpoint in enumerate((house, ann, bob)):
        welcome = await endpoint.join(number)
        assert isinstance(welcome, Welcome)
        assert welcome.peer_id == number + 1
    for size in (60, 1500):
        frame = ethernet(bytes(size), source=mac(1))
        ann.send(frame)
        assert await house.frames.receive() == (2, frame)
        assert await bob.frames.receive() == (2, frame)
    (entry,) = [entry for entry in log if entry["event"] == "relay.listening"]
    assert (entry["address"], entry["port"]) == party.address


async def test_datagrams_before_admission_go_nowhere(party: Party) -> None:
    ann, stranger = await party.connect(), await party.connect()
    await ann.join(1)
    stranger.send(ethernet(b"early", source=mac(2)))
    assert isinstance(await stranger.join(2), Welcome)
    frame = ethernet(b"lawful", source=mac(2))
    stranger.send(frame)
    assert await ann.frames.receive() == (2, frame)


@pytest.mark.parametrize(
    ("number", "changes", "code"),
    [
        (0, {}, RejectCode.GATEWAY_PRESENT),
        (1, {}, RejectCode.DUPLICATE_MAC),
        (3, {}, RejectCode.ROOM_FULL),
        (3, {"room": "no room"}, RejectCode.BAD_ROOM),
    ],
)
async def test_refusals_arrive_and_disturb_nobody(
    party: Party, number: int, changes: dict[str, Any], code: RejectCode
) -> None:
    members = [await party.connect() for _ in range(3)]
    for member_number, endpoint in enumerate(members):
        assert isinstance(await endpoint.join(member_number), Welcome)

    async def answer(endpoint: Endpoint) -> None:
        while True:  # an endpoint that lives answers the relay's question
            message = await endpoint.hear()
            if message.TYPE == "heartbeat":
                await endpoint.say(attrs.evolve(message, reply=True))

    async with trio.open_nursery() as nursery:
        for endpoint in members:
            nursery.start_soon(answer, endpoint)
        late = await party.connect()
        rejected = await late.join(number, **changes)
        assert isinstance(rejected, Reject)
        assert rejected.code is code
        closed = await late.connection.wait_closed()
        assert (closed.by_peer, closed.code) == (True, 1)
        nursery.cancel_scope.cancel()
    frame = ethernet(b"still here", source=mac(1))
    members[1].send(frame)
    assert await members[2].frames.receive() == (3 - 1, frame)


async def test_an_abrupt_end_is_told_to_the_others(party: Party) -> None:
    ann, bob = await party.connect(), await party.connect()
    await ann.join(1)
    await bob.join(2)
    await ann.hear()
    bob.connection.close(0, "pulled the plug")
    assert await ann.hear() == PeerLeft(peer_id=2, reason="pulled the plug")


async def test_stopping_says_goodbye_to_each(party: Party) -> None:
    ann = await party.connect()
    await ann.join(1)
    party.stop.set()
    message = await ann.hear()
    assert isinstance(message, Disconnect)
    assert message.code == "shutting-down"
    closed = await ann.connection.wait_closed()
    assert closed.by_peer
    await party.stopped.wait()


async def test_a_port_in_use_is_the_machines_fault(tmp_path: Path, log: list[dict[str, Any]]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        settings = relay_settings(tmp_path, "--listen", f"127.0.0.1:{port}")
        settings = attrs.evolve(settings, listen=settings.listen[-1:])
        with pytest.raises(BaseExceptionGroup) as raised:
            await serve(settings, identity_of(settings), trio.Event())
        assert raised.group_contains(MachineError, match=str(port))
    assert not [entry for entry in log if entry["event"] == "relay.listening"]


async def test_statistics_are_said(tmp_path: Path, log: list[dict[str, Any]]) -> None:
    settings = attrs.evolve(relay_settings(tmp_path), stats_interval=0.05)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, settings, identity_of(settings), trio.Event())
        with trio.fail_after(PATIENCE):
            while not [entry for entry in log if entry["event"] == "relay.stats"]:  # noqa: ASYNC110 - real time, real log
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    entry = next(entry for entry in log if entry["event"] == "relay.stats")
    assert (entry["rooms"], entry["members"], entry["frames_in"], entry["dropped"]) == (0, 0, 0, 0)
