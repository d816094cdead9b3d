"""The questions of the desktop start, in a console.

    relay → its certificate, if the host sent a file → room → may the remembered password go on?

What is remembered stands in brackets, and Enter takes it. An answer goes through the parser of the command line's
option; what that refuses is told in its words, and asked again. What belongs to a relay (certificate) or to a room
(password) is forgotten with it.

A console, and no window with fields: what follows is the console anyway, an hour of it; it needs no toolkit of 20 MB in
the package; and a host on the telephone can have it read out.

Owns: order and words of the questions. Must not know: files' names, administrator rights.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from lanparty.cli.options import parse_relay, room_code
from lanparty.client.remembered import Remembered
from lanparty.link.windows.winapi.base import DWORD
from lanparty.link.windows.winapi.console import CONSOLE
from lanparty.obs.errors import UsageError

__all__ = ["Console", "SystemConsole", "ask_all", "ask_password", "is_own_window"]

_T = TypeVar("_T")

NO_CERTIFICATE: Final = "none"
"""The answer that forgets a remembered certificate."""


class Console(Protocol):
    """Where the player reads and types."""

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def ask(self, question: str) -> str:
        """Give a line that the player types. Raises UsageError: there is nobody to type."""
        ...

    def ask_hidden(self, question: str) -> str:
        """Give a line that is not shown while it is typed. Raises UsageError: there is nobody to type."""
        ...

    def is_own_window(self) -> bool:
        """Whether the window is there for this program only, and vanishes with it."""
        ...

    def wait_for_key(self) -> None:
        """Return when the player has pressed a key, or nobody can."""
        ...


class SystemConsole:
    """The console of this process."""

    def say(self, text: str) -> None:
        """Show a line."""
        if sys.stdout is not None:  # as under pythonw
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def ask(self, question: str) -> str:
        """Give a line that the player types."""
        return _or_usage_error(input, question)

    def ask_hidden(self, question: str) -> str:
        """Give a line that is not shown while it is typed."""
        return _or_usage_error(getpass.getpass, question)

    def is_own_window(self) -> bool:
        """Whether the window is there for this program only. Only Windows makes such."""
        return sys.platform == "win32" and is_own_window()

    def wait_for_key(self) -> None:
        """Return when the player has pressed a key. Only Windows makes windows that vanish with a program."""
        if sys.platform == "win32" and sys.stdin is not None and sys.stdin.isatty():
            import msvcrt

            msvcrt.getwch()


def is_own_window() -> bool:
    """Whether Windows made the console for this process: then no other is attached to it.

    From cmd or PowerShell the shell is attached, too. So is the start program of a virtual environment's Python, which
    nobody starts by double click.
    """
    some = (DWORD * 2)()
    return bool(CONSOLE.GetConsoleProcessList(some, len(some)) == 1)


def ask_all(console: Console, remembered: Remembered, dropped: Path | None = None) -> None:
    """Ask for everything, and put it into ``remembered``. ``dropped``: a certificate's file, which is given already.

    Raises UsageError: nobody to ask, or the dropped file is no certificate.
    """
    console.say("lanparty: plugs this computer into a friend's LAN party. The host has told you relay and room.")
    if remembered.settings:
        console.say("Enter takes what is in brackets.")
    before = remembered.text("relay")
    relay = _ask(console, "Relay", before, parse_relay)
    remembered.keep("relay", str(relay))
    if before != str(relay):
        remembered.keep("relay-ca-cert", "")
        remembered.keep("server-name", "")
    if dropped is not None:
        remembered.keep_certificate(dropped, relay.host)
        console.say(f"Certificate of the relay: {dropped}")
    else:
        _ask_certificate(console, remembered, relay.host)
    room_before = remembered.text("room")
    remembered.keep("room", _ask(console, "Room", room_before, room_code))
    if remembered.text("room-password-file") and (
        (before, room_before) != (remembered.text("relay"), remembered.text("room"))
        or console.ask("Use the remembered password of the room? [Y/n]: ").strip().lower().startswith("n")
    ):
        remembered.forget_password()


def ask_password(console: Console, check: Callable[[str], Any]) -> str:
    """Give the room's password; empty: the room has none. ``check`` raises UsageError for what cannot be one."""
    while True:
        password = console.ask_hidden("Password of the room (it is not shown; just Enter if there is none): ")
        try:
            if password:
                check(password)
        except UsageError as error:
            console.say(str(error))
        else:
            return password


def _ask(console: Console, what: str, default: str, parse: Callable[[str], _T]) -> _T:
    """Ask until ``parse`` takes the answer."""
    while True:
        answer = console.ask(f"{what} [{default}]: " if default else f"{what}: ").strip() or default
        try:
            if answer:
                return parse(answer)
        except argparse.ArgumentTypeError as error:
            console.say(f"{what}: {error}.")


def _ask_certificate(console: Console, remembered: Remembered, host: str) -> None:
    default = remembered.text("relay-ca-cert")
    hint = f"[{default}, or {NO_CERTIFICATE}]" if default else "[none]"
    while True:
        # Explorer puts a path that is dropped on the window, or copied, into quotes.
        answer = console.ask(f"File with the relay's certificate, if the host sent one {hint}: ").strip().strip('"')
        if not answer or answer == default:
            return
        try:
            if answer.lower() == NO_CERTIFICATE:
                remembered.keep("relay-ca-cert", "")
                remembered.keep("server-name", "")
            else:
                remembered.keep_certificate(Path(answer).expanduser(), host)
        except UsageError as error:
            console.say(str(error))
        else:
            return


def _or_usage_error(ask: Callable[[str], str], question: str) -> str:
    if sys.stdin is None:
        raise UsageError("There is no console to ask anything: give --relay and --room.")
    try:
        return ask(question)
    except (EOFError, OSError, UnicodeError):
        raise UsageError("Nobody answers: give --relay and --room, or type the answers.") from None
