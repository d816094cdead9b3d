"""MAC addresses at the edges: files, command lines, control messages, log lines.

Owns: which spellings are accepted, the one canonical spelling, and what makes an address fit to be a virtual MAC.
Must not know: where an address comes from; randomness (``MacAddress.generate`` takes entropy as an argument).

The data path does not use ``MacAddress``: there a MAC is six raw ``bytes``, sliced from the frame.

First octet, IEEE 802-2014 section 8.2::

     7  6  5  4  3  2  1  0
    +--+--+--+--+--+--+--+--+
    |                 |L |G |     L = 1: locally administered     G = 1: group (multicast, broadcast)
    +--+--+--+--+--+--+--+--+
"""

from __future__ import annotations

import re

import attrs

__all__ = ["BROADCAST", "MAC_SIZE", "ZERO", "MacAddress", "MacError", "format_mac"]

MAC_SIZE = 6
"""Bytes of a MAC address."""
BROADCAST = b"\xff" * MAC_SIZE
"""The group address of every station."""
ZERO = bytes(MAC_SIZE)
"""No station's address. Some drivers show it when they have none."""

_GROUP_BIT = 0x01
_LOCAL_BIT = 0x02

# One alternative for each spelling, so that "aa:bb-cc..." matches none. [0-9A-Fa-f] and not \d: \d takes digits of
# other scripts, and int() would accept them too.
_SPELLINGS = re.compile(
    r"(?:[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}"  # aa:bb:cc:dd:ee:ff, Linux
    r"|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}"  # AA-BB-CC-DD-EE-FF, Windows and IEEE 802
    r"|[0-9A-Fa-f]{4}(?:\.[0-9A-Fa-f]{4}){2}"  # aabb.ccdd.eeff, switches
    r"|[0-9A-Fa-f]{12})"  # aabbccddeeff, labels and bar codes
)
_SEPARATORS = re.compile(r"[:.-]")
# How much of a wrong text is repeated in the error: a wrong file must not fill the screen.
_SHOWN = 40


class MacError(ValueError):
    """A text or some bytes are not a MAC address, or not one fit for the purpose. The text is for a person."""


def format_mac(octets: bytes) -> str:
    """Give the canonical spelling of a raw MAC: lower case, colons. For log lines; any length is taken."""
    return octets.hex(":")


def _six_octets(_instance: object, _attribute: object, value: bytes) -> None:
    if len(value) != MAC_SIZE:
        raise MacError(f"A MAC address has {MAC_SIZE} bytes, not {len(value)}.")


@attrs.frozen(order=True)
class MacAddress:
    """One MAC address; ``octets`` are its six bytes in the order of the wire.

    Raises MacError when made from anything but six bytes.
    """

    octets: bytes = attrs.field(validator=_six_octets)

    @classmethod
    def parse(cls, text: str) -> MacAddress:
        """Read one of the usual spellings, in either case; no white space, no mixtures, nothing left out.

        ``aa:bb:cc:dd:ee:ff``, ``aa-bb-cc-dd-ee-ff``, ``aabb.ccdd.eeff`` and ``aabbccddeeff``. Raises MacError.
        """
        if _SPELLINGS.fullmatch(text) is None:
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
            raise MacError(f"{shown!r} is not a MAC address; write it like 02:1a:2b:3c:4d:5e.")
        return cls(bytes.fromhex(_SEPARATORS.sub("", text)))

    @classmethod
    def generate(cls, entropy: bytes) -> MacAddress:
        """Make a virtual MAC from six bytes of the caller's randomness (``os.urandom(6)``).

        46 bits stay random: in a room of 100 members two are the same once in 10^10 rooms. It is never zero, because
        the local bit is set. Raises MacError when ``entropy`` has another length.
        """
        if len(entropy) != MAC_SIZE:
            raise MacError(f"A virtual MAC is made from {MAC_SIZE} random bytes, not {len(entropy)}.")
        first = (entropy[0] | _LOCAL_BIT) & ~_GROUP_BIT & 0xFF
        return cls(bytes((first,)) + entropy[1:])

    def __str__(self) -> str:
        return format_mac(self.octets)

    @property
    def is_group(self) -> bool:
        """A group address: multicast or broadcast. Never a lawful source."""
        return bool(self.octets[0] & _GROUP_BIT)

    @property
    def is_local(self) -> bool:
        """Locally administered: not assigned to a maker of hardware."""
        return bool(self.octets[0] & _LOCAL_BIT)

    @property
    def is_zero(self) -> bool:
        """All six bytes are zero."""
        return self.octets == ZERO

    @property
    def is_broadcast(self) -> bool:
        """All six bytes are 255."""
        return self.octets == BROADCAST

    def require_virtual(self) -> MacAddress:
        """Return this address if it may be a client's virtual MAC; raise MacError with the reason if not.

        It must be unicast, not zero, and locally administered: an address from a maker's range could be that of a
        machine in the house, and the house switch would then send the player's frames to it.
        """
        if self.is_zero:
            raise MacError(f"{self} cannot be a virtual MAC: it is zero.")
        if self.is_group:
            raise MacError(f"{self} cannot be a virtual MAC: it is a group address (bit 0 of the first byte is set).")
        if not self.is_local:
            raise MacError(
                f"{self} cannot be a virtual MAC: it is not locally administered "
                "(bit 1 of the first byte is not set); use one that begins with 02."
            )
        return self
