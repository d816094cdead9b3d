"""Shown by, 8: after SIGTERM, and after SIGKILL and a restart, a machine is as it was before."""

from __future__ import annotations

import signal
import time

import pytest
from lan_tools import differences, iperf_server, need, ping, poll, snapshot

pytestmark = pytest.mark.lan

STARTED = {"player1": "start_client", "gateway": "start_gateway"}


@pytest.fixture
def room(own_party):
    """A party with a relay, and the other half of what is tested."""
    own_party.start_relay()
    return own_party


def other(party, place):
    if place == "player1":
        party.start_gateway()
    else:
        party.start_client(place="player2", wait_for="client.joined")


@pytest.mark.parametrize("place", STARTED)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_being_asked_to_stop(room, place, number):
    other(room, place)
    before = snapshot(room.house.at(place))
    program = getattr(room, STARTED[place])()
    assert differences(before, snapshot(room.house.at(place)))  # it does change something
    assert program.stop(number) == 0
    assert differences(before, snapshot(room.house.at(place))) == []


@pytest.mark.parametrize("place", STARTED)
def test_after_a_kill_and_a_restart(room, place):
    other(room, place)
    before = snapshot(room.house.at(place))
    getattr(room, STARTED[place])().kill()
    program = getattr(room, STARTED[place])()
    if place == "player1":
        ping(room.house.at(place), "192.168.77.1")
    assert program.stop() == 0
    assert differences(before, snapshot(room.house.at(place))) == []


def test_promiscuous_mode_ends_with_the_gateway(room):
    """Even when it is killed: the kernel takes it back with the socket."""
    gateway = room.house.at("gateway")
    program = room.start_gateway()
    assert _promiscuity(gateway) == 1
    program.kill()
    assert _promiscuity(gateway) == 0


def _promiscuity(namespace):
    links = {link["ifname"]: link for link in snapshot(namespace)["links"]}
    return links["eth0"]["promiscuity"]


def test_the_lease_is_given_back(room):
    room.start_gateway()
    client = room.start_client()
    assert len(room.leases()) == 1
    assert client.stop() == 0
    client.wait_for("client.dhcp-released", 1)
    assert room.leases() == []


def test_only_what_was_asked_for_is_changed(room):
    """With --accept-default-route the default route leaves by the house, and comes back afterwards."""
    room.start_gateway()
    player = room.house.at("player1")
    before = snapshot(player)
    client = room.start_client("--accept-default-route", wait_for="client.default-route")
    ping(player, "192.168.77.1")
    assert client.stop() == 0
    assert differences(before, snapshot(player)) == []


def test_a_player_who_has_the_houses_addresses_at_home_too(room):
    """The relay stays reachable by the interface it was reached by, whatever the lease's routes cover."""
    room.start_gateway()
    client = room.start_client("--accept-default-route", wait_for="client.default-route")
    ping(room.house.at("player1"), "192.168.77.1", count=20)
    assert client.running
    assert not client.named("uplink.lost")


@pytest.mark.parametrize("label", ["player1", "gateway", "relay"])
def test_stopping_under_load(own_lan, label):
    """Five seconds at most, status 0, no traceback, and the others go on."""
    lan = own_lan
    server = iperf_server(lan.party)
    argv = [need("iperf3"), "-c", "192.168.77.1", "-t", "20", "-P", "4", "--bidir"]
    load = lan.party.start("load", "player1", argv)
    counts = len(lan.relay.named("relay.stats"))
    poll(lambda: len(lan.relay.named("relay.stats")) > counts + 1, 5, "a second of load")
    program = next(program for program in lan.party.programs if program.label == label)
    begun = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - begun < 5
    assert not [line for line in program.lines if "Traceback" in line]
    load.kill()
    server.kill()
    others = [other for other in (lan.relay, lan.gateway, *lan.players.values()) if other is not program]
    assert all(other.running for other in others)
