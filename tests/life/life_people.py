"""The three programs as their ``app`` modules put them together, on lines and computers in memory.

A program is run by ``Machine``: started, stopped in order, or killed as by a power cut: its line is dead while it goes,
so that nobody hears its goodbye.

Not the real ones, because they would need a kernel: the client's adapter and its address set-up (``Computer`` behind a
``MemoryDevice``), the gateway's packet socket (a ``MemoryDevice`` on the house's hub), netlink.
"""

from __future__ import annotations

import math
import os

import trio
from life_hosts import LEASE, SERVER, Computer, Server
from life_net import RELAY, SERVER_NAME, LineWatch, identity, line_here, name_here, resolve, trust

from lanparty.cli.options import ListenAddress, RelayAddress
from lanparty.client.identity import Identity
from lanparty.client.player import Player
from lanparty.ctrl.messages import KEY_SIZE, Role
from lanparty.ctrl.proof import Seed
from lanparty.gateway.bridge import Bridge
from lanparty.link.memory import MemoryDevice, MemorySegment
from lanparty.obs.errors import LanpartyError
from lanparty.proto.mac import MacAddress
from lanparty.relay.app import serve
from lanparty.relay.options import RelaySettings
from lanparty.relay.rooms import RoomLimits
from lanparty.uplink.loop import UplinkLoop
from lanparty.uplink.settings import UplinkSettings
from lanparty.uplink.tunnel import Tunnel

DHCP_AGAIN = 4.0
"""Seconds until an unanswered DHCP message is repeated (RFC 2131 section 4.1)."""
CAM_INTERVAL = 60.0


def room_code(room):
    return f"LIFE{room}"


class Machine:
    """Runs one program, again and again."""

    def __init__(self, name, line):
        self.name = name
        self.line = line
        self.failure = None
        """What ended the program by itself."""
        self._scope = None
        self._stop = trio.Event()
        self._ended = trio.Event()
        self._ended.set()

    @property
    def running(self):
        return not self._ended.is_set()

    def start(self, nursery):
        assert not self.running
        self._stop, self._ended, self._scope = trio.Event(), trio.Event(), trio.CancelScope()
        line_here.set(self.line)
        name_here.set(self.name)
        nursery.start_soon(self._run, name=self.name)

    async def _run(self):
        try:
            with self._scope:
                await self.program(self._stop)
        except* LanpartyError as errors:
            self.failure = errors.exceptions[0]
        finally:
            self._ended.set()

    async def stop(self):
        self._stop.set()
        await self._ended.wait()

    async def kill(self):
        if self.line is not None:
            self.line.dead = True
        self._scope.cancel()
        await self._ended.wait()
        if self.line is not None:
            self.line.dead = False

    async def program(self, stop):
        raise NotImplementedError


class RelayMachine(Machine):
    def __init__(self, internet):
        super().__init__("relay", None)
        self._internet = internet

    async def program(self, stop):
        settings = RelaySettings(
            listen=(ListenAddress(*RELAY),),
            limits=RoomLimits(),
            dev_certificate=None,
            dev_names=(),
            certificate=None,
            stats_interval=60,
            frame_log=False,
        )
        await serve(settings, identity(), stop)

    async def kill(self):
        """Its last packets never leave."""
        sock = self._internet.relay
        if sock is not None:
            sock.send_batch = lambda _path, _packets: None
        await super().kill()


def uplink_settings(role, room, mac, name, key):
    return UplinkSettings(
        relay=RelayAddress(*RELAY),
        server_name=SERVER_NAME,
        trust=trust(),
        room=room_code(room),
        role=role,
        virtual_mac=mac,
        display_name=name,
        connect_timeout=math.inf,
        identity=key,
    )


def uplink(machine, settings, port, tunnel, dice):
    return UplinkLoop(settings, port, tunnel, watch=LineWatch(machine.line), uniform=dice.random, resolver=resolve)


class MemoryLan:
    """``gateway.bridge.Lan`` on a hub."""

    def __init__(self, segment, mac):
        self.interface = "eth0"
        self.mac = mac
        self.is_up = True
        self.deaf = False
        self.on_frames = lambda _frames: None
        self.on_state = None
        self.members = frozenset()
        self._device = _Card(self)
        self._device.segment = segment
        segment.devices.append(self._device)

    def set_members(self, members):
        self.members = frozenset(members)

    def set_deaf(self, deaf):
        self.deaf = deaf

    def write_batch(self, frames):
        self._device.write_batch(frames)

    def close(self):
        self._device.close()


class _Card(MemoryDevice):
    """The gateway's network card: what comes is handled at once."""

    def __init__(self, lan):
        super().__init__("eth0", lan.mac)
        self._lan = lan

    def deliver(self, frames):
        if not self._lan.deaf:
            self._lan.on_frames(list(frames))


class House:
    """A house LAN: a hub, its server, and the gateway's machine."""

    def __init__(self, room, line, ledger, dice):
        self.segment = MemorySegment()
        self.server = Server(room, ledger)
        self.server.segment = self.segment
        self.segment.devices.append(self.server)
        self.gateway = GatewayMachine(self, room, line, dice)


class GatewayMachine(Machine):
    def __init__(self, house, room, line, dice):
        super().__init__(f"gateway {room}", line)
        self.house = house
        self.room = room
        self.ready = False
        self._dice = dice

    async def program(self, stop):
        lan = MemoryLan(self.house.segment, bytes((2, 0x50, 0, 0, 0xFE, self.room)))
        try:
            async with trio.open_nursery() as services:
                tunnel = Tunnel()
                bridge = Bridge(lan, tunnel, cam_interval=CAM_INTERVAL)
                settings = uplink_settings(Role.GATEWAY, self.room, None, self.name, Seed(os.urandom(KEY_SIZE)))
                loop = uplink(self, settings, bridge, tunnel, self._dice)
                services.start_soon(bridge.refresh)
                services.start_soon(loop.run)
                await stop.wait()
                await loop.stop("the gateway was stopped")
                services.cancel_scope.cancel()
        finally:
            lan.close()


class PlayerMachine(Machine):
    """``keyed`` False: it began with ``--virtual-mac``, or is an older program."""

    def __init__(self, name, mac, room, number, line, ledger, dice, *, keyed=True):
        super().__init__(name, line)
        self.mac = MacAddress.parse(mac)
        self.room = room
        self.computer = Computer(name, self.mac.octets, room, number, ledger)
        self.dice = dice
        self._key = Seed(dice.randbytes(KEY_SIZE)) if keyed else None

    async def program(self, stop):
        async with trio.open_nursery() as links:
            tunnel = Tunnel()
            async with trio.open_nursery() as uplinks:
                async with trio.open_nursery() as house:
                    player = Player(
                        Identity(self.mac, None, False, self._key), _Computer(self), tunnel, links=links, house=house
                    )
                    settings = uplink_settings(Role.CLIENT, self.room, str(self.mac), self.name, self._key)
                    loop = uplink(self, settings, player, tunnel, self.dice)
                    uplinks.start_soon(loop.run)
                    await stop.wait()
                    house.cancel_scope.cancel()
                player.drain()
                await loop.stop("the player left")
                uplinks.cancel_scope.cancel()
            links.cancel_scope.cancel()

    async def reaches_house(self):
        return self.computer.address is not None and await self.computer.asks(SERVER)


class _Computer:
    """``link.machine.PlayerMachine``, but for the underlay: a cable between the tunnel and the player's computer."""

    def __init__(self, machine):
        self._machine = machine

    async def keep(self, mac, mtu, *, task_status):
        computer, cable = self._machine.computer, MemorySegment()
        device = cable.attach("lanparty0", mac, mtu=mtu)
        computer.segment = cable
        cable.devices.append(computer)
        try:
            task_status.started(device)
            await trio.sleep_forever()
        finally:
            computer.segment = None
            computer.forget_neighbours()
            device.close()

    def address_setup(self, _device):
        return _AddressSetup(self._machine.computer)

    async def set_up(self, _device):
        await trio.lowlevel.checkpoint()

    async def set_down(self, _device):
        await trio.lowlevel.checkpoint()

    async def set_mtu(self, device, mtu):
        await trio.lowlevel.checkpoint()
        device.mtu = mtu

    async def is_up(self, _device):
        await trio.lowlevel.checkpoint()
        return True

    async def pin_relay(self, _address):
        await trio.lowlevel.checkpoint()


class _AddressSetup:
    """``link.machine.AddressSetup``: DHCP whenever the house is there, verified at each reconnect, renewed half-way."""

    def __init__(self, computer):
        self._computer = computer
        self._present = False
        self._verify = True
        self._changed = trio.Event()

    def gateway_present(self, present):
        self._present = present
        self._verify = self._verify or present
        self._changed.set()

    def reconnected(self):
        self._verify = True
        self._changed.set()

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        computer = self._computer
        task_status.started()
        try:
            while True:
                self._changed = trio.Event()
                if self._present and (self._verify or computer.address is None):
                    computer.ask_for_address()
                    with trio.move_on_after(DHCP_AGAIN):
                        await computer.confirmed.wait()
                        self._verify = False
                    continue
                with trio.move_on_after(LEASE / 2) as half:
                    await self._changed.wait()
                if half.cancelled_caught and self._present:
                    await self._renew()
        finally:
            computer.release()

    async def _renew(self):
        self._computer.renew()
        with trio.move_on_after(DHCP_AGAIN):
            await self._computer.confirmed.wait()
            return
        self._verify = True
