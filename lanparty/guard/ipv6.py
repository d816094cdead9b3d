"""IPv6 at the level "strict": rows 12 to 16 for members, the source address, and what the house's frames tell.

    1. the chain of headers can be followed, and ends in a protocol that games use                   row 12
    2. nothing that steers: router advertisements, redirects, MLD queries, DHCPv6 servers, routing   rows 13, 15, 16
    3. neighbour discovery is whole, not in fragments, and about the member's own MAC and addresses  row 14
    4. the source is an address that the member may use (``bindings.py``)                            as row 11

The unspecified source is for three things: asking whether an address is free (DAD), asking for a router, MLD reports
(RFC 4861 sections 4.1 and 4.3, RFC 3590).

Neighbour discovery (RFC 4861 section 4); offsets from the ICMPv6 header::

    0 type 1 | 1 code 1 | 2 checksum 2 | 4 ... | 8 target 16 (135, 136) | options: type 1, length in 8 bytes, value

Owns: what a member may send in IPv6. Must not know: who has which address.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from lanparty.guard.bindings import Bindings, Evidence
from lanparty.guard.ipv4 import ROUTING_PROTOCOLS, steers_by_udp_untrusted
from lanparty.guard.rules import Rule
from lanparty.guard.standard import ICMPV6, UDP, UDP_HEADER_SIZE, judge_ipv6_chain_untrusted
from lanparty.proto.ethernet import HEADER_SIZE
from lanparty.proto.ip import Transport

__all__ = ["judge_ipv6_untrusted", "learn_ipv6_untrusted"]

_TCP: Final = 6
_UPPER: Final = {_TCP: 20, UDP: 8, 33: 12, 50: 8, ICMPV6: 4, 59: 0, 132: 12, 136: 8}
"""Protocols that end a chain, with the bytes of their header: TCP, UDP, DCCP, ESP, ICMPv6, nothing, SCTP, UDP-Lite.
Missing are tunnels (4, 41, 47, 97, 115), which would carry what is stopped here to whoever ends them."""

_ROUTER_SOLICITATION: Final = 133
_ROUTER_ADVERTISEMENT: Final = 134
_NEIGHBOUR_SOLICITATION: Final = 135
_NEIGHBOUR_ADVERTISEMENT: Final = 136
_ND_SIZES: Final = {_ROUTER_SOLICITATION: 8, _NEIGHBOUR_SOLICITATION: 24, _NEIGHBOUR_ADVERTISEMENT: 24}
"""Bytes before the options."""
_STEERING: Final = frozenset({130, 137, 138, 151, 152, 153})
"""MLD query, redirect, router renumbering (RFC 2894), multicast router discovery (RFC 4286)."""
_MLD_REPORTS: Final = frozenset({131, 132, 143})
_HOP_LIMIT: Final = 255
"""Neighbour discovery comes from the same link (RFC 4861 section 6.1)."""
_LINK_LAYER_OPTIONS: Final = frozenset({1, 2})
"""Source and target link-layer address."""
_SOURCE_LINK_LAYER: Final = 1

_UNSPECIFIED: Final = bytes(16)
_SOURCE: Final = slice(HEADER_SIZE + 8, HEADER_SIZE + 24)
_DHCPV6_SERVER_PORT: Final = 547
_DHCPV6_SERVERS: Final = frozenset({2, 7, 10, 12, 13})
"""ADVERTISE, REPLY, RECONFIGURE, and the two of relay agents (RFC 8415 section 7.3)."""


def judge_ipv6_untrusted(
    frame: bytes, found: Transport | None, mac: bytes, bindings: Bindings, now: float
) -> Rule | None:
    """Say whether the member with ``mac`` may send this IPv6 frame; ``found`` is what the walk of its headers gave."""
    if found is None:
        return Rule.IPV6_CHAIN
    rule = judge_ipv6_chain_untrusted(frame, HEADER_SIZE, found)
    if rule is not None:
        return rule
    if found.first_fragment:
        at = found.offset
        if found.protocol == ICMPV6:
            kind = frame[at]
            if kind in _STEERING:
                return Rule.ICMPV6_CONTROL
            if kind in _ND_SIZES:
                return _judge_nd(frame, found, mac, bindings, now)
            if kind in _MLD_REPORTS and frame[_SOURCE] == _UNSPECIFIED:
                return None
        else:
            rule = _judge_upper(frame, found)
            if rule is not None:
                return rule
    source = frame[_SOURCE]
    return None if _is_host6(source) and bindings.uses(mac, source, now) else Rule.IPV6_SOURCE


def _judge_upper(frame: bytes, found: Transport) -> Rule | None:
    """Judge what a chain ends in, if it is not ICMPv6."""
    protocol, at = found.protocol, found.offset
    if protocol == UDP:
        if steers_by_udp_untrusted(frame, at):
            return Rule.ROUTING
        if frame[at + 2] << 8 | frame[at + 3] == _DHCPV6_SERVER_PORT:
            # The message type is the byte behind UDP's header; in a fragment it might come later.
            if found.length <= UDP_HEADER_SIZE:
                return Rule.DHCPV6_SERVER if found.fragment else None
            return Rule.DHCPV6_SERVER if frame[at + UDP_HEADER_SIZE] in _DHCPV6_SERVERS else None
        return None
    if protocol in ROUTING_PROTOCOLS:
        return Rule.ROUTING
    needs = _UPPER.get(protocol)
    if needs is None or (found.fragment and found.length < needs):
        return Rule.IPV6_CHAIN
    return None


def _judge_nd(frame: bytes, found: Transport, mac: bytes, bindings: Bindings, now: float) -> Rule | None:
    """Row 14, for a packet of type 133, 135 or 136."""
    options = _nd_options_untrusted(frame, found)
    if options is None or any(value != mac for kind, value in options if kind in _LINK_LAYER_OPTIONS):
        return Rule.NEIGHBOUR_DISCOVERY
    kind = frame[found.offset]
    source = frame[_SOURCE]
    if kind != _ROUTER_SOLICITATION:
        target = frame[found.offset + 8 : found.offset + 24]
        if not _is_host6(target):
            return Rule.NEIGHBOUR_DISCOVERY
        if kind == _NEIGHBOUR_ADVERTISEMENT and not bindings.uses(mac, target, now):
            return Rule.NEIGHBOUR_DISCOVERY
    if source == _UNSPECIFIED:
        if kind == _NEIGHBOUR_ADVERTISEMENT or any(option == _SOURCE_LINK_LAYER for option, _ in options):
            return Rule.NEIGHBOUR_DISCOVERY
        if kind == _NEIGHBOUR_SOLICITATION:
            bindings.probes(mac, target, now)
        return None
    return None if _is_host6(source) and bindings.uses(mac, source, now) else Rule.NEIGHBOUR_DISCOVERY


def _nd_options_untrusted(frame: bytes, found: Transport) -> list[tuple[int, bytes]] | None:
    """Give type and value of each option; None when the message is not as RFC 4861 and 6980 have it.

    The value of a link-layer option is the MAC if it has the length for it.
    """
    at = found.offset
    if found.fragment or found.hop_limit != _HOP_LIMIT or frame[at + 1] != 0:
        return None
    end = at + found.length
    at += _ND_SIZES.get(frame[at], 16)
    options = []
    while at < end:
        if at + 8 > end or not frame[at + 1] or at + 8 * frame[at + 1] > end:
            return None
        options.append((frame[at], frame[at + 2 : at + 8 * frame[at + 1]]))
        at += 8 * frame[at + 1]
    return options if at == end else None


def _is_host6(address: bytes) -> bool:
    """Whether an IPv6 address can be a machine's: not ::, loopback, mapped IPv4 (0000::/8), or multicast."""
    return address[0] not in (0x00, 0xFF)


def learn_ipv6_untrusted(
    frame: bytes, found: Transport | None, members: Container[bytes], bindings: Bindings, now: float
) -> None:
    """Take what neighbour discovery from the house tells about the house's addresses, passed on or not."""
    if found is None or not found.complete or found.protocol != ICMPV6 or found.length < 8:
        return
    kind = frame[found.offset]
    mac, source = frame[6:12], frame[_SOURCE]
    if kind != _ROUTER_ADVERTISEMENT and kind not in _ND_SIZES:
        return
    options = _nd_options_untrusted(frame, found)
    if options is None or any(value in members for option, value in options if option in _LINK_LAYER_OPTIONS):
        return  # a bridge or access point that answers for a player
    if kind == _ROUTER_ADVERTISEMENT:
        if _is_host6(source):
            bindings.reserve(source)
        return
    if kind != _ROUTER_SOLICITATION:
        target = frame[found.offset + 8 : found.offset + 24]
        if _is_host6(target):
            if kind == _NEIGHBOUR_ADVERTISEMENT:
                bindings.house_has(mac, target, Evidence.SPOKEN, now)
            elif source == _UNSPECIFIED:
                bindings.house_has(mac, target, Evidence.PROBED, now)
    if _is_host6(source):
        bindings.house_has(mac, source, Evidence.SPOKEN, now)
