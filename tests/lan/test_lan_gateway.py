"""Other shapes of the gateway box and of the way to the relay: a bridge, one cable for everything, a name."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from lan_tools import answers, differences, ping, poll, run, snapshot

from lanparty.demo import kernel
from lanparty.demo.house import LAN_PREFIX, set_sysctl
from lanparty.demo.probes import transfer
from lanparty.demo.programs import SERVER_NAME

pytestmark = pytest.mark.lan

HOUSE, BOX = "192.168.77.1", "192.168.77.2"


def everything_works(party, address):
    """Lines 2 and 4 in short."""
    house = party.house
    player, host, box = house.at("player1"), house.at("lan-host"), house.at("gateway")
    for here, there in ((player, HOUSE), (host, address), (player, BOX), (box, address)):
        ping(here, there, size=1472)
    for here, there, target in ((player, host, HOUSE), (host, player, address)):
        assert transfer(here, there, target, size=10_000_000).intact
    for here, there, target in ((player, box, BOX), (box, player, address)):
        assert transfer(here, there, target, size=2_000_000).intact


def test_an_interface_that_is_a_bridge(own_party):
    """The box has its cable in a bridge of its own, as a hypervisor has, and its address on the bridge."""
    house = own_party.house
    box = house.at("gateway")
    house.configure(box, lambda ip: ip.flush_addr(index=ip.link_lookup(ifname="eth0")[0]))
    house.configure(box, lambda ip: ip.link("add", ifname="br0", kind="bridge", br_forward_delay=0))
    house.configure(
        box,
        lambda ip: ip.link(
            "set", index=ip.link_lookup(ifname="eth0")[0], master=ip.link_lookup(ifname="br0")[0], state="up"
        ),
    )
    house.set_link(box, "br0", state="up")
    house.add_address(box, "br0", BOX, LAN_PREFIX)
    before = snapshot(box)
    own_party.start_relay()
    gateway = own_party.start_gateway(interface="br0")
    client = own_party.start_client()
    everything_works(own_party, client.wait_for("client.address")["address"])
    # A new port with a lower MAC would give it to the bridge, and the house would look for the box at the old one.
    assert mac_of(before, "br0") == mac_of(snapshot(box), "br0")
    assert gateway.stop() == 0
    assert differences(before, snapshot(box)) == []


def mac_of(state, interface):
    return next(link["address"] for link in state["links"] if link["ifname"] == interface)


def test_a_port_of_a_bridge_is_refused_with_the_bridges_name(own_party):
    house = own_party.house
    box = house.at("gateway")
    house.configure(box, lambda ip: ip.link("add", ifname="br0", kind="bridge"))
    house.configure(
        box,
        lambda ip: ip.link("set", index=ip.link_lookup(ifname="eth0")[0], master=ip.link_lookup(ifname="br0")[0]),
    )
    own_party.start_relay()
    gateway = own_party.start_gateway(wait=False)
    assert gateway.wait_ended(15) == 5
    assert "br0" in gateway.last_words(1)


@pytest.fixture
def one_cable(own_party):
    """The usual home: the box reaches the internet through the house's router, by the cable that it bridges."""
    house = own_party.house
    box, router = house.at("gateway"), house.at("lan-host")
    house.remove_link(box, "wan0")
    house.add_to_internet("lan-host", 3)
    set_sysctl(router, "net.ipv4.ip_forward", "1")
    house.add_route(box, "default", HOUSE)
    run(house.at("relay"), "ip", "route", "add", "192.168.77.0/24", "via", "10.99.0.3")
    return own_party


def test_one_cable_for_the_house_and_the_internet(one_cable):
    one_cable.start_relay()
    gateway = one_cable.start_gateway()
    client = one_cable.start_client()
    everything_works(one_cable, client.wait_for("client.address")["address"])
    assert not gateway.named("uplink.lost")


def test_one_cable_that_is_pulled(one_cable):
    one_cable.start_relay()
    gateway = one_cable.start_gateway()
    one_cable.start_client()
    house = one_cable.house
    switch = house.at("house-switch")
    house.set_link(switch, "to-gateway", state="down")
    gateway.wait_for("gateway.lan-down", 5)
    house.set_link(switch, "to-gateway", state="up")
    player = house.at("player1")
    poll(lambda: answers(player, HOUSE), 10, "player1 reaches the house")


@pytest.fixture
def hosts_file():
    """Names for everybody in the sandbox: another /etc/hosts is mounted over the real one."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "hosts")
        path.write_text("127.0.0.1 localhost\n")
        kernel.mount(os.fspath(path), "/etc/hosts", None, kernel.MS_BIND)
        yield path
        kernel.unmount("/etc/hosts")


def test_all_addresses_of_a_name_are_tried(own_party, hosts_file):
    """Of three addresses two are dead: one that nobody has, one where nobody listens."""
    hosts_file.write_text("127.0.0.1 localhost\nfd99::dead relay.test\n10.99.0.12 relay.test\n10.99.0.10 relay.test\n")
    own_party.start_relay()
    own_party.start_gateway()
    client = own_party.start_client("--relay", "relay.test", "--server-name", SERVER_NAME)
    assert client.named("uplink.resolving")[0]["name"] == "relay.test"
    ping(own_party.house.at("player1"), HOUSE)


def test_the_relays_own_name_in_its_certificate(own_party, hosts_file):
    """--server-name may be left out where the certificate carries the name that was given."""
    hosts_file.write_text(f"127.0.0.1 localhost\n10.99.0.10 {SERVER_NAME}\n")
    own_party.start_relay()
    own_party.start_gateway()
    words = ["--relay", SERVER_NAME, "--relay-ca-cert", str(own_party.certificate), "--room", "ROOM1"]
    words += ["--identity", str(own_party.identity("player1"))]
    client = own_party.start_python("player1", "player1", "lanparty.client", *words)
    client.wait_for("client.address")


def test_a_static_address(own_party):
    own_party.start_relay()
    own_party.start_gateway()
    client = own_party.start_client("--address", "192.168.77.50/24")
    assert client.wait_for("client.address")["address"] == "192.168.77.50"
    everything_works(own_party, "192.168.77.50")
    assert own_party.leases() == []


def test_no_address(own_party):
    own_party.start_relay()
    own_party.start_gateway()
    client = own_party.start_client("--address", "none", wait_for="client.joined")
    assert client.wait_for("client.joined")["mac"]
    assert not client.named("client.dhcp-discover")


def test_a_configuration_file(own_party, tmp_path):
    """Every option also from a TOML file; the command line wins."""
    own_party.start_relay()
    own_party.start_gateway(room="FROM-FILE")
    config = tmp_path / "client.toml"
    config.write_text(
        f'relay = "10.99.0.10:443"\nserver-name = "{SERVER_NAME}"\nrelay_ca_cert = "{own_party.certificate}"\n'
        f'room = "FROM-FILE"\nidentity = "{own_party.identity("player1")}"\naddress = "none"\ntap = "fromfile"\n'
    )
    words = ["--config", str(config), "--address", "192.168.77.51/24"]
    client = own_party.start_python("player1", "player1", "lanparty.client", *words)
    said = client.wait_for("client.address")
    assert (said["address"], said["interface"]) == ("192.168.77.51", "fromfile")
    ping(own_party.house.at("player1"), HOUSE)


def test_a_room_without_fragments(own_party):
    """A smaller MTU for everybody; what fits travels whole, TCP fits itself to it."""
    own_party.start_relay("--no-fragments")
    own_party.start_gateway()
    client = own_party.start_client()
    mtu = client.named("client.joined")[-1]["mtu"]
    assert 1000 < mtu < 1400
    player, host = own_party.house.at("player1"), own_party.house.at("lan-host")
    ping(player, HOUSE, size=mtu - 28)
    address = client.wait_for("client.address")["address"]
    ping(host, address, size=mtu - 28)
    assert transfer(player, host, HOUSE, size=5_000_000).intact
    assert transfer(host, player, address, size=5_000_000).intact


def test_the_way_to_the_relay_is_pinned(own_party):
    """The relay is reached by wan0 whatever else the machine has, and the pin goes when the client goes."""
    own_party.start_relay()
    own_party.start_gateway()
    player = own_party.house.at("player1")
    client = own_party.start_client()
    (route,) = [route for route in routes(player) if route["dst"] == "10.99.0.10"]
    assert route["dev"] == "wan0"
    (taken,) = json.loads(run(player, "ip", "-j", "route", "get", "10.99.0.10").stdout)
    assert taken["dev"] == "wan0"
    assert client.stop() == 0
    assert not [route for route in routes(player) if route["dst"] == "10.99.0.10"]


def routes(namespace):
    return json.loads(run(namespace, "ip", "-j", "-4", "route").stdout)
