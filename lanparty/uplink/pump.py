"""The task that reads a device for a tunnel.

Owns: one loop. Must not know: what kind of device it is, whether a session is attached.
"""

from __future__ import annotations

from lanparty.link.device import EthernetDevice
from lanparty.uplink.tunnel import Tunnel

__all__ = ["drain_device", "pump_device"]


async def pump_device(device: EthernetDevice, tunnel: Tunnel) -> None:
    """Carry the device's frames to the room, a batch for each wake-up, until cancelled.

    Raises DeviceGoneError. Each turn waits once, even when more is there, so that timers and the relay's packets get
    their turn.
    """
    while True:
        await device.wait_readable()
        tunnel.transmit(device.read_batch())


def drain_device(device: EthernetDevice, tunnel: Tunnel) -> None:
    """Carry what the device has now, for the last frames before a goodbye. Raises DeviceGoneError."""
    for _ in range(8):  # Bounded: what still comes after that belongs to nobody any more.
        frames = device.read_batch()
        if not frames:
            return
        tunnel.transmit(frames)
