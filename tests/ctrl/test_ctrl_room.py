import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.ctrl.room import RoomError, parse_room


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ROOM1", "ROOM1"),
        ("room1", "ROOM1"),
        ("a", "A"),
        ("0", "0"),
        ("7-_", "7-_"),
        ("x" * 32, "X" * 32),
        ("Friday-Night_2025", "FRIDAY-NIGHT_2025"),
    ],
)
def test_good(text, canonical):
    assert parse_room(text) == canonical
    assert parse_room(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-a",
        "_a",
        "a b",
        "a.b",
        "x" * 33,
        "ROOM1\n",
        "\nROOM1",
        "ro\x00m",
        "röom",
        "\u0131",
        "ﬁ",
        "１",
        "a/b",
        "\ud800",
    ],
)
def test_bad(text):
    with pytest.raises(RoomError, match="is not a room code: use 1 to 32 letters"):
        parse_room(text)


@given(st.text(max_size=40))
def test_any_text_is_canonical_or_refused_in_printable_words(text):
    try:
        code = parse_room(text)
    except RoomError as error:
        code, sentence = None, str(error)
    else:
        sentence = ""
    assert sentence.isascii()
    assert sentence.isprintable()
    if code is not None:
        assert code == text.upper()
        assert code.isascii()
        assert 1 <= len(code) <= 32
