"""The gateway's command line.

Owns: its own options; the shared ones are in ``lanparty.cli.options`` and ``lanparty.uplink.settings``.
"""

from __future__ import annotations

import argparse

from lanparty.cli.options import Seconds, interface_name, program
from lanparty.gateway.cam import DEFAULT_INTERVAL, MAX_INTERVAL, MIN_INTERVAL
from lanparty.uplink.settings import add_uplink_options

__all__ = ["build_parser"]


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
    return parser
