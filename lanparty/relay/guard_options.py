"""How the relay's operator says which room is guarded how.

    --guard LEVEL                 all rooms that are not named
    --room-guard ROOM=LEVEL       one room
    --room-ethertype ROOM=HEX     one more EtherType there
    --isolate ROOM                its players reach the house and not each other
    --ipv6-routing ROOM           the house's IPv6 router is its players' as well
    --no-link-local ROOM          no 169.254/16 there

Owns: these options, and what contradicts what. Must not know: what the levels do (``levels.py``).
"""

from __future__ import annotations

import argparse

import attrs

from lanparty.cli.guard_options import extra_ethertype, guard_level
from lanparty.cli.options import Parser, room_code
from lanparty.guard.levels import GuardSettings, Level, RoomPolicy
from lanparty.obs.errors import UsageError

__all__ = ["add_guard_options", "guard_settings"]


def add_guard_options(parser: Parser) -> None:
    """Give ``parser`` the options of this module."""
    group = parser.add_argument_group(
        "guard", f"What players may send. LEVEL is one of {', '.join(Level)}; ROOM is a room code."
    )
    group.add_argument(
        "--guard",
        type=guard_level,
        default=Level.STRICT,
        metavar="LEVEL",
        help="in rooms that are not named otherwise (default: %(default)s)",
    )
    group.add_argument("--room-guard", action="append", type=_room_level, metavar="ROOM=LEVEL", help="in one room")
    group.add_argument(
        "--room-ethertype",
        action="append",
        type=_room_ethertype,
        metavar="ROOM=HEX",
        help="an EtherType that passes in one room besides IPv4, ARP, IPv6 and IPX, as ROOM1=88B5",
    )
    group.add_argument(
        "--isolate",
        action="append",
        type=room_code,
        metavar="ROOM",
        help="players of this room reach the house, and not each other",
    )
    group.add_argument(
        "--ipv6-routing",
        action="append",
        type=room_code,
        metavar="ROOM",
        help="players of this room hear the house's IPv6 router and DHCPv6",
    )
    group.add_argument(
        "--no-link-local",
        action="append",
        type=room_code,
        metavar="ROOM",
        help="players of this room may not use addresses of 169.254.0.0/16",
    )


def guard_settings(options: argparse.Namespace) -> GuardSettings:
    """Check what was given, and put it together by room. Raises UsageError."""
    default = RoomPolicy(level=options.guard)
    rooms: dict[str, RoomPolicy] = {}
    levelled: dict[str, Level] = {}
    for room, level in options.room_guard or []:
        if levelled.setdefault(room, level) is not level:
            raise UsageError(f"--room-guard gives room {room} two levels, {levelled[room]} and {level}: give one.")
        rooms[room] = attrs.evolve(default, level=level)
    for room in options.isolate or []:
        rooms[room] = attrs.evolve(rooms.get(room, default), isolated=True)
    for room in options.ipv6_routing or []:
        rooms[room] = attrs.evolve(rooms.get(room, default), ipv6_routing=True)
    for room in options.no_link_local or []:
        _need_strict("--no-link-local", room, rooms.get(room, default))
        rooms[room] = attrs.evolve(rooms.get(room, default), link_local_ipv4=False)
    for room, ethertype in options.room_ethertype or []:
        policy = rooms.get(room, default)
        _need_strict("--room-ethertype", room, policy)
        rooms[room] = attrs.evolve(policy, ethertypes=policy.ethertypes | {ethertype})
    return GuardSettings(default, rooms)


def _need_strict(option: str, room: str, policy: RoomPolicy) -> None:
    if policy.level is not Level.STRICT:
        raise UsageError(
            f"{option} for room {room} has no effect, because its level is {policy.level}: leave it out, or give "
            f"--room-guard {room}={Level.STRICT}."
        )


def _room_level(text: str) -> tuple[str, Level]:
    room, value = _split(text, "LEVEL")
    return room, guard_level(value)


def _room_ethertype(text: str) -> tuple[str, int]:
    room, value = _split(text, "HEX")
    return room, extra_ethertype(value)


def _split(text: str, what: str) -> tuple[str, str]:
    room, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROOM={what}")
    return room_code(room), value
