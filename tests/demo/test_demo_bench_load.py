"""The load generator's frames and counts, and how members are shared out."""

from __future__ import annotations

from array import array

import pytest

from lanparty.demo.bench_load import LOADS, Load
from lanparty.demo.load import ADDRESS_SHARE, SMALLEST_FRAME, Inbox, frame_head, local_address, mac, read_stamp, stamped
from lanparty.demo.probes import internet_checksum
from lanparty.guard.guard import Guard
from lanparty.guard.levels import RoomPolicy
from lanparty.proto.overlay import OverlayEncoder


class Sender:
    is_gateway = False

    def __init__(self, mac):
        self.mac = mac


@pytest.mark.parametrize("size", [SMALLEST_FRAME, 100, 1400])
@pytest.mark.parametrize(("room", "number"), [(0, 0), (0, 31), (499, 3)])
def test_frames_pass_the_relays_guard(room, number, size):
    frame = stamped(frame_head(number, room, size), size, number, 7, 123)
    assert len(frame) == size
    assert int.from_bytes(frame[16:18], "big") == size - 14, "IPv4's total length"
    assert internet_checksum(frame[14:34]) == 0
    assert int.from_bytes(frame[38:40], "big") == size - 34, "UDP's length"
    assert Guard(RoomPolicy(), 1500, set()).judge_untrusted(frame, Sender(mac(room, number)), 0.0) is None


def test_no_two_members_share_a_mac():
    macs = {mac(room, number) for room in range(500) for number in range(4)} | {mac(0, number) for number in range(32)}
    assert len(macs) == 500 * 4 + 28


def test_a_stamp_survives_the_overlay():
    frame = stamped(frame_head(3, 0, 100), 100, 3, 4_000_000_000, 2**60 + 5)
    (datagram,) = OverlayEncoder(1200).encode(frame)
    assert read_stamp(datagram) == (3, 4_000_000_000, 2**60 + 5)


def test_an_inbox_counts():
    inbox = Inbox(104, array("q"))
    encoder = OverlayEncoder(1200)

    def datagram(number, sequence):
        return encoder.encode(stamped(frame_head(number, 0, 100), 100, number, sequence, 0))[0]

    inbox.take_untrusted([datagram(1, 0), datagram(2, 0), b"\x12\x01" + bytes(18), datagram(1, 1)], 0.0)
    assert (inbox.received, inbox.late) == (3, 0)
    inbox.take_untrusted([datagram(1, 3), datagram(1, 2), datagram(2, 0), datagram(2, 8)], 0.0)
    assert (inbox.received, inbox.late) == (7, 2), "one reordered, one doubled"
    assert len(inbox.delays) == 3, "sequence numbers 0, 0 and 8"


def test_a_frame_for_one_member():
    head = frame_head(3, 7, 100, to=4)
    assert head[:6] == mac(7, 4)
    assert head[6:12] == mac(7, 3)
    assert head[26:34] == bytes((169, 254, 8, 4, 169, 254, 8, 5)), "addresses that need no DHCP server"
    assert frame_head(3, 7, 100)[30:34] == b"\xff" * 4


@pytest.mark.parametrize("room", [0, 253, 254, 499])
def test_addresses_keep_out_of_what_rfc_3927_reserves(room):
    assert 1 <= frame_head(0, room, 100)[28] <= 254


def test_of_a_long_run_fewer_delays_are_kept():
    inbox = Inbox(104, array("q"), sample=100)
    encoder = OverlayEncoder(1200)
    for sequence in range(1000):
        inbox.take_untrusted(encoder.encode(stamped(frame_head(1, 0, 100), 100, 1, sequence, 0)), 0.0)
    assert (inbox.received, len(inbox.delays)) == (1000, 10)


def test_members_are_shared_out():
    assert Load("a", rooms=1, room_size=50, rate=1, size=100, processes=3).shares() == [(0, 16), (16, 33), (33, 50)]
    assert Load("a", rooms=1, room_size=50, rate=1, size=100, pattern="next").copies == 1
    assert LOADS["room32"].shares() == [(0, 1), (1, 32)]
    assert LOADS["rooms500"].shares() == [(0, 2000)]
    assert LOADS["rooms500"].members == 2000
    assert local_address("10.99.0.100", 0) == "10.99.0.100"
    assert local_address("10.99.0.100", 2 * ADDRESS_SHARE) == "10.99.0.102"


def test_the_issues_loads():
    room, rooms = LOADS["room32"], LOADS["rooms500"]
    assert room.members * room.rate * (room.room_size - 1) == 126_976
    assert (rooms.rooms, rooms.room_size, rooms.rate) == (500, 4, 30)
