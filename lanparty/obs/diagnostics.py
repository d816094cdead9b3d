"""From counters and states to sentences that help: what is wrong, and what to do.

Owns: the wording, and the thresholds above which something is worth a sentence.
Must not know: where the numbers come from. Pure functions: no clock, no I/O. Each returns one sentence, or a tuple of
them with the most useful one first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import attrs

from lanparty.obs.counters import TunnelCounters

__all__ = [
    "DeviceState",
    "News",
    "device_sentences",
    "tunnel_sentences",
]

_WORTH_SAYING: Final = 0.01
"""Share of lost frames above which a person is told: below 1 % games do not notice."""
_ENOUGH: Final = 100
"""Frames below which a share says nothing."""


_OVERLAY: Final = "overlay-"
"""Prefix under which the overlay decoder's reasons stand among a tunnel's other drops."""
_TORN: Final = ("frame-expired", "frame-evicted", "piece-overlap", "piece-inconsistent")
"""Reasons that cost a whole frame."""
_HARMLESS: Final = frozenset({"piece-late", "piece-duplicate", "frame-forgotten"})
"""Reasons that cost nothing more: the frame was given up, was there already, or its sender left."""


def _share(part: int, whole: int) -> float:
    return part / whole if whole >= _ENOUGH else 0.0


def tunnel_sentences(counters: TunnelCounters, device_dropped: int = 0) -> tuple[str, ...]:
    """What a tunnel's counters tell a player, the worst first; empty when all is well.

    ``counters`` are those of one stretch of time (`TunnelCounters.since`): what was long ago says nothing of now.
    ``device_dropped``: frames that the adapter or network card did not take in that time.
    """
    overlay = {
        reason.removeprefix(_OVERLAY): count
        for reason, count in counters.other_dropped.items()
        if reason.startswith(_OVERLAY)
    }
    torn = sum(overlay.pop(reason, 0) for reason in _TORN)
    malformed = sum(count for reason, count in overlay.items() if reason not in _HARMLESS)
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
        torn,
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
        device_dropped,
        received,
        "{percent:.0f} % of the frames are not taken by the adapter: this computer is too busy, or the adapter is down",
    )
    judge(
        malformed,
        counters.datagrams_in,
        "{percent:.0f} % of what comes from the relay is not understood: the versions may differ; update both",
    )
    found.sort(key=lambda item: -item[0])
    return tuple(sentence for _, sentence in found)


@attrs.frozen
class DeviceState:
    """What is known of the player's adapter, as plain numbers; frames since it was opened."""

    name: str
    is_up: bool
    frames_read: int
    """Frames that this computer's programs sent into the adapter."""
    frames_written: int
    """Frames that came from the tunnel and were handed to the adapter."""
    seconds: float
    """For how long a session and a gateway have been there."""


_SETTLED_SECONDS: Final = 15.0
"""Before this, silence says nothing: a DHCP client waits up to 4 + 8 s for its first two answers (RFC 2131 4.1)."""


def device_sentences(state: DeviceState) -> tuple[str, ...]:
    """What the adapter's state tells, the most useful first; empty when all is well."""
    if not state.is_up:
        return (f"adapter {state.name} is down: set it up again, or restart this program",)
    if state.seconds < _SETTLED_SECONDS:
        return ()
    if state.frames_read == 0:
        unused = f"no program of this computer has sent anything into adapter {state.name}: "
        return (unused + "another network manager may have taken it; let it leave this adapter alone",)
    if state.frames_written == 0:
        deaf = f"frames leave by adapter {state.name} but none come back: check that the gateway bridges the right "
        return (deaf + "interface, and that its card may send from foreign MACs (some hypervisors' may not)",)
    return ()


class News:
    """Tells each kind of sentence once, and again only after it was gone for a while (one call)."""

    def __init__(self) -> None:
        self._told: frozenset[str] = frozenset()

    def of(self, sentences: Iterable[str]) -> list[str]:
        """Return those of ``sentences`` that the call before did not have; figures in them do not make them new."""
        kinds = {_FIGURES.sub("", sentence): sentence for sentence in sentences}
        news = [sentence for kind, sentence in kinds.items() if kind not in self._told]
        self._told = frozenset(kinds)
        return news


_FIGURES: Final = re.compile(r"[0-9]+")
