"""Proofs in a hello: that its sender holds a private key, said for this connection and this place only.

Owns: the bytes that are signed, Ed25519 (RFC 8032) over them, and the key that follows from a room's password.
Must not know: where keys are kept, what a proof allows (``lanparty.relay.rooms``), where the binding comes from.

What is signed, byte by byte::

    +----------------------+---+--------------------+-----------+---+-----------+---+-----------+
    | context, ASCII       | 0 | binding, 32 bytes  | role      | 0 | room code | 0 | MAC       |
    +----------------------+---+--------------------+-----------+---+-----------+---+-----------+
    "lanparty identity v1"       TLS exporter         "client"        "ROOM1"         6 bytes,
    "lanparty room key v1"       (RFC 9266)           "gateway"       canonical       gateway: none

A key of small order (RFC 8032 section 5.1.7 lets them pass), for which anybody can sign, protects nobody but belongs to
nobody else. None of the texts can contain a zero, so no two statements have the same bytes. The binding is of one TLS
connection: who sees a proof, a false relay included, cannot use it on another one.

A room's password becomes a key pair at its users' machines; the relay gets the public half only. scrypt (RFC 7914)
makes each guess of somebody who has that half cost 64 MiB and about 0.4 s; the room code is the salt, so that one
password in two rooms is two keys.
"""

from __future__ import annotations

import hashlib
import unicodedata
from enum import StrEnum
from typing import Final

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lanparty.ctrl.messages import KEY_SIZE, SIGNATURE_SIZE, Hello, Proof
from lanparty.proto.mac import MacAddress

__all__ = ["BINDING_SIZE", "Context", "Seed", "is_proven_untrusted", "prove", "room_seed", "statement"]

BINDING_SIZE: Final = 32
"""Bytes of a channel binding."""

SCRYPT_N: Final = 2**16
SCRYPT_R: Final = 8
SCRYPT_P: Final = 2
"""128 * N * r = 64 MiB, twice over: OWASP's second choice for scrypt (2^16, 8, 2) has the strength of its first and
half of its memory, which a small gateway box has. Part of the wire contract: both sides must come to the same key."""
_SCRYPT_MEMORY: Final = 128 * SCRYPT_R * (SCRYPT_N + SCRYPT_P + 32)
_SALT: Final = b"lanparty room password v1\0"


class Context(StrEnum):
    """What a signature is about."""

    IDENTITY = "lanparty identity v1"
    """The key of a player, or of one run of a gateway."""
    ROOM = "lanparty room key v1"
    """The key that follows from a room's password."""


@attrs.frozen
class Seed:
    """A private key (RFC 8032 section 5.1.5): 32 bytes that are never shown."""

    octets: bytes = attrs.field(repr=False)

    @octets.validator
    def _has_32(self, _attribute: object, value: bytes) -> None:
        if len(value) != KEY_SIZE:
            raise ValueError(f"a key seed has {KEY_SIZE} bytes")

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._private().public_key().public_bytes_raw()

    def sign(self, data: bytes) -> Proof:
        """Sign ``data``."""
        private = self._private()
        return Proof(key=private.public_key().public_bytes_raw(), signature=private.sign(data))

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.octets)


def statement(context: Context, binding: bytes, hello: Hello) -> bytes:
    """Give the bytes that a proof in ``hello`` signs. Raises ValueError for a binding that is none.

    ``hello`` is canonical: the endpoint builds it so, and the relay has it from ``validate.check_hello``.
    """
    if len(binding) != BINDING_SIZE:
        raise ValueError(f"a channel binding has {BINDING_SIZE} bytes")
    mac = b"" if hello.virtual_mac is None else MacAddress.parse(hello.virtual_mac).octets
    head = b"\0".join((context.value.encode(), binding + hello.role.value.encode(), hello.room.encode("ascii")))
    return head + b"\0" + mac


def prove(hello: Hello, binding: bytes, *, identity: Seed | None, room_key: Seed | None) -> Hello:
    """Give ``hello`` with a proof for each key that there is."""
    return attrs.evolve(
        hello,
        identity=None if identity is None else identity.sign(statement(Context.IDENTITY, binding, hello)),
        room_key=None if room_key is None else room_key.sign(statement(Context.ROOM, binding, hello)),
    )


def is_proven_untrusted(hello: Hello, binding: bytes) -> bool:
    """Whether every proof in ``hello`` holds for this connection.

    Each proof costs one verification, whatever comes of the others and whatever the relay knows: the time that this
    takes says nothing that the sender did not say itself.
    """
    results = [
        _holds(proof, statement(context, binding, hello))
        for context, proof in ((Context.IDENTITY, hello.identity), (Context.ROOM, hello.room_key))
        if proof is not None
    ]
    return all(results)


def _holds(proof: Proof, data: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(proof.key).verify(proof.signature, data)
    except InvalidSignature:
        return False
    return True


def room_seed(password: str, room: str) -> Seed:
    """Derive the key of room ``room`` (canonical) with this password. Blocking: about 0.4 s, and 64 MiB of memory.

    The password is taken in Unicode's form NFC: two keyboards that make the same letters differently agree.
    """
    secret = unicodedata.normalize("NFC", password).encode()
    return Seed(
        hashlib.scrypt(
            secret,
            salt=_SALT + room.encode("ascii"),
            n=SCRYPT_N,
            r=SCRYPT_R,
            p=SCRYPT_P,
            maxmem=_SCRYPT_MEMORY + 2**20,
            dklen=KEY_SIZE,
        )
    )


assert SIGNATURE_SIZE == 64  # RFC 8032 section 5.1.6
