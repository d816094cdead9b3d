"""What the fault tests measure with: the proxy's handle, numbered flows checked byte by byte, many members in one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from fault_proxy import ask
from lan_tools import need, poll, run

from lanparty.demo import inside
from lanparty.demo.probes import percentile
from lanparty.demo.programs import SERVER_NAME, Party, Program

HERE = Path(__file__).parent
HOUSE = "192.168.77.1"
PROXY, PROXY_NUMBER, OTHER_NUMBER = "proxy", 40, 41
"""The proxy's place on the internet, and its two addresses."""

_HEAD = struct.Struct("!4sIQ")


# ------------------------------------------------------------------------------------------------ the proxy


@attrs.define
class Proxy:
    """A running proxy. Its faults last until ``clear``."""

    program: Program
    control: Path
    address: str
    other: str

    @property
    def relay(self) -> list[str]:
        """Options that send a program by way of it."""
        return ["--relay", f"[{self.address}]:443" if ":" in self.address else f"{self.address}:443"]

    def set(self, **order: Any) -> dict[str, Any]:
        return ask(self.control, **order)

    def clear(self) -> dict[str, Any]:
        return self.set(clear=True)

    def counters(self) -> dict[str, int]:
        return self.set()["counters"]

    @contextmanager
    def doing(self, **order: Any) -> Iterator[dict[str, int]]:
        """These faults, while the block runs; the dict it gives has what they counted, once it is over."""
        before, counted = self.counters(), {}
        self.set(**order)
        try:
            yield counted
        finally:
            after = self.clear()["counters"]
            counted |= {name: count - before.get(name, 0) for name, count in after.items()}


def start_proxy(party: Party, seed: int = 7) -> Proxy:
    """A proxy before the party's relay, at a place of its own."""
    house = party.house
    house.add_namespace(PROXY)
    house.add_to_internet(PROXY, PROXY_NUMBER)
    address, other = house.wan_addresses(PROXY_NUMBER)[0], house.wan_addresses(OTHER_NUMBER)[0]
    house.add_address(house.at(PROXY), "wan0", other, 64 if ":" in other else 24)
    control = party.directory / "proxy.control"
    argv = [sys.executable, HERE / "fault_proxy.py", address, "443", house.relay_address, "443", control, str(seed)]
    program = party.start("proxy", PROXY, argv)
    proxy = Proxy(program, control, address, other)

    def ready() -> bool:
        with contextlib.suppress(OSError):
            return "counters" in proxy.set()
        return False

    poll(ready, 10, "the proxy answers")
    return proxy


# ------------------------------------------------------------------------------------------------ flows


@attrs.define
class Seen:
    """What became of a flow."""

    sent: int = 0
    received: int = 0
    """Different ones."""
    doubled: int = 0
    corrupt: int = 0
    late: int = 0
    """Overtaken by later ones."""
    ages: list[float] = attrs.field(factory=list, repr=False)
    """Seconds from sending to arriving."""
    missed: int = 0
    """Frames that the kernel dropped before this test could look at them: they arrived, if they were ours."""
    gap: float = 0.0
    """Seconds of the longest silence at the receiver, from the first arrival on."""

    @property
    def lost_percent(self) -> float:
        return 100 * max(0.0, 1 - (self.received + self.missed) / self.sent) if self.sent else 100.0

    @property
    def oldest(self) -> float:
        return max(self.ages, default=0.0)

    def age(self, percent: float) -> float:
        """Milliseconds."""
        return 1000 * percentile(self.ages, percent)


class Flow:
    """A game's packets, numbered, at an even rate, from one machine's UDP socket to another's network card.

    They are looked at where they come in (AF_PACKET), before the kernel could drop what has a wrong checksum.
    """

    _marks = iter(range(1 << 30))

    def __init__(self, source: str, target: str, address: str, interface: str, *, rate: float, size: int = 200) -> None:
        self.seen = Seen()
        number = next(self._marks)
        self._mark = b"F%03d" % (number % 1000)
        self._port = 20000 + number % 1000
        self._port_bytes = self._port.to_bytes(2, "big")
        self._rate, self._size, self._address = rate, max(size, _HEAD.size), address
        self._rest = hashlib.shake_128(self._mark).digest(4096)
        self._numbers: set[int] = set()
        self._newest, self._last = -1, 0.0
        self._udp = inside.call(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._raw = inside.call(target, lambda: self._listen(interface))
        self._sending, self._receiving = threading.Event(), threading.Event()
        self._sending.set()
        self._receiving.set()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._receive, self._send)]

    @staticmethod
    def _listen(interface: str) -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        raw.bind((interface, 0x0003))
        raw.settimeout(0.1)
        return raw

    def __enter__(self) -> Flow:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self.finish()

    def finish(self, drain: float = 0.0) -> Seen:
        """Stop sending, wait ``drain`` seconds for what is on its way, and give what was seen."""
        if self._receiving.is_set():
            self.stop_sending()
            time.sleep(drain)
            self._receiving.clear()
            self._threads[0].join()
            self.seen.missed = struct.unpack("=II", self._raw.getsockopt(263, 6, 8))[1]  # PACKET_STATISTICS
            self._udp.close()
            self._raw.close()
            self.seen.received = len(self._numbers)
        return self.seen

    def stop_sending(self) -> None:
        self._sending.clear()
        self._threads[1].join()

    def _body(self, number: int) -> bytes:
        """Bytes that only this number has."""
        start = number % 2000
        return self._rest[start : start + self._size - _HEAD.size]

    def _send(self) -> None:
        began, number = time.monotonic(), 0
        target = (self._address, self._port)
        while self._sending.is_set():
            due = int((time.monotonic() - began) * self._rate)
            while number < due:
                head = _HEAD.pack(self._mark, number, time.monotonic_ns())
                try:
                    self._udp.sendto(head + self._body(number), target)
                except OSError:
                    break  # no route for a moment: the machine's own affair
                number += 1
                self.seen.sent = number
            time.sleep(0.001)

    def _receive(self) -> None:
        while self._receiving.is_set():
            try:
                frame, (_, _, direction, *_) = self._raw.recvfrom(65536)
            except TimeoutError:
                continue
            if direction == socket.PACKET_OUTGOING or frame[12:14] != b"\x08\x00" or frame[36:38] != self._port_bytes:
                continue
            now = time.monotonic()
            # The kernel may have joined neighbours on their way in (UDP GRO).
            for start in range(42, len(frame), self._size):
                self._take(frame[start : start + self._size], now)

    def _take(self, payload: bytes, now: float) -> None:
        seen = self.seen
        mark, number, sent = _HEAD.unpack_from(payload.ljust(_HEAD.size, b"\0"))
        if mark != self._mark or payload[_HEAD.size :] != self._body(number) or number > seen.sent:
            seen.corrupt += 1
            return
        if number in self._numbers:
            seen.doubled += 1
            return
        self._numbers.add(number)
        seen.late += number < self._newest
        self._newest = max(self._newest, number)
        seen.ages.append(now - sent / 1e9)
        if self._last:
            seen.gap = max(seen.gap, now - self._last)
        self._last = now


DRAIN = 0.8
"""Seconds after which nothing is on its way any more: longer than anything waits in a queue of ours."""


def finish(*flows: Flow) -> list[Seen]:
    """Stop all, then wait for what is on its way."""
    for flow in flows:
        flow.stop_sending()
    time.sleep(DRAIN)
    return [flow.finish() for flow in flows]


def flow_to_house(lan: Any, player: str = "player1", **options: Any) -> Flow:
    house = lan.house
    return Flow(house.at(player), house.at("lan-host"), HOUSE, "eth0", **options)


def flow_to_player(lan: Any, player: str = "player1", **options: Any) -> Flow:
    house = lan.house
    return Flow(house.at("lan-host"), house.at(player), lan.address(player), lan.tap(player), **options)


# ------------------------------------------------------------------------------------------------ members and machines


def start_members(party: Party, count: int, *options: str, first: int, room: str = "ROOM1") -> Program:
    """Many members of one room in one process: the uplink of the real programs, without a device (many_members.py).

    In the gateway's room: who asks for rooms without one is guessing, and is made to wait (row 23).
    """
    must = ["--relay", f"{party.house.relay_address}:443", "--server-name", SERVER_NAME]
    must += [
        "--relay-ca-cert",
        os.fspath(party.certificate),
        "--room",
        room,
        "--count",
        str(count),
        "--first",
        str(first),
    ]
    return party.start("members", "guest", [sys.executable, HERE / "many_members.py", *must, *options])


def patched(party: Party, place: str, module: str, options: list[str], *, patch: str) -> Program:
    """One of the real programs with something changed in it before it starts: see patched_program.py."""
    log = ["--log-format", "json", "--log-level", "debug"]
    return party.start(place, place, [sys.executable, HERE / "patched_program.py", patch, module, *options, *log])


def client_options(party: Party, place: str) -> list[str]:
    """What ``Party.start_client`` would give."""
    return [*map(str, party._to_relay("ROOM1")), "--identity", str(party.identity(place)), "--display-name", place]


def nft(namespace: str, table: str, chain: str) -> None:
    """One chain with its rules in a table of its own, which takes the place of the one before."""
    need("nft")
    text = f"table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n chain c {{\n{chain}\n }}\n}}\n"
    file = Path(f"/tmp/nft-{os.getpid()}-{table}")
    file.write_text(text)
    run(namespace, "nft", "-f", str(file))
    file.unlink()


def no_nft(namespace: str, table: str) -> None:
    run(namespace, "nft", "delete", "table", "inet", table)


def memory_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise LookupError(pid)


def events_of(program: Program, name: str, since: int = 0) -> list[Any]:
    return program.named(name, since=since)


def lines_json(program: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.lines if line.startswith("{")]
