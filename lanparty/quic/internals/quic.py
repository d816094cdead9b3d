"""The connection's fast path: 1-RTT packets opened and sealed in batches, beside aioquic's own.

Path of received packets (``receive_untrusted``; all of one batch come from one address, with one connection id):

1. Handshake not confirmed, another address than the active one, another connection id: aioquic, one by one. That is
   where migration, Retry and everything about handshakes stays.
2. ``codec.open_untrusted``: header protection and AEAD. Another key phase: the keys before the last update, for what
   was late; else aioquic, which updates its keys, and ours are read anew.
3. ``codec.frames_untrusted``: DATAGRAM, ACK and PADDING. A payload with any other frame goes to aioquic's frame
   handlers.
4. Duplicates out, numbers noted for the next ACK, idle timer, spin bit: once for the batch.
5. ACK frames to ``Recovery``.

Path of sent packets (``seal``): datagrams packed, an ACK behind them if one waits and fits, numbers taken, sealed,
recorded as runs. When anything but that is to be sent (``stock_due``), aioquic's ``datagrams_to_send`` is asked first.

What both paths share, so that either may make the next packet: packet number, keys, what was received, what is in
flight, spin bit, idle timer, bytes on the path.

Owns: the above, path MTU probes. Must not know: queues, sockets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.buffer import size_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, pull_quic_transport_parameters
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace

from lanparty.obs.switches import enabled
from lanparty.quic import settings
from lanparty.quic.codec import (
    PACKET_OVERHEAD,
    AckFrame,
    Opened,
    encode_ack,
    frames_untrusted,
    open_untrusted,
    pack_datagrams,
    seal,
)
from lanparty.quic.congestion_rate import new_control
from lanparty.quic.flight import AckOutcome
from lanparty.quic.internals.config import CONNECTION_ID_SIZE
from lanparty.quic.internals.guarded import CONTROL_STREAM, GuardedQuic
from lanparty.quic.internals.keys import Keys
from lanparty.quic.internals.recovery import Recovery
from lanparty.quic.internals.slim import forget_handshake
from lanparty.quic.pmtu import PathMtu
from lanparty.quic.received import ReceivedNumbers, runs

__all__ = ["Quic"]

_ACK_RANGES: Final = 256
"""Ranges that an ACK may name: at 10 000 packets a second with 10 ms of jitter a hundred numbers are out of order, and
aioquic's 64 ranges would leave some of them out."""

_ACK_DELAY: Final = 0.020
"""Seconds that an ACK of a single packet waits for company: below the 25 ms that aioquic announces, and long enough
for the answer of a game's server to take it along."""

_ACK_FRESH: Final = 0.010
"""Seconds for which no packet takes along the ACK of a single one, while they come faster than ``_ACK_DELAY``: an ACK
is a quarter of what a lone packet costs both ends, and the next one makes it the ACK of two."""

_FEW: Final = 3
_SMALL: Final = 1200
"""Packets, and bytes of their payloads together, of which an ACK waits for company like that of one, if both ends have
something to say: then a packet that takes it along is near. RFC 9000 section 13.2.2 would have it sent after two; TCP
after two full ones (RFC 5681 section 4.2), and so do we: a sender whose window is two packets waits for it."""

_LARGEST_HEAD: Final = 9
"""Bytes of a DATAGRAM frame's type and length at the most."""

_NO_NUMBER: Final = 1 << 62
"""Above all packet numbers."""

_PING: Final = b"\x01"

_ACK_PING_INTERVAL: Final = 0.1
"""Seconds between two PINGs that have an ACK acknowledged, so that it need not name old gaps for ever."""


class Quic(GuardedQuic):
    """One connection, aioquic's state machine with our data path."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._batched = enabled("engine")
        self.control = new_control(arrival_times=self._batched)
        recovery = Recovery(
            control=self.control,
            next_number=lambda: self._packet_number,
            initial_rtt=configuration.initial_rtt,
            peer_completed_address_validation=not self._is_client,
            send_probe=self._send_probe,
        )
        recovery.on_outcome = self._on_outcome
        self._recovery: Recovery = recovery
        self._loss = recovery
        # aioquic counts no packets for its ACKs: what it does after a millisecond we do after two packets.
        self._ack_delay = _ACK_DELAY if self._batched else 0.001
        self.mtu = PathMtu(base=settings.UDP_PAYLOAD, ceiling=settings.UDP_PAYLOAD)
        self._peer_udp_limit = 65527
        self._probes = enabled("pmtud")
        self._keys: Keys | None = None
        self._keys_since = 0
        """No packet with a smaller number was sealed with our present keys."""
        self._received = ReceivedNumbers()
        self.forged = 0
        """Packets that were dropped because they are not the peer's, or were damaged."""
        self._unacknowledged = self._unacknowledged_octets = 0
        self._unacknowledged_from = _NO_NUMBER
        self._lively = False
        """Whether the last packet came soon after the one before, so that another one is near."""
        self._ack_pinged_at = -math.inf
        self._connection_ids_unsent = False
        """Whether one of our connection ids is to be told, or told again: see ``stock_due``."""
        self._active: QuicNetworkPath | None = None
        self.path_changes = 0
        """How often the connection began anew on another path."""
        self._latest: QuicNetworkPath | None = None
        """The path that is used, validated or not; ``_active`` is the last one that was."""
        self._path_from = 0
        """Number of the first packet on the present path."""
        self._waited = 0.0
        self._handshake_kept = not self._is_client
        self.clock: Callable[[], float] | None = None
        """Gives the time again when a batch has been sealed: that took its share of a millisecond, which would count
        as the path's. None takes the time at which the batch began."""

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds, None before the first sample (RFC 9002 section 5.3)."""
        return self._recovery.rtt

    @property
    def batched(self) -> bool:
        """Whether packets can be made in batches now: the handshake is confirmed, on a validated path, and not over."""
        return (
            self._batched
            and self._handshake_confirmed
            and self._state is QuicConnectionState.CONNECTED
            and not self._close_pending
            and self._network_paths[0].is_validated
        )

    @property
    def datagram_budget(self) -> int:
        """Bytes of the largest DATAGRAM payload that fits one packet now and that the peer takes; 0 before the
        handshake."""
        peer = self._remote_max_datagram_frame_size
        if peer is None or not self._handshake_complete:
            return 0
        # aioquic's own packets keep to the size that every path carries; one that does not fit would block the others.
        frame = self._room(self.mtu.size if self.batched else self._max_datagram_size)
        if peer < frame:
            frame = peer
        # Frame type and length field; the length is written even at the end of a packet.
        return frame - 1 - size_uint_var(frame) if frame > _LARGEST_HEAD else 0

    def _room(self, size: int) -> int:
        """Bytes of frames in a packet of ours with ``size`` bytes."""
        return size - PACKET_OVERHEAD - len(self._peer_cid.cid)

    def allowance(self, now: float) -> int:
        """Bytes of datagrams that congestion control and pacing let out now; 0 or less: none."""
        return self._recovery.allowance(now)

    def urgent_allowance(self) -> int:
        """Bytes of datagrams that may not wait for the pacer; for when ``allowance`` is 0 or less."""
        return self._recovery.urgent_allowance()

    def resume_at(self) -> float:
        """When pacing lets the next datagrams out; infinity while the window is full, for an ACK will open it."""
        recovery = self._recovery
        if recovery.window <= recovery.bytes_in_flight:
            recovery.pace.not_asked()
            return math.inf
        return recovery.pace.ready_at()

    def note_app_limited(self) -> None:
        """Note that nothing waits: what is measured next is the traffic, not the path."""
        recovery = self._recovery
        if recovery.bytes_in_flight < recovery.window:
            recovery.flight.note_app_limited()

    # -- receiving -------------------------------------------------------------------------------------------------

    def receive_untrusted(
        self, packets: Sequence[bytes], address: Any, now: float, datagrams: list[bytes], waited: float = 0.0
    ) -> None:
        """Take UDP payloads from ``address``, which all begin alike: long headers, or short ones with one connection
        id.

        Appends the overlay datagrams of packets that are opened here; those that aioquic opens come as its events. The
        packets arrived ``waited`` seconds before ``now``: that time is not the path's (see ``Flight``).
        """
        self._waited = waited
        if (
            not self.batched
            or packets[0][0] & 0x80
            or address != self._network_paths[0].addr
            or not self._is_present(packets[0][1 : 1 + CONNECTION_ID_SIZE])
        ):
            for packet in packets:
                self.receive_datagram(packet, address, now)
            self._follow_path(now)
            return
        if self._handshake_kept and not self._late_crypto.sender._buffer:
            self._handshake_kept = False
            forget_handshake(self)
        expected = self._space.expected_packet_number
        opened = open_untrusted(self._key_store.receive(), packets, CONNECTION_ID_SIZE, expected)
        self.forged += opened.forged
        self._take_opened_untrusted(opened, now, datagrams)
        if opened.numbers:
            self._key_store.note_opened(now, 3 * self._recovery.pto)
        for index in opened.others:
            self._other_phase_untrusted(packets[index], address, now, datagrams)

    def _is_present(self, connection_id: bytes) -> bool:
        """Whether packets to ``connection_id`` are no sign of migration, which is aioquic's to see.

        That is a server's matter. A client has no other use for the id that it counts as its own after the handshake,
        so it is here made the one that the server uses now.
        """
        if connection_id == self.host_cid:
            return True
        if self._is_client and any(connection_id == other.cid for other in self._host_cids):
            self.host_cid = connection_id
            return True
        return False

    def _take_opened_untrusted(self, opened: Opened, now: float, datagrams: list[bytes]) -> None:
        """Take packets that were opened with one set of keys."""
        if opened.reserved:
            self._violated("reserved bits must be zero")
            return
        if opened.numbers:
            self._take_payloads_untrusted(opened.numbers, opened.payloads, now, datagrams)
            space = self._space
            top = opened.largest
            if top > self._spin_highest_pn:
                self._spin_highest_pn = top
                self._spin_bit = bool(opened.top_first_byte & 0x20) != self._is_client
            if top >= space.expected_packet_number:
                space.expected_packet_number = top + 1

    def _follow_path(self, now: float) -> None:
        """Go on by another path of the peer's, once it is validated.

        Not before: a packet that somebody else sent on from an address of their own must not make us forget what we
        know of the path that we shall be back on.
        """
        active = self._network_paths[0] if self._network_paths else None
        if active is not self._latest:
            self._latest, self._path_from = active, self._packet_number
        if active is None or active is self._active or not active.is_validated:
            return
        before, self._active = self._active, active
        if before is not None:
            self._begin_path(now, learnt=before.addr[0][0] == active.addr[0][0])

    def _begin_path(self, now: float, *, learnt: bool) -> None:
        """Go on by another path. ``learnt``: it differs by the peer's port alone, so what is known of it holds."""
        self._recovery.on_path_change(now, self._space, self._path_from, learnt=learnt)
        if not learnt:
            self.path_changes += 1
            self.mtu.on_path_change(self.mtu.ceiling, now)

    def migrate(self, now: float) -> None:
        """Client: go on, because packets leave from another local address from now on (RFC 9000 section 9.2).

        An id of the peer's that was not used on the old path hides that it is us (section 9.5); where there is none
        left, it is as if a NAT had moved us. The PING is repeated until it is answered: see ``path_proven``.
        """
        self._path_from = self._packet_number
        self.change_connection_id()
        self._begin_path(now, learnt=False)
        self.send_ping(0)

    @property
    def path_proven(self) -> bool:
        """Whether the peer has acknowledged a packet that left after the last ``migrate``, and so by the new path.

        The ACK, which only the peer could make, came by the new path as well: that is where the peer answers.
        """
        return self._recovery.flight.largest_acked >= self._path_from

    def _other_phase_untrusted(self, packet: bytes, address: Any, now: float, datagrams: list[bytes]) -> None:
        """Take a packet that the present keys are not for: late, from before a key update, or the next update."""
        if self._close_pending:
            return
        keys = self._key_store.late(now)
        if keys is not None:
            expected = self._space.expected_packet_number
            opened = open_untrusted(keys, [packet], CONNECTION_ID_SIZE, expected)
            if opened.numbers:
                self._take_opened_untrusted(opened, now, datagrams)
                return
        self.receive_datagram(packet, address, now)

    def _take_payloads_untrusted(
        self, numbers: list[int], payloads: list[bytes], now: float, datagrams: list[bytes]
    ) -> None:
        """Steps 3 to 5 of the map, for authentic packets."""
        acks: list[AckFrame] = []
        before = len(datagrams)
        others: list[tuple[int, bytes]] = []
        eliciting = 0
        for number, payload in zip(numbers, payloads, strict=True):
            kind = frames_untrusted(payload, datagrams, acks)
            if kind > 0:
                eliciting += 1
            elif kind < 0:
                others.append((number, payload))
        if others:
            foreign = {number for number, _ in others}
            ours = [
                (number, payload) for number, payload in zip(numbers, payloads, strict=True) if number not in foreign
            ]
            numbers, payloads = [number for number, _ in ours], [payload for _, payload in ours]
        fresh = self._received.fresh(numbers) if numbers else None
        if fresh is not None:
            # Rare, so done again without the duplicates.
            del datagrams[before:]
            acks.clear()
            payloads = [payload for payload, new in zip(payloads, fresh, strict=True) if new]
            numbers = [number for number, new in zip(numbers, fresh, strict=True) if new]
            eliciting = sum(frames_untrusted(payload, datagrams, acks) > 0 for payload in payloads)
        if numbers:
            self._note_received(numbers, eliciting, sum(map(len, payloads)), now)
        for number, payload in others:
            if number not in self._received:
                self._received.add(number)
                self._foreign_frames_untrusted(number, payload, now)
        for ack in acks:
            self._take_ack_untrusted(ack, now)

    def _take_ack_untrusted(self, ack: AckFrame, now: float) -> None:
        if self._close_pending:
            return
        delay = (ack.delay << self._remote_ack_delay_exponent) / 1e6
        try:
            self._recovery.on_ranges(ack.ranges, delay, now, self._space, self._waited)
        except QuicConnectionError as error:
            self._violated(error.reason_phrase, error.error_code)

    def _foreign_frames_untrusted(self, number: int, payload: bytes, now: float) -> None:
        """Have aioquic's handlers take the frames of a payload: control stream, connection ids, close, and so on."""
        if self._close_pending or self._state is not QuicConnectionState.CONNECTED:
            return
        context = QuicReceiveContext(
            epoch=tls.Epoch.ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=self._version,
        )
        try:
            eliciting, _probing = self._payload_received(context, payload)
        except QuicConnectionError as error:
            self.close(error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase)
            return
        if self._state is QuicConnectionState.CONNECTED:
            self._note_received([number], int(eliciting), len(payload), now)

    def _note_received(self, numbers: Sequence[int], eliciting: int, octets: int, now: float) -> None:
        """Note packets that were taken, with ``octets`` of payload, for the next ACK and the idle timer."""
        space = self._space
        queue = space.ack_queue
        found = runs(numbers)
        for start, stop in found:
            queue.add(start, stop)
        largest = found[-1][1] - 1
        if largest > space.largest_received_packet:
            space.largest_received_packet = largest
            before, space.largest_received_time = space.largest_received_time, now - self._waited
            self._lively = before is not None and now - before < _ACK_DELAY
        while len(queue) > _ACK_RANGES:
            queue.shift()
        self._close_at = now + self._idle_timeout()
        if eliciting:
            self._unacknowledged += eliciting
            self._unacknowledged_octets += octets
            if found[0][0] < self._unacknowledged_from:
                self._unacknowledged_from = found[0][0]
            few = self._lively and self._ack_eliciting_sent_since_receipt and self._unacknowledged_octets <= _SMALL
            if self._unacknowledged > (_FEW if few else 1):
                space.ack_at = now
            elif space.ack_at is None:
                space.ack_at = now + _ACK_DELAY
        self._ack_eliciting_sent_since_receipt = False

    def _violated(self, reason: str, code: int = QuicErrorCode.PROTOCOL_VIOLATION) -> None:
        self.close(error_code=code, frame_type=QuicFrameType.PADDING, reason_phrase=reason)

    # -- sending ---------------------------------------------------------------------------------------------------

    def stock_due(self) -> bool:
        """Whether there is anything to send that only aioquic can write. Asked for every batch."""
        if (
            not self._handshake_confirmed
            or self._close_pending
            or self._probe_pending
            or self._ping_pending
            or self._handshake_done_pending
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or self._connection_ids_unsent
        ):
            return True
        paths = self._network_paths
        path = paths[0]
        if not path.is_validated or path.remote_challenges:
            return True
        stream = self._streams.get(CONTROL_STREAM)
        if stream is not None:
            sender = stream.sender
            if (
                not sender.buffer_is_empty
                or sender.reset_pending
                or stream.receiver.stop_pending
                or self._is_window_due(stream.max_stream_data_local)
            ):
                return True
        if not self._late_crypto.sender.buffer_is_empty:
            return True
        return len(paths) > 1 and any(
            other.remote_challenges or not (other.is_validated or other.local_challenge_sent) for other in paths[1:]
        )

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """aioquic's own packets; see ``GuardedQuic``."""
        packets = super().datagrams_to_send(now)
        self._connection_ids_unsent = not all(each.was_sent for each in self._host_cids)
        if packets and self._space.ack_at is None:
            self._note_acknowledged()
        return packets

    def stock_datagrams(self, datagrams: Sequence[bytes], now: float) -> tuple[list[tuple[bytes, Any]], int]:
        """Have aioquic make packets of ``datagrams``, and of what else it has to send; also give how many it left."""
        self._datagrams_pending.extend(datagrams)
        packets = self.datagrams_to_send(now)
        left = len(self._datagrams_pending)
        self._datagrams_pending.clear()
        return packets, left

    def seal(self, datagrams: Sequence[bytes], now: float) -> list[bytes]:
        """Make packets of ``datagrams``, each within the budget, and of the ACK that is due; for the active path."""
        space = self._space
        acknowledge = space.ack_at
        if not datagrams and (acknowledge is None or acknowledge > now):
            return []
        room = self._room(self.mtu.size)
        payloads = pack_datagrams(datagrams, room)
        eliciting = len(payloads)
        acknowledges = carrier = -1
        if acknowledge is not None and not (
            self._lively and self._unacknowledged == 1 and acknowledge - now > _ACK_DELAY - _ACK_FRESH
        ):
            ack = self._ack_frame(room, now)
            if not ack:
                space.ack_at = None
            elif payloads and len(payloads[-1]) + len(ack) <= room:
                payloads[-1] += ack
                carrier = eliciting - 1
            elif acknowledge <= now:
                if self._ack_ping_due(now):
                    ack += _PING
                    carrier = eliciting
                    eliciting += 1
                payloads.append(ack)
            else:
                ack = b""  # it goes with the next packet that has room, or alone when it is due
            if ack:
                self._note_acknowledged()
                acknowledges = space.largest_received_packet
        if not payloads:
            return []
        return self._send_payloads(payloads, eliciting, carrier, acknowledges, now)

    def probe(self, now: float) -> list[bytes]:
        """Make a path MTU probe, if one is due (RFC 8899): PING and PADDING, acknowledged like any packet."""
        if not self._probes:
            return []
        size = self.mtu.probe(now)
        if size is None:
            return []
        return self._send_payloads([_PING.ljust(self._room(size), b"\0")], 1, -1, -1, now, probe=True)

    def _send_payloads(
        self,
        payloads: Sequence[bytes],
        eliciting: int,
        carrier: int,
        acknowledges: int,
        now: float,
        *,
        probe: bool = False,
    ) -> list[bytes]:
        """Seal ``payloads``, of which the first ``eliciting`` ask for an ACK, and record them; ``carrier`` is the one
        with our ACK in it."""
        keys = self._key_store.send()  # may begin a key phase, with the next packet number
        number = self._packet_number
        self._packet_number = number + len(payloads)
        if number - self._keys_since >= settings.KEY_PHASE:
            self.request_key_update()
        packets = seal(keys, self._peer_cid.cid, self._spin_bit, number, payloads)
        left_at = now if self.clock is None else self.clock()
        record, space = self._recovery.on_run_sent, self._space
        index = octets = 0
        while index < eliciting:
            size = len(packets[index])
            begin = index
            index += 1
            while index < eliciting and len(packets[index]) == size:
                index += 1
            count = index - begin
            octets += count * size
            named = acknowledges if begin <= carrier < index else -1
            record(space, number + begin, count, size, left_at, named, probe)
        if index < len(packets):
            octets += sum(map(len, packets[index:]))
        if eliciting and not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        self._network_paths[0].bytes_sent += octets
        return packets

    def _ack_frame(self, room: int, now: float) -> bytes:
        space = self._space
        if self.clock is not None:
            now = self.clock()
        since = now if space.largest_received_time is None else space.largest_received_time
        delay = max(0, int((now - since) * 1e6)) >> self._local_ack_delay_exponent
        return encode_ack(space.ack_queue, delay, room)

    def _note_acknowledged(self) -> None:
        """Note that an ACK of all that was received is on its way."""
        self._space.ack_at = None
        self._unacknowledged = self._unacknowledged_octets = 0
        self._unacknowledged_from = _NO_NUMBER

    def _ack_ping_due(self, now: float) -> bool:
        """Whether an ACK of its own should be acknowledged, because it has to name gaps."""
        if len(self._space.ack_queue) < 2 or now - self._ack_pinged_at < _ACK_PING_INTERVAL:
            return False
        self._ack_pinged_at = now
        return True

    @property
    def _key_store(self) -> Keys:
        assert self._keys is not None
        return self._keys

    @property
    def key_update_confirmed(self) -> bool:
        """Whether the peer has acknowledged a packet under our present keys, so that another update may follow."""
        pair = self._cryptos[tls.Epoch.ONE_RTT]
        return not pair._update_key_requested and self._recovery.flight.largest_acked >= self._keys_since

    def request_key_update(self) -> None:
        """Update the keys with the next packet; does nothing while the last update, of either end, is not confirmed.

        A peer that misses a whole key phase could never open a packet again (RFC 9001 section 6.1).
        """
        if self._handshake_confirmed and self.key_update_confirmed:
            super().request_key_update()

    def _log_key_updated(self, key_type: str, trigger: str) -> None:
        # Called when new keys are in place, whoever asked for them and whichever path put them there.
        super()._log_key_updated(key_type, trigger)
        if trigger != "tls":
            self._keys_since = self._packet_number

    # -- verdicts ------------------------------------------------------------------------------------------------------

    def _on_outcome(self, outcome: AckOutcome[QuicSentPacket], now: float) -> None:
        """Act on what arrived and what was lost: ACKs of our ACKs, path MTU."""
        largest = probes = 0
        for run in outcome.acked:
            if run.acknowledges >= 0:
                self._forget_acknowledged(run.acknowledges)
            if run.probe:
                probes += 1
            elif run.size > largest:
                largest = run.size
        if largest:
            self.mtu.on_acked(largest, now)
        if probes or outcome.lost:
            self._judge_size(outcome, now)
        self.control.datagram_size = self.mtu.size

    def _judge_size(self, outcome: AckOutcome[QuicSentPacket], now: float) -> None:
        """Tell path MTU discovery of losses, and of its probes."""
        mtu = self.mtu
        lost = largest = 0
        for run in outcome.lost:
            if not run.probe:
                lost += run.stop - run.start
                largest = max(largest, run.size)
        if lost:
            mtu.on_lost(lost, largest, now)
        # After the others: a probe that is lost together with them says little about its size.
        for run in outcome.acked:
            if run.probe:
                mtu.on_probe_acked(run.size, now)
        for run in outcome.lost:
            if run.probe:
                mtu.on_probe_lost(run.size, now)

    def _forget_acknowledged(self, largest: int) -> None:
        """Stop naming what an ACK that arrived has named, up to ``largest``; not what came late, after that ACK, and
        was not acknowledged since."""
        stop = min(largest + 1, self._unacknowledged_from)
        if stop > 0:
            self._space.ack_queue.subtract(0, stop)

    # -- overridden ------------------------------------------------------------------------------------------------

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._connection_ids_unsent = True

    def _on_new_connection_id_delivery(self, delivery: QuicDeliveryState, connection_id: QuicConnectionId) -> None:
        super()._on_new_connection_id_delivery(delivery, connection_id)
        if delivery is not QuicDeliveryState.ACKED:
            self._connection_ids_unsent = True

    def _on_ack_delivery(self, delivery: QuicDeliveryState, space: QuicPacketSpace, highest_acked: int) -> None:
        if not space.is_application_data:
            super()._on_ack_delivery(delivery, space, highest_acked)
        elif delivery is QuicDeliveryState.ACKED:
            self._forget_acknowledged(highest_acked)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._space = self._spaces[tls.Epoch.ONE_RTT]
        self._late_crypto = self._crypto_streams[tls.Epoch.ONE_RTT]
        self._keys = Keys(self._cryptos[tls.Epoch.ONE_RTT])  # a client begins anew after a Retry
        self._received = ReceivedNumbers()
        self._space.received_packets = self._received  # type: ignore[assignment]

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket=from_session_ticket)
        limit = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
        if limit is not None:
            self._peer_udp_limit = limit

    def path_ceiling(self, ceiling: int, now: float) -> None:
        """Let path MTU discovery look up to ``ceiling`` bytes of UDP payload, or to what the peer takes."""
        if self._probes and self._batched:
            self.mtu.on_path_change(min(ceiling, self._peer_udp_limit), now)

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due; None when never."""
        if not self.batched:
            return super().get_timer()
        # What aioquic asks of all three packet number spaces, and of a path that may not be validated yet, asked of the
        # one that is left: it is asked for every batch.
        timer = self.idle_deadline
        acknowledge = self._space.ack_at
        if acknowledge is not None and acknowledge < timer:
            timer = acknowledge
        self._loss_at = loss = self._recovery.application_deadline()
        if loss is not None and loss < timer:
            timer = loss
        if self._probes:
            probe = self.mtu.next_deadline()
            if probe < timer:
                timer = probe
        return timer

    def handle_timer(self, now: float) -> None:
        """Do what is due at ``now``."""
        timeouts = self._recovery._pto_count
        super().handle_timer(now)
        if self._recovery._pto_count > timeouts:
            self.mtu.on_pto(now)
