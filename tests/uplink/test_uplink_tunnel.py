"""The data path between a device and a connection: no tasks, no clock."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.link.device import DeviceCounters
from lanparty.obs.counters import TunnelCounters
from lanparty.obs.framelog import FrameLog
from lanparty.obs.log import captured
from lanparty.proto.fragments import Reassembler
from lanparty.proto.overlay import PARTIAL_STAMP, Echo, OverlayCounters, OverlayDecoder, OverlayEncoder, encode_echo
from lanparty.proto.superframe import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_UDP,
    cut,
    expand,
    finish_untrusted,
    internet_sum,
    partial_sum,
    superframe_untrusted,
)
from lanparty.uplink.tunnel import Tunnel

HEADER = bytes.fromhex("020000000001 020000000008")


class Connection:
    def __init__(self, budget=1170):
        self.datagram_budget = budget
        self.counters = TunnelCounters()
        self.sent = []
        self.flushes = 0

    def send_datagrams(self, datagrams):
        self.sent += datagrams

    def flush(self):
        self.flushes += 1


class Setup:
    def __init__(self, budget=1170, *, fragments=True, mtu=1500, framelog=None):
        self.connection = Connection(budget)
        self.delivered = []
        self.batches = 0
        self.tunnel = Tunnel(framelog=framelog)
        self.tunnel.attach(self.connection, self.deliver, peer_id=3, effective_mtu=mtu, fragments=fragments)

    def deliver(self, frames, now):
        self.batches += 1
        self.delivered += frames

    def far_side(self):
        """What the relay reads."""
        decoder = OverlayDecoder(Reassembler(), OverlayCounters())
        return decoder.decode_untrusted(self.connection.sent, 0.0)


def frame(size, fill=0x55):
    return HEADER + b"\x88\xb5" + bytes([fill]) * (size - 14)


def syn(mss):
    """A TCP SYN over IPv4 with this MSS; checksums zero, which the clamp corrects by difference."""
    tcp = struct.pack("!HHIIBBHHH", 1000, 80, 1, 0, 6 << 4, 0x02, 1000, 0, 0) + struct.pack("!BBH", 2, 4, mss)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return HEADER + b"\x08\x00" + ip + tcp


def mss_of(packet):
    return int.from_bytes(packet[-2:], "big")


@given(st.lists(st.integers(14, 1514), max_size=20), st.integers(300, 1500))
def test_what_goes_in_comes_out_in_order_within_the_budget(sizes, budget):
    setup = Setup(budget)
    frames = [frame(size, number) for number, size in enumerate(sizes)]
    setup.tunnel.transmit(frames)
    assert all(len(datagram) <= budget for datagram in setup.connection.sent)
    assert [whole for _, whole in setup.far_side()[0]] == frames
    assert setup.connection.flushes == bool(frames)


def test_one_flush_for_a_batch_both_ways():
    setup = Setup()
    frames = [frame(100)] * 64
    setup.tunnel.transmit(frames)
    assert setup.connection.flushes == 1
    setup.tunnel.receive_untrusted([OverlayEncoder(1170).encode(one, stamp=8)[0] for one in frames], 1.0)
    assert setup.batches == 1
    assert setup.delivered == [(8, one) for one in frames]


def test_counters():
    setup = Setup()
    setup.tunnel.device_counters = lambda: DeviceCounters(frames_in=5)
    setup.tunnel.transmit([frame(100), frame(1514)])
    setup.tunnel.receive_untrusted(OverlayEncoder(1170).encode(frame(60), stamp=8), 1.0)
    setup.tunnel.receive_untrusted([b"", b"\xff" * 20], 1.0)
    setup.connection.counters.datagrams_out = 3
    counters = setup.tunnel.as_dict()
    expected = {
        "frames_out": 2,
        "bytes_out": 1614,
        "frames_in": 1,
        "bytes_in": 60,
        "datagrams_out": 3,
        "device.frames_in": 5,
        "dropped.overlay-short": 1,
        "dropped.overlay-version": 1,
    }
    assert {name: counters[name] for name in expected} == expected
    assert setup.tunnel.dropped == 2


def test_counters_survive_the_session():
    setup = Setup()
    setup.connection.counters.queue_dropped = 4
    setup.tunnel.transmit([frame(60)])
    setup.tunnel.detach()
    setup.tunnel.detach()
    setup.tunnel.transmit([frame(60)])
    counters = setup.tunnel.as_dict()
    assert (counters["queue_dropped"], counters["frames_out"], counters["not_connected_dropped"]) == (4, 1, 1)


def test_without_fragments_what_does_not_fit_is_counted():
    setup = Setup(fragments=False, mtu=1152)
    setup.tunnel.transmit([frame(1166), frame(1167)])
    assert len(setup.connection.sent) == 1
    assert setup.tunnel.counters.oversize_dropped == 1


def test_a_budget_that_changes_is_followed():
    setup = Setup(1170)
    setup.connection.datagram_budget = 600
    setup.tunnel.transmit([frame(700), syn(1460)])
    assert max(map(len, setup.connection.sent)) <= 600
    assert mss_of(setup.far_side()[0][1][1]) == 600 - 4 - 14 - 40


@pytest.mark.parametrize(
    ("budget", "mtu", "asked", "given"),
    [
        pytest.param(1170, 1500, 1460, 1112, id="to what travels whole"),
        pytest.param(1170, 1500, 1000, 1000, id="never raised"),
        pytest.param(4000, 1500, 8960, 1460, id="never above the room's MTU"),
    ],
)
def test_tcp_is_clamped_both_ways(budget, mtu, asked, given):
    setup = Setup(budget, mtu=mtu)
    setup.tunnel.transmit([syn(asked)])
    assert mss_of(setup.far_side()[0][0][1]) == given
    setup.tunnel.receive_untrusted(OverlayEncoder(budget).encode(syn(asked), stamp=8), 1.0)
    assert mss_of(setup.delivered[0][1]) == given
    assert setup.tunnel.counters.mss_clamped == (1 if given < asked else 0)


def test_echo_requests_to_us_are_answered_others_are_not():
    setup = Setup()
    ours = Echo(origin=8, reply=False, target=3, sequence=9, sent_us=1234)
    theirs = Echo(origin=8, reply=False, target=4, sequence=10, sent_us=1234)
    setup.tunnel.receive_untrusted([encode_echo(ours), encode_echo(theirs)], 1.0)
    assert setup.connection.sent == [encode_echo(Echo(0, reply=True, target=8, sequence=9, sent_us=1234))]


def test_our_own_echo_measures_the_round_trip():
    setup = Setup()
    setup.tunnel.send_echo(5.0)
    asked = setup.far_side()[1][0]
    assert (asked.target, asked.reply) == (0, False)
    reply = Echo(0, reply=True, target=3, sequence=asked.sequence, sent_us=0)
    setup.tunnel.receive_untrusted([encode_echo(reply)], 5.02)
    assert setup.tunnel.meter.rtt == pytest.approx(0.02)
    assert setup.tunnel.as_dict()["echo_rtt_us"] == 20000


def test_without_a_session_nothing_happens():
    tunnel = Tunnel()
    tunnel.receive_untrusted([b"x"], 0.0)
    tunnel.send_echo(0.0)
    tunnel.forget(1)
    tunnel.detach()
    assert not tunnel.attached
    assert tunnel.meter is None


def test_a_member_that_comes_back_begins_its_pieces_anew():
    setup = Setup()
    pieces = OverlayEncoder(1170).encode(frame(1514), stamp=8)
    again = OverlayEncoder(1170).encode(frame(1500, 1), stamp=8)
    setup.tunnel.receive_untrusted(pieces[:1], 1.0)
    setup.tunnel.forget(8)
    setup.tunnel.receive_untrusted(again, 1.1)
    assert setup.delivered == [(8, frame(1500, 1))]


def test_the_frame_log_names_both_directions():
    setup = Setup(framelog=FrameLog())
    with captured() as entries:
        setup.tunnel.transmit([frame(60)])
        setup.tunnel.receive_untrusted(OverlayEncoder(1170).encode(frame(60), stamp=8), 1.0)
    assert [(entry["action"], entry["peer"]) for entry in entries] == [("to-room", 0), ("from-room", 8)]


@given(st.lists(st.binary(max_size=1600), max_size=30))
def test_garbage_never_raises_and_never_reaches_the_device_short(datagrams):
    setup = Setup()
    setup.tunnel.receive_untrusted(datagrams, 1.0)
    assert all(len(whole) >= 14 for _, whole in setup.delivered)


def test_what_went_wrong_lately_is_told_once():
    setup = Setup()
    taken = DeviceCounters(frames_in=5)
    setup.tunnel.device_counters = lambda: taken
    good = OverlayEncoder(1170).encode(frame(60), stamp=8)
    assert setup.tunnel.diagnose() == []
    setup.connection.counters.datagrams_in += 100
    setup.tunnel.receive_untrusted(good * 100 + [b"\xff" * 20] * 50, 1.0)
    taken.write_dropped = 100
    told = setup.tunnel.diagnose()
    assert [sentence[:4] for sentence in told] == ["50 %", "33 %"]
    setup.connection.counters.datagrams_in += 100
    setup.tunnel.receive_untrusted(good * 100 + [b"\xff" * 20] * 50, 1.0)
    assert setup.tunnel.diagnose() == []  # the versions still differ, which was told; the adapter has recovered
    setup.tunnel.receive_untrusted(good * 100, 1.0)
    assert setup.tunnel.diagnose() == []


# ------------------------------------------------------------------------------------------------ super-frames


def ipv4(protocol, rest):
    """A frame whose checksum is only the pseudo header's sum."""
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(rest), 0, 0x4000, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
    )
    header = header[:10] + (-internet_sum(header) % 65535).to_bytes(2, "big") + header[12:]
    frame = HEADER + b"\x08\x00" + header + rest
    field = 34 + (16 if protocol == 6 else 6)
    return frame[:field] + partial_sum(frame, 34, protocol, len(rest)).to_bytes(2, "big") + frame[field + 2 :]


def tcp_super(octets, size, flags=0x10):
    payload = bytes(range(256)) * (octets // 256 + 1)
    frame = ipv4(6, struct.pack("!HHIIBBHHH", 1000, 80, 5, 6, 0x50, flags, 1000, 0, 0) + payload[:octets])
    return superframe_untrusted(frame, GSO_TCPV4 if size else GSO_NONE, size, 34, 16)


def udp_super(octets, size):
    frame = ipv4(17, struct.pack("!HHHH", 1000, 80, 8 + octets, 0) + bytes(octets))
    return superframe_untrusted(frame, GSO_UDP if size else GSO_NONE, size, 34, 6)


def from_room(frames, origin=8, budget=1170):
    """Datagrams as the relay sends them."""
    encoder = OverlayEncoder(budget)
    datagrams = []
    for one in frames:
        datagrams += encoder.encode(one, origin) if isinstance(one, bytes) else encoder.encode_super(one, origin)
    return datagrams


def test_a_super_frame_goes_out_as_segments_that_travel_whole():
    setup = Setup()
    before, behind = frame(60), frame(61)
    whole = tcp_super(10_000, 1112)
    setup.tunnel.transmit([before, whole, behind])
    frames, _ = setup.far_side()
    segments = cut(whole, b"", 1166)
    assert frames == [(0, before), *((PARTIAL_STAMP, one) for one in segments), (0, behind)]
    assert len(setup.connection.sent) == whole.segments + 2
    counters = setup.tunnel.counters
    assert (counters.frames_out, counters.bytes_out) == (whole.segments + 2, 121 + sum(map(len, segments)))
    assert setup.connection.flushes == 1


def test_when_the_budget_shrank_tcp_is_cut_smaller_and_udp_travels_in_pieces():
    setup = Setup(1170)
    setup.connection.datagram_budget = 600
    stream, datagrams, alone = tcp_super(10_000, 1112), udp_super(3000, 1000), tcp_super(900, 0)
    setup.tunnel.transmit([stream, datagrams, alone])
    assert max(map(len, setup.connection.sent)) <= 600
    decoder = OverlayDecoder(Reassembler(), OverlayCounters())
    frames, _ = decoder.decode_untrusted(setup.connection.sent, 0.0)
    assert {stamp for stamp, _ in frames} == {PARTIAL_STAMP}
    assert decoder.counters.pieces == 6
    assert [one for _, one in frames] == [*cut(stream, b"", 596), *cut(datagrams, b"", 596), *cut(alone, b"", 596)]


def test_without_fragments_what_cannot_be_cut_smaller_is_counted():
    setup = Setup(600, fragments=False, mtu=582)
    setup.tunnel.transmit([udp_super(3000, 1000), tcp_super(3000, 1000)])
    assert setup.tunnel.counters.oversize_dropped == 3
    assert len(setup.connection.sent) == -(-3000 // (596 - 54))


def test_segments_from_the_room_are_joined_for_the_device():
    setup = Setup()
    stream, datagrams, other = tcp_super(10_000, 1112, 0x18), udp_super(2000, 200), frame(60)
    setup.tunnel.receive_untrusted(from_room([other, stream, datagrams]), 1.0)
    assert setup.delivered == [(8, other), (8, stream), (8, datagrams)]
    assert setup.batches == 1
    counters = setup.tunnel.counters
    assert counters.frames_in == 1 + stream.segments + datagrams.segments
    assert counters.bytes_in == 60 + stream.octets + datagrams.octets


def test_a_syn_with_the_flag_is_finished_then_clamped():
    setup = Setup()
    options = struct.pack("!BBH", 2, 4, 1460)
    asked = ipv4(6, struct.pack("!HHIIBBHHH", 1000, 80, 1, 0, 6 << 4, 0x02, 1000, 0, 0) + options)
    setup.tunnel.receive_untrusted(OverlayEncoder(1170).encode(asked, PARTIAL_STAMP | 8), 1.0)
    ((origin, given),) = setup.delivered
    assert (origin, mss_of(given)) == (8, 1112)
    # The finished checksum of what it is now.
    partial = given[:50] + partial_sum(given, 34, 6, len(given) - 34).to_bytes(2, "big") + given[52:]
    assert given == finish_untrusted(partial, 34, 16)


def test_a_flag_that_lies_is_dropped_and_counted():
    setup = Setup()
    setup.tunnel.receive_untrusted(OverlayEncoder(1170).encode(frame(60), PARTIAL_STAMP | 8), 1.0)
    assert setup.delivered == []
    assert setup.tunnel.as_dict()["dropped.partial-checksum"] == 1


def test_with_the_acceleration_off_the_device_gets_finished_frames(monkeypatch):
    monkeypatch.setenv("LANPARTY_WITHOUT", "vnet")
    setup = Setup()
    stream = tcp_super(10_000, 1112)
    setup.tunnel.receive_untrusted(from_room([stream]), 1.0)
    assert setup.delivered == [(8, one) for one in expand(stream)]


def test_super_frames_without_a_session_are_counted_by_their_frames():
    tunnel = Tunnel()
    tunnel.transmit([tcp_super(10_000, 1000), frame(60)])
    assert tunnel.counters.not_connected_dropped == 11


def test_the_frame_log_shows_every_frame():
    setup = Setup(framelog=FrameLog())
    whole = tcp_super(3000, 1000)
    with captured() as entries:
        setup.tunnel.transmit([whole])
        setup.tunnel.receive_untrusted(from_room([whole]), 1.0)
    assert [(entry["action"], entry["length"], entry["peer"]) for entry in entries] == [
        *[("to-room", 1054, 0)] * 3,
        *[("from-room", 1054, 8)] * 3,
    ]
