"""Outgoing overlay datagrams of one connection, waiting for congestion control: a smart queue.

Bound: ``QUEUE_BYTES`` bytes, and ``QUEUE_AGE`` seconds for each datagram. Drop policy: oldest first, of the fattest
flow of the fattest payer. Counters: ``queue_dropped`` (full), ``queue_expired`` (too old), ``oversize_dropped`` (no
longer fits the path), ``dropped.codel`` (its flow has kept a standing queue).

Service order, every time something may leave:

1. control (ARP, DHCP, ND, echoes), first in, first out;
2. flows that have just begun to wait, one quantum of each: what a game, a voice or a ping sends never gets beyond it;
3. bulk: flows that had more than that, in deficit round robin between payers, and between the flows of a payer, with
   CoDel in each flow (RFC 8290 with one more level).

Stages 1 and 2 are paid for like any other: what a flow sends there is taken off its quantum of this round of stage 3,
and off its payer's. A flow that has used its quantum up waits in stage 3. A payer who has overdrawn by ``CREDIT``, or
has ``AHEAD`` flows in stage 2 already, gets no more of his flows in there until the rounds have paid for it. So neither
an ARP storm nor a port scan gets past the others. Within a flow the order is always kept: it waits in one place, and
changes that place as a whole.

Why two levels: between flows alone, one member's hundred connections would leave another's single one a hundredth.

A flow is found by its exact key, see ``lanparty.proto.flows``. Nothing is hashed to buckets, so no game shares the fate
of a download by chance. Bounds: a payer with ``PAYER_FLOWS`` flows waiting has all further ones in one, his rest, until
that has emptied; beyond ``PAYERS`` payers the others are one. Flows for which nothing waits are forgotten when there
are many.

Owns: who is next, and who must go. Must not know: QUIC, sockets, the clock (``now`` is an argument).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from itertools import chain
from math import inf
from typing import Final

import attrs

from lanparty.obs.counters import TunnelCounters
from lanparty.obs.switches import enabled
from lanparty.proto.flows import Identity, classify_untrusted, head_keys_untrusted, is_piece, piece_of
from lanparty.quic.codel import DATAGRAM_COST, FlowQueue
from lanparty.quic.settings import QUEUE_AGE, QUEUE_BYTES

__all__ = ["AHEAD", "BURST", "CONTROL_QUANTUM", "CREDIT", "PAYERS", "PAYER_FLOWS", "DatagramQueue"]

BURST: Final = 64 * 1024
"""Bytes, the largest quantum. The quantum is one datagram of the path's size (RFC 8290 section 5.2), as long as less
may leave at once than one of each flow; when more may, it is a flow's share of it. What leaves in one go, leaves in one
go, in whatever order: runs of one flow cost less here and can be joined into super-frames at the other end. Those have
64 KiB at most."""

CONTROL_QUANTUM: Final = 16 * 1024
"""Bytes of control that a payer may have sent first, per round: 250 ARP frames, or 30 DHCP messages. A network needs
far less, and a storm gets its fair share after that."""

CREDIT: Final = 16 * 1024
"""Bytes that a payer's control and sparse flows may be ahead of his share: 6.5 ms of a 20 Mbit/s uplink."""

AHEAD: Final = 16
"""Flows of one payer that wait in stage 2 at a time. Ten games and calls at once are a busy house; 16 full
datagrams are what ``CREDIT`` allows, nearly."""

PAYER_FLOWS: Final = 256
"""Flows of one payer that wait at a time; RFC 8290 has 1024 buckets for everybody. Each costs about 1 KiB of memory."""

PAYERS: Final = 64
"""Payers that are told apart: a room has 32 members by default. A LAN has more addresses, but not 64 which all fill
the line."""

_FLOWS: Final = 1024
"""Flows remembered before idle ones are forgotten."""

_FRAMES_IN_PIECES: Final = 256
"""Origins whose last frame in pieces is remembered."""


class _Place(Enum):
    """Where a flow waits."""

    IDLE = 0
    CONTROL = 1
    SPARSE = 2
    BULK = 3


_IDLE, _CONTROL, _SPARSE, _BULK = _Place


@attrs.define(eq=False)
class _Payer:
    """Whose share is used."""

    deficit: float = 0.0
    """Bytes that may be sent in this round; negative: in debt."""
    size: int = 0
    """Bytes that wait."""
    ahead: int = 0
    """Flows in stage 2."""
    waiting: int = 0
    """Flows that wait, in whatever stage."""
    listed: bool = False
    """Is in the round."""
    flows: deque[_Flow] = attrs.field(factory=deque)
    """The round of his flows: those in stage 3, and those that have had something of this round's quantum before."""
    rest: _Flow | None = None
    """Flows beyond PAYER_FLOWS, together."""


@attrs.define(eq=False)
class _Flow(FlowQueue):
    """A flow and its place in the schedule."""

    payer: _Payer = attrs.field(kw_only=True)
    control: bool = attrs.field(kw_only=True)
    deficit: float = 0.0
    """Bytes that may be sent in this round."""
    place: _Place = _IDLE
    listed: bool = False
    """Is in its payer's round. One that is there without being in stage 3 gets no fresh quantum before its turn: what
    it sends meanwhile goes ahead as far as the old one reaches, and then waits for its turn."""


class DatagramQueue:
    """What waits for one connection. With the acceleration ``fq`` switched off: first in, first out, same bounds."""

    __slots__ = (
        "_bulk",
        "_control",
        "_count",
        "_counters",
        "_cut",
        "_fifo",
        "_flow_limit",
        "_flows",
        "_largest",
        "_max_age",
        "_max_bytes",
        "_payers",
        "_quantum",
        "_round",
        "_sparse",
        "size",
    )

    def __init__(self, counters: TunnelCounters, *, max_bytes: int = QUEUE_BYTES, max_age: float = QUEUE_AGE) -> None:
        self._counters = counters
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._fifo = None if enabled("fq") else _Flow(payer=_Payer(), control=True)
        self.size = 0
        """Bytes that wait."""
        self._count = 0
        self._largest = 0
        self._reset()

    def __len__(self) -> int:
        return self._count

    def push(self, datagrams: Sequence[bytes], budget: int, now: float) -> None:
        """Queue ``datagrams``; those larger than ``budget`` bytes are dropped and counted, then the oldest of all."""
        if not datagrams:
            return
        if not self._count and (len(self._flows) >= _FLOWS or len(self._payers) >= PAYERS):
            self._reset()  # nothing waits, so nothing can be overtaken
        largest = max(map(len, datagrams))
        if largest > budget:
            fitting = [datagram for datagram in datagrams if len(datagram) <= budget]
            self._counters.oversize_dropped += len(datagrams) - len(fitting)
            if not fitting:
                return
            datagrams = fitting
            largest = max(map(len, datagrams))
        if not self._count or largest > self._largest:
            self._largest = largest
        self._quantum = budget + DATAGRAM_COST
        if self._fifo is not None:
            self._append(self._fifo, list(datagrams), now)
        else:
            self._sort(datagrams, now)
        if self.size > self._max_bytes:
            self._shrink()

    def offer(self, datagrams: Sequence[bytes], allowance: int, budget: int, now: float) -> list[bytes]:
        """Push ``datagrams`` and take what may leave now; nearly free when nothing waits and all of them may."""
        if not self._count and datagrams:
            cost = sum(map(len, datagrams)) + DATAGRAM_COST * len(datagrams)
            if cost <= allowance and max(map(len, datagrams)) <= budget:
                return list(datagrams)
        self.push(datagrams, budget, now)
        return self.take(allowance, budget, now)

    def take(self, allowance: int, budget: int, now: float, *, bulk: bool = True) -> list[bytes]:
        """Remove and return what leaves next, in order, of at most ``allowance`` bytes together; without ``bulk`` only
        control and what has just begun to wait.

        Each costs ``DATAGRAM_COST`` bytes more than it has. If anything is allowed, at least one datagram is returned,
        unless nothing (that is not too old) waits. What does not fit ``budget`` any more, because the path shrank while
        it waited, is dropped and counted.
        """
        out: list[bytes] = []
        if not self._count or allowance <= 0:
            return out
        self._quantum = budget + DATAGRAM_COST
        if budget < self._largest:
            self._fit(budget)
        left = allowance
        for line in (self._control, self._sparse):
            while line:
                left -= self._serve(line[0], line[0].deficit, left, now, out)
                if not self._leave(line[0]):
                    return out
                line.popleft()
        if bulk:
            self._take_bulk(left, now, out)
        return out

    def clear(self) -> None:
        """Drop and count everything: the connection is over."""
        self._counters.queue_dropped += self._count
        self._count = self.size = 0
        self._reset()

    # -- arrival -----------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._control: deque[_Flow] = deque()
        self._sparse: deque[_Flow] = deque()
        self._round: deque[_Payer] = deque()
        self._bulk = 0  # flows in the rounds of all payers
        self._flows: dict[int | bytes, _Flow] = {}
        self._flow_limit = _FLOWS
        self._payers: dict[bytes, _Payer] = {}
        self._cut: dict[bytes, tuple[bytes, _Flow]] = {}
        self._largest = 0  # bytes of the largest datagram since the queue was last empty, at least
        self._quantum = 0
        if self._fifo is not None:
            self._fifo = _Flow(payer=_Payer(), control=True)
            self._payers[b""] = self._fifo.payer

    def _sort(self, datagrams: Sequence[bytes], now: float) -> None:
        """Append each datagram to its flow, those of one flow in their order."""
        keys = head_keys_untrusted(datagrams)
        last = keys[0]
        if keys.count(last) == len(keys):
            self._append_run(last, datagrams, now)
            return
        flows = self._flows
        if flows.keys() >= set(keys):
            # Every key names a flow: they can be gathered before they are appended.
            parts: dict[int, list[bytes]] = {}
            for key, datagram in zip(keys, datagrams, strict=True):
                if key in parts:
                    parts[key].append(datagram)
                else:
                    parts[key] = [datagram]
            for key, part in parts.items():
                self._append(flows[key], part, now)
            return
        # A flow's datagrams may have several keys here, as pieces have: one run after the other.
        start = 0
        for index, key in enumerate(keys):
            if key != last:
                self._append_run(last, datagrams[start:index], now)
                last = key
                start = index
        self._append_run(last, datagrams[start:], now)

    def _append_run(self, key: int, datagrams: Sequence[bytes], now: float) -> None:
        """Append datagrams of one head key: of one flow if the key is known, of whatever flows if not."""
        find = self._flows.get
        flow = find(key)
        start = 0
        while flow is None and start < len(datagrams):
            datagram = datagrams[start]
            self._append(self._find(datagram), [datagram], now)
            start += 1
            flow = find(key)
        if flow is not None and start < len(datagrams):
            self._append(flow, list(datagrams[start:] if start else datagrams), now)

    def _append(self, flow: _Flow, datagrams: list[bytes], now: float) -> None:
        if flow.times and flow.times[0][0] < now - self._max_age:
            self._expire(flow, now)
        size = sum(map(len, datagrams))
        flow.append(datagrams, size, now)
        flow.payer.size += size
        self.size += size
        self._count += len(datagrams)
        if flow.place is _IDLE:
            self._begin(flow)

    def _begin(self, flow: _Flow) -> None:
        """Give an idle flow that has something to send a place."""
        payer = flow.payer
        payer.waiting += 1
        if self._fifo is not None:
            flow.deficit = inf
        elif not flow.listed:
            flow.deficit = CONTROL_QUANTUM if flow.control else self._quantum
        overdrawn = not flow.control and (payer.ahead >= AHEAD or payer.deficit < -CREDIT)
        if flow.deficit <= 0 or overdrawn:
            flow.place = _BULK
            self._list(flow)
            return
        if flow.control:
            flow.place = _CONTROL
            self._control.append(flow)
        else:
            flow.place = _SPARSE
            self._sparse.append(flow)
            payer.ahead += 1

    def _list(self, flow: _Flow) -> None:
        """Put ``flow`` into its payer's round, and him into the payers', where they are not yet."""
        payer = flow.payer
        if not flow.listed:
            flow.listed = True
            payer.flows.append(flow)
            self._bulk += 1
        if not payer.listed:
            payer.listed = True
            self._round.append(payer)

    def _find(self, datagram: bytes) -> _Flow:
        """Find or make the flow of ``datagram``."""
        if not is_piece(datagram):
            return self._flow(classify_untrusted(datagram))
        origin, frame, first = piece_of(datagram)
        if not first and (cut := self._cut.get(origin)) is not None and cut[0] == frame:
            return cut[1]
        flow = self._flow(classify_untrusted(datagram))
        if first:
            if len(self._cut) >= _FRAMES_IN_PIECES:
                self._cut.clear()
            self._cut[origin] = frame, flow
        return flow

    def _flow(self, identity: Identity) -> _Flow:
        flow = self._flows.get(identity.key)
        if flow is not None:
            return flow
        if len(self._flows) >= self._flow_limit:
            self._forget_idle()
        payer = self._payers.get(identity.payer)
        if payer is None:
            # Nobody's name is empty: that is where those share who are too many.
            name = identity.payer if len(self._payers) < PAYERS else b""
            payer = self._payers.setdefault(name, _Payer())
        if payer.waiting >= PAYER_FLOWS or payer.rest is not None:
            # As long as the rest waits, none of its flows may get a place of its own: it would overtake itself.
            if payer.rest is None:
                payer.rest = _Flow(payer=payer, control=False)
            elif payer.rest.place is _IDLE and payer.waiting < PAYER_FLOWS:
                payer.rest = None
            if payer.rest is not None:
                return payer.rest
        flow = self._flows[identity.key] = _Flow(payer=payer, control=identity.control)
        return flow

    def _forget_idle(self) -> None:
        """Forget flows that wait for nothing, and payers without flows; the others are bounded already."""
        self._flows = {key: flow for key, flow in self._flows.items() if flow.place is not _IDLE or flow.listed}
        self._payers = {name: payer for name, payer in self._payers.items() if payer.waiting or payer.listed}
        self._cut = {origin: cut for origin, cut in self._cut.items() if cut[1].place is not _IDLE or cut[1].listed}
        # Twice as many before the next time, so that it costs each new flow a constant.
        self._flow_limit = max(_FLOWS, 2 * len(self._flows))

    # -- service -----------------------------------------------------------------------------------------------------

    def _serve(self, flow: _Flow, quantum: float, room: int, now: float, out: list[bytes]) -> int:
        """Take from one flow, after what must go from it has gone; return and charge what was taken."""
        if flow.times and flow.times[0][0] < now - self._max_age:
            self._expire(flow, now)
        before = len(flow.items)
        size = flow.size
        if flow.place is _BULK and now >= flow.alarm and (dropped := flow.control_delay(self._largest, now)):
            self._counters.drop("codel", dropped)
        spent = flow.take(out, quantum, room, self._largest, now)
        self._count -= before - len(flow.items)
        size -= flow.size
        self.size -= size
        flow.payer.size -= size
        flow.deficit -= spent
        if self._round:
            # With nobody in the round there is no share that could be overdrawn.
            flow.payer.deficit -= spent
        return spent

    def _leave(self, flow: _Flow) -> bool:
        """After service in stage 1 or 2: whether ``flow`` is through with it, and where it goes then."""
        payer = flow.payer
        if flow.items and flow.deficit > 0:
            return False  # what may leave now is used up
        payer.ahead -= flow.place is _SPARSE
        if flow.items:
            flow.place = _BULK
            self._list(flow)
        else:
            self._rest(flow)
            if self._round and len(payer.flows) < PAYER_FLOWS:
                self._list(flow)
        return True

    def _rest(self, flow: _Flow) -> None:
        flow.place = _IDLE
        flow.payer.waiting -= 1

    def _take_bulk(self, room: int, now: float, out: list[bytes]) -> None:
        """Stage 3, until it is empty or ``room`` bytes are used up."""
        payers = self._round
        if not payers:
            return
        # Bytes that each may send in one turn, see BURST.
        payer_share = max(self._quantum, min(room // len(payers), BURST))
        flow_share = max(self._quantum, min(room // max(self._bulk, 1), BURST))
        while payers and room > 0:
            payer = payers[0]
            flows = payer.flows
            if len(payers) == 1:
                payer.deficit = max(payer.deficit, 1.0)  # he takes it from nobody
            elif payer.deficit <= 0:
                payer.deficit += payer_share
                payers.rotate(-1)
                continue
            if not flows:
                payers.popleft()
                payer.listed = False
                payer.deficit = 0.0
                continue
            flow = flows[0]
            if flow.place is not _BULK:
                # It had its quantum of this round in stage 1 or 2; its turn has come, so it may have another one.
                self._unlist(flow)
                flow.deficit = CONTROL_QUANTUM if flow.control else self._quantum
                continue
            if flow.deficit <= 0:
                flow.deficit += flow_share
                flows.rotate(-1)
                continue
            quantum = flow.deficit if len(payers) == 1 else min(flow.deficit, payer.deficit)
            room -= self._serve(flow, quantum, room, now, out)
            if not flow.items:
                self._unlist(flow)
                self._rest(flow)
            elif flow.deficit > 0 and (payer.deficit > 0 or len(payers) == 1):
                return

    def _unlist(self, flow: _Flow) -> None:
        """Take ``flow``, the first in its payer's round, out of that."""
        flow.payer.flows.popleft()
        flow.listed = False
        self._bulk -= 1

    # -- what must go ------------------------------------------------------------------------------------------------

    def _expire(self, flow: _Flow, now: float) -> None:
        """Drop what of ``flow`` has waited too long."""
        size = flow.size
        expired = flow.expire(now - self._max_age)
        self._counters.queue_expired += expired
        self._dropped(flow, expired, size)

    def _dropped(self, flow: _Flow, count: int, size_before: int) -> None:
        size = size_before - flow.size
        self._count -= count
        self.size -= size
        flow.payer.size -= size

    def _shrink(self) -> None:
        """Drop the oldest of the fattest flow of the fattest payer, until the bound is kept.

        Flows are looked through once per half of the fattest one, so that each push looks through them once or twice.
        """
        while self.size > self._max_bytes:
            payer = max(self._payers.values(), key=lambda payer: payer.size)
            ahead = (flow for flow in chain(self._control, self._sparse) if flow.payer is payer)
            flow = max(chain(payer.flows, ahead), key=lambda flow: flow.size)
            size, count = flow.size, len(flow.items)
            while flow.items and self.size - size + flow.size > self._max_bytes and 2 * flow.size >= size:
                flow.drop()
            self._counters.queue_dropped += count - len(flow.items)
            self._dropped(flow, count - len(flow.items), size)

    def _fit(self, budget: int) -> None:
        """Drop everything larger than ``budget``. Rare: the path has shrunk."""
        for flow in {*self._control, *self._sparse, *chain.from_iterable(payer.flows for payer in self._round)}:
            size = flow.size
            count = flow.drop_larger(budget)
            self._counters.oversize_dropped += count
            self._dropped(flow, count, size)
        self._largest = budget
