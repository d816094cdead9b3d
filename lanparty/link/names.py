"""The names of the interfaces that this program makes, so that others can tell them from a way to the relay.

Owns: the naming. Must not know: how an interface is made.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_NAME", "MAX_ADAPTERS", "tunnel_interfaces"]

DEFAULT_NAME: Final = "lanparty%d"
"""The kernel puts the first free number in for ``%d``."""

MAX_ADAPTERS: Final = 64
"""Adapters of our naming that a machine may have: one for each client that runs on it."""


def tunnel_interfaces(name: str | None) -> frozenset[str]:
    """Give the names of interfaces that lead into a tunnel: this client's own, and those of other clients here.

    ``name`` is the one that was asked for; None: the default.
    """
    patterns = {DEFAULT_NAME} if name is None else {DEFAULT_NAME, name}
    return frozenset(pattern.replace("%d", str(number)) for pattern in patterns for number in range(MAX_ADAPTERS))
