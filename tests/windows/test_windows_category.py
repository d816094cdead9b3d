"""The network's category, through real tables of COM functions."""

import pytest
import trio
from fake_iphelper import ETHERNET, TAP, FakeNetwork, on_windows

from lanparty.link.journal import Owner
from lanparty.link.windows.category import PAUSES, KeepPrivate, change_category, networks_of
from lanparty.link.windows.network import NetworkApi
from lanparty.link.windows.plan import CategoryKey, Step
from lanparty.link.windows.transaction import ChangedError, Transaction, VanishedError
from lanparty.link.windows.winapi import netlistmgr as nlm
from lanparty.link.windows.winapi import ole32
from lanparty.obs.errors import MachineError
from lanparty.obs.events import CLIENT_NETWORK_NOT_PRIVATE, CLIENT_NETWORK_PRIVATE
from lanparty.obs.log import listening

pytestmark = pytest.mark.usefixtures("no_threads")

PUBLIC = nlm.NLM_NETWORK_CATEGORY_PUBLIC
PRIVATE = nlm.NLM_NETWORK_CATEGORY_PRIVATE
DOMAIN = nlm.NLM_NETWORK_CATEGORY_DOMAIN_AUTHENTICATED
HERE = Owner(4711, 1000, "0x1", 0)
HOUSE = "{B0000000-0000-4000-8000-000000000001}"
HOME = "{B0000000-0000-4000-8000-000000000002}"
IDENTIFYING = "{B0000000-0000-4000-8000-000000000003}"


def machine(category=PUBLIC, *, connected=True):
    found = FakeNetwork.usual()
    found.networks = {HOUSE: category, HOME: PUBLIC}
    found.connections = [(ETHERNET, HOME)]
    if connected:
        found.connections.append((TAP, HOUSE))
    return found


def test_only_the_adapters_networks_are_found():
    with on_windows(machine()):
        assert networks_of(TAP) == {HOUSE: PUBLIC}
        assert networks_of("{A0000000-0000-4000-8000-00000000000F}") == {}


def test_a_category_is_changed_only_from_what_it_was():
    network = machine()
    step = Step(CategoryKey(HOUSE), PUBLIC, PRIVATE)
    with on_windows(network):
        change_category(HOUSE, step)
        assert network.networks == {HOUSE: PRIVATE, HOME: PUBLIC}
        with pytest.raises(ChangedError):
            change_category(HOUSE, step)
        change_category(HOUSE, step.undo())
        assert network.networks[HOUSE] == PUBLIC
        network.connections.clear()  # a network outlives its connections: repair needs that
        change_category(HOUSE, step)
        del network.networks[HOUSE]
        with pytest.raises(VanishedError):
            change_category(HOUSE, step)


@pytest.mark.parametrize(
    ("function", "error", "sentence"),
    [
        ("CoInitializeEx", ole32.E_FAIL, "0x80004005"),
        ("CoCreateInstance", ole32.REGDB_E_CLASSNOTREG, "Network List Service"),
        ("INetworkListManager::GetNetworkConnections", ole32.E_ACCESSDENIED, "administrator"),
    ],
)
def test_what_com_refuses_is_said_in_a_sentence_and_everything_is_released(function, error, sentence):
    network = machine()
    network.refuse[function] = error
    with on_windows(network), pytest.raises(MachineError, match=sentence):
        networks_of(TAP)


class Story:
    """KeepPrivate at work on a fake Windows."""

    def __init__(self, windows, directory):
        self.windows = windows
        self.api = NetworkApi(TAP)
        self.transaction = Transaction(self.api, directory, HERE)
        self.keeper = KeepPrivate(self.api, self.transaction, TAP)
        self.events = []

    async def run(self, story):
        with listening(lambda event, fields: self.events.append(event)):
            async with trio.open_nursery() as nursery:
                await nursery.start(self.keeper.run)
                await story()
                nursery.cancel_scope.cancel()

    async def changed(self):
        self.windows.ip_helper.notify()
        await trio.sleep(5)


async def test_the_network_that_comes_later_becomes_private_and_is_put_back(tmp_path, autojump_clock):
    network = machine(connected=False)
    with on_windows(network) as windows:
        story = Story(windows, tmp_path)

        async def later():
            await trio.sleep(15)
            network.connections.append((TAP, HOUSE))
            await trio.sleep(60)
            assert network.networks == {HOUSE: PRIVATE, HOME: PUBLIC}

        await story.run(later)
        assert story.events.count(CLIENT_NETWORK_PRIVATE) == 1
        assert await story.transaction.undo() == []
    assert network.networks == {HOUSE: PUBLIC, HOME: PUBLIC}


async def test_the_tries_are_bounded_until_something_changes(tmp_path, autojump_clock):
    network = machine(connected=False)
    with on_windows(network) as windows:
        story = Story(windows, tmp_path)

        def looks():
            return network.calls.count("INetworkListManager::GetNetworkConnections")

        async def nothing_and_then_something():
            await trio.sleep(3600)
            assert looks() == len(PAUSES) + 1
            network.connections.append((TAP, HOUSE))
            await story.changed()
            assert network.networks[HOUSE] == PRIVATE

        await story.run(nothing_and_then_something)


async def test_what_windows_shows_or_refuses_while_it_identifies_the_network_is_not_the_end(tmp_path, autojump_clock):
    network = machine()
    network.networks[IDENTIFYING] = PUBLIC
    network.connections[-1] = (TAP, IDENTIFYING)
    network.policy = True
    with on_windows(network) as windows:
        story = Story(windows, tmp_path)

        async def in_silence():
            await trio.sleep(4)
            network.policy = False
            await trio.sleep(6)
            assert network.networks[IDENTIFYING] == PRIVATE
            network.connections[-1] = (TAP, HOUSE)
            del network.networks[IDENTIFYING]
            await trio.sleep(40)
            assert network.networks == {HOUSE: PRIVATE, HOME: PUBLIC}

        await story.run(in_silence)
        assert story.events.count(CLIENT_NETWORK_NOT_PRIVATE) == 1
        assert await story.transaction.undo() == []
    assert network.networks == {HOUSE: PUBLIC, HOME: PUBLIC}


async def test_what_the_player_makes_public_again_stays_so(tmp_path, autojump_clock):
    network = machine()
    with on_windows(network) as windows:
        story = Story(windows, tmp_path)

        async def by_hand():
            await story.changed()
            assert network.networks[HOUSE] == PRIVATE
            network.networks[HOUSE] = PUBLIC
            await story.changed()
            assert network.networks[HOUSE] == PUBLIC

        await story.run(by_hand)
        await story.transaction.undo()
    assert network.networks[HOUSE] == PUBLIC


@pytest.mark.parametrize(("category", "policy"), [(DOMAIN, False), (PUBLIC, True)])
async def test_a_domain_and_a_policy_are_one_warning_and_no_end(category, policy, tmp_path, autojump_clock):
    network = machine(category)
    network.policy = policy
    with on_windows(network) as windows:
        story = Story(windows, tmp_path)

        async def watched():
            for _ in range(3):
                await story.changed()

        await story.run(watched)
        assert story.events.count(CLIENT_NETWORK_NOT_PRIVATE) == 1
        assert story.transaction.steps == ()
    assert network.networks[HOUSE] == category


async def test_a_missing_service_is_a_warning(tmp_path, autojump_clock):
    network = machine()
    network.refuse["CoCreateInstance"] = ole32.REGDB_E_CLASSNOTREG
    with on_windows(network) as windows:
        story = Story(windows, tmp_path)
        await story.run(story.changed)
        assert story.events.count(CLIENT_NETWORK_NOT_PRIVATE) == 1
