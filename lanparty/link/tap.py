"""TAP: a network interface whose cable ends in this process.

Owns: /dev/net/tun, its offloads, reading and writing whole frames in batches, the sentences for what can go wrong when
opening it.
Must not know: what the frames are for, who the members are.

The interface is not persistent: the kernel removes it, its addresses and its routes when the file descriptor closes,
so nothing stays behind after any exit.

With IFF_VNET_HDR a virtio header is in front of every frame (gso.py), and TUNSETOFFLOAD lets the kernel hand over
super-frames and unfinished checksums: its TCP and this program then pay once per 64 KiB, not per frame. Where the
kernel has no such thing, or the acceleration ``vnet`` is off, it finishes checksums and cuts super-frames before it
hands them over, and takes only ordinary finished frames.

Path of a frame to the player's programs: ``write_batch`` → the kernel takes it as received on the interface.
Path of a frame from them: the kernel's queue (txqueuelen, 500; newest dropped) → ``read_batch``: one system call per
frame or super-frame into a buffer that stays → gso.py where an offload is still due.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # /dev/net/tun

import errno
import fcntl
import os
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from lanparty.link.device import (
    DEFAULT_MTU,
    ETHERNET_HEADER,
    MIN_FRAME,
    READ_BYTES,
    READ_LIMIT,
    DeviceCounters,
    DeviceGoneError,
)
from lanparty.link.gso import NO_OFFLOAD, VNET_HEADER_SIZE, take_untrusted, vnet_header
from lanparty.link.kernel import IFNAME_SIZE, with_filter_program
from lanparty.link.names import DEFAULT_NAME
from lanparty.obs.errors import MachineError
from lanparty.obs.switches import enabled
from lanparty.proto.superframe import GSO_UDP, MAX_SUPERFRAME, expand

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lanparty.link.bpf import Instruction
    from lanparty.link.netlink import Netlink
    from lanparty.proto.superframe import Frame, SuperFrame

__all__ = ["TapDevice", "TapUnavailableError", "open_tap", "open_tun"]

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNATTACHFILTER = 0x40000000 | struct.calcsize("@HP") << 16 | 0x54D5  # _IOW('T', 213, struct sock_fprog)
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_TUNSETOFFLOAD = 0x400454D0
_OFFLOADS: Final = 0x0F
"""TUN_F_CSUM, TSO4, TSO6, TSO_ECN: all but the newest kernels' (linux/if_tun.h)."""
_OFFLOADS_UDP: Final = 0x60
"""TUN_F_USO4, USO6: UDP super-frames, since Linux 6.2."""

_READ_SIZE: Final = VNET_HEADER_SIZE + MAX_SUPERFRAME + 1
"""Bytes that a read has room for: one more than the longest, so that a longer one is seen to be too long."""


class TapUnavailableError(MachineError):
    """TAP interfaces cannot be made here at all: no module, no device file, no permission."""


class TapDevice:
    """An ``EthernetDevice`` on a TAP interface. Made by ``open_tap``."""

    def __init__(
        self, descriptor: int, name: str, mac: bytes, max_frame: int, counters: DeviceCounters, offloads: int = 0
    ) -> None:
        """``offloads``: the TUN_F bits that the kernel agreed to; 0: there are no virtio headers."""
        self.name: str = name
        self.mac: bytes = mac
        self.counters: DeviceCounters = counters
        self._descriptor = descriptor
        self._max_frame = max_frame
        self._vnet = bool(offloads)
        self._udp = bool(offloads & _OFFLOADS_UDP)
        self._buffer = bytearray(_READ_SIZE)
        self._view = memoryview(self._buffer)
        self._gone: str | None = None

    async def wait_readable(self) -> None:
        """See ``EthernetDevice``."""
        self._check()
        try:
            await trio.lowlevel.wait_readable(self._descriptor)
        except (trio.ClosedResourceError, OSError):
            raise DeviceGoneError(f"{self.name} is gone") from None

    def read_batch(self, limit: int = READ_LIMIT) -> list[Frame]:
        """See ``EthernetDevice``."""
        self._check()
        counters = self.counters
        frames: list[Frame] = []
        header = VNET_HEADER_SIZE if self._vnet else 0
        read, descriptor, buffer, view, longest = os.readv, self._descriptor, self._buffer, self._view, self._max_frame
        buffers = [buffer]
        octets = plain = offloaded = 0
        for _ in range(limit):
            try:
                size = read(descriptor, buffers)
            except BlockingIOError:
                break
            except OSError as error:  # EBADFD: the interface was removed under us
                self._gone = f"{self.name} is gone: {error.strerror}"
                if not frames:
                    raise DeviceGoneError(self._gone) from None
                break
            if header and (buffer[0] & 1 or buffer[1]):
                offloaded += take_untrusted(view[:size], frames, longest, counters, True)
            elif size - header > longest:
                counters.oversize_dropped += 1
            else:
                frames.append(view[header:size].tobytes())
                octets += size - header
                plain += 1
            if octets + offloaded >= READ_BYTES:
                break
        counters.frames_in += plain
        counters.bytes_in += octets
        return frames

    def write_batch(self, frames: Sequence[Frame]) -> None:
        """See ``EthernetDevice``."""
        counters, vnet = self.counters, self._vnet
        write, descriptor, longest = os.write, self._descriptor, self._max_frame
        taken = octets = 0
        for frame in frames:
            if not isinstance(frame, bytes):
                if vnet and (self._udp or frame.gso_type != GSO_UDP):
                    self._write_super(frame)
                else:
                    self.write_batch(expand(frame))
                continue
            if not MIN_FRAME <= len(frame) <= longest:
                if len(frame) > longest:
                    counters.oversize_dropped += 1
                else:
                    counters.runt_dropped += 1
                continue
            try:
                write(descriptor, NO_OFFLOAD + frame if vnet else frame)
            except OSError:  # EAGAIN, ENOBUFS: no room. EIO: down. EBADFD, EBADF: removed or closed
                counters.write_dropped += 1
                continue
            octets += len(frame)
            taken += 1
        counters.frames_out += taken
        counters.bytes_out += octets

    def _write_super(self, superframe: SuperFrame) -> None:
        counters = self.counters
        if superframe.longest > self._max_frame:
            counters.oversize_dropped += superframe.segments
            return
        try:
            os.writev(self._descriptor, (vnet_header(superframe), superframe.frame))
        except OSError as error:
            if error.errno == errno.EINVAL:  # None that this kernel takes: as finished frames it does.
                self.write_batch(expand(superframe))
            else:
                counters.write_dropped += superframe.segments
            return
        counters.superframes_out += superframe.segments > 1
        counters.frames_out += superframe.segments
        counters.bytes_out += superframe.octets

    def set_filter(self, program: Sequence[Instruction]) -> bool:
        """Put a BPF program in front of what the kernel hands over; False where the kernel does not take it."""
        try:
            with_filter_program(program, lambda fprog: fcntl.ioctl(self._descriptor, _TUNATTACHFILTER, fprog))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """See ``EthernetDevice``. The interface vanishes."""
        if self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self._gone = self._gone or f"{self.name} is closed"

    def _check(self) -> None:
        if self._gone is not None:
            raise DeviceGoneError(self._gone)


def open_tun(path: str = _DEVICE) -> int:
    """A descriptor of the TUN/TAP driver, not attached to an interface. Raises TapUnavailableError."""
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise TapUnavailableError(
            f"cannot make a network adapter: there is no {path}; load the kernel module ('sudo modprobe tun'), "
            "or pass the device into the container ('--device /dev/net/tun')"
        ) from None
    except PermissionError:
        raise TapUnavailableError(
            f"cannot make a network adapter: no permission to open {path}; run this as root, or let everyone open "
            f"it as desktop systems do ('sudo chmod 0666 {path}')"
        ) from None
    except OSError as error:
        raise TapUnavailableError(
            f"cannot make a network adapter: {path} does not open ({error.strerror}); load the kernel module "
            "('sudo modprobe tun')"
        ) from error


def _create(name: str) -> tuple[int, str, int]:
    """Descriptor, name and offloads (TUN_F bits) of a new TAP interface; ``%d`` in the name asks for the first free
    number."""
    if not 0 < len(name.encode()) < IFNAME_SIZE or "/" in name or any(map(str.isspace, name)):
        raise MachineError(f"{name!r} cannot be the name of a network interface: it takes 1 to 15 letters and digits")
    descriptor = open_tun()
    wanted = enabled("vnet")
    try:
        try:
            answer = _attach(descriptor, name, _IFF_VNET_HDR if wanted else 0)
        except OSError as error:
            if not wanted or error.errno != errno.EINVAL:
                raise
            wanted = False  # EINVAL: a kernel that knows no such flag, or the name is taken by what is no TAP.
            answer = _attach(descriptor, name, 0)
    except OSError as error:
        os.close(descriptor)
        if error.errno in {errno.EPERM, errno.EACCES}:
            raise TapUnavailableError(
                f"cannot make the network adapter {name}: permission denied; run this as root, or give the capability "
                "CAP_NET_ADMIN"
            ) from None
        if error.errno in {errno.EBUSY, errno.EEXIST, errno.EINVAL}:
            raise MachineError(
                f"cannot make the network adapter {name}: there is an interface of that name already; choose another "
                "(--tap NAME)"
            ) from None
        raise TapUnavailableError(f"cannot make the network adapter {name}: {error.strerror}") from error
    return descriptor, answer[:IFNAME_SIZE].rstrip(b"\0").decode(), _offload(descriptor) if wanted else 0


def _attach(descriptor: int, name: str, flags: int) -> bytes:
    request = struct.pack(f"{IFNAME_SIZE}sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL | flags)
    return fcntl.ioctl(descriptor, _TUNSETIFF, request)


def _offload(descriptor: int) -> int:
    """Ask for as many offloads as the kernel has. It has these four, wherever it has virtio headers (Linux 2.6.27)."""
    try:
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _OFFLOADS | _OFFLOADS_UDP)
    except OSError:  # EINVAL: no UDP super-frames.
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _OFFLOADS)
        return _OFFLOADS
    return _OFFLOADS | _OFFLOADS_UDP


@asynccontextmanager
async def open_tap(
    name: str | None,
    mac: bytes,
    mtu: int,
    netlink: Netlink,
    *,
    up: bool = True,
    max_frame: int | None = None,
    counters: DeviceCounters | None = None,
) -> AsyncIterator[TapDevice]:
    """A new TAP interface, up, with this MAC (6 bytes) and MTU (bytes); it vanishes when the block ends.

    ``name`` None takes the first free ``lanparty%d``. ``up`` False leaves it down for the caller to prepare.
    ``max_frame`` in bytes is what passes when that is not MTU + 14; ``counters`` go on counting where another device
    stopped.

    Raises TapUnavailableError when TAPs cannot be made here, MachineError when this one cannot (name taken or bad,
    MTU or MAC refused).
    """
    descriptor, real_name, offloads = _create(name or DEFAULT_NAME)
    device = TapDevice(
        descriptor,
        real_name,
        mac,
        max_frame or mtu + ETHERNET_HEADER,
        DeviceCounters() if counters is None else counters,
        offloads,
    )
    try:
        await netlink.set_link(real_name, mac=mac, mtu=None if mtu == DEFAULT_MTU else mtu)
        if up:
            await netlink.set_link(real_name, up=True)
        yield device
    finally:
        device.close()
