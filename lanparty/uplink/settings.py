"""Command-line options that gateway and client share, and what they mean.

Owns: the options ``--relay --server-name --relay-ca-cert --room --room-password-file --display-name
--connect-timeout``, and the variable ``LANPARTY_ROOM_PASSWORD``. A password on the command line is not offered:
everybody on the machine sees command lines.
Must not know: the roles' own options.
"""

from __future__ import annotations

import argparse
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from lanparty import __version__
from lanparty.cli.options import RelayAddress, Seconds, parse_relay, room_code
from lanparty.ctrl.messages import KEY_SIZE, MAX_DISPLAY_NAME, Role
from lanparty.ctrl.proof import Seed, room_seed
from lanparty.obs import events
from lanparty.obs.errors import UsageError
from lanparty.obs.log import log
from lanparty.obs.text import is_clean
from lanparty.quic.trust import Trust, load_pinned

__all__ = ["DEFAULT_CONNECT_TIMEOUT", "UplinkSettings", "add_uplink_options", "settings_from"]

DEFAULT_CONNECT_TIMEOUT = 15.0
"""Seconds to keep trying before the first admission. Long enough for an interface that has just come up and for three
tries at a relay that restarts; short enough that somebody who mistyped the address still sits there."""

PASSWORD_VARIABLE = "LANPARTY_ROOM_PASSWORD"  # noqa: S105 - the variable's name
MAX_PASSWORD = 1024
"""Bytes of UTF-8. More than anybody types; a longer file is another one, given by mistake."""

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

    identity: Seed | None = None
    """What proves that a later session is ours, so that it takes our place over at once; None: nothing does."""

    room_key: Seed | None = None
    """The key that follows from the room's password; None for a room without one."""


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
        "--room-password-file",
        type=Path,
        metavar="FILE",
        help="file with the room's password, one line; everybody in the room must give the same; default: what the "
        f"variable {PASSWORD_VARIABLE} says, or no password",
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


def settings_from(
    options: argparse.Namespace,
    *,
    role: Role,
    virtual_mac: str | None = None,
    identity: Seed | None = None,
    environment: Mapping[str, str] = os.environ,
    entropy: Callable[[int], bytes] = os.urandom,
) -> UplinkSettings:
    """Build the settings from parsed options. Blocking: half a second when there is a password.

    A gateway without ``identity`` gets one for this run: enough for its own dead session to make way at once.
    Raises UsageError: --relay-ca-cert cannot be read or is no certificate, no password where one is to be.
    """
    relay: RelayAddress = options.relay
    password = _password(options.room_password_file, environment)
    if identity is None and role is Role.GATEWAY:
        identity = Seed(entropy(KEY_SIZE))
    return UplinkSettings(
        relay=relay,
        server_name=options.server_name or relay.host,
        trust=Trust(None if options.relay_ca_cert is None else load_pinned(options.relay_ca_cert)),
        room=options.room,
        role=role,
        virtual_mac=virtual_mac,
        display_name=options.display_name,
        connect_timeout=options.connect_timeout or math.inf,
        identity=identity,
        room_key=None if password is None else room_seed(password, options.room),
    )


def _password(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """Read the room's password, from the file before the variable; None for no password. Raises UsageError."""
    if file is None:
        text = environment.get(PASSWORD_VARIABLE)
        return None if text is None else check_password(text, f"The variable {PASSWORD_VARIABLE}")
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(MAX_PASSWORD + 3)  # a little more, so that a longer one is seen
    except (OSError, ValueError) as error:  # a NUL byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"The password file {file} cannot be read: {reason}. Check --room-password-file.") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"The password file {file} is not UTF-8 text: give another one.") from None
    # Windows has access lists, and no such bits: Python makes them up there.
    if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        log(events.UPLINK_PASSWORD_READABLE, file=str(file))
    # Editors end the line, and some begin the file with a mark of their own.
    return check_password(
        text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r"), f"The password file {file}"
    )


def check_password(text: str, where: str) -> str:
    """Give a password that can be one. ``where`` begins the sentence, which must not hold a part of it."""
    if not text:
        raise UsageError(f"{where} is empty: write the room's password there, or leave it out for a room without one.")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:  # bytes of the environment that are no text
        raise UsageError(f"{where} is not UTF-8 text.") from None
    if size > MAX_PASSWORD:
        raise UsageError(f"{where} is longer than {MAX_PASSWORD} bytes: a password is one line.")
    if not text.isprintable():
        raise UsageError(f"{where} has more than one line, or a control character: a password is one line of text.")
    return text


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
