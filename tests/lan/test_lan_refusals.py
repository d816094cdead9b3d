"""Shown by, 5: who may not enter is told why, with the right status; those who were there notice nothing."""

from __future__ import annotations

import sys

import pytest
from lan_tools import last_line, pinging, poll

from lanparty.demo.programs import SERVER_NAME

pytestmark = [pytest.mark.lan, pytest.mark.parametrize("lan", ["dual"], indirect=True)]

REFUSED, USAGE, UNTRUSTED, CANNOT, FAILED = 3, 2, 4, 5, 1


@pytest.fixture
def calm(lan):
    """The shared party; afterwards nobody in it may have noticed anything."""
    marks = {program: len(program.events) for program in (lan.gateway, *lan.players.values())}
    with pinging(lan.house.at("player1"), "192.168.77.1", 0.02) as pings:
        yield lan
        sent, received = pings()
    assert sent > 10
    assert received >= sent - 1  # the last request may still be on its way when ping is told to end
    for program, count in marks.items():
        assert program.running
        noticed = {event["event"] for event in program.events[count:]}
        assert not {name for name in noticed if name.startswith(("uplink.", "error", "gateway.lan"))}, noticed


def refused(lan, program, code):
    """The program ends with "refused", and both it and the relay have the code."""
    assert program.wait_ended(20) == REFUSED, program.last_words()
    (error,) = program.named("error")
    assert error["code"] == code
    assert error["message"].count("\n") == 0
    assert len(error["message"]) > 20
    poll(lambda: [e for e in lan.relay.named("relay.refused") if e["code"] == code], 5, f"relay.refused {code}")
    return error["message"]


def test_a_second_gateway(calm):
    second = calm.party.start_gateway(place="guest", interface="wan0", wait=False)
    assert "gateway" in refused(calm, second, "gateway-present").lower()


def test_a_second_gateway_on_the_same_box(calm):
    second = calm.party.start_gateway(wait=False)
    assert second.wait_ended(20) in (REFUSED, CANNOT), second.last_words()


def test_a_duplicate_mac(calm):
    twin = calm.party.start_client("--virtual-mac", calm.mac("player1"), place="guest", wait_for=None)
    assert calm.mac("player1") in refused(calm, twin, "duplicate-mac")


def test_a_second_client_with_the_same_identity_file(calm):
    twin = calm.party.start_client(place="guest", identity=calm.party.identity("player1"), wait_for=None)
    assert twin.wait_ended(20) in (USAGE, REFUSED), twin.last_words()
    (error,) = twin.named("error")
    assert str(calm.party.identity("player1")) in error["message"]


def test_a_room_that_is_full(calm):
    """A relay of its own, on another port, because the limit is an option of the relay."""
    options = ("--listen", "10.99.0.10:8443", "--max-clients-per-room", "1", "--dev-cert-der-out")
    other = calm.party.directory / "full.der"
    relay = calm.party.start_python("full relay", "relay", "lanparty.relay", *options, other)
    relay.wait_for("relay.listening")
    common = ("--relay", "10.99.0.10:8443", "--relay-ca-cert", other, "--address", "none")
    one = calm.party.start_client(*common, "--virtual-mac", "02:00:00:00:00:01", wait_for=None, place="guest")
    one.wait_for("client.joined")
    two = calm.party.start_client(*common, "--virtual-mac", "02:00:00:00:00:02", wait_for=None, place="guest")
    assert two.wait_ended(20) == REFUSED, two.last_words()
    (error,) = two.named("error")
    assert error["code"] == "room-full"
    assert one.running
    assert one.stop() == 0
    assert relay.stop() == 0


def run_client(lan, *options, module="lanparty.client", place="guest"):
    """In text form, as a person sees it: (exit status, standard error)."""
    program = lan.party.start("by hand", place, [sys.executable, "-m", module, *options])
    return program.wait_ended(40), "\n".join(program.lines)


def arguments(lan, **changed):
    given = {
        "relay": "10.99.0.10:443",
        "server-name": SERVER_NAME,
        "relay-ca-cert": lan.party.certificate,
        "room": "ROOM1",
        "identity": lan.party.directory / "by-hand.json",
    }
    given |= {name.replace("_", "-"): value for name, value in changed.items()}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def one_sentence(text, program="lanparty.client"):
    """What a program said when it failed: one line, no traceback."""
    line = last_line(text)
    assert line.startswith(f"{program}: error: "), text
    assert text.count(f"{program}: error: ") == 1
    assert "Traceback" not in text
    return line.removeprefix(f"{program}: error: ")


@pytest.mark.parametrize("room", ["", "two words", "A" * 33, "-ROOM", "ROOM/1", "RÖOM"])
def test_a_room_code_of_the_wrong_form(lan, room):
    status, text = run_client(lan, *arguments(lan, room=room))
    assert status == USAGE, text
    assert "room" in one_sentence(text)


def test_the_wrong_certificate(calm):
    wrong = calm.party.directory / "wrong.der"
    maker = calm.party.start_python(
        "another relay", "guest", "lanparty.relay", "--listen", "127.0.0.1:0", "--dev-cert-der-out", wrong
    )
    maker.wait_for("relay.listening")
    assert maker.stop() == 0
    status, text = run_client(calm, *arguments(calm, relay_ca_cert=wrong))
    assert status == UNTRUSTED, text
    assert "certificate" in one_sentence(text)


def test_the_right_certificate_under_another_name(calm):
    status, text = run_client(calm, *arguments(calm, server_name="relay.example.org"))
    assert status == UNTRUSTED, text
    assert "relay.example.org" in one_sentence(text)


def test_no_certificate_given(calm):
    """The system's trust store does not know a development certificate."""
    words = arguments(calm)
    where = words.index("--relay-ca-cert")
    status, text = run_client(calm, *words[:where], *words[where + 2 :])
    assert status == UNTRUSTED, text
    one_sentence(text)


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"relay_ca_cert": "/nonexistent/relay-cert.der"}, USAGE, "/nonexistent/relay-cert.der"),
        ({"relay_ca_cert": "/etc/passwd"}, USAGE, "/etc/passwd"),
        ({"relay": "10.99.0.10:99999"}, USAGE, "99999"),
        ({"relay": "10.99.0.99", "connect_timeout": "1"}, FAILED, "10.99.0.99"),
        ({"relay": "10.99.0.10:444", "connect_timeout": "1"}, FAILED, "10.99.0.10"),
        ({"relay": "no-such-name.invalid", "connect_timeout": "1"}, FAILED, "no-such-name.invalid"),
        ({"virtual_mac": "00:11:22:33:44:55"}, USAGE, "00:11:22:33:44:55"),
        ({"virtual_mac": "03:11:22:33:44:55"}, USAGE, "03:11:22:33:44:55"),
        ({"identity": "/etc/passwd"}, USAGE, "/etc/passwd"),
        ({"tap": "wan0"}, CANNOT, "wan0"),
        ({"tap": "a-name-that-is-too-long"}, USAGE, "a-name-that-is-too-long"),
        ({"address": "192.168.77.300/24"}, USAGE, "192.168.77.300/24"),
        ({"config": "/nonexistent.toml"}, USAGE, "/nonexistent.toml"),
    ],
)
def test_what_a_client_cannot_do_is_said_in_one_sentence(lan, changed, status, says):
    got, text = run_client(lan, *arguments(lan, **changed))
    assert got == status, text
    assert says in one_sentence(text)


@pytest.mark.parametrize(("interface", "status"), [("eth7", CANNOT), ("lo", CANNOT), ("x" * 16, USAGE)])
def test_an_interface_that_a_gateway_cannot_use(lan, interface, status):
    words = arguments(lan, room="OTHER")
    del words[words.index("--identity") :]
    got, text = run_client(lan, *words, "--interface", interface, module="lanparty.gateway", place="gateway")
    assert got in (status, CANNOT), text
    assert interface in one_sentence(text, "lanparty.gateway")


def test_an_address_that_a_relay_cannot_listen_on(lan):
    for where, status in (("192.0.2.1:443", CANNOT), ("10.99.0.10:443", CANNOT), ("443/tcp", USAGE)):
        options = ("--listen", where, "--dev-cert-der-out", str(lan.party.directory / "x.der"))
        got, text = run_client(lan, *options, module="lanparty.relay", place="relay")
        assert got == status, text
        assert one_sentence(text, "lanparty.relay")


def test_without_the_right_to_make_an_adapter(lan):
    """As a user without capabilities: one sentence, and what to do."""
    drop = "import ctypes, os, sys; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0); "  # PR_SET_NO_NEW_PRIVS
    drop += "[ctypes.CDLL(None).prctl(24, n, 0, 0, 0) for n in range(41)]; "  # PR_CAPBSET_DROP: gone at the next exec
    drop += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    argv = [sys.executable, "-c", drop, "-m", "lanparty.client", *arguments(lan)]
    program = lan.party.start("without rights", "guest", argv)
    assert program.wait_ended(30) == CANNOT, program.lines
    assert one_sentence("\n".join(program.lines))
