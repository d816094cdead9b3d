"""One input of a fuzz target, read as a row of small fields; and the way to write such an input for the corpus.

The layout is as plain as can be, so that libFuzzer's mutations (change, insert, remove, splice bytes) make other inputs
of the same kind: a *number* is big-endian, a *chunk* is two bytes of length and as many bytes, or what is left. Reading
past the end gives zeros and empty chunks: every string of bytes is an input.
"""

from __future__ import annotations

__all__ = ["Input", "chunk", "chunks"]


class Input:
    """Reads one input from its start."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes, or what is left."""
        start = self._at
        self._at = min(start + count, len(self._data))
        return self._data[start : self._at]

    def byte(self) -> int:
        return self.number(1)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size).ljust(size, b"\0"))

    def chunk(self) -> bytes:
        return self.take(self.number(2))

    def rest(self) -> bytes:
        return self.take(len(self._data))


def chunk(data: bytes) -> bytes:
    """What ``Input.chunk`` reads as ``data``."""
    return len(data).to_bytes(2) + data


def chunks(*parts: bytes) -> bytes:
    return b"".join(map(chunk, parts))
