from __future__ import annotations

import pytest
import trio

from lanparty.link.device import DeviceCounters, DeviceGoneError, EthernetDevice
from lanparty.link.memory import QUEUE_FRAMES, MemoryDevice, MemorySegment, memory_pair
from lanparty.proto.superframe import GSO_UDP, SuperFrame, expand

A, B, C = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", b"\2\0\0\0\0\3"


def frame(number: int, size: int = 60) -> bytes:
    return B + A + number.to_bytes(2, "big") + bytes(size - 14)


async def test_a_frame_comes_out_at_all_others_in_order() -> None:
    segment = MemorySegment()
    a, b, c = (segment.attach(name, mac) for name, mac in (("a", A), ("b", B), ("c", C)))
    sent = [frame(number) for number in range(100)]
    a.write_batch(sent)
    for device in (b, c):
        await device.wait_readable()
        assert device.read_batch() == sent[:64]
        assert device.read_batch() == sent[64:]
        assert device.read_batch() == []
    assert a.read_batch() == []
    assert a.counters == DeviceCounters(frames_out=100, bytes_out=6000)
    assert b.counters == DeviceCounters(frames_in=100, bytes_in=6000)


async def test_a_reader_waits_until_something_comes(autojump_clock: trio.testing.MockClock) -> None:
    a, b = memory_pair(A, B)
    started = trio.current_time()

    async def later() -> None:
        await trio.sleep(7)
        b.write_batch([frame(1)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        await a.wait_readable()
        assert trio.current_time() - started == 7
    assert a.read_batch() == [frame(1)]


async def test_a_closed_device_is_gone_for_its_reader_and_its_segment() -> None:
    a, b = memory_pair(A, B)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(DeviceGoneError, match="memory0"):
                await a.wait_readable()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        a.close()
    a.close()
    with pytest.raises(DeviceGoneError):
        a.read_batch()
    a.write_batch([frame(1)])
    assert a.counters.write_dropped == 1
    b.write_batch([frame(1)])
    assert b.counters.frames_out == 1


def test_bounds() -> None:
    device: EthernetDevice = MemoryDevice("m", A, mtu=100)
    assert isinstance(device, MemoryDevice)
    device.write_batch([b"", bytes(13), bytes(14), bytes(114), bytes(115)])
    assert device.sent == [bytes(14), bytes(114)]
    assert (device.counters.runt_dropped, device.counters.oversize_dropped) == (2, 1)
    device.deliver([bytes(115), *[bytes(60)] * (QUEUE_FRAMES + 3)])
    assert (device.counters.oversize_dropped, device.counters.read_lost) == (2, 3)


def test_counters_add_up() -> None:
    total = DeviceCounters(frames_in=1, read_lost=2)
    total.add(DeviceCounters(frames_in=10, write_dropped=5))
    assert total == DeviceCounters(frames_in=11, read_lost=2, write_dropped=5)
    assert total.as_dict()["frames_in"] == 11


def test_super_frames_come_out_as_what_they_stand_for() -> None:
    head = A + B + bytes.fromhex("0800 4500004400004000401126a70a0000010a000002 0001000200300000")
    whole = SuperFrame(head + bytes(40), GSO_UDP, 20, 34, 6, 42, 2)
    one, other = memory_pair(A, B)
    one.write_batch([frame(1), whole])
    assert other.read_batch() == [frame(1), *expand(whole)]
    assert one.counters.frames_out == other.counters.frames_in == 3
    one.close()
    one.write_batch([whole])
    assert one.counters.write_dropped == 2
