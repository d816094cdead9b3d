"""What holds at the level "standard", and what "strict" shares with it: IPv6's chain, DHCP servers, advertisements.

Owns: rows 8, 9, 12, 13 and 15 as far as they need neither memory nor a list of what is allowed.
Must not know: members, rooms, addresses that belong to somebody.

Fragments of IP are judged one by one, without state, and that is enough:

* a first fragment shows its whole chain of headers and the first 8 bytes of UDP, or it is dropped (RFC 7112);
* in IPv6 the upper layer follows the fragment header at once, or it is dropped: then UDP's ports and ICMPv6's type are
  in the first 8 bytes of what is put together again, as they are in IPv4;
* BOOTP's op is the byte behind these 8. A first fragment of DHCP that does not reach it is dropped;
* a later fragment begins at byte 8 or later (offsets count in eights), so that not even one that overlaps (RFC 5722
  forbids it, not everybody obeys) can change ports or type. So later fragments pass. Only the op could be overwritten,
  at a receiver that lets overlaps win; what goes to a DHCP client is known by its port, and only servers and relay
  agents listen for the op. (At strict no fragment of a message for port 67 passes.)
"""

from __future__ import annotations

from typing import Final

from lanparty.guard.rules import Rule
from lanparty.proto.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, VLAN_ETHERTYPES, FrameError, parse_untrusted
from lanparty.proto.ip import IPV6_HEADER_SIZE, Transport, transport_at_untrusted

__all__ = [
    "DHCP_CLIENT_PORT",
    "DHCP_SERVER_PORT",
    "ICMPV6",
    "UDP",
    "UDP_HEADER_SIZE",
    "is_dhcp_server_untrusted",
    "judge_ip_untrusted",
    "judge_ipv6_chain_untrusted",
    "judge_wrapped_untrusted",
]

UDP: Final = 17
ICMPV6: Final = 58
_IPV6_FRAGMENT: Final = 44
_IPV6_AUTHENTICATION: Final = 51
UDP_HEADER_SIZE: Final = 8
_ICMPV6_HEADER_SIZE: Final = 4

DHCP_SERVER_PORT: Final = 67
DHCP_CLIENT_PORT: Final = 68
_DHCPV6_CLIENT_PORT: Final = 546
_DHCPV6_SERVER_PORT: Final = 547
_BOOTP_REPLY: Final = 2
"""BOOTP's op of everything that a server sends (RFC 2131 section 2)."""
_ROUTER_ADVERTISEMENT: Final = 134
"""ICMPv6 type (RFC 4861 section 4.2)."""

_PLAIN_IP: Final = frozenset({ETHERTYPE_IPV4, ETHERTYPE_IPV6})


def judge_wrapped_untrusted(frame: bytes) -> Rule | None:
    """Judge a frame that is not plain IP: look behind VLAN tags and SNAP."""
    try:
        header = parse_untrusted(frame)
    except FrameError:
        # Only more tags or SNAP headers than anybody lawful uses, or nothing behind the last, come here.
        return Rule.VLAN if (frame[12] << 8 | frame[13]) in VLAN_ETHERTYPES else Rule.LLC
    if header.ethertype in _PLAIN_IP:
        return judge_ip_untrusted(frame, header.ethertype, header.payload_offset)
    return None


def judge_ip_untrusted(frame: bytes, ethertype: int, offset: int) -> Rule | None:
    """Judge the IPv4 or IPv6 packet at ``offset``."""
    found = transport_at_untrusted(frame, ethertype, offset)
    if ethertype == ETHERTYPE_IPV6:
        return Rule.IPV6_CHAIN if found is None else judge_ipv6_chain_untrusted(frame, offset, found)
    if found is None:
        return Rule.IPV4_HEADER
    if found.protocol != UDP or not found.first_fragment:
        return None
    if found.length < UDP_HEADER_SIZE:
        return Rule.IPV4_HEADER
    return Rule.DHCP_SERVER if is_dhcp_server_untrusted(frame, found) else None


def is_dhcp_server_untrusted(frame: bytes, found: Transport) -> bool:
    """Row 9: whether the UDP header that was ``found`` begins what only a DHCP server (or relay agent) sends."""
    udp = found.offset
    source = frame[udp] << 8 | frame[udp + 1]
    destination = frame[udp + 2] << 8 | frame[udp + 3]
    if source == DHCP_SERVER_PORT or destination == DHCP_CLIENT_PORT:
        return True
    if source != DHCP_CLIENT_PORT and destination != DHCP_SERVER_PORT:
        return False
    if found.length <= UDP_HEADER_SIZE:
        # Behind a whole packet there is only padding. Behind a fragment the op is still to come, where nobody looks.
        return found.fragment
    return frame[udp + UDP_HEADER_SIZE] == _BOOTP_REPLY


def judge_ipv6_chain_untrusted(frame: bytes, offset: int, found: Transport) -> Rule | None:
    """Rows 12, 13 (advertisements) and 15 for the packet at ``offset`` whose walk found ``found``."""
    if not found.first_fragment:
        return None
    if not found.complete or (found.fragment and not _fragment_header_is_last(frame, offset, found.offset)):
        return Rule.IPV6_CHAIN
    at = found.offset
    if found.protocol == ICMPV6:
        if found.length < _ICMPV6_HEADER_SIZE:
            return Rule.IPV6_CHAIN
        return Rule.ROUTER_ADVERTISEMENT if frame[at] == _ROUTER_ADVERTISEMENT else None
    if found.protocol == UDP:
        if found.length < UDP_HEADER_SIZE:
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
    at = offset + IPV6_HEADER_SIZE
    while protocol != _IPV6_FRAGMENT:
        size = (frame[at + 1] + 2) * 4 if protocol == _IPV6_AUTHENTICATION else (frame[at + 1] + 1) * 8
        protocol = frame[at]
        at += size
    return at + 8 == upper
