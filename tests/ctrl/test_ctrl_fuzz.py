"""What a stranger sends ends in messages or in ControlError, and in nothing else: over 10^5 mutated inputs, seeded."""

import base64
import copy
import json
import random
import struct
from typing import Any

from ctrl_corpus import MESSAGES
from hypothesis import given, settings
from hypothesis import strategies as st

from lanparty.ctrl.codec import MAX_FRAME, ControlDecoder, ControlError, Unknown, decode_untrusted, encode
from lanparty.ctrl.messages import Hello, RejectCode, Welcome
from lanparty.ctrl.proof import Seed, is_proven_untrusted
from lanparty.ctrl.validate import check_hello, check_welcome
from lanparty.obs.text import is_clean

KEY = base64.b64encode(Seed(b"\1" * 32).public).decode()
PAYLOADS = [encode(message)[4:] for message in MESSAGES]
TOKENS = [
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"\\",
        b",",
        b":",
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"-",
        b"1e999",
        b"\x00",
        b"\xff",
    ),
    *(
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\\u001b",
        b"9" * 30,
        b'{"a":' * 5,
        b"[" * 100,
        b'"type"',
        b'"version"',
        b"\xe2\x80\xae",
    ),
]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**31,
        2**63 - 1,
        2**63,
        -(2**63) - 1,
        10**400,
        0.5,
        -0.0,
        1e308,
        [],
        {},
        [[]],
        [{}],
    ),
    *("", "a", "5", "\x1b[2J", "\u202e", "\ud800", "x" * 65, "x" * 600, "client", "gateway", "hello", "version"),
    *(
        {"major": 2, "minor": 0},
        {"major": 1, "minor": 7},
        {"major": "1", "minor": 0},
        {"type": "hello"},
        ["a", 1, None],
    ),
    *("02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "02-00-00-00-00-01", "ROOM1", "room 1", "NaN", 65535, 65536, 1500),
]


def verdict(payload: bytes) -> str:
    """Decode and check one payload. Whatever else than ControlError is raised fails the test."""
    try:
        return accepted(payload)
    except ControlError as wrong:
        error = wrong
    assert error.text.isprintable()
    assert len(error.text) <= 512
    assert RejectCode.of(error.code)
    return error.code


def accepted(payload: bytes) -> str:
    message = decode_untrusted(payload)
    if isinstance(message, Unknown):
        return "unknown"
    if isinstance(message, Hello):
        hello = check_hello(message)
        assert is_proven_untrusted(hello, bytes(32)) == (hello.identity is None and hello.room_key is None)
        assert hello.room.isascii()
        assert is_clean(hello.display_name)
    elif isinstance(message, Welcome):
        check_welcome(message)
    # What was taken in can be sent on: no lone surrogates, no numbers beyond JSON.
    assert decode_untrusted(encode(message)[4:]) == message
    return message.TYPE


def mutated_bytes(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(PAYLOADS))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                del data[at : at + rng.randrange(1, 12)]
            case 4:
                data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randrange(1, 40)]
            case _:
                other = rng.choice(PAYLOADS)
                data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


def mutated_values(rng: random.Random) -> bytes:
    """Still JSON: values, keys and structure are changed."""
    body = json.loads(rng.choice(PAYLOADS))
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder: Any = body
        while True:
            if not holder:
                break
            key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
            below = holder[key]
            if isinstance(below, (dict, list)) and below and rng.random() < 0.6:
                holder = below
                continue
            match rng.randrange(4):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, dict):
                    holder[str(rng.choice(VALUES))] = below
                case _:
                    holder[key] = copy.deepcopy(rng.choice(VALUES))  # it may be mutated itself, later on
            break
    return json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def test_sixty_thousand_mutations_of_bytes():
    rng = random.Random(20251122)
    seen = {verdict(mutated_bytes(rng)) for _ in range(60_000)}
    assert {"bad-json", "too-deep", "bad-message", "bad-hello", "hello", "welcome", "unknown"} <= seen


def test_sixty_thousand_mutations_of_values():
    rng = random.Random(9221)
    seen = {verdict(mutated_values(rng)) for _ in range(60_000)}
    assert {"version", "bad-mac", "bad-room", "mtu-too-small", "bad-hello", "hello", "reject", "stats"} <= seen


def mutated_text(rng: random.Random, text: str) -> str:
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(text) + 1)
        new = rng.choice("0123456789abfABF:-._ gZ\u0131\n\x1b\u202e\U0001f3ae")
        text = text[:at] + new + text[at + rng.randrange(2) :]
    return text


def test_a_hundred_thousand_hellos():
    """Hellos that are nearly right, through decoding and check_hello."""
    rng = random.Random(1500)
    seen: dict[str, int] = {}
    for _ in range(100_000):
        body = {
            "type": "hello",
            "version": {"major": rng.choice((1, 1, 1, 1, 1, 1, 2, 0)), "minor": rng.choice((0, 1, 2))},
            "role": rng.choice(("client", "client", "client", "gateway", "player")),
            "room": mutated_text(rng, "ROOM1"),
            "virtual_mac": rng.choice((mutated_text(rng, "02:00:00:00:00:01"), None)),
            "datagram_budget": rng.choice((1170, 1442, 256, 255, 65535, 65536, -1)),
            "display_name": mutated_text(rng, "player"),
            "software": "lanparty",
        }
        if rng.random() < 0.3:
            proof = {"key": rng.choice((KEY, KEY, KEY[1:], 5)), "signature": "A" * 86 + "=="}
            body[rng.choice(("identity", "room_key"))] = rng.choice((proof, proof, None, {}))
        if rng.random() < 0.1:
            body[rng.choice([*body, "extra"])] = rng.choice(VALUES)
        code = verdict(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        seen[code] = seen.get(code, 0) + 1
    assert {"hello", "version", "bad-hello", "bad-room", "bad-mac", "mtu-too-small"} <= seen.keys()
    assert seen["hello"] > 4_000


def test_mutated_streams_through_the_decoder():
    """Frames with mutated lengths and contents, cut anywhere: bounded memory, messages or ControlError."""
    rng = random.Random(1200)
    ended = 0
    for _ in range(100_000):
        stream = bytearray()
        for _ in range(rng.randrange(1, 4)):
            payload = mutated_bytes(rng) if rng.random() < 0.3 else rng.choice(PAYLOADS)
            length = len(payload) if rng.random() < 0.9 else rng.choice((0, 1, MAX_FRAME, MAX_FRAME + 1, 2**32 - 1))
            stream += struct.pack("!I", length) + payload
        decoder = ControlDecoder()
        try:
            while stream:
                size = rng.randrange(1, 200)
                decoder.feed_untrusted(bytes(stream[:size]))
                del stream[:size]
                assert decoder.pending <= MAX_FRAME + 4
        except ControlError:
            ended += 1
            assert decoder.pending == 0
    assert 10_000 < ended < 90_000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data):
    verdict(data)
    try:
        ControlDecoder().feed_untrusted(data)
    except ControlError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([json.loads(payload) for payload in PAYLOADS]), st.data())
def test_any_json_in_the_place_of_any_field(body, data):
    field = data.draw(st.sampled_from(sorted(body)))
    verdict(json.dumps(body | {field: data.draw(JSON)}).encode())
