"""The kernel filter in front of a LAN device, so that traffic which is for no member never wakes Python.

Owns: which frames from the house LAN concern the room's members, as a classic BPF program and as the plain function
that says the same. Pure: building a program attaches nothing.
Must not know: sockets, rooms, the relay's guard.

A frame passes when it is

* not VLAN tagged (the kernel takes the outer tag off and keeps it beside the frame, VID 0 included; an inner or
  unhidden tag is an EtherType of the table below), and
* for a group address that a switch would forward, or for a member, and
* not from a member: such a frame is our own that came back (the helper device of the own stack, a loop in the house),
  or the player is in the house with the tunnel still up. It must never move the member (l2-guard, "From the LAN
  side"). It is dropped in silence: to report a loop or a player at home, the kernel would have to let such frames
  through. Then the copies for the own stack would come as well, which look as if they came from the wire, and the
  storm of a loop would wake Python for each frame. What tells these apart at a bounded cost is the gateway's probe.

Without members only the probe passes (``proto.probe``; with members it does as any broadcast): nobody else is there to
get anything, but a loop is to be told before somebody comes.

Layout of the program (offsets of conditional jumps are 8 bits and forward only, unconditional ones 32 bits):

    destination group?  -> group checks -> common
    destination search: binary search over the low 32 bits of the members' addresses, then the high 16; miss -> drop
    common:  VLAN tag present -> drop; tag EtherTypes -> drop
    source search: as above; hit -> drop, miss -> accept

A LAN's ordinary unicast, which is for nobody here, leaves after about ten instructions.
"""

from __future__ import annotations

import struct
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, NamedTuple

from lanparty.proto.probe import ETHERTYPE_PROBE, SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ACCEPT_BYTES",
    "CONTROL_GROUPS",
    "MAX_EXACT_MEMBERS",
    "TAG_ETHERTYPES",
    "Instruction",
    "accepts",
    "assemble",
    "deaf_filter",
    "is_exact",
    "lan_filter",
    "untagged_filter",
]

MAX_EXACT_MEMBERS: Final = 250
"""Members whose addresses fit, for destination and source, in the kernel's 4096 instructions (BPF_MAXINSNS). With
more, all unicast passes the kernel and ``accepts`` decides."""

ACCEPT_BYTES: Final = 0x40000
"""Snap length of an accepted frame: more than any super-frame."""

TAG_ETHERTYPES: Final = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
"""802.1Q, 802.1ad and the older spellings of the outer tag (l2-guard, row 3)."""

_BRIDGE_GROUPS: Final = 0x0180C200
_LAST_BRIDGE_GROUP: Final = 0x003F
"""01-80-C2-00-00-00 to -3F: STP, pause, LACP, 802.1X, LLDP, GMRP, MVRP, CFM (IEEE 802.1Q, 8.6.3; l2-guard, row 6).
The house's switch control must not reach the players' machines, which would answer it."""

CONTROL_GROUPS: Final = (
    (0x01000CCC, 0xCCCC),  # Cisco CDP, VTP, PAgP, UDLD
    (0x01000CCC, 0xCCCD),  # Cisco per-VLAN spanning tree
    (0x01000CCD, 0xCDCD),  # Cisco spanning tree of STP uplink fast
    (0x01000CDD, 0xDDDD),  # Cisco CGMP
    (0x01000C00, 0x0000),  # Cisco ISL
    (0x011B1900, 0x0000),  # PTP (IEEE 1588): would tell a remote player a time that is wrong by the tunnel's delay
    (0x01E02B00, 0x0000),  # Extreme EDP, EAPS
)
"""First 4 and last 2 bytes of the addresses of single vendors and protocols (l2-guard, row 6)."""

_CONTROL_ADDRESSES: Final = frozenset(struct.pack("!IH", high, low) for high, low in CONTROL_GROUPS)
_BRIDGE_PREFIX: Final = b"\x01\x80\xc2\0\0"
_PROBE: Final = SOURCE + ETHERTYPE_PROBE.to_bytes(2)
_TAG_BYTES: Final = frozenset(struct.pack("!H", ethertype) for ethertype in TAG_ETHERTYPES)

# linux/bpf_common.h
_LD_WORD, _LD_HALF, _LD_BYTE = 0x20, 0x28, 0x30  # BPF_LD | size | BPF_ABS
_JA, _JEQ, _JGT, _JSET = 0x05, 0x15, 0x25, 0x45  # BPF_JMP | ... | BPF_K
_RET = 0x06
_VLAN_TAG_PRESENT = (-0x1000 + 48) & 0xFFFFFFFF  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT, linux/filter.h

_DESTINATION, _SOURCE, _ETHERTYPE = 0, 6, 12
_REACH: Final = 255
"""The largest offset of a conditional jump."""


class Instruction(NamedTuple):
    """struct sock_filter: 8 bytes. ``jt`` and ``jf`` count instructions after the next one."""

    code: int
    jt: int
    jf: int
    k: int


_DROP: Final = Instruction(_RET, 0, 0, 0)
_ACCEPT: Final = Instruction(_RET, 0, 0, ACCEPT_BYTES)


def assemble(program: Sequence[Instruction]) -> bytes:
    """The program as the kernel wants it: an array of struct sock_filter in native byte order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def is_exact(members: AbstractSet[bytes]) -> bool:
    """Whether ``lan_filter`` of these members decides every frame in the kernel."""
    return len(members) <= MAX_EXACT_MEMBERS


def accepts(frame: bytes, members: AbstractSet[bytes]) -> bool:
    """The same decision in Python, for one untagged-by-the-kernel frame; ``members`` are raw 6-byte addresses."""
    if not members:
        return frame[6:14] == _PROBE
    if len(frame) < 14 or frame[6:12] in members or frame[12:14] in _TAG_BYTES:
        return False
    destination = frame[:6]
    if not frame[0] & 1:
        return destination in members
    if destination[:5] == _BRIDGE_PREFIX and destination[5] <= _LAST_BRIDGE_GROUP:
        return False
    return destination not in _CONTROL_ADDRESSES


def lan_filter(members: Iterable[bytes], *, exact: bool | None = None) -> list[Instruction]:
    """The filter for a room with these members (raw 6-byte addresses).

    ``exact``: decide unicast in the kernel. None means "where it fits"; False makes the short program that lets all
    unicast pass (a kernel with little option memory refuses the long one with ENOMEM).
    """
    addresses = sorted({_split(member) for member in members})
    if not addresses:
        probe = _search([_split(SOURCE)], _SOURCE, hit=_ACCEPT, miss=_DROP)
        return [
            Instruction(_LD_HALF, 0, 0, _ETHERTYPE),
            Instruction(_JEQ, 0, len(probe), ETHERTYPE_PROBE),
            *probe,
            _DROP,
        ]
    if exact is None:
        exact = len(addresses) <= MAX_EXACT_MEMBERS
    group = _group_checks()
    if exact:
        source = _search(addresses, _SOURCE, hit=_DROP, miss=_ACCEPT)
        common = [*_tag_checks(), *source]
        # The destination search lies between here and the common part; its hits jump over what is left of it.
        unicast = _destination_search(addresses, distance=len(group))
    else:
        common = [*_tag_checks(), _ACCEPT]
        unicast = [Instruction(_JA, 0, 0, len(group))]
    start = [
        Instruction(_LD_BYTE, 0, 0, _DESTINATION),
        Instruction(_JSET, 0, 1, 1),
        Instruction(_JA, 0, 0, len(unicast)),
    ]
    return [*start, *unicast, *group, *common]


def deaf_filter() -> list[Instruction]:
    """A filter that lets nothing pass."""
    return [_DROP]


def untagged_filter() -> list[Instruction]:
    """A filter that lets everything pass but VLAN-tagged frames: the tag would be lost, and they would seem
    untagged."""
    return [*_tag_checks(), _ACCEPT]


def _split(member: bytes) -> tuple[int, int]:
    """Sort key of a member: low 32 bits, then high 16 (the low ones are the random ones)."""
    high, low = struct.unpack("!HI", member)
    return low, high


def _tag_checks() -> list[Instruction]:
    """Drop what is VLAN tagged; falls through otherwise."""
    checks = [Instruction(_LD_WORD, 0, 0, _VLAN_TAG_PRESENT), Instruction(_JEQ, 1, 0, 0), _DROP]
    checks.append(Instruction(_LD_HALF, 0, 0, _ETHERTYPE))
    for left, ethertype in zip(range(len(TAG_ETHERTYPES) - 1, -1, -1), TAG_ETHERTYPES, strict=True):
        checks.append(Instruction(_JEQ, left, 0 if left else 1, ethertype))
    checks.append(_DROP)
    return checks


def _group_checks() -> list[Instruction]:
    """Drop switch control; falls through to what follows for all other group addresses."""
    checks = [
        Instruction(_LD_WORD, 0, 0, _DESTINATION),
        Instruction(_JEQ, 0, 3, _BRIDGE_GROUPS),
        Instruction(_LD_HALF, 0, 0, _DESTINATION + 4),
        Instruction(_JGT, 1, 0, _LAST_BRIDGE_GROUP),
        _DROP,
    ]
    for high, low in CONTROL_GROUPS:
        checks += [
            Instruction(_LD_WORD, 0, 0, _DESTINATION),
            Instruction(_JEQ, 0, 3, high),
            Instruction(_LD_HALF, 0, 0, _DESTINATION + 4),
            Instruction(_JEQ, 0, 1, low),
            _DROP,
        ]
    return checks


def _destination_search(addresses: Sequence[tuple[int, int]], distance: int) -> list[Instruction]:
    """Search that drops a miss and jumps ``distance`` instructions past its own end on a hit."""
    placeholder = Instruction(_JA, 0, 0, 0)
    search = _search(addresses, _DESTINATION, hit=placeholder, miss=_DROP)
    end = len(search)
    return [
        Instruction(_JA, 0, 0, end - index - 1 + distance) if instruction is placeholder else instruction
        for index, instruction in enumerate(search)
    ]


def _search(
    addresses: Sequence[tuple[int, int]], offset: int, hit: Instruction, miss: Instruction
) -> list[Instruction]:
    """Binary search for the address at ``offset``; every way through ends in ``hit`` or ``miss``."""
    groups: dict[int, list[int]] = {}
    for low, high in addresses:
        groups.setdefault(low, []).append(high)
    leaves = [_leaf(low, highs, offset, hit, miss) for low, highs in sorted(groups.items())]
    return [Instruction(_LD_WORD, 0, 0, offset + 2), *_tree(sorted(groups), leaves)]


def _tree(keys: Sequence[int], leaves: Sequence[list[Instruction]]) -> list[Instruction]:
    if len(leaves) == 1:
        return leaves[0]
    middle = len(keys) // 2
    left, right = _tree(keys[:middle], leaves[:middle]), _tree(keys[middle:], leaves[middle:])
    pivot = keys[middle - 1]
    if len(left) <= _REACH:
        return [Instruction(_JGT, len(left), 0, pivot), *left, *right]
    return [Instruction(_JGT, 0, 1, pivot), Instruction(_JA, 0, 0, len(left)), *left, *right]


def _leaf(low: int, highs: Sequence[int], offset: int, hit: Instruction, miss: Instruction) -> list[Instruction]:
    """One low part, and the high parts of the members that share it (someone may choose them so)."""
    tests: list[Instruction] = []
    for high in highs:
        tests += [Instruction(_JEQ, 0, 1, high), hit]
    body = [Instruction(_LD_HALF, 0, 0, offset), *tests, miss]
    if len(body) - 1 <= _REACH:
        return [Instruction(_JEQ, 0, len(body) - 1, low), *body]
    return [Instruction(_JEQ, 1, 0, low), miss, *body]
