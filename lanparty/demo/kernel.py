"""The few system calls that Python 3.11 does not offer: namespaces, mounts, parent-death signal.

Owns: the constants and the ``ctypes`` signatures. Every function raises ``OSError`` as ``os`` would.
Must not know: what they are used for. Imports nothing that starts threads: ``unshare`` of a user namespace wants a
process with one thread (user_namespaces(7)).
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import ctypes
import os

__all__ = [
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_REC",
    "PR_SET_CHILD_SUBREAPER",
    "PR_SET_PDEATHSIG",
    "mount",
    "prctl",
    "setns",
    "unmount",
    "unshare",
]

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# linux/mount.h
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Move this process (this thread, for the network) into new namespaces; see unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move this thread into the namespace that ``descriptor`` refers to; see setns(2)."""
    _check(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, filesystem: str | None, flags: int = 0, data: str = "") -> None:
    """Mount ``source`` on ``target``; see mount(2)."""
    kind = None if filesystem is None else filesystem.encode()
    _check(_libc.mount(source.encode(), target.encode(), kind, flags, data.encode()), f"mount {target}")


def unmount(target: str) -> None:
    """Take the topmost mount off ``target``; see umount(2)."""
    _check(_libc.umount2(target.encode(), 0), f"unmount {target}")


def prctl(option: int, value: int) -> None:
    """Set one attribute of this process; see prctl(2)."""
    _check(_libc.prctl(option, value, 0, 0, 0), "prctl")
