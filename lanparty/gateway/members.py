"""Who is remote: the virtual MACs of the room's players, and which of the relay's frames may reach the house.

Owns: the table of remote MACs and the judgement of frames in both directions. Pure: the time is an argument.
Must not know: sockets, the relay's connection, the LAN link.

The relay filters what players send; the gateway does not rely on it. From the room to the house a frame passes when
(and when `house_guard` has nothing against it)
  1. it is 14 .. MAX_FRAME bytes,
  2. its source is the MAC of the player that the relay names as its origin,
  3. its destination is not one that switches take for themselves (spanning tree, LACP, LLDP, CDP ...).
From the house to the room a frame passes when its source is no player's MAC: such a frame is one of ours that came back
(a loop), or the player is at home with the tunnel still up, and in the room it would move the player. Gateways' probes
(``proto.probe``) pass in neither direction; `take_probes` has them.
A super-frame is judged once, by its headers, for all frames that it stands for: they have the same addresses.

Learning: the relay's list at admission and its lifecycle messages make entries. A frame may overtake the message that
announces its sender (datagrams and the control stream are independent), and that frame is the player's first ARP or
DHCP; so an unknown origin with a lawful virtual MAC is believed for a moment, in bounded number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from lanparty.ctrl.messages import MAX_MEMBERS, Member, Role
from lanparty.guard.guard import steers_switches
from lanparty.proto import probe
from lanparty.proto.mac import MacAddress
from lanparty.proto.superframe import Frame, frames_of, head_of, longest_of

__all__ = ["MAX_FRAME", "MAX_PROBES", "MAX_PROVISIONAL", "PROVISIONAL_AGE", "RemoteMembers"]

MIN_FRAME = 14
MAX_FRAME = 1514
"""Bytes, without FCS: what an untagged port of an ordinary switch takes. Tagged frames are not for remote players."""

PROVISIONAL_AGE = 3.0
"""Seconds that a sender is believed without its announcement: the control stream repeats a lost packet within one."""

MAX_PROVISIONAL = 16
"""Senders believed at once without announcement: as many as may join within PROVISIONAL_AGE, and no flood's worth."""

MAX_PROBES = 16
"""Probes kept of a batch: in a storm each is there many times, and a few say it all."""


@attrs.define
class RemoteMembers:
    """The remote MACs of one room, as this gateway knows them."""

    own_mac: bytes = b""
    """MAC of the gateway's own interface (6 bytes; empty while unknown): no player may have it."""

    dropped: dict[str, int] = attrs.field(factory=dict)
    """Frames dropped here, by reason; may be shared with other counters."""

    _macs: dict[int, bytes] = attrs.field(factory=dict, init=False)
    """By peer id, at most MAX_MEMBERS: no lawful room has more, and each costs the house a CAM refresh."""
    _provisional: dict[int, tuple[bytes, float]] = attrs.field(factory=dict, init=False)
    _remote: frozenset[bytes] = attrs.field(default=frozenset(), init=False)
    _not_house: frozenset[bytes] = attrs.field(default=frozenset((probe.SOURCE,)), init=False)
    """Sources that no frame of the house has."""
    _probes: list[bytes] = attrs.field(factory=list, init=False)

    @property
    def macs(self) -> frozenset[bytes]:
        """All MACs believed to be remote now."""
        return self._remote

    @property
    def announced(self) -> list[bytes]:
        """The MACs that the relay announced, in the order of joining: those that the house switch is told of."""
        return list(self._macs.values())

    def replace(self, members: Iterable[Member]) -> None:
        """Take the list that came with a new admission; what was known before is forgotten."""
        self._macs.clear()
        self._provisional.clear()
        for member in members:
            self.joined(member)
        self._rebuild()

    def joined(self, member: Member) -> bytes | None:
        """Take one announced member; give its MAC when it is a player that we accept."""
        if member.role is not Role.CLIENT or member.virtual_mac is None:
            return None
        mac = MacAddress.parse(member.virtual_mac).octets
        if not self._acceptable(mac):
            self._drop("bad-member-mac")
            return None
        if len(self._macs) >= MAX_MEMBERS and member.peer_id not in self._macs:
            self._drop("too-many-members")
            return None
        self._provisional.pop(member.peer_id, None)
        self._macs[member.peer_id] = mac
        self._rebuild()
        return mac

    def left(self, peer_id: int) -> bytes | None:
        """Forget a member; give its MAC if it had one here."""
        self._provisional.pop(peer_id, None)
        mac = self._macs.pop(peer_id, None)
        self._rebuild()
        return mac

    def expire(self, now: float) -> bool:
        """Forget senders that were never announced; True when the set of MACs became another."""
        late = [peer for peer, (_, until) in self._provisional.items() if now >= until]
        for peer in late:
            del self._provisional[peer]
        if late:
            self._rebuild()
        return bool(late)

    def next_expiry(self) -> float:
        """Give the time at which `expire` has something to do; infinity when there is nothing."""
        return min((until for _, until in self._provisional.values()), default=math.inf)

    def to_house_untrusted(self, frames: Sequence[tuple[int, Frame]], now: float) -> list[Frame]:
        """Give those of the (origin peer, frame) pairs from the relay that may go out to the house, in order."""
        passed: list[Frame] = []
        macs = self._macs
        for origin, frame in frames:
            head = head_of(frame)
            if not MIN_FRAME <= longest_of(frame) <= MAX_FRAME:
                self._drop("room-length", frames_of([frame]))
            elif macs.get(origin) != head[6:12] and not self._believe(origin, head[6:12], now):
                if not self._is_probe(frame):
                    self._drop("room-source", frames_of([frame]))
            elif head[0] == 1 and steers_switches(head[:6]):
                self._drop("room-switch-control", frames_of([frame]))
            else:
                passed.append(frame)
        return passed

    def to_room(self, frames: Sequence[Frame]) -> list[Frame]:
        """Give those frames of the house that may go to the relay, in order."""
        others = self._not_house
        passed = [frame for frame in frames if head_of(frame)[6:12] not in others]
        if len(passed) != len(frames):
            ours = [frame for frame in frames if head_of(frame)[6:12] in others and not self._is_probe(frame)]
            if ours:
                self._drop("house-member-source", frames_of(ours))
        return passed

    def take_probes(self) -> list[bytes]:
        """Give the frames with the probes' source that the last batch had, at most MAX_PROBES."""
        probes, self._probes = self._probes, []
        return probes

    def _is_probe(self, frame: Frame) -> bool:
        if not isinstance(frame, bytes) or frame[6:12] != probe.SOURCE:
            return False
        if len(self._probes) < MAX_PROBES:
            self._probes.append(frame)
        return True

    def _drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def _believe(self, origin: int, mac: bytes, now: float) -> bool:
        """Decide on a sender that is not announced (yet), or not with this MAC."""
        if origin in self._macs:
            return False
        known = self._provisional.get(origin)
        if known is not None:
            return known[0] == mac and now < known[1]
        if origin == 0 or mac in self._remote or len(self._provisional) >= MAX_PROVISIONAL or not self._acceptable(mac):
            return False
        self._provisional[origin] = (mac, now + PROVISIONAL_AGE)
        self._rebuild()
        return True

    def _acceptable(self, mac: bytes) -> bool:
        """True for a MAC that a client may have: unicast, locally administered (so not zero), and not ours."""
        return mac[0] & 0x03 == 0x02 and mac not in (self.own_mac, probe.SOURCE)

    def _rebuild(self) -> None:
        self._remote = frozenset(self._macs.values()) | {mac for mac, _ in self._provisional.values()}
        self._not_house = self._remote | {probe.SOURCE}
