"""What the C library's allocator keeps for the next request, given back to the system."""

from __future__ import annotations

__all__ = ["give_back"]


def give_back() -> None:
    """Give the system the free pages of the heap, where the C library can (GNU's; others do so by themselves).

    For the moment behind a burst: it takes some milliseconds for each hundred MiB.
    """
    import ctypes
    from typing import Any

    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
