cdef extern from "sys/socket.h" nogil:
    struct iovec_t "iovec":
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec_t *msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, msghdr *message, int flags)
    ssize_t recv(int fd, void *buffer, size_t length, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    enum: MSG_NOSIGNAL
    enum: MSG_DONTWAIT

cdef extern from "sys/uio.h" nogil:
    pass

STREAM = 0
IPC = 1

cdef enum:
    SCRATCH = 256 * 1024     # what one read of a socket may bring; shared by all readers of the process
    WHOLE = 32 * 1024        # bodies from here on are read straight into their own bytes, or where they are delivered
    HEADS = 4 * 1024         # what is read after such a one: the next is as large, perhaps, and need not pass the scratch
    STAGED = 16 * 1024       # payloads up to here are copied together into one write
    LEAST = 2 * 1024         # what is read at least, though there be no room for it
    MORE = 64                # messages that are read beyond those for which there is room
    VECTORS = 128

cdef char *_scratch = NULL

cdef class Courier


cdef int _check_framing(int framing) except -1:
    if framing != 0 and framing != 1:
        raise BadValueError(f"framing {framing}: there are STREAM (0) and IPC (1)")
    return 0


cdef inline uint64_t _be64(const uint8_t *at) noexcept:
    return (<uint64_t>at[0] << 56 | <uint64_t>at[1] << 48 | <uint64_t>at[2] << 40 | <uint64_t>at[3] << 32
            | <uint64_t>at[4] << 24 | <uint64_t>at[5] << 16 | <uint64_t>at[6] << 8 | <uint64_t>at[7])


cdef inline void _put_be64(uint8_t *at, uint64_t value) noexcept:
    cdef int i
    for i in range(8):
        at[i] = <uint8_t>(value >> (56 - 8 * i))


cdef class FrameReader:
    """Reads SP frames from a non-blocking descriptor: `length (u64 BE) ‖ payload`, on ipc with 0x01 before it.

    `framing`: STREAM or IPC; `max_size`: bytes of the largest payload, 0 for any (MAX-RCV-SIZE).
    """

    cdef readonly int fd, framing
    cdef public uint64_t max_size
    cdef readonly uint64_t received, frames  # bytes, and messages that were complete
    cdef readonly bint eof
    cdef readonly size_t got  # bytes of the last read
    cdef readonly bint full  # it filled its room: there may be more
    cdef readonly object error  # what was wrong with the bytes after the last good message, or None
    cdef int head           # bytes of a frame's head
    cdef char *rest         # the beginning of a frame that is not complete
    cdef size_t rest_length
    cdef public Inlet into  # the lane that large bodies go to as they stand, and may be read into; or None
    cdef object whole       # a large body on its way: bytes, or a Landing
    cdef char *whole_at
    cdef size_t whole_filled, whole_length
    cdef bint large         # the last one was
    cdef bint ahead         # of what comes next, no more than the head was read
    cdef bint late          # that is a large one's: it is begun when its body is to be read
    cdef Inlet sink         # the lane that small messages go into at once, during `read_to`; or None
    cdef dict topics        # those that are to go there, by their length; None: all
    cdef uint32_t pipe      # whose they are
    cdef bint passed        # one went
    cdef Courier courier    # who delivers the replies that are his; or None
    cdef object kept        # what `read_replies` has left: payloads, or an OSError
    cdef list spare         # empty, for the next one
    cdef size_t mean        # bytes of a frame, lately; 0: not known
    cdef size_t unwanted, displaced, congested

    def __cinit__(self, int fd, int framing, uint64_t max_size=0):
        global _scratch
        _check_framing(framing)
        self.fd, self.framing, self.max_size = fd, framing, max_size
        self.head = 8 + framing
        if _scratch == NULL:
            _scratch = <char *>malloc(SCRATCH + WHOLE + 16)
            if _scratch == NULL:
                raise MemoryError()

    def __dealloc__(self):
        free(self.rest)

    def read(self):
        """What has arrived, as a list of complete payloads; `eof` is set when the peer has closed.

        Payloads are bytes; with `into`, large ones may be Landings of that lane.

        Bytes that break the format set `error` (TooLongError before any allocation, GarbledError) beside the messages
        before them, which are returned: close the pipe, nothing is read any more. Raises OSError as the system says.
        """
        return self.take_in()

    def read_to(self, Inlet inlet not None, uint32_t pipe, dict topics=None):
        """`read`, but what goes into a lane as it stands is put there at once. Returns the rest, in order, for others to see to.

        `topics`: sets of prefixes by their length; what begins with none of them is left out, and what finds no room takes
        the place of the oldest message that waits. None: everything, up to the first that finds no room. See `losses`.
        """
        cdef list found
        self.sink, self.pipe, self.topics, self.passed = inlet, pipe, topics, False
        try:
            found = self.take_in()
        finally:
            self.sink = self.topics = None
            if self.passed:
                inlet.tell_consumer()
        return found

    def losses(self):
        """What was left out by `read_to` since the last call: messages of no topic, displaced ones, and those without room; or None."""
        if not (self.unwanted or self.displaced or self.congested):
            return None
        lost = (self.unwanted, self.displaced, self.congested)
        self.unwanted = self.displaced = self.congested = 0
        return lost

    cdef bint read_replies(self) except -1:
        """Read. False: not everything was a reply for the courier; the rest, or what was wrong, is what is read next."""
        cdef list found = self.spare
        try:
            found = self.take_in() if found is None else self.take_in_to(found)
        except OSError as error:
            self.kept = error
            return False
        if PyList_GET_SIZE(found) == 0 and not self.full and not self.ended():
            self.spare = found
            return True
        self.spare = None
        self.kept = found
        return False

    cdef list take_in(self):
        return self.take_in_to([])  # made before the scratch is filled: making it may run a finalizer, and that another reader

    cdef list take_in_to(self, list found):
        cdef ssize_t got
        cdef size_t room = SCRATCH, extra = 0, length
        cdef uint64_t frames
        cdef int why
        if self.kept is not None:
            kept, self.kept = self.kept, None
            if isinstance(kept, OSError):
                raise kept
            return <list>kept
        self.got, self.full = 0, False
        if self.error is not None:
            return found
        if self.late:
            self.late = False
            self.recall()
            self.parse(_scratch, self.rest_length, found)
            if self.error is not None:
                return found
        if self.whole is not None:
            room = self.whole_length - self.whole_filled
            extra = self.head
            got = self.read_whole(room)
        else:
            if self.large:
                room = HEADS
            elif self.sink is not None and self.topics is None:
                room = self.fitting()
            self.recall()
            got = recv(self.fd, _scratch + self.rest_length, room, MSG_DONTWAIT)
        if got < 0:
            why = errno
            if why == EAGAIN or why == EINTR:
                return found
            raise OSError(why, os.strerror(why))
        self.got, self.full = got, <size_t>got == room + extra
        if got == 0:
            self.eof = True
            return found
        self.received += got
        if self.whole is not None:
            self.grown(min(<size_t>got, room), found)
            if <size_t>got > room:
                self.ahead = True
                self.parse(_scratch, got - room, found)
                self.ahead = False
        else:
            length, frames = self.rest_length + got, self.frames
            self.parse(_scratch, length, found)
            if self.frames != frames:
                self.mean = (length - self.rest_length) // (self.frames - frames)
        return found

    cdef ssize_t read_whole(self, size_t room) noexcept:
        """Read the rest of a large body, and the next frame's head after it: so it takes one call to a message.

        No more than the head: what comes after the body is not to be read before the body has found room.
        """
        cdef iovec_t[2] vectors
        cdef msghdr message
        memset(&message, 0, sizeof(msghdr))
        vectors[0].iov_base, vectors[0].iov_len = self.whole_at + self.whole_filled, room
        vectors[1].iov_base, vectors[1].iov_len = _scratch, self.head
        message.msg_iov, message.msg_iovlen = vectors, 2
        return recvmsg(self.fd, &message, MSG_DONTWAIT)

    cdef size_t fitting(self) noexcept:
        """How many bytes to read: not many more than there is room for.

        The others would be made into objects, and lie in this process, where a death loses them; in the kernel they do not.
        """
        cdef Inlet inlet = self.sink
        cdef uint32_t window = spw_load32(&inlet.side.lane.control.window)
        if producer_stale(&inlet.side):
            inlet.sweep()
        cdef size_t left = window - inlet.side.live if window > inlet.side.live else 0
        return min(max((left + MORE) * self.mean, <size_t>LEAST), <size_t>SCRATCH) if self.mean else SCRATCH

    @property
    def over(self):
        """Nothing is read any more: the peer has closed, or its bytes were wrong."""
        return self.ended()

    cdef bint ended(self) noexcept:
        return self.eof or self.error is not None

    @property
    def more(self):
        """What to do after a read, in one word: 2: it is `over`; 1: read again, it was `full`; 0: wait."""
        return 2 if self.ended() else self.full

    def feed(self, data):
        """The same for bytes that came another way (TLS): returns the payloads that are complete now."""
        cdef Py_buffer view
        cdef list found = []
        cdef size_t at = 0, part
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while at < <size_t>view.len and self.error is None:
                if self.whole is not None:
                    part = min(self.whole_length - self.whole_filled, <size_t>view.len - at)
                    memcpy(self.whole_at + self.whole_filled, <char *>view.buf + at, part)
                    self.grown(part, found)
                else:
                    part = min(<size_t>SCRATCH, <size_t>view.len - at)
                    self.recall()
                    memcpy(_scratch + self.rest_length, <char *>view.buf + at, part)
                    self.parse(_scratch, self.rest_length + part, found)
                at += part
                self.received += part
        finally:
            PyBuffer_Release(&view)
        return found

    def room(self):
        """Where the rest of a large message goes, for who reads straight into it and then says `filled`; else None.

        The view owns nothing: it is to be used, and released, before this reader is called again.
        """
        if self.whole is None:
            return None
        return PyMemoryView_FromMemory(
            self.whole_at + self.whole_filled, self.whole_length - self.whole_filled, PyBUF_WRITE
        )

    def filled(self, size_t length):
        """So many bytes were put into the `room`: returns the payload if it is complete now."""
        cdef list found = []
        if self.whole is None or length > self.whole_length - self.whole_filled:
            raise InternalError(f"{length} bytes for a room that is smaller")
        self.received += length
        self.grown(length, found)
        return found

    cdef void recall(self) noexcept:
        """The beginning of a frame that is not complete goes before what comes."""
        if self.rest_length:
            memcpy(_scratch, self.rest, self.rest_length)

    cdef int grown(self, size_t got, list found) except -1:
        self.whole_filled += got
        if self.whole_filled == self.whole_length:
            whole, self.whole = self.whole, None
            self.large = True
            self.frames += 1
            found.append(whole)
        return 0

    cdef int parse(self, char *data, size_t length, list found) except -1:
        _bells.held += 1
        try:
            self.split(data, length, found)
        except Exception as error:
            self.error = error
            self.keep(NULL, 0)
        finally:
            _release_bells()
        return 0

    cdef int split(self, char *data, size_t length, list found) except -1:
        cdef uint64_t size
        cdef size_t at = 0
        cdef bint delivered
        self.large = False
        while length - at >= <size_t>self.head:
            self.check_start(data + at, length - at)
            size = _be64(<uint8_t *>data + at + self.framing)
            self.check(size)
            if length - at - self.head < size:
                if size < WHOLE:
                    break
                if self.ahead:
                    self.late = True
                    break
                self.begin_whole(size, data + at + self.head, length - at - self.head)
                at = length
                break
            if size >= WHOLE or PyList_GET_SIZE(found):
                delivered = False
            elif self.courier is not None:
                delivered = self.courier.reply(data + at + self.head, size)
            else:
                delivered = self.sink is not None and self.pass_on(data + at + self.head, size)
            if delivered:
                pass
            elif size < WHOLE or self.into is None:
                found.append(PyBytes_FromStringAndSize(data + at + self.head, size))
            else:
                self.begin_whole(size, data + at + self.head, size)
                whole, self.whole = self.whole, None
                found.append(whole)
            at += self.head + size
            self.frames += 1
        self.check_start(data + at, length - at)
        self.keep(data + at, length - at)
        return 0

    cdef bint pass_on(self, char *payload, size_t size) except -1:
        """Put a message into the lane, or do without it. False: it is for others to see to."""
        cdef Inlet inlet = self.sink
        cdef bint again = False
        if size > inlet.side.budget:
            return False
        if self.topics is not None and not self.wanted(payload, size):
            self.unwanted += 1
            return True
        if not self.passed and producer_stale(&inlet.side):
            inlet.sweep()  # all at once, rather than one for each message
        while not inlet.put(payload, size, self.pipe):
            if self.topics is None:
                return False
            if inlet.make_room():
                self.displaced += 1
            elif again:
                self.congested += 1  # leases hold all there is
                return True
            else:
                again = True  # perhaps everything was taken since there was no room
        self.passed = True
        return True

    cdef bint wanted(self, char *payload, size_t size) except -1:
        cdef Py_ssize_t at = 0, length
        cdef PyObject *key
        cdef PyObject *of_this_length
        while PyDict_Next(self.topics, &at, &key, &of_this_length):
            length = <object>key
            if length == 0:
                return True
            if <size_t>length <= size and PyBytes_FromStringAndSize(payload, length) in <set><object>of_this_length:
                return True
        return False

    cdef int check_start(self, char *data, size_t length) except -1:
        """What can be wrong with a head is wrong at once, before all of it is there."""
        if length and self.framing == 1 and data[0] != 1:
            raise GarbledError(f"an ipc frame begins with 0x{<uint8_t>data[0]:02x} instead of 0x01")
        if length > <size_t>self.framing and data[self.framing] & 0x80:
            raise GarbledError(f"a frame's length begins with 0x{<uint8_t>data[self.framing]:02x}: its highest bit is set")
        return 0

    cdef int check(self, uint64_t size) except -1:
        if self.max_size and size > self.max_size:
            raise TooLongError(f"a message of {size} bytes exceeds MAX-RCV-SIZE ({self.max_size})")
        if size > LONGEST:
            raise TooLongError(f"a message of {size} bytes is more than this machine can hold")
        return 0

    cdef int begin_whole(self, uint64_t size, char *part, size_t length) except -1:
        cdef Landing landing = self.into.landing_for(size) if self.into is not None else None
        if landing is not None:
            self.whole, self.whole_at = landing, landing.at
        else:
            try:
                self.whole = PyBytes_FromStringAndSize(NULL, size)
            except MemoryError:
                raise TooLongError(f"no memory for a message of {size} bytes") from None
            self.whole_at = PyBytes_AS_STRING(self.whole)
        self.whole_length, self.whole_filled = size, length
        memcpy(self.whole_at, part, length)
        return 0

    cdef int keep(self, char *part, size_t length) except -1:
        cdef char *rest
        if length:
            rest = <char *>realloc(self.rest, length)
            if rest == NULL:
                raise MemoryError()
            self.rest = rest
            memcpy(self.rest, part, length)
        elif self.rest != NULL:
            free(self.rest)
            self.rest = NULL
        self.rest_length = length
        return 0


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
