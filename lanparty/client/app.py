"""The client program: its whole nursery tree.

    identity file, locked; privileges given up; netlink; relay pin
    └ links ┬ adapter, its reader                           outlives every reconnect
            ├ watchdog                                      tells the service manager that the main loop turns
            └ uplink ┬ uplink loop: connect -> session -> back-off -> again
                     └ house ┬ address set-up (DHCP)        started by the first admission
                             ├ listens for the house LAN    packet socket, opened before privileges are given up
                             └ waits for ``stop``           (the signal watcher is lanparty.cli.run's)

The order of going is the order of this picture from below: the lease is given back while the tunnel still carries it to
the house, then the relay hears our goodbye, then the adapter vanishes, then the relay's route is no longer pinned.

What is kept of the privileges, and why: CAP_NET_ADMIN makes the adapter at the first admission, and sets and removes
addresses and routes as long as the program runs. CAP_NET_RAW is for packet sockets: DHCP's, and the far end of a veth
pair where there is no TAP. The identity may be in a home that root without CAP_DAC_OVERRIDE cannot enter, so it is
read, and kept open, before.

Owns: this order. Must not know: what any of the parts does.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from lanparty.cli.privileges import Capability
from lanparty.cli.service import Service
from lanparty.client.homecoming import Homecoming, listen_for_home
from lanparty.client.identity import Identity, hold_identity
from lanparty.client.options import address_options
from lanparty.client.player import HostAdapters, Player, tunnel_interfaces
from lanparty.ctrl.messages import Role
from lanparty.link.device import DeviceGoneError
from lanparty.link.journal import Journal, state_directory
from lanparty.link.listen import open_listener
from lanparty.link.netlink import Netlink, open_netlink
from lanparty.link.pin import RelayPin
from lanparty.link.repair import repair
from lanparty.obs import events
from lanparty.obs.errors import MachineError
from lanparty.obs.framelog import FrameLog
from lanparty.obs.log import log
from lanparty.proto.probe import ETHERTYPE_PROBE
from lanparty.uplink.loop import UplinkLoop
from lanparty.uplink.settings import settings_from
from lanparty.uplink.tick import TICK, next_tick
from lanparty.uplink.tunnel import Tunnel
from lanparty.uplink.watch import NetlinkWatch

__all__ = ["amain"]

RELEASE_DEADLINE = 2.0
"""Seconds for taking the relay's route back on the way out: two requests to the kernel."""


async def amain(options: argparse.Namespace, stop: trio.Event, service: Service) -> None:
    """Run the client until ``stop`` is set.

    Raises UsageError, MachineError, RefusedError, UntrustedError, ConnectionFailedError.
    """
    address = address_options(options)
    with hold_identity(options.identity, options.virtual_mac) as identity, open_listener(ETHERTYPE_PROBE) as listener:
        _tell_identity(identity)
        settings = settings_from(
            options, role=Role.CLIENT, virtual_mac=str(identity.virtual_mac), identity=identity.key
        )
        service.drop_privileges(_needed(options))
        async with open_netlink() as netlink:
            directory = state_directory()
            for what in await repair(directory, netlink):
                log(events.REPAIRED, what=what)
            await _check_name(options.tap, netlink)
            journal = Journal(directory)
            async with _relay_pin(netlink, journal, options.tap) as pin, trio.open_nursery() as links:
                links.start_soon(service.beat, TICK, next_tick)
                tunnel = Tunnel(framelog=FrameLog.when(options.frame_log))
                adapters = HostAdapters(netlink, journal, pin, name=options.tap, kind=options.adapter, address=address)
                async with trio.open_nursery() as uplink:
                    async with trio.open_nursery() as house:
                        player = Player(identity, adapters, tunnel, links=links, house=house)
                        loop = UplinkLoop(settings, player, tunnel, watch=NetlinkWatch(netlink))
                        uplink.start_soon(loop.run)
                        if listener is not None:
                            home = Homecoming(identity.virtual_mac.octets, tunnel_interfaces(options.tap))
                            house.start_soon(listen_for_home, listener, home, player.at_home)
                        await stop.wait()
                        house.cancel_scope.cancel()
                    _last_frames(player)
                    await loop.stop("the player left")
                    uplink.cancel_scope.cancel()
                links.cancel_scope.cancel()


def _needed(options: argparse.Namespace) -> set[Capability]:
    """What cannot be given up: see the top of this module."""
    without_packets = options.adapter == "tap" and options.address != "dhcp"
    return {Capability.NET_ADMIN} if without_packets else {Capability.NET_ADMIN, Capability.NET_RAW}


async def _check_name(tap: str | None, netlink: Netlink) -> None:
    """Refuse a --tap that names an interface of this machine. Raises MachineError.

    Before the adapter is made, because its name is that of a way into the tunnel: the relay is never looked for there.
    """
    if tap is None:
        return
    if await netlink.link(tap) is not None:
        raise MachineError(f"this machine has a network interface {tap} already: give another name with --tap")


@asynccontextmanager
async def _relay_pin(netlink: Netlink, journal: Journal, tap: str | None) -> AsyncIterator[RelayPin]:
    """Give the relay pin, and release it whatever happens."""
    pin = RelayPin(netlink, journal, avoid=tunnel_interfaces(tap))
    try:
        yield pin
    finally:
        with trio.move_on_after(RELEASE_DEADLINE, shield=True):
            await pin.release()


def _tell_identity(identity: Identity) -> None:
    if identity.file is None:
        log(events.CLIENT_VIRTUAL_MAC, mac=str(identity.virtual_mac))
    else:
        event = events.CLIENT_IDENTITY_CREATED if identity.created else events.CLIENT_IDENTITY
        log(event, mac=str(identity.virtual_mac), file=str(identity.file))
    if identity.not_upgraded:
        log(events.CLIENT_IDENTITY_OLD, file=str(identity.file), reason=identity.not_upgraded)


def _last_frames(player: Player) -> None:
    """Carry the DHCP release out before the goodbye."""
    try:
        player.drain()
    except DeviceGoneError:
        return  # Its reader says so, and ends the program with that.
