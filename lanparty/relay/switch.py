"""One room's switch: datagrams of one member in, datagrams for the other members out. All in batches, nothing waits.

Owns: the ports of a room, where each frame goes, the pieces of frames that are on their way, echoes, the counters.
Must not know: connections (a port's ``outlet`` tells its budget, no more), other rooms, the clock (``now`` is an
argument), logging.

A batch's way through ``Switch.receive_untrusted``:

1. ``OverlayDecoder`` of the sender: headers off, pieces put together, garbage counted;
2. the guard judges each whole frame (``guard.py``); what it stops is counted by rule;
3. ``forward`` finds the receivers:

       from        destination            to
       anyone      a group address        everyone else
       anyone      a member's MAC         that member
       client      anything else          the gateway
       gateway     anything else          nobody: it is not for this room

   and never the sender. There is no learning: members are known from their admission, so that no frame can move one;
4. each frame is stamped with the sender's peer id and encoded once; receivers share the bytes. Only a frame too large
   for somebody's datagram budget is cut, once for each distinct budget;
5. echoes: for peer 0 answered here, else stamped and passed on; at most ``ECHO_RATE`` a second and member.

The result says, for each receiving port, which datagrams go there in which order; the session layer hands them over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import attrs

from lanparty.proto.fragments import Reassembler
from lanparty.proto.overlay import (
    HEADER_SIZE,
    Echo,
    OverlayCounters,
    OverlayDecoder,
    OverlayEncoder,
    OverlaySizeError,
    encode_echo,
)
from lanparty.relay.guard import Guard
from lanparty.relay.rooms import MemberState, Room
from lanparty.relay.tally import PortTally, TokenBucket

__all__ = ["Deliveries", "Drop", "FrameWatch", "Outlet", "Port", "Switch"]

RELAY_PEER: Final = 0
"""The peer id of the relay itself: origin of its own echo replies, target of echoes to it."""
ECHO_RATE: Final = 20.0
"""Echoes a second and member. A measurement takes one or two a second to each of a few members."""
ECHO_BURST: Final = 64.0
"""One echo to each member of a full room, and some to spare."""


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
    tally: PortTally = attrs.field(factory=PortTally)
    echoes: TokenBucket = attrs.field(factory=lambda: TokenBucket(ECHO_RATE, ECHO_BURST))
    budget: int = 0
    """``outlet``'s budget, as read at the beginning of the batch that is forwarded now."""

    def total(self) -> PortTally:
        """The counters of this port, what the decoder dropped included."""
        total = PortTally.sum([self.tally])
        for reason, count in self.decoder.counters.dropped.items():
            total.drop(reason, count)
        return total


Deliveries = dict[Port, list[bytes]]
"""Overlay datagrams by receiving port, in order."""


@attrs.define(eq=False)
class Switch:
    """The switch of one room. Ports come and go with the members."""

    room: Room
    guard: Guard
    watch: FrameWatch | None = None
    departed: PortTally = attrs.field(factory=PortTally)
    """The sum over those who left."""
    _ports: dict[int, Port] = attrs.field(factory=dict, init=False)
    _by_mac: dict[bytes, Port] = attrs.field(factory=dict, init=False)
    _gateway: Port | None = attrs.field(default=None, init=False)

    def add(self, member: MemberState, outlet: Outlet) -> Port:
        """Connect a member of the room; from now on frames reach it."""
        budget = outlet.datagram_budget
        port = Port(
            member=member,
            outlet=outlet,
            decoder=OverlayDecoder(Reassembler(), OverlayCounters()),
            encoder=OverlayEncoder(budget, fragments=self.room.fragments),
        )
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
        del self._ports[member.peer_id]
        if self._gateway is port:
            self._gateway = None
        else:
            del self._by_mac[member.mac]
        self.departed.add(port.total())

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
        whole, echoes = port.decoder.decode_untrusted(datagrams, now)
        deliveries: Deliveries = {}
        if whole:
            judge = self.guard.judge_untrusted
            member, tally = port.member, port.tally
            frames = []
            size = 0
            # The origin that the member wrote is not looked at: the relay knows who sent it.
            for _, frame in whole:
                size += len(frame)
                rule = judge(frame, member)
                if rule is None:
                    frames.append(frame)
                else:
                    tally.block(rule)
                    if self.watch is not None:
                        self.watch.frames((frame,), member.peer_id, f"blocked:{rule.label}")
            tally.frames_in += len(whole)
            tally.bytes_in += size
            if frames:
                self.forward(port, frames, deliveries)
        if echoes:
            self._echo(port, echoes, deliveries, now)
        return deliveries

    def forward(self, sender: Port, frames: Sequence[bytes], deliveries: Deliveries) -> None:
        """Add ``frames`` of ``sender``, which the guard let pass, to the ``deliveries`` of their receivers."""
        if self.watch is not None:
            self.watch.frames(frames, sender.member.peer_id, "forwarded")
        others = [port for port in self._ports.values() if port is not sender]
        find = self._by_mac.get
        default = None if sender is self._gateway else self._gateway
        for frame in frames:
            if frame[0] & 1:
                self._deliver(sender, frame, others, deliveries)
                continue
            receiver = find(frame[:6]) or default
            if receiver is None:
                sender.tally.drop(Drop.UNKNOWN if sender is self._gateway else Drop.NO_GATEWAY)
            elif receiver is sender:
                sender.tally.drop(Drop.HAIRPIN)
            else:
                self._deliver(sender, frame, (receiver,), deliveries)

    def _deliver(self, sender: Port, frame: bytes, receivers: Sequence[Port], deliveries: Deliveries) -> None:
        """Encode ``frame`` once for each distinct need of ``receivers``, and share the bytes."""
        encoder, origin = sender.encoder, sender.member.peer_id
        size = len(frame)
        encoded: dict[int, list[bytes] | None] = {}
        for receiver in receivers:
            batch = deliveries.get(receiver)
            if batch is None:
                batch = deliveries[receiver] = []
                receiver.budget = receiver.outlet.datagram_budget
            # Whole frames are the same for all budgets.
            budget = receiver.budget
            need = 0 if size + HEADER_SIZE <= budget else budget
            if need not in encoded:
                encoder.budget = budget
                try:
                    encoded[need] = encoder.encode(frame, origin)
                except OverlaySizeError:
                    encoded[need] = None
            datagrams = encoded[need]
            if datagrams is None:
                sender.tally.drop(Drop.OVERSIZE)
                continue
            batch += datagrams
            tally = receiver.tally
            tally.frames_out += 1
            tally.bytes_out += size

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
            deliveries.setdefault(receiver, []).append(encode_echo(answer))
