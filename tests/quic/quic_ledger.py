"""What was really sealed, opened, acknowledged and given up: a witness that stands beside both engines.

``Ledger.install`` patches the places where packets are protected, ours and aioquic's, and the record of what is in
flight. It fails the test at once when

- a nonce repeats: the same initialisation vector, so the same key, with the same packet number (RFC 9001 section 5.3);
- a connection uses a packet number twice, under whatever keys;
- our verdicts are not those of ``RfcRecovery``, RFC 9002 written down plainly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from aioquic import tls
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoContext

from lanparty.quic import flight as flight_module
from lanparty.quic.codec import Opened, PacketKeys
from lanparty.quic.flight import AckOutcome, Flight
from lanparty.quic.internals import Quic
from lanparty.quic.internals import keys as keys_module
from lanparty.quic.internals import quic as quic_module

MARK = re.compile(rb"<[cs]\d{6}>")


def marked(who: str, number: int, size: int) -> bytes:
    """A datagram that can be told from all others wherever it turns up."""
    return f"<{who}{number:06d}>".encode().ljust(size, b".")


def marks(payload: bytes) -> list[bytes]:
    return MARK.findall(payload)


@attrs.define
class Sent:
    number: int
    size: int
    at: float


class RfcRecovery:
    """RFC 9002 sections 6.1 and A.8 to A.10, one packet at a time; how patient it is, is told from outside."""

    def __init__(self) -> None:
        self.sent: dict[int, Sent] = {}
        self.largest_acked = -1

    def on_ack(self, ranges: Sequence[tuple[int, int]]) -> tuple[set[int], float | None]:
        """Return what is newly acknowledged, and when the largest was sent, if it is."""
        self.largest_acked = max(self.largest_acked, ranges[0][1])
        newly = {number for number in self.sent if any(first <= number <= last for first, last in ranges)}
        largest = self.sent[ranges[0][1]].at if ranges[0][1] in newly else None
        for number in newly:
            del self.sent[number]
        return newly, largest

    def detect(self, now: float, delay: float, threshold: int) -> tuple[set[int], float | None]:
        """Return what is lost, and when the next will be."""
        before = [sent for sent in self.sent.values() if sent.number <= self.largest_acked]
        lost = {
            sent.number for sent in before if sent.number <= self.largest_acked - threshold or sent.at + delay <= now
        }
        for number in lost:
            del self.sent[number]
        return lost, min((sent.at + delay for sent in before if sent.number not in lost), default=None)


@attrs.define(eq=False)
class Direction:
    """What one end has sealed in 1-RTT packets, and what became of it."""

    payloads: dict[int, bytes] = attrs.field(factory=dict)
    opened: set[int] = attrs.field(factory=set)
    """By the other end."""
    phases: set[int] = attrs.field(factory=set)
    """Initialisation vectors that were used: one for each key phase."""
    batched: int = 0
    """Packets sealed by our codec."""

    def marks_in(self, numbers: set[int]) -> set[bytes]:
        return {mark for number in numbers for mark in marks(self.payloads.get(number, b""))}


class Ledger:
    def __init__(self) -> None:
        self.nonces: set[tuple[int, int]] = set()
        self.directions: dict[Any, Direction] = {}
        """By the sender's ``CryptoContext``, which outlives its keys."""
        self.wire: dict[bytes, bytes] = {}
        """1-RTT packets as they left, and their payloads."""
        self.recoveries: dict[Any, RfcRecovery] = {}
        self.acked: dict[Any, set[int]] = {}
        self.lost: dict[Any, set[int]] = {}
        """By flight."""
        self.by_iv: dict[int, Direction] = {}
        self.opened_in_batches = 0
        self._sealing: Any = None

    # -- reading it --------------------------------------------------------------------------------------------------

    def sent_by(self, quic: QuicConnection) -> Direction:
        return self.directions[quic._cryptos[tls.Epoch.ONE_RTT].send]

    def acked_of(self, quic: Quic) -> set[int]:
        return self.acked.get(quic._recovery.flight, set())

    def lost_of(self, quic: Quic) -> set[int]:
        return self.lost.get(quic._recovery.flight, set())

    def marks_on_the_wire(self, packet: bytes) -> list[bytes]:
        return marks(self.wire.get(packet, b""))

    # -- packet protection -------------------------------------------------------------------------------------------

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._install_sealing(monkeypatch)
        self._install_opening(monkeypatch)
        self._install_flight(monkeypatch)

    def _note(self, context: Any, iv: int, number: int, payload: bytes, packet: bytes) -> Direction:
        assert (iv, number) not in self.nonces, f"nonce used twice: packet {number}"
        self.nonces.add((iv, number))
        direction = self.directions.setdefault(context, Direction())
        assert number not in direction.payloads, f"packet number {number} used twice"
        assert number > max(direction.payloads, default=-1), f"packet number {number} after a larger one"
        direction.payloads[number] = payload
        direction.phases.add(iv)
        self.by_iv[iv] = direction
        if not packet[0] & 0x80:
            self.wire[packet] = payload
        return direction

    def _install_sealing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch_seal, send_payloads = quic_module.seal, Quic._send_payloads
        encrypt = CryptoContext.encrypt_packet

        def noted_send(quic: Quic, *args: Any, **kwargs: Any) -> list[bytes]:
            self._sealing = quic._cryptos[tls.Epoch.ONE_RTT].send
            return send_payloads(quic, *args, **kwargs)

        def noted_seal(keys: PacketKeys, cid: bytes, spin: bool, number: int, payloads: Sequence[bytes]) -> list[bytes]:
            packets = batch_seal(keys, cid, spin, number, payloads)
            for offset, (payload, packet) in enumerate(zip(payloads, packets, strict=True)):
                self._note(self._sealing, keys.iv, number + offset, payload, packet).batched += 1
            return packets

        def noted_encrypt(context: CryptoContext, header: bytes, payload: bytes, number: int) -> bytes:
            packet = encrypt(context, header, payload, number)
            assert context.aead is not None
            self._note(context, context.aead._iv, number, payload, packet)
            return packet

        monkeypatch.setattr(Quic, "_send_payloads", noted_send)
        monkeypatch.setattr(quic_module, "seal", noted_seal)
        monkeypatch.setattr(CryptoContext, "encrypt_packet", noted_encrypt)

    def _install_opening(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch_open, decrypt = quic_module.open_untrusted, CryptoContext.decrypt_packet

        def noted_open(keys: PacketKeys, packets: Sequence[bytes], size: int, expected: int) -> Opened:
            opened = batch_open(keys, packets, size, expected)
            for number, payload in zip(opened.numbers, opened.payloads, strict=True):
                self._check_opened(keys.iv, number, payload)
            self.opened_in_batches += len(opened.numbers)
            return opened

        def noted_decrypt(context: CryptoContext, packet: bytes, offset: int, expected: int) -> Any:
            header, payload, number, update = decrypt(context, packet, offset, expected)
            if not packet[0] & 0x80 and not update:
                assert context.aead is not None
                self._check_opened(context.aead._iv, number, payload)
            elif update and packet in self.wire:
                for direction in self.directions.values():
                    if direction.payloads.get(number) == payload:
                        direction.opened.add(number)
            return header, payload, number, update

        monkeypatch.setattr(quic_module, "open_untrusted", noted_open)
        monkeypatch.setattr(keys_module, "open_untrusted", noted_open)
        monkeypatch.setattr(CryptoContext, "decrypt_packet", noted_decrypt)

    def _check_opened(self, iv: int, number: int, payload: bytes) -> None:
        direction = self.by_iv[iv]
        assert direction.payloads[number].rstrip(b"\0") == payload.rstrip(b"\0")
        direction.opened.add(number)

    # -- what is in flight -------------------------------------------------------------------------------------------

    def _install_flight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = self
        originals = {
            name: getattr(Flight, name) for name in ("on_sent", "on_ack", "on_loss_timer", "give_up", "abandon")
        }

        def on_sent(flight: Flight[Any], start: int, count: int, size: int, now: float, **rest: Any) -> None:
            originals["on_sent"](flight, start, count, size, now, **rest)
            model = ledger.recoveries.setdefault(flight, RfcRecovery())
            for number in range(start, start + count):
                model.sent[number] = Sent(number, size, now)
            ledger._check(flight)

        def on_ack(
            flight: Flight[Any], ranges: Sequence[tuple[int, int]], now: float, delay: float, srtt: float, *rest: Any
        ) -> AckOutcome[Any]:
            model = ledger.recoveries.setdefault(flight, RfcRecovery())
            outcome = originals["on_ack"](flight, ranges, now, delay, srtt, *rest)
            newly, sent_at = model.on_ack(ranges)
            assert numbers_of(outcome.acked) == newly
            assert outcome.rtt == (None if sent_at is None else now - sent_at)
            if newly:
                ledger._compare_lost(flight, outcome, now, max(srtt, outcome.rtt or 0.0))
            ledger.acked.setdefault(flight, set()).update(newly)
            ledger._check(flight)
            return outcome

        def on_loss_timer(flight: Flight[Any], now: float, srtt: float) -> AckOutcome[Any]:
            ledger.recoveries.setdefault(flight, RfcRecovery())
            outcome = originals["on_loss_timer"](flight, now, srtt)
            ledger._compare_lost(flight, outcome, now, srtt)
            ledger._check(flight)
            return outcome

        def give_up(flight: Flight[Any], packet: Any) -> None:
            originals["give_up"](flight, packet)
            ledger.recoveries[flight].sent.pop(packet.packet_number)
            ledger.lost.setdefault(flight, set()).add(packet.packet_number)
            ledger._check(flight)

        def abandon(flight: Flight[Any], first: int) -> AckOutcome[Any]:
            outcome = originals["abandon"](flight, first)
            sent = ledger.recoveries.setdefault(flight, RfcRecovery()).sent
            before = {number for number in sent if number < first}
            assert numbers_of(outcome.lost) == before
            ledger.lost.setdefault(flight, set()).update(before)
            for number in before:
                del sent[number]
            ledger._check(flight)
            return outcome

        patched: dict[str, Callable[..., Any]] = {
            "abandon": abandon,
            "on_sent": on_sent,
            "on_ack": on_ack,
            "on_loss_timer": on_loss_timer,
            "give_up": give_up,
        }
        for name, function in patched.items():
            monkeypatch.setattr(Flight, name, function)

    def _compare_lost(self, flight: Flight[Any], outcome: AckOutcome[Any], now: float, rtt: float) -> None:
        # Patience grows and shrinks with the reordering that was seen (see flight.py); the rule is the RFC's.
        patience = max(flight_module._TIME_THRESHOLD * rtt, flight_module._GRANULARITY) + flight._reorder_time
        lost, due = self.recoveries[flight].detect(now, patience, flight.reorder)
        assert numbers_of(outcome.lost) == lost
        assert flight.loss_time == due
        self.lost.setdefault(flight, set()).update(lost)

    def _check(self, flight: Flight[Any]) -> None:
        sent = self.recoveries[flight].sent
        assert flight.packets == len(sent)
        assert flight.bytes == sum(packet.size for packet in sent.values())


def numbers_of(runs: Sequence[Any]) -> set[int]:
    return {number for run in runs for number in range(run.start, run.stop)}
