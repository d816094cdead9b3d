"""aioquic's 1-RTT keys as the batch codec wants them, read anew after each key update (RFC 9001 section 6).

The keys before an update open what comes until the peer has followed, and what was on its way for a while after that.
Stock aioquic forgets them at once: then everything is lost until the peer follows, and if it cannot, because where it
is has changed at the same moment, everything for good.

Owns: when keys are read, and for how long those before an update are kept. Must not know: packets, when an update is
due.
"""

from __future__ import annotations

import math

from aioquic._crypto import AEAD
from aioquic.quic.crypto import CryptoContext, CryptoPair

from lanparty.quic.codec import PacketKeys, aes_mask, chacha_mask, open_untrusted

__all__ = ["Keys"]


class Keys:
    """The keys of one connection. Its receiving context in ``pair`` learns to open late packets, too."""

    __slots__ = ("_late", "_late_until", "_pair", "_receive", "_receive_aead", "_send", "_send_aead")

    def __init__(self, pair: CryptoPair) -> None:
        self._pair = pair
        pair.recv.__class__ = _PatientContext  # aioquic makes it itself; all who open packets there have its attributes
        pair.recv.keys = self  # type: ignore[attr-defined]
        self._receive: PacketKeys | None = None
        self._receive_aead: AEAD | None = None
        self._late: PacketKeys | None = None
        self._late_until = 0.0
        self._send: PacketKeys | None = None
        self._send_aead: AEAD | None = None

    def receive(self) -> PacketKeys:
        """The peer's present keys."""
        context = self._pair.recv
        if self._receive is None or context.aead is not self._receive_aead:
            if self._receive is not None:
                self._late, self._late_until = self._receive, math.inf
            self._receive = _packet_keys(context)
            self._receive_aead = context.aead
        return self._receive

    def note_opened(self, now: float, keep: float) -> None:
        """Note that a packet was opened with the present keys: those before are kept for ``keep`` seconds from the
        first one on (RFC 9001 section 6.5)."""
        if self._late is not None and self._late_until == math.inf:
            self._late_until = now + keep

    def late(self, now: float = -math.inf) -> PacketKeys | None:
        """The peer's keys before the last update, while packets sealed with them may still come."""
        if self._late is not None and now >= self._late_until:
            self._late = None
        return self._late

    def send(self) -> PacketKeys:
        """Our present keys; an update that was asked for happens here, as it does when aioquic makes a packet."""
        pair = self._pair
        if pair._update_key_requested:
            self.receive()  # so that the old ones are kept for what is on its way
            pair._update_key("local_update")
        context = pair.send
        if self._send is None or context.aead is not self._send_aead:
            self._send = _packet_keys(context)
            self._send_aead = context.aead
        return self._send


class _PatientContext(CryptoContext):
    """aioquic's receiving context, which also opens what was sealed before the last key update."""

    keys: Keys

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int, bool]:
        """As in aioquic; of a late packet's header only the first byte is given, and nothing else is looked at."""
        if self.aead is not None:
            self.keys.receive()
            late = self.keys.late()
            if late is not None:
                opened = open_untrusted(late, [packet], encrypted_offset - 1, expected_packet_number)
                if opened.numbers:
                    return bytes([opened.top_first_byte]), opened.payloads[0], opened.numbers[0], False
        return super().decrypt_packet(packet, encrypted_offset, expected_packet_number)


def _packet_keys(context: CryptoContext) -> PacketKeys:
    aead, hp = context.aead, context.hp
    assert aead is not None
    assert hp is not None
    mask = chacha_mask(hp._encryptor) if hp._is_chacha20 else aes_mask(hp._encryptor)
    return PacketKeys(aead=aead._aead, iv=aead._iv, mask=mask, phase=context.key_phase)
