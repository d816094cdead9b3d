import pytest
import trio
from machine_behaviour import MAC, MachineBehaviour, adapter

from lanparty.link.machine import Way
from lanparty.link.memory_machine import MemoryMachine, open_memory_machine
from lanparty.obs.errors import MachineError


class MemoryWorld:
    RELAY, OTHER, NOWHERE = "203.0.113.10", "203.0.113.11", "2001:db8::1"

    def __init__(self):
        self.machine = MemoryMachine()

    def open(self, options):
        return open_memory_machine(options, self.machine)

    def state(self):
        machine = self.machine
        return machine.is_there, machine.up, machine.address, machine.pinned

    def mtu(self, device):
        return device.mtu

    def is_pinned(self, address):
        return self.machine.pinned == address


class TestMemoryMachine(MachineBehaviour):
    @pytest.fixture
    def world(self):
        return MemoryWorld()


async def test_what_it_was_asked_for_and_what_it_refuses():
    machine = MemoryMachine()
    machine.refusals["set_up"] = MachineError("no")
    async with adapter(machine, 1280) as device:
        with pytest.raises(MachineError, match="no"):
            await machine.set_up(device)
        assert not await machine.is_up(device)
    assert machine.asked == ["keep 1280", "adapter released"]


async def test_a_step_that_takes_its_time(autojump_clock):
    machine = MemoryMachine(delays={"keep": 5})
    with trio.move_on_after(1) as scope:
        async with adapter(machine):
            raise AssertionError("not before 5 s")
    assert scope.cancelled_caught
    assert machine.asked == []
    async with adapter(machine):
        assert trio.current_time() == pytest.approx(6)


async def test_a_second_adapter_is_the_callers_mistake():
    machine = MemoryMachine()
    async with adapter(machine):
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.keep, MAC, 1500)
    assert caught.group_contains(AssertionError)


async def test_moved_to_another_network():
    machine = MemoryMachine()
    wifi = Way("wlan0", "198.51.100.1", "198.51.100.9")
    with machine.watch() as changes:
        machine.move({"198.51.100.0/24": Way("wlan0", None, "198.51.100.9"), "0.0.0.0/0": wifi})
        machine.move(machine.ways)  # a hint that is not taken is not repeated
        await anext(changes)
    assert await machine.way("203.0.113.10") == wifi
    assert (await machine.way("198.51.100.20")).gateway is None
    assert await machine.addresses() == {"198.51.100.9"}
    machine.move({})
    assert await machine.way("203.0.113.10") is None
