"""Requests to the kernel by several tasks of one program at once; found by the party without a TAP."""

from __future__ import annotations

import pytest
import trio

from lanparty.link.netlink import open_netlink

pytestmark = pytest.mark.lan


async def test_lists_asked_for_at_the_same_time():
    """The kernel answers EBUSY to a second dump on one socket."""
    async with open_netlink() as netlink:

        async def ask():
            for _ in range(10):
                await netlink.links()
                await netlink.routes()
                await netlink.addresses()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)


async def test_a_list_after_one_that_was_given_up():
    """The kernel goes on with a dump whose asker was cancelled."""
    async with open_netlink() as netlink:
        for step in range(50):
            with trio.move_on_after(step * 0.00005):
                await netlink.routes()
            assert await netlink.links()
