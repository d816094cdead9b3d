"""A TAP-Windows6 adapter whose cable ends in this process.

Owns: frames in and out of an open adapter in batches, the adapter's cable, the end of an adapter, waiting for one that
was restarted.
Must not know: how adapters are found and get their MAC (adapters.py), control codes (driver.py), what frames are for.

Path of a frame to the player's programs: ``write_batch`` → into a free write's buffer → WriteFile: the driver hands it
to Windows within the call → the packet in the completion port frees the buffer at the event loop's next turn.

Path of a frame from them: the driver's queue (4 MiB, then Windows waits) → the oldest read that waits in the driver →
its packet → ``wait_readable`` returns → ``read_batch`` copies the frame out and gives the read to the driver again.

**Order.** The driver fills the waiting reads first in, first out, under one lock (``src/txpath.c``), so the order in
which reads were issued is the order of the frames. What is delivered is kept to that order here too, whatever order the
packets come in: a read that is complete waits for those that were issued before it. They cannot be long: the driver has
filled them already. Writes are handed to Windows within WriteFile, so the order of the calls is theirs.

**The cable.** The driver refuses reads and writes (ERROR_OPERATION_ABORTED, no packet) while its media status is
"disconnected", and after opening it is. Reads that wait already go on waiting. So reads are issued when the cable is
plugged in. The same refusal comes while Windows sleeps or an adapter is stopping, and nothing tells when that is over:
a reader with no read in the driver tries again, a few times.

**The end.** The driver cancels the waiting reads when its adapter is removed, disabled or restarted, and can leave only
when our handle is closed. So a cancelled read that we did not cancel means: gone.

**Memory** that the kernel writes into belongs to ``iocp.Port``, not to this device; see there.
"""

from __future__ import annotations

import ctypes
from collections import deque
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
from lanparty.link.windows.adapters import choose_adapter, mac_change
from lanparty.link.windows.driver import (
    AdapterStoppedError,
    check_version,
    close_adapter,
    driver_mac,
    driver_mtu,
    open_adapter,
    set_media_status,
)
from lanparty.link.windows.iocp import Port
from lanparty.link.windows.winapi.base import DWORD
from lanparty.link.windows.winapi.dll import last_error
from lanparty.link.windows.winapi.kernel32 import (
    ERROR_INVALID_USER_BUFFER,
    ERROR_IO_PENDING,
    ERROR_MORE_DATA,
    ERROR_NO_SYSTEM_RESOURCES,
    ERROR_NOT_ENOUGH_MEMORY,
    ERROR_OPERATION_ABORTED,
    ERROR_WORKING_SET_QUOTA,
    KERNEL32,
)
from lanparty.obs.errors import MachineError
from lanparty.proto.superframe import plain_frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from lanparty.link.windows.adapters import MacChange, TapAdapter
    from lanparty.link.windows.iocp import Operation
    from lanparty.proto.superframe import Frame

__all__ = ["MacRefusedError", "WindowsTapDevice", "open_windows_tap", "reopened"]

READS: Final = READ_LIMIT
"""Reads that wait in the driver. No more frames than these can come in one turn of the event loop: fewer than a batch
would make more turns, more would not be asked for. What comes meanwhile waits in the driver, and is not lost."""

WRITES: Final = 512
"""Writes under way at most; a frame that finds none free is dropped, the newest, and counted, as a kernel's queue does
it. The driver is done within the call, but we hear of it only at the event loop's next turn, so this is the longest
burst that one turn can bring: some ten full super-frames, 7 ms at 100 MB/s. It costs 1 MiB."""

SLOT: Final = 2048
"""Bytes of a buffer: a full frame (1514), with VLAN tags too (1522), and some more, so that a longer one is seen to be
too long. What does not fit at all the driver drops (ERROR_MORE_DATA), and it is counted the same."""

_REFUSED_FOR_NOW: Final = frozenset(
    {
        ERROR_OPERATION_ABORTED,
        ERROR_NOT_ENOUGH_MEMORY,
        ERROR_NO_SYSTEM_RESOURCES,
        ERROR_WORKING_SET_QUOTA,
        ERROR_INVALID_USER_BUFFER,
    }
)
"""What ReadFile says when the same call may succeed later: the driver is not ready (see "The cable"), or Windows has no
memory to lock (Microsoft, ReadFile: "too many outstanding asynchronous I/O requests")."""

RETRY_SECONDS: Final = 0.25
RETRIES: Final = 12
"""Three seconds. Waking up, Windows powers the adapter up within a second; an adapter that is stopping waits for us."""

REOPEN_SECONDS: Final = 15.0
REOPEN_STEP: Final = 0.2
"""How long, and in what steps, a restarted adapter is waited for. It takes a second or two, and longer on a computer
that scans every driver it loads. Windows could announce its device (CM_Register_Notification), in a foreign thread;
five looks per second, for a moment of the start, are less to go wrong."""

DRAIN_SECONDS: Final = 2.0
"""How long cancelled operations are waited for. The driver gives reads back at once; writes are with Windows' network
stack, for milliseconds."""


class MacRefusedError(MachineError):
    """The adapter does not take our MAC; with another one, nothing is done."""


class WindowsTapDevice:
    """An ``EthernetDevice`` on a TAP-Windows6 adapter. Made by ``open_windows_tap``.

    Its cable is not plugged in at first: see ``set_media``.
    """

    def __init__(
        self, adapter: TapAdapter, handle: int, mac: bytes, max_frame: int, port: Port, counters: DeviceCounters
    ) -> None:
        """``handle`` is this device's from here on. Raises MachineError: Windows does not watch it."""
        self.name: str = adapter.name
        self.adapter: TapAdapter = adapter
        self.mac: bytes = mac
        self.counters: DeviceCounters = counters
        self._handle = handle
        self._max_frame = max_frame
        self._port = port
        self._connected = False
        self._gone: str | None = None
        self._patience = RETRIES
        self._idle: list[Operation] = port.operations(READS, SLOT)
        self._reads: deque[Operation] = deque()
        """Reads that the driver has or had, in the order in which it got them."""
        self._free: list[Operation] = port.operations(WRITES, SLOT, writes=True)
        self._read_file = KERNEL32.ReadFile
        self._write_file = KERNEL32.WriteFile
        error = port.associate(handle)
        if error:
            raise MachineError(
                f"Windows does not watch the network adapter '{self.name}' (error {error}): restart the computer"
            )

    @property
    def driver_mtu(self) -> int:
        """The MTU of the adapter's advanced settings, in bytes; see ``driver.driver_mtu``. Raises MachineError."""
        self._check()
        return driver_mtu(self._handle, self.name)

    def set_media(self, connected: bool) -> None:
        """Plug the cable in, or pull it out. Raises DeviceGoneError, MachineError."""
        self._check()
        set_media_status(self._handle, self.name, connected)
        self._connected, self._patience = connected, RETRIES
        self._supply()
        self._port.wake()

    async def wait_readable(self) -> None:
        """See ``EthernetDevice``. Waits, too, while the cable is not plugged in."""
        while True:
            self._check()
            if self._reads and not self._reads[0].pending:
                await trio.lowlevel.checkpoint()
                self._check()
                return
            self._supply()
            refused = self._connected and not self._reads
            if refused and not self._patience:
                self._lose(ERROR_OPERATION_ABORTED)
                continue
            with trio.move_on_after(RETRY_SECONDS) if refused else trio.CancelScope():
                self._settle(await self._port.wait())
            if refused:
                self._patience -= 1
            if self._gone is not None:
                self._port.wake()  # for ``iocp.Port.finish``, which waits for what we may have taken

    def read_batch(self, limit: int = READ_LIMIT) -> list[Frame]:
        """See ``EthernetDevice``."""
        self._check()
        self._settle(self._port.take())
        reads, idle, counters, longest = self._reads, self._idle, self.counters, self._max_frame
        frames: list[Frame] = []
        octets = 0
        while reads and not reads[0].pending and len(frames) < limit and octets < READ_BYTES:
            operation = reads.popleft()
            idle.append(operation)
            size = operation.size
            if operation.status:
                self._failed(operation)
            elif size > longest:
                counters.oversize_dropped += 1
            elif size < MIN_FRAME:
                counters.runt_dropped += 1
            else:
                frames.append(operation.buffer[:size].tobytes())
                octets += size
        counters.frames_in += len(frames)
        counters.bytes_in += octets
        self._supply()
        if not frames:
            self._check()
        return frames

    def write_batch(self, frames: Sequence[Frame]) -> None:
        """See ``EthernetDevice``."""
        counters, free, longest = self.counters, self._free, self._max_frame
        write, handle = self._write_file, self._handle
        plain = plain_frames(frames)
        if self._gone is not None or not self._connected:
            counters.write_dropped += len(plain)
            return
        if len(free) < len(plain):
            self._settle(self._port.take())
        taken = octets = 0
        for frame in plain:
            size = len(frame)
            if size > longest:
                counters.oversize_dropped += 1
            elif size < MIN_FRAME:
                counters.runt_dropped += 1
            elif not free:
                counters.write_dropped += 1
            else:
                operation = free.pop()
                operation.buffer[:size] = frame
                operation.asked, operation.pending = size, True
                done = write(handle, operation.address, size, None, operation.pointer)
                if done or last_error() == ERROR_IO_PENDING:  # a packet comes in both cases
                    taken += 1
                    octets += size
                else:
                    operation.pending = False
                    free.append(operation)
                    counters.write_dropped += 1
        counters.frames_out += taken
        counters.bytes_out += octets

    def close(self) -> None:
        """See ``EthernetDevice``. The driver pulls the cable out."""
        if self._handle:
            self._gone = self._gone or f"{self.name} is closed"
            KERNEL32.CancelIoEx(self._handle, None)  # ERROR_NOT_FOUND: nothing was under way
            close_adapter(self._handle)
            self._handle = 0
            self._port.wake()

    def _check(self) -> None:
        if self._gone is not None:
            raise DeviceGoneError(self._gone)

    def _lose(self, error: int) -> None:
        self._gone = self._gone or (
            f"{self.name} is gone: the network adapter was removed, disabled or restarted (Windows error {error})"
        )

    def _supply(self) -> None:
        """Give the driver all the reads that it does not have."""
        if not self._connected or self._gone is not None:
            return
        idle, reads, read, handle = self._idle, self._reads, self._read_file, self._handle
        while idle:
            operation = idle[-1]
            operation.pending = True
            if not read(handle, operation.address, SLOT, None, operation.pointer):
                error = last_error()
                if error != ERROR_IO_PENDING:
                    operation.pending = False
                    if error not in _REFUSED_FOR_NOW:
                        self._lose(error)
                    return
            reads.append(idle.pop())
            self._patience = RETRIES

    def _settle(self, operations: Iterable[Operation]) -> None:
        """Take note of what was completed. Reads are looked at in their order, by ``read_batch``."""
        free = self._free
        for operation in operations:
            if operation.writes:
                free.append(operation)
                if operation.status:  # It was taken, and then it was not.
                    self.counters.frames_out -= 1
                    self.counters.bytes_out -= operation.asked
                    self.counters.write_dropped += 1

    def _failed(self, operation: Operation) -> None:
        size = DWORD()
        KERNEL32.GetOverlappedResult(self._handle, operation.pointer, ctypes.byref(size), False)
        error = last_error()
        if error == ERROR_MORE_DATA:
            self.counters.oversize_dropped += 1
        else:
            self._lose(error)


@asynccontextmanager
async def open_windows_tap(
    name: str | None,
    mac: bytes,
    change_mac: Callable[[MacChange], Awaitable[None]],
    *,
    mtu: int = DEFAULT_MTU,
    counters: DeviceCounters | None = None,
) -> AsyncIterator[WindowsTapDevice]:
    """The adapter of this name or GUID (None: the first free one) with this MAC (6 bytes), its cable pulled out.

    ``change_mac`` is called only when the adapter has another MAC: it writes the change into a journal and makes it
    (``adapters.apply_mac_change``, which blocks: in a thread). Undoing it is the journal's, after this block.
    Frames longer than ``mtu`` (bytes) and their header are dropped. ``counters`` go on counting where another device
    stopped.

    Raises DriverMissingError, AdapterBusyError, AdapterStoppedError, MacRefusedError, MachineError.
    """
    adapter, handle = await _opened(name, mac, change_mac)
    try:
        port = Port()
    except BaseException:
        close_adapter(handle)
        raise
    device = None
    try:
        device = WindowsTapDevice(adapter, handle, mac, mtu + ETHERNET_HEADER, port, counters or DeviceCounters())
        yield device
    finally:
        if device is None:
            close_adapter(handle)
        else:
            device.close()
        await port.finish(DRAIN_SECONDS)


async def _opened(
    name: str | None, mac: bytes, change_mac: Callable[[MacChange], Awaitable[None]]
) -> tuple[TapAdapter, int]:
    """Give an adapter that has this MAC, and its handle."""
    adapter, handle = choose_adapter(name)
    try:
        check_version(handle, adapter.name)
        found = driver_mac(handle, adapter.name)
    except BaseException:
        close_adapter(handle)
        raise
    if found == mac:
        return adapter, handle
    close_adapter(handle)  # An adapter that is restarted waits for its last handle to be closed.
    change = mac_change(adapter, mac)
    await change_mac(change)
    handle = await reopened(adapter)
    try:
        found = driver_mac(handle, adapter.name)
        if found != mac:
            raise MacRefusedError(
                f"the network adapter '{adapter.name}' keeps the MAC address {found.hex(':')} and does not take "
                f"{mac.hex(':')}: set its 'MAC Address' to {change.after} by hand (Device Manager, the adapter's "
                "properties, Advanced), restart the computer, or choose another adapter (--tap NAME)"
            )
    except BaseException:
        close_adapter(handle)
        raise
    return adapter, handle


async def reopened(adapter: TapAdapter) -> int:
    """Open an adapter that was restarted, as soon as it is there. Raises AdapterStoppedError, MachineError."""
    deadline = trio.current_time() + REOPEN_SECONDS
    while True:
        try:
            return open_adapter(adapter.guid, adapter.name)
        except AdapterStoppedError:
            if trio.current_time() >= deadline:
                raise AdapterStoppedError(
                    f"the network adapter '{adapter.name}' did not come back after it was restarted: enable it in "
                    "Windows' list of network connections (ncpa.cpl), or restart the computer"
                ) from None
        await trio.sleep(REOPEN_STEP)
