"""The relay's command line: every option, every contradiction."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from lanparty.cli.options import ListenAddress, parse
from lanparty.guard.levels import GuardSettings, Level, RoomPolicy
from lanparty.obs import events
from lanparty.obs.errors import UsageError
from lanparty.obs.log import LEVELS
from lanparty.relay.options import RelaySettings, build_parser, settings_from
from lanparty.relay.rooms import RoomLimits


def settings(*argv: str) -> RelaySettings:
    return settings_from(parse(build_parser(), argv))


def test_the_issues_command_line() -> None:
    found = settings("--listen", "443/udp", "--dev-cert-der-out", "relay-cert.der")
    assert found == RelaySettings(
        listen=(ListenAddress("0.0.0.0", 443), ListenAddress("::", 443)),
        limits=RoomLimits(max_clients_per_room=32, max_rooms=256, room_mtu=1500, fragments=True),
        dev_certificate=Path("relay-cert.der"),
        dev_names=(),
        certificate=None,
        stats_interval=60,
        frame_log=False,
    )
    assert settings("--dev-cert-der-out", "relay-cert.der") == found


def test_every_option() -> None:
    found = settings(
        *("--listen", "127.0.0.1:0", "--listen", "[::1]:8443", "--listen", "127.0.0.1:0"),
        *("--tls-cert", "c.pem", "--tls-key", "k.pem", "--max-clients-per-room", "5", "--max-rooms", "6"),
        *("--max-waiting-rooms", "0", "--room-tries", "7"),
        *("--room-mtu", "1400", "--no-fragments", "--stats-interval", "0", "--frame-log"),
    )
    assert found.listen == (ListenAddress("127.0.0.1", 0), ListenAddress("::1", 8443))
    assert found.limits == RoomLimits(
        max_clients_per_room=5, max_rooms=6, max_waiting_rooms=0, room_tries=7, room_mtu=1400, fragments=False
    )
    assert found.certificate == (Path("c.pem"), Path("k.pem"))
    assert (found.dev_certificate, found.stats_interval, found.frame_log) == (None, 0, True)


def test_names_for_the_development_certificate() -> None:
    found = settings("--dev-cert-der-out", "d", "--dev-cert-name", "lan.example", "--dev-cert-name", "2001:db8::1")
    assert found.dev_names == ("lan.example", "2001:db8::1")


def test_every_option_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text(
        'listen = ["127.0.0.1:1"]\ndev-cert-der-out = "d.der"\ndev_cert_name = "a.example"\nmax-rooms = 3\n'
        "max-clients-per-room = 4\nroom-mtu = 1300\nno-fragments = true\nstats-interval = 5\n"
    )
    found = settings("--config", str(config), "--max-rooms", "9")
    assert found.listen == (ListenAddress("127.0.0.1", 1),)
    assert found.limits == RoomLimits(max_clients_per_room=4, max_rooms=9, room_mtu=1300, fragments=False)
    assert (found.dev_certificate, found.dev_names, found.stats_interval) == (Path("d.der"), ("a.example",), 5)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["--dev-cert-der-out FILE", "--tls-cert FILE", "--tls-key FILE"]),
        (["--dev-cert-der-out", "d", "--tls-cert", "c", "--tls-key", "k"], ["exclude each other"]),
        (["--dev-cert-der-out", "d", "--tls-key", "k"], ["exclude each other"]),
        (["--tls-cert", "c"], ["--tls-cert needs --tls-key"]),
        (["--tls-key", "k"], ["--tls-key needs --tls-cert"]),
        (["--tls-cert", "c", "--tls-key", "k", "--dev-cert-name", "x"], ["--dev-cert-name"]),
        (["--dev-cert-der-out", "d", "--dev-cert-name", "two words"], ["two words"]),
        (["--dev-cert-der-out", "d", "--max-rooms", "0"], ["--max-rooms", "from 1 to"]),
        (["--dev-cert-der-out", "d", "--max-clients-per-room", "129"], ["--max-clients-per-room", "128"]),
        (["--dev-cert-der-out", "d", "--room-mtu", "1501"], ["--room-mtu", "576", "1500"]),
        (["--dev-cert-der-out", "d", "--room-mtu", "575"], ["--room-mtu"]),
        (["--dev-cert-der-out", "d", "--stats-interval", "-1"], ["--stats-interval"]),
        (["--dev-cert-der-out", "d", "--listen", "443"], ["443/udp"]),
        (["--dev-cert-der-out", "d", "--listen", "example.com:443"], ["--listen"]),
    ],
)
def test_wrong_command_lines(argv: list[str], words: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        settings(*argv)
    assert all(word in str(raised.value) for word in words)
    assert "\n" not in str(raised.value)


def test_names_of_the_certificate_lose_their_final_dot() -> None:
    options = build_parser().parse_args(["--dev-cert-der-out", "x", "--dev-cert-name", "play.example."])
    assert settings_from(options).dev_names == ("play.example",)


def test_statistics_are_shown_each_minute_at_the_default_log_level() -> None:
    options = build_parser().parse_args(["--dev-cert-der-out", "x"])
    assert settings_from(options).stats_interval == 60
    assert LEVELS[options.log_level] <= events.RELAY_STATS.level


# --- guard ------------------------------------------------------------------------------------------------------------

DEV = ("--dev-cert-der-out", "d")


def test_guard_options_are_put_together_by_room() -> None:
    assert settings(*DEV).guards == GuardSettings()
    found = settings(
        *DEV,
        *("--guard", "standard", "--room-guard", "a=strict", "--room-guard", "B=off"),
        *("--isolate", "a", "--isolate", "C"),
        *("--room-ethertype", "A=88b5", "--room-ethertype", "a=0x88B6", "--ipv6-routing", "c", "--no-link-local", "A"),
    ).guards
    standard = RoomPolicy(level=Level.STANDARD)
    strict = RoomPolicy(ethertypes=frozenset({0x88B5, 0x88B6}), isolated=True, link_local_ipv4=False)
    assert found.policy("A") == strict
    assert found.policy("B") == RoomPolicy(level=Level.OFF)
    assert found.policy("C") == attrs.evolve(standard, isolated=True, ipv6_routing=True)
    assert found.policy("D") == standard


def test_guard_options_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text('guard = "off"\nroom-guard = ["a=strict"]\nroom_ethertype = "a=88B5"\nisolate = ["b"]\n')
    found = settings(*DEV, "--config", str(config)).guards
    assert found.policy("A") == RoomPolicy(ethertypes=frozenset({0x88B5}))
    assert found.policy("B") == RoomPolicy(level=Level.OFF, isolated=True)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--guard", "none"), "'none' is not a level: use strict, standard, off"),
        (("--room-guard", "a"), "'a' is not ROOM=LEVEL"),
        (("--room-guard", "a=loose"), "'loose' is not a level"),
        (("--room-guard", "_=off"), "is not a room code"),
        (("--room-guard", "a=off", "--room-guard", "A=strict"), "gives room A two levels, off and strict"),
        (("--room-ethertype", "a=88B"), "four hexadecimal digits"),
        (("--room-ethertype", "a=8100"), "is a VLAN tag"),
        (("--room-ethertype", "a=05DC"), "they begin at 0600"),
        (("--room-ethertype", "a=86dd"), "passes anyway"),
        (("--room-guard", "a=off", "--room-ethertype", "a=88B5"), "has no effect, because its level is off"),
        (("--guard", "off", "--no-link-local", "a"), "has no effect, because its level is off"),
        (("--isolate", "a b"), "is not a room code"),
    ],
)
def test_guard_options_that_make_no_sense(argv: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        settings(*DEV, *argv)
