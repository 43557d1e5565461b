"""What keeps memory shared between the supervisor and its children.

A forked child shares every page until one of the two writes to it, and it writes wherever it makes an object. Left to
itself, an allocator puts those into the holes that the imports have left, one here and one there, each on a page that
is copied for it. So the holes are filled before the first fork, and what is made later lies together on new pages.

It writes, too, wherever it looks at an object, whose references are counted: for each call to the function, its code
and its constants, to the type of each object that it makes, to every name. From Python 3.12 on there are objects whose
references nobody counts, and what is there before a fork is made such.

Pages of our compiled modules are of a file, and no copies; but those that only one child has touched count as its own.
The supervisor maps them too, so they count as what they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Final

from spworkers.supervisor._sharing import fill_heap, make_immortal

__all__ = ["prepare_memory"]

# Python's allocator (obmalloc.c): it divides pools among objects of one size, which is a multiple of _STEP.
_POOL: Final = 16 << 10
_POOL_HEAD: Final = 48
_STEP: Final = 16
_LARGEST: Final = 512
_LIMIT: Final = 512
"""Fillers of one size: should this be another allocator, whose pools are not found, there is an end."""
_EMPTY: Final = bytes.__basicsize__
_MOST: Final = 4 << 20
"""Bytes of the C library's heap to fill at most."""
_POPULATE_READ: Final = 22
"""MADV_POPULATE_READ, which Linux has from 5.14 on: map pages now, without changing anything."""

_fillers: list[bytes] = []


def prepare_memory() -> None:
    """After imports, before the next fork."""
    _fill_holes()
    fill_heap(_MOST)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a system that does not show it
            _map_our_code()
    make_immortal()


def _fill_holes() -> None:
    for size in range(_STEP * -(-(_EMPTY + 1) // _STEP), _LARGEST + 1, _STEP):
        for _ in range(_LIMIT):
            filler = bytes(size - _EMPTY)
            _fillers.append(filler)
            if id(filler) % _POOL == _POOL_HEAD:  # the first one of a new pool: there is no hole left
                break


def _map_our_code() -> None:
    madvise = ctypes.CDLL(None).madvise
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            span, rights, rest = line.split(None, 2)
            if "/spworkers" in rest and ".so" in rest and rights.startswith("r-"):
                start, end = (int(text, 16) for text in span.split("-"))
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _POPULATE_READ)
