"""Keeps the house switch pointing at the gateway's port for each remote player.

Owns: when a CAM refresh frame goes out, and for whom. Pure: the time is an argument.
Must not know: the LAN link, the relay.

A switch learns a MAC's port from the frames it sends, and forgets it when it was silent for the ageing time: then every
frame for that player floods all ports of the house. And a player who moves (it had been wired at home yesterday) is
looked for at its old port. So for each remote MAC a layer-2 update frame (broadcast 802.2 XID, as Wi-Fi access points
send for a roaming station) goes out when it joins, when the LAN or the relay comes back, and every ``interval``.
A player that left is no longer refreshed, and the switch forgets it by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from lanparty.proto.ethernet import layer2_update

__all__ = ["DEFAULT_INTERVAL", "MAX_INTERVAL", "MIN_INTERVAL", "CamSchedule"]

DEFAULT_INTERVAL = 5.0
"""Seconds. Half of the smallest ageing time that IEEE 802.1D lets a switch have (10 s): one lost frame does no harm."""

MIN_INTERVAL = 0.1
"""Seconds. More often than that is a flood, and no switch ages that fast."""

MAX_INTERVAL = 3600.0
"""Seconds. Beyond any switch's ageing time (usually 300 s), so as good as never."""

_EARLY = 0.2
"""Share of the interval by which a refresh may be early, to go with others."""


@attrs.define
class CamSchedule:
    """Which remote MACs are refreshed, and when each is next due."""

    interval: float = DEFAULT_INTERVAL
    """Seconds between refreshes of one MAC."""

    sent: int = 0
    """Refresh frames given out."""

    _due: dict[bytes, float] = attrs.field(factory=dict, init=False)

    def set_members(self, macs: Iterable[bytes]) -> None:
        """Refresh exactly ``macs`` from now on; those that are new are due at once."""
        self._due = {mac: self._due.get(mac, -math.inf) for mac in macs}

    def refresh_all(self) -> None:
        """Make every MAC due at once: the switch may have forgotten, or may be another one."""
        self._due = dict.fromkeys(self._due, -math.inf)

    def take(self, now: float) -> list[bytes]:
        """Give the refresh frames that are due at ``now``, and those that soon will be: one wake-up for all players."""
        frames: list[bytes] = []
        if self.next_due() > now:
            return frames
        soon = now + self.interval * _EARLY
        for mac, due in self._due.items():
            if due <= soon:
                frames.append(layer2_update(mac))
                self._due[mac] = now + self.interval
        self.sent += len(frames)
        return frames

    def next_due(self) -> float:
        """Give the time of the next refresh; infinity when nobody is remote."""
        return min(self._due.values(), default=math.inf)
