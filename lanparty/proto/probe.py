"""The gateway's probe: the one frame that it says in its own name, into the house LAN.

Whoever hears it again where it should not be knows something: the gateway itself, that the LAN has a loop; a client
that finds its own virtual MAC in it, that it is in the house. Layout, bytes::

     0             6             12     14         22        23   31         35      36
    +-------------+-------------+------+----------+---------+----+----------+-------+------------------+
    | broadcast   | SOURCE      | 88B5 | lanparty | version | id | sequence | count | MACs, 6 each     | zeros to 60
    +-------------+-------------+------+----------+---------+----+----------+-------+------------------+

* 88B5 is IEEE 802's EtherType for local experiments: no machine has a receiver for it, and drops the frame unseen.
* Broadcast, because every switch floods that; a group address may be filtered. One such frame in 10 s is less than a
  printer says.
* One source for all gateways, so that a probe is told from all other frames by the address that is looked at anyway.
  No player may have it.
* The MACs are those of the players whose frames this gateway carries. The house knows them from their frames; nobody
  outside does: a stranger on some other LAN cannot make up a probe that a client takes for its own house's.

Owns: these bytes. Must not know: when a probe is sent, what is done about one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from .ethernet import HEADER_SIZE, MIN_WIRE_SIZE
from .mac import BROADCAST, MAC_SIZE

__all__ = ["ETHERTYPE_PROBE", "ID_SIZE", "MAX_LISTED", "SOURCE", "Probe", "encode_probe", "parse_probe_untrusted"]

ETHERTYPE_PROBE: Final = 0x88B5
SOURCE: Final = bytes.fromhex("024c414e5000")
"""Locally administered, unicast: 02 "LANP" 00."""
ID_SIZE: Final = 8
"""Bytes that a gateway draws at its start: no two of them are equal by chance."""
MAX_LISTED: Final = 240
"""MACs in one probe: it then fits 1514 bytes. A room has 128 members at most; of more, the first are listed."""

_MAGIC: Final = b"lanparty"
_VERSION: Final = 1
_FIXED: Final = HEADER_SIZE + len(_MAGIC) + 1
_ID_END: Final = _FIXED + ID_SIZE
_SEQUENCE_END: Final = _ID_END + 4
_LIST: Final = _SEQUENCE_END + 1
_HEAD: Final = BROADCAST + SOURCE + ETHERTYPE_PROBE.to_bytes(2) + _MAGIC + bytes((_VERSION,))


@attrs.frozen
class Probe:
    """What a probe says."""

    gateway: bytes
    """Which run of which gateway sent it, ID_SIZE bytes."""
    sequence: int
    """Counts its probes, modulo 2^32."""
    members: frozenset[bytes] = frozenset()
    """Virtual MACs of its players, 6 bytes each."""


def encode_probe(gateway: bytes, sequence: int, members: Iterable[bytes] = ()) -> bytes:
    """Make the frame, padded to the wire's minimum."""
    listed = list(members)[:MAX_LISTED]
    body = gateway + (sequence & 0xFFFFFFFF).to_bytes(4) + bytes((len(listed),)) + b"".join(listed)
    return (_HEAD + body).ljust(MIN_WIRE_SIZE, b"\0")


def parse_probe_untrusted(frame: bytes) -> Probe | None:
    """Read a probe; None for anything else, a cut one and another version's included. Never raises."""
    if len(frame) < _LIST or frame[:_FIXED] != _HEAD:
        return None
    end = _LIST + MAC_SIZE * frame[_LIST - 1]
    if len(frame) < end:
        return None
    members = frozenset(frame[at : at + MAC_SIZE] for at in range(_LIST, end, MAC_SIZE))
    return Probe(frame[_FIXED:_ID_END], int.from_bytes(frame[_ID_END:_SEQUENCE_END]), members)
