"""Round-trip time and loss between this member and the relay, from overlay echoes.

Owns: which echo requests are under way, and what was measured.
Pure: the time is an argument. Must not know: connections, how an echo is written (`lanparty.proto.overlay`).

An acknowledged QUIC packet only says that the other engine took it; an echo went through the same queues and the same
switch as a frame does.
"""

from __future__ import annotations

import attrs

__all__ = ["LOST_AFTER", "EchoMeter"]

LOST_AFTER = 3.0
"""Seconds after which an unanswered echo counts as lost. Longer than any queue on the way may hold it."""

_MAX_PENDING = 16
"""Requests remembered: one each 0.5 s for LOST_AFTER, when answers are missing, with room for a burst after a pause."""

_SMOOTHING = 0.125
"""Weight of a new sample, as in RFC 6298 section 2."""


@attrs.define
class EchoMeter:
    """Measures one session's echoes to one target."""

    sent: int = 0
    received: int = 0
    lost: int = 0
    rtt: float | None = None
    """Seconds, smoothed."""

    last_rtt: float | None = None
    """Seconds, the newest sample."""

    _pending: dict[int, float] = attrs.field(factory=dict, init=False)
    _sequence: int = attrs.field(default=0, init=False)

    def request(self, now: float) -> int:
        """Note a new request at ``now``; give its sequence number (u32)."""
        self.expire(now)
        if len(self._pending) >= _MAX_PENDING:
            self._pending.pop(next(iter(self._pending)))
            self.lost += 1
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._pending[self._sequence] = now
        self.sent += 1
        return self._sequence

    def reply_untrusted(self, sequence: int, now: float) -> bool:
        """Take a reply; False when nobody asked for it (late, twice, or made up)."""
        # Our own note of the time is used, not the one in the reply: the far side could write anything there.
        asked = self._pending.pop(sequence, None)
        if asked is None:
            return False
        sample = max(0.0, now - asked)
        self.received += 1
        self.last_rtt = sample
        self.rtt = sample if self.rtt is None else self.rtt + _SMOOTHING * (sample - self.rtt)
        return True

    def expire(self, now: float) -> None:
        """Count requests as lost that were not answered in time."""
        late = [sequence for sequence, asked in self._pending.items() if now - asked > LOST_AFTER]
        for sequence in late:
            del self._pending[sequence]
        self.lost += len(late)

    def as_dict(self) -> dict[str, int]:
        """Give the counters that travel in ``stats``; times in microseconds."""
        counters = {"echo_sent": self.sent, "echo_received": self.received, "echo_lost": self.lost}
        if self.rtt is not None:
            counters["echo_rtt_us"] = round(self.rtt * 1e6)
        return counters
