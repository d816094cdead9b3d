"""The messages of the control plane, version 1.1.

Owns: the fields of each message and their bounds. A message object cannot hold a value that the schema forbids.
Must not know: how messages become bytes (``codec.py``), and what they mean together (``validate.py``).

On the wire each is a JSON object ``{"type": TYPE, FIELD: value, ...}``; enumerations are their strings, a version is
``{"major": 1, "minor": 1}``, bytes are base64 (RFC 4648 section 4). All text is bounded and free of control characters,
because it is shown on terminals.

    endpoint -> relay    hello, once and first
    relay -> endpoint    welcome or reject, once; then peer-joined, peer-left
    both ways            heartbeat, stats, disconnect

Minor version 1 added the proofs of a hello, and with them takeover and room passwords. A hello without them, from an
endpoint of version 1.0, is understood; a relay of version 1.0 passes over them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Final

import attrs

from lanparty.obs.text import is_clean
from lanparty.proto.mtu import MIN_TAP_MTU

__all__ = [
    "CLOSE_TAKEN_OVER",
    "KEY_SIZE",
    "MAX_DISPLAY_NAME",
    "MAX_EFFECTIVE_MTU",
    "MAX_MEMBERS",
    "MAX_TEXT",
    "MIN_EFFECTIVE_MTU",
    "PROTOCOL",
    "ROOM_KEYS_SINCE",
    "SIGNATURE_SIZE",
    "TAKEN_OVER",
    "Disconnect",
    "Heartbeat",
    "Hello",
    "Member",
    "Message",
    "MessageError",
    "PeerJoined",
    "PeerLeft",
    "Proof",
    "ProtocolVersion",
    "Reject",
    "RejectCode",
    "Role",
    "Stats",
    "Welcome",
]

MAX_DISPLAY_NAME: Final = 64
"""Characters of a display name, and of a software name."""
MAX_TEXT: Final = 512
"""Characters of a sentence for a person."""
MAX_MEMBERS: Final = 128
"""Members in a welcome: with the longest names they still fit a control frame (128 x 350 bytes < 64 KiB)."""
MAX_COUNTERS: Final = 256
"""Counters in one stats message."""
MAX_PEER_ID: Final = 0xFFFF
"""Peer ids are the 16 bits of the overlay header; 0 is the relay."""
MIN_EFFECTIVE_MTU: Final = MIN_TAP_MTU
"""Bytes of IP packet."""
MAX_EFFECTIVE_MTU: Final = 9000
"""Bytes of IP packet: jumbo frames, the largest frame of ``lanparty.proto.ethernet``."""
KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64
"""Bytes of an Ed25519 public key and of a signature (RFC 8032 section 5.1)."""
TAKEN_OVER: Final = "taken-over"
"""The code of a disconnect: another session of the same identity has this member's place now. Whoever hears it must not
come back by itself, or two programs with one identity would put each other out for ever."""
CLOSE_TAKEN_OVER: Final = 3
"""The same as an application code of CONNECTION_CLOSE, where the disconnect was lost."""
MAX_NUMBER: Final = 2**63 - 1
"""The largest integer of any field: what every other language's JSON library can hold, too."""

_MAX_MAC_TEXT = 17  # aa:bb:cc:dd:ee:ff
_MAX_ROOM_TEXT = 64  # more than a room code has, so that a wrong one can be named in the reject text
_TOKEN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


class MessageError(ValueError):
    """A field holds what the schema forbids. Ours: a bug. A peer's: the codec makes it a ControlError."""


_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _text(limit: int) -> _Validator:
    """At most ``limit`` characters, none of them able to harm a terminal."""

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str) or len(value) > limit or not is_clean(value):
            raise MessageError(
                f"{attribute.name} must be text of at most {limit} characters without control characters"
            )

    return check


def _whole(low: int, high: int) -> _Validator:
    """An integer from ``low`` to ``high``; bool is none."""

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise MessageError(f"{attribute.name} must be a whole number from {low} to {high}")

    return check


def _octets(size: int) -> _Validator:
    """Exactly ``size`` bytes."""

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if type(value) is not bytes or len(value) != size:
            raise MessageError(f"{attribute.name} must be {size} bytes in base64")

    return check


def _token(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
        raise MessageError(f"{attribute.name} must be 1 to 64 of a-z 0-9 . _ -")


def _counters(_instance: Any, attribute: attrs.Attribute[Any], value: Mapping[str, int]) -> None:
    if len(value) > MAX_COUNTERS:
        raise MessageError(f"{attribute.name} must be at most {MAX_COUNTERS}")
    for name, number in value.items():
        if _TOKEN.fullmatch(name) is None or type(number) is not int or not 0 <= number <= MAX_NUMBER:
            raise MessageError(f"{attribute.name} must be whole numbers from 0 by names of 1 to 64 of a-z 0-9 . _ -")


def _members(_instance: Any, attribute: attrs.Attribute[Any], value: tuple[Member, ...]) -> None:
    if len(value) > MAX_MEMBERS:
        raise MessageError(f"{attribute.name} must be at most {MAX_MEMBERS}")


_peer_id = _whole(1, MAX_PEER_ID)
_mac_text = attrs.validators.optional(_text(_MAX_MAC_TEXT))


class Role(StrEnum):
    """What an endpoint is."""

    CLIENT = "client"
    GATEWAY = "gateway"


class RejectCode(StrEnum):
    """Why the relay says no; stable, for scripts."""

    VERSION = "version"
    BAD_HELLO = "bad-hello"
    BAD_ROOM = "bad-room"
    BAD_MAC = "bad-mac"
    DUPLICATE_MAC = "duplicate-mac"
    GATEWAY_PRESENT = "gateway-present"
    ROOM_FULL = "room-full"
    TOO_MANY_ROOMS = "too-many-rooms"
    TOO_MANY_TRIES = "too-many-tries"
    """Too many different rooms were asked for from one address: again later."""
    MTU_TOO_SMALL = "mtu-too-small"
    SHUTTING_DOWN = "shutting-down"
    FRAME_TOO_LARGE = "frame-too-large"
    TOO_DEEP = "too-deep"
    BAD_JSON = "bad-json"
    BAD_MESSAGE = "bad-message"
    PROTOCOL = "protocol"
    """The control protocol was broken otherwise, or (when received) a code of a newer minor version, unknown here."""

    @classmethod
    def of(cls, code: str) -> RejectCode:
        """The reject code for a ``ControlError.code``: itself where it is one, else PROTOCOL."""
        try:
            return cls(code)
        except ValueError:
            return cls.PROTOCOL


@attrs.frozen(order=True)
class ProtocolVersion:
    """Same major: understood. Newer minor: understood, with fields and message types that are ignored."""

    major: int = attrs.field(validator=_whole(0, 65535))
    minor: int = attrs.field(validator=_whole(0, 65535))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


PROTOCOL: Final = ProtocolVersion(1, 1)
"""The version spoken here."""
ROOM_KEYS_SINCE: Final = ProtocolVersion(1, 1)
"""A relay of an older version does not know room keys: it would put everybody who has the room code into one room."""


@attrs.frozen
class Proof:
    """A public key, and a signature of its owner over what ``lanparty.ctrl.proof`` says."""

    key: bytes = attrs.field(validator=_octets(KEY_SIZE))
    signature: bytes = attrs.field(validator=_octets(SIGNATURE_SIZE))


@attrs.frozen
class Hello:
    """An endpoint's first message. Passed by ``validate.check_hello`` before anybody believes it."""

    TYPE: ClassVar[str] = "hello"

    version: ProtocolVersion
    role: Role
    room: str = attrs.field(validator=_text(_MAX_ROOM_TEXT))
    virtual_mac: str | None = attrs.field(validator=_mac_text)
    """A client's virtual MAC; a gateway has none."""
    datagram_budget: int = attrs.field(validator=_whole(0, 65535))
    """Bytes of the largest overlay datagram that the endpoint's connection carries now."""
    display_name: str = attrs.field(validator=_text(MAX_DISPLAY_NAME))
    software: str = attrs.field(validator=_text(MAX_DISPLAY_NAME))
    identity: Proof | None = None
    """Who this is, so that it can take its own place over when it comes back; None from older software."""
    room_key: Proof | None = None
    """That the sender knows the room's password; None for a room without one."""


@attrs.frozen
class Member:
    """One admitted endpoint, as the others see it."""

    peer_id: int = attrs.field(validator=_peer_id)
    role: Role
    virtual_mac: str | None = attrs.field(validator=_mac_text)
    display_name: str = attrs.field(validator=_text(MAX_DISPLAY_NAME))


@attrs.frozen
class Welcome:
    """The relay's yes."""

    TYPE: ClassVar[str] = "welcome"

    version: ProtocolVersion
    peer_id: int = attrs.field(validator=_peer_id)
    """The new member's own id."""
    room: str = attrs.field(validator=_text(_MAX_ROOM_TEXT))
    effective_mtu: int = attrs.field(validator=_whole(MIN_EFFECTIVE_MTU, MAX_EFFECTIVE_MTU))
    """Bytes of IP packet: the TAP MTU of the whole room."""
    fragments: bool
    """Whether frames larger than a datagram budget are cut into pieces."""
    members: tuple[Member, ...] = attrs.field(validator=_members)
    """The others who are in the room already."""
    gateway_present: bool


@attrs.frozen
class Reject:
    """The relay's no."""

    TYPE: ClassVar[str] = "reject"

    code: RejectCode
    text: str = attrs.field(validator=_text(MAX_TEXT))
    """A sentence for a person."""
    version: ProtocolVersion = PROTOCOL
    """The relay's own version; ours where a reject does not say."""


@attrs.frozen
class PeerJoined:
    """Somebody came into the room."""

    TYPE: ClassVar[str] = "peer-joined"

    member: Member


@attrs.frozen
class PeerLeft:
    """Somebody left the room."""

    TYPE: ClassVar[str] = "peer-left"

    peer_id: int = attrs.field(validator=_peer_id)
    reason: str = attrs.field(validator=_text(MAX_TEXT))


@attrs.frozen
class Stats:
    """Counters of the sender, by name (``lanparty.obs.counters``)."""

    TYPE: ClassVar[str] = "stats"

    counters: Mapping[str, int] = attrs.field(validator=_counters)


@attrs.frozen
class Heartbeat:
    """Shows that the path lives; a reply repeats the sequence number."""

    TYPE: ClassVar[str] = "heartbeat"

    sequence: int = attrs.field(validator=_whole(0, MAX_NUMBER))
    reply: bool


@attrs.frozen
class Disconnect:
    """Goodbye: the sender closes the connection next. ``code`` is a word for scripts, ``reason`` for people."""

    TYPE: ClassVar[str] = "disconnect"

    code: str = attrs.field(validator=_token)
    reason: str = attrs.field(validator=_text(MAX_TEXT))


Message = Hello | Welcome | Reject | PeerJoined | PeerLeft | Stats | Heartbeat | Disconnect
