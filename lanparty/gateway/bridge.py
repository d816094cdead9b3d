"""The gateway's logic: the room on one side, the house LAN on the other, and who is remote.

    room -> house   Tunnel -> on_frames -> RemoteMembers.to_house_untrusted -> LanLink.write_batch
    house -> room   LanLink -> _from_house -> RemoteMembers.to_room -> Tunnel.transmit

Owns: the joints between tunnel, member table, CAM schedule and LAN link; when the gateway is usable.
Must not know: QUIC, packet sockets, the order in which the program starts and stops (app.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from lanparty.ctrl.messages import Member, Welcome
from lanparty.gateway.cam import CamSchedule
from lanparty.gateway.members import RemoteMembers
from lanparty.obs import events
from lanparty.obs.log import log
from lanparty.proto.superframe import Frame
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

    def write_batch(self, frames: Sequence[Frame]) -> None:
        """Send frames into the house; never blocks."""
        ...


class Bridge:
    """The gateway's side of the uplink (`lanparty.uplink.port.Port`)."""

    def __init__(self, lan: Lan, tunnel: Tunnel, *, cam_interval: float) -> None:
        """Connect ``lan`` and ``tunnel``; ``cam_interval`` is in seconds. Frames of ``tunnel`` come to `on_frames`."""
        self.members = RemoteMembers(dropped=tunnel.counters.other_dropped)
        self.cam = CamSchedule(cam_interval)
        self._lan = lan
        self._tunnel = tunnel
        self._welcome: Welcome | None = None
        self._wake = trio.Event()
        lan.on_frames = self._from_house
        lan.on_state = self._lan_state

    async def refresh(self) -> None:
        """Send CAM refresh frames when they are due, and age the member table. Runs until cancelled."""
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            if self.members.expire(now):
                self._lan.set_members(self.members.macs)
            due = self.members.next_expiry()
            if self._lan.is_up:
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
        """Learn a player's MAC, and tell the house switch."""
        if self.members.joined(member) is not None:
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
        passed = self.members.to_house_untrusted(frames, now)
        if self.members.macs is not known:  # A sender that is not announced yet: its answers must find it.
            self._lan.set_members(self.members.macs)
            self._wake.set()
        if passed:
            self._lan.write_batch(passed)

    # The LAN link's calls

    def _from_house(self, frames: list[Frame]) -> None:
        """House -> room."""
        self._tunnel.transmit(self.members.to_room(frames))

    def _lan_state(self, up: bool) -> None:
        log(events.GATEWAY_LAN_UP if up else events.GATEWAY_LAN_DOWN, interface=self._lan.interface)
        self.members.own_mac = self._lan.mac
        if up:
            self.cam.refresh_all()  # The switch behind a cable that was pulled may be another one.
            self._wake.set()
            self._tell_if_usable()

    def _members_changed(self) -> None:
        self.cam.set_members(self.members.announced)
        self._lan.set_members(self.members.macs)
        self._wake.set()

    def _tell_if_usable(self) -> None:
        if self._welcome is not None and self._lan.is_up:
            log(
                events.GATEWAY_BRIDGING,
                interface=self._lan.interface,
                room=self._welcome.room,
                peer=self._welcome.peer_id,
            )
