"""What a running program has changed on this machine, on disk, so that a crash can be put right.

Owns: the journal files, who wrote them and whether that program still runs, and what each kind of change looks like.
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
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from lanparty.obs.errors import MachineError
from lanparty.obs.files import atomic_write

__all__ = [
    "Change",
    "FileContent",
    "FileReplaced",
    "Journal",
    "JournalError",
    "Owner",
    "RouteAdded",
    "journals",
    "read_journal",
    "state_directory",
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

    A directory that is a symbolic link, or belongs to somebody else, is not used: what is in it makes a later run
    change routes. Raises :class:`MachineError` when none can be used.
    """
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


def _usable(directory: Path) -> bool:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError:
        return False
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return private and os.access(directory, os.W_OK | os.X_OK)


class Journal:
    """The changes of this process. Synchronous: a record is on disk when ``record`` returns.

    ``path`` exists only while there are changes.
    """

    def __init__(self, directory: Path, owner: Owner | None = None) -> None:
        self.owner = owner or Owner.current()
        self.path = directory / f"{self.owner.pid}-{secrets.token_hex(4)}{SUFFIX}"
        self._changes: list[Change] = []

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is recorded now, oldest first."""
        return tuple(self._changes)

    def record(self, change: Change) -> None:
        """Write ``change`` down. Call it before making the change.

        Raises :class:`MachineError` when it cannot be written: then do not make the change.
        """
        if change not in self._changes:
            self._write([*self._changes, change])
            self._changes.append(change)

    def forget(self, change: Change) -> None:
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

    def _write(self, changes: list[Change]) -> None:
        try:
            if changes:
                atomic_write(self.path, encode(self.owner, changes), mode=0o600)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise MachineError(
                f"cannot write {self.path} ({error.strerror}); it is needed to undo changes after a crash"
            ) from error


def encode(owner: Owner, changes: list[Change]) -> bytes:
    """The content of a journal file."""
    document = {
        "version": VERSION,
        "owner": attrs.asdict(owner),
        "changes": [_encode_change(change) for change in changes],
    }
    return json.dumps(document, indent=1).encode()


def journals(directory: Path) -> list[Path]:
    """The journal files of all programs, dead or alive."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def read_journal(path: Path) -> tuple[Owner, list[Change]]:
    """Read a journal file of any program. Raises :class:`JournalError` (damaged) or ``OSError`` (unreadable)."""
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    return decode_untrusted(data)


def decode_untrusted(data: bytes) -> tuple[Owner, list[Change]]:
    """Parse the content of a journal file. Raises :class:`JournalError`."""
    if len(data) > MAX_SIZE:
        raise JournalError("it is too large")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise JournalError("it is not JSON") from error
    table = _object(document)
    if table.get("version") != VERSION:
        raise JournalError("it is of another version")
    owner = _object(table.get("owner"))
    changes = table.get("changes")
    if not isinstance(changes, list):
        raise JournalError("it has no list of changes")
    return (
        Owner(_integer(owner, "pid"), _integer(owner, "started"), _string(owner, "boot"), _integer(owner, "netns")),
        [_decode_change(_object(change)) for change in changes],
    )


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


def _decode_change(table: Mapping[str, Any]) -> Change:
    match table.get("kind"):
        case "route":
            gateway = None if table.get("gateway") is None else _string(table, "gateway")
            destination = _string(table, "destination")
            try:
                ipaddress.ip_network(destination)
                if gateway is not None:
                    ipaddress.ip_address(gateway)
            except ValueError as error:
                raise JournalError("it has a route without an address") from error
            return RouteAdded(destination, _string(table, "interface"), gateway, _integer(table, "metric"))
        case "file":
            return FileReplaced(
                _string(table, "path"), _decode_content(_object(table.get("before"))), _string(table, "after")
            )
    raise JournalError("it has a change of an unknown kind")


def _decode_content(table: Mapping[str, Any]) -> FileContent:
    match table.get("kind"):
        case "absent":
            return FileContent()
        case "symlink":
            return FileContent(target=_string(table, "target"))
        case "file":
            try:
                data = base64.b64decode(table.get("data", 0), validate=True)
            except (TypeError, ValueError) as error:  # not a text, not base64
                raise JournalError("it has a damaged backup") from error
            return FileContent(data=data, mode=_integer(table, "mode") & 0o777)
    raise JournalError("it has a backup of an unknown kind")


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise JournalError("a part of it is not what it should be")
    return value


def _integer(table: Mapping[str, Any], key: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise JournalError(f"its {key} is not a number")
    return value


def _string(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value or "\x00" in value:
        raise JournalError(f"its {key} is not a text")
    return value
