"""Each in a process of its own: what is given up does not come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from lanparty.cli.privileges import Capability, find_user
from lanparty.obs.errors import UsageError

PRELUDE = """
import json, os, sys, threading
from lanparty.cli.privileges import Capability, User, drop, find_user
from lanparty.obs.errors import MachineError
from lanparty.obs.log import configure
configure("debug", "json", "test")
def sets(path="/proc/self/status"):
    lines = dict(line.rstrip().split(":", 1) for line in open(path))
    return {name: int(lines[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")}
before = sets()
"""


def python(code: str) -> tuple[dict[str, int], ...]:
    text = PRELUDE + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "keep", [(), (Capability.NET_ADMIN,), (Capability.NET_ADMIN, Capability.NET_RAW)], ids=["none", "one", "two"]
)
def test_only_what_is_kept_is_left(keep):
    numbers = [int(capability) for capability in keep]
    bits = sum(1 << number for number in numbers)
    before, after, thread, child = python(
        f"""
        drop([Capability(number) for number in {numbers}])
        print(json.dumps(before)); print(json.dumps(sets()), flush=True)
        thread = threading.Thread(target=lambda: print(json.dumps(sets("/proc/thread-self/status")), flush=True))
        thread.start(); thread.join()
        os.execv(sys.executable, [sys.executable, "-c", {PRELUDE!r} + "print(json.dumps(before))"])
        """
    )
    expected = before["CapPrm"] & bits
    for found in (after, thread):
        assert found["CapEff"] == found["CapPrm"] == expected
        assert found["CapInh"] == found["CapAmb"] == 0
        assert found["NoNewPrivs"] == 1
        assert found["CapBnd"] & ~bits == 0 or not before["CapEff"] >> 8 & 1  # CAP_SETPCAP
    assert child["CapEff"] & ~expected == 0  # a program that is started later has no more
    assert child["NoNewPrivs"] == 1


def test_twice_is_no_mistake():
    (after,) = python("drop([Capability.NET_RAW]); drop(); print(json.dumps(sets()))")
    assert after["CapEff"] == after["CapPrm"] == 0


def test_a_second_thread_would_keep_everything():
    python(
        """
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait); thread.start()
        try:
            drop()
        except RuntimeError as error:
            assert "before other threads run; there are 2" in str(error)
        else:
            sys.exit("nothing was raised")
        assert sets() == before
        gate.set()
        """
    )


def test_another_user():
    if os.geteuid() != 0:
        with pytest.raises(UsageError, match="Only root can change"):
            find_user("root")
        return
    python(
        """
        user = find_user("nobody")
        drop([Capability.NET_ADMIN], user=user)
        assert os.getresuid() == (user.uid,) * 3 and os.getresgid() == (user.gid,) * 3, os.getresuid()
        assert 0 not in os.getgroups()
        assert sets()["CapPrm"] == 0, "a change of user takes all of them"
        try:
            os.setuid(0)
        except PermissionError:
            pass
        else:
            sys.exit("root again")
        """
    )


def test_a_user_that_does_not_exist_is_one_sentence():
    with pytest.raises(UsageError, match=r"^There is no user 'no\\x00body' on this machine"):
        find_user("no\0body")
    with pytest.raises(UsageError, match="There is no user 'who-is-that'"):
        find_user("who-is-that")


def test_a_kernel_that_refuses_is_one_sentence():
    python(
        """
        import lanparty.cli.privileges as privileges
        def refuse(_permitted):
            raise PermissionError(1, "Operation not permitted")
        privileges._set = refuse
        try:
            drop()
        except MachineError as error:
            assert str(error).startswith("cannot give up the privileges of this process (Operation not permitted)")
        else:
            sys.exit("nothing was raised")
        """
    )
