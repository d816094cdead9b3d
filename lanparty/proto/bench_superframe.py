"""Micro-benchmark of super-frames: ``python -m lanparty.proto.bench_superframe``. Microseconds per segment, best run.

    cut      one super-frame to the overlay datagrams of all its segments (`OverlayEncoder.encode_super`)
    decode   those datagrams to frames (`OverlayDecoder.decode_untrusted`)
    join     those frames to one super-frame (`Joiner.join_untrusted`)
    encode   finished frames to datagrams (`OverlayEncoder.encode_batch`): what a segment costs that is none
    pass     finished frames through the joiner
    alone    frames with partial checksums that nothing joins
    finish   completing a partial checksum: what every frame would cost at each end without the flag

For TCP over IPv4 and IPv6, UDP, eight flows that take turns, and identifications that count up. As a measure of the
machine, one AES-128-GCM call for a segment is in front. Where many super-frames are in memory at once (flows in turn)
most of the time is the kernel's, which gives back pages that the C library gave up: compare with
``MALLOC_TRIM_THRESHOLD_=67108864 MALLOC_MMAP_THRESHOLD_=33554432`` in the environment.

Owns: the cases. Must not know: devices, sockets.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Callable, Sequence
from timeit import default_timer
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .fragments import Reassembler
from .joiner import Joiner
from .overlay import OverlayCounters, OverlayDecoder, OverlayEncoder
from .superframe import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    TCP,
    UDP,
    SuperFrame,
    checksum,
    expand,
    finish_untrusted,
    partial_sum,
    superframe_untrusted,
)

__all__ = ["main", "super_frame"]

BUDGET: Final = 1442
"""Bytes of an overlay datagram that fills a packet on a 1500-byte IPv4 path."""
_FLOWS: Final = 8
_TIMESTAMPS: Final = b"\x01\x01\x08\x0a" + bytes(8)

Item = tuple[int, bytes]


def super_frame(version: int, protocol: int, segments: int, port: int = 1000) -> SuperFrame:
    """Make one of ``segments`` full segments (TCP with time stamps; UDP: 200 bytes), as a kernel hands it over."""
    network = 20 if version == 4 else 40
    header = 32 if protocol == TCP else 8
    size = BUDGET - 4 - 14 - network - header if protocol == TCP else 200
    octets = size * segments
    if protocol == TCP:
        transport = struct.pack("!HHIIBBHHH", port, 2000, 1, 1, 0x80, 0x10, 500, 0, 0) + _TIMESTAMPS
    else:
        transport = struct.pack("!HHHH", port, 2000, 8 + octets, 0)
    length = header + octets
    if version == 4:
        packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 7, 0x4000, 64, protocol, 0) + bytes(range(8))
        packet = packet[:10] + checksum(packet).to_bytes(2, "big") + packet[12:]
    else:
        packet = struct.pack("!IHBB", 6 << 28, length, protocol, 64) + bytes(range(32))
    frame = bytes(range(12)) + (b"\x08\x00" if version == 4 else b"\x86\xdd") + packet + transport + bytes(octets)
    start, offset = 14 + network, 16 if protocol == TCP else 6
    field = start + offset
    frame = frame[:field] + partial_sum(frame, start, protocol, length).to_bytes(2, "big") + frame[field + 2 :]
    kind = GSO_UDP if protocol == UDP else GSO_TCPV4 if version == 4 else GSO_TCPV6
    made = superframe_untrusted(frame, kind, size, start, offset)
    assert made is not None
    return made


def _best(run: Callable[[], object], count: int, repeat: int) -> float:
    """Give microseconds per one of ``count``, of the fastest run."""
    best = float("inf")
    for _ in range(repeat):
        began = default_timer()
        run()
        best = min(best, default_timer() - began)
    return round(best / count * 1e6, 3)


def _datagrams(superframe: SuperFrame) -> list[bytes]:
    return OverlayEncoder(BUDGET).encode_super(superframe)


def _decoded(datagrams: Sequence[bytes]) -> list[Item]:
    return OverlayDecoder(Reassembler(), OverlayCounters()).decode_untrusted(datagrams, 0.0)[0]


def _counting(frames: Sequence[Item]) -> list[Item]:
    """With an identification of its own in each, as a kernel cuts."""
    counted = []
    for number, (stamp, frame) in enumerate(frames):
        header = frame[14:18] + number.to_bytes(2, "big") + frame[20:24] + b"\0\0" + frame[26:34]
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
        counted.append((stamp, frame[:14] + header + frame[34:]))
    return counted


def _join(frames: Sequence[Item], repeat: int) -> float:
    joiner = Joiner()
    return _best(lambda: joiner.join_untrusted(frames), len(frames), repeat)


def _case(superframe: SuperFrame, repeat: int) -> dict[str, float]:
    count = superframe.segments
    encoder, decoder = OverlayEncoder(BUDGET), OverlayDecoder(Reassembler(), OverlayCounters())
    datagrams = _datagrams(superframe)
    finished = expand(superframe)
    partial = _decoded(datagrams)
    plain = [(1, frame) for frame in finished]
    # Every other one is missing, so that none continues another.
    alone = (
        partial[::2] if superframe.checksum_offset == 16 else [(stamp + i, f) for i, (stamp, f) in enumerate(partial)]
    )
    start, offset = superframe.checksum_start, superframe.checksum_offset
    return {
        "cut": _best(lambda: encoder.encode_super(superframe), count, repeat),
        "decode": _best(lambda: decoder.decode_untrusted(datagrams, 0.0), count, repeat),
        "join": _join(partial, repeat),
        "encode": _best(lambda: encoder.encode_batch(finished), count, repeat),
        "pass": _join(plain, repeat),
        "alone": _join(alone, repeat),
        "finish": _best(lambda: [finish_untrusted(one, start, offset) for _, one in partial], count, repeat),
    }


def main() -> int:
    """Measure and print, one JSON line per case."""
    parser = argparse.ArgumentParser(prog="lanparty.proto.bench_superframe", description="Cost of super-frames.")
    parser.add_argument("--repeat", type=int, default=300, help="runs of each case, the best counts")
    repeat = parser.parse_args().repeat

    def tell(name: str, **costs: float) -> None:
        sys.stdout.write(json.dumps({"case": name, "us_per_segment": costs}) + "\n")

    aead, segment = AESGCM(bytes(16)), bytes(BUDGET)
    tell("machine", aes_gcm=_best(lambda: [aead.encrypt(bytes(12), segment, None) for _ in range(45)], 45, repeat))
    for name, version, protocol, segments in (
        ("TCP over IPv4", 4, TCP, 45),
        ("TCP over IPv6", 6, TCP, 45),
        ("UDP of 200 bytes over IPv4", 4, UDP, 64),
        ("UDP of 200 bytes over IPv6", 6, UDP, 64),
    ):
        tell(name, **_case(super_frame(version, protocol, segments), repeat))
    flows = [_decoded(_datagrams(super_frame(4, TCP, 45, port))) for port in range(_FLOWS)]
    tell(f"TCP, {_FLOWS} flows in turn", join=_join([one for row in zip(*flows, strict=True) for one in row], repeat))
    four = [row[index : index + 4] for index in range(0, 44, 4) for row in flows]
    tell(f"TCP, {_FLOWS} flows, 4 of each in turn", join=_join([one for part in four for one in part], repeat))
    tell("TCP, identifications count up", join=_join(_counting(flows[0]), repeat))
    return 0


if __name__ == "__main__":
    sys.exit(main())
