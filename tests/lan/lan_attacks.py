"""Attackers and victims for the tests of the guard: Debian's programs, and what they are told.

Attackers: dnsmasq as a DHCP server that nobody asked for, radvd as such a router, dsniff's arpspoof. Victims: two DHCP
clients, and the tables of the kernel. Programs that are missing skip the test, or fail it in CI (``lan_tools.need``).
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
from lan_guard import ATTACKER, VICTIM, Guarded, running
from lan_tools import need, poll, run

from lanparty.demo.programs import Program

ROGUE_POOL = ("192.168.77.220", "192.168.77.230")
"""Addresses of the house's network that its own server does not give."""
ROGUE_PREFIX, ROGUE_PREFIX_DHCPV6 = "fd66:6:6:6:", "fd77:7:7:7:"
"""Their first 64 bits."""


# ------------------------------------------------------------------------------------------------ DHCP


@attrs.frozen
class Leased:
    """What a DHCP client was given, by whom."""

    address: str
    server: str


@contextmanager
def rogue_dhcp(guarded: Guarded) -> Iterator[Program]:
    """dnsmasq on the attacker's adapter."""
    first, last = ROGUE_POOL
    argv = [
        *(need("dnsmasq"), "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--port=0", "--user=root"),
        *("--log-dhcp", "--dhcp-authoritative", "--no-ping", f"--dhcp-leasefile={guarded.directory / 'rogue-leases'}"),
        *(f"--interface={guarded.interface(ATTACKER)}", "--bind-interfaces"),
        *(f"--dhcp-range={first},{last},255.255.255.0,600", "--dhcp-option=option:router,192.168.77.66"),
    ]
    with running(guarded, "rogue DHCP server", ATTACKER, argv, "DHCP, IP range") as program:
        yield program


@contextmanager
def silent_house(guarded: Guarded) -> Iterator[None]:
    """The house's DHCP server says nothing: the best moment for somebody else's."""
    server = next(program for program in guarded.party.programs if program.label == "DHCP server")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


_TELL = """#!/bin/sh
# udhcpc gives the event as an argument, dhclient in $reason
echo "told: ${reason:-$1} address=${new_ip_address:-$ip} server=${new_dhcp_server_identifier:-$serverid}"
"""
_CONFIGURE = """
case "$reason" in
  BOUND|RENEW|REBIND|REBOOT) ip address replace "$new_ip_address/24" dev "$interface" valid_lft 60 preferred_lft 60 ;;
esac
"""


def _script(guarded: Guarded, *, configure: bool = False) -> str:
    """What the clients run instead of their own scripts, which would change this machine's resolver."""
    path = guarded.directory / ("configure" if configure else "tell")
    if not path.exists():
        path.write_text(_TELL + _CONFIGURE * configure)
        path.chmod(0o755)
    return str(path)


def udhcpc_command(guarded: Guarded, place: str) -> list[str]:
    """Two DISCOVERs a second apart, and it ends, with a lease or without."""
    ask = ["-f", "-n", "-q", "-t", "2", "-T", "1"]
    return [need("udhcpc"), *ask, "-i", guarded.interface(place), "-s", _script(guarded)]


def dhclient_command(guarded: Guarded, place: str, *, stays: bool = False) -> list[str]:
    """It gives up after three seconds, unless it ``stays``: then it gives the adapter its address, and renews it.

    It remembers nothing of earlier leases.
    """
    settings = guarded.directory / "dhclient.conf"
    settings.write_text("timeout 3;\nretry 60;\ninitial-interval 1;\nbackoff-cutoff 1;\nselect-timeout 0;\n")
    leases = guarded.directory / f"dhclient-{time.monotonic_ns()}"
    files = ["-cf", str(settings), "-lf", str(leases), "-pf", f"{leases}.pid", "-sf", _script(guarded, configure=stays)]
    return [need("dhclient"), "-4", "-d", *([] if stays else ["-1"]), *files, guarded.interface(place)]


def asks(guarded: Guarded, place: str) -> Leased | None:
    """Let a real DHCP client do its whole exchange; None when nobody gave it anything.

    udhcpc in the house, dhclient at the remote victim: two programs, two ways to read an answer.
    """
    argv = dhclient_command(guarded, place) if place == VICTIM else udhcpc_command(guarded, place)
    program = guarded.start("DHCP client", place, argv)
    try:
        # dhclient stays to renew what it got, although told to try once.
        poll(lambda: _leased(program) or not program.running, 20, "the DHCP client is done")
    finally:
        program.kill()
        guarded.party.programs.remove(program)
    return _leased(program)


def _leased(program: Program) -> Leased | None:
    for line in list(program.lines):
        found = re.match(r"told: (?:bound|BOUND|REBOOT) address=(\S+) server=(\S+)", line)
        if found:
            return Leased(found[1], found[2])
    return None


# ------------------------------------------------------------------------------------------------ routers


@contextmanager
def rogue_router(guarded: Guarded) -> Iterator[Program]:
    """radvd on the attacker's adapter: a default router, and a prefix to make addresses of."""
    settings = guarded.directory / "radvd.conf"
    settings.write_text(
        f"interface {guarded.interface(ATTACKER)} {{\n"
        "  AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultPreference high;\n"
        f"  prefix {ROGUE_PREFIX}:/64 {{ AdvOnLink on; AdvAutonomous on; }};\n"
        "};\n"
    )
    settings.chmod(0o644)
    argv = [need("radvd"), "-n", "-C", str(settings), "-m", "stderr", "-d", "1", "-p", f"{settings}.pid"]
    with running(guarded, "rogue router", ATTACKER, argv, "radvd") as program:
        yield program


@contextmanager
def rogue_dhcp6(guarded: Guarded) -> Iterator[Program]:
    """dnsmasq as a DHCPv6 server, which needs an address of the prefix that it serves."""
    interface = guarded.interface(ATTACKER)
    run(guarded.at(ATTACKER), "ip", "address", "add", f"{ROGUE_PREFIX_DHCPV6}:1/64", "dev", interface, "nodad")
    argv = [
        *(need("dnsmasq"), "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--port=0", "--user=root"),
        *("--log-dhcp", f"--dhcp-leasefile={guarded.directory / 'rogue-leases6'}", f"--interface={interface}"),
        *("--bind-interfaces", f"--dhcp-range={ROGUE_PREFIX_DHCPV6}:100,{ROGUE_PREFIX_DHCPV6}:200,64,600"),
    ]
    try:
        with running(guarded, "rogue DHCPv6 server", ATTACKER, argv, "DHCPv6, IP range") as program:
            yield program
    finally:
        run(guarded.at(ATTACKER), "ip", "address", "del", f"{ROGUE_PREFIX_DHCPV6}:1/64", "dev", interface)


def dhclient6_command(guarded: Guarded, place: str) -> list[str]:
    leases = guarded.directory / f"dhclient6-{time.monotonic_ns()}"
    script = guarded.directory / "tell6"
    if not script.exists():
        script.write_text('#!/bin/sh\necho "told: $reason address=$new_ip6_address"\n')
        script.chmod(0o755)
    files = ["-cf", "/dev/null", "-lf", str(leases), "-pf", f"{leases}.pid", "-sf", str(script)]
    return [need("dhclient"), "-6", "-d", "-1", *files, guarded.interface(place)]


# ------------------------------------------------------------------------------------------------ ARP


@contextmanager
def arpspoof(guarded: Guarded, victim: str, claimed: str) -> Iterator[Program]:
    """dsniff's arpspoof: tells the machine at ``victim`` every two seconds that ``claimed`` is the attacker."""
    # It asks the kernel for the victim's MAC first; have it known, so that it begins at once.
    run(guarded.at(ATTACKER), "ping", "-n", "-c", "1", "-W", "2", victim)
    argv = [need("arpspoof"), "-i", guarded.interface(ATTACKER), "-t", victim, claimed]
    with running(guarded, f"arpspoof {victim} {claimed}", ATTACKER, argv, "is-at") as program:
        yield program


# ------------------------------------------------------------------------------------------------ the kernel's tables


def neighbour(guarded: Guarded, place: str, address: str) -> str | None:
    """The MAC that a machine has for an address of its network; None while it knows none."""
    asked = ["ip", "-j", "neighbour", "show", "to", address, "dev", guarded.interface(place)]
    for entry in json.loads(run(guarded.at(place), *asked).stdout or "[]"):
        if "lladdr" in entry:
            return str(entry["lladdr"])
    return None


def ipv6_state(guarded: Guarded, place: str) -> tuple[set[str], set[str]]:
    """Addresses and routes of a machine's LAN interface, without what counts down."""
    interface = guarded.interface(place)
    (link,) = json.loads(run(guarded.at(place), "ip", "-j", "-6", "address", "show", "dev", interface).stdout)
    routes = json.loads(run(guarded.at(place), "ip", "-j", "-6", "route", "show", "dev", interface).stdout or "[]")
    return (
        {f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"]},
        {f"{route['dst']} via {route.get('gateway', '-')} {route.get('protocol')}" for route in routes},
    )


def next_hop(guarded: Guarded, place: str, destination: str) -> str | None:
    """The router that a machine would send to for ``destination``."""
    (route,) = json.loads(run(guarded.at(place), "ip", "-j", "route", "get", destination).stdout)
    return route.get("gateway")
