"""What packet protection and frames cost: ``python -m lanparty.quic.bench_codec [--json] [--rounds N]``.

Owns: the micro-benchmark of ``codec`` and ``received``. Must not know: aioquic. The same run with aioquic's own packet
protection beside it is ``tests/quic/compare_codec.py``.

Each figure is the best of some rounds, since whatever else the machine does only adds. All cases take turns in each
round, so that a slow spell does not hit one alone and ratios hold on a noisy machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final, Protocol

import attrs
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from lanparty.quic import codec
from lanparty.quic.received import ReceivedNumbers

__all__ = ["CIPHERS", "CONNECTION_ID", "FIRST_NUMBER", "Stock", "main"]

CIPHERS: Final = ("aes-128-gcm", "aes-256-gcm", "chacha20-poly1305")
CONNECTION_ID: Final = b"\x5c" * 8
FIRST_NUMBER: Final = 0x12340
"""Nothing about it is special, but that 40 packets cross no block of 256 numbers: about six in seven batches do not."""

_SIZES: Final = (100, 250, 1200, 1450)
"""Bytes of a payload: a game, a larger game, the least of QUIC, a full Ethernet frame."""
_BATCHES: Final = (1, 4, 40)
_SAMPLE: Final = 0.0004
"""Seconds that one timing should take at least: a thousand times the clock's own cost, and short enough for most to
pass undisturbed."""

Job = Callable[[], object]


class Stock(Protocol):
    """Makes what ours is compared with."""

    def __call__(self, cipher: str, payloads: Sequence[bytes]) -> tuple[Job, Job]:
        """Return what seals ``payloads`` and what opens the packets, one by one."""


@attrs.define
class _Case:
    operation: str
    cipher: str
    size: int
    batch: int
    job: Job
    stock: Job | None = None
    best: float = float("inf")
    best_stock: float = float("inf")

    def run(self) -> None:
        self.best = min(self.best, _time(self.job) / self.batch)
        if self.stock is not None:
            self.best_stock = min(self.best_stock, _time(self.stock) / self.batch)


def _time(job: Job) -> float:
    """Return the microseconds of one call."""
    calls = 0
    start = now = perf_counter()
    while now - start < _SAMPLE:
        for _ in range(4):
            job()
        calls += 4
        now = perf_counter()
    return (now - start) / calls * 1e6


def _keys(cipher: str) -> codec.PacketKeys:
    secret = bytes(range(32))
    if cipher == "chacha20-poly1305":
        chacha = Cipher(algorithms.ChaCha20(secret, bytes(16)), mode=None).encryptor()
        return codec.PacketKeys(ChaCha20Poly1305(secret), 1 << 90, codec.chacha_mask(chacha), 0)
    key = secret if cipher == "aes-256-gcm" else secret[:16]
    ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - what RFC 9001 section 5.4.3 asks for
    return codec.PacketKeys(AESGCM(key), 1 << 90, codec.aes_mask(ecb), 0)


def _protection(cipher: str, size: int, batch: int, stock: Stock | None) -> list[_Case]:
    keys = _keys(cipher)
    payloads = _payloads(size, batch)

    def seal() -> list[bytes]:
        keys.next_number = 0  # the same numbers again: nobody sees these packets
        return codec.seal(keys, CONNECTION_ID, False, FIRST_NUMBER, payloads)

    packets = seal()

    def opening() -> codec.Opened:
        return codec.open_untrusted(keys, packets, len(CONNECTION_ID), FIRST_NUMBER)

    assert opening().payloads == payloads
    stock_seal, stock_open = (None, None) if stock is None else stock(cipher, payloads)
    return [
        _Case("seal", cipher, size, batch, seal, stock_seal),
        _Case("open", cipher, size, batch, opening, stock_open),
    ]


def _frames(size: int, batch: int) -> list[_Case]:
    datagrams = _payloads(size - codec.datagram_overhead(size), batch)
    packed = codec.pack_datagrams(datagrams, size)
    assert len(packed) == batch

    def parse() -> None:
        found: list[bytes] = []
        acks: list[codec.AckFrame] = []
        for payload in packed:
            codec.frames_untrusted(payload, found, acks)

    return [
        _Case("pack", "-", size, batch, lambda: codec.pack_datagrams(datagrams, size)),
        _Case("pack full", "-", size, batch, lambda: codec.pack_datagrams(datagrams, _SIZES[-1])),
        _Case("frames", "-", size, batch, parse),
    ]


def _acks(batch: int) -> list[_Case]:
    ranges = [range(start, start + 60) for start in range(100_000, 100_000 + 64 * batch, 64)]
    encoded = codec.encode_ack(ranges, 20, _SIZES[-1])
    window = ReceivedNumbers()
    after = 0

    def fresh() -> None:
        nonlocal after
        window.fresh(list(range(after, after + batch)))
        after += batch

    return [
        _Case("ack encode", "-", len(encoded), batch, lambda: codec.encode_ack(ranges, 20, _SIZES[-1])),
        _Case("ack parse", "-", len(encoded), batch, lambda: codec.frames_untrusted(encoded, [], [])),
        _Case("fresh", "-", 0, batch, fresh),
    ]


def _payloads(size: int, count: int) -> list[bytes]:
    source = random.Random(size)  # noqa: S311
    return [source.randbytes(size) for _ in range(count)]


def main(arguments: Sequence[str] | None = None, stock: Stock | None = None) -> None:
    """Measure, and print a table or JSON: microseconds per packet (ACK: per range) for each case."""
    parser = argparse.ArgumentParser(prog="lanparty.quic.bench_codec", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of cases as JSON")
    parser.add_argument("--rounds", type=int, default=40, help="the best of how many is told (default: 40)")
    options = parser.parse_args(arguments)
    cases = [
        case
        for cipher in CIPHERS
        for size in _SIZES
        for batch in _BATCHES
        for case in _protection(cipher, size, batch, stock)
    ]
    cases += [case for size in _SIZES for batch in _BATCHES for case in _frames(size, batch)]
    cases += [case for batch in _BATCHES for case in _acks(batch)]
    for _ in range(options.rounds):
        for case in cases:
            case.run()
    write = sys.stdout.write
    rows = [_row(case) for case in cases]
    if options.json:
        write(json.dumps(rows, indent=1) + "\n")
        return
    write(f"{'operation':11}{'cipher':19}{'bytes':>6}{'batch':>6}{'us':>8}{'stock':>8}{'ratio':>7}\n")
    for row in rows:
        beside = f"{row['stock_us']:8.2f}{row['stock_us'] / row['us']:7.1f}" if "stock_us" in row else ""
        write(f"{row['operation']:11}{row['cipher']:19}{row['bytes']:6}{row['batch']:6}{row['us']:8.2f}{beside}\n")


def _row(case: _Case) -> dict[str, Any]:
    row: dict[str, Any] = {
        "operation": case.operation,
        "cipher": case.cipher,
        "bytes": case.size,
        "batch": case.batch,
        "us": round(case.best, 3),
    }
    if case.stock is not None:
        row["stock_us"] = round(case.best_stock, 3)
    return row


if __name__ == "__main__":
    main()
