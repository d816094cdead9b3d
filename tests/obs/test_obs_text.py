import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.obs.text import clean_text, is_clean, printable

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)  # surrogates, too


@pytest.mark.parametrize("text", ["", "plain", "Müller", "日本", "a\u200db", "\U0001f468\u200d\U0001f469"])
def test_clean(text):
    assert is_clean(text)
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x00", r"\x00"),
        ("\x7f", r"\x7f"),
        ("\x9b", r"\x9b"),
        ("a\u202eb", r"a\u202eb"),
        ("\u2066", r"\u2066"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
        ("\ufeff", r"\ufeff"),
    ],
)
def test_unsafe(text, shown):
    assert not is_clean(text)
    assert printable(text) == shown


@given(ANY_TEXT)
def test_what_is_made_printable_is_clean_utf8_and_one_line(text):
    shown = printable(text)
    assert is_clean(shown)
    assert shown.encode().decode() == shown
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


@given(ANY_TEXT, st.integers(0, 70))
def test_cleaned_text_may_be_sent(text, limit):
    cleaned = clean_text(text, limit)
    assert is_clean(cleaned)
    assert len(cleaned) <= limit
    assert cleaned == cleaned.strip()


def test_cleaning_keeps_words_apart():
    assert clean_text("  two\r\nlines\t\x1b here ", 64) == "two lines here"
    assert clean_text("abc def", 4) == "abc"
