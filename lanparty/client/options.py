"""The client's command line.

Owns: its own options; the shared ones are in ``lanparty.cli.options`` and ``lanparty.uplink.settings``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from lanparty.cli.options import connection_name, interface_name, parse_address, program, virtual_mac
from lanparty.link.address_options import AddressOptions, parse_address_mode
from lanparty.uplink.settings import add_uplink_options

__all__ = ["DEFAULT_IDENTITY", "address_options", "build_parser"]

DEFAULT_IDENTITY = Path("lanparty-client-identity.json")
"""In the directory that the client is started in."""


ON_WINDOWS: Final = sys.platform == "win32"


def build_parser(*, windows: bool = ON_WINDOWS) -> argparse.ArgumentParser:
    """Make the parser of ``python -m lanparty.client``, as it is on this system, or on the other one."""
    parser = program("lanparty.client", "Plugs this computer into the house of a LAN party.")
    add_uplink_options(parser, display_name="player")
    group = parser.add_argument_group("identity")
    group.add_argument(
        "--identity",
        default=DEFAULT_IDENTITY,
        type=Path,
        metavar="FILE",
        help="where this computer's virtual MAC is kept; made when missing; default: %(default)s",
    )
    group.add_argument(
        "--virtual-mac",
        type=virtual_mac,
        metavar="MAC",
        help="virtual MAC for this run only; the identity file is not touched",
    )
    group = parser.add_argument_group("adapter and address")
    group.add_argument(
        "--tap",
        type=connection_name if windows else interface_name,
        metavar="NAME",
        help="name of the TAP-Windows adapter that is used; default: the first free one"
        if windows
        else "name of the network adapter that is made; default: the first free lanparty0, lanparty1, ...",
    )
    group.add_argument(
        "--adapter",
        choices=["auto", "tap"] if windows else ["auto", "tap", "veth"],
        default="auto",
        help="what the adapter is: always a TAP-Windows adapter; default: %(default)s"
        if windows
        else "what the adapter is made of; auto: a TAP, or a veth pair where there is no TAP; default: %(default)s",
    )
    group.add_argument(
        "--address",
        default="dhcp",
        type=parse_address,
        metavar="dhcp|none|ADDRESS/PREFIX",
        help="where the adapter's address comes from; default: %(default)s",
    )
    group.add_argument(
        "--accept-default-route", action="store_true", help="send all traffic of this computer by the house's router"
    )
    group.add_argument("--accept-dns", action="store_true", help="use the house's DNS servers")
    return parser


def address_options(options: argparse.Namespace) -> AddressOptions:
    """Give what was asked for about the address. Raises UsageError: it cannot be a player's address."""
    return AddressOptions(
        address=parse_address_mode(str(options.address)),
        accept_default_route=options.accept_default_route,
        accept_dns=options.accept_dns,
    )
