"""The vectors of docs/guard.md: for each row what a client must not send, and its lawful twin.

Built by hand with ``lan_frames``, so that they share no code with the guard. Every frame ends with a mark of 16 bytes
behind the packet proper (an Ethernet trailer, as padding is), by which an observer knows it again; where a row is about
short packets the mark is inside.

Whoever sends them has a lease, and every vector keeps all rules but its own: the sender's own MAC, own IPv4 address,
own link-local address, unless one of them is what is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import attrs
from lan_frames import BROADCAST, arp, ethernet, icmpv6, ip, ipx, mac, snap, tagged, udp
from lan_packets import (
    ALL_DHCP_AGENTS,
    ALL_NODES,
    ALL_ROUTERS,
    ECHO,
    HOUSE_PC,
    IPV4,
    IPX,
    MARK_SIZE,
    MLD2_REPORT,
    MLD_QUERY,
    MLD_REPORT,
    MORE,
    NOBODY,
    NOBODYS_MAC,
    NOP,
    ROUTER_ADVERTISEMENT,
    Build,
    Scene,
    advertisement,
    arp_to_all,
    behind,
    changed_arp,
    dhcp,
    from_own6,
    icmp6,
    in_ip4,
    ip4,
    ipv6_extension,
    ipv6_fragment,
    length_field,
    link_option,
    mark,
    nd,
    octets,
    option,
    own_ip,
    own_udp,
    sent,
    solicitation,
    summed,
    to_dhcp,
    with_router_alert,
)


@attrs.frozen
class Vector:
    row: int
    rule: str
    name: str
    build: Build
    wrapped: bool = True
    """Whether it is sent behind VLAN tags and SNAP, too. Not where the wrapping itself is what is wrong."""


@attrs.frozen
class Twin:
    row: int
    name: str
    build: Build
    """Lawful, and to everybody: seen in the house and at the other members."""


WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda frame: frame,
    "VID 0": lambda frame: tagged(frame, (0x8100, 0)),
    "QinQ": lambda frame: tagged(frame, (0x88A8, 1), (0x8100, 0)),
    "SNAP": snap,
}
WRAPPED_RULE = {"VID 0": "vlan", "QinQ": "vlan", "SNAP": "llc"}
"""Which rule stops a wrapped frame, unless its addresses did before (rows 1, 2 and 6 come first)."""
BEFORE_THE_WRAPPING = frozenset({"length", "address", "switch-control"})


def expected_rule(vector: Vector, wrapping: str) -> str:
    if vector.rule in BEFORE_THE_WRAPPING:
        return vector.rule
    return WRAPPED_RULE.get(wrapping, vector.rule)


def shots(vectors: list[Vector], scene: Scene) -> Iterator[tuple[Vector, str, bytes, bytes]]:
    """Every vector in each of its wrappings: (vector, wrapping, mark, frame)."""
    for vector in vectors:
        for wrapping, wrap in WRAPPINGS.items():
            if wrapping == "plain" or vector.wrapped:
                known = mark()
                yield vector, wrapping, known, wrap(vector.build(scene, known))


# ------------------------------------------------------------------------------------------------ rows 1 to 6


def game_with(source: Callable[[Scene], bytes]) -> Build:
    def build(s: Scene, known: bytes) -> bytes:
        return ethernet(BROADCAST, source(s), IPV4, udp(s.own_ip, "192.168.77.255", 27005, 27015, b"game") + known)

    return build


def game_to(destination: str) -> Build:
    return sent(IPV4, lambda s: udp(s.own_ip, "239.1.1.1", 27005, 27015, b"game"), mac(destination))


GAME = own_udp(27005, 27015)
ETHERTYPES = {
    0x8808: "pause",
    0x8809: "LACP",
    0x88CC: "LLDP",
    0x888E: "802.1X",
    0x8863: "PPPoE discovery",
    0x8864: "PPPoE session",
    0x8847: "MPLS",
    0x9000: "loopback",
    0x893F: "802.1BR",
    0x0842: "wake on LAN",
}
CONTROL = {
    "01:80:c2:00:00:00": "spanning tree",
    "01:80:c2:00:00:01": "pause",
    "01:80:c2:00:00:03": "802.1X",
    "01:80:c2:00:00:0e": "LLDP",
    "01:80:c2:00:00:0f": "edge 0F",
    "01:80:c2:00:00:10": "edge 10",
    "01:80:c2:00:00:20": "edge 20",
    "01:80:c2:00:00:3f": "edge 3F",
    "01:00:0c:cc:cc:cc": "CDP",
    "01:00:0c:cc:cc:cd": "PVST+",
    "01:00:0c:cd:cd:cd": "uplink fast",
    "01:00:0c:dd:dd:dd": "CGMP",
    "01:00:0c:00:00:00": "ISL",
    "01:1b:19:00:00:00": "PTP",
    "01:e0:2b:00:00:00": "Extreme's discovery",
}


def bpdu(s: Scene, known: bytes) -> bytes:
    """A configuration BPDU of a bridge that wants to be the root, as real switches send it: 802.3 and LLC."""
    body = bytes.fromhex("424203 0000 00 00 00 0000") + s.own + bytes(4) + bytes.fromhex("0000") + s.own
    body += bytes.fromhex("8001 0000 1400 0200 0f00") + known
    return mac("01:80:c2:00:00:00") + s.own + len(body).to_bytes(2, "big") + body


VECTORS = [
    Vector(2, "address", "another member's MAC", game_with(lambda s: s.other)),
    Vector(2, "address", "a house computer's MAC", game_with(lambda s: s.router)),
    Vector(2, "address", "nobody's MAC", game_with(lambda s: NOBODYS_MAC)),
    Vector(2, "address", "a group address as source", game_with(lambda s: bytes((s.own[0] | 1,)) + s.own[1:])),
    Vector(2, "address", "source zero", game_with(lambda s: bytes(6))),
    Vector(3, "vlan", "VID 7", lambda s, k: tagged(GAME(s, k), (0x8100, 7)), wrapped=False),
    Vector(3, "vlan", "VID 0 twice", lambda s, k: tagged(GAME(s, k), (0x8100, 0), (0x8100, 0)), wrapped=False),
    *(
        Vector(3, "vlan", f"TPID {tpid:04X}", lambda s, k, t=tpid: tagged(GAME(s, k), (t, 0)), wrapped=False)
        for tpid in (0x88A8, 0x9100, 0x9200, 0x9300)
    ),
    Vector(3, "vlan", "SNAP behind a tag", lambda s, k: tagged(snap(GAME(s, k)), (0x8100, 0)), wrapped=False),
    Vector(4, "llc", "SNAP to IPv4", lambda s, k: snap(GAME(s, k)), wrapped=False),
    Vector(4, "llc", "LLC", length_field(3 + MARK_SIZE), wrapped=False),
    Vector(4, "llc", "length 05DD", length_field(0x05DD), wrapped=False),
    Vector(4, "llc", "length 05FF", length_field(0x05FF), wrapped=False),
    *(Vector(5, "ethertype", name, sent(number, lambda s: b"\1")) for number, name in ETHERTYPES.items()),
    *(Vector(6, "switch-control", name, game_to(address)) for address, name in CONTROL.items()),
    Vector(6, "switch-control", "BPDU", bpdu, wrapped=False),
]
TWINS = [
    Twin(2, "own MAC", GAME),
    Twin(3, "no tag", GAME),
    Twin(4, "raw IPX", lambda s, known: ipx(BROADCAST, s.own, known)),
    Twin(5, "IPX in Ethernet II", sent(IPX, lambda s: ipx(BROADCAST, s.own, b"game")[14:])),
    Twin(5, "IPv4", GAME),
    Twin(6, "01:80:c2:00:00:40", game_to("01:80:c2:00:00:40")),
    Twin(6, "an IPv4 group", game_to("01:00:5e:01:01:01")),
]

# ------------------------------------------------------------------------------------------------ rows 7 to 11: IPv4


def short_arp(s: Scene, known: bytes) -> bytes:
    """24 of 28 bytes: the mark is where sender and target would be. No padding, a TAP asks for none."""
    return BROADCAST + s.own + b"\x08\x06" + arp(1, s.own, s.own_ip, bytes(6), NOBODY)[:8] + known


def short_udp(s: Scene, known: bytes) -> bytes:
    """A first fragment with 4 bytes of UDP; the mark is in the options of its header."""
    options = NOP * 3 + b"\x00" + known  # behind "end of options" anything may stand
    return (
        BROADCAST + s.own + b"\x08\x00" + ip4(s.own_ip, "192.168.77.255", 17, bytes(4), options=options, fragment=MORE)
    )


def in_anothers_name(source: str | Callable[[Scene], str], to: str = "192.168.77.255") -> Build:
    def packet(s: Scene) -> bytes:
        return udp(source if isinstance(source, str) else source(s), to, 27005, 27015, b"game")

    return sent(IPV4, packet)


def request(**fields: object) -> Callable[[Scene], bytes]:
    """A DISCOVER of one's own, with these fields wrong."""
    return lambda s: dhcp(1, 1, s.own, **fields)  # type: ignore[arg-type]


def ending(kind: int, of: Callable[[Scene], str]) -> Callable[[Scene], bytes]:
    """RELEASE (7) names the address in ciaddr, DECLINE (4) in an option (RFC 2131 table 5)."""

    def message(s: Scene) -> bytes:
        options = option(54, octets(s.router_ip))
        if kind == 4:
            return dhcp(1, kind, s.own, options=options + option(50, octets(of(s))))
        return dhcp(1, kind, s.own, ciaddr=of(s), options=options)

    return message


OFFER = lambda s: dhcp(2, 2, s.other)  # noqa: E731 - one of many values of a table
VECTORS += [
    Vector(7, "arp", "hardware type 6", changed_arp(0, b"\x00\x06")),
    Vector(7, "arp", "protocol type IPv6", changed_arp(2, b"\x86\xdd")),
    Vector(7, "arp", "hardware length 8", changed_arp(4, b"\x08")),
    Vector(7, "arp", "protocol length 16", changed_arp(5, b"\x10")),
    Vector(7, "arp", "reverse ARP", changed_arp(6, b"\x00\x03")),
    Vector(7, "arp", "inverse ARP", changed_arp(6, b"\x00\x08")),
    Vector(7, "arp", "short", short_arp, wrapped=False),
    Vector(7, "arp", "another sender hardware address", arp_to_all(1, lambda s: s.own_ip, NOBODYS_MAC)),
    Vector(7, "arp", "the router's address, reply", arp_to_all(2, lambda s: s.router_ip)),
    Vector(7, "arp", "the router's address, request", arp_to_all(1, lambda s: s.router_ip)),
    Vector(7, "arp", "a member's address, reply", arp_to_all(2, lambda s: s.other_ip)),
    Vector(7, "arp", "a member's address, request", arp_to_all(1, lambda s: s.other_ip)),
    Vector(7, "arp", "a house computer's address", arp_to_all(2, lambda s: HOUSE_PC)),
    Vector(7, "arp", "a group as sender", arp_to_all(2, lambda s: "224.0.0.1")),
    Vector(7, "arp", "broadcast as sender", arp_to_all(2, lambda s: "255.255.255.255")),
    Vector(7, "arp", "reply from 0.0.0.0", arp_to_all(2, lambda s: "0.0.0.0")),
    Vector(8, "ipv4-header", "version 5", sent(IPV4, lambda s: in_ip4(udp(s.own_ip, NOBODY, 1, 9, b""), version=5))),
    Vector(8, "ipv4-header", "IHL 4", sent(IPV4, lambda s: in_ip4(udp(s.own_ip, NOBODY, 1, 9, b""), ihl=4))),
    Vector(
        8,
        "ipv4-header",
        "total length beyond the frame",
        sent(IPV4, lambda s: in_ip4(udp(s.own_ip, NOBODY, 1, 9, b""), total=1400)),
    ),
    Vector(8, "ipv4-header", "4 bytes of UDP in the first fragment", short_udp),
    Vector(9, "dhcp-server", "OFFER", to_dhcp(OFFER, (67, 68))),
    Vector(9, "dhcp-server", "OFFER from an odd port", to_dhcp(OFFER, (1234, 68))),
    Vector(9, "dhcp-server", "OFFER to an odd port", to_dhcp(OFFER, (67, 1234))),
    Vector(9, "dhcp-server", "relay agent", to_dhcp(OFFER, (67, 67))),
    Vector(9, "dhcp-server", "BOOTP reply from a client's port", to_dhcp(OFFER, (68, 67))),
    Vector(
        9,
        "dhcp-server",
        "OFFER to one client",
        lambda s, known: ethernet(s.other, s.own, IPV4, udp(s.own_ip, s.other_ip, 67, 68, OFFER(s)) + known),
    ),
    Vector(
        9,
        "dhcp-server",
        "OFFER behind 40 bytes of IP options",
        sent(IPV4, lambda s: in_ip4(udp(s.own_ip, "255.255.255.255", 67, 68, OFFER(s)), options=NOP * 40)),
    ),
    Vector(
        9,
        "dhcp-server",
        "first fragment of an OFFER",
        sent(
            IPV4,
            lambda s: ip4(
                s.own_ip,
                "255.255.255.255",
                17,
                udp(s.own_ip, "255.255.255.255", 67, 68, OFFER(s))[20:84],
                fragment=MORE,
            ),
        ),
    ),
    Vector(10, "dhcp-client", "hardware type 6", to_dhcp(request(htype=6), (68, 67))),
    Vector(10, "dhcp-client", "hardware length 16", to_dhcp(request(hlen=16), (68, 67))),
    Vector(
        10, "dhcp-client", "another client's hardware address", to_dhcp(lambda s: dhcp(1, 1, NOBODYS_MAC), (68, 67))
    ),
    Vector(10, "dhcp-client", "as a relay agent", to_dhcp(request(giaddr="192.168.77.99"), (68, 67))),
    Vector(10, "dhcp-client", "agent information", to_dhcp(request(options=option(82, b"\1\1x")), (68, 67))),
    Vector(10, "dhcp-client", "RELEASE of a member's lease", to_dhcp(ending(7, lambda s: s.other_ip), (68, 67))),
    Vector(10, "dhcp-client", "DECLINE of a member's lease", to_dhcp(ending(4, lambda s: s.other_ip), (68, 67))),
    Vector(11, "ipv4-source", "the router's address", in_anothers_name(lambda s: s.router_ip)),
    Vector(11, "ipv4-source", "a member's address", in_anothers_name(lambda s: s.other_ip)),
    Vector(11, "ipv4-source", "nobody's address", in_anothers_name(NOBODY)),
    Vector(11, "ipv4-source", "somewhere on the internet", in_anothers_name("8.8.8.8")),
    Vector(11, "ipv4-source", "loopback", in_anothers_name("127.0.0.1")),
    Vector(11, "ipv4-source", "a group", in_anothers_name("224.0.0.1")),
    Vector(11, "ipv4-source", "broadcast", in_anothers_name("255.255.255.255")),
    Vector(11, "ipv4-source", "0.0.0.0 to a game", in_anothers_name("0.0.0.0")),
]
TWINS += [
    Twin(7, "request", arp_to_all(1, lambda s: s.own_ip)),
    Twin(7, "gratuitous reply", arp_to_all(2, lambda s: s.own_ip)),
    Twin(7, "probe", arp_to_all(1, lambda s: "0.0.0.0")),
    *(
        Twin(
            8,
            f"IHL {words}",
            sent(
                IPV4, lambda s, n=words: in_ip4(udp(s.own_ip, "192.168.77.255", 1, 9, b""), options=NOP * (4 * (n - 5)))
            ),
        )
        for words in (5, 6, 15)
    ),
    Twin(
        8,
        "8 bytes of UDP in the first fragment",
        sent(
            IPV4,
            lambda s: ip4(
                s.own_ip, "192.168.77.255", 17, udp(s.own_ip, "192.168.77.255", 1, 9, bytes(64))[20:28], fragment=MORE
            ),
        ),
    ),
    Twin(9, "DISCOVER", to_dhcp(request(), (68, 67), "0.0.0.0")),
    Twin(10, "DISCOVER", to_dhcp(request(), (68, 67), "0.0.0.0")),
    Twin(10, "INFORM", to_dhcp(lambda s: dhcp(1, 8, s.own, ciaddr=s.own_ip), (68, 67))),
    Twin(11, "own address", GAME),
    Twin(11, "an address without DHCP", in_anothers_name("169.254.7.7")),
]

# ------------------------------------------------------------------------------------------------ rows 12 to 15: IPv6


def dhcp6(ports: tuple[int, int], kind: int = 7) -> Callable[[Scene], bytes]:
    """REPLY (7), or another DHCPv6 message (RFC 8415 section 7.3)."""
    return lambda s: udp(s.own_link_local, ALL_DHCP_AGENTS, *ports, bytes((kind, 0, 0, 1)))


def from_own(protocol: int, payload: bytes, to: str = ALL_NODES) -> Callable[[Scene], bytes]:
    return lambda s: ip(s.own_link_local, to, protocol, payload)


def to_own_group(build: Callable[[Scene], bytes], change: Callable[[bytes], bytes] = lambda packet: packet) -> Build:
    return behind(build, change)


ROUTER = from_own6(134, ROUTER_ADVERTISEMENT)
PING = from_own6(128, ECHO)


def claims_longer(packet: bytes) -> bytes:
    return packet[:4] + (1400).to_bytes(2, "big") + packet[6:]


DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "behind hop-by-hop": lambda packet: ipv6_extension(packet, 0),
    "behind 3 destination options": lambda packet: ipv6_extension(packet, 60, times=3),
    "behind routing": lambda packet: ipv6_extension(packet, 43),
    "behind 512 bytes of destination options": lambda packet: ipv6_extension(packet, 60, times=2, size=256),
    "in an atomic fragment": lambda packet: ipv6_fragment(packet, more=False),
}
VECTORS += [
    *(
        Vector(11, "ipv6-source", name, to_own_group(lambda s, w=who: icmpv6(w(s), ALL_NODES, 128, ECHO)))
        for name, who in (
            ("a member's IPv6 address", lambda s: s.other_link_local),
            ("the router's IPv6 address", lambda s: s.router_link_local),
            ("unspecified IPv6 source", lambda s: "::"),
            ("an IPv6 group", lambda s: "ff02::1"),
        )
    ),
    Vector(12, "ipv6-chain", "unknown upper layer", to_own_group(from_own(99, bytes(16)))),
    Vector(12, "ipv6-chain", "payload length beyond the frame", to_own_group(PING, claims_longer)),
    Vector(
        12,
        "ipv6-chain",
        "first fragment ends inside the chain",
        to_own_group(ROUTER, lambda p: ipv6_fragment(ipv6_extension(p, 60, size=64), more=True, keep=16)),
    ),
    Vector(
        12,
        "ipv6-chain",
        "upper layer in the second fragment",
        to_own_group(ROUTER, lambda p: ipv6_fragment(ipv6_extension(p, 60), more=True, keep=8)),
    ),
    *(
        Vector(13, "router-advertisement", f"RA, hop limit {limit}", icmp6(134, ROUTER_ADVERTISEMENT, hop_limit=limit))
        for limit in (255, 64)
    ),
    *(Vector(13, "router-advertisement", f"RA {how}", to_own_group(ROUTER, hide)) for how, hide in DISGUISES.items()),
    *(
        Vector(13, "icmpv6-control", f"{name}, hop limit {limit}", icmp6(kind, body, hop_limit=limit))
        for kind, name, body in (
            (137, "redirect", bytes(36)),
            (130, "MLD query", MLD_QUERY),
            (151, "multicast router advertisement", bytes(4)),
            (152, "multicast router solicitation", bytes(0)),
            (153, "multicast router termination", bytes(0)),
        )
        for limit in (255, 64)
    ),
    Vector(
        13,
        "icmpv6-control",
        "MLD query behind a router alert",
        to_own_group(from_own6(130, MLD_QUERY, hop_limit=1), with_router_alert),
    ),
]
ND = "neighbour-discovery"
LOST = "fe80::77:99"
"""Nobody has it."""
VECTORS += [
    Vector(14, ND, "solicitation, hop limit 64", nd(135, lambda s: solicitation(s.other_link_local), hop_limit=64)),
    Vector(14, ND, "advertisement, hop limit 64", nd(136, lambda s: advertisement(s.own_link_local), hop_limit=64)),
    Vector(14, ND, "router solicitation, hop limit 64", nd(133, lambda s: bytes(4), ALL_ROUTERS, hop_limit=64)),
    Vector(14, ND, "solicitation, code 1", nd(135, lambda s: solicitation(s.other_link_local), code=1)),
    Vector(
        14,
        ND,
        "solicitation in an atomic fragment",
        to_own_group(
            lambda s: icmpv6(s.own_link_local, ALL_NODES, 135, solicitation(s.other_link_local)),
            DISGUISES["in an atomic fragment"],
        ),
    ),
    Vector(
        14,
        ND,
        "solicitation with another's link-layer address",
        nd(135, lambda s: solicitation(s.other_link_local, link_option(1, NOBODYS_MAC))),
    ),
    Vector(
        14,
        ND,
        "advertisement with another's link-layer address",
        nd(136, lambda s: advertisement(s.own_link_local, link_option(2, NOBODYS_MAC))),
    ),
    Vector(
        14,
        ND,
        "router solicitation with another's link-layer address",
        nd(133, lambda s: bytes(4) + link_option(1, NOBODYS_MAC), ALL_ROUTERS),
    ),
    Vector(14, ND, "option of length 0", nd(135, lambda s: solicitation(s.other_link_local, bytes((1, 0)) + s.own))),
    Vector(
        14,
        ND,
        "advertisement of a member's address",
        nd(136, lambda s: advertisement(s.other_link_local, link_option(2, s.own))),
    ),
    Vector(
        14,
        ND,
        "advertisement of the router's address",
        nd(136, lambda s: advertisement(s.router_link_local, link_option(2, s.own))),
    ),
    *(
        Vector(
            14,
            ND,
            f"solicitation from {whose} address",
            nd(135, lambda s: solicitation(LOST, link_option(1, s.own)), source=who),
        )
        for whose, who in (
            ("a member's", lambda s: s.other_link_local),
            ("the router's", lambda s: s.router_link_local),
        )
    ),
    Vector(15, "dhcpv6-server", "REPLY", behind(dhcp6((547, 546)), lambda p: p, ALL_DHCP_AGENTS)),
    Vector(15, "dhcpv6-server", "from an odd port", behind(dhcp6((1234, 546)), lambda p: p, ALL_DHCP_AGENTS)),
    Vector(15, "dhcpv6-server", "REPLY from a client's port", behind(dhcp6((546, 547)), lambda p: p, ALL_DHCP_AGENTS)),
    Vector(15, "dhcpv6-server", "to an odd port", behind(dhcp6((547, 1234)), lambda p: p, ALL_DHCP_AGENTS)),
    *(
        Vector(15, "dhcpv6-server", f"REPLY {how}", behind(dhcp6((547, 546)), hide, ALL_DHCP_AGENTS))
        for how, hide in DISGUISES.items()
    ),
]
TWINS += [
    Twin(12, "echo request behind hop-by-hop", to_own_group(PING, DISGUISES["behind hop-by-hop"])),
    Twin(
        12,
        "first fragment of a game's packet",
        to_own_group(
            lambda s: udp(s.own_link_local, ALL_NODES, 27005, 27015, bytes(64)),
            lambda p: ipv6_fragment(p, more=True, keep=32),
        ),
    ),
    Twin(13, "echo request", icmp6(128, ECHO)),
    *(
        Twin(13, name, behind(from_own6(kind, body, to, hop_limit=1), with_router_alert, to))
        for kind, name, body, to in (
            (131, "MLDv1 report", MLD_REPORT, "ff02::4d"),
            (132, "MLDv1 done", MLD_REPORT, ALL_ROUTERS),
            (143, "MLDv2 report", MLD2_REPORT, "ff02::16"),
        )
    ),
    Twin(
        14,
        "duplicate address detection",
        nd(135, lambda s: solicitation(LOST), "ff02::1:ff77:99", source=lambda s: "::"),
    ),
    Twin(14, "solicitation", nd(135, lambda s: solicitation(s.other_link_local, link_option(1, s.own)))),
    Twin(14, "advertisement", nd(136, lambda s: advertisement(s.own_link_local, link_option(2, s.own)))),
    Twin(14, "router solicitation", nd(133, lambda s: bytes(4) + link_option(1, s.own), ALL_ROUTERS)),
    Twin(15, "SOLICIT", behind(dhcp6((546, 547), 1), lambda p: p, ALL_DHCP_AGENTS)),
]

# ------------------------------------------------------------------------------------------------ row 16: who routes

REDIRECT = summed(struct.pack("!BBH4s", 5, 1, 0, bytes((192, 168, 77, 99))) + bytes(28))
IRDP = summed(struct.pack("!BBHBBH8x", 9, 0, 0, 1, 2, 1800))
ROUTING_UDP = {520: "RIP", 521: "RIPng", 1985: "HSRP", 2029: "HSRPv2", 3222: "GLBP"}
ROUTING_PROTOCOLS = {88: "EIGRP", 89: "OSPF", 103: "PIM", 112: "VRRP"}
IGMP_CONTROL = {0x11: "query", 0x30: "router advertisement", 0x31: "router solicitation", 0x32: "router termination"}


def igmp(kind: int, group: str = "224.0.0.251") -> bytes:
    return summed(struct.pack("!BBH4s", kind, 100 if kind == 0x11 else 0, 0, octets(group)))


VECTORS += [
    Vector(16, "routing", "ICMP redirect", own_ip(1, REDIRECT, "192.168.77.255", BROADCAST)),
    Vector(16, "routing", "ICMP router advertisement", own_ip(1, IRDP, "224.0.0.1")),
    *(Vector(16, "routing", f"IGMP {name}", own_ip(2, igmp(kind), "224.0.0.1")) for kind, name in IGMP_CONTROL.items()),
    *(Vector(16, "routing", name, own_ip(number, bytes(24))) for number, name in ROUTING_PROTOCOLS.items()),
    *(
        Vector(16, "routing", f"{name} over IPv6", to_own_group(from_own(number, bytes(24))))
        for number, name in ROUTING_PROTOCOLS.items()
    ),
    *(Vector(16, "routing", name, own_udp(port, port, bytes(24))) for port, name in ROUTING_UDP.items()),
    Vector(
        16,
        "routing",
        "RIPng over IPv6",
        to_own_group(lambda s: udp(s.own_link_local, ALL_NODES, 521, 521, bytes(24))),
    ),
]
TWINS += [
    Twin(16, "ICMP echo request", own_ip(1, summed(struct.pack("!BBHHH", 8, 0, 0, 7, 7)), "192.168.77.255", BROADCAST)),
    *(
        Twin(16, f"IGMP {name}", own_ip(2, igmp(kind), to))
        for kind, name, to in (
            (0x12, "v1 report", "224.0.0.251"),
            (0x16, "v2 report", "224.0.0.251"),
            (0x17, "leave", "224.0.0.2"),
        )
    ),
    Twin(
        16,
        "IGMP v3 report",
        own_ip(2, summed(struct.pack("!BxHxxHBBH4s", 0x22, 0, 1, 4, 0, 0, bytes((224, 0, 0, 251)))), "224.0.0.22"),
    ),
    Twin(16, "a game's port beside RIP's", own_udp(27005, 519)),
]


def fence(scene: Scene, known: bytes) -> bytes:
    """A lawful broadcast of the sender; the mark is its payload, which no switch cuts off as it may a trailer."""
    packet = udp(scene.own_ip, "192.168.77.255", 9, 9, known)
    return ethernet(BROADCAST, scene.own, IPV4, packet)


ROWS = sorted({vector.row for vector in VECTORS})


def of_row(row: int) -> tuple[list[Vector], list[Twin]]:
    return [vector for vector in VECTORS if vector.row == row], [twin for twin in TWINS if twin.row == row]
