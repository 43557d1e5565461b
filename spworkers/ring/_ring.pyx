# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=False
"""The shared-memory ring, its arena and the frame codec, compiled.

One extension in many rooms: the region (memory and board), records, the two ends of a lane, exchanges, heads of calls,
askers, ways, waiting, parcels, frames and their writer, the courier, conduits, polling, signals. The C headers beside it
hold the layout and the moves; here they become Python objects. The GIL is the lock of each side: every call does its work
under it and is short; large copies and all waits let go of it.
"""
include "_imports.pxi"
include "_region.pxi"
include "_record.pxi"
include "_consumer.pxi"
include "_producer.pxi"
include "_inlet.pxi"
include "_exchange.pxi"
include "_heads.pxi"
include "_asking.pxi"
include "_ways.pxi"
include "_wait.pxi"
include "_words.pxi"
include "_parcels.pxi"
include "_frames.pxi"
include "_framewriter.pxi"
include "_courier.pxi"
include "_conduit.pxi"
include "_poller.pxi"
include "_signals.pxi"
