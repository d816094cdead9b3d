import errno
import os

import attrs
import pytest

from lanparty.link import dns as dns_module
from lanparty.link.dns import DnsSetting, digest, put_back, read_content, replace_file
from lanparty.link.journal import FileContent, FileReplaced, Journal, Owner, read_journal
from lanparty.obs.errors import MachineError

BEFORE = [
    FileContent(),
    FileContent(data=b""),
    FileContent(data=b"nameserver 192.0.2.1\n", mode=0o640),
    FileContent(target="../run/stub-resolv.conf"),
]


def setting(tmp_path, before):
    path = tmp_path / "resolv.conf"
    replace_file(path, before)
    (tmp_path / "state").mkdir(exist_ok=True)
    journal = Journal(tmp_path / "state")
    return DnsSetting("lp0", journal, path=path, resolved=tmp_path / "none"), path, journal


def same_machine(path, owner=None):
    """Another client, with a journal of its own."""
    journal = Journal(path.parent / "state", owner)
    return DnsSetting("lp1", journal, path=path, resolved=path.parent / "none"), journal


@pytest.mark.parametrize("before", BEFORE)
async def test_there_and_back(tmp_path, before):
    dns, path, journal = setting(tmp_path, before)
    assert read_content(path) == before
    await dns.apply(["192.168.77.1", "9.9.9.9"], "house.example")
    assert dns.active
    assert path.read_text().splitlines()[1:] == [
        "search house.example",
        "nameserver 192.168.77.1",
        "nameserver 9.9.9.9",
    ]
    (change,) = read_journal(journal.path)[1]
    assert change.before == before
    await dns.apply(["192.168.77.2"], None)  # the lease has changed: what was before us is still remembered
    assert "search" not in path.read_text()
    assert journal.changes[0].before == before
    assert await dns.restore()
    assert read_content(path) == before
    assert not journal.changes
    assert not await dns.restore()


@pytest.mark.parametrize("before", BEFORE)
async def test_what_somebody_else_wrote_since_stays(tmp_path, before):
    dns, path, journal = setting(tmp_path, before)
    await dns.apply(["192.168.77.1"], None)
    path.unlink()
    path.write_text("nameserver 1.1.1.1\n")
    assert not await dns.restore()
    assert path.read_text() == "nameserver 1.1.1.1\n"
    assert not journal.changes


@pytest.mark.parametrize("damaged", [False, True])
async def test_another_clients_servers_stay_while_it_runs(tmp_path, damaged):
    first, path, _ = setting(tmp_path, BEFORE[2])
    second, journal = same_machine(path)
    if damaged:  # a journal that cannot be read says nothing about the others
        (tmp_path / "state" / "1-ff.json").write_bytes(b"{")
    await first.apply(["192.168.77.1"], None)
    for _ in range(2):
        with pytest.raises(MachineError, match=f"another lanparty client .process {os.getpid()}. has set them"):
            await second.apply(["192.168.88.1"], None)
        assert not second.active
        assert not journal.changes
    await first.apply(["192.168.77.2"], None)  # its own content is no obstacle
    await first.restore()
    assert read_content(path) == BEFORE[2]
    await second.apply(["192.168.88.1"], None)
    await second.restore()
    assert read_content(path) == BEFORE[2]


async def test_a_dead_clients_servers_are_no_obstacle(tmp_path):
    owner = Owner.current()
    dead = attrs.evolve(owner, started=owner.started + 1)
    path = tmp_path / "resolv.conf"
    (tmp_path / "state").mkdir()
    gone, journal = same_machine(path, dead)
    await gone.apply(["192.168.77.1"], None)
    assert journal.changes
    second, _ = same_machine(path)
    await second.apply(["192.168.88.1"], None)
    assert "192.168.88.1" in path.read_text()


async def test_a_file_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    dns, path, journal = setting(tmp_path, BEFORE[2])

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(dns_module, "replace_file", refuse)
    with pytest.raises(MachineError, match="Permission denied"):
        await dns.apply(["192.168.77.1"], None)
    assert not dns.active
    assert not journal.changes
    assert read_content(path) == BEFORE[2]


def test_a_mount_point_is_written_in_place(tmp_path, monkeypatch):
    def busy(*_, **__):
        raise OSError(errno.EBUSY, "Device or resource busy")

    path = tmp_path / "resolv.conf"
    path.write_bytes(b"before")
    monkeypatch.setattr(dns_module, "atomic_write", busy)
    replace_file(path, FileContent(data=b"ours"))
    assert path.read_bytes() == b"ours"
    assert put_back(FileReplaced(str(path), FileContent(data=b"before"), digest(b"ours")))
    assert path.read_bytes() == b"before"


RESOLVECTL = """#!/bin/sh
echo "$@" >> {log}
{then}
"""


def resolved(tmp_path, monkeypatch, then=""):
    """A systemd-resolved that writes down what it is asked."""
    program, log = tmp_path / "resolvectl", tmp_path / "log"
    program.write_text(RESOLVECTL.format(log=log, then=then))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "resolve").mkdir()
    return DnsSetting("lp0", Journal(tmp_path), path=tmp_path / "resolv.conf", resolved=tmp_path / "resolve"), log


async def test_systemd_resolved_is_told_for_the_link(tmp_path, monkeypatch):
    dns, log = resolved(tmp_path, monkeypatch)
    await dns.apply(["192.168.77.1"], "house.example")
    assert await dns.restore()
    assert log.read_text().splitlines() == ["dns lp0 192.168.77.1", "domain lp0 house.example ~.", "revert lp0"]
    assert not (tmp_path / "resolv.conf").exists()


async def test_systemd_resolved_that_refuses(tmp_path, monkeypatch):
    dns, _ = resolved(tmp_path, monkeypatch, then="echo 'Failed: no such link' >&2; exit 1")
    with pytest.raises(MachineError, match="no such link"):
        await dns.apply(["192.168.77.1"], None)
    assert await dns.restore()


async def test_systemd_resolved_that_hangs(tmp_path, monkeypatch):
    dns, _ = resolved(tmp_path, monkeypatch, then="exec sleep 60")
    monkeypatch.setattr(dns_module, "_COMMAND_DEADLINE", 0.2)
    with pytest.raises(MachineError, match="did not answer"):
        await dns.apply(["192.168.77.1"], None)
