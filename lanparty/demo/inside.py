"""Run things inside a named network namespace.

Two ways, because they fit different needs:

- ``call(namespace, function)`` runs a Python function in a short-lived thread that has moved there. A network
  namespace belongs to a thread (setns(2)), and a socket belongs for ever to the namespace it was made in: so probes
  and observers open their sockets like this and then use them from anywhere.
- ``command(namespace, argv)`` gives the command line that starts a program there: this file, run as a script, moves
  its process and then becomes the program. The process id stays the same, and the program dies with its starter.

Must not know: which namespaces there are. As a script it runs under ``-I -S`` (fast, no site packages), so it imports
nothing of the project by its package name.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import kernel  # type: ignore[import-not-found] # a neighbour here, not a top-level module
else:
    from lanparty.demo import kernel

__all__ = ["NAMESPACE_DIRECTORY", "call", "command"]

NAMESPACE_DIRECTORY = Path("/run/netns")
"""Where ``ip netns`` and pyroute2 keep named network namespaces."""

T = TypeVar("T")


def call(namespace: str, function: Callable[[], T]) -> T:
    """What ``function()`` returns (or raises) in a thread inside ``namespace``."""

    # Not above: as a script this module must start fast.
    from concurrent.futures import ThreadPoolExecutor

    def moved() -> T:
        _enter(namespace)
        return function()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=namespace) as pool:
        return pool.submit(moved).result()


def command(namespace: str, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The command line that runs ``argv`` inside ``namespace``."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), namespace, *(os.fspath(part) for part in argv)]


def _enter(namespace: str) -> None:
    descriptor = os.open(NAMESPACE_DIRECTORY / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.setns(descriptor, kernel.CLONE_NEWNET)
    finally:
        os.close(descriptor)


def _become(namespace: str, argv: list[str]) -> None:
    """Move this process into ``namespace``, show it the /sys of that namespace, and become ``argv``."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    _enter(namespace)
    # /sys/class/net shows the namespace that mounted it. Where mounting is forbidden (masked /sys in a container) the
    # programs see the outer /sys, which says nothing about their interfaces; they can live with that.
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    with contextlib.suppress(PermissionError):
        kernel.mount("sysfs", "/sys", "sysfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"{argv[0]}: {error.strerror}")


if __name__ == "__main__":
    _become(sys.argv[1], sys.argv[2:])
