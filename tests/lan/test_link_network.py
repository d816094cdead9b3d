"""The player's address set-up, the relay pin and the repair, on a real kernel with a real DHCP server (dnsmasq).

Each test runs in a network namespace of its own, so nothing on the machine changes. Two "machines": the player (this
process) and the house (a child process with its own namespace), joined by a cable lp0 == house0; lp0 stands for the
TAP.
A second cable wan0 == internet0 is the player's own network, with a default route.
"""

import contextlib
import ctypes
import ipaddress
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from lanparty.link.address import PlayerNetwork
from lanparty.link.address_options import AddressOptions
from lanparty.link.dns import DnsSetting
from lanparty.link.journal import Journal
from lanparty.link.netlink import AddressChange, LinkChange, NetlinkMissing, Overflow, RouteChange, Watch, open_netlink
from lanparty.link.pin import RelayPin
from lanparty.link.repair import repair
from lanparty.obs.errors import ConnectionFailedError, MachineError
from lanparty.obs.log import captured

pytestmark = pytest.mark.lan

CLONE_NEWNET = 0x40000000
MAC = bytes.fromhex("02a1b2c3d4e5")
LIBC = ctypes.CDLL(None, use_errno=True)
DEADLINE = 15.0


def namespace_of(pid):
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def shell(command):
    """Run a command in the player's namespace; its output."""
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


class House:
    """The other end of the cables: a namespace that a sleeping child keeps alive, and dnsmasq in it."""

    def __init__(self, directory):
        self.directory = directory
        self.leases = directory / "leases"
        self._dnsmasq = None
        self._keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = namespace_of("self")
        wait_until(lambda: namespace_of(self._keeper.pid) != own)

    def run(self, command):
        return shell(f"nsenter -t {self._keeper.pid} -n {command}")

    def cable(self, here, there):
        shell(f"ip link add {here} type veth peer name {there}")
        shell(f"ip link set {there} netns {self._keeper.pid}")
        self.run(f"ip link set {there} up")
        shell(f"ip link set {here} addrgenmode none")  # no link-local address: its duplicate detection takes a second
        shell(f"ip link set {here} up")

    def serve(self, *options, first="192.168.77.100", last="192.168.77.110"):
        """(Re)start dnsmasq. In a user namespace it cannot drop its group, hence --no-daemon."""
        self.stop_serving()
        command = ["nsenter", "-t", str(self._keeper.pid), "-n", "dnsmasq", "--no-daemon", "--conf-file=/dev/null"]
        command += ["--port=0", "--interface=house0", "--bind-interfaces", f"--dhcp-leasefile={self.leases}"]
        command += [f"--dhcp-range={first},{last},255.255.255.0,2m", "--dhcp-authoritative", "--log-dhcp", "--no-ping"]
        # --user: else it changes to "dnsmasq", which is not mapped in a user namespace
        command += ["--user=root", *options]
        log = (self.directory / "dnsmasq.log").open("ab")
        with log:
            self._dnsmasq = subprocess.Popen(command, stdout=log, stderr=log)

    def stop_serving(self):
        if self._dnsmasq is not None:
            self._dnsmasq.terminate()
            self._dnsmasq.wait(5)
            self._dnsmasq = None

    def log(self):
        return (self.directory / "dnsmasq.log").read_text()

    def leased(self):
        """address by MAC"""
        lines = self.leases.read_text().splitlines() if self.leases.exists() else []
        return {line.split()[1]: line.split()[2] for line in lines}

    def close(self):
        self.stop_serving()
        self._keeper.kill()
        self._keeper.wait(5)


def wait_until(check, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "deadline"
        time.sleep(0.005)


async def until(check, seconds=DEADLINE):
    with trio.fail_after(seconds):
        while not check():  # noqa: ASYNC110 - what is waited for happens in another process or in the kernel
            await trio.sleep(0.01)


async def event(entries, name, count=1):
    """Wait for the ``count``th event of that name."""
    await until(lambda: [entry["event"] for entry in entries].count(name) >= count)
    return [entry for entry in entries if entry["event"] == name][count - 1]


def machine_state():
    """Addresses and routes, without counters and lifetimes."""
    commands = ("ip -o addr", "ip route show table all", "ip -6 route show table all", "ip -o link")
    text = "".join(shell(command) for command in commands)
    return sorted(re.sub(r"(valid|preferred)_lft \S+|expires \S+", "", text).splitlines())


@pytest.fixture
def house(tmp_path):
    for tool in ("ip", "unshare", "nsenter", "dnsmasq"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    if LIBC.unshare(CLONE_NEWNET):
        os.close(before)
        pytest.skip("no permission for namespaces: run as root or in 'unshare --user --map-root-user'")
    house = None
    try:
        shell("ip link set lo up")
        house = House(tmp_path)
        house.cable("lp0", "house0")
        house.cable("wan0", "internet0")
        house.run("ip addr add 192.168.77.1/24 dev house0")
        house.run("ip addr add 10.99.0.1/24 dev internet0")
        shell(f"ip link set lp0 address {MAC.hex(':')}")
        shell("ip addr add 10.99.0.11/24 dev wan0; ip route add default via 10.99.0.1 dev wan0")
        shell("ip addr add fd99::11/64 dev wan0 nodad; ip -6 route add default via fd99::1 dev wan0")
        yield house
    finally:
        if house is not None:
            house.close()
        LIBC.setns(before, CLONE_NEWNET)
        os.close(before)


@contextlib.asynccontextmanager
async def player(house, *, pin_to=None, **options):
    """A running PlayerNetwork on lp0, as (network, events, netlink, pin)."""
    with captured() as entries:
        async with open_netlink() as netlink:
            directory = house.directory / "state"
            directory.mkdir(exist_ok=True)
            journal = Journal(directory)
            pin = RelayPin(netlink, journal, avoid=("lp0",))
            dns = DnsSetting("lp0", journal, path=house.directory / "resolv.conf", resolved=house.directory / "none")
            network = PlayerNetwork(netlink, "lp0", MAC, AddressOptions(**options), journal, pin=pin, dns=dns)
            if pin_to is not None:
                await pin.pin(pin_to)
            async with trio.open_nursery() as nursery:
                await nursery.start(network.run)
                network.gateway_present(True)
                yield network, entries, netlink, pin
                nursery.cancel_scope.cancel()
            await pin.release()
            assert not list(directory.iterdir())  # nothing left to undo


# ------------------------------------------------------------------------------------------------------- DHCP


async def test_gets_a_lease_sets_only_the_lan_and_leaves_no_trace(house):
    house.serve("--dhcp-option=option:router,192.168.77.1", "--dhcp-option=option:dns-server,192.168.77.1")
    before = machine_state()
    async with player(house) as (network, entries, netlink, _):
        bound = await event(entries, "client.address")
        assert bound["prefix"] == 24
        assert (bound["router"], bound["server"], bound["lease_seconds"]) == ("192.168.77.1", "192.168.77.1", 120)
        assert house.leased() == {MAC.hex(":"): bound["address"]}
        names = [entry["event"].removeprefix("client.") for entry in entries]
        steps = ["dhcp-offer", "dhcp-request", "dhcp-lease", "address"]
        assert [name for name in names if name in steps] == steps
        assert network.lease is not None
        assert network.lease.router == "192.168.77.1"

        mine = {route.destination for route in await netlink.routes() if route.interface == "lp0"}
        assert mine == {"192.168.77.0/24", "255.255.255.255/32", "224.0.0.0/4"}
        for destination, interface in {
            "255.255.255.255": "lp0",
            "192.168.77.255": "lp0",
            "224.0.2.60": "lp0",
            "192.168.77.1": "lp0",
            "8.8.8.8": "wan0",
            "10.99.0.1": "wan0",
        }.items():
            route = await netlink.route_to(destination)
            assert route is not None
            assert route.interface == interface, destination
        assert not (house.directory / "resolv.conf").exists()
        shell("ping -c 1 -W 5 192.168.77.1")
    await until(lambda: house.leased() == {})  # the release arrived
    assert any(entry["event"] == "client.dhcp-released" for entry in entries)
    assert machine_state() == before


async def test_keeps_its_names_to_itself(house):
    house.serve()
    async with player(house) as (_, entries, _, _):
        await event(entries, "client.address")
    log = house.log()
    assert "client provides name" not in log
    assert "vendor class" not in log


async def test_sends_the_display_name_when_asked(house):
    house.serve()
    async with player(house, host_name="ada") as (_, entries, _, _):
        await event(entries, "client.address")
    assert "client provides name: ada" in house.log()


async def test_gets_the_same_address_after_a_restart(house):
    house.serve()
    addresses = set()
    for _ in range(2):
        async with player(house) as (_, entries, _, _):
            addresses.add((await event(entries, "client.address"))["address"])
    assert len(addresses) == 1


async def test_renews_without_touching_the_address(house):
    house.serve("--dhcp-option=58,5", "--dhcp-option=59,60")  # T1 = 5 s: the least that this client takes
    async with player(house) as (network, entries, netlink, _):
        bound = await event(entries, "client.address")
        with netlink.watch() as changes:
            renewed = await event(entries, "client.dhcp-renewed")
            assert renewed["address"] == bound["address"]
            await netlink.add_address("wan0", "10.98.0.1/24")  # a mark: what came before it has been delivered
            async for change in changes:
                if isinstance(change, AddressChange):
                    assert change.address == "10.98.0.1"
                    break
        assert network.address == f"{bound['address']}/24"


async def test_a_house_that_comes_late_is_asked_at_once(house):
    async with player(house) as (network, entries, _, _):
        await event(entries, "client.dhcp-discover")
        network.gateway_present(False)
        house.serve()
        await until(lambda: "sockets bound exclusively to interface house0" in house.log())
        network.gateway_present(True)
        with trio.fail_after(3):
            await event(entries, "client.address")


async def test_after_a_reconnect_the_address_stays_when_it_still_holds(house):
    house.serve()
    async with player(house) as (network, entries, _, _):
        bound = await event(entries, "client.address")
        network.reconnected()
        assert (await event(entries, "client.dhcp-renewed"))["address"] == bound["address"]
        assert not any(entry["event"] == "client.address-lost" for entry in entries)


async def test_after_a_reconnect_the_address_is_replaced_when_refused(house):
    house.serve()
    async with player(house) as (network, entries, netlink, _):
        first = await event(entries, "client.address")
        house.stop_serving()
        house.leases.unlink()
        house.run("ip addr flush dev house0")
        house.run("ip addr add 192.168.78.1/24 dev house0")
        house.serve(first="192.168.78.100", last="192.168.78.110")
        await until(lambda: house.log().count("started, version") == 2)
        network.reconnected()
        second = await event(entries, "client.address", 2)
        assert second["address"].startswith("192.168.78.")
        assert any(entry["event"] == "client.dhcp-nak" for entry in entries)
        found = [info.address for info in await netlink.addresses("lp0") if ":" not in info.address]
        assert found == [second["address"]]
        assert first["address"] not in str(await netlink.routes())


async def test_a_mask_that_takes_the_internet_is_refused(house):
    house.serve("--dhcp-option=option:netmask,192.0.0.0")
    async with player(house) as (network, entries, netlink, _):
        ignored = await event(entries, "client.dhcp-ignored")
        assert "192.0.0.0/2 is not the network of a LAN" in ignored["message"]
        assert network.lease is None
        assert (await netlink.route_to("8.8.8.8")).interface == "wan0"


async def test_link_down_and_up_keeps_the_address_and_puts_the_routes_back(house):
    house.serve()
    async with player(house) as (_, entries, netlink, _):
        bound = await event(entries, "client.address")
        await netlink.set_link("lp0", up=False)
        await until(lambda: "255.255.255.255" not in shell("ip route"))
        await netlink.set_link("lp0", up=True)
        await until(lambda: "255.255.255.255" in shell("ip route"))
        assert (await event(entries, "client.dhcp-renewed"))["address"] == bound["address"]
        assert not any(entry["event"] == "client.address-lost" for entry in entries)


async def test_routes_come_back_when_the_notifications_of_a_flap_were_lost(house, monkeypatch):
    """All that is heard is that something was missed, and the link looks as it did before."""
    heard = Watch.__anext__

    async def only_that_something_was_missed(watch):
        await heard(watch)
        return Overflow()

    async with player(house, address="192.168.77.50/24") as (_, entries, _, _):
        await event(entries, "client.address")
        monkeypatch.setattr(Watch, "__anext__", only_that_something_was_missed)
        shell("ip address add 127.0.0.9/8 dev lo")  # whoever waits already gets this one
        await trio.testing.wait_all_tasks_blocked(0.05)
        shell("ip link set lp0 down; ip link set lp0 up")  # nobody else has a turn meanwhile
        assert "255.255.255.255" not in shell("ip route")
        await until(lambda: "255.255.255.255" in shell("ip route"))


async def test_a_vanished_adapter_ends_the_run_with_a_sentence(house):
    house.serve()
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(DEADLINE):  # noqa: PT012
        async with player(house) as (_, entries, netlink, _):
            await event(entries, "client.address")
            await netlink.delete_link("lp0")
            await trio.sleep_forever()
    missing = caught.value
    while isinstance(missing, ExceptionGroup):
        missing = missing.exceptions[0]
    assert isinstance(missing, NetlinkMissing)
    assert "lp0" in str(missing)


# ------------------------------------------------------------------------------------- static, none, and options


async def test_static_address_and_none(house):
    before = machine_state()
    async with player(house, address="192.168.77.50/24") as (network, entries, netlink, _):
        await event(entries, "client.address")
        assert network.address == "192.168.77.50/24"
        assert (await netlink.route_to("255.255.255.255")).interface == "lp0"
    assert machine_state() == before
    async with player(house, address="none") as (_, entries, _, _):
        assert machine_state() == before
    assert not entries


async def test_the_same_network_elsewhere_is_reported(house):
    shell("ip addr add 192.168.77.9/25 dev wan0")
    async with player(house, address="192.168.77.50/24") as (_, entries, _, _):
        conflict = await event(entries, "client.subnet-conflict")
        assert conflict["interface"] == "wan0"


async def test_a_broadcast_route_of_somebody_else_stays(house):
    shell("ip route add 255.255.255.255/32 dev wan0")
    before = machine_state()
    async with player(house, address="192.168.77.50/24") as (_, entries, _, _):
        await event(entries, "client.address")
        assert (await event(entries, "client.route-kept"))["other"] == "wan0"
    assert machine_state() == before


async def test_default_route_only_when_asked_and_never_for_the_relay(house):
    house.serve("--dhcp-option=option:router,192.168.77.1")
    before = machine_state()
    async with player(house, pin_to="203.0.113.10", accept_default_route=True) as (network, entries, netlink, pin):
        await event(entries, "client.default-route")
        await event(entries, "client.address")
        assert (await netlink.route_to("8.8.8.8")).interface == "lp0"
        assert (await netlink.route_to("203.0.113.10")).interface == "wan0"
        # The underlay changes while the tunnel has the default route: the pin follows it, and never takes the TAP.
        shell("ip route replace default via 10.99.0.2 dev wan0")
        await pin.pin("203.0.113.10")
        relay = await netlink.route_to("203.0.113.10")
        assert (relay.interface, relay.gateway) == ("wan0", "10.99.0.2")
        network.reconnected()
        await event(entries, "client.dhcp-renewed")
        shell("ip route replace default via 10.99.0.1 dev wan0")
    assert machine_state() == before


async def test_default_route_is_refused_without_a_pin(house):
    house.serve("--dhcp-option=option:router,192.168.77.1")
    async with player(house, accept_default_route=True) as (_, entries, netlink, _):
        await event(entries, "client.default-route-refused")
        assert (await netlink.route_to("8.8.8.8")).interface == "wan0"


async def test_dns_only_when_asked_and_put_back(house):
    house.serve("--dhcp-option=option:dns-server,192.168.77.1", "--domain=house.example")
    path = house.directory / "resolv.conf"
    path.write_text("nameserver 10.99.0.1\n")
    async with player(house, accept_dns=True) as (_, entries, _, _):
        await event(entries, "client.dns")
        assert path.read_text().splitlines()[1:] == ["search house.example", "nameserver 192.168.77.1"]
    assert path.read_text() == "nameserver 10.99.0.1\n"


def advertisement():
    """A router advertisement as an Ethernet frame: a default router, and half the internet and more "on link"."""
    source, group = ipaddress.IPv6Address("fe80::77").packed, ipaddress.IPv6Address("ff02::1").packed
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)  # RFC 4861 section 4.2: hop limit, router lifetime
    for network in map(ipaddress.IPv6Network, ("2000::/3", "::/1")):
        # Section 4.6.2: on-link flag; valid and preferred for an hour.
        body += struct.pack("!BBBBIII16s", 3, 4, network.prefixlen, 0x80, 3600, 3600, 0, network.network_address.packed)
    pseudo = source + group + struct.pack("!IHBB", len(body), 0, 0, 58)
    total = sum(struct.unpack(f"!{(len(pseudo) + len(body)) // 2}H", pseudo + body))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    header = struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + source + group
    return bytes.fromhex("33330000000102000000007786dd") + header + body


ADVERTISEMENT = advertisement()


def advertise(house):
    """Send two of them by house0, and wait until this machine has heard the second."""
    script = house.directory / "advertise.py"
    script.write_text(
        "import socket\n"
        "with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:\n"
        "    sender.bind(('house0', 0))\n"
        "    for _ in range(2):\n"
        f"        sender.send(bytes.fromhex('{ADVERTISEMENT.hex()}'))\n"
    )

    def heard():
        text = Path("/proc/net/dev_snmp6/lp0").read_text()
        return int(re.search(r"Icmp6InRouterAdvertisements\s+(\d+)", text)[1])

    before = heard()
    house.run(f"{sys.executable} {script}")
    wait_until(lambda: heard() == before + 2)


@pytest.mark.parametrize("accept_default_route", [False, True])
async def test_router_advertisements_take_no_traffic(house, accept_default_route):
    setting = "/proc/sys/net/ipv6/conf/lp0/accept_ra"
    if not os.access(setting, os.W_OK):
        pytest.skip("/proc/sys cannot be written here")
    shell(f"echo 2 > {setting}")
    advertise(house)
    taken = shell("ip -6 route show dev lp0")
    assert {"2000::/3", "::/1", "default"} <= {line.split()[0] for line in taken.splitlines()}  # the frame is right
    shell("ip -6 route flush dev lp0 proto ra; ip -6 route flush dev lp0 proto kernel")
    async with player(house, address="192.168.77.50/24", accept_default_route=accept_default_route) as (
        _,
        _,
        netlink,
        _,
    ):
        before = machine_state()
        advertise(house)
        assert machine_state() == before
        route = await netlink.route_to("2001:db8::1")
        assert route is not None
        assert route.interface == "wan0"


# --------------------------------------------------------------------------------------------------- relay pin


@contextlib.asynccontextmanager
async def pinning(house):
    async with open_netlink() as netlink:
        journal = Journal(house.directory)
        pin = RelayPin(netlink, journal, avoid=("lp0",))
        yield pin, netlink, journal
        await pin.release()
        assert not journal.changes


@pytest.mark.parametrize(
    ("relay", "gateway"),
    [("203.0.113.10", "10.99.0.1"), ("10.99.0.10", None), ("2001:db8::10", "fd99::1"), ("fd99::10", None)],
)
async def test_pin_goes_the_way_the_kernel_goes(house, relay, gateway):
    before = machine_state()
    async with pinning(house) as (pin, netlink, journal):
        await pin.pin(relay)
        route = next(route for route in await netlink.routes() if route.destination.split("/")[0] == relay)
        assert (route.interface, route.gateway, route.ours) == ("wan0", gateway, True)
        assert len(journal.changes) == 1
        assert json.loads(journal.path.read_text())["changes"][0]["interface"] == "wan0"
        await pin.pin(relay)  # nothing to do
        # The house claims the relay's network: the pin is more specific.
        network = "2001:db8::/64" if relay.startswith("2001") else "203.0.113.0/24"
        shell(f"ip route add {network} dev lp0")
        assert (await netlink.route_to(relay)).interface == "wan0"
        shell(f"ip route del {network} dev lp0")
    assert machine_state() == before


@pytest.mark.parametrize("relay", ["127.0.0.1", "::1", "10.99.0.11", "fd99::11"])
async def test_a_relay_on_this_machine_needs_no_pin(house, relay):
    before = machine_state()
    async with pinning(house) as (pin, _, journal):
        await pin.pin(relay)
        assert machine_state() == before
        assert not journal.changes
        assert pin.address == relay


async def test_a_host_route_that_is_there_is_borrowed(house):
    shell("ip route add 203.0.113.10/32 via 10.99.0.1 dev wan0 metric 50")
    before = machine_state()
    async with pinning(house) as (pin, _, journal):
        await pin.pin("203.0.113.10")
        assert not journal.changes
        assert machine_state() == before
    assert machine_state() == before


async def test_two_clients_pin_one_relay_without_touching_each_other(house):
    before = machine_state()
    async with pinning(house) as (first, netlink, _), pinning(house) as (second, _, _):
        await first.pin("203.0.113.10")
        await second.pin("203.0.113.10")
        await first.release()
        left = [route for route in await netlink.routes() if route.destination == "203.0.113.10/32"]
        assert len(left) == 1
    assert machine_state() == before


async def test_pin_follows_the_underlay(house):
    async with pinning(house) as (pin, netlink, _):
        await pin.pin("203.0.113.10")
        shell("ip route replace default via 10.99.0.2 dev wan0")
        await pin.pin("203.0.113.10")
        routes = [route for route in await netlink.routes() if route.destination == "203.0.113.10/32"]
        assert [route.gateway for route in routes] == ["10.99.0.2"]
        shell("ip addr flush dev wan0")  # no network at all: the kernel removes the pin, too
        with pytest.raises(ConnectionFailedError, match="no route"):
            await pin.pin("203.0.113.10")
        assert pin.address is None


async def test_pin_keeps_the_source_address(house):
    shell("ip addr add 10.99.0.12/24 dev wan0; ip route replace default via 10.99.0.1 dev wan0 src 10.99.0.12")
    async with pinning(house) as (pin, netlink, _):
        await pin.pin("203.0.113.10")
        assert (await netlink.route_to("203.0.113.10")).source == "10.99.0.12"


# ------------------------------------------------------------------------------------------------ SIGKILL, repair

VICTIM = """
import sys, trio
from pathlib import Path
from lanparty.link.address import PlayerNetwork
from lanparty.link.address_options import AddressOptions
from lanparty.link.dns import DnsSetting
from lanparty.link.adapter import open_adapter
from lanparty.link.journal import Journal
from lanparty.link.netlink import open_netlink
from lanparty.link.pin import RelayPin
async def main(directory):
    async with open_netlink() as netlink:
        journal = Journal(directory / "state")
        pin = RelayPin(netlink, journal)
        await pin.pin("203.0.113.10")
        dns = DnsSetting("lp0", journal, path=directory / "resolv.conf", resolved=directory / "no")
        await dns.apply(["9.9.9.9"], None)
        async with open_adapter("lp7", bytes.fromhex("020000000007"), 1500, netlink, "veth"):
            print("ready", flush=True)
            await trio.sleep_forever()
trio.run(main, Path(sys.argv[1]))
"""


def start_victim(house):
    command = [sys.executable, "-c", VICTIM, str(house.directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_what_a_killed_client_left_is_repaired(house):
    (house.directory / "state").mkdir()
    resolv = house.directory / "resolv.conf"
    resolv.symlink_to("somewhere/else")
    before = machine_state()
    victim = start_victim(house)
    try:
        assert victim.stdout.readline() == "ready\n"
        async with open_netlink() as netlink:
            assert await repair(house.directory / "state", netlink) == []  # it lives: hands off
            assert machine_state() != before
            victim.send_signal(signal.SIGKILL)
            victim.wait(5)
            done = await repair(house.directory / "state", netlink)
            assert sorted(done) == [
                f"put back {resolv}",
                "removed the interface lanparty-far0",
                "removed the interface lanparty-off0",
                "removed the route to 203.0.113.10/32 by wan0",
            ]
            assert machine_state() == before
            assert str(resolv.readlink()) == "somewhere/else"
            assert not list((house.directory / "state").iterdir())
            assert await repair(house.directory / "state", netlink) == []
    finally:
        victim.kill()
        victim.wait(5)
        victim.stdout.close()


async def test_repair_leaves_what_somebody_else_put_there(house):
    (house.directory / "state").mkdir()
    victim = start_victim(house)
    try:
        assert victim.stdout.readline() == "ready\n"
    finally:
        victim.kill()
        victim.wait(5)
        victim.stdout.close()
    shell("ip route del 203.0.113.10/32; ip route add 203.0.113.10/32 via 10.99.0.1 dev wan0 proto static")
    shell("ip link del lp7; ip link del lanparty-off0; ip link add lp7 type veth peer name lp8")
    (house.directory / "resolv.conf").write_text("nameserver 1.1.1.1\n")
    before = machine_state()
    async with open_netlink() as netlink:
        assert await repair(house.directory / "state", netlink) == []
    assert machine_state() == before
    assert (house.directory / "resolv.conf").read_text() == "nameserver 1.1.1.1\n"


# ------------------------------------------------------------------------------------------------------- netlink


async def test_netlink_says_what_is_wrong(house):
    async with open_netlink() as netlink:
        assert await netlink.link("nope") is None
        with pytest.raises(NetlinkMissing, match="nope"):
            await netlink.set_link("nope", up=True)
        with pytest.raises(NetlinkMissing, match=r"1\.2\.3\.4/24"):
            await netlink.remove_address("lp0", "1.2.3.4/24")
        with pytest.raises(NetlinkMissing):
            await netlink.remove_route("203.0.113.10/32", interface="lp0")
        with pytest.raises(MachineError, match="unreachable"):
            await netlink.add_route("203.0.113.10/32", interface="lp0", gateway="192.168.99.1")
        with pytest.raises(MachineError, match="already"):
            await netlink.create_veth("lp0", "lp9")
        with pytest.raises(MachineError, match="another one"):
            await netlink.add_route("0.0.0.0/0", interface="lp0")
        assert await netlink.route_to("2001:db8::1") is not None
        shell("ip -6 route del default")
        assert await netlink.route_to("2001:db8::1") is None


async def test_remove_route_takes_only_ours(house):
    shell("ip route add 203.0.113.10/32 dev lp0 proto static")
    async with open_netlink() as netlink:
        assert not await netlink.add_route("203.0.113.10/32", interface="lp0")
        with pytest.raises(NetlinkMissing):
            await netlink.remove_route("203.0.113.10/32", interface="lp0")
        await netlink.remove_route("203.0.113.10/32", interface="lp0", ours=False)


async def test_watch_tells_at_once_and_ends_when_cancelled(house):
    async with open_netlink() as netlink:
        with netlink.watch() as changes:
            await netlink.set_link("lp0", up=False)
            await netlink.add_address("wan0", "10.97.0.1/24")
            seen = []
            with trio.fail_after(2):
                async for change in changes:
                    seen.append(change)
                    if isinstance(change, RouteChange) and change.destination == "10.97.0.0/24":
                        break
            assert any(isinstance(change, LinkChange) and change.name == "lp0" and not change.up for change in seen)
            assert any(isinstance(change, AddressChange) and change.address == "10.97.0.1" for change in seen)
            await netlink.delete_link("lp0")
            with trio.fail_after(2):
                async for change in changes:
                    if isinstance(change, LinkChange) and change.gone:
                        break
            with trio.move_on_after(0.05) as scope:
                async for _ in changes:
                    pass
            assert scope.cancelled_caught


async def test_redirected_frames_count_as_received_on_the_other_interface(house):
    """A packet into lp0 from the house, redirected, is answered by wan0's stack."""
    shell("ip addr add 192.168.88.2/24 dev wan0")
    async with open_netlink() as netlink:
        await netlink.redirect_ingress("lp0", "wan0")
        target = (await netlink.require_link("wan0")).mac.hex(":")
    house.run("ip addr add 192.168.88.1/24 dev house0")
    house.run(f"ip neigh replace 192.168.88.2 lladdr {target} dev house0")

    def received():
        return int(shell("cat /proc/net/dev").split("wan0:")[1].split()[1])

    before = received()
    with contextlib.suppress(subprocess.CalledProcessError):  # the answer leaves by the other cable
        house.run("ping -c 2 -i 0.2 -W 1 192.168.88.2")
    assert received() >= before + 2
