import io
import json
import logging
import re
import sys
from datetime import UTC, datetime

import pytest
import structlog

from lanparty.ctrl.messages import RejectCode
from lanparty.obs import events
from lanparty.obs.events import Event
from lanparty.obs.framelog import FrameLog, describe_untrusted
from lanparty.obs.log import captured, configure, log


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("quic", "pyroute2", "asyncio", "trio"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


HELLO = Event("test.hello", "Hello {who}.")
DEBUG = Event("test.debug", "Details.", logging.DEBUG)
WARNING = Event("test.warning", "Take care.", logging.WARNING)


def test_text_lines(capsys):
    configure("info", "text", "lanparty.test")
    log(HELLO, who="you")
    log(DEBUG)
    log(WARNING)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line[8:] for line in lines] == ["  Hello you.", "  Take care."]
    assert all(re.match(r"[0-2]\d:[0-5]\d:[0-6]\d  ", line) for line in lines)


def test_json_lines(capsys):
    configure("debug", "json", "lanparty.test")
    log(HELLO, who="a\x1b\n\u202e\ud800", count=3, none=None, many=(1, b"x"), code=RejectCode.VERSION, bad=float("nan"))
    line = capsys.readouterr().err
    assert line.isascii()
    assert line.count("\n") == 1
    entry = json.loads(line)
    assert list(entry)[:4] == ["event", "time", "level", "program"]
    assert list(entry)[-1] == "message"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(entry.pop("time"))).total_seconds()) < 60
    assert entry == {
        "event": "test.hello",
        "level": "info",
        "program": "lanparty.test",
        "who": "a\x1b\n\u202e\ud800",
        "count": 3,
        "none": None,
        "many": [1, "b'x'"],
        "code": "version",
        "bad": "nan",
        "message": r"Hello a\x1b\n\u202e\ud800.",
    }


@pytest.mark.parametrize(
    ("level", "events_seen", "library_seen"),
    [
        ("debug", ["test.debug", "test.hello", "test.warning"], ["info", "warning", "error"]),
        ("info", ["test.hello", "test.warning"], ["warning", "error"]),
        ("warning", ["test.warning"], ["warning", "error"]),
        ("error", [], ["error"]),
    ],
)
def test_levels_of_events_and_of_libraries(capsys, level, events_seen, library_seen):
    configure(level, "json", "lanparty.test")
    for event in (DEBUG, HELLO, WARNING):
        log(event)
    for library in ("pyroute2.netlink", "trio", "somebody"):
        logger = logging.getLogger(library)
        for number in ("debug", "info", "warning", "error"):
            getattr(logger, number)("%s happened", number)
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [entry["event"] for entry in entries if entry["event"].startswith("test.")] == events_seen
    for library in ("pyroute2.netlink", "trio", "somebody"):
        assert [entry["level"] for entry in entries if entry.get("library") == library] == library_seen


def test_library_messages_are_one_line_with_their_exception(capsys):
    configure("info", "text", "lanparty.test")
    root = logging.getLogger()  # without pytest's own, which raises for a library's mistake in its format string
    root.handlers[:] = [handler for handler in root.handlers if "Library" in type(handler).__name__]
    try:
        raise OSError("gone\naway")
    except OSError:
        logging.getLogger("trio").exception("task %r failed", "x")
    logging.getLogger("trio").error("wrong %d", "format")
    lines = capsys.readouterr().err.splitlines()
    assert [line[10:] for line in lines] == [r"trio: task 'x' failed (OSError: gone\naway)", "trio: wrong %d"]


def test_configuring_twice_does_not_write_twice(capsys):
    configure("info", "text", "a")
    configure("info", "text", "b")
    logging.getLogger("trio").error("once")
    assert capsys.readouterr().err.count("once") == 1


def test_an_unknown_level_is_our_own_mistake():
    with pytest.raises(KeyError):
        configure("loud", "text", "x")


def test_without_configuration_events_go_to_stderr_as_text(capsys):
    structlog.reset_defaults()
    log(HELLO, who="you")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("Hello you.\n")


class _GoneStream(io.StringIO):
    def write(self, _text):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, _GoneStream()])
def test_a_terminal_that_is_gone_ends_nothing(monkeypatch, stream):
    configure("info", "text", "lanparty.test")
    monkeypatch.setattr(sys, "stderr", stream)
    log(HELLO, who="you")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    log(HELLO, who="you")


def test_captured_sees_every_level_and_restores(capsys):
    configure("error", "json", "lanparty.test")
    with captured() as entries:
        log(DEBUG)
        log(HELLO, who="you")
    assert entries == [
        {"event": "test.debug", "level": "debug", "message": "Details."},
        {"event": "test.hello", "level": "info", "message": "Hello you.", "who": "you"},
    ]
    log(WARNING)
    log(events.FAILED, text="broken")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["error"]


def test_the_frame_log():
    framelog = FrameLog.when(True)
    assert framelog is not None
    assert framelog.enabled
    with captured() as entries:
        framelog.frames([bytes.fromhex("ffffffffffff0200000000010806") + bytes(46), b"abc"], 7, "to relay")
    assert [entry["message"] for entry in entries] == [
        "to relay 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff 0806 60 bytes, peer 7",
        "to relay short > short short 3 bytes, peer 7",
    ]


def test_the_frame_log_is_nothing_when_off():
    assert FrameLog.when(False) is None


@pytest.mark.parametrize("size", [0, 1, 13, 14, 1514])
def test_a_frame_of_any_length_is_described(size):
    assert describe_untrusted(bytes(size))["length"] == size
