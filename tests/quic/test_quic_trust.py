from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta

import pytest
from aioquic import tls
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from lanparty.obs.errors import UsageError
from lanparty.obs.log import captured
from lanparty.quic.trust import (
    DEV_SERVER_NAME,
    _load_key,
    certificate_names,
    load_certificate,
    load_dev_certificate,
    load_pinned,
    make_identity,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pem_of_key(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "relay-cert.der"


def events_of(path, *args, **kwargs):
    with captured() as events:
        identity = load_dev_certificate(path, *args, **kwargs)
    return identity, [(event["event"], event.get("reason")) for event in events]


def test_made_once_and_kept_after_that(path):
    made, events = events_of(path)
    assert events == [("relay.certificate-made", None)]
    kept, events = events_of(path)
    assert events == [("relay.certificate-kept", None)]
    assert kept.certificate == made.certificate
    assert certificate_names(made.certificate) == [DEV_SERVER_NAME]
    assert x509.load_der_x509_certificate(path.read_bytes()) == made.certificate
    assert stat.S_IMODE((path.parent / "relay-cert.der.key").stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["relay-cert.der", "relay-cert.der.key"]


def test_names_and_addresses_are_added_once(path):
    identity = load_dev_certificate(path, ["play.example", "203.0.113.10", DEV_SERVER_NAME, "2001:db8::1"])
    assert certificate_names(identity.certificate) == [DEV_SERVER_NAME, "play.example", "203.0.113.10", "2001:db8::1"]
    assert load_dev_certificate(path, ["203.0.113.10"]).certificate == identity.certificate


def test_made_anew_when_expired(path):
    old = load_dev_certificate(path, now=NOW - timedelta(days=4000))
    new, events = events_of(path, now=NOW)
    assert new.certificate != old.certificate
    ((event, reason),) = events
    assert event == "relay.certificate-made"
    assert "valid only until" in reason


def test_made_anew_when_a_name_is_missing(path):
    load_dev_certificate(path)
    _identity, events = events_of(path, ["play.example"])
    assert "not for play.example" in events[0][1]


def test_made_anew_when_the_key_is_missing_or_another(path):
    load_dev_certificate(path)
    key_path = path.with_name("relay-cert.der.key")
    key_path.unlink()
    _identity, events = events_of(path)
    assert "is missing" in events[0][1]
    key_path.write_bytes(pem_of_key(make_identity(["x"], NOW).private_key))
    _identity, events = events_of(path)
    assert "is not that of the old one" in events[0][1]


def test_a_file_that_is_something_else_is_not_overwritten(path):
    path.write_bytes(b"my thesis")
    with pytest.raises(UsageError, match=r"relay-cert\.der exists and is no DER certificate"):
        load_dev_certificate(path)
    assert path.read_bytes() == b"my thesis"


def test_a_damaged_key_is_an_error(path):
    load_dev_certificate(path)
    path.with_name("relay-cert.der.key").write_bytes(b"garbage")
    with pytest.raises(UsageError, match="holds no PEM private key"):
        load_dev_certificate(path)


def test_no_place_to_write(tmp_path):
    with pytest.raises(UsageError, match="Cannot write the development certificate"):
        load_dev_certificate(tmp_path / "missing" / "cert.der")


def test_name_that_no_certificate_can_carry(path):
    with pytest.raises(UsageError, match="cannot be a name in a certificate"):
        load_dev_certificate(path, ["bücher.example"])


def test_pinned_in_der_and_pem_gives_the_same(path, tmp_path):
    identity = load_dev_certificate(path)
    pem = identity.certificate.public_bytes(Encoding.PEM)
    other = tmp_path / "cert.pem"
    other.write_bytes(b"some words before\r\n" + pem.replace(b"\n", b"\r\n"))
    assert load_pinned(path) == load_pinned(other) == pem


def test_pinned_takes_several_certificates(tmp_path):
    both = b"".join(make_identity([name], NOW).certificate.public_bytes(Encoding.PEM) for name in ("a", "b"))
    file = tmp_path / "cas.pem"
    file.write_bytes(both)
    assert load_pinned(file) == both


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_pinned_file_without_certificate(tmp_path, content):
    file = tmp_path / "bad"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="holds no certificate"):
        load_pinned(file)


def test_pinned_key_by_mistake(path):
    load_dev_certificate(path)
    with pytest.raises(UsageError, match="it holds a private key"):
        load_pinned(path.with_name("relay-cert.der.key"))


def test_unreadable_files(tmp_path):
    with pytest.raises(UsageError, match=r"Cannot read the certificate file .*: No such file"):
        load_pinned(tmp_path / "missing")
    with pytest.raises(UsageError, match="Cannot read"):
        load_pinned(tmp_path)
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 2**21)
    with pytest.raises(UsageError, match="too large"):
        load_pinned(large)


@pytest.fixture
def given(tmp_path):
    identity = make_identity(["play.example"], NOW)
    chain = make_identity(["ca.example"], NOW).certificate
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(identity.certificate.public_bytes(Encoding.PEM) + chain.public_bytes(Encoding.PEM))
    key.write_bytes(pem_of_key(identity.private_key))
    return identity, chain, cert, key


def test_given_certificate_with_chain(given):
    identity, chain, cert, key = given
    loaded = load_certificate(cert, key, now=NOW)
    assert loaded.certificate == identity.certificate
    assert loaded.chain == (chain,)
    assert "PrivateKey" not in repr(loaded)


def test_given_key_of_another_certificate(given):
    _identity, _chain, cert, key = given
    key.write_bytes(pem_of_key(make_identity(["x"], NOW).private_key))
    with pytest.raises(UsageError, match="does not belong to the first certificate"):
        load_certificate(cert, key, now=NOW)


def test_given_certificate_that_has_expired(given):
    _identity, _chain, cert, key = given
    with pytest.raises(UsageError, match="expired on 2035-"):
        load_certificate(cert, key, now=NOW + timedelta(days=5000))


def test_given_key_with_passphrase_of_wrong_kind_or_garbage(given):
    identity, _chain, cert, key = given
    key.write_bytes(pem_of_key(identity.private_key, BestAvailableEncryption(b"secret")))
    with pytest.raises(UsageError, match="passphrase"):
        load_certificate(cert, key, now=NOW)
    key.write_bytes(pem_of_key(dsa.generate_private_key(1024)))
    with pytest.raises(UsageError, match="of a kind that TLS"):
        load_certificate(cert, key, now=NOW)
    key.write_bytes(b"garbage")
    with pytest.raises(UsageError, match="no PEM private key"):
        load_certificate(cert, key, now=NOW)
    key.write_bytes(pem_of_key(rsa.generate_private_key(65537, 2048)))
    with pytest.raises(UsageError, match="does not belong"):
        load_certificate(cert, key, now=NOW)
    cert.write_bytes(b"garbage")
    with pytest.raises(UsageError, match="no PEM certificate"):
        load_certificate(cert, key, now=NOW)


def test_names_of_no_certificate():
    assert certificate_names(None) == []


@pytest.mark.parametrize("curve", [ec.SECP521R1(), ec.SECP256K1()], ids=lambda curve: curve.name)
def test_given_key_on_a_curve_that_nobody_signs_with(given, curve):
    _identity, _chain, cert, key = given
    key.write_bytes(pem_of_key(ec.generate_private_key(curve)))
    with pytest.raises(UsageError, match=f"curve {curve.name}.*P-256 or P-384"):
        load_certificate(cert, key, now=NOW)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate,
        ed448.Ed448PrivateKey.generate,
    ],
    ids=["P-256", "P-384", "RSA", "Ed25519", "Ed448"],
)
def test_aioquic_signs_with_every_key_that_is_accepted(tmp_path, make):
    file = tmp_path / "key.pem"
    file.write_bytes(pem_of_key(make()))
    context = tls.Context(is_client=False)
    context.certificate_private_key = _load_key(file)
    assert context._signature_algorithms_for_private_key()


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "loop/x"])
def test_names_that_the_system_does_not_take_are_wrong_usage(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    for load in (load_dev_certificate, load_pinned):
        with pytest.raises(UsageError, match="Cannot read the certificate file"):
            load(tmp_path / name)


def test_a_directory_that_may_not_be_searched_is_wrong_usage(path, monkeypatch):
    def forbidden(self, **_kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.stat", forbidden)
    with pytest.raises(UsageError, match=r"Cannot read the certificate file .*: Permission denied"):
        load_dev_certificate(path)


def test_a_key_whose_name_is_too_long_is_wrong_usage(tmp_path):
    path = tmp_path / ("x" * 253)  # with .key behind it 257
    path.write_bytes(make_identity([DEV_SERVER_NAME], NOW).certificate.public_bytes(Encoding.DER))
    with pytest.raises(UsageError, match=r"Cannot read the private key file .*name too long"):
        load_dev_certificate(path)
