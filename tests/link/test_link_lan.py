"""LanLink's own decisions, without a kernel; tests/lan/test_link_devices.py has the rest."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import trio
import trio.testing

from lanparty.link.bpf import Instruction, lan_filter
from lanparty.link.lan import RETRY_DELAY, LanLink
from lanparty.link.memory import MemoryDevice
from lanparty.link.netlink import LinkChange, LinkInfo
from lanparty.link.tap import TapUnavailableError, open_tun
from lanparty.obs.errors import ExitStatus, MachineError
from lanparty.obs.log import captured
from lanparty.proto.superframe import GSO_UDP, Frame, SuperFrame, expand

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


def super_frame(destination: bytes, source: bytes = MEMBER) -> SuperFrame:
    """Two datagrams of 20 bytes; the IPv4 header is what a kernel gave."""
    head = destination + source + bytes.fromhex("0800 4500004400004000401126a70a0000010a000002 0001000200300000")
    return SuperFrame(head + bytes(40), GSO_UDP, 20, 34, 6, 42, 2)


def test_super_frames_go_the_ways_of_their_addresses() -> None:
    lan = OpenLan()
    lan.set_members([MEMBER])
    to_house, to_box, to_all = (super_frame(address) for address in (HOUSE, OWN, BROADCAST))
    lan.write_batch([to_house, to_box, to_all])
    # A device in memory gives the frames that they stand for.
    assert lan.wire.sent == [*expand(to_house), *expand(to_all)]
    assert lan.inside.sent == [*expand(to_box), *expand(to_all)]
    lan._up = False
    lan.write_batch([to_house])
    assert lan._counters.write_dropped == 2


class OneBatch(FilteredDevice):
    """Gives one batch, then is gone."""

    batch: ClassVar[list[Frame]] = []

    def read_batch(self, limit: int = 64) -> list[Frame]:
        self.close()
        return self.batch


async def test_super_frames_pass_the_filter_as_a_whole() -> None:
    lan = OpenLan()
    lan.set_members([MEMBER])
    passed: list[Frame] = []
    lan.on_frames = passed.extend
    device = OneBatch("eth0", OWN)
    lawful = super_frame(MEMBER, HOUSE)
    device.batch = [lawful, super_frame(UNKNOWN, HOUSE), super_frame(BROADCAST, MEMBER), frame(MEMBER, HOUSE)]
    device.deliver([frame(MEMBER, HOUSE)])
    await lan._read(device)  # type: ignore[arg-type]
    assert passed == [lawful, frame(MEMBER, HOUSE)]
    assert lan._counters.filtered_dropped == 4


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


class FakeNetlink:
    """One interface, and a kernel that can be made to give no answer. A change is told for each token sent."""

    def __init__(self, link: LinkInfo) -> None:
        self.info = link
        self.refuses = 0
        self.tell, self._changes = trio.open_memory_channel[None](10)

    async def link(self, name: str) -> LinkInfo | None:
        if self.refuses:
            self.refuses -= 1
            raise MachineError("the kernel is still busy")
        return self.info

    @contextlib.contextmanager
    def watch(self) -> Iterator[AsyncIterator[LinkChange]]:
        yield self._watch()

    async def _watch(self) -> AsyncIterator[LinkChange]:
        async for _ in self._changes:
            yield LinkChange(self.info.name, self.info.index, self.info.up, self.info.carrier, False)


NIC = LinkInfo(7, "eth77", OWN, 1500, True, True, None, None)
"""No interface of the machine that the tests run on."""


class Reopened(LanLink):
    """A LanLink that counts how often it opens its interface."""

    opened = 0

    @contextlib.asynccontextmanager
    async def _open(self, link: LinkInfo, netlink: object) -> AsyncIterator[MemoryDevice]:  # type: ignore[override]
        self.opened += 1
        self._watched = frozenset({link.name})
        yield MemoryDevice(link.name, link.mac)


async def test_a_kernel_without_an_answer_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    netlink, states = FakeNetlink(NIC), []
    link = Reopened(NIC.name, on_frames=lambda frames: None, on_state=states.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run, netlink)
        await trio.testing.wait_all_tasks_blocked()
        netlink.refuses = 2  # at the change, and at the first look afterwards
        with captured() as entries:
            netlink.tell.send_nowait(None)
            await trio.sleep(3 * RETRY_DELAY)
        assert [entry["event"] for entry in entries] == ["link.not-usable"]
        assert (link.opened, link.is_up, states) == (2, True, [True, False, True])
        nursery.cancel_scope.cancel()


async def test_a_missing_permission_is_told_while_the_interface_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    class Denied(socket.socket):
        def __init__(self, family: int = -1, *arguments: int) -> None:
            if family == socket.AF_PACKET:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            super().__init__(family, *arguments)

    monkeypatch.setattr(socket, "socket", Denied)
    netlink = FakeNetlink(attrs.evolve(NIC, up=False, carrier=False))
    with pytest.RaisesGroup(pytest.RaisesExc(MachineError, match="CAP_NET_RAW"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(LanLink(NIC.name, on_frames=lambda frames: None).run, netlink)
            nursery.cancel_scope.cancel()


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
