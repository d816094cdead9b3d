"""A place where a normal user may build networks: user, network, mount and process-id namespaces.

``python -m lanparty.demo.sandbox -- COMMAND…`` runs COMMAND there and ends with its exit status. COMMAND sees itself
as root, has a network of its own with no way out, an empty ``/run``, and a ``/proc`` of its own. Nothing of it
outlives COMMAND: when it ends, or is killed, or its starter is killed, the kernel ends every process in there and
takes the networks and mounts with them.

    starter (outside)          forwards SIGTERM and SIGHUP, returns the exit status
      └ keeper                 made the namespaces; dies with the starter
          └ init               process 1 in there: reaps orphans; its death ends everything
              └ COMMAND

Without a process-id namespace (a container with a masked ``/proc`` forbids mounting another) the keeper is also the
init, and programs rely on their parent-death signal. Real root can do without the user namespace.

Must not know: what COMMAND does, which networks it builds.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

import attrs

from lanparty.demo import kernel
from lanparty.obs.errors import ExitStatus, MachineError

__all__ = ["explain", "is_inside", "main", "outer_pid", "run"]

_MARK: Final = "LANPARTY_SANDBOX"
"""Environment variable: inode of the sandbox's mount namespace, so that it means nothing outside of it."""
_OUTER_PID: Final = "LANPARTY_SANDBOX_PID"
"""Environment variable: process id of init as the starter's side of the machine sees it, for ``nsenter``."""

_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C is not among them: the terminal sends it to the whole foreground group, COMMAND included."""


@attrs.frozen
class _Shape:
    """Which namespaces to try. Network and mount namespaces are always made."""

    user: bool
    pid: bool


@attrs.frozen
class _Failure:
    """The first thing that the kernel refused."""

    step: str
    number: int


def is_inside() -> bool:
    """Whether this process runs in a sandbox."""
    return os.environ.get(_MARK) == _mount_namespace()


def outer_pid() -> int:
    """Process id, outside, of a process inside the sandbox: what ``nsenter -t`` wants."""
    return int(os.environ[_OUTER_PID])


def run(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run ``argv`` in a new sandbox and return its exit status (128 + signal when a signal ended it).

    The calling process must have one thread only. Raises ``MachineError`` when the kernel refuses.
    """
    first: _Failure | None = None
    for shape in _shapes():
        outcome = _start(shape, argv, dict(environment if environment is not None else os.environ))
        if isinstance(outcome, _Failure):
            first = first or outcome
            continue
        return _wait(*outcome)
    assert first is not None
    raise MachineError(explain(first.step, first.number, _read_sysctl))


def _shapes() -> list[_Shape]:
    shapes = [_Shape(user=True, pid=True), _Shape(user=True, pid=False)]
    if os.geteuid() == 0:
        shapes += [_Shape(user=False, pid=True), _Shape(user=False, pid=False)]
    return shapes


def explain(step: str, number: int, read_sysctl: Callable[[str], str | None]) -> str:
    """One sentence: why there is no sandbox, and what to do. ``read_sysctl`` gives a setting's text, or None."""
    for name, forbidding, allowing in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        if read_sysctl(name) == forbidding:
            return (
                f"this kernel does not let a normal user make networks of their own ({name} is {forbidding}): allow "
                f"it with 'sudo sysctl -w {name}={allowing}', or run this as root"
            )
    return (
        f"the kernel refused '{step}' ({os.strerror(number)}), which the virtual house needs: run this as root, or, "
        "in a container, start it with --privileged or with a seccomp profile that allows user namespaces"
    )


def _read_sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", *name.split(".")).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _mount_namespace() -> str:
    return str(Path("/proc/self/ns/mnt").stat().st_ino)


# ------------------------------------------------------------------------------------------------ starter


def _start(shape: _Shape, argv: Sequence[str], environment: dict[str, str]) -> tuple[int, int] | _Failure:
    """Fork the keeper and see it through; gives (keeper's pid, init's pid)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper = os.fork()
    if keeper == 0:
        ours.close()
        _keep(shape, argv, environment, theirs)
    theirs.close()
    with ours:
        failure = _report(ours)
        if failure is None and shape.user:
            failure = _map_ids(keeper)
        if failure is None:
            ours.send(b"go")
            failure, init = _report(ours), _report_pid(ours)
            if failure is None:
                return keeper, init
        # Closing our end makes a keeper that still waits give up.
    os.waitpid(keeper, 0)
    return failure


def _report(channel: socket.socket) -> _Failure | None:
    """The other side's next report; silence means that it died."""
    text = channel.recv(4096).decode()
    if text == "ok":
        return None
    step, _, number = (text or f"start:{errno.ECHILD}").rpartition(":")
    return _Failure(step, int(number))


def _report_pid(channel: socket.socket) -> int:
    return int(channel.recv(64) or b"0")


def _map_ids(keeper: int) -> _Failure | None:
    """Make the keeper root in its user namespace: a normal user alone, root with everyone that root knows."""
    directory = Path("/proc", str(keeper))
    try:
        if os.geteuid() == 0:
            for name in ("uid_map", "gid_map"):
                lines = [line.split() for line in Path("/proc/self", name).read_text(encoding="ascii").splitlines()]
                (directory / name).write_text("".join(f"{inner} {inner} {count}\n" for inner, _, count in lines))
        else:
            # Without this a user could drop a group that denies them something (CVE-2014-8989).
            (directory / "setgroups").write_text("deny")
            (directory / "uid_map").write_text(f"0 {os.geteuid()} 1\n")
            (directory / "gid_map").write_text(f"0 {os.getegid()} 1\n")
    except OSError as error:
        return _Failure("map user ids", error.errno or errno.EPERM)
    return None


def _wait(keeper: int, init: int) -> int:
    """Forward signals until the keeper ends."""
    before = {number: signal.signal(number, lambda number, _: _signal(init, number)) for number in _FORWARDED}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return _exit_status(os.waitpid(keeper, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended in this moment, which is what was asked
        os.kill(pid, number)


def _exit_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


# ------------------------------------------------------------------------------------------------ keeper and init


def _keep(shape: _Shape, argv: Sequence[str], environment: dict[str, str], channel: socket.socket) -> NoReturn:
    """The keeper's whole life. Never returns into the starter's code, whatever happens."""
    status = int(ExitStatus.CANNOT)
    try:
        for number in (signal.SIGINT, *_FORWARDED):
            signal.signal(number, signal.SIG_IGN)
        flags = kernel.CLONE_NEWNET | kernel.CLONE_NEWNS
        flags |= (kernel.CLONE_NEWUSER if shape.user else 0) | (kernel.CLONE_NEWPID if shape.pid else 0)
        _step(channel, "make namespaces", lambda: kernel.unshare(flags))
        channel.send(b"ok")
        if channel.recv(16) == b"go":
            if shape.user:
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
            # Only now: a change of credentials forgets the parent-death signal (prctl(2)).
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            status = _keep_init(argv, environment, channel) if shape.pid else _init(shape, argv, environment, channel)
    except OSError as error:
        os.write(2, f"lanparty.demo.sandbox: {error}\n".encode())
    finally:
        os._exit(status)


def _step(channel: socket.socket, name: str, action: Callable[[], object]) -> None:
    """Do one thing that the kernel may refuse; tell the starter if it does, and end."""
    try:
        action()
    except OSError as error:
        channel.send(f"{name}:{error.errno}".encode())
        os._exit(ExitStatus.CANNOT)


def _keep_init(argv: Sequence[str], environment: dict[str, str], channel: socket.socket) -> int:
    init = os.fork()
    if init == 0:
        try:
            os._exit(_init(_Shape(user=True, pid=True), argv, environment, channel))
        finally:
            os._exit(ExitStatus.CANNOT)
    channel.close()
    return _exit_status(os.waitpid(init, 0)[1])


def _init(shape: _Shape, argv: Sequence[str], environment: dict[str, str], channel: socket.socket) -> int:
    """Prepare the place, start COMMAND, reap whatever ends, return COMMAND's exit status."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    # /proc is still the outer one here, so this is the outer process id.
    outer = Path("/proc/self").readlink().name
    _step(channel, "make mounts private", lambda: kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE))
    if shape.pid:
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        _step(channel, "mount /proc", lambda: kernel.mount("proc", "/proc", "proc", flags))
    else:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    _step(channel, "mount /run", lambda: kernel.mount("tmpfs", "/run", "tmpfs", kernel.MS_NOSUID, "mode=755"))
    Path("/run/netns").mkdir()
    _step(channel, "bring lo up", _loopback_up)
    environment |= {_MARK: _mount_namespace(), _OUTER_PID: outer}
    command = os.fork()
    if command == 0:
        channel.close()
        _become(argv, environment)
    for number in _FORWARDED:
        signal.signal(number, lambda number, _: _signal(command, number))
    channel.send(b"ok")
    channel.send(outer.encode())
    channel.close()
    while True:
        ended, wait_status = os.wait()
        if ended == command:
            return _exit_status(wait_status)


def _become(argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    try:
        for number in (signal.SIGINT, *_FORWARDED):
            signal.signal(number, signal.SIG_DFL)
        # Init's death ends this process by itself only where init is process 1 of a namespace.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.execvpe(argv[0], list(argv), dict(environment))  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"lanparty.demo.sandbox: error: cannot start {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _loopback_up() -> None:
    """netdevice(7): SIOCSIFFLAGS 0x8914, IFF_UP 1, IFF_RUNNING 0x40."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH22x", b"lo", 0x1 | 0x40))


def main(argv: Sequence[str]) -> int:
    """``[--] COMMAND…``: the exit status."""
    command = list(argv[1:] if argv[:1] == ["--"] else argv)
    if not command:
        sys.stderr.write("lanparty.demo.sandbox: error: give a command to run, after --\n")
        return ExitStatus.USAGE
    try:
        return run(command)
    except MachineError as error:
        sys.stderr.write(f"lanparty.demo.sandbox: error: {error}\n")
        return error.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
