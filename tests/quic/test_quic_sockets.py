from __future__ import annotations

import errno
import itertools
import socket
import struct
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.obs.switches import VARIABLE
from lanparty.quic.connection import UdpPath
from lanparty.quic.settings import MAX_UDP_PAYLOAD, RECEIVE_SIZE, UDP_PAYLOAD
from lanparty.quic.sockets import UdpSocket, _waited, bind_all, connect, cut_runs

WAYS = ["", "gso", "gro", "gso,gro"]
"""What is switched off. The last is how other systems than Linux do it."""


@pytest.fixture
def errors():
    return Counter()


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param


@pytest.fixture
def server(errors, way):
    (udp,) = bind_all([("127.0.0.1", 0)], errors)
    yield udp
    udp.close()


@pytest.fixture
def client(server, errors):
    udp = connect(server.sock.getsockname(), errors)
    yield udp
    udp.close()


def path_to(udp):
    return UdpPath(udp.sock.getsockname()[:2])


def receive(udp, limit=64):
    """One batch, as path and packets: how long they waited is another matter."""
    return [(received.path, received.packets) for received in udp.receive_batch(limit)]


def read(udp, limit=64):
    """All packets, in order, whatever the path."""
    packets = []
    while batch := receive(udp, limit):
        packets += [packet for _path, run in batch for packet in run]
    return packets


# -- receiving -------------------------------------------------------------------------------------------------------


def test_batches_are_bounded_and_empty_when_nothing_came(server, client, errors):
    assert server.receive_batch(64) == []
    assert server.drained
    for number in range(10):
        client.send_batch(path_to(server), [bytes([number])])
    ((path, packets),) = receive(server, 4)
    assert packets == [b"\0", b"\1", b"\2", b"\3"]
    assert path == path_to(client)
    assert not server.drained
    ((path, packets),) = receive(server, 64)
    assert len(packets) == 6
    assert server.drained
    assert not server.failed
    assert not errors


def test_a_batch_exceeds_its_limit_by_less_than_a_run(server, client):
    client.send_batch(path_to(server), [b"x" * 100] * 200)
    sizes = []
    while batch := receive(server, 4):
        sizes.append(len(batch[0][1]))
    assert sum(sizes) == 200
    assert max(sizes) <= 4 + 63


def test_packets_of_one_source_are_together_and_in_order(server, client, errors):
    other = connect(server.sock.getsockname(), errors)
    for number in range(6):
        client.send_batch(path_to(server), [bytes([number]) * 50])
        other.send_batch(path_to(server), [bytes([number, 99])])
    assert receive(server) == [
        (path_to(client), [bytes([number]) * 50 for number in range(6)]),
        (path_to(other), [bytes([number, 99]) for number in range(6)]),
    ]
    other.close()
    assert not errors


def test_packets_longer_than_any_peer_sends_are_dropped_and_counted(server, client, errors):
    client.send_batch(path_to(server), [bytes(RECEIVE_SIZE + 1)])
    client.send_batch(path_to(server), [b"x"])
    assert read(server) == [b"x"]
    assert errors == {"truncated": 1}


def test_runs_of_too_long_packets_are_dropped_and_counted(server, client, errors):
    client.send_batch(path_to(server), [bytes(RECEIVE_SIZE + 1)] * 3 + [b"x"])
    packets = read(server)
    assert all(len(packet) < RECEIVE_SIZE for packet in packets)
    assert errors["truncated"] >= 3
    assert errors.keys() == {"truncated"}


def test_empty_packets_pass(server, client, errors):
    client.send_batch(path_to(server), [b"", b"", b"a", b""])
    assert read(server) == [b"", b"", b"a", b""]
    assert not errors


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
def test_how_long_packets_waited_is_told_where_the_kernel_tells(listen, way, errors, monkeypatch):
    monkeypatch.setattr("lanparty.quic.sockets._MOST_WAIT", 3600.0)
    (udp,) = bind_all([(listen, 0)], errors)
    client = connect(("127.0.0.1", udp.sock.getsockname()[1]), errors)
    client.send_batch(path_to(udp), [b"x"])
    (first,) = udp.receive_batch(64)
    client.send_batch(path_to(udp), [b"early"])
    busy_until = time.monotonic() + 0.02
    while time.monotonic() < busy_until:
        pass
    (second,) = udp.receive_batch(64)
    tells = "gro" not in way or listen == "0.0.0.0"  # where control messages are read at all
    assert 0.0 <= first.waited < 3600.0
    assert second.waited == 0.0 or 0.02 <= second.waited < 3600.0
    assert (second.waited > 0.0) == tells
    client.close()
    udp.close()


@pytest.mark.parametrize(
    ("stamp", "clock", "waited"),
    [
        (b"", 100.0, 0.0),
        (b"\0" * 8, 100.0, 0.0),
        (struct.pack("=qq", 100, 250_000_000), 100.375, 0.125),
        (struct.pack("=qq", 101, 0), 100.0, 0.0),  # the clock was set back in between
        (struct.pack("=qq", 90, 0), 100.0, 0.0),  # or ahead
    ],
)
def test_waiting_times_are_believed_within_reason(stamp, clock, waited):
    assert _waited(stamp, clock) == pytest.approx(waited)


# -- a batch survives the way, whichever it is -----------------------------------------------------------------------

BATCHES = {
    "one": [1450],
    "equal": [1450] * 40,
    "last shorter": [1450] * 39 + [7],
    "more than 64": [100] * 200,
    "more than 64 KiB": [1472] * 64,
    "largest": [MAX_UDP_PAYLOAD] * 60,
    "growing": list(range(1, 60)),
    "falling": list(range(60, 0, -1)),
    "mixed": [1472, 1472, 40, 1472, 1472, 1472, 1473, 1200, 1200, 3, 3],
    "short in the middle": [10, 5, 10],
}


@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_batches_arrive_as_they_were_sent(listen, lengths, way, errors):
    (udp,) = bind_all([(listen, 0)], errors)
    home = "::1" if ":" in listen else "127.0.0.1"
    client = connect((home, udp.sock.getsockname()[1]), errors)
    packets = [(number % 251).to_bytes(1, "big") * length for number, length in enumerate(lengths)]
    client.send_batch(UdpPath(udp.sock.getsockname()), packets)
    batch = receive(udp, 1000)
    assert [packet for _path, run in batch for packet in run] == packets
    ((path, _run),) = batch
    udp.send_batch(path, packets)  # from a wildcard socket: with the local address, too
    assert read(client) == packets
    assert not errors
    client.close()
    udp.close()


def test_wildcard_sockets_know_the_address_that_was_asked(way, errors):
    (udp,) = bind_all([("0.0.0.0", 0)], errors)
    port = udp.sock.getsockname()[1]
    client = connect(("127.0.0.5", port), errors)
    client.send_batch(UdpPath(("127.0.0.5", port)), [b"x"] * 3)
    ((path, packets),) = receive(udp, 64)
    assert (packets, path.local) == ([b"x"] * 3, bytes([127, 0, 0, 5]))
    assert udp.local_address(path) == ("127.0.0.5", port)
    udp.send_batch(path, [b"y"] * 3 + [b"z" * 2])  # the connected socket hears nobody but 127.0.0.5
    assert read(client) == [b"y"] * 3 + [b"z" * 2]
    client.close()
    udp.close()


def test_the_plain_path_uses_no_call_that_windows_lacks(monkeypatch, errors):
    monkeypatch.setenv(VARIABLE, "gso,gro")
    (server,) = bind_all([("127.0.0.1", 0)], errors)
    client = connect(server.sock.getsockname(), errors)
    for udp in (server, client):
        udp.sock = WithoutMessages(udp.sock)
    client.send_batch(path_to(server), [b"a", b"b"])
    ((path, packets),) = receive(server, 64)
    assert packets == [b"a", b"b"]
    server.send_batch(path, [b"c", b"d"])
    assert read(client) == [b"c", b"d"]
    for udp in (server, client):
        udp.sock.inner.close()


class WithoutMessages:
    """A socket without sendmsg and recvmsg."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        assert name in ("send", "sendto", "recv", "recvfrom", "getsockname"), name
        return getattr(self.inner, name)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([5, 5, 5], [(0, 3)]),
        ([5, 5, 3], [(0, 3)]),
        ([5, 3, 5], [(0, 2), (2, 3)]),
        ([3, 5, 5], [(0, 1), (1, 3)]),
        ([5, 3, 3], [(0, 2), (2, 3)]),
        ([5, 5, 0], [(0, 2), (2, 3)]),
        ([0, 0], [(0, 1), (1, 2)]),
        ([1] * 65, [(0, 64), (64, 65)]),
        ([2] * 63 + [1], [(0, 64)]),
        ([2] * 64 + [1], [(0, 64), (64, 65)]),
        ([1472] * 45, [(0, 44), (44, 45)]),
        ([65507, 65507], [(0, 1), (1, 2)]),
        ([70000, 70000], [(0, 1), (1, 2)]),
    ],
)
def test_runs(lengths, runs):
    assert cut_runs(lengths, 65507) == runs


@given(st.lists(st.one_of(st.integers(0, 4), st.integers(1400, 1500), st.just(1472)), max_size=300))
def test_runs_cover_everything_in_order_and_are_what_the_kernel_takes(lengths):
    runs = cut_runs(lengths, 65507)
    assert [index for start, stop in runs for index in range(start, stop)] == list(range(len(lengths)))
    for start, stop in runs:
        run = lengths[start:stop]
        assert 1 <= len(run) <= 64
        assert len(run) == 1 or (set(run[:-1]) == {run[0]} and 0 < run[-1] <= run[0])
        assert sum(run) <= 65507
    for (start, _stop), (after, end) in itertools.pairwise(runs):
        joined = lengths[start:end]
        mergeable = len(set(joined)) == 1 and joined[0] and len(joined) <= 64 and sum(joined) <= 65507
        assert not mergeable, (start, after, end)


# -- errors ----------------------------------------------------------------------------------------------------------


class FakeSocket:
    """A socket that notes what is sent and fails as a kernel or a network can; ``faults`` by call name."""

    family = socket.AF_INET

    def __init__(self, **faults):
        self.faults = faults
        self.sent = []
        self.options = {}
        self.calls = Counter()

    def setblocking(self, _flag): ...

    def setsockopt(self, level, option, value):
        if (level, option) in self.faults.get("options", ()):
            raise OSError(errno.ENOPROTOOPT, "unknown")
        self.options[level, option] = value

    def getsockopt(self, level, option):
        return self.faults["known"][level, option]

    def getsockname(self):
        return ("127.0.0.1", 1)

    def _call(self, name, packets):
        self.calls[name] += 1
        fault = self.faults.get(name)
        number = fault(packets) if callable(fault) else fault
        if number:
            raise BlockingIOError(number, "x") if number == errno.EAGAIN else OSError(number, "x")
        self.sent += packets

    def sendmsg(self, packets, _ancillary=(), _flags=0, _address=None):
        self._call("sendmsg", packets)

    def sendto(self, packet, _address):
        self._call("sendto", [packet])

    def send(self, packet):
        self._call("send", [packet])

    def recvfrom(self, _size):
        self._call("recv", [])

    def recvmsg_into(self, _buffers, _size):
        self._call("recv", [])


PATH = UdpPath(("192.0.2.1", 1))
RUN = [b"a" * 9, b"b" * 9, b"c" * 9]

NETWORK_ERRORS = [
    "ECONNREFUSED",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "EMSGSIZE",
    "ENOBUFS",
    "EPERM",
    "ENETDOWN",
    "EADDRNOTAVAIL",
    "EINVAL",
    "EIO",
]


@pytest.mark.parametrize("name", NETWORK_ERRORS)
def test_network_errors_are_survived_and_counted(name, way, errors):
    number = getattr(errno, name)
    udp = UdpSocket(FakeSocket(sendto=number, sendmsg=number, recv=number), 0, errors)
    udp.send_batch(PATH, [b"x"])
    assert errors == {name: 1}
    assert udp.receive_batch(3) == []
    assert udp.failed
    assert errors == {name: 4}
    udp.send_batch(PATH, RUN)
    assert errors.keys() == {name}
    assert 5 <= errors[name] <= 7


def test_icmp_errors_are_survived_and_counted(way, errors):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        gone = sock.getsockname()
    client = connect(gone, errors)
    client.send_batch(UdpPath(gone), [b"x"])
    assert client.receive_batch(64) == []
    assert client.failed
    client.send_batch(UdpPath(gone), [b"x"] * 3)
    assert errors["ECONNREFUSED"] >= 1
    assert errors.keys() == {"ECONNREFUSED"}
    client.close()


def test_errors_that_are_our_own_fault_are_not_hidden(way, errors):
    udp = UdpSocket(FakeSocket(sendto=errno.EBADF, sendmsg=errno.EBADF, recv=errno.EBADF), 0, errors)
    for call in (lambda: udp.send_batch(PATH, [b"x"]), lambda: udp.send_batch(PATH, RUN), lambda: udp.receive_batch(1)):
        with pytest.raises(OSError, match="x"):
            call()


def test_nothing_to_read_is_no_error(way, errors):
    udp = UdpSocket(FakeSocket(recv=errno.EAGAIN), 0, errors)
    assert udp.receive_batch(3) == []
    assert udp.drained
    assert not udp.failed
    assert not errors


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_full_send_buffer_loses_the_rest_of_the_batch_and_counts_its_packets(taken, way, errors):
    sock = FakeSocket(sendmsg=lambda _run: len(sock.sent) >= taken and errno.EAGAIN)
    sock.faults["sendto"] = sock.faults["sendmsg"]
    udp = UdpSocket(sock, 0, errors)
    packets = [b"1", b"22", b"333", b"4444"]  # four runs
    udp.send_batch(PATH, packets)
    assert sock.sent == packets[:taken]
    assert errors == {"EAGAIN": 4 - taken}
    assert sock.calls.total() == taken + 1


# -- segmented sends refused -----------------------------------------------------------------------------------------


def refusing(number):
    """A kernel that refuses segmented sends only."""
    return FakeSocket(sendmsg=lambda run: len(run) > 1 and number)


@pytest.mark.parametrize(
    ("name", "tries"), [("EIO", 1), ("EINVAL", 1), ("EOPNOTSUPP", 1), ("EMSGSIZE", 3)], ids=lambda value: str(value)
)
def test_what_is_refused_in_one_call_is_sent_one_by_one(name, tries, errors):
    """And remembered, but for EMSGSIZE."""
    sock = refusing(getattr(errno, name))
    udp = UdpSocket(sock, 0, errors)
    for _ in range(3):
        udp.send_batch(PATH, RUN)
    assert sock.sent == RUN * 3
    assert sock.calls["sendmsg"] == tries
    assert errors == ({} if name == "EMSGSIZE" else {"unsegmented": 1})


def test_a_refusal_is_about_one_path(errors):
    other = UdpPath(("192.0.2.2", 1))
    sock = refusing(errno.EIO)
    udp = UdpSocket(sock, 0, errors)
    udp.send_batch(PATH, RUN)
    sock.faults.clear()
    udp.send_batch(other, RUN)
    udp.send_batch(PATH, RUN)
    assert sock.sent == RUN * 3
    assert (sock.calls["sendmsg"], sock.calls["sendto"]) == (2, 6)


def test_refusals_on_many_paths_are_about_the_socket(errors):
    sock = refusing(errno.EIO)
    udp = UdpSocket(sock, 0, errors)
    for number in range(100):
        udp.send_batch(UdpPath(("192.0.2.1", number)), RUN)
    assert sock.sent == RUN * 100
    assert sock.calls["sendmsg"] == 65


def test_nothing_is_remembered_when_single_packets_fail_too(errors):
    sock = FakeSocket(sendmsg=errno.EINVAL, sendto=errno.EINVAL)
    udp = UdpSocket(sock, 0, errors)
    udp.send_batch(PATH, RUN)
    assert errors == {"EINVAL": 3}
    sock.faults.clear()
    udp.send_batch(PATH, RUN)
    assert sock.sent == RUN
    assert sock.calls["sendmsg"] == 2


def test_a_buffer_that_gets_full_while_sending_one_by_one(errors):
    sock = refusing(errno.EIO)
    sock.faults["sendto"] = lambda _packets: len(sock.sent) >= 2 and errno.EAGAIN
    udp = UdpSocket(sock, 0, errors)
    udp.send_batch(PATH, [*RUN, b"x" * 30, b"y"])
    assert sock.sent == RUN[:2]
    assert errors == {"EAGAIN": 3}


def test_a_kernel_without_segmentation_offload(errors):
    """It would ignore the control message and send one large packet, so it must be asked before."""
    sock = FakeSocket(options={(17, 103), (17, 104)})
    udp = UdpSocket(sock, 0, errors)
    udp.send_batch(PATH, RUN)
    assert sock.sent == RUN
    assert sock.calls == {"sendto": 3}


def test_an_icmp_answer_in_place_of_a_send_costs_no_packet(way, errors):
    """Connected sockets report "packet too big" once, to whichever call comes next."""
    waiting = [errno.EMSGSIZE]
    sock = FakeSocket(send=lambda _run: waiting.pop() if waiting else 0)
    sock.faults["sendmsg"] = sock.faults["send"]
    udp = UdpSocket(sock, 0, errors, peer=("192.0.2.1", 1))
    udp.send_batch(PATH, [b"x"])
    waiting.append(errno.EMSGSIZE)
    udp.send_batch(PATH, RUN)
    assert sock.sent == [b"x", *RUN]
    assert not errors


# -- what the machine says -------------------------------------------------------------------------------------------


def test_a_fresh_socket_has_room_to_receive_and_lost_nothing(server):
    assert server.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 200_000
    assert server.receive_drops() == 0


def test_what_the_receive_buffer_cannot_hold_is_known(server, client, way):
    server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.send_batch(path_to(server), [bytes(1400), bytes(1300), bytes(1200)] * 20)
    left = 60 - len(read(server))
    assert 0 < server.receive_drops() <= left
    assert "gso" not in way or server.receive_drops() == left


@pytest.mark.parametrize(("home", "listen"), [("127.0.0.1", "0.0.0.0"), ("::1", "::")])
def test_payloads_worth_trying_on_a_path_without_limit(home, listen, errors):
    (udp,) = bind_all([(listen, 0)], errors)
    client = connect((home, udp.sock.getsockname()[1]), errors)
    assert client.max_payload(UdpPath((home, 1))) == MAX_UDP_PAYLOAD
    assert udp.max_payload(UdpPath(client.sock.getsockname())) == MAX_UDP_PAYLOAD
    client.close()
    udp.close()


def test_payloads_worth_trying_where_packets_may_be_cut_or_nothing_is_known(errors, monkeypatch):
    cut = UdpSocket(FakeSocket(options={(0, 10)}), 0, errors)  # IP_MTU_DISCOVER refused
    assert cut.max_payload(PATH) == UDP_PAYLOAD
    monkeypatch.setattr("lanparty.quic.sockets._LINUX", False)
    monkeypatch.setattr("lanparty.quic.sockets._PLATFORM", "darwin")
    assert UdpSocket(FakeSocket(), 0, errors).max_payload(PATH) == 1472
    six = FakeSocket()
    six.family = socket.AF_INET6
    assert UdpSocket(six, 0, errors).max_payload(UdpPath(("2001:db8::1", 1))) == 1452


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr("lanparty.quic.sockets._LINUX", False)
    monkeypatch.setattr("lanparty.quic.sockets._PLATFORM", "win32")


@pytest.mark.parametrize(("family", "level"), [(socket.AF_INET, 0), (socket.AF_INET6, 41)])
def test_windows_is_asked_by_its_own_numbers(family, level, windows, errors):
    six = family == socket.AF_INET6
    sock = FakeSocket(known={(0, 73): 1480, (41, 72): 1480})  # IP_MTU, IPV6_MTU
    sock.family = family
    peer = ("2001:db8::1", 1) if six else ("192.0.2.1", 1)
    udp = UdpSocket(sock, 0, errors, peer=peer)
    assert (sock.options[level, 14], sock.options[level, 71]) == (1, 3)  # don't fragment, whatever ICMP says
    assert udp.max_payload(UdpPath(peer)) == 1480 - (48 if six else 28)
    assert {number for _level, number in sock.options} == {14, 71, socket.SO_RCVBUF, socket.SO_SNDBUF}
    udp.send_batch(UdpPath(peer), RUN)
    assert sock.calls == {"send": 3}
    assert udp.receive_drops() == 0


def test_windows_before_it_knew_of_probing(windows, errors):
    assert UdpSocket(FakeSocket(options={(0, 71)}), 0, errors).max_payload(PATH) > UDP_PAYLOAD
    assert UdpSocket(FakeSocket(options={(0, 14)}), 0, errors).max_payload(PATH) == UDP_PAYLOAD


def test_what_windows_says_of_other_things(windows, errors, monkeypatch):
    """An ICMP "port unreachable" is a connection that was reset; a packet longer than the buffer is an error."""
    monkeypatch.setitem(errno.errorcode, errno.ECONNRESET, "WSAECONNRESET")
    udp = UdpSocket(FakeSocket(recv=errno.ECONNRESET), 0, errors)
    assert udp.receive_batch(2) == []
    assert udp.failed
    assert errors == {"ECONNREFUSED": 2}
    errors.clear()
    udp = UdpSocket(FakeSocket(recv=errno.EMSGSIZE), 0, errors)
    assert udp.receive_batch(2) == []
    assert not udp.failed
    assert errors == {"truncated": 2}


def test_packets_are_not_to_be_cut_on_the_way(server, client):
    for udp in (server, client):
        assert udp.sock.getsockopt(socket.IPPROTO_IP, 10) == 3  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
