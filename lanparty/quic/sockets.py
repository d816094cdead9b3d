"""UDP sockets of an endpoint: read and written in batches, answered from the address that was asked, network errors
survived.

Owns: socket options, the local address of each packet (IP_PKTINFO on wildcard addresses, Linux), which errno means
what, and batches in one system call where the kernel has them. Must not know: QUIC, trio.

Two ways of reading and of writing; both give and take the same lists of packets, and either can be switched off
(``gso``, ``gro`` of ``obs.switches``):

1. Linux: UDP_SEGMENT sends a run of packets of one size, of which the last may be shorter, in one call that goes
   through the kernel's stack once; UDP_GRO reads such a run in one call.
2. Everywhere else, and where 1 is refused: one call per packet.

ICMP errors come back as errors of later calls on the socket, and a firewall or a full queue as an error of sending.
None of them ends an endpoint: they are counted under their errno name, and the packet is lost, which QUIC repairs.
(Windows reports an ICMP "port unreachable" as ECONNRESET: no reason to end it either. It is counted as ECONNREFUSED.)
When the send buffer is full, the rest of the batch is lost too. Nothing is kept for later: a queue here would be one
that congestion control does not see and cannot age; 1 MiB (see ``_SEND_BUFFER``) is in front of the network card
already, so this loss says what loss is meant to say.

Packets carry "don't fragment" and leave up to the interface's MTU whatever the kernel believes about the path
(IP_PMTUDISC_PROBE): path MTU discovery in QUIC (``pmtu``) is the judge, and an ICMP message that a stranger can forge
is not.

Microseconds per packet, sending and receiving together with loopback's part and the read that finds nothing (1.4),
packets of 1450 bytes in batches of 1, 4 and 40, connected sender, bound receiver, best of 40 on an AMD EPYC VM:

=====================  ====  ====  ====
segmented, joined       9.5   3.1   0.5
segmented, one by one   8.3   4.6   2.9
one by one, joined      9.5   6.6   5.9
one by one              8.3   5.9   5.1
=====================  ====  ====  ====

A joined read costs 0.6 more than a plain one; the local address, where it is asked for, and the time of arrival 0.5
each.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from lanparty.obs.errors import MachineError
from lanparty.obs.switches import enabled
from lanparty.quic.connection import Received, SocketAddress, UdpPath
from lanparty.quic.settings import MAX_UDP_PAYLOAD, RECEIVE_SIZE, UDP_PAYLOAD

__all__ = ["UdpSocket", "bind_all", "connect", "cut_runs", "errno_name"]

_RECEIVE_BUFFER: Final = 2 * 1024 * 1024
"""Bytes; the kernel doubles it, and counts memory and not payload against that: 2304 bytes for a packet of 1450, 768
for one of 200, about 1.05 times the payload for a run that GRO has joined. So it holds 1820 full packets that came one
by one: all that 1 Gbit/s brings in 21 ms, while this process is away, and more than 2500 if joined. Not larger: in an
overload it is full, and then what waits in it is delay for everybody (40 ms at half a Gbit/s)."""

_SEND_BUFFER: Final = 1024 * 1024
"""Bytes: a batch to every member of a room without EAGAIN. Not more: what waits there is out of congestion control's
sight."""

_PORT_TRIES: Final = 16
"""How often another free port is tried when the first address's free port is taken on the second address."""

_FATAL: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EFAULT})
"""Errors that are this program's fault and would repeat for ever."""

_RUN_ERRORS: Final = frozenset({errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.EMSGSIZE})
"""What a segmented send can fail with where packets sent one by one would pass: EIO from devices that compute no
checksums (old kernels) and from IPsec; EMSGSIZE, EINVAL in kernels before 6.11, for segments above the interface's
MTU; EOPNOTSUPP from what only looks like Linux."""

_MAX_SEGMENTS: Final = 64
"""Packets of one segmented send (UDP_MAX_SEGMENTS of every kernel that has it)."""

_MAX_REFUSING_PATHS: Final = 64
"""Paths remembered as not for segmented sends; when there are more, no path of the socket is."""

# Missing from Python 3.11's socket module; the values are Linux's (include/uapi/linux/in.h, in6.h, udp.h;
# include/uapi/asm-generic/socket.h). Those that it has are enums: `flags & socket.MSG_TRUNC` costs as much as half a
# system call.
_PLATFORM: Final = sys.platform
_LINUX: Final = sys.platform == "linux"
_SOL_SOCKET: Final = socket.SOL_SOCKET
_SOL_IP: Final = 0
_SOL_IPV6: Final = 41
_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_IP_PKTINFO: Final = 8
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_SO_TIMESTAMPNS: Final = 35
_MSG_TRUNC: Final = 0x20
_ANCILLARY_SIZE: Final = 96
"""Bytes: the control messages of an in6_pktinfo (40, padded), of a segment size (24) and of a time (32)."""
_MOST_WAIT: Final = 0.5
"""Seconds. What is said to have waited longer was not: the machine's clock was set."""
_GRO_SIZE: Final = 65536
"""Bytes: more than any run that the kernel joins (its length must fit 16 bits), so none is ever cut off."""

_DONT_FRAGMENT: Final = {
    "linux": ((10, 23, 3),),  # IP_MTU_DISCOVER, IPV6_MTU_DISCOVER: IP_PMTUDISC_PROBE
    # IP_DONTFRAGMENT, IPV6_DONTFRAG; IP_MTU_DISCOVER, IPV6_MTU_DISCOVER: IP_PMTUDISC_PROBE (ws2ipdef.h)
    "win32": ((14, 14, 1), (71, 71, 3)),
    "darwin": ((28, 62, 1),),  # IP_DONTFRAG, IPV6_DONTFRAG
}
"""By platform: option for IPv4, option for IPv6, value. The first one is needed, a second one wanted. On Windows the
first one sets the flag but believes ICMP about the path's MTU; the second one, of later versions, does not."""

_PATH_MTU: Final = {
    "linux": (14, 24),  # IP_MTU, IPV6_MTU
    "win32": (73, 72),  # the same (ws2ipdef.h)
}
"""By platform: option that tells the MTU of a connected socket's path, for IPv4 and for IPv6."""


class UdpSocket:
    """One non-blocking UDP socket."""

    def __init__(
        self, sock: socket.socket, index: int, errors: Counter[str], *, peer: SocketAddress | None = None
    ) -> None:
        self.sock = sock
        self.failed = False
        """Whether the last ``receive_batch`` met an error: an ICMP answer, or the network is gone."""
        self.drained = True
        """Whether the last ``receive_batch`` read all that was there."""
        self._errors = errors
        self._index = index
        self._peer = UdpPath(peer, b"", index) if peer is not None else None
        self._ancillary: dict[bytes, list[tuple[int, int, bytes]]] = {}
        self._unsegmented: set[UdpPath] = set()
        sock.setblocking(False)
        self._size_buffers()
        self._df = self._set_dont_fragment()
        self._gso = _LINUX and enabled("gso") and self._has_option(_UDP_SEGMENT, 0)
        self._most_bytes = 65527 if sock.family == socket.AF_INET6 else 65507
        gro = _LINUX and enabled("gro") and self._has_option(_UDP_GRO, 1)
        self._buffer = bytearray(_GRO_SIZE if gro else 0)
        self._view = memoryview(self._buffer)
        self._buffers = [self._buffer]
        host = sock.getsockname()[0]
        self._wildcard = _LINUX and peer is None and ipaddress.ip_address(host.partition("%")[0]).is_unspecified
        if self._wildcard:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(_SOL_IPV6, _IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(_SOL_IP, _IP_PKTINFO, 1)
        self._stamp = b""
        """When the last packet read came: a timespec, where the kernel tells."""
        if gro or self._wildcard:  # the others read without control messages, which the time comes in
            self._has_option(_SO_TIMESTAMPNS, 1, _SOL_SOCKET)
        self._read = self._read_connected if self._peer else self._read_bound
        if sys.platform != "win32":
            self._read = self._read_run if gro else self._read_wildcard if self._wildcard else self._read

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive_batch(self, limit: int) -> list[Received]:
        """Return packets that have come, empty when there are none; packets of one path are together.

        With the time that the last of them waited to be read, where the system tells.

        Stops at ``limit`` packets, or at most 63 above it where the kernel joins them; ``drained`` tells whether all
        that was there has been read.
        """
        found: dict[UdpPath, list[bytes]] = {}
        stamps: dict[UdpPath, bytes] = {}
        last: UdpPath | None = None
        run: list[bytes] = []
        count = 0
        self.failed = self.drained = False
        read = self._read
        for _ in range(limit):
            try:
                path, packets = read()
            except BlockingIOError:
                self.drained = True
                break
            except OSError as error:
                if _PLATFORM == "win32" and error.errno == errno.EMSGSIZE:
                    self._errors["truncated"] += 1  # Windows' word for a packet longer than the buffer
                    continue
                self._survive(error)
                self.failed = True
                continue
            if path is not last:
                last = path
                run = found.setdefault(path, [])
            run += packets
            stamps[path] = self._stamp
            count += len(packets)
            if count >= limit:
                break
        clock = time.time()
        return [Received(path, packets, _waited(stamps[path], clock)) for path, packets in found.items() if packets]

    if sys.platform != "win32":  # which has no messages beside the packet

        def _read_run(self) -> tuple[UdpPath, Sequence[bytes]]:
            """Read one packet, or a run of packets of one size, the last of which may be shorter."""
            length, ancillary, flags, remote = self.sock.recvmsg_into(self._buffers, _ANCILLARY_SIZE)
            size, local = length, b""
            for level, kind, value in ancillary:
                if level == _SOL_UDP and kind == _UDP_GRO:
                    size = int.from_bytes(value[:4], sys.byteorder)
                elif level == _SOL_SOCKET:
                    self._stamp = value  # the one kind that we have asked for
                else:
                    local = _local_address(level, kind, value)
            path = self._peer or UdpPath(remote, local, self._index)
            if size >= RECEIVE_SIZE or flags & _MSG_TRUNC:
                self._errors["truncated"] += max(1, length // max(size, 1))
                return path, ()
            if length == size:
                return path, (self._view[:length].tobytes(),)
            whole, rest = divmod(length, size)
            # One C loop that makes each packet's bytes once: 3 times as fast as slicing a view. struct keeps the
            # formats.
            return path, struct.unpack_from(f"{size}s" * whole + (f"{rest}s" if rest else ""), self._buffer)

    def _read_connected(self) -> tuple[UdpPath, Sequence[bytes]]:
        data = self.sock.recv(RECEIVE_SIZE)
        assert self._peer is not None
        return self._peer, self._not_cut(data)

    def _read_bound(self) -> tuple[UdpPath, Sequence[bytes]]:
        data, remote = self.sock.recvfrom(RECEIVE_SIZE)
        return UdpPath(remote, b"", self._index), self._not_cut(data)

    if sys.platform != "win32":  # which has no messages beside the packet

        def _read_wildcard(self) -> tuple[UdpPath, Sequence[bytes]]:
            data, ancillary, _flags, remote = self.sock.recvmsg(RECEIVE_SIZE, _ANCILLARY_SIZE)
            local = b""
            for level, kind, value in ancillary:
                if level == _SOL_SOCKET:
                    self._stamp = value
                else:
                    local = _local_address(level, kind, value)
            return UdpPath(remote, local, self._index), self._not_cut(data)

    def _not_cut(self, data: bytes) -> Sequence[bytes]:
        """Return the packet; none, but counted, if it fills the buffer: it was cut, or nearly. No peer of ours sends
        such packets."""
        if len(data) < RECEIVE_SIZE:
            return (data,)
        self._errors["truncated"] += 1
        return ()

    # -- sending -----------------------------------------------------------------------------------------------------

    def send_batch(self, path: UdpPath, packets: Sequence[bytes]) -> None:
        """Send packets along ``path``, in order. What the system refuses is lost; errno names count refusals.

        When the send buffer is full that is all that is left of the batch: EAGAIN counts packets.
        """
        if sys.platform == "win32":
            done = self._send_each(path, packets)
        else:
            segmented = self._gso and len(packets) > 1 and not (self._unsegmented and path in self._unsegmented)
            done = self._send_runs(path, packets) if segmented else self._send_each(path, packets)
        if done < len(packets):
            self._errors["EAGAIN"] += len(packets) - done

    if sys.platform != "win32":  # which has no messages beside the packet

        def _send_runs(self, path: UdpPath, packets: Sequence[bytes]) -> int:
            """Send, and return how many packets were sent or refused before the send buffer was full."""
            lengths = list(map(len, packets))
            for start, stop in cut_runs(lengths, self._most_bytes):
                run = packets[start:stop] if stop - start < len(packets) else packets
                done = self._send_run(path, run, lengths[start]) if len(run) > 1 else self._send_each(path, run)
                if done < len(run):
                    return start + done
            return len(packets)

        def _send_run(self, path: UdpPath, run: Sequence[bytes], size: int) -> int:
            """Send packets of ``size`` bytes in one call; return as above."""
            ancillary = [(_SOL_UDP, _UDP_SEGMENT, size.to_bytes(2, sys.byteorder))]
            if path.local:
                ancillary += self._ancillary_for(path)
            try:
                self.sock.sendmsg(run, ancillary, 0, path.remote if self._peer is None else None)
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno in _RUN_ERRORS:
                    return self._send_refused(path, run, error)
                self._survive(error)
            return len(run)

        def _send_refused(self, path: UdpPath, run: Sequence[bytes], error: OSError) -> int:
            """Send one by one what was refused as a run. If that works segments are at fault: remembered, and counted.

            Not after EMSGSIZE. That says something about this moment: an ICMP answer that waited on the socket, or
            packets above the interface's MTU, which pass one by one no more than together.
            """
            errors = self._errors.total()
            done = self._send_each(path, run)
            if self._errors.total() == errors and done == len(run) and error.errno != errno.EMSGSIZE:
                self._errors["unsegmented"] += 1
                self._unsegmented.add(path)
                self._gso = len(self._unsegmented) <= _MAX_REFUSING_PATHS
            return done

    def _send_each(self, path: UdpPath, packets: Sequence[bytes]) -> int:
        """Send, and return how many packets were sent or refused before the send buffer was full."""
        for index, packet in enumerate(packets):
            try:
                try:
                    self._send(path, packet)
                except OSError as error:
                    if self._peer is None or error.errno != errno.EMSGSIZE:
                        raise
                    # A connected socket reports an ICMP "packet too big" in place of sending what comes next.
                    self._send(path, packet)
            except BlockingIOError:
                return index
            except OSError as error:
                self._survive(error)
        return len(packets)

    def _send(self, path: UdpPath, packet: bytes) -> None:
        if self._peer is not None:
            self.sock.send(packet)
        elif sys.platform != "win32" and path.local:
            self.sock.sendmsg((packet,), self._ancillary_for(path), 0, path.remote)
        else:
            self.sock.sendto(packet, path.remote)

    def _ancillary_for(self, path: UdpPath) -> list[tuple[int, int, bytes]]:
        """Return the control message that makes a packet leave from ``path.local``."""
        found = self._ancillary.get(path.local)
        if found is None:
            local = path.local
            if len(local) == 4:
                found = [(_SOL_IP, _IP_PKTINFO, struct.pack("=i4s4x", 0, local))]
            else:
                found = [(_SOL_IPV6, _IPV6_PKTINFO, local.ljust(20, b"\0"))]
            if len(self._ancillary) >= 256:  # addresses of this machine; never so many, but strangers choose among them
                self._ancillary.clear()
            self._ancillary[local] = found
        return found

    def _survive(self, error: OSError) -> None:
        """Count ``error``; raise it again only when it is this program's fault."""
        if error.errno in _FATAL:
            raise error
        self._errors[errno_name(error)] += 1

    # -- what the machine says ---------------------------------------------------------------------------------------

    def local_address(self, path: UdpPath) -> tuple[str, int]:
        """Return our address and port on ``path``."""
        host, port = self.sock.getsockname()[:2]
        if path.local:
            host = str(ipaddress.ip_address(path.local[:16] if len(path.local) > 4 else path.local))
        return host, port

    def max_payload(self, path: UdpPath) -> int:
        """Return the bytes of UDP payload that are worth trying on ``path``, for path MTU discovery.

        Between ``UDP_PAYLOAD`` and ``MAX_UDP_PAYLOAD``: the MTU of the interface that the route uses, or what the
        kernel has learned about the path, less the headers. That ICMP message may be forged; it can cost size, never
        packets. Where the kernel does not say, the interface is taken for an Ethernet. Costs some 15 us: once per path.
        """
        if not self._df:
            return UDP_PAYLOAD  # larger packets might arrive in fragments and prove nothing
        headers = 48 if self.sock.family == socket.AF_INET6 else 28
        return max(UDP_PAYLOAD, min(self._route_mtu(path) - headers, MAX_UDP_PAYLOAD))

    def receive_drops(self) -> int:
        """Return how many packets, joined ones as one, the kernel dropped because the receive buffer was full."""
        if not _LINUX:
            return 0
        drops: int = struct.unpack_from("=I", self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36), 32)[0]
        return drops

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def _route_mtu(self, path: UdpPath) -> int:
        options = _PATH_MTU.get(_PLATFORM)
        if options is None:
            return 1500
        option = (_SOL_IPV6, options[1]) if self.sock.family == socket.AF_INET6 else (_SOL_IP, options[0])
        try:
            if self._peer is not None:
                return self.sock.getsockopt(*option)
            with socket.socket(self.sock.family, socket.SOCK_DGRAM) as probe:  # only a connected socket has a route
                probe.connect(path.remote)
                return probe.getsockopt(*option)
        except OSError:
            return 1500

    def _size_buffers(self) -> None:
        buffers = (
            (socket.SO_RCVBUF, _SO_RCVBUFFORCE, _RECEIVE_BUFFER),
            (socket.SO_SNDBUF, _SO_SNDBUFFORCE, _SEND_BUFFER),
        )
        for option, force, size in buffers:
            try:
                try:
                    # With CAP_NET_ADMIN beyond net.core.rmem_max, by default 208 KiB: 180 packets.
                    self.sock.setsockopt(socket.SOL_SOCKET, force if _LINUX else option, size)
                except PermissionError:
                    self.sock.setsockopt(socket.SOL_SOCKET, option, size)
            except OSError:
                self._errors["socket_buffer"] += 1  # smaller buffers are slower, not wrong

    def _set_dont_fragment(self) -> bool:
        """Have packets arrive whole or not at all; return whether they do."""
        options = _DONT_FRAGMENT.get(_PLATFORM, ())
        six = self.sock.family == socket.AF_INET6
        done = [
            self._has_option(option6 if six else option4, value, _SOL_IPV6 if six else _SOL_IP)
            for option4, option6, value in options
        ]
        return bool(done) and done[0]

    def _has_option(self, option: int, value: int, level: int = _SOL_UDP) -> bool:
        """Set an option; return whether the kernel knows it."""
        try:
            self.sock.setsockopt(level, option, value)
        except OSError:
            return False
        return True


def cut_runs(lengths: Sequence[int], most_bytes: int) -> list[tuple[int, int]]:
    """Cut packets of these lengths, in order, into runs that one segmented send carries: ``(start, stop)`` each.

    A run has at most 64 packets and ``most_bytes`` bytes. All have one size, but the last may be shorter, not empty.
    """
    total = len(lengths)
    size = lengths[0] if lengths else 0
    same = lengths.count(size)
    one_size = same == total or (same == total - 1 and 0 < lengths[-1] < size)
    if one_size and 0 < total <= _MAX_SEGMENTS and 0 < size * total <= most_bytes:
        return [(0, total)]  # nearly always
    runs = []
    start = 0
    while start < total:
        size = lengths[start]
        end = min(start + max(1, min(_MAX_SEGMENTS, most_bytes // max(size, 1))), total) if size else start + 1
        stop = start + 1
        while stop < end and lengths[stop] == size:
            stop += 1
        if stop < end and 0 < lengths[stop] < size:
            stop += 1
        runs.append((start, stop))
        start = stop
    return runs


def _waited(stamp: bytes, clock: float) -> float:
    """Return how many seconds a packet lay in the socket, which came at ``stamp``; 0.0 where that is not known."""
    if len(stamp) < 16:
        return 0.0
    seconds, nanoseconds = struct.unpack_from("=qq", stamp)
    waited: float = clock - seconds - nanoseconds * 1e-9
    return waited if 0.0 < waited < _MOST_WAIT else 0.0


def _local_address(level: int, kind: int, value: bytes) -> bytes:
    """Return the address that a packet was sent to, packed, from its control message; empty when it is another one."""
    if level == _SOL_IP and kind == _IP_PKTINFO:
        return value[4:8]  # in_pktinfo: int interface, in_addr to answer from, in_addr in the header
    if level == _SOL_IPV6 and kind == _IPV6_PKTINFO:
        # in6_pktinfo: in6_addr, unsigned interface; link-local addresses mean something only with their interface
        return value[:20] if value[:2] == b"\xfe\x80" else value[:16]
    return b""


def errno_name(error: OSError) -> str:
    """Return the name of an error, as ``ECONNREFUSED``, the same on all systems."""
    name = errno.errorcode.get(error.errno or 0, "error").removeprefix("WSA")
    # Windows' word for an ICMP "port unreachable" that answered an earlier packet (recvfrom, winsock2.h).
    return "ECONNREFUSED" if name == "ECONNRESET" else name


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
