"""IPv4 at the level "strict": rows 8, 9, 11 and 16 for members; row 10 begins here and goes on in ``dhcp.py``.

    1. the header does not lie, and a first fragment of UDP, ICMP or IGMP holds the first 8 bytes    row 8
    2. nothing that steers: DHCP servers, redirects, IGMP queries, routing protocols                  rows 9, 16
    3. the source is an address that the member may use (``bindings.py``)                             row 11

Later fragments have no ports; they are judged by protocol and source: ``standard.py`` says why that is enough.

Owns: what a member may send in IPv4. Must not know: DHCP's messages, who has which address.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from lanparty.guard.arp import is_host4
from lanparty.guard.bindings import Bindings
from lanparty.guard.dhcp import judge_request_untrusted, learn_reply_untrusted
from lanparty.guard.rules import Rule
from lanparty.guard.standard import (
    DHCP_CLIENT_PORT,
    DHCP_SERVER_PORT,
    UDP,
    UDP_HEADER_SIZE,
    is_dhcp_server_untrusted,
)
from lanparty.proto.ethernet import ETHERTYPE_IPV4, HEADER_SIZE
from lanparty.proto.ip import transport_at_untrusted

__all__ = [
    "ROUTING_PORTS",
    "ROUTING_PROTOCOLS",
    "judge_ipv4_untrusted",
    "learn_ipv4_untrusted",
    "steers_by_udp_untrusted",
]

ROUTING_PORTS: Final = frozenset({520, 521, 1985, 2029, 3222})
"""RIP, RIPng, HSRP, HSRP for IPv6, GLBP: all of them send to these."""
_SMALL_PORTS: Final = frozenset({520, 521})
"""Those that answer from them as well. The others are only looked for as destinations: Windows before Vista gave
ports from 1025 on to programs, so that a game may well speak from 1985."""
_NAMED_PORTS: Final = ROUTING_PORTS | {DHCP_SERVER_PORT, DHCP_CLIENT_PORT}
ROUTING_PROTOCOLS: Final = frozenset({88, 89, 103, 112})
"""EIGRP, OSPF, PIM, VRRP (and CARP)."""
_STEERING_PROTOCOLS: Final = ROUTING_PROTOCOLS | {41}
"""41 is IPv6 in IPv4: ISATAP, which Windows has switched on up to 8.1, takes router advertisements out of it."""

_ICMP: Final = 1
_IGMP: Final = 2
_STEERING_TYPES: Final = {_ICMP: frozenset({5, 9}), _IGMP: frozenset({0x11, 0x30, 0x31, 0x32})}
"""Redirect and router advertisement (RFC 792, RFC 1256); query and multicast router discovery (RFC 3376, RFC 4286)."""
_SHOWN: Final = frozenset({UDP, _ICMP, _IGMP})
"""Protocols whose first bytes a first fragment must show."""
_FIRST_BYTES: Final = 8
"""Of UDP, ICMP and IGMP: their whole header, and the least that a fragment which is not the last can hold."""
_NOBODY: Final = bytes(4)


def judge_ipv4_untrusted(frame: bytes, mac: bytes, bindings: Bindings, now: float) -> Rule | None:
    """Say whether the member with ``mac`` may send this frame, whose type is IPv4."""
    found = transport_at_untrusted(frame, ETHERTYPE_IPV4, HEADER_SIZE)
    if found is None:
        return Rule.IPV4_HEADER
    protocol = found.protocol
    if protocol in _STEERING_PROTOCOLS:
        return Rule.ROUTING
    if found.first_fragment and protocol in _SHOWN:
        at = found.offset
        if found.length < _FIRST_BYTES:
            return Rule.IPV4_HEADER
        if protocol != UDP:
            if frame[at] in _STEERING_TYPES[protocol]:
                return Rule.ROUTING
        elif not _NAMED_PORTS.isdisjoint((frame[at] << 8 | frame[at + 1], frame[at + 2] << 8 | frame[at + 3])):
            if is_dhcp_server_untrusted(frame, found):
                return Rule.DHCP_SERVER
            if steers_by_udp_untrusted(frame, at):
                return Rule.ROUTING
            if frame[at + 2] << 8 | frame[at + 3] == DHCP_SERVER_PORT:
                return judge_request_untrusted(frame, found, mac, bindings, now)
    source = frame[26:30]
    if source == _NOBODY:
        # A machine without an address reports its groups all the same (RFC 3376 section 4.2.13).
        return None if protocol == _IGMP and not found.fragment else Rule.IPV4_SOURCE
    return None if is_host4(source) and bindings.uses(mac, source, now) else Rule.IPV4_SOURCE


def steers_by_udp_untrusted(frame: bytes, udp: int) -> bool:
    """Row 16: whether the UDP header at ``udp`` is a routing protocol's, of IPv4 or IPv6."""
    source = frame[udp] << 8 | frame[udp + 1]
    destination = frame[udp + 2] << 8 | frame[udp + 3]
    return destination in ROUTING_PORTS or source in _SMALL_PORTS


def learn_ipv4_untrusted(frame: bytes, members: Container[bytes], bindings: Bindings, now: float) -> None:
    """Take what an IPv4 frame from the house tells: only what its DHCP server says counts.

    Not the source: behind the router's MAC is the whole internet.
    """
    found = transport_at_untrusted(frame, ETHERTYPE_IPV4, HEADER_SIZE)
    if found is not None and found.protocol == UDP and found.first_fragment and found.length >= UDP_HEADER_SIZE:
        learn_reply_untrusted(frame, found, members, bindings, now)
