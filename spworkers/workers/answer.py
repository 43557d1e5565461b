"""What a worker's handlers have to say to a request, and what of that arrives at its client."""

from __future__ import annotations

from typing import Final

__all__ = ["Answer", "Reply"]


class Answer:
    """An answer's bytes, and what it is.

    Attributes:
        ok: the handler returned, or yielded; False: it is an error.
        more: it is part of a stream that goes on.
        silent: there is no answer, only the end of the work.
    """

    def __init__(self, body: bytes, ok: bool, more: bool = False, silent: bool = False) -> None:
        self.body: Final = body
        self.ok: Final = ok
        self.more: Final = more
        self.silent: Final = silent


class Reply:
    """An answer, and the pipe that it came by."""

    def __init__(self, body: bytes, pipe: int = 0) -> None:
        self.body: Final = body
        self.pipe: Final = pipe
