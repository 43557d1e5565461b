# The I/O process's wait for what is hot: a socket's bell and its pipes. Everything else is the event loop's business.

cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/epoll.h>
    #define SPW_EPOLL 1
    #else
    /* Only so that it compiles: without epoll there is no Poller to be had. */
    #define SPW_EPOLL 0
    typedef union { int fd; uint64_t u64; } epoll_data_t;
    struct epoll_event { uint32_t events; epoll_data_t data; };
    enum { EPOLLIN = 1, EPOLLOUT = 4, EPOLLERR = 8, EPOLLHUP = 16, EPOLLET = 1 << 30 };
    enum { EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3 };
    static int epoll_ctl(int a, int b, int c, struct epoll_event *e) { (void)a, (void)b, (void)c, (void)e; return -1; }
    static int epoll_wait(int a, struct epoll_event *e, int b, int c) { (void)a, (void)e, (void)b, (void)c; return -1; }
    #endif
    #if defined(__x86_64__) || defined(__i386__)
    #define spw_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__) || defined(__arm__)
    #define spw_pause() __asm__ __volatile__("yield")
    #else
    #define spw_pause() __asm__ __volatile__("" ::: "memory")
    #endif
    """
    void spw_pause() nogil
    union epoll_data_t:
        int fd
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event) nogil
    int epoll_wait(int epfd, epoll_event *events, int room, int milliseconds) nogil
    enum: SPW_EPOLL
    enum: EPOLL_CTL_ADD
    enum: EPOLL_CTL_DEL
    enum: EPOLL_CTL_MOD
    uint32_t _EPOLLIN "EPOLLIN"
    uint32_t _EPOLLOUT "EPOLLOUT"
    uint32_t _EPOLLERR "EPOLLERR"
    uint32_t _EPOLLHUP "EPOLLHUP"
    uint32_t _EPOLLET "EPOLLET"

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    ctypedef struct PyInterpreterState:
        pass
    PyInterpreterState *PyInterpreterState_Get() nogil
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *interpreter) nogil
    PyThreadState *PyThreadState_Next(PyThreadState *state) nogil


cdef bint _alone() noexcept:
    """Whether this is the process' only thread: nobody else wants the GIL."""
    return PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get())) == NULL


READABLE = 1
WRITABLE = 4
HANGUP = 0x2000  # the peer sends nothing more: told only where it is asked for, without reading what came before
BROKEN = 8 | 16  # an error, or the end in both directions: read until there is nothing more
POLLER = bool(SPW_EPOLL)

cdef enum:
    _BESIDE = 1
    AT_ONCE = 64  # events taken from the kernel in one call
    LOOKS = 16  # at the board, for each one at the kernel, about a microsecond
    SELDOM = 64  # waits after which it is asked again how to be among others
    FORGOTTEN = 50  # milliseconds of sleep after which it does not matter any more how it was
    RANG = -2  # what a wait says when it is the board that has something
    SPARED_MOST = 6  # 2 ** 6 - 1 waits are not watched after so many that were in vain

BESIDE = _BESIDE  # how we are among others: on the processor of the user's process
DEFERRING = 2  # making way for whoever runs when we are woken

cdef double OFTEN = 25e-3  # seconds after which it is asked while we are in some manner
cdef double WATCHED = 25e-6  # seconds: what a wake-up costs, and what a reply takes that is worth watching for
cdef double HELD_UP = 15e-6  # two looks are that far apart only if somebody else needed the processor
cdef double OTHERS = 60e-6  # who needs the processor for longer does not work on our request alone
cdef double AWAITED = 300e-6  # seconds for which it watches where an answer is awaited, and gives way to others meanwhile
cdef double CROWDED = 1e-3  # who gave way gets the processor back that late only if somebody makes use of all of it
cdef double CROWDED_FOR = 20e-3  # seconds for which it does not watch then; twice as many the next time
cdef double CROWDED_MOST = 1.0


cdef struct hot:
    PyObject *call
    PyObject *about
    uint32_t events  # what epoll was told; 0: it does not know the descriptor


cdef struct experience:
    int in_vain  # watches in a row
    int spared  # waits that are not watched


cdef class Poller:
    """Waits on an epoll descriptor that an event loop has too, and calls for hot descriptors at once, itself.

    `epfd`: the loop's epoll descriptor, which stays the loop's. Not for descriptors that the loop watches as well.
    `failed`: called with what a handler raises.

    Before it sleeps it *watches* for a moment, where that has paid: a process that is woken costs more than that, and
    nobody has to ring for one that is awake. What a wait is likely to bring depends on what was done last (answers from
    the user's process come sooner than those from the network), so it remembers how watching went after each of the two;
    it spares ever more waits while nothing comes of it, and nearly all of them where others need the processors.

    Where messages are requests and answers it is *patient*: it watches for as long as the way there and back takes, and
    lets others run before each look, since what it awaits may be the work of one that wants this very processor. Who
    answers has all of the askers' requests to come, and goes on; who *asks* may be one of many, who would pass the
    processor around among themselves: it sleeps as soon as others have made use of it for some time.
    """

    cdef int epfd
    cdef object failed
    cdef hot *table
    cdef int room
    cdef public bint stirred  # the loop has something to do: `poll` returns
    cdef Region board
    cdef int bell
    cdef object look
    cdef Courier courier
    cdef object conduct
    cdef int manner  # BESIDE, DEFERRING, both or 0
    cdef int since  # `conduct` was asked, waits
    cdef double ask_at
    cdef bint watching  # whether it is to watch at all
    cdef bint patient
    cdef bint asks
    cdef double crowded_until, crowded_for
    cdef bint served  # something was, since the last sleep
    cdef experience *last  # with what was served last
    cdef experience of_board
    cdef experience of_pipes
    cdef readonly uint64_t sleeps
    cdef readonly uint64_t watches
    cdef readonly uint64_t seen

    def __cinit__(self, int epfd, failed):
        if not SPW_EPOLL:
            raise OSError(ENOSYS, "this system has no epoll")
        self.epfd, self.failed, self.bell = epfd, failed, -1
        self.last = &self.of_board
        self.crowded_for = CROWDED_FOR

    def __dealloc__(self):
        cdef int fd
        for fd in range(self.room):
            Py_XDECREF(self.table[fd].call)
            Py_XDECREF(self.table[fd].about)
        free(self.table)

    def attend(self, Region board, int bell, look, str exchange="", bint watching=True):
        """Call `look()` when a context has rung at this board, whose bell is `bell`.

        `watching`: before sleeping, watch for a moment; `exchange`: for longer, as one that "asks" or "answers". The
        board's flag is set only while this sleeps.
        """
        cdef epoll_event event
        cdef int why
        event.events, event.data.u64 = _EPOLLIN | _EPOLLET, 0  # each ring is told once: nobody has to silence it
        event.data.fd = bell
        if epoll_ctl(self.epfd, EPOLL_CTL_ADD, bell, &event) < 0:
            why = errno
            raise OSError(why, os.strerror(why))
        self.board, self.bell, self.look = board, bell, look
        self.patient = exchange != ""
        self.asks = exchange == "asks"
        self.watching = watching and len(os.sched_getaffinity(0)) > 1

    def employ(self, Courier courier not None):
        """Have this one look at the board, and read from his pipe, first: what he sees to needs no call."""
        self.courier = courier

    def behave(self, conduct not None):
        """Have `conduct(processor, idle)` say now and then how we are among others: BESIDE, DEFERRING, both or 0.

        `processor`: from where the board was rung, -1 if it never was. `idle`: nothing has come for a while. While we
        are beside the user there is no watching: it would keep him from the processor.
        """
        self.conduct, self.since = conduct, 0

    def watch(self, int fd, uint32_t events, call, about):
        """Call `call(about, events)` when `fd` is READABLE, WRITABLE (whichever is asked for) or BROKEN; 0: not any more.

        HANGUP may be asked for too.
        """
        if fd < 0:
            raise InternalError(f"there is no descriptor {fd} to watch")
        self.grow(fd)
        cdef hot *h = &self.table[fd]
        cdef epoll_event event
        cdef int how
        cdef int why
        if events == 0:
            if h.call != NULL:
                epoll_ctl(self.epfd, EPOLL_CTL_DEL, fd, &event)
                Py_CLEAR(h.call)
                Py_CLEAR(h.about)
                h.events = 0
            return
        if h.call == NULL or h.events != events:
            event.events, event.data.u64 = events, 0
            event.data.fd = fd
            how = EPOLL_CTL_ADD if h.call == NULL else EPOLL_CTL_MOD
            if epoll_ctl(self.epfd, how, fd, &event) < 0:
                why = errno
                raise OSError(why, os.strerror(why))
            h.events = events
        Py_INCREF(call)
        Py_INCREF(about)
        Py_XDECREF(h.call)
        Py_XDECREF(h.about)
        h.call, h.about = <PyObject *>call, <PyObject *>about

    cdef int grow(self, int fd) except -1:
        cdef hot *table
        cdef int room = self.room
        if fd < room:
            return 0
        room = max(2 * room, fd + 1, 64)
        table = <hot *>realloc(self.table, room * sizeof(hot))
        if table == NULL:
            raise MemoryError()
        memset(table + self.room, 0, (room - self.room) * sizeof(hot))
        self.table, self.room = table, room
        return 0

    def poll(self, double timeout):
        """Wait, and serve the board and hot descriptors, for `timeout` seconds at most (negative: for ever).

        Returns the other ones that are ready, as a list of (fd, events), as soon as there are any; an empty one when
        the time is over, a signal has come, or the loop was stirred: something was left for it to do.
        """
        cdef epoll_event[AT_ONCE] events
        cdef int i, got, why, milliseconds
        cdef double deadline = _now() + timeout if timeout > 0 else 0.0
        cdef list cold = []
        self.stirred = False
        while True:
            if self.board is not None and self.board.rung():
                self.hear()
            if timeout == 0 or self.stirred:
                milliseconds = 0
            elif timeout < 0:
                milliseconds = -1
            else:
                milliseconds = <int>min(max(deadline - _now(), 0.0) * 1000 + 1, 1e9)
            got = self.wait(events, milliseconds)
            if got < 0 and got != RANG:
                why = errno
                if why != EINTR:
                    raise OSError(why, os.strerror(why))
                PyErr_CheckSignals()
                return cold
            for i in range(got):
                self.serve(events[i].data.fd, events[i].events, cold)
            if cold or self.stirred or timeout == 0 or (timeout > 0 and _now() >= deadline):
                return cold

    cdef int wait(self, epoll_event *events, int milliseconds) noexcept:
        """What the kernel has, or RANG."""
        cdef int got
        if self.board is None or milliseconds == 0:
            return self.sleep(events, milliseconds)
        if self.conduct is not None:
            self.since += 1
            if _now() >= self.ask_at if self.manner else self.since >= SELDOM:
                self.ask(False)
        if self.worth_watching():
            got = self.watched(events)
            if got != 0:
                return got
        self.served = False
        if self.board.rearm():
            got = self.sleep(events, 0)  # a board that is never silent must not keep it from the pipes
            return got if got != 0 else RANG
        self.sleeps += 1
        if self.manner and not 0 <= milliseconds <= FORGOTTEN:
            got = self.sleep(events, FORGOTTEN)
            if got == 0:
                self.ask(True)
                got = self.sleep(events, milliseconds if milliseconds < 0 else milliseconds - FORGOTTEN)
        else:
            got = self.sleep(events, milliseconds)
        self.board.awake()
        return got

    cdef void ask(self, bint idle) noexcept:
        self.since = 0
        try:
            self.manner = self.conduct(self.board.rung_from, idle)
        except Exception as error:
            self.conduct, self.manner = None, 0
            self.failed(error)
        if self.manner:
            self.ask_at = _now() + OFTEN

    cdef int sleep(self, epoll_event *events, int milliseconds) noexcept:
        cdef int got
        if _alone():  # as it is but while a name is looked up; letting go of the GIL costs as much as the rest
            return epoll_wait(self.epfd, events, AT_ONCE, milliseconds)
        with nogil:
            got = epoll_wait(self.epfd, events, AT_ONCE, milliseconds)
        return got

    cdef bint worth_watching(self) noexcept:
        if not (self.watching and self.served) or self.manner & _BESIDE:
            return False
        if self.crowded_until > 0.0:
            if _now() < self.crowded_until:
                return False
            self.crowded_until = 0.0
        if self.last.spared > 0:
            self.last.spared -= 1
            return False
        return _alone()  # else it would have the GIL for itself

    cdef int watched(self, epoll_event *events) noexcept:
        """Watch for a moment. 0: in vain."""
        cdef double begin = _now()
        cdef double before, now = begin
        cdef double most = AWAITED if self.patient else WATCHED
        cdef int got, i
        cdef experience *had = self.last
        self.watches += 1
        while True:
            got = epoll_wait(self.epfd, events, AT_ONCE, 0)
            if got != 0:
                break
            for i in range(LOOKS):
                if self.board.rung():
                    got = RANG
                    break
                spw_pause()
            if got != 0:
                break
            if self.patient:
                sched_yield()
            before, now = now, _now()
            if self.patient and now - before > CROWDED:
                self.crowded_until = now + self.crowded_for
                self.crowded_for = min(2 * self.crowded_for, CROWDED_MOST)
            elif not self.patient and now - before > HELD_UP:
                had.in_vain = SPARED_MOST
            elif self.manner and now - before < HELD_UP:
                return 0  # whoever else runs is at another processor; he may come here
            elif now - begin > most or (self.asks and now - before > OTHERS):
                had.in_vain = min(had.in_vain + 1, SPARED_MOST)
            else:
                continue
            had.spared = (1 << had.in_vain) - 1
            return 0
        self.seen += 1
        had.in_vain = 0
        if now != begin:  # it gave way, and was back in time
            self.crowded_for = CROWDED_FOR
        return got

    cdef int hear(self) except -1:
        self.last, self.served = &self.of_board, True
        try:
            if self.courier is None or not self.courier.hear():
                self.look()
        except Exception as error:
            self.failed(error)
        return 0

    cdef int serve(self, int fd, uint32_t events, list cold) except -1:
        cdef hot *h
        if fd == self.bell:
            return 0  # the board is looked at before every wait
        if fd >= self.room or self.table[fd].call == NULL:
            cold.append((fd, events))
            return 0
        h = &self.table[fd]
        call, about = <object>h.call, <object>h.about  # it may be forgotten meanwhile
        self.last, self.served = &self.of_pipes, True
        try:
            if self.courier is not None and fd == self.courier.fd and events == _EPOLLIN and self.courier.fetch():
                return 0
            call(about, events)
        except Exception as error:  # the others of this batch will be served none the less
            self.failed(error)
        return 0
