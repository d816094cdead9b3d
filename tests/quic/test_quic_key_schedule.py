"""Keys are updated on a schedule, within what AES-GCM allows (RFC 9001 section 6.6)."""

from __future__ import annotations

import random

from quic_world import DELAY, World

from lanparty.quic import settings


def test_forced_often_updates_cost_nothing_even_under_loss(monkeypatch):
    """Every 40 packets, both ways, at 5 % loss: some hundred updates, and all that was not lost on the way arrives."""
    monkeypatch.setattr(settings, "KEY_PHASE", 40)
    chance = random.Random(7)
    lost = 0

    def link(seen):
        nonlocal lost
        if world.now > 1001 and chance.random() < 0.05:
            lost += 1
            return ()
        return (DELAY + chance.random() * 0.004,)

    world = World(link=link, max_payload=1472)
    client, server = world.pair()
    world.run(1)
    phases = set()
    sent = 0
    for step in range(1500):
        client.send_datagrams([step.to_bytes(4, "big") + bytes(1000)] * 2)
        server.send_datagrams([step.to_bytes(4, "big") + bytes(1000)] * 2)
        client.flush()
        server.flush()
        sent += 4
        world.run(0.01)
        phases.add(client._quic._keys_since)
    world.run(1)
    assert client.closed is None
    assert server.closed is None
    assert len(phases) > 30
    received = len(world.received) + len(next(iter(world.clients.values())).received)
    dropped = sum(side.counters.queue_dropped + side.counters.queue_expired for side in (client, server))
    assert received + dropped >= sent - lost * 2
    assert received > 0.85 * sent


def test_no_update_before_the_schedule():
    world = World()
    client, _server = world.pair()
    for _ in range(200):
        client.send_datagrams([bytes(1000)])
        client.flush()
        world.run(0.01)
    assert client._quic._keys_since == 0
