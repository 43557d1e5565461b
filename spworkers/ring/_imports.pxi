cimport cython
from cpython.buffer cimport (PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBUF_WRITE, PyBuffer_FillInfo, PyBuffer_Release,
                             PyObject_GetBuffer)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_CLEAR, Py_DECREF, Py_INCREF, Py_XDECREF, PyObject
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOMEM, ENOSYS, EPIPE, EPROTO, errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close, getpid, read, write
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import os
import stat

from spworkers._descriptors import made, plenty
from spworkers.errors import BadValueError, ForkedError, GarbledError, InternalError, TooLongError, from_os_error

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from *:
    """
    #ifdef __linux__
    extern int sched_getcpu(void);
    #define spw_processor() ((uint32_t)(sched_getcpu() + 1))
    #else
    #define spw_processor() 0u
    #endif
    """
    uint32_t spw_processor() nogil

cdef extern from "lane.h" nogil:
    enum: SPW_MAGIC
    enum: SPW_CONTEXTS
    enum: SPW_COUNTERS
    enum: SPW_CONGESTED
    enum: SPW_SLOTS
    enum: SPW_MAX_WINDOW
    enum: SPW_INLINE
    enum: SPW_BOARD_SIZE
    uint64_t SPW_FIRST_SEGMENT
    uint32_t SPW_CONTROL_SIZE
    uint64_t SPW_INDEX_SIZE
    uint64_t SPW_TABLE_SIZE
    uint64_t SPW_EXTENT_ROOM
    enum: SPW_FREE
    enum: SPW_WRITING
    enum: SPW_PUBLISHED
    enum: SPW_CLAIMED
    enum: SPW_LEASED
    enum: SPW_BY_DEMAND
    enum: SPW_NOBODY
    enum: SPW_HURRIED
    enum: SPW_PATIENT
    enum: SPW_COUNTING
    enum: SPW_EMPTY
    enum: SPW_GOT
    enum: SPW_CORRUPT
    enum: SPW_NO_BLOCK
    enum: SPW_EXTENT
    enum: ARENA_CLASSES
    uint64_t ARENA_NONE

    ctypedef struct spw_control:
        uint64_t tail
        uint32_t high_water
        uint32_t window
        uint64_t head
        uint64_t releases
        uint64_t skipped
        uint64_t corrupt
        uint32_t under_way
        uint32_t consumer_waits
        uint32_t producer_waits
        uint64_t enough
        uint64_t demand
        uint32_t closed
    ctypedef struct spw_slot:
        uint64_t state
        uint64_t position
        uint32_t kind
        uint32_t flags
        uint32_t pipe
        uint32_t header_length
        uint64_t serial
        uint64_t length
        uint64_t offset
        uint64_t block
        uint8_t payload[192]
    ctypedef struct spw_board:
        uint64_t magic
        uint64_t budget
        uint64_t arena
        uint64_t segment_size
        uint64_t extents
        uint64_t file_size
        uint32_t io_waits
        uint32_t rung_from
        int32_t ready_pipes
        int32_t pipes
        uint32_t generation
        uint64_t bits[16]
        uint64_t congested[16]
        uint64_t counters[256]
    ctypedef struct spw_lane:
        spw_control *control
        uint64_t *index
        spw_slot *slots
        uint64_t arena_at
        uint64_t arena_size
        uint64_t extent_at
        uint64_t extent_size
        char *region
        int crowded
    ctypedef struct spw_holding:
        uint64_t offset
        uint64_t block
        uint32_t klass "class"
        uint32_t counted
    ctypedef struct spw_goal:
        uint32_t live
        uint64_t bytes
        int all
    ctypedef struct arena:
        uint64_t size
        uint64_t frontier
    ctypedef struct spw_producer:
        spw_lane lane
        arena blocks
        uint32_t *free_slots
        uint32_t free_count
        uint32_t *out
        uint32_t out_count
        spw_holding *holding
        uint32_t live
        uint32_t high
        uint64_t tail, oldest
        uint64_t bytes
        uint64_t budget
    ctypedef struct spw_taken:
        uint32_t slot
        uint32_t generation
        uint32_t kind
        uint32_t flags
        uint32_t pipe
        uint32_t header_length
        uint64_t serial
        uint64_t length
        uint64_t offset
    ctypedef struct spw_unfinished:
        uint64_t position
        uint32_t slot
        uint32_t generation

    uint64_t spw_lane_size(uint64_t arena)
    uint64_t spw_word(uint32_t generation, uint32_t state)
    uint32_t spw_state_of(uint64_t word)
    uint32_t spw_generation_of(uint64_t word)
    uint32_t arena_class(uint64_t size)
    uint64_t arena_class_size(uint32_t klass)
    uint64_t arena_take(arena *a, uint32_t klass)
    int arena_warm(arena *a, unsigned int klass) nogil
    void arena_begin(arena *a, uint64_t size)
    int producer_grow(spw_producer *p, uint32_t need)
    void producer_end(spw_producer *p)
    int producer_compact(spw_producer *p)
    void producer_sweep(spw_producer *p, spw_goal goal, void (*extent_freed)(void *, uint64_t, uint64_t) noexcept nogil, void *to)
    uint64_t producer_stale(spw_producer *p)
    int producer_slots_stale(spw_producer *p)
    int producer_slot(spw_producer *p, uint32_t *slot)
    uint64_t producer_extent(spw_producer *p, uint64_t size)
    int producer_index_room(spw_producer *p)
    uint64_t producer_publish(spw_producer *p, uint32_t slot)
    int producer_revoke(spw_producer *p, uint64_t ticket)
    uint32_t producer_state(spw_producer *p, uint64_t ticket)
    uint64_t producer_untaken(spw_producer *p)
    int producer_waits(spw_producer *p, uint64_t at, uint64_t *ticket)
    int producer_take_demand(spw_producer *p)
    int producer_adopt(spw_producer *p)
    int consumer_read(spw_lane *l, uint32_t slot, uint32_t generation, spw_taken *t)
    void consumer_free(spw_lane *l, uint32_t slot, uint32_t generation)
    int consumer_next(spw_lane *l, spw_taken *t)
    int consumer_next_plain(spw_lane *l, uint64_t serial, spw_taken *t)
    int consumer_claim(spw_lane *l, uint32_t slot, uint32_t generation, int inherited)
    int consumer_alive(spw_lane *l, uint32_t slot, uint32_t generation)
    int consumer_ready(spw_lane *l)
    int64_t consumer_adopt(spw_lane *l, spw_unfinished **found)

cdef extern from "atomics.h" nogil:
    uint64_t spw_load(uint64_t *p)
    uint64_t spw_peek(uint64_t *p)
    void spw_store(uint64_t *p, uint64_t v)
    void spw_put(uint64_t *p, uint64_t v)
    uint64_t spw_swap(uint64_t *p, uint64_t v)
    uint64_t spw_or(uint64_t *p, uint64_t v)
    uint64_t spw_add(uint64_t *p, uint64_t v)
    uint64_t spw_and(uint64_t *p, uint64_t v)
    uint32_t spw_load32 "spw_load" (uint32_t *p)
    int32_t spw_loadi "spw_load" (int32_t *p)
    void spw_put32 "spw_put" (uint32_t *p, uint32_t v)
    void spw_store32 "spw_store" (uint32_t *p, uint32_t v)
    void spw_storei "spw_store" (int32_t *p, int32_t v)
    uint32_t spw_swap32 "spw_swap" (uint32_t *p, uint32_t v)
    void spw_fence()
    int spw_cas(uint64_t *p, uint64_t expected, uint64_t desired)

# Record kinds, both lanes.
DATA = 0
CANCEL = 1
ERROR = 2

MAX_WINDOW = SPW_MAX_WINDOW
CONTEXTS = SPW_CONTEXTS
COUNTERS = SPW_COUNTERS
INLINE = SPW_INLINE

# The longest header and body together: what a lane has address room for, less a page or two for rounding.
cdef uint64_t LONGEST = SPW_EXTENT_ROOM - 65536
MOST_BYTES = LONGEST  # of a message

cdef enum:
    FRESH = 16 * 1024  # bytes from which a look for used memory costs less than the faults of fresh pages
    NOGIL_COPY = 64 * 1024  # copies from here on let other threads run; below, letting go costs more than the copy


cdef extern from *:
    """
    #ifdef __linux__
    #define SPW_EVENTFD 1
    #else
    #define SPW_EVENTFD 0
    #endif
    """
    enum: SPW_EVENTFD


cdef inline void _copy(char *to, const char *source, size_t length) noexcept:
    if length < NOGIL_COPY:
        memcpy(to, source, length)
    else:
        with nogil:
            memcpy(to, source, length)


cdef inline void _ring_bell(int fd) noexcept nogil:
    """Make an eventfd (or a pipe, where there is none) readable. A full one is readable already."""
    cdef uint64_t one = 1
    if fd >= 0:
        while write(fd, &one, 8) < 0 and errno == EINTR:
            pass


cdef inline bint _hush_bell(int fd) noexcept nogil:
    """Make it unreadable: one read empties an eventfd, other bells are read until nothing is left. True: it had rung."""
    cdef uint64_t sink
    cdef bint rang = False
    while True:
        if read(fd, &sink, 8) < 0:
            if errno == EINTR:
                continue
            return rang
        rang = True
        if SPW_EVENTFD:
            return rang
