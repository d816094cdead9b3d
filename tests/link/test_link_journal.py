"""The journal, and that repair undoes exactly what a killed program had done, wherever it was killed."""

import contextlib
import json
import os
import random
import socket
import tempfile
from pathlib import Path

import attrs
import pytest
import trio
from fake_machine import FakeNetlink, Fate, Killed
from hypothesis import given, settings
from hypothesis import strategies as st

from lanparty.link import dns as dns_module
from lanparty.link import journal as journal_module
from lanparty.link.dns import DnsSetting
from lanparty.link.journal import (
    FileContent,
    FileReplaced,
    Journal,
    JournalError,
    Owner,
    RouteAdded,
    decode_untrusted,
    encode,
    process_started,
    read_journal,
    state_directory,
)
from lanparty.link.kernel_state import RouteInfo
from lanparty.link.pin import RelayPin
from lanparty.link.repair import repair
from lanparty.obs.errors import MachineError

HERE = Owner.current()
DEAD = attrs.evolve(HERE, started=HERE.started + 1)
"""A program that had our process id before us."""
ROUTE = RouteAdded("203.0.113.10/32", "eth0", "192.0.2.1", 0)

texts = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1, max_size=20)
contents = st.one_of(
    st.just(FileContent()),
    texts.map(lambda target: FileContent(target=target)),
    st.builds(lambda data, mode: FileContent(data=data, mode=mode), st.binary(max_size=50), st.integers(0, 0o777)),
)
changes = st.one_of(
    st.builds(
        RouteAdded,
        destination=st.ip_addresses().map(lambda address: f"{address}/{address.max_prefixlen}"),
        interface=texts,
        gateway=st.none() | st.ip_addresses().map(str),
        metric=st.integers(0, 2**32 - 1),
    ),
    st.builds(FileReplaced, path=texts, before=contents, after=texts),
)


# ------------------------------------------------------------------------------------------------------- the file


@given(st.lists(changes, max_size=5))
def test_what_is_written_can_be_read(found):
    assert decode_untrusted(encode(HERE, found)) == (HERE, found)


@given(st.lists(changes, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_damage_is_an_error_of_ours_or_a_journal(found, dice):
    data = bytearray(encode(HERE, found))
    for _ in range(dice.randint(1, 5)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    del data[dice.choice((len(data), dice.randrange(len(data) + 1))) :]
    with contextlib.suppress(JournalError):
        decode_untrusted(bytes(data))


KEYS = ("destination", "interface", "gateway", "metric", "path", "before")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "version": st.just(1) | json_values,
            "owner": st.just(attrs.asdict(HERE)) | json_values,
            "changes": st.lists(
                st.fixed_dictionaries(
                    {"kind": st.sampled_from(["route", "file", "absent", "symlink", 1])},
                    optional=dict.fromkeys(KEYS, json_values),
                )
                | json_values,
                max_size=2,
            ),
        },
    )
)
def test_any_json_is_an_error_of_ours_or_a_journal(document):
    with contextlib.suppress(JournalError):
        decode_untrusted(json.dumps(document).encode())


def test_deep_nesting_and_size_are_bounded():
    for data in (b"[" * 100_000, b" " * (journal_module.MAX_SIZE + 1), b""):
        with pytest.raises(JournalError):
            decode_untrusted(data)


def test_the_file_is_there_while_there_are_changes_and_private(tmp_path):
    journal = Journal(tmp_path)
    assert not journal.path.exists()
    journal.record(ROUTE)
    journal.record(ROUTE)
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert read_journal(journal.path) == (HERE, [ROUTE])
    journal.forget(attrs.evolve(ROUTE, metric=1))
    assert journal.changes == (ROUTE,)
    journal.forget(ROUTE)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_down_must_not_be_done(tmp_path):
    journal = Journal(tmp_path / "missing")
    with pytest.raises(MachineError, match="missing"):
        journal.record(ROUTE)
    assert journal.changes == ()


def test_owner_is_alive_by_process_and_start_time():
    assert HERE.is_alive(HERE)
    assert not DEAD.is_alive(HERE)
    assert not attrs.evolve(HERE, boot="another").is_alive(HERE)
    assert not attrs.evolve(HERE, pid=2**22 + 1).is_alive(HERE)
    assert process_started(2**22 + 1) is None


def test_a_zombie_does_not_run():
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert process_started(child) is None
    finally:
        os.waitpid(child, 0)


def test_state_directory_is_private_and_not_somebody_elses(tmp_path, monkeypatch):
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usable = journal_module._usable
    monkeypatch.setattr(journal_module, "_usable", lambda place: not place.is_relative_to("/run") and usable(place))
    assert state_directory() == runtime / "lanparty"
    assert (runtime / "lanparty").stat().st_mode & 0o777 == 0o700
    (runtime / "lanparty").rmdir()
    (runtime / "lanparty").symlink_to(tmp_path)  # a trap
    fallback = tmp_path / f"lanparty-{os.getuid()}"
    assert state_directory() == fallback
    fallback.chmod(0o777)
    with pytest.raises(MachineError, match="can be written"):
        state_directory()


def test_a_services_state_is_where_its_manager_says(tmp_path, monkeypatch):
    """For a dynamic user that is a link, which nobody else could have made."""
    given, seen = tmp_path / "private", tmp_path / "lanparty-client"
    given.mkdir(mode=0o700)
    seen.symlink_to(given)
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{seen}:/run/another")
    assert state_directory() == given
    given.chmod(0o777)
    assert state_directory() != given


# --------------------------------------------------------------------------------------------------------- repair


def test_what_a_killed_writer_left_goes(tmp_path):
    half = tmp_path / ".4711-0a.json.x7.tmp"
    half.write_bytes(b'{"version"')
    assert in_repair(tmp_path, FakeNetlink([])) == []
    assert not half.exists()


def in_repair(directory, netlink, here=HERE):
    return trio.run(lambda: repair(directory, netlink, here=here))


def ours(change=ROUTE):
    return RouteInfo(change.destination, change.interface, change.gateway, None, change.metric, protocol=108)


def left_behind(directory, *found, owner=DEAD):
    journal = Journal(directory, owner)
    for change in found:
        journal.record(change)
    return journal.path


def test_repair_of_a_dead_run(tmp_path):
    path = left_behind(tmp_path, ROUTE)
    netlink = FakeNetlink([ours()])
    assert in_repair(tmp_path, netlink) == ["removed the route to 203.0.113.10/32 by eth0"]
    assert not netlink.table
    assert not path.exists()


@pytest.mark.parametrize("owner", [HERE, attrs.evolve(DEAD, netns=1)])
def test_live_runs_and_other_namespaces_are_left_alone(tmp_path, owner):
    path = left_behind(tmp_path, ROUTE, owner=owner)
    netlink = FakeNetlink([ours()])
    assert in_repair(tmp_path, netlink) == []
    assert netlink.table == [ours()]
    assert path.exists()


def test_after_a_reboot_only_files_are_put_back(tmp_path):
    resolv = tmp_path / "resolv.conf"
    resolv.write_bytes(b"ours")
    change = FileReplaced(str(resolv), FileContent(data=b"before", mode=0o640), dns_module.digest(b"ours"))
    state = tmp_path / "state"
    state.mkdir()
    left_behind(state, ROUTE, change, owner=attrs.evolve(HERE, boot="before", netns=1))
    netlink = FakeNetlink([ours()])  # somebody's new route that happens to look like ours
    assert in_repair(state, netlink) == [f"put back {resolv}"]
    assert netlink.table == [ours()]
    assert resolv.read_bytes() == b"before"
    assert resolv.stat().st_mode & 0o777 == 0o640
    assert list(state.iterdir()) == []


def test_damaged_journals_are_moved_aside_and_told(tmp_path):
    (tmp_path / "1-ff.json").write_bytes(b'{"version": 1')
    (done,) = in_repair(tmp_path, FakeNetlink([]))
    assert "moved it aside" in done
    assert [path.name for path in tmp_path.iterdir()] == ["1-ff.json.damaged"]
    assert in_repair(tmp_path, FakeNetlink([])) == []


def test_what_cannot_be_undone_now_stays_in_the_journal(tmp_path):
    path = left_behind(tmp_path, ROUTE)

    class Refusing(FakeNetlink):
        async def remove_route(self, *_, **__):
            raise MachineError("permission denied")

    (done,) = in_repair(tmp_path, Refusing([ours()]))
    assert "permission denied" in done
    assert path.exists()


def test_veth_adapters_of_dead_runs_go_those_of_living_ones_stay(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        claim.bind("\0lanparty/veth/987653")
        living = {"lanparty-far987653": "02:00:00:00:00:08", "lanparty-off987653": "02:00:00:00:00:09"}
        netlink = FakeNetlink([], interfaces={**living, "lanparty-far987654": "02:00:00:00:00:07"})
        assert in_repair(tmp_path, netlink) == ["removed the interface lanparty-far987654"]
        assert netlink.interfaces == living


def test_an_adapter_that_cannot_be_removed_is_told_and_the_rest_is_repaired(tmp_path):
    left_behind(tmp_path, ROUTE)

    class Refusing(FakeNetlink):
        async def delete_link(self, name):
            raise MachineError("permission denied")

    netlink = Refusing([ours()], interfaces={"lanparty-far987654": "02:00:00:00:00:07"})
    refused, removed = in_repair(tmp_path, netlink)
    assert "permission denied" in refused
    assert removed == "removed the route to 203.0.113.10/32 by eth0"


@pytest.mark.parametrize(
    "other",
    [
        attrs.evolve(ours(), protocol=4),
        attrs.evolve(ours(), gateway="192.0.2.9"),
        attrs.evolve(ours(), interface="wlan0"),
        attrs.evolve(ours(), metric=5),
    ],
)
def test_a_route_that_is_not_exactly_ours_stays(tmp_path, other):
    left_behind(tmp_path, ROUTE)
    netlink = FakeNetlink([other])
    assert in_repair(tmp_path, netlink) == []
    assert netlink.table == [other]


# ---------------------------------------------------------------------------------- killed at any step, put right


UNDERLAY = [
    RouteInfo("0.0.0.0/0", "eth0", "192.0.2.1", None, 100),
    RouteInfo("192.0.2.0/24", "eth0", None, "192.0.2.7", 100, protocol=2),
    RouteInfo("::/0", "eth0", "fe80::1", None, 1024),
]
NEW_UNDERLAY = [RouteInfo("0.0.0.0/0", "wlan0", "198.51.100.1", None, 600)]
RELAYS = ["203.0.113.10", "192.0.2.50", "2001:db8::10", "127.0.0.1"]
BEFORE = [
    FileContent(),
    FileContent(data=b"nameserver 192.0.2.1\n", mode=0o600),
    FileContent(target="stub/resolv.conf"),
]


UNUSED = 987654
"""Number of a veth adapter that no program on this machine has: whether one does is asked of the real kernel."""


async def a_run(directory, netlink, resolv, relay, other_relay):
    """What a client does to the machine, from start to a clean end."""
    journal = Journal(directory, DEAD)
    pin = RelayPin(netlink, journal, avoid=("lp0",))
    dns = DnsSetting("lp0", journal, path=resolv, resolved=resolv.parent / "no")
    await pin.pin(relay)
    await dns.apply(["192.168.77.1"], "house")
    await netlink.make_link(f"lanparty-far{UNUSED}", "02:00:00:00:00:07")
    await pin.pin(other_relay)  # the relay's name has another address, too
    await dns.apply(["192.168.77.2"], None)
    await dns.restore()
    await netlink.delete_link(f"lanparty-far{UNUSED}")
    await pin.release()


def machine_of(netlink, resolv):
    routes = sorted(netlink.table, key=str)
    return routes, dict(netlink.interfaces), dns_module.read_content(resolv)


def patched(fate):
    """Every write to the disk is a step, too."""
    stack = contextlib.ExitStack()
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    write, replace, unlink = journal_module.atomic_write, dns_module.replace_file, Path.unlink
    patch.setattr(journal_module, "atomic_write", lambda *a, **k: fate.change(lambda: write(*a, **k)))
    patch.setattr(dns_module, "replace_file", lambda *a: fate.change(lambda: replace(*a)))

    def counted_unlink(path, missing_ok=False):
        if path.suffix == ".json":
            return fate.change(lambda: unlink(path, missing_ok))
        return unlink(path, missing_ok)

    patch.setattr(Path, "unlink", counted_unlink)
    return stack


@given(
    relay=st.sampled_from(RELAYS),
    other_relay=st.sampled_from(RELAYS),
    before=st.sampled_from(BEFORE),
    borrowed=st.booleans(),
    foreign=st.sampled_from(["nothing", "route", "resolv.conf", "link"]),
    kill_at=st.integers(0, 80),
    kill_repair_at=st.none() | st.integers(0, 20),
)
@settings(max_examples=500, deadline=None)
def test_killed_at_any_step_and_put_right(relay, other_relay, before, borrowed, foreign, kill_at, kill_repair_at):
    with tempfile.TemporaryDirectory() as place:
        resolv, state = Path(place) / "resolv.conf", Path(place) / "state"
        state.mkdir()
        dns_module.replace_file(resolv, before)
        table = [*UNDERLAY]
        if borrowed:
            table.append(RouteInfo("203.0.113.10/32", "eth0", "192.0.2.1", None, 50, protocol=4))
        netlink = FakeNetlink(table)
        expected = machine_of(netlink, resolv)

        netlink.fate = Fate(kill_at)
        with patched(netlink.fate), contextlib.suppress(Killed):
            trio.run(a_run, state, netlink, resolv, relay, other_relay)

        # Somebody else changes something afterwards; that must stay.
        if foreign == "route":
            added = RouteInfo("203.0.113.10/32", "eth0", "192.0.2.1", None, 7, protocol=3)
            netlink.table.append(added)
            expected[0].append(added)
            expected[0].sort(key=str)
        elif foreign == "resolv.conf":
            resolv.unlink(missing_ok=True)
            resolv.write_bytes(b"nameserver 9.9.9.9\n")
            resolv.chmod(0o644)
            expected = (*expected[:2], dns_module.read_content(resolv))
        elif foreign == "link":
            netlink.interfaces["lanparty-fargo"] = "02:00:00:00:00:99"
            expected = (expected[0], {"lanparty-fargo": "02:00:00:00:00:99"}, expected[2])

        # The repair may be killed as well; the next one finishes.
        netlink.fate = Fate(kill_repair_at)
        with patched(netlink.fate), contextlib.suppress(Killed):
            trio.run(lambda: repair(state, netlink, here=HERE))
        netlink.fate = Fate()
        trio.run(lambda: repair(state, netlink, here=HERE))
        assert machine_of(netlink, resolv) == expected
        assert list(state.iterdir()) == []
        assert trio.run(lambda: repair(state, netlink, here=HERE)) == []


def test_a_run_that_ends_cleanly_leaves_nothing(tmp_path):
    """The script of the property above does end, and the property reaches its last step."""
    dice = random.Random(7)
    for _ in range(20):
        state = tmp_path / "state"
        state.mkdir(exist_ok=True)
        resolv = tmp_path / "resolv.conf"
        dns_module.replace_file(resolv, dice.choice(BEFORE))
        netlink = FakeNetlink([*UNDERLAY], fate=Fate())
        expected = machine_of(netlink, resolv)
        with patched(netlink.fate):
            trio.run(a_run, state, netlink, resolv, dice.choice(RELAYS), dice.choice(RELAYS))
        assert machine_of(netlink, resolv) == expected
        assert netlink.fate.step <= 80
        assert list(state.iterdir()) == []
        resolv.unlink(missing_ok=True)
