from __future__ import annotations

import errno
import socket
from collections import Counter

import pytest

from lanparty.quic.connection import UdpPath
from lanparty.quic.settings import RECEIVE_SIZE
from lanparty.quic.sockets import UdpSocket, bind_all, connect


@pytest.fixture
def errors():
    return Counter()


@pytest.fixture
def server(errors):
    (udp,) = bind_all([("127.0.0.1", 0)], errors)
    yield udp
    udp.close()


def test_batches_are_bounded_and_empty_when_nothing_came(server, errors):
    assert server.receive_batch(64) == []
    client = connect(server.sock.getsockname(), errors)
    for number in range(10):
        client.send(bytes([number]), UdpPath(server.sock.getsockname()))
    assert [packet for packet, _path in server.receive_batch(4)] == [b"\0", b"\1", b"\2", b"\3"]
    assert len(server.receive_batch(64)) == 6
    client.close()
    assert not errors


def test_packets_longer_than_the_buffer_are_dropped_and_counted(server, errors):
    client = connect(server.sock.getsockname(), errors)
    client.send(bytes(RECEIVE_SIZE + 1), UdpPath(server.sock.getsockname()))
    client.send(b"x", UdpPath(server.sock.getsockname()))
    assert [packet for packet, _path in server.receive_batch(64)] == [b"x"]
    assert errors["truncated"] == 1
    client.close()


def test_wildcard_sockets_know_the_address_that_was_asked(errors):
    (udp,) = bind_all([("0.0.0.0", 0)], errors)
    port = udp.sock.getsockname()[1]
    client = connect(("127.0.0.5", port), errors)
    client.send(b"x", UdpPath(("127.0.0.5", port)))
    ((packet, path),) = udp.receive_batch(64)
    assert (packet, path.local) == (b"x", bytes([127, 0, 0, 5]))
    assert udp.local_address(path) == ("127.0.0.5", port)
    udp.send(b"y", path)
    assert client.receive_batch(64)[0][0] == b"y"
    client.close()
    udp.close()


def test_icmp_errors_are_survived_and_counted(errors):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        gone = sock.getsockname()
    client = connect(gone, errors)
    path = UdpPath(gone)
    client.send(b"x", path)
    assert client.receive_batch(64) == []
    client.send(b"x", path)
    assert errors["ECONNREFUSED"] >= 1
    client.close()


class BrokenSocket:
    """A socket whose calls fail as a network can make them fail."""

    def __init__(self, number: int) -> None:
        self.error = OSError(number, "broken")

    family = socket.AF_INET

    def setblocking(self, _flag): ...
    def setsockopt(self, *_args): ...

    def getsockname(self):
        return ("127.0.0.1", 1)

    def sendto(self, *_args):
        raise self.error

    recvfrom = sendto


@pytest.mark.parametrize(
    "name",
    [
        "ECONNREFUSED",
        "ENETUNREACH",
        "EHOSTUNREACH",
        "EMSGSIZE",
        "ENOBUFS",
        "EPERM",
        "ENETDOWN",
        "EADDRNOTAVAIL",
        "EINVAL",
    ],
)
def test_network_errors_are_survived_and_counted(name, errors):
    udp = UdpSocket(BrokenSocket(getattr(errno, name)), 0, errors)
    udp.send(b"x", UdpPath(("192.0.2.1", 1)))
    assert errors[name] == 1
    assert udp.receive_batch(3) == []
    assert errors[name] == 4


def test_would_block_is_counted_when_sending_and_normal_when_reading(errors):
    udp = UdpSocket(BrokenSocket(errno.EAGAIN), 0, errors)
    udp.sock.error = BlockingIOError(errno.EAGAIN, "full")
    udp.send(b"x", UdpPath(("192.0.2.1", 1)))
    assert udp.receive_batch(3) == []
    assert errors == {"EAGAIN": 1}


def test_errors_that_are_our_own_fault_are_not_hidden(errors):
    udp = UdpSocket(BrokenSocket(errno.EBADF), 0, errors)
    with pytest.raises(OSError, match="broken"):
        udp.send(b"x", UdpPath(("192.0.2.1", 1)))


def test_receive_buffer_is_as_large_as_permitted(server):
    assert server.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 200_000
