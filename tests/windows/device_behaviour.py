"""What every ``EthernetDevice`` does, whatever it is made of: one class of tests, run against each kind.

A test module derives a class from `DeviceBehaviour` and gives it a fixture ``bench``: a device, and the other end of
its cable. Memory and TAP-Windows6: test_windows_device_kinds.py; the Linux TAP: tests/lan/test_link_devices.py.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

import attrs
import pytest
import trio
import trio.testing

from lanparty.link.device import READ_LIMIT, DeviceGoneError, EthernetDevice
from lanparty.proto.superframe import GSO_UDP, Frame, SuperFrame, expand

ETHERTYPE = b"\x88\xb5"
"""Local experimental (IEEE 802): nothing else on the wire has it."""
PEER = b"\2\0\0\0\0\x09"


@attrs.frozen
class Bench:
    """A device with MTU 1500, and the other end of its cable."""

    device: EthernetDevice
    feed: Callable[[Sequence[bytes]], None]
    """Let the machine's programs send these frames: the device is to read them."""
    sent: Callable[[int], Awaitable[list[bytes]]]
    """Wait until the machine's programs got so many frames from the device, and give all of them."""

    def frame(self, number: int, size: int = 60, *, inward: bool = True) -> bytes:
        """A frame from the machine to the device, or the other way, with a number in it."""
        addresses = PEER + self.device.mac if inward else self.device.mac + PEER
        return addresses + ETHERTYPE + number.to_bytes(4, "big") + random.Random(number).randbytes(size - 18)

    async def read(self, count: int) -> list[bytes]:
        """Read so many of our frames; what the kernel says of itself is left out."""
        found: list[bytes] = []
        with trio.fail_after(10):
            while len(found) < count:
                await self.device.wait_readable()
                found += ours(self.device.read_batch())
        return found


def ours(frames: Sequence[Frame]) -> list[bytes]:
    """Those of the frames that this module made."""
    return [frame for frame in frames if isinstance(frame, bytes) and frame[12:14] == ETHERTYPE]


class DeviceBehaviour:
    """The tests. Derive a class, and give it a fixture ``bench``."""

    async def test_frames_come_in_whole_and_in_order(self, bench: Bench) -> None:
        fed = [bench.frame(number, 60 + number * 7) for number in range(200)]
        bench.feed(fed)
        assert await bench.read(200) == fed
        assert ours(bench.device.read_batch()) == []
        assert bench.device.counters.frames_in >= 200
        assert bench.device.counters.bytes_in >= sum(map(len, fed))

    async def test_frames_go_out_whole_and_in_order(self, bench: Bench) -> None:
        # No more than an observing socket of Linux has room for (net.core.rmem_default): it is to see all of them.
        frames = [bench.frame(number, 60 + number * 24, inward=False) for number in range(60)]
        bench.device.write_batch(frames[:25])
        bench.device.write_batch(frames[25:])
        assert await bench.sent(60) == frames
        assert bench.device.counters.frames_out == 60
        assert bench.device.counters.bytes_out == sum(map(len, frames))
        assert bench.device.counters.write_dropped == 0

    async def test_a_batch_has_a_limit_and_leaves_the_rest(self, bench: Bench) -> None:
        fed = [bench.frame(number) for number in range(100)]
        bench.feed(fed)
        found: list[bytes] = []
        with trio.fail_after(10):
            while len(found) < 100:
                await bench.device.wait_readable()
                batch = bench.device.read_batch(7)
                assert len(batch) <= 7
                found += ours(batch)
        assert found == fed
        bench.feed([bench.frame(number) for number in range(READ_LIMIT + 1)])
        await bench.device.wait_readable()
        assert len(bench.device.read_batch()) <= READ_LIMIT

    async def test_a_reader_waits_until_something_comes(self, bench: Bench) -> None:
        got: list[bytes] = []

        async def read() -> None:
            got.extend(await bench.read(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert got == []
            bench.feed([bench.frame(1)])
        assert got == [bench.frame(1)]

    async def test_a_cancelled_wait_loses_nothing(self, bench: Bench) -> None:
        for number in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.device.wait_readable)
                await trio.testing.wait_all_tasks_blocked()
                bench.feed([bench.frame(number)])
                nursery.cancel_scope.cancel()
        assert await bench.read(20) == [bench.frame(number) for number in range(20)]

    async def test_too_short_and_too_long_frames_are_counted_and_not_sent(self, bench: Bench) -> None:
        good = [bench.frame(number, 1514, inward=False) for number in range(2)]
        bench.device.write_batch([b"", good[0], bytes(13), bench.frame(7, 1515, inward=False), good[1], bytes(70000)])
        assert await bench.sent(2) == good
        counters = bench.device.counters
        assert (counters.frames_out, counters.runt_dropped, counters.oversize_dropped) == (2, 2, 2)

    async def test_a_closed_device_is_gone(self, bench: Bench) -> None:
        bench.feed([bench.frame(1)])
        bench.device.close()
        bench.device.close()
        with pytest.raises(DeviceGoneError, match=bench.device.name):
            bench.device.read_batch()
        with pytest.raises(DeviceGoneError, match=bench.device.name):
            await bench.device.wait_readable()
        bench.device.write_batch([bench.frame(1, inward=False), bench.frame(2, inward=False)])
        assert bench.device.counters.write_dropped == 2
        assert bench.device.counters.frames_out == 0

    async def test_a_waiting_reader_is_told_that_it_is_gone(self, bench: Bench) -> None:
        async def read_for_ever() -> None:
            while True:
                await bench.device.wait_readable()
                bench.device.read_batch()

        async def read_to_the_end() -> None:
            with pytest.raises(DeviceGoneError, match=bench.device.name):
                await read_for_ever()

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_to_the_end)
                await trio.testing.wait_all_tasks_blocked()
                bench.device.close()


class FinishingDeviceBehaviour(DeviceBehaviour):
    """Of a device that makes frames out of super-frames itself; others leave that to the kernel behind them."""

    async def test_super_frames_come_out_as_what_they_stand_for(self, bench: Bench) -> None:
        head = bench.device.mac + PEER + bytes.fromhex("08004500004400004000401126a70a0000010a0000020001000200300000")
        whole = SuperFrame(head + bytes(40), GSO_UDP, 20, 34, 6, 42, 2)
        one = bench.frame(1, inward=False)
        bench.device.write_batch([one, whole, one])
        assert await bench.sent(4) == [one, *expand(whole), one]
        assert bench.device.counters.frames_out == 4
