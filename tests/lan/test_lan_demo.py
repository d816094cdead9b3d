"""Shown by, 13: the demo as a user starts it. Also: following programs, which everything else here builds on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lanparty.demo.programs import ProgramFailedError

pytestmark = pytest.mark.lan

DEMO = [sys.executable, "-m", "lanparty.demo"]


def run_demo(*options):
    return subprocess.run([*DEMO, *options], capture_output=True, text=True, timeout=90, check=False, env=outside())


def outside():
    """The environment of somebody who is not in a sandbox yet (a sandbox may be made within another)."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LANPARTY_SANDBOX")}


def check_table(text):
    rows = [re.split(r"  +", line) for line in text.splitlines() if line.startswith("player")]
    assert [row[0] for row in rows] == ["player", "player1", "player2"], text
    for row in rows[1:]:
        assert re.fullmatch(r"192\.168\.77\.\d+", row[1])
        assert row[4:6] == ["yes", "yes"]
        assert all(cell.endswith("Mbit/s") for cell in row[6:8])


@pytest.mark.parametrize("options", [(), ("--underlay", "ipv6", "--own-dhcp-server")])
def test_the_demo(options):
    start = time.monotonic()
    done = run_demo(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - start < 60
    assert done.stderr == ""
    for sentence in ("Listening on", "Bridging eth0", "DHCP: the house offers", "is on the house LAN"):
        assert sentence in done.stdout
    check_table(done.stdout)
    assert "Everything worked." in done.stdout


def test_keep_stays_up_and_offers_a_shell():
    process = subprocess.Popen([*DEMO, "--keep"], stdout=subprocess.PIPE, text=True, env=outside())
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "Ctrl-C here ends everything" in line:
            break
    command = next(line.strip() for line in seen if "nsenter" in line)
    shell = subprocess.run(
        command.split(),
        input="ip -br address; ping -c 1 -W 2 192.168.77.1 >/dev/null && echo reached\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "192.168.77." in shell.stdout, (command, shell)
    assert "reached" in shell.stdout
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(20) == 0, "".join(seen) + rest
    process.stdout.close()


def test_a_demo_that_is_killed_leaves_nothing(tmp_path):
    token = str(tmp_path)  # in the environment of all its processes
    environment = outside() | {"LANPARTY_TEST_TOKEN": token}
    process = subprocess.Popen([*DEMO, "--keep"], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if "Both players have an address" in line:
            break
    assert len(with_variable(token)) >= 6
    process.kill()
    process.wait(10)
    deadline = time.monotonic() + 5
    while with_variable(token):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.stdout.close()


def with_variable(value):
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if value.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


# ------------------------------------------------------------------------------------------------ following programs


SPEAKER = """
import sys, time
print('{"event": "one", "n": 1, "message": "First."}', flush=True)
print('plain text', flush=True)
print('{"event": "one", "n": 2, "message": "Second."}', flush=True)
time.sleep(float(sys.argv[1]))
"""


def speaker(party, seconds):
    return party.start("speaker", "player1", [sys.executable, "-c", SPEAKER, str(seconds)])


def test_waiting_for_an_event(own_party):
    program = speaker(own_party, 60)
    assert program.wait_for("one")["n"] == 1
    assert program.wait_for("one", n=2)["message"] == "Second."
    assert program.lines == ["plain text"]
    with pytest.raises(ProgramFailedError, match=r"did not say 'two' in 0.1 s: First. | Second."):
        program.wait_for("two", 0.1)
    with pytest.raises(ProgramFailedError):
        program.wait_for("one", 0.1, since=2)
    assert program.stop() == -signal.SIGTERM


def test_a_program_that_ends_too_early(own_party):
    with pytest.raises(ProgramFailedError, match="ended before 'two'"):
        speaker(own_party, 0).wait_for("two", 10)
    program = own_party.start("nothing", "player1", ["/nonexistent"])
    with pytest.raises(ProgramFailedError, match="No such file"):
        program.wait_for("anything", 10)
