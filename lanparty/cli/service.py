"""What a program and the service manager that runs it tell each other; without a manager, nothing happens.

Owns: the notify socket (sd_notify(3)), the watchdog, the answer to SIGHUP, and that privileges are given up only by a
process that is ours to change. Must not know: the roles, and what is reloaded.

    to the manager     when
    READY=1            the first event of ``_READY``: the relay listens, the gateway bridges, the client is in the room
    STATUS=sentence    each event of ``_STATUS``: what `systemctl status` shows is what the log said last of the state
    RELOADING=1        SIGHUP came; READY=1 when it is done, well or not
    STOPPING=1         the program was asked to stop
    WATCHDOG=1         the main loop turned

The protocol is one datagram of KEY=VALUE lines to an AF_UNIX address, so no library is needed. A manager that does not
read, or is gone, must not stop a tunnel: such datagrams are lost, and a lost WATCHDOG=1 is followed by the next one
within half the time that the manager waits.

The watchdog is a task of the same loop as the data path, and there is no thread: a loop that hangs, or a batch that
never ends, pings no more. It beats on the grid of times at which an idle program wakes up anyway.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

import trio

from lanparty.cli.privileges import Capability, User, drop
from lanparty.obs import events
from lanparty.obs.errors import LanpartyError
from lanparty.obs.events import Event
from lanparty.obs.log import listening, log

__all__ = ["Service"]

_READY: Final = frozenset({events.RELAY_LISTENING, events.GATEWAY_BRIDGING, events.CLIENT_JOINED})

_STATUS: Final = _READY | {
    events.RELAY_STATS,
    events.RELOADED,
    events.RELOAD_REFUSED,
    events.UPLINK_CONNECTING,
    events.UPLINK_WAITING,
    events.UPLINK_LOST,
    events.GATEWAY_MISSING,
    events.GATEWAY_LAN_DOWN,
    events.GATEWAY_LAN_UP,
    events.CLIENT_ADDRESS,
    events.CLIENT_ADDRESS_LOST,
    events.STOPPING,
    events.FAILED,
}
"""Events that say what a program is doing now, until the next one."""

ReadOptions = Callable[[], argparse.Namespace]
"""Reads command line and configuration file again. Raises UsageError."""


def _notify_socket() -> socket.socket | None:
    """A socket for datagrams to a manager; None: this system has no such managers."""
    if sys.platform == "linux":
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    else:
        return None


class Service:
    """The manager's end of this process. ``Service()`` has no manager and changes nothing of the process."""

    def __init__(
        self,
        *,
        address: str | None = None,
        watchdog: float | None = None,
        read_options: ReadOptions | None = None,
        owns_process: bool = False,
    ) -> None:
        """``address``: the notify socket, a path or ``@`` and an abstract name. ``watchdog``: seconds that the manager
        waits for a beat. ``owns_process`` False keeps the privileges: a test's process is not the role's to change."""
        self.watchdog = watchdog
        self._address = address
        self._read_options = read_options
        self.owns_process = owns_process
        self._ready = False
        self._socket: socket.socket | None = None
        self._hangup = trio.Event()

    @classmethod
    def of_this_process(cls, environment: MutableMapping[str, str], read_options: ReadOptions | None) -> Service:
        """The service that ``environment`` speaks of. Its variables are taken out: a child is not the service."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        watchdog = None
        if microseconds.isascii() and microseconds.isdigit() and int(microseconds) and pid in ("", str(os.getpid())):
            watchdog = int(microseconds) / 1e6
        return cls(address=address, watchdog=watchdog, read_options=read_options, owns_process=True)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Tell the manager what the log says, inside."""
        given = self._address is not None and self._address[:1] in ("/", "@")
        sock = _notify_socket() if given else None
        if sock is None:
            yield
            return
        with sock as self._socket, listening(self._heard):
            yield

    # --- what the roles call --------------------------------------------------------------------------------------

    def drop_privileges(self, keep: Iterable[Capability] = (), *, user: User | None = None) -> None:
        """See ``privileges.drop``. Raises MachineError."""
        if self.owns_process:
            drop(keep, user=user)

    async def beat(self, tick: float, next_tick: Callable[[float, float], float]) -> None:
        """Tell the manager that the main loop turns, until cancelled; at once returns where nobody wants to know.

        On the grid of ``lanparty.uplink.tick``: ``tick`` seconds; ``next_tick(now, period)`` gives the next time.
        """
        if self.watchdog is None or self._socket is None:
            return
        period = self.watchdog / 2  # sd_watchdog_enabled(3)
        # A manager that is told each 14 s, and not each 15, is told when the program wakes up anyway.
        period = period if period < tick else period // tick * tick
        while True:
            self._tell(WATCHDOG="1")
            await trio.sleep_until(next_tick(trio.current_time(), period))

    async def reload_on_hangup(self, apply: Callable[[argparse.Namespace], None]) -> None:
        """At each SIGHUP have ``apply`` take the options as they are now, until cancelled.

        What cannot be read, and what ``apply`` raises as a LanpartyError, is one event; ``apply`` has then changed
        nothing, and the program goes on as before.
        """
        while True:
            await self._hangup.wait()
            self._hangup = trio.Event()
            self._tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
            try:
                assert self._read_options is not None
                apply(self._read_options())
            except LanpartyError as error:
                log(events.RELOAD_REFUSED, text=str(error))
            if self._ready:
                self._tell(READY="1")

    def hang_up(self) -> None:
        """SIGHUP came. Called by ``lanparty.cli.run``, in the main loop."""
        self._hangup.set()

    # --- to the manager -------------------------------------------------------------------------------------------

    def _heard(self, event: Event, fields: Mapping[str, Any]) -> None:
        if event not in _STATUS:
            return
        lines = {"STATUS": event.render(fields)}
        if event in _READY and not self._ready:
            self._ready = True
            lines["READY"] = "1"
        elif event is events.STOPPING:
            lines["STOPPING"] = "1"
        self._tell(**lines)

    def _tell(self, **lines: str) -> None:
        if self._socket is None or self._address is None:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(f"{key}={value}" for key, value in lines.items())
        with contextlib.suppress(OSError):  # no reader, or one that is behind; see above
            self._socket.sendto(text.encode("utf-8", "replace"), name)
