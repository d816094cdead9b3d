"""Micro-benchmark of the relay's guard: ``python -m lanparty.relay.bench_guard``. One JSON line per case.

    judge     ``Guard.judge_untrusted`` of one lawful frame, nothing remembered of the frame before; by level
    switch    the same frame through ``Switch.receive_untrusted``, hand-over included: packets of a flow in batches of
              ``_BATCH``, others alone. ``cached`` takes the short way that the switch remembers of a plain flow, and
              ``uncached`` the long one

Nanoseconds of processor time per frame, the best of some turns. Each frame is looked at first: one that the guard would
drop is another case than its name says, and ends the program.

    flow       a game's UDP packet from member to member, addresses known       udp, tcp: two sizes of it
    broadcast  the same to everybody
    arp        who-has of a member, and a member's reply
    dhcp       a member's DISCOVER: its options are read
    nd         a member's neighbour solicitation, with its link-layer address
    house      the house's packet to a member; its DHCP acknowledgement, which is learned from

Owns: the frames and the loops. Must not know: how the guard judges.
"""

from __future__ import annotations

import argparse
import itertools
import json
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from lanparty.ctrl.messages import PROTOCOL, Hello, Role
from lanparty.guard.levels import GuardSettings, Level, RoomPolicy
from lanparty.obs.errors import LanpartyError
from lanparty.relay.hub import Hub, Joined
from lanparty.relay.rooms import Rooms

__all__ = ["CASES", "Case", "Room", "judge_time", "main", "switch_time"]

_BATCH: Final = 16
"""Packets of a flow in one batch: about what a busy game's come in."""
_STEP: Final = 0.5
"""Seconds between two frames: a request for a lease passes five times a second."""
_EVERYBODY: Final = b"\xff" * 6
_HOUSE_MAC: Final = bytes.fromhex("0250000000fe")
_HOUSE: Final = bytes((192, 168, 77, 1))
_FRAME_HEADER: Final = b"\x10\0\0\0"
"""The overlay header of a whole frame."""


class NotLawfulError(LanpartyError):
    """The guard would drop the frame of a case."""


def _mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


def _address(number: int) -> bytes:
    return bytes((192, 168, 77, 100 + number))


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _ipv4(target_mac: bytes, mac: bytes, source: bytes, target: bytes, protocol: int, transport: bytes) -> bytes:
    blank = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(transport), 1, 0x4000, 64, protocol, 0, source, target)
    header = blank[:10] + _checksum(blank).to_bytes(2, "big") + blank[12:]
    return target_mac + mac + b"\x08\x00" + header + transport


def _udp(source: int, target: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload


def _game(target_mac: bytes, target: bytes, size: int) -> bytes:
    return _ipv4(target_mac, _mac(1), _address(1), target, 17, _udp(27005, 27015, bytes(size)))


def _tcp() -> bytes:
    header = struct.pack("!HHIIHHHH", 40000, 5001, 1, 1, 0x5010, 500, 0, 0)
    return _ipv4(_mac(2), _mac(1), _address(1), _address(2), 6, header + bytes(1384))


def _arp(operation: int, target_mac: bytes) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + _mac(1) + _address(1)
    return (target_mac + _mac(1) + b"\x08\x06" + body + _mac(2) + _address(2)).ljust(60, b"\0")


def _dhcp(operation: int, options: bytes, yours: bytes = bytes(4)) -> bytes:
    header = bytes((operation, 1, 6, 0)) + bytes(12) + yours + bytes(8) + _mac(1)
    return (header.ljust(236, b"\0") + b"\x63\x82\x53\x63" + options + b"\xff").ljust(300, b"\0")


def _discover() -> bytes:
    payload = _dhcp(1, bytes((53, 1, 1, 12, 4)) + b"game" + bytes((55, 3, 1, 3, 6)))
    return _ipv4(_EVERYBODY, _mac(1), bytes(4), b"\xff" * 4, 17, _udp(68, 67, payload))


def _acknowledgement() -> bytes:
    """A lease without end: the loops' time runs fast."""
    options = bytes((53, 1, 5, 54, 4)) + _HOUSE + bytes((51, 4, 255, 255, 255, 255, 1, 4, 255, 255, 255, 0))
    payload = _dhcp(2, options, _address(1))
    return _ipv4(_EVERYBODY, _HOUSE_MAC, _HOUSE, b"\xff" * 4, 17, _udp(67, 68, payload))


def _solicitation() -> bytes:
    """RFC 4861 section 4.3, from a link-local address to the solicited-node group of another."""
    source = bytes.fromhex("fe80000000000000") + bytes((0, 0, 0, 0xFF, 0xFE, 0, 0, 1))
    group = bytes.fromhex("ff0200000000000000000001ff000002")
    target = bytes.fromhex("fe80000000000000") + bytes((0, 0, 0, 0xFF, 0xFE, 0, 0, 2))
    message = b"\x87\0\0\0" + bytes(4) + target + b"\x01\x01" + _mac(1)
    pseudo = source + group + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    message = message[:2] + _checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    header = b"\x60\0\0\0" + len(message).to_bytes(2, "big") + b"\x3a\xff"
    return b"\x33\x33\xff\0\0\2" + _mac(1) + b"\x86\xdd" + header + source + group + message


@attrs.frozen
class Case:
    """One kind of lawful frame."""

    name: str
    frame: bytes
    of_house: bool = False
    batch: int = 1


CASES: Final[Sequence[Case]] = (
    Case("udp flow, 200 B", _game(_mac(2), _address(2), 158), batch=_BATCH),
    Case("tcp flow, 1438 B", _tcp(), batch=_BATCH),
    Case("broadcast, 100 B", _game(_EVERYBODY, b"\xff" * 4, 58), batch=_BATCH),
    Case("arp request", _arp(1, _EVERYBODY)),
    Case("arp reply", _arp(2, _mac(2))),
    Case("dhcp discover", _discover()),
    Case("nd solicitation", _solicitation()),
    Case(
        "house: udp flow, 200 B",
        _ipv4(_mac(1), _HOUSE_MAC, _HOUSE, _address(1), 17, _udp(27015, 27005, bytes(158))),
        of_house=True,
        batch=_BATCH,
    ),
    Case("house: dhcp ack", _acknowledgement(), of_house=True),
)


@attrs.define
class _Sink:
    """A connection that takes everything."""

    datagram_budget: int = 1442

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        """Take them."""


class Room:
    """A room of a gateway and three members at one level, whose addresses are known."""

    def __init__(self, level: Level) -> None:
        hub: Hub[None] = Hub(rooms=Rooms(), guards=GuardSettings(RoomPolicy(level)))
        joined = []
        for number in range(4):
            hello = Hello(
                version=PROTOCOL,
                role=Role.CLIENT if number else Role.GATEWAY,
                room="BENCH",
                virtual_mac=_mac(number).hex(":") if number else None,
                datagram_budget=1442,
                display_name="",
                software="bench",
            )
            found = hub.join(hello, None, _Sink(), "192.0.2.1:1")
            assert isinstance(found, Joined)
            joined.append(found)
        self.switch = joined[0].switch
        self.ports = {True: joined[0].port, False: joined[1].port}
        self.now = itertools.count(1.0, _STEP)
        # What is there in every party before anything else: a lease, and the member's first word.
        self.check(Case("house: dhcp ack", _acknowledgement(), of_house=True))

    def check(self, case: Case) -> None:
        """Raise NotLawfulError when the guard drops the frame of ``case``."""
        rule = self.switch.guard.judge_untrusted(case.frame, self.ports[case.of_house].member, next(self.now))
        if rule is not None:
            raise NotLawfulError(f"the frame of {case.name!r} is dropped: {rule.label}")


def judge_time(case: Case, level: Level, frames: int) -> float:
    """Give nanoseconds per verdict. Raises NotLawfulError."""
    room = Room(level)
    room.check(case)
    judge, member, frame = room.switch.guard.judge_untrusted, room.ports[case.of_house].member, case.frame
    times = list(itertools.islice(room.now, frames))
    began = time.thread_time_ns()
    for now in times:
        judge(frame, member, now)
    return (time.thread_time_ns() - began) / frames


def switch_time(case: Case, level: Level, frames: int, *, cached: bool) -> float:
    """Give nanoseconds per frame through the switch, verdict included. Raises NotLawfulError."""
    room = Room(level)
    room.check(case)
    room.switch.short_ways = cached
    batch, port = [_FRAME_HEADER + case.frame] * case.batch, room.ports[case.of_house]
    # So far apart that storm control lets each batch pass, whose buckets it goes through all the same.
    times = [next(room.now) + 4 * turn for turn in range(max(1, frames // case.batch))]
    receive = room.switch.receive_untrusted
    receive(port, batch, times[0])
    began = time.thread_time_ns()
    for now in times:
        for receiver, datagrams in receive(port, batch, now).items():
            receiver.outlet.send_datagrams(datagrams)
    return (time.thread_time_ns() - began) / (len(times) * case.batch)


def _best(measure: Callable[[], float], repeat: int) -> int:
    return round(min(measure() for _ in range(repeat)))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="lanparty.relay.bench_guard", description="Cost of the relay's guard.")
    parser.add_argument("--frames", type=int, default=8_000, help="frames in each case (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns, the best counts (default: %(default)s)")
    options = parser.parse_args()
    for case in CASES:
        row: dict[str, dict[str, int]] = {"judge_ns": {}, "switch_cached_ns": {}, "switch_uncached_ns": {}}
        for level in Level:
            row["judge_ns"][level] = _best(lambda: judge_time(case, level, options.frames), options.repeat)  # noqa: B023
            for cached in (True, False):
                key = "switch_cached_ns" if cached else "switch_uncached_ns"
                row[key][level] = _best(
                    lambda: switch_time(case, level, options.frames, cached=cached),  # noqa: B023 - called at once
                    options.repeat,
                )
        sys.stdout.write(json.dumps({"case": case.name, **row}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
