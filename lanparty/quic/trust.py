"""Certificates: what a relay proves itself with, and whom a client believes.

Owns: reading, making and writing certificates and keys, with a sentence for each way that files can be wrong.
Must not know: QUIC, sockets.

The development certificate is two files: the certificate, DER, at the path that the user names and gives to gateways
and players, and its private key, PEM (PKCS 8), beside it as ``PATH.key`` with mode 0600. A pair that is still good is
used again, so that a restarted relay keeps its pin.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lanparty.obs.errors import UsageError
from lanparty.obs.events import RELAY_CERTIFICATE_KEPT, RELAY_CERTIFICATE_MADE
from lanparty.obs.files import atomic_write
from lanparty.obs.log import log

__all__ = [
    "DEV_SERVER_NAME",
    "PrivateKey",
    "ServerIdentity",
    "Trust",
    "certificate_names",
    "load_certificate",
    "load_dev_certificate",
    "load_pinned",
    "make_identity",
    "system_store",
]

DEV_SERVER_NAME: Final = "lanparty-relay.local"
"""The name that every development certificate carries, as README's commands say it."""

_DEV_LIFETIME: Final = timedelta(days=3650)
"""Ten years: players hold this file as their pin; its end would be an outage that nobody expects."""

_CLOCK_SLACK: Final = timedelta(days=1)
"""A player's clock may be a day behind the relay's on the day that the certificate is made."""

_MAX_FILE: Final = 1024 * 1024
"""Bytes read of a certificate or key file: all the world's CAs are 220 KiB; more is the wrong file."""

_BAD_CERTIFICATE: Final = (ValueError, x509.InvalidVersion)
"""What ``cryptography`` raises for bytes that are no certificate."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
"""Keys that a TLS 1.3 server can sign with (RFC 8446 section 4.2.3); elliptic curves only those of ``_CURVES``."""

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
"""What aioquic 1.7.2 signs with. With another curve every handshake would fail, and nobody would know why."""


@attrs.frozen
class ServerIdentity:
    """The certificate of a relay, the chain above it, and its private key."""

    certificate: x509.Certificate
    private_key: PrivateKey = attrs.field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()


@attrs.frozen
class Trust:
    """Whom a client believes: the certificates in ``ca_pem`` and what they have signed, or the system's store when
    None."""

    ca_pem: bytes | None = None


def system_store() -> tuple[str | None, str | None]:
    """Return the file and the directory of this system's trusted authorities, as OpenSSL finds them.

    Both None: the caller's library falls back to the list of Mozilla that it brings with it.
    """
    paths = ssl.get_default_verify_paths()
    return paths.cafile, paths.capath


def load_pinned(path: Path) -> bytes:
    """Read certificates to trust from a file in DER or PEM and return them as PEM.

    Raises ``UsageError`` for a file that cannot be read or holds no certificate.
    """
    data = _read(path, "certificate")
    try:
        if b"-----BEGIN" in data:
            certificates = x509.load_pem_x509_certificates(data)
        else:
            certificates = [x509.load_der_x509_certificate(data)]
    except _BAD_CERTIFICATE as error:
        hint = " (it holds a private key)" if b"PRIVATE KEY-----" in data else ""
        raise UsageError(
            f"{path} holds no certificate{hint}: give the DER or PEM file that the relay wrote."
        ) from error
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def load_certificate(cert_pem: Path, key_pem: Path, *, now: datetime | None = None) -> ServerIdentity:
    """Read a relay's certificate with its chain, leaf first, and its private key, both PEM.

    Raises ``UsageError`` for files that cannot be read, do not belong together, or hold a certificate that has expired.
    """
    data = _read(cert_pem, "certificate")
    try:
        leaf, *chain = x509.load_pem_x509_certificates(data)
    except _BAD_CERTIFICATE as error:
        raise UsageError(f"{cert_pem} holds no PEM certificate.") from error
    key = _load_key(key_pem)
    if not _belong_together(leaf, key):
        raise UsageError(f"The private key in {key_pem} does not belong to the first certificate in {cert_pem}.")
    now = now or datetime.now(UTC)
    if now > leaf.not_valid_after_utc:
        raise UsageError(
            f"The certificate in {cert_pem} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it, or set "
            f"this machine's clock, which says {now:%Y-%m-%d %H:%M} UTC."
        )
    return ServerIdentity(certificate=leaf, private_key=key, chain=tuple(chain))


def load_dev_certificate(path_der: Path, names: Sequence[str] = (), *, now: datetime | None = None) -> ServerIdentity:
    """Return the development certificate at ``path_der``, made now if there is none that is good.

    It is for ``lanparty-relay.local`` and all ``names`` (DNS names or IP addresses). One that has expired, lost its
    key or lacks a name is made anew, and the event says why. Raises ``UsageError`` for files that cannot be read or
    written, and for a file at that path that is something else: it is not overwritten.
    """
    path_der = Path(path_der)
    now = now or datetime.now(UTC)
    wanted = tuple(dict.fromkeys((DEV_SERVER_NAME, *names)))
    reason = None
    if _is_there(path_der, "certificate"):
        found, reason = _reusable(path_der, wanted, now)
        if found is not None:
            log(RELAY_CERTIFICATE_KEPT, file=str(path_der))
            return found
    identity = make_identity(wanted, now)
    key = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for path, data, mode in (
        # The key first: a certificate that was given away and has no key could not be told from a good one.
        (_key_path(path_der), key, 0o600),
        (path_der, identity.certificate.public_bytes(Encoding.DER), 0o644),
    ):
        try:
            atomic_write(path, data, mode)
        except OSError as error:
            raise UsageError(
                f"Cannot write the development certificate to {path}: {error.strerror or error}."
            ) from error
    log(RELAY_CERTIFICATE_MADE, names=", ".join(wanted), file=str(path_der), reason=reason)
    return identity


def _reusable(path_der: Path, wanted: Sequence[str], now: datetime) -> tuple[ServerIdentity | None, str | None]:
    """Return the pair at ``path_der`` if it is good, else the reason why it is not."""
    try:
        certificate = x509.load_der_x509_certificate(_read(path_der, "certificate"))
    except _BAD_CERTIFICATE as error:
        raise UsageError(
            f"{path_der} exists and is no DER certificate: remove it, or choose another path for --dev-cert-der-out."
        ) from error
    key_path = _key_path(path_der)
    if not _is_there(key_path, "private key"):
        return None, f"the key of the old one, {key_path}, is missing"
    key = _load_key(key_path)
    if not _belong_together(certificate, key):
        return None, f"the key in {key_path} is not that of the old one"
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        return None, f"the old one was valid only until {certificate.not_valid_after_utc:%Y-%m-%d}"
    missing = [name for name in wanted if _general_name(name) not in _names_of(certificate)]
    if missing:
        return None, f"the old one is not for {', '.join(missing)}"
    return ServerIdentity(certificate=certificate, private_key=key), None


def make_identity(names: Sequence[str], now: datetime) -> ServerIdentity:
    """Make a self-signed P-256 certificate for ``names``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(now + _DEV_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return ServerIdentity(certificate=certificate, private_key=key)


def _general_name(name: str) -> x509.GeneralName:
    """Return ``name`` as a certificate carries it; raises ``UsageError`` for what is neither DNS name nor IP
    address."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise UsageError(
            f"{name!r} cannot be a name in a certificate: use a DNS name in ASCII or an IP address."
        ) from error


def _names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return []


def certificate_names(certificate: x509.Certificate | None) -> list[str]:
    """Return the DNS names and addresses that a certificate is for, as text; none for none or an unreadable one."""
    if certificate is None:
        return []
    return [str(name.value) for name in _names_of(certificate) if isinstance(name, x509.DNSName | x509.IPAddress)]


def _belong_together(certificate: x509.Certificate, key: PrivateKey) -> bool:
    try:
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*form) == key.public_key().public_bytes(*form)


def _key_path(path_der: Path) -> Path:
    return path_der.with_name(path_der.name + ".key")


def _load_key(path: Path) -> PrivateKey:
    """Read a PEM private key; raises ``UsageError``."""
    data = _read(path, "private key")
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise UsageError(f"The private key in {path} is protected by a passphrase: give it without one.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} holds no PEM private key.") from error
    if not isinstance(key, PrivateKey):
        raise UsageError(
            f"The private key in {path} is of a kind that TLS 1.3 does not use: use ECDSA, RSA or Ed25519."
        )
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, _CURVES):
        raise UsageError(
            f"The private key in {path} is on the curve {key.curve.name}, which this program cannot sign with: use "
            "P-256 or P-384, RSA or Ed25519."
        )
    return key


def _is_there(path: Path, what: str) -> bool:
    """Whether there is a file; raises ``UsageError`` where this cannot be found out.

    ``Path.exists`` raises for what it cannot make sense of: a directory that may not be searched, too long a name.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, error) from error
    return True


def _read(path: Path, what: str) -> bytes:
    """Read a small file; raises ``UsageError``."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, error) from error
    if len(data) > _MAX_FILE:
        raise UsageError(f"{path} is too large for a {what} file.")
    return data


def _unreadable(path: Path, what: str, error: OSError | ValueError) -> UsageError:
    """The sentence for a file that the system does not give; ``ValueError`` is for a NUL byte in its name."""
    reason = error.strerror if isinstance(error, OSError) else None
    return UsageError(f"Cannot read the {what} file {path}: {reason or error}.")
