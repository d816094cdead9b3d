"""The bench in namespaces: its cables are real ones, its disturbances disturb, and a short run gives every number."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import attrs
import pytest

from lanparty.demo import inside, sandbox
from lanparty.demo.bench import main
from lanparty.demo.bench_lab import LAN_HOST, Lab, cpu_seconds, descendants, end_processes, wake_ups
from lanparty.demo.bench_load import LOADS, measure_load
from lanparty.demo.probes import ping
from lanparty.demo.soak import main as soak

REQUIRED = os.environ.get("LANPARTY_LAN_REQUIRED") == "1" or os.environ.get("CI") == "true"

pytestmark = [
    pytest.mark.lan,
    pytest.mark.skipif(not sandbox.is_inside() and not REQUIRED, reason="needs the sandbox (nox -s lan)"),
]


FINISHED_BY_THE_CARD = ("tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation")
FINISHED_BY_THE_CARD += ("generic-segmentation-offload",)


@pytest.fixture
def lab():
    with Lab(gro=True) as lab:
        yield lab


def features(lab, place, interface):
    return dict(re.findall(r"^\s*([\w-]+): (on|off)", lab.run(place, "ethtool", "-k", interface), re.MULTILINE))


@pytest.mark.parametrize("gro", [True, False])
def test_cables_carry_real_frames(gro):
    with Lab(gro=gro) as lab:
        places = [
            ("lan-host", "eth0"),
            ("gateway", "eth0"),
            ("gateway", "wan0"),
            ("relay", "wan0"),
            ("player1", "wan0"),
        ]
        places += [("internet", "to-relay"), ("house-switch", "to-gateway")]
        for place, interface in places:
            found = features(lab, place, interface)
            for name in FINISHED_BY_THE_CARD:
                assert found[name] == "off", (place, interface, name)
            assert found["generic-receive-offload"] == ("on" if gro else "off"), (place, interface)


def test_a_shaped_uplink_is_slow_and_counted(lab):
    """20 Mbit/s are 2.5 MB in a second, whatever is offered."""
    there = ("gateway", "wan0")
    flood = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nend = time.monotonic() + 1.5\n"
    flood += "while time.monotonic() < end:\n s.sendto(bytes(1400), ('10.99.0.10', 9))\n time.sleep(0.0002)\n"
    with lab.shaped(there):
        process = subprocess.Popen(inside.command(lab.at("gateway"), [sys.executable, "-c", flood]))
        time.sleep(0.4)
        before, began = lab.sent_bytes(there), time.monotonic()
        time.sleep(0.8)
        rate = (lab.sent_bytes(there) - before) * 8 / (time.monotonic() - began)
        process.wait()
    assert 10e6 < rate < 22e6
    assert "tbf" not in lab.run("gateway", "tc", "qdisc", "show", "dev", "wan0")


def test_loss_and_cuts(lab):
    with lab.losing(500):
        lost = ping(lab.at("gateway"), lab.wan_address("relay"), count=60, interval=0.001, wait=0.02).lost
    assert 10 < lost < 50
    assert not ping(lab.at("gateway"), lab.wan_address("player1"), count=1).lost
    lab.cut_direct()
    assert ping(lab.at("gateway"), lab.wan_address("player1"), count=2, wait=0.1).lost == 2
    assert not ping(lab.at("gateway"), lab.wan_address("relay"), count=2).lost
    assert not ping(lab.at("gateway"), LAN_HOST, count=2).lost


def test_processes_are_seen_whole():
    """A shell with a child: both are found, counted, and ended."""
    script = "sleep 60 & i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; wait"
    shell = subprocess.Popen(["/bin/sh", "-c", script])
    try:
        deadline = time.monotonic() + 20
        while (len(descendants(shell.pid)) < 2 or not cpu_seconds([shell.pid])) and time.monotonic() < deadline:
            time.sleep(0.05)
        family = descendants(shell.pid)
        assert len(family) == 2
        assert cpu_seconds(family) > 0
        assert wake_ups(family)[0] > 0
    finally:
        end_processes(descendants(shell.pid), signal.SIGKILL)
    assert shell.wait(5) == -signal.SIGKILL


def test_a_short_run(tmp_path, capsys):
    """Not how fast, but that every number is there."""
    results = tmp_path / "results.json"
    assert main(["--quick", "--only", "ping,idle,memory", "--json", str(results)]) == 0
    numbers = json.loads(results.read_text())["systems"]["lanparty"]["numbers"]
    roles = ("relay", "gateway", "client")
    names = {"ping_p50_ms", "ping_p99_ms", *(f"idle_{role}_wakeups" for role in roles)}
    assert names | {f"memory_{role}_now" for role in roles} <= numbers.keys()
    assert all(number["median"] > 0 for key, number in numbers.items() if key not in ("ping_lost", "noise"))
    assert "| idle ping, p50" in capsys.readouterr().out


def test_a_short_run_of_another_system_alone(tmp_path, capsys):
    """The one that needs no package."""
    results = tmp_path / "results.json"
    argv = ["--quick", "--no-ours", "--only", "ping,loss", "--peers", "vxlan", "--json", str(results)]
    assert main(argv) == 0
    numbers = json.loads(results.read_text())["systems"]["vxlan"]["numbers"]
    assert 0 < numbers["ping_p50_ms"]["median"] < 50
    assert numbers["loss_up_mbit"]["median"] > 1
    assert "vxlan" in capsys.readouterr().out


def test_a_small_load(lab, tmp_path):
    load = attrs.evolve(LOADS["room32"], room_size=4, rate=10)
    sample = measure_load(lab, tmp_path / "load", load, seconds=2.0)
    assert sample["room32_loss"] == 0
    assert 25 < sample["room32_in"] < 50
    assert sample["room32_out"] == pytest.approx(3 * sample["room32_in"])
    assert 0 < sample["room32_p50_ms"] < 1000
    assert sample["room32_member_kib"] > 0


@pytest.mark.parametrize("pattern", ["next", "all"])
def test_a_short_soak(tmp_path, pattern, capsys):
    written = tmp_path / "soak.json"
    status = soak(["--members", "4", "--rate", "5", "--seconds", "4", "--pattern", pattern, "--json", str(written)])
    result = json.loads(written.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert result["loss"] == 0
    assert status == bool(result["missed"])  # of memory in its first seconds this says nothing
    assert result["out"] == pytest.approx(result["in"] * (1 if pattern == "next" else 3), rel=1e-3)
    assert result["memory_kib"]["readings"][0] > result["memory_kib"]["before"] > 0
