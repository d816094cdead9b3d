"""Every input of the fuzz corpus, through its target, in plain Python: what was found once is not found again."""

from __future__ import annotations

import pytest
from fuzz_corpus import LARGEST, keep, reached
from fuzz_input import Input, chunk, chunks
from fuzz_targets import CORPUS, TARGETS, Target


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_corpus(target: Target) -> None:
    inputs = target.corpus()
    assert inputs
    for data in inputs:
        target.run(data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_seeds(target: Target) -> None:
    for data in target.seeds():
        target.run(data)


def test_each_file_belongs_to_a_target_and_is_small() -> None:
    assert {file.stem for file in CORPUS.iterdir()} == set(TARGETS)
    assert all(sum(map(len, target.corpus())) <= LARGEST for target in TARGETS.values())
    assert sum(file.stat().st_size for file in CORPUS.iterdir()) < 300_000


def test_input_reads_what_chunk_writes() -> None:
    source = Input(b"\x07" + chunks(b"one", b"") + chunk(b"three") + b"rest")
    assert (source.byte(), source.chunk(), source.chunk(), source.chunk()) == (7, b"one", b"", b"three")
    assert source.rest() == b"rest"
    assert not source
    assert (source.number(4), source.chunk()) == (0, b"")


def test_corpus_keeps_the_shortest_that_reach_something_of_their_own() -> None:
    run = TARGETS["names"].run
    kept, arcs = keep(run, [b"ROOM1", b"ROOM12", b"02:1a:2b:3c:4d:5e", b"02:1a:2b:3c:4d:5f"])
    assert kept == [b"ROOM1", b"02:1a:2b:3c:4d:5e"]
    assert arcs == len(reached(run, kept[0]) | reached(run, kept[1]))
