"""What the gateway program does before its parts run."""

from contextlib import asynccontextmanager

import pytest
import trio

from lanparty.cli.service import Service
from lanparty.gateway import __main__, app
from lanparty.gateway.options import build_parser
from lanparty.obs.errors import MachineError
from lanparty.obs.log import captured


async def test_what_an_earlier_run_left_is_put_right_first_and_told(monkeypatch, tmp_path):
    @asynccontextmanager
    async def open_netlink():
        yield "netlink"

    async def repair(directory, netlink):
        assert (directory, netlink) == (tmp_path, "netlink")
        return ["removed the interface lanparty-far0"]

    class NoSuchInterface:
        def __init__(self, interface, *, on_frames):
            self.interface = interface

        async def run(self, netlink, *, task_status):
            raise MachineError(f"there is no {self.interface}")

    monkeypatch.setattr(app, "open_netlink", open_netlink)
    monkeypatch.setattr(app, "state_directory", lambda: tmp_path)
    monkeypatch.setattr(app, "repair", repair)
    monkeypatch.setattr(app, "LanLink", NoSuchInterface)
    options = build_parser().parse_args(["--relay", "192.0.2.1", "--room", "R", "--interface", "eth9"])
    options.frame_log = False
    with captured() as entries, pytest.raises(ExceptionGroup) as caught:
        await app.amain(options, trio.Event(), Service())
    assert caught.group_contains(MachineError, match="there is no eth9")
    assert [(entry["event"], entry["what"]) for entry in entries] == [
        ("program.repaired", "removed the interface lanparty-far0")
    ]


async def test_where_there_is_no_linux_it_says_so(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    options = build_parser().parse_args(
        ["--relay", "r.example:7777", "--room", "2345-6789-abcd", "--interface", "eth0"]
    )
    with pytest.raises(MachineError, match="run it on Linux"):
        await __main__.amain(options, trio.Event(), Service())
