"""The behaviour of all devices, of those that run anywhere: in memory, and TAP-Windows6 on a fake kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from device_behaviour import Bench, FinishingDeviceBehaviour
from fake_kernel import FakeKernel
from windows_taps import MAC, no_change

from lanparty.link.memory import MemoryDevice
from lanparty.link.windows.tap import open_windows_tap


class TestMemory(FinishingDeviceBehaviour):
    @pytest.fixture
    async def bench(self) -> Bench:
        device = MemoryDevice("memory0", MAC)

        async def sent(count: int) -> list[bytes]:
            assert len(device.sent) >= count
            return device.sent

        return Bench(device, device.deliver, sent)


class TestTapWindows(FinishingDeviceBehaviour):
    @pytest.fixture(params=["later", "at once"])
    async def bench(self, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
        with FakeKernel().installed() as kernel:
            tap = kernel.add_tap("Game")
            tap.mac, tap.at_once = MAC, request.param == "at once"

            async def sent(count: int) -> list[bytes]:
                assert len(tap.written) >= count
                return tap.written

            async with open_windows_tap(None, MAC, no_change) as device:
                device.set_media(True)
                yield Bench(device, lambda frames: kernel.send(tap, frames), sent)
            assert tap.handle is None
            assert not kernel.queues
