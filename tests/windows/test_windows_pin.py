"""The relay's own route on Windows, the watch over it, and the upkeep of the adapter's settings."""

import contextlib
import re

import pytest
import trio
from fake_iphelper import ETHERNET, TAP, WIFI, FakeNetwork, FakeRoute, on_windows
from trio.testing import wait_all_tasks_blocked

from lanparty.link.journal import Owner
from lanparty.link.windows.adapter_network import AdapterNetwork
from lanparty.link.windows.network import NetworkApi
from lanparty.link.windows.pin import QUIET, RelayPin
from lanparty.link.windows.plan import AUTOMATIC, DEFAULT_HALVES, METRIC
from lanparty.link.windows.transaction import Transaction
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.obs.errors import ConnectionFailedError, MachineError
from lanparty.obs.log import listening

pytestmark = pytest.mark.usefixtures("no_threads")

HERE = Owner(4711, 1000, "0x1", 0)
RELAY = "203.0.113.10"
RELAY6 = "2001:db8::10"
PIN = (ETHERNET, f"{RELAY}/32", "192.0.2.1")
STOLEN = (TAP, f"{RELAY}/32", "192.168.77.1")


class Player:
    """A program on a fake Windows."""

    def __init__(self, windows, directory):
        self.windows = windows
        self.network = windows.network
        self.api = NetworkApi(TAP)
        self.transaction = Transaction(self.api, directory, HERE)
        self.pin = RelayPin(self.api, self.transaction, avoid=(TAP,))
        self.adapter = AdapterNetwork(self.api, self.transaction, TAP)

    def pins(self):
        hosts = (f"{RELAY}/32", f"{RELAY6}/128")
        return {name: route.metric for name, route in self.network.routes.items() if name[1] in hosts}

    async def changed(self):
        """Let Windows tell of changes, and everybody look at them."""
        self.windows.ip_helper.notify()
        await wait_all_tasks_blocked()


@pytest.fixture
def player(tmp_path):
    network = FakeNetwork.usual()
    with on_windows(network) as windows:
        yield Player(windows, tmp_path)


async def test_the_route_that_leads_there_now_is_fixed_and_taken_back(player, tmp_path):
    await player.pin.pin(RELAY)
    assert player.pins() == {PIN: 0}
    assert player.pin.address == RELAY
    await player.pin.pin(RELAY6)
    assert player.pins() == {(ETHERNET, f"{RELAY6}/128", "fe80::1"): 0}
    assert await player.pin.release() == []
    assert await player.pin.release() == []
    assert player.pins() == {}
    assert list(tmp_path.iterdir()) == []


async def test_a_host_route_that_is_there_is_borrowed(player):
    player.network.routes[PIN] = FakeRoute(7)
    await player.pin.pin(RELAY)
    assert player.transaction.steps == ()
    await player.pin.release()
    assert player.pins() == {PIN: 7}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "192.0.2.50", "fe80::7%3"])
async def test_a_relay_on_this_machine_needs_no_route(player, address):
    await player.pin.pin(address)
    assert player.pin.address == address
    assert player.transaction.steps == ()


async def test_it_follows_the_underlay_and_never_takes_the_tunnel(player):
    network = player.network
    await player.pin.pin(RELAY)
    network.routes[TAP, "203.0.113.0/24", None] = FakeRoute(0)
    network.routes[TAP, "128.0.0.0/1", "192.168.77.1"] = FakeRoute(0)
    await player.pin.pin(RELAY)
    assert player.pins() == {PIN: 0}
    network.add(WIFI, "Wi-Fi", metric=50)
    network.routes[WIFI, "0.0.0.0/0", "198.51.100.1"] = FakeRoute(0)
    del network.routes[ETHERNET, "0.0.0.0/0", "192.0.2.1"]
    await player.pin.pin(RELAY)
    assert player.pins() == {(WIFI, f"{RELAY}/32", "198.51.100.1"): 0}
    del network.routes[WIFI, "0.0.0.0/0", "198.51.100.1"]
    with pytest.raises(ConnectionFailedError, match=RELAY):
        await player.pin.pin(RELAY)
    assert player.pins() == {}
    assert player.pin.address is None


async def test_what_windows_refuses_is_told_and_leaves_nothing(player, tmp_path):
    player.network.administrator = False
    with pytest.raises(MachineError, match="as administrator"):
        await player.pin.pin(RELAY)
    assert player.pin.address is None
    assert list(tmp_path.iterdir()) == []


@contextlib.asynccontextmanager
async def guarded(player, *, until=None):
    """The watch is on, inside; ``until`` is what the error says by which it has ended when the block ends."""
    ended = []

    async def guard(*, task_status):
        try:
            await player.pin.guard(task_status=task_status)
        except MachineError as error:
            ended.append(str(error))

    async with trio.open_nursery() as nursery:
        await nursery.start(guard)
        yield
        nursery.cancel_scope.cancel()
    assert len(ended) == (until is not None)
    assert until is None or re.search(until, ended[0])


async def test_a_pin_that_windows_dropped_is_put_back(player):
    await player.pin.pin(RELAY)
    async with guarded(player):
        player.network.flap(ETHERNET)  # the cable was out for a moment: all its routes are gone
        await player.changed()
        assert player.pins() == {}
        player.network.routes[ETHERNET, "0.0.0.0/0", "192.0.2.1"] = FakeRoute(0)
        await player.changed()
        assert player.pins() == {PIN: 0}
    await player.pin.release()
    assert player.pins() == {}


async def test_a_pin_that_vanishes_while_the_house_has_a_network_there_is_put_back_once(player, monkeypatch):
    now = 100.0
    monkeypatch.setattr(trio, "current_time", lambda: now)
    await player.pin.pin(RELAY)
    player.network.routes[TAP, "203.0.113.0/24", None] = FakeRoute(0)
    async with guarded(player, until="another program removes the route"):
        del player.network.routes[PIN]
        await player.changed()
        assert player.pins() == {PIN: 0}
        now += QUIET + 1
        del player.network.routes[PIN]
        await player.changed()
        assert player.pins() == {PIN: 0}
        del player.network.routes[PIN]
        await player.changed()


async def test_a_cable_that_is_out_for_a_while_is_no_theft(player):
    """Windows tells of it several times; meanwhile the default route by the house leads into the tunnel."""
    await player.pin.pin(RELAY)
    await player.adapter.lead_by("192.168.77.1", pinned=True)
    async with guarded(player):
        for _ in range(2):
            player.network.interfaces[ETHERNET].up = False
            player.network.flap(ETHERNET)
            for _ in range(3):
                await player.changed()
            assert player.pins() == {}
            player.network.interfaces[ETHERNET].up = True
            player.network.routes[ETHERNET, "0.0.0.0/0", "192.0.2.1"] = FakeRoute(0)
            await player.changed()
            assert player.pins() == {PIN: 0}
    await player.pin.release()
    assert player.pins() == {}


async def test_routes_that_are_listed_while_the_cable_is_out_do_not_count(player):
    network = player.network
    await player.pin.pin(RELAY)
    await player.adapter.lead_by("192.168.77.1", pinned=True)
    async with guarded(player):
        network.interfaces[ETHERNET].up = False
        await player.changed()
        network.add(WIFI, "Wi-Fi", metric=50)
        network.routes[WIFI, "0.0.0.0/0", "198.51.100.1"] = FakeRoute(0)
        await player.changed()
        assert player.pins() == {(WIFI, f"{RELAY}/32", "198.51.100.1"): 0}


async def test_a_borrowed_route_by_a_cable_that_is_out_is_not_kept(player):
    player.network.routes[PIN] = FakeRoute(7)
    await player.pin.pin(RELAY)
    player.network.interfaces[ETHERNET].up = False
    player.network.add(WIFI, "Wi-Fi", metric=50)
    player.network.routes[WIFI, "0.0.0.0/0", "198.51.100.1"] = FakeRoute(0)
    await player.pin.pin(RELAY)
    assert player.pins() == {PIN: 7, (WIFI, f"{RELAY}/32", "198.51.100.1"): 0}


async def test_the_house_steals_the_relays_route(player):
    """DHCP's option 121 may name a host route: it wins, because the adapter's metric is the lower one."""
    await player.adapter.set_up(1500)
    await player.pin.pin(RELAY)
    async with guarded(player, until=r"leads into the tunnel itself \(LanParty\).*lower metric.*route print"):
        await player.changed()
        player.network.routes[STOLEN] = FakeRoute(0)
        await player.changed()


@pytest.mark.parametrize("mark", [{"origin": ip.NlroDHCP}, {"protocol": 19}])
async def test_a_host_route_by_dhcp_is_removed(mark, player):
    await player.adapter.set_up(1500)
    await player.pin.pin(RELAY)
    async with guarded(player):
        player.network.routes[STOLEN] = FakeRoute(0, **mark)
        await player.changed()
        assert player.pins() == {PIN: 0}


async def test_other_changes_do_not_matter(player):
    await player.pin.pin(RELAY)
    async with guarded(player):
        calls = len(player.network.calls)
        player.network.routes[TAP, "0.0.0.0/0", "192.168.77.1"] = FakeRoute(0)
        await player.changed()
        assert player.pins() == {PIN: 0}
        assert not {"CreateIpForwardEntry2", "DeleteIpForwardEntry2"} & set(player.network.calls[calls:])


# ---------------------------------------------------------------------------------------------- the adapter itself


async def test_the_adapter_is_set_up_and_put_back(player, tmp_path):
    before = player.network.state()
    tap = player.network.interfaces[TAP]
    await player.adapter.set_up(1400)
    for family in (4, 6):
        settings = tap.families[family]
        assert (settings.metric, settings.default_routes_off, settings.mtu) == (METRIC, True, 1400)
    assert tap.families[6].router_discovery == ip.RouterDiscoveryDisabled
    assert tap.dns == "192.0.2.1"
    await player.adapter.set_up(1300)
    assert tap.families[4].mtu == 1300
    assert await player.transaction.undo() == []
    assert player.network.state() == before
    assert list(tmp_path.iterdir()) == []


async def test_a_games_broadcast_leaves_by_the_adapter_and_nothing_else_does(player):
    network = player.network
    network.routes[TAP, "0.0.0.0/0", "192.168.77.1"] = FakeRoute(0)  # by DHCP
    assert network.best("255.255.255.255")[0][0] == ETHERNET
    await player.adapter.set_up(1500)
    assert network.best("255.255.255.255")[0][0] == TAP
    assert network.best("198.51.100.7")[0][0] == ETHERNET


async def test_an_adapter_without_ipv4_is_told(player):
    del player.network.interfaces[TAP].families[4]
    with pytest.raises(MachineError, match="Internet Protocol Version 4"):
        await player.adapter.set_up(1500)


@pytest.mark.parametrize(("old", "reason"), [(True, "older than Windows 10"), (False, "administrator")])
async def test_dns_that_cannot_be_set_is_a_warning(old, reason, tmp_path):
    network, told = FakeNetwork.usual(), []
    network.refuse["SetInterfaceDnsSettings"] = ip.ERROR_ACCESS_DENIED
    with on_windows(network, old=old) as windows, listening(lambda event, fields: told.append(event.render(fields))):
        await Player(windows, tmp_path).adapter.set_up(1500)
        assert network.interfaces[TAP].families[4].metric == METRIC
    (sentence,) = told
    assert reason in sentence


async def test_what_windows_takes_back_is_renewed_and_the_players_dns_servers_are_followed(player, autojump_clock):
    network = player.network
    tap = network.interfaces[TAP]
    await player.adapter.set_up(1500)
    async with trio.open_nursery() as nursery:
        await nursery.start(player.adapter.keep)
        tap.families[4].metric = AUTOMATIC
        network.interfaces[ETHERNET].dhcp_dns = ("198.51.100.53",)
        player.windows.ip_helper.notify()
        await trio.sleep(5)
        assert tap.families[4].metric == METRIC
        assert tap.dns == "198.51.100.53"
        for _ in range(60):  # somebody insists
            tap.families[4].metric = 50
            player.windows.ip_helper.notify()
            await trio.sleep(5)
        assert tap.families[4].metric == 50
        network.remove(TAP)
        player.windows.ip_helper.notify()
        await trio.sleep(5)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("origin", [ip.NlroDHCP, ip.NlroManual])
async def test_routes_of_the_house_do_not_take_the_players_traffic(origin, player, autojump_clock):
    network, told = player.network, []
    network.routes[TAP, "198.51.100.0/24", "192.168.77.9"] = FakeRoute(0)  # the player's own
    await player.adapter.set_up(1500)
    before = network.state()
    async with trio.open_nursery() as nursery:
        await nursery.start(player.adapter.keep)
        with listening(lambda event, fields: told.append(event.render(fields))):
            for _ in range(3):
                for half in DEFAULT_HALVES:
                    network.routes[TAP, half, "192.168.77.1"] = FakeRoute(0, origin=origin)
                player.windows.ip_helper.notify()
                await trio.sleep(5)
                assert network.state() == before
        nursery.cancel_scope.cancel()
    assert told == [f"DHCP: ignored the route to {half} by 192.168.77.1." for half in DEFAULT_HALVES]


async def test_the_default_route_by_the_house_is_two_halves_and_only_with_a_pin(player):
    def halves():
        return {name[1:] for name in player.network.routes if name[0] == TAP and name[1] in DEFAULT_HALVES}

    await player.adapter.lead_by("192.168.77.1", pinned=False)
    assert halves() == set()
    await player.adapter.lead_by("192.168.77.1", pinned=True)
    assert halves() == {(half, "192.168.77.1") for half in DEFAULT_HALVES}
    player.network.flap(TAP)
    await player.adapter.lead_by("192.168.77.1", pinned=True)
    await player.adapter.lead_by("192.168.77.254", pinned=True)
    assert halves() == {(half, "192.168.77.254") for half in DEFAULT_HALVES}
    await player.adapter.lead_by("192.168.77.254", pinned=False)
    assert halves() == set()
    await player.adapter.lead_by("192.168.77.254", pinned=True)
    assert await player.api.drop_house_routes(TAP, player.transaction.keys) == []
    assert halves() == {(half, "192.168.77.254") for half in DEFAULT_HALVES}
    await player.adapter.lead_by(None, pinned=True)
    assert halves() == set()
    assert player.transaction.steps == ()
