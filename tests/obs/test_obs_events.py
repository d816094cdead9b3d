"""The vocabulary, and that the programs use it rightly."""

import ast
import logging
import re
import string
from pathlib import Path

import pytest

import lanparty
from lanparty.obs import events
from lanparty.obs.events import RESERVED_FIELDS, Event

VOCABULARY = {name: value for name, value in vars(events).items() if isinstance(value, Event)}
SOURCES = sorted(Path(lanparty.__file__).parent.rglob("*.py"))


def fields_of(event: Event) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(event.sentence.translate({91: " ", 93: " "})) if name}


def test_names_are_unique():
    names = [event.name for event in VOCABULARY.values()]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("constant", sorted(VOCABULARY))
def test_an_event_is_well_formed(constant):
    event = VOCABULARY[constant]
    assert re.fullmatch(r"[a-z]+(\.[a-z][a-z0-9-]*)?", event.name)
    assert event.level in {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR}
    assert fields_of(event).isdisjoint(RESERVED_FIELDS)
    assert all(name.isidentifier() for name in fields_of(event))
    assert event.sentence.count("[") == event.sentence.count("]")
    # Anything may be missing or hostile: still one line, and nothing raised.
    assert event.render({})
    for value in (None, "", "a\nb\x1b", 3, 2.5, True, b"\x00", ["x"]):
        assert "\n" not in event.render(dict.fromkeys(fields_of(event), value))


@pytest.mark.parametrize(
    "name",
    ["relay.listening", "gateway.bridging", "client.joined", "client.address"],
)
def test_what_scripts_wait_for_is_there(name):
    assert name in {event.name for event in VOCABULARY.values()}


def test_parts_in_brackets_need_their_fields():
    event = Event("x.y", "{who}[ from {place}][, {count} times].")
    assert event.render({"who": "A", "place": "B", "count": 0}) == "A from B, 0 times."
    assert event.render({"who": "A", "place": "", "count": None}) == "A."
    assert event.render({"who": "A"}) == "A."
    assert event.render({}) == "none."
    assert event.required_fields == {"who"}


def test_numbers_take_a_format_and_other_things_do_not_break_it():
    event = Event("x.y", "{delay:.1f} s")
    assert event.render({"delay": 0.25}) == "0.2 s"
    assert event.render({"delay": 3}) == "3.0 s"
    assert event.render({"delay": "soon"}) == "soon s"
    assert event.render({"delay": None}) == "none s"


def test_text_of_a_stranger_is_not_a_template():
    assert Event("x.y", "{name}[ ({why})]").render({"name": "{why}[x]", "why": "{name}"}) == "{why}[x] ({name})"


def test_address_sentences():
    lease = {"interface": "lan0", "address": "192.168.1.50", "prefix": 24}
    assert events.CLIENT_ADDRESS.render(lease | {"router": None, "server": None, "lease_seconds": None}) == (
        "lan0 has address 192.168.1.50/24: this computer is on the house LAN."
    )
    assert events.CLIENT_ADDRESS.render(
        lease | {"router": "192.168.1.1", "server": "192.168.1.1", "lease_seconds": 60}
    ) == (
        "lan0 has address 192.168.1.50/24, router 192.168.1.1, DHCP server 192.168.1.1, lease of 60 s: "
        "this computer is on the house LAN."
    )


def logged_events() -> list[tuple[str, str, set[str], bool]]:
    """Every ``log(EVENT, field=...)`` in the sources: where, which event, its fields, whether ``**more`` is given."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log" and node.args
            ):
                continue
            name = node.args[0].attr if isinstance(node.args[0], ast.Attribute) else getattr(node.args[0], "id", "")
            if name.isupper():
                given = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                more = any(keyword.arg is None for keyword in node.keywords)
                found.append((f"{path.name}:{node.lineno}", name, given, more))
    return found


def test_the_programs_log_events_of_the_vocabulary_with_the_fields_that_their_sentences_need():
    wrong = []
    for where, name, given, more in logged_events():
        event = VOCABULARY.get(name)
        if event is None:
            wrong.append(f"{where}: {name} is not in events.py")
        elif not more and event.required_fields - given:
            wrong.append(f"{where}: {name} lacks {sorted(event.required_fields - given)}")
        if given & RESERVED_FIELDS:
            wrong.append(f"{where}: {name} uses the reserved {sorted(given & RESERVED_FIELDS)}")
    assert wrong == []
