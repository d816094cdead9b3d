"""Overlapped operations, and this program's share of trio's completion port.

Owns: the seam to trio's Windows support, the memory that the kernel writes into, and how long that memory lives.
Must not know: which device is read and written.

Path of an operation: ``Operation`` has an OVERLAPPED and a buffer, both at fixed addresses → the owner hands both to
ReadFile or WriteFile → the kernel completes it and queues a packet to the port → trio's event loop, which waits on
this port anyhow, takes up to 1000 packets at once and puts those with our key into a queue → ``Port.wait`` or
``Port.take`` gives the operations, in a batch. No thread, and no task for an operation.

trio's ``monitor_completion_key`` is used and not ``wait_overlapped``: that is one task for each operation, and in trio
0.35 it ends with an internal error when an operation completes before its task waits for it, as the TAP driver's do.

**Memory.** From the call until its packet was seen, the kernel writes into the OVERLAPPED and the buffer, whoever
still remembers them. So the memory of all operations belongs to the `Port`, and a set of this module holds every port
from its start until the last packet was seen (``finish``). A device that is dropped, an exception, a cancellation: none
of them can give memory back that the kernel has. Should a driver never complete an operation, then its port stays for
the life of the program, and so does its key: a packet for a key that trio does not know ends trio's event loop.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final, Protocol

import trio

from lanparty.link.windows.winapi.dll import last_error
from lanparty.link.windows.winapi.kernel32 import KERNEL32, OVERLAPPED
from lanparty.obs.errors import MachineError

__all__ = ["Completion", "CompletionQueue", "Monitor", "Operation", "Port", "fake_monitor"]

_held: Final[set[Port]] = set()
"""Ports that have, or may get, operations in the kernel."""


class Completion(Protocol):
    """One packet, as trio gives it (``CompletionKeyEventInfo``)."""

    @property
    def lpOverlapped(self) -> Any:  # noqa: N802 - Microsoft's name
        """The address of the operation's OVERLAPPED, an int."""
        ...

    @property
    def dwNumberOfBytesTransferred(self) -> int:  # noqa: N802 - Microsoft's name
        """Bytes that were read or written."""
        ...


class CompletionQueue(Protocol):
    """What of ``trio.lowlevel.UnboundedQueue`` is needed here."""

    def put_nowait(self, obj: object) -> None:
        """Append something; a waiting task gets it."""
        ...

    def get_batch_nowait(self) -> Sequence[object]:
        """Give all that is there. Raises trio.WouldBlock: nothing."""
        ...

    async def get_batch(self) -> Sequence[object]:
        """Give all that is there, and wait until there is something."""
        ...


Monitor = Callable[[], AbstractContextManager[tuple[int, int, CompletionQueue]]]
"""Gives the port's handle, a key of it, and the queue of the packets that come with this key."""

_fake: Monitor | None = None


@contextmanager
def fake_monitor(monitor: Monitor) -> Iterator[None]:
    """Let every `Port` use ``monitor`` instead of trio's, inside. For tests."""
    global _fake
    before, _fake = _fake, monitor
    try:
        yield
    finally:
        _fake = before


@contextmanager
def _monitor() -> Iterator[tuple[int, int, CompletionQueue]]:
    if _fake is not None:
        with _fake() as monitored:
            yield monitored
    elif sys.platform == "win32":
        with ExitStack() as stack:
            with warnings.catch_warnings():
                # trio still makes a queue that it has deprecated; that is no news for a player's console.
                warnings.simplefilter("ignore", trio.TrioDeprecationWarning)
                key, queue = stack.enter_context(trio.lowlevel.monitor_completion_key())
            yield trio.lowlevel.current_iocp(), key, queue
    else:
        raise MachineError("completion ports are a part of Windows, and this is not Windows")


class Operation:
    """One overlapped operation, used again and again: its OVERLAPPED, its buffer, and how the last use ended.

    Made by `Port.operations`. Plain slots: several are touched for each frame.
    """

    __slots__ = ("address", "asked", "buffer", "overlapped", "pending", "pointer", "size", "status", "writes")

    def __init__(self, overlapped: OVERLAPPED, address: int, buffer: memoryview, writes: bool) -> None:
        self.overlapped = overlapped
        self.pointer = ctypes.byref(overlapped)
        """What a call takes as LPOVERLAPPED."""
        self.address = address
        """Where the buffer begins; what a call takes as LPVOID."""
        self.buffer = buffer
        self.writes = writes
        """What it is for, so that completions can be told apart."""
        self.asked = 0
        """Bytes that the owner asked to be written."""
        self.pending = False
        """The kernel has it. Set by the owner before the call, taken back by it when the call was refused."""
        self.size = 0
        """Bytes that were transferred."""
        self.status = 0
        """The NTSTATUS of its completion; 0: success."""


class Port:
    """Our share of trio's completion port: one key, and the operations whose packets come with it.

    Entered when made; `finish` is what ends it.
    """

    def __init__(self) -> None:
        """Raises MachineError: not Windows."""
        self._stack = ExitStack()
        self._port, self._key, self._queue = self._stack.enter_context(_monitor())
        self._memory: list[object] = []
        self._operations: dict[int, Operation] = {}
        _held.add(self)

    def associate(self, handle: int) -> int:
        """Have packets queued for all overlapped operations on ``handle``; give 0, or Windows' error number."""
        return 0 if KERNEL32.CreateIoCompletionPort(handle, self._port, self._key, 0) else last_error()

    def operations(self, count: int, size: int, *, writes: bool = False) -> list[Operation]:
        """Make ``count`` operations with buffers of ``size`` bytes each, in one block."""
        block = (ctypes.c_ubyte * (count * size))()
        heads = (OVERLAPPED * count)()
        start, view = ctypes.addressof(block), memoryview(block).cast("B")
        made = [
            Operation(heads[index], start + index * size, view[index * size : (index + 1) * size], writes)
            for index in range(count)
        ]
        self._memory += [block, heads]
        self._operations.update((ctypes.addressof(operation.overlapped), operation) for operation in made)
        return made

    @property
    def pending(self) -> int:
        """Number of operations that the kernel has."""
        return sum(operation.pending for operation in self._operations.values())

    async def wait(self) -> list[Operation]:
        """Give the operations that were completed, when there are any; after ``wake`` perhaps none."""
        return self._seen(await self._queue.get_batch())

    def take(self) -> list[Operation]:
        """Give the operations whose completion trio has heard of by now."""
        try:
            return self._seen(self._queue.get_batch_nowait())
        except trio.WouldBlock:
            return []

    def wake(self) -> None:
        """Let the task return that is in ``wait``, or the next one that comes."""
        self._queue.put_nowait(None)

    async def finish(self, seconds: float) -> bool:
        """Wait until the kernel has given everything back, at most so long, whatever is cancelled; then end.

        All operations must have been cancelled before. False: the kernel kept some. Then the memory and the key stay.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
            while self.pending:
                await self.wait()
        if self.pending:
            return False
        self._stack.close()
        _held.discard(self)
        return True

    def _seen(self, packets: Sequence[object]) -> list[Operation]:
        operations = self._operations
        done: list[Operation] = []
        for packet in packets:
            if packet is None:
                continue
            operation = operations[packet.lpOverlapped]  # type: ignore[attr-defined]
            operation.size = packet.dwNumberOfBytesTransferred  # type: ignore[attr-defined]
            operation.status = operation.overlapped.Internal
            operation.pending = False
            done.append(operation)
        return done
