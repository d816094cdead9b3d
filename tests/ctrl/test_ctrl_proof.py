"""Proofs: what is signed byte by byte, what does not hold, and the key of a password."""

from __future__ import annotations

import attrs
import pytest
from ctrl_corpus import GATEWAY_HELLO, HELLO
from hypothesis import given
from hypothesis import strategies as st

from lanparty.ctrl import proof as module
from lanparty.ctrl.messages import Hello, Proof
from lanparty.ctrl.proof import Context, Seed, is_proven_untrusted, prove, room_seed, statement

BINDING = bytes(range(32))
ANN = Seed(b"\x01" * 32)
BOB = Seed(b"\x02" * 32)


def proven(hello: Hello = HELLO, binding: bytes = BINDING) -> Hello:
    return prove(hello, binding, identity=ANN, room_key=BOB)


def test_what_is_signed_byte_by_byte() -> None:
    assert statement(Context.IDENTITY, BINDING, HELLO) == (
        b"lanparty identity v1\0" + BINDING + b"client\0ROOM1\0" + bytes.fromhex("020000000001")
    )
    assert statement(Context.ROOM, BINDING, GATEWAY_HELLO) == b"lanparty room key v1\0" + BINDING + b"gateway\0ROOM1\0"


def test_the_signature_is_ed25519_of_rfc_8032() -> None:
    """Section 7.1, test 2."""
    seed = Seed(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert seed.public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert seed.sign(b"\x72").signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_proofs_hold_for_their_own_hello_and_connection() -> None:
    for hello in (HELLO, GATEWAY_HELLO):
        assert is_proven_untrusted(proven(hello), BINDING)
    assert is_proven_untrusted(HELLO, BINDING)
    assert proven().identity == Proof(ANN.public, proven().identity.signature)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changes",
    [
        {"room": "ROOM2"},
        {"virtual_mac": "02:00:00:00:00:02"},
        {"role": GATEWAY_HELLO.role, "virtual_mac": None},
        {"identity": proven().room_key},
        {"room_key": proven().identity},
        {"identity": attrs.evolve(proven().identity, key=BOB.public)},  # type: ignore[type-var, arg-type]
        {"identity": attrs.evolve(proven().identity, signature=bytes(64))},  # type: ignore[type-var, arg-type]
        {"room_key": Proof(b"\xff" * 32, b"\xff" * 64)},
    ],
)
def test_proofs_hold_for_nothing_else(changes: dict[str, object]) -> None:
    assert not is_proven_untrusted(attrs.evolve(proven(), **changes), BINDING)  # type: ignore[arg-type]


def test_a_proof_is_worthless_on_another_connection() -> None:
    assert not is_proven_untrusted(proven(), bytes(32))


@given(bit=st.integers(0, 511), which=st.sampled_from(["identity", "room_key"]))
def test_every_bit_of_a_signature_counts(bit: int, which: str) -> None:
    hello = proven()
    good: Proof = getattr(hello, which)
    bad = bytearray(good.signature)
    bad[bit // 8] ^= 1 << bit % 8
    assert not is_proven_untrusted(attrs.evolve(hello, **{which: attrs.evolve(good, signature=bytes(bad))}), BINDING)


@given(key=st.binary(min_size=32, max_size=32), signature=st.binary(min_size=64, max_size=64))
def test_any_bytes_are_judged_and_never_raise(key: bytes, signature: bytes) -> None:
    assert is_proven_untrusted(attrs.evolve(HELLO, identity=Proof(key, signature)), BINDING) in (True, False)


def test_every_proof_is_verified_whatever_came_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is the same for a good and a bad proof: time tells a stranger nothing."""
    verified: list[bytes] = []
    holds = module._holds

    def noted(proof: Proof, data: bytes) -> bool:
        verified.append(proof.key)
        return holds(proof, data)

    monkeypatch.setattr(module, "_holds", noted)
    assert not is_proven_untrusted(proven(), bytes(32))
    assert verified == [ANN.public, BOB.public]


@pytest.mark.parametrize("binding", [b"", bytes(31), bytes(33)])
def test_a_binding_that_is_none_is_a_mistake_of_ours(binding: bytes) -> None:
    with pytest.raises(ValueError, match="channel binding"):
        statement(Context.IDENTITY, binding, HELLO)


def test_a_seed_is_32_bytes_and_never_shown() -> None:
    assert "01" not in repr(ANN)
    with pytest.raises(ValueError, match="32 bytes"):
        Seed(bytes(31))


def test_the_key_of_a_password_is_the_same_everywhere() -> None:
    """A fixed value: a change here locks everybody out who has not changed, too."""
    seed = room_seed("Zw\u00f6lf Boxk\u00e4mpfer", "ROOM1")
    assert seed == room_seed("Zwo\u0308lf Boxka\u0308mpfer", "ROOM1")  # as a Mac's keyboard writes it
    assert seed.octets.hex() == "e438bf8ea148f5b1b0ba1edf410555362903a1a7e8f34cc9a87a76b53933bf4e"
    assert (
        len({seed, room_seed("zw\u00f6lf boxk\u00e4mpfer", "ROOM1"), room_seed("Zw\u00f6lf Boxk\u00e4mpfer", "ROOM2")})
        == 3
    )
