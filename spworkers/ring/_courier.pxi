# Requests and replies of a socket that asks one peer: the way there and back without the protocol's machine.

from libc.math cimport INFINITY
from libc.stdlib cimport qsort

cdef enum:
    ERRANDS = 32  # places at first, twice as many as are taken at a time, at least
    NUMBERS = 4096  # request ids taken from the machine at a time
    MESSAGE = 0  # a record's kind
    WRITTEN_AT_ONCE = 128 * 1024  # bytes queued on the pipe from which it is written in the midst of many messages
    TOP_BIT = 0x80000000  # of a request id, which ends the backtrace

cdef uint64_t FIRST_OF_MANY = <uint64_t>1 << 32  # the least serial of one request among many

cdef struct errand:
    uint32_t key  # the request id; 0: nobody's place
    uint32_t context
    double sent
    uint64_t turn  # how many were sent before
    spw_taken taken  # the request, claimed, in its slot


cdef int _by_turn(const void *one, const void *other) noexcept nogil:
    cdef uint64_t left = (<const errand **>one)[0].turn, right = (<const errand **>other)[0].turn
    return -1 if left < right else left > right


cdef class Passage:
    """A context's two lanes, as a courier uses them."""

    cdef Outlet outlet
    cdef Inlet inlet
    cdef uint32_t abroad  # requests that the courier has sent

    def __cinit__(self, Outlet outlet not None, Inlet inlet not None):
        self.outlet, self.inlet = outlet, inlet


cdef class Courier:
    """Carries small requests from contexts to the one pipe that there is, and their replies back.

    It does what the machine of REQ would do while there is nothing to decide (`Machine.sole_route`), and leaves the
    machine out. Whatever else comes up is the machine's business, which first gets all requests that are on their way,
    as if it had sent them itself: `give_up`.

    `adopt`: called with (context, record, id as on the wire, pipe, time sent) for each of these.
    `numbers`: called with a count, says after which id so many are free for us.
    `wait`: called with a time, so that `expire` is called then.
    """

    cdef Region region
    cdef object adopt, numbers, wait
    cdef list passages  # by the contexts' indices; None: it has none
    cdef list left  # contexts with something for others to see to
    cdef FrameReader reader
    cdef FrameWriter writer
    cdef readonly int fd  # of the pipe that it serves; -1: none
    cdef readonly bint stuck  # the pipe has not taken everything
    cdef uint32_t pipe
    cdef bint many  # context 0 has many requests, each known by its serial
    cdef bint apart  # there is no other context: some requests may be the machine's, and others ours
    cdef uint32_t admitted
    cdef double patience
    cdef double due  # when `expire` will be called
    cdef errand *errands
    cdef uint32_t places
    cdef readonly uint32_t abroad  # requests that are on their way
    cdef uint32_t number, numbers_left
    cdef uint64_t turn

    def __cinit__(self, Region region not None, adopt, numbers, wait):
        self.region, self.adopt, self.numbers, self.wait = region, adopt, numbers, wait
        self.passages, self.left = [], []
        self.fd = -1
        self.due = INFINITY
        self.places = ERRANDS
        self.errands = <errand *>calloc(ERRANDS, sizeof(errand))
        if self.errands == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.errands)

    def admit(self, uint32_t index, Outlet outlet not None, Inlet inlet not None):
        """Requests of this context may be carried."""
        while <uint32_t>len(self.passages) <= index:
            self.passages.append(None)
        self.admitted += self.passages[index] is None
        self.passages[index] = Passage(outlet, inlet)

    def dismiss(self, uint32_t index):
        """This context is no more. None of its requests may be on its way."""
        if index < <uint32_t>len(self.passages) and self.passages[index] is not None:
            self.passages[index] = None
            self.admitted -= 1

    def serve(self, FrameReader reader not None, FrameWriter writer not None, uint32_t pipe, bint many, double patience):
        """Carry from now on, by this pipe.

        `many`: context 0 has many requests at a time; `patience`: seconds for which a request is on its way before the
        machine is to have it.
        """
        self.reader, self.writer, self.pipe, self.many, self.patience = reader, writer, pipe, many, patience
        reader.courier = self
        self.apart = many and self.admitted == 1
        self.stuck = False
        self.fd = reader.fd

    def give_up(self):
        """Carry no more; all requests that are on their way are the machine's, in the order in which they were sent."""
        self.fd = -1
        if self.reader is not None:
            self.reader.courier = None
            self.reader = self.writer = None
        if self.abroad:
            self.hand_over_all()

    cdef int hand_over_all(self) except -1:
        cdef errand **found = <errand **>malloc(self.abroad * sizeof(errand *))
        cdef uint32_t i, count = 0
        if found == NULL:
            raise MemoryError()
        try:
            for i in range(self.places):
                if self.errands[i].key:
                    found[count] = &self.errands[i]
                    count += 1
            qsort(found, count, sizeof(errand *), _by_turn)
            for i in range(count):
                self.hand_over(found[i])
        finally:
            free(found)
        return 0

    def expire(self, double now):
        """Some requests have been on their way for too long. True: the machine is to have all of them."""
        cdef uint32_t i
        cdef errand *e
        cdef double first = INFINITY
        self.due = INFINITY
        for i in range(self.places):
            e = &self.errands[i]
            if e.key == 0:
                continue
            if e.sent + self.patience > now:
                first = min(first, e.sent)
            elif self.apart:
                self.hand_over(e)
            else:
                return True
        if first < INFINITY:
            self.expect(first)
        return False

    cdef int expect(self, double sent) except -1:
        """Have `expire` called in time for a request that was sent then."""
        self.due = sent + self.patience
        self.wait(self.due)
        return 0

    cdef int hand_over(self, errand *e) except -1:
        """This request is the machine's from now on."""
        cdef Passage passage = <Passage>self.passages[e.context]
        cdef Record record = passage.outlet.make()
        cdef uint8_t[4] key
        record.taken = e.taken
        record.claimed, record.users = True, 1
        _put_be32(key, e.key)
        e.key = 0
        passage.abroad -= 1
        self.abroad -= 1
        self.adopt(e.context, record, PyBytes_FromStringAndSize(<char *>key, 4), self.pipe, e.sent)
        return 0

    def collect(self):
        """The contexts that rang, and have something that is not to be carried."""
        self.hear()
        left, self.left = self.left, []
        return left

    cdef bint hear(self) except -1:
        """Carry what there is. False: there is something left, for others to see to."""
        cdef uint64_t bits
        cdef uint32_t word, index
        for word in range(SPW_CONTEXTS // 64):
            if spw_peek(&self.region.board.bits[word]) == 0:
                continue
            bits = spw_swap(&self.region.board.bits[word], 0)
            while bits:
                index = word * 64 + _lowest_bit(bits)
                bits &= bits - 1
                try:
                    if self.fd >= 0 and self.carry(index):
                        continue
                except Exception:  # out of memory: those who see to the rest may do better, or say so
                    self.fd = -1
                self.left.append(index)
        if self.fd >= 0 and self.writer.pending and self.writer.write_out() <= 0:
            self.stuck = True
        return PyList_GET_SIZE(self.left) == 0 and not self.stuck

    cdef bint carry(self, uint32_t index) except -1:
        """Send what a context has. False: what comes next is not to be carried."""
        cdef spw_taken taken
        cdef Passage passage
        cdef Outlet outlet
        cdef errand *e
        cdef bint claimed = False, many = self.many and index == 0
        cdef int what
        if index >= <uint32_t>PyList_GET_SIZE(self.passages):
            return False
        held = <object>PyList_GET_ITEM(self.passages, index)
        if held is None:
            return False
        passage = <Passage>held
        outlet = passage.outlet
        if PyList_GET_SIZE(outlet.inherited):
            return False
        try:
            while True:
                if self.writer.pending > WRITTEN_AT_ONCE and self.writer.write_out() <= 0:
                    return False  # it stays where its sender can take it back
                what = consumer_next(&outlet.lane, &taken)
                outlet.tell_of_index_room()
                if what == SPW_EMPTY:
                    return True
                if what != SPW_GOT:
                    outlet.counted_back()
                    continue
                if (taken.kind != MESSAGE or taken.pipe or taken.offset
                        or (taken.serial < FIRST_OF_MANY if many else passage.abroad != 0)):
                    self.give_back(outlet, &taken)
                    return False
                try:
                    e = self.place()
                except:
                    self.give_back(outlet, &taken)
                    raise
                if e == NULL:
                    self.give_back(outlet, &taken)
                    return False
                if consumer_claim(&outlet.lane, taken.slot, taken.generation, False):
                    claimed = True
                    e.context, e.taken, e.key = index, taken, TOP_BIT | self.number
                    self.send(passage, e)
        finally:
            if claimed:
                outlet.tell_producer()  # senders may wait for their hand-off

    cdef int give_back(self, Outlet outlet, spw_taken *taken) except -1:
        """What was popped is what comes next."""
        cdef Record record = outlet.make()
        record.taken = taken[0]
        outlet.inherited.append(record)
        return 0

    cdef int send(self, Passage passage, errand *e) except -1:
        """Send a claimed request."""
        cdef uint8_t[4] key
        e.sent, e.turn = _now(), self.turn
        self.turn += 1
        passage.abroad += 1
        self.abroad += 1
        _put_be32(key, e.key)
        cdef char *payload = <char *>passage.outlet.lane.slots[e.taken.slot].payload
        self.writer.put(<char *>key, 4, payload, e.taken.length, None, NOTHING)
        if e.sent + self.patience < self.due:
            self.expect(e.sent)
        return 0

    cdef errand *place(self) except? NULL:
        """Give the next number, and a place under it. NULL: somebody stands there whom the machine is to have first."""
        cdef errand *e
        if 2 * self.abroad >= self.places:
            self.grow()
        if self.numbers_left == 0:
            self.number = self.numbers(NUMBERS)
            self.numbers_left = NUMBERS
        e = &self.errands[(self.number + 1) & (self.places - 1)]
        if e.key:  # an old one
            if not self.apart:
                return NULL
            self.hand_over(e)
        self.numbers_left -= 1
        self.number = (self.number + 1) & (TOP_BIT - 1)
        return e

    cdef int grow(self) except -1:
        cdef uint32_t i, room = 2 * self.places
        cdef errand *more = <errand *>calloc(room, sizeof(errand))
        if more == NULL:
            raise MemoryError()
        for i in range(self.places):
            if self.errands[i].key:
                more[self.errands[i].key & (room - 1)] = self.errands[i]
        free(self.errands)
        self.errands, self.places = more, room
        return 0

    cdef bint fetch(self) except -1:
        """Read, and deliver. False: there is something left, for others to read."""
        return self.reader.read_replies()

    cdef bint reply(self, const char *payload, size_t length) except -1:
        """Deliver a reply. False: it is none of ours, or has no room."""
        cdef uint32_t key
        cdef errand *e
        cdef Passage passage
        cdef Inlet inlet
        cdef int64_t slot
        cdef int flags
        if length < 4:
            return False
        key = _be32(<const uint8_t *>payload)
        e = &self.errands[key & (self.places - 1)]
        if e.key != key or key == 0:
            return False
        passage = <Passage>self.passages[e.context]
        inlet = passage.inlet
        flags = inlet.admits(length, False)
        if flags < 0:
            return False
        try:
            slot = inlet.begin(length)
            if slot >= 0:
                inlet.fill(slot, NULL, 0, NULL, 0, payload, length)
        except:
            inlet.demand_again(flags)
            raise
        if slot < 0:
            inlet.demand_again(flags)
            return False
        inlet.finish(slot, length, 4, self.pipe, e.taken.serial, 0, flags)
        e.key = 0
        passage.abroad -= 1
        self.abroad -= 1
        consumer_free(&passage.outlet.lane, e.taken.slot, e.taken.generation)
        passage.outlet.gave_back()
        return True


cdef inline uint32_t _be32(const uint8_t *at) noexcept:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void _put_be32(uint8_t *at, uint32_t value) noexcept:
    at[0], at[1], at[2], at[3] = <uint8_t>(value >> 24), <uint8_t>(value >> 16), <uint8_t>(value >> 8), <uint8_t>value
