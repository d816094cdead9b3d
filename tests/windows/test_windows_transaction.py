"""The transaction: whatever is refused, vanishes, is changed by somebody else, or kills the program, at any step.

After undo or repair the machine is as it was, but for what others changed.
"""

import contextlib
import json
import tempfile
from pathlib import Path

import attrs
import pytest
import trio
from fake_iphelper import FakeNetwork, FakeRoute, IpSettings, on_windows
from fake_machine import Fate, Killed
from hypothesis import given, settings
from hypothesis import strategies as st
from windows_tables import ETHERNET, NETWORK, TAP, TableMachine, snapshots

from lanparty.link import journal as journal_module
from lanparty.link.journal import JournalError, Owner
from lanparty.link.windows.network import NetworkApi
from lanparty.link.windows.plan import (
    AUTOMATIC,
    AddressKey,
    CategoryKey,
    DhcpKey,
    DnsKey,
    InterfaceKey,
    MacKey,
    RouteKey,
    Snapshot,
    Step,
    Wish,
    default_halves,
    host_route,
    plan,
)
from lanparty.link.windows.transaction import Transaction, VanishedError, decode_step, encode_step, repair
from lanparty.obs.errors import MachineError

HERE = Owner(4711, 1000, "0x1", 0)
DEAD = Owner(4712, 999, "0x1", 0)
RELAY = "203.0.113.10"
ROUTER = "192.168.77.1"
PIN = host_route(ETHERNET, RELAY, "192.0.2.1")
PRIVATE = Step(CategoryKey(NETWORK), 0, 1)
METRIC = InterfaceKey(TAP, 4, "metric")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where fsync costs nothing."""
STEPS = 90
"""More than the changes and journal writes of a whole run, its undo and the repair."""

FOREIGN = [
    (InterfaceKey(TAP, 4, "metric"), 77),
    (InterfaceKey(TAP, 6, "metric"), AUTOMATIC),
    (InterfaceKey(TAP, 4, "default-routes"), 0),
    (InterfaceKey(TAP, 6, "router-discovery"), 2),
    (InterfaceKey(TAP, 4, "mtu"), 1333),
    (DnsKey(TAP), "8.8.8.8"),
    (CategoryKey(NETWORK), 0),
    (CategoryKey(NETWORK), 2),
    (PIN.key, 999),
    (PIN.key, None),
    (RouteKey(TAP, "0.0.0.0/1", ROUTER), 999),
    (RouteKey(TAP, "128.0.0.0/1", ROUTER), None),
]
"""What somebody else sets: never what we set, because nobody could tell that from ours."""


def alive(owner, here):
    return owner == here


def in_repair(directory, machine, here=HERE):
    return trio.run(lambda: repair(directory, machine, here, is_alive=alive))


async def a_run(machine, directory):
    """All that a client does to a machine, from start to a clean end; it goes on where something is refused."""
    transaction = Transaction(machine, directory, DEAD)

    async def apply(steps):
        with contextlib.suppress(MachineError):
            await transaction.apply(steps)

    await apply(plan(await machine.snapshot(), Wish(TAP, 1500)))
    await apply([PIN])
    await apply([PRIVATE])
    await apply(default_halves(await machine.snapshot(), TAP, ROUTER))
    await apply(plan(await machine.snapshot(), Wish(TAP, 1300)))
    await transaction.undo(lambda key: isinstance(key, RouteKey) and key.interface == TAP)
    await transaction.undo()


class UnderTest:
    """A machine under test: faults come right before a step is carried out, and what others did is written down."""

    def __init__(self, machine, fate, faults):
        self.machine = machine
        self.fate = fate
        self.faults = dict(faults)
        self.count = 0
        self.expected = machine.state()

    async def snapshot(self):
        self.fate.change(lambda: None)
        return await self.machine.snapshot()

    def name(self, step):
        return self.machine.name(step)

    async def change(self, step):
        self.fate.change(lambda: None)
        self.count += 1
        match self.faults.pop(self.count, None):
            case "refused":
                raise MachineError("cannot do that: Windows refuses")
            case "vanished":
                self.by_others(lambda: self.machine.remove(TAP))
            case key, value:
                self.by_others(lambda: self.machine.others(key, value))
        await self.machine.change(step)
        self.fate.change(lambda: None)

    def by_others(self, do):
        before = self.machine.state()
        do()
        after = self.machine.state()
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key):
                if key in after:
                    self.expected[key] = after[key]
                else:
                    self.expected.pop(key, None)


@contextlib.contextmanager
def journal_steps(fate, full_at):
    """Every write of the journal is a step of ``fate``; the disk is full at the writes ``full_at``."""
    count = 0
    with pytest.MonkeyPatch.context() as patch:
        write, unlink = journal_module.atomic_write, Path.unlink

        def atomic_write(*arguments):
            nonlocal count
            count += 1
            if count in full_at:
                raise OSError(28, "No space left on device")
            return fate.change(lambda: write(*arguments))

        def counted_unlink(path, missing_ok=False):
            if path.suffix == ".json":
                return fate.change(lambda: unlink(path, missing_ok))
            return unlink(path, missing_ok)

        patch.setattr(journal_module, "atomic_write", atomic_write)
        patch.setattr(Path, "unlink", counted_unlink)
        yield


def prove(machine, faults, kill_at, kill_repair_at, full_at):
    """Run, be killed, repair, be killed, repair; then nothing is left but what others did."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        state = Path(place)
        tested = UnderTest(machine, Fate(kill_at), faults)
        with journal_steps(tested.fate, full_at), contextlib.suppress(Killed):
            trio.run(a_run, tested, state)
        tested.fate = Fate(kill_repair_at)
        with journal_steps(tested.fate, ()), contextlib.suppress(Killed):
            in_repair(state, tested)
        tested.fate, tested.faults = Fate(), {}
        in_repair(state, tested)
        assert machine.state() == tested.expected
        assert list(state.iterdir()) == []
        assert in_repair(state, machine) == []
        return tested.count


faults = st.dictionaries(
    st.integers(1, 60), st.sampled_from(["refused", "refused", "vanished", *FOREIGN, *FOREIGN]), max_size=4
)
kills = st.none() | st.integers(0, 2 * STEPS)


@given(
    snapshot=snapshots(),
    faults=faults,
    kill_at=kills,
    kill_repair_at=st.none() | st.integers(0, 40),
    full_at=st.sets(st.integers(1, 30), max_size=2),
)
@settings(max_examples=600, deadline=None, derandomize=True)
def test_whatever_happens_the_machine_is_as_it_was_but_for_others(snapshot, faults, kill_at, kill_repair_at, full_at):
    prove(TableMachine(snapshot), faults, kill_at, kill_repair_at, full_at)


class WindowsMachine(NetworkApi):
    """A fake Windows behind the real calls."""

    def __init__(self, network):
        super().__init__(TAP)
        self.network = network

    def state(self):
        return self.network.state()

    def remove(self, guid):
        if guid in self.network.interfaces:
            self.network.remove(guid)

    def others(self, key, value):
        interface = self.network.interfaces.get(getattr(key, "interface", None))
        match key:
            case RouteKey() if interface is not None:
                name = (key.interface, key.destination, key.gateway)
                self.network.routes.pop(name, None)
                if value is not None:
                    self.network.routes[name] = FakeRoute(value)
            case InterfaceKey() if interface is not None and key.family in interface.families:
                names = {"default-routes": "default_routes_off", "router-discovery": "router_discovery"}
                family = interface.families[key.family]
                setattr(family, names.get(key.setting, key.setting), bool(value) if value in (0, 1) else value)
            case DnsKey() if interface is not None:
                interface.dns = value
            case CategoryKey():
                self.network.networks[NETWORK] = value


def windows_network(metric, dns, six, mtu):
    network = FakeNetwork.usual()
    network.networks[NETWORK] = 0
    network.connections.append((TAP, NETWORK))
    tap = network.interfaces[TAP]
    tap.dns = dns
    tap.families = {family: IpSettings(metric=metric, mtu=mtu) for family in ((4, 6) if six else (4,))}
    return network


@given(
    network=st.builds(
        windows_network,
        st.sampled_from([AUTOMATIC, 1, 25]),
        st.sampled_from(["", "9.9.9.9"]),
        st.booleans(),
        st.sampled_from([1400, 1500]),
    ),
    faults=faults,
    kill_at=kills,
    kill_repair_at=st.none() | st.integers(0, 40),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_same_through_the_real_calls(network, faults, kill_at, kill_repair_at):
    with on_windows(network):
        prove(WindowsMachine(network), faults, kill_at, kill_repair_at, ())


def test_the_run_of_the_property_ends_and_does_all_it_says():
    network = windows_network(AUTOMATIC, "", True, 1400)
    with on_windows(network):
        count = prove(WindowsMachine(network), {}, None, None, ())
    assert 20 < count < 60


# ------------------------------------------------------------------------------------------------- single stories


def machine_of():
    values = {METRIC: 25, InterfaceKey(ETHERNET, 4, "metric"): 25, InterfaceKey(TAP, 4, "mtu"): 1400}
    return TableMachine(Snapshot(values))


async def test_all_or_none(tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path, HERE)
    before = machine.state()

    def refuse(step):
        if step.key == PIN.key:
            raise MachineError("cannot make the route")

    machine.before = refuse
    with pytest.raises(MachineError, match="cannot make the route"):
        await transaction.apply([Step(METRIC, 25, 1), PIN])
    assert machine.state() == before
    assert transaction.steps == ()
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_apply_leaves_nothing(tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path, HERE)
    before = machine.state()
    with trio.CancelScope() as scope:

        class Slow:
            async def change(self, step):
                if step.key == PIN.key:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                await machine.change(step)

            name, snapshot = machine.name, machine.snapshot

        transaction = Transaction(Slow(), tmp_path, HERE)
        await transaction.apply([Step(METRIC, 25, 1), PIN])
    assert scope.cancelled_caught
    assert machine.state() == before
    assert list(tmp_path.iterdir()) == []


async def test_undo_is_not_prevented_by_cancellation_and_goes_backwards(tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path, HERE)
    before, order = machine.state(), []
    await transaction.apply([Step(METRIC, 25, 1), PIN])
    machine.before = lambda step: order.append(step.key)
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await transaction.undo() == []
    assert order == [PIN.key, METRIC]
    assert machine.state() == before


async def test_undo_has_a_deadline(tmp_path, autojump_clock):
    class Stuck(TableMachine):
        async def change(self, step):
            if step.after is None:
                await trio.sleep_forever()
            await super().change(step)

    transaction = Transaction(Stuck(Snapshot({InterfaceKey(ETHERNET, 4, "metric"): 25})), tmp_path, HERE)
    await transaction.apply([PIN])
    with trio.fail_after(30):
        assert await transaction.undo() == ["Windows takes too long"]
    assert transaction.steps == (PIN,)


@pytest.mark.parametrize("theirs", [40, None])
async def test_what_somebody_else_has_now_stays_and_is_struck_out(theirs, tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path, HERE)
    await transaction.apply([Step(METRIC, 25, 1), PIN])
    machine.others(METRIC, theirs)
    assert await transaction.undo() == []
    assert machine.values.get(METRIC) == theirs
    assert PIN.key not in machine.values
    assert list(tmp_path.iterdir()) == []


async def test_what_was_wished_already_is_borrowed(tmp_path):
    machine = machine_of()
    machine.values[PIN.key] = 5
    transaction = Transaction(machine, tmp_path, HERE)
    machine.values[METRIC] = 1  # since the plan was made
    await transaction.apply([Step(METRIC, 25, 1), PIN])
    assert transaction.steps == ()
    await transaction.undo()
    assert (machine.values[METRIC], machine.values[PIN.key]) == (1, 5)


async def test_another_value_than_in_the_plan_is_what_is_put_back(tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path, HERE)
    machine.values[METRIC] = 40
    await transaction.apply([Step(METRIC, 25, 1)])
    assert transaction.steps == (Step(METRIC, 40, 1),)
    await transaction.undo()
    assert machine.values[METRIC] == 40


async def test_a_second_value_is_one_step_with_the_first_and_rolls_back_to_it(tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path, HERE)
    await transaction.apply([Step(METRIC, 25, 1)])
    await transaction.apply([Step(METRIC, 1, 2)])
    assert transaction.steps == (Step(METRIC, 25, 2),)

    def refuse(step):
        if step.key == PIN.key:
            raise MachineError("no")

    machine.before = refuse
    with pytest.raises(MachineError, match="no"):
        await transaction.apply([Step(METRIC, 2, 3), PIN])
    assert machine.values[METRIC] == 2
    assert transaction.steps == (Step(METRIC, 25, 2),)
    await transaction.apply([Step(METRIC, 2, 25)])
    assert transaction.steps == ()
    assert machine.values[METRIC] == 25


async def test_who_changes_it_all_the_time_ends_the_try(tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path, HERE)

    def fight(step):
        machine.values[METRIC] += 1

    machine.before = fight
    with pytest.raises(MachineError, match="another program changes"):
        await transaction.apply([Step(METRIC, 25, 1)])
    assert transaction.steps == ()


async def test_an_interface_that_has_gone_is_told(tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path, HERE)
    machine.remove(TAP)
    with pytest.raises(VanishedError, match="not there"):
        await transaction.apply([Step(METRIC, 25, 1)])
    assert transaction.steps == ()


async def test_without_a_journal_nothing_is_changed(tmp_path):
    machine = machine_of()
    transaction = Transaction(machine, tmp_path / "missing", HERE)
    before = machine.state()
    with pytest.raises(MachineError, match="needed to undo"):
        await transaction.apply([Step(METRIC, 25, 1)])
    assert machine.state() == before


# --------------------------------------------------------------------------------------------------------- repair


def left_behind(directory, machine, steps, owner=DEAD):
    trio.run(Transaction(machine, directory, owner).apply, steps)


@pytest.mark.parametrize("kept", [True, False])
def test_after_a_reboot_a_route_is_somebody_elses_and_settings_are_put_back_if_they_were_kept(tmp_path, kept):
    machine, address = machine_of(), Step(AddressKey(TAP, "192.168.77.5"), None, 24)
    left_behind(tmp_path, machine, [Step(METRIC, 25, 1), PIN, address], attrs.evolve(DEAD, boot="0x0"))
    if not kept:
        machine.values[METRIC] = 25
    done = in_repair(tmp_path, machine)
    assert machine.values[METRIC] == 25
    assert machine.values[PIN.key] == 0
    assert machine.values[address.key] == 24
    assert len(done) == kept
    assert list(tmp_path.iterdir()) == []


def test_a_living_program_is_left_alone(tmp_path):
    machine = machine_of()
    left_behind(tmp_path, machine, [PIN], HERE)
    assert in_repair(tmp_path, machine) == []
    assert machine.values[PIN.key] == 0


def test_what_cannot_be_undone_now_stays_for_the_next_start(tmp_path):
    machine = machine_of()
    left_behind(tmp_path, machine, [Step(METRIC, 25, 1), PIN])

    def refuse(step):
        if step.key == PIN.key:
            raise MachineError("access denied")

    machine.before = refuse
    first, second = in_repair(tmp_path, machine)
    assert "access denied" in first
    assert "put back" in second
    machine.before = lambda step: None
    assert len(in_repair(tmp_path, machine)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_journal_is_moved_aside_and_told(tmp_path):
    (tmp_path / "1-ff.json").write_bytes(b'{"version": 1')
    (told,) = in_repair(tmp_path, machine_of())
    assert "moved it aside" in told
    assert [path.name for path in tmp_path.iterdir()] == ["1-ff.json.damaged"]


# ------------------------------------------------------------------------------------------------- in the journal

numbers = st.integers(0, 2**32 - 1)
interface_names = st.sampled_from([TAP, ETHERNET, "{ß}"])
written = st.one_of(
    st.builds(
        lambda guid, address, metric, make: Step(
            RouteKey(guid, f"{address}/{address.max_prefixlen}", None),
            *((None, metric) if make else (metric, None)),
        ),
        interface_names,
        st.ip_addresses(),
        numbers,
        st.booleans(),
    ),
    st.builds(
        Step,
        st.builds(
            InterfaceKey,
            interface_names,
            st.sampled_from([4, 6]),
            st.sampled_from(["metric", "default-routes", "router-discovery", "mtu"]),
        ),
        numbers | st.just(AUTOMATIC),
        numbers | st.just(AUTOMATIC),
    ),
    st.builds(
        Step,
        st.builds(DnsKey, interface_names),
        st.sampled_from(["", "192.0.2.1", "192.0.2.1,1.1.1.1"]),
        st.just("192.0.2.2"),
    ),
    st.builds(Step, st.builds(CategoryKey, interface_names), st.integers(0, 2), st.integers(0, 2)),
    st.builds(Step, st.builds(DhcpKey, interface_names), st.just(1), st.just(0)),
    st.builds(Step, st.builds(AddressKey, interface_names, st.just("192.168.77.50")), st.none(), st.integers(8, 30)),
    st.builds(Step, st.builds(MacKey, interface_names), st.just(""), st.just("020000000001")),
)


@given(written)
def test_what_is_written_can_be_read(step):
    assert decode_step(json.loads(json.dumps(encode_step(step)))) == step


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(written, st.sampled_from(["kind", "interface", "destination", "family", "before", "after"]), json_values)
def test_damage_is_an_error_of_ours_or_a_step(step, key, value):
    with contextlib.suppress(JournalError):
        decode_step({**encode_step(step), key: value})
