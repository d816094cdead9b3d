"""What a DHCP server's reply says, and whether to believe it.

Owns: the parsing of DHCP frames from the house, and the rules for what an offered address may be.
Must not know: sockets, timers, the client's state, the kernel. Pure functions.

The house is not trusted: its replies change the addresses and routes of the player's machine. So a reply is bounded and
checked here, before pyroute2's client sees any of it, and a mask cannot be used to take over the internet's routes.

Byte layout of what is parsed (RFC 2131 figure 1; offsets in the frame, IPv4 header without options)::

    0   Ethernet: destination 6, source 6, type 2 (0800)
    14  IPv4 header 20...60 (IHL), protocol 17, no fragment
    34  UDP: source port 67, destination port 68, length, checksum
    42  op 1 (2 = reply), htype 1 (1), hlen 1 (6), hops 1, xid 4, secs 2, flags 2
    54  ciaddr 4, yiaddr 4, siaddr 4, giaddr 4, chaddr 16, sname 64, file 128
    278 magic cookie 4 (63 82 53 63), then options: code 1, length 1, value; 0 = pad, 255 = end
"""

from __future__ import annotations

import ipaddress
import re
import struct
from enum import IntEnum
from itertools import pairwise
from typing import Final

import attrs

from lanparty.proto.dhcp import BOOTP_SIZE, COOKIE, INFINITE, DhcpError, options_untrusted

__all__ = [
    "Lease",
    "Reply",
    "ReplyError",
    "ReplyKind",
    "host_of",
    "lan_network",
    "lease_from",
    "parse_reply_untrusted",
]

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68

_SUBNET_MASK: Final = 1
_ROUTER: Final = 3
_NAME_SERVER: Final = 6
_DOMAIN_NAME: Final = 15
_LEASE_TIME: Final = 51
_MESSAGE_TYPE: Final = 53
_SERVER_ID: Final = 54
_RENEWAL_TIME: Final = 58
_REBINDING_TIME: Final = 59

MIN_LEASE: Final = 30
"""Seconds. A shorter lease would make this client ask every few seconds; dnsmasq's own minimum is 120."""

MIN_RENEWAL: Final = 5
"""Seconds before the first renewal. Less would keep this client busy: the default is used instead."""

MIN_PREFIX_PUBLIC: Final = 16
"""Networks outside the private ranges may be as large as a campus (/16). A larger one would draw other people's
addresses into the tunnel; 0.0.0.0/0 as a mask would be a default route by the back door."""

MAX_PREFIX: Final = 30
"""A LAN needs two hosts and a broadcast address."""

MAX_NAME_SERVERS: Final = 3
"""MAXNS of resolv.conf(5)."""

_PRIVATE: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")
)
_NEVER: Final = tuple(ipaddress.IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"))
"""No host has these: this network, loopback, multicast, reserved and broadcast (RFC 6890)."""

_DOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
                            r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z")  # fmt: skip


class ReplyError(Exception):
    """A reply that is not used; the text says why, for the log."""


class ReplyKind(IntEnum):
    """The message types that a server sends to a client (RFC 2132 section 9.6)."""

    OFFER = 2
    ACK = 5
    NAK = 6


@attrs.frozen
class Reply:
    """A well-formed reply to this client, not yet believed."""

    kind: ReplyKind
    xid: int
    address: str
    """yiaddr: the address that the server has for this client."""
    server: str | None
    """Server identifier (option 54)."""
    server_mac: bytes
    """Source MAC of the frame: where renewals and the release go."""
    options: dict[int, bytes]


@attrs.frozen
class Lease:
    """What the house gave, checked: it can be put on an interface. Times in seconds from the acknowledgement."""

    address: str
    prefix: int
    server: str
    server_mac: bytes
    lease_seconds: int | None
    """``None``: for ever."""
    renew_seconds: int
    """T1: when the server is asked to prolong."""
    rebind_seconds: int
    """T2: when any server is asked."""
    router: str | None = None
    """The house's router, if it is in the network. Reported; used for routes only when the player asked for it."""
    name_servers: tuple[str, ...] = ()
    domain: str | None = None

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The house's network."""
        return ipaddress.IPv4Network((self.address, self.prefix), strict=False)


def parse_reply_untrusted(frame: bytes, mac: bytes) -> Reply | None:
    """Parse an Ethernet frame as a DHCP reply to the client with this MAC.

    ``None`` for what is not meant for this client: other traffic, replies to others. Raises :class:`ReplyError` for a
    reply to this client that is damaged.
    """
    payload = _udp_payload_untrusted(frame)
    if payload is None or len(payload) < BOOTP_SIZE + len(COOKIE):
        return None
    op, htype, hlen, _hops, xid = struct.unpack_from("!BBBBI", payload)
    if (op, htype, hlen) != (2, 1, 6) or payload[28:34] != mac:
        return None
    if payload[BOOTP_SIZE : BOOTP_SIZE + len(COOKIE)] != COOKIE:
        return None  # plain BOOTP
    options = _options_untrusted(payload)
    kind = options.get(_MESSAGE_TYPE, b"")
    if len(kind) != 1 or kind[0] not in ReplyKind.__members__.values():
        raise ReplyError("it has no message type of a server")
    return Reply(
        kind=ReplyKind(kind[0]),
        xid=xid,
        address=str(ipaddress.IPv4Address(payload[16:20])),
        server=_address_untrusted(options, _SERVER_ID),
        server_mac=frame[6:12],
        options=options,
    )


def lease_from(reply: Reply) -> Lease:
    """Check an offer or an acknowledgement. Raises :class:`ReplyError` with what is wrong with it."""
    address = host_of(ipaddress.IPv4Address(reply.address))
    if reply.server is None or not _is_host(reply.server):
        raise ReplyError("it does not say which server it is from")
    if reply.server_mac[0] & 1 or not any(reply.server_mac):
        raise ReplyError("its source MAC is not one of a host")
    network = _network_untrusted(address, reply.options)
    lease_seconds = _seconds_untrusted(reply.options, _LEASE_TIME)
    if lease_seconds is None:
        raise ReplyError("it does not say for how long")
    if lease_seconds < MIN_LEASE:
        raise ReplyError(f"a lease of {lease_seconds} s is too short")
    renew, rebind = _times_untrusted(reply.options, lease_seconds)
    routers = [text for text in _addresses_untrusted(reply.options, _ROUTER) if ipaddress.IPv4Address(text) in network]
    return Lease(
        address=str(address),
        prefix=network.prefixlen,
        server=reply.server,
        server_mac=reply.server_mac,
        lease_seconds=None if lease_seconds == INFINITE else lease_seconds,
        renew_seconds=renew,
        rebind_seconds=rebind,
        router=next((text for text in routers if _is_neighbour(text, network) and text != str(address)), None),
        name_servers=tuple(_addresses_untrusted(reply.options, _NAME_SERVER)[:MAX_NAME_SERVERS]),
        domain=_domain_untrusted(reply.options),
    )


def _udp_payload_untrusted(frame: bytes) -> bytes | None:
    """The payload of an unfragmented UDP packet from the server's to the client's port; else ``None``."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4:
        return None
    header = (frame[14] & 0x0F) * 4
    (total, fragment) = struct.unpack_from("!H2xH", frame, 16)
    if header < 20 or frame[23] != 17 or fragment & 0x3FFF:  # 0x3FFF: more fragments, or an offset
        return None
    if total < header + 8 or len(frame) < 14 + total:
        return None
    source, destination, length = struct.unpack_from("!HHH", frame, 14 + header)
    if (source, destination) != (SERVER_PORT, CLIENT_PORT) or not 8 <= length <= total - header:
        return None
    return frame[14 + header + 8 : 14 + header + length]


def _options_untrusted(payload: bytes) -> dict[int, bytes]:
    try:
        return options_untrusted(payload)
    except DhcpError as error:
        raise ReplyError(str(error)) from error


def _network_untrusted(address: ipaddress.IPv4Address, options: dict[int, bytes]) -> ipaddress.IPv4Network:
    mask = options.get(_SUBNET_MASK, b"")
    if len(mask) != 4:
        raise ReplyError("it has no subnet mask")
    bits = f"{int.from_bytes(mask, 'big'):032b}"
    if "01" in bits:
        raise ReplyError(f"{ipaddress.IPv4Address(mask)} is not a subnet mask")
    return lan_network(address, bits.count("1"))


def host_of(address: ipaddress.IPv4Address) -> ipaddress.IPv4Address:
    """Give ``address``, which a host may have. Raises :class:`ReplyError`."""
    if any(address in network for network in _NEVER):
        raise ReplyError(f"{address} is not an address for a host")
    return address


def lan_network(address: ipaddress.IPv4Address, prefix: int) -> ipaddress.IPv4Network:
    """Give the network of a host's address, if it is one that a LAN may have. Raises :class:`ReplyError`."""
    network = ipaddress.IPv4Network((address, prefix), strict=False)
    private = any(network.subnet_of(block) for block in _PRIVATE)
    if prefix > MAX_PREFIX or (prefix < MIN_PREFIX_PUBLIC and not private):
        raise ReplyError(f"{network} is not the network of a LAN")
    if address in (network.network_address, network.broadcast_address):
        raise ReplyError(f"{address} is not an address for a host of {network}")
    return network


def _times_untrusted(options: dict[int, bytes], lease_seconds: int) -> tuple[int, int]:
    """T1 and T2: the server's if they make sense, else a half and seven eighths (RFC 2131 section 4.4.5)."""
    renew = _seconds_untrusted(options, _RENEWAL_TIME) or lease_seconds // 2
    rebind = _seconds_untrusted(options, _REBINDING_TIME) or lease_seconds * 7 // 8
    if all(earlier < later for earlier, later in pairwise((MIN_RENEWAL - 1, renew, rebind, lease_seconds))):
        return renew, rebind
    return lease_seconds // 2, lease_seconds * 7 // 8


def _seconds_untrusted(options: dict[int, bytes], code: int) -> int | None:
    value = options.get(code, b"")
    return int.from_bytes(value, "big") if len(value) == 4 else None


def _addresses_untrusted(options: dict[int, bytes], code: int) -> list[str]:
    """The addresses of an option that a host can have; others are left out."""
    value = options.get(code, b"")
    parts = [value[start : start + 4] for start in range(0, len(value) - 3, 4)]
    found = [str(ipaddress.IPv4Address(part)) for part in parts]
    return [text for text in found if _is_host(text)]


def _address_untrusted(options: dict[int, bytes], code: int) -> str | None:
    return next(iter(_addresses_untrusted(options, code)), None)


def _domain_untrusted(options: dict[int, bytes]) -> str | None:
    """The domain, if it is a name: it may become a line of resolv.conf."""
    try:
        text = options.get(_DOMAIN_NAME, b"").rstrip(b"\x00").rstrip(b".").decode("ascii")
    except UnicodeDecodeError:
        return None
    return text if _DOMAIN.match(text) else None


def _is_host(text: str) -> bool:
    address = ipaddress.IPv4Address(text)
    return not any(address in network for network in _NEVER)


def _is_neighbour(text: str, network: ipaddress.IPv4Network) -> bool:
    return ipaddress.IPv4Address(text) not in (network.network_address, network.broadcast_address)
