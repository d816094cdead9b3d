"""The relay alone, under many members: ``lanparty.demo.load`` against it, in the bench's lab.

- ``room32``: one room of 32 members, each sending 128 frames of 100 bytes per second to all others: game snapshots.
- ``rooms500``: 500 rooms of 4, each member sending 30 frames per second.

A sample (see ``bench_measure``), NAME being one of the two:

    NAME_loss            percent of the frames that never came
    NAME_{p50,p99}_ms    from a member's sending to another's receiving: what the relay adds, the generator's own turns
                         (up to 1 ms) and the sockets between
    NAME_relay_cpu       percent of a core while frames flow
    NAME_generator_cpu   the same of the busiest generator process; near 100 it is the limit, not the relay
    NAME_late_ms         how late the generator sent, 99th percentile
    NAME_in, NAME_out    frames per second that the members sent and received
    NAME_member_kib      memory of the relay per member after all that, above what it had with none
    NAME_KEY_at_RATE     of each step of the ladder: loss, relay_cpu, generator_cpu
    NAME_lossless        highest rate per member, of those tried, that lost nothing (only where there is a ladder)
    NAME_gone            members whose connection ended under the load

A load with a ladder begins with a part of its rate and goes up. All numbers but ``NAME_lossless`` are those of the full
rate, which is tried in any case: where less than that already loses, ``NAME_lossless`` says what this machine's cores
carry, relay and generator together.

Of ``room32`` one member has a process of its own: its delays are those that count, as the process that has the other 31
spends milliseconds on a turn. Nobody in a LAN party shares a process with 30 others.

Owns: which processes, when, and what their numbers mean. Must not know: how members work.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import itertools
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from lanparty.demo import inside
from lanparty.demo.bench_lab import Lab, cpu_seconds, memory
from lanparty.demo.bench_measure import Sample
from lanparty.demo.house import WAN_INTERFACE
from lanparty.demo.load import ADDRESS_SHARE, local_address
from lanparty.demo.programs import Party, Program
from lanparty.obs.errors import LanpartyError

__all__ = ["LOADS", "Crowd", "Load", "gathered", "measure_load"]

PLACE: Final = "player1"
FIRST_ADDRESS: Final = "10.99.0.100"
JOIN_TIMEOUT: Final = 300.0
"""Seconds until all members are in. 2000 handshakes take about 15 ms each, both ends together."""
HEAD_START: Final = 1.0
"""Seconds between the last process's "joined" and the first frame."""
EDGE: Final = 0.5
"""Seconds at both ends of the run that the relay's CPU is not counted for."""


@attrs.frozen
class Load:
    """One kind of load."""

    name: str
    rooms: int
    room_size: int
    rate: float
    """Frames per second of each member."""
    size: int
    """Bytes of a frame."""
    apart: int = 0
    """So many members, the first, have a process of their own, and only their delays count."""
    ladder: tuple[float, ...] = ()
    """Parts of the rate to try before the whole, ascending."""
    pattern: str = "all"
    """To whom each sends: everybody in its room, or the ``next`` member."""
    processes: int = 1
    """That hold those who are not apart."""

    @property
    def members(self) -> int:
        """All of them."""
        return self.rooms * self.room_size

    @property
    def copies(self) -> int:
        """Receivers of each frame."""
        return 1 if self.pattern == "next" else self.room_size - 1

    def shares(self) -> list[tuple[int, int]]:
        """First and one more than last member of each process."""
        rest, parts = self.members - self.apart, self.processes
        edges = [self.apart + rest * part // parts for part in range(parts + 1)]
        return [(0, self.apart)] * bool(self.apart) + list(itertools.pairwise(edges))


LOADS: Final = {
    load.name: load
    for load in (
        Load("room32", rooms=1, room_size=32, rate=128, size=100, apart=1),
        Load("rooms500", rooms=500, room_size=4, rate=30, size=100, ladder=(1 / 16, 1 / 8, 1 / 4, 1 / 2)),
    )
}


class _Generator:
    """One process of ``lanparty.demo.load``."""

    def __init__(self, lab: Lab, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            inside.command(lab.at(PLACE), argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next line; raises LanpartyError when there is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LanpartyError("the load generator ended; its own message is above")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def end(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


@attrs.frozen
class Crowd:
    """A relay with all members in, and the processes that hold them."""

    load: Load
    relay: Program
    base: int
    """KiB of the relay's memory before anybody came."""
    generators: Sequence[_Generator]

    def run(self, rate: float, seconds: float, *, tell: Callable[[], None] | None = None) -> Sample:
        """Everybody sends at ``rate`` for so long; ``tell`` is called each second meanwhile."""
        load, pids = self.load, [self.relay.pid]
        start = time.monotonic() + HEAD_START
        for generator in self.generators:
            generator.say(f"{start:.6f} {rate:g} {seconds:g}")
        time.sleep(HEAD_START + EDGE)
        cpu, began = cpu_seconds(pids), time.monotonic()
        end = began + seconds - 2 * EDGE
        while (left := end - time.monotonic()) > 0:
            if tell is not None:
                tell()
            time.sleep(left if tell is None else min(left, 1.0))
        share = (cpu_seconds(pids) - cpu) / (time.monotonic() - began)
        heard = [generator.hear() for generator in self.generators]
        sent, received = (sum(result[key] for result in heard) for key in ("sent", "received"))
        for reason, count in sum((Counter(result["gone"]) for result in heard), Counter()).most_common(3):
            sys.stderr.write(f"  {load.name}: {count} members lost: {reason}\n")
        took = max(result["took"] for result in heard)
        return {
            f"{load.name}_loss": 100 * (1 - received / (sent * load.copies)),
            f"{load.name}_p50_ms": heard[0]["delay_ms"]["p50"],
            f"{load.name}_p99_ms": heard[0]["delay_ms"]["p99"],
            f"{load.name}_relay_cpu": 100 * share,
            f"{load.name}_generator_cpu": 100 * max(result["cpu"] for result in heard),
            f"{load.name}_late_ms": max(result["late_ms"]["p99"] for result in heard),
            f"{load.name}_reordered": sum(result["late"] for result in heard),
            f"{load.name}_in": sent / took,
            f"{load.name}_out": received / took,
            f"{load.name}_gone": sum(sum(result["gone"].values()) for result in heard),
        }


@contextmanager
def gathered(
    lab: Lab, directory: Path, load: Load, *options: str, log_level: str = "warning", stats: int = 0
) -> Iterator[Crowd]:
    """Start a relay with these ``options`` and let everybody in. Raises LanpartyError when something ends early."""
    for index in range(0, load.members, ADDRESS_SHARE):
        lab.add_address(lab.at(PLACE), WAN_INTERFACE, local_address(FIRST_ADDRESS, index), 24)
    with Party(lab, directory, log_level=log_level) as party:
        # The members' rooms have no house, and a few addresses ask for all of them.
        limits = ["--max-clients-per-room", str(load.room_size), "--max-waiting-rooms", str(load.rooms)]
        limits += ["--room-tries", "0"]
        relay = party.start_relay(*limits, "--stats-interval", str(stats), *options, wait=False)
        deadline = time.monotonic() + 20
        while not party.certificate.exists():
            if time.monotonic() > deadline or not relay.running:
                raise LanpartyError(f"the relay does not start: {relay.last_words()}")
            time.sleep(0.05)
        time.sleep(1.0)
        base = memory([relay.pid])["now"]
        common = [sys.executable, "-m", "lanparty.demo.load", "--relay", f"{lab.relay_address}:443"]
        common += ["--relay-ca-cert", str(party.certificate), "--bind", FIRST_ADDRESS]
        common += ["--room-size", str(load.room_size), "--size", str(load.size), "--pattern", load.pattern]
        generators = []
        try:
            for first, to in load.shares():
                generators.append(_Generator(lab, [*common, "--from", str(first), "--to", str(to)]))
            for generator in generators:
                generator.hear()
            yield Crowd(load, relay, base, generators)
        finally:
            for generator in generators:
                generator.end()
            party.kill()  # every member would be told, and has gone


def measure_load(lab: Lab, directory: Path, load: Load, *, seconds: float) -> Sample:
    """Start a relay, let everybody in, send for some seconds. Raises LanpartyError when something ends early."""
    with gathered(lab, directory, load) as crowd:
        sample: Sample = {}
        relay = [crowd.relay.pid]
        for part in load.ladder:
            heard = crowd.run(load.rate * part, seconds / 2)
            for key in ("loss", "relay_cpu", "generator_cpu"):
                sample[f"{load.name}_{key}_at_{load.rate * part:g}"] = heard[f"{load.name}_{key}"]
            if heard[f"{load.name}_loss"] > 0 or heard[f"{load.name}_gone"]:
                break
            sample[f"{load.name}_lossless"] = load.rate * part
        # Before the full rate, which may lose members: this is memory for those who are there.
        crowded = memory(relay)["now"]
        sample |= crowd.run(load.rate, seconds)
        if load.ladder and sample[f"{load.name}_loss"] <= 0:
            sample[f"{load.name}_lossless"] = load.rate
        now = memory(relay)["now"] if not sample[f"{load.name}_gone"] else crowded
        sample[f"{load.name}_member_kib"] = (max(now, crowded) - crowd.base) / load.members
        return sample
