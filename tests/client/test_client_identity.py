"""The identity file: kept, made once, whole or not at all, never silently replaced, used by one client at a time."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.client import kept_posix as module
from lanparty.client.identity import decode_identity, encode_identity, hold_identity
from lanparty.client.kept import MAX_FILE
from lanparty.ctrl.proof import Seed
from lanparty.obs import files
from lanparty.obs.errors import ExitStatus, UsageError
from lanparty.proto.mac import MacAddress

MAC = MacAddress.parse("02:12:34:56:78:9a")
KEY = Seed(bytes(range(32)))
KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OLD = b'{"version": 1, "virtual_mac": "02:12:34:56:78:9a"}\n'


def test_made_once_and_kept(tmp_path):
    file = tmp_path / "identity.json"
    with hold_identity(file, None) as first:
        assert first.created
        assert first.file == file
    with hold_identity(file, None) as second:
        assert not second.created
        assert second.virtual_mac == first.virtual_mac
        assert second.key == first.key
        assert second.key is not None


def test_the_file_is_private_and_spells_the_mac_as_the_program_does(tmp_path):
    file = tmp_path / "identity.json"
    with hold_identity(file, None, entropy=lambda size: b"\xaa" * size) as identity:
        assert str(identity.virtual_mac) == "aa:aa:aa:aa:aa:aa"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {
        "version": 2,
        "virtual_mac": "aa:aa:aa:aa:aa:aa",
        "key": "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo=",
    }
    assert [found.name for found in tmp_path.iterdir()] == ["identity.json"]


def test_a_given_mac_touches_nothing(tmp_path):
    file = tmp_path / "identity.json"
    with hold_identity(file, MAC) as identity:
        assert identity.virtual_mac == MAC
        assert identity.file is None
        assert identity.key is None
    assert not file.exists()
    file.write_text("damaged")
    with hold_identity(file, MAC):
        pass
    assert file.read_text() == "damaged"


@pytest.mark.parametrize("text", ["00:12:34:56:78:9a", "03:12:34:56:78:9a", "00:00:00:00:00:00"])
def test_a_given_mac_must_be_virtual(text, tmp_path):
    with pytest.raises(UsageError, match="--virtual-mac"), hold_identity(tmp_path / "i", MacAddress.parse(text)):
        pass


@pytest.mark.parametrize("spelling", ["02-12-34-56-78-9A", "0212.3456.789a", "02123456789a"])
def test_other_spellings_are_read(spelling, tmp_path):
    file = tmp_path / "identity.json"
    file.write_text(json.dumps({"version": 1, "virtual_mac": spelling}))
    with hold_identity(file, None) as identity:
        assert identity.virtual_mac == MAC


DAMAGED = [
    pytest.param(b"", "JSON", id="empty"),
    pytest.param(b"\0" * 60, "JSON", id="zeros, as after a power cut"),
    pytest.param(b"\xff\xfe{}", "JSON", id="not UTF-8"),
    pytest.param(b"[" * 3000, "JSON", id="nested without end"),
    pytest.param(encode_identity(MAC, KEY)[:-6], "JSON", id="cut off"),
    pytest.param(b"[]", "object", id="a list"),
    pytest.param(b"{}", "version", id="no version"),
    pytest.param(b'{"version": "1", "virtual_mac": "02:12:34:56:78:9a"}', "version", id="version as text"),
    pytest.param(b'{"version": true, "virtual_mac": "02:12:34:56:78:9a"}', "version", id="version true"),
    pytest.param(b'{"version": 3, "virtual_mac": "02:12:34:56:78:9a"}', "update", id="newer version"),
    pytest.param(b'{"version": 2, "virtual_mac": "02:12:34:56:78:9a"}', "no key", id="no key"),
    pytest.param(b'{"version": 2, "virtual_mac": "02:12:34:56:78:9a", "key": 5}', "no key", id="key as number"),
    pytest.param(b'{"version": 2, "virtual_mac": "02:12:34:56:78:9a", "key": "AAAA"}', "32 bytes", id="short key"),
    pytest.param(b'{"version": 2, "virtual_mac": "02:12:34:56:78:9a", "key": "A A="}', "32 bytes", id="not base64"),
    pytest.param(
        b'{"version": 1, "virtual_mac": "02:12:34:56:78:9a", "key": "AAAA"}', "unknown keys", id="a key too early"
    ),
    pytest.param(b'{"version": 1}', "virtual_mac", id="no MAC"),
    pytest.param(b'{"version": 1, "virtual_mac": 5}', "virtual_mac", id="MAC as number"),
    pytest.param(b'{"version": 1, "virtual_mac": "02:12:34:56:78"}', "MAC", id="short MAC"),
    pytest.param(b'{"version": 1, "virtual_mac": "00:12:34:56:78:9a"}', "locally", id="MAC of a maker"),
    pytest.param(b'{"version": 1, "virtual_mac": "ff:ff:ff:ff:ff:ff"}', "group", id="broadcast"),
    pytest.param(b'{"version": 1, "virtual_mac": "02:12:34:56:78:9a", "room": 1}', "unknown keys", id="another file"),
    pytest.param(
        b'{"version": 1, "virtual_mac": "02:12:34:56:78:9a", "virtual_mac": "02:12:34:56:78:9b"}',
        "twice",
        id="two MACs",
    ),
    pytest.param(b" " * (MAX_FILE + 1), "longer", id="too long"),
]


@pytest.mark.parametrize(("content", "says"), DAMAGED)
def test_a_damaged_file_is_named_and_left_alone(content, says, tmp_path):
    file = tmp_path / "identity.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught, hold_identity(file, None):
        pass
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == ExitStatus.USAGE
    assert file.read_bytes() == content


@given(st.binary(max_size=200))
def test_any_bytes_are_an_identity_or_a_sentence(tmp_path_factory, data):
    with suppress(UsageError):
        decode_identity(tmp_path_factory.getbasetemp() / "i", data)[0].require_virtual()


@given(st.data())
def test_one_changed_byte_never_raises_anything_else(tmp_path_factory, data):
    content = bytearray(encode_identity(MAC, KEY))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UsageError):
        decode_identity(tmp_path_factory.getbasetemp() / "i", bytes(content))[0].require_virtual()


@given(st.binary(min_size=6, max_size=6), st.binary(min_size=32, max_size=32))
def test_every_generated_identity_is_read_back(tmp_path_factory, entropy, octets):
    mac, key = MacAddress.generate(entropy), Seed(octets)
    assert decode_identity(tmp_path_factory.getbasetemp() / "i", encode_identity(mac, key)) == (mac, key)


def test_the_sentence_about_a_damaged_key_does_not_show_it(tmp_path):
    file = tmp_path / "identity.json"
    file.write_text(json.dumps({"version": 2, "virtual_mac": str(MAC), "key": KEY_TEXT + "A"}))
    with pytest.raises(UsageError) as caught, hold_identity(file, None):
        pass
    assert KEY_TEXT[:8] not in str(caught.value)


# --- files of version 1 ---


def old_file(directory, mode=0o600):
    file = directory / "identity.json"
    file.write_bytes(OLD)
    file.chmod(mode)
    return file


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_an_old_file_gets_a_key_and_keeps_its_mac(tmp_path, mode):
    file = old_file(tmp_path, mode)
    with hold_identity(file, None, entropy=lambda size: bytes(range(size))) as first:
        assert (first.virtual_mac, first.key, first.created, first.not_upgraded) == (MAC, KEY, False, "")
        assert file.read_bytes() == encode_identity(MAC, KEY)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]
    before = file.stat()
    with hold_identity(file, None) as second:
        assert (second.virtual_mac, second.key) == (MAC, KEY)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_upgraded_file_is_as_locked_as_any(tmp_path):
    file = old_file(tmp_path)
    with (
        hold_identity(file, None),
        pytest.raises(UsageError, match="in use by another client"),
        hold_identity(file, None),
    ):
        pass
    with hold_identity(file, None):
        pass


def test_an_old_file_in_use_is_not_upgraded(tmp_path):
    """By a client of the version before, which locks the same way."""
    file = old_file(tmp_path)
    with file.open("rb") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="in use"), hold_identity(file, None):
            pass
    assert file.read_bytes() == OLD


def test_where_nothing_can_be_written_the_old_file_serves_without_a_key(tmp_path, monkeypatch):
    def read_only(path, data, mode):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    file = old_file(tmp_path)
    monkeypatch.setattr(module, "atomic_write", read_only)
    with hold_identity(file, None) as identity:
        assert (identity.virtual_mac, identity.key) == (MAC, None)
        assert "Read-only" in identity.not_upgraded
        monkeypatch.undo()
        with pytest.raises(UsageError, match="in use"), hold_identity(file, None):
            pass
    assert file.read_bytes() == OLD


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target = old_file(tmp_path / "elsewhere")
    link = tmp_path / "identity.json"
    link.symlink_to(target)
    with hold_identity(link, None) as identity:
        assert identity.key is not None
        with pytest.raises(UsageError, match="in use"), hold_identity(target, None):
            pass
    assert link.is_symlink()
    assert json.loads(target.read_text())["version"] == 2


@pytest.mark.parametrize("moment", ["before the new file", "after the new file"])
def test_a_client_that_comes_while_the_file_is_upgraded(tmp_path, monkeypatch, moment):
    """Exactly one of the two runs, whichever it is."""
    file = old_file(tmp_path)
    running = []

    def run(name):
        try:
            with hold_identity(file, None) as identity:
                assert identity.key is not None
                running.append(name)
                if name == "second":
                    held.set()
                    go.wait(10)
        except UsageError as error:
            refused.append(str(error))

    refused = []
    held, go = threading.Event(), threading.Event()
    write = module.atomic_write
    started = []

    def replaced(path, data, mode):
        if moment == "after the new file":
            write(path, data, mode)
        if not started:
            started.append(threading.Thread(target=run, args=("second",)))
            started[0].start()
            started[0].join(0.2) if moment == "before the new file" else held.wait(10)
        if moment == "before the new file":
            write(path, data, mode)

    monkeypatch.setattr(module, "atomic_write", replaced)
    run("first")
    go.set()
    started[0].join()
    assert running == (["first"] if moment == "before the new file" else ["second"])
    assert ["in use" in sentence for sentence in refused] == [True]


def test_a_lock_on_a_file_that_was_replaced_meanwhile_does_not_count(tmp_path, monkeypatch):
    """Opened before the upgrade, locked after it: the file that has the name is opened anew."""
    file = old_file(tmp_path)
    lock = module._lock
    times = []

    def late(path, descriptor):
        times.append(os.fstat(descriptor).st_ino)
        if len(times) == 1:
            files.atomic_write(file, encode_identity(MAC, KEY), 0o600)  # another client: upgraded, and ended
        lock(path, descriptor)

    monkeypatch.setattr(module, "_lock", late)
    with hold_identity(file, None) as identity:
        assert identity.key == KEY
        assert times[-1] == file.stat().st_ino
    assert len(set(times)) == 2


def test_a_file_that_vanishes_while_it_is_locked(tmp_path, monkeypatch):
    file = old_file(tmp_path)
    lock = module._lock

    def removed(path, descriptor):
        lock(path, descriptor)
        file.unlink()

    monkeypatch.setattr(module, "_lock", removed)
    with pytest.raises(UsageError, match="vanished"), hold_identity(file, None):
        pass


def test_killed_at_any_step_of_upgrading_leaves_the_old_file_or_the_new_one(tmp_path):
    endings, versions = set(), set()
    for step in range(1, 40):
        (tmp_path / str(step)).mkdir()
        file = old_file(tmp_path / str(step))
        result = subprocess.run([sys.executable, "-c", KILLED, str(file), str(step)], check=False, capture_output=True)
        assert result.returncode in (0, -signal.SIGKILL), result.stderr.decode()
        endings.add(result.returncode)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        mac, _key = decode_identity(file, file.read_bytes())
        assert mac == MAC
        versions.add(json.loads(file.read_text())["version"])
        with hold_identity(file, None) as identity:  # And the next start works, whatever was left.
            assert identity.virtual_mac == MAC
            assert identity.key is not None
        if result.returncode == 0:
            break
    assert endings == {0, -signal.SIGKILL}
    assert versions == {1, 2}


def test_a_second_client_with_the_same_file_is_told_so(tmp_path):
    file = tmp_path / "identity.json"
    with hold_identity(file, None):
        with pytest.raises(UsageError, match="in use by another client") as caught, hold_identity(file, None):
            pass
        assert str(file) in str(caught.value)
    with hold_identity(file, None):
        pass


def test_two_clients_making_the_same_file_at_once(tmp_path):
    file = tmp_path / "identity.json"

    def meanwhile(size):
        # While the first one makes it, the second one comes.
        with pytest.raises(UsageError, match="makes the same"), hold_identity(file, None):
            pass
        return b"\x02" * size

    with hold_identity(file, None, entropy=meanwhile) as identity:
        assert identity.created


@pytest.mark.parametrize("make", ["directory", "fifo", "dangling"])
def test_what_is_no_file(make, tmp_path):
    path = tmp_path / "identity.json"
    {"directory": path.mkdir, "fifo": lambda: os.mkfifo(path), "dangling": lambda: path.symlink_to("nowhere")}[make]()
    with pytest.raises(UsageError) as caught, hold_identity(path, None):
        pass
    assert str(path) in str(caught.value)


def test_a_directory_that_is_missing(tmp_path):
    with pytest.raises(UsageError, match="cannot be reached"), hold_identity(tmp_path / "no" / "identity.json", None):
        pass


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UsageError, match="No space left") as caught, hold_identity(tmp_path / "identity.json", None):
        pass
    assert "--virtual-mac" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from lanparty.client.identity import hold_identity
step = int(sys.argv[2])
def kill_at(function):
    def wrapped(*arguments, **keywords):
        global step
        step -= 1
        if step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return wrapped
for name in ("open", "fchmod", "fsync", "replace", "rename", "close", "urandom"):
    setattr(os, name, kill_at(getattr(os, name)))
with hold_identity(Path(sys.argv[1]), None, entropy=os.urandom):
    pass
"""


def test_killed_at_any_step_of_saving_leaves_no_file_or_a_whole_one(tmp_path):
    endings = set()
    for step in range(1, 40):
        file = tmp_path / f"identity{step}.json"
        result = subprocess.run([sys.executable, "-c", KILLED, str(file), str(step)], check=False, capture_output=True)
        assert result.returncode in (0, -signal.SIGKILL), result.stderr.decode()
        endings.add(result.returncode)
        if file.exists():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            decode_identity(file, file.read_bytes())
        with hold_identity(file, None):  # And the next start works, whatever was left.
            pass
        if result.returncode == 0:
            break
    assert endings == {0, -signal.SIGKILL}


def test_two_clients_that_start_together_with_different_files_in_one_directory(tmp_path):
    """The lock on the directory is waited for; it is held for the few milliseconds that making a file takes."""
    inside, go = threading.Event(), threading.Event()

    def slow(size):
        inside.set()
        go.wait(10)
        return b"\xaa" * size

    def first():
        with hold_identity(tmp_path / "one.json", None, entropy=slow):
            pass

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    threading.Timer(0.05, go.set).start()
    with hold_identity(tmp_path / "two.json", None) as identity:
        assert identity.created
    thread.join()
