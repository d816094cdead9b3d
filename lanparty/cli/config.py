"""The TOML file of --config: the same options as the command line, checked as strictly.

Owns: reading the file, and fitting each of its values to the option of the same name.
Must not know: which options there are; it reads them off the parser.

A key is an option's long name without the dashes in front; ``_`` may stand for ``-``. Values by kind of option:

    switch (--no-fragments)       true or false
    number                        a TOML number
    everything else               a TOML string
    may be given several times    a list of such values, or one value
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lanparty.obs.errors import UsageError
from lanparty.obs.text import printable

__all__ = ["config_values", "convert_default"]

_NOT_IN_FILES: Final = frozenset({"config", "help", "version"})
_MAX_FILE: Final = 1024 * 1024
"""Bytes. A configuration file has a few hundred; more is the wrong file."""


class _MisfitError(ValueError):
    """A value that does not fit its option; the text ends the sentence "FILE: KEY ..."."""


def config_values(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """What the file sets, by ``dest``. Raises UsageError that names the file, and the key where it is one."""
    options = _options(parser)
    found: dict[str, Any] = {}
    for key, value in _read(path).items():
        shown = f"configuration file {path}: {printable(key)}"
        action = options.get(key.replace("_", "-"))
        if action is None:
            raise UsageError(f"{shown} is not an option of {parser.prog} (see {parser.prog} --help)")
        if action.dest in found:
            raise UsageError(f"{shown} is set twice")
        try:
            found[action.dest] = _value(action, value)
        except _MisfitError as wrong:
            raise UsageError(f"{shown} {printable(str(wrong))}") from None
    return found


def convert_default(action: argparse.Action) -> Any:
    """An option's default as argparse gives it: a string goes through the option's type. Raises UsageError."""
    default = action.default
    if default is argparse.SUPPRESS or not isinstance(default, str) or action.type is None:
        return None if default is argparse.SUPPRESS else default
    try:
        return _convert(action, default)
    except _MisfitError as wrong:  # pragma: no cover - a mistake of ours, in add_argument
        raise UsageError(f"default of {action.dest} {wrong}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot read configuration file {path}: {reason}") from None
    except ValueError as error:  # a NUL byte in the name
        raise UsageError(f"cannot read configuration file {str(path)!r}: {error}") from None
    if len(data) > _MAX_FILE:
        raise UsageError(f"configuration file {path} is larger than {_MAX_FILE} bytes: it is probably another file")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise UsageError(f"configuration file {path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"configuration file {path} is not TOML: {printable(str(error))}") from None
    except RecursionError:  # tomllib recurses into nested arrays
        raise UsageError(f"configuration file {path} is not TOML that can be read: nested too deeply") from None


def _options(parser: argparse.ArgumentParser) -> Mapping[str, argparse.Action]:
    """The parser's options by long name without the dashes in front."""
    return {
        name.removeprefix("--"): action
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--") and action.dest not in _NOT_IN_FILES
    }


def _value(action: argparse.Action, value: Any) -> Any:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return _switch(action, value)
    if isinstance(action, (argparse._AppendAction, argparse._ExtendAction)) or action.nargs in ("*", "+"):
        items = value if isinstance(value, list) else [value]
        if action.nargs == "+" and not items:
            raise _MisfitError("must not be an empty list")
        return [_single(action, item) for item in items]
    return _single(action, value)


def _switch(action: argparse.Action, value: Any) -> bool:
    if type(value) is not bool:
        raise _MisfitError(f"must be true or false, without quotes, not {value!r}")
    if isinstance(action, argparse._StoreFalseAction):  # --no-x is stored as x = False
        return not value
    return value


def _is_number(action: argparse.Action) -> bool:
    """Whether the option takes a number: by its type, or by its default where the type is a function."""
    if action.type in (int, float) or getattr(action.type, "is_number", False):
        return True
    return isinstance(action.default, (int, float)) and not isinstance(action.default, bool)


def _single(action: argparse.Action, value: Any) -> Any:
    if _is_number(action):
        if type(value) not in (int, float) or (action.type is int and type(value) is float):
            raise _MisfitError(f"must be a number, without quotes, not {value!r}")
        return _convert(action, str(value))
    if type(value) is not str:
        raise _MisfitError(f"must be text in quotes, not {value!r}")
    return _convert(action, value)


def _convert(action: argparse.Action, text: str) -> Any:
    """Through the option's type and choices, as argparse does it."""
    value: Any = text
    if callable(action.type):
        try:
            value = action.type(text)
        except argparse.ArgumentTypeError as error:
            raise _MisfitError(f"is wrong: {error}") from None
        except (TypeError, ValueError):
            raise _MisfitError(f"cannot be {text!r}") from None
    if action.choices is not None and value not in action.choices:
        raise _MisfitError(f"must be one of {', '.join(map(str, action.choices))}, not {text!r}")
    return value
