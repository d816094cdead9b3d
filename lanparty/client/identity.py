"""The client's identity file: the virtual MAC that makes this player the same computer at every party, and its key.

Owns: reading, making, upgrading, saving and locking the file. Blocking calls, some milliseconds, before anything else.
Must not know: what MAC and key are used for.

    {"version": 2, "virtual_mac": "02:12:34:56:78:9a", "key": "...44 characters of base64..."}
    {"version": 1, "virtual_mac": "02:12:34:56:78:9a"}

The key is the seed of an Ed25519 key (RFC 8032): who has it can take this player's place over, so it is a secret.

Rules:
  1. A file that is there is used, or refused with a sentence that names it. It is replaced only by rule 5.
  2. A file that is not there is made from the operating system's randomness, whole or not at all, mode 0600.
  3. The file stays locked (flock) while the client runs: two clients with one MAC would take each other's frames.
  4. --virtual-mac reads, writes and locks nothing, and gives no key: nobody could show it again at the next start.
  5. A file of version 1 gets a key and becomes version 2, whole or not at all, with the same MAC, mode 0600. Where that
     cannot be written (a directory that may only be read), the client goes on without a key.

Making the file holds a lock on its directory: of two clients that start at the same moment one makes the file, and the
other finds it made and in use.

Upgrading puts another file in the place of the one that is locked. So a lock counts only when what it locks is still
what the path names (``_open_locked``), and whoever upgrades keeps the old file's lock until it has the new one's. A
client that comes in between finds the old file in use; or it gets the new one first, and then the upgrading one is told
that the file is in use. Either way one of them runs.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from lanparty.ctrl.messages import KEY_SIZE
from lanparty.ctrl.proof import Seed
from lanparty.obs.errors import UsageError
from lanparty.obs.files import atomic_write
from lanparty.proto.mac import MacAddress, MacError

__all__ = ["FILE_VERSION", "MAX_FILE", "Identity", "decode_identity", "encode_identity", "hold_identity"]

FILE_VERSION = 2
_KEYS = {1: {"version", "virtual_mac"}, 2: {"version", "virtual_mac", "key"}}
"""What a file of each version has."""

MAX_FILE = 4096
"""Bytes. Ours has about 110; a larger file is something else, given by mistake."""

_MODE = 0o600
_DIRECTORY_TRIES = 50
_DIRECTORY_PAUSE = 0.01
"""Seconds between tries. Making a file takes some milliseconds; whoever holds the lock for half a second holds it."""


@attrs.frozen
class Identity:
    """Who this client is."""

    virtual_mac: MacAddress
    file: Path | None
    """Where it is kept; None when --virtual-mac gave it for this run."""

    created: bool
    """True when this run made the file."""

    key: Seed | None = None
    """What proves that a later session is this client's; None when there is none to be kept."""

    not_upgraded: str = ""
    """Why a file of version 1 could not get a key; empty when it has one."""


def encode_identity(mac: MacAddress, key: Seed) -> bytes:
    """Give the bytes of an identity file, in the spelling of the MAC that the program prints."""
    content = {"version": FILE_VERSION, "virtual_mac": str(mac), "key": base64.b64encode(key.octets).decode("ascii")}
    return (json.dumps(content) + "\n").encode("ascii")


def decode_identity(path: Path, data: bytes) -> tuple[MacAddress, Seed | None]:
    """Read the bytes of an identity file; no key: it is of version 1. ``path`` is for the sentence.

    Raises UsageError: not JSON, not ours, of a newer version, or with a MAC that no client may have.
    """
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is not a JSON object")
    version = content.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > FILE_VERSION:
        raise UsageError(
            f"The identity file {path} is of version {version}, and this lanparty knows version {FILE_VERSION}: update "
            "lanparty, or give another file with --identity."
        )
    if type(version) is not int or version not in _KEYS:
        raise _damaged(path, f"its version is not {FILE_VERSION}")
    unknown = sorted(str(key) for key in content.keys() - _KEYS[version])
    if unknown:
        raise _damaged(path, f"it has unknown keys ({', '.join(unknown)[:80]})")
    text = content.get("virtual_mac")
    if not isinstance(text, str):
        raise _damaged(path, "it has no virtual_mac")
    try:
        mac = MacAddress.parse(text)
        mac.require_virtual()
    except MacError as error:
        raise _damaged(path, str(error).rstrip(".")) from error
    return mac, _decode_key(path, content.get("key")) if "key" in _KEYS[version] else None


def _decode_key(path: Path, text: object) -> Seed:
    if not isinstance(text, str):
        raise _damaged(path, "it has no key")
    try:
        return Seed(base64.b64decode(text, validate=True))
    except ValueError:  # binascii.Error is one. Not told: the sentence would hold a part of the secret.
        raise _damaged(path, f"its key is not {KEY_SIZE} bytes in base64") from None


@contextmanager
def hold_identity(
    path: Path, virtual_mac: MacAddress | None, *, entropy: Callable[[int], bytes] = os.urandom
) -> Iterator[Identity]:
    """Load or make the identity at ``path``, and keep it locked inside the ``with``.

    ``virtual_mac`` overrides for one run: then no file is touched.
    Raises UsageError: unreadable, damaged, cannot be made, or in use by another client.
    """
    if virtual_mac is not None:
        try:
            virtual_mac.require_virtual()
        except MacError as error:
            raise UsageError(f"--virtual-mac: {error}") from error
        yield Identity(virtual_mac, file=None, created=False)
        return
    created = _make_if_missing(path, entropy)
    descriptor = _open_locked(path)
    try:
        mac, key = decode_identity(path, _read(path, descriptor))
        not_upgraded = ""
        if key is None:
            new = Seed(entropy(KEY_SIZE))
            try:
                # A symbolic link stays one: what it leads to is replaced.
                atomic_write(path.resolve(), encode_identity(mac, new), _MODE)
            except OSError as error:
                not_upgraded = _reason(error)
            else:
                key = new
                old, descriptor = descriptor, _open_locked(path)
                os.close(old)
        yield Identity(mac, file=path, created=created, key=key, not_upgraded=not_upgraded)
    finally:
        os.close(descriptor)  # This also gives up the lock.


def _open_locked(path: Path) -> int:
    """Open the file that ``path`` names, and lock it; a descriptor."""
    while True:
        descriptor = _open(path)
        try:
            _lock(path, descriptor)
            locked, named = os.fstat(descriptor), path.stat()
        except FileNotFoundError as error:
            os.close(descriptor)
            raise UsageError(f"The identity file {path} vanished while the client started: start it again.") from error
        except BaseException:
            os.close(descriptor)
            raise
        if (locked.st_dev, locked.st_ino) == (named.st_dev, named.st_ino):
            return descriptor
        os.close(descriptor)  # Another client has upgraded it in between: the lock is on a file that has no name.


def _make_if_missing(path: Path, entropy: Callable[[int], bytes]) -> bool:
    """Make the file unless it is there; True if we made it."""
    try:
        if _exists(path):
            return False
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            f"The identity file {path} cannot be reached: {_reason(error)}. Check --identity and the "
            "directory's permissions."
        ) from error
    try:
        if not _lock_directory(directory):
            raise UsageError(
                f"Another program holds a lock on {path.parent.absolute()}, perhaps a client that makes the same "
                "identity file now: start again, or give another file with --identity."
            )
        if _exists(path):
            return False
        mac = MacAddress.generate(entropy(6))
        atomic_write(path, encode_identity(mac, Seed(entropy(KEY_SIZE))), _MODE)
    except OSError as error:
        raise UsageError(
            f"The identity file {path} cannot be written: {_reason(error)}. Give another file with --identity, or a "
            "MAC for this run with --virtual-mac."
        ) from error
    finally:
        os.close(directory)
    return True


def _lock_directory(descriptor: int) -> bool:
    """Lock it, waiting a little: two clients that start together may keep different files in one directory."""
    for _ in range(_DIRECTORY_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_DIRECTORY_PAUSE)
        else:
            return True
    return False


def _exists(path: Path) -> bool:
    """True when there is anything at ``path``, a dangling symbolic link included: that is for a person to look at."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _open(path: Path) -> int:
    """Open the file for reading; never waits (a FIFO would)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(
            f"The identity file {path} cannot be read: {_reason(error)}. Check it, or give another file with "
            "--identity."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"The identity file {path} is not a regular file: give another one with --identity.")
    return descriptor


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"The identity file {path} is in use by another client that runs now: end that one, or give this one a "
            "file of its own with --identity."
        ) from error
    except OSError as error:
        raise UsageError(f"The identity file {path} cannot be locked: {_reason(error)}.") from error


def _read(path: Path, descriptor: int) -> bytes:
    try:
        data = os.read(descriptor, MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"The identity file {path} cannot be read: {_reason(error)}.") from error
    if len(data) > MAX_FILE:
        raise _damaged(path, f"it is longer than {MAX_FILE} bytes")
    return data


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse an object with a key twice: which of the two values was meant cannot be known."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key is there twice")
    return content


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _damaged(path: Path, what: str) -> UsageError:
    return UsageError(
        f"The identity file {path} is damaged: {what}. Restore it from a copy; or delete it, and a new virtual MAC "
        "is made (the house then sees a new computer)."
    )
