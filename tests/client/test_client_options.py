"""The client's command line: the one of the README, and wrong ones."""

from pathlib import Path

import pytest

from lanparty.cli.options import RelayAddress, parse
from lanparty.client.options import address_options, build_parser
from lanparty.ctrl.messages import Role
from lanparty.link.address_options import AddressOptions
from lanparty.obs.errors import UsageError
from lanparty.uplink.settings import settings_from

README = ["--relay", "203.0.113.10:443", "--room", "ROOM1"]


def test_the_command_of_the_readme():
    options = parse(
        build_parser(), [*README, "--server-name", "lanparty-relay.local", "--relay-ca-cert", "relay-cert.der"]
    )
    assert options.identity == Path("lanparty-client-identity.json")
    assert (options.virtual_mac, options.tap, options.adapter) == (None, None, "auto")
    assert address_options(options) == AddressOptions("dhcp", accept_default_route=False, accept_dns=False)
    assert (options.display_name, options.connect_timeout) == ("player", 15.0)


@pytest.mark.parametrize("address", ["none", "192.168.77.5/24"])
def test_addresses(address):
    options = parse(build_parser(), [*README, "--address", address, "--accept-default-route", "--accept-dns"])
    assert address_options(options) == AddressOptions(address, accept_default_route=True, accept_dns=True)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (["--virtual-mac", "00:11:22:33:44:55"], "--virtual-mac"),
        (["--virtual-mac", "02:11:22"], "--virtual-mac"),
        (["--tap", "a name with spaces"], "--tap"),
        (["--adapter", "wifi"], "--adapter"),
        (["--address", "192.168.77.0/24"], "--address"),
        (["--address", "192.168.77.5"], "--address"),
    ],
)
def test_wrong_values_are_named(wrong, names):
    with pytest.raises(UsageError, match=names):
        parse(build_parser(), [*README, *wrong])


@pytest.mark.parametrize("name", ["Ethernet 2", "lanparty", "LAN-Verbindung 3", "x" * 256, "Ünïcode (1)"])
def test_on_windows_an_adapter_is_named_as_people_see_it(name):
    assert parse(build_parser(windows=True), [*README, "--tap", name]).tap == name


@pytest.mark.parametrize("wrong", ["", "a/b", "a\\b", "what?", "x" * 257, "a\tb"])
def test_what_is_no_name_on_windows(wrong):
    with pytest.raises(UsageError, match="--tap"):
        parse(build_parser(windows=True), [*README, "--tap", wrong])


def test_windows_has_tap_adapters_only():
    assert parse(build_parser(windows=True), [*README, "--adapter", "tap"]).adapter == "tap"
    with pytest.raises(UsageError, match="--adapter"):
        parse(build_parser(windows=True), [*README, "--adapter", "veth"])


@pytest.mark.parametrize("windows", [False, True])
def test_help_can_be_written_to_any_console(windows):
    """A redirected stdout of Windows refuses what its code page does not have."""
    assert build_parser(windows=windows).format_help().isascii()


def test_an_address_that_no_player_can_have():
    with pytest.raises(UsageError, match="--address"):
        address_options(parse(build_parser(), [*README, "--address", "2001:db8::5/64"]))


@pytest.mark.parametrize(
    ("relay", "name", "expected"),
    [
        ("relay.example", None, (RelayAddress("relay.example", 443), "relay.example")),
        ("203.0.113.10", None, (RelayAddress("203.0.113.10", 443), "203.0.113.10")),
        ("[2001:db8::1]:4433", "other.example", (RelayAddress("2001:db8::1", 4433), "other.example")),
        ("relay.example.", "other.example.", (RelayAddress("relay.example", 443), "other.example")),
    ],
)
def test_the_certificates_name_is_that_of_the_relay_unless_said(relay, name, expected):
    arguments = ["--relay", relay, "--room", "r", *(["--server-name", name] if name else [])]
    settings = settings_from(parse(build_parser(), arguments), role=Role.CLIENT, virtual_mac="02:00:00:00:00:01")
    assert (settings.relay, settings.server_name) == expected
    assert settings.trust.ca_pem is None


def test_a_certificate_file_that_is_not_there(tmp_path):
    options = parse(build_parser(), [*README, "--relay-ca-cert", str(tmp_path / "none.der")])
    with pytest.raises(UsageError, match=r"none\.der"):
        settings_from(options, role=Role.CLIENT)


def test_connect_timeout_zero_is_for_ever():
    options = parse(build_parser(), [*README, "--connect-timeout", "0"])
    assert settings_from(options, role=Role.CLIENT).connect_timeout == float("inf")
