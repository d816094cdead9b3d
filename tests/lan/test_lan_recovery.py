"""Shown by, 7: a relay that is killed, a network card that goes down, vanishes and comes back."""

from __future__ import annotations

import time

import pytest
from lan_tools import answers, ping, poll

pytestmark = pytest.mark.lan

HOUSE = "192.168.77.1"


def joins(program):
    return len(program.named("uplink.admitted"))


def test_the_relay_is_killed_and_restarted(own_lan):
    lan = own_lan
    before = {player: (lan.mac(player), lan.address(player)) for player in lan.players}
    members = [lan.gateway, *lan.players.values()]
    admitted = {program: joins(program) for program in members}
    lan.relay.kill()
    for program in members:
        program.wait_for("uplink.lost", 10)
    lan.relay = lan.party.start_relay("--stats-interval", "1")
    restarted = time.monotonic()
    for player in lan.players:
        poll(lambda player=player: answers(lan.house.at(player), HOUSE), 10, f"{player} reaches the house")
    took = time.monotonic() - restarted
    assert took < 10
    for program in members:
        assert program.running
        assert joins(program) > admitted[program]
    for player in lan.players:
        assert (lan.mac(player), lan.address(player)) == before[player]
        ping(lan.house.at(player), HOUSE, size=1472)
        ping(lan.house.at("lan-host"), lan.address(player))
    ping(lan.house.at("player1"), lan.address("player2"))


def test_the_relay_stops_in_good_order_and_comes_back(own_lan):
    lan = own_lan
    assert lan.relay.stop() == 0
    lan.relay = lan.party.start_relay()
    for player in lan.players:
        poll(lambda player=player: answers(lan.house.at(player), HOUSE), 10, f"{player} reaches the house")


def test_a_dead_path_is_noticed_in_five_seconds(own_lan):
    """The relay's cable is pulled: nobody says goodbye."""
    lan = own_lan
    marks = {program: len(program.events) for program in (lan.gateway, *lan.players.values())}
    lan.house.set_link(lan.house.at("relay"), "wan0", state="down")
    pulled = time.monotonic()
    for program, since in marks.items():
        program.wait_for("uplink.lost", 6, since=since)
    assert time.monotonic() - pulled < 6
    lan.house.set_link(lan.house.at("relay"), "wan0", state="up")
    for player in lan.players:
        poll(lambda player=player: answers(lan.house.at(player), HOUSE), 10, f"{player} reaches the house")


def test_the_gateways_network_card_goes_down_and_up(own_lan):
    lan = own_lan
    gateway = lan.house.at("gateway")
    lan.house.set_link(gateway, "eth0", state="down")
    lan.gateway.wait_for("gateway.lan-down", 5)
    lan.house.set_link(gateway, "eth0", state="up")
    up = time.monotonic()
    for player in lan.players:
        poll(lambda player=player: answers(lan.house.at(player), HOUSE), 5, f"{player} reaches the house")
    assert time.monotonic() - up < 5
    lan.gateway.wait_for("gateway.lan-up", 1)
    ping(lan.house.at("lan-host"), lan.address("player1"))
    ping(lan.house.at("player1"), "192.168.77.2")
    ping(gateway, lan.address("player1"))
    assert not lan.gateway.named("uplink.lost")


def test_the_switch_loses_power(own_lan):
    """The other end of the gateway's cable goes down: no carrier."""
    lan = own_lan
    switch = lan.house.at("house-switch")
    lan.house.set_link(switch, "to-gateway", state="down")
    lan.gateway.wait_for("gateway.lan-down", 5)
    lan.house.set_link(switch, "to-gateway", state="up")
    poll(lambda: answers(lan.house.at("player1"), HOUSE), 5, "player1 reaches the house")


def test_the_gateways_network_card_vanishes_and_returns(own_lan):
    lan = own_lan
    gateway = next(place for place in _places() if place.name == "gateway")
    lan.house.remove_link(lan.house.at("gateway"), "eth0")
    lan.gateway.wait_for("gateway.lan-down", 5)
    lan.house.add_to_lan(gateway)
    poll(lambda: answers(lan.house.at("player1"), HOUSE), 5, "player1 reaches the house")
    ping(lan.house.at("player1"), "192.168.77.2")
    ping(lan.house.at("lan-host"), lan.address("player1"))
    assert lan.gateway.running


def _places():
    from lanparty.demo.house import PLACES

    return PLACES


def test_the_house_appears_after_the_players(own_party):
    """Players wait for the gateway, and get their lease as soon as it is there."""
    own_party.start_relay()
    player = own_party.start_client(wait_for="room.gateway-missing")
    own_party.start_gateway()
    player.wait_for("client.address", 10)
    ping(own_party.house.at("player1"), HOUSE)


def test_the_gateway_is_restarted(own_lan):
    lan = own_lan
    address = lan.address("player1")
    assert lan.gateway.stop() == 0
    lan.players["player1"].wait_for("room.gateway-missing", 5)
    lan.gateway = lan.party.start_gateway()
    poll(lambda: answers(lan.house.at("player1"), HOUSE), 5, "player1 reaches the house")
    assert lan.address("player1") == address


def test_a_player_moves_to_another_network(own_lan):
    """The player's internet address changes under the client: it reconnects at once and keeps its lease."""
    lan = own_lan
    player, program = lan.house.at("player1"), lan.players["player1"]
    address = lan.address("player1")
    lan.house.configure(player, lambda ip: ip.flush_addr(index=ip.link_lookup(ifname="wan0")[0]))
    lan.house.add_address(player, "wan0", "10.99.0.77", 24)
    lan.house.add_route(player, "default", "10.99.0.1")
    poll(lambda: answers(player, HOUSE), 6, "player1 reaches the house")
    assert program.running
    assert lan.address("player1") == address
