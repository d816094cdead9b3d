"""What every `PlayerMachine` does, whatever it is made of: one class of tests, run against each of them.

A subclass gives the fixture ``world``: a computer with one network that leads to ``World.RELAY`` and ``World.OTHER``,
and nowhere with IPv6; the machine is opened on it with the options that a test asks for.
"""

import contextlib
import ipaddress
from typing import Protocol

import pytest
import trio

from lanparty.link.address_options import AddressOptions
from lanparty.link.device import DeviceGoneError
from lanparty.link.machine import MachineOptions
from lanparty.obs.errors import ConnectionFailedError, MachineError

MAC = bytes.fromhex("02a1b2c3d4e5")
STATIC = "192.168.77.50/24"
DEADLINE = 10.0
"""Seconds; a real kernel needs some milliseconds."""


class World(Protocol):
    """The computer that the machine is opened on, as the test sees it from outside."""

    RELAY: str
    OTHER: str
    """IPv4 addresses that its network leads to."""
    NOWHERE: str
    """An IPv6 address that nothing leads to."""

    def open(self, options):
        """An async context manager that gives the machine."""
        ...

    def state(self):
        """Adapters, addresses and routes, comparable: what has to be the same again afterwards."""
        ...

    def mtu(self, device):
        """The adapter's MTU, in bytes, as the system has it."""
        ...

    def is_pinned(self, address):
        """Whether the relay's address has a route of its own."""
        ...


async def until(check):
    """Wait for what a system does a moment later."""
    with trio.fail_after(DEADLINE):
        while not await check():  # noqa: ASYNC110 - there is no event for all of it
            await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def adapter(machine, mtu=1500):
    """An adapter of the machine, inside."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(machine.keep, MAC, mtu)
        nursery.cancel_scope.cancel()


class MachineBehaviour:
    @pytest.fixture
    async def machine(self, world):
        """Opened with a static address; whatever a test did, nothing may be left of it."""
        before = world.state()
        async with world.open(MachineOptions(address=AddressOptions(address=STATIC))) as machine:
            yield machine
        assert world.state() == before

    async def test_in_the_order_of_a_clients_life(self, world, machine):
        has = str(ipaddress.ip_interface(STATIC).ip)
        await machine.pin_relay(world.RELAY)
        assert world.is_pinned(world.RELAY)
        async with adapter(machine) as device:
            assert (device.mac, world.mtu(device), await machine.is_up(device)) == (MAC, 1500, False)
            async with trio.open_nursery() as house:
                setup = machine.address_setup(device)
                setup.gateway_present(False)
                await house.start(setup.run)
                await machine.set_up(device)
                assert await machine.is_up(device)
                setup.gateway_present(True)
                setup.reconnected()

                async def addressed():
                    return has in await machine.addresses()

                await until(addressed)
                assert world.is_pinned(world.RELAY)
                await machine.set_mtu(device, 1280)
                assert world.mtu(device) == 1280
                house.cancel_scope.cancel()
            assert has not in await machine.addresses()
            assert await machine.is_up(device)  # for the farewell's frames
            await machine.set_down(device)
            assert not await machine.is_up(device)
        assert world.is_pinned(world.RELAY)  # until the block ends

    async def test_up_and_down_again_and_again(self, machine):
        async with adapter(machine) as device:
            for _ in range(2):
                await machine.set_up(device)
                await machine.set_up(device)
                assert await machine.is_up(device)
                await machine.set_down(device)
                await machine.set_down(device)
                assert not await machine.is_up(device)

    async def test_at_home_and_away_again_the_address_is_there_again(self, machine):
        has = str(ipaddress.ip_interface(STATIC).ip)

        async def addressed():
            return has in await machine.addresses()

        async with adapter(machine) as device, trio.open_nursery() as house:
            await house.start(machine.address_setup(device).run)
            await machine.set_up(device)
            await until(addressed)
            await machine.set_down(device)
            await machine.set_up(device)
            await until(addressed)
            house.cancel_scope.cancel()

    async def test_one_pin_at_a_time(self, world, machine):
        await machine.pin_relay(world.RELAY)
        before = world.state()
        await machine.pin_relay(world.RELAY)
        assert world.state() == before
        await machine.pin_relay(world.OTHER)
        assert (world.is_pinned(world.RELAY), world.is_pinned(world.OTHER)) == (False, True)

    async def test_a_relay_that_no_route_leads_to_cannot_be_pinned(self, world, machine):
        before = world.state()
        with pytest.raises(ConnectionFailedError):
            await machine.pin_relay(world.NOWHERE)
        assert world.state() == before
        await machine.pin_relay(world.RELAY)
        with pytest.raises(ConnectionFailedError):
            await machine.pin_relay(world.NOWHERE)
        assert not world.is_pinned(world.RELAY)

    async def test_an_adapter_that_was_released_is_gone(self, world, machine):
        async with adapter(machine) as device:
            await machine.set_up(device)
        assert not await machine.is_up(device)
        for asked in (machine.set_up(device), machine.set_down(device), machine.set_mtu(device, 1280)):
            with pytest.raises(MachineError):
                await asked
        with pytest.raises(DeviceGoneError):
            await device.wait_readable()
        device.write_batch([b"\xff" * 60])  # never raises

    async def test_a_second_adapter_after_the_first(self, world, machine):
        async with adapter(machine) as device:
            name = device.name
        async with adapter(machine, 1280) as device:
            assert (device.name, world.mtu(device)) == (name, 1280)

    async def test_the_way_to_the_relay(self, world, machine):
        way = await machine.way(world.RELAY)
        assert way is not None
        assert way.interface is not None
        assert way.source in await machine.addresses()
        assert await machine.way(world.NOWHERE) is None
        await machine.pin_relay(world.RELAY)
        assert await machine.way(world.RELAY) == way

    async def test_a_change_is_told_to_who_watches(self, machine):
        with machine.watch() as changes, machine.watch() as others:
            async with adapter(machine) as device:
                await machine.set_up(device)
                with trio.fail_after(DEADLINE):
                    await anext(changes)
                    await anext(others)

    async def test_an_mtu_that_no_adapter_can_have_is_refused(self, world, machine):
        async with adapter(machine) as device:
            with pytest.raises(MachineError):
                await machine.set_mtu(device, 20)
            assert world.mtu(device) == 1500

    async def test_nothing_is_left_when_the_block_ends_with_a_failure(self, world):
        before = world.state()

        async def live():
            async with world.open(MachineOptions(address=AddressOptions(address=STATIC))) as machine:
                await machine.pin_relay(world.RELAY)
                async with trio.open_nursery() as nursery:
                    device = await nursery.start(machine.keep, MAC, 1500)
                    await nursery.start(machine.address_setup(device).run)
                    await machine.set_up(device)
                    raise MachineError("in the middle of it")

        with pytest.raises((MachineError, ExceptionGroup)) as caught:
            await live()
        assert "in the middle of it" in repr(caught.value)
        assert world.state() == before

    async def test_nothing_is_left_when_all_is_cancelled_at_once(self, world):
        before = world.state()
        with trio.CancelScope() as everything:
            async with world.open(MachineOptions(address=AddressOptions(address=STATIC))) as machine:
                await machine.pin_relay(world.RELAY)
                async with trio.open_nursery() as nursery:
                    device = await nursery.start(machine.keep, MAC, 1500)
                    await nursery.start(machine.address_setup(device).run)
                    await machine.set_up(device)
                    everything.cancel()
        assert world.state() == before
