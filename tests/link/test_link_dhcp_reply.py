import ipaddress
import random
import struct

import pytest
from dhcp_frames import ACK, MAC, NAK, OFFER, SERVER_MAC, bootp, options_of, packed, reply, udp_frame
from hypothesis import given
from hypothesis import strategies as st

from lanparty.link.dhcp_reply import ReplyError, ReplyKind, lease_from, parse_reply_untrusted


def parse(frame):
    found = parse_reply_untrusted(frame, MAC)
    assert found is not None
    return found


def test_an_ordinary_acknowledgement():
    more = [(3, packed("192.168.77.254")), (6, packed("192.168.77.1", "9.9.9.9")), (15, b"house.example"), (250, b"x")]
    lease = lease_from(parse(reply(ACK, more=more)))
    assert (lease.address, lease.prefix, lease.server, lease.router) == (
        "192.168.77.100",
        24,
        "192.168.77.1",
        "192.168.77.254",
    )
    assert lease.server_mac == SERVER_MAC
    assert (lease.lease_seconds, lease.renew_seconds, lease.rebind_seconds) == (3600, 1800, 3150)
    assert lease.name_servers == ("192.168.77.1", "9.9.9.9")
    assert lease.domain == "house.example"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        reply(OFFER, mac=bytes(6)),
        reply(OFFER, op=1),
        reply(OFFER, fragment=0x2000),
        reply(OFFER, fragment=1),
        udp_frame(bootp(options_of(OFFER)), source=68),
        udp_frame(bootp(options_of(OFFER)), destination=67),
        udp_frame(bootp(options_of(OFFER))[:239]),
        udp_frame(bootp(options_of(OFFER)).replace(b"\x63\x82\x53\x63", b"\x63\x82\x53\x64")),
        reply(OFFER)[:-1],
        reply(OFFER)[:12] + b"\x86\xdd" + reply(OFFER)[14:],
    ],
)
def test_what_is_not_for_this_client_is_passed_over(frame):
    assert parse_reply_untrusted(frame, MAC) is None


def test_ip_options_trailing_bytes_and_padding_do_not_matter():
    assert parse(reply(OFFER, ip_options=b"\x01" * 8)).kind is ReplyKind.OFFER
    assert parse(reply(OFFER) + b"\0" * 20).kind is ReplyKind.OFFER
    assert parse(udp_frame(bootp([(53, b"\x05")]) + b"\0" * 60)).kind is ReplyKind.ACK


def test_options_in_parts_and_in_the_other_fields():
    split = [(53, b"\x02"), (15, b"house."), (15, b"example"), (52, b"\x03")]
    found = parse(udp_frame(bootp(split, file=b"\x36\x04" + packed("192.168.77.1"), sname=b"\x0c\x01x\xff")))
    assert found.options[15] == b"house.example"
    assert found.server == "192.168.77.1"
    assert found.options[12] == b"x"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ([], "message type"),
        ([(53, b"")], "message type"),
        ([(53, b"\x02\x02")], "message type"),
        ([(53, b"\x01")], "message type"),
        ([(53, b"\x09")], "message type"),
    ],
)
def test_damaged_replies_say_what_is_wrong(options, what):
    with pytest.raises(ReplyError, match=what):
        parse_reply_untrusted(udp_frame(bootp(options)), MAC)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_options_that_are_cut_off(cut):
    with pytest.raises(ReplyError, match="cut off"):
        parse_reply_untrusted(udp_frame(bootp([(53, b"\x02"), (54, b"\1\2\3\4")])[:-1][:-cut]), MAC)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"address": "0.0.0.0"}, "not an address for a host"),
        ({"address": "0.1.2.3"}, "not an address for a host"),
        ({"address": "127.0.0.1"}, "not an address for a host"),
        ({"address": "224.0.0.5"}, "not an address for a host"),
        ({"address": "255.255.255.255"}, "not an address for a host"),
        ({"address": "192.168.77.0"}, "not an address for a host of"),
        ({"address": "192.168.77.255"}, "not an address for a host of"),
        ({"mask": None}, "no subnet mask"),
        ({"mask": "0.0.0.0"}, "not the network of a LAN"),
        ({"mask": "128.0.0.0"}, "not the network of a LAN"),
        ({"mask": "255.0.0.0"}, "not the network of a LAN"),
        ({"mask": "255.254.0.0"}, "not the network of a LAN"),
        ({"mask": "255.255.255.254"}, "not the network of a LAN"),
        ({"mask": "255.255.255.255"}, "not the network of a LAN"),
        ({"mask": "255.0.255.0"}, "not a subnet mask"),
        ({"mask": None, "more": [(1, b"\xff\xff")]}, "no subnet mask"),
        ({"server": None}, "which server"),
        ({"server": "0.0.0.0"}, "which server"),
        ({"server": "255.255.255.255"}, "which server"),
        ({"seconds": None}, "for how long"),
        ({"seconds": 29}, "too short"),
        ({"server_mac": b"\xff" * 6}, "source MAC"),
        ({"server_mac": bytes(6)}, "source MAC"),
    ],
)
def test_what_must_not_be_put_on_an_interface(fields, what):
    with pytest.raises(ReplyError, match=what):
        lease_from(parse(reply(ACK, **fields)))


@pytest.mark.parametrize(
    ("address", "mask", "prefix"),
    [
        ("10.1.2.3", "255.0.0.0", 8),
        ("172.20.1.2", "255.240.0.0", 12),
        ("100.64.0.2", "255.192.0.0", 10),
        ("130.83.1.2", "255.255.0.0", 16),  # a campus
        ("192.168.1.2", "255.255.255.252", 30),
    ],
)
def test_networks_that_a_lan_may_have(address, mask, prefix):
    assert lease_from(parse(reply(ACK, address=address, mask=mask))).prefix == prefix


@pytest.mark.parametrize(
    ("renew", "rebind", "expected"),
    [
        (5, 60, (5, 60)),
        (None, None, (60, 105)),
        (4, 60, (60, 105)),  # would keep the client busy
        (0, 0, (60, 105)),
        (100, 50, (60, 105)),
        (60, 200, (60, 105)),
        (0xFFFFFFFF, 0xFFFFFFFF, (60, 105)),
    ],
)
def test_renewal_times_that_make_no_sense_are_replaced(renew, rebind, expected):
    more = [(code, struct.pack("!I", value)) for code, value in ((58, renew), (59, rebind)) if value is not None]
    lease = lease_from(parse(reply(ACK, seconds=120, more=more)))
    assert (lease.renew_seconds, lease.rebind_seconds) == expected


def test_for_ever():
    assert lease_from(parse(reply(ACK, seconds=0xFFFFFFFF))).lease_seconds is None


@pytest.mark.parametrize(
    ("routers", "expected"),
    [
        (["10.0.0.1"], None),
        (["192.168.77.255"], None),
        (["192.168.77.100"], None),
        (["0.0.0.0", "192.168.77.1"], "192.168.77.1"),
    ],
)
def test_only_a_neighbour_can_be_the_router(routers, expected):
    assert lease_from(parse(reply(ACK, more=[(3, packed(*routers))]))).router == expected


@pytest.mark.parametrize("domain", [b"a b", b"x\nnameserver 6.6.6.6", b"\xff", b"-x", b"", b"a..b", b"a" * 64])
def test_a_domain_that_is_no_name_is_left_out(domain):
    assert lease_from(parse(reply(ACK, more=[(15, domain)]))).domain is None


def test_name_servers_that_cannot_be_are_left_out_and_the_rest_bounded():
    servers = packed("0.0.0.0", "127.0.0.53", "1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4") + b"\1"
    assert lease_from(parse(reply(ACK, more=[(6, servers)]))).name_servers == ("1.1.1.1", "2.2.2.2", "3.3.3.3")


def test_a_refusal_needs_no_server():
    assert parse(reply(NAK, server=None, address="0.0.0.0")).server is None


def check_outcome(frame):
    """Either not ours, or our own error, or a lease that is safe to use."""
    try:
        found = parse_reply_untrusted(frame, MAC)
        lease = None if found is None else lease_from(found)
    except ReplyError:
        return
    if lease is not None:
        assert 8 <= lease.prefix <= 30
        address = ipaddress.IPv4Address(lease.address)
        assert not any((address.is_loopback, address.is_multicast, address.is_unspecified))
        assert 0 < lease.renew_seconds < lease.rebind_seconds
        assert not lease.server_mac[0] & 1


def test_hundred_thousand_mutations_of_good_replies_do_no_harm():
    dice = random.Random(20251122)
    more = [(3, packed("192.168.77.254")), (6, packed("9.9.9.9")), (15, b"house.example"), (52, b"\x03")]
    good = [reply(kind, more=more, file=b"\x0c\x02hi", sname=b"\x0f\x01x") for kind in (OFFER, ACK, NAK)]
    for _ in range(100_000):
        frame = bytearray(dice.choice(good))
        for _ in range(dice.randint(1, 4)):
            # Mostly in the headers and options: changes to sname and file prove little.
            position = dice.choice(
                (dice.randrange(len(frame)), dice.randrange(12, 60), len(frame) - dice.randint(1, 60))
            )
            frame[position] = dice.choice((0, 1, 0x7F, 0xFF, dice.randrange(256)))
        if dice.random() < 0.2:
            del frame[dice.randrange(len(frame)) :]
        check_outcome(bytes(frame))


@given(st.binary(max_size=400))
def test_noise_does_no_harm(data):
    check_outcome(data)
    check_outcome(udp_frame(data))


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=12))
def test_any_options_do_no_harm(options):
    check_outcome(udp_frame(bootp([(53, b"\x05"), *options])))
