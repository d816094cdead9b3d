"""What may enter a room: one verdict per whole frame, from a table of rules (``rules.py``) and a level.

A member's frame, on its way through ``Guard.judge_untrusted`` at the level "strict"; the first rule that objects is the
verdict:

1. length, source and destination MAC, switch control                                                 rows 1, 2, 6
2. no VLAN tag, no 802.3 but raw IPX, no EtherType that is not on the list                            rows 3, 4, 5
3. ARP                                                                        ``arp.py``        row 7
4. IPv4, and DHCP in it                                   ``ipv4.py``, ``dhcp.py``        rows 8 to 11, 16
5. IPv6                                                                       ``ipv6.py``       rows 12 to 16

After step 2 IP can only be right behind the Ethernet header, so its headers are walked once and nothing is unwrapped.
Steps 3 to 5 ask ``bindings.py`` whose an address is, which learns from what members send and from what the house says.
At "standard" what is behind tags and SNAP is looked at instead (``standard.py``), nothing is learned and no rule
needs memory; "off" is step 1 without switch control. Rows 17 and 18 are not about one frame: ``storm.py``,
``switch.py``.

The house's frames (the gateway's) are the house's own business, and its DHCP, ARP and IPv4 pass. Not these:

* a member's virtual MAC as source: a loop, or a player who came home with the tunnel up. It never moves the member;
* what steps 1 and 2 say;
* router advertisements, DHCPv6 servers and IPv6 that could hide them, unless the room allows IPv6 routing. A player's
  machine that hears the house's router takes it as its default router without being asked, and then everything the
  player does on the internet goes through the house. Link-local IPv6, which discovery needs, is not touched by that.

Source MACs 00-00-5E-00-01-xx and 02-xx (row 16) are no member's, because a member's own MAC is all it sends from; from
the house they are lawful: its routers' VRRP.

Owns: the order of the rules, and the way from a level to them.
Must not know: connections, pieces of frames (the switch puts frames together first), where a frame goes, logging.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import attrs

from lanparty.guard.arp import judge_arp_untrusted, learn_arp_untrusted
from lanparty.guard.bindings import Bindings
from lanparty.guard.ipv4 import judge_ipv4_untrusted, learn_ipv4_untrusted
from lanparty.guard.ipv6 import judge_ipv6_untrusted, learn_ipv6_untrusted
from lanparty.guard.levels import Level, RoomPolicy
from lanparty.guard.rules import Enforced, GuardedMember, Rule
from lanparty.guard.standard import judge_ip_untrusted, judge_ipv6_chain_untrusted, judge_wrapped_untrusted
from lanparty.proto.ethernet import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_IPX,
    HEADER_SIZE,
    MIN_ETHERTYPE,
    STANDARD_FRAME_SIZE,
    VLAN_ETHERTYPES,
)
from lanparty.proto.ip import transport_at_untrusted
from lanparty.proto.mac import ZERO

__all__ = ["ETHERTYPES", "Enforced", "Guard", "GuardedMember", "Rule", "steers_switches"]

ETHERTYPES: Final = frozenset({ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_IPV6, ETHERTYPE_IPX})
"""What games speak. A room may have others besides (`RoomPolicy.ethertypes`)."""

_TAG_SIZE: Final = 4
"""A VLAN tag makes a frame longer by this many bytes, and the limit with it (IEEE 802.3 section 3.2.7)."""
_MAX_EXCUSED: Final = 4 * _TAG_SIZE

_CONTROL_PREFIX: Final = bytes.fromhex("0180c20000")
_CONTROL_BELOW: Final = 0x40
"""01-80-C2-00-00-00..3F: spanning tree, pause, LACP, LLDP, 802.1X (00..0F), bridge management (10), MVRP and MMRP
(20..2F), connectivity fault management (30..3F). 11..1F, which row 6 of the table leaves out, is in it as well: IS-IS
routers and network management live there, and nothing that a game sends."""
_CISCO_PREFIX: Final = bytes.fromhex("01000c")
"""Cisco's group addresses: CDP, VTP, DTP, UDLD (CC-CC-CC), PVST+ (CC-CC-CD), uplink fast (CD-CD-CD), layer-2 protocol
tunnels (CD-CD-D0), CGMP (DD-DD-DD), ISL (00-00-00). All of them steer switches, so the whole block is closed."""
_OTHER_CONTROL: Final = frozenset({bytes.fromhex("011b19000000"), bytes.fromhex("01e02b000000")})
"""PTP (IEEE 1588 annex E) and Extreme's discovery protocol."""

_MAX_LENGTH: Final = 0x05DC
"""The largest 802.3 length. From here to MIN_ETHERTYPE the field means nothing."""
_RAW_IPX: Final = (b"\xff\xff", b"\xe0\xe0\x03", b"\xaa\xaa\x03\x00\x00\x00\x81\x37")
"""What raw IPX begins with: Novell's frame types 802.3, 802.2 and SNAP."""


@attrs.define(eq=False)
class Guard:
    """The rules of one room, and its memory."""

    policy: RoomPolicy
    effective_mtu: int
    """The room's, in bytes of IP packet."""
    member_macs: Container[bytes]
    """The virtual MACs in the room now: a live view, so that the guard sees members come and go."""
    bindings: Bindings = attrs.field(factory=Bindings)
    """Stays empty below "strict"."""
    _changes: int = attrs.field(default=0, init=False)
    _latest: float = attrs.field(default=0.0, init=False)
    """When the latest frame was judged, seconds."""

    _largest: int = attrs.field(init=False)

    @_largest.default
    def _default_largest(self) -> int:
        return min(STANDARD_FRAME_SIZE, self.effective_mtu + HEADER_SIZE)

    def __attrs_post_init__(self) -> None:
        self.bindings.link_local_ipv4 = self.policy.link_local_ipv4

    @property
    def version(self) -> int:
        """Goes up whenever a verdict that was given may no longer hold."""
        return self._changes + self.bindings.version

    @property
    def is_strict(self) -> bool:
        """Whether all rows of the table hold."""
        return self.policy.level is Level.STRICT

    def change(self, policy: RoomPolicy) -> None:
        """Judge by another policy from now on; what is known of addresses stays."""
        self.policy = policy
        self.bindings.link_local_ipv4 = policy.link_local_ipv4
        self._changes += 1

    def limit(self, member: GuardedMember) -> int:
        """Bytes of the largest untagged frame that ``member`` may send: row 1."""
        # The house may send what a LAN carries even where the room's MTU is smaller (design: nothing that fits a
        # normal LAN is lost for its size); a room without fragments drops it later, in the switch, and counts it.
        return STANDARD_FRAME_SIZE if member.is_gateway else self._largest

    def holds_until(self, member: GuardedMember, now: float) -> float:
        """When verdicts about frames of ``member`` may end by time alone, seconds; infinity for never."""
        return self.bindings.until(member.mac, now)

    def member_left(self, member: GuardedMember) -> None:
        """Note that ``member`` left the room."""
        self.bindings.left(member.mac, self._latest)

    def judge_untrusted(self, frame: bytes, member: GuardedMember, now: float) -> Rule | None:
        """Say which rule forbids ``member`` to send ``frame`` at ``now``, seconds; None when it may. Never raises."""
        rule = self._judge_ends(frame, member, self.policy.level)
        return self.judge_packet_untrusted(frame, member, now) if rule is None else rule

    def judge_packet_untrusted(self, frame: bytes, member: GuardedMember, now: float) -> Rule | None:
        """The same without rows 1, 2 and 6, for who has asked them: of a frame that has 14 bytes at least."""
        self._latest = now
        level = self.policy.level
        if level is Level.OFF:
            return None
        ethertype = frame[12] << 8 | frame[13]
        if member.is_gateway:
            return (
                self._judge_house(frame, ethertype, now) if level is Level.STRICT else self._see_house(frame, ethertype)
            )
        mac = member.mac
        if level is Level.STANDARD:
            if ethertype == ETHERTYPE_ARP:
                return None
            if ethertype in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
                return judge_ip_untrusted(frame, ethertype, HEADER_SIZE)
            return judge_wrapped_untrusted(frame)
        if ethertype == ETHERTYPE_IPV4:
            return judge_ipv4_untrusted(frame, mac, self.bindings, now)
        if ethertype == ETHERTYPE_ARP:
            return judge_arp_untrusted(frame, mac, self.bindings, now)
        if ethertype == ETHERTYPE_IPV6:
            found = transport_at_untrusted(frame, ETHERTYPE_IPV6, HEADER_SIZE)
            return judge_ipv6_untrusted(frame, found, mac, self.bindings, now)
        return self._judge_type(frame, ethertype)

    def _judge_ends(self, frame: bytes, member: GuardedMember, level: Level) -> Rule | None:
        """Rows 1, 2 and 6, and members' MACs on the LAN."""
        size = len(frame)
        largest = self.limit(member)
        if size < HEADER_SIZE or (size > largest and not _excused_by_tags(frame, largest)):
            return Rule.LENGTH
        destination = frame[:6]
        source = frame[6:12]
        if member.is_gateway:
            if source[0] & 1 or source == ZERO or destination in (ZERO, source):
                return Rule.ADDRESS
        # The own MAC is unicast and not zero (checked at admission): equality says all of row 2 about the source.
        elif source != member.mac or destination in (ZERO, source):
            return Rule.ADDRESS
        if destination[0] == 0x01 and level is not Level.OFF and steers_switches(destination):
            return Rule.SWITCH_CONTROL
        return Rule.MEMBER_ON_LAN if member.is_gateway and source in self.member_macs else None

    def _judge_type(self, frame: bytes, ethertype: int) -> Rule | None:
        """Rows 3 to 5."""
        if ethertype in ETHERTYPES or ethertype in self.policy.ethertypes:
            return None
        if ethertype in VLAN_ETHERTYPES:
            return Rule.VLAN
        if ethertype >= MIN_ETHERTYPE:
            return Rule.ETHERTYPE
        if ethertype > _MAX_LENGTH or ethertype > len(frame) - HEADER_SIZE:
            return Rule.LLC
        return None if frame[HEADER_SIZE : HEADER_SIZE + ethertype].startswith(_RAW_IPX) else Rule.LLC

    def _judge_house(self, frame: bytes, ethertype: int, now: float) -> Rule | None:
        """Judge a frame of the house at "strict", and learn from it."""
        if ethertype == ETHERTYPE_IPV4:
            learn_ipv4_untrusted(frame, self.member_macs, self.bindings, now)
            return None
        if ethertype == ETHERTYPE_ARP:
            learn_arp_untrusted(frame, self.member_macs, self.bindings, now)
            return None
        if ethertype != ETHERTYPE_IPV6:
            return self._judge_type(frame, ethertype)
        found = transport_at_untrusted(frame, ETHERTYPE_IPV6, HEADER_SIZE)
        learn_ipv6_untrusted(frame, found, self.member_macs, self.bindings, now)
        if self.policy.ipv6_routing:
            return None
        return Rule.IPV6_CHAIN if found is None else judge_ipv6_chain_untrusted(frame, HEADER_SIZE, found)

    def _see_house(self, frame: bytes, ethertype: int) -> Rule | None:
        """Judge a frame of the house at "standard"."""
        if self.policy.ipv6_routing or ethertype in _HOUSE_OWN:
            return None
        if ethertype == ETHERTYPE_IPV6:
            return judge_ip_untrusted(frame, ethertype, HEADER_SIZE)
        verdict = judge_wrapped_untrusted(frame)
        # Behind tags and SNAP IPv4 is the house's own as well. What cannot be read could be a router advertisement.
        return None if verdict in _HOUSE_MAY else verdict


_HOUSE_OWN: Final = frozenset({ETHERTYPE_IPV4, ETHERTYPE_ARP})
_HOUSE_MAY: Final = frozenset({Rule.IPV4_HEADER, Rule.DHCP_SERVER})


def _excused_by_tags(frame: bytes, limit: int) -> bool:
    """Whether ``frame``, longer than ``limit``, is so only by the VLAN tags that it begins with."""
    excess = len(frame) - limit
    if excess > _MAX_EXCUSED:
        return False
    at = 12
    while excess > 0 and (frame[at] << 8 | frame[at + 1]) in VLAN_ETHERTYPES:
        at += _TAG_SIZE
        excess -= _TAG_SIZE
    return excess <= 0


def steers_switches(destination: bytes) -> bool:
    """Row 6: whether a destination whose first byte is 01 is one that switches act on."""
    return (
        (destination[:5] == _CONTROL_PREFIX and destination[5] < _CONTROL_BELOW)
        or destination[:3] == _CISCO_PREFIX
        or destination in _OTHER_CONTROL
    )
