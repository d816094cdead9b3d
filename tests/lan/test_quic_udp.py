"""UDP sockets on real interfaces: runs in one call through veth, "don't fragment" on a narrow way, a burst unread.

near ── eth0 ── router ── eth0 ── far        the cable to ``far`` has another MTU in some tests
"""

from __future__ import annotations

import itertools
import subprocess
from collections import Counter
from collections.abc import Iterator

import attrs
import pytest
from lan_tools import need, poll, run

from lanparty.demo import inside
from lanparty.obs.switches import VARIABLE
from lanparty.quic.connection import UdpPath
from lanparty.quic.settings import MAX_UDP_PAYLOAD, UDP_PAYLOAD
from lanparty.quic.sockets import UdpSocket, bind_all, connect

pytestmark = pytest.mark.lan

_numbers = itertools.count()
NEAR, FAR, ROUTER = "near", "far", "router"
HOSTS = {NEAR: 1, FAR: 2}


def address(host: str, version: int) -> str:
    return f"10.{HOSTS[host]}.0.1" if version == 4 else f"fd0{HOSTS[host]}::1"


@attrs.frozen
class Way:
    """Three namespaces and the two cables between them."""

    prefix: str
    errors: Counter[str] = attrs.field(factory=Counter)

    def name(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def ip(self, host: str, *words: str) -> None:
        subprocess.run([need("ip"), "-n", self.name(host), *words], check=True)

    def build(self) -> None:
        for host in (ROUTER, *HOSTS):
            subprocess.run([need("ip"), "netns", "add", self.name(host)], check=True)
            self.ip(host, "link", "set", "lo", "up")
            for which in ("all", "default"):  # else link-local addresses wait a second before they may be used
                run(self.name(host), "sysctl", "-qw", f"net.ipv6.conf.{which}.accept_dad=0")
        for host, number in HOSTS.items():
            self.ip(host, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", self.name(ROUTER))
            for end, port, last in ((host, "eth0", "1"), (ROUTER, host, "254")):
                self.ip(end, "address", "add", f"10.{number}.0.{last}/24", "dev", port)
                self.ip(end, "address", "add", f"fd0{number}::{last}/64", "dev", port, "nodad")
                self.ip(end, "link", "set", port, "up")
            self.ip(host, "route", "add", "default", "via", f"10.{number}.0.254")
            self.ip(host, "route", "add", "default", "via", f"fd0{number}::254")
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            run(self.name(ROUTER), "sysctl", "-qw", f"{name}=1")

    def mtu(self, size: int) -> None:
        """Of the cable to ``far``."""
        self.ip(ROUTER, "link", "set", FAR, "mtu", str(size))
        self.ip(FAR, "link", "set", "eth0", "mtu", str(size))

    def pair(self, version: int) -> tuple[UdpSocket, UdpSocket, UdpPath]:
        """A connected socket in ``near``, a wildcard socket in ``far``, and the way from the first to the second."""
        listen = "0.0.0.0" if version == 4 else "::"
        (server,) = inside.call(self.name(FAR), lambda: bind_all([(listen, 0)], self.errors))
        target = (address(FAR, version), server.sock.getsockname()[1])
        client = inside.call(self.name(NEAR), lambda: connect(target, self.errors))
        path = UdpPath(target)
        # Neighbours that do not know each other yet keep no more than a few packets.
        client.send_batch(path, [b"who is there"])
        server.send_batch(poll(lambda: server.receive_batch(1), 5, "a packet")[0][0], [b"me"])
        arrived(client, 1)
        return client, server, path


@pytest.fixture
def way() -> Iterator[Way]:
    way = Way(f"udp{next(_numbers)}")
    way.build()
    yield way
    for host in (ROUTER, *HOSTS):
        subprocess.run([need("ip"), "netns", "delete", way.name(host)], check=True)


def arrived(udp: UdpSocket, count: int) -> list[bytes]:
    """``count`` packets as soon as they are there."""
    packets: list[bytes] = []

    def enough() -> bool:
        packets.extend(packet for received in udp.receive_batch(64) for packet in received.packets)
        return len(packets) >= count

    poll(enough, 5, f"{count} packets", interval=0.005)
    return packets


LENGTHS = [*[1452] * 100, 7, *[60] * 65, *[1200] * 3, 1201, *range(1, 20)]
PACKETS = [bytes([number % 251]) * length for number, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("without", ["", "gso", "gro", "gso,gro"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("cards", ["segments", "no segments", "no checksums"])
def test_batches_pass_as_they_are_by_every_way(way, version, without, cards, monkeypatch):
    """Also where the cards, as real ones, leave it to the kernel to cut runs, and to join them again."""
    monkeypatch.setenv(VARIABLE, without)
    if cards != "segments":
        off = ["tx-udp-segmentation", "off"] if cards == "no segments" else ["tx", "off"]
        for host, port in ((NEAR, "eth0"), (FAR, "eth0"), (ROUTER, NEAR), (ROUTER, FAR)):
            run(way.name(host), "ethtool", "-K", port, *off)
            run(way.name(host), "ethtool", "-K", port, "gro", "on")
    client, server, path = way.pair(version)
    client.send_batch(path, PACKETS)
    assert arrived(server, len(PACKETS)) == PACKETS
    client.send_batch(path, [b"who is there"])
    batch = poll(lambda: server.receive_batch(64), 5, "a packet")
    server.send_batch(batch[0][0], PACKETS)
    assert server.local_address(batch[0][0])[0] == address(FAR, version)
    assert arrived(client, len(PACKETS)) == PACKETS
    assert not way.errors - Counter(unsegmented=2)
    assert server.receive_drops() == client.receive_drops() == 0


@pytest.mark.usefixtures("accelerated")
def test_a_run_is_one_write_and_one_read(way):
    """Where the cards take runs whole, as veth does. This kernel has both: else this test would show nothing."""
    client, server, path = way.pair(4)
    client.send_batch(path, [b"x" * 1400] * 40)
    assert [len(run.packets) for run in poll(lambda: server.receive_batch(1), 5, "a run")] == [40]
    assert not way.errors


def test_link_local_addresses_answer_by_their_interface(way):
    run(way.name(FAR), "ip", "address", "add", "fe80::2/64", "dev", "eth0", "nodad")
    run(way.name(ROUTER), "ip", "address", "add", "fe80::1/64", "dev", FAR, "nodad")
    (server,) = inside.call(way.name(FAR), lambda: bind_all([("::", 0)], way.errors))
    port = server.sock.getsockname()[1]
    client = inside.call(way.name(ROUTER), lambda: connect((f"fe80::2%{FAR}", port), way.errors))
    client.send_batch(UdpPath(("fe80::2", port)), PACKETS)
    batch = poll(lambda: server.receive_batch(1), 5, "a packet")
    server.send_batch(batch[0][0], PACKETS)
    assert arrived(client, len(PACKETS)) == PACKETS
    assert client.max_payload(UdpPath(("fe80::2", port))) == 1452
    assert inside.call(way.name(FAR), lambda: server.max_payload(batch[0][0])) == 1452


@pytest.mark.parametrize(("version", "fits"), [(4, 1272), (6, 1252)])
def test_packets_too_large_for_the_way_are_lost_whole_and_cost_no_other(way, version, fits):
    """No fragments; and the router's ICMP answer, which the socket reports at some later call, loses nothing more."""
    way.mtu(1300)
    client, server, path = way.pair(version)
    for _ in range(3):
        client.send_batch(path, [b"L" * (fits + 1)])
        client.send_batch(path, [b"s" * fits] * 20)
        assert arrived(server, 20) == [b"s" * fits] * 20
    client.send_batch(path, [b"L" * (fits + 1)] * 20)
    client.send_batch(path, [b"e"])
    assert arrived(server, 1) == [b"e"]
    # What the router said is the kernel's knowledge now; probing goes on all the same.
    assert client.max_payload(path) == fits
    way.mtu(1500)
    client.send_batch(path, [b"L" * (fits + 1)])
    assert arrived(server, 1) == [b"L" * (fits + 1)]
    assert way.errors.keys() <= {"EMSGSIZE"}


@pytest.mark.parametrize(("version", "fits"), [(4, 1472), (6, 1452)])
def test_packets_too_large_for_the_interface_are_refused_and_cost_no_other(way, version, fits):
    client, server, path = way.pair(version)
    assert client.max_payload(path) == fits
    client.send_batch(path, [b"L" * (fits + 1)] * 3 + [b"s" * fits] * 3)
    assert arrived(server, 3) == [b"s" * fits] * 3
    assert way.errors["EMSGSIZE"] == 3
    client.send_batch(path, [b"s" * fits] * 3)
    assert arrived(server, 3) == [b"s" * fits] * 3
    assert way.errors == {"EMSGSIZE": 3}


@pytest.mark.parametrize(
    ("version", "mtu", "expected"),
    [
        (4, 1220, UDP_PAYLOAD),  # an IPv6 interface cannot be as narrow (RFC 8200 section 5)
        (4, 1400, 1372),
        (6, 1400, 1352),
        (4, 1500, 1472),
        (6, 1500, 1452),
        (4, 9000, MAX_UDP_PAYLOAD),
        (6, 9000, MAX_UDP_PAYLOAD),
    ],
)
def test_payloads_worth_trying_are_those_of_the_route(way, version, mtu, expected):
    way.ip(NEAR, "link", "set", "eth0", "mtu", str(mtu))
    way.mtu(mtu)
    client, server, path = way.pair(version)
    client.send_batch(path, [b"x"])
    ((back, _packets, _waited),) = poll(lambda: server.receive_batch(64), 5, "a packet")
    assert client.max_payload(path) == expected
    assert inside.call(way.name(FAR), lambda: server.max_payload(back)) == expected


@pytest.mark.parametrize("without", ["", "gso"])
def test_nothing_of_a_burst_is_lost_while_the_program_is_away(way, without, monkeypatch):
    """20 ms of 1 Gbit/s: what the receive buffer was sized for, in packets that come one by one too."""
    monkeypatch.setenv(VARIABLE, without)
    client, server, path = way.pair(4)
    packets = [bytes(1450)] * 64
    for _ in range(27):
        client.send_batch(path, packets)
    assert len(arrived(server, 27 * 64)) == 27 * 64
    assert server.receive_drops() == 0
    assert not way.errors
