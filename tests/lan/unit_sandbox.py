"""Runs a program in what a systemd unit would put around it, where systemd does not run.

    python unit_sandbox.py UNIT-FILE COMMAND...

Done as systemd.exec(5) says: CapabilityBoundingSet, AmbientCapabilities, DynamicUser (where this user namespace has
another user), MemoryDenyWriteExecute, NoNewPrivileges, UMask, SystemCallFilter with RestrictAddressFamilies. What the
filter does not allow kills the process here, where the unit would only refuse it: so that nothing goes unnoticed.
Not done: all that mounts (ProtectSystem and so on).
"""

import ctypes
import os
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from lanparty.demo import kernel

USER = 61184
"""The first of the ids that systemd gives to dynamic users."""

CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17}

PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_SET_MDWE = (
    8,
    23,
    24,
    38,
    47,
    65,
)
ALLOW, KILL_PROCESS, EQUAL = 0x7FFF0000, 0x80000000, 4

libc = ctypes.CDLL(None, use_errno=True)


def check(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno() or -answer, "refused")
    return answer


def prctl(option: int, *arguments: int) -> int:
    padded = [*arguments, 0, 0, 0, 0][:4]
    return check(libc.prctl(option, *map(ctypes.c_ulong, padded)))


def read_unit(path: Path) -> dict[str, list[str]]:
    """Each setting's values, in order."""
    settings = defaultdict(list)
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            settings[key].append(value)
    return settings


def expand(name: str) -> set[str]:
    """The system calls of a group such as @system-service."""
    if not name.startswith("@"):
        return {name}
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout
    words = [word for line in text.splitlines()[1:] if not (word := line.strip()).startswith("#") and word]
    return set().union(*map(expand, words))


def allowed_calls(settings: dict[str, list[str]]) -> set[str]:
    """What SystemCallFilter= leaves (systemd.exec(5)): an allow list, from which "~" takes, and later lines add."""
    allowed: set[str] = set()
    for line in settings["SystemCallFilter"]:
        named = set().union(*map(expand, line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def load_filter(calls: set[str], families: set[int]) -> None:
    class Argument(ctypes.Structure):
        _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(KILL_PROCESS)))
    for name in sorted(calls):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # of another architecture, or newer than the library
            continue
        if name != "socket":
            check(seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 0, None))
            continue
        for family in families:
            only = Argument(0, EQUAL, family, 0)
            check(seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 1, ctypes.byref(only)))
    check(seccomp.seccomp_load(context))


def has_users() -> bool:
    """Whether this user namespace has others than root."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def show_python() -> None:
    """A Python that lives in root's home cannot be run by another user: show it at the same place in an open one."""
    prefix = Path(sys.base_prefix)
    closed = [directory for directory in reversed(prefix.parents) if not directory.stat().st_mode & 0o001]
    if not closed or not has_users():
        return
    held = os.open(prefix, os.O_PATH)
    kernel.mount("tmpfs", str(closed[0]), "tmpfs")
    closed[0].chmod(0o755)
    prefix.mkdir(parents=True, mode=0o755)
    kernel.mount(f"/proc/self/fd/{held}", str(prefix), None, kernel.MS_BIND)
    os.close(held)


def limit_capabilities(names: list[str]) -> None:
    kept = {CAPABILITIES[name] for name in names}
    for number in range(64):
        try:
            if number not in kept and prctl(PR_CAPBSET_READ, number):
                prctl(PR_CAPBSET_DROP, number)
        except OSError:  # the kernel knows no more
            break
    prctl(PR_SET_KEEPCAPS, 1)
    if has_users():
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    bits = sum(1 << number for number in kept)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", bits, bits, bits, 0, 0, 0))
    check(libc.capset(header, data))
    for number in kept:
        prctl(PR_CAP_AMBIENT, 2, number)


def main(unit: str, *command: str) -> None:
    settings = read_unit(Path(unit))
    calls = allowed_calls(settings)
    families = {FAMILIES[name] for line in settings["RestrictAddressFamilies"] for name in line.split()}
    assert settings["MemoryDenyWriteExecute"] == settings["NoNewPrivileges"] == ["yes"]
    assert settings["CapabilityBoundingSet"] == settings["AmbientCapabilities"]
    show_python()
    os.umask(int(settings["UMask"][0], 8))
    limit_capabilities(settings["CapabilityBoundingSet"][0].split())
    try:
        prctl(PR_SET_MDWE, 1)
    except OSError:  # before Linux 6.3
        sys.stderr.write("this kernel has no MDWE\n")
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    load_filter(calls | {"execve"}, families)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
