"""UDP sockets of an endpoint: read in batches, answered from the address that was asked, network errors survived.

Owns: socket options, the local address of each packet (IP_PKTINFO on wildcard addresses, Linux), errno values and
which of them mean what. Must not know: QUIC, trio.

ICMP errors come back as errors of later calls on the socket, and a firewall or a full queue as an error of
``sendto``. None of them ends an endpoint: they are counted under their errno name, and the packet is lost, which QUIC
repairs.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

from lanparty.obs.errors import MachineError
from lanparty.quic.connection import SocketAddress, UdpPath
from lanparty.quic.settings import RECEIVE_SIZE

__all__ = ["UdpSocket", "bind_all", "connect", "errno_name"]

_RECEIVE_BUFFER: Final = 4 * 1024 * 1024
"""Bytes; the kernel cuts it to net.core.rmem_max. Holds about 1800 full packets (2304 bytes each with their
bookkeeping), what 17 MByte/s brings in while another task runs for 100 ms."""

_SEND_BUFFER: Final = 1024 * 1024
"""Bytes: a batch to every member of a room without EAGAIN. Not more: what waits there is out of congestion control's
sight."""

_PORT_TRIES: Final = 16
"""How often another free port is tried when the first address's free port is taken on the second address."""

_FATAL: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EFAULT})
"""Errors that are this program's fault and would repeat for ever."""

# Missing from Python 3.11's socket module; the values are Linux's (include/uapi/linux/in.h).
_LINUX: Final = sys.platform == "linux"
_IP_PKTINFO: Final = 8
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_ANCILLARY_SIZE: Final = 64
"""Bytes: one control message header and an in6_pktinfo."""


class UdpSocket:
    """One non-blocking UDP socket."""

    def __init__(
        self, sock: socket.socket, index: int, errors: Counter[str], *, peer: SocketAddress | None = None
    ) -> None:
        self.sock = sock
        self._errors = errors
        self._index = index
        self._peer = UdpPath(peer, b"", index) if peer is not None else None
        self._ancillary: dict[bytes, list[tuple[int, int, bytes]]] = {}
        sock.setblocking(False)
        for option, size in ((socket.SO_RCVBUF, _RECEIVE_BUFFER), (socket.SO_SNDBUF, _SEND_BUFFER)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, size)
            except OSError:
                errors["socket_buffer"] += 1  # smaller buffers are slower, not wrong
        host = sock.getsockname()[0]
        self._wildcard = _LINUX and peer is None and ipaddress.ip_address(host.partition("%")[0]).is_unspecified
        if self._wildcard:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def receive_batch(self, limit: int) -> list[tuple[bytes, UdpPath]]:
        """Return up to ``limit`` packets that have come; empty when there are none."""
        packets: list[tuple[bytes, UdpPath]] = []
        read = self._read_wildcard if self._wildcard else self._read_connected if self._peer else self._read_bound
        for _ in range(limit):
            try:
                packet = read()
            except BlockingIOError:
                break
            except OSError as error:
                self._survive(error)
                continue
            if packet is None:
                self._errors["truncated"] += 1
            else:
                packets.append(packet)
        return packets

    def send(self, packet: bytes, path: UdpPath) -> None:
        """Send one packet along ``path``; what the system refuses is counted and lost."""
        try:
            if self._peer is not None:
                self.sock.send(packet)
            elif path.local:
                self.sock.sendmsg([packet], self._ancillary_for(path), 0, path.remote)
            else:
                self.sock.sendto(packet, path.remote)
        except OSError as error:
            self._survive(error)

    def local_address(self, path: UdpPath) -> tuple[str, int]:
        """Return our address and port on ``path``."""
        host, port = self.sock.getsockname()[:2]
        if path.local:
            host = str(ipaddress.ip_address(path.local[:16] if len(path.local) > 4 else path.local))
        return host, port

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def _read_connected(self) -> tuple[bytes, UdpPath] | None:
        data = self.sock.recv(RECEIVE_SIZE)
        assert self._peer is not None
        # A packet that fills the buffer was cut, or nearly: no peer of ours sends any of that size.
        return (data, self._peer) if len(data) < RECEIVE_SIZE else None

    def _read_bound(self) -> tuple[bytes, UdpPath] | None:
        data, remote = self.sock.recvfrom(RECEIVE_SIZE)
        return (data, UdpPath(remote, b"", self._index)) if len(data) < RECEIVE_SIZE else None

    def _read_wildcard(self) -> tuple[bytes, UdpPath] | None:
        data, ancillary, _flags, remote = self.sock.recvmsg(RECEIVE_SIZE, _ANCILLARY_SIZE)
        local = b""
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                local = value[4:8]  # in_pktinfo: int interface, in_addr to answer from, in_addr in the header
            elif level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
                local = value[:16]  # in6_pktinfo: in6_addr, unsigned interface
                if local[:2] == b"\xfe\x80":  # link-local addresses mean something only with their interface
                    local = value[:20]
        return (data, UdpPath(remote, local, self._index)) if len(data) < RECEIVE_SIZE else None

    def _ancillary_for(self, path: UdpPath) -> list[tuple[int, int, bytes]]:
        """Return the control message that makes a packet leave from ``path.local``."""
        found = self._ancillary.get(path.local)
        if found is None:
            local = path.local
            if len(local) == 4:
                found = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4x", 0, local))]
            else:
                found = [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, local.ljust(20, b"\0"))]
            if len(self._ancillary) >= 256:  # addresses of this machine; never so many, but strangers choose among them
                self._ancillary.clear()
            self._ancillary[local] = found
        return found

    def _survive(self, error: OSError) -> None:
        """Count ``error``; raise it again only when it is this program's fault."""
        if error.errno in _FATAL:
            raise error
        self._errors[errno_name(error)] += 1


def errno_name(error: OSError) -> str:
    """Return the name of an error, as ``ECONNREFUSED``."""
    return errno.errorcode.get(error.errno or 0, "error")


def bind_all(listen: Sequence[tuple[str, int]], errors: Counter[str]) -> list[UdpSocket]:
    """Bind a socket for each address, in order; port 0 means the same free port on all that ask for 0.

    ``[("0.0.0.0", p), ("::", p)]`` on a machine without IPv6 gives one socket. Raises ``MachineError`` with a sentence.
    """
    for attempt in range(_PORT_TRIES):
        bound: list[socket.socket] = []
        chosen = 0
        try:
            for host, port in listen:
                try:
                    sock = _bind(host, port or chosen)
                except OSError as error:
                    if _only_ipv6_is_missing(host, listen, error):
                        continue
                    if port == 0 and chosen and error.errno == errno.EADDRINUSE and attempt + 1 < _PORT_TRIES:
                        break  # taken on this address only: let the first address choose again
                    raise MachineError(_why_not_bound(host, port or chosen, error)) from error
                bound.append(sock)
                if port == 0:
                    chosen = sock.getsockname()[1]
            else:
                if not bound:
                    raise MachineError("No address to listen on.")
                sockets = [UdpSocket(sock, index, errors) for index, sock in enumerate(bound)]
                bound = []
                return sockets
        finally:
            for sock in bound:
                sock.close()
    raise AssertionError("the last attempt returns or raises")


def connect(
    address: tuple[str, int], errors: Counter[str], *, bind: tuple[str, int] | None = None, interface: str | None = None
) -> UdpSocket:
    """Return a socket connected to ``address`` (host numeric), so that it hears ICMP errors and only that peer.

    ``bind`` is the local address and port, ``interface`` the name of the network interface to use (Linux). Raises
    OSError.
    """
    family, target = _resolve_numeric(address)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_BINDTODEVICE", 25), interface.encode())
        if bind is not None:
            sock.bind(_resolve_numeric(bind)[1])
        sock.connect(target)
        return UdpSocket(sock, 0, errors, peer=target)
    except BaseException:
        sock.close()
        raise


def _bind(host: str, port: int) -> socket.socket:
    family, address = _resolve_numeric((host, port))
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _resolve_numeric(address: tuple[str, int]) -> tuple[socket.AddressFamily, SocketAddress]:
    """Return family and socket address of a numeric host, with its scope; raises ``socket.gaierror`` (an OSError)."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV | socket.AI_PASSIVE
    found = socket.getaddrinfo(address[0], address[1], type=socket.SOCK_DGRAM, flags=flags)
    family, _type, _protocol, _name, target = found[0]
    return family, target  # type: ignore[return-value]  # never the raw form: Python has IPv6


def _only_ipv6_is_missing(host: str, listen: Sequence[tuple[str, int]], error: OSError) -> bool:
    """Whether ``::`` failed only because this machine has no IPv6, and 0.0.0.0 is there to serve."""
    missing = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) or isinstance(error, socket.gaierror)
    return host == "::" and missing and any(other == "0.0.0.0" for other, _port in listen)  # noqa: S104


def _why_not_bound(host: str, port: int, error: OSError) -> str:
    where = f"UDP port {port} of {host}"
    if isinstance(error, socket.gaierror):
        return f"Cannot listen on {host}: it is not an IP address."
    if error.errno == errno.EADDRINUSE:
        return (
            f"Cannot listen on {where}: another program uses it. Stop that program, or choose another port (--listen)."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"Cannot listen on {where}: not permitted. Ports below 1024 need root or CAP_NET_BIND_SERVICE; or choose a "
            "higher port (--listen)."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"Cannot listen on {where}: this machine has no such address."
    return f"Cannot listen on {where}: {error.strerror or error}."
