"""Measurements inside the virtual house: ping, discovery by broadcast and multicast, throughput.

Owns: the probes' packets and their results. A probe opens its sockets inside a namespace (``inside.call``) and then
works from wherever it is called. Must not know: how the places are connected; it sees what a game would see.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import hashlib
import math
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from lanparty.demo import inside

__all__ = [
    "DISCOVERY_PORT",
    "Listener",
    "PingResult",
    "Transfer",
    "discover",
    "internet_checksum",
    "percentile",
    "ping",
    "transfer",
]

DISCOVERY_PORT: Final = 27015
"""Where Source-engine games look for servers on the LAN."""

_CHUNK: Final = 256 * 1024
"""Bytes per write of a transfer: several super-frames, so that segmentation offload is used to the full."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


# ------------------------------------------------------------------------------------------------ ping


@attrs.frozen
class PingResult:
    """Round-trip times in seconds, in the order of the answers."""

    sent: int
    times: tuple[float, ...]

    @property
    def lost(self) -> int:
        """How many were not answered."""
        return self.sent - len(self.times)

    def milliseconds(self, percent: float) -> float:
        """A percentile of the round-trip times."""
        return percentile(self.times, percent) * 1000


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(namespace: str, target: str, *, count: int, interval: float = 0.02, wait: float = 1.0) -> PingResult:
    """Send ``count`` ICMP echo requests (IPv4), ``interval`` seconds apart, each with up to ``wait`` for its answer."""
    with inside.call(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as icmp:
        # The raw socket hears every echo reply of the namespace; identifier and nonce pick ours.
        identifier, nonce = int.from_bytes(os.urandom(2)), os.urandom(16)
        times = []
        start = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, start + number * interval - time.monotonic()))
            request = _echo_request(identifier, number, nonce)
            sent = time.monotonic()
            icmp.sendto(request, (target, 0))
            if _await_reply(icmp, identifier, number, nonce, sent + wait):
                times.append(time.monotonic() - sent)
        return PingResult(count, tuple(times))


def _echo_request(identifier: int, number: int, payload: bytes) -> bytes:
    """RFC 792: type 8, code 0, checksum, identifier, sequence number."""
    blank = struct.pack("!BBHHH", 8, 0, 0, identifier, number & 0xFFFF) + payload
    return blank[:2] + internet_checksum(blank).to_bytes(2, "big") + blank[4:]


def _await_reply(icmp: socket.socket, identifier: int, number: int, payload: bytes, deadline: float) -> bool:
    wanted = struct.pack("!HH", identifier, number & 0xFFFF) + payload
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([icmp], [], [], left)[0]:
            return False
        packet = icmp.recv(2048)
        message = packet[(packet[0] & 0x0F) * 4 :]
        if message[:1] == b"\0" and message[4:] == wanted:
            return True
    return False


# ------------------------------------------------------------------------------------------------ discovery


class Listener:
    """A UDP socket at a place, as a game server has one: gets unicast, broadcast and the groups it joined."""

    def __init__(self, namespace: str, port: int, *, group: str | None = None, address: str | None = None) -> None:
        self._udp = inside.call(namespace, lambda: self._open(port, group, address))

    @staticmethod
    def _open(port: int, group: str | None, address: str | None) -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind(("", port))
        if group is not None:
            where = socket.inet_aton(address) if address is not None else bytes(4)
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + where)
        return udp

    def close(self) -> None:
        """Give the port back."""
        self._udp.close()

    def hears(self, message: bytes, deadline: float) -> bool:
        """Whether ``message`` arrives before the deadline (monotonic seconds)."""
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._udp], [], [], left)[0]:
                return False
            if self._udp.recv(2048) == message:
                return True
        return False


def open_sender(namespace: str, address: str) -> socket.socket:
    """A UDP socket for discovery. Broadcast leaves where the routes say, multicast by the interface of ``address``."""

    def build() -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        return udp

    return inside.call(namespace, build)


def discover(
    sender: str, sender_address: str, target: str, listeners: Sequence[Listener], port: int, *, timeout: float = 2.0
) -> bool:
    """Whether everyone in ``listeners`` hears one datagram from the namespace ``sender`` to ``target``:``port``."""
    message = b"lanparty probe " + os.urandom(8).hex().encode()
    with open_sender(sender, sender_address) as udp:
        udp.sendto(message, (target, port))
    deadline = time.monotonic() + timeout
    heard = [listener.hears(message, deadline) for listener in listeners]
    return all(heard)


# ------------------------------------------------------------------------------------------------ throughput


@attrs.frozen
class Transfer:
    """One TCP transfer."""

    size: int
    """Bytes that arrived."""
    seconds: float
    intact: bool
    """Whether they were those that were sent."""

    @property
    def megabits_per_second(self) -> float:
        """Of payload, first to last byte."""
        return self.size * 8 / 1e6 / self.seconds if self.seconds > 0 else 0.0


def transfer(
    sender: str,
    receiver: str,
    address: str,
    *,
    size: int | None = None,
    seconds: float | None = None,
    timeout: float = 60.0,
) -> Transfer:
    """Send ``size`` bytes, or for some ``seconds``, from one namespace to ``address`` in another, by TCP.

    What is sent never repeats within the transfer, and both ends hash it: every lost, doubled, swapped or changed byte
    shows.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(inside.call(receiver, lambda: socket.create_server((address, 0))))
        server.settimeout(timeout)
        port = server.getsockname()[1]
        client = stack.enter_context(inside.call(sender, socket.socket))
        client.settimeout(timeout)
        sent: list[bytes] = []
        client.connect((address, port))
        peer = stack.enter_context(server.accept()[0])
        peer.settimeout(timeout)
        thread = threading.Thread(target=_send, args=(client, size, seconds, sent), daemon=True)
        start = time.monotonic()
        thread.start()
        received, digest = _receive(peer)
        took = time.monotonic() - start
        thread.join(timeout)
    return Transfer(received, took, intact=sent == [digest] and (size is None or received == size))


def _blocks(size: int | None, seconds: float | None) -> Iterator[bytes]:
    base = os.urandom(_CHUNK)
    end = math.inf if seconds is None else time.monotonic() + seconds
    left = math.inf if size is None else size
    number = 0
    while left > 0 and time.monotonic() < end:
        block = number.to_bytes(8, "big") + base[8:]
        block = block if left >= _CHUNK else block[: int(left)]
        yield block
        left -= len(block)
        number += 1


def _send(client: socket.socket, size: int | None, seconds: float | None, result: list[bytes]) -> None:
    digest = hashlib.blake2b()
    with contextlib.suppress(OSError):  # a connection that broke is what the receiver reports
        for block in _blocks(size, seconds):
            client.sendall(block)
            digest.update(block)
        client.shutdown(socket.SHUT_WR)
        result.append(digest.digest())


def _receive(peer: socket.socket) -> tuple[int, bytes]:
    digest = hashlib.blake2b()
    buffer = bytearray(_CHUNK)
    total = 0
    with contextlib.suppress(OSError):  # timeout or reset: the size and the hash tell
        while count := peer.recv_into(buffer):
            digest.update(memoryview(buffer)[:count])
            total += count
    return total, digest.digest()
