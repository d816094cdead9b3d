"""The room's password: where it is read, what is wrong with it in one sentence, and what becomes of it."""

import pytest

from lanparty.cli.options import parse
from lanparty.client.options import build_parser
from lanparty.ctrl.messages import Role
from lanparty.ctrl.proof import room_seed
from lanparty.obs.errors import UsageError
from lanparty.obs.log import captured
from lanparty.uplink.settings import MAX_PASSWORD, PASSWORD_VARIABLE, settings_from

MINIMUM = ["--relay", "relay.example", "--room", "room1"]


def made(*options, role=Role.CLIENT, environment=None, **more):
    return settings_from(parse(build_parser(), [*MINIMUM, *options]), role=role, environment=environment or {}, **more)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "password"
    path.touch(0o600)
    return path


def test_without_a_password_there_is_no_key_and_a_client_has_the_identity_it_was_given():
    assert (made().room_key, made().identity) == (None, None)


def test_a_gateway_has_an_identity_of_its_own_in_each_run():
    seeds = iter([b"a" * 32, b"b" * 32])
    found = [made(role=Role.GATEWAY, entropy=lambda size: next(seeds)).identity.octets for _ in range(2)]
    assert found == [b"a" * 32, b"b" * 32]


@pytest.mark.parametrize("written", ["over & out", "over & out\n", "over & out\r\n", "\ufeffover & out\n"])
def test_from_a_file_as_editors_write_it(file, written):
    file.write_bytes(written.encode())
    with captured() as told:
        assert made("--room-password-file", str(file)).room_key == room_seed("over & out", "ROOM1")
    assert told == []


def test_the_file_comes_before_the_variable_and_spaces_count(file):
    file.write_text(" a ")
    environment = {PASSWORD_VARIABLE: "b"}
    assert made("--room-password-file", str(file), environment=environment).room_key == room_seed(" a ", "ROOM1")
    assert made(environment=environment).room_key == room_seed("b", "ROOM1")


def test_a_file_that_others_can_read_is_told_and_used(file):
    file.write_text("secret")
    file.chmod(0o640)
    with captured() as told:
        assert made("--room-password-file", str(file)).room_key is not None
    assert [(entry["event"], entry["file"]) for entry in told] == [("uplink.password-readable", str(file))]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"secret\nmore\n", "one line"),
        (b"sec\x1bret", "control character"),
        (b"sec\xffret", "not UTF-8"),
        (b"secret" + bytes(1), "control character"),
        (b"x" * (MAX_PASSWORD + 1), "longer than"),
        (b"x" * 100_000, "longer than"),
    ],
)
def test_what_is_no_password(file, written, says):
    file.write_bytes(written)
    with pytest.raises(UsageError, match=says) as caught:
        made("--room-password-file", str(file))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_of_the_greatest_length(file):
    file.write_text("x" * MAX_PASSWORD + "\r\n")
    assert made("--room-password-file", str(file)).room_key is not None


@pytest.mark.parametrize("value", ["", "a\nb", "\udcff", "x" * (MAX_PASSWORD + 1)])
def test_a_variable_that_is_no_password(value):
    with pytest.raises(UsageError, match=PASSWORD_VARIABLE):
        made(environment={PASSWORD_VARIABLE: value})


@pytest.mark.parametrize("name", ["", "missing", "a\0b"])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be read"):
        made("--room-password-file", str(tmp_path / name))


def test_the_command_line_offers_no_password_itself():
    with pytest.raises(UsageError):
        made("--room-password", "secret")


def test_neither_seed_is_ever_shown(file):
    file.write_text("secret")
    settings = made("--room-password-file", str(file), role=Role.GATEWAY)
    assert settings.room_key.octets.hex() not in repr(settings)
    assert str(settings.room_key.octets) not in repr(settings)
