"""What every link is to the rest of lanparty: a place where whole Ethernet frames are read and written in batches.

Owns: the interface ``EthernetDevice``, its counters, and the failure of a device that is gone.
Must not know: which kind of device it is (TAP, packet socket, memory), who reads it, what a room is.

A frame here is ``bytes``: destination MAC first, no FCS, no VLAN tag that the kernel keeps beside it, checksums
complete. Or it is a `SuperFrame`, which stands for several, or for one whose checksum is partial. Every device takes
both; one that cannot hand a super-frame to its kernel sends the frames that it stands for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import attrs

from lanparty.obs.errors import LanpartyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanparty.proto.superframe import Frame

__all__ = [
    "DEFAULT_MTU",
    "ETHERNET_HEADER",
    "MIN_FRAME",
    "READ_BYTES",
    "READ_LIMIT",
    "DeviceCounters",
    "DeviceGoneError",
    "EthernetDevice",
]

ETHERNET_HEADER: Final = 14
"""Bytes in front of the payload: two MAC addresses and the EtherType (IEEE 802.3, 3.1.1)."""

MIN_FRAME: Final = ETHERNET_HEADER
"""The shortest frame that a device takes or gives, in bytes: the kernel does the padding to 60 on a real wire."""

DEFAULT_MTU: Final = 1500
"""Payload bytes of an ordinary Ethernet frame; what a LAN party's switch carries."""

READ_LIMIT: Final = 64
"""Frames per wake-up. Longer runs would let one busy LAN hold up timers and acknowledgements; 64 is also the largest
number of datagrams that one UDP_SEGMENT send takes, so that a longer batch saves no more system calls."""


READ_BYTES: Final = 256 << 10
"""Bytes after which a wake-up reads no more: four full super-frames, some 180 segments. They take about a millisecond
to cut and seal; longer than that nothing else of this program should wait, a game's packet from the relay for one.
Without this bound READ_LIMIT super-frames would be 4 MiB."""


class DeviceGoneError(LanpartyError):
    """The device went down or vanished: nothing can be read from it now; the text names the interface."""


@attrs.define
class DeviceCounters:
    """What went through one device, in frames and bytes, and each reason why a frame did not.

    What a kernel filter leaves out (VLAN tags, traffic for no member) never gets here and is not counted.

    "In" is from the device to lanparty, "out" is from lanparty to the device. Counted after segmentation, so
    the numbers are frames as they would be on a wire.
    """

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    superframes_in: int = 0
    """TSO/USO/GRO frames that were read; ``frames_in`` has the frames that they stand for."""
    superframes_out: int = 0
    """Super-frames that the kernel took as such; ``frames_out`` has the frames that they stand for."""
    checksums_finished: int = 0
    """Frames that came with an unfinished checksum (transmit offload) which was completed here."""
    oversize_dropped: int = 0
    """Longer than the device's MTU plus header, and not a super-frame that could be cut."""
    runt_dropped: int = 0
    """Shorter than an Ethernet header."""
    offload_dropped: int = 0
    """Offload state that makes no sense (damaged virtio header, unknown GSO type)."""
    filtered_dropped: int = 0
    """Passed the kernel's filter but is for no member, or comes from one (see ``lanparty.link.lan``)."""
    write_dropped: int = 0
    """The kernel's queue was full (EAGAIN, ENOBUFS) or the device was down: a write never waits."""
    read_lost: int = 0
    """The kernel dropped frames because they were not read in time (PACKET_STATISTICS)."""

    def as_dict(self) -> dict[str, int]:
        """All counters by name, for ``stats`` and the log."""
        return attrs.asdict(self)

    def add(self, other: DeviceCounters) -> None:
        """Add the numbers of ``other``, so that a total outlives the devices it was made of."""
        for name, value in other.as_dict().items():
            setattr(self, name, getattr(self, name) + value)


class EthernetDevice(Protocol):
    """A place where Ethernet frames are read and written.

    One task reads: ``wait_readable`` then ``read_batch``, which leaves the rest for the next time. Anyone may write.
    """

    @property
    def name(self) -> str:
        """The interface name, for people and for netlink."""
        ...

    @property
    def mac(self) -> bytes:
        """The device's own MAC address, 6 bytes."""
        ...

    @property
    def counters(self) -> DeviceCounters:
        """What went through so far."""
        ...

    async def wait_readable(self) -> None:
        """Return when ``read_batch`` may give frames.

        Raises DeviceGoneError when the device went down or vanished.
        """
        ...

    def read_batch(self, limit: int = READ_LIMIT) -> list[Frame]:
        """Read what is there, at most ``limit`` frames from the kernel (a super-frame counts as one) and READ_BYTES.

        Whole frames: no FCS, at most MTU + 14 bytes each. An empty list means "nothing now".
        Raises DeviceGoneError when the device went down or vanished.
        """
        ...

    def write_batch(self, frames: Sequence[Frame]) -> None:
        """Send ``frames`` in order. Never blocks or raises: what the kernel does not take is dropped and counted."""
        ...

    def close(self) -> None:
        """Give the device back to the kernel; idempotent. A waiting reader gets DeviceGoneError."""
        ...
