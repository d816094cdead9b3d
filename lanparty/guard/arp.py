"""ARP: row 7 for members, and what the house's own ARP tells.

Owns: ARP's layout, and what may stand in it. Must not know: who has which address (``bindings.py``).

RFC 826; offsets in the frame::

    14 hardware 2 (1) | 16 protocol 2 (0800) | 18 sizes 6, 4 | 20 op 2 | 22 sender MAC 6 | 28 sender IP 4
    32 target MAC 6   | 38 target IP 4

    sender IP 0, op 1      a probe (RFC 5227 section 1.1): passes, and reserves the address for the prober
    sender IP the member's passes: questions, answers, announcements
    anything else          dropped
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from lanparty.guard.bindings import Bindings, Evidence
from lanparty.guard.rules import Rule

__all__ = ["is_host4", "judge_arp_untrusted", "learn_arp_untrusted"]

_SIZE: Final = 42
"""Bytes of a frame with ARP."""
_ETHERNET_IPV4: Final = b"\x00\x01\x08\x00\x06\x04"
_REQUEST: Final = 1
_REPLY: Final = 2
_NOBODY: Final = bytes(4)


def is_host4(address: bytes) -> bool:
    """Whether an IPv4 address can be a machine's: not 0/8, loopback, multicast, reserved or broadcast (RFC 6890)."""
    return 0 < address[0] < 224 and address[0] != 127


def judge_arp_untrusted(frame: bytes, mac: bytes, bindings: Bindings, now: float) -> Rule | None:
    """Say whether the member with ``mac`` may send this ARP frame (its Ethernet source is ``mac``)."""
    if len(frame) < _SIZE or frame[14:20] != _ETHERNET_IPV4 or frame[22:28] != mac:
        return Rule.ARP
    op = frame[20] << 8 | frame[21]
    sender = frame[28:32]
    if op not in (_REQUEST, _REPLY):
        return Rule.ARP
    if sender == _NOBODY:
        if op != _REQUEST:
            return Rule.ARP
        target = frame[38:42]
        if is_host4(target):
            bindings.probes(mac, target, now)
        return None
    return None if is_host4(sender) and bindings.uses(mac, sender, now) else Rule.ARP


def learn_arp_untrusted(frame: bytes, members: Container[bytes], bindings: Bindings, now: float) -> None:
    """Take what an ARP frame from the house tells about the house's addresses."""
    if len(frame) < _SIZE or frame[14:20] != _ETHERNET_IPV4 or frame[20:22] not in (b"\x00\x01", b"\x00\x02"):
        return
    mac, sender = frame[22:28], frame[28:32]
    if mac in members or mac[0] & 1:
        return  # an access point that answers for a player: it is the player's address all the same
    if is_host4(sender):
        bindings.house_has(mac, sender, Evidence.SPOKEN, now)
    elif sender == _NOBODY and frame[21] == _REQUEST and is_host4(frame[38:42]):
        bindings.house_has(mac, frame[38:42], Evidence.PROBED, now)
