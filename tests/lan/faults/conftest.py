"""The table of faults: each test says what it measured, and the session ends with all rows in order.

def test_...(figures):
    figures(8, "NAT port rebind every 5 s", rejoins=0, lost_percent=0.2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ROWS = 37
"""Rows of the table in docs/faults.md."""

_measured: dict[int, list[str]] = {}


@pytest.fixture
def figures() -> Callable[..., None]:
    """Notes what one row of the table was seen to do."""

    def note(row: int, what: str, **values: Any) -> None:
        assert 1 <= row <= ROWS
        shown = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in values.items())
        _measured.setdefault(row, []).append(f"{what}: {shown}")

    return note


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _measured:
        return
    terminalreporter.section("faults: what was seen")
    for row in range(1, ROWS + 1):
        for line in _measured.get(row, ["not run here"]):
            terminalreporter.write_line(f"{row:>3}  {line}")
