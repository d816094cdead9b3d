"""docs/bounds.md names tests that exist, one for each table, and no table twice."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "bounds.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| Table")
]


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_table_says_its_bound_and_its_test():
    assert len(ROWS) > 40
    for table, bound, _full, _counter, test in ROWS:
        assert table, test
        assert bound, table
        assert re.fullmatch(r"`tests/\w+/test_\w+\.py::test_\w+`", test), table
    names = [row[0] for row in ROWS]
    assert len(set(names)) == len(names)


def test_the_tests_exist():
    missing = []
    for *_rest, cell in ROWS:
        path, _, name = cell.strip("`").partition("::")
        if not (ROOT / path).exists() or name not in functions_of(ROOT / path):
            missing.append(cell)
    assert not missing


def test_every_test_of_bounds_is_named():
    """So that a table which somebody adds with its test is not left out of the list."""
    for path in (ROOT / "tests" / "bounds").glob("test_*.py"):
        named = re.findall(rf"{path.name}::(test_\w+)", TEXT)
        assert named, path
        assert set(named) <= functions_of(path)
