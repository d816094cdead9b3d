"""An internet in simulated time, under the real QUIC endpoints: lines, losses, addresses that change.

    a member's socket → its Line (NAT, loss, delay, duplicates, MTU) → the relay's socket, or "port unreachable"

Real are ``quic.client.drive``, ``quic.server.ServerEndpoint`` and all that they use. Replaced are, by ``patched``:

    the making of UDP sockets, and trio's waiting for them            ``SimSocket``
    the operating system's random numbers, trio's order of tasks      seeded
    the clocks that show that a machine slept                         trio's, and the line's ``slept``
    packets sealed with one key                                       some hundred instead of four million

Each line draws its own random numbers, one row for each direction, so that what happens to one member's packets does
not depend on another's.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import math
import os
import random
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any
from unittest import mock

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import lanparty.obs.log
import lanparty.quic.client
import lanparty.quic.server
import lanparty.uplink.loop
from lanparty.quic import settings
from lanparty.quic.connection import Received, UdpPath
from lanparty.quic.internals import Quic
from lanparty.quic.trust import ServerIdentity, Trust

RELAY = ("198.51.100.1", 443)
SERVER_NAME = "relay.example"
KEY_PHASE = 400
"""Packets: an idle member's keys change every seven minutes, a playing one's every ten seconds."""
MTU = 1472
"""Bytes of UDP payload that a line carries unless it says otherwise: a 1500-byte path."""

line_here: ContextVar[Line] = ContextVar("line_here")
"""The line of the machine that the running task is on."""
name_here: ContextVar[str] = ContextVar("name_here", default="nobody")
"""Whose task it is."""


@attrs.define(eq=False)
class Line:
    """A home's way to the internet. What it does to packets may be changed at any time."""

    internet: Internet
    number: int
    seed: str
    loss: float = 0.0
    twice: float = 0.0
    """Part of the packets that arrives twice."""
    delay: float = 0.010
    jitter: float = 0.0
    dead: bool = False
    mtu: int = MTU
    slept: float = 0.0
    """Seconds that this machine has spent asleep."""
    address: str = attrs.field(init=False)
    changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _up: random.Random = attrs.field(init=False)
    _down: random.Random = attrs.field(init=False)
    _ports: dict[SimSocket, int] = attrs.field(factory=dict, init=False)
    _next_port: Any = attrs.field(factory=lambda: itertools.count(20_000), init=False)
    _moves: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self):
        self._up = random.Random(f"{self.seed} up")
        self._down = random.Random(f"{self.seed} down")
        self._readdress()

    def _readdress(self):
        self.address = f"203.0.{self.number}.{1 + self._moves % 250}"

    def rebind(self):
        """The NAT forgets: the next packet comes from another port."""
        for port in self._ports.values():
            self.internet.homes.pop((self.address, port), None)
        self._ports.clear()

    def move(self, *, noticed: bool):
        """Another network: another address. ``noticed``: the machine's own interface changed, and not a router's."""
        self.rebind()
        self._moves += 1
        self._readdress()
        if noticed:
            self.changed.set()
            self.changed = trio.Event()

    def calm(self):
        """As good as new."""
        self.loss = self.twice = self.jitter = 0.0
        self.delay, self.dead, self.mtu = 0.010, False, MTU

    def port_of(self, sock):
        port = self._ports.get(sock)
        if port is None:
            port = self._ports[sock] = next(self._next_port)
            self.internet.homes[self.address, port] = (self, sock)
        return port

    def forget(self, sock):
        port = self._ports.pop(sock, None)
        if port is not None:
            self.internet.homes.pop((self.address, port), None)

    def fates(self, size, *, up):
        """After how many seconds copies of a packet arrive; none: it is lost."""
        dice = self._up if up else self._down
        # Always as many draws, so that a change of one figure moves nothing else.
        lost, twice, early, late = (dice.random() for _ in range(4))
        if self.dead or lost < self.loss or size > self.mtu:
            return ()
        first = self.delay + early * self.jitter
        return (first, self.delay + late * self.jitter) if twice < self.twice else (first,)


@attrs.define(eq=False)
class Internet:
    """Carries packets. One task; what is due at one moment arrives together."""

    homes: dict[tuple[str, int], tuple[Line, SimSocket]] = attrs.field(factory=dict)
    relay: SimSocket | None = None
    carried: int = 0
    lost: int = 0
    key_updates: int = 0
    """Asked for by either end of any connection."""
    _wire: list[Any] = attrs.field(factory=list)
    _numbers: Any = attrs.field(factory=itertools.count)
    _sleep: trio.CancelScope | None = None

    def send(self, sock, remote, packet):
        if sock.line is not None:
            line, source, to = sock.line, (sock.line.address, sock.line.port_of(sock)), None
        else:
            source, to = RELAY, remote[:2]
            found = self.homes.get(to)
            if found is None:
                self.lost += 1
                return
            line = found[0]
        fates = line.fates(len(packet), up=sock.line is not None)
        self.carried += 1
        self.lost += not fates
        for delay in fates:
            self._put(trio.current_time() + delay, source, to, packet)

    def _put(self, at, source, to, packet):
        heapq.heappush(self._wire, (at, next(self._numbers), source, to, packet))
        if self._sleep is not None and at < self._sleep.deadline:
            self._sleep.deadline = at

    async def run(self):
        while True:
            with trio.CancelScope(deadline=self._wire[0][0] if self._wire else math.inf) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._wire and self._wire[0][0] <= now:
                _, _, source, to, packet = heapq.heappop(self._wire)
                self._arrive(source, to, packet)

    def _arrive(self, source, to, packet):
        if to is not None:
            home = self.homes.get(to)
            if home is not None:
                home[1].arrive(RELAY, packet)
        elif self.relay is not None:
            self.relay.arrive(source, packet)
        elif (home := self.homes.get(source)) is not None and not home[0].dead:
            home[1].refused()

    @property
    def empty(self):
        return not self._wire


class SimSocket:
    """What ``quic.sockets.UdpSocket`` is to the driver, and what its socket is to trio."""

    def __init__(self, internet, line, errors):
        self.line = line
        self.failed = False
        self.drained = True
        self.closed = False
        self._internet = internet
        self._errors = errors
        self._queue = deque()
        self._refused = False
        self._readable = trio.lowlevel.ParkingLot()

    @property
    def sock(self):
        return self

    def getsockname(self):
        return RELAY if self.line is None else ("192.168.1.2", 40_000 + self.line.number)

    def getpeername(self):
        return RELAY

    def arrive(self, source, packet):
        if not self.closed:
            self._queue.append((UdpPath(source), packet))
            self._readable.unpark_all()

    def refused(self):
        self._refused = True
        self._readable.unpark_all()

    async def wait_readable(self):
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._queue or self._refused:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._readable.park()

    def receive_batch(self, limit):
        self.failed, self._refused = self._refused, False
        if self.failed:
            self._errors["ECONNREFUSED"] += 1
        batch = []
        for _ in range(min(limit, len(self._queue))):
            path, packet = self._queue.popleft()
            if batch and batch[-1].path == path:
                batch[-1].packets.append(packet)
            else:
                batch.append(Received(path, [packet]))
        self.drained = not self._queue
        return batch

    def send_batch(self, path, packets):
        for packet in packets:
            self._internet.send(self, path.remote, packet)

    def local_address(self, _path):
        return self.getsockname()

    def max_payload(self, _path):
        return MTU

    def receive_drops(self):
        return 0

    def close(self):
        self.closed = True
        self._queue.clear()
        if self.line is not None:
            self.line.forget(self)
        elif self._internet.relay is self:
            self._internet.relay = None


@cache
def identity() -> ServerIdentity:
    """The relay's certificate, with Ed25519: its signatures all have one length, so that sizes repeat, too."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0x7FFFFFFF)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, None)
    )
    return ServerIdentity(certificate=certificate, private_key=key)


def trust() -> Trust:
    return Trust(identity().certificate.public_bytes(Encoding.PEM))


async def resolve(_host: str, _port: int) -> list[tuple[str, int]]:
    await trio.lowlevel.checkpoint()
    return [RELAY]


class LineWatch:
    """``uplink.watch.NetworkWatch`` of a line."""

    def __init__(self, line):
        self._line = line

    async def wait_changed(self, _path):
        await self._line.changed.wait()
        return f"the way to the relay is now {self._line.address}"


@contextlib.contextmanager
def patched(internet, seed, note):
    """Everything outside the programs, simulated. ``note(name, event, sentence)`` hears what they log."""
    dice = random.Random(f"{seed} system")

    def connect(address, errors, *, bind=None, interface=None):
        assert ip_address(address[0]) == ip_address(RELAY[0])
        return SimSocket(internet, line_here.get(), errors)

    def bind_all(_listen, errors):
        assert internet.relay is None, "two relays at one address"
        internet.relay = SimSocket(internet, None, errors)
        return [internet.relay]

    def emit(_level, event, fields):
        note(name_here.get(), event.name, event.render(dict(fields)))

    real_wait, real_gaps = trio.lowlevel.wait_readable, lanparty.uplink.loop.watch_gaps

    async def wait_readable(sock):
        await (sock.wait_readable() if isinstance(sock, SimSocket) else real_wait(sock))

    @functools.wraps(real_gaps)
    async def watch_gaps(slept, **_clocks):
        line = line_here.get()
        await real_gaps(slept, monotonic=trio.current_time, boot=lambda: trio.current_time() + line.slept)

    real_update = Quic.request_key_update

    def request_key_update(quic):
        real_update(quic)
        internet.key_updates += 1

    trio._core._run._r.seed(seed)
    with contextlib.ExitStack() as stack:
        for target, name, instead in (
            (lanparty.quic.client, "connect", connect),
            (lanparty.quic.server, "bind_all", bind_all),
            (lanparty.uplink.loop, "watch_gaps", watch_gaps),
            (lanparty.obs.log, "_emit", emit),
            (settings, "KEY_PHASE", KEY_PHASE),
            (Quic, "request_key_update", request_key_update),
            (os, "urandom", dice.randbytes),
            (trio.lowlevel, "wait_readable", wait_readable),
            # What trio offers to Hypothesis: the order of tasks comes from a seeded generator.
            (trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        ):
            stack.enter_context(mock.patch.object(target, name, instead))
        yield
