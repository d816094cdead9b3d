"""The client's logic: one adapter that outlives every reconnect, and the room on its other side.

    room -> adapter   Tunnel -> on_frames -> device.write_batch
    adapter -> room   pump_device -> Tunnel.transmit

Steps at an admission: the first one makes the adapter (down), prepares the address set-up, then brings it up; later
ones only compare the MTU. Each time, frames flow after that, never before. An admission that is cancelled between two
steps leaves what it made, and the next one goes on from there.

While the computer is in the house itself (``homecoming.py``) the adapter is down, and nothing goes either way.

Owns: the adapter and the tasks that belong to it, in the nurseries that app.py gives.
Must not know: the operating system, QUIC, DHCP, the order in which the program starts and stops (app.py).
"""

from __future__ import annotations

import trio

from lanparty.client.identity import Identity
from lanparty.ctrl.messages import MAX_MEMBERS, Member, Role, Welcome
from lanparty.link.device import ETHERNET_HEADER, EthernetDevice
from lanparty.link.machine import AddressSetup, PlayerMachine
from lanparty.obs import events
from lanparty.obs.diagnostics import DeviceState, News, device_sentences
from lanparty.obs.log import log
from lanparty.proto.mac import format_mac
from lanparty.proto.superframe import Frame, frames_of, longest_of
from lanparty.uplink.pump import drain_device, pump_device
from lanparty.uplink.tunnel import Tunnel

__all__ = ["Player"]

DIAGNOSE = 15.0
"""Seconds between looks at the adapter's counters: nothing they tell is urgent."""


class Player:
    """The client's side of the uplink (`lanparty.uplink.port.Port`)."""

    def __init__(
        self, identity: Identity, machine: PlayerMachine, tunnel: Tunnel, *, links: trio.Nursery, house: trio.Nursery
    ) -> None:
        """``links`` owns the adapter and its reader, ``house`` the address set-up; ``house`` ends first."""
        self.device: EthernetDevice | None = None
        self.address: AddressSetup | None = None
        self._mac = identity.virtual_mac.octets
        self._machine = machine
        self._tunnel = tunnel
        self._links = links
        self._house = house
        self._up = False
        self._mtu = 0
        self._longest = 0
        self._first = True
        self._house_since = 0.0
        self._gateways: set[int] = set()
        self._home: str | None = None
        self._moving = trio.Lock()

    async def at_home(self, interface: str | None) -> None:
        """Pause the tunnel, because the house is heard by ``interface`` itself; None: it is not any more.

        The routes of the adapter would win over those of the cable, so it goes down. Raises MachineError.
        """
        async with self._moving:
            was, self._home = self._home, interface
            self._tunnel.paused = interface is not None
            device = self.device
            if device is None or not self._up or (was is None) == (interface is None):
                return
            if interface is not None:
                await self._machine.set_down(device)
                log(events.CLIENT_AT_HOME, interface=interface, tap=device.name)
            else:
                await self._machine.set_up(device)
                log(events.CLIENT_AWAY_AGAIN, interface=was, tap=device.name)

    def drain(self) -> None:
        """Send what the address set-up's farewell left in the adapter. Raises DeviceGoneError."""
        if self.device is not None and self._up:
            drain_device(self.device, self._tunnel)

    # The uplink's calls

    async def on_connecting(self, address: str) -> None:
        """Pin the relay's route. Raises ConnectionFailedError (no route leads there), MachineError."""
        await self._machine.pin_relay(address)

    async def on_admitted(self, welcome: Welcome) -> None:
        """Make the adapter, or fit it to the room. Raises MachineError."""
        mtu = welcome.effective_mtu
        if self.device is None:
            self.device = device = await self._links.start(self._machine.keep, self._mac, mtu)
            self._tunnel.device_counters = lambda: device.counters
        elif mtu != self._mtu:
            # No frame flows now: the tunnel is attached when we return.
            await self._machine.set_mtu(self.device, mtu)
            log(events.CLIENT_MTU_CHANGED, interface=self.device.name, mtu=mtu, before=self._mtu)
        self._mtu = mtu
        self._longest = mtu + ETHERNET_HEADER
        if self.address is None:
            self.address = await self._start_address(self.device)
        if not self._up:
            await self._machine.set_up(self.device)
            self._up = True
            self._links.start_soon(pump_device, self.device, self._tunnel)
            self._links.start_soon(self._watch_adapter, self.device)
            log(events.CLIENT_TAP, interface=self.device.name, mac=format_mac(self.device.mac), mtu=mtu)
            if self._home is not None:  # heard while the adapter was being made
                home, self._home = self._home, None
                await self.at_home(home)

    def on_ready(self, welcome: Welcome) -> None:
        """Say that frames flow, and whether the house is there."""
        assert self.device is not None
        assert self.address is not None
        log(
            events.CLIENT_JOINED,
            room=welcome.room,
            peer=welcome.peer_id,
            mtu=welcome.effective_mtu,
            interface=self.device.name,
            mac=format_mac(self._mac),
        )
        self._gateways = {member.peer_id for member in welcome.members if member.role is Role.GATEWAY}
        if not self._first:
            self.address.reconnected()
        self._first = False
        self._tell_of_gateway()

    def on_peer_joined(self, member: Member) -> None:
        """Notice that the house came."""
        if member.role is Role.GATEWAY and len(self._gateways) < MAX_MEMBERS:
            self._gateways.add(member.peer_id)
            self._tell_of_gateway()

    def on_peer_left(self, peer_id: int) -> None:
        """Notice that the house went."""
        if peer_id in self._gateways:
            self._gateways.discard(peer_id)
            self._tell_of_gateway()

    def on_lost(self, reason: str) -> None:
        """Keep the adapter, its MAC and its lease: they outlive the session. But the house cannot be reached now."""
        self._gateways.clear()
        if self.address is not None:
            self.address.gateway_present(False)

    def on_frames(self, frames: list[tuple[int, Frame]], now: float) -> None:
        """Room -> adapter."""
        device, longest = self.device, self._longest
        if device is None:
            return
        passed = [frame for _, frame in frames if longest_of(frame) <= longest]
        if len(passed) != len(frames):
            self._tunnel.counters.drop("room-length", frames_of(frame for _, frame in frames) - frames_of(passed))
        device.write_batch(passed)

    async def _start_address(self, device: EthernetDevice) -> AddressSetup:
        address = self._machine.address_setup(device)
        if self._house.cancel_scope.cancel_called:
            await trio.sleep_forever()  # The program stops: whoever stops it cancels us next.
        address.gateway_present(False)  # Until frames flow, nobody could hear a question.
        # Before it is up: what the kernel must not do with the house's router advertisements is settled by then.
        await self._house.start(address.run)
        return address

    async def _watch_adapter(self, device: EthernetDevice) -> None:
        """Say what the adapter's counters tell of games, firewalls and hypervisors that swallow frames."""
        news = News()
        while True:
            await trio.sleep(DIAGNOSE)
            if self._home is not None:
                continue  # it is down because we took it down
            counters = device.counters
            state = DeviceState(
                name=device.name,
                is_up=await self._machine.is_up(device),
                frames_read=counters.frames_in,
                frames_written=counters.frames_out,
                seconds=trio.current_time() - self._house_since if self._gateways else 0.0,
            )
            for sentence in news.of(device_sentences(state)):
                log(events.DIAGNOSIS, text=sentence)

    def _tell_of_gateway(self) -> None:
        present = bool(self._gateways)
        self._house_since = trio.current_time()
        log(events.GATEWAY_PRESENT if present else events.GATEWAY_MISSING)
        if self.address is not None:
            self.address.gateway_present(present)
