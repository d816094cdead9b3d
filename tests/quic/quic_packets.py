"""Initial packets as anybody can make them: their keys follow from the packet itself (RFC 9001 section 5.2)."""

from __future__ import annotations

from functools import cache

from aioquic.quic.crypto import CryptoPair
from quic_world import World

from lanparty.quic.internals import parse_header_untrusted

SOURCE = b"stranger"


@cache
def client_hello_frame() -> bytes:
    """The CRYPTO frame of a good client's first packet, whose connection id was ``SOURCE``."""
    world = World()
    client = world.client(connect=False)
    client.quic._host_cids[0].cid = client.quic.host_cid = SOURCE
    client.quic._local_initial_source_connection_id = SOURCE  # the transport parameters repeat it
    client.connect()
    packet = world.seen[0].packet
    header = parse_header_untrusted(packet)
    crypto = CryptoPair()
    crypto.setup_initial(cid=header.destination_cid, is_client=False, version=1)
    offset = 7 + len(header.destination_cid) + len(header.source_cid) + 1 + 2
    _header, payload, _number = crypto.decrypt_packet(packet[: header.packet_length], offset, 0)
    return payload.rstrip(b"\0")


def initial(
    payload: bytes, destination: bytes, *, source: bytes = SOURCE, token: bytes = b"", number: int = 0
) -> bytes:
    """A well sealed Initial of 1200 bytes or a little more."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=destination, is_client=True, version=1)
    payload = payload.ljust(1163 - len(token), b"\0")
    header = (
        b"\xc1\0\0\0\1"
        + bytes([len(destination)])
        + destination
        + bytes([len(source)])
        + source
        + (len(token) | 0x4000).to_bytes(2, "big")
        + token
        + (2 + len(payload) + 16 | 0x4000).to_bytes(2, "big")
        + number.to_bytes(2, "big")
    )
    packet = crypto.encrypt_packet(header, payload, number)
    assert len(packet) >= 1200
    return packet
