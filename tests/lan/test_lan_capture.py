"""Shown by, 6: a capture of the tunnel, opened by tshark with the key log, is QUIC version 1 with DATAGRAM frames.

What the programs take for their own packets is read here by somebody else's code. Captured is at the relay's cable, in
the bench's lab, where every packet is one that a wire could carry: elsewhere the kernel hands segments on in one piece,
and a capture would show them glued together.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections import Counter
from contextlib import contextmanager

import attrs
import pytest
import trio
from lan_tools import need, poll

from lanparty.ctrl import codec
from lanparty.ctrl.codec import ControlDecoder
from lanparty.ctrl.messages import PROTOCOL, Hello, Role, Welcome
from lanparty.demo import inside
from lanparty.demo.bench_lab import Lab
from lanparty.demo.probes import ping, transfer
from lanparty.demo.programs import SERVER_NAME, Party
from lanparty.proto.overlay import Echo, encode_echo
from lanparty.quic.client import drive
from lanparty.quic.trust import Trust, load_pinned

pytestmark = pytest.mark.lan

HOUSE, PLAYER = "192.168.77.1", "192.168.77.51"
PORT = "443"
V1 = "0x00000001"
ACK, DATAGRAM = 0x02, 0x31
KNOWN = {*range(0x1F), 0x30, DATAGRAM}
"""Frame types of RFC 9000 (table 3) and RFC 9221."""

WARNING = 0x00600000
"""PI_WARN of epan/proto.h; PI_ERROR, which "malformed" is, lies above."""


@pytest.fixture
def keys(tmp_path, monkeypatch):
    path = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    return path


@pytest.fixture
def party(tmp_path, keys):
    """A relay with its certificate, where nothing is merged on the way."""
    with Lab(gro=False) as lab, Party(lab, tmp_path / "party", log_level="info") as party:
        party.start_relay()
        yield party


@contextmanager
def capturing(party, path):
    """Debian's dumpcap at the relay's cable, from before the block until after it."""
    dumpcap = need("dumpcap")
    # A large buffer: the programs take both cores, and what the capture misses would look like loss.
    argv = [dumpcap, "-q", "-i", "wan0", "-f", f"udp port {PORT}", "-B", "32", "-w", str(path)]
    program = party.start("dumpcap", "relay", argv)
    poll(lambda: path.exists() and any("File:" in line for line in program.lines), 10, "dumpcap captures")
    yield
    time.sleep(0.5)  # the kernel hands captured packets over in blocks
    program.stop()
    dropped = [line for line in program.lines if "dropped" in line]
    assert dropped, program.lines
    assert "/0 " in dropped[-1] or "(100.0%)" in dropped[-1], dropped


@attrs.frozen
class Packet:
    """One UDP packet as tshark reads it. It may hold several QUIC packets (RFC 9000 section 12.2)."""

    number: int
    source: str
    versions: tuple[str, ...]
    """Of long headers; short ones have none."""
    phases: tuple[str, ...]
    frames: tuple[int, ...]
    """Types, padding included."""
    datagrams: tuple[int, ...]
    """Sizes of what DATAGRAM frames carry."""
    complaints: tuple[str, ...]


FIELDS = (
    *("frame.number", "ip.src", "quic.version", "quic.key_phase", "quic.frame_type", "quic.dg.length"),
    *("_ws.malformed", "quic.decryption_failed", "_ws.expert.severity", "_ws.expert.message"),
)


def dissect(capture, keys):
    """What tshark makes of the capture."""
    command = [need("tshark"), "-n", "-2", "-r", str(capture), "-d", f"udp.port=={PORT},quic"]
    command += ["-o", f"tls.keylog_file:{keys}", "-T", "fields", "-E", "aggregator=;"]
    for field in FIELDS:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [read_line(line) for line in done.stdout.splitlines()]


def read_line(line):
    columns = [tuple(part for part in column.split(";") if part) for column in line.split("\t")]
    many = dict(zip(FIELDS, columns, strict=True))
    complaints = many["_ws.malformed"] + many["quic.decryption_failed"]
    if any(int(severity) >= WARNING for severity in many["_ws.expert.severity"]):
        complaints += many["_ws.expert.message"]
    return Packet(
        number=int(many["frame.number"][0]),
        source=many["ip.src"][0],
        versions=many["quic.version"],
        phases=many["quic.key_phase"],
        frames=tuple(int(kind) for kind in many["quic.frame_type"]),
        datagrams=tuple(int(length) for length in many["quic.dg.length"]),
        complaints=complaints,
    )


def check(packets):
    """What must hold of every packet, whatever was sent. Gives how often each frame type came."""
    assert packets
    complained = [packet for packet in packets if packet.complaints]
    assert not complained, f"{len(complained)} of {len(packets)}: {complained[:3]}"
    undecoded = [packet for packet in packets if not packet.frames]
    assert not undecoded, f"{len(undecoded)} of {len(packets)}: {undecoded[:3]}"
    kinds = Counter(kind for packet in packets for kind in packet.frames)
    assert kinds.keys() <= KNOWN
    assert {version for packet in packets for version in packet.versions} == {V1}
    for packet in packets:
        assert len(packet.datagrams) == packet.frames.count(DATAGRAM), packet
    return kinds


def burst(namespace, target, count, size):
    """Small datagrams to the discard port, as fast as the kernel takes them: faster than the tunnel."""
    with inside.call(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        for _ in range(count):
            udp.sendto(bytes(size), (target, 9))


def test_tshark_reads_the_tunnel(party, keys, tmp_path):
    """Handshakes, full-size TCP both ways, bursts of small UDP, ACKs, the goodbyes."""
    capture = tmp_path / "tunnel.pcapng"
    lab = party.house
    player, host = lab.at("player1"), lab.at("lan-host")
    with capturing(party, capture):
        gateway = party.start_gateway()
        client = party.start_client("--address", f"{PLAYER}/24", wait_for=None)
        client.wait_for("client.address")
        assert not ping(player, HOUSE, count=10).lost
        assert transfer(player, host, HOUSE, size=3_000_000).intact
        assert transfer(host, player, PLAYER, size=3_000_000).intact
        burst(player, HOUSE, 500, 100)
        burst(host, PLAYER, 500, 100)
        assert not ping(player, HOUSE, count=10).lost
        assert client.stop() == 0
        assert gateway.stop() == 0
    packets = dissect(capture, keys)
    kinds = check(packets)
    assert {packet.source for packet in packets} == {
        lab.wan_address(place) for place in ("relay", "gateway", "player1")
    }
    assert kinds[ACK] > 10
    assert kinds[DATAGRAM] > 4000  # 2 x 3 MB in segments of at most 1448 bytes, and the relay sends each on
    for place in ("relay", "gateway", "player1"):
        mine = [packet for packet in packets if packet.source == lab.wan_address(place)]
        assert max(size for packet in mine for size in packet.datagrams) > 1100, place
        assert max(len(packet.datagrams) for packet in mine) > 1, f"{place}: small frames that wait share no packet"
    # The same reader without the key log: that it complains shows that it would.
    empty = tmp_path / "no keys.log"
    empty.touch()
    blind = dissect(capture, empty)
    assert len(blind) == len(packets)
    assert not any(packet.datagrams for packet in blind)
    assert any(packet.complaints for packet in blind)


def test_tshark_reads_on_over_a_key_update(party, keys, tmp_path):
    """RFC 9001 section 6: either end may begin with the next keys; tshark derives them as we do, or cannot read on."""
    capture = tmp_path / "update.pcapng"
    lab = party.house
    with capturing(party, capture):
        answers = inside.call(lab.at("player1"), lambda: trio.run(_member, lab.relay_address, party.certificate))
    assert answers == [1, 2, 3]
    packets = dissect(capture, keys)
    check(packets)
    for place in ("relay", "player1"):
        mine = [packet for packet in packets if packet.source == lab.wan_address(place) and packet.datagrams]
        assert [packet.phases[-1] for packet in mine] == ["0", "1", "0"], place


async def _member(address, certificate):
    """Join a room, and ask the relay for an echo with the first keys, the second and the third; give the replies."""
    replies = []
    heard = trio.Event()

    def on_datagrams(datagrams, _now):
        nonlocal heard
        replies.extend(int.from_bytes(datagram[6:10], "big") for datagram in datagrams)
        heard.set()

    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            trust = Trust(load_pinned(certificate))
            connection = await nursery.start(_drive, (address, int(PORT)), trust)
            mac, budget = "02:00:00:00:00:07", connection.datagram_budget
            hello = Hello(PROTOCOL, Role.CLIENT, "ROOM1", mac, budget, "capture", "tests")
            await connection.send_all(codec.encode(hello))
            decoder, welcome = ControlDecoder(), None
            while welcome is None:
                messages = decoder.feed_untrusted(await connection.receive_some())
                welcome = next((message for message in messages if isinstance(message, Welcome)), None)
            connection.on_datagrams(on_datagrams)
            for sequence in (1, 2, 3):
                heard = trio.Event()
                connection.send_datagrams([encode_echo(Echo(0, False, 0, sequence, 0))])
                connection.flush()
                await heard.wait()
                await trio.sleep(0.2)  # for the ACKs: an end may not update again before it (RFC 9001 section 6.1)
                if sequence < 3:
                    connection._quic.request_key_update()
            connection.close(0, "done")
    return replies


async def _drive(address, trust, *, task_status):
    await drive(address, server_name=SERVER_NAME, trust=trust, task_status=task_status)
