"""A relay without QUIC: connections in memory, and behaviours for each try, in simulated time."""

import attrs
import trio

from lanparty.cli.options import RelayAddress
from lanparty.ctrl import codec
from lanparty.ctrl.codec import ControlDecoder
from lanparty.ctrl.messages import PROTOCOL, Heartbeat, Hello, Member, Reject, RejectCode, Role, Welcome
from lanparty.obs.counters import TunnelCounters
from lanparty.obs.errors import ConnectionFailedError
from lanparty.quic.connection import Closed, ConnectionLost
from lanparty.quic.trust import Trust
from lanparty.uplink.settings import UplinkSettings

MAC = "02:00:00:00:00:01"
GATEWAY = Member(peer_id=7, role=Role.GATEWAY, virtual_mac=None, display_name="gateway")
OTHER = Member(peer_id=8, role=Role.CLIENT, virtual_mac="02:00:00:00:00:08", display_name="other")


def settings(**changes):
    wanted = {
        "relay": RelayAddress("relay.example", 443),
        "server_name": "relay.example",
        "trust": Trust(None),
        "room": "ROOM1",
        "role": Role.CLIENT,
        "virtual_mac": MAC,
        "display_name": "player",
        "connect_timeout": 15.0,
    }
    return UplinkSettings(**(wanted | changes))


def welcome(**changes):
    wanted = {
        "version": PROTOCOL,
        "peer_id": 3,
        "room": "ROOM1",
        "effective_mtu": 1500,
        "fragments": True,
        "members": (GATEWAY,),
        "gateway_present": True,
    }
    return Welcome(**(wanted | changes))


class FakeConnection:
    """What the uplink sees of a connection, and what the fake relay sees of it."""

    def __init__(self, address):
        self.remote = address
        self.local_address = ("192.0.2.9", 5555)
        self.binding = bytes(32)
        self.moves = ("192.0.2.77", 6666)
        self.datagram_budget = 1170
        self.counters = TunnelCounters()
        self.closed = None
        self.datagrams = []
        self.sent = []
        self.flushed = 0
        self.handler = None
        self.close_reason = None
        self._over = trio.Event()
        self._to_endpoint, self._from_relay = trio.open_memory_channel(1000)
        self._to_relay, self.hears = trio.open_memory_channel(1000)
        self._decoder = ControlDecoder()

    # what the uplink uses

    def on_datagrams(self, handler):
        self.handler = handler

    def send_datagrams(self, datagrams):
        self.datagrams += datagrams

    def flush(self):
        self.flushed += 1

    async def receive_some(self):
        try:
            return await self._from_relay.receive()
        except trio.EndOfChannel:
            raise ConnectionLost(self.closed) from None

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        if self.closed is not None:
            raise ConnectionLost(self.closed)
        for message in self._decoder.feed_untrusted(data):
            self.sent.append(message)
            self._to_relay.send_nowait(message)

    async def migrate(self):
        await trio.lowlevel.checkpoint()
        if isinstance(self.moves, Exception):
            raise self.moves
        if self.moves is None:
            await trio.sleep_forever()
        self.local_address = self.moves

    async def drained(self):
        await trio.lowlevel.checkpoint()

    def close(self, code=0, reason=""):
        self.end(Closed(code, reason, by_peer=False, timed_out=False))

    async def wait_closed(self):
        await self._over.wait()
        return self.closed

    # what the fake relay uses

    def end(self, closed):
        if self.closed is None:
            self.closed = closed
            self._to_endpoint.close()
            self._over.set()

    def drop(self, reason="gone"):
        self.end(Closed(9, reason, by_peer=True, timed_out=False))

    def say(self, *messages, raw=b""):
        self._to_endpoint.send_nowait(b"".join(codec.encode(message) for message in messages) + raw)

    def deliver(self, datagrams):
        if self.handler is not None:
            self.handler(list(datagrams), trio.current_time())


@attrs.define
class FakeRelay:
    """A driver for Session and UplinkLoop. ``script`` has one behaviour for each try; the last one repeats."""

    script: list
    tries: list = attrs.field(factory=list)
    connections: list = attrs.field(factory=list)
    heard: list = attrs.field(factory=list)

    async def driver(self, address, *, server_name, trust, handshake_timeout=5.0, task_status=trio.TASK_STATUS_IGNORED):
        self.tries.append((trio.current_time(), address))
        behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(behaviour, Exception):
            await trio.lowlevel.checkpoint()
            raise behaviour
        if behaviour == "silent":
            await trio.sleep(handshake_timeout)
            raise ConnectionFailedError(f"No answer from {address[0]} within {handshake_timeout:g} s.")
        connection = FakeConnection(address)
        self.connections.append(connection)
        task_status.started(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(behaviour, self, connection)
            closed = await connection.wait_closed()
            nursery.cancel_scope.cancel()
        if closed.by_peer or closed.timed_out:
            raise ConnectionLost(closed)


def admit(answer=None, *, lives=float("inf"), then="drop", early=()):
    """Admit, answer heartbeats for ``lives`` seconds, then ``drop`` the connection or fall ``silent``."""

    async def behaviour(relay, connection):
        hello = await connection.hears.receive()
        assert isinstance(hello, Hello)
        relay.heard.append(hello)
        connection.say(answer or welcome(), *early)
        with trio.move_on_after(lives):
            async for message in connection.hears:
                relay.heard.append(message)
                if isinstance(message, Heartbeat) and not message.reply:
                    connection.say(Heartbeat(sequence=message.sequence, reply=True))
        if then == "drop":
            connection.drop()

    return behaviour


def refuse(code, text="No."):
    async def behaviour(relay, connection):
        relay.heard.append(await connection.hears.receive())
        connection.say(Reject(code=RejectCode(code), text=text))
        await trio.sleep(1)
        connection.drop("refused")

    return behaviour


@attrs.define
class FakePort:
    """A role that notes what it is told."""

    calls: list = attrs.field(factory=list)
    frames: list = attrs.field(factory=list)
    failure: Exception | None = None
    connecting_failure: Exception | None = None

    async def on_connecting(self, address):
        self.calls.append(("connecting", address))
        await trio.lowlevel.checkpoint()
        if self.connecting_failure is not None:
            raise self.connecting_failure

    async def on_admitted(self, welcome):
        self.calls.append(("admitted", welcome.peer_id))
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure

    def on_ready(self, welcome):
        self.calls.append(("ready", welcome.peer_id))

    def on_peer_joined(self, member):
        self.calls.append(("joined", member.peer_id))

    def on_peer_left(self, peer_id):
        self.calls.append(("left", peer_id))

    def on_lost(self, reason):
        self.calls.append(("lost", reason))

    def on_frames(self, frames, now):
        self.frames += frames

    def named(self, name):
        return [detail for call, detail in self.calls if call == name]
