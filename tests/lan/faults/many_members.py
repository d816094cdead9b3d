"""Many members of a room in one process: the real programs' uplink (back-off, hello, heartbeats), without a device.

Prints one JSON event for each admission and each loss, with the time in seconds of ``time.monotonic()``, which all
processes of the machine share. Ends when it is killed.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import attrs
import trio

from lanparty.cli.options import Parser, parse_relay
from lanparty.ctrl.messages import Role
from lanparty.obs.errors import LanpartyError
from lanparty.quic.trust import Trust, load_pinned
from lanparty.uplink.loop import UplinkLoop
from lanparty.uplink.settings import UplinkSettings
from lanparty.uplink.tunnel import Tunnel


def tell(event: str, member: int, **fields: object) -> None:
    print(
        json.dumps({"event": event, "member": member, "at": time.monotonic(), "message": event, **fields}), flush=True
    )


@attrs.define
class Deviceless:
    """The uplink's port: tells what happens and takes no frames."""

    number: int

    async def on_connecting(self, _address: str) -> None:
        await trio.lowlevel.checkpoint()
        tell("member.connecting", self.number)

    async def on_admitted(self, welcome: object) -> None:
        await trio.lowlevel.checkpoint()

    def on_ready(self, _welcome: object) -> None:
        tell("member.admitted", self.number)

    def on_lost(self, reason: str) -> None:
        tell("member.lost", self.number, reason=reason)

    def on_peer_joined(self, _member: object) -> None: ...

    def on_peer_left(self, _peer_id: int) -> None: ...

    def on_frames(self, _frames: object, _now: float) -> None: ...


async def member(number: int, options: object, trust: Trust) -> None:
    settings = UplinkSettings(
        relay=options.relay,
        server_name=options.server_name,
        trust=trust,
        room=options.room,
        role=Role.CLIENT,
        virtual_mac=f"02:00:5e:10:{number >> 8:02x}:{number & 255:02x}",
        display_name=f"member {number}",
        connect_timeout=options.patience,
    )
    try:
        await UplinkLoop(settings, Deviceless(number), Tunnel(), watch=None).run()
    except LanpartyError as error:
        tell("member.failed", number, reason=str(error))


async def main(options: object) -> None:
    trust = Trust(load_pinned(options.relay_ca_cert))
    async with trio.open_nursery() as nursery:
        for number in range(options.first, options.first + options.count):
            nursery.start_soon(member, number, options, trust)
            await trio.sleep(options.apart)


if __name__ == "__main__":
    parser = Parser(prog="many_members", description="Be many members of one room.")
    parser.add_argument("--relay", required=True, type=parse_relay)
    parser.add_argument("--server-name", required=True)
    parser.add_argument("--relay-ca-cert", required=True, type=Path)
    parser.add_argument("--room", required=True)
    parser.add_argument("--count", required=True, type=int)
    parser.add_argument("--first", type=int, default=0, help="number of the first, which its MAC is made of")
    parser.add_argument("--apart", type=float, default=0.02, help="seconds between the beginnings of two")
    parser.add_argument("--patience", type=float, default=math.inf)
    trio.run(main, parser.parse_args(sys.argv[1:]))
