"""Every check of this project, each a nox session: `nox` runs all but `bench`, `nox -s NAME` runs one.

The whole list is what CI runs (`.ci/run`) and what the README's test command runs: there is no second recipe.
"""

from __future__ import annotations

import os
import shutil

import nox

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
}


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
    """The programs in network namespaces with a real kernel, dnsmasq, ping, iperf3 and nft; no root needed."""
    missing = sorted({package for tool, package in REAL_TOOLS.items() if not _find(tool)})
    if missing:
        hint = f"install what is missing first: apt-get install {' '.join(missing)}"
        if os.environ.get("CI") or os.environ.get("LANPARTY_LAN_REQUIRED"):
            session.error(hint)
        session.warn(f"some tests will be skipped; {hint}")
    session.install("-e", ".[test]")
    session.run("python", "-m", "lanparty.demo.sandbox", "--", "pytest", "-m", "lan", "tests", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The README's demo: a LAN party on this machine, judged by its exit status."""
    session.install(".")
    session.run("python", "-m", "lanparty.demo", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Throughput, packet rate, ping, CPU per gigabyte and memory of the whole chain on this machine."""
    session.install("-e", ".")
    session.run("python", "-m", "lanparty.demo.bench", *session.posargs)


def _find(tool: str) -> str | None:
    """Look where root's tools live too: Debian keeps /usr/sbin out of a user's PATH."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
