"""From counters and states to sentences that help: what is wrong, and what to do.

Owns: the wording, and the thresholds above which something is worth a sentence.
Must not know: where the numbers come from. Pure functions: no clock, no I/O. Each returns one sentence, or a tuple of
them with the most useful one first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from lanparty.obs.counters import TunnelCounters

__all__ = [
    "DeviceState",
    "connection_silent",
    "connection_unreachable",
    "device_sentences",
    "name_unknown",
    "port_closed",
    "tunnel_sentences",
]

_WORTH_SAYING: Final = 0.01
"""Share of lost frames above which a person is told: below 1 % games do not notice."""
_ENOUGH: Final = 100
"""Frames below which a share says nothing."""


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def name_unknown(name: str) -> str:
    """DNS has no address for the relay's name."""
    return f"the relay's name {name} does not resolve: check its spelling and this computer's DNS, or give an address"


def connection_silent(address: str, port: int, seconds: float) -> str:
    """Nothing at all came back: the commonest failure, and the one that says least by itself."""
    return (
        f"no answer from the relay at {_endpoint(address, port)} within {seconds:g} s: UDP may be blocked on the way, "
        f"or the relay is not running. Check the address, and that UDP port {port} is open in the relay's firewall"
    )


def port_closed(address: str, port: int) -> str:
    """ICMP port unreachable came back: the machine is there, the program is not."""
    return (
        f"the machine at {_endpoint(address, port)} answers, but nothing listens on UDP port {port}: "
        "check that lanparty.relay is running there, and the port"
    )


def connection_unreachable(address: str, port: int, reason: str) -> str:
    """This machine's own network has no way to the address."""
    family = "IPv6" if ":" in address else "IPv4"
    return (
        f"no way to the relay at {_endpoint(address, port)} ({reason}): this computer may have no {family} connection; "
        "check its network"
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole >= _ENOUGH else 0.0


def tunnel_sentences(counters: TunnelCounters) -> tuple[str, ...]:
    """What a tunnel's counters tell a player, the worst first; empty when all is well."""
    sent = counters.frames_out
    received = counters.frames_in
    found: list[tuple[float, str]] = []

    def judge(lost: int, whole: int, sentence: str) -> None:
        share = _share(lost, whole + lost)
        if share >= _WORTH_SAYING:
            found.append((share, sentence.format(percent=100 * share)))

    judge(
        counters.queue_dropped + counters.queue_expired,
        counters.datagrams_out,
        "{percent:.0f} % of what this computer sends waits too long and is dropped: its uplink is too slow for this "
        "traffic; stop other uploads",
    )
    judge(
        counters.reassembly_dropped,
        received,
        "{percent:.0f} % of the frames for this computer arrive with pieces missing: the path loses packets; "
        "use a cable instead of Wi-Fi if you can",
    )
    judge(
        counters.oversize_dropped,
        sent,
        "{percent:.0f} % of the frames are too large for the path and the room runs without fragments: "
        "lower the MTU of what sends them, or start the relay without --no-fragments",
    )
    judge(
        counters.device_dropped,
        received,
        "{percent:.0f} % of the frames are not taken by the adapter: this computer is too busy, or the adapter is down",
    )
    judge(
        counters.malformed_dropped,
        counters.datagrams_in,
        "{percent:.0f} % of what comes from the relay is not understood: the versions may differ; update both",
    )
    found.sort(key=lambda item: -item[0])
    return tuple(sentence for _, sentence in found)


@attrs.frozen
class DeviceState:
    """What is known of the TAP adapter or network card, as plain numbers; frames since it was opened."""

    name: str
    is_up: bool
    frames_read: int
    """Frames that this computer's programs sent into the adapter."""
    frames_written: int
    """Frames that came from the tunnel and were handed to the adapter."""
    has_address: bool
    gateway_present: bool
    seconds: float
    """How long the adapter has been open."""


_SETTLED_SECONDS: Final = 15.0
"""Before this, silence says nothing: a DHCP client waits up to 4 + 8 s for its first two answers (RFC 2131 4.1)."""


def device_sentences(state: DeviceState, counters: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """What the adapter's state tells, the most useful first; empty when all is well.

    ``counters`` may hold the kernel's own drop counters of the adapter by name (``rx_dropped``, ``tx_dropped``).
    """
    if not state.is_up:
        return (f"adapter {state.name} is down: set it up again, or restart this program",)
    found: list[str] = []
    if state.seconds >= _SETTLED_SECONDS:
        silence = _silence(state)
        if silence is not None:
            found.append(silence)
    dropped = sum((counters or {}).get(name, 0) for name in ("rx_dropped", "tx_dropped"))
    if _share(dropped, state.frames_written + dropped) >= _WORTH_SAYING:
        found.append(
            f"the kernel dropped {dropped} frames on adapter {state.name}: this computer is too busy, "
            "or its firewall drops them"
        )
    return tuple(found)


def _silence(state: DeviceState) -> str | None:
    if not state.gateway_present:
        return "no gateway is in the room, so the house is out of reach: ask the host to start lanparty.gateway"
    if state.frames_read == 0:
        return (
            f"no program of this computer has sent anything into adapter {state.name}: "
            "another network manager may have taken it; let it leave this adapter alone"
        )
    if state.frames_written == 0:
        return (
            f"frames leave by adapter {state.name} but none come back: check that the gateway bridges the right "
            "interface, and that its network card may send from foreign MACs (Wi-Fi and some hypervisors may not)"
        )
    if not state.has_address:
        return (
            f"adapter {state.name} sees the house LAN but has no address: check that the house has a DHCP server, "
            "or give an address with --address ADDRESS/PREFIX"
        )
    return None
