"""A DHCP or BOOTP message: its fixed fields, and its options put together.

Owns: the layout. Must not know: who may send what, sockets, frames (the caller has found the UDP payload).

RFC 2131 figure 1; offsets from the start of the UDP payload::

    0      1      2     3     4      8      10     12        16      20      24      28       44      108     236
    | op   |htype |hlen |hops | xid  | secs | flags| ciaddr  | yiaddr| siaddr| giaddr| chaddr | sname | file  | cookie

Behind the cookie (63 82 53 63) the options: code 1, length 1, value; 0 = pad, 255 = end. Option 52 says that they go on
in ``file``, then in ``sname``. An option that comes in several parts is put together (RFC 3396).
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = [
    "BOOTP_SIZE",
    "COOKIE",
    "INFINITE",
    "OPTION_CLIENT_ID",
    "OPTION_LEASE_TIME",
    "OPTION_MASK",
    "OPTION_NAME_SERVER",
    "OPTION_RELAY_AGENT",
    "OPTION_REQUESTED",
    "OPTION_ROUTER",
    "OPTION_SERVER",
    "DhcpError",
    "DhcpMessage",
    "options_untrusted",
    "parse_message_untrusted",
]

BOOTP_SIZE: Final = 236
"""Bytes before the cookie."""
COOKIE: Final = b"\x63\x82\x53\x63"

OPTION_MASK: Final = 1
OPTION_ROUTER: Final = 3
OPTION_NAME_SERVER: Final = 6
OPTION_REQUESTED: Final = 50
OPTION_LEASE_TIME: Final = 51
OPTION_OVERLOAD: Final = 52
OPTION_MESSAGE_TYPE: Final = 53
OPTION_SERVER: Final = 54
OPTION_CLIENT_ID: Final = 61
OPTION_RELAY_AGENT: Final = 82
"""Codes of RFC 2132 and RFC 3046."""

INFINITE: Final = 0xFFFFFFFF
"""A lease time that means "for ever" (RFC 2131 section 3.3)."""

_SNAME: Final = slice(44, 108)
_FILE: Final = slice(108, 236)


class DhcpError(Exception):
    """A message that breaks off within its options."""


@attrs.frozen
class DhcpMessage:
    """One message, as it stands: nothing in it is believed yet."""

    op: int
    """1: from a client, 2: from a server."""
    htype: int
    hlen: int
    xid: bytes
    ciaddr: bytes
    """The client's address, 4 bytes, when it has one."""
    yiaddr: bytes
    """The address that the server has for it, 4 bytes."""
    giaddr: bytes
    """The relay agent's, 4 bytes."""
    chaddr: bytes
    """The client's hardware address: the first 6 of 16 bytes."""
    options: dict[int, bytes]
    """Value by code; empty in plain BOOTP."""

    @property
    def kind(self) -> int | None:
        """The message type (RFC 2132 section 9.6); None in plain BOOTP, 0 when there is not exactly one."""
        value = self.options.get(OPTION_MESSAGE_TYPE)
        if value is None:
            return None
        return value[0] if len(value) == 1 else 0

    def address(self, code: int) -> bytes | None:
        """Give an option that is one IPv4 address, 4 bytes; None when it is not there or is something else."""
        value = self.options.get(code, b"")
        return value if len(value) == 4 else None


def parse_message_untrusted(payload: bytes) -> DhcpMessage | None:
    """Read a UDP payload; None when it is too short. Raises DhcpError."""
    if len(payload) < BOOTP_SIZE:
        return None
    dhcp = payload[BOOTP_SIZE : BOOTP_SIZE + len(COOKIE)] == COOKIE
    return DhcpMessage(
        op=payload[0],
        htype=payload[1],
        hlen=payload[2],
        xid=payload[4:8],
        ciaddr=payload[12:16],
        yiaddr=payload[16:20],
        giaddr=payload[24:28],
        chaddr=payload[28:34],
        options=options_untrusted(payload) if dhcp else {},
    )


def options_untrusted(payload: bytes) -> dict[int, bytes]:
    """Give all options of a message with the cookie. Raises DhcpError when they are cut off."""
    options: dict[int, bytes] = {}
    _read_options_untrusted(payload[BOOTP_SIZE + len(COOKIE) :], options)
    overload = options.get(OPTION_OVERLOAD, b"\x00")[:1]
    if overload in (b"\x01", b"\x03"):
        _read_options_untrusted(payload[_FILE], options)
    if overload in (b"\x02", b"\x03"):
        _read_options_untrusted(payload[_SNAME], options)
    return options


def _read_options_untrusted(data: bytes, options: dict[int, bytes]) -> None:
    offset = 0
    while offset < len(data):
        code = data[offset]
        if code == 255:
            return
        if code == 0:
            offset += 1
            continue
        if offset + 2 > len(data) or offset + 2 + data[offset + 1] > len(data):
            raise DhcpError("its options are cut off")
        end = offset + 2 + data[offset + 1]
        options[code] = options.get(code, b"") + data[offset + 2 : end]
        offset = end
