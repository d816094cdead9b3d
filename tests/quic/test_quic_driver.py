from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import trio
import trio.testing

from lanparty.quic.connection import UdpPath
from lanparty.quic.driver import Driver
from lanparty.quic.settings import BATCH
from lanparty.quic.sockets import bind_all, connect


class FakeEngine:
    """Echoes what it gets, and notes what it was called for."""

    def __init__(self, driver):
        self.driver = driver
        self.batches = []
        self.errors = 0
        self.full = 0
        self.timers = []
        self.deadline = math.inf
        self.changed = trio.Event()

    def receive_untrusted(self, batch, now):
        batch = [(received.path, received.packets) for received in batch]
        self.batches.append((now, batch))
        for path, packets in batch:
            self.driver.transmit(path, packets)
        self._notify()

    def sender_of_untrusted(self, packet):
        return packet[:1] if packet[:1].islower() else None

    def ingress_full(self, count):
        self.full += count

    def network_error(self, now):
        self.errors += 1
        self._notify()

    def handle_timers(self, now):
        self.timers.append(now)
        self.deadline = math.inf
        self._notify()

    def next_deadline(self):
        return self.deadline

    def _notify(self):
        self.changed.set()
        self.changed = trio.Event()

    def packets(self):
        return [packet for _now, batch in self.batches for _path, packets in batch for packet in packets]


@pytest.fixture
def errors():
    return Counter()


@pytest.fixture
def server(errors):
    (udp,) = bind_all([("127.0.0.1", 0)], errors)
    yield udp
    udp.close()


@pytest.fixture
def client(server, errors):
    udp = connect(server.sock.getsockname(), errors)
    yield udp
    udp.close()


@pytest.fixture
def engine(server, errors):
    driver = Driver([server], errors)
    driver.engine = FakeEngine(driver)
    return driver.engine


def path_to(udp):
    return UdpPath(udp.sock.getsockname()[:2])


async def until(engine, holds):
    with trio.fail_after(10):
        while not holds():
            await engine.changed.wait()


async def test_one_batch_in_and_its_answers_out_before_anyone_else_runs(server, client, engine, nursery):
    client.send_batch(path_to(server), [b"x" * 100] * 20)
    nursery.start_soon(engine.driver.run)
    await until(engine, lambda: engine.batches)
    ((_now, batch),) = engine.batches
    assert batch == [(path_to(client), [b"x" * 100] * 20)]
    ((_path, answers, _waited),) = client.receive_batch(64)
    assert answers == [b"x" * 100] * 20


async def test_a_flood_is_read_in_portions_and_others_have_their_turn(server, client, engine, nursery):
    count = 20 * BATCH
    for _ in range(20):
        client.send_batch(path_to(server), [b"x"] * BATCH)
    turns = []

    async def neighbour():
        while True:
            await trio.lowlevel.checkpoint()
            turns.append(len(engine.batches))

    nursery.start_soon(neighbour)
    nursery.start_soon(engine.driver.run)
    await until(engine, lambda: len(engine.packets()) == count)
    portions = [sum(len(packets) for _path, packets in batch) for _now, batch in engine.batches]
    assert max(portions) < BATCH + 64
    assert len(portions) >= 10
    # trio shuffles who runs first in each round, so it may be this portion's or the next one's.
    assert all(after - before <= 2 for before, after in itertools.pairwise(turns))


async def test_packets_of_all_sockets_are_answered_by_the_socket_they_came_to(errors, nursery):
    sockets = bind_all([("127.0.0.1", 0), ("::1", 0)], errors)
    sockets[1]._index = 1
    driver = Driver(sockets, errors)
    engine = driver.engine = FakeEngine(driver)
    nursery.start_soon(driver.run)
    clients = [connect(udp.sock.getsockname()[:2], errors) for udp in sockets]
    for number, client in enumerate(clients):
        client.send_batch(UdpPath(("", 0)), [bytes([number])])
    await until(engine, lambda: len(engine.packets()) == 2)
    assert [client.receive_batch(1)[0][1] for client in clients] == [[b"\0"], [b"\1"]]
    path = UdpPath(clients[1].sock.getsockname(), b"", 1)
    assert driver.local_address(path) == sockets[1].sock.getsockname()[:2]
    assert driver.max_payload(path) == sockets[1].max_payload(path)
    for udp in [*sockets, *clients]:
        udp.close()


async def test_an_icmp_answer_is_told_to_the_engine(server, errors, nursery):
    client = connect(server.sock.getsockname(), errors)
    driver = Driver([client], errors)
    engine = driver.engine = FakeEngine(driver)
    nursery.start_soon(driver.run)
    await trio.testing.wait_all_tasks_blocked()
    server.close()
    driver.transmit(path_to(client), [b"x"])
    await until(engine, lambda: engine.errors)
    assert errors["ECONNREFUSED"] == 1
    assert not engine.batches
    client.close()


async def test_timers_are_handled_when_due_and_armed_anew(engine, autojump_clock, nursery):
    engine.deadline = 5.0
    nursery.start_soon(engine.driver.run)
    await until(engine, lambda: engine.timers)
    assert engine.timers == [5.0]
    engine.deadline = 7.0
    engine.driver.rearm()
    await until(engine, lambda: len(engine.timers) == 2)
    engine.deadline = 9.0
    engine.driver.rearm()
    engine.deadline = 8.0  # earlier than what was armed
    engine.driver.rearm()
    await until(engine, lambda: len(engine.timers) == 3)
    assert engine.timers == [5.0, 7.0, 8.0]


async def test_a_batch_arms_the_timer(server, client, engine, nursery):
    nursery.start_soon(engine.driver.run)
    await trio.testing.wait_all_tasks_blocked()
    engine.deadline = trio.current_time()  # as if the batch below had made it due
    client.send_batch(path_to(server), [b"x"])
    await until(engine, lambda: engine.timers)
    assert engine.packets() == [b"x"]
