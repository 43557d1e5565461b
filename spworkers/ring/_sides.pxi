cdef enum:
    MANY = 16  # messages on their way, from which on half of them keep the other side busy while a sender wakes


@cython.no_gc_clear
cdef class Consumer:
    """The reading end of a lane."""

    cdef readonly Segment segment
    cdef spw_lane lane
    cdef list inherited

    cdef void open(self, Segment segment, int which) noexcept:
        self.segment = segment
        segment.lane(which, &self.lane)
        self.inherited = []

    def adopt(self):
        """Take over from a predecessor that died: its unfinished records come first. Returns how many there are."""
        cdef spw_unfinished *found = NULL
        cdef int64_t i, count = consumer_adopt(&self.lane, &found)
        cdef Record record
        if count < 0:
            raise MemoryError()
        self.inherited.clear()
        try:
            for i in range(count):
                record = self.make()
                if consumer_read(&self.lane, found[i].slot, found[i].generation, &record.taken):
                    record.inherited = True
                    self.inherited.append(record)
                elif consumer_claim(&self.lane, found[i].slot, found[i].generation, True):
                    spw_put(&self.lane.control.corrupt, self.lane.control.corrupt + 1)
                    consumer_free(&self.lane, found[i].slot, found[i].generation)
        finally:
            free(found)
        self.inherited.reverse()
        spw_store32(&self.lane.control.under_way, 0)  # the predecessor's pipes are gone
        self.tell_producer()
        return len(self.inherited)

    cdef inline Record make(self):
        cdef Record record = Record.__new__(Record)
        record.owner = self
        return record

    cdef Record pop(self):
        cdef Record record
        cdef int what
        if self.inherited and self.heir():
            return self.inherited.pop()
        if spw_load(&self.lane.control.head) == spw_load(&self.lane.control.tail):
            self.nothing_left()
            return None
        record = self.make()
        while True:
            what = consumer_next(&self.lane, &record.taken)
            self.tell_of_index_room()
            if what == SPW_GOT:
                return record
            if what == SPW_EMPTY:
                self.nothing_left()
                return None
            self.counted_back()

    cdef void nothing_left(self) noexcept:
        """What a patient producer waits for may have come about without a release: what was left was taken back."""
        if spw_load32(&self.lane.control.producer_waits) == SPW_PATIENT:
            self.tell_producer()

    cdef bint heir(self) noexcept:
        """Whether an inherited record comes next; those that their sender took back meanwhile are left out."""
        cdef Record record
        while self.inherited:
            record = <Record>self.inherited[len(self.inherited) - 1]
            if consumer_alive(&self.lane, record.taken.slot, record.taken.generation):
                return True
            self.inherited.pop()
            spw_put(&self.lane.control.skipped, self.lane.control.skipped + 1)
        return False

    cdef bint ready(self) noexcept:
        """Whether there is something to pop."""
        cdef bint found = self.heir() or consumer_ready(&self.lane)
        self.tell_of_index_room()
        return found

    cdef void gave_back(self) noexcept:
        """A slot is free again: tell the producer if it waits for one."""
        self.tell_producer()

    cdef void counted_back(self) noexcept:
        """A record stopped counting in the window though its slot is not free."""
        spw_store(&self.lane.control.releases, spw_peek(&self.lane.control.releases) + 1)
        self.tell_producer()

    cdef void tell_producer(self) noexcept:
        cdef uint32_t waits
        spw_fence()
        waits = spw_load32(&self.lane.control.producer_waits)
        if waits == SPW_NOBODY or (waits == SPW_PATIENT and self.plenty()) or (waits == SPW_COUNTING and self.too_few()):
            return
        self.tell_at_once()

    cdef bint too_few(self) noexcept:
        """A producer that is counting has not got back yet what it wants."""
        cdef spw_control *control = self.lane.control
        return <int64_t>(spw_peek(&control.releases) - spw_load(&control.enough)) < 0

    cdef void tell_at_once(self) noexcept:
        if spw_swap32(&self.lane.control.producer_waits, SPW_NOBODY):
            self.ring_producer()

    cdef inline void tell_of_index_room(self) noexcept:
        """The index was full: how many of its entries are messages still nobody knows, so even the patient are told."""
        if self.lane.crowded:
            self.lane.crowded = 0
            spw_fence()
            self.tell_at_once()

    cdef bint plenty(self) noexcept:
        """So much is left to take that a producer which is told later will not be late: it fills many places at once then.

        Asked after a place was freed, never before: with a window of one nobody would ask again.
        """
        return spw_load(&self.lane.control.tail) - spw_load(&self.lane.control.head) > spw_load32(&self.lane.control.window) / 2

    cdef void ring_producer(self) noexcept:
        pass

    @property
    def skipped(self):
        """Records that their sender took back before they were read."""
        return spw_load(&self.lane.control.skipped)

    @property
    def corrupt(self):
        """Records whose words made no sense: passed over."""
        return spw_load(&self.lane.control.corrupt)

    @property
    def closed(self):
        return spw_load32(&self.lane.control.closed) != 0


cdef class Receiver(Consumer):
    """The user's end of lane 1 (I/O process → user).

    `bell`: this context's receive bell (eventfd); `io_bell`: the I/O process's.
    """

    cdef readonly int bell, io_bell
    cdef public bint hushed  # arming silenced a ring that other sleepers may have waited for; who acts on it resets it
    cdef bint level  # the bell is watched from outside: keep it readable exactly while there is a message
    cdef bint called  # somebody rang to have us look for something else than a message
    cdef bint lit  # we have rung it, and nobody has silenced it since: it need not be rung again

    def __cinit__(self, Segment segment not None, int bell, int io_bell):
        self.open(segment, 1)
        self.bell, self.io_bell = bell, io_bell

    cdef void ring_producer(self) noexcept:
        _ring_board(self.segment.region.board, self.segment.index, self.io_bell)

    def unhook(self, bint own=False):
        """The I/O process's bell is closed (`own`: ours too), and its number another file's, perhaps: ring it no more.

        A lease may end, and give its block back, long after that.
        """
        self.io_bell = -1
        if own:
            self.bell = -1

    def take(self):
        """The next message, claimed; None: there is none."""
        return self.pop_claimed()

    def next(self):
        """The next message, popped but not claimed: until then it can be taken back; None: there is none."""
        cdef Record record = self.pop()
        if self.level:
            self.keep_level()
        return record

    def take_plain(self):
        """The body of the next message, whose record is given back, in one step; None: `take` has to see to it.

        That is so if there is none, and for whatever is more than a few bytes that nobody had to ask for: an answer may be
        of a question that counts no more.
        """
        cdef spw_taken taken
        if self.inherited or not consumer_next_plain(&self.lane, 0, &taken):
            return None
        cdef const char *payload = <const char *>self.lane.slots[taken.slot].payload
        try:
            return PyBytes_FromStringAndSize(payload + taken.header_length, taken.length - taken.header_length)
        finally:
            consumer_free(&self.lane, taken.slot, taken.generation)
            self.tell_of_index_room()
            self.tell_producer()
            if self.level:
                self.keep_level()

    def take_whole(self):
        """(serial, body, pipe) of the next message, whose record is given back; None: there is none."""
        cdef Record record = self.pop_claimed()
        if record is None:
            return None
        return record.taken.serial, record.take_body(), record.taken.pipe

    def take_for(self, dict waiting not None, list found not None):
        """Take all messages that have come. `found` gets (whoever waits for its serial, message) of each, in order.

        Those who wait are taken out of `waiting`. What nobody waits for is given back; returns how many those were. It is
        one step: a signal's handler that raises finds in `found` whatever was taken.
        """
        cdef Record record
        cdef int strays = 0
        while True:
            record = self.pop_claimed()
            if record is None:
                return strays
            who = waiting.pop(record.taken.serial, None)
            if who is None:
                record.drop()
                strays += 1
            else:
                found.append((who, record))

    cdef Record pop_claimed(self):
        cdef Record record
        while True:
            record = self.pop()
            if record is None:
                if self.level:
                    self.armed()  # what made the bell readable was taken back
                return None
            if consumer_claim(&self.lane, record.taken.slot, record.taken.generation, record.inherited):
                record.claimed = True
                record.users = 1
                if self.level:
                    self.keep_level()
                return record

    cdef void keep_level(self) noexcept:
        """A message was taken. While others are left the bell has rung, or is about to (tests/model/fileno.pml)."""
        if not self.ready():
            self.armed()

    def arm(self, int64_t epoch=-1):
        """Say that we are about to wait on the bell. True: something is there, look again.

        While there is something the bell stays readable, so any number of waiters may sleep on it.
        `epoch`: of our announcement, if we made one. True also if it is over: announce again.
        """
        return self.armed() or (epoch >= 0 and <uint64_t>epoch != spw_load(&self.lane.control.demand) >> 32)

    cdef bint armed(self) noexcept:
        if spw_load32(&self.lane.control.closed):
            return True
        if self.ready():
            if not self.lit:  # nor is `consumer_waits` set while it is
                spw_swap32(&self.lane.control.consumer_waits, 0)
                _ring_bell(self.bell)
                self.lit = True
            return True
        self.lit = False
        if _hush_bell(self.bell):  # always: a ring may have come after the flag was taken (tests/model: HUSH_ONCE)
            self.hushed = True
        spw_put32(&self.lane.control.consumer_waits, 1)
        spw_fence()
        if self.ready() or spw_load32(&self.lane.control.closed):
            if spw_swap32(&self.lane.control.consumer_waits, 0):
                _ring_bell(self.bell)
            return True
        return False

    def wait(self, double timeout, int other, bint alone, double looking=0.0):
        """Arm and sleep until there may be a message, in one call; for receivers who take whatever comes.

        `other`: a second bell that ends the wait; `alone`: nobody else sleeps on our bell; `looking`: seconds for which
        the lane is looked at again and again before that. Returns 0: the time is over; 1: look; 2: look, the other bell
        rang; 4 more: arming silenced a ring (`hushed`); 8 more: who looked around found a message. Signals are handled at
        once, or when the looking around is over.
        """
        return self.sleep(_now() + timeout, other, alone, looking)

    cdef int sleep(self, double deadline, int other, bint alone, double looking) except -1:
        """`wait`, until a moment of the monotonic clock."""
        cdef int woken = 1
        cdef bint found = self.ready() or (looking > 0.0 and self.look_around(looking))
        if not (found and alone and not self.level):  # somebody else would need the bell to see it
            # A ring without a message is somebody's wake(): it is the caller who knows what to look for.
            if not (self.armed() or self.called or (self.hushed and not alone)):
                woken = _poll_two(self.bell, other, deadline, isinf(deadline))
            self.called = False
        if found and looking > 0.0:
            woken |= 8
        return woken | 4 if self.hushed else woken

    def look(self, double seconds, bint brief=False):
        """Look around for so long, without the GIL; `brief`: only while others run meanwhile. Whether there may be a
        message."""
        return self.ready() or self.look_around(seconds, brief)

    cdef bint look_around(self, double seconds, bint brief=False) noexcept:
        """Look at the lane for so long, without the GIL, and let others run before us. True: there may be a message."""
        cdef double before, now = _now()
        cdef double deadline = now + seconds
        cdef spw_control *control = self.lane.control
        cdef int turn
        cdef bint turned = False
        with nogil:
            while True:
                for turn in range(64):
                    if spw_peek(&control.head) != spw_peek(&control.tail):
                        return True
                    _relax()
                before, now = now, _now()
                if spw_load32(&control.closed) or now >= deadline or (brief and turned and now - before < HELD_UP):
                    return False
                sched_yield()
                turned = True

    def watch(self, bint on=True):
        """Keep the bell readable exactly while a message waits, for `fileno()`."""
        self.level = on
        self.armed()

    def announce(self):
        """Say that one more receiver waits (demand). Returns the epoch to withdraw it in."""
        cdef uint64_t demand
        while True:
            demand = spw_load(&self.lane.control.demand)
            if spw_cas(&self.lane.control.demand, demand, demand + 1):
                _ring_board(self.segment.region.board, self.segment.index, self.io_bell)
                return demand >> 32

    def withdraw(self, uint64_t epoch):
        """Take an announcement back. False: it was answered (a message is on its way), or its epoch is over."""
        cdef uint64_t demand
        if self.segment.region.pid != getpid():  # a child that a signal's handler has forked in the middle of a wait
            return False
        while True:
            demand = spw_load(&self.lane.control.demand)
            if demand >> 32 != epoch or <uint32_t>demand == 0:
                return False
            if spw_cas(&self.lane.control.demand, demand, demand - 1):
                return True

    @property
    def epoch(self):
        """Changes when another I/O process took over: announcements must be made anew."""
        return spw_load(&self.lane.control.demand) >> 32

    @property
    def window(self):
        return spw_load32(&self.lane.control.window)

    def wake(self):
        """Wake everybody who waits on the bell."""
        self.called = True
        spw_swap32(&self.lane.control.consumer_waits, 0)
        _ring_bell(self.bell)


cdef class Outlet(Consumer):
    """The I/O process's end of lane 0 (user → I/O process). `bell`: the context's send bell."""

    cdef readonly int bell

    def __cinit__(self, Segment segment not None, int bell):
        self.open(segment, 0)
        self.bell = bell

    cdef void ring_producer(self) noexcept:
        _ring_bell(self.bell)

    def next(self):
        """The next record, popped but not claimed; None: there is none."""
        return self.pop()

    @property
    def under_way(self):
        """Claimed records that take no place in the window, as the pipes that have them cannot get rid of them now."""
        return spw_load32(&self.lane.control.under_way)

    @under_way.setter
    def under_way(self, uint32_t n):
        cdef bint more = n > spw_load32(&self.lane.control.under_way)
        spw_store32(&self.lane.control.under_way, n)
        if more:
            spw_fence()
            self.tell_at_once()  # whatever the producer waits for: there are as many places more

    cdef Record claim_next(self, spw_taken *taken, bint *in_slot):
        """Pop and claim what comes next. One that lies in its slot is only in `taken`, for another one a record is made.

        None, and not `in_slot` either: the lane is empty.
        """
        cdef Record record
        cdef int what
        in_slot[0] = False
        while True:
            if self.inherited:
                record = self.pop()
                if record is None:
                    return None
            else:
                what = consumer_next(&self.lane, taken)
                self.tell_of_index_room()
                if what == SPW_EMPTY:
                    return None
                if what != SPW_GOT:
                    self.counted_back()
                    continue
                if taken.offset == 0:
                    if not consumer_claim(&self.lane, taken.slot, taken.generation, False):
                        continue
                    in_slot[0] = True
                    return None
                record = self.make()
                record.taken = taken[0]
            if record.claim():
                return record

    def awaited(self):
        """Whether the producer waits for room."""
        return spw_load32(&self.lane.control.producer_waits) != SPW_NOBODY

    def unclaimed(self):
        """How many records nobody has claimed yet."""
        cdef uint32_t slot, high = spw_load32(&self.lane.control.high_water), n = 0
        for slot in range(min(high, <uint32_t>SPW_SLOTS)):
            n += spw_state_of(spw_load(&self.lane.slots[slot].state)) == SPW_PUBLISHED
        return n


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
