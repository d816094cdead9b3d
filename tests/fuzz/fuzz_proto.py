"""Fuzz targets for lanparty.proto: headers, overlay and pieces, flows and their queue, offloads, the MSS clamp.

Each is a function of one input. It returns nothing; what must not be is an AssertionError, or whatever the code raises.
"""

from __future__ import annotations

from collections.abc import Iterator

from fuzz_input import Input, chunk, chunks
from proto_corpus import ether, ip_frames, ipv4, ipv6, link_frames, ones_sum, pseudo, tcp, udp

from lanparty.obs.counters import TunnelCounters
from lanparty.obs.framelog import describe_untrusted
from lanparty.proto.ethernet import (
    HEADER_SIZE,
    MAX_FRAME_SIZE,
    MAX_VLAN_TAGS,
    FrameError,
    ethertype_untrusted,
    parse_untrusted,
)
from lanparty.proto.flows import classify_untrusted, head_keys_untrusted
from lanparty.proto.fragments import MAX_BYTES, MAX_FRAMES, MAX_PIECES, PIECE_COST, Reassembler
from lanparty.proto.ip import transport_at_untrusted, transport_untrusted
from lanparty.proto.joiner import Joiner
from lanparty.proto.mss import clamp_mss
from lanparty.proto.overlay import (
    Echo,
    OverlayCounters,
    OverlayDecoder,
    OverlayEncoder,
    OverlaySizeError,
    encode_echo,
)
from lanparty.proto.superframe import (
    MAX_SUPERFRAME,
    TCP,
    TCP_CHECKSUM,
    UDP_CHECKSUM,
    SuperFrame,
    cut,
    expand,
    locate_untrusted,
    partial_sum,
    plain_frames,
    superframe_untrusted,
)
from lanparty.quic.queue import DatagramQueue
from lanparty.quic.settings import QUEUE_BYTES

FRAME_ERRORS = {"truncated", "vlan-depth", "snap-depth"}


# -- headers -----------------------------------------------------------------------------------------------------------


def headers(data: bytes) -> None:
    """Ethernet, IP and transport of one frame; the two walks that know the plain case agree."""
    describe_untrusted(data)
    kind = ethertype_untrusted(data)
    try:
        header = parse_untrusted(data)
    except FrameError as error:
        assert error.reason in FRAME_ERRORS
        return
    assert HEADER_SIZE <= header.payload_offset <= len(data)
    assert len(header.vlan_tags) <= MAX_VLAN_TAGS
    found = transport_untrusted(data, header)
    if found is not None:
        assert header.payload_offset < found.offset
        assert found.length >= 0
        assert found.offset + found.length <= len(data)
    located = locate_untrusted(data)
    if located is not None:
        protocol, transport, payload = located
        assert found is not None
        assert found == transport_at_untrusted(data, kind, HEADER_SIZE)
        assert (found.protocol, found.offset, found.length) == (protocol, transport, len(data) - transport)
        assert found.complete
        assert not found.fragment
        assert transport + 8 <= payload <= len(data)


def headers_seeds() -> Iterator[bytes]:
    yield from ip_frames()
    yield from link_frames()


# -- overlay -----------------------------------------------------------------------------------------------------------


def overlay(data: bytes) -> None:
    """A row of datagrams and moments through one decoder: bounded, counted, and what comes out can be sent on."""
    source = Input(data)
    counters = OverlayCounters()
    decoder = OverlayDecoder(Reassembler(), counters)
    encoder = OverlayEncoder(256 + source.byte() * 8)
    now, fed = 0.0, 0
    while source:
        action = source.byte()
        batch = [source.chunk() for _ in range(1 + (action & 3))]
        now += (action >> 4) * 0.02
        fed += len(batch)
        frames, echoes = decoder.decode_untrusted(batch, now)
        table = decoder.reassembler
        # What is over the bound goes at once; a piece that was just taken may be the last to come in.
        assert table.pending_bytes <= MAX_BYTES + MAX_FRAME_SIZE + MAX_PIECES * PIECE_COST
        assert table.pending_frames <= MAX_FRAMES
        assert (table.pending_frames == 0) == (table.pending_bytes == 0)
        for stamp, frame in frames:
            assert HEADER_SIZE <= len(frame) <= MAX_FRAME_SIZE
            assert stamp < 0x20000
            _again(encoder, stamp, frame)
        for echo in echoes:
            assert decoder.decode_untrusted([encode_echo(echo)], now) == ([], [echo])
            fed += 1
        if action & 4:
            table.forget(batch[0][2:4] != b"\0\0")
    names = ("short", "version", "kind", "flags", "frame-short", "frame-oversize", "echo-size")
    heads = sum(counters.dropped[name] for name in names)
    assert counters.frames + counters.pieces + counters.echoes + heads == fed


def _again(encoder: OverlayEncoder, stamp: int, frame: bytes) -> None:
    try:
        datagrams = encoder.encode(frame, stamp)
    except OverlaySizeError:
        return
    assert max(map(len, datagrams)) <= encoder.budget
    fresh = OverlayDecoder(Reassembler(), OverlayCounters())
    assert fresh.decode_untrusted(datagrams, 0.0) == ([(stamp, frame)], [])


def overlay_seeds() -> Iterator[bytes]:
    frame = ether(ipv4(udp(6112, 6112), 17), 0x0800)
    yield b"\x00" + b"\x00" + chunk(b"\x10\0\0\0" + frame)
    yield b"\x00" + b"\x01" + chunks(encode_echo(Echo(3, True, 4, 5, 6)), b"\x12\0\0\1" + bytes(14))
    for size in (600, 1514):
        pieces = OverlayEncoder(300).encode((frame * 40)[:size], 0x10007)
        yield b"\x05" + b"".join(b"\x00" + chunk(piece) for piece in pieces)
        yield b"\x05" + b"".join(b"\x10" + chunk(piece) for piece in [*pieces[::-1], *pieces[:2]])
    yield b"\x00" + b"\x03" + chunks(b"", b"\x20\0\0\0", b"\x1f\0\0\0", b"\x10\x80\0\0")


# -- flows -------------------------------------------------------------------------------------------------------------


def flows(data: bytes) -> None:
    """Datagrams are told apart by flow, the quick way like the slow one; and their queue holds them within bounds."""
    source = Input(data)
    counters = TunnelCounters()
    queue = DatagramQueue(counters)
    now, pushed, taken = 0.0, 0, 0
    while source:
        action = source.byte()
        batch = [source.chunk()[:1500] or b"\x10" for _ in range(1 + (action & 7))]
        keys = head_keys_untrusted(batch)
        found = [classify_untrusted(datagram) for datagram in batch]
        for one in found:
            assert len(one.payer) <= 6
            for key, other in zip(keys, found, strict=True):
                assert key != one.key or other == one
        copies = batch * (1 + (action >> 3 & 3) * 20)
        pushed += len(copies)
        if action & 0x20:
            taken += len(queue.offer(copies, source.number(2), 1200, now))
        else:
            queue.push(copies, 1200, now)
        if action & 0x40:
            taken += len(queue.take(source.number(2), 1200, now, bulk=bool(action & 0x20)))
        if action & 0x80:
            now += source.byte() / 200
        assert 0 <= queue.size <= QUEUE_BYTES
    gone = counters.queue_dropped + counters.queue_expired + counters.oversize_dropped
    gone += sum(counters.other_dropped.values())
    assert pushed == taken + gone + len(queue)
    while len(queue):
        before = len(queue)
        queue.take(1 << 20, 1200, now)
        assert len(queue) < before


def flows_seeds() -> Iterator[bytes]:
    datagrams = [b"\x10\0\0\0" + frame for frame in (*ip_frames(), *link_frames())]
    for datagram in datagrams:
        yield b"\x01" + chunks(datagram, b"\x10\1\0\7" + datagram[4:])
    yield b"\xff" + chunks(*datagrams[:8]) + b"\x01\x00" * 2 + b"\x10"
    yield b"\x41" + chunks(b"\x11\0\0\1\0\7\0\2" + datagrams[0][4:], b"\x11\0\0\1\0\7\1\2abcd") + b"\xff\xff"


# -- offloads ----------------------------------------------------------------------------------------------------------


def offload(data: bytes) -> None:
    """Joining frames and cutting the super-frames again gives what finishing each frame gives, in order by flow.

    And what a kernel hands over, its header lying in any way, is cut into frames that hold all its payload.
    """
    source = Input(data)
    frames: list[tuple[int, bytes]] = []
    while source:
        action = source.byte()
        frame = source.chunk()[:9000].ljust(HEADER_SIZE, b"\0")
        if action & 0x80:
            _kernel(frame, action & 7, source.number(2), source.byte(), source.byte())
            continue
        frames += _segments(frame, action >> 1 & 7, partial=bool(action & 1), consecutive=bool(action & 0x10))
    joined, single = Joiner(), Joiner(joins=False)
    many = plain_frames(frame for _origin, frame in joined.join_untrusted(frames))
    each = plain_frames(frame for _origin, frame in single.join_untrusted(frames))
    assert joined.refused == single.refused
    assert _by_flow(many) == _by_flow(each)


def _segments(frame: bytes, more: int, *, partial: bool, consecutive: bool) -> Iterator[tuple[int, bytes]]:
    """The frame and some that follow it, with the checksum that a partial one must be."""
    located = locate_untrusted(frame)
    for number in range(1 + more):
        piece = frame
        if located is not None:
            protocol, transport, payload = located
            changed = bytearray(frame)
            if transport == 34:
                serial = (frame[18] << 8 | frame[19]) + number * consecutive & 0xFFFF
                changed[18:20] = serial.to_bytes(2)
            if protocol == TCP:
                place = slice(transport + 4, transport + 8)
                after = int.from_bytes(frame[place]) + number * (len(frame) - payload) & 0xFFFFFFFF
                changed[place] = after.to_bytes(4)
            field = transport + (TCP_CHECKSUM if protocol == TCP else UDP_CHECKSUM)
            changed[field : field + 2] = partial_sum(frame, transport, protocol, len(frame) - transport).to_bytes(2)
            piece = bytes(changed)
        yield (0x10000 if partial else 0) | 5, piece


def _by_flow(frames: list[bytes]) -> dict[bytes, list[bytes]]:
    """Frames by flow, without what a card may write anew: IPv4's checksum, and its identification where DF is set."""
    found: dict[bytes, list[bytes]] = {}
    for frame in frames:
        key, shown = frame, bytearray(frame)
        if locate_untrusted(frame) is not None:
            key = frame[:14] + frame[23:24] + frame[26:38]
            if frame[12] == 0x08:
                shown[24:26] = bytes(2)
                if frame[20] & 0x40:
                    shown[18:20] = bytes(2)
            else:
                key = frame[:14] + frame[20:21] + frame[22:58]
        found.setdefault(key, []).append(bytes(shown))
    return found


def _kernel(frame: bytes, kind: int, size: int, start: int, offset: int) -> None:
    made = superframe_untrusted(frame, kind, size, start, offset)
    if made is None:
        return
    assert made.segments >= 1
    pieces = cut(made, b"head", MAX_SUPERFRAME)
    payload = b"".join(piece[4 + made.header_size :] for piece in pieces)
    assert payload == frame[made.header_size :]
    assert len(pieces) == made.segments
    assert all(piece.startswith(b"head" + frame[:14]) for piece in pieces)
    for piece in expand(made):
        assert locate_untrusted(piece) is not None
    for datagram in OverlayEncoder(300 + size % 1200).encode_super(made):
        assert isinstance(made, SuperFrame)
        assert len(datagram) <= 300 + size % 1200


def offload_seeds() -> Iterator[bytes]:
    for frame in ip_frames():
        yield b"\x0f" + chunk(frame)
        yield b"\x1f" + chunk(frame) + b"\x0e" + chunk(frame)
    segment = ether(ipv4(tcp(flags=0x10, payload=bytes(100)), 6), 0x0800)
    other = ether(ipv6(tcp(flags=0x10, payload=bytes(100), version=6), 6), 0x86DD)
    for one in (segment, other, ether(ipv4(udp(1, 2, bytes(300)), 17), 0x0800)):
        yield b"\x1f" + chunk(one) + b"\x01" + chunk(one[:-50])
        yield b"\x0f" + chunk(one) * 3
        for kind in (0, 1, 3, 4, 5):
            for start in (34, 54):
                yield bytes((0x80 | kind,)) + chunk(one) + b"\x00\x20" + bytes((start, TCP_CHECKSUM))
                yield bytes((0x80 | kind,)) + chunk(one) + b"\x00\x20" + bytes((start, UDP_CHECKSUM))


# -- MSS ---------------------------------------------------------------------------------------------------------------


def mss(data: bytes) -> None:
    """Clamping changes lengths never, a checksum's truth never, and nothing the second time."""
    source = Input(data)
    limit4, limit6 = 1 + source.number(2) % 1460, 1 + source.number(2) % 1440
    frame = source.rest()
    clamped = clamp_mss(frame, limit4, limit6)
    assert clamp_mss(clamped, limit4, limit6) is clamped
    if clamped is frame:
        return
    assert len(clamped) == len(frame)
    found = transport_at_untrusted(frame, ethertype_untrusted(frame), HEADER_SIZE)
    assert found is not None
    assert found.protocol == 6
    changed = [at for at, (old, new) in enumerate(zip(frame, clamped, strict=True)) if old != new]
    field = found.offset + 16
    options = range(found.offset + 20, found.offset + (frame[found.offset + 12] >> 4 << 2))
    assert all(at in (field, field + 1) or at in options for at in changed)
    end = found.offset + found.length
    before = ones_sum(pseudo(found.length, 4) + frame[found.offset : end])
    assert before % 0xFFFF == ones_sum(pseudo(found.length, 4) + clamped[found.offset : end]) % 0xFFFF


def mss_seeds() -> Iterator[bytes]:
    for frame in ip_frames():
        yield b"\x04\x00\x04\x00" + frame
    for option in (b"\1\2\4\5\xb4", b"\1\2\4\5\xb4\2\4\5\xdc", b"\2\4\5\xb4\x1d\4\0\0", b"\2\4\5"):
        yield b"\x01\x00\x01\x00" + ether(ipv4(tcp(option), 6), 0x0800)
