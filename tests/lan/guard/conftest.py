"""Two parties that the tests share: the guard strict, as it is by default, and off.

``off`` is there to show that each attack would work: that the test sees it when it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from lan_guard import Guarded, guarded_party

from lanparty.demo.programs import Party


@pytest.fixture(scope="session")
def strict(build: Callable[..., Party]) -> Iterator[Guarded]:
    with guarded_party(build, "strict") as party:
        yield party


@pytest.fixture(scope="session")
def off(build: Callable[..., Party]) -> Iterator[Guarded]:
    with guarded_party(build, "off") as party:
        yield party


@pytest.fixture(scope="session")
def careless(build: Callable[..., Party]) -> Iterator[Guarded]:
    """The relay lets everything through; the gateway is as it is without options."""
    with guarded_party(build, "off", gateway_level="strict") as party:
        yield party


@pytest.fixture
def guarded(request: pytest.FixtureRequest) -> Guarded:
    """The party at the level that the test names: parametrise with ``guarded``, indirect."""
    return request.getfixturevalue(request.param)
