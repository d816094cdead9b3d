"""docs/faults.md, rows 5, 10 and 13 in simulated time: rates and rounds that two busy cores cannot show.

The relay's table and clients of tests/quic/quic_world.py, with the same connections and queues as the programs.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "quic"))

from quic_world import DELAY, World

from lanparty.quic import settings

pytestmark = pytest.mark.faults


def test_20_000_packets_per_second_with_10_ms_of_jitter(figures):
    """Row 5: what is not lost on the way comes out, once, and is acknowledged; both ways at once."""
    chance = random.Random(5)
    world = World(max_payload=1472, link=lambda seen: (DELAY + chance.random() * 0.010,))
    client, server = world.pair()
    world.run(0.5)
    came = next(iter(world.clients.values())).received
    sent = 0
    there, back = len(world.received), len(came)
    for step in range(2000):
        for side in (client, server):
            side.send_datagrams([(step * 20 + number).to_bytes(4, "big") + bytes(96) for number in range(20)])
            side.flush()
        sent += 20
        world.run(0.001)
    world.run(0.5)
    arrived = len(set(world.received[there:])), len(set(came[back:]))
    aged = client.counters.queue_expired + client.counters.queue_dropped, server.counters.queue_expired
    figures(
        5,
        "jitter of 10 ms at 20 000 datagrams/s each way, simulated",
        sent=sent,
        arrived=f"{arrived[0]} and {arrived[1]}",
        too_old_to_send=sum(aged),
        lost_on_the_way=0,
    )
    for side, count in ((client, arrived[0]), (server, arrived[1])):
        counters = side.counters
        left = counters.datagrams_out
        assert left == count, "something that left did not come out"
        assert count > 0.99 * sent
    assert len(world.received) - there == arrived[0], "something came out twice"


def test_a_datagram_one_byte_too_large(figures):
    """Row 10: refused by us, counted, and in nobody's way. (Stock aioquic: see tests/quic/test_quic_hazards.py.)"""
    world = World()
    client, _server = world.pair()
    client.send_datagrams([bytes(1170), bytes(1171), b"later", bytes(1171), b"later still"])
    client.flush()
    world.run(0.1)
    came = [len(datagram) for datagram in world.received]
    refused = client.counters.oversize_dropped
    figures(10, "1170, 1171, 5, 1171 and 11 bytes at packets of 1200", arrived=came, refused=refused)
    assert came == [1170, 5, 11]
    assert refused == 2


@pytest.mark.parametrize(
    ("phase", "rounds"), [(100, 10), pytest.param(24, 400, marks=pytest.mark.slow)], ids=["10", "400"]
)
def test_many_key_updates_under_loss(figures, monkeypatch, phase, rounds):
    """Row 13: at 5 % loss both ways, both ends asking; a stall would be a round without a frame."""
    monkeypatch.setattr(settings, "KEY_PHASE", phase)
    chance = random.Random(13)
    world = World(
        max_payload=1472, link=lambda seen: () if chance.random() < 0.05 else (DELAY + chance.random() * 0.004,)
    )
    client, server = world.pair()
    world.run(1)
    updates, since, sent, longest, last = 0, client._quic._keys_since, 0, 0.0, world.now
    while updates < rounds and sent < 400_000:
        for side in (client, server):
            side.send_datagrams([bytes(500), bytes(500)])
            side.flush()
        sent += 4
        mark = len(world.arrivals)
        world.run(0.005)
        if len(world.arrivals) > mark:
            longest, last = max(longest, world.now - last), world.now
        if client._quic._keys_since != since:
            since, updates = client._quic._keys_since, updates + 1
    figures(
        13, "key updates at 5 % loss, simulated", updates=updates, datagrams=sent, longest_silence_ms=1000 * longest
    )
    assert updates == rounds
    assert client.closed is None
    assert server.closed is None
    assert longest < 0.25
