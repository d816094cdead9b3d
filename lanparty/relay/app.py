"""The relay program: its whole nursery tree.

    services ┬ sessions                 looks after silence, for all of them (``sessions.py``)
             │ └ a session              one for each endpoint (``session.py``); its failure ends that session only
             │   └ writer               while its outbox holds something
             ├ endpoint                 UDP sockets, timers, transmit (``lanparty.quic.server``); its failure ends all
             ├ statistics               one event each ``stats_interval`` seconds
             ├ reload                   at SIGHUP: certificate and configuration anew (``_Running``)
             ├ watchdog                 tells the service manager that the main loop turns
             └ (the signal watcher is ``lanparty.cli.run``'s; it sets ``stop``)

Started in this order, each usable before the next. Privileges are given up as soon as the sockets are bound, before a
packet is read; "listening" is said last, when an endpoint would be admitted.
Stopped: accept nobody new; goodbye on each session, shielded and with a deadline; then cancel what is left.

Owns: this order. Must not know: what any of the parts does.
"""

from __future__ import annotations

import argparse
import math
import os
from typing import Final

import attrs
import trio

from lanparty.cli.service import Service
from lanparty.obs import events
from lanparty.obs.framelog import FrameLog
from lanparty.obs.log import log
from lanparty.quic.server import EndpointLimits, ServerEndpoint
from lanparty.quic.trust import ServerIdentity, load_certificate, load_dev_certificate
from lanparty.relay.options import RelaySettings, settings_from
from lanparty.relay.rooms import Rooms
from lanparty.relay.session import RelayHub
from lanparty.relay.sessions import Sessions
from lanparty.uplink.tick import TICK, next_tick

__all__ = ["amain", "serve"]


_LIVE: Final = frozenset({"limits", "guards", "dev_certificate", "dev_names", "certificate", "stats_interval"})
"""Fields of ``RelaySettings`` that can change while the relay runs. Sockets, user and frame log need a restart."""


async def amain(options: argparse.Namespace, stop: trio.Event, service: Service) -> None:
    """Run the relay until ``stop`` is set. Raises UsageError and MachineError before it listens."""
    settings = settings_from(options)
    await serve(settings, identity_of(settings), stop, service)


def identity_of(settings: RelaySettings) -> ServerIdentity:
    """Read the certificate that the operator gave, or make the development one. Raises UsageError."""
    if settings.certificate is not None:
        return load_certificate(*settings.certificate)
    assert settings.dev_certificate is not None
    return load_dev_certificate(settings.dev_certificate, settings.dev_names)


async def serve(
    settings: RelaySettings,
    identity: ServerIdentity,
    stop: trio.Event,
    service: Service | None = None,
    *,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a relay until ``stop`` is set; started(addresses and ports) when it listens. Raises MachineError.

    ``service``: who started this process; None: nobody who wants to know.
    """
    service = service or Service()
    hub = RelayHub(Rooms(settings.limits), FrameLog.when(settings.frame_log), settings.guards)
    sessions = Sessions(hub)
    endpoint = ServerEndpoint(
        [(address.host, address.port) for address in settings.listen], identity, EndpointLimits(), sessions.accept
    )
    running = _Running(settings, hub, endpoint)
    async with trio.open_nursery() as services:
        await services.start(sessions.run)
        bound = await services.start(endpoint.run)
        service.drop_privileges(user=settings.user)
        if service.owns_process and _is_root():
            log(events.RELAY_RUNS_AS_ROOT)
        services.start_soon(running.report_statistics)
        services.start_soon(service.reload_on_hangup, running.reload)
        services.start_soon(service.beat, TICK, next_tick)
        for address, port in bound:
            log(events.RELAY_LISTENING, address=address, port=port)
        task_status.started(bound)

        await stop.wait()
        endpoint.stop_accepting()
        await sessions.goodbye()
        services.cancel_scope.cancel()


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@attrs.define(eq=False)
class _Running:
    """What a running relay was told to be, and can be told anew."""

    settings: RelaySettings
    hub: RelayHub
    endpoint: ServerEndpoint
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def reload(self, options: argparse.Namespace) -> None:
        """Take certificate and options as they are now; sessions that are there go on as they are.

        All of it, or nothing: raises UsageError before anything is changed. New limits hold for whoever comes from now
        on; nobody is sent away for them.
        """
        settings = settings_from(options)
        self.endpoint.reload(identity_of(settings))
        before, self.settings = self.settings, settings
        self.hub.rooms.limits = settings.limits
        self.hub.tries.limit = settings.limits.room_tries
        self.hub.guard_by(settings.guards)
        self._changed.set()
        self._changed = trio.Event()
        names = [field.name for field in attrs.fields(RelaySettings) if field.name not in _LIVE]
        kept = [f"--{name.replace('_', '-')}" for name in names if getattr(before, name) != getattr(settings, name)]
        log(events.RELOADED, kept=", ".join(kept))

    async def report_statistics(self) -> None:
        """Say how much went through, and what did not, each ``stats_interval`` seconds; 0: never."""
        while True:
            changed = self._changed
            with trio.move_on_after(self.settings.stats_interval or math.inf):
                await changed.wait()
                continue
            self._report()

    def _report(self) -> None:
        hub = self.hub
        total = hub.total()
        counters = total.as_dict()
        counters |= {f"refused.{code}": count for code, count in hub.refused.items()}
        counters |= {f"quic.{name}": count for name, count in self.endpoint.counters.items()}
        log(
            events.RELAY_STATS,
            rooms=len(hub.rooms),
            members=hub.rooms.member_count,
            dropped=total.total_dropped,
            tasks=trio.lowlevel.current_statistics().tasks_living,
            **counters,
        )
