"""Every check of this project, each a nox session: `nox` runs the list below, `nox -s NAME` runs one.

The whole list is what CI runs (`.ci/run`) and what the README's test command runs: there is no second recipe.

Not in the list, because each takes longer than everything else together: `bench`, which measures and judges nothing,
and `lan_without`, the session `lan` once for each acceleration switched off. Instead `lan` ends with a part of itself
with all of them off at once, the path that no fast one may hide behind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import nox
from nox.command import CommandFailed

nox.options.sessions = ["lint", "types", "imports", "docs", "tests", "lan", "demo"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"

# What only a kernel can show is shown with the real thing. Debian's names for it:
REAL_TOOLS = {
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nft": "nftables",
    "ping": "iputils-ping",
    "tshark": "tshark",
}

# Frames of every kind and size, both ways, over IPv4, IPv6 and without a TAP: what an acceleration can get wrong.
CORE_OF_LAN = ["tests/lan/test_lan_traffic.py", "tests/lan/test_lan_discovery.py"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff's checks and its formatter."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types: mypy --strict over the package and this file."""
    session.install("-e", ".[lint]", "nox")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """The one-way import contracts of pyproject.toml."""
    session.install("-e", ".[lint]")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Docs tell the truth: links resolve, every option, event, message and drop rule is described."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests/docs", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that needs no network interface but loopback."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "not lan", "--ignore=tests/docs", *session.posargs)


@nox.session
def lan(session: nox.Session) -> None:
    """The programs in network namespaces with a real kernel, dnsmasq, ping, iperf3, nft and tshark; no root needed."""
    _prepare_lan(session)
    _run_lan(session, "tests", *session.posargs)
    if not session.posargs:
        _run_lan(session, *CORE_OF_LAN, without=_accelerations(session))


@nox.session
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
    missing = sorted({package for tool, package in REAL_TOOLS.items() if not _find(tool)})
    if missing:
        hint = f"install what is missing first: apt-get install {' '.join(missing)}"
        if os.environ.get("CI") or os.environ.get("LANPARTY_LAN_REQUIRED"):
            session.error(hint)
        session.warn(f"some tests will be skipped; {hint}")
    session.install("-e", ".[test]")


def _run_lan(session: nox.Session, *arguments: str, without: Sequence[str] = ()) -> None:
    sandboxed = ["python", "-m", "lanparty.demo.sandbox", "--", "pytest", "-m", "lan"]
    session.run(*sandboxed, *arguments, env={"LANPARTY_WITHOUT": ",".join(without)} if without else None)


def _accelerations(session: nox.Session) -> list[str]:
    """All of them; asked of the package, which this file's own environment need not have."""
    code = "from lanparty.obs.switches import ACCELERATIONS; print(*ACCELERATIONS)"
    return str(session.run("python", "-c", code, silent=True)).split()


@nox.session
def demo(session: nox.Session) -> None:
    """The README's demo: a LAN party on this machine, judged by its exit status."""
    session.install(".")
    session.run("python", "-m", "lanparty.demo", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Throughput, packet rate, ping, CPU per gigabyte and memory of the whole chain, and of other systems of the kind
    where their packages are installed. Takes most of an hour; `nox -s bench -- --quick` three minutes, without the
    others; `nox -s bench -- --help` tells the rest."""
    session.install("-e", ".")
    session.run("python", "-m", "lanparty.demo.bench", *session.posargs)


def _find(tool: str) -> str | None:
    """Look where root's tools live too: Debian keeps /usr/sbin out of a user's PATH."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
