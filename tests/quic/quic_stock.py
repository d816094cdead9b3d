"""Plain aioquic in the simulated world, as a client of our table or as the server of our client.

``StockEnd`` is driven as aioquic's documentation says, with its own loss recovery, reno, and its duplicate window. It
has what ``World.run`` asks of an engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography.hazmat.primitives.serialization import Encoding
from quic_world import SERVER, World, identity

from lanparty.quic.connection import UdpPath
from lanparty.quic.engine import Received
from lanparty.quic.internals import CONNECTION_ID_SIZE, CONTROL_STREAM, parse_header_untrusted
from lanparty.quic.settings import ALPN
from lanparty.quic.trust import DEV_SERVER_NAME


class StockEnd:
    """One stock connection. ``address`` is where packets to it go, when it is the client."""

    def __init__(self, world: World, quic: QuicConnection | None, address: tuple[str, int] | None) -> None:
        self.world = world
        self.quic = quic
        self.address = address or SERVER
        self.received: list[bytes] = []
        self.control = bytearray()
        self.closed: events.ConnectionTerminated | None = None
        self.is_client = address is not None

    # -- what the tests do with it -----------------------------------------------------------------------------------

    def connect(self) -> None:
        assert self.quic is not None
        self.quic.connect(UdpPath(SERVER), self.world.now)
        self._pump()

    def send(self, datagrams: Sequence[bytes]) -> None:
        assert self.quic is not None
        for datagram in datagrams:
            self.quic.send_datagram_frame(datagram)
        self._pump()

    def send_control(self, data: bytes) -> None:
        assert self.quic is not None
        self.quic.send_stream_data(CONTROL_STREAM, data)
        self._pump()

    # -- what the world does with it ---------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        if self.quic is None or self.closed is not None or self.quic._close_at is None:
            return math.inf
        timer = self.quic.get_timer()
        # A microsecond later: at the very time that it asks for, rounding can have stock find nothing lost yet, and ask
        # for the same time again. Where time stands still meanwhile that has no end.
        return math.inf if timer is None else timer + 1e-6

    def handle_timers(self, now: float) -> None:
        if self.next_deadline() <= now:
            assert self.quic is not None
            self.quic.handle_timer(now)
            self._pump()

    def receive_untrusted(self, batch: Sequence[Received], now: float) -> None:
        for received in batch:
            for packet in received.packets:
                if self.quic is None:
                    self.quic = self._accept(packet)
                self.quic.receive_datagram(packet, received.path, now)
        self._pump()

    def _accept(self, packet: bytes) -> QuicConnection:
        header = parse_header_untrusted(packet)
        assert header is not None
        return QuicConnection(configuration=server_options(), original_destination_connection_id=header.destination_cid)

    def _pump(self) -> None:
        assert self.quic is not None
        while (event := self.quic.next_event()) is not None:
            match event:
                case events.DatagramFrameReceived(data=data):
                    self.received.append(data)
                case events.StreamDataReceived(data=data):
                    self.control += data
                case events.ConnectionTerminated():
                    self.closed = event
        if self.closed is None:
            for packet, path in self.quic.datagrams_to_send(self.world.now):
                if self.is_client:
                    self.world.carry(packet, self, None)
                else:
                    self.world.carry(packet, None, path.remote[:2])


def client_options() -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[ALPN],
        server_name=DEV_SERVER_NAME,
        connection_id_length=CONNECTION_ID_SIZE,
        max_datagram_frame_size=65535,
    )
    configuration.load_verify_locations(cadata=identity().certificate.public_bytes(Encoding.PEM))
    return configuration


def server_options() -> QuicConfiguration:
    return QuicConfiguration(
        is_client=False,
        alpn_protocols=[ALPN],
        certificate=identity().certificate,
        private_key=identity().private_key,
        connection_id_length=CONNECTION_ID_SIZE,
        max_datagram_frame_size=65535,
    )


def stock_client(world: World, address: tuple[str, int] = ("192.0.2.1", 5000)) -> StockEnd:
    """A stock client that begins to connect to whatever is the world's server."""
    end = StockEnd(world, QuicConnection(configuration=client_options()), address)
    world.clients[address] = end
    end.connect()
    return end


def stock_server(world: World) -> StockEnd:
    """Put a stock server in the place of the world's table."""
    end = StockEnd(world, None, None)
    world.table = end
    return end
