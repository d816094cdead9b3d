"""Scenarios: a path, who sends over it, and what is measured."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import attrs

from lanparty.quic.congestion import CongestionControl, DelayBounded
from lanparty.quic.congestion_rate import RateBounded
from sim.endpoint import BIN, GameThenBulk, Packet, PacketSender, Saturated, Source
from sim.link import MBIT, Cpu, Host, Link, Path, Sized
from sim.loop import Loop
from sim.reference import Cubic, Reno

CONTROLS: dict[str, Callable[[], CongestionControl]] = {
    "ours": DelayBounded,
    "rate": RateBounded,  # what Linux uses; here without the arrival times that it is made for
    "cubic": Cubic,
    "reno": Reno,
}

PROBE = 0.005
"""Seconds between two looks at the bottleneck's queue."""
PING = 0.020
"""Seconds between two inner pings."""


@attrs.frozen
class Scenario:
    """One row of the table. ``flows`` are starting times of flows of the control that is judged."""

    name: str
    path: Path
    seconds: float = 20.0
    warm: float = 4.0
    """Seconds before measuring."""
    back: float = math.nan
    """Seconds of the way back; the path's delay if not given."""
    flows: tuple[float, ...] = (0.0,)
    rivals: tuple[float, ...] = ()
    """Starting times of cubic TCP flows."""
    source: Callable[[], Source] | None = None
    """What the first flow has to send; saturated if not given."""
    cpu: Cpu | None = None
    blackout_end: float = math.nan
    ends: float = math.inf
    """When rivals stop."""


@attrs.frozen
class Result:
    """What was measured from ``warm`` to the end. Delays in milliseconds, shares between 0 and 1."""

    scenario: str
    control: str
    utilisation: float
    """All flows of the judged control and rivals, of what the bottleneck could carry."""
    queue_p50: float
    queue_p99: float
    """Standing queue at the bottleneck."""
    ping_p99: float
    """Inner ping: waiting for the window, the pacer and the bottleneck."""
    loss: float
    """Of the judged flows' bytes, given up by the sender."""
    jain: float
    """Jain's index over the judged flows; nan for one."""
    share: float
    """Of the judged flows against rivals, 0.5 per head is fair; nan without rivals."""
    recovery: float
    """Seconds from the blackout's end until 80 % of the rate; nan without blackout."""
    mbit: float


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie; nan without values."""
    if not values:
        return math.nan
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


class World:
    """One run: built from a scenario, kept for tests that look inside."""

    def __init__(self, scenario: Scenario, control: str | Callable[[], CongestionControl], seed: int = 1) -> None:
        self.scenario = scenario
        self.loop = Loop()
        rng = random.Random(f"{scenario.name}/{seed}")
        self._rng = rng
        self.link = Link(self.loop, scenario.path, rng, self._arrived)
        self.host = Host(self.loop, scenario.cpu, rng, self._read) if scenario.cpu else None
        make = CONTROLS[control] if isinstance(control, str) else control
        self.name = control if isinstance(control, str) else "?"
        self.flows = [
            self._flow(make(), begin, scenario.source() if scenario.source and not index else None)
            for index, begin in enumerate(scenario.flows)
        ]
        self.rivals = [self._flow(Cubic(), begin, Saturated(begin, scenario.ends)) for begin in scenario.rivals]
        self.queue: list[tuple[float, float]] = []
        self.link.on_depart = self._departed
        self.loop.every(PROBE, self._probe)
        self.loop.every(PING, self.flows[0].ping)

    def _flow(self, control: CongestionControl, begin: float, source: Source | None) -> PacketSender:
        flow = PacketSender(self.loop, control, self.link.send, source or Saturated(begin))
        self.loop.at(begin, flow.start)
        back = self.scenario.path.delay if math.isnan(self.scenario.back) else self.scenario.back
        receiver_acknowledge = flow.receiver.acknowledge
        cpu, rng, loop = self.scenario.cpu, self._rng, self.loop
        last = 0.0

        def acknowledge(ack: object) -> None:
            # The sender's process may be late too.
            nonlocal last
            late = rng.uniform(*cpu.stall_range) if cpu and cpu.stall and rng.random() < cpu.stall else 0.0
            last = max(last, loop.now + back + late)
            loop.at(last, lambda: receiver_acknowledge(ack))  # type: ignore[arg-type]

        flow.receiver.acknowledge = acknowledge  # type: ignore[assignment]
        return flow

    def _arrived(self, packet: Sized) -> None:
        if self.host is not None:
            self.host.send(packet)
        else:
            assert isinstance(packet, Packet)
            packet.flow.receiver.receive([packet])

    def _read(self, batch: list[Sized]) -> None:
        by_flow: dict[int, list[Packet]] = {}
        for packet in batch:
            assert isinstance(packet, Packet)
            by_flow.setdefault(id(packet.flow), []).append(packet)
        for packets in by_flow.values():
            packets[0].flow.receiver.receive(packets)

    def _departed(self, packet: Sized) -> None:
        assert isinstance(packet, Packet)
        if packet.ping_at >= 0:
            packet.flow.pings.append((packet.ping_at, self.loop.now - packet.ping_at))

    def _probe(self) -> None:
        wait = self.link.wait() + (self.host.wait() if self.host else 0.0)
        self.queue.append((self.loop.now, wait))

    def run(self, until: float | None = None) -> World:
        """Let time pass, to the scenario's end if not told otherwise."""
        self.loop.run(self.scenario.seconds if until is None else until)
        return self

    def result(self) -> Result:
        """What was measured so far."""
        scenario = self.scenario
        warm, end = scenario.warm, self.loop.now
        got = [_between(flow, warm, end) for flow in self.flows]
        other = sum(_between(flow, warm, end) for flow in self.rivals)
        capacity = scenario.path.capacity(warm, end)
        if scenario.cpu is not None:
            capacity = min(capacity, 1472 / scenario.cpu.cost * (end - warm))
        queue = [wait * 1000 for at, wait in self.queue if at >= warm]
        sent = sum(flow.sent for flow in self.flows)
        total = sum(got)
        return Result(
            scenario=scenario.name,
            control=self.name,
            utilisation=(total + other) / capacity,
            queue_p50=percentile(queue, 0.5),
            queue_p99=percentile(queue, 0.99),
            ping_p99=percentile([wait * 1000 for at, wait in self.flows[0].pings if at >= warm], 0.99),
            loss=sum(flow.lost for flow in self.flows) / max(sent, 1),
            jain=total**2 / (len(got) * sum(x * x for x in got)) if len(got) > 1 and total else math.nan,
            share=total / (total + other) if other else math.nan,
            recovery=self._recovery(),
            mbit=total / MBIT / (end - warm),
        )

    def _recovery(self) -> float:
        end = self.scenario.blackout_end
        if math.isnan(end):
            return math.nan
        flow = self.flows[0]
        wanted = 0.8 * self.scenario.path.rate_at(end) * BIN
        slot = int(end / BIN + 0.5)
        while slot * BIN < self.loop.now:
            if flow.bins.get(slot, 0) >= wanted:
                return slot * BIN - end
            slot += 1
        return math.inf


def _between(flow: PacketSender, begin: float, end: float) -> int:
    return sum(size for slot, size in flow.bins.items() if begin <= slot * BIN + BIN / 2 < end)


def play(scenario: Scenario, control: str | Callable[[], CongestionControl], seed: int = 1) -> Result:
    """Run a scenario to its end."""
    return World(scenario, control, seed).run().result()


# -- the rows ----------------------------------------------------------------------------------------------------------


def _ms(rate: float, milliseconds: float) -> int:
    """Bytes that ``rate`` Mbit/s sends in that time."""
    return int(rate * MBIT * milliseconds / 1000)


def house(burst: int = 16_000) -> Path:
    """The lab's uplink: tbf 20 Mbit/s, 16 kB, 100 ms."""
    return Path(20 * MBIT, 0.0003, _ms(20, 100) + burst, burst=burst)


def home(rate: float, rtt: float, buffer: float, **more: object) -> Path:
    """A home's path: Mbit/s, round trip and buffer in milliseconds (a buffer below 0 is in packets)."""
    size = int(-buffer * 1472) if buffer < 0 else max(_ms(rate, buffer), 2 * 1500)
    return Path(rate * MBIT, rtt / 2000, size, **more)  # type: ignore[arg-type]


SCENARIOS: list[Scenario] = [
    Scenario("house: 20 Mbit/s tbf, 0.6 ms, 100 ms buffer", house(), 30),
    Scenario("house, hosts that stall", house(), 30, cpu=Cpu(50e-6, stall=0.015, stall_range=(0.0005, 0.005))),
    Scenario("house, second own flow at 5 s", house(), 40, 10, flows=(0.0, 5.0)),
    Scenario("house, cubic beside from 3 s", house(), 40, 8, rivals=(3.0,)),
    Scenario("house, game, then bulk at 5 s", house(), 20, 5.5, source=lambda: GameThenBulk(5.0)),
    Scenario("CPU-bound, 780 Mbit/s, stalls", Path(10_000 * MBIT, 50e-6), 4, 1, cpu=Cpu(15e-6, stall=0.05)),
    Scenario("CPU-bound, many stalls", Path(10_000 * MBIT, 50e-6), 4, 1, cpu=Cpu(15e-6, stall=0.25)),
    Scenario("CPU-bound, 1 % loss", Path(10_000 * MBIT, 50e-6, loss=0.01), 4, 1, cpu=Cpu(15e-6, stall=0.05)),
    Scenario("1 Mbit/s, 40 ms, 1 s buffer", home(1, 40, 1000), 60, 10),
    Scenario("5 Mbit/s, 20 ms, 10 packets", home(5, 20, -10), 40, 5),
    Scenario("10 Mbit/s, 30 ms, 1 s buffer", home(10, 30, 1000), 30, 5),
    Scenario("50 Mbit/s, 20 ms, 50 ms buffer", home(50, 20, 50), 20),
    Scenario("50 Mbit/s, 20 ms, 10 packets", home(50, 20, -10), 20),
    Scenario("100 Mbit/s, 5 ms, 100 ms buffer", home(100, 5, 100), 15, 3),
    Scenario("100 Mbit/s, 100 ms, 10 packets", home(100, 100, -10), 20, 6),
    Scenario("500 Mbit/s, 20 ms, 20 ms buffer", home(500, 20, 20), 5, 2),
    Scenario("500 Mbit/s, 200 ms, 100 ms buffer", home(500, 200, 100), 10, 5),
    Scenario("50 Mbit/s, 40 ms, 1 % loss", home(50, 40, 100, loss=0.01), 20),
    Scenario("50 Mbit/s, 40 ms, 2 % loss", home(50, 40, 100, loss=0.02), 20),
    Scenario("20 Mbit/s, 200 ms, 2 % loss", home(20, 200, 200, loss=0.02), 40, 8),
    Scenario("50 Mbit/s, 20 ms, jitter 10 ms", home(50, 20, 200, jitter=0.010), 20),
    Scenario("20 Mbit/s, 5 ms, jitter 10 ms, 1 % loss", home(20, 5, 200, jitter=0.010, loss=0.01), 30),
    Scenario("20 Mbit/s, 30 ms, 100 ms buffer, cubic", home(20, 30, 100), 60, 15, rivals=(5.0,)),
    Scenario("50 Mbit/s, 20 ms, 20 ms buffer, cubic", home(50, 20, 20), 40, 10, rivals=(5.0,)),
    Scenario("50 Mbit/s, 20 ms, 10 packets, cubic", home(50, 20, -10), 40, 10, rivals=(5.0,)),
    Scenario("10 Mbit/s, 50 ms, 1 s buffer, cubic", home(10, 50, 1000), 90, 20, rivals=(5.0,)),
    Scenario("20 Mbit/s, 30 ms, cubic first, then ours", home(20, 30, 100), 60, 15, flows=(5.0,), rivals=(0.0,)),
    Scenario("20 Mbit/s, 30 ms, cubic leaves at 20 s", home(20, 30, 100), 60, 30, rivals=(5.0,), ends=20.0),
    Scenario(
        "20 Mbit/s, 30 ms, 2 own, cubic leaves at 20 s",
        home(20, 30, 100),
        60,
        35,
        flows=(0.0, 1.0),
        rivals=(5.0,),
        ends=20.0,
    ),
    Scenario("50 Mbit/s, 40 ms, own flow at 5 s", home(50, 40, 100), 60, 20, flows=(0.0, 5.0)),
    Scenario("20 Mbit/s, 10 ms, 4 own flows", home(20, 10, 100), 60, 20, flows=(0.0, 3.0, 6.0, 9.0)),
    Scenario(
        "50 Mbit/s, 30 ms, blackout 8-10 s",
        home(50, 30, 100, blackouts=((8.0, 10.0),)),
        20,
        4,
        blackout_end=10.0,
    ),
    Scenario(
        "20 Mbit/s, 10 ms, blackout 8-10 s", home(20, 10, 100, blackouts=((8.0, 10.0),)), 20, 4, blackout_end=10.0
    ),
    Scenario(
        "Wi-Fi: 50, 10, 80, 5, 50 Mbit/s, 10 ms",
        home(50, 10, 200, steps=((5.0, 10 * MBIT), (10.0, 80 * MBIT), (15.0, 5 * MBIT), (20.0, 50 * MBIT))),
        25,
        2,
    ),
    Scenario("50 Mbit/s, 30 ms, game, then bulk at 5 s", home(50, 30, 200), 15, 5.5, source=lambda: GameThenBulk(5.0)),
]
