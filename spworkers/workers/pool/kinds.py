"""What a record between pool and worker is (its `kind`), and what its other words mean there.

| towards the worker | pipe | body |
|---|---|---|
| SETUP | | what the pool's arguments say: initializer, shared objects |
| DEFINE, FORGET | number of a function | the function |
| CALL, CALL_KEYWORDS | number of the function | its arguments: a tuple; a tuple and a map |
| BATCH with STAR, EAGER, TIMED, EACH | number of the function | a list of items |
| STOP | | |

| towards the pool | pipe | body |
|---|---|---|
| READY | its process | |
| UNFIT | | why it cannot start |
| RESULT, RAISED, LOST | microseconds that the work took | the value; the exception; what is known of it |
| PART | index of the first item | results of some items of a batch |

`serial` is the job's number throughout.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BATCH",
    "CALL",
    "CALL_KEYWORDS",
    "DEFINE",
    "EACH",
    "EAGER",
    "FORGET",
    "KIND",
    "LOST",
    "MEMORY",
    "PART",
    "RAISED",
    "READY",
    "RESULT",
    "SETUP",
    "STAR",
    "STOP",
    "TIMED",
    "UNFIT",
]

SETUP: Final = 1
DEFINE: Final = 2
FORGET: Final = 3
CALL: Final = 4
CALL_KEYWORDS: Final = 5
BATCH: Final = 6
STOP: Final = 7

READY: Final = 8
UNFIT: Final = 9
MEMORY: Final = "memory_limit"
"""Says an UNFIT of a worker that is too large before its first task; else it names what of the user's has raised."""
RESULT: Final = 10
RAISED: Final = 11
LOST: Final = 12
PART: Final = 13

KIND: Final = 0xFF
"""The bits that say which of the above."""
STAR: Final = 0x100
"""Each item is a tuple of arguments."""
EAGER: Final = 0x200
"""Results are wanted soon, one by one: the batch is only a way to carry them."""
TIMED: Final = 0x400
"""Each item has a time limit: the moment at which it began is written down."""
EACH: Final = 0x800
"""Each item is bytes of its own, so that one that cannot be read spoils no other."""
