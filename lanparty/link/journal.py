"""What a running program has changed on this machine, on disk, so that a crash can be put right.

Owns: the journal files, who wrote them and whether that program still runs, which of them are gone through after a
crash (`undo_left_behind`), and what each kind of change looks like on Linux. Windows has changes and owners of its own
(windows/transaction.py, windows/ownership.py) and shares all the rest.
Must not know: how a change is made (pin.py, dns.py) or undone (repair.py).

The order is always: write the change down, make the change; undo the change, strike it out. A crash at any point leaves
a journal that lists at least what was done. It may list a change that was not made, or was undone already; so whoever
undoes compares with the machine first.

One file for each running program, ``STATE/PID-RANDOM.json``, mode 0600, replaced atomically::

    {"version": 1,
     "owner": {"pid": 4711, "started": 88231, "boot": "9cf0...", "netns": 4026531840},
     "changes": [{"kind": "route", "destination": "203.0.113.10/32", "interface": "eth0", "gateway": "192.0.2.1",
                  "metric": 0},
                 {"kind": "file", "path": "/etc/resolv.conf", "before": {"kind": "symlink", "target": "../run/..."},
                  "after": "<sha256 of what we wrote>"}]}

Nothing else is written down: addresses and routes on a TAP vanish with it, promiscuous mode and packet filters with
their socket, and a veth adapter, which outlives the program, says by itself whose it is (veth.py).
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import attrs

from lanparty.obs.errors import MachineError
from lanparty.obs.files import atomic_write, sweep

__all__ = [
    "Change",
    "ChangeLog",
    "FileContent",
    "FileReplaced",
    "Journal",
    "JournalError",
    "Owner",
    "RouteAdded",
    "decode_change",
    "integer_of",
    "journals",
    "object_of",
    "read_journal",
    "state_directory",
    "string_of",
    "undo_left_behind",
]

VERSION: Final = 1
MAX_SIZE: Final = 1 << 20
"""Bytes of a journal file that are read: far above any resolv.conf; a larger file is not one of ours."""
SUFFIX: Final = ".json"


class JournalError(ValueError):
    """A journal file that cannot be understood; the text says why."""


@attrs.frozen
class RouteAdded:
    """A route in the main table, with lanparty's protocol number."""

    destination: str
    interface: str
    gateway: str | None
    metric: int


@attrs.frozen
class FileContent:
    """What was at a path: nothing (``data`` and ``target`` are None), a symbolic link, or a file."""

    data: bytes | None = None
    mode: int = 0o644
    target: str | None = None


@attrs.frozen
class FileReplaced:
    """A file whose content we replaced."""

    path: str
    before: FileContent
    after: str
    """SHA-256 of our content, in hex: another content is somebody else's, and stays."""


Change = RouteAdded | FileReplaced
C = TypeVar("C")


@attrs.frozen
class Owner:
    """The program that wrote a journal."""

    pid: int
    started: int
    """Start time in clock ticks since boot (field 22 of /proc/PID/stat): process ids are used again, this is not."""
    boot: str
    """/proc/sys/kernel/random/boot_id: after a reboot, routes and interfaces are gone, files are not."""
    netns: int
    """Inode of the network namespace: routes and interfaces of another one are not ours to see."""

    @classmethod
    def current(cls) -> Owner:
        """This process. Raises :class:`MachineError` where there is no /proc."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            netns = Path("/proc/self/ns/net").stat().st_ino
        except OSError as error:
            raise MachineError(f"cannot read /proc ({error.strerror}): is it mounted?") from error
        return cls(os.getpid(), process_started(os.getpid()) or 0, boot, netns)

    def is_alive(self, here: Owner) -> bool:
        """Whether that program still runs, as seen from ``here``."""
        return self.boot == here.boot and process_started(self.pid) == self.started


def process_started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, or ``None`` when it does not run (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and parentheses
    return None if fields[0] in ("Z", "X") else int(fields[19])


def state_directory() -> Path:
    """Where journals are: what the service manager gives (``$RUNTIME_DIRECTORY``), else ``/run/lanparty``, else
    ``$XDG_RUNTIME_DIR/lanparty``, else ``lanparty-UID`` in the temporary directory. Made with mode 0700 where missing.
    On Windows: see windows/ownership.py.

    A directory that is a symbolic link, or belongs to somebody else, is not used: what is in it makes a later run
    change routes. Raises :class:`MachineError` when none can be used.
    """
    if sys.platform == "win32":
        from lanparty.link.windows.ownership import windows_state_directory

        return windows_state_directory()
    else:
        places = [Path("/run/lanparty")]
        if os.environ.get("RUNTIME_DIRECTORY"):
            # The manager's own choice, which for a dynamic user is a link into a directory that only it can write.
            places.insert(0, Path(os.environ["RUNTIME_DIRECTORY"].partition(":")[0]).resolve())
        if os.environ.get("XDG_RUNTIME_DIR"):
            places.append(Path(os.environ["XDG_RUNTIME_DIR"]) / "lanparty")
        places.append(Path(tempfile.gettempdir()) / f"lanparty-{os.getuid()}")
        for place in places:
            if _usable(place):
                return place
        tried = ", ".join(str(place) for place in places)
        raise MachineError(f"cannot keep the list of what this program changes: none of {tried} can be written")


if sys.platform != "win32":

    def _usable(directory: Path) -> bool:
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            found = directory.lstat()
        except OSError:
            return False
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        return private and os.access(directory, os.W_OK | os.X_OK)


class ChangeLog(Generic[C]):
    """The changes of this process. Synchronous: a record is on disk when ``record`` returns.

    ``path`` exists only while there are changes. ``encode_change`` gives what of a change is kept: a JSON object.
    """

    def __init__(self, directory: Path, owner: Owner, encode_change: Callable[[C], Mapping[str, Any]]) -> None:
        self.owner = owner
        self.path = directory / f"{self.owner.pid}-{secrets.token_hex(4)}{SUFFIX}"
        self._encode_change = encode_change
        self._changes: list[C] = []

    @property
    def changes(self) -> tuple[C, ...]:
        """What is recorded now, oldest first."""
        return tuple(self._changes)

    def record(self, change: C) -> None:
        """Write ``change`` down. Call it before making the change.

        Raises :class:`MachineError` when it cannot be written: then do not make the change.
        """
        if change not in self._changes:
            self._write([*self._changes, change])
            self._changes.append(change)

    def forget(self, change: C) -> None:
        """Strike ``change`` out, after it was undone (or was not made). Unknown changes are ignored.

        A failure to write is no failure here: the journal then lists too much, which repair takes for what it is.
        """
        if change not in self._changes:
            return
        self._changes.remove(change)
        try:
            self._write(self._changes)
        except MachineError:
            return

    def _write(self, changes: list[C]) -> None:
        try:
            if changes:
                atomic_write(self.path, _encode(self.owner, [self._encode_change(change) for change in changes]), 0o600)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise MachineError(
                f"cannot write {self.path} ({error.strerror}); it is needed to undo changes after a crash"
            ) from error


class Journal(ChangeLog[Change]):
    """The changes of this process, on Linux."""

    def __init__(self, directory: Path, owner: Owner | None = None) -> None:
        super().__init__(directory, owner or Owner.current(), _encode_change)

    def of_others(self) -> Iterator[tuple[Owner, list[Change]]]:
        """What other running programs have recorded in the same directory. A file that cannot be read is left out."""
        for path in journals(self.path.parent):
            if path == self.path:
                continue
            try:
                owner, changes = read_journal(path)
            except (OSError, JournalError):  # repair tells of it
                continue
            if owner.is_alive(self.owner):
                yield owner, changes


def encode(owner: Owner, changes: list[Change]) -> bytes:
    """The content of a journal file."""
    return _encode(owner, [_encode_change(change) for change in changes])


def _encode(owner: Owner, changes: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps({"version": VERSION, "owner": attrs.asdict(owner), "changes": changes}, indent=1).encode()


def journals(directory: Path) -> list[Path]:
    """The journal files of all programs, dead or alive."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def read_journal(path: Path) -> tuple[Owner, list[Change]]:
    """Read a journal file of any program. Raises :class:`JournalError` (damaged) or ``OSError`` (unreadable)."""
    return _read(path, decode_change)


def _read(path: Path, decode_change: Callable[[Mapping[str, Any]], C]) -> tuple[Owner, list[C]]:
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    return _decode_untrusted(data, decode_change)


def decode_untrusted(data: bytes) -> tuple[Owner, list[Change]]:
    """Parse the content of a journal file. Raises :class:`JournalError`."""
    return _decode_untrusted(data, decode_change)


def _decode_untrusted(data: bytes, decode_change: Callable[[Mapping[str, Any]], C]) -> tuple[Owner, list[C]]:
    if len(data) > MAX_SIZE:
        raise JournalError("it is too large")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise JournalError("it is not JSON") from error
    table = object_of(document)
    if table.get("version") != VERSION:
        raise JournalError("it is of another version")
    owner = object_of(table.get("owner"))
    changes = table.get("changes")
    if not isinstance(changes, list):
        raise JournalError("it has no list of changes")
    return (
        Owner(
            integer_of(owner, "pid"), integer_of(owner, "started"), string_of(owner, "boot"), integer_of(owner, "netns")
        ),
        [decode_change(object_of(change)) for change in changes],
    )


async def undo_left_behind(
    directory: Path,
    *,
    decode_change: Callable[[Mapping[str, Any]], C],
    concerns_us: Callable[[Owner], bool],
    undo: Callable[[C, Owner], Awaitable[str | None]],
) -> list[str]:
    """Go through the journals in ``directory``, and undo what those say that concern us: of dead runs.

    Each change, the latest first, is given to ``undo``, which says what it did, or None; where it raises OSError or
    MachineError, the journal stays. Returns one sentence part for each thing done or found, for the log. Never raises
    for a journal's content.
    """
    done: list[str] = []
    for path in journals(directory):
        try:
            owner, changes = _read(path, decode_change)
        except FileNotFoundError:
            continue  # its program ended just now
        except JournalError as error:
            done.append(_move_aside(path, str(error)))
            continue
        except OSError as error:
            done.append(f"could not read {path}: {error.strerror}")
            continue
        if not concerns_us(owner):
            continue
        finished = True
        for change in reversed(changes):
            try:
                text = await undo(change, owner)
            except (OSError, MachineError) as error:
                finished = False
                text = f"could not undo a change of {path}: {error}"
            if text is not None:
                done.append(text)
        if finished:
            path.unlink(missing_ok=True)
    sweep(directory, f"*{SUFFIX}")
    return done


def _move_aside(path: Path, reason: str) -> str:
    try:
        path.replace(path.with_name(path.name + ".damaged"))
    except OSError as error:
        return f"{path} cannot be understood ({reason}) and not be moved ({error.strerror})"
    return f"{path} cannot be understood ({reason}); moved it aside, so what that run changed may still be there"


def _encode_change(change: Change) -> dict[str, Any]:
    match change:
        case RouteAdded():
            return {"kind": "route", **attrs.asdict(change)}
        case FileReplaced():
            before: dict[str, Any] = {"kind": "absent"}
            if change.before.target is not None:
                before = {"kind": "symlink", "target": change.before.target}
            elif change.before.data is not None:
                data = base64.b64encode(change.before.data).decode()
                before = {"kind": "file", "data": data, "mode": change.before.mode}
            return {"kind": "file", "path": change.path, "before": before, "after": change.after}


def decode_change(table: Mapping[str, Any]) -> Change:
    """Parse one change of a journal. Raises JournalError."""
    match table.get("kind"):
        case "route":
            gateway = None if table.get("gateway") is None else string_of(table, "gateway")
            destination = string_of(table, "destination")
            try:
                ipaddress.ip_network(destination)
                if gateway is not None:
                    ipaddress.ip_address(gateway)
            except ValueError as error:
                raise JournalError("it has a route without an address") from error
            return RouteAdded(destination, string_of(table, "interface"), gateway, integer_of(table, "metric"))
        case "file":
            return FileReplaced(
                string_of(table, "path"), _decode_content(object_of(table.get("before"))), string_of(table, "after")
            )
    raise JournalError("it has a change of an unknown kind")


def _decode_content(table: Mapping[str, Any]) -> FileContent:
    match table.get("kind"):
        case "absent":
            return FileContent()
        case "symlink":
            return FileContent(target=string_of(table, "target"))
        case "file":
            try:
                data = base64.b64decode(table.get("data", 0), validate=True)
            except (TypeError, ValueError) as error:  # not a text, not base64
                raise JournalError("it has a damaged backup") from error
            return FileContent(data=data, mode=integer_of(table, "mode") & 0o777)
    raise JournalError("it has a backup of an unknown kind")


def object_of(value: Any) -> Mapping[str, Any]:
    """Give a part of a journal that has to be an object. Raises JournalError."""
    if not isinstance(value, dict):
        raise JournalError("a part of it is not what it should be")
    return value


def integer_of(table: Mapping[str, Any], key: str) -> int:
    """Give a part of a journal that has to be a number, not negative. Raises JournalError."""
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise JournalError(f"its {key} is not a number")
    return value


def string_of(table: Mapping[str, Any], key: str) -> str:
    """Give a part of a journal that has to be a text, not empty. Raises JournalError."""
    value = table.get(key)
    if not isinstance(value, str) or not value or "\x00" in value:
        raise JournalError(f"its {key} is not a text")
    return value
