"""The data path between a role's device and the relay's connection: plain functions, in batches.

    device -> room                                       room -> device
    1. role's reader: frames, super-frames               1. connection: batch of overlay datagrams, now
    2. transmit: no session? drop, count                 2. receive_untrusted: OverlayDecoder (pieces put together)
    3. clamp TCP MSS to what travels whole               3. echoes: answer, or note the reply
    4. OverlayEncoder: 1 datagram, or pieces;            4. Joiner: segments to super-frames
       super-frames cut to their segments                5. clamp TCP MSS
    5. connection.send_datagrams + flush, once           6. role's on_frames, once

A super-frame has no SYN (``proto.superframe``), so step 3 and 5 are for finished frames alone.

Owns: steps 2-6, the counters, the current connection's budget.
Must not know: where frames come from or go to, the control stream, the clock (``now`` is an argument).

Nothing here waits, logs (unless the frame log is on) or starts a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from lanparty.link.device import DeviceCounters
from lanparty.obs.counters import TunnelCounters
from lanparty.obs.diagnostics import News, tunnel_sentences
from lanparty.obs.framelog import FrameLog
from lanparty.obs.switches import enabled
from lanparty.proto import mtu
from lanparty.proto.fragments import Reassembler
from lanparty.proto.joiner import Joiner
from lanparty.proto.mss import clamp_mss
from lanparty.proto.overlay import Echo, OverlayCounters, OverlayDecoder, OverlayEncoder, encode_echo
from lanparty.proto.superframe import Frame, frames_of, plain_frames
from lanparty.uplink.echo import EchoMeter

__all__ = ["DatagramConnection", "Tunnel"]

RELAY_PEER = 0
"""The peer id by which echoes name the relay itself."""


Deliver = Callable[[list[tuple[int, Frame]], float], None]
"""Takes (origin peer id, frame or super-frame) batches from the room, and the time."""


class DatagramConnection(Protocol):
    """What the tunnel needs of `lanparty.quic.connection.Connection`."""

    counters: TunnelCounters

    @property
    def datagram_budget(self) -> int:
        """Largest overlay datagram that is accepted now, in bytes."""
        ...

    def send_datagrams(self, datagrams: Sequence[bytes]) -> None:
        """Queue datagrams; never blocks."""
        ...

    def flush(self) -> None:
        """Send what may go out now."""
        ...


@attrs.define
class _Attached:
    """What belongs to one session."""

    connection: DatagramConnection
    deliver: Deliver
    peer_id: int
    effective_mtu: int
    budget: int
    mss_v4: int
    mss_v6: int
    encoder: OverlayEncoder
    decoder: OverlayDecoder
    joiner: Joiner
    meter: EchoMeter


class Tunnel:
    """Carries frames between the role and whichever session is attached; without one, frames are dropped and counted.

    Counters live as long as the program, so that a reconnect does not hide a loss.
    """

    def __init__(self, *, counters: TunnelCounters | None = None, framelog: FrameLog | None = None) -> None:
        """``framelog`` is None when frames are not logged."""
        self.counters = TunnelCounters() if counters is None else counters
        self.overlay = OverlayCounters()
        self.device_counters: Callable[[], DeviceCounters] | None = None
        """Gives the counters of the role's device, which travel with ours."""
        self.paused = False
        """True: the role wants no frames carried, either way. Echoes go on."""
        self._framelog = framelog
        self._news = News()
        self._diagnosed = TunnelCounters()
        self._diagnosed_device = 0
        self._attached: _Attached | None = None

    @property
    def attached(self) -> bool:
        """True while frames flow."""
        return self._attached is not None

    @property
    def meter(self) -> EchoMeter | None:
        """The attached session's echo measurements."""
        return None if self._attached is None else self._attached.meter

    def attach(
        self,
        connection: DatagramConnection,
        deliver: Deliver,
        *,
        peer_id: int,
        effective_mtu: int,
        fragments: bool,
    ) -> None:
        """Let frames flow over ``connection`` until `detach`; ``deliver`` takes those from the room."""
        budget = connection.datagram_budget
        self._attached = attached = _Attached(
            connection=connection,
            deliver=deliver,
            peer_id=peer_id,
            effective_mtu=effective_mtu,
            budget=0,
            mss_v4=0,
            mss_v6=0,
            encoder=OverlayEncoder(budget, fragments=fragments),
            decoder=OverlayDecoder(Reassembler(), self.overlay),
            joiner=Joiner(joins=enabled("vnet")),
            meter=EchoMeter(),
        )
        self._follow_budget(attached, budget)

    def detach(self) -> None:
        """Stop the flow; pieces of unfinished frames are forgotten, counters are not."""
        if self._attached is not None:
            _add(self.counters, self._attached.connection.counters)
            self._attached = None

    def transmit(self, frames: Sequence[Frame]) -> None:
        """Send a batch of the device's frames to the room."""
        if not frames:
            return
        attached = self._attached
        if attached is None:
            self.counters.not_connected_dropped += frames_of(frames)
            return
        if self.paused:
            self.counters.drop("paused", frames_of(frames))
            return
        budget = attached.connection.datagram_budget
        if budget != attached.budget:
            self._follow_budget(attached, budget)
        datagrams = self._encode(attached, frames)
        if self._framelog is not None:
            self._framelog.frames(plain_frames(frames), RELAY_PEER, "to-room")
        attached.connection.send_datagrams(datagrams)
        attached.connection.flush()

    def receive_untrusted(self, datagrams: list[bytes], now: float) -> None:
        """Take a batch of overlay datagrams from the relay; bad ones are dropped and counted by reason."""
        attached = self._attached
        if attached is None:
            return
        frames, echoes = attached.decoder.decode_untrusted(datagrams, now)
        if echoes:
            self._echoes_untrusted(attached, echoes, now)
        if not frames:
            return
        if self.paused:
            self.counters.drop("paused", len(frames))
            return
        counters = self.counters
        counters.frames_in += len(frames)
        octets = 0
        for _, frame in frames:
            octets += len(frame)
        counters.bytes_in += octets
        if self._framelog is not None:
            for stamp, frame in frames:
                self._framelog.frames([frame], stamp & 0xFFFF, "from-room")
        joiner = attached.joiner
        refused = joiner.refused
        joined = joiner.join_untrusted(frames)
        if joiner.refused != refused:
            counters.drop("partial-checksum", joiner.refused - refused)
        # Both directions, so that it does not matter which of two ends has the narrower path.
        for index, (origin, joint) in enumerate(joined):
            if isinstance(joint, bytes):
                clamped = clamp_mss(joint, attached.mss_v4, attached.mss_v6)
                if clamped is not joint:
                    joined[index] = origin, clamped
        attached.deliver(joined, now)

    def send_echo(self, now: float) -> None:
        """Ask the relay for an echo; its answer, or the lack of one, is counted."""
        attached = self._attached
        if attached is None:
            return
        sequence = attached.meter.request(now)
        echo = Echo(origin=0, reply=False, target=RELAY_PEER, sequence=sequence, sent_us=round(now * 1e6))
        self.counters.echoes_out += 1
        attached.connection.send_datagrams([encode_echo(echo)])
        attached.connection.flush()

    def forget(self, peer_id: int) -> None:
        """Forget unfinished frames of a member: who comes next under its id counts its frames from the start."""
        if self._attached is not None:
            self._attached.decoder.reassembler.forget(peer_id)

    def as_dict(self) -> dict[str, int]:
        """Give all counters flat, for ``stats`` and the log."""
        totals = self._totals()
        flat = totals.as_dict()
        if self.device_counters is not None:
            flat |= {f"device.{name}": count for name, count in self.device_counters().as_dict().items()}
        if self._attached is not None:
            flat |= self._attached.meter.as_dict()
        return flat

    def diagnose(self) -> list[str]:
        """Give sentences about what went wrong since the call before, each kind only when it is new."""
        totals = self._totals()
        device = 0 if self.device_counters is None else self.device_counters().write_dropped
        recent, recent_device = totals.since(self._diagnosed), device - self._diagnosed_device
        self._diagnosed, self._diagnosed_device = totals, device
        return self._news.of(tunnel_sentences(recent, recent_device))

    @property
    def dropped(self) -> int:
        """All drops together."""
        return self._totals().dropped

    def _totals(self) -> TunnelCounters:
        """Our counters, with those that the connections and the decoder keep."""
        totals = attrs.evolve(self.counters, other_dropped=dict(self.counters.other_dropped))
        if self._attached is not None:
            _add(totals, self._attached.connection.counters)
        totals.pieces_in += self.overlay.pieces
        totals.echoes_in += self.overlay.echoes
        for reason, count in self.overlay.dropped.items():
            totals.drop(f"overlay-{reason}", count)
        return totals

    def _encode(self, attached: _Attached, frames: Sequence[Frame]) -> list[bytes]:
        """Give the datagrams of a batch, in its order, and count what it is."""
        counters, encoder = self.counters, attached.encoder
        mss_v4, mss_v6 = attached.mss_v4, attached.mss_v6
        oversize = encoder.oversize
        datagrams: list[bytes] = []
        finished: list[bytes] = []
        count = octets = 0
        for frame in frames:
            if isinstance(frame, bytes):
                count += 1
                octets += len(frame)
                clamped = clamp_mss(frame, mss_v4, mss_v6)
                if clamped is not frame:
                    counters.mss_clamped += 1
                finished.append(clamped)
                continue
            count += frame.segments
            octets += frame.octets
            if finished:
                datagrams += encoder.encode_batch(finished)
                finished = []
            datagrams += encoder.encode_super(frame)
        if finished:
            datagrams += encoder.encode_batch(finished)
        counters.frames_out += count
        counters.bytes_out += octets
        counters.oversize_dropped += encoder.oversize - oversize
        return datagrams

    def _follow_budget(self, attached: _Attached, budget: int) -> None:
        """Take over a budget that path MTU discovery changed."""
        attached.budget = attached.encoder.budget = budget
        # Also never above the room's MTU: a member with a larger one would be told sizes that the room cannot carry.
        attached.mss_v4 = min(mtu.tcp_mss_for(budget, 4), attached.effective_mtu - 40)
        attached.mss_v6 = min(mtu.tcp_mss_for(budget, 6), attached.effective_mtu - 60)

    def _echoes_untrusted(self, attached: _Attached, echoes: Sequence[Echo], now: float) -> None:
        """Answer requests to us, and take replies to ours."""
        answers: list[bytes] = []
        for echo in echoes:
            if echo.reply:
                attached.meter.reply_untrusted(echo.sequence, now)
            elif echo.target == attached.peer_id:
                answer = Echo(0, reply=True, target=echo.origin, sequence=echo.sequence, sent_us=echo.sent_us)
                answers.append(encode_echo(answer))
        if answers:
            # The connection flushes by itself at the end of the batch that we are called in.
            attached.connection.send_datagrams(answers)


def _add(totals: TunnelCounters, other: TunnelCounters) -> None:
    """Add the counters of a connection."""
    for field in attrs.fields(TunnelCounters):
        if field.name != "other_dropped":
            setattr(totals, field.name, getattr(totals, field.name) + getattr(other, field.name))
    for reason, count in other.other_dropped.items():
        totals.drop(reason, count)
