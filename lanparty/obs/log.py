"""Writes events to stderr, and to a file if there is one: a line for people, or a JSON line for scripts.

Owns: structlog's configuration, the two line formats, what becomes of the libraries' own logging.
Must not know: which events exist beyond the one for library messages, which role runs.

Text::

    HH:MM:SS  sentence                                                       (local time)
    2025-11-22T18:05:12.345Z info     sentence                         (in a file, which may be sent far away)

JSON lines, keys in this order, ``time`` in UTC::

    {"event": name, "time": "2025-11-22T18:05:12.345Z", "level": "info", "program": "lanparty.client",
     FIELD: value, ..., "message": sentence}

What strangers do makes lines, so their number is bounded: by event ``BURST`` lines at once and ``RATE`` a second in the
long run. What is left out is counted, and the next line of that event tells (``left_out`` in JSON). Only the frame log,
which the user asked for, is written in full.

Libraries (trio, aioquic, pyroute2, asyncio) log through the standard library. Their messages pass at WARNING and above;
with level debug also at INFO. Their DEBUG never passes: aioquic has a line per packet there.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Literal

import structlog

from lanparty.obs.events import FRAME, LIBRARY, Event
from lanparty.obs.logfile import LogFile

__all__ = ["LEVELS", "LogFormat", "captured", "configure", "file_line", "listening", "log"]

LogFormat = Literal["text", "json"]

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""What ``--log-level`` takes."""

BURST: Final = 1000
"""Lines of one event at once: a relay with hundreds of members that all come back after a restart."""
RATE: Final = 10.0
"""Lines of one event a second, in the long run: whoever makes it join and leave as fast as handshakes go (1000 a
second) fills 250 MB a day with it, and not 25 GB."""

_EVENT_KEY: Final = "_event"

_Listener = Callable[[Event, Mapping[str, Any]], None]
_listeners: Final[list[_Listener]] = []


class _StderrLogger:
    """structlog's last link: one finished line to whatever ``sys.stderr`` is now.

    A terminal or a journal that has gone away must not end a tunnel, so failures to write are ignored: there is no
    place left to report them to. No text fails for its characters: a console of Windows takes all of Unicode, and what
    the encoding of a redirected stderr does not have is written as ``\\xNN`` (its error handler, on all systems).
    """

    def __init__(self, *_args: object) -> None:
        pass

    def msg(self, line: str) -> None:
        stream = sys.stderr
        if stream is None:  # as under pythonw, or started with stderr closed
            return
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return

    debug = info = warning = error = critical = msg


def _plain(value: Any) -> Any:
    """``value`` as JSON can carry it."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return str(value)


class _Thrift:
    """Which lines are too many. Events are those of ``events.py``, so there are not many to remember."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float, int]] = {}
        """By event: lines that may be written, since when, and how many were left out."""

    def left_out(self, event: Event) -> int | None:
        """How many lines of ``event`` were left out before this one; None when this one is left out, too."""
        now = self._clock()
        lines, since, skipped = self._left.get(event.name, (BURST, now, 0))
        lines = min(BURST, lines + (now - since) * RATE)
        if lines < 1:
            self._left[event.name] = lines, now, skipped + 1
            return None
        self._left[event.name] = lines - 1, now, 0
        return skipped


class _Renderer:
    """structlog's processor: event dictionary in, finished line out."""

    def __init__(
        self,
        fmt: LogFormat,
        program: str,
        clock: Callable[[], float] = time.monotonic,
        file: LogFile | None = None,
    ) -> None:
        self._fmt = fmt
        self._program = program
        self._file = file
        self._thrift = _Thrift(clock)

    def __call__(self, _logger: Any, level: str, event_dict: MutableMapping[str, Any]) -> str:
        name = str(event_dict.pop("event", ""))
        event = event_dict.pop(_EVENT_KEY, None)
        skipped = 0
        if isinstance(event, Event) and event is not FRAME:
            count = self._thrift.left_out(event)
            if count is None:
                raise structlog.DropEvent
            skipped = count
        # Somebody may use structlog without an Event: the text is then the sentence.
        sentence = (
            event.render(event_dict) if isinstance(event, Event) else Event(name, "{text}").render({"text": name})
        )
        if skipped:
            sentence += f" ({skipped} more like this were left out.)"
            event_dict["left_out"] = skipped
        if self._fmt == "text":
            if self._file is not None:
                self._file.write(file_line(level, sentence))
            return f"{datetime.now().astimezone():%H:%M:%S}  {sentence}"
        fields = {key: _plain(value) for key, value in event_dict.items()}
        head = {"event": name, "time": _moment(), "level": level, "program": self._program}
        line = json.dumps({**head, **fields, "message": sentence})
        if self._file is not None:
            self._file.write(line)
        return line


def _moment() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def file_line(level: str, sentence: str) -> str:
    """Give the line that a file gets in text format. Its times are UTC: a host compares files of several players."""
    return f"{_moment()} {level:8} {sentence}"


class _LibraryHandler(logging.Handler):
    """Takes what libraries log through the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a library's own mistake in its format string
            text = str(record.msg)
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            text = f"{text} ({type(error).__name__}: {error})"
        _emit(level, LIBRARY, {"library": record.name, "text": text})


def configure(level: str, fmt: LogFormat, program: str, file: LogFile | None = None) -> None:
    """Set logging up for the process. ``level`` is one of LEVELS; ``program`` is as in ``lanparty.client``.

    ``file`` gets every line as well. Raises KeyError for a level that is not in LEVELS.
    """
    number = LEVELS[level]
    _configure_structlog(number, fmt, program, file)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _LibraryHandler):
            root.removeHandler(handler)
    root.addHandler(_LibraryHandler())
    libraries = logging.INFO if number <= logging.DEBUG else max(number, logging.WARNING)
    root.setLevel(libraries)
    for noisy in ("pyroute2", "asyncio", "trio"):  # some set a level of their own when imported
        logging.getLogger(noisy).setLevel(libraries)


def _configure_structlog(level: int, fmt: LogFormat, program: str, file: LogFile | None = None) -> None:
    structlog.configure(
        processors=[_Renderer(fmt, program, file=file)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,  # configure() may be called again, and tests swap the processors
    )


def log(event: Event, /, **fields: Any) -> None:
    """Report ``event``. Never raises for what the fields hold, never blocks on a reader that is gone."""
    for listener in _listeners:
        listener(event, fields)
    _emit(event.level, event, fields)


@contextmanager
def listening(listener: Callable[[Event, Mapping[str, Any]], None]) -> Iterator[None]:
    """Inside, ``listener`` hears each event that is reported, of every level, before it is written."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _emit(level: int, event: Event, fields: Mapping[str, Any]) -> None:
    if not structlog.is_configured():  # a module used on its own: as a program would by default
        _configure_structlog(logging.INFO, "text", "lanparty")
    structlog.get_logger().log(level, event.name, **{_EVENT_KEY: event}, **fields)


@contextmanager
def captured() -> Iterator[list[dict[str, Any]]]:
    """For tests: inside, events of every level are appended to the list, as dictionaries, instead of written.

    Each has ``event`` (the name), ``level`` (such as "info"), ``message`` (the sentence) and the fields.
    """
    entries: list[dict[str, Any]] = []

    def keep(_logger: Any, level: str, event_dict: MutableMapping[str, Any]) -> Any:
        entry = dict(event_dict)
        event = entry.pop(_EVENT_KEY, None)
        entry["message"] = event.render(entry) if isinstance(event, Event) else entry["event"]
        entry["level"] = level
        entries.append(entry)
        raise structlog.DropEvent

    was_configured = structlog.is_configured()
    before = structlog.get_config()
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,
    )
    try:
        yield entries
    finally:
        if was_configured:
            structlog.configure(**before)
        else:
            structlog.reset_defaults()
