"""Joins a room and leaves it, again and again, beside a gateway that stays.

    python join_leave.py HOST CERTIFICATE CYCLES   → a JSON line {"cycles": n} after every tenth part, as it goes

Every third member goes without a goodbye, every third breaks off before its hello is answered.
"""

import json
import sys
from pathlib import Path

import trio

from lanparty.ctrl import codec
from lanparty.ctrl.codec import ControlDecoder
from lanparty.ctrl.messages import PROTOCOL, Heartbeat, Hello, Role, Welcome
from lanparty.quic.client import drive
from lanparty.quic.connection import Connection, ConnectionLost
from lanparty.quic.trust import Trust, load_pinned

HEARTBEAT = 1.0  # seconds


class Member:
    """One connection, and what has come on its control stream."""

    def __init__(self, host: str, trust: Trust) -> None:
        self._host, self._trust = host, trust
        self._decoder = ControlDecoder()
        self.connection: Connection

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self.connection = await nursery.start(self._drive)
            task_status.started()

    async def _drive(self, *, task_status: trio.TaskStatus[Connection]) -> None:
        try:
            await drive(
                (self._host, 443), server_name="lanparty-relay.local", trust=self._trust, task_status=task_status
            )
        except ConnectionLost:
            return

    async def hello(self, number: int) -> None:
        hello = Hello(
            version=PROTOCOL,
            role=Role.CLIENT if number else Role.GATEWAY,
            room="CYCLES",
            virtual_mac=f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}" if number else None,
            datagram_budget=self.connection.datagram_budget,
            display_name=f"n{number}",
            software="test",
        )
        await self.connection.send_all(codec.encode(hello))

    async def welcome(self) -> None:
        while True:
            for message in self._decoder.feed_untrusted(await self.connection.receive_some()):
                assert isinstance(message, Welcome), message
                return

    async def stay(self) -> None:
        for sequence in range(1 << 30):
            await self.connection.send_all(codec.encode(Heartbeat(sequence=sequence, reply=False)))
            await trio.sleep(HEARTBEAT)

    async def read(self) -> None:
        while await self.connection.receive_some():
            pass


async def cycle(number: int, host: str, trust: Trust) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            member = Member(host, trust)
            await nursery.start(member.run)
            await member.hello(number)
            if number % 3 == 2:
                nursery.cancel_scope.cancel()  # vanishes in the middle
                return
            await member.welcome()
            if number % 3 == 0:
                member.connection.close(0, "goodbye")
                await member.connection.wait_closed()
            nursery.cancel_scope.cancel()


async def main(host: str, certificate: str, cycles: str) -> None:
    trust = Trust(load_pinned(Path(certificate)))
    async with trio.open_nursery() as nursery:
        gateway = Member(host, trust)
        await nursery.start(gateway.run)
        await gateway.hello(0)
        await gateway.welcome()
        nursery.start_soon(gateway.stay)
        nursery.start_soon(gateway.read)
        step = max(1, int(cycles) // 10)
        for number in range(1, int(cycles) + 1):
            await cycle(number, host, trust)
            if number % step == 0:
                print(json.dumps({"event": "cycles", "cycles": number}), flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
