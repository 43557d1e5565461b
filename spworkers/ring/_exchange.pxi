# One question at a time on a context's two lanes, each step of it whole under the GIL: so threads need no other lock.

cdef enum:
    ERROR_KIND = 2


@cython.no_gc_clear
cdef class Exchange:
    """Who asks on `tx` and hears on `rx`, and which of his questions is the one that still counts.

    `serial`: of the last question; `current`: of the one that is outstanding, 0: none; `ticket`: its record in the
    lane. `pipe`: the one that the next question is for, 0: any. `sending` and `receiving`: serials of a send that waits for a peer and of a receive that waits for the answer.
    `dropped`: where answers that nobody wants any more are counted, as "canceled".
    """

    cdef readonly Sender tx
    cdef readonly Receiver rx
    cdef public uint64_t serial, current, ticket, sending, receiving
    cdef public uint32_t pipe

    cdef dict dropped

    def __cinit__(self, Sender tx not None, Receiver rx not None, dict dropped not None):
        self.tx, self.rx, self.dropped = tx, rx, dropped

    cdef int let_go(self, Record record) except -1:
        if record.taken.kind != ERROR_KIND:
            self.dropped["canceled"] = self.dropped.get("canceled", 0) + 1
        return record.drop()

    cpdef uint64_t begin(self) except 0:
        """Give up the former question, number a new one."""
        cdef Record stale
        self.give_up()
        while True:
            stale = self.rx.pop_claimed()
            if stale is None:
                break
            self.let_go(stale)  # nobody wants it any more, and fileno() shall not tell of it
        self.ticket = 0
        self.serial += 1
        self.current = self.serial
        return self.serial

    cpdef int give_up(self) except -1:
        """Take the outstanding question back, if no peer has it yet, and wake who waits for it."""
        if self.current == 0:
            return 0
        if self.tx.segment.region.pid != getpid():  # in a forked child it is its parent's
            self.current = 0
            return 0
        if producer_state(&self.tx.side, self.ticket) == SPW_PUBLISHED:
            producer_revoke(&self.tx.side, self.ticket)
        if self.sending == self.current:
            self.tx.wake()
        if self.receiving == self.current:
            self.rx.wake()
        self.current = 0
        return 0

    def ask(self, body):
        """Begin a question and publish it, if a pipe takes it at once. False: none does, or there is no room."""
        if spw_loadi(&self.tx.segment.region.board.ready_pipes) <= 0:
            return False
        cdef uint64_t serial = self.begin()
        cdef bint room = False
        try:
            room = self.publish(body, serial)
        finally:
            if not room and self.current == serial:
                self.current = 0
        return room

    cpdef bint publish(self, body, uint64_t serial) except -1:
        """Publish a question that was begun. False: there is no room. Superseded meanwhile, it is not sent at all."""
        cdef int64_t slot
        cdef Py_buffer view
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            slot = self.tx.place(NULL, 0, &view)
            if slot < 0:
                return False
            if self.current != serial:  # a newer one while a large body was copied, or by a buffer's own code
                self.tx.abandon(slot)
                return True
            self.ticket = self.tx.finish(slot, view.len, 0, self.pipe, serial, 0, 0)
        finally:
            PyBuffer_Release(&view)
        return True

    def due(self):
        """The serial of the outstanding question; 0: there is none; -1: somebody waits for its answer already."""
        if self.current and self.receiving == self.current:
            return -1
        return self.current

    def answer(self, uint64_t serial, bint waits=False):
        """The answer to this question, which is then no longer outstanding; None: it is not here.

        Answers to former questions are given back. `waits`: if it is not here, its receiver waits from now on, until it
        is given the answer or says `leave`.
        """
        cdef Record record
        while self.current == serial:
            record = self.rx.pop_claimed()
            if record is None:
                if waits:
                    self.receiving = serial
                return None
            if record.taken.serial == serial and self.current == serial:
                self.current = 0
                if self.receiving == serial:
                    self.receiving = 0
                return record
            self.let_go(record)
        return None

    def leave(self, uint64_t serial):
        """The receiver of this answer waits no more."""
        if self.receiving == serial:
            self.receiving = 0
