"""kernel32.dll, advapi32.dll and cfgmgr32.dll of a Windows with TAP-Windows6 adapters, for Linux.

    FakeTap       the driver's side of one adapter: its wire (frames to be read, frames written), its reads that wait
    FakeKernel    handles, overlapped operations, the completion port, Plug and Play; the registry is fake_registry's

Overlapped operations are as Windows has them: a call that fails at once queues no packet; one that succeeds at once,
or is pending, queues one. Data goes straight into the caller's memory, by address, whenever the driver likes. Packets
reach the program's queue only at a later turn of the event loop, never within a call; with ``automatic`` off, when
the test says ``deliver``.

What the driver does is taken from the source of tap-windows6 9.27.0: which state refuses what, and with which status.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import struct
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import attrs
import trio
from fake_dll import FakeDll
from fake_registry import FakeRegistry

from lanparty.link.windows import iocp
from lanparty.link.windows.winapi import cfgmgr32, kernel32, tapwindows
from lanparty.link.windows.winapi.base import INVALID_HANDLE_VALUE, wide_text
from lanparty.link.windows.winapi.dll import FakeDlls, Prototype, fakes
from lanparty.link.windows.winapi.kernel32 import OVERLAPPED

STATUS_SUCCESS: Final = 0
STATUS_PENDING: Final = 0x103
STATUS_BUFFER_OVERFLOW: Final = 0x80000005
STATUS_CANCELLED: Final = 0xC0000120
STATUS_DEVICE_REMOVED: Final = 0xC00002B6
ERRORS: Final = {
    STATUS_SUCCESS: kernel32.ERROR_SUCCESS,
    STATUS_PENDING: kernel32.ERROR_IO_INCOMPLETE,
    STATUS_BUFFER_OVERFLOW: kernel32.ERROR_MORE_DATA,
    STATUS_CANCELLED: kernel32.ERROR_OPERATION_ABORTED,
    STATUS_DEVICE_REMOVED: kernel32.ERROR_DEVICE_REMOVED,
}
"""RtlNtStatusToDosError, as far as needed."""

PORT: Final = 0x77
CLASS: Final = tapwindows.ADAPTER_KEY
NAMES: Final = tapwindows.NETWORK_CONNECTIONS_KEY


@attrs.frozen
class Io:
    """An operation that the driver has: where its OVERLAPPED is, and where its buffer."""

    overlapped: int
    buffer: int
    size: int


@attrs.define
class FakeTap:
    """One adapter."""

    guid: str
    name: str
    key: str
    """Its class key."""
    device: str
    """Its device instance id."""
    permanent: bytes
    """The MAC that the driver makes of the GUID."""
    mac: bytes
    mtu: int = 1500
    version: tuple[int, int] = (9, 27)
    enabled: bool = True
    media: bool = False
    powered: bool = True
    handle: int | None = None
    """Ours; ``taken`` is somebody else's."""
    taken: bool = False
    denied: bool = False
    port: tuple[int, int] | None = None
    """Completion port and key that the handle is associated with."""
    queue: deque[bytes] = attrs.field(factory=deque)
    """Frames that Windows sent and nobody has read."""
    reads: deque[Io] = attrs.field(factory=deque)
    written: list[bytes] = attrs.field(factory=list)
    at_once: bool = False
    """Whether writes succeed within the call, as those do that the adapter's filter drops."""
    holds_writes: bool = False
    """Whether Windows keeps what was written for a while."""
    held: list[Io] = attrs.field(factory=list)
    ignores_network_address: bool = False
    back_after: int = 0
    """How often it is looked for in vain after a restart."""
    read_error: int = 0
    """What the next ReadFile answers, once."""
    disable_error: int = cfgmgr32.CR_SUCCESS
    enable_error: int = cfgmgr32.CR_SUCCESS
    ioctl_error: int = 0
    open_error: int = 0
    missing: int = 0


class FakeKernel(FakeDlls):
    """A Windows as far as adapters go; ``dlls`` is whose ``last_error`` counts, when there are more parts."""

    def __init__(self, dlls: FakeDlls | None = None) -> None:
        super().__init__()
        self._dlls = dlls or self
        self.calls: list[str] = []
        """What was called, in order; not the reads and writes, which ``counts`` has."""
        self.counts: Counter[str] = Counter()
        self.registry = FakeRegistry(self.calls)
        self.registry.put(CLASS)
        self.registry.put(CLASS + "\\Properties")
        self.registry.closed.add((CLASS + "\\Properties").lower())
        self.registry.put(NAMES)
        self.taps: list[FakeTap] = []
        self.on_restart: Callable[[FakeTap], None] = lambda tap: None
        self.automatic = True
        self.packets: deque[tuple[int, int, int]] = deque()
        """Queued to the port and not yet taken by the event loop: key, OVERLAPPED's address, bytes."""
        self.queues: dict[int, Any] = {}
        self.fail_association = False
        self._scheduled = False
        self._events: set[int] = set()
        self._handles = itertools.count(0x100, 4)
        self._bound: list[FakeDll] = []

    # --- what the test does

    def add_tap(self, name: str = "OpenVPN TAP-Windows6", *, component: str = "root\\tap0901") -> FakeTap:
        """Install an adapter, with its entries in the registry."""
        number = len(self.taps)
        guid = f"{{5A7E0{number:03X}-1111-4222-8333-444455556666}}"
        permanent = bytes([0x00, 0xFF, 0x5A, 0x7E, number >> 4 & 255, number & 15])
        tap = FakeTap(guid, name, f"{CLASS}\\{number + 7:04}", f"ROOT\\NET\\{number:04}", permanent, permanent)
        self.taps.append(tap)
        self.registry.put(tap.key, ComponentId=component, NetCfgInstanceId=guid, DeviceInstanceID=tap.device)
        self.registry.put(f"{NAMES}\\{guid}\\Connection", Name=name)
        self.registry.put(r"SYSTEM\CurrentControlSet\Services\tap0901", ImagePath=r"System32\drivers\tap0901.sys")
        return tap

    def send(self, tap: FakeTap, frames: Sequence[bytes]) -> None:
        """Let programs of this Windows send frames by the adapter."""
        if tap.media and tap.powered and tap.handle is not None:
            tap.queue.extend(frames)
            self._fill(tap)

    def halt(self, tap: FakeTap, status: int = STATUS_CANCELLED) -> None:
        """Stop the adapter's driver, as removing, disabling and restarting it does."""
        tap.enabled = False
        tap.queue.clear()
        while tap.reads:
            self._complete(tap, tap.reads.popleft(), status, 0)

    def release_writes(self, tap: FakeTap, status: int = STATUS_SUCCESS) -> None:
        """Let Windows give back what it held."""
        tap.holds_writes = False
        for write in tap.held:
            self._complete(tap, write, status, write.size if status == STATUS_SUCCESS else 0)
        tap.held.clear()

    def deliver(self, count: int | None = None, rng: random.Random | None = None) -> int:
        """Let the event loop take so many packets (None: all) from the port; with ``rng``, in any order."""
        taken = [self.packets.popleft() for _ in range(min(len(self.packets), 1000 if count is None else count))]
        if rng is not None:
            rng.shuffle(taken)
        for key, overlapped, size in taken:
            self.queues[key].put_nowait(Packet(overlapped, size))  # KeyError: trio would end with one, too
        return len(taken)

    # --- seams

    def open(self, name: str, prototypes: Mapping[str, Prototype]) -> FakeDll:
        """See ``FakeDlls``."""
        methods: Mapping[str, object] = {"kernel32.dll": self, "cfgmgr32.dll": self, "advapi32.dll": self.registry}
        dll = FakeDll(methods[name], prototypes)
        self._bound.append(dll)
        return dll

    @property
    def raised(self) -> list[BaseException]:
        """What went wrong in the fake itself."""
        return [error for dll in self._bound for error in dll.raised]

    @contextmanager
    def monitor(self) -> Iterator[tuple[int, int, Any]]:
        """A key of the port, as trio gives it."""
        key = next(self._handles)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", trio.TrioDeprecationWarning)
            self.queues[key] = trio.lowlevel.UnboundedQueue()
        try:
            yield PORT, key, self.queues[key]
        finally:
            del self.queues[key]

    @contextmanager
    def installed(self) -> Iterator[FakeKernel]:
        """Be what the program runs on, inside; at the end everything must have been closed."""
        with ExitStack() as stack:
            stack.enter_context(fakes(self))
            stack.enter_context(iocp.fake_monitor(self.monitor))
            yield self
        assert not self.raised
        assert not self.registry.open_keys
        assert not self._events

    # --- inside

    def _fail(self, error: int) -> int:
        self._dlls.last_error = error
        return 0

    def _tap(self, handle: int) -> FakeTap:
        (tap,) = [tap for tap in self.taps if tap.handle == handle]
        return tap

    def _fill(self, tap: FakeTap) -> None:
        while tap.queue and tap.reads:
            read, frame = tap.reads.popleft(), tap.queue.popleft()
            if len(frame) > read.size:
                self._complete(tap, read, STATUS_BUFFER_OVERFLOW, 0)
            else:
                ctypes.memmove(read.buffer, frame, len(frame))
                self._complete(tap, read, STATUS_SUCCESS, len(frame))

    def _complete(self, tap: FakeTap, io: Io, status: int, size: int) -> None:
        overlapped = OVERLAPPED.from_address(io.overlapped)
        assert overlapped.Internal == STATUS_PENDING
        overlapped.Internal, overlapped.InternalHigh = status, size
        if tap.port is None:
            return
        self.packets.append((tap.port[1], io.overlapped, size))
        if self.automatic and not self._scheduled:
            self._scheduled = True
            trio.lowlevel.current_trio_token().run_sync_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self.deliver()

    def _begin(self, overlapped: Any, buffer: int, size: int) -> Io:
        operation = overlapped.contents
        assert operation.Internal != STATUS_PENDING, "this OVERLAPPED is in use"
        operation.Internal = STATUS_PENDING
        return Io(ctypes.addressof(operation), buffer, size)

    # --- kernel32.dll

    def CreateFileW(  # noqa: N802
        self, path: Any, access: int, share: int, security: Any, disposition: int, flags: int, template: Any
    ) -> int:
        name = wide_text(path)
        self.calls.append(f"CreateFileW {name}")
        assert (access, share, disposition) == (0xC0000000, 0, kernel32.OPEN_EXISTING)
        assert flags == kernel32.FILE_FLAG_OVERLAPPED | kernel32.FILE_ATTRIBUTE_SYSTEM
        for tap in self.taps:
            if name.lower() != f"\\\\.\\global\\{tap.guid}.tap".lower():
                continue
            if tap.open_error:
                self._fail(tap.open_error)
                return INVALID_HANDLE_VALUE
            if tap.missing:
                tap.missing -= 1
                break
            if not tap.enabled:
                break
            if tap.denied and not self.registry.administrator:
                self._fail(kernel32.ERROR_ACCESS_DENIED)
                return INVALID_HANDLE_VALUE
            if tap.taken or tap.handle is not None:
                self._fail(kernel32.ERROR_GEN_FAILURE)
                return INVALID_HANDLE_VALUE
            tap.handle, tap.media, tap.port = next(self._handles), False, None
            return tap.handle
        self._fail(kernel32.ERROR_FILE_NOT_FOUND)
        return INVALID_HANDLE_VALUE

    def CloseHandle(self, handle: int) -> int:  # noqa: N802
        if handle in self._events:
            self._events.remove(handle)
            return 1
        tap = self._tap(handle)
        self.calls.append("CloseHandle")
        tap.media = False
        tap.queue.clear()
        while tap.reads:
            self._complete(tap, tap.reads.popleft(), STATUS_CANCELLED, 0)
        tap.handle = None
        return 1

    def CreateEventW(self, security: Any, manual: int, signalled: int, name: Any) -> int:  # noqa: N802
        event = next(self._handles)
        self._events.add(event)
        return event

    def CreateIoCompletionPort(self, handle: int, port: int, key: int, threads: int) -> int | None:  # noqa: N802
        self.calls.append("CreateIoCompletionPort")
        assert port == PORT
        assert key in self.queues
        if self.fail_association:
            self._fail(kernel32.ERROR_INVALID_PARAMETER)
            return None
        self._tap(handle).port = port, key
        return port

    def CancelIoEx(self, handle: int, overlapped: Any) -> int:  # noqa: N802
        self.calls.append("CancelIoEx")
        assert not overlapped
        tap = self._tap(handle)
        if not tap.reads:
            return self._fail(kernel32.ERROR_NOT_FOUND)
        while tap.reads:
            self._complete(tap, tap.reads.popleft(), STATUS_CANCELLED, 0)
        return 1

    def GetOverlappedResult(self, handle: int, overlapped: Any, size: Any, wait: int) -> int:  # noqa: N802
        status = overlapped.contents.Internal
        size[0] = overlapped.contents.InternalHigh
        return 1 if status == STATUS_SUCCESS else self._fail(ERRORS[status])

    def ReadFile(self, handle: int, buffer: int, size: int, read: Any, overlapped: Any) -> int:  # noqa: N802
        self.counts["ReadFile"] += 1
        tap = self._tap(handle)
        if tap.read_error:
            error, tap.read_error = tap.read_error, 0
            return self._fail(error)
        if not (tap.media and tap.enabled and tap.powered):
            return self._fail(kernel32.ERROR_OPERATION_ABORTED)
        tap.reads.append(self._begin(overlapped, buffer, size))
        self._fill(tap)
        return self._fail(kernel32.ERROR_IO_PENDING)

    def WriteFile(self, handle: int, buffer: int, size: int, written: Any, overlapped: Any) -> int:  # noqa: N802
        self.counts["WriteFile"] += 1
        tap = self._tap(handle)
        if not (tap.media and tap.enabled and tap.powered):
            return self._fail(kernel32.ERROR_OPERATION_ABORTED)
        write = self._begin(overlapped, buffer, size)
        tap.written.append(ctypes.string_at(buffer, size))
        if tap.holds_writes:
            tap.held.append(write)
        else:
            self._complete(tap, write, STATUS_SUCCESS, size)
            if tap.at_once:
                return 1
        return self._fail(kernel32.ERROR_IO_PENDING)

    def DeviceIoControl(  # noqa: N802
        self, handle: int, code: int, source: int, given: int, target: int, room: int, size: Any, overlapped: Any
    ) -> int:
        tap = self._tap(handle)
        assert overlapped.contents.hEvent & 1, "the answer would go to the completion port"
        answers = {
            tapwindows.TAP_WIN_IOCTL_GET_MAC: tap.mac,
            tapwindows.TAP_WIN_IOCTL_GET_VERSION: struct.pack("<III", *tap.version, 0),
            tapwindows.TAP_WIN_IOCTL_GET_MTU: struct.pack("<I", tap.mtu),
        }
        if tap.ioctl_error:
            return self._fail(tap.ioctl_error)
        if code in answers:
            self.calls.append(f"DeviceIoControl {code:#x}")
            assert room >= len(answers[code])
            ctypes.memmove(target, answers[code], len(answers[code]))
            overlapped.contents.InternalHigh = len(answers[code])
        elif code == tapwindows.TAP_WIN_IOCTL_SET_MEDIA_STATUS:
            tap.media = bool(struct.unpack("<I", ctypes.string_at(source, given))[0])
            self.calls.append(f"DeviceIoControl {code:#x} {int(tap.media)}")
            overlapped.contents.InternalHigh = 1
        else:
            return self._fail(kernel32.ERROR_INVALID_FUNCTION)
        overlapped.contents.Internal = STATUS_SUCCESS
        return 1

    # --- cfgmgr32.dll

    def CM_Locate_DevNodeW(self, device: Any, instance: Any, flags: int) -> int:  # noqa: N802
        for number, tap in enumerate(self.taps):
            if tap.device == wide_text(instance):
                device[0] = 0x900 + number
                return cfgmgr32.CR_SUCCESS
        return cfgmgr32.CR_NO_SUCH_DEVNODE

    def CM_Disable_DevNode(self, device: int, flags: int) -> int:  # noqa: N802
        tap = self.taps[device - 0x900]
        self.calls.append(f"CM_Disable_DevNode {tap.device}")
        if not self.registry.administrator:
            return cfgmgr32.CR_ACCESS_DENIED
        if tap.disable_error == cfgmgr32.CR_SUCCESS:
            self.halt(tap)
        return tap.disable_error

    def CM_Enable_DevNode(self, device: int, flags: int) -> int:  # noqa: N802
        tap = self.taps[device - 0x900]
        self.calls.append(f"CM_Enable_DevNode {tap.device}")
        if not self.registry.administrator:
            return cfgmgr32.CR_ACCESS_DENIED
        if tap.enable_error == cfgmgr32.CR_SUCCESS and not tap.enabled:
            tap.enabled, tap.media, tap.missing = True, False, tap.back_after
            wanted = bytes.fromhex((self.registry.get(tap.key, "NetworkAddress") or "").replace("-", ""))
            # src/adapter.c: six bytes, for one receiver, locally administered; else the driver's own
            lawful = len(wanted) == 6 and wanted[0] & 3 == 2 and not tap.ignores_network_address
            tap.mac = wanted if lawful else tap.permanent
            self.on_restart(tap)
        return tap.enable_error


@attrs.frozen
class Packet:
    """What trio puts into the queue: its CompletionKeyEventInfo."""

    lpOverlapped: int  # noqa: N815
    dwNumberOfBytesTransferred: int  # noqa: N815
