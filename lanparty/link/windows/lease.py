"""What is seen of Windows' own DHCP client, and what that means. Pure functions of what was seen and when.

Owns: the picture of an adapter's addresses, what of it may be believed, and the two stories that lead from pictures to
things to say and to do: `LeaseStory` (DHCP) and `FixedStory` (an address that the player gave).
Must not know: iphlpapi (dhcp.py), tasks and threads (address.py).

Windows' DHCP client cannot be told which server to believe, and does not tell what it does. What it has done is seen
afterwards, in the adapter's addresses, each time that Windows reports a change of them:

1. An address whose prefix and suffix are from DHCP, and which is "preferred" (nobody else was heard to have it), is a
   lease. While it is "tentative", Windows asks the house for some seconds whether somebody has it: that is waited for.
   169.254.0.0/16 is what Windows makes up when nobody answers: no lease.
2. What no house can mean (``dhcp_reply.lan_network``) is given back. It has been on the adapter for the moment that
   Windows took to say so; the relay's own route is a host route, which wins over any network.
3. While the adapter is up, the house is there and there is no lease, Windows' client is told to ask, again and again:
   by itself it asks for a minute, and then every five minutes (Microsoft, "How to use automatic TCP/IP addressing
   without a DHCP server").
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable
from typing import Final, Literal, Protocol

import attrs

from lanparty.link.dhcp_reply import ReplyError, host_of, lan_network

__all__ = [
    "AdapterAddress",
    "AdapterView",
    "Advised",
    "Ask",
    "Asking",
    "FixedStory",
    "GiveBack",
    "Got",
    "HouseAddress",
    "LeaseStory",
    "Lost",
    "Renewed",
    "Silent",
    "Story",
    "Turn",
    "conflicts",
]

SILENT_AFTER: Final = 10.0
"""Seconds without an address after which the player is told: as on Linux (dhcp_client.py). Windows has asked at 0 and
some 4 s by then (it waits 4, 8, 16 s, as RFC 2131 section 4.1 says), and once more because we told it to."""
ASK_AGAIN: Final = 16.0
"""Seconds between two times that Windows' client is told to ask while there is no lease: as on Linux."""
GIVEN_BACK_PAUSE: Final = 60.0
"""Seconds until the house is asked again after it gave something that cannot be meant. Unlike Linux' client, Windows'
takes whatever comes first, so asking soon would put the same on the adapter again."""
GIVE_BACK_AGAIN: Final = 2.0
"""Seconds after which it is given back again, when it still is on the adapter, or again."""
LOST_AFTER: Final = 5.0
"""Seconds that a lease may be missing from the adapter. Windows takes an address off, asks the house, and puts it on
again when its cable was pulled and plugged in, or the house named another network mask; after 4 s it asks once more."""
RENEWED_BY: Final = 5
"""Seconds by which a lease must last longer than was known to be a new one; Windows counts in whole seconds, and we
look when Windows finds the time to tell us."""

_AUTOMATIC: Final = ipaddress.IPv4Network("169.254.0.0/16")
"""RFC 3927; Windows says APIPA."""

Origin = Literal["dhcp", "manual", "other"]
State = Literal["tentative", "duplicate", "preferred"]


@attrs.frozen
class AdapterAddress:
    """One IPv4 address of an adapter."""

    address: str
    prefix: int
    origin: Origin
    state: State
    seconds: int | None = None
    """For how long it lasts from now on; None: for ever."""
    lease: int | None = None
    """For how many seconds the house gave it; None: for ever, or it is no lease."""


@attrs.frozen
class AdapterView:
    """What Windows tells of one adapter."""

    index: int
    name: str
    up: bool
    """Whether its cable is plugged in (IfOperStatusUp)."""
    dhcp: bool
    """Whether Windows' DHCP client is in charge of its IPv4 addresses."""
    addresses: tuple[AdapterAddress, ...] = ()
    server: str | None = None
    gateways: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()
    mac: bytes = b""


@attrs.frozen
class HouseAddress:
    """An address that holds, with what the house said to it."""

    address: str
    prefix: int
    server: str | None = None
    lease_seconds: int | None = None
    """For how long the house gave it."""
    seconds: int | None = None
    """For how long it lasts from now on; None: for ever."""
    router: str | None = None
    name_servers: tuple[str, ...] = ()

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The house's network."""
        return ipaddress.IPv4Network((self.address, self.prefix), strict=False)


@attrs.frozen
class Asking:
    """To say: the house is asked for an address."""


@attrs.frozen
class Ask:
    """To do: tell Windows' DHCP client to ask now."""


@attrs.frozen
class Silent:
    """To say: nobody has answered for so many seconds."""

    seconds: float


@attrs.frozen
class Got:
    """To say: the adapter has an address of the house."""

    got: HouseAddress


@attrs.frozen
class Renewed:
    """To say: the house agreed once more."""

    got: HouseAddress


@attrs.frozen
class Advised:
    """To do: the house's router, or its DNS servers, are others. Windows may show them after the address."""

    got: HouseAddress


@attrs.frozen
class Lost:
    """To say: the address is not the adapter's any more."""

    address: str
    reason: str


@attrs.frozen
class GiveBack:
    """To do: what the house gave cannot be meant, and must come off. To say: what that is."""

    what: str | None
    """None: as before."""


Turn = Asking | Ask | Silent | Got | Renewed | Advised | Lost | GiveBack


class Story(Protocol):
    """From pictures of one adapter to what is to be said and done."""

    held: HouseAddress | None
    """What was got, and is not lost."""
    look_at: float
    """When to look again, though nothing may have changed."""

    def look(self, view: AdapterView, house: bool | None, now: float) -> list[Turn]:
        """Take a look. ``house``: whether the gateway is in the room; None: not known yet."""
        ...


class LeaseStory:
    """What happens to an adapter that Windows' DHCP client has in charge."""

    def __init__(self) -> None:
        self.held: HouseAddress | None = None
        self.look_at = math.inf
        self._ends = math.inf
        self._missing_since: float | None = None
        self._seeking_since: float | None = None
        self._silence_told = False
        self._ask_at = -math.inf
        self._not_before = -math.inf
        self._give_back_at = -math.inf
        self._complaint: str | None = None
        self._agreed = False

    def agreed(self) -> None:
        """Take note that Windows' client was told to verify the lease that is held, and says that the house agreed."""
        self._agreed = self.held is not None

    def look(self, view: AdapterView, house: bool | None, now: float) -> list[Turn]:
        """See `Story`."""
        self.look_at = math.inf
        if not view.up:
            # The cable is pulled, by ourselves: whatever Windows shows meanwhile, the lease still runs.
            self._missing_since = self._seeking_since = None
            return []
        try:
            found = _lease_of(view)
        except ReplyError as error:
            return self._unbelievable(view, str(error), now)
        if found is not None:
            return self._present(found, now)
        if any(_is_leased(each) and each.state == "tentative" for each in view.addresses):
            self._missing_since = None
            return []
        turns = self._missing(now)
        return turns if self.held is not None else turns + self._seek(house, now)

    def _present(self, found: HouseAddress, now: float) -> list[Turn]:
        held, self.held = self.held, found
        self._missing_since = self._seeking_since = None
        self._ask_at = -math.inf
        agreed, self._agreed = self._agreed, False
        ends, self._ends = self._ends, now + (math.inf if found.seconds is None else found.seconds)
        if held is None:
            return [Got(found)]
        if (held.address, held.prefix) != (found.address, found.prefix):
            return [Lost(held.address, "the house gave another one"), Got(found)]
        if agreed or self._ends > ends + RENEWED_BY:
            return [Renewed(found)]
        if (held.router, held.name_servers) != (found.router, found.name_servers):
            return [Advised(found)]
        return []

    def _unbelievable(self, view: AdapterView, reason: str, now: float) -> list[Turn]:
        turns: list[Turn] = []
        if self.held is not None:
            turns.append(Lost(self.held.address, "the house named a network that cannot be one"))
        self.held = self._missing_since = None
        self._seeking_since, self._silence_told = now, True
        self._not_before = now + GIVEN_BACK_PAUSE
        if now >= self._give_back_at:
            self._give_back_at = now + GIVE_BACK_AGAIN
            complaint = f"the address that {view.server or 'an unknown server'} gave: {reason}"
            turns.append(GiveBack(None if complaint == self._complaint else complaint))
            self._complaint = complaint
        self.look_at = self._give_back_at
        return turns

    def _missing(self, now: float) -> list[Turn]:
        if self.held is None:
            return []
        if self._missing_since is None:
            self._missing_since = now
        gone_at = self._missing_since + LOST_AFTER
        if now < gone_at:
            self.look_at = gone_at
            return []
        reason = "the lease ran out" if now >= self._ends else "the house refused it, or somebody took it off"
        lost = Lost(self.held.address, reason)
        self.held = self._missing_since = None
        return [lost]

    def _seek(self, house: bool | None, now: float) -> list[Turn]:
        if house is False:
            self._seeking_since = None  # nobody could hear a question
            self._ask_at = -math.inf
            return []
        turns: list[Turn] = []
        if self._seeking_since is None:
            self._seeking_since, self._silence_told = now, False
            turns.append(Asking())
        if now >= max(self._ask_at, self._not_before):
            self._ask_at = now + ASK_AGAIN
            turns.append(Ask())
        silent_at = self._seeking_since + SILENT_AFTER
        if not self._silence_told and now >= silent_at:
            self._silence_told = True
            turns.append(Silent(now - self._seeking_since))
        ask_at = max(self._ask_at, self._not_before)
        self.look_at = ask_at if self._silence_told else min(ask_at, silent_at)
        return turns


class FixedStory:
    """What happens to the address that the player gave: Windows only looks whether somebody else has it."""

    def __init__(self, address: str, prefix: int) -> None:
        self.held: HouseAddress | None = None
        self.look_at = math.inf
        self._wanted = HouseAddress(address, prefix)
        self._told = False

    def look(self, view: AdapterView, house: bool | None, now: float) -> list[Turn]:
        """See `Story`."""
        if not view.up:
            return []
        state = next((found.state for found in view.addresses if found.address == self._wanted.address), None)
        if state == "preferred":
            self._told = False
            if self.held is not None:
                return []
            self.held = self._wanted
            return [Got(self._wanted)]
        nothing_new = state is None and self.held is None  # Windows has not put it on yet
        if state == "tentative" or nothing_new or self._told:
            return []
        self.held, self._told = None, True
        reason = "another computer in the house has it" if state == "duplicate" else "somebody took it off"
        return [Lost(self._wanted.address, reason)]


def conflicts(network: ipaddress.IPv4Network, views: Iterable[AdapterView], own: int) -> list[tuple[str, str]]:
    """Give the other adapters whose network is partly the house's: name and network. ``own`` is the TAP's index."""
    found = []
    for view in views:
        if view.index == own or not view.up:
            continue
        for address in view.addresses:
            other = ipaddress.IPv4Network((address.address, address.prefix), strict=False)
            if other.overlaps(network):
                found.append((view.name, str(other)))
    return found


def _lease_of(view: AdapterView) -> HouseAddress | None:
    """Give the lease that the adapter has. Raises ReplyError: no house can mean that."""
    for found in view.addresses:
        if not _is_leased(found):
            continue
        network = lan_network(host_of(ipaddress.IPv4Address(found.address)), found.prefix)
        if found.state != "preferred":
            continue
        routers = [text for text in view.gateways if ipaddress.IPv4Address(text) in network and text != found.address]
        return HouseAddress(
            found.address,
            found.prefix,
            view.server,
            lease_seconds=found.lease,
            seconds=found.seconds,
            router=next(iter(routers), None),
            name_servers=view.name_servers,
        )
    return None


def _is_leased(found: AdapterAddress) -> bool:
    return found.origin == "dhcp" and ipaddress.IPv4Address(found.address) not in _AUTOMATIC
