# The signals that a thread lets through, as somebody else's code may have changed it.

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    int pthread_sigmask(int how, const sigset_t *mask, sigset_t *former)
    enum: SIG_BLOCK
    enum: SIG_SETMASK

cdef extern from "string.h" nogil:
    int memcmp(const void *one, const void *other, size_t length)


cdef class SignalMask:
    """The signals that are blocked in this thread now, to be brought back when foreign code has run."""

    cdef sigset_t mask

    def __cinit__(self):
        memset(&self.mask, 0, sizeof(sigset_t))
        pthread_sigmask(SIG_BLOCK, NULL, &self.mask)

    def restore(self):
        """Block these, and no others, in this thread."""
        cdef sigset_t mask
        memset(&mask, 0, sizeof(sigset_t))
        pthread_sigmask(SIG_BLOCK, NULL, &mask)
        if memcmp(&mask, &self.mask, sizeof(sigset_t)):
            pthread_sigmask(SIG_SETMASK, &self.mask, NULL)
