"""Which interfaces a gateway takes, and the sentences for the others; no kernel is asked."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from lanparty.link.checks import check_interface, is_wireless
from lanparty.link.netlink import LinkInfo, NetlinkMissing
from lanparty.obs.errors import ExitStatus, MachineError

MAC = bytes.fromhex("021122334455")


def link(index: int, name: str, kind: str | None = None, **more: object) -> LinkInfo:
    return attrs.evolve(LinkInfo(index, name, MAC, 1500, True, True, kind, None), **more)


LINKS = [
    link(1, "lo", arp_type=772, mac=bytes(6)),
    link(2, "eth0"),
    link(3, "wlan0"),
    link(4, "br0", "bridge"),
    link(5, "eth1", master=4),
    link(6, "bond0", "bond"),
    link(7, "eth2", master=6),
    link(8, "wg0", "wireguard", arp_type=65534, mac=b""),
    link(9, "tun0", "tun", arp_type=65534, mac=b""),
    link(10, "mac0", "macvlan"),
    link(11, "eth0.5", "vlan"),
    link(12, "red", "vrf"),
    link(13, "eth3", master=12),
    link(14, "eth4", up=False, carrier=False),
    link(15, "mon0", arp_type=803),
    link(16, "ib0", arp_type=32, mac=bytes(20)),
]


class FakeNetlink:
    async def link(self, name: str) -> LinkInfo | None:
        return next((one for one in LINKS if one.name == name), None)

    async def links(self) -> list[LinkInfo]:
        return LINKS


def only_wlan(one: LinkInfo) -> bool:
    return is_wireless(one, sysfs=Path("/nonexistent"), extensions=lambda name: name.startswith("wlan"))


async def check(name: str) -> LinkInfo:
    return await check_interface(name, FakeNetlink(), wireless=only_wlan)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["eth0", "br0", "bond0", "eth0.5", "eth3", "eth4"])
async def test_fit(name: str) -> None:
    assert (await check(name)).name == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("lo", "lo is the loopback interface"),
        ("wlan0", "wlan0 is a wireless interface: Wi-Fi access points drop"),
        ("mon0", "mon0 is a wireless interface"),
        ("eth1", "eth1 is a port of br0 .bridge., .*use --interface br0"),
        ("eth2", "eth2 is a port of bond0 .bond."),
        ("wg0", "wg0 is not an Ethernet interface"),
        ("tun0", "tun0 is not an Ethernet interface"),
        ("ib0", "ib0 is not an Ethernet interface"),
        ("mac0", "mac0 is of kind macvlan"),
    ],
)
async def test_unfit(name: str, sentence: str) -> None:
    with pytest.raises(MachineError, match=sentence) as caught:
        await check(name)
    assert caught.value.status is ExitStatus.CANNOT
    assert "\n" not in str(caught.value)


async def test_a_missing_one_names_those_that_would_do() -> None:
    with pytest.raises(
        NetlinkMissing, match="there is no network interface eth9; this machine has eth0, br0,"
    ) as caught:
        await check("eth9")
    assert "wlan0" not in str(caught.value)


def entry(sysfs: Path, one: LinkInfo, marker: str | None) -> None:
    directory = sysfs / one.name
    directory.mkdir()
    (directory / "ifindex").write_text(f"{one.index}\n")
    (directory / "address").write_text(one.mac.hex(":") + "\n")
    if marker:
        (directory / marker).mkdir()


@pytest.mark.parametrize(("marker", "wireless"), [("phy80211", True), ("wireless", True), (None, False)])
def test_wireless_by_sysfs(tmp_path: Path, marker: str | None, wireless: bool) -> None:
    one = link(3, "wlp2s0")
    entry(tmp_path, one, marker)
    assert is_wireless(one, sysfs=tmp_path, extensions=lambda name: False) is wireless


@pytest.mark.parametrize("other", [{"index": 4}, {"mac": b"\2\0\0\0\0\7"}])
def test_a_sysfs_of_another_namespace_is_not_believed(tmp_path: Path, other: dict[str, object]) -> None:
    one = link(3, "eth0")
    entry(tmp_path, attrs.evolve(one, **other), "phy80211")
    assert not is_wireless(one, sysfs=tmp_path, extensions=lambda name: False)


def test_loopback_is_not_wireless_here() -> None:
    """The real questions, of an interface that every machine has."""
    assert not is_wireless(LINKS[0])
