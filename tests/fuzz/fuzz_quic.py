"""Fuzz targets for lanparty.quic: strangers at the relay, packets, frames, and live connections of a hostile peer.

A live connection is made anew for each input, so that an input always means the same. Its handshake takes 5 ms, hence
these are the slow targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

from aioquic import tls
from aioquic.buffer import encode_uint_var
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fuzz_input import Input, chunk, chunks
from quic_packets import client_hello_frame, initial
from quic_world import SERVER, SimClient, World, identity, trust

from lanparty.obs.log import captured
from lanparty.quic.codec import (
    AckFrame,
    PacketKeys,
    aes_mask,
    encode_ack,
    frames_untrusted,
    open_untrusted,
    pack_datagrams,
    seal,
)
from lanparty.quic.connection import Connection, Received, UdpPath
from lanparty.quic.engine import Engine
from lanparty.quic.internals import Quic, parse_header_untrusted, server_configuration
from lanparty.quic.settings import CONTROL_WINDOW, CRYPTO_LIMIT
from lanparty.quic.table import ConnectionTable, EndpointLimits

CLIENT = ("192.0.2.1", 5000)
ELSEWHERE = ("198.18.0.9", 77)


# -- strangers ---------------------------------------------------------------------------------------------------------

_LIMITS = EndpointLimits(connections=6, connections_per_address=4, half_open=4, retry_above=3)


class _Door:
    """A relay's table whose answers are weighed: at most three times what an unproven address has sent."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.came: Counter[UdpPath] = Counter()
        self.went: Counter[UdpPath] = Counter()
        self.accepted: list[Connection] = []
        self.table = ConnectionTable(
            configuration=_relay_configuration(),
            limits=_LIMITS,
            on_connection=self.accepted.append,
            now=lambda: self.now,
            transmit=self._transmit,
            local_address=lambda path: SERVER,
            random_bytes=lambda count: b"retrytoken"[:count],
        )

    def _transmit(self, path: UdpPath, packets: list[bytes]) -> None:
        self.went[path] += sum(map(len, packets))
        assert self.went[path] <= 3 * self.came[path], "amplification (RFC 9000 section 8.1)"

    def knock(self, path: UdpPath, packet: bytes) -> None:
        self.came[path] += len(packet)
        self.table.sender_of_untrusted(packet)
        self.table.receive_untrusted([Received(path, [packet])], self.now)
        table = self.table
        assert table.half_open <= _LIMITS.half_open
        assert len(table.connections) <= _LIMITS.connections


def _relay_configuration() -> object:
    global _configuration  # certificates are parsed once, as by a relay
    if _configuration is None:
        _configuration = server_configuration(identity())
    return _configuration


_configuration: object = None


def strangers(data: bytes) -> None:
    """Packets of anybody at the relay's door: raw ones, and Initials that are well sealed around any frames."""
    source = Input(data)
    door = _Door()
    paths = [UdpPath((f"192.0.2.{host}", 4000)) for host in range(1, 5)] + [UdpPath(("2001:db8::1", 4000))]
    with captured():
        while source:
            action = source.byte()
            path = paths[(action >> 3) % len(paths)]
            body = source.chunk()[:1160]
            match action & 7:
                case 0 | 1:
                    door.knock(path, body)
                case 2:
                    door.knock(path, body.ljust(1200, b"\0"))
                case 3:
                    door.now += (action >> 3) / 8
                    door.table.handle_timers(door.now)
                case 4:  # with a token that is right
                    header = parse_header_untrusted(initial(b"", b"original"))
                    token = door.table._tokens.make(path.remote, header.destination_cid, b"retrytok", door.now)
                    door.knock(path, initial(body[:1000], b"retrytok", token=token))
                case 5:
                    door.knock(path, initial(body[8:], body[:8].ljust(8, b"\0"), token=body[8:20]))
                case _:
                    door.knock(path, initial(body[1:], b"to-relay" + body[:1]))
        for _ in range(40):
            door.now += 0.5
            door.table.handle_timers(door.now)
    counters = door.table.counters
    assert counters["hostile_input"] == 0
    assert counters["internal_error"] == 0
    assert not door.table.connections, "somebody is kept for longer than any deadline"
    assert not door.table._by_id
    assert not door.table._per_address


def strangers_seeds() -> Iterator[bytes]:
    hello = client_hello_frame()
    yield b"\x06" + chunk(b"a" + hello)
    yield b"\x06" + chunk(b"a" + hello) + b"\x0e" + chunk(b"b" + hello) + b"\x1b\0\0" + b"\x06" + chunk(b"c" + hello)
    yield b"".join(bytes((0x06 + 8 * host,)) + chunk(bytes((65 + host,)) + hello) for host in range(5))
    yield b"\x04" + chunk(hello)
    yield b"\x05" + chunk(b"original" + b"notatoken123" + hello)
    yield b"\x02" + chunk(b"\xc1\xff\0\0\1\x08original\x04from")
    yield b"\x02" + chunk(b"\xc1\0\0\0\0\x08original\x04from\0\0\0\1")
    yield b"\x02" + chunk(b"\xe1\0\0\0\1\x08original\x04from")
    yield b"\x00" + chunk(b"\x41original" + bytes(30))
    yield b"\x06" + chunk(b"a" + hello[:40]) + b"\x06" + chunk(b"a\x06\x40\x24\x40\x10" + hello[40:56])
    yield b"\x06" + chunk(b"a\x02\0\0\0\0\x1c\0\0\0\x01\x06\0\1x")


# -- packets and frames ------------------------------------------------------------------------------------------------


def _keys() -> PacketKeys:
    encryptor = Cipher(algorithms.AES(bytes(16)), modes.ECB()).encryptor()
    return PacketKeys(aead=AESGCM(bytes(range(16))), iv=7, mask=aes_mask(encryptor), phase=0)


def packets(data: bytes) -> None:
    """Sealed packets, then damaged: a batch opens to what its packets open to one by one, and nothing is invented."""
    source = Input(data)
    first = source.number(4)
    expected = first if source.byte() & 1 else source.number(4)
    payloads = []
    while source and len(payloads) < 40:
        head = source.byte()
        payloads += [source.chunk()[:200]] * (1 + (head & 15))
        if head & 0x80:
            break
    if not payloads:
        return
    sealed = seal(_keys(), b"recorder", False, first, payloads)
    intact = set(sealed)
    while source:
        at = source.byte() % len(sealed)
        place, mask = source.byte(), source.byte()
        packet = sealed[at]
        if mask == 0:
            sealed[at] = packet[:place]
        elif place < len(packet):
            sealed[at] = packet[:place] + bytes((packet[place] ^ mask,)) + packet[place + 1 :]
    keys = _keys()
    together = open_untrusted(keys, sealed, 8, expected)
    numbers, found, others, forged = [], [], [], 0
    for index, packet in enumerate(sealed):
        one = open_untrusted(keys, [packet], 8, expected)
        numbers += one.numbers
        found += one.payloads
        others += [index for _ in one.others]
        forged += one.forged
        expected = max([expected, *(number + 1 for number in one.numbers)])
    assert (together.numbers, together.payloads) == (numbers, found)
    assert (together.others, together.forged) == (others, forged)
    assert len(found) + len(others) + forged == len(sealed)
    assert len(found) <= sum(packet in intact for packet in sealed)


def packets_seeds() -> Iterator[bytes]:
    yield b"\0\0\0\5\1" + b"\x80" + chunk(b"hello, world")
    yield b"\0\0\0\5\1" + b"\x0f" + chunk(b"a game's frame") + b"\x80" + chunk(b"the last") + b"\0\x30\x01"
    yield b"\0\1\0\5\0\0\0\xff\xf0" + b"\x0c" + chunk(bytes(60)) + b"\x80" + chunk(b"x") + b"\3\0\4\4\x10\0"
    yield b"\0\0\0\0\1" + b"\x8b" + chunk(b"") + b"\0\0\4\1\0\x18\2\x0b\1"


def frames(data: bytes) -> None:
    """The payload of a packet: DATAGRAM, ACK and PADDING as they were written, or somebody else's to read."""
    datagrams: list[bytes] = []
    acks: list[AckFrame] = []
    verdict = frames_untrusted(data, datagrams, acks)
    if verdict < 0:
        assert not datagrams
        assert not acks
        return
    assert verdict == bool(datagrams)
    assert sum(map(len, datagrams)) + len(datagrams) + 4 * len(acks) <= len(data)
    for ack in acks:
        assert ack.ranges[0][1] == ack.largest
        last = ack.largest + 2
        for start, stop in ack.ranges:
            assert 0 <= start <= stop <= last - 2
            last = start
        again: list[AckFrame] = []
        ascending = [range(start, stop + 1) for start, stop in reversed(ack.ranges)]
        written = encode_ack(ascending, ack.delay, len(data) + 8)
        assert frames_untrusted(written, [], again) == 0
        assert again == [ack]
    back: list[bytes] = []
    for payload in pack_datagrams(datagrams, len(data) + 8):
        assert frames_untrusted(payload, back, []) == 1
    assert back == datagrams


def frames_seeds() -> Iterator[bytes]:
    yield from _payloads()


def _payloads() -> Iterator[bytes]:
    number = encode_uint_var
    yield b"\x31\x05hello\x31\x40\x46" + bytes(70)
    yield b"\x31\x00\x30rest of it"
    yield b"\x02" + number(70) + number(100) + b"\x02\x03" + b"\x01\x02\x00\x04" + b"\x31\x01x"
    yield b"\x03" + number(20_000) + number(2**30) + b"\x00\x05" + b"\1\2\3" + bytes(5)
    yield b"\x02" + number(2**62 - 1) + b"\0\0\0"


# -- live connections --------------------------------------------------------------------------------------------------


class _Victim:
    """A connection whose peer seals what it likes with its own, real keys."""

    def __init__(self, *, at_relay: bool, batched: bool) -> None:
        self.world = World()
        client, server = self.world.pair()
        self.world.run(0.3)
        quic = self.world.clients[CLIENT].quic
        self.peer, self.connection = (quic, server) if at_relay else (server._quic, client)
        self.engine: Engine = self.world.table if at_relay else self.world.clients[CLIENT]
        self.home = UdpPath(CLIENT if at_relay else SERVER)
        self.at_relay = at_relay
        self.connection._quic._batched = batched
        self.world.link = lambda _seen: ()
        self.connection.send_datagrams([bytes(1100)] * 8)
        self.connection.flush()

    def hear(self, payloads: Sequence[bytes], path: UdpPath, *, skip: int = 0) -> None:
        peer = self.peer
        number = peer._packet_number + skip
        peer._packet_number = number + len(payloads)
        packets = seal(peer._key_store.send(), peer._peer_cid.cid, False, number, payloads)
        self.engine.receive_untrusted([Received(path, packets)], self.world.now)
        self.check()

    def check(self) -> None:
        quic = self.connection._quic
        counters = self.engine.counters
        assert counters["internal_error"] == 0
        # At a client one exception of aioquic's is known, about certificates; none after the handshake.
        assert counters["hostile_input"] == 0
        flight = quic._recovery.flight
        assert flight.packets >= 0
        assert flight.bytes >= 0
        for name, size, most in held(self.connection):
            assert size <= most, f"{name}: {size}, more than {most}"


def held(connection: Connection) -> Iterator[tuple[str, int, int]]:
    """What a connection keeps because of its peer: name, how much, and how much at most (``docs/bounds.md``)."""
    quic = connection._quic
    yield "acknowledged ranges", len(quic._space.ack_queue), 257
    yield "network paths", len(quic._network_paths), 8
    yield "path challenges", max((len(path.remote_challenges) for path in quic._network_paths), default=0), 32
    yield "own connection ids", len(quic._host_cids), 8
    yield "routed connection ids", len(connection.connection_ids), 10
    yield "peer's connection ids", len(quic._peer_cid_available), 8
    yield "ids to retire", len(quic._retire_connection_ids), 101
    yield "streams", len(quic._streams), 1
    yield "control bytes unread", len(connection._control_in), CONTROL_WINDOW
    for stream in quic._streams.values():
        yield "stream bytes", len(stream.receiver._buffer), CONTROL_WINDOW
        yield "stream gaps", len(stream.receiver._ranges), 257
    yield "late handshake bytes", len(quic._late_crypto.receiver._buffer), CRYPTO_LIMIT
    yield "late handshake gaps", len(quic._late_crypto.receiver._ranges), 257
    yield "events", len(quic._events), 64


def _live(data: bytes, *, at_relay: bool) -> None:
    source = Input(data)
    head = source.byte()
    with captured():
        victim = _Victim(at_relay=at_relay, batched=not head & 1)
        world = victim.world
        while source and victim.connection.closed is None:
            action = source.byte()
            payloads = [source.chunk()[:1100] or b"\x01" for _ in range(1 + (action & 3))]
            path = UdpPath(ELSEWHERE) if action & 4 else victim.home
            if action & 8:
                payloads = [payload for payload in payloads for _ in range(12)]
            victim.hear(payloads, path, skip=(action >> 4 & 3) * 40)
            if action & 0x40:
                world.run(source.byte() / 100)
                victim.check()
            if action & 0x80:
                victim.connection.send_datagrams([bytes(source.byte())] * 3)
                victim.connection.flush()
                victim.check()
        world.run(0.1)
        victim.check()


def member(data: bytes) -> None:
    """The relay's end of an admitted member's connection, fed with any frames behind valid packet protection."""
    _live(data, at_relay=True)


def relay(data: bytes) -> None:
    """A client's end, when the relay is the hostile one."""
    _live(data, at_relay=False)


def _live_seeds() -> Iterator[bytes]:
    number = encode_uint_var
    ordinary = list(_payloads())[:3]
    others = [
        b"\x08\x00stream",
        b"\x0e\x00" + number(100) + b"\x04data" + b"\x0f\x00\x00\x02ab",
        b"\x04\x00\x00\x05" + b"\x05\x00\x00",
        b"\x06" + number(0) + b"\x04\x04\0\0\0",
        b"\x07\x04abcd",
        b"\x10\x44\x00\x11\x00\x44\x00\x12\x08\x13\x08",
        b"\x14\x05\x15\x00\x05\x16\x05\x17\x05",
        b"\x18\x02\x01\x08newcid12" + bytes(16),
        b"\x19\x01",
        b"\x1a12345678\x1b12345678",
        b"\x1c\x0a\x00\x03bye",
        b"\x1d\x00\x04bye!",
        b"\x1e",
        b"\x01" + bytes(20),
    ]
    for payload in (*ordinary, *others):
        yield b"\0\0" + chunk(payload)
        yield b"\1\xc4" + chunk(payload) + b"\x20\x05"
    yield (
        b"\0\x03"
        + chunks(*ordinary, b"\x01")
        + b"\x2b"
        + chunks(*ordinary, b"\x31\x01x")
        + b"\xc0"
        + chunk(b"\x01")
        + b"\x64\x20"
    )


member_seeds = relay_seeds = _live_seeds


# -- handshake of a hostile relay --------------------------------------------------------------------------------------


def handshake(data: bytes) -> None:
    """A client in the handshake with a relay whose TLS messages are changed: it may fail, but only that connection."""
    source = Input(data)
    edits: list[tuple[int, int, int, bytes]] = []
    while source:
        edits.append((source.byte() % 6, source.number(2), source.byte(), source.chunk()[:64]))
    push = _pushing(edits)
    with captured(), mock.patch.object(Quic, "_push_crypto_data", push):
        world = World(_LIMITS)
        client: SimClient = world.client()
        world.run(0.2)
        world.run(11.0)
    assert client.counters["internal_error"] == 0
    assert client.counters["hostile_input"] <= 1
    assert world.table.counters["internal_error"] == 0
    assert world.table.counters["hostile_input"] == 0
    assert not client.counters["hostile_input"] or client.connection.closed is not None


def _pushing(edits: list[tuple[int, int, int, bytes]]) -> Callable[[Quic], None]:
    """``_push_crypto_data`` that changes a server's messages: which, from where on, how many bytes, new ones."""

    def push(quic: Quic) -> None:
        index = 0
        for epoch, buffer in quic._crypto_buffers.items():
            data, out = buffer.data, b""
            buffer.seek(0)
            while data:
                size = int.from_bytes(data[1:4])
                kind, body, data = data[:1], bytearray(data[4 : 4 + size]), data[4 + size :]
                for which, start, count, new in edits:
                    if not quic._is_client and which == index:
                        body[start : start + count] = new
                out += kind + len(body).to_bytes(3) + body
                index += epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE)
            quic._crypto_streams[epoch].sender.write(out)

    return push


def handshake_seeds() -> Iterator[bytes]:
    trust()
    yield b""
    for which in range(6):
        for place in (0, 1, 2, 34, 38, 60):
            yield bytes((which, 0, place, 1)) + chunk(b"\xff")
    yield b"\2\0\7\0" + chunk(b"abc") + b"\0\0\x26\2" + chunk(b"\0\1")
