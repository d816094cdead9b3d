"""SIGKILL before each call that changes something, from the first start to the last step of a clean end.

Without relay and room: the machine as the client uses it, its wire ended in a house. After each crash the next start
repairs, and everything is as it was before.
"""

import itertools
import math
import os
from contextlib import asynccontextmanager

import pytest
import trio
from fake_house import House
from fake_windows import FakeWindows

from lanparty.link.address_options import AddressOptions
from lanparty.link.device import DeviceGoneError
from lanparty.link.machine import MachineOptions
from lanparty.link.windows import address, category
from lanparty.link.windows.machine import open_windows_machine
from lanparty.obs.errors import LanpartyError
from lanparty.obs.log import captured

MAC = bytes.fromhex("02a1b2c3d4e5")
DEADLINE = 30
PATIENCE = 0.5
"""Seconds for what may never come, because something was refused."""
MODES = {
    "dhcp": AddressOptions(accept_default_route=True),
    "fixed": AddressOptions(address="192.168.77.50/24"),
}


@asynccontextmanager
async def windows_in(directory, monkeypatch):
    directory.mkdir()
    # Waits for a real Windows, on which nothing here depends; there are some 150 lives.
    monkeypatch.setattr(category, "PAUSES", (0.02,) * len(category.PAUSES))
    monkeypatch.setattr(address, "RELEASE_LINGER", 0.0)
    monkeypatch.setenv("PROGRAMDATA", str(directory))
    windows = FakeWindows()
    with windows.installed(), trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            await nursery.start(windows.run)
            yield windows
            nursery.cancel_scope.cancel()


async def carry(device, house):
    """The tunnel: what the adapter sends reaches the house, and its answers come back."""
    while True:
        await device.wait_readable()
        answers = [reply for frame in device.read_batch() for reply in house.answer(frame, trio.current_time())]
        device.write_batch(answers)


async def life(windows, options):
    """A client's life, with all that it can change."""
    async with open_windows_machine(MachineOptions(address=options)) as machine:
        await machine.pin_relay("203.0.113.10")
        async with trio.open_nursery() as links:
            device = await links.start(machine.keep, MAC, 1500)
            async with trio.open_nursery() as house:
                setup = machine.address_setup(device)
                setup.gateway_present(True)
                await house.start(setup.run)
                await machine.set_up(device)
                links.start_soon(carry, device, House())
                await seen(
                    windows, lambda: windows.stack.dhcp.bound or (windows.stack.fixed and windows.stack.connected)
                )
                await seen(windows, lambda: 1 in windows.network.networks.values())  # made private
                if options.accept_default_route:
                    await seen(windows, lambda: any(name[1] == "0.0.0.0/1" for name in windows.network.routes))
                await machine.set_mtu(device, 1400)
                house.cancel_scope.cancel()
            links.cancel_scope.cancel()


async def seen(windows, condition):
    while not condition() and not windows.dead:
        with trio.move_on_after(PATIENCE if windows.was_refused else math.inf) as waits:
            await windows.lived.wait()
        if waits.cancelled_caught:
            break
    if windows.dead:
        await trio.sleep_forever()


async def dying(windows, options, at):
    """The same, killed before the ``at``-th change. Gives how many changes there were; None: it was killed."""
    count = itertools.count(1)
    made = 0
    with trio.CancelScope() as scope:

        def die(_function):
            nonlocal made
            made = next(count)
            if made == at:
                windows.kill()
                windows.soon(scope.cancel)

        windows.on_change = die
        try:
            await life(windows, options)
        except* (LanpartyError, DeviceGoneError):
            assert windows.dead
    windows.on_change = lambda function: None
    return None if windows.dead else made


async def refusing(windows, options, at):
    """The same, with the ``at``-th change refused. Gives how many there were, and which one was refused."""
    count = itertools.count(1)
    made, which = 0, None

    def refuse(function):
        nonlocal made, which
        made = next(count)
        windows.refused.clear()
        if made == at:
            windows.was_refused = True
            windows.refused[function] = True
            which = function
            windows.settle()

    windows.on_change = refuse
    try:
        await life(windows, options)
    except* LanpartyError:
        assert which is not None
    windows.on_change = lambda function: None
    windows.refused.clear()
    return made, which


@pytest.mark.parametrize("mode", MODES)
async def test_whatever_is_refused_once_nothing_is_left(mode, tmp_path, monkeypatch):
    """What could not be put back at the end is in the journal, and put back by the next start."""
    for at in itertools.count(1):
        async with windows_in(tmp_path / str(at), monkeypatch) as windows:
            before = windows.state()
            with captured():
                made, which = await refusing(windows, MODES[mode], at)
                if list(windows.directory.glob("*.json")):
                    windows.processes[os.getpid()] += 1  # the next start is another process
                    async with open_windows_machine(MachineOptions()):
                        pass
            assert windows.state() == before, f"refused change {at}, {which}: {windows.log[-5:]}"
            assert not list(windows.directory.glob("*.json"))
        if made < at:
            break
    assert at > 20


@pytest.mark.parametrize("mode", MODES)
async def test_every_crash_is_repaired_by_the_next_start(mode, tmp_path, monkeypatch):
    options = MODES[mode]
    repaired = set()
    for at in itertools.count(1):
        async with windows_in(tmp_path / str(at), monkeypatch) as windows:
            before = windows.state()
            with captured() as entries:
                made = await dying(windows, options, at)
                if made is None:
                    windows.reborn()
                    async with open_windows_machine(MachineOptions()):
                        pass
            assert windows.state() == before, f"killed before change {at}: {windows.log[-5:]}"
            assert not list(windows.directory.glob("*.json"))
            repaired.update(entry["what"] for entry in entries if entry["event"] == "program.repaired")
        if made is not None:
            break
    assert at > 20
    wanted = {"put back the route to 203.0.113.10/32 by Ethernet", "put back the MAC of LanParty"}
    wanted |= {"put back the metric of LanParty (IPv4)", "put back the DNS servers of LanParty"}
    wanted |= {"put back a network's category"}
    if mode == "fixed":
        wanted |= {"put back the DHCP setting of LanParty", "put back the address 192.168.77.50 of LanParty"}
    assert wanted <= repaired
