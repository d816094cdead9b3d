from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.proto import mtu
from lanparty.proto.overlay import OverlayEncoder


@pytest.mark.parametrize(
    ("path", "version", "packet", "budget", "frame", "tap", "mss4", "mss6"),
    [
        (1228, 4, 1200, 1170, 1166, 1152, 1112, 1092),
        (1248, 6, 1200, 1170, 1166, 1152, 1112, 1092),
        (1280, 6, 1232, 1202, 1198, 1184, 1144, 1124),
        (1280, 4, 1252, 1222, 1218, 1204, 1164, 1144),
        (1492, 4, 1464, 1434, 1430, 1416, 1376, 1356),  # PPPoE
        (1500, 4, 1472, 1442, 1438, 1424, 1384, 1364),
        (1500, 6, 1452, 1422, 1418, 1404, 1364, 1344),
        (9000, 4, 8972, 8942, 8938, 1500, 8884, 8864),
    ],
)
def test_from_the_path_to_the_segment(path, version, packet, budget, frame, tap, mss4, mss6):
    assert mtu.quic_packet_size_for(path, version) == packet
    assert mtu.path_mtu_for(packet, version) == path
    assert mtu.datagram_budget(packet) == budget
    assert mtu.overlay_frame_budget(budget) == frame
    assert mtu.tap_mtu_for(budget) == tap
    assert mtu.tcp_mss_for(budget, 4) == mss4
    assert mtu.tcp_mss_for(budget, 6) == mss6


@pytest.mark.parametrize(
    ("limit", "budget"),
    # max_datagram_frame_size counts the type byte and the length field, which grows at 64 and at 16384.
    [
        *[(None, 1170), (2**62 - 1, 1170), (65535, 1170), (1173, 1170), (1172, 1169), (1000, 997)],
        *[(67, 64), (66, 63), (65, 63), (64, 62), (3, 1), (2, 0), (1, 0), (0, 0)],
    ],
)
def test_the_peers_limit(limit, budget):
    assert mtu.datagram_budget(1200, peer_frame_limit=limit) == budget


def test_other_headers():
    assert mtu.datagram_budget(1200, connection_id_size=20, packet_number_size=4) == 1156
    assert mtu.datagram_budget(1200, connection_id_size=0) == 1178
    assert mtu.datagram_budget(20000) == 20000 - 27 - 1 - 4
    assert mtu.datagram_budget(0) == mtu.datagram_budget(-5) == 0


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_the_budget_is_the_largest_datagram_that_fits(packet, limit):
    def frame_size(payload):
        return 1 + (1 if payload < 64 else 2 if payload < 16384 else 4) + payload

    room = min(packet - 27, limit)
    budget = mtu.datagram_budget(packet, peer_frame_limit=limit)
    assert budget == 0 or frame_size(budget) <= room
    assert frame_size(budget + 1) > room


@given(st.integers(600, 9000))
def test_full_frames_of_the_tap_mtu_travel_whole(budget):
    tap = mtu.tap_mtu_for(budget, ceiling=9000)
    encoder = OverlayEncoder(budget)
    assert len(encoder.encode(bytes(14 + tap))) == 1
    assert len(encoder.encode(bytes(15 + tap))) > 1
    assert mtu.budget_for_tap_mtu(tap) == budget


@given(st.integers(0, 9000), st.sampled_from([(4, 20), (6, 40)]))
def test_full_segments_travel_whole_down_to_the_floor(budget, ip):
    version, header = ip
    mss = mtu.tcp_mss_for(budget, version)
    if mss > mtu.MIN_TCP_MSS:
        assert len(OverlayEncoder(budget).encode(bytes(14 + header + 20 + mss))[0]) == budget
    assert mtu.MIN_TCP_MSS <= mss <= 65535


def test_small_and_large():
    assert mtu.tap_mtu_for(0) == 0
    assert mtu.overlay_frame_budget(3) == 0
    assert mtu.tcp_mss_for(10**6, 4) == 65535
    assert mtu.budget_for_tap_mtu(mtu.DEFAULT_TAP_MTU) == 1518
    assert mtu.budget_for_tap_mtu(mtu.MIN_TAP_MTU) == 594
    assert mtu.budget_for_tap_mtu(mtu.MIN_TAP_MTU_IPV6) == 1298
    assert mtu.datagram_budget(1328) == 1298


@pytest.mark.parametrize("version", [0, 5, 46])
def test_other_ip_versions_are_a_callers_mistake(version):
    for ask in (mtu.quic_packet_size_for, mtu.path_mtu_for, mtu.tcp_mss_for):
        with pytest.raises(mtu.MtuError, match=str(version)):
            ask(1500, version)
