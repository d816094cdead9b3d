"""The few things that link's devices ask of the Linux kernel by ioctl, socket option and /proc.

Owns: their numbers and the layouts of their arguments.
Must not know: what a device is for. Interfaces are named by name; all of it speaks of the caller's network namespace.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # ioctl, Linux' structures

import ctypes
import errno
import fcntl
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lanparty.link.bpf import assemble

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lanparty.link.bpf import Instruction

__all__ = [
    "ETH_P_ALL",
    "IFNAME_SIZE",
    "PACKET_ADD_MEMBERSHIP",
    "PACKET_IGNORE_OUTGOING",
    "PACKET_MR_PROMISC",
    "PACKET_QDISC_BYPASS",
    "PACKET_STATISTICS",
    "PACKET_VNET_HDR",
    "SOL_PACKET",
    "attach_socket_filter",
    "disable_ipv6",
    "has_wireless_extensions",
    "with_filter_program",
]

IFNAME_SIZE: Final = 16
"""IFNAMSIZ: bytes of an interface name with its closing zero (linux/if.h)."""

ETH_P_ALL: Final = 0x0003

# linux/if_packet.h
SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_STATISTICS: Final = 6
PACKET_VNET_HDR: Final = 15
PACKET_QDISC_BYPASS: Final = 20
PACKET_IGNORE_OUTGOING: Final = 23
PACKET_MR_PROMISC: Final = 1

_SO_ATTACH_FILTER = 26

# linux/wireless.h
_SIOCGIWNAME = 0x8B01


def with_filter_program(program: Sequence[Instruction], use: Callable[[bytes], object]) -> None:
    """Call ``use`` with a struct sock_fprog of ``program``, which is valid only during the call."""
    code = assemble(program)
    memory = ctypes.create_string_buffer(code, len(code))
    use(struct.pack("@HP", len(program), ctypes.addressof(memory)))


def attach_socket_filter(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Put a classic BPF program in front of a socket, in place of the one before, in one step.

    Raises OSError: ENOMEM when the program is larger than net.core.optmem_max allows.
    """
    with_filter_program(program, lambda fprog: sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog))


def has_wireless_extensions(name: str) -> bool:
    """Whether the interface answers SIOCGIWNAME, as all Wi-Fi drivers before Wi-Fi 7 do."""
    request = struct.pack(f"{IFNAME_SIZE}s16x", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, _SIOCGIWNAME, request)
        except OSError as error:
            # EOPNOTSUPP or EINVAL: not wireless. ENOTTY: a kernel without wireless extensions.
            # EPERM: it knows the request, and refuses us.
            return error.errno in {errno.EPERM, errno.EACCES}
    return True


def disable_ipv6(name: str) -> bool:
    """Keep IPv6 off an interface, so that it gets no address and sends nothing. False where /proc/sys is read-only.

    /proc/sys/net shows the network namespace of the calling thread, whoever mounted it.
    """
    try:
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1", encoding="ascii")
    except OSError:
        return False
    return True
