"""Storm control: how much of what one member sends may go out to others, by kind of traffic, member and room.

What a frame has to find, each a token bucket; it passes when all of them have enough, and only then do they pay:

    bucket                        one for          counts                   keeps
    1. its kind (`Traffic`)       member and kind  frames                   what one receiver gets from one member small
    2. copies                     member           frames times receivers   the relay's work for one member small
    3. room, or the own share     room; member     frames times receivers   the room's work bounded, and fair

Charged is what goes out: a frame that the guard or a bucket stopped costs nothing, so a member that floods gets its
rate, not nothing; and a frame to 32 receivers costs 32 copies. Why not copies in 1 as well: 200 copies a second are 6
broadcasts in a room of 32, and the same game sends as many there as in a room of 3.

Step 3: while the room's own bucket has tokens, they are anybody's. When it has none a member still has its share, the
room's rate divided by weight: that, nobody else can take. Passing by the share puts the room's bucket in debt, so that
both together never let out more than ``rate * t + 2 * burst`` copies.

The gateway speaks for the whole house, and has `HOUSE_WEIGHT` times the rates, bursts and weight of a client.

A kind is read from the destination MAC, except ARP and ND. So it is the same for all frames with one head
(``plain.py``), and a run of them can be admitted at once.

Owns: the kinds, the rates, the buckets. Must not know: frames' way, who is known, the clock (``now`` is an argument).
Bounded: a member has `BUCKETS` buckets and nothing else; a room one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import attrs

from lanparty.guard.bucket import TokenBucket
from lanparty.proto.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV6, HEADER_SIZE
from lanparty.proto.ip import transport_at_untrusted
from lanparty.proto.mac import BROADCAST, MAC_SIZE

__all__ = [
    "BUCKETS",
    "HOUSE_WEIGHT",
    "MemberStorm",
    "Rate",
    "StormControl",
    "StormLimits",
    "Traffic",
    "traffic_of_untrusted",
]


class Traffic(StrEnum):
    """The kinds of traffic that are limited. Unicast to somebody who is known is none of them."""

    BROADCAST = "broadcast"
    MULTICAST = "multicast"
    UNKNOWN = "unknown"
    """Unicast to an address that nobody has been seen with: the house's switch will flood it."""
    ARP = "arp"
    """Broadcast, or to somebody unknown. Answers go to somebody known."""
    ND = "nd"
    """IPv6 neighbour discovery, ICMPv6 133 to 136, where it is not unicast to somebody known."""
    DISCOVERY = "discovery"
    """mDNS, SSDP and LLMNR, by their groups' MACs. Each of them can be answered by everybody who hears it."""


@attrs.frozen
class Rate:
    """A bucket's two numbers."""

    rate: float
    """A second, in the long run."""
    burst: float
    """At once, after a pause."""


HOUSE_WEIGHT: Final = 8
"""Members that the house counts as. Its broadcasts are those of all its machines: 1600 a second are 12 players in the
house whose game broadcasts at 128 Hz, or 45 of an old game at 35 Hz, and 13 times what a quiet LAN of 100 machines
says (about 1 a second and machine when it is busy). A loop in the house makes 100 000: that is the loop probe's."""

BUCKETS: Final = len(Traffic) + 2
"""Of a member: one for each kind, copies, its share."""


def _by_kind() -> dict[Traffic, Rate]:
    return {
        # A game that broadcasts its snapshots does so at 10 to 128 Hz, so this is one and a half times the worst. The
        # burst: looking for servers is 4 (Warcraft III, Quake 3 twice 4, Source 6, Unreal 10, DirectPlay 1) frames for
        # each press of "refresh"; what a Wi-Fi pause of a second held back.
        Traffic.BROADCAST: Rate(200, 400),
        # Minecraft says one in 1.5 s, a game by multicast what it would broadcast; 1000 leaves room for voice and for
        # MLD and IGMP. More than broadcast, because receivers that did not join a group do not look at its frames.
        Traffic.MULTICAST: Rate(1000, 1000),
        # Someone who has been silent for 300 s, as a house machine that only receives. It answers ARP, and is known.
        Traffic.UNKNOWN: Rate(500, 500),
        # The burst and 7 s are all of a /24: looking for hosts one by one passes, looking for ever does not.
        Traffic.ARP: Rate(15, 150),
        Traffic.ND: Rate(30, 150),
        # A machine that wakes up announces some 20 services in three rounds, and asks for as many.
        Traffic.DISCOVERY: Rate(50, 200),
    }


@attrs.frozen
class StormLimits:
    """The limits of every room; kinds and ``member`` are a client's, the gateway has `HOUSE_WEIGHT` times as much."""

    kinds: dict[Traffic, Rate] = attrs.field(factory=_by_kind)
    """Frames a second of one member, by kind."""
    member: Rate = Rate(8_000, 16_000)
    """Copies of one member, all kinds together: 250 frames a second to 32 receivers. A copy costs the relay about 4 us
    (docs/performance.md, ``room32``), so one member costs it 3 % of a core."""
    room: Rate = Rate(180_000, 90_000)
    """Copies of all members together: 32 members that broadcast at 128 Hz to 32 receivers need 131 000. A member's
    share of it, beside 31 others and the house, is 4500: 140 frames a second to all. It is 70 % of a core."""


@attrs.define(eq=False)
class MemberStorm:
    """The buckets of one port."""

    weight: int
    kinds: dict[Traffic, TokenBucket]
    copies: TokenBucket
    share: TokenBucket


class StormControl:
    """The buckets of one room."""

    def __init__(self, limits: StormLimits | None = None) -> None:
        self._limits = StormLimits() if limits is None else limits
        self._room = _bucket(self._limits.room)
        self._members: set[MemberStorm] = set()
        self._weight = 0

    def join(self, *, house: bool = False) -> MemberStorm:
        """Make the buckets of a new port, full; ``house``: it is the gateway's."""
        weight = HOUSE_WEIGHT if house else 1
        member = MemberStorm(
            weight=weight,
            kinds={kind: _bucket(rate, weight) for kind, rate in self._limits.kinds.items()},
            copies=_bucket(self._limits.member, weight),
            share=_bucket(self._limits.room),  # full, which is what the division leaves of it
        )
        self._members.add(member)
        self._divide()
        return member

    def leave(self, member: MemberStorm) -> None:
        """Give a port's share back to the others; again does nothing."""
        if member in self._members:
            self._members.remove(member)
            self._divide()

    def _divide(self) -> None:
        """Divide the room's rate between those who are there."""
        room = self._limits.room
        total = sum(member.weight for member in self._members)
        for member in self._members:
            part = member.weight / total
            # Tokens that a bucket has stay, as far as it still holds them.
            member.share.rate, member.share.burst = room.rate * part, room.burst * part

    def admit(self, member: MemberStorm, traffic: Traffic, copies: int, count: int, now: float) -> int:
        """Say how many of ``count`` equal frames, each for ``copies`` receivers, may go out at ``now``, seconds; pay
        for them."""
        if copies <= 0:
            return count
        kind, room, share = member.kinds[traffic], self._room, member.share
        mine = min(kind.fill(now), member.copies.fill(now) / copies)
        own = share.fill(now)
        passed = min(count, int(min(mine, max(own, room.fill(now)) / copies)))
        if passed > 0:
            out = passed * copies
            kind.spend(passed)
            member.copies.spend(out)
            room.spend(out)
            share.spend(min(out, max(own, 0.0)))
        return max(passed, 0)


def _bucket(rate: Rate, weight: int = 1) -> TokenBucket:
    return TokenBucket(rate.rate * weight, rate.burst * weight)


_MDNS_V4: Final = bytes.fromhex("01005e0000fb")
_LLMNR_V4: Final = bytes.fromhex("01005e0000fc")
_SSDP_V4: Final = bytes.fromhex("01005e7ffffa")
_MDNS_V6: Final = bytes.fromhex("3333000000fb")
_LLMNR_V6: Final = bytes.fromhex("333300010003")
_SSDP_V6: Final = bytes.fromhex("33330000000c")
_DISCOVERY: Final = frozenset({_MDNS_V4, _LLMNR_V4, _SSDP_V4, _MDNS_V6, _LLMNR_V6, _SSDP_V6})
"""RFC 6762 section 3, RFC 4795 section 2, UPnP device architecture 1.1; mapped by RFC 1112 and RFC 2464."""

_ICMPV6: Final = 58
_ND_TYPES: Final = frozenset(range(133, 137))


def traffic_of_untrusted(frame: bytes, *, known: bool) -> Traffic | None:
    """Tell the kind of ``frame``; None for one that is not limited: unicast to somebody ``known``.

    Takes any bytes and never raises: where a room has no guard, anything comes here.
    """
    if not frame:
        return Traffic.UNKNOWN
    group = frame[0] & 1
    if known and not group:
        return None
    ethertype = int.from_bytes(frame[12:HEADER_SIZE])
    if ethertype == ETHERTYPE_ARP:
        return Traffic.ARP
    if ethertype == ETHERTYPE_IPV6 and _is_nd(frame):
        return Traffic.ND
    if not group:
        return Traffic.UNKNOWN
    destination = frame[:MAC_SIZE]
    if destination == BROADCAST:
        return Traffic.BROADCAST
    return Traffic.DISCOVERY if destination in _DISCOVERY else Traffic.MULTICAST


def _is_nd(frame: bytes) -> bool:
    found = transport_at_untrusted(frame, ETHERTYPE_IPV6, HEADER_SIZE)
    return (
        found is not None
        and found.complete
        and found.protocol == _ICMPV6
        and found.length > 0
        and frame[found.offset] in _ND_TYPES
    )
