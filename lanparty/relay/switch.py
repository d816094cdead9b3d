"""One room's switch: datagrams of one member in, datagrams for the other members out. All in batches, nothing waits.

Owns: the ports of a room, where each frame goes, the pieces of frames that are on their way, echoes, the counters.
Must not know: connections (a port's ``outlet`` tells its budget, no more), other rooms, the clock (``now`` is an
argument), logging.

A batch's way through ``Switch.receive_untrusted``:

1. runs: datagrams with a head that is known (a ``Way``), one after the other and alike in all that matters
   (``plain.py``), pass steps 2 to 5 as one. The others, one by one:
2. ``OverlayDecoder`` of the sender: headers off, pieces put together, garbage counted;
3. the guard judges each whole frame (``guard.py``); what it stops is counted by rule;
4. ``_route`` finds the receivers:

       from        destination            to                              in an isolated room
       anyone      a group address        everyone else                   from a client: the gateway
       anyone      a member's MAC         that member                     from a client: nobody (row 18)
       client      anything else          the gateway
       gateway     anything else          nobody: it is not for this room

   and never the sender. Nothing of it is learned: members are known from their admission, so that no frame can move
   one. What is learned are the MACs that the house's frames come from, and only to tell known from unknown unicast;
5. where the guard is strict, storm control (``storm.py``) says how many of them may go out now;
6. each frame is stamped with the sender's peer id, its flags are kept, and it is encoded once; receivers share the
   bytes. Only a frame too large for somebody's datagram budget is cut, once for each distinct budget;
7. echoes: for peer 0 answered here, else stamped and passed on; at most ``ECHO_RATE`` a second and member.

A way is what steps 3 and 4 said of a plain frame that took the long way. It holds while the guard's ``version`` stays
the same, until a time at which a lease ends or a house machine is known no longer, and for the IP source addresses that
took the long way. All ways of a room are forgotten when a member comes or goes. Nothing else is behind verdict and
receivers. What goes to somebody unknown gets no way, nor does anything while frames are logged.

The result says, for each receiving port, which datagrams go there in which order; the session layer hands them over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import attrs

from lanparty.ctrl.validate import MIN_DATAGRAM_BUDGET
from lanparty.guard.bucket import TokenBucket
from lanparty.guard.guard import Guard
from lanparty.guard.plain import HEAD_SIZE, Shape, plain_fields_untrusted, shape_of
from lanparty.guard.rules import Rule
from lanparty.proto.fragments import Reassembler
from lanparty.proto.overlay import (
    HEADER_SIZE,
    VERSION,
    Echo,
    Kind,
    OverlayCounters,
    OverlayDecoder,
    OverlayEncoder,
    OverlaySizeError,
    encode_echo,
)
from lanparty.relay.rooms import MemberState, Room
from lanparty.relay.storm import MemberStorm, StormControl, Traffic, traffic_of_untrusted
from lanparty.relay.tally import PortTally

__all__ = ["Deliveries", "Drop", "FrameWatch", "Outlet", "Port", "Switch"]

RELAY_PEER: Final = 0
"""The peer id of the relay itself: origin of its own echo replies, target of echoes to it."""
ECHO_RATE: Final = 20.0
"""Echoes a second and member. A measurement takes one or two a second to each of a few members."""
ECHO_BURST: Final = 64.0
"""One echo to each member of a full room, and some to spare."""
MAX_WAYS: Final = 256
"""Ways remembered for each sender. A client needs two for each member that it talks to and each protocol; a gateway as
many for each machine of the house. About 400 bytes each; when they are too many, all are found anew."""
LAN_AGE: Final = 300.0
"""Seconds after its latest frame that a machine of the house is known: the ageing time of switches (IEEE 802.1Q table
8-6)."""
MAX_LAN_SOURCES: Final = 4096
"""Machines of the house that are known at once, about 150 bytes each."""

_FIRST: Final = bytes((VERSION << 4 | Kind.FRAME,))


class Drop:
    """Reasons for which the switch itself drops, as they are counted."""

    NO_GATEWAY: Final = "no-gateway"
    """For the house, while no gateway is in the room."""
    UNKNOWN: Final = "unknown-unicast"
    """From the house, for none of the members: a LAN's switch floods what it does not know."""
    HAIRPIN: Final = "hairpin"
    """The only receiver would be the sender."""
    OVERSIZE: Final = "oversize"
    """Larger than the receiver's datagrams, in a room without fragments; counted at the sender."""
    ECHO_RATE: Final = "echo-rate"
    """More echoes than the limit."""
    ECHO_TARGET: Final = "echo-target"
    """An echo for somebody who is not here, for its sender, or a reply to the relay."""


class Outlet(Protocol):
    """What a port needs of its member's connection. The switch itself only asks for the budget."""

    @property
    def datagram_budget(self) -> int:
        """The largest overlay datagram that it carries now, in bytes."""

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        """Queue datagrams; never blocks. For whoever takes the switch's result there."""


class FrameWatch(Protocol):
    """The frame log, when it is on."""

    def frames(self, frames: Sequence[bytes], peer: int | None, action: str) -> None:
        """Note ``frames`` of ``peer``."""


@attrs.define(eq=False)
class Port:
    """One member's place on the switch."""

    member: MemberState
    outlet: Outlet
    decoder: OverlayDecoder
    encoder: OverlayEncoder
    """For all frames *from* this member, whoever receives them: one encoder gives one row of frame ids to its origin,
    which the receivers' reassemblers need. Its budget is set anew for each receiver."""
    storm: MemberStorm
    tally: PortTally = attrs.field(factory=PortTally)
    echoes: TokenBucket = attrs.field(factory=lambda: TokenBucket(ECHO_RATE, ECHO_BURST))
    budget: int = 0
    """``outlet``'s budget as read in the batch that is forwarded now; 0 before."""
    ways: dict[bytes, Way] = attrs.field(factory=dict)
    """What is known of this member's plain frames, by head."""

    def read_budget(self) -> int:
        """Ask ``outlet`` for its budget, for the batch that is forwarded now."""
        self.budget = self.outlet.datagram_budget
        return self.budget

    def total(self) -> PortTally:
        """The counters of this port, what the decoder dropped included."""
        total = PortTally.sum([self.tally])
        for reason, count in self.decoder.counters.dropped.items():
            total.drop(reason, count)
        return total


Route = tuple[Port, ...] | str | Rule
"""The receivers of a frame, or the reason for dropping it."""


@attrs.frozen(eq=False)
class Way:
    """Where plain frames with one head go, and that they may."""

    header: bytes
    """The overlay header with which they leave."""
    changed: bool
    """Whether they came with another one."""
    route: Route
    shape: Shape
    largest: int
    """Bytes of overlay datagram up to which they are not too long."""
    sources: set[int | bytes] | None
    """IP source addresses that they may have; None: any. At most as many as the guard lets a member use."""
    traffic: Traffic | None
    """What storm control takes them for; None: not limited."""
    version: int
    """The guard's, when it said that they may pass."""
    until: float
    """When that ends by time alone, seconds."""
    machine: bytes | None
    """The house machine that they come from."""


Deliveries = dict[Port, list[bytes]]
"""Overlay datagrams by receiving port, in order."""


@attrs.define(eq=False)
class Switch:
    """The switch of one room. Ports come and go with the members."""

    room: Room
    guard: Guard
    watch: FrameWatch | None = None
    short_ways: bool = True
    """False: every frame takes the long way. Nothing else differs, which tests and benchmarks compare."""
    storm: StormControl = attrs.field(factory=StormControl)
    departed: PortTally = attrs.field(factory=PortTally)
    """The sum over those who left."""
    _ports: dict[int, Port] = attrs.field(factory=dict, init=False)
    _by_mac: dict[bytes, Port] = attrs.field(factory=dict, init=False)
    _gateway: Port | None = attrs.field(default=None, init=False)
    _lan: dict[bytes, float] = attrs.field(factory=dict, init=False)
    """When a frame of each house machine came last, by its MAC; the longest silent first."""

    def add(self, member: MemberState, outlet: Outlet) -> Port:
        """Connect a member of the room; from now on frames reach it."""
        budget = outlet.datagram_budget
        port = Port(
            member=member,
            outlet=outlet,
            decoder=OverlayDecoder(Reassembler(), OverlayCounters()),
            encoder=OverlayEncoder(budget, fragments=self.room.fragments),
            storm=self.storm.join(house=member.is_gateway),
        )
        self._forget_ways()
        self._ports[member.peer_id] = port
        if member.is_gateway:
            self._gateway = port
        else:
            self._by_mac[member.mac] = port
        return port

    def remove(self, port: Port) -> None:
        """Disconnect a member; its counters stay in ``departed``. Removing twice does nothing."""
        member = port.member
        if self._ports.get(member.peer_id) is not port:
            return
        self._forget_ways()
        del self._ports[member.peer_id]
        if self._gateway is port:
            self._gateway = None
        else:
            del self._by_mac[member.mac]
        self.storm.leave(port.storm)
        self.guard.member_left(member)
        self.departed.add(port.total())

    def _forget_ways(self) -> None:
        for port in self._ports.values():
            port.ways.clear()

    @property
    def ports(self) -> tuple[Port, ...]:
        """Who is connected now."""
        return tuple(self._ports.values())

    def total(self) -> PortTally:
        """The counters of the room since it opened."""
        return PortTally.sum([self.departed, *(port.total() for port in self._ports.values())])

    def expire(self, now: float) -> None:
        """Give up frames whose pieces did not come in time. Needed only where a member falls silent."""
        for port in self._ports.values():
            port.decoder.reassembler.expire(now)

    def receive_untrusted(self, port: Port, datagrams: Sequence[bytes], now: float) -> Deliveries:
        """Take a batch of overlay datagrams from the member at ``port``; give what goes to whom. Never raises."""
        deliveries: Deliveries = {}
        frames = octets = 0
        version = self.guard.version
        for way, run in _runs_untrusted(port.ways, datagrams):
            if way is None or now >= way.until or way.version != version:
                self._switch_untrusted(port, run, deliveries, now)
                version = self.guard.version  # nothing else here can change it
                continue
            count = len(run)
            size = len(run[0])
            frames += count
            octets += count * (size - HEADER_SIZE)
            if way.machine is not None:
                self._see_machine(way.machine, now)
            route = way.route
            if not isinstance(route, tuple):
                _refuse(port, route, count)
                continue
            if way.traffic is not None:
                run = self._calm(port, way.traffic, route, run, now)
                if not run:
                    continue
            if way.changed:
                header = way.header
                # A comprehension costs as much as two frames.
                one = len(run) == 1
                run = [header + run[0][HEADER_SIZE:]] if one else [header + datagram[HEADER_SIZE:] for datagram in run]
            self._deliver(port, route, run, size, deliveries)
        if frames:
            port.tally.frames_in += frames
            port.tally.bytes_in += octets
            port.decoder.counters.frames += frames
        if now >= port.decoder.reassembler.deadline:
            port.decoder.reassembler.expire(now)
        return deliveries

    def _switch_untrusted(self, port: Port, datagrams: Sequence[bytes], deliveries: Deliveries, now: float) -> None:
        """The long way, for everything that no way is known for."""
        whole, echoes = port.decoder.decode_untrusted(datagrams, now)
        judge = self.guard.judge_untrusted
        member, tally = port.member, port.tally
        passed = []
        for stamp, frame in whole:
            tally.frames_in += 1
            tally.bytes_in += len(frame)
            rule = judge(frame, member, now)
            if rule is None:
                passed.append((stamp, frame))
                if member.is_gateway:
                    self._see_machine(frame[6:12], now)
                self._learn(port, stamp, frame, now)
            else:
                tally.block(rule)
                if self.watch is not None:
                    self.watch.frames((frame,), member.peer_id, f"blocked:{rule.label}")
        if passed:
            self.forward(port, passed, deliveries, now)
        if echoes:
            self._echo(port, echoes, deliveries, now)

    def _see_machine(self, mac: bytes, now: float) -> None:
        """Note that a frame of the house machine ``mac`` came."""
        lan = self._lan
        if lan.pop(mac, None) is None and len(lan) >= MAX_LAN_SOURCES:
            # The longest silent are first. A look at all of them for each new one would let a house stop the relay.
            del lan[next(iter(lan))]
            while lan and now >= lan[oldest := next(iter(lan))] + LAN_AGE:
                del lan[oldest]
            self._forget_ways()  # of those who were on one to such a machine
        lan[mac] = now

    def _learn(self, port: Port, stamp: int, frame: bytes, now: float) -> None:
        """Remember what holds for all plain frames that begin as ``frame``, which passed the guard."""
        if not self.short_ways or self.watch is not None:
            return
        came = _header(stamp)
        datagram = came + frame
        head = datagram[:HEAD_SIZE]
        shape = shape_of(head)
        if shape is None:
            return
        fields = plain_fields_untrusted(shape, datagram)
        if fields is None:
            return
        guard, member = self.guard, port.member
        until, sources = math.inf, None
        if guard.is_strict and not member.is_gateway:
            known, until = self._known(frame[:6], now)
            if not known:
                return
            until = min(until, guard.holds_until(member, now))
            # Nobody but clients is bound to addresses. Those that hold by the same version are good together.
            sources = {fields[shape.source]}
            before = port.ways.get(head)
            if before is not None and before.sources and before.version == guard.version and now < before.until:
                sources |= before.sources
        if len(port.ways) >= MAX_WAYS:
            port.ways.clear()
        leaves = _header(stamp & _FLAGS | member.peer_id)
        route = self._route(port, frame)
        port.ways[head] = Way(
            header=leaves,
            changed=leaves != came,
            route=route,
            shape=shape,
            largest=guard.limit(member) + HEADER_SIZE,
            sources=sources,
            traffic=traffic_of_untrusted(frame, known=True) if guard.is_strict else None,
            version=guard.version,
            until=until,
            machine=frame[6:12] if member.is_gateway else None,
        )

    def _known(self, destination: bytes, now: float) -> tuple[bool, float]:
        """Say whether somebody has been seen with this MAC, and until when that holds."""
        if destination[0] & 1 or destination in self._by_mac:
            return True, math.inf
        until = self._lan.get(destination, -math.inf) + LAN_AGE
        return now < until, until

    def _route(self, sender: Port, frame: bytes) -> Route:
        """Say who gets ``frame`` of ``sender``, or why nobody does."""
        isolated = self.guard.policy.isolated and sender is not self._gateway
        if frame[0] & 1:
            if isolated:
                return () if self._gateway is None else (self._gateway,)
            return tuple(port for port in self._ports.values() if port is not sender)
        receiver = self._by_mac.get(frame[:6])
        if receiver is None and sender is not self._gateway:
            receiver = self._gateway
        if receiver is None:
            return Drop.UNKNOWN if sender is self._gateway else Drop.NO_GATEWAY
        if receiver is sender:
            return Drop.HAIRPIN
        return Rule.ISOLATION if isolated and receiver is not self._gateway else (receiver,)

    def forward(self, sender: Port, frames: Sequence[tuple[int, bytes]], deliveries: Deliveries, now: float) -> None:
        """Add ``frames`` of ``sender``, which the guard let pass, to the ``deliveries`` of their receivers.

        Each comes with the stamp that it came with: its flags are kept, the origin becomes ``sender``'s peer id.
        """
        peer_id = sender.member.peer_id
        limited = self.guard.is_strict
        if self.watch is not None:
            self.watch.frames([frame for _, frame in frames], peer_id, "forwarded")
        for stamp, frame in frames:
            route = self._route(sender, frame)
            if not isinstance(route, tuple):
                _refuse(sender, route, 1)
                continue
            run = [_header(stamp & _FLAGS | peer_id) + frame]
            if limited and (frame[0] & 1 or not self._known(frame[:6], now)[0]):
                traffic = traffic_of_untrusted(frame, known=False)
                if traffic is not None and not self._calm(sender, traffic, route, run, now):
                    continue
            self._deliver(sender, route, run, len(run[0]), deliveries)

    def _calm(
        self, sender: Port, traffic: Traffic, receivers: tuple[Port, ...], run: list[bytes], now: float
    ) -> list[bytes]:
        """Give as many datagrams of ``run``, which are alike, as storm control lets go out now; count the others."""
        count = len(run)
        allowed = self.storm.admit(sender.storm, traffic, len(receivers), count, now)
        if allowed == count:
            return run
        sender.tally.block(Rule.STORM, count - allowed)
        return run[:allowed]

    def _deliver(
        self, sender: Port, receivers: tuple[Port, ...], datagrams: list[bytes], size: int, deliveries: Deliveries
    ) -> None:
        """Give ``receivers`` whole frames, in ``datagrams`` of ``size`` bytes: shared, or cut for smaller budgets."""
        count = len(datagrams)
        octets = (size - HEADER_SIZE) * count
        cut: dict[int, list[bytes]] = {}
        for receiver in receivers:
            batch = deliveries.get(receiver)
            if batch is None:
                batch = deliveries[receiver] = []
                receiver.budget = 0
            # Nobody is admitted with less than the first figure, which saves asking for what games send.
            if size <= MIN_DATAGRAM_BUDGET or size <= (receiver.budget or receiver.read_budget()):
                batch += datagrams
            else:
                budget = receiver.budget
                if budget not in cut:
                    cut[budget] = self._cut(sender, datagrams, budget)
                if not cut[budget]:
                    sender.tally.drop(Drop.OVERSIZE, count)
                    continue
                batch += cut[budget]
            tally = receiver.tally
            tally.frames_out += count
            tally.bytes_out += octets

    def _cut(self, sender: Port, datagrams: Sequence[bytes], budget: int) -> list[bytes]:
        """Cut whole frames of one size to ``budget``; nothing when that is not possible."""
        encoder = sender.encoder
        encoder.budget = budget
        try:
            return [
                piece
                for datagram in datagrams
                for piece in encoder.encode(datagram[HEADER_SIZE:], int.from_bytes(datagram[1:HEADER_SIZE], "big"))
            ]
        except OverlaySizeError:
            return []

    def _echo(self, sender: Port, echoes: Sequence[Echo], deliveries: Deliveries, now: float) -> None:
        """Answer echoes for the relay, pass the others on; the sender's peer id is put in either way."""
        peer_id = sender.member.peer_id
        for echo in echoes:
            if not sender.echoes.take(now):
                sender.tally.drop(Drop.ECHO_RATE)
                continue
            if echo.target == RELAY_PEER and not echo.reply:
                receiver: Port | None = sender
                answer = attrs.evolve(echo, origin=RELAY_PEER, target=peer_id, reply=True)
            else:
                receiver = self._ports.get(echo.target)
                answer = attrs.evolve(echo, origin=peer_id)
                if receiver is sender:
                    receiver = None
            if receiver is None:
                sender.tally.drop(Drop.ECHO_TARGET)
                continue
            sender.tally.echoes += 1
            batch = deliveries.get(receiver)
            if batch is None:
                batch = deliveries[receiver] = []
                receiver.budget = 0
            batch.append(encode_echo(answer))


_FLAGS: Final = 0xFF0000
"""The flags in a stamp."""


def _refuse(sender: Port, reason: str | Rule, count: int) -> None:
    """Count ``count`` frames that nobody gets."""
    if isinstance(reason, Rule):
        sender.tally.block(reason, count)
    else:
        sender.tally.drop(reason, count)


def _header(stamp: int) -> bytes:
    """Make the overlay header of a whole frame."""
    return _FIRST + stamp.to_bytes(3, "big")


def _runs_untrusted(ways: dict[bytes, Way], datagrams: Sequence[bytes]) -> list[tuple[Way | None, list[bytes]]]:
    """Cut a batch, in its order, in runs of datagrams of one size that go the same way, and runs that no way is for."""
    runs: list[tuple[Way | None, list[bytes]]] = []
    lost: list[bytes] | None = None
    run: list[bytes] = []
    size = -1
    read: Callable[[bytes], object] = bytes
    fields: object = None
    for datagram in datagrams:
        if len(datagram) == size and read(datagram) == fields:
            run.append(datagram)
            continue
        way = ways.get(datagram[:HEAD_SIZE])
        if way is not None and len(datagram) <= way.largest:
            shape, sources = way.shape, way.sources
            fields = plain_fields_untrusted(shape, datagram)
            if fields is not None and (sources is None or fields[shape.source] in sources):
                size, read, run, lost = len(datagram), shape.read, [datagram], None
                runs.append((way, run))
                continue
        size = -1
        if lost is None:
            lost = []
            runs.append((None, lost))
        lost.append(datagram)
    return runs
