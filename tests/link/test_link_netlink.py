"""What needs no permission: sentences, decoding, and reading the state of this network namespace."""

import errno

import pytest
import trio
import trio.lowlevel

from lanparty.link.netlink import NetlinkMissing, Overflow, effective_metric, open_netlink
from lanparty.link.netlink import _raise_sentence as raise_sentence
from lanparty.obs.errors import MachineError


@pytest.mark.parametrize(
    ("code", "kind", "what"),
    [
        (errno.EPERM, MachineError, "CAP_NET_ADMIN"),
        (errno.EACCES, MachineError, "CAP_NET_ADMIN"),
        (errno.ENODEV, NetlinkMissing, "no network interface lp0"),
        (-errno.ENODEV, NetlinkMissing, "no network interface lp0"),
        (errno.ESRCH, NetlinkMissing, "not there"),
        (errno.EADDRNOTAVAIL, NetlinkMissing, "not there"),
        (errno.ENETDOWN, MachineError, "down"),
        (errno.EBUSY, MachineError, "in use"),
        (errno.EOPNOTSUPP, MachineError, "kernel does not support"),
        (errno.ENOENT, MachineError, "kernel does not support"),
        (errno.EINVAL, MachineError, "Invalid argument"),
    ],
)
def test_each_error_number_has_its_sentence(code, kind, what):
    with pytest.raises(kind, match=what) as caught:
        raise_sentence(code, "set interface lp0 up", "lp0", OSError())
    assert str(caught.value).startswith("cannot set interface lp0 up: ")
    assert isinstance(caught.value, NetlinkMissing) == (kind is NetlinkMissing)


def test_metric_as_the_kernel_keeps_it():
    assert [effective_metric(*pair) for pair in ((4, 0), (6, 0), (4, 5), (6, 5))] == [0, 1024, 5, 5]


async def test_reading_needs_no_permission():
    async with open_netlink() as netlink:
        names = {link.name: link for link in await netlink.links()}
        assert names["lo"].arp_type == 772
        assert await netlink.link("lo") == names["lo"]
        assert await netlink.link("no-such-if") is None
        with pytest.raises(NetlinkMissing, match="no-such-if"):
            await netlink.require_link("no-such-if")
        await netlink.addresses("lo")
        await netlink.routes()


async def test_requests_work_from_tasks_that_were_started_outside():
    """The loop is found through the object, not through the context of the calling task."""
    async with trio.open_nursery() as nursery, open_netlink() as netlink:
        done = trio.Event()

        async def ask():
            assert (await netlink.require_link("lo")).name == "lo"
            done.set()

        nursery.start_soon(ask)
        with trio.fail_after(2):
            await done.wait()


async def test_a_cancelled_request_leaves_the_socket_usable():
    async with open_netlink() as netlink:
        for _ in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await netlink.links()
        assert (await netlink.require_link("lo")).name == "lo"


async def test_concurrent_requests_get_their_own_answers():
    async with open_netlink() as netlink, trio.open_nursery() as nursery:

        async def ask(name):
            found = await netlink.link(name)
            assert (found is not None) == (name == "lo")

        for _ in range(10):
            nursery.start_soon(ask, "lo")
            nursery.start_soon(ask, "no-such-if")


async def test_an_overflow_is_told_and_the_watch_goes_on(monkeypatch):
    async with open_netlink() as netlink:
        with netlink.watch() as changes:
            answers = [OSError(errno.ENOBUFS, "No buffer space available"), OSError(errno.EIO, "I/O error")]

            async def recv(_):
                raise answers.pop(0)

            monkeypatch.setattr(changes, "_socket", type("Socket", (), {"recv": staticmethod(recv), "close": print}))
            assert isinstance(await anext(changes), Overflow)
            with pytest.raises(MachineError, match="I/O error"):
                await anext(changes)


async def test_concurrent_lists_are_all_answered():
    """The kernel answers EBUSY to a second dump on a socket."""
    async with open_netlink() as netlink, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(netlink.links)
            nursery.start_soon(netlink.routes)
            nursery.start_soon(netlink.addresses)


async def test_lists_that_were_given_up_half_way_do_no_harm():
    async with open_netlink() as netlink:
        for steps in range(12):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(netlink.routes)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert (await netlink.links())[0].name == "lo"
