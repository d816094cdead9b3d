"""An adapter gets the identity's MAC, or is not used at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from fake_kernel import FakeKernel
from windows_taps import MAC, recording

from lanparty.link.windows.adapters import MacChange, undo_mac_change
from lanparty.link.windows.driver import AdapterBusyError, AdapterStoppedError
from lanparty.link.windows.tap import REOPEN_SECONDS, MacRefusedError, open_windows_tap
from lanparty.obs.errors import MachineError


async def opened_mac(kernel: FakeKernel, changes: list[MacChange], name: str | None = None) -> tuple[str, bytes]:
    async with open_windows_tap(name, MAC, recording(changes)) as device:
        return device.name, device.mac


def calls(kernel: FakeKernel, *words: str) -> Sequence[str]:
    """The calls of these functions, without what follows their names."""
    return [call.split()[0] for call in kernel.calls if call.split()[0] in words]


async def test_the_right_mac_is_left_alone() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.mac = MAC
        before = kernel.registry.dump()
        assert await opened_mac(kernel, []) == ("Game", MAC)
        assert kernel.registry.dump() == before
        assert calls(kernel, "CM_Disable_DevNode", "CM_Enable_DevNode") == []


@pytest.mark.parametrize("back_after", [0, 1, 30])
async def test_another_mac_is_replaced_and_the_adapter_waited_for(
    back_after: int, autojump_clock: trio.testing.MockClock
) -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.back_after = back_after
        before = kernel.registry.dump()
        changes: list[MacChange] = []
        assert await opened_mac(kernel, changes) == ("Game", MAC)
        assert tap.mac == MAC
        order = ["CreateFileW", "CloseHandle", "RegSetValueExW", "CM_Disable_DevNode", "CM_Enable_DevNode"]
        assert calls(kernel, *order) == [*order, *["CreateFileW"] * (back_after + 1), "CloseHandle"]
        (change,) = changes
        assert undo_mac_change(change)
        assert (tap.mac, kernel.registry.dump()) == (tap.permanent, before)


async def test_an_adapter_that_does_not_come_back(autojump_clock: trio.testing.MockClock) -> None:
    with FakeKernel().installed() as kernel:
        kernel.add_tap("Game").back_after = 10_000
        before = trio.current_time()
        with pytest.raises(AdapterStoppedError, match="'Game' did not come back after it was restarted"):
            await opened_mac(kernel, [])
        assert REOPEN_SECONDS <= trio.current_time() - before < REOPEN_SECONDS + 1


async def test_an_adapter_that_keeps_its_mac_is_not_used(autojump_clock: trio.testing.MockClock) -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.ignores_network_address = True
        changes: list[MacChange] = []
        with pytest.raises(
            MacRefusedError, match=rf"'Game' keeps .*{tap.permanent.hex(':')} .*'MAC Address' to 02AABBCCDD01 by hand"
        ):
            await opened_mac(kernel, changes)
        assert tap.handle is None
        assert not tap.media
        assert len(changes) == 1


async def test_a_mac_that_may_not_be_set(autojump_clock: trio.testing.MockClock) -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        kernel.registry.administrator = False
        with pytest.raises(MachineError, match="run this as administrator"):
            await opened_mac(kernel, [])
        assert tap.handle is None
        assert calls(kernel, "CM_Disable_DevNode") == []


async def test_somebody_else_is_faster_after_the_restart(autojump_clock: trio.testing.MockClock) -> None:
    with FakeKernel().installed() as kernel:
        kernel.add_tap("Game")
        kernel.on_restart = lambda tap: setattr(tap, "taken", True)
        with pytest.raises(AdapterBusyError, match="'Game' is used by another program"):
            await opened_mac(kernel, [])


async def test_one_that_is_in_use_is_passed_over() -> None:
    with FakeKernel().installed() as kernel:
        kernel.add_tap("VPN").taken = True
        kernel.add_tap("Game").mac = MAC
        assert await opened_mac(kernel, []) == ("Game", MAC)
        with pytest.raises(AdapterBusyError, match="'VPN'"):
            await opened_mac(kernel, [], "vpn")


async def test_an_old_driver_is_refused_before_anything_is_changed() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.version = (9, 9)
        with pytest.raises(MachineError, match=r"version 9\.9, and 9\.24"):
            await opened_mac(kernel, [])
        assert tap.handle is None
