"""The whole client on a fake Windows, with a real relay over loopback and a house in its room."""

import itertools
from ipaddress import ip_address

import pytest
import trio
from fake_house import ADDRESS, ECHO_PORT, MAC, House, lease_book
from fake_iphelper import ETHERNET, FakeRoute
from fake_packets import packed, udp, udp_of
from fake_windows import FakeWindows
from windows_party import PLAYER, RELAY, Party, fake_windows_in

from lanparty.demo.dhcpserver import LeaseBook
from lanparty.link.device import DeviceGoneError
from lanparty.obs.errors import MachineError
from lanparty.quic.trust import load_dev_certificate

DEADLINE = 30
OURS = bytes.fromhex(PLAYER.replace(":", ""))
PIN = (ETHERNET, f"{RELAY}/32", "192.0.2.1")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("relay") / "relay.der"
    return path, load_dev_certificate(path, ())


@pytest.fixture
async def party(certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("PROGRAMDATA", str(tmp_path))
    fake_windows_in(monkeypatch)
    windows = FakeWindows()
    with windows.installed(), trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            await nursery.start(windows.run)
            party = Party(windows, nursery, *certificate)
            yield party
            nursery.cancel_scope.cancel()


async def joined(party, *arguments):
    """A client that has its address."""
    await party.start()
    client = party.client(*arguments)
    await client.events.until("client.address")
    return client


def game(payload, port=27015):
    """A frame that a game on this Windows sends to the house's echo."""
    return udp(MAC, OURS, ("192.168.77.100", port), (str(ADDRESS.ip), ECHO_PORT), payload)


async def test_join_lease_and_leave(party):
    windows = party.windows
    before = windows.state()
    client = await joined(party)
    said = client.events.of("client.address")[0]
    assert said == {
        "address": "192.168.77.100",
        "prefix": 24,
        "router": "192.168.77.1",
        "server": "192.168.77.1",
        "lease_seconds": 3600,
        "interface": "LanParty",
    }
    assert client.events.of("client.dhcp-lease") == [
        {"address": "192.168.77.100", "lease_seconds": 3600, "server": "192.168.77.1"}
    ]
    assert party.house.leased() == {"192.168.77.100": OURS}
    assert windows.tap.mac == OURS
    assert PIN in windows.network.routes
    assert windows.network.best("8.8.8.8")[0][0] == ETHERNET
    assert windows.network.best("255.255.255.255")[0][0] == windows.tap.guid
    await client.events.until("client.network-private")
    await client.leave()
    assert client.failures() == []
    assert client.events.of("client.dhcp-released") == [{"address": "192.168.77.100"}]
    assert party.house.leased() == {}
    assert windows.state() == before
    assert client.events.of("program.task-failed") == []


def echoes(frames, end):
    """Payloads of the frames to (``end`` 1) or from (0) the house's echo; not those of DHCP and ARP."""
    found = [udp_of(frame) for frame in frames]
    return [each[2] for each in found if each is not None and each[end] == (str(ADDRESS.ip), ECHO_PORT)]


async def until(event_of, condition):
    """Wait for ``condition``, looking after each event that ``event_of`` gives."""
    while not condition():
        await event_of().wait()


async def test_twenty_thousand_frames_both_ways_in_order(party):
    """Games send to the house's echo, in bursts, some sizes up to a full frame; nothing is lost or changes places."""
    client = await joined(party)
    windows, house = party.windows, party.house
    house.heard.clear()
    windows.stack.heard.clear()
    count, burst = 20_000, 50
    sizes = itertools.cycle([18, 60, 200, 700, 1472])
    wanted = [number.to_bytes(4, "big") + bytes(next(sizes) - 4) for number in range(count)]
    there, back = [], []

    def arrived():
        there.extend(echoes(house.heard, 1))
        back.extend(echoes(windows.stack.heard, 0))
        house.heard.clear()
        windows.stack.heard.clear()
        return len(back) >= start + burst

    for start in range(0, count, burst):
        windows.kernel.send(windows.tap, [game(payload) for payload in wanted[start : start + burst]])
        await until(lambda: windows.traffic, arrived)
    assert there == wanted
    assert back == wanted
    await client.leave()
    assert client.failures() == []


async def test_a_relay_whose_route_is_stolen_ends_the_program(party):
    windows = party.windows
    before = windows.state()
    client = await joined(party)
    stolen = (windows.tap.guid, f"{RELAY}/32", "192.168.77.1")
    windows.network.routes[stolen] = FakeRoute(0)
    windows.tell()
    await client.ended.wait()
    (failure,) = [error for error in client.failures() if isinstance(error, MachineError)]
    assert f"the way to the relay {RELAY} leads into the tunnel itself (LanParty)" in str(failure)
    after = windows.state()
    after.pop(("route", *stolen), None)
    assert after == before


async def test_routes_that_the_house_gives_by_dhcp_are_removed_the_relays_among_them(party):
    windows = party.windows
    before = windows.state()
    # RFC 3442: the relay's own address, and half of the internet, by the house's router
    routes = bytes([32, *packed(RELAY), *ADDRESS.ip.packed, 1, 0, *ADDRESS.ip.packed])
    await party.start(House(more=bytes([121, len(routes)]) + routes))
    client = party.client()
    await client.events.until("client.dhcp-ignored", 2)
    ignored = {fields["what"] for fields in client.events.of("client.dhcp-ignored")}
    assert ignored == {"the route to 0.0.0.0/1 by 192.168.77.1", f"the route to {RELAY}/32 by 192.168.77.1"}
    # They come again with each renewal, and go again.
    await until(lambda: windows.lived, lambda: windows.network.best(RELAY)[0] == PIN)
    await until(lambda: windows.lived, lambda: windows.network.best("8.8.8.8")[0][0] == ETHERNET)
    await client.leave()
    assert client.failures() == []
    assert windows.state() == before


async def test_a_pin_that_vanishes_is_put_back(party):
    windows = party.windows
    client = await joined(party)
    del windows.network.routes[PIN]
    windows.tell()
    await client.events.until("client.relay-pinned", 2)
    assert PIN in windows.network.routes
    await client.leave()
    assert client.failures() == []
    assert PIN not in windows.network.routes


async def test_an_adapter_that_is_removed_ends_the_program(party):
    windows = party.windows
    client = await joined(party)
    windows.remove_tap()
    await client.ended.wait()
    assert client.failures()
    assert all(isinstance(error, DeviceGoneError | MachineError) for error in client.failures())
    assert any("LanParty is gone" in str(error) for error in client.failures())
    assert PIN not in windows.network.routes


async def test_a_relay_that_comes_back_finds_the_same_adapter_and_the_address_is_verified(party):
    windows = party.windows
    client = await joined(party)
    opened = [call for call in windows.log if call.startswith("CreateFileW")]
    asked = list(windows.stack.dhcp.asked)
    await party.relay.end()
    await client.events.until("uplink.lost")
    await party.relay.start()
    await client.events.until("client.joined", 2)
    renewed = await client.events.until("client.dhcp-renewed")
    assert renewed["address"] == "192.168.77.100"
    assert [call for call in windows.log if call.startswith("CreateFileW")] == opened
    assert set(windows.stack.dhcp.asked[len(asked) :]) == {"REQUEST"}
    assert len(client.events.of("client.address")) == 1
    assert client.events.of("client.address-lost") == []
    windows.stack.heard.clear()
    windows.kernel.send(windows.tap, [game(b"after")])
    await until(lambda: windows.traffic, lambda: b"after" in echoes(windows.stack.heard, 0))
    await client.leave()
    assert client.failures() == []


async def test_a_cable_that_is_pulled_and_plugged_in_loses_no_address(party):
    """As when the computer was carried home and away again; Windows checks its lease each time."""
    windows = party.windows
    windows.stack.checks_leases = True
    client = await joined(party)
    assert windows.stack.dhcp.asked.count("DISCOVER") >= 1
    asked = len(windows.stack.dhcp.asked)
    windows.plug(False)
    await until(lambda: windows.lived, lambda: windows.stack.dhcp.bound is None)
    windows.plug(True)
    await until(lambda: windows.lived, lambda: windows.stack.dhcp.bound and not windows.stack.checked)
    assert "DISCOVER" not in windows.stack.dhcp.asked[asked:]
    assert len(client.events.of("client.address")) == 1
    assert client.events.of("client.address-lost") == []
    await client.leave()
    assert client.failures() == []


async def test_a_house_that_comes_late_is_asked_at_once(party):
    windows = party.windows
    await party.relay.start()
    client = party.client()
    await client.events.until("client.joined")
    await client.events.until("room.gateway-missing")
    assert client.events.of("client.dhcp-discover") == []
    assert "IpRenewAddress" not in windows.log
    await party.open_house()
    await client.events.until("client.address")
    assert "IpRenewAddress" in windows.log  # and not when Windows' own client would ask again
    await client.leave()


async def test_a_mask_that_swallows_the_internet_is_taken_off(party):
    windows = party.windows
    await party.start(House(lease_book(mask=1)))
    client = party.client()
    ignored = await client.events.until("client.dhcp-ignored")
    assert "128.0.0.0/1 is not the network of a LAN" in ignored["what"]
    await until(lambda: windows.lived, lambda: windows.stack.dhcp.bound is None)
    assert client.events.of("client.address") == []
    assert client.events.of("client.dhcp-lease") == []
    assert windows.network.best(RELAY)[0] == PIN
    await client.leave()
    assert client.failures() == []


async def test_a_house_that_refuses_the_address_gives_another(party):
    """Its router was replaced while the tunnel was down."""
    windows = party.windows
    client = await joined(party)
    await party.relay.end()
    await client.events.until("uplink.lost")
    asked = len(windows.stack.dhcp.asked)
    party.house.book = LeaseBook(ADDRESS, ip_address("192.168.77.150"), ip_address("192.168.77.160"), 600)
    await party.relay.start()
    got = await client.events.until("client.address", 2)
    assert (got["address"], got["lease_seconds"]) == ("192.168.77.150", 600)
    (lost,) = client.events.of("client.address-lost")
    assert lost["address"] == "192.168.77.100"
    # Refused, and asked anew; how often it was told to depends on who came back first.
    after = windows.stack.dhcp.asked[asked:]
    assert after[0] == "REQUEST"
    assert "DISCOVER" in after
    assert after[-1] == "REQUEST"
    await client.leave()
    assert client.failures() == []


async def test_an_end_in_the_middle_of_asking_waits_for_nobody(party):
    await party.start(House(silent=True))
    client = party.client()
    await client.events.until("client.dhcp-discover")
    await until(lambda: party.windows.lived, lambda: "IpRenewAddress" in party.windows.log)
    started = trio.current_time()
    await client.leave()
    assert trio.current_time() - started < 10.0  # a renewal that nobody answers takes a minute
    assert client.failures() == []


async def test_a_fixed_address(party):
    windows = party.windows
    before = windows.state()
    client = await joined(party, "--address", "192.168.77.50/24")
    assert client.events.of("client.address")[0]["address"] == "192.168.77.50"
    assert windows.stack.dhcp_enabled is False
    assert windows.stack.dhcp.asked == []
    await client.leave()
    assert client.failures() == []
    assert windows.state() == before


async def test_a_fixed_address_that_somebody_has(party):
    await party.start()
    client = party.client("--address", str(ADDRESS))
    lost = await client.events.until("client.address-lost")
    assert lost["reason"] == "another computer in the house has it"
    await client.leave()
    assert client.failures() == []


async def test_a_house_with_the_players_own_network_is_told(party):
    client = await joined(party, "--address", "192.0.2.77/25")
    (conflict,) = client.events.of("client.subnet-conflict")
    assert conflict == {"network": "192.0.2.0/25", "interface": "Ethernet", "other": "192.0.2.0/24"}
    await client.leave()
    assert client.failures() == []


async def test_an_adapter_without_dhcp_has_it_while_the_player_wants_it(party):
    windows = party.windows
    windows.switch_dhcp(False)
    before = windows.state()
    client = await joined(party)
    assert client.events.of("client.address")[0]["address"] == "192.168.77.100"
    await client.leave()
    assert client.failures() == []
    assert windows.state() == before


async def test_no_address_at_all(party):
    windows = party.windows
    before = windows.state()
    await party.start()
    client = party.client("--address", "none")
    await client.events.until("client.joined")
    windows.kernel.send(windows.tap, [game(b"raw")])
    await party.gateway.port.until(lambda: party.house.heard)
    assert windows.stack.dhcp.asked == []
    await client.leave()
    assert windows.state() == before


async def test_the_default_route_by_the_house_only_when_the_player_wants_it(party):
    windows = party.windows
    before = windows.state()
    client = await joined(party, "--accept-default-route", "--accept-dns")
    await client.events.until("client.default-route")
    assert windows.network.best("8.8.8.8")[0] == (windows.tap.guid, "0.0.0.0/1", "192.168.77.1")
    assert windows.network.best(RELAY)[0] == PIN
    assert client.events.of("client.dns") == [{"servers": "192.168.77.1"}]
    assert windows.network.interfaces[windows.tap.guid].dns == ""
    await client.leave()
    assert windows.state() == before


REFUSED = {
    "CreateFileW": "administrator",
    "RegSetValueExW": "administrator",
    "CM_Disable_DevNode": "restart",
    "SetIpInterfaceEntry": "administrator",
    "CreateIpForwardEntry2": "administrator",
    "DeviceIoControl": "LanParty",
}


@pytest.mark.parametrize("function", REFUSED)
async def test_access_denied_ends_the_program_with_a_sentence_and_leaves_nothing(party, function):
    windows = party.windows
    before = windows.state()
    windows.refused[function] = True
    await party.start()
    client = party.client()
    await client.ended.wait()
    (failure,) = client.failures()
    assert isinstance(failure, MachineError)
    assert REFUSED[function] in str(failure)
    windows.refused.clear()
    assert windows.state() == before


@pytest.mark.parametrize(
    ("function", "warning"),
    [
        ("SetInterfaceDnsSettings", "client.dns-shared"),
        ("INetwork::SetCategory", "client.network-not-private"),
        ("IpRenewAddress", None),
    ],
)
async def test_what_is_refused_and_not_needed_is_a_warning(party, function, warning):
    windows = party.windows
    before = windows.state()
    windows.refused[function] = True
    client = await joined(party)
    if warning is not None:
        await client.events.until(warning)
    await client.leave()
    assert client.failures() == []
    assert windows.state() == before


async def test_nobody_but_an_administrator(party):
    party.windows.administrator = False
    await party.start()
    client = party.client()
    await client.ended.wait()
    (failure,) = client.failures()
    assert isinstance(failure, MachineError)
    assert "Run as administrator" in str(failure)
    assert not [call for call in party.windows.log if "Set" in call or "Create" in call]


def position(log, call):
    return next(at for at, entry in enumerate(log) if entry.startswith(call))


def last(log, call):
    return max(at for at, entry in enumerate(log) if entry.startswith(call))


async def test_the_calls_come_in_the_documented_order(party):
    windows = party.windows
    client = await joined(party)
    await client.leave()
    log = windows.log
    plugged, pulled = "DeviceIoControl 0x220018 1", "DeviceIoControl 0x220018 0"
    opened = last(log, "CreateFileW")
    order = [
        position(log, "CreateIpForwardEntry2"),  # the pin
        position(log, "RegSetValueExW"),  # the MAC
        position(log, "CM_Disable_DevNode"),
        position(log, "CM_Enable_DevNode"),
        opened,
        position(log, "CreateIoCompletionPort"),
        position(log, "SetIpInterfaceEntry"),  # the transaction
        position(log, "SetInterfaceDnsSettings"),
        position(log, plugged),
        position(log, "ReadFile"),
        position(log, "WriteFile"),
        position(log, "IpReleaseAddress"),
        last(log, "CancelIoEx"),
        last(log, "CloseHandle"),
        last(log, "SetIpInterfaceEntry"),
        last(log, "CM_Enable_DevNode"),  # the former MAC
        last(log, "DeleteIpForwardEntry2"),  # the pin
    ]
    assert order == sorted(order)
    assert last(log, "SetInterfaceDnsSettings") > last(log, "CloseHandle")
    assert pulled not in log  # closing the handle is what pulls the cable
    notified = [call for call in log if call.startswith("Notify")]
    assert len(notified) == log.count("CancelMibChangeNotify2")


@pytest.mark.parametrize("at", [1, 4, 8, 11, 14])
async def test_a_crash_is_repaired_by_the_next_start(party, at):
    """SIGKILL before the n-th call that changes something; each of them is in test_windows_crash.py."""
    windows = party.windows
    before = windows.state()
    left = itertools.count(1)

    def die(_function):
        if next(left) == at:
            windows.kill()

    windows.on_change = die
    await party.start()
    client = party.client()
    await until(lambda: windows.lived, lambda: windows.dead)
    client.scope.cancel()
    await client.ended.wait()
    windows.on_change = lambda function: None
    windows.reborn()
    again = party.client()
    await again.events.until("client.address")
    await again.leave()
    assert again.failures() == []
    assert windows.state() == before
