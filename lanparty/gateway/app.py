"""The gateway program: its whole nursery tree.

    netlink
    └ services ┬ LAN link: reader, netlink watcher      outlives every reconnect
               ├ CAM refresh
               ├ watchdog                           tells the service manager that the main loop turns
               ├ uplink loop: connect -> session -> back-off -> again
               └ (the signal watcher is lanparty.cli.run's; it sets ``stop``)

Started in this order: what the interface cannot do is known before the relay hears of us. Before all of it, when the
files were read that the command line names, privileges are given up but for two, which opening the interface needs,
now and whenever it returns: CAP_NET_RAW (its packet socket) and CAP_NET_ADMIN (everything else).
Stopped: goodbye to the relay, with a deadline; then everything else, and the LAN link gives the interface back.

Owns: this order. Must not know: what any of the parts does.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import argparse

import trio

from lanparty.cli.privileges import Capability
from lanparty.cli.service import Service
from lanparty.ctrl.messages import Role
from lanparty.gateway.bridge import Bridge
from lanparty.gateway.options import policy_from
from lanparty.link.journal import state_directory
from lanparty.link.lan import LanLink
from lanparty.link.netlink import open_netlink
from lanparty.link.repair import repair
from lanparty.link.underlay import NetlinkUnderlay
from lanparty.obs import events
from lanparty.obs.framelog import FrameLog
from lanparty.obs.log import log
from lanparty.proto.superframe import Frame
from lanparty.uplink.loop import UplinkLoop
from lanparty.uplink.settings import settings_from
from lanparty.uplink.tick import TICK, next_tick
from lanparty.uplink.tunnel import Tunnel
from lanparty.uplink.watch import UnderlayWatch

__all__ = ["amain"]


async def amain(options: argparse.Namespace, stop: trio.Event, service: Service) -> None:
    """Run the gateway until ``stop`` is set.

    Raises UsageError, MachineError (before the relay hears of us), RefusedError, UntrustedError, ConnectionFailedError.
    """
    settings = settings_from(options, role=Role.GATEWAY)
    policy = policy_from(options)
    service.drop_privileges({Capability.NET_ADMIN, Capability.NET_RAW})
    async with open_netlink() as netlink, trio.open_nursery() as services:
        for what in await repair(state_directory(), netlink):
            log(events.REPAIRED, what=what)
        lan = LanLink(options.interface, on_frames=_nobody_there)
        tunnel = Tunnel(framelog=FrameLog.when(options.frame_log))
        tunnel.device_counters = lambda: lan.counters
        bridge = Bridge(lan, tunnel, cam_interval=options.cam_refresh, policy=policy)
        uplink = UplinkLoop(settings, bridge, tunnel, watch=UnderlayWatch(NetlinkUnderlay(netlink)))

        await services.start(lan.run, netlink)
        if not lan.is_up:
            log(events.GATEWAY_LAN_DOWN, interface=lan.interface)
        services.start_soon(service.beat, TICK, next_tick)
        services.start_soon(bridge.refresh)
        services.start_soon(uplink.run)

        await stop.wait()
        await uplink.stop("the gateway was stopped")
        services.cancel_scope.cancel()


def _nobody_there(_frames: list[Frame]) -> None:
    """Stand in until the bridge takes over, before the LAN link runs."""
