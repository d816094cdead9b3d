"""What fuzzing found in the relay, each as the shortest row of events that showed it (tests/fuzz)."""

from __future__ import annotations

from lanparty.guard.bindings import Bindings

FIRST, SECOND = bytes((2, 0, 0, 0, 0, 1)), bytes((2, 0, 0, 0, 0, 2))
ONE, OTHER = bytes((192, 168, 77, 2)), bytes((192, 168, 77, 3))


def test_a_second_refusal_leaves_nothing_of_the_first() -> None:
    """The address refused first had a holder that did not have it: whoever took it later made ``uses`` raise KeyError,
    which ended the session of somebody who had done nothing wrong."""
    table = Bindings()
    table.acknowledged(FIRST, ONE, 60, 0.0)
    table.requested(FIRST, b"xid1", ONE)
    table.refused(FIRST, b"xid1")
    assert table.uses(FIRST, OTHER, 1.0)
    table.requested(FIRST, b"xid2", OTHER)
    table.refused(FIRST, b"xid2")
    assert not table.uses(FIRST, OTHER, 2.0)
    table.left(FIRST, 2.0)
    assert table.uses(SECOND, ONE, 100.0)
