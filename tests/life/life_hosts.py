"""Computers on a LAN in memory: DHCP, ARP, and a game that counts what it hears.

A host is a ``MemoryDevice`` that handles frames as they come, without a task. What it sends besides ARP and DHCP
carries a stamp: room, sender, number, question or answer. From these follow the two promises that are checked for each
frame ever heard (``Ledger``): at most once, and only in its own room.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface

import attrs
import trio

from lanparty.demo.dhcpserver import ACK, DISCOVER, NAK, OFFER, RELEASE, REQUEST, LeaseBook
from lanparty.demo.probes import internet_checksum
from lanparty.link.memory import MemoryDevice

EVERYBODY = b"\xff" * 6
SERVER = IPv4Address("192.168.77.1")
SERVER_MAC = bytes.fromhex("0250000000fe")
GAME_PORT = 27015
LEASE = 2 * 3600
"""Seconds. Twelve renewals a day for whoever stays."""
PATIENCE = 1.0
"""Seconds for an answer of a host."""

_STAMP = struct.Struct("!4sBBIB")
"""Magic, room, sender, number, 1: answer me, 2: an answer, 0: neither."""
_MAGIC = b"life"


@attrs.define
class Ledger:
    """What the hosts heard that they should not have, and how much there was."""

    sent: int = 0
    heard: int = 0
    twice: list[str] = attrs.field(factory=list)
    astray: list[str] = attrs.field(factory=list)

    def check(self):
        """Raises AssertionError."""
        assert not self.twice, self.twice[:10]
        assert not self.astray, self.astray[:10]


@attrs.define
class Window:
    """Which numbers of one sender were heard: all of the last 4096, whatever their order."""

    newest: int = -1
    _bits: int = 0

    def is_new(self, number):
        """Note ``number``; False when it was noted before, or is too old to tell."""
        if number > self.newest:
            self._bits = (self._bits << (number - self.newest) | 1) & (1 << 4096) - 1
            self.newest = number
            return True
        bit = 1 << (self.newest - number)
        if bit >> 4096 or self._bits & bit:
            return False
        self._bits |= bit
        return True


def udp(source, target, sender_mac, receiver_mac, source_port, target_port, payload):
    length = 20 + 8 + len(payload)
    blank = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, 17, 0, source.packed, target.packed)
    ip = blank[:10] + internet_checksum(blank).to_bytes(2, "big") + blank[12:]
    header = struct.pack("!HHHH", source_port, target_port, 8 + len(payload), 0)
    return (receiver_mac + sender_mac + b"\x08\x00" + ip + header + payload).ljust(60, b"\0")


def arp(operation, sender_mac, sender, target_mac, target):
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + sender_mac + sender.packed
    body += (target_mac or bytes(6)) + target.packed
    return ((target_mac or EVERYBODY) + sender_mac + b"\x08\x06" + body).ljust(60, b"\0")


class Host(MemoryDevice):
    """One computer. ``number`` is unique in its room; ``segment`` must be set before anything is sent."""

    def __init__(self, name, mac, room, number, ledger, *, address=None):
        super().__init__(name, mac)
        self.address = address
        self.room = room
        self.number = number
        self.ledger = ledger
        self._neighbours = {}
        self._heard = {}
        self._sent = 0
        self._waiting = {}

    # -- what a game does

    def shout(self):
        """Look for servers: a broadcast that nobody answers."""
        if self.address is not None:
            self._send_game(IPv4Address("255.255.255.255"), EVERYBODY, 0)

    async def asks(self, target):
        """Whether the host with this address answers a question within ``PATIENCE``."""
        with trio.move_on_after(PATIENCE):
            mac = await self._resolve(target)
            if mac is None or self.address is None:
                return False
            answered = trio.Event()
            number = self._sent + 1
            self._waiting[number] = answered
            try:
                self._send_game(target, mac, 1)
                await answered.wait()
            finally:
                del self._waiting[number]
            return True
        return False

    def tell(self, target):
        """A packet of a game in progress, if the way is known."""
        mac = self._neighbours.get(target)
        if mac is not None and self.address is not None:
            self._send_game(target, mac, 0)

    @property
    def neighbours(self):
        return tuple(self._neighbours)

    def forget_neighbours(self):
        self._neighbours.clear()

    async def _resolve(self, target):
        if target not in self._neighbours and self.address is not None:
            self._send(arp(1, self.mac, self.address, None, target))
            for _ in range(10):
                await trio.sleep(PATIENCE / 20)
                if target in self._neighbours:
                    break
        return self._neighbours.get(target)

    def _send_game(self, target, mac, kind, answers=0):
        self._sent += 1
        self.ledger.sent += 1
        stamp = _STAMP.pack(_MAGIC, self.room, self.number, self._sent, kind) + answers.to_bytes(4, "big")
        self._send(udp(self.address, target, self.mac, mac, GAME_PORT, GAME_PORT, stamp.ljust(60, b"\0")))

    def _send(self, frame):
        if self.segment is not None:
            self.segment.carry(self, [frame])

    # -- what the wire brings

    def deliver(self, frames):
        for frame in frames:
            if frame[:6] in (self.mac, EVERYBODY):
                self._take(frame)

    def _take(self, frame):
        kind = frame[12:14]
        if kind == b"\x08\x06":
            self._take_arp(frame)
        elif kind == b"\x08\x00" and frame[23] == 17:
            source, target = struct.unpack_from("!HH", frame, 34)
            if target == GAME_PORT:
                self._take_game(frame)
            else:
                self.take_dhcp(frame, source, target)

    def _take_arp(self, frame):
        operation = int.from_bytes(frame[20:22], "big")
        sender, target = IPv4Address(frame[28:32]), IPv4Address(frame[38:42])
        if operation == 2 or target == self.address:
            self._neighbours[sender] = frame[22:28]
        if operation == 1 and target == self.address:
            self._send(arp(2, self.mac, self.address, frame[22:28], sender))

    def _take_game(self, frame):
        magic, room, sender, number, kind = _STAMP.unpack_from(frame, 42)
        assert magic == _MAGIC
        self.ledger.heard += 1
        what = f"{self.name} heard {number} of {sender} in room {room}"
        if room != self.room:
            self.ledger.astray.append(what)
        if not self._heard.setdefault((room, sender), Window()).is_new(number):
            self.ledger.twice.append(what)
        if kind == 1 and self.address is not None and frame[30:34] == self.address.packed:
            self._send_game(IPv4Address(frame[26:30]), frame[6:12], 2, number)
        elif kind == 2:
            waiting = self._waiting.get(int.from_bytes(frame[42 + _STAMP.size :][:4], "big"))
            if waiting is not None:
                waiting.set()

    def take_dhcp(self, frame, source_port, target_port):
        """Not every host cares."""


class Server(Host):
    """The house's DHCP server, which also plays."""

    def __init__(self, room, ledger):
        super().__init__(f"house {room}", SERVER_MAC, room, 255, ledger, address=SERVER)
        network = IPv4Interface(f"{SERVER}/24")
        self.book = LeaseBook(network, IPv4Address("192.168.77.100"), IPv4Address("192.168.77.199"), LEASE)

    def take_dhcp(self, frame, source_port, target_port):
        if target_port == 67:
            answer = self.book.answer_untrusted(frame[42:], trio.current_time())
            if answer is not None:
                everybody = IPv4Address("255.255.255.255")
                self._send(udp(SERVER, everybody, self.mac, EVERYBODY, 67, 68, answer))


class Computer(Host):
    """A player's: gets its address from the house's server."""

    def __init__(self, name, mac, room, number, ledger):
        super().__init__(name, mac, room, number, ledger)
        self.nak = False
        self._offer = None
        self._transaction = 0
        self.confirmed = trio.Event()

    def ask_for_address(self):
        """DISCOVER, or a REQUEST for the address that it had."""
        self.confirmed = trio.Event()
        self._transaction += 1
        if self.address is None:
            self._offer = None
            self._dhcp(DISCOVER)
        else:
            self._dhcp(REQUEST, requested=self.address)

    def renew(self):
        self.confirmed = trio.Event()
        self._transaction += 1
        self._dhcp(REQUEST, source=self.address)

    def release(self):
        if self.address is not None:
            self._dhcp(RELEASE, source=self.address)
            self.address = None

    def take_dhcp(self, frame, source_port, target_port):
        packet = frame[42:]
        if target_port != 68 or packet[28:34] != self.mac or packet[4:8] != self._transaction.to_bytes(4, "big"):
            return
        kind, yours = packet[242], IPv4Address(packet[16:20])
        if kind == OFFER and self._offer is None:
            self._offer = yours
            self._dhcp(REQUEST, requested=yours, server=SERVER)
        elif kind == ACK:
            self.address = yours
            self.confirmed.set()
        elif kind == NAK:
            self.address = None
            self.confirmed.set()

    def _dhcp(self, kind, *, source=None, requested=None, server=None):
        source = source or IPv4Address(0)
        header = b"\x01\x01\x06\x00" + self._transaction.to_bytes(4, "big") + bytes(4) + source.packed + bytes(12)
        header = (header + self.mac).ljust(236, b"\0") + b"\x63\x82\x53\x63"
        options = bytes((53, 1, kind))
        if requested is not None:
            options += bytes((50, 4)) + requested.packed
        if server is not None or kind == RELEASE:
            options += bytes((54, 4)) + SERVER.packed
        packet = (header + options + b"\xff").ljust(300, b"\0")
        target, mac = (SERVER, SERVER_MAC) if int(source) else (IPv4Address("255.255.255.255"), EVERYBODY)
        self._send(udp(source, target, self.mac, mac, 68, 67, packet))
