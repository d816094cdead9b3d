"""Counters of one tunnel: what went through, and what did not, by reason.

Owns: the names under which counters travel in ``stats`` messages and in JSON events.
Must not know: who counts. The data path adds to plain integers; nothing here locks, logs or allocates.

"In" is from the relay to this machine, "out" is from this machine to the relay. A frame is an Ethernet frame, a
datagram is the payload of one QUIC DATAGRAM.
"""

from __future__ import annotations

import attrs

__all__ = ["TunnelCounters"]


@attrs.define
class TunnelCounters:
    """Counts since the program started; bytes are bytes of frames or datagrams without any lower layer."""

    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    """Bytes of the frames counted in ``frames_in``."""
    bytes_out: int = 0
    datagrams_in: int = 0
    datagrams_out: int = 0
    datagram_bytes_in: int = 0
    datagram_bytes_out: int = 0
    pieces_in: int = 0
    """Datagrams that carried a piece of a frame."""
    queue_dropped: int = 0
    """Outgoing datagrams dropped, oldest first, because the queue was full."""
    queue_expired: int = 0
    """Outgoing datagrams dropped because they waited too long."""
    oversize_dropped: int = 0
    """Outgoing datagrams larger than the connection carries, or frames that cannot be cut to fit."""
    unadmitted_dropped: int = 0
    """Datagrams that came before the endpoint was admitted."""
    not_connected_dropped: int = 0
    """Frames of this machine that found no session to go out by."""
    mss_clamped: int = 0
    """TCP SYN segments whose MSS option was lowered."""
    echoes_in: int = 0
    echoes_out: int = 0
    reconnects: int = 0
    """Sessions after the first one."""
    other_dropped: dict[str, int] = attrs.field(factory=dict)
    """Drops with a reason that has no field of its own, by reason (lower case, digits, ``-``)."""

    def drop(self, reason: str, count: int = 1) -> None:
        """Count ``count`` drops for a ``reason`` that has no field of its own. Reasons are ours, never a stranger's."""
        self.other_dropped[reason] = self.other_dropped.get(reason, 0) + count

    @property
    def dropped(self) -> int:
        """All drops together."""
        named = sum(value for name, value in self._numbers() if name.endswith(("_dropped", "_expired")))
        return named + sum(self.other_dropped.values())

    @property
    def unsent(self) -> int:
        """Outgoing datagrams that a connection took and did not send."""
        return self.queue_dropped + self.queue_expired + self.oversize_dropped + self.other_dropped.get("codel", 0)

    def as_dict(self) -> dict[str, int]:
        """Every counter by name, as it travels in ``stats``; other drops as ``dropped.REASON``."""
        return dict(self._numbers()) | {f"dropped.{reason}": count for reason, count in self.other_dropped.items()}

    def since(self, before: TunnelCounters) -> TunnelCounters:
        """Return what was counted after ``before``, an earlier copy of these counters."""
        numbers = {name: value - getattr(before, name) for name, value in self._numbers()}
        others = {reason: count - before.other_dropped.get(reason, 0) for reason, count in self.other_dropped.items()}
        return TunnelCounters(**numbers, other_dropped=others)

    def _numbers(self) -> list[tuple[str, int]]:
        return [(name, getattr(self, name)) for name in _NUMBERS]


_NUMBERS = tuple(field.name for field in attrs.fields(TunnelCounters) if field.name != "other_dropped")
