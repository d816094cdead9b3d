"""What stock aioquic does wrong for a tunnel, each shown on stock and beside it on ours.

Rows of the table of hazards, as far as the engine is concerned. When a new aioquic fails the half that is about stock,
it has mended something: then see whether ours is still needed. Key updates are in ``test_quic_engine_keys``, windows of
streams in ``test_quic_table``.
"""

from __future__ import annotations

import math
import random
import tracemalloc
from collections.abc import Callable

import pytest
from aioquic import tls
from aioquic.buffer import encode_uint_var
from aioquic.quic.connection import QuicConnection
from quic_ledger import marked
from quic_pairs import OURS, PLAIN, STOCK, End, Pair, pair
from quic_stock import stock_client, stock_server
from quic_world import DELAY, World
from test_quic_connection import in_short_header

from lanparty.quic.codec import AckFrame, frames_untrusted
from lanparty.quic.connection import UdpPath
from lanparty.quic.engine import Received
from lanparty.quic.flight import Flight
from lanparty.quic.settings import GOODBYES, IDLE_TIMEOUT, QUEUE_BYTES

ONE_RTT = tls.Epoch.ONE_RTT
BOTH = [(STOCK, STOCK), (OURS, OURS)]


ACK_RANGES = 256


def both(measure: Callable[[Pair], object], **options: object) -> tuple[object, object]:
    """What ``measure`` finds on a pair of stock ends, and on a pair of ours."""
    found = []
    for kinds in BOTH:
        with pair(kinds, **options) as made:
            found.append(measure(made))
    return found[0], found[1]


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_one_datagram_too_large_jams_all_later_ones():
    def later(made: Pair) -> int:
        for number in range(10):
            made.client.send([bytes(1171) if number == 3 else marked("c", number, 20)])
            made.world.run(0.05)
        return len(made.server.received)

    stock, ours = both(later, max_payload=1200)
    assert stock == 3
    assert ours == 9


def test_the_send_queue_grows_in_a_black_hole():
    def waiting(made: Pair) -> int:
        made.world.link = lambda _seen: ()
        for _ in range(100):
            made.client.send([bytes(1000)] * 20)
            made.world.run(0.01)
        if isinstance(made.client, End):
            assert not made.client.quic._datagrams_pending
            return made.client.connection.queue_bytes
        return sum(map(len, made.client.quic._datagrams_pending))

    stock, ours = both(waiting)
    assert stock > 1_900_000
    assert ours <= QUEUE_BYTES


def test_the_peers_limit_is_not_looked_at():
    """A peer that takes 500 bytes gets 1000, and closes."""
    for kinds, alive in (((STOCK, STOCK), False), ((STOCK, OURS), True)):
        with pair(kinds) as made:
            # As if the client had said so in its transport parameters.
            made.client.quic._configuration.max_datagram_frame_size = 500
            made.server.quic._remote_max_datagram_frame_size = 500
            made.server.send([bytes(1000), b"small"])
            made.world.run(0.2)
            assert (made.client.closed is None) == alive
            assert (b"small" in made.client.received) == alive


def test_nobody_is_told_of_a_lost_datagram():
    """Stock has no event for it; our engine knows its packet number, and congestion control the bytes."""
    with pair((STOCK, STOCK)) as made:
        events = []
        quic = made.client.quic
        original = quic.next_event
        quic.next_event = lambda: events.append(original()) or events[-1]
        made.world.link = lambda _seen: ()
        made.client.send([b"lost"])
        made.world.run(0.001)
        made.world.link = lambda _seen: (DELAY,)
        for number in range(10):
            made.client.send([marked("c", number, 20)])
            made.world.run(0.05)
        assert len(made.server.received) == 10
        assert not [event for event in events if event is not None]
    with pair((OURS, OURS)) as made:
        quic = made.client.quic
        samples = []
        original = quic.control.on_ack
        quic.control.on_ack = lambda sample: (samples.append(sample), original(sample))
        number = quic._packet_number
        made.world.link = lambda _seen: ()
        made.client.send([b"lost"])
        made.world.run(0.001)
        made.world.link = lambda _seen: (DELAY,)
        for index in range(10):
            made.client.send([marked("c", index, 20)])
            made.world.run(0.05)
        assert made.ledger.lost_of(quic) == {number}
        assert sum(sample.lost for sample in samples) == 1 + 8 + 2 + len(b"\x31\x04lost") + 16


def test_the_window_grows_while_there_is_hardly_anything_to_send():
    """Ten small packets per second for a minute: reno then believes in a path it has never seen."""

    def growth(made: Pair) -> float:
        def window() -> int:
            return made.client.quic._loss.congestion_window

        before = window()
        for _ in range(2000):
            made.client.send([bytes(400)])
            made.world.run(0.03)
        return window() / before

    stock, ours = both(growth)
    assert stock > 10
    assert ours < 2


# -- what is received --------------------------------------------------------------------------------------------------


def sealed(quic: QuicConnection, count: int) -> list[bytes]:
    """Packets of one end, in the order of their numbers, one datagram each."""
    return [in_short_header(quic, b"\x31\x09" + marked("c", number, 9)) for number in range(count)]


def test_jitter_at_20_000_packets_per_second():
    """0-10 ms of it: stock takes what is 128 packets late for a duplicate, and never acknowledges it."""
    acknowledged = {}

    def arrived(made: Pair) -> int:
        rng = random.Random(1)
        packets = sealed(made.client.quic, 4000)
        arrivals = sorted((number / 20_000 + rng.random() * 0.010, packet) for number, packet in enumerate(packets))
        path = made.server.quic._network_paths[0].addr
        server = made.world.table
        start = made.world.now
        index = 0
        for tick in range(220):
            now = start + tick / 1000
            batch = []
            while index < len(arrivals) and start + arrivals[index][0] <= now:
                batch.append(arrivals[index][1])
                index += 1
            if batch:
                made.world.now = now
                server.receive_untrusted([Received(path, batch)], now)
        made.world.run(0.05)
        acknowledged[type(made.server)] = {number for r in made.server.quic._spaces[ONE_RTT].ack_queue for number in r}
        return len(set(made.server.received))

    stock, ours = both(arrived)
    assert stock < 3500
    assert ours == 4000


@pytest.mark.parametrize("kinds", [(OURS, OURS), (PLAIN, PLAIN), (STOCK, OURS), (OURS, STOCK)], ids="-".join)
@pytest.mark.parametrize("ahead", [0, 1, 1000, 2**40])
def test_an_acknowledgement_of_what_was_never_sent(kinds, ahead):
    """RFC 9000 section 13.1 has it end the connection; stock believes it, and sends ever more."""
    with pair(kinds) as made:
        made.server.send([b"x"])
        made.world.run(0.1)
        number = made.server.quic._packet_number + ahead
        frame = b"\x02" + encode_uint_var(number) + b"\x00\x00\x00"
        packet = in_short_header(made.client.quic, frame)
        server = made.world.table
        server.receive_untrusted([Received(made.server.quic._network_paths[0].addr, [packet])], made.world.now)
        made.world.run(0.1)
        if kinds[1] == STOCK:
            assert made.server.closed is None
            assert made.server.quic._spaces[ONE_RTT].largest_acked_packet == number
        else:
            assert made.server.closed is not None
            assert (made.server.closed.code, made.server.closed.transport) == (0xA, True)


def test_streams_that_a_stranger_opens_at_high_offsets_cost_stock_much_memory():
    """The other half, ours, is in test_quic_table."""
    with pair((STOCK, STOCK)) as made:
        tracemalloc.start()
        try:
            for stream in range(100):
                frame = b"\x0e" + encode_uint_var(4 * stream) + encode_uint_var(500_000) + b"\x0a" + bytes(10)
                made.world.carry(in_short_header(made.client.quic, frame), made.client.end, None)
                made.world.run(0.05)  # stock tells the stranger of ever larger windows
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert made.server.closed is None
        assert peak > 30 * 1024 * 1024


# -- the path ----------------------------------------------------------------------------------------------------------


def test_packets_larger_than_the_path_vanish():
    """1400 bytes on a path of 1300: stock, told to send 1400, gets nothing across; we find out what fits."""
    world = World()
    server = stock_server(world)
    client = stock_client(world)
    world.run(0.5)
    assert client.quic is not None
    client.quic._max_datagram_size = 1400
    world.link = lambda seen: (DELAY,) if len(seen.packet) <= 1300 else ()
    for number in range(100):
        client.send([marked("c", number, 1300)])
        world.run(0.2)
    assert server.received == []

    world = World(link=lambda seen: (DELAY,) if len(seen.packet) <= 1300 else (), max_payload=1400)
    ours, _server = world.pair()
    world.run(5.0)
    budget = ours.datagram_budget
    assert 1250 < budget + 30 <= 1300
    for number in range(100):
        ours.send_datagrams([marked("c", number, budget)])
        ours.flush()
        world.run(0.2)
    assert len(world.received) == 100


def test_a_goodbye_that_is_lost():
    """Stock says it once, and its peer waits for the idle time-out; ours says it three times."""
    for kinds in BOTH:
        with pair(kinds) as made:
            made.world.link = lambda _seen: ()
            began = made.world.now
            if isinstance(made.client, End):
                made.client.connection.close(1, "bye")
            else:
                made.client.quic.close(error_code=1, reason_phrase="bye")
                made.client.end._pump()
            made.world.link = lambda _seen: (DELAY,)
            while made.server.closed is None and made.world.now < began + 200:
                made.world.run(0.01)
            waited = made.world.now - began
            if kinds == (OURS, OURS):
                assert GOODBYES == 3
                assert made.server.closed.by_peer
                assert waited < 0.1
            else:
                assert made.server.closed.reason_phrase == "Idle timeout"
                assert waited > IDLE_TIMEOUT


# -- hostile acknowledgements ------------------------------------------------------------------------------------------


def ack_frame(ranges: list[tuple[int, int]], delay: int = 0) -> bytes:
    """An ACK frame; ``ranges`` are inclusive, newest first, and may be nonsense as long as the wire can say it."""
    largest = ranges[0][1]
    out = b"\x02" + encode_uint_var(largest) + encode_uint_var(delay) + encode_uint_var(len(ranges) - 1)
    out += encode_uint_var(ranges[0][1] - ranges[0][0])
    smallest = ranges[0][0]
    for first, last in ranges[1:]:
        out += encode_uint_var(smallest - last - 2) + encode_uint_var(last - first)
        smallest = first
    return out


def alternating(largest: int, count: int) -> list[tuple[int, int]]:
    """Every second number from ``largest`` down."""
    return [(number, number) for number in range(largest, max(largest - 2 * count, -1), -2)]


def inject(made: Pair, frames: bytes) -> None:
    """A packet of the client's, with whatever frames, at the server."""
    packet = in_short_header(made.client.quic, frames)
    path = made.server.quic._network_paths[0].addr
    made.world.table.receive_untrusted([Received(path, [packet])], made.world.now)


@pytest.mark.parametrize("seed", range(4))
def test_acknowledgements_of_any_pattern_never_raise_and_memory_stays_bounded(seed):
    rng = random.Random(seed)
    with pair((OURS, OURS)) as made:
        client, server = made.ends
        made.world.link = lambda seen: () if not seen.from_client else (DELAY,)  # so the client has no ACKs of its own
        flight = server.quic._recovery.flight
        for _ in range(400):
            server.send([bytes(rng.choice((30, 600, 1100)))] * rng.randrange(8))
            made.world.run(rng.choice((0.0, 0.001, 0.02)))
            top = server.quic._packet_number - 1
            largest = max(0, top - rng.choice((0, 0, 1, 5, 100)))
            match rng.randrange(4):
                case 0:
                    ranges = alternating(largest, rng.choice((1, 10, 400)))
                case 1:
                    ranges = [(rng.randrange(largest + 1), largest)]
                case 2:
                    cuts = sorted(rng.sample(range(largest + 1), min(largest + 1, 2 * rng.randrange(1, 12))))
                    pairs = [(cuts[at], cuts[at + 1]) for at in range(0, len(cuts) - 1, 2)][::-1]
                    ranges = [r for at, r in enumerate(pairs) if at == 0 or r[1] < pairs[at - 1][0] - 1]
                    ranges = ranges or [(largest, largest)]
                case _:
                    ranges = [(largest, largest)]
            inject(made, ack_frame(ranges, rng.choice((0, 1, 2**20, 2**60))) * rng.choice((1, 1, 3)))
            made.check_alike()
            assert len(flight._runs) <= flight.packets
            assert len(flight._lost) <= 256
            assert flight.reorder <= 4096
            assert math.isfinite(server.quic._recovery.pto)
        assert server.closed is None
        assert client.closed is None
        assert made.world.table.counters["hostile_input"] == made.world.table.counters["internal_error"] == 0


@pytest.mark.parametrize(
    "frame",
    [
        b"\x02\x05\x00\x00\x06",  # the first range goes below 0
        b"\x02\x09\x00\x01\x00\x09\x00",  # a gap below 0
        b"\x02\x09\x00\x01\x00\x00\x09",  # a range below 0
        b"\x02\x09\x00\x3f\x00\x00\x00",  # 63 ranges announced, one there
        b"\x02\x09\x00\xff\xff\xff\xff\xff\xff\xff\xff\x00",  # 2^62 - 1 ranges announced
        b"\x03\x01\x00\x00\x00\x01\x01",  # two of three ECN counts
        b"\x02\x09",
    ],
)
@pytest.mark.parametrize("kind", [OURS, PLAIN])
def test_malformed_acknowledgements_end_the_connection(frame, kind):
    """FRAME_ENCODING_ERROR (RFC 9000 section 19.3)."""
    with pair((OURS, kind)) as made:
        for _ in range(5):
            made.server.send([b"x"])
            made.world.run(0.05)
        inject(made, frame)
        assert (made.server.closed.code, made.server.closed.transport) == (0x7, True)
        assert made.world.table.counters["hostile_input"] == made.world.table.counters["internal_error"] == 0


def test_many_ranges_against_many_losses_cost_little():
    """As many ranges as fit a packet, against the 256 runs given up that are remembered: they are not all compared, as
    that took 25 ms for each ACK frame."""
    flight: Flight[None] = Flight()
    for number in range(7000):
        flight.on_sent(number, 1, 100, 0.001 * number)
    flight.on_ack([(number, number) for number in range(6999, 0, -10)], 7.0, 0.0, 0.01)
    assert len(flight._lost) == 256
    looked_at = 0

    class Counting(list):
        def __iter__(self):
            nonlocal looked_at
            looked_at += len(self)
            return super().__iter__()

        def __getitem__(self, index):
            nonlocal looked_at
            looked_at += 1 if isinstance(index, int) else len(self)
            found = super().__getitem__(index)
            return found if isinstance(index, int) else Counting(found)

    ranges = Counting((number, number) for number in range(6999, 0, -10))
    assert flight.on_ack(ranges, 7.0, 0.0, 0.01).spurious == 0
    assert looked_at < 8 * len(ranges)
    ranges = Counting((number - 1, number) for number in range(6999, 0, -10))
    outcome = flight.on_ack(ranges, 7.0, 0.0, 0.01)
    assert 20 < outcome.spurious < 40
    assert len(flight._lost) == 256 - outcome.spurious
    assert looked_at < 16 * len(ranges)


def test_received_numbers_ack_ranges_and_queues_stay_bounded_when_a_peer_skips_numbers():
    with pair((OURS, OURS)) as made:
        client, server = made.ends
        rng = random.Random(5)
        for _ in range(3000):
            client.quic._packet_number += rng.choice((1, 2, 3, 50, 5000))
            inject(made, b"\x31\x01x")
        assert server.quic._received._missing.bit_length() <= 3 * 8192
        assert len(server.quic._spaces[ONE_RTT].ack_queue) <= ACK_RANGES
        assert server.closed is None


def test_a_packet_that_comes_between_an_acknowledgement_and_its_own_is_acknowledged_all_the_same():
    """aioquic's rule, to forget all up to the largest number when the peer has that ACK, would forget it, too."""

    def named(made: Pair) -> list[bool]:
        outcomes = []
        for _ in range(5):
            first, late, *rest = sealed(made.client.quic, 4)
            number = made.client.quic._packet_number - 3
            path = made.server.quic._network_paths[0].addr

            def take(packets: list[bytes], path: UdpPath = path) -> None:
                made.world.table.receive_untrusted([Received(path, packets)], made.world.now)

            take([first, *rest])
            made.server.send([b"an answer that is acknowledged at once"] * 2)  # and the ACK with it
            made.world.run(2 * DELAY - 0.002)
            take([late])
            made.world.run(0.004)
            acknowledged: set[int] = set()
            made.world.run(0.1)
            for payload in made.ledger.sent_by(made.server.quic).payloads.values():
                acks: list[AckFrame] = []
                frames_untrusted(payload, [], acks)
                for ack in acks:
                    for low, high in ack.ranges:
                        acknowledged.update(range(low, high + 1))
            outcomes.append(number in acknowledged)
        return outcomes

    with pair((OURS, OURS)) as made:
        assert named(made) == [True] * 5


def test_the_loss_timer_gives_up_at_the_very_moment_that_it_was_set_for():
    """With rounding the other way it was due again and again at that moment: a busy loop until the clock moved on."""
    rng = random.Random(9)
    for _ in range(2000):
        flight: Flight[None] = Flight()
        sent_at = 1000 + rng.random()
        flight.on_sent(0, 1, 100, sent_at)
        flight.on_sent(1, 1, 100, sent_at)
        srtt = 0.05 * rng.random() + 0.03
        outcome = flight.on_ack([(1, 1)], sent_at + 0.02, 0.0, srtt)
        assert not outcome.lost
        assert flight.loss_time is not None
        assert [run.start for run in flight.on_loss_timer(flight.loss_time, srtt).lost] == [0]


@pytest.mark.parametrize("away", [1.0, 2.0, 3.5])
def test_a_path_that_comes_back_is_found_within_half_a_second(away):
    """However long it was away: with everything in flight unanswered, nothing but probes may leave."""
    gone = False
    world = World(link=lambda seen: () if gone else (DELAY,))
    client, server = world.pair()

    def play(seconds):
        for _ in range(round(seconds * 100)):
            for side in (client, server):
                side.send_datagrams([bytes(1000)])
                side.flush()
            world.run(0.01)

    play(1)
    gone = True
    play(away)
    gone = False
    mark = len(world.received)
    play(0.5 + 4 * DELAY)
    assert len(world.received) > mark
