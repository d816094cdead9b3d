"""Overlay datagrams: what one QUIC DATAGRAM carries, encoded and decoded in batches.

Owns: the four-byte header, the three kinds, and which frame travels whole and which in pieces.
Must not know: sockets, QUIC, rooms, what is inside a frame, the clock (``now`` is an argument).

Big-endian::

     0         1         2                   4
    +----+----+---------+-------------------+------------------------------------------------------
    |ver |kind| flags   | origin peer id    | payload
    +----+----+---------+-------------------+------------------------------------------------------
     4    4    8         16
    kind 0 FRAME   one Ethernet frame, destination MAC first, no FCS
    kind 1 PIECE   u16 frame id, u8 index, u8 count, then bytes: see ``fragments``
    kind 2 ECHO    u16 target peer id (0: the relay), u32 sequence, u64 time sent in us; flags bit 0: this is the reply

    kinds 0 and 1  flags bit 0 CHECKSUM_PARTIAL: the frame's TCP or UDP checksum field holds only the pseudo header's
                   sum; who takes the frame out of the tunnel finishes it, or has its kernel do so

Members send origin 0; the relay stamps the sender's peer id, and keeps the flags. All other flags are 0. Unknown
versions, kinds and flags are dropped and counted, never guessed at.

Bytes 1 to 3 as one number are a frame's *stamp*: ``flags << 16 | origin``. It goes through encoder and decoder as it
is, so that who switches frames parses nothing: ``origin = stamp & 0xFFFF``.

Path of a frame, both ways:

1. ``OverlayEncoder.encode_batch``: frames of at most ``budget - 4`` bytes get a header in front, one copy each.
2. Larger ones are cut (``fragments.cut``); those that cannot be are counted.
3. ``OverlayDecoder.decode_untrusted``: the header of a whole frame is looked up as four bytes in a dict of headers seen
   before, so the common case parses no integers: one look-up, one slice.
4. Everything else (first of its header, piece, echo, garbage) goes through ``_decode_other``.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import attrs

from .ethernet import MAX_FRAME_SIZE, MIN_FRAME_SIZE
from .fragments import PIECE_PREFIX_SIZE, OverlaySizeError, Reassembler, cut
from .superframe import SuperFrame
from .superframe import cut as cut_superframe

__all__ = [
    "CHECKSUM_PARTIAL",
    "ECHO_SIZE",
    "HEADER_SIZE",
    "MAX_FRAME",
    "PARTIAL_STAMP",
    "PIECE_HEADER_SIZE",
    "VERSION",
    "Echo",
    "Kind",
    "OverlayCounters",
    "OverlayDecoder",
    "OverlayEncoder",
    "OverlaySizeError",
    "encode_echo",
]

VERSION: Final = 1
"""The high half of byte 0. Another number means another layout: nothing of it can be used."""
HEADER_SIZE: Final = 4
"""Bytes in front of every payload."""
PIECE_HEADER_SIZE: Final = HEADER_SIZE + PIECE_PREFIX_SIZE
"""Bytes in front of a piece's own bytes."""
MAX_FRAME: Final = MAX_FRAME_SIZE
"""Largest Ethernet frame that the overlay carries, bytes."""

CHECKSUM_PARTIAL: Final = 0x01
"""Flag of frames and pieces: the receiver finishes the TCP or UDP checksum. Saves a sum over all bytes at each end,
which in Python costs three times as much as sealing them."""
PARTIAL_STAMP: Final = CHECKSUM_PARTIAL << 16
"""The same flag in a stamp."""

_FLAG_REPLY = 0x01
_ECHO = struct.Struct("!BBHHIQ")
ECHO_SIZE: Final = _ECHO.size
"""Bytes of an echo datagram, header included. Exactly this: a longer one is from a version that we do not know."""

_SMALLEST = HEADER_SIZE + MIN_FRAME_SIZE
_LARGEST = HEADER_SIZE + MAX_FRAME_SIZE
# Headers remembered by a decoder. Far more than a room has members; a peer that makes up origins costs itself the short
# path, and us this many dict entries.
_KNOWN_LIMIT = 512


class Kind(IntEnum):
    """The low half of byte 0."""

    FRAME = 0
    PIECE = 1
    ECHO = 2


_FIRST_FRAME: Final = VERSION << 4 | Kind.FRAME
_FIRST_PIECE: Final = VERSION << 4 | Kind.PIECE
_FIRST_ECHO: Final = VERSION << 4 | Kind.ECHO
_PREFIX_FRAME = bytes((_FIRST_FRAME,))
_PREFIX_PIECE = bytes((_FIRST_PIECE,))


@attrs.define
class OverlayCounters:
    """What a decoder received; ``as_dict`` is for statistics."""

    frames: int = 0
    """Datagrams that held a whole frame."""
    pieces: int = 0
    """Datagrams that held a piece, lawful or not."""
    reassembled: int = 0
    """Frames put together from pieces."""
    echoes: int = 0
    """Echo requests and replies."""
    dropped: Counter[str] = attrs.field(factory=Counter)
    """Datagrams, pieces and unfinished frames dropped, by reason: ``short``, ``version``, ``kind``, ``flags``,
    ``frame-short``, ``frame-oversize``, ``echo-size``, and those of ``fragments.Drop``."""

    def as_dict(self) -> dict[str, int]:
        """Give all of it flat; drops are ``dropped-REASON``."""
        flat = {
            "frames": self.frames,
            "pieces": self.pieces,
            "reassembled": self.reassembled,
            "echoes": self.echoes,
        }
        flat.update((f"dropped-{reason}", count) for reason, count in self.dropped.items())
        return flat


@attrs.frozen
class Echo:
    """An echo request or reply, for round-trip time and loss between two members, or a member and the relay."""

    origin: int
    """Peer id of the sender of this datagram; 0 before the relay stamped it."""
    reply: bool
    target: int
    """Peer id of the one it is for; 0: the relay."""
    sequence: int
    """u32, chosen by the one who asked, given back unchanged."""
    sent_us: int
    """u64, microseconds of the asker's own clock, given back unchanged; no one else can read anything from it."""


def encode_echo(echo: Echo) -> bytes:
    """Make the datagram, ECHO_SIZE bytes. Raises struct.error when a number does not fit its field."""
    return _ECHO.pack(
        _FIRST_ECHO,
        _FLAG_REPLY if echo.reply else 0,
        echo.origin,
        echo.target,
        echo.sequence,
        echo.sent_us,
    )


class OverlayEncoder:
    """Makes overlay datagrams for one receiver, or for several receivers of the same budget and the same bytes.

    Two encoders must not feed one decoder with pieces of the same origin: their frame ids would meet.

    ``oversize`` counts the frames that ``encode_batch`` could not send.
    """

    __slots__ = ("_budget", "_header", "_next_id", "_stamp", "_whole", "fragments", "oversize")

    def __init__(self, budget: int, *, fragments: bool = True, first_frame_id: int = 0) -> None:
        self.budget = budget
        self.fragments = fragments
        self.oversize = 0
        self._next_id = first_frame_id & 0xFFFF
        # Frames come in batches of one stamp: the header is made when the stamp changes.
        self._stamp = 0
        self._header = _PREFIX_FRAME + b"\x00\x00\x00"

    @property
    def budget(self) -> int:
        """Largest overlay datagram, bytes; it follows the path, so it may be set at any time."""
        return self._budget

    @budget.setter
    def budget(self, budget: int) -> None:
        self._budget = budget
        self._whole = min(budget - HEADER_SIZE, MAX_FRAME)

    def encode(self, frame: bytes, stamp: int = 0) -> list[bytes]:
        """Make one datagram of ``frame`` (14 bytes or more), or its pieces; none is larger than the budget.

        ``stamp``: flags << 16 | origin. Raises OverlaySizeError when it does not fit and pieces are off, too many, or
        the frame is over MAX_FRAME.
        """
        if stamp != self._stamp:
            self._change_stamp(stamp)
        if len(frame) <= self._whole:
            return [self._header + frame]
        return self._encode_pieces(frame)

    def encode_batch(self, frames: Sequence[bytes], stamp: int = 0) -> list[bytes]:
        """As encode, for a batch in its order; frames that cannot be sent are left out and counted in ``oversize``."""
        if stamp != self._stamp:
            self._change_stamp(stamp)
        header = self._header
        whole = self._whole
        if len(frames) == 1 and len(frames[0]) <= whole:  # A game's packet: a comprehension costs as much as two.
            return [header + frames[0]]
        datagrams = [header + frame for frame in frames if len(frame) <= whole]
        if len(datagrams) == len(frames):
            return datagrams
        datagrams = []
        for frame in frames:
            if len(frame) <= whole:
                datagrams.append(header + frame)
                continue
            try:
                datagrams += self._encode_pieces(frame)
            except OverlaySizeError:
                self.oversize += 1
        return datagrams

    def encode_super(self, superframe: SuperFrame, origin: int = 0) -> list[bytes]:
        """Make the datagrams of all segments of ``superframe``, checksums partial, pieces where one does not fit.

        Those that cannot be sent are left out and counted in ``oversize``.
        """
        stamp = PARTIAL_STAMP | origin
        if stamp != self._stamp:
            self._change_stamp(stamp)
        header = self._header
        datagrams = cut_superframe(superframe, header, self._whole)
        if len(datagrams[0]) <= self._budget:  # no other is longer
            return datagrams
        return self.encode_batch([datagram[HEADER_SIZE:] for datagram in datagrams], stamp)

    def _change_stamp(self, stamp: int) -> None:
        self._header = _PREFIX_FRAME + stamp.to_bytes(3, "big")
        self._stamp = stamp

    def _encode_pieces(self, frame: bytes) -> list[bytes]:
        if not self.fragments:
            raise OverlaySizeError(
                f"A frame of {len(frame)} bytes does not fit a datagram of {self._budget} bytes, and pieces are off."
            )
        frame_id = self._next_id
        pieces = cut(frame, self._budget, frame_id, _PREFIX_PIECE + self._header[1:])
        self._next_id = (frame_id + 1) & 0xFFFF
        return pieces


class OverlayDecoder:
    """Reads overlay datagrams of one connection. Drops of its reassembler are counted in ``counters`` from here on."""

    __slots__ = ("_known", "counters", "reassembler")

    def __init__(self, reassembler: Reassembler, counters: OverlayCounters) -> None:
        counters.dropped.update(reassembler.dropped)
        reassembler.dropped = counters.dropped
        self.reassembler = reassembler
        self.counters = counters
        self._known: dict[bytes, int] = {}

    def decode_untrusted(self, datagrams: Sequence[bytes], now: float) -> tuple[list[tuple[int, bytes]], list[Echo]]:
        """Read a batch: (stamp, whole frame) in the order in which they were completed, and the echoes.

        Frames have 14 to MAX_FRAME bytes. What is wrong is dropped and counted by reason. Never raises. The stamp is
        what the datagram says: a relay must put its own knowledge of the origin in its place. CHECKSUM_PARTIAL may be
        set on anything, also on what has no checksum.
        """
        frames: list[tuple[int, bytes]] = []
        echoes: list[Echo] = []
        append = frames.append
        find = self._known.get
        whole = 0
        for datagram in datagrams:
            stamp = find(datagram[:HEADER_SIZE])
            if stamp is not None and _SMALLEST <= len(datagram) <= _LARGEST:
                append((stamp, datagram[HEADER_SIZE:]))
                whole += 1
            else:
                self._decode_other(datagram, now, frames, echoes)
        self.counters.frames += whole
        if now >= self.reassembler.deadline:
            self.reassembler.expire(now)
        return frames, echoes

    def _decode_other(self, datagram: bytes, now: float, frames: list[tuple[int, bytes]], echoes: list[Echo]) -> None:
        counters = self.counters
        if len(datagram) < HEADER_SIZE:
            counters.dropped["short"] += 1
            return
        first = datagram[0]
        flags = datagram[1]
        origin = datagram[2] << 8 | datagram[3]
        stamp = flags << 16 | origin
        if first == _FIRST_PIECE and not flags & ~CHECKSUM_PARTIAL:
            counters.pieces += 1
            frame = self.reassembler.add_untrusted(stamp, datagram[HEADER_SIZE:], now)
            if frame is not None:
                counters.reassembled += 1
                frames.append((stamp, frame))
        elif first == _FIRST_FRAME and not flags & ~CHECKSUM_PARTIAL:
            if len(datagram) < _SMALLEST:
                counters.dropped["frame-short"] += 1
            elif len(datagram) > _LARGEST:
                counters.dropped["frame-oversize"] += 1
            else:
                if len(self._known) >= _KNOWN_LIMIT:
                    self._known.clear()
                self._known[datagram[:HEADER_SIZE]] = stamp
                counters.frames += 1
                frames.append((stamp, datagram[HEADER_SIZE:]))
        elif first == _FIRST_ECHO and not flags & ~_FLAG_REPLY:
            if len(datagram) != ECHO_SIZE:
                counters.dropped["echo-size"] += 1
                return
            _, _, _, target, sequence, sent_us = _ECHO.unpack(datagram)
            counters.echoes += 1
            echoes.append(Echo(origin, bool(flags & _FLAG_REPLY), target, sequence, sent_us))
        else:
            counters.dropped[_reason(first)] += 1


def _reason(first: int) -> str:
    """Why a header was not understood: version, then kind, then flags."""
    if first >> 4 != VERSION:
        return "version"
    return "flags" if first & 0x0F <= Kind.ECHO else "kind"
