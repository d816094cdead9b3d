"""The relay program: its whole nursery tree.

    services ┬ sessions                 looks after silence, for all of them (``sessions.py``)
             │ └ a session              one for each endpoint (``session.py``); its failure ends that session only
             │   └ writer               while its outbox holds something
             ├ endpoint                 UDP sockets, timers, transmit (``lanparty.quic.server``); its failure ends all
             ├ statistics               one event each ``stats_interval`` seconds
             └ (the signal watcher is ``lanparty.cli.run``'s; it sets ``stop``)

Started in this order, each usable before the next; "listening" is said last, when an endpoint would be admitted.
Stopped: accept nobody new; goodbye on each session, shielded and with a deadline; then cancel what is left.

Owns: this order. Must not know: what any of the parts does.
"""

from __future__ import annotations

import argparse

import trio

from lanparty.obs import events
from lanparty.obs.framelog import FrameLog
from lanparty.obs.log import log
from lanparty.quic.server import EndpointLimits, ServerEndpoint
from lanparty.quic.trust import ServerIdentity, load_certificate, load_dev_certificate
from lanparty.relay.options import RelaySettings, settings_from
from lanparty.relay.rooms import Rooms
from lanparty.relay.session import RelayHub
from lanparty.relay.sessions import Sessions

__all__ = ["amain", "serve"]


async def amain(options: argparse.Namespace, stop: trio.Event) -> None:
    """Run the relay until ``stop`` is set. Raises UsageError and MachineError before it listens."""
    settings = settings_from(options)
    await serve(settings, identity_of(settings), stop)


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
    *,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a relay until ``stop`` is set; started(addresses and ports) when it listens. Raises MachineError."""
    hub = RelayHub(rooms=Rooms(settings.limits), watch=FrameLog.when(settings.frame_log))
    sessions = Sessions(hub)
    endpoint = ServerEndpoint(
        [(address.host, address.port) for address in settings.listen], identity, EndpointLimits(), sessions.accept
    )
    async with trio.open_nursery() as services:
        await services.start(sessions.run)
        bound = await services.start(endpoint.run)
        if settings.stats_interval:
            services.start_soon(report_statistics, hub, endpoint, settings.stats_interval)
        for address, port in bound:
            log(events.RELAY_LISTENING, address=address, port=port)
        task_status.started(bound)

        await stop.wait()
        endpoint.stop_accepting()
        await sessions.goodbye()
        services.cancel_scope.cancel()


async def report_statistics(hub: RelayHub, endpoint: ServerEndpoint, interval: float) -> None:
    """Say how much went through, and what did not, each ``interval`` seconds."""
    while True:
        await trio.sleep(interval)
        total = hub.total()
        counters = total.as_dict()
        counters |= {f"refused.{code}": count for code, count in hub.refused.items()}
        counters |= {f"quic.{name}": count for name, count in endpoint.counters.items()}
        log(
            events.RELAY_STATS,
            rooms=len(hub.rooms),
            members=hub.rooms.member_count,
            dropped=total.total_dropped,
            **counters,
        )
