"""The frame log: one line per Ethernet frame, for finding out where a frame went.

Owns: what a line says. Costs nothing when off: there is no FrameLog then, and who handles frames keeps None::

    if self._framelog is not None:
        self._framelog.frames(frames, peer, "to relay")

Must not know: what the frames mean; headers are shown, not judged. Lines are ``frame`` events of ``events.py``, so they
need ``--log-level`` info or debug. Payload never appears: a log that is sent to a friend must not hold what was said.
"""

from __future__ import annotations

from collections.abc import Sequence

from lanparty.obs.events import FRAME
from lanparty.obs.log import log

__all__ = ["FrameLog", "describe_untrusted"]

_HEADER_SIZE = 14  # destination 6, source 6, EtherType or length 2 (IEEE 802.3 3.1.1)


def describe_untrusted(frame: bytes) -> dict[str, str | int]:
    """The fields of a frame's line: destination, source, ethertype, length in bytes. Short frames show "short"."""
    if len(frame) < _HEADER_SIZE:
        return {"destination": "short", "source": "short", "ethertype": "short", "length": len(frame)}
    return {
        "destination": frame[0:6].hex(":"),
        "source": frame[6:12].hex(":"),
        "ethertype": frame[12:14].hex(),
        "length": len(frame),
    }


class FrameLog:
    """Writes frames to the log. Make one only when ``--frame-log`` is given."""

    @classmethod
    def when(cls, enabled: bool) -> FrameLog | None:
        """What a holder keeps: a frame log, or None when it is off."""
        return cls() if enabled else None

    @property
    def enabled(self) -> bool:
        """Always true: off is None."""
        return True

    def frames(self, frames: Sequence[bytes], peer: int | None, action: str) -> None:
        """One line for each frame. ``peer`` is the id of the member at the other end, ``action`` one of our words."""
        for frame in frames:
            log(FRAME, action=action, peer=peer, **describe_untrusted(frame))
