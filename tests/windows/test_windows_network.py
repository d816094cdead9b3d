"""network.py and iphelper.py through real ctypes conversions, against a fake iphlpapi.dll."""

import pytest
import trio
from fake_iphelper import ETHERNET, TAP, WIFI, FakeNetwork, FakeRoute, on_windows

from lanparty.link.machine import Way
from lanparty.link.windows import iphelper
from lanparty.link.windows.network import NetworkApi
from lanparty.link.windows.plan import AUTOMATIC, DnsKey, InterfaceKey, RouteKey, Step, Wish, plan
from lanparty.link.windows.transaction import ChangedError, VanishedError
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.obs.errors import MachineError

RELAY = "203.0.113.10"
PIN = RouteKey(ETHERNET, f"{RELAY}/32", "192.0.2.1")
METRIC = InterfaceKey(TAP, 4, "metric")


@pytest.mark.parametrize("address", ["192.0.2.1", "255.255.255.255", "0.0.0.0", "::1", "fe80::1", "2001:db8::ff"])
def test_an_address_survives_the_way_through_windows(address):
    assert iphelper.text_of(iphelper.socket_address(address)) == address


async def test_a_snapshot_has_everything_that_a_plan_needs():
    network = FakeNetwork.usual()
    network.interfaces[TAP].dns = "9.9.9.9, 1.1.1.1"
    network.interfaces[WIFI] = network.add(WIFI, "Wi-Fi", up=False, dhcp_dns=("198.51.100.1",))
    with on_windows(network):
        found = await NetworkApi(TAP).snapshot()
    assert found.value(METRIC) == AUTOMATIC
    assert found.value(InterfaceKey(ETHERNET, 6, "mtu")) == 1500
    assert found.value(RouteKey(ETHERNET, "0.0.0.0/0", "192.0.2.1")) == 0
    assert found.value(RouteKey(ETHERNET, "192.0.2.0/24", None)) == 256
    assert found.value(DnsKey(TAP)) == "9.9.9.9,1.1.1.1"
    assert found.name_servers == ("192.0.2.1",)
    assert found.metrics[ETHERNET, 4] == 25
    assert (WIFI, 4) not in found.metrics


async def test_every_step_and_its_undo_change_one_thing_only():
    network = FakeNetwork.usual()
    before = network.state()
    with on_windows(network):
        api = NetworkApi(TAP)
        steps = [*plan(await api.snapshot(), Wish(TAP, 1400)), Step(PIN, None, 0)]
        for step in steps:
            await api.change(step)
            assert len(dict(network.state().items() - before.items())) == 1, step
            with pytest.raises(ChangedError) as caught:
                await api.change(step)
            assert caught.value.now == step.after
            await api.change(step.undo())
            assert network.state() == before
            assert api.name(step)
    assert len(steps) == 9


async def test_the_row_of_ipv4_is_given_back_without_its_site_prefix():
    network = FakeNetwork.usual()
    with on_windows(network):
        await NetworkApi().change(Step(METRIC, AUTOMATIC, 1))
    settings = network.interfaces[TAP].families[4]
    assert (settings.metric, settings.mtu, settings.default_routes_off) == (1, 1500, False)


@pytest.mark.parametrize(
    ("function", "step"),
    [
        ("SetIpInterfaceEntry", Step(METRIC, AUTOMATIC, 1)),
        ("CreateIpForwardEntry2", Step(PIN, None, 0)),
        ("DeleteIpForwardEntry2", Step(RouteKey(ETHERNET, "0.0.0.0/0", "192.0.2.1"), 0, None)),
        ("SetInterfaceDnsSettings", Step(DnsKey(TAP), "", "192.0.2.1")),
    ],
)
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ip.ERROR_ACCESS_DENIED, "start this program as administrator"),
        (ip.ERROR_INVALID_PARAMETER, "report this"),
        (ip.ERROR_NOT_SUPPORTED, "IP version"),
        (1450, "Windows error 1450"),
    ],
)
async def test_what_windows_refuses_is_said_in_a_sentence(function, step, error, sentence):
    network = FakeNetwork.usual()
    before = network.state()
    network.refuse[function] = error
    with on_windows(network), pytest.raises(MachineError, match=sentence):
        await NetworkApi().change(step)
    assert network.state() == before


async def test_nobody_but_an_administrator_may():
    network = FakeNetwork.usual()
    network.administrator = False
    with on_windows(network):
        for step in (Step(METRIC, AUTOMATIC, 1), Step(PIN, None, 0)):
            with pytest.raises(MachineError, match="administrator"):
                await NetworkApi().change(step)


async def test_what_has_gone_is_gone():
    network = FakeNetwork.usual()
    network.remove(TAP)
    with on_windows(network):
        api = NetworkApi(TAP)
        assert (await api.snapshot()).value(DnsKey(TAP)) is None
        for step in (Step(METRIC, AUTOMATIC, 1), Step(DnsKey(TAP), "", "192.0.2.1")):
            with pytest.raises(ChangedError) as caught:
                await api.change(step)
            assert caught.value.now is None
        with pytest.raises(VanishedError):
            await api.change(Step(RouteKey(TAP, "0.0.0.0/1", "192.168.77.1"), None, 0))
        assert iphelper.alias(TAP) == TAP


async def test_a_route_that_comes_in_between_is_somebody_elses():
    network = FakeNetwork.usual()

    def come(function):
        if function == "CreateIpForwardEntry2":
            network.routes[ETHERNET, f"{RELAY}/32", "192.0.2.1"] = FakeRoute(7)

    network.before = come
    with on_windows(network), pytest.raises(ChangedError) as caught:
        await NetworkApi().change(Step(PIN, None, 0))
    assert caught.value.now == 7


async def test_a_windows_without_dns_settings_has_none_to_change():
    network = FakeNetwork.usual()
    with on_windows(network, old=True):
        found = await NetworkApi(TAP).snapshot()
        assert found.value(DnsKey(TAP)) is None
        assert not any(isinstance(step.key, DnsKey) for step in plan(found, Wish(TAP, 1500)))


async def test_the_way_to_the_relay():
    network = FakeNetwork.usual()
    with on_windows(network):
        api = NetworkApi()
        assert await api.way(RELAY) == Way("Ethernet", "192.0.2.1", "192.0.2.50")
        assert await api.way("192.0.2.7") == Way("Ethernet", None, "192.0.2.50")
        assert await api.way("2001:db8::1") == Way("Ethernet", "fe80::1", None)
        network.routes.clear()
        assert await api.way(RELAY) is None
        network.refuse["GetBestRoute2"] = ip.ERROR_NOT_ENOUGH_MEMORY
        with pytest.raises(MachineError, match="out of memory"):
            await api.way(RELAY)
        assert await api.addresses() == {"127.0.0.1", "::1", "192.0.2.50"}


async def test_tables_may_be_empty_or_refused():
    network = FakeNetwork()
    with on_windows(network):
        assert dict((await NetworkApi().snapshot()).values) == {}
        network.refuse["GetIpForwardTable2"] = ip.ERROR_ACCESS_DENIED
        with pytest.raises(MachineError, match="network settings"):
            await NetworkApi().snapshot()


async def test_changes_come_from_a_foreign_thread_and_a_burst_is_one():
    with on_windows(FakeNetwork.usual()) as windows:
        with NetworkApi().watch() as changes:
            assert {name for name, _ in windows.ip_helper.callbacks.values()} == {
                "NotifyRouteChange2",
                "NotifyIpInterfaceChange",
                "NotifyUnicastIpAddressChange",
            }
            for _ in range(5):
                await trio.to_thread.run_sync(windows.ip_helper.notify)
            with trio.fail_after(5):
                await anext(changes)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.05) as scope:
                await anext(changes)
            assert scope.cancelled_caught
            await trio.to_thread.run_sync(windows.ip_helper.notify)
            with trio.fail_after(5):
                await anext(changes)
        assert len(windows.ip_helper.cancelled) == 3


async def test_no_notifications_is_an_error_and_the_others_are_cancelled():
    network = FakeNetwork.usual()
    network.refuse["NotifyUnicastIpAddressChange"] = ip.ERROR_NOT_ENOUGH_MEMORY
    with on_windows(network) as windows:
        with pytest.raises(MachineError, match="be told of changes"), NetworkApi().watch():
            pytest.fail("it began")
        assert len(windows.ip_helper.cancelled) == 2


def test_a_callback_after_the_end_of_the_program_is_harmless():
    """CancelMibChangeNotify2 was refused: Windows goes on calling, and the callback must still be there."""
    network = FakeNetwork.usual()
    network.refuse["CancelMibChangeNotify2"] = ip.ERROR_INVALID_PARAMETER

    async def watch():
        with NetworkApi().watch():
            pass

    with on_windows(network) as windows:
        trio.run(watch)
        windows.ip_helper.notify()
        windows.ip_helper.callbacks.clear()
