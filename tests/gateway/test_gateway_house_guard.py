"""The gateway judges by itself: the guard's own vectors, and what a short way must not change."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
from guard_vectors import VECTORS, WRAPPINGS, Vector
from guard_world import (
    HOUSE4,
    HOUSE6,
    OTHER4,
    OTHER6,
    PLAYER4,
    PLAYER6,
    ROUTER,
    Sender,
    World,
    ack,
    advertisement,
    game,
    house_arp,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_packets import HOUSE, IPV4, IPV6, OTHER, PLAYER, ethernet, ipv4, ipv6, link_layer, nd, tag, udp

from lanparty.gateway.house_guard import MAX_WAYS, HouseGuard
from lanparty.guard.bindings import MAX_AWAY
from lanparty.guard.levels import Level, RoomPolicy
from lanparty.proto.superframe import GSO_UDP, SuperFrame


class Door:
    """A house guard that knows what the guard of `World` does."""

    def __init__(self, level: Level = Level.STRICT, **policy: object) -> None:
        self.dropped: Counter[str] = Counter()
        self.guard = HouseGuard(RoomPolicy(level=level, **policy), self._drop)
        self.guard.set_members(frozenset((PLAYER, OTHER)))
        self.now = 1000.0
        neighbour = ethernet(ipv6(nd(136, HOUSE6, link_layer(2, HOUSE)), 58, source=HOUSE6), IPV6, source=HOUSE)
        self.house(ack(PLAYER, PLAYER4), ack(OTHER, OTHER4), house_arp(HOUSE4), advertisement(), neighbour)
        for mac, address in ((PLAYER, PLAYER6), (OTHER, OTHER6)):
            assert self.room(game(address, mac)) == [game(address, mac)]

    def _drop(self, reason: str, count: int) -> None:
        self.dropped[reason] += count

    def house(self, *frames):
        return list(self.guard.from_house_untrusted(frames, self.now))

    def room(self, *frames):
        return list(self.guard.to_house_untrusted(frames, self.now))


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_every_row_holds_at_the_house_whatever_the_relay_let_through(vector: Vector, wrapping: str) -> None:
    wrap, wrapped_rule = WRAPPINGS[wrapping]
    frame = wrap(vector.packet, vector.ethertype)
    door = Door()
    assert door.room(frame) == []
    assert door.dropped == {f"room-{wrapped_rule or vector.rule}": 1}
    assert Door(Level.OFF).room(frame) == [frame]


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_the_lawful_twin_passes(vector: Vector) -> None:
    door = Door()
    frame = ethernet(vector.twin, vector.ethertype)
    assert door.room(frame) == [frame]
    assert not door.dropped


def test_rows_3_to_5_from_the_house_and_its_router_for_those_who_may_hear_it() -> None:
    door = Door()
    tagged = ethernet(ipv4(udp(1, 2)), IPV4, source=HOUSE, tags=tag())
    lldp = ethernet(bytes(46), 0x88CC, source=HOUSE)
    assert door.house(tagged, lldp, advertisement()) == [advertisement()]
    assert door.dropped == {"house-vlan": 1, "house-ethertype": 1}


def test_an_ethertype_that_the_host_allows() -> None:
    frame = ethernet(bytes(46), 0x88B6)
    assert Door().room(frame) == []
    assert Door(ethertypes=frozenset({0x88B6})).room(frame) == [frame]


def big(source: bytes, mac: bytes = PLAYER) -> SuperFrame:
    frame = ethernet(ipv4(udp(27005, 27015, bytes(4000)), source=source), IPV4, source=mac)
    return SuperFrame(frame, GSO_UDP, 1000, 34, 6, 42, 4)


def ping(source: bytes, mac: bytes = PLAYER, kind: int = 8, **fields: int) -> bytes:
    return ethernet(ipv4(bytes((kind,)).ljust(64, b"i"), protocol=1, source=source, **fields), IPV4, source=mac)


def test_a_short_way_is_for_echoes_and_for_no_other_icmp() -> None:
    door = Door()
    frames = [ping(PLAYER4, kind=kind) for kind in (8, 0, 5, 9, 3, 8)]
    assert door.room(*frames) == [frames[0], frames[1], frames[4], frames[5]]
    assert door.room(ping(HOUSE4), ping(bytes(4))) == []
    assert door.dropped == {"room-routing": 2, "room-ipv4-source": 2}


@pytest.mark.parametrize("level", [Level.STRICT, Level.STANDARD])
def test_what_tells_nothing_is_what_the_guard_lets_pass_and_learns_nothing_from(level: Level) -> None:
    """ICMP of all types, other protocols, fragments: what is not judged would have passed, and told nothing."""
    door, world = Door(level), World(level)
    frames = [ping(HOUSE4, HOUSE, kind=kind) for kind in range(256)]
    frames += [ping(HOUSE4, HOUSE, fragment=fragment) for fragment in (1, 0x2000)]
    frames += [ping(HOUSE4, HOUSE, total=total) for total in (0, 20, 27, 2000)]
    frames += [ethernet(ipv4(bytes(64), protocol, source=HOUSE4), IPV4, source=HOUSE) for protocol in range(256)]
    frames += [frames[0][:size] for size in range(14, 60)]
    assert door.house(*frames) == frames
    version = world.guard.bindings.version
    assert world.house(*frames) == [None] * len(frames)
    assert world.guard.bindings.version == version
    assert attrs.asdict(world.guard.bindings) == attrs.asdict(World(level).guard.bindings)


def test_a_super_frame_counts_for_all_its_frames() -> None:
    door = Door()
    assert door.room(big(PLAYER4), big(HOUSE4)) == [big(PLAYER4)]
    assert door.dropped == {"room-ipv4-source": 4}


def test_a_short_way_ends_with_the_lease_and_with_the_houses_word() -> None:
    door = Door()
    frame = game(PLAYER4)
    assert door.room(frame, frame) == [frame, frame]
    door.house(ack(HOUSE, PLAYER4))
    assert door.room(frame) == []
    door = Door()
    assert door.room(frame) == [frame]
    door.now += 600 + 31
    assert door.room(frame) == []


def test_an_address_that_another_player_had_is_free_some_time_after_it_left() -> None:
    door = Door()
    spare = bytes((10, 0, 0, 200))
    assert door.room(game(spare, OTHER)) == []  # it has a lease: no other address
    door.guard.set_members(frozenset())
    assert door.room(game(OTHER4, PLAYER)) == []


def test_ways_are_bounded() -> None:
    door = Door()
    for number in range(MAX_WAYS + 10):
        destination = b"\x3c\x97\x0e" + number.to_bytes(3, "big")
        assert door.room(game(PLAYER4, destination=destination))
        assert len(door.guard._ways) <= MAX_WAYS


def test_senders_that_come_and_go_for_ever_are_forgotten() -> None:
    """As a hostile relay may name them: each is believed for a moment, and never announced."""
    door = Door()
    bindings = door.guard._guard.bindings
    for number in range(3 * MAX_AWAY):
        mac = b"\x02\x99" + number.to_bytes(4, "big")
        door.guard.set_members(frozenset((PLAYER, OTHER, mac)))
        address = b"\x0a\x01" + number.to_bytes(2, "big")
        assert door.room(game(address, mac)) == [game(address, mac)]
        assert len(bindings._members) <= MAX_AWAY + 4


ADDRESSES = [PLAYER4, OTHER4, HOUSE4, ROUTER, bytes((10, 0, 0, 77)), PLAYER6, OTHER6]
STEPS = st.one_of(
    st.tuples(st.just("room"), st.sampled_from(ADDRESSES), st.sampled_from([PLAYER, OTHER])),
    st.tuples(st.sampled_from([0, 3, 5, 8, 9, 10]), st.sampled_from(ADDRESSES[:5]), st.sampled_from([PLAYER, OTHER])),
    st.tuples(st.just("ack"), st.sampled_from(ADDRESSES[:5]), st.sampled_from([PLAYER, OTHER, HOUSE])),
    st.tuples(st.just("arp"), st.sampled_from(ADDRESSES[:5]), st.sampled_from([HOUSE, PLAYER])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 300.0, 700.0]), st.none()),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_the_short_way_says_what_the_guard_says(steps) -> None:
    door, world = Door(), World()
    for what, value, mac in steps:
        if what == "wait":
            door.now += value
            world.now += value
        elif what == "room" or isinstance(what, int):
            frame = game(value, mac) if what == "room" else ping(value, mac, what)
            rule = world.judge(frame, Sender(mac))
            assert door.room(frame) == ([frame] if rule is None else [])
        else:
            frame = ack(mac, value) if what == "ack" else house_arp(value, mac)
            world.house(frame)
            door.house(frame)
