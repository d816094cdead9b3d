"""Keys in the batched path: the three cipher suites, key updates from either end, and what an update must not break."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from aioquic import tls
from aioquic.tls import CipherSuite
from quic_ledger import marked
from quic_pairs import OURS, PLAIN, STOCK, End, Link, Pair, pair
from quic_world import DELAY, Seen
from test_quic_connection import in_short_header

from lanparty.quic.engine import Received
from lanparty.quic.internals.keys import Keys

ONE_RTT = tls.Epoch.ONE_RTT


def phase(end: End) -> int:
    return end.quic._cryptos[ONE_RTT].send.key_phase


def traffic(made: Pair, count: int, first: int = 0, pause: float = 0.001) -> None:
    """Datagrams both ways, several to a batch."""
    for number in range(first, first + count, 4):
        for side, end in enumerate(made.ends):
            end.send([marked("cs"[side], number + part, 600) for part in range(4)])
        made.world.run(pause)


def all_of(who: str, count: int) -> set[bytes]:
    return {marked(who, number, 600) for number in range(count)}


@pytest.mark.parametrize(
    "suite",
    [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384, CipherSuite.CHACHA20_POLY1305_SHA256],
    ids=lambda suite: suite.name,
)
@pytest.mark.parametrize("kinds", [(OURS, OURS), (OURS, STOCK)], ids="-".join)
def test_a_whole_connection_with_each_cipher_suite(kinds, suite):
    def prepare(quic):
        quic._configuration.cipher_suites = [suite]

    with pair(kinds, prepare=prepare) as made:
        for end in made.ends:
            assert end.quic._cryptos[ONE_RTT].send.cipher_suite is suite
        traffic(made, 200)
        made.client.update_keys()
        traffic(made, 200, 200)
        made.world.run(1.0)
        made.check_drained()
        assert set(made.server.received) == all_of("c", 400)
        assert set(made.client.received) == all_of("s", 400)
        direction = made.ledger.sent_by(made.client.quic)
        assert direction.batched > 0.9 * len(direction.payloads)
        assert len(direction.phases) == 2
        if kinds == (OURS, OURS):
            opened = sum(len(made.ledger.sent_by(end.quic).opened) for end in made.ends)
            assert made.ledger.opened_in_batches > 0.9 * opened


@pytest.mark.parametrize("kinds", [(OURS, OURS), (PLAIN, OURS), (OURS, PLAIN)], ids="-".join)
def test_many_updates_by_both_ends_under_jitter_lose_nothing(kinds):
    """Packets of the phase before keep coming, and are opened: by the batch, and by aioquic's path."""
    with pair(kinds, link=Link(random.Random(1), jitter=0.004)) as made:
        for turn in range(10):
            made.ends[turn % 2].update_keys()
            traffic(made, 100, 100 * turn, 0.004)
        made.world.run(2.0)
        made.check_drained()
        assert set(made.server.received) == all_of("c", 1000)
        assert set(made.client.received) == all_of("s", 1000)
        assert min(len(made.ledger.sent_by(end.quic).phases) for end in made.ends) >= 6


def test_stock_loses_what_is_on_its_way_when_it_updates_and_we_do_not():
    lost = {}
    for kinds in ((STOCK, STOCK), (OURS, OURS)):
        with pair(kinds) as made:
            traffic(made, 40)
            made.client.update_keys()
            traffic(made, 40, 40)
            made.world.run(1.0)
            lost[kinds] = 80 - len(made.client.received)
    assert lost[OURS, OURS] == 0
    assert lost[STOCK, STOCK] > 10


def hole(made: Pair) -> list[bool]:
    """Have the link drop everything that the client sends, while the switch that is returned is on."""
    switch = [False]

    def link(seen: Seen) -> Sequence[float]:
        return () if switch[0] and seen.from_client else (DELAY,)

    made.world.link = link
    return switch


def two_updates_and_loss(kinds: tuple[str, str]) -> int:
    """Packets delivered after the client has asked for two key updates and everything under the first was lost."""
    with pair(kinds) as made:
        lossy = hole(made)
        lossy[0] = True
        for number in range(2):
            made.client.quic.request_key_update()  # at stock without the tests' own guard
            made.client.send([marked("c", number, 600)])
            made.world.run(0.02)
        lossy[0] = False
        made.server.received.clear()
        for number in range(2, 12):
            made.client.send([marked("c", number, 600)])
            made.world.run(0.3)
        return len(made.server.received)


def test_two_updates_with_the_first_one_lost_deafen_stock_for_good_and_us_not_at_all():
    assert two_updates_and_loss((STOCK, STOCK)) == 0
    assert two_updates_and_loss((OURS, OURS)) == 10


def test_a_second_update_waits_for_an_acknowledgement_of_what_was_sent_under_the_first():
    with pair((OURS, OURS)) as made:
        client, server = made.ends
        lossy = hole(made)
        before = phase(client)
        client.update_keys()
        assert not client.quic.key_update_confirmed
        client.update_keys()
        client.send([b"new keys"])
        assert phase(client) != before
        made.world.run(0.1)
        assert client.quic.key_update_confirmed
        lossy[0] = True
        client.update_keys()
        client.send([b"lost"])
        for _ in range(5):
            made.world.run(0.1)
            client.update_keys()
            client.send([b"lost, too"])
        assert phase(client) == before
        assert len(made.ledger.sent_by(client.quic).phases) == 3
        lossy[0] = False
        made.world.run(1.0)
        client.send([b"heard"])
        made.world.run(0.1)
        assert phase(server) == before
        assert server.received[-1] == b"heard"
        client.update_keys()
        client.send([b"fourth"])
        made.world.run(0.1)
        assert len(made.ledger.sent_by(client.quic).phases) == 4


def test_an_update_of_the_peers_is_confirmed_by_an_acknowledgement_like_our_own():
    with pair((OURS, OURS)) as made:
        client, server = made.ends
        lossy = hole(made)
        client.update_keys()
        client.send([b"x"])
        made.world.run(DELAY + 0.001)
        lossy[0] = True  # the server has followed, but hears of nothing that it sends
        server.send([b"y"])
        made.world.run(0.1)
        assert phase(server) == phase(client)
        assert not server.quic.key_update_confirmed
        assert client.quic.key_update_confirmed
        lossy[0] = False
        made.world.run(1.0)
        client.send([b"z"])
        made.world.run(0.1)
        assert server.quic.key_update_confirmed


def test_no_update_before_the_handshake_is_confirmed():
    with pair((OURS, OURS)) as made:
        fresh = made.world.client(("192.0.2.77", 7), connect=False)
        fresh.quic.request_key_update()
        fresh.connect()
        made.world.run(1.0)
        assert fresh.connection.established
        assert fresh.quic._cryptos[ONE_RTT].send.key_phase == 0


@pytest.mark.parametrize("address", [False, True])
def test_an_update_while_the_peer_gets_another_address_deafens_stock_for_good_and_us_not_at_all(address):
    """The server cannot reach the client any more, so the client cannot follow; the server must go on hearing it."""
    heard = {}
    for kinds in ((STOCK, STOCK), (OURS, OURS), (OURS, PLAIN)):
        with pair(kinds) as made:
            made.server.update_keys()
            made.rebind(address=address)
            for number in range(20):
                made.server.send([marked("s", number, 20)])
                made.client.send([marked("c", number, 20)])
                made.world.run(0.1)
            heard[kinds] = len(made.server.received), len(made.client.received)
    assert heard[STOCK, STOCK] == (0, 0)
    assert heard[OURS, OURS] == heard[OURS, PLAIN] == (20, 19)


def test_a_flipped_key_phase_on_a_forged_packet_changes_no_keys():
    with pair((OURS, OURS)) as made:
        client, server = made.ends
        rng = random.Random(3)
        template = in_short_header(client.quic, b"\x31\x05hello")
        for _ in range(200):
            packet = bytearray(template)
            packet[0] = 0x40 | rng.randrange(64)
            packet[-1] ^= 1
            made.world.table.receive_untrusted(
                [Received(server.connection._quic._network_paths[0].addr, [bytes(packet)])], made.world.now
            )
        assert phase(client) == phase(server) == 0
        assert len(server.quic._cryptos[ONE_RTT].recv.secret) > 0
        traffic(made, 8)
        made.world.run(1.0)
        assert set(server.received) == all_of("c", 8)
        assert server.closed is None


def test_old_keys_go_three_probe_timeouts_after_the_first_packet_under_new_ones():
    with pair((OURS, OURS)) as made:
        client, server = made.ends
        keys: Keys = server.quic._key_store
        late = in_short_header(client.quic, b"\x31\x04late")
        very_late = in_short_header(client.quic, b"\x31\x04very")
        path = server.quic._network_paths[0].addr
        server.update_keys()
        server.send([b"x"])
        made.world.run(0.005)  # the client has not followed yet, however long it takes it
        keys.receive()
        assert keys.late(made.world.now + 1000) is not None
        made.world.run(0.1)
        client.send([b"y"])
        made.world.run(0.02)
        made.world.table.receive_untrusted([Received(path, [late])], made.world.now)
        assert server.received == [b"y", b"late"]
        made.world.run(3 * server.quic._recovery.pto + 0.1)
        assert keys.late(made.world.now) is None
        made.world.table.receive_untrusted([Received(path, [very_late])], made.world.now)
        assert server.received == [b"y", b"late"]
        assert server.closed is None


@pytest.mark.parametrize("update", [False, True])
def test_reserved_bits_in_an_authentic_packet_end_the_connection_in_either_phase(update):
    with pair((OURS, OURS)) as made:
        client, server = made.ends
        crypto, number = client.quic._cryptos[ONE_RTT], client.quic._packet_number
        client.quic._packet_number += 1
        header = b"\x51" + client.quic._peer_cid.cid + number.to_bytes(2, "big")
        packet = crypto.encrypt_packet(header, bytes(20), number)
        if update:
            server.update_keys()
            server.send([b"x"])
        path = server.quic._network_paths[0].addr
        made.world.table.receive_untrusted([Received(path, [packet])], made.world.now)
        assert server.closed is not None
        assert server.closed.transport
        assert server.closed.code == 0xA


@pytest.mark.parametrize("side", [0, 1])
def test_packets_to_another_of_our_connection_ids_take_the_batched_path_again(side):
    """Either end may change to another id of the other's (RFC 9000 section 5.1.2): that must not cost speed."""
    with pair((OURS, OURS)) as made:
        for number in range(3):
            mover = made.ends[side].quic
            before = mover._peer_cid.cid
            mover.change_connection_id()
            made.ends[side].connection.flush()
            traffic(made, 40, 200 * number)
            made.world.run(0.2)
            assert mover._peer_cid.cid != before
            opened = made.ledger.opened_in_batches
            taken = sum(len(made.ledger.sent_by(end.quic).opened) for end in made.ends)
            traffic(made, 100, 200 * number + 100)
            made.world.run(0.2)
            taken = sum(len(made.ledger.sent_by(end.quic).opened) for end in made.ends) - taken
            assert made.ledger.opened_in_batches - opened == taken > 90
        made.world.run(1.0)
        made.check_drained()


def test_after_rebinds_both_ends_are_back_on_the_batched_path():
    with pair((OURS, OURS)) as made:
        for number in range(6):
            made.rebind(address=number % 2 == 0)
            made.client.send([b"here now"])
            made.world.run(0.5)
        opened = made.ledger.opened_in_batches
        traffic(made, 100)
        made.world.run(0.5)
        assert made.ledger.opened_in_batches - opened > 90
