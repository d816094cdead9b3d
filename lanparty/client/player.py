"""The client's logic: one adapter that outlives every reconnect, and the room on its other side.

    room -> adapter   Tunnel -> on_frames -> device.write_batch
    adapter -> room   pump_device -> Tunnel.transmit

Steps at an admission: the first one makes the adapter (down), prepares the address set-up, then brings it up; later
ones only compare the MTU. Each time, frames flow after that, never before. An admission that is cancelled between two
steps leaves what it made, and the next one goes on from there.

While the computer is in the house itself (``homecoming.py``) the adapter is down, and nothing goes either way.

Owns: the adapter and the tasks that belong to it, in the nurseries that app.py gives.
Must not know: QUIC, DHCP, the order in which the program starts and stops (app.py).
"""

from __future__ import annotations

from typing import Protocol

import trio

from lanparty.client.identity import Identity
from lanparty.ctrl.messages import MAX_MEMBERS, Member, Role, Welcome
from lanparty.link.adapter import AdapterKind, open_adapter
from lanparty.link.address import AddressOptions, PlayerNetwork
from lanparty.link.device import DEFAULT_MTU, ETHERNET_HEADER, EthernetDevice
from lanparty.link.journal import Journal
from lanparty.link.netlink import Netlink
from lanparty.link.pin import RelayPin
from lanparty.obs import events
from lanparty.obs.diagnostics import DeviceState, News, device_sentences
from lanparty.obs.errors import MachineError
from lanparty.obs.log import log
from lanparty.proto.mac import format_mac
from lanparty.proto.superframe import Frame, frames_of, longest_of
from lanparty.uplink.pump import drain_device, pump_device
from lanparty.uplink.tunnel import Tunnel

__all__ = ["Adapters", "HostAdapters", "Network", "Player", "tunnel_interfaces"]

MAX_TAPS = 64
"""Adapters of our naming that a machine may have: one for each client that runs on it."""

DIAGNOSE = 15.0
"""Seconds between looks at the adapter's counters: nothing they tell is urgent."""


def tunnel_interfaces(tap: str | None) -> frozenset[str]:
    """Give the names of interfaces that lead into a tunnel: this client's own, and those of other clients here."""
    names = {f"lanparty{number}" for number in range(MAX_TAPS)}
    if tap is not None:
        names |= {tap.replace("%d", str(number)) for number in range(MAX_TAPS)}
    return frozenset(names)


class Network(Protocol):
    """What the player needs of `lanparty.link.address.PlayerNetwork`."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Set the adapter up until cancelled."""
        ...

    def gateway_present(self, present: bool) -> None:
        """Tell whether the house is there."""
        ...

    def reconnected(self) -> None:
        """Tell that the tunnel is back."""
        ...


class Adapters(Protocol):
    """Makes and changes the adapter: the operating system's side, or a test's."""

    async def keep(self, mac: bytes, mtu: int, *, task_status: trio.TaskStatus[EthernetDevice]) -> None:
        """Make an adapter that is down; started(device); remove it when cancelled."""
        ...

    def network(self, device: EthernetDevice) -> Network:
        """Give the address set-up of an adapter."""
        ...

    async def set_up(self, device: EthernetDevice) -> None:
        """Bring an adapter up."""
        ...

    async def set_down(self, device: EthernetDevice) -> None:
        """Take an adapter down: its routes go, its address stays."""
        ...

    async def set_mtu(self, device: EthernetDevice, mtu: int) -> None:
        """Change an adapter's MTU."""
        ...

    async def is_up(self, device: EthernetDevice) -> bool:
        """Whether an adapter is set up to carry frames."""
        ...

    async def pin_relay(self, address: str) -> None:
        """Keep the relay reachable by the interface that leads to it now."""
        ...


class HostAdapters:
    """`Adapters` of this machine."""

    def __init__(
        self,
        netlink: Netlink,
        journal: Journal,
        pin: RelayPin,
        *,
        name: str | None,
        kind: AdapterKind,
        address: AddressOptions,
    ) -> None:
        """``name`` None: the first free one."""
        self._netlink = netlink
        self._journal = journal
        self._pin = pin
        self._name = name
        self._kind = kind
        self._address = address

    async def keep(self, mac: bytes, mtu: int, *, task_status: trio.TaskStatus[EthernetDevice]) -> None:
        """See `Adapters`. Raises MachineError."""
        # Room for a later session of the same room at the usual MTU; the interface's own MTU does the limiting.
        longest = max(mtu, DEFAULT_MTU) + ETHERNET_HEADER
        async with open_adapter(self._name, mac, mtu, self._netlink, self._kind, up=False, max_frame=longest) as device:
            task_status.started(device)
            await trio.sleep_forever()

    def network(self, device: EthernetDevice) -> Network:
        """See `Adapters`."""
        return PlayerNetwork(self._netlink, device.name, device.mac, self._address, self._journal, pin=self._pin)

    async def set_up(self, device: EthernetDevice) -> None:
        """See `Adapters`. Raises MachineError."""
        await self._netlink.set_link(device.name, up=True)

    async def set_down(self, device: EthernetDevice) -> None:
        """See `Adapters`. Raises MachineError."""
        await self._netlink.set_link(device.name, up=False)

    async def set_mtu(self, device: EthernetDevice, mtu: int) -> None:
        """See `Adapters`. Raises MachineError."""
        await self._netlink.set_link(device.name, mtu=mtu)

    async def is_up(self, device: EthernetDevice) -> bool:
        """See `Adapters`."""
        try:
            link = await self._netlink.link(device.name)
        except MachineError:
            return True  # The kernel is busy: asked again next time, and not worth a warning of ours.
        return link is not None and link.up

    async def pin_relay(self, address: str) -> None:
        """See `Adapters`. Raises ConnectionFailedError (no route), MachineError."""
        await self._pin.pin(address)


class Player:
    """The client's side of the uplink (`lanparty.uplink.port.Port`)."""

    def __init__(
        self, identity: Identity, adapters: Adapters, tunnel: Tunnel, *, links: trio.Nursery, house: trio.Nursery
    ) -> None:
        """``links`` owns the adapter and its reader, ``house`` the address set-up; ``house`` ends first."""
        self.device: EthernetDevice | None = None
        self.network: Network | None = None
        self._mac = identity.virtual_mac.octets
        self._adapters = adapters
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
                await self._adapters.set_down(device)
                log(events.CLIENT_AT_HOME, interface=interface, tap=device.name)
            else:
                await self._adapters.set_up(device)
                log(events.CLIENT_AWAY_AGAIN, interface=was, tap=device.name)

    def drain(self) -> None:
        """Send what the address set-up's farewell left in the adapter. Raises DeviceGoneError."""
        if self.device is not None and self._up:
            drain_device(self.device, self._tunnel)

    # The uplink's calls

    async def on_connecting(self, address: str) -> None:
        """Pin the relay's route. Raises ConnectionFailedError (no route leads there), MachineError."""
        await self._adapters.pin_relay(address)

    async def on_admitted(self, welcome: Welcome) -> None:
        """Make the adapter, or fit it to the room. Raises MachineError."""
        mtu = welcome.effective_mtu
        if self.device is None:
            self.device = device = await self._links.start(self._adapters.keep, self._mac, mtu)
            self._tunnel.device_counters = lambda: device.counters
        elif mtu != self._mtu:
            # No frame flows now: the tunnel is attached when we return.
            await self._adapters.set_mtu(self.device, mtu)
            log(events.CLIENT_MTU_CHANGED, interface=self.device.name, mtu=mtu, before=self._mtu)
        self._mtu = mtu
        self._longest = mtu + ETHERNET_HEADER
        if self.network is None:
            self.network = await self._start_network(self.device)
        if not self._up:
            await self._adapters.set_up(self.device)
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
        assert self.network is not None
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
            self.network.reconnected()
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
        if self.network is not None:
            self.network.gateway_present(False)

    def on_frames(self, frames: list[tuple[int, Frame]], now: float) -> None:
        """Room -> adapter."""
        device, longest = self.device, self._longest
        if device is None:
            return
        passed = [frame for _, frame in frames if longest_of(frame) <= longest]
        if len(passed) != len(frames):
            self._tunnel.counters.drop("room-length", frames_of(frame for _, frame in frames) - frames_of(passed))
        device.write_batch(passed)

    async def _start_network(self, device: EthernetDevice) -> Network:
        network = self._adapters.network(device)
        if self._house.cancel_scope.cancel_called:
            await trio.sleep_forever()  # The program stops: whoever stops it cancels us next.
        network.gateway_present(False)  # Until frames flow, nobody could hear a question.
        # Before it is up: what the kernel must not do with the house's router advertisements is settled by then.
        await self._house.start(network.run)
        return network

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
                is_up=await self._adapters.is_up(device),
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
        if self.network is not None:
            self.network.gateway_present(present)
