# What a pool moves that a socket does not: a payload that lies in many places, many records at once, and a short look
# around before a sleep.

from cpython.list cimport PyList_GET_SIZE

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(__i386__)
    #define spw_relax() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define spw_relax() __asm__ __volatile__("yield" ::: "memory")
    #else
    #define spw_relax() __asm__ __volatile__("" ::: "memory")
    #endif
    """
    void _relax "spw_relax" () nogil

cdef extern from *:
    """
    #include <unistd.h>
    /* Have the system map memory that was never written to, all at once: page by page, at each page's first byte, took 1.5
       times as long for a mebibyte. Where it is mapped already nothing is to be done, as one page of it says. */
    static void spw_make_room(char *at, size_t length) {
    #if defined(__linux__)
        uintptr_t page = (uintptr_t)getpagesize(), start = ((uintptr_t)at + page - 1) & ~(page - 1);
        uintptr_t end = ((uintptr_t)at + length) & ~(page - 1), middle = (start + (end - start) / 2) & ~(page - 1);
        unsigned char there = 0;
        if (start < end && mincore((void *)middle, page, &there) == 0 && !(there & 1))
            madvise((void *)start, end - start, 23); /* MADV_POPULATE_WRITE, from Linux 5.14 on; else it fails */
    #else
        (void)at, (void)length;
    #endif
    }
    """
    void _make_room "spw_make_room" (char *at, size_t length) nogil

cdef extern from "Python.h":
    object PyByteArray_FromStringAndSize(const char *source, Py_ssize_t length)
    char *PyByteArray_AS_STRING(object made)

cdef enum:
    TAKEN_WHOLE = 32 * 1024  # bodies above are left where they lie: who wants them reads them there, without a copy


def gather(Producer lane not None, list parts not None, uint32_t header_length=0, uint32_t pipe=0, uint64_t serial=0,
           uint32_t kind=0):
    """Put one message into a lane whose payload is the concatenation of `parts`, each copied once.

    `parts`: contiguous buffers; the first `header_length` bytes are the header. Returns the ticket; 0: no room (window
    or byte budget).
    """
    cdef Py_ssize_t count = len(parts), opened = 0, i
    cdef uint64_t total = 0
    cdef Py_buffer *views
    if not lane.window_open():
        return 0
    views = <Py_buffer *>malloc((count + 1) * sizeof(Py_buffer))
    if views == NULL:
        raise MemoryError()
    try:
        for i in range(count):
            PyObject_GetBuffer(parts[i], &views[i], PyBUF_SIMPLE)
            opened += 1
            _check_length(views[i].len)
            total += views[i].len
            _check_length(total)
        if header_length > total:
            raise InternalError(f"a header of {header_length} bytes in a message of {total}")
        return _gather(lane, views, count, total, header_length, pipe, serial, kind)
    finally:
        for i in range(opened):
            PyBuffer_Release(&views[i])
        free(views)


cdef void _copy_out(char *to, Py_buffer *view) noexcept:
    if view.len < NOGIL_COPY:
        memcpy(to, view.buf, view.len)
    else:
        with nogil:
            _make_room(to, view.len)
            memcpy(to, view.buf, view.len)


def own_bytes(source):
    """What a buffer holds, as bytes of one's own."""
    cdef Py_buffer view
    PyObject_GetBuffer(source, &view, PyBUF_SIMPLE)
    try:
        made = PyBytes_FromStringAndSize(NULL, view.len)
        _copy_out(PyBytes_AS_STRING(made), &view)
        return made
    finally:
        PyBuffer_Release(&view)


def own_bytearray(source):
    """What a buffer holds, as bytes of one's own that can be written to."""
    cdef Py_buffer view
    PyObject_GetBuffer(source, &view, PyBUF_SIMPLE)
    try:
        made = PyByteArray_FromStringAndSize(NULL, view.len)
        _copy_out(PyByteArray_AS_STRING(made), &view)
        return made
    finally:
        PyBuffer_Release(&view)


cdef uint64_t _gather(Producer lane, Py_buffer *views, Py_ssize_t count, uint64_t total, uint32_t header_length,
                      uint32_t pipe, uint64_t serial, uint32_t kind) except? 0:
    cdef int64_t slot
    cdef char *to
    cdef void *extent = NULL
    cdef size_t size = 0
    cdef Py_ssize_t i
    if not lane.budget_open(total):
        return 0
    slot = lane.begin(total)
    if slot < 0:
        return 0
    if lane.side.holding[slot].klass == SPW_NO_BLOCK:
        to = <char *>lane.side.lane.slots[slot].payload
    elif lane.side.holding[slot].klass == SPW_EXTENT:
        size = _page_up(total)
        extent = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, lane.region_fd, lane.side.holding[slot].offset)
        if extent == MAP_FAILED:
            lane.abandon(slot)
            raise MemoryError(f"cannot map a body of {total} bytes")
        to = <char *>extent
    else:
        to = lane.segment.address(lane.side.holding[slot].offset)
    for i in range(count):
        _copy(to, <char *>views[i].buf, views[i].len)
        to += views[i].len
    if extent != NULL:
        munmap(extent, size)
    return lane.finish(slot, total, header_length, pipe, serial, kind, 0)


def drain(Outlet outlet not None, list into not None, Py_ssize_t limit):
    """Take up to `limit` records off a lane: `(kind, pipe, serial, body)` of each is appended to `into`.

    The body is bytes; of a record with a header, or a body of more than 32 KiB, it is the claimed Record, which the
    caller releases. Returns how many there were.
    """
    cdef Record record
    cdef Py_ssize_t taken = 0
    while taken < limit:
        record = outlet.pop()
        if record is None:
            break
        if not record.claim():
            continue
        taken += 1
        if record.taken.header_length or record.taken.length > TAKEN_WHOLE:
            into.append((record.taken.kind, record.taken.pipe, record.taken.serial, record))
        else:
            into.append((record.taken.kind, record.taken.pipe, record.taken.serial, record.take_body()))
    return taken


def spin_board(Region region not None, double seconds):
    """Look at the board again and again, without the GIL, for a short time. True: somebody rang."""
    cdef double deadline = _now() + seconds
    cdef spw_board *board = region.board
    cdef int word, turn
    cdef bint found = False
    with nogil:
        while not found:
            for turn in range(32):
                for word in range(SPW_CONTEXTS // 64):
                    if spw_peek(&board.bits[word]) != 0:
                        found = True
                _relax()
                if found:
                    break
            if _now() >= deadline:
                break
            sched_yield()
    return found


cdef inline uint64_t _nanoseconds() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + t.tv_nsec


@cython.no_gc_clear
cdef class Walk:
    """The items of a batch, one after the other, for `map(function, walk)`.

    Before each item it writes down, in memory that the parent reads, which one it is; and it pauses when the results so
    far are due. Looks at the clock are rare while items take little time.

    `items`: a list; `words`: a writable buffer of 64-bit words; `which`, `since`: those for the item's number and, if
    `since` is not negative, the moment at which it began; `limit`: nanoseconds after which results are due.
    """

    cdef list items
    cdef readonly Py_ssize_t index  # of the item in hand; -1: none yet
    cdef readonly bint paused
    cdef Py_ssize_t begun, look_at, step
    cdef uint64_t limit, resumed, looked
    cdef Py_buffer view
    cdef uint64_t *words
    cdef int which, since
    cdef bint open

    def __cinit__(self, list items not None, words, int which, int since, uint64_t limit):
        PyObject_GetBuffer(words, &self.view, PyBUF_WRITABLE)
        self.open = True
        if which < 0 or 8 * (max(which, since) + 1) > self.view.len:
            raise InternalError(f"no words {which} and {since} in {self.view.len} bytes")
        self.words = <uint64_t *>self.view.buf
        self.items, self.which, self.since, self.limit = items, which, since, limit
        self.index = -1
        self.step = 1
        self.resume()

    def __dealloc__(self):
        if self.open:
            PyBuffer_Release(&self.view)

    def resume(self):
        """The results were handed over."""
        self.paused = False
        self.begun = self.index + 1
        self.resumed = self.looked = _nanoseconds()
        self.look_at = self.begun + 1

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t following = self.index + 1
        cdef uint64_t now
        if self.paused or following >= PyList_GET_SIZE(self.items):
            raise StopIteration
        if following >= self.look_at:
            now = _nanoseconds()
            if now - self.resumed > self.limit and following > self.begun:
                self.paused = True
                raise StopIteration
            self.step = min(self.step * 2, 256) if now - self.looked < self.limit // 8 else max(self.step // 4, 1)
            self.looked = now
            self.look_at = following + self.step
        self.index = following
        spw_put(&self.words[self.which], <uint64_t>following)
        if self.since >= 0:
            spw_put(&self.words[self.since], _nanoseconds())
        return self.items[following]
