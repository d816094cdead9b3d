"""What aioquic is configured with, and whom a client believes.

Owns: transport parameters, cipher suites' order, the key log, pinned certificates. Must not know: a running connection.

``SSLKEYLOGFILE`` in the environment names a file for TLS secrets, as in other TLS programs: Wireshark then opens what
was captured. Whoever has that file can read the tunnel, so nothing but this variable switches it on.
"""

from __future__ import annotations

import os
import ssl
from typing import TextIO

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography.x509 import Certificate, load_pem_x509_certificates
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError, X509StoreFlags

from lanparty.obs.errors import UsageError
from lanparty.quic import settings
from lanparty.quic.internals.exporter import BoundTls
from lanparty.quic.trust import ServerIdentity, Trust, system_store

__all__ = ["CONNECTION_ID_SIZE", "VERSIONS", "ClientTls", "client_configuration", "server_configuration"]

CONNECTION_ID_SIZE = 8
"""Bytes of the connection ids that we choose (aioquic's default); short headers carry no length, so it must be
fixed."""

VERSIONS = [int(QuicProtocolVersion.VERSION_1)]
"""Only QUIC version 1 on the wire."""


def server_configuration(identity: ServerIdentity) -> QuicConfiguration:
    """Return what all connections of a relay share."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=[settings.ALPN],
        certificate=identity.certificate,
        certificate_chain=list(identity.chain),
        private_key=identity.private_key,
    )
    return _common(configuration)


def client_configuration(server_name: str, trust: Trust) -> QuicConfiguration:
    """Return the configuration of one connection to a relay that must prove to be ``server_name``."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[settings.ALPN], server_name=server_name)
    if trust.ca_pem is not None:
        configuration.load_verify_locations(cadata=trust.ca_pem)
    else:
        configuration.load_verify_locations(*system_store())
    return _common(configuration)


def _common(configuration: QuicConfiguration) -> QuicConfiguration:
    configuration.connection_id_length = CONNECTION_ID_SIZE
    configuration.idle_timeout = settings.IDLE_TIMEOUT
    configuration.max_data = settings.CONTROL_WINDOW
    configuration.max_stream_data = settings.CONTROL_WINDOW
    configuration.max_datagram_size = settings.UDP_PAYLOAD
    configuration.max_datagram_frame_size = settings.MAX_DATAGRAM_FRAME_SIZE
    configuration.supported_versions = list(VERSIONS)
    # Never asked: see recovery.py for what decides in its place.
    configuration.congestion_control_algorithm = "reno"
    configuration.secrets_log_file = _key_log()
    return configuration


_key_log_file: TextIO | None = None


def _key_log() -> TextIO | None:
    """Open the file that SSLKEYLOGFILE names, once; None without one. Raises UsageError."""
    global _key_log_file  # one file for the process, as the variable is
    path = os.environ.get("SSLKEYLOGFILE")
    if path and _key_log_file is None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise UsageError(f"Cannot write TLS secrets to {path} (SSLKEYLOGFILE): {error.strerror}.") from error
        _key_log_file = os.fdopen(descriptor, "a", encoding="ascii")
    return _key_log_file


class ClientTls(BoundTls):
    """aioquic's TLS, but pinned certificates need not be roots: a relay's own or an intermediate one will do."""

    def _client_handle_certificate_verify(self, input_buf: Buffer) -> None:
        if self._cadata is not None:
            assert self._peer_certificate is not None
            _verify_pinned(self._peer_certificate, self._peer_certificate_chain, self._server_name, self._cadata)
            self._verify_mode = ssl.CERT_NONE  # it was verified here; the proof of its key is still asked for below
        super()._client_handle_certificate_verify(input_buf)


def _verify_pinned(certificate: Certificate, chain: list[Certificate], name: str | None, pinned: bytes) -> None:
    """Verify dates, name and chain of ``certificate`` against the ``pinned`` ones, PEM. Raises ``tls.Alert``."""
    try:
        tls.verify_certificate(certificate=certificate, chain=chain, server_name=name, cadata=pinned)
    except tls.AlertBadCertificate as alert:
        # Dates and name are looked at before the chain, and only the chain fails with this error of OpenSSL's.
        if not isinstance(alert.__context__, X509StoreContextError):
            raise
        store = X509Store()
        for known in load_pem_x509_certificates(pinned):
            store.add_cert(X509.from_cryptography(known))
        store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
        others = [X509.from_cryptography(other) for other in chain]
        try:
            X509StoreContext(store, X509.from_cryptography(certificate), others).verify_certificate()
        except X509StoreContextError:
            raise alert from None  # the first reason says more
