"""Sockets, an engine and trio: one reader task per socket and one timer task.

Owns: when the engine is called. Must not know: what the engine does. All work between two waits is synchronous.

A readable socket's way through its reader task:

1. read until nothing is left, but at most a portion: ``BATCH`` packets, or a run of the kernel's more;
2. have the engine process it; before it returns it sends all that became ready, so nothing waits while we sleep;
3. arm the timer, once;
4. a whole portion: let other tasks run once, then 1. Else sleep until the socket is readable.

When there is more than a portion the senders take turns, so that one who floods delays himself (``ingress.py``).

What was measured, in microseconds: a read that finds nothing 1.3, ``wait_readable`` of a socket that is readable 7.6,
a checkpoint 3.5, setting the timer's deadline 1.6. So reading until nothing is left pays where more than one in six of
the second reads finds something, and costs about 1 % of a wake-up where none does. One more look after step 2 does not
pay: it finds something more often than that, but splits what one batch would have carried: at 10 000 packets/s of one
peer 5 % to 25 % more processor time, at other rates none less, with 30 us per batch and 6 per packet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NoReturn

import trio

from lanparty.quic.connection import Received, UdpPath
from lanparty.quic.engine import Engine
from lanparty.quic.ingress import Ingress
from lanparty.quic.settings import BATCH
from lanparty.quic.sockets import UdpSocket

__all__ = ["Driver"]

READ_AHEAD: Final = 4
"""Portions read in overload before one is processed: 0.1 to 1.2 ms, joined by the kernel or not.
So a flood of up to some 200 000 packets/s fills its own line, and not the kernel's buffer."""

LINGER: Final = 3.0
"""Seconds for which a socket that was replaced is read: what was on its way to it when the peer learnt of the new one,
and, where the old path still carries, until it has learnt, with repetitions."""


class Driver:
    """Runs one engine over some sockets. Set ``engine`` before ``run``."""

    engine: Engine

    def __init__(self, sockets: Sequence[UdpSocket], errors: Counter[str]) -> None:
        self.errors = errors
        """Network errors survived, by errno name."""
        self._sockets = list(sockets)
        self._scopes = [trio.CancelScope() for _udp in sockets]
        self._replaced: set[UdpSocket] = set()
        self._nursery: trio.Nursery | None = None
        self._timer: trio.CancelScope | None = None

    async def run(self) -> NoReturn:
        """Read and handle timers until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for index in range(len(self._sockets)):
                self._start_reading(index)
            await self._handle_timers()
        raise AssertionError("the timer task never ends")

    def replace(self, udp: UdpSocket, index: int = 0) -> None:
        """Send by ``udp`` from now on, in place of the socket at ``index``, and close that one after ``LINGER``
        seconds in which it is still read. Both have the same peer."""
        assert self._nursery is not None
        self._replaced.add(self._sockets[index])
        self._scopes[index].deadline = trio.current_time() + LINGER
        self._sockets[index], self._scopes[index] = udp, trio.CancelScope()
        self._start_reading(index)

    def _start_reading(self, index: int) -> None:
        assert self._nursery is not None
        udp, scope = self._sockets[index], self._scopes[index]
        self._nursery.start_soon(self._read, udp, scope, name=f"quic reader {udp.sock.getsockname()}")

    def close(self) -> None:
        """Close the sockets: only when ``run`` is over."""
        for udp in (*self._sockets, *self._replaced):
            udp.close()

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

    async def _read(self, udp: UdpSocket, scope: trio.CancelScope) -> None:
        with scope:
            ingress = Ingress(self.engine.sender_of_untrusted, self.engine.ingress_full)
            while True:
                await trio.lowlevel.wait_readable(udp.sock)
                while not self._read_portion(udp, ingress):
                    await trio.lowlevel.checkpoint()  # half the price of waiting for what is there already
        self._replaced.discard(udp)
        udp.close()

    def _read_portion(self, udp: UdpSocket, ingress: Ingress) -> bool:
        """Read and process what is there, at most a portion of it; return whether that was all.

        ``BATCH`` packets, and at most 63 more where the kernel joins them: some 0.6 ms of work, about as long as the
        readers of TAP and LAN, and the timers of paced sending with their steps of 1 ms, can wait for their turn.
        """
        batch = udp.receive_batch(BATCH)
        now = trio.current_time()
        if not udp.drained or ingress:
            self._take_turns(udp, ingress, batch, now)
        elif batch:
            self.engine.receive_untrusted(batch, now)
        elif udp.failed:
            self.engine.network_error(now)
        self.rearm()
        return udp.drained and not ingress

    def _take_turns(self, udp: UdpSocket, ingress: Ingress, batch: list[Received], now: float) -> None:
        """In overload: read ahead, then process a portion in which each sender has its part."""
        ingress.add(batch, now)
        for _ in range(READ_AHEAD):
            if udp.drained:
                break
            ingress.add(udp.receive_batch(BATCH), now)
        now = trio.current_time()
        self.engine.receive_untrusted(ingress.take(now), now)

    async def _handle_timers(self) -> NoReturn:
        while True:
            with trio.CancelScope(deadline=self.engine.next_deadline()) as self._timer:
                await trio.sleep_forever()
            self.engine.handle_timers(trio.current_time())
