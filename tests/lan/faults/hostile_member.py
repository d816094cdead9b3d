"""A member that was admitted like anybody, and then sends as much as it can of one thing, whatever QUIC would allow.

    python hostile_member.py RELAY PORT SERVER_NAME CERTIFICATE ROOM WHAT RATE

Prints JSON lines: ``hostile.admitted``, then each second ``hostile.sent`` with how many it has sent so far. ``WHAT``:

    broadcast   frames of 60 bytes to everybody                  unknown   to a MAC that nobody has
    house       1400 bytes to the computer in the house          garbage   overlay datagrams of random bytes
    echo        echoes to the relay                              pieces    first pieces of frames that never get more
    control     heartbeats                                       forged    packets of its connection, not decryptable

Ends when it is killed.
"""

from __future__ import annotations

import json
import os
import sys
import time

import trio

from lanparty.ctrl import codec
from lanparty.ctrl.messages import PROTOCOL, Heartbeat, Hello, Role, Welcome
from lanparty.proto.overlay import Echo, encode_echo
from lanparty.quic.client import drive
from lanparty.quic.trust import Trust, load_pinned

MAC = bytes.fromhex("0266666666ff")
LAN_HOST = bytes.fromhex("00163e007701")
EVERYBODY = b"\xff" * 6
TICK = 0.002


def tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "message": event, "at": time.monotonic(), **fields}), flush=True)


def frame(destination: bytes, size: int, number: int) -> bytes:
    """IPX, which any guard lets pass: no address in it has to be leased first."""
    return (destination + MAC + b"\x81\x37\xff\xff" + (size - 14).to_bytes(2) + b"hostile" + number.to_bytes(4)).ljust(
        size, b"\0"
    )


def datagram(what: str, number: int) -> bytes:
    whole = b"\x10\0\0\0"
    match what:
        case "broadcast":
            return whole + frame(EVERYBODY, 60, number)
        case "unknown":
            return whole + frame(bytes.fromhex("00dead000000"), 60, number)
        case "house":
            return whole + frame(LAN_HOST, 1100, number)
        case "garbage":
            return os.urandom(60)
        case "echo":
            return encode_echo(Echo(0, reply=False, target=0, sequence=number & 0xFFFF, sent_us=0))
        case "pieces":
            return b"\x11\0\0\0" + (number & 0xFFFF).to_bytes(2) + b"\0\x02" + bytes(60)
    raise ValueError(what)


async def flood(connection, what: str, rate: float) -> None:
    quic = connection._quic
    quic.allowance = lambda _now: 1 << 40
    quic.urgent_allowance = lambda: 1 << 40
    sent, start, told = 0, trio.current_time(), trio.current_time()
    while True:
        now = trio.current_time()
        due = min(int((now - start) * rate) - sent, 4000)
        if due > 0 and what == "forged":
            path = connection._path
            head = b"\x41" + quic._peer_cid.cid
            connection._host.transmit(path, [head + os.urandom(180) for _ in range(due)])
        elif due > 0:
            connection.send_datagrams([datagram(what, sent + number) for number in range(due)])
            connection.flush()
        sent += max(due, 0)
        if now - told >= 1:
            told = now
            tell("hostile.sent", sent=sent)
        await trio.sleep(TICK)


async def talk(connection, rate: float) -> None:
    sent = 0
    start = told = trio.current_time()
    while True:
        beats = b"".join(codec.encode(Heartbeat(sequence=sent + number, reply=False)) for number in range(200))
        await connection.send_all(beats)
        sent += 200
        if trio.current_time() - told >= 1:
            told = trio.current_time()
            tell("hostile.sent", sent=sent)
        await trio.sleep_until(start + sent / rate)


async def listen(connection) -> None:
    while True:
        await connection.receive_some()


async def main(relay: str, port: str, name: str, certificate: str, room: str, what: str, rate: str) -> None:
    async with trio.open_nursery() as nursery:

        async def driver(task_status):
            await drive(
                (relay, int(port)), server_name=name, trust=Trust(load_pinned(certificate)), task_status=task_status
            )

        connection = await nursery.start(driver)
        hello = Hello(
            version=PROTOCOL,
            role=Role.CLIENT,
            room=room,
            virtual_mac=MAC.hex(":"),
            datagram_budget=1150,
            display_name="hostile",
            software="hostile 1",
        )
        await connection.send_all(codec.encode(hello))
        decoder = codec.ControlDecoder()
        messages: list[object] = []
        while not messages:
            messages = decoder.feed_untrusted(await connection.receive_some())
        assert isinstance(messages[0], Welcome), messages
        tell("hostile.admitted")
        nursery.start_soon(listen, connection)
        if what == "control":
            await talk(connection, float(rate))
        else:
            await flood(connection, what, float(rate))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
