"""Pretends that this Python is Windows' own, and imports a package there. A program, for a process of its own.

    python windows_python.py PACKAGE ROOT...        says as JSON what cannot be imported, and what was

    1. import all that is not PACKAGE's and that any of its modules would import: it goes on to work as on Linux
    2. take away what Windows' Python does not have, and give what only it has (`pretend`)
    3. import each ROOT, and whatever these import, be it inside a function, where Windows would come by

What a function uses when it runs is not found so: that is what ``mypy --platform win32`` is for. DLLs can be loaded,
and have any function; loading one while a module is imported is a failure.

Owns: what differs between the Pythons. Must not know: what any module is for.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import pathlib
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_MODULES: Final = """
    _curses _posixshmem _posixsubprocess crypt curses fcntl grp nis ossaudiodev posix pty pwd pyroute2 readline resource
    spwd syslog termios trio_asyncio tty"""
MISSING_MODULES: Final = frozenset(_MODULES.split())
"""Of the standard library, and what pyproject.toml has for Linux only."""

# Made from typeshed's branches for sys.platform, as far as anybody would think of using it.
_OS: Final = """
    O_ACCMODE O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NDELAY O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH
    O_SYNC O_TMPFILE EX_OK EX_USAGE F_LOCK F_TEST F_TLOCK F_ULOCK GRND_NONBLOCK MFD_CLOEXEC P_ALL P_PID P_PIDFD
    PRIO_PROCESS SCHED_OTHER SCHED_FIFO WNOHANG WEXITED WIFEXITED WIFSIGNALED WEXITSTATUS WTERMSIG chown chroot
    copy_file_range environb eventfd eventfd_read eventfd_write fchdir fchmod fchown fdatasync fork forkpty fstatvfs
    fwalk get_blocking getegid getenvb geteuid getgid getgrouplist getgroups getloadavg getpgid getpgrp getpriority
    getrandom getresgid getresuid getsid getuid initgroups killpg lchown lockf login_tty major makedev memfd_create
    minor mkfifo mknod nice openpty pathconf pidfd_open pipe2 posix_fallocate posix_spawn pread preadv pwrite pwritev
    readv register_at_fork sched_getaffinity sched_setaffinity sched_setscheduler sched_yield sendfile set_blocking
    setegid seteuid setgid setgroups setns setpgid setpriority setregid setresgid setresuid setreuid setsid setuid
    splice statvfs sync sysconf tcgetpgrp ttyname uname unshare wait wait3 wait4 waitid writev"""
_SOCKET: Final = """
    AF_ALG AF_CAN AF_NETLINK AF_PACKET AF_UNIX AF_VSOCK CMSG_LEN CMSG_SPACE IP_TRANSPARENT IP_BIND_ADDRESS_NO_PORT
    IPV6_RECVPKTINFO IPV6_PATHMTU IPV6_RECVPATHMTU MSG_CMSG_CLOEXEC MSG_DONTWAIT MSG_MORE MSG_NOSIGNAL NETLINK_ROUTE
    PACKET_HOST PACKET_OUTGOING PF_PACKET SCM_CREDENTIALS SCM_RIGHTS SOCK_CLOEXEC SOCK_NONBLOCK SO_BINDTODEVICE
    SO_DOMAIN SO_INCOMING_CPU SO_MARK SO_PASSCRED SO_PEERCRED SO_PRIORITY SO_PROTOCOL SO_REUSEPORT TCP_CORK TCP_QUICKACK
    TCP_USER_TIMEOUT recv_fds send_fds sethostname"""
_SIGNAL: Final = """
    ITIMER_REAL SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF SIGQUIT SIGRTMAX SIGRTMIN SIGSTOP
    SIGSYS SIGTRAP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU SIG_BLOCK
    SIG_SETMASK SIG_UNBLOCK alarm getitimer pause pidfd_send_signal pthread_kill pthread_sigmask setitimer siginterrupt
    sigpending sigtimedwait sigwait sigwaitinfo"""
_TIME: Final = """
    CLOCK_BOOTTIME CLOCK_MONOTONIC CLOCK_MONOTONIC_RAW CLOCK_PROCESS_CPUTIME_ID CLOCK_REALTIME CLOCK_TAI
    CLOCK_THREAD_CPUTIME_ID clock_getres clock_gettime clock_gettime_ns clock_settime clock_settime_ns
    pthread_getcpuclockid tzset"""
_SELECT: Final = "EPOLLERR EPOLLHUP EPOLLIN EPOLLOUT EPOLL_CLOEXEC PIPE_BUF POLLERR POLLHUP POLLIN POLLOUT epoll poll"

MISSING_NAMES: Final = {os: _OS, socket: _SOCKET, signal: _SIGNAL, time: _TIME, select: _SELECT}
MISSING_METHODS: Final = ("recvmsg", "recvmsg_into", "sendmsg", "sendmsg_afalg")
"""Of a socket."""
TRIO_NAMES: Final = """
    current_iocp monitor_completion_key readinto_overlapped register_with_iocp wait_overlapped write_overlapped"""
"""Of ``trio.lowlevel``, on Windows."""

Failure = dict[str, Any]


# What there would be on Windows


def pretend(dlls: list[str]) -> None:
    """Make this Python Windows' own, as far as imports can tell; names of DLLs that are loaded go to ``dlls``."""
    import trio
    import trio.socket

    for module, names in MISSING_NAMES.items():
        for name in names.split():
            for place in (module, trio.socket) if module is socket else (module,):
                if hasattr(place, name):
                    delattr(place, name)
    _forget_methods(socket.socket.__base__)  # type: ignore[arg-type]
    for name in MISSING_MODULES:
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]
    sys.meta_path.insert(0, _NotOnWindows())
    del trio.lowlevel.FdStream

    # pathlib would make a WindowsPath, which works on Windows only.
    sys.modules[Path.__module__].WindowsPath = pathlib.PosixPath  # type: ignore[attr-defined]
    sys.modules |= {name: _Anything(name) for name in ("_winapi", "msvcrt", "winreg")}
    for name in TRIO_NAMES.split():
        setattr(trio.lowlevel, name, _only_on_windows)
    windows: Any = ctypes
    windows.WinDLL = windows.OleDLL = lambda name, *_, **__: dlls.append(name) or _Anything(name)
    windows.WINFUNCTYPE, windows.HRESULT = ctypes.CFUNCTYPE, ctypes.c_int32
    windows.get_last_error = windows.set_last_error = windows.FormatError = windows.WinError = _only_on_windows
    for name in ("O_BINARY", "O_NOINHERIT", "O_RANDOM", "O_SEQUENTIAL", "O_TEMPORARY", "O_TEXT"):
        setattr(os, name, 0)
    os.startfile = sys.getwindowsversion = _only_on_windows  # type: ignore[attr-defined]
    signal.CTRL_C_EVENT, signal.CTRL_BREAK_EVENT, signal.SIGBREAK = 0, 1, 21  # type: ignore[attr-defined]
    socket.SIO_RCVALL, socket.SO_EXCLUSIVEADDRUSE = 0x98000001, -5  # type: ignore[attr-defined]
    sys.platform = "win32"
    os.name = "nt"


def _forget_methods(kind: type) -> None:
    """Take methods from a class that is written in C, whose ``__dict__`` can only be read."""
    (methods,) = (found for found in gc.get_referents(kind.__dict__) if isinstance(found, dict))
    for name in MISSING_METHODS:
        methods.pop(name, None)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


def _only_on_windows(*_arguments: object, **_keywords: object) -> Any:
    raise OSError("this works on Windows only; it was called while a module was imported")


class _NotOnWindows(importlib.abc.MetaPathFinder):
    """Finds that modules are not there."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.split(".")[0] in MISSING_MODULES:
            raise ModuleNotFoundError(f"Windows' Python has no module {fullname!r}", name=fullname)


class _Anything(ModuleType):
    """A module, or a DLL, that has whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {"__init__": lambda self, *_: None})
        setattr(self, name, found)
        return found


# What a module would import


def imports(tree: ast.AST, module: str, is_package: bool, platform: str | None) -> Iterator[str]:
    """Everything that a module imports anywhere: names of modules, or of what may be one.

    ``platform``: what is behind a test for another one is left out; None: nothing is.
    """
    for node in _reached(tree, platform):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                start = ".".join([*parts, *([node.module] if node.module else [])])
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _reached(node: ast.AST, platform: str | None) -> Iterator[ast.AST]:
    yield node
    for _, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        if platform is not None and isinstance(node, ast.If):
            known = _test(node.test, platform)
            if known is not None and value is (node.orelse if known else node.body):
                continue
        for child in children:
            if isinstance(child, ast.AST):
                yield from _reached(child, platform)


def _test(test: ast.expr, platform: str) -> bool | None:
    """What a test for the platform gives; None: it is about something else."""
    match test:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq() as how], comparators=[ast.Constant(value=value)]) if (
            ast.unparse(left) == "sys.platform"
        ):
            return (platform == value) == isinstance(how, ast.Eq)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            known = _test(operand, platform)
            return None if known is None else not known
        case ast.Name(id="TYPE_CHECKING"):
            return False
    return None


def find_source(module: str, package: str, roots: Sequence[str] | None = None) -> Path | None:
    """The file of a module of ``package`` in one of ``roots`` (``sys.path``); None: it is none."""
    if module != package and not module.startswith(f"{package}."):
        return None
    for root in sys.path if roots is None else roots:
        start = Path(root or ".").joinpath(*module.split("."))
        for file in (start / "__init__.py", start.with_suffix(".py")):
            if file.is_file():
                return file
    return None


# The program


def load_others(package: str) -> None:
    """Import what ``package`` uses and does not contain; what is not there cannot be needed here."""
    source = find_source(package, package)
    assert source is not None, f"there is no package {package}"
    names = {"trio", "pathlib", "subprocess", "traceback"}
    for file in source.parent.rglob("*.py"):
        names |= set(imports(ast.parse(file.read_text()), "", is_package=False, platform=None))
    for name in sorted(names):
        if name.split(".")[0] not in {package, *MISSING_MODULES} and name:
            try:
                importlib.import_module(name)
            except (ImportError, TypeError):
                continue  # A name of a module, not a module; or Windows'.


def import_all(package: str, roots: Sequence[str], dlls: list[str]) -> tuple[list[Failure], list[str]]:
    """Import ``roots`` and all that they lead to; give failures, and names of modules of ``package``."""
    failures: list[Failure] = []
    ways: dict[str, list[str]] = {root: [root] for root in roots}
    waiting = list(roots)
    while waiting:
        module = waiting.pop(0)
        before = len(dlls)
        source = find_source(module, package)
        if source is None and module in roots:
            failures.append({"way": [module], "error": "there is no such module"})
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            text = str(error) or ("it is not for Windows" if isinstance(error, AssertionError) else "")
            failures.append({"way": ways[module] + _way(error, package), "error": f"{type(error).__name__}: {text}"})
        if len(dlls) > before:
            failures.append({"way": ways[module], "error": f"loads {', '.join(dlls[before:])} when it is imported"})
        if source is None:
            continue
        tree = ast.parse(source.read_text())
        for name in imports(tree, module, source.name == "__init__.py", "win32"):
            if name not in ways and (find_source(name, package) or name.split(".")[0] in MISSING_MODULES):
                ways[name] = [*ways[module], name]
                waiting.append(name)
    return failures, [name for name in ways if find_source(name, package)]


def _way(error: BaseException, package: str) -> list[str]:
    """The modules of ``package`` that were being imported when it happened, the first one left out."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [name for name in names if name.split(".")[0] == package]
    return list(dict.fromkeys(inside))[1:]


def main(package: str, *roots: str) -> None:
    """Say as JSON what happened."""
    load_others(package)
    dlls: list[str] = []
    pretend(dlls)
    failures, imported = import_all(package, roots, dlls)
    sys.stdout.write(json.dumps({"failures": failures, "imported": imported}))


if __name__ == "__main__":
    main(*sys.argv[1:])
