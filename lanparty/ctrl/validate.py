"""What a message must be beyond its own fields: role against MAC, room code, MACs and members among each other.

Owns: the checks that need more than one field, or another module's rules.
Must not know: which rooms and members exist (``lanparty.relay.rooms``), bytes (``codec.py``).
"""

from __future__ import annotations

from typing import Final

import attrs

from lanparty.ctrl.codec import require_known_major
from lanparty.ctrl.errors import BAD_HELLO, BAD_MESSAGE, ControlError
from lanparty.ctrl.messages import Hello, Member, RejectCode, Role, Welcome
from lanparty.ctrl.room import RoomError, parse_room
from lanparty.proto.mac import MacAddress, MacError

__all__ = ["MIN_DATAGRAM_BUDGET", "check_hello", "check_member", "check_welcome"]

MIN_DATAGRAM_BUDGET: Final = 256
"""Bytes of overlay datagram. QUIC paths carry packets of 1200 bytes at least (RFC 9000 section 14), so a smaller budget
is a mistake; and cutting frames finer than this would cost more in headers and packets than it is worth."""


def check_hello(hello: Hello) -> Hello:
    """The hello with its room code and MAC in canonical form. Raises ControlError; its code is a RejectCode's value.

    The version is looked at first: the rest of a foreign version's hello means something else.
    """
    require_known_major(hello.version)
    try:
        room = parse_room(hello.room)
    except RoomError as error:
        raise ControlError(RejectCode.BAD_ROOM.value, f"{error}.") from None
    if hello.datagram_budget < MIN_DATAGRAM_BUDGET:
        raise ControlError(
            RejectCode.MTU_TOO_SMALL.value,
            f"The connection carries datagrams of {hello.datagram_budget} bytes only; at least "
            f"{MIN_DATAGRAM_BUDGET} are needed.",
        )
    if hello.role is Role.GATEWAY:
        if hello.virtual_mac is not None:
            raise ControlError(BAD_HELLO, "A gateway has no virtual MAC, but this hello gives one.")
        return attrs.evolve(hello, room=room)
    if hello.virtual_mac is None:
        raise ControlError(BAD_HELLO, "A client must give its virtual MAC, but this hello gives none.")
    try:
        mac = MacAddress.parse(hello.virtual_mac).require_virtual()
    except MacError as error:
        raise ControlError(RejectCode.BAD_MAC.value, str(error)) from None
    return attrs.evolve(hello, room=room, virtual_mac=str(mac))


def check_member(member: Member) -> Member:
    """The member with its MAC in canonical form. Raises ControlError when role and MAC do not belong together."""
    if (member.virtual_mac is None) != (member.role is Role.GATEWAY):
        gives = "without a MAC" if member.virtual_mac is None else "with a virtual MAC"
        raise ControlError(BAD_MESSAGE, f"The relay names peer {member.peer_id}, a {member.role.value}, {gives}.")
    if member.virtual_mac is None:
        return member
    try:
        mac = MacAddress.parse(member.virtual_mac).require_virtual()
    except MacError as error:
        raise ControlError(BAD_MESSAGE, f"The relay gives peer {member.peer_id} a wrong MAC: {error}") from None
    return attrs.evolve(member, virtual_mac=str(mac))


def check_welcome(welcome: Welcome, hello: Hello | None = None) -> Welcome:
    """The welcome with canonical MACs. Raises ControlError when it contradicts itself, or the ``hello`` it answers."""
    require_known_major(welcome.version)
    members = tuple(check_member(member) for member in welcome.members)
    ids = [welcome.peer_id, *(member.peer_id for member in members)]
    macs = [member.virtual_mac for member in members if member.virtual_mac is not None]
    gateways = sum(member.role is Role.GATEWAY for member in members)
    if len(set(ids)) != len(ids):
        raise ControlError(BAD_MESSAGE, "The relay's welcome gives one peer id to two members.")
    if len(set(macs)) != len(macs):
        raise ControlError(BAD_MESSAGE, "The relay's welcome gives one MAC to two members.")
    if gateways > 1:
        raise ControlError(BAD_MESSAGE, "The relay's welcome lists more than one gateway.")
    if gateways and not welcome.gateway_present:
        raise ControlError(BAD_MESSAGE, "The relay's welcome lists a gateway and says that there is none.")
    try:
        room = parse_room(welcome.room)
    except RoomError as error:
        raise ControlError(BAD_MESSAGE, f"The relay's welcome names a wrong room: {error}.") from None
    if hello is not None and room != hello.room.upper():
        raise ControlError(BAD_MESSAGE, f"The relay's welcome is for room {room}, which was not asked for.")
    return attrs.evolve(welcome, room=room, members=members)
