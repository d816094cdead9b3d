"""SIGHUP at a real relay: certificate and options anew, or one message and everything as before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from relay_packets import ethernet
from test_relay_app import PATIENCE, Endpoint, mac

from lanparty.ctrl.messages import PeerJoined, Reject, RejectCode, Welcome
from lanparty.obs.errors import UntrustedError
from lanparty.quic.client import drive
from lanparty.quic.connection import Connection, ConnectionLost
from lanparty.quic.trust import DEV_SERVER_NAME, Trust, make_identity

CONFIG = """
listen = "127.0.0.1:0"
tls-cert = "{cert}"
tls-key = "{key}"
stats-interval = 0
"""


class Relay:
    """The program, its configuration file and what it says."""

    def __init__(self, directory: Path) -> None:
        self.config, self.cert, self.key = directory / "relay.toml", directory / "cert.pem", directory / "key.pem"
        self.events: list[dict[str, Any]] = []
        self._news = trio.Event()
        self.process: trio.Process
        self.address = ("", 0)

    def configure(self, extra: str = "") -> None:
        self.config.write_text(CONFIG.format(cert=self.cert, key=self.key) + extra)

    def renew(self) -> Trust:
        """Put a new certificate and key in place; gives what its clients trust."""
        identity = make_identity([DEV_SERVER_NAME], datetime.now(UTC))
        pem = identity.certificate.public_bytes(Encoding.PEM)
        self.cert.write_bytes(pem)
        self.key.write_bytes(identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Trust(pem)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        argv = [sys.executable, "-m", "lanparty.relay", "--config", str(self.config), "--log-format", "json"]
        # A controlling terminal would be what SIGHUP is compared with.
        self.process = await trio.lowlevel.open_process(argv, stderr=subprocess.PIPE, start_new_session=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            try:
                event = await self.heard("relay.listening")
                self.address = (event["address"], event["port"])
                yield
                self.process.terminate()
                assert await self.process.wait() == 0
            finally:
                if self.process.returncode is None:
                    self.process.kill()
                nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        rest = b""
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            *lines, rest = (rest + chunk).split(b"\n")
            self.events += [json.loads(line) for line in lines]
            self._news.set()
            self._news = trio.Event()

    async def heard(self, name: str, since: int = 0) -> dict[str, Any]:
        while True:
            for event in self.events[since:]:
                if event["event"] == name:
                    return event
            await self._news.wait()

    async def hang_up(self, answer: str) -> dict[str, Any]:
        """Send SIGHUP; gives the event ``answer`` that follows."""
        since = len(self.events)
        os.kill(self.process.pid, signal.SIGHUP)
        return await self.heard(answer, since)

    async def connect(self, nursery: trio.Nursery, trust: Trust) -> Endpoint:
        async def driven(*, task_status: trio.TaskStatus[Connection]) -> None:
            try:
                await drive(self.address, server_name=DEV_SERVER_NAME, trust=trust, task_status=task_status)
            except ConnectionLost:
                return

        return Endpoint(await nursery.start(driven))


@pytest.fixture
def relay(tmp_path: Path) -> Relay:
    made = Relay(tmp_path)
    made.configure()
    return made


async def test_a_new_certificate_for_newcomers_and_the_old_session_lives_on(relay: Relay) -> None:
    old_trust = relay.renew()
    with trio.fail_after(2 * PATIENCE):
        async with relay.running(), trio.open_nursery() as nursery:
            house = await relay.connect(nursery, old_trust)
            assert isinstance(await house.join(0), Welcome)
            new_trust = relay.renew()
            event = await relay.hang_up("program.reloaded")
            assert event["message"] == "Read certificate and configuration again."
            ann = await relay.connect(nursery, new_trust)
            assert isinstance(await ann.join(1), Welcome)
            assert isinstance(await house.hear(), PeerJoined)
            frame = ethernet(b"after the reload", source=mac(1))
            ann.send(frame)
            assert await house.frames.receive() == (2, frame)
            with pytest.raises(BaseExceptionGroup) as raised:
                async with trio.open_nursery() as other:
                    await relay.connect(other, old_trust)
            assert raised.group_contains(UntrustedError)
            nursery.cancel_scope.cancel()


def half_a_file(relay: Relay) -> None:
    relay.cert.write_bytes(relay.cert.read_bytes()[:200])


def no_key(relay: Relay) -> None:
    relay.key.unlink()


def another_key(relay: Relay) -> None:
    cert = relay.cert.read_bytes()
    relay.renew()
    relay.cert.write_bytes(cert)


def nonsense(relay: Relay) -> None:
    relay.configure("max-rooms = 0\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (half_a_file, "cert.pem holds no PEM certificate"),
        (no_key, "key.pem: No such file or directory"),
        (another_key, "does not belong to the first certificate"),
        (nonsense, "max-rooms is wrong: '0' is not a whole number"),
    ],
)
async def test_what_is_broken_changes_nothing(relay: Relay, damage: Any, said: str) -> None:
    trust = relay.renew()
    with trio.fail_after(2 * PATIENCE):
        async with relay.running(), trio.open_nursery() as nursery:
            damage(relay)
            event = await relay.hang_up("program.reload-refused")
            assert event["message"].startswith("Nothing was changed, and everything goes on as before: ")
            assert said in event["message"]
            assert isinstance(await (await relay.connect(nursery, trust)).join(0), Welcome)
            nursery.cancel_scope.cancel()


async def test_options_that_can_change_do_and_the_others_are_named(relay: Relay) -> None:
    trust = relay.renew()
    with trio.fail_after(2 * PATIENCE):
        async with relay.running(), trio.open_nursery() as nursery:
            house, ann = [await relay.connect(nursery, trust) for _ in range(2)]
            assert isinstance(await house.join(0), Welcome)
            assert isinstance(await ann.join(1), Welcome)
            extra = "max-clients-per-room = 1\nframe-log = true\n"
            relay.configure(extra)
            relay.config.write_text(relay.config.read_text().replace("stats-interval = 0", "stats-interval = 1"))
            event = await relay.hang_up("program.reloaded")
            assert event["message"] == (
                "Read certificate and configuration again; --frame-log stays as it was until a restart."
            )
            rejected = await (await relay.connect(nursery, trust)).join(2)
            assert isinstance(rejected, Reject)
            assert rejected.code is RejectCode.ROOM_FULL
            assert (await relay.heard("relay.stats"))["members"] == 2
            nursery.cancel_scope.cancel()
