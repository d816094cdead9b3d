from __future__ import annotations

import ctypes
import gc
import sys
import weakref

import pytest
import trio
import trio.testing
from fake_kernel import FakeKernel, FakeTap

from lanparty.link.windows import iocp
from lanparty.link.windows.driver import close_adapter, open_adapter, set_media_status
from lanparty.link.windows.iocp import Operation, Port
from lanparty.link.windows.winapi.kernel32 import ERROR_INVALID_PARAMETER, KERNEL32
from lanparty.obs.errors import MachineError


def opened(kernel: FakeKernel) -> tuple[FakeTap, int, Port]:
    tap = kernel.add_tap()
    handle = open_adapter(tap.guid, tap.name)
    port = Port()
    assert port.associate(handle) == 0
    set_media_status(handle, tap.name, True)
    return tap, handle, port


def read(handle: int, operation: Operation) -> None:
    operation.pending = True
    KERNEL32.ReadFile(handle, operation.address, len(operation.buffer), None, operation.pointer)


async def test_a_batch_of_completions_is_taken_at_once() -> None:
    with FakeKernel().installed() as kernel:
        tap, handle, port = opened(kernel)
        operations = port.operations(5, 100)
        assert all(operation.address % 2 == 0 for operation in operations)
        for operation in operations:
            read(handle, operation)
        assert port.pending == 5
        kernel.send(tap, [b"a" * 60, b"b" * 61, b"c" * 62])
        assert port.take() == []  # The event loop has not looked yet.
        assert await port.wait() == operations[:3]
        assert [bytes(operation.buffer[: operation.size]) for operation in operations[:3]] == [
            b"a" * 60,
            b"b" * 61,
            b"c" * 62,
        ]
        assert [operation.status for operation in operations[:3]] == [0, 0, 0]
        assert port.pending == 2
        kernel.send(tap, [b"d" * 60])
        await trio.testing.wait_all_tasks_blocked()
        assert port.take() == [operations[3]]
        close_adapter(handle)
        assert await port.finish(1)
        assert kernel.queues == {}


async def test_buffers_do_not_overlap() -> None:
    with FakeKernel().installed() as kernel:
        _, handle, port = opened(kernel)
        operations = port.operations(7, 64) + port.operations(3, 2048, writes=True)
        for number, operation in enumerate(operations):
            operation.buffer[:] = bytes([number]) * len(operation.buffer)
        for number, operation in enumerate(operations):
            assert ctypes.string_at(operation.address, len(operation.buffer)) == bytes([number]) * len(operation.buffer)
        assert [operation.writes for operation in operations] == [False] * 7 + [True] * 3
        close_adapter(handle)
        assert await port.finish(1)


async def test_wake_lets_the_waiting_task_go() -> None:
    with FakeKernel().installed() as kernel:
        _, handle, port = opened(kernel)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                assert await port.wait() == []

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            port.wake()
        close_adapter(handle)
        assert await port.finish(1)


async def test_memory_lives_until_the_kernel_is_done(autojump_clock: trio.testing.MockClock) -> None:
    with FakeKernel().installed() as kernel:
        tap, handle, port = opened(kernel)
        (operation,) = port.operations(1, 4096)
        read(handle, operation)
        (late,) = tap.reads
        tap.reads.clear()  # A driver that does not give its reads back.
        close_adapter(handle)
        before = trio.current_time()
        assert not await port.finish(2)
        assert trio.current_time() - before == 2
        remembered = weakref.ref(port)
        del port, operation
        gc.collect()
        assert remembered() is not None
        assert len(kernel.queues) == 1  # The key is still known: trio would end with a packet for another.

        tap.queue.append(b"x" * 4000)
        tap.reads.append(late)
        kernel.send(tap, [])
        tap.media = True
        tap.handle = 1
        kernel.send(tap, [])  # It writes into the memory only now.
        tap.handle = None
        await trio.testing.wait_all_tasks_blocked()
        again = remembered()
        assert again is not None
        assert [done.size for done in again.take()] == [4000]
        assert await again.finish(1)
        del again
        gc.collect()
        assert remembered() is None
        assert kernel.queues == {}


async def test_finish_is_not_stopped_by_a_cancellation() -> None:
    with FakeKernel().installed() as kernel:
        tap, handle, port = opened(kernel)
        for operation in port.operations(3, 64):
            read(handle, operation)
        with trio.CancelScope() as scope:
            scope.cancel()
            KERNEL32.CancelIoEx(handle, None)
            close_adapter(handle)
            assert await port.finish(1)
        assert not tap.reads
        assert port not in iocp._held


async def test_a_handle_that_is_not_watched() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap()
        handle = open_adapter(tap.guid, tap.name)
        kernel.fail_association = True
        port = Port()
        assert port.associate(handle) == ERROR_INVALID_PARAMETER
        close_adapter(handle)
        assert await port.finish(1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has them")
async def test_without_windows_there_is_no_port() -> None:
    held = set(iocp._held)
    with pytest.raises(MachineError, match="this is not Windows"):
        Port()
    assert iocp._held == held
