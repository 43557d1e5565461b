@cython.no_gc_clear
cdef class Record:
    """One message in shared memory, popped by its consumer.

    Attributes: `kind` (DATA, CANCEL, ERROR), `pipe`, `serial`, `size` (bytes of the body), `header` (bytes).
    One that `next()` gave is unclaimed still, and revocable by its sender until `claim()`.
    """

    cdef Consumer owner
    cdef spw_taken taken
    cdef char *payload
    cdef void *extent       # an oversize body's own mapping
    cdef size_t extent_size
    cdef int users, exports
    cdef bint inherited     # a predecessor may have claimed it
    cdef bint claimed, leased
    cdef bint over          # given back: its slot is somebody else's

    def __init__(self):
        raise TypeError("a Record comes from Receiver.take(), Receiver.next() or Outlet.next()")

    @property
    def kind(self):
        return self.taken.kind

    @property
    def pipe(self):
        return self.taken.pipe

    @property
    def serial(self):
        return self.taken.serial

    @property
    def size(self):
        return self.taken.length - self.taken.header_length

    @property
    def by_demand(self):
        """It was sent because a receiver had announced itself."""
        return (self.taken.flags & SPW_BY_DEMAND) != 0

    @property
    def begun(self):
        """A predecessor had claimed it, and died before it was done."""
        cdef uint64_t word = spw_word(self.taken.generation, SPW_CLAIMED)
        return not self.claimed and spw_load(&self.owner.lane.slots[self.taken.slot].state) == word

    @property
    def header(self):
        if self.taken.header_length == 0:
            return b""
        return PyBytes_FromStringAndSize(self.data(), self.taken.header_length)

    def __repr__(self):
        state = "claimed" if self.claimed else "unclaimed"
        return f"<Record {self.taken.slot}: {self.size} bytes, serial {self.taken.serial}, {state}, {self.users} users>"

    cdef char *data(self) except NULL:
        """Where the payload (header ‖ body) lies."""
        if self.over:
            raise InternalError(f"{self!r} was given back already: its memory may hold another message")
        if self.payload != NULL:
            return self.payload
        cdef spw_lane *lane = &self.owner.lane
        cdef uint64_t offset = self.taken.offset
        if offset == 0:
            self.payload = <char *>lane.slots[self.taken.slot].payload
        elif offset < lane.extent_at:
            self.payload = self.owner.segment.address(offset)
        else:
            self.extent_size = _page_up(self.taken.length)
            self.extent = mmap(NULL, self.extent_size, PROT_READ | PROT_WRITE, MAP_SHARED, self.owner.segment.region.fd, offset)
            if self.extent == MAP_FAILED:
                self.extent = NULL
                raise MemoryError(f"cannot map a body of {self.taken.length} bytes")
            self.payload = <char *>self.extent
        return self.payload

    def claim(self):
        """Take it for good. False: its sender took it back meanwhile."""
        if not self.claimed:
            if self.over or not consumer_claim(&self.owner.lane, self.taken.slot, self.taken.generation, self.inherited):
                return False
            self.claimed = True
            self.users += 1
            self.owner.tell_producer()  # its sender may wait for the hand-off
        return True

    def retain(self):
        """One more user."""
        self.users += 1

    def release(self):
        """One user fewer; the last one gives the slot back."""
        self.drop()

    cdef int drop(self) except -1:
        if self.users <= 0:
            raise InternalError(f"{self!r} was released more often than retained")
        self.let_go()
        return 0

    cdef void let_go(self) noexcept:
        """`drop`, of one that may have been given back already."""
        if self.users > 0:
            self.users -= 1
            if self.users == 0:
                self.finish()

    cdef void finish(self) noexcept:
        """Give the slot back, unless a lease still reads it."""
        if self.exports or not self.claimed:
            return
        self.claimed = False
        self.over = True
        consumer_free(&self.owner.lane, self.taken.slot, self.taken.generation)
        self.payload = NULL
        self.owner.gave_back()
        if self.extent != NULL:
            munmap(self.extent, self.extent_size)
            self.extent = NULL

    cdef void unpin(self) noexcept:
        """One reader of the memory fewer: a view, or a copy that let other threads run."""
        self.exports -= 1
        # In a child that the user forked the slot is the parent's business.
        if self.users <= 0 and self.exports == 0 and self.owner.segment.region.pid == getpid():
            self.finish()

    def body(self):
        """The body as bytes."""
        cdef size_t length = self.taken.length - self.taken.header_length
        cdef char *source = self.data() + self.taken.header_length
        if length < NOGIL_COPY:
            return PyBytes_FromStringAndSize(source, length)
        body = PyBytes_FromStringAndSize(NULL, length)
        cdef char *to = PyBytes_AS_STRING(body)
        self.exports += 1
        with nogil:
            memcpy(to, source, length)
        self.unpin()
        return body

    def take_body(self):
        """The body as bytes, and the record given back."""
        body = self.body()
        self.drop()
        return body

    def beginning(self, size_t most):
        """The first bytes of the body. Of a record that is not claimed they are those of another one, perhaps."""
        cdef size_t length = self.taken.length - self.taken.header_length
        return PyBytes_FromStringAndSize(self.data() + self.taken.header_length, min(length, most))

    def payload_bytes(self):
        """Header and body together, as they go on the wire."""
        return PyBytes_FromStringAndSize(self.data(), self.taken.length)

    def copy_into(self, buffer):
        """Copy the body into a writable buffer; returns its length. TooLongError when it does not fit."""
        cdef Py_buffer view
        cdef size_t length = self.taken.length - self.taken.header_length
        cdef char *source
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            source = self.data() + self.taken.header_length
            if <size_t>view.len < length:
                raise TooLongError(f"a message of {length} bytes does not fit a buffer of {view.len}; give recv_into a larger one")
            self.exports += 1
            _copy(<char *>view.buf, source, length)
            self.unpin()
        finally:
            PyBuffer_Release(&view)
        return length

    def view(self):
        """A read-only memoryview of the body, without a copy. It pins its block until it is released.

        The record's place in the window is free from now on; `release()` as usual ends our use, the view's own
        release (or its garbage collection) ends the lease.
        """
        cdef uint64_t word = spw_word(self.taken.generation, SPW_CLAIMED)
        self.data()
        if not self.leased and self.claimed:
            self.leased = True
            spw_cas(&self.owner.lane.slots[self.taken.slot].state, word, spw_word(self.taken.generation, SPW_LEASED))
            self.owner.counted_back()
        return memoryview(self)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if not self.claimed:
            raise BufferError("this message was given back already")
        PyBuffer_FillInfo(view, self, self.data() + self.taken.header_length,
                          self.taken.length - self.taken.header_length, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.unpin()

    def __dealloc__(self):
        if self.claimed and self.users > 0 and self.owner.segment.region.pid == getpid():
            self.finish()
        if self.extent != NULL:
            munmap(self.extent, self.extent_size)
