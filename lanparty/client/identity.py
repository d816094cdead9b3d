"""The client's identity file: the virtual MAC that makes this player the same computer at every party, and its key.

Owns: what is in the file, and when it is made or upgraded. Blocking calls, some milliseconds, before anything else.
Must not know: what MAC and key are used for; how a system locks and replaces a file (kept.py).

    {"version": 2, "virtual_mac": "02:12:34:56:78:9a", "key": "...44 characters of base64..."}
    {"version": 1, "virtual_mac": "02:12:34:56:78:9a"}

The key is the seed of an Ed25519 key (RFC 8032): who has it can take this player's place over, so it is a secret.

Rules:
  1. A file that is there is used, or refused with a sentence that names it. It is replaced only by rule 5.
  2. A file that is not there is made from the operating system's randomness, whole or not at all, mode 0600.
  3. The file stays locked while the client runs: two clients with one MAC would take each other's frames.
  4. --virtual-mac reads, writes and locks nothing, and gives no key: nobody could show it again at the next start.
  5. A file of version 1 gets a key and becomes version 2, whole or not at all, with the same MAC, mode 0600. Where that
     cannot be written (a directory that may only be read), the client goes on without a key.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from lanparty.client.kept import damaged, reason
from lanparty.ctrl.messages import KEY_SIZE
from lanparty.ctrl.proof import Seed
from lanparty.obs.errors import UsageError
from lanparty.proto.mac import MacAddress, MacError

if sys.platform == "win32":
    from lanparty.client.kept_windows import keep_file
else:
    from lanparty.client.kept_posix import keep_file

__all__ = ["FILE_VERSION", "Identity", "decode_identity", "encode_identity", "hold_identity"]

FILE_VERSION = 2
_KEYS = {1: {"version", "virtual_mac"}, 2: {"version", "virtual_mac", "key"}}
"""What a file of each version has."""


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
        raise damaged(path, f"it is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise damaged(path, "it is not a JSON object")
    version = content.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > FILE_VERSION:
        raise UsageError(
            f"The identity file {path} is of version {version}, and this lanparty knows version {FILE_VERSION}: update "
            "lanparty, or give another file with --identity."
        )
    if type(version) is not int or version not in _KEYS:
        raise damaged(path, f"its version is not {FILE_VERSION}")
    unknown = sorted(str(key) for key in content.keys() - _KEYS[version])
    if unknown:
        raise damaged(path, f"it has unknown keys ({', '.join(unknown)[:80]})")
    text = content.get("virtual_mac")
    if not isinstance(text, str):
        raise damaged(path, "it has no virtual_mac")
    try:
        mac = MacAddress.parse(text)
        mac.require_virtual()
    except MacError as error:
        raise damaged(path, str(error).rstrip(".")) from error
    return mac, _decode_key(path, content.get("key")) if "key" in _KEYS[version] else None


def _decode_key(path: Path, text: object) -> Seed:
    if not isinstance(text, str):
        raise damaged(path, "it has no key")
    try:
        return Seed(base64.b64decode(text, validate=True))
    except ValueError:  # binascii.Error is one. Not told: the sentence would hold a part of the secret.
        raise damaged(path, f"its key is not {KEY_SIZE} bytes in base64") from None


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

    def make() -> bytes:
        mac = MacAddress.generate(entropy(6))
        return encode_identity(mac, Seed(entropy(KEY_SIZE)))

    with keep_file(path, make) as file:
        mac, key = decode_identity(path, file.read())
        not_upgraded = ""
        if key is None:
            new = Seed(entropy(KEY_SIZE))
            try:
                file.replace(encode_identity(mac, new))
            except OSError as error:
                not_upgraded = reason(error)
            else:
                key = new
        yield Identity(mac, file=path, created=file.created, key=key, not_upgraded=not_upgraded)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse an object with a key twice: which of the two values was meant cannot be known."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key is there twice")
    return content
