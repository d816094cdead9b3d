"""The one failure that a peer's control bytes can cause.

Owns: ControlError and its codes. Must not know: what a session does about it (it ends that session and no other).
"""

from __future__ import annotations

from typing import Final

__all__ = ["BAD_HELLO", "BAD_JSON", "BAD_MESSAGE", "FRAME_TOO_LARGE", "TOO_DEEP", "ControlError"]

FRAME_TOO_LARGE: Final = "frame-too-large"
"""A control frame over 64 KiB."""
TOO_DEEP: Final = "too-deep"
"""JSON nested deeper than any message of the schema."""
BAD_JSON: Final = "bad-json"
"""Not UTF-8, not JSON, a duplicate key, NaN, or a number beyond 64 bits."""
BAD_MESSAGE: Final = "bad-message"
"""JSON, but not a message of the schema."""
BAD_HELLO: Final = "bad-hello"
"""A hello with a missing, unknown, mistyped or contradictory field."""


class ControlError(Exception):
    """A peer broke the control protocol.

    ``code`` is stable: one of this module, or the value of a ``RejectCode``. ``text`` is a sentence for a person; what
    it quotes of the peer is bounded and printable.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
