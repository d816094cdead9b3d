import pytest

from lanparty.link.address_options import AddressOptions, parse_address_mode
from lanparty.obs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dhcp", "dhcp"),
        ("none", "none"),
        ("192.168.77.50/24", "192.168.77.50/24"),
        ("10.0.0.5/255.0.0.0", "10.0.0.5/8"),
    ],
)
def test_ways_to_get_an_address(text, expected):
    assert parse_address_mode(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DHCP",
        "192.168.77.50",
        "192.168.77.50/33",
        "192.168.77.0/24",
        "192.168.77.255/24",
        "192.168.77.50/31",
        "8.8.8.8/0",
        "127.0.0.1/8",
        "224.0.0.1/24",
        "255.255.255.255/8",
        "240.0.0.1/8",
        "0.0.0.0/8",
        "fd00::5/64",
        "192.168.77.050/24",
        "a/b",
    ],
)
def test_what_is_no_address_is_told_with_the_option_and_the_text(text):
    with pytest.raises(UsageError) as caught:
        parse_address_mode(text)
    assert str(caught.value).startswith(f"--address {text}: ")


def test_nothing_is_accepted_by_default():
    options = AddressOptions()
    assert (options.address, options.accept_default_route, options.accept_dns, options.host_name) == (
        "dhcp",
        False,
        False,
        None,
    )
