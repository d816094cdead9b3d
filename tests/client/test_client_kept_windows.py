"""The identity file as Windows keeps it, with its named kernel objects faked at the DLL's boundary."""

import json
import os

import pytest
from fake_dll import FakeDll

from lanparty.client import identity as module
from lanparty.client import kept_windows
from lanparty.client.identity import hold_identity
from lanparty.client.kept import MAX_FILE
from lanparty.link.windows.winapi.base import wide_text
from lanparty.link.windows.winapi.dll import FakeDlls, fakes
from lanparty.obs.errors import UsageError
from lanparty.proto.mac import MacAddress

OLD = b'{"version": 1, "virtual_mac": "02:12:34:56:78:9a"}\n'
ERROR_ACCESS_DENIED, ERROR_ALREADY_EXISTS, ERROR_NOT_ENOUGH_MEMORY = 5, 183, 8


class Kernel(FakeDlls):
    """Named mutexes, counted by handle, as the object manager does."""

    def __init__(self):
        super().__init__()
        self.names = {}
        self.handles = {}
        self.refuses = 0
        self.dlls = []

    def open(self, name, prototypes):
        assert name == "kernel32.dll"
        self.dlls.append(FakeDll(self, prototypes))
        return self.dlls[-1]

    def CreateMutexW(self, security, owner, name):  # noqa: N802
        if self.refuses:
            self.last_error = self.refuses
            return None
        text = wide_text(name)
        assert len(text) <= 260
        self.last_error = ERROR_ALREADY_EXISTS if self.names.get(text) else 0
        self.names[text] = self.names.get(text, 0) + 1
        handle = 4 * (len(self.handles) + 1)
        self.handles[handle] = text
        return handle

    def CloseHandle(self, handle):  # noqa: N802
        name = self.handles.pop(handle)
        self.names[name] -= 1
        return 1


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(module, "keep_file", kept_windows.keep_file)
    kernel = Kernel()
    with fakes(kernel):
        yield kernel
    assert not [error for dll in kernel.dlls for error in dll.raised]
    assert not any(kernel.names.values())  # no handle is left, whatever happened
    assert all(name.startswith("Global\\lanparty-identity-") for name in kernel.names)


def test_made_once_and_kept(tmp_path, kernel):
    file = tmp_path / "identity.json"
    with hold_identity(file, None) as first:
        assert first.created
    with hold_identity(file, None) as second:
        assert not second.created
        assert (second.virtual_mac, second.key) == (first.virtual_mac, first.key)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("spelling", ["identity.json", "IDENTITY.json", "sub/../identity.json", "link.json"])
def test_a_second_client_with_the_same_file_is_told_so(tmp_path, kernel, spelling):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.json").symlink_to("identity.json")
    with hold_identity(tmp_path / "identity.json", None):
        with pytest.raises(UsageError, match="in use by another client"), hold_identity(tmp_path / spelling, None):
            pass
        with hold_identity(tmp_path / "other.json", None):
            pass
    with hold_identity(tmp_path / "identity.json", None):
        pass


def test_another_users_client_has_it(tmp_path, kernel):
    kernel.refuses = ERROR_ACCESS_DENIED
    with pytest.raises(UsageError, match="in use"), hold_identity(tmp_path / "identity.json", None):
        pass
    kernel.refuses = ERROR_NOT_ENOUGH_MEMORY
    with pytest.raises(UsageError, match="cannot be locked: Windows says error 8"):
        hold_identity(tmp_path / "identity.json", None).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_gets_a_key_and_keeps_its_mac(tmp_path, kernel):
    file = tmp_path / "identity.json"
    file.write_bytes(OLD)
    with hold_identity(file, None) as identity:
        assert (str(identity.virtual_mac), identity.created, identity.not_upgraded) == ("02:12:34:56:78:9a", False, "")
        assert identity.key is not None
        with pytest.raises(UsageError, match="in use"), hold_identity(file, None):
            pass
    assert json.loads(file.read_text())["version"] == 2


def test_where_nothing_can_be_written_the_old_file_serves_without_a_key(tmp_path, kernel, monkeypatch):
    def held_open(path, data, mode):
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    file = tmp_path / "identity.json"
    file.write_bytes(OLD)
    monkeypatch.setattr(kept_windows, "atomic_write", held_open)
    with hold_identity(file, None) as identity:
        assert identity.key is None
        assert "another process" in identity.not_upgraded
    with (
        pytest.raises(UsageError, match="cannot be written: The process"),
        hold_identity(tmp_path / "new.json", None),
    ):
        pass
    assert file.read_bytes() == OLD


@pytest.mark.parametrize("make", ["directory", "fifo", "long", "dangling", "loop", "unreadable"])
def test_what_is_no_file(make, tmp_path, kernel, monkeypatch):
    path = tmp_path / "identity.json"
    {
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "long": lambda: path.write_bytes(bytes(MAX_FILE + 1)),
        "dangling": lambda: path.symlink_to("nowhere"),
        "loop": lambda: path.symlink_to("identity.json"),
        "unreadable": lambda: path.write_bytes(b"\xff"),
    }[make]()
    with pytest.raises(UsageError) as caught, hold_identity(path, None):
        pass
    assert str(path) in str(caught.value)


def test_a_directory_that_is_missing(tmp_path, kernel):
    with pytest.raises(UsageError, match="No such file"), hold_identity(tmp_path / "no" / "identity.json", None):
        pass


def test_a_given_mac_locks_nothing(tmp_path, kernel):
    with hold_identity(tmp_path / "identity.json", MacAddress.parse("02:00:00:00:00:01")):
        assert kernel.names == {}
