"""One endpoint's session, from the end of the TLS handshake to the goodbye.

A session's life::

    1. hello within 5 s          else: reject, and close when the text has arrived
    2. checked, its proofs verified, a try of its address counted (``admission.py``), then admission; else: reject, as
       above. A member in the way is taken out when it is the newcomer's own earlier session, or when it does not answer
    3. welcome; the others hear "peer joined"; the connection's datagrams go to the room's switch
    4. tasks: this one reads (heartbeats, stats, goodbye); a writer while there is something in the outbox. What time
       alone does is in ``look``, which one task calls for all sessions (``sessions.py``)
    5. the first end counts: goodbye of the endpoint, silence, lost connection, broken rules, shutdown, evicted, or
       taken over
    6. off the switch and out of the room at once; the others hear "peer left"; our goodbye, then close

Owns: the control stream of each endpoint, the order of these steps, the outbox.
Must not know: sockets, who may be admitted (``rooms.py``), where frames go (``switch.py``).

The outbox is what keeps a slow member from stopping others: whoever has something to tell it puts it there and goes on.
Bound: ``OUTBOX`` messages. Policy: a member that lets it fill up is disconnected, because control messages may not be
lost. Datagrams do not pass here: they have the connection's own bounded queue.

Control messages of a member are counted, because each costs as much as some hundred frames: who sends more than
``CONTROL_RATE`` a second breaks the rules.

A task that waits costs about 3 KiB, and a relay has thousands of members that say nothing: hence one task for each.

A failure of one session, and that includes our own mistakes in handling it, ends that session only.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

import attrs
import trio

from lanparty.ctrl import codec
from lanparty.ctrl.codec import ControlDecoder, ControlError, Unknown
from lanparty.ctrl.messages import (
    CLOSE_TAKEN_OVER,
    MAX_TEXT,
    PROTOCOL,
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
from lanparty.ctrl.proof import is_proven_untrusted
from lanparty.ctrl.validate import check_hello
from lanparty.guard.bucket import TokenBucket
from lanparty.obs import events
from lanparty.obs.log import log
from lanparty.obs.text import clean_text
from lanparty.quic.connection import Closed, ConnectionLost, UdpPath
from lanparty.quic.table import address_key
from lanparty.relay.hub import Hub, Joined
from lanparty.relay.rooms import MemberState, Refused, Remedy, room_name
from lanparty.relay.tally import BlockedReporter

__all__ = ["CLOSE_OK", "FAREWELL", "RelayHub", "Session", "SessionConnection"]

HELLO_DEADLINE: Final = 5.0
"""Seconds from the handshake to a whole hello: as long as the handshake itself may take."""
SILENCE: Final = 4.5
"""Seconds without a message or datagram after which a member is gone. Members send an echo each 2 s, and each 0.5 s
while no answer comes (``lanparty.uplink.session``)."""
PROOF_DEADLINE: Final = 2.5
"""Seconds in which a member must be heard from when somebody else asks for its MAC or its gateway's place. Longer than
a tick of its echoes and a lost packet, shorter than the 5 s that the newcomer waits for our answer."""
FAREWELL: Final = 2.0
"""Seconds at most for an endpoint to acknowledge our last message; the sessions end at the same time, so that all of
them together take no longer."""
OUTBOX: Final = 256
"""Messages. Everybody in a full room leaving and coming back is 66; a reader has a round trip to take them."""
CONTROL_RATE: Final = 32
CONTROL_BURST: Final = 1024
"""Messages a second, and at once. A member has 2 a second to say while it looks for a lost path; a burst is what a path
that was away may bring together, and less than one window of the control stream. A message costs us 20 to 50 us."""

MAX_CLOSE_REASON: Final = 100
"""Characters of the reason in CONNECTION_CLOSE: even at 4 bytes each they fit the smallest packet."""
CLOSE_OK: Final = 0
CLOSE_REFUSED: Final = 1
CLOSE_ENDED: Final = 2
"""Application codes of CONNECTION_CLOSE: left or shut down; not admitted; ended by the relay for a reason."""


class SessionConnection(Protocol):
    """What a session needs of ``lanparty.quic.connection.Connection``."""

    @property
    def remote(self) -> tuple[str, int]:
        """The endpoint's address and port."""

    @property
    def binding(self) -> bytes:
        """The TLS channel binding, 32 bytes."""

    @property
    def datagram_budget(self) -> int:
        """The largest overlay datagram that is accepted now, in bytes."""

    @property
    def closed(self) -> Closed | None:
        """Why the connection is over, once it is."""

    def on_datagrams(self, handler: Callable[[list[bytes], float], None] | None) -> None:
        """Give incoming batches to ``handler``."""

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        """Queue datagrams; never blocks."""

    def admit(self) -> None:
        """Lift the limits that hold before admission."""

    async def receive_some(self) -> bytes:
        """Give bytes of the control stream; none at its end."""

    async def send_all(self, data: bytes) -> None:
        """Send bytes on the control stream."""

    async def drained(self) -> None:
        """Wait until the peer has acknowledged all of them."""

    def close(self, code: int = 0, reason: str = "") -> None:
        """End the connection; again does nothing."""


RelayHub = Hub["Session"]


@attrs.frozen
class _End:
    """Why a session is over."""

    reason: str
    """For the log and for the other members; a part of a sentence."""
    close_code: int = CLOSE_OK
    farewell: Message | None = None
    """What the endpoint is told before the connection is closed."""


class Session:
    """One endpoint's session. Used once."""

    def __init__(self, connection: SessionConnection, hub: RelayHub) -> None:
        self._connection = connection
        self._hub = hub
        self._decoder = ControlDecoder()
        self._work = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._outbox: list[Message] = []
        self._writing = False
        self._closing = False
        self._place: trio.Event | None = None
        self._end: _End | None = None
        self._joined: Joined | None = None
        self._heard = 0.0
        self._suspect = False
        self._proof: trio.Event | None = None
        self._blocked = BlockedReporter()
        self._control = TokenBucket(CONTROL_RATE, CONTROL_BURST)
        self.stats: dict[str, int] = {}
        """The endpoint's own counters, as it last sent them."""

    # --- what others may call: nothing of it waits, but prove_alive -------------------------------------------------

    @property
    def member(self) -> MemberState | None:
        """The member that this session speaks for, from its admission until it left."""
        return None if self._joined is None else self._joined.admitted.member

    def tell(self, message: Message) -> None:
        """Put a message into the outbox. An endpoint that lets it fill up is disconnected."""
        if self._closing:
            return  # it is saying goodbye: there is nobody left to tell
        if len(self._outbox) >= OUTBOX:
            self._finish(_End("it does not read its control stream", CLOSE_ENDED))
            return
        self._outbox.append(message)
        self._start_writing()

    def shut_down(self) -> None:
        """End the session because the relay stops. The endpoint is told, and may try again later."""
        text = "The relay is shutting down."
        farewell: Message = (
            Disconnect(code=RejectCode.SHUTTING_DOWN.value, reason=text)
            if self._joined is not None
            else Reject(code=RejectCode.SHUTTING_DOWN, text=text)
        )
        self._finish(_End("the relay is shutting down", CLOSE_OK, farewell))

    def evict(self, reason: str) -> None:
        """Take the member out of its room now, and end the session."""
        self._finish(_End(reason, CLOSE_ENDED, Disconnect(code="evicted", reason=reason)))
        self._leave()

    def be_taken_over(self) -> None:
        """Make room for the same identity's new session, now. The endpoint is told, so that it does not come back."""
        member = self.member
        if member is not None:
            reason = f"taken over by the same {'gateway' if member.is_gateway else 'player'}'s new session"
            self._finish(_End(reason, CLOSE_TAKEN_OVER, Disconnect(code=TAKEN_OVER, reason=reason)))
            self._leave()

    def look(self, now: float) -> float:
        """Do what is due at ``now`` by time alone: silence, pieces that never came, reports of blocked frames.

        Gives the time of the next look, infinity for none: until then nothing can be late. A member ends only when it
        is silent at two looks in a row: at the first it may be us who did not listen.
        """
        joined = self._joined
        if joined is None or self._end is not None:
            return math.inf
        joined.port.decoder.reassembler.expire(now)
        self._report_blocked(joined, now)
        if now < self._heard + SILENCE:
            self._suspect = False
            return self._heard + SILENCE
        if not self._suspect:
            self._suspect = True
            return now
        self._finish(_End(f"nothing was heard of it for {SILENCE:g} s", CLOSE_ENDED))
        return math.inf

    async def prove_alive(self) -> bool:
        """Ask the endpoint for a sign of life; False when none comes in time."""
        if self._end is not None:
            return False
        proof = self._proof = self._proof or trio.Event()
        self.tell(Heartbeat(sequence=0, reply=False))
        with trio.move_on_after(PROOF_DEADLINE):
            await proof.wait()
        # Its end wakes us as well: that is no sign of life.
        return self._end is None and proof.is_set()

    # --- the session's own task --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until the connection is closed. Ends normally whatever the endpoint does."""
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    with self._work:
                        await self._guarded(self._live)
                    self._leave()
                    self._say_goodbye(self._nursery.cancel_scope)
                finally:
                    self._closing = True  # cancelled from outside: the nursery takes no new writer
        finally:
            self._leave()
            end = self._end or _End("the relay is stopping")
            self._connection.close(end.close_code, clean_text(end.reason, MAX_CLOSE_REASON))

    def _say_goodbye(self, scope: trio.CancelScope) -> None:
        """Have the writer send what is left, and end when it has arrived."""
        # This must come through when the whole relay is being stopped, but not hold it up.
        scope.shield = True
        scope.deadline = trio.current_time() + FAREWELL
        if self._end is not None and self._end.farewell is not None:
            self.tell(self._end.farewell)
        self._closing = True
        self._start_writing()

    def _start_writing(self) -> None:
        if not self._writing and self._nursery is not None:
            self._writing = True
            self._nursery.start_soon(self._guarded, self._write)

    def _crashed(self, error: Exception) -> None:
        """Report a mistake of ours in handling this endpoint, and end the session."""
        where = "".join(traceback.format_exception(error))
        what = f"The session of {self._address}"
        log(events.TASK_FAILED, what=what, text=f"{type(error).__name__}: {error}", traceback=where)
        self._finish(_End("an internal error of the relay", CLOSE_ENDED))

    def _finish(self, end: _End) -> None:
        """End the session; the first reason counts. Never waits."""
        if self._end is None:
            self._end = end
        self._work.cancel()

    @property
    def _address(self) -> str:
        host, port = self._connection.remote[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run one task of the session; what the endpoint does wrong there ends this session and nothing else."""
        try:
            await task()
        except ConnectionLost as lost:
            closed = lost.closed
            said = closed.reason or "it closed the connection"
            self._finish(_End("it does not answer any more" if closed.timed_out else said))
        except ControlError as error:
            self._refuse_untrusted(error)
        except Exception as error:  # noqa: BLE001 - the boundary of a session: reported, and it ends this session only
            self._crashed(error)

    def _refuse_untrusted(self, error: ControlError) -> None:
        """End the session for a control message that breaks the rules."""
        if self._end is not None:
            return
        if self._joined is None:
            self._reject(error.code, error.text)
        else:
            farewell = Disconnect(code=error.code, reason=clean_text(error.text, MAX_TEXT))
            self._finish(_End(f"it broke the protocol: {error.text}", CLOSE_ENDED, farewell))

    def _reject(self, code: RejectCode | str, text: str) -> None:
        """Refuse the endpoint: the text is delivered before the connection is closed."""
        code = RejectCode.of(code)
        text = clean_text(text, MAX_TEXT)
        self._hub.refused[code.value] += 1
        host = address_key(UdpPath(self._connection.remote))
        count = self._hub.refusals.due((host, code.value), trio.current_time())
        if count:
            log(events.RELAY_REFUSED, address=self._address, code=code.value, text=text, count=count)
        self._finish(_End(f"{code.value}: {text}", CLOSE_REFUSED, Reject(code=code, text=text)))

    async def _live(self) -> None:
        """Steps 1 to 4 of the map; ends only by cancellation or failure once the endpoint is a member."""
        self._heard = trio.current_time()
        with trio.move_on_after(HELLO_DEADLINE) as deadline:
            hello, early = await self._hello()
        if deadline.cancelled_caught:
            self._reject(RejectCode.BAD_HELLO, f"No hello came within {HELLO_DEADLINE:g} s of connecting.")
            return
        # Before anything is looked up: neither answer, nor the time until it comes, depends on what is in any room.
        if not is_proven_untrusted(hello, self._connection.binding):
            self._reject(RejectCode.BAD_HELLO, "A proof in this hello is not one for this connection and room.")
            return
        identity = None if hello.identity is None else hello.identity.key
        host = address_key(UdpPath(self._connection.remote))
        wait = self._hub.tries.wait(host, room_name(hello), identity, trio.current_time())
        if wait:
            self._reject(
                RejectCode.TOO_MANY_TRIES,
                f"Too many different rooms were asked for from this address; try again in {math.ceil(wait)} s.",
            )
            return
        refused = self._join(hello)
        if refused is not None and await self._make_room(refused):
            refused = self._join(hello)
        if refused is not None:
            self._reject(refused.code, refused.text)
            return
        await self._handle(early)
        while True:
            await self._handle(await self._receive())

    async def _hello(self) -> tuple[Hello, list[Message | Unknown]]:
        """Wait for the hello; give it, checked, and what came together with it. Raises ControlError."""
        messages: list[Message | Unknown] = []
        while not messages:
            messages = await self._receive()
        hello, *early = messages
        if not isinstance(hello, Hello):
            kind = hello.type if isinstance(hello, Unknown) else hello.TYPE
            raise ControlError(RejectCode.BAD_HELLO.value, f"The first message must be a hello; this was {kind!r}.")
        return check_hello(hello), early

    async def _receive(self) -> list[Message | Unknown]:
        """Wait for bytes of the control stream; give the messages that they complete, maybe none."""
        data = await self._connection.receive_some()
        if not data:
            raise ConnectionLost(self._connection.closed or _END_OF_STREAM)
        self._note_heard(trio.current_time())
        return self._decoder.feed_untrusted(data)

    def _note_heard(self, now: float) -> None:
        self._heard = now
        if self._proof is not None:
            self._proof.set()
            self._proof = None

    async def _make_room(self, refused: Refused) -> bool:
        """Take the member in the way out of it, if that may be; False when it stays.

        A client that was killed, or whose network changed, comes back at once, while its old session still hangs here.
        """
        if refused.holder is None or refused.remedy is Remedy.NONE:
            return False
        session = self._hub.sessions.get(refused.holder)
        if session is None or session is self:
            return True  # it left meanwhile
        if refused.remedy is Remedy.TAKE_OVER:
            session.be_taken_over()
            return True
        if await session.prove_alive():
            return False
        session.evict("it did not answer any more when its place was asked for")
        return True

    def _join(self, hello: Hello) -> Refused | None:
        """Become a member, and tell everybody; or give the refusal. Nothing here waits, so nobody sees half of it."""
        result = self._hub.join(hello, self, self._connection, self._address)
        if isinstance(result, Refused):
            return result
        self._joined = result
        member = result.admitted.member
        room = member.room
        if result.admitted.opened:
            log(
                events.ROOM_OPENED,
                room=room.code,
                mtu=room.effective_mtu,
                fragments=room.fragments,
                password=room.key is not None,
            )
        log(
            events.RELAY_MEMBER_JOINED,
            room=room.code,
            peer=member.peer_id,
            role=member.role.value,
            mac=member.mac_text,
            name=member.display_name,
            address=member.address,
            software=member.software,
        )
        self.tell(
            Welcome(
                version=PROTOCOL,
                peer_id=member.peer_id,
                room=room.code,
                effective_mtu=room.effective_mtu,
                fragments=room.fragments,
                members=result.admitted.others,
                gateway_present=room.gateway is not None,
            )
        )
        self._tell_others(member, PeerJoined(member=member.as_member()))
        self._connection.admit()
        self._connection.on_datagrams(self._datagrams_untrusted)
        return None

    def _leave(self) -> None:
        """Leave switch and room, and tell everybody. Again does nothing."""
        joined, self._joined = self._joined, None
        if joined is not None:
            try:
                self._leave_room(joined)
            except Exception as error:  # noqa: BLE001 - the boundary of a session: reported, and it ends this session only
                self._crashed(error)

    def _leave_room(self, joined: Joined) -> None:
        self._connection.on_datagrams(None)
        if self._proof is not None:
            self._proof.set()
        member = joined.admitted.member
        room = member.room
        tally = joined.port.tally
        closed = self._hub.leave(joined)
        reason = "the relay is stopping" if self._end is None else self._end.reason
        self._tell_others(member, PeerLeft(peer_id=member.peer_id, reason=clean_text(reason, MAX_TEXT)))
        for rule, count in self._blocked.rest(tally.blocked):
            log(events.FRAMES_BLOCKED, room=room.code, peer=member.peer_id, rule=rule.label, count=count)
        log(
            events.RELAY_MEMBER_LEFT,
            room=room.code,
            peer=member.peer_id,
            reason=reason,
            **joined.port.total().as_dict(),
        )
        if closed:
            log(events.ROOM_CLOSED, room=room.code, **joined.switch.total().as_dict())

    def _tell_others(self, member: MemberState, message: Message) -> None:
        for other in tuple(member.room.others(member)):
            self._hub.sessions[other].tell(message)

    async def _handle(self, messages: Iterable[Message | Unknown]) -> None:
        """Do what ``messages`` ask for. Raises ControlError for those that an endpoint may not send now.

        Answers wait for a place in the outbox: who asks faster than it reads slows itself down, and nobody else.
        """
        now = trio.current_time()
        for message in messages:
            if not self._control.take(now):
                raise ControlError(RejectCode.PROTOCOL.value, "A member may not send so many control messages.")
            match message:
                case Heartbeat(reply=False):
                    await self._answer(Heartbeat(sequence=message.sequence, reply=True))
                case Heartbeat() | Unknown():
                    pass  # that it came is all there is to know; unknown types are those of a newer minor version
                case Stats():
                    await self._take_stats(message)
                case Disconnect():
                    self._finish(_End(message.reason or message.code))
                    return
                case _:
                    raise ControlError(RejectCode.PROTOCOL.value, f"A member may not send {message.TYPE!r} now.")

    async def _answer(self, message: Message) -> None:
        """Put an answer into the outbox, when there is a place for it."""
        while len(self._outbox) >= OUTBOX:
            self._place = self._place or trio.Event()
            await self._place.wait()
        self.tell(message)

    async def _take_stats(self, message: Stats) -> None:
        """Note the endpoint's counters, and give it the relay's own about it in return."""
        joined = self._joined
        if joined is None:
            return  # evicted since the message came
        self.stats = dict(message.counters)
        member = joined.admitted.member
        log(events.RELAY_MEMBER_STATS, room=member.room.code, peer=member.peer_id, counters=self.stats)
        await self._answer(Stats(counters=joined.port.total().as_dict()))

    def _report_blocked(self, joined: Joined, now: float) -> None:
        """Tell of blocked frames, by rule the first at once, then once in a while."""
        member = joined.admitted.member
        for rule, count in self._blocked.due(joined.port.tally.blocked, now):
            log(events.FRAMES_BLOCKED, room=member.room.code, peer=member.peer_id, rule=rule.label, count=count)

    async def _write(self) -> None:
        """Send what is in the outbox, in order; at the end of the session, until it has arrived."""
        try:
            while self._outbox:
                message = self._outbox.pop(0)
                if self._place is not None:
                    self._place.set()
                    self._place = None
                await self._connection.send_all(codec.encode(message))
            if self._closing:
                await self._connection.drained()
        finally:
            self._writing = False

    def _datagrams_untrusted(self, datagrams: list[bytes], now: float) -> None:
        """Take a batch from the connection: through the switch, to the others' connections. Never raises, never waits.

        Called by the UDP driver, which serves everybody: a failure here must not reach it.
        """
        joined = self._joined
        if joined is None:
            return
        self._note_heard(now)
        try:
            for port, batch in joined.switch.receive_untrusted(joined.port, datagrams, now).items():
                port.outlet.send_datagrams(batch)
            if joined.port.tally.blocked:
                self._report_blocked(joined, now)
        except Exception as error:  # noqa: BLE001 - the boundary of a session: reported, and it ends this session only
            self._crashed(error)


_END_OF_STREAM: Final = Closed(0, "it closed its control stream", by_peer=True, timed_out=False)
