"""Fuzz targets for what strangers write in words: control messages, room codes and MACs; and for DHCP replies."""

from __future__ import annotations

import ipaddress
import json
from collections import Counter
from collections.abc import Iterator

import dhcp_frames
from ctrl_corpus import MESSAGES
from fuzz_input import Input

from lanparty.ctrl.codec import MAX_FRAME, ControlDecoder, ControlError, Unknown, decode_untrusted, encode
from lanparty.ctrl.messages import MAX_TEXT, Hello, RejectCode, Welcome
from lanparty.ctrl.proof import BINDING_SIZE, Seed, is_proven_untrusted, prove
from lanparty.ctrl.room import RoomError, parse_room
from lanparty.ctrl.validate import check_hello, check_welcome
from lanparty.link.dhcp_client import message_untrusted
from lanparty.link.dhcp_reply import ReplyError, lease_from, parse_reply_untrusted
from lanparty.obs.text import clean_text, is_clean, printable
from lanparty.proto.mac import MacAddress, MacError

_BINDING = bytes(range(BINDING_SIZE))

# -- control messages --------------------------------------------------------------------------------------------------


def control(data: bytes) -> None:
    """A control stream in parts of any size: messages that can be sent on, or one ControlError, and then for ever."""
    source = Input(data)
    step = 1 + source.byte()
    stream = source.rest()
    decoder = ControlDecoder()
    try:
        for start in range(0, len(stream), step):
            for message in decoder.feed_untrusted(stream[start : start + step]):
                _believed(message)
            assert decoder.pending <= MAX_FRAME + 4
    except ControlError as error:
        _fit_for_people(error)
        assert decoder.pending == 0
        try:
            decoder.feed_untrusted(b"")
        except ControlError as again:
            assert again is error
        else:
            raise AssertionError("a broken stream is read on") from None


def message(data: bytes) -> None:
    """One message's JSON."""
    try:
        found = decode_untrusted(data)
    except ControlError as error:
        _fit_for_people(error)
        return
    _believed(found)


def _believed(message: object) -> None:
    if isinstance(message, Unknown):
        return
    assert decode_untrusted(encode(message)[4:]) == message  # type: ignore[arg-type]
    try:
        if isinstance(message, Hello):
            checked = check_hello(message)
            assert check_hello(checked) == checked
            assert is_clean(checked.display_name)
            assert is_proven_untrusted(checked, _BINDING) in (True, False)
        elif isinstance(message, Welcome):
            welcome = check_welcome(message)
            assert check_welcome(welcome) == welcome
    except ControlError as error:
        _fit_for_people(error)


def _fit_for_people(error: ControlError) -> None:
    assert is_clean(error.text)
    assert error.text.isprintable()
    assert len(error.text) <= MAX_TEXT
    assert RejectCode.of(error.code)


def control_seeds() -> Iterator[bytes]:
    frames = [encode(one) for one in MESSAGES]
    for frame in frames:
        yield b"\xff" + frame
    yield b"\x06" + b"".join(frames[:3])
    yield b"\x20" + b"\x00\x01\x00\x01"


def message_seeds() -> Iterator[bytes]:
    for one in MESSAGES:
        yield encode(one)[4:]
    yield from (b'{"type":"later","x":[{}]}', b"[[[[", b'{"type":1}', b'{"a":1,"a":2}', b"NaN", b'"\\ud800"', b"1e999")
    said = check_hello(MESSAGES[0])  # type: ignore[arg-type]
    yield encode(prove(said, _BINDING, identity=Seed(bytes(32)), room_key=Seed(bytes(31) + b"\1")))[4:]
    hello = json.loads(encode(MESSAGES[0])[4:])
    yield json.dumps(hello | {"version": {"major": 2, "minor": 0}}).encode()
    yield json.dumps(hello | {"version": {"major": 1, "minor": 9}, "extra": [1, 2, {"a": None}]}).encode()


# -- names -------------------------------------------------------------------------------------------------------------


def names(data: bytes) -> None:
    """Room codes, MACs and text for terminals: one canonical form, or a sentence."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        room = parse_room(text)
    except RoomError as error:
        assert is_clean(str(error))
    else:
        assert room.isascii()
        assert room.upper() == room == parse_room(room)
    try:
        mac = MacAddress.parse(text)
    except MacError:
        pass
    else:
        assert MacAddress.parse(str(mac)) == mac
        try:
            virtual = mac.require_virtual().octets
        except MacError:
            assert mac.is_group or mac.is_zero or not mac.is_local
        else:
            assert virtual[0] & 3 == 2
    assert is_clean(printable(text))
    short = clean_text(text, 20)
    assert len(short) <= 20
    assert is_clean(short)
    assert clean_text(short, 20) == short


def names_seeds() -> Iterator[bytes]:
    yield from (b"ROOM1", b"my-room_7", b"02:1a:2b:3c:4d:5e", b"02-1A-2B-3C-4D-5E", b"021a.2b3c.4d5e", b"021a2b3c4d5e")
    yield from (
        "\u0131 \u202e\x1b[2J\n".encode(),
        b"ff:ff:ff:ff:ff:ff",
        b"x" * 40,
        "\U0001f3ae".encode(),
        b"\xed\xa0\x80",
    )


# -- DHCP replies ------------------------------------------------------------------------------------------------------


def dhcp(data: bytes) -> None:
    """A frame that may be a DHCP reply: not for us, refused with a reason, or a lease that a kernel can be given."""
    frame = data
    counters: Counter[str] = Counter()
    said: list[str] = []
    engine_message = message_untrusted(frame, dhcp_frames.MAC, counters, said.append)
    assert (engine_message is None) == (sum(counters.values()) == 1)
    try:
        reply = parse_reply_untrusted(frame, dhcp_frames.MAC)
        if reply is None:
            return
        assert sum(map(len, reply.options.values())) <= len(frame)
        lease = lease_from(reply)
    except ReplyError as error:
        assert str(error).isprintable()
        return
    address = ipaddress.IPv4Address(lease.address)
    assert address in lease.network
    assert 0 < lease.renew_seconds < lease.rebind_seconds
    assert lease.lease_seconds is None or lease.rebind_seconds <= lease.lease_seconds
    assert lease.router is None or (
        ipaddress.IPv4Address(lease.router) in lease.network and lease.router != str(address)
    )
    assert not address.is_multicast
    assert not address.is_loopback
    assert lease.domain is None or (lease.domain.isascii() and lease.domain.isprintable() and " " not in lease.domain)
    assert lease.network.prefixlen >= 8


def dhcp_seeds() -> Iterator[bytes]:
    packed = dhcp_frames.packed
    more = [(3, packed("192.168.77.1")), (6, packed("192.168.77.1", "9.9.9.9")), (15, b"home.example")]
    for kind in (dhcp_frames.OFFER, dhcp_frames.ACK, dhcp_frames.NAK):
        yield dhcp_frames.reply(kind, more=more)
    yield dhcp_frames.reply(
        dhcp_frames.ACK, more=[(58, b"\0\0\0\x10"), (59, b"\0\0\0\x20"), (52, b"\3")], file=b"\x0f\2ab"
    )
    yield dhcp_frames.reply(
        dhcp_frames.ACK, ip_options=bytes(4), seconds=0xFFFFFFFF, mask="255.0.0.0", address="10.1.2.3"
    )
    yield dhcp_frames.reply(dhcp_frames.ACK, mask="255.0.255.0")
    yield dhcp_frames.reply(dhcp_frames.OFFER, server=None, seconds=5)
    yield dhcp_frames.reply(dhcp_frames.OFFER, mac=bytes(6))
