"""Accelerations that can be switched off, for tests and for finding out what one of them is worth.

``LANPARTY_WITHOUT=gso,gro`` in the environment switches off those two. Whatever is off, the programs do the same thing
over a slower path; a kernel that lacks something takes that path by itself.

Owns: the names and what each means. Must not know: who asks.
"""

from __future__ import annotations

import os
from typing import Final

from lanparty.obs.errors import UsageError

__all__ = ["ACCELERATIONS", "VARIABLE", "check_environment", "enabled"]

VARIABLE: Final = "LANPARTY_WITHOUT"

ACCELERATIONS: Final = {
    "engine": "1-RTT packets of DATAGRAM and ACK frames opened and sealed in batches, not one by one in aioquic",
    "gso": "UDP_SEGMENT: up to 64 packets in one send",
    "gro": "UDP_GRO: a run of packets in one receive",
    "vnet": "TCP super-frames between kernel and program (IFF_VNET_HDR, PACKET_VNET_HDR)",
    "pmtud": "packets larger than 1200 bytes where the path carries them (RFC 8899)",
    "fq": "fair queuing and CoDel (RFC 8290) for what waits, not first in, first out",
}
"""Every acceleration by name."""


def _off() -> frozenset[str]:
    return frozenset(name for name in os.environ.get(VARIABLE, "").replace(",", " ").split() if name)


def enabled(acceleration: str) -> bool:
    """Whether an acceleration of `ACCELERATIONS` may be used. For set-up, not for each packet."""
    assert acceleration in ACCELERATIONS
    return acceleration not in _off()


def check_environment() -> None:
    """Raise UsageError for a name in the environment that is no acceleration: a test that switches off nothing would
    show nothing."""
    unknown = sorted(_off() - ACCELERATIONS.keys())
    if unknown:
        raise UsageError(f"{VARIABLE} names {', '.join(unknown)}; it can name {', '.join(ACCELERATIONS)}.")
