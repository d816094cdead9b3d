"""What may enter a room: one verdict per whole frame, from a table of rules.

Owns: the rules (all rows of the layer-2 guard's table, with a mark that says which are enforced) and the verdicts.
Must not know: connections, pieces of frames (the switch puts frames together first), where a frame goes, logging.

A frame's way through ``Guard.judge_untrusted``; the first rule that objects is the verdict:

1. length (row 1), then source and destination MAC (rows 2 and 6; from the LAN also: no member's MAC as source);
2. one walk along all headers (``lanparty.proto``). Plain IP without tags takes a short way. Where the walk breaks off
   the frame is dropped: a chain that we cannot read to its end may hide what the rules below look for (rows 3, 4, 8, 12
   as far as that goes);
3. UDP ports and ICMPv6 types (rows 9, 13, 15).

Everything is a pure function of the frame, the member and the room's MACs. Rules that need memory (bindings learned
from DHCP, storm buckets) will bring it as explicit state and ``now`` as an argument; their rows are in the table
already and are marked as not enforced.

Fragments of IP are judged one by one, without state, and that is enough:

* a first fragment shows its whole chain of headers and the first 8 bytes of UDP, or it is dropped (RFC 7112);
* in IPv6 the upper layer follows the fragment header at once, or it is dropped: then UDP's ports and ICMPv6's type are
  in the first 8 bytes of what is put together again, as they are in IPv4;
* BOOTP's op is the byte behind these 8. A first fragment of DHCP that does not reach it is dropped;
* a later fragment begins at byte 8 or later (offsets count in eights), so that not even one that overlaps (RFC 5722
  forbids it, not everybody obeys) can change ports or type. So later fragments pass. Only the op could be overwritten,
  at a receiver that lets overlaps win; what goes to a DHCP client is known by its port, and only servers and relay
  agents listen for the op.

From the LAN (the gateway's frames) the house's own DHCP, ARP and IPv4 pass: it is their network. Two things do not:

* a frame with a member's virtual MAC as source: a loop, or a player who came home with the tunnel still up. It never
  moves the member;
* router advertisements and DHCPv6 server traffic, unless the room allows IPv6 routing (``lan_ipv6_routing``, default
  no). A player's machine that hears the house's router takes it as its default router without being asked, and then
  everything the player does on the internet goes through the house. Link-local IPv6, which discovery needs, is not
  touched by that.
"""

from __future__ import annotations

from collections.abc import Container
from enum import Enum, IntEnum
from typing import Final, Protocol

import attrs

from lanparty.proto.ethernet import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    HEADER_SIZE,
    STANDARD_FRAME_SIZE,
    VLAN_ETHERTYPES,
    FrameError,
    parse_untrusted,
)
from lanparty.proto.ip import Transport, transport_at_untrusted
from lanparty.proto.mac import ZERO

__all__ = ["Enforced", "Guard", "GuardedMember", "Rule"]

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

_UDP: Final = 17
_ICMPV6: Final = 58
_IPV6_FRAGMENT: Final = 44
_IPV6_AUTHENTICATION: Final = 51
_UDP_HEADER_SIZE: Final = 8
_ICMPV6_HEADER_SIZE: Final = 4

_DHCP_SERVER_PORT: Final = 67
_DHCP_CLIENT_PORT: Final = 68
_DHCPV6_CLIENT_PORT: Final = 546
_DHCPV6_SERVER_PORT: Final = 547
_BOOTP_REPLY: Final = 2
"""BOOTP's op of everything that a server sends (RFC 2131 section 2)."""
_ROUTER_ADVERTISEMENT: Final = 134
"""ICMPv6 type (RFC 4861 section 4.2)."""


class Enforced(IntEnum):
    """How much of a row of the table is enforced at this level ("standard")."""

    NO = 0
    PART = 1
    """What is needed so that the rows enforced in full cannot be got round."""
    FULL = 2


class Rule(Enum):
    """One reason to drop a frame. ``label`` is the stable name in counters, events and documents."""

    # (label, row of the table; 0: the section "From the gateway's LAN side", enforced, what is dropped)
    LENGTH = ("length", 1, Enforced.FULL, "a frame shorter than 14 bytes or longer than the room carries")
    ADDRESS = (
        "address",
        2,
        Enforced.FULL,
        "a source that is not the sender's own MAC, a group address or zero; a destination that is zero or the source",
    )
    VLAN = ("vlan", 3, Enforced.PART, "VLAN tags; today: only more than four, or nothing behind them")
    LLC = ("llc", 4, Enforced.PART, "802.3 length, LLC and SNAP; today: only SNAP that is cut short or nested")
    ETHERTYPE = ("ethertype", 5, Enforced.NO, "an EtherType that games do not use")
    SWITCH_CONTROL = ("switch-control", 6, Enforced.FULL, "a group address that steers switches")
    ARP = ("arp", 7, Enforced.NO, "ARP that is malformed or speaks for others")
    IPV4_HEADER = ("ipv4-header", 8, Enforced.FULL, "an IPv4 header that lies, or UDP cut off in its header")
    DHCP_SERVER = ("dhcp-server", 9, Enforced.FULL, "DHCP as only a server sends it")
    DHCP_CLIENT = ("dhcp-client", 10, Enforced.NO, "DHCP requests in another's name, or too many")
    IPV4_SOURCE = ("ipv4-source", 11, Enforced.NO, "an IPv4 source address that is not the member's")
    IPV6_CHAIN = (
        "ipv6-chain",
        12,
        Enforced.PART,
        "an IPv6 packet whose headers cannot be followed to the upper layer; unknown upper layers pass today",
    )
    ROUTER_ADVERTISEMENT = ("router-advertisement", 13, Enforced.FULL, "an IPv6 router advertisement")
    ICMPV6_CONTROL = ("icmpv6-control", 13, Enforced.NO, "IPv6 redirects, MLD queries, multicast router messages")
    NEIGHBOUR_DISCOVERY = ("neighbour-discovery", 14, Enforced.NO, "IPv6 neighbour discovery that is malformed or lies")
    DHCPV6_SERVER = ("dhcpv6-server", 15, Enforced.FULL, "DHCPv6 as only a server sends it")
    ROUTING = ("routing", 16, Enforced.NO, "redirects, IGMP queries and routing protocols")
    STORM = ("storm", 17, Enforced.NO, "more broadcast, multicast or unknown unicast than a room stands")
    ISOLATION = ("isolation", 18, Enforced.PART, "hairpin (the switch never does it); client to client where isolated")
    MEMBER_ON_LAN = ("member-on-lan", 0, Enforced.FULL, "a frame from the LAN with a member's MAC as its source")

    def __init__(self, label: str, row: int, enforced: Enforced, drops: str) -> None:
        self.label = label
        self.row = row
        self.enforced = enforced
        self.drops = drops

    def __str__(self) -> str:
        return self.label


class GuardedMember(Protocol):
    """What the guard wants to know of the sender (``rooms.MemberState`` is one)."""

    @property
    def mac(self) -> bytes:
        """The virtual MAC, 6 bytes; empty for a gateway."""

    @property
    def is_gateway(self) -> bool:
        """Whether the frames come from the house LAN."""


@attrs.frozen
class Guard:
    """The rules of one room."""

    effective_mtu: int
    """The room's, in bytes of IP packet."""
    member_macs: Container[bytes]
    """The virtual MACs in the room now: a live view, so that the guard sees members come and go."""
    lan_ipv6_routing: bool = False
    """Whether the house's router advertisements and DHCPv6 reach the players."""
    largest: int = attrs.field(init=False)
    """Largest untagged frame of a client, in bytes."""

    @largest.default
    def _default_largest(self) -> int:
        return min(STANDARD_FRAME_SIZE, self.effective_mtu + HEADER_SIZE)

    def limit(self, member: GuardedMember) -> int:
        """Bytes of the largest untagged frame that ``member`` may send: row 1."""
        return STANDARD_FRAME_SIZE if member.is_gateway else self.largest

    def judge_untrusted(self, frame: bytes, member: GuardedMember) -> Rule | None:
        """Say which rule forbids ``member`` to send ``frame``; None when it may. Never raises."""
        if member.is_gateway:
            return self._judge_lan(frame)
        size = len(frame)
        if size < HEADER_SIZE or (size > self.largest and not _excused_by_tags(frame, self.largest)):
            return Rule.LENGTH
        destination = frame[:6]
        # The own MAC is unicast and not zero (checked at admission): equality says all of row 2 about the source.
        if frame[6:12] != member.mac or destination in (ZERO, member.mac):
            return Rule.ADDRESS
        if destination[0] == 0x01 and _steers_switches(destination):
            return Rule.SWITCH_CONTROL
        ethertype = frame[12] << 8 | frame[13]
        if ethertype == ETHERTYPE_ARP:
            return None
        if ethertype in _PLAIN_IP:
            return _judge_ip(frame, ethertype, HEADER_SIZE)
        return _judge_wrapped(frame)

    def _judge_lan(self, frame: bytes) -> Rule | None:
        """Judge a frame that the gateway took from the house LAN."""
        # The house may send what a LAN carries even where the room's MTU is smaller (design: nothing that fits a
        # normal LAN is lost for its size); a room without fragments drops it later, in the switch, and counts it.
        size = len(frame)
        if size < HEADER_SIZE or (size > STANDARD_FRAME_SIZE and not _excused_by_tags(frame, STANDARD_FRAME_SIZE)):
            return Rule.LENGTH
        destination = frame[:6]
        source = frame[6:12]
        if source[0] & 1 or source == ZERO or destination in (ZERO, source):
            return Rule.ADDRESS
        if destination[0] == 0x01 and _steers_switches(destination):
            return Rule.SWITCH_CONTROL
        if source in self.member_macs:
            return Rule.MEMBER_ON_LAN
        ethertype = frame[12] << 8 | frame[13]
        if self.lan_ipv6_routing or ethertype in _HOUSE_OWN:
            return None
        verdict = _judge_ip(frame, ethertype, HEADER_SIZE) if ethertype == ETHERTYPE_IPV6 else _judge_wrapped(frame)
        # Behind tags and SNAP IPv4 is the house's own as well. What cannot be read could be a router advertisement.
        return None if verdict in _HOUSE_MAY else verdict


_PLAIN_IP: Final = frozenset({ETHERTYPE_IPV4, ETHERTYPE_IPV6})
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


def _steers_switches(destination: bytes) -> bool:
    """Row 6, for a destination whose first byte is 01."""
    return (
        (destination[:5] == _CONTROL_PREFIX and destination[5] < _CONTROL_BELOW)
        or destination[:3] == _CISCO_PREFIX
        or destination in _OTHER_CONTROL
    )


def _judge_wrapped(frame: bytes) -> Rule | None:
    """Rows 3 to 15 for a frame that is not plain IP: look behind VLAN tags and SNAP."""
    try:
        header = parse_untrusted(frame)
    except FrameError:
        # Only more tags or SNAP headers than anybody lawful uses, or nothing behind the last, come here.
        return Rule.VLAN if (frame[12] << 8 | frame[13]) in VLAN_ETHERTYPES else Rule.LLC
    if header.ethertype in _PLAIN_IP:
        return _judge_ip(frame, header.ethertype, header.payload_offset)
    return None


def _judge_ip(frame: bytes, ethertype: int, offset: int) -> Rule | None:
    """Rows 8 to 15, as far as they are enforced, for the IP packet at ``offset``."""
    found = transport_at_untrusted(frame, ethertype, offset)
    if ethertype == ETHERTYPE_IPV6:
        return Rule.IPV6_CHAIN if found is None else _judge_ipv6(frame, offset, found)
    if found is None:
        return Rule.IPV4_HEADER
    if found.protocol != _UDP or not found.first_fragment:
        return None
    if found.length < _UDP_HEADER_SIZE:
        return Rule.IPV4_HEADER
    return Rule.DHCP_SERVER if _is_dhcp_server(frame, found) else None


def _is_dhcp_server(frame: bytes, found: Transport) -> bool:
    """Row 9: whether the UDP header that was ``found`` begins what only a DHCP server (or relay agent) sends."""
    udp = found.offset
    source = frame[udp] << 8 | frame[udp + 1]
    destination = frame[udp + 2] << 8 | frame[udp + 3]
    if source == _DHCP_SERVER_PORT or destination == _DHCP_CLIENT_PORT:
        return True
    if source != _DHCP_CLIENT_PORT and destination != _DHCP_SERVER_PORT:
        return False
    if found.length <= _UDP_HEADER_SIZE:
        # Behind a whole packet there is only padding. Behind a fragment the op is still to come, where nobody looks.
        return found.fragment
    return frame[udp + _UDP_HEADER_SIZE] == _BOOTP_REPLY


def _judge_ipv6(frame: bytes, offset: int, found: Transport) -> Rule | None:
    """Rows 12, 13 and 15, as far as they are enforced, for the packet at ``offset`` whose walk found ``found``."""
    if not found.first_fragment:
        return None
    if not found.complete or (found.fragment and not _fragment_header_is_last(frame, offset, found.offset)):
        return Rule.IPV6_CHAIN
    at = found.offset
    if found.protocol == _ICMPV6:
        if found.length < _ICMPV6_HEADER_SIZE:
            return Rule.IPV6_CHAIN
        return Rule.ROUTER_ADVERTISEMENT if frame[at] == _ROUTER_ADVERTISEMENT else None
    if found.protocol == _UDP:
        if found.length < _UDP_HEADER_SIZE:
            return Rule.IPV6_CHAIN
        source = frame[at] << 8 | frame[at + 1]
        destination = frame[at + 2] << 8 | frame[at + 3]
        if source == _DHCPV6_SERVER_PORT or destination == _DHCPV6_CLIENT_PORT:
            return Rule.DHCPV6_SERVER
    return None


def _fragment_header_is_last(frame: bytes, offset: int, upper: int) -> bool:
    """Whether the first fragment header of the IPv6 packet at ``offset`` ends where its upper layer begins.

    For a packet whose chain was walked to ``upper`` already, so that every header of it lies within the frame.
    """
    protocol = frame[offset + 6]
    at = offset + 40
    while protocol != _IPV6_FRAGMENT:
        size = (frame[at + 1] + 2) * 4 if protocol == _IPV6_AUTHENTICATION else (frame[at + 1] + 1) * 8
        protocol = frame[at]
        at += size
    return at + 8 == upper
