"""Whether the house LAN has a loop: when the gateway's probe goes out, and what its return means. Pure.

A LAN with a loop sends each broadcast round for ever: it is of no use to the house, and what reaches the gateway would
drown the room as well. Reasons are a cable with both ends in the switch, a second cable of the gateway's bridge to the
same switch, two switches joined twice; or a player whose machine bridges its adapter into this LAN.

    RUNNING ──── the own probe came back ────→ PAUSED, deaf ⇄ listening
       ↑                                          │
       └──── QUIET probes in a row did not ───────┘

* RUNNING: a probe each INTERVAL; soon, when the LAN came up or a player came.
* "Came back" is COPIES copies of one probe from the LAN: a loop gives thousands, a repeater that reflects a frame (some
  Wi-Fi bridges do) gives one, and is no loop. From the room it is one copy, which the relay lets through only where its
  guard is off: then a player's machine bridges this LAN into the room, and the room back into the LAN.
* PAUSED: nothing is carried, either way. In a storm each frame that the gateway reads is work, so it is deaf, except
  for LISTEN after each probe of its own: the first one RECHECK after the pause began, then less and less often, because
  each such probe adds itself to the storm.

Another gateway's probe is told once and changes nothing: two rooms with gateways on one LAN are one LAN for the players
of both, and nothing goes round, because a relay has one gateway for a room and a gateway takes from a player only what
that player sent itself (members.py).

Owns: this state. Must not know: frames' bytes (``proto.probe``), the LAN link, the clock (``now`` is an argument).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from typing import Final

import attrs

from lanparty.proto.probe import encode_probe, parse_probe_untrusted
from lanparty.uplink.tick import next_tick

__all__ = [
    "COPIES",
    "INTERVAL",
    "LISTEN",
    "MAX_OTHERS",
    "QUIET",
    "RECHECK",
    "RECHECK_MOST",
    "SOON",
    "LoopWatch",
    "News",
]

INTERVAL: Final = 10.0
"""Seconds between probes, on the grid of ticks. A loop that somebody plugs in is found within that; the house's own
machines suffer from the first millisecond on, whatever we do."""

SOON: Final = 1.0
"""Seconds from a change to the probe after it, so between probes, too, whoever comes and goes all the time. A switch's
port needs about that to forward after its cable was plugged in."""

COPIES: Final = 3
"""Copies of one probe from the LAN that make a loop."""

RECHECK: Final = 10.0
"""Seconds from the beginning of a pause to its first probe."""

RECHECK_MOST: Final = 60.0
"""Seconds between probes in a long pause: so much later than the cable was pulled may frames flow again."""

LISTEN: Final = 1.0
"""Seconds in which a probe comes back if there is a loop, a tunnel over the internet in it included."""

QUIET: Final = 2
"""Probes in a row that must not come back before frames flow again: one may be lost in what is left of the storm."""

MAX_OTHERS: Final = 16
"""Other gateways that are told of."""


class News(Enum):
    """What somebody should be told."""

    LOOP = "loop"
    """The LAN sends our probe back: paused."""
    ROOM_LOOP = "room loop"
    """Our probe came back through the room: paused."""
    CLEARED = "cleared"
    """It does not come back any more: frames flow again."""
    OTHER = "other"
    """Another gateway is on this LAN."""


@attrs.define
class LoopWatch:
    """The state of one gateway."""

    gateway: bytes
    """The id of this run: random, `lanparty.proto.probe.ID_SIZE` bytes."""
    paused: bool = False
    """Nothing may be carried now."""
    listening: bool = True
    """Whether probes are of interest now; False only in a pause."""
    sent: int = 0
    """Probes given out."""
    came_back: int = 0
    """Copies of them that were heard again."""
    _due: float = attrs.field(default=-math.inf, init=False)
    _copies: int = attrs.field(default=0, init=False)
    _quiet: int = attrs.field(default=0, init=False)
    _wait: float = attrs.field(default=RECHECK, init=False)
    _others: set[bytes] = attrs.field(factory=set, init=False)

    def next_due(self) -> float:
        """Give the time at which `take` has something to do."""
        return self._due

    def soon(self, now: float) -> None:
        """Send a probe SOON: who is remote became another. A pause goes on as it would."""
        if not self.paused:
            self._due = min(self._due, now + SOON)

    def lan_up(self, now: float) -> None:
        """Send a probe SOON, in a pause as well: the LAN may be another one."""
        if not self.paused or not self.listening:
            self._due = min(self._due, now + SOON)

    def take(self, members: Iterable[bytes], now: float) -> tuple[bytes | None, News | None]:
        """Give the probe that is due at ``now``, if one is, naming ``members``; and what there is to tell."""
        news = None
        if now < self._due:
            return None, None
        if self.paused and self.listening:
            self._quiet += 1
            if self._quiet >= QUIET:
                self.paused = False
                news = News.CLEARED
        self.listening = True
        self._due = now + LISTEN if self.paused else next_tick(now, INTERVAL)
        self._copies = 0
        self.sent += 1
        return encode_probe(self.gateway, self.sent, members), news

    def heard_untrusted(self, frame: bytes, now: float, *, from_room: bool = False) -> News | None:
        """Take a frame with the probes' source address that came from the LAN, or from the room."""
        if not self.listening:
            return None
        probe = parse_probe_untrusted(frame)
        if probe is None:
            return None
        if probe.gateway != self.gateway:
            if probe.gateway in self._others or len(self._others) >= MAX_OTHERS:
                return None
            self._others.add(probe.gateway)
            return News.OTHER
        self.came_back += 1
        if probe.sequence == self.sent & 0xFFFFFFFF:
            self._copies += 1
        if not (from_room or self._copies >= COPIES or self.paused):
            return None
        return self._pause(now, News.ROOM_LOOP if from_room else News.LOOP)

    def _pause(self, now: float, reason: News) -> News | None:
        began = not self.paused
        self._wait = RECHECK if began else min(2 * self._wait, RECHECK_MOST)
        self._due = now + self._wait
        self._quiet = 0
        self.paused, self.listening = True, False
        return reason if began else None
