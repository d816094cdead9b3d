"""The virtual house and the internet around it, as network namespaces joined by cables (veth pairs) and switches.

        house-switch (Linux bridge, 192.168.77.0/24)                internet (Linux bridge, 10.99.0.0/24, fd99::/64)
          │              │                                            │        │         │         │
       lan-host       gateway ────────────── wan0 ────────────────────┘      relay    player1   player2
       eth0 .1        eth0 .2                                          wan0    wan0      wan0      wan0

- ``lan-host`` runs the DHCP server and stands for the computers in the house. It is not on the internet.
- ``gateway`` is the box that will run ``lanparty.gateway``; it also has an address of its own in the house.
- Offloads (TSO, GSO, checksum) stay on everywhere and GRO is switched on at ``lan-host`` and ``gateway``, as real
  network cards have it: the kernel then hands over super-frames with unfinished checksums.
- ``internet`` has a router's address, so that everybody on it has a default route that must not change.

Owns: namespaces, cables, switches, addresses. Must run in a sandbox (``lanparty.demo.sandbox``) or as root, and where
``/run/netns`` can be written. Must not know: the programs that run in the namespaces.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import array
import fcntl
import socket
import struct
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import attrs
from pyroute2 import netns
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lanparty.demo import inside
from lanparty.obs.errors import MachineError

__all__ = ["LAN_PREFIX", "PLACES", "House", "Place", "Underlay"]

T = TypeVar("T")

SWITCH: Final = "house-switch"
SWITCH_BRIDGE: Final = "switch0"
INTERNET: Final = "internet"
INTERNET_BRIDGE: Final = "internet0"
LAN_PREFIX: Final = 24
LAN_INTERFACE: Final = "eth0"
WAN_INTERFACE: Final = "wan0"

_IFA_F_NODAD: Final = 0x02
"""if_addr.h: usable at once. Nobody else is on these networks, and duplicate address detection takes a second."""


class Underlay(Enum):
    """What the internet between relay, gateway and players speaks."""

    DUAL = "dual"
    IPV6 = "ipv6"


@attrs.frozen
class Place:
    """One machine of the picture."""

    name: str
    lan_address: str | None = None
    """Its own IPv4 address in the house."""
    lan_mac: str | None = None
    """Fixed, so that tables and captures read the same each time; from a block that vendors gave to virtual cards."""
    wan_number: int | None = None
    """Last part of its internet addresses."""


PLACES: Final = (
    Place("lan-host", lan_address="192.168.77.1", lan_mac="00:16:3e:00:77:01"),
    Place("gateway", lan_address="192.168.77.2", lan_mac="00:16:3e:00:77:02", wan_number=2),
    Place("relay", wan_number=10),
    Place("player1", wan_number=11),
    Place("player2", wan_number=12),
)
_ROUTER_NUMBER: Final = 1


class House:
    """The picture above. A context manager: built on entry, gone on exit.

    ``prefix`` keeps the namespaces of two houses apart. Every ``namespace`` argument is a name as ``ip netns`` shows
    it, which ``self.at(place)`` gives.
    """

    def __init__(self, *, prefix: str = "", underlay: Underlay = Underlay.DUAL) -> None:
        self.prefix = prefix
        self.underlay = underlay
        self._namespaces: list[str] = []

    def __enter__(self) -> House:
        try:
            self._build()
        except (OSError, NetlinkError) as error:
            self.remove()
            raise MachineError(f"this kernel does not let us build the virtual house: {error}") from error
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _build(self) -> None:
        self.add_switch(SWITCH, SWITCH_BRIDGE)
        self.add_switch(INTERNET, INTERNET_BRIDGE)
        self._add_wan_addresses(self.at(INTERNET), INTERNET_BRIDGE, _ROUTER_NUMBER)
        for place in PLACES:
            self.add_namespace(place.name)
            if place.lan_address is not None:
                self.add_to_lan(place)
            if place.wan_number is not None:
                self.add_to_internet(place.name, place.wan_number)

    # ------------------------------------------------------------------------------------------ names and addresses

    def at(self, place: str) -> str:
        """The namespace of a place."""
        return self.prefix + place

    @property
    def relay_address(self) -> str:
        """Where players and gateway find the relay: IPv4 where the underlay has it."""
        return self.wan_addresses(10)[0]

    def wan_addresses(self, number: int) -> list[str]:
        """Internet addresses of the place with this number, the preferred one first."""
        both = [f"10.99.0.{number}", f"fd99::{number}"]
        return both if self.underlay is Underlay.DUAL else both[1:]

    # ------------------------------------------------------------------------------------------ building blocks

    def add_namespace(self, place: str) -> str:
        """Make a namespace with its loopback interface up; gives its name."""
        name = self.at(place)
        netns.create(name)
        self._namespaces.append(name)
        inside.call(name, _settle_ipv6)
        self.configure(name, lambda ip: ip.link("set", index=1, state="up"))
        return name

    def add_switch(self, place: str, bridge: str) -> None:
        """A namespace that is nothing but an Ethernet switch."""
        name = self.add_namespace(place)
        # A forward delay would keep each new port silent for 15 s; there is no loop to look for.
        self.configure(
            name, lambda ip: ip.link("add", ifname=bridge, kind="bridge", br_forward_delay=0, br_stp_state=0)
        )
        self.set_link(name, bridge, state="up")

    def add_to_lan(self, place: Place) -> None:
        """A cable from a place's ``eth0`` to the house switch, and its own address in the house."""
        name = self.at(place.name)
        self.add_cable(name, LAN_INTERFACE, self.at(SWITCH), SWITCH_BRIDGE, place.lan_mac)
        inside.call(name, lambda: _receive_offload_on(LAN_INTERFACE))
        if place.lan_address is not None:
            self.add_address(name, LAN_INTERFACE, place.lan_address, LAN_PREFIX)

    def add_to_internet(self, place: str, number: int) -> None:
        """A cable from a place's ``wan0`` to the internet, addresses and default routes."""
        name = self.at(place)
        self.add_cable(name, WAN_INTERFACE, self.at(INTERNET), INTERNET_BRIDGE)
        self._add_wan_addresses(name, WAN_INTERFACE, number)
        for router in self.wan_addresses(_ROUTER_NUMBER):
            self.add_route(name, "default", router)

    def _add_wan_addresses(self, namespace: str, interface: str, number: int) -> None:
        for address in self.wan_addresses(number):
            self.add_address(namespace, interface, address, 64 if ":" in address else 24)

    def add_cable(self, namespace: str, interface: str, switch: str, bridge: str, mac: str | None = None) -> None:
        """A veth pair from ``interface`` to a port of ``bridge``; the port is named after the namespace."""
        port = port_name(namespace.removeprefix(self.prefix))
        attributes = {} if mac is None else {"address": mac}
        self.configure(
            namespace,
            lambda ip: ip.link(
                "add", ifname=interface, kind="veth", peer={"ifname": port, "net_ns_fd": switch}, **attributes
            ),
        )
        self.configure(switch, lambda ip: ip.link("set", index=_index(ip, port), master=_index(ip, bridge)))
        self.set_link(switch, port, state="up")
        self.set_link(namespace, interface, state="up")

    def add_address(self, namespace: str, interface: str, address: str, prefix: int) -> None:
        """Give an interface an address, usable at once."""
        flags = {"flags": _IFA_F_NODAD} if ":" in address else {}
        self.configure(
            namespace,
            lambda ip: ip.addr("add", index=_index(ip, interface), address=address, prefixlen=prefix, **flags),
        )

    def add_route(self, namespace: str, destination: str, router: str) -> None:
        """Add a route by way of ``router``; ``destination`` is a prefix or "default"."""
        family = socket.AF_INET6 if ":" in router else socket.AF_INET
        self.configure(namespace, lambda ip: ip.route("add", dst=destination, gateway=router, family=family))

    def set_link(self, namespace: str, interface: str, **attributes: Any) -> None:
        """Change attributes of an interface by their pyroute2 names (``state``, ``mtu``, ``master`` …)."""
        self.configure(namespace, lambda ip: ip.link("set", index=_index(ip, interface), **attributes))

    def remove_link(self, namespace: str, interface: str) -> None:
        """Remove an interface (and the other end of its cable)."""
        self.configure(namespace, lambda ip: ip.link("del", index=_index(ip, interface)))

    def configure(self, namespace: str, action: Callable[[Any], T]) -> T:
        """What ``action`` returns, given netlink inside ``namespace``."""

        def work() -> T:
            with IPRoute() as ip:  # type: ignore[no-untyped-call]
                return action(ip)

        return inside.call(namespace, work)

    def remove(self) -> None:
        """Unname every namespace. The kernel removes each as its last process and socket goes."""
        while self._namespaces:
            netns.remove(self._namespaces.pop())


def port_name(place: str) -> str:
    """The switch port where a place is plugged in; interface names end at 15 bytes (IFNAMSIZ)."""
    return f"to-{place}"[:15]


def set_sysctl(namespace: str, name: str, value: str) -> None:
    """Set ``net.…`` inside a namespace; dots in ``name`` separate, as in sysctl(8), so no interface names with dots."""
    path = Path("/proc/sys", *name.split("."))
    inside.call(namespace, lambda: path.write_text(value, encoding="ascii"))


def _index(ip: Any, interface: str) -> int:
    found = ip.link_lookup(ifname=interface)
    if not found:
        raise LookupError(f"no interface {interface} in this namespace")
    return int(found[0])


def _settle_ipv6() -> None:
    """No duplicate address detection for link-local addresses either. A container may forbid it; then wait a second."""
    for which in ("all", "default"):
        try:
            Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0", encoding="ascii")
        except OSError:
            return


def _receive_offload_on(interface: str) -> None:
    """GRO on: ethtool's SIOCETHTOOL 0x8946 with ETHTOOL_SGRO 0x2c (linux/ethtool.h). veth starts with it off."""
    value = array.array("I", [0x2C, 1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8946, struct.pack("16sP16x", interface.encode(), value.buffer_info()[0]))
