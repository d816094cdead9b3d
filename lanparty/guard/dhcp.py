"""DHCPv4: what a member may ask (row 10), and what the house's answers say about who has which address.

Owns: which messages are a client's own. Must not know: the layout (``lanparty.proto.dhcp``), who has which address
(``bindings.py``).

A member's message, whatever its source port, when it goes to port 67:

1. it is not in fragments, and its options can be read to their end: else RELEASE could hide in the second fragment;
2. it is a client's (op 1; DISCOVER, REQUEST, DECLINE, RELEASE, INFORM, or plain BOOTP), for Ethernet, of the member's
   own MAC (chaddr), not through a relay agent (giaddr, option 82);
3. a client identifier that is a MAC (option 61 of type 1) is the member's own: servers know a lease by it rather than
   by chaddr, so another's would get another's lease;
4. RELEASE and DECLINE are about the lease that the member has, as the house acknowledged it;
5. it comes from the member's address, or from 0.0.0.0 and port 68;
6. there are at most 5 a second.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from lanparty.guard.arp import is_host4
from lanparty.guard.bindings import Bindings, Evidence
from lanparty.guard.rules import Rule
from lanparty.guard.standard import DHCP_CLIENT_PORT, DHCP_SERVER_PORT, UDP_HEADER_SIZE
from lanparty.proto.dhcp import (
    OPTION_CLIENT_ID,
    OPTION_LEASE_TIME,
    OPTION_MASK,
    OPTION_NAME_SERVER,
    OPTION_RELAY_AGENT,
    OPTION_REQUESTED,
    OPTION_ROUTER,
    OPTION_SERVER,
    DhcpError,
    DhcpMessage,
    parse_message_untrusted,
)
from lanparty.proto.ip import Transport

__all__ = ["judge_request_untrusted", "learn_reply_untrusted"]

_DISCOVER: Final = 1
_REQUEST: Final = 3
_DECLINE: Final = 4
_ACK: Final = 5
_NAK: Final = 6
_RELEASE: Final = 7
_INFORM: Final = 8
_CLIENTS: Final = frozenset({None, _DISCOVER, _REQUEST, _DECLINE, _RELEASE, _INFORM})
_OP_REQUEST: Final = 1
_OP_REPLY: Final = 2
_ETHERNET: Final = (1, 6)
"""htype, hlen."""
_MAC_ID: Final = b"\x01"
"""Type of a client identifier that is an Ethernet MAC (RFC 2132 section 9.14)."""
_MAC_ID_SIZE: Final = 7
_NOBODY: Final = bytes(4)
_DEFAULT_LEASE: Final = 3600
"""Seconds, for an acknowledgement without a time (RFC 2131 table 3 demands one)."""
_REPLY_PORTS: Final = DHCP_SERVER_PORT.to_bytes(2) + DHCP_CLIENT_PORT.to_bytes(2)


def judge_request_untrusted(frame: bytes, found: Transport, mac: bytes, bindings: Bindings, now: float) -> Rule | None:
    """Say whether the member with ``mac`` may send this packet, whose UDP header was ``found`` and goes to port 67."""
    message = None if found.fragment else _message_untrusted(frame, found)
    if message is None or not _is_own_untrusted(message, mac):
        return Rule.DHCP_CLIENT
    kind = message.kind
    address = message.ciaddr if kind == _RELEASE else message.address(OPTION_REQUESTED) or message.ciaddr
    if kind in (_RELEASE, _DECLINE) and not bindings.leases(mac, address, now):
        return Rule.DHCP_CLIENT
    source = frame[26:30]
    if source == _NOBODY:
        if frame[found.offset] << 8 | frame[found.offset + 1] != DHCP_CLIENT_PORT:
            return Rule.IPV4_SOURCE
    elif not is_host4(source) or not bindings.uses(mac, source, now):
        return Rule.IPV4_SOURCE
    if not bindings.may_request(mac, now):
        return Rule.DHCP_CLIENT
    if kind == _REQUEST:
        bindings.requested(mac, message.xid, address)
    elif kind in (_RELEASE, _DECLINE):
        bindings.given_back(mac, address)
    return None


def _is_own_untrusted(message: DhcpMessage, mac: bytes) -> bool:
    """Steps 2 and 3 of the map."""
    if message.op != _OP_REQUEST or (message.htype, message.hlen) != _ETHERNET or message.kind not in _CLIENTS:
        return False
    if message.chaddr != mac or message.giaddr != _NOBODY or OPTION_RELAY_AGENT in message.options:
        return False
    client_id = message.options.get(OPTION_CLIENT_ID, b"")
    return len(client_id) != _MAC_ID_SIZE or client_id[:1] != _MAC_ID or client_id[1:] == mac


def learn_reply_untrusted(
    frame: bytes, found: Transport, members: Container[bytes], bindings: Bindings, now: float
) -> None:
    """Take what a packet from the house tells, if it is a DHCP server's word; ``found`` is its UDP header."""
    if frame[found.offset : found.offset + 4] != _REPLY_PORTS or found.fragment:
        return
    message = _message_untrusted(frame, found)
    if message is None or message.op != _OP_REPLY or (message.htype, message.hlen) != _ETHERNET:
        return
    mac = message.chaddr
    if message.kind == _NAK:
        bindings.refused(mac, message.xid)
    if message.kind != _ACK:
        return
    address = message.yiaddr
    for machine in _house_machines_untrusted(message):
        if is_host4(machine) and machine != address:
            bindings.reserve(machine)
    if not is_host4(address):
        return  # the answer to INFORM gives options only
    if mac in members:
        seconds = message.address(OPTION_LEASE_TIME)  # four bytes, as an address
        bindings.acknowledged(mac, address, _DEFAULT_LEASE if seconds is None else int.from_bytes(seconds), now)
    else:
        bindings.house_has(mac, address, Evidence.LEASED, now)


def _house_machines_untrusted(message: DhcpMessage) -> list[bytes]:
    """Give the addresses that no member may have, as far as an acknowledgement names them."""
    machines = []
    for code in (OPTION_ROUTER, OPTION_NAME_SERVER, OPTION_SERVER):
        value = message.options.get(code, b"")[: 4 * _MAX_MACHINES]
        machines += [value[at : at + 4] for at in range(0, len(value) - 3, 4)]
    mask, address = message.address(OPTION_MASK), message.yiaddr
    if mask is not None and is_host4(address):
        # The network's broadcast address: all that mask leaves open is ones. (A /31 or /32 has none.)
        host = int.from_bytes(mask) ^ 0xFFFFFFFF
        if host > 1:
            machines.append((int.from_bytes(address) | host).to_bytes(4))
    return machines


_MAX_MACHINES: Final = 8
"""Addresses taken from one option."""


def _message_untrusted(frame: bytes, found: Transport) -> DhcpMessage | None:
    udp = found.offset
    length = frame[udp + 4] << 8 | frame[udp + 5]
    if not UDP_HEADER_SIZE <= length <= found.length:
        return None
    try:
        return parse_message_untrusted(frame[udp + UDP_HEADER_SIZE : udp + length])
    except DhcpError:
        return None
