"""Packets that the guard drops at "strict", by row of l2-guard.md, each with a lawful twin; and the four wrappings.

All are PLAYER's in the world of ``guard_world.py``. Bare, a packet is dropped by the rule of its row; in a wrapping by
row 3 or 4. "standard" looks behind wrappings, so that there all four are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from guard_world import FREE4, FREE6, HOUSE4, HOUSE6, OTHER4, OTHER6, PLAYER4, PLAYER6, ROUTER, ROUTER6
from relay_packets import (
    ARP,
    HOUSE,
    IPV4,
    IPV6,
    OTHER,
    PLAYER,
    arp,
    authentication,
    dhcp,
    ethernet,
    extension,
    fragment_header,
    icmpv6,
    ipv4,
    ipv6,
    link_layer,
    nd,
    option,
    snap,
    tag,
    udp,
)

from lanparty.guard.guard import Rule

ZERO4, ZERO6 = bytes(4), bytes(16)
NOP = b"\x01"


def own_ethernet(payload: bytes, ethertype: int) -> bytes:
    return ethernet(payload, ethertype)


WRAPPINGS: dict[str, tuple[Callable[[bytes, int], bytes], Rule | None]] = {
    "plain": (own_ethernet, None),
    "vid0": (lambda payload, ethertype: ethernet(payload, ethertype, tags=tag()), Rule.VLAN),
    "qinq": (lambda payload, ethertype: ethernet(payload, ethertype, tags=tag(0x88A8, 5) + tag(0x8100, 7)), Rule.VLAN),
    "snap": (snap, Rule.LLC),
}


@attrs.frozen
class Vector:
    row: int
    name: str
    packet: bytes
    ethertype: int
    rule: Rule
    standard: Rule | None
    """What stops it at "standard"."""
    twin: bytes

    def __str__(self) -> str:
        return f"row{self.row}-{self.name.replace(' ', '-')}"


def offer(**fields: object) -> bytes:
    return dhcp(2, op=2, yiaddr=FREE4, **fields)


def discover(**fields: object) -> bytes:
    return dhcp(1, **fields)


def asked(message: bytes, source: bytes = ZERO4, ports: tuple[int, int] = (68, 67), **fields: object) -> bytes:
    return ipv4(udp(*ports, message), source=source, **fields)


def on_link(message: bytes, source: bytes = PLAYER6, **fields: object) -> bytes:
    return ipv6(message, 58, source=source, **fields)


OWN_ARP = arp()
NS = nd(135, FREE6, link_layer(1, PLAYER))
NA = nd(136, PLAYER6, link_layer(2, PLAYER))
ECHO = ipv4(b"\x08" + bytes(15), protocol=1)
REPORT = ipv4(b"\x16" + bytes(7), protocol=2, options=b"\x94\x04\0\0")
GAME = ipv4(udp(27005, 27015))
GAME6 = ipv6(udp(27005, 27015), 17)
ECHO6 = ipv6(icmpv6(128), 58)
MLD = ipv6(extension(58) + icmpv6(143), 0)
DISCOVER = asked(discover())
SOLICIT = ipv6(udp(546, 547, b"\x01" + bytes(11)), 17)
RELEASE = asked(dhcp(7, ciaddr=PLAYER4), PLAYER4)


def arp_vectors() -> list[Vector]:
    bad = {
        "hardware type": arp(fields=(6, 0x0800, 6, 4)),
        "protocol type": arp(fields=(1, 0x86DD, 6, 4)),
        "hardware length": arp(fields=(1, 0x0800, 8, 4)),
        "protocol length": arp(fields=(1, 0x0800, 6, 16)),
        "27 bytes": arp()[:27],
        "op 0": arp(0),
        "op 3 rarp": arp(3),
        "op 9 inarp": arp(9),
        "another's mac": arp(2, hardware=OTHER),
        "house's mac": arp(2, hardware=HOUSE),
        "sender multicast": arp(sender=b"\xe0\0\0\x01"),
        "sender broadcast": arp(sender=b"\xff" * 4),
        "sender the network's broadcast": arp(sender=b"\x0a\0\0\xff"),
        "sender loopback": arp(sender=b"\x7f\0\0\x01"),
        "router spoof, reply": arp(2, ROUTER),
        "router spoof, request": arp(1, ROUTER),
        "router spoof, gratuitous": arp(1, ROUTER, target=ROUTER),
        "house machine spoof": arp(2, HOUSE4),
        "other member spoof": arp(2, OTHER4),
        "reply from 0": arp(2, ZERO4),
        "second address beside a lease": arp(2, FREE4),
    }
    twins = {
        "reply from 0": arp(1, ZERO4, target=FREE4),
        "router spoof, gratuitous": arp(1, PLAYER4, target=PLAYER4),
        "router spoof, reply": arp(2),
        "27 bytes": arp() + bytes(18),
    }
    return [Vector(7, name, packet, ARP, Rule.ARP, None, twins.get(name, OWN_ARP)) for name, packet in bad.items()]


def ipv4_vectors() -> list[Vector]:
    vectors = []
    for name, packet, twin in (
        ("ihl 4", ipv4(udp(1, 2), ihl=4), ipv4(udp(1, 2))),
        ("version 6", ipv4(udp(1, 2), version=6), GAME),
        ("total too long", ipv4(udp(1, 2), total=1000), ipv4(udp(1, 2)) + bytes(20)),
        ("total too short", ipv4(udp(1, 2), total=19), GAME),
        ("options cut", ipv4(b"", options=NOP * 4)[:22], ipv4(udp(1, 2), options=NOP * 4)),
        ("tiny fragment", ipv4(udp(9, 9)[:7], fragment=0x2000), ipv4(udp(9, 9), fragment=0x2000)),
    ):
        vectors.append(Vector(8, name, packet, IPV4, Rule.IPV4_HEADER, Rule.IPV4_HEADER, twin))
    for name, packet in (
        ("offer", ipv4(udp(67, 68, offer()))),
        ("1234 to 68", ipv4(udp(1234, 68, offer()))),
        ("67 to 1234", ipv4(udp(67, 1234))),
        ("ihl 6", ipv4(udp(67, 68, offer()), options=NOP * 4)),
        ("ihl 15", ipv4(udp(67, 68, offer()), options=NOP * 40)),
        ("fragment, offset 0", ipv4(udp(67, 68, offer()), fragment=0x2000)),
        ("from the member's 68", ipv4(udp(68, 67, offer()))),
        ("unicast", ipv4(udp(67, 68, offer()), destination=OTHER4)),
    ):
        vectors.append(Vector(9, name, packet, IPV4, Rule.DHCP_SERVER, Rule.DHCP_SERVER, DISCOVER))
    for name, packet, twin in (
        ("icmp redirect", ipv4(b"\x05" + bytes(15), protocol=1), ECHO),
        ("icmp router advertisement", ipv4(b"\x09" + bytes(15), protocol=1), ipv4(b"\x0a" + bytes(7), protocol=1)),
        ("igmp query", ipv4(b"\x11" + bytes(7), protocol=2), REPORT),
        ("igmp mrd 30", ipv4(b"\x30" + bytes(7), protocol=2), ipv4(b"\x17" + bytes(7), protocol=2)),
        ("igmp mrd 31", ipv4(b"\x31" + bytes(7), protocol=2), ipv4(b"\x12" + bytes(7), protocol=2)),
        ("igmp mrd 32", ipv4(b"\x32" + bytes(7), protocol=2), REPORT),
        *((f"protocol {p}", ipv4(bytes(30), protocol=p), ipv4(bytes(30), protocol=47)) for p in (88, 89, 103, 112, 41)),
        *((f"udp to {p}", ipv4(udp(40000, p)), ipv4(udp(40000, p + 1000))) for p in (520, 521, 1985, 2029, 3222)),
        ("rip answer", ipv4(udp(520, 40000)), ipv4(udp(1985, 27015))),
        ("ospf, later fragment", ipv4(bytes(30), protocol=89, fragment=5), ipv4(bytes(30), fragment=5)),
    ):
        vectors.append(Vector(16, name, packet, IPV4, Rule.ROUTING, None, twin))
    for name, protocol in (("icmp", 1), ("igmp", 2)):
        twin = ipv4(b"\x08" + bytes(7), protocol=1, fragment=0x2000)
        bad = ipv4(b"", protocol=protocol, fragment=0x2000)
        vectors.append(Vector(16, f"{name} without its type", bad, IPV4, Rule.IPV4_HEADER, None, twin))
    for name, source in (
        ("other member's", OTHER4),
        ("router's", ROUTER),
        ("house machine's", HOUSE4),
        ("second beside a lease", FREE4),
        ("zero", ZERO4),
        ("broadcast", b"\xff" * 4),
        ("multicast", b"\xe0\0\0\xfb"),
        ("loopback", b"\x7f\0\0\x01"),
        ("network 0", b"\0\0\0\x01"),
    ):
        packet = ipv4(udp(27005, 27015), source=source)
        vectors.append(Vector(11, name, packet, IPV4, Rule.IPV4_SOURCE, None, GAME))
    for name, packet, twin in (
        ("later fragment", ipv4(bytes(30), fragment=7, source=OTHER4), ipv4(bytes(30), fragment=7)),
        ("tcp", ipv4(bytes(20), protocol=6, source=OTHER4), ipv4(bytes(20), protocol=6)),
        ("dhcp request", asked(dhcp(3, ciaddr=OTHER4), OTHER4), asked(dhcp(3, ciaddr=PLAYER4), PLAYER4)),
        ("zero from 1234 to 67", asked(discover(), ports=(1234, 67)), asked(discover(), PLAYER4, (1234, 67))),
        ("zero, udp", ipv4(udp(68, 5000), source=ZERO4), ipv4(b"\x16" + bytes(7), protocol=2, source=ZERO4)),
        ("zero, igmp in fragments", ipv4(bytes(8), 2, source=ZERO4, fragment=0x2000), REPORT),
    ):
        vectors.append(Vector(11, name, packet, IPV4, Rule.IPV4_SOURCE, None, twin))
    return vectors


def dhcp_vectors() -> list[Vector]:
    agent = option(82, b"\x01\x04port")
    client_id = option(61, b"\x01" + PLAYER)
    bad: list[tuple[str, bytes, bytes]] = [
        ("htype 6", discover(htype=6), discover()),
        ("hlen 16", discover(hlen=16), discover()),
        ("chaddr of another", dhcp(1, OTHER), discover()),
        ("chaddr made up", dhcp(1, b"\x02\0\0\0\0\x63"), discover()),
        ("giaddr", discover(giaddr=PLAYER4), discover()),
        ("option 82", discover(options=agent), discover(options=client_id)),
        ("option 82 in file", discover(options=option(52, b"\x01"), file=agent), discover(options=option(52, b"\x01"))),
        ("option 82 in sname", discover(options=option(52, b"\2"), sname=agent), discover(options=option(52, b"\2"))),
        ("client id of another", discover(options=option(61, b"\x01" + HOUSE)), discover(options=option(61, b"\0me"))),
        ("release of another's lease", dhcp(7, ciaddr=OTHER4), dhcp(7, ciaddr=PLAYER4)),
        ("release of a house machine's", dhcp(7, ciaddr=HOUSE4), dhcp(7, ciaddr=PLAYER4)),
        ("release of nobody's", dhcp(7, ciaddr=FREE4), dhcp(7, ciaddr=PLAYER4)),
        ("decline of another's", dhcp(4, options=option(50, OTHER4)), dhcp(4, options=option(50, PLAYER4))),
        ("decline of nobody's", dhcp(4, options=option(50, FREE4)), dhcp(4, options=option(50, PLAYER4))),
        ("a server's ack", dhcp(5), dhcp(8, ciaddr=PLAYER4)),
        ("lease query", dhcp(10), dhcp(8, ciaddr=PLAYER4)),
        ("two types", discover(options=option(53, b"\x07")), discover()),
        ("options cut off", discover()[:-1] + b"\x0c\xff", dhcp(None)),
        ("cut", discover()[:200], discover()),
    ]
    sources = {"release": PLAYER4}
    vectors = []
    for name, message, twin in bad:
        source = sources.get(name.split(maxsplit=1)[0], ZERO4)
        packets = [asked(message, source), asked(twin, source)]
        vectors.append(Vector(10, name, packets[0], IPV4, Rule.DHCP_CLIENT, None, packets[1]))
    hidden = ipv4(udp(68, 67, dhcp(7, ciaddr=OTHER4)), source=PLAYER4, fragment=0x2000)
    vectors.append(Vector(10, "in fragments", hidden, IPV4, Rule.DHCP_CLIENT, None, RELEASE))
    lying = bytearray(DISCOVER)
    lying[24:26] = b"\xff\xff"
    vectors.append(Vector(10, "udp length lies", bytes(lying), IPV4, Rule.DHCP_CLIENT, None, DISCOVER))
    return vectors


def ipv6_vectors() -> list[Vector]:
    ra = icmpv6(134)
    chain = Rule.IPV6_CHAIN
    vectors = []
    for name, packet, twin in (
        ("second piece has the icmpv6", ipv6(extension(44) + fragment_header(60, more=True) + extension(58), 0), MLD),
        ("payload longer than the frame", ipv6(icmpv6(128), 58, length=1000), ECHO6),
        ("chain ends in the air", ipv6(extension(60) + extension(60), 60), ipv6(extension(58) + icmpv6(128), 60)),
        ("option longer than the packet", ipv6(bytes((58, 200, 1, 4)) + ra, 60), ECHO6),
        ("jumbo", ipv6(extension(58) + ra, 0, length=0), MLD),
        ("options behind the fragment header", ipv6(fragment_header(60, more=True) + extension(58) + ra, 44), GAME6),
        ("70 options", ipv6(extension(60) * 69 + extension(58) + icmpv6(128), 60),
         ipv6(extension(60) * 7 + extension(58) + icmpv6(128), 60)),
    ):  # fmt: skip
        vectors.append(Vector(12, name, packet, IPV6, chain, chain, twin))
    for protocol in (4, 41, 47, 97, 115, 46, 99, 143, 253, 255):
        bad = ipv6(bytes(40), protocol)
        vectors.append(Vector(12, f"upper layer {protocol}", bad, IPV6, chain, None, ipv6(bytes(40), 50)))
    short = ipv6(fragment_header(6, more=True) + bytes(16), 44)
    whole = ipv6(fragment_header(6, more=True) + bytes(24), 44)
    vectors.append(Vector(12, "first fragment with half a tcp header", short, IPV6, chain, None, whole))
    for name, packet, twin in (
        ("ra", on_link(ra), on_link(nd(133), destination=ZERO6)),
        ("ra, hop limit 64", on_link(ra, hop_limit=64), on_link(icmpv6(128), hop_limit=64)),
        ("ra, source ::", on_link(ra, ZERO6), on_link(nd(133), ZERO6)),
        ("hop-by-hop + ra", ipv6(extension(58) + ra, 0), MLD),
        ("3 options + ra", ipv6(extension(60) + extension(60, 264) + extension(58) + ra, 60),
         ipv6(extension(60) + extension(60, 264) + extension(58) + icmpv6(128), 60)),
        ("routing + ah + ra", ipv6(extension(51) + authentication(58) + ra, 43),
         ipv6(extension(51) + authentication(58) + icmpv6(129), 43)),
        ("mobility + hip + shim6 + ra", ipv6(extension(139) + extension(140) + extension(58) + ra, 135),
         ipv6(extension(139) + extension(140) + extension(58) + icmpv6(128), 135)),
        ("atomic fragment + ra", ipv6(fragment_header(58) + ra, 44), ipv6(fragment_header(58) + icmpv6(128), 44)),
    ):  # fmt: skip
        vectors.append(Vector(13, name, packet, IPV6, Rule.ROUTER_ADVERTISEMENT, Rule.ROUTER_ADVERTISEMENT, twin))
    for kind, twin in ((137, 128), (151, 131), (152, 132), (153, 143), (130, 131), (138, 129)):
        for limit in (64, 255):
            bad = on_link(icmpv6(kind), hop_limit=limit)
            name = f"type {kind}, hop limit {limit}"
            good = on_link(icmpv6(twin), hop_limit=limit)
            vectors.append(Vector(13, name, bad, IPV6, Rule.ICMPV6_CONTROL, None, good))
    for name, message, source in (("redirect from ::", icmpv6(137), ZERO6), ("query behind options", None, PLAYER6)):
        bad = ipv6(extension(58) + icmpv6(130), 0) if message is None else on_link(message, source)
        vectors.append(Vector(13, name, bad, IPV6, Rule.ICMPV6_CONTROL, None, on_link(icmpv6(143), ZERO6)))
    for name, packet, twin in (
        ("advertise", ipv6(udp(547, 546), 17), SOLICIT),
        ("any to 546", ipv6(udp(1234, 546), 17), SOLICIT),
        ("547 to any", ipv6(udp(547, 1234), 17), SOLICIT),
        ("behind hop-by-hop", ipv6(extension(17) + udp(547, 546), 0),
         ipv6(extension(17) + udp(546, 547, b"\x0b" + bytes(7)), 0)),
        ("behind fragments", ipv6(fragment_header(17, more=True) + udp(547, 546), 44),
         ipv6(fragment_header(17, more=True) + udp(546, 547, b"\x01" + bytes(7)), 44)),
    ):  # fmt: skip
        vectors.append(Vector(15, name, packet, IPV6, Rule.DHCPV6_SERVER, Rule.DHCPV6_SERVER, twin))
    for kind in (2, 7, 10, 12, 13):
        bad = ipv6(udp(546, 547, bytes((kind,)) + bytes(11)), 17)
        vectors.append(Vector(15, f"message {kind} to a server", bad, IPV6, Rule.DHCPV6_SERVER, None, SOLICIT))
    late = ipv6(fragment_header(17, more=True) + udp(546, 547, b""), 44)
    vectors.append(Vector(15, "message type in the next piece", late, IPV6, Rule.DHCPV6_SERVER, None, SOLICIT))
    routing = {f"ipv6 {protocol}": ipv6(bytes(30), protocol) for protocol in (88, 89, 103, 112)}
    routing |= {f"ipv6 udp {port}": ipv6(udp(9, port), 17) for port in (521, 2029)}
    vectors += [Vector(16, name, packet, IPV6, Rule.ROUTING, None, GAME6) for name, packet in routing.items()]
    for name, source in (
        ("other member's", OTHER6),
        ("router's", ROUTER6),
        ("house machine's", HOUSE6),
        ("unspecified", ZERO6),
        ("loopback", bytes(15) + b"\x01"),
        ("mapped", bytes(10) + b"\xff\xff" + PLAYER4),
        ("multicast", b"\xff\x02" + bytes(13) + b"\x01"),
    ):
        packet = ipv6(udp(27005, 27015), 17, source=source)
        vectors.append(Vector(11, f"ipv6 {name}", packet, IPV6, Rule.IPV6_SOURCE, None, GAME6))
    later = ipv6(fragment_header(17, offset=8) + bytes(8), 44, source=OTHER6)
    twin = ipv6(fragment_header(17, offset=8) + bytes(8), 44)
    vectors.append(Vector(11, "ipv6 later fragment", later, IPV6, Rule.IPV6_SOURCE, None, twin))
    return vectors


def nd_vectors() -> list[Vector]:
    dad = on_link(nd(135, FREE6), ZERO6)
    cases = [
        ("hop limit 254", on_link(NS, hop_limit=254), on_link(NS)),
        ("na hop limit 64", on_link(NA, hop_limit=64), on_link(NA)),
        ("rs hop limit 1", on_link(nd(133), hop_limit=1), on_link(nd(133))),
        ("code 1", on_link(nd(135, FREE6, code=1)), on_link(nd(135, FREE6))),
        ("atomic fragment", ipv6(fragment_header(58) + NS, 44), on_link(NS)),
        ("first fragment", ipv6(fragment_header(58, more=True) + NA, 44), on_link(NA)),
        ("short", on_link(NS[:20]), on_link(NS)),
        ("sllao of another", on_link(nd(135, FREE6, link_layer(1, OTHER))), on_link(NS)),
        ("tllao of the house", on_link(nd(136, PLAYER6, link_layer(2, HOUSE))), on_link(NA)),
        ("rs with another's sllao", on_link(nd(133, None, link_layer(1, HOUSE))),
         on_link(nd(133, None, link_layer(1, PLAYER)))),
        ("option of 16 bytes", on_link(nd(136, PLAYER6, b"\x02\x02" + PLAYER + bytes(8))), on_link(NA)),
        ("option length 0", on_link(nd(135, FREE6, b"\x01\0" + PLAYER)), on_link(NS)),
        ("option beyond the end", on_link(nd(135, FREE6, b"\x0e\x02" + bytes(6))),
         on_link(nd(135, FREE6, b"\x0e\x01" + bytes(6)))),
        ("half an option", on_link(nd(135, FREE6, b"\x0e\x01\0")), on_link(nd(135, FREE6))),
        ("na for the router", on_link(nd(136, ROUTER6, link_layer(2, PLAYER))), on_link(NA)),
        ("na for another member", on_link(nd(136, OTHER6, link_layer(2, PLAYER))), on_link(NA)),
        ("na for a house machine", on_link(nd(136, HOUSE6)), on_link(nd(136, PLAYER6))),
        ("ns from the router's address", on_link(NS, ROUTER6), on_link(NS)),
        ("ns from another's address", on_link(NS, OTHER6), on_link(NS)),
        ("rs from another's address", on_link(nd(133), OTHER6), on_link(nd(133), ZERO6)),
        ("na from ::", on_link(NA, ZERO6), on_link(NA)),
        ("dad with sllao", on_link(NS, ZERO6), dad),
        ("dad for a group", on_link(nd(135, b"\xff\x02" + bytes(14)), ZERO6), dad),
        ("na for ::", on_link(nd(136, ZERO6)), on_link(NA)),
    ]  # fmt: skip
    return [Vector(14, name, bad, IPV6, Rule.NEIGHBOUR_DISCOVERY, None, good) for name, bad, good in cases]


VECTORS = [*arp_vectors(), *ipv4_vectors(), *dhcp_vectors(), *ipv6_vectors(), *nd_vectors()]
