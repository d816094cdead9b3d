import argparse
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lanparty
from lanparty.cli.options import (
    IntRange,
    ListenAddress,
    RelayAddress,
    interface_name,
    mac_address,
    parse,
    parse_address,
    parse_listen,
    parse_relay,
    program,
    room_code,
    virtual_mac,
)
from lanparty.obs.errors import UsageError

BOTH = [("0.0.0.0", 443), ("::", 443)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("443/udp", BOTH),
        ("0/udp", [("0.0.0.0", 0), ("::", 0)]),
        ("65535/udp", [("0.0.0.0", 65535), ("::", 65535)]),
        ("127.0.0.1:4433", [("127.0.0.1", 4433)]),
        ("127.0.0.1:0", [("127.0.0.1", 0)]),
        ("0.0.0.0:443", [("0.0.0.0", 443)]),
        ("127.0.0.1:4433/udp", [("127.0.0.1", 4433)]),
        ("[::1]:4433", [("::1", 4433)]),
        ("[::]:0", [("::", 0)]),
        ("[2001:DB8:0::1]:443", [("2001:db8::1", 443)]),
        ("[fe80::1%eth0]:443", [("fe80::1%eth0", 443)]),
    ],
)
def test_good_listen(text, expected):
    assert parse_listen(text) == [ListenAddress(*pair) for pair in expected]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not an address"),
        ("443", "a port alone is written 443/udp"),
        ("443/tcp", "QUIC runs on UDP"),
        ("443/", "QUIC runs on UDP"),
        ("/udp", "not an address"),
        ("65536/udp", "port must be a number from 0 to 65535"),
        ("999999/udp", "port must be"),
        ("²/udp", "port must be"),
        ("-1/udp", "not an address"),
        ("127.0.0.1", "not an address"),
        ("127.0.0.1:", "port must be"),
        ("127.0.0.1:x", "port must be"),
        ("127.0.0.1:70000", "port must be"),
        ("127.0.0.1:+1", "port must be"),
        ("127.0.0.1: 1", "port must be"),
        ("[127.0.0.1]:443", "written \\[ADDRESS\\]:PORT"),
        ("::1:443", "not an address"),
        ("::1", "not an address"),
        ("[::1]", "not an address"),
        ("[::1]443", "written \\[ADDRESS\\]:PORT"),
        ("[::1", "written \\[ADDRESS\\]:PORT"),
        ("localhost:443", "not an address"),
        (":443", "not an address"),
        ("*:443", "not an address"),
        ("256.0.0.1:443", "not an address"),
        ("010.0.0.1:443", "not an address"),
    ],
)
def test_bad_listen(text, says):
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "host", "port", "literal", "shown"),
    [
        ("relay.example", "relay.example", 443, False, "relay.example:443"),
        ("relay.example:4433", "relay.example", 4433, False, "relay.example:4433"),
        ("localhost", "localhost", 443, False, "localhost:443"),
        ("my_relay-2.lan:1", "my_relay-2.lan", 1, False, "my_relay-2.lan:1"),
        ("3com.example", "3com.example", 443, False, "3com.example:443"),
        ("bücher.example", "xn--bcher-kva.example", 443, False, "xn--bcher-kva.example:443"),
        ("203.0.113.10", "203.0.113.10", 443, True, "203.0.113.10:443"),
        ("203.0.113.10:65535", "203.0.113.10", 65535, True, "203.0.113.10:65535"),
        ("2001:db8::1", "2001:db8::1", 443, True, "[2001:db8::1]:443"),
        ("2001:DB8::0:1", "2001:db8::1", 443, True, "[2001:db8::1]:443"),
        ("[2001:db8::1]", "2001:db8::1", 443, True, "[2001:db8::1]:443"),
        ("[2001:db8::1]:4433", "2001:db8::1", 4433, True, "[2001:db8::1]:4433"),
        ("::1", "::1", 443, True, "[::1]:443"),
        ("fe80::1%eth0", "fe80::1%eth0", 443, True, "[fe80::1%eth0]:443"),
        ("relay.example.", "relay.example", 443, False, "relay.example:443"),
        ("relay.example.:4433", "relay.example", 4433, False, "relay.example:4433"),
    ],
)
def test_good_relay(text, host, port, literal, shown):
    address = parse_relay(text)
    assert address == RelayAddress(host, port)
    assert address.is_literal is literal
    assert str(address) == shown
    assert parse_relay(shown) == address


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":443",
            "relay:",
            "relay:0",
            "relay:65536",
            "relay:x",
            "relay:443:443",
            "relay example",
            "-relay",
            "relay-",
        ),
        *(
            "a..b",
            "a..",
            "203.0.113.10.",
            ".a",
            "a" * 64,
            ".".join(["a" * 63] * 5),
            "203.0.113",
            "203.0.113.256",
            "203.0.113.010",
            "1",
            "0x7f.1",
        ),
        *(
            "https://relay.example",
            "relay.example/room",
            "user@relay",
            "[2001:db8::1",
            "[relay]:443",
            "[203.0.113.1]:443",
        ),
        *("[2001:db8::1]:", "[2001:db8::1]:0", "2001:db8::g", "[::1]x", "re\nlay", "relay\x00", "\ud800", "."),
    ],
)
def test_bad_relay(text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse_relay(text)
    assert "\n" not in str(caught.value)


@given(st.text(st.characters(exclude_categories=[]), max_size=40))
def test_any_text_is_an_address_or_one_error(text):
    for kind in (
        parse_listen,
        parse_relay,
        parse_address,
        mac_address,
        virtual_mac,
        room_code,
        interface_name,
        IntRange(0, 9),
    ):
        try:
            kind(text)
        except argparse.ArgumentTypeError:
            continue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dhcp", "dhcp"),
        ("none", "none"),
        ("192.168.1.50/24", ipaddress.ip_interface("192.168.1.50/24")),
        ("10.0.0.0/31", ipaddress.ip_interface("10.0.0.0/31")),
        ("10.0.0.1/32", ipaddress.ip_interface("10.0.0.1/32")),
        ("2001:db8::5/64", ipaddress.ip_interface("2001:db8::5/64")),
    ],
)
def test_good_address(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "DHCP", "auto", "192.168.1.50", "192.168.1.50/", "192.168.1.50/33", "192.168.1.50/255.255.255.0", "/24"),
        *(
            "192.168.1.0/24",
            "192.168.1.255/24",
            "224.0.0.1/24",
            "0.0.0.0/0",
            "127.0.0.1/8",
            "10.0.0.1/0",
            "::/64",
            "ff02::1/64",
        ),
        *("192.168.1.50/-1", "192.168.1.50/ 24", "192.168.001.050/24", "::1/128"),
    ],
)
def test_bad_address(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_address(text)


def test_macs():
    assert str(mac_address("00-11-22-33-44-55")) == "00:11:22:33:44:55"
    assert str(virtual_mac("0211.2233.4455")) == "02:11:22:33:44:55"
    with pytest.raises(argparse.ArgumentTypeError, match="locally administered"):
        virtual_mac("00-11-22-33-44-55")
    with pytest.raises(argparse.ArgumentTypeError, match="is not a MAC address"):
        mac_address("00-11-22-33-44")


def test_rooms():
    assert room_code("room-1") == "ROOM-1"
    with pytest.raises(argparse.ArgumentTypeError, match="is not a room code"):
        room_code("room 1")


@pytest.mark.parametrize("text", ["eth0", "enp3s0", "br-lan", "wlan0.100", "a" * 15, "tap@1"])
def test_good_interfaces(text):
    assert interface_name(text) == text


@pytest.mark.parametrize("text", ["", "a" * 16, "ü" * 8, ".", "..", "a/b", "a:b", "a b", "a\n", "a\x00"])
def test_bad_interfaces(text):
    with pytest.raises(argparse.ArgumentTypeError):
        interface_name(text)


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("128", 128), ("007", 7)])
def test_good_numbers(text, number):
    assert IntRange(1, 128)(text) == number


@pytest.mark.parametrize("text", ["", "0", "129", "-1", "1.0", "1e2", " 1", "1_0", "٣", "9" * 5000])
def test_bad_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 to 128"):
        IntRange(1, 128)(text)


# --- the parser ---


def a_parser():
    parser = program("lanparty.test", "A test.")
    parser.add_argument("--relay", required=True, type=parse_relay, help="where (default: %(default)s)")
    parser.add_argument("--room", required=True, type=room_code)
    parser.add_argument("--limit", type=IntRange(1, 9), default=5, help="how many (default: %(default)s)")
    parser.add_argument("--where", type=parse_relay, default="relay.example:1")
    return parser


def test_defaults_of_every_program():
    options = parse(program("lanparty.test", "A test."), [])
    assert vars(options) == {
        "config": None,
        "log_level": "info",
        "log_format": "text",
        "log_file": None,
        "frame_log": False,
    }


def test_the_command_line():
    options = parse(a_parser(), ["--relay", "a.example", "--room=x", "--log-level", "debug", "--frame-log"])
    assert options.relay == RelayAddress("a.example")
    assert options.room == "X"
    assert options.limit == 5
    assert options.where == RelayAddress("relay.example", 1)
    assert options.log_level == "debug"
    assert options.frame_log is True


def test_a_parser_may_be_used_again():
    parser = a_parser()
    for _ in range(2):
        assert parse(parser, ["--relay", "a", "--room", "b"]).limit == 5
        with pytest.raises(UsageError):
            parse(parser, [])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "the following arguments are required: --relay, --room"),
        (["--relay", "a"], "the following arguments are required: --room"),
        (["--relay", "a:0", "--room", "b"], "argument --relay: 'a:0': the port must be a number from 1 to 65535"),
        (["--relay", "a", "--room", "b c"], "argument --room: 'b c' is not a room code"),
        (["--relay", "a", "--room", "b", "--limit", "x"], "argument --limit: 'x' is not a whole number from 1 to 9"),
        (["--relay", "a", "--room", "b", "--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["--relay", "a", "--room", "b", "--lim", "3"], "unrecognized arguments: --lim 3"),
        (["--relay", "a", "--room", "b", "stray"], "unrecognized arguments: stray"),
        (["--relay", "a", "--room", "b", "x\n\x1b[2J"], r"unrecognized arguments: x\n\x1b[2J"),
        (["--relay"], "argument --relay: expected one argument"),
        (["--config"], "argument --config: expected one argument"),
    ],
)
def test_errors_are_one_line(argv, says):
    with pytest.raises(UsageError) as caught:
        parse(a_parser(), argv)
    assert says in str(caught.value)
    assert str(caught.value).endswith("(see lanparty.test --help)")
    assert str(caught.value).isprintable()


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(a_parser(), ["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"lanparty.test {lanparty.__version__}\n"


def test_help_shows_defaults_and_what_is_required(capsys, tmp_path):
    missing = tmp_path / "missing.toml"
    with pytest.raises(SystemExit) as caught:
        parse(a_parser(), ["--config", str(missing), "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "how many (default: 5)" in text
    assert "--relay RELAY --room ROOM" in text
    assert "SUPPRESS" not in text
