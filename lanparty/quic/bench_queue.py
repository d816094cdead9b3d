"""What the queue costs per datagram: ``python -m lanparty.quic.bench_queue``.

Owns: the loads, which are the shapes of real ones. Must not know: how the queue works.

Best of several runs, in microseconds per datagram for push and take together; the machine's other work only makes them
larger.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from lanparty.obs.counters import TunnelCounters
from lanparty.quic.queue import DatagramQueue

__all__ = ["main"]

_BUDGET = 1442
_BURST = 45
_RUNS = 60
_BURSTS = 64


def datagram(flow: int, size: int = _BUDGET, *, ethertype: int = 0x0800, origin: int = 1) -> bytes:
    """Make an overlay datagram with a UDP frame of flow number ``flow``."""
    head = b"\x10\x00" + origin.to_bytes(2, "big") + bytes.fromhex("020000000001020000000002")
    ports = (20000 + flow).to_bytes(2, "big") + b"\x1f\x90"
    if ethertype == 0x0800:
        head += b"\x08\x00\x45" + bytes(6) + b"\x00\x40\x11" + bytes(2) + b"\x0a\x00\x00\x01\x0a\x00\x00\x02" + ports
    else:
        head += b"\x86\xdd\x60" + bytes(5) + b"\x11\x40" + bytes(15) + b"\x01" + bytes(15) + b"\x02" + ports
    return head + bytes(size - len(head))


def _waiting(bursts: list[list[bytes]]) -> Callable[[], int]:
    """Push each burst in full, take it a share at a time: something always waits."""

    def run() -> int:
        queue = DatagramQueue(TunnelCounters())
        now, count = 0.0, 0
        share = sum(map(len, bursts[0])) + 3 * len(bursts[0])
        queue.push(bursts[0], _BUDGET, now)
        for _ in range(_BURSTS // len(bursts)):
            for burst in bursts:
                now += 0.0006
                queue.push(burst, _BUDGET, now)
                count += len(queue.take(share, _BUDGET, now))
        return count

    return run


def _passing(burst: list[bytes]) -> Callable[[], int]:
    """Offer bursts to an empty queue, all of which may leave."""

    def run() -> int:
        queue = DatagramQueue(TunnelCounters())
        return sum(len(queue.offer(burst, 1 << 20, _BUDGET, 0.0)) for _ in range(_BURSTS))

    return run


def _cost(run: Callable[[], int]) -> float:
    best = float("inf")
    for _ in range(_RUNS):
        start = time.perf_counter()
        count = run()
        best = min(best, (time.perf_counter() - start) / count)
    return best * 1e6


def main() -> None:
    """Print the table."""
    one = [datagram(0)] * _BURST
    loads = {
        "nothing waits, all may leave": _passing(one),
        "one flow": _waiting([one]),
        "one flow, 200 bytes, bursts of 64": _waiting([[datagram(0, 200)] * 64]),
        "one flow, IPv6": _waiting([[datagram(0, ethertype=0x86DD)] * _BURST]),
        "4 flows, a burst of each": _waiting([[datagram(flow)] * _BURST for flow in range(4)]),
        "8 flows, a burst of each": _waiting([[datagram(flow)] * _BURST for flow in range(8)]),
        "8 flows, one datagram each in turn": _waiting([[datagram(index % 8) for index in range(_BURST)]]),
        "4 members with 2 flows each": _waiting([[datagram(flow, origin=1 + flow % 4)] * _BURST for flow in range(8)]),
        "one flow, 1 in 9 a ping": _waiting([[datagram(0)] * 8 + [datagram(1, 102)] + [datagram(0)] * 36]),
    }
    for name, run in loads.items():
        sys.stdout.write(f"{name:36} {_cost(run):6.3f} us\n")


if __name__ == "__main__":
    main()
