"""Headers that count hops: the one word of PAIR1 and STAR, of which only the last byte may be other than 0.

wire   0 ‖ 0 ‖ 0 ‖ hops, body
"""

from __future__ import annotations

from typing import Final

__all__ = ["HOPS_LIMIT", "hops_of", "hops_word"]

HOPS_LIMIT: Final = 255
"""From here on a count cannot be raised any more."""

_WORDS: Final = [bytes((0, 0, 0, hops)) for hops in range(HOPS_LIMIT + 1)]


def hops_of(payload: bytes) -> int:
    """The count in the first word; -1: that is none, or is missing."""
    if len(payload) < 4 or payload[:3] != b"\0\0\0":
        return -1
    return payload[3]


def hops_word(hops: int) -> bytes:
    """The header with this count."""
    return _WORDS[hops]
