"""Shown by, 10: two rooms with the same MACs on one relay; nothing crosses."""

from __future__ import annotations

import pytest
from lan_frames import BROADCAST, ethernet, mac, udp
from lan_tools import Observer, inject, marker, ping

from lanparty.demo.house import Place

pytestmark = pytest.mark.lan

PLAYER_MAC, PLAYER_ADDRESS = "02:00:00:00:00:77", "192.168.77.50"
HOST_MAC = "00:16:3e:00:77:01"
HOUSES = {"ROOM1": ("player1", "lan-host"), "ROOM2": ("player2", "lan-host2")}


@pytest.fixture
def two_houses(own_party):
    """A second house, its host with the first one's MAC and address; a player with the same MAC in each room."""
    house = own_party.house
    house.add_switch("house-switch2", "switch0")
    for place, address, address_mac in (
        ("lan-host2", "192.168.77.1", HOST_MAC),
        ("gateway2", "192.168.77.2", "00:16:3e:00:77:02"),
    ):
        namespace = house.add_namespace(place)
        house.add_cable(namespace, "eth0", house.at("house-switch2"), "switch0", address_mac)
        house.add_address(namespace, "eth0", address, 24)
    house.add_to_internet("gateway2", 22)
    own_party.start_relay()
    own_party.start_gateway()
    own_party.start_gateway(place="gateway2", room="ROOM2")
    taps = {}
    for room, (player, _) in HOUSES.items():
        options = ("--virtual-mac", PLAYER_MAC, "--address", f"{PLAYER_ADDRESS}/24")
        client = own_party.start_client(*options, place=player, room=room, wait_for="client.joined")
        client.wait_for("client.address")
        taps[room] = client.named("client.joined")[-1]["interface"]
    return own_party, taps


def test_nothing_crosses(two_houses):
    party, taps = two_houses
    house = party.house
    observers = {
        place: Observer(house.at(place), interface)
        for place, interface in (
            ("player1", taps["ROOM1"]),
            ("lan-host", "eth0"),
            ("player2", taps["ROOM2"]),
            ("lan-host2", "eth0"),
        )
    }
    try:
        sent: dict[str, list[bytes]] = {"ROOM1": [], "ROOM2": []}
        for room, (player, host) in HOUSES.items():
            ping(house.at(player), "192.168.77.1", size=1472)
            ping(house.at(host), PLAYER_ADDRESS)
            ways = (
                (player, taps[room], mac(PLAYER_MAC), mac(HOST_MAC)),
                (player, taps[room], mac(PLAYER_MAC), BROADCAST),
                (player, taps[room], mac(PLAYER_MAC), mac("01:00:5e:00:02:3c")),
                (host, "eth0", mac(HOST_MAC), mac(PLAYER_MAC)),
                (host, "eth0", mac(HOST_MAC), BROADCAST),
            )
            for place, interface, source, destination in ways:
                mark = marker(room)
                sent[room].append(mark)
                packet = udp("192.168.77.9", "192.168.77.255", 9, 9, mark)
                inject(house.at(place), interface, ethernet(destination, source, 0x0800, packet))
                other_end = host if place == player else player
                observers[other_end].wait_for(mark)
        for room, marks in sent.items():
            (stranger,) = HOUSES.keys() - {room}
            for place in HOUSES[stranger]:
                assert [observers[place].count(mark) for mark in marks] == [0] * len(marks)
    finally:
        for observer in observers.values():
            observer.close()


def test_leaving_one_room_leaves_the_other_alone(two_houses):
    party, _ = two_houses
    client = next(program for program in party.programs if program.label == "player1")
    assert client.stop() == 0
    ping(party.house.at("player2"), "192.168.77.1")


def test_a_room_code_is_the_same_in_any_case(own_party):
    own_party.start_relay()
    own_party.start_gateway(room="Party-1")
    own_party.start_client(room="PARTY-1")
    ping(own_party.house.at("player1"), Place("lan-host", lan_address="192.168.77.1").lan_address)
