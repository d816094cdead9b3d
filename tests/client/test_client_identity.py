"""The identity file: kept, made once, whole or not at all, never silently replaced, used by one client at a time."""

import errno
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

from lanparty.client.identity import MAX_FILE, decode_identity, encode_identity, hold_identity
from lanparty.obs import files
from lanparty.obs.errors import ExitStatus, UsageError
from lanparty.proto.mac import MacAddress

MAC = MacAddress.parse("02:12:34:56:78:9a")


def test_made_once_and_kept(tmp_path):
    file = tmp_path / "identity.json"
    with hold_identity(file, None) as first:
        assert first.created
        assert first.file == file
    with hold_identity(file, None) as second:
        assert not second.created
        assert second.virtual_mac == first.virtual_mac


def test_the_file_is_private_and_spells_the_mac_as_the_program_does(tmp_path):
    file = tmp_path / "identity.json"
    with hold_identity(file, None, entropy=lambda size: b"\xaa" * size) as identity:
        assert str(identity.virtual_mac) == "aa:aa:aa:aa:aa:aa"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {"version": 1, "virtual_mac": "aa:aa:aa:aa:aa:aa"}
    assert [found.name for found in tmp_path.iterdir()] == ["identity.json"]


def test_a_given_mac_touches_nothing(tmp_path):
    file = tmp_path / "identity.json"
    with hold_identity(file, MAC) as identity:
        assert identity.virtual_mac == MAC
        assert identity.file is None
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
    pytest.param(encode_identity(MAC)[:-6], "JSON", id="cut off"),
    pytest.param(b"[]", "object", id="a list"),
    pytest.param(b"{}", "version", id="no version"),
    pytest.param(b'{"version": "1", "virtual_mac": "02:12:34:56:78:9a"}', "version", id="version as text"),
    pytest.param(b'{"version": true, "virtual_mac": "02:12:34:56:78:9a"}', "version", id="version true"),
    pytest.param(b'{"version": 2, "virtual_mac": "02:12:34:56:78:9a"}', "update", id="newer version"),
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
        decode_identity(tmp_path_factory.getbasetemp() / "i", data).require_virtual()


@given(st.data())
def test_one_changed_byte_never_raises_anything_else(tmp_path_factory, data):
    content = bytearray(encode_identity(MAC))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UsageError):
        decode_identity(tmp_path_factory.getbasetemp() / "i", bytes(content)).require_virtual()


@given(st.binary(min_size=6, max_size=6))
def test_every_generated_identity_is_read_back(tmp_path_factory, entropy):
    mac = MacAddress.generate(entropy)
    assert decode_identity(tmp_path_factory.getbasetemp() / "i", encode_identity(mac)) == mac


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
