"""What ties a statement to one TLS connection: the channel binding "tls-exporter" (RFC 9266).

TLS 1.3 has an exporter (RFC 8446 section 7.5): both ends, and nobody else, can derive the same bytes from a handshake.
aioquic has none, but both of its ends pass one place at the moment that the exporter is defined for: when the
application's keys are made, the master secret stands and the transcript ends with the server's Finished::

    exporter_master_secret = Derive-Secret(master secret, "exp master", ClientHello ... server Finished)
    secret  = Derive-Secret(exporter_master_secret, "EXPORTER-Channel-Binding", "")
    binding = HKDF-Expand-Label(secret, "exporter", Hash(""), 32)          (RFC 9266 section 2: no context, 32 bytes)

A relay in the middle has two handshakes and so two bindings: a signature over the one says nothing on the other.

Owns: that derivation. Must not know: what is signed.
"""

from __future__ import annotations

from typing import Final

from aioquic import tls
from aioquic.tls import Direction, Epoch, KeySchedule, hkdf_expand_label

__all__ = ["BINDING_SIZE", "BoundTls", "export_binding"]

BINDING_SIZE: Final = 32
"""Bytes (RFC 9266 section 2)."""

_EXPORTER_LABEL: Final = b"EXPORTER-Channel-Binding"
_SERVER_TRAFFIC: Final = b"s ap traffic"
"""The label of the key that each end makes first once the master secret stands."""
_MASTER: Final = 3
"""``KeySchedule.generation`` with the master secret: early secret, handshake secret, master secret."""


class BoundTls(tls.Context):
    """aioquic's TLS, which keeps the channel binding of its handshake."""

    channel_binding: bytes = b""
    """32 bytes, once the handshake is complete."""

    def _setup_traffic_protection(self, direction: Direction, epoch: Epoch, label: bytes) -> None:
        super()._setup_traffic_protection(direction, epoch, label)
        if label == _SERVER_TRAFFIC:
            schedule = self.key_schedule
            assert isinstance(schedule, KeySchedule)
            assert schedule.generation == _MASTER
            self.channel_binding = export_binding(schedule)


def export_binding(schedule: KeySchedule) -> bytes:
    """Derive the binding from a key schedule that has the master secret and the server's Finished, and no more."""
    algorithm, size, nothing = schedule.algorithm, schedule.algorithm.digest_size, schedule.hash_empty_value
    master = schedule.derive_secret(b"exp master")
    secret = hkdf_expand_label(algorithm, master, _EXPORTER_LABEL, nothing, size)
    return bytes(hkdf_expand_label(algorithm, secret, b"exporter", nothing, BINDING_SIZE))
