"""Random numbers from the system.

Not the module `random`: that seeds itself anew in every forked process, which costs each I/O process memory of its own.
"""

from __future__ import annotations

import os

__all__ = ["between", "random_bits"]


def random_bits(count: int) -> int:
    """A number below 2 ** `count`, each as likely."""
    return int.from_bytes(os.urandom((count + 7) // 8), "little") >> (-count % 8)


def between(low: float, high: float) -> float:
    """A number between two, each as likely."""
    return low + (high - low) * (random_bits(53) / 2.0**53)
