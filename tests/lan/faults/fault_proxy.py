"""A UDP proxy that does to packets what the internet does, with a seed and by command: ``python fault_proxy.py``.

    members ⇄ LISTEN (one socket)      this program      one connected socket per member ⇄ RELAY

    argv     LISTEN-ADDRESS PORT  RELAY-ADDRESS PORT  CONTROL (path of a Unix socket)  SEED
    control  one JSON object per connection, answered by one line of JSON: counters, and the ``Faults`` in force.
             {} only asks; {"up": {...}} changes one direction, {"both": {...}} both; {"clear": true} heals all first;
             {"rebind": true} gives every member another port on the relay's side; {"rebind": "10.0.0.9"} also another
             address of this machine's

Like a NAT it has one outward port per member, so a relay sees each with an address of its own. Batches come and go by
``lanparty.quic.sockets`` (GRO, GSO, don't-fragment), so that it costs less than what it stands between: 4.4 us a packet
without faults, 7 where each packet has a fate of its own (measured over loopback at 20 000 packets/s, one way: 0.09 and
0.14 of a core). What it adds by itself is one wake-up; delays are kept to a millisecond.

Fates, in this order, each by its own seeded chance: size limit, black hole, bursts of loss (Gilbert-Elliott: ``loss``
is the share lost, ``burst`` the mean length of a run), corruption (one bit anywhere), duplication, delay with jitter
(uniform; what overtakes what is jitter's doing), reordering (``reorder`` is the share that is held ``hold`` seconds).

Must not know: QUIC.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs

from lanparty.quic.connection import UdpPath
from lanparty.quic.sockets import UdpSocket, bind_all, connect

PORTION = 64
MEMBERS = 1024
"""Outward ports at most, each a descriptor."""


@attrs.define
class Faults:
    """What happens to packets in one direction; shares are of 1, times in seconds."""

    loss: float = 0.0
    burst: float = 1.0
    hole: bool = False
    largest: int = 65535
    """Bytes of UDP payload that pass."""
    corrupt: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    reorder: float = 0.0
    hold: float = 0.02
    dying: bool = False
    """The state of the loss process: within a run of losses."""

    def quiet(self) -> bool:
        return self == Faults()

    def lost(self, chance: random.Random) -> bool:
        """The next step of the loss process."""
        if not self.loss:
            return False
        if self.burst <= 1.0:
            return chance.random() < self.loss
        if self.dying:
            self.dying = chance.random() >= 1 / self.burst
        else:
            # The share of time in a run is loss: a run begins as often as that needs.
            self.dying = chance.random() < self.loss / (self.burst * (1 - self.loss))
        return self.dying


class Proxy:
    def __init__(self, listen: tuple[str, int], relay: tuple[str, int], seed: int) -> None:
        self.errors: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()
        self.faults = {"up": Faults(), "down": Faults()}
        self.largest = {"up": 0, "down": 0}
        """Bytes of the largest packet that passed since the last order, while there were faults."""
        self._relay = relay
        self._address: str | None = None
        self._chance = random.Random(seed)
        (self._inward,) = bind_all([listen], self.errors)
        self._outward: dict[UdpPath, UdpSocket] = {}
        self._member: dict[int, UdpPath] = {}
        self._by_fd: dict[int, UdpSocket] = {self._inward.sock.fileno(): self._inward}
        self._waiting: list[tuple[float, int, UdpSocket, UdpPath, bytes]] = []
        self._numbers = itertools.count()
        self._epoll = select.epoll()
        self._epoll.register(self._inward.sock, select.EPOLLIN)

    # -- commands ----------------------------------------------------------------------------------------------------

    def command(self, order: dict) -> dict:
        if order.get("clear"):
            self.faults = {"up": Faults(), "down": Faults()}
        if order:
            self.largest = {"up": 0, "down": 0}
        for name in ("up", "down"):
            self.faults[name] = attrs.evolve(self.faults[name], **order.get("both", {}), **order.get(name, {}))
        if rebind := order.get("rebind"):
            self._address = rebind if isinstance(rebind, str) else self._address
            for path in list(self._outward):
                self._forget(path)
                self._open(path)
        return {
            "counters": dict(self.counters),
            "errors": dict(self.errors),
            "members": len(self._outward),
            "largest": self.largest,
            "faults": {name: attrs.asdict(faults) for name, faults in self.faults.items()},
        }

    # -- packets -----------------------------------------------------------------------------------------------------

    def run(self, control: socket.socket) -> None:
        self._epoll.register(control, select.EPOLLIN)
        while True:
            timeout = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else -1
            ready = self._epoll.poll(timeout)  # in whole milliseconds, rounded up
            for descriptor, _events in ready:
                if descriptor == control.fileno():
                    self._serve(control)
                elif descriptor in self._by_fd:
                    self._read(self._by_fd[descriptor])
            if self._waiting:
                self._release(time.monotonic())

    def _serve(self, control: socket.socket) -> None:
        peer, _ = control.accept()
        with peer, contextlib.suppress(OSError):
            peer.sendall(json.dumps(self.command(json.loads(peer.recv(65536)))).encode() + b"\n")

    def _read(self, udp: UdpSocket) -> None:
        for path, packets, _waited in udp.receive_batch(PORTION):
            if udp is self._inward:
                outward = self._outward.get(path) or self._open(path)
                self._fate("up", outward, UdpPath(outward.sock.getpeername()), packets)
            else:
                self._fate("down", self._inward, self._member[udp.sock.fileno()], packets)

    def _fate(self, direction: str, udp: UdpSocket, path: UdpPath, packets: Sequence[bytes]) -> None:
        faults, counters, chance = self.faults[direction], self.counters, self._chance
        counters[f"{direction}_in"] += len(packets)
        if faults.quiet():
            counters[f"{direction}_out"] += len(packets)
            udp.send_batch(path, packets)
            return
        now = time.monotonic()
        at_once: list[bytes] = []
        for packet in packets:
            if len(packet) > faults.largest:
                counters[f"{direction}_too_large"] += 1
                continue
            if faults.hole or faults.lost(chance):
                counters[f"{direction}_lost"] += 1
                continue
            if faults.corrupt and chance.random() < faults.corrupt:
                counters[f"{direction}_corrupted"] += 1
                damaged = bytearray(packet)
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
                packet = bytes(damaged)
            copies = 2 if faults.duplicate and chance.random() < faults.duplicate else 1
            counters[f"{direction}_doubled"] += copies - 1
            counters[f"{direction}_out"] += copies
            self.largest[direction] = max(self.largest[direction], len(packet))
            for _ in range(copies):
                wait = faults.delay + (chance.random() * faults.jitter if faults.jitter else 0.0)
                if faults.reorder and chance.random() < faults.reorder:
                    counters[f"{direction}_held"] += 1
                    wait += faults.hold
                if wait:
                    heapq.heappush(self._waiting, (now + wait, next(self._numbers), udp, path, packet))
                else:
                    at_once.append(packet)
        if at_once:
            udp.send_batch(path, at_once)

    def _release(self, now: float) -> None:
        waiting = self._waiting
        batch: list[bytes] = []
        last: tuple[UdpSocket, UdpPath] | None = None
        while waiting and waiting[0][0] <= now:
            _due, _number, udp, path, packet = heapq.heappop(waiting)
            if last is not None and last != (udp, path):
                last[0].send_batch(last[1], batch)
                batch = []
            last = udp, path
            batch.append(packet)
        if last is not None:
            with contextlib.suppress(OSError):  # its member has another port by now
                last[0].send_batch(last[1], batch)

    # -- ports -------------------------------------------------------------------------------------------------------

    def _open(self, path: UdpPath) -> UdpSocket:
        if len(self._outward) >= MEMBERS:
            self._forget(next(iter(self._outward)))
        udp = connect(self._relay, self.errors, bind=(self._address, 0) if self._address else None)
        self._outward[path] = self._by_fd[udp.sock.fileno()] = udp
        self._member[udp.sock.fileno()] = path
        self._epoll.register(udp.sock, select.EPOLLIN)
        self.counters["ports"] += 1
        return udp

    def _forget(self, path: UdpPath) -> None:
        udp = self._outward.pop(path)
        self._epoll.unregister(udp.sock)
        del self._by_fd[udp.sock.fileno()], self._member[udp.sock.fileno()]
        self._waiting = [entry for entry in self._waiting if entry[2] is not udp]
        heapq.heapify(self._waiting)
        udp.close()


def ask(control: Path, **order) -> dict:
    """Send a command to a running proxy; gives its answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(os.fspath(control))
        client.sendall(json.dumps(order).encode())
        with client.makefile("rb") as answer:
            return json.loads(answer.readline())


def main(argv: Sequence[str]) -> None:
    host, port, relay, relay_port, control, seed = argv
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(control)
        listener.listen(16)
        Proxy((host, int(port)), (relay, int(relay_port)), int(seed)).run(listener)


if __name__ == "__main__":
    main(sys.argv[1:])
