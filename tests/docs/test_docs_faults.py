"""docs/faults.md has every row of the table of faults, and the tests that it names are there and measure that row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
FOLDER = ROOT / "tests" / "lan" / "faults"
ROWS = range(1, 38)


def table() -> dict[int, list[str]]:
    """Cells of each numbered row."""
    lines = re.findall(r"^\| (\d+) \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == len({number for number, _ in lines}), "a row is there twice"
    return {int(number): [cell.strip() for cell in cells.split("|")] for number, cells in lines}


def named(row: int) -> list[tuple[Path, str]]:
    found = re.findall(r"`([\w/]+\.py)::(\w+)`", table()[row][2])
    return [((ROOT if "/" in file else FOLDER) / file, name) for file, name in found]


def test_all_rows_are_there_in_order() -> None:
    assert list(table()) == list(ROWS)
    assert all(len(cells) == 4 and all(cells) for cells in table().values())


@pytest.mark.parametrize("row", ROWS)
def test_its_tests_exist_and_tell_figures(row: int) -> None:
    tests = named(row)
    assert tests, "no test is named"
    for file, name in tests:
        functions = {node.name: node for node in ast.walk(ast.parse(file.read_text())) if hasattr(node, "args")
                     and hasattr(node, "name")}  # fmt: skip
        assert name in functions, f"{file.name} has no {name}"
        told = {
            call.args[0].value
            for call in ast.walk(functions[name])
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "figures" and call.args
            if isinstance(call.args[0], ast.Constant)
        }
        assert row in told, f"{name} tells figures of {told or 'no row'}"


def test_every_test_of_a_row_is_named() -> None:
    """A test that measures a row, and that nobody finds from the page, is worth half."""
    text = PAGE.read_text()
    for file in FOLDER.glob("test_faults_*.py"):
        assert f"`{file.name}::" in text or f"`{file.name}`" in text, file.name
