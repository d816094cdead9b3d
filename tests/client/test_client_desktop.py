"""The double-click start: conversations with a player, as the player would tell them."""

import ctypes
import getpass
import io
import os
import subprocess
import sys
import threading
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
from fake_dll import FakeDll
from hypothesis import given
from hypothesis import strategies as st

from lanparty.cli.config import config_values
from lanparty.cli.options import RelayAddress, parse
from lanparty.cli.window import handling
from lanparty.client import asking, elevation, remembered
from lanparty.client.asking import SystemConsole
from lanparty.client.desktop import Desk, build_desktop_parser, start, this_program
from lanparty.client.elevation import SudoElevation, WindowsElevation
from lanparty.client.options import build_parser
from lanparty.client.remembered import encode_settings
from lanparty.ctrl.messages import Role
from lanparty.link.windows.winapi.base import wide_text
from lanparty.link.windows.winapi.console import (
    CTRL_CLOSE_EVENT,
    CTRL_LOGOFF_EVENT,
    CTRL_SHUTDOWN_EVENT,
    PHANDLER_ROUTINE,
)
from lanparty.link.windows.winapi.dll import FakeDlls, fakes
from lanparty.link.windows.winapi.shell32 import ERROR_CANCELLED, SHELLEXECUTEINFOW
from lanparty.obs.errors import MachineError, UsageError
from lanparty.quic.trust import load_dev_certificate
from lanparty.uplink.settings import PASSWORD_VARIABLE, settings_from


@attrs.define
class Player:
    """Someone at a console: answers in order, and what was said and asked."""

    answers: list[str] = attrs.field(factory=list)
    own_window: bool = False
    seen: list[str] = attrs.field(factory=list)
    keys: int = 0

    def say(self, text):
        self.seen.append(text)

    def ask(self, question):
        self.seen.append(question)
        if not self.answers:
            raise UsageError("Nobody answers.")
        return self.answers.pop(0)

    def ask_hidden(self, question):
        answer = self.ask(question)
        self.seen[-1] = f"(hidden) {question}"
        return answer

    def is_own_window(self):
        return self.own_window

    def wait_for_key(self):
        self.keys += 1


@attrs.define
class Rights:
    """A system that gives rights, or says no."""

    needed: bool = False
    no: str = ""
    started: list[str] = attrs.field(factory=list)

    def is_needed(self):
        return self.needed

    def start(self, program, arguments):
        if self.no:
            raise MachineError(self.no)
        self.started = [*program, *arguments]


@attrs.define
class Home:
    """A computer with a player's home directory, and what the client was started with."""

    path: Path
    environment: dict[str, str]
    runs: list[list[str]] = attrs.field(factory=list)
    passwords: list[str | None] = attrs.field(factory=list)
    status: int = 0
    windows: bool = True

    @property
    def folder(self):
        return self.path / "lanparty"

    @property
    def settings(self):
        return tomllib.loads((self.folder / "settings.toml").read_text())

    def play(self, arguments, player, rights=None):
        desk = Desk(
            console=player,
            elevation=rights or Rights(),
            program=["lanparty.exe"],
            environment=self.environment,
            windows=self.windows,
            run=self._run,
        )
        try:
            return start(list(map(str, arguments)), desk)
        finally:
            self.environment.pop(PASSWORD_VARIABLE, None)

    def _run(self, arguments):
        self.runs.append(list(arguments))
        self.passwords.append(self.environment.get(PASSWORD_VARIABLE))
        return self.status


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    return Home(tmp_path, {"LOCALAPPDATA": str(tmp_path)})


@pytest.fixture
def certificate(tmp_path):
    load_dev_certificate(tmp_path / "relay-cert.der", ["198.51.100.1"], now=datetime.now(UTC))
    return tmp_path / "relay-cert.der"


RELAY, NO_FILE, ROOM, NO_PASSWORD = "203.0.113.10:4433", "", "room1", ""
FIRST_TIME = [RELAY, NO_FILE, ROOM, NO_PASSWORD]


def test_the_first_time_everything_is_asked_and_remembered(home):
    player = Player([*FIRST_TIME])
    assert home.play([], player) == 0
    assert player.seen == [
        "lanparty: plugs this computer into a friend's LAN party. The host has told you relay and room.",
        "Relay: ",
        "File with the relay's certificate, if the host sent one [none]: ",
        "Room: ",
        "(hidden) Password of the room (it is not shown; just Enter if there is none): ",
        f"The log of this run is in {home.folder / 'lanparty-client.log'}.",
    ]
    assert home.runs == [["--config", str(home.folder / "settings.toml")]]
    assert home.settings == {
        "relay": RELAY,
        "room": "ROOM1",
        "identity": str(home.folder / "lanparty-client-identity.json"),
        "log-file": str(home.folder / "lanparty-client.log"),
    }
    assert (home.folder / "settings.toml").stat().st_mode & 0o777 == 0o600


def test_what_is_remembered_is_what_the_client_reads(home):
    home.play([], Player([*FIRST_TIME]))
    options = parse(build_parser(), home.runs[0])
    assert (options.relay, options.room) == (RelayAddress("203.0.113.10", 4433), "ROOM1")
    assert options.identity == home.folder / "lanparty-client-identity.json"


def test_the_next_time_enter_is_enough(home):
    home.play([], Player([*FIRST_TIME]))
    before = home.settings
    player = Player(["", "", "", ""])
    assert home.play([], player) == 0
    assert "Enter takes what is in brackets." in player.seen
    assert f"Relay [{RELAY}]: " in player.seen
    assert "Room [ROOM1]: " in player.seen
    assert home.settings == before


def test_wrong_answers_are_told_in_the_command_lines_words_and_asked_again(home):
    player = Player(["", "256.1.1.1", "relay.example:0", "relay.example", "", "no room!", "ROOM1", ""])
    assert home.play([], player) == 0
    assert player.seen.count("Relay: ") == 4
    assert player.seen.count("Room: ") == 2
    assert any(line.startswith("Relay: '256.1.1.1' is not the address of a relay") for line in player.seen)
    assert any("is not a room code" in line for line in player.seen)
    assert home.settings["relay"] == "relay.example:443"


def test_options_that_were_added_by_hand_stay(home):
    home.play([], Player([*FIRST_TIME]))
    file = home.folder / "settings.toml"
    file.write_text(file.read_text() + 'accept_dns = true\nconnect-timeout = 60\ndisplay-name = "Zoë \\"\\u007f"\n')
    file.write_text(file.read_text().replace("\\u007f", ""))
    home.play([], Player(["", "", "ROOM2", ""]))
    assert home.settings["accept-dns"] is True
    assert home.settings["connect-timeout"] == 60
    assert home.settings["display-name"] == 'Zoë "'
    assert home.settings["room"] == "ROOM2"


def test_a_damaged_file_is_not_replaced(home):
    home.folder.mkdir()
    file = home.folder / "settings.toml"
    file.write_text('relay = "relay.example"\nrooom = "X"\n')
    player = Player(own_window=True)
    assert home.play([], player) == 2
    assert str(file) in player.seen[0]
    assert "rooom" in player.seen[0]
    assert file.read_text().endswith('rooom = "X"\n')
    assert player.keys == 1
    assert home.runs == []


# --- certificates ---


def test_a_certificate_dropped_on_the_program(home, certificate):
    player = Player([RELAY, ROOM, NO_PASSWORD])
    assert home.play([certificate], player) == 0
    certificate.unlink()  # It was copied.
    settings = settings_from(parse(build_parser(), home.runs[0]), role=Role.CLIENT, environment={})
    assert settings.server_name == "lanparty-relay.local"
    assert settings.trust.ca_pem.startswith(b"-----BEGIN CERTIFICATE-----")


def test_a_certificate_in_quotes_as_explorer_gives_it(home, certificate):
    home.play([], Player(["198.51.100.1", f'"{certificate}"', ROOM, NO_PASSWORD]))
    assert home.settings["relay-ca-cert"] == str(home.folder / "relay-cert.pem")
    assert "server-name" not in home.settings  # The certificate is for the relay's address.


def test_a_certificate_that_is_none_is_asked_for_again_and_belongs_to_its_relay(home, certificate):
    wrong = home.path / "photo.jpg"
    wrong.write_bytes(b"\xff\xd8\xff")
    player = Player([RELAY, str(wrong), "missing.der", str(certificate), ROOM, NO_PASSWORD])
    home.play([], player)
    assert any("holds no certificate" in line for line in player.seen)
    assert "relay-ca-cert" in home.settings
    home.play([], Player(["", "", "", ""]))
    assert home.settings["server-name"] == "lanparty-relay.local"
    home.play([], Player(["", "none", "", ""]))
    assert {"relay-ca-cert", "server-name"}.isdisjoint(home.settings)
    home.play([], Player(["", str(certificate), "", ""]))
    home.play([], Player(["other.example", "", "", ""]))
    assert {"relay-ca-cert", "server-name"}.isdisjoint(home.settings)


@pytest.mark.parametrize("dropped", [["missing.der"], ["one.der", "two.der"]])
def test_what_cannot_be_a_certificate_is_told_before_the_window_closes(home, dropped):
    player = Player([RELAY, ROOM], own_window=True)
    assert home.play(dropped, player) == 2
    assert player.seen[-2].startswith("lanparty: error: ")
    assert player.keys == 1
    assert home.runs == []


# --- the password ---


def test_the_password_goes_to_the_client_and_nowhere_else(home):
    player = Player([RELAY, NO_FILE, ROOM, "sesame\x07", "sesame", "n"])
    home.play([], player)
    assert home.passwords == ["sesame"]
    assert any("control character" in line for line in player.seen)
    assert not [path for path in home.folder.iterdir() if b"sesame" in path.read_bytes()]
    assert not [line for line in player.seen if "sesame" in line]
    home.play([], Player(["", "", "", ""]))
    assert home.passwords == ["sesame", None]


def test_a_password_is_remembered_for_its_room_if_the_player_says_so(home):
    home.play([], Player([RELAY, NO_FILE, ROOM, "sesame", "Yes"]))
    file = home.folder / "room-password.txt"
    assert file.stat().st_mode & 0o777 == 0o600
    player = Player(["", "", "", ""])
    home.play([], player)
    assert player.seen[-2] == "Use the remembered password of the room? [Y/n]: "
    assert parse(build_parser(), home.runs[-1]).room_password_file == file
    assert home.passwords[-1] is None
    home.play([], Player(["", "", "ROOM2", NO_PASSWORD]))
    assert not file.exists()
    assert "room-password-file" not in home.settings
    home.play([], Player(["", "", "", "sesame", "y"]))
    home.play([], Player(["", "", "", "n", "other", "n"]))
    assert home.passwords[-1] == "other"
    assert not file.exists()


# --- administrator rights ---


def test_rights_are_asked_for_after_the_answers_and_before_the_password(home):
    player, rights = Player([RELAY, NO_FILE, ROOM], own_window=True), Rights(needed=True)
    assert home.play([], player, rights) == 0
    arguments = ["--config", str(home.folder / "settings.toml"), "--ask-password", "--elevated", str(home.path)]
    assert rights.started == ["lanparty.exe", *arguments]
    assert home.runs == []
    assert player.keys == 0  # The other window is the one to look at.

    copy = Player(["sesame", "n"])
    assert home.play(arguments, copy) == 0
    assert home.runs == [arguments[:2]]
    assert home.passwords == ["sesame"]
    assert copy.keys == 1


def test_the_copy_that_sudo_starts_has_no_window_to_keep_open(home):
    home.windows = False
    player = Player()
    assert home.play(["--relay", "r.example", "--room", "r", "--elevated", home.path], player) == 0
    assert home.runs == [["--relay", "r.example", "--room", "r"]]
    assert player.keys == 0


def test_a_copy_that_still_has_no_rights_does_not_start_another(home):
    home.play([], Player([*FIRST_TIME]))
    rights = Rights(needed=True)
    home.play(["--config", home.folder / "settings.toml", "--elevated", home.path], Player(), rights)
    assert rights.started == []
    assert len(home.runs) == 2  # The client's own sentence says what is missing.


def test_the_copy_works_where_the_first_one_did(home, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("System32"))
    assert home.play(["--version", "--elevated", home.path], Player()) == 0
    assert Path.cwd() == home.path
    player = Player()
    assert home.play(["--elevated", home.path / "gone"], player) == 2
    assert "Cannot work in" in player.seen[0]


def test_no_to_the_question_of_windows_is_a_sentence(home):
    player = Player([RELAY, NO_FILE, ROOM], own_window=True)
    assert home.play([], player, Rights(needed=True, no="Choose Yes.")) == 5
    assert player.seen[-2:] == ["lanparty: error: Choose Yes.", "Press any key to close this window."]
    assert player.keys == 1
    assert home.settings["room"] == "ROOM1"


@pytest.mark.parametrize(
    ("own_window", "arguments", "asked"),
    [
        (True, ["--relay", "r.example", "--room", "r"], True),  # a shortcut
        (False, ["--relay", "r.example", "--room", "r"], False),  # a shell, or a script
        (True, ["--help"], False),
        (True, ["--version"], False),
    ],
)
def test_with_options_it_is_the_client(home, own_window, arguments, asked):
    rights = Rights(needed=True)
    player = Player(own_window=own_window)
    assert home.play(arguments, player, rights) == 0
    if asked:
        assert rights.started == ["lanparty.exe", *arguments, "--elevated", str(home.path)]
    else:
        assert home.runs == [arguments]
        assert player.keys == own_window
    assert not home.folder.exists()


# --- the end ---


def test_after_a_failure_the_log_is_for_the_host(home):
    home.status = 4
    player = Player([*FIRST_TIME], own_window=True)
    assert home.play([], player) == 4
    log, key = player.seen[-2:]
    assert log.endswith("lanparty-client.log: send this file to the host.")
    assert key == "Press any key to close this window."
    assert player.keys == 1


def test_what_nobody_expected_does_not_vanish_with_the_window(home):
    player = Player([*FIRST_TIME], own_window=True)
    desk = Desk(player, Rights(), ["x"], home.environment, windows=True, run=lambda _arguments: {}["odd"])
    assert start([], desk) == 1
    assert "KeyError: 'odd'" in player.seen[-2]
    assert player.keys == 1


def test_ctrl_c_at_a_question_is_no_failure(home):
    class Impatient(Player):
        def ask(self, question):
            raise KeyboardInterrupt

    player = Impatient(own_window=True)
    assert home.play([], player) == 0
    assert player.keys == 0


def test_nobody_to_answer_is_a_usage_error(home):
    assert home.play([], Player([RELAY])) == 2
    assert not (home.folder / "settings.toml").exists()


# --- the directory and its file ---


@pytest.mark.parametrize(
    ("environment", "windows", "expected"),
    [
        ({"LOCALAPPDATA": "/users/zoe/Local", "HOME": "/h"}, True, "/users/zoe/Local/lanparty"),
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, False, "/x/lanparty"),
        ({"HOME": "/h"}, False, "/h/.config/lanparty"),
    ],
)
def test_the_directory(environment, windows, expected):
    assert remembered.directory(environment, windows=windows) == Path(expected)


@pytest.mark.parametrize(("environment", "windows"), [({}, True), ({}, False), ({"XDG_CONFIG_HOME": "x"}, False)])
def test_an_account_without_a_directory(environment, windows):
    with pytest.raises(UsageError, match="no place to remember"):
        remembered.directory(environment, windows=windows)


def test_a_directory_that_cannot_be_written(home):
    home.folder.write_text("a file")
    player = Player([*FIRST_TIME])
    assert home.play([], player) == 2
    assert "settings.toml" in player.seen[-1]


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.floats(-1e9, 1e9),
)


@given(st.dictionaries(st.from_regex(r"[a-z]+(-[a-z]+)*", fullmatch=True), VALUES | st.lists(VALUES)))
def test_what_is_written_is_toml_that_says_the_same(settings):
    assert tomllib.loads(encode_settings(settings).decode()) == settings


def test_every_key_that_is_written_is_an_option(home, certificate):
    home.play([certificate], Player([RELAY, ROOM, "sesame", "y"]))
    assert len(config_values(build_parser(), home.folder / "settings.toml")) == 7


# --- this system's console ---


def test_the_systems_console(monkeypatch, capsys):
    console = SystemConsole()
    monkeypatch.setattr(sys, "stdin", io.StringIO("relay.example\n"))
    assert console.ask("Relay: ") == "relay.example"
    with pytest.raises(UsageError, match="--relay"):
        console.ask("Room: ")
    console.say("Zoë")
    console.wait_for_key()  # not a terminal: nobody could press one
    assert not console.is_own_window()
    assert capsys.readouterr().out == "Relay: Room: Zoë\n"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="no console"):
        console.ask("Room: ")
    console.wait_for_key()


def test_the_password_is_read_without_echo(monkeypatch):
    monkeypatch.setattr(getpass, "getpass", lambda question: question[::-1])
    assert SystemConsole().ask_hidden("abc") == "cba"


def test_the_first_question_of_the_program_itself(tmp_path):
    """To the first question and no further: nothing is changed on the machine that runs the tests."""
    run = subprocess.run(
        [sys.executable, "-m", "lanparty.client.desktop"],
        input="",
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert "Relay: lanparty: error: Nobody answers" in run.stdout
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_the_outputs_encoding_does_not_have(tmp_path):
    folder = tmp_path / "Zoë\u2603"
    (folder / "lanparty").mkdir(parents=True)
    (folder / "lanparty" / "settings.toml").write_text("damaged")
    run = subprocess.run(
        [sys.executable, "-m", "lanparty.client.desktop"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(folder), "PYTHONIOENCODING": "cp1252"},
        encoding="cp1252",
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert "Zoë\\u2603" in run.stdout
    assert "settings.toml is not TOML" in run.stdout


def test_the_copy_with_rights_imports_nothing_from_where_the_player_is_or_says(tmp_path):
    here, said = tmp_path / "here", tmp_path / "said"
    for place in (here, said):
        place.mkdir()
        (place / "trio.py").write_text(f"print('as administrator, from {place.name}')")
    run = subprocess.run(
        [*this_program(), "--version"],
        capture_output=True,
        text=True,
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(said)},
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "lanparty.client 0.1.0\n")


def test_the_packaged_program_is_started_as_itself(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert this_program() == [sys.executable]


def test_help_has_the_clients_options_and_its_own():
    text = build_desktop_parser().format_help()
    assert "--ask-password" in text
    assert "--relay HOST[:PORT]" in text


# --- Windows, at its DLLs ---


class Windows(FakeDlls):
    """shell32.dll and kernel32.dll, as far as this start calls them."""

    def __init__(self):
        super().__init__()
        self.admin = 0
        self.says = 0
        """The error of ShellExecuteExW; 0: the user says yes."""
        self.started = None
        self.attached = [1]
        self.handlers = []
        self.dlls = []

    def open(self, _name, prototypes):
        self.dlls.append(FakeDll(self, prototypes))
        return self.dlls[-1]

    def IsUserAnAdmin(self):  # noqa: N802
        return self.admin

    def ShellExecuteExW(self, pointer):  # noqa: N802
        info = pointer[0]
        assert info.cbSize == ctypes.sizeof(SHELLEXECUTEINFOW) == 112
        texts = [wide_text(text) for text in (info.lpVerb, info.lpFile, info.lpParameters, info.lpDirectory)]
        self.started = (*texts, info.fMask, info.nShow)
        self.last_error = self.says
        return not self.says

    def GetConsoleProcessList(self, where, count):  # noqa: N802
        for index in range(min(count, len(self.attached))):
            where[index] = self.attached[index]
        return len(self.attached)

    def SetConsoleCtrlHandler(self, handler, add):  # noqa: N802
        address = ctypes.cast(handler, ctypes.c_void_p).value
        if add:
            self.handlers.append(address)
        else:
            self.handlers.remove(address)
        return 1

    def close(self, event):
        """Have a thread call the newest handler, as Windows does."""
        answers = []
        handler = ctypes.cast(self.handlers[-1], PHANDLER_ROUTINE)
        thread = threading.Thread(target=lambda: answers.append(handler(event)))
        thread.start()
        return thread, answers


@pytest.fixture
def windows():
    system = Windows()
    with fakes(system):
        yield system
    assert not [error for dll in system.dlls for error in dll.raised]


def test_a_filtered_token_needs_rights(windows):
    assert WindowsElevation().is_needed()
    windows.admin = 1
    assert not WindowsElevation().is_needed()


def test_runas_gets_the_same_arguments(windows, home):
    WindowsElevation().start(["C:\\Program Files\\lanparty\\lanparty.exe"], ["--config", "C:\\U\\Zoë 1\\s.toml", 'a"b'])
    assert windows.started == (
        "runas",
        "C:\\Program Files\\lanparty\\lanparty.exe",
        '--config "C:\\U\\Zoë 1\\s.toml" a\\"b',
        str(home.path),
        0x500,
        1,
    )


@pytest.mark.parametrize(("error", "advice"), [(ERROR_CANCELLED, "choose Yes"), (5, r"error 5.*Run as administrator")])
def test_why_windows_did_not_start_it(windows, error, advice):
    windows.says = error
    with pytest.raises(MachineError, match=advice):
        WindowsElevation().start(["lanparty.exe"], [])


@pytest.mark.parametrize(("attached", "own"), [([7], True), ([7, 8], False), ([7, 8, 9], False), ([], False)])
def test_whose_window_it_is(windows, attached, own):
    windows.attached = attached
    assert asking.is_own_window() is own


@pytest.mark.parametrize("event", [CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT])
def test_a_window_that_is_closed_waits_until_everything_is_put_back(windows, event):
    stopped = threading.Event()
    with handling(stopped.set, patience=60):
        thread, answers = windows.close(event)
        assert stopped.wait(60)
        assert answers == []  # Windows would end the program with the answer.
    thread.join(60)
    assert answers == [1]
    assert windows.handlers == []


def test_ctrl_c_is_not_the_windows_end_and_patience_has_one(windows):
    stops = []
    with handling(lambda: stops.append(1), patience=0):
        for event, expected in ((0, 0), (CTRL_CLOSE_EVENT, 1)):
            thread, answers = windows.close(event)
            thread.join(60)
            assert answers == [expected]
    assert stops == [1]


def test_on_linux_the_player_is_told_the_command(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(elevation, "has", lambda _capability: False)
    assert SudoElevation().is_needed()
    with pytest.raises(MachineError, match=r"run sudo /venv/bin/python -m lanparty --config '/a b/s\.toml'$"):
        SudoElevation().start(["/venv/bin/python", "-m", "lanparty"], ["--config", "/a b/s.toml"])
    monkeypatch.setattr(elevation, "has", lambda _capability: True)
    assert not SudoElevation().is_needed()
