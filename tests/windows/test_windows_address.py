"""The address set-up's tasks in simulated time, against a Windows that does what a test says."""

import math
from contextlib import contextmanager

import attrs
import pytest
import trio

from lanparty.link.address_options import AddressOptions
from lanparty.link.windows.address import RELEASE_DEADLINE, WindowsAddressSetup
from lanparty.link.windows.lease import ASK_AGAIN, LOST_AFTER, SILENT_AFTER, AdapterAddress, AdapterView
from lanparty.obs.errors import MachineError
from lanparty.obs.log import captured

LEASED = AdapterAddress("192.168.77.100", 24, "dhcp", "preferred", seconds=3600, lease=3600)
UP = AdapterView(7, "LanParty", up=True, dhcp=True)
BOUND = attrs.evolve(UP, addresses=(LEASED,), server="192.168.77.1", gateways=("192.168.77.1",))


class Windows:
    """`AddressApi`. ``asked`` has what was asked, and when."""

    def __init__(self):
        self.view, self.since = UP, 0.0
        self.asked = []
        self.renewal = 60.0
        """Seconds that a renewal takes; without an answer, Windows tries for a minute."""
        self.result = 121
        self.releasing = 0.1
        self.busy = 0
        self._sender, self._receiver = trio.open_memory_channel(math.inf)

    def show(self, view):
        self.view, self.since = view, trio.current_time()
        self._sender.send_nowait(None)

    async def adapters(self):
        await trio.lowlevel.checkpoint()
        if self.view is None:
            return []
        gone = trio.current_time() - self.since
        left = [attrs.evolve(each, seconds=each.seconds and each.seconds - int(gone)) for each in self.view.addresses]
        return [attrs.evolve(self.view, addresses=tuple(left))]

    @contextmanager
    def watch(self):
        yield self._receiver

    async def renew(self):
        return await self._ask("renew", self.renewal, self.result)

    async def release(self):
        return await self._ask("release", self.releasing, 0)

    async def _ask(self, what, seconds, result):
        assert not self.busy, "one at a time"
        self.asked.append((what, trio.current_time()))
        self.busy += 1
        try:
            await trio.sleep(seconds)
        finally:
            self.busy -= 1
        return result

    async def put_on(self, address, prefix):
        self.asked.append((f"put on {address}/{prefix}", trio.current_time()))
        await trio.lowlevel.checkpoint()

    async def take_off(self):
        self.asked.append(("take off", trio.current_time()))
        await trio.lowlevel.checkpoint()

    async def lead_by(self, router):
        self.asked.append((f"lead by {router}", trio.current_time()))
        await trio.lowlevel.checkpoint()

    def times(self, what):
        return [at for asked, at in self.asked if asked == what]


class Setup:
    def __init__(self, nursery, **options):
        self.windows = Windows()
        self.setup = WindowsAddressSetup(self.windows, 7, "LanParty", AddressOptions(**options))
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.nursery = nursery

    async def start(self):
        async def run(*, task_status):
            with self.scope:
                await self.setup.run(task_status=task_status)
            self.ended.set()

        await self.nursery.start(run)

    async def end(self):
        self.scope.cancel()
        await self.ended.wait()


@pytest.fixture
def entries():
    with captured() as entries:
        yield entries


def said(entries):
    return [entry["event"] for entry in entries]


async def test_a_house_that_does_not_answer(nursery, autojump_clock, entries):
    setup = Setup(nursery)
    setup.setup.gateway_present(False)
    await setup.start()
    await trio.sleep(100)
    assert setup.windows.asked == []
    started = trio.current_time()
    setup.setup.gateway_present(True)
    await trio.sleep(SILENT_AFTER - 0.1)
    assert said(entries) == ["client.dhcp-discover"]
    await trio.sleep(0.2)
    assert said(entries) == ["client.dhcp-discover", "client.dhcp-silent"]
    assert entries[1]["seconds"] == pytest.approx(SILENT_AFTER)
    await trio.sleep(180)
    # Windows tries for a minute each time; then it is told again what was wished meanwhile.
    assert setup.windows.times("renew") == pytest.approx([started, started + 60, started + 120, started + 180])
    await setup.end()
    assert said(entries) == ["client.dhcp-discover", "client.dhcp-silent"]
    assert setup.windows.times("release") == []  # there is nothing to give back


async def test_a_cable_without_an_answer_is_asked_again_each_time(nursery, autojump_clock, entries):
    setup = Setup(nursery)
    setup.windows.renewal = 0.1
    await setup.start()
    started = setup.windows.times("renew") or [trio.current_time()]
    await trio.sleep(3 * ASK_AGAIN + 1)
    times = setup.windows.times("renew")
    assert times == pytest.approx([started[0] + number * ASK_AGAIN for number in range(4)])
    assert said(entries).count("client.dhcp-silent") == 1
    await setup.end()


async def test_a_lease_is_verified_after_a_reconnect_and_given_back_at_the_end(nursery, autojump_clock, entries):
    setup = Setup(nursery)
    setup.setup.gateway_present(True)
    await setup.start()
    await trio.sleep(1)
    setup.windows.show(BOUND)
    await trio.sleep(1)
    assert said(entries) == ["client.dhcp-discover", "client.dhcp-lease", "client.address"]
    setup.windows.result = 0
    setup.windows.renewal = 0.5
    await trio.sleep(120)  # the first question is over
    setup.setup.gateway_present(False)
    setup.setup.gateway_present(True)
    setup.setup.reconnected()
    await trio.sleep(1)
    assert said(entries)[3:] == ["client.dhcp-renewed"]
    assert len(setup.windows.times("renew")) == 2
    await setup.end()
    assert said(entries)[4:] == ["client.dhcp-released"]
    assert len(setup.windows.times("release")) == 1


async def test_a_windows_that_does_not_give_back_holds_nobody_up(nursery, autojump_clock, entries):
    setup = Setup(nursery)
    setup.windows.view = BOUND
    setup.windows.releasing = 1000
    await setup.start()
    await trio.sleep(1)
    started = trio.current_time()
    await setup.end()
    assert trio.current_time() - started == pytest.approx(RELEASE_DEADLINE)
    assert "client.dhcp-released" not in said(entries)


async def test_an_end_while_windows_asks_gives_the_lease_back_all_the_same(nursery, autojump_clock, entries):
    setup = Setup(nursery)
    setup.windows.view = BOUND
    await setup.start()
    await trio.sleep(1)
    setup.setup.reconnected()
    await trio.sleep(1)
    assert setup.windows.busy
    await setup.end()
    assert said(entries)[-1] == "client.dhcp-released"


async def test_a_lost_lease_is_told_and_asked_for_again(nursery, autojump_clock, entries):
    setup = Setup(nursery, accept_default_route=True)
    setup.windows.renewal = 0.1
    setup.windows.view = BOUND
    await setup.start()
    await trio.sleep(1)
    setup.windows.show(UP)
    await trio.sleep(LOST_AFTER + 0.1)
    assert said(entries)[-2:] == ["client.address-lost", "client.dhcp-discover"]
    assert [what for what, _ in setup.windows.asked] == ["lead by 192.168.77.1", "lead by None", "renew"]
    await setup.end()


async def test_what_cannot_be_meant_is_given_back(nursery, autojump_clock, entries):
    setup = Setup(nursery)
    setup.windows.view = attrs.evolve(BOUND, addresses=(attrs.evolve(LEASED, prefix=1),))
    await setup.start()
    await trio.sleep(0.5)
    assert said(entries) == ["client.dhcp-ignored"]
    assert [what for what, _ in setup.windows.asked] == ["release"]
    setup.windows.show(UP)
    await trio.sleep(30)
    assert [what for what, _ in setup.windows.asked] == ["release"]
    await setup.end()


async def test_an_adapter_that_is_gone_ends_it(nursery, autojump_clock):
    setup = Setup(nursery)
    setup.windows.view = BOUND
    with pytest.RaisesGroup(pytest.RaisesExc(MachineError, match="LanParty is gone"), flatten_subgroups=True):
        async with trio.open_nursery() as inside:
            await inside.start(setup.setup.run)
            await trio.sleep(1)
            setup.windows.show(None)


async def test_a_fixed_address_is_put_on_before_it_is_started_and_taken_off(nursery, autojump_clock, entries):
    setup = Setup(nursery, address="192.168.77.50/24", accept_default_route=True, accept_dns=True)
    await setup.start()
    assert [what for what, _ in setup.windows.asked] == ["put on 192.168.77.50/24"]
    setup.windows.show(attrs.evolve(UP, addresses=(AdapterAddress("192.168.77.50", 24, "manual", "preferred"),)))
    await trio.sleep(1)
    assert said(entries) == ["client.dns-refused", "client.address", "client.default-route-refused"]
    assert setup.setup.held is None  # it is no lease
    setup.setup.reconnected()
    setup.setup.gateway_present(True)
    await trio.sleep(100)
    await setup.end()
    assert [what for what, _ in setup.windows.asked] == ["put on 192.168.77.50/24", "lead by None", "take off"]


async def test_no_address_is_nothing_at_all(nursery, autojump_clock, entries):
    setup = Setup(nursery, address="none")
    await setup.start()
    setup.setup.gateway_present(True)
    setup.windows.show(BOUND)
    await trio.sleep(100)
    await setup.end()
    assert (setup.windows.asked, entries) == ([], [])
