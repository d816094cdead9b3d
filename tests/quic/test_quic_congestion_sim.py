"""Congestion control over simulated links: bounds by family of scenarios, the way docs/congestion.md judges it."""

from __future__ import annotations

import math
import random

import attrs
import pytest
from sim.link import MBIT, Cpu, Link, Path
from sim.loop import Loop
from sim.scenarios import SCENARIOS, Result, Scenario, World, home, house, play


def named(name: str, **changes: object) -> Scenario:
    """The one scenario whose name begins so."""
    (found,) = [scenario for scenario in SCENARIOS if scenario.name.startswith(name)]
    return attrs.evolve(found, **changes)


@pytest.mark.parametrize(
    ("scenario", "used", "ping"),
    [
        (named("house: 20", seconds=15.0), 0.95, 5.5),
        (named("house, hosts that stall", seconds=15.0), 0.90, 8.0),
        (named("house, game", seconds=12.0), 0.95, 5.5),
        (named("10 Mbit/s, 30 ms, 1 s buffer", seconds=15.0), 0.95, 12.0),
        (named("50 Mbit/s, 20 ms, 50 ms", seconds=10.0), 0.95, 6.0),
        (named("100 Mbit/s, 5 ms", seconds=6.0, warm=2.0), 0.95, 5.0),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else "",
)
def test_the_link_is_full_and_the_ping_is_flat(scenario: Scenario, used: float, ping: float) -> None:
    result = play(scenario, "ours")
    assert result.utilisation >= used
    assert result.ping_p99 <= ping
    assert result.loss < 0.001


@pytest.mark.parametrize(
    ("name", "used"),
    [("50 Mbit/s, 40 ms, 1 %", 0.93), ("50 Mbit/s, 40 ms, 2 %", 0.90), ("20 Mbit/s, 200 ms, 2 %", 0.80)],
)
def test_random_loss_does_not_make_it_collapse(name: str, used: float) -> None:
    ours = play(named(name, seconds=20.0), "ours")
    assert ours.utilisation >= used
    assert ours.queue_p50 <= 20.0


def test_cubic_and_reno_collapse_there() -> None:
    """So that the scenario shows something."""
    scenario = named("50 Mbit/s, 40 ms, 2 %", seconds=12.0)
    assert play(scenario, "cubic").utilisation < 0.35
    assert play(scenario, "reno").utilisation < 0.35


@pytest.mark.parametrize(("rate", "rtt"), [(5.0, 20.0), (50.0, 20.0), (50.0, 60.0)])
def test_shallow_buffers_lose_little(rate: float, rtt: float) -> None:
    result = play(Scenario(f"{rate} {rtt}", home(rate, rtt, -10), 10.0, 3.0), "ours")
    assert result.utilisation >= 0.75
    assert result.loss <= 0.03


@pytest.mark.parametrize(("name", "used"), [("50 Mbit/s, 20 ms, jitter", 0.6), ("20 Mbit/s, 5 ms, jitter", 0.3)])
def test_jitter_does_not_starve_it(name: str, used: float) -> None:
    assert play(named(name, seconds=15.0), "ours").utilisation >= used


def test_a_busy_processor_does_not_starve_it_nor_does_it_flood_the_socket() -> None:
    result = play(named("CPU-bound, 780", seconds=2.5), "ours")
    reference = play(named("CPU-bound, 780", seconds=2.5), "cubic")
    assert result.utilisation >= 0.85 * reference.utilisation
    assert result.loss <= 0.02


def test_loss_on_the_way_to_a_busy_processor_costs_little() -> None:
    clean = play(named("CPU-bound, 780", seconds=2.5), "ours")
    lossy = play(named("CPU-bound, 1 %", seconds=2.5), "ours")
    assert lossy.utilisation >= 0.8 * clean.utilisation


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("house, cubic beside", 0.25, 0.65),
        ("20 Mbit/s, 30 ms, 100 ms buffer, cubic", 0.15, 0.65),
        ("20 Mbit/s, 30 ms, cubic first", 0.10, 0.65),
        ("50 Mbit/s, 20 ms, 20 ms buffer, cubic", 0.12, 0.65),
    ],
)
def test_beside_cubic_nobody_starves(name: str, least: float, most: float) -> None:
    assert least <= play(named(name), "ours").share <= most


def test_the_queue_is_short_again_after_the_rival_has_left() -> None:
    result = play(named("20 Mbit/s, 30 ms, cubic leaves", seconds=45.0), "ours")
    assert result.queue_p50 <= 6.0
    assert result.utilisation >= 0.95


@pytest.mark.parametrize(
    ("name", "queue"),
    [("house, second own", 15.0), ("20 Mbit/s, 10 ms, 4 own", 25.0), ("20 Mbit/s, 30 ms, 2 own", 40.0)],
)
def test_flows_of_our_own_share(name: str, queue: float) -> None:
    result = play(named(name), "ours")
    assert result.jain >= 0.85
    assert result.queue_p50 <= queue
    assert result.utilisation >= 0.9


@pytest.mark.parametrize("name", ["50 Mbit/s, 30 ms, blackout", "20 Mbit/s, 10 ms, blackout"])
def test_after_a_blackout_it_is_back_within_two_seconds(name: str) -> None:
    assert play(named(name, seconds=14.0), "ours").recovery <= 2.0


def test_it_follows_a_rate_that_changes() -> None:
    world = World(named("Wi-Fi"), "ours").run()
    flow = world.flows[0]
    assert world.result().utilisation >= 0.88
    for begin, end, rate in [(6.5, 10, 10), (11.5, 15, 80), (17, 20, 5), (22, 25, 50)]:
        got = sum(size for slot, size in flow.bins.items() if begin <= slot / 10 + 0.05 < end)
        assert got >= 0.85 * rate * MBIT * (end - begin), (begin, rate)
        queue = sorted(wait for at, wait in world.queue if begin <= at < end)
        assert queue[len(queue) // 2] <= max(0.008, 4 * 1500 / (rate * MBIT)), (begin, rate)


def test_a_fast_long_path_is_filled() -> None:
    result = play(Scenario("fast", home(200, 100, 100), 8.0, 5.0), "ours")
    assert result.utilisation >= 0.85


def test_start_up_does_not_dump_a_burst_into_a_bloated_buffer() -> None:
    world = World(named("10 Mbit/s, 30 ms, 1 s buffer"), "ours").run(4.0)
    assert max(wait for _at, wait in world.queue) < 0.10
    assert _between(world, 1.0, 4.0) >= 0.9 * 10 * MBIT * 3


def _between(world: World, begin: float, end: float) -> int:
    return sum(size for slot, size in world.flows[0].bins.items() if begin <= slot / 10 + 0.05 < end)


# -- the simulator itself ----------------------------------------------------------------------------------------------


@attrs.frozen
class Parcel:
    size: int
    sent_at: float


def carried(path: Path, parcels: int, size: int = 1000, gap: float = 0.0) -> list[tuple[float, float]]:
    """(sent, arrived) of what gets through a link."""
    loop = Loop()
    arrived: list[tuple[float, float]] = []
    link = Link(loop, path, random.Random(1), lambda parcel: arrived.append((parcel.sent_at, loop.now)))  # type: ignore[attr-defined]
    for index in range(parcels):
        at = index * gap
        loop.at(at, lambda at=at: link.send(Parcel(size, at)))  # type: ignore[misc]
    loop.run(1000.0)
    return arrived


def test_a_wire_takes_size_over_rate_and_its_delay() -> None:
    assert [at for _, at in carried(Path(1000.0, 0.5), 3)] == pytest.approx([1.5, 2.5, 3.5])


def test_a_token_bucket_lets_its_burst_through_at_once() -> None:
    assert [at for _, at in carried(Path(1000.0, 0.0, burst=2000), 4)] == pytest.approx([0, 0, 1, 2])


def test_the_tail_is_dropped() -> None:
    assert len(carried(Path(1000.0, buffer=3000), 10)) == 3


def test_loss_and_jitter_are_what_they_say_and_nothing_is_reordered() -> None:
    got = carried(Path(1e9, 0.01, loss=0.02, jitter=0.01), 20000, 100, 0.001)
    assert 0.016 < 1 - len(got) / 20000 < 0.024
    delays = [arrived - sent for sent, arrived in got]
    assert 0.010 <= min(delays) < 0.0105
    assert 0.018 < max(delays) <= 0.0201
    assert got == sorted(got, key=lambda pair: pair[1])


def test_rate_steps_and_blackouts_count_in_the_capacity() -> None:
    path = Path(100.0, steps=((10.0, 50.0),), blackouts=((12.0, 14.0),))
    assert path.capacity(0.0, 20.0) == pytest.approx(10 * 100 + 8 * 50)
    assert path.capacity(5.0, 11.0) == pytest.approx(5 * 100 + 50)


@pytest.mark.parametrize("control", ["reno", "cubic"])
def test_the_references_fill_a_buffer_as_they_do_everywhere(control: str) -> None:
    result = play(Scenario("reference", house(), 20.0, 5.0), control)
    assert result.utilisation > 0.97
    assert result.queue_p50 > 40.0


def test_two_cubics_share() -> None:
    result: Result = play(Scenario("two cubics", home(20, 30, 100), 60.0, 20.0, flows=(0.0, 3.0)), "cubic")
    assert result.jain > 0.85
    assert math.isnan(result.share)


def test_a_run_is_repeatable() -> None:
    scenario = named("50 Mbit/s, 20 ms, jitter", seconds=3.0, warm=1.0)
    first, again, other = (World(scenario, "ours", seed).run() for seed in (7, 7, 8))
    assert first.flows[0].rtts == again.flows[0].rtts
    assert first.flows[0].rtts != other.flows[0].rtts


def test_a_host_drops_what_its_socket_cannot_hold() -> None:
    cpu = Cpu(0.001, buffer=20_000)
    world = World(Scenario("flood", Path(1000 * MBIT, 0.001), 2.0, 0.5, cpu=cpu), "cubic").run()
    assert world.host is not None
    assert world.host.dropped > 0
    assert world.result().utilisation == pytest.approx(1.0, abs=0.3)
