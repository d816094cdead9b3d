"""Sends well-made QUIC Initials from addresses that are not its own, at a steady rate.

    python spoofed_initials.py RELAY PORT RATE COUNT

The addresses are those for benchmarks (198.18.0.0/15, RFC 2544), each with another port: what is answered goes to
nobody. Prints ``spoofed.ready`` when all packets are made, ``spoofed.sent`` with count and seconds at the end. A
process of its own, so that it does not disturb the one that measures.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

from lan_frames import udp
from quic_packets import client_hello_frame, initial

MAKES = 1000
"""Different Initials; more would only take longer to make. What is spoofed is different for every packet."""
TICK = 0.002


def tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "message": event, **fields}), flush=True)


def main(relay: str, port: int, rate: float, count: int) -> None:
    hello = client_hello_frame()
    # The connection id is random in real ones; here it tells the packets apart.
    payloads = [initial(hello, struct.pack("!Q", time.time_ns() + number)) for number in range(min(MAKES, count))]
    packets = [bytearray(udp("198.18.0.0", relay, 1024, port, payload)) for payload in payloads]
    for packet in packets:
        packet[26:28] = b"\0\0"  # no UDP checksum: it would change with the address
    tell("spoofed.ready")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        start, sent = time.monotonic(), 0
        while sent < count:
            due = min(count, int((time.monotonic() - start) * rate) + 1)
            for number in range(sent, due):
                packet = packets[number % len(packets)]
                packet[12:16] = struct.pack("!I", 0xC6120000 + number % 0x20000)
                packet[20:22] = struct.pack("!H", 1024 + number % 60000)
                raw.sendto(packet, (relay, 0))
            sent = due
            time.sleep(TICK)
    tell("spoofed.sent", count=sent, seconds=time.monotonic() - start)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
