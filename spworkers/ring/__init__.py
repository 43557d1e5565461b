"""Shared memory between the user's process and the I/O process: the compiled ring, its bells and the frame codec."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("spworkers.ring._ring") is None:
    raise ImportError(
        f"the compiled part of spworkers is not in {__path__[0]}: this is the source tree, not an installation;"
        " run from another folder, or build it here with: python setup.py build_ext --inplace"
    )

from spworkers.ring._ring import (
    BROKEN,
    CANCEL,
    CONTEXTS,
    COUNTERS,
    DATA,
    ERROR,
    INLINE,
    IPC,
    MAX_WINDOW,
    POLLER,
    READABLE,
    STREAM,
    WRITABLE,
    Exchange,
    FrameReader,
    FrameWriter,
    Inlet,
    Outlet,
    Poller,
    Receiver,
    Record,
    Region,
    Reservation,
    Segment,
    Sender,
    Walk,
    Ways,
    drain,
    gather,
    hush_bell,
    make_bell,
    ring_bell,
    spin_board,
    spin_lane,
    wait_readable,
)

__all__ = [
    "BROKEN",
    "CANCEL",
    "CONTEXTS",
    "COUNTERS",
    "DATA",
    "ERROR",
    "INLINE",
    "IPC",
    "MAX_WINDOW",
    "POLLER",
    "READABLE",
    "STREAM",
    "WRITABLE",
    "Exchange",
    "FrameReader",
    "FrameWriter",
    "Inlet",
    "Outlet",
    "Poller",
    "Receiver",
    "Record",
    "Region",
    "Reservation",
    "Segment",
    "Sender",
    "Walk",
    "Ways",
    "drain",
    "gather",
    "hush_bell",
    "make_bell",
    "ring_bell",
    "spin_board",
    "spin_lane",
    "wait_readable",
]
