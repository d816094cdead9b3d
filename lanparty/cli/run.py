"""From ``python -m lanparty.X`` to an exit status.

Owns: the order parse -> logging -> trio -> one line about the failure -> status; signals; the choice among failures
that come together. Must not know: what the programs do.

With --log-file the file gets what standard error gets, and the traceback of what nobody expected.

A role's ``__main__.py``::

    from lanparty.cli.run import main
    sys.exit(main(build_parser(), amain))

with ``async def amain(options: argparse.Namespace, stop: trio.Event, service: Service) -> None``, which returns when it
has put everything back after ``stop`` was set.

Signals: the first SIGINT, SIGTERM or SIGHUP sets ``stop``; a second one ends the process at once, even when a plain
function hangs, which is why these are handlers of the process and not trio's receiver. A window that is closed counts
as a signal.

A role that can reload (``reloads=True``) is told so by SIGHUP instead. But a program that was started in a terminal
ends with it, as people expect: SIGHUP while that terminal is gone stops a role of either kind.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from types import FrameType
from typing import Final

import trio

import lanparty
from lanparty.cli.options import parse
from lanparty.cli.process import prepare
from lanparty.cli.service import Service
from lanparty.obs.errors import (
    ConnectionFailedError,
    ExitStatus,
    LanpartyError,
    MachineError,
    RefusedError,
    UntrustedError,
    UsageError,
)
from lanparty.obs.events import FAILED, LOG_FILE, STOPPED, STOPPING
from lanparty.obs.log import configure, file_line, log
from lanparty.obs.logfile import LogFile
from lanparty.obs.switches import check_environment
from lanparty.obs.text import printable

__all__ = ["AsyncMain", "choose_failure", "main"]

AsyncMain = Callable[[argparse.Namespace, trio.Event, Service], Awaitable[int | None]]
"""A role's program. None: stopped as asked. An int is the exit status."""

SECOND_SIGNAL_AFTER: Final = 0.5
"""Seconds. Sooner ones are the same wish: Ctrl-C reaches the whole process group, and a parent (nox, the demo, a shell)
then passes it on to its children once more."""

# What a person can act on comes first. A failed connection is often only what followed from the others.
_PRIORITY: Final = (UsageError, UntrustedError, RefusedError, MachineError, ConnectionFailedError, LanpartyError)


def main(
    parser: argparse.ArgumentParser, amain: AsyncMain, argv: Sequence[str] | None = None, *, reloads: bool = False
) -> int:
    """Run a program. Returns its exit status (``ExitStatus``), for sys.exit; every failure is one line on stderr.

    ``reloads``: ``amain`` answers SIGHUP, by ``service.reload_on_hangup``.
    """
    try:
        status = _main(parser, amain, argv, reloads)
    except SystemExit as asked:  # --help, --version
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
    except KeyboardInterrupt:  # before our handlers stood: nothing was begun
        status = ExitStatus.OK
    except BrokenPipeError:  # the reader of --help is gone; newer argparse ignores that by itself
        status = ExitStatus.FAILED
    return _close_output(status)


def _main(parser: argparse.ArgumentParser, amain: AsyncMain, argv: Sequence[str] | None, reloads: bool) -> int:
    try:
        options = parse(parser, argv)
        check_environment()
        file = _log_file(options)
    except UsageError as error:
        _write_line(parser.prog, str(error))
        return ExitStatus.USAGE
    with nullcontext() if file is None else closing(file):
        configure(options.log_level, options.log_format, parser.prog, file)
        if file is not None:
            log(LOG_FILE, file=str(file.path), version=lanparty.__version__, system=_system())
        return _run(parser, amain, argv, reloads, options, file)


def _log_file(options: argparse.Namespace) -> LogFile | None:
    """Open the file of --log-file. Raises UsageError."""
    if options.log_file is None:
        return None
    room = getattr(options, "room", None)
    return LogFile(options.log_file, () if room is None else (room,))


def _system() -> str:
    """Tell Python and system, without asking anybody: ``platform`` starts programs, or waits for Windows' WMI."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.platform == "win32":
        windows = sys.getwindowsversion()
        return f"Python {version}, {sysconfig.get_platform()}, Windows {windows.major}.{windows.minor}.{windows.build}"
    else:
        return f"Python {version}, {sysconfig.get_platform()}, {os.uname().sysname} {os.uname().release}"


def _run(
    parser: argparse.ArgumentParser,
    amain: AsyncMain,
    argv: Sequence[str] | None,
    reloads: bool,
    options: argparse.Namespace,
    file: LogFile | None,
) -> int:
    """Have trio run ``amain`` till its end; a status."""
    prepare()
    service = Service.of_this_process(os.environ, lambda: parse(parser, argv))
    signals = _StopSignals(service.hang_up if reloads else None)

    async def watched() -> int | None:
        stop = trio.Event()
        signals.attach(stop)
        return await amain(options, stop, service)

    with _handling_the_window(signals.window_closed), service.connected():
        try:
            with signals.installed():
                status = trio.run(watched)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the last resort: a person gets one line instead of a traceback
            return _report(options, parser.prog, error, file)
        if status:
            return status
        log(STOPPED)
        return ExitStatus.OK


def _handling_the_window(stop: Callable[[], None]) -> AbstractContextManager[None]:
    """Call ``stop``, from any thread, when the program's window closes inside; on Linux there is a signal for that."""
    if sys.platform == "win32":
        from lanparty.cli.window import handling

        return handling(stop)
    else:
        return nullcontext()


class _StopSignals:
    """Turns the first signal into an event, and the second one into the end of the process."""

    def __init__(self, hang_up: Callable[[], None] | None = None) -> None:
        """``hang_up`` is called, in the main loop, for a SIGHUP that is no end; None: every one is."""
        self._hang_up = hang_up
        self._had_terminal = _has_terminal()
        self._first_at: float | None = None
        self._name = ""
        self._stop: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals inside; the handlers from before come back."""
        before = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            # SIGHUP that is ignored was ignored on purpose: nohup.
            if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                continue
            before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def attach(self, stop: trio.Event) -> None:
        """Tell the handlers about the running trio. A signal that came already counts."""
        self._stop = stop
        self._token = trio.lowlevel.current_trio_token()
        if self._first_at is not None:
            self._set()

    def window_closed(self) -> None:
        """The program's window is closed. May be called in any thread."""
        if self._first_at is None:
            self._first_at = time.monotonic()
            self._name = "the window was closed"
            if self._token is not None:
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._set)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        name = signal.Signals(number).name
        if name == "SIGHUP" and self._hang_up is not None and self._had_terminal == _has_terminal():
            if self._token is not None:
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._hang_up)
        elif self._first_at is None:
            self._first_at = now
            self._name = name
            if self._token is not None:
                # Not from here: a handler may interrupt trio, or a write to stderr, anywhere.
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._set)
        elif now - self._first_at >= SECOND_SIGNAL_AFTER:
            os._exit(ExitStatus.FAILED)

    def _set(self) -> None:
        if self._stop is not None and not self._stop.is_set():
            log(STOPPING, reason=self._name)
            self._stop.set()


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal: one that hung up is none (tty_ioctl(4)); Windows has none."""
    if sys.platform == "win32":
        return False
    else:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group of groups, in order; of a plain one, itself. Without trio's own Cancelled."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        this = waiting.pop()
        if isinstance(this, BaseExceptionGroup):
            waiting.extend(reversed(this.exceptions))
        elif not isinstance(this, trio.Cancelled):
            found.append(this)
    return found


def choose_failure(error: BaseException) -> BaseException:
    """The one failure to tell a person about, of those that came together.

    Usage, untrusted, refused, machine, connection, other LanpartyErrors, in this order; else the first one.
    """
    leaves = _leaves(error)
    for kind in _PRIORITY:
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0] if leaves else error


def _report(options: argparse.Namespace, program: str, error: BaseException, file: LogFile | None) -> int:
    """One line about what ended the program; returns the status."""
    chosen = choose_failure(error)
    if isinstance(chosen, KeyboardInterrupt):
        return ExitStatus.OK
    if isinstance(chosen, SystemExit):
        return chosen.code if isinstance(chosen.code, int) else ExitStatus.FAILED
    if isinstance(chosen, LanpartyError):
        status, sentence = chosen.status, str(chosen)
    else:
        status, sentence = ExitStatus.FAILED, _unexpected(chosen, program)
    expected = all(isinstance(leaf, LanpartyError) for leaf in _leaves(error))
    trace = "" if expected else "".join(traceback.format_exception(error))
    details = trace if options.log_level == "debug" else ""
    if options.log_format == "text":
        if file is not None:
            lines = [printable(line) for line in trace.splitlines()]
            file.write("\n".join([*lines, file_line("error", printable(sentence))]))
        _write_line(program, sentence, before=details)
        return status
    fields: dict[str, object] = {"text": sentence, "status": int(status)}
    if isinstance(chosen, RefusedError):
        fields["code"] = chosen.code
    if details:
        fields["traceback"] = details
    log(FAILED, **fields)
    return status


def _unexpected(error: BaseException, program: str) -> str:
    if isinstance(error, BrokenPipeError):
        return "the reader of this program's output is gone"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"unexpected failure: {text} (please report it, with what {program} --log-level debug says)"


def _write_line(program: str, sentence: str, before: str = "") -> None:
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError):  # nowhere left to say that stderr is gone
        sys.stderr.write(f"{before}{program}: error: {printable(sentence)}\n")
        sys.stderr.flush()


def _close_output(status: int) -> int:
    """Flush stdout now: at interpreter exit, a reader that is gone would become a traceback and status 120."""
    if sys.stdout is None:
        return status
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
        return status or ExitStatus.FAILED
    except (OSError, ValueError):  # disk full, or closed
        return status or ExitStatus.FAILED
    return status
