"""Path MTU discovery by probes, for one connection (DPLPMTUD: RFC 8899, RFC 9000 section 14.3).

A probe is a packet of the size in question that carries nothing of value. If it is acknowledged, packets may have that
size. If three in a row are lost, they may not. No ICMP message is needed or believed.

=========  ==========================================================================================================
state      what happens
=========  ==========================================================================================================
DISABLED   nothing: the socket or the peer allows no more than the base size
BASE       packets have the base size; a probe of that size, or any such packet, must be acknowledged
SEARCHING  larger sizes are tried, one at a time
COMPLETE   nothing, until the raise timer has everything tried again
ERROR      not even the base size arrives; that is tried again every second
=========  ==========================================================================================================

Search: the ceiling, which nearly always is right; if it fails the next likely size below, as behind PPPoE; then the
middle of the likely sizes between what passes and what fails, then the middle of what is left.

Black holes, where the path no longer carries what it carried: large packets are lost while smaller ones arrive. But
one packet of fifty is lost on a bad radio link, too, and forty of forty in an interruption. So a loss is only a doubt:

1. Packets above the base size were lost, and none as large arrived; or a probe time-out expired. A doubt begins.
2. At once, and again when its fate is known, a probe of the present size is sent, and after it one of the base size,
   whose acknowledgement tells of the first one's loss in 9/8 of a round-trip time, where silence takes a time-out.
3. A packet or probe of the size in doubt that arrives ends the doubt.
4. Each probe lost, and up to three packets lost at a time, is evidence. Six pieces of it, from more than 0.1 s, are
   proof: packets have the base size from now on, and the search goes below the size that failed.

So even where traffic alone never ends a doubt, 2 % random loss leads to a wrong verdict after one loss in 10^8; and a
black hole is left after about one time-out and two to six round trips. Three time-outs without any answer lead to the
base size too, but the size that was is tried first when answers come again: that was not its fault.

Owns: which size packets may have. Must not know: packets, clocks, sockets. Sizes are bytes of UDP payload, times are
seconds.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import Final

__all__ = ["TABLE", "Event", "PathMtu", "State", "next_size"]

MAX_PROBES: Final = 3
"""Probes of one size that may be lost before the size counts as too large (RFC 8899 section 5.1.2)."""

_SPACING: Final = 0.1
"""Seconds from one probe's loss to the next probe of that size: congestion that drops one is over, or does not drop all
three."""

_DOUBT_SPACING: Final = 0.02
"""The same while the present size is in doubt: every one of them is a moment in which a player's frames may be lost."""

PROOF: Final = 6
"""Pieces of evidence against the present size. Random loss of 2 % has one packet and five probes lost in a row with a
probability of 6e-11; 5 %: 2e-8."""

_EVENT_EVIDENCE: Final = 3
"""Pieces of evidence that the losses of one moment may count for: however many there are, they can have one cause."""

_DOUBT_TIME: Final = 0.1
"""Seconds that a doubt must last: a buffer that is full has no room for large packets, but for small ones."""

DEAD_TIMEOUTS: Final = 3
"""Probe time-outs in a row without an answer after which nothing is known about the path any more. They last as long as
seven, for each waits twice as long as the one before; the second one's packet tells of interruptions of up to three,
which so cost no new search: about 0.2 s at 30 ms of round-trip time."""

RAISE_TIMER: Final = 600.0
"""Seconds until larger sizes are tried again (PMTU_RAISE_TIMER, RFC 8899 section 5.1.1)."""

_ERROR_TIMER: Final = 1.0
"""Seconds until the base size is tried again. Until then nothing large arrives; heartbeats may, so it can take long."""

STEP: Final = 16
"""Bytes: the search ends when it knows the limit so well. 1 % of a packet is not worth more probes."""

LIKELY: Final = (1232, 1252, 1352, 1372, 1392, 1412, 1432, 1444, 1452, 1464, 1472)
"""UDP payloads on links of 1280 (least of IPv6), 1400 (mobile networks, IPsec), 1420 (WireGuard), 1440, 1460 (IPv4 in
IPv6), 1480 (IPv6 in IPv4), 1492 (PPPoE) and 1500 bytes, each less 48 for IPv6 and 28 for IPv4."""


class State(Enum):
    """See the module."""

    DISABLED = auto()
    BASE = auto()
    SEARCHING = auto()
    COMPLETE = auto()
    ERROR = auto()


class Event(Enum):
    """What moves the machine."""

    PATH = auto()
    """Another path, or another ceiling."""
    CLOSED = auto()
    """The same, but nothing above the base size is allowed there."""
    BASE_PASSED = auto()
    BASE_FAILED = auto()
    FOUND = auto()
    """The search knows the limit."""
    TIMER = auto()
    """The raise timer, or the one of ERROR."""
    BLACK_HOLE = auto()
    DEAD = auto()
    """Several probe time-outs without an answer."""


def _row(**moves: State) -> dict[Event, State]:
    everywhere = {Event.PATH: State.BASE, Event.CLOSED: State.DISABLED}
    return everywhere | {Event[name]: state for name, state in moves.items()}


TABLE: Final[dict[State, dict[Event, State]]] = {
    State.DISABLED: _row(),
    State.BASE: _row(BASE_PASSED=State.SEARCHING, BASE_FAILED=State.ERROR),
    State.SEARCHING: _row(FOUND=State.COMPLETE, BLACK_HOLE=State.BASE, DEAD=State.BASE),
    State.COMPLETE: _row(TIMER=State.SEARCHING, BLACK_HOLE=State.BASE, DEAD=State.BASE),
    State.ERROR: _row(BASE_PASSED=State.SEARCHING, TIMER=State.BASE),
}
"""New state by state and event; what is not there changes nothing."""


class PathMtu:
    """The state of discovery on the path that a connection uses now.

    What the caller reports as acknowledged or lost is either a probe (``on_probe_acked``, ``on_probe_lost``) or an
    ordinary packet (the others). Of what becomes known at one moment, ordinary packets come first.
    """

    def __init__(self, *, base: int = 1200, ceiling: int) -> None:
        self.base = base
        """What every path carries."""
        self.ceiling = ceiling
        """The largest size to try."""
        self.size = base
        """What packets may have now."""
        self.state = State.DISABLED
        # The search.
        self._failed = math.inf
        """The smallest size known not to arrive."""
        self._failures = 0
        """Sizes that failed in this search."""
        self._hint = 0
        """A size that arrived before all answers stayed away: tried first."""
        self._raise_at = math.inf
        # The probe.
        self._due = math.inf
        self._out: int | None = None
        """Size of the probe whose fate is unknown and matters."""
        self._companion = False
        """A probe of the base size has to follow."""
        self._noisy = False
        """Other packets were lost while it was out."""
        self._probes_lost = 0
        """Twice the number of probes of one size lost, but once those lost among other packets."""
        # The doubt.
        self._doubting = False
        self._doubt_began = math.inf
        self._doubted = 0
        """Size of the largest packet lost."""
        self._evidence = 0
        self._timeouts = 0
        """Probe time-outs since the last answer."""
        self._acked_at = -math.inf
        self._acked_size = 0
        self.on_path_change(ceiling, -math.inf)

    # -- probes --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when ``probe`` has something to send; infinity when only packets can change that."""
        return self._due

    def probe(self, now: float) -> int | None:
        """Return the size of a probe to send now, None when none is due. The caller does send it."""
        if now < self._due:
            return None
        if self._companion:
            self._companion = False
            self._arm(now)
            return self.base
        if not self._doubting:
            self._move(Event.TIMER, now)
        size = self._wanted()
        if size is None:
            self._move(Event.FOUND, now)
            return None
        self._out = size
        self._noisy = False
        self._companion = size > self.base
        self._due = now if self._companion else math.inf
        return size

    def on_probe_acked(self, size: int, now: float) -> None:
        """Note that a probe of ``size`` arrived."""
        self._timeouts = 0
        if size != self._out:
            return  # one that was sent along with another, or before something made its answer worthless
        self._out = None
        self._probes_lost = 0
        self.size = max(size, self.size)
        if self._doubting and size >= self._doubted:
            self._end_doubt()
        self._move(Event.BASE_PASSED, now)
        self._arm(now)

    def on_probe_lost(self, size: int, now: float) -> None:
        """Note that a probe of ``size`` was lost."""
        if size != self._out:
            return
        self._out = None
        if self._doubting:
            if size == self.size:
                self._weigh(1, now)
            self._arm(now + _DOUBT_SPACING)
            return
        # A probe that is lost among others says half as much.
        self._probes_lost += 1 if self._noisy else 2
        if self._probes_lost >= 2 * MAX_PROBES:
            self._probes_lost = 0
            if size > self.size:
                self._failed = size
                self._failures += 1
                self._hint = 0
            else:
                self._move(Event.BASE_FAILED, now)
        self._arm(now + _SPACING)

    # -- other packets -------------------------------------------------------------------------------------------------

    def on_acked(self, largest_size: int, now: float) -> None:
        """Note that packets arrived that are no probes, the largest of ``largest_size``; once per ACK."""
        self._timeouts = 0
        self._acked_at = now
        self._acked_size = largest_size
        if self._doubting and largest_size >= self._doubted:
            self._end_doubt()
            self._arm(now)
        elif largest_size >= self.base and self.state in (State.BASE, State.ERROR):
            self._out = None
            if largest_size >= self._failed:
                self._failed = math.inf  # sent before the verdict, and proves it wrong
                self._failures = 0
            self._move(Event.BASE_PASSED, now)

    def on_lost(self, count: int, largest_size: int, now: float) -> None:
        """Note that ``count`` packets were lost that are no probes, the largest of ``largest_size``."""
        self._noisy = True
        if not self.base < largest_size <= self.size:
            return  # nothing about size; or sent before the size shrank
        if now == self._acked_at and self._acked_size >= largest_size:
            return  # as large ones arrived
        self._begin_doubt(now)
        self._doubted = max(self._doubted, largest_size)
        self._weigh(min(count, _EVENT_EVIDENCE), now)

    def on_pto(self, now: float) -> None:
        """Note that a probe time-out (RFC 9002 section 6.2) expired."""
        self._timeouts += 1
        if self._timeouts >= DEAD_TIMEOUTS:
            self._move(Event.DEAD, now)
        elif self.size > self.base and self._out is None:
            self._begin_doubt(now)
            self._doubted = self.size

    def on_path_change(self, ceiling: int, now: float) -> None:
        """Begin anew: the path is another one, or its ceiling."""
        self.ceiling = max(ceiling, self.base)
        self.size = self.base
        self._failed = math.inf
        self._failures = self._hint = 0
        self._forget_probes()
        self._move(Event.PATH if self.ceiling > self.base else Event.CLOSED, now)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _move(self, event: Event, now: float) -> None:
        """Take a step by the table, and do what belongs to it."""
        state = TABLE[self.state].get(event)
        if state is None:
            return
        self.state = state
        if event in (Event.BLACK_HOLE, Event.DEAD):
            if event is Event.BLACK_HOLE:
                self._failed = self.size
                self._failures, self._hint = 1, 0
            else:
                self._hint = max(self._hint, self.size)
            self.size = self.base
            self._forget_probes()
        elif event is Event.FOUND:
            self._raise_at = now + RAISE_TIMER if self.size < self.ceiling else math.inf
        elif event is Event.BASE_FAILED:
            self._raise_at = now + _ERROR_TIMER
        elif event is Event.TIMER:
            self._failed = math.inf
            self._failures = self._hint = 0
        self._arm(now)

    def _arm(self, at: float) -> None:
        """Have the next probe sent at ``at``, if there is one to send and none is out."""
        if self._companion:
            self._due = at
        elif self._out is not None or self.state is State.DISABLED:
            self._due = math.inf
        elif self._doubting or self.state in (State.BASE, State.SEARCHING):
            self._due = at
        else:
            self._due = self._raise_at

    def _wanted(self) -> int | None:
        """Return the size that is to be probed; None when the search is over."""
        if self._doubting or self.state is State.BASE:
            return self.size
        if self._hint > self.size:
            return self._hint
        return next_size(self.size, self._failed, self.ceiling, self._failures)

    def _forget_probes(self) -> None:
        self._out = None
        self._companion = self._noisy = False
        self._probes_lost = self._timeouts = 0
        self._end_doubt()

    def _begin_doubt(self, now: float) -> None:
        if not self._doubting:
            self._doubting = True
            self._doubt_began = now
            self._arm(now)

    def _end_doubt(self) -> None:
        """Believe in the present size again."""
        if self._doubting and self._out == self.size:
            self._out = None
        self._doubting = False
        self._doubted = self._evidence = 0

    def _weigh(self, evidence: int, now: float) -> None:
        self._evidence += evidence
        if self._evidence >= PROOF and now - self._doubt_began >= _DOUBT_TIME:
            self._move(Event.BLACK_HOLE, now)


def next_size(passes: int, fails: float, ceiling: int, failures: int) -> int | None:
    """Return the size to try where ``passes`` arrives and ``fails`` (infinity: nothing known) does not.

    ``failures`` is how many sizes failed in this search. None when the limit is known to ``STEP`` bytes.
    """
    if fails > ceiling:
        return ceiling if passes < ceiling else None
    likely = [size for size in LIKELY if passes < size < fails]
    if likely:
        return likely[-1 if failures <= 1 else len(likely) // 2]
    middle = (passes + int(fails)) // 2
    return middle if fails - passes > STEP else None
