"""The TAP's reads and writes over a pair of sockets: which bytes go to the kernel, and what is counted."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from lanparty.link import tap
from lanparty.link.device import READ_BYTES, DeviceCounters, DeviceGoneError
from lanparty.link.gso import VNET_HEADER_SIZE, vnet_header
from lanparty.link.tap import TapDevice
from lanparty.proto.superframe import GSO_TCPV4, GSO_UDP, SuperFrame, expand, superframe_untrusted

MACS = bytes.fromhex("02000000000a02000000000b")
ALL, NO_UDP, NONE = 0x6F, 0x0F, 0


def ipv4(protocol: int, rest: bytes) -> bytes:
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(rest), 0, 0x4000, 64, protocol, 0) + addresses
    value = -int.from_bytes(header, "big") % 65535
    return MACS + b"\x08\x00" + header[:10] + value.to_bytes(2, "big") + header[12:] + rest


def tcp(octets: int, size: int) -> SuperFrame:
    rest = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x10, 5, 0, 0) + bytes(octets)
    return superframe_untrusted(ipv4(6, rest), GSO_TCPV4 if size else 0, size, 34, 16)


def udp(octets: int, size: int) -> SuperFrame:
    return superframe_untrusted(
        ipv4(17, struct.pack("!HHHH", 1, 2, 8 + octets, 0) + bytes(octets)), GSO_UDP, size, 34, 6
    )


class Rig:
    def __init__(self, offloads: int) -> None:
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setblocking(False)
        ours.setblocking(False)
        self.kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.device = TapDevice(ours.detach(), "tap0", b"\2" * 6, 1514, DeviceCounters(), offloads)

    def written(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.kernel.recv(100_000))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.kernel.close()
        if self.device._descriptor >= 0:
            os.close(self.device._descriptor)


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with closing(Rig(request.param)) as rig:
        yield rig


FRAME = MACS + b"\x88\xb5" + bytes(100)
PLAIN = bytes(VNET_HEADER_SIZE)


@pytest.mark.parametrize("rig", [ALL], indirect=True)
def test_super_frames_go_to_the_kernel_as_they_are(rig: Rig) -> None:
    supers = [tcp(3000, 1000), udp(3000, 1000), tcp(500, 0)]
    rig.device.write_batch([FRAME, *supers, FRAME])
    headed = [vnet_header(whole) + whole.frame for whole in supers]
    assert rig.written() == [PLAIN + FRAME, *headed, PLAIN + FRAME]
    octets = 2 * 114 + 3000 + 3 * 54 + 3000 + 3 * 42 + 554
    assert rig.device.counters == DeviceCounters(frames_out=9, bytes_out=octets, superframes_out=2)


@pytest.mark.parametrize("rig", [NO_UDP], indirect=True)
def test_a_kernel_without_udp_super_frames_gets_datagrams(rig: Rig) -> None:
    stream, datagrams = tcp(3000, 1000), udp(3000, 1000)
    rig.device.write_batch([stream, datagrams])
    assert rig.written() == [vnet_header(stream) + stream.frame, *(PLAIN + one for one in expand(datagrams))]
    assert (rig.device.counters.superframes_out, rig.device.counters.frames_out) == (1, 6)


@pytest.mark.parametrize("rig", [NONE], indirect=True)
def test_a_kernel_without_headers_gets_finished_frames(rig: Rig) -> None:
    supers = [tcp(3000, 1000), udp(3000, 1000), tcp(500, 0)]
    rig.device.write_batch([FRAME, *supers])
    assert rig.written() == [FRAME, *(one for whole in supers for one in expand(whole))]
    assert (rig.device.counters.superframes_out, rig.device.counters.frames_out) == (0, 8)


@pytest.mark.parametrize("rig", [ALL], indirect=True)
def test_what_is_too_long_or_finds_no_room_is_counted_frame_by_frame(rig: Rig) -> None:
    rig.device.write_batch([tcp(5000, 2000), FRAME[:13], bytes(1515)])
    assert rig.written() == []
    rig.kernel.close()
    rig.device.write_batch([tcp(3000, 1000), FRAME])
    assert rig.device.counters == DeviceCounters(oversize_dropped=4, runt_dropped=1, write_dropped=4)


@pytest.mark.parametrize("rig", [ALL], indirect=True)
def test_a_super_frame_that_the_kernel_refuses_goes_as_finished_frames(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, buffers: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(tap.os, "writev", refuse)
    whole = tcp(3000, 1000)
    rig.device.write_batch([whole])
    assert rig.written() == [PLAIN + one for one in expand(whole)]
    assert rig.device.counters == DeviceCounters(frames_out=3, bytes_out=3000 + 3 * 54)


@pytest.mark.parametrize("rig", [ALL], indirect=True)
def test_what_is_read_has_no_header_any_more(rig: Rig) -> None:
    whole = tcp(3000, 1000)
    rig.kernel.send(PLAIN + FRAME)
    rig.kernel.send(vnet_header(whole) + whole.frame)
    rig.kernel.send(PLAIN + bytes(1515))
    rig.kernel.send(PLAIN + FRAME)
    assert rig.device.read_batch() == [FRAME, whole, FRAME]
    assert rig.device.read_batch() == []
    assert rig.device.counters == DeviceCounters(
        frames_in=5, bytes_in=2 * 114 + 3162, superframes_in=1, oversize_dropped=1
    )


@pytest.mark.parametrize("rig", [NONE], indirect=True)
def test_reading_without_headers(rig: Rig) -> None:
    for frame in (FRAME, bytes(1515), FRAME):
        rig.kernel.send(frame)
    assert rig.device.read_batch() == [FRAME, FRAME]
    assert rig.device.counters == DeviceCounters(frames_in=2, bytes_in=228, oversize_dropped=1)


@pytest.mark.parametrize("rig", [ALL], indirect=True)
def test_a_wake_up_is_bounded_in_bytes_and_in_count(rig: Rig) -> None:
    whole = tcp(60_000, 1400)
    for _ in range(8):
        rig.kernel.send(vnet_header(whole) + whole.frame)
    first = rig.device.read_batch()
    assert len(first) == READ_BYTES // whole.octets + 1
    assert len(first) + len(rig.device.read_batch()) == 8
    for _ in range(70):
        rig.kernel.send(PLAIN + FRAME)
    assert [len(rig.device.read_batch()) for _ in range(3)] == [64, 6, 0]


@pytest.mark.parametrize("rig", [ALL], indirect=True)
def test_a_closed_device_is_gone(rig: Rig) -> None:
    os.close(rig.device._descriptor)
    with pytest.raises(DeviceGoneError):
        rig.device.read_batch()
    rig.device._descriptor = -1
    rig.device.write_batch([tcp(3000, 1000), FRAME])
    assert rig.device.counters.write_dropped == 4
