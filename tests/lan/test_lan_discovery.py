"""Shown by, 3: broadcast, multicast and raw 802.3 IPX reach everybody else once, and never the sender.

Each probe carries a marker; packet sockets at every interface count the frames with it that come in. A fence behind the
probes says when it is time to count: broadcasts from everybody to everybody, twice. They take the same ways as a copy
that should not be there would take.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from lan_frames import BROADCAST, ipx, mac
from lan_tools import Observer, inject, marker, observing

from lanparty.demo import inside
from lanparty.demo.house import PLACES
from lanparty.demo.probes import Listener

pytestmark = [pytest.mark.lan, pytest.mark.parametrize("lan", ["dual", "ipv6", "no TAP"], indirect=True)]

HOUSE = {place.name: place for place in PLACES if place.lan_address}
STATIONS = ["lan-host", "gateway", "player1", "player2"]


def interface(lan, place):
    return "eth0" if place in HOUSE else lan.tap(place)


def address(lan, place):
    return HOUSE[place].lan_address if place in HOUSE else lan.address(place)


def station_mac(lan, place):
    return mac(HOUSE[place].lan_mac if place in HOUSE else lan.mac(place))


def send_udp(lan, place, target, port, payload):
    """As a game does it. A player's game does not choose an interface, although there are two: the routes must."""

    def work():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if place in HOUSE:  # its machines have no such routes
                udp.bind((address(lan, place), 0))
                udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address(lan, place)))
            udp.sendto(payload, (target, port))

    inside.call(lan.house.at(place), work)


def send_ipx(lan, place, payload):
    inject(lan.house.at(place), interface(lan, place), ipx(BROADCAST, station_mac(lan, place), payload))


PROBES: dict[str, Callable[..., None]] = {
    "limited broadcast": lambda lan, place, data: send_udp(lan, place, "255.255.255.255", 6112, data),
    "subnet broadcast": lambda lan, place, data: send_udp(lan, place, "192.168.77.255", 27015, data),
    "multicast 224.0.2.60:4445": lambda lan, place, data: send_udp(lan, place, "224.0.2.60", 4445, data),
    "mDNS": lambda lan, place, data: send_udp(lan, place, "224.0.0.251", 5353, data),
    "raw 802.3 IPX": send_ipx,
}


def fence(lan, observers: dict[str, Observer]) -> None:
    for _ in range(2):
        marks = {place: marker("fence") for place in STATIONS}
        for place, mark in marks.items():
            send_udp(lan, place, "192.168.77.255", 9, mark)
        for place, mark in marks.items():
            for other in STATIONS:
                if other != place:
                    observers[other].wait_for(mark)


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("sender", STATIONS)
def test_everybody_else_sees_it_once_and_the_sender_never(lan, kind, sender):
    with observing(*((lan.house.at(place), interface(lan, place)) for place in STATIONS)) as watching:
        observers = dict(zip(STATIONS, watching, strict=True))
        marks = [marker(kind) for _ in range(3)]
        for mark in marks:
            PROBES[kind](lan, sender, mark)
        fence(lan, observers)
        seen = {place: [observer.count(mark) for mark in marks] for place, observer in observers.items()}
    assert seen == {place: [0, 0, 0] if place == sender else [1, 1, 1] for place in STATIONS}


def test_a_large_broadcast_arrives_whole(lan):
    """1472 bytes of payload are a full frame: more than one datagram of the tunnel."""
    with observing((lan.house.at("player2"), lan.tap("player2")), (lan.house.at("lan-host"), "eth0")) as observers:
        mark = marker("large")
        payload = mark + bytes(range(256)) * 6
        send_udp(lan, "player1", "192.168.77.255", 27015, payload[:1472])
        for observer in observers:
            assert observer.wait_for(mark).endswith(payload[:1472])
            assert observer.count(mark) == 1


def test_a_reply_goes_to_the_one_who_asked_only(lan):
    """Unicast between two players is not seen in the house, nor by the sender."""
    with observing(*((lan.house.at(place), interface(lan, place)) for place in STATIONS)) as watching:
        observers = dict(zip(STATIONS, watching, strict=True))
        mark = marker("unicast")
        # Somebody listens, or the answer would be an ICMP error that quotes the marker.
        listener = Listener(lan.house.at("player2"), 27015)
        send_udp(lan, "player1", lan.address("player2"), 27015, mark)
        observers["player2"].wait_for(mark)  # it may wait for ARP, which the fence does not
        fence(lan, observers)
        listener.close()
        assert {place: observers[place].count(mark) for place in STATIONS} == {
            "lan-host": 0,
            "gateway": 0,
            "player1": 0,
            "player2": 1,
        }
