"""Command-line options that gateway and client share, and what they mean.

Owns: the options ``--relay --server-name --relay-ca-cert --room --display-name --connect-timeout``.
Must not know: the roles' own options.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import attrs

from lanparty import __version__
from lanparty.cli.options import RelayAddress, Seconds, parse_relay, room_code
from lanparty.ctrl.messages import MAX_DISPLAY_NAME, Role
from lanparty.obs.text import is_clean
from lanparty.quic.trust import Trust, load_pinned

__all__ = ["DEFAULT_CONNECT_TIMEOUT", "UplinkSettings", "add_uplink_options", "settings_from"]

DEFAULT_CONNECT_TIMEOUT = 15.0
"""Seconds to keep trying before the first admission. Long enough for an interface that has just come up and for three
tries at a relay that restarts; short enough that somebody who mistyped the address still sits there."""

SOFTWARE = f"lanparty {__version__}"


@attrs.frozen
class UplinkSettings:
    """Where the relay is, how it proves itself, and who we say we are."""

    relay: RelayAddress
    server_name: str
    """The name that the relay's certificate must carry, and that is asked for (SNI)."""

    trust: Trust
    room: str
    """Canonical room code."""

    role: Role
    virtual_mac: str | None
    """Canonical spelling; a client has one, a gateway has none."""

    display_name: str
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    """Seconds until the first admission; infinity = for ever."""

    software: str = SOFTWARE


def add_uplink_options(parser: argparse.ArgumentParser, *, display_name: str) -> None:
    """Add the shared options; ``display_name`` is the default of --display-name.

    The default name says nothing about the person or the machine: the host's name would be a leak.
    """
    group = parser.add_argument_group("relay")
    group.add_argument(
        "--relay",
        required=True,
        type=parse_relay,
        metavar="HOST[:PORT]",
        help="the relay: a DNS name, an IPv4 or an IPv6 literal ([...] with a port); default port 443",
    )
    group.add_argument(
        "--server-name",
        type=_server_name,
        metavar="NAME",
        help="name that the relay's certificate must carry; default: the host given with --relay",
    )
    group.add_argument(
        "--relay-ca-cert",
        type=Path,
        metavar="FILE",
        help="certificate (DER or PEM) to trust, the relay's own or its CA's; default: the system's trust store",
    )
    group.add_argument(
        "--room", required=True, type=room_code, metavar="ROOM", help="room code: 1 to 32 of A-Z 0-9 - _"
    )
    group.add_argument(
        "--display-name",
        default=display_name,
        type=_display_name,
        metavar="TEXT",
        help=f"what the other members see; at most {MAX_DISPLAY_NAME} characters; default: %(default)s",
    )
    group.add_argument(
        "--connect-timeout",
        default=DEFAULT_CONNECT_TIMEOUT,
        type=Seconds(0, 86400),
        metavar="SECONDS",
        help="give up when the room was not reached after this time; 0 = keep trying; default: %(default)g. "
        "A room that was reached once and lost is always tried again",
    )


def settings_from(options: argparse.Namespace, *, role: Role, virtual_mac: str | None = None) -> UplinkSettings:
    """Build the settings from parsed options.

    Raises UsageError: --relay-ca-cert cannot be read or is no certificate.
    """
    relay: RelayAddress = options.relay
    return UplinkSettings(
        relay=relay,
        server_name=options.server_name or relay.host,
        trust=Trust(None if options.relay_ca_cert is None else load_pinned(options.relay_ca_cert)),
        room=options.room,
        role=role,
        virtual_mac=virtual_mac,
        display_name=options.display_name,
        connect_timeout=options.connect_timeout or math.inf,
    )


def _display_name(text: str) -> str:
    name = text.strip()
    if len(name) > MAX_DISPLAY_NAME or not is_clean(name):
        raise argparse.ArgumentTypeError(
            f"a display name has at most {MAX_DISPLAY_NAME} characters, and no control characters"
        )
    return name


def _server_name(text: str) -> str:
    # A name's last dot says "absolute"; certificates are without it (RFC 6066 section 3).
    text = text.removesuffix(".")
    # RFC 1035 section 2.3.4: a name has at most 255 octets on the wire, 253 in text.
    if not text or len(text) > 253 or not text.isascii() or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError("a server name has 1 to 253 ASCII characters without spaces")
    return text
