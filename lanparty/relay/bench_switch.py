"""Micro-benchmark of the relay's switch: ``python -m lanparty.relay.bench_switch``. One JSON line per case.

Measured is ``Switch.receive_untrusted`` and the hand-over of its result, from one member's overlay datagrams to overlay
datagrams for the others; packet protection, sockets and the receivers' queues are not in it.

    flow   runs of N full TCP segments or game packets to one member, as they come from the engine in one batch
    mixed  the same packets to N members in turn: no two neighbours are alike
    all    one game packet to everybody, in a batch of its own

Each twice: over the short way, and over the long one (every frame decoded, judged, routed and encoded by itself), which
is what the short way must be compared with on a machine whose speed changes from minute to minute.

Owns: the cases. Must not know: how the switch works.
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
from lanparty.guard.levels import Level, RoomPolicy
from lanparty.relay.hub import Hub, Joined
from lanparty.relay.rooms import Rooms
from lanparty.relay.switch import Port, Switch

__all__ = ["Case", "cases", "main", "measure"]

MEMBERS: Final = 32
FULL: Final = 1442
"""Bytes of an overlay datagram that fills a packet on a 1500-byte path."""
SMALL: Final = 250
_BATCH: Final = 45
"""Segments of a TCP super-frame of 64 KiB."""


@attrs.define
class _Sink:
    """A connection that takes everything."""

    datagram_budget: int = FULL
    datagrams: int = 0

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        self.datagrams += len(list(datagrams))


@attrs.frozen
class Case:
    """One row of the result."""

    name: str
    batches: Sequence[Sequence[bytes]]
    copies: int
    """Receivers of each frame."""


def _mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


def _datagram(destination: bytes, size: int, number: int, protocol: int, transport: bytes) -> bytes:
    """Make an overlay datagram of member 1, ``size`` bytes long."""
    fields = (0x45, 0, size - 18, number & 0xFFFF, 0x4000, 64, protocol, number & 0xFFFF, b"\x0a\0\0\1", b"\x0a\0\0\2")
    packet = struct.pack("!BBHHHBBH4s4s", *fields) + transport
    return (b"\x10\0\0\0" + destination + _mac(1) + b"\x08\0" + packet).ljust(size, b"x")


def tcp_datagram(destination: bytes, size: int, number: int) -> bytes:
    """Make the overlay datagram of a TCP segment."""
    fields = (5001, 40000, number * 1398 & 0xFFFFFFFF, 1, 0x5010, 500, number & 0xFFFF, 0)
    return _datagram(destination, size, number, 6, struct.pack("!HHIIHHHH", *fields))


def udp_datagram(destination: bytes, size: int, number: int) -> bytes:
    """Make the overlay datagram of a game's packet."""
    return _datagram(destination, size, number, 17, struct.pack("!HHHH", 27005, 27015, size - 38, number & 0xFFFF))


def cases(frames: int) -> list[Case]:
    """Make all cases, of about ``frames`` frames each."""
    made = []
    kinds: tuple[tuple[int, Callable[[bytes, int, int], bytes]], ...] = ((FULL, tcp_datagram), (SMALL, udp_datagram))
    for size, make in kinds:
        for run in (1, 4, _BATCH):
            numbers = itertools.count()
            batches = [[make(_mac(2), size, next(numbers)) for _ in range(run)] for _ in range(frames // run)]
            made.append(Case(f"flow {size} B x {run}", batches, 1))
    numbers = itertools.count()
    mixed = [
        [udp_datagram(_mac(2 + index % 20), SMALL, next(numbers)) for index in range(_BATCH)]
        for _ in range(frames // _BATCH)
    ]
    made.append(Case(f"mixed {SMALL} B x {_BATCH}", mixed, 1))
    all_others = [[udp_datagram(b"\xff" * 6, 118, number)] for number in range(frames // MEMBERS)]
    made.append(Case("all 118 B x 1", all_others, MEMBERS - 1))
    return made


def room(*, guard: bool) -> tuple[Switch, Port]:
    """Make a room of 32 members; give its switch and the first client's port."""
    hub: Hub[None] = Hub(rooms=Rooms())
    members: list[Joined] = []
    for number in range(MEMBERS):
        hello = Hello(
            version=PROTOCOL,
            role=Role.CLIENT if number else Role.GATEWAY,
            room="BENCH",
            virtual_mac=_mac(number).hex(":") if number else None,
            datagram_budget=FULL,
            display_name="",
            software="bench",
        )
        joined = hub.join(hello, None, _Sink(), "192.0.2.1:1")
        assert isinstance(joined, Joined)
        members.append(joined)
    switch = members[1].switch
    if not guard:
        switch.guard.change(RoomPolicy(level=Level.OFF))
    return switch, members[1].port


def measure(case: Case, *, guard: bool, long_way: bool, repeat: int) -> float:
    """Give microseconds per copy that leaves, the best of ``repeat`` turns."""
    best = float("inf")
    for _ in range(repeat):
        switch, port = room(guard=guard)
        switch.short_ways = not long_way
        began = time.perf_counter()
        for turn, batch in enumerate(case.batches):
            # A tenth of a second between batches: storm control is asked, and lets all pass.
            for receiver, datagrams in switch.receive_untrusted(port, batch, turn * 0.1).items():
                receiver.outlet.send_datagrams(datagrams)
        best = min(best, time.perf_counter() - began)
    return best / (sum(map(len, case.batches)) * case.copies) * 1e6


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="lanparty.relay.bench_switch", description="Cost of the relay's switch.")
    parser.add_argument("--frames", type=int, default=18_000, help="frames in each case (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns, the best counts (default: %(default)s)")
    options = parser.parse_args()
    for case in cases(options.frames):
        row = {
            f"{'long' if long_way else 'short'}{'' if guard else ', no guard'}": round(
                measure(case, guard=guard, long_way=long_way, repeat=options.repeat), 3
            )
            for guard in (True, False)
            for long_way in (False, True)
        }
        sys.stdout.write(json.dumps({"case": case.name, "us_per_copy": row}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
