# Two byte rings in shared memory between two I/O processes, for whom a connected unix socket carries nothing but bells.
#
# Each ring has one writer and one reader, who count bytes, never wrapping. It is mapped twice, end to end, so nothing in
# it is ever in two pieces. Of what the other side can write to (all of it) nothing is believed: positions of our own are
# kept here, the other side's are checked at each use, a length is read once, and bodies are copied out.
#
# Between two processes of one user a large body does not go through the ring: the writer *lends* it. The ring has its
# head and says where in the writer's lane it lies, the reader copies it from there, and the record is released when the
# reader has gone past. If it was released before that (the writer gave up, or died and its successor went on), the
# slot's state word, looked at after the copy, is another one, and the copy is thrown away.

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <sys/socket.h>
    #ifdef __linux__
    #include <sys/vfs.h>
    #define SPW_CONDUIT 1
    /* Whether a fault in this file's pages can always be served: memory of the kernel's own, in pages of the usual size. */
    static int spw_plain_memory(int fd) {
        struct statfs about;
        return fstatfs(fd, &about) == 0 && (unsigned long)about.f_type == 0x01021994ul; /* TMPFS_MAGIC, not HUGETLBFS's */
    }
    #else
    #define SPW_CONDUIT 0
    static int spw_plain_memory(int fd) { (void)fd; return 0; }
    #endif

    #define SPW_CONDUIT_HEAD 65536ul     /* control words; a multiple of every page size */
    #define SPW_CONDUIT_RING 262144ul    /* bytes of one ring: a power of two */
    #define SPW_CONDUIT_SIZE (SPW_CONDUIT_HEAD + 2 * SPW_CONDUIT_RING)

    typedef struct {
        uint64_t tail __attribute__((aligned(128)));           /* bytes written */
        uint64_t head __attribute__((aligned(128)));           /* bytes that may be written over */
        uint32_t reader_waits __attribute__((aligned(128)));   /* for bytes */
        uint32_t writer_waits __attribute__((aligned(128)));   /* for room, or for what it has lent */
        uint64_t call_at;                                      /* the head from which on it is to be told */
    } spw_way;

    /* In the ring: a body that is lent, and before it in the frame what has no record (a prefix), which follows. */
    typedef struct {
        uint64_t head;           /* as every frame's, with the highest bit */
        uint64_t state, word;    /* where the slot's state word is, and what it is as long as the body is */
        uint64_t body, length;   /* where that begins. All places are bytes from the lane's beginning. */
    } spw_loan;

    /* Room for the control words and both rings, each mapped twice; NULL: errno says why. */
    static char *spw_conduit_map(int fd) {
        const int both = PROT_READ | PROT_WRITE;
        const size_t ring = SPW_CONDUIT_RING;
        char *at = mmap(NULL, SPW_CONDUIT_HEAD + 4 * ring, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int i, saved;
        if (at == MAP_FAILED)
            return NULL;
        if (mmap(at, SPW_CONDUIT_HEAD, both, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
            goto failed;
        for (i = 0; i < 4; i++)
            if (mmap(at + SPW_CONDUIT_HEAD + i * ring, ring, both, MAP_SHARED | MAP_FIXED, fd,
                     (off_t)(SPW_CONDUIT_HEAD + i / 2 * ring)) == MAP_FAILED)
                goto failed;
        return at;
    failed:
        saved = errno;
        munmap(at, SPW_CONDUIT_HEAD + 4 * ring);
        errno = saved;
        return NULL;
    }
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #define spw_fence_reads() __atomic_thread_fence(__ATOMIC_ACQUIRE)
    """
    void spw_fence_reads() nogil
    enum: SPW_CONDUIT
    uint64_t SPW_CONDUIT_HEAD
    uint64_t SPW_CONDUIT_RING
    uint64_t SPW_CONDUIT_SIZE
    ctypedef struct spw_way:
        uint64_t tail
        uint64_t head
        uint32_t reader_waits
        uint32_t writer_waits
        uint64_t call_at
    ctypedef struct spw_loan:
        uint64_t head
        uint64_t state
        uint64_t word
        uint64_t body
        uint64_t length
    int spw_plain_memory(int fd) nogil
    char *spw_conduit_map(int fd) nogil
    ssize_t _send "send" (int fd, const void *data, size_t length, int flags) nogil

CONDUIT = bool(SPW_CONDUIT) and hasattr(os, "memfd_create")

cdef enum:
    AT_A_TIME = 64 * 1024  # bytes after which the other side may go on, while we do
    BELLS = 64  # of them taken from the kernel at once
    LENT_MOST = 2 * 1024 * 1024  # bytes on loan, from which on the pipe is full: about what a tcp connection holds
    BORROW_MOST = 256 * 1024  # bytes copied from the other side's lane in one read, before others get their turn
    PREFIX_MOST = 4096  # of a lent frame: no protocol's header is longer

cdef uint64_t LENT_BIT = <uint64_t>1 << 63  # of a frame's head: its body is lent


def conduit_memory():
    """A descriptor of memory for a `Conduit`, sealed against resizing; the caller's. OSError: the system has none."""
    return _anonymous_file(SPW_CONDUIT_SIZE)


cdef int _check_memory(int fd) except -1:
    """Only what nobody can shrink, and whose pages are always there, may be touched: else a peer could kill us (SIGBUS)."""
    cdef uint64_t size = os.fstat(fd).st_size
    if not spw_plain_memory(fd):
        raise GarbledError("the descriptor that came is no memory (memfd_create)")
    if size != SPW_CONDUIT_SIZE:
        raise GarbledError(f"the memory that came has {size} bytes instead of {SPW_CONDUIT_SIZE}")
    if not _keeps_size(fd):
        raise GarbledError("the memory that came is not sealed: its owner could shrink it (F_SEAL_SHRINK)")
    return 0


cdef bint _keeps_size(int fd) except -1:
    import fcntl
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK != 0


cdef class Conduit:
    """One end of a pipe through shared memory.

    `memory`: its descriptor, which stays the caller's; `sock`: the unix socket, non-blocking, that tells of the other
    side's bells and of its end; `first`: whether this end writes to the first of the two rings. `lends`: the region of
    which the other side has a descriptor to `borrow` from.

    Raises GarbledError if the memory is not fit to be shared with a stranger, OSError if it cannot be mapped.
    """

    cdef char *at
    cdef readonly int fd
    cdef bint first
    cdef readonly bint hung_up  # the other side is no more; what it wrote may still be read
    cdef public Region lends
    cdef char *lane  # the other side's, to read what it lends; NULL: nothing
    cdef uint64_t lane_size

    def __cinit__(self, int memory, int sock, bint first):
        if not CONDUIT:
            raise OSError(ENOSYS, "this system has no memory that could be shared with a stranger (memfd_create)")
        _check_memory(memory)
        self.at = spw_conduit_map(memory)
        if self.at == NULL:
            raise OSError(errno, "cannot map the shared memory of a pipe: " + os.strerror(errno))
        self.fd, self.first = sock, first

    def __dealloc__(self):
        if self.at != NULL:
            munmap(self.at, SPW_CONDUIT_HEAD + 4 * SPW_CONDUIT_RING)
        if self.lane != NULL:
            munmap(self.lane, self.lane_size)

    def borrow(self, int region):
        """Read what the other side lends from its region, whose descriptor (of which the caller keeps his) is this one.

        Raises GarbledError if it is not fit to be mapped, OSError if it cannot be.
        """
        cdef uint64_t size = _lane_of(region)
        cdef void *at = mmap(NULL, size, PROT_READ, MAP_SHARED, region, SPW_FIRST_SEGMENT)
        if at == MAP_FAILED:
            raise OSError(errno, f"cannot map {size} bytes of a peer's memory: " + os.strerror(errno))
        self.lane, self.lane_size = <char *>at, size

    cdef spw_way *way(self, bint ours) noexcept:
        return <spw_way *>(self.at + (0 if self.first == ours else 4096))

    cdef char *ring(self, bint ours) noexcept:
        return self.at + SPW_CONDUIT_HEAD + (0 if self.first == ours else 2 * SPW_CONDUIT_RING)

    def hush(self):
        """The descriptor is readable: take the bells, and see whether the other side is still there."""
        cdef char[BELLS] bells
        cdef ssize_t got
        if self.hung_up or self.fd < 0:
            return
        got = recv(self.fd, bells, BELLS, MSG_DONTWAIT)
        if got == 0 or (got < 0 and errno != EAGAIN and errno != EINTR):
            self.hung_up = True  # a reset too: whoever dies with our bells unheard leaves one

    def rest(self):
        """Nothing is read for a while: a writer that would be told later is told now of what was."""
        self.wake(&self.way(False).writer_waits)

    def close(self):
        """The socket is closed, or about to be: no bell goes to its number any more."""
        self.fd, self.hung_up = -1, True

    def reader(self, uint64_t max_size=0):
        """Reads SP frames out of the other side's ring; see `FrameReader`."""
        cdef ConduitReader reader = ConduitReader(self.fd, STREAM, max_size)
        reader.conduit, reader.way, reader.ring = self, self.way(False), self.ring(False)
        reader.full = True  # there may be bytes of which nobody will tell
        return reader

    def writer(self):
        """Writes them into ours; see `FrameWriter`."""
        cdef ConduitWriter writer = ConduitWriter(self.fd, STREAM)
        writer.conduit, writer.way, writer.ring = self, self.way(True), self.ring(True)
        return writer

    cdef void wake(self, uint32_t *waits) noexcept:
        """Ring if the other side waits for what was just published."""
        spw_fence()
        if spw_load32(waits) and spw_swap32(waits, 0) and self.fd >= 0:
            while _send(self.fd, b"", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 and errno == EINTR:
                pass  # a full socket has bells enough; a broken one tells so when it is read


cdef uint64_t _lane_of(int fd) except 0:
    """Bytes of lane 0 of context 0 in the region that this descriptor should be of."""
    if not spw_plain_memory(fd) or not _keeps_size(fd):
        raise GarbledError("the descriptor that came to borrow from is no sealed memory (memfd_create, F_SEAL_SHRINK)")
    cdef bytes words = os.pread(fd, sizeof(spw_board), 0)
    cdef spw_board *board = <spw_board *>PyBytes_AS_STRING(words)
    cdef uint64_t size
    if len(words) == sizeof(spw_board) and _of_this_version(board.magic, board.arena):
        size = spw_lane_size(board.arena)
        if os.fstat(fd).st_size >= SPW_FIRST_SEGMENT + size:
            return size
    raise GarbledError("the descriptor that came to borrow from is not the memory of a socket of this version")


cdef class ConduitReader(FrameReader):
    """Made by `Conduit.reader`."""

    cdef Conduit conduit
    cdef spw_way *way
    cdef char *ring
    cdef uint64_t head  # bytes that we are done with
    cdef uint64_t seen  # the other side's tail, when we looked last
    cdef bint left  # of that something was left for the next read

    def read(self):
        """What has arrived, as a list of complete payloads. The bells are to be hushed before."""
        cdef list found = []
        cdef uint64_t tail
        self.got, self.full = 0, False
        if self.conduit is None or self.ended():
            return found
        tail = spw_load(&self.way.tail)
        if tail - self.head > SPW_CONDUIT_RING or tail - self.seen > SPW_CONDUIT_RING:
            self.error = GarbledError("the peer's ring is not in order: it has written more than there was room for")
            return found
        if tail != self.seen or self.left:
            self.got = tail - self.seen
            self.received += self.got
            self.seen = tail
            self.left = False
            try:
                self.take(found)
            except Exception as error:
                self.error = error
            self.give_back()
            if self.left:
                self.full = True
                return found
        elif self.conduit.hung_up:
            self.eof = True
            return found
        spw_put32(&self.way.reader_waits, 1)
        spw_fence()
        self.full = spw_load(&self.way.tail) != self.seen or self.conduit.hung_up
        if self.full:
            spw_put32(&self.way.reader_waits, 0)
        return found

    cdef int take(self, list found) except -1:
        """The frames in the ring. What is there of a large one goes into its bytes, the beginning of a small one stays."""
        cdef uint8_t[8] head
        cdef char *data
        cdef uint64_t size, there
        cdef uint64_t kept = self.head
        cdef uint64_t borrowed = 0
        while not self.eof:
            data = self.ring + self.head % SPW_CONDUIT_RING
            there = self.seen - self.head
            if self.whole is not None:
                there = min(there, self.whole_length - self.whole_filled, <uint64_t>AT_A_TIME)
                if there == 0:
                    return 0
                memcpy(self.whole_at + self.whole_filled, data, there)
                self.head += there
                self.grown(there, found)
            else:
                if there < 8:
                    return 0
                memcpy(head, data, 8)  # the other side may change it meanwhile
                size = _be64(head)
                if size & LENT_BIT and self.conduit.lane != NULL:
                    if borrowed >= BORROW_MOST:
                        self.left = True
                        return 0
                    size = self.borrow(data, there, found)
                    if size == 0:
                        return 0
                    borrowed += size
                    self.give_back()
                    kept = self.head
                    continue
                self.check_start(<char *>head, 8)
                self.check(size)
                if size >= WHOLE:
                    self.begin_whole(size, data + 8, 0)
                    self.head += 8
                elif there - 8 >= size:
                    found.append(PyBytes_FromStringAndSize(data + 8, size))
                    self.head += 8 + size
                    self.frames += 1
                else:
                    return 0
            if self.head - kept >= AT_A_TIME:
                self.give_back()
                kept = self.head

    cdef uint64_t borrow(self, char *data, uint64_t there, list found) except? 0:
        """A frame whose body is lent: copy that from the other side's lane. Returns its bytes; 0: it is not all there."""
        cdef spw_loan loan
        cdef uint64_t size, before
        if there < sizeof(spw_loan):
            return 0
        memcpy(&loan, data, sizeof(spw_loan))  # the other side may change it meanwhile
        size = _be64(<uint8_t *>&loan.head) & ~<uint64_t>LENT_BIT
        self.check(size)
        before = size - loan.length
        if loan.length > size or before > PREFIX_MOST or size < WHOLE:
            raise GarbledError(f"the peer lends {loan.length} bytes for a message of {size}")
        if (loan.state % 8 or loan.state > self.conduit.lane_size - 8 or loan.body > self.conduit.lane_size
                or loan.length > self.conduit.lane_size - loan.body):
            raise GarbledError(f"the peer lends what is not in its lane: {loan.length} bytes at {loan.body}")
        if there < sizeof(spw_loan) + before:
            return 0
        self.begin_whole(size, data + sizeof(spw_loan), before)
        memcpy(self.whole_at + before, self.conduit.lane + loan.body, loan.length)
        spw_fence_reads()
        if spw_load(<uint64_t *>(self.conduit.lane + loan.state)) != loan.word:
            self.whole = None
            self.eof = True  # it was taken back while we looked: the peer has given up this pipe
            return 0
        self.head += sizeof(spw_loan) + before
        self.received += 8 + loan.length - sizeof(spw_loan)  # as if it had come through the ring
        self.grown(loan.length, found)
        return size

    cdef void give_back(self) noexcept:
        """What we are done with may be written over. A writer that waits is woken when half of what there was is read."""
        spw_store(&self.way.head, self.head)
        spw_fence()
        if spw_load32(&self.way.writer_waits) and self.head >= spw_load(&self.way.call_at):
            self.conduit.wake(&self.way.writer_waits)


cdef struct loan:
    uint64_t end  # the head from which on it was read
    uint64_t size  # of its frame
    PyObject *record


cdef class ConduitWriter(FrameWriter):
    """Made by `Conduit.writer`. What is in the ring counts as sent: the other side reads it also after our death.

    What is lent counts when it was read, and is ours to give up until then.
    """

    cdef Conduit conduit
    cdef spw_way *way
    cdef char *ring
    cdef uint64_t tail
    cdef loan *loans
    cdef size_t loan_first, loan_count, loan_room
    cdef uint64_t lent  # bytes

    def __dealloc__(self):
        self.forget_loans()
        free(self.loans)

    @property
    def queued(self):
        """Messages not yet in the ring, or lent."""
        return self.count + self.loan_count

    def discard(self):
        """As `FrameWriter.discard`; what is lent is given up, too."""
        cdef size_t n = self.count + self.loan_count
        if self.conduit is not None:
            try:
                n -= self.settle()
            except OSError:
                pass  # a peer whose ring is not in order has read nothing
        self.drop_all()
        self.forget_loans()
        return n

    cdef uint64_t used(self) except? 1:
        """Bytes that were not read yet."""
        cdef uint64_t used = self.tail - spw_load(&self.way.head)
        if used > SPW_CONDUIT_RING:
            raise OSError(EPROTO, "the peer's ring is not in order: it has read more than there was")
        return used

    cdef size_t settle(self) except? 1:
        """What was lent and has been read is given back. Returns how many those are."""
        cdef uint64_t head
        cdef size_t before = self.loan_count
        cdef loan *first
        if before == 0:
            return 0
        head = self.tail - self.used()
        while self.loan_count:
            first = &self.loans[self.loan_first]
            if first.end > head:
                break
            self.sent += first.size
            self.frames += 1
            self.end_loan()
        return before - self.loan_count

    cdef void end_loan(self) noexcept:
        cdef loan *first = &self.loans[self.loan_first]
        cdef PyObject *record = first.record
        self.lent -= first.size
        self.loan_first += 1
        self.loan_count -= 1
        (<Record>record).let_go()
        Py_DECREF(<object>record)

    cdef void forget_loans(self) noexcept:
        while self.loan_count:
            self.end_loan()

    cdef bint lends(self, frame *f) noexcept:
        """Whether this one is lent: it lies in the lane that the other side can read."""
        cdef Record record
        if self.conduit.lends is None or f.what != RECORD or f.at == NULL or f.length < WHOLE:
            return False
        record = <Record>f.keep
        return (record.owner.segment.region is self.conduit.lends and record.owner.segment.index == 0 and record.claimed
                and (self.done == 0 or f != &self.queue[self.first]) and f.staged - 8 <= PREFIX_MOST
                and record.taken.offset < record.owner.lane.extent_at
                and f.at + f.length <= record.owner.segment.at + spw_lane_size(record.owner.lane.arena_size))

    cdef int lend(self, frame *f) except -1:
        """Say in the ring where its body lies."""
        cdef Record record = <Record>f.keep
        cdef char *base = record.owner.segment.at
        cdef char *at = self.ring + self.tail % SPW_CONDUIT_RING
        cdef size_t before = f.staged - 8
        cdef spw_loan said
        cdef loan *made
        _room_behind(<void **>&self.loans, &self.loan_first, self.loan_count, &self.loan_room, sizeof(loan))
        _put_be64(<uint8_t *>&said.head, LENT_BIT | (before + f.length))
        said.state = <char *>&record.owner.lane.slots[record.taken.slot].state - base
        said.word = spw_word(record.taken.generation, SPW_CLAIMED)
        said.body, said.length = f.at - base, f.length
        memcpy(at, &said, sizeof(spw_loan))
        memcpy(at + sizeof(spw_loan), self.staging + self.staged_first + 8, before)
        self.tail += sizeof(spw_loan) + before
        made = &self.loans[self.loan_first + self.loan_count]
        made.end, made.size, made.record = self.tail, f.staged + f.length, f.keep
        self.loan_count += 1
        self.lent += made.size
        self.pending -= made.size
        self.staged_first += f.staged
        f.keep, f.what = NULL, NOTHING
        self.first += 1
        self.count -= 1
        if self.count == 0:
            self.first = self.staged_first = self.staged_end = 0
        return 0

    cdef uint64_t spare(self) except? 1:
        """Bytes of the first frame that may be written now; of one that is lent, all or nothing."""
        cdef frame *f = &self.queue[self.first]
        cdef uint64_t room = SPW_CONDUIT_RING - self.used()
        if self.lends(f) and (self.lent >= LENT_MOST or room < sizeof(spw_loan) + f.staged):
            return 0
        return room

    cdef bint awaits(self) except -1:
        """Have the other side ring when half of what is there was read. False: that has come about, look again."""
        cdef uint64_t used = self.used()
        cdef uint64_t call_at = self.tail - used // 2
        if used == 0:
            return False
        spw_put(&self.way.call_at, call_at)
        spw_store32(&self.way.writer_waits, 1)
        spw_fence()
        if self.tail - self.used() < call_at:
            return True
        spw_put32(&self.way.writer_waits, 0)
        return False

    def flush(self):
        """Write what the ring takes. True: all of it; False: call again when the other side has rung."""
        cdef iovec_t[VECTORS] vectors
        cdef uint64_t room
        cdef size_t wrote, part
        cdef int i, n
        if self.conduit is None:
            raise InternalError("this writer was not made by Conduit.writer")
        self.settle()
        while self.count:
            room = self.spare()
            if room == 0:
                if self.conduit.hung_up:
                    raise OSError(EPIPE, os.strerror(EPIPE))
                if self.awaits():
                    return False
                self.settle()
                continue
            if self.lends(&self.queue[self.first]):
                self.lend(&self.queue[self.first])
            else:
                room = min(room, <uint64_t>AT_A_TIME)
                n = self.gather(vectors)
                wrote = 0
                for i in range(n):
                    part = min(<size_t>room - wrote, vectors[i].iov_len)
                    memcpy(self.ring + (self.tail + wrote) % SPW_CONDUIT_RING, vectors[i].iov_base, part)
                    wrote += part
                    if wrote == room:
                        break
                self.tail += wrote
                self.advance(wrote)
            spw_store(&self.way.tail, self.tail)
            self.conduit.wake(&self.way.reader_waits)
        while self.loan_count and not self.awaits():
            self.settle()
        return True

    cdef int gather(self, iovec_t *vectors) noexcept:
        """What is to be copied into the ring: up to the first that is lent."""
        cdef size_t count = self.count, i
        cdef int n
        for i in range(min(count, <size_t>VECTORS)):
            if self.lends(&self.queue[self.first + i]):
                self.count = i
                break
        n = FrameWriter.gather(self, vectors)
        self.count = count
        return n
