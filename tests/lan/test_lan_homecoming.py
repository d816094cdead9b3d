"""A player's laptop is carried into the house with the tunnel up, and out again (peers.md, 9)."""

from __future__ import annotations

import json

import pytest
from lan_tools import answers, poll, run

from lanparty.demo.house import Place
from lanparty.demo.programs import Party

pytestmark = pytest.mark.lan

HOUSE = "192.168.77.1"
CABLE = "192.168.77.60"


def flags(namespace: str, interface: str) -> list[str]:
    (link,) = json.loads(run(namespace, "ip", "-j", "link", "show", interface).stdout)
    return list(link["flags"])


@pytest.mark.parametrize("adapter", ["tap", pytest.param("veth", marks=pytest.mark.slow)])
def test_a_laptop_comes_home_and_leaves_again(own_party: Party, adapter: str) -> None:
    house = own_party.house
    own_party.start_relay()
    gateway = own_party.start_gateway()
    player = own_party.start_client("--adapter", adapter, place="player1")
    own_party.start_client(place="player2")
    namespace, tap = house.at("player1"), str(player.named("client.joined")[-1]["interface"])
    assert answers(namespace, HOUSE)

    house.add_to_lan(Place("player1", lan_address=CABLE, lan_mac="00:16:3e:00:77:60"))
    home = player.wait_for("client.at-home", 15)
    assert (home["interface"], home["tap"]) == ("eth0", tap)
    assert "UP" not in flags(namespace, tap)
    # By the cable now, and by nothing else.
    poll(lambda: answers(namespace, HOUSE), 5, "the house answers by the cable")
    route = run(namespace, "ip", "route", "get", HOUSE).stdout
    assert "dev eth0" in route
    assert f"src {CABLE}" in route
    assert gateway.named("gateway.loop") == []
    assert player.named("program.diagnosis") == []

    house.remove_link(namespace, "eth0")
    player.wait_for("client.away-again", 40)
    assert "UP" in flags(namespace, tap)
    poll(lambda: answers(namespace, HOUSE), 15, "the house answers by the tunnel")
    assert f"dev {tap}" in run(namespace, "ip", "route", "get", HOUSE).stdout
    for destination in ("255.255.255.255", "224.0.0.0/4"):
        poll(
            lambda dest=destination: tap in run(namespace, "ip", "route", "show", dest).stdout, 5, "its routes are back"
        )
    assert len(player.named("client.at-home")) == len(player.named("client.away-again")) == 1
    assert player.stop() == 0
