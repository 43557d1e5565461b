# What is on its way to each pipe: for those who reply, and want a peer that does not read to hold up nobody but itself.

cdef enum:
    READY_LIMIT = 64    # messages that may be on their way to a pipe which takes what it gets
    IDLE_WAYS = 256     # pipes that are remembered before those without a message are forgotten


cdef class _Way:
    """The tickets of one pipe, oldest first."""

    cdef uint32_t pipe
    cdef uint64_t *tickets
    cdef uint32_t first, count, room

    def __dealloc__(self):
        free(self.tickets)

    cdef int append(self, uint64_t ticket) except -1:
        cdef uint64_t *tickets
        if self.first + self.count == self.room:
            if self.first > self.room // 2:
                memmove(self.tickets, self.tickets + self.first, self.count * sizeof(uint64_t))
                self.first = 0
            else:
                tickets = <uint64_t *>realloc(self.tickets, max(2 * self.room, <uint32_t>16) * sizeof(uint64_t))
                if tickets == NULL:
                    raise MemoryError()
                self.tickets, self.room = tickets, max(2 * self.room, <uint32_t>16)
        self.tickets[self.first + self.count] = ticket
        self.count += 1
        return 0


@cython.no_gc_clear
cdef class Ways:
    """The windows of all pipes in one lane.

    `queue_length` (WRITEQ-LEN): messages that may be on their way to a pipe that does not take them. One that does is
    not waited for, as mangos' hand-off is not.
    """

    cdef readonly Sender tx
    cdef public uint32_t queue_length
    cdef dict ways
    cdef _Way last

    def __cinit__(self, Sender tx not None):
        self.tx, self.ways = tx, {}

    def __len__(self):
        return len(self.ways)

    cdef _Way way(self, uint32_t pipe):
        cdef _Way way = self.last
        if way is None or way.pipe != pipe:
            way = self.ways.get(pipe)
            if way is None:
                if len(self.ways) >= IDLE_WAYS:
                    self.forget_idle()
                way = _Way.__new__(_Way)
                way.pipe = pipe
                self.ways[pipe] = way
            self.last = way
        return way

    cdef int forget_idle(self) except -1:
        cdef _Way way
        cdef list idle = []
        for way in self.ways.values():
            self.forget_gone(way)
            if way.count == 0:
                idle.append(way.pipe)
        for pipe in idle:
            del self.ways[pipe]
        self.last = None
        return 0

    cdef void forget_gone(self, _Way way) noexcept:
        while way.count and producer_state(&self.tx.side, way.tickets[way.first]) == SPW_FREE:
            way.first += 1
            way.count -= 1
        if way.count == 0:
            way.first = 0

    cdef bint full(self, _Way way) noexcept:
        cdef uint32_t limit = READY_LIMIT
        if way.count and self.tx.segment.region.is_congested(way.pipe):
            limit = 1
        if way.count < max(limit, self.queue_length):
            return False
        self.forget_gone(way)
        return way.count >= max(limit, self.queue_length)

    def send(self, body, bytes header not None, uint32_t pipe, uint32_t tag=0):
        """Publish a message that is for this pipe, with `tag` as its record's pipe. False: there is no room now."""
        cdef _Way way = self.way(pipe)
        cdef uint64_t ticket
        if self.full(way):
            return False
        ticket = self.tx.post(body, header, tag)
        if ticket == 0:
            return False
        way.append(ticket)
        return True

    def oldest(self, uint32_t pipe):
        """The ticket whose end makes room in this pipe's window; 0: there is room in it."""
        cdef _Way way = self.way(pipe)
        return way.tickets[way.first] if self.full(way) else 0
