"""A day of two rooms in simulated time: ``python tests/life/life_story.py --seed 1 --hours 24``. One JSON line.

    relay        now and then restarted or killed, away for up to half a minute
    room 0       gateway, and players who come and go all day; each of them meets with the incidents below
    room 1       gateway and one player, whose MAC is that of a player in room 0 (faults.md, 27)

The day has four parts, each a party and a night. At the end of a party everybody goes home; then every table of the
relay must be empty. In the night the relay is alone, and gone at its end: then there must be as many objects, tasks and
descriptors as at the end of the first.

Promised, and checked all the time (`Stuck`, `Leak`, `Ledger`):

1. whoever wants in is in, and gets answers from the house, `BOUND` seconds after the last disturbance at the latest;
2. no frame is heard twice, or in another room;
3. no program ends by itself, no task fails;
4. the same seed gives the same day: the same events at the same times (`Story.digest`).

Each person and program draws from a row of random numbers of its own.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Sized
from pathlib import Path
from types import MappingProxyType

import trio
import trio.testing
from life_hosts import Ledger
from life_net import Internet, Line, patched
from life_people import House, PlayerMachine, RelayMachine

from lanparty.obs import events
from lanparty.quic.table import ConnectionTable
from lanparty.relay.hub import Hub
from lanparty.relay.rooms import Rooms
from lanparty.relay.sessions import Sessions

BOUND = 20.0
"""Seconds from the end of the last disturbance to an answer from the house. The parts: silence is noticed within 5, the
longest back-off is 5, a handshake 4, DHCP's next try 4."""
PARTS = 4
PARTY = 0.25
"""Part of each part. What an idle member does costs about 2 s of processor time for each hour, so that a day in which
everybody is always there would take CI five minutes."""
AFTERWARDS = 60.0
"""Seconds for the relay to forget everybody: above every time-out of a connection or session."""
LAST_WORDS = 40
_WATCHED = ("lanparty", "aioquic", "trio")
"""Of which packages objects are counted. Not of lanparty.demo: the house's book of leases stays. Nor cancel scopes:
trio's heap of deadlines keeps up to a thousand that are over."""

_REMEMBERED = frozenset({"_arrivals"})
"""What is to outlive connections, within bounds of its own (docs/bounds.md): handshakes of each address."""

CLIENTS = (("anna", "02:00:00:00:00:01", 0), ("bert", "02:00:00:00:00:02", 0), ("carl", "02:00:00:00:00:01", 1))


class Stuck(AssertionError):  # noqa: N818 - a finding
    """Somebody who wants in is not in."""


class Leak(AssertionError):  # noqa: N818
    """Something stayed that nobody needs any more."""


class Story:
    """One day. ``more`` adds players to room 0."""

    def __init__(self, seed, hours, *, more=0):
        self.seed = seed
        self.hours = hours
        self.whole = hours * 3600 / PARTS
        self.party = self.whole * PARTY
        self.internet = Internet()
        self.ledger = Ledger()
        self.counts = Counter()
        self.incidents = Counter()
        self.waits = []
        """Seconds from the end of a disturbance to the house's answer."""
        self.last_words = deque(maxlen=LAST_WORDS)
        self.calm_at = {}
        """When the relay and each gateway were last started; infinity while they are away."""
        self._digests = {}
        self._census = None
        self._dice = random.Random(f"{seed} story")
        self.relay = RelayMachine(self.internet)
        self.houses = [self._house(room) for room in (0, 1)]
        extra = [(f"guest {number}", f"02:00:00:00:01:{number:02x}", 0) for number in range(more)]
        self.players = [self._player(*client, number) for number, client in enumerate([*CLIENTS, *extra], 1)]

    def _line(self, number):
        return Line(self.internet, number, f"{self.seed} line {number}")

    def _house(self, room):
        return House(room, self._line(100 + room), self.ledger, random.Random(f"{self.seed} gateway {room}"))

    def _player(self, name, mac, room, number):
        dice = random.Random(f"{self.seed} {name}")
        keyed = name != "bert"
        return PlayerMachine(name, mac, room, number, self._line(number), self.ledger, dice, keyed=keyed)

    # -- what is written down

    def note(self, name, event, sentence):
        """Take one event of a program, or of ours."""
        self.counts[event] += 1
        line = f"{trio.current_time():.6f} {name} {event} {sentence}"
        if not event.endswith("stats"):
            self.last_words.append(line)
        self._digests.setdefault(name, hashlib.sha256()).update(line.encode() + b"\n")
        if event == events.TASK_FAILED.name:
            raise Stuck(f"{line}\n" + "\n".join(self.last_words))

    def digest(self):
        """Of everything that was noted, and of what was heard."""
        whole = hashlib.sha256()
        for name in sorted(self._digests):
            whole.update(name.encode() + self._digests[name].digest())
        whole.update(f"{self.internet.carried} {self.ledger.sent} {self.ledger.heard}".encode())
        return whole.hexdigest()

    # -- the day

    async def run(self):
        """All parts. Raises Stuck and Leak."""
        with patched(self.internet, self.seed, self.note):
            async with trio.open_nursery() as world:
                world.start_soon(self.internet.run)
                for part in range(PARTS):
                    await self._part(part * self.whole, part * self.whole + self.party, (part + 1) * self.whole)
                world.cancel_scope.cancel()

    async def _part(self, begin, until, end):
        await trio.sleep_until(begin)
        for key in ("relay", 0, 1):
            self.calm_at[key] = float("inf")
        async with trio.open_nursery() as programs:
            self._start(self.relay, programs, "relay")
            async with trio.open_nursery() as people:
                people.start_soon(_relays_day, self, programs, until)
                for house in self.houses:
                    people.start_soon(_hosts_day, self, house.gateway, programs, until)
                for player in self.players:
                    people.start_soon(_players_day, self, player, programs, until)
            await trio.sleep(AFTERWARDS)
            self._nobody_is_left()
            await trio.sleep_until(end - AFTERWARDS)
            self._nobody_is_left()
            await self.relay.stop()
        await trio.sleep(1)  # what is under way arrives nowhere
        self._nothing_is_left()

    def _start(self, machine, programs, key):
        machine.start(programs)
        self.calm_at[key] = trio.current_time()

    def _nobody_is_left(self):
        """Every table of the running relay is empty."""
        self.ledger.check()
        found = _instances(Hub, Rooms, ConnectionTable, Sessions)
        assert {type(one) for one in found} == {Hub, Rooms, ConnectionTable, Sessions}, found
        for one in found:
            full = {name: value for name, value in _fields(one) if _is_table(name, value) and len(value)}
            if full:
                raise Leak(f"at {trio.current_time():.0f} s nobody is left, but {type(one).__name__} has {full}")
        for player in self.players:
            assert not player.running
        assert not self.internet.homes, "sockets that nobody closed"

    def _nothing_is_left(self):
        """As many objects, tasks and descriptors as after the first part."""
        gc.collect()
        kinds = Counter(map(type, gc.get_objects()))
        ours = Counter({f"{kind.__module__}.{kind.__qualname__}": n for kind, n in kinds.items() if _is_watched(kind)})
        ours["descriptors"] = sum(1 for _ in Path("/proc/self/fd").iterdir())
        ours["tasks"] = trio.lowlevel.current_statistics().tasks_living
        if self._census is None:
            self._census = ours
        elif more := ours - self._census:
            raise Leak(
                f"after {trio.current_time() / 3600:.1f} h there is more than after the first part: {dict(more)}"
            )

    async def be_in(self, player, why):
        """Wait until the player gets an answer from the house. Raises Stuck when that takes too long."""
        self.ledger.check()
        began = trio.current_time()
        while True:
            if player.failure is not None or not player.running:
                raise self._stuck(player, f"ended by itself after {why}: {player.failure}")
            calm = max(began, self.calm_at["relay"], self.calm_at[player.room])
            if await player.reaches_house():
                break
            if trio.current_time() > calm + BOUND:
                raise self._stuck(player, f"not in {trio.current_time() - calm:.1f} s after {why}")
            await trio.sleep(0.5)
        self.waits.append(round(max(0.0, trio.current_time() - calm), 3))
        self.note(player.name, "life.in", f"{why}: after {self.waits[-1]:g} s")

    def _stuck(self, player, what):
        return Stuck(f"{player.name}: {what}, at {trio.current_time():.1f} s\n" + "\n".join(self.last_words))

    def report(self, took):
        """What is printed."""
        waits = sorted(self.waits)
        return {
            "seed": self.seed,
            "hours": self.hours,
            "digest": self.digest(),
            "seconds": round(took, 1),
            "cpu_seconds": round(time.process_time(), 1),
            "packets": self.internet.carried,
            "lost": self.internet.lost,
            "frames": {"sent": self.ledger.sent, "heard": self.ledger.heard},
            "waits": {"count": len(waits), "median": waits[len(waits) // 2], "longest": waits[-1]},
            "key_updates": self.internet.key_updates,
            "incidents": dict(sorted(self.incidents.items())),
            "events": dict(sorted(self.counts.items())),
        }


def _instances(*kinds):
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, kinds)]


def _fields(one):
    names = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    names += list(getattr(one, "__dict__", ()))
    return [(name, getattr(one, name)) for name in names if hasattr(one, name)]


def _is_watched(kind):
    package, _, rest = kind.__module__.partition(".")
    return package in _WATCHED and not rest.startswith("demo") and not kind.__qualname__.startswith("Cancel")


def _is_table(name, value):
    """A dict, set, list or the like that grows and shrinks with the members; counters only grow."""
    if name in _REMEMBERED:
        return False
    return isinstance(value, Sized) and not isinstance(value, (str, bytes, Counter, tuple, MappingProxyType))


# ------------------------------------------------------------------------------------------------ who does what


async def _relays_day(story, programs, until):
    """Updates, crashes."""
    dice = random.Random(f"{story.seed} relay {until}")
    while await _wait_until(until - 120, dice.uniform(0.1, 0.4) * story.party):
        killed = dice.random() < 0.5
        story.note("relay", "life.relay", "is killed" if killed else "is restarted")
        story.calm_at["relay"] = float("inf")
        await (story.relay.kill() if killed else story.relay.stop())
        await trio.sleep(dice.choice([0.1, 2.0, dice.uniform(5, 30)]))
        story._start(story.relay, programs, "relay")


async def _hosts_day(story, gateway, programs, until):
    """The gateway runs while there may be players, with restarts; a host who is cut off may come back twice."""
    dice = random.Random(f"{story.seed} {gateway.name} {until}")
    room = gateway.room
    if room:  # comes later, and leaves earlier
        await trio.sleep(dice.uniform(0.2, 0.4) * story.party)
        until -= 0.2 * story.party
    story._start(gateway, programs, room)
    while await _wait_until(until - 120, dice.uniform(0.1, 0.5) * story.party):
        killed = dice.random() < 0.5
        story.note(gateway.name, "life.gateway", "is killed" if killed else "is restarted")
        story.calm_at[room] = float("inf")
        await (gateway.kill() if killed else gateway.stop())
        await trio.sleep(dice.choice([0.1, 1.0, dice.uniform(3, 40)]))
        story._start(gateway, programs, room)
        if gateway.failure is not None:
            raise Stuck(f"{gateway.name} ended by itself: {gateway.failure}")
    await _wait_until(until, until)
    await gateway.stop()
    if gateway.failure is not None:
        raise Stuck(f"{gateway.name} ended by itself: {gateway.failure}")


async def _players_day(story, player, programs, until):
    dice = player.dice
    last = until - 60 - (0.2 * story.party if player.room else 0)
    while await _wait_until(last - 60, dice.uniform(0.01, 0.2) * story.party):
        if story.calm_at[player.room] == float("inf"):
            continue  # no host tonight
        player.start(programs)
        await story.be_in(player, "joining")
        leave_at = min(last, trio.current_time() + dice.uniform(0.1, 0.5) * story.party)
        while await _wait_until(leave_at, dice.uniform(30, 200)):
            incident = dice.choice(INCIDENTS)
            story.note(player.name, "life.incident", incident.__name__)
            story.incidents[incident.__name__.strip("_")] += 1
            await incident(story, player, programs)
            player.line.calm()
            if trio.current_time() < last:  # else the host may have gone to bed
                await story.be_in(player, incident.__name__)
        story.note(player.name, "life.leaves", "")
        await player.stop()
        player.computer.address = None


async def _wait_until(end, pause):
    """Sleep for ``pause`` seconds; False when that would be after ``end``: then until that."""
    at = trio.current_time() + pause
    await trio.sleep_until(max(trio.current_time(), min(at, end)))
    return at < end


async def _plays(story, player, _programs):
    """A minute's game with whoever is there: 5 packets a second to the house and to each other, some to all."""
    others = [other for other in story.players if other.room == player.room and other is not player]
    for turn in range(300):
        if turn % 50 == 0:
            player.computer.shout()
            for other in others:
                if other.computer.address is not None and other.computer.segment is not None:
                    await player.computer.asks(other.computer.address)
        for neighbour in player.computer.neighbours:
            player.computer.tell(neighbour)
        await trio.sleep(0.2)


async def _rebinds(_story, player, _programs):
    """The home router gives another port, three times."""
    for _ in range(3):
        player.line.rebind()
        await trio.sleep(player.dice.uniform(1, 10))


async def _roams(_story, player, _programs):
    """Wi-Fi to cable: the machine sees it."""
    player.line.move(noticed=True)
    await trio.sleep(1)


async def _is_renumbered(_story, player, _programs):
    """The provider gives the home another address: the machine does not see it."""
    player.line.move(noticed=False)
    await trio.sleep(1)


async def _loses(_story, player, _programs):
    """A bad line."""
    player.line.loss = player.dice.uniform(0.02, 0.3)
    await trio.sleep(player.dice.uniform(10, 60))


async def _is_delayed(_story, player, _programs):
    """A busy line: late, out of order, some twice."""
    player.line.delay, player.line.jitter, player.line.twice = 0.08, 0.05, 0.3
    for _ in range(40):
        player.computer.shout()
        await player.reaches_house()
        await trio.sleep(0.5)


async def _blinks(_story, player, _programs):
    """Two seconds without a line."""
    player.line.dead = True
    await trio.sleep(2)


async def _is_cut_off(_story, player, _programs):
    """Long enough for everybody to notice."""
    player.line.dead = True
    await trio.sleep(player.dice.uniform(5, 60))


async def _sleeps(_story, player, _programs):
    """The machine is suspended. Its tasks cannot be held here, so it is cut off; its clocks say what happened."""
    seconds = player.dice.uniform(20, 300)
    player.line.dead = True
    await trio.sleep(seconds)
    player.line.slept += seconds


async def _is_narrow(_story, player, _programs):
    """Another way, which carries less."""
    player.line.move(noticed=False)
    player.line.mtu = 1300
    for _ in range(10):
        await player.reaches_house()
        await trio.sleep(1)


async def _crashes(_story, player, programs):
    """Killed, and started again at once."""
    await player.kill()
    player.computer.address = None
    player.start(programs)


INCIDENTS = (
    *(_plays, _plays, _rebinds, _roams, _is_renumbered, _loses, _loses, _is_delayed, _blinks, _is_cut_off, _sleeps),
    *(_is_narrow, _crashes),
)


def live(seed, hours, *, more=0):
    """One day; its report. Raises Stuck, Leak, AssertionError."""
    story = Story(seed, hours, more=more)
    began = time.perf_counter()
    try:
        trio.run(story.run, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseExceptionGroup as group:
        raise _first(group) from group
    return story.report(time.perf_counter() - began)


def _first(group):
    """The finding, or whatever else ended the day."""
    leaves = []
    todo = [group]
    while todo:
        one = todo.pop(0)
        todo += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        leaves += [] if isinstance(one, BaseExceptionGroup) else [one]
    return next((leaf for leaf in leaves if isinstance(leaf, AssertionError)), leaves[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--more", type=int, default=0)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(live(options.seed, options.hours, more=options.more)) + "\n")
