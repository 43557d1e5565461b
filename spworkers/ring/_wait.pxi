cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)
    enum: POLLIN

cdef extern from *:
    """
    #include <poll.h>
    #include <pthread.h>
    #include <signal.h>
    typedef struct { sigset_t before; } spw_mask;
    static void spw_hold_signals(spw_mask *mask) {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &mask->before);
    }
    #include <fcntl.h>
    #include <unistd.h>
    /* A pipe that never blocks, both ends of it. */
    static int spw_ear(int fds[2]) {
        if (pipe(fds) < 0) return -1;
        for (int i = 0; i < 2; i++) {
            fcntl(fds[i], F_SETFL, O_NONBLOCK);
            fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        }
        return 0;
    }
    static void spw_let_signals(spw_mask *mask) { pthread_sigmask(SIG_SETMASK, &mask->before, NULL); }
    #ifdef __linux__
    extern int ppoll(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
    static int spw_poll_letting(struct pollfd *fds, unsigned long count, int milliseconds, spw_mask *mask) {
        struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        return ppoll(fds, count, milliseconds < 0 ? NULL : &time, &mask->before);
    }
    #else
    /* No ppoll: a signal may come just before, and is looked for again a little later. */
    static int spw_poll_letting(struct pollfd *fds, unsigned long count, int milliseconds, spw_mask *mask) {
        spw_let_signals(mask);
        return poll(fds, count, milliseconds < 0 || milliseconds > 100 ? 100 : milliseconds);
    }
    #endif
    """
    ctypedef struct spw_mask:
        pass
    void spw_hold_signals(spw_mask *mask) nogil
    int spw_ear(int fds[2]) nogil
    void spw_let_signals(spw_mask *mask) nogil
    int spw_poll_letting(pollfd *fds, unsigned long count, int milliseconds, spw_mask *mask) nogil

from libc.math cimport isinf

import signal
import threading

cdef enum:
    SHORT = 20  # milliseconds: answers come within it, and a wait that is over needs no care for signals


cdef int[2] _ear  # what the interpreter's signal handler writes to while the main thread waits; a process has its own
cdef int _ear_pid = 0


cdef int _listen_for_signals(int *before) except -2:
    """Have whatever thread takes a signal say so. Returns the descriptor that tells; -1: somebody else listens."""
    global _ear_pid
    if _ear_pid != getpid():
        if _ear_pid != 0:
            before[0] = signal.set_wakeup_fd(-1)
            if before[0] != -1 and before[0] != _ear[1]:  # not ours from a wait in whose middle this process was forked
                signal.set_wakeup_fd(before[0])
            close(_ear[0])
            close(_ear[1])
        _ear_pid = 0
        if spw_ear(_ear) < 0:
            return -1
        _ear_pid = getpid()
    before[0] = signal.set_wakeup_fd(_ear[1], warn_on_full_buffer=False)
    if before[0] == -1 or before[0] == _ear[1]:  # nobody; or we, outside of the handler that waits here
        return _ear[0]
    signal.set_wakeup_fd(before[0])  # an event loop's
    return -1


cdef int _listen_no_more(int before) except -1:
    cdef char[64] told
    while _ear_pid == getpid() and read(_ear[0], told, 64) > 0:
        pass
    signal.set_wakeup_fd(before, warn_on_full_buffer=False)
    return 0


cdef double _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef extern from *:
    """
    /* Waits that this thread has begun. */
    static _Thread_local unsigned long spw_waits;
    static inline void spw_begin_wait(void) { spw_waits++; }
    """
    const unsigned long spw_waits
    void spw_begin_wait()


cdef int _run_handlers() except -1:
    """Run the handlers of the signals that have come. 1: one of them has waited, or a finalizer has, in this thread.

    Raises ForkedError in a child that one of them has forked and not ended: it came back into its parent's wait, and what
    is waited for is there once.
    """
    cdef int pid = getpid()
    cdef unsigned long waits = spw_waits
    PyErr_CheckSignals()
    if pid != getpid():
        raise ForkedError(f"this process was forked in the middle of a wait of process {pid}: what comes of that is not ours")
    return waits != spw_waits


cdef int _poll_two(int fd, int other, double deadline, bint forever) except -1:
    """Wait for two descriptors. 0: the deadline has passed; 1: the first is readable; 2: the second.

    A signal that comes between the last look for signals and the poll does not interrupt that: its handler (Ctrl-C's)
    would run when the wait is over, perhaps never. And another thread may be the one that takes the signal, which
    interrupts nothing here. So in a wait that gets long the main thread listens to what the interpreter's own handler
    writes, looks again, and only then waits, with all signals held back until the kernel does: handlers run with none held
    back. Where somebody else listens, an event loop say, it looks once more while they are.

    Handlers may wait, too, and on the same bells: what rang for us they may have silenced, and what we wait for taken. So
    after such a handler it is as if the first were readable: look again.
    """
    cdef double left
    cdef int milliseconds, got, why
    cdef bint first = True, careful = False, waited = False
    cdef int ear, before = -1
    cdef unsigned long count = 1 if other < 0 else 2
    cdef spw_mask mask
    cdef pollfd[3] both
    both[0].fd, both[0].events, both[0].revents = fd, POLLIN, 0
    both[1].fd, both[1].events, both[1].revents = other, POLLIN, 0
    spw_begin_wait()
    while True:
        if forever:
            milliseconds = -1
        else:
            left = deadline - _now()
            if left <= 0:
                milliseconds = 0
            elif left > 1e6:
                milliseconds = 1000000000
            else:
                milliseconds = <int>(left * 1000) + 1
        if first or not careful:
            if first and (milliseconds < 0 or milliseconds > SHORT):
                milliseconds = SHORT
            with nogil:
                got = poll(both, count, milliseconds)
                why = errno
        else:
            ear = _listen_for_signals(&before)
            both[count].fd, both[count].events, both[count].revents = ear, POLLIN, 0
            try:
                waited = _run_handlers()
                spw_hold_signals(&mask)
                try:
                    if ear < 0:
                        waited |= _run_handlers()
                    with nogil:
                        got = spw_poll_letting(both, count + (ear >= 0), 0 if waited else milliseconds, &mask)
                        why = errno
                finally:
                    spw_let_signals(&mask)
            finally:
                if ear >= 0:
                    _listen_no_more(before)
            if got > 0 and ear >= 0 and both[count].revents:
                waited |= _run_handlers()
                both[count].revents = 0
                got -= 1
                if got == 0 and not waited:
                    continue
        if waited:
            return 1
        if got > 0:
            return 1 if both[0].revents else 2
        if got == 0 and not forever and (milliseconds == 0 or _now() >= deadline):
            return 0
        if got == 0 and first:
            careful = threading.get_ident() == threading.main_thread().ident  # where handlers run
            first = False
            waited = _run_handlers()
        if got < 0:
            if why != EINTR:
                raise OSError(why, os.strerror(why))
            waited = _run_handlers()
        if waited:
            return 1


def wait_readable(int fd, double timeout, int other=-1):
    """Wait until `fd` or `other` is readable, at most `timeout` seconds (math.inf: for ever).

    Returns 0: the time is over; 1: `fd` is readable; 2: `other` is. Signals are handled at once: a handler that raises
    (Ctrl-C) ends the wait with its exception.
    """
    return _poll_two(fd, other, _now() + timeout, isinf(timeout))


cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/eventfd.h>
    static int spw_make_bell(const char *path) { (void)path; return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
    #else
    #include <fcntl.h>
    #include <sys/socket.h>
    #include <sys/un.h>
    #include <unistd.h>
    /* A datagram socket that is connected to itself: one descriptor, both ends, and it can be handed on. */
    static int spw_make_bell(const char *path) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
        if (fd < 0) return -1;
        strncpy(name.sun_path, path, sizeof name.sun_path - 1);
        int failed = bind(fd, (struct sockaddr *)&name, sizeof name) || connect(fd, (struct sockaddr *)&name, sizeof name)
            || fcntl(fd, F_SETFL, O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC);
        unlink(path);
        if (failed) { int why = errno; close(fd); errno = why; return -1; }
        return fd;
    }
    #endif
    """
    int _make_bell "spw_make_bell" (const char *path) nogil


def make_bell():
    """A doorbell: one descriptor that can be rung and waited on (an eventfd where there is one)."""
    import sys
    path = b""
    if not sys.platform.startswith("linux"):
        import tempfile
        path = os.fsencode(tempfile.mktemp(prefix="spw"))

    def make():
        cdef int made_ = _make_bell(path)
        cdef int why = errno
        if made_ < 0:
            raise OSError(why, "cannot make a doorbell: " + os.strerror(why))
        return made_

    return plenty(made(make, "a doorbell"))


def ring_bell(int fd):
    """Make a doorbell readable."""
    _ring_bell(fd)


def hush_bell(int fd):
    """Make a doorbell unreadable."""
    _hush_bell(fd)


def drop_bell(int fd):
    """Close a doorbell, and keep the GIL meanwhile: nobody sees its holder half gone."""
    close(fd)
