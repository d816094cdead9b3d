"""The table of rules: each with its name, its row in the layer-2 guard's table, and the level at which it holds.

Owns: the names by which drops are counted and told, and what the guard wants to know of a sender.
Must not know: how a rule is checked (the other modules of this package).
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Protocol

__all__ = ["Enforced", "GuardedMember", "Rule"]


class Enforced(IntEnum):
    """How much of a row is enforced at the level "standard". At "strict" all of it is."""

    NO = 0
    PART = 1
    """What is needed so that the rows enforced in full cannot be got round."""
    FULL = 2


class Rule(Enum):
    """One reason to drop a frame. ``label`` is the stable name in counters, events and documents."""

    # (label, row of the table; 0: the section "From the gateway's LAN side", at "standard", what is dropped)
    LENGTH = ("length", 1, Enforced.FULL, "a frame shorter than 14 bytes or longer than the room carries")
    ADDRESS = (
        "address",
        2,
        Enforced.FULL,
        "a source that is not the sender's own MAC, a group address or zero; a destination that is zero or the source",
    )
    VLAN = ("vlan", 3, Enforced.PART, "VLAN tags; at standard only more than four, or nothing behind them")
    LLC = ("llc", 4, Enforced.PART, "802.3 length, LLC and SNAP but raw IPX; at standard only SNAP cut short or nested")
    ETHERTYPE = ("ethertype", 5, Enforced.NO, "an EtherType that games do not use")
    SWITCH_CONTROL = ("switch-control", 6, Enforced.FULL, "a group address that steers switches")
    ARP = ("arp", 7, Enforced.NO, "ARP that is malformed or speaks for others")
    IPV4_HEADER = ("ipv4-header", 8, Enforced.FULL, "an IPv4 header that lies, or UDP cut off in its header")
    DHCP_SERVER = ("dhcp-server", 9, Enforced.FULL, "DHCP as only a server sends it")
    DHCP_CLIENT = ("dhcp-client", 10, Enforced.NO, "DHCP requests in another's name, malformed, or too many")
    IPV4_SOURCE = ("ipv4-source", 11, Enforced.NO, "an IPv4 source address that is not the member's")
    IPV6_SOURCE = ("ipv6-source", 11, Enforced.NO, "an IPv6 source address that is not the member's")
    IPV6_CHAIN = (
        "ipv6-chain",
        12,
        Enforced.PART,
        "an IPv6 packet whose headers cannot be followed to the upper layer; at strict also an unknown upper layer",
    )
    ROUTER_ADVERTISEMENT = ("router-advertisement", 13, Enforced.FULL, "an IPv6 router advertisement")
    ICMPV6_CONTROL = ("icmpv6-control", 13, Enforced.NO, "IPv6 redirects, MLD queries, multicast router messages")
    NEIGHBOUR_DISCOVERY = ("neighbour-discovery", 14, Enforced.NO, "IPv6 neighbour discovery that is malformed or lies")
    DHCPV6_SERVER = ("dhcpv6-server", 15, Enforced.FULL, "DHCPv6 as only a server sends it")
    ROUTING = ("routing", 16, Enforced.NO, "redirects, IGMP queries and routing protocols")
    STORM = ("storm", 17, Enforced.NO, "more broadcast, multicast or unknown unicast than a room stands")
    ISOLATION = ("isolation", 18, Enforced.PART, "client to client where isolated (hairpin: the switch never does it)")
    MEMBER_ON_LAN = ("member-on-lan", 0, Enforced.FULL, "a frame from the LAN with a member's MAC as its source")

    def __init__(self, label: str, row: int, at_standard: Enforced, drops: str) -> None:
        self.label = label
        self.row = row
        self.at_standard = at_standard
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
