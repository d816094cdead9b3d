"""Relay endpoint and clients over loopback sockets."""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import attrs
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from quic_world import identity, trust

from lanparty.obs.errors import ConnectionFailedError, MachineError, UntrustedError
from lanparty.quic import client as client_module
from lanparty.quic import driver as driver_module
from lanparty.quic.client import drive
from lanparty.quic.connection import Closed, Connection, ConnectionLost
from lanparty.quic.server import EndpointLimits, ServerEndpoint
from lanparty.quic.sockets import connect
from lanparty.quic.trust import DEV_SERVER_NAME, ServerIdentity, Trust, make_identity

LOOPBACK = "127.0.0.1"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@attrs.define
class Running:
    endpoint: ServerEndpoint
    bound: list[tuple[str, int]]
    connections: list[Connection]
    scope: trio.CancelScope

    @property
    def port(self) -> int:
        return self.bound[0][1]


@asynccontextmanager
async def relay(
    listen: list[tuple[str, int]] | None = None, who: ServerIdentity | None = None, limits: EndpointLimits | None = None
) -> AsyncIterator[Running]:
    """A relay that admits everyone and sends datagrams back to where they came from."""
    connections: list[Connection] = []

    def on_connection(connection: Connection) -> None:
        connections.append(connection)
        connection.admit()
        connection.on_datagrams(lambda batch, _now: connection.send_datagrams(batch))

    endpoint = ServerEndpoint(listen or [(LOOPBACK, 0)], who or identity(), limits or EndpointLimits(), on_connection)
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(endpoint.run)
        yield Running(endpoint, bound, connections, nursery.cancel_scope)
        nursery.cancel_scope.cancel()


def driver(port: int, host: str = LOOPBACK, **options):
    return partial(drive, (host, port), **({"server_name": DEV_SERVER_NAME, "trust": trust()} | options))


async def echo(connection: Connection, datagrams: list[bytes]) -> list[bytes]:
    received: list[bytes] = []
    arrived = trio.Event()

    def collect(batch: list[bytes], _now: float) -> None:
        received.extend(batch)
        if len(received) >= len(datagrams):
            arrived.set()

    connection.on_datagrams(collect)
    connection.send_datagrams(datagrams)
    connection.flush()
    with trio.fail_after(5):
        await arrived.wait()
    return received


async def test_datagrams_and_control_stream_over_loopback():
    async with relay() as running, trio.open_nursery() as nursery:
        client = await nursery.start(driver(running.port))
        assert client.remote == (LOOPBACK, running.port)
        assert client.local_address[0] == LOOPBACK
        assert await echo(client, [bytes(1170), b"b"]) == [bytes(1170), b"b"]
        (server,) = running.connections
        assert server.remote == client.local_address
        assert server.local_address == (LOOPBACK, running.port)
        await client.send_all(b"hello")
        assert await server.receive_some() == b"hello"
        await server.send_all(b"welcome")
        assert await client.receive_some() == b"welcome"
        client.close(7, "done")
        with trio.fail_after(2):
            assert await server.wait_closed() == Closed(7, "done", by_peer=True, timed_out=False)
        assert running.endpoint.counters["handshakes"] == 1


async def test_drive_returns_after_our_own_close():
    async with relay() as running, trio.open_nursery() as nursery:
        done = trio.Event()

        async def run(task_status):
            await driver(running.port)(task_status=task_status)
            done.set()

        client = await nursery.start(run)
        client.close()
        with trio.fail_after(2):
            await done.wait()


async def test_drive_raises_when_the_relay_closes():
    async with relay() as running:
        with pytest.RaisesGroup(ConnectionLost) as group:
            async with trio.open_nursery() as nursery:
                await nursery.start(driver(running.port))
                running.connections[0].close(9, "go away")
        assert group.value.exceptions[0].closed == Closed(9, "go away", by_peer=True, timed_out=False)


async def test_cancelled_client_says_goodbye():
    async with relay() as running:
        async with trio.open_nursery() as nursery:
            await nursery.start(driver(running.port))
            nursery.cancel_scope.cancel()
        with trio.fail_after(2):
            closed = await running.connections[0].wait_closed()
        assert closed.by_peer


async def test_cancelled_relay_says_goodbye():
    with pytest.RaisesGroup(ConnectionLost) as group:
        async with trio.open_nursery() as nursery, relay() as running:
            await nursery.start(driver(running.port))
    assert group.value.exceptions[0].closed.reason == "the relay is shutting down"


async def test_port_0_is_the_same_on_all_addresses():
    async with relay([("127.0.0.1", 0), ("127.0.0.2", 0)]) as running:
        assert [host for host, _port in running.bound] == ["127.0.0.1", "127.0.0.2"]
        assert len({port for _host, port in running.bound}) == 1


@needs_ipv6
async def test_both_families_on_one_port_and_ipv6_works():
    async with relay([("0.0.0.0", 0), ("::", 0)]) as running, trio.open_nursery() as nursery:
        assert running.bound == [("0.0.0.0", running.port), ("::", running.port)]
        for host in ("127.0.0.1", "::1"):
            client = await nursery.start(driver(running.port, host))
            assert await echo(client, [b"x"]) == [b"x"]
            assert running.connections[-1].local_address == (host, running.port)
            client.close()


async def test_answers_come_from_the_address_that_was_asked():
    """A connected client socket hears nothing from any other address."""
    async with relay([("0.0.0.0", 0)]) as running, trio.open_nursery() as nursery:
        for host in ("127.0.0.2", "127.0.0.3"):
            client = await nursery.start(driver(running.port, host, bind=("127.0.0.1", 0)))
            assert await echo(client, [b"x"]) == [b"x"]
            assert running.connections[-1].local_address == (host, running.port)
            client.close()


async def test_without_ipv6_the_default_pair_listens_on_ipv4(monkeypatch):
    real = socket.socket

    def no_ipv6(family=-1, *args, **kwargs):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", no_ipv6)
    async with relay([("0.0.0.0", 0), ("::", 0)]) as running:
        assert [host for host, _port in running.bound] == ["0.0.0.0"]


@pytest.mark.parametrize(
    ("listen", "text"),
    [
        ([("203.0.113.99", 0)], "no such address"),
        ([("relay.example", 0)], "not an IP address"),
    ],
)
async def test_cannot_listen(listen, text):
    with pytest.raises(MachineError, match=text):
        await ServerEndpoint(listen, identity(), EndpointLimits(), lambda _connection: None).run()


async def test_port_in_use():
    async with relay() as running:
        other = ServerEndpoint([(LOOPBACK, running.port)], identity(), EndpointLimits(), lambda _connection: None)
        with pytest.raises(MachineError, match=f"port {running.port} of 127.0.0.1: another program uses it"):
            await other.run()


# -- trust ------------------------------------------------------------------------------------------------------------


async def failure(port: int, **options) -> Exception:
    with pytest.raises((UntrustedError, ConnectionFailedError, MachineError)) as info, trio.fail_after(8):
        await driver(port, **options)()
    return info.value


async def test_wrong_certificate():
    stranger = make_identity([DEV_SERVER_NAME], datetime.now(UTC))
    async with relay(who=stranger) as running:
        error = await failure(running.port)
        assert isinstance(error, UntrustedError)
        assert "told to trust" in str(error)
        assert not running.connections


def issue(name: str, issuer: ServerIdentity | None, *, ca: bool, days: int = 0) -> ServerIdentity:
    """A certificate for ``name`` signed by ``issuer``, or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.now(UTC) - timedelta(days=1 - days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer.private_key if issuer else key, hashes.SHA256())
    )
    chain = () if issuer is None else (issuer.certificate, *issuer.chain)
    return ServerIdentity(certificate, key, chain)


def pin(*identities: ServerIdentity) -> Trust:
    return Trust(b"".join(identity.certificate.public_bytes(Encoding.PEM) for identity in identities))


async def test_pinned_may_be_the_relays_own_certificate_its_authority_or_any_between():
    root = issue("root", None, ca=True)
    between = issue("between", root, ca=True)
    who = issue(DEV_SERVER_NAME, between, ca=False)
    stranger = issue("stranger", None, ca=True)
    async with relay(who=who) as running:
        for trusted in (pin(root), pin(between), pin(who), pin(stranger, who)):
            async with trio.open_nursery() as nursery:
                (await nursery.start(driver(running.port, trust=trusted))).close()
        twin = issue(DEV_SERVER_NAME, between, ca=False)
        for trusted in (pin(stranger), pin(twin)):
            error = await failure(running.port, trust=trusted)
            assert isinstance(error, UntrustedError)
            assert "told to trust" in str(error)
        error = await failure(running.port, trust=pin(who), server_name="other.example")
        assert isinstance(error, UntrustedError)
        assert f"is not for other.example but for {DEV_SERVER_NAME}" in str(error)


@pytest.mark.parametrize(("days", "text"), [(-60, "has expired"), (30, "is not valid yet")])
async def test_a_pinned_certificate_of_an_authority_must_be_in_time(days, text):
    who = issue(DEV_SERVER_NAME, issue("root", None, ca=True), ca=False, days=days)
    async with relay(who=who) as running:
        error = await failure(running.port, trust=pin(who))
        assert isinstance(error, UntrustedError)
        assert text in str(error)


async def test_a_pinned_certificate_is_no_authority_and_needs_its_key():
    who = issue(DEV_SERVER_NAME, issue("root", None, ca=True), ca=False)
    child = issue(DEV_SERVER_NAME, who, ca=False)
    thief = attrs.evolve(who, private_key=child.private_key)
    for false in (child, thief):
        async with relay(who=false) as running:
            assert isinstance(await failure(running.port, trust=pin(who)), UntrustedError)
            assert not running.connections


async def test_wrong_name_says_both_names():
    async with relay() as running:
        error = await failure(running.port, server_name="other.example")
        assert isinstance(error, UntrustedError)
        assert f"is not for other.example but for {DEV_SERVER_NAME}" in str(error)


async def test_address_as_name():
    who = make_identity([DEV_SERVER_NAME, LOOPBACK], datetime.now(UTC))
    pinned = Trust(who.certificate.public_bytes(Encoding.PEM))
    async with relay(who=who) as running, trio.open_nursery() as nursery:
        client = await nursery.start(driver(running.port, server_name=LOOPBACK, trust=pinned))
        client.close()


@pytest.mark.parametrize(("days", "text"), [(-3700, "has expired"), (30, "is not valid yet")])
async def test_certificate_out_of_time_hints_at_the_clock(days, text):
    who = make_identity([DEV_SERVER_NAME], datetime.now(UTC) + timedelta(days=days))
    async with relay(who=who) as running:
        error = await failure(running.port, trust=Trust(who.certificate.public_bytes(Encoding.PEM)))
        assert isinstance(error, UntrustedError)
        assert text in str(error)
        assert "clock says" in str(error)


async def test_system_store_does_not_know_a_development_certificate(tmp_path, monkeypatch):
    async with relay() as running:
        assert isinstance(await failure(running.port, trust=Trust()), UntrustedError)
        # The same certificate in the system's store is believed.
        file = tmp_path / "store.pem"
        file.write_bytes(trust().ca_pem or b"")
        paths = ssl.DefaultVerifyPaths(str(file), None, "", "", "", "")
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
        async with trio.open_nursery() as nursery:
            client = await nursery.start(driver(running.port, trust=Trust()))
            client.close()


# -- no way ------------------------------------------------------------------------------------------------------------


async def test_silent_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        port = sock.getsockname()[1]
        error = await failure(port, handshake_timeout=0.3)
    assert isinstance(error, ConnectionFailedError)
    assert str(error).startswith("No answer from 127.0.0.1 within 0.3 s: is the relay running, is UDP port")


async def test_nothing_listens_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        port = sock.getsockname()[1]
    error = await failure(port)
    assert isinstance(error, ConnectionFailedError)
    assert f"nothing listens on UDP port {port}" in str(error)


async def test_unusable_local_end():
    assert isinstance(await failure(9, bind=("203.0.113.99", 0)), MachineError)
    assert isinstance(await failure(9, local_interface="nosuchif0"), MachineError)


async def test_full_relay_says_so():
    async with relay(limits=EndpointLimits(connections=0)) as running:
        error = await failure(running.port)
        assert isinstance(error, ConnectionFailedError)
        assert "refused the connection: the relay is full" in str(error)


async def test_relay_that_is_gone_is_noticed_by_icmp(monkeypatch):
    monkeypatch.setattr(client_module, "_DEAF_TIME", 0.05)
    with pytest.RaisesGroup(ConnectionLost) as group:
        async with trio.open_nursery() as nursery:
            async with relay() as running:
                client = await nursery.start(driver(running.port))
                # As if killed: the sockets close and nobody says goodbye.
                monkeypatch.setattr(running.endpoint._table, "leave", lambda _reason: None)
            with trio.fail_after(5):
                while client.closed is None:
                    client.send_datagrams([b"anybody there?"])
                    client.flush()
                    await trio.sleep(0.01)
    assert "not running" in group.value.exceptions[0].closed.reason


def test_addresses_of_paths_are_shown_as_people_write_them():
    assert client_module._show(("::1", 443)) == "[::1]:443"
    assert client_module._show(("127.0.0.1", 443)) == "127.0.0.1:443"
    assert ipaddress.ip_address(LOOPBACK).is_loopback


async def test_a_client_goes_on_from_another_socket(monkeypatch):
    """Both sockets are read meanwhile; the old one is closed after a while, and both at the end."""
    monkeypatch.setattr(driver_module, "LINGER", 0.2)
    made = []
    monkeypatch.setattr(client_module, "connect", lambda *args, **rest: made.append(connect(*args, **rest)) or made[-1])
    async with relay() as running, trio.open_nursery() as nursery:
        client = await nursery.start(driver(running.port))
        (server,) = running.connections
        await echo(client, [b"before"])
        for number in range(5):
            before = client.local_address
            with trio.fail_after(5):
                await client.migrate()
            assert client.local_address != before
            assert server.remote == client.local_address
            assert await echo(client, [bytes(1100), b"%d" % number]) == [bytes(1100), b"%d" % number]
        await client.send_all(b"still the same stream")
        assert await server.receive_some() == b"still the same stream"
        assert len(running.connections) == 1
        with trio.fail_after(5):
            while any(udp.sock.fileno() >= 0 for udp in made[:-1]):  # noqa: ASYNC110 - a closed descriptor tells nobody
                await trio.sleep(0.05)
        await client.migrate()
        client.close()
    assert len(made) == 7
    assert all(udp.sock.fileno() < 0 for udp in made)


async def test_a_client_that_cannot_move_stays_where_it_is(monkeypatch):
    async with relay() as running, trio.open_nursery() as nursery:
        client = await nursery.start(driver(running.port))
        with monkeypatch.context() as patch:

            def refuse(*_args, **_rest):
                raise OSError(errno.ENETUNREACH, "Network is unreachable")

            patch.setattr(client_module, "connect", refuse)
            with pytest.raises(ConnectionFailedError, match=r"Network is unreachable\. Is this computer's network up"):
                await client.migrate()
        assert await echo(client, [b"still here"]) == [b"still here"]
        client.close()
        with pytest.raises(ConnectionLost):
            await client.migrate()


async def test_a_move_that_ends_with_the_connection_is_told():
    async with relay() as running, trio.open_nursery() as nursery:
        client = await nursery.start(driver(running.port))
        server = running.connections[0]

        async def end():
            await trio.testing.wait_all_tasks_blocked()
            client.close()

        nursery.start_soon(end)
        server._host.transmit = lambda *_: None  # nothing comes back any more
        with pytest.raises(ConnectionLost):
            await client.migrate()
