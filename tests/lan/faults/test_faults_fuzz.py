"""Row 37: mutated frames and control messages get a verdict each, and never an exception.

Mutations without feedback, by a seed: many inputs, and the same ones each time. Coverage-guided fuzzing is in
tests/fuzz.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from proto_corpus import HOUSE, PLAYER, ether, ip_frames, link_frames, mutations
from test_ctrl_fuzz import mutated_bytes, mutated_values, verdict

from lanparty.guard.guard import Guard
from lanparty.guard.levels import Level, RoomPolicy
from lanparty.guard.rules import Rule
from lanparty.proto.fragments import Reassembler
from lanparty.proto.overlay import OverlayCounters, OverlayDecoder, OverlayEncoder
from lanparty.relay.storm import Traffic, traffic_of_untrusted

pytestmark = pytest.mark.faults


@attrs.frozen
class Sender:
    mac: bytes
    is_gateway: bool


def frames_of(count: int) -> Counter[str]:
    """Verdicts about ``count`` mutated frames, as they come out of a decoder that gets some of them in pieces."""
    whole = [*ip_frames(), *link_frames(), ether(bytes(1600), 0x0800)]
    whole += [PLAYER + HOUSE + frame[12:] for frame in whole]  # as from the house
    corpus = [datagram for frame in whole for datagram in (b"\x10\0\0\0" + frame, *OverlayEncoder(60).encode(frame))]
    rng = random.Random(37)
    guards = [Guard(RoomPolicy(level), 1500, {PLAYER: None}) for level in Level]
    senders = (Sender(PLAYER, is_gateway=False), Sender(b"", is_gateway=True))
    decoder = OverlayDecoder(Reassembler(), OverlayCounters())
    verdicts: Counter[str] = Counter()
    for number, datagram in enumerate(mutations(corpus, seed=37, count=count)):
        now = number / 1000
        frames, echoes = decoder.decode_untrusted([datagram], now)
        if not frames and not echoes:
            verdicts["no frame"] += 1
        for _stamp, frame in frames:
            # Half of them with the addresses that they should have: the others end at the first rule.
            if rng.getrandbits(1):
                frame = HOUSE + PLAYER + frame[12:]
            for guard in guards:
                for sender in senders:
                    rule = guard.judge_untrusted(frame, sender, now)
                    assert rule is None or isinstance(rule, Rule)
                    verdicts["passes" if rule is None else str(rule)] += 1
            assert traffic_of_untrusted(frame, known=True) in (None, *Traffic)
    return verdicts


def messages_of(count: int) -> Counter[str]:
    """Verdicts about ``count`` mutated control messages: their type, or the code of what is wrong."""
    rng = random.Random(37)
    return Counter(verdict((mutated_bytes if number & 1 else mutated_values)(rng)) for number in range(count))


@pytest.mark.parametrize("inputs", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_verdict_for_each(inputs: int, figures: Callable[..., None]) -> None:
    half = inputs // 2
    frames, messages = frames_of(half), messages_of(half)
    assert sum(messages.values()) == half
    labels = {str(rule) for rule in Rule} & frames.keys()
    assert {
        "passes",
        "no frame",
        "address",
        "length",
        "vlan",
        "llc",
        "ethertype",
        "arp",
        "ipv4-header",
    } <= frames.keys()
    assert {"hello", "bad-json", "bad-message", "unknown"} <= messages.keys()
    told: dict[str, Any] = {
        "frames": half,
        "verdicts_about_frames": sum(frames.values()),
        "rules_that_objected": len(labels),
        "frames_that_passed": frames["passes"],
        "control_messages": half,
        "kinds_of_answer": len(messages),
        "exceptions": 0,
    }
    figures(37, f"{inputs} mutated frames and control messages", **told)
