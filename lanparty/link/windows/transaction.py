"""Carries steps out so that all of them can be taken back: on exit, after a failure, and after a crash.

Owns: the order of journal and step, the undoing, and how steps are written in a journal.
Must not know: how a step is done (network.py), why (plan.py, pin.py, category.py).

    apply       each step: write it into the journal → carry it out. One fails: undo those of this call, and raise.
    undo        each step, the latest first: carry it out turned around → strike it out
    repair      at the next start: the same for every journal whose program is no more

A step is carried out by `Machine.change`, which looks at the value right before it writes: if it is not the one that
the step begins with, somebody else was there, and nothing is done (`ChangedError`). So:

* Between plan and step somebody changed the value: the step is made anew from what is there now. If it is already as
  wished, then not by us, and there is nothing to undo.
* Between step and undo somebody changed it: it is theirs, and stays. The same if it vanished with its interface.
* A crash between journal and step, or between undo and journal: the value is not what the step left; nothing is done.

What is between "right before" and the write belongs to nobody: Windows has no call that compares and sets.

**After a reboot** routes and addresses are gone (CreateIpForwardEntry2 has no persistent store, unlike "route -p";
CreateUnicastIpAddressEntry says so), so one that looks like ours is somebody else's. DNS servers and categories are
kept by Windows. For SetIpInterfaceEntry Microsoft does not say it: netsh and PowerShell know an active and a persistent
store, and programs report both. It does not matter here: if the setting was lost, it is no longer what we left, and
nothing is done; if it was kept, it is put back.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import trio

from lanparty.link.journal import ChangeLog, JournalError, Owner, integer_of, string_of, undo_left_behind
from lanparty.link.windows.plan import (
    AUTOMATIC,
    AddressKey,
    CategoryKey,
    DhcpKey,
    DnsKey,
    InterfaceKey,
    Key,
    MacKey,
    RouteKey,
    Snapshot,
    Step,
    Value,
)
from lanparty.obs.errors import MachineError

__all__ = ["ChangedError", "Machine", "Transaction", "VanishedError", "decode_step", "encode_step", "repair"]

UNDO_DEADLINE: Final = 10.0
"""Seconds for taking everything back: a dozen calls of some milliseconds each, some hundred for DNS and category, which
are other processes' work, and two seconds for the adapter's restart with its former MAC. A call that is under way is
waited for even then. What is not done is in the journal, for the next start."""
_TRIES: Final = 3
"""How often a step is made anew because somebody else changes the same value at the same time: a program that does so
all the time must not hold us."""


class ChangedError(Exception):
    """The value is another one than the step begins with; ``now`` has it."""

    def __init__(self, now: Value) -> None:
        super().__init__(f"it is {now} now")
        self.now = now


class VanishedError(MachineError):
    """What was to be changed is not there: the interface or the network has gone."""


class Machine(Protocol):
    """Windows, or a table in memory."""

    async def snapshot(self) -> Snapshot:
        """Look at everything. Raises MachineError."""
        ...

    async def change(self, step: Step) -> None:
        """Make the value at ``step.key`` be ``step.after``, if it is ``step.before``; carried out whole or not at all.

        Raises ChangedError, VanishedError, MachineError (Windows refuses).
        """
        ...

    def name(self, step: Step) -> str:
        """Say what ``step`` undoes, for people: a part of a sentence."""
        ...


@attrs.frozen
class _Done:
    """A step of the call that is going on."""

    step: Step
    written: Step | None
    """What is in the journal for it."""
    former: Step | None
    """Our own earlier step, whose value this one replaces."""
    new: bool
    """Whether it was not in the journal before."""


class Transaction:
    """What this program has changed, and the way back. Calls wait for each other."""

    def __init__(self, machine: Machine, directory: Path, owner: Owner) -> None:
        self._machine = machine
        self._log = ChangeLog(directory, owner, encode_step)
        self._lock = trio.Lock()

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is carried out now, or begun; oldest first."""
        return self._log.changes

    @property
    def keys(self) -> frozenset[Key]:
        """What those steps changed."""
        return frozenset(step.key for step in self.steps)

    async def apply(self, steps: Iterable[Step]) -> None:
        """Carry ``steps`` out, in this order; all or none. Raises MachineError: one is refused."""
        async with self._lock:
            done: list[_Done] = []
            try:
                for step in steps:
                    await self._carry_out(step, done)
            except BaseException:
                with trio.move_on_after(UNDO_DEADLINE, shield=True):
                    await self._roll_back(done)
                raise

    async def undo(self, belongs: Callable[[Key], bool] = lambda key: True) -> list[str]:
        """Take back the steps whose key ``belongs``, the latest first, shielded from cancellation, with a deadline.

        Gives a part of a sentence for each that Windows refuses to take back: it stays in the journal.
        """
        refused = []
        with trio.move_on_after(UNDO_DEADLINE, shield=True) as scope:
            async with self._lock:
                refused = await self._undo([step for step in self.steps if belongs(step.key)])
        if scope.cancelled_caught:
            refused.append("Windows takes too long")
        return refused

    async def _carry_out(self, step: Step, done: list[_Done]) -> None:
        for _ in range(_TRIES):
            entry = self._enter(step)
            done.append(entry)
            try:
                await self._machine.change(step)
            except ChangedError as error:
                self._strike(entry, done)
                if error.now == step.after or (step.before is None and error.now is not None):
                    return  # it is there already: borrowed
                if error.now is None:
                    raise VanishedError(f"cannot change {self._machine.name(step)}: it is not there") from error
                step = Step(step.key, error.now, step.after)
            except MachineError:  # carried out whole or not at all
                self._strike(entry, done)
                raise
            else:
                if entry.former is not None and entry.former != entry.written:
                    self._log.forget(entry.former)
                return
        raise MachineError(f"another program changes {self._machine.name(step)} all the time; end that program")

    def _enter(self, step: Step) -> _Done:
        """Write a step down. What we have set before is set once more: then what was before that is to be put back.

        Both are written down for a moment, because the machine shows the former value until the change is made.
        """
        former = next((known for known in self.steps if (known.key, known.after) == (step.key, step.before)), None)
        written: Step | None = step if former is None else Step(step.key, former.before, step.after)
        if written is not None and written.before == written.after:
            written = None  # back to what it was: nothing is left to undo
        new = written is not None and written not in self.steps
        if written is not None:
            self._log.record(written)
        return _Done(step, written, former, new)

    def _strike(self, entry: _Done, done: list[_Done]) -> None:
        """Take note that a step was not carried out."""
        if entry.written is not None and entry.new:
            self._log.forget(entry.written)
        done.remove(entry)

    async def _roll_back(self, done: list[_Done]) -> None:
        """Undo what one call did: back to what was there when it began, which may be ours, too."""
        for entry in reversed(done):
            try:
                if entry.former is not None:
                    self._log.record(entry.former)
                await self._machine.change(entry.step.undo())
            except (ChangedError, VanishedError):
                pass  # not carried out; or somebody else's now
            except MachineError:
                continue  # what is written down has the value that is there now
            if entry.written is not None and entry.new:
                self._log.forget(entry.written)

    async def _undo(self, steps: Iterable[Step]) -> list[str]:
        refused = []
        for step in reversed(tuple(steps)):
            try:
                await self._machine.change(step.undo())
            except (ChangedError, VanishedError):
                pass  # somebody else's now, or gone
            except MachineError as error:
                refused.append(str(error))
                continue
            self._log.forget(step)
        return refused


async def repair(
    directory: Path, machine: Machine, here: Owner, *, is_alive: Callable[[Owner, Owner], bool]
) -> list[str]:
    """Undo what dead runs left behind. Gives one part of a sentence for each thing done or found, for the log.

    What Windows refuses to undo is one of them. Never raises for a journal's content.
    """

    async def undo(step: Step, owner: Owner) -> str | None:
        if owner.boot != here.boot and isinstance(step.key, RouteKey | AddressKey):
            return None
        try:
            await machine.change(step.undo())
        except (ChangedError, VanishedError):
            return None
        return f"put back {machine.name(step)}"

    return await undo_left_behind(
        directory,
        decode_change=decode_step,
        concerns_us=lambda owner: not is_alive(owner, here),
        undo=undo,
    )


# In a journal


def encode_step(step: Step) -> dict[str, Any]:
    """Give a step as a JSON object."""
    return {"kind": _KINDS[type(step.key)], **attrs.asdict(step.key), "before": step.before, "after": step.after}


def decode_step(table: Mapping[str, Any]) -> Step:
    """Parse a step of a journal. Raises JournalError."""
    match table.get("kind"):
        case "windows-route":
            key, values = _route_key(table), (_metric(table, "before"), _metric(table, "after"))
            if (values[0] is None) == (values[1] is None):
                raise JournalError("it has a route that is neither made nor removed")
            return Step(key, *values)
        case "windows-interface":
            interface = _interface_key(table)
            return Step(interface, _setting(table, "before"), _setting(table, "after"))
        case "windows-dns":
            return Step(DnsKey(string_of(table, "interface")), _servers(table, "before"), _servers(table, "after"))
        case "windows-category":
            network = CategoryKey(string_of(table, "network"))
            return Step(network, integer_of(table, "before"), integer_of(table, "after"))
        case "windows-mac":
            return Step(MacKey(string_of(table, "interface")), _mac(table, "before"), _mac(table, "after"))
        case "windows-dhcp":
            return Step(DhcpKey(string_of(table, "interface")), integer_of(table, "before"), integer_of(table, "after"))
        case "windows-address":
            values = _prefix(table, "before"), _prefix(table, "after")
            if (values[0] is None) == (values[1] is None):
                raise JournalError("it has an address that is neither put on nor taken off")
            return Step(_address_key(table), *values)
    raise JournalError("it has a change of an unknown kind")


_KINDS: Final[Mapping[type, str]] = {
    RouteKey: "windows-route",
    InterfaceKey: "windows-interface",
    DnsKey: "windows-dns",
    CategoryKey: "windows-category",
    MacKey: "windows-mac",
    DhcpKey: "windows-dhcp",
    AddressKey: "windows-address",
}


def _route_key(table: Mapping[str, Any]) -> RouteKey:
    gateway = None if table.get("gateway") is None else string_of(table, "gateway")
    destination = string_of(table, "destination")
    try:
        network = ipaddress.ip_network(destination)
        if gateway is not None and ipaddress.ip_address(gateway).version != network.version:
            raise JournalError("it has a route whose gateway is of another IP version")
    except ValueError as error:
        raise JournalError("it has a route without an address") from error
    return RouteKey(string_of(table, "interface"), destination, gateway)


def _address_key(table: Mapping[str, Any]) -> AddressKey:
    address = string_of(table, "address")
    try:
        ipaddress.IPv4Address(address)
    except ValueError as error:
        raise JournalError("it has an address that is none") from error
    return AddressKey(string_of(table, "interface"), address)


def _prefix(table: Mapping[str, Any], key: str) -> int | None:
    prefix = None if table.get(key) is None else integer_of(table, key)
    if prefix is not None and prefix > 32:
        raise JournalError("it has an address whose prefix is none")
    return prefix


def _interface_key(table: Mapping[str, Any]) -> InterfaceKey:
    interface, family, setting = string_of(table, "interface"), table.get("family"), table.get("setting")
    for known in ("metric", "default-routes", "router-discovery", "mtu"):
        if setting == known and isinstance(setting, str):
            if family == 4 and not isinstance(family, bool):
                return InterfaceKey(interface, 4, known)
            if family == 6 and not isinstance(family, bool):
                return InterfaceKey(interface, 6, known)
    raise JournalError("it has an unknown setting of an interface")


def _metric(table: Mapping[str, Any], key: str) -> int | None:
    return None if table.get(key) is None else _number(table, key)


def _setting(table: Mapping[str, Any], key: str) -> int:
    return AUTOMATIC if table.get(key) == AUTOMATIC else _number(table, key)


def _number(table: Mapping[str, Any], key: str) -> int:
    value = integer_of(table, key)
    if value >= 1 << 32:
        raise JournalError(f"its {key} is too large")
    return value


def _servers(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise JournalError(f"its {key} is not a text")
    try:
        for server in filter(None, value.replace(",", " ").split()):
            ipaddress.IPv4Address(server)
    except ValueError as error:
        raise JournalError(f"its {key} has a DNS server without an address") from error
    return value


def _mac(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or len(value) > 64 or not value.isprintable():  # as somebody typed it, before us
        raise JournalError(f"its {key} is not a MAC")
    return value
