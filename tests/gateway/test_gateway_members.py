"""Who is remote, and which frames the gateway lets pass whatever the relay says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.ctrl.messages import Member, Role
from lanparty.gateway.members import MAX_PROVISIONAL, PROVISIONAL_AGE, RemoteMembers
from lanparty.proto.superframe import GSO_TCPV4, SuperFrame

ONE, TWO, HOUSE, OWN = (
    bytes.fromhex(text) for text in ("020000000001", "020000000002", "001122334455", "0a0000000099")
)


def player(peer, mac):
    return Member(peer_id=peer, role=Role.CLIENT, virtual_mac=mac.hex(":"), display_name="p")


def frame(source, destination=HOUSE, size=60):
    return (destination + source + b"\x08\x00").ljust(size, b"\0")


def table():
    members = RemoteMembers(own_mac=OWN)
    members.replace([player(1, ONE), Member(peer_id=9, role=Role.GATEWAY, virtual_mac=None, display_name="")])
    return members


@pytest.mark.parametrize(
    ("origin", "data", "reason"),
    [
        pytest.param(1, frame(ONE), None, id="lawful"),
        pytest.param(1, frame(ONE, size=1514), None, id="as long as a LAN's frames"),
        pytest.param(1, frame(ONE, b"\xff" * 6), None, id="broadcast"),
        pytest.param(1, frame(ONE, bytes.fromhex("01005e00023c")), None, id="multicast"),
        pytest.param(1, frame(ONE, size=1515), "room-length", id="over-long"),
        pytest.param(1, frame(ONE)[:13], "room-length", id="short"),
        pytest.param(1, frame(TWO), "room-source", id="another source than announced"),
        pytest.param(1, frame(HOUSE), "room-source", id="source of the house"),
        pytest.param(2, frame(ONE), "room-source", id="member's MAC from another peer"),
        pytest.param(0, frame(TWO), "room-source", id="origin not stamped"),
        pytest.param(2, frame(OWN), "room-source", id="our own MAC"),
        pytest.param(2, frame(HOUSE), "room-source", id="unknown, and not a virtual MAC"),
        pytest.param(2, frame(b"\x03\0\0\0\0\1"), "room-source", id="unknown, and a group address"),
        pytest.param(2, frame(bytes(6)), "room-source", id="unknown, and zero"),
        pytest.param(1, frame(ONE, bytes.fromhex("0180c2000000")), "room-switch-control", id="spanning tree"),
        pytest.param(1, frame(ONE, bytes.fromhex("0180c200003f")), "room-switch-control", id="last of the bridge's"),
        pytest.param(1, frame(ONE, bytes.fromhex("0180c2000040")), None, id="one behind it"),
        pytest.param(1, frame(ONE, bytes.fromhex("01000ccccccc")), "room-switch-control", id="CDP"),
        pytest.param(1, frame(ONE, bytes.fromhex("01000ccccccd")), "room-switch-control", id="PVST"),
    ],
)
def test_from_the_room(origin, data, reason):
    members = table()
    assert members.to_house_untrusted([(origin, data)], 0.0) == ([data] if reason is None else [])
    assert members.dropped == ({} if reason is None else {reason: 1})


def test_from_the_house_a_members_own_frames_never_go_back():
    members = table()
    assert members.to_room([frame(HOUSE, ONE), frame(ONE), frame(TWO)]) == [frame(HOUSE, ONE), frame(TWO)]
    assert members.dropped == {"house-member-source": 1}


def test_a_frame_may_overtake_the_announcement_of_its_sender():
    members = table()
    assert members.to_house_untrusted([(2, frame(TWO))], 10.0) == [frame(TWO)]
    assert members.macs == {ONE, TWO}
    assert members.announced == [ONE]
    members.joined(player(2, TWO))
    assert members.announced == [ONE, TWO]
    assert not members.expire(10.0 + 10 * PROVISIONAL_AGE)
    assert members.macs == {ONE, TWO}


def test_without_announcement_the_belief_ends():
    members = table()
    members.to_house_untrusted([(2, frame(TWO))], 10.0)
    assert members.next_expiry() == 10.0 + PROVISIONAL_AGE
    assert members.to_house_untrusted([(2, frame(TWO))], 10.0 + PROVISIONAL_AGE) == []
    assert members.expire(10.0 + PROVISIONAL_AGE)
    assert members.macs == {ONE}


def test_a_flood_of_made_up_senders_is_bounded():
    members = table()
    frames = [(peer, frame(b"\x02\1" + peer.to_bytes(4, "big"))) for peer in range(10, 10_000)]
    assert len(members.to_house_untrusted(frames, 0.0)) == MAX_PROVISIONAL
    assert len(members.macs) == MAX_PROVISIONAL + 1
    assert members.to_house_untrusted([(1, frame(ONE))], 0.0) == [frame(ONE)]


def test_joining_leaving_and_a_new_welcome():
    members = table()
    assert members.joined(player(2, TWO)) == TWO
    assert members.left(2) == TWO
    assert members.left(2) is None
    members.replace([player(5, TWO)])
    assert members.announced == [TWO]
    assert members.to_house_untrusted([(1, frame(TWO))], 0.0) == []


def test_a_member_that_claims_the_gateways_own_mac_is_not_believed():
    members = table()
    assert members.joined(player(3, OWN)) is None
    assert members.dropped == {"bad-member-mac": 1}
    assert OWN not in members.macs


@given(
    st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=40)), max_size=40),
    st.floats(0, 100, allow_nan=False),
)
def test_whatever_comes_only_known_or_lawful_sources_reach_the_house(frames, now):
    members = table()
    for passed in members.to_house_untrusted(frames, now):
        assert passed[6:12] in members.macs
        assert passed[6] & 3 == 2


def super_frame(source, destination=HOUSE, *, size=1460, segments=3):
    return SuperFrame(frame(source, destination, 54 + size * segments), GSO_TCPV4, size, 34, 16, 54, segments)


@pytest.mark.parametrize(
    ("origin", "data", "reason"),
    [
        pytest.param(1, super_frame(ONE), None, id="lawful"),
        pytest.param(1, super_frame(ONE, size=1461), "room-length", id="segments over-long"),
        pytest.param(1, super_frame(TWO), "room-source", id="another source than announced"),
        pytest.param(2, super_frame(ONE), "room-source", id="member's MAC from another peer"),
        pytest.param(1, super_frame(ONE, bytes.fromhex("0180c2000000")), "room-switch-control", id="spanning tree"),
    ],
)
def test_a_super_frame_is_judged_once_and_counted_by_its_frames(origin, data, reason):
    members = table()
    assert members.to_house_untrusted([(origin, data)], 0.0) == ([data] if reason is None else [])
    assert members.dropped == ({} if reason is None else {reason: 3})


def test_a_super_frame_from_the_house_with_a_members_source_does_not_go_back():
    members = table()
    lawful = super_frame(HOUSE, ONE)
    assert members.to_room([lawful, super_frame(ONE)]) == [lawful]
    assert members.dropped == {"house-member-source": 3}
