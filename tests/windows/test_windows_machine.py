"""The Windows computer as a whole, on a fake Windows: what every `PlayerMachine` does, and what only this one does."""

import pytest
import trio
from fake_iphelper import ETHERNET
from fake_windows import FakeWindows
from machine_behaviour import MAC, STATIC, MachineBehaviour, adapter

from lanparty.link.address_options import AddressOptions
from lanparty.link.machine import MachineOptions
from lanparty.link.windows import tap
from lanparty.link.windows.machine import open_windows_machine
from lanparty.obs.errors import MachineError


@pytest.fixture
async def windows(tmp_path, monkeypatch):
    monkeypatch.setenv("PROGRAMDATA", str(tmp_path))
    windows = FakeWindows()
    del windows.network.routes[ETHERNET, "::/0", "fe80::1"]  # IPv6 leads nowhere
    with windows.installed():
        async with trio.open_nursery() as nursery:
            await nursery.start(windows.run)
            yield windows
            nursery.cancel_scope.cancel()


class WindowsWorld:
    RELAY = "203.0.113.10"
    OTHER = "203.0.113.11"
    NOWHERE = "2001:db8::10"

    def __init__(self, windows):
        self.windows = windows

    def open(self, options):
        return open_windows_machine(options)

    def state(self):
        return self.windows.state()

    def mtu(self, device):
        return self.windows.network.interfaces[self.windows.tap.guid].families[4].mtu

    def is_pinned(self, address):
        return (ETHERNET, f"{address}/32", "192.0.2.1") in self.windows.network.routes


class TestWindowsMachine(MachineBehaviour):
    @pytest.fixture
    def world(self, windows):
        return WindowsWorld(windows)


async def test_an_adapter_that_takes_its_time_after_each_restart(windows, monkeypatch):
    monkeypatch.setattr(tap, "REOPEN_STEP", 0.01)
    before = windows.state()
    windows.tap.back_after = 3
    options = MachineOptions(address=AddressOptions(address=STATIC))
    async with open_windows_machine(options) as machine, adapter(machine) as device:
        assert device.adapter.guid == windows.tap.guid
        assert sum(call.startswith("CM_Enable_DevNode") for call in windows.kernel.calls) == 2  # DHCP off, its MAC
    assert windows.state() == before


async def test_an_adapter_that_the_repair_has_restarted_is_waited_for(windows):
    before = windows.state()
    async with trio.open_nursery() as nursery, open_windows_machine(MachineOptions()) as machine:
        await nursery.start(machine.keep, MAC, 1500)
        windows.kill()
        nursery.cancel_scope.cancel()
    windows.reborn()
    windows.tap.back_after = 3
    async with open_windows_machine(MachineOptions()) as machine, adapter(machine) as device:
        assert device.mac == MAC
        windows.tap.back_after = 0
    assert windows.state() == before


async def test_a_disabled_adapter_is_not_waited_for(windows):
    windows.tap.enabled = False
    async with open_windows_machine(MachineOptions()) as machine:
        with trio.fail_after(1), pytest.RaisesGroup(pytest.RaisesExc(MachineError, match="is disabled")):
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.keep, MAC, 1500)
