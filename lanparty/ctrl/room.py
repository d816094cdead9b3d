"""Room codes: the name of one virtual Ethernet segment.

Owns: which codes are lawful, and the one canonical form (upper case) by which rooms are compared.
Must not know: which rooms exist.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_ROOM_LENGTH", "RoomError", "parse_room"]

MAX_ROOM_LENGTH: Final = 32
"""Characters. Enough for a name with a random part; short enough to be read out on the phone."""

# re.ASCII: str.upper() turns some letters (such as U+0131, dotless i) into ASCII ones, so look before changing case.
_ROOM: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_ROOM_LENGTH - 1}}}", re.ASCII)


class RoomError(ValueError):
    """Not a room code. The text is a sentence for a person."""


def parse_room(text: str) -> str:
    """The canonical form (upper case) of a room code. Raises RoomError.

    A code is 1 to 32 characters of A-Z, 0-9, ``-`` and ``_``, the first a letter or digit; lower case is accepted.
    """
    if _ROOM.fullmatch(text) is None:
        raise RoomError(
            f"{text[: MAX_ROOM_LENGTH + 8]!a} is not a room code: use 1 to {MAX_ROOM_LENGTH} letters A-Z, digits, "
            "- and _, beginning with a letter or digit"
        )
    return text.upper()
