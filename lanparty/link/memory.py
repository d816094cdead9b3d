"""Ethernet devices without a kernel, for tests and for anything that runs both ends in one process.

Owns: a device with a bounded receive queue, and a segment (a hub) that connects several.
Must not know: real interfaces.

A hub does what a cable with several plugs does: each frame comes out at every other device, in order, whatever its
destination. Frames that are too long or too short are treated as the real devices treat them. Super-frames come out as
the finished frames that they stand for, as from a kernel that takes none.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from lanparty.link.device import (
    DEFAULT_MTU,
    ETHERNET_HEADER,
    MIN_FRAME,
    READ_LIMIT,
    DeviceCounters,
    DeviceGoneError,
)
from lanparty.proto.superframe import octets_of, plain_frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lanparty.proto.superframe import Frame

__all__ = ["MemoryDevice", "MemorySegment", "memory_pair"]

QUEUE_FRAMES: Final = 1024
"""Frames that wait to be read; the newest is dropped and counted as ``read_lost``, as a kernel queue does."""


class MemoryDevice:
    """An ``EthernetDevice`` whose other side is a ``MemorySegment``, or the test itself.

    ``sent`` keeps what was written while the device is on no segment.
    """

    def __init__(self, name: str, mac: bytes, *, mtu: int = DEFAULT_MTU) -> None:
        self.name: str = name
        self.mac: bytes = mac
        self.mtu: int = mtu
        self.counters: DeviceCounters = DeviceCounters()
        self.sent: list[bytes] = []
        self.segment: MemorySegment | None = None
        self._received: deque[bytes] = deque()
        self._readable = trio.Event()
        self._closed = False

    def deliver(self, frames: Iterable[bytes]) -> None:
        """Put frames into the receive queue, as if they had come from the wire."""
        for frame in frames:
            if len(frame) > self.mtu + ETHERNET_HEADER:
                self.counters.oversize_dropped += 1
            elif len(self._received) >= QUEUE_FRAMES:
                self.counters.read_lost += 1
            else:
                self._received.append(frame)
        if self._received:
            self._readable.set()

    async def wait_readable(self) -> None:
        """See ``EthernetDevice``."""
        if not self._received and not self._closed:
            self._readable = trio.Event()
        await self._readable.wait()
        if self._closed:
            raise DeviceGoneError(f"{self.name} is gone")

    def read_batch(self, limit: int = READ_LIMIT) -> list[Frame]:
        """See ``EthernetDevice``."""
        if self._closed:
            raise DeviceGoneError(f"{self.name} is gone")
        queue = self._received
        frames: list[Frame] = [queue.popleft() for _ in range(min(limit, len(queue)))]
        self.counters.frames_in += len(frames)
        self.counters.bytes_in += octets_of(frames)
        return frames

    def write_batch(self, frames: Sequence[Frame]) -> None:
        """See ``EthernetDevice``."""
        plain = plain_frames(frames)
        if self._closed:
            self.counters.write_dropped += len(plain)
            return
        passed = []
        for frame in plain:
            if len(frame) > self.mtu + ETHERNET_HEADER:
                self.counters.oversize_dropped += 1
            elif len(frame) < MIN_FRAME:
                self.counters.runt_dropped += 1
            else:
                passed.append(frame)
        self.counters.frames_out += len(passed)
        self.counters.bytes_out += sum(map(len, passed))
        if self.segment is None:
            self.sent += passed
        else:
            self.segment.carry(self, passed)

    def close(self) -> None:
        """See ``EthernetDevice``; also leaves the segment."""
        self._closed = True
        self._readable.set()
        if self.segment is not None:
            self.segment.devices.remove(self)
            self.segment = None


class MemorySegment:
    """A hub: what one device writes, all the others receive."""

    def __init__(self) -> None:
        self.devices: list[MemoryDevice] = []

    def attach(self, name: str, mac: bytes, *, mtu: int = DEFAULT_MTU) -> MemoryDevice:
        """A new device on this segment."""
        device = MemoryDevice(name, mac, mtu=mtu)
        device.segment = self
        self.devices.append(device)
        return device

    def carry(self, sender: MemoryDevice, frames: Sequence[bytes]) -> None:
        """Give ``frames`` to every device but the sender."""
        for device in self.devices:
            if device is not sender:
                device.deliver(frames)


def memory_pair(one: bytes, other: bytes, *, mtu: int = DEFAULT_MTU) -> tuple[MemoryDevice, MemoryDevice]:
    """Two devices with these MACs on one cable."""
    segment = MemorySegment()
    return segment.attach("memory0", one, mtu=mtu), segment.attach("memory1", other, mtu=mtu)
