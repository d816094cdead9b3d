"""``python -m lanparty.demo.load``: many members in one process, to see what a relay carries.

Members ``--from`` to ``--to`` of rooms of ``--room-size``: member i is number i % size of room i // size, so that a
room may be spread over several processes. Each is a real one (QUIC, hello, echoes) that sends a game's UDP packets to
everybody in its room, or only to the next member, at its own phase of the period, with number and time in them, and
takes what the others send.

    process  → stdout  {"joined": N, ...}                 one JSON line when all are members
    stdin    → process  START RATE SECONDS                 one run: its beginning, in seconds of time.monotonic(),
                                                           which all processes share; each member's frames per second
    process  → stdout  {"sent": ..., "received": ..., ...} one JSON line at the run's end; then the next run, or
                                                           the end of stdin, which ends the process

The process shares the machine's cores with the relay, so it must be light, and must say when it was the limit itself:

- One turn per ``TURN``: it sleeps, blocking, then lets trio serve all sockets that have something. Without that sleep
  each packet would wake it, and trio's turns would cost more than QUIC.
- ``late_ms`` is how late frames were sent, ``cpu`` its share of a core. Where one is high the result is about the
  generator, not about the relay.

Frame: Ethernet, IPv4, UDP to port 27015 (no checksum), then sender's number (u16), sequence number (u32), time in
nanoseconds (u64), zeros. The addresses are link-local ones (RFC 3927): no DHCP server is needed for them, and a strict
guard takes them.

Owns: the members and their traffic. Must not know: what is too much (``bench_load``).
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import gc
import json
import math
import struct
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from lanparty.cli.options import IntRange, Parser, parse_relay
from lanparty.ctrl import codec
from lanparty.ctrl.codec import ControlDecoder, Unknown
from lanparty.ctrl.messages import PROTOCOL, Heartbeat, Hello, Reject, Role, Welcome
from lanparty.demo.probes import internet_checksum, percentile
from lanparty.obs.errors import LanpartyError, RefusedError
from lanparty.proto.overlay import HEADER_SIZE, Echo, OverlayEncoder, encode_echo
from lanparty.quic.client import drive
from lanparty.quic.connection import Connection, ConnectionLost
from lanparty.quic.trust import Trust, load_pinned
from lanparty.uplink.tick import TICK

__all__ = [
    "ADDRESS_SHARE",
    "PATTERNS",
    "SMALLEST_FRAME",
    "Inbox",
    "frame_head",
    "local_address",
    "main",
    "read_stamp",
    "stamped",
]

TURN: Final = 0.001
"""Seconds. Adds up to as much to the delays that are measured; half of it makes the process's CPU twice as much."""
DRAIN: Final = 1.5
"""Seconds from the last frame sent until counting ends: longer than anything waits in a queue of ours."""
OVERTIME: Final = 1.0
"""Seconds behind its plan after which a run ends: what was not sent by then is not counted as sent."""
JOINING: Final = 12
"""Handshakes at a time: below what makes a relay ask for proof of the address (16 half open)."""
ADDRESS_SHARE: Final = 200
"""Members per local address: a relay takes 256 connections from one."""
SAMPLE: Final = 8
"""Every eighth frame's delay is kept, at most: see ``MOST_DELAYS``."""
MOST_DELAYS: Final = 1_000_000
"""Delays kept of a run, about: enough for a percentile, and a soak's would fill the memory."""

_STAMP: Final = struct.Struct("!HIQ")
_STAMP_AT: Final = HEADER_SIZE + 14 + 20 + 8
SMALLEST_FRAME: Final = _STAMP_AT - HEADER_SIZE + _STAMP.size

ROOM: Final = "LOAD{}"

PATTERNS: Final = ("all", "next")
"""To whom a member sends."""

_GOLDEN: Final = 0.6180339887498949


# ------------------------------------------------------------------------------------------------ frames


def frame_head(number: int, room: int, size: int, to: int | None = None) -> bytes:
    """Ethernet, IPv4 and UDP headers of member ``number``'s frames of ``size`` bytes to member ``to``, or to all."""
    length = size - 14
    receiver, target = (b"\xff" * 6, b"\xff" * 4) if to is None else (mac(room, to), _address(room, to))
    blank = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, 17, 0, _address(room, number), target)
    ip = blank[:10] + internet_checksum(blank).to_bytes(2, "big") + blank[12:]
    udp = struct.pack("!HHHH", 27015, 27015, length - 20, 0)
    return receiver + mac(room, number) + b"\x08\x00" + ip + udp


def _address(room: int, number: int) -> bytes:
    """A member's IPv4 address, unique in its room. The first and last 256 of 169.254/16 are reserved (RFC 3927)."""
    return bytes((169, 254, 1 + room % 254, number + 1))


def mac(room: int, number: int) -> bytes:
    """A member's MAC: locally administered, unicast."""
    return bytes((0x02, 0x10, 0xAD, room >> 8 & 0xFF, room & 0xFF, number))


def stamped(head: bytes, size: int, number: int, sequence: int, nanoseconds: int) -> bytes:
    """A whole frame."""
    return (head + _STAMP.pack(number, sequence & 0xFFFFFFFF, nanoseconds)).ljust(size, b"\0")


def read_stamp(datagram: bytes) -> tuple[int, int, int]:
    """(sender's number, sequence number, nanoseconds) of an overlay datagram that holds a whole frame of ours."""
    number, sequence, nanoseconds = _STAMP.unpack_from(datagram, _STAMP_AT)
    return number, sequence, nanoseconds


def local_address(base: str, member: int) -> str:
    """Where a member sends from: ``base`` and the addresses behind it, a share of the members each."""
    prefix, _, last = base.rpartition(".")
    return f"{prefix}.{int(last) + member // ADDRESS_SHARE}"


# ------------------------------------------------------------------------------------------------ members


@attrs.define
class Inbox:
    """What one member received."""

    size: int
    """Bytes of an overlay datagram of ours; others are not counted."""
    delays: array[int]
    """Nanoseconds from sending to here, of a sample; shared by the process's members."""
    sample: int = SAMPLE
    """One of so many frames of each sender is in it."""
    received: int = 0
    late: int = 0
    """Frames not newer than one that came before from the same sender: reordered or doubled."""
    _newest: dict[int, int] = attrs.field(factory=dict)

    def take_untrusted(self, datagrams: list[bytes], _now: float) -> None:
        """Count one batch."""
        size, newest, unpack = self.size, self._newest, _STAMP.unpack_from
        nanoseconds = time.monotonic_ns()
        for datagram in datagrams:
            if len(datagram) != size:
                continue
            number, sequence, sent = unpack(datagram, _STAMP_AT)
            self.received += 1
            if sequence <= newest.get(number, -1):
                self.late += 1
                continue
            newest[number] = sequence
            if not sequence % self.sample:
                self.delays.append(nanoseconds - sent)


@attrs.define
class _Member:
    room: int
    number: int
    inbox: Inbox
    connection: Connection
    head: bytes
    encoder: OverlayEncoder
    sent: int = 0

    def send(self, size: int) -> None:
        frame = stamped(self.head, size, self.number, self.sent, time.monotonic_ns())
        self.connection.send_datagrams(self.encoder.encode(frame))
        self.connection.flush()
        self.sent += 1


@attrs.define
class _Load:
    """All members of this process."""

    options: Any
    trust: Trust
    members: list[_Member] = attrs.field(factory=list)
    delays: array[int] = attrs.field(factory=lambda: array("q"))
    lost: Counter[str] = attrs.field(factory=Counter)
    """Members whose connection ended, by reason."""

    async def run(self) -> None:
        options = self.options
        async with trio.open_nursery() as nursery:
            limit = trio.CapacityLimiter(JOINING)
            began = time.monotonic()
            # From the start: the relay gives up members that keep silent while the others join.
            nursery.start_soon(self._ask)
            async with trio.open_nursery() as joining:
                for index in range(options.first, options.to):
                    joining.start_soon(self._join, index, limit, nursery)
            _report({"joined": len(self.members), "took": time.monotonic() - began})
            # What is there stays: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                start, rate, seconds = (float(word) for word in line.split())
                _report(await self._send(start, rate, seconds))
            nursery.cancel_scope.cancel()

    async def _join(self, index: int, limit: trio.CapacityLimiter, nursery: trio.Nursery) -> None:
        options = self.options
        room, number = divmod(index, options.room_size)
        bind = None if options.bind is None else (local_address(options.bind, index), 0)
        relay = options.relay
        async with limit:

            async def run(*, task_status: trio.TaskStatus[Connection]) -> None:
                try:
                    await drive(
                        (relay.host, relay.port),
                        server_name=options.server_name,
                        trust=self.trust,
                        handshake_timeout=30.0,
                        bind=bind,
                        task_status=task_status,
                    )
                except ConnectionLost as lost:
                    self.lost[str(lost)] += 1

            connection = await nursery.start(run)
            address = mac(room, number)
            hello = Hello(
                version=PROTOCOL,
                role=Role.CLIENT,
                room=ROOM.format(room),
                virtual_mac=address.hex(":"),
                datagram_budget=connection.datagram_budget,
                display_name=f"load {number}",
                software="lanparty load",
            )
            await connection.send_all(codec.encode(hello))
            decoder = ControlDecoder()
            await _welcomed(connection, decoder)
            inbox = Inbox(HEADER_SIZE + options.size, self.delays)
            to = (number + 1) % options.room_size if options.pattern == "next" else None
            head = frame_head(number, room, options.size, to)
            member = _Member(room, number, inbox, connection, head, OverlayEncoder(connection.datagram_budget))
            connection.on_datagrams(inbox.take_untrusted)
            self.members.append(member)
            nursery.start_soon(_read, connection, decoder)

    async def _ask(self) -> None:
        """An echo of each member to the relay on each tick of its own, as ``uplink.session`` sends them."""
        echo = encode_echo(Echo(0, reply=False, target=0, sequence=0, sent_us=0))
        while True:
            began = trio.current_time()
            members = list(self.members)
            for index, member in enumerate(members):
                # Behind its time it does not wait: while thousands join, each turn of trio's is a long one.
                if (due := began + TICK * index / len(members)) > trio.current_time():
                    await trio.sleep_until(due)
                member.connection.send_datagrams([echo])
                member.connection.flush()
            await trio.sleep_until(began + TICK)

    async def _send(self, start: float, rate: float, seconds: float) -> dict[str, Any]:
        """Send everything at its time; give what was sent and received."""
        options = self.options
        members, period = self.members, 1.0 / rate
        before = sum(member.sent for member in members)
        copies = 1 if options.pattern == "next" else options.room_size - 1
        for member in members:
            member.inbox.received = member.inbox.late = 0
            member.inbox.sample = max(SAMPLE, int(len(members) * rate * seconds * copies) // MOST_DELAYS)
        del self.delays[:]
        # Evenly spread over the period, and not in the order of the rooms: the golden ratio's multiples are.
        phases = [math.modf((options.first + index) * _GOLDEN)[0] * period for index in range(len(members))]
        order = sorted(range(len(members)), key=phases.__getitem__)
        cycles, size = max(1, int(seconds * rate)), options.size
        plan = ((start + cycle * period + phases[index], members[index]) for cycle in range(cycles) for index in order)
        lateness, give_up = array("d"), start + seconds + OVERTIME
        await trio.sleep(max(0.0, start - time.monotonic() - TURN))
        began, cpu = time.monotonic(), time.process_time()
        now = began
        for due, member in plan:
            while due > now:
                time.sleep(TURN)  # noqa: ASYNC251 - blocking on purpose, see the map
                await trio.lowlevel.checkpoint()
                now = time.monotonic()
            if now > give_up:
                break
            lateness.append(now - due)
            member.send(size)
        end = time.monotonic() + DRAIN
        share = (time.process_time() - cpu) / (time.monotonic() - began)
        while time.monotonic() < end:
            time.sleep(TURN)  # noqa: ASYNC251
            await trio.lowlevel.checkpoint()
        return {
            "sent": sum(member.sent for member in members) - before,
            "received": sum(member.inbox.received for member in members),
            "late": sum(member.inbox.late for member in members),
            "gone": self.lost,
            "cpu": share,
            "took": end - DRAIN - start,
            "late_ms": {"p50": 1e3 * percentile(lateness, 50), "p99": 1e3 * percentile(lateness, 99)},
            "delay_ms": {f"p{part:g}": percentile(self.delays, part) / 1e6 for part in (50, 90, 99, 99.9)},
        }


async def _welcomed(connection: Connection, decoder: ControlDecoder) -> None:
    while True:
        for message in decoder.feed_untrusted(await connection.receive_some()):
            if isinstance(message, Reject):
                raise RefusedError(message.code.value, f"The relay refused: {message.text}")
            if isinstance(message, Welcome):
                return


async def _read(connection: Connection, decoder: ControlDecoder) -> None:
    """Answer the relay's heartbeats until the connection ends."""
    with contextlib.suppress(ConnectionLost):
        while data := await connection.receive_some():
            for message in decoder.feed_untrusted(data):
                if not isinstance(message, Unknown) and isinstance(message, Heartbeat) and not message.reply:
                    await connection.send_all(codec.encode(Heartbeat(sequence=message.sequence, reply=True)))


def _report(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    """The exit status."""
    parser = Parser(prog="lanparty.demo.load", description="Be many members of a relay's rooms.")
    parser.add_argument("--relay", required=True, type=parse_relay, metavar="ADDRESS:PORT")
    parser.add_argument("--server-name", default="lanparty-relay.local", metavar="NAME")
    parser.add_argument("--relay-ca-cert", required=True, type=Path, metavar="FILE")
    parser.add_argument("--bind", metavar="ADDRESS", help="first of the local IPv4 addresses to send from")
    parser.add_argument("--room-size", type=IntRange(2, 128), default=32, metavar="N")
    parser.add_argument("--from", type=IntRange(0, 65535), default=0, metavar="I", dest="first")
    parser.add_argument("--to", type=IntRange(1, 65535), required=True, metavar="I", help="one more than the last")
    parser.add_argument("--pattern", choices=PATTERNS, default="all", help="to everybody, or to the next member only")
    parser.add_argument("--size", type=IntRange(SMALLEST_FRAME, 1400), default=100, metavar="BYTES")
    status = 0
    try:
        options = parser.parse_args(argv)
        trio.run(_Load(options, Trust(load_pinned(options.relay_ca_cert))).run)
    except* LanpartyError as errors:
        for error in errors.exceptions:
            sys.stderr.write(f"lanparty.demo.load: error: {error}\n")
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
