"""DHCP messages: fixed fields, options in parts, overload, and what is cut off."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.proto.dhcp import BOOTP_SIZE, COOKIE, DhcpError, parse_message_untrusted

FIXED = (
    bytes((1, 1, 6, 0))
    + b"xid!"
    + bytes(4)
    + b"CIAD"
    + b"YIAD"
    + bytes(4)
    + b"GIAD"
    + b"chaddr"
    + bytes(10)
    + bytes(192)
)


def test_fixed_fields() -> None:
    assert len(FIXED) == BOOTP_SIZE
    found = parse_message_untrusted(FIXED)
    assert found is not None
    assert (found.op, found.htype, found.hlen, found.xid) == (1, 1, 6, b"xid!")
    assert (found.ciaddr, found.yiaddr, found.giaddr, found.chaddr) == (b"CIAD", b"YIAD", b"GIAD", b"chaddr")
    assert (found.options, found.kind) == ({}, None)


@pytest.mark.parametrize("size", [0, 1, BOOTP_SIZE - 1])
def test_too_short(size: int) -> None:
    assert parse_message_untrusted(FIXED[:size]) is None


@pytest.mark.parametrize(
    ("options", "expected", "kind"),
    [
        (b"", {}, None),
        (b"\x35\x01\x03\xff", {53: b"\x03"}, 3),
        (b"\x00\x00\x35\x01\x03", {53: b"\x03"}, 3),
        (b"\x35\x01\x03\xff\x35\x01\x07", {53: b"\x03"}, 3),
        (b"\x35\x01\x03\x35\x01\x07\xff", {53: b"\x03\x07"}, 0),
        (b"\x35\x00\xff", {53: b""}, 0),
        (b"\x32\x02\x0a\x00\x32\x02\x00\x01", {50: b"\x0a\x00\x00\x01"}, None),
    ],
)
def test_options(options: bytes, expected: dict[int, bytes], kind: int | None) -> None:
    found = parse_message_untrusted(FIXED + COOKIE + options)
    assert found is not None
    assert (found.options, found.kind) == (expected, kind)


def test_an_address_has_four_bytes() -> None:
    found = parse_message_untrusted(FIXED + COOKIE + b"\x32\x04\x0a\x00\x00\x01\x03\x03\x0a\x00\x00")
    assert found is not None
    assert (found.address(50), found.address(3), found.address(54)) == (b"\x0a\x00\x00\x01", None, None)


@pytest.mark.parametrize(("overload", "codes"), [(0, set()), (1, {7}), (2, {8}), (3, {7, 8}), (4, set())])
def test_options_in_file_and_sname(overload: int, codes: set[int]) -> None:
    message = bytearray(FIXED + COOKIE + bytes((52, 1, overload, 255)))
    message[108:111], message[44:47] = b"\x07\x01f", b"\x08\x01s"
    found = parse_message_untrusted(bytes(message))
    assert found is not None
    assert set(found.options) == {52} | codes


@pytest.mark.parametrize("options", [b"\x35", b"\x35\x02\x01", b"\x00\x00\x33\x05\x00\x00\x00\x00"])
def test_options_that_are_cut_off(options: bytes) -> None:
    with pytest.raises(DhcpError):
        parse_message_untrusted(FIXED + COOKIE + options)


@given(st.binary(max_size=120))
def test_any_options_give_a_message_or_the_error(options: bytes) -> None:
    with contextlib.suppress(DhcpError):
        found = parse_message_untrusted(FIXED + COOKIE + options)
        assert found is not None
        assert sum(map(len, found.options.values())) <= len(options) + 192
