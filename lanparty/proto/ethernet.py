"""Ethernet frames: header, VLAN tags, LLC/SNAP, and the one frame that we make ourselves.

Owns: offsets and numbers of layer 2. Must not know: IP, rooms, who may send what (that is the relay's guard).

A frame here is ``bytes`` from the destination MAC on, without preamble and FCS::

     0             6             12         14
    +-------------+-------------+----------+-----------------------------
    | destination | source      | type     | payload                          Ethernet II: type >= 0600
    +-------------+-------------+----------+-----------------------------
    | destination | source      | length   | LLC: DSAP SSAP control ...       802.3: length < 0600
    +-------------+-------------+----------+-----------------------------
    | destination | source      | length   | AA AA 03 | OUI 3 | type 2 | ...  SNAP in LLC (RFC 1042)
    +-------------+-------------+-----+----+----+------------------------
    | destination | source      | TPID| TCI| type or length, as above ...     VLAN tag, up to MAX_VLAN_TAGS of them
    +-------------+-------------+-----+----+-----------------------------

Receivers differ in how deep they look: a VLAN tag with VID 0, or a SNAP header, carried DHCP and router advertisements
past switches that looked once (CERT VU#855201, CVE-2021-27853 and on). ``parse_untrusted`` therefore looks through all
of them, in any order, and says what it saw.
"""

from __future__ import annotations

from typing import Final

import attrs

from .mac import BROADCAST, MAC_SIZE

__all__ = [
    "ETHERTYPE_ARP",
    "ETHERTYPE_IPV4",
    "ETHERTYPE_IPV6",
    "ETHERTYPE_IPX",
    "HEADER_SIZE",
    "MAX_FRAME_SIZE",
    "MAX_VLAN_TAGS",
    "MIN_ETHERTYPE",
    "MIN_FRAME_SIZE",
    "MIN_WIRE_SIZE",
    "STANDARD_FRAME_SIZE",
    "VLAN_ETHERTYPES",
    "EthernetHeader",
    "FrameError",
    "ethertype_untrusted",
    "is_group",
    "layer2_update",
    "parse_untrusted",
]

HEADER_SIZE: Final = 14
"""Bytes of destination, source and type."""
MIN_FRAME_SIZE: Final = HEADER_SIZE
"""Smallest frame we carry, bytes. Not 60: a TAP hands up what the stack made, and the padding to the wire's minimum is
the business of the card that sends it at last."""
MIN_WIRE_SIZE: Final = 60
"""Smallest frame on a wire, bytes without the 4 of the FCS (IEEE 802.3: 64 with it)."""
STANDARD_FRAME_SIZE: Final = HEADER_SIZE + 1500
"""Largest untagged frame of an ordinary LAN, bytes."""
MAX_FRAME_SIZE: Final = HEADER_SIZE + 4 + 9000
"""Largest frame we carry, bytes: the usual jumbo frame, with one VLAN tag."""

MIN_ETHERTYPE: Final = 0x0600
"""Values of the type field below this are an 802.3 length (or, from 05DD on, nothing at all)."""
ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_IPX: Final = 0x8137
ETHERTYPE_IPV6: Final = 0x86DD
VLAN_ETHERTYPES: Final = frozenset({0x8100, 0x88A8, 0x9100, 0x9200, 0x9300})
"""802.1Q, 802.1ad, and the three that switches used for stacked tags before 802.1ad."""
MAX_VLAN_TAGS: Final = 4
"""More tags than this are refused. Two are lawful (802.1ad), and receivers look through two or three."""

_TAG_SIZE = 4
_LLC_SNAP = b"\xaa\xaa\x03"
_SNAP_SIZE = 8
# RFC 1042 and the bridge-tunnel encapsulation of 802.1H. Receivers take the type behind both for an EtherType.
_SNAP_OUIS = frozenset({b"\x00\x00\x00", b"\x00\x00\xf8"})
# SNAP in SNAP is never lawful. One more level than that is enough to see it and refuse it.
_MAX_SNAP_HEADERS = 2


class FrameError(Exception):
    """A frame that is too short for the headers it claims, or has more of them than we look through.

    ``reason`` is a short stable word for counters.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"Not an Ethernet frame: {reason}.")
        self.reason = reason


@attrs.frozen
class EthernetHeader:
    """What ``parse_untrusted`` found. Only for frames that are looked at closely: the data path slices bytes."""

    destination: bytes
    """Six bytes."""
    source: bytes
    """Six bytes."""
    ethertype: int
    """The innermost EtherType, behind tags and SNAP; 0 for 802.3 without one (plain LLC, raw IPX, foreign OUI)."""
    payload_offset: int
    """Bytes from the frame's start to what ``ethertype`` names; with ethertype 0, to the LLC header."""
    vlan_tags: tuple[int, ...]
    """The TCI (priority 3 bits, DEI 1, VID 12) of each VLAN tag, outermost first; a tag of VID 0 counts."""
    llc: bool
    """The type field was an 802.3 length, so LLC follows."""
    length: int = 0
    """The 802.3 length field (the outermost, if SNAP hides another); 0 for Ethernet II. It is not checked against the
    frame: receivers differ in whether they care, so it is the guard's to judge."""


def is_group(mac: bytes) -> bool:
    """Tell whether a raw MAC is a group address; a frame will do, it begins with its destination. Never empty bytes."""
    return bool(mac[0] & 1)


def ethertype_untrusted(frame: bytes) -> int:
    """Give the type field at offset 12 as it stands, without looking behind tags; 0 for a frame under 14 bytes."""
    if len(frame) < HEADER_SIZE:
        return 0
    return frame[12] << 8 | frame[13]


def parse_untrusted(frame: bytes) -> EthernetHeader:
    """Walk VLAN tags and LLC/SNAP headers, in whatever order, down to the innermost type.

    Raises FrameError for a frame that ends inside a header (``truncated``), more than MAX_VLAN_TAGS tags
    (``vlan-depth``) or SNAP inside SNAP inside SNAP (``snap-depth``).
    """
    size = len(frame)
    if size < HEADER_SIZE:
        raise FrameError("truncated")
    offset = HEADER_SIZE
    ethertype = frame[12] << 8 | frame[13]
    tags: list[int] = []
    length = snaps = 0
    llc = False
    while True:
        if ethertype in VLAN_ETHERTYPES:
            if len(tags) == MAX_VLAN_TAGS:
                raise FrameError("vlan-depth")
            if size < offset + _TAG_SIZE:
                raise FrameError("truncated")
            tags.append(frame[offset] << 8 | frame[offset + 1])
            ethertype = frame[offset + 2] << 8 | frame[offset + 3]
            offset += _TAG_SIZE
            continue
        if ethertype >= MIN_ETHERTYPE:
            break
        if not llc:
            llc, length = True, ethertype
        if frame[offset : offset + 3] != _LLC_SNAP:
            ethertype = 0
            break
        if size < offset + _SNAP_SIZE:
            raise FrameError("truncated")
        if frame[offset + 3 : offset + 6] not in _SNAP_OUIS:
            ethertype = 0
            break
        snaps += 1
        if snaps > _MAX_SNAP_HEADERS:
            raise FrameError("snap-depth")
        ethertype = frame[offset + 6] << 8 | frame[offset + 7]
        offset += _SNAP_SIZE
    return EthernetHeader(frame[0:6], frame[6:12], ethertype, offset, tuple(tags), llc, length)


# 802.2 type 1 XID response of the null LSAP: length 6, DSAP 0, SSAP 1 (response), control AF, then the XID information:
# format 81, class 1 (connectionless), receive window 1.
_XID_RESPONSE = bytes((0, 6, 0x00, 0x01, 0xAF, 0x81, 0x01, 0x02))
_XID_PADDING = bytes(MIN_WIRE_SIZE - 2 * MAC_SIZE - len(_XID_RESPONSE))


def layer2_update(mac: bytes) -> bytes:
    """Make the frame that teaches switches on which port ``mac`` (six bytes, unicast) now is: 60 bytes, padded.

    It is a broadcast 802.2 XID response with ``mac`` as its source, as hostapd sends when a station roams to it
    (IEEE 802.2-1998 section 5.4.1.2.1). Switches learn from the source; hosts drop an XID response that they did not
    ask for.
    """
    return BROADCAST + mac + _XID_RESPONSE + _XID_PADDING
