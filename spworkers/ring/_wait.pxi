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
    void spw_let_signals(spw_mask *mask) nogil
    int spw_poll_letting(pollfd *fds, unsigned long count, int milliseconds, spw_mask *mask) nogil

from libc.math cimport isinf

import threading

cdef enum:
    SHORT = 2  # milliseconds: answers come within it, and a wait that is over needs no care for signals


cdef double _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef int _poll_two(int fd, int other, double deadline, bint forever) except -1:
    """Wait for two descriptors. 0: the deadline has passed; 1: the first is readable; 2: the second.

    A signal that comes between the last look for signals and the poll does not interrupt that: its handler (Ctrl-C's)
    would run when the wait is over, perhaps never. So a wait that gets long looks again with all signals held back, and
    the kernel lets them through in the same moment in which it begins to wait.
    """
    cdef double left
    cdef int milliseconds, got, why
    cdef bint first = True, careful = False
    cdef spw_mask mask
    cdef pollfd[2] both
    both[0].fd, both[0].events, both[0].revents = fd, POLLIN, 0
    both[1].fd, both[1].events, both[1].revents = other, POLLIN, 0
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
                got = poll(both, 1 if other < 0 else 2, milliseconds)
                why = errno
        else:
            spw_hold_signals(&mask)
            try:
                PyErr_CheckSignals()
                with nogil:
                    got = spw_poll_letting(both, 1 if other < 0 else 2, milliseconds, &mask)
                    why = errno
            finally:
                spw_let_signals(&mask)
        if got > 0:
            return 1 if both[0].revents else 2
        if got == 0 and not forever and (milliseconds == 0 or _now() >= deadline):
            return 0
        if got == 0 and first:
            careful = threading.get_ident() == threading.main_thread().ident  # where handlers run
            first = False
            PyErr_CheckSignals()
        if got < 0:
            if why != EINTR:
                raise OSError(why, os.strerror(why))
            PyErr_CheckSignals()


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
    cdef int fd
    path = b""
    if not sys.platform.startswith("linux"):
        import tempfile
        path = os.fsencode(tempfile.mktemp(prefix="spw"))
    fd = _make_bell(path)
    if fd < 0:
        raise OSError(errno, "cannot make a doorbell: " + os.strerror(errno))
    return fd


def ring_bell(int fd):
    """Make a doorbell readable."""
    _ring_bell(fd)


def hush_bell(int fd):
    """Make a doorbell unreadable."""
    _hush_bell(fd)
