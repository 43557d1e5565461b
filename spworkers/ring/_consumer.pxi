# The reading end of a lane: the user's receiver, the I/O process's outlet.

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
