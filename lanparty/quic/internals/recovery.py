"""Loss recovery in aioquic's place: what its connection asks of ``QuicPacketRecovery``, answered by ours.

Owns: the seam between aioquic's connection and ``Flight``, the congestion controller and the pacer; RTT estimates for
both (RFC 9002 section 5). Must not know: how packets are made.

The Initial and Handshake spaces stay as aioquic does them: few packets, each with something to repeat. The
application's space has no ``sent_packets`` any more: they are runs in ``flight``. aioquic's own packets of that space
come in through ``on_packet_sent``, as before, and go out through their delivery handlers. Two fields of the space are
kept true, because aioquic's timers read them: ``loss_time`` and ``ack_eliciting_in_flight``.

Differences from aioquic that are meant:

- Round-trip times under a millisecond are what they are: a queue of one packet at 100 Mbit/s is 0.1 ms.
- A probe time-out repeats aioquic's oldest packet and gives up no datagram: they are not repeated, so nothing is won
  by calling them lost before they are.
- Probe time-outs are doubled to half a second, not for ever: see ``_LONGEST_PAUSE``.
- An ACK of a number that was never sent ends the connection (RFC 9000 section 13.1): else a receiver could claim what
  it never got, and have us flood the path (section 21.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from aioquic.quic.congestion.base import QuicCongestionControl
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace

from lanparty.quic.congestion import CongestionControl
from lanparty.quic.flight import AckOutcome, Flight
from lanparty.quic.pacer import Pacer

__all__ = ["Recovery"]

_CONTROL_RESERVE: Final = 2 * 1200
"""Bytes over the congestion window that aioquic's own packets may use: two of them, so that the control stream and
probes go out while datagrams fill the window."""

_MAX_HOST_DELAY: Final = 0.015
"""Seconds of the programs' own delay that the window makes up for. On two busy cores 1 to 5 ms are usual; more than
this would be a queue that we make ourselves."""

_LONGEST_PAUSE: Final = 0.5
"""Seconds between two probe time-outs at most, or one time-out that was not doubled yet. RFC 9002 section 6.2.1 doubles
them without end: after 2 s without a path the next packet leaves up to 2 s after it is back, for a full window lets
nothing else out. A session that hears nothing is given up after 4.5 s, so this is a dozen small packets."""

_MAX_PACKETS: Final = 16384
"""Packets in flight at most: a packet number of two bytes is told from its neighbours 32 768 away (RFC 9000 appendix
A.2), and half of that is left for losses not yet found."""

Ranges = Sequence[tuple[int, int]]


class _Bytes(QuicCongestionControl):
    """aioquic's book-keeping of what is in flight in the Initial and Handshake spaces; decides nothing."""

    def __init__(self) -> None:
        self.bytes_in_flight = 0

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        self.bytes_in_flight -= packet.sent_bytes

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        self.bytes_in_flight += packet.sent_bytes

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        self.bytes_in_flight -= sum(packet.sent_bytes for packet in packets)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        self.on_packets_expired(packets=packets)

    def on_persistent_congestion(self) -> None:
        """Nothing: the handshake's packets are few, and a lost one is repeated ever more slowly."""

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Nothing to decide."""


class _Unpaced:
    """aioquic's own packets are few and urgent: they do not wait for the pacer."""

    def next_send_time(self, now: float) -> None:
        return None

    def update_after_send(self, now: float) -> None:
        """Nothing to note."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Nothing to change."""


class Recovery(QuicPacketRecovery):
    """Loss recovery and congestion control of one connection. ``next_number`` gives the number of the next packet."""

    def __init__(
        self,
        *,
        control: CongestionControl,
        next_number: Callable[[], int],
        initial_rtt: float,
        peer_completed_address_validation: bool,
        send_probe: Callable[[], None],
    ) -> None:
        super().__init__(
            congestion_control_algorithm="reno",
            initial_rtt=initial_rtt,
            max_datagram_size=1200,
            peer_completed_address_validation=peer_completed_address_validation,
            send_probe=send_probe,
        )
        self._cc = _Bytes()
        self._pacer: Any = _Unpaced()
        self._next_number = next_number
        self.control = control
        self.pace = Pacer()
        self.flight: Flight[QuicSentPacket] = Flight()
        self.on_outcome: Callable[[AckOutcome[QuicSentPacket], float], None] = lambda _outcome, _now: None
        """Told of every verdict, for path MTU discovery and for ACKs of ACKs."""

    # -- what aioquic reads --------------------------------------------------------------------------------------

    @property
    def bytes_in_flight(self) -> int:
        """Bytes in flight in all spaces."""
        return self._cc.bytes_in_flight + self.flight.bytes

    @property
    def congestion_window(self) -> int:
        """Bytes that aioquic's own packets may have in flight."""
        return self.control.window + _CONTROL_RESERVE

    # -- what datagrams may use ------------------------------------------------------------------------------------

    def allowance(self, now: float) -> int:
        """Bytes that may leave now, by window and pacing; 0 or less: none."""
        if self.flight.packets >= _MAX_PACKETS:
            return 0
        control, pace = self.control, self.pace
        paced = pace.allowance(now, control.pacing_rate, control.catch_up)
        control.missed = pace.missed
        room = self.window - self.bytes_in_flight
        return room if room < paced else paced

    def urgent_allowance(self) -> int:
        """Bytes of urgent datagrams that may leave although ``allowance`` has just said none."""
        return min(self.window - self.bytes_in_flight, self.pace.urgent())

    @property
    def window(self) -> int:
        """Bytes that may be in flight: on the path, and in the hands of the two programs.

        The congestion controller speaks of the path alone. What lies in a socket until its program has its turn is not
        the path's, and does not fill its buffers.
        """
        control, delay = self.control, self.flight.host_delay
        return control.window + int(control.rate * (delay if delay < _MAX_HOST_DELAY else _MAX_HOST_DELAY))

    def on_run_sent(
        self, space: QuicPacketSpace, start: int, count: int, size: int, now: float, acknowledges: int, probe: bool
    ) -> None:
        """Record packets that we made."""
        flight, octets = self.flight, count * size
        flight.on_sent(start, count, size, now, acknowledges=acknowledges, probe=probe)
        space.ack_eliciting_in_flight = flight.packets
        self._time_of_last_sent_ack_eliciting_packet = now
        self.pace.on_sent(octets)
        self.control.on_sent(now, octets, flight.bytes)

    # -- aioquic's calls, for its application space ------------------------------------------------------------------

    def on_packet_sent(self, *, packet: QuicSentPacket, space: QuicPacketSpace) -> None:
        """Record one of aioquic's own packets."""
        if not space.is_application_data:
            super().on_packet_sent(packet=packet, space=space)
            return
        if not packet.in_flight:
            return  # only an ACK: nobody answers it, and what it acknowledged is told again by the next one
        flight = self.flight
        now = packet.sent_time
        assert now is not None
        flight.on_sent(packet.packet_number, 1, packet.sent_bytes, now, packet=packet)
        space.ack_eliciting_in_flight = flight.packets
        if self.handshake_confirmed:
            self._time_of_last_sent_ack_eliciting_packet = now
        self.pace.on_sent(packet.sent_bytes)
        self.control.on_sent(now, packet.sent_bytes, flight.bytes)

    def on_ack_received(self, *, ack_rangeset: RangeSet, ack_delay: float, now: float, space: QuicPacketSpace) -> None:
        """Take an ACK that aioquic parsed."""
        if not space.is_application_data:
            super().on_ack_received(ack_rangeset=ack_rangeset, ack_delay=ack_delay, now=now, space=space)
            return
        self.on_ranges([(r.start, r.stop - 1) for r in reversed(list(ack_rangeset))], ack_delay, now, space)

    def on_ranges(
        self, ranges: Ranges, ack_delay: float, now: float, space: QuicPacketSpace, waited: float = 0.0
    ) -> None:
        """Take an ACK of the application's space; ``ranges`` newest first. It arrived ``waited`` seconds ago.

        Raises QuicConnectionError for one that no honest peer sends.
        """
        flight = self.flight
        largest = ranges[0][1]
        if largest > flight.largest_sent and largest >= self._next_number():
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=QuicFrameType.ACK,
                reason_phrase="a packet was acknowledged that was never sent",
            )
        delay = ack_delay if ack_delay < self.max_ack_delay else self.max_ack_delay
        outcome = flight.on_ack(ranges, now, delay, self._rtt_smoothed, waited)
        if outcome.acked:
            if outcome.rtt is not None:
                self._update_rtt(outcome.rtt, delay, now)
            if self.peer_completed_address_validation:
                self._pto_count = 0
        self._conclude(outcome, now, space)

    def get_loss_detection_time(self, *, amplification_limited: bool = False) -> float | None:
        """When ``on_loss_detection_timeout`` is due; None when never."""
        if not self.handshake_confirmed:
            return super().get_loss_detection_time(amplification_limited=amplification_limited)
        if amplification_limited:
            return self.flight.loss_time
        return self.application_deadline()

    def application_deadline(self) -> float | None:
        """The same once the handshake is confirmed: of the application's space, for the others are gone."""
        flight = self.flight
        if flight.loss_time is not None:
            return flight.loss_time
        if not flight.packets and self.peer_completed_address_validation:
            return None
        period = self.pto
        if self._pto_count:
            period = min(period * 2**self._pto_count, max(_LONGEST_PAUSE, period))
        return self._time_of_last_sent_ack_eliciting_packet + period

    def _detect_loss(self, *, now: float, space: QuicPacketSpace) -> None:
        if not space.is_application_data:
            super()._detect_loss(now=now, space=space)
            return
        self._conclude(self.flight.on_loss_timer(now, max(self._rtt_latest, self._rtt_smoothed)), now, space)

    def reschedule_data(self, *, now: float, speed_up_handshake: bool = False) -> None:
        """Have aioquic repeat its oldest packet, and a probe sent: a probe time-out (RFC 9002 section 6.2.4)."""
        super().reschedule_data(now=now, speed_up_handshake=speed_up_handshake)
        if speed_up_handshake or not self.handshake_confirmed:
            return
        packet = self.flight.oldest_packet()
        if packet is not None:
            self.flight.give_up(packet)
            for handler, args in packet.delivery_handlers:
                handler(QuicDeliveryState.LOST, *args)
        for space in self.spaces:
            if space.is_application_data:
                space.ack_eliciting_in_flight = self.flight.packets

    def on_path_change(self, now: float, space: QuicPacketSpace, first: int, *, learnt: bool) -> None:
        """Go on by another path, by which the packets from number ``first`` on have left.

        What left before is given up: else it would fill the window until a time-out, and aioquic's frames in it would
        be sent again only then. Unless ``learnt``, where only the peer's port is another one, round-trip times and
        congestion control begin anew (RFC 9000 section 9.4).
        """
        self._pto_count = 0
        self._conclude(self.flight.abandon(first), now, space)
        if learnt:
            return
        self._rtt_initialized = False
        self._rtt_smoothed = self._rtt_latest = self._rtt_variance = 0.0
        self._rtt_min = math.inf
        self.flight.forget_path()
        self.control.on_path_change(now)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _conclude(self, outcome: AckOutcome[QuicSentPacket], now: float, space: QuicPacketSpace) -> None:
        """Tell everybody who has a stake in it."""
        flight = self.flight
        space.loss_time = flight.loss_time
        space.ack_eliciting_in_flight = flight.packets
        if flight.largest_acked > space.largest_acked_packet:
            space.largest_acked_packet = flight.largest_acked
        for runs, state in ((outcome.acked, QuicDeliveryState.ACKED), (outcome.lost, QuicDeliveryState.LOST)):
            for run in runs:
                if run.packet is not None:
                    for handler, args in run.packet.delivery_handlers:
                        handler(state, *args)
        if outcome.sample is not None:
            if outcome.persistent:
                self.control.on_persistent_congestion(now)
            self.control.on_ack(outcome.sample)
        if outcome.acked or outcome.lost:
            self.on_outcome(outcome, now)

    def _update_rtt(self, latest: float, ack_delay: float, now: float) -> None:
        """RFC 9002 section 5.3."""
        if not self._rtt_initialized:
            self._rtt_initialized = True
            self._rtt_first_sample_time = now
            self._rtt_min = self._rtt_smoothed = self._rtt_latest = latest
            self._rtt_variance = latest / 2
            return
        if latest < self._rtt_min:
            self._rtt_min = latest
        adjusted = latest - ack_delay if latest >= self._rtt_min + ack_delay else latest
        self._rtt_latest = adjusted
        self._rtt_variance += (abs(self._rtt_smoothed - adjusted) - self._rtt_variance) / 4
        self._rtt_smoothed += (adjusted - self._rtt_smoothed) / 8

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time, seconds; None before the first sample."""
        return self._rtt_smoothed if self._rtt_initialized else None

    @property
    def pto(self) -> float:
        """Seconds of a probe time-out of the application's space, without back-off (RFC 9002 section 6.2.1)."""
        return self.get_probe_timeout()
