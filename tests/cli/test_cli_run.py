import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import pytest
import structlog
import trio

from lanparty.cli.options import program
from lanparty.cli.run import choose_failure, main
from lanparty.obs.errors import (
    ConnectionFailedError,
    ExitStatus,
    LanpartyError,
    MachineError,
    RefusedError,
    UntrustedError,
    UsageError,
)


@pytest.fixture(autouse=True)
def _logging_as_before():
    yield
    structlog.reset_defaults()


def run(amain, *argv):
    return main(program("lanparty.test", "A test."), amain, list(argv))


async def nothing(_options, _stop, _service):
    await trio.lowlevel.checkpoint()


def failing(*errors):
    async def amain(_options, _stop, _service):
        await trio.lowlevel.cancel_shielded_checkpoint()  # so that two of them fail together, whichever runs first
        raise errors[0] if len(errors) == 1 else ExceptionGroup("several", errors)

    return amain


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_a_program_that_returns_is_stopped_well(capsys):
    assert run(nothing) == 0
    assert last_line(capsys).endswith("  Stopped.")


def test_a_program_may_give_a_status(capsys):
    async def amain(_options, _stop, _service):
        await trio.lowlevel.checkpoint()
        return 1

    assert run(amain) == 1
    assert capsys.readouterr().err == ""


def test_help_and_version(capsys):
    assert run(nothing, "--version") == 0
    assert run(nothing, "--help") == 0
    assert "lanparty.test 0.1.0\nusage: lanparty.test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("No."), 2, "lanparty.test: error: No."),
        (RefusedError("room-full", "Full."), 3, "lanparty.test: error: Full."),
        (UntrustedError("Who?"), 4, "lanparty.test: error: Who?"),
        (MachineError("Cannot."), 5, "lanparty.test: error: Cannot."),
        (ConnectionFailedError("Gone."), 1, "lanparty.test: error: Gone."),
        (LanpartyError("Odd.\n\x1b[2J"), 1, r"lanparty.test: error: Odd.\n\x1b[2J"),
        (BrokenPipeError(), 1, "lanparty.test: error: the reader of this program's output is gone"),
    ],
)
def test_failures_are_one_line_and_a_status(capsys, error, status, line):
    assert run(failing(error)) == status
    assert capsys.readouterr().err == line + "\n"


def test_bad_arguments_are_one_line_and_status_2(capsys):
    assert run(nothing, "--nonsense") == 2
    assert capsys.readouterr().err == (
        "lanparty.test: error: unrecognized arguments: --nonsense (see lanparty.test --help)\n"
    )


def test_an_acceleration_that_does_not_exist_is_one_line_and_status_2(capsys, monkeypatch):
    monkeypatch.setenv("LANPARTY_WITHOUT", "gso,warp")
    assert run(nothing) == 2
    assert "error: LANPARTY_WITHOUT names warp; it can name " in last_line(capsys)


def test_a_failure_as_json(capsys):
    assert run(failing(RefusedError("room-full", "Full.")), "--log-format", "json", "--log-level", "error") == 3
    entry = json.loads(capsys.readouterr().err)
    assert entry.pop("time")
    assert entry == {
        "event": "error",
        "level": "error",
        "program": "lanparty.test",
        "text": "Full.",
        "status": 3,
        "code": "room-full",
        "message": "Full.",
    }


def test_the_unexpected_is_one_line_and_a_traceback_only_for_debug(capsys):
    assert run(failing(KeyError("x"))) == 1
    err = capsys.readouterr().err
    assert err.startswith("lanparty.test: error: unexpected failure: KeyError: 'x' (please report it")
    assert err.count("\n") == 1
    assert run(failing(KeyError("x")), "--log-level", "debug") == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("lanparty.test: error: unexpected failure")
    assert run(failing(KeyError("x")), "--log-level", "debug", "--log-format", "json") == 1
    assert "Traceback" in json.loads(capsys.readouterr().err)["traceback"]


USAGE, UNTRUSTED, REFUSED = UsageError("u"), UntrustedError("t"), RefusedError("c", "r")
MACHINE, CONNECTION, OTHER, BUG = MachineError("m"), ConnectionFailedError("f"), LanpartyError("o"), KeyError("k")


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ([BUG, CONNECTION], CONNECTION),
        ([CONNECTION, MACHINE], MACHINE),
        ([MACHINE, REFUSED], REFUSED),
        ([REFUSED, UNTRUSTED], UNTRUSTED),
        ([UNTRUSTED, USAGE], USAGE),
        ([OTHER, CONNECTION], CONNECTION),
        ([BUG, OTHER], OTHER),
        ([BUG, OSError("later")], BUG),
        ([MACHINE, MachineError("second")], MACHINE),
    ],
)
def test_the_choice_among_failures(errors, chosen):
    assert choose_failure(ExceptionGroup("flat", errors)) is chosen
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", errors[:1]), ExceptionGroup("inner", errors[1:])])
    assert choose_failure(nested) is chosen
    assert choose_failure(chosen) is chosen


def test_failures_of_nested_nurseries(capsys):
    async def amain(_options, _stop, _service):
        async with trio.open_nursery() as outer:
            outer.start_soon(trio.sleep_forever)
            async with trio.open_nursery() as inner:
                inner.start_soon(failing(MACHINE), None, None, None)
                inner.start_soon(failing(CONNECTION), None, None, None)

    assert run(amain) == 5
    assert last_line(capsys) == "lanparty.test: error: m"


def test_the_handlers_from_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert run(nothing) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_sets_stop(capsys, number):
    async def amain(_options, stop, _service):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # at once: the same wish
        await stop.wait()

    assert run(amain) == ExitStatus.OK
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert f"Stopping ({number.name})" in lines[0]


def test_a_failure_while_stopping_is_a_failure(capsys):
    async def amain(_options, stop, _service):
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        raise MachineError("The route is still there.")

    assert run(amain) == 5
    assert last_line(capsys) == "lanparty.test: error: The route is still there."


# --- as real processes ---

SCRIPT = """
    import sys, time, trio
    from lanparty.cli.options import program
    from lanparty.cli.run import main

    async def amain(options, stop, _service):
        print("ready", flush=True)
        {body}

    sys.exit(main(program("lanparty.test", "A test."), amain))
"""


def start(body, *argv, stdout=subprocess.PIPE):
    script = textwrap.dedent(SCRIPT).format(body=body)
    return subprocess.Popen(
        [sys.executable, "-c", script, *argv], stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_stops_when_asked(number):
    with start("await stop.wait()") as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert err.endswith("Stopped.\n")


@pytest.mark.parametrize("body", ["await trio.sleep_forever()", "time.sleep(1000)"], ids=["deaf", "hanging"])
def test_a_second_signal_ends_even_a_process_that_does_not_listen(body):
    with start(body) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        for _ in range(40):  # the second signal counts from half a second after the first
            try:
                process.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 1


def test_output_whose_reader_is_gone_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    with start("print('x' * 100000)", stdout=write) as process:
        os.close(write)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err == "lanparty.test: error: the reader of this program's output is gone\n"


def test_help_whose_reader_is_gone_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    with start("pass", "--help", stdout=write) as process:
        os.close(write)
        _, err = process.communicate(timeout=20)
    assert process.returncode in {0, 1}  # argparse ignores it where stdout is unbuffered
    assert err == ""


def test_a_log_file_has_the_run_and_its_end(tmp_path, capsys):
    path = tmp_path / "run.log"
    assert run(failing(MachineError("Cannot\x1b.")), "--log-file", str(path)) == 5
    assert run(nothing, "--log-file", str(path)) == 0
    begin, error, again, stopped = path.read_text().splitlines()
    assert f"is logged to {path}" in begin
    assert "lanparty 0.1.0 (Python 3." in begin
    assert error.endswith(r" error    Cannot\x1b.")
    assert again[30:] == begin[30:]
    assert stopped.endswith("Stopped.")
    assert r"lanparty.test: error: Cannot\x1b." in capsys.readouterr().err


def test_a_log_file_has_the_traceback_of_what_nobody_expected(tmp_path, capsys):
    path = tmp_path / "run.log"
    assert run(failing(KeyError("lost\x1b")), "--log-file", str(path)) == 1
    assert "Traceback" not in capsys.readouterr().err
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert "unexpected failure: KeyError" in text.splitlines()[-1]
    assert "\x1b" not in text


def test_a_log_file_that_cannot_be_is_a_usage_error(tmp_path, capsys):
    assert run(nothing, "--log-file", str(tmp_path)) == 2
    assert "--log-file" in last_line(capsys)


def test_a_window_that_is_closed_is_a_signal(monkeypatch, capsys):
    stops = []

    @contextmanager
    def window(stop):
        stops.append(stop)
        yield
        assert capsys.readouterr().err.endswith("Stopped.\n")  # the window waits for this

    async def amain(_options, stop, _service):
        windows = threading.Thread(target=stops[0])  # trio keeps its own threads for a while, and others count them
        windows.start()
        windows.join()
        await stop.wait()

    monkeypatch.setattr("lanparty.cli.run._handling_the_window", window)
    assert run(amain) == 0
