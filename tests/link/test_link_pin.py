"""The choice of the pin's next hop, and what the pin does to a machine in memory. The real kernel: tests/lan."""

import attrs
import pytest
import trio
from fake_machine import FakeNetlink

from lanparty.link.journal import Journal
from lanparty.link.kernel_state import RouteInfo
from lanparty.link.pin import RelayPin, best_route
from lanparty.obs.errors import ConnectionFailedError, MachineError

RELAY = "203.0.113.10"
DEFAULT = RouteInfo("0.0.0.0/0", "eth0", "192.0.2.1", None, 100)
WIFI = RouteInfo("0.0.0.0/0", "wlan0", "198.51.100.1", None, 600)
TAP_HALF = RouteInfo("128.0.0.0/1", "lp0", "192.168.77.1", None, 0, protocol=108)
HOUSE = RouteInfo("203.0.113.0/24", "lp0", None, None, 0, protocol=2)
NEARER = RouteInfo("203.0.113.0/24", "eth1", None, None, 900)
V6 = RouteInfo("::/0", "eth0", "fe80::1", None, 1024)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([], None),
        ([V6], None),
        ([WIFI, DEFAULT], DEFAULT),
        ([DEFAULT, TAP_HALF, HOUSE], DEFAULT),
        ([HOUSE], None),
        ([DEFAULT, NEARER], NEARER),
        ([attrs.evolve(DEFAULT, kind="unreachable"), WIFI], WIFI),
        ([attrs.evolve(DEFAULT, interface=None), WIFI], WIFI),
    ],
)  # fmt: skip
def test_best_route(routes, expected):
    assert best_route(routes, RELAY, frozenset({"lp0"})) == expected


def pin_for(tmp_path, *routes):
    netlink = FakeNetlink(list(routes))
    journal = Journal(tmp_path)
    return RelayPin(netlink, journal, avoid=("lp0",)), netlink, journal


def own(netlink):
    return [
        (route.interface, route.gateway, route.metric) for route in netlink.table if route.destination.startswith(RELAY)
    ]


async def test_follows_the_underlay_and_never_takes_the_tunnel(tmp_path):
    pin, netlink, journal = pin_for(tmp_path, DEFAULT)
    await pin.pin(RELAY)
    assert own(netlink) == [("eth0", "192.0.2.1", 0)]
    netlink.table.extend((TAP_HALF, HOUSE))
    await pin.pin(RELAY)
    assert own(netlink) == [("eth0", "192.0.2.1", 0)]
    netlink.table[netlink.table.index(DEFAULT)] = WIFI
    await pin.pin(RELAY)
    assert own(netlink) == [("wlan0", "198.51.100.1", 0)]
    assert len(journal.changes) == 1
    netlink.table.remove(WIFI)
    with pytest.raises(ConnectionFailedError, match=RELAY):
        await pin.pin(RELAY)
    assert own(netlink) == []
    assert pin.address is None
    assert journal.changes == ()


async def test_another_address_of_the_relay_replaces_the_first(tmp_path):
    pin, netlink, _ = pin_for(tmp_path, DEFAULT, V6)
    await pin.pin(RELAY)
    await pin.pin("2001:db8::10")
    assert own(netlink) == []
    assert netlink.table[-1].destination == "2001:db8::10/128"
    await pin.pin("::1")
    assert netlink.table == [DEFAULT, V6]
    await pin.release()
    await pin.release()


async def test_a_pin_that_somebody_removed_comes_back(tmp_path):
    pin, netlink, _ = pin_for(tmp_path, DEFAULT)
    await pin.pin(RELAY)
    netlink.table.pop()
    await pin.pin(RELAY)
    assert own(netlink) == [("eth0", "192.0.2.1", 0)]


async def test_a_kernel_that_refuses_leaves_no_entry(tmp_path):
    pin, netlink, journal = pin_for(tmp_path, DEFAULT)

    async def refuse_to_add(*_, **__):
        raise MachineError("cannot add the route: permission denied")

    async def refuse_to_remove(*_, **__):
        raise MachineError("cannot remove the route: permission denied")

    netlink.add_route, netlink.remove_route = refuse_to_add, refuse_to_remove
    with pytest.raises(MachineError, match="cannot add"):
        await pin.pin(RELAY)
    assert pin.address is None
    assert journal.changes == ()
    assert list(tmp_path.iterdir()) == []


async def test_release_is_not_prevented_by_cancellation(tmp_path):
    pin, netlink, _ = pin_for(tmp_path, DEFAULT)
    await pin.pin(RELAY)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pin.release()
    assert own(netlink) == []
