"""Whether this computer is in the house itself: a laptop that was carried home with the tunnel up.

Then every broadcast reaches it twice, its adapter's routes hide the cable's, and where somebody has bridged adapter and
cable frames go round for ever. So the tunnel is paused, and goes on when the computer has left.

How it is noticed: the gateway sends a probe into the house LAN each 10 s, which lists the virtual MACs that it carries
(``proto.probe``). A probe with *our* virtual MAC, heard on an interface that is no tunnel, is from our room's gateway
and came by a way that is not the tunnel: no router forwards it. That cannot happen by mistake, and a stranger on some
other LAN cannot make it up, because a virtual MAC is known in the room and in the house only. What was left aside: the
house's DHCP server or router seen twice (many houses have the same addresses, and cheap routers the same MAC); the
gateway's CAM refresh, whose interval is an option.

It costs nothing but a wake-up in 10 s, and that only at home. Without the capability for packet sockets, and on systems
that have none, it is not noticed.

Owns: the listening task and its verdict. Must not know: what a pause does (player.py), who sends probes.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Final, Protocol

import attrs
import trio

from lanparty.obs import events
from lanparty.obs.errors import MachineError
from lanparty.obs.log import log
from lanparty.proto.probe import parse_probe_untrusted

__all__ = ["AWAY_AFTER", "PAUSE", "Homecoming", "Listener", "listen_for_home"]

AWAY_AFTER: Final = 25.0
"""Seconds without a probe after which the computer has left: two are missing."""

PAUSE: Final = 1.0
"""Seconds between two looks at what was heard. A LAN that has a loop repeats a probe some 100 000 times a second."""


class Listener(Protocol):
    """What is needed of `lanparty.link.listen.FrameListener`."""

    async def wait_readable(self) -> None:
        """Return when something was heard."""
        ...

    def read(self) -> list[tuple[str, bytes]]:
        """Give it: interface and frame."""
        ...


class Paused(Protocol):
    """What is told: `lanparty.client.player.Player.at_home`."""

    async def __call__(self, interface: str | None) -> None:
        """Take note of the interface by which the house is heard; None: it is not."""
        ...


@attrs.define
class Homecoming:
    """The verdict, as a pure function of what was heard."""

    mac: bytes
    """Our virtual MAC."""
    tunnels: Container[str] = ()
    """Interfaces that lead into a tunnel: what is heard there proves nothing."""
    interface: str | None = None
    """By which the house is heard now; None: we are not in it."""
    until: float = -math.inf
    """When that is over, if nothing more is heard."""

    def heard_untrusted(self, interface: str, frame: bytes, now: float) -> None:
        """Take a frame that came in by ``interface``."""
        if interface in self.tunnels:
            return
        probe = parse_probe_untrusted(frame)
        if probe is None or self.mac not in probe.members:
            return
        if self.interface is None:
            self.interface = interface
        self.until = now + AWAY_AFTER

    def look(self, now: float) -> str | None:
        """Give the interface by which the house is heard at ``now``, or None."""
        if now >= self.until:
            self.interface = None
        return self.interface


async def listen_for_home(listener: Listener, home: Homecoming, tell: Paused) -> None:
    """Listen until cancelled; ``tell`` hears of each change."""
    told: str | None = None
    while True:
        with trio.move_on_at(home.until if told is not None else math.inf):
            await listener.wait_readable()
        now = trio.current_time()
        for interface, frame in listener.read():
            home.heard_untrusted(interface, frame, now)
        state = home.look(now)
        if state != told:
            try:
                await tell(state)
                told = state
            except MachineError as error:  # the kernel is busy: again with the next probe
                log(events.TASK_FAILED, what="Pausing the tunnel", text=str(error))
        await trio.sleep(PAUSE)
