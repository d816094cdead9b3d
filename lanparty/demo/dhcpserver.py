"""A small DHCP server (RFC 2131) for the virtual house, where dnsmasq is not installed.

    python -m lanparty.demo.dhcpserver --interface eth0 --address 192.168.77.1/24 --first 192.168.77.100 \
        --last 192.168.77.199 --lease-file leases

Owns: the address pool, the answers, the lease file (dnsmasq's format, so that one reader does for both).
Must not know: lanparty. It is what a home router is to the players.

``LeaseBook`` is pure: bytes and ``now`` in, bytes out. ``main`` is the socket around it. It does what a LAN party needs
and no more: no relay agents, no options beyond mask, router and DNS, no check whether an address is in use.

    0      1      2     3     4      8      10     12        16      20      24      28       44      108     236
    | op   |htype |hlen |hops | xid  | secs | flags| ciaddr  | yiaddr| siaddr| giaddr| chaddr | sname | file  | cookie
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import argparse
import os
import signal
import socket
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Final, NoReturn

import attrs

__all__ = ["LeaseBook", "Request", "main", "parse_request_untrusted"]

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
HEADER_SIZE: Final = 236
COOKIE: Final = bytes((99, 130, 83, 99))
"""Bytes 236 to 239 (RFC 2131 section 3)."""
MINIMUM_SIZE: Final = 300
"""Bytes; some clients drop anything shorter (BOOTP, RFC 1542 section 2.1)."""

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
"""Values of option 53 (RFC 2132 section 9.6)."""

_PAD, _MASK, _ROUTER, _DNS, _REQUESTED, _LEASE_TIME, _TYPE, _SERVER, _END = 0, 1, 3, 6, 50, 51, 53, 54, 255
"""Option codes (RFC 2132)."""

OFFER_SECONDS: Final = 10.0
"""How long an address that was offered and not asked for stays out of the pool."""


@attrs.frozen
class Request:
    """What a client sent, as far as this server cares."""

    kind: int
    transaction: bytes
    flags: bytes
    mac: bytes
    client_address: IPv4Address
    requested: IPv4Address | None
    server: IPv4Address | None


@attrs.frozen
class _Binding:
    mac: bytes
    until: float
    leased: bool
    """False while only offered."""


@attrs.define
class LeaseBook:
    """Who has which address.

    Times are seconds since the epoch, because lease files hold those. A returning client gets its old address as long
    as nobody else needed it: the pool gives never-used addresses first, then those whose lease ended longest ago.
    """

    server: IPv4Interface
    first: IPv4Address
    last: IPv4Address
    lease_seconds: int
    bindings: dict[IPv4Address, _Binding] = attrs.field(factory=dict, init=False)

    def answer_untrusted(self, packet: bytes, now: float) -> bytes | None:
        """The reply to a client's packet, or None: nothing to say, or nonsense."""
        request = parse_request_untrusted(packet)
        if request is None or request.server not in (None, self.server.ip):
            return None
        match request.kind:
            case 1:  # DISCOVER
                address = self._choose(request, now)
                if address is None:
                    return None
                self.bindings[address] = _Binding(request.mac, now + OFFER_SECONDS, leased=False)
                return self._reply(request, OFFER, address)
            case 3:  # REQUEST
                return self._confirm(request, now)
            case 4 | 7:  # DECLINE, RELEASE
                self._release(request, now)
            case 8:  # INFORM
                return self._reply(request, ACK, None)
        return None

    def lease_lines(self) -> str:
        """The lease file: expiry, MAC, address, host name, client id."""
        return "".join(
            f"{int(binding.until)} {binding.mac.hex(':')} {address} * *\n"
            for address, binding in sorted(self.bindings.items())
            if binding.leased
        )

    def _choose(self, request: Request, now: float) -> IPv4Address | None:
        own = [address for address, binding in self.bindings.items() if binding.mac == request.mac]
        if own:
            return own[0]
        if request.requested is not None and self._is_free(request.requested, now):
            return request.requested
        pool = [IPv4Address(number) for number in range(int(self.first), int(self.last) + 1)]
        unused = next((address for address in pool if address not in self.bindings), None)
        if unused is not None:
            return unused
        ended = [address for address in pool if self.bindings[address].until <= now]
        return min(ended, key=lambda address: self.bindings[address].until, default=None)

    def _is_free(self, address: IPv4Address, now: float) -> bool:
        binding = self.bindings.get(address)
        return self.first <= address <= self.last and (binding is None or binding.until <= now)

    def _confirm(self, request: Request, now: float) -> bytes:
        address = request.requested or request.client_address
        binding = self.bindings.get(address)
        is_theirs = binding is not None and binding.mac == request.mac
        if not is_theirs and not self._is_free(address, now):
            return self._reply(request, NAK, None)
        for other in [a for a, b in self.bindings.items() if b.mac == request.mac and a != address]:
            del self.bindings[other]
        self.bindings[address] = _Binding(request.mac, now + self.lease_seconds, leased=True)
        return self._reply(request, ACK, address)

    def _release(self, request: Request, now: float) -> None:
        for address in (request.client_address, request.requested):
            binding = self.bindings.get(address) if address is not None else None
            if address is not None and binding is not None and binding.mac == request.mac:
                # Still remembered, so that the same client gets it again (RFC 2131 section 4.3.4).
                self.bindings[address] = _Binding(request.mac, now, leased=False)

    def _reply(self, request: Request, kind: int, address: IPv4Address | None) -> bytes:
        yours = address or IPv4Address(0)
        current = IPv4Address(0) if kind == NAK else request.client_address
        header = b"\x02\x01\x06\x00" + request.transaction + b"\x00\x00" + request.flags
        header += current.packed + yours.packed + self.server.ip.packed + bytes(4) + request.mac
        header = header.ljust(HEADER_SIZE, b"\0")
        options = _option(_TYPE, bytes((kind,))) + _option(_SERVER, self.server.ip.packed)
        if kind != NAK:
            options += _option(_MASK, self.server.netmask.packed) + _option(_ROUTER, self.server.ip.packed)
            options += _option(_DNS, self.server.ip.packed)
        if address is not None:
            options += _option(_LEASE_TIME, self.lease_seconds.to_bytes(4, "big"))
        return (header + COOKIE + options + bytes((_END,))).ljust(MINIMUM_SIZE, b"\0")


def parse_request_untrusted(packet: bytes) -> Request | None:
    """A client's packet over Ethernet, or None when it is not one."""
    if len(packet) < HEADER_SIZE + len(COOKIE) or packet[HEADER_SIZE : HEADER_SIZE + 4] != COOKIE:
        return None
    if packet[0] != 1 or packet[1] != 1 or packet[2] != 6:  # BOOTREQUEST, Ethernet, 6 bytes
        return None
    options = _options_untrusted(packet[HEADER_SIZE + 4 :])
    kind = options.get(_TYPE, b"")
    if len(kind) != 1:
        return None
    return Request(
        kind=kind[0],
        transaction=packet[4:8],
        flags=packet[10:12],
        mac=packet[28:34],
        client_address=IPv4Address(packet[12:16]),
        requested=_address_untrusted(options.get(_REQUESTED)),
        server=_address_untrusted(options.get(_SERVER)),
    )


def _options_untrusted(data: bytes) -> dict[int, bytes]:
    """Code → value; a part cut short ends the list, a repeated option keeps its first value."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data) and data[position] != _END:
        if data[position] == _PAD:
            position += 1
            continue
        if position + 2 > len(data):
            break
        code, size = data[position], data[position + 1]
        value = data[position + 2 : position + 2 + size]
        if len(value) < size:
            break
        found.setdefault(code, value)
        position += 2 + size
    return found


def _address_untrusted(value: bytes | None) -> IPv4Address | None:
    return IPv4Address(value) if value is not None and len(value) == 4 else None


def _option(code: int, value: bytes) -> bytes:
    return bytes((code, len(value))) + value


# ------------------------------------------------------------------------------------------------ the program


def _serve(book: LeaseBook, interface: str, lease_file: Path | None) -> NoReturn:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        udp.bind(("", SERVER_PORT))
        sys.stdout.write(f"serving {book.first} to {book.last} on {interface}\n")
        sys.stdout.flush()
        while True:
            packet, _ = udp.recvfrom(2048)
            answer = book.answer_untrusted(packet, time.time())
            if lease_file is not None:
                _write_whole(lease_file, book.lease_lines())
            if answer is not None:
                # A client that has no address yet cannot be sent to without touching the ARP table; broadcast always
                # arrives (RFC 2131 section 4.1 allows it).
                udp.sendto(answer, ("255.255.255.255", CLIENT_PORT))


def _write_whole(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="ascii")
    part.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="lanparty.demo.dhcpserver", description="A small DHCP server for the demo.")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--address", required=True, type=IPv4Interface, metavar="ADDRESS/PREFIX")
    parser.add_argument("--first", required=True, type=IPv4Address, metavar="ADDRESS")
    parser.add_argument("--last", required=True, type=IPv4Address, metavar="ADDRESS")
    parser.add_argument("--lease-seconds", type=int, default=3600)
    parser.add_argument("--lease-file", type=Path)
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    book = LeaseBook(options.address, options.first, options.last, options.lease_seconds)
    _serve(book, options.interface, options.lease_file)


if __name__ == "__main__":
    sys.exit(main())
