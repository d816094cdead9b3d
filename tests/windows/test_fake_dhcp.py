"""The fake of Windows' DHCP client does what is known of the real one, against the demo's DHCP server."""

import pytest
from fake_dhcp import ERROR_ADDRESS_NOT_ASSOCIATED, ERROR_SEM_TIMEOUT, SLOW, WindowsDhcp
from fake_house import ADDRESS, ECHO_PORT, MAC, House, lease_book
from fake_packets import arp, udp, udp_of

OURS = bytes.fromhex("02a1b2c3d4e5")


def converse(client, house, now):
    while client.frames:
        for answer in house.answer(client.frames.pop(0), now):
            client.receive(answer, now)


@pytest.fixture
def client():
    return WindowsDhcp(OURS)


@pytest.fixture
def house():
    return House()


def test_a_plugged_cable_gets_an_address(client, house):
    client.media(True, 1.0)
    converse(client, house, 1.0)
    assert (client.bound.address, client.bound.prefix) == ("192.168.77.100", 24)
    assert (client.bound.router, client.bound.seconds) == ("192.168.77.1", 3600)
    assert client.asked == ["DISCOVER", "REQUEST"]
    assert house.leased() == {"192.168.77.100": OURS}


def test_nobody_answers(client):
    client.media(True, 0.0)
    client.renew(0.0)
    client.frames.clear()
    asked_at = []
    while client.wake_at < 400:
        now = client.wake_at
        client.tick(now)
        asked_at += [now] * len(client.frames)
        client.frames.clear()
    assert asked_at == [4.0, 12.0, 28.0, 60.0, 60.0 + SLOW]
    assert client.finished == [ERROR_SEM_TIMEOUT]
    assert client.automatic == "169.254.212.229"


def test_a_lease_is_renewed_when_told_to_and_at_half_time(client, house):
    client.media(True, 0.0)
    converse(client, house, 0.0)
    client.renew(10.0)
    converse(client, house, 10.0)
    assert client.finished == [0]
    assert client.bound.since == 10.0
    assert client.wake_at == 1810.0
    client.tick(1810.0)
    converse(client, house, 1810.0)
    assert client.bound.since == 1810.0


def test_a_lease_that_nobody_renews_ends(client, house):
    client.media(True, 0.0)
    converse(client, house, 0.0)
    while client.bound is not None:
        now = client.wake_at
        client.tick(now)
        client.frames.clear()
    assert now == 3600.0
    assert client.state == "selecting"


def test_a_cable_that_was_pulled_and_plugged_in_asks_for_the_same(client, house):
    client.media(True, 0.0)
    converse(client, house, 0.0)
    client.media(False, 1.0)
    assert client.bound is None
    client.media(True, 2.0)
    converse(client, house, 2.0)
    assert client.bound.address == "192.168.77.100"
    assert client.asked == ["DISCOVER", "REQUEST", "REQUEST"]


def test_a_house_that_refuses_gives_another(client, house):
    client.media(True, 0.0)
    converse(client, house, 0.0)
    other = House(lease_book())
    other.book.answer_untrusted(discover_of(bytes(5) + b"\1"), 0.0)
    assert "192.168.77.100" in [str(address) for address in other.book.bindings]
    client.renew(1.0)
    converse(client, other, 1.0)
    assert client.bound.address == "192.168.77.101"
    assert client.finished == [0]


def discover_of(mac):
    other = WindowsDhcp(mac)
    other.media(True, 0.0)
    return udp_of(other.frames[0])[2]


def test_given_back(client, house):
    client.media(True, 0.0)
    converse(client, house, 0.0)
    assert client.release(5.0) == 0
    converse(client, house, 5.0)
    assert client.bound is None
    assert house.leased() == {}
    assert client.release(6.0) == ERROR_ADDRESS_NOT_ASSOCIATED
    client.renew(7.0)
    converse(client, house, 7.0)
    assert client.bound.address == "192.168.77.100"


def test_the_house_answers_arp_and_echoes(house):
    (answer,) = house.answer(arp(1, (OURS, "192.168.77.100"), (bytes(6), "192.168.77.1")), 0.0)
    assert answer[:12] == OURS + MAC
    question = udp(MAC, OURS, ("192.168.77.100", 5000), (str(ADDRESS.ip), ECHO_PORT), b"hello")
    (answer,) = house.answer(question, 0.0)
    assert udp_of(answer) == (("192.168.77.1", ECHO_PORT), ("192.168.77.100", 5000), b"hello")
