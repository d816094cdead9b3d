"""Sockets, an engine and trio: one reader task per socket and one timer task.

Owns: when the engine is called. Must not know: what the engine does. All work between two waits is synchronous.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

import trio

from lanparty.quic.connection import UdpPath
from lanparty.quic.engine import Engine
from lanparty.quic.settings import BATCH
from lanparty.quic.sockets import UdpSocket

__all__ = ["Driver"]


class Driver:
    """Runs one engine over some sockets. Set ``engine`` before ``run``."""

    engine: Engine

    def __init__(self, sockets: Sequence[UdpSocket], errors: Counter[str]) -> None:
        self.errors = errors
        """Network errors survived, by errno name."""
        self._sockets = sockets
        self._timer: trio.CancelScope | None = None

    async def run(self) -> NoReturn:
        """Read and handle timers until cancelled."""
        async with trio.open_nursery() as nursery:
            for udp in self._sockets:
                nursery.start_soon(self._read, udp, name=f"quic reader {udp.sock.getsockname()}")
            await self._handle_timers()
        raise AssertionError("the timer task never ends")

    def transmit(self, packets: list[tuple[bytes, UdpPath]]) -> None:
        """Send UDP payloads, each by the socket of its path."""
        sockets = self._sockets
        for packet, path in packets:
            sockets[path.socket].send(packet, path)

    def local_address(self, path: UdpPath) -> tuple[str, int]:
        """Return our address and port on ``path``."""
        return self._sockets[path.socket].local_address(path)

    def rearm(self) -> None:
        """Have the timer task sleep until the engine's next deadline."""
        scope = self._timer
        if scope is not None and scope.deadline != (deadline := self.engine.next_deadline()):
            scope.deadline = deadline

    async def _read(self, udp: UdpSocket) -> NoReturn:
        while True:
            await trio.lowlevel.wait_readable(udp.sock)
            packets = udp.receive_batch(BATCH)
            if packets:
                self.engine.receive_untrusted(packets, trio.current_time())
            else:
                self.engine.network_error(trio.current_time())  # what else makes a socket readable
            self.rearm()

    async def _handle_timers(self) -> NoReturn:
        while True:
            with trio.CancelScope(deadline=self.engine.next_deadline()) as self._timer:
                await trio.sleep_forever()
            self.engine.handle_timers(trio.current_time())
