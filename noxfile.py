"""Every check of this project, each a nox session: `nox` runs the list below, `nox -s NAME` runs one.

The whole list is what CI runs (`.ci/run`) and what the README's test command runs: there is no second recipe.

Not in the list, because each takes longer than everything else together: `bench`, which measures and judges nothing;
`soak` and `life`, of which the list has short ones; and `lan_without`, the session `lan` once for each acceleration
switched off. Instead `lan` ends with a part of itself with all of them off at once, the path that no fast one may hide
behind. Nor is `package`, because it judges PyInstaller as much as us.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.sessions = ["lint", "types", "imports", "docs", "tests", "lan", "guard", "faults", "fuzz", "demo"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"

# What only a kernel can show is shown with the real thing. Debian's names for it:
REAL_TOOLS = {
    "arpspoof": "dsniff",
    "dhclient": "isc-dhcp-client",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nft": "nftables",
    "ping": "iputils-ping",
    "radvd": "radvd",
    "systemd-analyze": "systemd",
    "tshark": "tshark",
    "udhcpc": "udhcpc",
}

# They bring mingw-w64's headers, which our declarations of Windows' functions are held against.
WINDOWS_COMPILERS = {
    "i686-w64-mingw32-gcc": "gcc-mingw-w64-i686-win32",
    "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64-win32",
}

SHARED = Path(__file__).parent / ".nox" / "shared"
"""The environment of all sessions that need the checkout, its tools, and no more: made once, filled once in a run of
nox. One for each took two minutes of CI's twenty."""

WORKERS = 2
"""Processes that run tests at once: what CI's machines have cores."""

# Frames of every kind and size, both ways, over IPv4, IPv6 and without a TAP: what an acceleration can get wrong.
CORE_OF_LAN = ["tests/lan/test_lan_traffic.py", "tests/lan/test_lan_discovery.py"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff's checks and its formatter."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Types: mypy --strict over the package and this file, once as Linux sees them and once as Windows does."""
    _install(session)
    _run(session, "mypy", "--platform", "linux")
    _run(session, "mypy", "--platform", "win32")


@nox.session(venv_backend="none")
def imports(session: nox.Session) -> None:
    """The one-way import contracts of pyproject.toml."""
    _install(session)
    _run(session, "lint-imports")


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Docs tell the truth: links resolve, every option, event, message and drop rule is described."""
    _install(session)
    _run(session, "pytest", "tests/docs", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Everything that needs no network interface but loopback, and is not the session `guard`'s."""
    _need(session, WINDOWS_COMPILERS)
    _install(session)
    everything = ["-m", "not (lan or guard or faults or slow)", "--ignore=tests/docs", "--ignore=tests/guard"]
    _run(session, "pytest", f"--numprocesses={WORKERS}", *everything, *session.posargs)


@nox.session(venv_backend="none")
def lan(session: nox.Session) -> None:
    """The programs in network namespaces with a real kernel, dnsmasq, ping, iperf3, nft and tshark; no root needed."""
    _prepare_lan(session)
    _run_lan(session, "tests", *session.posargs)
    if not session.posargs:
        _run_lan(session, *CORE_OF_LAN, without=_accelerations(session))


@nox.session(venv_backend="none")
def guard(session: nox.Session) -> None:
    """Every row of the layer-2 guard: its vectors in all wrappings, and real attackers against real victims."""
    _prepare_lan(session)
    _run(session, "pytest", "tests/guard", *session.posargs)
    _run_lan(session, "tests/lan/guard", *session.posargs, marked="guard")


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """The rows of docs/faults.md that fit CI's time, with figures; `nox -s faults -- --all` runs the slow ones, too."""
    _prepare_lan(session)
    arguments = [word for word in session.posargs if word != "--all"]
    marked = "faults" if "--all" in session.posargs else "faults and not slow"
    _run_lan(session, "tests/lan/faults", *arguments, marked=marked)


@nox.session(venv_backend="none")
def lan_without(session: nox.Session) -> None:
    """`lan` once for each acceleration switched off, or for those named: `nox -s lan_without -- gso fq`.

    What begins with `-`, and everything behind it, goes to pytest. A failure does not keep the others from running.
    """
    _prepare_lan(session)
    split = next((index for index, word in enumerate(session.posargs) if word.startswith("-")), len(session.posargs))
    names, for_pytest = session.posargs[:split], session.posargs[split:]
    known = _accelerations(session)
    if unknown := sorted(set(names) - set(known)):
        session.error(f"no such acceleration: {', '.join(unknown)}; there are {', '.join(known)}")
    failed = []
    for name in names or known:
        try:
            _run_lan(session, "tests", *for_pytest, without=[name])
        except CommandFailed:
            failed.append(name)
    if failed:
        session.error(f"failed without {', '.join(failed)}")


def _prepare_lan(session: nox.Session) -> None:
    _need(session, REAL_TOOLS)
    _install(session)


def _install(session: nox.Session) -> None:
    """Make the shared environment and fill it, once in a run of nox."""
    if _filled:
        return
    if not _shared("python").exists():
        session.run(sys.executable, "-m", "venv", os.fspath(SHARED), external=True)
    _run(session, "python", "-m", "pip", "install", "-q", "-e", ".[dev]")
    _filled.append(session.name)


_filled: list[str] = []
"""The session that filled it in this run."""


def _shared(tool: str) -> Path:
    return SHARED / ("Scripts" if sys.platform == "win32" else "bin") / tool


def _run(session: nox.Session, tool: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    """Run a tool of the shared environment."""
    session.run(os.fspath(_shared(tool)), *arguments, env=env, external=True)


def _need(session: nox.Session, tools: Mapping[str, str]) -> None:
    """Say which Debian packages are missing; in CI that ends the session."""
    missing = sorted({package for tool, package in tools.items() if not _find(tool)})
    if missing:
        hint = f"install what is missing first: apt-get install {' '.join(missing)}"
        if os.environ.get("CI") or os.environ.get("LANPARTY_LAN_REQUIRED"):
            session.error(hint)
        session.warn(f"some tests will be skipped; {hint}")


def _run_lan(session: nox.Session, *arguments: str, without: Sequence[str] = (), marked: str = "lan") -> None:
    """Run pytest in the sandbox. What is not about delay or load (`lan`) runs in some at once, files side by side."""
    environment = {"LANPARTY_WITHOUT": ",".join(without)} if without else None
    python, sandbox = os.fspath(_shared("python")), ["-m", "lanparty.demo.sandbox", "--"]
    if marked == "lan":
        side_by_side = ["--dist=loadfile", f"--tx={WORKERS}*popen//python={shlex.join([python, *sandbox, python])}"]
        _run(session, "pytest", "-m", marked, *side_by_side, *arguments, env=environment)
    else:
        _run(session, "python", *sandbox, python, "-m", "pytest", "-m", marked, *arguments, env=environment)


def _accelerations(session: nox.Session) -> list[str]:
    """All of them; asked of the package, which this file's own environment need not have."""
    code = "from lanparty.obs.switches import ACCELERATIONS; print(*ACCELERATIONS)"
    return str(session.run(os.fspath(_shared("python")), "-c", code, silent=True, external=True)).split()


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Coverage-guided fuzzing of each parser of network bytes: fixed seeds and counts, a minute at most."""
    _install_atheris(session)
    _run(session, "python", "tests/fuzz/fuzz_run.py", "short", *session.posargs)


@nox.session(venv_backend="none")
def fuzz_long(session: nox.Session) -> None:
    """The same for 10 minutes each, or as told: `nox -s fuzz_long -- guard switch --seconds 3600`. What is new goes
    into the corpus, to be committed."""
    _install_atheris(session)
    _run(session, "python", "tests/fuzz/fuzz_run.py", "long", *session.posargs)


def _install_atheris(session: nox.Session) -> None:
    """It brings a compiler's run-time library, so there is a wheel for some Pythons only; nothing else needs it."""
    _install(session)
    try:
        _run(session, "python", "-m", "pip", "install", "-q", "--only-binary=atheris", "atheris>=3.0")
    except CommandFailed:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        text = f"there is no wheel of atheris for Python {version}, so nothing is fuzzed"
        if os.environ.get("CI") and sys.version_info[:2] == (3, 11):
            session.error(text)
        session.skip(f"{text}; the session `tests` replays the corpus with any Python")


@nox.session
def demo(session: nox.Session) -> None:
    """The README's demo: a LAN party on this machine, judged by its exit status."""
    session.install(".")
    session.run("python", "-m", "lanparty.demo", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Throughput, packet rate, ping, CPU per gigabyte and memory of the whole chain, and of other systems of the kind
    where their packages are installed. Takes most of an hour; `nox -s bench -- --quick` three minutes, without the
    others; `nox -s bench -- --help` tells the rest."""
    _install(session)
    _run(session, "python", "-m", "lanparty.demo.bench", *session.posargs)


@nox.session(venv_backend="none")
def soak(session: nox.Session) -> None:
    """Ten minutes of one full room, through real sockets: loss and memory. `nox -s soak -- --help` tells the rest."""
    _install(session)
    _run(session, "python", "-m", "lanparty.demo.soak", *session.posargs)


@nox.session(venv_backend="none")
def life(session: nox.Session) -> None:
    """Days of two rooms in simulated time, with more players than CI has time for."""
    _install(session)
    _run(session, "pytest", "tests/life", "-m", "slow", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """The packaged client, by docs/windows/lanparty.spec, for this system: that it builds, and that it starts."""
    session.install(".[test]", "pyinstaller>=6.10")
    session.run("pytest", "tests/windows/test_windows_packaging.py", "-m", "", *session.posargs)


def _find(tool: str) -> str | None:
    """Look where root's tools live too: Debian keeps /usr/sbin out of a user's PATH."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
