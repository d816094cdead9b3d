"""Shown by, 6: what the relay must not let a client send does not come out; its lawful twin does; counters say so.

Bad frame and twin are injected on the player's adapter in this order; both take the same way, so when the twin is seen
in the house the bad one will not come any more.

At the level "standard", which looks behind tags and SNAP instead of dropping them; tests/lan/guard has "strict".
"""

from __future__ import annotations

import json

import attrs
import pytest
from lan_frames import BROADCAST, behind_extension, bootp, ethernet, icmpv6, is_tagged, mac, snap, tagged, udp, untagged
from lan_tools import Observer, inject, marker, observing, poll, run

pytestmark = [pytest.mark.lan, pytest.mark.parametrize("lan", ["standard"], indirect=True)]

LAN_HOST = mac("00:16:3e:00:77:01")
STRANGER = mac("02:99:99:99:99:99")
ALL_NODES, ALL_SERVERS = "ff02::1", "ff02::1:2"
LINK_LOCAL = "fe80::99"


def multicast6(address: str) -> bytes:
    return mac("33:33:00:01:00:02") if address == ALL_SERVERS else mac("33:33:00:00:00:01")


@attrs.frozen
class Case:
    """What is injected: two functions of (the player's own MAC, a marker)."""

    rule: str
    bad: object
    twin: object


def plain(destination, ethertype, packet):
    return lambda own, mark: ethernet(destination, own, ethertype, packet(own, mark))


def house_udp(source_of):
    """UDP to the LAN host, with a source MAC made from the player's own."""

    def build(own, mark):
        return ethernet(LAN_HOST, source_of(own), 0x0800, udp("192.168.77.99", "192.168.77.1", 27005, 27015, mark))

    return build


def to(destination):
    def build(own, mark):
        return ethernet(destination, own, 0x0800, udp("192.168.77.99", "239.1.1.1", 27005, 27015, mark))

    return build


def dhcp(operation, ports, kind):
    def packet(own, mark):
        return udp("192.168.77.99", "255.255.255.255", *ports, bootp(operation, own, kind, mark))

    return plain(BROADCAST, 0x0800, packet)


def with_ip_option(build):
    """IHL 6: one word of no-operation options."""

    def changed(own, mark):
        frame = bytearray(build(own, mark))
        frame[14] = 0x46
        frame[16:18] = (int.from_bytes(frame[16:18], "big") + 4).to_bytes(2, "big")
        # Header checksum: version/IHL grew by 0x0100, total length by 4, options by 0x0101 twice (RFC 1624).
        total = (~int.from_bytes(frame[24:26], "big") & 0xFFFF) + 0x0100 + 4 + 0x0202
        frame[24:26] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
        return bytes(frame[:34] + b"\x01\x01\x01\x01" + frame[34:])

    return changed


def dhcp6(ports):
    def packet(own, mark):
        return udp(LINK_LOCAL, ALL_SERVERS, *ports, b"\x01\x00\x00\x01" + mark)

    return plain(multicast6(ALL_SERVERS), 0x86DD, packet)


def nd(kind, hop_limit=255):
    """A router advertisement (134) or, as its twin, an echo request (128), with the marker in the body."""

    def packet(own, mark):
        return icmpv6(LINK_LOCAL, ALL_NODES, kind, bytes(12) + mark.ljust(48, b"\0"), hop_limit=hop_limit)

    return plain(multicast6(ALL_NODES), 0x86DD, packet)


def wrap(build, how):
    return lambda own, mark: how(build(own, mark))


def extension(header):
    return lambda frame: frame[:14] + behind_extension(frame[14:], header)


DISGUISES = {
    "plain": lambda frame: frame,
    "VLAN 0": lambda frame: tagged(frame, (0x8100, 0)),
    "VLAN 7": lambda frame: tagged(frame, (0x8100, 7)),
    "QinQ": lambda frame: tagged(frame, (0x88A8, 1), (0x8100, 0)),
    "SNAP": snap,
    "tagged SNAP": lambda frame: tagged(snap(frame), (0x8100, 0)),
}
DISGUISES6 = DISGUISES | {
    "hop-by-hop": extension(0),
    "destination options": extension(60),
    "tagged hop-by-hop": lambda frame: tagged(extension(0)(frame), (0x8100, 0)),
}
LAWFUL_GROUP = to(mac("01:00:5e:01:01:01"))
CONTROL = ["01:80:c2:00:00:00", "01:80:c2:00:00:03", "01:80:c2:00:00:0e", "01:80:c2:00:00:0f", "01:80:c2:00:00:10"]
CONTROL += ["01:80:c2:00:00:20", "01:80:c2:00:00:2f", "01:00:0c:cc:cc:cc", "01:00:0c:cc:cc:cd", "01:00:0c:cd:cd:cd"]

CASES = {
    "foreign source": Case("address", house_udp(lambda _: STRANGER), house_udp(lambda own: own)),
    "LAN host's source": Case("address", house_udp(lambda _: LAN_HOST), house_udp(lambda own: own)),
    "group source": Case("address", house_udp(lambda own: bytes((own[0] | 1,)) + own[1:]), house_udp(lambda own: own)),
    "zero source": Case("address", house_udp(lambda _: bytes(6)), house_udp(lambda own: own)),
}
CASES |= {
    f"DHCP server, {name}": Case("dhcp-server", wrap(dhcp(2, (67, 68), 2), how), wrap(dhcp(1, (68, 67), 1), how))
    for name, how in DISGUISES.items()
}
CASES["DHCP server, IP options"] = Case(
    "dhcp-server", with_ip_option(dhcp(2, (67, 68), 2)), with_ip_option(dhcp(1, (68, 67), 1))
)
CASES["DHCP server, odd source port"] = Case("dhcp-server", dhcp(2, (1234, 68), 2), dhcp(1, (68, 67), 1))
CASES |= {
    f"DHCPv6 server, {name}": Case("dhcpv6-server", wrap(dhcp6((547, 546)), how), wrap(dhcp6((546, 547)), how))
    for name, how in DISGUISES6.items()
}
CASES |= {
    f"router advertisement, {name}": Case("router-advertisement", wrap(nd(134), how), wrap(nd(128), how))
    for name, how in DISGUISES6.items()
}
CASES["router advertisement, hop limit 64"] = Case("router-advertisement", nd(134, 64), nd(128, 64))
CASES |= {f"control {address}": Case("switch-control", to(mac(address)), LAWFUL_GROUP) for address in CONTROL}


@pytest.fixture
def outside(lan):
    """Everywhere that a frame of player 1 may come out. At the gateway also what it sends: switches drop some kinds."""
    places = [("lan-host", "eth0"), ("player2", lan.tap("player2"))]
    with observing(*((lan.house.at(place), interface) for place, interface in places)) as observers:
        gateway = Observer(lan.house.at("gateway"), "eth0", outgoing=True)
        yield [*observers, gateway]
        gateway.close()


@pytest.mark.parametrize("name", CASES)
def test_the_bad_frame_stays_in_and_its_twin_comes_out(lan, outside, name):
    case, own = CASES[name], mac(lan.mac("player1"))
    bad, good = marker("bad"), marker("good")
    twin = case.twin(own, good)
    if not carries_tags(lan):
        twin = untagged(twin)
    inject(lan.house.at("player1"), lan.tap("player1"), case.bad(own, bad), twin)
    outside[0].wait_for(good)
    assert [observer.count(bad) for observer in outside] == [0, 0, 0]


@pytest.mark.parametrize("rule", sorted({case.rule for case in CASES.values()}))
def test_the_relay_counts_each_blocked_frame(lan, rule):
    own = mac(lan.mac("player1"))
    bad = [case.bad(own, marker("bad")) for case in CASES.values() if case.rule == rule]
    bad = [frame for frame in bad if carries_tags(lan) or not is_tagged(frame)]
    lan.relay.wait_for("relay.stats", since=len(lan.relay.events))
    before = blocked(lan, rule)
    inject(lan.house.at("player1"), lan.tap("player1"), *bad)
    poll(lambda: blocked(lan, rule) == before + len(bad), 5, f"{len(bad)} frames counted for {rule}")
    said = lan.relay.named("relay.frames-blocked")
    assert any(event["rule"] == rule and event["peer"] == lan.joined("player1")["peer"] for event in said)


def carries_tags(lan):
    """A TAP carries VLAN tags; the veth pair that stands in for it, without /dev/net/tun, drops such frames."""
    shown = run(lan.house.at("player1"), "ip", "-d", "-j", "link", "show", "dev", lan.tap("player1")).stdout
    return json.loads(shown)[0]["linkinfo"]["info_kind"] == "tun"


def blocked(lan, rule):
    """How many frames the relay has blocked by this rule, by its latest statistics."""
    return lan.relay.named("relay.stats")[-1].get(f"blocked.{rule}", 0)


def test_an_overlong_frame(lan, outside):
    """1514 bytes pass, 1515 do not, even where the player's adapter was told to carry more."""
    player, tap, own = lan.house.at("player1"), lan.tap("player1"), mac(lan.mac("player1"))
    bad, good = marker("bad"), marker("good")
    lan.house.set_link(player, tap, mtu=1600)
    try:
        frames = [
            ethernet(LAN_HOST, own, 0x0800, udp("192.168.77.99", "192.168.77.1", 1, 9, mark.ljust(size - 42, b"\0")))
            for mark, size in ((bad, 1515), (good, 1514))
        ]
        assert [len(frame) for frame in frames] == [1515, 1514]
        inject(player, tap, *frames)
        assert len(outside[0].wait_for(good)) == 1514
    finally:
        lan.house.set_link(player, tap, mtu=1500)
    assert [observer.count(bad) for observer in outside] == [0, 0, 0]
    # The client itself may be the one that drops and counts it: its adapter's MTU was fixed when it joined.
    assert lan.players["player1"].running


def test_the_houses_own_dhcp_is_not_touched(lan, outside):
    """The same bytes that a player may not send come in from the house."""
    mark = marker("house")
    offer = udp("192.168.77.1", "255.255.255.255", 67, 68, bootp(2, STRANGER, 2, mark))
    inject(lan.house.at("lan-host"), "eth0", ethernet(BROADCAST, LAN_HOST, 0x0800, offer))
    for observer in outside[1:]:
        observer.wait_for(mark)
        assert observer.count(mark) == 1
