from __future__ import annotations

import argparse
import itertools
import os
import pty
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import trio

from lanparty.cli.service import Service
from lanparty.obs import events
from lanparty.obs.errors import UsageError
from lanparty.obs.log import captured, log
from lanparty.uplink.tick import TICK, next_tick


class Manager:
    """The service manager's end of a notify socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> list[dict[str, str]]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return [dict(line.split("=", 1) for line in message.split("\n")) for message in messages]


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@lanparty-test-{os.getpid()}")
    yield made
    made.socket.close()


@pytest.fixture(autouse=True)
def quiet():
    with captured() as entries:
        yield entries


def listening() -> None:
    log(events.RELAY_LISTENING, address="192.0.2.1", port=443)


def test_a_service_tells_its_manager_what_the_log_says(manager):
    service = Service(address=manager.address)
    listening()
    with service.connected():
        log(events.PEER_LEFT, peer=3)  # nothing that describes the program
        listening()
        listening()
        log(events.RELAY_STATS, rooms=1, members=2, frames_in=3, frames_out=4, dropped=0)
        log(events.STOPPING, reason="SIG\nTERM")
    listening()
    where = "Listening on 192.0.2.1, UDP port 443."
    assert manager.heard() == [
        {"STATUS": where, "READY": "1"},
        {"STATUS": where},
        {"STATUS": "1 rooms, 2 members; 3 frames in, 4 out, 0 dropped."},
        {"STATUS": "Stopping (SIG\\nTERM). A second signal ends the program at once.", "STOPPING": "1"},
    ]


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "/nowhere/notify"])
def test_a_manager_that_is_not_there_stops_nobody(address):
    with Service(address=address).connected():
        listening()


def test_a_manager_that_does_not_read_stops_nobody(tmp_path):
    deaf = Manager(str(tmp_path / "notify"))
    with Service(address=deaf.address).connected():
        for _ in range(1000):
            listening()
    assert 0 < len(deaf.heard()) < 1000


@pytest.mark.parametrize(
    ("variables", "watchdog"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({}, None),
    ],
)
def test_what_the_environment_says_is_for_this_process_only(variables, watchdog):
    environment = {"NOTIFY_SOCKET": "/run/notify", "HOME": "/", **variables}
    assert Service.of_this_process(environment, None).watchdog == watchdog
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(("watchdog", "period"), [(30, 14), (8, 4), (5, 2), (1, 0.5)])
async def test_beats_come_in_time_and_when_the_program_wakes_up_anyway(tmp_path, autojump_clock, watchdog, period):
    manager = Manager(str(tmp_path / "notify"))
    service = Service(address=manager.address, watchdog=watchdog)
    times = []

    def tick(now: float, period: float) -> float:
        assert manager.heard() == [{"WATCHDOG": "1"}]
        times.append(now)
        return next_tick(now, period)

    with service.connected(), trio.move_on_after(20 * period):
        await service.beat(TICK, tick)
    assert len(times) > 18
    assert all(later - before <= watchdog / 2 for before, later in itertools.pairwise(times))
    assert all(round(time % period, 6) in (0, period) for time in times[1:])
    assert period % TICK == 0 or period < TICK


async def test_a_loop_that_hangs_does_not_say_that_it_turns(tmp_path):
    """No thread beats for it: there are none but those that trio may have kept from other tests."""
    threads = set(threading.enumerate())
    manager = Manager(str(tmp_path / "notify"))
    service = Service(address=manager.address, watchdog=0.02)
    with service.connected():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.beat, TICK, next_tick)
            while not manager.heard():  # noqa: ASYNC110 - what comes from a socket of the test's own
                await trio.sleep(0.01)
            assert set(threading.enumerate()) <= threads
            time.sleep(0.2)  # noqa: ASYNC251 - this is the hanging
            assert manager.heard() == []
            nursery.cancel_scope.cancel()


async def test_nobody_asked_for_beats(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    await Service(watchdog=1).beat(TICK, next_tick)  # no socket
    with (service := Service(address=manager.address)).connected():
        await service.beat(TICK, next_tick)  # no watchdog
    assert manager.heard() == []


async def test_a_reload_is_begun_and_ended(tmp_path, quiet):
    manager = Manager(str(tmp_path / "notify"))
    options = argparse.Namespace(answer=42)
    seen = []
    broken = False

    def read() -> argparse.Namespace:
        if broken:
            raise UsageError("configuration file x is not TOML: no.")
        return options

    service = Service(address=manager.address, read_options=read)
    with service.connected():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.reload_on_hangup, seen.append)
            listening()
            service.hang_up()
            await trio.testing.wait_all_tasks_blocked()
            broken = True
            service.hang_up()
            service.hang_up()  # the same wish
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert seen == [options]
    refused = "Nothing was changed, and everything goes on as before: configuration file x is not TOML: no."
    assert [entry["message"] for entry in quiet if entry["event"] == "program.reload-refused"] == [refused]
    _, begun, ended, begun_again, status, ended_again = manager.heard()
    assert begun.keys() == begun_again.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert ended == ended_again == {"READY": "1"}
    assert status == {"STATUS": refused}
    assert int(begun["MONOTONIC_USEC"]) <= int(begun_again["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_relay_ends_with_the_terminal_that_it_was_started_in(tmp_path: Path) -> None:
    """And reloads at a SIGHUP while that terminal is there."""
    argv = ["-m", "lanparty.relay", "--listen", "127.0.0.1:0", "--dev-cert-der-out", str(tmp_path / "cert.der")]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, *argv])
    said = b""

    def until(words: bytes) -> None:
        nonlocal said
        while words not in said:
            said += os.read(terminal, 4096)

    try:
        until(b"Listening on")
        os.kill(child, signal.SIGHUP)
        until(b"Read certificate and configuration again")
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
