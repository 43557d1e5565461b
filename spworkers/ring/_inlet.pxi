# The I/O process's writing end: bodies that land in their blocks, bells that are rung once for many.

cdef class Inlet


@cython.no_gc  # making one must run no finalizer: a reader's scratch is full then
cdef class Landing:
    """A body that is read from the network straight into its block of a receive lane.

    It stands where its bytes would in a list of payloads: `Inlet.offer_all` publishes it.
    """

    cdef Inlet inlet  # None: it is over
    cdef uint32_t slot
    cdef readonly size_t size
    cdef char *at

    def __init__(self):
        raise TypeError("a Landing comes from Inlet.land()")

    def __len__(self):
        return self.size

    def take_back(self):
        """The body in bytes, for who has to look at it; the block is free again."""
        cdef bytes body
        if self.inlet is None:
            raise InternalError("this body was delivered, or taken back, already")
        body = PyBytes_FromStringAndSize(self.at, self.size)
        self.end()
        return body

    cdef bint settle(self, uint32_t pipe) except -1:
        """Publish it. False: there is no room for it, or demand."""
        cdef Inlet inlet = self.inlet
        cdef spw_producer *p
        cdef int flags
        if inlet is None:
            raise InternalError("this body was delivered, or taken back, already")
        p = &inlet.side
        flags = inlet.admits(self.size, False)
        if flags < 0:
            return False
        if not producer_index_room(p):
            inlet.demand_again(flags)
            return False
        inlet.take_off(self.slot)
        p.holding[self.slot].counted = 1
        p.live += 1
        inlet.finish(self.slot, self.size, 0, pipe, 0, 0, flags)
        self.inlet = None
        return True

    cdef void end(self) noexcept:
        cdef Inlet inlet = self.inlet
        self.inlet = None
        inlet.take_off(self.slot)
        inlet.abandon(self.slot)

    def __dealloc__(self):
        if self.inlet is not None and self.inlet.segment.region.pid == getpid():
            self.end()


cdef enum:
    OWED = 32  # lanes that a ring is owed to at a time
    OWING = 16  # messages after which nobody is kept waiting any more

cdef struct spw_bells:
    int held  # by how many
    int count, messages
    PyObject *owed[OWED]

cdef spw_bells _bells


def hold_bells():
    """Ring nobody until `free_bells`, or for a number of messages: a batch of them is about to be delivered.

    Who is woken by the first of them takes the processor from who delivers the others, and sleeps again after each.
    """
    _bells.held += 1


def free_bells():
    """Ring for those who got something meanwhile and sleep. As often as `hold_bells` was called."""
    _release_bells()


cdef void _release_bells() noexcept:
    _bells.held -= 1
    if not _bells.held:
        _ring_owed()


cdef bint _owe(Inlet inlet) noexcept:
    """Ring for it later. False: not this time."""
    _bells.messages += 1
    if _bells.messages > OWING or _bells.count == OWED:
        _ring_owed()
        return False
    if not inlet.owed:
        inlet.owed = True
        Py_INCREF(inlet)
        _bells.owed[_bells.count] = <PyObject *>inlet
        _bells.count += 1
    return True


cdef void _ring_owed() noexcept:
    cdef int i
    cdef Inlet inlet
    for i in range(_bells.count):
        inlet = <Inlet>_bells.owed[i]
        inlet.owed = False
        inlet.ring_sleeper()
        Py_DECREF(inlet)
    _bells.count = _bells.messages = 0


cdef class Inlet(Producer):
    """The I/O process's end of lane 1 (I/O process → user). `bell`: the context's receive bell."""

    cdef readonly int bell
    cdef bint owed  # a ring, when the bells are free again
    cdef uint64_t landing  # bytes of the arena in blocks that bodies are read into; not in `bytes`

    def __cinit__(self, Segment segment not None, int bell):
        self.open(segment, 1)
        self.bell = bell
        # Receivers that sleep announced themselves to the predecessor, whose epoch is over now.
        if spw_swap32(&self.side.lane.control.consumer_waits, 0):
            _ring_bell(bell)

    cdef void tell_consumer(self) noexcept:
        if not _bells.held or not _owe(self):
            self.ring_sleeper()

    cdef void ring_sleeper(self) noexcept:
        spw_fence()
        if spw_load32(&self.side.lane.control.consumer_waits) and spw_swap32(&self.side.lane.control.consumer_waits, 0):
            _ring_bell(self.bell)

    def offer(self, bytes prefix not None, bytes payload not None, size_t header_length, uint32_t pipe, uint64_t serial, uint32_t kind=0,
              bint force=False):
        """Deliver a message: header = prefix ‖ payload[:header_length], body = the rest.

        Returns its ticket; 0: neither room in the window nor demand, or no room in the byte budget.
        `force` passes over the window (for errors that must arrive).
        """
        cdef size_t before = PyBytes_GET_SIZE(prefix), length = PyBytes_GET_SIZE(payload)
        cdef int64_t slot
        cdef int flags
        if header_length > length:
            raise InternalError(f"a header of {header_length} bytes in a message of {length}")
        flags = self.admits(before + length, force)
        if flags < 0:
            return 0
        try:
            slot = self.begin(before + length)
            if slot >= 0:
                self.fill(slot, PyBytes_AS_STRING(prefix), before, NULL, 0, PyBytes_AS_STRING(payload), length)
        except:
            self.demand_again(flags)
            raise
        if slot < 0:
            self.demand_again(flags)
            return 0
        return self.finish(slot, before + length, before + header_length, pipe, serial, kind, flags)

    cdef int admits(self, uint64_t total, bint force) noexcept:
        """The flags of a message that may be delivered now; -1: no room in the budget, or neither in the window nor demand."""
        if not self.budget_open(total):
            return -1
        if force or self.window_open():
            return 0
        return SPW_BY_DEMAND if producer_take_demand(&self.side) else -1

    cdef bint put(self, const char *payload, size_t length, uint32_t pipe) except -1:
        """Deliver a message without a header, and tell nobody of it. False: there is no room for it, or demand."""
        cdef int flags = self.admits(length, False)
        cdef int64_t slot
        cdef spw_slot *s
        if flags < 0:
            return False
        slot = self.begin(length)
        if slot < 0:
            self.demand_again(flags)
            return False
        self.fill(slot, NULL, 0, NULL, 0, payload, length)
        s = &self.side.lane.slots[slot]
        s.kind, s.flags, s.pipe, s.header_length = 0, flags, pipe, 0
        s.serial, s.length = 0, length
        producer_publish(&self.side, slot)
        return True

    def offer_all(self, list payloads not None, Py_ssize_t begin, uint32_t pipe):
        """Deliver messages without headers, from `begin` on, as long as there is room. Returns where that ended.

        It does, in one call, what `offer(b"", payload, 0, pipe, 0)` does for each until one is not taken. A payload may
        be a Landing of ours, which is where it belongs already.
        """
        cdef Py_ssize_t taken = max(begin, 0), count = PyList_GET_SIZE(payloads)
        cdef object item
        cdef bytes payload
        cdef spw_slot *s
        cdef size_t length
        cdef int64_t slot
        if producer_stale(&self.side):
            self.sweep()  # all at once, rather than one for each message
        try:
            while taken < count:
                item = <object>PyList_GET_ITEM(payloads, taken)
                if not PyBytes_CheckExact(item):
                    if not (<Landing>item).settle(pipe):
                        break
                    taken += 1
                    continue
                payload = <bytes>item
                length = PyBytes_GET_SIZE(payload)
                if length <= SPW_INLINE and self.window_open():
                    slot = self.begin(length)
                    if slot < 0:
                        break
                    s = &self.side.lane.slots[slot]
                    memcpy(s.payload, PyBytes_AS_STRING(payload), length)
                    s.kind, s.flags, s.pipe, s.header_length = 0, 0, pipe, 0
                    s.serial, s.length = 0, length
                    producer_publish(&self.side, slot)
                elif not self.offer(b"", payload, 0, pipe, 0):
                    break
                taken += 1
        finally:
            if taken > begin:
                self.tell_consumer()
        return taken

    def land(self, size_t size):
        """See `landing_for`."""
        return self.landing_for(size)

    cdef Landing landing_for(self, size_t size):
        """A block that a body which is on its way can be read into; None: have it in bytes.

        It takes no place in the window and nothing of the budget until it is offered, so a peer that never finishes holds
        nobody up; that there is room for others all the same, no more than half a budget of the arena is given away so.
        """
        cdef spw_producer *p = &self.side
        cdef int64_t slot
        cdef Landing made
        if size <= SPW_INLINE or self.landing + size > p.budget / 2:
            return None
        made = Landing.__new__(Landing)
        slot = self.begin(size)
        if slot < 0:
            return None
        if p.holding[slot].klass == SPW_EXTENT:  # the arena is in pieces
            self.abandon(slot)
            return None
        p.holding[slot].counted = 0
        p.live -= 1
        p.bytes -= p.holding[slot].block
        self.landing += p.holding[slot].block
        made.inlet, made.slot, made.size = self, slot, size
        made.at = self.segment.address(p.holding[slot].offset)
        return made

    cdef void take_off(self, uint32_t slot) noexcept:
        """A landing's block becomes one like the others."""
        cdef uint64_t block = self.side.holding[slot].block
        self.landing -= block
        self.side.bytes += block

    cdef void demand_again(self, uint32_t flags) noexcept:
        """If a record with these flags took a demand, it did not meet it: it counts again."""
        cdef uint64_t demand
        while flags & SPW_BY_DEMAND:
            demand = spw_load(&self.side.lane.control.demand)
            if spw_cas(&self.side.lane.control.demand, demand, demand + 1):
                return

    def revoke(self, uint64_t ticket):
        """Take a delivery back. True: the user has not taken it; a demand that it answered counts again."""
        return self.take_back(ticket)

    cdef bint take_back(self, uint64_t ticket) noexcept:
        cdef spw_slot *s
        cdef uint32_t slot = <uint32_t>ticket & 0x7fffffff, flags
        if slot >= SPW_SLOTS:
            return False
        s = &self.side.lane.slots[slot]
        flags = s.flags
        if not producer_revoke(&self.side, ticket):
            return False
        self.demand_again(flags)
        return True

    def displace(self):
        """Take back the oldest message that nobody has taken. False: there is none."""
        return self.make_room()

    cdef bint make_room(self) noexcept:
        cdef spw_producer *p = &self.side
        cdef uint64_t at = producer_untaken(p), ticket
        while at != p.tail:
            p.oldest = at + 1
            if producer_waits(p, at, &ticket) and self.take_back(ticket):
                return True
            at += 1
        return False

    def untaken(self, size_t most):
        """What nobody has taken yet, oldest first: of each message its ticket and the first `most` bytes of its payload."""
        cdef spw_producer *p = &self.side
        cdef uint64_t at = producer_untaken(p), ticket
        cdef list found = []
        while at != p.tail:
            if producer_waits(p, at, &ticket):
                found.append((ticket, self.beginning(<uint32_t>ticket & 0x7fffffff, most)))
            at += 1
        return found

    cdef bytes beginning(self, uint32_t slot, size_t most):
        """The first bytes of a payload that we have written. Its length stands in shared memory, and is not believed."""
        cdef spw_holding *held = &self.side.holding[slot]
        cdef size_t room = SPW_INLINE if held.klass == SPW_NO_BLOCK else held.block
        cdef size_t length = min(min(<size_t>spw_peek(&self.side.lane.slots[slot].length), room), most)
        cdef void *extent
        if held.klass == SPW_NO_BLOCK:
            return PyBytes_FromStringAndSize(<char *>self.side.lane.slots[slot].payload, length)
        if held.klass != SPW_EXTENT:
            return PyBytes_FromStringAndSize(self.segment.address(held.offset), length)
        extent = mmap(NULL, room, PROT_READ, MAP_SHARED, self.region_fd, held.offset)
        if extent == MAP_FAILED:
            raise MemoryError(f"cannot map a body of {room} bytes")
        try:
            return PyBytes_FromStringAndSize(<char *>extent, length)
        finally:
            munmap(extent, room)

    def arm(self, uint64_t size=0):
        """Have the receiver ring when half of the window is free, or it announces itself. True: `size` bytes would go now.

        Not for each place: with a full window every message would cost a wake-up. Nobody is held up by that, the receiver
        has the other half to take; and where there is nothing to take any more, it rings (`nothing_left`).
        """
        spw_put32(&self.side.lane.control.producer_waits, SPW_PATIENT)
        spw_fence()
        if ((self.window_open() or <uint32_t>spw_load(&self.side.lane.control.demand) != 0)
                and self.budget_open(size) and self.slot_open()):
            spw_swap32(&self.side.lane.control.producer_waits, SPW_NOBODY)
            return True
        return False

    def close(self):
        """Mark the lane closed and wake whoever waits on it."""
        spw_store32(&self.side.lane.control.closed, 1)
        spw_swap32(&self.side.lane.control.consumer_waits, 0)
        _ring_bell(self.bell)
