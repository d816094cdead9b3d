"""Administrator rights: whether this process has them, and how a player gives them.

    Windows      the program is started once more with the verb "runas", at which Windows asks (UAC)
    elsewhere    nothing is started: the player is told the command, with sudo

Windows gives the new program neither this one's environment nor its window, so whatever it needs is in its arguments,
and those are seen by every program of the computer: no secret goes this way.

Owns: asking the system. Must not know: what the rights are for, and what the arguments say.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lanparty.cli.privileges import Capability, has
from lanparty.link.windows.winapi.base import wide
from lanparty.link.windows.winapi.dll import last_error
from lanparty.link.windows.winapi.shell32 import (
    ERROR_CANCELLED,
    SEE_MASK_FLAG_NO_UI,
    SEE_MASK_NOASYNC,
    SHELL32,
    SHELLEXECUTEINFOW,
    SW_SHOWNORMAL,
)
from lanparty.obs.errors import MachineError

__all__ = ["Elevation", "SudoElevation", "WindowsElevation", "this_systems_elevation"]


class Elevation(Protocol):
    """The way to administrator rights."""

    def is_needed(self) -> bool:
        """Whether this process lacks the rights."""
        ...

    def start(self, program: Sequence[str], arguments: Sequence[str]) -> None:
        """Have ``program`` started with the rights. Raises MachineError: the player has to, or said no."""
        ...


class WindowsElevation:
    """User Account Control."""

    def is_needed(self) -> bool:
        """Whether the Administrators group does not count for this process: it is a filtered token, or no member."""
        return not SHELL32.IsUserAnAdmin()

    def start(self, program: Sequence[str], arguments: Sequence[str]) -> None:
        """Start it by ShellExecuteExW with the verb "runas"; Windows asks the player meanwhile."""
        info = SHELLEXECUTEINFOW()
        info.cbSize = ctypes.sizeof(info)
        info.fMask = SEE_MASK_NOASYNC | SEE_MASK_FLAG_NO_UI
        # A field that is set to an array keeps it alive.
        info.lpVerb = wide("runas")
        info.lpFile = wide(program[0])
        info.lpParameters = wide(subprocess.list2cmdline([*program[1:], *arguments]))
        info.lpDirectory = wide(str(Path.cwd()))
        info.nShow = SW_SHOWNORMAL
        if SHELL32.ShellExecuteExW(ctypes.byref(info)):
            return
        error = last_error()
        if error == ERROR_CANCELLED:
            raise MachineError(
                "lanparty sets up a network adapter and routes, for which it needs administrator rights, and Windows "
                "was not allowed to give them: start it again and choose Yes, or ask whoever has this computer's "
                "administrator password"
            )
        raise MachineError(
            f"Windows could not start lanparty as administrator (error {error}): right-click it and choose 'Run as "
            "administrator'"
        )


class SudoElevation:
    """Linux: root, or CAP_NET_ADMIN."""

    def is_needed(self) -> bool:
        """Whether this process can make no network adapter."""
        if sys.platform == "win32":
            return False
        else:
            return os.geteuid() != 0 and not has(Capability.NET_ADMIN)

    def start(self, program: Sequence[str], arguments: Sequence[str]) -> None:
        """Raise MachineError with the command for the player: a password for sudo is typed to sudo, not to us."""
        command = shlex.join(["sudo", *program, *arguments])
        raise MachineError(f"lanparty sets up a network adapter and routes, for which it needs root: run {command}")


def this_systems_elevation() -> Elevation:
    """Give the one of this system."""
    return WindowsElevation() if sys.platform == "win32" else SudoElevation()
