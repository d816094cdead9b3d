"""Where time went, from py-spy's stacks."""

from __future__ import annotations

from lanparty.demo.bench_profile import own_time_table

STACKS = [
    "<module> (main.py:1);run (a/b/trio/_run.py:9);seal (lanparty/quic/codec.py:70) 60",
    "<module> (main.py:1);run (a/b/trio/_run.py:11);seal (lanparty/quic/codec.py:71) 20",
    "<module> (main.py:1);run (a/b/trio/_run.py:9);seal (lanparty/quic/codec.py:70);pack (lanparty/quic/codec.py:5) 10",
    "<module> (main.py:1);run (a/b/trio/_run.py:9) 10",
    "not a stack",
]


def test_own_time_and_time_with_calls():
    lines = own_time_table(STACKS).splitlines()
    assert lines[0] == "100 samples"
    table = [line.split(None, 2) for line in lines[2:]]
    assert table[0] == ["80.0%", "90.0%", "seal (quic/codec.py)"]
    assert ["10.0%", "100.0%", "run (trio/_run.py)"] in table
    assert ["10.0%", "10.0%", "pack (quic/codec.py)"] in table


def test_a_recursive_function_counts_once():
    table = own_time_table(["f (a.py:1);f (a.py:2);f (a.py:2) 5"])
    assert "100.0%      100.0%  f (a.py)" in table


def test_nothing_sampled():
    assert own_time_table([]).startswith("0 samples")
