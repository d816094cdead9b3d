"""What a relay, or a house, can make a gateway and a client keep: each table is filled beyond its bound."""

from __future__ import annotations

import pytest
import trio
from test_link_dhcp import GOOD, client
from trio.testing import MockClock

from lanparty.client.identity import Identity
from lanparty.client.player import Player
from lanparty.ctrl.messages import MAX_MEMBERS, Member, Role
from lanparty.gateway.cam import CamSchedule
from lanparty.gateway.loop import MAX_OTHERS, LoopWatch
from lanparty.gateway.members import MAX_PROBES, MAX_PROVISIONAL, RemoteMembers
from lanparty.link.bpf import lan_filter
from lanparty.link.memory_machine import MemoryMachine
from lanparty.obs.log import captured
from lanparty.proto.fragments import MAX_BYTES, MAX_FRAMES, Reassembler
from lanparty.proto.mac import MacAddress
from lanparty.proto.overlay import OverlayCounters, OverlayDecoder
from lanparty.proto.probe import SOURCE, encode_probe
from lanparty.uplink.resolve import MAX_ADDRESSES, interleave
from lanparty.uplink.tunnel import Tunnel


def player(peer: int) -> Member:
    return Member(peer, Role.CLIENT, (b"\2" + peer.to_bytes(5)).hex(":"), f"n{peer}")


def test_members_that_a_relay_names_are_bounded_at_a_gateway() -> None:
    table, cam = RemoteMembers(), CamSchedule()
    for peer in range(1, 65536, 7):
        table.joined(player(peer))
    assert len(table.announced) == len(table.macs) == MAX_MEMBERS
    assert table.dropped["too-many-members"] > 9000
    cam.set_members(table.announced)
    assert len(cam.take(0.0)) == MAX_MEMBERS
    assert len(lan_filter(table.macs)) < 4096  # instructions, the kernel's limit
    # Those who are known may still change, and when one leaves another may come.
    assert table.joined(player(1)) is not None
    table.left(1)
    assert table.joined(player(2)) is not None


def test_senders_that_nobody_announced_are_bounded() -> None:
    table = RemoteMembers()
    for peer in range(1, 2000):
        mac = b"\2" + peer.to_bytes(5)
        table.to_house_untrusted([(peer, b"\xff" * 6 + mac + b"\x08\x06" + bytes(46))], 1.0)
    assert len(table.macs) == MAX_PROVISIONAL


def test_probes_and_other_gateways_are_bounded() -> None:
    table, watch = RemoteMembers(), LoopWatch(b"ourselfs")
    watch.take((), 0.0)
    for batch in range(50):
        frames = [encode_probe((batch * 1000 + number).to_bytes(8), 1) for number in range(100)]
        assert table.to_room(frames) == []
        assert all(frame[6:12] == SOURCE for frame in frames)
        probes = table.take_probes()
        assert len(probes) == MAX_PROBES
        for probe in probes:
            watch.heard_untrusted(probe, 1.0)
    assert len(watch._others) == MAX_OTHERS


async def test_gateways_that_a_relay_names_are_bounded_at_a_client(autojump_clock: MockClock) -> None:
    with captured() as entries:
        async with trio.open_nursery() as nursery:
            identity = Identity(MacAddress.parse("02:00:00:00:00:01"), None, False)
            made = Player(identity, MemoryMachine(), Tunnel(), links=nursery, house=nursery)
            for peer in range(1, 65536, 5):
                made.on_peer_joined(Member(peer, Role.GATEWAY, None, ""))
            assert len(made._gateways) == MAX_MEMBERS
            nursery.cancel_scope.cancel()
    assert entries


def test_pieces_that_a_relay_sends_in_everybodys_name_are_bounded() -> None:
    """As a player or gateway has them: one reassembler for all origins."""
    decoder = OverlayDecoder(Reassembler(), OverlayCounters())
    for number in range(50_000):
        head = b"\x11\0" + (number % 65521).to_bytes(2)
        decoder.decode_untrusted([head + (number // 7 % 65536).to_bytes(2) + b"\0\x05" + bytes(900)], number / 1e5)
    table = decoder.reassembler
    assert table.pending_frames <= MAX_FRAMES
    assert table.pending_bytes <= MAX_BYTES
    assert len(table._closed) <= 1024
    assert len(table._held) <= MAX_FRAMES


def test_addresses_of_a_relays_name_are_bounded() -> None:
    found = [(f"192.0.{number >> 8}.{number & 255}", 443) for number in range(4000)]
    assert len(interleave(found)) == MAX_ADDRESSES


@pytest.mark.parametrize("answers", [GOOD, {}], ids=["house", "silent"])
async def test_a_relay_whose_gateway_comes_and_goes_all_the_time_piles_up_no_dhcp(
    autojump_clock: MockClock, answers: dict[int, list[object]]
) -> None:
    async with client(answers) as lab:
        await trio.sleep(1)
        inside = lab.task._client
        assert inside is not None
        most = 0
        for _ in range(300):
            for _ in range(20):
                lab.task.house_present(False)
                lab.task.house_present(True)
            await trio.sleep(0.001)
            most = max(most, len(inside._tasks), inside._sendq.qsize())
        assert most <= 40
        await trio.sleep(60)
        assert len(inside._tasks) <= 16
        assert inside._sendq.qsize() <= 16


async def test_complaints_about_dhcp_are_bounded(autojump_clock: MockClock) -> None:
    async with client() as lab:
        await trio.sleep(1)
        inside = lab.task._client
        assert inside is not None
        for number in range(1000):
            inside.complain(f"a reply from {number}")
        assert len(inside._reported) == 16
        assert len([entry for entry in lab.events if entry["event"] == "client.dhcp-ignored"]) == 16
