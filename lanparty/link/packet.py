"""AF_PACKET: the frames of an existing interface, read beside the kernel's own stack and sent past it.

Owns: the packet socket with its virtio headers, filter and promiscuous membership; reading and writing in batches.
Must not know: who the members are (the filter comes from outside), how super-frames are cut (gso.py).

Path of a frame from the wire: NIC → (GRO) → VLAN tag taken off → the socket's BPF filter → the socket's queue
(``SOCKET_BUFFER`` bytes, newest dropped, counted as ``read_lost``) → ``read_batch``: one system call per frame or
super-frame into a buffer that stays → gso.py where offloads are involved. A ring (TPACKET) would save 0.7 us of some 20
that a frame of 1500 bytes takes: docs/performance.md.
Frames that the machine's own stack sends come the same way (PACKET_OUTGOING), before its checksums are finished.
Path of a frame to the wire: ``write_batch`` → virtio header (of zeros, or of a super-frame, which the NIC or the kernel
cuts) → the interface's queue discipline → NIC. The kernel does not show a socket the frames that it sent itself, so one
socket does both.

With the acceleration ``vnet`` switched off, virtio headers are still there: who reads what the machine's own stack
sends has to finish checksums. But every super-frame is then cut to finished frames here, and none is sent.

The membership and the socket go away with the process, so promiscuous mode does.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # AF_PACKET

import errno
import socket
import struct
from typing import TYPE_CHECKING, Final

import trio

from lanparty.link.device import MIN_FRAME, READ_BYTES, READ_LIMIT, DeviceCounters, DeviceGoneError
from lanparty.link.gso import NO_OFFLOAD, VNET_HEADER_SIZE, take_untrusted, vnet_header
from lanparty.link.kernel import (
    ETH_P_ALL,
    PACKET_ADD_MEMBERSHIP,
    PACKET_IGNORE_OUTGOING,
    PACKET_MR_PROMISC,
    PACKET_QDISC_BYPASS,
    PACKET_STATISTICS,
    PACKET_VNET_HDR,
    SOL_PACKET,
    attach_socket_filter,
)
from lanparty.obs.errors import MachineError
from lanparty.obs.switches import enabled
from lanparty.proto.superframe import MAX_SUPERFRAME, expand, frames_of, plain_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanparty.link.bpf import Instruction
    from lanparty.proto.superframe import Frame, SuperFrame

__all__ = ["PacketDevice", "check_packet_permission", "open_packet"]

SOCKET_BUFFER: Final = 4 << 20
"""Bytes of kernel memory for frames that wait, each way. A full-size frame counts about 2.3 KiB, so this is a burst
of some 1800 frames: 20 ms of Gigabit Ethernet, longer than Python's collector or another batch keeps us away."""

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_SIZE = VNET_HEADER_SIZE + MAX_SUPERFRAME + 1
_GONE = frozenset({errno.ENETDOWN, errno.ENODEV, errno.ENXIO, errno.EBADF})


class PacketDevice:
    """An ``EthernetDevice`` on a packet socket. Made by ``open_packet``."""

    def __init__(
        self, sock: socket.socket, name: str, mac: bytes, max_frame: int, counters: DeviceCounters, *, queue: bool
    ) -> None:
        self.name: str = name
        self.mac: bytes = mac
        self._counters = counters
        self._socket = sock
        self._max_frame = max_frame
        self._joined = enabled("vnet")
        # Past the queue discipline the kernel cuts nothing: what the interface does not cut itself is refused.
        self._refusals = frozenset({errno.EINVAL}) if queue else frozenset({errno.EINVAL, errno.ENOBUFS})
        self._buffer = bytearray(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._gone: str | None = None

    @property
    def counters(self) -> DeviceCounters:
        """What went through so far; asks the kernel what it dropped since the last time."""
        self._count_lost()
        return self._counters

    async def wait_readable(self) -> None:
        """See ``EthernetDevice``."""
        self._check()
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except (trio.ClosedResourceError, OSError):
            raise DeviceGoneError(f"{self.name} is gone") from None

    def read_batch(self, limit: int = READ_LIMIT) -> list[Frame]:
        """See ``EthernetDevice``."""
        self._check()
        counters = self._counters
        frames: list[Frame] = []
        buffer, view, longest = self._buffer, self._view, self._max_frame + VNET_HEADER_SIZE
        receive, truncated = self._socket.recv_into, socket.MSG_TRUNC
        octets = plain = offloaded = 0
        for _ in range(limit):
            try:
                size = receive(buffer, 0, truncated)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EINVAL:  # a kind of super-frame that the virtio header has no number for
                    counters.offload_dropped += 1
                    continue
                self._lose(error)
                if not frames:
                    self._check()
                break
            if size > _BUFFER_SIZE:
                counters.oversize_dropped += 1
            elif buffer[0] & 1 or buffer[1]:
                offloaded += take_untrusted(view[:size], frames, self._max_frame, counters, self._joined)
            elif size > longest:
                counters.oversize_dropped += 1
            else:
                frames.append(view[VNET_HEADER_SIZE:size].tobytes())
                octets += size - VNET_HEADER_SIZE
                plain += 1
            if octets + offloaded >= READ_BYTES:
                break
        counters.frames_in += plain
        counters.bytes_in += octets
        return frames

    def write_batch(self, frames: Sequence[Frame]) -> None:
        """See ``EthernetDevice``."""
        if not self._joined:
            frames = plain_frames(frames)
        counters, send, longest = self._counters, self._socket.send, self._max_frame
        taken = octets = 0
        for index, frame in enumerate(frames):
            try:
                if not isinstance(frame, bytes):
                    self._send_super(frame)
                elif MIN_FRAME <= len(frame) <= longest:
                    send(NO_OFFLOAD + frame)
                    taken += 1
                    octets += len(frame)
                elif len(frame) > longest:
                    counters.oversize_dropped += 1
                else:
                    counters.runt_dropped += 1
            except BlockingIOError:  # our share of the kernel's memory is full: the rest would not fit either
                counters.write_dropped += frames_of(frames[index:])
                break
            except OSError as error:
                if error.errno == errno.EMSGSIZE:  # the interface's own MTU is smaller
                    counters.oversize_dropped += 1
                elif error.errno in _GONE:
                    counters.write_dropped += frames_of(frames[index:])
                    self._lose(error)
                    break
                else:  # ENOBUFS: the queue discipline dropped it
                    counters.write_dropped += frames_of([frame])
        counters.frames_out += taken
        counters.bytes_out += octets

    def _send_super(self, superframe: SuperFrame) -> None:
        """Raises OSError."""
        counters = self._counters
        if superframe.longest > self._max_frame:
            counters.oversize_dropped += superframe.segments
            return
        try:
            self._socket.sendmsg((vnet_header(superframe), superframe.frame))
        except OSError as error:
            if error.errno not in self._refusals:
                raise
            # None that this kernel takes (UDP before Linux 6.2): as finished frames it does.
            self.write_batch(expand(superframe))
            return
        counters.superframes_out += superframe.segments > 1
        counters.frames_out += superframe.segments
        counters.bytes_out += superframe.octets

    def set_filter(self, program: Sequence[Instruction]) -> bool:
        """Put a BPF program in front of the socket, in place of the one before; False when the kernel has no room
        for it.

        Frames that already wait in the queue have passed the old one.
        """
        try:
            attach_socket_filter(self._socket, program)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """See ``EthernetDevice``. Promiscuous mode ends with it, unless others want it."""
        self._count_lost()
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        self._gone = self._gone or f"{self.name} is closed"

    def _count_lost(self) -> None:
        if self._socket.fileno() >= 0:
            answer = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # reading sets them to 0
            self._counters.read_lost += struct.unpack("II", answer)[1]

    def _lose(self, error: OSError) -> None:
        self._gone = f"{self.name} is down or gone ({error.strerror})"
        if self._socket.fileno() >= 0:
            # A send may have taken the error that the kernel keeps for one call only: wake the reader ourselves.
            trio.lowlevel.notify_closing(self._socket)

    def _check(self) -> None:
        if self._gone is not None:
            raise DeviceGoneError(self._gone)


def open_packet(
    name: str,
    *,
    max_frame: int,
    program: Sequence[Instruction] | None,
    promiscuous: bool,
    outgoing: bool = True,
    queue: bool = True,
    counters: DeviceCounters | None = None,
) -> PacketDevice:
    """A packet socket on the interface ``name``; frames longer than ``max_frame`` bytes are dropped both ways.

    ``program``: the filter, in place before the first frame arrives; None lets all pass. ``promiscuous``: have the
    NIC take frames for foreign MACs. ``outgoing`` False leaves out what this
    machine's own stack sends by the interface. ``queue`` False sends past the queue discipline. ``counters`` go on
    counting where another device stopped.

    Raises MachineError: no permission, no such interface, a kernel without packet sockets.
    """
    sock = _new_socket(name)
    try:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        _enlarge(sock)
        if program is not None:
            attach_socket_filter(sock, program)
        if not outgoing:
            sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        if not queue:
            sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        # Without a protocol until now: a frame that came before the filter would have been queued unfiltered.
        sock.bind((name, ETH_P_ALL))
        if promiscuous:
            membership = struct.pack("iHH8s", socket.if_nametoindex(name), PACKET_MR_PROMISC, 0, b"")
            sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
        mac = sock.getsockname()[4]
    except OSError as error:
        sock.close()
        if error.errno in {errno.ENODEV, errno.ENXIO}:
            raise MachineError(f"there is no network interface {name}; 'ip link' lists them") from None
        raise MachineError(f"cannot read and send frames on {name}: {error.strerror}") from error
    counters = DeviceCounters() if counters is None else counters
    return PacketDevice(sock, name, mac, max_frame, counters, queue=queue)


def check_packet_permission(name: str) -> None:
    """Raise the MachineError of ``open_packet`` when this program may not use packet sockets; ``name`` is for its text.

    The interface need not be up.
    """
    _new_socket(name).close()


def _new_socket(name: str) -> socket.socket:
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except PermissionError:
        raise MachineError(
            f"cannot read and send frames on {name}: permission denied; run this as root, or give the capability "
            "CAP_NET_RAW"
        ) from None
    except OSError as error:
        raise MachineError(f"cannot read and send frames on {name}: {error.strerror}") from error


def _enlarge(sock: socket.socket) -> None:
    """Ask for SOCKET_BUFFER each way; without the privilege to go over the system's limit, for as much as that
    allows."""
    for forced, ordinary in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, ordinary, SOCKET_BUFFER)
