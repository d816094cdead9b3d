"""Gets an address from the house by DHCP, keeps it, and gives it back.

Owns: the DHCP client's life in a trio task: start, supervision, orderly end, restart after the link was down.
Must not know: the protocol (dhcp_client.py), addresses and routes of the machine (address.py), the relay, the room.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # packet sockets, netlink

import random
from collections import Counter
from collections.abc import Callable

import trio

from lanparty.link.dhcp_client import (
    RELEASE_DEADLINE,
    DhcpLinkDownError,
    DhcpSocket,
    LeaseClient,
    MemoryLease,
    PacketSocket,
)
from lanparty.link.dhcp_reply import Lease
from lanparty.link.netlink import Netlink
from lanparty.obs.errors import MachineError

__all__ = ["DhcpLinkDownError", "DhcpTask", "Lease"]


class DhcpTask:
    """The DHCP client of one interface, for trio.

    ``on_lease`` and ``on_lost`` are called synchronously and must not raise. ``counters`` counts frames that were
    dropped: ``malformed``, ``refused`` (what it says is not acceptable), ``foreign`` (not for us).
    """

    def __init__(
        self,
        netlink: Netlink,
        interface: str,
        mac: bytes,
        *,
        on_lease: Callable[[Lease], None],
        on_lost: Callable[[str], None],
        host_name: str | None = None,
        randomness: random.Random | None = None,
        make_socket: Callable[[Callable[[str], None]], DhcpSocket] | None = None,
    ) -> None:
        self._netlink = netlink
        self._interface = interface
        self._mac = mac
        self._on_lease = on_lease
        self._on_lost = on_lost
        self._host_name = host_name
        self._random = randomness or random.Random()  # noqa: S311 - jitter, no secret
        self._make_socket = make_socket or self._packet_socket
        self._client: LeaseClient | None = None
        self._held: MemoryLease | None = None
        self._house_present: bool | None = None
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Get and keep a lease, until cancelled; then give it back, shielded, with a deadline.

        Raises :class:`DhcpLinkDownError` when the interface is down or gone: the lease is then kept, and verified when
        ``run`` is called again. Raises :class:`MachineError` when this program may not use packet sockets.
        """
        client = await self._netlink.run_asyncio(self._new_client)
        self._client = client
        link_down = False
        try:
            await self._netlink.run_asyncio(self._open, client)
            await self._netlink.run_asyncio(client.supervise)
        except DhcpLinkDownError:
            link_down = True
            raise
        finally:
            self._client = None
            if link_down:
                self._held = client.held or self._held
            with trio.move_on_after(2 * RELEASE_DEADLINE, shield=True):
                await self._netlink.run_asyncio(_close, client, not link_down)

    def house_present(self, present: bool) -> None:
        """The gateway came or went. When it came, ask at once."""
        appeared = present and self._house_present is not True
        self._house_present = present
        if self._client is not None:
            self._client.house_present = present
        if appeared:
            self.verify()

    def verify(self) -> None:
        """Ask at once whether the lease still holds, or for one."""
        if self._client is not None:
            self._netlink.call_soon(self._client.verify_soon)

    async def _new_client(self) -> LeaseClient:
        complaints: list[Callable[[str], None]] = []

        def complain(text: str) -> None:
            for report in complaints:
                report(text)

        client = LeaseClient(
            self._interface,
            self._make_socket(complain),
            host_name=self._host_name,
            on_lease=self._on_lease,
            on_lost=self._on_lost,
            counters=self.counters,
            randomness=self._random,
        )
        complaints.append(client.complain)
        client.house_present = self._house_present
        return client

    async def _open(self, client: LeaseClient) -> None:
        try:
            await client.open(self._held)
            self._held = None
        except PermissionError as error:
            raise MachineError(
                f"cannot open a packet socket on interface {self._interface}: permission denied; "
                "run as root, or give the capability CAP_NET_RAW"
            ) from error
        except OSError as error:
            raise DhcpLinkDownError(f"cannot use interface {self._interface}: {error.strerror}") from error

    def _packet_socket(self, complain: Callable[[str], None]) -> DhcpSocket:
        sock: DhcpSocket = PacketSocket(self._interface, self._mac, self.counters, complain)
        return sock


async def _close(client: LeaseClient, release: bool) -> None:
    await client.close(release=release)
