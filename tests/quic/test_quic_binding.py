"""The channel binding: equal at both ends, different each time, and what RFC 8446 and RFC 9266 say it is."""

from __future__ import annotations

import hashlib
import hmac
import inspect
from typing import ClassVar

import pytest
from aioquic import tls
from quic_world import World

from lanparty.quic.internals.exporter import BINDING_SIZE, BoundTls, export_binding


def expand_label(algorithm: str, secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446 section 7.1) for one block of output, by hand."""
    label = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(label)]) + label + bytes([len(context)]) + context
    return hmac.digest(secret, info + b"\1", algorithm)[:length]


class Recorded(tls.KeySchedule):
    """Notes what goes into a key schedule: the shared secret, and the transcript as it grows."""

    made: ClassVar[list[Recorded]] = []

    def __init__(self, cipher_suite: tls.CipherSuite) -> None:
        super().__init__(cipher_suite)
        self.inputs: list[bytes] = []
        self.transcripts: list[bytes] = []
        self.messages = b""
        self.made.append(self)

    def extract(self, key_material: bytes | None = None) -> None:
        super().extract(key_material)
        self.inputs.append(key_material or bytes(self.algorithm.digest_size))
        self.transcripts.append(self.messages)

    def update_hash(self, data: bytes) -> None:
        super().update_hash(data)
        self.messages += data

    def expected_binding(self) -> bytes:
        """The whole of RFC 8446 section 7.1 again, on the standard library alone."""
        name = self.algorithm.name
        size = hashlib.new(name).digest_size
        empty = hashlib.new(name).digest()
        secret = bytes(size)
        for number, material in enumerate(self.inputs):
            if number:
                secret = expand_label(name, secret, b"derived", empty, size)
            secret = hmac.digest(secret, material, name)
        up_to_server_finished = hashlib.new(name, self.transcripts[2]).digest()
        master = expand_label(name, secret, b"exp master", up_to_server_finished, size)
        label = expand_label(name, master, b"EXPORTER-Channel-Binding", empty, size)
        return expand_label(name, label, b"exporter", empty, 32)


def test_both_ends_have_the_same_and_each_connection_another() -> None:
    world = World()
    bindings = set()
    for port in range(5):
        client = world.client(("192.0.2.1", port))
        assert client.connection.binding == b""
        world.run(0.5)
        assert client.connection.binding == world.accepted[-1].binding
        bindings.add(client.connection.binding)
    assert len(bindings) == 5
    assert {len(binding) for binding in bindings} == {BINDING_SIZE}


def test_it_is_there_when_the_relay_hears_of_the_connection_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    seen: list[bytes] = []
    accepted = world._on_connection
    world.table._on_connection = lambda connection: (seen.append(connection.binding), accepted(connection))[1]
    client, server = world.pair()
    world.run(1.0)  # the handshake is confirmed, and what it needed is let go (``internals.slim``)
    assert server._quic.tls.key_schedule is None
    assert seen == [server.binding] == [client.binding]


def test_it_survives_a_retry() -> None:
    world = World()
    world.table._forgeries, world.table._forgeries_at = 1000.0, world.now  # under pressure: everybody gets a Retry
    client, server = world.pair()
    assert world.table.counters["retries"] == 1
    assert len(client.binding) == BINDING_SIZE
    assert client.binding == server.binding


@pytest.mark.parametrize("suite", list(tls.CipherSuite)[:3])
def test_it_is_what_the_rfcs_say(monkeypatch: pytest.MonkeyPatch, suite: tls.CipherSuite) -> None:
    monkeypatch.setattr(tls, "KeySchedule", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    world = World()
    client = world.client(connect=False)
    client.quic._configuration.cipher_suites = [suite]
    client.connect()
    world.run(0.5)
    assert client.connection.established
    complete = [schedule for schedule in Recorded.made if len(schedule.inputs) == 3]
    assert len(complete) == 2
    assert complete[0].inputs == complete[1].inputs
    for schedule in complete:
        assert client.connection.binding == schedule.expected_binding()
    assert client.connection.binding == world.accepted[-1].binding


def test_what_of_aioquic_it_rests_on() -> None:
    """Fails by name when aioquic moves one of them."""
    assert list(inspect.signature(tls.Context._setup_traffic_protection).parameters) == [
        "self", "direction", "epoch", "label",
    ]  # fmt: skip
    assert list(inspect.signature(tls.hkdf_expand_label).parameters) == [
        "algorithm", "secret", "label", "hash_value", "length",
    ]  # fmt: skip
    assert list(inspect.signature(tls.KeySchedule.derive_secret).parameters) == ["self", "label"]
    schedule = tls.KeySchedule(tls.CipherSuite.AES_128_GCM_SHA256)
    assert (schedule.generation, schedule.hash_empty_value) == (0, hashlib.sha256().digest())
    assert {"channel_binding", "export_binding"}.isdisjoint(dir(tls.Context))


def test_it_is_made_once_at_each_end_from_the_master_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any other moment the label would be another secret's, or the transcript another one."""
    labels: list[tuple[bool, bytes, int]] = []
    setup = BoundTls._setup_traffic_protection

    def noted(self: BoundTls, direction: tls.Direction, epoch: tls.Epoch, label: bytes) -> None:
        labels.append((self._is_client, label, self.key_schedule.generation))
        setup(self, direction, epoch, label)

    monkeypatch.setattr(BoundTls, "_setup_traffic_protection", noted)
    World().pair()
    for is_client in (True, False):
        made = [(label, generation) for side, label, generation in labels if side is is_client]
        assert made.count((b"s ap traffic", 3)) == 1
        assert [label for label, generation in made if generation == 3] == [b"s ap traffic"]


def test_the_key_schedule_of_rfc_8448() -> None:
    """Section 3: the exporter master secret of a real handshake, then the exporter of RFC 8446 section 7.5 over it."""
    schedule = tls.KeySchedule(tls.CipherSuite.AES_128_GCM_SHA256)
    schedule.secret = bytes.fromhex("18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919")
    transcript = "9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13"
    master = expand_label("sha256", schedule.secret, b"exp master", bytes.fromhex(transcript), 32)
    assert master.hex() == "fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50"

    class Finished(tls.KeySchedule):
        def derive_secret(self, label: bytes) -> bytes:
            assert label == b"exp master"
            return master

    finished = Finished(tls.CipherSuite.AES_128_GCM_SHA256)
    empty = hashlib.sha256().digest()
    secret = expand_label("sha256", master, b"EXPORTER-Channel-Binding", empty, 32)
    assert export_binding(finished) == expand_label("sha256", secret, b"exporter", empty, 32)
