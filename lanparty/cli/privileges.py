"""Gives up what a program does not need any more: capabilities, ways to get new ones, the root user.

Owns: capset(2), the prctl(2) calls around it, the change of user; which of them a process may do at all.
Must not know: what a program needs a capability for (each role's ``app.py`` says what it keeps).

In this order, because each step needs what a later one takes away:

1. bounding set      needs CAP_SETPCAP; without it (a service that was given little) 5 closes the same door
2. user and groups   needs CAP_SETUID and CAP_SETGID; where a user is named
3. ambient set       what a child would inherit
4. effective, permitted and inheritable set
5. no_new_privs      no program that is started later gains anything by its set-user-id bit or file capabilities

Capabilities belong to a thread (capabilities(7)), and a new thread has those of the one that made it. So all this is
done while there is one thread only; those that trio starts later have no more. A second thread is a mistake of ours.

A process without capabilities that is still root may open what root owns. The reading of a player's own files (the
identity in a home directory) has to come before: root without CAP_DAC_OVERRIDE may not look there.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Final

import attrs

from lanparty.obs.errors import MachineError, UsageError
from lanparty.obs.events import PRIVILEGES
from lanparty.obs.log import log

__all__ = ["Capability", "User", "drop", "find_user", "has"]


class Capability(IntEnum):
    """The capabilities that our programs have a use for, by their numbers (linux/capability.h)."""

    NET_BIND_SERVICE = 10
    """Ports below 1024: the relay, until it listens."""
    NET_ADMIN = 12
    """Interfaces, addresses, routes, socket buffers above the system's limit."""
    NET_RAW = 13
    """Packet sockets."""


_VERSION_3: Final = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3: sets of 64 bits, as two words of 32."""
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_NUMBERS: Final = 64
"""Of capabilities that the two words can name; the kernel knows some 40, and says EINVAL to the others."""


@attrs.frozen
class User:
    """A user of this machine to become."""

    name: str
    uid: int
    gid: int


def find_user(name: str) -> User:
    """The user ``name``. Raises UsageError: no such user, or this process may not become another."""
    if sys.platform == "linux":
        import pwd  # not on Windows, where this module is imported as well

        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError):
            raise UsageError(
                f"There is no user {name!r} on this machine: make it, or give another with --user."
            ) from None
        if os.geteuid() not in (0, entry.pw_uid):
            raise UsageError("Only root can change to another user: leave --user away, or run this as root.")
        return User(entry.pw_name, entry.pw_uid, entry.pw_gid)
    else:
        raise UsageError("--user is for Linux only.")


def has(capability: Capability) -> bool:
    """Whether this process has ``capability``, or can take it up. Linux only: elsewhere there are none."""
    return sys.platform == "linux" and bool(_permitted() >> capability & 1)


def drop(keep: Iterable[Capability] = (), *, user: User | None = None) -> None:
    """Keep of this process's capabilities only ``keep``, for good, and run on as ``user``.

    What of ``keep`` the process does not have it does not get. Raises MachineError where the kernel refuses. Where
    there are no capabilities (another system than Linux) nothing happens.
    """
    if sys.platform == "linux":
        _drop(frozenset(keep), user)


def _drop(kept: frozenset[Capability], user: User | None) -> None:
    _require_one_thread()
    try:
        _shrink_bounding_set(kept)
        if user is not None:
            _become(user)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        permitted = _permitted() & sum(1 << capability for capability in kept)
        _set(permitted)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise MachineError(
            f"cannot give up the privileges of this process ({error.strerror}): a container's or a service's filter "
            "of system calls may forbid it"
        ) from error
    names = ", ".join(f"CAP_{capability.name}" for capability in sorted(kept) if permitted >> capability & 1)
    log(PRIVILEGES, kept=names, user=None if user is None else user.name)


def _become(user: User) -> None:
    if sys.platform == "linux" and os.geteuid() != user.uid:
        os.initgroups(user.name, user.gid)
        os.setgid(user.gid)
        os.setuid(user.uid)


def _require_one_thread() -> None:
    try:
        threads = len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return  # no /proc: nobody to ask
    if threads != 1:
        raise RuntimeError(f"privileges must be dropped before other threads run; there are {threads}")


def _shrink_bounding_set(kept: frozenset[Capability]) -> None:
    for number in range(_NUMBERS):
        try:
            if number not in kept and _prctl(_PR_CAPBSET_READ, number) == 1:
                _prctl(_PR_CAPBSET_DROP, number)
        except OSError:  # EINVAL: the kernel knows no more. EPERM: not ours to change; see step 5 above
            return


def _permitted() -> int:
    """This thread's permitted set, as bits."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    _check(ctypes.CDLL(None, use_errno=True).capget(header, data))
    low, high = struct.unpack("=4xI8xI4x", data.raw[:24])
    return int(low) | int(high) << 32


def _set(permitted: int) -> None:
    """Make ``permitted`` this thread's permitted and effective set; nothing is inheritable."""
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _check(ctypes.CDLL(None, use_errno=True).capset(header, data))


def _prctl(option: int, argument: int) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    return _check(library.prctl(option, ctypes.c_ulong(argument), zero, zero, zero))


def _check(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
