"""Every access to aioquic's private parts, in one package: nothing else in lanparty imports aioquic.

``tests/quic/test_aioquic_contract.py`` pins the version and fails by name when one of the parts used here moves.
aioquic is sans-I/O; what we need beyond its public interface, and why:

========================================  ============================================================================
private part                              why
========================================  ============================================================================
``_loss``                                 replaced: batches, our congestion control, round-trip times under 1 ms
``_cryptos``: keys, ivs, header masks     packets sealed and opened in batches
``_spaces``, ``_packet_number``           shared by both paths: what was received, what comes next
``_payload_received``                     frames that are aioquic's, of packets that were opened here
``_network_paths``, ``_host_cids`` ...    to know what only aioquic can send, and whom to
``_datagrams_pending``                    unbounded, and one entry that never fits blocks all later ones: taken back
``_remote_max_datagram_frame_size``       never checked by aioquic on sending; the peer would close (RFC 9221 section 3)
``_local_max_streams_*``, ``_streams``    one client-opened stream only; how much of it waits for acknowledgement
``_write_stream_limits`` and others       windows that follow what was read; stock windows double with what came
``_handle_crypto_frame`` and stream's     512 KiB of handshake data from a stranger is too much, and so are endless gaps
``_initialize``, ``tls.Context``          what the user pinned is believed as it is, not only when it is a root
``_setup_traffic_protection``             the channel binding: the moment at which TLS defines its exporter
``_state``, ``_close_event`` ...          the peer's goodbye at once, not three probe time-outs later
========================================  ============================================================================

Map: ``config`` what aioquic is given; ``exporter`` the channel binding; ``guarded`` limits against a hostile peer;
``recovery`` loss and congestion in aioquic's place; ``quic`` the batched data path, the class ``Quic``; ``strangers``
packets outside any connection.

Must not know: sockets, trio, time.
"""

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from lanparty.quic.internals.config import CONNECTION_ID_SIZE, VERSIONS, client_configuration, server_configuration
from lanparty.quic.internals.guarded import (
    CONTROL_STREAM,
    CRYPTO_ERROR,
    HOSTILE_INPUT_ERRORS,
    Ending,
    QuicErrorCode,
    short_reason,
)
from lanparty.quic.internals.quic import Quic
from lanparty.quic.internals.strangers import (
    INITIAL,
    VERSION_NEGOTIATION,
    QuicHeader,
    RetryTokens,
    encode_initial_close,
    encode_retry,
    encode_version_negotiation,
    parse_header_untrusted,
)

__all__ = [
    "CONNECTION_ID_SIZE",
    "CONTROL_STREAM",
    "CRYPTO_ERROR",
    "HOSTILE_INPUT_ERRORS",
    "INITIAL",
    "VERSIONS",
    "VERSION_NEGOTIATION",
    "Ending",
    "Quic",
    "QuicConfiguration",
    "QuicErrorCode",
    "QuicHeader",
    "RetryTokens",
    "client_configuration",
    "encode_initial_close",
    "encode_retry",
    "encode_version_negotiation",
    "events",
    "parse_header_untrusted",
    "server_configuration",
    "short_reason",
]
