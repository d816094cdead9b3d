"""Control messages to bytes and back.

Owns: the framing, the mapping between JSON objects and message classes, the rules between versions.
Must not know: sockets, and what a message makes a program do.

    0                 4
    +-----------------+--------------------------------------
    | length, u32 BE  | JSON object in UTF-8, `length` bytes
    +-----------------+--------------------------------------

A length over MAX_FRAME is refused as soon as it is read, so the decoder never holds more than 64 KiB and four bytes.

Between versions:

* Unknown message types come out as ``Unknown``, to be passed over.
* Hello, welcome and reject carry their sender's version. An unknown major version in a hello or welcome is refused
  before anything else of it is looked at. A reject is read whatever its version: it says why.
* These three may have no unknown fields when their sender is of our minor version or an older one: a misspelt field
  must not be silently without effect. Unknown fields of a newer minor version, and of the other messages, are ignored.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_args

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from lanparty.ctrl.errors import BAD_HELLO, BAD_MESSAGE, FRAME_TOO_LARGE, ControlError
from lanparty.ctrl.messages import (
    PROTOCOL,
    Hello,
    Member,
    Message,
    MessageError,
    ProtocolVersion,
    Reject,
    RejectCode,
    Role,
    Welcome,
)
from lanparty.ctrl.strictjson import loads_untrusted, quoted

__all__ = [
    "MAX_FRAME",
    "ControlDecoder",
    "ControlError",
    "Unknown",
    "decode_untrusted",
    "encode",
    "require_known_major",
]

MAX_FRAME: Final = 64 * 1024
"""Bytes of one message's JSON. A welcome to a room of MAX_MEMBERS fits."""

_LENGTH: Final = struct.Struct("!I")
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_VERSIONED: Final = (Hello, Welcome, Reject)
_CLASSES: Final[Mapping[str, type[Any]]] = MappingProxyType({cls.TYPE: cls for cls in get_args(Message)})


@attrs.frozen
class Unknown:
    """A message of a type that is not known here: a newer minor version's, to be passed over."""

    type: str


def encode(message: Message) -> bytes:
    """One framed message. Raises MessageError when it is larger than MAX_FRAME (no message within its bounds is)."""
    body = {"type": message.TYPE, **_LENIENT.unstructure(message)}
    # Not ensure_ascii: a name in another script would take 6 to 12 bytes a character instead of 2 to 4.
    payload = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(payload) > MAX_FRAME:
        raise MessageError(f"a {message.TYPE} message of {len(payload)} bytes is larger than {MAX_FRAME}")
    return _LENGTH.pack(len(payload)) + payload


class ControlDecoder:
    """Cuts a control stream into messages.

    After an error the stream cannot be read any further: every later call raises the same error again.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._error: ControlError | None = None

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame. At the end of the stream, anything but 0 means that it was cut off."""
        return len(self._buffer)

    def feed_untrusted(self, data: bytes) -> list[Message | Unknown]:
        """The messages that ``data`` completes, in order. Raises ControlError and nothing else."""
        if self._error is not None:
            raise self._error
        self._buffer += data
        try:
            return self._cut()
        except ControlError as error:
            self._error = error
            self._buffer.clear()
            raise

    def _cut(self) -> list[Message | Unknown]:
        messages: list[Message | Unknown] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise ControlError(
                    FRAME_TOO_LARGE, f"A control message of {length} bytes is larger than the limit of {MAX_FRAME}."
                )
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(decode_untrusted(bytes(self._buffer[start + _LENGTH.size : end])))
            start = end
        del self._buffer[:start]
        return messages


def decode_untrusted(payload: bytes) -> Message | Unknown:
    """The message in one frame's payload. Raises ControlError and nothing else."""
    body = loads_untrusted(payload)
    kind = body.pop("type", None)
    if not isinstance(kind, str) or _TYPE.fullmatch(kind) is None:
        raise ControlError(BAD_MESSAGE, "A control message has no lawful type.")
    cls = _CLASSES.get(kind)
    if cls is None:
        return Unknown(kind)
    code = BAD_HELLO if cls is Hello else BAD_MESSAGE
    try:
        converter = _converter_for(cls, body)
        message: Message = converter.structure(body, cls)
    except KeyError as error:
        raise ControlError(code, f"The {kind} message lacks {quoted(error.args[0])}.") from None
    except cattrs.ForbiddenExtraKeysError as error:
        extra = min(error.extra_fields)
        raise ControlError(code, f"The {kind} message has an unknown field, {quoted(extra)}.") from None
    except MessageError as error:
        raise ControlError(code, f"The {kind} message is wrong: {error}.") from None
    return message


def _converter_for(cls: type[Any], body: Mapping[str, Any]) -> cattrs.Converter:
    """Which rules a message is read by. Raises ControlError for a hello or welcome of an unknown major version."""
    if cls not in _VERSIONED:
        return _LENIENT
    # Only these two numbers are looked at: the rest of a foreign version's message may look like anything.
    if cls is Reject:
        version = _LENIENT.structure(body["version"], ProtocolVersion) if "version" in body else PROTOCOL
    else:
        version = _LENIENT.structure(body["version"], ProtocolVersion)
        require_known_major(version)
    return _STRICT if version <= PROTOCOL else _LENIENT


def require_known_major(version: ProtocolVersion) -> None:
    """Raise ControlError("version", both versions in the text) unless ``version`` has our major number."""
    if version.major != PROTOCOL.major:
        older = "the other side" if version < PROTOCOL else "this side"
        raise ControlError(
            RejectCode.VERSION.value,
            f"The other side speaks protocol version {version}, this side speaks {PROTOCOL}: they do not understand "
            f"each other; update {older}.",
        )


# --- cattrs, made strict: nothing is coerced ---

_E = TypeVar("_E", bound=Enum)


def _exactly(kind: type[Any], words: str) -> Callable[[Any, Any], Any]:
    """A structure hook that takes only ``kind`` itself: "5" is no int, True is no int, 1.0 is no int."""

    def hook(value: Any, _type: Any) -> Any:
        if type(value) is not kind:
            raise MessageError(f"{words} is expected where {quoted(value)} stands")
        return value

    return hook


def _octets(value: Any, _type: Any) -> bytes:
    """A structure hook for base64: padded, of its own alphabet, and in the one spelling that its bytes have."""
    if type(value) is str:
        try:
            data = base64.b64decode(value, validate=True)
        except ValueError:  # binascii.Error is one; so is what str.encode raises for characters beyond ASCII
            data = b""
        if base64.b64encode(data).decode("ascii") == value:
            return data
    raise MessageError(f"base64 is expected where {quoted(value)} stands")


def _one_of(enum: type[_E], otherwise: _E | None = None) -> Callable[[Any, Any], _E]:
    known = {member.value: member for member in enum}

    def hook(value: Any, _type: Any) -> _E:
        member = known.get(value) if type(value) is str else None
        if member is None and type(value) is str:
            member = otherwise
        if member is None:
            raise MessageError(f"one of {', '.join(known)} is expected where {quoted(value)} stands")
        return member

    return hook


def _make_converter(*, strict: bool) -> cattrs.Converter:
    # Not detailed_validation: its error groups would have to be taken apart again, for one sentence.
    converter = cattrs.Converter(detailed_validation=False, forbid_extra_keys=strict)
    converter.register_structure_hook(int, _exactly(int, "a whole number"))
    converter.register_structure_hook(str, _exactly(str, "text"))
    converter.register_structure_hook(bool, _exactly(bool, "true or false"))
    converter.register_structure_hook(bytes, _octets)
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode("ascii"))
    converter.register_structure_hook(Role, _one_of(Role))
    # A reason that a newer relay gives is still a no, and its text says more than the code.
    converter.register_structure_hook(RejectCode, _one_of(RejectCode, otherwise=RejectCode.PROTOCOL))

    def optional_text(value: Any, _type: Any) -> str | None:
        if value is not None and type(value) is not str:
            raise MessageError(f"text or null is expected where {quoted(value)} stands")
        return value

    def members(value: Any, _type: Any) -> tuple[Member, ...]:
        if type(value) is not list:
            raise MessageError("a list of members is expected")
        return tuple(converter.structure(item, Member) for item in value)

    def counters(value: Any, _type: Any) -> Mapping[str, int]:
        if type(value) is not dict:
            raise MessageError("an object of counters is expected")
        return MappingProxyType(value)  # the message checks names and numbers

    converter.register_structure_hook_func(lambda kind: kind == str | None, optional_text)
    converter.register_structure_hook_func(lambda kind: kind == tuple[Member, ...], members)
    converter.register_structure_hook_func(lambda kind: kind == Mapping[str, int], counters)
    # A hello without proofs is written as in version 1.0.
    converter.register_unstructure_hook(Hello, make_dict_unstructure_fn(Hello, converter, _cattrs_omit_if_default=True))
    converter.register_structure_hook_factory(attrs.has, lambda cls: _from_object(cls, converter, strict))
    return converter


def _from_object(cls: type[Any], converter: cattrs.Converter, strict: bool) -> Callable[[Any, Any], Any]:
    structure = make_dict_structure_fn(
        cls, converter, _cattrs_forbid_extra_keys=strict, _cattrs_detailed_validation=False
    )

    def hook(value: Any, kind: Any) -> Any:
        if type(value) is not dict:
            raise MessageError(f"an object is expected where {quoted(value)} stands")
        return structure(value, kind)

    return hook


_STRICT: Final = _make_converter(strict=True)
_LENIENT: Final = _make_converter(strict=False)
