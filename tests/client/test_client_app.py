"""The whole client on a computer in memory, with a real relay over loopback."""

import pytest
import trio

from lanparty.cli.options import ListenAddress, parse
from lanparty.cli.service import Service
from lanparty.client import app
from lanparty.client.options import build_parser
from lanparty.link.memory import MemorySegment
from lanparty.link.memory_machine import MemoryMachine, open_memory_machine
from lanparty.obs.errors import MachineError
from lanparty.quic.trust import load_dev_certificate
from lanparty.relay.app import serve
from lanparty.relay.options import RelaySettings
from lanparty.relay.rooms import RoomLimits

ONE, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
DEADLINE = 20


def question(mac):
    """An ARP request of this player's, with an address that is its alone."""
    octets = bytes.fromhex(mac.replace(":", ""))
    address = bytes((192, 168, 77, 100 + octets[5]))
    asks = bytes.fromhex("0001080006040001") + octets + address + bytes(6) + bytes((192, 168, 77, 1))
    return b"\xff" * 6 + octets + b"\x08\x06" + asks


class Client:
    """One that runs, and its computer."""

    def __init__(self, mac):
        self.mac = mac
        self.machine = MemoryMachine()
        self.stop = trio.Event()
        self.ended = trio.Event()
        self.cable = MemorySegment()
        self.programs = self.cable.attach("programs", bytes(6))
        self.machine.farewell = lambda: self.machine.device.deliver([question(mac)])

    async def run(self, options):
        await app.amain(options, self.stop, Service())
        self.ended.set()

    async def asked(self, line, count=1):
        with self.machine.watch() as changes:
            while self.machine.asked.count(line) < count:
                await anext(changes)

    async def in_the_room(self):
        await self.asked("gateway_present False", 2)  # before it is up, and when frames flow
        device = self.machine.device
        self.cable.devices.append(device)
        device.segment = self.cable

    async def hears(self):
        await self.programs.wait_readable()
        return self.programs.read_batch()


@pytest.fixture
async def clients(tmp_path, monkeypatch, nursery):
    """Give two clients that are to join a relay, and a function that starts them."""
    certificate = tmp_path / "relay.der"
    identity = load_dev_certificate(certificate, ())
    stop = trio.Event()
    relay = RelaySettings((ListenAddress("127.0.0.1", 0),), RoomLimits(), None, None, (), False, 0)

    async def run(*, task_status):
        await serve(relay, identity, stop, task_status=task_status)

    ((_host, port),) = await nursery.start(run)
    machines = {}
    monkeypatch.setattr(app, "open_machine", lambda options: open_memory_machine(options, machines[options.tap]))

    def options(client):
        machines[f"lp{client.mac[-1]}"] = client.machine
        where = ["--relay", f"127.0.0.1:{port}", "--server-name", "lanparty-relay.local", "--room", "ROOM1"]
        own = ["--virtual-mac", client.mac, "--tap", f"lp{client.mac[-1]}"]
        return parse(build_parser(), [*where, "--relay-ca-cert", str(certificate), *own])

    with trio.fail_after(DEADLINE):
        yield Client(ONE), Client(OTHER), options
    stop.set()


async def test_a_clients_life_in_the_order_that_a_computer_sees_it(clients, nursery):
    one, other, options = clients
    for client in (one, other):
        nursery.start_soon(client.run, options(client))
        await client.in_the_room()
    assert one.machine.asked == [
        "pin_relay 127.0.0.1",
        "keep 1500",
        "gateway_present False",
        "address_setup",
        "set_up",
        "gateway_present False",
    ]
    one.programs.write_batch([question(ONE)])
    assert await other.hears() == [question(ONE)]
    other.programs.write_batch([question(OTHER)])
    assert await one.hears() == [question(OTHER)]
    del one.machine.asked[:]
    one.stop.set()
    await one.ended.wait()
    gone = [line for line in one.machine.asked if line.endswith("released")]
    assert gone == ["address released", "adapter released", "relay released"]
    assert await other.hears() == [question(ONE)]  # the farewell, through the living tunnel
    other.stop.set()
    await other.ended.wait()


@pytest.mark.parametrize("step", ["pin_relay", "keep", "address_setup", "set_up"])
async def test_what_the_computer_refuses_ends_the_program_and_leaves_nothing(clients, step):
    client, _, options = clients
    client.machine.refusals[step] = MachineError("the computer refuses")
    with pytest.raises(ExceptionGroup) as caught:
        await client.run(options(client))
    assert caught.group_contains(MachineError, match="the computer refuses")
    machine = client.machine
    assert (machine.is_there, machine.up, machine.address, machine.pinned) == (False, False, None, None)
