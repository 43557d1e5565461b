"""What a web server counts, in memory that its process shares with the program: who asks disturbs nobody, and what a
dead process had counted stays."""

from __future__ import annotations

import mmap
from typing import Any, Final

from spworkers.packet import anonymous_file

__all__ = ["CAUSES", "COUNTED", "WebCounts"]

_GAUGES: Final = ("pid", "connections", "relays")
"""What is true now, of the process that is there now."""

COUNTED: Final = ("accepted", "handed_over", "answered", "refused")

CAUSES: Final = (
    "bad_header",
    "bad_tls",
    "handshake_timeout",
    "handshake_closed",
    "handshake_failed",
    "handshake_overflow",
    "answer_cut",
    "accept_failed",
    "accept_exhausted",
)
"""Why a connection ended without what it came for: those of a listener, and `answer_cut` for one that hung up or did
not read while it was answered."""

_INDEX: Final = {name: number for number, name in enumerate((*_GAUGES, *COUNTED, *CAUSES))}


class WebCounts:
    """The memory, a word for each name; one process writes.

    Args:
        fd: of it; it stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._words = memoryview(mmap.mmap(fd, 0)).cast("Q")

    @staticmethod
    def memory() -> int:
        """New memory: its descriptor.

        Raises:
            ResourceError: there is none left.
        """
        return anonymous_file(bytes(len(_INDEX) * 8), "spworkers-web")

    def add(self, name: str) -> None:
        """One more of this."""
        self._words[_INDEX[name]] += 1

    def show(self, name: str, number: int) -> None:
        """So many there are now."""
        self._words[_INDEX[name]] = number

    def read(self) -> dict[str, Any]:
        """All of them; the causes, as far as they occurred, under `drops`."""
        words = self._words.tolist()
        found: dict[str, Any] = {name: words[_INDEX[name]] for name in (*_GAUGES, *COUNTED)}
        found["drops"] = {name: words[_INDEX[name]] for name in CAUSES if words[_INDEX[name]]}
        return found
