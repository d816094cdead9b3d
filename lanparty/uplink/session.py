"""One connection's life: hello -> welcome | reject, heartbeats, members coming and going, goodbye.

    1. QUIC connection driver (a task; everything else ends before it does)
    2. hello, then one message: welcome, or reject
    3. the role makes its device ready (`Port.on_admitted`), then frames flow
    4. tasks: datagram pump, control-stream reader, pulse (signs of life, silence, stats)
    5. whoever sees the end first says why (`end`), all tasks stop, goodbye, driver stops

Signs of life. On each tick an echo asks the relay for one; it goes the way that frames go, and measures it. As long as
something comes back that is all, on an idle path: one datagram each way. When nothing has come ``PATIENCE`` seconds
after a question, it is repeated each ``HURRY`` seconds, with a heartbeat on the control stream beside it, which QUIC
repeats by itself. Nothing at all for ``SILENCE`` seconds: the path is dead. While the role makes its device ready there
are no echoes yet, and heartbeats take their place.

Owns: the control stream and the order of these steps.
Must not know: addresses of a name, back-off, what becomes of the program after the end (`lanparty.uplink.loop`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
import trio

from lanparty.ctrl import codec
from lanparty.ctrl.codec import ControlDecoder, Unknown
from lanparty.ctrl.errors import ControlError
from lanparty.ctrl.messages import (
    CLOSE_TAKEN_OVER,
    PROTOCOL,
    ROOM_KEYS_SINCE,
    TAKEN_OVER,
    Disconnect,
    Heartbeat,
    Hello,
    Message,
    PeerJoined,
    PeerLeft,
    Reject,
    RejectCode,
    Stats,
    Welcome,
)
from lanparty.ctrl.proof import prove
from lanparty.ctrl.validate import check_member, check_welcome
from lanparty.obs import events
from lanparty.obs.errors import ConnectionFailedError, LanpartyError, RefusedError
from lanparty.obs.log import log
from lanparty.quic.client import drive
from lanparty.quic.connection import Closed, Connection, ConnectionLost
from lanparty.quic.trust import Trust
from lanparty.uplink.port import Port
from lanparty.uplink.settings import UplinkSettings
from lanparty.uplink.tick import next_tick
from lanparty.uplink.tunnel import Tunnel

__all__ = ["Session", "SessionEnd"]

HANDSHAKE_TIMEOUT = 4.0
"""Seconds at most for the QUIC handshake with one address. With the longest back-off before it, still below the 10 s in
which a member is to be back after the relay restarted."""

ADMISSION_TIMEOUT = 5.0
"""Seconds from the handshake to the relay's answer: the same as the relay gives us for the hello."""

PATIENCE = 1.0
"""Seconds for the answer to an echo: above any round trip that is worth playing over."""

HURRY = 0.5
"""Seconds between questions once an answer is missing. A path that was away for 2 s and comes back is found within
this, 4 s after the last sign at most: well before SILENCE."""

SILENCE = 4.5
"""Seconds without any sign of the relay after which the path is dead: noticed within 5 s, and a path that was away for
2 s is not given up."""

STATS = 10.0
"""Seconds between counters sent to the relay: a multiple of TICK, so that they wake nobody up."""

GOODBYE = 1.0
"""Seconds at most for the relay to acknowledge our goodbye."""

MOVE_PATIENCE = 2.0
"""Seconds for the relay's answer on another way to it: four tries of QUIC's (0, 0.2, 0.6, 1.4 s). Together with a tick
still below the 5 s of silence after which the relay gives us up."""


@attrs.frozen
class SessionEnd:
    """How a session ended after it was admitted."""

    reason: str
    """For a person; the middle of a sentence."""

    at_once: bool = False
    """Reconnect without back-off: the relay is not the one that failed."""

    stopped: bool = False
    """We were asked to stop."""


class Driver(Protocol):
    """`lanparty.quic.client.drive`, or a fake of it."""

    async def __call__(
        self,
        address: tuple[str, int],
        *,
        server_name: str,
        trust: Trust,
        handshake_timeout: float = ...,
        task_status: trio.TaskStatus[Connection] = ...,
    ) -> None:
        """Run one connection; started(connection) after the handshake. Raises ConnectionLost only after that."""
        ...


class Session:
    """One try to be a member of the room at one address of the relay. Used once."""

    def __init__(
        self,
        settings: UplinkSettings,
        port: Port,
        tunnel: Tunnel,
        *,
        on_welcome: Callable[[Welcome], None] = lambda _welcome: None,
        on_admitted: Callable[[Connection, Welcome], None] = lambda _connection, _welcome: None,
        driver: Driver = drive,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        """``on_welcome`` is called when the relay said yes, ``on_admitted`` when frames flow."""
        self.admitted = False
        self._settings = settings
        self._port = port
        self._tunnel = tunnel
        self._on_welcome = on_welcome
        self._on_admitted = on_admitted
        self._driver = driver
        self._handshake_timeout = handshake_timeout
        self._work = trio.CancelScope()
        self._end: SessionEnd | None = None
        self._failure: LanpartyError | None = None
        self._decoder = ControlDecoder()
        self._sending = trio.Lock()
        self._heard = 0.0
        self._flowing = False
        self._pause: trio.CancelScope | None = None
        self._connection: Connection | None = None

    @property
    def local(self) -> str | None:
        """This machine's IP address that the relay knows us by; None while frames do not flow."""
        return self._connection.local_address[0].partition("%")[0] if self._connection is not None else None

    async def move(self, address: str, reason: str) -> None:
        """Go on by the way that leads to the relay's ``address`` now, which is another one, for this ``reason``.

        The session goes on as it is; where it is not that far yet, or cannot, it ends, to be made anew at once.
        """
        connection = self._connection
        if connection is None:
            self.end(reason, at_once=True)
            return
        try:
            with trio.move_on_after(MOVE_PATIENCE) as patience:
                await self._port.on_connecting(address)
                await connection.migrate()
                log(events.UPLINK_MOVED, reason=reason, address=connection.local_address[0])
        except (LanpartyError, ConnectionLost) as error:
            self.end(f"{reason}, and: {error}", at_once=True)
        if patience.cancelled_caught:
            self.end(f"{reason}, and nothing comes back that way", at_once=True)

    def end(self, reason: str, *, at_once: bool = False, stopped: bool = False) -> None:
        """End the session from outside or inside; the first reason counts. Never waits."""
        if self._end is None and self._failure is None:
            self._end = SessionEnd(reason, at_once=at_once, stopped=stopped)
        self._work.cancel()

    async def run(self, address: tuple[str, int]) -> SessionEnd:
        """Run from the handshake to the end.

        Returns how it ended, if it had been admitted or `end` was called. Raises otherwise: UntrustedError,
        RefusedError, ConnectionFailedError; and whatever LanpartyError the port raises.
        """
        async with trio.open_nursery() as nursery:
            connection = await self._connect(nursery, address)
            if connection is not None:
                await self._live(connection)
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        assert self._end is not None
        return self._end

    def _fail(self, failure: LanpartyError) -> None:
        if self._end is None and self._failure is None:
            self._failure = failure
        self._work.cancel()

    async def _connect(self, nursery: trio.Nursery, address: tuple[str, int]) -> Connection | None:
        """Start the driver; None when that failed, or when `end` was called meanwhile."""

        async def run_driver(*, task_status: trio.TaskStatus[Connection]) -> None:
            try:
                await self._driver(
                    address,
                    server_name=self._settings.server_name,
                    trust=self._settings.trust,
                    handshake_timeout=self._handshake_timeout,
                    task_status=task_status,
                )
            except ConnectionLost as lost:
                # Not raised: started() was called, so it would leave this nursery, wrapped in a group.
                self._lost(lost.closed)

        try:
            with self._work:
                connection: Connection = await nursery.start(run_driver)
                log(events.UPLINK_CONNECTED, address=address[0], port=address[1])
                return connection
        except LanpartyError as error:
            self._fail(error)
        return None

    async def _live(self, connection: Connection) -> None:
        """From the handshake to the goodbye."""
        # A cancel scope is used once; `end` may have been called between the two.
        cancelled = self._work.cancel_called
        self._work = trio.CancelScope()
        if cancelled:
            self._work.cancel()
        try:
            with self._work:
                await self._guard(self._be_member, connection)
            if self.admitted and self._end is not None and self._end.stopped:
                await self._goodbye(connection, self._end)
        finally:
            connection.close(0, "goodbye")
            if self.admitted:
                reason = self._end.reason if self._end is not None else str(self._failure or "cancelled")
                self._port.on_lost(reason)

    async def _be_member(self, connection: Connection) -> None:
        """Be admitted, then run the tasks of an admitted session until one says that it is over."""
        welcome, early = await self._admission(connection)
        self._heard = trio.current_time()
        self._on_welcome(welcome)
        async with trio.open_nursery() as nursery:
            # Before the device is ready, which may take a while: the relay would think us dead.
            nursery.start_soon(self._guard, self._pulse, connection)
            self.admitted = True
            # Guarded here as well: a failure must not leave this nursery, which would wrap it in a group.
            await self._guard(self._begin, nursery, connection, welcome, early)

    async def _begin(
        self, nursery: trio.Nursery, connection: Connection, welcome: Welcome, early: list[Message]
    ) -> None:
        """Have the role make its device ready, then let frames flow."""
        await self._port.on_admitted(welcome)
        await nursery.start(self._pump_datagrams, connection, welcome)
        self._port.on_ready(welcome)
        nursery.start_soon(self._guard, self._read, connection, early)
        self._heard = trio.current_time()
        self._flowing = True
        self._connection = connection
        self._tunnel.send_echo(self._heard)
        self._on_admitted(connection, welcome)

    async def _guard(self, task: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run one task of the session; its failure ends this session and nothing else."""
        try:
            await task(*arguments)
        except ConnectionLost as lost:
            self._lost(lost.closed)
        except ControlError as error:
            self._over(f"the relay sent something that is no control message ({error.code}: {error})")
        except LanpartyError as error:
            self._fail(error)

    def _lost(self, closed: Closed) -> None:
        if self.admitted and closed.by_peer and not closed.transport and closed.code == CLOSE_TAKEN_OVER:
            self._fail(_taken_over())
        elif closed.timed_out:
            self._over("the relay does not answer any more")
        else:
            self._over(f"the relay ended it ({closed.reason or f'code {closed.code}'})")

    def _over(self, reason: str) -> None:
        """End an admitted session; fail one that was not admitted yet."""
        if self.admitted:
            self.end(reason)
        else:
            self._fail(ConnectionFailedError(f"The relay was reached, but nobody was admitted: {reason}."))

    async def _admission(self, connection: Connection) -> tuple[Welcome, list[Message]]:
        """Say hello and take the answer; also gives the messages that came together with it."""
        settings = self._settings
        plain = Hello(
            version=PROTOCOL,
            role=settings.role,
            room=settings.room,
            virtual_mac=settings.virtual_mac,
            datagram_budget=connection.datagram_budget,
            display_name=settings.display_name,
            software=settings.software,
        )
        hello = prove(plain, connection.binding, identity=settings.identity, room_key=settings.room_key)
        with trio.move_on_after(ADMISSION_TIMEOUT):
            await self._send(connection, hello)
            messages: list[Message] = []
            while not messages:
                messages = await self._receive(connection)
            answer, *early = messages
            if isinstance(answer, Welcome):
                if settings.room_key is not None and answer.version < ROOM_KEYS_SINCE:
                    raise RefusedError(
                        RejectCode.VERSION.value,
                        f"The relay speaks protocol version {answer.version} and does not know room passwords: "
                        "everybody with the room code would get in; update the relay, or leave the password out.",
                    )
                return check_welcome(answer, hello), early
            raise _not_admitted(answer)
        raise ConnectionFailedError(
            f"The relay was reached, but did not answer the hello within {ADMISSION_TIMEOUT:g} s."
        )

    async def _receive(self, connection: Connection) -> list[Message]:
        """Wait for bytes; give the known messages in them, possibly none."""
        data = await connection.receive_some()
        if not data:
            raise ConnectionLost(
                connection.closed or Closed(0, "end of the control stream", by_peer=True, timed_out=False)
            )
        self._note_heard(trio.current_time())
        # Unknown message types of a newer minor version are passed over.
        return [message for message in self._decoder.feed_untrusted(data) if not isinstance(message, Unknown)]

    async def _send(self, connection: Connection, message: Message) -> None:
        async with self._sending:
            await connection.send_all(codec.encode(message))

    def _datagrams_untrusted(self, datagrams: list[bytes], now: float) -> None:
        self._note_heard(now)
        self._tunnel.receive_untrusted(datagrams, now)

    def _note_heard(self, now: float) -> None:
        self._heard = now
        pause = self._pause
        if pause is not None:  # The question is answered: the next one has time until the next tick.
            self._pause = None
            pause.deadline = next_tick(now)

    async def _read(self, connection: Connection, early: list[Message]) -> None:
        messages = early
        while True:
            for message in messages:
                await self._handle(connection, message)
            messages = await self._receive(connection)

    async def _handle(self, connection: Connection, message: Message) -> None:
        match message:
            case Heartbeat(reply=False):
                await self._send(connection, Heartbeat(sequence=message.sequence, reply=True))
            case PeerJoined():
                member = check_member(message.member)
                log(
                    events.PEER_JOINED,
                    peer=member.peer_id,
                    role=member.role.value,
                    mac=member.virtual_mac,
                    name=member.display_name,
                )
                self._tunnel.forget(member.peer_id)
                self._port.on_peer_joined(member)
            case PeerLeft():
                log(events.PEER_LEFT, peer=message.peer_id, reason=message.reason)
                self._port.on_peer_left(message.peer_id)
            case Disconnect(code=code) if code == TAKEN_OVER:
                self._fail(_taken_over())
            case Disconnect():
                self.end(f"the relay said goodbye ({message.reason or message.code})")
            case Reject():
                self._fail(_not_admitted(message))
            case _:
                pass  # Heartbeat replies, the relay's stats: that they came is all there is to know.

    async def _pulse(self, connection: Connection) -> None:
        """Ask for signs of life and judge their absence; tell the relay our counters. One wake-up for all of it."""
        sequence = 0
        asked = -math.inf
        stats_at = next_tick(trio.current_time(), STATS)
        while True:
            now = trio.current_time()
            unanswered = self._flowing and self._heard < asked
            if unanswered and now >= self._heard + SILENCE:
                self.end(f"no sign of it for {SILENCE:g} s")
                return
            asked = now
            if self._flowing:
                self._tunnel.send_echo(now)
            if unanswered or not self._flowing:
                await self._send(connection, Heartbeat(sequence=sequence, reply=False))
                sequence += 1
            if now >= stats_at:
                stats_at = next_tick(now, STATS)
                await self._tell_stats(connection)
            await self._sleep(asked, HURRY if unanswered else PATIENCE)

    async def _sleep(self, asked: float, patience: float) -> None:
        """Sleep until the next tick; if nothing is heard, only until ``patience`` seconds after ``asked``."""
        if not self._flowing or self._heard >= asked:
            await trio.sleep_until(next_tick(asked))
            return
        with trio.CancelScope(deadline=min(asked + patience, self._heard + SILENCE)) as self._pause:
            await trio.sleep_forever()
        self._pause = None

    async def _pump_datagrams(
        self, connection: Connection, welcome: Welcome, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """The datagram pump: frames flow both ways for exactly as long as this task runs.

        It carries no frame itself: the device's reader and the connection's driver call the tunnel synchronously.
        """
        self._tunnel.attach(
            connection,
            self._port.on_frames,
            peer_id=welcome.peer_id,
            effective_mtu=welcome.effective_mtu,
            fragments=welcome.fragments,
        )
        connection.on_datagrams(self._datagrams_untrusted)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            connection.on_datagrams(None)
            self._tunnel.detach()

    async def _tell_stats(self, connection: Connection) -> None:
        counters = self._tunnel.as_dict()
        log(events.STATS, dropped=self._tunnel.dropped, **counters)
        for sentence in self._tunnel.diagnose():
            log(events.DIAGNOSIS, text=sentence)
        await self._send(connection, Stats(counters=counters))

    async def _goodbye(self, connection: Connection, end: SessionEnd) -> None:
        """Tell the relay that we leave, and give it a moment to acknowledge; never longer than GOODBYE."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE):
            try:
                await self._send(connection, Disconnect(code="leaving", reason=end.reason))
                await connection.drained()
            except ConnectionLost:
                return
            connection.close(0, end.reason)
            await connection.wait_closed()


def _taken_over() -> RefusedError:
    """Give the failure of a session whose place another one with the same identity took.

    Not worth another try: that would put the other one out in its turn. It cannot come from a session of this program's
    own, because each is over here before the next one begins.
    """
    return RefusedError(
        TAKEN_OVER,
        "Another program with the same identity has taken this one's place in the room: run only one of them, or give "
        "each an identity file of its own (--identity; a copied file is the same player).",
    )


def _not_admitted(answer: Message) -> LanpartyError:
    """Give the failure that the relay's answer to a hello means."""
    if not isinstance(answer, Reject):
        return ConnectionFailedError(f"The relay answered the hello with {answer.TYPE!r}, which no relay does.")
    if answer.code is RejectCode.SHUTTING_DOWN:
        return ConnectionFailedError(answer.text)
    return RefusedError(answer.code.value, f"The relay refused: {answer.text}")
