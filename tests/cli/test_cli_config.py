import argparse
from pathlib import Path

import pytest

from lanparty.cli.options import IntRange, RelayAddress, parse, parse_listen, parse_relay, program
from lanparty.obs.errors import UsageError


def seconds(text: str) -> float:
    if not 0 <= float(text) <= 60:
        raise argparse.ArgumentTypeError("not a time")
    return float(text)


def a_parser():
    """Every kind of option that the programs have."""
    parser = program("lanparty.test", "A test.")
    parser.add_argument("--relay", required=True, type=parse_relay)
    parser.add_argument("--listen", action="append", type=parse_listen)
    parser.add_argument("--name", action="append", default=["x"])
    parser.add_argument("--max-rooms", type=IntRange(1, 100), default=10)
    parser.add_argument("--count", type=int)
    parser.add_argument("--ratio", type=float)
    parser.add_argument("--timeout", type=seconds, default=15.0)
    parser.add_argument("--no-fragments", dest="fragments", action="store_false")
    parser.add_argument("--accept-dns", action="store_true")
    parser.add_argument("--colour", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--many", nargs="+")
    return parser


@pytest.fixture
def options_with(tmp_path):
    def options_with(text, *argv):
        path = tmp_path / "lanparty.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return parse(a_parser(), ["--config", str(path), *argv])

    return options_with


def test_every_kind_of_option(options_with):
    options = options_with(
        """
        relay = "relay.example:1"
        listen = ["443/udp", "[::1]:0"]
        name = "one"
        max-rooms = 7
        count = -3
        ratio = 1
        timeout = 2.5
        no-fragments = true
        accept_dns = true
        colour = false
        tls-key = "key.pem"
        many = ["a", "b"]
        log-level = "debug"
        log_format = "json"
        frame-log = true
        """
    )
    assert options.relay == RelayAddress("relay.example", 1)
    assert options.listen == [parse_listen("443/udp"), parse_listen("[::1]:0")]
    assert options.name == ["one"]
    assert (options.max_rooms, options.count, options.ratio, options.timeout) == (7, -3, 1.0, 2.5)
    assert (options.fragments, options.accept_dns, options.colour, options.frame_log) == (False, True, False, True)
    assert options.tls_key == Path("key.pem")
    assert options.many == ["a", "b"]
    assert (options.log_level, options.log_format) == ("debug", "json")


def test_an_empty_file_changes_nothing(options_with):
    options = options_with("", "--relay", "a")
    assert vars(options) | {"config": None} == vars(parse(a_parser(), ["--relay", "a"]))


def test_false_is_the_same_as_leaving_a_switch_out(options_with):
    options = options_with("no-fragments = false\naccept-dns = false\nframe-log = false", "--relay", "a")
    assert (options.fragments, options.accept_dns, options.frame_log) == (True, False, False)


def test_the_command_line_wins(options_with):
    options = options_with(
        'relay = "a"\nlisten = ["443/udp"]\nname = ["x", "y"]\nmax-rooms = 7\nlog-level = "debug"\ncolour = false',
        *("--relay", "b", "--listen", "1/udp", "--name", "z", "--max-rooms", "10", "--log-level", "info", "--colour"),
    )
    assert options.relay == RelayAddress("b")
    assert options.listen == [parse_listen("1/udp")]
    assert options.name == ["z"]
    assert options.max_rooms == 10  # the default's value, but said
    assert options.log_level == "info"
    assert options.colour is True


def test_what_is_required_may_come_from_the_file(options_with):
    assert options_with('relay = "a"').relay == RelayAddress("a")
    with pytest.raises(UsageError, match="required: --relay"):
        options_with("count = 1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rooms = 7", "rooms is not an option of lanparty.test"),
        ('config = "other.toml"', "config is not an option"),
        ("help = true", "help is not an option"),
        ("version = true", "version is not an option"),
        ('"a\\nb" = 1', r"a\\nb is not an option"),
        ("[relay]\nhost = 'a'", "relay must be text in quotes"),
        ("relay = 5", "relay must be text in quotes, not 5"),
        ("relay = true", "relay must be text in quotes, not True"),
        ("relay = ['a']", "relay must be text in quotes"),
        ("relay = 'a:0'", "relay is wrong: 'a:0': the port must be"),
        ("listen = '443'", "listen is wrong: '443': a port alone"),
        ("listen = ['443/udp', 443]", "listen must be text in quotes, not 443"),
        ("max-rooms = '7'", "max-rooms must be a number, without quotes, not '7'"),
        ("max-rooms = true", "max-rooms must be a number, without quotes, not True"),
        ("max-rooms = 7.0", "max-rooms is wrong"),
        ("max-rooms = 0", "max-rooms is wrong: '0' is not a whole number from 1 to 100"),
        ("max-rooms = 1\nmax_rooms = 1", "max_rooms is set twice"),
        ("count = 1.5", "count must be a number"),
        ("count = 2020-01-01", "count must be a number"),
        ("ratio = 'x'", "ratio must be a number"),
        ("timeout = 99", "timeout is wrong: not a time"),
        ("timeout = '9'", "timeout must be a number"),
        ("accept-dns = 'true'", "accept-dns must be true or false, without quotes, not 'true'"),
        ("accept-dns = 1", "accept-dns must be true or false"),
        ("no-fragments = 'yes'", "no-fragments must be true or false"),
        ("many = []", "many must not be an empty list"),
        ("many = [1]", "many must be text in quotes"),
        ("log-level = 'loud'", "log-level must be one of debug, info, warning, error, not 'loud'"),
        ("relay = 'a'\nrelay = 'b'", "is not TOML"),
        ("relay = a", "is not TOML"),
        ("\x00", "is not TOML"),
        (b"\xff\xfe", "is not UTF-8 text"),
        ("many = " + "[" * 5000, "is not TOML"),
        (b"#" * (1024 * 1024 + 1), "is larger than"),
    ],
    ids=lambda value: str(value[:30]),
)
def test_bad_files_are_one_line_that_names_file_and_key(options_with, text, says):
    with pytest.raises(UsageError, match=says) as caught:
        options_with(text, "--relay", "a")
    assert "lanparty.toml" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["missing.toml", "", "no/such/file", "a\0b"])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(UsageError, match="cannot read configuration file"):
        parse(a_parser(), ["--config", f"{tmp_path}/{name}", "--relay", "a"])
