"""The DHCP client against a scripted server, in simulated time."""

import asyncio
import contextlib
import errno
import itertools
import random
from collections import Counter

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing
import trio_asyncio
from dhcp_frames import ACK, MAC, NAK, OFFER, packed, reply
from hypothesis import given
from hypothesis import strategies as st

from lanparty.link.dhcp import DhcpLinkDownError, DhcpTask
from lanparty.link.dhcp_client import message_untrusted
from lanparty.link.netlink import Netlink
from lanparty.obs.errors import MachineError
from lanparty.obs.log import captured

DISCOVER, REQUEST, RELEASE = 1, 3, 7


@attrs.define
class Sent:
    time: float
    kind: int
    xid: int
    options: dict
    eth_dst: str
    ciaddr: str | None


@attrs.define
class Server:
    """Answers as its script says: message kind to a list of frames (made from the request)."""

    answers: dict = attrs.field(factory=dict)
    sent: list = attrs.field(factory=list)
    inbox: asyncio.Queue | None = None
    counters: Counter | None = None
    complain: object = None
    broken: OSError | None = None
    opened: int = 0
    closed: int = 0

    def socket(self, complain):
        self.complain = complain
        return FakeSocket(self)

    def push(self, frame):
        """Hand a frame to the client, as the network would."""
        message = message_untrusted(frame, MAC, self.counters, self.complain)
        if message is not None:
            self.inbox.put_nowait(message)

    def of(self, kind):
        return [sent for sent in self.sent if sent.kind == kind]

    def break_link(self):
        self.broken = OSError(errno.ENETDOWN, "Network is down")
        self.inbox.put_nowait(self.broken)


class FakeSocket:
    def __init__(self, server):
        self.server = server
        self.l2addr = MAC.hex(":")

    async def __aenter__(self):
        if self.server.broken is not None:
            raise self.server.broken
        self.server.inbox = asyncio.Queue()
        self.server.opened += 1
        return self

    async def __aexit__(self, *_):
        self.server.closed += 1

    async def put(self, msg):
        if self.server.broken is not None:
            raise self.server.broken
        dhcp = msg.dhcp
        options = dict(dhcp["options"])
        kind = int(options["message_type"])
        xid = int(dhcp["xid"])
        self.server.sent.append(Sent(trio.current_time(), kind, xid, options, msg.eth_dst, dhcp["ciaddr"]))
        for answer in self.server.answers.get(kind, ()):
            self.server.push(answer(xid))
        return msg

    async def get(self):
        message = await self.server.inbox.get()
        if isinstance(message, BaseException):
            raise message
        return message


def says(kind, **fields):
    return lambda xid: reply(kind, xid=xid, **fields)


GOOD = {DISCOVER: [says(OFFER)], REQUEST: [says(ACK)]}


@attrs.define
class Lab:
    server: Server
    task: DhcpTask
    leases: list
    losses: list
    events: list
    scope: trio.CancelScope

    def names(self):
        return [entry["event"].removeprefix("client.") for entry in self.events]


@contextlib.asynccontextmanager
async def client(answers=None, **options):
    server = Server(dict(answers or {}))
    leases, losses = [], []
    with captured() as events:
        async with trio_asyncio.open_loop() as loop:
            task = DhcpTask(
                Netlink(loop, None),
                "lp0",
                MAC,
                on_lease=leases.append,
                on_lost=losses.append,
                randomness=random.Random(1),
                make_socket=server.socket,
                **options,
            )
            server.counters = task.counters
            async with trio.open_nursery() as nursery:
                nursery.start_soon(task.run)
                await trio.testing.wait_all_tasks_blocked(0.001)
                yield Lab(server, task, leases, losses, events, nursery.cancel_scope)
                nursery.cancel_scope.cancel()
    assert server.opened == server.closed


async def test_offer_request_acknowledgement_release(autojump_clock):
    async with client(GOOD) as lab:
        assert [sent.kind for sent in lab.server.sent] == [DISCOVER, REQUEST]
        assert [lease.address for lease in lab.leases] == ["192.168.77.100"]
        assert lab.names() == ["dhcp-discover", "dhcp-offer", "dhcp-request", "dhcp-lease"]
        request = lab.server.sent[1].options
        assert (request["requested_ip"], request["server_id"]) == ("192.168.77.100", "192.168.77.1")
    release = lab.server.sent[-1]
    assert (release.kind, release.ciaddr, release.eth_dst) == (RELEASE, "192.168.77.100", "00:16:3e:00:77:01")
    assert lab.names()[-1] == "dhcp-released"
    assert not lab.losses


async def test_says_nothing_of_this_machine(autojump_clock):
    async with client(GOOD) as lab:
        for sent in lab.server.sent:
            assert not sent.options.keys() & {"host_name", "vendor_id"}
            assert sent.options["client_id"] == {"type": 1, "key": MAC.hex(":")}
    async with client(GOOD, host_name="ada") as lab:
        assert lab.server.sent[0].options["host_name"] == "ada"


async def test_asks_again_quickly_and_then_slower(autojump_clock):
    async with client() as lab:
        start = lab.server.sent[0].time
        await trio.sleep(100)
        times = [sent.time - start for sent in lab.server.of(DISCOVER)]
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        for wait, plain in zip(waits, [1, 2, 4, 8, 16, 16, 16], strict=False):
            assert plain * 0.9 <= wait <= plain * 1.1
        assert lab.names().count("dhcp-silent") == 1
        assert len({sent.xid for sent in lab.server.sent}) == 1


async def test_silence_is_no_news_without_a_gateway(autojump_clock):
    async with client() as lab:
        lab.task.house_present(False)
        await trio.sleep(60)
        assert "dhcp-silent" not in lab.names()
        before = len(lab.server.of(DISCOVER))
        lab.task.house_present(True)
        await trio.sleep(0.1)
        assert len(lab.server.of(DISCOVER)) == before + 1  # at once
        await trio.sleep(20)
        assert "dhcp-silent" in lab.names()


async def test_renews_at_t1_and_rebinds_at_t2_and_loses_it_at_the_end(autojump_clock):
    more = [(58, (50).to_bytes(4, "big")), (59, (80).to_bytes(4, "big"))]
    terms = {"seconds": 120, "more": more}
    async with client({DISCOVER: [says(OFFER, **terms)], REQUEST: [says(ACK, **terms)]}) as lab:
        bound = lab.server.sent[-1].time
        await trio.sleep(60)
        renewal = lab.server.of(REQUEST)[-1]
        assert renewal.time - bound == pytest.approx(50, abs=1)
        assert (renewal.eth_dst, renewal.ciaddr) == ("00:16:3e:00:77:01", "192.168.77.100")
        assert len(lab.leases) == 2
        assert lab.names()[-1] == "dhcp-renewed"
        lab.server.answers.clear()
        renewed = renewal.time
        await trio.sleep(200)
        broadcast = [sent for sent in lab.server.of(REQUEST) if sent.eth_dst == "ff:ff:ff:ff:ff:ff" and sent.ciaddr]
        assert broadcast[0].time - renewed == pytest.approx(80, abs=1)
        assert lab.losses == ["the lease ran out"]
        assert lab.server.of(DISCOVER)[1].time - renewed == pytest.approx(120, abs=1)


async def test_a_reconnect_verifies_and_keeps_the_address(autojump_clock):
    async with client(GOOD) as lab:
        lab.task.verify()
        await trio.sleep(0.1)
        assert lab.server.sent[-1].eth_dst == "ff:ff:ff:ff:ff:ff"
        assert lab.server.sent[-1].ciaddr == "192.168.77.100"
        assert len(lab.leases) == 2
        assert not lab.losses
        # The house does not answer: the address stays while the lease lasts.
        lab.server.answers.clear()
        lab.task.verify()
        await trio.sleep(1000)
        assert not lab.losses
        lab.server.answers.update(GOOD)
        lab.task.house_present(True)
        await trio.sleep(0.1)
        assert len(lab.leases) == 3


async def test_a_refusal_after_a_reconnect_replaces_the_address(autojump_clock):
    async with client(GOOD) as lab:
        lab.server.answers = {REQUEST: [says(NAK)], DISCOVER: [says(OFFER, address="192.168.77.101")]}
        lab.task.verify()
        await trio.sleep(0.1)
        assert lab.losses == ["the house refused it"]
        lab.server.answers[REQUEST] = [says(ACK, address="192.168.77.101")]
        await trio.sleep(60)
        assert lab.leases[-1].address == "192.168.77.101"


async def test_a_server_that_refuses_its_own_offers_is_asked_more_and_more_slowly(autojump_clock):
    async with client({DISCOVER: [says(OFFER)], REQUEST: [says(NAK)]}) as lab:
        await trio.sleep(100)
        assert 5 <= len(lab.server.of(DISCOVER)) <= 12
        assert not lab.leases
        assert not lab.losses  # there was nothing to lose


async def test_an_offer_without_acknowledgement_is_given_up(autojump_clock):
    async with client({DISCOVER: [says(OFFER)]}) as lab:
        await trio.sleep(7.5)
        assert len(lab.server.of(DISCOVER)) == 1
        assert len(lab.server.of(REQUEST)) >= 3
        await trio.sleep(1)
        assert len(lab.server.of(DISCOVER)) == 2


async def test_bad_replies_are_dropped_counted_and_told_once(autojump_clock):
    bad = [
        says(OFFER, mask="0.0.0.0"),
        says(OFFER, address="127.0.0.1"),
        lambda xid: reply(OFFER, xid=xid ^ 0x1000),  # another transaction
        lambda _: reply(OFFER, xid=0xFFFFFFFF),  # pyroute2 fails an assertion for it
        says(OFFER, more=[(61, b"")]),  # pyroute2 raises IndexError for it; the offer itself is fine
    ]
    async with client({DISCOVER: bad, REQUEST: [says(ACK)]}) as lab:
        assert len(lab.leases) == 1
        assert lab.task.counters["refused"] == 2
        assert lab.names().count("dhcp-ignored") == 2


@pytest.mark.parametrize(
    "answer",
    [
        says(ACK, address="192.168.77.200"),
        says(ACK, server="192.168.77.66"),
        says(NAK, server="192.168.77.66"),
        says(ACK, mask="0.0.0.0"),
    ],
)
async def test_answers_that_do_not_fit_the_request_are_dropped(autojump_clock, answer):
    async with client({DISCOVER: [says(OFFER)], REQUEST: [answer]}) as lab:
        assert not lab.leases
        assert lab.task.counters["refused"] >= 1
        lab.server.push(reply(ACK, xid=lab.server.sent[-1].xid))
        await trio.lowlevel.checkpoint()
        await trio.sleep(0.01)
        assert len(lab.leases) == 1


async def test_a_renewal_cannot_move_the_client(autojump_clock):
    terms = {"seconds": 120}
    async with client({DISCOVER: [says(OFFER, **terms)], REQUEST: [says(ACK, **terms)]}) as lab:
        lab.server.answers[REQUEST] = [says(ACK, address="192.168.77.200", **terms)]
        await trio.sleep(100)
        assert {lease.address for lease in lab.leases} == {"192.168.77.100"}
        assert not lab.losses


async def test_a_lease_for_ever_is_never_renewed(autojump_clock):
    terms = {"seconds": 0xFFFFFFFF}
    async with client({DISCOVER: [says(OFFER, **terms)], REQUEST: [says(ACK, **terms)]}) as lab:
        await trio.sleep(80_000)
        assert len(lab.server.sent) == 2


async def test_link_down_ends_the_run_and_the_next_one_keeps_the_lease(autojump_clock):
    server = Server(dict(GOOD))
    leases, losses = [], []
    with captured() as events:
        async with trio_asyncio.open_loop() as loop:
            task = DhcpTask(
                Netlink(loop, None),
                "lp0",
                MAC,
                on_lease=leases.append,
                on_lost=losses.append,
                make_socket=server.socket,
            )
            server.counters = task.counters

            async def break_later():
                await trio.sleep(5)
                server.break_link()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(break_later)
                with pytest.raises(DhcpLinkDownError, match="lp0"):
                    await task.run()
            assert [sent.kind for sent in server.sent] == [DISCOVER, REQUEST]  # no release
            with pytest.raises(DhcpLinkDownError, match="Network is down"):
                await task.run()  # still down
            server.broken = None
            with trio.move_on_after(5):
                await task.run()
    assert [sent.kind for sent in server.sent] == [DISCOVER, REQUEST, REQUEST, RELEASE]
    assert server.sent[2].ciaddr == "192.168.77.100"
    assert len(leases) == 2
    assert not losses
    assert [entry["event"] for entry in events].count("client.dhcp-discover") == 1


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), OSError(errno.EIO, "I/O error")])
async def test_a_failing_receiver_ends_the_run(autojump_clock, error):
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with client(GOOD) as lab:
            lab.server.inbox.put_nowait(error)
            await trio.sleep(1)
    assert caught.group_contains((RuntimeError, DhcpLinkDownError))


async def test_a_failing_timer_ends_the_run(autojump_clock):
    """pyroute2 starts timers as tasks that nobody looks at."""
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with client({DISCOVER: [says(OFFER, seconds=60)], REQUEST: [says(ACK, seconds=60)]}) as lab:
            lab.task._client._renew = None  # the timer has it already; what it calls is broken
            lab.task._client.transition = None
            await trio.sleep(59)
    assert caught.group_contains(TypeError)


async def test_a_full_queue_of_the_adapter_is_a_lost_frame(autojump_clock):
    async with client(GOOD) as lab:
        lab.server.broken = OSError(errno.ENOBUFS, "No buffer space available")
        lab.task.verify()
        await trio.sleep(10)
        lab.server.broken = None
        await trio.sleep(30)
        assert len(lab.leases) == 2


async def test_no_permission_is_a_sentence(autojump_clock):
    server = Server(broken=PermissionError(errno.EPERM, "Operation not permitted"))
    async with trio_asyncio.open_loop() as loop:
        task = DhcpTask(Netlink(loop, None), "lp0", MAC, on_lease=print, on_lost=print, make_socket=server.socket)
        with pytest.raises(MachineError, match="CAP_NET_RAW"):
            await task.run()


async def test_release_does_not_wait_for_anything(autojump_clock):
    async with client(GOOD) as lab:
        lab.server.broken = OSError(errno.ENETDOWN, "Network is down")
        before = trio.current_time()
    assert trio.current_time() - before < 2.5
    assert "dhcp-released" not in lab.names()


@given(st.binary(max_size=350))
def test_no_frame_raises(data):
    counters = Counter()
    message_untrusted(data, MAC, counters, lambda _: None)
    assert counters["foreign"] + counters["malformed"] <= 1


def test_frames_of_every_xid_and_option():
    counters = Counter()
    for xid in (0, 1, 0xF, 0xFFFFFFFE, 0xFFFFFFFF):
        for code in range(1, 255):
            message_untrusted(
                reply(OFFER, xid=xid, more=[(code, b""), (code, packed("1.2.3.4"))]), MAC, counters, print
            )
