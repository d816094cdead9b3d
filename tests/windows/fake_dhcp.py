"""Windows' DHCP client for one adapter, as it looks from outside: frames, an address, and when its calls return.

Sans-I/O: the owner calls `media`, `renew`, `release`, `receive` and `tick` with ``now``, takes `frames`, and looks at
``bound``, ``automatic`` and ``finished``. What is kept to (Microsoft, "DHCP client", and RFC 2131):

- It asks when the cable is plugged in: for what it had before (INIT-REBOOT), else for anything.
- It asks again after 4, 8, 16 and 32 s, and then every 5 minutes; after 6 s without an answer it makes up an address.
- It believes the first offer, whatever that says.
- A renewal is a unicast to the server that gave the lease; without an answer the lease stays until it ends.
"""

import ipaddress
import math
import struct

import attrs
from fake_packets import BROADCAST, packed, udp

from lanparty.link.dhcp_reply import ReplyKind, parse_reply_untrusted

DISCOVER, REQUEST, RELEASE = 1, 3, 7
WAITS = (4.0, 8.0, 16.0, 32.0)
SLOW = 300.0
AUTOMATIC_AFTER = 6.0
NO_ERROR = 0
ERROR_SEM_TIMEOUT = 121
ERROR_ADDRESS_NOT_ASSOCIATED = 1228


@attrs.frozen
class Bound:
    """What Windows has put on the adapter."""

    address: str
    prefix: int
    server: str
    server_mac: bytes
    router: str | None
    name_servers: tuple[str, ...]
    seconds: int
    since: float
    routes: tuple[tuple[str, str], ...] = ()
    """Classless static routes (option 121): network and router."""


@attrs.define
class WindowsDhcp:
    """The client. ``state``: off, selecting, requesting, rebooting, bound, renewing, released."""

    mac: bytes
    state: str = "off"
    bound: Bound | None = None
    automatic: str | None = None
    before: str | None = None
    """What it had when the cable was pulled, and asks for again."""
    frames: list[bytes] = attrs.field(factory=list)
    finished: list[int] = attrs.field(factory=list)
    """Results of renewals that ended, oldest first."""
    asked: list[str] = attrs.field(factory=list)
    """DISCOVER, REQUEST and RELEASE, as sent."""
    _xid: int = 0x5EED0000
    _tries: int = 0
    _again: float = math.inf
    _automatic_at: float = math.inf
    _offer: object = None
    _waiting: int = 0
    _renew_at: float = math.inf

    @property
    def wake_at(self):
        times = [self._again, self._automatic_at]
        if self.bound is not None and self.state in ("bound", "renewing"):
            times.append(self.bound.since + self.bound.seconds)
            if self.state == "bound":
                times.append(self._renew_at)
        return min(times)

    def media(self, connected, now):
        if not connected:
            self.before = self.bound.address if self.bound is not None else self.before
            self.bound = self.automatic = None
            self._stop("off")
            self._finish(ERROR_SEM_TIMEOUT)
        elif self.before is not None:
            self._begin("rebooting", now)
        else:
            self._begin("selecting", now)

    def renew(self, now):
        """IpRenewAddress: its result comes into ``finished``."""
        self._waiting += 1
        if self.state == "off":
            self._finish(ERROR_SEM_TIMEOUT)
        elif self.bound is not None:
            self._begin("renewing", now)
        else:
            self._begin("selecting", now)

    def release(self, now):
        """IpReleaseAddress; gives its result."""
        bound = self.bound
        if bound is None:
            return ERROR_ADDRESS_NOT_ASSOCIATED
        self._xid += 1
        server = _option(54, packed(bound.server))
        self._send(RELEASE, server, client=bound.address, to=(bound.server_mac, bound.server))
        self.bound = self.before = None
        self._stop("released")
        return NO_ERROR

    def receive(self, frame, now):
        reply = parse_reply_untrusted(frame, self.mac)
        if reply is None or reply.xid != self._xid:
            return
        if reply.kind is ReplyKind.OFFER and self.state == "selecting":
            self._offer = reply
            self._begin("requesting", now, new=False)
        elif reply.kind is ReplyKind.ACK and self.state in ("requesting", "rebooting", "renewing"):
            self._bind(reply, now)
        elif reply.kind is ReplyKind.NAK and self.state in ("requesting", "rebooting", "renewing"):
            self.bound = self.before = None
            self._begin("selecting", now)

    def tick(self, now):
        if self.bound is not None and now >= self.bound.since + self.bound.seconds:
            self.bound = None
            self._begin("selecting", now)
        elif self.state == "bound" and now >= self._renew_at:
            # At half of the time and, without an answer, once more at seven eighths (RFC 2131 section 4.4.5).
            late = self.bound.since + self.bound.seconds * 7 / 8
            self._renew_at = late if now < late else math.inf
            self._begin("renewing", now)
        if now >= self._automatic_at:
            self._automatic_at = math.inf
            self.automatic = f"169.254.{self.mac[4]}.{self.mac[5] or 1}"
        if now >= self._again:
            self._retry(now)

    def _begin(self, state, now, *, new=True):
        self.state, self._tries = state, 0
        if new:
            self._xid += 1
        if state == "selecting" and self.automatic is None:
            self._automatic_at = now + AUTOMATIC_AFTER
        self._ask(now)

    def _retry(self, now):
        self._tries += 1
        if self._tries < len(WAITS):
            self._ask(now)
            return
        self._finish(ERROR_SEM_TIMEOUT)
        if self.state == "renewing":
            self._stop("bound")
        elif self.state == "rebooting":
            self._begin("selecting", now)
        else:
            self.state, self._offer = "selecting", None
            self._ask(now)

    def _ask(self, now):
        self._again = now + (WAITS[self._tries] if self._tries < len(WAITS) else SLOW)
        if self.state == "selecting":
            self._send(DISCOVER, b"")
        elif self.state == "requesting":
            self._send(REQUEST, _option(50, packed(self._offer.address)) + _option(54, packed(self._offer.server)))
        elif self.state == "rebooting":
            self._send(REQUEST, _option(50, packed(self.before)))
        else:
            bound = self.bound
            self._send(REQUEST, b"", client=bound.address, to=(bound.server_mac, bound.server))

    def _bind(self, reply, now):
        options = reply.options
        routers, servers = (_addresses(options.get(code, b"")) for code in (3, 6))
        self.bound = Bound(
            reply.address,
            f"{int.from_bytes(options.get(1, b''), 'big'):b}".count("1"),
            reply.server,
            reply.server_mac,
            next(iter(routers), None),
            tuple(servers),
            int.from_bytes(options.get(51, b""), "big"),
            now,
            tuple(_routes(options.get(121, b""))),
        )
        self._renew_at = now + self.bound.seconds / 2
        self.automatic = self.before = self._offer = None
        self._stop("bound")
        self._finish(NO_ERROR)

    def _stop(self, state):
        self.state = state
        self._again = self._automatic_at = math.inf

    def _finish(self, result):
        self.finished += [result] * self._waiting
        self._waiting = 0

    def _send(self, kind, options, *, client="0.0.0.0", to=(BROADCAST, "255.255.255.255")):
        head = struct.pack("!BBBBIHH", 1, 1, 6, 0, self._xid, 0, 0) + packed(client) + bytes(12)
        head += self.mac.ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63"
        tail = _option(53, bytes([kind])) + _option(61, b"\x01" + self.mac) + options
        tail += b"" if kind == RELEASE else _option(60, b"MSFT 5.0") + _option(55, bytes([1, 3, 6, 15]))
        payload = (head + tail + b"\xff").ljust(300, b"\0")
        self.frames.append(udp(to[0], self.mac, (client, 68), (to[1], 67), payload))
        self.asked.append({DISCOVER: "DISCOVER", REQUEST: "REQUEST", RELEASE: "RELEASE"}[kind])


def _option(code, value):
    return bytes([code, len(value)]) + value


def _addresses(data):
    return [str(ipaddress.IPv4Address(data[start : start + 4])) for start in range(0, len(data) - 3, 4)]


def _routes(data):
    """RFC 3442: prefix length, as many bytes of the network as it needs, router."""
    while data:
        prefix, size = data[0], (data[0] + 7) // 8
        network = ipaddress.IPv4Address(data[1 : 1 + size].ljust(4, b"\0"))
        yield f"{network}/{prefix}", str(ipaddress.IPv4Address(data[1 + size : 5 + size]))
        data = data[5 + size :]
