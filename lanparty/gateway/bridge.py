"""The gateway's logic: the room on one side, the house LAN on the other, and who is remote.

    room -> house   Tunnel -> on_frames -> RemoteMembers, HouseGuard -> LanLink.write_batch
    house -> room   LanLink -> _from_house -> RemoteMembers, HouseGuard -> Tunnel.transmit

While the house LAN has a loop (``loop.py``) nothing goes either way.

Owns: the joints between tunnel, member table, CAM schedule, loop watch and LAN link; when the gateway is usable.
Must not know: QUIC, packet sockets, the order in which the program starts and stops (app.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from lanparty.ctrl.messages import Member, Welcome
from lanparty.gateway.cam import CamSchedule
from lanparty.gateway.house_guard import HouseGuard
from lanparty.gateway.loop import LoopWatch, News
from lanparty.gateway.members import RemoteMembers
from lanparty.guard.levels import RoomPolicy
from lanparty.obs import events
from lanparty.obs.log import log
from lanparty.proto.probe import ID_SIZE
from lanparty.proto.superframe import Frame, frames_of
from lanparty.uplink.tunnel import Tunnel

__all__ = ["Bridge", "Lan"]


class Lan(Protocol):
    """What the bridge needs of `lanparty.link.lan.LanLink`."""

    on_frames: Callable[[list[Frame]], None]
    on_state: Callable[[bool], None] | None

    @property
    def interface(self) -> str:
        """Name of the interface."""
        ...

    @property
    def mac(self) -> bytes:
        """The interface's own MAC, 6 bytes; empty before it was first seen."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether frames can be sent and received now."""
        ...

    def set_members(self, members: Iterable[bytes]) -> None:
        """Say which MACs are remote."""
        ...

    def set_deaf(self, deaf: bool) -> None:
        """Say whether frames of the house are of any interest."""
        ...

    def write_batch(self, frames: Sequence[Frame]) -> None:
        """Send frames into the house; never blocks."""
        ...


class Bridge:
    """The gateway's side of the uplink (`lanparty.uplink.port.Port`)."""

    def __init__(self, lan: Lan, tunnel: Tunnel, *, cam_interval: float, policy: RoomPolicy | None = None) -> None:
        """Connect ``lan`` and ``tunnel``; ``cam_interval`` is in seconds. Frames of ``tunnel`` come to `on_frames`.

        ``policy``: what players may send into the house; strict if not given.
        """
        self.members = RemoteMembers(dropped=tunnel.counters.other_dropped)
        self.guard = HouseGuard(policy or RoomPolicy(), tunnel.counters.drop)
        self.cam = CamSchedule(cam_interval)
        self.loop = LoopWatch(os.urandom(ID_SIZE))
        self._lan = lan
        self._tunnel = tunnel
        self._welcome: Welcome | None = None
        self._wake = trio.Event()
        lan.on_frames = self._from_house
        lan.on_state = self._lan_state

    async def refresh(self) -> None:
        """Send CAM refresh frames and probes when they are due, and age the member table. Runs until cancelled."""
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            if self.members.expire(now):
                self._remote_changed()
            due = self.members.next_expiry()
            if self._lan.is_up:
                self._probe(now)
                due = min(due, self.loop.next_due())
                if not self.loop.paused:
                    frames = self.cam.take(now)
                    if frames:
                        self._lan.write_batch(frames)
                    due = min(due, self.cam.next_due())
            with trio.move_on_at(due):
                await self._wake.wait()

    # The uplink's calls

    async def on_connecting(self, address: str) -> None:
        """Nothing to prepare: the gateway changes no routes."""

    async def on_admitted(self, welcome: Welcome) -> None:
        """Take over the room's members."""
        self.members.own_mac = self._lan.mac
        self.members.replace(welcome.members)
        self._members_changed()

    def on_ready(self, welcome: Welcome) -> None:
        """Frames flow: say so when the LAN is there, too."""
        self._welcome = welcome
        self.cam.refresh_all()
        self._wake.set()
        self._tell_if_usable()

    def on_peer_joined(self, member: Member) -> None:
        """Learn a player's MAC, and tell the house switch, and a player who is at home."""
        if self.members.joined(member) is not None:
            self.loop.soon(trio.current_time())
            self._members_changed()

    def on_peer_left(self, peer_id: int) -> None:
        """Forget a player: its MAC is no longer refreshed, and the house switch forgets it by itself."""
        self.members.left(peer_id)
        self._members_changed()

    def on_lost(self, reason: str) -> None:
        """Forget everybody: nothing of the house is for anybody now, and the next welcome lists who is there."""
        self._welcome = None
        self.members.replace(())
        self._members_changed()

    def on_frames(self, frames: list[tuple[int, Frame]], now: float) -> None:
        """Room -> house."""
        known = self.members.macs
        passed: Sequence[Frame] = self.members.to_house_untrusted(frames, now)
        if self.members.macs is not known:  # A sender that is not announced yet: its answers must find it.
            self._remote_changed()
            self._wake.set()
        passed = self.guard.to_house_untrusted(passed, now)
        for probe in self.members.take_probes():
            self._heard(probe, now, from_room=True)
        if self.loop.paused:
            self._tunnel.counters.drop("loop", frames_of(passed))
        elif passed:
            self._lan.write_batch(passed)

    # The LAN link's calls

    def _from_house(self, frames: list[Frame]) -> None:
        """House -> room."""
        passed = self.members.to_room(frames)
        if len(passed) != len(frames):
            for probe in self.members.take_probes():
                self._heard(probe, trio.current_time())
        if self.loop.paused:
            self._tunnel.counters.drop("loop", frames_of(passed))
        else:
            self._tunnel.transmit(self.guard.from_house_untrusted(passed, trio.current_time()))

    def _lan_state(self, up: bool) -> None:
        log(events.GATEWAY_LAN_UP if up else events.GATEWAY_LAN_DOWN, interface=self._lan.interface)
        self.members.own_mac = self._lan.mac
        if up:
            self.cam.refresh_all()  # The switch behind a cable that was pulled may be another one.
            self.loop.lan_up(trio.current_time())
            self._wake.set()
            self._tell_if_usable()

    # The loop watch's

    def _probe(self, now: float) -> None:
        """Send the probe, if it is due."""
        frame, news = self.loop.take(self.members.announced, now)
        if frame is None:
            return
        self._lan.set_deaf(False)
        if news is News.CLEARED:
            log(events.GATEWAY_LOOP_CLEARED, interface=self._lan.interface)
            self.cam.refresh_all()
        self._lan.write_batch([frame])

    def _heard(self, frame: bytes, now: float, *, from_room: bool = False) -> None:
        """Take note of a probe."""
        news = self.loop.heard_untrusted(frame, now, from_room=from_room)
        if self.loop.paused and not self.loop.listening:
            self._lan.set_deaf(True)
            self._wake.set()
        match news:
            case News.LOOP:
                log(events.GATEWAY_LOOP, interface=self._lan.interface)
            case News.ROOM_LOOP:
                log(events.GATEWAY_ROOM_LOOP, interface=self._lan.interface)
            case News.OTHER:
                log(events.GATEWAY_OTHER, interface=self._lan.interface)

    def _members_changed(self) -> None:
        self.cam.set_members(self.members.announced)
        self._remote_changed()
        self._wake.set()

    def _remote_changed(self) -> None:
        """Tell who asks for a frame's source: those that were never announced are among them."""
        self._lan.set_members(self.members.macs)
        self.guard.set_members(self.members.macs)

    def _tell_if_usable(self) -> None:
        if self._welcome is not None and self._lan.is_up:
            log(
                events.GATEWAY_BRIDGING,
                interface=self._lan.interface,
                room=self._welcome.room,
                peer=self._welcome.peer_id,
            )
