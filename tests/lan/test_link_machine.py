"""A Linux computer does what every `PlayerMachine` does: on a real kernel, in a network namespace of its own."""

import ctypes
import os
import re
import subprocess
import time

import pytest
from lan_tools import KINDS
from machine_behaviour import MAC, MachineBehaviour, adapter

from lanparty.link.linux_machine import open_linux_machine
from lanparty.link.machine import MachineOptions
from lanparty.obs.errors import MachineError

pytestmark = pytest.mark.lan

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def shell(command):
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def wait_until(check, seconds=10.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "deadline"
        time.sleep(0.005)


class LinuxWorld:
    RELAY, OTHER, NOWHERE = "203.0.113.10", "203.0.113.11", "2001:db8::1"

    def __init__(self, journals):
        self.journals = journals

    def open(self, options):
        return open_linux_machine(options)

    def state(self):
        """Links, addresses and routes, without counters and lifetimes; journals."""
        commands = ("ip -o addr", "ip route show table all", "ip -6 route show table all", "ip -o link")
        text = "".join(shell(command) for command in commands)
        text = re.sub(r"(valid|preferred)_lft \S+|expires \S+", "", text)
        return sorted(text.splitlines()), sorted(path.name for path in self.journals.iterdir())

    def mtu(self, device):
        return int(re.search(r" mtu (\d+)", shell(f"ip -o link show dev {device.name}")).group(1))

    def is_pinned(self, address):
        return bool(shell(f"ip route show exact {address}/32 table main"))


@pytest.fixture
def world(tmp_path, monkeypatch):
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    if LIBC.unshare(CLONE_NEWNET):
        os.close(before)
        pytest.skip("no permission for namespaces: run as root or in 'unshare --user --map-root-user'")
    try:
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
        shell("ip link set lo up")
        shell("ip link add wan0 type veth peer name internet0")
        for name in ("wan0", "internet0"):
            shell(f"ip link set {name} addrgenmode none; ip link set {name} up")
        shell("ip addr add 10.99.0.11/24 dev wan0; ip route add default via 10.99.0.1 dev wan0")
        wait_until(lambda: shell("ip -o link").count("state UP") == 2)
        yield LinuxWorld(tmp_path)
    finally:
        assert LIBC.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.mark.parametrize("kind", KINDS)
class TestLinuxMachine(MachineBehaviour):
    @pytest.fixture
    def world(self, world, kind, monkeypatch):
        monkeypatch.setattr(
            world, "open", lambda options: open_linux_machine(MachineOptions(None, kind, options.address))
        )
        return world


async def test_a_name_that_is_taken_is_refused_before_anything_else(world):
    with pytest.raises(ExceptionGroup) as caught:
        async with world.open(MachineOptions(tap="wan0")):
            raise AssertionError("refused before")
    assert caught.group_contains(MachineError, match="wan0 already")


async def test_an_adapter_has_the_name_that_was_asked_for(world):
    async with world.open(MachineOptions(tap="party%d")) as machine, adapter(machine) as device:
        assert (device.name, device.mac) == ("party0", MAC)
