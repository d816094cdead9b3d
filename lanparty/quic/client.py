"""One connection to a relay: its UDP socket, timers, and what can go wrong on the way, as sentences.

Owns: the sentences. Must not know: rooms, sessions, whether anybody tries again.
"""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import trio

from lanparty.obs.errors import ConnectionFailedError, LanpartyError, MachineError, UntrustedError
from lanparty.quic.connection import Closed, Connection, ConnectionLost, Received, UdpPath
from lanparty.quic.driver import Driver
from lanparty.quic.engine import Engine
from lanparty.quic.internals import CRYPTO_ERROR, Quic, QuicErrorCode, client_configuration
from lanparty.quic.settings import HANDSHAKE_TIMEOUT
from lanparty.quic.sockets import UdpSocket, connect
from lanparty.quic.trust import Trust, certificate_names

__all__ = ["drive"]

_REFUSALS: Final = 3
"""ICMP "port unreachable" answers after which a relay that never answered is taken as not running: aioquic's first
tries are 0.2 and 0.4 s apart, so a relay that restarts at this moment is still met."""

_DEAF_TIME: Final = 1.0
"""Seconds of such answers, and nothing else, after which an established connection is taken as lost: the relay's
process has gone, and would not know the connection if it came back. Heartbeats alone would take 4.5 s."""

# TLS alerts that say that the certificate is at fault (RFC 8446 section 6.2).
_DECRYPT_ERROR: Final = 51
_CERTIFICATE_EXPIRED: Final = 45
_CERTIFICATE_ALERTS: Final = frozenset({42, 43, 44, _CERTIFICATE_EXPIRED, 46, 48, _DECRYPT_ERROR})
_NO_APPLICATION_PROTOCOL: Final = 120


async def drive(
    address: tuple[str, int],
    *,
    server_name: str,
    trust: Trust,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    bind: tuple[str, int] | None = None,
    local_interface: str | None = None,
    task_status: trio.TaskStatus[Connection] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Connect to a relay and run the connection until it ends; reports it as started when the handshake is complete.

    ``address`` is numeric host and port; the relay must prove to be ``server_name`` to ``trust``. ``bind`` and
    ``local_interface`` choose the local end. Returns after our own ``connection.close()``.

    Raises ``UntrustedError`` when the certificate is wrong, ``ConnectionFailedError`` when there is no answer or no
    way, ``MachineError`` when the local end cannot be had, and ``ConnectionLost`` when an established connection ends
    otherwise. Cancelled, it says goodbye first.
    """
    errors: Counter[str] = Counter()

    def new_socket() -> UdpSocket:
        try:
            return connect(address, errors, bind=bind, interface=local_interface)
        except OSError as error:
            raise _cannot_connect(address, bind, local_interface, error) from error

    udp = new_socket()
    driver = Driver([udp], errors)
    quic = Quic(configuration=client_configuration(server_name, trust))
    engine = driver.engine = _ClientEngine(driver, quic, new_socket)
    path = UdpPath(udp.sock.getpeername())
    connection = Connection(quic, engine, path, is_client=True, handshake_deadline=math.inf)
    engine.connection = connection
    engine.connections.add(connection)
    failure: LanpartyError | None = None
    try:
        quic.connect(path, trio.current_time())
        connection.transmit(trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            failure = await _handshake(engine, errors, address, server_name, handshake_timeout)
            if failure is None:
                task_status.started(connection)
                await connection.wait_closed()
            nursery.cancel_scope.cancel()
    finally:
        connection.leave("")
        driver.close()
    if failure is not None:
        raise failure
    closed = await connection.wait_closed()
    if closed.by_peer or closed.timed_out or closed.transport:
        raise ConnectionLost(closed)


class _ClientEngine(Engine):
    """All packets are for the one connection; ICMP errors mean something."""

    connection: Connection

    def __init__(self, driver: Driver, quic: Quic, new_socket: Callable[[], UdpSocket]) -> None:
        super().__init__(
            now=trio.current_time,
            transmit=driver.transmit,
            local_address=driver.local_address,
            max_payload=driver.max_payload,
            on_deadline=driver.rearm,
        )
        self.changed = trio.Event()
        """Set when the handshake is complete, the connection is over, or nothing listens there."""
        self.quic = quic
        self._driver = driver
        self._new_socket = new_socket
        self._errors = driver.errors
        self._refused_before = 0
        self._refused_since = math.inf

    def receive_untrusted(self, batch: Sequence[Received], now: float) -> None:
        self._refused_since = math.inf
        super().receive_untrusted(batch, now)

    def network_error(self, now: float) -> None:
        refused = self._errors["ECONNREFUSED"]
        if refused == self._refused_before:
            return
        self._refused_before = refused
        self._refused_since = min(self._refused_since, now)
        if not self.connection.authentic:
            if refused >= _REFUSALS:
                self.changed.set()
        elif now - self._refused_since >= _DEAF_TIME:
            self.connection.give_up("the relay's computer answers that the relay is not running")

    def renew_socket(self) -> None:
        self._driver.replace(self._new_socket())
        self._refused_since = math.inf

    def connected(self, connection: Connection) -> None:
        super().connected(connection)
        self.changed.set()

    def release(self, connection: Connection) -> None:
        super().release(connection)
        self.changed.set()

    def _route_untrusted(self, packet: bytes, path: UdpPath, now: float) -> Connection | None:
        return self.connection


async def _handshake(
    engine: _ClientEngine, errors: Counter[str], address: tuple[str, int], server_name: str, timeout: float
) -> LanpartyError | None:
    """Wait for the handshake; return why it failed, None when it is complete."""
    with trio.move_on_after(timeout):
        await engine.changed.wait()
    connection = engine.connection
    if connection.closed is not None and not connection.established:
        names = certificate_names(engine.quic.peer_certificate)
        return _handshake_failed(address, server_name, names, connection.closed)
    if not connection.established:
        return _no_answer(address, timeout, errors)
    if connection.closed is None and not connection.datagram_budget:
        return ConnectionFailedError(
            f"The server at {_show(address)} takes no QUIC datagrams: it cannot be a lanparty relay."
        )
    return None


def _cannot_connect(
    address: tuple[str, int], bind: tuple[str, int] | None, interface: str | None, error: OSError
) -> LanpartyError:
    if interface is not None and error.errno in (errno.ENODEV, errno.EPERM, errno.EACCES):
        return MachineError(f"Cannot use the network interface {interface}: {error.strerror}.")
    if bind is not None and error.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EACCES):
        return MachineError(f"Cannot use the local address {_show(bind)}: {error.strerror}.")
    return ConnectionFailedError(
        f"Cannot reach the relay at {_show(address)}: {error.strerror or error}. Is this computer's network up?"
    )


def _no_answer(address: tuple[str, int], timeout: float, errors: Counter[str]) -> ConnectionFailedError:
    host, port = address
    if errors["ECONNREFUSED"]:
        return ConnectionFailedError(
            f"{host} answers that nothing listens on UDP port {port}: is the relay running, and is that its port?"
        )
    unreachable = [name for name in ("ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EPERM", "EACCES") if errors[name]]
    hint = f" Packets could not be sent ({', '.join(unreachable)})." if unreachable else ""
    return ConnectionFailedError(
        f"No answer from {host} within {timeout:g} s: is the relay running, is UDP port {port} open on its firewall, "
        f"and does this network let UDP out?{hint}"
    )


def _handshake_failed(
    address: tuple[str, int], server_name: str, names: Sequence[str], closed: Closed
) -> LanpartyError:
    """Say what a connection that ended before its handshake was complete means."""
    where = f"the relay at {_show(address)}"
    alert = closed.code - CRYPTO_ERROR if closed.transport and CRYPTO_ERROR <= closed.code < CRYPTO_ERROR + 256 else -1
    if alert in _CERTIFICATE_ALERTS and not closed.by_peer:
        return UntrustedError(_untrusted(where, server_name, names, alert, closed.reason))
    if alert == _NO_APPLICATION_PROTOCOL:
        return ConnectionFailedError(
            f"The server at {_show(address)} speaks QUIC but not this version of lanparty: is it a relay, and is it as "
            "new as this program?"
        )
    if closed.transport and closed.code == QuicErrorCode.CONNECTION_REFUSED and closed.by_peer:
        return ConnectionFailedError(f"{_upper(where)} refused the connection: {_printable(closed.reason)}.")
    if closed.timed_out:
        return ConnectionFailedError(f"{_upper(where)} stopped answering during the handshake.")
    return ConnectionFailedError(
        f"The handshake with {where} failed (code {closed.code}): {_printable(closed.reason) or 'no reason given'}."
    )


def _untrusted(where: str, server_name: str, names: Sequence[str], alert: int, reason: str) -> str:
    """Say which of the things that can be wrong with a certificate it is.

    ``names`` are those that it is for, ``reason`` is aioquic's text.
    """
    text = _printable(reason)
    if alert == _CERTIFICATE_EXPIRED:
        which = "is not valid yet" if "not valid yet" in text else "has expired"
        return (
            f"The certificate of {where} {which}. This computer's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: "
            "if that is wrong, set it; else the relay needs a new certificate."
        )
    if not names or text.startswith("hostname "):
        shown = _printable(", ".join(names)) or "no name at all"
        return (
            f"The certificate of {where} is not for {server_name} but for {shown}: give the name that it is for "
            "(--server-name), or somebody else is answering there."
        )
    if alert == _DECRYPT_ERROR:
        return f"{_upper(where)} could not prove that it holds its certificate's key: somebody else answers there."
    return (
        f"The certificate of {where} is not the one, or not from the authority, that this program was told to trust "
        f"({text}): get the relay's present certificate file (--relay-ca-cert), or somebody else is answering there."
    )


def _printable(text: str) -> str:
    """Return text from the network fit for a terminal and a sentence."""
    return "".join(character if character.isprintable() else "?" for character in text)[:200].rstrip(". ")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _show(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
