"""What lanparty leans on in aioquic, by name. When an upgrade of aioquic fails here, read
``lanparty/quic/internals.py``."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from aioquic import tls
from aioquic.quic import connection as aioquic_connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStreamReceiver, QuicStreamSender
from quic_world import World, identity

from lanparty.quic.internals import CONTROL_STREAM, Quic


def test_version_is_the_one_that_was_read():
    assert version("aioquic") == "1.7.2"


@pytest.fixture(scope="module")
def quic() -> Quic:
    world = World()
    client, _server = world.pair()
    world.clients[("192.0.2.1", 5000)].quic.send_stream_data(CONTROL_STREAM, b"x")
    client.flush()
    world.run(0.1)
    return world.clients[("192.0.2.1", 5000)].quic


ATTRIBUTES = [
    ("_close_at", float),
    ("_close_event", type(None)),
    ("_close_pending", bool),
    ("_cryptos", dict),
    ("_datagrams_pending", object),
    ("_handshake_complete", bool),
    ("_is_client", bool),
    ("_local_max_data", aioquic_connection.Limit),
    ("_local_max_streams_bidi", aioquic_connection.Limit),
    ("_local_max_streams_uni", aioquic_connection.Limit),
    ("_loss", object),
    ("_max_datagram_size", int),
    ("_network_paths", list),
    ("_peer_cid", aioquic_connection.QuicConnectionId),
    ("_remote_max_datagram_frame_size", int),
    ("_state", QuicConnectionState),
    ("_streams", dict),
]


@pytest.mark.parametrize(("name", "kind"), ATTRIBUTES, ids=[name for name, _kind in ATTRIBUTES])
def test_private_attribute_of_a_connection(quic, name, kind):
    assert isinstance(getattr(quic, name), kind)


@pytest.mark.parametrize(
    "name", ["congestion_window", "bytes_in_flight", "_pacer", "_rtt_smoothed", "_rtt_initialized"]
)
def test_private_attribute_of_loss_recovery(quic, name):
    assert hasattr(quic._loss, name)


@pytest.mark.parametrize("name", ["packet_time", "bucket_time", "update_bucket"])
def test_attribute_of_the_pacer(name):
    assert hasattr(QuicPacketPacer(max_datagram_size=1200), name)


def test_attributes_of_streams():
    sender, receiver = QuicStreamSender(0, writable=True), QuicStreamReceiver(0, readable=True)
    assert sender.buffer_is_empty is True
    assert len(sender._buffer) == 0
    assert receiver.highest_offset == 0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_write_stream_limits", ["self", "builder", "space", "stream"]),
        ("_write_connection_limits", ["self", "builder", "space"]),
        ("_handle_crypto_frame", ["self", "context", "frame_type", "buf"]),
        ("_initialize", ["self", "peer_cid"]),
        ("datagrams_to_send", ["self", "now"]),
        ("get_timer", ["self"]),
        ("handle_timer", ["self", "now"]),
    ],
)
def test_overridden_method_has_these_parameters(name, parameters):
    assert list(inspect.signature(getattr(QuicConnection, name)).parameters) == parameters


def test_peer_certificate_is_kept(quic):
    assert quic.tls._peer_certificate == identity().certificate


def test_frame_handlers_are_looked_up_on_the_instance(quic):
    """So that overriding a handler in the subclass counts."""
    handlers = quic._QuicConnection__frame_handlers
    assert handlers[0x06][0].__func__ is Quic._handle_crypto_frame


def test_packet_overhead_is_as_the_budget_says():
    """Header, tag, frame type and length are 30 bytes with an 8-byte connection id."""
    source = inspect.getsource(QuicPacketBuilder.start_packet)
    assert "header_size = 3 + len(self._peer_cid)" in source


def stock_pair(**client_options) -> tuple[QuicConnection, QuicConnection]:
    """Two stock connections, handshake complete."""
    server_configuration = QuicConfiguration(
        is_client=False,
        certificate=identity().certificate,
        private_key=identity().private_key,
        max_datagram_frame_size=65535,
    )
    options = {"max_datagram_frame_size": 65535} | client_options
    client = QuicConnection(configuration=QuicConfiguration(is_client=True, verify_mode=0, **options))
    client.connect("server", 0.0)
    server = QuicConnection(
        configuration=server_configuration,
        original_destination_connection_id=client.original_destination_connection_id,
    )
    now = 0.0
    for _ in range(6):
        now += 0.01
        for packet, _address in client.datagrams_to_send(now):
            server.receive_datagram(packet, "client", now)
        for packet, _address in server.datagrams_to_send(now):
            client.receive_datagram(packet, "server", now)
    assert client._handshake_complete
    return client, server


def test_hazard_still_there_an_oversize_datagram_blocks_all_later_ones():
    """The reason for our own size check; if stock aioquic mends this, the check may go."""
    client, _server = stock_pair()
    client.send_datagram_frame(bytes(1170))
    assert client.datagrams_to_send(1.0)
    assert not client._datagrams_pending
    client.send_datagram_frame(bytes(1171))
    client.send_datagram_frame(b"later")
    client.datagrams_to_send(2.0)
    assert len(client._datagrams_pending) == 2


def test_hazard_still_there_the_peers_limit_is_not_checked():
    client, server = stock_pair(max_datagram_frame_size=100)
    server.send_datagram_frame(bytes(500))
    for packet, _address in server.datagrams_to_send(1.0):
        client.receive_datagram(packet, "server", 1.0)
    assert client._close_event is not None
    assert client._close_event.error_code == 0xA


def test_a_clients_certificate_is_verified_by_a_method_that_asks_for_the_proof_of_the_key_first(quic):
    source = inspect.getsource(tls.Context._client_handle_certificate_verify)
    assert source.index("_check_certificate_verify_signature(verify)") < source.index("_verify_mode != ssl.CERT_NONE")
    source = inspect.getsource(tls.verify_certificate)
    assert source.index("# verify dates") < source.index("# verify subject") < source.index("X509StoreContextError")
    assert {"_cadata", "_peer_certificate", "_peer_certificate_chain", "_server_name"} <= vars(quic.tls).keys()
