"""The guard once more, at the house's own door: what the room sends into the house, whoever let it into the room.

The relay judges what players send (``lanparty.relay.switch``), but the house is not the relay's. So the gateway judges
again, by the same rules, with a memory of its own: whose an address is it learns from the same DHCP, ARP and neighbour
discovery of the house. `RemoteMembers` has asked for length, source MAC and switch control before.

    room -> house    all rules of the level
    house -> room    rows 3 to 5; and what the house's words teach. Router advertisements pass here: whether players may
                     hear them is the room's business, and cannot hurt the house

A frame of a flow that was judged takes a short way (``lanparty.guard.plain``); so does a super-frame, which is plain.

Owns: the gateway's guard and its short ways, at most `MAX_WAYS`. Must not know: sockets, the relay, who is a member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from lanparty.guard.guard import Guard
from lanparty.guard.levels import Level, RoomPolicy
from lanparty.guard.plain import FRAME_HEAD_SIZE, Shape, frame_shape_of, plain_fields_untrusted
from lanparty.guard.rules import Rule
from lanparty.proto.mtu import DEFAULT_TAP_MTU
from lanparty.proto.superframe import Frame, SuperFrame, frames_of, head_of

__all__ = ["HouseGuard"]

MAX_WAYS: Final = 1024
"""Heads remembered: each player with each machine of the house, for IPv4 and IPv6. When they are too many, all are
found anew."""

_IPV4_PLAIN: Final = b"\x08\x00\x45"
_IPV6: Final = b"\x86\xdd"
_TCP: Final = b"\x06"
_UDP: Final = b"\x11"
_SILENT: Final = frozenset({b"\x01", _TCP})
"""Protocols over IPv4 that tell nobody whose an address is: ICMP and TCP."""
_DHCP_SERVER_PORT: Final = b"\x00\x43"


@attrs.frozen
class _Sender:
    """Who a frame is of (``GuardedMember``)."""

    mac: bytes
    is_gateway: bool


_HOUSE: Final = _Sender(b"", is_gateway=True)


@attrs.frozen(eq=False)
class _Way:
    """What holds for all plain frames with one head."""

    shape: Shape
    sources: set[int | bytes]
    """IP source addresses that the sender was judged to have."""
    version: int
    until: float


class HouseGuard:
    """The rules for one house."""

    def __init__(self, policy: RoomPolicy, drop: Callable[[str, int], None]) -> None:
        """``drop`` counts frames by reason."""
        self._off = policy.level is Level.OFF
        self._members: set[bytes] = set()
        self._guard = Guard(attrs.evolve(policy, ipv6_routing=True), DEFAULT_TAP_MTU, self._members)
        self._drop = drop
        self._ways: dict[bytes, _Way] = {}

    def set_members(self, macs: frozenset[bytes]) -> None:
        """Say whose MACs are remote now. Who is not any more has left: only then is its memory bounded."""
        for mac in self._members - macs:
            self._guard.member_left(_Sender(mac, is_gateway=False))
        self._members.clear()
        self._members.update(macs)

    def to_house_untrusted(self, frames: Sequence[Frame], now: float) -> Sequence[Frame]:
        """Give those frames of the room that may go into the house, in order."""
        if self._off:
            return frames
        passed: list[Frame] = []
        ways, version = self._ways, self._guard.version
        for frame in frames:
            data = head_of(frame)
            way = ways.get(data[:FRAME_HEAD_SIZE])
            if way is not None and way.version == version and now < way.until:
                fields = plain_fields_untrusted(way.shape, data)
                if fields is not None and fields[way.shape.source] in way.sources:
                    passed.append(frame)
                    continue
            rule = self._judge_untrusted(frame, data, now)
            version = self._guard.version
            if rule is None:
                passed.append(frame)
            else:
                self._drop(f"room-{rule.label}", frames_of([frame]))
        return passed

    def from_house_untrusted(self, frames: Sequence[Frame], now: float) -> Sequence[Frame]:
        """Give those frames of the house that may go into the room, in order, and learn from all of them."""
        if self._off:
            return frames
        passed: list[Frame] = []
        for frame in frames:
            if isinstance(frame, SuperFrame) or _tells_nothing(frame):
                passed.append(frame)
                continue
            rule = self._guard.judge_untrusted(frame, _HOUSE, now)
            if rule is None:
                passed.append(frame)
            else:
                self._drop(f"house-{rule.label}", 1)
        return passed

    def _judge_untrusted(self, frame: Frame, data: bytes, now: float) -> Rule | None:
        """The long way, and what to remember of it."""
        guard, sender = self._guard, _Sender(data[6:12], is_gateway=False)
        # A super-frame is as long as many frames: for its segments `RemoteMembers` has asked.
        judge = guard.judge_packet_untrusted if isinstance(frame, SuperFrame) else guard.judge_untrusted
        rule = judge(data, sender, now)
        if rule is None:
            self._remember(data, sender, now)
        return rule

    def _remember(self, data: bytes, sender: _Sender, now: float) -> None:
        head = data[:FRAME_HEAD_SIZE]
        shape = frame_shape_of(head)
        fields = None if shape is None else plain_fields_untrusted(shape, data)
        if shape is None or fields is None:
            return
        version, until = self._guard.version, self._guard.holds_until(sender, now)
        before = self._ways.get(head)
        sources = before.sources if before is not None and before.version == version and now < before.until else set()
        if len(self._ways) >= MAX_WAYS:
            self._ways.clear()
        # At most as many as the guard lets one member have at once.
        self._ways[head] = _Way(shape, sources | {fields[shape.source]}, version, until)


def _tells_nothing(frame: bytes) -> bool:
    """Whether a frame of the house is one of those that pass, and that nothing is learned from."""
    kind = frame[12:15]
    if kind == _IPV4_PLAIN:
        protocol = frame[23:24]
        return protocol in _SILENT or (protocol == _UDP and frame[34:36] != _DHCP_SERVER_PORT)
    return kind[:2] == _IPV6 and frame[20:21] in (_TCP, _UDP)
