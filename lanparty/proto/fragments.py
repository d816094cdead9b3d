"""Cut a frame that is larger than a datagram in pieces, and put pieces together in bounded memory.

Owns: the layout of a piece, the rules of a lawful set of pieces, and the reassembly table with its three bounds.
Must not know: the overlay header in front of a piece, sockets, the clock (``now`` is an argument).

A piece is the payload of an overlay datagram of kind 1::

     0              2       3       4
    +--------------+-------+-------+--------------------------
    | frame id     | index | count | bytes of the frame, >= 1
    +--------------+-------+-------+--------------------------

``count`` is 2..255 and ``index`` below it. A frame of L bytes in n pieces is cut in one way only: the first L mod n
pieces have ceil(L / n) bytes, the others floor(L / n). So one piece tells the frame's length to within n bytes, an
absurd one is refused at once, and pieces of two different frames seldom fit together.

The table holds frames that miss pieces. Bounds: ``max_bytes`` of memory (pieces and what Python spends on them),
``max_frames``, ``max_age`` seconds from a frame's first piece. What is over a bound goes, oldest first, from the origin
that holds the most memory: one member that sends only halves of frames pushes out its own, not its neighbours'.

Frame ids are 16 bits and come round again. Two things keep an old piece out of a new frame:

- A frame that ended (complete, expired, evicted, refused) leaves its key behind; pieces that come later are refused. It
  is forgotten after twice ``max_age``, or when 1024 newer frames have ended, so long before its id can come round.
- A piece that is later still would have to be 65 536 cut frames late, that is at least 131 072 QUIC packets. aioquic
  sends 2-byte packet numbers: a packet that is more than 32 768 late is decoded with a wrong number and fails its AEAD
  (RFC 9000 appendix A.3).

Ids that start again (a member came back under the same peer id, with a new encoder) are the caller's to announce:
``forget``.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Final

import attrs

from .ethernet import MAX_FRAME_SIZE, MIN_FRAME_SIZE

__all__ = [
    "FRAME_COST",
    "MAX_PIECES",
    "PIECE_COST",
    "PIECE_PREFIX_SIZE",
    "Drop",
    "OverlaySizeError",
    "Reassembler",
    "cut",
]

PIECE_PREFIX_SIZE: Final = 4
"""Bytes of frame id, index and count in front of a piece's own bytes."""
MIN_PIECES: Final = 2
"""A frame that fits in one datagram travels whole (kind 0)."""
MAX_PIECES: Final = 255
"""The count is one byte."""

MAX_BYTES: Final = 256 * 1024
"""Memory for unfinished frames, bytes: 64 frames of 1514 bytes would take half of it."""
MAX_FRAMES: Final = 64
"""Unfinished frames. Without loss or reordering there is one; each lost piece leaves one more behind until it expires,
or until 64 newer ones did not finish either."""
MAX_AGE: Final = 0.2
"""Seconds from the first piece. The pieces of a frame leave in one batch, so what is later than this is lost; and to a
game it is worth nothing."""

FRAME_COST: Final = 256
"""Bytes of memory charged for an unfinished frame, besides its pieces: table entry, object, list."""
PIECE_COST: Final = 64
"""Bytes of memory charged for a piece, besides its length, so that a flood of one-byte pieces is bounded by what it
really costs: 33 of the bytes object, 8 of the slot in the list, and rounding."""

_CLOSED_LIMIT = 1024
_CLOSED_AGES = 2


class Drop:
    """Reasons for which pieces and unfinished frames are dropped, as they are counted and shown."""

    SHORT = "piece-short"
    """No room for the prefix and one byte."""
    COUNT = "piece-count"
    """A count under 2, or an index not below the count."""
    SIZE = "piece-size"
    """Count and size make a frame larger than the largest, or the whole is smaller than the smallest."""
    LATE = "piece-late"
    """The frame ended already."""
    DUPLICATE = "piece-duplicate"
    """The same bytes again; the frame stays."""
    OVERLAP = "piece-overlap"
    """Other bytes in the same place: the whole frame is refused."""
    INCONSISTENT = "piece-inconsistent"
    """Another count, or sizes that no one cut gives: the whole frame is refused."""
    EXPIRED = "frame-expired"
    """A frame that missed pieces for too long."""
    EVICTED = "frame-evicted"
    """A frame that missed pieces and had to go for newer ones."""
    FORGOTTEN = "frame-forgotten"
    """A frame that missed pieces when its origin left."""


class OverlaySizeError(ValueError):
    """A frame does not fit into what the budget allows. Raised by the sending side only, never for network input."""


def cut(frame: bytes, budget: int, frame_id: int, prefix: bytes = b"") -> list[bytes]:
    """Cut ``frame`` in as few near-equal pieces as fit; at least two, whatever the budget.

    Each result is ``prefix`` (the overlay header), the piece prefix and the piece, at most ``budget`` bytes together.
    Raises OverlaySizeError when that takes more than MAX_PIECES, for a frame over MAX_FRAME_SIZE or under two bytes.
    """
    size = len(frame)
    largest = budget - len(prefix) - PIECE_PREFIX_SIZE
    if not MIN_PIECES <= size <= MAX_FRAME_SIZE or largest < 1:
        raise OverlaySizeError(f"A frame of {size} bytes cannot be cut for datagrams of {budget} bytes.")
    count = max(-(-size // largest), MIN_PIECES)
    if count > MAX_PIECES:
        raise OverlaySizeError(
            f"A frame of {size} bytes for datagrams of {budget} bytes takes {count} pieces; {MAX_PIECES} is the most."
        )
    head = prefix + frame_id.to_bytes(2, "big")
    floor, larger = divmod(size, count)
    pieces = []
    start = 0
    for index in range(count):
        stop = start + floor + (index < larger)
        pieces.append(head + bytes((index, count)) + frame[start:stop])
        start = stop
    return pieces


@attrs.define
class _Partial:
    """A frame that misses pieces."""

    pieces: list[bytes]
    """By index; b"" where one is missing, which no piece is."""
    missing: int
    deadline: float
    cost: int = FRAME_COST


class Reassembler:
    """Puts pieces together; see the module's map for its bounds and rules.

    ``dropped`` counts pieces and frames by ``Drop`` reason. ``max_age`` is in seconds, of the same clock as every
    ``now``, which must not run backwards. Not for two senders who use the same origin: keys are (stamp, frame id),
    and a stamp is an origin with the flags of its overlay header in front: pieces with different flags are of two
    frames.
    """

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        max_frames: int = MAX_FRAMES,
        max_age: float = MAX_AGE,
        dropped: Counter[str] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_frames = max_frames
        self.max_age = max_age
        self.dropped: Counter[str] = Counter() if dropped is None else dropped
        self._bytes = 0
        # Keys are stamp << 16 | frame id: one int hashes faster than a tuple. Oldest first piece first.
        self._frames: dict[int, _Partial] = {}
        # Memory by origin, for those that hold any.
        self._held: dict[int, int] = {}
        # When the key of an ended frame is free again; the one that ended first is first.
        self._closed: dict[int, float] = {}
        self.deadline = inf
        """`expire` has nothing to do before. Not after the first deadline in the table; it may be early, when the frame
        it was for has ended."""

    @property
    def pending_frames(self) -> int:
        """Unfinished frames held now."""
        return len(self._frames)

    @property
    def pending_bytes(self) -> int:
        """Memory charged for them, bytes."""
        return self._bytes

    def add_untrusted(self, stamp: int, payload: bytes, now: float) -> bytes | None:
        """Take one piece; ``stamp`` is bytes 1 to 3 of its overlay header, ``payload`` what follows the header. Return
        the frame if this piece completed it.

        Anything wrong is dropped and counted. Never raises.
        """
        if now >= self.deadline:
            self.expire(now)
        size = len(payload) - PIECE_PREFIX_SIZE
        if size < 1:
            self.dropped[Drop.SHORT] += 1
            return None
        index = payload[2]
        count = payload[3]
        if count < MIN_PIECES or index >= count:
            self.dropped[Drop.COUNT] += 1
            return None
        # A piece is at most one byte longer than another, so the frame has more than this.
        if (size - 1) * count >= MAX_FRAME_SIZE:
            self.dropped[Drop.SIZE] += 1
            return None
        key = stamp << 16 | payload[0] << 8 | payload[1]
        partial = self._frames.get(key)
        if partial is None:
            partial = self._open(key, count, now)
            if partial is None:
                return None
        piece = payload[PIECE_PREFIX_SIZE:]
        pieces = partial.pieces
        if len(pieces) != count:
            self._close(key, now, Drop.INCONSISTENT)
            return None
        known = pieces[index]
        if known:
            if known == piece:
                self.dropped[Drop.DUPLICATE] += 1
            else:
                self._close(key, now, Drop.OVERLAP)
            return None
        pieces[index] = piece
        partial.missing -= 1
        if not partial.missing:
            return self._finish(key, pieces, now)
        cost = size + PIECE_COST
        partial.cost += cost
        self._held[_origin(key)] += cost
        self._bytes += cost
        if self._bytes > self.max_bytes or len(self._frames) > self.max_frames:
            self._evict(now)
        return None

    def expire(self, now: float) -> None:
        """Drop the frames whose first piece is ``max_age`` old or older."""
        frames = self._frames
        while frames:
            key, partial = next(iter(frames.items()))
            if partial.deadline > now:
                self.deadline = partial.deadline
                return
            self._close(key, now, Drop.EXPIRED)
        self.deadline = inf

    def forget(self, origin: int) -> None:
        """Drop all that is known of ``origin``: it left, and whoever has that id next begins its frame ids anew."""
        for key in [key for key in self._frames if _origin(key) == origin]:
            self._close(key, 0.0, Drop.FORGOTTEN)
        for key in [key for key in self._closed if _origin(key) == origin]:
            del self._closed[key]

    def _open(self, key: int, count: int, now: float) -> _Partial | None:
        if self._closed.get(key, now) > now:
            self.dropped[Drop.LATE] += 1
            return None
        deadline = now + self.max_age
        partial = self._frames[key] = _Partial([b""] * count, count, deadline)
        origin = _origin(key)
        self._held[origin] = self._held.get(origin, 0) + FRAME_COST
        self._bytes += FRAME_COST
        self.deadline = min(self.deadline, deadline)
        return partial

    def _close(self, key: int, now: float, reason: str | None) -> None:
        cost = self._frames.pop(key).cost
        origin = _origin(key)
        left = self._held[origin] - cost
        if left:
            self._held[origin] = left
        else:
            del self._held[origin]
        self._bytes -= cost
        if reason is not None:
            self.dropped[reason] += 1
        closed = self._closed
        closed.pop(key, None)  # so that it goes to the end
        closed[key] = now + _CLOSED_AGES * self.max_age
        if len(closed) > _CLOSED_LIMIT:
            del closed[next(iter(closed))]

    def _finish(self, key: int, pieces: list[bytes], now: float) -> bytes | None:
        frame = b"".join(pieces)
        count = len(pieces)
        floor, larger = divmod(len(frame), count)
        reason: str | None = None
        if not MIN_FRAME_SIZE <= len(frame) <= MAX_FRAME_SIZE:
            reason = Drop.SIZE
        elif list(map(len, pieces)) != [floor + 1] * larger + [floor] * (count - larger):
            reason = Drop.INCONSISTENT
        self._close(key, now, reason)
        return None if reason else frame

    def _evict(self, now: float) -> None:
        held = self._held
        while self._bytes > self.max_bytes or len(self._frames) > self.max_frames:
            most = max(held.values())
            oldest = next(key for key in self._frames if held[_origin(key)] == most)
            self._close(oldest, now, Drop.EVICTED)


def _origin(key: int) -> int:
    """Whose memory it is: without the flags, which a sender may choose."""
    return key >> 16 & 0xFFFF
