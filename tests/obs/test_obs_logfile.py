"""The file of --log-file: what is in it, what is not, and how large it gets."""

import os
import re
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from lanparty.obs import events
from lanparty.obs.errors import UsageError
from lanparty.obs.events import Event
from lanparty.obs.log import configure, log
from lanparty.obs.logfile import HIDDEN, LogFile


@pytest.fixture(autouse=True)
def _logging_as_before():
    yield
    structlog.reset_defaults()


def test_the_file_gets_what_standard_error_gets(tmp_path, capsys):
    file = LogFile(tmp_path / "run.log")
    configure("info", "text", "lanparty.test", file)
    log(Event("test.hello", "Hello {who}."), who="Zoë \U0001f600\n\ud800")
    log(events.STATS, frames_in=1)  # debug: in neither
    sentence = "Hello Zoë \U0001f600\\n\\ud800."
    assert capsys.readouterr().err.endswith(f"  {sentence}\n")
    line = file.path.read_text("utf-8")
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z info     {re.escape(sentence)}\n", line)


def test_json_lines_are_the_same_in_both(tmp_path, capsys):
    file = LogFile(tmp_path / "run.log")
    configure("info", "json", "lanparty.test", file)
    log(Event("test.hello", "Hello {who}."), who="you")
    assert capsys.readouterr().err == file.path.read_text()


def test_the_rooms_code_is_hidden_wherever_it_stands(tmp_path):
    file = LogFile(tmp_path / "run.log", ["ROOM-1"])
    configure("info", "json", "lanparty.test", file)
    log(events.UPLINK_ADMITTED, peer=3, room="ROOM-1", mtu=1500)
    file.write("Room room-1 is full. ROOM-12, xROOM-1 and ROOM-1_ are others.")
    text = file.path.read_text()
    assert '"room": "(hidden)"' in text
    assert f"of room {HIDDEN} at" in text
    assert text.splitlines()[-1] == f"Room {HIDDEN} is full. ROOM-12, xROOM-1 and ROOM-1_ are others."


def test_no_event_has_a_field_for_a_secret():
    """A password or a key could be logged only by somebody who first wrote such a field into the vocabulary."""
    known = {("relay.room-opened", "password")}  # which says "yes"
    found = {
        (event.name, field)
        for event in vars(events).values()
        if isinstance(event, Event)
        for field in re.findall(r"\{(\w+)", event.sentence)
        if re.search("passw|secret|token|seed|key", field)
    }
    assert found == known


@settings(deadline=None)  # a disk takes its time
@given(st.lists(st.text(max_size=300), max_size=40))
def test_there_are_two_files_at_most_and_both_are_bounded(tmp_path_factory, lines):
    directory = tmp_path_factory.mktemp("log")
    file = LogFile(directory / "run.log", max_bytes=1000)
    for line in lines:
        file.write(line)
    file.close()
    sizes = [path.stat().st_size for path in directory.iterdir()]
    assert len(sizes) <= 2
    assert all(size <= 1000 for size in sizes)


def test_the_end_of_the_story_is_in_the_file(tmp_path):
    file = LogFile(tmp_path / "run.log", max_bytes=100)
    for number in range(30):
        file.write(f"line {number:04}")
    newest, older = (tmp_path / "run.log").read_text(), (tmp_path / "run.log.1").read_text()
    assert (older + newest).splitlines() == [f"line {number:04}" for number in range(10, 30)]


def test_a_later_run_adds_to_it(tmp_path):
    for word in ("first", "second"):
        file = LogFile(tmp_path / "run.log")
        file.write(word)
        file.close()
    assert (tmp_path / "run.log").read_text() == "first\nsecond\n"
    assert (tmp_path / "run.log").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_moved_is_emptied(tmp_path):
    (tmp_path / "run.log.1").mkdir()
    file = LogFile(tmp_path / "run.log", max_bytes=20)
    for number in range(5):
        file.write(f"line {number:04}")
    assert (tmp_path / "run.log").read_text() == "line 0004\n"


def test_a_full_disk_ends_nothing():
    assert os.path.exists("/dev/full")  # noqa: PTH110 - a device
    file = LogFile.__new__(LogFile)
    file._file, file._size, file._max_bytes, file._hidden = os.open("/dev/full", os.O_WRONLY), 0, 1000, None
    file.write("lost")
    assert file._size == 0
    file.close()
    file.write("lost, too")


@pytest.mark.parametrize("path", ["missing/run.log", ".", "fifo", "a\0b"])
def test_a_file_that_cannot_be_is_one_sentence(tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=r"^The log file .* cannot be written: .*--log-file\.$"):
        LogFile(Path(tmp_path, path))
