"""Whether an interface can carry the players' frames, and the sentence for a person when it cannot.

Owns: the checks before a gateway starts, and again each time its interface returns.
Must not know: how the interface is then opened.

All questions are asked of the network namespace that the program runs in. /sys/class/net is not: it shows the
namespace of whoever mounted it, so it is believed only about an interface with the same index and MAC.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # /sys, netlink

from pathlib import Path
from typing import TYPE_CHECKING, Final

from lanparty.link.kernel import has_wireless_extensions
from lanparty.link.netlink import NetlinkMissing
from lanparty.obs.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanparty.link.netlink import LinkInfo, Netlink

__all__ = ["check_interface", "is_wireless"]

_SYSFS = Path("/sys/class/net")

_ARPHRD_ETHER: Final = 1
_ARPHRD_LOOPBACK: Final = 772
_ARPHRD_WIRELESS: Final = (801, 802, 803)
"""Raw 802.11, with Prism and with radiotap headers: a Wi-Fi card in monitor mode (linux/if_arp.h)."""

_OWN_MAC_ONLY: Final = {"macvlan", "macvtap", "ipvlan", "ipvtap"}
_COLLECTORS: Final = {"bridge", "bond", "team", "openvswitch", "ovs-system"}
"""Kinds of master that take the frames of their ports away from them."""


def is_wireless(
    link: LinkInfo, *, sysfs: Path = _SYSFS, extensions: Callable[[str], bool] = has_wireless_extensions
) -> bool:
    """Whether the interface is Wi-Fi: by wireless extensions, or by its cfg80211 entry (Wi-Fi 7 has only that)."""
    if link.arp_type in _ARPHRD_WIRELESS or extensions(link.name):
        return True
    entry = sysfs / link.name
    try:
        same = (entry / "ifindex").read_text(encoding="ascii").strip() == str(link.index)
        same = same and (entry / "address").read_text(encoding="ascii").strip() == link.mac.hex(":")
    except OSError:
        return False
    return same and ((entry / "phy80211").exists() or (entry / "wireless").exists())


async def check_interface(
    name: str, netlink: Netlink, *, wireless: Callable[[LinkInfo], bool] = is_wireless
) -> LinkInfo:
    """The interface, when a gateway can bridge it; it may be down.

    Raises NetlinkMissing when there is none of that name (the text lists those that would do), MachineError when it
    is loopback, wireless, not Ethernet, of a kind that takes only its own MAC, or a port of something else.
    """
    link = await netlink.link(name)
    if link is None:
        others = [other.name for other in await netlink.links() if _obstacle(other, wireless) is None]
        choice = f"; this machine has {', '.join(others)}" if others else ""
        raise NetlinkMissing(f"there is no network interface {name}{choice}")
    obstacle = _obstacle(link, wireless)
    if obstacle is not None:
        raise MachineError(obstacle)
    if link.master is not None:
        master = next((other for other in await netlink.links() if other.index == link.master), None)
        if master is not None and master.kind in _COLLECTORS:
            raise MachineError(
                f"{name} is a port of {master.name} ({master.kind}), which takes its frames: "
                f"use --interface {master.name}"
            )
    return link


def _obstacle(link: LinkInfo, wireless: Callable[[LinkInfo], bool]) -> str | None:
    if link.arp_type == _ARPHRD_LOOPBACK:
        return f"{link.name} is the loopback interface, which leads to no LAN: use the interface of the house's cable"
    if wireless(link):
        return (
            f"{link.name} is a wireless interface: Wi-Fi access points drop frames with MAC addresses that are not "
            "logged in, so the players' frames would not get through; connect this machine to the house's switch with "
            "a cable and use that interface"
        )
    if link.arp_type != _ARPHRD_ETHER or len(link.mac) != 6:
        return (
            f"{link.name} is not an Ethernet interface (hardware type {link.arp_type}): it cannot carry Ethernet frames"
        )
    if link.kind in _OWN_MAC_ONLY:
        return (
            f"{link.name} is of kind {link.kind}, which takes only frames for its own MAC address: use the interface "
            "below it"
        )
    return None
