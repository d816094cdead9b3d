"""Whether Windows takes the house's network for a private one, so that its firewall lets games in.

Owns: the category of the networks that the adapter is connected to, by COM (INetworkListManager), and when to set it.
Must not know: routes, addresses, the journal.

Windows calls a network that it does not know "public", and its firewall then drops what other players' games send
(n2n#207). The house's network has no router that Windows could know it by, so it is new again and again.

1. The network appears some seconds after the adapter's address: Windows looks for a router first, and may show another
   network meanwhile ("Identifying..."), or refuse to change its category. Of the end of that it does not tell those who
   listen for addresses and routes. So `KeepPrivate` asks again, at growing intervals, whether it found one or not, and
   anew when something about addresses or routes changes.
2. A public network becomes private, as a step of the transaction, which puts the old category back.
3. Each network is set once only: if the player makes it public again, it stays so.
4. A domain's network, or one that a policy holds, stays, with one warning.

All COM is in worker threads, each with a multithreaded apartment of its own for the time of the call.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Final, Protocol

import trio

from lanparty.link.windows.plan import CategoryKey, Step
from lanparty.link.windows.transaction import ChangedError, Transaction, VanishedError
from lanparty.link.windows.winapi import netlistmgr as nlm
from lanparty.link.windows.winapi import ole32
from lanparty.link.windows.winapi.base import LONG, PVOID, ULONG
from lanparty.link.windows.winapi.guiddef import GUID, guid_of, guid_text
from lanparty.link.windows.winapi.ole32 import OLE32, method
from lanparty.obs.errors import MachineError
from lanparty.obs.events import CLIENT_NETWORK_NOT_PRIVATE, CLIENT_NETWORK_PRIVATE
from lanparty.obs.log import log

__all__ = ["KeepPrivate", "change_category", "networks_of"]

PAUSES: Final = (1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds between two looks at the networks: Windows needs some 5 to 20 s for one without a router. After two minutes
they are looked at only when something changes."""
_MAX_CONNECTIONS: Final = 256
"""Connections that are looked at: more than any machine has."""
_WHY_NOT: Final = {
    ole32.E_ACCESSDENIED: "Windows does not allow it; start this program as administrator, or ask who administers it",
    ole32.REGDB_E_CLASSNOTREG: "its service 'Network List Service' is missing or switched off",
}


# COM, synchronous


def networks_of(adapter: str) -> dict[str, int]:
    """Give the networks (GUID) that the adapter with this GUID is connected to, with their categories.

    Raises MachineError.
    """
    found: dict[str, int] = {}
    # Closed before the manager is: what the enumeration holds must be released before COM ends.
    with _manager() as manager, contextlib.closing(_connections(manager)) as connections:
        for connection in connections:
            guid = GUID()
            _check(method(connection, nlm.VTABLES["INetworkConnection"], "GetAdapterId")(ctypes.byref(guid)))
            if guid_text(guid) != adapter:
                continue
            network = PVOID()
            _check(method(connection, nlm.VTABLES["INetworkConnection"], "GetNetwork")(ctypes.byref(network)))
            with _released(network) as this:
                _check(method(this, nlm.VTABLES["INetwork"], "GetNetworkId")(ctypes.byref(guid)))
                found[guid_text(guid)] = _category(this)
    return found


def change_category(network: str, step: Step) -> None:
    """See `lanparty.link.windows.transaction.Machine.change`."""
    with _manager() as manager:
        found = PVOID()
        if method(manager, nlm.VTABLES["INetworkListManager"], "GetNetwork")(guid_of(network), ctypes.byref(found)) < 0:
            raise VanishedError("Windows does not know that network (any more)")
        with _released(found) as this:
            now = _category(this)
            if now != step.before:
                raise ChangedError(now)
            _check(method(this, nlm.VTABLES["INetwork"], "SetCategory")(step.after))


def _category(network: int) -> int:
    category = LONG()
    _check(method(network, nlm.VTABLES["INetwork"], "GetCategory")(ctypes.byref(category)))
    return int(category.value)


def _connections(manager: int) -> Generator[int, None, None]:
    """Each connection, which is valid until the next one is asked for."""
    entries = PVOID()
    _check(method(manager, nlm.VTABLES["INetworkListManager"], "GetNetworkConnections")(ctypes.byref(entries)))
    with _released(entries) as this:
        for _ in range(_MAX_CONNECTIONS):
            connection, count = PVOID(), ULONG()
            result = method(this, nlm.VTABLES["IEnumNetworkConnections"], "Next")(
                1, ctypes.byref(connection), ctypes.byref(count)
            )
            _check(result)
            if result != ole32.S_OK or not count.value:
                return
            with _released(connection) as found:
                yield found


@contextlib.contextmanager
def _manager() -> Iterator[int]:
    _check(OLE32.CoInitializeEx(None, ole32.COINIT_MULTITHREADED))
    try:
        manager = PVOID()
        _check(
            OLE32.CoCreateInstance(
                ctypes.byref(nlm.CLSID_NetworkListManager),
                None,
                ole32.CLSCTX_ALL,
                ctypes.byref(nlm.IID_INetworkListManager),
                ctypes.byref(manager),
            )
        )
        with _released(manager) as this:
            yield this
    finally:
        OLE32.CoUninitialize()


@contextlib.contextmanager
def _released(pointer: PVOID) -> Iterator[int]:
    this = pointer.value
    if this is None:
        raise MachineError("Windows gave no network object; please report this")
    try:
        yield this
    finally:
        method(this, ole32.VTABLES["IUnknown"], "Release")()


def _check(result: int) -> None:
    if result < 0:
        reason = _WHY_NOT.get(result, f"Windows refuses (error {result & 0xFFFFFFFF:#010x})")
        raise MachineError(reason)


# Keeping it


class Watched(Protocol):
    """Who tells of changes: `lanparty.link.windows.network.NetworkApi`."""

    def watch(self) -> AbstractContextManager[AsyncIterator[None]]:
        """Give something after changes of routes, interfaces or addresses."""
        ...

    def alias(self, interface: str) -> str:
        """Give the name that people know the interface with this GUID by."""
        ...


class KeepPrivate:
    """Makes the adapter's networks private while it runs; the transaction puts their categories back."""

    def __init__(self, watched: Watched, transaction: Transaction, adapter: str) -> None:
        self._watched = watched
        self._transaction = transaction
        self._adapter = adapter
        self._seen: set[str] = set()
        """Networks that were set."""
        self._warned: set[str] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for new networks until cancelled. Started when it listens. Raises MachineError: no notifications."""
        with self._watched.watch() as changes:
            task_status.started()
            tries = 0
            while True:
                await self._look()
                pause = PAUSES[tries] if tries < len(PAUSES) else float("inf")
                tries += 1
                with trio.move_on_after(pause):
                    await anext(changes)
                    tries = 0  # something happened: the network may come now
                await trio.sleep(PAUSES[0])  # a burst of changes is one

    async def _look(self) -> None:
        """Set what is new."""
        try:
            networks = await trio.to_thread.run_sync(networks_of, self._adapter)
        except MachineError as error:
            self._warn(str(error))
            return
        for network, category in networks.items():
            if network in self._seen or category == nlm.NLM_NETWORK_CATEGORY_PRIVATE:
                continue
            if category == nlm.NLM_NETWORK_CATEGORY_DOMAIN_AUTHENTICATED:
                self._warn("it belongs to a domain, whose rules hold")
                continue
            try:
                await self._transaction.apply([Step(CategoryKey(network), category, nlm.NLM_NETWORK_CATEGORY_PRIVATE)])
            except MachineError as error:
                self._warn(str(error))
            else:
                self._seen.add(network)
                log(CLIENT_NETWORK_PRIVATE, interface=self._watched.alias(self._adapter))

    def _warn(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            log(CLIENT_NETWORK_NOT_PRIVATE, interface=self._watched.alias(self._adapter), reason=reason)
