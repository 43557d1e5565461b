"""Every parser of strangers' bytes against its corpus, and for a moment against what nobody has tried yet."""

from __future__ import annotations

import os
import random

import pytest
from fuzz.fuzzer import CORPUS, FuzzError, changed, corpus_of, fuzz, outcome
from fuzz.parsers import PARSERS

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0.2"))
"""For each parser; `FUZZ_SECONDS=60 pytest tests/fuzz` takes ten minutes."""


@pytest.mark.parametrize("parser", PARSERS)
def test_the_corpus(parser: str) -> None:
    inputs = corpus_of(parser)
    assert inputs, f"{CORPUS / parser} is empty"
    said = {outcome(parser, data) for data in inputs}
    assert len(said) > 1, "inputs that all have one outcome try nothing"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("parser", PARSERS)
def test_what_nobody_has_tried(parser: str) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    try:
        assert fuzz(parser, SECONDS, random.Random(seed), lambda data: None) > 0
    except FuzzError as error:
        error.add_note(f"seed {seed}") if hasattr(error, "add_note") else None
        raise


def test_every_folder_of_the_corpus_has_its_parser() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(PARSERS)


def test_the_fuzzer_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(data: bytes) -> str:
        assert b"\xff" not in data
        return "fine"

    monkeypatch.setitem(PARSERS, "wrong", wrong)
    with pytest.raises(FuzzError, match=r"^wrong: b'.*\\xff"):
        fuzz("wrong", 20.0, random.Random(1), lambda data: None)


def test_changes_are_those_of_the_seed() -> None:
    one, other = random.Random(7), random.Random(7)
    pool = [b"abc", b""]
    made = [changed(one, b"abc", pool) for _ in range(100)]
    assert made == [changed(other, b"abc", pool) for _ in range(100)]
    assert len(set(made)) > 50
