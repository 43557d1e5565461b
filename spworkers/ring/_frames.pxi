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
