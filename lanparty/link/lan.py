"""The gateway's plug in the house LAN, kept in the socket whatever happens to the interface.

Owns: opening the interface the way its kind needs, reading it, handing out the players' frames, watching for it to go
and return. Outlives every connection to the relay.
Must not know: rooms, the relay, CAM refresh.

    plain NIC                                             bridge
      in: wire, and what the box's stack sends              in: a port of our own (TAP), enslaved to the bridge
          → packet socket, BPF filter → on_frames               → BPF filter → on_frames
      out: own MAC      → own stack (own_stack.py)          out: → the port: the bridge switches it, to the box's
           group        → own stack and wire                     own stack as well
           anything else → wire

Path of a batch from the house: wait_readable → read_batch → ``accepts`` → on_frames. The filter is asked again in
Python, because frames that waited while the members changed have passed the old one, and because the kernel may have
had room for the short one only (bpf.py).

States: "up" is an interface that is there, up, and (a NIC) has a carrier; ``on_state`` tells each change. A cable
that is pulled keeps the device open. An interface that goes down, vanishes, or returns with another MAC is opened
anew.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # packet sockets, netlink

import os
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from lanparty.link.adapter import open_adapter
from lanparty.link.bpf import accepts, deaf_filter, lan_filter
from lanparty.link.checks import check_interface
from lanparty.link.device import DEFAULT_MTU, ETHERNET_HEADER, MIN_FRAME, DeviceCounters, DeviceGoneError
from lanparty.link.kernel import disable_ipv6
from lanparty.link.netlink import LinkChange, NetlinkMissing, Overflow
from lanparty.link.own_stack import open_own_stack
from lanparty.link.packet import check_packet_permission, open_packet
from lanparty.obs.errors import MachineError
from lanparty.obs.events import LINK_NOT_USABLE
from lanparty.obs.log import log
from lanparty.proto.superframe import frames_of, head_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from lanparty.link.device import EthernetDevice
    from lanparty.link.machine import AdapterKind
    from lanparty.link.netlink import LinkInfo, Netlink, Watch
    from lanparty.link.packet import PacketDevice
    from lanparty.link.tap import TapDevice
    from lanparty.proto.superframe import Frame

__all__ = ["PORT_NAME", "LanLink"]

PORT_NAME: Final = "lanparty-port%d"
"""Of the bridge port; the kernel puts the first free number in."""

RETRY_DELAY: Final = 0.5
"""Seconds between looks at an interface that is away or does not open. Netlink tells of its return at once; this is
for what netlink does not tell."""


class LanLink:
    """The house LAN, as one device that survives its interface.

    ``on_frames`` gets every batch of frames for the room, synchronously. ``on_state`` gets True when the LAN came
    up, False when it went. ``max_frame``: bytes of the longest frame either way. ``helper``: what helper interfaces
    are made of.
    """

    def __init__(
        self,
        interface: str,
        *,
        on_frames: Callable[[list[Frame]], None],
        on_state: Callable[[bool], None] | None = None,
        counters: DeviceCounters | None = None,
        max_frame: int = DEFAULT_MTU + ETHERNET_HEADER,
        helper: AdapterKind = "auto",
    ) -> None:
        self.interface: str = interface
        self.on_frames: Callable[[list[Frame]], None] = on_frames
        self.on_state: Callable[[bool], None] | None = on_state
        self._counters = DeviceCounters() if counters is None else counters
        self._max_frame = max_frame
        self._helper: AdapterKind = helper
        self._members: frozenset[bytes] = frozenset()
        self._deaf = False
        self._mac = b""
        self._up = False
        self._device: PacketDevice | TapDevice | None = None
        self._own_stack: EthernetDevice | None = None
        self._watched: frozenset[str] = frozenset({interface})
        self._changed = trio.Event()

    @property
    def mac(self) -> bytes:
        """The interface's own MAC address, 6 bytes; empty before it was first seen."""
        return self._mac

    @property
    def is_up(self) -> bool:
        """Whether frames can be sent and received now."""
        return self._up

    @property
    def counters(self) -> DeviceCounters:
        """What went through the interface since the start, over every reopening."""
        return self._counters if self._device is None else self._device.counters

    def set_members(self, members: Iterable[bytes]) -> None:
        """Say which MACs (6 bytes each) are remote now: only frames for them, and group frames, reach
        ``on_frames``."""
        self._members = frozenset(members)
        if self._device is not None:
            self._set_filter(self._device)

    def set_deaf(self, deaf: bool) -> None:
        """Have the kernel keep everything from us, or no more: in a LAN that has a loop reading is work without
        end."""
        if deaf != self._deaf:
            self._deaf = deaf
            if self._device is not None:
                self._set_filter(self._device)

    def write_batch(self, frames: Sequence[Frame]) -> None:
        """Send players' frames into the house, in order; never blocks. While the LAN is down they are dropped,
        counted."""
        device, own_stack = self._device, self._own_stack
        if device is None or not self._up:
            self._counters.write_dropped += frames_of(frames)
            return
        if own_stack is None:
            device.write_batch(frames)
            return
        own_mac, members = self._mac, self._members
        wire: list[Frame] = []
        inside: list[Frame] = []
        for frame in frames:
            head = head_of(frame)  # A super-frame goes one way as a whole: its frames have one destination.
            if len(head) < MIN_FRAME:
                self._counters.runt_dropped += 1
            elif head[0] & 1:
                wire.append(frame)
                # Our packet socket will see it on the NIC and knows it by its source. One that is not known (yet) would
                # be sent back into the room.
                if head[6:12] in members:
                    inside.append(frame)
            elif head[:6] == own_mac:
                inside.append(frame)
            else:
                wire.append(frame)
        if wire:
            device.write_batch(wire)
        if inside:
            own_stack.write_batch(inside)

    async def run(self, netlink: Netlink, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the LAN link until cancelled. "Started" is when the interface was opened, or was found to be down.

        Raises MachineError when it cannot be used at all: missing, wireless, not Ethernet, no permission. Once
        started it waits for such things to pass, and says so.
        """
        started = False

        def announce() -> None:
            nonlocal started
            if not started:
                started = True
                task_status.started()

        with ExitStack() as stack:
            watch = stack.enter_context(netlink.watch())
            stack.callback(self._forget)
            await check_interface(self.interface, netlink)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, watch)
                complaint = ""
                while True:
                    self._changed = trio.Event()
                    try:
                        await self._visit(netlink, announce)
                        complaint = ""
                    except NetlinkMissing:
                        complaint = ""  # away: wait for it
                    except MachineError as error:
                        if not started:
                            raise
                        if str(error) != complaint:
                            complaint = str(error)
                            log(LINK_NOT_USABLE, interface=self.interface, reason=complaint)
                    self._set_state(up=False)
                    announce()
                    with trio.move_on_after(RETRY_DELAY):
                        await self._changed.wait()

    async def _visit(self, netlink: Netlink, announce: Callable[[], None]) -> None:
        """Open the interface, if it is up, and serve it until it is gone or has become another one."""
        link = await check_interface(self.interface, netlink)
        if not link.up:
            if link.kind != "bridge":
                check_packet_permission(link.name)  # a missing permission is told now, not when the interface is up
            return
        async with self._open(link, netlink) as device:
            self._set_state(up=link.carrier or link.kind == "bridge")
            announce()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_changed, link, device, netlink, nursery.cancel_scope)
                await self._read(device)
                nursery.cancel_scope.cancel()

    async def _watch(self, watch: Watch) -> None:
        async for change in watch:
            if isinstance(change, Overflow) or (isinstance(change, LinkChange) and change.name in self._watched):
                self._changed.set()

    @asynccontextmanager
    async def _open(self, link: LinkInfo, netlink: Netlink) -> AsyncIterator[PacketDevice | TapDevice]:
        """The device for this kind of interface, filtered and ready."""
        async with AsyncExitStack() as stack:
            device: PacketDevice | TapDevice
            if link.kind == "bridge":
                device = await stack.enter_async_context(self._open_port(link, netlink))
                # The bridge may have taken another MAC with its first port.
                link = await netlink.require_link(link.name)
                own_stack = None
            else:
                device = open_packet(
                    link.name,
                    max_frame=self._max_frame,
                    program=lan_filter(()),
                    promiscuous=True,
                    counters=self._counters,
                )
                stack.callback(device.close)
                own_stack = await stack.enter_async_context(
                    open_own_stack(link, netlink, max_frame=self._max_frame, kind=self._helper)
                )
            self._device, self._own_stack, self._mac = device, own_stack, link.mac
            names = {link.name, device.name} if own_stack is None else {link.name, own_stack.name}
            self._watched = frozenset(names)
            self._set_filter(device)
            try:
                yield device
            finally:
                self._device = self._own_stack = None
                self._watched = frozenset({self.interface})

    @asynccontextmanager
    async def _open_port(self, bridge: LinkInfo, netlink: Netlink) -> AsyncIterator[PacketDevice | TapDevice]:
        # A bridge takes the lowest MAC of its ports as its own: 0xFE in front makes ours the highest, as libvirt does.
        mac = b"\xfe" + os.urandom(5)
        async with open_adapter(
            PORT_NAME,
            mac,
            bridge.mtu,  # a bridge takes the smallest MTU of its ports as its own
            netlink,
            self._helper,
            up=False,
            max_frame=self._max_frame,
            counters=self._counters,
        ) as port:
            port.set_filter(lan_filter(()))
            disable_ipv6(port.name)
            await netlink.set_link(port.name, master=bridge.name)
            await netlink.set_link(port.name, up=True)
            yield port

    def _set_filter(self, device: PacketDevice | TapDevice) -> None:
        if self._deaf:
            device.set_filter(deaf_filter())
        elif not device.set_filter(lan_filter(self._members)):
            device.set_filter(lan_filter(self._members, exact=False))  # ENOMEM: net.core.optmem_max is small

    async def _read(self, device: PacketDevice | TapDevice) -> None:
        counters = self._counters
        try:
            while True:
                await device.wait_readable()
                frames = device.read_batch()
                members = self._members
                passed = [frame for frame in frames if accepts(head_of(frame), members)]
                if len(passed) != len(frames):
                    counters.filtered_dropped += frames_of(frames) - frames_of(passed)
                if passed:
                    self.on_frames(passed)
        except DeviceGoneError:
            return

    async def _until_changed(
        self, link: LinkInfo, device: PacketDevice | TapDevice, netlink: Netlink, reading: trio.CancelScope
    ) -> None:
        """Stop reading when the interface is no longer the one that was opened; tell of its carrier meanwhile."""
        own_stack = self._own_stack
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            try:
                if not await self._is_same(link, device, own_stack, netlink):
                    break
            except MachineError:  # the kernel gave no answer: as after a change, ``run`` looks again after a pause
                break
        reading.cancel()

    async def _is_same(
        self, link: LinkInfo, device: EthernetDevice, own_stack: EthernetDevice | None, netlink: Netlink
    ) -> bool:
        now = await netlink.link(self.interface)
        if now is None or not now.up or now.index != link.index or now.master != link.master:
            return False
        if link.kind == "bridge":
            port = await netlink.link(device.name)
            if port is None or port.master != link.index:
                return False
            self._mac = now.mac
            return True
        if now.mac != link.mac or (own_stack is not None and await netlink.link(own_stack.name) is None):
            return False
        self._set_state(up=now.carrier)
        return True

    def _forget(self) -> None:
        self._up = False  # stopped by our owner, who needs not be told

    def _set_state(self, *, up: bool) -> None:
        if up == self._up:
            return
        self._up = up
        if self.on_state is not None:
            self.on_state(up)
