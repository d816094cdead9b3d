"""The relay's UDP endpoint: sockets, timers, and the table of connections.

Owns: the life of the sockets. Must not know: rooms, sessions, who may come in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import trio

from lanparty.quic.connection import Connection
from lanparty.quic.driver import Driver
from lanparty.quic.internals import server_configuration
from lanparty.quic.sockets import UdpSocket, bind_all
from lanparty.quic.table import ConnectionTable, EndpointLimits
from lanparty.quic.trust import ServerIdentity

__all__ = ["EndpointLimits", "ServerEndpoint"]


class ServerEndpoint:
    """Listens on some addresses and gives each client whose handshake is complete to ``on_connection``.

    ``on_connection(connection)`` is called synchronously, inside a batch: it starts a task and returns. What it
    raises ends the endpoint. The connection passes no datagrams before ``connection.admit()``.
    """

    def __init__(
        self,
        listen: Sequence[tuple[str, int]],
        identity: ServerIdentity,
        limits: EndpointLimits,
        on_connection: Callable[[Connection], None],
    ) -> None:
        self._listen = listen
        self._configuration = server_configuration(identity)
        self._limits = limits
        self._on_connection = on_connection
        self._errors: Counter[str] = Counter()
        self._table: ConnectionTable | None = None
        self._sockets: list[UdpSocket] = []

    @property
    def counters(self) -> dict[str, int]:
        """What happened since the start, by name; ``socket_ERRNO`` for network errors; ``connections``, ``half_open``
        now."""
        counters = {f"socket_{name}": count for name, count in self._errors.items()}
        counters["socket_receive_drops"] = sum(udp.receive_drops() for udp in self._sockets)
        if self._table is not None:
            counters |= self._table.counters
            counters |= {"connections": len(self._table.connections), "half_open": self._table.half_open}
            counters["unsent"] = self._table.unsent
        return counters

    def reload(self, identity: ServerIdentity) -> None:
        """Prove ourselves by ``identity`` to those who come from now on; connections that are there go on."""
        self._configuration = server_configuration(identity)
        if self._table is not None:
            self._table.configuration = self._configuration

    def stop_accepting(self) -> None:
        """Refuse new connections from now on; those that are there stay."""
        if self._table is not None:
            self._table.accepting = False

    async def run(self, *, task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; reports as started the addresses and ports that were bound.

        Cancelled, it says goodbye to every client and closes. Raises ``MachineError`` when it cannot listen.
        """
        self._sockets = sockets = bind_all(self._listen, self._errors)
        driver = Driver(sockets, self._errors)
        self._table = driver.engine = table = ConnectionTable(
            configuration=self._configuration,
            limits=self._limits,
            on_connection=self._on_connection,
            now=trio.current_time,
            transmit=driver.transmit,
            local_address=driver.local_address,
            max_payload=driver.max_payload,
            on_deadline=driver.rearm,
        )
        try:
            task_status.started([udp.sock.getsockname()[:2] for udp in sockets])
            await driver.run()
        finally:
            table.leave("the relay is shutting down")
            self._sockets = []
            for udp in sockets:
                udp.close()
