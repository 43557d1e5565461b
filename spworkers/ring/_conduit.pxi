# Two byte rings in shared memory between two I/O processes, for whom a connected unix socket carries nothing but bells.
#
# Each ring has one writer and one reader, who count bytes, never wrapping. It is mapped twice, end to end, so nothing in
# it is ever in two pieces. Of what the other side can write to (all of it) nothing is believed: positions of our own are
# kept here, the other side's are checked at each use, a length is read once, and bodies are copied out.

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
        uint32_t writer_waits __attribute__((aligned(128)));   /* for room */
    } spw_way;

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
    """
    enum: SPW_CONDUIT
    uint64_t SPW_CONDUIT_HEAD
    uint64_t SPW_CONDUIT_RING
    uint64_t SPW_CONDUIT_SIZE
    ctypedef struct spw_way:
        uint64_t tail
        uint64_t head
        uint32_t reader_waits
        uint32_t writer_waits
    int spw_plain_memory(int fd) nogil
    char *spw_conduit_map(int fd) nogil
    ssize_t _send "send" (int fd, const void *data, size_t length, int flags) nogil

CONDUIT = bool(SPW_CONDUIT) and hasattr(os, "memfd_create")

cdef enum:
    AT_A_TIME = 64 * 1024  # bytes after which the other side may go on, while we do
    BELLS = 64  # of them taken from the kernel at once


def conduit_memory():
    """A descriptor of memory for a `Conduit`, sealed against resizing; the caller's. OSError: the system has none."""
    return _anonymous_file(SPW_CONDUIT_SIZE)


cdef int _check_memory(int fd) except -1:
    """Only what nobody can shrink, and whose pages are always there, may be touched: else a peer could kill us (SIGBUS)."""
    import fcntl
    cdef uint64_t size = os.fstat(fd).st_size
    if not spw_plain_memory(fd):
        raise GarbledError("the descriptor that came is no memory (memfd_create)")
    if size != SPW_CONDUIT_SIZE:
        raise GarbledError(f"the memory that came has {size} bytes instead of {SPW_CONDUIT_SIZE}")
    if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise GarbledError("the memory that came is not sealed: its owner could shrink it (F_SEAL_SHRINK)")
    return 0


cdef class Conduit:
    """One end of a pipe through shared memory.

    `memory`: its descriptor, which stays the caller's; `sock`: the unix socket, non-blocking, that tells of the other
    side's bells and of its end; `first`: whether this end writes to the first of the two rings.

    Raises GarbledError if the memory is not fit to be shared with a stranger, OSError if it cannot be mapped.
    """

    cdef char *at
    cdef readonly int fd
    cdef bint first
    cdef readonly bint hung_up  # the other side is no more; what it wrote may still be read

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


cdef class ConduitReader(FrameReader):
    """Made by `Conduit.reader`."""

    cdef Conduit conduit
    cdef spw_way *way
    cdef char *ring
    cdef uint64_t head  # bytes that we are done with
    cdef uint64_t seen  # the other side's tail, when we looked last

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
        if tail != self.seen:
            self.got = tail - self.seen
            self.received += self.got
            self.seen = tail
            try:
                self.take(found)
            except Exception as error:
                self.error = error
            self.give_back()
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
        while True:
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

    cdef void give_back(self) noexcept:
        """What we are done with may be written over. A writer that waits is woken when half of the ring is free."""
        spw_store(&self.way.head, self.head)
        if 2 * (self.seen - self.head) <= SPW_CONDUIT_RING:
            self.conduit.wake(&self.way.writer_waits)


cdef class ConduitWriter(FrameWriter):
    """Made by `Conduit.writer`. What is in the ring counts as sent: the other side reads it also after our death."""

    cdef Conduit conduit
    cdef spw_way *way
    cdef char *ring
    cdef uint64_t tail

    cdef uint64_t spare(self) except? 1:
        """Bytes that may be written."""
        cdef uint64_t used = self.tail - spw_load(&self.way.head)
        if used > SPW_CONDUIT_RING:
            raise OSError(EPROTO, "the peer's ring is not in order: it has read more than there was")
        return SPW_CONDUIT_RING - used

    def flush(self):
        """Write what the ring takes. True: all of it; False: call again when the other side has rung."""
        cdef iovec_t[VECTORS] vectors
        cdef uint64_t room
        cdef size_t wrote, part
        cdef int i, n
        if self.conduit is None:
            raise InternalError("this writer was not made by Conduit.writer")
        while self.count:
            room = self.spare()
            if room == 0:
                if self.conduit.hung_up:
                    raise OSError(EPIPE, os.strerror(EPIPE))
                spw_put32(&self.way.writer_waits, 1)
                spw_fence()
                room = self.spare()
                if room == 0:
                    return False
                spw_put32(&self.way.writer_waits, 0)
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
            spw_store(&self.way.tail, self.tail)
            self.advance(wrote)
            self.conduit.wake(&self.way.reader_waits)
        return True
