"""All rooms of one relay with their switches: what joining and leaving do, as plain functions.

Owns: which switch belongs to which room, who of the sessions is which member, sums of the counters.
Must not know: how a session talks to its endpoint (``session.py``), time.

Joining and leaving happen between two waits, so that nobody ever sees half of one: a member that is in the room is on
the switch, and its welcome lists exactly those who will be told of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

import attrs

from lanparty.ctrl.messages import Hello
from lanparty.guard.guard import Guard
from lanparty.guard.levels import GuardSettings
from lanparty.relay.admission import Tries
from lanparty.relay.rooms import Admitted, MemberState, Refused, Room, Rooms
from lanparty.relay.switch import FrameWatch, Outlet, Port, Switch
from lanparty.relay.tally import Pacer, PortTally

__all__ = ["Hub", "Joined"]

SessionT = TypeVar("SessionT")


@attrs.frozen
class Joined:
    """What an admission gave: the place in the room and the place on its switch."""

    admitted: Admitted
    switch: Switch
    port: Port


@attrs.define(eq=False)
class Hub(Generic[SessionT]):
    """The relay's state. At most as many rooms and members as ``rooms.limits`` says; nothing outlives its members."""

    rooms: Rooms
    watch: FrameWatch | None = None
    """The frame log; None when it is off."""
    guards: GuardSettings = attrs.field(factory=GuardSettings)
    """How strictly which room is guarded."""
    refused: Counter[str] = attrs.field(factory=Counter)
    """Refusals by reject code."""
    refusals: Pacer = attrs.field(factory=Pacer)
    """Which refusals a person hears of, by host and reject code."""
    tries: Tries = attrs.field(init=False)
    """Which rooms an address may ask for."""
    departed: PortTally = attrs.field(factory=PortTally)
    """The sum over the rooms that closed."""
    sessions: dict[MemberState, SessionT] = attrs.field(factory=dict)
    """Who speaks for each member."""
    _switches: dict[Room, Switch] = attrs.field(factory=dict, init=False)

    @tries.default
    def _default_tries(self) -> Tries:
        return Tries(self.rooms.limits.room_tries)

    def join(self, hello: Hello, session: SessionT, outlet: Outlet, address: str) -> Joined | Refused:
        """Admit the sender of ``hello`` (checked by ``lanparty.ctrl.validate``) and connect it, or say why not."""
        # What the endpoint says it can send, and what we can send to it: a frame has to pass both ways.
        budget = min(hello.datagram_budget, outlet.datagram_budget)
        result = self.rooms.admit(hello, budget, address)
        if isinstance(result, Refused):
            return result
        member = result.member
        room = member.room
        switch = self._switches.get(room)
        if switch is None:
            guard = Guard(self.guards.policy(room.code), room.effective_mtu, room.by_mac)
            switch = Switch(room=room, guard=guard, watch=self.watch)
            self._switches[room] = switch
        self.sessions[member] = session
        if room.gateway is not None:
            # Whoever comes to a gateway is its guest, and so is whoever was waiting for the one that comes.
            for guest in room.members.values() if member.is_gateway else (member,):
                self.tries.welcome(guest.identity, room.name)
        return Joined(result, switch, switch.add(member, outlet))

    def leave(self, joined: Joined) -> bool:
        """Take a member out of everything; True when that closed its room. Leaving twice does nothing."""
        member = joined.admitted.member
        self.sessions.pop(member, None)
        # First the room: whoever is in it must have a session, or the next one who joins cannot be told of.
        closed = self.rooms.leave(member)
        if closed:
            del self._switches[member.room]
        joined.switch.remove(joined.port)
        if closed:
            self.departed.add(joined.switch.departed)
        return closed

    def guard_by(self, guards: GuardSettings) -> None:
        """Guard all rooms by ``guards`` from now on, those that are open included."""
        self.guards = guards
        for room, switch in self._switches.items():
            policy = guards.policy(room.code)
            if policy != switch.guard.policy:
                switch.guard.change(policy)

    def total(self) -> PortTally:
        """The counters of the relay since it started."""
        return PortTally.sum([self.departed, *(switch.total() for switch in self._switches.values())])

    def room_total(self, code: str) -> PortTally:
        """The counters of one open room without a password, since it opened. Raises KeyError if it is not open."""
        return self._switches[self.rooms.by_name[code, None]].total()
