"""What the desktop start remembers: a directory of the player's own, and in it a configuration file.

    %LOCALAPPDATA%\\lanparty                 Windows; not the roaming AppData: an identity belongs to one computer
    $XDG_CONFIG_HOME/lanparty, ~/.config/lanparty         elsewhere

    settings.toml                   any options of the client: ``python -m lanparty.client --config`` reads it, too
    relay-cert.pem                  a copy of the certificate that the host sent: the file itself may be moved, or lie
                                    on a network drive, which a program that runs as administrator does not see
    room-password.txt               only if the player wants it (below)
    lanparty-client-identity.json   made by the client, as ever
    lanparty-client.log             for the host, if something goes wrong

The password is not remembered unless the player says so. It is what keeps strangers out of the house of somebody else,
and whatever runs as this player can read the file; the other way is to type it once an evening. It is never in
settings.toml, which people show to each other.

Owns: the files' names, reading and writing them. Must not know: how anybody is asked.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from cryptography import x509

from lanparty.cli.config import config_values
from lanparty.client.options import DEFAULT_IDENTITY, build_parser
from lanparty.obs.errors import UsageError
from lanparty.obs.files import atomic_write
from lanparty.quic.trust import certificate_names, load_pinned

__all__ = ["SETTINGS", "Remembered", "directory", "encode_settings", "load"]

SETTINGS: Final = "settings.toml"
CERTIFICATE: Final = "relay-cert.pem"
PASSWORD: Final = "room-password.txt"  # noqa: S105 - a file's name
LOG: Final = "lanparty-client.log"

_PRIVATE: Final = 0o600
_NEEDS_ESCAPE: Final = re.compile("[\x00-\x1f\x7f]")


def directory(environment: Mapping[str, str], *, windows: bool) -> Path:
    """Where the files are. Raises UsageError: this account has no such place."""
    if windows:
        base = environment.get("LOCALAPPDATA")
    else:
        home = environment.get("HOME")
        base = environment.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    if not base or not Path(base).is_absolute():  # the XDG specification: a relative path is invalid
        name = "LOCALAPPDATA" if windows else "HOME"
        raise UsageError(
            f"There is no place to remember anything: the variable {name} is not set. Start with --relay and --room."
        )
    return Path(base) / "lanparty"


@attrs.define
class Remembered:
    """The directory, and what settings.toml says, by long name of the option."""

    directory: Path
    settings: dict[str, Any] = attrs.field(factory=dict)

    @property
    def file(self) -> Path:
        """The configuration file."""
        return self.directory / SETTINGS

    def text(self, key: str) -> str:
        """Give what is remembered of ``key``; empty for nothing."""
        return str(self.settings.get(key, ""))

    def keep(self, key: str, value: str) -> None:
        """Remember ``value``, until `save` only in memory; an empty one forgets the key."""
        if value:
            self.settings[key] = value
        else:
            self.settings.pop(key, None)

    def save(self) -> None:
        """Write settings.toml, whole or not at all. Raises UsageError."""
        self.settings.setdefault("identity", str(self.directory / DEFAULT_IDENTITY))
        self.settings.setdefault("log-file", str(self.directory / LOG))
        self._write(self.file, encode_settings(self.settings))

    def keep_certificate(self, source: Path, host: str) -> None:
        """Remember the certificate in ``source``, a copy of it, for the relay ``host``. Raises UsageError.

        A relay's own certificate names the relay otherwise than the player reaches it, by an address that is in no
        certificate. Whoever trusts this one certificate trusts it under its own name: so that is what is asked for.
        """
        pem = load_pinned(source)
        copy = self.directory / CERTIFICATE
        self._write(copy, pem)
        self.keep("relay-ca-cert", str(copy))
        self.keep("server-name", _name_for(pem, host))

    def keep_password(self, password: str) -> None:
        """Remember the password, and `save`. Raises UsageError."""
        file = self.directory / PASSWORD
        self._write(file, password.encode("utf-8") + b"\n")
        self.keep("room-password-file", str(file))
        self.save()

    def forget_password(self) -> None:
        """Remove the file of `keep_password`, and forget any. Raises UsageError."""
        try:
            (self.directory / PASSWORD).unlink(missing_ok=True)
        except OSError as error:
            raise _cannot("removed", self.directory / PASSWORD, error) from error
        self.keep("room-password-file", "")

    def _write(self, path: Path, data: bytes) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic_write(path, data, _PRIVATE)
        except OSError as error:
            raise _cannot("written", path, error) from error


def load(where: Path) -> Remembered:
    """What is remembered in the directory ``where``. Raises UsageError: a file that is damaged.

    It is not replaced then: a player who added an option by hand has mistyped it.
    """
    found = Remembered(where)
    if not found.file.exists():
        return found
    config_values(build_parser(), found.file)  # the check of --config, with its sentences
    found.settings = {
        key.replace("_", "-"): value for key, value in tomllib.loads(found.file.read_text("utf-8")).items()
    }
    return found


def encode_settings(settings: Mapping[str, Any]) -> bytes:
    """Give the TOML of options: text, numbers, switches, and lists of these."""
    head = "# What lanparty asked for and remembers. Options may be added by hand; they stay, comments do not.\n"
    return (head + "".join(f"{key} = {_toml(value)}\n" for key, value in settings.items())).encode("utf-8")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # A JSON string is a TOML basic string, but for DEL and for escapes of surrogates, which are not made here.
    return _NEEDS_ESCAPE.sub(lambda found: f"\\u{ord(found.group()):04x}", json.dumps(value, ensure_ascii=False))


def _name_for(pem: bytes, host: str) -> str:
    """Give the name to ask the relay for; empty: that of ``host``, because the certificate has it, or is a CA's."""
    names = certificate_names(x509.load_pem_x509_certificates(pem)[0])
    if not names or host.lower() in (name.lower() for name in names) or any(name.startswith("*") for name in names):
        return ""
    return names[0]


def _cannot(what: str, path: Path, error: OSError) -> UsageError:
    return UsageError(f"The file {path} cannot be {what}: {error.strerror or error}.")
