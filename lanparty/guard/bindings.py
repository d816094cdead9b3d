"""Which IP address is whose in one room: what rows 7, 10, 11 and 14 of the guard's table are judged by.

The rule, in the order of what weighs more (first-come first-served, as RFC 6620 for IPv6 and RFC 7513 for DHCP):

1. **The house's DHCP server decides.** An acknowledgement from the LAN gives an IPv4 address to the MAC in it, and
   takes it from whoever had it; it is good for the lease's time and `GRACE`. A member has one lease: the next one
   replaces it. A refusal of what the member asked for, its release and its decline end it. When the time is over the
   member may not use the address until it is acknowledged again.
2. **What the house has, no member may take**: addresses that a machine in the house spoke for (ARP, neighbour
   discovery, an acknowledgement for its MAC) within `HOUSE_AGE`, and for as long as the room is open those of routers
   and servers (DHCP options 3, 6 and 54, the network's broadcast address, the sources of router advertisements). A
   member that took one while the house was silent loses it at the house's first word; a lease alone outweighs that.
3. **What nobody has belongs to the first member that uses it**, be it by an ARP or neighbour discovery probe
   (RFC 5227, RFC 4862), by ARP, or by a packet: a static address (``--address ADDRESS/PREFIX``), a link-local one, an
   IPv6 address, and after a restart of the relay the lease that this relay has not seen. It has it until it leaves,
   and `HOLD` longer, so that nobody takes it in a gap. A member whose lease holds takes no other IPv4 address but in
   169.254/16.
4. At most `MAX_IPV4` and `MAX_IPV6` addresses of rule 3 for a member; the oldest goes when another comes, and others
   come only as fast as `IPV4_CHANGES` and `IPV6_CHANGES` say.
5. A probe of the house for an address reserves it for the house if nobody has it (else a member could answer each
   probe, and no machine in the house would get an address).

Why rule 3, and not "no packet before an acknowledgement": the relay restarts, and everybody must go on at once with the
address that he has. What it lets through is the use of an address that nobody in room or house has shown in an hour.

``version`` goes up whenever somebody loses an address. ``until`` says when a lease ends by time alone. While neither
happens an answer of ``uses`` that was True stays True.

Owns: the tables. Must not know: frames, rooms, who is present (``left`` is told), the clock (``now`` is an argument).
Bounded: `MAX_IPV4` + `MAX_IPV6` + 1 addresses for a member, `MAX_AWAY` members that left, `MAX_HOUSE`, `MAX_RESERVED`.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Final

import attrs

from lanparty.guard.bucket import TokenBucket
from lanparty.proto.dhcp import INFINITE

__all__ = ["Bindings", "Evidence"]

GRACE: Final = 30.0
"""Seconds that a lease is taken for longer than it is: clocks differ by less than 0.1 %, which is 30 s in 8 h, and a
client renews after half of the time. The client's own count began with its request, before the acknowledgement."""
HOUSE_AGE: Final = 3600.0
"""Seconds that an address of the house counts after its machine's last word. Machines ask by ARP (broadcast) whenever
they talk to somebody new, and at least once in a lease."""
HOLD: Final = 60.0
"""Seconds that a member that left keeps what it took: longer than any reconnect takes, short enough for a player who
comes back with another MAC and the same static address."""
MAX_IPV4: Final = 4
"""A static address, a link-local one, those from before a change."""
MAX_IPV6: Final = 16
"""A link-local address and with routing, for two prefixes, a stable and 7 temporary ones (RFC 8981: one a day, each
good for a week)."""
IPV4_CHANGES: Final = (0.1, 4.0)
IPV6_CHANGES: Final = (1.0, 32.0)
"""A second, and at once: what a member may take anew. With more it could answer for a whole DHCP pool, or make the
relay forget verdicts all the time."""
DHCP_RATE: Final = (5.0, 5.0)
"""Row 10: requests a second, and at once. A client sends two for a lease, and repeats each after 1 s or more."""
MAX_HOUSE: Final = 4096
"""A /20 of machines. About 200 bytes each."""
MAX_RESERVED: Final = 64
MAX_AWAY: Final = 256
"""Members that left, kept for their lease or their ``HOLD``: all clients of a room eight times over."""
_LINK_LOCAL: Final = b"\xa9\xfe"
"""169.254/16."""
_IPV4_SIZE: Final = 4


class Evidence(IntEnum):
    """How the house showed that an address is one of its own."""

    PROBED = 0
    """It asked whether anybody has it."""
    SPOKEN = 1
    """A machine of the house used it."""
    LEASED = 2
    """The house's DHCP server acknowledged it for a machine of the house."""


@attrs.define(eq=False)
class _Member:
    """What one MAC has."""

    mac: bytes
    lease: bytes = b""
    """The IPv4 address; also when its time is over, until somebody else has it."""
    lease_until: float = -math.inf
    taken4: dict[bytes, None] = attrs.field(factory=dict)
    """Addresses by rule 3, the oldest first."""
    taken6: dict[bytes, None] = attrs.field(factory=dict)
    changes4: TokenBucket = attrs.field(factory=lambda: TokenBucket(*IPV4_CHANGES))
    changes6: TokenBucket = attrs.field(factory=lambda: TokenBucket(*IPV6_CHANGES))
    requests: TokenBucket = attrs.field(factory=lambda: TokenBucket(*DHCP_RATE))
    asked: tuple[bytes, bytes] | None = None
    """Transaction id and address of its latest DHCP request."""
    left: float | None = None
    """When it left the room, if it did."""


@attrs.define(eq=False)
class Bindings:
    """The addresses of one room. Addresses are 4 bytes (IPv4) or 16 (IPv6), MACs 6."""

    version: int = 0
    link_local_ipv4: bool = True
    """Whether members may take addresses in 169.254/16."""
    _members: dict[bytes, _Member] = attrs.field(factory=dict, init=False)
    _away: dict[bytes, None] = attrs.field(factory=dict, init=False)
    """MACs of those who left, the earliest first."""
    _holders: dict[bytes, _Member] = attrs.field(factory=dict, init=False)
    _house: dict[bytes, tuple[bytes, float]] = attrs.field(factory=dict, init=False)
    """MAC and time of the last word, the longest silent first."""
    _reserved: dict[bytes, None] = attrs.field(factory=dict, init=False)

    # --- members ------------------------------------------------------------------------------------------------------

    def uses(self, mac: bytes, address: bytes, now: float) -> bool:
        """Whether the member with ``mac`` may use ``address``, a host's; it takes it if nobody has it."""
        holder = self._holders.get(address)
        if holder is not None:
            if holder.mac == mac:
                if holder.left is not None:
                    self._come_back(holder)
                return address != holder.lease or now < holder.lease_until
            if not _is_over(holder, address, now):
                return False
        return self._take(mac, address, now)

    def probes(self, mac: bytes, address: bytes, now: float) -> None:
        """Note that the member asks whether anybody has ``address``: if nobody does it is the member's."""
        self.uses(mac, address, now)

    def leases(self, mac: bytes, address: bytes, now: float) -> bool:
        """Whether ``address`` is the lease that the member with ``mac`` has now."""
        member = self._members.get(mac)
        return member is not None and member.lease == address and now < member.lease_until

    def until(self, mac: bytes, now: float) -> float:
        """When a lease of the member with ``mac`` ends by time alone; infinity when nothing does."""
        member = self._members.get(mac)
        return member.lease_until if member is not None and now < member.lease_until else math.inf

    def may_request(self, mac: bytes, now: float) -> bool:
        """Whether the member may send one more DHCP message now (row 10)."""
        return self._member(mac).requests.take(now)

    def requested(self, mac: bytes, xid: bytes, address: bytes) -> None:
        """Note what the member asked the house's DHCP server for."""
        self._member(mac).asked = (xid, address)

    def given_back(self, mac: bytes, address: bytes) -> None:
        """The member released or declined its lease."""
        member = self._members.get(mac)
        if member is not None and member.lease == address:
            self._drop(member, address)

    def left(self, mac: bytes, now: float) -> None:
        """The member left the room: what it took is held a while, its lease until it ends."""
        member = self._members.get(mac)
        if member is None:
            return
        if member.lease and now >= member.lease_until:
            self._drop(member, member.lease)
        member.left = now
        member.asked = None
        self._away[mac] = None
        if not (member.lease or member.taken4 or member.taken6):
            self._forget(mac)
        elif len(self._away) > MAX_AWAY:
            self._forget(next(iter(self._away)))

    def _forget(self, mac: bytes) -> None:
        del self._away[mac]
        member = self._members.pop(mac)
        for address in (*([member.lease] if member.lease else []), *member.taken4, *member.taken6):
            del self._holders[address]

    def _come_back(self, member: _Member) -> None:
        member.left = None
        del self._away[member.mac]

    def _member(self, mac: bytes) -> _Member:
        member = self._members.get(mac)
        if member is None:
            member = self._members[mac] = _Member(mac)
        elif member.left is not None:
            self._come_back(member)
        return member

    def _take(self, mac: bytes, address: bytes, now: float) -> bool:
        """Rules 2 to 4, for an address that no member has, or has no longer."""
        if address in self._reserved or self._is_of_house(address, mac, now):
            return False
        member = self._member(mac)
        if len(address) == _IPV4_SIZE:
            # Link-local is beside a lease, not instead of it.
            if not self.link_local_ipv4 if address[:2] == _LINK_LOCAL else now < member.lease_until:
                return False
            taken, most, changes = member.taken4, MAX_IPV4, member.changes4
        else:
            taken, most, changes = member.taken6, MAX_IPV6, member.changes6
        if not changes.take(now):
            return False
        before = self._holders.get(address)
        if before is not None:
            self._drop(before, address)
        if len(taken) >= most:
            self._drop(member, next(iter(taken)))
        taken[address] = None
        self._holders[address] = member
        return True

    def _drop(self, member: _Member, address: bytes) -> None:
        """Take ``address``, which ``member`` has, from it."""
        if address == member.lease:
            member.lease, member.lease_until = b"", -math.inf
        else:
            (member.taken4 if len(address) == _IPV4_SIZE else member.taken6).pop(address)
        del self._holders[address]
        self.version += 1

    # --- the house ----------------------------------------------------------------------------------------------------

    def acknowledged(self, mac: bytes, address: bytes, seconds: int, now: float) -> None:
        """The house's DHCP server gave ``address`` to the member with ``mac`` for ``seconds``."""
        member = self._member(mac)
        member.asked = None
        until = math.inf if seconds == INFINITE else now + seconds + GRACE
        if member.lease == address:
            if until < member.lease_until:
                self.version += 1
        else:
            holder = self._holders.get(address)
            if holder is not None:
                self._drop(holder, address)
            if member.lease:
                self._drop(member, member.lease)
            self._house.pop(address, None)
            self._holders[address] = member
            member.lease = address
        for taken in [other for other in member.taken4 if other[:2] != _LINK_LOCAL]:
            self._drop(member, taken)
        member.lease_until = until

    def refused(self, mac: bytes, xid: bytes) -> None:
        """The house's DHCP server refused what the member asked for in transaction ``xid``: it may not use it."""
        member = self._members.get(mac)
        if member is None or member.asked is None or member.asked[0] != xid:
            return  # another server was quicker, or this is about something that we did not see
        address, member.asked = member.asked[1], None
        if self._holders.get(address) is not member:
            return
        if address != member.lease:
            if member.lease_until > -math.inf:
                return  # it asks for another address than its lease: that stays
            self._drop(member, address)
            if member.lease:
                self._drop(member, member.lease)  # refused earlier
            member.lease = address
            self._holders[address] = member
        member.lease_until = -math.inf
        self.version += 1

    def house_has(self, mac: bytes, address: bytes, evidence: Evidence, now: float) -> None:
        """The house showed that ``address`` is that of its machine ``mac``."""
        holder = self._holders.get(address)
        if holder is not None:
            if holder.mac == mac:
                return
            over = _is_over(holder, address, now)
            if not over and (
                evidence is Evidence.PROBED or (address == holder.lease and evidence is not Evidence.LEASED)
            ):
                return
            self._drop(holder, address)
        self._house.pop(address, None)
        if len(self._house) >= MAX_HOUSE:
            del self._house[next(iter(self._house))]
        self._house[address] = (mac, now)

    def reserve(self, address: bytes) -> None:
        """``address`` is a router's or server's of the house: nobody may take it while the room is open."""
        if address in self._reserved:
            return
        holder = self._holders.get(address)
        if holder is not None and address != holder.lease:
            self._drop(holder, address)
        if len(self._reserved) >= MAX_RESERVED:
            del self._reserved[next(iter(self._reserved))]
        self._reserved[address] = None

    def _is_of_house(self, address: bytes, mac: bytes, now: float) -> bool:
        found = self._house.get(address)
        # With the member's own MAC it is the member's echo, from before it came.
        return found is not None and found[0] != mac and now < found[1] + HOUSE_AGE


def _is_over(holder: _Member, address: bytes, now: float) -> bool:
    """Whether others may have ``address``: its lease has ended, or ``holder`` left long ago."""
    if address == holder.lease:
        return now >= holder.lease_until
    return holder.left is not None and now >= holder.left + HOLD
