"""Sockets, an engine and trio: one reader task per socket and one timer task.

Owns: when the engine is called. Must not know: what the engine does. All work between two waits is synchronous.

A readable socket's way through its reader task:

1. read until nothing is left, but at most a portion: ``BATCH`` packets, or a run of the kernel's more;
2. have the engine process it; before it returns it sends all that became ready, so nothing waits while we sleep;
3. arm the timer, once;
4. a whole portion: let other tasks run once, then 1. Else sleep until the socket is readable.

What was measured, in microseconds: a read that finds nothing 1.3, ``wait_readable`` of a socket that is readable 7.6,
a checkpoint 3.5, setting the timer's deadline 1.6. So reading until nothing is left pays where more than one in six of
the second reads finds something, and costs about 1 % of a wake-up where none does. One more look after step 2 does not
pay: it finds something more often than that, but splits what one batch would have carried: at 10 000 packets/s of one
peer 5 % to 25 % more processor time, at other rates none less, with 30 us per batch and 6 per packet.
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

    def transmit(self, path: UdpPath, packets: Sequence[bytes]) -> None:
        """Send UDP payloads along ``path``, in order, now; never raises for what the network does."""
        self._sockets[path.socket].send_batch(path, packets)

    def local_address(self, path: UdpPath) -> tuple[str, int]:
        """Return our address and port on ``path``."""
        return self._sockets[path.socket].local_address(path)

    def max_payload(self, path: UdpPath) -> int:
        """Return the bytes of UDP payload that are worth trying on ``path``; see ``UdpSocket.max_payload``."""
        return self._sockets[path.socket].max_payload(path)

    def rearm(self) -> None:
        """Have the timer task sleep until the engine's next deadline."""
        scope = self._timer
        if scope is not None and scope.deadline != (deadline := self.engine.next_deadline()):
            scope.deadline = deadline

    async def _read(self, udp: UdpSocket) -> NoReturn:
        while True:
            await trio.lowlevel.wait_readable(udp.sock)
            while not self._read_portion(udp):
                await trio.lowlevel.checkpoint()  # half the price of waiting for what is there already

    def _read_portion(self, udp: UdpSocket) -> bool:
        """Read and process what is there, at most a portion of it; return whether that was all.

        ``BATCH`` packets, and at most 63 more where the kernel joins them: some 0.6 ms of work, about as long as the
        readers of TAP and LAN, and the timers of paced sending with their steps of 1 ms, can wait for their turn.
        """
        batch = udp.receive_batch(BATCH)
        now = trio.current_time()
        if batch:
            self.engine.receive_untrusted(batch, now)
        elif udp.failed:
            self.engine.network_error(now)
        self.rearm()
        return udp.drained

    async def _handle_timers(self) -> NoReturn:
        while True:
            with trio.CancelScope(deadline=self.engine.next_deadline()) as self._timer:
                await trio.sleep_forever()
            self.engine.handle_timers(trio.current_time())
