"""Docs tell the truth: links resolve, and what a user can type, see or be refused for is described."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

from lanparty.ctrl import messages
from lanparty.obs import events
from lanparty.obs.errors import ExitStatus

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
OPERATIONS = ROOT / "docs" / "operations.md"
WIRE = ROOT / "docs" / "wire-format.md"
ROLES = ["relay", "gateway", "client"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


def options(role: str) -> list[str]:
    parser: argparse.ArgumentParser = importlib.import_module(f"lanparty.{role}.options").build_parser()
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_in_operations(role: str) -> None:
    text = OPERATIONS.read_text()
    missing = [option for option in options(role) if f"`{option}" not in text]
    assert not missing


def test_every_documented_option_exists() -> None:
    known = {option for role in ROLES for option in options(role)} | {"--keep", "--quick"}
    documented = set(re.findall(r"^\| `(--[a-z0-9-]+)", OPERATIONS.read_text(), re.MULTILINE))
    assert documented <= known
    assert documented


def test_every_exit_status_is_documented() -> None:
    for page in (ROOT / "README.md", OPERATIONS):
        text = page.read_text()
        assert not [status for status in ExitStatus if f"| {status.value} |" not in text], page


def test_every_event_is_documented() -> None:
    text = OPERATIONS.read_text()
    names = [value.name for value in vars(events).values() if isinstance(value, events.Event)]
    assert names
    assert not [name for name in names if f"`{name}`" not in text]


def test_every_message_and_reject_code_is_documented() -> None:
    text = WIRE.read_text()
    types = [value.TYPE for value in vars(messages).values() if isinstance(getattr(value, "TYPE", None), str)]
    assert types
    assert not [name for name in types if f"`{name}`" not in text]
    assert not [code.value for code in messages.RejectCode if f"`{code.value}`" not in text]


def test_decisions_are_listed() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text()
    assert not [p.name for p in (ROOT / "docs/decisions").glob("0*.md") if p.name not in index]


@pytest.mark.parametrize("module", sorted((ROOT / "lanparty").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_its_map(module: Path) -> None:
    assert module.read_text().startswith(('"""', 'r"""')), "say what the module owns and what it must not know"
