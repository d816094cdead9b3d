"""What the switch counts, by member, room and relay; when a person hears of blocked frames, of refusals.

Owns: the counters of a switch port and the pace of ``relay.frames-blocked`` and ``relay.refused`` events.
Must not know: who counts, the clock (``now`` is an argument), logging.

"In" is from the member to the relay, "out" from the relay to the member.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Final

import attrs

from lanparty.guard.rules import Rule

__all__ = ["BlockedReporter", "Pacer", "PortTally"]

REPORT_INTERVAL: Final = 10.0
"""Seconds between two events about the same member and rule: enough to act on, too few to fill a disk."""
PACER_KEYS: Final = 64
"""Things that a pacer tells apart within ``REPORT_INTERVAL``, and so how many events it lets out in that time, however
many addresses a stranger has: 6.4 a second."""


@attrs.define
class PortTally:
    """Counters of one switch port, or a sum of such. Drops are by reason; nothing here is ever reset."""

    frames_in: int = 0
    """Whole frames that came, those that were then blocked or dropped included."""
    bytes_in: int = 0
    frames_out: int = 0
    """Frames handed to the connection; a broadcast counts once for each receiver."""
    bytes_out: int = 0
    echoes: int = 0
    """Echoes answered or passed on."""
    blocked: dict[Rule, int] = attrs.field(factory=dict)
    """Frames that the guard stopped, by rule."""
    dropped: dict[str, int] = attrs.field(factory=dict)
    """Frames, echoes and datagrams that ended here for another reason, by reason (``switch.Drop``, overlay's own)."""

    def block(self, rule: Rule, count: int = 1) -> None:
        """Count ``count`` frames that ``rule`` stopped."""
        self.blocked[rule] = self.blocked.get(rule, 0) + count

    def drop(self, reason: str, count: int = 1) -> None:
        """Count ``count`` drops for ``reason``."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def add(self, other: PortTally) -> None:
        """Add ``other`` to this sum."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for rule, count in other.blocked.items():
            self.blocked[rule] = self.blocked.get(rule, 0) + count
        for reason, count in other.dropped.items():
            self.drop(reason, count)

    @property
    def total_dropped(self) -> int:
        """Everything that ended here, whatever the reason."""
        return sum(self.blocked.values()) + sum(self.dropped.values())

    def as_dict(self) -> dict[str, int]:
        """Every counter by name, as in ``stats`` and JSON events; ``blocked.RULE`` and ``dropped.REASON`` by reason."""
        flat: dict[str, int] = {name: getattr(self, name) for name in _NUMBERS}
        flat.update((f"blocked.{rule.label}", count) for rule, count in self.blocked.items())
        flat.update((f"dropped.{reason}", count) for reason, count in self.dropped.items())
        return flat

    @classmethod
    def sum(cls, parts: Iterable[PortTally]) -> PortTally:
        """Give the sum of ``parts``."""
        total = cls()
        for part in parts:
            total.add(part)
        return total


_NUMBERS: Final = ("frames_in", "bytes_in", "frames_out", "bytes_out", "echoes")


@attrs.define
class BlockedReporter:
    """Which blocked frames of one member are due to be told: the first at once, then by rule one event in 10 s."""

    _told: dict[Rule, tuple[float, int]] = attrs.field(factory=dict)
    """When the last event was, and how many frames had been blocked by then."""

    def due(self, blocked: dict[Rule, int], now: float) -> list[tuple[Rule, int]]:
        """Give the rules to report at ``now``, each with the frames since its last event. For a call each batch."""
        result = []
        for rule, count in blocked.items():
            when, told = self._told.get(rule, (-math.inf, 0))
            if count > told and now - when >= REPORT_INTERVAL:
                self._told[rule] = (now, count)
                result.append((rule, count - told))
        return result

    def rest(self, blocked: dict[Rule, int]) -> list[tuple[Rule, int]]:
        """Give what no event has told yet; for the end of a session."""
        return [(rule, count - told) for rule, count in blocked.items() if count > (told := self._told_of(rule))]

    def _told_of(self, rule: Rule) -> int:
        return self._told.get(rule, (0.0, 0))[1]


@attrs.define
class Pacer:
    """Which events that strangers cause are due to be told: by key the first at once, then one in 10 s.

    At most ``PACER_KEYS`` keys are remembered; while they are all in use, nothing is told of others.
    """

    _told: dict[Hashable, tuple[float, int]] = attrs.field(factory=dict)
    """When the last event was, and how many there were since that were not told; oldest first."""

    def due(self, key: Hashable, now: float) -> int:
        """Note one event of ``key`` at ``now``, seconds; give how many to report: those since the last report, or 0."""
        when, untold = self._told.get(key, (-math.inf, 0))
        if now - when < REPORT_INTERVAL:
            self._told[key] = (when, untold + 1)
            return 0
        self._told.pop(key, None)
        if len(self._told) >= PACER_KEYS:
            oldest = next(iter(self._told))
            if now - self._told[oldest][0] < REPORT_INTERVAL:
                return 0
            del self._told[oldest]
        self._told[key] = (now, 0)
        return untold + 1
