"""Hears one kind of frame on all interfaces of this machine, for as good as nothing.

Owns: the packet socket. Must not know: what the frames mean.

A packet socket for one EtherType is asked only for frames of that type: all others pass without a cost. It is bound to
no interface, so it hears those that come later as well. It does not hear what this machine sends. Opening it takes
CAP_NET_RAW; reading does not, so it is opened before privileges are given up.

Bound: ``LISTEN_BUFFER`` bytes, newest dropped by the kernel, not counted: whoever is told something again and again
needs each of it but once.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

__all__ = ["LISTEN_BUFFER", "FrameListener", "open_listener"]

LISTEN_BUFFER: Final = 16 << 10
"""Bytes that the kernel keeps: some twenty small frames."""

_FRAME: Final = 2048
"""Bytes: more than any frame of an ordinary LAN."""


class FrameListener:
    """The socket. Made by `open_listener`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    async def wait_readable(self) -> None:
        """Return when `read` may give something."""
        await trio.lowlevel.wait_readable(self._socket)

    def read(self, limit: int = 32) -> list[tuple[str, bytes]]:
        """Give what has come, at most ``limit`` frames: the interface's name and the frame."""
        heard: list[tuple[str, bytes]] = []
        for _ in range(limit):
            try:
                frame, address = self._socket.recvfrom(_FRAME)
            except BlockingIOError:
                break
            except OSError:
                continue  # an interface went down: the kernel tells that once
            heard.append((address[0], frame))
        return heard


@contextmanager
def open_listener(ethertype: int) -> Iterator[FrameListener | None]:
    """A listener for frames of ``ethertype``; None where this program may not have one, or the system has none."""
    sock = _packet_socket(ethertype)
    if sock is None:
        yield None
        return
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LISTEN_BUFFER)
        yield FrameListener(sock)


def _packet_socket(ethertype: int) -> socket.socket | None:
    if sys.platform == "linux":
        with suppress(OSError):
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            return socket.socket(socket.AF_PACKET, kind, socket.htons(ethertype))
    return None  # Windows has such sockets only with a driver of somebody else's (Npcap).
