"""The client as a double click starts it: ``python -m lanparty.client.desktop``, or the packaged ``lanparty.exe``.

    without options     1. asks for relay, certificate and room (``asking.py``), and remembers them (``remembered.py``)
    or with a file,     2. without administrator rights: has itself started once more with them (``elevation.py``), with
    the relay's            step 3 for its arguments, and ends
    certificate         3. asks for the room's password, unless that is remembered
                        4. runs the client, as ``python -m lanparty.client --config FILE`` would, in the same words
                        5. says where the log is, and waits for a key if the window would vanish with the last words
    with options        steps 4 and 5 with these options; and step 2 if it has a window of its own (a shortcut)

Questions come before the rights. They are answered as the player, into the player's own files: where somebody else's
administrator password is typed, the copy with the rights is that other person's, with other directories. And whoever
mistyped something has not been asked by Windows for nothing. Only the password comes after, because a process that
starts another with more rights can give it nothing but arguments, which everybody sees.

So the program is not marked as one that always needs an administrator: --help and the questions need none.

Owns: this order. Must not know: how the client works.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from lanparty.cli.options import Parser, parse
from lanparty.cli.run import main as run_program
from lanparty.client import remembered
from lanparty.client.app import amain
from lanparty.client.asking import Console, SystemConsole, ask_all, ask_password
from lanparty.client.elevation import Elevation, this_systems_elevation
from lanparty.client.options import build_parser
from lanparty.obs.errors import ExitStatus, LanpartyError, UsageError
from lanparty.obs.text import printable
from lanparty.uplink.settings import PASSWORD_VARIABLE, check_password

__all__ = ["Desk", "build_desktop_parser", "main", "start", "this_program"]

NAME: Final = "lanparty"


def run_client(arguments: Sequence[str]) -> int:
    """Run the client, as its own command line would; an exit status."""
    return run_program(build_desktop_parser(), amain, arguments)


@attrs.frozen
class Desk:
    """What the desktop start meets: everything that a test replaces."""

    console: Console
    elevation: Elevation
    program: Sequence[str]
    """The command that starts this program again."""

    environment: MutableMapping[str, str]
    windows: bool
    run: Callable[[Sequence[str]], int] = run_client


@attrs.frozen
class _Wishes:
    """The command line, as far as it is the desktop start's own."""

    elevated: Path | None
    ask_password: bool
    client: list[str]
    """What is left is the client's."""


def build_desktop_parser() -> argparse.ArgumentParser:
    """Make the client's parser with the desktop start's own options, so that --help shows them."""
    parser = build_parser()
    parser.prog = NAME
    _add_own_options(parser)
    return parser


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "desktop start", "Without any option, or with nothing but the relay's certificate file, it asks for the rest."
    )
    group.add_argument("--ask-password", action="store_true", help="ask for the room's password, hidden")
    group.add_argument(
        "--elevated",
        type=Path,
        metavar="DIRECTORY",
        help="for the copy that is started as administrator: work in DIRECTORY; on Windows wait for a key at the end",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Start for the player who sits here; an exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file or a pipe may have an encoding without the name of a player
        sys.stdout.reconfigure(errors="backslashreplace")
    desk = Desk(
        console=SystemConsole(),
        elevation=this_systems_elevation(),
        program=this_program(),
        environment=os.environ,
        windows=sys.platform == "win32",
    )
    return start(sys.argv[1:] if arguments is None else arguments, desk)


def this_program() -> list[str]:
    """Give the command that starts this program again, with more rights.

    With -P, because Python's -m imports from the working directory first: what lies in a player's downloads would run
    as administrator. With -E, because each program of a player with Windows may set PYTHONPATH for what starts later.
    """
    if getattr(sys, "frozen", False):  # PyInstaller
        return [sys.executable]
    return [sys.executable, "-E", "-P", "-m", "lanparty.client.desktop"]


def start(arguments: Sequence[str], desk: Desk) -> int:
    """Do the steps at the top of this module; an exit status."""
    own_window = desk.console.is_own_window()
    try:
        wishes = _parse(arguments)
        own_window = own_window or (wishes.elevated is not None and desk.windows)  # sudo makes no window
        status = _start(wishes, desk, own_window)
    except LanpartyError as error:
        desk.console.say(f"{NAME}: error: {printable(str(error))}")
        status = int(error.status)
    except KeyboardInterrupt:  # at a question: nothing was begun
        return ExitStatus.OK
    except Exception:  # noqa: BLE001 - the last resort: a window that vanishes takes the reason with it
        desk.console.say(traceback.format_exc())
        status = ExitStatus.FAILED
    if own_window and status is not None:
        desk.console.say("Press any key to close this window.")
        desk.console.wait_for_key()
    return ExitStatus.OK if status is None else status


def _parse(arguments: Sequence[str]) -> _Wishes:
    finder = Parser(prog=NAME, add_help=False)
    _add_own_options(finder)
    found, client = finder.parse_known_args(list(arguments))
    return _Wishes(found.elevated, found.ask_password, client)


def _start(wishes: _Wishes, desk: Desk, own_window: bool) -> int | None:
    """Give the client's status; None: it runs in another process. Raises LanpartyError."""
    if wishes.elevated is not None:  # Windows starts a program with rights in its own directory, wherever we were.
        try:
            os.chdir(wishes.elevated)
        except OSError as error:
            raise UsageError(f"Cannot work in {wishes.elevated}: {error.strerror or error}.") from error
    client, wants_password = wishes.client, wishes.ask_password
    dropped = _dropped(client)
    asks = not client or dropped is not None
    if asks:
        kept = remembered.load(remembered.directory(desk.environment, windows=desk.windows))
        ask_all(desk.console, kept, dropped)
        kept.save()
        client = ["--config", str(kept.file)]
        wants_password = True
    if (asks or own_window) and wishes.elevated is None and _is_a_run(client) and desk.elevation.is_needed():
        extra = ["--ask-password"] if wants_password else []
        desk.elevation.start(desk.program, [*client, *extra, "--elevated", str(Path.cwd())])
        desk.console.say("lanparty goes on in a new window.")
        return None
    if wants_password:
        _password(client, desk)
    status = desk.run(client)
    _tell_log(client, status, desk)
    return status


def _dropped(client: Sequence[str]) -> Path | None:
    """The file that was dropped on the program: a single argument that is no option. Raises UsageError."""
    files = [word for word in client if not word.startswith("-")]
    if len(client) == 1 and files:
        return Path(files[0])
    if len(files) == len(client) > 1:
        raise UsageError("Drop one file only: the relay's certificate.")
    return None


def _is_a_run(client: Sequence[str]) -> bool:
    """Whether it is more than a question to the program: those need no rights."""
    return {"-h", "--help", "--version"}.isdisjoint(client)


def _password(client: Sequence[str], desk: Desk) -> None:
    """Ask for the password, unless there is one, and give it to the client by the variable of this process."""
    options = parse(build_parser(), client)
    if options.room_password_file is not None or PASSWORD_VARIABLE in desk.environment:
        return
    password = ask_password(desk.console, lambda text: check_password(text, "The password"))
    if not password:
        return
    desk.environment[PASSWORD_VARIABLE] = password
    if options.config is None or options.config.name != remembered.SETTINGS:
        return
    question = "Remember it on this computer, readable by your programs and by administrators? [y/N]: "
    if desk.console.ask(question).strip().lower().startswith("y"):
        remembered.load(options.config.absolute().parent).keep_password(password)


def _tell_log(client: Sequence[str], status: int, desk: Desk) -> None:
    """Say where the log is; where there is none, or no such options, nothing."""
    if not _is_a_run(client) or status == ExitStatus.USAGE:
        return
    file = parse(build_parser(), client).log_file
    if file is not None:
        hint = "" if status == ExitStatus.OK else ": send this file to the host"
        desk.console.say(f"The log of this run is in {file.absolute()}{hint}.")


if __name__ == "__main__":
    sys.exit(main())
