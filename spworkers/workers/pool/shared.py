"""Read-only objects that all workers map instead of having a copy each.

    parent: pickle 5 ─▶ one file without a name: pickle ‖ buffer ‖ buffer ...  (sealed: nobody can write into it)
    worker: maps it ─▶ unpickles on its pages: an array's data are the file's

So a table of a gigabyte is in memory once, however many workers there are. Only what pickle puts beside the pickle is
mapped (numpy arrays and what is made of them, bytearrays); the rest is unpickled in each worker.
"""

from __future__ import annotations

import mmap
import os
import pickle
from typing import Any, Final

from spworkers.errors import ResourceError, SerializationError
from spworkers.workers.byvalue import pickled

__all__ = ["attach", "store"]

_ALIGN: Final = 64
"""Bytes: a cache line, and what numpy's own allocations are aligned to at least."""


def store(value: Any) -> tuple[int, list[int]]:
    """Put an object into a file: its descriptor, and the places of its pieces.

    Raises:
        SerializationError: it cannot be pickled.
        ResourceError: there is no memory left.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        stream = pickled(value, 5, buffers.append)
        pieces: list[bytes | memoryview] = [stream, *(buffer.raw() for buffer in buffers)]
    except Exception as error:  # whatever the __reduce__ of somebody's object raises
        raise SerializationError(f"shared= cannot be pickled: {type(error).__name__}: {error}") from error
    places: list[int] = []
    at = 0
    for piece in pieces:
        size = len(piece) if isinstance(piece, bytes) else piece.nbytes
        places += (at, size)
        at += -(-max(size, 1) // _ALIGN) * _ALIGN
    try:
        fd = _file(at)
    except OSError as error:
        raise ResourceError(f"cannot make {at} bytes of shared memory: {error.strerror}") from error
    try:
        with mmap.mmap(fd, at) as memory:
            for number, piece in enumerate(pieces):
                begin, size = places[2 * number : 2 * number + 2]
                memory[begin : begin + size] = piece if isinstance(piece, bytes) else piece.cast("B")
        _seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd, places


def _file(size: int) -> int:
    """A file without a name, whose memory is there: writing into it cannot fail later (SIGBUS)."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("spworkers-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        import tempfile

        with tempfile.TemporaryFile(buffering=0) as file:
            fd = os.dup(file.fileno())
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _seal(fd: int) -> None:
    if hasattr(os, "memfd_create"):
        import fcntl

        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        )


def attach(fd: int, places: list[int]) -> Any:
    """The object, on the file's pages; who writes into it gets Python's own error for read-only memory."""
    size = os.fstat(fd).st_size
    # Private: kernels before 6.7 refuse a shared mapping of what is sealed. Nobody can write: no page is copied.
    memory = memoryview(mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
    pieces = [memory[at : at + length] for at, length in zip(places[::2], places[1::2], strict=True)]
    return pickle.loads(pieces[0], buffers=pieces[1:])
