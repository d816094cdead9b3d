"""The nursery of all sessions of one relay: each connection gets one, and the relay's stop ends them politely.

One more task looks after all of them together, when the first of them has something to do by time alone: members that
are well are heard from each 2 s, so that it wakes up each 2.5 s or so however many there are.

Owns: which sessions there are, the order of stopping. Must not know: what a session does.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from lanparty.relay.session import CLOSE_OK, FAREWELL, SILENCE, RelayHub, Session, SessionConnection

__all__ = ["Sessions"]

PATIENCE: Final = FAREWELL + 0.5
"""Seconds for all sessions together to say goodbye: they do it at the same time, each within ``FAREWELL``."""

LOOK_PAUSE: Final = 0.25
"""Seconds at least between two looks at all sessions: a look costs about a microsecond for each, and nothing that it
finds is so urgent. Silence is noticed at most twice this much late, because it takes two looks: after a time in which
this program itself stood still, what the members said meanwhile is read between the two."""


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
            await self._look_after_all()

    async def _look_after_all(self) -> None:
        while True:
            now = trio.current_time()
            # Who comes after this look has nothing due before the next.
            due = min((session.look(now) for session in tuple(self._sessions)), default=math.inf)
            await trio.sleep_until(min(max(due, now + LOOK_PAUSE), now + SILENCE))

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
