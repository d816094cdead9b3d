"""Packets that were read and wait for the processor, in one line for each sender: who sends most waits, not the others.

Only in overload. As long as all that has come is processed in one go, nothing waits here. When a socket holds more than
a portion, some of it is read ahead (reading is a fifth of the work, and less where the kernel joins packets), and the
lines take turns: a sender that floods fills its own line, and then loses its own packets, while what another sends now
and then is in the next portion. The kernel's buffer, which is one line for everybody, stays short.

    line      one for each connection whose handshake is complete; one for everything else together: strangers, and
              packets with forged addresses, however many those are
    turn      a portion, divided equally; what a line does not need of its part is the others'
    portion   `PORTION` packets, however dear they are: with fewer, each receiver's packets would carry less of a room's
              broadcasts, and all become dearer still
    bound     LINE_PACKETS in a line, ALL_PACKETS in all; the newest of the longest are dropped, counted

Owns: the lines. Must not know: sockets, QUIC, the clock (``now`` is an argument).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Final

import attrs

from lanparty.quic.connection import Received, UdpPath
from lanparty.quic.settings import BATCH

__all__ = ["ALL_PACKETS", "LINE_PACKETS", "PORTION", "Ingress"]

LINE_PACKETS: Final = 2048
"""Packets that wait of one sender: as many as the kernel's own buffer has, 3 MiB at most. A burst of one member that is
alone is treated as before."""

ALL_PACKETS: Final = 8192
"""Packets that wait of all: 12 MiB. A line has at least a portion, so with more than 128 lines it can be more than
that: 64 each, of at most 4096 connections."""

PORTION: Final = BATCH + BATCH // 2
"""Packets: what a read gives on average where the kernel joins packets."""


@attrs.define
class _Line:
    """What waits of one sender: runs of one path, with the time at which they came."""

    runs: deque[tuple[float, UdpPath, Sequence[bytes]]] = attrs.field(factory=deque)
    count: int = 0

    def take(self, most: int, now: float, out: list[Received]) -> int:
        """Move at most ``most`` packets to ``out``; give how many."""
        taken = 0
        while self.runs and taken < most:
            came, path, packets = self.runs[0]
            room = most - taken
            if len(packets) <= room:
                self.runs.popleft()
            else:
                self.runs[0] = came, path, packets[room:]
                packets = packets[:room]
            if taken and out[-1].path == path:
                out[-1].packets.extend(packets)
            else:
                out.append(Received(path, list(packets), max(0.0, now - came)))
            taken += len(packets)
        self.count -= taken
        return taken


@attrs.define
class Ingress:
    """The lines of one socket."""

    sender: Callable[[bytes], Hashable]
    """Says whose a packet is; None for strangers."""
    dropped: Callable[[int], None]
    """Counts packets that found their line full."""
    count: int = 0
    """Packets that wait."""
    _lines: dict[Hashable, _Line] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return self.count > 0

    def add(self, batch: Sequence[Received], now: float) -> None:
        """Put what was read into its lines."""
        lines = self._lines
        for path, packets, waited in batch:
            # A run that the kernel joined, or one path's packets: of one sender, but for strangers who try to be two,
            # and whoever does that shares the line of his first packet.
            sender = self.sender(packets[0])
            line = lines.get(sender)
            if line is None:
                line = lines[sender] = _Line()
            room = min(LINE_PACKETS, max(BATCH, ALL_PACKETS // len(lines))) - line.count
            if room < len(packets):
                self.dropped(len(packets) - max(room, 0))
                if room <= 0:
                    continue
                packets = packets[:room]
            line.runs.append((now - waited, path, packets))
            line.count += len(packets)
            self.count += len(packets)

    def take(self, now: float) -> list[Received]:
        """Give the next portion."""
        out: list[Received] = []
        room = PORTION
        lines = self._lines
        while lines and room > 0:
            part = max(1, room // len(lines))
            for sender in list(lines)[:room]:
                line = lines.pop(sender)  # and to the end of the row, if something is left
                taken = line.take(min(part, room), now, out)
                room -= taken
                self.count -= taken
                if line.count:
                    lines[sender] = line
        return out
