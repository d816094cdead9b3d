"""Who is in which room, and who may come in: admission as a pure function over explicit state.

Owns: the rooms, their members, peer ids, the effective MTU of a room, the limits, and the sentence that a refused
person reads. Must not know: connections, frames, time, how a message is spelled on the wire.

One admission, in this order; the first "no" is the answer:

1. the room exists, or may be opened (``max_rooms``);
2. the role is free: one gateway per room, ``max_clients_per_room`` clients;
3. the virtual MAC is free in this room (the same MAC in another room is another machine, and none of our business);
4. the endpoint carries datagrams of a useful size, and the room's effective MTU. The first member fixes the MTU; it
   never changes while the room lives, because nobody can change the MTU of a running TAP without breaking the games
   on it;
5. a peer id is taken: unique in the room, and not given to the next one who comes (``_take_peer_id``).

Nothing is changed by an admission that ends in a refusal. ``Refused.holder`` names the member that is in the way, so
that the session layer can find out whether that member still lives (``session.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from lanparty.ctrl.messages import Hello, Member, RejectCode, Role
from lanparty.ctrl.validate import MIN_DATAGRAM_BUDGET
from lanparty.proto.mac import MacAddress, format_mac
from lanparty.proto.mtu import DEFAULT_TAP_MTU, MIN_TAP_MTU, tap_mtu_for

__all__ = ["Admitted", "MemberState", "Refused", "Room", "RoomLimits", "Rooms"]

MAX_PEER_ID = 0xFFFF
"""Peer ids travel as u16 in the overlay header; 0 means "the relay"."""


@attrs.frozen
class RoomLimits:
    """What the operator of the relay allows."""

    max_clients_per_room: int = 32
    """A broadcast costs one datagram per member: 32 clients keep a chatty game within a home uplink's reach."""
    max_rooms: int = 256
    """Rooms are opened by whoever asks: this bounds what strangers can make us keep."""
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
    members: dict[int, MemberState] = attrs.field(factory=dict)
    """By peer id, in the order of admission."""
    by_mac: dict[bytes, MemberState] = attrs.field(factory=dict)
    """The clients, by raw virtual MAC."""
    gateway: MemberState | None = None
    _last_peer_id: int = 0

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


@attrs.frozen
class Refused:
    """The endpoint stays outside; ``text`` is one sentence for the person in front of it."""

    code: RejectCode
    text: str
    holder: MemberState | None = None
    """The member that holds what was asked for (the MAC, the gateway's place), where it is one."""


@attrs.define(eq=False)
class Rooms:
    """All rooms of one relay: at most ``limits.max_rooms``, each with at most ``max_clients_per_room`` + 1 members."""

    limits: RoomLimits = attrs.field(factory=RoomLimits)
    by_code: dict[str, Room] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self.by_code)

    @property
    def member_count(self) -> int:
        """How many members there are in all rooms."""
        return sum(len(room.members) for room in self.by_code.values())

    def admit(self, hello: Hello, budget: int, address: str) -> Admitted | Refused:
        """Let the sender of ``hello`` in, or say why not.

        ``hello`` has passed ``lanparty.ctrl.validate.check_hello``: its room code is canonical and its MAC is fit for
        a client. ``budget`` is the largest overlay datagram, in bytes, that travels both ways between the endpoint and
        this relay now. ``address`` is for the operator's log.
        """
        room = self.by_code.get(hello.room)
        mac = b"" if hello.virtual_mac is None else MacAddress.parse(hello.virtual_mac).octets
        refused = self._refuse_place(hello, mac, room) or self._refuse_mtu(hello, budget, room)
        if refused is not None:
            return refused
        opened = room is None
        if room is None:
            room = Room(code=hello.room, effective_mtu=self._mtu_for(budget), fragments=self.limits.fragments)
            self.by_code[room.code] = room
        others = tuple(other.as_member() for other in room.members.values())
        return Admitted(room.add(hello, mac, address), opened, others)

    def leave(self, member: MemberState) -> bool:
        """Take ``member`` out of its room; True when that closed the room. Leaving twice does nothing."""
        room = member.room
        if not room.remove(member) or room.members:
            return False
        del self.by_code[room.code]
        return True

    def _refuse_place(self, hello: Hello, mac: bytes, room: Room | None) -> Refused | None:
        """Whether there is no place for this role or this MAC; None when there is."""
        limits = self.limits
        if room is None:
            if len(self.by_code) < limits.max_rooms:
                return None
            return Refused(
                RejectCode.TOO_MANY_ROOMS,
                f"This relay already serves {limits.max_rooms} rooms, which is its limit; try again later, "
                "or ask its operator to raise --max-rooms.",
            )
        if hello.role is Role.GATEWAY:
            if room.gateway is None:
                return None
            return Refused(
                RejectCode.GATEWAY_PRESENT,
                f"Room {room.code} already has a gateway ({_who(room.gateway)}); a room has one house, so stop that "
                "gateway first or choose another room code.",
                room.gateway,
            )
        holder = room.by_mac.get(mac)
        if holder is not None:
            return Refused(
                RejectCode.DUPLICATE_MAC,
                f"The virtual MAC {format_mac(mac)} is already in room {room.code} ({_who(holder)}); if two clients "
                "share one identity file, give each its own with --identity.",
                holder,
            )
        if len(room.by_mac) >= limits.max_clients_per_room:
            return Refused(
                RejectCode.ROOM_FULL,
                f"Room {room.code} is full: it has {len(room.by_mac)} clients, and this relay allows "
                f"{limits.max_clients_per_room} per room (--max-clients-per-room).",
            )
        return None

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


def _who(member: MemberState) -> str:
    """How a person recognises ``member``: its name and number. Its address is not for strangers."""
    name = f'"{member.display_name}", ' if member.display_name else ""
    return f"{name}peer {member.peer_id}"
