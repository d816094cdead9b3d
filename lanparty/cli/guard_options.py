"""Values of the guard's options, which relay and gateway both have.

Owns: how a level and an EtherType are spelled. Must not know: which options there are.
"""

from __future__ import annotations

import argparse
import re
from typing import Final

from lanparty.guard.guard import ETHERTYPES
from lanparty.guard.levels import Level
from lanparty.proto.ethernet import MIN_ETHERTYPE, VLAN_ETHERTYPES

__all__ = ["extra_ethertype", "guard_level"]

_HEX: Final = re.compile(r"(?:0[xX])?[0-9A-Fa-f]{4}", re.ASCII)


def guard_level(text: str) -> Level:
    """A level. Raises ArgumentTypeError."""
    try:
        return Level(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a level: use {', '.join(Level)}") from None


def extra_ethertype(text: str) -> int:
    """An EtherType that does not pass anyway, and hides nothing. Raises ArgumentTypeError."""
    if _HEX.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an EtherType: four hexadecimal digits, as in 88B5")
    ethertype = int(text, 16)
    if ethertype in VLAN_ETHERTYPES:
        raise argparse.ArgumentTypeError(
            f"{text} is a VLAN tag, which could hide anything: the level standard lets all tags pass"
        )
    if ethertype < MIN_ETHERTYPE:
        raise argparse.ArgumentTypeError(f"{text} is not an EtherType: they begin at {MIN_ETHERTYPE:04X}")
    if ethertype in ETHERTYPES:
        raise argparse.ArgumentTypeError(f"{text} passes anyway")
    return ethertype
