"""Which inputs a corpus keeps: the short ones, as long as they reach lines in an order that nothing else does.

Measured in plain Python, so that it works without atheris and means the same with each version of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any, Final

import lanparty

LARGEST: Final = 12 * 1024
"""Bytes of one target's corpus. All of them fit 300 KB of repository, as hexadecimal."""

_OURS: Final = str(lanparty.__path__[0])
_AIOQUIC: Final = "/aioquic/"

Arc = tuple[CodeType, int, int]
"""Two lines of a function that ran one after the other."""


def reached(run: Callable[[bytes], None], data: bytes) -> set[Arc]:
    """The arcs in lanparty and aioquic that ``data`` takes. Raises what ``run`` raises."""
    found: set[Arc] = set()
    known: dict[CodeType, bool] = {}

    def local(code: CodeType) -> Callable[[FrameType, str, Any], Any]:
        before = 0

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal before
            if event == "line":
                found.add((code, before, frame.f_lineno))
                before = frame.f_lineno
            return trace

        return trace

    def called(frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        wanted = known.get(code)
        if wanted is None:
            wanted = known[code] = code.co_filename.startswith(_OURS) or _AIOQUIC in code.co_filename
        return local(code) if wanted else None

    previous = sys.gettrace()
    sys.settrace(called)
    try:
        run(data)
    finally:
        sys.settrace(previous)
    return found


def keep(run: Callable[[bytes], None], inputs: Iterable[bytes], largest: int = LARGEST) -> tuple[list[bytes], int]:
    """Choose among ``inputs``; also give the number of arcs that those chosen reach."""
    seen: set[Arc] = set()
    kept: list[bytes] = []
    room = largest
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        if len(data) > room:
            continue
        arcs = reached(run, data)
        if arcs - seen:
            seen |= arcs
            kept.append(data)
            room -= len(data)
    return kept, len(seen)
