"""The client program: its whole nursery tree.

    identity file, locked; privileges given up; this computer, repaired; the relay's route pinned at each try
    └ links ┬ adapter, its reader                           outlives every reconnect
            ├ watchdog                                      tells the service manager that the main loop turns
            └ uplink ┬ uplink loop: connect -> session -> back-off -> again
                     └ house ┬ address set-up (DHCP)        started by the first admission
                             ├ listens for the house LAN    packet socket, opened before privileges are given up
                             └ waits for ``stop``           (the signal watcher is lanparty.cli.run's)

The order of going is the order of this picture from below: the lease is given back while the tunnel still carries it to
the house, then the relay hears our goodbye, then the adapter vanishes, then the relay's route is no longer pinned.

What is kept of the privileges where they come by the piece (Linux), and why: CAP_NET_ADMIN makes the adapter at the
first admission, and sets and removes addresses and routes as long as the program runs. CAP_NET_RAW is for packet
sockets: DHCP's, and the far end of a veth pair where there is no TAP. The identity may be in a home that root without
CAP_DAC_OVERRIDE cannot enter, so it is read, and kept open, before.

Owns: this order. Must not know: what any of the parts does.
"""

from __future__ import annotations

import argparse

import trio

from lanparty.cli.privileges import Capability
from lanparty.cli.service import Service
from lanparty.client.homecoming import Homecoming, listen_for_home
from lanparty.client.identity import Identity, hold_identity
from lanparty.client.options import address_options
from lanparty.client.player import Player
from lanparty.ctrl.messages import Role
from lanparty.link.device import DeviceGoneError
from lanparty.link.listen import open_listener
from lanparty.link.machine import MachineOptions, open_machine
from lanparty.link.names import tunnel_interfaces
from lanparty.obs import events
from lanparty.obs.framelog import FrameLog
from lanparty.obs.log import log
from lanparty.proto.probe import ETHERTYPE_PROBE
from lanparty.uplink.loop import UplinkLoop
from lanparty.uplink.settings import settings_from
from lanparty.uplink.tick import TICK, next_tick
from lanparty.uplink.tunnel import Tunnel
from lanparty.uplink.watch import UnderlayWatch

__all__ = ["amain"]


async def amain(options: argparse.Namespace, stop: trio.Event, service: Service) -> None:
    """Run the client until ``stop`` is set.

    Raises UsageError, MachineError, RefusedError, UntrustedError, ConnectionFailedError.
    """
    wanted = MachineOptions(options.tap, options.adapter, address_options(options))
    with hold_identity(options.identity, options.virtual_mac) as identity, open_listener(ETHERTYPE_PROBE) as listener:
        _tell_identity(identity)
        settings = settings_from(
            options, role=Role.CLIENT, virtual_mac=str(identity.virtual_mac), identity=identity.key
        )
        service.drop_privileges(_needed(options))
        async with open_machine(wanted) as machine, trio.open_nursery() as links:
            links.start_soon(service.beat, TICK, next_tick)
            tunnel = Tunnel(framelog=FrameLog.when(options.frame_log))
            async with trio.open_nursery() as uplink:
                async with trio.open_nursery() as house:
                    player = Player(identity, machine, tunnel, links=links, house=house)
                    loop = UplinkLoop(settings, player, tunnel, watch=UnderlayWatch(machine))
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
