"""What is made of an adapter's addresses: pictures and times in, things to say and to do out."""

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanparty.link import dhcp_client
from lanparty.link.windows import lease
from lanparty.link.windows.lease import (
    ASK_AGAIN,
    GIVE_BACK_AGAIN,
    GIVEN_BACK_PAUSE,
    LOST_AFTER,
    SILENT_AFTER,
    AdapterAddress,
    AdapterView,
    Advised,
    Ask,
    Asking,
    FixedStory,
    GiveBack,
    Got,
    HouseAddress,
    LeaseStory,
    Lost,
    Renewed,
    Silent,
    conflicts,
)

LEASED = AdapterAddress("192.168.77.100", 24, "dhcp", "preferred", seconds=3600, lease=3600)
AUTOMATIC = AdapterAddress("169.254.7.9", 16, "other", "preferred")
EMPTY = AdapterView(7, "lanparty", up=True, dhcp=True)
BOUND = attrs.evolve(
    EMPTY, addresses=(LEASED,), server="192.168.77.1", gateways=("192.168.77.1",), name_servers=("192.168.77.1",)
)
DOWN = attrs.evolve(EMPTY, up=False)
GOT = HouseAddress("192.168.77.100", 24, "192.168.77.1", 3600, 3600, "192.168.77.1", ("192.168.77.1",))


def with_address(**changes):
    return attrs.evolve(BOUND, addresses=(attrs.evolve(LEASED, **changes),))


def held_story(now=0.0):
    story = LeaseStory()
    assert story.look(BOUND, True, now) == [Got(GOT)]
    return story


def test_the_waits_are_those_of_linux():
    assert SILENT_AFTER == dhcp_client.SILENT_AFTER
    assert ASK_AGAIN == dhcp_client.MAX_WAIT


def test_nothing_happens_while_the_cable_is_out_or_nobody_could_hear():
    story = LeaseStory()
    assert story.look(DOWN, None, 0.0) == []
    assert story.look(DOWN, True, 1.0) == []
    assert story.look(EMPTY, False, 2.0) == []
    assert story.look_at == math.inf


def test_the_house_is_asked_at_once_and_the_player_is_told_once_when_nobody_answers():
    story = LeaseStory()
    assert story.look(EMPTY, True, 5.0) == [Asking(), Ask()]
    assert story.look_at == 5.0 + SILENT_AFTER
    assert story.look(attrs.evolve(EMPTY, addresses=(AUTOMATIC,)), True, 11.0) == []
    assert story.look(EMPTY, True, 15.0) == [Silent(10.0)]
    assert story.look_at == 5.0 + ASK_AGAIN
    assert story.look(EMPTY, True, 21.0) == [Ask()]
    assert story.look(EMPTY, True, 21.5) == []
    assert story.look(EMPTY, True, 37.0) == [Ask()]


def test_a_house_that_comes_is_asked_at_once_though_another_was_asked_just_now():
    story = LeaseStory()
    story.look(EMPTY, True, 0.0)
    assert story.look(EMPTY, False, 1.0) == []
    assert story.look(EMPTY, True, 2.0) == [Asking(), Ask()]


@pytest.mark.parametrize(
    "address",
    [
        AUTOMATIC,
        attrs.evolve(LEASED, state="duplicate"),
        attrs.evolve(LEASED, origin="manual"),
        attrs.evolve(LEASED, address="169.254.3.4", prefix=16),
    ],
)
def test_what_is_no_lease(address):
    story = LeaseStory()
    assert story.look(attrs.evolve(BOUND, addresses=(address,)), True, 0.0) == [Asking(), Ask()]
    assert story.held is None


def test_a_lease_that_windows_still_checks_is_waited_for():
    story = LeaseStory()
    checked = with_address(state="tentative")
    story.look(EMPTY, True, 0.0)
    assert story.look(checked, True, 1.0) == []
    assert story.held is None
    assert story.look(BOUND, True, 4.0) == [Got(GOT)]
    # After the cable was out it is checked again.
    assert story.look(DOWN, True, 100.0) == []
    assert story.look(EMPTY, True, 101.0) == []
    assert story.look(checked, True, 102.0) == []
    assert story.look(checked, True, 102.0 + LOST_AFTER) == []
    assert story.held == GOT


def test_what_no_house_can_mean_is_given_back_before_it_is_checked():
    (back,) = LeaseStory().look(with_address(prefix=1, state="tentative"), True, 0.0)
    assert isinstance(back, GiveBack)


def test_a_lease_is_told_once_with_what_the_house_said():
    story = held_story()
    assert story.held == GOT
    assert story.look(BOUND, True, 0.5) == []


def test_a_router_outside_the_network_or_the_address_itself_is_none():
    story = LeaseStory()
    view = attrs.evolve(BOUND, gateways=("10.0.0.1", "192.168.77.100"))
    assert story.look(view, True, 0.0) == [Got(attrs.evolve(GOT, router=None))]


def test_a_router_that_comes_after_the_address_is_taken_note_of():
    story = LeaseStory()
    story.look(attrs.evolve(BOUND, gateways=()), True, 0.0)
    assert story.look(BOUND, True, 0.5) == [Advised(GOT)]
    assert story.held == GOT
    assert story.look(BOUND, True, 1.0) == []


def test_a_lease_that_lasts_longer_than_was_known_was_renewed():
    story = held_story()
    assert story.look(with_address(seconds=1800), True, 1800.0) == []
    assert story.look(with_address(seconds=3599), True, 1801.0) == [Renewed(attrs.evolve(GOT, seconds=3599))]


def test_a_house_that_agrees_soon_after_is_told_of_once():
    story = held_story()
    story.agreed()
    assert story.look(with_address(seconds=3599), True, 1.0) == [Renewed(attrs.evolve(GOT, seconds=3599))]
    assert story.look(with_address(seconds=3598), True, 2.0) == []


def test_agreement_to_nothing_is_none():
    story = LeaseStory()
    story.agreed()
    assert story.look(BOUND, True, 0.0) == [Got(GOT)]
    assert story.look(BOUND, True, 0.1) == []


def test_a_lease_for_ever():
    story = LeaseStory()
    view = with_address(seconds=None, lease=None)
    assert story.look(view, True, 0.0) == [Got(attrs.evolve(GOT, seconds=None, lease_seconds=None))]
    assert story.look(view, True, 1e6) == []


def test_an_address_that_is_off_for_a_moment_is_not_lost():
    story = held_story()
    assert story.look(EMPTY, True, 10.0) == []
    assert story.look_at == 10.0 + LOST_AFTER
    assert story.look(with_address(seconds=3588), True, 12.0) == []


@pytest.mark.parametrize(
    ("seconds", "reason"), [(600, "the house refused it, or somebody took it off"), (12, "the lease ran out")]
)
def test_an_address_that_stays_off_is_lost_and_the_house_is_asked(seconds, reason):
    story = LeaseStory()
    story.look(with_address(seconds=seconds), True, 0.0)
    story.look(EMPTY, True, 10.0)
    assert story.look(EMPTY, True, 10.0 + LOST_AFTER) == [Lost("192.168.77.100", reason), Asking(), Ask()]


def test_a_pulled_cable_loses_nothing():
    story = held_story()
    story.look(EMPTY, True, 10.0)
    assert story.look(DOWN, True, 20.0) == []
    assert story.look(EMPTY, True, 21.0) == []  # Windows has not put it on again yet
    assert story.look(with_address(seconds=3578), True, 22.0) == []


def test_another_address_is_told_as_such():
    story = held_story()
    other = attrs.evolve(GOT, address="192.168.77.150")
    assert story.look(with_address(address="192.168.77.150"), True, 1.0) == [
        Lost("192.168.77.100", "the house gave another one"),
        Got(other),
    ]


@pytest.mark.parametrize(
    ("address", "prefix"),
    [("8.8.8.9", 1), ("8.8.8.9", 15), ("10.1.2.3", 7), ("192.168.77.100", 31), ("127.0.0.9", 8), ("192.168.77.0", 24)],
)
def test_what_no_house_can_mean_is_given_back_and_the_house_is_left_alone_for_a_while(address, prefix):
    story = LeaseStory()
    bad = with_address(address=address, prefix=prefix)
    (back,) = story.look(bad, True, 0.0)
    assert isinstance(back, GiveBack)
    assert "192.168.77.1" in back.what
    assert story.held is None
    assert story.look(bad, True, 0.1) == []
    assert story.look(EMPTY, True, 1.0) == []
    assert story.look(EMPTY, True, GIVEN_BACK_PAUSE) == []
    assert story.look(EMPTY, True, 0.1 + GIVEN_BACK_PAUSE) == [Ask()]
    assert story.look(BOUND, True, 1.0 + GIVEN_BACK_PAUSE) == [Got(GOT)]


def test_what_stays_on_is_given_back_again_but_told_once():
    story = LeaseStory()
    bad = with_address(prefix=1)
    story.look(bad, True, 0.0)
    assert story.look_at == GIVE_BACK_AGAIN
    assert story.look(bad, True, GIVE_BACK_AGAIN) == [GiveBack(None)]


def test_a_lease_whose_mask_becomes_impossible_is_lost():
    story = held_story()
    lost, back = story.look(with_address(prefix=0), True, 1.0)
    assert lost == Lost("192.168.77.100", "the house named a network that cannot be one")
    assert isinstance(back, GiveBack)


FIXED = AdapterAddress("192.168.77.50", 24, "manual", "preferred")


def test_a_fixed_address_is_told_when_nobody_else_has_it():
    story = FixedStory("192.168.77.50", 24)
    view = attrs.evolve(EMPTY, dhcp=False)
    assert story.look(attrs.evolve(view, up=False, addresses=(FIXED,)), True, 0.0) == []
    assert story.look(view, True, 0.1) == []
    tentative = attrs.evolve(view, addresses=(attrs.evolve(FIXED, state="tentative"),))
    assert story.look(tentative, True, 0.2) == []
    there = attrs.evolve(view, addresses=(FIXED,))
    assert story.look(there, True, 1.0) == [Got(HouseAddress("192.168.77.50", 24))]
    assert story.look(there, True, 2.0) == []


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ((attrs.evolve(FIXED, state="duplicate"),), "another computer in the house has it"),
        ((), "somebody took it off"),
    ],
)
def test_a_fixed_address_that_is_lost_is_told_once_and_again_when_it_is_back(addresses, reason):
    story = FixedStory("192.168.77.50", 24)
    there = attrs.evolve(EMPTY, addresses=(FIXED,))
    story.look(there, True, 0.0)
    gone = attrs.evolve(EMPTY, addresses=addresses)
    assert story.look(gone, True, 1.0) == [Lost("192.168.77.50", reason)]
    assert story.look(gone, True, 2.0) == []
    assert story.look(there, True, 3.0) == [Got(HouseAddress("192.168.77.50", 24))]


def test_a_fixed_address_that_somebody_has_from_the_start():
    story = FixedStory("192.168.77.50", 24)
    taken = attrs.evolve(EMPTY, addresses=(attrs.evolve(FIXED, state="duplicate"),))
    assert story.look(taken, True, 0.0) == [Lost("192.168.77.50", "another computer in the house has it")]


def test_conflicts_are_of_other_adapters_that_are_up():
    home = AdapterView(3, "Wi-Fi", True, True, (AdapterAddress("192.168.0.5", 16, "dhcp", "preferred"),))
    off = attrs.evolve(home, index=4, name="Ethernet", up=False)
    far = AdapterView(5, "VPN", True, False, (AdapterAddress("10.0.0.5", 8, "manual", "preferred"),))
    assert conflicts(GOT.network, [home, off, far, BOUND], own=7) == [("Wi-Fi", "192.168.0.0/16")]


VIEWS = st.sampled_from(
    [DOWN, EMPTY, BOUND, with_address(prefix=1), with_address(address="192.168.77.9"), with_address(seconds=20)]
)


@given(st.lists(st.tuples(VIEWS, st.sampled_from([None, True, False]), st.floats(0, 40)), max_size=60))
def test_whatever_happens_what_is_told_is_consistent_and_nothing_spins(steps):
    """Got and Lost alternate; the next look is always later than this one; asking never comes without a house."""
    story = LeaseStory()
    told, now, asks = None, 0.0, []
    for view, house, wait in steps:
        now += wait
        turns = story.look(view, house, now)
        assert story.look_at > now
        for turn in turns:
            match turn:
                case Got(got):
                    assert told is None
                    told = got.address
                case Lost(address):
                    assert told == address
                    told = None
                case Ask():
                    assert house is not False
                    assert told is None
                    asks.append(now)
                case Renewed(got):
                    assert told == got.address
        assert (None if story.held is None else story.held.address) == told
        assert view.up or not turns


def test_the_module_has_no_clock():
    assert not {"time", "trio"} & set(vars(lease))
