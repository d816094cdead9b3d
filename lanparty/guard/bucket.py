"""Token bucket: what bounds a rate everywhere.

Owns: the arithmetic. Must not know: what is counted, the clock (``now`` is an argument).
"""

from __future__ import annotations

import attrs

__all__ = ["TokenBucket"]


@attrs.define
class TokenBucket:
    """Lets ``rate`` things a second pass, and ``burst`` of them at once."""

    rate: float
    burst: float
    _tokens: float = attrs.field(init=False)
    _updated: float | None = attrs.field(default=None, init=False)

    @_tokens.default
    def _default_tokens(self) -> float:
        return self.burst

    def fill(self, now: float) -> float:
        """Give how many may pass at ``now``, seconds. Time that runs backwards brings nothing."""
        passed = 0.0 if self._updated is None else max(0.0, now - self._updated)
        # The first time, too: ``burst`` may have become smaller since the bucket was made, full.
        self._tokens = min(self.burst, self._tokens + passed * self.rate)
        self._updated = now
        return self._tokens

    def spend(self, count: float) -> None:
        """Take ``count`` out, which ``fill`` has offered, or which pass all the same: then it owes them."""
        self._tokens -= count

    def take(self, now: float) -> bool:
        """Whether one more may pass at ``now``, seconds."""
        if self.fill(now) < 1:
            return False
        self.spend(1)
        return True
