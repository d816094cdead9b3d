"""Accelerations are on unless the environment names them, and a wrong name is an error."""

import pytest

from lanparty.obs.errors import UsageError
from lanparty.obs.switches import ACCELERATIONS, VARIABLE, check_environment, enabled


@pytest.mark.parametrize(
    ("value", "off"),
    [
        (None, set()),
        ("", set()),
        ("gso", {"gso"}),
        ("gso,gro", {"gso", "gro"}),
        (" gso , gro,, ", {"gso", "gro"}),
        ("gso gro", {"gso", "gro"}),
        (",".join(ACCELERATIONS), set(ACCELERATIONS)),
    ],
)
def test_what_is_named_is_off_and_nothing_else(value, off, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    check_environment()
    assert {name for name in ACCELERATIONS if not enabled(name)} == off


@pytest.mark.parametrize(("value", "named"), [("gos", "gos"), ("gso,GRO,x", "GRO, x")])
def test_a_name_that_means_nothing_is_refused_with_those_that_do(value, named, monkeypatch):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(UsageError) as caught:
        check_environment()
    assert str(caught.value).startswith(f"{VARIABLE} names {named}; it can name ")
    assert all(name in str(caught.value) for name in ACCELERATIONS)


def test_only_what_exists_can_be_asked_for():
    with pytest.raises(AssertionError):
        enabled("warp")


def test_each_has_a_word_about_it():
    assert all(ACCELERATIONS.values())
    assert all(name.isalnum() and name.islower() for name in ACCELERATIONS)
