"""Strict JSON from a stranger: bytes to plain values, or ControlError.

Owns: everything that ``json.loads`` would let through or stumble over.
Must not know: the messages.

Numbered path of one frame's payload:

    1. UTF-8, strictly
    2. depth, counted before the parser runs: it recurses, and a deep frame would end in RecursionError
    3. json.loads with hooks: no duplicate keys, no NaN or Infinity, no integer beyond 64 bits
    4. the top is an object

Linear in the payload's size, which the codec bounds.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

from lanparty.ctrl.errors import BAD_JSON, TOO_DEEP, ControlError

__all__ = ["MAX_DEPTH", "loads_untrusted", "quoted"]

MAX_DEPTH: Final = 3
"""Nested objects and arrays of the deepest message: a welcome's object, its list of members, a member."""

_MAX_INTEGER_DIGITS: Final = 20  # 2**63 has 19, and a sign
_MAX_FLOAT_DIGITS: Final = 32  # no field is a float; a newer minor version's may be
_QUOTED: Final = 40

# A JSON string, or what is left of the payload from an unclosed quote on. Possessive, so that hostile input cannot make
# it try again: each character is looked at once.
_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS: Final = re.compile(r"[\[\]{}]")


def quoted(value: object) -> str:
    """A stranger's value for an error text: ASCII, in quotes, bounded."""
    text = str(value)
    return ascii(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")


def loads_untrusted(payload: bytes) -> dict[str, Any]:
    """The JSON object in ``payload``. Raises ControlError and nothing else."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        raise ControlError(BAD_JSON, "A control message is not UTF-8.") from None
    _check_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except ValueError:
        raise ControlError(BAD_JSON, "A control message is not JSON.") from None
    if not isinstance(value, dict):
        raise ControlError(BAD_JSON, "A control message is not a JSON object.")
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in _BRACKETS.findall(_STRING.sub("", text)):
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ControlError(TOO_DEEP, f"A control message is nested deeper than {MAX_DEPTH} levels.")
        else:
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ControlError(BAD_JSON, "A control message has the same key twice in one object.")
    return value


def _integer(digits: str) -> int:
    # The length first: turning n digits into an integer takes n squared steps.
    if len(digits) <= _MAX_INTEGER_DIGITS:
        number = int(digits)
        if -(2**63) <= number < 2**63:
            return number
    raise ControlError(BAD_JSON, "A control message has a number beyond 64 bits.")


def _float(digits: str) -> float:
    if len(digits) <= _MAX_FLOAT_DIGITS:
        number = float(digits)
        if math.isfinite(number):
            return number
    raise ControlError(BAD_JSON, "A control message has a number that is too long or too large.")


def _constant(name: str) -> NoReturn:
    raise ControlError(BAD_JSON, f"A control message has {name}, which is not JSON.")
