"""Shown by, 11: the house switch points at the gateway's port for a silent player, and forgets a player who left."""

from __future__ import annotations

import time

import pytest
from lan_frames import mac
from lan_tools import Observer, poll, port_of

from lanparty.demo.house import set_sysctl

pytestmark = pytest.mark.lan

AGEING = 10
"""Seconds; the shortest that IEEE 802.1D allows a switch."""


def test_the_switch_remembers_a_silent_player_and_forgets_one_who_left(own_party):
    house = own_party.house
    switch = house.at("house-switch")
    # USER_HZ, a hundredth of a second each (linux/if_link.h).
    house.set_link(switch, "switch0", kind="bridge", br_ageing_time=AGEING * 100)
    set_sysctl(house.at("player1"), "net.ipv6.conf.default.disable_ipv6", "1")  # or it would send MLD reports
    own_party.start_relay()
    own_party.start_gateway()
    client = own_party.start_client("--address", "192.168.77.60/24", wait_for="client.joined")
    player = client.named("client.joined")[-1]["mac"]
    observer = Observer(switch, "to-gateway")
    try:
        poll(lambda: port_of(switch, "switch0", player) == "to-gateway", 5, "the switch learns the player's port")
        observer.collect()
        observer.frames.clear()
        end = time.monotonic() + 1.2 * AGEING
        while time.monotonic() < end:
            assert port_of(switch, "switch0", player) == "to-gateway"
            time.sleep(0.2)
        observer.collect()
        said = [frame for frame in observer.frames if frame[6:12] == mac(player)]
        assert said  # the gateway spoke for it …
        assert all(int.from_bytes(frame[12:14], "big") < 0x600 for frame in said)  # … in 802.2 frames only
    finally:
        observer.close()
    assert client.stop() == 0
    poll(lambda: port_of(switch, "switch0", player) is None, 1.5 * AGEING + 2, "the switch forgets the player", 0.2)


def test_a_player_who_was_wired_at_home_is_found_at_the_gateways_port(own_party):
    """The switch still has the player's MAC at another port when the player joins from afar."""
    house = own_party.house
    switch = house.at("house-switch")
    old = house.add_namespace("at-home")
    player = "02:00:00:00:00:66"
    house.add_cable(old, "eth0", switch, "switch0", player)
    house.add_address(old, "eth0", "192.168.77.66", 24)
    own_party.start_relay()
    own_party.start_gateway()
    poll(lambda: port_of(switch, "switch0", player) == "to-at-home", 5, "the switch knows the port at home")
    house.set_link(old, "eth0", state="down")  # as a laptop's cable is pulled behind a small switch on the desk
    own_party.start_client("--virtual-mac", player, "--address", "192.168.77.66/24", wait_for="client.joined")
    poll(lambda: port_of(switch, "switch0", player) == "to-gateway", 3, "the switch moved the player")
