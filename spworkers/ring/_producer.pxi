# The writing end of a lane, and the user's sender.

cdef enum:
    MANY = 16  # messages on their way, from which on half of them keep the other side busy while a sender wakes


cdef int _check_length(uint64_t total) except -1:
    if total > LONGEST:
        raise BadValueError(f"a message of {total} bytes is more than the {LONGEST} that a lane can hold: send it in parts")
    return 0


cdef void _extent_freed(void *region, uint64_t offset, uint64_t length) noexcept nogil:
    cdef int fd = (<int *>region)[0]
    _punch(fd, offset, length)


@cython.no_gc_clear
cdef class Producer:
    """The writing end of a lane."""

    cdef readonly Segment segment
    cdef spw_producer side
    cdef int region_fd

    cdef int open(self, Segment segment, int which) except -1:
        self.segment = segment
        self.region_fd = segment.region.fd
        segment.lane(which, &self.side.lane)
        self.side.budget = segment.region.budget
        arena_begin(&self.side.blocks, self.side.lane.arena_size)
        if not producer_adopt(&self.side):
            raise MemoryError("no memory for the private half of a ring")
        self.empty_extents()
        return 0

    cdef void empty_extents(self) noexcept:
        """Give back what a predecessor, killed between a slot and its extent, left between the extents that live."""
        cdef spw_producer *p = &self.side
        cdef uint64_t at = p.lane.extent_at, end = p.lane.extent_at + p.lane.extent_size, nearest
        cdef spw_holding *held
        cdef spw_holding *first
        cdef uint32_t i
        while at < end:
            nearest, first = end, NULL
            for i in range(p.out_count):
                held = &p.holding[p.out[i]]
                if held.klass == SPW_EXTENT and held.offset + held.block > at and held.offset < nearest:
                    nearest, first = held.offset, held
            if nearest > at:
                _punch(self.region_fd, at, nearest - at)
            if first == NULL:
                return
            at = first.offset + first.block

    def __dealloc__(self):
        producer_end(&self.side)

    cdef void sweep(self) noexcept:
        cdef spw_goal everything
        everything.live, everything.bytes, everything.all = 0, 0, True
        producer_sweep(&self.side, everything, _extent_freed, &self.region_fd)

    cdef void sweep_until(self, uint32_t live, uint64_t bytes_) noexcept:
        cdef spw_goal goal
        goal.live, goal.bytes, goal.all = live, bytes_, False
        producer_sweep(&self.side, goal, _extent_freed, &self.region_fd)

    cdef bint window_open(self) noexcept:
        cdef uint32_t window = spw_load32(&self.side.lane.control.window)
        if self.side.live < window:
            return True
        if not window:
            return False
        window += min(spw_load32(&self.side.lane.control.under_way), <uint32_t>SPW_MAX_WINDOW)
        if producer_stale(&self.side):
            self.sweep_until(window - 1, ARENA_NONE)
        return self.side.live < window

    cdef bint budget_open(self, uint64_t total) noexcept:
        if total <= SPW_INLINE:
            return True
        if total > LONGEST:
            return True  # trying says why not
        if total > self.side.budget:
            if producer_stale(&self.side):
                self.sweep()
            return producer_extent(&self.side, _page_up(total)) != ARENA_NONE
        if self.side.bytes + total <= self.side.budget:
            return True
        if producer_stale(&self.side):
            self.sweep_until(SPW_SLOTS, self.side.budget - total)
        return self.side.bytes + total <= self.side.budget or self.side.bytes == 0

    cdef bint slot_open(self) noexcept:
        """A place in the index and a slot are to be had (they run out only through leases and taken-back records)."""
        cdef spw_producer *p = &self.side
        if not producer_index_room(p):
            return False
        if p.free_count == 0 and p.high >= SPW_SLOTS and producer_stale(p):
            self.sweep()
        return p.free_count != 0 or p.high < SPW_SLOTS

    cdef int64_t begin(self, uint64_t total) except -2:
        """A slot with room for `total` bytes, in state WRITING; -1: no memory to be had now."""
        cdef spw_producer *p = &self.side
        cdef uint32_t slot
        cdef spw_slot *s
        if p.free_count == 0 and producer_slots_stale(p):
            self.sweep()
        if not producer_index_room(p) or not producer_slot(p, &slot):
            return -1
        s = &p.lane.slots[slot]
        p.holding[slot].klass = SPW_NO_BLOCK
        p.holding[slot].block = 0
        p.holding[slot].counted = 1
        s.offset = 0
        s.block = 0
        if total > SPW_INLINE:
            if not self.find_block(slot, total):
                p.free_slots[p.free_count] = slot
                p.free_count += 1
                return -1
            s.offset = p.holding[slot].offset
            s.block = p.holding[slot].block
        spw_store(&s.state, spw_word(spw_generation_of(s.state) + 1, SPW_WRITING))
        p.out[p.out_count] = slot
        p.out_count += 1
        p.live += 1
        return slot

    cdef bint find_block(self, uint32_t slot, uint64_t total) noexcept:
        cdef spw_producer *p = &self.side
        cdef uint32_t klass = arena_class(total)
        cdef uint64_t at = ARENA_NONE
        if total <= p.budget:
            # Pages that were used before are mapped, and perhaps in the cache; new ones cost a fault each, on both sides.
            if total >= FRESH and not arena_warm(&p.blocks, klass) and producer_stale(p):
                self.sweep()
            at = arena_take(&p.blocks, klass)
            if at == ARENA_NONE:
                self.sweep()
                producer_compact(p)
                at = arena_take(&p.blocks, klass)
        if at != ARENA_NONE:
            p.holding[slot].offset = p.lane.arena_at + at
            p.holding[slot].block = arena_class_size(klass)
            p.holding[slot].klass = klass
            p.bytes += p.holding[slot].block
            return True
        self.sweep()
        at = producer_extent(p, _page_up(total))
        if at == ARENA_NONE:
            return False
        p.holding[slot].offset = at
        p.holding[slot].block = _page_up(total)
        p.holding[slot].klass = SPW_EXTENT
        return True

    cdef int fill(self, uint32_t slot, const char *one, size_t one_length, const char *two, size_t two_length,
                  const char *three, size_t three_length) except -1:
        """Write the payload, in up to three parts."""
        cdef size_t total = one_length + two_length + three_length
        cdef uint64_t offset = self.side.holding[slot].offset
        cdef char *to
        cdef void *extent = NULL
        cdef size_t size = 0
        if self.side.holding[slot].klass == SPW_NO_BLOCK:
            to = <char *>self.side.lane.slots[slot].payload
        elif self.side.holding[slot].klass == SPW_EXTENT:
            size = _page_up(total)
            extent = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, self.region_fd, offset)
            if extent == MAP_FAILED:
                self.abandon(slot)
                raise MemoryError(f"cannot map a body of {total} bytes")
            to = <char *>extent
        else:
            to = self.segment.address(offset)
        if one_length:
            memcpy(to, one, one_length)
        if two_length:
            memcpy(to + one_length, two, two_length)
        if three_length:
            _copy(to + one_length + two_length, three, three_length)
        if extent != NULL:
            munmap(extent, size)
        return 0

    cdef void abandon(self, uint32_t slot) noexcept:
        cdef spw_slot *s = &self.side.lane.slots[slot]
        spw_store(&s.state, spw_word(spw_generation_of(s.state), SPW_FREE))
        self.sweep()

    cdef uint64_t finish(self, uint32_t slot, uint64_t length, uint32_t header_length, uint32_t pipe, uint64_t serial,
                         uint32_t kind, uint32_t flags) noexcept:
        cdef spw_slot *s = &self.side.lane.slots[slot]
        s.kind, s.flags, s.pipe, s.header_length = kind, flags, pipe, header_length
        s.serial, s.length = serial, length
        cdef uint64_t ticket = producer_publish(&self.side, slot)
        self.tell_consumer()
        return ticket

    cdef void tell_consumer(self) noexcept:
        pass

    def revoke(self, uint64_t ticket):
        """Take a record back. True: it was not claimed, and never will be."""
        if self.segment.region.pid != getpid():  # in a forked child it is its parent's
            return False
        return producer_revoke(&self.side, ticket) != 0

    def state(self, uint64_t ticket):
        """0: gone; 2: published; 3: claimed; 4: leased."""
        return producer_state(&self.side, ticket)

    @property
    def window(self):
        """Messages that the lane takes before a sender must wait."""
        return spw_load32(&self.side.lane.control.window)

    @window.setter
    def window(self, n):
        if not 0 <= n <= SPW_MAX_WINDOW:
            raise BadValueError(f"a queue holds at most {SPW_MAX_WINDOW} messages, not {n}")
        spw_store32(&self.side.lane.control.window, n)

    @property
    def queued(self):
        """Messages in the lane that were not released yet."""
        self.sweep()
        return self.side.live

    @property
    def bytes(self):
        """Bytes of the arena in use."""
        self.sweep()
        return self.side.bytes

    @property
    def demand(self):
        return <uint32_t>spw_load(&self.side.lane.control.demand)


cdef class Sender(Producer):
    """The user's end of lane 0 (user → I/O process).

    `bell`: this context's send bell (eventfd), which rings when there is room again or a hand-off was taken.
    """

    cdef readonly int bell, io_bell
    cdef public bint hushed  # arming silenced a ring that other sleepers may have waited for; who acts on it resets it
    cdef readonly bint retired  # another process is the producer of this lane now

    def __cinit__(self, Segment segment not None, int bell, int io_bell):
        self.open(segment, 0)
        self.bell, self.io_bell = bell, io_bell

    cdef void tell_consumer(self) noexcept:
        _ring_board(self.segment.region.board, self.segment.index, self.io_bell)

    def unhook(self, bint own=False):
        """The I/O process's bell is closed (`own`: ours too): ring it no more."""
        self.io_bell = -1
        if own:
            self.bell = -1

    def publish(self, body, bytes header not None=b"", uint32_t pipe=0, uint64_t serial=0, uint32_t kind=0, bint force=False):
        """Put a message into the lane. Returns its ticket; 0: no room (window or byte budget).

        `body`: any contiguous buffer, copied once. `force` passes over the window, not over the budget.
        """
        return self.post(body, header, pipe, serial, kind, force)

    def send(self, body, bytes header not None, /):
        """`publish`, for who does not want the ticket: whether there was room."""
        return self.post(body, header, 0) != 0

    cdef uint64_t post(self, body, bytes header, uint32_t pipe, uint64_t serial=0, uint32_t kind=0, bint force=False) except? 0:
        cdef Py_buffer view
        cdef int64_t slot
        cdef Py_ssize_t header_length = PyBytes_GET_SIZE(header)
        if not force and not self.window_open():
            return 0
        if PyBytes_CheckExact(body):  # needs no buffer's bookkeeping
            view.buf, view.len = PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
            slot = self.place(PyBytes_AS_STRING(header), header_length, &view)
            return 0 if slot < 0 else self.finish(slot, view.len + header_length, header_length, pipe, serial, kind, 0)
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            slot = self.place(PyBytes_AS_STRING(header), header_length, &view)
            return 0 if slot < 0 else self.finish(slot, view.len + header_length, header_length, pipe, serial, kind, 0)
        finally:
            PyBuffer_Release(&view)

    cdef int64_t place(self, const char *header, size_t header_length, Py_buffer *body) except -2:
        """A slot with this payload, to be finished or abandoned; -1: no room."""
        cdef int64_t slot
        cdef size_t total = body.len + header_length
        _check_length(total)
        if self.retired or not self.budget_open(total):
            return -1
        slot = self.begin(total)
        if slot >= 0:
            self.fill(slot, header, header_length, NULL, 0, <char *>body.buf, body.len)
        return slot

    def reserve(self, size_t size, bytes header not None=b"", uint32_t pipe=0, uint64_t serial=0, bint force=False):
        """A block to write a body of `size` bytes into; None: no room."""
        cdef int64_t slot
        cdef size_t total
        _check_length(size)  # by itself: the sum may wrap
        total = size + PyBytes_GET_SIZE(header)
        _check_length(total)
        if self.retired or (not force and not self.window_open()) or not self.budget_open(total):
            return None
        slot = self.begin(total)
        if slot < 0:
            return None
        cdef Reservation made = Reservation.__new__(Reservation)
        made.begin(self, slot, size, header, pipe, serial)
        return made

    def retire(self):
        """Begin no message any more: another process is to be the producer. False: one is half written (a reservation,
        or another thread's), and we are the producer still."""
        cdef uint32_t i
        for i in range(self.side.out_count):
            if spw_state_of(spw_load(&self.side.lane.slots[self.side.out[i]].state)) == SPW_WRITING:
                return False
        self.retired = True
        return True

    cdef void waits(self, uint32_t wish=SPW_HURRIED) noexcept:
        """The first half of every arming; then look again."""
        if _hush_bell(self.bell):  # always: a ring may have come after the flag was taken (tests/model: HUSH_ONCE)
            self.hushed = True
        spw_store32(&self.side.lane.control.producer_waits, wish)
        spw_fence()

    def arm(self, uint64_t size=0, bint force=False, bint calmly=False):
        """Say that we are about to wait for room. True: there is room for `size` bytes now, or the lane was closed.

        `calmly`: where many messages are on their way, to be told when half of them are gone, not for the first. Nobody may
        sleep long on that: what is left of them may never go.
        """
        cdef spw_control *control = self.side.lane.control
        if calmly and self.side.out_count >= MANY and spw_load32(&control.producer_waits) != SPW_HURRIED:
            spw_put(&control.enough, spw_load(&control.releases) + self.side.out_count // 2)
            self.waits(SPW_COUNTING)
        else:
            self.waits()
        if spw_load32(&self.side.lane.control.closed) or (
                (force or self.window_open()) and self.budget_open(size) and self.slot_open()):
            self.wake()
            return True
        return False

    def arm_for(self, uint64_t ticket, bint gone=False):
        """Say that we are about to wait until this record is claimed (`gone`: given back). True: it is."""
        self.waits()
        cdef uint32_t state = producer_state(&self.side, ticket)
        if state == SPW_FREE or (state != SPW_PUBLISHED and not gone) or spw_load32(&self.side.lane.control.closed):
            self.wake()
            return True
        return False

    def wake(self):
        """Wake everybody who waits on the bell."""
        spw_swap32(&self.side.lane.control.producer_waits, SPW_NOBODY)
        _ring_bell(self.bell)

    def close(self):
        """Mark the lane closed and wake whoever waits on it here."""
        spw_store32(&self.side.lane.control.closed, 1)
        self.wake()

    @property
    def closed(self):
        return spw_load32(&self.side.lane.control.closed) != 0


@cython.no_gc_clear
cdef class Reservation:
    """A block of shared memory that the user writes a body into: `memoryview(reservation)`; then commit or abort."""

    cdef Sender sender
    cdef uint32_t slot, pipe
    cdef size_t size, header_length
    cdef uint64_t serial
    cdef char *at
    cdef void *extent
    cdef size_t extent_size
    cdef int exports
    cdef bint open

    def __init__(self):
        raise TypeError("a Reservation comes from Sender.reserve()")

    cdef int begin(self, Sender sender, uint32_t slot, size_t size, bytes header, uint32_t pipe, uint64_t serial) except -1:
        cdef spw_producer *p = &sender.side
        self.sender, self.slot, self.size, self.pipe, self.serial = sender, slot, size, pipe, serial
        self.header_length = PyBytes_GET_SIZE(header)
        if p.holding[slot].klass == SPW_NO_BLOCK:
            self.at = <char *>p.lane.slots[slot].payload
        elif p.holding[slot].klass == SPW_EXTENT:
            self.extent_size = _page_up(size + self.header_length)
            self.extent = mmap(NULL, self.extent_size, PROT_READ | PROT_WRITE, MAP_SHARED, sender.region_fd, p.holding[slot].offset)
            if self.extent == MAP_FAILED:
                self.extent = NULL
                sender.abandon(slot)
                raise MemoryError(f"cannot map a body of {size} bytes")
            self.at = <char *>self.extent
        else:
            self.at = sender.segment.address(p.holding[slot].offset)
        memcpy(self.at, PyBytes_AS_STRING(header), self.header_length)
        self.open = True
        return 0

    @property
    def live(self):
        """Neither committed nor aborted yet."""
        return self.open

    def __getbuffer__(self, Py_buffer *view, int flags):
        if not self.open:
            raise BufferError("this reservation was sent or given up already")
        PyBuffer_FillInfo(view, self, self.at + self.header_length, self.size, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    cdef int end(self) except -1:
        if not self.open:
            raise BufferError("this reservation was sent or given up already")
        if self.exports:
            raise BufferError("a view of the reserved buffer is still in use; release it before the block ends")
        self.open = False
        if self.extent != NULL:
            munmap(self.extent, self.extent_size)
            self.extent = NULL
        return 0

    def commit(self):
        """Send it; returns the ticket."""
        self.end()
        return self.sender.finish(self.slot, self.size + self.header_length, self.header_length, self.pipe, self.serial, 0, 0)

    def abort(self):
        """Give the block back unsent."""
        self.end()
        self.sender.abandon(self.slot)

    def __dealloc__(self):
        if self.open and self.sender.segment.region.pid == getpid():
            self.sender.abandon(self.slot)
        if self.extent != NULL:
            munmap(self.extent, self.extent_size)
