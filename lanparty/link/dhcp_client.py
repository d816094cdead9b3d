"""The DHCP client's protocol engine: pyroute2's, hardened. The asyncio half of ``dhcp.py``.

Owns: pyroute2's state machine (states, transaction ids, lease timers, messages), put on our own socket, with our own
checks of what comes in, our own retransmission times, and under supervision.
Must not know: trio, addresses and routes of the machine (address.py), the relay, the room.

Why so much is overridden. pyroute2's client (0.9) is made for a trusted LAN and a process of its own:

- Its receiver raises out of the task for a frame with xid ffffffff, an empty option 61 or no message type: one frame of
  a stranger would end it. Here ``dhcp_reply`` parses first, and only what it accepts goes on.
- A sender, receiver or timer that fails is noticed only when the client is closed. Here every task is watched: the
  first failure ends :meth:`LeaseClient.supervise` with it.
- It believes every offer and acknowledgement, sends this machine's host name and a vendor name, writes the lease to a
  file in the working directory, and waits 4 s and more between the first attempts.

Results are handed over by plain calls; there is no queue but the engine's own of messages to send, which holds the one
message that is being repeated.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # packet sockets, pyroute2

import asyncio
import errno
import random
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Protocol

from pyroute2.dhcp import messages
from pyroute2.dhcp.client import AsyncDHCPClient, ClientConfig
from pyroute2.dhcp.dhcp4msg import dhcp4msg
from pyroute2.dhcp.dhcp4socket import AsyncDHCP4Socket, listen_udp_port
from pyroute2.dhcp.enums import dhcp
from pyroute2.dhcp.fsm import State
from pyroute2.dhcp.hooks import Trigger
from pyroute2.dhcp.leases import Lease as EngineLease
from pyroute2.dhcp.messages import ReceivedDHCPMessage, SentDHCPMessage
from pyroute2.dhcp.timers import LeaseTimers
from pyroute2.dhcp.xids import Xid
from pyroute2.ext import bpf

from lanparty.link.dhcp_reply import Lease, Reply, ReplyError, ReplyKind, lease_from, parse_reply_untrusted
from lanparty.obs.errors import LanpartyError
from lanparty.obs.events import (
    CLIENT_DHCP_DISCOVER,
    CLIENT_DHCP_IGNORED,
    CLIENT_DHCP_LEASE,
    CLIENT_DHCP_NAK,
    CLIENT_DHCP_OFFER,
    CLIENT_DHCP_RELEASED,
    CLIENT_DHCP_RENEWED,
    CLIENT_DHCP_REQUEST,
    CLIENT_DHCP_SILENT,
)
from lanparty.obs.log import log
from lanparty.proto.dhcp import INFINITE

__all__ = ["RELEASE_DEADLINE", "DhcpLinkDownError", "DhcpSocket", "LeaseClient", "MemoryLease", "PacketSocket"]

FIRST_WAIT: Final = 1.0
"""Seconds to the first retransmission. RFC 2131 section 4.1 says 4 s for a shared Ethernet of 1997; the house is one
round trip over the internet away, and a player waits for it."""
MAX_WAIT: Final = 16.0
"""Seconds between attempts while there is no lease, so that a house that comes late is noticed."""
MAX_WAIT_BOUND: Final = 60.0
"""Seconds between attempts to prolong a lease: the minimum of RFC 2131 section 4.4.5."""
JITTER: Final = 0.1
"""Share by which a wait varies, so that the players of a party who start together do not stay together."""
REQUEST_TIMEOUT: Final = 8.0
"""Seconds for an acknowledgement (4 attempts); then discovery starts again, maybe with another server."""
SILENT_AFTER: Final = 10.0
"""Seconds without an offer after which the player is told: 4 attempts, at 0, 1, 3 and 7 s."""
RELEASE_DEADLINE: Final = 1.0
"""Seconds for giving the lease back on exit. It is one frame into the adapter; nobody answers it."""
_MAX_TASKS: Final = 16
"""Tasks, and messages to send, of one client: receiver, sender, timers T1, T2 and expiry, our watchdog, the engine's
retransmission, and some that are just ending."""
_MAX_REPORTED: Final = 16
"""Different complaints about bad replies that are logged; beyond that they are only counted."""
_READ_SIZE: Final = 4096
"""Bytes per read: above the largest frame that the adapter gives."""
_ETH_P_IP: Final = 0x0800
_SO_ATTACH_FILTER: Final = 26

_PARAMETERS: Final = (
    dhcp.Option.SUBNET_MASK,
    dhcp.Option.ROUTER,
    dhcp.Option.NAME_SERVER,
    dhcp.Option.DOMAIN_NAME,
    dhcp.Option.LEASE_TIME,
    dhcp.Option.RENEWAL_TIME,
    dhcp.Option.REBINDING_TIME,
)

# pyroute2 has no types. Any is named here once instead of at each call.
_received: Any = ReceivedDHCPMessage
_dhcp4msg: Any = dhcp4msg
_compile_filter: Any = bpf.compile
_listen_udp_port: Any = listen_udp_port


class DhcpLinkDownError(LanpartyError):
    """The interface went down or vanished under the client; nothing can be sent on it now."""


class DhcpSocket(Protocol):
    """What the engine needs of a socket; tests have one in memory."""

    l2addr: str

    async def __aenter__(self) -> object: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def put(self, msg: Any) -> Any:
        """Send one message of the engine's."""

    async def get(self) -> Any:
        """The next message for this client."""


class PacketSocket(AsyncDHCP4Socket):
    """The raw socket under the engine: sends with pyroute2's encoder, receives through our parser."""

    def __init__(self, interface: str, mac: bytes, counters: Counter[str], complain: Callable[[str], None]) -> None:
        super().__init__(interface)
        self.l2addr = mac.hex(":")
        self._mac = mac
        self._counters = counters
        self._complain = complain

    async def __aenter__(self) -> PacketSocket:
        # Protocol 0 receives nothing until bind, so no frame can get in before the filter is there.
        socket.socket.__init__(self, socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self.setblocking(False)
            # fprog must stay alive: the kernel reads it during the call, through a pointer that ctypes does not keep.
            program, self.fprog = _compile_filter(_listen_udp_port(68))
            self.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            self.bind((self.ifname, _ETH_P_IP))
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.loop.remove_reader(self.fileno())
        self.close()

    async def get(self) -> Any:
        """The next reply for this client that can be parsed. Raises ``OSError`` when the interface is down or gone."""
        while True:
            message = message_untrusted(
                await self.loop.sock_recv(self, _READ_SIZE), self._mac, self._counters, self._complain
            )
            if message is not None:
                return message


class MemoryLease(EngineLease):
    """The engine's view of a lease: in memory only. A restarted client asks again and gets the same by its MAC."""

    checked: Lease
    """The same, as everybody else knows it."""

    def dump(self) -> None:
        """Nothing is written."""

    @classmethod
    def load(cls, interface: str) -> None:
        """Nothing is read."""
        return


class _SupervisedTimers(LeaseTimers):
    """Lease timers whose callbacks run under the client's supervision."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, Any], str], Any]) -> None:
        super().__init__()
        self._spawn = spawn

    def _create_timer_task(self, timer_name: str, async_callback: Any) -> None:
        self._spawn(async_callback(), f"DHCP {timer_name} timer")


def message_untrusted(frame: bytes, mac: bytes, counters: Counter[str], complain: Callable[[str], None]) -> Any | None:
    """A received frame as the engine's message, or ``None`` (counted and reported when it was a bad reply to us)."""
    try:
        reply = parse_reply_untrusted(frame, mac)
    except ReplyError as error:
        counters["malformed"] += 1
        complain(f"a reply from {frame[6:12].hex(':')}: {error}")
        return None
    if reply is None or reply.xid >= INFINITE:  # the engine fails for that xid, and never uses it
        counters["foreign"] += 1
        return None
    return _engine_message(reply)


def _engine_message(reply: Reply) -> Any:
    options: dict[str, Any] = {"message_type": dhcp.MessageType(int(reply.kind))}
    if reply.server is not None:
        options["server_id"] = reply.server
    message = _received(
        dhcp=_dhcp4msg({"xid": reply.xid, "yiaddr": reply.address, "options": options}),
        eth_src=reply.server_mac.hex(":"),
    )
    message.reply = reply
    return message


class LeaseClient(AsyncDHCPClient):
    """pyroute2's DHCP state machine with checks, faster retransmission, events and supervision. asyncio side.

    ``on_lease`` is called with a new or prolonged lease, ``on_lost`` with the reason when it is gone; both are plain
    functions and must not raise. Made and used inside the role's asyncio loop.
    """

    def __init__(
        self,
        interface: str,
        sock: DhcpSocket,
        *,
        host_name: str | None,
        on_lease: Callable[[Lease], None],
        on_lost: Callable[[str], None],
        counters: Counter[str],
        randomness: random.Random,
    ) -> None:
        config = ClientConfig(
            interface=interface,
            lease_type=MemoryLease,
            requested_parameters=_PARAMETERS,
            timeouts={},  # the engine's watchdog cancels the task that it runs in; ours is in transition()
            retransmission=self._waits,
            client_id=None,  # hardware type and MAC: the house knows the player by the virtual MAC
            handle_signals=False,
            vendor_id=None,
            host_name=host_name,
        )
        super().__init__(config)
        self._sock: Any = sock
        self.lease_timers = _SupervisedTimers(self.spawn)
        self.accepted: Lease | None = None
        self.house_present: bool | None = None
        self._offered: Lease | None = None
        self._on_lease = on_lease
        self._on_lost = on_lost
        self._counters = counters
        self._random = randomness
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watchdog: asyncio.Task[Any] | None = None
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._naks = 0
        self._reported: set[str] = set()

    # Life, called by DhcpTask

    async def open(self, previous: MemoryLease | None) -> None:
        """Open the socket and start asking: whether the ``previous`` lease still holds, or for one. Raises ``OSError``.

        An address that was ours before the link went down stays ours until the lease ends or a server refuses it.
        """
        await self._sock.__aenter__()
        self._xid = Xid()
        self.state = State.INIT
        self._receiver_task = self.spawn(self._until_off(self._recv_forever()), "DHCP receiver")
        self._sender_task = self.spawn(self._until_off(self._send_forever()), "DHCP sender")
        if previous is None or previous.expired:
            await self.bootstrap()
            return
        self.accepted = previous.checked
        for state in (State.SELECTING, State.REQUESTING, State.BOUND):  # the way that the engine's table knows
            self.state = state
        self.lease = previous
        await self._rebind()

    async def supervise(self) -> None:
        """Return never; raise what the first failing task raised (:class:`DhcpLinkDownError` when the link is gone)."""
        await asyncio.shield(self._fault)

    async def close(self, *, release: bool) -> None:
        """Stop everything; give the lease back first if wanted. Idempotent; raises nothing of the network's."""
        if self.state == State.OFF:
            return
        self.lease_timers.cancel()
        if release and self.accepted is not None:
            await self._release(self.accepted)
        self.state = State.OFF  # ends the engine's loops, which clean up after themselves
        if not self._fault.cancel() and not self._fault.cancelled():
            self._fault.exception()  # has been raised by supervise(), or is not wanted any more
        loops = {task for task in (self._receiver_task, self._sender_task) if task is not None}
        for task in self._tasks - loops:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=RELEASE_DEADLINE)
        await self._sock.__aexit__()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run ``work`` as a task of this client; its failure ends :meth:`supervise`."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def verify_soon(self) -> None:
        """Ask at once: for any address when there is none, else whether the one we have is still ours.

        The address stays meanwhile. The question is broadcast (REBINDING), because after a reconnect it may be another
        server, or the same one behind another MAC.
        """
        if len(self._tasks) >= _MAX_TASKS or self._sendq.qsize() >= _MAX_TASKS:
            return  # a relay that lets the gateway come and go all the time: the question is on its way already
        if self.state in (State.BOUND, State.RENEWING):
            self.spawn(self._rebind(), "DHCP verification")
        elif self.state == State.REBINDING and self._lease is not None:
            again = messages.request_for_lease(
                parameter_list=self.config.requested_parameters, lease=self._lease, state=State.REBINDING
            )
            self._sendq.put_nowait(again)
        elif self.state != State.OFF:
            self._naks = 0
            self.spawn(self.reset(), "DHCP restart")

    # The engine's steps, with our checks and events around them

    async def transition(self, to: State, send: SentDHCPMessage | None = None) -> None:
        """Change the state, and arm our watchdog for the states that must not last."""
        if self._watchdog is not None and self._watchdog is not asyncio.current_task():
            self._watchdog.cancel()
        self._watchdog = None
        await super().transition(to=to, send=send)
        if to == State.SELECTING:
            if self.house_present is not False:
                log(CLIENT_DHCP_DISCOVER, interface=self.config.interface)
            self._watchdog = self.spawn(self._tell_silence(), "DHCP silence watch")
        elif to == State.REQUESTING:
            self._watchdog = self.spawn(self._reset_after(REQUEST_TIMEOUT), "DHCP request timeout")

    async def offer_received(self, msg: Any) -> None:
        """Take the first offer that is sane; the others are dropped, counted and reported."""
        if self.state != State.SELECTING:
            return
        offer = self._checked(msg)
        if offer is None:
            return
        self._offered = offer
        log(CLIENT_DHCP_OFFER, address=offer.address, server=offer.server)
        log(CLIENT_DHCP_REQUEST, address=offer.address, server=offer.server)
        await super().offer_received(msg)

    async def ack_received(self, msg: Any) -> None:
        """Take an acknowledgement of what was asked for, from whom it may come."""
        expected = self._offered if self.state == State.REQUESTING else self.accepted
        if self.state not in _ASKING or expected is None:
            return
        lease = self._checked(msg)
        if lease is None:
            return
        if lease.address != expected.address or (self._asks_one_server and lease.server != expected.server):
            self._drop(
                f"an acknowledgement from {lease.server}: it is of {lease.address}, {expected.address} was asked for"
            )
            return
        self.accepted = lease
        msg.dhcp["options"].update(_engine_options(lease))
        await super().ack_received(msg)
        if isinstance(self._lease, MemoryLease):
            self._lease.checked = lease

    async def nak_received(self, msg: Any) -> None:
        """Give up the address, and ask for another; the more refusals in a row, the later."""
        if self.state not in _ASKING:
            return
        expected = self._offered if self.state == State.REQUESTING else self.accepted
        server = msg.reply.server
        if self._asks_one_server and expected is not None and server not in (None, expected.server):
            self._drop(f"a refusal from {server}: {expected.server} was asked")
            return
        log(CLIENT_DHCP_NAK, address=None if expected is None else expected.address)
        self._lose("the house refused it")
        self._naks += 1
        if self._naks == 1:
            await self.reset()
            return
        # A server that refuses what it offers would otherwise make this client ask as fast as the network is.
        if self._watchdog is not None:
            self._watchdog.cancel()
        await self._sendq.put(None)
        delay = min(FIRST_WAIT * 2.0 ** (self._naks - 2), MAX_WAIT)
        self._watchdog = self.spawn(self._reset_after(delay), "DHCP pause")

    async def reset(self, delay: float = 0.0, signal: Any = None) -> None:
        """Start again from nothing."""
        self._offered = None
        await super().reset(delay=delay, signal=signal)

    async def _run_hooks(self, trigger: Any) -> None:
        """What the engine reports at the end of a step."""
        lease = self.accepted
        if trigger in (Trigger.EXPIRED, Trigger.UNBOUND):
            self._lose("the lease ran out" if trigger == Trigger.EXPIRED else "the house refused it")
        elif lease is not None:
            self._naks = 0
            event = CLIENT_DHCP_LEASE if trigger == Trigger.BOUND else CLIENT_DHCP_RENEWED
            log(event, address=lease.address, lease_seconds=lease.lease_seconds, server=lease.server)
            self._on_lease(lease)

    async def _send_message(self, msg: Any) -> None:
        try:
            await super()._send_message(msg)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return  # the adapter's queue is full: a lost frame, to be repeated like any other
            raise DhcpLinkDownError(f"cannot send on interface {self.config.interface}: {error.strerror}") from error

    # Inside

    @property
    def held(self) -> MemoryLease | None:
        """The lease in the engine's form, for a client that comes after this one."""
        return self._lease if isinstance(self._lease, MemoryLease) and self.accepted is not None else None

    @property
    def _asks_one_server(self) -> bool:
        """Whether only the server that was asked may answer; REBINDING asks all."""
        return self.state in (State.REQUESTING, State.RENEWING)

    def _checked(self, msg: Any) -> Lease | None:
        reply: Reply = msg.reply
        try:
            return lease_from(reply)
        except ReplyError as error:
            what = "an offer" if reply.kind == ReplyKind.OFFER else "an acknowledgement"
            self._drop(f"{what} from {reply.server or reply.server_mac.hex(':')}: {error}")
            return None

    def _drop(self, complaint: str) -> None:
        self._counters["refused"] += 1
        self.complain(complaint)

    def complain(self, complaint: str) -> None:
        """Report a bad reply: each complaint once, and not endlessly many."""
        if complaint not in self._reported and len(self._reported) < _MAX_REPORTED:
            self._reported.add(complaint)
            log(CLIENT_DHCP_IGNORED, what=complaint)

    def _lose(self, reason: str) -> None:
        if self.accepted is not None:
            self.accepted = None
            self._on_lost(reason)

    def _waits(self) -> Iterator[float]:
        """Seconds between retransmissions of one message: 1, 2, 4, 8, 16, 16, ..."""
        longest = MAX_WAIT if self.accepted is None else MAX_WAIT_BOUND
        wait = FIRST_WAIT
        while True:
            yield wait * self._random.uniform(1 - JITTER, 1 + JITTER)
            wait = min(wait * 2, longest)

    async def _reset_after(self, delay: float) -> None:
        await asyncio.sleep(delay)
        await self.reset()

    async def _tell_silence(self) -> None:
        waited = 0.0
        while True:
            await asyncio.sleep(SILENT_AFTER)
            if self.house_present is not False:  # without a gateway silence is no news
                waited += SILENT_AFTER
                break
        log(CLIENT_DHCP_SILENT, interface=self.config.interface, seconds=waited)

    async def _release(self, lease: Lease) -> None:
        engine_lease = _engine_lease(lease, self.config.interface)
        try:
            await self._send_message(messages.release(lease=engine_lease))
        except DhcpLinkDownError:
            return  # the lease runs out by itself
        log(CLIENT_DHCP_RELEASED, address=lease.address)

    async def _until_off(self, work: Coroutine[Any, Any, Any]) -> None:
        """The engine's loops return, or raise, when the link is down: both mean the same here."""
        try:
            await work
        except OSError as error:
            raise DhcpLinkDownError(f"cannot receive on interface {self.config.interface}: {error.strerror}") from error
        if self.state != State.OFF:
            raise DhcpLinkDownError(f"interface {self.config.interface} is down")

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self._fault.done():
            self._fault.set_exception(error)


_ASKING: Final = (State.REQUESTING, State.RENEWING, State.REBINDING)


def _engine_options(lease: Lease) -> dict[str, Any]:
    return {
        "server_id": lease.server,
        "subnet_mask": str(lease.network.netmask),
        "lease_time": -1 if lease.lease_seconds is None else lease.lease_seconds,
        "renewal_time": -1 if lease.lease_seconds is None else lease.renew_seconds,
        "rebinding_time": -1 if lease.lease_seconds is None else lease.rebind_seconds,
    }


def _engine_lease(lease: Lease, interface: str) -> Any:
    ack = _dhcp4msg({"yiaddr": lease.address, "options": _engine_options(lease)})
    return MemoryLease(ack=ack, interface=interface, server_mac=lease.server_mac.hex(":"))
