"""The bench's command line and its JSON; a short real run is in test_demo_bench_lab.py."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lanparty.demo import bench
from lanparty.demo.bench import PEERS, main, peers_of, results_from
from lanparty.demo.bench_micro import MICRO, run_micro
from lanparty.demo.bench_systems import Carrier, GuardStrict
from lanparty.obs.errors import LanpartyError, UsageError

NUMBER = {"median": 2.0, "least": 1.0, "most": 3.0, "values": [1.0, 2.0, 3.0]}
DOCUMENT = {
    "machine": {"cores": 2, "kernel": "6.1", "python": "3.11"},
    "settings": {"gro": "on", "quick": False, "rounds": 3, "without": "gso"},
    "systems": {"lanparty": {"carrier": "datagrams", "facts": {}, "numbers": {"ping_p50_ms": NUMBER}}},
    "problems": ["round 2: tinc: it fell over"],
}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "tcp,tpc"], "tpc: metrics are"),
        (["--only", ""], "metrics are"),
        (["--rounds", "0"], "--rounds"),
        (["--profile", "kernel"], "--profile"),
        (["--from", "/nonexistent/results"], "cannot read"),
    ],
)
def test_a_wrong_argument_is_one_line_and_measures_nothing(argv, said, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_acceleration_that_does_not_exist_is_told_before_an_hour_is_spent(monkeypatch, capsys):
    monkeypatch.setenv("LANPARTY_WITHOUT", "gsso")
    assert main([]) == 2
    assert "gsso" in capsys.readouterr().err


def test_peers_are_chosen(monkeypatch):
    monkeypatch.setattr(bench.PEERS["tinc"], "missing", classmethod(lambda _: ["tinc"]))
    monkeypatch.setattr(bench.PEERS["fastd"], "missing", classmethod(lambda _: []))
    assert peers_of("none", quick=False) == ([], [])
    assert peers_of("installed", quick=True) == ([], [])
    found, left_out = peers_of("fastd,tinc", quick=True)
    assert [peer.name for peer in found] == ["fastd"]
    assert left_out == ["tinc is left out: apt-get install tinc"]
    with pytest.raises(UsageError, match="wireguard"):
        peers_of("wireguard", quick=False)


def test_the_systems_of_the_issue_are_there():
    assert {"openvpn", "tinc", "n2n", "fastd", "quicktun", "softether", "softether-tcp", "vxlan"} == set(PEERS)
    assert PEERS["softether-tcp"].carrier is Carrier.STREAM
    assert all(PEERS[name].tools for name in PEERS if name != "vxlan")


def test_tables_of_an_earlier_run(tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(DOCUMENT))
    assert main(["--from", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("2 cores, Linux 6.1, Python 3.11; GRO on; median of 3; without gso\n")
    assert "| idle ping, p50 | ≤ 0.8 ms | 2.00 ms  | 1.00–3.00 |" in text
    assert "tinc: it fell over" in text


@pytest.mark.parametrize("wrong", [{}, {"systems": 3}, {"systems": {"a": {"carrier": "pigeon", "numbers": {}}}}])
def test_what_is_no_result_is_refused(wrong):
    with pytest.raises(UsageError):
        results_from(wrong)


def test_a_missing_or_failing_micro_benchmark_is_named_and_the_others_run(monkeypatch):
    for module in list(MICRO):
        monkeypatch.delitem(MICRO, module)
    monkeypatch.setitem(MICRO, "lanparty.nowhere.bench", "nothing")
    monkeypatch.setitem(MICRO, "lanparty.demo.nowhere", "nothing either")
    monkeypatch.setitem(MICRO, "this", "poetry")
    monkeypatch.setitem(MICRO, "tabnanny.no", "no package")
    printed, problems = run_micro()
    assert "## this: poetry" in printed
    assert "Beautiful is better than ugly." in printed
    assert len(problems) == 3


@pytest.fixture
def sides(monkeypatch):
    """Both sides of the guard's comparison without a lab; what is measured of them, in order."""
    order = []

    @contextmanager
    def started(_run, kind, _durations):
        order.append(f"{kind.name} up")
        yield SimpleNamespace(system=kind)
        order.append(f"{kind.name} down")

    def measured(bench):
        order.append(bench.system.name)
        return {"tcp_up_mbit": 95.0 if bench.system is GuardStrict else 100.0}

    monkeypatch.setattr(bench._Run, "_started", started)
    monkeypatch.setattr(bench, "METRICS", {"tcp": measured})
    monkeypatch.setattr(bench, "GUARD_METRICS", ("tcp",))
    monkeypatch.setattr(bench.sandbox, "is_inside", lambda: True)
    return order


def test_the_guards_comparison_takes_turns(sides, tmp_path, capsys):
    """Both sides are up all the time, and none is always first; the table and the JSON have both."""
    path = tmp_path / "results.json"
    assert main(["--only", "guard", "--peers", "none", "--rounds", "1", "--json", str(path)]) == 0
    strict, off = "guard-strict", "guard-off"
    turns = [strict, off, off, strict, strict, off, off, strict]
    assert sides == [f"{strict} up", f"{off} up", *turns, f"{off} down", f"{strict} down"]
    assert "| 0.95" in capsys.readouterr().out
    assert len(json.loads(path.read_text())["systems"][strict]["numbers"]["tcp_up_mbit"]["values"]) == 4
    assert main(["--from", str(path)]) == 0
    assert "| 0.95" in capsys.readouterr().out


def test_a_turn_that_broke_off_counts_for_neither_side(sides, tmp_path, monkeypatch, capsys):
    whole = bench.METRICS["tcp"]

    def fails_once(one):
        if len(sides) == 2 + 5:
            sides.append("failed")
            raise LanpartyError("iperf3 fell over")
        return whole(one)

    monkeypatch.setitem(bench.METRICS, "tcp", fails_once)
    path = tmp_path / "results.json"
    assert main(["--only", "guard", "--peers", "none", "--rounds", "1", "--json", str(path)]) == 1
    systems = json.loads(path.read_text())["systems"]
    assert {name: len(system["numbers"]["tcp_up_mbit"]["values"]) for name, system in systems.items()} == {
        "guard-strict": 2,
        "guard-off": 2,
    }
    assert "iperf3 fell over" in capsys.readouterr().out
