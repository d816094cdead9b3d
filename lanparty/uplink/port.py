"""What a role (gateway, client) gives the uplink.

Owns: the interface only. The uplink calls it; the role gives frames back by `lanparty.uplink.tunnel.Tunnel.transmit`.
"""

from __future__ import annotations

from typing import Protocol

from lanparty.ctrl.messages import Member, Welcome
from lanparty.proto.superframe import Frame

__all__ = ["Port"]


class Port(Protocol):
    """One role's side of the uplink. All but the two coroutines are called on the data or control path: no waiting."""

    async def on_connecting(self, address: str) -> None:
        """Prepare for a try to reach the relay at this IP address (the client pins its route here).

        Raises ConnectionFailedError: this try failed; another LanpartyError ends the program.
        """
        ...

    async def on_admitted(self, welcome: Welcome) -> None:
        """Make the device ready for frames of this room; no frame flows before it returns.

        Called at each admission, the first and those after a loss. Raises LanpartyError: this ends the program.
        """
        ...

    def on_ready(self, welcome: Welcome) -> None:
        """Take note that frames flow, from now on until on_lost."""
        ...

    def on_peer_joined(self, member: Member) -> None:
        """Take note of another member."""
        ...

    def on_peer_left(self, peer_id: int) -> None:
        """Forget a member."""
        ...

    def on_lost(self, reason: str) -> None:
        """Take note that the room cannot be reached now; called once after each on_admitted."""
        ...

    def on_frames(self, frames: list[tuple[int, Frame]], now: float) -> None:
        """Take a batch of (origin peer id, frame or super-frame) from the room, in order. ``now`` is trio's time."""
        ...
