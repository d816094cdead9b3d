"""The plan: what it changes, what it leaves, in which order, and that each step can be turned around."""

import attrs
import pytest
from hypothesis import given
from windows_tables import ETHERNET, TAP, WIFI, families, snapshots

from lanparty.link.windows.plan import (
    AUTOMATIC,
    DEFAULT_HALVES,
    METRIC,
    CategoryKey,
    DnsKey,
    InterfaceKey,
    RouteKey,
    Snapshot,
    Step,
    Wish,
    best_way,
    default_halves,
    host_route,
    plan,
    still_ours,
)

USUAL = Snapshot(
    {
        **families(TAP, 4, metric=AUTOMATIC, mtu=1400),
        **families(TAP, 6, metric=AUTOMATIC, mtu=1400),
        DnsKey(TAP): "",
    },
    name_servers=("192.0.2.1", "192.0.2.2"),
)


def changes(snapshot, wish):
    return [(step.key, step.after) for step in plan(snapshot, wish)]


def test_the_usual_plan_in_its_order():
    """First of all no packet may take a default route of the house."""
    assert changes(USUAL, Wish(TAP, 1500)) == [
        (InterfaceKey(TAP, 4, "default-routes"), 1),
        (InterfaceKey(TAP, 6, "default-routes"), 1),
        (InterfaceKey(TAP, 6, "router-discovery"), 0),
        (InterfaceKey(TAP, 4, "metric"), METRIC),
        (InterfaceKey(TAP, 6, "metric"), METRIC),
        (InterfaceKey(TAP, 4, "mtu"), 1500),
        (InterfaceKey(TAP, 6, "mtu"), 1500),
        (DnsKey(TAP), "192.0.2.1,192.0.2.2"),
    ]


@pytest.mark.parametrize(
    ("snapshot", "wish", "servers"),
    [
        (USUAL, Wish(TAP, 1500, accept_dns=True), None),
        (attrs.evolve(USUAL, name_servers=()), Wish(TAP, 1500), "127.0.0.1"),
        (attrs.evolve(USUAL, values={}), Wish(TAP, 1500), None),
        (attrs.evolve(USUAL, values={DnsKey(TAP): None}), Wish(TAP, 1500), None),
        (attrs.evolve(USUAL, values={DnsKey(TAP): "192.0.2.1,192.0.2.2"}), Wish(TAP, 1500), None),
    ],
)
def test_names_are_asked_where_they_were_asked_before(snapshot, wish, servers):
    assert dict(changes(snapshot, wish)).get(DnsKey(TAP)) == servers


def test_ipv6_has_its_smallest_mtu():
    found = dict(changes(USUAL, Wish(TAP, 1000)))
    assert found[InterfaceKey(TAP, 4, "mtu")] == 1000
    assert InterfaceKey(TAP, 6, "mtu") not in found


@given(snapshots())
def test_after_the_plan_there_is_nothing_left_to_do_and_undone_all_is_as_before(snapshot):
    wish = Wish(TAP, 1500)
    values = dict(snapshot.values)
    steps = plan(snapshot, wish)
    for step in steps:
        assert values[step.key] == step.before
        values[step.key] = step.after
    after = attrs.evolve(snapshot, values=values)
    assert plan(after, wish) == []
    assert all(still_ours(step, after) and not still_ours(step, snapshot) for step in steps)
    for step in reversed(steps):
        values[step.key] = step.undo().after
    assert values == snapshot.values


@given(snapshots())
def test_only_the_adapter_is_changed(snapshot):
    assert all(step.key.interface == TAP for step in plan(snapshot, Wish(TAP, 1500)))


def test_the_two_halves_and_not_what_is_there_already():
    assert [step.key.destination for step in default_halves(USUAL, TAP, "192.168.77.1")] == [*DEFAULT_HALVES]
    there = attrs.evolve(USUAL, values={RouteKey(TAP, "0.0.0.0/1", "192.168.77.1"): 5})
    assert [step.key.destination for step in default_halves(there, TAP, "192.168.77.1")] == ["128.0.0.0/1"]


@pytest.mark.parametrize(
    ("address", "destination"), [("203.0.113.10", "203.0.113.10/32"), ("2001:db8::a", "2001:db8::a/128")]
)
def test_a_host_route(address, destination):
    assert host_route(ETHERNET, address, None) == Step(RouteKey(ETHERNET, destination, None), None, 0)


def test_the_rule_of_undoing():
    step = Step(CategoryKey("{N}"), 0, 1)
    assert still_ours(step, Snapshot({step.key: 1}))
    assert not still_ours(step, Snapshot({step.key: 0}))
    assert not still_ours(step, Snapshot({step.key: 2}))
    assert not still_ours(step, Snapshot({}))


DEFAULT = RouteKey(ETHERNET, "0.0.0.0/0", "192.0.2.1")
SECOND = RouteKey(WIFI, "0.0.0.0/0", "198.51.100.1")
HOUSE = RouteKey(TAP, "203.0.113.0/24", None)
NEARER = RouteKey(WIFI, "203.0.113.0/24", "198.51.100.9")
V6 = RouteKey(ETHERNET, "::/0", "fe80::1")


@pytest.mark.parametrize(
    ("routes", "more", "expected"),
    [
        ({}, {}, None),
        ({DEFAULT: 0}, {}, DEFAULT),
        ({DEFAULT: 0, SECOND: 0}, {}, DEFAULT),
        ({DEFAULT: 40, SECOND: 0}, {}, SECOND),
        ({DEFAULT: 0, NEARER: 900}, {}, NEARER),
        ({DEFAULT: 0, HOUSE: 0}, {}, DEFAULT),
        ({HOUSE: 0}, {}, None),
        ({V6: 0}, {}, None),
        ({DEFAULT: 0, SECOND: 0}, {InterfaceKey(ETHERNET, 4, "default-routes"): 1}, SECOND),
    ],
)
def test_the_best_way_that_does_not_lead_into_the_tunnel(routes, more, expected):
    metrics = {(ETHERNET, 4): 25, (WIFI, 4): 50, (TAP, 4): 1, (ETHERNET, 6): 25}
    snapshot = Snapshot({**routes, **more}, metrics)
    assert best_way(snapshot, "203.0.113.10", avoid={TAP}) == expected
    if expected is not None:
        assert best_way(snapshot, "203.0.113.10", avoid={TAP}, without=expected) != expected


def test_routes_of_what_is_not_connected_lead_nowhere():
    assert best_way(Snapshot({DEFAULT: 0}, {}), "203.0.113.10", avoid=()) is None
