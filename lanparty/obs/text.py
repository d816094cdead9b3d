"""Text that came from somebody else, made safe for a terminal.

Owns: which characters may reach a terminal or a log line, and how the others are shown.
Must not know: where the text came from.

A display name or a reject sentence is written by a stranger and shown on our terminal. Control characters could move
the cursor, change colours or forge log lines; bidirectional controls could make a line read as another one; lone
surrogates cannot be encoded as UTF-8 at all.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["clean_text", "is_clean", "printable"]

# C0, DEL and C1 controls; Arabic letter mark, LRM, RLM; line and paragraph separator; bidi embeddings, overrides and
# isolates; surrogates; byte order mark. Zero width joiners stay: emoji and several scripts need them.
_UNSAFE: Final = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def is_clean(text: str) -> bool:
    """Whether ``text`` can be shown as it is: no control characters, no bidirectional controls, no surrogates."""
    return _UNSAFE.search(text) is None


def printable(text: str) -> str:
    r"""``text`` with every unsafe character written as an escape (``\x1b``, ``\u202e``): always one line."""
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)


def clean_text(text: str, limit: int) -> str:
    """``text`` made fit to be sent: unsafe characters become spaces, runs of them one, at most ``limit`` characters."""
    return " ".join(_UNSAFE.sub(" ", text).split())[:limit].rstrip()
