"""Shown by, 1: the player gets a lease from the house, for the virtual MAC, the same after a restart."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from lan_tools import ping, run

pytestmark = [pytest.mark.lan, pytest.mark.parametrize("lan", ["dual", "ipv6", "no TAP"], indirect=True)]


def test_the_lease_is_for_the_virtual_mac(lan):
    for player, program in lan.players.items():
        said = program.wait_for("client.address")
        assert (said["prefix"], said["server"]) == (24, "192.168.77.1")
        assert said["lease_seconds"] == pytest.approx(3600, abs=5)
        leases = {lease.mac: lease.address for lease in lan.party.leases()}
        assert leases[lan.mac(player)] == lan.address(player)
        identity = json.loads(lan.party.identity(player).read_text())
        assert identity["virtual_mac"] == lan.mac(player)
        assert lan.party.identity(player).stat().st_mode & 0o777 == 0o600


def test_the_adapter_has_that_mac_and_address(lan):
    for player in lan.players:
        (link,) = json.loads(run(lan.house.at(player), "ip", "-j", "address", "show", "dev", lan.tap(player)).stdout)
        assert link["address"] == lan.mac(player)
        assert link["mtu"] == 1500
        v4 = [(a["local"], a["prefixlen"]) for a in link["addr_info"] if a["family"] == "inet"]
        assert v4 == [(lan.address(player), 24)]


def test_each_step_was_shown(lan):
    for program in lan.players.values():
        names = [event["event"] for event in program.events]
        steps = ["uplink.connecting", "uplink.admitted", "room.gateway-present", "client.joined"]
        steps += ["client.dhcp-discover", "client.dhcp-offer", "client.dhcp-lease", "client.address"]
        for step in steps:
            assert step in names, step
        dhcp = [names.index(step) for step in steps[-4:-1]]
        assert dhcp == sorted(dhcp)
        assert all(event["message"] for event in program.events)


def test_only_the_lan_is_routed_to_the_house(lan):
    """And what games say to everybody. The router and the DNS server that DHCP offers are not taken."""
    for player in lan.players:
        routes = json.loads(run(lan.house.at(player), "ip", "-j", "-4", "route").stdout)
        by_tap = {route["dst"] for route in routes if route["dev"] == lan.tap(player)}
        assert by_tap == {"192.168.77.0/24", "255.255.255.255", "224.0.0.0/4"}
        defaults = [route["dev"] for route in routes if route["dst"] == "default"]
        assert defaults == ["wan0"] * len(lan.house.wan_addresses(1)[:-1])
        assert all("192.168.77" not in line for line in _resolver())


def test_the_same_after_a_restart(lan):
    mac, address = lan.mac("player2"), lan.address("player2")
    lan.restart("player2")
    assert (lan.mac("player2"), lan.address("player2")) == (mac, address)
    ping(lan.house.at("player2"), "192.168.77.1")


def test_the_demos_own_dhcp_server_does_as_well(lan, build):
    with ExitStack() as stack:
        party = build(stack, lan.variant, own_dhcp=True)
        party.start_relay()
        party.start_gateway()
        client = party.start_client()
        said, joined = client.wait_for("client.address"), client.wait_for("client.joined")
        assert [(lease.mac, lease.address) for lease in party.leases()] == [(joined["mac"], said["address"])]
        ping(party.house.at("player1"), "192.168.77.1")


def _resolver() -> list[str]:
    path = Path("/etc/resolv.conf")
    return path.read_text().splitlines() if path.exists() else []
