# One thread that asks while nobody else does, from its question to its answer in one step.

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident()


@cython.no_gc_clear
cdef class Asker:
    """The threads that ask on `tx` and hear on `rx`: their questions' serials, and whether one of them is the reader.

    `waiting`: who waits for the answer with which serial; `sleepers`: those of the bells. `first`: of the serials.
    `call`, `value`: the two bytes with which a question begins, and an answer that is just a value, before the id.
    """

    cdef Sender tx
    cdef Receiver rx
    cdef dict waiting
    cdef object sleepers
    cdef list inside
    cdef uint8_t[MARK] call, value
    cdef uint64_t serial
    cdef object key  # the serial of the question that is asked alone
    cdef int depth            # how often the reader has become it: his signals' handlers may ask too
    cdef unsigned long thread  # the reader's
    cdef readonly bint asleep  # as every sleeper says, while it is among those inside: the thread waits for a bell
    cdef int own               # that thread's own bell
    cdef readonly bint found   # who looked around before it slept found the answer

    def __cinit__(self, Sender tx not None, Receiver rx not None, dict waiting not None, sleepers, uint64_t first,
                  bytes call not None, bytes value not None):
        _check_mark(call)
        _check_mark(value)
        self.tx, self.rx, self.waiting, self.serial = tx, rx, waiting, first - 1
        self.sleepers, self.inside = sleepers, sleepers.inside
        memcpy(self.call, PyBytes_AS_STRING(call), MARK)
        memcpy(self.value, PyBytes_AS_STRING(value), MARK)

    def number(self):
        """A serial that no other question has."""
        self.serial += 1
        return self.serial

    @property
    def reading(self):
        """Somebody is the reader."""
        return self.depth > 0

    def take(self):
        """Become the reader; once more, if this thread is, and a signal's handler asks in the middle of its wait. False:
        another thread is."""
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.depth and self.thread != me:
            return False
        self.depth, self.thread = self.depth + 1, me
        return True

    def leave(self):
        """Be the reader no more; or, in the middle of a wait of this thread, once less."""
        self.depth -= 1

    def ring(self):
        """Have the thread look that asks alone. As every sleeper does it, from any thread."""
        _ring_bell(self.own)

    def ask(self, who, int own, uint64_t call_id, uint32_t patience, bytes content not None, double deadline, double looking):
        """Send a question, be the reader, and wait for its answer.

        `who` waits, by its attributes `serial` and `ticket`; `own`: this thread's bell, which others ring to have it look.
        The question is the mark, `call_id`, `patience` (milliseconds) and `content`. `deadline`: of `time.monotonic`;
        `looking`: seconds, as of `Receiver.wait`.

        Returns the bytes of the value, behind mark and id; or the Record of another answer: `who` waits no more. Or None,
        there is more to it: if `who.serial` is 0 nothing was sent, as others ask or read, there is no room or all is closed; else `who`
        still waits. A signal's handler that raises ends it with that.
        """
        cdef size_t length = PyBytes_GET_SIZE(content)
        cdef Receiver rx = self.rx
        if self.depth or self.waiting or rx.level or rx.inherited or rx.bell < 0 or length > NOGIL_COPY:
            return None
        self.take()
        self.own, self.found = own, False
        try:
            self.inside.append(self)
            try:
                if not self.send(who, call_id, patience, content):
                    return None
                return self.hear(call_id, deadline, looking)
            finally:
                self.inside.remove(self)
        finally:
            self.asleep = False
            self.leave()

    cdef bint send(self, who, uint64_t call_id, uint32_t patience, bytes content) except -1:
        """False: there is no room."""
        cdef Sender tx = self.tx
        cdef size_t total = CALL_HEAD + PyBytes_GET_SIZE(content)
        cdef uint8_t[CALL_HEAD] head
        cdef int64_t slot
        cdef uint64_t serial
        if tx.retired or not tx.budget_open(total):
            return False
        slot = tx.begin(total)
        if slot < 0:
            return False
        self.serial += 1
        serial = self.serial
        try:
            self.key = serial
            who.serial = self.key
            self.waiting[self.key] = who
        except BaseException:
            tx.abandon(slot)
            raise
        _put_call_head(head, self.call, call_id, patience)
        tx.fill(slot, <char *>head, CALL_HEAD, PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content), NULL, 0)
        who.ticket = tx.finish(slot, total, 0, 0, serial, 0, 0)
        return True

    cdef object hear(self, uint64_t call_id, double deadline, double looking):
        cdef Receiver rx = self.rx
        cdef spw_taken taken
        cdef uint64_t serial = self.key
        cdef int woken
        if not consumer_next_plain(&rx.lane, serial, &taken):
            if rx.ready():  # for somebody else, or large, or no answer
                return None
            self.asleep = True
            woken = rx.sleep(deadline, self.own, len(self.inside) == 1, looking)
            self.asleep = False
            self.found = (woken & 8) != 0
            if rx.hushed:
                if len(self.inside) > 1:
                    self.sleepers.pass_on(rx, self)
                else:
                    rx.hushed = False
            if woken & 2:
                _hush_bell(self.own)
            if not consumer_next_plain(&rx.lane, serial, &taken):
                return None
        try:
            return self.read(&taken, call_id)
        finally:
            rx.tell_of_index_room()

    cdef object read(self, spw_taken *taken, uint64_t call_id):
        """What has come for us."""
        cdef Receiver rx = self.rx
        cdef Record record
        cdef const uint8_t *body = <const uint8_t *>rx.lane.slots[taken.slot].payload + taken.header_length
        cdef int64_t more = <int64_t>(taken.length - taken.header_length) - ANSWER_HEAD
        cdef bint ours = self.waiting.pop(self.key, None) is not None
        if ours and more >= 0 and memcmp(body, self.value, MARK) == 0 and _be64(body + MARK) == call_id:
            try:
                return PyBytes_FromStringAndSize(<const char *>body + ANSWER_HEAD, more)
            finally:
                consumer_free(&rx.lane, taken.slot, taken.generation)
                rx.tell_producer()
        record = rx.make()
        record.taken, record.claimed, record.users = taken[0], True, 1
        if ours:
            return record
        record.drop()  # it was given up in this moment
        return None
