"""The uplink's life: resolve -> connect -> session -> back-off -> again, and which failures end it.

    what happens                                 before the first admission        after one
    name does not resolve, no answer, goodbye    again, until --connect-timeout,   again, for ever
                                                 then ConnectionFailedError (1)
    refused                                      RefusedError (3) at once          RefusedError (3); what our own
                                                                                   dead session may cause: after 15 s;
                                                                                   too many tries or rooms: never
    certificate not trusted                      UntrustedError (4) at once        the same
    network changed                              next try at once                  the session moves; if it cannot:
                                                                                   next try at once
    machine slept                                next try at once                  the same

A name that does not resolve is treated as a relay that does not answer: the network of a machine that has just started
comes up later than this program does. Once it has resolved, its addresses are remembered: after a loss the adapter and
its routes are still there, so the question to the name server may go into the dead tunnel.

A round tries every address of the name, each for its share of the time (`_patience`). The first round is always
completed, whatever --connect-timeout says.

Owns: the order of tries and their delays. Must not know: what a role does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable

import trio

from lanparty.ctrl.messages import RejectCode, Welcome
from lanparty.obs import events
from lanparty.obs.errors import ConnectionFailedError, LanpartyError, MachineError, RefusedError
from lanparty.obs.log import log
from lanparty.quic.client import drive
from lanparty.quic.connection import Connection
from lanparty.uplink.backoff import Backoff
from lanparty.uplink.port import Port
from lanparty.uplink.resolve import ResolveError, prefer, resolve
from lanparty.uplink.session import HANDSHAKE_TIMEOUT, Driver, Session, SessionEnd
from lanparty.uplink.settings import UplinkSettings
from lanparty.uplink.tunnel import Tunnel
from lanparty.uplink.watch import NetworkWatch, Path, watch_gaps

__all__ = ["UplinkLoop"]

STEADY = 5.0
"""Seconds that a session must have lasted for the back-off to begin anew: a relay that admits us and loses us at once
is not to be asked five times a second."""

OWN_GHOST = 15.0
"""Seconds for which a refusal may come from our own dead session: the relay gives it up after 5 s of silence, or after
its idle time-out of 10 s."""

LOOKUP_TIMEOUT = 2.0
"""Seconds for the name server while there are addresses from an earlier answer: most answer within one."""

WATCH_PAUSE = 5.0
"""Seconds before the network is watched again after the kernel refused: about what SILENCE needs, so little is lost."""

LEAST_PATIENCE = 1.0
"""Seconds at least for one address: a handshake is two round trips, with one lost packet repeated after 0.2 s."""

_GHOST_CODES = frozenset(
    code.value for code in (RejectCode.DUPLICATE_MAC, RejectCode.GATEWAY_PRESENT, RejectCode.ROOM_FULL)
)

_LATER_CODES = frozenset(code.value for code in (RejectCode.TOO_MANY_TRIES, RejectCode.TOO_MANY_ROOMS))

Resolver = Callable[[str, int], Awaitable[list[tuple[str, int]]]]


class UplinkLoop:
    """Keeps one role in its room. Run `run` in the role's nursery; end it by `stop`."""

    def __init__(
        self,
        settings: UplinkSettings,
        port: Port,
        tunnel: Tunnel,
        *,
        watch: NetworkWatch | None,
        uniform: Callable[[], float] = random.random,
        driver: Driver = drive,
        resolver: Resolver = resolve,
    ) -> None:
        """``watch`` None: changes of the network are not noticed."""
        self._settings = settings
        self._port = port
        self._tunnel = tunnel
        self._watch = watch
        self._driver = driver
        self._resolver = resolver
        self._backoff = Backoff(uniform)
        self._session: Session | None = None
        self._scope = trio.CancelScope()
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._kicked = trio.Event()
        self._known: list[tuple[str, int]] = []
        self._last_good: tuple[str, int] | None = None
        self._last_tried: str | None = None
        self._was_member = False
        self._watch_failed = False
        self._give_up_at = math.inf
        self._ghost_until = 0.0
        self._last_failure: ConnectionFailedError | None = None

    async def run(self, *, task_status: trio.TaskStatus[Welcome] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay in the room until `stop`; started(welcome) when frames flow for the first time.

        Raises RefusedError, UntrustedError, ConnectionFailedError (see the table above), and what the port raises.
        """
        failure: LanpartyError | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch_gaps, self._slept)
                    try:
                        await self._keep_trying(task_status)
                    except LanpartyError as error:
                        failure = error  # Raised below, so that the nursery does not wrap it in a group.
                    nursery.cancel_scope.cancel()
        finally:
            self._stopped.set()
        if failure is not None:
            raise failure

    async def stop(self, reason: str) -> None:
        """Say goodbye to the relay and let `run` return; bounded in time by the session's goodbye."""
        self._stopping.set()
        if self._session is not None:
            self._session.end(reason, stopped=True)
        else:
            self._scope.cancel()
        await self._stopped.wait()

    async def _keep_trying(self, task_status: trio.TaskStatus[Welcome]) -> None:
        # Lifted by the first admission.
        self._give_up_at = trio.current_time() + self._settings.connect_timeout
        # Has no deadline during the first round, so that each address has its try.
        with trio.CancelScope() as first:

            def on_welcome(welcome: Welcome) -> None:
                self._give_up_at = first.deadline = math.inf
                log(events.UPLINK_ADMITTED, peer=welcome.peer_id, room=welcome.room, mtu=welcome.effective_mtu)

            def on_admitted(_connection: Connection, welcome: Welcome) -> None:
                if not self._was_member:
                    self._was_member = True
                    task_status.started(welcome)

            while not self._stopping.is_set():
                self._kicked = trio.Event()
                began = trio.current_time()
                try:
                    end = await self._round(on_welcome, on_admitted)
                except (ConnectionFailedError, RefusedError) as failure:
                    first.deadline = self._give_up_at
                    await self._after_failure(failure)
                else:
                    first.deadline = self._give_up_at
                    if end.stopped:
                        return
                    await self._after_session(end, trio.current_time() - began)
        if first.cancelled_caught:
            raise self._gave_up()

    async def _after_failure(self, failure: ConnectionFailedError | RefusedError) -> None:
        """Wait before the next try, if there is to be one; raise ``failure`` if there is not."""
        reason = str(failure)
        if isinstance(failure, ConnectionFailedError):
            self._last_failure = failure
        elif self._ghost(failure):
            reason += " That may be our own earlier connection."
        elif self._was_member and failure.code in _LATER_CODES:
            pass  # Others made the relay say so: who had a place once gets it again.
        else:
            raise failure
        await trio.lowlevel.checkpoint()  # Too late for another try: then none is announced.
        await self._pause(events.UPLINK_WAITING, _sentence(reason))

    async def _after_session(self, end: SessionEnd, lasted: float) -> None:
        """Wait before the next try, after a session of ``lasted`` seconds."""
        if self._was_member:
            self._tunnel.counters.reconnects += 1
            self._ghost_until = trio.current_time() + OWN_GHOST
        if lasted >= STEADY:
            self._backoff.reset()
        if end.at_once:
            log(events.UPLINK_NETWORK_CHANGED, reason=end.reason)
        else:
            await self._pause(events.UPLINK_LOST, end.reason)

    async def _round(
        self, on_welcome: Callable[[Welcome], None], on_admitted: Callable[[Connection, Welcome], None]
    ) -> SessionEnd:
        """Try every address once, in order; give the end of the session that came of it.

        Raises ConnectionFailedError when no address admitted us.
        """
        addresses = await self._addresses()
        # After a loss the first round takes no longer than one address would; those after it are ever more patient.
        end_at = trio.current_time() + HANDSHAKE_TIMEOUT * max(1, self._backoff.failures)
        if not self._was_member:
            end_at = self._give_up_at
        failure: ConnectionFailedError | None = None
        for tried, address in enumerate(addresses):
            self._last_tried = address[0]
            log(events.UPLINK_CONNECTING, address=address[0], port=address[1])

            def admitted(connection: Connection, welcome: Welcome, address: tuple[str, int] = address) -> None:
                self._last_good = address
                on_admitted(connection, welcome)

            session = Session(
                self._settings,
                self._port,
                self._tunnel,
                on_welcome=on_welcome,
                on_admitted=admitted,
                driver=self._driver,
                handshake_timeout=_patience(end_at - trio.current_time(), len(addresses) - tried),
            )
            try:
                await self._port.on_connecting(address[0])
                return await self._run_session(session, address)
            except ConnectionFailedError as error:
                failure = self._last_failure = error
                if address != addresses[-1]:  # The last one's reason is told with what happens next.
                    log(events.UPLINK_ATTEMPT_FAILED, address=address[0], port=address[1], reason=str(error))
        assert failure is not None  # resolve() never gives an empty list
        raise failure

    async def _addresses(self) -> list[tuple[str, int]]:
        """Look the relay's name up; give the addresses to try, in order: those from before if there is no answer now.

        Raises ResolveError when there are none.
        """
        relay = self._settings.relay
        log(events.UPLINK_RESOLVING, name=relay.host)
        limit = trio.current_time() + LOOKUP_TIMEOUT if self._known else self._give_up_at
        failure = ResolveError(
            f"The relay's name {relay.host!r} does not resolve (no name server answers): check --relay and this "
            "machine's name server."
        )
        with trio.move_on_at(limit) as lookup:
            try:
                self._known = await self._resolver(relay.host, relay.port)
            except ResolveError as error:
                failure = error
            else:
                log(events.UPLINK_RESOLVED, name=relay.host, addresses=", ".join(host for host, _ in self._known))
                return prefer(self._known, self._last_good)
        if not self._known:
            raise failure
        reason = f"no answer within {LOOKUP_TIMEOUT:g} s" if lookup.cancelled_caught else str(failure)
        log(events.TASK_FAILED, what=f"Looking up {relay.host}", text=f"{_sentence(reason)} Using its last addresses.")
        return prefer(self._known, self._last_good)

    async def _run_session(self, session: Session, address: tuple[str, int]) -> SessionEnd:
        """Run one session, and the watch of the network beside it."""
        end: SessionEnd | None = None
        failure: LanpartyError | None = None
        self._session = session
        try:
            if self._stopping.is_set():
                return SessionEnd("stopped", stopped=True)
            async with trio.open_nursery() as nursery:
                if self._watch is not None:
                    nursery.start_soon(self._watch_network, self._watch, session, address[0])
                try:
                    end = await session.run(address)
                except LanpartyError as error:
                    failure = error  # Raised below, so that the nursery does not wrap it in a group.
                nursery.cancel_scope.cancel()
        finally:
            self._session = None
        if failure is not None:
            raise failure
        assert end is not None
        return end

    async def _watch_network(self, watch: NetworkWatch, session: Session, relay: str) -> None:
        while True:
            reason = await self._change(watch, relay, session)
            await session.move(relay, reason)

    async def _pause(self, event: events.Event, reason: str) -> None:
        """Wait the back-off's delay, or less when the network changed, the machine woke up, or we are to stop."""
        delay = self._backoff.next_delay()
        log(event, reason=reason, delay=delay)
        with trio.move_on_after(delay):
            async with trio.open_nursery() as nursery:
                if self._watch is not None and self._last_tried is not None:
                    nursery.start_soon(self._kick_on_change, self._watch, self._last_tried)
                await self._kicked.wait()
                nursery.cancel_scope.cancel()

    async def _kick_on_change(self, watch: NetworkWatch, relay: str) -> None:
        log(events.UPLINK_NETWORK_CHANGED, reason=await self._change(watch, relay))
        self._kicked.set()

    async def _change(self, watch: NetworkWatch, relay: str, session: Session | None = None) -> str:
        """Wait for a change of the network. While it cannot be watched, only silence shows a dead path."""
        while True:
            try:
                return await watch.wait_changed(Path(relay, local=session.local if session is not None else None))
            except MachineError as error:
                if not self._watch_failed:
                    self._watch_failed = True
                    log(events.TASK_FAILED, what="Watching this computer's network", text=str(error))
                await trio.sleep(WATCH_PAUSE)

    def _slept(self, seconds: float) -> None:
        if self._session is not None:
            self._session.end(f"this computer slept for {seconds:.0f} s", at_once=True)
        self._kicked.set()

    def _ghost(self, error: RefusedError) -> bool:
        """Whether a refusal may come from our own dead session, so that it is worth another try."""
        return error.code in _GHOST_CODES and trio.current_time() < self._ghost_until

    def _gave_up(self) -> ConnectionFailedError:
        """Give the failure of a first connection that was not made in time."""
        relay = self._settings.relay
        tried = f"Tried for {self._settings.connect_timeout:g} s (--connect-timeout)."
        if self._last_failure is not None:
            return ConnectionFailedError(f"{_sentence(str(self._last_failure))} {tried}")
        return ConnectionFailedError(
            f"The relay {relay.host} does not answer on UDP port {relay.port}: check the address, that the relay runs, "
            f"and that no firewall on the way blocks UDP. {tried}"
        )


def _patience(seconds: float, left: int) -> float:
    """Give the seconds for the next address's handshake, when ``seconds`` are there for the ``left`` addresses."""
    return round(min(HANDSHAKE_TIMEOUT, max(LEAST_PATIENCE, seconds / left)), 1)


def _sentence(text: str) -> str:
    """Give ``text`` as a whole sentence, so that another one can follow."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
