"""A machine in memory: routes, links and files, that can be killed before or after any change."""

import ipaddress

import attrs

from lanparty.link.kernel_state import LinkInfo, RouteInfo
from lanparty.link.netlink import NetlinkMissing, effective_metric
from lanparty.link.pin import best_route
from lanparty.obs.errors import MachineError


class Killed(BaseException):
    """SIGKILL: nothing of the program runs after it, so from then on each step raises it again."""


@attrs.define
class Fate:
    """Counts the steps that change something outside the process, and kills the program at one of them."""

    kill_at: int | None = None
    """Step number; even numbers before the effect of step n//2, odd ones after it."""
    step: int = 0
    dead: bool = False

    def change(self, effect):
        self._check()
        result = effect()
        self._check()
        return result

    def _check(self):
        if self.dead or self.step == self.kill_at:
            self.dead = True
            raise Killed
        self.step += 1


@attrs.define(slots=False)
class FakeNetlink:
    """The part of Netlink that pin.py and repair.py use, with the kernel's rules for routes."""

    table: list[RouteInfo]
    interfaces: dict[str, str] = attrs.field(factory=dict)
    """MAC text by name."""
    fate: Fate = attrs.field(factory=Fate)

    async def routes(self):
        return list(self.table)

    async def route_to(self, destination):
        return best_route(self.table, destination, frozenset())

    async def add_route(self, destination, *, interface, gateway=None, metric=0, source=None):
        version = ipaddress.ip_network(destination).version
        wanted = RouteInfo(destination, interface, gateway, source, effective_metric(version, metric), protocol=108)

        def effect():
            for route in self.table:
                if (route.destination, route.metric) == (wanted.destination, wanted.metric):
                    if (route.interface, route.gateway) == (interface, gateway):
                        return False
                    raise MachineError("there is another one already")
            self.table.append(wanted)
            return True

        return self.fate.change(effect)

    async def remove_route(self, destination, *, interface, gateway=None, metric=0, ours=True):
        def effect():
            for route in self.table:
                same = (route.destination, route.interface, route.gateway, route.metric)
                if same == (destination, interface, gateway, metric) and (route.ours or not ours):
                    self.table.remove(route)
                    return
            raise NetlinkMissing("it is not there")

        self.fate.change(effect)

    async def links(self):
        macs = self.interfaces.items()
        return [
            LinkInfo(7, name, bytes.fromhex(mac.replace(":", "")), 1500, True, True, "veth", None) for name, mac in macs
        ]

    async def delete_link(self, name):
        self.fate.change(lambda: self.interfaces.pop(name))

    async def make_link(self, name, mac):
        self.fate.change(lambda: self.interfaces.update({name: mac}))
