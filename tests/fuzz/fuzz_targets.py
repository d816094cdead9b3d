"""All fuzz targets: which there are, where each one's function is, and how its inputs are made.

Adding one: a function ``NAME(data: bytes) -> None`` and a generator ``NAME_seeds()`` in one of the ``fuzz_*.py`` files,
and a line in ``TARGETS``. ``python tests/fuzz/fuzz_run.py seeds`` then makes its corpus. See README.md.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import attrs

TESTS: Final = Path(__file__).parents[1]
CORPUS: Final = Path(__file__).parent / "corpus"
HELPERS: Final = ("ctrl", "fuzz", "link", "proto", "quic", "relay")
"""Directories of tests whose helpers the targets use. pytest has them from pyproject.toml."""

_JSON_WORDS: Final = (
    *(
        "type",
        "version",
        "major",
        "minor",
        "role",
        "room",
        "virtual_mac",
        "datagram_budget",
        "display_name",
        "software",
    ),
    *("peer_id", "effective_mtu", "fragments", "members", "gateway_present", "code", "text", "member", "reason"),
    *("counters", "sequence", "reply", "client", "gateway", "hello", "welcome", "reject", "peer-joined", "peer-left"),
    *("stats", "heartbeat", "disconnect", "null", "true", "false", "NaN", "identity", "room_key", "key", "signature"),
)
_FRAME_WORDS: Final = (
    *("\\x08\\x00\\x45", "\\x86\\xdd\\x60", "\\x08\\x06", "\\x81\\x00\\x00\\x00", "\\x88\\xa8\\x00\\x05"),
    *("\\xaa\\xaa\\x03\\x00\\x00\\x00", "\\x00\\x43\\x00\\x44", "\\x02\\x22\\x02\\x23", "\\x01\\x80\\xc2\\x00\\x00"),
    *("\\x3a\\xff", "\\x33\\x33\\x00\\x00\\x00\\x01", "\\xff\\xff\\xff\\xff\\xff\\xff", "\\x01\\x00\\x5e"),
)


@attrs.frozen
class Target:
    """One parser, or one part of the system that holds several."""

    name: str
    module: str
    runs: int
    """Inputs of the short run: about three seconds of one core."""
    words: tuple[str, ...] = ()
    """Words worth trying, for libFuzzer's dictionary."""
    longest: int = 4096
    """Bytes of an input."""

    @property
    def run(self) -> Callable[[bytes], None]:
        function: Callable[[bytes], None] = getattr(importlib.import_module(self.module), self.name)
        return function

    def seeds(self) -> list[bytes]:
        make: Callable[[], Iterable[bytes]] = getattr(importlib.import_module(self.module), f"{self.name}_seeds")
        return list(make())

    @property
    def file(self) -> Path:
        """Its corpus: one input a line, in hexadecimal."""
        return CORPUS / f"{self.name}.hex"

    def corpus(self) -> list[bytes]:
        return [bytes.fromhex(line) for line in self.file.read_text().splitlines()]


TARGETS: Final = {
    target.name: target
    for target in (
        Target("headers", "fuzz_proto", 40_000, _FRAME_WORDS),
        Target("overlay", "fuzz_proto", 10_000),
        Target("flows", "fuzz_proto", 1_000, _FRAME_WORDS),
        Target("offload", "fuzz_proto", 8_000, _FRAME_WORDS),
        Target("mss", "fuzz_proto", 40_000, _FRAME_WORDS),
        Target("control", "fuzz_ctrl", 10_000, _JSON_WORDS),
        Target("message", "fuzz_ctrl", 15_000, _JSON_WORDS),
        Target("names", "fuzz_ctrl", 20_000),
        Target("dhcp", "fuzz_ctrl", 10_000, longest=700),
        Target("strangers", "fuzz_quic", 400),
        Target("packets", "fuzz_quic", 4_000),
        Target("frames", "fuzz_quic", 20_000),
        Target("member", "fuzz_quic", 120),
        Target("relay", "fuzz_quic", 120),
        Target("guard", "fuzz_relay", 3_000, _FRAME_WORDS),
        Target("switch", "fuzz_relay", 1_000, _FRAME_WORDS),
        Target("storm", "fuzz_relay", 3_000),
        Target("house", "fuzz_relay", 5_000, _FRAME_WORDS),
        Target("handshake", "fuzz_quic", 120),
    )
}


def find_helpers() -> None:
    """Have the tests' helpers found when this is not run by pytest."""
    sys.path[:0] = [str(TESTS / name) for name in HELPERS if str(TESTS / name) not in sys.path]
