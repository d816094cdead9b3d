"""Windows machines as tables: random ones, and one in memory that a transaction can change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fake_iphelper import ETHERNET, TAP, WIFI
from hypothesis import strategies as st

from lanparty.link.windows.plan import (
    AUTOMATIC,
    CategoryKey,
    DnsKey,
    Family,
    InterfaceKey,
    Key,
    MacKey,
    RouteKey,
    Snapshot,
    Step,
    Value,
)
from lanparty.link.windows.transaction import ChangedError, VanishedError

__all__ = ["ETHERNET", "TAP", "WIFI", "TableMachine", "families", "snapshots"]

NETWORK = "{B0000000-0000-4000-8000-000000000001}"


def families(
    interface: str, family: Family, *, metric: int = AUTOMATIC, off: int = 0, discovery: int = 1, mtu: int = 1500
) -> dict[Key, Value]:
    return {
        InterfaceKey(interface, family, "metric"): metric,
        InterfaceKey(interface, family, "default-routes"): off,
        InterfaceKey(interface, family, "router-discovery"): discovery,
        InterfaceKey(interface, family, "mtu"): mtu,
    }


@st.composite
def snapshots(draw: Callable[[Any], Any]) -> Snapshot:
    """A TAP adapter as others may have left it, an Ethernet, perhaps a Wi-Fi, and routes."""
    values: dict[Key, Value] = {}
    versions: list[Family] = draw(st.sampled_from([[4], [4, 6]]))
    for interface in (TAP, ETHERNET):
        for family in versions:
            values |= families(
                interface,
                family,
                metric=draw(st.sampled_from([AUTOMATIC, 1, 9, 25])),
                off=draw(st.integers(0, 1)),
                discovery=draw(st.integers(0, 2)),
                mtu=draw(st.sampled_from([1280, 1400, 1500, 9000])),
            )
    values[DnsKey(TAP)] = draw(st.sampled_from(["", "9.9.9.9", None]))
    values[RouteKey(ETHERNET, "0.0.0.0/0", "192.0.2.1")] = 0
    if draw(st.booleans()):
        values[RouteKey(ETHERNET, "203.0.113.10/32", "192.0.2.1")] = 7
    if draw(st.booleans()):
        values[RouteKey(TAP, "0.0.0.0/1", "192.168.77.1")] = 3
    servers = draw(st.sampled_from([(), ("192.0.2.1",), ("192.0.2.1", "192.0.2.2")]))
    return Snapshot(values, {(ETHERNET, 4): 25, (TAP, 4): 25}, servers)


class TableMachine:
    """A machine that is nothing but its values. ``before`` is called before each change, and may change it, too."""

    def __init__(self, snapshot: Snapshot) -> None:
        there = {key: value for key, value in snapshot.values.items() if value is not None}
        self.values: dict[Key, Value] = {**there, CategoryKey(NETWORK): 0, MacKey(TAP): ""}
        self._snapshot = snapshot
        self.before: Callable[[Step], None] = lambda step: None

    async def snapshot(self) -> Snapshot:
        return Snapshot(dict(self.values), self._snapshot.metrics, self._snapshot.name_servers)

    async def change(self, step: Step) -> None:
        self.before(step)
        now = self.values.get(step.key)
        if now != step.before:
            raise ChangedError(now)
        if isinstance(step.key, RouteKey):
            if not any(isinstance(key, InterfaceKey) and key.interface == step.key.interface for key in self.values):
                raise VanishedError("no such interface")
            if step.after is None:
                del self.values[step.key]
                return
        self.values[step.key] = step.after

    def name(self, step: Step) -> str:
        return str(step.key)

    def state(self) -> dict[Any, Any]:
        return dict(self.values)

    def others(self, key: Key, value: Value) -> None:
        """Somebody else sets a value, or removes a route."""
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value

    def remove(self, interface: str) -> None:
        """An interface goes, and all that it has."""
        self.values = {key: value for key, value in self.values.items() if getattr(key, "interface", None) != interface}
