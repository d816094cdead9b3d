"""lanparty.link's devices on the real kernel: adapters, and the gateway's plug in the house LAN.

The player is a namespace with a real adapter, the house and the gateway box are two more; instead of a tunnel, frames
are cut, encoded, decoded and joined between the adapter and the LanLink, both ways. The test itself runs in the box's
namespace.

    player: adapter ⇄ (overlay, joiner) ⇄ LanLink on eth0 or br0 :box ── veth ── eth0 :house
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial

import attrs
import pytest
import trio
from device_behaviour import ETHERTYPE, Bench, DeviceBehaviour
from lan_tools import KINDS, inject, marker, need

from lanparty.demo import inside, kernel
from lanparty.link.adapter import open_adapter
from lanparty.link.checks import check_interface
from lanparty.link.device import DeviceGoneError, EthernetDevice
from lanparty.link.lan import LanLink
from lanparty.link.netlink import Netlink, NetlinkMissing, open_netlink
from lanparty.link.veth import remove_leftovers
from lanparty.obs.errors import MachineError
from lanparty.obs.switches import enabled
from lanparty.proto.fragments import Reassembler
from lanparty.proto.joiner import Joiner
from lanparty.proto.overlay import OverlayCounters, OverlayDecoder, OverlayEncoder
from lanparty.proto.superframe import Frame, SuperFrame, plain_frames

pytestmark = pytest.mark.lan

MEMBER = bytes.fromhex("02a1b2c3d4e5")
STRANGER = bytes.fromhex("02ffffff0001")
BROADCAST = b"\xff" * 6
HOSTS = {"box": 1, "house": 2, "player": 3}
MEGABYTES = 10

PLUGS = [
    *(pytest.param("eth0", kind.values[0], marks=kind.marks, id="nic-tap") for kind in KINDS[:1]),
    pytest.param("eth0", "veth", id="nic-veth"),
    *(pytest.param("br0", kind.values[0], marks=kind.marks, id="bridge-tap") for kind in KINDS[:1]),
    pytest.param("br0", "veth", id="bridge-veth"),
]
_numbers = itertools.count()


def ip(namespace: str, *words: str) -> str:
    return subprocess.run(["ip", "-n", namespace, *words], check=True, text=True, capture_output=True).stdout


def address(host: str, version: int = 4) -> str:
    return f"10.9.0.{HOSTS[host]}" if version == 4 else f"fd09::{HOSTS[host]}"


@attrs.frozen
class Lab:
    """Three namespaces; ``plug`` is the box's interface to the house."""

    prefix: str

    def name(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def ip(self, host: str, *words: str) -> str:
        return ip(self.name(host), *words)

    def address(self, host: str, interface: str) -> None:
        self.ip(host, "address", "add", f"{address(host)}/24", "broadcast", "10.9.0.255", "dev", interface)
        self.ip(host, "address", "add", f"{address(host, 6)}/64", "dev", interface, "nodad")

    def cable(self) -> None:
        self.ip("box", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.name("house"))
        self.ip("box", "link", "set", "eth0", "up")
        self.ip("house", "link", "set", "eth0", "up")
        self.address("house", "eth0")

    def enter(self, host: str) -> None:
        """Move the test itself; sockets that it has stay where they were made."""
        descriptor = os.open(inside.NAMESPACE_DIRECTORY / self.name(host), os.O_RDONLY | os.O_CLOEXEC)
        kernel.setns(descriptor, kernel.CLONE_NEWNET)
        os.close(descriptor)


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab(f"link{next(_numbers)}")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    for host in HOSTS:
        subprocess.run(["ip", "netns", "add", lab.name(host)], check=True)
        lab.ip(host, "link", "set", "lo", "up")
    try:
        lab.enter("box")
        yield lab
    finally:
        kernel.setns(home, kernel.CLONE_NEWNET)
        os.close(home)
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", lab.name(host)], check=True)


class Way:
    """What a tunnel does to frames, one way."""

    def __init__(self) -> None:
        self.encoder = OverlayEncoder(1518)
        self.decoder = OverlayDecoder(Reassembler(), OverlayCounters())
        self.joiner = Joiner(joins=enabled("vnet"))
        self.supers = 0

    def carry(self, frames: list[Frame]) -> list[Frame]:
        datagrams: list[bytes] = []
        for frame in frames:
            if isinstance(frame, SuperFrame):
                datagrams += self.encoder.encode_super(frame)
            else:
                datagrams += self.encoder.encode(frame)
        assert max(map(len, datagrams), default=0) <= 1518
        decoded, _ = self.decoder.decode_untrusted(datagrams, 0.0)
        joined = [frame for _, frame in self.joiner.join_untrusted(decoded)]
        assert self.joiner.refused == 0
        self.supers += sum(isinstance(frame, SuperFrame) and frame.segments > 1 for frame in joined)
        return joined


@attrs.define
class Plugged:
    """A LanLink with one player behind it."""

    lab: Lab
    plug: str
    link: LanLink
    player: EthernetDevice
    netlink: Netlink
    to_player: list[bytes] = attrs.field(factory=list)
    """Finished frames; of those that are joined, all that they stand for."""
    states: list[bool] = attrs.field(factory=list)
    down: Way = attrs.field(factory=Way)
    up: Way = attrs.field(factory=Way)

    def frames(self, frames: list[Frame]) -> None:
        carried = self.down.carry(frames)
        self.to_player += plain_frames(carried)
        self.player.write_batch(carried)

    async def pump(self) -> None:
        while True:
            await self.player.wait_readable()
            self.link.write_batch(self.up.carry(self.player.read_batch()))


@asynccontextmanager
async def plugged(lab: Lab, plug: str, kind: str, *, player: str = "veth") -> AsyncIterator[Plugged]:
    lab.cable()
    if plug == "br0":
        lab.ip("box", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        lab.ip("box", "link", "set", "eth0", "master", "br0")
        lab.ip("box", "link", "set", "br0", "up")
    lab.address("box", plug)
    async with AsyncExitStack() as stack:
        lab.enter("player")
        remote = await stack.enter_async_context(open_netlink())
        adapter = await stack.enter_async_context(open_adapter("game0", MEMBER, 1500, remote, player))  # type: ignore[arg-type]
        lab.address("player", "game0")
        lab.enter("box")
        netlink = await stack.enter_async_context(open_netlink())
        link = LanLink(plug, on_frames=lambda frames: None, helper=kind)  # type: ignore[arg-type]
        lan = Plugged(lab, plug, link, adapter, netlink)
        link.on_frames, link.on_state = lan.frames, lan.states.append
        link.set_members([MEMBER])
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(link.run, netlink)
        nursery.start_soon(lan.pump)
        yield lan
        nursery.cancel_scope.cancel()


async def ping(lab: Lab, source: str, target: str, *words: str, version: int = 4) -> None:
    argv = ["nsenter", f"--net=/run/netns/{lab.name(source)}", "ping", "-n", "-c", "3", "-i", "0.05", "-w", "5", *words]
    done = await trio.run_process([*argv, address(target, version)], capture_stdout=True, check=False)
    text = done.stdout.decode()
    assert " 3 received" in text, text
    assert "DUP" not in text
    assert "duplicates" not in text


async def settle(condition: Callable[[], object], what: str, timeout: float = 5.0) -> None:
    with trio.move_on_after(timeout):
        while not condition():  # noqa: ASYNC110 - the kernel settles without telling us
            await trio.sleep(0.01)
        return
    pytest.fail(f"not within {timeout} s: {what}")


async def move_bytes(lab: Lab, source: str, target: str, version: int) -> None:
    """Send MEGABYTES by TCP and compare what arrives."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    data = hashlib.shake_128(source.encode()).digest(1 << 20) * MEGABYTES

    def listen() -> socket.socket:
        server = socket.socket(family)
        server.bind((address(target, version), 0))
        server.listen()
        server.settimeout(30)
        return server

    def receive(server: socket.socket) -> bytes:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            return b"".join(iter(lambda: connection.recv(1 << 18), b""))

    def send(client: socket.socket, where: tuple[str, int]) -> None:
        with client:
            client.settimeout(30)
            client.connect(where)
            client.sendall(data)

    with closing(inside.call(lab.name(target), listen)) as server:
        client = inside.call(lab.name(source), lambda: socket.socket(family))
        received: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, send, client, server.getsockname()[:2])
            received.append(await trio.to_thread.run_sync(receive, server))
    assert hashlib.sha256(received[0]).digest() == hashlib.sha256(data).digest()


async def move_datagrams(lab: Lab, source: str, target: str, version: int = 4) -> None:
    """Send bursts of equal datagrams and a shorter one, and compare what arrives."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6

    def server() -> socket.socket:
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.bind((address(target, version), 0))
        udp.settimeout(5)
        return udp

    with closing(inside.call(lab.name(target), server)) as receiver:
        sender = inside.call(lab.name(source), lambda: socket.socket(family, socket.SOCK_DGRAM))
        with sender:
            sender.connect(receiver.getsockname()[:2])
            for size in (200, 1000, 1472 if version == 4 else 1452):
                texts = [bytes([index]) * size for index in range(20)] + [bytes(size - 1)]

                def receive(count: int = len(texts)) -> list[bytes]:
                    return [receiver.recv(4000) for _ in range(count)]

                for text in texts:
                    sender.send(text)
                assert await trio.to_thread.run_sync(receive) == texts


async def read_for_ever(device: EthernetDevice) -> None:
    while True:
        await device.wait_readable()
        device.read_batch()


def raw(destination: bytes, source: bytes, mark: bytes, ethertype: bytes = b"\x88\xb5") -> bytes:
    return destination + source + ethertype + mark + bytes(30)


# ------------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize("kind", KINDS)
class TestAdapters(DeviceBehaviour):
    """What every device does (tests/windows/device_behaviour.py), of the real ones."""

    @pytest.fixture
    async def bench(self, lab: Lab, kind: str) -> AsyncIterator[Bench]:
        async with open_netlink() as netlink, open_adapter(None, MEMBER, 1500, netlink, kind) as device:  # type: ignore[arg-type]
            with (
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender,
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as receiver,
            ):
                sender.bind((device.name, 0))
                receiver.bind((device.name, int.from_bytes(ETHERTYPE, "big")))
                receiver.setblocking(False)

                def feed(frames: Sequence[bytes]) -> None:
                    for frame in frames:
                        sender.send(frame)

                async def sent(count: int) -> list[bytes]:
                    found: list[bytes] = []
                    with trio.fail_after(10):
                        while len(found) < count:
                            await trio.lowlevel.wait_readable(receiver)
                            found.append(receiver.recv(2000))
                    return found

                yield Bench(device, feed, sent)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_adapter_appears_as_asked_for_and_vanishes(lab: Lab, kind: str) -> None:
    async with open_netlink() as netlink:
        before = {link.name for link in await netlink.links()}
        async with open_adapter(None, MEMBER, 1400, netlink, kind) as device:  # type: ignore[arg-type]
            link = await netlink.require_link("lanparty0")
            assert (device.name, device.mac) == ("lanparty0", MEMBER)
            assert (link.mac, link.mtu, link.up) == (MEMBER, 1400, True)
            async with open_adapter(None, STRANGER, 1500, netlink, kind) as second:  # type: ignore[arg-type]
                assert second.name == "lanparty1"
            with pytest.raises(MachineError, match="lanparty0"):
                async with open_adapter("lanparty0", STRANGER, 1500, netlink, kind):  # type: ignore[arg-type]
                    pytest.fail("there were two of one name")
        assert {link.name for link in await netlink.links()} == before


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "a/b"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_name_is_a_sentence(lab: Lab, kind: str, name: str) -> None:
    async with open_netlink() as netlink:
        if not name:
            return  # means "choose one"
        with pytest.raises(MachineError):
            async with open_adapter(name, MEMBER, 1500, netlink, kind):  # type: ignore[arg-type]
                pytest.fail(f"there is an interface {name!r}")


@pytest.mark.parametrize("kind", KINDS)
async def test_frames_go_in_and_out_of_an_adapter(lab: Lab, kind: str) -> None:
    async with open_netlink() as netlink, open_adapter(None, MEMBER, 1500, netlink, kind) as device:  # type: ignore[arg-type]
        mark = marker("in")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as observer:
            observer.bind((device.name, 3))
            observer.settimeout(5)
            device.write_batch([raw(MEMBER, STRANGER, mark), b"short", bytes(1515)])
            assert raw(MEMBER, STRANGER, mark) in iter(lambda: observer.recv(2000), None)
        assert (device.counters.frames_out, device.counters.runt_dropped, device.counters.oversize_dropped) == (1, 1, 1)

        lab.ip("box", "address", "add", "10.9.0.1/24", "dev", device.name)
        lab.ip("box", "neighbour", "add", "10.9.0.2", "lladdr", STRANGER.hex(":"), "dev", device.name)
        mark = marker("out")
        with closing(inside.call(lab.name("box"), lambda: socket.socket(type=socket.SOCK_DGRAM))) as udp:
            udp.sendto(mark, ("10.9.0.2", 9))
        found: list[bytes] = []
        with trio.fail_after(5):
            while not found:
                await device.wait_readable()
                found = [frame for frame in device.read_batch() if mark in frame]
        datagram = found[0][34:]
        assert found[0][:12] == STRANGER + MEMBER
        covered = found[0][26:34] + bytes([0, 17]) + len(datagram).to_bytes(2, "big") + datagram
        assert int.from_bytes(covered + bytes(len(covered) % 2), "big") % 65535 == 0  # the checksum is complete


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deleted_adapter_is_gone(lab: Lab, kind: str) -> None:
    async with open_netlink() as netlink, open_adapter(None, MEMBER, 1500, netlink, kind) as device:  # type: ignore[arg-type]
        lab.ip("box", "link", "delete", device.name)
        with trio.fail_after(5), pytest.raises(DeviceGoneError, match="lanparty0"):
            await read_for_ever(device)
        device.write_batch([raw(MEMBER, STRANGER, b"")])
        assert device.counters.write_dropped == 1


async def test_a_killed_process_leaves_a_veth_pair_that_the_next_one_removes(lab: Lab) -> None:
    script = (
        "import trio\n"
        "from lanparty.link.netlink import open_netlink\n"
        "from lanparty.link.adapter import open_adapter\n"
        "async def main():\n"
        "    async with open_netlink() as n, open_adapter('game0', b'\\2\\0\\0\\0\\0\\7', 1500, n, 'veth'):\n"
        "        print('up', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    async with open_netlink() as netlink, trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, [sys.executable, "-c", script], check=False, stdout=-1))
        with trio.fail_after(20):
            assert (await process.stdout.receive_some()).startswith(b"up")
        assert await remove_leftovers(netlink) == []
        async with open_adapter(None, MEMBER, 1500, netlink, "veth"):
            assert await netlink.link("game0") is not None
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert await netlink.link("game0") is not None
        assert await remove_leftovers(netlink) == ["lanparty-far0", "lanparty-off0"]
        assert await netlink.link("game0") is None


# ------------------------------------------------------------------------------------------------ the LAN


@pytest.mark.parametrize(("plug", "kind"), PLUGS)
async def test_everyone_reaches_everyone(lab: Lab, plug: str, kind: str) -> None:
    async with plugged(lab, plug, kind):
        for source, target in itertools.permutations(HOSTS, 2):
            for version in (4, 6):
                await ping(lab, source, target, version=version)
        await ping(lab, "player", "house", "-M", "do", "-s", "1472")
        await ping(lab, "house", "player", "-M", "do", "-s", "1472")


@pytest.mark.parametrize(("plug", "kind"), PLUGS)
async def test_a_group_frame_is_seen_once_by_each_and_never_by_its_sender(lab: Lab, plug: str, kind: str) -> None:
    async with plugged(lab, plug, kind) as lan:
        mark = marker("broadcast")

        def receiver() -> socket.socket:
            udp = socket.socket(type=socket.SOCK_DGRAM)
            udp.bind(("", 6112))
            udp.setblocking(False)
            return udp

        def shout(host: str, text: bytes) -> None:
            with socket.socket(type=socket.SOCK_DGRAM) as udp:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                udp.sendto(text, ("10.9.0.255", 6112))

        sockets = {host: inside.call(lab.name(host), receiver) for host in HOSTS}
        seen: dict[str, list[bytes]] = {host: [] for host in HOSTS}

        def collect() -> None:
            for host, udp in sockets.items():
                while True:
                    try:
                        seen[host].append(udp.recv(2000))
                    except BlockingIOError:
                        break

        for sender in HOSTS:
            inside.call(lab.name(sender), lambda sender=sender: shout(sender, mark + sender.encode()))
        last = marker("last")

        def complete() -> bool:
            collect()
            return all(len(texts) >= len(HOSTS) for texts in seen.values())

        await settle(complete, "all broadcasts arrived")
        # A duplicate would be in front of this one.
        for sender in ("player", "house"):
            inside.call(lab.name(sender), lambda sender=sender: shout(sender, last))
        await settle(
            lambda: collect() or all(texts.count(last) >= 2 for texts in seen.values()), "the last ones arrived"
        )
        for texts in seen.values():
            # With its own one, which a Linux machine hands to itself without any help.
            assert sorted(text for text in texts if text != last) == sorted(mark + host.encode() for host in HOSTS)
            assert texts.count(last) == 2
        assert not any(frame[6:12] == MEMBER for frame in lan.to_player)
        for udp in sockets.values():
            udp.close()


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("plug", "kind"), [*PLUGS[:1], *PLUGS[2:3]])
async def test_tcp_arrives_intact_with_offloads_on(lab: Lab, plug: str, kind: str, version: int) -> None:
    async with plugged(lab, plug, kind) as lan:
        for source, target in (("house", "player"), ("player", "house"), ("box", "player"), ("player", "box")):
            await move_bytes(lab, source, target, version)
        assert lan.link.counters.superframes_in > 100
        assert min(lan.up.supers, lan.down.supers) > 100
        for counters in (lan.link.counters, lan.player.counters):
            assert counters.superframes_out > 100
            assert counters.oversize_dropped == counters.offload_dropped == counters.write_dropped == 0
        assert max(map(len, lan.to_player)) == 1514


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("player", KINDS)
@pytest.mark.parametrize("version", [4, 6])
async def test_super_frames_go_all_the_way_through_every_adapter(lab: Lab, player: str, version: int) -> None:
    async with plugged(lab, "eth0", player, player=player) as lan:
        for source, target in itertools.permutations(("house", "player", "box"), 2):
            if "player" in {source, target}:
                await move_bytes(lab, source, target, version)
        frames = lan.player.counters.frames_in
        assert 0 < lan.player.counters.superframes_in < frames / 5
        assert lan.player.counters.superframes_out > 100


@pytest.mark.parametrize("player", KINDS)
async def test_without_the_acceleration_every_frame_is_an_ordinary_one(
    lab: Lab, player: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANPARTY_WITHOUT", "vnet")
    async with plugged(lab, "eth0", player, player=player) as lan:
        for source, target in (("house", "player"), ("player", "house"), ("box", "player"), ("player", "box")):
            await move_bytes(lab, source, target, 4)
        assert lan.up.supers == lan.down.supers == 0
        assert lan.link.counters.superframes_out == lan.player.counters.superframes_out == 0


OFFLOADS = {
    "gro off": ("house gro off", "box gro off"),
    "tso off": ("house tso off gso off", "box tso off gso off"),
    "checksums off": ("house tx off rx off", "box tx off rx off"),
    "udp gro on": ("house rx-udp-gro-forwarding on", "box gro on", "box rx-udp-gro-forwarding on"),
}


@pytest.mark.parametrize("setting", OFFLOADS)
async def test_whatever_the_card_does_itself(lab: Lab, setting: str) -> None:
    async with plugged(lab, "eth0", "veth") as lan:
        for words in OFFLOADS[setting]:
            host, *features = words.split()
            argv = ["nsenter", f"--net=/run/netns/{lab.name(host)}", need("ethtool"), "-K", "eth0", *features]
            await trio.run_process(argv, capture_stdout=True, capture_stderr=True)
        for source, target in (("house", "player"), ("player", "house")):
            await move_bytes(lab, source, target, 4)
        await move_datagrams(lab, "player", "house")
        await move_datagrams(lab, "house", "player")
        assert lan.link.counters.oversize_dropped == 0


@pytest.mark.usefixtures("accelerated")
async def test_an_adapter_that_does_not_cut_gets_finished_frames(lab: Lab) -> None:
    """A packet socket that sends past the queue discipline has nobody else to cut what the interface does not."""
    async with plugged(lab, "eth0", "veth", player="veth") as lan:
        argv = ["nsenter", f"--net=/run/netns/{lab.name('player')}", need("ethtool"), "-K", "lanparty-far0"]
        features = ["tx", "off", "tso", "off", "gso", "off", "tx-udp-segmentation", "off"]
        await trio.run_process([*argv, *features], capture_stdout=True, capture_stderr=True)
        await move_bytes(lab, "house", "player", 4)
        await move_datagrams(lab, "house", "player")
        assert lan.down.supers > 100
        assert lan.player.counters.superframes_out == lan.player.counters.write_dropped == 0


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("player", KINDS)
@pytest.mark.parametrize("version", [4, 6])
async def test_datagrams_stay_datagrams(lab: Lab, player: str, version: int) -> None:
    async with plugged(lab, "eth0", player, player=player) as lan:
        for source, target in (("player", "house"), ("house", "player"), ("player", "box"), ("box", "player")):
            await move_datagrams(lab, source, target, version)
        assert min(lan.up.supers, lan.down.supers) > 0


@pytest.mark.parametrize("player", KINDS)
async def test_a_program_that_has_no_address_yet_reads_finished_checksums(lab: Lab, player: str) -> None:
    """A DHCP client reads a packet socket, where no kernel finishes what another kernel left undone."""
    async with plugged(lab, "eth0", "veth", player=player) as lan:
        observer = inside.call(lab.name("player"), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        with observer:
            observer.bind(("game0", 3))
            observer.settimeout(5)
            mark = marker("offer")

            def offer() -> None:
                with socket.socket(type=socket.SOCK_DGRAM) as udp:
                    udp.sendto(mark + bytes(300), (address("player"), 68))

            inside.call(lab.name("house"), offer)
            seen: list[bytes] = []

            def watch() -> None:
                seen.append(next(frame for frame in iter(lambda: observer.recv(2000), None) if mark in frame))

            await trio.to_thread.run_sync(watch)
        datagram = seen[0][34:]
        covered = seen[0][26:34] + bytes([0, 17]) + len(datagram).to_bytes(2, "big") + datagram
        assert int.from_bytes(covered + bytes(len(covered) % 2), "big") % 65535 == 0
        assert lan.player.counters.frames_out > 0


@pytest.mark.parametrize(("plug", "kind"), PLUGS)
async def test_foreign_traffic_wakes_nobody(lab: Lab, plug: str, kind: str) -> None:
    async with plugged(lab, plug, kind) as lan:
        mark, tagged = marker("for the member"), marker("tagged")
        control = [bytes.fromhex(group) for group in ("0180c2000000", "0180c200000e", "01000ccccccc", "01000ccccccd")]
        before = lan.link.counters.frames_in
        house = bytes.fromhex("021111111111")
        inject(
            lab.name("house"),
            "eth0",
            raw(MEMBER, house, mark),
            *[raw(STRANGER, house, b"foreign")] * 1000,
            *[raw(group, house, b"control") for group in control],
            *[raw(BROADCAST, house, b"\0\7\x88\xb5" + tagged, b"\x81\0")] * 10,
            *[raw(BROADCAST, house, b"\0\0\x88\xb5" + tagged, b"\x81\0")] * 10,  # VID 0
            *[raw(MEMBER, house, b"\0\7\x81\0\0\7\x88\xb5" + tagged, b"\x88\xa8")] * 10,
            *[raw(BROADCAST, MEMBER, b"came back")] * 10,
            raw(BROADCAST, house, mark),
        )
        await settle(lambda: sum(mark in frame for frame in lan.to_player) == 2, "the lawful frames")
        assert lan.link.counters.frames_in - before < 50
        text = b"".join(lan.to_player)
        assert not any(wrong in text for wrong in (b"foreign", b"control", tagged, b"came back"))


async def test_members_come_and_go(lab: Lab) -> None:
    async with plugged(lab, "eth0", "veth") as lan:
        house = bytes.fromhex("021111111111")
        crowd = [bytes([2, 0, 0, 1, index >> 8, index & 255]) for index in range(300)]
        for members in ([], [MEMBER], [*crowd[:249], MEMBER], [*crowd, MEMBER], [MEMBER]):
            lan.link.set_members(members)
            mark, end = marker("member"), marker("end")
            inject(lab.name("house"), "eth0", raw(STRANGER, house, b"foreign"), raw(MEMBER, house, mark))
            lan.link.set_members([MEMBER])
            inject(lab.name("house"), "eth0", raw(MEMBER, house, end))
            await settle(lambda end=end: any(end in frame for frame in lan.to_player), "the frame after it")
            assert sum(mark in frame for frame in lan.to_player) == bool(members)
            assert not any(b"foreign" in frame for frame in lan.to_player)


@pytest.mark.parametrize(("plug", "kind"), PLUGS)
async def test_it_is_back_when_the_interface_is_back(lab: Lab, plug: str, kind: str) -> None:
    async with plugged(lab, plug, kind) as lan:
        await ping(lab, "player", "house")
        lab.ip("box", "link", "set", plug, "down")
        await settle(lambda: lan.states[-1] is False, "down was noticed", 2)
        lan.link.write_batch([raw(BROADCAST, MEMBER, b"")])
        assert lan.link.counters.write_dropped >= 1
        lab.ip("box", "link", "set", plug, "up")
        await settle(lambda: lan.states[-1] is True, "up was noticed", 1)
        await ping(lab, "player", "house")
        lab.ip("box", "link", "set", plug, "down")
        lab.ip("box", "link", "set", plug, "address", "02:99:99:99:99:99", "up")
        await settle(lambda: lan.link.is_up and lan.link.mac.hex() == "029999999999", "the new MAC was noticed", 2)
        await ping(lab, "player", "house")
        lab.ip("box", "link", "delete", plug)
        await settle(lambda: lan.states[-1] is False, "its end was noticed", 2)
        if plug == "eth0":
            lab.cable()
            lab.ip("player", "neighbour", "flush", "all")  # the house has another MAC now
        else:
            lab.ip("box", "link", "add", "br0", "type", "bridge")
            lab.ip("box", "link", "set", "eth0", "master", "br0")
            lab.ip("box", "link", "set", "br0", "up")
        await settle(lambda: lan.states[-1] is True, "its return was noticed", 1)
        lab.address("box", plug)
        await ping(lab, "player", "house")
        await ping(lab, "player", "box")


async def test_a_pulled_cable_is_told(lab: Lab) -> None:
    async with plugged(lab, "eth0", "veth") as lan:
        lab.ip("house", "link", "set", "eth0", "down")
        await settle(lambda: lan.states == [True, False], "the cable was pulled", 2)
        lab.ip("house", "link", "set", "eth0", "up")
        await settle(lambda: lan.states == [True, False, True], "the cable is back", 2)
        await ping(lab, "player", "house")


@pytest.mark.parametrize(("plug", "kind"), PLUGS)
async def test_nothing_stays_behind(lab: Lab, plug: str, kind: str) -> None:
    async with plugged(lab, plug, kind) as lan:
        during = await lan.netlink.require_link("eth0")
        assert during.promiscuity == 1  # asked for by us, or by the bridge
        mac = (await lan.netlink.require_link(plug)).mac
        assert any(link.name.startswith("lanparty") for link in await lan.netlink.links())
    assert not lan.link.is_up
    async with open_netlink() as netlink:
        assert {link.name for link in await netlink.links()} == {"lo", "eth0", plug}
        assert (await netlink.require_link("eth0")).promiscuity == (0 if plug == "eth0" else 1)
        assert (await netlink.require_link(plug)).mac == mac
        assert (await netlink.require_link(plug)).mtu == 1500


async def test_interfaces_that_cannot_be_bridged_are_refused(lab: Lab) -> None:
    lab.cable()
    lab.ip("box", "link", "add", "br0", "type", "bridge")
    lab.ip("box", "link", "set", "eth0", "master", "br0")
    async with open_netlink() as netlink:
        with pytest.raises(MachineError, match="loopback"):
            await check_interface("lo", netlink)
        with pytest.raises(NetlinkMissing, match=r"no network interface eth7; this machine has .*br0"):
            await check_interface("eth7", netlink)
        with pytest.raises(MachineError, match="use --interface br0"):
            await check_interface("eth0", netlink)
        assert (await check_interface("br0", netlink)).name == "br0"
        with pytest.raises(MachineError, match="loopback"):
            await LanLink("lo", on_frames=lambda frames: None).run(netlink)


async def test_an_interface_that_is_down_is_waited_for(lab: Lab) -> None:
    lab.cable()
    lab.ip("box", "link", "set", "eth0", "down")
    async with open_netlink() as netlink, trio.open_nursery() as nursery:
        link = LanLink("eth0", on_frames=lambda frames: None, helper="veth")
        await nursery.start(link.run, netlink)
        assert not link.is_up
        lab.ip("box", "link", "set", "eth0", "up")
        await settle(lambda: link.is_up, "up", 1)
        nursery.cancel_scope.cancel()
