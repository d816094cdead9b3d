"""What tests of the Windows part share."""

import pytest
import trio


@pytest.fixture
def no_threads(monkeypatch):
    """Do in line what goes to a worker thread: a clock that jumps when all tasks wait does not know of those."""

    async def in_line(call, *arguments, **_):
        await trio.lowlevel.checkpoint()
        return call(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", in_line)
