"""What ends macat with exit code 1."""

from __future__ import annotations

__all__ = ["Mistake"]


class Mistake(Exception):
    """Something is wrong, in the original's words where it has some.

    Args:
        message: what is printed after `macat: `.
        hint: what to do about it; printed on a line of its own.
        usage: whether the short usage is printed, too.
    """

    def __init__(self, message: str, hint: str = "", *, usage: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.usage = usage
