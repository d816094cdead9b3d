"""How many different rooms one address may ask for: guessing room codes and passwords takes years, playing does not.

A try is a room's name that an address has not asked for before. Playing is a few names; guessing is nothing but new
ones. So each address has a budget of tries that fills up slowly, and names that it has asked for lately are free: a
whole LAN party behind one address, a relay that restarts, a client that reconnects all day cost one try.

The question comes before any room is looked up, and the answer depends on nothing that is in a room. So a refusal says
nothing about what is there, and neither does the time that it takes. Gateways are asked as clients are: "there is a
gateway already" is an answer that a guesser could use, too.

Who was in a room together with its gateway, and proved an identity, may always ask for that room again, from wherever:
somebody who guesses from behind the same address translation cannot keep its players out. That is for this room and
this identity only, so a guesser gains nothing by being in a room of its own.

Owns: the budgets, their bounds. Must not know: which rooms there are, the clock (``now`` is an argument).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import attrs

from lanparty.relay.rooms import RoomName

__all__ = ["MAX_ADDRESSES", "MAX_GUESTS", "PERIOD", "Tries"]

PERIOD: Final = 60.0
"""Seconds until an address has one more try: 1440 a day. Of the room codes with 6 random characters there are 2.2e9:
a thousand addresses need 750 days for half of them."""
MAX_ADDRESSES: Final = 2048
"""Addresses (IPv4, or /64) that are remembered, the one that asked longest ago forgotten first: with 32 names each
about 7 MiB. Who has more addresses than that has their budgets anew, which it would have for their number as well."""
MAX_GUESTS: Final = 8192
"""Pairs of identity and room that are remembered, the oldest forgotten first: twice the connections of a relay, about
1 MiB."""


@attrs.define
class _Address:
    full_at: float
    """When its budget is full again, seconds: each try moves that by ``PERIOD``."""
    asked: dict[int, None] = attrs.field(factory=dict)
    """Hashes of the names that it asked for, the latest last; at most as many as its budget."""


@attrs.define
class Tries:
    """The budgets of all addresses."""

    limit: int
    """Tries at once; 0: everybody may ask for everything."""
    _addresses: dict[Hashable, _Address] = attrs.field(factory=dict, init=False)
    _guests: dict[int, None] = attrs.field(factory=dict, init=False)

    def wait(self, address: Hashable, name: RoomName, identity: bytes | None, now: float) -> float:
        """Give the seconds until ``address`` may ask for room ``name``: 0 for now, which is then counted.

        ``identity`` is a public key that was proven, or None.
        """
        if not self.limit or (identity is not None and hash((identity, name)) in self._guests):
            return 0.0
        # Python's hash of text and bytes is keyed by the process (SipHash): nobody can choose names that collide.
        asked_for = hash(name)
        entry = self._addresses.pop(address, None)
        if entry is None:
            entry = _Address(full_at=now)
            if len(self._addresses) >= MAX_ADDRESSES:
                del self._addresses[next(iter(self._addresses))]
        self._addresses[address] = entry
        if asked_for in entry.asked:
            del entry.asked[asked_for]
        else:
            full_at = max(entry.full_at, now) + PERIOD
            too_early = full_at - now - self.limit * PERIOD
            if too_early > 0:
                return too_early
            entry.full_at = full_at
            while len(entry.asked) >= self.limit:
                del entry.asked[next(iter(entry.asked))]
        entry.asked[asked_for] = None
        return 0.0

    def welcome(self, identity: bytes | None, name: RoomName) -> None:
        """Note that the owner of ``identity`` is in room ``name`` together with its gateway."""
        if identity is None or not self.limit:
            return
        guest = hash((identity, name))
        self._guests.pop(guest, None)
        if len(self._guests) >= MAX_GUESTS:
            del self._guests[next(iter(self._guests))]
        self._guests[guest] = None
