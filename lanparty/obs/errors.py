"""Failures that end a program, each with the sentence and the exit status its user gets.

Owns: the exit statuses (a contract, see README) and the exceptions that carry them.
Must not know: which role runs, how a sentence is printed.

``str(error)`` is always one sentence for a person: what happened, on which interface or peer, what to do next.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "ConnectionFailedError",
    "ExitStatus",
    "LanpartyError",
    "MachineError",
    "RefusedError",
    "UntrustedError",
    "UsageError",
]


class ExitStatus(IntEnum):
    """What a program's exit status means, to scripts and service managers."""

    OK = 0
    """Asked to stop, and stopped."""
    FAILED = 1
    """Anything without a number of its own."""
    USAGE = 2
    """Wrong arguments or configuration."""
    REFUSED = 3
    """The relay refused this endpoint."""
    UNTRUSTED = 4
    """The relay's certificate is not trusted."""
    CANNOT = 5
    """This machine cannot do it: permission, no such interface, no TAP."""


class LanpartyError(Exception):
    """Base of all failures whose text is meant for a person."""

    status: ExitStatus = ExitStatus.FAILED


class UsageError(LanpartyError):
    """A person gave wrong arguments, a wrong configuration file, or an unreadable file."""

    status = ExitStatus.USAGE


class RefusedError(LanpartyError):
    """The relay said no, and would say no again: reconnecting is pointless.

    ``code`` is the stable reject code of ``lanparty.ctrl``.
    """

    status = ExitStatus.REFUSED

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class UntrustedError(LanpartyError):
    """The relay's certificate is not the one, or not from an authority, that this program was told to trust."""

    status = ExitStatus.UNTRUSTED


class MachineError(LanpartyError):
    """This machine cannot do what is asked: permission, missing interface, missing kernel feature."""

    status = ExitStatus.CANNOT


class ConnectionFailedError(LanpartyError):
    """The relay could not be reached, or the connection was lost: worth another try."""
