"""The demo's DHCP server: a conversation as a table, and nonsense."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.demo.dhcpserver import LeaseBook, parse_request_untrusted

ONE, TWO, THREE = (bytes((2, 0, 0, 0, 0, number)) for number in (1, 2, 3))
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
SERVER = IPv4Address("10.0.0.1")
FIRST, SECOND = IPv4Address("10.0.0.10"), IPv4Address("10.0.0.11")
NONE = IPv4Address(0)


@pytest.fixture
def book():
    return LeaseBook(IPv4Interface("10.0.0.1/24"), first=FIRST, last=SECOND, lease_seconds=60)


def message(kind, mac, *, requested=None, server=None, current=NONE, extra=b""):
    head = bytes((1, 1, 6, 0)) + b"xid!" + bytes(4) + current.packed + bytes(12) + mac
    options = bytes((53, 1, kind))
    options += b"" if requested is None else bytes((50, 4)) + requested.packed
    options += b"" if server is None else bytes((54, 4)) + server.packed
    return head.ljust(236, b"\0") + bytes((99, 130, 83, 99)) + options + extra + b"\xff"


def answer(book, packet, now=0.0):
    """(kind, address) of the reply, or None."""
    reply = book.answer_untrusted(packet, now)
    if reply is None:
        return None
    assert reply[:4] == bytes((2, 1, 6, 0))
    assert reply[4:8] == b"xid!"
    assert reply[236:240] == bytes((99, 130, 83, 99))
    assert len(reply) >= 300
    assert reply[240:243] == bytes((53, 1, reply[242]))[:2] + reply[242:243]
    return reply[242], IPv4Address(reply[16:20])


def options(reply):
    found, at = {}, 240
    while reply[at] != 255:
        found[reply[at]] = reply[at + 2 : at + 2 + reply[at + 1]]
        at += 2 + reply[at + 1]
    return found


def take(book, mac, now=0.0):
    _, address = answer(book, message(DISCOVER, mac), now)
    assert answer(book, message(REQUEST, mac, requested=address, server=SERVER), now) == (ACK, address)
    return address


def test_discover_offer_request_ack(book):
    assert answer(book, message(DISCOVER, ONE)) == (OFFER, FIRST)
    assert book.lease_lines() == ""
    reply = book.answer_untrusted(message(REQUEST, ONE, requested=FIRST, server=SERVER), 1000.0)
    assert reply is not None
    assert reply[16:20] == FIRST.packed
    assert options(reply) == {
        53: bytes((ACK,)),
        54: SERVER.packed,
        1: bytes((255, 255, 255, 0)),
        3: SERVER.packed,
        6: SERVER.packed,
        51: (60).to_bytes(4, "big"),
    }
    assert book.lease_lines() == "1060 02:00:00:00:00:01 10.0.0.10 * *\n"


def test_two_clients_get_two_addresses_and_a_third_none(book):
    assert {take(book, ONE), take(book, TWO)} == {FIRST, SECOND}
    assert answer(book, message(DISCOVER, THREE)) is None


def test_an_offer_that_is_not_taken_returns_to_the_pool(book):
    answer(book, message(DISCOVER, ONE))
    answer(book, message(DISCOVER, TWO))
    assert answer(book, message(DISCOVER, THREE), now=9.0) is None
    assert answer(book, message(DISCOVER, THREE), now=11.0) == (OFFER, FIRST)


def test_a_lease_that_ended_can_be_given_to_another(book):
    take(book, ONE, now=0.0)
    take(book, TWO, now=10.0)
    assert answer(book, message(DISCOVER, THREE), now=61.0) == (OFFER, FIRST)


def test_the_same_address_after_a_release(book):
    take(book, TWO)
    mine = take(book, ONE)
    assert answer(book, message(RELEASE, ONE, current=mine)) is None
    assert "02:00:00:00:00:01" not in book.lease_lines()
    assert take(book, ONE, now=5.0) == mine


def test_nobody_can_release_anothers_lease(book):
    mine = take(book, ONE)
    answer(book, message(RELEASE, TWO, current=mine))
    assert "02:00:00:00:00:01" in book.lease_lines()


def test_renewal_by_client_address(book):
    mine = take(book, ONE, now=0.0)
    assert answer(book, message(REQUEST, ONE, current=mine), now=30.0) == (ACK, mine)
    assert book.lease_lines().startswith("90 ")


@pytest.mark.parametrize("address", ["10.0.0.10", "10.0.0.200", "192.168.1.1"])
def test_an_address_that_is_not_theirs_is_refused(book, address):
    take(book, ONE)
    assert answer(book, message(REQUEST, TWO, requested=IPv4Address(address))) == (NAK, NONE)


def test_a_requested_address_is_given_when_free(book):
    assert answer(book, message(DISCOVER, ONE, requested=SECOND)) == (OFFER, SECOND)
    assert answer(book, message(DISCOVER, TWO, requested=SECOND)) == (OFFER, FIRST)


def test_a_request_to_another_server_is_not_ours(book):
    answer(book, message(DISCOVER, ONE))
    assert answer(book, message(REQUEST, ONE, requested=FIRST, server=IPv4Address("10.0.0.2"))) is None


def test_inform_gets_options_and_no_address(book):
    assert answer(book, message(INFORM, ONE, current=IPv4Address("10.0.0.50"))) == (ACK, NONE)


GOOD = message(DISCOVER, ONE, requested=FIRST, server=SERVER, extra=bytes((0, 0, 12, 2)) + b"pc")


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(GOOD)))
def test_nonsense_never_raises(changes, size):
    packet = bytearray(GOOD)
    for position, value in changes:
        packet[position] = value
    parse_request_untrusted(bytes(packet[:size]))
    book = LeaseBook(IPv4Interface("10.0.0.1/24"), first=FIRST, last=SECOND, lease_seconds=60)
    book.answer_untrusted(bytes(packet), 0.0)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        GOOD[:239],
        b"\x02" + GOOD[1:],  # a reply
        GOOD[:2] + b"\x07" + GOOD[3:],  # not Ethernet addresses
        GOOD[:236] + b"\0\0\0\0" + GOOD[240:],  # no cookie
        GOOD[:240] + bytes((53, 9)),  # an option cut short
        GOOD[:240] + b"\xff",  # no message type
        GOOD[:240] + bytes((53,)),
    ],
)
def test_what_is_not_a_request(packet):
    assert parse_request_untrusted(packet) is None
