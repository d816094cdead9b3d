"""From the relay's name to the addresses to try, in order.

Owns: name resolution (by the operating system, in trio's thread pool) and the order of addresses.
Must not know: QUIC, sessions.

Order (in the manner of RFC 8305 section 4): the family that the system prefers first, then the families in turn, so
that a machine whose IPv6 leads nowhere reaches IPv4 as its second try and not after all IPv6 addresses. An address that
worked last time comes first.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

import trio

from lanparty.obs.errors import ConnectionFailedError

__all__ = ["MAX_ADDRESSES", "ResolveError", "interleave", "prefer", "resolve"]

MAX_ADDRESSES = 8
"""More addresses than that are not tried: at some seconds for each silent one, no user would wait for the ninth."""


class ResolveError(ConnectionFailedError):
    """The relay's name has no address now. The network may come up later, so this is worth another try."""


def interleave(addresses: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Order ``addresses``: families in turn, beginning with that of the first; each once; at most MAX_ADDRESSES."""
    unique = list(dict.fromkeys(addresses))
    families: dict[bool, list[tuple[str, int]]] = {}
    for address in unique:
        families.setdefault(":" in address[0], []).append(address)
    queues = list(families.values())
    ordered = [queue[i] for i in range(len(unique)) for queue in queues if i < len(queue)]
    return ordered[:MAX_ADDRESSES]


def prefer(addresses: Sequence[tuple[str, int]], last_good: tuple[str, int] | None) -> list[tuple[str, int]]:
    """Move ``last_good`` to the front, if it is still among ``addresses``."""
    if last_good is None or last_good not in addresses:
        return list(addresses)
    return [last_good, *(address for address in addresses if address != last_good)]


async def resolve(host: str, port: int) -> list[tuple[str, int]]:
    """Give the (IP address, port) pairs of ``host`` in the order to try them; never an empty list.

    Raises ResolveError: the name does not resolve (unknown, or no name server answers).
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
    except (OSError, UnicodeError) as error:
        # UnicodeError: a label that is empty or longer than 63 bytes never reaches a name server.
        reason = error.strerror if isinstance(error, socket.gaierror) and error.strerror else str(error)
        raise ResolveError(
            f"The relay's name {host!r} does not resolve ({reason}): check --relay and this machine's name server."
        ) from error
    addresses = interleave((_spell(info[4]), port) for info in found if info[0] in (socket.AF_INET, socket.AF_INET6))
    if not addresses:
        raise ResolveError(f"The relay's name {host!r} has no IPv4 or IPv6 address: check --relay.")
    return addresses


def _spell(sockaddr: tuple[object, ...]) -> str:
    """Give the IP address of a getaddrinfo result, with its zone when it is link-local."""
    host = str(sockaddr[0])
    scope = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host
