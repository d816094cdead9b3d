"""The nursery of all sessions of one relay: each connection gets one, and the relay's stop ends them politely.

Owns: which sessions there are, the order of stopping. Must not know: what a session does.
"""

from __future__ import annotations

from typing import Final

import trio

from lanparty.relay.session import CLOSE_OK, FAREWELL, RelayHub, Session, SessionConnection

__all__ = ["Sessions"]

PATIENCE: Final = FAREWELL + 0.5
"""Seconds for all sessions together to say goodbye: they do it at the same time, each within ``FAREWELL``."""


class Sessions:
    """The nursery of all sessions of one relay."""

    def __init__(self, hub: RelayHub) -> None:
        self._hub = hub
        self._sessions: set[Session] = set()
        self._nursery: trio.Nursery | None = None
        self._stopping = False
        self._empty = trio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._sessions)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the sessions' tasks; runs until it is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def accept(self, connection: SessionConnection) -> None:
        """Begin the session of a connection whose handshake is complete. Never waits."""
        if self._nursery is None or self._stopping:
            connection.close(CLOSE_OK, "the relay is shutting down")
            return
        session = Session(connection, self._hub)
        self._sessions.add(session)
        if self._empty.is_set():
            self._empty = trio.Event()
        self._nursery.start_soon(self._run_one, session)

    async def goodbye(self) -> None:
        """Tell every endpoint that the relay stops, and wait until they know; at most ``PATIENCE`` seconds."""
        self._stopping = True
        for session in tuple(self._sessions):
            session.shut_down()
        # Shielded, so that it also comes through when the program is cancelled; the deadline bounds it then, too.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
            await self._empty.wait()

    async def _run_one(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            if not self._sessions:
                self._empty.set()
