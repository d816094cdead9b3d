"""LanLink's own decisions, without a kernel; tests/lan/test_link_devices.py has the rest."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lanparty.link.bpf import Instruction, lan_filter
from lanparty.link.lan import LanLink
from lanparty.link.memory import MemoryDevice
from lanparty.link.tap import TapUnavailableError, open_tun
from lanparty.obs.errors import ExitStatus

OWN = b"\2\0\0\0\0\1"
MEMBER = b"\2\0\0\0\0\2"
HOUSE = b"\2\0\0\0\0\3"
UNKNOWN = b"\2\0\0\0\0\4"
BROADCAST = b"\xff" * 6


class FilteredDevice(MemoryDevice):
    """Takes filters up to a size, as a kernel with little option memory does."""

    room = 10_000

    def __init__(self, name: str, mac: bytes) -> None:
        super().__init__(name, mac)
        self.program: Sequence[Instruction] = ()

    def set_filter(self, program: Sequence[Instruction]) -> bool:
        if len(program) > self.room:
            return False
        self.program = program
        return True


class OpenLan(LanLink):
    """A LanLink whose interface is there without asking a kernel."""

    def __init__(self, *, own_stack: bool = True) -> None:
        super().__init__("eth0", on_frames=lambda frames: None)
        self.wire = self._device = FilteredDevice("eth0", OWN)  # type: ignore[assignment]
        self.inside = self._own_stack = MemoryDevice("lanparty-own0", OWN) if own_stack else None  # type: ignore[assignment]
        self._mac = OWN
        self._up = True


def frame(destination: bytes, source: bytes = MEMBER) -> bytes:
    return destination + source + b"\x08\x00" + bytes(46)


@pytest.mark.parametrize(
    ("one", "wire", "inside"),
    [
        (frame(HOUSE), True, False),
        (frame(OWN), False, True),
        (frame(BROADCAST), True, True),
        (frame(b"\x01\0\x5e\0\0\1"), True, True),
        (frame(BROADCAST, UNKNOWN), True, False),
        (b"\1", False, False),
        (b"", False, False),
    ],
)
def test_which_way_a_players_frame_takes(one: bytes, wire: bool, inside: bool) -> None:
    lan = OpenLan()
    lan.set_members([MEMBER])
    lan.write_batch([one])
    assert (lan.wire.sent == [one], lan.inside.sent == [one]) == (wire, inside)
    assert lan._counters.runt_dropped == (not wire and not inside)


def test_order_is_kept() -> None:
    lan = OpenLan()
    lan.set_members([MEMBER])
    frames = [frame(HOUSE) + bytes([number]) for number in range(5)]
    lan.write_batch([frames[0], frame(OWN), frames[1], frame(BROADCAST), *frames[2:]])
    assert lan.wire.sent == [frames[0], frames[1], frame(BROADCAST), *frames[2:]]
    assert lan.inside.sent == [frame(OWN), frame(BROADCAST)]


def test_while_the_lan_is_down_frames_are_dropped_and_counted() -> None:
    lan = LanLink("eth0", on_frames=lambda frames: None)
    lan.set_members([MEMBER])
    lan.write_batch([frame(HOUSE)] * 3)
    assert lan.counters.write_dropped == 3
    assert (lan.mac, lan.is_up) == (b"", False)


def test_a_kernel_without_room_for_the_filter_gets_the_short_one() -> None:
    lan = OpenLan()
    members = [bytes([2, 0, 0, 0, 1, number]) for number in range(100)]
    lan.set_members(members)
    assert lan.wire.program == lan_filter(members)
    lan.wire.room = 100
    lan.set_members([*members, MEMBER])
    assert lan.wire.program == lan_filter(members, exact=False)


def test_no_tun_device_is_a_sentence_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        TapUnavailableError, match=r"there is no .*/tun; load the kernel module .*modprobe tun"
    ) as caught:
        open_tun(str(tmp_path / "tun"))
    assert caught.value.status is ExitStatus.CANNOT

    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(TapUnavailableError, match=r"no permission .* as root, .*sudo chmod 0666 /dev/net/tun"):
        open_tun()
