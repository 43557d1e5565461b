"""A small fuzzer whose corpus is kept: it changes what it has, and keeps what has another outcome than all before.

    python -m fuzz.fuzzer --seconds 600 --keep       from tests/, on an interpreter that has spworkers

tests/fuzz/corpus/PARSER/ holds the inputs, named by their hash. An input for which a parser fails is printed, and
belongs there as well, so that it stays mended. (atheris, which sees the branches of compiled code, is not on every
Python that we test with; the feedback here is what a parser says, which is what its caller acts upon.)
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections.abc import Callable
from pathlib import Path

from fuzz.parsers import PARSERS

CORPUS = Path(__file__).with_name("corpus")
LONGEST = 8192
"""Bytes of an input."""

_NUMBERS = [
    number.to_bytes(size, "big")
    for size in (1, 2, 4, 8)
    for number in (0, 1, (1 << (8 * size - 1)) - 1, 1 << (8 * size - 1), (1 << (8 * size)) - 1)
]


def corpus_of(parser: str) -> list[bytes]:
    """Its inputs, always in the same order."""
    return [path.read_bytes() for path in sorted((CORPUS / parser).iterdir())]


def changed(chance: random.Random, data: bytes, pool: list[bytes]) -> bytes:
    """Something like these bytes."""
    made = bytearray(data)
    for _ in range(1 << chance.randrange(4)):
        at = chance.randint(0, len(made))
        match chance.randrange(8):
            case 0 if made:
                made[at - 1] ^= 1 << chance.randrange(8)
            case 1 if made:
                made[at - 1] = chance.randrange(256)
            case 2:
                made[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                del made[at : at + chance.randint(1, 8)]
            case 4:
                number = chance.choice(_NUMBERS)
                made[at : at + len(number)] = number
            case 5:
                other = chance.choice(pool)
                begin = chance.randint(0, len(other))
                made[at:at] = other[begin : begin + chance.randint(1, 64)]
            case 6:
                made[at:at] = made[at : at + chance.randint(1, 32)] * chance.randint(1, 8)
            case _:
                del made[at:]
    return bytes(made[:LONGEST])


class FuzzError(AssertionError):
    """A parser did what it must not.

    Args:
        parser: its name.
        data: the input.
    """

    def __init__(self, parser: str, data: bytes) -> None:
        super().__init__(f"{parser}: {data!r}\n    fails; when it is mended, keep it in {CORPUS / parser}/")


def outcome(parser: str, data: bytes) -> str:
    """What a parser says of an input.

    Raises:
        FuzzError: it raised.
    """
    try:
        return PARSERS[parser](data)
    except Exception as error:
        raise FuzzError(parser, data) from error


def fuzz(parser: str, seconds: float, chance: random.Random, kept: Callable[[bytes], object]) -> int:
    """Try changed inputs for so long.

    Args:
        parser: its name.
        seconds: how long.
        chance: what decides on the changes.
        kept: told each input that had a new outcome.

    Returns:
        How many inputs were tried.
    """
    pool = corpus_of(parser) if (CORPUS / parser).is_dir() else []
    pool = pool or [b""]
    seen = {outcome(parser, data) for data in pool}
    deadline = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < deadline:
        for _ in range(16):
            data = changed(chance, chance.choice(pool), pool)
            tried += 1
            said = outcome(parser, data)
            if said not in seen:
                seen.add(said)
                pool.append(data)
                kept(data)
    return tried


def keep(parser: str, data: bytes) -> None:
    """Put an input into the corpus."""
    folder = CORPUS / parser
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def prune(parser: str) -> tuple[int, int]:
    """Of the inputs with one outcome leave the shortest; returns how many there were, and are."""
    paths = sorted((CORPUS / parser).iterdir(), key=lambda path: (path.stat().st_size, path.name))
    seen: set[str] = set()
    for path in paths:
        said = outcome(parser, path.read_bytes())
        if said in seen:
            path.unlink()
        seen.add(said)
    return len(paths), len(seen)


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("parsers", nargs="*", metavar="PARSER", help=f"default: all ({', '.join(PARSERS)})")
    asked.add_argument("--seconds", type=float, default=60, help="for all of them together (60)")
    asked.add_argument("--seed", type=int, default=None, help="default: another one each time, which is printed")
    asked.add_argument("--keep", action="store_true", help="put what has a new outcome into the corpus")
    asked.add_argument("--prune", action="store_true", help="only leave one input for each outcome")
    given = asked.parse_args()
    parsers = given.parsers or list(PARSERS)
    if given.prune:
        for parser in parsers:
            print(parser, *prune(parser))
        return
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}")
    for parser in parsers:
        found: list[bytes] = []

        def kept(data: bytes, parser: str = parser, found: list[bytes] = found) -> None:
            found.append(data)
            if given.keep:
                keep(parser, data)

        tried = fuzz(parser, given.seconds / len(parsers), random.Random(seed), kept)
        print(f"{parser}: {tried} inputs, {len(found)} outcomes that were new")


if __name__ == "__main__":
    main()
