"""Windows' own DHCP client, as iphlpapi.dll lets one speak to it: what it has got, give it back, ask for one.

Owns: reading all adapters' IPv4 addresses (GetAdaptersAddresses), IpReleaseAddress and IpRenewAddress.
Must not know: what is believed of it (lease.py), when anything is asked (address.py).

IpReleaseAddress and IpRenewAddress return when the DHCP client is done: after its whole exchange with the house, or
after its last attempt, which can take a minute. There is no call that does not wait, and none that tells when it is
done, so they run in a thread of their own, one at a time. (The rule against threads is about the adapter's frames:
those never see this thread.) A cancelled call is abandoned: its thread ends with its attempt, and holds nothing of
ours; so the release at the end may begin beside a renewal that nobody waits for any more.
"""

from __future__ import annotations

import ctypes
import ipaddress
from typing import Any, Final

import attrs
import trio

from lanparty.link.windows.lease import AdapterAddress, AdapterView, Origin, State
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.link.windows.winapi.base import ULONG, wide, wide_text
from lanparty.obs.errors import MachineError

__all__ = ["DhcpClient", "read_adapters"]

_FIRST_SIZE: Final = 15_000
"""Bytes that are offered to GetAdaptersAddresses: Microsoft's own advice, so that one call is enough almost always."""
_TRIES: Final = 3
"""Calls of GetAdaptersAddresses: what it needs may grow between two of them."""
_MAX_LIST: Final = 1024
"""Adapters, and addresses of each, that are read: a list that never ends must not hold this program."""
_FOR_EVER: Final = 0xFFFFFFFF
"""Seconds, as Windows writes a lifetime without end."""
_PREFERRED: Final = (ip.IpDadStatePreferred, ip.IpDadStateDeprecated)
"""Deprecated: its preferred lifetime is over. It is used as long as there is no other."""


def read_adapters() -> list[AdapterView]:
    """Look at all adapters that IPv4 is bound to. Raises MachineError."""
    size = ULONG(_FIRST_SIZE)
    flags = ip.GAA_FLAG_INCLUDE_GATEWAYS | ip.GAA_FLAG_SKIP_ANYCAST | ip.GAA_FLAG_SKIP_MULTICAST
    for _ in range(_TRIES):
        # Of the structure's own type, so that it is aligned as it must be.
        count = size.value // ctypes.sizeof(ip.IP_ADAPTER_ADDRESSES_LH) + 1
        buffer = (ip.IP_ADAPTER_ADDRESSES_LH * count)()
        size.value = ctypes.sizeof(buffer)
        error = ip.IPHLPAPI.GetAdaptersAddresses(ip.AF_INET, flags, None, buffer, ctypes.byref(size))
        if error == ip.NO_ERROR:
            return [_view(entry) for entry in _chain(ctypes.cast(buffer, ctypes.POINTER(ip.IP_ADAPTER_ADDRESSES_LH)))]
        if error == ip.ERROR_NO_DATA:
            return []
        if error != ip.ERROR_BUFFER_OVERFLOW:
            break
    raise MachineError(f"Windows does not tell its network adapters' addresses (GetAdaptersAddresses: error {error})")


@attrs.define
class DhcpClient:
    """Windows' DHCP client for one adapter."""

    index: int
    """The adapter's interface index."""
    guid: str
    """The adapter's, with braces."""
    _busy: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def renew(self) -> int:
        """Ask the house whether the lease still holds, or for one. Waits for its answer, or for the last attempt.

        Gives the error code of IpRenewAddress: 0, the house agreed.
        """
        return await self._call("IpRenewAddress")

    async def release(self) -> int:
        """Give the address back: the house is told, and the adapter has none. Gives the error code."""
        return await self._call("IpReleaseAddress")

    async def _call(self, function: str) -> int:
        row = ip.IP_ADAPTER_INDEX_MAP(Index=self.index)
        name = wide(f"\\DEVICE\\TCPIP_{self.guid}")
        ctypes.memmove(row.Name, name, min(ctypes.sizeof(name), ctypes.sizeof(row.Name)))
        call = getattr(ip.IPHLPAPI, function)

        def work() -> int:
            return int(call(ctypes.byref(row)))

        async with self._busy:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def _chain(pointer: Any) -> list[Any]:
    """Follow the ``Next`` of structures to its end."""
    found: list[Any] = []
    while pointer and len(found) < _MAX_LIST:
        found.append(pointer.contents)
        pointer = pointer.contents.Next
    return found


def _view(entry: Any) -> AdapterView:
    server = _ipv4(entry.Dhcpv4Server)
    gateways = [_ipv4(row.Address) for row in _chain(entry.FirstGatewayAddress)]
    name_servers = [_ipv4(row.Address) for row in _chain(entry.FirstDnsServerAddress)]
    addresses = [_address(row) for row in _chain(entry.FirstUnicastAddress)]
    return AdapterView(
        index=entry.IfIndex,
        name=wide_text(entry.FriendlyName),
        up=entry.OperStatus == ip.IfOperStatusUp,
        dhcp=bool(entry.Flags & ip.IP_ADAPTER_DHCP_ENABLED),
        addresses=tuple(address for address in addresses if address is not None),
        server=server,
        gateways=tuple(text for text in gateways if text is not None),
        name_servers=tuple(text for text in name_servers if text is not None),
        mac=bytes(entry.PhysicalAddress[: entry.PhysicalAddressLength]),
    )


def _address(row: Any) -> AdapterAddress | None:
    text = _ipv4(row.Address)
    if text is None:
        return None
    origin: Origin = "other"
    if (row.PrefixOrigin, row.SuffixOrigin) == (ip.IpPrefixOriginDhcp, ip.IpSuffixOriginDhcp):
        origin = "dhcp"
    elif row.PrefixOrigin == ip.IpPrefixOriginManual:
        origin = "manual"
    state: State = "preferred" if row.DadState in _PREFERRED else "tentative"
    if row.DadState == ip.IpDadStateDuplicate:
        state = "duplicate"
    is_lease = origin == "dhcp" and row.LeaseLifetime != _FOR_EVER
    return AdapterAddress(
        text,
        row.OnLinkPrefixLength,
        origin,
        state,
        seconds=None if row.ValidLifetime == _FOR_EVER else row.ValidLifetime,
        lease=row.LeaseLifetime if is_lease else None,
    )


def _ipv4(address: Any) -> str | None:
    """Give the text of a SOCKET_ADDRESS; None: there is none, or it is of another family."""
    if not address.lpSockaddr or address.iSockaddrLength < ctypes.sizeof(ip.SOCKADDR_IN):
        return None
    if address.lpSockaddr.contents.sa_family != ip.AF_INET:
        return None
    there = ctypes.cast(address.lpSockaddr, ctypes.POINTER(ip.SOCKADDR_IN)).contents
    return str(ipaddress.IPv4Address(bytes(there.sin_addr)))
