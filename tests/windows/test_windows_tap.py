from __future__ import annotations

import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from fake_kernel import STATUS_CANCELLED, STATUS_DEVICE_REMOVED, FakeKernel, FakeTap
from windows_taps import MAC, no_change

from lanparty.link.device import DeviceCounters, DeviceGoneError
from lanparty.link.windows import iocp
from lanparty.link.windows.tap import (
    DRAIN_SECONDS,
    READS,
    RETRIES,
    RETRY_SECONDS,
    WRITES,
    WindowsTapDevice,
    open_windows_tap,
)
from lanparty.link.windows.winapi import kernel32
from lanparty.obs.errors import MachineError

HEADER = MAC + b"\2\0\0\0\0\x09\x88\xb5"
VOLUME = 100_000


def frame(number: int, size: int = 60) -> bytes:
    return HEADER + number.to_bytes(4, "big") + bytes(size - 18)


@asynccontextmanager
async def plugged(kernel: FakeKernel, *, media: bool = True) -> AsyncIterator[tuple[WindowsTapDevice, FakeTap]]:
    """A device on an adapter that has its MAC already."""
    tap = kernel.add_tap("Game")
    tap.mac = MAC
    async with open_windows_tap(None, MAC, no_change) as device:
        if media:
            device.set_media(True)
        yield device, tap
    assert tap.handle is None
    assert not tap.reads


async def read(device: WindowsTapDevice, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        await device.wait_readable()
        found += [frame for frame in device.read_batch() if isinstance(frame, bytes)]
    return found


# --- order and volume


@pytest.mark.parametrize("seed", [1, 2])
async def test_frames_both_ways_at_volume_in_any_order_of_completion(seed: int) -> None:
    """Packets are delivered in batches of random size and, within one, in random order."""
    rng = random.Random(seed)
    with FakeKernel().installed() as kernel:
        kernel.automatic = False
        async with plugged(kernel) as (device, tap):
            fed = taken = given = 0
            received: list[bytes] = []
            while len(received) < VOLUME or given < VOLUME:
                burst = min(rng.randrange(150), VOLUME - fed)
                kernel.send(tap, [frame(number, 60 + number % 1455) for number in range(fed, fed + burst)])
                fed += burst
                kernel.deliver(rng.randrange(300), rng)
                taken += 1
                batch = device.read_batch(rng.randrange(1, 100))
                received += [each for each in batch if isinstance(each, bytes)]
                burst = min(rng.randrange(100), VOLUME - given, WRITES - len(kernel.packets) - 2 * READS)
                if burst > 0:
                    device.write_batch([frame(number, 60 + number % 1455) for number in range(given, given + burst)])
                    given += burst
                while len(kernel.packets) > WRITES // 2:
                    kernel.deliver(100, rng)
            wanted = [frame(number, 60 + number % 1455) for number in range(VOLUME)]
            assert received == wanted
            assert tap.written == wanted
            octets = sum(map(len, wanted))
            assert device.counters == DeviceCounters(
                frames_in=VOLUME, bytes_in=octets, frames_out=VOLUME, bytes_out=octets
            )
            kernel.automatic = True
            kernel.deliver()
        assert kernel.queues == {}


async def test_a_read_that_is_complete_waits_for_those_before_it() -> None:
    with FakeKernel().installed() as kernel:
        kernel.automatic = False
        async with plugged(kernel) as (device, tap):
            kernel.send(tap, [frame(number) for number in range(3)])
            kernel.packets.rotate(1)  # the last first
            kernel.deliver(1)
            assert device.read_batch() == []
            kernel.deliver(1)
            assert device.read_batch() == [frame(0)]
            kernel.deliver(1)
            assert device.read_batch() == [frame(1), frame(2)]
            kernel.automatic = True
            kernel.deliver()


async def test_all_reads_wait_in_the_driver_all_the_time() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            assert len(tap.reads) == READS
            kernel.send(tap, [frame(number) for number in range(READS + 50)])
            assert (len(tap.reads), len(tap.queue)) == (0, 50)
            await device.wait_readable()
            assert device.read_batch(10) == [frame(number) for number in range(10)]
            assert (len(tap.reads), len(tap.queue)) == (0, 40)
            assert await read(device, READS + 40) == [frame(number) for number in range(10, READS + 50)]
            assert len(tap.reads) == READS


# --- bounds


async def test_a_frame_that_finds_no_free_write_is_dropped_and_counted() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            tap.holds_writes = True
            frames = [frame(number) for number in range(WRITES + 10)]
            device.write_batch(frames)
            assert tap.written == frames[:WRITES]
            assert (device.counters.frames_out, device.counters.write_dropped) == (WRITES, 10)
            device.write_batch(frames[:1])
            assert device.counters.write_dropped == 11
            kernel.release_writes(tap)
            await trio.testing.wait_all_tasks_blocked()
            device.write_batch(frames)
            assert tap.written == frames[:WRITES] * 2
            assert device.counters.write_dropped == 21


async def test_a_write_that_fails_later_was_not_sent() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            tap.holds_writes = True
            device.write_batch([frame(1), frame(2, 100)])
            assert device.counters == DeviceCounters(frames_out=2, bytes_out=160)
            kernel.release_writes(tap, STATUS_CANCELLED)
            await trio.testing.wait_all_tasks_blocked()
            assert device.read_batch() == []
            assert device.counters == DeviceCounters(write_dropped=2)


async def test_frames_of_wrong_sizes_are_counted() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            good = [frame(1, 1514), HEADER]
            kernel.send(tap, [b"", bytes(13), good[0], bytes(1515), bytes(1522), bytes(2049), bytes(9000), good[1]])
            assert await read(device, 2) == good
            assert (device.counters.runt_dropped, device.counters.oversize_dropped) == (2, 4)
            device.write_batch([bytes(13), bytes(1515)])
            assert (device.counters.runt_dropped, device.counters.oversize_dropped) == (3, 5)
            assert tap.written == []


async def test_a_smaller_mtu_is_kept_to_although_the_driver_does_not() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.mac, tap.mtu = MAC, 1400
        counters = DeviceCounters(frames_in=7)
        async with open_windows_tap("game", MAC, no_change, mtu=1400, counters=counters) as device:
            assert (device.name, device.mac, device.driver_mtu) == ("Game", MAC, 1400)
            device.set_media(True)
            kernel.send(tap, [frame(1, 1414), frame(2, 1415), frame(3, 1514)])
            assert await read(device, 1) == [frame(1, 1414)]
            device.write_batch([frame(1, 1414), frame(2, 1415)])
        assert (counters.frames_in, counters.frames_out, counters.oversize_dropped) == (8, 1, 3)


# --- the cable


async def test_without_a_cable_nothing_comes_and_nothing_goes() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel, media=False) as (device, tap):
            device.write_batch([frame(1), frame(2)])
            assert device.counters == DeviceCounters(write_dropped=2)
            assert device.read_batch() == []
            assert kernel.counts == {}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(device.wait_readable)
                await trio.testing.wait_all_tasks_blocked()
                device.set_media(True)
                await trio.testing.wait_all_tasks_blocked()
                kernel.send(tap, [frame(3)])
            assert device.read_batch() == [frame(3)]

            device.set_media(False)
            kernel.send(tap, [frame(4)])
            device.write_batch([frame(5)])
            await trio.testing.wait_all_tasks_blocked()
            assert device.read_batch() == []
            device.set_media(True)
            kernel.send(tap, [frame(6)])
            device.write_batch([frame(7)])
            assert await read(device, 1) == [frame(6)]
            assert tap.written == [frame(7)]
            assert len(tap.reads) == READS


async def test_a_computer_that_sleeps_goes_on_each_time(autojump_clock: trio.testing.MockClock) -> None:
    """All reads were complete when Windows took the power away; then every new one is refused, for a while."""
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            fed = [frame(number) for number in range(READS)]

            async def wake_up() -> None:
                await trio.sleep(2)
                tap.powered = True
                await trio.sleep(2)
                kernel.send(tap, [frame(99)])

            for slept in range(1, 4):
                kernel.send(tap, fed)
                await device.wait_readable()
                tap.powered = False
                assert device.read_batch() == fed
                assert not tap.reads
                device.write_batch([frame(1)])
                assert device.counters.write_dropped == slept
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wake_up)
                    assert await read(device, 1) == [frame(99)]


async def test_a_cable_that_is_plugged_in_while_the_driver_refuses(autojump_clock: trio.testing.MockClock) -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel, media=False) as (device, tap), trio.open_nursery() as nursery:

            async def reader() -> None:
                assert await read(device, 1) == [frame(1)]

            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            tap.powered = False
            device.set_media(True)
            assert not tap.reads
            await trio.sleep(1)
            tap.powered = True
            await trio.sleep(1)
            kernel.send(tap, [frame(1)])


async def test_reads_that_are_refused_for_ever_mean_that_it_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            kernel.send(tap, [frame(number) for number in range(READS)])
            await device.wait_readable()
            tap.powered = False
            assert len(device.read_batch()) == READS
            before = trio.current_time()
            with pytest.raises(DeviceGoneError, match=r"Game is gone: .*removed, disabled or restarted"):
                await device.wait_readable()
            assert trio.current_time() - before == RETRIES * RETRY_SECONDS


async def test_a_refusal_for_want_of_memory_is_tried_again() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            kernel.send(tap, [frame(1), frame(2)])
            await device.wait_readable()
            tap.read_error = kernel32.ERROR_NO_SYSTEM_RESOURCES
            assert device.read_batch() == [frame(1), frame(2)]
            assert len(tap.reads) == READS - 2
            assert device.read_batch() == []
            assert len(tap.reads) == READS


# --- the end


@pytest.mark.parametrize(("status", "error"), [(STATUS_CANCELLED, 995), (STATUS_DEVICE_REMOVED, 1617)])
async def test_an_adapter_that_is_removed_while_running(status: int, error: int) -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            kernel.send(tap, [frame(1)])
            kernel.halt(tap, status)
            await device.wait_readable()
            assert device.read_batch() == [frame(1)]  # What came before is not lost.
            with pytest.raises(DeviceGoneError, match=rf"^Game is gone: .* \(Windows error {error}\)$"):
                await read(device, 1)
            with pytest.raises(DeviceGoneError):
                device.read_batch()
            device.write_batch([frame(2)])
            assert device.counters.write_dropped == 1
            with pytest.raises(DeviceGoneError):
                device.set_media(True)


async def test_a_waiting_reader_hears_of_the_removal() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):

            async def reader() -> None:
                with pytest.raises(DeviceGoneError, match="Game"):
                    await read(device, 1)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader)
                await trio.testing.wait_all_tasks_blocked()
                kernel.halt(tap)


async def test_an_empty_batch_tells_of_the_removal_at_once() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            kernel.halt(tap)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DeviceGoneError, match="Game is gone"):
                device.read_batch()


@pytest.mark.parametrize("error", [kernel32.ERROR_DEVICE_REMOVED, kernel32.ERROR_NO_SUCH_DEVICE, 31])
async def test_a_read_that_is_refused_for_good(error: int) -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            kernel.send(tap, [frame(1)])
            await device.wait_readable()
            tap.read_error = error
            assert device.read_batch() == [frame(1)]
            with pytest.raises(DeviceGoneError, match=rf"Windows error {error}"):
                await device.wait_readable()


async def test_closing_with_operations_in_flight_waits_for_all_of_them() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            kernel.send(tap, [frame(1)])
            tap.holds_writes = True
            device.write_batch([frame(2), frame(3)])

            async def reader() -> None:
                with pytest.raises(DeviceGoneError, match="Game is closed"):
                    await read(device, 10)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader)
                await trio.testing.wait_all_tasks_blocked()
                device.close()
                device.close()
            assert kernel.calls[-2:] == ["CancelIoEx", "CloseHandle"]
            assert tap.handle is None
            assert len(iocp._held) == 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.testing.wait_all_tasks_blocked)
                tap.port = tap.port or (0, 0)
                kernel.release_writes(tap)
        assert not iocp._held
        assert kernel.queues == {}


async def test_a_reader_without_a_cable_hears_of_the_end() -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel, media=False) as (device, _), trio.open_nursery() as nursery:

            async def reader() -> None:
                with pytest.raises(DeviceGoneError, match="Game is closed"):
                    await device.wait_readable()

            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            device.close()


async def test_a_reader_that_took_the_last_packets_lets_the_end_go_on(autojump_clock: trio.testing.MockClock) -> None:
    """Both wait at the same queue, and what the one takes the other does not see."""
    with FakeKernel().installed() as kernel:
        before = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def reader(device: WindowsTapDevice) -> None:
                with pytest.raises(DeviceGoneError):
                    await device.wait_readable()

            async with plugged(kernel) as (device, _):
                nursery.start_soon(reader, device)
                await trio.testing.wait_all_tasks_blocked()
                device.close()
                assert kernel.deliver() == READS
        assert trio.current_time() == before


async def test_what_the_kernel_keeps_is_not_given_back(autojump_clock: trio.testing.MockClock) -> None:
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (device, tap):
            tap.holds_writes = True
            device.write_batch([frame(1)])
            before = trio.current_time()
        del device
        gc.collect()
        assert trio.current_time() - before == DRAIN_SECONDS
        (port,) = iocp._held
        assert len(kernel.queues) == 1
        kernel.release_writes(tap)  # It writes into the OVERLAPPED; its packet finds its key.
        await trio.testing.wait_all_tasks_blocked()
        assert len(port.take()) == 1
        assert await port.finish(0)
        assert not iocp._held


async def test_a_cancelled_program_closes_it_all_the_same() -> None:
    with FakeKernel().installed() as kernel:
        with trio.CancelScope() as scope:
            async with plugged(kernel) as (device, _):
                scope.cancel()
                await device.wait_readable()
        assert scope.cancelled_caught
        assert not iocp._held


async def test_a_handle_that_windows_does_not_watch_is_closed() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.mac, kernel.fail_association = MAC, True
        with pytest.raises(MachineError, match="Windows does not watch the network adapter 'Game'"):
            async with open_windows_tap(None, MAC, no_change):
                pytest.fail("opened")
        assert tap.handle is None
        assert not iocp._held


async def test_the_calls_are_in_the_order_that_is_documented() -> None:
    """GET_VERSION, GET_MAC, the port before the first operation, media status, and all in reverse at the end."""
    with FakeKernel().installed() as kernel:
        async with plugged(kernel) as (_, tap):
            assert kernel.counts == {"ReadFile": READS}
        assert kernel.calls == [
            f"CreateFileW \\\\.\\Global\\{tap.guid}.tap",
            "DeviceIoControl 0x220008",
            "DeviceIoControl 0x220004",
            "CreateIoCompletionPort",
            "DeviceIoControl 0x220018 1",
            "CancelIoEx",
            "CloseHandle",
        ]
