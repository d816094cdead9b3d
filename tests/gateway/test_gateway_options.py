"""The gateway's command line: the one of the README, and wrong ones."""

import pytest

from lanparty.cli.options import RelayAddress, parse
from lanparty.gateway.options import build_parser
from lanparty.obs.errors import UsageError

README = ["--relay", "203.0.113.10:443", "--room", "room1", "--interface", "eth0"]


def test_the_command_of_the_readme():
    options = parse(
        build_parser(), [*README, "--server-name", "lanparty-relay.local", "--relay-ca-cert", "relay-cert.der"]
    )
    assert options.relay == RelayAddress("203.0.113.10", 443)
    assert (options.room, options.interface, options.cam_refresh) == ("ROOM1", "eth0", 5.0)
    assert options.display_name == "gateway"


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (["--room", "no spaces"], "--room"),
        (["--cam-refresh", "0"], "--cam-refresh"),
        (["--cam-refresh", "often"], "--cam-refresh"),
        (["--connect-timeout", "-1"], "--connect-timeout"),
        (["--connect-timeout", "nan"], "--connect-timeout"),
        (["--interface", "a/b"], "--interface"),
        (["--relay", "[::1"], "--relay"),
        (["--server-name", ""], "--server-name"),
        (["--display-name", "x" * 65], "--display-name"),
        (["--display-name", "\x1b[31m"], "--display-name"),
    ],
)
def test_wrong_values_are_named(wrong, names):
    with pytest.raises(UsageError, match=names):
        parse(build_parser(), [*README, *wrong])


@pytest.mark.parametrize("missing", ["--relay", "--room", "--interface"])
def test_what_must_be_given(missing):
    place = README.index(missing)
    with pytest.raises(UsageError, match=missing):
        parse(build_parser(), README[:place] + README[place + 2 :])


def test_every_option_from_a_file(tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_text('relay = "relay.example"\nroom = "R"\ninterface = "eth1"\ncam-refresh = 2.5\nconnect_timeout = 0\n')
    options = parse(build_parser(), ["--config", str(file)])
    assert (options.cam_refresh, options.connect_timeout, options.interface) == (2.5, 0, "eth1")
