"""Who is in which room, and who may come in: admission as a pure function over explicit state.

Owns: the rooms, their members, peer ids, the effective MTU of a room, the limits, and the sentence that a refused
person reads. Must not know: connections, frames, time, how a message is spelled on the wire.

A room's name is its code and, where it has a password, the public key that follows from that (``lanparty.ctrl.proof``).
Who has the wrong password names another room, which is empty: to the relay, and to whoever guesses, that is the same as
a room that is not there, because it is one.

One admission, in this order; the first "no" is the answer:

1. the endpoint carries datagrams of a useful size, and the room's effective MTU. The first member fixes the MTU; it
   never changes while the room lives, because nobody can change the MTU of a running TAP without breaking the games
   on it;
2. the room exists, or may be opened: rooms with a gateway up to ``max_rooms``, and beside them rooms that clients
   opened and that wait for a gateway up to ``max_waiting_rooms``, so that strangers cannot keep hosts out;
3. the role is free: one gateway per room, ``max_clients_per_room`` clients;
4. the virtual MAC is free in this room (the same MAC in another room is another machine, and none of our business);
5. a peer id is taken: unique in the room, and not given to the next one who comes (``_take_peer_id``).

Nothing is changed by an admission that ends in a refusal. ``Refused.holder`` names the member that is in the way, and
``Refused.remedy`` says what the session layer may do about it (``session.py``):

=====================================  =====================================================================
the member in the way                  remedy
=====================================  =====================================================================
has proven the newcomer's identity     TAKE_OVER: it is the newcomer's own earlier session
a client that proved another identity  NONE: the MAC is that identity's while it is here, silent or not
a client without identity              ASK for a sign of life (decision 0009)
a gateway of another identity          ASK: a gateway that is started again has another one (decision 0019)
=====================================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

import attrs

from lanparty.ctrl.messages import Hello, Member, RejectCode, Role
from lanparty.ctrl.validate import MIN_DATAGRAM_BUDGET
from lanparty.proto.mac import MacAddress, format_mac
from lanparty.proto.mtu import DEFAULT_TAP_MTU, MIN_TAP_MTU, tap_mtu_for

__all__ = ["Admitted", "MemberState", "Refused", "Remedy", "Room", "RoomLimits", "RoomName", "Rooms", "room_name"]

MAX_PEER_ID = 0xFFFF
"""Peer ids travel as u16 in the overlay header; 0 means "the relay"."""

RoomName = tuple[str, bytes | None]
"""Canonical room code, and the public key of the room's password, 32 bytes; None for a room without one."""


def room_name(hello: Hello) -> RoomName:
    """Give the name of the room that ``hello`` (checked, its proofs verified) asks for."""
    return hello.room, None if hello.room_key is None else hello.room_key.key


@attrs.frozen
class RoomLimits:
    """What the operator of the relay allows."""

    max_clients_per_room: int = 32
    """A broadcast costs one datagram per member: 32 clients keep a chatty game within a home uplink's reach."""
    max_rooms: int = 256
    """Rooms with a gateway: this bounds what strangers can make us keep."""
    max_waiting_rooms: int = 64
    """Rooms without one that clients may open. A guessed room code opens such a room, and so does a player who is there
    before the host: a quarter of the rooms is more players than that, and not what hosts need."""
    room_tries: int = 32
    """Different rooms that one address may ask for at once (``admission.Tries``); 0: any number."""
    room_mtu: int = DEFAULT_TAP_MTU
    """Largest TAP MTU of a room, in bytes of IP packet."""
    fragments: bool = True
    """Frames larger than a datagram travel in pieces. Without: the room's MTU is what travels whole."""


@attrs.define(eq=False)
class MemberState:
    """One admitted endpoint. Compared by identity: ids and MACs are unique only within one room."""

    peer_id: int
    role: Role
    mac: bytes
    """The virtual MAC, 6 bytes; empty for a gateway, which has none of its own."""
    display_name: str
    software: str
    address: str
    """Where the endpoint connected from, for the log of the relay's operator. Other members never see it."""
    room: Room
    identity: bytes | None = None
    """The public key that it proved to have; None from older software."""

    @property
    def is_gateway(self) -> bool:
        """Whether the house LAN is behind this member."""
        return self.role is Role.GATEWAY

    @property
    def mac_text(self) -> str | None:
        """The virtual MAC in its canonical spelling; None for a gateway."""
        return format_mac(self.mac) if self.mac else None

    def as_member(self) -> Member:
        """What the other members are told about this one."""
        return Member(peer_id=self.peer_id, role=self.role, virtual_mac=self.mac_text, display_name=self.display_name)


@attrs.define(eq=False)
class Room:
    """One virtual Ethernet segment. Lives from its first member's admission until its last member leaves."""

    code: str
    effective_mtu: int
    fragments: bool
    key: bytes | None = None
    """The public key of its password; None without one."""
    members: dict[int, MemberState] = attrs.field(factory=dict)
    """By peer id, in the order of admission."""
    by_mac: dict[bytes, MemberState] = attrs.field(factory=dict)
    """The clients, by raw virtual MAC."""
    gateway: MemberState | None = None
    _last_peer_id: int = 0

    @property
    def name(self) -> RoomName:
        """What it is found by."""
        return self.code, self.key

    def others(self, member: MemberState) -> Iterator[MemberState]:
        """Everyone in the room but ``member``."""
        return (other for other in self.members.values() if other is not member)

    def _take_peer_id(self) -> int:
        """The next free id, going round.

        The id of somebody who just left is the last to come up again: late datagrams of the one who left must not
        be taken for those of a newcomer. A room never has 65535 members, so that the loop ends.
        """
        candidate = self._last_peer_id
        while True:
            candidate = candidate % MAX_PEER_ID + 1
            if candidate not in self.members:
                self._last_peer_id = candidate
                return candidate

    def add(self, hello: Hello, mac: bytes, address: str) -> MemberState:
        """Make ``hello``'s sender a member. The caller (``Rooms.admit``) has checked that it may be one."""
        member = MemberState(
            peer_id=self._take_peer_id(),
            role=hello.role,
            mac=mac,
            display_name=hello.display_name,
            software=hello.software,
            address=address,
            room=self,
            identity=None if hello.identity is None else hello.identity.key,
        )
        self.members[member.peer_id] = member
        if member.is_gateway:
            self.gateway = member
        else:
            self.by_mac[mac] = member
        return member

    def remove(self, member: MemberState) -> bool:
        """Forget ``member``; False when it is not (or no longer) in this room."""
        if self.members.get(member.peer_id) is not member:
            return False
        del self.members[member.peer_id]
        if self.gateway is member:
            self.gateway = None
        else:
            del self.by_mac[member.mac]
        return True


@attrs.frozen
class Admitted:
    """The endpoint is a member now; what its welcome says is in ``member`` and ``member.room``."""

    member: MemberState
    opened: bool
    """Whether this member opened the room."""
    others: tuple[Member, ...]
    """The members who were there already, as the welcome lists them."""


class Remedy(Enum):
    """What may be done about a member that is in the way."""

    NONE = auto()
    ASK = auto()
    """Ask it for a sign of life, and take it out when none comes."""
    TAKE_OVER = auto()
    """Take it out at once."""


@attrs.frozen
class Refused:
    """The endpoint stays outside; ``text`` is one sentence for the person in front of it."""

    code: RejectCode
    text: str
    holder: MemberState | None = None
    """The member that holds what was asked for (the MAC, the gateway's place), where it is one."""
    remedy: Remedy = Remedy.NONE


@attrs.define(eq=False)
class Rooms:
    """All rooms of one relay: at most ``max_rooms`` with a gateway, and ``max_waiting_rooms`` that clients opened.

    A room whose gateway left stays while it has clients, and counts as waiting: it may be one too many of those, but
    all rooms together are at most the sum of the two. Each has at most ``max_clients_per_room`` + 1 members.
    """

    limits: RoomLimits = attrs.field(factory=RoomLimits)
    by_name: dict[RoomName, Room] = attrs.field(factory=dict)
    housed: int = attrs.field(default=0, init=False)
    """Rooms with a gateway now."""

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def member_count(self) -> int:
        """How many members there are in all rooms."""
        return sum(len(room.members) for room in self.by_name.values())

    def admit(self, hello: Hello, budget: int, address: str) -> Admitted | Refused:
        """Let the sender of ``hello`` in, or say why not.

        ``hello`` has passed ``lanparty.ctrl.validate.check_hello``: its room code is canonical and its MAC is fit for
        a client; and its proofs hold (``lanparty.ctrl.proof``). ``budget`` is the largest overlay datagram, in bytes,
        that travels both ways between the endpoint and this relay now. ``address`` is for the operator's log.
        """
        name = room_name(hello)
        room = self.by_name.get(name)
        mac = b"" if hello.virtual_mac is None else MacAddress.parse(hello.virtual_mac).octets
        refused = self._refuse_mtu(hello, budget, room) or self._refuse_place(hello, mac, room)
        if refused is not None:
            return refused
        opened = room is None
        if room is None:
            code, key = name
            room = Room(code=code, key=key, effective_mtu=self._mtu_for(budget), fragments=self.limits.fragments)
            self.by_name[name] = room
        others = tuple(other.as_member() for other in room.members.values())
        self.housed += hello.role is Role.GATEWAY
        return Admitted(room.add(hello, mac, address), opened, others)

    def leave(self, member: MemberState) -> bool:
        """Take ``member`` out of its room; True when that closed the room. Leaving twice does nothing."""
        room = member.room
        if not room.remove(member):
            return False
        self.housed -= member.is_gateway
        if room.members:
            return False
        del self.by_name[room.name]
        return True

    def _refuse_place(self, hello: Hello, mac: bytes, room: Room | None) -> Refused | None:
        """Whether there is no place for this role or this MAC; None when there is."""
        limits = self.limits
        if hello.role is Role.GATEWAY:
            holder = None if room is None else room.gateway
            if holder is not None:
                return Refused(
                    RejectCode.GATEWAY_PRESENT,
                    f"Room {hello.room} already has a gateway ({_who(holder)}); a room has one house, so stop that "
                    "gateway first or choose another room code.",
                    holder,
                    _remedy(holder, hello),
                )
            return None if self._has_room_for(hello.role, room) else _too_many_rooms(limits.max_rooms)
        if room is None:
            return None if self._has_room_for(hello.role, room) else _too_many_rooms(limits.max_waiting_rooms)
        holder = room.by_mac.get(mac)
        if holder is not None:
            return Refused(
                RejectCode.DUPLICATE_MAC,
                f"The virtual MAC {format_mac(mac)} is already in room {room.code} ({_who(holder)}); if two clients "
                "share one identity file, give each its own with --identity.",
                holder,
                _remedy(holder, hello),
            )
        if len(room.by_mac) >= limits.max_clients_per_room:
            return Refused(
                RejectCode.ROOM_FULL,
                f"Room {room.code} is full: it has {len(room.by_mac)} clients, and this relay allows "
                f"{limits.max_clients_per_room} per room (--max-clients-per-room).",
            )
        return None

    def _has_room_for(self, role: Role, room: Room | None) -> bool:
        """Whether the relay has a place for a room with a gateway, or for one more that waits for its gateway."""
        limits = self.limits
        if room is None and len(self.by_name) >= limits.max_rooms + limits.max_waiting_rooms:
            return False
        if role is Role.GATEWAY:
            return self.housed < limits.max_rooms
        return len(self.by_name) - self.housed < limits.max_waiting_rooms

    def _mtu_for(self, budget: int) -> int:
        """The effective MTU that a first member with this budget gives to its room, in bytes of IP packet."""
        if self.limits.fragments:
            return self.limits.room_mtu
        return min(self.limits.room_mtu, tap_mtu_for(budget))

    def _refuse_mtu(self, hello: Hello, budget: int, room: Room | None) -> Refused | None:
        """Whether the endpoint cannot carry what the room needs; None when it can."""
        # What the hello claims was checked before; this is what the connection really carries. Each frame for a member
        # with tiny datagrams would become hundreds of packets, whether the room cuts frames or not.
        if budget < MIN_DATAGRAM_BUDGET:
            return Refused(
                RejectCode.MTU_TOO_SMALL,
                f"This connection carries datagrams of {budget} bytes only; at least {MIN_DATAGRAM_BUDGET} are needed.",
            )
        fragments = self.limits.fragments if room is None else room.fragments
        if fragments:
            return None
        carries = tap_mtu_for(budget)
        needs = MIN_TAP_MTU if room is None else room.effective_mtu
        if carries >= needs:
            return None
        return Refused(
            RejectCode.MTU_TOO_SMALL,
            f"Room {hello.room} needs an MTU of {needs} bytes, and this connection carries only {carries}; "
            "frames are not cut in pieces here, because the relay runs with --no-fragments.",
        )


def _remedy(holder: MemberState, hello: Hello) -> Remedy:
    """Give what may be done about ``holder``, which is in the way of ``hello``'s sender: see the module's table."""
    if holder.identity is not None and hello.identity is not None and holder.identity == hello.identity.key:
        return Remedy.TAKE_OVER
    if holder.identity is None or holder.is_gateway:
        return Remedy.ASK
    return Remedy.NONE


def _too_many_rooms(limit: int) -> Refused:
    option = "--max-rooms for rooms with a gateway, --max-waiting-rooms for others"
    return Refused(
        RejectCode.TOO_MANY_ROOMS,
        f"This relay already serves {limit} rooms of this kind, which is its limit; try again later, or ask its "
        f"operator to raise it ({option}).",
    )


def _who(member: MemberState) -> str:
    """How a person recognises ``member``: its name and number. Its address is not for strangers."""
    name = f'"{member.display_name}", ' if member.display_name else ""
    return f"{name}peer {member.peer_id}"
