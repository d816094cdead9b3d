"""docs/guard.md has every rule of the guard, at its level, with tests that exist."""

import ast
import re
from pathlib import Path

from lanparty.cli.options import program
from lanparty.guard.guard import Rule
from lanparty.guard.levels import Level
from lanparty.guard.rules import Enforced
from lanparty.relay.guard_options import add_guard_options

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guard.md").read_text()
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
RULES = {row[1].strip("`"): row for row in CELLS if len(row) == 8 and row[1].startswith("`")}
FILES = {row[0]: ROOT / row[1] for row in CELLS if len(row) == 2 and row[1].startswith("tests/")}


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_rule_has_its_line_and_every_line_a_rule() -> None:
    assert set(RULES) == {rule.label for rule in Rule}


def test_rows_and_levels_are_those_of_the_rules() -> None:
    weakest = {Enforced.NO: {"strict"}, Enforced.PART: {"strict (part)"}, Enforced.FULL: {"standard", "off"}}
    wrong = []
    for rule in Rule:
        row, _, level, *_ = RULES[rule.label]
        # Isolation is asked for by room, and then holds at every level.
        levels = {"off"} if rule is Rule.ISOLATION else weakest[rule.at_standard]
        if row != (str(rule.row) if rule.row else "LAN") or level not in levels:
            wrong.append((rule.label, row, level))
    assert wrong == []


def test_every_line_says_what_and_why_and_names_tests_that_exist() -> None:
    for label, (*_, drops, because, twin, unit, real) in RULES.items():
        assert drops, label
        assert because, label
        assert twin, label
        for cell in (unit, real):
            named = re.findall(r"`(\w+)::(test_\w+)`", cell)
            assert named, (label, cell)
            for file, test in named:
                assert test in functions_of(FILES[file]), (label, file, test)


def test_every_level_and_option_is_named() -> None:
    parser = program("lanparty.relay", "")
    before = {option for action in parser._actions for option in action.option_strings}
    add_guard_options(parser)
    options = {option for action in parser._actions for option in action.option_strings} - before
    assert options
    assert not [option for option in options if f"`{option} " not in TEXT]
    assert not [level for level in Level if f"| `{level}` |" not in TEXT]
