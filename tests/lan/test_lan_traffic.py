"""Shown by, 2 and 4: ping, ARP and TCP between player and house, player and gateway box, player and player."""

from __future__ import annotations

import pytest
from lan_frames import BROADCAST, arp, ethernet, mac
from lan_tools import inject, iperf_server, observing, ping, run

from lanparty.demo.probes import transfer

pytestmark = [pytest.mark.lan, pytest.mark.parametrize("lan", ["dual", "ipv6", "no TAP"], indirect=True)]

LAN_HOST, GATEWAY = "192.168.77.1", "192.168.77.2"
ADDRESSES = {"lan-host": LAN_HOST, "gateway": GATEWAY}
PAIRS = [("player1", "lan-host"), ("player1", "gateway"), ("player1", "player2")]
BOTH_WAYS = [pair for one, two in PAIRS for pair in ((one, two), (two, one))]


def address(lan, place):
    return ADDRESSES.get(place) or lan.address(place)


def port(lan, place):
    """(namespace, interface) of a place on the LAN."""
    return lan.house.at(place), "eth0" if place in ADDRESSES else lan.tap(place)


@pytest.mark.parametrize(("here", "there"), BOTH_WAYS)
def test_ping(lan, here, there):
    ping(lan.house.at(here), address(lan, there), count=5)


@pytest.mark.parametrize(("here", "there"), BOTH_WAYS)
def test_ping_of_a_full_frame_that_may_not_be_fragmented(lan, here, there):
    ping(lan.house.at(here), address(lan, there), count=5, size=1472)


@pytest.mark.parametrize(("here", "there"), BOTH_WAYS)
def test_arp(lan, here, there):
    """A request as the kernel of the other end sees and answers it, without any cache in between."""
    links = {place: run(*_link(lan, place)).stdout.split() for place in (here, there)}
    macs = {place: mac(words[words.index("link/ether") + 1]) for place, words in links.items()}
    asked = arp(1, macs[here], address(lan, here), bytes(6), address(lan, there))
    answer = arp(2, macs[there], address(lan, there), macs[here], address(lan, here))
    with observing(port(lan, here)) as (observer,):
        inject(*port(lan, here), ethernet(BROADCAST, macs[here], 0x0806, asked))
        reply = observer.wait_for(answer)
    assert reply[:12] == macs[here] + macs[there]


def _link(lan, place):
    namespace, interface = port(lan, place)
    return namespace, "ip", "link", "show", "dev", interface


@pytest.mark.parametrize(("here", "there"), BOTH_WAYS)
def test_tcp_arrives_intact(lan, here, there):
    """Offloads are on at the LAN host and the gateway: what is captured there are super-frames."""
    megabytes = lan.variant.megabytes if "lan-host" in (here, there) else 5
    done = transfer(lan.house.at(here), lan.house.at(there), address(lan, there), size=megabytes * 1_000_000)
    assert done.intact, done


def test_many_connections_at_once_arrive_intact(lan):
    tool = ["iperf3", "-c", LAN_HOST, "-t", "2", "-P", "8", "--bidir"]
    server = iperf_server(lan.party)
    run(lan.house.at("player1"), *tool, "--connect-timeout", "3000")
    server.stop()


@pytest.mark.parametrize("place", ["lan-host", "gateway"])
def test_offloads_are_still_on(lan, place):
    features = run(lan.house.at(place), "ethtool", "-k", "eth0").stdout
    for feature in ("tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload"):
        assert f"{feature}: on" in features
    assert "generic-receive-offload: on" in features
