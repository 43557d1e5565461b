# Messages on their way out, framed and gathered into as few calls of the kernel as can be.

cdef enum keeps:
    NOTHING  # it is all staged
    BYTES
    RECORD  # released when the kernel has it all
    SLOT  # an outlet's, freed then


cdef int _room_behind(void **items, size_t *first, size_t count, size_t *room, size_t size, size_t places=1) except -1:
    """Behind the items from `first` on there are places for others: they move to the front, or get more memory."""
    cdef void *more
    cdef size_t wanted = max(2 * room[0], <size_t>32)
    if first[0] + count + places <= room[0]:
        return 0
    if first[0] > room[0] // 2:
        memmove(items[0], <char *>items[0] + first[0] * size, count * size)
        first[0] = 0
        if count + places <= room[0]:
            return 0
    wanted = max(wanted, first[0] + count + places)
    more = realloc(items[0], wanted * size)
    if more == NULL:
        raise MemoryError()
    items[0], room[0] = more, wanted
    return 0


cdef struct frame:
    size_t staged          # bytes of it in the staging buffer (head, prefix, small payload)
    char *at               # its large payload in shared memory or in bytes, or NULL
    size_t length
    PyObject *keep         # the bytes, the Record, or the Outlet whose slot it is
    keeps what
    uint32_t slot, generation


cdef class FrameWriter:
    """Writes SP frames to a non-blocking descriptor, many in one call; payloads straight from shared memory.

    A record pushed is retained, and released when the kernel has accepted its last byte.
    """

    cdef readonly int fd, framing
    cdef readonly uint64_t sent, frames   # bytes and messages that the kernel accepted
    cdef readonly size_t pending          # bytes that it has not
    cdef frame *queue
    cdef size_t first, count, room        # of the queue
    cdef char *staging
    cdef size_t staged_first, staged_end, staged_room
    cdef size_t done                      # bytes of the first frame that the kernel has
    cdef Outlet owed                      # slots of it were freed, and it was not told

    def __cinit__(self, int fd, int framing):
        _check_framing(framing)
        self.fd, self.framing = fd, framing

    def __dealloc__(self):
        self.drop_all()
        free(self.queue)
        free(self.staging)

    @property
    def queued(self):
        """Messages not yet accepted whole."""
        return self.count

    @property
    def whole(self):
        """Whether the kernel has whole messages only: nothing of the first one that waits. It stays after `discard`."""
        return self.done == 0

    cdef void drop_all(self) noexcept:
        while self.count:
            self.pop()
        self.pending = 0
        self.tell()

    cdef void tell(self) noexcept:
        """Slots were freed: one word for all of them."""
        if self.owed is not None:
            self.owed.gave_back()
            self.owed = None

    cdef void pop(self) noexcept:
        cdef frame *f = &self.queue[self.first]
        cdef PyObject *keep = f.keep
        cdef Outlet outlet
        self.first += 1
        self.count -= 1
        if f.what == RECORD:
            (<Record>keep).let_go()
        elif f.what == SLOT:
            outlet = <Outlet>keep
            consumer_free(&outlet.lane, f.slot, f.generation)
            if self.owed is not outlet:
                self.tell()
                self.owed = outlet
        if keep != NULL:
            Py_DECREF(<object>keep)

    cdef frame *push(self, size_t staged) except NULL:
        cdef frame *f
        _room_behind(<void **>&self.queue, &self.first, self.count, &self.room, sizeof(frame))
        self.make_staging(staged)
        f = &self.queue[self.first + self.count]
        self.count += 1
        memset(f, 0, sizeof(frame))
        f.staged = staged
        return f

    cdef int make_staging(self, size_t staged) except -1:
        """Behind what is staged there is room for so many bytes."""
        cdef char *staging
        if self.staged_end + staged > self.staged_room:
            if self.staged_first > self.staged_room // 2:
                memmove(self.staging, self.staging + self.staged_first, self.staged_end - self.staged_first)
                self.staged_end -= self.staged_first
                self.staged_first = 0
            if self.staged_end + staged > self.staged_room:
                staging = <char *>realloc(self.staging, 2 * (self.staged_end + staged) + 1024)
                if staging == NULL:
                    raise MemoryError()
                self.staging, self.staged_room = staging, 2 * (self.staged_end + staged) + 1024
        return 0

    cdef int follow(self, FrameWriter lead, size_t count, size_t length) except -1:
        """Queue the last so many frames of another writer as well; they are staged as wholes, so many bytes."""
        if count == 0:
            return 0
        if self.framing != lead.framing:
            return self.follow_otherwise(lead, count, length)
        _room_behind(<void **>&self.queue, &self.first, self.count, &self.room, sizeof(frame), count)
        self.make_staging(length)
        memcpy(self.staging + self.staged_end, lead.staging + lead.staged_end - length, length)
        memcpy(&self.queue[self.first + self.count], &lead.queue[lead.first + lead.count - count], count * sizeof(frame))
        self.count += count
        self.staged_end += length
        self.pending += length
        return 0

    cdef int follow_otherwise(self, FrameWriter lead, size_t count, size_t length) except -1:
        """`follow` where frames have other heads here."""
        cdef char *at = lead.staging + lead.staged_end - length
        cdef size_t i, staged
        for i in range(count):
            staged = lead.queue[lead.first + lead.count - count + i].staged
            self.add(b"", at + 8 + lead.framing, staged - 8 - lead.framing, None, NOTHING)
            at += staged
        return 0

    cdef char *stage_head(self, size_t size) noexcept:
        cdef char *at = self.staging + self.staged_end
        if self.framing == 1:
            at[0] = 1
            at += 1
        _put_be64(<uint8_t *>at, size)
        return at + 8

    cdef int64_t add(self, bytes prefix, char *payload, size_t length, object keep, keeps what) except -1:
        """Queue a frame; returns its bytes."""
        return self.put(PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix), payload, length, keep, what)

    cdef int64_t put(
        self, const char *prefix, size_t before, char *payload, size_t length, object keep, keeps what
    ) except -1:
        """`add`, with a prefix of so many bytes."""
        cdef size_t head = 8 + self.framing + before
        cdef bint small = length <= STAGED
        cdef frame *f = self.push(head + (length if small else 0))
        cdef char *at = self.stage_head(before + length)
        memcpy(at, prefix, before)
        if small:
            memcpy(at + before, payload, length)
        else:
            f.at, f.length = payload, length
        if what != NOTHING and (what != BYTES or not small):
            Py_INCREF(keep)
            f.keep, f.what = <PyObject *>keep, what
        self.staged_end += f.staged
        self.pending += head + length
        return head + length

    def push_record(self, bytes prefix not None, Record record not None, size_t skip=0):
        """Queue a frame: prefix ‖ the record's payload without its first `skip` bytes. Returns `pending`."""
        if skip > record.taken.length:
            raise InternalError(f"cannot leave out {skip} bytes of a payload of {record.taken.length}")
        self.add(prefix, record.data() + skip, record.taken.length - skip, record, RECORD)
        record.users += 1
        return self.pending

    def take(self, Outlet outlet not None, bytes prefix not None, size_t limit):
        """Claim and queue what a lane has, in its order: for each message a frame of prefix ‖ payload.

        Ends when more than `limit` bytes wait, or the lane is empty. Returns `pending`. It does, in one call, what
        `outlet.next()`, `record.claim()`, `push_record(prefix, record)` and `record.release()` do for one message.
        """
        cdef spw_taken taken
        cdef bint claimed = False, in_slot
        cdef Record record
        cdef frame *f
        try:
            while self.pending <= limit:
                record = outlet.claim_next(&taken, &in_slot)
                if record is not None:
                    self.add(prefix, record.data(), record.taken.length, record, RECORD)  # its claim is our use of it
                elif in_slot:
                    claimed = True
                    self.add(prefix, <char *>outlet.lane.slots[taken.slot].payload, taken.length, outlet, SLOT)
                    f = &self.queue[self.first + self.count - 1]
                    f.slot, f.generation = taken.slot, taken.generation
                else:
                    break
        finally:
            if claimed:
                outlet.tell_producer()  # senders may wait for their hand-off
        return self.pending

    def push_bytes(self, bytes payload not None):
        """Queue a frame of these bytes. Returns `pending`."""
        self.add(b"", PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), payload, BYTES)
        return self.pending

    def peek(self, size_t limit):
        """The next bytes to be written, at most `limit`, for who writes them another way (TLS) and then says `taken`."""
        cdef iovec_t[VECTORS] vectors
        cdef int n = self.gather(vectors)
        cdef size_t length = 0, at = 0, part
        cdef int i
        for i in range(n):
            length += vectors[i].iov_len
        length = min(length, limit)
        cdef bytes found = PyBytes_FromStringAndSize(NULL, length)
        for i in range(n):
            part = min(vectors[i].iov_len, length - at)
            memcpy(PyBytes_AS_STRING(found) + at, vectors[i].iov_base, part)
            at += part
        return found

    def view(self, size_t limit, size_t grain):
        """As `peek`, but what lies together is not copied: whole grains of a large payload are a view of it.

        It is valid until those bytes are `taken`, or the queue discarded.
        """
        cdef iovec_t[VECTORS] vectors
        cdef int n = self.gather(vectors)
        cdef size_t before = 0
        cdef int i
        if n and vectors[0].iov_len >= grain and not self.is_staged(<char *>vectors[0].iov_base):
            return PyMemoryView_FromMemory(
                <char *>vectors[0].iov_base, min(vectors[0].iov_len, limit) // grain * grain, PyBUF_READ
            )
        for i in range(n):
            if vectors[i].iov_len >= grain and before:
                limit = min(limit, grain)  # the rest will do without a copy
            before += vectors[i].iov_len
            if before >= grain:
                break
        return self.peek(limit)

    cdef bint is_staged(self, char *at) noexcept:
        """Whether it may move."""
        return self.staging != NULL and self.staging <= at < self.staging + self.staged_room

    def taken(self, size_t length):
        """The kernel has accepted the next bytes, so many."""
        if length > self.pending:
            raise InternalError(f"{length} bytes taken of {self.pending}")
        self.advance(length)

    def flush(self):
        """Write what the kernel takes. True: all of it; False: call again when the descriptor is writable."""
        cdef int why
        cdef int done = self.write_out()
        if done < 0:
            why = errno
            raise OSError(why, os.strerror(why))
        return done == 1

    cdef int write_out(self) noexcept:
        """`flush`; 1: all of it, 0: not all; -1: `errno` says why not."""
        cdef iovec_t[VECTORS] vectors
        cdef msghdr message
        cdef ssize_t wrote
        cdef size_t asked
        cdef int i
        while self.count:
            memset(&message, 0, sizeof(msghdr))
            message.msg_iov = vectors
            message.msg_iovlen = self.gather(vectors)
            wrote = sendmsg(self.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            if wrote < 0:
                if errno == EINTR:
                    continue
                return 0 if errno == EAGAIN else -1
            asked = 0
            for i in range(<int>message.msg_iovlen):
                asked += vectors[i].iov_len
            self.advance(wrote)
            if <size_t>wrote < asked:
                return 0  # the kernel has no more room: asking it again would only say so
        return 1

    cdef int gather(self, iovec_t *vectors) noexcept:
        """Describe the queue to the kernel; staged parts that lie side by side go as one."""
        cdef size_t i, skip = self.done, staged = self.staged_first, part
        cdef int n = 0
        cdef frame *f
        for i in range(self.count):
            if n >= VECTORS - 2:
                break
            f = &self.queue[self.first + i]
            if skip < f.staged:
                part = f.staged - skip
                if n and <char *>vectors[n - 1].iov_base + vectors[n - 1].iov_len == self.staging + staged:
                    vectors[n - 1].iov_len += part
                else:
                    vectors[n].iov_base, vectors[n].iov_len = self.staging + staged, part
                    n += 1
                staged += part
                skip = 0
            else:
                skip -= f.staged
            if f.at != NULL:
                vectors[n].iov_base, vectors[n].iov_len = f.at + skip, f.length - skip
                n += 1
                skip = 0
        return n

    cdef void advance(self, size_t wrote) noexcept:
        cdef frame *f
        cdef size_t left, part, whole
        self.sent += wrote
        self.pending -= wrote
        while wrote:
            f = &self.queue[self.first]
            whole = f.staged + (f.length if f.at != NULL else 0)
            left = whole - self.done
            part = min(left, wrote)
            if self.done < f.staged:
                self.staged_first += min(part, f.staged - self.done)
            wrote -= part
            self.done += part
            if self.done == whole:
                self.done = 0
                self.frames += 1
                self.pop()
        self.tell()
        if self.count == 0:
            self.first = self.staged_first = self.staged_end = 0
            if self.staged_room > 4 * SCRATCH:
                free(self.staging)
                self.staging, self.staged_room = NULL, 0

    def discard(self):
        """The pipe is gone: give back every record that it did not take. Returns how many messages those were."""
        cdef size_t n = self.count
        self.drop_all()
        return n


def fan_out(Outlet outlet not None, bytes prefix not None, list writers not None, size_t limit):
    """Claim what a lane has, in its order, and queue a copy of each message for all of these writers: prefix ‖ payload.

    Ends when more than `limit` bytes wait for one of them, or the lane is empty. Returns how many wait at most. It does, in
    one call, what `outlet.next()`, `record.claim()`, `record.payload_bytes()`, `record.release()` and a `push_bytes` for
    each writer do for one message.
    """
    cdef spw_taken taken
    cdef bint claimed = False, in_slot
    cdef FrameWriter writer, lead = None  # the one that is served first, and for which most waits
    cdef Record record
    cdef bytes payload
    cdef size_t most = 0, count = 0, length = 0  # frames that only the lead has yet, and their bytes
    cdef bint alike = True  # frames have the same heads everywhere
    cdef list others = []
    for writer in writers:
        if lead is None or writer.pending > most:
            lead, most = writer, writer.pending
    for writer in writers:
        alike = alike and writer.framing == lead.framing
        if writer is not lead:
            others.append(writer)
    try:
        while lead is not None and most <= limit:
            record = outlet.claim_next(&taken, &in_slot)
            if in_slot:
                claimed = True
                try:  # so small a payload is staged as a whole, and may go
                    length += lead.add(prefix, <char *>outlet.lane.slots[taken.slot].payload, taken.length, None, NOTHING)
                    count += 1
                finally:
                    consumer_free(&outlet.lane, taken.slot, taken.generation)
                most = lead.pending
                if alike:
                    continue
            elif record is None:
                break
            else:
                payload = record.payload_bytes()
                record.drop()
                if PyBytes_GET_SIZE(prefix):
                    payload = prefix + payload
            for writer in others:
                writer.follow(lead, count, length)
            count = length = 0
            if record is not None:
                for writer in writers:
                    writer.add(b"", PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), payload, BYTES)
            for writer in writers:
                most = max(most, writer.pending)
    finally:
        for writer in others:
            writer.follow(lead, count, length)
        if claimed:
            outlet.tell_producer()
    return most
