"""The gateway's command line.

Owns: its own options; the shared ones are in ``lanparty.cli.options`` and ``lanparty.uplink.settings``.
"""

from __future__ import annotations

import argparse

from lanparty.cli.guard_options import extra_ethertype, guard_level
from lanparty.cli.options import Seconds, interface_name, program
from lanparty.gateway.cam import DEFAULT_INTERVAL, MAX_INTERVAL, MIN_INTERVAL
from lanparty.guard.levels import Level, RoomPolicy
from lanparty.obs.errors import UsageError
from lanparty.uplink.settings import add_uplink_options

__all__ = ["build_parser", "policy_from"]


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of ``python -m lanparty.gateway``."""
    parser = program("lanparty.gateway", "Plugs the players of a room into this house's LAN.")
    add_uplink_options(parser, display_name="gateway")
    group = parser.add_argument_group("house")
    group.add_argument(
        "--interface",
        required=True,
        type=interface_name,
        metavar="NAME",
        help="the wired interface on the house LAN, or a bridge that it is a port of; Wi-Fi cannot do it",
    )
    group.add_argument(
        "--cam-refresh",
        default=DEFAULT_INTERVAL,
        type=Seconds(MIN_INTERVAL, MAX_INTERVAL),
        metavar="SECONDS",
        help="how often the house's switches are reminded of each player's port; default: %(default)g",
    )
    group.add_argument(
        "--guard",
        type=guard_level,
        default=Level.STRICT,
        metavar="LEVEL",
        help=f"what players may send into this house, whatever the relay lets through: {', '.join(Level)}; "
        "default: %(default)s",
    )
    group.add_argument(
        "--ethertype",
        action="append",
        type=extra_ethertype,
        metavar="HEX",
        help="an EtherType that passes at strict besides IPv4, ARP, IPv6 and IPX, as 88B5; may be given more than once",
    )
    return parser


def policy_from(options: argparse.Namespace) -> RoomPolicy:
    """What players may send into the house. Raises UsageError."""
    if options.ethertype and options.guard is not Level.STRICT:
        raise UsageError(f"--ethertype has no effect with --guard {options.guard}: give one of them only.")
    return RoomPolicy(level=options.guard, ethertypes=frozenset(options.ethertype or ()))
