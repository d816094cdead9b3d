"""Join the segments of a TCP flow, or equal UDP datagrams, to the super-frames that they were cut from.

Owns: which frames may be joined, in which order things come out, what is dropped. The rules are those of Linux's
generic receive offload (net/ipv4/tcp_offload.c: tcp_gro_receive; udp_offload.c), which a real network card's driver
would ask next.
Must not know: who takes the super-frames, the overlay header (a ``stamp`` is what the decoder gives).

Path of a batch (what one wake-up received), each frame with its stamp; one without partial checksums, which is most of
what games send, is given back as it is:

1. A frame with a partial checksum is compared with the run that the last frame went to: same stamp and length, same
   bytes in front of the sequence number and behind it, the sequence number that is due. Nearly all leave here (0.5 us);
   where flows take turns, when it was compared with the run of its own flow (1 us).
2. A finished frame passes. If its flow has a run, that ends: nothing overtakes within a flow.
3. ``_other``: first, second and last segments, frames that are alone. Here a frame is checked
   (``locate_untrusted``) before anything is believed of it; one that is not plain is dropped and counted: nobody knows
   what its checksum field is.
4. At the end, each run becomes a super-frame with lengths and checksums of its own, in the place of its first segment.

A run takes: same stamp, addresses, ports, everything in the IP header but length, identification and checksum, and
identifications that are consecutive unless "don't fragment" is set (RFC 6864); TCP: the next sequence number, the same
acknowledgement, window and options, no flags but ACK, ECE, and PSH or FIN on the last; equal size, the last may be
shorter; at most 65535 bytes. UDP: equal size, the last may be shorter, at most MAX_DATAGRAMS.

Nothing waits for a later batch: the kernel does not, either (napi_gro_flush).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from .ip import EXTENSION_HEADERS
from .overlay import PARTIAL_STAMP
from .superframe import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    MAX_SUPERFRAME,
    TCP,
    TCP_CHECKSUM,
    UDP_CHECKSUM,
    Frame,
    SuperFrame,
    finish_untrusted,
    locate_untrusted,
    must_be_finished,
    network_header,
    partial_sum,
)

__all__ = ["MAX_DATAGRAMS", "MAX_RUNS", "Joiner"]

MAX_RUNS: Final = 64
"""Runs that go on at once; when one more begins, all end. A batch is a few hundred frames: with more flows than this in
it there is little to join. Linux keeps 64 as well (8 buckets of 8)."""
MAX_DATAGRAMS: Final = 64
"""UDP datagrams in one super-frame: Linux's own bound for joining them (UDP_GRO_CNT_MAX)."""

_ORIGIN = 0xFFFF
_SEQUENCE = 0xFFFFFFFF
_IPV4_FIRST = 0x08
"""First byte of the EtherType of IPv4, and of nothing else whose frames are joined."""
_IPV4_TRANSPORT = 34
_DONT_FRAGMENT = 0x40
_FIN, _PSH, _ACK, _ECE = 0x01, 0x08, 0x10, 0x40
_LAST = _FIN | _PSH
_NOT_JOINABLE = ~(_ACK | _ECE)
_number: Final = struct.Struct("!I").unpack_from

_Quick = tuple[int, int, bytes, bytes, int, int, int, int, bytes, bytes, list[bytes], int]
"""What step 1 compares and needs: stamp; bytes of a frame; its first bytes; the bytes in front of the payload, and
their offset; sequence number of the first segment, -1 for UDP; bytes of payload; their offset; where IPv4
identifications differ, the bytes behind them and the addresses and ports, else nothing; the run's parts, and how many
there may be."""
_NOTHING: Final[_Quick] = (-1, 0, b"", b"", 0, 0, 0, 0, b"", b"", [], 0)


class _Run:
    """Segments of one flow that follow each other, all of the same size but the last."""

    __slots__ = ("flags", "key", "located", "number", "parts", "place", "quick", "stamp")

    def __init__(self, stamp: int, frame: bytes, located: tuple[int, int, int], key: bytes, place: int) -> None:
        self.stamp = stamp
        self.located = located
        self.key = key
        self.place = place
        """Index of the first segment among the batch's results."""
        self.parts = [frame]
        """The first segment, then the payloads of the others."""
        self.number = frame[18] << 8 | frame[19]
        """IPv4 identification of the newest segment."""
        self.flags = 0
        """FIN and PSH of the last segment."""
        self.quick: _Quick | None = None
        """For step 1; None: not for it. Made with the second segment: most flows of a room are games, and have one."""

    def prepare(self, second: bytes) -> None:
        """Make ``quick``."""
        protocol, transport, start = self.located
        first = self.parts[0]
        size = len(first)
        step = size - start
        most = (MAX_SUPERFRAME - start) // step
        at, sequence = transport + 4, -1
        if protocol == TCP:
            at, sequence = transport + 8, _number(first, transport + 4)[0]
        head, middle, ends = first[: transport + 4], b"", b""
        if transport == _IPV4_TRANSPORT:
            if not first[20] & _DONT_FRAGMENT:
                return
            if first[18:20] != second[18:20]:
                head, middle, ends = first[:18], first[20:24], first[26:38]
        most = most if protocol == TCP else min(most, MAX_DATAGRAMS)
        after = first[at:start]
        self.quick = (self.stamp, size, head, after, at, sequence, step, start, middle, ends, self.parts, most)

    def continues(self, stamp: int, frame: bytes, located: tuple[int, int, int]) -> bool:
        """Whether a plain frame of the same addresses and ports is the next segment, or the last."""
        first, parts = self.parts[0], self.parts
        protocol, transport, start = located
        step = len(first) - start
        if (
            stamp != self.stamp
            or protocol != self.located[0]
            or start != self.located[2]
            or not 0 < len(frame) - start <= step
            or len(frame) + step * len(parts) > MAX_SUPERFRAME
            or frame[:16] != first[:16]
        ):
            return False
        if transport == _IPV4_TRANSPORT:
            number = frame[18] << 8 | frame[19]
            if frame[20:24] != first[20:24] or (not frame[20] & _DONT_FRAGMENT and number != self.number + 1 & 0xFFFF):
                return False
        elif frame[16:18] != first[16:18] or frame[20:22] != first[20:22]:
            return False
        if protocol != TCP:
            return len(parts) < MAX_DATAGRAMS
        at = transport + 4
        return (
            _number(frame, at)[0] == (_number(first, at)[0] + step * len(parts)) & _SEQUENCE
            and frame[at + 4 : at + 9] == first[at + 4 : at + 9]  # acknowledgement, data offset
            and frame[at + 9] & ~_LAST == first[at + 9]
            and frame[at + 10 : at + 12] == first[at + 10 : at + 12]  # window
            and frame[at + 14 : start] == first[at + 14 : start]  # urgent pointer, options
        )

    def take(self, frame: bytes) -> bool:
        """Add a segment that continues the run; True when there may be more."""
        protocol, transport, start = self.located
        parts = self.parts
        parts.append(frame[start:])
        self.number = frame[18] << 8 | frame[19]
        if protocol == TCP:
            self.flags = frame[transport + 13] & _LAST
        if len(frame) != len(parts[0]) or self.flags:
            return False
        if len(parts) == 2:
            self.prepare(frame)
        return True

    def finish(self) -> SuperFrame:
        """Make the super-frame."""
        parts = self.parts
        protocol, transport, start = self.located
        first = parts[0]
        count = len(parts)
        offset = TCP_CHECKSUM if protocol == TCP else UDP_CHECKSUM
        if count == 1:
            return SuperFrame(first, GSO_NONE, 0, transport, offset, start, 1)
        step = len(first) - start
        length = start - transport + step * (count - 1) + len(parts[-1])
        network = network_header(first, transport, length, 0)
        total = partial_sum(first, transport, protocol, length).to_bytes(2, "big")
        ports = first[transport : transport + 4]
        parts[0] = first[start:]
        if protocol != TCP:
            frame = b"".join((network, ports, length.to_bytes(2, "big"), total, *parts))
            return SuperFrame(frame, GSO_UDP, step, transport, offset, start, count)
        flags = bytes((first[transport + 13] | self.flags,))
        before, behind = first[transport + 4 : transport + 13], first[transport + 14 : transport + 16]
        frame = b"".join((network, ports, before, flags, behind, total, first[transport + 18 : start], *parts))
        kind = GSO_TCPV4 if transport == _IPV4_TRANSPORT else GSO_TCPV6
        return SuperFrame(frame, kind, step, transport, offset, start, count)


class Joiner:
    """Joins frames of one receiver; keeps nothing between batches but its counter.

    ``joins`` False finishes the checksums and joins nothing.
    """

    def __init__(self, *, joins: bool = True) -> None:
        self.joins = joins
        self.refused = 0
        """Frames dropped: said to have a partial checksum, and not plain."""
        self._runs: dict[bytes, _Run] = {}

    def join_untrusted(self, frames: Sequence[tuple[int, bytes]]) -> list[tuple[int, Frame]]:
        """Give (origin peer id, frame) for a batch of (stamp, frame); order is kept within each flow. Never raises."""
        for stamp, _ in frames:
            if stamp >= PARTIAL_STAMP:
                break
        else:
            return list(frames)
        results: list[tuple[int, Frame]] = []
        opened: list[_Run] = []
        runs = self._runs
        current = _NOTHING
        due, size, head, after, at, sequence, step, start, middle, ends, parts, most = current
        for item in frames:
            stamp, frame = item
            while True:
                if (
                    stamp == due
                    and len(frame) == size
                    and frame.startswith(head)
                    and frame.startswith(after, at)
                    and len(parts) < most
                    and (sequence < 0 or _number(frame, at - 4)[0] == (sequence + step * len(parts)) & _SEQUENCE)
                    and (not middle or (frame[20:24] == middle and frame.startswith(ends, 26)))
                ):
                    parts.append(frame[start:])
                    break
                if stamp < PARTIAL_STAMP:
                    if runs:
                        self._interrupt(frame)
                    results.append(item)
                    current, due = _NOTHING, -1
                    break
                run = runs.get(frame[26:38] if frame[12] == _IPV4_FIRST else frame[22:58])
                quick = _NOTHING if run is None else run.quick or _NOTHING
                if quick is current:
                    self._other(stamp, frame, results, opened)
                    current, due = _NOTHING, -1
                    break
                # Another flow's turn: once more, with what this one waits for.
                current = quick
                due, size, head, after, at, sequence, step, start, middle, ends, parts, most = quick
        runs.clear()
        for ended in opened:
            results[ended.place] = (ended.stamp & _ORIGIN, ended.finish())
        return results

    def _other(self, stamp: int, frame: bytes, results: list[tuple[int, Frame]], opened: list[_Run]) -> None:
        """Take what is not the next segment of an open run with the same headers."""
        located = locate_untrusted(frame)
        if located is None:
            self.refused += 1
            return
        protocol, transport, start = located
        key = frame[26:38] if transport == _IPV4_TRANSPORT else frame[22:58]
        runs = self._runs
        run = runs.get(key)
        if run is not None:
            if run.continues(stamp, frame, located):
                if not run.take(frame):
                    del runs[key]
                return
            del runs[key]
        offset = TCP_CHECKSUM if protocol == TCP else UDP_CHECKSUM
        if not self.joins or must_be_finished(frame, protocol, transport):
            results.append((stamp & _ORIGIN, finish_untrusted(frame, transport, offset)))
        elif len(frame) == start or (protocol == TCP and frame[transport + 13] & _NOT_JOINABLE):
            results.append((stamp & _ORIGIN, SuperFrame(frame, GSO_NONE, 0, transport, offset, start, 1)))
        else:
            if len(runs) >= MAX_RUNS:
                runs.clear()
            run = runs[key] = _Run(stamp, frame, located, key, len(results))
            results.append((0, frame))  # Keeps the place.
            opened.append(run)

    def _interrupt(self, frame: bytes) -> None:
        """End the run of a frame's flow; all runs, when its flow cannot be told."""
        kind = frame[12:14]
        if kind == b"\x08\x00":
            plain = len(frame) >= 38 and frame[14] == 0x45 and not frame[20] & 0x3F and not frame[21]
            key = frame[26:38]
        elif kind == b"\x86\xdd":
            plain = len(frame) >= 58 and frame[20] not in EXTENSION_HEADERS
            key = frame[22:58]
        else:
            return  # Not IP, so of no flow that is joined.
        if plain:
            self._runs.pop(key, None)
        else:
            self._runs.clear()
