"""The micro-benchmark of ``codec`` with aioquic's own packet protection beside it, in one run.

``python tests/quic/compare_codec.py [--json] [--rounds N]``
"""

from __future__ import annotations

from aioquic.quic.crypto import CryptoPair
from aioquic.tls import CipherSuite

from lanparty.quic import bench_codec

SUITES = {
    "aes-128-gcm": CipherSuite.AES_128_GCM_SHA256,
    "aes-256-gcm": CipherSuite.AES_256_GCM_SHA384,
    "chacha20-poly1305": CipherSuite.CHACHA20_POLY1305_SHA256,
}


def stock(cipher, payloads):
    pair = CryptoPair()
    secret = bytes(48 if "256" in cipher else 32)
    for context in (pair.send, pair.recv):
        context.setup(cipher_suite=SUITES[cipher], secret=secret, version=1)
    numbers = range(bench_codec.FIRST_NUMBER, bench_codec.FIRST_NUMBER + len(payloads))
    headers = [b"\x41" + bench_codec.CONNECTION_ID + (number & 0xFFFF).to_bytes(2, "big") for number in numbers]

    def seal():
        return [pair.encrypt_packet(*each) for each in zip(headers, payloads, numbers, strict=True)]

    packets = seal()
    offset = 1 + len(bench_codec.CONNECTION_ID)

    def opening():
        return [pair.decrypt_packet(packet, offset, bench_codec.FIRST_NUMBER) for packet in packets]

    assert [payload for _header, payload, _number in opening()] == payloads
    return seal, opening


if __name__ == "__main__":
    bench_codec.main(stock=stock)
