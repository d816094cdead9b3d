"""The demo's table and command line; the demo itself is run by tests/lan/test_lan_demo.py."""

from __future__ import annotations

import math
import struct
import subprocess
import sys

import pytest

from lanparty.demo.__main__ import main
from lanparty.demo.app import Measured, table
from lanparty.demo.probes import PingResult, Transfer, internet_checksum, percentile

FINE = Measured(
    player="player1",
    address="192.168.77.101",
    lease_is_theirs=True,
    pings=PingResult(100, tuple(n / 1000 for n in range(1, 101))),
    broadcast=True,
    multicast=True,
    up=Transfer(12_500_000, 1.0, intact=True),
    down=Transfer(25_000_000, 1.0, intact=True),
)


def but(**changes):
    import attrs

    return attrs.evolve(FINE, **changes)


def test_the_table():
    assert table([FINE, but(player="player2", broadcast=False)]) == (
        "player   lease           ping p50  ping p99  broadcast  multicast  to the house  from the house\n"
        "player1  192.168.77.101  50.00 ms  99.00 ms  yes        yes        100 Mbit/s    200 Mbit/s\n"
        "player2  192.168.77.101  50.00 ms  99.00 ms  NO         yes        100 Mbit/s    200 Mbit/s\n"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"lease_is_theirs": False},
        {"pings": PingResult(100, (0.001,) * 99)},
        {"broadcast": False},
        {"multicast": False},
        {"up": Transfer(5, 1.0, intact=False)},
        {"down": Transfer(5, 1.0, intact=False)},
    ],
)
def test_everything_must_work(changes):
    assert FINE.fine
    assert not but(**changes).fine


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([1.0], 99, 1.0), ([3.0, 1.0, 2.0], 50, 2.0), ([float(n) for n in range(1, 101)], 99, 99.0), ([1.0, 2.0], 0, 1.0)],
)
def test_percentile(values, percent, expected):
    assert percentile(values, percent) == expected


def test_percentile_of_nothing():
    assert math.isnan(percentile([], 50))


def test_checksum_is_that_of_rfc_1071():
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    packet = struct.pack("!BBHHH", 8, 0, 0, 7, 9) + b"odd"
    with_sum = packet[:2] + internet_checksum(packet).to_bytes(2, "big") + packet[4:]
    assert internet_checksum(with_sum) == 0


def test_a_wrong_argument_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "lanparty.demo", "--underlay", "ipx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lanparty.demo: error: ")
    assert done.stderr.count("\n") == 1


def test_where_there_is_no_linux_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.platform", "win32")
    assert main([]) == 5
    assert "run it on Linux" in capsys.readouterr().err
