"""Where the player's address on the house LAN is to come from, and what of the house's advice is taken.

Owns: these options and their check, for every system. Must not know: how any system does it.
"""

from __future__ import annotations

import ipaddress

import attrs

from lanparty.obs.errors import UsageError

__all__ = ["AddressOptions", "parse_address_mode"]


def parse_address_mode(text: str) -> str:
    """Check the value of ``--address``: "dhcp", "none", or an IPv4 ADDRESS/PREFIX, which is returned in canonical form.

    Raises :class:`UsageError` with a sentence.
    """
    if text in ("dhcp", "none"):
        return text
    if "/" not in text:
        raise UsageError(f"--address {text}: say dhcp, none, or an address with its prefix, as in 192.168.1.50/24")
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError as error:
        raise UsageError(f"--address {text}: say dhcp, none, or an address with its prefix ({error})") from error
    network, address = interface.network, interface.ip
    if address.is_multicast or address.is_loopback or address.is_unspecified or int(address) >= 0xF0000000:
        raise UsageError(f"--address {text}: {address} is not an address for a computer")
    if network.prefixlen < 31 and address in (network.network_address, network.broadcast_address):
        raise UsageError(f"--address {text}: {address} is not an address for a computer in {network}")
    if not 8 <= network.prefixlen <= 30:
        raise UsageError(f"--address {text}: a LAN's prefix is between 8 and 30")
    return str(interface)


@attrs.frozen
class AddressOptions:
    """What the player asked for."""

    address: str = "dhcp"
    """"dhcp", "none", or "ADDRESS/PREFIX", checked by :func:`parse_address_mode`."""
    accept_default_route: bool = False
    accept_dns: bool = False
    host_name: str | None = None
    """Name that the house's DHCP server sees; ``None`` sends none. Never this machine's own name by itself."""
