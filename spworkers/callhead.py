"""The head of the call format's messages: what a dispatcher reads of a request without understanding the rest.

    call       C1 10  id:8  patience:4  ...     next       C1 15  id:8  patience:4  number:4
    value      C1 11  id:8  ...                 cancel     C1 16  id:8
    error      C1 12  id:8  ...
    part       C1 13  id:8  ...
    last part  C1 14  id:8  ...

docs/call-format.md is the specification. The first byte is C1, which msgpack never uses and which no UTF-8 text
contains; the second is the version (high half) and the kind of message (low half).
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ANSWER_HEAD",
    "CALL",
    "CALL_HEAD",
    "CANCEL",
    "ERROR",
    "LAST_PART",
    "NEXT",
    "NEXT_HEAD",
    "OTHER",
    "PART",
    "VALUE",
    "answer_at",
    "id_at",
    "kind_at",
    "name_at",
    "patience_at",
]

OTHER: Final = 0
"""Kind of what is no message of this format: a raw handler's request."""
CALL: Final = 0x10
VALUE: Final = 0x11
ERROR: Final = 0x12
PART: Final = 0x13
LAST_PART: Final = 0x14
NEXT: Final = 0x15
CANCEL: Final = 0x16

ANSWER_HEAD: Final = 10
"""Bytes of the mark and the id, with which every message begins; an answer and a cancellation have no more."""
CALL_HEAD: Final = 14
"""Bytes of a call's head: mark, id and patience."""
NEXT_HEAD: Final = 18
"""Bytes of a request for the next part of a stream, which is all of it."""


def kind_at(payload: bytes, begin: int) -> int:
    """The kind of message that begins there, if it is one that a client sends and long enough; else `OTHER`."""
    size = len(payload) - begin
    if size < ANSWER_HEAD or payload[begin] != 0xC1:
        return OTHER
    kind = payload[begin + 1]
    if kind == CALL:
        return CALL if size >= CALL_HEAD else OTHER
    if kind == NEXT:
        return NEXT if size == NEXT_HEAD else OTHER
    if kind == CANCEL:
        return CANCEL if size == ANSWER_HEAD else OTHER
    return OTHER


def answer_at(payload: bytes, begin: int) -> int:
    """The kind of message that begins there, if it is one that a server sends; else `OTHER`."""
    if len(payload) < begin + ANSWER_HEAD or payload[begin] != 0xC1:
        return OTHER
    kind = payload[begin + 1]
    return kind if VALUE <= kind <= LAST_PART else OTHER


def id_at(payload: bytes, begin: int) -> bytes:
    """The id in a message of any kind but `OTHER`, as it is on the wire."""
    return payload[begin + 2 : begin + 10]


def patience_at(payload: bytes, begin: int) -> float:
    """How many seconds the sender of a call, or of a `NEXT`, waits for its answer; 0: for ever."""
    p = begin + 10
    return ((payload[p] << 24) | (payload[p + 1] << 16) | (payload[p + 2] << 8) | payload[p + 3]) / 1000.0


def name_at(payload: bytes, begin: int) -> str:
    """The handler's name in a call that begins there, found without decoding the rest; empty for a broken call."""
    size = len(payload)
    at = begin + CALL_HEAD
    if size < at + 2 or payload[at] not in (0x92, 0x93):  # an array of 2 or 3
        return ""
    first = payload[at + 1]
    at += 2
    if 0xA0 <= first <= 0xBF:  # fixstr
        length = first & 0x1F
    elif first == 0xD9 and size > at:  # str 8
        length = payload[at]
        at += 1
    elif first == 0xDA and size > at + 1:  # str 16
        length = (payload[at] << 8) | payload[at + 1]
        at += 2
    else:
        return ""
    return payload[at : at + length].decode("utf-8", "replace")
