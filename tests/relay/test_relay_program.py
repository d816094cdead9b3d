"""``python -m lanparty.relay`` as its users start it: the line that says it is usable, signals, exit statuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 20.0  # seconds, on a busy machine; it takes one


def start(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "lanparty.relay", *argv], stderr=subprocess.PIPE, text=True)


def test_says_where_it_listens_and_stops_when_asked(tmp_path: Path) -> None:
    certificate = tmp_path / "relay-cert.der"
    relay = start("--listen", "127.0.0.1:0", "--dev-cert-der-out", str(certificate), "--log-format", "json")
    try:
        assert relay.stderr is not None
        event: dict[str, object] = {}
        while event.get("event") != "relay.listening":
            event = json.loads(relay.stderr.readline())
        assert event["address"] == "127.0.0.1"
        assert isinstance(event["port"], int)
        assert event["port"] > 0
        assert certificate.exists()
        relay.send_signal(signal.SIGTERM)
        _, rest = relay.communicate(timeout=PATIENCE)
    finally:
        relay.kill()
        relay.wait()
    assert relay.returncode == 0
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["program.stopping", "program.stopped"]


def finish(*argv: str) -> tuple[int, list[str]]:
    relay = start(*argv)
    _, errors = relay.communicate(timeout=PATIENCE)
    return relay.returncode, errors.splitlines()


def test_wrong_arguments_are_one_line_and_status_2(tmp_path: Path) -> None:
    status, (line,) = finish("--listen", "127.0.0.1:0")
    assert status == 2
    assert line.startswith("lanparty.relay: error: A relay needs a certificate")
    status, (line,) = finish("--tls-cert", str(tmp_path / "none.pem"), "--tls-key", str(tmp_path / "none.key"))
    assert status == 2
    assert "none.pem" in line


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_in_use_is_one_line_and_status_5(tmp_path: Path, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        others = ["--listen", "127.0.0.1:0"] * (count - 1)
        status, lines = finish("--dev-cert-der-out", str(tmp_path / "c.der"), *others, "--listen", where)
    assert status == 5
    assert lines[-1].startswith("lanparty.relay: error: ")
    assert not any("Traceback" in line or "Listening" in line for line in lines)
