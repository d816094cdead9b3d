"""What lanparty leans on in aioquic, by name. When an upgrade of aioquic fails here, read the table in
``lanparty/quic/internals/__init__.py``: everything named there is here. Stock objects are looked at, not ours, so that
what ours define themselves cannot hide what is gone. What stock does wrong is in ``test_quic_hazards``."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections import deque
from importlib.metadata import version

import pytest
from aioquic import _crypto, tls
from aioquic.quic import connection as aioquic_connection
from aioquic.quic import recovery as aioquic_recovery
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState, QuicNetworkPath, QuicReceiveContext
from aioquic.quic.crypto import CryptoContext, CryptoPair
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from quic_world import World, identity

from lanparty.quic.internals import CONTROL_STREAM, Quic
from lanparty.quic.internals.recovery import Recovery

ONE_RTT = tls.Epoch.ONE_RTT


def test_version_is_the_one_that_was_read():
    assert version("aioquic") == "1.7.2"


def stock_pair(**client_options) -> tuple[QuicConnection, QuicConnection]:
    """Two stock connections, handshake confirmed."""
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
    assert client._handshake_confirmed
    return client, server


@pytest.fixture(scope="module")
def stock() -> QuicConnection:
    client, _server = stock_pair()
    client.send_stream_data(CONTROL_STREAM, b"x")
    client.datagrams_to_send(1.0)
    return client


ATTRIBUTES = [
    ("_ack_delay", float),
    ("_ack_eliciting_sent_since_receipt", bool),
    ("_close_at", float),
    ("_close_event", type(None)),
    ("_close_pending", bool),
    ("_configuration", QuicConfiguration),
    ("_crypto_streams", dict),
    ("_cryptos", dict),
    ("_datagrams_pending", deque),
    ("_handshake_complete", bool),
    ("_handshake_confirmed", bool),
    ("_handshake_done_pending", bool),
    ("_host_cids", list),
    ("_is_client", bool),
    ("_local_ack_delay_exponent", int),
    ("_local_max_data", aioquic_connection.Limit),
    ("_local_max_streams_bidi", aioquic_connection.Limit),
    ("_local_max_streams_uni", aioquic_connection.Limit),
    ("_loss", QuicPacketRecovery),
    ("_max_datagram_size", int),
    ("_network_paths", list),
    ("_packet_number", int),
    ("_peer_cid", aioquic_connection.QuicConnectionId),
    ("_ping_pending", list),
    ("_probe_pending", bool),
    ("_remote_ack_delay_exponent", int),
    ("_remote_max_datagram_frame_size", int),
    ("_retire_connection_ids", list),
    ("_spaces", dict),
    ("_spin_bit", bool),
    ("_spin_highest_pn", int),
    ("_state", QuicConnectionState),
    ("_streams", dict),
    ("_streams_blocked_pending", bool),
    ("_version", int),
    ("host_cid", bytes),
    ("tls", tls.Context),
]


@pytest.mark.parametrize(("name", "kind"), ATTRIBUTES, ids=[name for name, _kind in ATTRIBUTES])
def test_private_attribute_of_a_connection(stock, name, kind):
    assert isinstance(getattr(stock, name), kind)


def test_keys_of_the_dictionaries_are_epochs(stock):
    assert ONE_RTT in stock._cryptos
    assert ONE_RTT in stock._spaces
    assert ONE_RTT in stock._crypto_streams
    assert isinstance(stock._cryptos[ONE_RTT], CryptoPair)
    assert isinstance(stock._crypto_streams[ONE_RTT], QuicStream)
    assert CONTROL_STREAM in stock._streams


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            QuicPacketRecovery(
                congestion_control_algorithm="reno",
                initial_rtt=0.1,
                max_datagram_size=1200,
                peer_completed_address_validation=True,
                send_probe=lambda: None,
            ),
            (
                "_cc _pacer _pto_count _rtt_first_sample_time _rtt_initialized _rtt_latest _rtt_min _rtt_smoothed "
                "_rtt_variance _time_of_last_sent_ack_eliciting_packet bytes_in_flight congestion_window "
                "handshake_confirmed max_ack_delay peer_completed_address_validation spaces"
            ),
        ),
        (
            QuicPacketSpace(is_application_data=True),
            (
                "ack_at ack_eliciting_in_flight ack_queue expected_packet_number is_application_data loss_time "
                "largest_acked_packet largest_received_packet largest_received_time received_packets sent_packets"
            ),
        ),
        (
            QuicNetworkPath("address"),
            "addr bytes_sent is_validated local_challenge_sent peer_cid remote_challenges",
        ),
        (QuicStream(0), "max_stream_data_local max_stream_data_local_sent receiver sender"),
        (QuicStreamSender(0, writable=True), "_buffer buffer_is_empty reset_pending"),
        (QuicStreamReceiver(0, readable=True), "_ranges highest_offset stop_pending"),
        (aioquic_connection.QuicConnectionId(cid=b"", sequence_number=0), "cid was_sent"),
        (aioquic_connection.Limit(frame_type=0, name="", value=0), "sent used value"),
        (CryptoPair(), "recv send _update_key_requested _update_key update_key"),
        (CryptoContext(), "aead hp key_phase decrypt_packet encrypt_packet"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_attributes_of(owner, names):
    assert [name for name in names.split() if not hasattr(owner, name)] == []


def test_a_fresh_space_and_a_fresh_context_begin_as_our_engine_thinks():
    space = QuicPacketSpace(is_application_data=True)
    assert (space.ack_at, space.loss_time, space.largest_received_time) == (None, None, None)
    assert (space.expected_packet_number, space.largest_received_packet) == (0, -1)
    assert (space.sent_packets, list(space.ack_queue)) == ({}, [])
    space.received_packets.add(5)
    assert 5 in space.received_packets
    assert CryptoContext().aead is None


def test_fields_of_a_sent_packet_and_of_a_receive_context():
    assert [field.name for field in dataclasses.fields(QuicReceiveContext)] == [
        "epoch", "host_cid", "network_path", "quic_logger_frames", "time", "version",
    ]  # fmt: skip
    assert {"packet_number", "in_flight", "is_ack_eliciting", "is_crypto_packet", "sent_time", "sent_bytes"} <= {
        field.name for field in dataclasses.fields(QuicSentPacket)
    }
    assert "delivery_handlers" in {field.name for field in dataclasses.fields(QuicSentPacket)}


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (QuicConnection, "_write_stream_limits", "builder space stream"),
        (QuicConnection, "_write_connection_limits", "builder space"),
        (QuicConnection, "_handle_crypto_frame", "context frame_type buf"),
        (QuicConnection, "_handle_stream_frame", "context frame_type buf"),
        (QuicConnection, "_idle_timeout", ""),
        (QuicConnection, "_initialize", "peer_cid"),
        (QuicConnection, "_log_key_updated", "key_type trigger"),
        (QuicConnection, "_parse_transport_parameters", "data from_session_ticket"),
        (QuicConnection, "_payload_received", "context plain crypto_frame_required"),
        (QuicConnection, "_push_crypto_data", ""),
        (QuicConnection, "_send_probe", ""),
        (QuicConnection, "change_connection_id", ""),
        (QuicConnection, "close", "error_code frame_type reason_phrase"),
        (QuicConnection, "datagrams_to_send", "now"),
        (QuicConnection, "get_timer", ""),
        (QuicConnection, "handle_timer", "now"),
        (QuicConnection, "receive_datagram", "data addr now"),
        (QuicConnection, "request_key_update", ""),
        (QuicConnection, "send_ping", "uid"),
        (QuicPacketRecovery, "on_ack_received", "ack_rangeset ack_delay now space"),
        (QuicPacketRecovery, "on_packet_sent", "packet space"),
        (QuicPacketRecovery, "reschedule_data", "now speed_up_handshake"),
        (QuicPacketRecovery, "_detect_loss", "now space"),
        (QuicPacketRecovery, "_get_loss_space", ""),
        (QuicPacketRecovery, "on_loss_detection_timeout", "now"),
        (QuicPacketRecovery, "get_loss_detection_time", "amplification_limited"),
        (QuicPacketRecovery, "get_probe_timeout", "include_max_ack_delay"),
        (QuicPacketRecovery, "discard_space", "space"),
        (CryptoPair, "_update_key", "trigger"),
        (CryptoContext, "decrypt_packet", "packet encrypted_offset expected_packet_number"),
        (CryptoContext, "encrypt_packet", "plain_header plain_payload packet_number"),
        (RangeSet, "add", "start stop"),
        (RangeSet, "subtract", "start stop"),
        (RangeSet, "shift", ""),
        (RangeSet, "bounds", ""),
    ],
    ids=lambda value: value.__name__ if inspect.isclass(value) else None,
)
def test_method_has_these_parameters(owner, name, parameters):
    assert list(inspect.signature(getattr(owner, name)).parameters) == ["self", *parameters.split()]


def test_loss_recovery_takes_these_arguments():
    parameters = inspect.signature(QuicPacketRecovery.__init__).parameters
    assert {
        "congestion_control_algorithm",
        "initial_rtt",
        "max_datagram_size",
        "peer_completed_address_validation",
        "send_probe",
    } <= set(parameters)


def test_what_recovery_overrides_is_there_and_nothing_else_has_its_names():
    """What ours add must not be a name that aioquic uses for something else."""
    overridden = {"on_ack_received", "on_packet_sent", "reschedule_data", "_detect_loss", "get_loss_detection_time"}
    overridden |= {"bytes_in_flight", "congestion_window"}
    ours = {name for name in vars(Recovery) if not name.startswith("__")}
    assert ours & set(dir(QuicPacketRecovery)) == overridden


def test_names_that_our_connection_adds_are_not_aioquics(stock):
    overridden = {
        "_handle_crypto_frame", "_handle_stream_frame", "_initialize", "_log_key_updated",
        "_on_new_connection_id_delivery", "_parse_transport_parameters",
        "_replenish_connection_ids", "_write_connection_limits", "_write_stream_limits", "datagrams_to_send",
        "get_timer", "handle_timer", "next_event", "request_key_update",
    }  # fmt: skip
    ours = {
        name
        for owner in Quic.__mro__
        if owner.__module__.startswith("lanparty")
        for name in vars(owner)
        if not name.startswith("__")
    }
    assert ours & set(dir(stock)) <= overridden | {"receive_datagram", "_on_ack_delivery"}
    assert overridden <= ours


def test_timers_read_the_two_fields_of_the_space_that_we_keep_true():
    """``loss_time`` before all, else a probe time-out while ``ack_eliciting_in_flight``."""
    recovery = QuicPacketRecovery(
        congestion_control_algorithm="reno",
        initial_rtt=0.1,
        max_datagram_size=1200,
        peer_completed_address_validation=True,
        send_probe=lambda: None,
    )
    space = QuicPacketSpace(is_application_data=True)
    recovery.spaces = [space]
    recovery.handshake_confirmed = True
    recovery._time_of_last_sent_ack_eliciting_packet = 5.0
    assert recovery.get_loss_detection_time(amplification_limited=False) is None
    space.ack_eliciting_in_flight = 1
    assert recovery.get_loss_detection_time(amplification_limited=False) == 5.0 + 2 * 0.1
    recovery._pto_count = 2
    assert recovery.get_loss_detection_time(amplification_limited=False) == 5.0 + 4 * 2 * 0.1
    space.loss_time = 3.0
    assert recovery.get_loss_detection_time(amplification_limited=False) == 3.0
    recovery._rtt_initialized, recovery._rtt_smoothed, recovery._rtt_variance = True, 0.02, 0.005
    assert recovery.get_probe_timeout() == pytest.approx(0.02 + 4 * 0.005 + 0.025)
    assert math.isinf(recovery._rtt_min)


def test_connection_ids_become_unsent_where_we_notice():
    """``stock_due`` does not look at each of them for each batch."""
    source = inspect.getsource(aioquic_connection)
    assert source.count("_host_cids.append(") == 1
    assert "_host_cids.append(" in inspect.getsource(QuicConnection._replenish_connection_ids)
    assert source.count(".was_sent = False") == 1
    assert ".was_sent = False" in inspect.getsource(QuicConnection._on_new_connection_id_delivery)


def test_a_probe_timeout_counts_then_reschedules():
    source = inspect.getsource(QuicPacketRecovery.on_loss_detection_timeout)
    assert source.index("self._detect_loss(") < source.index("self._pto_count += 1") < source.index("reschedule_data")


def test_range_set_is_an_ascending_sequence_of_ranges_that_refuses_to_be_true():
    ranges = RangeSet()
    ranges.add(5, 7)
    ranges.add(1)
    ranges.add(7, 9)
    assert list(ranges) == [range(1, 2), range(5, 9)]
    assert (len(ranges), ranges[-1]) == (2, range(5, 9))
    with pytest.raises(NotImplementedError):
        bool(ranges)
    ranges.subtract(0, 6)
    assert list(ranges) == [range(6, 9)]
    assert ranges.shift() == range(6, 9)
    assert aioquic_recovery.MAX_ACK_RANGES == 64


def test_insides_of_packet_protection(stock):
    """What the batch codec takes out of aioquic's keys."""
    context = stock._cryptos[ONE_RTT].send
    assert isinstance(context.aead, _crypto.AEAD)
    assert isinstance(context.aead._aead, AESGCM)
    assert isinstance(context.aead._iv, int)
    assert context.hp is not None
    assert context.hp._is_chacha20 is False
    assert len(context.hp._encryptor.update(bytes(32))) == 32
    chacha = _crypto.HeaderProtection(b"chacha20", bytes(32))
    assert chacha._is_chacha20 is True
    chacha._encryptor.reset_nonce(bytes(16))
    assert len(chacha._encryptor.update(bytes(5))) == 5
    assert context.key_phase == 0


def test_a_key_update_replaces_the_aead_in_place_and_keeps_header_protection():
    """So a changed ``aead`` is how an update is seen, whoever made it; and both directions change at once."""
    client, _server = stock_pair()
    pair = client._cryptos[ONE_RTT]
    before = (pair.send, pair.recv, pair.send.hp, pair.send.aead, pair.recv.aead)
    client.request_key_update()
    assert pair._update_key_requested is True
    told = []
    client._log_key_updated = lambda _key, trigger: told.append(trigger)
    pair.send._setup_cb = lambda trigger: client._log_key_updated("", trigger)
    pair._update_key("local_update")
    assert pair._update_key_requested is False
    assert (pair.send, pair.recv, pair.send.hp) == before[:3]
    assert pair.send.aead is not before[3]
    assert pair.recv.aead is not before[4]
    assert (pair.send.key_phase, pair.recv.key_phase) == (1, 1)
    assert told == ["local_update"]


def test_key_updates_are_told_to_the_connections_method():
    source = inspect.getsource(QuicConnection._initialize)
    assert source.count("partial(self._log_key_updated,") == 2


def test_only_the_first_byte_of_a_short_header_is_looked_at_after_opening():
    """``keys.py`` gives no more of it for a late packet."""
    source = inspect.getsource(QuicConnection.receive_datagram)
    after = source[source.index("crypto.decrypt_packet(") :]
    assert after.count("plain_header") == after.count("plain_header[0]") == 2


def test_datagrams_are_written_with_a_length_and_a_packet_number_of_two_bytes():
    """Header, tag, frame type and length are 30 bytes with an 8-byte connection id: what the budget says."""
    source = inspect.getsource(QuicPacketBuilder.start_packet)
    assert "header_size = 3 + len(self._peer_cid)" in source
    assert "QuicFrameType.DATAGRAM_WITH_LENGTH" in inspect.getsource(QuicConnection._write_application)


def test_packet_numbers_are_one_row_for_all_spaces():
    """``_packet_number`` is the next number, whatever the space: neither path can use one twice."""
    source = inspect.getsource(QuicConnection._flush_builder)
    assert "self._packet_number = builder.packet_number" in source
    assert "packet_number=self._packet_number" in inspect.getsource(QuicConnection.datagrams_to_send)


def test_peer_certificate_is_kept(stock):
    assert stock.tls._peer_certificate == identity().certificate


def test_frame_handlers_are_looked_up_on_the_instance():
    """So that overriding a handler in the subclass counts."""
    world = World()
    world.pair()
    handlers = world.clients[("192.0.2.1", 5000)].quic._QuicConnection__frame_handlers
    assert handlers[0x06][0].__func__ is Quic._handle_crypto_frame
    assert all(handlers[kind][0].__func__ is Quic._handle_stream_frame for kind in range(0x08, 0x10))


def test_a_clients_certificate_is_verified_by_a_method_that_asks_for_the_proof_of_the_key_first(stock):
    source = inspect.getsource(tls.Context._client_handle_certificate_verify)
    assert source.index("_check_certificate_verify_signature(verify)") < source.index("_verify_mode != ssl.CERT_NONE")
    source = inspect.getsource(tls.verify_certificate)
    assert source.index("# verify dates") < source.index("# verify subject") < source.index("X509StoreContextError")
    assert {"_cadata", "_peer_certificate", "_peer_certificate_chain", "_server_name"} <= vars(stock.tls).keys()
