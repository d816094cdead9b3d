"""The relay's command line, and what it means.

Owns: the relay's own options and the checks that need more than one of them.
Must not know: how options are read (``lanparty.cli``), what is done with them (``app.py``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import attrs

from lanparty.cli.options import IntRange, ListenAddress, Parser, parse_listen, program
from lanparty.cli.privileges import User, find_user
from lanparty.ctrl.messages import MAX_MEMBERS
from lanparty.guard.levels import GuardSettings
from lanparty.obs.errors import UsageError
from lanparty.proto.mtu import DEFAULT_TAP_MTU, MIN_TAP_MTU
from lanparty.relay.guard_options import add_guard_options, guard_settings
from lanparty.relay.rooms import RoomLimits

__all__ = ["DEFAULT_STATS_INTERVAL", "PROGRAM", "RelaySettings", "build_parser", "settings_from"]

PROGRAM: Final = "lanparty.relay"
DEFAULT_LISTEN: Final = "443/udp"
DEFAULT_STATS_INTERVAL: Final = 60
"""Seconds: a line a minute is 1440 a day."""
MAX_ROOMS: Final = 65535
MAX_ROOM_TRIES: Final = 1024
"""Each is remembered for each address: about 100 bytes of the relay's memory."""
MAX_STATS_INTERVAL: Final = 86400
MAX_NAME: Final = 253
"""Characters of a DNS name (RFC 1035 section 2.3.4)."""


@attrs.frozen
class RelaySettings:
    """What the operator asked for, checked."""

    listen: tuple[ListenAddress, ...]
    limits: RoomLimits
    dev_certificate: Path | None
    """Where the development certificate is, or is to be written; None when ``certificate`` is given."""
    dev_names: tuple[str, ...]
    certificate: tuple[Path, Path] | None
    """PEM files of certificate and key."""
    stats_interval: int
    """Seconds between statistics events; 0: none."""
    frame_log: bool
    user: User | None = None
    """Whom to become when the sockets are bound; None: whoever started the relay."""
    guards: GuardSettings = attrs.field(factory=GuardSettings)
    """How strictly which room is guarded."""


def build_parser() -> Parser:
    """Make the parser of ``python -m lanparty.relay``."""
    parser = program(PROGRAM, "Public relay: admits gateways and players to rooms and switches frames between them.")
    network = parser.add_argument_group("network and certificate")
    network.add_argument(
        "--listen",
        action="append",
        type=parse_listen,
        metavar="WHERE",
        help="PORT/udp, ADDRESS:PORT or [IPv6]:PORT; port 0 is any free one; may be given more than once "
        f"(default: {DEFAULT_LISTEN}, on all IPv4 and IPv6 addresses)",
    )
    network.add_argument(
        "--dev-cert-der-out",
        type=Path,
        metavar="FILE",
        help="use a self-signed development certificate for lanparty-relay.local: made at the first start and written "
        "to FILE (DER; its key to FILE.key), for gateways and players to trust with --relay-ca-cert",
    )
    network.add_argument(
        "--dev-cert-name",
        action="append",
        type=_certificate_name,
        metavar="NAME",
        help="another name or address that the development certificate is for; may be given more than once",
    )
    network.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate of any CA with its chain, PEM")
    network.add_argument("--tls-key", type=Path, metavar="FILE", help="private key of --tls-cert, PEM")
    network.add_argument(
        "--user", metavar="NAME", help="become this user when the sockets are bound; for a relay that root starts"
    )
    rooms = parser.add_argument_group("rooms")
    rooms.add_argument(
        "--max-clients-per-room",
        type=IntRange(1, MAX_MEMBERS),
        default=RoomLimits().max_clients_per_room,
        metavar="N",
        help="players in one room (default: %(default)s)",
    )
    rooms.add_argument(
        "--max-rooms",
        type=IntRange(1, MAX_ROOMS),
        default=RoomLimits().max_rooms,
        metavar="N",
        help="rooms with a gateway at the same time (default: %(default)s)",
    )
    rooms.add_argument(
        "--max-waiting-rooms",
        type=IntRange(0, MAX_ROOMS),
        default=RoomLimits().max_waiting_rooms,
        metavar="N",
        help="rooms that players opened and that have no gateway (default: %(default)s)",
    )
    rooms.add_argument(
        "--room-tries",
        type=IntRange(0, MAX_ROOM_TRIES),
        default=RoomLimits().room_tries,
        metavar="N",
        help="different rooms that one address may ask for at once, then one more a minute, so that nobody guesses "
        "room codes; 0: any number (default: %(default)s)",
    )
    rooms.add_argument(
        "--room-mtu",
        type=IntRange(MIN_TAP_MTU, DEFAULT_TAP_MTU),
        default=DEFAULT_TAP_MTU,
        metavar="BYTES",
        help="largest MTU of a room (default: %(default)s, as on the house LAN)",
    )
    rooms.add_argument(
        "--no-fragments",
        dest="fragments",
        action="store_false",
        help="never cut frames in pieces: a room's MTU is then what its first member's connection carries whole",
    )
    add_guard_options(parser)
    parser.add_argument(
        "--stats-interval",
        type=IntRange(0, MAX_STATS_INTERVAL),
        default=DEFAULT_STATS_INTERVAL,
        metavar="SECONDS",
        help="time between statistics events; 0: none (default: %(default)s)",
    )
    return parser


def settings_from(options: argparse.Namespace) -> RelaySettings:
    """Check what was given. Raises UsageError."""
    dev: Path | None = options.dev_cert_der_out
    cert: Path | None = options.tls_cert
    key: Path | None = options.tls_key
    if dev is not None and (cert is not None or key is not None):
        raise UsageError(
            "--dev-cert-der-out and --tls-cert/--tls-key exclude each other: give the one for a self-signed "
            "certificate, or the two for one of your own."
        )
    if (cert is None) != (key is None):
        given, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise UsageError(f"{given} needs {missing} as well: the certificate and its private key are two PEM files.")
    if dev is None and cert is None:
        raise UsageError(
            "A relay needs a certificate: give --dev-cert-der-out FILE to have a self-signed one made, or "
            "--tls-cert FILE and --tls-key FILE for one of your own."
        )
    names: list[str] = options.dev_cert_name or []
    if names and dev is None:
        raise UsageError("--dev-cert-name is for the development certificate only: it needs --dev-cert-der-out.")
    listen: list[list[ListenAddress]] = options.listen or [parse_listen(DEFAULT_LISTEN)]
    return RelaySettings(
        # Each place once, in the order given: "443/udp" and "0.0.0.0:443" mean the same socket.
        listen=tuple(dict.fromkeys(address for group in listen for address in group)),
        limits=RoomLimits(
            max_clients_per_room=options.max_clients_per_room,
            max_rooms=options.max_rooms,
            max_waiting_rooms=options.max_waiting_rooms,
            room_tries=options.room_tries,
            room_mtu=options.room_mtu,
            fragments=options.fragments,
        ),
        dev_certificate=dev,
        dev_names=tuple(names),
        certificate=None if cert is None or key is None else (cert, key),
        stats_interval=options.stats_interval,
        frame_log=options.frame_log,
        user=None if options.user is None else find_user(options.user),
        guards=guard_settings(options),
    )


def _certificate_name(text: str) -> str:
    text = text.removesuffix(".")  # certificates carry names without the dot that ends an absolute one
    if not text or len(text) > MAX_NAME or not text.isascii() or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a DNS name or an IP address in ASCII")
    return text
