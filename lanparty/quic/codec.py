"""1-RTT packets and their DATAGRAM and ACK frames, in batches: the part of QUIC that is paid for every packet.

Owns: packet protection of short headers (RFC 9001 section 5), truncated packet numbers (RFC 9000 appendix A.3), the
frames DATAGRAM (RFC 9221), ACK and PADDING (RFC 9000 section 19). Must not know: connections, which keys come next,
loss, sockets, time. Whatever else a packet holds is handed back, and takes aioquic's path.

A packet on the wire (RFC 9000 section 17.3.1), with the connection id's length known to both ends::

    byte 0      0 1 S R R K P P    S spin, R reserved (0), K key phase, P length of the packet number - 1
                                   the low five bits are masked
    1 ...       destination connection id
    then 1-4    packet number, its low bytes; masked. We send 2
    then ...    AES-GCM or ChaCha20-Poly1305 of the payload, tag of 16 bytes last; everything before is authenticated
    sample      16 bytes, from 4 bytes after where the packet number starts (RFC 9001 section 5.4.2)

The path of a batch out: frames are packed (``pack_datagrams``), sealed with one AEAD call each, then one AES call makes
the masks of all headers, and the headers of up to 256 packets are masked as one number. The path in
(``open_untrusted``) is the same backwards; ``frames_untrusted`` then takes a payload apart. A batch with a packet out
of the ordinary is opened packet by packet, as are small ones.

What was measured, µs per packet of 1450 bytes (100 bytes), AES-128-GCM, batches of 40, CPython 3.11, cryptography 50
(``python -m lanparty.quic.bench_codec``; absolute figures move with the machine, the order does not):

- the AEAD calls alone 0.88 (0.65), called one by one; through ``map`` 0.79 (0.54).
- seal: packet by packet 1.61 (1.30); ``map``, but headers one by one with ``Struct.pack`` 1.36 (1.03); headers masked
  as one number 1.26 (0.96). From nonce to packet with nothing but ``map`` 1.47 (1.18).
- open: packet by packet 1.98 (1.64), headers as one number 1.44 (1.17).
- ``encrypt_into`` a bytearray for the batch loses: the call is 0.02 quicker, but the slice of a memoryview that it
  writes to costs 0.13, and the copy to ``bytes`` 0.10. The same goes for ``decrypt_into``. A slice of ``bytes`` costs
  0.12 (0.07), and is what sockets and queues want.
- one AES-ECB call for 40 samples 0.22, for one 0.12; ChaCha20 has no such thing: 0.48 for each packet.
- frames, a payload: known first three bytes for each length of a lone DATAGRAM 0.24 (0.18), the general loop 0.35
  (0.27).
- packing, a datagram: ``+=`` on ``bytes`` 0.17 (0.14), a list and ``join`` 0.21 (0.13).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

__all__ = [
    "PACKET_OVERHEAD",
    "AckFrame",
    "Aead",
    "Mask",
    "Opened",
    "PacketKeys",
    "aes_mask",
    "chacha_mask",
    "datagram_overhead",
    "decode_number",
    "encode_ack",
    "frames_untrusted",
    "open_untrusted",
    "pack_datagrams",
    "seal",
]

Aead = AESGCM | ChaCha20Poly1305
Mask = Callable[[bytes], bytes]
"""Samples, 16 bytes each, to as many masks, 16 bytes each, of which the first five count (RFC 9001 section 5.4.1)."""

PACKET_OVERHEAD: Final = 1 + 2 + 16
"""Bytes that ``seal`` adds to a payload, without the connection id: first byte, packet number, tag."""

_MANY: Final = 10
"""Packets from which on masking the headers of a batch as one number is the quicker way, for AES (ChaCha20: 12). With 4
it costs a third more, with 40 a quarter less."""

_MAX_NUMBER: Final = (1 << 62) - 1
"""The last packet number (RFC 9000 section 12.3)."""

_NEAR: Final = 16000
"""How far from the expected packet number those of a batch may be for being decoded all with the same expectation: less
than half of half of 2^16, so that decoding each with what came before it in the batch gives the same numbers."""

_ACK: Final = 0x02
_ACK_ECN: Final = 0x03
_DATAGRAM: Final = 0x30
_DATAGRAM_WITH_LENGTH: Final = 0x31

_BYTES: Final = bytes(range(256))
_LOW_BYTES: Final = [bytes([value]) for value in _BYTES]
_FIRST_MASK: Final = bytes(value & 0x1F for value in _BYTES)
"""For ``translate``: what of a mask's first byte applies to a short header."""
_FIRST_BYTES: Final = {first: bytes(first ^ value for value in _FIRST_MASK) for first in (0x41, 0x45, 0x61, 0x65)}
"""For ``translate``: the first byte of a packet we send, masked, for each first byte of a mask."""
_ORDINARY: Final = (b"\x41\x61", b"\x45\x65")
"""For each key phase the first bytes that our own peer sends: 2-byte packet number, reserved bits 0."""


# -- packet protection -------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class PacketKeys:
    """The keys of one direction and one key phase."""

    aead: Aead
    iv: int
    """12 bytes, big-endian; combined with the packet number it is the nonce (RFC 9001 section 5.3)."""
    mask: Mask
    phase: int
    """0 or 1: the key phase bit of packets protected with these keys."""
    next_number: int = 0
    """The least packet number that ``seal`` accepts. Two packets under one number would give the keys away, so this
    only rises. Whoever seals with the same keys elsewhere may raise it too."""


def aes_mask(encryptor: Any) -> Mask:
    """Return the masks of an AES-ECB encryptor (``CipherContext`` of cryptography); one call serves a whole batch."""
    update: Mask = encryptor.update
    return update


def chacha_mask(encryptor: Any) -> Mask:
    """Return the masks of a ChaCha20 encryptor, whose nonce is set anew for each sample (RFC 9001 section 5.4.4)."""
    reset_nonce = encryptor.reset_nonce
    update: Mask = encryptor.update
    zeros = bytes(16)

    def mask(samples: bytes) -> bytes:
        if len(samples) == 16:
            reset_nonce(samples)
            return update(zeros)
        masks = []
        for at in range(0, len(samples), 16):
            reset_nonce(samples[at : at + 16])
            masks.append(update(zeros))
        return b"".join(masks)

    return mask


@cache
def _header_packer(connection_id_size: int) -> Callable[[int, bytes, int], bytes]:
    """Return what packs first byte, connection id, 2-byte packet number. Bounded: sizes are 0 to 20."""
    return struct.Struct(f">B{connection_id_size}sH").pack


def seal(
    keys: PacketKeys, connection_id: bytes, spin: bool, first_number: int, payloads: Sequence[bytes]
) -> list[bytes]:
    """Return 1-RTT packets with the numbers from ``first_number`` on, to ``connection_id``.

    Packet numbers take 2 bytes always: the caller keeps less than 2^15 numbers beyond the largest acknowledged one in
    use (RFC 9000 section 17.1). Payloads shorter than 2 bytes are filled up with PADDING, so that there is a sample.
    Raises ``ValueError`` when a number is not above all those sealed before with these keys, or above 2^62 - 1.
    """
    count = len(payloads)
    if not keys.next_number <= first_number <= _MAX_NUMBER + 1 - count:
        raise ValueError(f"packet numbers from {first_number} on were used or are not allowed")
    keys.next_number = first_number + count
    first = 0x41 | keys.phase << 2 | spin << 5
    if count < _MANY:
        return _seal_each(keys, first, connection_id, first_number, payloads)
    packets: list[bytes] = []
    done = 0
    while done < count:
        # Numbers of one block differ in the last byte only.
        stop = min(done + 256 - (first_number + done & 0xFF), count)
        block = _seal_block if stop - done >= _MANY else _seal_each
        packets += block(keys, first, connection_id, first_number + done, payloads[done:stop])
        done = stop
    return packets


def _seal_each(
    keys: PacketKeys, first: int, connection_id: bytes, number: int, payloads: Sequence[bytes]
) -> list[bytes]:
    encrypt, iv, mask = keys.aead.encrypt, keys.iv, keys.mask
    pack = _header_packer(len(connection_id))
    packets = []
    for payload in payloads:
        if len(payload) < 2:
            payload = payload.ljust(2, b"\0")
        low = number & 0xFFFF
        body = encrypt((iv ^ number).to_bytes(12, "big"), payload, pack(first, connection_id, low))
        masks = mask(body[2:18])
        packets.append(pack(first ^ masks[0] & 0x1F, connection_id, low ^ (masks[1] << 8 | masks[2])) + body)
        number += 1
    return packets


_sample: Final = itemgetter(slice(2, 18))  # of what comes after a 2-byte packet number


def _seal_block(
    keys: PacketKeys, first: int, connection_id: bytes, number: int, payloads: Sequence[bytes]
) -> list[bytes]:
    """Seal packets whose numbers differ in the last byte only."""
    count = len(payloads)
    if min(map(len, payloads)) < 2:
        payloads = [payload.ljust(2, b"\0") for payload in payloads]
    low = number & 0xFF
    stop = low + count
    high = _LOW_BYTES[number >> 8 & 0xFF]
    head = first.to_bytes(1, "big") + connection_id + high
    nonce = (keys.iv ^ number).to_bytes(12, "big")[:11]
    nonce_low = keys.iv & 0xFF
    bodies = list(
        map(
            keys.aead.encrypt,
            [nonce + _LOW_BYTES[value ^ nonce_low] for value in range(low, stop)],
            payloads,
            [head + value for value in _LOW_BYTES[low:stop]],
        )
    )
    masks = keys.mask(b"".join(map(_sample, bodies)))
    size = len(head) + 1
    headers = bytearray((head + b"\0") * count)
    headers[0::size] = masks[0::16].translate(_FIRST_BYTES[first])
    headers[size - 2 :: size] = _xor(masks[1::16], high * count)
    headers[size - 1 :: size] = _xor(masks[2::16], _BYTES[low:stop])
    return [header + body for (header,), body in zip(_cutter(size)(headers), bodies, strict=True)]


@cache
def _cutter(size: int) -> Callable[[bytes | bytearray], Any]:
    """Return what cuts a buffer into pieces of ``size`` bytes. Bounded: headers are 3 to 23 bytes."""
    return struct.Struct(f"{size}s").iter_unpack


def _xor(left: bytes, right: bytes | bytearray) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


@attrs.define(eq=False)
class Opened:
    """What became of a batch of packets. ``numbers`` and ``payloads`` go together, in the order of the input."""

    numbers: list[int]
    payloads: list[bytes]
    others: list[int]
    """Indices into the input of packets that are not for this path: long header, other key phase, too short."""
    forged: int
    """Packets dropped because the tag was wrong (RFC 9001 section 6.6: count them, the keys have a limit)."""
    reserved: bool
    """An authentic packet had a reserved bit set: the peer violates the protocol (RFC 9000 section 17.3.1)."""
    largest: int
    """The largest of ``numbers``; -1 when there is none."""
    top_first_byte: int
    """The unprotected first byte of the packet with the largest number, for the spin bit; 0 when there is none."""


def decode_number(truncated: int, size: int, expected: int) -> int:
    """Return the packet number nearest to ``expected`` with the low ``size`` bytes ``truncated`` (RFC 9000 A.3)."""
    window = 1 << 8 * size
    lowest = expected + 1 - (window >> 1)
    number = lowest + (truncated - lowest & window - 1)
    if number < 0:
        return number + window
    if number > _MAX_NUMBER:
        return number - window
    return number


def open_untrusted(keys: PacketKeys, packets: Sequence[bytes], connection_id_size: int, expected: int) -> Opened:
    """Open 1-RTT packets, each a whole UDP payload, to connection ids of one size.

    ``expected`` is the largest packet number so far plus one; within the batch it moves on. Duplicates are the caller's
    matter. Never raises.
    """
    count = len(packets)
    opened = None
    if count == 1:
        opened = _open_lone_untrusted(keys, packets[0], connection_id_size, expected)
    elif count >= _MANY:
        opened = _open_block_untrusted(keys, packets, connection_id_size, expected)
    return opened or _open_each_untrusted(keys, packets, connection_id_size, expected)


def _open_lone_untrusted(keys: PacketKeys, packet: bytes, connection_id_size: int, expected: int) -> Opened | None:
    """Open a packet that is as our own peer sends them; None when it is not. A game's packets come alone."""
    size = connection_id_size + 3
    sample = packet[size + 2 : size + 18]
    if len(sample) != 16:
        return None
    masks = keys.mask(sample)
    mask = (masks[0] & 0x1F) << 8 * size - 8 | masks[1] << 8 | masks[2]
    head = int.from_bytes(packet[:size], "big") ^ mask
    header = head.to_bytes(size, "big")
    lowest = expected - 0x7FFF
    number = lowest + (head - lowest & 0xFFFF)
    if header[0] not in _ORDINARY[keys.phase] or not 0 <= number <= _MAX_NUMBER:
        return None
    try:
        payload = keys.aead.decrypt((keys.iv ^ number).to_bytes(12, "big"), packet[size:], header)
    except InvalidTag:
        return Opened([], [], [], 1, False, -1, 0)
    return Opened([number], [payload], [], 0, False, number, header[0])


def _open_each_untrusted(keys: PacketKeys, packets: Sequence[bytes], connection_id_size: int, expected: int) -> Opened:
    decrypt, iv, mask = keys.aead.decrypt, keys.iv, keys.mask
    phase = keys.phase << 2
    number_at = 1 + connection_id_size
    body_at = number_at + 2
    sample_at = number_at + 4
    shortest = sample_at + 16
    pack = _header_packer(connection_id_size)
    numbers: list[int] = []
    payloads: list[bytes] = []
    others: list[int] = []
    forged = reserved = top_first_byte = 0
    largest = -1
    for index, packet in enumerate(packets):
        if len(packet) < shortest or packet[0] & 0xC0 != 0x40:
            others.append(index)
            continue
        masks = mask(packet[sample_at:shortest])
        first = packet[0] ^ masks[0] & 0x1F
        if first & 4 != phase:
            others.append(index)
            continue
        if first & 3 == 1:  # 2 bytes, as our own peer sends them: the general way would do, and is slower
            truncated = (packet[number_at] ^ masks[1]) << 8 | packet[number_at + 1] ^ masks[2]
            number = expected - 0x7FFF + (truncated - expected + 0x7FFF & 0xFFFF)
            if not 0 <= number <= _MAX_NUMBER:
                number = decode_number(truncated, 2, expected)
            header = pack(first, packet[1:number_at], truncated)
            body = packet[body_at:]
        else:
            size = (first & 3) + 1
            body = packet[number_at + size :]
            truncated = int.from_bytes(_xor(packet[number_at : number_at + size], masks[1 : size + 1]), "big")
            number = decode_number(truncated, size, expected)
            header = first.to_bytes(1, "big") + packet[1:number_at] + truncated.to_bytes(size, "big")
        try:
            payload = decrypt((iv ^ number).to_bytes(12, "big"), body, header)
        except InvalidTag:
            forged += 1
            continue
        numbers.append(number)
        payloads.append(payload)
        reserved |= first & 0x18
        if number > largest:
            largest = number
            top_first_byte = first
            if number >= expected:
                expected = number + 1
    return Opened(numbers, payloads, others, forged, reserved != 0, largest, top_first_byte)


def _open_block_untrusted(
    keys: PacketKeys, packets: Sequence[bytes], connection_id_size: int, expected: int
) -> Opened | None:
    """Open packets that are all as our own peer sends them and near ``expected``; None when one is not."""
    count = len(packets)
    size = connection_id_size + 3
    samples = b"".join(map(itemgetter(slice(size + 2, size + 18)), packets))
    heads = b"".join(map(itemgetter(slice(0, size)), packets))
    if len(samples) != 16 * count:
        return None
    masks = keys.mask(samples)
    mask = bytearray(size * count)
    mask[0::size] = masks[0::16].translate(_FIRST_MASK)
    mask[size - 2 :: size] = masks[1::16]
    mask[size - 1 :: size] = masks[2::16]
    heads = _xor(heads, mask)
    firsts = heads[0::size]
    if firsts.translate(None, _ORDINARY[keys.phase]):
        return None
    lowest = expected + 1 - 0x8000
    numbers = [lowest + (number - lowest & 0xFFFF) for (number,) in _number_cutter(size)(heads)]
    largest = max(numbers)
    if min(numbers) < max(expected - _NEAR, 0) or largest > min(expected + _NEAR, _MAX_NUMBER):
        return None
    iv = keys.iv
    opening = map(
        keys.aead.decrypt,
        [(iv ^ number).to_bytes(12, "big") for number in numbers],
        map(itemgetter(slice(size, None)), packets),
        [heads[at : at + size] for at in range(0, size * count, size)],
    )
    payloads: list[bytes] = []
    forged: set[int] = set()
    while True:
        try:
            payloads.extend(opening)  # keeps what came before an exception, and the map goes on after it
            break
        except InvalidTag:
            forged.add(len(payloads) + len(forged))
    if forged:
        numbers = [number for index, number in enumerate(numbers) if index not in forged]
        firsts = bytes(first for index, first in enumerate(firsts) if index not in forged)
        largest = max(numbers, default=-1)
    top = firsts[numbers.index(largest)] if numbers else 0
    return Opened(numbers, payloads, [], len(forged), False, largest, top)


@cache
def _number_cutter(size: int) -> Callable[[bytes], Any]:
    """Return what yields the last two bytes of each header of ``size`` bytes, as numbers."""
    return struct.Struct(f">{size - 2}xH").iter_unpack


# -- frames ------------------------------------------------------------------------------------------------------------

_KNOWN: Final = 2048
"""Datagrams shorter than this have their frame's head ready made: all that fit a packet on 1500-byte links."""

_PLAIN_ACK: Final = struct.Struct(">IHBH")
"""What an ACK of one range has behind its type: largest number, delay, no more ranges, length. Integers may be longer
than they need be (RFC 9000 section 16), so that one call writes, or reads, all of them: a fifth of the price, for 2 or
3 bytes more in a packet that has room."""
_PLAIN_ACK_SIZE: Final = _PLAIN_ACK.size
_unpack_plain_ack: Final = _PLAIN_ACK.unpack_from
_pack_plain_ack: Final = struct.Struct(">B" + _PLAIN_ACK.format[1:]).pack

_pack_2: Final = struct.Struct(">H").pack
_pack_4: Final = struct.Struct(">I").pack
_pack_8: Final = struct.Struct(">Q").pack


def _encode_integer(value: int) -> bytes:
    """Encode a variable-length integer (RFC 9000 section 16). Raises ``struct.error`` outside 0 to 2^62 - 1."""
    if value < 0x40:
        return _LOW_BYTES[value]
    if value < 0x4000:
        return _pack_2(value | 0x4000)
    if value < 0x4000_0000:
        return _pack_4(value | 0x8000_0000)
    return _pack_8(value + (0xC0 << 56))


def _encode_head(length: int) -> bytes:
    return _LOW_BYTES[_DATAGRAM_WITH_LENGTH] + _encode_integer(length)


_HEADS: Final = [_encode_head(length) for length in range(_KNOWN)]
_LONE_HEADS: Final = {length + len(head): head for length, head in enumerate(_HEADS) if length >= 0x40}
"""By the length of the payload: how it starts when it is one DATAGRAM with a 2-byte length and nothing else."""


def datagram_overhead(length: int) -> int:
    """Return the bytes that a DATAGRAM frame adds to ``length`` bytes: 2 below 64, 3 below 16384, else 5."""
    return 2 if length < 0x40 else 3 if length < 0x4000 else 5


def pack_datagrams(datagrams: Sequence[bytes], room: int, first_room: int | None = None) -> list[bytes]:
    """Pack datagrams into payloads of at most ``room`` bytes, in order: one that does not fit starts the next payload.

    The first payload has ``first_room`` bytes, less than ``room`` where something else goes in front; it is empty when
    the first datagram does not fit it. No datagrams, no payloads. Raises ``ValueError`` when one does not fit ``room``.
    """
    if not datagrams:
        return []
    payloads: list[bytes] = []
    payload = b""
    left = room if first_room is None else first_room
    for datagram in datagrams:
        length = len(datagram)
        frame = (_HEADS[length] if length < _KNOWN else _encode_head(length)) + datagram
        size = len(frame)
        if size <= left:
            payload += frame
            left -= size
            continue
        if payload or first_room is not None:
            payloads.append(payload)
        first_room = None
        payload = frame
        left = room - size
        if left < 0:
            raise ValueError(f"a datagram of {length} bytes does not fit {room} bytes")
    payloads.append(payload)
    return payloads


@attrs.define
class AckFrame:
    """An ACK frame; ECN counts are checked for being there, and left out (RFC 9000 section 19.3)."""

    largest: int
    delay: int
    """As encoded: in units of 2^ack_delay_exponent microseconds."""
    ranges: list[tuple[int, int]]
    """First and last packet number, both inclusive, of each range; the newest range first."""


def frames_untrusted(payload: bytes, datagrams: list[bytes], acks: list[AckFrame]) -> int:
    """Take a payload of DATAGRAM, ACK and PADDING frames apart; what it holds is appended to the lists.

    Returns 1 when the packet is ack-eliciting (has a DATAGRAM), 0 when not, and -1 with nothing appended when it is
    empty, malformed, or has any other frame. Never raises.
    """
    size = len(payload)
    if payload[:3] == _LONE_HEADS.get(size):
        datagrams.append(payload[3:])
        return 1
    if not size:
        return -1
    datagrams_before, acks_before = len(datagrams), len(acks)
    try:
        return _frames(payload, size, datagrams, acks)
    except (IndexError, _MalformedError):
        del datagrams[datagrams_before:]
        del acks[acks_before:]
        return -1


class _MalformedError(Exception):
    """A frame that is no DATAGRAM, ACK or PADDING, or not a proper one."""


def _frames(payload: bytes, size: int, datagrams: list[bytes], acks: list[AckFrame]) -> int:
    """Raises ``IndexError`` where the payload ends too early."""
    eliciting = at = 0
    while at < size:
        kind = payload[at]
        at += 1
        if kind == _DATAGRAM_WITH_LENGTH:
            length = payload[at]
            if length < 0x40:
                at += 1
            elif length < 0x80:
                length = (length & 0x3F) << 8 | payload[at + 1]
                at += 2
            else:
                length, at = _pull_integer(payload, at)
            start = at
            at += length
            if at > size:
                raise _MalformedError
            datagrams.append(payload[start:at])
            eliciting = 1
        elif kind in (_ACK, _ACK_ECN):
            ack, at = _pull_ack(payload, at)
            if kind == _ACK_ECN:
                for _count in range(3):
                    _value, at = _pull_integer(payload, at)
            acks.append(ack)
        elif kind == 0:
            if at < size and payload[at] == 0:  # a run of PADDING: skipped at once
                at = size - len(payload[at:].lstrip(b"\0"))
        elif kind == _DATAGRAM:
            datagrams.append(payload[at:])
            return 1
        else:
            raise _MalformedError
    return eliciting


def _pull_integer(payload: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length integer at ``at`` (RFC 9000 section 16) and where it ends. Raises ``IndexError``."""
    first = payload[at]
    if first < 0x40:
        return first, at + 1
    end = at + (1 << (first >> 6))
    if end > len(payload):
        raise IndexError(end)
    return int.from_bytes(payload[at:end], "big") & (1 << 8 * (end - at) - 2) - 1, end


def _pull_ack(payload: bytes, at: int) -> tuple[AckFrame, int]:
    """Return the ACK frame whose type ends at ``at``, and where it ends. Raises ``IndexError``, ``_MalformedError``."""
    if len(payload) - at == _PLAIN_ACK_SIZE:
        largest, delay, count, length = _unpack_plain_ack(payload, at)
        if largest >> 30 == 2 and delay >> 14 == 1 and not count and length >> 14 == 1:
            largest &= 0x3FFF_FFFF
            first = largest - (length & 0x3FFF)
            if first < 0:
                raise _MalformedError
            return AckFrame(largest, delay & 0x3FFF, [(first, largest)]), len(payload)
    largest, at = _pull_integer(payload, at)
    delay, at = _pull_integer(payload, at)
    count, at = _pull_integer(payload, at)
    length, at = _pull_integer(payload, at)
    first = largest - length
    ranges = [(first, largest)]
    while count > 0 and first >= 0:  # a count that is a lie ends with the payload: each range takes 2 bytes
        gap, at = _pull_integer(payload, at)
        length, at = _pull_integer(payload, at)
        last = first - gap - 2
        first = last - length
        ranges.append((first, last))
        count -= 1
    if first < 0:
        raise _MalformedError
    return AckFrame(largest, delay, ranges), at


def encode_ack(ranges: Sequence[range], delay: int, room: int) -> bytes:
    """Return an ACK frame of at most ``room`` bytes for ``ranges`` of packet numbers (ascending, apart, none empty).

    ``delay`` is in units of 2^ack_delay_exponent microseconds. As many ranges as fit are kept, the newest ones; when
    not even the newest fits, or there is none, the frame is empty.
    """
    index = len(ranges) - 1
    if index < 0:
        return b""
    newest = ranges[index]
    start = newest.start
    largest = newest.stop - 1
    if not index and largest < 0x4000_0000 and delay < 0x4000 and largest - start < 0x4000 and room > _PLAIN_ACK_SIZE:
        return _pack_plain_ack(_ACK, largest | 0x8000_0000, delay | 0x4000, 0, largest - start | 0x4000)
    head = _LOW_BYTES[_ACK] + _encode_integer(largest) + _encode_integer(delay)
    blocks = [_encode_integer(largest - start)]
    left = room - len(head) - 1 - len(blocks[0])  # 1 for the count of ranges, while that is below 64
    if left < 0:
        return b""
    kept = 0
    while index > 0 and kept < 0x3FFF:  # the largest count that takes 2 bytes
        index -= 1
        older = ranges[index]
        block = _encode_integer(start - older.stop - 1) + _encode_integer(older.stop - older.start - 1)
        left -= len(block) + (kept == 0x3F)
        if left < 0:
            break
        start = older.start
        blocks.append(block)
        kept += 1
    return head + _encode_integer(kept) + b"".join(blocks)
