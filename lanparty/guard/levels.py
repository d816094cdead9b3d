"""How strictly a room is guarded: what the relay's operator decides, and nothing that is found out from frames.

    level      drops
    strict     every row of the guard's table (``rules.py``). The default
    standard   rows 1, 2, 6, 9, 15 and router advertisements, looked for behind tags, SNAP and extension headers. For a
               room whose game needs what strict drops, VLAN tags or protocols that nobody listed
    off        rows 1 and 2, and members' MACs on the LAN: what the switch itself stands on. A member is known by its
               MAC from its admission; whoever could send from another one would be a second member, and move the first
               one's port on every switch in the house. For finding out whether it is the guard that a game stumbles on

Isolation holds at every level: it is asked for by name.

Owns: levels and policies. Must not know: frames, members, how options are spelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

__all__ = ["GuardSettings", "Level", "RoomPolicy"]


class Level(StrEnum):
    """What of the guard's table holds in a room."""

    STRICT = "strict"
    STANDARD = "standard"
    OFF = "off"


@attrs.frozen
class RoomPolicy:
    """What holds in one room."""

    level: Level = Level.STRICT
    ethertypes: frozenset[int] = frozenset()
    """EtherTypes that pass besides IPv4, ARP, IPv6 and IPX. What is in such frames is not looked at."""
    isolated: bool = False
    """Clients reach the house, and not each other."""
    ipv6_routing: bool = False
    """Whether the house's router advertisements and DHCPv6 reach the players (decision 0010)."""
    link_local_ipv4: bool = True
    """Whether members may use 169.254/16, besides a lease or instead of one (RFC 3927): games that were made for a
    cable between two computers do."""


@attrs.frozen
class GuardSettings:
    """What holds in which room."""

    default: RoomPolicy = RoomPolicy()
    rooms: Mapping[str, RoomPolicy] = attrs.field(factory=dict)
    """By canonical room code."""

    def policy(self, room_code: str) -> RoomPolicy:
        """Give what holds in the room with this canonical code."""
        return self.rooms.get(room_code, self.default)
