"""Which change of the network or the clock is a reason to reconnect."""

import ipaddress

import pytest
import trio

from lanparty.link.machine import Way
from lanparty.link.netlink import AddressInfo, NetlinkMissing, RouteInfo
from lanparty.link.underlay import NetlinkUnderlay
from lanparty.uplink.watch import LONGEST_SETTLE, SETTLE, Path, UnderlayWatch, judge, watch_gaps

WIFI = Way("wlan0", "192.0.2.1", "192.0.2.9")
CABLE = Way("eth0", "198.51.100.1", "198.51.100.9")
BOTH = frozenset({"192.0.2.9", "198.51.100.9"})


@pytest.mark.parametrize(
    ("before", "now", "addresses", "reason"),
    [
        pytest.param(WIFI, WIFI, BOTH, None, id="nothing that matters"),
        pytest.param(WIFI, CABLE, BOTH, "eth0 by 198.51.100.1", id="another interface"),
        pytest.param(WIFI, Way("wlan0", "192.0.2.2", "192.0.2.9"), BOTH, "wlan0 by 192.0.2.2", id="another router"),
        pytest.param(WIFI, Way("wlan0", None, "192.0.2.9"), BOTH, "now wlan0", id="on the link"),
        pytest.param(WIFI, WIFI, frozenset(), "192.0.2.9 is gone", id="address gone"),
        pytest.param(WIFI, None, frozenset(), None, id="no way at all: nothing to reconnect by"),
        pytest.param(None, CABLE, BOTH, "appeared", id="a way came back"),
        pytest.param(None, None, BOTH, None, id="still none"),
    ],
)
def test_judgement(before, now, addresses, reason):
    judged = judge(before, now, local="192.0.2.9", addresses=addresses)
    assert (judged is None) if reason is None else (reason in judged)


def test_an_unknown_local_address_cannot_be_gone():
    assert judge(WIFI, WIFI, local=None, addresses=frozenset()) is None


class Kernel:
    """As much of Netlink as the watch asks."""

    def __init__(self, way):
        self.way = way
        self.present = {way.source} if way else set()
        self.notify, self._changes = trio.open_memory_channel(100)

    def watch(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        pass

    async def __anext__(self):
        return await self._changes.receive()

    async def route_to(self, destination):
        ipaddress.IPv4Address(destination)
        await trio.lowlevel.checkpoint()
        if self.way == "vanishing":
            raise NetlinkMissing("gone")
        if self.way is None:
            return None
        return RouteInfo(f"{destination}/32", self.way.interface, self.way.gateway, self.way.source)

    async def addresses(self):
        await trio.lowlevel.checkpoint()
        return [AddressInfo(address, 24, None, 1) for address in self.present]


async def watched(kernel, script, relay="203.0.113.1"):
    """Run ``script`` beside the watch; give when and why it reported."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script)
        with trio.move_on_after(60):
            reason = await UnderlayWatch(NetlinkUnderlay(kernel)).wait_changed(Path(relay, None))
            nursery.cancel_scope.cancel()
            return trio.current_time(), reason
        nursery.cancel_scope.cancel()
    return None


async def test_a_lost_address_is_noticed_once_the_burst_is_over(autojump_clock):
    kernel = Kernel(WIFI)

    async def script():
        await trio.sleep(10)
        kernel.present = {"198.51.100.9"}
        for _ in range(5):
            kernel.notify.send_nowait("change")
            await trio.sleep(SETTLE / 2)

    when, reason = await watched(kernel, script)
    assert "192.0.2.9 is gone" in reason
    assert when == pytest.approx(10 + 4 * SETTLE / 2 + SETTLE)


async def test_endless_changes_do_not_put_it_off_for_ever(autojump_clock):
    kernel = Kernel(WIFI)

    async def script():
        kernel.way = CABLE
        while True:
            await trio.sleep(SETTLE / 2)
            kernel.notify.send_nowait("change")

    kernel.way = WIFI

    async def later():
        await trio.sleep(1)
        await script()

    when, reason = await watched(kernel, later)
    assert "eth0" in reason
    assert when <= 1 + LONGEST_SETTLE + SETTLE


async def test_unplugged_waits_and_plugged_in_again_reports(autojump_clock):
    kernel = Kernel(WIFI)

    async def script():
        await trio.sleep(1)
        kernel.way, kernel.present = None, set()
        kernel.notify.send_nowait("change")
        await trio.sleep(5)
        kernel.way = "vanishing"
        kernel.notify.send_nowait("change")
        await trio.sleep(5)
        kernel.way, kernel.present = WIFI, {"192.0.2.9"}
        kernel.notify.send_nowait("change")

    when, reason = await watched(kernel, script)
    assert "appeared" in reason
    assert when == pytest.approx(11 + SETTLE)


async def test_what_happened_while_nobody_watched_is_noticed_at_once(autojump_clock):
    """During a session's move, the address that it moved to may have gone as well."""
    kernel = Kernel(CABLE)
    with trio.fail_after(1):
        reason = await UnderlayWatch(NetlinkUnderlay(kernel)).wait_changed(Path("203.0.113.1", "192.0.2.9"))
    assert "192.0.2.9 is gone" in reason


async def test_the_players_own_adapter_is_no_reason(autojump_clock):
    kernel = Kernel(WIFI)

    async def script():
        kernel.present |= {"192.168.77.100"}
        kernel.notify.send_nowait("change")

    assert await watched(kernel, script) is None


async def test_a_relay_on_this_link_has_no_other_way(autojump_clock):
    kernel = Kernel(WIFI)

    async def script():
        kernel.way, kernel.present = CABLE, set()
        kernel.notify.send_nowait("change")

    assert await watched(kernel, script, relay="fe80::1%eth0") is None


async def test_a_sleep_is_reported_with_its_length(autojump_clock):
    clocks = iter([(0.0, 0.0), (2.0, 2.0), (4.0, 604.0), (6.0, 606.0)])
    now = [0.0, 0.0]
    slept = []

    def monotonic():
        now[:] = next(clocks, (now[0] + 2, now[1] + 2))
        return now[0]

    with trio.move_on_after(12):
        await watch_gaps(slept.append, monotonic=monotonic, boot=lambda: now[1])
    assert slept == [600.0]
