"""Words of the wire, for the tests of the protocols."""

from __future__ import annotations


def word(number: int) -> bytes:
    """A word of a backtrace: the number of a pipe."""
    return number.to_bytes(4, "big")


def request_id(number: int) -> bytes:
    """The last word of a backtrace: a request's id."""
    return (number | 0x80000000).to_bytes(4, "big")


ID = request_id(1)
"""Some request's id."""
