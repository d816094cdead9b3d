import base64
import itertools
import json
import struct
from typing import Any

import attrs
import pytest
from ctrl_corpus import HELLO, MESSAGES, PROVEN_HELLO, WELCOME
from hypothesis import given
from hypothesis import strategies as st

from lanparty.ctrl.codec import MAX_FRAME, ControlDecoder, ControlError, Unknown, decode_untrusted, encode
from lanparty.ctrl.messages import PROTOCOL, Heartbeat, MessageError, ProtocolVersion, Reject, RejectCode, Stats


def framed(payload: bytes) -> bytes:
    return struct.pack("!I", len(payload)) + payload


def body_of(message: Any) -> dict[str, Any]:
    return json.loads(encode(message)[4:])


def decode(body: Any) -> Any:
    return decode_untrusted(json.dumps(body).encode())


def refused(payload: bytes) -> ControlError:
    with pytest.raises(ControlError) as caught:
        ControlDecoder().feed_untrusted(framed(payload))
    assert caught.value.text == str(caught.value)
    assert caught.value.text.isprintable()
    assert len(caught.value.text) <= 512, "it must fit a reject"
    return caught.value


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_there_and_back(message):
    assert ControlDecoder().feed_untrusted(encode(message)) == [message]


def test_the_wire_form_of_a_hello():
    assert body_of(HELLO) == {
        "type": "hello",
        "version": {"major": 1, "minor": 1},
        "role": "client",
        "room": "ROOM1",
        "virtual_mac": "02:00:00:00:00:01",
        "datagram_budget": 1170,
        "display_name": "player one",
        "software": "lanparty 0.1.0",
    }


def test_the_wire_form_of_proofs():
    body = body_of(PROVEN_HELLO)
    assert body["identity"] == {"key": base64.b64encode(b"\1" * 32).decode(), "signature": "/" * 85 + "w=="}
    assert body["room_key"]["signature"] == base64.b64encode(b"\4" * 64).decode()
    assert decode(body | {"identity": None}).identity is None


def test_a_hello_of_version_1_0_is_understood():
    body = body_of(HELLO) | {"version": {"major": 1, "minor": 0}}
    assert not {"identity", "room_key"} & body.keys()
    assert decode(body) == attrs.evolve(HELLO, version=ProtocolVersion(1, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        5,
        "AAAA",
        [],
        {},
        {"key": "A" * 43 + "="},
        {"key": "A" * 43 + "=", "signature": "A" * 86},
        {"key": "A" * 43 + "=", "signature": "A" * 85 + "B=="},
        {"key": "A" * 43 + "=", "signature": "A" * 84 + "-_=="},
        {"key": "A" * 43 + "=", "signature": "A" * 84 + "\u00e9A=="},
        {"key": "A" * 42 + "==", "signature": "A" * 86 + "=="},
        {"key": None, "signature": "A" * 86 + "=="},
        {"key": "A" * 43 + "=", "signature": "A" * 86 + "==", "curve": 1},
    ],
)
@pytest.mark.parametrize("field", ["identity", "room_key"])
def test_proofs_that_are_none(field, wrong):
    with pytest.raises(ControlError) as caught:
        decode(body_of(HELLO) | {field: wrong})
    assert caught.value.code == "bad-hello"


@given(st.lists(st.integers(0, 400), max_size=30))
def test_it_does_not_matter_how_the_stream_is_cut(cuts):
    stream = b"".join(map(encode, MESSAGES))
    decoder = ControlDecoder()
    edges = [0, *sorted(min(cut * 5, len(stream)) for cut in cuts), len(stream)]
    found = []
    for start, end in itertools.pairwise(edges):
        found += decoder.feed_untrusted(stream[start:end])
    assert found == MESSAGES
    assert decoder.pending == 0


def test_a_stream_that_ends_inside_a_frame_shows_it():
    decoder = ControlDecoder()
    assert decoder.feed_untrusted(encode(HELLO)[:-1]) == []
    assert decoder.pending == len(encode(HELLO)) - 1


# --- framing and JSON ---


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 2**31, 2**32 - 1])
def test_a_frame_that_is_too_large_is_refused_by_its_length_alone(length):
    decoder = ControlDecoder()
    with pytest.raises(ControlError, match=f"{length} bytes is larger than the limit of 65536") as caught:
        decoder.feed_untrusted(struct.pack("!I", length))
    assert caught.value.code == "frame-too-large"
    assert decoder.pending == 0


def test_a_frame_of_the_largest_size_is_read():
    payload = encode(Heartbeat(1, False))[4:]
    assert ControlDecoder().feed_untrusted(framed(payload.ljust(MAX_FRAME))) == [Heartbeat(1, False)]


def test_after_an_error_the_same_error_comes_for_ever():
    decoder = ControlDecoder()
    for data in (framed(b"?"), encode(HELLO), b""):
        with pytest.raises(ControlError, match="not JSON"):
            decoder.feed_untrusted(data)


def test_encode_refuses_what_no_decoder_would_take():
    huge = Heartbeat(1, False)
    object.__setattr__(huge, "sequence", "x" * MAX_FRAME)
    with pytest.raises(MessageError, match="larger than 65536"):
        encode(huge)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "bad-json"),
        (b" ", "bad-json"),
        (b"null", "bad-json"),
        (b"[]", "bad-json"),
        (b"1", "bad-json"),
        (b'"hello"', "bad-json"),
        (b"{", "bad-json"),
        (b"}", "bad-json"),
        (b"{}x", "bad-json"),
        (b"{'type': 1}", "bad-json"),
        (b'{"type":"stats",}', "bad-json"),
        (b"\xff\xfe", "bad-json"),
        (b'{"type":"\xc0\xaf"}', "bad-json"),
        (b'{"type":"\xed\xa0\x80"}', "bad-json"),
        (b'\xef\xbb\xbf{"type":"stats"}', "bad-json"),
        (b'{"type":"heartbeat","sequence":NaN,"reply":false}', "bad-json"),
        (b'{"type":"heartbeat","sequence":Infinity,"reply":false}', "bad-json"),
        (b'{"type":"heartbeat","sequence":-Infinity,"reply":false}', "bad-json"),
        (b'{"type":"heartbeat","sequence":1e999,"reply":false}', "bad-json"),
        (b'{"type":"heartbeat","sequence":' + b"9" * 20 + b',"reply":false}', "bad-json"),
        (b'{"type":"heartbeat","sequence":' + b"9" * 60000 + b',"reply":false}', "bad-json"),
        (b'{"type":"heartbeat","sequence":0.' + b"9" * 60000 + b',"reply":false}', "bad-json"),
        (b'{"type":"heartbeat","sequence":1,"sequence":1,"reply":false}', "bad-json"),
        (b'{"type":"stats","counters":{"a":1,"\\u0061":1}}', "bad-json"),
        (b'{"type":"stats","type":"stats","counters":{}}', "bad-json"),
        (b"[" * 65000, "too-deep"),
        (b'{"a":' * 12000, "too-deep"),
        (b'{"type":"x","y":[[[1]]]}', "too-deep"),
        (b'{"type":"x","y":[{"z":{}}]}', "too-deep"),
        (b"{}", "bad-message"),
        (b'{"type":null}', "bad-message"),
        (b'{"type":1}', "bad-message"),
        (b'{"type":["hello"]}', "bad-message"),
        (b'{"type":""}', "bad-message"),
        (b'{"type":"Hello"}', "bad-message"),
        (b'{"type":"\\u001b[2J"}', "bad-message"),
        (b'{"type":"' + b"x" * 65 + b'"}', "bad-message"),
    ],
    ids=lambda value: value[:40],
)
def test_bad_payloads(payload, code):
    assert refused(payload).code == code


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"x","y":"[[[[[[[["}',
        '{"type":"x","y":"\\"[[[[[[[["}',
        '{"type":"x","y":"\\\\","z":[]}',
        '{"type":"x","[[[[[":"{{{{"}',
        '{"type":"x","y":[[],[],{},[],{}]}',
        '{"type":"x","y":1.5}',
    ],
)
def test_brackets_in_strings_and_side_by_side_are_not_depth(text):
    assert decode_untrusted(text.encode()) == Unknown("x")


@pytest.mark.parametrize("payload", [b'"' * 65536, b'\\"' * 32768, b'"\\' * 32768, b'"' + b"\\" * 65535, b"[]" * 32768])
def test_the_depth_check_is_linear(payload):
    """Quadratic matching would take minutes here: the whole test directory has half a minute."""
    assert refused(payload).code == "bad-json"


# --- fields ---

WRONG_VALUES = [None, True, False, 0, -1, 1.0, 1.5, "", "5", "client", "x" * 600, [], [1], {}, {"major": 1}, 2**62]


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += paths(item, (*path, key))
    return found


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(body))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return copy


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_nothing_is_coerced(message):
    """Each field of each message, each wrong value: refused, or taken as exactly what was said."""
    body = body_of(message)
    for path in paths(body):
        for value in WRONG_VALUES:
            changed = replaced(body, path, value)
            try:
                decoded = decode(changed)
            except ControlError:
                continue
            if isinstance(decoded, Unknown):
                assert path == ("type",)
                continue
            if isinstance(message, Reject) and path == ("code",):
                assert type(value) is str  # a word that is not known here
                continue
            # Python says True == 1 == 1.0; JSON text does not.
            if value is None and path in (("identity",), ("room_key",)):
                changed.pop(path[0])  # a proof that is not there is not written
            again = json.dumps(body_of(decoded), sort_keys=True)
            assert again == json.dumps(changed, sort_keys=True), (path, value)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_every_field_is_needed(message):
    body = body_of(message)
    for field in body.keys() - {"type", "identity", "room_key"}:
        shorter = {key: value for key, value in body.items() if key != field}
        if isinstance(message, Reject) and field == "version":
            assert decode(shorter) == message  # a reject is read whatever it says of its version
            continue
        with pytest.raises(ControlError, match=f"lacks '{field}'") as caught:
            decode(shorter)
        assert caught.value.code == ("bad-hello" if message.TYPE == "hello" else "bad-message")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("datagram_budget", "1170"),
        ("datagram_budget", 1170.0),
        ("datagram_budget", True),
        ("virtual_mac", 2),
        ("role", "relay"),
        ("role", "CLIENT"),
        ("role", None),
        ("room", None),
        ("display_name", "a\nb"),
        ("display_name", "x" * 65),
        ("version", "1.0"),
        ("version", [1, 0]),
        ("version", {"major": True, "minor": 0}),
        ("version", {"major": 1.0, "minor": 0}),
        ("version", {"major": 1}),
        ("version", {"major": 1, "minor": 0, "patch": 0}),
    ],
)
def test_bad_hello_fields(field, value):
    with pytest.raises(ControlError) as caught:
        decode(body_of(HELLO) | {field: value})
    assert caught.value.code == "bad-hello"


# --- versions ---


@pytest.mark.parametrize("message", [HELLO, WELCOME, Reject(RejectCode.ROOM_FULL, "Full.")], ids=lambda m: m.TYPE)
def test_extra_fields_of_our_minor_are_refused_and_of_a_newer_one_ignored(message):
    body = body_of(message) | {"colour": "red"}
    with pytest.raises(ControlError, match="unknown field, 'colour'"):
        decode(body)
    newer = ProtocolVersion(1, 2)
    assert decode(body | {"version": {"major": 1, "minor": 2}}) == attrs.evolve(message, version=newer)
    assert decode(body | {"version": {"major": 1, "minor": 2, "patch": 3}}) == attrs.evolve(message, version=newer)


def test_extra_fields_of_other_messages_are_ignored():
    assert decode(body_of(Heartbeat(5, True)) | {"load": 0.5}) == Heartbeat(5, True)
    assert decode(body_of(Stats({"a": 1})) | {"load": [1]}) == Stats({"a": 1})


def test_unknown_types_come_out_as_unknown():
    assert decode({"type": "room-renamed", "to": [1, {"a": "b"}]}) == Unknown("room-renamed")


@pytest.mark.parametrize("kind", ["hello", "welcome"])
@pytest.mark.parametrize(("major", "older"), [(0, "the other side"), (2, "this side"), (65535, "this side")])
def test_an_unknown_major_is_refused_with_both_versions_however_foreign_the_rest(kind, major, older):
    with pytest.raises(ControlError) as caught:
        decode({"type": kind, "version": {"major": major, "minor": 3, "epoch": 1}, "who": ["knows"], "role": 5})
    assert caught.value.code == RejectCode.VERSION.value
    assert f"{major}.3" in caught.value.text
    assert str(PROTOCOL) in caught.value.text
    assert f"update {older}" in caught.value.text


def test_a_reject_is_read_whatever_its_version_and_code():
    body = {"type": "reject", "code": "full-moon", "text": "Not tonight.", "version": {"major": 2, "minor": 0}, "x": 1}
    assert decode(body) == Reject(RejectCode.PROTOCOL, "Not tonight.", ProtocolVersion(2, 0))
