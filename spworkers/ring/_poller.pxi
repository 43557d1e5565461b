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
    """
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
BROKEN = 8 | 16  # an error, or the end in both directions: read until there is nothing more
POLLER = bool(SPW_EPOLL)

cdef enum:
    AT_ONCE = 64  # events taken from the kernel in one call


cdef struct hot:
    PyObject *call
    PyObject *about
    uint32_t events  # what epoll was told; 0: it does not know the descriptor


cdef class Poller:
    """Waits on an epoll descriptor that an event loop has too, and calls for hot descriptors at once, itself.

    `epfd`: the loop's epoll descriptor, which stays the loop's. Not for descriptors that the loop watches as well.
    `failed`: called with what a handler raises.
    """

    cdef int epfd
    cdef object failed
    cdef hot *table
    cdef int room
    cdef readonly bint edges
    cdef public bint stirred  # the loop has something to do: `poll` returns

    def __cinit__(self, int epfd, failed):
        if not SPW_EPOLL:
            raise OSError(ENOSYS, "this system has no epoll")
        self.epfd, self.failed, self.edges = epfd, failed, True

    def __dealloc__(self):
        cdef int fd
        for fd in range(self.room):
            Py_XDECREF(self.table[fd].call)
            Py_XDECREF(self.table[fd].about)
        free(self.table)

    def watch(self, int fd, uint32_t events, call, about, bint edge=False):
        """Call `call(about, events)` when `fd` is READABLE, WRITABLE (whichever is asked for) or BROKEN.

        `events` 0: not any more. `edge`: only when it becomes so, for bells: each ring is told once, nobody has to read it.
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
        if edge:
            events |= _EPOLLET
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
        """Wait, and serve hot descriptors, for `timeout` seconds at most (negative: for ever).

        Returns the other ones that are ready, as a list of (fd, events), as soon as there are any; an empty one when
        the time is over, a signal has come, or the loop was stirred: something was left for it to do.
        """
        cdef epoll_event[AT_ONCE] events
        cdef int i, got, why, milliseconds
        cdef double deadline = 0.0, left
        cdef list cold = []
        if timeout > 0:
            deadline = _now() + timeout
        left = timeout
        while True:
            if timeout < 0:
                milliseconds = -1
            elif left <= 0:
                milliseconds = 0
            else:
                milliseconds = <int>min(left * 1000 + 1, 1e9)
            if _alone():  # as it is but while a name is looked up; letting go of the GIL costs as much as the rest
                got = epoll_wait(self.epfd, events, AT_ONCE, milliseconds)
                why = errno
            else:
                with nogil:
                    got = epoll_wait(self.epfd, events, AT_ONCE, milliseconds)
                    why = errno
            if got < 0:
                if why != EINTR:
                    raise OSError(why, os.strerror(why))
                PyErr_CheckSignals()
                return cold
            self.stirred = False
            for i in range(got):
                self.serve(events[i].data.fd, events[i].events, cold)
            if cold or self.stirred or got == 0:
                return cold
            if timeout >= 0:
                left = deadline - _now() if timeout > 0 else 0.0
                if left <= 0:
                    return cold

    cdef int serve(self, int fd, uint32_t events, list cold) except -1:
        cdef hot *h
        if fd >= self.room or self.table[fd].call == NULL:
            cold.append((fd, events))
            return 0
        h = &self.table[fd]
        call, about = <object>h.call, <object>h.about  # it may be forgotten meanwhile
        try:
            call(about, events)
        except Exception as error:  # the others of this batch, a bell's edge among them, will not be told again
            self.failed(error)
        return 0
