cdef uint64_t _page_up(uint64_t size):
    return (size + 4095) & ~<uint64_t>4095


def _anonymous_file(uint64_t size):
    """A file without a name: a memfd sealed against resizing, or an unlinked temporary file where there is none."""
    if hasattr(os, "memfd_create"):
        import fcntl
        fd = made(lambda: os.memfd_create("spworkers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "shared memory")
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd
    import tempfile
    fd, path = tempfile.mkstemp(prefix="spworkers-")
    os.unlink(path)
    os.ftruncate(fd, size)
    return fd


cdef bint _of_this_version(uint64_t magic, uint64_t arena) noexcept:
    """Whether a board says so; with it, whether the size of an arena that it says can be one."""
    return magic == SPW_MAGIC and arena <= (<uint64_t>64 << 30) and arena % 4096 == 0


cdef class Region:
    """The shared memory of one socket: its board and its contexts' segments, in one file without a name.

    `Region.create(budget)` makes one, `Region.attach(fd)` maps an existing one (the descriptor is duplicated).
    `budget`: bytes of message bodies that each lane may hold at a time.
    """

    cdef readonly int fd
    cdef readonly uint64_t budget
    cdef spw_board *board
    cdef int pid
    cdef uint64_t arena, segment_size, extents, file_size

    def __cinit__(self):
        self.fd = -1

    def __init__(self):
        raise TypeError("a Region is made by Region.create(budget) or Region.attach(fd)")

    @staticmethod
    def create(budget=64 << 20):
        if not 4096 <= budget <= 16 << 30:
            raise BadValueError(f"BYTE-BUDGET must be 4096 to {16 << 30} bytes, not {budget!r}")
        cdef uint64_t size, bytes_ = budget
        cdef uint64_t arena_size = _page_up(2 * bytes_)
        cdef uint64_t segment = 2 * spw_lane_size(arena_size)
        cdef uint64_t extents = SPW_FIRST_SEGMENT + SPW_CONTEXTS * segment
        size = extents + 2 * SPW_CONTEXTS * SPW_EXTENT_ROOM
        cdef Region region = Region.__new__(Region)
        region.fd = _anonymous_file(size)
        region._map_board()
        cdef spw_board *board = region.board
        board.budget, board.arena, board.segment_size = bytes_, arena_size, segment
        board.extents, board.file_size = extents, size
        spw_store(&board.magic, SPW_MAGIC)
        region._read_board()
        return region

    @staticmethod
    def attach(int fd):
        cdef Region region = Region.__new__(Region)
        region.fd = os.dup(fd)
        os.set_inheritable(region.fd, False)
        about = os.fstat(region.fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size < <uint64_t>SPW_BOARD_SIZE:
            raise GarbledError("this descriptor is not the shared memory of an spworkers socket: no file, or too short")
        region._map_board()
        region._read_board()
        return region

    cdef int _map_board(self) except -1:
        cdef void *at = mmap(NULL, SPW_BOARD_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if at == MAP_FAILED:
            raise from_os_error(OSError(errno, os.strerror(errno)), "map the shared memory of a socket")
        self.board = <spw_board *>at
        self.pid = getpid()
        return 0

    cdef int _read_board(self) except -1:
        cdef spw_board *b = self.board
        cdef uint64_t arena_size = b.arena, size = os.fstat(self.fd).st_size
        if not _of_this_version(spw_load(&b.magic), arena_size) or b.budget > arena_size:
            raise GarbledError("this descriptor is not the shared memory of an spworkers socket of this version")
        self.budget, self.arena = b.budget, arena_size
        self.segment_size = 2 * spw_lane_size(arena_size)
        self.extents = SPW_FIRST_SEGMENT + SPW_CONTEXTS * self.segment_size
        self.file_size = self.extents + 2 * SPW_CONTEXTS * SPW_EXTENT_ROOM
        if size < self.file_size or b.segment_size != self.segment_size:
            raise GarbledError("this descriptor is not the shared memory of an spworkers socket of this version")
        return 0

    def __dealloc__(self):
        if self.board != NULL:
            munmap(self.board, SPW_BOARD_SIZE)
        if self.fd >= 0:
            close(self.fd)

    def __repr__(self):
        return f"<Region: fd {self.fd}, budget {self.budget} bytes a lane>"

    def segment(self, uint32_t index):
        """The memory of context `index` (0 to 1023)."""
        return Segment(self, index)

    def punch(self, uint32_t index):
        """Give the memory of a closed context back to the kernel."""
        _check_index(index)
        _punch(self.fd, SPW_FIRST_SEGMENT + index * self.segment_size, self.segment_size)
        _punch(self.fd, self.extents + 2 * index * SPW_EXTENT_ROOM, 2 * SPW_EXTENT_ROOM)

    # What the contexts of a socket share. Gauges and counters are read by anybody, written by the I/O process.
    @property
    def ready_pipes(self):
        """Pipes that take a message at once."""
        return spw_loadi(&self.board.ready_pipes)

    @ready_pipes.setter
    def ready_pipes(self, int32_t n):
        spw_storei(&self.board.ready_pipes, n)

    @property
    def pipes(self):
        """Pipes attached."""
        return spw_loadi(&self.board.pipes)

    @pipes.setter
    def pipes(self, int32_t n):
        spw_storei(&self.board.pipes, n)

    @property
    def generation(self):
        """Which I/O process of the socket this is: 1 is the first, each successor one more."""
        return spw_load32(&self.board.generation)

    @generation.setter
    def generation(self, uint32_t n):
        spw_store32(&self.board.generation, n)

    def congested(self, uint32_t pipe):
        """Whether this pipe takes no more for the time being. Pipes share bits, so it may be another one; never the reverse."""
        return self.is_congested(pipe)

    cdef bint is_congested(self, uint32_t pipe) noexcept:
        return (spw_peek(&self.board.congested[pipe % SPW_CONGESTED // 64]) >> (pipe % 64)) & 1 != 0

    def set_congested(self, uint32_t pipe, bint on):
        cdef uint64_t *word = &self.board.congested[pipe % SPW_CONGESTED // 64]
        if on:
            spw_or(word, <uint64_t>1 << (pipe % 64))
        else:
            spw_and(word, ~(<uint64_t>1 << (pipe % 64)))

    def clear_congested(self):
        """None is, for there are no pipes yet."""
        cdef int word
        for word in range(SPW_CONGESTED // 64):
            spw_put(&self.board.congested[word], 0)

    def counter(self, uint32_t index):
        return spw_load(&self.board.counters[index % SPW_COUNTERS])

    def add(self, uint32_t index, uint64_t n=1):
        spw_add(&self.board.counters[index % SPW_COUNTERS], n)

    # The I/O process's side of the bell that all contexts share.
    def collect(self):
        """The contexts that rang since the last call, as a list of indices."""
        cdef list found = []
        cdef uint64_t bits
        cdef int word, bit
        for word in range(SPW_CONTEXTS // 64):
            if spw_peek(&self.board.bits[word]) == 0:
                continue
            bits = spw_swap(&self.board.bits[word], 0)
            while bits:
                bit = _lowest_bit(bits)
                bits &= bits - 1
                found.append(word * 64 + bit)
        return found

    cpdef bint rearm(self) noexcept:
        """Say that the I/O process is about to sleep. True: somebody rang meanwhile, collect again first."""
        spw_put32(&self.board.io_waits, 1)
        spw_fence()
        if self.rung():
            self.awake()
            return True
        return False

    cdef bint rung(self) noexcept:
        """Whether there is something to collect."""
        cdef int word
        for word in range(SPW_CONTEXTS // 64):
            if spw_peek(&self.board.bits[word]) != 0:
                return True
        return False

    cdef void awake(self) noexcept:
        """It does not sleep, and nobody has to ring."""
        spw_swap32(&self.board.io_waits, 0)

    @property
    def rung_from(self):
        """The processor from which the I/O process was woken last; -1: unknown."""
        return <int>spw_load32(&self.board.rung_from) - 1

    def ring(self, uint32_t index, int io_bell):
        """Have the I/O process look at context `index`."""
        _ring_board(self.board, index % SPW_CONTEXTS, io_bell)


cdef extern from *:
    """
    #ifdef __linux__
    #include <fcntl.h>
    #include <linux/falloc.h>
    extern int fallocate(int, int, off_t, off_t);
    static void spw_punch(int fd, long long at, long long length) {
        (void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length);
    }
    #else
    static void spw_punch(int fd, long long at, long long length) { (void)fd; (void)at; (void)length; }
    #endif
    #define spw_lowest_bit(x) __builtin_ctzll(x)
    """
    void _punch "spw_punch" (int fd, long long at, long long length) nogil
    int _lowest_bit "spw_lowest_bit" (uint64_t bits) nogil


cdef inline void _ring_board(spw_board *board, uint32_t index, int io_bell) noexcept nogil:
    spw_or(&board.bits[index // 64], <uint64_t>1 << (index % 64))
    spw_fence()
    if spw_load32(&board.io_waits) and spw_swap32(&board.io_waits, 0):
        spw_put32(&board.rung_from, spw_processor())
        _ring_bell(io_bell)


cdef int _check_index(uint32_t index) except -1:
    if index >= SPW_CONTEXTS:
        raise BadValueError(f"a socket has at most {SPW_CONTEXTS} contexts; there is no number {index}")
    return 0


# no_gc_clear, here and below: the garbage collector must leave the references of what it frees alone, for __dealloc__
# follows them into shared memory. The one cycle among these objects (a consumer's list of records) ends at the list.
@cython.no_gc_clear
cdef class Segment:
    """The memory of one context: two lanes, mapped while anybody holds on to it."""

    cdef readonly Region region
    cdef readonly uint32_t index
    cdef char *at
    cdef uint64_t offset

    def __cinit__(self, Region region not None, uint32_t index):
        _check_index(index)
        self.region, self.index = region, index
        self.offset = SPW_FIRST_SEGMENT + index * region.segment_size
        cdef void *at = mmap(NULL, region.segment_size, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, self.offset)
        if at == MAP_FAILED:
            raise from_os_error(OSError(errno, os.strerror(errno)), f"map {region.segment_size} bytes for a context")
        self.at = <char *>at

    def __dealloc__(self):
        if self.at != NULL:
            munmap(self.at, self.region.segment_size)

    def silence(self, bint dead=False):
        """Take back all that was delivered and not taken: from here on nobody takes anything of a closed context.

        `dead`: nor does anybody read what was taken, or leased, as the process that did is gone.
        """
        cdef spw_lane lane
        cdef uint32_t slot, state
        cdef uint64_t word
        self.lane(1, &lane)
        for slot in range(min(spw_load32(&lane.control.high_water), <uint32_t>SPW_SLOTS)):
            word = spw_load(&lane.slots[slot].state)
            state = spw_state_of(word)  # CLAIMED: its user was faster, and reads it
            if state == SPW_PUBLISHED or (dead and (state == SPW_CLAIMED or state == SPW_LEASED)):
                spw_cas(&lane.slots[slot].state, word, spw_word(spw_generation_of(word), SPW_FREE))

    def quiet(self):
        """Nothing of it is in use any more: no message on its way out, none being read, no lease."""
        cdef spw_lane lane
        cdef int which
        cdef uint32_t slot, high, state
        for which in range(2):
            self.lane(which, &lane)
            high = min(spw_load32(&lane.control.high_water), <uint32_t>SPW_SLOTS)
            for slot in range(high):
                state = spw_state_of(spw_load(&lane.slots[slot].state))
                if state == SPW_LEASED or state == SPW_CLAIMED or (which == 0 and state == SPW_PUBLISHED):
                    return False
        return True

    cdef void lane(self, int which, spw_lane *lane) noexcept:
        cdef uint64_t begin = which * spw_lane_size(self.region.arena)
        cdef char *at = self.at + begin
        lane.control = <spw_control *>at
        lane.index = <uint64_t *>(at + SPW_CONTROL_SIZE)
        lane.slots = <spw_slot *>(at + SPW_CONTROL_SIZE + SPW_INDEX_SIZE)
        lane.arena_at = self.offset + begin + SPW_CONTROL_SIZE + SPW_INDEX_SIZE + SPW_TABLE_SIZE
        lane.arena_size = self.region.arena
        lane.extent_at = self.region.extents + (2 * self.index + which) * SPW_EXTENT_ROOM
        lane.extent_size = SPW_EXTENT_ROOM
        lane.region = self.at
        lane.crowded = 0

    cdef inline char *address(self, uint64_t offset) noexcept:
        return self.at + (offset - self.offset)
