"""Rounds joined, goals judged, tables written."""

from __future__ import annotations

import math

from lanparty.demo.bench_measure import METRICS
from lanparty.demo.bench_systems import Carrier
from lanparty.demo.bench_table import GOALS, Results, goals_table, guard_table, join, systems_table

CARRIERS = {
    "lanparty": Carrier.DATAGRAMS,
    "quick": Carrier.DATAGRAMS,
    "slow": Carrier.DATAGRAMS,
    "softether-tcp": Carrier.STREAM,
    "vxlan": Carrier.KERNEL,
    "guard-strict": Carrier.DATAGRAMS,
    "guard-off": Carrier.DATAGRAMS,
}


def results(**samples):
    rounds = {name.replace("_", "-"): [sample] for name, sample in samples.items()}
    return Results(join(rounds), CARRIERS)


def rows(text):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_rounds_are_joined_by_their_median():
    numbers = join({"a": [{"x": 3.0}, {"x": 1.0, "y": 5.0}, {"x": 2.0, "y": math.nan}], "b": [{}]})
    x = numbers["a"]["x"]
    assert (x.median, x.least, x.most, x.values) == (2.0, 1.0, 3.0, (3.0, 1.0, 2.0))
    assert numbers["a"]["y"].values == (5.0,)
    assert "b" not in numbers


def test_the_best_datagram_peer_is_the_measure_not_the_kernel_nor_a_stream():
    table = rows(
        goals_table(
            results(
                lanparty={"tcp_up_mbit": 610.0},
                quick={"tcp_up_mbit": 300.0},
                slow={"tcp_up_mbit": 200.0},
                softether_tcp={"tcp_up_mbit": 520.0},
                vxlan={"tcp_up_mbit": 1200.0},
            )
        )
    )
    datagrams, stream = table
    assert datagrams["best peer"] == "quick 300"
    assert (datagrams["ratio"], datagrams["reached"]) == ("2.03", "yes")
    assert stream["best peer"] == "softether-tcp 520"
    assert (stream["ratio"], stream["reached"]) == ("1.17", "NO")


def test_less_is_better_for_cpu():
    (row,) = rows(
        goals_table(results(lanparty={"tcp_up_cpu": 22.0}, quick={"tcp_up_cpu": 43.0}, slow={"tcp_up_cpu": 50.0}))
    )
    assert row["best peer"] == "quick 43.0"
    assert (row["ratio"], row["reached"]) == ("0.51", "NO")


def test_a_goal_that_refers_to_our_own_numbers():
    ours = {"ping_p50_ms": 0.7, "ping_p99_ms": 1.5, "busy8_up_p99_ms": 7.4, "busy8_up_link": 84.9}
    ours |= {"tcp_up_mbit": 600.0, "loss_up_mbit": 480.0}
    reached = {row["what"]: row["reached"] for row in rows(goals_table(results(lanparty=ours)))}
    assert reached["20 Mbit/s uplink filled by 8 flows, client → house: ping p99"] == "yes"
    assert reached["20 Mbit/s uplink filled by 8 flows, client → house: link used"] == "NO"
    assert reached["TCP client → house, 1 % lost"] == "yes"
    assert reached["TCP client → house"] == "?", "no peer was measured"


def test_spread():
    joined = join({"lanparty": [{"ping_p50_ms": 0.5}, {"ping_p50_ms": 0.75}, {"ping_p50_ms": 0.6}]})
    (row,) = rows(goals_table(Results(joined, CARRIERS)))
    assert row["lanparty"] == "0.600 ms"
    assert row["spread"] == "0.500–0.750"


def test_every_goal_of_a_metric_names_a_metric_that_there_is():
    families = {goal.key.split("_")[0] for goal in GOALS}
    assert families <= {*METRICS, "room32", "rooms500"}
    assert {"tcp", "udp", "ping", "loss", "busy8", "busy4", "busy1", "other", "idle", "room32", "rooms500"} <= families


def test_all_systems_beside_each_other():
    text = systems_table(
        results(
            lanparty={"tcp_up_mbit": 610.4, "tcp_down_mbit": 0.0}, vxlan={"tcp_up_mbit": 1234.5}, slow={"noise": 3.0}
        )
    )
    assert rows(text) == [
        {"system": "lanparty", "TCP Mbit/s": "610 / 0"},
        {"system": "vxlan", "TCP Mbit/s": "1234 / –"},
    ]
    assert systems_table(results(lanparty={"idle_relay_cpu": 0.1})) == ""


def test_the_guards_price_is_the_median_of_each_turns_own_ratio():
    """In the third turn the machine had half its pace: the ratio of the medians would be 0.82."""
    strict = [{"tcp_up_mbit": value, "ping_p50_ms": 2.0} for value in (95.0, 90.0, 44.0)]
    off = [{"tcp_up_mbit": value, "ping_p50_ms": 1.0} for value in (100.0, 110.0, 50.0)]
    joined = join({"guard-strict": strict, "guard-off": off})
    tcp, ping = rows(guard_table(Results(joined, CARRIERS)))
    assert tcp == {
        "guard": "TCP client → house, Mbit/s",
        "off": "100",
        "strict": "90.0",
        "strict / off": "0.88",
        "middle half": "0.85–0.92",
        "goal": "≥ 0.9",
        "reached": "NO",
    }
    assert (ping["strict / off"], ping["goal"]) == ("2.00", "–")


def test_no_table_of_the_guard_without_both_sides():
    assert guard_table(results(guard_strict={"tcp_up_mbit": 1.0})) == ""
    assert guard_table(results(guard_strict={"tcp_up_mbit": 1.0}, guard_off={"ping_p50_ms": 1.0})) == ""
    assert guard_table(results(guard_strict={"tcp_up_mbit": 1.0}, guard_off={"tcp_up_mbit": 0.0})) == ""
