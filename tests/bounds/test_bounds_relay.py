"""What strangers, members and a house can make a relay keep: each table is filled beyond its bound (docs/bounds.md);
and members who come, play, roam and go leave nothing behind."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

import pytest
import trio
from fuzz_relay import _consistent, _dhcp, _ip
from relay_packets import ARP, BROADCAST, HOUSE, IPV4, IPV6, ethernet, icmpv6, ipv6, udp
from test_relay_session import Endpoint, Relay, hello, mac, relay
from test_relay_switch import Endpoint as Place
from trio.testing import MockClock

from lanparty.ctrl.messages import Disconnect, Stats, Welcome
from lanparty.guard.bindings import MAX_AWAY, MAX_HOUSE, MAX_RESERVED, Bindings, Evidence
from lanparty.guard.guard import Guard
from lanparty.guard.levels import RoomPolicy
from lanparty.guard.rules import Rule
from lanparty.obs.log import captured
from lanparty.proto.overlay import OverlayCounters
from lanparty.relay.admission import MAX_ADDRESSES, MAX_GUESTS, Tries
from lanparty.relay.hub import Hub
from lanparty.relay.rooms import MemberState, RoomLimits, Rooms
from lanparty.relay.storm import BUCKETS, StormControl
from lanparty.relay.switch import LAN_AGE, MAX_LAN_SOURCES, MAX_WAYS, Port, Switch
from lanparty.relay.tally import BlockedReporter, PortTally

assert relay  # a fixture, used by its name


def four(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4)


def six(number: int) -> bytes:
    return bytes.fromhex("fe80") + bytes(10) + number.to_bytes(4)


# -- bindings ----------------------------------------------------------------------------------------------------------


def test_addresses_of_the_house_are_bounded() -> None:
    table = Bindings()
    for number in range(3 * MAX_HOUSE):
        table.house_has(HOUSE, four(number), Evidence.SPOKEN, float(number))
    assert len(table._house) == MAX_HOUSE
    newest = four(3 * MAX_HOUSE - 1)
    assert not table.uses(mac(1), newest, 3.0 * MAX_HOUSE)


def test_routers_and_servers_of_the_house_are_bounded() -> None:
    table = Bindings()
    for number in range(10 * MAX_RESERVED):
        table.reserve(four(number))
    assert len(table._reserved) == MAX_RESERVED


def test_addresses_of_a_member_are_bounded() -> None:
    table = Bindings()
    for number in range(2000):
        table.uses(mac(1), four(number), 100.0 * number)
        table.uses(mac(1), six(number), 100.0 * number)
        _consistent(table, {mac(1): None})


def test_members_who_left_are_bounded() -> None:
    table = Bindings()
    for number in range(1, 20 * MAX_AWAY):
        address = number.to_bytes(6)
        table.acknowledged(address, four(number), 86400, float(number))
        table.requested(address, b"xid.", four(number))
        table.uses(address, six(number), float(number))
        table.left(address, float(number))
    assert len(table._away) == MAX_AWAY
    _consistent(table, {})


def test_a_guard_that_hears_a_whole_internet_from_the_house_stays_small() -> None:
    """ARP, neighbour discovery, DHCP acknowledgements, packets: of ever new machines and addresses."""
    judge = Guard(RoomPolicy(), 1500, {mac(1): None})
    house = next(_members(Rooms(), gateway=True))
    for number in range(2 * MAX_HOUSE):
        machine = b"\x3c" + number.to_bytes(5)
        address = four(number)
        arp = b"\0\1\x08\0\6\4\0\1" + machine + address + bytes(6) + address
        advert = icmpv6(136, b"\x20\0\0\0" + six(number) + b"\2\1" + machine)
        for frame in (
            ethernet(arp, ARP, source=machine),
            ethernet(ipv6(advert, 58), IPV6, source=machine, destination=bytes.fromhex("333300000001")),
            ethernet(_ip(udp(1, 2), 17, address, b"\xff" * 4), IPV4, source=machine),
            _dhcp(machine, machine, 2, b"\5", four(1), address, number, 3600),
        ):
            judge.judge_untrusted(frame, house, number / 10)
    _consistent(judge.bindings, {mac(1): None})
    assert len(judge.bindings._house) == MAX_HOUSE


# -- switch ------------------------------------------------------------------------------------------------------------


def _members(rooms: Rooms, *, gateway: bool = False) -> Iterator[MemberState]:
    for number in range(0 if gateway else 1, 4):
        admitted = rooms.admit(hello(number), 1170, "192.0.2.1:1")
        yield admitted.member  # type: ignore[union-attr]


def test_machines_of_the_house_are_bounded() -> None:
    hub: Hub[object] = Hub(Rooms())
    house, ann = Place(hub, "house"), Place(hub, "ann", number=1)
    for number in range(3 * MAX_LAN_SOURCES):
        machine = b"\x3c" + number.to_bytes(5)
        house.send_raw(b"\x10\0\0\0" + ethernet(bytes(46), IPV4, source=machine, destination=mac(1)), now=number / 100)
    switch = house.joined.switch
    assert len(switch._lan) <= MAX_LAN_SOURCES
    assert (b"\x3c" + (3 * MAX_LAN_SOURCES - 1).to_bytes(5)) in switch._lan
    assert all(len(port.ways) <= MAX_WAYS for port in switch.ports)
    assert ann.received
    # Those who are silent for long go first.
    late = 3 * MAX_LAN_SOURCES / 100 + 2 * LAN_AGE
    house.send_raw(b"\x10\0\0\0" + ethernet(bytes(46), IPV4, source=HOUSE, destination=mac(1)), now=late)
    assert len(switch._lan) <= MAX_LAN_SOURCES


def test_a_member_has_a_fixed_number_of_buckets_and_leaves_none() -> None:
    control = StormControl()
    for _ in range(1000):
        member = control.join()
        assert len(member.kinds) + 2 == BUCKETS
        control.leave(member)
    assert not control._members


def test_reasons_are_counted_by_fixed_names_whatever_comes() -> None:
    """A counter that is named by what a stranger sends would be a table without a bound."""
    hub: Hub[object] = Hub(Rooms())
    house, ann = Place(hub, "house"), Place(hub, "ann", number=1)
    for first in range(256):
        for second in range(0, 256, 5):
            for place in (house, ann):
                place.send_raw(bytes((first, second, 0, 0)) + bytes(20), bytes((0x10, 0, second, first)) + bytes(14))
                place.send_raw(b"\x11\0\0\0" + bytes((first, second)) * 3, b"\x12\0\0\0" + bytes((first, second) * 8))
    total = hub.total()
    assert set(total.blocked) <= set(Rule)
    assert len(total.dropped) < 25
    assert len(OverlayCounters().as_dict()) == 4
    reporter = BlockedReporter()
    for rule in Rule:
        reporter.due({rule: 1}, 0.0)
    assert len(reporter._told) == len(Rule)


# -- admission ---------------------------------------------------------------------------------------------------------


def test_addresses_that_ask_for_rooms_are_bounded_and_so_is_what_each_asked_for() -> None:
    tries = Tries(limit=32)
    for number in range(3 * MAX_ADDRESSES):
        tries.wait(number, ("ROOM", None), None, float(number))
    assert len(tries._addresses) == MAX_ADDRESSES
    for number in range(10_000):
        tries.wait("one", (f"ROOM{number}", None), None, 1e6 + 61.0 * number)
    assert len(tries._addresses["one"].asked) <= 32


def test_guests_are_bounded() -> None:
    tries = Tries(limit=32)
    for number in range(2 * MAX_GUESTS):
        tries.welcome(number.to_bytes(32), ("ROOM", None))
    assert len(tries._guests) == MAX_GUESTS


def test_rooms_are_bounded_with_and_without_gateway() -> None:
    limits = RoomLimits(max_rooms=20, max_waiting_rooms=5)
    rooms = Rooms(limits)
    for number in range(100):
        rooms.admit(hello(1, room=f"WAIT{number}"), 1170, "a")
        rooms.admit(hello(0, room=f"HOUSE{number}"), 1170, "b")
    assert len(rooms) == 25
    assert rooms.housed == 20


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_what_a_member_says_of_itself_is_bounded(autojump_clock: MockClock, relay: Relay) -> None:
    """Its counters: 256 of them at most, and the newest replace the older ones."""
    ann = await relay.join(hello(1))
    for turn in range(20):
        ann.say(Stats({f"c{turn}.{number}": number for number in range(200)}))
        await trio.sleep(1)
    (session,) = relay.hub.sessions.values()
    assert len(session.stats) == 200
    assert "c19.0" in session.stats


async def test_sessions_that_come_and_go_leave_nothing(autojump_clock: MockClock, relay: Relay) -> None:
    """600 joins, ended in every way; members of two rooms, frames, leases, pieces, guessed rooms, half hellos."""
    gc.collect()

    async def cycle(turn: int) -> None:
        house = await relay.join(hello(room=f"ROOM{turn % 2}"), alive=False)
        ann = await relay.join(hello(1, room=f"ROOM{turn % 2}", display_name=f"n{turn}"), alive=False)
        silent = relay.connect()
        silent.say_bytes(b"\0\0")
        stranger = relay.connect()
        stranger.remote = (f"198.51.{turn % 100}.1", 5)
        stranger.say(hello(3, room=f"GUESS{turn}"))
        now = trio.current_time()
        for place, own in ((ann, mac(1)), (house, HOUSE)):
            assert place.handler is not None
            address = four(turn % 50 + 2)
            arp = b"\0\1\x08\0\6\4\0\1" + own + address + bytes(6) + address
            frames = [ethernet(arp, ARP, source=own), _dhcp(HOUSE, mac(1), 2, b"\5", four(1), address, turn, 3600)]
            datagrams = [b"\x10\0\0\0" + frame for frame in frames]
            place.handler([*datagrams, b"\x11\0\0\0" + turn.to_bytes(2) + b"\0\2half of it", b"\x12\0\0\0"], now)
        ann.frame(1, BROADCAST)
        match turn % 4:
            case 0:
                ann.say(Disconnect("leaving", "bye"))
                house.hang_up()
            case 1:
                ann.hang_up(timed_out=True)
                house.end_stream()
            case 2:
                ann.say_bytes(b"\xff" * 8)
                house.say(hello())
            case _:
                pass  # both fall silent
        await trio.sleep(20)
        stranger.hang_up()
        silent.hang_up()
        await trio.sleep(1)

    with captured() as lines:
        for turn in range(20):
            await cycle(turn)
        gc.collect()
        before = _living()
        tracemalloc.start()
        start = tracemalloc.get_traced_memory()[0]
        for turn in range(100):
            await cycle(turn)
            lines.clear()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - start
        tracemalloc.stop()
    assert not relay.hub.sessions
    assert not relay.hub._switches
    assert not len(relay.hub.rooms)
    assert not len(relay.sessions)
    assert _living() == before
    assert grown < 300 * 1024  # names that addresses asked for


def _living() -> int:
    kinds = (Endpoint, MemberState, Port, Switch, Guard, Bindings, PortTally, Welcome)
    return sum(isinstance(thing, kinds) for thing in gc.get_objects())


@pytest.mark.parametrize("cycles", [600])
def test_a_room_that_people_come_to_and_leave_all_day_stays_as_it_is(cycles: int) -> None:
    """One room that never closes: its gateway stays, players with ever new MACs come, get a lease, play and go."""
    hub: Hub[object] = Hub(Rooms(RoomLimits(max_clients_per_room=2)))
    house = Place(hub, "house")

    def cycle(turn: int) -> None:
        now = 30.0 * turn
        place = Place(hub, "p", number=turn % 200 + 1)
        own, address = mac(turn % 200 + 1), four(turn % 100 + 2)
        ask = _dhcp(own, own, 1, b"\3", bytes(4), address, turn)
        give = _dhcp(HOUSE, own, 2, b"\5", four(1), address, turn, 600)
        game = ethernet(_ip(udp(6112, 6112), 17, address, four(1)), IPV4, source=own, destination=HOUSE)
        place.send_raw(b"\x10\0\0\0" + ask, now=now)
        house.send_raw(b"\x10\0\0\0" + give, now=now + 0.1)
        place.send_raw(*[b"\x10\0\0\0" + game] * 20, now=now + 1)
        place.send_raw(b"\x11\0\0\0\0\1\0\2half", now=now + 2)
        hub.leave(place.joined)
        house.datagrams.clear()
        house.received.clear()

    for turn in range(250):
        cycle(turn)
    gc.collect()
    before = _living()
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    for turn in range(250, 250 + cycles):
        cycle(turn)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    switch = house.joined.switch
    _consistent(switch.guard.bindings, {})
    assert len(hub.sessions) == len(switch.ports) == len(switch.storm._members) == 1
    assert _living() == before
    assert grown < 100 * 1024
